//! One pod with a real log and no nodes, that knows another one which does not answer.

use std::time::Duration;

use bytes::Bytes;
use http::Response;
use miroir_actors::health_checker::HealthConfig;
use miroir_actors::peers::{Peer, Peers, PeersView};
use miroir_actors::pod::{PodConfig, start_pod};
use miroir_actors::task_pruner::TaskRetention;
use miroir_actors::webhook_sender::NoOutlet;
use miroir_seams::{
    MemoryFiles, NodeCall, NodeTransport, PeerCall, PeerCallError, PeerTransport, Seams,
    TransportError,
};
use miroir_storage::commands::Command;
use miroir_storage::engine::MemoryEngine;
use miroir_storage::journal::{Journal, JournalConfig};
use miroir_storage::log::{CoordinatorLog, LogConfig, Start};
use miroir_storage::raft::{NoPeers, PeerAddresses};

use super::*;
use crate::metrics::MetricsSource;

type TestResult = Result<(), Box<dyn std::error::Error>>;

#[derive(Debug)]
struct NoNodes;

#[async_trait]
impl NodeTransport for NoNodes {
    async fn send(&self, _call: NodeCall) -> Result<Response<Bytes>, TransportError> {
        Err(TransportError::Unreachable("there is none".into()))
    }
}

/// Says nothing until the time is over.
#[derive(Debug)]
struct Silent(Seams);

#[async_trait]
impl PeerTransport for Silent {
    async fn call(&self, call: PeerCall) -> Result<Bytes, PeerCallError> {
        self.0.clock.sleep(call.timeout).await;
        Err(PeerCallError::Unreachable("no answer".to_owned()))
    }
}

async fn admin(seams: &Seams, others: &[&str]) -> Result<PodAdmin, Box<dyn std::error::Error>> {
    let config = LogConfig {
        engine: Arc::new(MemoryEngine::new()),
        raft_id: Some(RaftId(7)),
        start: Start::Alone,
        address: "localhost:1".to_owned(),
        peers: Arc::new(NoPeers),
        addresses: PeerAddresses::default(),
    };
    let log = CoordinatorLog::open(config, seams.clone()).await?;
    let journal = Journal::open(Arc::new(MemoryFiles::new()), JournalConfig::default(), seams)?;
    log.propose(&Command::InitCluster { cluster_id: "c".to_owned() }).await?;
    let config = PodConfig {
        shards: 1,
        replication_factor: 1,
        health: HealthConfig::default(),
        retention: TaskRetention::default(),
        pod_grace: Duration::from_secs(600),
        node_grace: Duration::from_secs(1800),
        move_hours: None,
        anti_entropy: Default::default(),
        placement_life: Duration::from_secs(15),
    };
    let since = seams.clock.instant();
    let peers = PeersView::new(PodId::from("pod-1"), since, Arc::new(Silent(seams.clone())));
    let mut seen = Peers::clone(&peers.now());
    for (n, pod) in (0..).zip(others) {
        let address = format!("{pod}:7790");
        let known = KnownPod {
            raft_id: Some(RaftId(n)),
            peer_address: address.clone(),
            http_address: format!("{pod}:7700"),
            version: "0.1.0".to_owned(),
            alive: true,
            since,
            starts: 2,
            values: BTreeMap::from([("load".to_owned(), "0.5".to_owned())]),
        };
        seen.known.insert(PodId::from(*pod), known);
        seen.live.insert(PodId::from(*pod), Peer { address, since, leaving: false });
    }
    peers.set(seen);
    let pod = PodContext::new(
        config,
        log,
        journal,
        Arc::new(NoNodes),
        peers,
        Arc::new(NoOutlet),
        seams.clone(),
    );
    start_pod(pod.clone()).await?;
    seams.clock.sleep(Duration::from_secs(1)).await;
    Ok(PodAdmin::new(pod, Arc::default()))
}

#[tokio::test(start_paused = true)]
async fn a_pod_alone_answers_for_itself() -> TestResult {
    let admin = admin(&Seams::seeded(1), &[]).await?;
    let peers = admin.peers().await?;
    assert_eq!((peers.self_pod.as_str(), peers.leader.as_deref()), ("pod-1", Some("pod-1")));
    assert_eq!(peers.cluster_id.as_deref(), Some("c"));
    let [own] = peers.pods.as_slice() else { return Err(format!("{peers:?}").into()) };
    assert!(own.is_self && own.alive && own.voter && !own.learner);
    assert_eq!((own.raft_id.as_deref(), own.since), (Some("7"), 1));

    let roles: Vec<(String, Option<String>, bool)> =
        admin.roles().await?.into_iter().map(|role| (role.role, role.holder, role.alive)).collect();
    let held = |role: &str| (role.to_owned(), Some("pod-1".to_owned()), true);
    assert_eq!(roles, [held("membership"), held("rebalancer"), held("registrar")]);

    let actors = admin.actors(None).await?;
    let [own] = actors.pods.as_slice() else { return Err(format!("{actors:?}").into()) };
    assert!(own.reachable && own.error.is_none());
    let root = own.actors.first().ok_or("nobody")?;
    assert_eq!((root.id.as_str(), root.kind.as_str(), &root.parent), ("pod-1/pod", "Pod", &None));
    assert!(root.handled > 0 && root.state == "running");
    assert_eq!(admin.actors(Some("pod-9")).await, Err(AdminError::PodNotFound("pod-9".into())));

    let metrics = admin.metrics().await.map_err(|error| error.message)?;
    for line in [
        "miroir_actors{kind=\"Registrar\"} 1.0",
        "miroir_leader{role=\"registrar\"} 1.0",
        "miroir_peers{state=\"alive\"} 1.0",
        "miroir_rebalance_paused 0.0",
    ] {
        assert!(metrics.lines().any(|said| said == line), "{line} is not in\n{metrics}");
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn silent_pods_are_waited_for_side_by_side_and_shown_as_unreachable() -> TestResult {
    let seams = Seams::seeded(1);
    // One whose id this pod's id begins with.
    let admin = admin(&seams, &["pod", "pod-2"]).await?;
    let before = seams.clock.instant();
    let actors = admin.actors(None).await?;
    assert_eq!(before.elapsed(), Duration::from_secs(2));
    let reached: Vec<(&str, bool, bool)> = actors
        .pods
        .iter()
        .map(|pod| (pod.pod.as_str(), pod.reachable, pod.actors.is_empty()))
        .collect();
    assert_eq!(reached, [("pod", false, true), ("pod-1", true, false), ("pod-2", false, true)]);

    let restarted = admin.restart_actor("pod-1/task-pruner").await?;
    assert_eq!((restarted.id.as_str(), restarted.pod.as_str()), ("pod-1/task-pruner", "pod-1"));
    let unreachable = admin.restart_actor("pod-2/task-pruner").await;
    assert!(matches!(unreachable, Err(AdminError::PodUnreachable { pod, .. }) if pod == "pod-2"));
    let root = admin.restart_actor("pod-1/pod").await;
    assert!(matches!(root, Err(AdminError::ActorNotRestartable { .. })));
    for unknown in ["pod-1/nobody", "pod-9/pod", "pod-1"] {
        let answer = admin.restart_actor(unknown).await;
        assert_eq!(answer, Err(AdminError::ActorNotFound(unknown.to_owned())));
    }

    let peers = admin.peers().await?;
    let seen = peers.pods.last().ok_or("nobody")?;
    assert_eq!((seen.id.as_str(), seen.generation, seen.is_self), ("pod-2", 2, false));
    assert_eq!(seen.http_address, "pod-2:7700");
    Ok(())
}
