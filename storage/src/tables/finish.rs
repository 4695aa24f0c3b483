//! Starting, ending, cancelling and forgetting tasks.

use miroir_seams::planted::{self, Bug};

use super::indexes;
use super::names::{self, Side};
use super::tasks::{self, TaskState};
use super::{ApplyError, OPEN_TASKS, TAILS, TASKS};
use crate::commands::{Effect, Ending, Fence, FinishTask, NameChange, Outcome, Work};
use crate::engine::{ALL_KEYS, Direction, Tx};
use crate::ids::{IndexUid, TaskUid};

/// The refusal, if the fence is of an older epoch. An index that is gone fences nothing: its
/// deletion may be what is being ended.
fn refusal(tx: &Tx<'_>, fence: Option<&Fence>) -> Result<Option<Outcome>, ApplyError> {
    let Some(fence) = fence else { return Ok(None) };
    Ok(match indexes::fenced(tx, fence)? {
        Err(refusal @ Outcome::Fenced { .. }) => Some(refusal),
        _ => None,
    })
}

pub(crate) fn start(
    tx: &mut Tx<'_>,
    fence: Option<&Fence>,
    uids: &[TaskUid],
    at: i64,
) -> Result<Outcome, ApplyError> {
    if let Some(refusal) = refusal(tx, fence)? {
        return Ok(refusal);
    }
    let mut started = Vec::new();
    for uid in uids {
        let Some(mut task) = tasks::get(tx, *uid)? else { continue };
        if task.ended() {
            continue;
        }
        started.push(*uid);
        if task.state == TaskState::Enqueued {
            task.state = TaskState::Processing;
            task.started_at = Some(at);
            tasks::put(tx, &task)?;
        }
    }
    Ok(Outcome::Matched(started))
}

/// Ends tasks in order; stops at the first refusal, which then is the answer.
pub(crate) fn finish_all(tx: &mut Tx<'_>, endings: &[FinishTask]) -> Result<Outcome, ApplyError> {
    let mut answer = Outcome::Unchanged;
    for ending in endings {
        match finish(tx, ending)? {
            refused @ Outcome::Fenced { .. } => return Ok(refused),
            Outcome::Unchanged => {}
            applied => answer = applied,
        }
    }
    Ok(answer)
}

fn finish(tx: &mut Tx<'_>, finish: &FinishTask) -> Result<Outcome, ApplyError> {
    if let Some(refusal) = refusal(tx, finish.fence.as_ref())? {
        return Ok(refusal);
    }
    let Some(mut task) = tasks::get(tx, finish.uid)? else { return Ok(Outcome::Unchanged) };
    if task.ended() {
        return Ok(Outcome::Unchanged);
    }
    task.state = TaskState::Ended(finish.ending);
    task.details = finish.details.clone();
    task.error = finish.error.clone();
    task.started_at = task.started_at.or(Some(finish.at));
    task.finished_at = Some(finish.at);
    tasks::put(tx, &task)?;
    if let Some(uid) = &task.index {
        indexes::touch(tx, uid, finish.at);
        if task.creates_index
            && let Some(name) = &task.name
        {
            names::set(tx, Side::Read, name, Some(uid));
        }
        for effect in &finish.effects {
            take_effect(tx, uid, task.name.as_deref(), effect)?;
        }
    } else {
        for effect in &finish.effects {
            match effect {
                Effect::SwapNames { .. } => change_names(tx, &task.work.name_changes())?,
                Effect::ChangeNames { changes } => change_names(tx, changes)?,
                _ => {}
            }
        }
    }
    Ok(Outcome::Done)
}

fn take_effect(
    tx: &mut Tx<'_>,
    uid: &IndexUid,
    name: Option<&str>,
    effect: &Effect,
) -> Result<(), ApplyError> {
    match effect {
        // Of tasks that no index owns.
        Effect::SwapNames { .. } | Effect::ChangeNames { .. } => Ok(()),
        Effect::RenameIndex { to } => {
            let meant_by = |name: &str| names::get(tx, Side::Read, name);
            let Some(name) = name.filter(|name| *name != to) else { return Ok(()) };
            if meant_by(name)?.as_ref() == Some(uid) && meant_by(to)?.is_none() {
                names::set(tx, Side::Read, name, None);
                names::set(tx, Side::Read, to, Some(uid));
            }
            Ok(())
        }
        Effect::RemoveIndex => {
            indexes::remove(tx, uid)?;
            if let Some(name) = name
                && names::get(tx, Side::Read, name)?.as_ref() == Some(uid)
            {
                names::set(tx, Side::Read, name, None);
            }
            Ok(())
        }
        Effect::SetPrimaryKey(primary_key) => {
            let Some(mut record) = indexes::get(tx, uid)? else { return Ok(()) };
            record.primary_key = Some(primary_key.clone());
            indexes::put(tx, uid, &record)
        }
        Effect::CommitSettings { settings } => {
            let Some(mut record) = indexes::get(tx, uid)? else { return Ok(()) };
            record.settings = settings.clone();
            record.settings_version += 1;
            record.settings_pending = false;
            indexes::put(tx, uid, &record)
        }
    }
}

fn change_names(tx: &mut Tx<'_>, changes: &[NameChange]) -> Result<(), ApplyError> {
    if planted::has(Bug::HalfSwap) {
        for NameChange { a, b, .. } in changes {
            let uid = names::get(tx, Side::Read, b)?;
            names::set(tx, Side::Read, a, uid.as_ref());
        }
        return Ok(());
    }
    names::change(tx, Side::Read, changes)
}

pub(crate) fn cancel(
    tx: &mut Tx<'_>,
    by: TaskUid,
    uids: &[TaskUid],
    at: i64,
) -> Result<Outcome, ApplyError> {
    if tasks::get(tx, by)?.is_none_or(|task| task.ended()) {
        return Ok(Outcome::Unchanged);
    }
    let mut canceled = Vec::new();
    // Newest first, so that a task that only cancelled ones build on can be cancelled too.
    let newest_first: std::collections::BTreeSet<TaskUid> = uids.iter().copied().collect();
    for uid in newest_first.iter().rev() {
        let Some(mut task) = tasks::get(tx, *uid)? else { continue };
        if task.state != TaskState::Enqueued || *uid == by || is_built_on(tx, &task)? {
            continue;
        }
        task.state = TaskState::Ended(Ending::Canceled);
        task.canceled_by = Some(by);
        task.finished_at = Some(at);
        tasks::put(tx, &task)?;
        undo_names(tx, &task)?;
        mend_tails(tx, &task)?;
        canceled.push(*uid);
    }
    Ok(Outcome::Matched(canceled))
}

/// A cancelled task may have been the last of its names: then the last open one before it is,
/// so that what comes later still waits for that.
fn mend_tails(tx: &mut Tx<'_>, canceled: &tasks::TaskRecord) -> Result<(), ApplyError> {
    for name in canceled.names() {
        let is_tail = tx.get(TAILS, name.as_bytes())? == Some(canceled.uid.to_key().to_vec());
        if !is_tail {
            continue;
        }
        let open = tx.scan(OPEN_TASKS, ALL_KEYS, Direction::Backward, usize::MAX)?;
        for (key, _) in open {
            let Ok(key) = <[u8; 4]>::try_from(key.as_slice()) else { continue };
            let uid = TaskUid(u32::from_be_bytes(key));
            if tasks::get(tx, uid)?.is_some_and(|task| task.names().contains(&name)) {
                tx.put(TAILS, name.as_bytes(), key.to_vec());
                break;
            }
        }
    }
    Ok(())
}

/// Whether a later task was accepted under what this one made its names mean to writers. Such a
/// task can't be cancelled: the later one would have gone to another index.
fn is_built_on(tx: &Tx<'_>, task: &tasks::TaskRecord) -> Result<bool, ApplyError> {
    let binds = matches!(task.work, Work::DeleteIndex) || !task.work.name_changes().is_empty();
    if !binds && !task.creates_index {
        return Ok(false);
    }
    for name in task.names() {
        if tx.get(TAILS, name.as_bytes())?.as_deref() != Some(task.uid.to_key().as_slice()) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What a task changed for writers when it was accepted is taken back when it is cancelled:
/// nothing builds on it ([`is_built_on`]).
fn undo_names(tx: &mut Tx<'_>, task: &tasks::TaskRecord) -> Result<(), ApplyError> {
    match (&task.work, &task.name, &task.index) {
        // Whether they were bound when it was accepted: nothing has changed them since.
        (Work::SwapIndexes { .. }, ..) if names::fit(tx, &task.work.name_changes())? => {
            names::change(tx, Side::Write, &task.work.name_changes())?;
        }
        (Work::RenameIndex { took: true, .. } | Work::ChangeNames { took: true, .. }, ..) => {
            names::change(tx, Side::Write, &task.work.name_changes())?;
        }
        (Work::DeleteIndex, Some(name), Some(index)) => {
            names::set(tx, Side::Write, name, Some(index));
        }
        // As in Meilisearch, the index of a task that never ran does not exist.
        (_, Some(name), Some(index)) if task.creates_index => {
            names::set(tx, Side::Write, name, None);
            indexes::remove(tx, index)?;
        }
        _ => {}
    }
    Ok(())
}

pub(crate) fn delete(
    tx: &mut Tx<'_>,
    by: Option<TaskUid>,
    uids: &[TaskUid],
    _at: i64,
) -> Result<Outcome, ApplyError> {
    let mut deleted = Vec::new();
    for uid in uids {
        if Some(*uid) == by {
            continue;
        }
        if tasks::get(tx, *uid)?.is_some_and(|task| task.ended()) {
            tx.delete(TASKS, &uid.to_key());
            deleted.push(*uid);
        }
    }
    Ok(Outcome::Matched(deleted))
}
