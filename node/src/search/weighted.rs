//! How hits of different queries compare: federation's rule.
//!
//! Runs of relevance rules are one score, multiplied with the query's weight, as are similarities;
//! sorts compare by their values. Where two hits have been ordered by different kinds of things,
//! the one with more to go by comes first, then the one with the better weighted score.
//!
//! Meilisearch 1.15 puts the farther of two places first in both directions of a geo sort; here
//! the direction counts.

use std::cmp::Ordering;

use milli_core::DocumentId;
use milli_core::score_details::{ScoreDetails, WeightedScoreValue, compare_sort_values};

/// A hit of one of the queries.
#[derive(Clone, Debug)]
pub(crate) struct Ranked {
    /// The document, by the engine's own number.
    pub(crate) id: DocumentId,
    /// What it was ordered by.
    pub(crate) score: Vec<ScoreDetails>,
    /// The query's weight.
    pub(crate) weight: f64,
    /// The query's position in the request.
    pub(crate) query: usize,
}

impl Ranked {
    /// The ranking score times the weight.
    pub(crate) fn weighted_score(&self) -> f64 {
        ScoreDetails::global_score(self.score.iter()) * self.weight
    }

    /// Whether vectors brought it.
    pub(crate) fn is_semantic(&self) -> bool {
        self.score.iter().any(|detail| matches!(detail, ScoreDetails::Vector(_)))
    }

    /// Whether it comes before `other`; of equals, the earlier query's.
    pub(crate) fn is_before(&self, other: &Self) -> bool {
        match self.compare(other) {
            Ordering::Greater => true,
            Ordering::Equal => self.query < other.query,
            Ordering::Less => false,
        }
    }

    fn compare(&self, other: &Self) -> Ordering {
        let by_score = || compare_floats(self.weighted_score(), other.weighted_score());
        let mut left = ScoreDetails::weighted_score_values(self.score.iter(), self.weight);
        let mut right = ScoreDetails::weighted_score_values(other.score.iter(), other.weight);
        loop {
            let order = match (left.next(), right.next()) {
                (None, None) => return Ordering::Equal,
                (None, Some(_)) => return Ordering::Less,
                (Some(_), None) => return Ordering::Greater,
                (Some(one), Some(two)) => match compare_values(&one, &two) {
                    Compared::By(order) => order,
                    Compared::ByScore => return by_score(),
                    Compared::Not => {
                        return left.count().cmp(&right.count()).then_with(by_score);
                    }
                },
            };
            if order.is_ne() {
                return order;
            }
        }
    }
}

enum Compared {
    By(Ordering),
    /// Sorted in opposite directions.
    ByScore,
    /// Two kinds of things.
    Not,
}

fn compare_values(left: &WeightedScoreValue, right: &WeightedScoreValue) -> Compared {
    use WeightedScoreValue as V;
    Compared::By(match (left, right) {
        (
            V::WeightedScore(left) | V::VectorSort(left),
            V::WeightedScore(right) | V::VectorSort(right),
        ) => compare_floats(*left, *right),
        (V::Sort { asc, value: left }, V::Sort { asc: other, value: right }) => {
            if asc != other {
                return Compared::ByScore;
            }
            compare_sort_values(*asc, left, right)
        }
        (V::GeoSort { asc, distance: left }, V::GeoSort { asc: other, distance: right }) => {
            match (left, right) {
                _ if asc != other => Ordering::Equal,
                (None, None) => Ordering::Equal,
                (None, Some(_)) => Ordering::Less,
                (Some(_), None) => Ordering::Greater,
                (Some(left), Some(right)) if *asc => compare_floats(*right, *left),
                (Some(left), Some(right)) => compare_floats(*left, *right),
            }
        }
        _ => return Compared::Not,
    })
}

fn compare_floats(left: f64, right: f64) -> Ordering {
    if (left - right).abs() <= f64::EPSILON {
        Ordering::Equal
    } else {
        left.partial_cmp(&right).unwrap_or(Ordering::Equal)
    }
}

/// The items of sorted lists as one sorted list, as it is asked for.
pub(crate) fn merge_lists<T>(
    lists: Vec<Vec<T>>,
    is_before: impl Fn(&T, &T) -> bool,
) -> impl Iterator<Item = T> {
    let mut lists: Vec<_> = lists.into_iter().map(|list| list.into_iter().peekable()).collect();
    std::iter::from_fn(move || {
        let mut best: Option<usize> = None;
        for place in 0..lists.len() {
            let (before, from) = lists.split_at_mut(place);
            let Some(item) = from.first_mut().and_then(|list| list.peek()) else { continue };
            let known = best.and_then(|best| before.get_mut(best)).and_then(|list| list.peek());
            let wins = known.is_none_or(|known| is_before(item, known));
            if wins {
                best = Some(place);
            }
        }
        lists.get_mut(best?)?.next()
    })
}

#[cfg(test)]
mod tests {
    use milli_core::score_details::{GeoSort, Sort, Vector, Words};
    use serde_json::json;

    use super::*;

    fn words(matching_words: u32) -> ScoreDetails {
        ScoreDetails::Words(Words { matching_words, max_matching_words: 4 })
    }

    fn sort(ascending: bool, value: serde_json::Value) -> ScoreDetails {
        ScoreDetails::Sort(Sort { field_name: "a".into(), ascending, redacted: false, value })
    }

    fn ranked(score: Vec<ScoreDetails>, weight: f64, query: usize) -> Ranked {
        Ranked { id: 0, score, weight, query }
    }

    #[test]
    fn weights_decide_between_scores() {
        let (whole, half) = (ranked(vec![words(4)], 1.0, 0), ranked(vec![words(2)], 1.0, 1));
        assert!(whole.is_before(&half) && !half.is_before(&whole));
        let favoured = ranked(vec![words(2)], 3.0, 1);
        assert!(favoured.is_before(&whole));
        let tied = ranked(vec![words(2)], 2.0, 1);
        assert!(whole.is_before(&tied) && !tied.is_before(&whole));
        let near = ScoreDetails::Vector(Vector { similarity: Some(0.75) });
        assert!(ranked(vec![near], 1.0, 1).is_before(&half));
    }

    #[test]
    fn sorts_decide_whatever_the_weight() {
        let (low, high) = (sort(true, json!(1.0)), sort(true, json!(2.0)));
        assert!(ranked(vec![low.clone()], 0.1, 1).is_before(&ranked(vec![high.clone()], 9.0, 0)));
        let text = sort(true, json!("x"));
        assert!(ranked(vec![high], 1.0, 1).is_before(&ranked(vec![text], 1.0, 0)));
        let down = sort(false, json!(1.0));
        let (up, down) = (ranked(vec![low], 1.0, 0), ranked(vec![down, words(4)], 2.0, 1));
        assert!(down.is_before(&up), "opposite directions are left to the weighted score");
    }

    #[test]
    fn the_nearer_place_comes_first_where_that_was_asked_for() {
        let at = |ascending, value| {
            let geo = GeoSort { target_point: [0.0, 0.0], ascending, value };
            ranked(vec![ScoreDetails::GeoSort(geo)], 1.0, 0)
        };
        let (near, far) = (Some([1.0, 1.0]), Some([9.0, 9.0]));
        assert!(at(true, near).is_before(&at(true, far)));
        assert!(at(false, far).is_before(&at(false, near)));
        assert!(at(true, far).is_before(&at(true, None)));
    }

    #[test]
    fn lists_are_merged_and_of_equals_the_first_list_wins() {
        let lists = vec![vec![(1, 'a'), (3, 'a')], vec![], vec![(1, 'b'), (2, 'b')]];
        let merged: Vec<(i32, char)> = merge_lists(lists, |a, b| a.0 < b.0).collect();
        assert_eq!(merged, [(1, 'a'), (1, 'b'), (2, 'b'), (3, 'a')]);
    }
}
