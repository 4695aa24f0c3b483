use proptest::prelude::*;
use serde_json::json;

use super::*;

fn parsed(value: Value) -> Settings {
    Settings::from_json(value.to_string().as_bytes()).unwrap()
}

fn refused(value: Value) -> (&'static str, String) {
    let error = Settings::from_json(value.to_string().as_bytes()).unwrap_err();
    (error.code.name(), error.message)
}

#[test]
fn fresh_settings_are_printed_as_meilisearch_prints_them() {
    assert_eq!(
        Settings::default().effective().to_string(),
        r#"{"displayedAttributes":["*"],"searchableAttributes":["*"],"filterableAttributes":[],"sortableAttributes":[],"rankingRules":["words","typo","proximity","attribute","sort","exactness"],"stopWords":[],"nonSeparatorTokens":[],"separatorTokens":[],"dictionary":[],"synonyms":{},"distinctAttribute":null,"proximityPrecision":"byWord","typoTolerance":{"enabled":true,"minWordSizeForTypos":{"oneTypo":5,"twoTypos":9},"disableOnWords":[],"disableOnAttributes":[],"disableOnNumbers":false},"faceting":{"maxValuesPerFacet":100,"sortFacetValuesBy":{"*":"alpha"}},"pagination":{"maxTotalHits":1000},"embedders":{},"searchCutoffMs":null,"localizedAttributes":null,"facetSearch":true,"prefixSearch":"indexingTime"}"#
    );
    assert_eq!(Settings::reset_all().effective(), Settings::default().effective());
}

fn full() -> Value {
    json!({
        "displayedAttributes": ["a"], "searchableAttributes": ["b", "a"],
        "filterableAttributes": ["a", {"attributePatterns": ["b*"], "features": {"facetSearch": true, "filter": {"equality": false, "comparison": true}}}],
        "sortableAttributes": ["a", "z"], "rankingRules": ["typo", "price:asc", "a:b:desc"], "stopWords": ["the"],
        "nonSeparatorTokens": ["@"], "separatorTokens": ["|"], "dictionary": ["J. R. R."], "synonyms": {"a": ["b"]},
        "distinctAttribute": "sku", "proximityPrecision": "byAttribute",
        "typoTolerance": {"enabled": false, "minWordSizeForTypos": {"oneTypo": 4, "twoTypos": 8}, "disableOnWords": ["w"], "disableOnAttributes": ["a"], "disableOnNumbers": true},
        "faceting": {"maxValuesPerFacet": 5, "sortFacetValuesBy": {"*": "count", "a": "alpha"}},
        "pagination": {"maxTotalHits": 7},
        "embedders": {"e": {"source": "userProvided", "dimensions": 3, "binaryQuantized": true, "distribution": {"mean": 0.5, "sigma": 0.25}}},
        "searchCutoffMs": 50, "localizedAttributes": [{"attributePatterns": ["*"], "locales": ["jpn"]}],
        "facetSearch": false, "prefixSearch": "disabled"
    })
}

#[test]
fn what_is_set_is_printed_back() {
    assert_eq!(parsed(full()).effective(), full());
    assert_eq!(serde_json::to_value(parsed(full())).unwrap(), full());
}

#[test]
fn reset_is_null_and_unset_is_absent() {
    let change =
        parsed(json!({"stopWords": null, "typoTolerance": {"enabled": null}, "synonyms": {}}));
    assert_eq!(change.stop_words, Setting::Reset);
    assert_eq!(change.dictionary, Setting::NotSet);
    let text = serde_json::to_string(&change).unwrap();
    assert_eq!(text, r#"{"stopWords":null,"synonyms":{},"typoTolerance":{"enabled":null}}"#);
    assert_eq!(serde_json::from_str::<Settings>(&text).unwrap(), change);
}

#[test]
fn languages_are_kept_as_sent_and_shown_in_long_form() {
    let change = parsed(
        json!({"localizedAttributes": [{"attributePatterns": ["*_ja"], "locales": ["ja", "cmn"]}]}),
    );
    assert_eq!(
        serde_json::to_value(&change).unwrap(),
        json!({"localizedAttributes": [{"attributePatterns": ["*_ja"], "locales": ["ja", "cmn"]}]})
    );
    assert_eq!(
        change.effective()["localizedAttributes"],
        json!([{"attributePatterns": ["*_ja"], "locales": ["jpn", "cmn"]}])
    );
}

#[test]
fn the_attribute_rule_stands_alone_or_in_halves() {
    parsed(json!({"rankingRules": ["words", "attributeRank", "sort", "wordPosition"]}));
    let (code, message) = refused(json!({"rankingRules": ["attribute", "wordPosition"]}));
    assert_eq!(code, "invalid_settings_ranking_rules");
    assert!(message.starts_with("Mixed usage of the attribute, attributeRank,"), "{message}");
}

#[test]
fn changes_merge_as_an_index_applies_them() {
    let mut sum = parsed(full());
    sum.merge(&parsed(json!({
        "stopWords": null, "typoTolerance": {"enabled": true, "minWordSizeForTypos": {"twoTypos": 10}},
        "faceting": {"sortFacetValuesBy": {"b": "count"}}, "synonyms": {"c": ["d"]},
        "embedders": {"e": {"binaryQuantized": false}, "f": {"source": "rest", "url": "http://x", "request": 1, "response": 2, "apiKey": "0123456789abcdef"}}
    })));
    let whole = sum.effective();
    assert_eq!(whole["stopWords"], json!([]));
    assert_eq!(whole["synonyms"], json!({"c": ["d"]}));
    assert_eq!(
        whole["typoTolerance"],
        json!({"enabled": true, "minWordSizeForTypos": {"oneTypo": 4, "twoTypos": 10}, "disableOnWords": ["w"], "disableOnAttributes": ["a"], "disableOnNumbers": true})
    );
    assert_eq!(
        whole["faceting"],
        json!({"maxValuesPerFacet": 5, "sortFacetValuesBy": {"*": "alpha", "b": "count"}})
    );
    assert_eq!(whole["embedders"]["e"]["dimensions"], 3);
    assert_eq!(whole["embedders"]["f"]["apiKey"], "01XXXX...");
    assert_eq!(whole["embedders"]["f"]["documentTemplateMaxBytes"], 400);

    sum.merge(&parsed(
        json!({"embedders": {"e": null, "f": {"source": "openAi"}}, "typoTolerance": null}),
    ));
    let whole = sum.effective();
    assert!(whole["embedders"].get("e").is_none());
    assert_eq!(whole["embedders"]["f"]["model"], "text-embedding-3-small");
    assert!(whole["embedders"]["f"].get("url").is_none());
    assert_eq!(whole["typoTolerance"], Settings::default().effective()["typoTolerance"]);

    sum.merge(&Settings::reset_all());
    assert_eq!(sum.effective(), Settings::default().effective());
}

#[test]
fn details_of_a_task_show_stars_and_hide_keys() {
    let details = parsed(json!({
        "displayedAttributes": null, "stopWords": null,
        "embedders": {"e": {"source": "openAi", "apiKey": "short"}}
    }))
    .to_details();
    assert_eq!(
        Value::Object(details),
        json!({"displayedAttributes": ["*"], "stopWords": null, "embedders": {"e": {"source": "openAi", "apiKey": "XXX..."}}})
    );
}

#[test]
fn wrong_settings_are_refused_in_meilisearchs_words() {
    let rule = |text: &str| format!("Invalid value at `.rankingRules[0]`: {text}");
    for (body, code, message) in [
        (
            json!({"stopWords": "the"}),
            "invalid_settings_stop_words",
            "Invalid value type at `.stopWords`: expected an array, but found a string: `\"the\"`".to_owned(),
        ),
        (
            json!({"rankingRules": ["doggo"]}),
            "invalid_settings_ranking_rules",
            rule("`doggo` ranking rule is invalid. Valid ranking rules are words, typo, sort, proximity, attribute, exactness and custom ranking rules."),
        ),
        (
            json!({"rankingRules": ["_geoPoint(1,2):asc"]}),
            "invalid_settings_ranking_rules",
            rule("`_geoPoint` is a reserved keyword and thus can't be used as a ranking rule. `_geoPoint` can only be used for sorting at search time"),
        ),
        (
            json!({"rankingRules": ["_geoRadius(1,2,3):desc"]}),
            "invalid_settings_ranking_rules",
            rule("`_geoRadius` is a reserved keyword and thus can't be used as a ranking rule. `_geoRadius` can only be used for filtering at search time"),
        ),
        (
            json!({"rankingRules": ["_geo:asc"]}),
            "invalid_settings_ranking_rules",
            rule("`_geo` is a reserved keyword and thus can't be used as a ranking rule"),
        ),
        (
            json!({"typoTolerance": {"minWordSizeForTypos": {"oneTypo": 9, "twoTypos": 5}}}),
            "invalid_settings_typo_tolerance",
            "Invalid value at `.typoTolerance.minWordSizeForTypos`: `minWordSizeForTypos` setting is invalid. `oneTypo` and `twoTypos` fields should be between `0` and `255`, and `twoTypos` should be greater or equals to `oneTypo` but found `oneTypo: 9` and twoTypos: 5`.".to_owned(),
        ),
        (
            json!({"typoTolerance": {"enabled": "doggo"}}),
            "invalid_settings_typo_tolerance",
            "Invalid value type at `.typoTolerance.enabled`: expected a boolean, but found a string: `\"doggo\"`".to_owned(),
        ),
        (
            json!({"pagination": {"maxTotalHits": 0}}),
            "invalid_settings_pagination",
            "Invalid value at `.pagination.maxTotalHits`: a non-zero integer value lower than `18446744073709551615` was expected, but found a zero".to_owned(),
        ),
        (
            json!({"faceting": {"maxFacets": 0}}),
            "invalid_settings_faceting",
            "Unknown field `maxFacets` inside `.faceting`: expected one of `maxValuesPerFacet`, `sortFacetValuesBy`".to_owned(),
        ),
        (
            json!({"filterableAttributes": [{"attributePattern": []}]}),
            "invalid_settings_filterable_attributes",
            "Unknown field `attributePattern` inside `.filterableAttributes[0]`: did you mean `attributePatterns`? expected one of `attributePatterns`, `features`".to_owned(),
        ),
        (
            json!({"proximityPrecision": "doggo"}),
            "invalid_settings_proximity_precision",
            "Unknown value `doggo` at `.proximityPrecision`: expected one of `byWord`, `byAttribute`".to_owned(),
        ),
        (
            json!({"searchCutoffMs": -1}),
            "invalid_settings_search_cutoff_ms",
            "Invalid value type at `.searchCutoffMs`: expected a positive integer, but found a negative integer: `-1`".to_owned(),
        ),
        (
            json!({"embedders": {"e": {"source": "doggo"}}}),
            "invalid_settings_embedders",
            "Unknown value `doggo` at `.embedders.e.source`: expected one of `openAi`, `huggingFace`, `ollama`, `userProvided`, `rest`, `composite`".to_owned(),
        ),
        (
            json!({"embedders": {"e": {"source": "userProvided"}}}),
            "invalid_settings_embedders",
            "`.embedders.e`: Missing field `dimensions` (note: this field is mandatory for source `userProvided`)".to_owned(),
        ),
        (
            json!({"embedders": {"e": {"source": "openAi", "revision": "42"}}}),
            "invalid_settings_embedders",
            "`.embedders.e`: Field `revision` unavailable for source `openAi`.\n  - note: `revision` is available for sources: `huggingFace`\n  - note: available fields for source `openAi`: `source`, `model`, `apiKey`, `dimensions`, `documentTemplate`, `documentTemplateMaxBytes`, `url`, `distribution`, `binaryQuantized`".to_owned(),
        ),
        (
            json!({"embedders": {"e": {"source": "userProvided", "dimensions": 0}}}),
            "invalid_settings_embedders",
            "`.embedders.e.dimensions`: `dimensions` cannot be zero".to_owned(),
        ),
        (
            json!({"embedders": {"e": {"source": "openAi", "model": "x"}}}),
            "invalid_settings_embedders",
            "`.embedders.e.model`: Invalid model `x` for OpenAI. Supported models: [\"text-embedding-ada-002\", \"text-embedding-3-small\", \"text-embedding-3-large\"]".to_owned(),
        ),
        (
            json!({"chat": {"description": "x"}}),
            "feature_not_enabled",
            "setting `chat` in the index settings requires enabling the `chat completions` experimental feature. See https://github.com/orgs/meilisearch/discussions/835".to_owned(),
        ),
        (
            json!({"stopWord": []}),
            "bad_request",
            "Unknown field `stopWord`: did you mean `stopWords`? expected one of `displayedAttributes`, `searchableAttributes`, `filterableAttributes`, `sortableAttributes`, `rankingRules`, `stopWords`, `nonSeparatorTokens`, `separatorTokens`, `dictionary`, `synonyms`, `distinctAttribute`, `proximityPrecision`, `typoTolerance`, `faceting`, `pagination`, `embedders`, `searchCutoffMs`, `localizedAttributes`, `facetSearch`, `prefixSearch`, `chat`".to_owned(),
        ),
    ] {
        assert_eq!(refused(body.clone()), (code, message), "{body}");
    }
}

#[test]
fn sub_routes_read_write_and_reset_their_field() {
    let settings = parsed(full());
    for route in SUB_ROUTES {
        assert_eq!(sub_route(route.name), Some(route));
        let reset = patch_from_sub_route(route.name, None).unwrap();
        assert_eq!(serde_json::to_value(&reset).unwrap(), json!({route.field: null}));
        assert_eq!(patch_from_sub_route(route.name, Some(b"null")).unwrap(), reset);
        if route.field == "chat" {
            continue;
        }
        let value = full()[route.field].clone();
        let change = patch_from_sub_route(route.name, Some(value.to_string().as_bytes())).unwrap();
        assert_eq!(serde_json::to_value(&change).unwrap(), json!({route.field: value}));
        assert_eq!(settings.effective_sub_route(route.name), Some(value));
    }
    assert_eq!(SUB_ROUTES.iter().filter(|route| route.method == Method::Patch).count(), 4);
    assert_eq!(sub_route("doggo"), None);
    assert_eq!(settings.effective_sub_route("doggo"), None);
    let error = patch_from_sub_route("stop-words", Some(b"\"the\"")).unwrap_err();
    assert_eq!(
        (error.code.name(), error.message.as_str()),
        (
            "invalid_settings_stop_words",
            "Invalid value type: expected an array, but found a string: `\"the\"`"
        )
    );
    let error = patch_from_sub_route("ranking-rules", Some(b"[\"doggo\"]")).unwrap_err();
    assert!(
        error.message.starts_with("Invalid value at `[0]`: `doggo` ranking rule is invalid."),
        "{}",
        error.message
    );
}

#[test]
fn defaults_are_told_one_by_one() {
    let fresh = Settings::default();
    assert_eq!((fresh.max_total_hits(), fresh.max_values_per_facet()), (1000, 100));
    assert_eq!(fresh.facet_order("a"), FacetOrder::Alpha);
    assert_eq!(fresh.displayed(), None);
    assert_eq!(fresh.ranking_rules(), DEFAULT_RANKING_RULES);
    let set = parsed(full());
    assert_eq!((set.max_total_hits(), set.max_values_per_facet()), (7, 5));
    assert_eq!(
        (set.facet_order("a"), set.facet_order("b")),
        (FacetOrder::Alpha, FacetOrder::Count)
    );
    assert_eq!(set.displayed(), Some(["a".to_owned()].as_slice()));
    assert_eq!(parsed(json!({"displayedAttributes": ["a", "*"]})).displayed(), None);
}

/// Any subset of the full settings, each field set, reset or left alone.
fn any_change() -> impl Strategy<Value = Settings> {
    prop::collection::vec(0..3u8, SUB_ROUTES.len()).prop_map(|states| {
        let mut body = Map::new();
        for (route, state) in SUB_ROUTES.iter().zip(states) {
            match state {
                1 => {
                    body.insert(route.field.to_owned(), Value::Null);
                }
                2 if route.field != "chat" => {
                    body.insert(route.field.to_owned(), full()[route.field].clone());
                }
                _ => {}
            }
        }
        parsed(Value::Object(body))
    })
}

proptest! {
    #[test]
    fn merging_does_not_depend_on_grouping(a in any_change(), b in any_change(), c in any_change()) {
        let mut left = a.clone();
        left.merge(&b);
        left.merge(&c);
        let mut tail = b.clone();
        tail.merge(&c);
        let mut right = a.clone();
        right.merge(&tail);
        prop_assert_eq!(&left, &right);
        let mut twice = left.clone();
        twice.merge(&c);
        prop_assert_eq!(&twice, &left);
    }

    #[test]
    fn settings_survive_serialisation(change in any_change()) {
        let text = serde_json::to_string(&change).unwrap();
        prop_assert_eq!(serde_json::from_str::<Settings>(&text).unwrap(), change);
    }
}
