//! `/tasks…`, `/batches…`
//!
//! | method, path | answers |
//! |---|---|
//! | `GET /tasks` | 200 |
//! | `GET /tasks/{uid}` | 200; 400 `invalid_task_uids`; 404 `task_not_found` |
//! | `GET /batches` | 200 |
//! | `GET /batches/{uid}` | 200; 400 `invalid_batch_uids`; 404 `batch_not_found` |
//! | `POST /tasks/cancel`, `DELETE /tasks` | 200 with a task; 400 `missing_task_filters` |
//!
//! Who may work with some indexes only sees their tasks, and none that is about several.

use std::sync::Arc;

use miroir_wire::error::{ApiError, Code};
use miroir_wire::tasks::{TaskFilter, TaskSelection, read_batch_uid};

use super::answer::{self, Answer, Refusal};
use super::routes::{BatchRoute, TaskRoute};
use super::{Call, Node};
use crate::engine::NewTask;

/// Answers a request below `/tasks`.
pub(super) async fn serve(
    node: &Arc<Node>,
    call: &Call,
    route: TaskRoute,
) -> Result<Answer, Refusal> {
    match route {
        TaskRoute::List => {
            let mut filter = TaskFilter::from_query_string(call.query())?;
            filter.selection.visible = call.grant.index_patterns();
            let tasks = node.blocking(move |node| node.engine.tasks(&filter)).await?;
            answer::ok(&tasks)
        }
        TaskRoute::Get(uid) => {
            let uid = read_uid(&uid)?;
            let task = node.blocking(move |node| node.engine.task(uid)).await?;
            let visible = call.grant.index_patterns();
            let seen = TaskSelection { visible, ..TaskSelection::default() };
            match seen.keeps(&task) {
                true => answer::ok(&task),
                false => Err(ApiError::task_not_found(uid).into()),
            }
        }
        TaskRoute::Cancel => {
            let mut filter = TaskSelection::from_query_string(call.query(), "cancel")?;
            filter.visible = call.grant.index_patterns();
            let original_filter = format!("?{}", call.query());
            enqueue(node, NewTask::TaskCancelation { filter, original_filter }).await
        }
        TaskRoute::Delete => {
            let mut filter = TaskSelection::from_query_string(call.query(), "delete")?;
            filter.visible = call.grant.index_patterns();
            let original_filter = format!("?{}", call.query());
            enqueue(node, NewTask::TaskDeletion { filter, original_filter }).await
        }
    }
}

/// Answers a request below `/batches`.
pub(super) async fn serve_batches(
    node: &Arc<Node>,
    call: &Call,
    route: BatchRoute,
) -> Result<Answer, Refusal> {
    let visible = call.grant.index_patterns();
    match route {
        BatchRoute::List => {
            let mut filter = TaskFilter::from_query_string(call.query())?;
            filter.selection.visible = visible;
            let batches = node.blocking(move |node| node.engine.batches(&filter)).await?;
            answer::ok(&batches)
        }
        BatchRoute::Get(uid) => {
            let uid = read_batch_uid(&uid)?;
            let batch = node.blocking(move |node| node.engine.batch(uid, visible)).await?;
            answer::ok(&batch)
        }
    }
}

/// Unlike other writes these answer 200, as in Meilisearch.
async fn enqueue(node: &Arc<Node>, task: NewTask) -> Result<Answer, Refusal> {
    let task = node.blocking(move |node| node.engine.enqueue(task, None)).await?;
    answer::ok(&answer::summary(task))
}

fn read_uid(uid: &str) -> Result<u32, ApiError> {
    uid.parse().map_err(|_| {
        ApiError::new(
            Code::InvalidTaskUids,
            format!("Task uid `{uid}` is invalid. It should only contain numeric characters."),
        )
    })
}
