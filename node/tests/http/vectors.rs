//! Searches with vectors that come with documents and queries.

use serde_json::{Value, json};

use crate::client::TestNode;

async fn points() -> TestNode {
    let node = TestNode::start().await;
    let embedders = json!({"embedders": {"given": {"source": "userProvided", "dimensions": 2}}});
    node.succeed("PATCH", "/indexes/points/settings", embedders).await;
    let documents = json!([
        {"id": 1, "name": "north pole", "_vectors": {"given": [0.0, 1.0]}},
        {"id": 2, "name": "east end", "_vectors": {"given": [1.0, 0.0]}},
        {"id": 3, "name": "north east", "_vectors": {"given": [0.7, 0.7]}},
        {"id": 4, "name": "nowhere", "_vectors": {"given": null}},
    ]);
    node.succeed("POST", "/indexes/points/documents", documents).await;
    node
}

fn ids(answer: &Value) -> Vec<i64> {
    let hits = answer["hits"].as_array().expect("hits");
    hits.iter().map(|hit| hit["id"].as_i64().expect("id")).collect()
}

fn query(q: Option<&str>, vector: Value, ratio: f64) -> Value {
    json!({"q": q, "vector": vector, "hybrid": {"embedder": "given", "semanticRatio": ratio}})
}

#[tokio::test]
async fn the_ratio_weighs_words_against_vectors() {
    let node = points().await;
    let semantic = node.search("points", query(Some("east"), json!([0.1, 1.0]), 1.0)).await;
    // Documents without a vector come last.
    assert_eq!(ids(&semantic), [1, 3, 2, 4]);
    assert_eq!(semantic["semanticHitCount"], 4);
    let keyword = node.search("points", query(Some("east"), json!([0.1, 1.0]), 0.0)).await;
    assert_eq!(ids(&keyword), [2, 3]);
    assert!(keyword.get("semanticHitCount").is_none());
    let hybrid = node.search("points", query(Some("east"), json!([0.1, 1.0]), 0.7)).await;
    assert_eq!(ids(&hybrid).len(), 4);
    assert!(hybrid["semanticHitCount"].as_u64() > Some(0), "{hybrid}");
}

#[tokio::test]
async fn vectors_are_shown_only_on_request() {
    let node = points().await;
    let hidden = node.search("points", json!({"q": "pole"})).await;
    assert!(hidden["hits"][0].get("_vectors").is_none());
    let expected = json!({"given": {"embeddings": [[0.0, 1.0]], "regenerate": false}});
    let shown = node.search("points", json!({"q": "pole", "retrieveVectors": true})).await;
    assert_eq!(shown["hits"][0]["_vectors"], expected);
    let document = node.get("/indexes/points/documents/1?retrieveVectors=true").await.body;
    assert_eq!(document["_vectors"], expected);
    let document = node.get("/indexes/points/documents/1").await.body;
    assert_eq!(document, json!({"id": 1, "name": "north pole"}));
}

#[tokio::test]
async fn wrong_vectors_and_embedders_are_refused() {
    let node = points().await;
    let cases = [
        (
            query(None, json!([1.0]), 1.0),
            "invalid_vector_dimensions",
            "Invalid vector dimensions: expected: `2`, found: `1`.",
        ),
        (
            json!({"q": "x", "hybrid": {"embedder": "other"}}),
            "invalid_search_embedder",
            "Cannot find embedder with name `other`.",
        ),
        (
            json!({"q": "x", "vector": [1.0, 1.0]}),
            "missing_search_hybrid",
            "Invalid request: missing `hybrid` parameter when `vector` is present.",
        ),
    ];
    for (query, code, message) in cases {
        let reply = node.json("POST", "/indexes/points/search", query).await;
        assert_eq!(reply.status, 400);
        assert_eq!((&reply.body["code"], &reply.body["message"]), (&json!(code), &json!(message)));
    }
}
