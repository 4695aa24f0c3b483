//! Small actors of one kind each, then a pod with a real log and no nodes, on virtual time.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::Response;
use miroir_seams::{
    MemoryFiles, NodeCall, NodeTransport, PeerCall, PeerCallError, PeerService, PeerTransport,
    Seams, TransportError,
};
use miroir_storage::commands::{Command, Work};
use miroir_storage::engine::MemoryEngine;
use miroir_storage::ids::{GroupId, NodeId, PodId};
use miroir_storage::journal::{Journal, JournalConfig};
use miroir_storage::log::{CoordinatorLog, LogConfig, Start};
use miroir_storage::raft::{NoPeers, PeerAddresses, RaftId};
use miroir_storage::tables::nodes::NodeRecord;
use ractor::ActorStatus;
use tokio::sync::oneshot;

use super::*;
use crate::accept::{RequestedWork, WriteMarks, WriteRequest, accept};
use crate::health_checker::{HealthCheckerMessage, HealthConfig};
use crate::peer_service::{PodService, RestartReply, actors_of, restart_on};
use crate::peers::{Peer, Peers, PeersView};
use crate::pod::{PodConfig, PodContext, PodMessage, start_pod};
use crate::restarts::{FAILURES_MAX, STEADY_AFTER, WAIT_MAX, WAIT_MIN};
use crate::task_pruner::TaskRetention;
use crate::webhook_sender::NoOutlet;

type TestResult = Result<(), Box<dyn std::error::Error>>;

/// What a [`Puppet`] is told.
#[derive(Debug)]
enum Order {
    Spawn(String, oneshot::Sender<Address<Order>>),
    WaitFor(oneshot::Receiver<()>),
    Fail,
    Panic,
}

/// Does as it is told, and outlives its children.
struct Puppet;

#[ractor::async_trait]
impl Actor for Puppet {
    type Msg = Order;
    type State = ();
    type Arguments = ();

    const KIND: &'static str = "Puppet";

    async fn pre_start(&self, _: Address<Order>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    #[allow(clippy::panic)]
    async fn handle(
        &self,
        myself: Address<Order>,
        order: Order,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        match order {
            Order::Spawn(name, reply) => {
                let child = myself.spawn(name, Puppet, ()).await?;
                reply.send(child).map_err(|_| "nobody waits")?;
            }
            Order::WaitFor(signal) => signal.await?,
            Order::Fail => return Err("told to fail".into()),
            Order::Panic => panic!("told to panic"),
        }
        Ok(())
    }
}

fn puppets() -> (Arc<Inventory>, Seams) {
    let seams = Seams::seeded(1);
    (Inventory::new(PodId::from("pod-1"), seams.clock.clone()), seams)
}

async fn child_of(
    parent: &Address<Order>,
    name: &str,
) -> Result<Address<Order>, Box<dyn std::error::Error>> {
    let (reply, child) = oneshot::channel();
    parent.cast(Order::Spawn(name.to_owned(), reply))?;
    Ok(child.await?)
}

fn find(reports: &[ActorReport], name: &str) -> Result<ActorReport, String> {
    let found = reports.iter().find(|report| report.name == name);
    found.cloned().ok_or_else(|| format!("no {name} in {reports:?}"))
}

#[tokio::test(start_paused = true)]
async fn the_mailbox_of_a_blocked_actor_fills_and_its_time_runs() -> TestResult {
    let (inventory, seams) = puppets();
    let puppet = spawn_root(&inventory, "puppet".to_owned(), Puppet, ()).await?;
    let mut signals = Vec::new();
    for _ in 0..4 {
        let (signal, wait) = oneshot::channel();
        puppet.cast(Order::WaitFor(wait))?;
        signals.push(signal);
    }
    seams.clock.sleep(Duration::from_secs(3)).await;
    let blocked = find(&inventory.report(), "puppet")?;
    assert_eq!((blocked.mailbox, blocked.handled), (3, 0));
    assert_eq!(blocked.busy_nanoseconds, 3_000_000_000);
    assert_eq!(blocked.state, ActorState::Running);

    signals.into_iter().for_each(|signal| assert_eq!(signal.send(()), Ok(())));
    seams.clock.sleep(Duration::from_secs(1)).await;
    let idle = find(&inventory.report(), "puppet")?;
    assert_eq!((idle.mailbox, idle.handled), (0, 4));
    assert_eq!(idle.busy_nanoseconds, 3_000_000_000);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn errors_and_panics_are_kept_over_lives_and_counts_go_on() -> TestResult {
    let (inventory, seams) = puppets();
    let parent = spawn_root(&inventory, "parent".to_owned(), Puppet, ()).await?;
    for (order, error) in [(Order::Fail, "told to fail"), (Order::Panic, "told to panic")] {
        let child = child_of(&parent, "child").await?;
        child.cast(order)?;
        seams.clock.sleep(Duration::from_millis(1)).await;
        let failed = find(&inventory.report(), "child")?;
        assert_eq!(failed.state, ActorState::Stopped);
        assert!(failed.last_error.is_some_and(|text| text.contains(error)));
        assert!(child.cast(Order::Fail).is_err());
    }
    child_of(&parent, "child").await?;
    let child = find(&inventory.report(), "child")?;
    assert_eq!((child.restarts, child.state, child.mailbox), (2, ActorState::Running, 0));
    assert_eq!(child.parent.as_deref(), Some("pod-1/parent"));
    assert!(child.last_error.is_some() && child.last_error_at < Some(child.started_at + 1));
    // A panic is not handled to its end.
    assert_eq!(child.handled, 1);
    Ok(())
}

#[derive(Debug)]
struct NoNodes;

#[async_trait]
impl NodeTransport for NoNodes {
    async fn send(&self, _call: NodeCall) -> Result<Response<Bytes>, TransportError> {
        Err(TransportError::Unreachable("there is none".into()))
    }
}

/// A pod of one node that never answers, with one index.
async fn pod(
    peers: PeersView,
    seams: Seams,
) -> Result<Arc<PodContext>, Box<dyn std::error::Error>> {
    let config = LogConfig {
        engine: Arc::new(MemoryEngine::new()),
        raft_id: Some(RaftId(1)),
        start: Start::Alone,
        address: "localhost:1".to_owned(),
        peers: Arc::new(NoPeers),
        addresses: PeerAddresses::default(),
    };
    let log = CoordinatorLog::open(config, seams.clone()).await?;
    let journal = Journal::open(Arc::new(MemoryFiles::new()), JournalConfig::default(), &seams)?;
    log.propose(&Command::InitCluster { cluster_id: "c".to_owned() }).await?;
    let node = NodeRecord {
        id: NodeId::from("node-1"),
        address: "http://localhost:2".to_owned(),
        group: GroupId(0),
        key: None,
    };
    log.propose(&Command::PutNode(node)).await?;
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
    let pod =
        PodContext::new(config, log, journal, Arc::new(NoNodes), peers, Arc::new(NoOutlet), seams);
    start_pod(pod.clone()).await?;
    let request = WriteRequest {
        index: Some("movies".to_owned()),
        work: RequestedWork::Plain(Work::CreateIndex { primary_key: None }),
        creates_index: true,
        custom_metadata: None,
    };
    accept(&pod, request, WriteMarks::default()).await?;
    pod.seams.clock.sleep(Duration::from_millis(100)).await;
    Ok(pod)
}

async fn pod_alone() -> Result<Arc<PodContext>, Box<dyn std::error::Error>> {
    let seams = Seams::seeded(1);
    let peers = PeersView::alone(PodId::from("pod-1"), seams.clock.instant());
    pod(peers, seams).await
}

fn index_of(pod: &PodContext) -> String {
    pod.log.routing().by_uid.keys().map(ToString::to_string).collect()
}

#[tokio::test(start_paused = true)]
async fn a_pod_shows_its_tree_parents_first_with_real_counts() -> TestResult {
    let pod = pod_alone().await?;
    let reports = pod.inventory.report();
    let index = index_of(&pod);
    let tree: Vec<(String, Option<String>)> =
        reports.iter().map(|report| (report.id.clone(), report.parent.clone())).collect();
    let id = |name: &str| format!("pod-1/{name}");
    let below = |parent: &str, name: String| (id(&name), Some(id(parent)));
    let writer = format!("writer/{index}");
    let mut expected = vec![(id("pod"), None)];
    let fixed = ["anti-entropy", "coordinator", "drift-checker", "health-checker", "index-janitor"];
    let more = [
        "job-worker",
        "journal-keeper",
        "node-tasks/node-1",
        "rebalancer",
        "registrar",
        "task-pruner",
        "webhook-sender",
    ];
    expected.extend(fixed.iter().chain(&more).map(|name| below("pod", (*name).to_owned())));
    expected.push(below("pod", writer.clone()));
    expected.push(below(&writer, format!("lane/{index}/node-1")));
    expected.push(below(&writer, format!("operation/{index}")));
    assert_eq!(tree, expected);
    assert!(reports.iter().all(|report| report.state == ActorState::Running));

    let (root, writer) = (find(&reports, "pod")?, find(&reports, &writer)?);
    assert_eq!((root.kind.as_str(), writer.kind.as_str()), ("Pod", "Writer"));
    // Nobody ends what no node can do: it is at its first message.
    let operation = find(&reports, &format!("operation/{index}"))?;
    assert_eq!((operation.handled, operation.mailbox), (0, 0));
    assert!(operation.busy_nanoseconds > 0);
    let handled = |reports: &[ActorReport]| find(reports, "health-checker").map(|r| r.handled);
    assert!(root.handled > 0 && writer.handled > 0);
    let before = handled(&reports)?;
    pod.seams.clock.sleep(Duration::from_secs(20)).await;
    assert!(handled(&pod.inventory.report())? > before);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_child_that_keeps_failing_waits_longer_is_called_failing_and_gets_well() -> TestResult {
    let pod = pod_alone().await?;
    let clock = &pod.seams.clock;
    let checker = || find(&pod.inventory.report(), "health-checker");
    let mut wait = WAIT_MIN;
    for failure in 1..=u64::from(FAILURES_MAX) + 3 {
        let root = pod.root_cell().ok_or("no root")?;
        let cells = root.get_children().into_iter().filter(|cell| {
            cell.is_message_type_of::<HealthCheckerMessage>() == Some(true)
                && cell.get_status() == ActorStatus::Running
        });
        cells.for_each(|cell| cell.kill());
        clock.sleep(wait / 2).await;
        let waiting = checker()?;
        let state = match failure > u64::from(FAILURES_MAX) {
            true => ActorState::Failing,
            false => ActorState::Waiting,
        };
        assert_eq!((waiting.state, waiting.restarts), (state, failure - 1), "{failure}");
        assert!(waiting.last_error.is_some());
        clock.sleep(wait / 2 + Duration::from_millis(1)).await;
        assert_eq!(checker()?.restarts, failure);
        wait = (wait * 2).min(WAIT_MAX);
    }
    assert_eq!(checker()?.state, ActorState::Failing);
    clock.sleep(STEADY_AFTER).await;
    assert_eq!(checker()?.state, ActorState::Running);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn an_actor_is_started_again_by_hand_and_a_part_of_a_writer_with_it() -> TestResult {
    let pod = pod_alone().await?;
    let (own, index) = (pod.id.clone(), index_of(&pod));
    let epoch = || pod.log.routing().by_uid.values().next().map(|index| index.epoch.0);
    let (writer, before) = (format!("writer/{index}"), epoch().ok_or("no index")?);
    // The operation is at a message without end: it is killed with its writer.
    let lane = format!("pod-1/lane/{index}/node-1");
    let restarting = RestartReply::Restarting { id: format!("pod-1/{writer}") };
    assert_eq!(restart_on(&pod, &own, &lane).await?, restarting);
    pod.seams.clock.sleep(Duration::from_secs(3)).await;
    let reports = pod.inventory.report();
    for name in [writer.clone(), format!("lane/{index}/node-1")] {
        let actor = find(&reports, &name)?;
        assert_eq!((actor.state, actor.restarts), (ActorState::Running, 1));
        assert_eq!(actor.last_error, None);
    }
    assert_eq!(epoch(), Some(before + 1));
    assert_eq!(find(&reports, &format!("operation/{index}"))?.restarts, 0);

    let checker = "pod-1/health-checker".to_owned();
    let restarting = RestartReply::Restarting { id: checker.clone() };
    assert_eq!(restart_on(&pod, &own, &checker).await?, restarting);
    pod.seams.clock.sleep(Duration::from_millis(10)).await;
    assert_eq!(find(&pod.inventory.report(), "health-checker")?.restarts, 1);
    let root = restart_on(&pod, &own, "pod-1/pod").await?;
    assert!(matches!(root, RestartReply::NotRestartable { .. }));
    assert_eq!(restart_on(&pod, &own, "pod-1/nobody").await?, RestartReply::NotFound);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn an_index_that_goes_to_another_pod_takes_its_actors_along() -> TestResult {
    let pod = pod_alone().await?;
    let index = index_of(&pod);
    pod.log
        .propose(&Command::TakeEpoch { role: "membership".to_owned(), pod: pod.id.clone() })
        .await?;
    let known = miroir_storage::tables::roles::all(pod.log.engine().as_ref())?;
    let epoch = known.get("membership").ok_or("no role")?.epoch;
    let fence = miroir_storage::commands::RoleFence { role: "membership".to_owned(), epoch };
    let role = format!("writer/{index}");
    let other = PodId::from("pod-2");
    pod.log.propose(&Command::AssignRole { fence, role, pod: other }).await?;
    pod.seams.clock.sleep(Duration::from_millis(100)).await;
    let of_index = |report: &ActorReport| report.name.contains(&index);
    assert!(!pod.inventory.report().iter().any(of_index));
    Ok(())
}

/// Leads to one other pod.
#[derive(Debug)]
struct Wire(PodService);

#[async_trait]
impl PeerTransport for Wire {
    async fn call(&self, call: PeerCall) -> Result<Bytes, PeerCallError> {
        let body = call.body.concat().into();
        let answer = tokio::time::timeout(call.timeout, self.0.serve(call.channel, body)).await;
        let answer = answer.map_err(|_| PeerCallError::Unreachable("too late".to_owned()))?;
        answer.map_err(|refusal| PeerCallError::Unreachable(refusal.to_string()))
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_asks_another_for_its_actors_and_has_one_started_again() -> TestResult {
    let other = pod_alone().await?;
    let seams = Seams::seeded(2);
    let now = seams.clock.instant();
    let wire = Arc::new(Wire(PodService::new(other.clone())));
    let peers = PeersView::new(PodId::from("pod-0"), now, wire);
    let mut seen = Peers::clone(&peers.now());
    let peer = Peer { address: "x:1".to_owned(), since: now, leaving: false };
    seen.live.insert(other.id.clone(), peer);
    peers.set(seen);
    let own = pod(peers, seams).await?;
    assert_eq!(actors_of(&own, &other.id).await?, other.inventory.report());
    let id = "pod-1/health-checker".to_owned();
    let reply = restart_on(&own, &other.id, &id).await?;
    assert_eq!(reply, RestartReply::Restarting { id });
    assert_eq!(restart_on(&own, &other.id, "pod-0/pod").await?, RestartReply::NotFound);
    assert!(actors_of(&own, &PodId::from("pod-3")).await.is_err());
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_root_that_is_far_behind_takes_no_writes_and_nothing_from_outside() -> TestResult {
    let pod = pod_alone().await?;
    // This test gives the root no chance to run in between.
    for _ in 0..=BACKLOG_MAX {
        let node = NodeId::from("node-1");
        pod.tell_root(PodMessage::NodeHealthChanged { node, down: false });
    }
    assert!(restart_on(&pod, &pod.id.clone(), "pod-1/health-checker").await.is_err());
    let request = WriteRequest {
        index: None,
        work: RequestedWork::Plain(Work::CancelTasks {
            original_filter: String::new(),
            uids: Vec::new(),
        }),
        creates_index: false,
        custom_metadata: None,
    };
    let refused = accept(&pod, request, WriteMarks::default()).await;
    assert!(matches!(refused, Err(crate::accept::AcceptError::Overloaded)));
    Ok(())
}

/// Another pod was started with a configuration that has a node more.
#[tokio::test(start_paused = true)]
async fn a_node_that_comes_while_a_pod_runs_gets_its_follower() -> TestResult {
    let pod = pod_alone().await?;
    let node = NodeRecord {
        id: NodeId::from("node-2"),
        address: "http://localhost:3".to_owned(),
        group: GroupId(0),
        key: None,
    };
    assert!(pod.follower(&node.id).is_none());
    pod.log.propose(&Command::PutNode(node.clone())).await?;
    pod.seams.clock.sleep(Duration::from_millis(100)).await;
    assert!(pod.follower(&node.id).is_some());
    Ok(())
}
