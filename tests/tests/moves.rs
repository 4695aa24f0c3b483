//! The fleet changes under load and no client notices: a node joins, another is drained and removed,
//! one is killed, the number of copies changes, the index is divided into other numbers of shards, and the
//! pods that steer all this are killed -9.
//!
//! Meanwhile documents are written, rewritten and deleted, and the same searches are asked again and
//! again over documents that nobody changes: each must be answered as before the first move, and
//! none may say that it is incomplete while nothing but planned operations goes on. Afterwards every
//! document on every replica is compared with what was acknowledged.
//!
//! The same story can be told with other numbers and other moments, which takes longer than CI has:
//! `MIROIR_MOVES_SEEDS=20 cargo test -p miroir-tests --test moves -- --ignored --nocapture` kills the pod
//! that leads each operation at a random moment of it, 20 times over; `MIROIR_MOVES_DOCUMENTS=100000` sets how many
//! documents there are.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use miroir_seams::Tasks;
use miroir_tests::client::Api;
use miroir_tests::processes::{Cluster, Member, NodeProcess};
use miroir_tests::replicas;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::Instant;

const INDEX: &str = "moves";
/// Documents that nobody changes, where nothing else is said.
const STEADY: usize = 2_000;
/// Documents in one request while they are loaded.
const BATCH: usize = 5_000;
/// Ids that are written, rewritten and deleted.
const LIVELY: usize = 60;
/// How long one operation may take, per [`STEADY_FAST`] documents.
const PATIENCE: Duration = Duration::from_secs(180);
/// See [`PATIENCE`].
const STEADY_FAST: usize = 20_000;
/// In a random story the pod that leads an operation is killed within so long after it began.
const STRIKE_MAX_MS: u64 = 4_000;
/// What is left on a node after a shard has moved away stays, hidden from readers, as long as a request of
/// the pod that was killed may come late (`miroir_actors::sent_tasks::LATE_MAX`).
const LATE_MAX: Duration = Duration::from_secs(600);
/// Pause between two looks.
const POLL: Duration = Duration::from_millis(250);
/// Pause between two writes, and two searches.
const PACE: Duration = Duration::from_millis(20);
const COLORS: [&str; 3] = ["red", "green", "blue"];
const WORDS: [&str; 8] =
    ["river", "mountain", "harbour", "winter", "lantern", "orchard", "violin", "granite"];

/// Clients of every pod, and what they know.
#[derive(Clone, Debug)]
struct Clients {
    apis: Arc<Vec<Api>>,
    stop: Arc<AtomicBool>,
    /// Something is being killed: searches may say that they are incomplete, or fail.
    rough: Arc<AtomicBool>,
    searches: Arc<AtomicUsize>,
    known: Arc<Mutex<Known>>,
}

#[derive(Debug, Default)]
struct Known {
    /// The version of each lively document, as acknowledged last; `None` once it was deleted.
    lively: BTreeMap<String, Option<u64>>,
    tasks: Vec<u64>,
    /// What must not happen, and did.
    faults: Vec<String>,
}

impl Clients {
    fn new(cluster: &Cluster) -> Self {
        let key = Some(cluster.ready.master_key.as_str());
        let api = |pod: &Member| Api::new(&pod.url, key).with_patience(Duration::from_secs(10));
        Self {
            apis: Arc::new(cluster.ready.pods.iter().map(api).collect()),
            stop: Arc::default(),
            rough: Arc::default(),
            searches: Arc::default(),
            known: Arc::default(),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a write that may be repeated until a pod acknowledges it.
    async fn insist(&self, round: u64, method: Method, path: &str, body: &Value) {
        let key = format!("moves-{round}");
        let headers = [("content-type", "application/json"), ("idempotency-key", key.as_str())];
        let deadline = Instant::now() + patience();
        for at in round as usize.. {
            let api = &self.apis[at % self.apis.len()];
            let body = Bytes::from(body.to_string());
            match api.send_with(method.clone(), path, &headers, body).await {
                Ok(answer) if answer.status == 202 => {
                    self.known().tasks.extend(answer.json()["taskUid"].as_u64());
                    return;
                }
                Ok(answer) if answer.status < 500 => {
                    let fault = format!("a good write was refused: {}", answer.json());
                    self.known().faults.push(fault);
                    return;
                }
                _ => assert!(Instant::now() < deadline, "nobody takes a write"),
            }
            tokio::time::sleep(PACE).await;
        }
    }

    async fn write(self) {
        let documents = format!("/indexes/{INDEX}/documents");
        for round in 0u64.. {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let id = format!("lively-{}", (round as usize * 7) % LIVELY);
            match round % 5 {
                4 => {
                    let path = format!("{documents}/{id}");
                    self.insist(round, Method::DELETE, &path, &Value::Null).await;
                    self.known().lively.insert(id, None);
                }
                // A part: what else the document has must be there, wherever it is.
                3 => {
                    let part = json!([{ "id": id, "round": round, "kind": "lively" }]);
                    self.insist(round, Method::PUT, &documents, &part).await;
                    self.known().lively.insert(id, Some(round));
                }
                _ => {
                    let whole = json!([{ "id": id, "round": round, "kind": "lively",
                        "text": WORDS[round as usize % WORDS.len()] }]);
                    self.insist(round, Method::POST, &documents, &whole).await;
                    self.known().lively.insert(id, Some(round));
                }
            }
            tokio::time::sleep(PACE).await;
        }
    }

    /// Asks `queries` again and again; each answer must be the one of before.
    async fn search(self, queries: Arc<Vec<(Value, Value)>>) {
        for n in 0usize.. {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let (query, expected) = &queries[n % queries.len()];
            let was_rough = self.rough.load(Ordering::Relaxed);
            let api = &self.apis[n % self.apis.len()];
            let found = ask(api, query).await;
            let is_rough = was_rough || self.rough.load(Ordering::Relaxed);
            match found {
                Ok((answer, None)) if answer == *expected => {}
                Ok((_, Some(_))) | Err(_) if is_rough => {}
                other => self.known().faults.push(format!("{query}: {other:?}, not {expected}")),
            }
            self.searches.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(PACE).await;
        }
    }
}

/// What is compared of an answer, and what it says of being incomplete.
async fn ask(api: &Api, query: &Value) -> Result<(Value, Option<String>), String> {
    let path = format!("/indexes/{INDEX}/search");
    let body = Bytes::from(query.to_string());
    let answer = api.send(Method::POST, &path, Some("application/json"), body).await;
    let answer = answer.map_err(|error| error.to_string())?;
    if answer.status != 200 {
        return Err(format!("{}: {}", answer.status, answer.json()));
    }
    let degraded = answer.headers.get("x-miroir-degraded");
    let degraded = degraded.map(|said| String::from_utf8_lossy(said.as_bytes()).into_owned());
    let body = answer.json();
    let parts = ["hits", "totalHits", "estimatedTotalHits", "facetDistribution"];
    Ok((parts.iter().map(|part| body[*part].clone()).collect(), degraded))
}

fn queries() -> Vec<Value> {
    let steady = "kind = steady";
    let words = WORDS.iter().map(|word| {
        json!({ "q": word, "filter": steady, "hitsPerPage": 30, "page": 1, "sort": ["n:asc"] })
    });
    let others = [
        json!({ "q": "", "filter": steady, "sort": ["n:desc"], "offset": 100, "limit": 40 }),
        json!({ "q": "riv", "filter": steady, "sort": ["n:asc"], "facets": ["color"] }),
        json!({ "q": "\"winter lantern\"", "filter": steady, "sort": ["n:asc"] }),
        json!({ "q": "granite", "filter": [steady, "n > 1000"], "sort": ["n:asc"] }),
    ];
    words.chain(others).collect()
}

/// Orders and their progress, by whichever pod answers.
struct Operator {
    apis: Vec<Api>,
}

impl Operator {
    fn new(cluster: &Cluster) -> Self {
        let key = cluster.ready.admin_key.as_deref();
        let api = |pod: &Member| Api::new(&pod.url, key).with_patience(Duration::from_secs(10));
        Self { apis: cluster.ready.pods.iter().map(api).collect() }
    }

    async fn order(&self, method: Method, path: &str, body: Option<&Value>) -> Value {
        let deadline = Instant::now() + patience();
        for at in 0.. {
            match self.apis[at % self.apis.len()].call(method.clone(), path, body).await {
                Ok(answer) => return answer,
                Err(error) => assert!(Instant::now() < deadline, "{path}: {error}"),
            }
            tokio::time::sleep(POLL).await;
        }
        unreachable!("the loop has no end")
    }

    /// Waits until every shard is in its place; how many replicas that took.
    async fn settled(&self) -> u64 {
        let deadline = Instant::now() + patience();
        let mut total = 0;
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let moves = self.order(Method::GET, "/_miroir/rebalance", None).await;
            let count = |name: &str| moves[name].as_u64().unwrap_or_default();
            total = total.max(count("total"));
            let left = count("total") - count("done") + count("surplus") + count("leaving");
            if left == 0 && moves["beganAt"].is_null() {
                return total;
            }
            assert!(Instant::now() < deadline, "it does not come to rest: {moves}");
        }
    }

    /// Waits until the index has so many shards, and everything is in its place.
    async fn resharded(&self, shards: u32) {
        let path = format!("/_miroir/indexes/{INDEX}/reshard");
        let deadline = Instant::now() + patience();
        loop {
            let view = self.order(Method::GET, &path, None).await;
            if view["state"] == "idle" && view["target"].is_null() {
                assert_eq!(view["shards"], json!(shards), "{view}");
                break;
            }
            assert!(Instant::now() < deadline, "it does not come to its end: {view}");
            tokio::time::sleep(POLL).await;
        }
        self.settled().await;
    }

    async fn node(&self, id: &str) -> Value {
        let topology = self.order(Method::GET, "/_miroir/topology", None).await;
        let mut nodes = topology["nodes"].as_array().cloned().unwrap_or_default();
        nodes.retain(|node| node["id"] == id);
        nodes.pop().unwrap_or_default()
    }
}

/// How many documents there are that nobody changes.
fn steady() -> usize {
    number("MIROIR_MOVES_DOCUMENTS").map_or(STEADY, |count| count as usize)
}

fn patience() -> Duration {
    let usual = PATIENCE * u32::try_from(steady().div_ceil(STEADY_FAST)).unwrap_or(1);
    match number("MIROIR_MOVES_SEEDS") {
        None => usual,
        Some(_) => usual + LATE_MAX,
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// When the pods that lead are killed.
struct Trouble {
    /// `None`: twice, at once.
    dice: Option<ChaCha8Rng>,
}

impl Trouble {
    /// How long after an operation began its leader is killed; `usually` without dice.
    fn strikes(&mut self, usually: Option<Duration>) -> Option<Duration> {
        match &mut self.dice {
            None => usually,
            Some(dice) => Some(Duration::from_millis(dice.random_range(0..STRIKE_MAX_MS))),
        }
    }
}

async fn load(api: &Api) {
    let create = json!({ "uid": INDEX, "primaryKey": "id" });
    api.apply(Method::POST, "/indexes", Some(&create), patience()).await.expect("an index");
    let settings = json!({ "filterableAttributes": ["kind", "n", "color"],
        "sortableAttributes": ["n"], "rankingRules": ["words", "sort", "typo", "exactness"] });
    let path = format!("/indexes/{INDEX}/settings");
    api.apply(Method::PATCH, &path, Some(&settings), patience()).await.expect("settings");
    let documents: Vec<Value> = (0..steady())
        .map(|n| {
            let word = |step: usize| WORDS[(n * step + n / 8) % WORDS.len()];
            json!({ "id": format!("steady-{n}"), "n": n, "kind": "steady",
                "color": COLORS[n % COLORS.len()],
                "text": format!("{} {} {}", word(1), word(3), word(5)) })
        })
        .collect();
    let path = format!("/indexes/{INDEX}/documents");
    for batch in documents.chunks(BATCH) {
        api.apply(Method::POST, &path, Some(&json!(batch)), patience()).await.expect("documents");
    }
}

async fn another_node(directory: &Path, id: &str) -> (NodeProcess, Member) {
    let node = NodeProcess::start(&directory.join(id)).await.expect("another node");
    let member = Member {
        id: id.to_owned(),
        pid: node.pid(),
        url: node.url.clone(),
        peer_address: None,
        key: Some(node.key.clone()),
        group: Some(0),
    };
    (node, member)
}

/// Kills the pod that holds a role, the writer of an index by what its role begins with, after a
/// while, and waits until all is well again.
async fn strike(
    after: Option<Duration>,
    cluster: &Cluster,
    operator: &Operator,
    clients: &Clients,
    role: &str,
) {
    let Some(after) = after else { return };
    tokio::time::sleep(after).await;
    let roles = operator.order(Method::GET, "/_miroir/roles", None).await;
    let mut roles = roles.as_array().cloned().unwrap_or_default();
    roles.retain(|known| known["role"].as_str().is_some_and(|name| name.starts_with(role)));
    let holder = roles.pop().and_then(|role| role["holder"].as_str().map(str::to_owned));
    let holder = holder.expect("a pod that holds the role");
    let pod = cluster.ready.pods.iter().find(|pod| pod.id == holder).expect("a pod of ours");
    clients.rough.store(true, Ordering::Relaxed);
    cluster.kill(pod).expect("kill -9 of a pod");
    calm_again(cluster, operator, clients).await;
}

/// Waits until everybody answers again, and nobody is left out.
async fn calm_again(cluster: &Cluster, operator: &Operator, clients: &Clients) {
    for member in cluster.ready.pods.iter().chain(&cluster.ready.nodes) {
        let api = cluster.node_api(member);
        api.wait_until_healthy(patience()).await.expect("it is started again");
    }
    operator.settled().await;
    let deadline = Instant::now() + patience();
    loop {
        let topology = operator.order(Method::GET, "/_miroir/topology", None).await;
        let nodes = topology["nodes"].as_array().cloned().unwrap_or_default();
        if nodes.iter().all(|node| node["up"] == true && node["replicas"] == node["inSync"]) {
            break;
        }
        assert!(Instant::now() < deadline, "a replica stays out of sync: {topology}");
        tokio::time::sleep(POLL).await;
    }
    clients.rough.store(false, Ordering::Relaxed);
}

async fn start(clients: &Clients, apis: &Api) -> Vec<JoinHandle<()>> {
    let mut expected = Vec::new();
    for query in queries() {
        let (answer, degraded) = ask(apis, &query).await.expect("an answer before any move");
        assert_eq!(degraded, None);
        expected.push((query, answer));
    }
    let (tasks, expected) = (Tasks::new(), Arc::new(expected));
    vec![
        tasks.spawn("writer", clients.clone().write()),
        tasks.spawn("searcher", clients.clone().search(expected.clone())),
        tasks.spawn("searcher", clients.clone().search(expected)),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_client_notices_that_the_fleet_changes() {
    tell(Trouble { dice: None }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes, and up to an hour, for each seed"]
async fn whoever_leads_may_be_killed_at_any_moment() {
    let first = number("MIROIR_MOVES_SEED").unwrap_or(1);
    for seed in first..first + number("MIROIR_MOVES_SEEDS").unwrap_or(1) {
        let began = Instant::now();
        tell(Trouble { dice: Some(ChaCha8Rng::seed_from_u64(seed)) }).await;
        println!("seed {seed}: well, after {} s", began.elapsed().as_secs());
    }
}

async fn tell(mut trouble: Trouble) {
    let directory = tempfile::tempdir().expect("a directory");
    let arguments = ["--pods", "3", "--nodes", "2", "--groups", "1", "--rf", "1", "--shards", "16"];
    let cluster = Cluster::start(directory.path(), &arguments).await.expect("a cluster");
    let (api, operator) = (cluster.api(), Operator::new(&cluster));
    load(&api).await;
    let clients = Clients::new(&cluster);
    let started = start(&clients, &api).await;

    // What would move is said before anything does.
    let (_third, third) = another_node(directory.path(), "third").await;
    let body = json!({ "id": third.id, "address": third.url, "key": third.key });
    let dry = operator.order(Method::POST, "/_miroir/nodes?dryRun=true", Some(&body)).await;
    let planned = dry["place"].as_array().map_or(0, Vec::len) as u64;
    assert!(planned > 0 && operator.node("third").await.is_null(), "{dry}");
    operator.order(Method::POST, "/_miroir/nodes", Some(&body)).await;
    match trouble.strikes(None) {
        None => assert_eq!(operator.settled().await, planned, "more or less moved than was said"),
        after => strike(after, &cluster, &operator, &clients, "rebalancer").await,
    }
    assert_eq!(operator.node("third").await["inSync"], json!(planned));

    // A node is emptied and leaves; meanwhile the pod that steers it is killed.
    let leaving = &cluster.ready.nodes[0];
    let drain = format!("/_miroir/nodes/{}/drain", leaving.id);
    operator.order(Method::POST, &drain, None).await;
    let after = trouble.strikes(Some(Duration::ZERO));
    strike(after, &cluster, &operator, &clients, "rebalancer").await;
    assert_eq!(operator.node(&leaving.id).await["part"], "drained");
    let left = cluster.node_api(leaving).get("/indexes").await.expect("the node's indexes");
    assert!(!left.to_string().contains(INDEX), "something was left behind: {left}");
    operator.order(Method::DELETE, &format!("/_miroir/nodes/{}", leaving.id), None).await;

    // Two copies of everything; a node is killed while they are made.
    operator.order(Method::PUT, "/_miroir/replication", Some(&json!({ "factor": 2 }))).await;
    let after = trouble.strikes(None);
    strike(after, &cluster, &operator, &clients, "rebalancer").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    clients.rough.store(true, Ordering::Relaxed);
    cluster.kill(&cluster.ready.nodes[1]).expect("kill -9 of a node");
    calm_again(&cluster, &operator, &clients).await;

    // More shards, while the pod that writes the index is killed; then fewer, and no client notices.
    let path = format!("/_miroir/indexes/{INDEX}/reshard");
    let order = json!({ "shards": 48 });
    let dry = operator.order(Method::POST, &format!("{path}?dryRun=true"), Some(&order)).await;
    assert_eq!((&dry["shards"], &dry["target"]), (&json!(16), &json!(48)), "{dry}");
    operator.order(Method::POST, &path, Some(&order)).await;
    let after = trouble.strikes(Some(Duration::ZERO));
    strike(after, &cluster, &operator, &clients, "writer/").await;
    operator.resharded(48).await;
    operator.order(Method::POST, &path, Some(&json!({ "shards": 12 }))).await;
    let after = trouble.strikes(None);
    strike(after, &cluster, &operator, &clients, "writer/").await;
    operator.resharded(12).await;

    clients.stop.store(true, Ordering::Relaxed);
    for task in started {
        task.await.expect("a writer or searcher");
    }
    let known = std::mem::take(&mut *clients.known());
    assert_eq!(known.faults, Vec::<String>::new());
    assert!(clients.searches.load(Ordering::Relaxed) > 500, "hardly any search took place");
    for uid in &known.tasks {
        let task = api.wait_for_task(*uid, patience()).await.expect("a task");
        assert_eq!(task["status"], "succeeded", "an acknowledged write failed: {task}");
    }
    let documents = replicas::all_documents(&api, INDEX).await;
    let alive = known.lively.values().flatten().count();
    assert_eq!(documents.len(), steady() + alive, "documents were lost or came back");
    for (id, round) in &known.lively {
        let found = documents.get(id).and_then(|document| document["round"].as_u64());
        assert_eq!(found, *round, "{id}");
    }
    let nodes = [cluster.ready.nodes[1].clone(), third];
    replicas::become_equal(&nodes, INDEX, &documents, 2, patience()).await;
    cluster.stop().await.expect("an end");
}
