//! What each route asks of a key: the one table, and it is Meilisearch's.
//!
//! | routes | action | index |
//! |---|---|---|
//! | `/`, `/health`, `/openapi.json`, `/_miroir/ready`, and what is no route | none | |
//! | `…/search`, `…/facet-search`, `…/similar`, `/multi-search` | `search` | the path's; each query's |
//! | `…/documents` by `GET`, `…/fetch` | `documents.get` | the path's |
//! | `…/documents` by `POST`, `PUT` | `documents.add` | the path's; `indexes.create` too, to create it |
//! | `…/documents` by `DELETE`, `…/delete`, `…/delete-batch` | `documents.delete` | the path's |
//! | `/indexes` | `indexes.get`, `indexes.create` | shows those it may; the body's |
//! | `/indexes/{uid}` | `indexes.get`, `.update`, `.delete` | the path's |
//! | `/swap-indexes` | `indexes.swap` | all in the body |
//! | `…/settings`, `…/settings/…` | `settings.get`, `settings.update` | the path's; `indexes.create` too, to create it |
//! | `/stats`, `…/stats` | `stats.get` | shows those it may; the path's |
//! | `/tasks`, `/batches`, `/tasks/cancel` | `tasks.get`, `.cancel`, `.delete` | sees tasks of those it may |
//! | `/version` | `version` | |
//! | `/webhooks`, `/webhooks/{uuid}` | `webhooks.get`, `.create`, `.update`, `.delete` | |
//! | `/experimental-features` | `experimental.get`, `.update` | |
//! | `/keys`, `/keys/{key}` | `keys.get`, `.create`, `.update`, `.delete` | |
//! | what is not supported | what Meilisearch asks for it | |
//! | `/_miroir/…` | the admin key | |

use miroir_wire::keys::Action;

use crate::auth::Right;
use crate::router::{KeyRoute, LogRoute, Route};

impl Route {
    /// The right it needs.
    pub fn right(&self) -> Right<'_> {
        match self {
            Self::Running
            | Self::Health
            | Self::OpenApi
            | Self::Ready
            | Self::Unknown
            | Self::WrongMethod => Right::Exempt,
            Self::Version => Right::Key(Action::Version, None),
            Self::Search { index } | Self::FacetSearch { index } | Self::Similar { index } => {
                Right::Key(Action::Search, Some(index))
            }
            Self::MultiSearch => Right::Key(Action::Search, None),
            Self::ListDocuments { index }
            | Self::FetchDocuments { index }
            | Self::GetDocument { index, .. } => Right::Key(Action::DocumentsGet, Some(index)),
            Self::IndexStats { index } => Right::Key(Action::StatsGet, Some(index)),
            Self::Stats => Right::Key(Action::StatsGet, None),
            Self::Log(route) => route.right(),
            Self::Keys(route) => Right::Key(route.action(), None),
            Self::NotSupported(_, action) => Right::Key(*action, None),
            Self::Admin(_) => Right::Operator,
        }
    }
}

impl LogRoute {
    fn right(&self) -> Right<'_> {
        let (action, index) = match self {
            Self::AddDocuments { index, .. } => (Action::DocumentsAdd, Some(index)),
            Self::DeleteAllDocuments { index }
            | Self::DeleteDocument { index, .. }
            | Self::DeleteDocumentBatch { index }
            | Self::DeleteDocumentsByFilter { index } => (Action::DocumentsDelete, Some(index)),
            Self::EditDocuments { index } => (Action::DocumentsAll, Some(index)),
            Self::ListIndexes => (Action::IndexesGet, None),
            Self::CreateIndex => (Action::IndexesCreate, None),
            Self::GetIndex { index } => (Action::IndexesGet, Some(index)),
            Self::UpdateIndex { index } => (Action::IndexesUpdate, Some(index)),
            Self::DeleteIndex { index } => (Action::IndexesDelete, Some(index)),
            Self::SwapIndexes => (Action::IndexesSwap, None),
            Self::GetSettings { index } | Self::GetSetting { index, .. } => {
                (Action::SettingsGet, Some(index))
            }
            Self::ChangeSettings { index }
            | Self::ResetSettings { index }
            | Self::ChangeSetting { index, .. }
            | Self::ResetSetting { index, .. } => (Action::SettingsUpdate, Some(index)),
            Self::ListTasks
            | Self::GetTask { .. }
            | Self::GetTaskDocuments { .. }
            | Self::ListBatches
            | Self::GetBatch { .. } => (Action::TasksGet, None),
            Self::GetFeatures => (Action::ExperimentalFeaturesGet, None),
            Self::SwitchFeatures => (Action::ExperimentalFeaturesUpdate, None),
            Self::ListWebhooks | Self::GetWebhook { .. } => (Action::WebhooksGet, None),
            Self::CreateWebhook => (Action::WebhooksCreate, None),
            Self::UpdateWebhook { .. } => (Action::WebhooksUpdate, None),
            Self::DeleteWebhook { .. } => (Action::WebhooksDelete, None),
            Self::CancelTasks => (Action::TasksCancel, None),
            Self::DeleteTasks => (Action::TasksDelete, None),
        };
        Right::Key(action, index.map(String::as_str))
    }
}

impl KeyRoute {
    fn action(&self) -> Action {
        match self {
            Self::List | Self::Get { .. } => Action::KeysGet,
            Self::Create => Action::KeysCreate,
            Self::Patch { .. } => Action::KeysUpdate,
            Self::Delete { .. } => Action::KeysDelete,
        }
    }
}
