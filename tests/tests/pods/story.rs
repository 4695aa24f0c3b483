//! A cluster under traffic: begun, looked at, ended.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::join_all;
use miroir_tests::client::Api;
use miroir_tests::pods::Pod;
use miroir_tests::processes::{Cluster, Member};
use miroir_tests::replicas;
use miroir_tests::roles::RoleWatch;
use miroir_tests::traffic::{Expect, Traffic};
use serde_json::json;
use tokio::task::JoinHandle;

/// One writer for each: their roles spread over the pods. None ends in another's name.
pub const INDEXES: [&str; 3] = ["amber", "basalt", "cobalt"];
/// How long catching up may take after everything is over.
const RECOVERY: Duration = Duration::from_secs(120);

/// The cluster and its clients.
pub struct Story {
    _directory: tempfile::TempDir,
    cluster: Cluster,
    pub pods: Vec<Pod>,
    pub traffic: Traffic,
    started: Vec<JoinHandle<()>>,
    roles: RoleWatch,
}

impl Story {
    /// Three pods before four nodes in two groups, under traffic.
    pub async fn begin() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let arguments =
            ["--pods", "3", "--nodes", "4", "--groups", "2", "--rf", "2", "--no-respawn"];
        let cluster = Cluster::start(directory.path(), &arguments).await.expect("a cluster");
        let urls = cluster.ready.pods.iter().map(|pod| pod.url.as_str());
        let traffic = Traffic::new(urls.clone(), &cluster.ready.master_key);
        let roles = RoleWatch::start(urls, cluster.ready.admin_key.as_deref());
        for index in INDEXES {
            traffic.probe(index, 0).await;
        }
        let started = traffic.start(&INDEXES);
        traffic.acknowledged_more(25).await;
        let pods = Pod::all_of(&cluster);
        Self { _directory: directory, cluster, pods, traffic, started, roles }
    }

    /// How long each index took from now to carry out a write sent now, first to pod `first`.
    pub async fn probe_all(&self, first: usize) -> Vec<Duration> {
        let probes = INDEXES.map(|index| self.traffic.probe(index, first));
        join_all(probes).await.into_iter().map(|(_, ended)| ended).collect()
    }

    /// Pod `at` stops, starts and answers again.
    pub async fn start_again(&mut self, at: usize) {
        self.pods[at].wait_until_gone().await.expect("gone");
        self.traffic.expect(at, Expect::Nothing);
        self.pods[at].start_again().await.expect("ready again");
        self.traffic.expect(at, Expect::Answers);
    }

    /// Stops the traffic and looks at what is left.
    pub async fn end(self) {
        self.traffic.stop(self.started).await;
        self.roles.end();
        println!("{}", self.traffic.summary());
        assert_eq!(self.traffic.ledger().faults, Vec::<String>::new());
        assert!(
            self.traffic.searches().iter().all(|count| *count > 100),
            "hardly any search took place: {:?}",
            self.traffic.searches()
        );
        look(&self.traffic, &self.cluster.ready.nodes, &INDEXES, 4).await;
        for pod in &self.pods {
            let log = std::fs::read_to_string(pod.log()).expect("a log");
            assert!(!log.contains("panicked"), "{} panicked: {log}", pod.member.id);
        }
    }
}

/// What must hold of tasks and documents once the traffic has stopped.
pub async fn look(traffic: &Traffic, nodes: &[Member], indexes: &[&str], copies: usize) {
    let ledger = std::mem::take(&mut *traffic.ledger());
    let mut all = BTreeSet::new();
    for index in indexes {
        let tasks = &ledger.tasks[*index];
        for uid in tasks {
            assert!(all.insert(*uid), "task {uid} was given to two writes");
            traffic.wait_for_success(*uid, *uid as usize).await;
        }
        let ids: BTreeSet<&String> = ledger.ids[*index].iter().collect();
        let mut shown = None;
        for api in traffic.apis() {
            // Every repeated request was carried out once.
            assert_eq!(count_tasks(api, index).await, tasks.len(), "tasks on {}", api.base());
            let documents = replicas::all_documents(api, index).await;
            assert_eq!(documents.keys().collect::<BTreeSet<_>>(), ids, "on {}", api.base());
            let hot = documents.get("hot").map(|hot| hot["round"].clone());
            assert_eq!(hot, ledger.hot.get(*index).map(|round| json!(round)));
            if let Some(before) = shown.replace(documents) {
                assert_eq!(before, replicas::all_documents(api, index).await);
            }
        }
        let documents = shown.expect("a pod");
        replicas::become_equal(nodes, index, &documents, copies, RECOVERY).await;
    }
}

async fn count_tasks(api: &Api, index: &str) -> usize {
    let path = format!("/tasks?limit=1&types=documentAdditionOrUpdate&indexUids={index}");
    let answer = api.get(&path).await.expect("tasks");
    answer["total"].as_u64().and_then(|total| usize::try_from(total).ok()).expect("a total")
}
