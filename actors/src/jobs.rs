//! Taking in jobs: what a client asks for, until it is durable and agreed.
//!
//! As with writes ([`crate::accept`]): a chunk's bytes are in two journals before the log names
//! them. A chunk is its number and its content: the same again is the same chunk, so an upload that
//! was broken off is repeated on any pod. Runs in the connection's own task; the work itself is
//! [`crate::job_worker`]'s.

use std::sync::Arc;

use bytes::Bytes;
use miroir_storage::commands::{Command, Outcome, PayloadRef};
use miroir_storage::ids::JobId;
use miroir_storage::job_commands::{JobCommand, JobOutcome, JobRefusal, NewChunk, NewJob, Room};
use miroir_storage::log::ProposeError;
use miroir_storage::routing::to_nanoseconds;
use miroir_storage::tables::{ApplyError, jobs};
use sha2::{Digest, Sha256};

use crate::accept::AcceptError;
use crate::copies;
use crate::pod::PodContext;

/// Jobs open at the same time: each may have chunks in the journals.
pub const OPEN_JOBS_MAX: u64 = 32;
/// The part of a journal that the waiting chunks of one job may take.
const JOB_PART: u64 = 8;
/// The part of a journal that all waiting chunks may take.
const ALL_PART: u64 = 4;
/// Chunks below this are looked at in the connection's own task, bytes.
const LOOKED_AT_INLINE_MAX: usize = 64 << 10;

/// Why something about a job was not done, or is not known to be.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// By the rules.
    #[error(transparent)]
    Refused(#[from] JobRefusal),
    /// A chunk without a byte.
    #[error("the chunk is empty")]
    Empty,
    /// The chunk could not be made durable, or the log gives no answer.
    #[error(transparent)]
    Accept(#[from] AcceptError),
    /// The local store failed.
    #[error("the coordinator state can't be read: {0}")]
    State(#[from] ApplyError),
}

/// A chunk that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddedChunk {
    /// Its bytes.
    pub bytes: u64,
    /// Its lines.
    pub lines: u64,
    /// SHA-256 of its bytes.
    pub sha256: [u8; 32],
    /// It was there before.
    pub known: bool,
}

/// Begins a job.
///
/// # Errors
/// See [`JobError`].
pub async fn create(pod: &PodContext, job: NewJob) -> Result<JobId, JobError> {
    let at = to_nanoseconds(pod.seams.clock.now());
    match propose(pod, JobCommand::Create { job, open_max: OPEN_JOBS_MAX, at }).await? {
        JobOutcome::Created(id) => Ok(id),
        other => Err(strange(&other)),
    }
}

/// Adds a chunk of whole lines: durable and agreed when this returns.
///
/// # Errors
/// See [`JobError`]; `Full` when too much waits already: try again later.
pub async fn add_chunk(
    pod: &Arc<PodContext>,
    job: JobId,
    number: u32,
    bytes: Bytes,
) -> Result<AddedChunk, JobError> {
    if bytes.is_empty() {
        return Err(JobError::Empty);
    }
    let length = bytes.len() as u64;
    let (lines, sha256) = look_at(pod, &bytes).await?;
    let mut chunk = NewChunk {
        number,
        payload: PayloadRef { holders: Vec::new(), bytes: length, count: lines },
        sha256,
    };
    let added = |known| AddedChunk { bytes: length, lines, sha256, known };
    let room = room(pod);
    if jobs::would_add(pod.log.engine().as_ref(), job, &chunk, room)?? {
        return Ok(added(true));
    }
    chunk.payload.holders = copies::append(pod, bytes.into(), None).await?;
    let payload = chunk.payload.clone();
    let at = to_nanoseconds(pod.seams.clock.now());
    let answer = propose(pod, JobCommand::AddChunk { job, chunk, room, at }).await;
    match answer {
        Ok(JobOutcome::Done) => Ok(added(false)),
        Ok(JobOutcome::Unchanged) => {
            copies::release(pod, &payload);
            Ok(added(true))
        }
        Ok(other) => Err(strange(&other)),
        // The payload stays: the entry may yet be committed.
        Err(error @ JobError::Accept(AcceptError::OutcomeUnknown)) => Err(error),
        Err(error) => {
            copies::release(pod, &payload);
            Err(error)
        }
    }
}

/// Says how many chunks the job has.
///
/// # Errors
/// See [`JobError`].
pub async fn seal(pod: &PodContext, job: JobId, chunks: u32) -> Result<(), JobError> {
    let at = to_nanoseconds(pod.seams.clock.now());
    propose(pod, JobCommand::Seal { job, chunks, at }).await.map(drop)
}

/// Ends a job before its end; `failure` says why, unless it was asked for.
///
/// # Errors
/// See [`JobError`].
pub async fn end(pod: &PodContext, job: JobId, failure: Option<String>) -> Result<(), JobError> {
    let at = to_nanoseconds(pod.seams.clock.now());
    propose(pod, JobCommand::End { job, failure, at }).await.map(drop)
}

async fn propose(pod: &PodContext, command: JobCommand) -> Result<JobOutcome, JobError> {
    match pod.log.propose(&Command::Job(Box::new(command))).await {
        Ok(Outcome::Job(JobOutcome::Refused(refusal))) => Err(refusal.into()),
        Ok(Outcome::Job(outcome)) => Ok(outcome),
        Ok(other) => {
            tracing::error!(?other, "log answered a job's command otherwise");
            Err(AcceptError::OutcomeUnknown.into())
        }
        Err(ProposeError::NoQuorum | ProposeError::Stopped) => Err(AcceptError::NoQuorum.into()),
        Err(error) => {
            tracing::warn!(%error, "outcome of a job's command is unknown");
            Err(AcceptError::OutcomeUnknown.into())
        }
    }
}

fn strange(outcome: &JobOutcome) -> JobError {
    tracing::error!(?outcome, "log answered a job's command otherwise");
    AcceptError::OutcomeUnknown.into()
}

/// One job must not eat the journals: each chunk is in two of them.
fn room(pod: &PodContext) -> Room {
    let bytes_max = pod.journal.usage().bytes_max;
    Room { job_bytes_max: bytes_max / JOB_PART, all_bytes_max: bytes_max / ALL_PART }
}

async fn look_at(pod: &PodContext, bytes: &Bytes) -> Result<(u64, [u8; 32]), JobError> {
    let is_small = bytes.len() <= LOOKED_AT_INLINE_MAX;
    let bytes = bytes.clone();
    let look = move || (count_lines(&bytes), Sha256::digest(&bytes).into());
    if is_small {
        return Ok(look());
    }
    pod.seams.tasks.spawn_blocking(look).await.map_err(|error| {
        tracing::error!(%error, "chunk could not be looked at");
        AcceptError::Overloaded.into()
    })
}

/// The last line may lack its end.
fn count_lines(bytes: &[u8]) -> u64 {
    let ends = memchr::memchr_iter(b'\n', bytes).count() as u64;
    ends + u64::from(bytes.last().is_some_and(|last| *last != b'\n'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_may_lack_its_end() {
        for (text, lines) in [("", 0), ("a", 1), ("a\n", 1), ("a\nb", 2), ("\n\n", 2)] {
            assert_eq!(count_lines(text.as_bytes()), lines, "{text:?}");
        }
    }
}
