//! API keys and tenant tokens over real pods: made on one, good on the other.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::Method;
use miroir_seams::Clock;
use miroir_tests::client::Api;
use miroir_tests::processes::Cluster;
use ring::hmac;
use serde_json::{Value, json};
use time::format_description::well_known::Rfc3339;
use tokio::time::Instant;

const PATIENCE: Duration = Duration::from_secs(60);
/// Between looks at what must come true soon.
const LOOK: Duration = Duration::from_millis(50);

struct Story {
    _directory: tempfile::TempDir,
    cluster: Cluster,
}

impl Story {
    async fn begin() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let shape = ["--pods", "2", "--nodes", "2", "--groups", "1", "--rf", "1"];
        let cluster = Cluster::start(directory.path(), &shape).await.expect("a cluster");
        let story = Self { _directory: directory, cluster };
        let master = story.master(0);
        for index in ["movies", "books"] {
            let documents: Vec<Value> =
                (0..20).map(|id| json!({"id": id, "title": "word", "user": id % 4})).collect();
            let path = format!("/indexes/{index}/documents");
            apply(&master, Method::POST, &path, &json!(documents)).await;
            let path = format!("/indexes/{index}/settings/filterable-attributes");
            apply(&master, Method::PUT, &path, &json!(["user"])).await;
        }
        story
    }

    /// Pod number `pod`, asked with `key`.
    fn pod(&self, pod: usize, key: &str) -> Api {
        Api::new(&self.cluster.ready.pods[pod].url, Some(key))
    }

    fn master(&self, pod: usize) -> Api {
        self.pod(pod, &self.cluster.ready.master_key)
    }

    /// Makes a key on the first pod; its uid and value.
    async fn key(&self, actions: &[&str], indexes: &[&str], expires_at: Value) -> (String, String) {
        let body = json!({"actions": actions, "indexes": indexes, "expiresAt": expires_at});
        let key = self.master(0).post("/keys", &body).await.expect("a key");
        let text = |name: &str| key[name].as_str().unwrap_or_default().to_owned();
        (text("uid"), text("key"))
    }
}

async fn apply(api: &Api, method: Method, path: &str, body: &Value) {
    let task = api.apply(method, path, Some(body), PATIENCE).await.expect("a task");
    assert_eq!(task["status"], "succeeded", "{task}");
}

/// Status, and the error's code.
async fn ask(api: &Api, method: Method, path: &str, body: &Value) -> (u16, String) {
    let kind = (!body.is_null()).then_some("application/json");
    let bytes = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
    let answer = api.send(method, path, kind, bytes).await.expect("an answer");
    (answer.status, answer.json()["code"].as_str().unwrap_or_default().to_owned())
}

async fn search(api: &Api, index: &str) -> (u16, String) {
    ask(api, Method::POST, &format!("/indexes/{index}/search"), &json!({"q": "word"})).await
}

async fn wait_until_refused(api: &Api) {
    let deadline = Instant::now() + PATIENCE;
    while search(api, "movies").await != (403, "invalid_api_key".to_owned()) {
        assert!(Instant::now() < deadline, "the key is good still");
        tokio::time::sleep(LOOK).await;
    }
}

fn token(claims: &Value, value: &str) -> String {
    let header = json!({"alg": "HS256", "typ": "JWT"}).to_string();
    let signed = [header, claims.to_string()].map(|part| URL_SAFE_NO_PAD.encode(part)).join(".");
    let key = hmac::Key::new(hmac::HMAC_SHA256, value.as_bytes());
    let tag = hmac::sign(&key, signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_made_on_one_pod_open_the_others_and_no_more_than_they_say() {
    let story = Story::begin().await;
    let refused = (403, "invalid_api_key".to_owned());

    // The first keys are the same everywhere.
    let mut seen = Vec::new();
    for pod in 0..2 {
        let keys = story.master(pod).get("/keys").await.expect("keys");
        let names: Vec<&str> = keys["results"]
            .as_array()
            .map(|keys| keys.iter().filter_map(|key| key["name"].as_str()).collect())
            .unwrap_or_default();
        assert_eq!(
            names,
            [
                "Default Search API Key",
                "Default Admin API Key",
                "Default Read-Only Admin API Key",
                "Default Chat API Key"
            ]
        );
        seen.push(keys);
    }
    assert_eq!(seen.first(), seen.last());

    // A new one is good on the other pod at once, for searches and nothing else.
    for _ in 0..5 {
        let (_, value) = story.key(&["search"], &["mov*"], Value::Null).await;
        let other = story.pod(1, &value);
        assert_eq!(search(&other, "movies").await.0, 200);
        assert_eq!(search(&other, "books").await, refused);
        let write =
            ask(&other, Method::POST, "/indexes/movies/documents", &json!([{"id": 1}])).await;
        assert_eq!(write, refused);
        assert_eq!(ask(&other, Method::GET, "/keys", &Value::Null).await, refused);
    }
    let guess = "0".repeat(64);
    assert_eq!(search(&story.pod(1, &guess), "movies").await, refused);

    // What a key limited to an index sees.
    let (uid, value) = story.key(&["*"], &["movies", "new*"], Value::Null).await;
    for pod in 0..2 {
        let api = story.pod(pod, &value);
        let indexes = api.get("/indexes").await.expect("indexes");
        assert_eq!(
            (&indexes["total"], &indexes["results"][0]["uid"]),
            (&json!(1), &json!("movies"))
        );
        let stats = api.get("/stats").await.expect("stats");
        let shown = stats["indexes"].as_object().map(|all| all.keys().cloned().collect::<Vec<_>>());
        assert_eq!(shown, Some(vec!["movies".to_owned()]));
        let tasks = api.get("/tasks?limit=1000").await.expect("tasks");
        let tasks = tasks["results"].as_array().cloned().unwrap_or_default();
        assert!(!tasks.is_empty() && tasks.iter().all(|task| task["indexUid"] == "movies"));
        let swap = json!([{"indexes": ["movies", "books"]}]);
        assert_eq!(ask(&api, Method::POST, "/swap-indexes", &swap).await, refused);
        assert_eq!(ask(&api, Method::POST, "/indexes", &json!({"uid": "other"})).await, refused);
    }
    apply(&story.pod(1, &value), Method::POST, "/indexes/new/documents", &json!([{"id": 1}])).await;

    // Deleted by its value on one pod, it is good nowhere.
    let path = format!("/keys/{value}");
    let gone = ask(&story.master(1), Method::DELETE, &path, &Value::Null).await;
    assert_eq!(gone.0, 204);
    for pod in 0..2 {
        wait_until_refused(&story.pod(pod, &value)).await;
        let asked =
            ask(&story.master(pod), Method::GET, &format!("/keys/{uid}"), &Value::Null).await;
        assert_eq!(asked, (404, "api_key_not_found".to_owned()));
    }

    // Who may not create indexes gets a task that fails.
    let (_, value) =
        story.key(&["documents.add", "settings.update", "tasks.get"], &["*"], Value::Null).await;
    let api = story.pod(1, &value);
    for (method, path, body) in [
        (Method::POST, "/indexes/none/documents", json!([{"id": 1}])),
        (Method::PATCH, "/indexes/none/settings", json!({"stopWords": ["a"]})),
    ] {
        let uid = api.enqueue(method, path, Some(&body)).await.expect("a task");
        let task = api.wait_for_task(uid, PATIENCE).await.expect("its end");
        assert_eq!(
            (&task["status"], &task["error"]["code"], &task["error"]["message"]),
            (&json!("failed"), &json!("index_not_found"), &json!("Index `none` not found."))
        );
    }
    assert_eq!(ask(&story.master(0), Method::GET, "/indexes/none", &Value::Null).await.0, 404);
    apply(&api, Method::POST, "/indexes/movies/documents", &json!([{"id": 21, "user": 9}])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_expire_and_tenants_see_their_own() {
    let story = Story::begin().await;
    let soon = Clock::real().now() + Duration::from_secs(3);
    let soon = soon.format(&Rfc3339).expect("a time");
    let (_, value) = story.key(&["search"], &["*"], json!(soon)).await;
    for pod in 0..2 {
        wait_until_refused(&story.pod(pod, &value)).await;
    }

    let (uid, value) = story.key(&["search"], &["movies"], Value::Null).await;
    let claims = json!({"searchRules": {"*": {"filter": "user = 2"}}, "apiKeyUid": uid});
    let tenant = token(&claims, &value);
    // On the pod that has not heard of the key yet.
    let other = story.pod(1, &tenant);
    let query = json!({"q": "word", "limit": 100, "filter": "user != 3"});
    let answer = other.post("/indexes/movies/search", &query).await.expect("hits");
    let users = |answer: &Value| -> Vec<Value> {
        let hits = answer["hits"].as_array().cloned().unwrap_or_default();
        hits.iter().map(|hit| hit["user"].clone()).collect()
    };
    assert_eq!(users(&answer), vec![json!(2); 5], "{answer}");
    let answer = other.get("/indexes/movies/search?q=word&limit=100").await.expect("hits");
    assert_eq!(users(&answer), vec![json!(2); 5], "{answer}");
    let queries = json!({"queries": [{"indexUid": "movies", "limit": 100}]});
    let answer = other.post("/multi-search", &queries).await.expect("hits");
    assert_eq!(users(&answer["results"][0]), vec![json!(2); 5], "{answer}");
    // Not by its key, not by its route, not any more.
    let refused = (403, "invalid_api_key".to_owned());
    assert_eq!(search(&other, "books").await, refused);
    let documents = ask(&other, Method::GET, "/indexes/movies/documents", &Value::Null).await;
    assert_eq!(documents, refused);
    let old = json!({"searchRules": ["*"], "apiKeyUid": uid, "exp": 1_700_000_000});
    assert_eq!(search(&story.pod(1, &token(&old, &value)), "movies").await, refused);
    assert_eq!(search(&story.pod(0, &token(&claims, "forged")), "movies").await, refused);
    let path = format!("/keys/{uid}");
    assert_eq!(ask(&story.master(0), Method::DELETE, &path, &Value::Null).await.0, 204);
    for pod in 0..2 {
        wait_until_refused(&story.pod(pod, &tenant)).await;
    }
}
