//! `POST /multi-search`: several searches, their answers side by side, or federated into one
//! (see [`crate::federated`]).

use bytes::Bytes;
use futures::future::join_all;
use miroir_storage::routing::Routing;
use miroir_wire::error::{ApiError, Code};
use miroir_wire::search::MultiSearchQuery;

use crate::context::GatewayContext;
use crate::failure::Failure;
use crate::federated::federated_search;
use crate::search::{ReadAnswer, search_index};
use miroir_wire::access::Grant;

/// Sub-queries of one multi-search.
const QUERIES_MAX: usize = 100;

/// Runs the queries of a multi-search side by side; results come in their order.
///
/// # Errors
/// The first query's that failed or may not be asked, said to be inside of it; `invalid_multi_search_*`.
pub async fn multi_search(
    context: &GatewayContext,
    routing: &Routing,
    body: &Bytes,
    grant: &Grant,
) -> Result<ReadAnswer, Failure> {
    let mut request = MultiSearchQuery::from_json(body)?;
    for (place, (index, query)) in request.queries.iter_mut().enumerate() {
        grant.check_index(index).map_err(|error| {
            Failure::from(error).inside(&format!("Inside `.queries[{place}]`: "))
        })?;
        grant.demand_rules(index, &mut query.filter);
    }
    for index in request.federation.iter().flat_map(|all| all.facets_by_index.keys()) {
        grant.check_index(index)?;
    }
    request.check_federation()?;
    if request.queries.len() > QUERIES_MAX {
        return Err(ApiError::new(
            Code::BadRequest,
            format!("A multi-search may have at most {QUERIES_MAX} queries."),
        )
        .into());
    }
    if let Some(federation) = &request.federation {
        return federated_search(context, routing, &request, federation).await;
    }
    let searches = request
        .queries
        .iter()
        .map(|(index, query)| search_index(context, routing, index, query, true));
    let mut merged = ReadAnswer { body: b"{\"results\":[".to_vec(), ..Default::default() };
    for (place, result) in join_all(searches).await.into_iter().enumerate() {
        let answer = result.map_err(|failure| {
            failure.not_of_the_url().inside(&format!("Inside `.queries[{place}]`: "))
        })?;
        if place > 0 {
            merged.body.push(b',');
        }
        merged.body.extend_from_slice(&answer.body);
        merged.add_marks(&answer);
    }
    merged.body.extend_from_slice(b"]}");
    Ok(merged)
}
