//! What nodes are told of an index's settings.
//!
//! The client's settings, plus what sharding needs: the shard field is filterable by equality
//! (as the *first* rule, since the first matching one wins), every attribute is displayed (the
//! merge needs sort values that the client may hide; the gateway applies the client's choice),
//! and facets are listed further than the client's limit, so that sums over shards are exact.
//! Ranking rules are always spelt out: what a node does without any depends on its version.

use miroir_wire::reserved::SHARD_FIELD;
use miroir_wire::settings::{DEFAULT_RANKING_RULES, Settings};
use serde_json::{Map, Value, json};

/// Facet values a node lists per facet. Sums over shards are exact for facets of up to this
/// many values a shard; the gateway's documentation declares the bound.
pub const NODE_FACET_VALUES_MAX: u64 = 20_000;

/// Hits that a node may count and list. The gateway applies the client's `maxTotalHits`; a node's
/// own count must be whole, since the number of candidates decides how facet values are sorted.
pub const NODE_TOTAL_HITS_MAX: u64 = 1_000_000_000;

/// The settings to send to a node: everything that is set, and our own.
pub fn node_side(settings: &Settings) -> Value {
    let mut all = match serde_json::to_value(settings) {
        Ok(Value::Object(all)) => all,
        _ => Map::new(),
    };
    let mut filterable = vec![json!({
        "attributePatterns": [SHARD_FIELD],
        "features": {
            "facetSearch": false,
            "filter": { "equality": true, "comparison": false },
        },
    })];
    if let Some(Value::Array(of_client)) = all.remove("filterableAttributes") {
        filterable.extend(of_client);
    }
    all.insert("filterableAttributes".into(), Value::Array(filterable));
    all.insert("displayedAttributes".into(), json!(["*"]));
    let ranking_rules = all.entry("rankingRules").or_insert_with(|| json!(DEFAULT_RANKING_RULES));
    if ranking_rules.is_null() {
        *ranking_rules = json!(DEFAULT_RANKING_RULES);
    }
    let faceting = all.entry("faceting").or_insert_with(|| json!({}));
    if faceting.is_null() {
        *faceting = json!({});
    }
    if let Value::Object(faceting) = faceting {
        faceting.insert("maxValuesPerFacet".into(), json!(NODE_FACET_VALUES_MAX));
    }
    let pagination = all.entry("pagination").or_insert_with(|| json!({}));
    if pagination.is_null() {
        *pagination = json!({});
    }
    if let Value::Object(pagination) = pagination {
        pagination.insert("maxTotalHits".into(), json!(NODE_TOTAL_HITS_MAX));
    }
    Value::Object(all)
}

/// What undoes a patch on a node: first everything it touched is reset, then the previous
/// settings are sent whole. Two requests, in this order.
pub fn undo(patch: &Settings, previous: &Settings) -> [Value; 2] {
    let touched = match serde_json::to_value(patch) {
        Ok(Value::Object(touched)) => {
            touched.into_iter().map(|(key, _)| (key, Value::Null)).collect()
        }
        _ => Map::new(),
    };
    [Value::Object(touched), node_side(previous)]
}

/// Settings as a node prints them, with what a node is free to reorder put in order, so that
/// what was sent can be compared with what was read back. Settings that Miroir does not know are
/// left out: nodes of newer versions print more of them.
pub fn canonical(mut settings: Value) -> Value {
    const SETS: &[&str] =
        &["stopWords", "nonSeparatorTokens", "separatorTokens", "dictionary", "sortableAttributes"];
    if let Value::Object(all) = &mut settings {
        let known = Settings::default().effective();
        // Secrets are masked on read-back, templates filled with defaults.
        all.retain(|key, _| key != "embedders" && known.get(key).is_some());
        for set in SETS {
            if let Some(Value::Array(items)) = all.get_mut(*set) {
                items.sort_by_key(Value::to_string);
                items.dedup();
            }
        }
        if let Some(Value::Object(synonyms)) = all.get_mut("synonyms") {
            let mut sorted: Vec<_> = std::mem::take(synonyms).into_iter().collect();
            sorted.sort_by(|(a, _), (b, _)| a.cmp(b));
            synonyms.extend(sorted);
        }
        if let Some(Value::Object(typo)) = all.get_mut("typoTolerance") {
            for list in ["disableOnWords", "disableOnAttributes"] {
                if let Some(Value::Array(items)) = typo.get_mut(list) {
                    items.sort_by_key(Value::to_string);
                    items.dedup();
                }
            }
        }
    }
    sorted_keys(settings)
}

/// Whether `read_back` shows everything that `sent` asked for. A reset (`null`) matches
/// whatever the node has as its default.
pub fn shows(sent: &Value, read_back: &Value) -> bool {
    match (sent, read_back) {
        (Value::Null, _) => true,
        (Value::Object(sent), Value::Object(read)) => {
            sent.iter().all(|(key, value)| match read.get(key) {
                // Words that the engine normalises; nodes are still compared with each other.
                _ if key == "stopWords" || key == "disableOnWords" => true,
                Some(found) => shows(value, found),
                None => key == "embedders" || value.is_null(),
            })
        }
        // A node fills in what an entry of a list leaves out.
        (Value::Array(sent), Value::Array(read)) => {
            sent.len() == read.len() && sent.iter().zip(read).all(|(sent, read)| shows(sent, read))
        }
        (sent, read) => sent == read,
    }
}

fn sorted_keys(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut pairs: Vec<_> = map.into_iter().map(|(k, v)| (k, sorted_keys(v))).collect();
            pairs.sort_by(|(a, _), (b, _)| a.cmp(b));
            Value::Object(pairs.into_iter().collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sorted_keys).collect()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(json: &str) -> Settings {
        Settings::from_json(json.as_bytes()).unwrap_or_default()
    }

    #[test]
    fn the_shard_rule_comes_first() {
        let sent = node_side(&settings(
            r#"{"filterableAttributes":["genre"],"displayedAttributes":["title"]}"#,
        ));
        assert_eq!(sent["filterableAttributes"][0]["attributePatterns"], json!([SHARD_FIELD]));
        assert_eq!(sent["filterableAttributes"][1], json!("genre"));
        assert_eq!(sent["displayedAttributes"], json!(["*"]));
    }

    #[test]
    fn ranking_rules_are_spelt_out() {
        for unset in ["{}", r#"{"rankingRules":null}"#] {
            let sent = node_side(&settings(unset));
            assert_eq!(sent["rankingRules"], json!(DEFAULT_RANKING_RULES));
        }
        let sent = node_side(&settings(r#"{"rankingRules":["sort"]}"#));
        assert_eq!(sent["rankingRules"], json!(["sort"]));
    }

    #[test]
    fn settings_of_newer_versions_make_no_difference() {
        let old = json!({"distinctAttribute": "x", "dictionary": []});
        let new = json!({"chat": {"description": ""}, "dictionary": [], "distinctAttribute": "x", "foreignKeys": []});
        assert_eq!(canonical(old), canonical(new));
    }

    #[test]
    fn read_back_is_compared_without_regard_to_order_of_sets() {
        let sent = canonical(json!({"stopWords": ["the", "a"], "distinctAttribute": null}));
        let read = canonical(
            json!({"stopWords": ["a", "the"], "distinctAttribute": "x", "dictionary": []}),
        );
        assert!(shows(&sent, &read));
        assert!(!shows(&canonical(json!({"distinctAttribute": "b"})), &read));
    }
}
