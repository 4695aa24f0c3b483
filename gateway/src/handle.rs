//! One request from its bytes to its answer's bytes, without sockets.
//!
//! In this order: route, admission (too many at once are refused), right, body, handler. The
//! admission comes first so that a flood costs little; health and the admin API are always
//! admitted.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::Full;
use hyper::body::Body;
use miroir_seams::planted::{self, Bug};
use miroir_storage::routing::Routing;
use miroir_wire::content::check_json_content_type;
use miroir_wire::documents_query::{BrowseQuery, GetDocument};
use miroir_wire::error::{ApiError, Code};
use miroir_wire::index::{Health, Version, check_index_uid};
use miroir_wire::search::{FacetSearchQuery, SearchQuery, SimilarQuery};

use crate::admin::{self, AdminRoute};
use crate::auth::{Door, check_right};
use crate::compress::compress;
use crate::context::{GatewayContext, RequestParts, StalePolicy};
use crate::cors;
use crate::documents_read::{get_document, list_documents};
use crate::facet_search::facet_search;
use crate::failure::Failure;
use crate::intake::{Wording, read_body};
use crate::jobs::JobsRoute;
use crate::jobs_stream;
use crate::keys;
use crate::marks;
use crate::multi_search::multi_search;
use crate::reply::{DEGRADED, Reply};
use crate::router::{LogRoute, Route, route};
use crate::search::search_index;
use crate::similar::similar;
use crate::stats::{all_stats, index_stats};
use crate::surface;
use crate::traffic::template;
use miroir_wire::access::Grant;
use miroir_wire::access::Refusal;

/// Handles one request.
pub async fn handle<B>(context: &Arc<GatewayContext>, request: Request<B>) -> Response<Full<Bytes>>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (head, body) = request.into_parts();
    if let Some(preflight) = cors::preflight(&head.method, &head.headers) {
        return preflight.into_http();
    }
    let cross_origin = cors::is_cross_origin(&head.headers);
    let route = route(&head.method, head.uri.path());
    let (path, began) = (template(&route), context.seams.clock.instant());
    let reply = match admit(context, &route) {
        Ok(_admitted) => serve(context, route, &head, body).await.unwrap_or_else(Reply::from),
        Err(error) => Reply::from(Failure::from(error)),
    };
    if reply.headers.iter().any(|(name, _)| *name == DEGRADED) {
        context.traffic.note_degraded();
    }
    let reply = compress(&head.headers, reply, &context.seams.tasks).await;
    let mut response = reply.into_http();
    let status = response.status().as_u16();
    context.traffic.note_answered(&head.method, path, status, began.elapsed());
    if cross_origin {
        cors::allow(response.headers_mut());
    }
    response
}

async fn serve<B>(
    context: &GatewayContext,
    route: Route,
    head: &http::request::Parts,
    body: B,
) -> Result<Reply, Failure>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let grant = authorise(context, &route, &head.headers).await?;
    let is_body_json = route.takes_json() || (route.is_search() && head.method == Method::POST);
    let content_type = head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    if is_body_json {
        check_json_content_type(content_type)?;
    }
    if let Route::Admin(AdminRoute::Jobs(JobsRoute::Create)) = &route
        && jobs_stream::is_asked(head.uri.query().unwrap_or_default())
    {
        return Ok(jobs_stream::import(context, head, body).await?);
    }
    let wording = match route {
        Route::Admin(AdminRoute::Jobs(JobsRoute::PutChunk { .. }))
        | Route::Log(LogRoute::AddDocuments { .. }) => Wording::Documents,
        _ => Wording::Json,
    };
    let body = read_body(context, &head.headers, body, wording).await?;
    let request = RequestParts {
        query: head.uri.query().unwrap_or_default().to_owned(),
        content_type: content_type.map(str::to_owned),
        marks: marks::read(head, &body)?,
        body,
        grant,
    };
    let is_settled = match (marks::session(head)?, route.reads()) {
        (Some(session), Some(index)) => context.log.settle_session(&session, index).await,
        _ => true,
    };
    // As old as this may the names and in-sync sets be that the answer is made from.
    let mut age = context.routing.unconfirmed_for();
    let mut answer = dispatch(context, &route, &head.method, &request).await;
    // What another pod told the client a moment ago may not have come here yet.
    if answer.as_ref().is_err_and(Failure::says_not_found) && context.log.catch_up().await {
        age = context.routing.unconfirmed_for();
        answer = dispatch(context, &route, &head.method, &request).await;
    }
    // What is not found may be what has not come here yet: that is said of refusals too.
    let mut reply = answer.unwrap_or_else(Reply::from);
    if !is_settled {
        reply.headers.push((marks::SESSION, "behind".to_owned()));
    }
    // Looked at again after the nodes have answered: what they said is at most this much older.
    if route.reads().is_some() {
        mark_stale(context, age.max(context.routing.unconfirmed_for()), &mut reply)?;
    }
    Ok(reply)
}

/// Checks the request's key; one that is not known here is looked for once more after the news.
async fn authorise(
    context: &GatewayContext,
    route: &Route,
    headers: &HeaderMap,
) -> Result<Grant, ApiError> {
    let check = || {
        let routing = context.routing.routing();
        let door = Door {
            config: &context.config,
            keys: &routing.api_keys,
            rings: &context.rings,
            now: context.seams.clock.now(),
        };
        check_right(&door, headers, route.right())
    };
    let checked = match check() {
        Err(Refusal { unknown_key: true, .. })
            if context.key_news.fetch(context.log.as_ref(), &context.seams.clock).await =>
        {
            check()
        }
        checked => checked,
    };
    checked.map_err(|refusal| refusal.error)
}

async fn dispatch(
    context: &GatewayContext,
    route: &Route,
    method: &Method,
    request: &RequestParts,
) -> Result<Reply, Failure> {
    // One view per request: names and placement don't change under it.
    let routing: Arc<Routing> = context.routing.routing();
    let RequestParts { query, body, grant, .. } = request;
    match route {
        Route::Running => {
            Ok(Reply::json(200, &serde_json::json!({"status": "Meilisearch is running"})))
        }
        Route::Health => Ok(Reply::json(200, &Health::default())),
        Route::Version => Ok(Reply::json(200, &version(context))),
        Route::OpenApi => Ok(openapi()),
        Route::Ready => Ok(ready(&routing, context.routing.has_left())),
        Route::Search { index } => {
            let mut search = if method == Method::POST {
                SearchQuery::from_json(body)?
            } else {
                SearchQuery::from_query_string(query)?
            };
            check_index_uid(index)?;
            grant.demand_rules(index, &mut search.filter);
            Ok(search_index(context, &routing, index, &search, false).await?.into())
        }
        Route::FacetSearch { index } => {
            let mut search = FacetSearchQuery::from_json(body)?;
            check_index_uid(index)?;
            grant.demand_rules(index, &mut search.filter);
            Ok(facet_search(context, &routing, index, &search).await?.into())
        }
        Route::Similar { index } => {
            let mut search = if method == Method::POST {
                SimilarQuery::from_json(body)?
            } else {
                SimilarQuery::from_query_string(query)?
            };
            check_index_uid(index)?;
            grant.demand_rules(index, &mut search.filter);
            Ok(similar(context, &routing, index, &search).await?.into())
        }
        Route::MultiSearch => Ok(multi_search(context, &routing, body, grant).await?.into()),
        Route::ListDocuments { index } => {
            let browse = BrowseQuery::from_query_string(query)?;
            check_index_uid(index)?;
            Ok(list_documents(context, &routing, index, browse).await?.into())
        }
        Route::FetchDocuments { index } => {
            let browse = BrowseQuery::from_json(body)?;
            check_index_uid(index)?;
            Ok(list_documents(context, &routing, index, browse).await?.into())
        }
        Route::GetDocument { index, id } => {
            let fields = GetDocument::from_query_string(query)?;
            check_index_uid(index)?;
            Ok(get_document(context, &routing, index, id, &fields).await?.into())
        }
        Route::IndexStats { index } => {
            check_index_uid(index)?;
            Ok(index_stats(context, &routing, index).await?.into())
        }
        Route::Stats => Ok(all_stats(context, &routing, grant).await?.into()),
        Route::Keys(route) => Ok(keys::answer(context, route, request).await?),
        Route::Log(route) => Ok(context.log.answer(route.clone(), request).await?),
        Route::Admin(route) => admin::answer(context.admin.as_ref(), route.clone(), request).await,
        Route::NotSupported(instead, _) => Err(not_supported(instead)),
        Route::WrongMethod => Ok(Reply::empty(405)),
        Route::Unknown => Ok(Reply::empty(404)),
    }
}

/// Says so when nobody has confirmed this pod's state for too long, or refuses the answer.
fn mark_stale(context: &GatewayContext, age: Duration, reply: &mut Reply) -> Result<(), ApiError> {
    if age <= context.config.max_staleness || planted::has(Bug::StaleUnsaid) {
        return Ok(());
    }
    if context.config.stale_policy == StalePolicy::Refuse {
        return Err(ApiError::new(
            Code::MiroirNoQuorum,
            "This pod has lost touch with the cluster: what it knows may be too old. Ask another pod, or try again later.",
        ));
    }
    let stale = match age {
        Duration::MAX => "stale".to_owned(),
        age => format!("stale={}", age.as_secs()),
    };
    match reply.headers.iter_mut().find(|(name, _)| *name == DEGRADED) {
        Some((_, said)) => *said = format!("{said}; {stale}"),
        None => reply.headers.push((DEGRADED, stale)),
    }
    Ok(())
}

fn not_supported(instead: &str) -> Failure {
    let message = format!("Miroir does not support this route. {instead}");
    ApiError::new(Code::MiroirNotSupported, message).into()
}

fn openapi() -> Reply {
    Reply { status: 200, body: surface::document().to_vec(), headers: Vec::new() }
}

fn version(context: &GatewayContext) -> Version {
    let mut version = Version::default();
    if let Some(oldest) = context.health.oldest_version.load().as_ref() {
        version.pkg_version = oldest.clone();
    }
    version
}

/// Ready once the cluster's state is there, until the pod has left the cluster.
fn ready(routing: &Routing, has_left: bool) -> Reply {
    let (code, status) = match (routing.cluster_id.is_empty(), has_left) {
        (true, _) => (503, "starting"),
        (false, true) => (503, "left"),
        (false, false) => (200, "ready"),
    };
    Reply::json(code, &serde_json::json!({ "status": status }))
}

/// One request among those being served, until dropped.
struct Admitted<'a> {
    in_flight: Option<&'a AtomicUsize>,
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        if let Some(in_flight) = self.in_flight {
            in_flight.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn admit<'a>(context: &'a GatewayContext, route: &Route) -> Result<Admitted<'a>, ApiError> {
    if route.is_always_admitted() {
        return Ok(Admitted { in_flight: None });
    }
    let limit = context.config.concurrent_requests_max;
    let in_flight = &context.traffic.in_flight;
    let before = in_flight.fetch_add(1, Ordering::Relaxed);
    let admitted = Admitted { in_flight: Some(in_flight) };
    if before < limit {
        return Ok(admitted);
    }
    context.traffic.note_refused();
    Err(if route.is_search() {
        ApiError::new(
            Code::TooManySearchRequests,
            format!("Too many search requests running at the same time: {limit}. Retry after 10s."),
        )
    } else {
        ApiError::new(
            Code::MiroirOverloaded,
            format!("Too many requests running at the same time: {limit}. Retry after 10s."),
        )
    })
}

#[cfg(test)]
mod tests;
