//! Restarts, crashes, failing disks, order of events, grouping.

use std::collections::BTreeSet;

use proptest::prelude::*;

use bytes::Bytes;

use super::propose::{WriteError, write};
use super::*;
use crate::commands::{EnqueueTask, NewIndex, Work};
use crate::engine::{MemoryEngine, SledEngine};
use crate::ids::{GroupId, NodeId, PodId, TaskUid};
use crate::raft::NoPeers;
use crate::tables::nodes::NodeRecord;
use crate::tables::tasks;

type TestResult = Result<(), Box<dyn std::error::Error>>;

fn config(engine: impl Engine) -> LogConfig {
    LogConfig {
        engine: Arc::new(engine),
        raft_id: Some(RaftId(1)),
        start: Start::Alone,
        address: "localhost:1".to_owned(),
        peers: Arc::new(NoPeers),
        addresses: PeerAddresses::default(),
    }
}

fn name_cluster(id: &str) -> Command {
    Command::InitCluster { cluster_id: id.to_owned() }
}

fn put_node(id: &str) -> Command {
    Command::PutNode(NodeRecord {
        id: NodeId::from(id),
        address: format!("http://{id}"),
        group: GroupId(0),
        key: None,
    })
}

/// A command whose outcome tells one proposal from another.
fn enqueue() -> Command {
    Command::EnqueueTask(Box::new(EnqueueTask {
        index: None,
        work: Work::CancelTasks { original_filter: String::new(), uids: Vec::new() },
        create: None,
        custom_metadata: None,
        at: 0,
    }))
}

async fn enqueue_on(log: &CoordinatorLog) -> Result<TaskUid, ProposeError> {
    match log.propose(&enqueue()).await? {
        Outcome::Enqueued { uid, .. } => Ok(uid),
        other => Err(ProposeError::Fatal(format!("{other:?}"))),
    }
}

#[tokio::test(start_paused = true)]
async fn what_some_pod_can_not_read_is_not_proposed() -> TestResult {
    let log = CoordinatorLog::open(config(MemoryEngine::new()), Seams::seeded(1)).await?;
    log.limit_format(0);
    let refused = ProposeError::TooNew { format: put_node("n1").format(), known: 0 };
    assert_eq!(log.propose(&put_node("n1")).await, Err(refused));
    log.limit_format(FORMAT);
    assert_eq!(log.propose(&put_node("n1")).await?, Outcome::Done);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_pod_stops_at_an_entry_of_a_later_version_and_says_so() -> TestResult {
    let disk = MemoryEngine::new();
    let seams = Seams::seeded(1);
    let log = CoordinatorLog::open(config(disk.clone()), seams.clone()).await?;
    log.propose(&put_node("n1")).await?;
    let mut events = log.subscribe().events;
    let unknown = Bytes::from_static(&[1, 0xff, 0x7f]);
    assert!(log.propose_encoded(unknown).await.is_err());
    assert!(events.recv().await.is_none(), "whoever follows the log must notice");
    assert!(!log.metrics().running);
    assert!(matches!(log.propose(&put_node("n2")).await, Err(ProposeError::Fatal(_))));
    assert!(log.routing().nodes.contains_key(&NodeId::from("n1")));
    seams.tasks.end_all();
    // It stays so until a program runs that can read it.
    assert!(CoordinatorLog::open(config(disk), Seams::seeded(2)).await.is_err());
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_restart_after_a_crash_leads_at_once_and_has_everything() -> TestResult {
    let disk = MemoryEngine::new();
    let seams = Seams::seeded(1);
    let log = CoordinatorLog::open(config(disk.clone()), seams.clone()).await?;
    assert_eq!(log.propose(&name_cluster("a")).await?, Outcome::Done);
    log.propose(&put_node("n1")).await?;
    let before = log.metrics();
    seams.tasks.end_all();
    disk.crash(0);
    assert!(Routing::load(&disk)?.nodes.is_empty(), "the applied state was not synced");

    let seams = Seams::seeded(2);
    let started = seams.clock.instant();
    let log = CoordinatorLog::open(config(disk), seams.clone()).await?;
    assert_eq!(seams.clock.instant(), started, "no election time-out passed");
    let routing = log.routing();
    assert_eq!(routing.cluster_id, "a");
    assert!(routing.nodes.contains_key(&NodeId::from("n1")));
    // The same log goes on: the cluster was not started a second time.
    assert_eq!(log.propose(&name_cluster("b")).await?, Outcome::Unchanged);
    assert!(log.metrics().last_log > before.last_log);
    assert_eq!(log.metrics().leader, Some(RaftId(1)));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn new_indexes_begin_with_the_settings_agreed_for_them() -> TestResult {
    let log = CoordinatorLog::open(config(MemoryEngine::new()), Seams::seeded(1)).await?;
    let plan = || NewIndex { shards: 1, groups: Vec::new(), writer: PodId::from("a") };
    let create = |name: &str| {
        Command::EnqueueTask(Box::new(EnqueueTask {
            index: Some(name.to_owned()),
            work: Work::CreateIndex { primary_key: None },
            create: Some(plan()),
            custom_metadata: None,
            at: 0,
        }))
    };
    let agree = || Command::SetNewIndexSettings { settings: r#"{"rankingRules":["sort"]}"#.into() };
    log.propose(&create("before")).await?;
    assert_eq!(log.propose(&agree()).await?, Outcome::Done);
    assert_eq!(log.propose(&agree()).await?, Outcome::Unchanged);
    log.propose(&create("after")).await?;
    let routing = log.routing();
    let rules = |name: &str| {
        let index = routing.by_uid.values().find(|index| index.name == name);
        index.map(|index| index.settings.ranking_rules().len())
    };
    assert_eq!((rules("before"), rules("after")), (Some(6), Some(1)));
    assert_eq!(routing.new_index_settings.ranking_rules().len(), 1);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_disk_of_another_pod_is_refused() -> TestResult {
    let disk = MemoryEngine::new();
    let log = CoordinatorLog::open(config(disk.clone()), Seams::seeded(1)).await?;
    log.shutdown().await;
    let other = LogConfig { raft_id: Some(RaftId(2)), ..config(disk) };
    let refused = CoordinatorLog::open(other, Seams::seeded(2)).await;
    assert!(matches!(
        refused,
        Err(OpenError::OtherIdentity { stored: RaftId(1), asked: RaftId(2) })
    ));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_disk_keeps_its_identity_whatever_its_start() -> TestResult {
    let disk = MemoryEngine::new();
    let log = CoordinatorLog::open(config(disk.clone()), Seams::seeded(1)).await?;
    log.propose(&put_node("n1")).await?;
    log.shutdown().await;
    // As before there were random identities.
    let later = LogConfig { raft_id: None, start: Start::Join, ..config(disk) };
    let log = CoordinatorLog::open(later, Seams::seeded(2)).await?;
    assert_eq!(log.metrics().raft_id, RaftId(1));
    log.propose(&put_node("n2")).await?;
    assert_eq!(log.routing().nodes.len(), 2);

    let disk = MemoryEngine::new();
    let new = || LogConfig { raft_id: None, ..config(disk.clone()) };
    let seams = Seams::seeded(3);
    let log = CoordinatorLog::open(new(), seams.clone()).await?;
    let drawn = log.metrics().raft_id;
    assert!(drawn > RaftId(1) && drawn.0 >> 63 == 0);
    seams.tasks.end_all();
    disk.crash(0);
    let log = CoordinatorLog::open(new(), Seams::seeded(4)).await?;
    assert_eq!(log.metrics().raft_id, drawn);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn events_come_in_order_and_after_their_effects() -> TestResult {
    let log = CoordinatorLog::open(config(MemoryEngine::new()), Seams::seeded(1)).await?;
    let mut subscription = log.subscribe();
    let follower = async {
        let mut last = (subscription.after, u32::MAX);
        for _ in 0..40 {
            let event = subscription.events.recv().await.ok_or("the feed ended")?;
            assert!((event.log_index, event.position) > last);
            last = (event.log_index, event.position);
            match (&event.command, &event.outcome) {
                (Command::PutNode(node), Outcome::Done) => {
                    assert!(log.routing().nodes.contains_key(&node.id));
                }
                (_, Outcome::Enqueued { uid, .. }) => {
                    assert!(tasks::read(log.engine().as_ref(), *uid)?.is_some());
                }
                other => return Err(format!("unexpected {other:?}").into()),
            }
        }
        TestResult::Ok(())
    };
    let proposals = async {
        for number in 0..20 {
            let command = put_node(&format!("n{number}"));
            let (enqueued, put) = futures::join!(enqueue_on(&log), log.propose(&command));
            assert_eq!((enqueued?, put?), (TaskUid(number), Outcome::Done));
        }
        TestResult::Ok(())
    };
    let (followed, proposed) = futures::join!(follower, proposals);
    followed.and(proposed)
}

#[tokio::test(start_paused = true)]
async fn concurrent_proposals_share_an_entry_and_its_sync() -> TestResult {
    let disk = MemoryEngine::new();
    let log = CoordinatorLog::open(config(disk.clone()), Seams::seeded(1)).await?;
    let (entries, syncs) = (log.metrics().last_log, disk.sync_count());
    let uids = futures::future::join_all((0..64).map(|_| enqueue_on(&log))).await;
    let uids: BTreeSet<TaskUid> = uids.into_iter().collect::<Result<_, _>>()?;
    assert_eq!(uids.len(), 64);
    let entries = log.metrics().last_log.zip(entries).map(|(after, before)| after - before);
    assert_eq!(entries, Some(1));
    assert_eq!(disk.sync_count() - syncs, 1);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn an_unknown_command_stops_the_log_for_good() -> TestResult {
    let disk = MemoryEngine::new();
    let seams = Seams::seeded(1);
    let log = CoordinatorLog::open(config(disk.clone()), seams.clone()).await?;
    let mut subscription = log.subscribe();
    log.propose(&put_node("n1")).await?;
    // As a newer pod would propose it, behind a command that this version knows.
    let known = encode_command(&put_node("n2"))?;
    let newer = vec![known, Bytes::from_static(&[2, 0])];
    assert_eq!(write(&log.core.raft, newer).await, Err(WriteError::Unknown));
    assert!(matches!(log.propose(&put_node("n3")).await, Err(ProposeError::Fatal(_))));
    assert!(!log.metrics().running);
    assert!(!log.routing().nodes.contains_key(&NodeId::from("n2")), "an entry applies whole");
    assert!(subscription.events.recv().await.is_some());
    assert!(subscription.events.recv().await.is_none(), "subscribers notice the end");
    seams.tasks.end_all();
    disk.crash(0);
    assert!(CoordinatorLog::open(config(disk), Seams::seeded(2)).await.is_err());
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_failed_sync_acknowledges_nothing() -> TestResult {
    let disk = MemoryEngine::new();
    let seams = Seams::seeded(1);
    let log = CoordinatorLog::open(config(disk.clone()), seams.clone()).await?;
    log.propose(&put_node("n1")).await?;
    disk.fail_syncs();
    assert_eq!(log.propose(&put_node("n2")).await, Err(ProposeError::Unknown));
    assert!(matches!(log.propose(&put_node("n3")).await, Err(ProposeError::Fatal(_))));
    seams.tasks.end_all();
    disk.crash(0);
    let log = CoordinatorLog::open(config(disk), Seams::seeded(2)).await?;
    let nodes: Vec<_> = log.routing().nodes.keys().cloned().collect();
    assert_eq!(nodes, [NodeId::from("n1")]);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn after_shutdown_proposals_are_refused() -> TestResult {
    let log = CoordinatorLog::open(config(MemoryEngine::new()), Seams::seeded(1)).await?;
    let mut subscription = log.subscribe();
    log.shutdown().await;
    assert_eq!(log.propose(&put_node("n1")).await, Err(ProposeError::Stopped));
    assert!(subscription.events.recv().await.is_none());
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn the_log_is_compacted_and_still_restarts() -> TestResult {
    let disk = MemoryEngine::new();
    let seams = Seams::seeded(1);
    let log = CoordinatorLog::open(config(disk.clone()), seams.clone()).await?;
    for _ in 0..COMPACT_ENTRIES + KEEP_ENTRIES {
        enqueue_on(&log).await?;
    }
    let compacted = log.core.raft.metrics().wait_for(|now| now.purged.is_some()).await.is_ok();
    assert!(compacted);
    seams.tasks.end_all();
    disk.crash(0);
    let log = CoordinatorLog::open(config(disk), Seams::seeded(2)).await?;
    assert_eq!(enqueue_on(&log).await?.0 as u64, COMPACT_ENTRIES + KEEP_ENTRIES);
    Ok(())
}

/// Proposes, crashes with a part of the unsynced commits kept, starts again; and so on.
async fn crash_again_and_again(runs: Vec<(usize, usize)>) -> TestResult {
    let disk = MemoryEngine::new();
    let mut acknowledged = BTreeSet::new();
    for (seed, (proposals, keep_unsynced)) in (1u64..).zip(runs) {
        let seams = Seams::seeded(seed);
        let log = CoordinatorLog::open(config(disk.clone()), seams.clone()).await?;
        for uid in &acknowledged {
            assert!(tasks::read(&disk, *uid)?.is_some(), "{uid} was acknowledged");
        }
        let highest = acknowledged.last().copied();
        let answers = futures::future::join_all((0..proposals).map(|_| enqueue_on(&log))).await;
        for uid in answers {
            let uid = uid?;
            assert!(Some(uid) > highest && acknowledged.insert(uid), "{uid} was given twice");
        }
        seams.tasks.end_all();
        disk.crash(keep_unsynced);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    /// Safety rules 1 and 6, of the log.
    #[test]
    fn acknowledged_tasks_survive_crashes(
        runs in prop::collection::vec((0usize..12, 0usize..8), 1..6),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()?;
        if let Err(error) = runtime.block_on(crash_again_and_again(runs)) {
            return Err(TestCaseError::fail(error.to_string()));
        }
    }
}

/// Prints what a real disk gives; run with `--nocapture`. Asserts only what holds on any.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sled_serves_concurrent_proposals_and_restarts() -> TestResult {
    const PROPOSERS: usize = 64;
    const EACH: usize = 50;
    let directory = tempfile::tempdir()?;
    let seams = Seams::real();
    let log =
        CoordinatorLog::open(config(SledEngine::open(directory.path())?), seams.clone()).await?;

    let mut single = Vec::new();
    for _ in 0..50 {
        let start = seams.clock.instant();
        enqueue_on(&log).await?;
        single.push(start.elapsed());
    }
    single.sort();
    println!("one at a time: p50 {:?}, p98 {:?}", single[25], single[48]);

    let entries = log.metrics().last_log;
    let start = seams.clock.instant();
    let proposers = (0..PROPOSERS).map(|_| async {
        for _ in 0..EACH {
            enqueue_on(&log).await?;
        }
        Ok::<(), ProposeError>(())
    });
    for done in futures::future::join_all(proposers).await {
        done?;
    }
    let took = start.elapsed();
    let per_second = (PROPOSERS * EACH) as f64 / took.as_secs_f64();
    let entries = log.metrics().last_log.unwrap_or(0) - entries.unwrap_or(0);
    println!("{PROPOSERS} proposers: {per_second:.0} proposals/s in {entries} entries");
    assert!(entries <= (PROPOSERS * EACH / 8) as u64, "proposals share entries");

    log.shutdown().await;
    seams.tasks.end_all();
    drop(log);
    let engine = reopen(directory.path()).await?;
    let start = seams.clock.instant();
    let log = CoordinatorLog::open(config(engine), Seams::real()).await?;
    println!("restart: leading after {:?}", start.elapsed());
    assert_eq!(enqueue_on(&log).await?.0 as usize, 50 + PROPOSERS * EACH);
    Ok(())
}

/// The tasks that were ended let go of sled's file lock when they are dropped, a moment later.
async fn reopen(directory: &std::path::Path) -> Result<SledEngine, crate::engine::EngineError> {
    for _ in 0..1000 {
        if let Ok(engine) = SledEngine::open(directory) {
            return Ok(engine);
        }
        tokio::task::yield_now().await;
    }
    SledEngine::open(directory)
}
