//! Writers and searchers over several pods, and what they know.
//!
//! A writer behaves like a good client: it stays with one pod, goes to the next when a request
//! fails, and repeats the same request with the same `Idempotency-Key` until it is acknowledged.
//! So at the end every write sent is acknowledged, and must be there once.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use miroir_seams::Tasks;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::client::{Answer, Api, ApiFault};
use crate::oracle::documents::text_of;

/// New documents in one write.
const BATCH: usize = 3;
/// A client's patience with one exchange.
const EXCHANGE: Duration = Duration::from_secs(5);
/// Pause before a request that failed is repeated.
const AGAIN: Duration = Duration::from_millis(20);
/// Pause between two writes of a writer, two searches on a pod.
const PACE: Duration = Duration::from_millis(40);
/// A write that nobody takes for this long ends the test.
const GIVE_UP: Duration = Duration::from_secs(90);

/// What clients may expect of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Expect {
    /// It answers every search.
    Answers = 0,
    /// It is asked, and may break off; what it does answer is right.
    MayBreak = 1,
    /// It is not asked.
    Nothing = 2,
}

/// What the clients know.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Per index: the ids of all documents written.
    pub ids: BTreeMap<String, Vec<String>>,
    /// Per index: the last version of the document that is rewritten for ever.
    pub hot: BTreeMap<String, u64>,
    /// Per index: task uids in the order of their acknowledgement.
    pub tasks: BTreeMap<String, Vec<u64>>,
    /// What must not happen, and did.
    pub faults: Vec<String>,
    /// Error answers to writes that were repeated later.
    pub refusals: Vec<String>,
    /// Searches that were marked, by pod and what was said (`stale`, `groups`): how many, the first
    /// and the last, counted from when these clients were made.
    pub marks: BTreeMap<String, (usize, Duration, Duration)>,
    /// How long each write took until it was acknowledged.
    pub latencies: Vec<Duration>,
}

#[derive(Debug)]
struct Pods {
    apis: Vec<Api>,
    made: Instant,
    expected: Vec<AtomicU8>,
    searches: Vec<AtomicUsize>,
    repeated: AtomicUsize,
    acknowledged: AtomicUsize,
    keys: AtomicU64,
    stop: AtomicBool,
    ledger: Mutex<Ledger>,
}

/// Clients of a cluster.
#[derive(Clone, Debug)]
pub struct Traffic {
    pods: Arc<Pods>,
}

impl Traffic {
    /// Clients of the pods at `urls`, with `key`. Nothing is sent yet.
    pub fn new<'a>(urls: impl IntoIterator<Item = &'a str>, key: &str) -> Self {
        let apis: Vec<Api> =
            urls.into_iter().map(|url| Api::new(url, Some(key)).with_patience(EXCHANGE)).collect();
        Self::with(apis)
    }

    fn with(apis: Vec<Api>) -> Self {
        let pods = Pods {
            expected: apis.iter().map(|_| AtomicU8::new(Expect::Answers as u8)).collect(),
            searches: apis.iter().map(|_| AtomicUsize::new(0)).collect(),
            apis,
            made: Instant::now(),
            repeated: AtomicUsize::new(0),
            acknowledged: AtomicUsize::new(0),
            keys: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            ledger: Mutex::default(),
        };
        Self { pods: Arc::new(pods) }
    }

    /// What is known, and clients of some of the pods only.
    pub fn only(&self, pods: &[usize]) -> Self {
        let apis = pods.iter().filter_map(|at| self.pods.apis.get(*at)).cloned().collect();
        let only = Self::with(apis);
        *only.ledger() = std::mem::take(&mut *self.ledger());
        only
    }

    /// The pods' clients, in order.
    pub fn apis(&self) -> &[Api] {
        &self.pods.apis
    }

    /// What is known so far.
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.pods.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says what clients may expect of pod `at` from now on.
    pub fn expect(&self, at: usize, what: Expect) {
        if let Some(expected) = self.pods.expected.get(at) {
            expected.store(what as u8, Ordering::SeqCst);
        }
    }

    fn expected(&self, at: usize) -> u8 {
        self.pods.expected.get(at).map_or(2, |expected| expected.load(Ordering::SeqCst))
    }

    /// Starts a writer for each of `indexes` and a searcher for each pod.
    pub fn start(&self, indexes: &[&'static str]) -> Vec<JoinHandle<()>> {
        let tasks = Tasks::new();
        let writers = indexes
            .iter()
            .enumerate()
            .map(|(at, index)| tasks.spawn("writer", self.clone().keep_writing(at, index)));
        let searchers = (0..self.pods.apis.len()).map(|at| {
            let index = indexes[at % indexes.len()];
            tasks.spawn("searcher", self.clone().keep_searching(at, index))
        });
        writers.chain(searchers).collect()
    }

    /// Stops what was started and waits for it.
    ///
    /// # Panics
    /// With what a writer or searcher panicked of.
    pub async fn stop(&self, started: Vec<JoinHandle<()>>) {
        self.pods.stop.store(true, Ordering::SeqCst);
        for task in started {
            task.await.expect("a writer or searcher");
        }
    }

    /// One line for people.
    pub fn summary(&self) -> String {
        let searches: Vec<usize> =
            self.pods.searches.iter().map(|count| count.load(Ordering::SeqCst)).collect();
        let ledger = self.ledger();
        let mut latencies = ledger.latencies.clone();
        latencies.sort_unstable();
        format!(
            "{} writes acknowledged (p50 {:?}, max {:?}), {} requests repeated, of them {} refused; \
             searches per pod {searches:?}, marked {:?}",
            latencies.len(),
            latencies.get(latencies.len() / 2).copied().unwrap_or_default(),
            latencies.last().copied().unwrap_or_default(),
            self.pods.repeated.load(Ordering::SeqCst),
            ledger.refusals.len(),
            ledger.marks,
        )
    }

    /// How many searches each pod answered.
    pub fn searches(&self) -> Vec<usize> {
        self.pods.searches.iter().map(|count| count.load(Ordering::SeqCst)).collect()
    }

    /// Waits until `count` more writes have been acknowledged.
    ///
    /// # Panics
    /// When nobody takes writes for a minute and a half.
    pub async fn acknowledged_more(&self, count: usize) {
        let wanted = self.pods.acknowledged.load(Ordering::SeqCst) + count;
        let deadline = Instant::now() + GIVE_UP;
        while self.pods.acknowledged.load(Ordering::SeqCst) < wanted {
            assert!(Instant::now() < deadline, "no write was acknowledged for {GIVE_UP:?}");
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Writes one document with a name of its own, first to pod `first`, and waits until its task
    /// has succeeded: the index has a writer that works. Returns when it was acknowledged and when
    /// it ended, counted from now.
    ///
    /// # Panics
    /// When it doesn't succeed in a minute and a half.
    pub async fn probe(&self, index: &str, first: usize) -> (Duration, Duration) {
        let begun = Instant::now();
        let key = self.next_key();
        let id = format!("probe-{key}");
        let documents = [json!({ "id": id, "text": "steady probe", "round": 0 })];
        let (uid, _) = self.write(index, first, &key, &documents).await;
        let acknowledged = begun.elapsed();
        self.wait_for_success(uid, first).await;
        (acknowledged, begun.elapsed())
    }

    /// Writes one small document, first to pod `first`, and returns how long it took until it was
    /// acknowledged.
    ///
    /// # Panics
    /// When nobody takes it in a minute and a half.
    pub async fn write_one(&self, index: &str, first: usize) -> Duration {
        let key = self.next_key();
        let documents = [json!({ "id": key, "text": "steady" })];
        let begun = Instant::now();
        self.write(index, first, &key, &documents).await;
        begun.elapsed()
    }

    /// Waits until task `uid` has succeeded, asking pod `first` and the next when it fails.
    ///
    /// # Panics
    /// When it failed or doesn't end in a minute and a half.
    pub async fn wait_for_success(&self, uid: u64, first: usize) {
        let deadline = Instant::now() + GIVE_UP;
        let mut at = first;
        loop {
            let api = &self.pods.apis[at % self.pods.apis.len()];
            match api.get(&format!("/tasks/{uid}")).await {
                Ok(task) if task["status"] == "succeeded" => return,
                Ok(task) => assert!(
                    matches!(task["status"].as_str(), Some("enqueued" | "processing")),
                    "an acknowledged write failed: {task}"
                ),
                Err(_) => at += 1,
            }
            assert!(Instant::now() < deadline, "task {uid} does not end");
            tokio::time::sleep(AGAIN).await;
        }
    }

    fn next_key(&self) -> String {
        format!("key-{}", self.pods.keys.fetch_add(1, Ordering::SeqCst))
    }

    async fn keep_writing(self, at: usize, index: &'static str) {
        let mut pod = at % self.pods.apis.len();
        let mut last = None;
        for round in 0u64.. {
            if self.pods.stop.load(Ordering::SeqCst) {
                return;
            }
            let mut documents: Vec<Value> = (0..BATCH)
                .map(|n| json!({ "id": format!("doc-{round}-{n}"), "text": format!("steady number {n}"), "round": round }))
                .collect();
            documents.push(json!({ "id": "hot", "text": "steady hot", "round": round }));
            let uid;
            (uid, pod) = self.write(index, pod, &self.next_key(), &documents).await;
            self.ledger().hot.insert(index.to_owned(), round);
            if let Some(before) = last.replace(uid).filter(|before| *before >= uid) {
                self.ledger().faults.push(format!("task {uid} of {index} follows {before}"));
            }
            tokio::time::sleep(PACE).await;
        }
    }

    /// Sends the write until it is acknowledged. Returns its uid and the pod that took it.
    async fn write(
        &self,
        index: &str,
        first: usize,
        key: &str,
        documents: &[Value],
    ) -> (u64, usize) {
        let begun = Instant::now();
        let path = format!("/indexes/{index}/documents?primaryKey=id");
        let body = Bytes::from(json!(documents).to_string());
        let headers = [("content-type", "application/json"), ("idempotency-key", key)];
        let mut at = first % self.pods.apis.len();
        loop {
            let answer =
                self.pods.apis[at].send_with(Method::POST, &path, &headers, body.clone()).await;
            if let Some(uid) = self.note_write(index, at, documents, begun, answer) {
                return (uid, at);
            }
            assert!(begun.elapsed() < GIVE_UP, "nobody took a write for {GIVE_UP:?}");
            self.pods.repeated.fetch_add(1, Ordering::SeqCst);
            at = (at + 1) % self.pods.apis.len();
            tokio::time::sleep(AGAIN).await;
        }
    }

    fn note_write(
        &self,
        index: &str,
        at: usize,
        documents: &[Value],
        begun: Instant,
        answer: Result<Answer, ApiFault>,
    ) -> Option<u64> {
        let answer = answer.ok()?;
        let body = answer.json();
        let mut ledger = self.ledger();
        let uid = body["taskUid"].as_u64().filter(|_| answer.status == 202);
        let Some(uid) = uid else {
            let said = format!("pod {at} answered a write of {index} {}: {body}", answer.status);
            if answer.status < 500 {
                ledger.faults.push(said);
            } else {
                ledger.refusals.push(said);
            }
            return None;
        };
        let ids = documents.iter().map(|document| text_of(&document["id"]));
        ledger.ids.entry(index.to_owned()).or_default().extend(ids);
        ledger.tasks.entry(index.to_owned()).or_default().push(uid);
        ledger.latencies.push(begun.elapsed());
        self.pods.acknowledged.fetch_add(1, Ordering::SeqCst);
        Some(uid)
    }

    fn note_mark(&self, at: usize, answer: &Answer) {
        let Some(mark) = answer.headers.get("x-miroir-degraded") else { return };
        let text = String::from_utf8_lossy(mark.as_bytes()).into_owned();
        let what = text.split('=').next().unwrap_or_default();
        let now = self.pods.made.elapsed();
        let mut ledger = self.ledger();
        let marked = ledger.marks.entry(format!("pod {at}: {what}")).or_insert((0, now, now));
        *marked = (marked.0 + 1, marked.1, now);
    }

    async fn keep_searching(self, at: usize, index: &'static str) {
        let path = format!("/indexes/{index}/search");
        for n in 0u64.. {
            if self.pods.stop.load(Ordering::SeqCst) {
                return;
            }
            tokio::time::sleep(PACE).await;
            if self.expected(at) == Expect::Nothing as u8 {
                continue;
            }
            let body = json!({ "q": "steady", "page": n % 3 + 1, "hitsPerPage": 20 }).to_string();
            let kind = Some("application/json");
            let answer = self.pods.apis[at].send(Method::POST, &path, kind, body.into()).await;
            let fault = match answer {
                Ok(answer) => {
                    self.pods.searches[at].fetch_add(1, Ordering::SeqCst);
                    self.note_mark(at, &answer);
                    fault_of_search(&answer)
                }
                Err(fault) if self.expected(at) == Expect::Answers as u8 => Some(fault.to_string()),
                Err(_) => None,
            };
            if let Some(fault) = fault {
                self.ledger().faults.push(format!("a search on pod {at}: {fault}"));
            }
        }
    }
}

fn fault_of_search(answer: &Answer) -> Option<String> {
    let body = answer.json();
    if answer.status != 200 {
        return Some(format!("answered {}: {body}", answer.status));
    }
    if body.to_string().contains("_miroir_shard") {
        return Some("shows the reserved field".to_owned());
    }
    let mut seen = std::collections::BTreeSet::new();
    let hits = body["hits"].as_array().cloned().unwrap_or_default();
    let twice = hits.iter().find(|hit| !seen.insert(text_of(&hit["id"])))?;
    Some(format!("shows {} twice", twice["id"]))
}
