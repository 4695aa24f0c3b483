//! `/tasks`: answered by every pod from agreed state.
//!
//! | method, path | answers |
//! |---|---|
//! | `GET /tasks`, `GET /tasks/{uid}` | 200; 400; 404 `task_not_found` |
//! | `POST /tasks/cancel`, `DELETE /tasks` | 200 with the summarised task; 400 without a filter |
//!
//! Who may work with some indexes only sees the tasks of those, and none that is about several.

use std::ops::Bound;

use miroir_actors::accept::{RequestedWork, WriteRequest};
use miroir_actors::task_details::open_details;
use miroir_storage::commands::{Ending, Work};
use miroir_storage::engine::{Direction, KeyRange};
use miroir_storage::ids::TaskUid;
use miroir_storage::routing::{IndexRouting, Routing, from_nanoseconds};
use miroir_storage::tables::records::decode;
use miroir_storage::tables::tasks::{TaskRecord, TaskState, read};
use miroir_storage::tables::{ApplyError, TASKS};
use miroir_wire::error::{ApiError, Code};
use miroir_wire::tasks::{Kind, Status, TaskFilter, TaskList, TaskSelection, TaskView};
use serde_json::Value;

use super::{Reply, Writes, accepted};
use crate::node_error::clean_task_error;
use miroir_wire::access::Grant;

/// Tasks read from the store at a time while a listing looks for matches.
const SCAN_PAGE: usize = 1000;

/// `GET /tasks/{uid}`.
///
/// # Errors
/// `invalid_task_uids`, `task_not_found`.
pub fn get(pod: &Writes<'_>, uid: &str) -> Result<Reply, ApiError> {
    Ok(Reply::json(200, &view(&read_seen(pod, uid)?)))
}

/// The task with this uid, if the client may see it.
pub(super) fn read_seen(pod: &Writes<'_>, uid: &str) -> Result<TaskRecord, ApiError> {
    let parsed: u32 = uid.parse().map_err(|_| {
        ApiError::new(
            Code::InvalidTaskUids,
            format!("Task uid `{uid}` is invalid. It should only contain numeric characters."),
        )
    })?;
    let task = read(pod.log.engine().as_ref(), TaskUid(parsed)).map_err(store_failed)?;
    let routing = pod.log.routing();
    let task = task.map(|task| by_todays_name(&routing, task));
    task.filter(|task| may_see(pod.grant, task)).ok_or_else(|| ApiError::task_not_found(parsed))
}

/// `GET /tasks`.
///
/// # Errors
/// Meilisearch's own for each parameter.
pub fn list(pod: &Writes<'_>, query: &str) -> Result<Reply, ApiError> {
    let filter = TaskFilter::from_query_string(query)?;
    let limit = filter.limit as usize;
    let mut total = 0;
    let mut page = Vec::new();
    let mut next = None;
    scan(pod, filter.reverse, |task| {
        let shown = view(task);
        if !filter.selection.keeps(&shown) {
            return;
        }
        total += 1;
        let in_window = filter.from.is_none_or(|from| match filter.reverse {
            true => shown.uid >= from,
            false => shown.uid <= from,
        });
        if in_window && page.len() < limit {
            page.push(shown);
        } else if in_window && next.is_none() {
            next = Some(shown.uid);
        }
    })
    .map_err(store_failed)?;
    let from = page.first().map(|task: &TaskView| task.uid);
    Ok(Reply::json(200, &TaskList { results: page, total, limit: filter.limit, from, next }))
}

/// `POST /tasks/cancel`.
///
/// # Errors
/// `missing_task_filters` and Meilisearch's own for each parameter; 503s.
pub async fn cancel(pod: &Writes<'_>, query: &str) -> Result<Reply, ApiError> {
    let uids = matching(pod, query, "cancel")?;
    let work = Work::CancelTasks { original_filter: format!("?{query}"), uids };
    plain(pod, Kind::TaskCancelation, work).await
}

/// `DELETE /tasks`.
///
/// # Errors
/// `missing_task_filters` and Meilisearch's own for each parameter; 503s.
pub async fn delete(pod: &Writes<'_>, query: &str) -> Result<Reply, ApiError> {
    let uids = matching(pod, query, "delete")?;
    let work = Work::DeleteTasks { original_filter: format!("?{query}"), uids };
    plain(pod, Kind::TaskDeletion, work).await
}

async fn plain(pod: &Writes<'_>, kind: Kind, work: Work) -> Result<Reply, ApiError> {
    let request = WriteRequest {
        index: None,
        work: RequestedWork::Plain(work),
        creates_index: false,
        custom_metadata: None,
    };
    // Meilisearch answers these two with 200.
    let mut reply = accepted(pod, kind, request).await?;
    reply.status = 200;
    Ok(reply)
}

/// What the filter matches now, whatever became of it: what can't be cancelled or deleted once the
/// task is carried out is left alone then.
fn matching(pod: &Writes<'_>, query: &str, verb: &str) -> Result<Vec<TaskUid>, ApiError> {
    let selection = TaskSelection::from_query_string(query, verb)?;
    let mut uids = Vec::new();
    scan(pod, true, |task| {
        if selection.keeps(&view(task)) {
            uids.push(task.uid);
        }
    })
    .map_err(store_failed)?;
    Ok(uids)
}

pub(super) fn may_see(grant: &Grant, task: &TaskRecord) -> bool {
    grant.allows_all_indexes() || task.name.as_deref().is_some_and(|name| grant.allows_index(name))
}

/// The tasks of an index go by its name of today: in Meilisearch a swap, or a rename, renames those
/// before it. What has not ended keeps the name that it was accepted under, since names may change
/// before its turn; and so does a rename.
fn by_todays_name(routing: &Routing, mut task: TaskRecord) -> TaskRecord {
    let index = task.index.as_ref().and_then(|uid| routing.by_uid.get(uid));
    let is_seen = |index: &IndexRouting| {
        routing.indexes.get(&index.name).is_some_and(|seen| seen.uid == index.uid)
    };
    if let Some(index) = index.filter(|index| is_seen(index))
        && task.ended()
        && !matches!(task.work, Work::RenameIndex { .. })
    {
        task.name = Some(index.name.clone());
    }
    task
}

/// Visits the tasks that the client may see.
pub(super) fn scan(
    pod: &Writes<'_>,
    oldest_first: bool,
    mut visit: impl FnMut(&TaskRecord),
) -> Result<(), ApplyError> {
    let mut range: KeyRange = (Bound::Unbounded, Bound::Unbounded);
    let direction = if oldest_first { Direction::Forward } else { Direction::Backward };
    let routing = pod.log.routing();
    loop {
        let page = pod.log.engine().scan(TASKS, range.clone(), direction, SCAN_PAGE)?;
        for (_, bytes) in &page {
            let task = by_todays_name(&routing, decode(bytes)?);
            if may_see(pod.grant, &task) {
                visit(&task);
            }
        }
        let Some((last, _)) = page.last() else { return Ok(()) };
        if page.len() < SCAN_PAGE {
            return Ok(());
        }
        match oldest_first {
            true => range.0 = Bound::Excluded(last.clone()),
            false => range.1 = Bound::Excluded(last.clone()),
        }
    }
}

pub(super) fn store_failed(error: ApplyError) -> ApiError {
    tracing::error!(%error, "tasks can't be read");
    ApiError::new(Code::Internal, "The task store can't be read.")
}

/// A task as clients see it.
pub fn view(task: &TaskRecord) -> TaskView {
    let status = match task.state {
        TaskState::Enqueued if begins_at_once(&task.work) => Status::Processing,
        TaskState::Enqueued => Status::Enqueued,
        TaskState::Processing => Status::Processing,
        TaskState::Ended(Ending::Succeeded) => Status::Succeeded,
        TaskState::Ended(Ending::Failed) => Status::Failed,
        TaskState::Ended(Ending::Canceled) => Status::Canceled,
    };
    let details = match &task.details {
        Some(details) => serde_json::from_str(details).unwrap_or(Value::Null),
        None => open_details(&task.work),
    };
    let begun_at = begins_at_once(&task.work).then_some(task.enqueued_at);
    let started_at = begun_at.or(task.started_at).map(from_nanoseconds);
    let finished_at = task.finished_at.map(from_nanoseconds);
    let duration = match (started_at, finished_at) {
        (Some(started), Some(finished)) => Some(finished - started),
        _ => None,
    };
    TaskView {
        uid: task.uid.0,
        batch_uid: batch_of(task),
        index_uid: task.name.clone(),
        status,
        kind: kind(&task.work),
        canceled_by: task.canceled_by.map(|uid| uid.0),
        details: serde_json::from_value(details).ok(),
        error: task
            .error
            .as_deref()
            .and_then(|error| serde_json::from_str(error).ok())
            .map(clean_task_error),
        duration,
        enqueued_at: from_nanoseconds(task.enqueued_at),
        started_at,
        finished_at,
        custom_metadata: task.custom_metadata.clone(),
    }
}

/// Whether a task is under way as soon as it is accepted: cancellations and deletions of tasks wait
/// behind no other task, and their log shows no beginning.
fn begins_at_once(work: &Work) -> bool {
    matches!(work, Work::CancelTasks { .. } | Work::DeleteTasks { .. })
}

/// The batch of a task: its own once it has begun, except that what was cancelled belongs to what
/// cancelled it.
pub(super) fn batch_of(task: &TaskRecord) -> Option<u32> {
    let has_begun = task.state != TaskState::Enqueued || begins_at_once(&task.work);
    let own = has_begun.then_some(task.uid);
    task.canceled_by.or(own).map(|uid| uid.0)
}

fn kind(work: &Work) -> Kind {
    match work {
        Work::Documents { .. } => Kind::DocumentAdditionOrUpdate,
        Work::DeleteIds { .. } | Work::DeleteByFilter { .. } | Work::Clear => {
            Kind::DocumentDeletion
        }
        Work::EditDocuments { .. } => Kind::DocumentEdition,
        Work::Settings { .. } => Kind::SettingsUpdate,
        Work::CreateIndex { .. } => Kind::IndexCreation,
        Work::UpdateIndex { .. } | Work::RenameIndex { .. } => Kind::IndexUpdate,
        Work::DeleteIndex => Kind::IndexDeletion,
        Work::SwapIndexes { .. } | Work::ChangeNames { .. } => Kind::IndexSwap,
        Work::CancelTasks { .. } => Kind::TaskCancelation,
        Work::DeleteTasks { .. } => Kind::TaskDeletion,
    }
}
