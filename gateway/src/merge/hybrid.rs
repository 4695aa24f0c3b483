//! One list of what words found and what vectors found, as one node makes it.
//!
//! A node looks by words first. When the whole window is filled with hits whose score, weighted,
//! is good enough, vectors are not asked at all. Else both lists are merged by their weighted
//! scores, and a document that is in both shows where it comes first. Judged by each node for
//! itself, the first step would go wrong: so both lists are merged over all nodes, each by its own
//! rules, before they meet here.

use std::collections::HashSet;
use std::ops::Range;

use super::distinct::distinct_keys;
use super::rank::{HitOrder, HitRank, read_score_anywhere};

/// The weighted score that every hit of the words needs so that vectors are not asked: the
/// engine's.
const GOOD_ENOUGH: f64 = 0.45;

/// How both lists are weighted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HybridRule {
    /// The share of the vectors, above 0 and below 1, as the client gave it.
    pub ratio: f32,
}

/// What is on the page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HybridPage<'a> {
    /// The hits.
    pub hits: Vec<&'a [u8]>,
    /// Those that vectors brought.
    pub semantic: u64,
}

impl HybridRule {
    /// The weight of the words, in the engine's precision.
    fn words_weight(self) -> f64 {
        f64::from(1.0 - self.ratio)
    }

    /// Whether words alone are good enough: `words` are the first hits, at most `end` of them.
    pub fn words_suffice(self, words: &[&[u8]], end: usize) -> bool {
        let is_good = |hit: &&[u8]| read_score_anywhere(hit) * self.words_weight() >= GOOD_ENOUGH;
        words.len() >= end && words.iter().all(is_good)
    }

    /// The hits at `window` of both lists together. `key` is the path of the documents' id, which
    /// all hits have.
    pub fn merge<'a>(
        self,
        words: &[&'a [u8]],
        vectors: &[&'a [u8]],
        key: &str,
        window: Range<usize>,
    ) -> HybridPage<'a> {
        let order = HitOrder::Hybrid { semantic_ratio: f64::from(self.ratio) };
        let mut page = HybridPage { hits: Vec::new(), semantic: 0 };
        let mut seen: HashSet<Vec<String>> = HashSet::new();
        let (mut words, mut vectors) = (words.iter().peekable(), vectors.iter().peekable());
        let mut position = 0;
        while position < window.end {
            let takes_vector = match (vectors.peek(), words.peek()) {
                (Some(vector), Some(word)) => {
                    // Of equals, the vectors' comes first.
                    HitRank::read(order, vector).compare(&HitRank::read(order, word)).is_ge()
                }
                (Some(_), None) => true,
                (None, Some(_)) => false,
                (None, None) => break,
            };
            let Some(hit) = (if takes_vector { vectors.next() } else { words.next() }) else {
                break;
            };
            if !seen.insert(distinct_keys(hit, key)) {
                continue;
            }
            if window.contains(&position) {
                page.hits.push(hit);
                page.semantic += u64::from(takes_vector);
            }
            position += 1;
        }
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(id: u32, score: f64) -> String {
        format!(
            r#"{{"id":{id},"_rankingScore":{score},"_rankingScoreDetails":{{"words":{{"order":0,"matchingWords":1,"maxMatchingWords":1,"score":{score}}}}}}}"#
        )
    }

    fn vector(id: u32, similarity: f64) -> String {
        format!(
            r#"{{"id":{id},"_rankingScore":{similarity},"_rankingScoreDetails":{{"vectorSort":{{"order":0,"similarity":{similarity}}}}}}}"#
        )
    }

    fn slices(hits: &[String]) -> Vec<&[u8]> {
        hits.iter().map(String::as_bytes).collect()
    }

    fn ids(page: &HybridPage<'_>) -> Vec<String> {
        page.hits.iter().flat_map(|hit| distinct_keys(hit, "id")).collect()
    }

    #[test]
    fn both_lists_meet_by_weighted_scores_and_no_document_shows_twice() {
        let words = [word(1, 1.0), word(2, 0.9), word(3, 0.2)];
        let vectors = [vector(4, 0.95), vector(2, 0.9), vector(1, 0.5), vector(5, 0.4)];
        let (words, vectors) = (slices(&words), slices(&vectors));
        let rule = HybridRule { ratio: 0.5 };
        let page = rule.merge(&words, &vectors, "id", 0..10);
        assert_eq!(ids(&page), ["n1", "n4", "n2", "n5", "n3"]);
        assert_eq!(page.semantic, 3, "a tie is the vectors'");
        let second = rule.merge(&words, &vectors, "id", 1..3);
        assert_eq!((ids(&second), second.semantic), (vec!["n4".to_owned(), "n2".to_owned()], 2));
        let page = HybridRule { ratio: 0.9 }.merge(&words, &vectors, "id", 0..2);
        assert_eq!(ids(&page), ["n4", "n2"]);
    }

    #[test]
    fn words_suffice_when_the_window_is_full_of_good_hits() {
        let words = [word(1, 1.0), word(2, 0.9)];
        let words = slices(&words);
        let half = HybridRule { ratio: 0.5 };
        assert!(half.words_suffice(&words, 2));
        assert!(!half.words_suffice(&words, 3), "the window is not full");
        assert!(!HybridRule { ratio: 0.52 }.words_suffice(&words, 2));
        assert!(!HybridRule { ratio: 0.6 }.words_suffice(&words, 1), "no score is high enough");
        assert!(half.words_suffice(&[], 0));
    }
}
