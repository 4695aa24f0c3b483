//! When are two lists of hits the same, ties aside.
//!
//! A hit's *standing* is what the engine ordered it by: its ranking score details, rule by
//! rule. Two hits with equal standings are tied and may change places; at the end of a window
//! any of the tied may be the ones that are cut. So two lists agree when, place by place, the
//! standings are equal. Both lists are judged by standings from one server, the reference.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::Object;

/// One rule's part of a standing.
#[derive(Clone, Debug, PartialEq)]
struct Place {
    order: u64,
    rule: String,
    value: Value,
}

/// What one hit is ordered by.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing(Vec<Place>);

impl Standing {
    /// Reads `_rankingScoreDetails`.
    pub fn of(details: &Object) -> Self {
        let mut places: Vec<Place> = details
            .iter()
            .map(|(rule, detail)| Place {
                order: detail["order"].as_u64().unwrap_or(u64::MAX),
                rule: rule.clone(),
                value: ordering_part(rule, detail),
            })
            .collect();
        places.sort_by_key(|place| place.order);
        Self(places)
    }

    /// Whether all but relevance rules (sorts, geo sorts, vectors) say the same of two hits.
    pub fn sorts_like(&self, other: &Self) -> bool {
        let sorts = |standing: &Self| -> Vec<Place> {
            let relevance = ["words", "typo", "proximity", "attribute", "exactness"];
            let places = standing.0.iter();
            places.filter(|place| !relevance.contains(&place.rule.as_str())).cloned().collect()
        };
        Self(sorts(self)).ties_with(&Self(sorts(other)))
    }

    /// Whether two hits are tied: floats within rounding error are equal.
    pub fn ties_with(&self, other: &Self) -> bool {
        self.0.len() == other.0.len()
            && self.0.iter().zip(&other.0).all(|(a, b)| {
                // Similarities are 32-bit floats, everything else is computed in 64.
                let tolerance = if a.rule == "vectorSort" { 2e-7 } else { ROUNDING };
                a.order == b.order
                    && a.rule == b.rule
                    && nearly_equal(&a.value, &b.value, tolerance)
            })
    }
}

/// The part of a rule's detail that orders: a geo sort goes by distance, not by the point.
fn ordering_part(rule: &str, detail: &Value) -> Value {
    if rule.starts_with("_geoPoint(") { detail["distance"].clone() } else { detail.clone() }
}

/// Relative difference of 64-bit floats that is rounding only.
pub const ROUNDING: f64 = 1e-12;

/// Equality of JSON where numbers may differ by `tolerance`, relative above 1.
pub fn nearly_equal(a: &Value, b: &Value, tolerance: f64) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => {
            let (Some(a), Some(b)) = (a.as_f64(), b.as_f64()) else { return a == b };
            (a - b).abs() <= tolerance * a.abs().max(b.abs()).max(1.0)
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| nearly_equal(a, b, tolerance))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len()
                && a.iter()
                    .all(|(key, a)| b.get(key).is_some_and(|b| nearly_equal(a, b, tolerance)))
        }
        _ => a == b,
    }
}

/// Where two lists disagree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OrderFault {
    /// One list is longer.
    Length {
        /// Hits of the reference.
        reference: usize,
        /// Hits of the subject.
        subject: usize,
    },
    /// The subject has one document twice.
    Twice {
        /// Its id.
        id: String,
    },
    /// The subject has a document that does not match the query on the reference.
    Stranger {
        /// Its id.
        id: String,
    },
    /// At this place the subject has a document that stands elsewhere.
    Place {
        /// Counted from 0 in the window.
        place: usize,
        /// What the reference has there.
        reference: String,
        /// What the subject has there.
        subject: String,
    },
}

/// Lists that need no look at standings: the same ids in the same order, none twice.
pub fn plainly_equal(reference: &[String], subject: &[String]) -> bool {
    reference == subject && first_twice(subject).is_none()
}

/// Compares two windows by the standings of all their documents on the reference.
///
/// # Errors
/// The first disagreement.
pub fn check_order(
    reference: &[String],
    subject: &[String],
    standings: &BTreeMap<String, Standing>,
) -> Result<(), OrderFault> {
    if let Some(id) = first_twice(subject) {
        return Err(OrderFault::Twice { id: id.to_owned() });
    }
    if reference.len() != subject.len() {
        return Err(OrderFault::Length { reference: reference.len(), subject: subject.len() });
    }
    for (place, (expected, found)) in reference.iter().zip(subject).enumerate() {
        if expected == found {
            continue;
        }
        let Some(standing) = standings.get(found) else {
            return Err(OrderFault::Stranger { id: found.clone() });
        };
        if !standings.get(expected).is_some_and(|wanted| wanted.ties_with(standing)) {
            return Err(OrderFault::Place {
                place,
                reference: expected.clone(),
                subject: found.clone(),
            });
        }
    }
    Ok(())
}

fn first_twice(ids: &[String]) -> Option<&str> {
    let mut seen = BTreeSet::new();
    ids.iter().map(String::as_str).find(|id| !seen.insert(*id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn ids(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn standings() -> BTreeMap<String, Standing> {
        // a and b are tied, c stands behind, d and e are tied at the end.
        [("a", 3, 1.0), ("b", 3, 1.0), ("c", 2, 1.0), ("d", 2, 0.5), ("e", 2, 0.5)]
            .into_iter()
            .map(|(id, words, score)| {
                let details = json!({
                    "typo": { "order": 1, "score": score },
                    "words": { "order": 0, "matchingWords": words },
                });
                (id.to_owned(), Standing::of(details.as_object().expect("object")))
            })
            .collect()
    }

    #[test]
    fn ties_may_change_places_and_be_cut_at_the_end() {
        let standings = standings();
        assert_eq!(check_order(&ids("a b c d"), &ids("b a c e"), &standings), Ok(()));
    }

    #[test]
    fn what_is_not_tied_must_keep_its_place() {
        let standings = standings();
        assert_eq!(
            check_order(&ids("a b c d"), &ids("a c b d"), &standings),
            Err(OrderFault::Place { place: 1, reference: "b".into(), subject: "c".into() })
        );
    }

    #[test]
    fn a_document_twice_or_from_nowhere_is_a_fault() {
        let standings = standings();
        assert_eq!(
            check_order(&ids("a b"), &ids("a a"), &standings),
            Err(OrderFault::Twice { id: "a".into() })
        );
        assert_eq!(
            check_order(&ids("a b"), &ids("a x"), &standings),
            Err(OrderFault::Stranger { id: "x".into() })
        );
        assert!(!plainly_equal(&ids("a a"), &ids("a a")));
    }

    #[test]
    fn geo_ties_by_distance_and_floats_by_rounding() {
        let at = |lat: f64, distance: f64| {
            let details = json!({ "_geoPoint(1, 2):asc": { "order": 0, "value": { "lat": lat }, "distance": distance } });
            Standing::of(details.as_object().expect("object"))
        };
        assert!(at(5.0, 1000.0).ties_with(&at(-5.0, 1000.0)));
        assert!(at(5.0, 1000.0).ties_with(&at(5.0, 1000.0 + 1e-10)));
        assert!(!at(5.0, 1000.0).ties_with(&at(5.0, 1001.0)));
    }
}
