//! Accepting a task: number, place, names, and the index it may create.

use super::indexes::{self, IndexRecord};
use super::names::{self, Side};
use super::records::{text_from, u64_from};
use super::tasks::{self, TaskRecord, TaskState};
use super::{ApplyError, META, NEW_INDEX_SETTINGS, TAILS, disks, keys, take_number, topology};
use crate::commands::{Ending, EnqueueTask, IdempotencyKey, NewIndex, Outcome, Work};
use crate::engine::Tx;
use crate::ids::{Epoch, IndexUid, TaskUid};

/// Task uids are `u32` on the wire.
const TASK_UID_MAX: u64 = u32::MAX as u64;

/// Accepts a task unless its idempotency key has one already.
pub(crate) fn accept(
    tx: &mut Tx<'_>,
    task: &EnqueueTask,
    key: Option<&IdempotencyKey>,
    session: Option<&str>,
) -> Result<Outcome, ApplyError> {
    if let Some(key) = key
        && let Some(answer) = keys::answer(tx, key)?
    {
        return Ok(answer);
    }
    let outcome = enqueue(tx, task)?;
    note(tx, &outcome, task, key, session)?;
    Ok(outcome)
}

/// As [`accept`], but an unbound name is no reason to refuse: the task creates no index.
pub(crate) fn accept_bound(
    tx: &mut Tx<'_>,
    task: &EnqueueTask,
    key: Option<&IdempotencyKey>,
    session: Option<&str>,
) -> Result<Outcome, ApplyError> {
    if let Some(key) = key
        && let Some(answer) = keys::answer(tx, key)?
    {
        return Ok(answer);
    }
    let bound = bound_index(tx, task)?;
    let outcome = enqueue_at(tx, task, bound)?;
    note(tx, &outcome, task, key, session)?;
    Ok(outcome)
}

/// Remembers the key and the session of a task that was accepted.
fn note(
    tx: &mut Tx<'_>,
    outcome: &Outcome,
    task: &EnqueueTask,
    key: Option<&IdempotencyKey>,
    session: Option<&str>,
) -> Result<(), ApplyError> {
    if let Outcome::Enqueued { uid, index } = outcome {
        if let Some(key) = key {
            keys::remember(tx, key, *uid, task.at)?;
        }
        if let (Some(session), Some(index)) = (session, index) {
            keys::note_write(tx, session, index, *uid, task.at)?;
        }
    }
    Ok(())
}

pub(crate) fn enqueue(tx: &mut Tx<'_>, task: &EnqueueTask) -> Result<Outcome, ApplyError> {
    let bound = bound_index(tx, task)?;
    // The name was deleted since the proposer looked.
    if bound.is_none() && task.index.is_some() && task.create.is_none() && task.work.creates_index()
    {
        return Ok(Outcome::Unplaced);
    }
    // The proposer's plan is older than a node's removal.
    if let (None, Some(plan)) = (&bound, &task.create)
        && topology::names_removed(tx, &plan.groups)?
    {
        return Ok(Outcome::Unplaced);
    }
    enqueue_at(tx, task, bound)
}

/// What the name of the task's index means to writers.
fn bound_index(tx: &Tx<'_>, task: &EnqueueTask) -> Result<Option<IndexUid>, ApplyError> {
    match &task.index {
        Some(name) => names::get(tx, Side::Write, name),
        None => Ok(None),
    }
}

fn enqueue_at(
    tx: &mut Tx<'_>,
    task: &EnqueueTask,
    mut bound: Option<IndexUid>,
) -> Result<Outcome, ApplyError> {
    let uid = TaskUid(take_number(tx, b"task")?.min(TASK_UID_MAX) as u32);
    let involved = involved_names(task);
    let mut creates_index = false;
    if let (None, Some(name), Some(plan)) = (&bound, &task.index, &task.create) {
        bound = Some(create_index(tx, name, plan, task)?);
        creates_index = true;
    }
    let after = tails_elsewhere(tx, &involved, bound.as_ref())?;
    if let (Work::DeleteIndex, Some(name)) = (&task.work, &task.index) {
        names::set(tx, Side::Write, name, None);
    }
    let changes = task.work.name_changes();
    let fits = !changes.is_empty() && names::fit(tx, &changes)?;
    if fits {
        names::change(tx, Side::Write, &changes)?;
    }
    let mut work = task.work.clone();
    if let Work::RenameIndex { took, .. } | Work::ChangeNames { took, .. } = &mut work {
        *took = fits;
    }
    for name in &involved {
        tx.put(TAILS, name.as_bytes(), uid.to_key().to_vec());
    }
    tasks::put(
        tx,
        &TaskRecord {
            uid,
            name: task.index.clone(),
            index: bound.clone(),
            work,
            creates_index,
            after,
            state: TaskState::Enqueued,
            details: None,
            error: None,
            canceled_by: None,
            custom_metadata: task.custom_metadata.clone(),
            enqueued_at: task.at,
            started_at: None,
            finished_at: None,
        },
    )?;
    Ok(Outcome::Enqueued { uid, index: bound })
}

fn involved_names(task: &EnqueueTask) -> Vec<String> {
    let others = task.work.other_names().into_iter().map(str::to_owned);
    task.index.iter().cloned().chain(others).collect()
}

/// The last tasks of these names that are still open in another queue than `queue`: within one
/// queue order is given, across queues it must be waited for. Tasks that no index owns have no
/// queue in common.
fn tails_elsewhere(
    tx: &Tx<'_>,
    involved: &[String],
    queue: Option<&IndexUid>,
) -> Result<Vec<TaskUid>, ApplyError> {
    let mut after = Vec::new();
    for name in involved {
        let Some(bytes) = tx.get(TAILS, name.as_bytes())? else { continue };
        let mut padded = vec![0; 4];
        padded.extend_from_slice(&bytes);
        let tail = TaskUid(u64_from(&padded)? as u32);
        let Some(task) = tasks::get(tx, tail)? else { continue };
        // Tasks that no index owns stand in no queue. What a cancelled task waited for is
        // waited for in its place (`tasks::holds_up`).
        let waits = match task.state {
            TaskState::Ended(Ending::Canceled) => true,
            TaskState::Ended(_) => false,
            _ => queue.is_none() || task.index.as_ref() != queue,
        };
        if waits && !after.contains(&tail) {
            after.push(tail);
        }
        // Should the one before in the same queue be cancelled, this one waits for the same.
        if !waits && !task.ended() {
            for uid in task.after {
                let open = tasks::get(tx, uid)?.is_some_and(|before| !before.ended());
                if open && !after.contains(&uid) {
                    after.push(uid);
                }
            }
        }
    }
    Ok(after)
}

fn create_index(
    tx: &mut Tx<'_>,
    name: &str,
    plan: &NewIndex,
    task: &EnqueueTask,
) -> Result<IndexUid, ApplyError> {
    let sequence = take_number(tx, b"index")?;
    let uid = IndexUid(node_side_uid(sequence, name));
    let settings = match tx.get(META, NEW_INDEX_SETTINGS)? {
        Some(settings) => text_from(settings)?,
        None => "{}".to_owned(),
    };
    let primary_key = match &task.work {
        Work::CreateIndex { primary_key } => primary_key.clone(),
        _ => None,
    };
    indexes::put(
        tx,
        &uid,
        &IndexRecord {
            name: name.to_owned(),
            primary_key,
            shards: plan.shards,
            groups: plan.groups.clone(),
            settings,
            settings_version: 0,
            settings_pending: false,
            writer: plan.writer.clone(),
            epoch: Epoch(0),
            created_at: task.at,
        },
    )?;
    indexes::touch(tx, &uid, task.at);
    disks::place(tx, &uid, &plan.groups)?;
    names::set(tx, Side::Write, name, Some(&uid));
    Ok(uid)
}

/// `{sequence}-{name}`, within Meilisearch's limit of 512 bytes. Names hold only ASCII.
fn node_side_uid(sequence: u64, name: &str) -> String {
    /// Meilisearch's limit less the longest sequence and the dash.
    const NAME_BYTES_MAX: usize = 512 - 21;
    let kept = name.get(..name.len().min(NAME_BYTES_MAX)).unwrap_or("index");
    format!("{sequence}-{kept}")
}
