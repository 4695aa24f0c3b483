//! The part of a search that goes by words and by vectors over several nodes: both are asked for,
//! side by side, and meet in [`crate::merge::hybrid`].
//!
//! Asked for hits by both, a node would decide for itself whether words are good enough and merge
//! by itself. So it is asked by words alone, and by vectors with words of next to no weight: then
//! the list begins with what vectors find, while marks and counts are those of both. Where there
//! are no marks and the client gives the vector, vectors are asked for alone.

use miroir_wire::search::{HybridQuery, SearchQuery, SemanticRatio};
use tokio::time::Instant;

use crate::context::GatewayContext;
use crate::failure::Failure;
use crate::merge::answer::NodeAnswer;
use crate::merge::distinct::Distinct;
use crate::merge::facets::merge_facets;
use crate::merge::hits::{HitList, merge_hits};
use crate::merge::hybrid::{HybridPage, HybridRule};
use crate::merge::rank::{HitOrder, is_semantic};
use crate::merge::{Found, write_answer};
use crate::node_lists::{NodeLists, ask_for_tops};
use crate::node_query::{Lists, NodeQuery, prepare_with};
use crate::plan::Plan;
use crate::scatter::{ReadKey, ReadScope};
use crate::search::{InexactHits, ReadAnswer, answer_of, drops_by_frequency, unreadable};

/// The share of vectors of a search that goes by both, as nodes judge it.
pub(crate) fn semantic_ratio(query: &SearchQuery) -> Option<f32> {
    let ratio = query.hybrid.as_ref()?.semantic_ratio.get();
    let q = query.q.as_deref()?;
    let finds_something = query.vector.is_some() || !q.trim().is_empty();
    (finds_something && ratio > 0.0 && ratio < 1.0).then_some(ratio)
}

/// A search by words and vectors under way.
pub(crate) struct HybridSearch<'a> {
    pub(crate) context: &'a GatewayContext,
    pub(crate) scope: ReadScope<'a>,
    pub(crate) key: ReadKey,
    /// The client's.
    pub(crate) query: &'a SearchQuery,
    /// See [`semantic_ratio`].
    pub(crate) ratio: f32,
    pub(crate) started: Instant,
}

/// What came by words and by vectors.
pub(crate) struct HybridLists {
    words: NodeLists,
    vectors: NodeLists,
}

impl HybridSearch<'_> {
    /// Asks the nodes of `plan`. The prepared query says how the answer is written.
    ///
    /// # Errors
    /// What nodes say of the query, `miroir_shard_unavailable`.
    pub(crate) async fn ask(&self, plan: Plan) -> Result<(NodeQuery, HybridLists), Failure> {
        let words = self.prepare(by_words(self.query))?;
        let vectors = self.prepare(by_vectors(self.query, self.scope))?;
        let (words_lists, vector_lists) = futures::future::join(
            ask_for_tops(self.context, self.scope, &self.key, plan.clone(), &words),
            ask_for_tops(self.context, self.scope, &self.key, plan, &vectors),
        )
        .await;
        // Of both, the vectors' part is refused for more reasons.
        let vector_lists = vector_lists?;
        Ok((words, HybridLists { words: words_lists?, vectors: vector_lists }))
    }

    fn prepare(&self, mut query: SearchQuery) -> Result<NodeQuery, Failure> {
        query.show_ranking_score = true;
        query.show_ranking_score_details = true;
        let key = self.scope.index.primary_key.as_deref();
        let mut prepared = prepare_with(&query, self.scope.settings, Lists::Many, key)?;
        prepared.may_narrow = false;
        prepared.merge.order = HitOrder::Rules;
        prepared.merge.cuts.score = !self.query.show_ranking_score;
        prepared.merge.cuts.details = !self.query.show_ranking_score_details;
        Ok(prepared)
    }

    /// Merges what came.
    ///
    /// # Errors
    /// When a node's answer can't be read.
    pub(crate) fn finish(
        &self,
        prepared: &NodeQuery,
        lists: HybridLists,
    ) -> Result<ReadAnswer, Failure> {
        let HybridLists { words, vectors } = lists;
        let plan = &prepared.merge;
        let rule = HybridRule { ratio: self.ratio };
        let end = plan.window.end;
        let (words_hits, words_dropped) =
            merge_part(&words.answers, prepared, |_| true).map_err(unreadable)?;
        let suffices = rule.words_suffice(&words_hits, end);
        let (page, answers, dropped) = if suffices {
            let hits = words_hits.into_iter().skip(plan.window.start).collect();
            (HybridPage { hits, semantic: 0 }, &words.answers, words_dropped)
        } else {
            let (vector_hits, dropped) =
                merge_part(&vectors.answers, prepared, is_semantic).map_err(unreadable)?;
            let key = self.scope.index.primary_key.as_deref().unwrap_or_default();
            let page = rule.merge(&words_hits, &vector_hits, key, plan.window.clone());
            (page, &vectors.answers, dropped)
        };
        let candidates: u64 = answers.iter().map(|answer| answer.total_hits).sum();
        let total = candidates.saturating_sub(dropped);
        let nodes: Vec<_> = answers.iter().map(NodeAnswer::facets).collect();
        let facets = merge_facets(&nodes, &plan.facets, total, None).map_err(unreadable)?;
        let found = Found {
            hits: page.hits,
            total,
            facets,
            semantic_hits: Some(page.semantic),
            answers: &vectors.answers,
        };
        let elapsed =
            self.context.seams.clock.instant().saturating_duration_since(self.started).as_millis();
        let merged = write_answer(found, plan, elapsed);
        let mut missing = words.missing.clone();
        missing.extend(&vectors.missing);
        missing.sort_unstable();
        missing.dedup();
        let mut answer = answer_of(self.scope.index, merged, missing);
        if !suffices && vectors.any_is_full(end) {
            answer.inexact_hits.push(InexactHits::Vectors);
        }
        if drops_by_frequency(self.query) {
            answer.inexact_hits.push(InexactHits::Frequency);
        }
        if plan.distinct.is_some() {
            answer.inexact_hits.push(InexactHits::Rules);
        }
        Ok(answer)
    }
}

/// The first hits of one part over all nodes, and how many were dropped for their distinct value.
fn merge_part<'l>(
    answers: &'l [NodeAnswer],
    prepared: &NodeQuery,
    belongs: impl Fn(&[u8]) -> bool,
) -> Result<(Vec<&'l [u8]>, u64), RanOutUnasked> {
    let lists: Vec<HitList<'_>> = answers
        .iter()
        .map(|answer| {
            let hits = answer.hits().into_iter().filter(|hit| belongs(hit)).collect();
            HitList { hits, has_more: false }
        })
        .collect();
    let mut distinct = prepared.merge.distinct.as_deref().map(Distinct::new);
    let window = 0..prepared.merge.window.end;
    let hits = merge_hits(&lists, HitOrder::Rules, distinct.as_mut(), window)
        .map_err(|_| RanOutUnasked)?;
    Ok((hits, distinct.map_or(0, |distinct| distinct.dropped())))
}

/// Whole lists can't run out.
#[derive(Debug, thiserror::Error)]
#[error("a whole list ran out")]
struct RanOutUnasked;

/// The search by words alone.
fn by_words(query: &SearchQuery) -> SearchQuery {
    SearchQuery { hybrid: None, vector: None, ..query.clone() }
}

/// The search whose list begins with what vectors find.
fn by_vectors(query: &SearchQuery, scope: ReadScope<'_>) -> SearchQuery {
    let is_listed = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|list| !list.is_empty());
    let has_marks = query.show_matches_position
        || query.attributes_to_highlight.as_ref().is_some_and(|list| !list.is_empty())
        || is_listed(&query.attributes_to_crop);
    let counts_differ = query.ranking_score_threshold.is_some()
        || query.distinct.is_some()
        || scope.settings.distinct.is_some();
    let needs_words = has_marks || counts_differ || query.vector.is_none();
    let ratio = if needs_words { SemanticRatio::NEARLY_ONE } else { SemanticRatio::ONE };
    let hybrid = query.hybrid.clone().map(|hybrid| HybridQuery { semantic_ratio: ratio, ..hybrid });
    SearchQuery { hybrid, ..query.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_take_part_only_with_words_and_a_share_between() {
        let ratio = |body: &str| {
            semantic_ratio(&SearchQuery::from_json(body.as_bytes()).unwrap_or_default())
        };
        let hybrid = r#""hybrid":{"embedder":"e","semanticRatio":0.25}"#;
        assert_eq!(ratio(&format!(r#"{{"q":"a",{hybrid}}}"#)), Some(0.25));
        assert_eq!(ratio(&format!(r#"{{"q":"","vector":[1],{hybrid}}}"#)), Some(0.25));
        for neither in [
            format!(r#"{{"q":" ",{hybrid}}}"#),
            format!(r#"{{"vector":[1],{hybrid}}}"#),
            r#"{"q":"a"}"#.to_owned(),
            r#"{"q":"a","hybrid":{"embedder":"e","semanticRatio":1.0}}"#.to_owned(),
            r#"{"q":"a","hybrid":{"embedder":"e","semanticRatio":0.0}}"#.to_owned(),
        ] {
            assert_eq!(ratio(&neither), None, "{neither}");
        }
    }
}
