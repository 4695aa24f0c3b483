use serde_json::json;

use super::params::split_sort;
use super::*;

#[test]
fn an_empty_query_has_the_defaults_and_serialises_to_nothing() {
    assert_eq!(SearchQuery::from_json(b"{}").unwrap(), SearchQuery::default());
    assert_eq!(SearchQuery::from_query_string("").unwrap(), SearchQuery::default());
    assert_eq!(serde_json::to_value(SearchQuery::default()).unwrap(), json!({}));
}

#[test]
fn a_full_query_survives_serialisation() {
    let body = json!({
        "q": "a", "vector": [0.5, 1.0], "hybrid": {"semanticRatio": 0.25, "embedder": "e"}, "offset": 1, "limit": 2,
        "page": 3, "hitsPerPage": 4, "attributesToRetrieve": ["a"], "retrieveVectors": true,
        "attributesToCrop": ["b:2"], "cropLength": 5, "attributesToHighlight": ["*"], "showMatchesPosition": true,
        "showRankingScore": true, "showRankingScoreDetails": true, "filter": ["a = 1", ["b = 2"]], "sort": ["a:asc"],
        "distinct": "a", "facets": ["a"], "highlightPreTag": "<b>", "highlightPostTag": "</b>", "cropMarker": "..",
        "matchingStrategy": "frequency", "attributesToSearchOn": ["a"], "rankingScoreThreshold": 0.5,
        "locales": ["en", "jpn"]
    });
    let query = SearchQuery::from_json(body.to_string().as_bytes()).unwrap();
    assert_eq!(serde_json::to_value(&query).unwrap(), body);
    assert!(query.is_finite_pagination());
}

#[test]
fn a_query_string_says_the_same_as_a_body() {
    let string = "q=a&vector=0.5,1&hybridEmbedder=e&hybridSemanticRatio=0.25&offset=1&limit=2&page=3&hitsPerPage=4\
        &attributesToRetrieve=a,b&attributesToCrop=b:2&cropLength=5&attributesToHighlight=*&showMatchesPosition=true\
        &showRankingScore=true&filter=a%20%3D%201&sort=a:asc,_geoPoint(1,2):desc&facets=a,,b&matchingStrategy=all\
        &rankingScoreThreshold=0.5&locales=en&cropMarker=.";
    let body = json!({
        "q": "a", "vector": [0.5, 1.0], "hybrid": {"semanticRatio": 0.25, "embedder": "e"}, "offset": 1, "limit": 2,
        "page": 3, "hitsPerPage": 4, "attributesToRetrieve": ["a", "b"], "attributesToCrop": ["b:2"], "cropLength": 5,
        "attributesToHighlight": ["*"], "showMatchesPosition": true, "showRankingScore": true, "filter": "a = 1",
        "sort": ["a:asc", "_geoPoint(1,2):desc"], "facets": ["a", "b"], "matchingStrategy": "all",
        "rankingScoreThreshold": 0.5, "locales": ["en"], "cropMarker": "."
    });
    assert_eq!(
        SearchQuery::from_query_string(string).unwrap(),
        SearchQuery::from_json(body.to_string().as_bytes()).unwrap()
    );
}

#[test]
fn sort_is_split_outside_of_points_only() {
    for (text, rules) in [
        ("doggo", vec!["doggo"]),
        ("\"doggo:asc\"", vec!["doggo:asc"]),
        ("a:asc , b:desc", vec!["a:asc", "b:desc"]),
        ("_geoPoint(12.45,13.56):desc", vec!["_geoPoint(12.45,13.56):desc"]),
        ("_geoPoint(12, 13):asc,a", vec!["_geoPoint(12,13):asc", "a"]),
        (
            "a,_geoPoint(1,2):asc,_geoPoint(3,4):desc,b",
            vec!["a", "_geoPoint(1,2):asc", "_geoPoint(3,4):desc", "b"],
        ),
    ] {
        assert_eq!(split_sort(text), rules, "{text}");
    }
}

const FIELDS: &str = "`q`, `vector`, `hybrid`, `offset`, `limit`, `page`, `hitsPerPage`, `attributesToRetrieve`, \
    `retrieveVectors`, `attributesToCrop`, `cropLength`, `attributesToHighlight`, `showMatchesPosition`, \
    `showRankingScore`, `showRankingScoreDetails`, `filter`, `sort`, `distinct`, `facets`, `highlightPreTag`, \
    `highlightPostTag`, `cropMarker`, `matchingStrategy`, `attributesToSearchOn`, `rankingScoreThreshold`, `locales`";

#[test]
fn wrong_bodies_are_refused_in_meilisearchs_words() {
    let type_error = |field: &str, expected: &str, found: &str| {
        format!("Invalid value type at `.{field}`: expected {expected}, but found {found}")
    };
    for (body, code, message) in [
        (json!({"doggo": 1}), "bad_request", format!("Unknown field `doggo`: expected one of {FIELDS}")),
        (json!({"fillter": 1}), "bad_request", format!("Unknown field `fillter`: did you mean `filter`? expected one of {FIELDS}")),
        (json!({"q": ["doggo"]}), "invalid_search_q", type_error("q", "a string", "an array: `[\"doggo\"]`")),
        (json!({"limit": "a"}), "invalid_search_limit", type_error("limit", "a positive integer", "a string: `\"a\"`")),
        (json!({"limit": -1}), "invalid_search_limit", type_error("limit", "a positive integer", "a negative integer: `-1`")),
        (json!({"offset": 1.5}), "invalid_search_offset", type_error("offset", "a positive integer", "a number: `1.5`")),
        (json!({"vector": "doggo"}), "invalid_search_vector", type_error("vector", "an array", "a string: `\"doggo\"`")),
        (
            json!({"hybrid": {"semanticRatio": 0.5}}),
            "invalid_search_hybrid_query",
            "Missing field `embedder` inside `.hybrid`".to_owned(),
        ),
        (
            json!({"hybrid": {"embedder": "e", "semanticRatio": 1.5}}),
            "invalid_search_semantic_ratio",
            "Invalid value at `.hybrid.semanticRatio`: the value of `semanticRatio` is invalid, expected a float between `0.0` and `1.0`.".to_owned(),
        ),
        (
            json!({"rankingScoreThreshold": -0.5}),
            "invalid_search_ranking_score_threshold",
            "Invalid value at `.rankingScoreThreshold`: the value of `rankingScoreThreshold` is invalid, expected a float between `0.0` and `1.0`.".to_owned(),
        ),
        (
            json!({"matchingStrategy": "doggo"}),
            "invalid_search_matching_strategy",
            "Unknown value `doggo` at `.matchingStrategy`: expected one of `last`, `all`, `frequency`".to_owned(),
        ),
        (
            json!({"showRankingScore": "a"}),
            "invalid_search_show_ranking_score",
            type_error("showRankingScore", "a boolean", "a string: `\"a\"`"),
        ),
        (
            json!({"vector": [0.5]}),
            "missing_search_hybrid",
            "Invalid request: missing `hybrid` parameter when `vector` is present.".to_owned(),
        ),
        (json!([]), "bad_request", "Invalid value type: expected an object, but found an array: `[]`".to_owned()),
    ] {
        let error = SearchQuery::from_json(body.to_string().as_bytes()).unwrap_err();
        assert_eq!((error.code.name(), error.message), (code, message), "{body}");
    }
    let error = SearchQuery::from_json(br#"{"locales":["eng","zzz"]}"#).unwrap_err();
    assert_eq!(error.code, Code::InvalidSearchLocales);
    assert!(
        error
            .message
            .starts_with("Unknown value `zzz` at `.locales[1]`: expected one of `af`, `ak`, `am`,")
    );
    assert!(error.message.ends_with("`yid`, `zho`, `zul`, `cmn`"), "{}", error.message);
}

#[test]
fn wrong_query_strings_are_refused_in_meilisearchs_words() {
    for (query, code, message) in [
        (
            "limit=doggo",
            "invalid_search_limit",
            "Invalid value in parameter `limit`: could not parse `doggo` as a positive integer",
        ),
        (
            "showRankingScore=doggo",
            "invalid_search_show_ranking_score",
            "Invalid value in parameter `showRankingScore`: could not parse `doggo` as a boolean, expected either `true` or `false`",
        ),
        (
            "matchingStrategy=doggo",
            "invalid_search_matching_strategy",
            "Unknown value `doggo` for parameter `matchingStrategy`: expected one of `last`, `all`, `frequency`",
        ),
        (
            "rankingScoreThreshold=doggo",
            "invalid_search_ranking_score_threshold",
            "Invalid value in parameter `rankingScoreThreshold`: the value of `rankingScoreThreshold` is invalid, expected a float between `0.0` and `1.0`.",
        ),
        (
            "vector=1,a",
            "invalid_search_vector",
            "Invalid value in parameter `vector`: invalid float literal",
        ),
        (
            "hybridSemanticRatio=0.5",
            "invalid_search_hybrid_query",
            "`hybridEmbedder` is mandatory when `hybridSemanticRatio` is present",
        ),
        (
            "vector=1",
            "missing_search_hybrid",
            "`hybridEmbedder` is mandatory when `vector` is present",
        ),
    ] {
        let error = SearchQuery::from_query_string(query).unwrap_err();
        assert_eq!((error.code.name(), error.message.as_str()), (code, message));
    }
    let error = SearchQuery::from_query_string("locales=doggo").unwrap_err();
    assert!(
        error.message.starts_with("Invalid value in parameter `locales`: Unsupported locale `doggo`, expected one of af, ak, am,"),
        "{}",
        error.message
    );
}

#[test]
fn filters_are_texts_or_lists_of_texts_or_lists_of_lists() {
    for (filter, says_something) in [
        (json!("a = 1"), true),
        (json!(" \n"), false),
        (json!([]), false),
        (json!([[], "", ["  "]]), false),
        (json!(["a = 1", ["b = 2", "c = 3"]]), true),
    ] {
        assert_eq!(
            check_filter_shape(&filter, Code::InvalidSearchFilter),
            Ok(says_something),
            "{filter}"
        );
    }
    for (filter, message) in [
        (
            json!(true),
            "Invalid syntax for the filter parameter: `expected String, Array, found: true`.",
        ),
        (
            json!(["a", 1]),
            "Invalid syntax for the filter parameter: `expected String, [String], found: 1`.",
        ),
        (
            json!([["a", ["b"]]]),
            "Invalid syntax for the filter parameter: `expected String, found: [\"b\"]`.",
        ),
    ] {
        let error = check_filter_shape(&filter, Code::InvalidDocumentFilter).unwrap_err();
        assert_eq!((error.code, error.message.as_str()), (Code::InvalidDocumentFilter, message));
    }
}

#[test]
fn multi_search_keeps_order_and_what_was_given() {
    let body = json!({
        "queries": [
            {"indexUid": "a", "q": "x", "limit": 20},
            {"indexUid": "b", "federationOptions": {"weight": 2}},
        ],
        "federation": {}
    });
    let multi = MultiSearchQuery::from_json(body.to_string().as_bytes()).unwrap();
    assert_eq!(
        multi.queries.iter().map(|(index, _)| index.as_str()).collect::<Vec<_>>(),
        ["a", "b"]
    );
    let federation = multi.federation.as_ref().unwrap();
    assert_eq!((federation.window(), federation.is_finite_pagination()), ((0, 20), false));
    assert!(federation.facets_by_index.is_empty() && federation.merge_facets.is_none());
    assert_eq!(multi.pagination, [Some("limit"), None]);
    assert_eq!(multi.federation_options[1].as_ref().map(|options| options.weight.get()), Some(2.0));
    let error = multi.check_federation().unwrap_err();
    assert_eq!(error.code, Code::InvalidMultiSearchQueryPagination);
    assert_eq!(
        error.message,
        "Inside `.queries[0]`: Using pagination options is not allowed in federated queries.\n - Hint: remove `limit` from query #0 or remove `federation` from the request\n - Hint: pass `federation.limit` and `federation.offset` for pagination in federated search"
    );
}

#[test]
fn wrong_multi_searches_are_refused_in_meilisearchs_words() {
    for (body, code, message) in [
        (json!({}), "bad_request", "Missing field `queries`"),
        (
            json!({"queries": [{"q": "a"}]}),
            "missing_index_uid",
            "Missing field `indexUid` inside `.queries[0]`",
        ),
        (
            json!({"queries": [{"indexUid": "a", "q": 1}]}),
            "invalid_search_q",
            "Invalid value type at `.queries[0].q`: expected a string, but found a positive integer: `1`",
        ),
        (
            json!({"queries": [], "federation": {"limit": "a"}}),
            "invalid_search_limit",
            "Invalid value type at `.federation.limit`: expected a positive integer, but found a string: `\"a\"`",
        ),
        (
            json!({"queries": [{"indexUid": "a", "federationOptions": {"weight": -1}}]}),
            "invalid_multi_search_weight",
            "Invalid value at `.queries[0].federationOptions.weight`: the value of `weight` is invalid, expected a positive float (>= 0.0).",
        ),
    ] {
        let error = MultiSearchQuery::from_json(body.to_string().as_bytes()).unwrap_err();
        assert_eq!((error.code.name(), error.message.as_str()), (code, message), "{body}");
    }
    for (body, code, message) in [
        (
            json!({"queries": [{"indexUid": "a", "federationOptions": {}}]}),
            "invalid_multi_search_federation_options",
            "Inside `.queries[0]`: Using `federationOptions` is not allowed in a non-federated search.\n - Hint: remove `federationOptions` from query #0 or add `federation` to the request.",
        ),
        (
            json!({"queries": [{"indexUid": "a", "facets": ["x"]}], "federation": {}}),
            "invalid_multi_search_query_facets",
            "Inside `.queries[0]`: Using facet options is not allowed in federated queries.\n - Hint: remove `facets` from query #0 or remove `federation` from the request\n - Hint: pass `federation.facetsByIndex.a: [\"x\"]` for facets in federated search",
        ),
    ] {
        let multi = MultiSearchQuery::from_json(body.to_string().as_bytes()).unwrap();
        let error = multi.check_federation().unwrap_err();
        assert_eq!((error.code.name(), error.message.as_str()), (code, message), "{body}");
    }
}

#[test]
fn federation_has_windows_and_pages() {
    for (federation, window) in [
        (json!({"offset": 3, "limit": 4}), (3, 4)),
        (json!({"page": 3}), (40, 20)),
        (json!({"page": 2, "hitsPerPage": 5, "offset": 100}), (5, 5)),
        (json!({"page": 0}), (0, 0)),
    ] {
        let body = json!({"queries": [], "federation": federation}).to_string();
        let multi = MultiSearchQuery::from_json(body.as_bytes()).unwrap();
        assert_eq!(multi.federation.unwrap().window(), window, "{federation}");
    }
    for (options, message) in [
        (
            json!({"remote": "a"}),
            "Performing a remote federated search requires enabling the `network` experimental feature. See https://github.com/orgs/meilisearch/discussions/805",
        ),
        (
            json!({"queryPosition": 1}),
            "Using `federationOptions.queryPosition` requires enabling the `network` experimental feature. See https://github.com/orgs/meilisearch/discussions/805",
        ),
    ] {
        let body =
            json!({"queries": [{"indexUid": "a", "federationOptions": options}], "federation": {}});
        let multi = MultiSearchQuery::from_json(body.to_string().as_bytes()).unwrap();
        let error = multi.check_federation().unwrap_err();
        assert_eq!((error.code, error.message.as_str()), (Code::FeatureNotEnabled, message));
    }
}
