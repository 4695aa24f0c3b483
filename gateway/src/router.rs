//! Paths to routes: the one place where they meet. No logic, no I/O.
//!
//! | routes | answered by |
//! |---|---|
//! | `/health`, `/version`, `/`, `/openapi.json` | this pod; the last by [`crate::surface`] |
//! | searches, document reads, stats | [`crate::search`], [`crate::facet_search`], [`crate::similar`], [`crate::documents_read`], [`crate::stats`] |
//! | everything that lives in the coordinator log: writes, settings, indexes, tasks | [`LogRoute`], by whoever implements [`crate::context::LogRoutes`] |
//! | API keys | [`crate::keys`] |
//! | pods, roles, actors, jobs | [`crate::admin`], by whoever implements its [`crate::admin::AdminSource`] |
//! | what Meilisearch has and Miroir has not (yet) | 501, with what to use instead |
//!
//! Which right each needs: [`crate::rights`].

use http::Method;
use miroir_wire::keys::Action;
use miroir_wire::settings::{Method as WriteMethod, sub_route};
use percent_encoding::percent_decode_str;

use crate::admin::AdminRoute;
use crate::jobs::JobsRoute;
use crate::reshard::{ReshardAction, ReshardRoute};
use crate::topology::TopologyRoute;

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// `GET /`
    Running,
    /// `GET /health`
    Health,
    /// `GET /version`
    Version,
    /// `GET /openapi.json`
    OpenApi,
    /// `GET /_miroir/ready`
    Ready,
    /// `GET` and `POST /indexes/{index}/search`
    Search {
        /// The client's name of the index.
        index: String,
    },
    /// `POST /indexes/{index}/facet-search`
    FacetSearch {
        /// The client's name of the index.
        index: String,
    },
    /// `GET` and `POST /indexes/{index}/similar`
    Similar {
        /// The client's name of the index.
        index: String,
    },
    /// `POST /multi-search`
    MultiSearch,
    /// `GET /indexes/{index}/documents`
    ListDocuments {
        /// The client's name of the index.
        index: String,
    },
    /// `POST /indexes/{index}/documents/fetch`
    FetchDocuments {
        /// The client's name of the index.
        index: String,
    },
    /// `GET /indexes/{index}/documents/{id}`
    GetDocument {
        /// The client's name of the index.
        index: String,
        /// The document's id.
        id: String,
    },
    /// `GET /indexes/{index}/stats`
    IndexStats {
        /// The client's name of the index.
        index: String,
    },
    /// `GET /stats`
    Stats,
    /// Answered from or through the coordinator log.
    Log(LogRoute),
    /// `/keys`
    Keys(KeyRoute),
    /// Under `/_miroir/`, none of the above.
    Admin(AdminRoute),
    /// A route of Meilisearch's that Miroir does not have: what to use instead, and the action that
    /// it needs in Meilisearch.
    NotSupported(&'static str, Action),
    /// A known path, but not with this method.
    WrongMethod,
    /// Nothing known.
    Unknown,
}

/// Routes that the write path answers.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the variants name Meilisearch's routes, their fields the path's parts
pub enum LogRoute {
    AddDocuments { index: String, partial: bool },
    DeleteAllDocuments { index: String },
    DeleteDocument { index: String, id: String },
    DeleteDocumentBatch { index: String },
    DeleteDocumentsByFilter { index: String },
    EditDocuments { index: String },
    ListIndexes,
    CreateIndex,
    GetIndex { index: String },
    UpdateIndex { index: String },
    DeleteIndex { index: String },
    SwapIndexes,
    GetSettings { index: String },
    ChangeSettings { index: String },
    ResetSettings { index: String },
    GetSetting { index: String, name: String },
    ChangeSetting { index: String, name: String },
    ResetSetting { index: String, name: String },
    ListTasks,
    GetTask { uid: String },
    GetTaskDocuments { uid: String },
    ListBatches,
    GetBatch { uid: String },
    GetFeatures,
    SwitchFeatures,
    ListWebhooks,
    CreateWebhook,
    GetWebhook { uuid: String },
    UpdateWebhook { uuid: String },
    DeleteWebhook { uuid: String },
    CancelTasks,
    DeleteTasks,
}

/// Routes about API keys.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // `key` is the path's last part: a uid or a value
pub enum KeyRoute {
    List,
    Create,
    Get { key: String },
    Patch { key: String },
    Delete { key: String },
}

impl Route {
    /// Whether the body is one JSON value, so that its content type is checked.
    pub fn takes_json(&self) -> bool {
        use LogRoute as Log;
        match self {
            Self::MultiSearch | Self::FetchDocuments { .. } | Self::FacetSearch { .. } => true,
            Self::Keys(route) => matches!(route, KeyRoute::Create | KeyRoute::Patch { .. }),
            Self::Log(route) => matches!(
                route,
                Log::DeleteDocumentBatch { .. }
                    | Log::DeleteDocumentsByFilter { .. }
                    | Log::CreateIndex
                    | Log::UpdateIndex { .. }
                    | Log::SwapIndexes
                    | Log::ChangeSettings { .. }
                    | Log::ChangeSetting { .. }
                    | Log::SwitchFeatures
                    | Log::CreateWebhook
                    | Log::UpdateWebhook { .. }
            ),
            _ => false,
        }
    }

    /// Whether it is a search, which is refused in Meilisearch's own way when there are too many.
    pub fn is_search(&self) -> bool {
        matches!(
            self,
            Self::Search { .. }
                | Self::FacetSearch { .. }
                | Self::Similar { .. }
                | Self::MultiSearch
        )
    }

    /// The index that it reads, `Some(None)` when it reads several; `None` when it reads none.
    pub fn reads(&self) -> Option<Option<&str>> {
        match self {
            Self::Search { index }
            | Self::FacetSearch { index }
            | Self::Similar { index }
            | Self::ListDocuments { index }
            | Self::FetchDocuments { index }
            | Self::GetDocument { index, .. }
            | Self::IndexStats { index } => Some(Some(index)),
            Self::MultiSearch | Self::Stats => Some(None),
            _ => None,
        }
    }

    /// Whether it is answered however busy the pod is.
    pub fn is_always_admitted(&self) -> bool {
        match self {
            // These come with a body.
            Self::Admin(AdminRoute::Jobs(JobsRoute::Create | JobsRoute::PutChunk { .. })) => false,
            other => matches!(other, Self::Health | Self::Ready | Self::Admin(_)),
        }
    }
}

const DUMPS: &str = "Dumps and snapshots of one node would hold a part of the data only. Use `miroir ctl export-dump` and `import-dump`.";
const CHATS: &str = "Ask with `search`, and hand the hits to the model yourself.";
const RULES: &str = "Pin hits with `sort` and `filter`, or merge searches with `multi-search`.";
const LOGS: &str = "Logs are on the standard error of each pod.";
const METRICS: &str = "Metrics are under `/_miroir/metrics`.";
const FIELDS: &str = "Use `GET /indexes/{index_uid}/settings` and `stats`.";
const TEMPLATES: &str = "Render document templates on a node by itself.";

/// The route of a request.
pub fn route(method: &Method, path: &str) -> Route {
    let segments: Vec<String> = path
        .trim_matches('/')
        .split('/')
        .filter(|segment| !segment.is_empty())
        .map(|segment| percent_decode_str(segment).decode_utf8_lossy().into_owned())
        .collect();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let is =
        |wanted: &Method| method == wanted || (method == Method::HEAD && *wanted == Method::GET);
    let get = is(&Method::GET);
    let post = is(&Method::POST);
    let only = |allowed: bool, route: Route| if allowed { route } else { Route::WrongMethod };
    match segments.as_slice() {
        [] => only(get, Route::Running),
        ["health"] => only(get, Route::Health),
        ["version"] => only(get, Route::Version),
        ["openapi.json"] => only(get, Route::OpenApi),
        ["stats"] => only(get, Route::Stats),
        ["multi-search"] => only(post, Route::MultiSearch),
        ["indexes", index, rest @ ..] => index_route(method, index, rest),
        ["indexes"] => match () {
            () if get => Route::Log(LogRoute::ListIndexes),
            () => only(post, Route::Log(LogRoute::CreateIndex)),
        },
        ["swap-indexes"] => only(post, Route::Log(LogRoute::SwapIndexes)),
        ["tasks"] if get => Route::Log(LogRoute::ListTasks),
        ["tasks"] => only(is(&Method::DELETE), Route::Log(LogRoute::DeleteTasks)),
        ["tasks", "cancel"] => only(post, Route::Log(LogRoute::CancelTasks)),
        ["tasks", "compact"] => {
            Route::NotSupported("Tasks are pruned by themselves.", Action::TasksCompact)
        }
        ["tasks", uid, "documents"] => {
            only(get, Route::Log(LogRoute::GetTaskDocuments { uid: (*uid).to_owned() }))
        }
        ["tasks", uid] => only(get, Route::Log(LogRoute::GetTask { uid: (*uid).to_owned() })),
        ["_miroir", "ready"] => only(get, Route::Ready),
        ["_miroir", "peers"] => only(get, Route::Admin(AdminRoute::Peers)),
        ["_miroir", "metrics"] => only(get, Route::Admin(AdminRoute::Metrics)),
        ["_miroir", "roles"] => only(get, Route::Admin(AdminRoute::Roles)),
        ["_miroir", "actors"] => only(get, Route::Admin(AdminRoute::Actors)),
        ["_miroir", "actors", id, "restart"] => {
            only(post, Route::Admin(AdminRoute::RestartActor { id: (*id).to_owned() }))
        }
        ["_miroir", "pods", id, "leave"] => {
            let begin = is(&Method::POST);
            only(get || begin, Route::Admin(AdminRoute::Leave { id: (*id).to_owned(), begin }))
        }
        ["_miroir", "anti-entropy"] => {
            let begin = is(&Method::POST);
            only(get || begin, Route::Admin(AdminRoute::Comparisons { begin }))
        }
        ["_miroir", "indexes", index, "reshard"] => reshard_route(method, index),
        ["_miroir", "jobs", rest @ ..] => jobs_route(method, rest),
        ["_miroir", rest @ ..] => {
            topology_route(method, rest).unwrap_or(Route::Admin(AdminRoute::Other))
        }
        ["batches"] => only(get, Route::Log(LogRoute::ListBatches)),
        ["batches", uid] => only(get, Route::Log(LogRoute::GetBatch { uid: (*uid).to_owned() })),
        ["keys"] if get => Route::Keys(KeyRoute::List),
        ["keys"] => only(post, Route::Keys(KeyRoute::Create)),
        ["keys", key] => {
            let key = (*key).to_owned();
            match () {
                () if get => Route::Keys(KeyRoute::Get { key }),
                () if is(&Method::PATCH) => Route::Keys(KeyRoute::Patch { key }),
                () => only(is(&Method::DELETE), Route::Keys(KeyRoute::Delete { key })),
            }
        }
        ["webhooks"] if get => Route::Log(LogRoute::ListWebhooks),
        ["webhooks"] => only(post, Route::Log(LogRoute::CreateWebhook)),
        ["webhooks", uuid] => {
            let uuid = (*uuid).to_owned();
            match () {
                () if get => Route::Log(LogRoute::GetWebhook { uuid }),
                () if is(&Method::PATCH) => Route::Log(LogRoute::UpdateWebhook { uuid }),
                () => only(is(&Method::DELETE), Route::Log(LogRoute::DeleteWebhook { uuid })),
            }
        }
        ["network", ..] => {
            let action = if get { Action::NetworkGet } else { Action::NetworkUpdate };
            Route::NotSupported("Miroir shards by itself: see `/_miroir/`.", action)
        }
        ["dumps"] => Route::NotSupported(DUMPS, Action::DumpsCreate),
        ["snapshots"] => Route::NotSupported(DUMPS, Action::SnapshotsCreate),
        ["export"] => Route::NotSupported(DUMPS, Action::Export),
        ["experimental-features"] if get => Route::Log(LogRoute::GetFeatures),
        ["experimental-features"] => only(is(&Method::PATCH), Route::Log(LogRoute::SwitchFeatures)),
        ["chats", ..] => Route::NotSupported(CHATS, Action::ChatsGet),
        ["dynamic-search-rules", ..] => Route::NotSupported(RULES, Action::DynamicSearchRulesGet),
        ["render-template", ..] => Route::NotSupported(TEMPLATES, Action::All),
        // Who may read metrics may read logs.
        ["logs", ..] => Route::NotSupported(LOGS, Action::MetricsGet),
        ["metrics"] => Route::NotSupported(METRICS, Action::MetricsGet),
        _ => Route::Unknown,
    }
}

/// Routes about nodes and shards; `None` for others.
fn topology_route(method: &Method, rest: &[&str]) -> Option<Route> {
    let is =
        |wanted: &Method| method == wanted || (method == Method::HEAD && *wanted == Method::GET);
    let [get, post, put, patch, delete] =
        [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE]
            .map(|wanted| is(&wanted));
    let (allowed, route) = match rest {
        ["topology"] => (get, TopologyRoute::Topology),
        ["shards"] => (get, TopologyRoute::Shards),
        ["nodes"] => (post, TopologyRoute::AddNode),
        ["nodes", node] => (delete, TopologyRoute::RemoveNode { node: (*node).to_owned() }),
        ["nodes", node, "drain"] => {
            (post || delete, TopologyRoute::Drain { node: (*node).to_owned(), draining: post })
        }
        ["groups", group] => (delete, TopologyRoute::RemoveGroup { group: (*group).to_owned() }),
        ["replication"] => (put, TopologyRoute::Replication),
        ["rebalance"] if patch => (true, TopologyRoute::Steer),
        ["rebalance"] => (get, TopologyRoute::Rebalance),
        _ => return None,
    };
    Some(match allowed {
        true => Route::Admin(AdminRoute::Topology(route)),
        false => Route::WrongMethod,
    })
}

/// `…/indexes/{index}/reshard`.
fn reshard_route(method: &Method, index: &str) -> Route {
    let action = match *method {
        Method::GET | Method::HEAD => ReshardAction::Get,
        Method::POST => ReshardAction::Begin,
        Method::DELETE => ReshardAction::Abandon,
        _ => return Route::WrongMethod,
    };
    Route::Admin(AdminRoute::Reshard(ReshardRoute { index: index.to_owned(), action }))
}

fn jobs_route(method: &Method, rest: &[&str]) -> Route {
    let is =
        |wanted: &Method| method == wanted || (method == Method::HEAD && *wanted == Method::GET);
    let [get, post, put, delete] =
        [Method::GET, Method::POST, Method::PUT, Method::DELETE].map(|wanted| is(&wanted));
    let only = |allowed: bool, route: JobsRoute| match allowed {
        true => Route::Admin(AdminRoute::Jobs(route)),
        false => Route::WrongMethod,
    };
    match rest {
        [] => only(get, JobsRoute::List),
        ["imports"] => only(post, JobsRoute::Create),
        [job] if delete => only(true, JobsRoute::Cancel { job: (*job).to_owned() }),
        [job] => only(get, JobsRoute::Get { job: (*job).to_owned() }),
        [job, "chunks"] => only(get, JobsRoute::Chunks { job: (*job).to_owned() }),
        [job, "chunks", chunk] => {
            let (job, chunk) = ((*job).to_owned(), (*chunk).to_owned());
            only(put, JobsRoute::PutChunk { job, chunk })
        }
        [job, "seal"] => only(post, JobsRoute::Seal { job: (*job).to_owned() }),
        _ => Route::Admin(AdminRoute::Other),
    }
}

fn index_route(method: &Method, index: &str, rest: &[&str]) -> Route {
    let index = index.to_owned();
    let is =
        |wanted: &Method| method == wanted || (method == Method::HEAD && *wanted == Method::GET);
    let [get, post, put, patch, delete] =
        [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE].map(|m| is(&m));
    let only = |allowed: bool, route: Route| if allowed { route } else { Route::WrongMethod };
    match rest {
        [] if get => Route::Log(LogRoute::GetIndex { index }),
        [] if patch => Route::Log(LogRoute::UpdateIndex { index }),
        [] => only(delete, Route::Log(LogRoute::DeleteIndex { index })),
        ["search"] => only(get || post, Route::Search { index }),
        ["similar"] => only(get || post, Route::Similar { index }),
        ["facet-search"] => only(post, Route::FacetSearch { index }),
        ["stats"] => only(get, Route::IndexStats { index }),
        ["documents"] if get => Route::ListDocuments { index },
        ["documents"] if post || put => Route::Log(LogRoute::AddDocuments { index, partial: put }),
        ["documents"] => only(delete, Route::Log(LogRoute::DeleteAllDocuments { index })),
        ["documents", "fetch"] if post => Route::FetchDocuments { index },
        ["documents", "delete-batch"] if post => {
            Route::Log(LogRoute::DeleteDocumentBatch { index })
        }
        ["documents", "delete"] if post => Route::Log(LogRoute::DeleteDocumentsByFilter { index }),
        ["documents", "edit"] if post => Route::Log(LogRoute::EditDocuments { index }),
        ["documents", id] if get => Route::GetDocument { index, id: (*id).to_owned() },
        ["documents", id] => {
            only(delete, Route::Log(LogRoute::DeleteDocument { index, id: (*id).to_owned() }))
        }
        ["settings"] if get => Route::Log(LogRoute::GetSettings { index }),
        ["settings"] if patch => Route::Log(LogRoute::ChangeSettings { index }),
        ["settings"] => only(delete, Route::Log(LogRoute::ResetSettings { index })),
        ["settings", "foreign-keys"] => {
            Route::NotSupported("Filters can't reach other indexes.", Action::SettingsAll)
        }
        ["settings", name] => match sub_route(name) {
            None => Route::Unknown,
            Some(_) if get => Route::Log(LogRoute::GetSetting { index, name: (*name).to_owned() }),
            Some(_) if delete => {
                Route::Log(LogRoute::ResetSetting { index, name: (*name).to_owned() })
            }
            Some(sub) => only(
                match sub.method {
                    WriteMethod::Put => put,
                    WriteMethod::Patch => patch,
                },
                Route::Log(LogRoute::ChangeSetting { index, name: (*name).to_owned() }),
            ),
        },
        ["fields"] => Route::NotSupported(FIELDS, Action::FieldsPost),
        ["compact"] => Route::NotSupported("Compact each node by itself.", Action::IndexesCompact),
        _ => Route::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_to_their_routes() {
        let index = || "movies".to_owned();
        for (method, path, expected) in [
            (Method::GET, "/health", Route::Health),
            (Method::HEAD, "/health", Route::Health),
            (Method::POST, "/health", Route::WrongMethod),
            (Method::GET, "/indexes/movies/search", Route::Search { index: index() }),
            (Method::POST, "/indexes/movies/search/", Route::Search { index: index() }),
            (Method::PUT, "/indexes/movies/search", Route::WrongMethod),
            (Method::POST, "/indexes/movies/facet-search", Route::FacetSearch { index: index() }),
            (Method::GET, "/indexes/movies/facet-search", Route::WrongMethod),
            (
                Method::GET,
                "/indexes/movies/documents/a%20b",
                Route::GetDocument { index: index(), id: "a b".into() },
            ),
            (
                Method::PUT,
                "/indexes/movies/documents",
                Route::Log(LogRoute::AddDocuments { index: index(), partial: true }),
            ),
            (
                Method::PUT,
                "/indexes/movies/settings/stop-words",
                Route::Log(LogRoute::ChangeSetting { index: index(), name: "stop-words".into() }),
            ),
            (Method::GET, "/indexes/movies/settings/nonsense", Route::Unknown),
            (Method::GET, "/_miroir/aliases", Route::Admin(AdminRoute::Other)),
            (
                Method::DELETE,
                "/_miroir/nodes/n%2F1/drain",
                Route::Admin(AdminRoute::Topology(TopologyRoute::Drain {
                    node: "n/1".into(),
                    draining: false,
                })),
            ),
            (Method::GET, "/_miroir/nodes", Route::WrongMethod),
            (Method::GET, "/_miroir/actors", Route::Admin(AdminRoute::Actors)),
            (
                Method::POST,
                "/_miroir/actors/pod-1%2Fwriter%2Fmovies/restart",
                Route::Admin(AdminRoute::RestartActor { id: "pod-1/writer/movies".into() }),
            ),
            (
                Method::POST,
                "/_miroir/pods/pod-1/leave",
                Route::Admin(AdminRoute::Leave { id: "pod-1".into(), begin: true }),
            ),
            (Method::GET, "/_miroir/actors/a/restart", Route::WrongMethod),
            (
                Method::PUT,
                "/_miroir/jobs/3/chunks/12",
                Route::Admin(AdminRoute::Jobs(JobsRoute::PutChunk {
                    job: "3".into(),
                    chunk: "12".into(),
                })),
            ),
            (
                Method::DELETE,
                "/_miroir/jobs/3",
                Route::Admin(AdminRoute::Jobs(JobsRoute::Cancel { job: "3".into() })),
            ),
            (
                Method::POST,
                "/_miroir/jobs/imports",
                Route::Admin(AdminRoute::Jobs(JobsRoute::Create)),
            ),
            (Method::POST, "/_miroir/jobs", Route::WrongMethod),
            (Method::GET, "/keys", Route::Keys(KeyRoute::List)),
            (Method::POST, "/keys/", Route::Keys(KeyRoute::Create)),
            (Method::PUT, "/keys", Route::WrongMethod),
            (Method::PATCH, "/keys/a", Route::Keys(KeyRoute::Patch { key: "a".into() })),
            (Method::DELETE, "/keys/a", Route::Keys(KeyRoute::Delete { key: "a".into() })),
            (Method::POST, "/keys/a", Route::WrongMethod),
            (Method::GET, "/nonsense", Route::Unknown),
        ] {
            assert_eq!(route(&method, path), expected, "{method} {path}");
        }
        for path in ["/network", "/chats/x", "/tasks/compact", "/indexes/a/fields"] {
            assert!(matches!(route(&Method::POST, path), Route::NotSupported(..)), "{path}");
        }
    }
}
