//! What a resharding and a move of shards cost: how long they take, and what searches feel of them.
//!
//! The cluster is started here, on free ports: one pod before three nodes. Resharding is compared with
//! the way that it spares: the same documents written once more, into a second index.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use miroir_seams::Tasks;
use miroir_tests::client::{Api, ApiFault};
use miroir_tests::processes::{Cluster, NodeProcess};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{BenchFault, MovesArguments};

const INDEX: &str = "moving";
const SHADOW: &str = "shadow";
/// Shards before and after.
const SHARDS: (&str, u32) = ("16", 48);
/// Documents in one request.
const BATCH: usize = 10_000;
const PATIENCE: Duration = Duration::from_secs(3600);
/// Between two looks at how far something is.
const LOOK: Duration = Duration::from_millis(200);
/// Between two searches: a machine that is all busy measures queues.
const PACE: Duration = Duration::from_millis(10);
const WORDS: [&str; 16] = [
    "river", "mountain", "harbour", "winter", "lantern", "orchard", "violin", "granite", "copper",
    "meadow", "thunder", "velvet", "compass", "saffron", "glacier", "ribbon",
];

/// What was measured.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// Documents.
    pub documents: usize,
    /// Writing all of them.
    pub ingest: Duration,
    /// Marking all of them and switching.
    pub reshard: Duration,
    /// Writing all of them once more, into a second index.
    pub shadow: Duration,
    /// Databases of all nodes after each of these, bytes.
    pub bytes: [u64; 3],
    /// Moving what a fourth node gets.
    pub moved: Duration,
    /// Searches while nothing else goes on, while the index is resharded, while shards move.
    pub searches: [Vec<Duration>; 3],
}

/// Starts the cluster and measures all of it.
///
/// # Errors
/// When the cluster does not start, or refuses something.
pub async fn measure(arguments: &MovesArguments) -> Result<Measured, BenchFault> {
    let directory = tempfile::tempdir().map_err(BenchFault::Directory)?;
    let shape = ["--nodes", "3", "--groups", "1", "--rf", "1", "--shards", SHARDS.0];
    let cluster = Cluster::start(&directory.path().join("cluster"), &shape).await?;
    let api = cluster.api();
    let admin = Api::new(&cluster.ready.url, cluster.ready.admin_key.as_deref());
    let mut measured = Measured { documents: arguments.documents, ..Measured::default() };

    measured.ingest = ingest(&api, INDEX, arguments.documents).await?;
    measured.bytes[0] = databases(&cluster).await?;
    measured.searches[0] =
        searches_during(&api, tokio::time::sleep(Duration::from_secs(arguments.quiet_seconds)))
            .await?
            .0;

    let steering = json!({ "documentsPerSecond": arguments.rate });
    admin.call(Method::PATCH, "/_miroir/rebalance", Some(&steering)).await?;
    let resharded = async {
        let began = Instant::now();
        let path = format!("/_miroir/indexes/{INDEX}/reshard");
        admin.call(Method::POST, &path, Some(&json!({ "shards": SHARDS.1 }))).await?;
        until(&admin, &path, |view| view["shards"] == SHARDS.1).await?;
        Ok::<_, ApiFault>(began.elapsed())
    };
    let (searches, took) = searches_during(&api, resharded).await?;
    (measured.searches[1], measured.reshard) = (searches, took?);
    measured.bytes[1] = databases(&cluster).await?;
    settled(&admin).await?;

    let node = NodeProcess::start(&directory.path().join("fourth")).await?;
    let moved = async {
        let began = Instant::now();
        let body = json!({ "id": "fourth", "address": node.url, "key": node.key });
        admin.call(Method::POST, "/_miroir/nodes", Some(&body)).await?;
        settled(&admin).await?;
        Ok::<_, ApiFault>(began.elapsed())
    };
    let (searches, took) = searches_during(&api, moved).await?;
    (measured.searches[2], measured.moved) = (searches, took?);

    let before = databases(&cluster).await?;
    measured.shadow = ingest(&api, SHADOW, arguments.documents).await?;
    measured.bytes[2] = databases(&cluster).await?.saturating_sub(before);
    Ok(measured)
}

/// Writes the documents; from the first request to the last task's end.
pub(super) async fn ingest(api: &Api, index: &str, documents: usize) -> Result<Duration, ApiFault> {
    let create = json!({ "uid": index, "primaryKey": "id" });
    api.apply(Method::POST, "/indexes", Some(&create), PATIENCE).await?;
    let settings = json!({ "filterableAttributes": ["color"], "sortableAttributes": ["n"] });
    api.apply(Method::PATCH, &format!("/indexes/{index}/settings"), Some(&settings), PATIENCE)
        .await?;
    let path = format!("/indexes/{index}/documents");
    let began = Instant::now();
    let mut last = 0;
    for first in (0..documents).step_by(BATCH) {
        let lines: Vec<String> =
            (first..documents.min(first + BATCH)).map(|n| document(n).to_string()).collect();
        let body = Bytes::from(lines.join("\n"));
        let answer = api.send(Method::POST, &path, Some("application/x-ndjson"), body).await?;
        last = answer.json()["taskUid"].as_u64().unwrap_or(last);
    }
    api.wait_for_task(last, PATIENCE).await?;
    Ok(began.elapsed())
}

pub(super) fn document(n: usize) -> Value {
    let word = |step: usize| WORDS[(n / step + n * step) % WORDS.len()];
    json!({ "id": n, "n": n, "color": word(7), "title": format!("{} {} {n}", word(1), word(3)),
        "text": format!("{} {} {} {}", word(5), word(11), word(13), word(2)) })
}

/// Searches until `work` has ended; how long each took.
async fn searches_during<T>(
    api: &Api,
    work: impl Future<Output = T>,
) -> Result<(Vec<Duration>, T), BenchFault> {
    let over = Arc::new(AtomicBool::new(false));
    let searching = Tasks::new().spawn("searches", searches(api.clone(), over.clone()));
    let outcome = work.await;
    over.store(true, Ordering::Relaxed);
    Ok((searching.await??, outcome))
}

async fn searches(api: Api, over: Arc<AtomicBool>) -> Result<Vec<Duration>, ApiFault> {
    let path = format!("/indexes/{INDEX}/search");
    let mut took = Vec::new();
    for n in 0usize.. {
        if over.load(Ordering::Relaxed) {
            break;
        }
        let q = format!("{} {}", WORDS[n % WORDS.len()], WORDS[(n * 5 + 3) % WORDS.len()]);
        let body = Bytes::from(json!({ "q": q }).to_string());
        let began = Instant::now();
        api.send(Method::POST, &path, Some("application/json"), body).await?;
        took.push(began.elapsed());
        tokio::time::sleep(PACE).await;
    }
    Ok(took)
}

async fn until(admin: &Api, path: &str, is_done: impl Fn(&Value) -> bool) -> Result<(), ApiFault> {
    while !is_done(&admin.get(path).await?) {
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// Waits until every shard is in its place.
async fn settled(admin: &Api) -> Result<(), ApiFault> {
    tokio::time::sleep(Duration::from_secs(2)).await;
    let is_done = |moves: &Value| {
        let count = |name: &str| moves[name].as_u64().unwrap_or_default();
        count("total") == count("done") && count("surplus") == 0 && count("leaving") == 0
    };
    until(admin, "/_miroir/rebalance", is_done).await
}

/// Bytes that the nodes' databases use.
async fn databases(cluster: &Cluster) -> Result<u64, ApiFault> {
    let mut bytes = 0;
    for node in &cluster.ready.nodes {
        let stats = cluster.node_api(node).get("/stats").await?;
        bytes += stats["usedDatabaseSize"].as_u64().unwrap_or_default();
    }
    Ok(bytes)
}

/// The table.
pub fn table(measured: &Measured) -> String {
    let rate = |took: Duration| measured.documents as f64 / took.as_secs_f64();
    let megabytes = |bytes: u64| bytes >> 20;
    let ingest = rate(measured.ingest);
    let rows = [
        ("written", measured.ingest, megabytes(measured.bytes[0])),
        ("resharded in place", measured.reshard, megabytes(measured.bytes[1])),
        ("written into a second index", measured.shadow, megabytes(measured.bytes[2])),
    ];
    let mut text = format!(
        "{} documents, 3 nodes, {} to {} shards\n\n| | seconds | documents/s | x | database MB |\n|---|---:|---:|---:|---:|\n",
        measured.documents, SHARDS.0, SHARDS.1
    );
    for (what, took, megabytes) in rows {
        let seconds = took.as_secs_f64();
        let of = rate(took);
        text +=
            &format!("| {what} | {seconds:.1} | {of:.0} | {:.2} | {megabytes} |\n", of / ingest);
    }
    text += &format!("| moved to a fourth node | {:.1} | | | |\n\n", measured.moved.as_secs_f64());
    text += "| searches | count | p50 ms | x | p99 ms | x |\n|---|---:|---:|---:|---:|---:|\n";
    let of = |at: usize, share: f64| percentile(&measured.searches[at], share);
    for (at, what) in ["quiet", "while resharding", "while moving"].into_iter().enumerate() {
        let (p50, p99) = (of(at, 0.5), of(at, 0.99));
        let (quiet50, quiet99) = (of(0, 0.5), of(0, 0.99));
        text += &format!(
            "| {what} | {} | {p50:.2} | {:.2} | {p99:.2} | {:.2} |\n",
            measured.searches[at].len(),
            p50 / quiet50,
            p99 / quiet99
        );
    }
    text
}

/// Milliseconds; 0 of nothing.
fn percentile(all: &[Duration], share: f64) -> f64 {
    let mut sorted = all.to_vec();
    sorted.sort_unstable();
    let at = (sorted.len() as f64 * share) as usize;
    sorted.get(at.min(sorted.len().saturating_sub(1))).map_or(0.0, |took| took.as_secs_f64() * 1e3)
}
