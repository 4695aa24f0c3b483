//! `/tasks…`
//!
//! | method, path | answers |
//! |---|---|
//! | `GET /tasks` | 200 |
//! | `GET /tasks/{uid}` | 200; 400 `invalid_task_uids`; 404 `task_not_found` |
//! | `POST /tasks/cancel`, `DELETE /tasks` | 200 with a task; 400 `missing_task_filters` |

use std::sync::Arc;

use miroir_wire::error::{ApiError, Code};
use miroir_wire::tasks::{TaskFilter, TaskSelection};

use super::answer::{self, Answer, Refusal};
use super::routes::TaskRoute;
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
            let filter = TaskFilter::from_query_string(call.query())?;
            let tasks = node.blocking(move |node| node.engine.tasks(&filter)).await?;
            answer::ok(&tasks)
        }
        TaskRoute::Get(uid) => {
            let uid = read_uid(&uid)?;
            let task = node.blocking(move |node| node.engine.task(uid)).await?;
            answer::ok(&task)
        }
        TaskRoute::Cancel => {
            let filter = TaskSelection::from_query_string(call.query(), "cancel")?;
            let original_filter = format!("?{}", call.query());
            enqueue(node, NewTask::TaskCancelation { filter, original_filter }).await
        }
        TaskRoute::Delete => {
            let filter = TaskSelection::from_query_string(call.query(), "delete")?;
            let original_filter = format!("?{}", call.query());
            enqueue(node, NewTask::TaskDeletion { filter, original_filter }).await
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
