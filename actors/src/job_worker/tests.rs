//! One worker with a real log and journal on virtual time; the test plays the index's writer.

use async_trait::async_trait;
use bytes::Bytes;
use http::Response;
use miroir_seams::{MemoryFiles, NodeCall, NodeTransport, Seams, TransportError};
use miroir_storage::commands::{Command, Ending, FinishTask, Outcome};
use miroir_storage::engine::MemoryEngine;
use miroir_storage::ids::{GroupId, NodeId, PodId};
use miroir_storage::job_commands::{Beat, JobKind, JobOutcome, NewJob};
use miroir_storage::journal::{Journal, JournalConfig};
use miroir_storage::log::{CoordinatorLog, LogConfig, Start};
use miroir_storage::raft::{NoPeers, PeerAddresses, RaftId};
use miroir_storage::tables::jobs::JobRecord;
use miroir_storage::tables::nodes::NodeRecord;
use miroir_storage::tables::tasks;

use super::*;
use crate::health_checker::HealthConfig;
use crate::inspect::spawn_root;
use crate::jobs::{JobError, add_chunk, create, end, seal};
use crate::peers::PeersView;
use crate::pod::PodConfig;
use crate::task_pruner::TaskRetention;
use crate::webhook_sender::NoOutlet;

type TestResult<T = ()> = Result<T, Box<dyn std::error::Error>>;

#[derive(Debug)]
struct NoNodes;

#[async_trait]
impl NodeTransport for NoNodes {
    async fn send(&self, _call: NodeCall) -> Result<Response<Bytes>, TransportError> {
        Err(TransportError::Unreachable("there is none".into()))
    }
}

async fn pod() -> TestResult<Arc<PodContext>> {
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
    let node = NodeRecord {
        id: NodeId::from("node-1"),
        address: "http://node-1".into(),
        key: None,
        group: GroupId(0),
    };
    log.propose(&Command::PutNode(node)).await?;
    let journal = Journal::open(Arc::new(MemoryFiles::new()), JournalConfig::default(), &seams)?;
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
    let peers = PeersView::alone(PodId::from("pod-1"), seams.clock.instant());
    Ok(PodContext::new(config, log, journal, Arc::new(NoNodes), peers, Arc::new(NoOutlet), seams))
}

async fn start(pod: &Arc<PodContext>) -> TestResult {
    spawn_root(&pod.inventory, "job-worker".to_owned(), JobWorker, pod.clone()).await?;
    Ok(())
}

fn import(ordered: bool) -> NewJob {
    NewJob {
        kind: JobKind::NdjsonImport,
        index: "films".to_owned(),
        primary_key: None,
        name: None,
        partial: false,
        ordered,
        skips_errors: false,
    }
}

fn lines(from: usize, to: usize) -> Bytes {
    Bytes::from((from..to).map(|id| format!("{{\"id\":{id}}}\n")).collect::<String>())
}

fn read(pod: &PodContext, job: JobId) -> TestResult<JobRecord> {
    Ok(jobs::read(pod.log.engine().as_ref(), job)?.ok_or("no job")?)
}

/// Ends every open task, as a writer would.
async fn end_tasks(pod: &PodContext, ending: Ending) -> TestResult<usize> {
    let open = tasks::read_open(pod.log.engine().as_ref())?;
    let count = open.len();
    for task in open {
        let end = FinishTask {
            fence: None,
            uid: task.uid,
            ending,
            details: None,
            error: (ending == Ending::Failed).then(|| r#"{"message":"no id"}"#.to_owned()),
            effects: Vec::new(),
            shows_index: false,
            at: 1,
        };
        pod.log.propose(&Command::FinishTasks(vec![end])).await?;
    }
    Ok(count)
}

#[tokio::test(start_paused = true)]
async fn chunks_become_tasks_in_order_a_few_at_a_time() -> TestResult {
    let pod = pod().await?;
    start(&pod).await?;
    let job = create(&pod, import(true)).await?;
    // The second first: it waits for its turn.
    let added = add_chunk(&pod, job, 1, lines(12_000, 12_010)).await?;
    assert_eq!((added.lines, added.known), (10, false));
    assert!(add_chunk(&pod, job, 1, lines(12_000, 12_010)).await?.known);
    pod.seams.clock.sleep(Duration::from_secs(60)).await;
    assert_eq!(read(&pod, job)?.tasks, 0);

    add_chunk(&pod, job, 0, lines(0, 12_000)).await?;
    seal(&pod, job, 2).await?;
    pod.seams.clock.sleep(Duration::from_secs(5)).await;
    // Six tasks of 2,000, four of them at a time.
    assert_eq!(end_tasks(&pod, Ending::Succeeded).await?, 4);
    pod.seams.clock.sleep(Duration::from_secs(5)).await;
    assert_eq!(read(&pod, job)?.documents, 8000);
    assert_eq!(end_tasks(&pod, Ending::Succeeded).await?, 2);
    pod.seams.clock.sleep(Duration::from_secs(5)).await;
    assert_eq!(read(&pod, job)?.ending, None);
    assert_eq!(end_tasks(&pod, Ending::Succeeded).await?, 1);
    pod.seams.clock.sleep(Duration::from_secs(5)).await;
    let ended = read(&pod, job)?;
    assert_eq!((ended.ending, ended.documents), (Some(Ending::Succeeded), 12_010));
    assert_eq!(ended.lines_done, 12_010);
    // The chunks are not in the journal any more; the payloads of the tasks are the writer's.
    assert_eq!(pod.journal.usage().records, 7);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_chunk_of_another_pod_is_taken_over_when_it_is_silent() -> TestResult {
    let pod = pod().await?;
    let job = create(&pod, import(true)).await?;
    add_chunk(&pod, job, 0, lines(0, 3000)).await?;
    let claim = JobCommand::Claim {
        job,
        chunk: 0,
        pod: PodId::from("pod-2"),
        over: Beat::default(),
        at: 1,
    };
    let claimed = pod.log.propose(&Command::Job(Box::new(claim))).await?;
    assert_eq!(claimed, Outcome::Job(JobOutcome::Claimed(1)));
    start(&pod).await?;
    pod.seams.clock.sleep(Duration::from_secs(25)).await;
    assert_eq!(read(&pod, job)?.tasks, 0);
    pod.seams.clock.sleep(Duration::from_secs(10)).await;
    assert_eq!(read(&pod, job)?.tasks, 2);
    let chunk = || jobs::read_chunk(pod.log.engine().as_ref(), job, 0);
    let held = chunk()?.ok_or("no chunk")?;
    assert_eq!((held.holder, held.beat.claim), (Some(pod.id.clone()), 2));
    // Nothing happens, and yet the log hears of it.
    pod.seams.clock.sleep(Duration::from_secs(60)).await;
    let later = chunk()?.ok_or("no chunk")?;
    assert!(later.beat.claim == 2 && later.beat.count >= held.beat.count + 5, "{later:?}");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn the_first_error_ends_a_job_and_says_where() -> TestResult {
    let pod = pod().await?;
    start(&pod).await?;
    let job = create(&pod, import(true)).await?;
    let text = [lines(0, 5), Bytes::from_static(b"nonsense\n"), lines(5, 9)].concat();
    add_chunk(&pod, job, 0, text.into()).await?;
    pod.seams.clock.sleep(Duration::from_secs(5)).await;
    // What is before it is imported first.
    assert_eq!(read(&pod, job)?.ending, None);
    assert_eq!(end_tasks(&pod, Ending::Succeeded).await?, 1);
    pod.seams.clock.sleep(Duration::from_secs(5)).await;
    let failed = read(&pod, job)?;
    assert_eq!((failed.ending, failed.documents), (Some(Ending::Failed), 5));
    assert_eq!(failed.errors.first().map(|error| error.line), Some(6));

    // So does a task that fails.
    let job = create(&pod, import(false)).await?;
    add_chunk(&pod, job, 0, lines(0, 5)).await?;
    pod.seams.clock.sleep(Duration::from_secs(5)).await;
    assert_eq!(end_tasks(&pod, Ending::Failed).await?, 1);
    pod.seams.clock.sleep(Duration::from_secs(5)).await;
    assert_eq!(read(&pod, job)?.failure.as_deref(), Some("no id"));
    assert!(matches!(end(&pod, job, None).await, Err(JobError::Refused(_))));
    assert!(matches!(add_chunk(&pod, job, 1, Bytes::new()).await, Err(JobError::Empty)));
    Ok(())
}
