//! Facets in order of count: exact in at most two rounds.
//!
//! A node whose list is at its limit may have further values, each at most as frequent as its last
//! one. So each value has a lower bound, the sum of what is known of it, and an upper bound: that,
//! and the last counts of those lists that are cut and lack it. The first `n` are sure once
//! nothing is missing of them, and nobody else's upper bound is above the least of them (a
//! threshold algorithm). Where that is not so, the second round asks the nodes for the counts of
//! the values that could be among the first, by a search that finds the documents which have one
//! of them: its counts of those values are whole.
//!
//! Not decided in two rounds are facets that are nearly flat, where the last counts of all cut
//! lists together exceed the `n`th count: a value that nobody listed might be among the first.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use super::answer::NodeAnswer;
use super::facets::{
    FacetRules, FacetValue, NodeFacets, NodeList, number_range, read_list, read_values,
};
use crate::json_scan::{Malformed, members, unescape};

/// Values that the second round asks for, unless the client wants to see so many.
const RECOUNT_VALUES_MIN: usize = 1000;
/// At most.
const RECOUNT_VALUES_MAX: usize = 10_000;

/// Longer values are not asked for again, bytes: the engine keeps only the beginning of a long
/// value, under which a filter with the whole of it finds nothing.
const ASKED_VALUE_BYTES_MAX: usize = 150;

/// What to ask one node again.
#[derive(Clone, Debug, PartialEq)]
pub struct Recount {
    /// The node's place among the answers.
    pub place: usize,
    /// The facet.
    pub field: String,
    /// The values whose counts are wanted.
    pub values: Vec<AskedValue>,
}

/// A value as another node printed it.
#[derive(Clone, Debug, PartialEq)]
pub struct AskedValue {
    /// The value, not escaped.
    pub text: String,
    normal: String,
    is_number: bool,
}

/// What a node answered to a [`Recount`].
#[derive(Clone, Debug)]
pub struct Recounted {
    /// What it was asked.
    pub asked: Recount,
    /// Its answer: a search with the one facet.
    pub answer: NodeAnswer,
}

/// A value under the form by which nodes agree on it; `true` for a number.
type Key<'a> = (&'a str, bool);

fn key<'v>(value: &'v FacetValue<'_>) -> Key<'v> {
    (&value.normal, value.number.is_some())
}

/// What is known of one value.
struct Bound<'l, 'a> {
    value: &'l FacetValue<'a>,
    /// The sum of the counts that are known.
    known: u64,
    /// The most that may be missing from it.
    missing: u64,
}

impl Bound<'_, '_> {
    fn upper(&self) -> u64 {
        self.known + self.missing
    }
}

/// All values listed anywhere, most frequent first as far as known.
fn bounds<'l, 'a>(lists: &'l [NodeList<'a>]) -> Vec<Bound<'l, 'a>> {
    let hidden: u64 = lists.iter().map(|list| list.hidden).sum();
    let mut places: HashMap<Key<'_>, usize> = HashMap::new();
    let mut bounds: Vec<Bound<'_, '_>> = Vec::new();
    for list in lists {
        for value in &list.values {
            let place = *places.entry(key(value)).or_insert(bounds.len());
            match bounds.get_mut(place) {
                Some(bound) => {
                    bound.known += value.count;
                    bound.missing -= list.hidden;
                }
                None => {
                    bounds.push(Bound { value, known: value.count, missing: hidden - list.hidden });
                }
            }
        }
    }
    for list in lists {
        for (normal, is_number) in &list.absent {
            let place = places.get(&(normal.as_ref(), *is_number));
            if let Some(bound) = place.and_then(|place| bounds.get_mut(*place)) {
                bound.missing -= list.hidden;
            }
        }
    }
    bounds.sort_by_key(|bound| std::cmp::Reverse((bound.known, bound.missing)));
    bounds
}

/// Whether no value cut from a node's list can belong among the first `values_max` by count, and
/// the counts of those are whole.
pub(super) fn is_exact_by_count(lists: &[NodeList<'_>], values_max: usize) -> bool {
    let hidden: u64 = lists.iter().map(|list| list.hidden).sum();
    hidden == 0 || (!is_mixed(lists) && is_exact(&bounds(lists), hidden, values_max))
}

fn is_exact(bounds: &[Bound<'_, '_>], hidden: u64, values_max: usize) -> bool {
    let Some((kept, rest)) = bounds.split_at_checked(values_max) else { return false };
    let lowest_kept = kept.last().map_or(u64::MAX, |bound| bound.known);
    kept.iter().all(|bound| bound.missing == 0)
        && rest.iter().all(|bound| bound.upper() <= lowest_kept)
        && hidden <= lowest_kept
}

/// Numbers and strings are listed one after the other, each by count: the bounds don't hold.
fn is_mixed(lists: &[NodeList<'_>]) -> bool {
    let mut values = lists.iter().flat_map(|list| &list.values).map(|value| value.number.is_some());
    let first = values.next();
    values.any(|is_number| Some(is_number) != first)
}

/// What the second round has to ask, which is nothing when the first was enough.
///
/// # Errors
/// When a node's part is malformed.
pub fn plan_recounts(
    nodes: &[NodeFacets<'_>],
    rules: &FacetRules,
) -> Result<Vec<Recount>, Malformed> {
    let any_by_count = rules.by_count_default || rules.by_count.values().any(|by_count| *by_count);
    if !any_by_count || nodes.len() < 2 {
        return Ok(Vec::new());
    }
    type Lists<'a> = Vec<(usize, NodeList<'a>)>;
    let mut fields: Vec<(Cow<'_, str>, Lists<'_>)> = Vec::new();
    for (place, node) in nodes.iter().enumerate() {
        for field in members(node.distribution.unwrap_or(b"{}")) {
            let field = field?;
            let name = unescape(field.key);
            if rules.hides(&name) || !rules.counts_first(&name) {
                continue;
            }
            let list = read_list(field.value, number_range(node.stats, field.key), rules)?;
            match fields.iter_mut().find(|(known, _)| *known == name) {
                Some((_, lists)) => lists.push((place, list)),
                None => fields.push((name, vec![(place, list)])),
            }
        }
    }
    let mut recounts = Vec::new();
    for (name, lists) in fields {
        let (places, lists): (Vec<usize>, Vec<NodeList<'_>>) = lists.into_iter().unzip();
        recounts.extend(plan_field(&name, &places, &lists, rules.values_max));
    }
    Ok(recounts)
}

/// Filters have no way to write a backslash before a quote, and no value is worth finding one.
fn can_be_asked(printed: &[u8]) -> bool {
    printed.len() <= ASKED_VALUE_BYTES_MAX && !unescape(printed).contains('\\')
}

fn plan_field(
    name: &str,
    places: &[usize],
    lists: &[NodeList<'_>],
    values_max: usize,
) -> Vec<Recount> {
    let hidden: u64 = lists.iter().map(|list| list.hidden).sum();
    if hidden == 0 || is_mixed(lists) {
        return Vec::new();
    }
    let bounds = bounds(lists);
    if is_exact(&bounds, hidden, values_max) {
        return Vec::new();
    }
    let last_kept = values_max.checked_sub(1).and_then(|last| bounds.get(last));
    let threshold = last_kept.map_or(0, |bound| bound.known);
    let mut candidates: Vec<&Bound<'_, '_>> = bounds
        .iter()
        .enumerate()
        .filter(|(rank, bound)| {
            bound.missing > 0 && (*rank < values_max || bound.upper() > threshold)
        })
        .map(|(_, bound)| bound)
        .filter(|bound| can_be_asked(bound.value.printed))
        .collect();
    // Those that are shown in any case come first: their counts are to be right.
    let asked_max = values_max.saturating_mul(2).clamp(RECOUNT_VALUES_MIN, RECOUNT_VALUES_MAX);
    candidates.truncate(asked_max);
    let mut recounts = Vec::new();
    for (place, list) in places.iter().zip(lists).filter(|(_, list)| list.hidden > 0) {
        let listed: HashSet<Key<'_>> = list.values.iter().map(key).collect();
        let values: Vec<AskedValue> = candidates
            .iter()
            .filter(|bound| !listed.contains(&key(bound.value)))
            .map(|bound| AskedValue {
                text: unescape(bound.value.printed).into_owned(),
                normal: bound.value.normal.clone().into_owned(),
                is_number: bound.value.number.is_some(),
            })
            .collect();
        if !values.is_empty() {
            recounts.push(Recount { place: *place, field: name.to_owned(), values });
        }
    }
    recounts
}

/// Puts what `node` said when it was asked again for `field` into its list.
///
/// # Errors
/// When the answer is malformed.
pub(super) fn recount<'a>(
    list: &mut NodeList<'a>,
    field: &str,
    node: &NodeFacets<'a>,
    rules: &FacetRules,
) -> Result<(), Malformed> {
    for Recounted { asked, answer } in node.recounted.iter().filter(|it| it.asked.field == field) {
        let facets = answer.facets();
        let mut said = Vec::new();
        for part in members(facets.distribution.unwrap_or(b"{}")) {
            let part = part?;
            if unescape(part.key) == field {
                let range = number_range(facets.stats, part.key);
                said = read_values(part.value, range, usize::MAX)?;
            }
        }
        let is_whole = said.len() < rules.node_values_max;
        let counts: HashMap<Key<'_>, &FacetValue<'_>> =
            said.iter().map(|value| (key(value), value)).collect();
        for AskedValue { text: _, normal, is_number } in &asked.values {
            match counts.get(&(normal.as_str(), *is_number)) {
                Some(value) => list.values.push((*value).clone()),
                None if is_whole => list.absent.push((Cow::Borrowed(normal), *is_number)),
                None => {}
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::{Value, json};

    use super::super::facets::{MergedFacets, merge_facets};
    use super::*;

    /// Counts of one facet on several nodes, most frequent first, and the limit of their lists.
    struct Nodes<'t> {
        counts: &'t [&'t [(&'t str, u64)]],
        limit: usize,
        values_max: usize,
    }

    fn object(counts: impl Iterator<Item = (String, u64)>) -> Value {
        Value::Object(counts.map(|(value, count)| (value, json!(count))).collect())
    }

    impl Nodes<'_> {
        fn rules(&self) -> FacetRules {
            FacetRules {
                by_count_default: true,
                values_max: self.values_max,
                node_values_max: self.limit,
                ..Default::default()
            }
        }

        fn listed(&self) -> Vec<String> {
            let lists = self.counts.iter().map(|counts| {
                let first = counts.iter().take(self.limit);
                // Insertion order is kept: that of the counts.
                let text: Vec<String> =
                    first.map(|(value, count)| format!("{}:{count}", json!(value))).collect();
                format!("{{\"g\":{{{}}}}}", text.join(","))
            });
            lists.collect()
        }

        fn answer(&self, asked: &Recount) -> Recounted {
            let counts = self.counts.get(asked.place).copied().unwrap_or_default();
            let wanted = |value: &str| asked.values.iter().any(|asked| asked.text == value);
            let counts = counts.iter().filter(|(value, _)| wanted(value));
            let counts = object(counts.map(|(value, count)| ((*value).to_owned(), *count)));
            let body =
                json!({"hits": [], "estimatedTotalHits": 0, "facetDistribution": {"g": counts}});
            let answer = NodeAnswer::parse(Bytes::from(body.to_string()));
            let answer = answer.unwrap_or_else(|error| panic!("{error}"));
            Recounted { asked: asked.clone(), answer }
        }

        /// What is asked in the second round, and what comes of both.
        fn merged(&self) -> (Vec<Recount>, MergedFacets) {
            let texts = self.listed();
            let nodes: Vec<NodeFacets<'_>> = texts
                .iter()
                .map(|text| NodeFacets {
                    distribution: Some(text.as_bytes()),
                    ..Default::default()
                })
                .collect();
            let asked = plan_recounts(&nodes, &self.rules());
            let asked = asked.unwrap_or_else(|error| panic!("{error}"));
            let said: Vec<Vec<Recounted>> = (0..nodes.len())
                .map(|place| {
                    let of_node = asked.iter().filter(|asked| asked.place == place);
                    of_node.map(|asked| self.answer(asked)).collect()
                })
                .collect();
            let nodes: Vec<NodeFacets<'_>> = nodes
                .into_iter()
                .zip(&said)
                .map(|(node, recounted)| NodeFacets { recounted, ..node })
                .collect();
            let merged = merge_facets(&nodes, &self.rules(), 100_000, None);
            let merged = merged.ok().flatten().unwrap_or_default();
            (asked, merged)
        }
    }

    fn text(merged: &MergedFacets) -> &str {
        std::str::from_utf8(&merged.distribution).unwrap_or_default()
    }

    #[test]
    fn whole_lists_and_clear_winners_need_no_second_round() {
        for (counts, limit) in [
            ([&[("a", 9), ("b", 2), ("c", 1)][..], &[("a", 8), ("b", 2), ("c", 2)]], 2),
            ([&[("a", 3)], &[("b", 2)]], 2),
        ] {
            let (asked, merged) = Nodes { counts: &counts, limit, values_max: 1 }.merged();
            assert_eq!((asked, merged.inexact.len()), (vec![], 0));
        }
    }

    #[test]
    fn a_value_that_one_list_lacks_is_asked_for_and_then_counted_whole() {
        let counts: [&[(&str, u64)]; 2] =
            [&[("a", 9), ("b", 8), ("c", 1)], &[("d", 9), ("c", 8), ("b", 7), ("a", 1)]];
        let (asked, merged) = Nodes { counts: &counts, limit: 2, values_max: 1 }.merged();
        let values = |asked: &Recount| -> Vec<String> {
            asked.values.iter().map(|value| value.text.clone()).collect()
        };
        let asked: Vec<_> = asked.iter().map(|asked| (asked.place, values(asked))).collect();
        assert_eq!(asked[0], (0, vec!["d".to_owned(), "c".to_owned()]));
        assert_eq!(asked[1], (1, vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(text(&merged), r#"{"g":{"b":15}}"#);
        // Up to 8 on each node may be hidden under a value that nobody listed: 16 in all.
        assert_eq!(merged.inexact, ["g"]);
        let (_, merged) = Nodes { counts: &counts, limit: 3, values_max: 1 }.merged();
        assert_eq!((text(&merged), merged.inexact.len()), (r#"{"g":{"b":15}}"#, 0));
    }

    #[test]
    fn counts_that_the_lists_leave_open_are_not_called_exact() {
        let flat: Vec<(String, u64)> = (0..50).map(|n| (format!("v{n}"), 1)).collect();
        let flat: Vec<(&str, u64)> = flat.iter().map(|(v, n)| (v.as_str(), *n)).collect();
        let (left, right) = flat.split_at(25);
        let (_, merged) = Nodes { counts: &[left, right], limit: 10, values_max: 3 }.merged();
        assert_eq!(merged.inexact, ["g"]);
    }

    proptest::proptest! {
        /// Whatever the counts: an answer that is called exact has the counts of the whole.
        #[test]
        fn what_is_called_exact_is_what_one_node_would_count(
            nodes in proptest::collection::vec(
                proptest::collection::btree_map("[a-h]", 1..9_u64, 0..8), 2..4),
            limit in 2..6_usize,
        ) {
            let lists: Vec<Vec<(&str, u64)>> = nodes
                .iter()
                .map(|counts| {
                    let mut list: Vec<_> = counts.iter().map(|(v, n)| (v.as_str(), *n)).collect();
                    list.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
                    list
                })
                .collect();
            let counts: Vec<&[(&str, u64)]> = lists.iter().map(Vec::as_slice).collect();
            let (_, merged) = Nodes { counts: &counts, limit, values_max: 2 }.merged();
            let said: Value = serde_json::from_slice(&merged.distribution).unwrap_or_default();
            let mut whole: HashMap<&str, u64> = HashMap::new();
            for (value, count) in counts.iter().copied().flatten() {
                *whole.entry(value).or_default() += count;
            }
            let mut best: Vec<u64> = whole.values().copied().collect();
            best.sort_unstable_by(|a, b| b.cmp(a));
            best.truncate(2);
            if merged.inexact.is_empty() {
                let said = said["g"].as_object().cloned().unwrap_or_default();
                let mut listed = Vec::new();
                for (value, count) in &said {
                    proptest::prop_assert_eq!(whole.get(value.as_str()).copied(), count.as_u64());
                    listed.extend(count.as_u64());
                }
                listed.sort_unstable_by(|a, b| b.cmp(a));
                proptest::prop_assert_eq!(listed, best);
            }
        }
    }
}
