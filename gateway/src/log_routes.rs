//! The write path behind the router's seams: routes to its handlers, and the routing view.

use std::sync::Arc;

use async_trait::async_trait;
use miroir_actors::pod::PodContext;
use miroir_storage::ids::IndexUid;
use miroir_storage::routing::{Routing, updated_at};
use miroir_storage::tables::tasks::{TaskState, read_open};
use miroir_wire::error::ApiError;
use time::OffsetDateTime;

use crate::context::{LogRoutes, RequestParts, RoutingSource};
use crate::reply::Reply;
use crate::router::LogRoute;
use crate::writes::{documents, indexes, settings, tasks};

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

#[async_trait]
impl LogRoutes for PodRoutes {
    async fn answer(&self, route: LogRoute, request: &RequestParts) -> Result<Reply, ApiError> {
        let pod = &self.pod;
        let RequestParts { query, content_type, body } = request;
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
            LogRoute::CancelTasks => tasks::cancel(pod, query).await,
            LogRoute::DeleteTasks => tasks::delete(pod, query).await,
        }
    }
}
