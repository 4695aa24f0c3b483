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

/// The engine sorts the numbers of a facet by their printed form when there are at most this many
/// documents to count, and by value when there are more.
pub const PRINTED_ORDER_DOCUMENTS_MAX: u64 = 3000;

/// Meilisearch's defaults of the settings that decide how many facet values are listed.
const FACET_VALUES_MAX_DEFAULT: u64 = 100;
const TOTAL_HITS_MAX_DEFAULT: u64 = 1000;

/// Values listed so that distinct documents can be counted beyond the usual `maxTotalHits`. More
/// would make every facet with so many values slow (20,000 take 20 to 70 ms).
const DISTINCT_VALUES_MAX: u64 = 20_000;

/// Facet values that a node lists per facet, for the client's `maxValuesPerFacet` and
/// `maxTotalHits`: more than the client sees, since
/// - a node with few documents sorts numbers by their printed form while all nodes together have
///   enough documents to sort them by value. Such a node lists all its values, unless its
///   documents have more than one each;
/// - the most frequent values of all nodes are rarely far down in the list of one. Twice the
///   client's number and the default of thousands leave little for a second round;
/// - documents that two nodes keep for one value of the `distinct` attribute are told by that
///   value, as many as the answer can count.
///
/// Nodes take this limit from their settings only, so it can't follow the query.
pub fn node_facet_values_max(values_max: u64, total_hits_max: u64) -> u64 {
    (PRINTED_ORDER_DOCUMENTS_MAX + 1)
        .max(values_max.saturating_mul(2))
        .max(total_hits_max.saturating_add(1).min(DISTINCT_VALUES_MAX))
}

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
    let number = |all: &Map<String, Value>, setting: &str, name: &str, default: u64| {
        all.get(setting).and_then(|part| part.get(name)).and_then(Value::as_u64).unwrap_or(default)
    };
    let facet_values_max = node_facet_values_max(
        number(&all, "faceting", "maxValuesPerFacet", FACET_VALUES_MAX_DEFAULT),
        number(&all, "pagination", "maxTotalHits", TOTAL_HITS_MAX_DEFAULT),
    );
    let ranking_rules = all.entry("rankingRules").or_insert_with(|| json!(DEFAULT_RANKING_RULES));
    if ranking_rules.is_null() {
        *ranking_rules = json!(DEFAULT_RANKING_RULES);
    }
    let faceting = all.entry("faceting").or_insert_with(|| json!({}));
    if faceting.is_null() {
        *faceting = json!({});
    }
    if let Value::Object(faceting) = faceting {
        faceting.insert("maxValuesPerFacet".into(), json!(facet_values_max));
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

/// Whether what a node prints is not what it must have for `settings`, defaults included.
pub fn differs(settings: &Settings, read: &Value) -> bool {
    let on_node = node_side(settings).to_string();
    let Ok(on_node) = Settings::from_json(on_node.as_bytes()) else { return false };
    let wanted = on_node.effective();
    let embedders = |all: &Value| all.get("embedders").cloned().unwrap_or(Value::Null);
    !is_same_embedders(&embedders(&wanted), &embedders(read))
        || !is_same(&canonical(wanted), &canonical(read.clone()))
}

/// As [`shows`], but a default must be a default on the node too. What one side does not know,
/// an older or newer version, is left out.
fn is_same(wanted: &Value, read: &Value) -> bool {
    match (wanted, read) {
        (Value::Object(wanted), Value::Object(read)) => {
            wanted.iter().all(|(key, value)| match read.get(key) {
                None => true,
                // Keys of the client's own: one more is a difference.
                Some(found) if key == "synonyms" || key == "sortFacetValuesBy" => value == found,
                Some(found) => is_same(value, found),
            })
        }
        (Value::Array(wanted), Value::Array(read)) => {
            wanted.len() == read.len() && wanted.iter().zip(read).all(|(w, r)| is_same(w, r))
        }
        (Value::Number(wanted), Value::Number(read)) => wanted.as_f64() == read.as_f64(),
        (wanted, read) => wanted == read,
    }
}

/// By name and by what makes vectors: secrets are masked, the rest is filled in by nodes.
fn is_same_embedders(wanted: &Value, read: &Value) -> bool {
    const TELLING: &[&str] = &["source", "model"];
    let none = Map::new();
    let (wanted, read) = (wanted.as_object().unwrap_or(&none), read.as_object().unwrap_or(&none));
    wanted.len() == read.len()
        && wanted.iter().all(|(name, wanted)| {
            read.get(name).is_some_and(|read| {
                TELLING.iter().all(|key| match (wanted.get(key), read.get(key)) {
                    (Some(wanted), Some(read)) => wanted == read,
                    _ => true,
                })
            })
        })
}

/// The settings for a node, whole, so that it has them whatever it had before (`read`): what
/// isn't set goes back to its default. One request, so that nothing is missing in between.
pub fn node_side_whole(settings: &Settings, read: &Value) -> Value {
    /// Nodes merge what they are sent into these, key by key.
    const MERGED: &[&str] = &["typoTolerance", "faceting", "pagination", "embedders"];
    let mut whole = match serde_json::to_value(Settings::reset_all()) {
        Ok(Value::Object(all)) => all,
        _ => Map::new(),
    };
    // Experimental; nodes refuse to hear of it unless it is switched on.
    whole.remove("chat");
    if let Value::Object(set) = node_side(settings) {
        whole.extend(set);
    }
    for key in MERGED {
        if let (Some(sent), Some(read)) = (whole.get_mut(*key), read.get(*key)) {
            reset_unsent(sent, read, *key == "embedders");
        }
    }
    Value::Object(whole)
}

/// Adds `null` for each key that the node has and is not sent. An embedder is sent whole.
fn reset_unsent(sent: &mut Value, read: &Value, by_name: bool) {
    let (Value::Object(sent), Value::Object(read)) = (sent, read) else { return };
    for (key, value) in read {
        match sent.get_mut(key) {
            None => {
                sent.insert(key.clone(), Value::Null);
            }
            // Given whole by clients: attributes are no keys of Meilisearch's.
            Some(_) if by_name || key == "sortFacetValuesBy" => {}
            Some(below) => reset_unsent(below, value, false),
        }
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
    fn nodes_list_more_facet_values_than_the_client_sees() {
        let listed =
            |json: &str| node_side(&settings(json))["faceting"]["maxValuesPerFacet"].clone();
        assert_eq!(listed("{}"), 3001);
        assert_eq!(listed(r#"{"faceting":{"maxValuesPerFacet":null}}"#), 3001);
        assert_eq!(listed(r#"{"faceting":{"maxValuesPerFacet":5000}}"#), 10_000);
        assert_eq!(listed(r#"{"pagination":{"maxTotalHits":8000}}"#), 8001);
        assert_eq!(listed(r#"{"pagination":{"maxTotalHits":1000000}}"#), 20_000);
    }

    #[test]
    fn a_node_differs_when_it_lacks_what_is_agreed_or_has_what_is_not() {
        let agreed = settings(r#"{"sortableAttributes":["b","a"],"stopWords":["the"]}"#);
        let on_node = settings(&node_side(&agreed).to_string()).effective();
        assert!(!differs(&agreed, &on_node));
        let changed = |key: &str, value: Value| {
            let mut read = on_node.clone();
            read[key] = value;
            differs(&agreed, &read)
        };
        assert!(!changed("sortableAttributes", json!(["a", "b"])));
        assert!(!changed("madeIn2030", json!(true)));
        assert!(changed("distinctAttribute", json!("a")));
        assert!(changed("filterableAttributes", json!([])));
        assert!(changed("stopWords", json!([])));
        assert!(changed("synonyms", json!({"theirs": ["ours"]})));
        let by_count =
            json!({"maxValuesPerFacet": 3001, "sortFacetValuesBy": {"*": "alpha", "a": "count"}});
        assert!(changed("faceting", by_count));
        assert!(changed("embedders", json!({"theirs": {"source": "userProvided"}})));
    }

    #[test]
    fn whole_settings_undo_whatever_a_node_has() {
        let agreed = settings(r#"{"typoTolerance":{"enabled":true},"distinctAttribute":"a"}"#);
        let theirs = settings(
            r#"{"typoTolerance":{"disableOnWords":["x"],"minWordSizeForTypos":{"oneTypo":2}},
                "faceting":{"sortFacetValuesBy":{"a":"count"}},"sortableAttributes":["z"]}"#,
        );
        let whole = node_side_whole(&agreed, &theirs.effective());
        let mut on_node = theirs;
        on_node.merge(&settings(&whole.to_string()));
        assert!(!differs(&agreed, &on_node.effective()));
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
