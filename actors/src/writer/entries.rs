//! The writer's queue: one entry a task, and the rules over it. Pure.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use miroir_seams::planted::{self, Bug};
use miroir_storage::commands::{Effect, Ending, Work};
use miroir_storage::ids::{NodeId, ShardId, TaskUid};
use miroir_storage::tables::tasks::{TaskRecord, TaskState};
use miroir_wire::error::ResponseError;
use serde_json::Value;

use crate::lane::job::{Job, JobWork, PartOutcome, PlacedIds};
use crate::prepare::Prepared;

/// Tasks joined into one request at most; a node reports one outcome for all of them.
pub const JOINED_TASKS_MAX: usize = 1000;
/// Bytes of documents joined into one request at most (one task alone may have more).
pub const JOINED_BYTES_MAX: usize = 48 << 20;
/// Tasks marked as processing ahead of the slowest lane.
pub const STARTED_AHEAD_MAX: usize = 2000;
/// Prepared bytes kept in memory per index.
pub const PREPARED_BYTES_MAX: usize = 96 << 20;

/// How far an entry is.
#[derive(Clone, Debug)]
pub enum Stage {
    /// Accepted; not yet marked as processing.
    Waiting,
    /// Being marked as processing in the log.
    Starting,
    /// Processing; its payload is to be read and checked.
    Started,
    /// Being read and checked.
    Preparing,
    /// Lanes may send it.
    Ready(Sendable),
    /// Its end is known, not yet in the log.
    Decided(Box<Decision>),
    /// Being written to the log.
    Finishing(Box<Decision>),
    /// Over. Kept while a lane that catches up needs it.
    Ended,
}

/// What lanes send of an entry.
#[derive(Clone, Debug)]
pub enum Sendable {
    /// Documents.
    Documents(Arc<Prepared>),
    /// Ids to delete, with their shards.
    Ids(Arc<Vec<(ShardId, String)>>),
    /// What a function made of documents.
    Edit {
        /// Those that it changed.
        changed: Arc<Prepared>,
        /// The ids of those that it deleted, with their shards.
        deleted: PlacedIds,
    },
    /// A filter deletion.
    Filter(Value),
    /// Delete everything.
    Clear,
    /// Settings that were agreed: what a node that catches up is sent.
    Settings(Vec<Value>),
    /// Done by an operation over all nodes at once, which waits for every earlier task.
    Barrier,
    /// Nothing: it failed before anything was sent.
    Nothing,
}

/// How a task ends, and what follows.
#[derive(Clone, Debug)]
pub struct Decision {
    /// The ending.
    pub ending: Ending,
    /// `details`.
    pub details: Option<Value>,
    /// `error`.
    pub error: Option<ResponseError>,
    /// What else changes.
    pub effects: Vec<Effect>,
}

/// One task of the index.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The task as accepted.
    pub task: TaskRecord,
    /// How far it is.
    pub stage: Stage,
    /// What lanes send; kept after the end for those that catch up.
    pub sendable: Option<Sendable>,
    /// What each node's lane reported.
    pub results: BTreeMap<NodeId, PartOutcome>,
    /// The shards for which every in-sync replica refused it, once it is decided.
    pub refused: BTreeSet<ShardId>,
    /// An earlier writer had started it: it, and later tasks, may be applied on some nodes.
    pub resumed: bool,
}

impl Entry {
    /// The entry of an accepted task.
    pub fn new(task: TaskRecord) -> Self {
        let stage = match task.state {
            TaskState::Enqueued => Stage::Waiting,
            TaskState::Processing => Stage::Started,
            TaskState::Ended(_) => Stage::Ended,
        };
        let resumed = matches!(stage, Stage::Started);
        Self {
            task,
            stage,
            sendable: None,
            results: BTreeMap::new(),
            refused: BTreeSet::new(),
            resumed,
        }
    }

    /// Whether it needs every earlier task to have ended and runs over all nodes at once.
    pub fn is_barrier(&self) -> bool {
        matches!(
            self.task.work,
            Work::Settings { .. }
                | Work::CreateIndex { .. }
                | Work::UpdateIndex { .. }
                | Work::RenameIndex { .. }
                | Work::DeleteIndex
        )
    }

    /// Whether the log has its end.
    pub fn ended(&self) -> bool {
        matches!(self.stage, Stage::Ended)
    }

    /// Bytes it keeps in memory.
    pub fn bytes(&self) -> usize {
        let of_documents = |prepared: &Prepared| {
            prepared.bytes.len() + prepared.documents.len() * size_of::<(ShardId, u32, u32)>()
        };
        let of_ids = |ids: &PlacedIds| ids.iter().map(|(_, id)| id.len() + 32).sum();
        match &self.sendable {
            Some(Sendable::Documents(prepared)) => of_documents(prepared),
            Some(Sendable::Ids(ids)) => of_ids(ids),
            Some(Sendable::Edit { changed, deleted }) => of_documents(changed) + of_ids(deleted),
            _ => 0,
        }
    }
}

/// The tasks to mark as processing now: in order, none past an unfinished barrier, none whose
/// predecessors in other queues are open.
pub fn startable(
    entries: &VecDeque<Entry>,
    holds_up: impl Fn(&TaskRecord, TaskUid) -> bool,
) -> Vec<TaskUid> {
    let mut found = Vec::new();
    for entry in entries.iter().filter(|entry| !entry.ended()).take(STARTED_AHEAD_MAX) {
        if matches!(entry.stage, Stage::Waiting) {
            if entry.task.after.iter().any(|uid| holds_up(&entry.task, *uid)) {
                break;
            }
            found.push(entry.task.uid);
        }
        if entry.is_barrier() {
            break;
        }
    }
    found
}

/// The entry to prepare next: the first that is started, if none is being prepared, memory
/// allows, and no barrier before it is unfinished (its outcome may change what is checked).
pub fn preparable(entries: &VecDeque<Entry>) -> Option<usize> {
    let kept: usize = entries.iter().map(Entry::bytes).sum();
    for (n, entry) in entries.iter().enumerate() {
        match entry.stage {
            Stage::Preparing | Stage::Waiting | Stage::Starting => return None,
            Stage::Started => {
                let first = entries.iter().take(n).all(Entry::ended);
                return (first || kept < PREPARED_BYTES_MAX).then_some(n);
            }
            _ if entry.is_barrier() && !entry.ended() => return None,
            _ => {}
        }
    }
    None
}

/// The next run for a lane that has applied everything up to `passed`; `None` when it must
/// wait. `limit` stops it at a hold. `held` are the shards that it carries.
pub fn next_run(
    entries: &VecDeque<Entry>,
    passed: Option<TaskUid>,
    limit: Option<TaskUid>,
    held: &BTreeSet<ShardId>,
) -> Option<Job> {
    let mut pending = entries
        .iter()
        .filter(|entry| passed.is_none_or(|passed| entry.task.uid > passed))
        .take_while(|entry| limit.is_none_or(|limit| entry.task.uid <= limit))
        .peekable();
    let first = pending.next()?;
    if planted::has(Bug::ForgetLaneEntry) && first.task.uid.0 % 7 == 3 && first.bytes() > 0 {
        let (first, last) = (first.task.uid, first.task.uid);
        return Some(Job { first, last, work: JobWork::Pass, held: held.clone() });
    }
    let mut bytes = first.bytes();
    let (first, work) = (first.task.uid, work_of(first)?);
    let mut job = Job { first, last: first, work, held: held.clone() };
    for next in pending.take(JOINED_TASKS_MAX - 1) {
        let Some(work) = work_of(next) else { break };
        if planted::has(Bug::JoinAcrossDeletion)
            && matches!(work, JobWork::DeleteByFilter { .. } | JobWork::DeleteIds { .. })
            && matches!(job.work, JobWork::Documents { .. })
        {
            continue;
        }
        bytes += next.bytes();
        if bytes > JOINED_BYTES_MAX || !join(&mut job.work, work) {
            break;
        }
        job.last = next.task.uid;
    }
    Some(job)
}

fn work_of(entry: &Entry) -> Option<JobWork> {
    let uid = entry.task.uid;
    Some(match entry.sendable.as_ref()? {
        Sendable::Documents(prepared) => JobWork::Documents {
            partial: matches!(entry.task.work, Work::Documents { partial: true, .. }),
            parts: vec![(uid, prepared.clone())],
        },
        Sendable::Ids(ids) => JobWork::DeleteIds { parts: vec![(uid, ids.clone())] },
        Sendable::Edit { changed, deleted } => {
            JobWork::Edit { changed: changed.clone(), deleted: deleted.clone() }
        }
        Sendable::Filter(filter) => JobWork::DeleteByFilter { filter: filter.clone() },
        Sendable::Clear => JobWork::Clear,
        Sendable::Settings(requests) => JobWork::Settings { requests: requests.clone() },
        Sendable::Nothing => JobWork::Pass,
        Sendable::Barrier if planted::has(Bug::PassBarrier) => JobWork::Pass,
        Sendable::Barrier => return None,
    })
}

/// Adds `next` to `work` when both are of one kind. Barriers, editions and filter deletions stay alone,
/// and so do deletions by id, whose tasks each say how many documents they deleted.
fn join(work: &mut JobWork, next: JobWork) -> bool {
    match (work, next) {
        (JobWork::Pass, JobWork::Pass) => true,
        (
            JobWork::Documents { partial, parts },
            JobWork::Documents { partial: of_next, parts: mut more },
        ) => {
            let same_key = match (parts.first(), more.first()) {
                (Some((_, a)), Some((_, b))) => a.primary_key == b.primary_key,
                _ => false,
            };
            let fits = *partial == of_next && same_key;
            if fits {
                parts.append(&mut more);
            }
            fits
        }
        _ => false,
    }
}

/// What the reports of the replicas that count make of a task.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verdict {
    /// The refusal, when some shard's every in-sync replica refused the task.
    pub refusal: Option<ResponseError>,
    /// Those shards.
    pub refused: BTreeSet<ShardId>,
    /// Replicas that refused what another replica of the same shard applied: they no longer
    /// equal the others and must leave the in-sync set.
    pub failed_alone: BTreeSet<NodeId>,
}

/// Spec 01, Writes 6, shard by shard: the same refusal by every in-sync replica of a shard fails
/// the task; success on any makes it succeed there, and those that failed alone leave the set.
/// `None` while somebody who is required has not reported.
pub fn judge(
    results: &BTreeMap<NodeId, PartOutcome>,
    required: &BTreeSet<NodeId>,
    in_sync: impl Fn(ShardId) -> BTreeSet<NodeId>,
) -> Option<Verdict> {
    if required.is_empty() || required.iter().any(|node| !results.contains_key(node)) {
        return None;
    }
    let refuses = |node: &NodeId, shard: &ShardId| match results.get(node) {
        Some(PartOutcome::Refused { shards, .. }) => shards.contains(shard),
        _ => false,
    };
    let mut verdict = Verdict::default();
    for node in required {
        let Some(PartOutcome::Refused { error, shards }) = results.get(node) else { continue };
        for shard in shards {
            let applied_elsewhere = in_sync(*shard)
                .iter()
                .any(|other| other != node && required.contains(other) && !refuses(other, shard));
            if applied_elsewhere {
                verdict.failed_alone.insert(node.clone());
            } else {
                verdict.refusal.get_or_insert_with(|| error.clone());
                verdict.refused.insert(*shard);
            }
        }
    }
    Some(verdict)
}

/// Drops entries from the front that no lane needs; returns the journalled payloads they had.
pub fn trim(entries: &mut VecDeque<Entry>, needed_after: Option<TaskUid>) -> Vec<Entry> {
    let mut dropped = Vec::new();
    while let Some(front) = entries.front() {
        let needed = needed_after.is_none_or(|passed| front.task.uid > passed);
        if !front.ended() || needed {
            break;
        }
        dropped.extend(entries.pop_front());
    }
    dropped
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use miroir_storage::commands::PayloadRef;

    fn task(uid: u32, work: Work) -> TaskRecord {
        TaskRecord {
            uid: TaskUid(uid),
            name: None,
            index: None,
            work,
            creates_index: false,
            after: Vec::new(),
            state: TaskState::Processing,
            details: None,
            error: None,
            canceled_by: None,
            custom_metadata: None,
            enqueued_at: 0,
            started_at: None,
            finished_at: None,
        }
    }

    fn documents(uid: u32, partial: bool) -> Entry {
        let payload = PayloadRef { holders: Vec::new(), bytes: 0, count: 1 };
        let work = Work::Documents { partial, primary_key: None, payload };
        let prepared = Prepared {
            primary_key: "id".into(),
            bytes: Bytes::from_static(b"{}"),
            documents: vec![(ShardId(0), 0, 2)],
            beside: Vec::new(),
        };
        let sendable = Sendable::Documents(Arc::new(prepared));
        Entry { sendable: Some(sendable), ..Entry::new(task(uid, work)) }
    }

    fn single(uid: u32, work: Work, sendable: Sendable) -> Entry {
        Entry { sendable: Some(sendable), ..Entry::new(task(uid, work)) }
    }

    fn filter(uid: u32) -> Entry {
        let work = Work::DeleteByFilter { filter: "\"a = 1\"".into() };
        single(uid, work, Sendable::Filter(Value::from("a = 1")))
    }

    fn run_of(entries: &VecDeque<Entry>, passed: Option<u32>) -> Option<(u32, u32)> {
        next_run(entries, passed.map(TaskUid), None, &BTreeSet::new())
            .map(|job| (job.first.0, job.last.0))
    }

    #[test]
    fn runs_never_join_across_a_filter_deletion_or_another_method() {
        let entries = VecDeque::from([
            documents(1, false),
            documents(2, false),
            documents(3, true),
            filter(4),
            documents(5, false),
        ]);
        assert_eq!(run_of(&entries, None), Some((1, 2)));
        assert_eq!(run_of(&entries, Some(2)), Some((3, 3)));
        assert_eq!(run_of(&entries, Some(3)), Some((4, 4)));
        assert_eq!(run_of(&entries, Some(4)), Some((5, 5)));
        assert_eq!(run_of(&entries, Some(5)), None);
    }

    #[test]
    fn a_lane_waits_at_a_barrier() {
        let settings = Work::Settings { patch: "{}".into(), is_deletion: false };
        let mut entries =
            VecDeque::from([single(1, settings, Sendable::Barrier), documents(2, false)]);
        assert_eq!(run_of(&entries, None), None);
        entries[0].sendable = Some(Sendable::Settings(vec![Value::Null]));
        assert_eq!(run_of(&entries, None), Some((1, 1)));
    }

    #[test]
    fn nothing_starts_or_is_prepared_past_an_unfinished_barrier() {
        let settings = Work::Settings { patch: "{}".into(), is_deletion: false };
        let mut entries =
            VecDeque::from([single(1, settings, Sendable::Barrier), documents(2, false)]);
        entries[0].stage = Stage::Ready(Sendable::Barrier);
        entries[1].stage = Stage::Waiting;
        assert!(startable(&entries, |_, _| false).is_empty());
        entries[1].stage = Stage::Started;
        assert_eq!(preparable(&entries), None);
        entries[0].stage = Stage::Ended;
        assert_eq!(preparable(&entries), Some(1));
        entries[1].stage = Stage::Waiting;
        entries[1].task.after = vec![TaskUid(0)];
        assert!(startable(&entries, |_, uid| uid == TaskUid(0)).is_empty());
        assert_eq!(startable(&entries, |_, _| false), vec![TaskUid(2)]);
    }

    #[test]
    fn a_task_fails_when_a_shard_is_refused_by_all_and_those_who_failed_alone_leave() {
        let error = ResponseError {
            message: "no".into(),
            code: "invalid_document_id".into(),
            kind: "invalid_request".into(),
            link: String::new(),
        };
        let nodes = ["a", "b", "c"].map(NodeId::from);
        let required = BTreeSet::from(nodes.clone());
        let [a, b, c] = nodes;
        // Shard 0 is on a and b, shard 1 on a and c.
        let in_sync = |shard: ShardId| match shard.0 {
            0 => BTreeSet::from([NodeId::from("a"), NodeId::from("b")]),
            _ => BTreeSet::from([NodeId::from("a"), NodeId::from("c")]),
        };
        let applied = PartOutcome::Applied { deleted: None };
        let refused = |shards: &[u32]| PartOutcome::Refused {
            error: error.clone(),
            shards: shards.iter().map(|shard| ShardId(*shard)).collect(),
        };
        let mut results = BTreeMap::from([(a.clone(), refused(&[0])), (b.clone(), refused(&[0]))]);
        assert_eq!(judge(&results, &required, in_sync), None);
        results.insert(c, applied.clone());
        let none = BTreeSet::new();
        let expected = Verdict {
            refusal: Some(error.clone()),
            failed_alone: none,
            refused: [ShardId(0)].into(),
        };
        assert_eq!(judge(&results, &required, in_sync), Some(expected));
        results.insert(b, applied);
        let expected = Verdict { failed_alone: BTreeSet::from([a]), ..Verdict::default() };
        assert_eq!(judge(&results, &required, in_sync), Some(expected));
    }
}
