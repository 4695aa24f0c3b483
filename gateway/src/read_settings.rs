//! What reads need of an index's settings, taken out of them once per settings version.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use arc_swap::ArcSwap;
use miroir_storage::ids::IndexUid;
use miroir_storage::routing::IndexRouting;
use serde_json::Value;

/// Meilisearch's defaults, for settings that can't be read.
const TOTAL_HITS_MAX_DEFAULT: u64 = 1000;
const FACET_VALUES_MAX_DEFAULT: u64 = 100;

/// The relevance rules in the only order in which the ranking scores of two shards compare.
const RELEVANCE_RULES: [&str; 5] = ["words", "typo", "proximity", "attribute", "exactness"];

/// Settings as the read path uses them.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadSettings {
    /// The displayed attributes; `None` for all.
    pub displayed: Option<BTreeSet<String>>,
    /// A custom rule like `price:asc` is among the ranking rules.
    pub has_sort_rules: bool,
    /// The relevance rules stand in their default order, none left out.
    pub default_relevance: bool,
    /// The embedders by name.
    pub embedders: BTreeSet<String>,
    /// The ranking rules by name.
    pub ranking_rules: Vec<String>,
    /// `pagination.maxTotalHits`.
    pub total_hits_max: usize,
    /// `faceting.maxValuesPerFacet`.
    pub facet_values_max: usize,
    /// `faceting.sortFacetValuesBy`: `true` is by count. `*` is the default.
    pub facets_by_count: BTreeMap<String, bool>,
    /// `distinctAttribute`.
    pub distinct: Option<String>,
    /// The filterable attributes as set: names, patterns or granular rules.
    filterable: Vec<FilterableRule>,
}

#[derive(Clone, Debug, PartialEq)]
struct FilterableRule {
    patterns: Vec<String>,
    filterable: bool,
    equality: bool,
}

impl ReadSettings {
    /// Reads settings in the form of `GET /settings`.
    pub fn from_effective(settings: &Value) -> Self {
        let strings = |value: Option<&Value>| -> Vec<String> {
            value
                .and_then(Value::as_array)
                .map(|list| list.iter().filter_map(Value::as_str).map(str::to_owned).collect())
                .unwrap_or_default()
        };
        let number = |pointer: &str, default: u64| {
            let number = settings.pointer(pointer).and_then(Value::as_u64).unwrap_or(default);
            usize::try_from(number).unwrap_or(usize::MAX)
        };
        let displayed = strings(settings.get("displayedAttributes"));
        let ranking_rules = strings(settings.get("rankingRules"));
        let is_sort = |rule: &String| rule.ends_with(":asc") || rule.ends_with(":desc");
        let relevance: Vec<&str> = ranking_rules
            .iter()
            .map(String::as_str)
            .filter(|rule| RELEVANCE_RULES.contains(rule))
            .collect();
        let facets_by_count = settings
            .pointer("/faceting/sortFacetValuesBy")
            .and_then(Value::as_object)
            .map(|fields| fields.iter().map(|(field, by)| (field.clone(), by == "count")).collect())
            .unwrap_or_default();
        Self {
            displayed: (!displayed.iter().any(|name| name == "*")
                && settings.get("displayedAttributes").is_some_and(Value::is_array))
            .then(|| displayed.into_iter().collect()),
            has_sort_rules: ranking_rules.iter().any(is_sort),
            default_relevance: relevance == RELEVANCE_RULES,
            ranking_rules,
            embedders: settings
                .get("embedders")
                .and_then(Value::as_object)
                .map(|embedders| embedders.keys().cloned().collect())
                .unwrap_or_default(),
            total_hits_max: number("/pagination/maxTotalHits", TOTAL_HITS_MAX_DEFAULT),
            facet_values_max: number("/faceting/maxValuesPerFacet", FACET_VALUES_MAX_DEFAULT),
            facets_by_count,
            distinct: settings.get("distinctAttribute").and_then(Value::as_str).map(str::to_owned),
            filterable: read_filterable(settings.get("filterableAttributes")),
        }
    }

    /// Whether a custom rule stands before all relevance rules, and so orders hits of vectors.
    pub fn sorts_before_relevance(&self) -> bool {
        let first = self.ranking_rules.iter().find(|rule| *rule != "sort");
        first.is_some_and(|rule| rule.ends_with(":asc") || rule.ends_with(":desc"))
    }

    /// Whether the values of a facet are ordered by count, and not by name.
    pub fn orders_by_count(&self, facet: &str) -> bool {
        let said = self.facets_by_count.get(facet).or_else(|| self.facets_by_count.get("*"));
        said.copied().unwrap_or(false)
    }

    /// Whether `field` may be filtered, and so counted as a facet.
    pub fn is_filterable(&self, field: &str) -> bool {
        self.rule(field).is_some_and(|rule| rule.filterable)
    }

    /// Whether `field` may be compared with values by `=` and `IN`.
    pub fn allows_equality(&self, field: &str) -> bool {
        self.rule(field).is_some_and(|rule| rule.equality)
    }

    fn rule(&self, field: &str) -> Option<&FilterableRule> {
        let matches =
            |rule: &&FilterableRule| rule.patterns.iter().any(|pattern| matches(pattern, field));
        self.filterable.iter().find(matches)
    }
}

fn read_filterable(value: Option<&Value>) -> Vec<FilterableRule> {
    let rules = value.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    rules
        .iter()
        .filter_map(|rule| match rule {
            Value::String(name) => {
                let patterns = vec![name.clone()];
                Some(FilterableRule { patterns, filterable: true, equality: true })
            }
            Value::Object(_) => {
                let patterns = rule.get("attributePatterns")?.as_array()?;
                let patterns =
                    patterns.iter().filter_map(Value::as_str).map(str::to_owned).collect();
                let feature = |pointer: &str, default: bool| {
                    rule.pointer(pointer).and_then(Value::as_bool).unwrap_or(default)
                };
                let equality = feature("/features/filter/equality", true);
                let filterable = equality || feature("/features/filter/comparison", false);
                Some(FilterableRule { patterns, filterable, equality })
            }
            _ => None,
        })
        .collect()
}

/// Meilisearch's attribute patterns: `*` at either end, and a name stands for what lies under it.
fn matches(pattern: &str, field: &str) -> bool {
    match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (Some(""), _) => true,
        (Some(tail), Some(_)) => tail.strip_suffix('*').is_some_and(|part| field.contains(part)),
        (Some(tail), None) => field.ends_with(tail),
        (None, Some(head)) => field.starts_with(head),
        (None, None) => {
            field.strip_prefix(pattern).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        }
    }
}

/// Entries kept; more indexes than this only means that some are read again.
const CACHED_MAX: usize = 4096;

/// The read settings of every index seen, by settings version. Readers take no lock.
#[derive(Debug, Default)]
pub struct SettingsCache {
    known: ArcSwap<HashMap<IndexUid, (u64, Arc<ReadSettings>)>>,
}

impl SettingsCache {
    /// The read settings of `index`.
    pub fn get(&self, index: &IndexRouting) -> Arc<ReadSettings> {
        if let Some((version, settings)) = self.known.load().get(&index.uid)
            && *version == index.settings_version
        {
            return settings.clone();
        }
        let settings = Arc::new(ReadSettings::from_effective(&index.settings.effective()));
        self.known.rcu(|known| {
            let mut known = HashMap::clone(known);
            if known.len() >= CACHED_MAX {
                known.clear();
            }
            known.insert(index.uid.clone(), (index.settings_version, settings.clone()));
            known
        });
        settings
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn settings_are_read_in_the_form_that_clients_see() {
        let settings = ReadSettings::from_effective(&json!({
            "displayedAttributes": ["title", "price"],
            "rankingRules": ["words", "typo", "price:asc", "proximity", "attribute", "sort", "exactness"],
            "pagination": {"maxTotalHits": 7},
            "faceting": {"maxValuesPerFacet": 5, "sortFacetValuesBy": {"*": "alpha", "genre": "count"}},
            "distinctAttribute": "sku",
        }));
        assert_eq!(settings.displayed.map(|displayed| displayed.len()), Some(2));
        assert!(settings.has_sort_rules && settings.default_relevance);
        assert_eq!((settings.total_hits_max, settings.facet_values_max), (7, 5));
        assert_eq!(settings.facets_by_count.get("genre"), Some(&true));
        assert_eq!(settings.distinct.as_deref(), Some("sku"));
        let defaults = ReadSettings::from_effective(&json!({"displayedAttributes": ["*"]}));
        assert_eq!((defaults.displayed, defaults.total_hits_max), (None, 1000));
        assert!(!defaults.default_relevance);
    }

    #[test]
    fn the_first_rule_that_matches_says_whether_a_field_is_filterable() {
        let settings = ReadSettings::from_effective(&json!({"filterableAttributes": [
            {"attributePatterns": ["secret*"], "features": {"filter": {"equality": false, "comparison": false}}},
            "a", "*_id", {"attributePatterns": ["s*"]},
        ]}));
        for (field, filterable) in [
            ("a", true),
            ("a.b", true),
            ("ab", false),
            ("x_id", true),
            ("secret_id", false),
            ("s", true),
        ] {
            assert_eq!(settings.is_filterable(field), filterable, "{field}");
        }
        let settings = ReadSettings::from_effective(&json!({"filterableAttributes": [
            {"attributePatterns": ["size"], "features": {"filter": {"equality": false, "comparison": true}}},
        ]}));
        assert!(settings.is_filterable("size") && !settings.allows_equality("size"));
    }
}
