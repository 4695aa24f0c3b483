//! What a tenant token allows to be searched, and with which filters.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::keys::IndexPattern;

/// The `searchRules` of a token.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum SearchRules {
    /// These indexes, as they are.
    Indexes(Vec<IndexPattern>),
    /// These indexes, some under a filter.
    Filtered(BTreeMap<IndexPattern, Option<IndexRules>>),
}

/// What is said of one pattern.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
pub struct IndexRules {
    /// Which documents may be seen.
    #[serde(default)]
    pub filter: Option<Value>,
}

impl SearchRules {
    /// Whether `index` may be searched at all.
    pub fn allows(&self, index: &str) -> bool {
        match self {
            Self::Indexes(patterns) => patterns.iter().any(|pattern| pattern.matches(index)),
            Self::Filtered(rules) => rules.keys().any(|pattern| pattern.matches(index)),
        }
    }

    /// The filter for `index`: that of the rule that names it most closely.
    pub fn filter(&self, index: &str) -> Option<&Value> {
        let Self::Filtered(rules) = self else { return None };
        let (_, rule) = rules
            .iter()
            .filter(|(pattern, _)| pattern.matches(index))
            .max_by_key(|(pattern, _)| (pattern.is_exact(), pattern.as_str().len()))?;
        rule.as_ref()?.filter.as_ref()
    }

    /// The patterns, in order, each once.
    pub fn patterns(&self) -> Vec<&str> {
        let mut patterns: Vec<&str> = match self {
            Self::Indexes(patterns) => patterns.iter().map(IndexPattern::as_str).collect(),
            Self::Filtered(rules) => rules.keys().map(IndexPattern::as_str).collect(),
        };
        patterns.sort_unstable();
        patterns.dedup();
        patterns
    }
}

/// Makes `filter` demand `rule` as well.
pub fn demand(filter: &mut Option<Value>, rule: &Value) {
    let list = |filter: Value| match filter {
        Value::Array(items) => items,
        one => vec![one],
    };
    *filter = Some(match filter.take() {
        None => rule.clone(),
        Some(own) => {
            let mut items = list(own);
            items.extend(list(rule.clone()));
            Value::Array(items)
        }
    });
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rules(rules: Value) -> SearchRules {
        serde_json::from_value(rules).expect("these are rules")
    }

    #[test]
    fn patterns_say_which_indexes() {
        for (said, allowed, refused) in [
            (json!(["*"]), "movies", None),
            (json!(["mov*", "books"]), "movies", Some("music")),
            (json!({"books": null}), "books", Some("bookshop")),
            (json!({"b*": {"filter": "a = 1"}}), "books", Some("movies")),
            (json!({"b*": {}}), "b", Some("B")),
        ] {
            let rules = rules(said.clone());
            assert!(rules.allows(allowed), "{said}");
            assert!(refused.is_none_or(|index| !rules.allows(index)), "{said}");
        }
        assert!(!rules(json!([])).allows("movies"));
        assert!(serde_json::from_value::<SearchRules>(json!(["a b"])).is_err());
        assert!(serde_json::from_value::<SearchRules>(json!("*")).is_err());
    }

    #[test]
    fn the_closest_rule_counts() {
        let rules = rules(json!({
            "*": {"filter": "any"}, "mov*": {"filter": ["wide"]}, "movies": {"filter": "exact"},
            "movie*": {"filter": "long"}, "music": null
        }));
        assert_eq!(rules.filter("movies"), Some(&json!("exact")));
        assert_eq!(rules.filter("moving"), Some(&json!(["wide"])));
        assert_eq!(rules.filter("movie-2"), Some(&json!("long")));
        assert_eq!(rules.filter("books"), Some(&json!("any")));
        assert_eq!(rules.filter("music"), None);
        assert_eq!(rules.patterns(), ["*", "mov*", "movie*", "movies", "music"]);
    }

    #[test]
    fn both_filters_are_demanded() {
        for (own, rule, both) in [
            (None, json!("r"), json!("r")),
            (Some(json!("o")), json!("r"), json!(["o", "r"])),
            (Some(json!(["o", ["p", "q"]])), json!(["r", "s"]), json!(["o", ["p", "q"], "r", "s"])),
            (Some(json!([["p", "q"]])), json!("r"), json!([["p", "q"], "r"])),
        ] {
            let mut filter = own;
            demand(&mut filter, &rule);
            assert_eq!(filter, Some(both));
        }
    }
}
