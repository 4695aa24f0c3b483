//! `POST /indexes/{uid}/documents/edit`, an experimental feature.

use serde_json::{Value, json};

use crate::client::TestNode;

const PATH: &str = "/indexes/e/documents/edit";

async fn switch(node: &TestNode, on: bool) -> Value {
    let patch = json!({"editDocumentsByFunction": on});
    let reply = node.json("PATCH", "/experimental-features", patch).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    reply.body
}

#[tokio::test]
async fn documents_are_edited_once_that_is_switched_on() {
    let node = TestNode::start().await;
    node.succeed("POST", "/indexes/e/documents", json!([{"id": 1, "n": 1}, {"id": 2, "n": 2}]))
        .await;
    let body = json!({"function": "doc.n *= context.by", "context": {"by": 3}});
    let refused = node.json("POST", PATH, body.clone()).await;
    assert_eq!(
        (refused.status.as_u16(), &refused.body["code"], &refused.body["message"]),
        (
            400,
            &json!("feature_not_enabled"),
            &json!(
                "Using the documents edit route requires enabling the `edit documents by function` experimental feature. See https://github.com/orgs/meilisearch/discussions/762"
            )
        )
    );

    node.json("PATCH", "/experimental-features", json!({"containsFilter": true})).await;
    let features = switch(&node, true).await;
    assert_eq!(
        (&features["editDocumentsByFunction"], &features["containsFilter"]),
        (&json!(true), &json!(true))
    );
    let task = node.write("POST", &format!("{PATH}?customMetadata=mine"), body).await;
    assert_eq!(
        (&task["type"], &task["status"], &task["customMetadata"]),
        (&json!("documentEdition"), &json!("succeeded"), &json!("mine"))
    );
    assert_eq!(
        task["details"],
        json!({
            "editedDocuments": 2,
            "deletedDocuments": 2,
            "originalFilter": null,
            "context": {"by": 3},
            "function": "doc.n *= context.by",
        })
    );
    let page = node.get("/indexes/e/documents?fields=n").await.body;
    assert_eq!(page["results"], json!([{"n": 3}, {"n": 6}]));
    let listed = node.get("/tasks?types=documentEdition").await.body;
    assert_eq!((&listed["total"], &listed["results"][0]["uid"]), (&json!(1), &task["uid"]));

    switch(&node, false).await;
    assert_eq!(node.json("POST", PATH, json!({"function": "doc"})).await.status, 400);
}

#[tokio::test]
async fn editions_are_refused_in_meilisearchs_words() {
    let node = TestNode::start().await;
    switch(&node, true).await;
    let cases = [
        (json!({}), "missing_document_edition_function", "Missing field `function`"),
        (
            json!({"function": "doc", "context": [1]}),
            "invalid_document_edition_context",
            "The context must be an object",
        ),
        (
            json!({"function": "doc", "filter": "year ="}),
            "invalid_document_filter",
            "Was expecting a value but instead got nothing.\n7:7 year =",
        ),
        (
            json!({"function": "doc", "filter": ""}),
            "invalid_document_filter",
            "Sending an empty filter is forbidden.",
        ),
        (
            json!({"function": "doc = (", "filter": ""}),
            "bad_request",
            "Script is incomplete (line 1, position 8)",
        ),
    ];
    for (body, code, message) in cases {
        let reply = node.json("POST", PATH, body.clone()).await;
        assert_eq!(reply.status, 400, "{body}");
        assert_eq!(
            (&reply.body["code"], &reply.body["message"]),
            (&json!(code), &json!(message)),
            "{body}"
        );
    }
    let reply =
        node.json("POST", "/indexes/n%20o/documents/edit", json!({"function": "doc"})).await;
    assert_eq!(reply.body["code"], "invalid_index_uid");
    assert_eq!(node.get("/tasks").await.body["total"], 0);
}
