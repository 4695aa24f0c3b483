//! Jobs and their chunks.
//!
//! | table | key | value |
//! |---|---|---|
//! | `JOBS` | job, big-endian | [`JobRecord`] |
//! | `CHUNKS` | job, chunk's number, both big-endian | [`ChunkRecord`] |
//! | `OPEN_CHUNKS` | as `CHUNKS` | its bytes, 8, big-endian |
//!
//! Written by [`crate::commands::Command::Job`] alone; the rules are in `rules.rs`. A chunk is open
//! from its upload until it is done or its job has ended: as long its payload must stay in the
//! journals it names. At most [`CHUNKS_MAX`] rows for a job; ended jobs leave by `Prune`.

mod rules;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Included};

use serde::{Deserialize, Serialize};

use super::records::{Record, RecordError, decode, u64_from};
use super::{ApplyError, CHUNKS, JOBS, OPEN_CHUNKS};
use crate::commands::{Ending, PayloadRef};
use crate::engine::{ALL_KEYS, Direction, Engine, KeyRange, Tx};
use crate::ids::{JobId, PodId, TaskUid};
use crate::job_commands::{Beat, JobRefusal, LineError, NewChunk, NewJob, Room};

pub(crate) use rules::apply;

/// Chunks of one job at most.
pub const CHUNKS_MAX: u32 = 100_000;
/// Errors kept of one job: the first ones.
pub const ERRORS_MAX: usize = 100;

/// One job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRecord {
    /// Its number.
    pub id: JobId,
    /// What was asked for.
    pub request: NewJob,
    /// How it ended; `None` while it is open.
    pub ending: Option<Ending>,
    /// Why it failed.
    pub failure: Option<String>,
    /// How many chunks there are, once that is known.
    pub sealed: Option<u32>,
    /// Chunks uploaded.
    pub chunks: u32,
    /// Chunks done.
    pub chunks_done: u32,
    /// All chunks below are done.
    pub next: u32,
    /// Bytes uploaded.
    pub bytes: u64,
    /// Bytes worked on.
    pub bytes_done: u64,
    /// Lines worked on.
    pub lines_done: u64,
    /// Documents in tasks that succeeded.
    pub documents: u64,
    /// Lines that could not be imported.
    pub skipped: u64,
    /// The first errors.
    pub errors: Vec<LineError>,
    /// Tasks accepted.
    pub tasks: u64,
    /// The first and the last of them; others' may lie between.
    pub task_range: Option<(TaskUid, TaskUid)>,
    /// Unix nanoseconds.
    pub created_at: i64,
    /// When its first chunk was claimed, Unix nanoseconds.
    pub started_at: Option<i64>,
    /// When something was last done for it, Unix nanoseconds.
    pub touched_at: i64,
    /// Unix nanoseconds.
    pub ended_at: Option<i64>,
}

impl Record for JobRecord {
    const VERSION: u8 = 1;
    const NAME: &'static str = "job";
}

/// One chunk of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkRecord {
    /// Its place.
    pub number: u32,
    /// Its bytes; the count is that of its lines.
    pub payload: PayloadRef,
    /// SHA-256 of its bytes.
    pub sha256: [u8; 32],
    /// The pod that works on it.
    pub holder: Option<PodId>,
    /// The claim in force.
    pub beat: Beat,
    /// Everything before is in tasks, or skipped; bytes.
    pub cursor: u64,
    /// Lines before the cursor.
    pub lines: u64,
    /// Tasks that have not been reported as ended, in order.
    pub open: Vec<OpenBatch>,
    /// All its tasks have ended.
    pub done: bool,
}

impl Record for ChunkRecord {
    const VERSION: u8 = 1;
    const NAME: &'static str = "chunk";
}

/// A task of a chunk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenBatch {
    /// The task.
    pub uid: TaskUid,
    /// Its first line, counted from 1 within the chunk.
    pub line: u64,
    /// Lines that it was made of.
    pub lines: u64,
    /// Documents in it.
    pub documents: u64,
}

impl JobRecord {
    /// Whether it has ended.
    pub fn ended(&self) -> bool {
        self.ending.is_some()
    }
}

fn job_key(job: JobId) -> [u8; 8] {
    job.0.to_be_bytes()
}

fn chunk_key(job: JobId, number: u32) -> Vec<u8> {
    [job.0.to_be_bytes().as_slice(), &number.to_be_bytes()].concat()
}

fn place_of(key: &[u8]) -> Result<(JobId, u32), RecordError> {
    let damaged = RecordError::Damaged("chunk's key");
    let (job, number) = key.split_at_checked(8).ok_or(damaged)?;
    let number = number.try_into().map_err(|_| RecordError::Damaged("chunk's key"))?;
    Ok((JobId(u64_from(job)?), u32::from_be_bytes(number)))
}

/// The keys of a job's chunks.
fn chunks_of(job: JobId) -> KeyRange {
    let end = JobId(job.0.saturating_add(1));
    (Included(job_key(job).to_vec()), Excluded(job_key(end).to_vec()))
}

/// One job, as far as this pod has applied the log.
///
/// # Errors
/// When the store fails or the record can't be read.
pub fn read(engine: &dyn Engine, job: JobId) -> Result<Option<JobRecord>, ApplyError> {
    match engine.get(JOBS, &job_key(job))? {
        Some(bytes) => Ok(Some(decode(&bytes)?)),
        None => Ok(None),
    }
}

/// Every job, in order.
///
/// # Errors
/// When the store fails or a record can't be read.
pub fn all(engine: &dyn Engine) -> Result<Vec<JobRecord>, ApplyError> {
    let rows = engine.scan(JOBS, ALL_KEYS, Direction::Forward, usize::MAX)?;
    rows.iter().map(|(_, bytes)| Ok(decode(bytes)?)).collect()
}

/// One chunk.
///
/// # Errors
/// When the store fails or the record can't be read.
pub fn read_chunk(
    engine: &dyn Engine,
    job: JobId,
    number: u32,
) -> Result<Option<ChunkRecord>, ApplyError> {
    match engine.get(CHUNKS, &chunk_key(job, number))? {
        Some(bytes) => Ok(Some(decode(&bytes)?)),
        None => Ok(None),
    }
}

/// The chunks of a job that were uploaded, in order.
///
/// # Errors
/// When the store fails or a record can't be read.
pub fn chunks(engine: &dyn Engine, job: JobId) -> Result<Vec<ChunkRecord>, ApplyError> {
    let rows = engine.scan(CHUNKS, chunks_of(job), Direction::Forward, usize::MAX)?;
    rows.iter().map(|(_, bytes)| Ok(decode(bytes)?)).collect()
}

/// The chunks that are still to be worked on, by job. They are few: what may wait is bounded.
///
/// # Errors
/// When the store fails or a record can't be read.
pub fn open_chunks(engine: &dyn Engine) -> Result<BTreeMap<JobId, Vec<ChunkRecord>>, ApplyError> {
    let mut open: BTreeMap<JobId, Vec<ChunkRecord>> = BTreeMap::new();
    for (key, _) in engine.scan(OPEN_CHUNKS, ALL_KEYS, Direction::Forward, usize::MAX)? {
        let (job, _) = place_of(&key)?;
        if let Some(bytes) = engine.get(CHUNKS, &key)? {
            open.entry(job).or_default().push(decode(&bytes)?);
        }
    }
    Ok(open)
}

/// Whether the state machine would take the chunk now: `true` if it is there already.
///
/// # Errors
/// The outer one when the store fails; the inner one is the refusal.
pub fn would_add(
    engine: &dyn Engine,
    job: JobId,
    chunk: &NewChunk,
    room: Room,
) -> Result<Result<bool, JobRefusal>, ApplyError> {
    rules::check_chunk(&Tx::new(engine), job, chunk, room)
        .map(|checked| checked.map(|new| new.is_none()))
}
