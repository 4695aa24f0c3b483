//! When are two answers the same. The order of hits is [`order`](super::order)'s part.
//!
//! | key | rule |
//! |---|---|
//! | a document's fields, `_formatted`, `_matchesPosition`, `_geoDistance`, `_vectors` | equal for a document that both have |
//! | `totalHits`, `totalPages`, `estimatedTotalHits` | equal where one node's own number does not depend on the window |
//! | `facetDistribution` | equal, in order; by count, ties at the cut are free |
//! | `facetStats` | equal |
//! | `_rankingScore`, `_rankingScoreDetails` | differences are only counted: their scale follows the local dictionary |
//! | `processingTimeMs`, `requestUid` | there on both sides, or on none |

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::Object;
use super::documents::text_of;
use super::order::{OrderFault, ROUNDING, nearly_equal};
use super::variants::Variant;

/// One way in which two answers differ.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Fault {
    /// Statuses differ.
    #[error("status {subject} instead of {reference}")]
    Status {
        /// The reference's.
        reference: u16,
        /// The subject's.
        subject: u16,
    },
    /// Both refuse, differently.
    #[error("error {key}: {subject} instead of {reference}")]
    Error {
        /// The key of the error object.
        key: &'static str,
        /// The reference's value.
        reference: Value,
        /// The subject's value.
        subject: Value,
    },
    /// Something of Miroir's own shows.
    #[error("the answer contains a reserved name")]
    Leak,
    /// A top-level value differs.
    #[error("{key} is {subject} instead of {reference}")]
    Key {
        /// The key.
        key: String,
        /// The reference's value, null when absent.
        reference: Value,
        /// The subject's value, null when absent.
        subject: Value,
    },
    /// Hits differ by more than ties.
    #[error("hits: {0:?}")]
    Order(OrderFault),
    /// The distinct field has one value twice.
    #[error("distinct value {value} twice")]
    DistinctTwice {
        /// The value.
        value: String,
    },
    /// A document is shown differently.
    #[error("document {id}, {key}: {subject} instead of {reference}")]
    Document {
        /// Its id.
        id: String,
        /// The first key that differs.
        key: String,
        /// The reference's value.
        reference: Value,
        /// The subject's value.
        subject: Value,
    },
    /// A facet has other values, counts or order.
    #[error("facet {field}: {subject} instead of {reference}")]
    Facet {
        /// The field.
        field: String,
        /// The reference's distribution.
        reference: Value,
        /// The subject's distribution.
        subject: Value,
    },
}

impl Fault {
    /// A word for what differs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Status { .. } => "status",
            Self::Error { .. } => "error",
            Self::Leak => "leak",
            Self::Key { .. } => "totals and statistics",
            Self::Order(_) => "order",
            Self::DistinctTwice { .. } => "distinct",
            Self::Document { key, .. } if key == "_formatted" => "_formatted",
            Self::Document { key, .. } if key == "_matchesPosition" => "_matchesPosition",
            Self::Document { .. } => "document",
            Self::Facet { .. } => "facet",
        }
    }
}

/// What the comparison has to know of a search.
#[derive(Clone, Debug)]
pub struct Question<'a> {
    /// The body sent.
    pub body: &'a Object,
    /// The index asked.
    pub variant: &'a Variant,
}

impl Question<'_> {
    /// The field by which documents are distinct, at query time or by the index.
    pub fn distinct(&self) -> Option<&str> {
        self.body.get("distinct").and_then(Value::as_str).or(self.variant.distinct)
    }

    fn number(&self, key: &str) -> Option<u64> {
        self.body.get(key).and_then(Value::as_u64)
    }

    /// Whether the answer is counted exactly, in pages.
    pub fn in_pages(&self) -> bool {
        self.body.contains_key("page") || self.body.contains_key("hitsPerPage")
    }

    /// First place and length of the window, cut at `maxTotalHits` as one node does.
    pub fn window(&self) -> (u64, u64) {
        let (offset, limit) = if self.in_pages() {
            let limit = self.number("hitsPerPage").unwrap_or(20);
            match self.number("page").unwrap_or(1).checked_sub(1) {
                Some(before) => (before * limit, limit),
                None => (0, 0),
            }
        } else {
            (self.number("offset").unwrap_or(0), self.number("limit").unwrap_or(20))
        };
        let offset = offset.min(self.variant.total_hits_max);
        (offset, limit.min(self.variant.total_hits_max - offset))
    }

    /// Whether words may be found by a typo.
    pub fn typos_are_tolerated(&self) -> bool {
        self.variant.settings["typoTolerance"]["enabled"] != json!(false)
    }

    /// What stands before and after a highlighted match.
    pub fn tags(&self) -> (&str, &str) {
        let tag = |key| self.body.get(key).and_then(Value::as_str);
        (tag("highlightPreTag").unwrap_or("<em>"), tag("highlightPostTag").unwrap_or("</em>"))
    }

    /// Whether one node's totals and facets depend on the query only. A threshold removes
    /// only documents that were looked at, as does a distinct without exact pages: such
    /// numbers are right only when the window was not filled.
    fn totals_are_exact(&self, hits: usize) -> bool {
        let (offset, length) = self.window();
        let exhausted = (hits as u64) < length && (hits > 0 || offset == 0);
        let by_window = self.body.contains_key("rankingScoreThreshold")
            || (self.distinct().is_some() && !self.in_pages());
        exhausted || !by_window
    }

    /// Whether values of `field` are answered by count.
    fn facet_by_count(&self, field: &str) -> bool {
        let orders = &self.variant.settings["faceting"]["sortFacetValuesBy"];
        let order = orders.get(field).or_else(|| orders.get("*"));
        order.and_then(Value::as_str) == Some("count")
    }

    fn facet_values_max(&self) -> usize {
        self.variant.settings["faceting"]["maxValuesPerFacet"].as_u64().unwrap_or(100) as usize
    }
}

/// The ids of an answer's hits, in order.
pub fn hit_ids(answer: &Value) -> Vec<String> {
    hits(answer).iter().map(|hit| text_of(&hit["id"])).collect()
}

fn hits(answer: &Value) -> &[Value] {
    answer["hits"].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Compares two refusals.
pub fn compare_errors(reference: &Value, subject: &Value) -> Vec<Fault> {
    ["code", "type", "message", "link"]
        .into_iter()
        .filter(|key| reference[*key] != subject[*key])
        .map(|key| Fault::Error {
            key,
            reference: reference[key].clone(),
            subject: subject[key].clone(),
        })
        .collect()
}

/// Compares all of two answers to a search but the order of their hits.
pub fn compare_search(question: &Question<'_>, reference: &Value, subject: &Value) -> Vec<Fault> {
    let exact = question.totals_are_exact(hits(reference).len());
    let mut faults = Vec::new();
    let empty = Object::new();
    let (left, right) =
        (reference.as_object().unwrap_or(&empty), subject.as_object().unwrap_or(&empty));
    let keys: BTreeSet<&String> = left.keys().chain(right.keys()).collect();
    for key in keys {
        let (a, b) = (left.get(key), right.get(key));
        let skipped = match key.as_str() {
            "hits" | "processingTimeMs" | "requestUid" => a.is_some() && b.is_some(),
            "totalHits" | "totalPages" | "estimatedTotalHits" => {
                !exact && a.is_some() && b.is_some()
            }
            "facetDistribution" if a.is_some() && b.is_some() => {
                if exact {
                    faults.extend(compare_facets(question, &reference[key], &subject[key]));
                }
                true
            }
            "facetStats" => {
                (!exact || nearly_equal(&reference[key], &subject[key], ROUNDING))
                    && a.is_some() == b.is_some()
            }
            _ => false,
        };
        if !skipped && a != b {
            faults.push(Fault::Key {
                key: key.clone(),
                reference: reference[key].clone(),
                subject: subject[key].clone(),
            });
        }
    }
    faults.extend(compare_hits(hits(reference), hits(subject)));
    faults
}

/// Compares what both show of the documents that both have.
pub fn compare_hits(reference: &[Value], subject: &[Value]) -> Vec<Fault> {
    let known: BTreeMap<String, &Value> =
        reference.iter().map(|hit| (text_of(&hit["id"]), hit)).collect();
    subject.iter().filter_map(|hit| compare_hit(known.get(&text_of(&hit["id"]))?, hit)).collect()
}

fn compare_hit(reference: &Value, subject: &Value) -> Option<Fault> {
    /// Embeddings and distances pass through 32-bit floats.
    const SHOWN: f64 = 1e-6;
    let (left, right) = (reference.as_object()?, subject.as_object()?);
    let keys: BTreeSet<&String> = left.keys().chain(right.keys()).collect();
    let scores = ["_rankingScore", "_rankingScoreDetails"];
    keys.into_iter()
        .find(|key| match (left.get(*key), right.get(*key)) {
            (Some(_), Some(_)) if scores.contains(&key.as_str()) => false,
            (Some(a), Some(b)) if key.starts_with('_') => !nearly_equal(a, b, SHOWN),
            (a, b) => a != b,
        })
        .map(|key| Fault::Document {
            id: text_of(&subject["id"]),
            key: key.clone(),
            reference: reference[key].clone(),
            subject: subject[key].clone(),
        })
}

/// Whether scores that both show of one document differ.
pub fn scores_differ(reference: &Value, subject: &Value) -> bool {
    let known: BTreeMap<String, &Value> =
        hits(reference).iter().map(|hit| (text_of(&hit["id"]), hit)).collect();
    hits(subject).iter().any(|hit| {
        known.get(&text_of(&hit["id"])).is_some_and(|other| {
            ["_rankingScore", "_rankingScoreDetails"]
                .iter()
                .any(|key| !nearly_equal(&other[*key], &hit[*key], 1e-9))
        })
    })
}

/// A value of the distinct field that two hits share.
pub fn distinct_twice(field: &str, answer: &Value) -> Option<Fault> {
    let mut seen = BTreeSet::new();
    for hit in hits(answer) {
        let value = field.split('.').fold(hit, |value, key| &value[key]);
        if value.is_string() && !seen.insert(text_of(value)) {
            return Some(Fault::DistinctTwice { value: text_of(value) });
        }
    }
    None
}

fn compare_facets(question: &Question<'_>, reference: &Value, subject: &Value) -> Vec<Fault> {
    let empty = Object::new();
    let (left, right) =
        (reference.as_object().unwrap_or(&empty), subject.as_object().unwrap_or(&empty));
    let fields: BTreeSet<&String> = left.keys().chain(right.keys()).collect();
    fields
        .into_iter()
        .filter(|field| {
            let agree = match (left.get(*field), right.get(*field)) {
                (Some(a), Some(b)) => facets_agree(
                    &counts(a),
                    &counts(b),
                    question.facet_by_count(field),
                    question.facet_values_max(),
                ),
                _ => false,
            };
            !agree
        })
        .map(|field| Fault::Facet {
            field: field.clone(),
            reference: left.get(field).cloned().unwrap_or(json!(null)),
            subject: right.get(field).cloned().unwrap_or(json!(null)),
        })
        .collect()
}

/// Compares the values that a facet search found.
pub fn compare_facet_hits(
    question: &Question<'_>,
    field: &str,
    reference: &Value,
    subject: &Value,
) -> Vec<Fault> {
    let values = |answer: &Value| -> Vec<(String, u64)> {
        let hits = answer["facetHits"].as_array().map(Vec::as_slice).unwrap_or_default();
        let value = |hit: &Value| text_of(&hit["value"]).to_lowercase();
        hits.iter().map(|hit| (value(hit), hit["count"].as_u64().unwrap_or(u64::MAX))).collect()
    };
    let (by_count, values_max) = (question.facet_by_count(field), question.facet_values_max());
    if facets_agree(&values(reference), &values(subject), by_count, values_max) {
        return Vec::new();
    }
    vec![Fault::Facet {
        field: field.to_owned(),
        reference: reference["facetHits"].clone(),
        subject: subject["facetHits"].clone(),
    }]
}

/// Values and counts in the order answered. Values are compared without case: of several
/// spellings, which one is printed depends on the order of documents.
fn counts(distribution: &Value) -> Vec<(String, u64)> {
    let empty = Object::new();
    distribution
        .as_object()
        .unwrap_or(&empty)
        .iter()
        .map(|(value, count)| (value.to_lowercase(), count.as_u64().unwrap_or(u64::MAX)))
        .collect()
}

fn facets_agree(
    reference: &[(String, u64)],
    subject: &[(String, u64)],
    by_count: bool,
    values_max: usize,
) -> bool {
    if !by_count {
        return reference == subject;
    }
    let same_counts = reference.len() == subject.len()
        && reference.iter().zip(subject).all(|((_, a), (_, b))| a == b);
    let truncated = reference.len() >= values_max;
    let least = reference.last().map_or(0, |(_, count)| *count);
    let settled = |list: &[(String, u64)]| -> BTreeSet<(String, u64)> {
        list.iter().filter(|(_, count)| !truncated || *count > least).cloned().collect()
    };
    same_counts && settled(reference) == settled(subject)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(items: &[(&str, u64)]) -> Vec<(String, u64)> {
        items.iter().map(|(value, count)| ((*value).to_owned(), *count)).collect()
    }

    #[test]
    fn facets_by_count_may_differ_only_in_ties_at_the_cut() {
        let (a, b) = (list(&[("x", 5), ("y", 2)]), list(&[("x", 5), ("z", 2)]));
        assert!(facets_agree(&a, &b, true, 2));
        assert!(!facets_agree(&a, &b, true, 3), "not cut, so nothing is free");
        assert!(!facets_agree(&a, &list(&[("x", 5), ("z", 1)]), true, 2));
        assert!(!facets_agree(&a, &list(&[("w", 5), ("y", 2)]), true, 2));
    }

    #[test]
    fn facets_by_name_have_one_order() {
        let (a, b) = (list(&[("10", 1), ("2", 1)]), list(&[("2", 1), ("10", 1)]));
        assert!(facets_agree(&a, &a, false, 10));
        assert!(!facets_agree(&a, &b, false, 10));
    }

    #[test]
    fn a_document_shown_differently_is_a_fault_but_a_score_is_not() {
        let a = json!({ "id": 1, "_formatted": { "t": "<em>a</em>" }, "_rankingScore": 0.5 });
        let b = json!({ "id": 1, "_formatted": { "t": "a" }, "_rankingScore": 0.4 });
        let faults = compare_hits(std::slice::from_ref(&a), std::slice::from_ref(&b));
        assert!(matches!(&faults[..], [Fault::Document { key, .. }] if key == "_formatted"));
        let (a, b) = (json!({ "hits": [a] }), json!({ "hits": [b] }));
        assert!(scores_differ(&a, &b) && !scores_differ(&a, &a));
    }
}
