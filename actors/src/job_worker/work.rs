//! The work on one chunk, from its claim to its end.
//!
//! ```text
//!             ,--- a task ended: reported ----.
//!             v                               |
//! claimed -> looks --- room for a task: a stretch is cut and accepted --> looks ... --> done
//!             |--- nothing to do: waits, is heard of every 10 s
//!             `--- claim lost, job ended: stops; pod leaves: gives the chunk back
//! ```
//! Everything is decided from the chunk's record in the log, read anew each time round. Every
//! proposal names the claim and the cursor that it was made for, so one whose outcome is unknown is
//! simply made again: the log refuses what it has taken before.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use miroir_storage::commands::{Command, Ending, Outcome};
use miroir_storage::ids::TaskUid;
use miroir_storage::job_commands::{
    Beat, ChunkClaim, EndedBatch, JobCommand, JobOutcome, JobRefusal, Step,
};
use miroir_storage::journal::Payload;
use miroir_storage::log::ProposeError;
use miroir_storage::routing::to_nanoseconds;
use miroir_storage::tables::ApplyError;
use miroir_storage::tables::jobs::{self, ChunkRecord, JobRecord};
use miroir_storage::tables::tasks::{self, TaskState};
use tokio::time::Instant;

use super::cut::{Cursor, Cut, cut, shortened};
use super::plan::Place;
use crate::accept::{AcceptError, RequestedWork, WriteRequest, accept_batch};
use crate::copies::{self, PayloadError};
use crate::payload::encode_documents;
use crate::pod::PodContext;

/// How often the log hears of a claim (spec 02).
const HEARTBEAT: Duration = Duration::from_secs(10);
/// Tasks of one chunk that are open at the same time: enough to keep the lanes busy, few enough
/// to leave room for other writes.
const OPEN_MAX: usize = 4;
/// Between looks at open tasks; doubles while nothing happens.
const LOOK_MIN: Duration = Duration::from_millis(25);
/// See [`LOOK_MIN`].
const LOOK_MAX: Duration = Duration::from_millis(400);
/// After something that can't be had now.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// How long the leader may take to confirm this pod's state.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(3);

/// Why the work ended early; whoever claims the chunk next goes on.
#[derive(Debug, thiserror::Error)]
pub(super) enum WorkError {
    /// The local store failed.
    #[error(transparent)]
    State(#[from] ApplyError),
    /// The log has ended.
    #[error(transparent)]
    Log(#[from] ProposeError),
    /// The blocking pool is gone.
    #[error("cutting the chunk was cancelled")]
    Cancelled,
}

/// Claims a chunk and works on it until it is done, lost or given back.
pub(super) async fn work_on(
    pod: &Arc<PodContext>,
    (job, chunk): Place,
    over: Beat,
) -> Result<(), WorkError> {
    let at = to_nanoseconds(pod.seams.clock.now());
    let claim = JobCommand::Claim { job, chunk, pod: pod.id.clone(), over, at };
    let claim = match pod.log.propose(&Command::Job(Box::new(claim))).await? {
        Outcome::Job(JobOutcome::Claimed(claim)) => ChunkClaim { job, chunk, claim },
        // Another pod was quicker.
        _ => return Ok(()),
    };
    tracing::info!(%job, chunk, claim = claim.claim, "working on a chunk");
    let told = pod.seams.clock.instant();
    Work { pod: pod.clone(), claim, told, wait: LOOK_MIN }.run().await
}

struct Work {
    pod: Arc<PodContext>,
    claim: ChunkClaim,
    /// When the log heard of the claim last.
    told: Instant,
    wait: Duration,
}

impl Work {
    async fn run(mut self) -> Result<(), WorkError> {
        let mut payload = None;
        while let Some((job, chunk)) = self.records()? {
            if is_leaving(&self.pod) {
                let release = JobCommand::Release { claim: self.claim };
                self.propose(release).await?;
                return Ok(());
            }
            let ended = self.ended(&chunk)?;
            if !ended.is_empty() {
                self.report(None, ended).await?;
                continue;
            }
            if chunk.cursor < chunk.payload.bytes && chunk.open.len() < OPEN_MAX {
                let bytes = match payload.clone() {
                    Some(bytes) => bytes,
                    None => match self.read(&chunk).await? {
                        Some(bytes) => payload.insert(bytes).clone(),
                        None => continue,
                    },
                };
                self.go_on(&job, &chunk, bytes).await?;
            } else {
                self.rest().await?;
            }
        }
        Ok(())
    }

    /// Job and chunk, as long as the claim is in force.
    fn records(&self) -> Result<Option<(JobRecord, ChunkRecord)>, ApplyError> {
        let engine = self.pod.log.engine().as_ref();
        let Some(job) = jobs::read(engine, self.claim.job)?.filter(|job| !job.ended()) else {
            return Ok(None);
        };
        let chunk = jobs::read_chunk(engine, self.claim.job, self.claim.chunk)?;
        let chunk = chunk.filter(|chunk| {
            chunk.holder.is_some() && !chunk.done && chunk.beat.claim == self.claim.claim
        });
        Ok(chunk.map(|chunk| (job, chunk)))
    }

    /// The chunk's bytes; `None` when they can't be had now, or never: then the job ends.
    async fn read(&mut self, chunk: &ChunkRecord) -> Result<Option<Bytes>, WorkError> {
        let lost = match copies::read(&self.pod, &chunk.payload).await {
            Ok(bytes) if bytes.len() as u64 == chunk.payload.bytes => return Ok(Some(bytes)),
            Ok(_) => "has another length than was uploaded",
            Err(PayloadError::Lost) => "is lost: no journal holds it any more",
            Err(PayloadError::NotNow(why)) => {
                tracing::warn!(job = %self.claim.job, chunk = chunk.number, why, "chunk can't be read, trying again");
                self.pause().await?;
                return Ok(None);
            }
        };
        let failure = Some(format!("The content of chunk {} {lost}.", chunk.number));
        let at = to_nanoseconds(self.pod.seams.clock.now());
        self.propose(JobCommand::End { job: self.claim.job, failure, at }).await?;
        Ok(None)
    }

    /// The tasks of the chunk that have ended.
    fn ended(&self, chunk: &ChunkRecord) -> Result<Vec<EndedBatch>, ApplyError> {
        let mut ended = Vec::new();
        for batch in &chunk.open {
            if let Some(failure) = outcome_of(&self.pod, batch.uid)? {
                ended.push(EndedBatch { uid: batch.uid, failure });
            }
        }
        Ok(ended)
    }

    /// Cuts the next stretch and brings it into the log.
    async fn go_on(
        &mut self,
        job: &JobRecord,
        chunk: &ChunkRecord,
        bytes: Bytes,
    ) -> Result<(), WorkError> {
        let cursor = Cursor { chunk: chunk.number, at: chunk.cursor, lines: chunk.lines };
        let skips_errors = job.request.skips_errors;
        let cutting = move || match cut(&bytes, cursor, skips_errors) {
            Cut::Documents(batch, step) => Cutting::Task(
                TaskPayload { count: batch.len() as u64, payload: encode_documents(&batch) },
                step,
            ),
            Cut::Nothing(step) => Cutting::Nothing(step),
            Cut::Refused(step) => Cutting::Refused(step),
        };
        let cutting = self.pod.seams.tasks.spawn_blocking(cutting).await;
        match cutting.map_err(|_| WorkError::Cancelled)? {
            Cutting::Task(parts, step) => self.accept(job, parts, step).await,
            Cutting::Nothing(step) => self.report(Some(step), Vec::new()).await,
            // What was accepted before is counted before the job ends.
            Cutting::Refused(_) if !chunk.open.is_empty() => self.rest().await,
            Cutting::Refused(step) => self.report(Some(step), Vec::new()).await,
        }
    }

    async fn accept(
        &mut self,
        job: &JobRecord,
        parts: TaskPayload,
        step: Step,
    ) -> Result<(), WorkError> {
        let TaskPayload { payload, count } = parts;
        let work = RequestedWork::Documents {
            partial: job.request.partial,
            primary_key: job.request.primary_key.clone(),
            payload,
            count,
        };
        let request = WriteRequest {
            index: Some(job.request.index.clone()),
            work,
            creates_index: true,
            custom_metadata: None,
        };
        match accept_batch(&self.pod, request, self.claim, step, count).await {
            Ok(Ok(_)) => self.heard(),
            // The records say which it is: a claim lost, or a stretch taken after all.
            Ok(Err(JobRefusal::ClaimLost)) => {}
            Ok(Err(refusal)) => tracing::info!(%refusal, job = %job.id, "job takes no more tasks"),
            Err(AcceptError::State(error)) => return Err(error.into()),
            Err(error) => {
                tracing::warn!(%error, job = %job.id, "job's task not accepted, trying again");
                self.pause().await?;
            }
        }
        Ok(())
    }

    async fn report(
        &mut self,
        step: Option<Step>,
        ended: Vec<EndedBatch>,
    ) -> Result<(), WorkError> {
        let at = to_nanoseconds(self.pod.seams.clock.now());
        self.propose(JobCommand::Progress { claim: self.claim, step, ended, at }).await
    }

    async fn propose(&mut self, command: JobCommand) -> Result<(), WorkError> {
        match self.pod.log.propose(&Command::Job(Box::new(command))).await {
            Ok(_) => {
                self.heard();
                Ok(())
            }
            Err(error @ (ProposeError::Stopped | ProposeError::Fatal(_))) => Err(error.into()),
            Err(error) => {
                tracing::warn!(%error, "job's progress not agreed, trying again");
                self.pod.seams.clock.sleep(RETRY_PAUSE).await;
                // Read again only what is known to be new: it may have been taken after all.
                self.pod.confirm(CONFIRM_TIMEOUT).await;
                Ok(())
            }
        }
    }

    fn heard(&mut self) {
        self.told = self.pod.seams.clock.instant();
        self.wait = LOOK_MIN;
    }

    /// Waits a little; lets the log hear of the claim when it is time.
    async fn rest(&mut self) -> Result<(), WorkError> {
        self.pod.seams.clock.sleep(self.wait).await;
        self.wait = (self.wait * 2).min(LOOK_MAX);
        self.beat().await
    }

    /// Waits for what can't be had now.
    async fn pause(&mut self) -> Result<(), WorkError> {
        self.pod.seams.clock.sleep(RETRY_PAUSE).await;
        self.beat().await
    }

    async fn beat(&mut self) -> Result<(), WorkError> {
        let silent_for = self.pod.seams.clock.instant().saturating_duration_since(self.told);
        if silent_for >= HEARTBEAT {
            self.report(None, Vec::new()).await?;
        }
        Ok(())
    }
}

/// What a stretch has become.
enum Cutting {
    Task(TaskPayload, Step),
    Nothing(Step),
    Refused(Step),
}

/// The documents of a task, as they go to the journal.
struct TaskPayload {
    payload: Payload,
    count: u64,
}

/// Whether this pod is about to stop, and others are there.
pub(super) fn is_leaving(pod: &PodContext) -> bool {
    pod.peers.now().live.get(&pod.id).is_some_and(|own| own.leaving)
}

/// How a task ended: `None` while it has not, else why it failed, if it did.
fn outcome_of(pod: &PodContext, uid: TaskUid) -> Result<Option<Option<String>>, ApplyError> {
    let Some(task) = tasks::read(pod.log.engine().as_ref(), uid)? else {
        return Ok(Some(Some(format!("Task {uid} was deleted before its end was seen."))));
    };
    Ok(match task.state {
        TaskState::Enqueued | TaskState::Processing => None,
        TaskState::Ended(Ending::Succeeded) => Some(None),
        TaskState::Ended(Ending::Canceled) => Some(Some(format!("Task {uid} was canceled."))),
        TaskState::Ended(Ending::Failed) => {
            let error = task.error.as_deref().and_then(|error| {
                let error: serde_json::Value = serde_json::from_str(error).ok()?;
                Some(error.get("message")?.as_str()?.to_owned())
            });
            let error = error.unwrap_or_else(|| format!("Task {uid} failed."));
            Some(Some(shortened(error)))
        }
    })
}
