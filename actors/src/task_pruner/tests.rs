//! One pruner with a real log on virtual time; days pass in no time.

use async_trait::async_trait;
use bytes::Bytes;
use http::Response;
use miroir_seams::{MemoryFiles, NodeCall, NodeTransport, Seams, TransportError};
use miroir_storage::commands::{Ending, EnqueueTask, FinishTask, PayloadRef, Work};
use miroir_storage::engine::MemoryEngine;
use miroir_storage::journal::{Journal, JournalConfig};
use miroir_storage::log::{CoordinatorLog, LogConfig, Start};
use miroir_storage::raft::{NoPeers, PeerAddresses, RaftId};
use miroir_storage::tables::tasks;

use super::*;
use crate::health_checker::HealthConfig;
use crate::inspect::spawn_root;
use crate::peers::PeersView;
use crate::pod::PodConfig;
use crate::webhook_sender::NoOutlet;

type TestResult = Result<(), Box<dyn std::error::Error>>;

#[derive(Debug)]
struct NoNodes;

#[async_trait]
impl NodeTransport for NoNodes {
    async fn send(&self, _call: NodeCall) -> Result<Response<Bytes>, TransportError> {
        Err(TransportError::Unreachable("there is none".into()))
    }
}

const GRACE: Duration = Duration::from_secs(600);

async fn pod(
    retention: TaskRetention,
    share: Share<TaskBlock>,
) -> Result<Arc<PodContext>, Box<dyn std::error::Error>> {
    let seams = Seams::seeded(1);
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
    let config = PodConfig {
        shards: 1,
        replication_factor: 1,
        health: HealthConfig::default(),
        retention,
        pod_grace: GRACE,
        node_grace: Duration::from_secs(1800),
        move_hours: None,
        anti_entropy: Default::default(),
        placement_life: Duration::from_secs(15),
    };
    let peers = PeersView::alone(PodId::from("pod-1"), seams.clock.instant());
    let pod =
        PodContext::new(config, log, journal, Arc::new(NoNodes), peers, Arc::new(NoOutlet), seams);
    let arguments = TaskPrunerArguments { pod: pod.clone(), share };
    spawn_root(&pod.inventory, "task-pruner".to_owned(), TaskPruner, arguments).await?;
    Ok(pod)
}

async fn enqueue(pod: &PodContext, work: Work) -> Result<TaskUid, Box<dyn std::error::Error>> {
    let command = Command::EnqueueTask(Box::new(EnqueueTask {
        index: None,
        work,
        create: None,
        custom_metadata: None,
        at: to_nanoseconds(pod.seams.clock.now()),
    }));
    match pod.log.propose(&command).await? {
        Outcome::Enqueued { uid, .. } => Ok(uid),
        other => Err(format!("{other:?}").into()),
    }
}

fn plain() -> Work {
    Work::CancelTasks { original_filter: String::new(), uids: Vec::new() }
}

async fn end(pod: &PodContext, uid: TaskUid) -> TestResult {
    let ending = FinishTask {
        fence: None,
        uid,
        ending: Ending::Succeeded,
        details: None,
        error: None,
        effects: Vec::new(),
        shows_index: false,
        at: to_nanoseconds(pod.seams.clock.now()),
    };
    pod.log.propose(&Command::FinishTasks(vec![ending])).await?;
    Ok(())
}

fn is_there(pod: &PodContext, uid: TaskUid) -> Result<bool, ApplyError> {
    Ok(tasks::read(pod.log.engine().as_ref(), uid)?.is_some())
}

const DAY: Duration = Duration::from_secs(24 * 3600);

#[tokio::test(start_paused = true)]
async fn ended_tasks_go_after_a_week_and_open_or_journalled_ones_never() -> TestResult {
    let pod = pod(TaskRetention::default(), Share::everything()).await?;
    let (ended, open) = (enqueue(&pod, plain()).await?, enqueue(&pod, plain()).await?);
    let sequence = pod.journal.append(Bytes::from_static(b"[]")).await?;
    let holders = vec![(pod.id.clone(), sequence)];
    let payload = PayloadRef { holders, bytes: 2, count: 0 };
    let journalled = enqueue(&pod, Work::DeleteIds { payload, single: false }).await?;
    end(&pod, ended).await?;
    end(&pod, journalled).await?;

    pod.seams.clock.sleep(6 * DAY).await;
    // Accepted long ago, ended just now.
    let late = enqueue(&pod, plain()).await?;
    end(&pod, late).await?;
    assert!(is_there(&pod, ended)?);
    pod.seams.clock.sleep(DAY + 2 * INTERVAL).await;
    assert!(!is_there(&pod, ended)?);
    assert!(is_there(&pod, open)? && is_there(&pod, journalled)? && is_there(&pod, late)?);

    pod.journal.release(sequence);
    pod.seams.clock.sleep(7 * DAY).await;
    assert!(!is_there(&pod, journalled)? && !is_there(&pod, late)? && is_there(&pod, open)?);
    // Numbers go on where they were.
    end(&pod, open).await?;
    pod.seams.clock.sleep(8 * DAY).await;
    assert!(!is_there(&pod, open)?);
    assert_eq!(enqueue(&pod, plain()).await?, TaskUid(late.0 + 1));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn beyond_the_count_the_oldest_ended_tasks_go_in_bounded_batches() -> TestResult {
    let retention = TaskRetention { tasks_max: 3, ..TaskRetention::default() };
    let pod = pod(retention, Share::everything()).await?;
    let open = enqueue(&pod, plain()).await?;
    for _ in 0..2 * BATCH_TASKS_MAX {
        let uid = enqueue(&pod, plain()).await?;
        end(&pod, uid).await?;
    }
    let mut batches = pod.log.subscribe();
    pod.seams.clock.sleep(2 * INTERVAL).await;
    let left = pod.log.engine().scan(TASKS, ALL_KEYS, Direction::Forward, usize::MAX)?;
    assert_eq!(left.len(), 3);
    assert!(is_there(&pod, open)?);
    let mut removed = 0;
    while let Ok(event) = batches.events.try_recv() {
        if let Outcome::Matched(gone) = &event.outcome {
            assert!(gone.len() <= BATCH_TASKS_MAX);
            removed += gone.len();
        }
    }
    assert_eq!(removed, 2 * BATCH_TASKS_MAX + 1 - 3);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_pod_prunes_its_share_only() -> TestResult {
    let pod = pod(TaskRetention::default(), Share::new(|block: &TaskBlock| block.0 != 0)).await?;
    let uid = enqueue(&pod, plain()).await?;
    end(&pod, uid).await?;
    pod.seams.clock.sleep(8 * DAY).await;
    assert!(is_there(&pod, uid)?);
    Ok(())
}
