//! The write path behind the router's seams: routes to its handlers, and the routing view.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use miroir_actors::leave::has_left;
use miroir_actors::pod::PodContext;
use miroir_seams::planted::{self, Bug};
use miroir_storage::commands::{Command, Outcome};
use miroir_storage::ids::{IndexUid, TaskUid};
use miroir_storage::routing::{Routing, updated_at};
use miroir_storage::tables::tasks::{TaskRecord, TaskState, read, read_open};
use miroir_storage::tables::{ApplyError, keys};
use miroir_wire::error::ApiError;
use time::OffsetDateTime;

use crate::context::{LogRoutes, RequestParts, RoutingSource};
use crate::features;
use crate::reply::Reply;
use crate::router::LogRoute;
use crate::writes::{
    Writes, batches, documents, indexes, propose, settings, task_documents, tasks, webhooks,
};

/// A pod, as the gateway sees it.
#[derive(Clone)]
pub struct PodRoutes {
    pod: Arc<PodContext>,
}

impl PodRoutes {
    /// The routes of `pod`.
    pub fn new(pod: Arc<PodContext>) -> Self {
        Self { pod }
    }
}

impl std::fmt::Debug for PodRoutes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PodRoutes").field("pod", &self.pod.id).finish()
    }
}

impl RoutingSource for PodRoutes {
    fn routing(&self) -> Arc<Routing> {
        self.pod.log.routing()
    }

    fn unconfirmed_for(&self) -> Duration {
        // A pod alone confirms itself.
        if self.pod.peers.copies() < 2 {
            return Duration::ZERO;
        }
        self.pod.log.confirmed().age
    }

    fn has_left(&self) -> bool {
        has_left(&self.pod)
    }

    fn is_indexing(&self, uid: &IndexUid) -> bool {
        // Open tasks are few: admission bounds them.
        read_open(self.pod.log.engine().as_ref()).is_ok_and(|open| {
            open.iter()
                .any(|task| task.index.as_ref() == Some(uid) && task.state == TaskState::Processing)
        })
    }

    fn updated_at(&self, uid: &IndexUid) -> Option<OffsetDateTime> {
        updated_at(self.pod.log.engine().as_ref(), uid).ok().flatten()
    }
}

/// How long a read waits for its session's writes.
const SESSION_PATIENCE: Duration = Duration::from_secs(5);
/// How long a request for something unknown waits for news.
const CATCH_UP_PATIENCE: Duration = Duration::from_secs(3);
/// Between looks at a write that has not ended; doubles up to [`SESSION_LOOK_MAX`].
const SESSION_LOOK_MIN: Duration = Duration::from_millis(25);
const SESSION_LOOK_MAX: Duration = Duration::from_millis(400);

impl PodRoutes {
    /// Whether every write of the session that concerns `index` has ended, as far as this pod
    /// has applied the log.
    fn has_settled(&self, session: &str, index: Option<&str>) -> Result<bool, ApplyError> {
        let engine = self.pod.log.engine().as_ref();
        let routing = self.pod.log.routing();
        // What the name means to readers, and what it meant to the write.
        let seen = index.and_then(|name| routing.indexes.get(name)).map(|index| &index.uid);
        let written = index.and_then(|name| routing.write_names.get(name));
        for (uid, last) in keys::last_writes(engine, session)? {
            if read(engine, last.uid)?.is_none_or(|task| task.ended()) {
                continue;
            }
            let Some(name) = index else { return Ok(false) };
            let is_bound = Some(&uid) == seen || Some(&uid) == written;
            if is_bound || was_named(&read_open(engine)?, &uid, last.uid, name) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Whether one of the open tasks of the index `uid`, up to `last`, was for `name`. The name may mean
/// another index to writers by now, as after a deletion or a swap, and not yet this one to readers.
fn was_named(open: &[TaskRecord], uid: &IndexUid, last: TaskUid, name: &str) -> bool {
    let mut of_index = open.iter().filter(|task| task.index.as_ref() == Some(uid));
    of_index.any(|task| task.uid <= last && task.names().contains(&name))
}

#[async_trait]
impl LogRoutes for PodRoutes {
    async fn answer(&self, route: LogRoute, request: &RequestParts) -> Result<Reply, ApiError> {
        let RequestParts { query, content_type, body, marks, grant } = request;
        let pod = &Writes { pod: &self.pod, marks: marks.clone(), grant };
        match route {
            LogRoute::AddDocuments { index, partial } => {
                let content_type = content_type.as_deref();
                documents::add(pod, &index, partial, query, content_type, body.clone()).await
            }
            LogRoute::DeleteAllDocuments { index } => documents::clear(pod, &index, query).await,
            LogRoute::DeleteDocument { index, id } => {
                documents::delete_one(pod, &index, &id, query).await
            }
            LogRoute::DeleteDocumentBatch { index } => {
                documents::delete_batch(pod, &index, query, body).await
            }
            LogRoute::DeleteDocumentsByFilter { index } => {
                documents::delete_by_filter(pod, &index, query, body).await
            }
            LogRoute::EditDocuments { index } => documents::edit(pod, &index, query, body).await,
            LogRoute::ListIndexes => indexes::list(pod, query),
            LogRoute::CreateIndex => indexes::create(pod, body).await,
            LogRoute::GetIndex { index } => indexes::get(pod, &index),
            LogRoute::UpdateIndex { index } => indexes::update(pod, &index, body).await,
            LogRoute::DeleteIndex { index } => indexes::delete(pod, &index).await,
            LogRoute::SwapIndexes => indexes::swap(pod, body).await,
            LogRoute::GetSettings { index } => settings::get(pod, &index),
            LogRoute::ChangeSettings { index } => settings::change(pod, &index, Some(body)).await,
            LogRoute::ResetSettings { index } => settings::change(pod, &index, None).await,
            LogRoute::GetSetting { index, name } => settings::get_one(pod, &index, &name),
            LogRoute::ChangeSetting { index, name } => {
                settings::change_one(pod, &index, &name, Some(body)).await
            }
            LogRoute::ResetSetting { index, name } => {
                settings::change_one(pod, &index, &name, None).await
            }
            LogRoute::ListTasks => tasks::list(pod, query),
            LogRoute::GetTask { uid } => tasks::get(pod, &uid),
            LogRoute::GetTaskDocuments { uid } => task_documents::get(pod, &uid).await,
            LogRoute::ListBatches => batches::list(pod, query),
            LogRoute::GetBatch { uid } => batches::get(pod, &uid),
            LogRoute::GetFeatures => Ok(features::get(pod).await),
            LogRoute::SwitchFeatures => features::switch(pod, body).await,
            LogRoute::ListWebhooks => webhooks::list(pod),
            LogRoute::CreateWebhook => webhooks::create(pod, body).await,
            LogRoute::GetWebhook { uuid } => webhooks::get(pod, &uuid),
            LogRoute::UpdateWebhook { uuid } => webhooks::update(pod, &uuid, body).await,
            LogRoute::DeleteWebhook { uuid } => webhooks::delete(pod, &uuid).await,
            LogRoute::CancelTasks => tasks::cancel(pod, query).await,
            LogRoute::DeleteTasks => tasks::delete(pod, query).await,
        }
    }

    async fn change_keys(&self, change: Command) -> Result<Outcome, ApiError> {
        propose(&self.pod, &change).await
    }

    async fn catch_up(&self) -> bool {
        self.pod.peers.copies() > 1 && self.pod.confirm(CATCH_UP_PATIENCE).await
    }

    async fn settle_session(&self, session: &str, index: Option<&str>) -> bool {
        if planted::has(Bug::SessionDoesNotWait) {
            return true;
        }
        let clock = &self.pod.seams.clock;
        let deadline = clock.instant() + SESSION_PATIENCE;
        // The write may have been accepted by another pod a moment ago.
        if !self.pod.confirm(SESSION_PATIENCE).await {
            return false;
        }
        let mut wait = SESSION_LOOK_MIN;
        loop {
            match self.has_settled(session, index) {
                Ok(true) => return true,
                Ok(false) if clock.instant() < deadline => {}
                Ok(false) => return false,
                Err(error) => {
                    tracing::error!(%error, "session can't be read");
                    return false;
                }
            }
            clock.sleep(wait).await;
            wait = (wait * 2).min(SESSION_LOOK_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use miroir_storage::commands::Work;

    use super::*;

    fn task(uid: u32, name: &str, index: &str) -> TaskRecord {
        TaskRecord {
            uid: TaskUid(uid),
            name: Some(name.to_owned()),
            index: Some(IndexUid::from(index)),
            work: Work::DeleteIndex,
            creates_index: false,
            after: Vec::new(),
            state: TaskState::Enqueued,
            details: None,
            error: None,
            canceled_by: None,
            custom_metadata: None,
            enqueued_at: 0,
            started_at: None,
            finished_at: None,
        }
    }

    #[test]
    fn a_session_waits_for_the_deletion_of_an_index_that_readers_have_not_seen_yet() {
        // `b` meant 1-b when the session wrote 5 and 6; then it was deleted, or swapped with `a`.
        let open = [task(5, "b", "1-b"), task(6, "b", "1-b"), task(7, "a", "1-b")];
        let uid = IndexUid::from("1-b");
        assert!(was_named(&open, &uid, TaskUid(6), "b"));
        assert!(was_named(&open, &uid, TaskUid(7), "b"), "an earlier write of the session");
        assert!(!was_named(&open, &uid, TaskUid(6), "a"), "not the session's");
        assert!(!was_named(&open, &IndexUid::from("0-b"), TaskUid(6), "b"));
    }
}
