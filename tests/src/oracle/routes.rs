//! Facet search, similar documents and federation: what is asked, and when two answers agree.
//!
//! | route | strict | a rate only |
//! |---|---|---|
//! | facet search | values, counts, order; by count, ties at the cut are free | under a distinct attribute or a threshold, where one node counts what it looked at |
//! | similar | a window over all vectors, which makes the approximate index exact | smaller windows, thresholds |
//! | federation | as its queries are; hits of two queries that have one weighted score are tied | as its queries are, and facets or totals under a distinct or a threshold |
//!
//! Federation compares hits of different queries by their *scores*, whose scale follows the local
//! dictionary. So a difference in order is excused where both sides give one hit different scores.

use std::collections::BTreeMap;

use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha12Rng;
use serde_json::{Value, json};

use super::compare::{Fault, Question, compare_facet_hits, compare_hits, hit_ids};
use super::documents::{EMBEDDER, VECTOR_DOCUMENTS, text_of};
use super::filters::draw_filter;
use super::judge::{Answers, Side, Verdict};
use super::order::{OrderFault, Standing, check_order, nearly_equal, plainly_equal};
use super::queries::{Draft, Generator, WHOLE_VECTOR_WINDOW};
use super::variants::Variant;
use super::words::{draw_words, slip};
use super::{Case, Class, Object, Route};
use crate::client::ApiFault;

impl Generator {
    /// A facet search.
    pub(super) fn facet_search(&self, rng: &mut ChaCha12Rng, number: u64) -> Case {
        let variant = &self.variants[rng.random_range(0..self.variants.len())];
        let mut draft = Draft::new("facet search");
        let category = self.profile.categories.choose(rng);
        let (name, values) = match category {
            Some(field) => (field.name.clone(), field.values.as_slice()),
            None => ("bucket".to_owned(), &[][..]),
        };
        // One rule of this variant lets values be found.
        let granular = variant.settings["filterableAttributes"][0].is_object();
        let name = if granular && rng.random_bool(0.8) { "bucket".to_owned() } else { name };
        draft.set("facetName", json!(name));
        if let Some(value) = values.choose(rng).filter(|_| rng.random_bool(0.7)) {
            let letters = value.chars().count();
            let begun: String = value.chars().take(rng.random_range(0..=letters)).collect();
            let is_slip = begun.chars().count() > 4 && rng.random_bool(0.3);
            draft.set("facetQuery", json!(if is_slip { slip(rng, &begun) } else { begun }));
            draft.label("facet query");
        }
        if rng.random_bool(0.4)
            && let (Some(q), label) = draw_words(rng, &self.profile)
        {
            draft.set("q", json!(q));
            draft.label(label);
        }
        if rng.random_bool(0.4) {
            draft.set("filter", draw_filter(rng, &self.profile));
        }
        if rng.random_bool(0.3) {
            draft.set("exhaustiveFacetCount", json!(rng.random_bool(0.8)));
        }
        if rng.random_bool(0.1) {
            draft.set("matchingStrategy", json!("all"));
        }
        if rng.random_bool(0.05) {
            draft.set("rankingScoreThreshold", json!(0.5));
            draft.class = Class::Rate;
        }
        if variant.distinct.is_some() {
            draft.class = Class::Rate;
            draft.label("facets of distinct");
        }
        draft.into_case(number, variant.index, Route::FacetSearch)
    }

    /// A search for similar documents.
    pub(super) fn similar(&self, rng: &mut ChaCha12Rng, number: u64) -> Case {
        let mut draft = Draft::new("similar");
        let ids = self.profile.ids.get(..VECTOR_DOCUMENTS).unwrap_or(&self.profile.ids);
        let id = ids.choose(rng).cloned().unwrap_or_default();
        draft.set("id", json!(id));
        draft.set("embedder", json!(EMBEDDER));
        if rng.random_bool(0.7) {
            draft.set("limit", json!(WHOLE_VECTOR_WINDOW));
        } else {
            draft.class = Class::Rate;
            draft.label("approximate neighbours");
            draft.set("offset", json!(rng.random_range(0..20)));
            draft.set("limit", json!(rng.random_range(0..20)));
        }
        if rng.random_bool(0.5) {
            draft.set("filter", draw_filter(rng, &self.profile));
        }
        if rng.random_bool(0.1) {
            draft.set("rankingScoreThreshold", json!(f64::from(rng.random_range(1..=9)) / 10.0));
            draft.class = Class::Rate;
        }
        for flag in ["retrieveVectors", "showRankingScore", "showRankingScoreDetails"] {
            if rng.random_bool(0.2) {
                draft.set(flag, json!(true));
            }
        }
        if rng.random_bool(0.2) {
            draft.set("attributesToRetrieve", json!(self.some_fields(rng)));
        }
        let vectors = self.variants.iter().find(|variant| variant.vectors);
        draft.into_case(number, vectors.map_or("vectors", |variant| variant.index), Route::Similar)
    }

    /// A federated search.
    pub(super) fn federation(&self, rng: &mut ChaCha12Rng, number: u64) -> Case {
        let mut draft = Draft::new("federation");
        let mut queries = Vec::new();
        let mut indexes = Vec::new();
        let mut counts_are_exact = true;
        // Queries that go together, mostly: the same rules, or without sorts.
        let one = rng.random_bool(0.5).then(|| rng.random_range(0..self.variants.len()));
        for _ in 0..rng.random_range(1..=3) {
            let place = one.unwrap_or_else(|| rng.random_range(0..self.variants.len()));
            let variant = &self.variants[place];
            let mut query = self.search(rng, variant);
            for key in ["page", "hitsPerPage", "offset", "limit", "facets"] {
                query.body.remove(key);
            }
            if rng.random_bool(0.8) {
                query.body.remove("sort");
            }
            if let Some(Value::Array(fields)) = query.body.get_mut("attributesToRetrieve")
                && !fields.iter().any(|field| field == "id" || field == "*")
            {
                fields.push(json!("id"));
            }
            query.set("indexUid", json!(variant.index));
            if rng.random_bool(0.4) {
                let weight = [0.5, 0.9, 1.0, 1.3, 2.0].choose(rng).copied().unwrap_or(1.0);
                query.set("federationOptions", json!({ "weight": weight }));
            }
            let has_vectors = query.body.contains_key("vector");
            if query.class == Class::Rate || has_vectors {
                draft.class = Class::Rate;
            }
            let drops = query.body.contains_key("distinct") || variant.distinct.is_some();
            counts_are_exact &= !drops && !query.body.contains_key("rankingScoreThreshold");
            draft.labels.extend(query.labels.iter().copied());
            queries.push(Value::Object(query.body));
            indexes.push(variant);
        }
        if !counts_are_exact {
            draft.class = Class::Rate;
        }
        draft.labels.sort_unstable();
        draft.labels.dedup();
        draft.set("queries", Value::Array(queries));
        draft.set("federation", self.draw_federation(rng, &indexes));
        draft.into_case(number, "", Route::Federation)
    }

    fn draw_federation(&self, rng: &mut ChaCha12Rng, indexes: &[&Variant]) -> Value {
        let mut federation = Object::new();
        let mut set = |key: &str, value: Value| drop(federation.insert(key.to_owned(), value));
        match rng.random_range(0..3) {
            0 => {}
            1 => {
                set("offset", json!([0, 3, 20, 100].choose(rng)));
                set("limit", json!([0, 1, 10, 50, 300].choose(rng)));
            }
            _ => {
                set("page", json!(rng.random_range(1..5)));
                set("hitsPerPage", json!([1, 7, 20].choose(rng)));
            }
        }
        if rng.random_bool(0.4) {
            let facets: Object = indexes
                .iter()
                .map(|variant| (variant.index.to_owned(), json!(["bucket"])))
                .collect();
            set("facetsByIndex", Value::Object(facets));
            if rng.random_bool(0.5) {
                set("mergeFacets", json!({ "maxValuesPerFacet": rng.random_range(1..50) }));
            }
        }
        Value::Object(federation)
    }
}

/// Compares two answers to a facet search.
pub(super) fn judge_facet_search(case: &Case, variant: &Variant, verdict: &mut Verdict) {
    let question = Question { body: &case.body, variant };
    let (reference, subject) = (&verdict.reference, &verdict.subject);
    let name = case.body.get("facetName").map(text_of).unwrap_or_default();
    let mut faults = compare_facet_hits(&question, &name, reference, subject);
    faults.extend(keys_differ(reference, subject, &["facetQuery"], &["facetHits"]));
    verdict.faults.extend(faults);
}

/// The keys of two answers: those `equal` must be so, those `there` must be on both sides or on
/// none, and there may be no others.
fn keys_differ(reference: &Value, subject: &Value, equal: &[&str], there: &[&str]) -> Vec<Fault> {
    let empty = Object::new();
    let of = |answer: &Value| -> Vec<String> {
        answer.as_object().unwrap_or(&empty).keys().cloned().collect()
    };
    let mut keys = of(reference);
    keys.extend(of(subject));
    keys.sort_unstable();
    keys.dedup();
    keys.into_iter()
        .filter(|key| {
            let (a, b) = (reference.get(key), subject.get(key));
            let is = |list: &[&str]| list.contains(&key.as_str());
            match key.as_str() {
                "processingTimeMs" | "requestUid" => a.is_some() != b.is_some(),
                _ if is(there) => a.is_some() != b.is_some(),
                _ if is(equal) => a != b,
                _ => true,
            }
        })
        .map(|key| Fault::Key {
            reference: reference[&key].clone(),
            subject: subject[&key].clone(),
            key,
        })
        .collect()
}

/// Compares two answers to a search for similar documents.
pub(super) async fn judge_similar<A: Answers>(
    answers: &A,
    case: &Case,
    verdict: &mut Verdict,
) -> Result<(), ApiFault> {
    let (reference, subject) = (verdict.reference.clone(), verdict.subject.clone());
    let (left, right) = (hit_ids(&reference), hit_ids(&subject));
    if !plainly_equal(&left, &right) {
        let mut probe = case.body.clone();
        probe.insert("offset".into(), json!(0));
        probe.insert("limit".into(), json!(WHOLE_VECTOR_WINDOW));
        probe.insert("showRankingScoreDetails".into(), json!(true));
        probe.insert("attributesToRetrieve".into(), json!(["id"]));
        let whole = answers.ask(Side::Reference, Route::Similar, &case.index, &probe).await?.body;
        let standings: BTreeMap<String, Standing> = hits(&whole)
            .iter()
            .filter_map(|hit| {
                Some((text_of(&hit["id"]), Standing::of(hit["_rankingScoreDetails"].as_object()?)))
            })
            .collect();
        if let Err(fault) = check_order(&left, &right, &standings) {
            verdict.faults.push(Fault::Order(fault));
        }
    }
    let equal = ["id", "limit", "offset", "estimatedTotalHits"];
    verdict.faults.extend(keys_differ(&reference, &subject, &equal, &["hits"]));
    verdict.faults.extend(compare_hits(hits(&reference), hits(&subject)));
    Ok(())
}

fn hits(answer: &Value) -> &[Value] {
    answer["hits"].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// What a federated hit is: the same document may come from two indexes.
fn federated_id(hit: &Value) -> String {
    format!("{}/{}", text_of(&hit["_federation"]["indexUid"]), text_of(&hit["id"]))
}

/// Compares two answers to a federated search.
pub(super) async fn judge_federation<A: Answers>(
    answers: &A,
    variants: &[Variant],
    case: &Case,
    verdict: &mut Verdict,
) -> Result<(), ApiFault> {
    let (reference, subject) = (verdict.reference.clone(), verdict.subject.clone());
    let ids = |answer: &Value| hits(answer).iter().map(federated_id).collect::<Vec<_>>();
    let (left, right) = (ids(&reference), ids(&subject));
    if left != right {
        let whole = ask_for_standings(answers, case, Side::Reference).await?;
        if let Some(fault) = federated_order(&left, &right, &whole) {
            let other = ask_for_standings(answers, case, Side::Subject).await?;
            let score = |hit: &Value| hit["_federation"]["weightedRankingScore"].clone();
            let scores_differ = whole.iter().any(|(id, hit)| {
                other.get(id).is_some_and(|other| !nearly_equal(&score(hit), &score(other), 1e-9))
            });
            verdict.scores_differ |= scores_differ;
            let list = if scores_differ { &mut verdict.excused } else { &mut verdict.faults };
            list.push(Fault::Order(fault));
        }
    }
    let window = ["limit", "offset", "hitsPerPage", "page"];
    let counted = ["estimatedTotalHits", "totalHits", "totalPages"];
    let equal = [&window[..], &counted[..]].concat();
    let there = ["hits", "semanticHitCount", "facetDistribution", "facetStats", "facetsByIndex"];
    verdict.faults.extend(keys_differ(&reference, &subject, &equal, &there));
    let distributions = |answer: &Value| -> Vec<(String, Value)> {
        let mut all = vec![(String::new(), answer["facetDistribution"].clone())];
        let by_index = answer["facetsByIndex"].as_object().into_iter().flatten();
        all.extend(by_index.map(|(index, facets)| (index.clone(), facets["distribution"].clone())));
        all
    };
    for ((index, a), (_, b)) in distributions(&reference).into_iter().zip(distributions(&subject)) {
        let by_count = variants.iter().any(|variant| {
            let orders = &variant.settings["faceting"]["sortFacetValuesBy"];
            (variant.index == index || index.is_empty()) && orders["*"] == json!("count")
        });
        // By count, ties may stand in any order and be cut anywhere.
        let counts = |distribution: &Value| -> Vec<u64> {
            let values = distribution["bucket"].as_object().into_iter().flatten();
            values.filter_map(|(_, count)| count.as_u64()).collect()
        };
        if (by_count && counts(&a) != counts(&b)) || (!by_count && a != b) {
            verdict.faults.push(Fault::Facet { field: index, reference: a, subject: b });
        }
    }
    // Which query shows a document that two find alike, and so how, is free where scores tie.
    if left == right {
        verdict.faults.extend(
            compare_hits(hits(&reference), hits(&subject)).into_iter().filter(
                |fault| !matches!(fault, Fault::Document { key, .. } if key.starts_with('_')),
            ),
        );
    }
    Ok(())
}

/// The hits of the request, and many after them, with what they are ordered by.
async fn ask_for_standings<A: Answers>(
    answers: &A,
    case: &Case,
    side: Side,
) -> Result<BTreeMap<String, Value>, ApiFault> {
    // Where nothing ranks, all documents tie.
    const BEHIND: u64 = 5000;
    let mut body = case.body.clone();
    for query in body.get_mut("queries").and_then(Value::as_array_mut).into_iter().flatten() {
        query["showRankingScoreDetails"] = json!(true);
        query["attributesToRetrieve"] = json!(["id"]);
    }
    let federation = &case.body["federation"];
    let number = |key: &str| federation[key].as_u64();
    let end = match (number("page"), number("hitsPerPage")) {
        (None, None) => number("offset").unwrap_or(0) + number("limit").unwrap_or(20),
        (page, size) => page.unwrap_or(1) * size.unwrap_or(20),
    };
    body.insert("federation".into(), json!({ "limit": end + BEHIND }));
    let reply = answers.ask(side, Route::Federation, &case.index, &body).await?;
    Ok(hits(&reply.body).iter().map(|hit| (federated_id(hit), hit.clone())).collect())
}

/// The first place where two hits that are not tied differ.
fn federated_order(
    reference: &[String],
    subject: &[String],
    standings: &BTreeMap<String, Value>,
) -> Option<OrderFault> {
    if reference.len() != subject.len() {
        return Some(OrderFault::Length { reference: reference.len(), subject: subject.len() });
    }
    let mut seen = std::collections::BTreeSet::new();
    for (place, (expected, found)) in reference.iter().zip(subject).enumerate() {
        if !seen.insert(found) {
            return Some(OrderFault::Twice { id: found.clone() });
        }
        if expected == found {
            continue;
        }
        let Some(standing) = standings.get(found) else {
            return Some(OrderFault::Stranger { id: found.clone() });
        };
        let is_tied = standings.get(expected).is_some_and(|wanted| {
            let score = |hit: &Value| hit["_federation"]["weightedRankingScore"].clone();
            let details = |hit: &Value| {
                Standing::of(hit["_rankingScoreDetails"].as_object().unwrap_or(&Object::new()))
            };
            nearly_equal(&score(wanted), &score(standing), 1e-12)
                && details(wanted).sorts_like(&details(standing))
        });
        if !is_tied {
            return Some(OrderFault::Place {
                place,
                reference: expected.clone(),
                subject: found.clone(),
            });
        }
    }
    None
}
