//! A model node's search: everything matches (there are no words), sorted by the index's own sort
//! rules, one document of each distinct value, cut to the window. Ranking by words is left out.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::Refusal;
use super::filter::Filter;
use super::index::{Index, id_text};

/// Hits without `limit`.
const LIMIT_DEFAULT: u64 = 20;

/// The answer to a search over what `filter` matches.
pub(super) fn search(
    index: &Index,
    filter: Option<&Filter>,
    asked: &Map<String, Value>,
) -> Result<Value, Refusal> {
    let settings = index.settings.effective();
    let mut found: Vec<&Map<String, Value>> = index
        .documents
        .values()
        .filter(|document| filter.is_none_or(|filter| filter.matches(document)))
        .collect();
    let rules = sort_rules(&settings);
    // Stable: equal ones stay in order of their ids, as a node keeps its own order.
    found.sort_by(|a, b| compare(&rules, a, b));
    if let Some(distinct) = settings.get("distinctAttribute").and_then(Value::as_str) {
        let mut seen = BTreeSet::new();
        found.retain(|document| match document.get(distinct) {
            Some(value) => seen.insert(value.to_string()),
            None => true,
        });
    }
    let displayed = settings.get("displayedAttributes").and_then(Value::as_array);
    let displayed = displayed.map(|names| names.iter().map(id_text).collect::<BTreeSet<String>>());
    let max = settings.pointer("/pagination/maxTotalHits").and_then(Value::as_u64).unwrap_or(1000);
    found.truncate(usize::try_from(max).unwrap_or(usize::MAX));
    let number = |name, default| asked.get(name).and_then(Value::as_u64).unwrap_or(default);
    let (offset, limit) = (number("offset", 0), number("limit", LIMIT_DEFAULT));
    let window = found.iter().skip(offset as usize).take(limit as usize);
    let hits: Vec<Value> =
        window.map(|document| hit(document, asked, &rules, displayed.as_ref())).collect();
    Ok(json!({
        "hits": hits,
        "query": "",
        "processingTimeMs": 0,
        "limit": limit,
        "offset": offset,
        "estimatedTotalHits": found.len(),
    }))
}

/// A sort rule of the index: its text, its attribute, whether it ascends.
type SortRule = (String, String, bool);

fn sort_rules(settings: &Value) -> Vec<SortRule> {
    let rules = settings.get("rankingRules").and_then(Value::as_array);
    let texts = rules.into_iter().flatten().filter_map(Value::as_str);
    texts
        .filter_map(|text| {
            let (attribute, direction) = text.split_once(':')?;
            Some((text.to_owned(), attribute.to_owned(), direction == "asc"))
        })
        .collect()
}

fn compare(rules: &[SortRule], a: &Map<String, Value>, b: &Map<String, Value>) -> Ordering {
    let by = |(_, attribute, ascending): &SortRule| {
        let value = |document: &Map<String, Value>| document.get(attribute).and_then(Value::as_f64);
        match (value(a), value(b)) {
            (None, None) => Ordering::Equal,
            // Last in both directions.
            (None, Some(_)) => Ordering::Greater,
            (Some(_), None) => Ordering::Less,
            (Some(a), Some(b)) => {
                let order = a.total_cmp(&b);
                if *ascending { order } else { order.reverse() }
            }
        }
    };
    rules.iter().map(by).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
}

fn hit(
    document: &Map<String, Value>,
    asked: &Map<String, Value>,
    rules: &[SortRule],
    displayed: Option<&BTreeSet<String>>,
) -> Value {
    let mut hit = document.clone();
    if let Some(names) = displayed {
        hit.retain(|name, _| names.contains("*") || names.contains(name));
    }
    if let Some(names) = asked.get("attributesToRetrieve").and_then(Value::as_array) {
        let names: BTreeSet<String> = names.iter().map(id_text).collect();
        hit.retain(|name, _| names.contains("*") || names.contains(name));
    }
    let flag = |name| asked.get(name).and_then(Value::as_bool).unwrap_or(false);
    if flag("showRankingScore") {
        hit.insert("_rankingScore".into(), json!(1.0));
    }
    if flag("showRankingScoreDetails") {
        let details: Map<String, Value> = rules
            .iter()
            .enumerate()
            .map(|(order, (rule, attribute, _))| {
                let value = document.get(attribute).cloned().unwrap_or_default();
                (rule.clone(), json!({ "order": order, "value": value }))
            })
            .collect();
        hit.insert("_rankingScoreDetails".into(), Value::Object(details));
    }
    Value::Object(hit)
}
