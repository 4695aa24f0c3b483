use super::*;

fn current(node: &Node, index: &str) -> Value {
    node.engine().settings(index).expect("settings").effective()
}

#[test]
fn settings_come_back_as_they_were_set() {
    let node = Node::new();
    let settings = json!({
        "displayedAttributes": ["id", "x"],
        "searchableAttributes": ["x", "id"],
        "filterableAttributes": [
            {"attributePatterns": ["_miroir_shard"], "features": {"facetSearch": false, "filter": {"equality": true, "comparison": false}}},
            "x"
        ],
        "sortableAttributes": ["x"],
        "rankingRules": ["words", "sort", "x:desc"],
        "stopWords": ["of", "the"],
        "nonSeparatorTokens": ["#"],
        "separatorTokens": ["|"],
        "dictionary": ["J. R. R."],
        "synonyms": {"great": ["fantastic"]},
        "distinctAttribute": "x",
        "proximityPrecision": "byAttribute",
        "typoTolerance": {
            "enabled": false,
            "minWordSizeForTypos": {"oneTypo": 6, "twoTypos": 10},
            "disableOnWords": ["shrek"],
            "disableOnAttributes": ["x"],
            "disableOnNumbers": true
        },
        "faceting": {"maxValuesPerFacet": 12, "sortFacetValuesBy": {"*": "alpha", "x": "count"}},
        "pagination": {"maxTotalHits": 33},
        "embedders": {"m": {"source": "userProvided", "dimensions": 3}},
        "searchCutoffMs": 150,
        "localizedAttributes": [{"attributePatterns": ["x"], "locales": ["jpn"]}],
        "facetSearch": false,
        "prefixSearch": "disabled"
    });
    let task = node.set("a", settings.clone());
    assert_eq!(task.error, None);
    assert_eq!(details(&task), settings);
    let read = current(&node, "a");
    for (name, value) in settings.as_object().expect("an object") {
        assert_eq!(&read[name], value, "{name}");
    }
}

#[test]
fn reset_settings_are_the_defaults_of_a_new_index() {
    let node = Node::new();
    node.run(NewTask::IndexCreation { index: "fresh".to_owned(), primary_key: None });
    node.set("a", json!({
        "rankingRules": ["x:asc"], "stopWords": ["a"], "searchableAttributes": ["x"],
        "typoTolerance": {"enabled": false}, "faceting": {"maxValuesPerFacet": 1},
        "pagination": {"maxTotalHits": 1}, "localizedAttributes": [{"attributePatterns": ["*"], "locales": ["fr"]}]
    }));
    assert_eq!(current(&node, "a")["localizedAttributes"][0]["locales"], json!(["fra"]));
    let names = [
        "displayedAttributes",
        "searchableAttributes",
        "filterableAttributes",
        "sortableAttributes",
        "rankingRules",
        "stopWords",
        "nonSeparatorTokens",
        "separatorTokens",
        "dictionary",
        "synonyms",
        "distinctAttribute",
        "proximityPrecision",
        "typoTolerance",
        "faceting",
        "pagination",
        "embedders",
        "searchCutoffMs",
        "localizedAttributes",
        "facetSearch",
        "prefixSearch",
    ];
    let reset = names.iter().map(|name| ((*name).to_owned(), Value::Null)).collect();
    assert_eq!(node.set("a", Value::Object(reset)).error, None);
    assert_eq!(current(&node, "a"), current(&node, "fresh"));
    assert_eq!(current(&node, "a")["rankingRules"][0], json!("words"));
}

#[test]
fn settings_that_documents_contradict_fail_and_change_nothing() {
    let node = Node::new();
    node.add("a", json!([{"id": 1, "_geo": {"lat": "x", "lng": 1}}]));
    let task = node.set("a", json!({"filterableAttributes": ["_geo"], "stopWords": ["a"]}));
    assert_eq!(error_of(&task).0, "invalid_document_geo_field");
    assert_eq!(current(&node, "a")["stopWords"], json!([]));
}

#[test]
fn embedders_that_call_services_are_refused() {
    let node = Node::new();
    let enqueue = |settings| node.engine().enqueue(settings_update("a", settings), None);
    let refusal = enqueue(json!({"embedders": {"m": {"source": "openAi", "apiKey": "k"}}}));
    assert_eq!(refused(refusal), "miroir_not_supported");
    // Without a source, a new embedder would be OpenAI's.
    let task = node.set("a", json!({"embedders": {"m": {"dimensions": 3}}}));
    assert_eq!(error_of(&task).0, "miroir_not_supported");
}

#[test]
fn an_embedder_that_exists_is_changed_without_naming_its_source() {
    let node = Node::new();
    node.set("a", json!({"embedders": {"m": {"source": "userProvided", "dimensions": 3}}}));
    let task = node.set("a", json!({"embedders": {"m": {"dimensions": 4}}}));
    assert_eq!(task.error, None);
    assert_eq!(current(&node, "a")["embedders"]["m"]["dimensions"], json!(4));
}

#[test]
fn word_lengths_for_typos_must_be_ordered() {
    let node = Node::new();
    let sizes = json!({"typoTolerance": {"minWordSizeForTypos": {"oneTypo": 12}}});
    let task = node.set("a", sizes);
    assert_eq!(error_of(&task).0, "invalid_settings_typo_tolerance");
}
