//! The node's HTTP side: Meilisearch's routes over the [engine](crate::engine).
//!
//! | file | routes |
//! |---|---|
//! | [`routes`] | which path means what |
//! | [`system`] | `/`, `/health`, `/version`, `/stats` |
//! | [`search`] | `/indexes/{uid}/search`, `…/facet-search`, `…/similar`, `/multi-search` |
//! | [`documents`] | `/indexes/{uid}/documents…` |
//! | [`indexes`] | `/indexes…`, `/swap-indexes` |
//! | [`settings`] | `/indexes/{uid}/settings…` |
//! | [`tasks`] | `/tasks…`, `/batches…` |
//! | [`keys`] | `/keys…` |
//!
//! A request is answered in this order, as in Meilisearch: route, key, query string or body,
//! index uid, index. Whatever touches the disk runs on the blocking pool.

mod answer;
mod auth;
mod body;
mod cors;
mod decode;
mod documents;
mod indexes;
mod keys;
mod routes;
mod search;
mod server;
mod settings;
mod system;
mod tasks;

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use hyper::body::{Body, Incoming};
use miroir_seams::{Seams, Tasks};
use miroir_wire::access::Grant;
use miroir_wire::content::check_json_content_type;
use miroir_wire::error::{ApiError, Code};

use crate::engine::{Engine, NewTask};
use crate::keys::NodeKeys;
use crate::search::SearchPermits;
use answer::{Answer, Refusal};
use routes::{IndexRoute, NoRoute, Route};

pub(crate) use server::Server;

/// Parameter of writes; see [`Call::custom_metadata`].
const CUSTOM_METADATA: &str = "customMetadata";

/// What every request can reach.
pub(crate) struct Node {
    /// Indexes and tasks.
    pub(crate) engine: Engine,
    /// Which searches run and wait.
    pub(crate) permits: SearchPermits,
    /// The master key and the API keys; `None` leaves every route open.
    pub(crate) keys: Option<NodeKeys>,
    /// Clock and tasks.
    pub(crate) seams: Seams,
}

impl Node {
    /// Runs `work` on the blocking pool.
    async fn blocking<T, F>(self: &Arc<Self>, work: F) -> Result<T, Refusal>
    where
        T: Send + 'static,
        F: FnOnce(&Self) -> Result<T, ApiError> + Send + 'static,
    {
        let node = Arc::clone(self);
        match self.seams.tasks.spawn_blocking(move || work(&node)).await {
            Ok(outcome) => outcome.map_err(Refusal::from),
            Err(error) => {
                tracing::error!(%error, "request ended without an answer");
                Err(ApiError::new(Code::Internal, error.to_string()).into())
            }
        }
    }

    /// Enqueues the task of `call` and answers with its summary.
    async fn enqueue(self: &Arc<Self>, call: &Call, task: NewTask) -> Result<Answer, Refusal> {
        let metadata = call.custom_metadata();
        let task = self.blocking(move |node| node.engine.enqueue(task, metadata)).await?;
        answer::accepted(&answer::summary(task))
    }
}

/// A request whose body is read on demand.
struct Call {
    parts: Parts,
    body: Incoming,
    /// Where bodies are decoded.
    tasks: Tasks,
    /// What it may do.
    grant: Grant,
}

impl Call {
    /// The query string, percent-encoded.
    fn query(&self) -> &str {
        self.parts.uri.query().unwrap_or_default()
    }

    /// The body, whatever it holds.
    async fn bytes(&mut self) -> Result<Bytes, ApiError> {
        body::read(&self.parts.headers, &mut self.body, &self.tasks).await
    }

    /// The body, announced as JSON.
    async fn json(&mut self) -> Result<Bytes, ApiError> {
        check_json_content_type(self.content_type())?;
        self.bytes().await
    }

    /// The `Content-Type` header, where it is text.
    fn content_type(&self) -> Option<&str> {
        let header = self.parts.headers.get(CONTENT_TYPE)?;
        Some(header.to_str().unwrap_or("unknown"))
    }

    /// The `customMetadata` parameter of a write: a name that its task shows back.
    ///
    /// Meilisearch 1.15 doesn't know it yet; later releases do, and a pod names its writes
    /// with it.
    fn custom_metadata(&self) -> Option<String> {
        form_urlencoded::parse(self.query().as_bytes())
            .find(|(name, _)| name == CUSTOM_METADATA)
            .map(|(_, value)| value.into_owned())
    }

    /// The query string without `customMetadata`.
    fn query_without_metadata(&self) -> String {
        let others = form_urlencoded::parse(self.query().as_bytes())
            .filter(|(name, _)| name != CUSTOM_METADATA);
        form_urlencoded::Serializer::new(String::new()).extend_pairs(others).finish()
    }
}

/// Answers one request.
async fn serve(node: &Arc<Node>, parts: Parts, body: Incoming) -> Answer {
    if let Some(preflight) = cors::preflight(&parts) {
        return preflight;
    }
    let from_browser = cors::is_cross_origin(&parts);
    let (tasks, grant) = (node.seams.tasks.clone(), Grant::everything());
    let mut call = Call { parts, body, tasks, grant };
    let mut answer = match dispatch(node, &mut call).await {
        Ok(answer) => answer,
        Err(refusal) => refusal.into(),
    };
    if !call.body.is_end_stream() {
        body::drain(&mut call.body).await;
    }
    if from_browser {
        cors::open(&mut answer);
    }
    answer
}

async fn dispatch(node: &Arc<Node>, call: &mut Call) -> Result<Answer, Refusal> {
    let route = match routes::resolve(&call.parts.method, call.parts.uri.path()) {
        Ok(route) => route,
        Err(NoRoute::UnknownPath) => return Ok(answer::empty(StatusCode::NOT_FOUND)),
        Err(NoRoute::WrongMethod) => return Ok(answer::empty(StatusCode::METHOD_NOT_ALLOWED)),
    };
    match route {
        Route::Running => return system::running(),
        Route::Health => return system::health(),
        _ => {
            let now = node.seams.clock.now();
            call.grant = auth::authorise(node.keys.as_ref(), &call.parts.headers, &route, now)?;
        }
    }
    match route {
        Route::Running | Route::Health => system::health(),
        Route::Version => system::version(),
        Route::GetFeatures => system::features(node),
        Route::SwitchFeatures => system::switch_features(node, call).await,
        Route::Stats => system::stats(node, call).await,
        Route::MultiSearch => search::multi(node, call).await,
        Route::SwapIndexes => indexes::swap(node, call).await,
        Route::Tasks(route) => tasks::serve(node, call, route).await,
        Route::Batches(route) => tasks::serve_batches(node, call, route).await,
        Route::Keys(route) => keys::serve(node, call, route).await,
        Route::ListIndexes => indexes::list(node, call).await,
        Route::CreateIndex => indexes::create(node, call).await,
        Route::Index(uid, route) => index(node, call, uid, route).await,
        Route::NotSupported(what, _) => Err(answer::not_supported(what)),
    }
}

async fn index(
    node: &Arc<Node>,
    call: &mut Call,
    uid: String,
    route: IndexRoute,
) -> Result<Answer, Refusal> {
    match route {
        IndexRoute::Get => indexes::get(node, uid).await,
        IndexRoute::Update => indexes::update(node, call, uid).await,
        IndexRoute::Delete => indexes::delete(node, call, uid).await,
        IndexRoute::Stats => indexes::stats(node, uid).await,
        IndexRoute::SearchByUrl => search::by_url(node, call, uid).await,
        IndexRoute::SearchByBody => search::by_body(node, call, uid).await,
        IndexRoute::FacetSearch => search::facet(node, call, uid).await,
        IndexRoute::SimilarByUrl => search::similar_by_url(node, call, uid).await,
        IndexRoute::SimilarByBody => search::similar_by_body(node, call, uid).await,
        IndexRoute::Documents(route) => documents::serve(node, call, uid, route).await,
        IndexRoute::GetSettings => settings::get_all(node, uid).await,
        IndexRoute::UpdateSettings => settings::update_all(node, call, uid).await,
        IndexRoute::ResetSettings => settings::reset_all(node, call, uid).await,
        IndexRoute::GetSetting(name) => settings::get_one(node, uid, name).await,
        IndexRoute::UpdateSetting(name) => settings::update_one(node, call, uid, name).await,
        IndexRoute::ResetSetting(name) => settings::reset_one(node, call, uid, name).await,
    }
}
