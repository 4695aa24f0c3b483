//! What may be written to the coordinator log about jobs, and what the state machine answers.
//!
//! As with [`crate::commands`]: variants may be added at the end, never changed; times are the
//! proposer's wall clock in Unix nanoseconds, shown to people, and never compared to decide who may
//! work on what. That is decided by claims: whoever works on a chunk has claimed it, and what it
//! proposes carries the claim's number. A new claim has the next number, and the log refuses what
//! carries an older one.

use serde::{Deserialize, Serialize};

use crate::commands::{EnqueueTask, PayloadRef};
use crate::ids::{JobId, PodId, TaskUid};

/// One command about jobs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum JobCommand {
    /// Begins a job; the answer is its number.
    Create {
        /// What is to be done.
        job: NewJob,
        /// More jobs than this are not open at the same time.
        open_max: u64,
        /// Unix nanoseconds.
        at: i64,
    },
    /// Adds a chunk of the job's input, whose payload is in the journals.
    AddChunk {
        /// The job.
        job: JobId,
        /// The chunk.
        chunk: NewChunk,
        /// How much may wait.
        room: Room,
        /// Unix nanoseconds.
        at: i64,
    },
    /// Says how many chunks there are: the job ends when all of them are done.
    Seal {
        /// The job.
        job: JobId,
        /// Their number.
        chunks: u32,
        /// Unix nanoseconds.
        at: i64,
    },
    /// A pod takes a chunk; the answer is the claim's number.
    Claim {
        /// The job.
        job: JobId,
        /// The chunk's number.
        chunk: u32,
        /// The pod.
        pod: PodId,
        /// What the pod saw last of the chunk's former claim: refused if it has moved since.
        over: Beat,
        /// Unix nanoseconds.
        at: i64,
    },
    /// A pod gives a chunk back.
    Release {
        /// Its claim.
        claim: ChunkClaim,
    },
    /// Accepts a task for a stretch of a chunk and moves the chunk's cursor behind it, both or
    /// neither: so every document of a job is in one task, whoever is killed.
    AcceptBatch {
        /// The proposer's claim.
        claim: ChunkClaim,
        /// The stretch.
        step: Step,
        /// Documents in the task.
        documents: u64,
        /// The task.
        task: Box<EnqueueTask>,
    },
    /// Reports what was done on a chunk, or only that its pod lives.
    Progress {
        /// The proposer's claim.
        claim: ChunkClaim,
        /// A stretch without a document.
        step: Option<Step>,
        /// Tasks of the chunk that ended.
        ended: Vec<EndedBatch>,
        /// Unix nanoseconds.
        at: i64,
    },
    /// Ends a job before its end. What is a task already is carried out.
    End {
        /// The job.
        job: JobId,
        /// Why it failed; `None` when it was cancelled.
        failure: Option<String>,
        /// Unix nanoseconds.
        at: i64,
    },
    /// Forgets ended jobs, a bounded number of rows at a time.
    Prune {
        /// Those that ended before, Unix nanoseconds.
        ended_before: i64,
        /// Ended jobs that are kept at most; beyond it the oldest go.
        kept_max: u64,
    },
}

/// What a job does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobKind {
    /// Adds the documents of an NDJSON file, a line each, to an index.
    NdjsonImport,
}

/// A job to begin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewJob {
    /// What it does.
    pub kind: JobKind,
    /// The client's name of the index.
    pub index: String,
    /// The primary key, if it was given.
    pub primary_key: Option<String>,
    /// What the client calls it, to find it again.
    pub name: Option<String>,
    /// Partial update instead of replacement.
    pub partial: bool,
    /// Chunks are worked on one after the other; else several at the same time.
    pub ordered: bool,
    /// What can't be imported is counted and left out; else it ends the job.
    pub skips_errors: bool,
}

/// A chunk to add.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewChunk {
    /// Its place, from 0 on.
    pub number: u32,
    /// Its bytes; the count is that of its lines.
    pub payload: PayloadRef,
    /// SHA-256 of its bytes.
    pub sha256: [u8; 32],
}

/// How many bytes of chunks may wait. One chunk may wait whatever its size, and so may the one
/// that an ordered job needs next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Room {
    /// Of one job.
    pub job_bytes_max: u64,
    /// Of all jobs.
    pub all_bytes_max: u64,
}

/// How far a chunk's claim is: its number, 0 before the first, and how often it was heard of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Beat {
    /// The claim's number.
    pub claim: u64,
    /// Grows with whatever its holder proposes.
    pub count: u64,
}

/// Who proposes: refused when a newer claim exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkClaim {
    /// The job.
    pub job: JobId,
    /// The chunk's number.
    pub chunk: u32,
    /// The claim's number.
    pub claim: u64,
}

/// A stretch of a chunk that was worked on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Where it begins, bytes from the chunk's start: refused unless the cursor is there.
    pub from: u64,
    /// Where it ends: the cursor from now on.
    pub to: u64,
    /// Lines in it.
    pub lines: u64,
    /// Lines that can't be imported.
    pub skipped: u64,
    /// The first of them. In a job that skips no errors, one ends the job.
    pub errors: Vec<LineError>,
}

/// Why lines can't be imported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineError {
    /// The chunk's number.
    pub chunk: u32,
    /// The first line, counted from 1 within the chunk.
    pub line: u64,
    /// How many lines it is about.
    pub lines: u64,
    /// The task that failed, if it got so far.
    pub task: Option<TaskUid>,
    /// In words.
    pub message: String,
}

/// The end of a task of a chunk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndedBatch {
    /// The task.
    pub uid: TaskUid,
    /// Why it was not carried out; `None` when it was.
    pub failure: Option<String>,
}

/// What the state machine answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobOutcome {
    /// Applied.
    Done,
    /// Nothing to change: applied before.
    Unchanged,
    /// The new job.
    Created(JobId),
    /// The new claim's number.
    Claimed(u64),
    /// Nothing was changed.
    Refused(JobRefusal),
}

/// Why a command about a job is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum JobRefusal {
    /// There is no such job (any more).
    #[error("the job does not exist")]
    NotFound,
    /// The job has ended.
    #[error("the job has ended")]
    Ended,
    /// The chunk was added before, with other bytes.
    #[error("the chunk was uploaded before with other content")]
    OtherContent,
    /// The job is sealed with fewer chunks, or with another number of them.
    #[error("the job is sealed with another number of chunks")]
    Sealed,
    /// Too much waits to be worked on.
    #[error("too many chunks wait to be worked on")]
    Full,
    /// Too many jobs are open.
    #[error("too many jobs are open")]
    TooManyJobs,
    /// Another claim is in force, or the cursor is elsewhere.
    #[error("the chunk is claimed otherwise")]
    ClaimLost,
    /// Chunks before it are not done.
    #[error("the chunk's turn has not come")]
    NotNext,
}
