//! Experimental features over real pods and nodes: switched once, they hold everywhere.

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use miroir_tests::client::Api;
use miroir_tests::processes::Cluster;
use serde_json::{Value, json};
use tokio::time::Instant;

const PATIENCE: Duration = Duration::from_secs(60);
/// Between looks at what must come true soon.
const LOOK: Duration = Duration::from_millis(50);

async fn switch(api: &Api, features: Value) -> (u16, Value) {
    let body = Bytes::from(features.to_string());
    let kind = Some("application/json");
    let answer = api.send(Method::PATCH, "/experimental-features", kind, body).await;
    let answer = answer.expect("an answer");
    (answer.status, answer.json())
}

/// The films whose title contains a text, or the code of the refusal.
async fn containing(api: &Api, text: &str) -> Value {
    let body = json!({ "filter": format!("title CONTAINS '{text}'"), "limit": 100 });
    let body = Bytes::from(body.to_string());
    let kind = Some("application/json");
    let answer = api.send(Method::POST, "/indexes/films/search", kind, body).await;
    let answer = answer.expect("an answer").json();
    match answer["hits"].as_array() {
        Some(hits) => json!(hits.len()),
        None => answer["code"].clone(),
    }
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(LOOK).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_feature_is_switched_on_every_node_also_on_one_that_was_away() {
    let directory = tempfile::tempdir().expect("a directory");
    let arguments = ["--pods", "3", "--nodes", "3", "--shards", "8"];
    let cluster = Cluster::start(directory.path(), &arguments).await.expect("a cluster");
    let api = cluster.api();
    let films: Vec<Value> = (0..60)
        .map(|id| json!({ "id": id, "title": format!("film {} of {id}", if id % 3 == 0 { "noir" } else { "blanc" }) }))
        .collect();
    let settings = json!({ "filterableAttributes": ["title"] });
    api.apply(Method::PATCH, "/indexes/films/settings", Some(&settings), PATIENCE)
        .await
        .expect("settings");
    api.apply(Method::POST, "/indexes/films/documents", Some(&json!(films)), PATIENCE)
        .await
        .expect("documents");

    assert_eq!(containing(&api, "noir").await, "feature_not_enabled");
    let (status, refusal) = switch(&api, json!({ "containsFilter": true, "metrics": true })).await;
    assert_eq!((status, &refusal["code"]), (501, &json!("miroir_not_supported")), "{refusal}");
    let (status, refusal) = switch(&api, json!({ "containsFilter": 1 })).await;
    assert_eq!((status, &refusal["code"]), (400, &json!("bad_request")), "{refusal}");
    assert_eq!(containing(&api, "noir").await, "feature_not_enabled", "nothing was switched");

    let (status, on) = switch(&api, json!({ "containsFilter": true, "network": false })).await;
    assert_eq!((status, &on["containsFilter"], &on["network"]), (200, &json!(true), &json!(false)));
    for pod in &cluster.ready.pods {
        let api = Api::new(&pod.url, Some(&cluster.ready.master_key));
        until("every pod knows", async || {
            api.get("/experimental-features").await.expect("features") == on
        })
        .await;
        assert_eq!(containing(&api, "noir").await, 20);
    }

    // One that is away when it is switched off, and on again.
    let away = &cluster.ready.nodes[1];
    cluster.kill(away).expect("killed");
    let (status, answer) = switch(&api, json!({ "containsFilter": false })).await;
    assert!(
        status == 200 || answer["message"].as_str().is_some_and(|m| m.contains("agreed")),
        "{answer}"
    );
    let node = cluster.node_api(away);
    until("the node comes back and is told", async || {
        let features = node.get("/experimental-features").await;
        features.is_ok_and(|features| features["containsFilter"] == false)
    })
    .await;
    assert_eq!(containing(&api, "noir").await, "feature_not_enabled");

    let (status, _) = switch(&api, json!({ "containsFilter": true })).await;
    assert_eq!(status, 200);
    let body = json!({ "filter": "title CONTAINS noir" });
    let task = api
        .apply(Method::POST, "/indexes/films/documents/delete", Some(&body), PATIENCE)
        .await
        .expect("a deletion");
    assert_eq!(task["details"]["deletedDocuments"], 20, "{task}");
    assert_eq!(containing(&api, "film").await, 40);
    cluster.stop().await.expect("stopped");
}
