//! Tasks: key the task uid (big-endian, so that a scan is in order), value the task.
//!
//! Written by `EnqueueTask`, `StartTasks`, `NoteEdited`, `FinishTask`, `CancelTasks`, `DeleteTasks`; read by
//! the task routes and by writers at start. Pruned by `DeleteTasks`. A terminal status never
//! changes. [`super::OPEN_TASKS`] lists those that have not ended.

use serde::{Deserialize, Serialize};

use super::records::{Record, decode, encode};
use super::{ApplyError, OPEN_TASKS, TASKS, indexes, webhooks};
use crate::commands::{Edited, Ending, Fence, Outcome, Work};
use crate::engine::{Engine, Tx};
use crate::ids::{IndexUid, TaskUid};

/// How far a task is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TaskState {
    /// Accepted; nothing was sent.
    Enqueued,
    /// Being applied.
    Processing,
    /// Over.
    Ended(Ending),
}

/// One task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskRecord {
    /// Its number.
    pub uid: TaskUid,
    /// The index as the client named it.
    pub name: Option<String>,
    /// The index it works on; `None` when its name was unbound or it works on none or several.
    pub index: Option<IndexUid>,
    /// What it does.
    pub work: Work,
    /// Whether it created `index`.
    pub creates_index: bool,
    /// Tasks of other queues that must end before this one begins.
    pub after: Vec<TaskUid>,
    /// How far it is.
    pub state: TaskState,
    /// `details` as JSON, once known.
    pub details: Option<String>,
    /// `error` as JSON.
    pub error: Option<String>,
    /// The task that cancelled it.
    pub canceled_by: Option<TaskUid>,
    /// Shown as `customMetadata`.
    pub custom_metadata: Option<String>,
    /// Unix nanoseconds.
    pub enqueued_at: i64,
    /// Unix nanoseconds.
    pub started_at: Option<i64>,
    /// Unix nanoseconds.
    pub finished_at: Option<i64>,
}

impl Record for TaskRecord {
    const VERSION: u8 = 1;
    const NAME: &'static str = "task";
}

impl TaskRecord {
    /// The client names that it is about.
    pub fn names(&self) -> Vec<&str> {
        self.name.as_deref().into_iter().chain(self.work.other_names()).collect()
    }

    /// Whether it is over.
    pub fn ended(&self) -> bool {
        matches!(self.state, TaskState::Ended(_))
    }
}

pub(crate) fn get(tx: &Tx<'_>, uid: TaskUid) -> Result<Option<TaskRecord>, ApplyError> {
    match tx.get(TASKS, &uid.to_key())? {
        Some(bytes) => Ok(Some(decode(&bytes)?)),
        None => Ok(None),
    }
}

pub(crate) fn put(tx: &mut Tx<'_>, task: &TaskRecord) -> Result<(), ApplyError> {
    tx.put(TASKS, &task.uid.to_key(), encode(task)?);
    if task.ended() {
        tx.delete(OPEN_TASKS, &task.uid.to_key());
        // A task is put once after its end: when it ends.
        webhooks::post(tx, task)?;
    } else {
        tx.put(OPEN_TASKS, &task.uid.to_key(), Vec::new());
    }
    Ok(())
}

/// Puts down what an edition's function made of the documents, unless that is known already or the task
/// is over.
pub(crate) fn note_edited(
    tx: &mut Tx<'_>,
    fence: &Fence,
    uid: TaskUid,
    new: &Edited,
) -> Result<Outcome, ApplyError> {
    if let Err(refusal) = indexes::fenced(tx, fence)? {
        return Ok(refusal);
    }
    let Some(mut task) = get(tx, uid)?.filter(|task| !task.ended()) else {
        return Ok(Outcome::Unchanged);
    };
    match &mut task.work {
        Work::EditDocuments { edited: edited @ None, .. } => *edited = Some(new.clone()),
        _ => return Ok(Outcome::Unchanged),
    }
    put(tx, &task)?;
    Ok(Outcome::Done)
}

/// Reads one task from the applied state.
///
/// # Errors
/// When the store fails or the record can't be read.
pub fn read(engine: &dyn Engine, uid: TaskUid) -> Result<Option<TaskRecord>, ApplyError> {
    match engine.get(TASKS, &uid.to_key())? {
        Some(bytes) => Ok(Some(decode(&bytes)?)),
        None => Ok(None),
    }
}

/// Whether `task` must wait for `before`, one of its predecessors ([`TaskRecord::after`]). In
/// place of a predecessor that was cancelled, and so ended early, stand the earlier open tasks
/// of its names. One that is no longer in the history may have been cancelled: in its place
/// stand those of the names that `task` itself is about.
///
/// # Errors
/// When the store fails or a record can't be read.
pub fn holds_up(
    engine: &dyn Engine,
    task: &TaskRecord,
    before: TaskUid,
) -> Result<bool, ApplyError> {
    let record = read(engine, before)?;
    let stands_for = match &record {
        Some(record) => match record.state {
            TaskState::Enqueued | TaskState::Processing => return Ok(true),
            TaskState::Ended(Ending::Succeeded | Ending::Failed) => return Ok(false),
            TaskState::Ended(Ending::Canceled) => record,
        },
        None => task,
    };
    let names = stands_for.names();
    let shares_name = |open: &TaskRecord| open.names().iter().any(|n| names.contains(n));
    let open = read_open(engine)?;
    Ok(open.iter().take_while(|open| open.uid < before).any(shares_name))
}

/// Every task that has not ended, in order.
///
/// # Errors
/// When the store fails or a record can't be read.
pub fn read_open(engine: &dyn Engine) -> Result<Vec<TaskRecord>, ApplyError> {
    use std::ops::Bound::Unbounded;
    let mut open = Vec::new();
    let keys = engine.scan(
        OPEN_TASKS,
        (Unbounded, Unbounded),
        crate::engine::Direction::Forward,
        usize::MAX,
    )?;
    for (key, _) in keys {
        if let Some(bytes) = engine.get(TASKS, &key)? {
            open.push(decode(&bytes)?);
        }
    }
    Ok(open)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::{Command, EnqueueTask, Outcome};
    use crate::engine::{Durability, MemoryEngine};
    use crate::tables::{ApplyError, apply};

    fn applied(engine: &MemoryEngine, command: &Command) -> Result<Outcome, ApplyError> {
        let mut tx = Tx::new(engine);
        let outcome = apply(&mut tx, 1, command)?;
        engine.commit(tx.into_batch(), Durability::Lazy)?;
        Ok(outcome)
    }

    fn enqueue(index: Option<&str>, work: Work) -> Command {
        Command::EnqueueTask(Box::new(EnqueueTask {
            index: index.map(str::to_owned),
            work,
            create: None,
            custom_metadata: None,
            at: 0,
        }))
    }

    fn swap(a: &str, b: &str) -> Command {
        enqueue(None, Work::SwapIndexes { pairs: vec![(a.to_owned(), b.to_owned())] })
    }

    /// A client that may not create indexes gets a task that fails, not a refusal, and no index.
    #[test]
    fn work_that_may_not_create_its_index_is_accepted_without_one() -> Result<(), ApplyError> {
        let engine = MemoryEngine::new();
        let work = Work::Settings { patch: "{}".to_owned(), is_deletion: false };
        let Command::EnqueueTask(task) = enqueue(Some("a"), work) else { unreachable!() };
        let refused = Command::AcceptTask { task: task.clone(), key: None, session: None };
        assert_eq!(applied(&engine, &refused)?, Outcome::Unplaced);
        let session = Some("s".to_owned());
        let bound = Command::AcceptBoundTask { task, key: None, session };
        assert_eq!((refused.format(), bound.format()), (1, 2));
        let accepted = Outcome::Enqueued { uid: TaskUid(0), index: None };
        assert_eq!(applied(&engine, &bound)?, accepted);
        let task = read(&engine, TaskUid(0))?;
        assert!(task.is_some_and(|task| task.index.is_none() && !task.creates_index));
        Ok(())
    }

    /// A cancelled task holds its place for what it waited for; its removal from the history,
    /// by a client or by age, must not give way to its successors.
    #[test]
    fn what_waits_for_a_task_that_was_cancelled_and_removed_waits_for_those_before_it()
    -> Result<(), ApplyError> {
        let engine = MemoryEngine::new();
        let clear = enqueue(Some("a"), Work::Clear);
        for command in [swap("a", "b"), clear, swap("a", "d"), swap("e", "f")] {
            applied(&engine, &command)?;
        }
        let uids = vec![TaskUid(1)];
        applied(&engine, &Command::CancelTasks { by: TaskUid(3), uids: uids.clone(), at: 1 })?;
        applied(&engine, &Command::DeleteTasks { by: None, uids, at: 2 })?;
        let third = read(&engine, TaskUid(2))?.filter(|task| task.after == vec![TaskUid(1)]);
        let Some(third) = third else { panic!("the third task waits for the second only") };
        assert!(holds_up(&engine, &third, TaskUid(1))?);
        // Only for its own names.
        let other = TaskRecord { work: Work::SwapIndexes { pairs: Vec::new() }, ..third };
        assert!(!holds_up(&engine, &other, TaskUid(1))?);
        Ok(())
    }
}
