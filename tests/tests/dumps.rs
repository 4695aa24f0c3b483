//! A whole cluster goes into one dump and comes back on another number of nodes, shards and copies; and a dump as
//! Meilisearch writes them is imported.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use http::Method;
use miroir_tests::client::Api;
use miroir_tests::processes::{Cluster, miroir_binary};
use miroir_tests::replicas;
use serde_json::{Value, json};
use tar::{Builder, Header};

const PATIENCE: Duration = Duration::from_secs(90);
const FILMS: usize = 2_500;
const KEY: &str = "6062abda-a5aa-4414-ac91-ecd7944c0f8d";

/// `miroir ctl` on a pod of the cluster.
fn ctl(cluster: &Cluster, arguments: &[&str], file: &Path) -> Output {
    let command = Command::new(miroir_binary().expect("the program"))
        .arg("ctl")
        .args(arguments)
        .arg(file)
        .env("MIROIR_URL", &cluster.ready.url)
        .env("MIROIR_MASTER_KEY", &cluster.ready.master_key)
        .env("MIROIR_ADMIN_KEY", cluster.ready.admin_key.as_deref().unwrap_or_default())
        .output();
    command.expect("the program runs")
}

fn succeeded(output: &Output) -> Value {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"))
}

async fn load(api: &Api) {
    let create = json!({ "uid": "films", "primaryKey": "id" });
    api.apply(Method::POST, "/indexes", Some(&create), PATIENCE).await.expect("an index");
    let settings = json!({
        "filterableAttributes": ["year"], "sortableAttributes": ["year"],
        "synonyms": { "film": ["movie"] }, "pagination": { "maxTotalHits": 500 },
        "embedders": { "given": { "source": "userProvided", "dimensions": 2 } },
    });
    let path = "/indexes/films/settings";
    api.apply(Method::PATCH, path, Some(&settings), PATIENCE).await.expect("settings");
    let films = (0..FILMS).map(|n| {
        json!({ "id": n, "title": format!("Film {n}"), "year": 1900 + n % 100,
            "_vectors": { "given": [n as f64 / 100.0, 1.0] } })
    });
    let films = Value::Array(films.collect());
    let path = "/indexes/films/documents";
    api.apply(Method::POST, path, Some(&films), PATIENCE).await.expect("documents");
    let empty = json!({ "uid": "empty", "primaryKey": null });
    api.apply(Method::POST, "/indexes", Some(&empty), PATIENCE).await.expect("an index");
    let key = json!({ "uid": KEY, "name": "reader", "actions": ["search"], "indexes": ["films"],
        "expiresAt": null });
    api.call(Method::POST, "/keys", Some(&key)).await.expect("a key");
    let webhook = json!({ "url": "http://127.0.0.1:9/told", "headers": { "x-of": "films" } });
    api.call(Method::POST, "/webhooks", Some(&webhook)).await.expect("a webhook");
    let on = json!({ "containsFilter": true });
    api.call(Method::PATCH, "/experimental-features", Some(&on)).await.expect("switched");
}

async fn vectors(api: &Api) -> Value {
    let query = json!({ "filter": "year = 1950", "limit": 100, "retrieveVectors": true });
    let page = api.post("/indexes/films/documents/fetch", &query).await.expect("documents");
    let mut found = page["results"].as_array().cloned().unwrap_or_default();
    found.sort_by_key(|film| film["id"].as_u64());
    Value::Array(found)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_comes_back_from_its_dump_on_other_nodes_and_shards() {
    let directory = tempfile::tempdir().expect("a directory");
    let shape = ["--nodes", "2", "--groups", "1", "--rf", "1", "--shards", "4"];
    let first = Cluster::start(&directory.path().join("first"), &shape).await.expect("a cluster");
    let api = first.api();
    load(&api).await;
    let (settings, films) =
        (api.get("/indexes/films/settings").await, replicas::all_documents(&api, "films").await);
    let with_vectors = vectors(&api).await;
    let file = directory.path().join("all.dump");
    let exported = succeeded(&ctl(&first, &["--json", "export-dump"], &file));
    assert_eq!((&exported["documents"], &exported["indexes"]), (&json!(FILMS), &json!(2)));
    assert_eq!(exported["ofOneMoment"], true);
    let again = ctl(&first, &["export-dump"], &file);
    assert_eq!(again.status.code(), Some(2), "the file is there already");
    let over = ctl(&first, &["import-dump"], &file);
    assert_eq!(over.status.code(), Some(2), "its indexes are there already");
    drop(first);

    let shape = ["--nodes", "3", "--groups", "1", "--rf", "2", "--shards", "9"];
    let second = Cluster::start(&directory.path().join("second"), &shape).await.expect("another");
    let api = second.api();
    succeeded(&ctl(&second, &["--json", "import-dump", "--watch"], &file));
    assert_eq!(replicas::all_documents(&api, "films").await, films);
    assert_eq!(vectors(&api).await, with_vectors);
    let imported = api.get("/indexes/films/settings").await.expect("settings");
    assert_eq!(imported, settings.expect("settings"));
    let empty = api.get("/indexes/empty").await.expect("the empty index");
    assert_eq!(empty["primaryKey"], Value::Null);
    let key = api.get(&format!("/keys/{KEY}")).await.expect("the key");
    assert_eq!((&key["name"], &key["indexes"]), (&json!("reader"), &json!(["films"])));
    let webhooks = api.get("/webhooks").await.expect("webhooks")["results"].clone();
    assert_eq!(webhooks[0]["url"], "http://127.0.0.1:9/told", "{webhooks}");
    assert_eq!(webhooks[0]["headers"], json!({ "x-of": "films" }), "{webhooks}");
    let features = api.get("/experimental-features").await.expect("features");
    assert_eq!((&features["containsFilter"], &features["network"]), (&json!(true), &json!(false)));
    replicas::become_equal(&second.ready.nodes, "films", &films, 2, PATIENCE).await;
    // What is there already is gone on with, not done again.
    let resumed = succeeded(&ctl(&second, &["--json", "import-dump", "--resume"], &file));
    assert_eq!(resumed.as_array().map(Vec::len), Some(1), "{resumed}");
    let webhooks = api.get("/webhooks").await.expect("webhooks")["results"].clone();
    assert_eq!(webhooks.as_array().map(Vec::len), Some(1), "{webhooks}");
    let tasks = api.get("/tasks?types=documentAdditionOrUpdate&limit=1").await.expect("tasks");
    let stats = api.get("/indexes/films/stats").await.expect("stats");
    assert_eq!(stats["numberOfDocuments"], json!(FILMS), "{tasks}");
}

fn dump_of(version: &str, files: &[(&str, String)], to: &Path) {
    let file = std::fs::File::create(to).expect("a file");
    let mut archive = Builder::new(GzEncoder::new(file, Compression::fast()));
    let metadata = json!({
        "dumpVersion": version, "dbVersion": "1.12.3", "dumpDate": "2025-01-16T12:35:35.000Z"
    });
    let metadata = [("./metadata.json", metadata.to_string())];
    for (path, text) in metadata.iter().chain(files) {
        let mut header = Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, path, text.as_bytes()).expect("an entry");
    }
    archive.into_inner().and_then(GzEncoder::finish).expect("an archive");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dump_of_a_server_is_imported_but_for_what_is_not_known() {
    let directory = tempfile::tempdir().expect("a directory");
    let shape = ["--nodes", "1", "--groups", "1", "--rf", "1", "--shards", "4"];
    let cluster = Cluster::start(&directory.path().join("it"), &shape).await.expect("a cluster");
    let metadata = json!({ "uid": "kefir", "primaryKey": "id",
        "createdAt": "2025-01-16T12:35:35.000Z", "updatedAt": "2025-01-16T12:35:35.000Z" });
    let settings = json!({ "displayedAttributes": ["*"], "filterableAttributes": ["surname"],
        "distinctAttribute": null, "embedders": {}, "ofTomorrow": { "on": true } });
    let key = json!({ "name": "reader", "uid": KEY, "actions": ["search"], "indexes": ["*"],
        "expires_at": null, "created_at": "2025-01-16T12:35:35.000Z",
        "updated_at": "2025-01-16T12:35:35.000Z" });
    // Documents may come before the settings.
    let documents = "{\"id\":1,\"surname\":\"kefirounet\",\"_miroir_shard\":\"†\"}\n{\"id\":2,\"surname\":\"tamo\"}\n";
    let files = [
        ("./indexes/kefir/documents.jsonl", documents.to_owned()),
        ("./indexes/kefir/settings.json", settings.to_string()),
        ("./indexes/kefir/metadata.json", metadata.to_string()),
        ("./keys.jsonl", format!("{key}\n")),
        ("./experimental-features.json", json!({ "metrics": true, "network": false }).to_string()),
        (
            "./webhooks.json",
            json!({ "webhooks": { KEY: { "url": "no url", "headers": {} } } }).to_string(),
        ),
        ("./tasks/queue.jsonl", String::new()),
    ];
    let old = directory.path().join("old.dump");
    dump_of("V5", &files, &old);
    let refused = ctl(&cluster, &["import-dump"], &old);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("format V5"));
    let file = directory.path().join("new.dump");
    dump_of("V6", &files, &file);
    let imported = ctl(&cluster, &["--json", "import-dump", "--watch"], &file);
    succeeded(&imported);
    let said = String::from_utf8_lossy(&imported.stderr);
    assert!(said.contains("setting ofTomorrow of kefir is left out"), "{said}");
    assert!(said.contains("feature metrics stays off"), "{said}");
    assert!(said.contains("webhook no url is left out"), "{said}");
    let api = cluster.api();
    let query = json!({ "filter": "surname = kefirounet" });
    let found = api.post("/indexes/kefir/search", &query).await.expect("a search");
    assert_eq!(found["hits"], json!([{ "id": 1, "surname": "kefirounet" }]));
    api.get(&format!("/keys/{KEY}")).await.expect("the key");
}
