//! The values that a facet search found on several nodes: summed, ordered and cut as one node would.
//!
//! In order of name a node lists the first values it has, so a value among the first `n` of all is
//! among the first `n` of every node that has it: exact, once the order is known. With a text to
//! find, the engine goes through the values by a form that it calls normalised for search, which
//! drops accents and more; ours drops marks only. Where that does not put a node's own list in the
//! node's order, the answer may be cut at another place than one node's, and says so.
//!
//! In order of count, see [`count_order`](super::count_order): exact when no list was cut where it
//! matters.

use std::borrow::Cow;
use std::cmp::Ordering;

use bytes::Bytes;
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

use super::count_order::is_exact_by_count;
use super::facets::{FacetValue, NodeList, sum_values};
use super::normal::normalize_string;
use crate::json_scan::{Malformed, elements, integer, member, members, unescape};

/// How the values are ordered and cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValueRules {
    /// Values that the client gets.
    pub values_max: usize,
    /// The limit that the nodes work with.
    pub node_values_max: usize,
    /// By count instead of by name.
    pub by_count: bool,
    /// There is a text to find.
    pub finds_text: bool,
}

/// One node's answer.
#[derive(Clone, Debug)]
pub struct NodeValues {
    body: Bytes,
}

/// The values for the client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MergedValues {
    /// `facetHits`.
    pub hits: Vec<u8>,
    /// Whether they may differ from what one node would answer.
    pub is_inexact: bool,
}

impl NodeValues {
    /// Checks that `body` is the answer to a facet search.
    ///
    /// # Errors
    /// When it is not.
    pub fn parse(body: Bytes) -> Result<Self, Malformed> {
        if let Err(error) = std::str::from_utf8(&body) {
            return Err(Malformed { at: error.valid_up_to() });
        }
        for part in members(&body) {
            part?;
        }
        let answer = Self { body };
        answer.values()?;
        Ok(answer)
    }

    fn values(&self) -> Result<Vec<FacetValue<'_>>, Malformed> {
        let hits = member(&self.body, "facetHits").ok_or(Malformed { at: 0 })?;
        let mut values = Vec::new();
        for hit in elements(hits) {
            let hit = hit?;
            let printed =
                member(hit, "value").and_then(|text| text.strip_prefix(b"\"")?.strip_suffix(b"\""));
            let count = member(hit, "count").and_then(integer);
            let (Some(printed), Some(count)) = (printed, count) else {
                return Err(Malformed { at: 0 });
            };
            let normal = match unescape(printed) {
                Cow::Borrowed(text) => normalize_string(text),
                Cow::Owned(text) => Cow::Owned(normalize_string(&text).into_owned()),
            };
            values.push(FacetValue { printed, normal, number: None, count });
        }
        Ok(values)
    }
}

/// Merges what the nodes found.
///
/// # Errors
/// When an answer is malformed.
pub fn merge_values(answers: &[NodeValues], rules: ValueRules) -> Result<MergedValues, Malformed> {
    let mut lists = Vec::with_capacity(answers.len());
    for answer in answers {
        let values = answer.values()?;
        let hidden = match values.last() {
            Some(last) if values.len() >= rules.node_values_max => last.count,
            _ => 0,
        };
        lists.push(NodeList { values, hidden, absent: Vec::new() });
    }
    let (mut values, is_exact) = if let [_] = answers {
        // Its order stands.
        (lists.into_iter().flat_map(|list| list.values).collect(), true)
    } else if rules.by_count {
        let is_exact = is_exact_by_count(&lists, rules.values_max);
        let mut values = sum_values(lists.into_iter().map(|list| list.values));
        values.sort_by(|left, right| {
            let printed = |value: &FacetValue<'_>| unescape(value.printed).into_owned();
            right.count.cmp(&left.count).then_with(|| printed(right).cmp(&printed(left)))
        });
        (values, is_exact)
    } else {
        let in_order = |list: &NodeList<'_>| {
            list.values.is_sorted_by(|left, right| by_name(left, right, rules.finds_text).is_le())
        };
        let is_exact = lists.iter().all(in_order);
        let mut values = sum_values(lists.into_iter().map(|list| list.values));
        values.sort_by_cached_key(|value| name_key(value, rules.finds_text));
        // Nothing is cut off: then it does not matter where.
        let is_exact = is_exact || values.len() <= rules.values_max;
        (values, is_exact)
    };
    values.truncate(rules.values_max);
    Ok(MergedValues { hits: write_values(&values), is_inexact: !is_exact })
}

fn by_name(left: &FacetValue<'_>, right: &FacetValue<'_>, finds_text: bool) -> Ordering {
    name_key(left, finds_text).cmp(&name_key(right, finds_text))
}

/// By what values are gone through: the form that texts are found by, then the value itself.
fn name_key(value: &FacetValue<'_>, finds_text: bool) -> (String, String) {
    let normal = value.normal.clone().into_owned();
    if !finds_text {
        return (String::new(), normal);
    }
    let found_by = normal.nfkd().filter(|c| !is_combining_mark(*c)).collect();
    (found_by, normal)
}

fn write_values(values: &[FacetValue<'_>]) -> Vec<u8> {
    let mut out = vec![b'['];
    let mut digits = itoa::Buffer::new();
    for (place, value) in values.iter().enumerate() {
        if place > 0 {
            out.push(b',');
        }
        out.extend_from_slice(b"{\"value\":\"");
        out.extend_from_slice(value.printed);
        out.extend_from_slice(b"\",\"count\":");
        out.extend_from_slice(digits.format(value.count).as_bytes());
        out.push(b'}');
    }
    out.push(b']');
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    const RULES: ValueRules =
        ValueRules { values_max: 3, node_values_max: 4, by_count: false, finds_text: false };

    fn node(values: &[(&str, u64)]) -> NodeValues {
        let hits: Vec<Value> =
            values.iter().map(|(value, count)| json!({"value": value, "count": count})).collect();
        let body = json!({"facetHits": hits, "facetQuery": null, "processingTimeMs": 1});
        NodeValues::parse(Bytes::from(body.to_string())).unwrap_or_else(|error| panic!("{error}"))
    }

    fn merged(nodes: &[&[(&str, u64)]], rules: ValueRules) -> (Vec<(String, u64)>, bool) {
        let nodes: Vec<NodeValues> = nodes.iter().map(|values| node(values)).collect();
        let merged = merge_values(&nodes, rules).unwrap_or_default();
        let hits: Vec<Value> = serde_json::from_slice(&merged.hits).unwrap_or_default();
        let hits = hits.iter().map(|hit| {
            let value = hit["value"].as_str().unwrap_or_default().to_owned();
            (value, hit["count"].as_u64().unwrap_or_default())
        });
        (hits.collect(), merged.is_inexact)
    }

    fn list(values: &[(&str, u64)]) -> Vec<(String, u64)> {
        values.iter().map(|(value, count)| ((*value).to_owned(), *count)).collect()
    }

    #[test]
    fn counts_are_summed_by_name_and_cut() {
        let nodes: [&[(&str, u64)]; 2] =
            [&[("Drama", 2), ("war", 1)], &[("comedy", 4), ("drama", 1), ("Western", 1)]];
        let expected = list(&[("comedy", 4), ("Drama", 3), ("war", 1)]);
        assert_eq!(merged(&nodes, RULES), (expected, false));
        assert_eq!(merged(&[&[], &[]], RULES), (Vec::new(), false));
        // A quote and a line break come back as they were.
        let (hits, _) = merged(&[&[("a \"b\"\n", 1)], &[("A \"B\"\n", 2)]], RULES);
        assert_eq!(hits, list(&[("a \"b\"\n", 3)]));
    }

    #[test]
    fn a_list_in_an_order_that_is_not_ours_is_not_cut_for_sure() {
        let finds_text = ValueRules { finds_text: true, ..RULES };
        let marks: [&[(&str, u64)]; 2] = [&[("été", 1), ("etf", 1)], &[("eta", 1), ("etz", 1)]];
        let expected = list(&[("eta", 1), ("été", 1), ("etf", 1)]);
        assert_eq!(merged(&marks, finds_text), (expected, false));
        let strange: [&[(&str, u64)]; 2] = [&[("b", 1), ("a", 1)], &[("c", 1), ("d", 1)]];
        assert!(merged(&strange, finds_text).1);
        let all_shown = ValueRules { values_max: 4, ..finds_text };
        assert!(!merged(&strange, all_shown).1);
    }

    #[test]
    fn by_count_the_largest_come_first_and_cut_lists_are_doubted() {
        let rules = ValueRules { by_count: true, ..RULES };
        let nodes: [&[(&str, u64)]; 2] = [&[("a", 5), ("b", 4)], &[("b", 3), ("c", 3), ("d", 3)]];
        assert_eq!(merged(&nodes, rules), (list(&[("b", 7), ("a", 5), ("d", 3)]), false));
        let cut: [&[(&str, u64)]; 2] =
            [&[("a", 5), ("b", 4), ("c", 4), ("d", 4)], &[("e", 3), ("f", 3)]];
        assert!(merged(&cut, rules).1);
    }

    #[test]
    fn garbage_is_not_an_answer() {
        for bad in ["", "{}", r#"{"facetHits":[1]}"#, r#"{"facetHits":[{"value":1,"count":1}]}"#] {
            assert!(NodeValues::parse(Bytes::from_static(bad.as_bytes())).is_err(), "{bad}");
        }
    }

    proptest! {
        /// Values spread over nodes, each of which lists its first ones: the merge has the first of
        /// all.
        #[test]
        fn lists_of_parts_merge_into_the_list_of_the_whole(
            values in proptest::collection::btree_map("[a-d]{1,3}", (0..5_u64, 0..5_u64, 0..5_u64), 0..30),
            values_max in 1..12_usize,
            by_count: bool,
        ) {
            let rules = ValueRules { values_max, node_values_max: 12, by_count, finds_text: false };
            let sort = |list: &mut Vec<(String, u64)>| if by_count {
                list.sort_by(|left, right| (right.1, &right.0).cmp(&(left.1, &left.0)));
            } else {
                list.sort();
            };
            let of = |count: &dyn Fn(&(u64, u64, u64)) -> u64| {
                let mut list: Vec<(String, u64)> = values
                    .iter()
                    .map(|(value, counts)| (value.clone(), count(counts)))
                    .filter(|(_, count)| *count > 0)
                    .collect();
                sort(&mut list);
                list
            };
            let mut whole = of(&|counts| counts.0 + counts.1 + counts.2);
            whole.truncate(values_max);
            let parts = [of(&|counts| counts.0), of(&|counts| counts.1), of(&|counts| counts.2)];
            let nodes: Vec<Vec<(&str, u64)>> = parts
                .iter()
                .map(|part| part.iter().take(12).map(|(value, count)| (value.as_str(), *count)).collect())
                .collect();
            let nodes: Vec<&[(&str, u64)]> = nodes.iter().map(Vec::as_slice).collect();
            let (found, is_inexact) = merged(&nodes, rules);
            let counts = |list: &[(String, u64)]| list.iter().map(|(_, count)| *count).collect::<Vec<_>>();
            // By count, ties at the cut are free.
            prop_assert!(is_inexact || found == whole || (by_count && counts(&found) == counts(&whole)));
            prop_assert!(by_count || !is_inexact);
        }
    }
}
