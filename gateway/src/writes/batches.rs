//! `/batches`: answered by every pod from agreed state.
//!
//! | method, path | answers |
//! |---|---|
//! | `GET /batches` | 200; 400 for each parameter of `GET /tasks` |
//! | `GET /batches/{uid}` | 200; 400 `invalid_batch_uids`; 404 `batch_not_found` |
//!
//! What nodes carry out together differs from node to node, so each task is a batch of its own
//! here, with its number; what it cancelled belongs to it. Who may work with some indexes only
//! sees the batches of the tasks that they see.

use std::collections::BTreeSet;

use miroir_storage::commands::Work;
use miroir_storage::ids::TaskUid;
use miroir_storage::tables::ApplyError;
use miroir_storage::tables::tasks::{TaskRecord, read};
use miroir_wire::error::ApiError;
use miroir_wire::tasks::{
    BatchPage, BatchView, TaskFilter, TaskView, batch_not_found, read_batch_uid,
};

use super::tasks::{batch_of, may_see, scan, store_failed, view};
use super::{Reply, Writes};

/// Shown as `batchStrategy`.
const STRATEGY: &str = "each task is a batch of its own: nodes carry out what they have of it";

/// `GET /batches`.
///
/// # Errors
/// Meilisearch's own for each parameter.
pub fn list(pod: &Writes<'_>, query: &str) -> Result<Reply, ApiError> {
    let filter = TaskFilter::from_query_string(query)?;
    let mut matching = BTreeSet::new();
    scan(pod, true, |task| {
        if let Some(batch) = batch_of(task)
            && filter.selection.keeps(&view(task))
        {
            matching.insert(batch);
        }
    })
    .map_err(store_failed)?;
    let page = BatchPage::of(&filter, &matching);
    let tasks = tasks_of(pod, &page.uids).map_err(store_failed)?;
    Ok(Reply::json(200, &page.list(&tasks, STRATEGY)))
}

/// `GET /batches/{uid}`.
///
/// # Errors
/// `invalid_batch_uids`, `batch_not_found`.
pub fn get(pod: &Writes<'_>, uid: &str) -> Result<Reply, ApiError> {
    let uid = read_batch_uid(uid)?;
    let tasks = tasks_of(pod, &[uid]).map_err(store_failed)?;
    let tasks: Vec<&TaskView> = tasks.iter().collect();
    match tasks.is_empty() {
        true => Err(batch_not_found(uid)),
        false => Ok(Reply::json(200, &BatchView::of(uid, &tasks, STRATEGY))),
    }
}

/// The tasks of these batches that the client may see.
fn tasks_of(pod: &Writes<'_>, batches: &[u32]) -> Result<Vec<TaskView>, ApplyError> {
    let engine = pod.log.engine().as_ref();
    let mut uids = BTreeSet::new();
    let mut tasks = Vec::new();
    for uid in batches {
        match read(engine, TaskUid(*uid))? {
            Some(TaskRecord { work: Work::CancelTasks { uids: canceled, .. }, .. }) => {
                uids.extend(canceled);
            }
            Some(_) => {}
            // What cancelled them is no longer in the history, but they are.
            None => {
                scan(pod, true, |task| {
                    tasks.extend((batch_of(task) == Some(*uid)).then(|| view(task)))
                })?;
            }
        }
        uids.insert(TaskUid(*uid));
    }
    for uid in uids {
        let Some(task) = read(engine, uid)? else { continue };
        let is_among = batch_of(&task).is_some_and(|batch| batches.contains(&batch));
        if is_among && may_see(pod.grant, &task) {
            tasks.push(view(&task));
        }
    }
    Ok(tasks)
}
