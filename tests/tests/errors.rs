//! Bad requests get the same refusal from a node and from Miroir: status, code, type,
//! message and link; and bad writes that are accepted end as tasks with the same error.
//!
//! What both refuse is `docs/errors.md`: `MIROIR_WRITE_DOCS=1` rewrites it.
//!
//! With `MIROIR_ERRORS_NODE` and `MIROIR_ERRORS_MIROIR` (base URLs) and `MIROIR_ERRORS_NODE_KEY`
//! and `MIROIR_ERRORS_MIROIR_KEY`, servers that are running already are compared: say, a real
//! Meilisearch and Miroir in front of others of its version. All their indexes are deleted; run
//! one test at a time then.

mod error_table;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use error_table::{Failing, Key, Refused, failing_tasks, failing_vectors, good_vectors, refused};
use http::Method;
use miroir_tests::client::Api;
use miroir_tests::processes::{Cluster, NodeProcess};
use miroir_wire::error::Code;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PATIENCE: Duration = Duration::from_secs(60);

/// One side of the comparison.
struct Side {
    api: Api,
    key: String,
}

/// A node and a cluster, both with the index `films`.
struct Pair {
    node: Side,
    miroir: Side,
    /// What was started for this test, if anything.
    started: Option<(tempfile::TempDir, NodeProcess, Cluster)>,
}

impl Pair {
    async fn start() -> Self {
        let pair = match (Self::running("NODE"), Self::running("MIROIR")) {
            (Some(node), Some(miroir)) => {
                for side in [&node, &miroir] {
                    delete_all(&side.api).await;
                }
                Self { node, miroir, started: None }
            }
            _ => Self::start_both().await,
        };
        for api in pair.apis() {
            prepare(&api).await;
        }
        pair
    }

    /// The server that the environment names.
    fn running(side: &str) -> Option<Side> {
        let url = std::env::var(format!("MIROIR_ERRORS_{side}")).ok()?;
        let key = std::env::var(format!("MIROIR_ERRORS_{side}_KEY")).unwrap_or_default();
        Some(Side { api: Api::new(&url, Some(&key)), key })
    }

    async fn start_both() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let node = NodeProcess::start(&directory.path().join("node")).await.expect("a node");
        let arguments = ["--nodes", "2", "--groups", "1", "--rf", "1"];
        let cluster = Cluster::start(&directory.path().join("cluster"), &arguments).await;
        let cluster = cluster.expect("a cluster");
        Self {
            node: Side { api: node.api(), key: node.key.clone() },
            miroir: Side { api: cluster.api(), key: cluster.ready.master_key.clone() },
            started: Some((directory, node, cluster)),
        }
    }

    fn apis(&self) -> [Api; 2] {
        [self.node.api.clone(), self.miroir.api.clone()]
    }
}

async fn delete_all(api: &Api) {
    let indexes = api.get("/indexes?limit=1000").await.expect("the indexes");
    for index in indexes["results"].as_array().into_iter().flatten() {
        let path = format!("/indexes/{}", index["uid"].as_str().unwrap_or_default());
        api.apply(Method::DELETE, &path, None, PATIENCE).await.expect("a deletion");
    }
}

async fn prepare(api: &Api) {
    let create = json!({ "uid": "films", "primaryKey": "id" });
    api.apply(Method::POST, "/indexes", Some(&create), PATIENCE).await.expect("an index");
    let settings = json!({
        "filterableAttributes": ["genre", "year", "_geo"],
        "sortableAttributes": ["year", "_geo"],
        "embedders": { "given": { "source": "userProvided", "dimensions": 3 } },
    });
    let path = "/indexes/films/settings";
    api.apply(Method::PATCH, path, Some(&settings), PATIENCE).await.expect("settings");
    let documents = json!([
        { "id": 1, "title": "Metropolis", "genre": "drama", "year": 1927,
          "_vectors": { "given": [0.1, 0.2, 0.3] } },
        { "id": 2, "title": "M", "genre": "crime", "year": 1931, "_geo": { "lat": 52.5, "lng": 13.4 },
          "_vectors": { "given": null } },
        { "id": 3, "title": "Sunrise", "genre": "drama", "year": 1927, "_vectors": { "given": null } },
    ]);
    let path = "/indexes/films/documents";
    api.apply(Method::POST, path, Some(&documents), PATIENCE).await.expect("documents");
}

async fn refusal(api: &Api, request: &Refused) -> (u16, Value) {
    let api = match request.key {
        Key::Right => api.clone(),
        Key::Missing => api.with_key(None),
        Key::Wrong => api.with_key(Some("not-the-key-of-anything")),
    };
    let body = Bytes::from(request.body.clone());
    match api.send(request.method.clone(), &request.path, request.content_type, body).await {
        Ok(answer) => (answer.status, answer.json()),
        Err(fault) => (0, json!(fault.to_string().replace(api.base(), ""))),
    }
}

#[tokio::test]
async fn bad_requests_are_refused_alike() {
    let pair = Pair::start().await;
    let [node, miroir] = pair.apis();
    let mut differing = Vec::new();
    let table = refused();
    let mut found_codes = FoundCodes::default();
    for request in &table {
        let (expected, found) = (refusal(&node, request).await, refusal(&miroir, request).await);
        found_codes.add(request, &found);
        // Successes differ in what is not refused at all; here both must refuse.
        if expected.0 < 400 {
            differing.push(format!("{}: the node accepts it: {}", request.name, expected.1));
        } else if expected != found {
            differing.push(format!(
                "{}:\n    node   {} {}\n    miroir {} {}",
                request.name, expected.0, expected.1, found.0, found.1
            ));
        }
    }
    assert!(
        differing.is_empty(),
        "{} of {} differ\n{}",
        differing.len(),
        table.len(),
        differing.join("\n")
    );
    // Only what is shipped is compared with the page: other servers may know other codes.
    if pair.started.is_some() {
        found_codes.compare_with_page();
    }
}

/// The codes of refusals, each with the first request that got it.
#[derive(Default)]
struct FoundCodes(BTreeMap<String, (u16, String, String, String, usize)>);

impl FoundCodes {
    fn add(&mut self, request: &Refused, (status, body): &(u16, Value)) {
        let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        if text("code").is_empty() {
            return;
        }
        let path = request.path.split('?').next().unwrap_or_default();
        let asked = format!("{} {path}", request.method);
        let first = (*status, text("type"), asked, text("message"), 0);
        self.0.entry(text("code")).or_insert(first).4 += 1;
    }

    fn page(&self) -> String {
        let mut page = String::from(
            "# Error codes\n\nWritten by `tests/tests/errors.rs` (`MIROIR_WRITE_DOCS=1` rewrites it): it sends the same bad requests to an \
             embedded node and to Miroir in front of others, and compares status, code, type, link and message. One request is \
             shown for each code, and how many of the test's requests got it.\n\n\
             | code | status | type | for instance | message | requests |\n|---|---|---|---|---|---|\n",
        );
        for (code, (status, kind, asked, message, count)) in &self.0 {
            let message = message.replace('\n', " ").replace('|', "\\|");
            let mut shown: String = message.chars().take(160).collect();
            if shown.len() < message.len() {
                shown.push('…');
            }
            page.push_str(&format!(
                "| `{code}` | {status} | `{kind}` | `{asked}` | {shown} | {count} |\n"
            ));
        }
        page.push_str(
            "\n## Not provoked by a bad request\n\nCodes of broken disks and full ones, of failing tasks (the same test compares \
             those in the tasks' `error`), of features that need an experimental switch, and of Miroir's own states:\n\n",
        );
        let others: Vec<String> = Code::ALL
            .iter()
            .map(|code| code.name())
            .filter(|name| !self.0.contains_key(*name))
            .map(|name| format!("`{name}`"))
            .collect();
        page.push_str(&others.join(", "));
        page.push_str(".\n");
        page
    }

    fn compare_with_page(&self) {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/errors.md");
        let page = self.page();
        if std::env::var_os("MIROIR_WRITE_DOCS").is_some() {
            std::fs::write(file, page).unwrap_or_else(|error| panic!("{file}: {error}"));
            return;
        }
        let kept = std::fs::read_to_string(file).unwrap_or_default();
        assert!(kept == page, "{file} is stale: run this test with MIROIR_WRITE_DOCS=1");
    }
}

/// How the tasks of `table` end on both, all enqueued before the first is waited for or each on its
/// own; what differs, or does not end as `expected`.
async fn differing_tasks(pair: &Pair, table: &[Failing], at_once: bool, expected: &str) -> String {
    let mut outcomes = Vec::new();
    for api in pair.apis() {
        let mut of_one = Vec::new();
        for write in table {
            let enqueued =
                api.enqueue(write.method.clone(), &write.path, write.body.as_ref()).await;
            if let (Ok(uid), false) = (&enqueued, at_once) {
                let _ended = api.wait_for_task(*uid, PATIENCE).await;
            }
            of_one.push(enqueued);
        }
        let mut ended = Vec::new();
        for enqueued in of_one {
            let task = match enqueued {
                Ok(uid) => api.wait_for_task(uid, PATIENCE).await,
                Err(fault) => Err(fault),
            };
            ended.push(task.map_err(|fault| fault.to_string()).map(|task| {
                // What a success counted is not this comparison's affair.
                let details =
                    if task["status"] == "failed" { &task["details"] } else { &Value::Null };
                json!({ "status": task["status"], "type": task["type"], "error": task["error"],
                        "indexUid": task["indexUid"], "details": details })
            }));
        }
        outcomes.push(ended);
    }
    let mut differing = Vec::new();
    for ((write, node), miroir) in table.iter().zip(&outcomes[0]).zip(&outcomes[1]) {
        if node != miroir || !node.as_ref().is_ok_and(|task| task["status"] == expected) {
            differing.push(format!("{}:\n    node   {node:?}\n    miroir {miroir:?}", write.name));
        }
    }
    if differing.is_empty() {
        return String::new();
    }
    format!("{} of {} differ\n{}", differing.len(), table.len(), differing.join("\n"))
}

#[tokio::test]
async fn bad_writes_end_as_tasks_with_the_same_error() {
    let pair = Pair::start().await;
    let differing = differing_tasks(&pair, &failing_tasks(), false, "failed").await;
    assert!(differing.is_empty(), "{differing}");
}

#[tokio::test]
async fn bad_vectors_fail_the_whole_task_and_good_ones_none() {
    let pair = Pair::start().await;
    let differing = differing_tasks(&pair, &failing_vectors(), false, "failed").await;
    assert!(differing.is_empty(), "{differing}");
    for api in pair.apis() {
        let stats = api.get("/indexes/films/stats").await.expect("stats");
        assert_eq!(stats["numberOfDocuments"], 3, "a failed task left a document");
    }
    let differing = differing_tasks(&pair, &good_vectors(), false, "succeeded").await;
    assert!(differing.is_empty(), "{differing}");
}

/// Tasks that wait together are checked against what those before them make of the index.
#[tokio::test]
async fn good_vectors_that_wait_together_fail_no_task() {
    let pair = Pair::start().await;
    let differing = differing_tasks(&pair, &good_vectors(), true, "succeeded").await;
    assert!(differing.is_empty(), "{differing}");
}

/// Both stop reading above 100 MiB, so the answer must be read while the body is still being
/// sent.
async fn refusal_of_large(api: &Api, key: &str) -> (u16, Value) {
    /// Above the limit of 100 MiB.
    const BODY_BYTES: usize = 105 << 20;
    let address = api.base().trim_start_matches("http://");
    let stream = TcpStream::connect(address).await.expect("a connection");
    let (mut reader, mut writer) = stream.into_split();
    let head = format!(
        "POST /indexes/films/documents HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {key}\r\n\
         Content-Type: application/json\r\nContent-Length: {BODY_BYTES}\r\n\r\n"
    );
    let send = async {
        writer.write_all(head.as_bytes()).await?;
        let block = vec![b' '; 1 << 20];
        for _ in 0..BODY_BYTES / block.len() {
            writer.write_all(&block).await?;
        }
        // Keeps this side open until the answer is there.
        std::future::pending::<std::io::Result<()>>().await
    };
    let mut answer = Vec::new();
    let receive = async {
        let mut block = [0; 4096];
        while let Ok(count) = reader.read(&mut block).await {
            answer.extend_from_slice(&block[..count]);
            if count == 0 || answer.ends_with(b"}") {
                break;
            }
        }
    };
    let both = async {
        tokio::pin!(receive);
        tokio::select! {
            () = &mut receive => {}
            // The server stopped listening; what it said may still be on its way.
            _refused = send => receive.await,
        }
    };
    tokio::time::timeout(PATIENCE, both).await.expect("an answer in time");
    let text = String::from_utf8_lossy(&answer);
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let body = text.find('{').and_then(|at| serde_json::from_str(&text[at..]).ok());
    (status, body.unwrap_or(Value::Null))
}

#[tokio::test]
async fn a_body_above_the_limit_is_refused_alike() {
    let pair = Pair::start().await;
    let [node, miroir] = pair.apis();
    let expected = refusal_of_large(&node, &pair.node.key).await;
    let found = refusal_of_large(&miroir, &pair.miroir.key).await;
    assert_eq!(expected.0, 413, "{}", expected.1);
    assert_eq!(expected, found);
}

/// Miroir's own refusals, which no node has.
#[tokio::test]
async fn reserved_fields_are_refused_and_unknown_to_queries() {
    let directory = tempfile::tempdir().expect("a directory");
    let arguments = ["--nodes", "1", "--groups", "1", "--rf", "1"];
    let cluster = Cluster::start(directory.path(), &arguments).await.expect("a cluster");
    let api = cluster.api();
    prepare(&api).await;
    let send = async |method, path: &str, body: Value| {
        let body = Bytes::from(body.to_string());
        let answer = api.send(method, path, Some("application/json"), body).await;
        let answer = answer.expect("an answer");
        (answer.status, answer.json())
    };
    let document = json!([{ "id": 9, "_miroir_shard": "x" }]);
    let (status, body) = send(Method::POST, "/indexes/films/documents", document).await;
    assert_eq!((status, &body["code"]), (400, &json!("miroir_reserved_field")), "{body}");
    for (query, code) in [
        (json!({ "filter": "_miroir_shard = x" }), "invalid_search_filter"),
        (json!({ "sort": ["_miroir_shard:asc"] }), "invalid_search_sort"),
        (json!({ "facets": ["_miroir_shard"] }), "invalid_search_facets"),
        (json!({ "distinct": "_miroir_shard" }), "invalid_search_distinct"),
    ] {
        let (status, body) = send(Method::POST, "/indexes/films/search", query.clone()).await;
        assert_eq!((status, &body["code"]), (400, &json!(code)), "{query}: {body}");
        let message = body["message"].as_str().unwrap_or_default();
        assert!(!message.contains("attributes are: `_miroir"), "{message}");
        assert!(!message.contains(", _miroir"), "{message}");
    }
    let query = json!({
        "facets": ["*"], "attributesToHighlight": ["*"], "showRankingScoreDetails": true,
        "attributesToRetrieve": ["*", "_miroir_shard"],
    });
    let (status, body) = send(Method::POST, "/indexes/films/search", query).await;
    assert_eq!(status, 200, "{body}");
    assert!(!body.to_string().contains("_miroir"), "{body}");
    for path in ["/indexes/films/settings", "/indexes/films/stats", "/stats", "/indexes"] {
        let body = api.get(path).await.expect("an answer");
        assert!(!body.to_string().contains("_miroir"), "{path}: {body}");
    }
}
