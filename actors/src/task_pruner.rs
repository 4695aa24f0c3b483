//! Removes old tasks from the history (spec 01, Tasks: kept 7 days), idempotency keys and sessions,
//! and jobs.
//!
//! Owns: the pace of pruning. Does not own: the tasks, which only the log removes. Looks through
//! the oldest tasks every `INTERVAL` and proposes bounded batches of those that ended longer ago
//! than the retention, or, oldest first, of those beyond the count that is kept. Never one that
//! is open, nor one whose payload the journal still holds: a replica may be brought up to date
//! from it. What else names an old task does without it: a successor that finds it gone waits by
//! names ([`holds_up`](miroir_storage::tables::tasks::holds_up)), the last task of a name counts
//! as ended, task numbers come from
//! a counter, idempotency and sessions keep what they need in records of their own.
//!
//! Nobody sends to it but its own timer. In shares, by [`TaskBlock`]; pruning twice changes
//! nothing. A restart only delays the next look. Times are compared with the wall clock of the
//! `Clock` seam: a clock that is wrong by days prunes that much early or late, nothing worse.
//!
//! ```text
//! resting --LookAround--> looking --batch proposed, more is due--> looking
//!    ^------------------------'---nothing more is due, or the log refuses
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use miroir_storage::commands::{Command, Outcome};
use miroir_storage::engine::{ALL_KEYS, Direction, Engine};
use miroir_storage::ids::{JobId, JournalSequence, PodId, TaskUid};
use miroir_storage::job_commands::{JobCommand, JobOutcome};
use miroir_storage::log::ProposeError;
use miroir_storage::routing::to_nanoseconds;
use miroir_storage::tables::jobs::{self, ChunkRecord, JobRecord};
use miroir_storage::tables::tasks::TaskRecord;
use miroir_storage::tables::{ApplyError, TASKS, keys, records};
use ractor::ActorProcessingErr;

use crate::inspect::{Actor, Address};
use crate::pod::PodContext;
use crate::shares::Share;

/// Between looks: short against any useful retention, rare against the cost of a look.
pub const INTERVAL: Duration = Duration::from_secs(600);
/// Between batches, so that writes come in between.
const BATCH_PAUSE: Duration = Duration::from_millis(100);
/// Tasks in one log entry: some 5 KB.
const BATCH_TASKS_MAX: usize = 1000;
/// Tasks read at a time.
const PAGE: usize = 1000;
/// Tasks that one share holds: neighbours, so that a look reads its own part in one piece.
const BLOCK_TASKS: u32 = 10_000;

/// How long an idempotency key is remembered after its write (spec 01).
const KEYS_KEPT: Duration = Duration::from_secs(24 * 3600);
/// How long a session is remembered after its last write (spec 01).
const SESSIONS_KEPT: Duration = Duration::from_secs(15 * 60);

/// How long jobs are kept after their end.
const JOBS_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
/// Ended jobs kept at most.
const JOBS_KEPT_MAX: u64 = 1000;
/// A job whose upload stands still for so long, with nothing left to work on, is given up.
const JOBS_IDLE: Duration = Duration::from_secs(24 * 3600);

/// How long ended tasks are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskRetention {
    /// Since they ended.
    pub time: Duration,
    /// Tasks kept at most, open ones included; beyond it the oldest ended ones go.
    pub tasks_max: u64,
}

impl Default for TaskRetention {
    /// 7 days; a million, as Meilisearch.
    fn default() -> Self {
        Self { time: Duration::from_secs(7 * 24 * 3600), tasks_max: 1_000_000 }
    }
}

/// A run of neighbouring task numbers, the unit in which pods share the pruning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskBlock(pub u32);

impl TaskBlock {
    /// The block of a task.
    pub fn of(uid: TaskUid) -> Self {
        Self(uid.0 / BLOCK_TASKS)
    }
}

/// What the pruner is told.
#[derive(Debug)]
pub enum TaskPrunerMessage {
    /// Time for a look.
    LookAround,
    /// A look ended (from the pruner's own task).
    Looked {
        /// Tasks removed.
        removed: usize,
    },
}

/// The pruner actor.
#[derive(Debug)]
pub struct TaskPruner;

/// How the pruner starts.
#[derive(Clone, Debug)]
pub struct TaskPrunerArguments {
    /// The pod.
    pub pod: Arc<PodContext>,
    /// The blocks that this pod prunes.
    pub share: Share<TaskBlock>,
}

/// Why a look ended early; the next one goes on.
#[derive(Debug, thiserror::Error)]
enum PruneError {
    #[error(transparent)]
    State(#[from] ApplyError),
    #[error(transparent)]
    Log(#[from] ProposeError),
    #[error("reading was cancelled")]
    Cancelled,
}

/// What decides whether a task goes.
#[derive(Debug)]
struct Limits {
    /// Unix nanoseconds: what ended before goes.
    ended_before: i64,
    /// This many go whatever their age.
    surplus: u64,
    /// Whose journal is looked at.
    pod: PodId,
    /// What it holds.
    journalled: BTreeSet<JournalSequence>,
}

impl Limits {
    fn allow(&self, task: &TaskRecord) -> bool {
        let holds = |(pod, sequence): &(PodId, JournalSequence)| {
            *pod == self.pod && self.journalled.contains(sequence)
        };
        let is_needed =
            task.work.payload().is_some_and(|payload| payload.holders.iter().any(holds));
        task.ended() && !is_needed
    }

    fn is_old(&self, task: &TaskRecord) -> bool {
        task.finished_at.is_some_and(|at| at < self.ended_before)
    }
}

/// What a look has found.
#[derive(Debug, Default, PartialEq)]
struct Batch {
    /// The tasks to remove.
    uids: Vec<TaskUid>,
    /// Where the next batch begins; `None` when nothing more is due.
    next: Option<TaskUid>,
    /// How many of them are gone for their number.
    surplus: u64,
}

/// The next tasks to remove, from `from` on. Tasks are numbered as they are accepted, so the
/// first that was accepted after the limit ends the search.
fn plan_batch(
    engine: &dyn Engine,
    from: TaskUid,
    limits: &Limits,
    share: &Share<TaskBlock>,
) -> Result<Batch, ApplyError> {
    let mut batch = Batch::default();
    let mut low = Bound::Included(from.to_key().to_vec());
    loop {
        let page = engine.scan(TASKS, (low, Bound::Unbounded), Direction::Forward, PAGE)?;
        let Some((last, _)) = page.last() else { return Ok(batch) };
        low = Bound::Excluded(last.clone());
        for (_, bytes) in &page {
            let task: TaskRecord = records::decode(bytes)?;
            let counts = batch.surplus < limits.surplus;
            if !counts && task.enqueued_at >= limits.ended_before {
                return Ok(batch);
            }
            if batch.uids.len() == BATCH_TASKS_MAX {
                batch.next = Some(task.uid);
                return Ok(batch);
            }
            if share.includes(&TaskBlock::of(task.uid))
                && limits.allow(&task)
                && (counts || limits.is_old(&task))
            {
                batch.surplus += u64::from(counts);
                batch.uids.push(task.uid);
            }
        }
    }
}

/// How many tasks there are beyond `tasks_max`.
fn surplus(engine: &dyn Engine, tasks_max: u64) -> Result<u64, ApplyError> {
    let end = |direction| -> Result<Option<u64>, ApplyError> {
        let found = engine.scan(TASKS, ALL_KEYS, direction, 1)?;
        let key = found.first().and_then(|(key, _)| <[u8; 4]>::try_from(key.as_slice()).ok());
        Ok(key.map(|key| u64::from(u32::from_be_bytes(key))))
    };
    let (Some(oldest), Some(newest)) = (end(Direction::Forward)?, end(Direction::Backward)?) else {
        return Ok(0);
    };
    // Never more than their span; counting reads them all.
    if newest.saturating_sub(oldest) < tasks_max {
        return Ok(0);
    }
    let (mut count, mut low) = (0u64, Bound::Unbounded);
    loop {
        let page = engine.scan(TASKS, (low, Bound::Unbounded), Direction::Forward, PAGE)?;
        let Some((last, _)) = page.last() else { break };
        low = Bound::Excluded(last.clone());
        count += page.len() as u64;
    }
    Ok(count.saturating_sub(tasks_max))
}

#[ractor::async_trait]
impl Actor for TaskPruner {
    type Msg = TaskPrunerMessage;
    type State = TaskPrunerArguments;
    type Arguments = TaskPrunerArguments;

    const KIND: &'static str = "TaskPruner";

    async fn pre_start(
        &self,
        myself: Address<TaskPrunerMessage>,
        arguments: TaskPrunerArguments,
    ) -> Result<TaskPrunerArguments, ActorProcessingErr> {
        schedule(&myself, &arguments.pod);
        Ok(arguments)
    }

    async fn handle(
        &self,
        myself: Address<TaskPrunerMessage>,
        message: TaskPrunerMessage,
        arguments: &mut TaskPrunerArguments,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            TaskPrunerMessage::LookAround => on_look_around(myself, arguments),
            TaskPrunerMessage::Looked { removed } => {
                if removed > 0 {
                    tracing::info!(tasks = removed, "old tasks removed");
                }
                schedule(&myself, &arguments.pod);
            }
        }
        Ok(())
    }
}

fn schedule(myself: &Address<TaskPrunerMessage>, pod: &PodContext) {
    let (myself, clock) = (myself.clone(), pod.seams.clock.clone());
    pod.seams.tasks.spawn("task pruner pace", async move {
        clock.sleep(INTERVAL).await;
        let _stopped = myself.cast(TaskPrunerMessage::LookAround);
    });
}

fn on_look_around(myself: Address<TaskPrunerMessage>, arguments: &TaskPrunerArguments) {
    let TaskPrunerArguments { pod, share } = arguments.clone();
    pod.seams.tasks.clone().spawn("task pruner", async move {
        let mut removed = 0;
        if let Err(error) = prune(&pod, &share, &mut removed).await {
            tracing::warn!(%error, "old tasks could not be removed, trying again");
        }
        let _stopped = myself.cast(TaskPrunerMessage::Looked { removed });
    });
}

/// Forgets idempotency keys and sessions whose time is over.
async fn prune_keys(pod: &Arc<PodContext>) -> Result<(), PruneError> {
    let now = to_nanoseconds(pod.seams.clock.now());
    let before =
        |kept: Duration| now.saturating_sub(i64::try_from(kept.as_nanos()).unwrap_or(i64::MAX));
    let (keys_before, sessions_before) = (before(KEYS_KEPT), before(SESSIONS_KEPT));
    while keys::any_before(pod.log.engine().as_ref(), keys_before, sessions_before)? {
        let command = Command::PruneKeys { keys_before, sessions_before };
        if let Outcome::Unchanged = pod.log.propose(&command).await? {
            break;
        }
        pod.seams.clock.sleep(BATCH_PAUSE).await;
    }
    Ok(())
}

/// Forgets jobs that ended long ago, and gives up those that nobody goes on with.
async fn prune_jobs(pod: &Arc<PodContext>) -> Result<(), PruneError> {
    let engine = pod.log.engine().clone();
    let now = to_nanoseconds(pod.seams.clock.now());
    let before =
        |kept: Duration| now.saturating_sub(i64::try_from(kept.as_nanos()).unwrap_or(i64::MAX));
    let (known, open) = (jobs::all(engine.as_ref())?, jobs::open_chunks(engine.as_ref())?);
    for job in idle_jobs(&known, &open, before(JOBS_IDLE)) {
        let failure = Some("The upload was not finished within 24 hours.".to_owned());
        let end = JobCommand::End { job, failure, at: now };
        pod.log.propose(&Command::Job(Box::new(end))).await?;
    }
    if known.is_empty() {
        return Ok(());
    }
    let (ended_before, kept_max) = (before(JOBS_KEPT), JOBS_KEPT_MAX);
    loop {
        let prune = Command::Job(Box::new(JobCommand::Prune { ended_before, kept_max }));
        if pod.log.propose(&prune).await? != Outcome::Job(JobOutcome::Done) {
            return Ok(());
        }
        pod.seams.clock.sleep(BATCH_PAUSE).await;
    }
}

/// The open jobs for which nothing was done since `before`, and nothing waits.
fn idle_jobs(
    known: &[JobRecord],
    open: &BTreeMap<JobId, Vec<ChunkRecord>>,
    before: i64,
) -> Vec<JobId> {
    let idle = known
        .iter()
        .filter(|job| !job.ended() && job.touched_at < before && !open.contains_key(&job.id));
    idle.map(|job| job.id).collect()
}

async fn prune(
    pod: &Arc<PodContext>,
    share: &Share<TaskBlock>,
    removed: &mut usize,
) -> Result<(), PruneError> {
    if share.includes(&TaskBlock(0)) {
        prune_keys(pod).await?;
        prune_jobs(pod).await?;
    }
    let retention = pod.config.retention;
    let now = to_nanoseconds(pod.seams.clock.now());
    let time = i64::try_from(retention.time.as_nanos()).unwrap_or(i64::MAX);
    let mut limits = Limits {
        ended_before: now.saturating_sub(time),
        surplus: 0,
        pod: pod.id.clone(),
        journalled: pod.journal.sequences().into_iter().collect(),
    };
    let engine = pod.log.engine().clone();
    let count = move || surplus(engine.as_ref(), retention.tasks_max);
    limits.surplus =
        pod.seams.tasks.spawn_blocking(count).await.map_err(|_| PruneError::Cancelled)??;
    let mut from = Some(TaskUid(0));
    while let Some(first) = from {
        let (engine, share) = (pod.log.engine().clone(), share.clone());
        let plan = move || {
            let batch = plan_batch(engine.as_ref(), first, &limits, &share);
            (batch, limits)
        };
        let planned = pod.seams.tasks.spawn_blocking(plan).await;
        let (batch, same_limits) = planned.map_err(|_| PruneError::Cancelled)?;
        let batch = batch?;
        limits = same_limits;
        limits.surplus -= batch.surplus;
        from = batch.next;
        if !batch.uids.is_empty() {
            let command = Command::DeleteTasks { by: None, uids: batch.uids, at: now };
            if let Outcome::Matched(gone) = pod.log.propose(&command).await? {
                *removed += gone.len();
            }
            pod.seams.clock.sleep(BATCH_PAUSE).await;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
