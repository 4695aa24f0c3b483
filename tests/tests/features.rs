//! Experimental features over real pods and nodes: switched once, they hold everywhere.

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use miroir_tests::client::Api;
use miroir_tests::processes::{Cluster, signal};
use rustix::process::Signal;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_of_a_task_are_shown_by_every_pod_until_it_ends() {
    let directory = tempfile::tempdir().expect("a directory");
    let arguments = ["--pods", "3", "--nodes", "1", "--groups", "1", "--shards", "4"];
    let cluster = Cluster::start(directory.path(), &arguments).await.expect("a cluster");
    let api = cluster.api();
    let films = "/indexes/films/documents";
    let first = json!([{ "id": 1 }]);
    let ended = api.apply(Method::POST, films, Some(&first), PATIENCE).await.expect("documents");
    let of = |uid: &Value| format!("/tasks/{uid}/documents");
    let asked = async |api: &Api, path: &str| {
        let answer = api.send(Method::GET, path, None, Bytes::new()).await.expect("an answer");
        (answer.status, String::from_utf8_lossy(&answer.bytes).into_owned())
    };
    let (status, refusal) = asked(&api, &of(&ended["uid"])).await;
    assert!(status == 400 && refusal.contains("get task documents route"), "{refusal}");
    let (status, _) = switch(&api, json!({ "getTaskDocumentsRoute": true })).await;
    assert_eq!(status, 200);

    // As long as the node stands still the task can't end.
    let node = &cluster.ready.nodes[0];
    signal(node.pid, Signal::STOP).expect("it stands");
    let sent = json!([{ "id": 2, "t": "a\nb" }, { "id": 3 }]);
    let uid = json!(api.enqueue(Method::POST, films, Some(&sent)).await.expect("accepted"));
    for pod in &cluster.ready.pods {
        let api = Api::new(&pod.url, Some(&cluster.ready.master_key));
        until("every pod knows the task and the feature", async || {
            asked(&api, &of(&uid)).await.0 == 200
        })
        .await;
        let (_, lines) = asked(&api, &of(&uid)).await;
        let shown: Vec<Value> =
            lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(json!(shown), sent);
    }
    signal(node.pid, Signal::CONT).expect("it goes on");
    let number = uid.as_u64().expect("a uid");
    let task = api.wait_for_task(number, PATIENCE).await.expect("an end");
    assert_eq!(task["status"], "succeeded");
    for (path, code) in [(of(&uid), "task_file_not_found"), (of(&json!(999)), "task_not_found")] {
        let (status, refusal) = asked(&api, &path).await;
        assert!(status == 404 && refusal.contains(code), "{path}: {refusal}");
    }
    cluster.stop().await.expect("stopped");
}
