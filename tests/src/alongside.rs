//! One node alone and a cluster, which are asked the same and must answer alike.
//!
//! For tests: what is not as it must be is a panic.

use std::path::Path;
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use crate::client::Api;
use crate::processes::{Cluster, NodeProcess};

const PATIENCE: Duration = Duration::from_secs(60);

/// One node alone and a cluster, which are asked the same.
#[derive(Debug)]
pub struct Both {
    /// The node.
    pub alone: Api,
    /// The cluster.
    pub cluster: Api,
    /// They end with this.
    processes: (NodeProcess, Cluster),
}

impl Both {
    /// Starts a node, and a cluster by `miroir up` with these arguments, with their data below `directory`.
    pub async fn start(directory: &Path, arguments: &[&str]) -> Self {
        let node = NodeProcess::start(&directory.join("alone")).await.expect("a node");
        let cluster = Cluster::start(&directory.join("cluster"), arguments).await;
        let cluster = cluster.expect("a cluster");
        Self { alone: node.api(), cluster: cluster.api(), processes: (node, cluster) }
    }

    /// Ends the cluster as a user does, and the node.
    pub async fn stop(self) {
        let (_node, cluster) = self.processes;
        cluster.stop().await.expect("an end");
    }

    /// The end of a write, as far as both must agree.
    pub async fn end(&self, method: Method, path: &str, body: Value) -> Value {
        let mut ends = Vec::new();
        for api in [&self.alone, &self.cluster] {
            let uid = api.enqueue(method.clone(), path, Some(&body)).await.expect("accepted");
            let task = api.wait_for_task(uid, PATIENCE).await.expect("an end");
            let of = |member: &str| task[member].clone();
            ends.push(json!({
                "status": of("status"),
                "type": of("type"),
                "indexUid": of("indexUid"),
                "details": of("details"),
                "error": task["error"]["message"],
                "code": task["error"]["code"],
            }));
        }
        assert_eq!(ends[0], ends[1], "{method} {path} {body}: alone, and as a cluster");
        ends.remove(0)
    }

    /// As [`Self::end`], of a write that both must take.
    pub async fn succeeds(&self, method: Method, path: &str, body: Value) -> Value {
        let end = self.end(method, path, body).await;
        assert_eq!(end["status"], "succeeded", "{end}");
        end
    }

    /// The error of a write that both must fail.
    pub async fn fails(&self, method: Method, path: &str, body: Value) -> Value {
        let end = self.end(method, path, body).await;
        assert_eq!(end["status"], "failed", "{end}");
        end["error"].clone()
    }

    /// What both answer.
    pub async fn answer(&self, path: &str, body: Option<Value>) -> Value {
        let method = if body.is_some() { Method::POST } else { Method::GET };
        let alone = self.alone.call(method.clone(), path, body.as_ref()).await;
        let cluster = self.cluster.call(method, path, body.as_ref()).await;
        let alone = alone.unwrap_or_else(|fault| refusal(&fault.to_string()));
        let cluster = cluster.unwrap_or_else(|fault| refusal(&fault.to_string()));
        assert_eq!(alone, cluster, "{path} {body:?}: alone, and as a cluster");
        alone
    }

    /// Names of indexes, and how many documents each has.
    pub async fn indexes(&self) -> Vec<(String, u64)> {
        let mut counted = Vec::new();
        for api in [&self.alone, &self.cluster] {
            let stats = api.get("/stats").await.expect("statistics");
            let indexes = stats["indexes"].as_object().expect("indexes").clone();
            let count = |(name, of): (String, Value)| (name, of["numberOfDocuments"].as_u64());
            let counts = indexes.into_iter().map(count).map(|(name, n)| (name, n.unwrap_or(0)));
            counted.push(counts.collect::<Vec<_>>());
        }
        assert_eq!(counted[0], counted[1], "alone, and as a cluster");
        counted.remove(0)
    }
}

/// What a refusal says, without where it was said.
fn refusal(fault: &str) -> Value {
    let body = fault.find('{').map(|at| &fault[at..]).unwrap_or_default();
    let end = body.rfind('}').map_or(0, |at| at + 1);
    let refusal: Value = serde_json::from_str(&body[..end]).unwrap_or(json!(fault));
    json!({ "message": refusal["message"], "code": refusal["code"] })
}
