//! The walk of a search: resolve, plan, scatter, perhaps count facets again, merge.
//!
//! With part of the cluster away: other replicas are asked (see [`crate::scatter`]); what is still
//! missing is named in `X-Miroir-Degraded`, or refuses the search by policy.

use std::sync::Arc;

use miroir_storage::ids::{IndexUid, ShardId};
use miroir_storage::routing::{IndexRouting, Routing};
use miroir_wire::engine_version::EngineVersion;
use miroir_wire::error::{ApiError, Code};
use miroir_wire::search::{MatchingStrategy, SearchQuery};
use tokio::time::Instant;

use crate::context::GatewayContext;
use crate::failure::Failure;
use crate::hybrid_search::{HybridSearch, semantic_ratio};
use crate::late::ask_alone;
use crate::merge::answer::NodeAnswer;
use crate::merge::count_order::Recounted;
use crate::merge::{MergeError, MergePlan, Merged, merge_answers};
use crate::node_lists::{ask_for_more, ask_for_tops, request_for};
use crate::node_query::{Lists, prepare};
use crate::plan::query_hash;
use crate::scatter::{ReadKey, ReadScope, plan_now};
use crate::second_round::count_again;

/// The answer to a read, and what is to be said about it in headers.
#[derive(Clone, Debug, Default)]
pub struct ReadAnswer {
    /// JSON.
    pub body: Vec<u8>,
    /// Shards that are not in it.
    pub missing: Vec<ShardId>,
    /// Facets that may not be exact, see [`crate::merge::count_order`].
    pub inexact_facets: Vec<String>,
    /// Why hits, their order or their number may not be what one node would answer.
    pub inexact_hits: Vec<InexactHits>,
    /// The settings version it was made with; none when several indexes were read.
    pub settings_version: Option<u64>,
    /// A settings change was in flight.
    pub settings_pending: bool,
}

/// A reason why hits may differ from what one node would answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum InexactHits {
    /// Neighbours were looked for in an approximate index, one on each node.
    Vectors,
    /// Words were left out by how often a node's own documents have them.
    Frequency,
    /// A rule would have to be applied to all documents together, and nodes don't let it.
    Rules,
    /// The page lies beyond what nodes give.
    Window,
}

impl InexactHits {
    /// As the header says it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Vectors => "vectors",
            Self::Frequency => "frequency",
            Self::Rules => "rules",
            Self::Window => "window",
        }
    }
}

impl ReadAnswer {
    /// Takes over what is to be said of a part of the answer, all but its body and its settings.
    pub(crate) fn add_marks(&mut self, part: &Self) {
        self.missing.extend(&part.missing);
        self.missing.sort_unstable();
        self.missing.dedup();
        self.inexact_facets.extend(part.inexact_facets.iter().cloned());
        self.inexact_facets.sort_unstable();
        self.inexact_facets.dedup();
        self.inexact_hits.extend(&part.inexact_hits);
        self.inexact_hits.sort_unstable();
        self.inexact_hits.dedup();
        self.settings_pending |= part.settings_pending;
    }
}

/// The index that readers see under `name`.
///
/// # Errors
/// `index_not_found`.
pub fn resolve<'a>(routing: &'a Routing, name: &str) -> Result<&'a Arc<IndexRouting>, Failure> {
    routing.indexes.get(name).ok_or_else(|| ApiError::index_not_found(name).into())
}

/// Searches one index. `echo_name` puts the index's name into the answer, as in a multi-search.
///
/// # Errors
/// `index_not_found`, what nodes say of the query, `miroir_shard_unavailable`.
pub async fn search_index(
    context: &GatewayContext,
    routing: &Routing,
    name: &str,
    query: &SearchQuery,
    echo_name: bool,
) -> Result<ReadAnswer, Failure> {
    let started = context.seams.clock.instant();
    let index = resolve(routing, name)?;
    let settings = context.settings.get(index);
    let scope = ReadScope { routing, index, settings: &settings };
    let mut key = ReadKey::new(hash_of(&index.uid, query));
    let mut plan = plan_now(context, scope, &key);
    let index_uid = echo_name.then(|| name.to_owned());
    if let ([call], true) = (plan.calls.as_slice(), plan.missing.is_empty()) {
        let mut prepared = prepare(query, &settings, Lists::One)?;
        prepared.merge.index_uid = index_uid.clone();
        if !caps_totals(context) {
            prepared.merge.tell_beyond_the_limit(query.offset);
        }
        let request = request_for(&prepared, call, prepared.window);
        let answer = ask_alone(context, scope, &mut key, call, request, NodeAnswer::parse).await?;
        if let Some(answer) = answer {
            let answers = std::slice::from_ref(&answer);
            let merged =
                finish(answers, &[], &prepared.merge, started, context).map_err(unreadable)?;
            return Ok(answer_of(index, merged, Vec::new()));
        }
        plan = plan_now(context, scope, &key);
    }
    if let Some(ratio) = semantic_ratio(query) {
        let hybrid = HybridSearch { context, scope, key, query, ratio, started };
        let (mut prepared, parts) = hybrid.ask(plan).await?;
        prepared.merge.index_uid = index_uid;
        if !caps_totals(context) {
            prepared.merge.tell_beyond_the_limit(query.offset);
        }
        return hybrid.finish(&prepared, parts);
    }
    let mut prepared = prepare(query, &settings, Lists::Many)?;
    prepared.merge.index_uid = index_uid;
    if !caps_totals(context) {
        prepared.merge.tell_beyond_the_limit(query.offset);
    }
    let mut lists = ask_for_tops(context, scope, &key, plan, &prepared).await?;
    let merged = loop {
        let recounted = count_again(context, scope, &prepared, &lists.calls, &lists.answers).await;
        match finish(&lists.answers, &recounted, &prepared.merge, started, context) {
            Ok(merged) => break merged,
            Err(MergeError::RanOut(place)) => {
                lists = ask_for_more(context, scope, &key, lists, place, &prepared).await?;
            }
            Err(error) => return Err(unreadable(error)),
        }
    };
    let is_inexact = goes_by_vectors(query) && lists.any_is_full(prepared.window.hits);
    let mut answer = answer_of(index, merged, lists.missing);
    answer.inexact_hits.extend(is_inexact.then_some(InexactHits::Vectors));
    answer.inexact_hits.extend(drops_by_frequency(query).then_some(InexactHits::Frequency));
    Ok(answer)
}

/// Whether each node may leave out other words than another.
pub(crate) fn drops_by_frequency(query: &SearchQuery) -> bool {
    let words = query.q.as_deref().unwrap_or_default().split_whitespace();
    query.matching_strategy == MatchingStrategy::Frequency && words.count() > 1
}

/// Whether vectors find the hits, alone.
fn goes_by_vectors(query: &SearchQuery) -> bool {
    let has_words = query.q.as_deref().is_some_and(|q| !q.trim().is_empty());
    let share = query.hybrid.as_ref().map_or(0.0, |hybrid| hybrid.semantic_ratio.get());
    share > 0.0 && (has_words || query.vector.is_some())
}

/// As the oldest node does.
pub(crate) fn caps_totals(context: &GatewayContext) -> bool {
    let oldest = context.health.oldest_version.load();
    oldest.as_ref().as_deref().is_none_or(|oldest| EngineVersion::parse(oldest).caps_totals())
}

pub(crate) fn answer_of(index: &IndexRouting, merged: Merged, missing: Vec<ShardId>) -> ReadAnswer {
    ReadAnswer {
        body: merged.body,
        missing,
        inexact_facets: merged.inexact_facets,
        inexact_hits: Vec::new(),
        settings_version: Some(index.settings_version),
        settings_pending: index.settings_pending,
    }
}

/// Merges what came.
///
/// # Errors
/// See [`MergeError`].
fn finish(
    answers: &[NodeAnswer],
    recounted: &[Vec<Recounted>],
    plan: &MergePlan,
    started: Instant,
    context: &GatewayContext,
) -> Result<Merged, MergeError> {
    let elapsed = context.seams.clock.instant().saturating_duration_since(started);
    merge_answers(answers, recounted, plan, elapsed.as_millis())
}

/// The outer form was checked when the answer came; facets are read only in the merge.
pub(crate) fn unreadable(error: impl std::error::Error) -> Failure {
    tracing::warn!(%error, "a node's answer can't be read");
    ApiError::new(Code::Internal, "A node's answer could not be read.").into()
}

/// The hash of what finds and orders the hits of a query. Its window and what is shown of hits are
/// no part of it: pages are cut from one list, and the list stays when a score is asked for, say.
pub(crate) fn hash_of(uid: &IndexUid, query: &SearchQuery) -> u64 {
    let ordering = SearchQuery {
        q: query.q.clone(),
        vector: query.vector.clone(),
        hybrid: query.hybrid.clone(),
        filter: query.filter.clone(),
        sort: query.sort.clone(),
        matching_strategy: query.matching_strategy,
        attributes_to_search_on: query.attributes_to_search_on.clone(),
        locales: query.locales.clone(),
        ..SearchQuery::default()
    };
    let mut words = uid.as_str().as_bytes().to_vec();
    // Writing into memory can't fail.
    let _ = serde_json::to_writer(&mut words, &ordering);
    query_hash(&words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn window_and_shape_do_not_choose_the_replicas() {
        let hash = |body: &str| {
            let query = SearchQuery::from_json(body.as_bytes()).unwrap_or_default();
            hash_of(&IndexUid::from("0-a"), &query)
        };
        let plain = hash(r#"{"q":"x","filter":"a = 1"}"#);
        for shape in [
            r#"{"q":"x","filter":"a = 1","page":3,"showRankingScore":true}"#,
            r#"{"q":"x","filter":"a = 1","offset":40,"attributesToHighlight":["*"],"facets":["a"]}"#,
        ] {
            assert_eq!(hash(shape), plain, "{shape}");
        }
        assert_ne!(hash(r#"{"q":"x"}"#), plain);
        assert_ne!(hash(r#"{"q":"x","filter":"a = 1","sort":["a:asc"]}"#), plain);
    }
}
