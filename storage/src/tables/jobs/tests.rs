use super::*;
use crate::commands::{Command, EnqueueTask, NewIndex, Outcome, Work};
use crate::engine::{Durability, MemoryEngine};
use crate::job_commands::{
    ChunkClaim, EndedBatch, JobCommand, JobKind, JobOutcome, JobRefusal, Step,
};

const ROOM: Room = Room { job_bytes_max: 250, all_bytes_max: 400 };

fn apply_all(engine: &MemoryEngine, command: JobCommand) -> Outcome {
    let mut tx = Tx::new(engine);
    let outcome = crate::tables::apply(&mut tx, 1, &Command::Job(Box::new(command)));
    let outcome = outcome.expect("memory does not fail");
    engine.commit(tx.into_batch(), Durability::Lazy).expect("memory does not fail");
    outcome
}

fn applied(engine: &MemoryEngine, command: JobCommand) -> JobOutcome {
    match apply_all(engine, command) {
        Outcome::Job(outcome) => outcome,
        other => panic!("{other:?}"),
    }
}

fn refused(refusal: JobRefusal) -> JobOutcome {
    JobOutcome::Refused(refusal)
}

fn create(engine: &MemoryEngine, ordered: bool, skips_errors: bool) -> JobId {
    let job = NewJob {
        kind: JobKind::NdjsonImport,
        index: "films".to_owned(),
        primary_key: None,
        name: None,
        partial: false,
        ordered,
        skips_errors,
    };
    match applied(engine, JobCommand::Create { job, open_max: 2, at: 1 }) {
        JobOutcome::Created(id) => id,
        other => panic!("{other:?}"),
    }
}

fn chunk(number: u32, content: u8) -> NewChunk {
    let payload = PayloadRef { holders: Vec::new(), bytes: 100, count: 10 };
    NewChunk { number, payload, sha256: [content; 32] }
}

fn add(engine: &MemoryEngine, job: JobId, number: u32) -> JobOutcome {
    let chunk = chunk(number, number as u8);
    applied(engine, JobCommand::AddChunk { job, chunk, room: ROOM, at: 2 })
}

fn claim(engine: &MemoryEngine, job: JobId, chunk: u32, pod: &str, over: Beat) -> JobOutcome {
    applied(engine, JobCommand::Claim { job, chunk, pod: PodId::from(pod), over, at: 3 })
}

fn step(from: u64, to: u64) -> Step {
    Step { from, to, lines: (to - from) / 10, skipped: 0, errors: Vec::new() }
}

fn batch(engine: &MemoryEngine, claim: ChunkClaim, step: Step) -> Outcome {
    let payload = PayloadRef { holders: Vec::new(), bytes: 10, count: 1 };
    let plan = NewIndex { shards: 1, groups: Vec::new(), writer: PodId::from("a") };
    let task = EnqueueTask {
        index: Some("films".to_owned()),
        work: Work::Documents { partial: false, primary_key: None, payload },
        create: Some(plan),
        custom_metadata: None,
        at: 4,
    };
    let documents = step.lines;
    apply_all(engine, JobCommand::AcceptBatch { claim, step, documents, task: Box::new(task) })
}

fn task_of(outcome: Outcome) -> TaskUid {
    match outcome {
        Outcome::Enqueued { uid, .. } => uid,
        other => panic!("{other:?}"),
    }
}

fn progress(
    engine: &MemoryEngine,
    claim: ChunkClaim,
    step: Option<Step>,
    ended: &[(TaskUid, Option<&str>)],
) -> JobOutcome {
    let ended = ended
        .iter()
        .map(|(uid, failure)| EndedBatch { uid: *uid, failure: failure.map(str::to_owned) });
    applied(engine, JobCommand::Progress { claim, step, ended: ended.collect(), at: 5 })
}

fn job(engine: &MemoryEngine, job: JobId) -> JobRecord {
    read(engine, job).expect("memory does not fail").expect("a job")
}

#[test]
fn a_job_ends_when_all_its_chunks_are_done() {
    let engine = MemoryEngine::new();
    let id = create(&engine, true, false);
    assert_eq!(add(&engine, id, 0), JobOutcome::Done);
    assert_eq!(add(&engine, id, 1), JobOutcome::Done);
    assert_eq!(claim(&engine, id, 1, "a", Beat::default()), refused(JobRefusal::NotNext));
    for number in 0..2 {
        assert_eq!(claim(&engine, id, number, "a", Beat::default()), JobOutcome::Claimed(1));
        let held = ChunkClaim { job: id, chunk: number, claim: 1 };
        let first = task_of(batch(&engine, held, step(0, 60)));
        let last = task_of(batch(&engine, held, step(60, 100)));
        assert_eq!(progress(&engine, held, None, &[(first, None)]), JobOutcome::Done);
        assert!(!read_chunk(&engine, id, number).is_ok_and(|chunk| chunk.is_some_and(|c| c.done)));
        assert_eq!(progress(&engine, held, None, &[(first, None), (last, None)]), JobOutcome::Done);
        // The same again: the chunk is nobody's any more.
        let again = progress(&engine, held, None, &[(last, None)]);
        assert_eq!(again, refused(JobRefusal::ClaimLost));
    }
    let seal = JobCommand::Seal { job: id, chunks: 2, at: 9 };
    assert_eq!(job(&engine, id).ending, None);
    assert_eq!(applied(&engine, seal.clone()), JobOutcome::Done);
    assert_eq!(applied(&engine, seal), JobOutcome::Unchanged);
    let ended = job(&engine, id);
    assert_eq!((ended.ending, ended.ended_at), (Some(Ending::Succeeded), Some(9)));
    assert_eq!((ended.documents, ended.lines_done, ended.bytes_done), (20, 20, 200));
    assert_eq!((ended.tasks, ended.task_range), (4, Some((TaskUid(0), TaskUid(3)))));
    assert!(open_chunks(&engine).is_ok_and(|open| open.is_empty()));
}

#[test]
fn who_was_replaced_changes_nothing() {
    let engine = MemoryEngine::new();
    let id = create(&engine, true, false);
    add(&engine, id, 0);
    claim(&engine, id, 0, "a", Beat::default());
    let old = ChunkClaim { job: id, chunk: 0, claim: 1 };
    task_of(batch(&engine, old, step(0, 50)));
    // Seen before the holder was heard of again: it lives.
    let late = claim(&engine, id, 0, "b", Beat { claim: 1, count: 0 });
    assert_eq!(late, refused(JobRefusal::ClaimLost));
    assert_eq!(claim(&engine, id, 0, "b", Beat { claim: 1, count: 1 }), JobOutcome::Claimed(2));
    for refused_batch in [batch(&engine, old, step(50, 100)), batch(&engine, old, step(0, 50))] {
        assert_eq!(refused_batch, Outcome::Job(refused(JobRefusal::ClaimLost)));
    }
    assert_eq!(progress(&engine, old, None, &[]), refused(JobRefusal::ClaimLost));
    let new = ChunkClaim { claim: 2, ..old };
    // A stretch is taken once, also under the new claim.
    let again = batch(&engine, new, step(0, 50));
    assert_eq!(again, Outcome::Job(refused(JobRefusal::ClaimLost)));
    assert_eq!(applied(&engine, JobCommand::Release { claim: new }), JobOutcome::Done);
    assert_eq!(progress(&engine, new, None, &[]), refused(JobRefusal::ClaimLost));
    assert_eq!(claim(&engine, id, 0, "c", Beat { claim: 3, count: 0 }), JobOutcome::Claimed(4));
    assert_eq!(job(&engine, id).tasks, 1);
}

#[test]
fn a_chunk_is_added_once_and_only_while_there_is_room() {
    let engine = MemoryEngine::new();
    let id = create(&engine, true, false);
    assert_eq!(add(&engine, id, 1), JobOutcome::Done);
    assert_eq!(add(&engine, id, 1), JobOutcome::Unchanged);
    let other = JobCommand::AddChunk { job: id, chunk: chunk(1, 99), room: ROOM, at: 2 };
    assert_eq!(applied(&engine, other), refused(JobRefusal::OtherContent));
    assert_eq!(add(&engine, id, 2), JobOutcome::Done);
    assert_eq!(add(&engine, id, 3), refused(JobRefusal::Full));
    // What everything waits for finds room.
    assert_eq!(add(&engine, id, 0), JobOutcome::Done);
    // All jobs together have a bound as well.
    let second = create(&engine, false, false);
    assert_eq!(add(&engine, second, 0), JobOutcome::Done);
    assert_eq!(add(&engine, second, 1), refused(JobRefusal::Full));
    let open_max = JobCommand::Create { job: job(&engine, id).request, open_max: 2, at: 1 };
    assert_eq!(applied(&engine, open_max), refused(JobRefusal::TooManyJobs));
    let seal = |chunks| JobCommand::Seal { job: id, chunks, at: 9 };
    assert_eq!(applied(&engine, seal(2)), refused(JobRefusal::Sealed));
    assert_eq!(applied(&engine, seal(3)), JobOutcome::Done);
    assert_eq!(add(&engine, id, 3), refused(JobRefusal::Sealed));
    assert_eq!(add(&engine, JobId(77), 0), refused(JobRefusal::NotFound));
}

#[test]
fn an_error_ends_a_job_or_is_counted() {
    for skips_errors in [false, true] {
        let engine = MemoryEngine::new();
        let id = create(&engine, false, skips_errors);
        add(&engine, id, 0);
        add(&engine, id, 1);
        claim(&engine, id, 0, "a", Beat::default());
        let held = ChunkClaim { job: id, chunk: 0, claim: 1 };
        let uid = task_of(batch(&engine, held, step(0, 50)));
        assert_eq!(progress(&engine, held, None, &[(uid, Some("no id"))]), JobOutcome::Done);
        let record = job(&engine, id);
        assert_eq!((record.documents, record.skipped), (0, 5));
        let error = &record.errors[0];
        assert_eq!((error.line, error.lines, error.task), (1, 5, Some(uid)));
        if skips_errors {
            assert_eq!(record.ending, None);
            let bad = LineError {
                chunk: 0,
                line: 6,
                lines: 1,
                task: None,
                message: "no JSON".to_owned(),
            };
            let bad = Step { skipped: 1, errors: vec![bad], ..step(50, 100) };
            assert_eq!(progress(&engine, held, Some(bad), &[]), JobOutcome::Done);
            let record = job(&engine, id);
            assert_eq!((record.chunks_done, record.skipped, record.errors.len()), (1, 6, 2));
        } else {
            assert_eq!(record.ending, Some(Ending::Failed));
            assert_eq!(record.failure.as_deref(), Some("no id"));
            assert!(open_chunks(&engine).is_ok_and(|open| open.is_empty()));
            assert_eq!(add(&engine, id, 2), refused(JobRefusal::Ended));
            assert_eq!(progress(&engine, held, None, &[]), refused(JobRefusal::Ended));
        }
    }
}

#[test]
fn ended_jobs_are_forgotten_by_age_and_number() {
    let engine = MemoryEngine::new();
    for at in [10, 20, 30] {
        let id = create(&engine, true, false);
        add(&engine, id, 0);
        assert_eq!(
            applied(&engine, JobCommand::End { job: id, failure: None, at }),
            JobOutcome::Done
        );
    }
    let open = create(&engine, true, false);
    let prune = |ended_before, kept_max| {
        let done = applied(&engine, JobCommand::Prune { ended_before, kept_max });
        let left = all(&engine).expect("memory does not fail");
        (done, left.iter().map(|job| job.id.0).collect::<Vec<_>>())
    };
    assert_eq!(prune(10, 3), (JobOutcome::Unchanged, vec![0, 1, 2, 3]));
    assert_eq!(prune(11, 3), (JobOutcome::Done, vec![1, 2, 3]));
    assert_eq!(prune(0, 1), (JobOutcome::Done, vec![2, 3]));
    assert_eq!(prune(99, 0), (JobOutcome::Done, vec![open.0]));
    assert!(chunks(&engine, JobId(0)).is_ok_and(|chunks| chunks.is_empty()));
}

/// What older versions wrote must be read for ever.
#[test]
fn records_keep_their_bytes() {
    let engine = MemoryEngine::new();
    let id = create(&engine, true, false);
    add(&engine, id, 0);
    let bytes = engine.get(CHUNKS, &chunk_key(id, 0)).expect("memory does not fail");
    let expected = [&[1, 0, 0, 100, 10][..], &[0; 32], &[0, 0, 0, 0, 0, 0, 0]].concat();
    assert_eq!(bytes, Some(expected));
}
