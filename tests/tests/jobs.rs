//! Imports by jobs over three pods, one of which is killed at work.
//!
//! Afterwards: every document is there once, as the last line with its id has it, on all replicas;
//! the file became as many tasks as it has stretches, so no stretch was imported twice.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use miroir_tests::client::{Answer, Api};
use miroir_tests::pods::Pod;
use miroir_tests::processes::{Cluster, miroir_binary};
use miroir_tests::replicas;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::process::{Child, Command};
use tokio::time::Instant;

const INDEX: &str = "imported";
/// Lines of the file; every sixth has the id of an earlier one.
const LINES: usize = 24_000;
const IDS: usize = LINES / 6 * 5;
/// About 4,500 lines: three tasks a chunk.
const CHUNK_BYTES: usize = 300_000;
/// Documents of one task at most, as the job worker has it.
const TASK_DOCUMENTS: usize = 2000;
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(10);

/// The document of a line. Those that repeat an id stand mostly in another task or chunk than the
/// line whose id they have.
fn line(n: usize) -> (usize, Value) {
    let id = match n % 6 {
        5 if n > 3005 => n - 3005,
        5 => n - 5,
        _ => n,
    };
    (id, json!({ "id": id, "line": n, "text": format!("steady as line {n}") }))
}

fn chunks_of(file: &[u8]) -> Vec<Bytes> {
    let mut chunks = Vec::new();
    let mut rest = file;
    while !rest.is_empty() {
        let end = CHUNK_BYTES.min(rest.len());
        let more = rest[end - 1..].iter().position(|byte| *byte == b'\n').unwrap_or(0);
        let (chunk, after) = rest.split_at((end + more).min(rest.len()));
        chunks.push(Bytes::copy_from_slice(chunk));
        rest = after;
    }
    chunks
}

async fn put(api: &Api, job: u64, number: usize, chunk: &Bytes) -> Answer {
    let path = format!("/_miroir/jobs/{job}/chunks/{number}");
    let kind = Some("application/x-ndjson");
    api.send(Method::PUT, &path, kind, chunk.clone()).await.expect("an answer")
}

async fn job_on(api: &Api, job: u64) -> Value {
    api.get(&format!("/_miroir/jobs/{job}")).await.expect("the job")
}

/// Waits until `wanted` is what the job is.
async fn job_when(
    pods: &[Pod],
    api: &Api,
    job: u64,
    what: &str,
    wanted: impl Fn(&Value) -> bool,
) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let view = job_on(api, job).await;
        if wanted(&view) {
            return view;
        }
        if Instant::now() > deadline {
            let logs: Vec<String> = pods.iter().map(Pod::log_tail).collect();
            panic!("not {what}: {view}\n{}", logs.join("\n\n"));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// `miroir ctl import`, against one pod.
fn import(url: &str, key: &str, file: &std::path::Path) -> Child {
    let mut command = Command::new(miroir_binary().expect("a binary"));
    command.args(["ctl", "--url", url, "--json", "import"]).arg(file);
    command.args(["--index", INDEX, "--primary-key", "id", "--watch", "--chunk-size"]);
    command.arg(CHUNK_BYTES.to_string()).env("MIROIR_ADMIN_KEY", key);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    command.spawn().expect("ctl")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_goes_on_on_other_pods_and_nothing_is_taken_twice() {
    let directory = tempfile::tempdir().expect("a directory");
    let arguments = ["--pods", "3", "--nodes", "2", "--groups", "1", "--rf", "2", "--no-respawn"];
    let cluster = Cluster::start(directory.path(), &arguments).await.expect("a cluster");
    let key = cluster.ready.admin_key.clone().expect("an admin key");
    let mut pods = Pod::all_of(&cluster);
    let admin: Vec<Api> = pods.iter().map(|pod| Api::new(&pod.member.url, Some(&key))).collect();

    let mut text = Vec::new();
    let mut expected: BTreeMap<String, Value> = BTreeMap::new();
    for n in 0..LINES {
        let (id, document) = line(n);
        text.extend_from_slice(document.to_string().as_bytes());
        text.push(b'\n');
        expected.insert(id.to_string(), document);
    }
    assert_eq!(expected.len(), IDS);
    let file = directory.path().join("lines.ndjson");
    std::fs::write(&file, &text).expect("written");
    let chunks = chunks_of(&text);

    // An upload that is broken off after two chunks.
    let create = format!("/_miroir/jobs/imports?index={INDEX}&primaryKey=id&name=lines.ndjson");
    let created = admin[0].call(Method::POST, &create, None).await.expect("a job");
    let job = created["id"].as_u64().expect("a number");
    for (number, chunk) in chunks.iter().take(2).enumerate() {
        assert_eq!(put(&admin[0], job, number, chunk).await.status, 200);
    }
    // The same again, elsewhere, is the same chunk; other content is refused.
    let again = put(&admin[2], job, 1, &chunks[1]).await;
    assert_eq!((again.status, &again.json()["number"]), (200, &json!(1)));
    let other = put(&admin[2], job, 1, &chunks[0]).await;
    assert_eq!((other.status, &other.json()["code"]), (409, &json!("miroir_job_conflict")));
    let anonymous = Api::new(&pods[0].member.url, None);
    assert!(anonymous.get("/_miroir/jobs").await.is_err(), "jobs need the admin key");

    // It goes on by another pod, and the pod that works on it is killed.
    let ctl = import(&pods[1].member.url, &key, &file);
    let bytes = text.len() as u64;
    let is_under_way = |view: &Value| {
        let done = view["bytesDone"].as_u64().unwrap_or(0);
        assert_eq!(view["failure"], Value::Null, "{view}");
        done > bytes / 10 && done < bytes / 10 * 8 && !view["pods"][0].is_null()
    };
    let held = job_when(&pods, &admin[1], job, "under way", is_under_way).await;
    let holder = held["pods"][0].as_str().expect("a pod").to_owned();
    let at = pods.iter().position(|pod| pod.member.id == holder).expect("one of the pods");
    pods[at].signal(Signal::KILL).expect("kill -9");
    let since = Instant::now();
    let alive = &admin[(at + 1) % 3];
    let done_before = job_on(alive, job).await["bytesDone"].as_u64();
    let is_taken_over =
        |view: &Value| view["bytesDone"].as_u64() > done_before && view["pods"][0] != json!(holder);
    job_when(&pods, alive, job, "taken over", is_taken_over).await;
    let (done, took) = (&held["bytesDone"], since.elapsed());
    println!("killed {holder} at {done} of {bytes} bytes; taken over after {took:?}");
    pods[at].start_again().await.expect("started again");
    let output = tokio::time::timeout(PATIENCE, ctl.wait_with_output()).await;
    let output = output.expect("ctl ends").expect("ctl");
    assert!(output.status.success(), "ctl: {}", output.status);
    let told: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&told["id"], &told["status"]), (&json!(job), &json!("succeeded")));

    // Everything once.
    let tasks: usize = chunks
        .iter()
        .map(|chunk| chunk.iter().filter(|byte| **byte == b'\n').count().div_ceil(TASK_DOCUMENTS))
        .sum();
    assert!(tasks > chunks.len(), "a chunk is one task");
    let master = cluster.ready.master_key.as_str();
    for (pod, admin) in pods.iter().zip(&admin) {
        let ended = |view: &Value| view["status"] == json!("succeeded");
        let view = job_when(&pods, admin, job, "succeeded", ended).await;
        assert_eq!(view["documents"], json!(LINES), "{view}");
        assert_eq!((&view["tasks"], &view["skipped"]), (&json!(tasks), &json!(0)), "{view}");
        assert_eq!(view["chunks"]["done"], json!(chunks.len()), "{view}");
        let api = Api::new(&pod.member.url, Some(master));
        let path = format!("/tasks?limit=1&types=documentAdditionOrUpdate&indexUids={INDEX}");
        assert_eq!(api.get(&path).await.expect("tasks")["total"], json!(tasks));
    }
    let api = Api::new(&pods[at].member.url, Some(master));
    let shown = replicas::all_documents(&api, INDEX).await;
    let wrong = expected.iter().find(|(id, document)| shown.get(*id) != Some(document));
    assert_eq!((shown.len(), wrong), (IDS, None));
    replicas::become_equal(&cluster.ready.nodes, INDEX, &expected, 2, PATIENCE).await;
    let jobs = admin[at].get("/_miroir/jobs").await.expect("jobs");
    assert_eq!((&jobs["backgroundQueueDepth"], &jobs["jobs"][0]["id"]), (&json!(0), &json!(job)));

    streams(&pods, &admin[0], &admin[1]).await;
    for pod in &pods {
        let log = std::fs::read_to_string(pod.log()).expect("a log");
        assert!(!log.contains("panicked"), "{} panicked: {log}", pod.member.id);
    }
}

/// Whole files as one request, good lines and bad ones.
async fn streams(pods: &[Pod], admin: &Api, other: &Api) {
    let body = Bytes::from("{\"id\":1}\n{\"id\":2}\n\nno document\n{\"id\":3}\n");
    let kind = Some("application/x-ndjson");
    for (policy, status, documents, skipped) in
        [("fail", "failed", 2, 1), ("skip", "succeeded", 3, 1)]
    {
        let path = format!("/_miroir/jobs/imports?index={policy}&stream=true&onError={policy}");
        let answer = admin.send(Method::POST, &path, kind, body.clone()).await.expect("an answer");
        assert_eq!(answer.status, 202, "{}", answer.json());
        let job = answer.json()["id"].as_u64().expect("a number");
        let ended =
            job_when(pods, other, job, "ended", |view| view["status"] != json!("running")).await;
        assert_eq!(ended["status"], json!(status), "{ended}");
        assert_eq!((&ended["documents"], &ended["skipped"]), (&json!(documents), &json!(skipped)));
        assert_eq!(ended["errors"][0]["line"], json!(4), "{ended}");
    }
    // A job that waits for its chunks can be cancelled, and takes none any more.
    let path = "/_miroir/jobs/imports?index=cancelled";
    let created = admin.call(Method::POST, path, None).await.expect("a job");
    let job = created["id"].as_u64().expect("a number");
    let path = format!("/_miroir/jobs/{job}");
    let canceled = other.call(Method::DELETE, &path, None).await.expect("cancelled");
    assert_eq!(canceled["status"], json!("canceled"));
    assert_eq!(put(admin, job, 0, &body).await.status, 409);
}
