//! Documents in and out, indexes, settings and tasks.

use serde_json::json;

use crate::client::TestNode;

#[tokio::test]
async fn every_payload_format_is_read() {
    let node = TestNode::start().await;
    let payloads = [
        ("application/json", "?primaryKey=id", r#"[{"id":1,"name":"a"}]"#),
        ("application/json; charset=utf-8", "", r#"{"id":2,"name":"b"}"#),
        ("application/x-ndjson", "", "{\"id\":3,\"name\":\"c\"}\n{\"id\":4,\"name\":\"d\"}"),
        ("text/csv", "?csvDelimiter=;", "id:number;name\n5;e"),
    ];
    for (content_type, query, payload) in payloads {
        let path = format!("/indexes/many/documents{query}");
        let reply = node.send("POST", &path, &[("content-type", content_type)], payload).await;
        assert_eq!(reply.status, 202, "{content_type}: {}", reply.body);
        assert_eq!(node.ended(&reply.body["taskUid"]).await["status"], "succeeded");
    }
    let page = node.get("/indexes/many/documents?limit=2&offset=3&fields=name").await.body;
    assert_eq!(
        page,
        json!({"results": [{"name": "d"}, {"name": "e"}], "offset": 3, "limit": 2, "total": 5})
    );
}

#[tokio::test]
async fn documents_are_replaced_merged_and_deleted() {
    let node = TestNode::start().await;
    let path = "/indexes/d/documents";
    node.succeed("PATCH", "/indexes/d/settings", json!({"filterableAttributes": ["size"]})).await;
    node.succeed("POST", path, json!([{"id": "a", "size": 1}, {"id": "b", "size": 2}, {"id": "c", "size": 3}, {"id": "d", "size": 4}])).await;
    node.succeed("PUT", path, json!([{"id": "a", "name": "merged"}])).await;
    node.succeed("POST", path, json!([{"id": "b", "name": "replaced"}])).await;
    let get = async |id: &str| node.get(&format!("{path}/{id}")).await.body;
    assert_eq!(get("a").await, json!({"id": "a", "size": 1, "name": "merged"}));
    assert_eq!(get("b").await, json!({"id": "b", "name": "replaced"}));

    let fetched = node
        .json("POST", "/indexes/d/documents/fetch", json!({"filter": "size > 1", "fields": ["id"]}))
        .await
        .body;
    assert_eq!(fetched["results"], json!([{"id": "c"}, {"id": "d"}]));
    let by_ids =
        node.json("POST", "/indexes/d/documents/fetch", json!({"ids": ["d", "zz"]})).await.body;
    assert_eq!(by_ids["total"], 1);

    node.succeed("POST", "/indexes/d/documents/delete", json!({"filter": "size = 4"})).await;
    node.succeed("POST", "/indexes/d/documents/delete-batch", json!(["c", 7])).await;
    node.succeed("DELETE", "/indexes/d/documents/b", json!(null)).await;
    assert_eq!(node.get(path).await.body["total"], 1);
    node.succeed("DELETE", path, json!(null)).await;
    assert_eq!(node.get(path).await.body["total"], 0);
}

#[tokio::test]
async fn indexes_live_through_their_tasks() {
    let node = TestNode::start().await;
    node.succeed("POST", "/indexes", json!({"uid": "one", "primaryKey": "id"})).await;
    node.succeed("POST", "/indexes/two/documents", json!([{"id": 1}])).await;
    let listed = node.get("/indexes?limit=1").await.body;
    assert_eq!((&listed["total"], &listed["results"][0]["uid"]), (&json!(2), &json!("one")));
    node.succeed("POST", "/swap-indexes", json!([{"indexes": ["one", "two"]}])).await;
    assert_eq!(node.get("/indexes/one/stats").await.body["numberOfDocuments"], 1);
    node.succeed("PATCH", "/indexes/two", json!({"primaryKey": "key"})).await;
    assert_eq!(node.get("/indexes/two").await.body["primaryKey"], "key");
    node.succeed("DELETE", "/indexes/two", json!(null)).await;
    assert_eq!(node.get("/indexes/two").await.status, 404);
    assert_eq!(node.get("/stats").await.body["indexes"].as_object().map(|map| map.len()), Some(1));
}

#[tokio::test]
async fn settings_are_written_whole_and_one_by_one() {
    let node = TestNode::start().await;
    node.succeed("PUT", "/indexes/s/settings/stop-words", json!(["the"])).await;
    node.succeed("PATCH", "/indexes/s/settings/pagination", json!({"maxTotalHits": 5})).await;
    node.succeed("PATCH", "/indexes/s/settings", json!({"distinctAttribute": "sku"})).await;
    let all = node.get("/indexes/s/settings").await.body;
    assert_eq!(
        [&all["stopWords"], &all["pagination"]["maxTotalHits"], &all["distinctAttribute"]],
        [&json!(["the"]), &json!(5), &json!("sku")]
    );
    node.succeed("DELETE", "/indexes/s/settings/stop-words", json!(null)).await;
    assert_eq!(node.get("/indexes/s/settings/stop-words").await.body, json!([]));
    node.succeed("DELETE", "/indexes/s/settings", json!(null)).await;
    assert_eq!(node.get("/indexes/s/settings/distinct-attribute").await.body, json!(null));
}

#[tokio::test]
async fn tasks_are_listed_and_forgotten() {
    let node = TestNode::start().await;
    let reply = node
        .json("POST", "/indexes/t/documents?customMetadata=batch%207", json!([{"id": 1}]))
        .await;
    let task = node.ended(&reply.body["taskUid"]).await;
    assert_eq!(task["customMetadata"], "batch 7");
    let failed = node.write("DELETE", "/indexes/nothing", json!(null)).await;
    assert_eq!(failed["error"]["code"], "index_not_found");
    let listed = node.get("/tasks?statuses=failed").await.body;
    assert_eq!((&listed["total"], &listed["results"][0]["uid"]), (&json!(1), &failed["uid"]));
    let reply = node.send("DELETE", "/tasks?statuses=failed", &[], "").await;
    assert_eq!(reply.status, 200);
    assert_eq!(node.ended(&reply.body["taskUid"]).await["details"]["deletedTasks"], 1);
    assert_eq!(node.get(&format!("/tasks/{}", failed["uid"])).await.status, 404);
}
