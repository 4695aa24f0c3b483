//! `/indexes/{uid}/search`, `…/facet-search`, `…/similar` and `/multi-search`.
//!
//! | method, path | answers |
//! |---|---|
//! | `GET`, `POST …/search` | 200; 400; 404 `index_not_found`; 503 `too_many_search_requests` |
//! | `POST …/facet-search` | as above |
//! | `GET`, `POST …/similar` | as above |
//! | `POST /multi-search` | 200; 400, also for an index that is not found; 503 |

use std::sync::Arc;

use http::StatusCode;
use miroir_wire::error::{ApiError, Code};
use miroir_wire::index::check_index_uid;
use miroir_wire::search::{FacetSearchQuery, MultiSearchQuery, SearchQuery, SimilarQuery};

use super::answer::{self, Answer, Refusal};
use super::{Call, Node};
use crate::search;

/// `GET …/search`
pub(super) async fn by_url(node: &Arc<Node>, call: &Call, uid: String) -> Result<Answer, Refusal> {
    let mut query = SearchQuery::from_query_string(call.query())?;
    call.grant.demand_rules(&uid, &mut query.filter);
    run(node, uid, query).await
}

/// `POST …/search`
pub(super) async fn by_body(
    node: &Arc<Node>,
    call: &mut Call,
    uid: String,
) -> Result<Answer, Refusal> {
    let mut query = SearchQuery::from_json(&call.json().await?)?;
    call.grant.demand_rules(&uid, &mut query.filter);
    run(node, uid, query).await
}

async fn run(node: &Arc<Node>, uid: String, query: SearchQuery) -> Result<Answer, Refusal> {
    check_index_uid(&uid)?;
    let permit = node.permits.take().await?;
    let answer = node
        .blocking(move |node| {
            // Given back when the search ends, also when the client is gone by then.
            let _permit = permit;
            search::search(&node.engine, &uid, &query, false, &node.seams.clock)
        })
        .await?;
    Ok(answer::raw_json(StatusCode::OK, answer))
}

/// `POST …/facet-search`
pub(super) async fn facet(
    node: &Arc<Node>,
    call: &mut Call,
    uid: String,
) -> Result<Answer, Refusal> {
    let mut query = FacetSearchQuery::from_json(&call.json().await?)?;
    check_index_uid(&uid)?;
    call.grant.demand_rules(&uid, &mut query.filter);
    let permit = node.permits.take().await?;
    let answer = node
        .blocking(move |node| {
            let _permit = permit;
            search::facet_search(&node.engine, &uid, &query, &node.seams.clock)
        })
        .await?;
    Ok(answer::raw_json(StatusCode::OK, answer))
}

/// `GET …/similar`
pub(super) async fn similar_by_url(
    node: &Arc<Node>,
    call: &Call,
    uid: String,
) -> Result<Answer, Refusal> {
    let mut query = SimilarQuery::from_query_string(call.query())?;
    call.grant.demand_rules(&uid, &mut query.filter);
    similar(node, uid, query).await
}

/// `POST …/similar`
pub(super) async fn similar_by_body(
    node: &Arc<Node>,
    call: &mut Call,
    uid: String,
) -> Result<Answer, Refusal> {
    let mut query = SimilarQuery::from_json(&call.json().await?)?;
    call.grant.demand_rules(&uid, &mut query.filter);
    similar(node, uid, query).await
}

async fn similar(node: &Arc<Node>, uid: String, query: SimilarQuery) -> Result<Answer, Refusal> {
    check_index_uid(&uid)?;
    let permit = node.permits.take().await?;
    let answer = node
        .blocking(move |node| {
            let _permit = permit;
            search::similar(&node.engine, &uid, &query, &node.seams.clock)
        })
        .await?;
    Ok(answer::raw_json(StatusCode::OK, answer))
}

/// `POST /multi-search`
pub(super) async fn multi(node: &Arc<Node>, call: &mut Call) -> Result<Answer, Refusal> {
    let mut request = MultiSearchQuery::from_json(&call.json().await?)?;
    for (position, (index, query)) in request.queries.iter_mut().enumerate() {
        call.grant.check_index(index).map_err(|error| inside(error.into(), position))?;
        call.grant.demand_rules(index, &mut query.filter);
    }
    for index in request.federation.iter().flat_map(|all| all.facets_by_index.keys()) {
        call.grant.check_index(index)?;
    }
    // One permit for all of them, so that a request is not refused halfway.
    let permit = node.permits.take().await?;
    let outcome = node
        .blocking(move |node| {
            let _permit = permit;
            Ok(match &request.federation {
                None => search_all(node, &request),
                Some(federation) => {
                    search::federated_search(&node.engine, &request, federation, &node.seams.clock)
                        .map_err(not_of_the_path)
                }
            })
        })
        .await?;
    outcome.map(|answer| answer::raw_json(StatusCode::OK, answer))
}

fn search_all(node: &Node, request: &MultiSearchQuery) -> Result<Vec<u8>, Refusal> {
    let mut out = b"{\"results\":[".to_vec();
    for position in 0..request.queries.len() {
        let answer =
            search_one(node, position, request).map_err(|refusal| inside(refusal, position))?;
        if position > 0 {
            out.push(b',');
        }
        out.extend_from_slice(&answer);
    }
    out.extend_from_slice(b"]}");
    Ok(out)
}

fn search_one(
    node: &Node,
    position: usize,
    request: &MultiSearchQuery,
) -> Result<Vec<u8>, Refusal> {
    if request.federation_options.get(position).is_some_and(Option::is_some) {
        return Err(ApiError::new(
            Code::InvalidMultiSearchFederationOptions,
            format!(
                "Using `federationOptions` is not allowed in a non-federated search.\n - Hint: remove `federationOptions` from query #{position} or add `federation` to the request."
            ),
        )
        .into());
    }
    let Some((uid, query)) = request.queries.get(position) else { return Ok(Vec::new()) };
    search::search(&node.engine, uid, query, true, &node.seams.clock).map_err(not_of_the_path)
}

/// An index that is not found is not part of the path here.
fn not_of_the_path(error: ApiError) -> Refusal {
    let mut refusal = Refusal::from(error);
    if refusal.error.code == Code::IndexNotFound {
        refusal.status = 400;
    }
    refusal
}

/// Says which query of a request was refused.
fn inside(mut refusal: Refusal, position: usize) -> Refusal {
    let message = format!("Inside `.queries[{position}]`: {}", refusal.error.message);
    refusal.error.message = message;
    refusal
}
