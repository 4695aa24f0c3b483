//! What reads make of a node that hangs, and of facets with more values than nodes list.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use http::Method;
use miroir_tests::client::Api;
use miroir_tests::processes::{Cluster, Member};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::time::Instant;

const PATIENCE: Duration = Duration::from_secs(120);
/// Documents per request.
const BATCH: usize = 5000;

async fn cluster(directory: &Path, arguments: &[&str]) -> Cluster {
    Cluster::start(directory, arguments).await.expect("a cluster")
}

async fn apply(api: &Api, method: Method, path: &str, body: Value) {
    let task = api.apply(method, path, Some(&body), PATIENCE).await.expect("a task");
    assert_eq!(task["status"], "succeeded", "{task}");
}

/// Continues the node however the test ends.
struct Stopped(Pid);

impl Stopped {
    fn new(node: &Member) -> Self {
        let pid = i32::try_from(node.pid).ok().and_then(Pid::from_raw).expect("a pid");
        kill_process(pid, Signal::STOP).expect("stopped");
        Self(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _gone = kill_process(self.0, Signal::CONT);
    }
}

#[tokio::test]
async fn a_node_that_hangs_costs_one_search_a_second_and_the_next_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let cluster = cluster(directory.path(), &["--nodes", "4", "--groups", "2"]).await;
    let api = cluster.api();
    let documents: Vec<Value> = (0..200).map(|id| json!({"id": id, "text": "steady"})).collect();
    apply(&api, Method::POST, "/indexes/a/documents", json!(documents)).await;

    let stopped = Stopped::new(&cluster.ready.nodes[0]);
    let mut slow = 0;
    for number in 0..40 {
        let start = Instant::now();
        let query = json!({"q": format!("steady {number}"), "page": 1, "hitsPerPage": 1});
        let answer = api.post("/indexes/a/search", &query).await.expect("an answer");
        assert_eq!(answer["totalHits"], 200, "{answer}");
        let took = start.elapsed();
        // Far below the time-out of ten seconds.
        assert!(took < Duration::from_secs(5), "{took:?}");
        slow += u32::from(took > Duration::from_millis(900));
    }
    drop(stopped);
    assert!(slow <= 2, "{slow} searches waited for the node");
}

/// Value `n` of `values` has about `documents / n` documents: a few frequent ones, a long tail.
fn draw_value(document: usize, values: usize) -> usize {
    let random = twox_hash::XxHash64::oneshot(7, &document.to_le_bytes());
    let fraction = (random % 1_000_000) as f64 / 1e6;
    ((values as f64).powf(fraction) as usize).min(values - 1)
}

#[tokio::test]
async fn facets_by_count_are_exact_beyond_what_nodes_list() {
    const DOCUMENTS: usize = 30_000;
    let directory = tempfile::tempdir().expect("a directory");
    let cluster = cluster(directory.path(), &["--nodes", "2", "--groups", "1"]).await;
    let api = cluster.api();
    let settings = json!({"filterableAttributes": ["tag", "serial"],
        "searchableAttributes": ["tag"], "faceting": {"sortFacetValuesBy": {"*": "count"}}});
    apply(&api, Method::PATCH, "/indexes/a/settings", settings).await;
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    let mut documents = Vec::with_capacity(BATCH);
    for id in 0..DOCUMENTS {
        // Every second document has a value of its own, so that lists are cut.
        let tag = match id % 2 {
            0 => format!("tag {}", draw_value(id, 4000)),
            _ => format!("rare {id}"),
        };
        *counts.entry(tag.clone()).or_default() += 1;
        documents.push(json!({"id": id, "tag": tag, "serial": id}));
        if documents.len() == BATCH || id + 1 == DOCUMENTS {
            let batch = json!(std::mem::take(&mut documents));
            apply(&api, Method::POST, "/indexes/a/documents", batch).await;
        }
    }
    let query = json!({"facets": ["tag", "serial"], "limit": 1});
    let kind = Some("application/json");
    let bytes = bytes::Bytes::from(query.to_string());
    let answer = api.send(Method::POST, "/indexes/a/search", kind, bytes).await.expect("an answer");
    let said = answer.json();
    let shown = said["facetDistribution"]["tag"].as_object().expect("a facet");
    let mut best: Vec<u64> = counts.values().copied().collect();
    best.sort_unstable_by(|a, b| b.cmp(a));
    let listed: Vec<u64> = shown.values().filter_map(Value::as_u64).collect();
    assert_eq!(listed, best[..100]);
    for (value, count) in shown {
        assert_eq!(counts.get(value).copied(), count.as_u64(), "{value}");
    }
    // Thousands of values with one document each: nobody can tell the most frequent ones.
    let inexact = answer.headers.get("x-miroir-inexact").expect("a header");
    assert_eq!(inexact, "facets=serial");
}
