//! A stream of writes and searches goes on while nodes and the pod are killed -9. Afterwards:
//! every acknowledged document is there, none twice, counts are right, all replicas of a
//! shard are equal, and tasks ended in order.
//!
//! What a client *knows* of a write: acknowledged (202), refused, or unknown (no answer, or a
//! 503 that says so). Unknown writes may be there or not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use miroir_seams::Tasks;
use miroir_tests::client::{Answer, Api, ApiFault};
use miroir_tests::oracle::documents::text_of;
use miroir_tests::processes::Cluster;
use miroir_tests::replicas;
use serde_json::{Value, json};
use tokio::time::Instant;

const INDEX: &str = "kills";
/// Documents in one request.
const BATCH: usize = 10;
/// Documents that are written again and again, to show the order of writes.
const HOT: usize = 7;
/// Requests acknowledged between two kills.
const BETWEEN_KILLS: usize = 25;
/// How long recovery may take: respawning takes seconds, catching up follows.
const RECOVERY: Duration = Duration::from_secs(120);
/// Pause between two looks.
const POLL: Duration = Duration::from_millis(100);

/// What the client knows.
#[derive(Debug, Default)]
struct Ledger {
    /// Ids of documents in acknowledged requests.
    acknowledged: BTreeSet<String>,
    /// Ids of documents in requests of unknown outcome.
    unknown: BTreeSet<String>,
    /// Per hot document: the last acknowledged version, and the last one sent.
    hot: BTreeMap<String, (u64, u64)>,
    /// Task uids in the order of their acknowledgement.
    tasks: Vec<u64>,
    /// Faults that searches found.
    faults: Vec<String>,
}

#[derive(Clone, Debug, Default)]
struct Stream {
    ledger: Arc<Mutex<Ledger>>,
    acknowledged: Arc<AtomicUsize>,
    searches: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

impl Stream {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends batches one after the other until told to stop. Each holds new documents and one
    /// that is rewritten for ever.
    async fn write(self, api: Api) {
        let path = format!("/indexes/{INDEX}/documents");
        for round in 0u64.. {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let hot = format!("hot-{}", round as usize % HOT);
            let mut documents: Vec<Value> = (0..BATCH)
                .map(|n| json!({ "id": format!("doc-{round}-{n}"), "text": format!("steady number {n}"), "round": round }))
                .collect();
            documents.push(json!({ "id": hot, "text": "steady hot", "round": round }));
            let body = Bytes::from(json!(documents).to_string());
            let answer = api.send(Method::POST, &path, Some("application/json"), body).await;
            self.note_write(round, &hot, &documents, answer);
        }
    }

    fn note_write(
        &self,
        round: u64,
        hot: &str,
        documents: &[Value],
        answer: Result<Answer, ApiFault>,
    ) {
        let mut ledger = self.ledger();
        let ids = documents.iter().map(|doc| text_of(&doc["id"]));
        let versions = ledger.hot.entry(hot.to_owned()).or_default();
        match answer {
            Ok(answer) if answer.status == 202 => {
                *versions = (round, round);
                ledger.acknowledged.extend(ids);
                ledger.tasks.extend(answer.json()["taskUid"].as_u64());
                self.acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            Ok(answer) if answer.status < 500 => {
                ledger.faults.push(format!("a good write was refused: {}", answer.json()));
            }
            Ok(_) | Err(_) => {
                versions.1 = round;
                ledger.unknown.extend(ids);
            }
        }
    }

    /// Searches until told to stop: no document twice, no reserved name, no odd status.
    async fn search(self, api: Api) {
        let path = format!("/indexes/{INDEX}/search");
        for n in 0u64.. {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let body = json!({ "q": "steady", "page": n % 3 + 1, "hitsPerPage": 50 });
            let body = Bytes::from(body.to_string());
            let answer = api.send(Method::POST, &path, Some("application/json"), body).await;
            if let Some(fault) = answer.ok().and_then(|answer| fault_of_search(&answer)) {
                self.ledger().faults.push(fault);
            }
            self.searches.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until `count` more requests have been acknowledged.
    async fn acknowledged_more(&self, count: usize) {
        let wanted = self.acknowledged.load(Ordering::Relaxed) + count;
        let deadline = Instant::now() + RECOVERY;
        while self.acknowledged.load(Ordering::Relaxed) < wanted {
            assert!(Instant::now() < deadline, "no write was acknowledged for {RECOVERY:?}");
            tokio::time::sleep(POLL).await;
        }
    }
}

fn fault_of_search(answer: &Answer) -> Option<String> {
    if !matches!(answer.status, 200 | 503) {
        return Some(format!("a search answered {}: {}", answer.status, answer.json()));
    }
    let body = answer.json();
    if body.to_string().contains("_miroir_shard") {
        return Some("a search shows the reserved field".to_owned());
    }
    let mut seen = BTreeSet::new();
    let hits = body["hits"].as_array().cloned().unwrap_or_default();
    let twice = hits.iter().find(|hit| !seen.insert(text_of(&hit["id"])))?;
    Some(format!("a search shows {} twice", twice["id"]))
}

/// The story: write, kill each of `victims` and then the pod, write on, stop, look.
async fn nothing_is_lost(arguments: &[&str], copies: usize, victims: usize) {
    let directory = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::start(directory.path(), arguments).await.expect("a cluster");
    let api = cluster.api();
    let create = json!({ "uid": INDEX, "primaryKey": "id" });
    api.apply(Method::POST, "/indexes", Some(&create), RECOVERY).await.expect("an index");

    let stream = Stream::default();
    let tasks = Tasks::new();
    let writer = tasks.spawn("writer", stream.clone().write(cluster.api()));
    let searcher = tasks.spawn("searcher", stream.clone().search(cluster.api()));
    stream.acknowledged_more(BETWEEN_KILLS).await;
    for node in cluster.ready.nodes.iter().take(victims) {
        cluster.kill(node).expect("kill -9 of a node");
        stream.acknowledged_more(BETWEEN_KILLS).await;
        let node = cluster.node_api(node);
        node.wait_until_healthy(RECOVERY).await.expect("the node is started again");
        stream.acknowledged_more(BETWEEN_KILLS).await;
    }
    for pod in &cluster.ready.pods {
        cluster.kill(pod).expect("kill -9 of the pod");
        api.wait_until_healthy(RECOVERY).await.expect("the pod is started again");
        stream.acknowledged_more(BETWEEN_KILLS).await;
    }
    stream.stop.store(true, Ordering::Relaxed);
    writer.await.expect("the writer");
    searcher.await.expect("the searcher");

    let ledger = std::mem::take(&mut *stream.ledger());
    assert_eq!(ledger.faults, Vec::<String>::new());
    assert!(stream.searches.load(Ordering::Relaxed) > 10, "hardly any search took place");
    tasks_ended_in_order(&api, &ledger).await;
    let documents = documents_are_those_acknowledged(&api, &ledger).await;
    replicas::become_equal(&cluster.ready.nodes, INDEX, &documents, copies, RECOVERY).await;
}

async fn tasks_ended_in_order(api: &Api, ledger: &Ledger) {
    assert!(
        ledger.tasks.windows(2).all(|pair| pair[0] < pair[1]),
        "task uids are not increasing: {:?}",
        ledger.tasks
    );
    for uid in &ledger.tasks {
        let task = api.wait_for_task(*uid, RECOVERY).await.expect("a task");
        assert_eq!(task["status"], "succeeded", "an acknowledged write failed: {task}");
    }
    let mut ended: Vec<(u64, String)> = Vec::new();
    let mut from = String::new();
    loop {
        let path = format!("/tasks?limit=500&indexUids={INDEX}{from}");
        let page = api.get(&path).await.expect("a page of tasks");
        for task in page["results"].as_array().into_iter().flatten() {
            // Compared as text: one server prints all dates with the same precision.
            let at = task["finishedAt"].as_str().unwrap_or("unfinished");
            ended.push((task["uid"].as_u64().expect("a uid"), at.to_owned()));
        }
        match page["next"].as_u64() {
            Some(next) => from = format!("&from={next}"),
            None => break,
        }
    }
    let listed: BTreeSet<u64> = ended.iter().map(|(uid, _)| *uid).collect();
    assert_eq!(listed.len(), ended.len(), "a task uid is listed twice");
    assert!(ledger.tasks.iter().all(|uid| listed.contains(uid)), "an acknowledged task is gone");
    ended.sort_unstable();
    for pair in ended.windows(2) {
        assert!(
            comparable(&pair[0].1) <= comparable(&pair[1].1),
            "a later task ended earlier: {pair:?}"
        );
    }
}

/// RFC 3339 in UTC with its fraction padded, so that text order is time order.
fn comparable(date: &str) -> String {
    let (seconds, fraction) =
        date.trim_end_matches('Z').split_once('.').unwrap_or((date.trim_end_matches('Z'), ""));
    format!("{seconds}.{fraction:0<9}")
}

/// All documents, page by page; their ids are told apart and compared with the ledger.
async fn documents_are_those_acknowledged(api: &Api, ledger: &Ledger) -> BTreeMap<String, Value> {
    let documents = replicas::all_documents(api, INDEX).await;
    for id in &ledger.acknowledged {
        assert!(documents.contains_key(id), "acknowledged document {id} is lost");
    }
    for id in documents.keys() {
        assert!(
            ledger.acknowledged.contains(id) || ledger.unknown.contains(id),
            "document {id} was never sent"
        );
    }
    for (id, (acknowledged, sent)) in &ledger.hot {
        let Some(document) = documents.get(id) else { continue };
        let version = document["round"].as_u64().expect("a version");
        assert!(
            (*acknowledged..=*sent).contains(&version),
            "{id} is at version {version}, acknowledged {acknowledged}, sent {sent}"
        );
    }
    let stats = api.get(&format!("/indexes/{INDEX}/stats")).await.expect("stats");
    assert_eq!(stats["numberOfDocuments"], json!(documents.len()));
    let settings = json!({ "pagination": { "maxTotalHits": 1_000_000 } });
    let path = format!("/indexes/{INDEX}/settings");
    api.apply(Method::PATCH, &path, Some(&settings), RECOVERY).await.expect("settings");
    let query = json!({ "q": "steady", "page": 1, "hitsPerPage": 1 });
    let answer = api.post(&format!("/indexes/{INDEX}/search"), &query).await.expect("a search");
    assert_eq!(answer["totalHits"], json!(documents.len()));
    documents
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_over_two_groups_of_two_nodes() {
    let arguments = ["--nodes", "4", "--groups", "2", "--rf", "1"];
    nothing_is_lost(&arguments, 2, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_with_two_replicas_on_three_nodes() {
    let arguments = ["--nodes", "3", "--groups", "1", "--rf", "2"];
    nothing_is_lost(&arguments, 2, 2).await;
}
