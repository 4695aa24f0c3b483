//! One list of the hits of several queries, over one index or more: Meilisearch's federation.
//!
//! Each query's hits are first merged over the nodes by the query's own rules. Then the lists of
//! one index's queries meet, then those of the indexes. Hits of two queries compare by *weighted
//! values*: a run of relevance rules is one score, multiplied with the query's weight, and so is a
//! similarity; sorts go by their values. Where two hits were ordered by different kinds of things,
//! the one with more to go by comes first, then the one with the better weighted score.
//!
//! Two ways in which this is not what Meilisearch 1.15 does: in ascending geo sorts the nearer
//! place comes first here, not the farther; and of a run of relevance rules that stands behind a
//! sort, the rules count one after the other, since nodes tell the score of the first run only.

use std::cmp::Ordering;

use smallvec::SmallVec;

use super::distinct::Distinct;
use super::hits::{HitList, RanOut, merge_hits};
use super::rank::{HitOrder, RuleValue, WeightedRule, above_epsilon, weighted_rules};
use crate::json_scan::{integer, member, number};

/// How the hits of one query are merged over the nodes.
#[derive(Clone, Debug)]
pub struct QueryRule<'q> {
    /// The query's position in the client's request.
    pub position: usize,
    /// Its own order.
    pub order: HitOrder,
    /// The attribute of which each value shows once.
    pub distinct: Option<&'q str>,
    /// What its scores are multiplied with.
    pub weight: f64,
}

/// A hit with what it is compared by.
#[derive(Clone, Debug)]
pub struct FederatedHit<'a> {
    /// The hit, as the node wrote it.
    pub hit: &'a [u8],
    /// The position of its query in the client's request.
    pub position: usize,
    values: SmallVec<[WeightedRule<'a>; 4]>,
    weighted_score: f64,
}

impl FederatedHit<'_> {
    /// Whether vectors brought it.
    pub fn is_semantic(&self) -> bool {
        self.values.iter().any(|value| matches!(value, WeightedRule::Similarity(_)))
    }

    /// Whether it comes before `other`; of equals, the earlier query's.
    fn is_before(&self, other: &Self) -> bool {
        match self.compare(other) {
            Ordering::Greater => true,
            Ordering::Equal => self.position < other.position,
            Ordering::Less => false,
        }
    }

    fn compare(&self, other: &Self) -> Ordering {
        let by_score = || above_epsilon(self.weighted_score, other.weighted_score);
        let mut values = self.values.iter().zip(&other.values).enumerate();
        let decided = values.find_map(|(place, (left, right))| {
            let order = match compare_values(left, right) {
                Compared::By(order) => order,
                Compared::ByScore => return Some(by_score()),
                Compared::Not => {
                    let left = self.values.len() - place;
                    let right = other.values.len() - place;
                    return Some(left.cmp(&right).then_with(by_score));
                }
            };
            order.is_ne().then_some(order)
        });
        decided.unwrap_or_else(|| self.values.len().cmp(&other.values.len()))
    }
}

enum Compared {
    By(Ordering),
    /// Sorted in opposite directions.
    ByScore,
    /// Two kinds of things.
    Not,
}

fn compare_values(left: &WeightedRule<'_>, right: &WeightedRule<'_>) -> Compared {
    use WeightedRule::{Scores, Similarity, Sort};
    let first = |scores: &[f64]| scores.first().copied().unwrap_or_default();
    Compared::By(match (left, right) {
        (Scores(left), Scores(right)) => left
            .iter()
            .zip(right)
            .map(|(left, right)| above_epsilon(*left, *right))
            .find(|order| order.is_ne())
            .unwrap_or(Ordering::Equal),
        (Similarity(left), Similarity(right)) => above_epsilon(*left, *right),
        (Scores(left), Similarity(right)) => above_epsilon(first(left), *right),
        (Similarity(left), Scores(right)) => above_epsilon(*left, first(right)),
        (Sort(left), Sort(right)) => match (left, right) {
            (RuleValue::Sort { ascending, .. }, RuleValue::Sort { ascending: other, .. })
                if ascending != other =>
            {
                return Compared::ByScore;
            }
            (RuleValue::Geo { ascending, .. }, RuleValue::Geo { ascending: other, .. })
                if ascending != other =>
            {
                Ordering::Equal
            }
            (RuleValue::Sort { .. }, RuleValue::Sort { .. })
            | (RuleValue::Geo { .. }, RuleValue::Geo { .. }) => left.compare(right),
            _ => return Compared::Not,
        },
        _ => return Compared::Not,
    })
}

/// The first `end` hits of the queries of one index. `lists` has, by node, the hits of all of these
/// queries together, as the node federated them; `rules` are in the order in which the node was
/// asked. The second part of the result counts what was dropped for its distinct value.
///
/// # Errors
/// Never in fact: lists are whole.
pub fn merge_index<'a>(
    lists: &[Vec<&'a [u8]>],
    rules: &[QueryRule<'_>],
    end: usize,
) -> Result<(Vec<FederatedHit<'a>>, u64), RanOut> {
    let mut dropped = 0;
    let mut by_query = Vec::with_capacity(rules.len());
    for (place, rule) in rules.iter().enumerate() {
        let of_query = |hit: &&&'a [u8]| query_of(hit) == Some(place as u64);
        let lists: Vec<HitList<'a>> = lists
            .iter()
            .map(|list| {
                let hits = list.iter().filter(of_query).copied().collect();
                HitList { hits, has_more: false }
            })
            .collect();
        let mut distinct = rule.distinct.map(Distinct::new);
        let hits = merge_hits(&lists, rule.order, distinct.as_mut(), 0..end)?;
        dropped += distinct.map_or(0, |distinct| distinct.dropped());
        by_query.push(hits.into_iter().map(|hit| read_hit(hit, rule)).collect());
    }
    let mut merged = merge_lists(by_query);
    merged.truncate(end);
    Ok((merged, dropped))
}

/// The position, among the queries that the node was asked, of the one that found `hit`.
fn query_of(hit: &[u8]) -> Option<u64> {
    member(member(hit, "_federation")?, "queriesPosition").and_then(integer)
}

fn read_hit<'a>(hit: &'a [u8], rule: &QueryRule<'_>) -> FederatedHit<'a> {
    let said = member(hit, "_federation");
    let weighted = said.and_then(|said| member(said, "weightedRankingScore")).and_then(number);
    let weighted_score = weighted.unwrap_or_default();
    let values = weighted_rules(hit, rule.weight, weighted_score);
    FederatedHit { hit, position: rule.position, values, weighted_score }
}

/// Sorted lists as one.
pub fn merge_lists<'a>(lists: Vec<Vec<FederatedHit<'a>>>) -> Vec<FederatedHit<'a>> {
    let mut merged = Vec::with_capacity(lists.iter().map(Vec::len).sum());
    let mut lists: Vec<_> = lists.into_iter().map(|list| list.into_iter().peekable()).collect();
    loop {
        let mut best: Option<(usize, FederatedHit<'a>)> = None;
        for (place, list) in lists.iter_mut().enumerate() {
            let Some(head) = list.peek() else { continue };
            if best.as_ref().is_none_or(|(_, best)| head.is_before(best)) {
                best = Some((place, head.clone()));
            }
        }
        let Some((place, hit)) = best else { return merged };
        if let Some(list) = lists.get_mut(place) {
            list.next();
        }
        merged.push(hit);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words(id: u32, query: usize, score: f64, weight: f64) -> String {
        let weighted = score * weight;
        format!(
            r#"{{"id":{id},"_federation":{{"indexUid":"0-a","queriesPosition":{query},"weightedRankingScore":{weighted}}},"_rankingScoreDetails":{{"proximity":{{"order":0,"score":{score}}}}}}}"#
        )
    }

    fn sorted(id: u32, query: usize, value: i64, ascending: bool) -> String {
        let direction = if ascending { "asc" } else { "desc" };
        format!(
            r#"{{"id":{id},"_federation":{{"queriesPosition":{query},"weightedRankingScore":1.0}},"_rankingScoreDetails":{{"a:{direction}":{{"order":0,"value":{value}}}}}}}"#
        )
    }

    fn rule(position: usize, weight: f64) -> QueryRule<'static> {
        QueryRule { position, order: HitOrder::Rules, distinct: None, weight }
    }

    fn ids(hits: &[FederatedHit<'_>]) -> Vec<u64> {
        hits.iter().filter_map(|hit| member(hit.hit, "id").and_then(integer)).collect()
    }

    fn merged(lists: &[Vec<String>], rules: &[QueryRule<'_>], end: usize) -> Vec<u64> {
        let lists: Vec<Vec<&[u8]>> =
            lists.iter().map(|list| list.iter().map(String::as_bytes).collect()).collect();
        merge_index(&lists, rules, end).map(|(hits, _)| ids(&hits)).unwrap_or_default()
    }

    #[test]
    fn hits_of_several_queries_meet_by_weighted_scores() {
        let nodes = [
            vec![words(1, 1, 0.5, 3.0), words(2, 0, 1.0, 1.0)],
            vec![words(3, 1, 0.4, 3.0), words(4, 0, 0.3, 1.0)],
        ];
        let rules = [rule(4, 1.0), rule(7, 3.0)];
        assert_eq!(merged(&nodes, &rules, 10), [1, 3, 2, 4]);
        assert_eq!(merged(&nodes, &rules, 2), [1, 3]);
        // Of equals, the earlier query's.
        let tied = [vec![words(1, 1, 0.5, 2.0)], vec![words(2, 0, 1.0, 1.0)]];
        assert_eq!(merged(&tied, &[rule(0, 1.0), rule(1, 2.0)], 10), [2, 1]);
    }

    #[test]
    fn sorts_decide_before_weights_and_directions_are_kept() {
        for (ascending, expected) in [(true, [1, 2, 3]), (false, [3, 2, 1])] {
            let mut first = vec![sorted(1, 0, 1, ascending), sorted(3, 0, 3, ascending)];
            if !ascending {
                first.reverse();
            }
            let nodes = [first, vec![sorted(2, 1, 2, ascending)]];
            assert_eq!(merged(&nodes, &[rule(0, 0.1), rule(1, 9.0)], 10), expected);
        }
        let near = |id: u32, query: usize, distance: f64| {
            format!(
                r#"{{"id":{id},"_federation":{{"queriesPosition":{query},"weightedRankingScore":1.0}},"_rankingScoreDetails":{{"_geoPoint(1, 2):asc":{{"order":0,"value":null,"distance":{distance}}}}}}}"#
            )
        };
        let nodes = [vec![near(1, 0, 5.0)], vec![near(2, 1, 3.0)]];
        assert_eq!(merged(&nodes, &[rule(0, 1.0), rule(1, 1.0)], 10), [2, 1]);
    }

    #[test]
    fn distinct_is_each_query_s_own() {
        let nodes =
            [vec![words(1, 0, 0.9, 1.0)], vec![words(1, 0, 0.8, 1.0), words(1, 1, 0.7, 1.0)]];
        let lists: Vec<Vec<&[u8]>> =
            nodes.iter().map(|list| list.iter().map(String::as_bytes).collect()).collect();
        let distinct = QueryRule { distinct: Some("id"), ..rule(0, 1.0) };
        let merged = merge_index(&lists, &[distinct, rule(1, 1.0)], 10);
        let Ok((hits, dropped)) = merged else { panic!("whole lists ran out") };
        assert_eq!((ids(&hits), dropped), (vec![1, 1], 1));
    }

    proptest! {
        /// Lists of parts merge into the list of the whole: how documents are spread over nodes
        /// does not matter.
        #[test]
        fn the_spread_over_nodes_does_not_matter(
            scores in proptest::collection::vec((0..40_u32, 0..2_usize, 0..3_usize), 0..30),
            end in 0..12_usize,
        ) {
            let weights = [1.0, 1.5];
            let rules = [rule(0, weights[0]), rule(1, weights[1])];
            let mut whole: Vec<(f64, usize, usize, String)> = scores
                .iter()
                .enumerate()
                .map(|(id, (score, query, node))| {
                    // No two are equal, weighted or not.
                    let apart = id as f64 / 1e4 + *query as f64 * 2e-5;
                    let score = f64::from(*score) / 40.0 + apart;
                    let weighted = score * weights[*query];
                    (weighted, *query, *node, words(id as u32, *query, score, weights[*query]))
                })
                .collect();
            whole.sort_by(|left, right| right.0.total_cmp(&left.0));
            let of = |node: usize| -> Vec<String> {
                let part = whole.iter().filter(|hit| hit.2 == node).take(end);
                part.map(|hit| hit.3.clone()).collect()
            };
            let alone: Vec<String> = whole.iter().take(end).map(|hit| hit.3.clone()).collect();
            prop_assert_eq!(
                merged(&[of(0), of(1), of(2)], &rules, end),
                merged(&[alone], &rules, end)
            );
        }
    }
}
