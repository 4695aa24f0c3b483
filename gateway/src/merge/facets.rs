//! Facets of several nodes: summed per value, then ordered and cut as one node would.
//!
//! Nodes are asked for more values than the client's limit (see `node_settings`), so alphabetical
//! order is exact: a value among the first `n` of all is among the first `n` of every node that
//! has it. Where the node and the whole sort alike, no more than those `n` are read. For order by
//! count see [`count_order`](super::count_order). `MergedFacets::inexact` names the fields where
//! a value cut from a node's list could belong into the answer.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use miroir_actors::node_settings::PRINTED_ORDER_DOCUMENTS_MAX;
use miroir_wire::reserved::is_reserved;

use super::count_order::{Recounted, is_exact_by_count, recount};
use super::distinct::Distinct;
use super::normal::{normalize_string, printed_number};
use crate::json_scan::{Malformed, integer, member, members, number, unescape};

/// What one node said about facets, as bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct NodeFacets<'a> {
    /// `facetDistribution`.
    pub distribution: Option<&'a [u8]>,
    /// `facetStats`.
    pub stats: Option<&'a [u8]>,
    /// Matching documents on the node.
    pub candidates: u64,
    /// What the node said when it was asked again.
    pub recounted: &'a [Recounted],
}

/// The index's settings and the query's wishes about facets.
#[derive(Clone, Debug, Default)]
pub struct FacetRules {
    /// `maxValuesPerFacet` of the client's settings.
    pub values_max: usize,
    /// The limit that the nodes work with.
    pub node_values_max: usize,
    /// Fields whose order was set by name and asked for by name: `true` is by count.
    pub by_count: BTreeMap<String, bool>,
    /// The order of all other fields.
    pub by_count_default: bool,
    /// Fields to leave out beside the reserved ones: those added for the merge alone.
    pub hidden: BTreeSet<String>,
    /// The client asked for no facets at all; those there are were added for the merge.
    pub only_added: bool,
}

/// Values of the distinct attribute that only one kept document has. The nodes each kept one.
#[derive(Clone, Copy, Debug)]
pub enum CountedOnce<'a> {
    /// All values of this field.
    All(&'a str),
    /// Those that hits were admitted with.
    Seen(&'a Distinct),
}

impl CountedOnce<'_> {
    fn holds(self, field: &str, value: &FacetValue<'_>) -> bool {
        match self {
            Self::All(path) => path == field,
            Self::Seen(distinct) => {
                distinct.path() == field && distinct.has_seen(&value.normal, value.number)
            }
        }
    }
}

/// The two parts of an answer, as JSON objects.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MergedFacets {
    /// `facetDistribution`.
    pub distribution: Vec<u8>,
    /// `facetStats`.
    pub stats: Vec<u8>,
    /// Fields in order of count where more must be known to be sure.
    pub inexact: Vec<String>,
}

impl FacetRules {
    pub(super) fn hides(&self, field: &str) -> bool {
        is_reserved(field) || self.hidden.contains(field)
    }

    pub(super) fn counts_first(&self, field: &str) -> bool {
        self.by_count.get(field).copied().unwrap_or(self.by_count_default)
    }
}

/// One value with its count, numbers apart from strings.
#[derive(Clone, Debug)]
pub(super) struct FacetValue<'a> {
    /// As printed by the first node that has it, quoted and escaped.
    pub(super) printed: &'a [u8],
    pub(super) normal: Cow<'a, str>,
    pub(super) number: Option<f64>,
    pub(super) count: u64,
}

/// What one node lists of one field.
#[derive(Clone, Debug)]
pub(super) struct NodeList<'a> {
    pub(super) values: Vec<FacetValue<'a>>,
    /// The most that a value can count here which is neither listed nor absent. Not 0 only when
    /// the list was cut.
    pub(super) hidden: u64,
    /// Values that are known not to be there; `true` for a number.
    pub(super) absent: Vec<(Cow<'a, str>, bool)>,
}

/// Merges what nodes said; `None` when none said anything. `candidates` is the number of matching
/// documents on all nodes, which decides how numbers are sorted; `once` says which values may count
/// one document only.
///
/// # Errors
/// When a node's part is malformed.
pub fn merge_facets(
    nodes: &[NodeFacets<'_>],
    rules: &FacetRules,
    candidates: u64,
    once: Option<CountedOnce<'_>>,
) -> Result<Option<MergedFacets>, Malformed> {
    if nodes.iter().all(|node| node.distribution.is_none()) {
        return Ok(None);
    }
    let printed_order = candidates <= PRINTED_ORDER_DOCUMENTS_MAX;
    let mut fields: BTreeMap<Cow<'_, str>, Vec<NodeList<'_>>> = BTreeMap::new();
    let mut sorted_otherwise: BTreeSet<Cow<'_, str>> = BTreeSet::new();
    for node in nodes {
        for field in members(node.distribution.unwrap_or(b"{}")) {
            let field = field?;
            let name = unescape(field.key);
            if rules.hides(&name) {
                continue;
            }
            let range = number_range(node.stats, field.key);
            let sorts_alike = range.is_none()
                || printed_order == (node.candidates <= PRINTED_ORDER_DOCUMENTS_MAX);
            let by_count = rules.counts_first(&name);
            let list = if nodes.len() == 1 || (!by_count && sorts_alike) {
                let values = read_values(field.value, range, rules.values_max)?;
                NodeList { values, hidden: 0, absent: Vec::new() }
            } else {
                let mut list = read_list(field.value, range, rules)?;
                recount(&mut list, &name, node, rules)?;
                list
            };
            if !by_count && !sorts_alike && list.hidden > 0 {
                sorted_otherwise.insert(name.clone());
            }
            fields.entry(name).or_default().push(list);
        }
    }
    let mut merged = MergedFacets { stats: merge_stats(nodes, rules)?, ..Default::default() };
    merged.distribution.push(b'{');
    for (name, lists) in fields {
        let by_count = rules.counts_first(&name);
        let is_each_once = matches!(once, Some(CountedOnce::All(path)) if path == name);
        let is_exact = nodes.len() == 1
            || if by_count {
                is_each_once || is_exact_by_count(&lists, rules.values_max)
            } else {
                !sorted_otherwise.contains(&name)
            };
        if !is_exact {
            merged.inexact.push(name.clone().into_owned());
        }
        let lists = lists.into_iter().map(|list| list.values);
        let mut values = if nodes.len() == 1 {
            // Its order stands.
            lists.flatten().collect()
        } else {
            let mut values = sum_values(lists);
            for value in &mut values {
                if once.is_some_and(|once| once.holds(&name, value)) {
                    value.count = value.count.min(1);
                }
            }
            values.sort_by(|left, right| compare_values(left, right, by_count, printed_order));
            values
        };
        values.truncate(rules.values_max);
        write_field(&mut merged.distribution, &name, &values);
    }
    merged.distribution.push(b'}');
    Ok(Some(merged))
}

pub(super) type NodeValues<'a> = Vec<FacetValue<'a>>;

/// Smallest and largest number of a field, which says that it has numbers at all.
pub(super) fn number_range(stats: Option<&[u8]>, key: &[u8]) -> Option<(f64, f64)> {
    let field = member(stats?, std::str::from_utf8(key).ok()?)?;
    Some((member(field, "min").and_then(number)?, member(field, "max").and_then(number)?))
}

/// A node's whole list.
pub(super) fn read_list<'a>(
    values: &'a [u8],
    range: Option<(f64, f64)>,
    rules: &FacetRules,
) -> Result<NodeList<'a>, Malformed> {
    let values = read_values(values, range, usize::MAX)?;
    let hidden = match values.last() {
        Some(last) if values.len() >= rules.node_values_max => last.count,
        _ => 0,
    };
    Ok(NodeList { values, hidden, absent: Vec::new() })
}

/// The first `limit` values.
pub(super) fn read_values<'a>(
    values: &'a [u8],
    range: Option<(f64, f64)>,
    limit: usize,
) -> Result<NodeValues<'a>, Malformed> {
    let mut list = Vec::new();
    for value in members(values).take(limit) {
        let value = value?;
        let text = unescape(value.key);
        let number = range.and_then(|(min, max)| {
            printed_number(&text).filter(|number| (min..=max).contains(number))
        });
        let normal = match (number, text) {
            (Some(_), text) => text,
            (None, Cow::Borrowed(text)) => normalize_string(text),
            (None, Cow::Owned(text)) => Cow::Owned(normalize_string(&text).into_owned()),
        };
        let count = integer(value.value).ok_or(Malformed { at: 0 })?;
        list.push(FacetValue { printed: value.key, normal, number, count });
    }
    Ok(list)
}

pub(super) fn sum_values<'a>(lists: impl Iterator<Item = NodeValues<'a>>) -> NodeValues<'a> {
    let mut sums: NodeValues<'a> = Vec::new();
    let mut places: HashMap<(Cow<'a, str>, bool), usize> = HashMap::new();
    for value in lists.flatten() {
        let key = (value.normal.clone(), value.number.is_some());
        let known = places.get(&key).copied().and_then(|place| sums.get_mut(place));
        match known {
            Some(sum) => sum.count += value.count,
            None => {
                places.insert(key, sums.len());
                sums.push(value);
            }
        }
    }
    sums
}

/// `Less` comes first. Numbers come before strings in every order.
fn compare_values(
    left: &FacetValue<'_>,
    right: &FacetValue<'_>,
    by_count: bool,
    printed_order: bool,
) -> Ordering {
    let kinds = right.number.is_some().cmp(&left.number.is_some());
    if kinds.is_ne() {
        return kinds;
    }
    let numeric = || match (left.number, right.number) {
        (Some(left), Some(right)) => left.total_cmp(&right),
        _ => left.normal.cmp(&right.normal),
    };
    if by_count {
        // The engine's heap gives the larger of two keys first when counts are equal.
        right.count.cmp(&left.count).then_with(|| numeric().reverse())
    } else if printed_order {
        left.normal.cmp(&right.normal)
    } else {
        numeric()
    }
}

/// The number of documents that one node would keep under `distinct`, of `candidates` kept by all
/// nodes together: documents of two nodes that share a value count once.
///
/// Exact for fields with one value per document when the nodes' lists are whole; otherwise the
/// sum stands, which is too high by the shared values.
pub fn count_distinct(
    nodes: &[NodeFacets<'_>],
    path: &str,
    candidates: u64,
    node_values_max: usize,
) -> u64 {
    let mut union: BTreeSet<(Cow<'_, str>, bool)> = BTreeSet::new();
    let mut listed = 0_u64;
    for node in nodes {
        let Some(field) = members(node.distribution.unwrap_or(b"{}"))
            .map_while(Result::ok)
            .find(|field| unescape(field.key) == path)
        else {
            continue;
        };
        let range = number_range(node.stats, field.key);
        let Ok(values) = read_values(field.value, range, usize::MAX) else { return candidates };
        if values.len() >= node_values_max || values.iter().any(|value| value.count != 1) {
            return candidates;
        }
        listed += values.len() as u64;
        union.extend(values.into_iter().map(|value| (value.normal, value.number.is_some())));
    }
    candidates - listed.min(candidates) + union.len() as u64
}

fn write_field(out: &mut Vec<u8>, name: &str, values: &[FacetValue<'_>]) {
    if out.last() != Some(&b'{') {
        out.push(b',');
    }
    write_string(out, name);
    out.extend_from_slice(b":{");
    let mut digits = itoa::Buffer::new();
    for (place, value) in values.iter().enumerate() {
        if place > 0 {
            out.push(b',');
        }
        out.push(b'"');
        out.extend_from_slice(value.printed);
        out.extend_from_slice(b"\":");
        out.extend_from_slice(digits.format(value.count).as_bytes());
    }
    out.push(b'}');
}

/// Appends `text` as a JSON string.
pub(crate) fn write_string(out: &mut Vec<u8>, text: &str) {
    // Writing into memory can't fail.
    let _ = serde_json::to_writer(out, text);
}

/// Smallest and largest per field, in the nodes' own notation.
fn merge_stats(nodes: &[NodeFacets<'_>], rules: &FacetRules) -> Result<Vec<u8>, Malformed> {
    type Bound<'a> = (f64, &'a [u8]);
    let mut fields: BTreeMap<Cow<'_, str>, (Bound<'_>, Bound<'_>)> = BTreeMap::new();
    for field in nodes.iter().flat_map(|node| members(node.stats.unwrap_or(b"{}"))) {
        let field = field?;
        let name = unescape(field.key);
        let bound = |key| {
            let raw = member(field.value, key)?;
            Some((number(raw)?, raw))
        };
        let (Some(min), Some(max)) = (bound("min"), bound("max")) else {
            return Err(Malformed { at: 0 });
        };
        if rules.hides(&name) {
            continue;
        }
        fields
            .entry(name)
            .and_modify(|known| {
                if min.0 < known.0.0 {
                    known.0 = min;
                }
                if max.0 > known.1.0 {
                    known.1 = max;
                }
            })
            .or_insert((min, max));
    }
    let mut out = vec![b'{'];
    for (name, ((_, min), (_, max))) in fields {
        if out.len() > 1 {
            out.push(b',');
        }
        write_string(&mut out, &name);
        out.extend_from_slice(b":{\"min\":");
        out.extend_from_slice(min);
        out.extend_from_slice(b",\"max\":");
        out.extend_from_slice(max);
        out.push(b'}');
    }
    out.push(b'}');
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(nodes: &[(&str, &str)], rules: &FacetRules, candidates: u64) -> (String, String) {
        let nodes: Vec<_> = nodes
            .iter()
            .map(|(distribution, stats)| NodeFacets {
                distribution: Some(distribution.as_bytes()),
                stats: Some(stats.as_bytes()),
                candidates,
                recounted: &[],
            })
            .collect();
        let merged =
            merge_facets(&nodes, rules, candidates, None).ok().flatten().unwrap_or_default();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        (text(merged.distribution), text(merged.stats))
    }

    fn first(values_max: usize) -> FacetRules {
        FacetRules { values_max, node_values_max: 1000, ..Default::default() }
    }

    #[test]
    fn counts_are_summed_under_the_normal_form() {
        let (distribution, _) = merged(
            &[
                (r#"{"g":{"Drama":2,"war":1},"x":{}}"#, "{}"),
                (r#"{"_miroir_shard":{"t":1},"_m":{"t":1},"g":{"comedy":1,"drama":3}}"#, "{}"),
            ],
            &FacetRules { hidden: BTreeSet::from(["_m".to_owned()]), ..first(100) },
            6,
        );
        assert_eq!(distribution, r#"{"g":{"comedy":1,"Drama":5,"war":1},"x":{}}"#);
    }

    #[test]
    fn few_candidates_sort_numbers_as_text_and_many_as_numbers() {
        let nodes = [
            (r#"{"y":{"10":1,"9":1}}"#, r#"{"y":{"min":9.0,"max":10.0}}"#),
            (r#"{"y":{"2":1,"abc":1}}"#, r#"{"y":{"min":2.0,"max":2.0}}"#),
        ];
        let (few, stats) = merged(&nodes, &first(3), 3000);
        assert_eq!(few, r#"{"y":{"10":1,"2":1,"9":1}}"#);
        assert_eq!(stats, r#"{"y":{"min":2.0,"max":10.0}}"#);
        let (many, _) = merged(&nodes, &first(100), 3001);
        assert_eq!(many, r#"{"y":{"2":1,"9":1,"10":1,"abc":1}}"#);
    }

    #[test]
    fn order_by_count_uses_the_sums() {
        let rules = FacetRules { by_count_default: true, ..first(2) };
        let (distribution, _) = merged(
            &[(r#"{"g":{"a":3,"b":2,"c":2}}"#, "{}"), (r#"{"g":{"c":2,"b":1,"a":0}}"#, "{}")],
            &rules,
            10,
        );
        assert_eq!(distribution, r#"{"g":{"c":4,"b":3}}"#);
    }
}
