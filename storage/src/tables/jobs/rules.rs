//! What each command about jobs changes. The first check is the claim.

use super::{
    CHUNKS_MAX, ChunkRecord, ERRORS_MAX, JobRecord, OpenBatch, chunk_key, chunks_of, job_key,
    place_of,
};
use crate::commands::{Ending, EnqueueTask, Outcome};
use crate::engine::{ALL_KEYS, Direction, Tx};
use crate::ids::{JobId, PodId, TaskUid};
use crate::job_commands::{
    Beat, ChunkClaim, EndedBatch, JobCommand, JobOutcome, JobRefusal, LineError, NewChunk, NewJob,
    Room, Step,
};
use crate::tables::records::{decode, encode, u64_from};
use crate::tables::{ApplyError, CHUNKS, JOBS, OPEN_CHUNKS, enqueue, take_number};

/// Rows removed by one `Prune`.
const PRUNED_MAX: usize = 1000;

/// A refusal is an answer; an error is the store's.
type Checked<T> = Result<Result<T, JobRefusal>, ApplyError>;

pub(crate) fn apply(tx: &mut Tx<'_>, command: &JobCommand) -> Result<Outcome, ApplyError> {
    let checked = match command {
        JobCommand::Create { job, open_max, at } => create(tx, job, *open_max, *at)?,
        JobCommand::AddChunk { job, chunk, room, at } => add_chunk(tx, *job, chunk, *room, *at)?,
        JobCommand::Seal { job, chunks, at } => seal(tx, *job, *chunks, *at)?,
        JobCommand::Claim { job, chunk, pod, over, at } => {
            claim(tx, *job, *chunk, pod, *over, *at)?
        }
        JobCommand::Release { claim } => release(tx, *claim)?,
        JobCommand::AcceptBatch { claim, step, documents, task } => {
            match accept_batch(tx, *claim, step, *documents, task)? {
                Ok(outcome) => return Ok(outcome),
                Err(refusal) => Err(refusal),
            }
        }
        JobCommand::Progress { claim, step, ended, at } => {
            progress(tx, *claim, step.as_ref(), ended, *at)?
        }
        JobCommand::End { job, failure, at } => end_early(tx, *job, failure.clone(), *at)?,
        JobCommand::Prune { ended_before, kept_max } => prune(tx, *ended_before, *kept_max)?,
    };
    Ok(Outcome::Job(checked.unwrap_or_else(JobOutcome::Refused)))
}

fn get_job(tx: &Tx<'_>, job: JobId) -> Result<Option<JobRecord>, ApplyError> {
    match tx.get(JOBS, &job_key(job))? {
        Some(bytes) => Ok(Some(decode(&bytes)?)),
        None => Ok(None),
    }
}

fn put_job(tx: &mut Tx<'_>, job: &JobRecord) -> Result<(), ApplyError> {
    tx.put(JOBS, &job_key(job.id), encode(job)?);
    Ok(())
}

fn get_chunk(tx: &Tx<'_>, job: JobId, number: u32) -> Result<Option<ChunkRecord>, ApplyError> {
    match tx.get(CHUNKS, &chunk_key(job, number))? {
        Some(bytes) => Ok(Some(decode(&bytes)?)),
        None => Ok(None),
    }
}

fn put_chunk(tx: &mut Tx<'_>, job: JobId, chunk: &ChunkRecord) -> Result<(), ApplyError> {
    tx.put(CHUNKS, &chunk_key(job, chunk.number), encode(chunk)?);
    Ok(())
}

/// A job that has not ended.
fn open_job(tx: &Tx<'_>, job: JobId) -> Checked<JobRecord> {
    Ok(match get_job(tx, job)? {
        None => Err(JobRefusal::NotFound),
        Some(job) if job.ended() => Err(JobRefusal::Ended),
        Some(job) => Ok(job),
    })
}

/// A chunk, under the claim that is in force.
fn claimed(tx: &Tx<'_>, claim: ChunkClaim) -> Checked<(JobRecord, ChunkRecord)> {
    let job = match open_job(tx, claim.job)? {
        Ok(job) => job,
        Err(refusal) => return Ok(Err(refusal)),
    };
    Ok(match get_chunk(tx, claim.job, claim.chunk)? {
        Some(chunk) if chunk.holder.is_some() && !chunk.done && chunk.beat.claim == claim.claim => {
            Ok((job, chunk))
        }
        _ => Err(JobRefusal::ClaimLost),
    })
}

fn create(tx: &mut Tx<'_>, request: &NewJob, open_max: u64, at: i64) -> Checked<JobOutcome> {
    let mut open = 0;
    for (_, bytes) in tx.scan(JOBS, ALL_KEYS, Direction::Forward, usize::MAX)? {
        open += u64::from(!decode::<JobRecord>(&bytes)?.ended());
    }
    if open >= open_max {
        return Ok(Err(JobRefusal::TooManyJobs));
    }
    let id = JobId(take_number(tx, b"job")?);
    put_job(
        tx,
        &JobRecord {
            id,
            request: request.clone(),
            ending: None,
            failure: None,
            sealed: None,
            chunks: 0,
            chunks_done: 0,
            next: 0,
            bytes: 0,
            bytes_done: 0,
            lines_done: 0,
            documents: 0,
            skipped: 0,
            errors: Vec::new(),
            tasks: 0,
            task_range: None,
            created_at: at,
            started_at: None,
            touched_at: at,
            ended_at: None,
        },
    )?;
    Ok(Ok(JobOutcome::Created(id)))
}

/// The job that the chunk can be added to; `None` when it was added before.
pub(super) fn check_chunk(
    tx: &Tx<'_>,
    job: JobId,
    chunk: &NewChunk,
    room: Room,
) -> Checked<Option<JobRecord>> {
    let job = match open_job(tx, job)? {
        Ok(job) => job,
        Err(refusal) => return Ok(Err(refusal)),
    };
    if let Some(known) = get_chunk(tx, job.id, chunk.number)? {
        let is_same = known.sha256 == chunk.sha256 && known.payload.bytes == chunk.payload.bytes;
        return Ok(if is_same { Ok(None) } else { Err(JobRefusal::OtherContent) });
    }
    if chunk.number >= job.sealed.unwrap_or(CHUNKS_MAX) {
        return Ok(Err(JobRefusal::Sealed));
    }
    // Nothing that waits can be worked on before this one.
    if job.request.ordered && chunk.number == job.next {
        return Ok(Ok(Some(job)));
    }
    let (mut of_job, mut of_all) = (0u64, 0u64);
    for (key, bytes) in tx.scan(OPEN_CHUNKS, ALL_KEYS, Direction::Forward, usize::MAX)? {
        let bytes = u64_from(&bytes)?;
        of_all = of_all.saturating_add(bytes);
        if place_of(&key)?.0 == job.id {
            of_job = of_job.saturating_add(bytes);
        }
    }
    let is_over =
        |waiting: u64, max| waiting > 0 && waiting.saturating_add(chunk.payload.bytes) > max;
    let is_full = is_over(of_job, room.job_bytes_max) || is_over(of_all, room.all_bytes_max);
    Ok(if is_full { Err(JobRefusal::Full) } else { Ok(Some(job)) })
}

fn add_chunk(
    tx: &mut Tx<'_>,
    job: JobId,
    new: &NewChunk,
    room: Room,
    at: i64,
) -> Checked<JobOutcome> {
    let mut job = match check_chunk(tx, job, new, room)? {
        Ok(Some(job)) => job,
        Ok(None) => return Ok(Ok(JobOutcome::Unchanged)),
        Err(refusal) => return Ok(Err(refusal)),
    };
    let chunk = ChunkRecord {
        number: new.number,
        payload: new.payload.clone(),
        sha256: new.sha256,
        holder: None,
        beat: Beat::default(),
        cursor: 0,
        lines: 0,
        open: Vec::new(),
        done: false,
    };
    job.chunks += 1;
    job.bytes = job.bytes.saturating_add(new.payload.bytes);
    job.touched_at = at;
    put_chunk(tx, job.id, &chunk)?;
    let waits = new.payload.bytes.to_be_bytes();
    tx.put(OPEN_CHUNKS, &chunk_key(job.id, chunk.number), waits.to_vec());
    put_job(tx, &job)?;
    Ok(Ok(JobOutcome::Done))
}

fn seal(tx: &mut Tx<'_>, job: JobId, chunks: u32, at: i64) -> Checked<JobOutcome> {
    let Some(mut job) = get_job(tx, job)? else { return Ok(Err(JobRefusal::NotFound)) };
    if job.sealed == Some(chunks) {
        return Ok(Ok(JobOutcome::Unchanged));
    }
    if job.ended() {
        return Ok(Err(JobRefusal::Ended));
    }
    let last = tx.scan(CHUNKS, chunks_of(job.id), Direction::Backward, 1)?.pop();
    let uploaded = match last {
        Some((key, _)) => place_of(&key)?.1.saturating_add(1),
        None => 0,
    };
    if job.sealed.is_some() || chunks > CHUNKS_MAX || uploaded > chunks {
        return Ok(Err(JobRefusal::Sealed));
    }
    job.sealed = Some(chunks);
    job.touched_at = at;
    end_if_done(&mut job, at);
    put_job(tx, &job)?;
    Ok(Ok(JobOutcome::Done))
}

fn end_if_done(job: &mut JobRecord, at: i64) {
    if job.sealed == Some(job.chunks_done) && !job.ended() {
        job.ending = Some(Ending::Succeeded);
        job.ended_at = Some(at);
    }
}

fn claim(
    tx: &mut Tx<'_>,
    job: JobId,
    number: u32,
    pod: &PodId,
    over: Beat,
    at: i64,
) -> Checked<JobOutcome> {
    let mut job = match open_job(tx, job)? {
        Ok(job) => job,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let Some(mut chunk) = get_chunk(tx, job.id, number)?.filter(|chunk| !chunk.done) else {
        return Ok(Err(JobRefusal::ClaimLost));
    };
    if job.request.ordered && number != job.next {
        return Ok(Err(JobRefusal::NotNext));
    }
    if chunk.beat != over {
        return Ok(Err(JobRefusal::ClaimLost));
    }
    let number = over.claim + 1;
    chunk.beat = Beat { claim: number, count: 0 };
    chunk.holder = Some(pod.clone());
    job.started_at.get_or_insert(at);
    job.touched_at = at;
    put_chunk(tx, job.id, &chunk)?;
    put_job(tx, &job)?;
    Ok(Ok(JobOutcome::Claimed(number)))
}

fn release(tx: &mut Tx<'_>, claim: ChunkClaim) -> Checked<JobOutcome> {
    let (job, mut chunk) = match claimed(tx, claim)? {
        Ok(found) => found,
        Err(refusal) => return Ok(Err(refusal)),
    };
    // The next number at once: what its former holder may still propose is refused.
    chunk.beat = Beat { claim: claim.claim + 1, count: 0 };
    chunk.holder = None;
    put_chunk(tx, job.id, &chunk)?;
    Ok(Ok(JobOutcome::Done))
}

fn accept_batch(
    tx: &mut Tx<'_>,
    claim: ChunkClaim,
    step: &Step,
    documents: u64,
    task: &EnqueueTask,
) -> Checked<Outcome> {
    let (mut job, mut chunk) = match claimed(tx, claim)? {
        Ok(found) => found,
        Err(refusal) => return Ok(Err(refusal)),
    };
    if step.from != chunk.cursor || step.to > chunk.payload.bytes {
        return Ok(Err(JobRefusal::ClaimLost));
    }
    let outcome = enqueue::enqueue(tx, task)?;
    let Outcome::Enqueued { uid, .. } = outcome else { return Ok(Ok(outcome)) };
    let line = chunk.lines + 1;
    chunk.open.push(OpenBatch { uid, line, lines: step.lines, documents });
    job.tasks += 1;
    let (first, _) = job.task_range.unwrap_or((uid, uid));
    job.task_range = Some((first, uid));
    move_cursor(&mut job, &mut chunk, step);
    chunk.beat.count += 1;
    job.touched_at = task.at;
    put_chunk(tx, job.id, &chunk)?;
    put_job(tx, &job)?;
    Ok(Ok(outcome))
}

fn move_cursor(job: &mut JobRecord, chunk: &mut ChunkRecord, step: &Step) {
    job.bytes_done = job.bytes_done.saturating_add(step.to.saturating_sub(step.from));
    job.lines_done = job.lines_done.saturating_add(step.lines);
    job.skipped = job.skipped.saturating_add(step.skipped);
    chunk.cursor = step.to;
    chunk.lines = chunk.lines.saturating_add(step.lines);
    note_errors(job, step.errors.iter().cloned());
}

fn note_errors(job: &mut JobRecord, errors: impl Iterator<Item = LineError>) {
    let room = ERRORS_MAX.saturating_sub(job.errors.len());
    job.errors.extend(errors.take(room));
}

fn progress(
    tx: &mut Tx<'_>,
    claim: ChunkClaim,
    step: Option<&Step>,
    ended: &[EndedBatch],
    at: i64,
) -> Checked<JobOutcome> {
    let (mut job, mut chunk) = match claimed(tx, claim)? {
        Ok(found) => found,
        Err(refusal) => return Ok(Err(refusal)),
    };
    if step.is_some_and(|step| step.from != chunk.cursor || step.to > chunk.payload.bytes) {
        return Ok(Err(JobRefusal::ClaimLost));
    }
    let mut failed = step.is_some_and(|step| !step.errors.is_empty());
    for batch in ended {
        failed |= end_batch(&mut job, &mut chunk, batch.uid, batch.failure.as_deref());
    }
    if let Some(step) = step {
        move_cursor(&mut job, &mut chunk, step);
    }
    chunk.beat.count += 1;
    job.touched_at = at;
    if failed && !job.request.skips_errors {
        let failure = job.errors.first().map(|error| error.message.clone());
        put_chunk(tx, job.id, &chunk)?;
        end(tx, job, Ending::Failed, failure, at)?;
        return Ok(Ok(JobOutcome::Done));
    }
    if chunk.cursor == chunk.payload.bytes && chunk.open.is_empty() {
        chunk.done = true;
        chunk.holder = None;
        job.chunks_done += 1;
        tx.delete(OPEN_CHUNKS, &chunk_key(job.id, chunk.number));
    }
    put_chunk(tx, job.id, &chunk)?;
    while get_chunk(tx, job.id, job.next)?.is_some_and(|chunk| chunk.done) {
        job.next += 1;
    }
    end_if_done(&mut job, at);
    put_job(tx, &job)?;
    Ok(Ok(JobOutcome::Done))
}

/// Counts the end of a task, once; says whether it failed.
fn end_batch(
    job: &mut JobRecord,
    chunk: &mut ChunkRecord,
    uid: TaskUid,
    failure: Option<&str>,
) -> bool {
    let Some(at) = chunk.open.iter().position(|batch| batch.uid == uid) else { return false };
    let batch = chunk.open.remove(at);
    let Some(message) = failure else {
        job.documents = job.documents.saturating_add(batch.documents);
        return false;
    };
    job.skipped = job.skipped.saturating_add(batch.documents);
    let error = LineError {
        chunk: chunk.number,
        line: batch.line,
        lines: batch.lines,
        task: Some(uid),
        message: message.to_owned(),
    };
    note_errors(job, std::iter::once(error));
    true
}

fn end_early(tx: &mut Tx<'_>, job: JobId, failure: Option<String>, at: i64) -> Checked<JobOutcome> {
    let job = match open_job(tx, job)? {
        Ok(job) => job,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let ending = if failure.is_some() { Ending::Failed } else { Ending::Canceled };
    end(tx, job, ending, failure, at)?;
    Ok(Ok(JobOutcome::Done))
}

/// Ends a job whose chunks are not all done: nothing of it is worked on any more.
fn end(
    tx: &mut Tx<'_>,
    mut job: JobRecord,
    ending: Ending,
    failure: Option<String>,
    at: i64,
) -> Result<(), ApplyError> {
    for (key, _) in tx.scan(OPEN_CHUNKS, chunks_of(job.id), Direction::Forward, usize::MAX)? {
        tx.delete(OPEN_CHUNKS, &key);
    }
    job.ending = Some(ending);
    job.failure = failure;
    job.ended_at = Some(at);
    put_job(tx, &job)
}

fn prune(tx: &mut Tx<'_>, ended_before: i64, kept_max: u64) -> Checked<JobOutcome> {
    let mut ended = Vec::new();
    for (_, bytes) in tx.scan(JOBS, ALL_KEYS, Direction::Forward, usize::MAX)? {
        let job: JobRecord = decode(&bytes)?;
        if let Some(at) = job.ended_at {
            ended.push((job.id, at));
        }
    }
    let surplus = usize::try_from((ended.len() as u64).saturating_sub(kept_max));
    let surplus = surplus.unwrap_or(usize::MAX);
    let due = ended.iter().enumerate();
    let due = due.filter(|(place, (_, at))| *place < surplus || *at < ended_before);
    let mut removed = 0;
    for (_, (job, _)) in due {
        for (key, _) in
            tx.scan(CHUNKS, chunks_of(*job), Direction::Forward, PRUNED_MAX - removed)?
        {
            tx.delete(CHUNKS, &key);
            removed += 1;
        }
        if removed >= PRUNED_MAX {
            break;
        }
        tx.delete(JOBS, &job_key(*job));
        removed += 1;
        if removed >= PRUNED_MAX {
            break;
        }
    }
    Ok(Ok(if removed > 0 { JobOutcome::Done } else { JobOutcome::Unchanged }))
}
