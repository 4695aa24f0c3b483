use serde_json::{Value, json};

use super::*;

fn settings(changes: Value) -> ReadSettings {
    let mut settings = json!({
        "displayedAttributes": ["*"],
        "rankingRules": ["words", "typo", "proximity", "attribute", "sort", "exactness"],
    });
    if let (Some(settings), Some(changes)) = (settings.as_object_mut(), changes.as_object()) {
        settings.extend(changes.clone());
    }
    ReadSettings::from_effective(&settings)
}

fn prepared(query: &Value, changes: Value, lists: Lists) -> NodeQuery {
    let query = SearchQuery::from_json(query.to_string().as_bytes());
    let query = query.unwrap_or_else(|error| panic!("{error}"));
    prepare(&query, &settings(changes), lists).unwrap_or_else(|error| panic!("{error}"))
}

fn sent(query: Value, changes: Value, lists: Lists) -> Value {
    body_of(&prepared(&query, changes, lists), None)
}

fn body_of(query: &NodeQuery, shards: Option<&str>) -> Value {
    serde_json::from_slice(&query.body(shards, query.window)).unwrap_or_default()
}

#[test]
fn many_nodes_are_asked_for_the_whole_list_up_to_the_window() {
    for (query, body, window) in [
        (json!({}), json!({}), 0..20),
        (json!({"offset": 5, "limit": 3}), json!({"limit": 8}), 5..8),
        (json!({"page": 3}), json!({"page": 1, "hitsPerPage": 60}), 40..60),
        (json!({"page": 0}), json!({"page": 1, "hitsPerPage": 0}), 0..0),
        (json!({"hitsPerPage": 7, "limit": 1}), json!({"page": 1, "hitsPerPage": 7}), 0..7),
        (json!({"offset": 995, "limit": 50}), json!({"limit": 1000}), 995..1000),
        (json!({"offset": 2000}), json!({"limit": 1000}), 1000..1000),
        (json!({"page": 51}), json!({"page": 1, "hitsPerPage": 1000}), 1000..1000),
    ] {
        assert_eq!(sent(query.clone(), json!({}), Lists::Many), body, "{query}");
        assert_eq!(prepared(&query, json!({}), Lists::Many).merge.window, window, "{query}");
    }
}

#[test]
fn one_node_cuts_the_window_itself() {
    for (query, body, whole) in [
        (json!({"offset": 5, "limit": 3}), json!({"offset": 5, "limit": 3}), true),
        (json!({"page": 3, "hitsPerPage": 7}), json!({"page": 3, "hitsPerPage": 7}), true),
        (json!({"offset": 995, "limit": 50}), json!({"offset": 995, "limit": 5}), true),
        (json!({"page": 2, "hitsPerPage": 600}), json!({"page": 1, "hitsPerPage": 1000}), false),
    ] {
        assert_eq!(sent(query.clone(), json!({}), Lists::One), body, "{query}");
        let merge = prepared(&query, json!({}), Lists::One).merge;
        assert_eq!(merge.window == (0..usize::MAX), whole, "{query}");
        assert_eq!(merge.order, HitOrder::Arrival);
    }
}

#[test]
fn what_the_merge_needs_follows_from_the_rules_at_work() {
    let order = |query: Value, changes: Value| prepared(&query, changes, Lists::Many).merge.order;
    assert_eq!(order(json!({}), json!({})), HitOrder::Arrival);
    assert_eq!(order(json!({"q": " "}), json!({})), HitOrder::Arrival);
    assert_eq!(order(json!({"q": "Word"}), json!({})), HitOrder::Score);
    for words in ["two words", "a-b", "\"a\"", "été", "iPhone", "c3po"] {
        assert_eq!(order(json!({"q": words}), json!({})), HitOrder::Rules, "{words}");
    }
    let unusual = json!({"rankingRules": ["words", "proximity", "typo", "attribute", "exactness"]});
    assert_eq!(order(json!({"q": "word"}), unusual), HitOrder::Rules);
    let custom =
        json!({"rankingRules": ["words", "typo", "proximity", "attribute", "exactness", "a:asc"]});
    assert_eq!(order(json!({}), custom), HitOrder::Rules);
    assert_eq!(order(json!({"sort": ["a:asc"]}), json!({})), HitOrder::Rules);
    let hybrid = |ratio: f64| json!({"q": "a", "vector": [1.0], "hybrid": {"embedder": "e", "semanticRatio": ratio}});
    assert_eq!(order(hybrid(0.25), json!({})), HitOrder::Hybrid { semantic_ratio: 0.25 });
    assert_eq!(order(hybrid(1.0), json!({})), HitOrder::Rules);
}

#[test]
fn the_shard_filter_stands_beside_the_client_s() {
    let body = |filter: Value, shards: Option<&str>| {
        let query = prepared(&json!({"q": "a", "filter": filter}), json!({}), Lists::Many);
        let body = body_of(&query, shards);
        body.get("filter").cloned()
    };
    assert_eq!(body(json!("a = 1"), Some("s")), Some(json!(["a = 1", "s"])));
    assert_eq!(
        body(json!(["a = 1", ["b", "c"]]), Some("s")),
        Some(json!(["a = 1", ["b", "c"], "s"]))
    );
    assert_eq!(body(json!(" "), Some("s")), Some(json!(["s"])));
    assert_eq!(body(json!("a = 1"), None), Some(json!("a = 1")));
    assert_eq!(body(json!(null), None), None);
    let empty = prepared(&json!({}), json!({}), Lists::One);
    assert_eq!(body_of(&empty, Some("s")), json!({"filter": ["s"]}));
    let query = SearchQuery { filter: Some(json!(1)), ..Default::default() };
    let refused = prepare(&query, &settings(json!({})), Lists::One).err();
    assert_eq!(refused.map(|error| error.code), Some(Code::InvalidSearchFilter));
}

#[test]
fn displayed_attributes_are_applied_before_nodes_are_asked() {
    let changes = json!({"displayedAttributes": ["title", "price"]});
    for (query, body) in [
        (json!({}), json!({"attributesToRetrieve": ["price", "title"]})),
        (
            json!({"attributesToRetrieve": ["title", "secret"]}),
            json!({"attributesToRetrieve": ["title"]}),
        ),
        (
            json!({"attributesToRetrieve": ["*"], "attributesToHighlight": ["*"], "attributesToCrop": ["*:5", "secret", "price"]}),
            json!({"attributesToRetrieve": ["price", "title"], "attributesToHighlight": ["price", "title"],
                "attributesToCrop": ["price:5", "title:5", "price"]}),
        ),
    ] {
        assert_eq!(sent(query, changes.clone(), Lists::One), body);
    }
}

#[test]
fn the_distinct_attribute_is_fetched_and_cut_again() {
    let query = json!({"distinct": "a.b", "attributesToRetrieve": ["id", "a.c"]});
    let prepared = prepared(&query, json!({}), Lists::Many);
    let body = body_of(&prepared, None);
    assert_eq!(body["attributesToRetrieve"], json!(["a.b", "a.c", "id"]));
    assert_eq!(
        prepared.merge.cuts.fields,
        [AddedField { path: "a.b".into(), shares_its_root: true }]
    );
    assert_eq!(prepared.merge.cuts.formatted_fields, prepared.merge.cuts.fields);
    for shown in [json!({"attributesToHighlight": ["*"]}), json!({"attributesToCrop": ["a:3"]})] {
        let mut query = query.clone();
        if let (Some(query), Some(shown)) = (query.as_object_mut(), shown.as_object()) {
            query.extend(shown.clone());
        }
        let cuts = self::prepared(&query, json!({}), Lists::Many).merge.cuts;
        assert!(!cuts.fields.is_empty() && cuts.formatted_fields.is_empty());
    }
    let whole = json!({"distinct": "a.b", "attributesToRetrieve": ["a"]});
    assert_eq!(self::prepared(&whole, json!({}), Lists::Many).merge.cuts.fields, []);
    let counted = self::prepared(
        &json!({"page": 1}),
        json!({"distinctAttribute": "sku", "filterableAttributes": ["sku"]}),
        Lists::Many,
    );
    assert!(counted.merge.counts_distinct && counted.merge.facets.only_added);
}

#[test]
fn reserved_names_reach_no_node() {
    let query = json!({
        "filter": "_miroir_shard = x", "sort": ["_miroir_shard:asc"], "facets": ["_miroir_shard"],
        "attributesToRetrieve": ["_miroir_shard", "id"], "attributesToHighlight": ["_miroir_shard"],
        "attributesToCrop": ["_miroir_shard:3"], "distinct": "_miroir_shard",
        "attributesToSearchOn": ["_miroir_shard"],
    });
    let body = sent(query, json!({}), Lists::Many).to_string();
    assert!(!body.contains("_miroir_"), "{body}");
}
