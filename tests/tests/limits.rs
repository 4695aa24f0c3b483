//! What a pod takes at a time: bodies far larger than its memory may grow, and no more requests
//! than it was told.

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use miroir_tests::client::Api;
use miroir_tests::pods::Pod;
use miroir_tests::processes::{Cluster, own_memory};
use rustix::process::Signal;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PATIENCE: Duration = Duration::from_secs(180);
/// More than any part of the way takes whole, bytes.
const BODY_BYTES: usize = 320 << 20;
/// What a pod may hold of memory that is not the system's to take back, bytes.
const MEMORY_MAX: u64 = 200 << 20;

/// Large documents of which little is indexed.
fn large_ndjson() -> (Bytes, usize) {
    let text = "lorem ipsum dolor sit amet ".repeat(2_000);
    let mut body = Vec::with_capacity(BODY_BYTES + text.len() + 100);
    let mut documents = 0;
    while body.len() < BODY_BYTES {
        let line =
            format!("{{\"id\":{documents},\"title\":\"film {documents}\",\"text\":\"{text}\"}}\n");
        body.extend_from_slice(line.as_bytes());
        documents += 1;
    }
    (body.into(), documents)
}

/// It is journalled by two pods, read from one of them by a third or by itself, and cut for each node.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_larger_than_memory_passes_through_the_pods() {
    let directory = tempfile::tempdir().expect("a directory");
    let arguments = ["--pods", "3", "--nodes", "2", "--groups", "1", "--no-respawn"];
    let cluster = Cluster::start(directory.path(), &arguments).await.expect("a cluster");
    let mut pods = Pod::all_of(&cluster);
    for pod in &mut pods {
        let config = std::fs::read_to_string(pod.config()).expect("a configuration");
        let is_limit = |line: &&str| line.starts_with("body_bytes_max");
        let limit = config.lines().find(is_limit).expect("a limit");
        let raised = config.replace(limit, "body_bytes_max = \"1GiB\"");
        std::fs::write(pod.config(), raised).expect("written");
        pod.signal(Signal::TERM).expect("asked to stop");
        pod.wait_until_gone().await.expect("gone");
        pod.start_again().await.expect("ready again");
    }
    let api = cluster.api();
    api.apply(
        Method::POST,
        "/indexes",
        Some(&json!({ "uid": "films", "primaryKey": "id" })),
        PATIENCE,
    )
    .await
    .expect("an index");
    let settings = json!({ "searchableAttributes": ["title"] });
    api.apply(Method::PATCH, "/indexes/films/settings", Some(&settings), PATIENCE)
        .await
        .expect("settings");

    let (body, documents) = large_ndjson();
    let to = Api::new(&pods[1].member.url, Some(&cluster.ready.master_key));
    let to = to.with_patience(PATIENCE);
    let kind = Some("application/x-ndjson");
    let answer = to.send(Method::POST, "/indexes/films/documents", kind, body).await;
    let answer = answer.expect("an answer");
    assert_eq!(answer.status, 202, "{}", String::from_utf8_lossy(&answer.bytes));
    let uid = answer.json()["taskUid"].as_u64().expect("a task");
    let peaks = async {
        let mut peaks = vec![0; pods.len()];
        loop {
            for (peak, pod) in peaks.iter_mut().zip(&pods) {
                *peak = own_memory(pod.member.pid).unwrap_or_default().max(*peak);
            }
            let task = api.get(&format!("/tasks/{uid}")).await.expect("a task");
            if matches!(task["status"].as_str(), Some("succeeded" | "failed")) {
                return (task, peaks);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let (task, peaks) = tokio::time::timeout(PATIENCE, peaks).await.expect("an end");
    assert_eq!(task["status"], "succeeded", "{task}");
    assert_eq!(task["details"]["indexedDocuments"], documents);
    println!("memory of the pods: {peaks:?} bytes");
    assert!(peaks.iter().all(|peak| *peak < MEMORY_MAX), "{peaks:?}");
    let found = api.get("/indexes/films/stats").await.expect("figures");
    assert_eq!(found["numberOfDocuments"], documents);
    let operator = Api::new(&pods[2].member.url, cluster.ready.admin_key.as_deref());
    let metrics = operator.send(Method::GET, "/_miroir/metrics", None, Bytes::new()).await;
    let metrics = String::from_utf8(metrics.expect("an answer").bytes.to_vec()).expect("text");
    let all_in_sync = "miroir_index_replicas_in_sync{index=\"films\"} 64.0";
    assert!(metrics.lines().any(|line| line == all_in_sync), "{metrics}");
    cluster.stop().await.expect("stopped");
}

/// As many requests as are taken at a time, all of them still being received.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_request_too_many_is_told_to_come_again() {
    const REQUESTS: usize = 500;
    let directory = tempfile::tempdir().expect("a directory");
    let arguments = ["--nodes", "1", "--groups", "1", "--shards", "4"];
    let cluster = Cluster::start(directory.path(), &arguments).await.expect("a cluster");
    let api = cluster.api();
    let create = json!({ "uid": "films", "primaryKey": "id" });
    api.apply(Method::POST, "/indexes", Some(&create), PATIENCE).await.expect("an index");
    let address = cluster.ready.url.trim_start_matches("http://").to_owned();
    let begin = async |id: usize| {
        let body = format!("[{{\"id\":{id}}}]");
        let head = format!(
            "POST /indexes/films/documents HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\
             authorization: Bearer {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            cluster.ready.master_key,
            body.len(),
        );
        let mut stream = TcpStream::connect(&address).await.expect("a connection");
        let (first, last) = body.split_at(1);
        stream.write_all(format!("{head}{first}").as_bytes()).await.expect("written");
        (stream, last.to_owned())
    };
    let mut open = Vec::new();
    for id in 0..REQUESTS {
        open.push(begin(id).await);
    }
    // One of them may have come just while this looked; then there is room for one more.
    let refused = async {
        loop {
            let read = api.send(Method::GET, "/indexes/films/documents", None, Bytes::new()).await;
            let answer = read.expect("an answer");
            if answer.status == 503 {
                return answer;
            }
            open.push(begin(open.len()).await);
        }
    };
    let refused = tokio::time::timeout(PATIENCE, refused).await.expect("a refusal");
    assert_eq!(refused.json()["code"], "miroir_overloaded");
    assert!(refused.headers.contains_key("retry-after"));
    let health = api.send(Method::GET, "/health", None, Bytes::new()).await.expect("an answer");
    assert_eq!(health.status, 200, "whoever asks whether the pod lives must not be told no");
    for (stream, last) in &mut open {
        // Those that were refused are closed.
        let _closed = stream.write_all(last.as_bytes()).await;
    }
    let mut accepted = 0;
    for (stream, _) in &mut open {
        let mut answer = String::new();
        if stream.read_to_string(&mut answer).await.is_ok() && answer.starts_with("HTTP/1.1 202") {
            accepted += 1;
        }
    }
    assert_eq!(accepted, REQUESTS, "of {} begun", open.len());
    let search = api.send(Method::GET, "/indexes/films/search", None, Bytes::new()).await;
    assert_eq!(search.expect("an answer").status, 200);
    let operator = Api::new(&cluster.ready.url, cluster.ready.admin_key.as_deref());
    let metrics = operator.send(Method::GET, "/_miroir/metrics", None, Bytes::new()).await;
    let metrics = String::from_utf8(metrics.expect("an answer").bytes.to_vec()).expect("text");
    for counted in [
        "miroir_http_request_duration_seconds_count{method=\"POST\",path=\"/indexes/{index_uid}/documents\",status=\"202\"} 500",
        "miroir_http_request_duration_seconds_count{method=\"GET\",path=\"/indexes/{index_uid}/search\",status=\"200\"} 1",
        "miroir_http_requests_in_flight 0.0",
    ] {
        assert!(metrics.lines().any(|line| line == counted), "{counted} is not in\n{metrics}");
    }
    let value = |name: &str| -> f64 {
        let line = metrics.lines().find_map(|line| line.strip_prefix(name)).expect("it is said");
        line.trim().parse().expect("a number")
    };
    assert!(value("miroir_http_requests_refused_total ") >= 1.0);
    assert!(
        value("miroir_node_request_duration_seconds_count{node=\"node-1\",outcome=\"2xx\"} ")
            >= 1.0
    );
    cluster.stop().await.expect("stopped");
}
