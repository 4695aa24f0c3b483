//! Three pods before four nodes, while pods are killed, stopped, restarted and slandered.
//!
//! Afterwards: every acknowledged write is there once, on every pod and on all its replicas;
//! task uids are unique, and increase for each client; a write that was repeated on other pods was
//! carried out once; searches went on on every pod that ran.

mod pods {
    mod cut;
    mod leave;
    pub mod story;
}

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use miroir_seams::{Entropy, Tasks};
use miroir_tests::client::{Answer, Api};
use miroir_tests::pods::Pod;
use miroir_tests::processes::{Cluster, port_of};
use miroir_tests::replicas;
use miroir_tests::strangers::{FalsePeer, talk_nonsense};
use miroir_tests::traffic::{Expect, Traffic};
use pods::story::{INDEXES, Story};
use rustix::process::Signal;
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);
/// How long roles may take to move on two busy cores, development build; the bars are measured by
/// `bench pods`.
const TAKE_OVER_MAX: Duration = Duration::from_secs(20);

fn max(times: &[Duration]) -> Duration {
    times.iter().copied().max().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_while_pods_come_and_go() {
    let mut story = Story::begin().await;
    let count = story.pods.len();

    // Each is killed in turn.
    for at in 0..count {
        story.traffic.expect(at, Expect::MayBreak);
        story.pods[at].signal(Signal::KILL).expect("kill -9");
        let times = story.probe_all((at + 1) % count).await;
        println!("kill -9 of pod {at}: writers work elsewhere after {:?} ({times:?})", max(&times));
        assert!(max(&times) < TAKE_OVER_MAX, "a role was not taken over: {times:?}");
        story.traffic.expect(at, Expect::Nothing);
        story.start_again(at).await;
        story.traffic.acknowledged_more(10).await;
    }

    // One stands still and goes on, without knowing that time has passed.
    story.traffic.expect(0, Expect::Nothing);
    story.pods[0].signal(Signal::STOP).expect("stopped");
    let times = story.probe_all(1).await;
    println!("SIGSTOP of pod 0: writers work elsewhere after {:?} ({times:?})", max(&times));
    tokio::time::sleep(Duration::from_secs(10).saturating_sub(max(&times))).await;
    story.pods[0].signal(Signal::CONT).expect("continued");
    story.pods[0].wait_until_ready().await.expect("ready again");
    story.traffic.acknowledged_more(10).await;
    story.traffic.expect(0, Expect::Answers);

    // One after the other is asked to stop: no request fails.
    let refused_before = story.traffic.ledger().refusals.len();
    for at in 0..count {
        story.traffic.expect(at, Expect::MayBreak);
        story.pods[at].signal(Signal::TERM).expect("asked to stop");
        let times = story.probe_all((at + 1) % count).await;
        println!("SIGTERM of pod {at}: writers work elsewhere after {:?} ({times:?})", max(&times));
        assert!(max(&times) < TAKE_OVER_MAX, "a role was not handed over: {times:?}");
        story.start_again(at).await;
        story.traffic.acknowledged_more(10).await;
    }
    let refused = story.traffic.ledger().refusals.split_off(refused_before);
    assert_eq!(refused, Vec::<String>::new(), "a rolling restart refused writes");

    // All at once.
    for (at, pod) in story.pods.iter().enumerate() {
        story.traffic.expect(at, Expect::Nothing);
        pod.signal(Signal::KILL).expect("kill -9");
    }
    for pod in &mut story.pods {
        pod.wait_until_gone().await.expect("gone");
        pod.start().expect("started");
    }
    for at in 0..count {
        story.pods[at].wait_until_ready().await.expect("ready");
        story.traffic.expect(at, Expect::Answers);
    }
    story.traffic.acknowledged_more(25).await;

    story.end().await;
}

async fn small_cluster(directory: &tempfile::TempDir, more: &[&str]) -> Cluster {
    let arguments = ["--nodes", "1", "--groups", "1", "--rf", "1"];
    let arguments: Vec<&str> = arguments.iter().chain(more).copied().collect();
    Cluster::start(directory.path(), &arguments).await.expect("a cluster")
}

fn apis(cluster: &Cluster) -> Vec<Api> {
    let key = Some(cluster.ready.master_key.as_str());
    cluster.ready.pods.iter().map(|pod| Api::new(&pod.url, key)).collect()
}

async fn write(api: &Api, index: &str, id: &str, marks: &[(&str, &str)]) -> Answer {
    let path = format!("/indexes/{index}/documents?primaryKey=id");
    let mut headers = vec![("content-type", "application/json")];
    headers.extend(marks);
    let body = Bytes::from(json!([{ "id": id, "text": "steady" }]).to_string());
    api.send_with(Method::POST, &path, &headers, body).await.expect("an answer")
}

fn uid_of(answer: &Answer) -> u64 {
    assert_eq!(answer.status, 202, "{}", answer.json());
    answer.json()["taskUid"].as_u64().expect("a task uid")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_pod_accepted_every_pod_knows() {
    let directory = tempfile::tempdir().expect("a directory");
    let cluster = small_cluster(&directory, &["--pods", "3"]).await;
    let pods = apis(&cluster);
    uid_of(&write(&pods[0], "a", "first", &[]).await);

    for round in 0..12 {
        let (from, to) = (&pods[round % 3], &pods[(round + 1 + round / 3 % 2) % 3]);
        let id = format!("doc-{round}");

        // A task that was acknowledged is found at once.
        let session = format!("session-{round}");
        let marks = [("x-miroir-session", session.as_str())];
        let uid = uid_of(&write(from, "a", &id, &marks).await);
        let task = to.get(&format!("/tasks/{uid}")).await.expect("the task is known");
        assert_eq!(task["uid"], uid);

        // A session sees its own writes, whichever pod it reads from.
        let path = format!("/indexes/a/documents/{id}");
        let answer = to.send_with(Method::GET, &path, &marks, Bytes::new()).await;
        let answer = answer.expect("an answer");
        assert_eq!(answer.status, 200, "round {round}: {}", answer.json());
        let query = Bytes::from(json!({ "q": "steady", "hitsPerPage": 1, "page": 1 }).to_string());
        let marks = [marks[0], ("content-type", "application/json")];
        let answer = to.send_with(Method::POST, "/indexes/a/search", &marks, query).await;
        assert_eq!(answer.expect("an answer").json()["totalHits"], round + 2);
    }

    // The same request at the same time on all pods, and again later: one task.
    let total = async || pods[1].get("/tasks?limit=1").await.expect("tasks")["total"].clone();
    let before = total().await.as_u64().expect("a number");
    let mark = [("idempotency-key", "once")];
    let tasks = Tasks::new();
    let sent: Vec<_> = (0..9)
        .map(|n| {
            let api = pods[n % 3].clone();
            tasks.spawn("retry", async move { write(&api, "a", "once", &mark).await })
        })
        .collect();
    let mut uids = Vec::new();
    for answer in sent {
        uids.push(uid_of(&answer.await.expect("a client")));
    }
    for api in &pods {
        uids.push(uid_of(&write(api, "a", "once", &mark).await));
    }
    assert!(uids.iter().all(|uid| *uid == uids[0]), "a retry became another task: {uids:?}");
    assert_eq!(total().await, before + 1);
    let other = write(&pods[2], "a", "other", &mark).await;
    assert!((400..500).contains(&other.status), "a key was used twice: {}", other.json());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_pod_grows_to_three_and_keeps_its_documents() {
    let directory = tempfile::tempdir().expect("a directory");
    let cluster = small_cluster(&directory, &["--pods", "1"]).await;
    let api = cluster.api();
    let documents: Vec<Value> =
        (0..500).map(|id| json!({ "id": format!("doc-{id}"), "text": "steady" })).collect();
    let path = "/indexes/a/documents?primaryKey=id";
    api.apply(Method::POST, path, Some(&json!(documents)), PATIENCE).await.expect("documents");
    let kept = replicas::all_documents(&api, "a").await;
    assert_eq!(kept.len(), documents.len());
    cluster.stop().await.expect("stopped");

    let cluster = small_cluster(&directory, &["--pods", "3"]).await;
    assert_eq!(cluster.ready.pods.len(), 3);
    let pods = apis(&cluster);
    for api in &pods {
        assert_eq!(replicas::all_documents(api, "a").await, kept);
    }
    for (at, api) in pods.iter().enumerate() {
        let uid = uid_of(&write(api, "a", &format!("grown-{at}"), &[]).await);
        let task = pods[(at + 1) % 3].wait_for_task(uid, PATIENCE).await.expect("a task");
        assert_eq!(task["status"], "succeeded", "{task}");
    }
    replicas::become_equal(
        &cluster.ready.nodes,
        "a",
        &replicas::all_documents(&pods[2], "a").await,
        1,
        PATIENCE,
    )
    .await;
}

/// Replaces `from` in the configuration of `pod` by `to`, in a file of its own.
fn changed_config(pod: &Pod, name: &str, changes: &[(String, String)]) -> std::path::PathBuf {
    let mut text = std::fs::read_to_string(pod.config()).expect("a configuration");
    for (from, to) in changes {
        assert!(text.contains(from.as_str()), "{from} is not in {text}");
        text = text.replace(from.as_str(), to);
    }
    let path = pod.config().with_file_name(name);
    std::fs::write(&path, text).expect("written");
    path
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_change_nothing_and_crash_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let cluster = small_cluster(&directory, &["--pods", "3", "--no-respawn"]).await;
    let urls = cluster.ready.pods.iter().map(|pod| pod.url.as_str());
    let traffic = Traffic::new(urls, &cluster.ready.master_key);
    let peers: Vec<SocketAddr> = cluster
        .ready
        .pods
        .iter()
        .map(|pod| pod.peer_address.as_ref().expect("an address").parse().expect("an address"))
        .collect();
    for index in INDEXES {
        traffic.probe(index, 0).await;
    }

    // Two pods are told of a seed that is none of them.
    let mut stranger = FalsePeer::listen(peers.clone()).await.expect("a socket");
    let seed = stranger.address().expect("an address");
    let mut pods = Pod::all_of(&cluster);
    for pod in pods.iter_mut().take(2) {
        let seeds = [("seeds = [".to_owned(), format!("seeds = [\"{seed}\", "))];
        let config = changed_config(pod, "seeded.toml", &seeds);
        *pod = Pod::new(pod.member.clone(), config, pod.log().to_owned());
        pod.signal(Signal::TERM).expect("asked to stop");
        pod.start_again().await.expect("started again");
    }
    let started = traffic.start(&INDEXES);
    traffic.acknowledged_more(10).await;
    let pids: Vec<u32> = pods.iter().map(|pod| pod.member.pid).collect();

    let recorded = stranger.pass_on(Duration::from_secs(5)).await;
    println!("{recorded} datagrams recorded");
    assert!(recorded > 0, "the pods sent nothing to their seed");
    stranger.replay(3).await;
    let entropy = Entropy::seeded(1);
    stranger.make_noise(&entropy).await;
    traffic.acknowledged_more(5).await;

    // A pod that has another secret waits for peers for ever.
    let secret = secret_of(&cluster);
    let (http, peer) = (miroir_tests::processes::free_port(), miroir_tests::processes::free_port());
    let (http, peer) = (http.expect("a port"), peer.expect("a port"));
    let third = &pods[2];
    let changes = [
        (secret.clone(), secret.chars().rev().collect()),
        ("pod-3".to_owned(), "pod-9".to_owned()),
        (port_of(&third.member.url).expect("a port").to_string(), http.to_string()),
        (peers[2].port().to_string(), peer.to_string()),
    ];
    let config = changed_config(third, "stranger.toml", &changes);
    let mut member = third.member.clone();
    member.url = format!("http://127.0.0.1:{http}");
    let mut false_pod = Pod::new(member, config, directory.path().join("stranger.log"));
    false_pod.start().expect("started");

    let mut open = Vec::new();
    let mut ports: Vec<SocketAddr> = peers.clone();
    for member in cluster.ready.pods.iter().chain(&cluster.ready.nodes) {
        ports.push(member.url.trim_start_matches("http://").parse().expect("an address"));
    }
    for port in &ports {
        let (made, kept) = talk_nonsense(*port, &entropy).await;
        assert!(made > 0, "nobody listens on {port}");
        open.extend(kept);
    }
    traffic.acknowledged_more(5).await;
    stranger.replay(1).await;
    traffic.acknowledged_more(5).await;
    let ready = Api::new(&false_pod.member.url, None).with_patience(Duration::from_secs(2));
    assert!(ready.get("/_miroir/ready").await.is_err(), "a stranger takes part");
    drop(open);
    traffic.stop(started).await;

    println!("{}", traffic.summary());
    assert_eq!(traffic.ledger().faults, Vec::<String>::new());
    assert_eq!(traffic.ledger().refusals, Vec::<String>::new());
    for (pod, pid) in pods.iter().zip(pids) {
        assert!(pod.is_running(), "{} was crashed", pod.member.id);
        assert_eq!(pod.member.pid, pid);
        let log = std::fs::read_to_string(pod.log()).expect("a log");
        assert!(!log.contains("panicked"), "{} panicked: {log}", pod.member.id);
    }
    for pod in &cluster.ready.nodes {
        assert!(miroir_tests::processes::is_running(pod.pid), "{} was crashed", pod.id);
    }
    pods::story::look(&traffic, &cluster.ready.nodes, &INDEXES, 1).await;
}

fn secret_of(cluster: &Cluster) -> String {
    let kept = std::fs::read(cluster.data().join("up.json")).expect("up.json");
    let kept: Value = serde_json::from_slice(&kept).expect("JSON");
    kept["clusterSecret"].as_str().expect("a secret").to_owned()
}
