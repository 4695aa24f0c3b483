//! `POST /indexes/{uid}/facet-search`: the walk is a search's, the merge is
//! [`crate::merge::facet_values`]'s.
//!
//! Counts are whole: each node counts the documents of its shards. What is not independent of
//! sharding is which documents are counted under a `distinctAttribute` or a ranking score threshold,
//! since one node looks at the first hits only; the answer then names the facet in
//! `X-Miroir-Inexact`.

use miroir_actors::node_settings::node_facet_values_max;
use miroir_storage::routing::Routing;
use miroir_wire::error::Code;
use miroir_wire::search::FacetSearchQuery;
use serde_json::Value;

use crate::context::GatewayContext;
use crate::disguise::disguise;
use crate::failure::Failure;
use crate::late::ask_alone;
use crate::merge::facet_values::{NodeValues, ValueRules, merge_values};
use crate::merge::facets::write_string;
use crate::node_query::{client_filter, join_filters};
use crate::plan::{PlannedCall, query_hash};
use crate::read_settings::ReadSettings;
use crate::scatter::{NodeRequest, ReadKey, ReadScope, gather, plan_now};
use crate::search::{ReadAnswer, resolve, unreadable};

/// Searches the values of a facet.
///
/// # Errors
/// `index_not_found`, what nodes say of the query, `miroir_shard_unavailable`.
pub async fn facet_search(
    context: &GatewayContext,
    routing: &Routing,
    name: &str,
    query: &FacetSearchQuery,
) -> Result<ReadAnswer, Failure> {
    let started = context.seams.clock.instant();
    let index = resolve(routing, name)?;
    let settings = context.settings.get(index);
    let scope = ReadScope { routing, index, settings: &settings };
    let sent = SentQuery::of(query)?;
    let mut words = index.uid.as_str().as_bytes().to_vec();
    words.extend_from_slice(&sent.body(None));
    let mut key = ReadKey::new(query_hash(&words));
    let mut plan = plan_now(context, scope, &key);
    let request =
        |call: &PlannedCall| NodeRequest::post("/facet-search", sent.body(call.filter.as_deref()));
    let mut alone = None;
    if let ([call], true) = (plan.calls.as_slice(), plan.missing.is_empty()) {
        let request = request(call);
        alone = ask_alone(context, scope, &mut key, call, request, NodeValues::parse).await?;
        if alone.is_none() {
            plan = plan_now(context, scope, &key);
        }
    }
    let (answers, missing) = match alone {
        Some(answer) => (vec![answer], Vec::new()),
        None => {
            let gathered = gather(context, scope, key, plan, request, NodeValues::parse).await?;
            let answers: Vec<NodeValues> =
                gathered.parts.into_iter().map(|part| part.answer).collect();
            (answers, gathered.missing)
        }
    };
    let merged = merge_values(&answers, rules(query, &settings)).map_err(unreadable)?;
    let is_inexact =
        merged.is_inexact || (answers.len() > 1 && counts_what_was_looked_at(query, &settings));

    let mut body = b"{\"facetHits\":".to_vec();
    body.extend_from_slice(&merged.hits);
    body.extend_from_slice(b",\"facetQuery\":");
    match &query.facet_query {
        Some(text) => write_string(&mut body, text),
        None => body.extend_from_slice(b"null"),
    }
    let elapsed = context.seams.clock.instant().saturating_duration_since(started);
    body.extend_from_slice(b",\"processingTimeMs\":");
    body.extend_from_slice(elapsed.as_millis().to_string().as_bytes());
    body.push(b'}');
    Ok(ReadAnswer {
        body,
        missing,
        inexact_facets: is_inexact.then(|| query.facet_name.clone()).into_iter().collect(),
        settings_version: Some(index.settings_version),
        settings_pending: index.settings_pending,
        ..ReadAnswer::default()
    })
}

/// A query as nodes are to see it.
struct SentQuery {
    query: FacetSearchQuery,
    filter: Option<Value>,
}

impl SentQuery {
    fn of(query: &FacetSearchQuery) -> Result<Self, Failure> {
        let mut query = query.clone();
        let filter = client_filter(query.filter.take(), Code::InvalidSearchFilter)?;
        query.facet_name = disguise(&query.facet_name).into_owned();
        for name in query.attributes_to_search_on.iter_mut().flatten() {
            *name = disguise(name).into_owned();
        }
        Ok(Self { query, filter })
    }

    /// The body for a node whose shards are limited by `shards`.
    fn body(&self, shards: Option<&str>) -> Vec<u8> {
        let mut query = self.query.clone();
        query.filter = join_filters(self.filter.as_ref(), shards);
        // A plain struct: serialising it can't fail.
        serde_json::to_vec(&query).unwrap_or_default()
    }
}

fn rules(query: &FacetSearchQuery, settings: &ReadSettings) -> ValueRules {
    let node_max =
        node_facet_values_max(settings.facet_values_max as u64, settings.total_hits_max as u64);
    ValueRules {
        values_max: settings.facet_values_max,
        node_values_max: usize::try_from(node_max).unwrap_or(usize::MAX),
        by_count: settings.orders_by_count(&query.facet_name),
        finds_text: query.facet_query.is_some(),
    }
}

/// Whether one node counts the documents that are left of those it looked at, and so other ones
/// than shards do. With vectors it looks at none.
fn counts_what_was_looked_at(query: &FacetSearchQuery, settings: &ReadSettings) -> bool {
    let goes_by_vectors = query.hybrid.as_ref().is_some_and(|hybrid| {
        let has_words = query.q.as_deref().is_some_and(|q| !q.trim().is_empty());
        hybrid.semantic_ratio.get() > 0.0 && (has_words || query.vector.is_some())
    });
    !goes_by_vectors && (settings.distinct.is_some() || query.ranking_score_threshold.is_some())
}
