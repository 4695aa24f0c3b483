//! Jobs of a pod: what it takes in ([`miroir_actors::jobs`]), and what the log says of them.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use bytes::Bytes;
use miroir_actors::jobs::{self as taking, AddedChunk, JobError};
use miroir_storage::commands::Ending;
use miroir_storage::ids::JobId;
use miroir_storage::job_commands::{JobKind, JobRefusal, NewJob};
use miroir_storage::routing::from_nanoseconds;
use miroir_storage::tables::ApplyError;
use miroir_storage::tables::jobs::{self, ChunkRecord, JobRecord};
use miroir_wire::error::{ApiError, Code};

use crate::admin_pod::PodAdmin;
use crate::jobs::{
    ChunkCounts, ChunkView, ChunksAnswer, JobErrorView, JobStatus, JobView, JobsAnswer, JobsSource,
    NewImport, not_found,
};
use crate::writes::refusal;

#[async_trait]
impl JobsSource for PodAdmin {
    async fn jobs(&self) -> Result<JobsAnswer, ApiError> {
        let engine = self.pod.log.engine().as_ref();
        let open = jobs::open_chunks(engine).map_err(unreadable)?;
        let known = jobs::all(engine).map_err(unreadable)?;
        let views = known.iter().map(|job| view_of(job, open.get(&job.id)));
        Ok(JobsAnswer {
            jobs: views.collect(),
            background_queue_depth: open.values().map(|chunks| chunks.len() as u64).sum(),
        })
    }

    async fn job(&self, job: u64) -> Result<JobView, ApiError> {
        let engine = self.pod.log.engine().as_ref();
        let id = JobId(job);
        let record = jobs::read(engine, id).map_err(unreadable)?;
        let record = record.ok_or_else(|| not_found(job))?;
        let open = jobs::open_chunks(engine).map_err(unreadable)?;
        let mut view = view_of(&record, open.get(&id));
        if !record.errors.is_empty() {
            let chunks = jobs::chunks(engine, id).map_err(unreadable)?;
            view.errors = errors_of(&record, &chunks);
        }
        Ok(view)
    }

    async fn create_import(&self, import: NewImport) -> Result<JobView, ApiError> {
        let job = NewJob {
            kind: JobKind::NdjsonImport,
            index: import.index,
            primary_key: import.primary_key,
            name: import.name,
            partial: import.partial,
            ordered: !import.unordered,
            skips_errors: import.skips_errors,
        };
        let id = taking::create(&self.pod, job).await.map_err(|error| refused(error, 0))?;
        self.job(id.0).await
    }

    async fn chunks(&self, job: u64) -> Result<ChunksAnswer, ApiError> {
        let engine = self.pod.log.engine().as_ref();
        if jobs::read(engine, JobId(job)).map_err(unreadable)?.is_none() {
            return Err(not_found(job));
        }
        let chunks = jobs::chunks(engine, JobId(job)).map_err(unreadable)?;
        Ok(ChunksAnswer { chunks: chunks.iter().map(chunk_view).collect() })
    }

    async fn put_chunk(&self, job: u64, chunk: u32, body: Bytes) -> Result<ChunkView, ApiError> {
        let added = taking::add_chunk(&self.pod, JobId(job), chunk, body).await;
        let added = added.map_err(|error| refused(error, job))?;
        let known = jobs::read_chunk(self.pod.log.engine().as_ref(), JobId(job), chunk);
        let AddedChunk { bytes, lines, sha256, .. } = added;
        Ok(match known.map_err(unreadable)? {
            Some(known) => chunk_view(&known),
            // Its job has been forgotten in between.
            None => ChunkView {
                number: chunk,
                bytes,
                lines,
                sha256: hexadecimal(&sha256),
                bytes_done: 0,
                pod: None,
                done: false,
            },
        })
    }

    async fn seal(&self, job: u64, chunks: u32) -> Result<JobView, ApiError> {
        let sealed = taking::seal(&self.pod, JobId(job), chunks).await;
        sealed.map_err(|error| refused(error, job))?;
        self.job(job).await
    }

    async fn end_job(&self, job: u64, failure: Option<String>) -> Result<JobView, ApiError> {
        let ended = taking::end(&self.pod, JobId(job), failure).await;
        ended.map_err(|error| refused(error, job))?;
        self.job(job).await
    }
}

/// The only place where a refusal about a job becomes a status and a code.
fn refused(error: JobError, job: u64) -> ApiError {
    let conflict = |message: String| ApiError::new(Code::MiroirJobConflict, message);
    let busy = |message: &str| ApiError::new(Code::MiroirOverloaded, message);
    match error {
        JobError::Empty => ApiError::new(Code::MissingPayload, "A ndjson payload is missing."),
        JobError::Accept(error) => refusal(error),
        JobError::State(error) => unreadable(error),
        JobError::Refused(why) => match why {
            JobRefusal::NotFound => not_found(job),
            JobRefusal::Ended => conflict(format!("Job `{job}` has ended.")),
            JobRefusal::OtherContent => conflict(format!(
                "Job `{job}` has this chunk already, with other content. Chunks must be cut from the same file in the same way."
            )),
            JobRefusal::Sealed => conflict(format!(
                "Job `{job}` is sealed with another number of chunks, or has more than that."
            )),
            JobRefusal::Full => {
                busy("Too many chunks wait to be worked on. Nothing was accepted, try again later.")
            }
            JobRefusal::TooManyJobs => busy("Too many jobs are open. Try again later."),
            JobRefusal::ClaimLost | JobRefusal::NotNext => conflict(why.to_string()),
        },
    }
}

fn unreadable(error: ApplyError) -> ApiError {
    ApiError::new(Code::Internal, format!("The coordinator state can't be read: {error}."))
}

fn view_of(job: &JobRecord, open: Option<&Vec<ChunkRecord>>) -> JobView {
    let request = &job.request;
    let holders = open.into_iter().flatten().filter_map(|chunk| chunk.holder.as_ref());
    let pods: BTreeSet<&str> = holders.clone().map(|pod| pod.as_str()).collect();
    let rate = rate_of(job);
    let is_uploaded = job.sealed == Some(job.chunks) && !job.ended();
    let left = job.bytes.saturating_sub(job.bytes_done);
    JobView {
        id: job.id.0,
        kind: match request.kind {
            JobKind::NdjsonImport => "ndjsonImport".to_owned(),
        },
        name: request.name.clone(),
        index_uid: request.index.clone(),
        primary_key: request.primary_key.clone(),
        partial: request.partial,
        ordered: request.ordered,
        on_error: if request.skips_errors { "skip" } else { "fail" }.to_owned(),
        status: match job.ending {
            None => JobStatus::Running,
            Some(Ending::Succeeded) => JobStatus::Succeeded,
            Some(Ending::Failed) => JobStatus::Failed,
            Some(Ending::Canceled) => JobStatus::Canceled,
        },
        failure: job.failure.clone(),
        chunks: ChunkCounts {
            total: job.sealed,
            uploaded: job.chunks,
            claimed: holders.count() as u32,
            done: job.chunks_done,
        },
        bytes: job.bytes,
        bytes_done: job.bytes_done,
        lines_done: job.lines_done,
        documents: job.documents,
        skipped: job.skipped,
        tasks: job.tasks,
        first_task_uid: job.task_range.map(|(first, _)| first.0),
        last_task_uid: job.task_range.map(|(_, last)| last.0),
        pods: pods.into_iter().map(str::to_owned).collect(),
        bytes_per_second: rate,
        seconds_left: rate.filter(|_| is_uploaded).and_then(|rate| left.checked_div(rate)),
        errors: Vec::new(),
        created_at: from_nanoseconds(job.created_at),
        started_at: job.started_at.map(from_nanoseconds),
        ended_at: job.ended_at.map(from_nanoseconds),
    }
}

/// From clocks of several pods, and so for people only.
fn rate_of(job: &JobRecord) -> Option<u64> {
    let last = job.ended_at.unwrap_or(job.touched_at);
    let took = last.saturating_sub(job.started_at?).max(1_000_000);
    let rate = i128::from(job.bytes_done) * 1_000_000_000 / i128::from(took);
    u64::try_from(rate).ok()
}

fn errors_of(job: &JobRecord, chunks: &[ChunkRecord]) -> Vec<JobErrorView> {
    // Lines before each chunk, as far as every earlier one is there.
    let mut before = BTreeMap::new();
    let mut lines = 0;
    for (place, chunk) in chunks.iter().enumerate() {
        if chunk.number as usize != place {
            break;
        }
        before.insert(chunk.number, lines);
        lines += chunk.payload.count;
    }
    let view = |error: &miroir_storage::job_commands::LineError| JobErrorView {
        chunk: error.chunk,
        chunk_line: error.line,
        line: before.get(&error.chunk).map(|before| before + error.line),
        lines: error.lines,
        task_uid: error.task.map(|task| task.0),
        message: error.message.clone(),
    };
    job.errors.iter().map(view).collect()
}

fn chunk_view(chunk: &ChunkRecord) -> ChunkView {
    ChunkView {
        number: chunk.number,
        bytes: chunk.payload.bytes,
        lines: chunk.payload.count,
        sha256: hexadecimal(&chunk.sha256),
        bytes_done: chunk.cursor,
        pod: chunk.holder.as_ref().map(ToString::to_string),
        done: chunk.done,
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
