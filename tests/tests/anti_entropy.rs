//! Somebody writes to a node behind Miroir's back: comparing replicas finds each document that it did, and puts
//! it right from the replica that nobody touched.

use std::time::Duration;

use http::Method;
use miroir_tests::client::Api;
use miroir_tests::processes::Cluster;
use miroir_tests::replicas;
use serde_json::{Value, json};
use tokio::time::Instant;

const INDEX: &str = "compared";
const DOCUMENTS: usize = 2_000;
const PATIENCE: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(250);

async fn load(api: &Api) {
    let create = json!({ "uid": INDEX, "primaryKey": "id" });
    api.apply(Method::POST, "/indexes", Some(&create), PATIENCE).await.expect("an index");
    let documents = (0..DOCUMENTS).map(|n| json!({ "id": n, "text": format!("document {n}") }));
    let documents = Value::Array(documents.collect());
    let path = format!("/indexes/{INDEX}/documents");
    api.apply(Method::POST, &path, Some(&documents), PATIENCE).await.expect("documents");
}

/// What the node calls the index.
async fn uid_on(node: &Api) -> String {
    let indexes = node.get("/indexes?limit=100").await.expect("the node's indexes");
    let uids = indexes["results"].as_array().cloned().unwrap_or_default();
    let found = uids.iter().filter_map(|index| index["uid"].as_str());
    found.filter(|uid| uid.ends_with(INDEX)).map(str::to_owned).next().expect("the index")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_strangers_do_to_a_node_is_found_and_put_right() {
    let directory = tempfile::tempdir().expect("a directory");
    let arguments = ["--nodes", "2", "--groups", "1", "--rf", "2", "--shards", "8"];
    let cluster = Cluster::start(directory.path(), &arguments).await.expect("a cluster");
    let api = cluster.api();
    load(&api).await;
    let documents = replicas::all_documents(&api, INDEX).await;
    replicas::become_equal(&cluster.ready.nodes, INDEX, &documents, 2, PATIENCE).await;

    // One document is changed, one is written anew, one deleted, and one is made.
    let node = cluster.node_api(&cluster.ready.nodes[0]);
    let path = format!("/indexes/{}/documents", uid_on(&node).await);
    let changes = [
        (Method::PUT, path.clone(), json!([{ "id": 7, "text": "theirs" }])),
        (Method::POST, path.clone(), json!([{ "id": 70, "other": "theirs" }])),
        (Method::POST, format!("{path}/delete-batch"), json!([700])),
        (Method::POST, path.clone(), json!([{ "id": "stranger", "text": "theirs" }])),
    ];
    for (method, path, body) in changes {
        node.apply(method, &path, Some(&body), PATIENCE).await.expect("a stranger's write");
    }
    let changed = node.get(&format!("{path}/7")).await.expect("the changed document");
    assert_eq!(changed["text"], "theirs");

    let admin = Api::new(&cluster.ready.url, cluster.ready.admin_key.as_deref());
    admin.call(Method::POST, "/_miroir/anti-entropy", None).await.expect("an order");
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = admin.get("/_miroir/anti-entropy").await.expect("what was found");
        let pod = &found["pods"][0];
        if pod["repaired"] == 4 && !pod["lastRoundAt"].is_null() {
            let differences = pod["differences"].as_array().cloned().unwrap_or_default();
            let wrong = cluster.ready.nodes[0].id.as_str();
            assert!(!differences.is_empty());
            for difference in &differences {
                assert_eq!(difference["index"], INDEX);
                assert_eq!(difference["wrong"], json!([wrong]), "{difference}");
                assert_eq!(difference["undecided"], 0, "{difference}");
            }
            break;
        }
        assert!(Instant::now() < deadline, "not everything is found and put right: {found}");
        tokio::time::sleep(POLL).await;
    }
    // Every copy is what it was, and the stranger's document is gone.
    replicas::become_equal(&cluster.ready.nodes, INDEX, &documents, 2, PATIENCE).await;

    // Somebody deletes the whole index from a node: its replica is made anew.
    let whole = path.trim_end_matches("/documents").to_owned();
    node.apply(Method::DELETE, &whole, None, PATIENCE).await.expect("a stranger's deletion");
    admin.call(Method::POST, "/_miroir/anti-entropy", None).await.expect("an order");
    let deadline = Instant::now() + PATIENCE;
    while node.get(&whole).await.is_err() {
        assert!(Instant::now() < deadline, "the replica stays away");
        tokio::time::sleep(POLL).await;
    }
    replicas::become_equal(&cluster.ready.nodes, INDEX, &documents, 2, PATIENCE).await;

    // Another round finds nothing.
    admin.call(Method::POST, "/_miroir/anti-entropy", None).await.expect("an order");
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = admin.get("/_miroir/anti-entropy").await.expect("what was found");
        if found["pods"][0]["differences"] == json!([]) {
            break;
        }
        assert!(Instant::now() < deadline, "differences stay: {found}");
        tokio::time::sleep(POLL).await;
    }
}
