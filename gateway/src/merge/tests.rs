//! The merge as a property: lists cut from a sorted whole merge into that whole again.

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::answer::NodeAnswer;
use super::*;

/// A rule of the generated order; an independent model of what the engine does with it.
#[derive(Clone, Debug)]
enum Rule {
    Words,
    Typo,
    Proximity,
    Attribute,
    Exactness,
    Sort { ascending: bool },
    Geo { ascending: bool },
}

/// What one rule said of one document: small numbers, so that ties are common.
#[derive(Clone, Copy, Debug)]
struct Draw {
    rank: u32,
    second: u32,
    kind: u8,
}

fn rules() -> impl Strategy<Value = Vec<Rule>> {
    let all = vec![
        Rule::Words,
        Rule::Typo,
        Rule::Proximity,
        Rule::Attribute,
        Rule::Exactness,
        Rule::Sort { ascending: true },
        Rule::Sort { ascending: false },
        Rule::Geo { ascending: true },
        Rule::Geo { ascending: false },
    ];
    proptest::sample::subsequence(all, 1..=6).prop_shuffle().prop_map(|rules| {
        // One geo rule per query, as in the engine.
        let mut seen = false;
        rules
            .into_iter()
            .filter(|rule| !matches!(rule, Rule::Geo { .. }) || !std::mem::replace(&mut seen, true))
            .collect()
    })
}

fn draws() -> impl Strategy<Value = Vec<Draw>> {
    let draw =
        (0..4_u32, 0..3_u32, 0..3_u8).prop_map(|(rank, second, kind)| Draw { rank, second, kind });
    proptest::collection::vec(draw, 6)
}

impl Rule {
    /// The rule's part of `_rankingScoreDetails`. `total` is the largest count, different on
    /// every node, as it may be.
    fn details(&self, order: usize, draw: Draw, total: u32) -> (String, Value) {
        let Draw { rank, second, kind } = draw;
        match self {
            Self::Words => {
                let score = f64::from(rank) / f64::from(total);
                let details = json!({"order": order, "matchingWords": rank, "maxMatchingWords": total, "score": score});
                ("words".into(), details)
            }
            Self::Typo => {
                let score = f64::from(total + 1 - rank) / f64::from(total + 1);
                let details = json!({"order": order, "typoCount": rank, "maxTypoCount": total, "score": score});
                ("typo".into(), details)
            }
            Self::Proximity => {
                ("proximity".into(), json!({"order": order, "score": f64::from(rank) / 7.0}))
            }
            Self::Attribute => {
                let details = json!({"order": order, "attributeRankingOrderScore": f64::from(rank) / 3.0,
                    "queryWordDistanceScore": f64::from(second) / 9.0, "score": 0.5});
                ("attribute".into(), details)
            }
            Self::Exactness => match kind {
                0 => {
                    let details = json!({"order": order, "matchType": "noExactMatch",
                        "matchingWords": second, "maxMatchingWords": total, "score": 0.3});
                    ("exactness".into(), details)
                }
                1 => (
                    "exactness".into(),
                    json!({"order": order, "matchType": "matchesStart", "score": 0.6}),
                ),
                _ => (
                    "exactness".into(),
                    json!({"order": order, "matchType": "exactMatch", "score": 1.0}),
                ),
            },
            Self::Sort { ascending } => {
                let value = match kind {
                    0 => json!(null),
                    1 => json!(f64::from(rank)),
                    _ => json!(format!("\"{rank}é")),
                };
                let name = if *ascending { "words:asc" } else { "a.b:desc" };
                (name.into(), json!({"order": order, "value": value}))
            }
            Self::Geo { ascending } => {
                // 0.4 m apart within a step: inside the engine's bucket; steps are far apart.
                let distance =
                    (kind > 0).then(|| f64::from(rank) * 1000.0 + f64::from(second) * 0.4);
                let name = format!("_geoPoint(1, 2):{}", if *ascending { "asc" } else { "desc" });
                (name, json!({"order": order, "value": null, "distance": distance}))
            }
        }
    }

    /// Sorts ascending by this key: best first.
    fn key(&self, draw: Draw) -> Vec<i64> {
        let Draw { rank, second, kind } = draw;
        let (rank, second, kind) = (i64::from(rank), i64::from(second), i64::from(kind));
        match self {
            Self::Words | Self::Proximity => vec![-rank],
            Self::Typo => vec![rank],
            Self::Attribute => vec![-rank, -second],
            Self::Exactness => vec![-kind, if kind == 0 { -second } else { 0 }],
            Self::Sort { ascending } => {
                let directed = if *ascending { rank } else { -rank };
                match kind {
                    0 => vec![2, 0],
                    1 => vec![0, directed],
                    _ => vec![1, directed],
                }
            }
            Self::Geo { ascending } => match kind {
                0 => vec![1, 0],
                _ => vec![0, if *ascending { rank } else { -rank }],
            },
        }
    }
}

fn answer(hits: &[Value]) -> NodeAnswer {
    let body = json!({"hits": hits, "estimatedTotalHits": hits.len()}).to_string();
    NodeAnswer::parse(Bytes::from(body)).unwrap_or_else(|error| panic!("{error}"))
}

fn plan(order: HitOrder, window: Range<usize>) -> MergePlan {
    MergePlan {
        order,
        distinct: None,
        counts_distinct: false,
        echo: WindowEcho::Offset { offset: window.start as u64, limit: window.len() as u64 },
        window,
        cuts: HitCuts { score: true, details: true, ..Default::default() },
        facets: FacetRules::default(),
        total_hits_max: 1000,
        query: "q".into(),
        index_uid: None,
    }
}

fn merged_hits(answers: &[NodeAnswer], plan: &MergePlan) -> Vec<Value> {
    let merged = merge_answers(answers, &[], plan, 1).unwrap_or_else(|error| panic!("{error}"));
    let answer: Value = serde_json::from_slice(&merged.body).unwrap_or_default();
    answer.get("hits").and_then(Value::as_array).cloned().unwrap_or_default()
}

proptest! {
    #[test]
    fn lists_cut_from_a_sorted_whole_merge_into_it(
        rules in rules(),
        documents in proptest::collection::vec((draws(), 0..3_usize), 0..40),
        window in (0..10_usize, 0..20_usize),
    ) {
        let keys: Vec<Vec<i64>> = documents
            .iter()
            .map(|(draws, _)| rules.iter().zip(draws).flat_map(|(r, d)| r.key(*d)).collect())
            .collect();
        let mut best_first: Vec<usize> = (0..documents.len()).collect();
        best_first.sort_by_key(|&id| &keys[id]);
        let mut lists: [Vec<Value>; 3] = Default::default();
        for &id in &best_first {
            let (draws, node) = &documents[id];
            let details: serde_json::Map<String, Value> = rules
                .iter()
                .zip(draws)
                .enumerate()
                .map(|(order, (rule, draw))| rule.details(order, *draw, 5 + *node as u32))
                .collect();
            lists[*node].push(json!({"id": id, "_rankingScoreDetails": details}));
        }
        let window = window.0..window.0 + window.1;
        // A node is asked for no more than the end of the window.
        let answers: Vec<NodeAnswer> =
            lists.iter().map(|list| answer(&list[..list.len().min(window.end)])).collect();
        let merged = merged_hits(&answers, &plan(HitOrder::Rules, window.clone()));
        let merged_keys: Vec<&Vec<i64>> = merged
            .iter()
            .map(|hit| &keys[hit["id"].as_u64().unwrap_or_default() as usize])
            .collect();
        let expected: Vec<&Vec<i64>> = best_first
            .iter()
            .skip(window.start)
            .take(window.len())
            .map(|&id| &keys[id])
            .collect();
        prop_assert_eq!(merged_keys, expected);
        prop_assert!(merged.iter().all(|hit| hit.as_object().is_some_and(|hit| hit.len() == 1)));
    }

    #[test]
    fn scores_merge_like_numbers(scores in proptest::collection::vec((0..50_u32, 0..4_usize), 0..60)) {
        let mut best_first = scores.clone();
        best_first.sort_by_key(|(score, _)| std::cmp::Reverse(*score));
        let mut lists: [Vec<Value>; 4] = Default::default();
        for (score, node) in &best_first {
            lists[*node].push(json!({"s": score, "_rankingScore": f64::from(*score) / 49.0}));
        }
        let answers: Vec<NodeAnswer> = lists.iter().map(|list| answer(list)).collect();
        let merged = merged_hits(&answers, &plan(HitOrder::Score, 0..1000));
        let merged: Vec<u64> = merged.iter().filter_map(|hit| hit["s"].as_u64()).collect();
        let expected: Vec<u64> = best_first.iter().map(|(score, _)| u64::from(*score)).collect();
        prop_assert_eq!(merged, expected);
    }
}

#[test]
fn ties_are_taken_from_all_lists_alike() {
    let hit = |id: u32| json!({"id": id, "_rankingScore": 0.5});
    let answers = [answer(&[hit(1), hit(2)]), answer(&[hit(3)])];
    for order in [HitOrder::Score, HitOrder::Arrival] {
        let merged = merged_hits(&answers, &plan(order, 0..10));
        assert_eq!(merged, [json!({"id": 1}), json!({"id": 3}), json!({"id": 2})]);
    }
}

#[test]
fn a_cut_list_that_runs_out_is_named_unless_the_page_is_full() {
    let hit = |id: u32, score: f64| json!({"id": id, "_rankingScore": score});
    let mut answers = [answer(&[hit(1, 0.9), hit(2, 0.8)]), answer(&[hit(3, 0.1)])];
    answers[0].has_more = true;
    let merged = |window: Range<usize>| {
        merge_answers(&answers, &[], &plan(HitOrder::Score, window), 1).map(drop)
    };
    assert_eq!(merged(0..2), Ok(()));
    assert_eq!(merged(0..3), Err(MergeError::RanOut(0)));
    assert_eq!(merged(2..3), Err(MergeError::RanOut(0)));
}

#[test]
fn what_was_skipped_for_lack_of_time_comes_after_what_was_judged() {
    let judged = json!({"id": 1, "_rankingScoreDetails": {"words": {"order": 0, "matchingWords": 1}, "typo": {"order": 1, "typoCount": 9}}});
    let skipped = json!({"id": 2, "_rankingScoreDetails": {"words": {"order": 0, "matchingWords": 1}, "skipped": {"order": 1}}});
    let answers = [answer(std::slice::from_ref(&skipped)), answer(std::slice::from_ref(&judged))];
    let merged = merged_hits(&answers, &plan(HitOrder::Rules, 0..10));
    assert_eq!(merged, [json!({"id": 1}), json!({"id": 2})]);
}

#[test]
fn hybrid_results_are_weighted_by_the_semantic_ratio() {
    let keyword = json!({"id": 1, "_rankingScore": 0.9, "_rankingScoreDetails": {"words": {"order": 0, "matchingWords": 1}}});
    let vector = json!({"id": 2, "_rankingScore": 0.5, "_rankingScoreDetails": {"vectorSort": {"order": 0, "similarity": 0.5}}});
    let answers = [answer(std::slice::from_ref(&keyword)), answer(std::slice::from_ref(&vector))];
    let first = |semantic_ratio| {
        merged_hits(&answers, &plan(HitOrder::Hybrid { semantic_ratio }, 0..10))[0]["id"].clone()
    };
    assert_eq!((first(0.5), first(0.9)), (json!(1), json!(2)));
}

#[test]
fn a_value_of_the_distinct_attribute_shows_once_and_totals_count_it_once() {
    let body = |text: &'static str| {
        NodeAnswer::parse(Bytes::from_static(text.as_bytes())).unwrap_or_else(|e| panic!("{e}"))
    };
    let answers = [
        body(
            r#"{"hits":[{"b":"x","_rankingScore":0.9},{"b":"y","_rankingScore":0.5}],"totalHits":3,"facetDistribution":{"b":{"x":1,"y":1}},"facetStats":{}}"#,
        ),
        body(
            r#"{"hits":[{"b":"X","_rankingScore":0.8},{"b":"z","_rankingScore":0.7}],"totalHits":2,"facetDistribution":{"b":{"X":1,"z":1}},"facetStats":{}}"#,
        ),
    ];
    let mut plan = plan(HitOrder::Score, 0..2);
    plan.distinct = Some("b".into());
    plan.counts_distinct = true;
    plan.facets =
        FacetRules { values_max: 10, node_values_max: 10, only_added: true, ..Default::default() };
    plan.echo = WindowEcho::Page { page: 1, hits_per_page: 2 };
    let merged =
        merge_answers(&answers, &[], &plan, 3).map(|merged| merged.body).unwrap_or_default();
    assert_eq!(
        String::from_utf8_lossy(&merged),
        r#"{"hits":[{"b":"x"},{"b":"z"}],"query":"q","processingTimeMs":3,"hitsPerPage":2,"page":1,"totalPages":2,"totalHits":4}"#
    );
}

#[test]
fn totals_are_capped() {
    let hit = json!({"id": 1});
    let mut plan = plan(HitOrder::Arrival, 0..1);
    plan.total_hits_max = 1;
    let answers = [answer(std::slice::from_ref(&hit)), answer(std::slice::from_ref(&hit))];
    let merged =
        merge_answers(&answers, &[], &plan, 0).map(|merged| merged.body).unwrap_or_default();
    assert!(String::from_utf8_lossy(&merged).contains(r#""estimatedTotalHits":1}"#));
}

#[test]
fn documents_dropped_by_distinct_are_not_counted() {
    let body = |text: &'static str| {
        NodeAnswer::parse(Bytes::from_static(text.as_bytes())).unwrap_or_else(|_| answer(&[]))
    };
    let answers = [
        body(
            r#"{"hits":[{"b":"x"},{"b":7}],"estimatedTotalHits":2,"facetDistribution":{"b":{"7":1,"x":1}},"facetStats":{"b":{"min":7,"max":7}}}"#,
        ),
        body(
            r#"{"hits":[{"b":"X"},{"b":"z"}],"estimatedTotalHits":9,"facetDistribution":{"b":{"X":1,"z":1,"y":8}},"facetStats":{}}"#,
        ),
    ];
    let mut plan = plan(HitOrder::Arrival, 0..20);
    plan.distinct = Some("b".into());
    plan.facets = FacetRules { values_max: 10, node_values_max: 10, ..Default::default() };
    let merged = |plan: &MergePlan| {
        let merged = merge_answers(&answers, &[], plan, 3).map(|merged| merged.body);
        String::from_utf8_lossy(&merged.unwrap_or_default()).into_owned()
    };
    let offset = merged(&plan);
    assert!(offset.contains(r#""estimatedTotalHits":10"#), "{offset}");
    assert!(offset.contains(r#"{"b":{"7":1,"x":1,"y":8,"z":1}}"#), "{offset}");
    plan.echo = WindowEcho::Page { page: 1, hits_per_page: 20 };
    let pages = merged(&plan);
    assert!(pages.contains(r#"{"b":{"7":1,"x":1,"y":1,"z":1}}"#), "{pages}");
}
