//! The shape of search answers.

use serde_json::{Value, json};

use crate::client::TestNode;

async fn films() -> TestNode {
    let node = TestNode::start().await;
    let settings = json!({
        "searchableAttributes": ["title", "overview"],
        "filterableAttributes": ["genre", "year", "_geo"],
        "sortableAttributes": ["year", "title", "_geo"],
    });
    node.succeed("PATCH", "/indexes/films/settings", settings).await;
    let documents = json!([
        {"id": 1, "title": "Badman", "overview": "a long story of a man who is bad at being good and good at being bad",
         "genre": ["crime"], "year": 1999, "_geo": {"lat": 48.8566, "lng": 2.3522}, "crew": [{"name": "ann", "pay": 1.50}, {"pay": 2}]},
        {"id": 2, "title": "Batman", "overview": "a man of the night", "genre": ["crime", "drama"], "year": 1989,
         "_geo": {"lat": "51.5072", "lng": "-0.1276"}},
        {"id": 3, "title": "Batman returns", "overview": "he is back", "genre": ["drama"], "year": 1992},
    ]);
    node.succeed("POST", "/indexes/films/documents", documents).await;
    node
}

fn ids(answer: &Value) -> Vec<i64> {
    let hits = answer["hits"].as_array().expect("hits");
    hits.iter().map(|hit| hit["id"].as_i64().expect("id")).collect()
}

#[tokio::test]
async fn highlighted_and_cropped_fields_are_in_formatted() {
    let node = films().await;
    let answer = node
        .search(
            "films",
            json!({
                "q": "good", "attributesToRetrieve": ["id", "crew.name"],
                "attributesToHighlight": ["overview"], "attributesToCrop": ["overview:5"],
                "cropMarker": "[..]", "highlightPreTag": "<b>", "highlightPostTag": "</b>",
                "showMatchesPosition": true,
            }),
        )
        .await;
    assert_eq!(
        answer["hits"][0],
        json!({
            "id": 1,
            "crew": [{"name": "ann"}],
            "_formatted": {
                "id": "1",
                "overview": "[..]being <b>good</b> and <b>good</b> at[..]",
                "crew": [{"name": "ann"}],
            },
            "_matchesPosition": {"overview": [{"start": 42, "length": 4}, {"start": 51, "length": 4}]},
        })
    );
}

/// Meilisearch 1.15 and 1.50 end such a search by a panic when the phrase ends the text.
#[tokio::test]
async fn a_phrase_longer_than_the_crop_is_cropped_alike_within_and_at_the_end_of_a_text() {
    let node = films().await;
    let documents = json!([
        {"id": 4, "title": "It began on Jan 20 2006"},
        {"id": 5, "title": "It began on Jan 20 2006, in fact"},
        {"id": 6, "title": "It began on Jan 20 2006 "},
    ]);
    node.succeed("POST", "/indexes/films/documents", documents).await;
    for (crop, expected) in
        [("title:1", "It began on <em>Jan</em>…"), ("title:2", "It began on <em>Jan 20</em>…")]
    {
        let query = json!({"q": "\"jan 20 2006\"", "attributesToCrop": [crop], "attributesToHighlight": ["title"]});
        let answer = node.search("films", query).await;
        let mut shown: Vec<&Value> = answer["hits"]
            .as_array()
            .expect("hits")
            .iter()
            .map(|hit| &hit["_formatted"]["title"])
            .collect();
        shown.dedup();
        assert_eq!(shown, [&json!(expected)]);
    }
    let query = json!({"q": "\"jan 20 2006\"", "attributesToCrop": ["title:3"]});
    let answer = node.search("films", query).await;
    assert_eq!(ids(&answer).len(), 3);
    assert!(answer["hits"].to_string().contains("\"title\":\"…Jan 20 2006\""), "{answer}");
}

#[tokio::test]
async fn numbers_are_normalised_and_nested_fields_selected() {
    let node = films().await;
    let answer = node.search("films", json!({"q": "badman"})).await;
    assert_eq!(answer["hits"][0]["crew"].to_string(), r#"[{"name":"ann","pay":1.5},{"pay":2}]"#);
    assert!(answer["hits"][0].get("_formatted").is_none());
    let none = node.search("films", json!({"limit": 1, "attributesToRetrieve": []})).await;
    assert_eq!(none["hits"], json!([{}]));
}

#[tokio::test]
async fn displayed_attributes_limit_hits_but_not_documents() {
    let node = films().await;
    let displayed = json!({"displayedAttributes": ["title"]});
    node.succeed("PATCH", "/indexes/films/settings", displayed).await;
    let answer = node
        .search("films", json!({"q": "badman", "limit": 1, "attributesToRetrieve": ["*"], "attributesToHighlight": ["*"]}))
        .await;
    assert_eq!(
        answer["hits"],
        json!([{"title": "Badman", "_formatted": {"title": "<em>Badman</em>"}}])
    );
    let document = node.get("/indexes/films/documents/1").await.body;
    assert_eq!(document["year"], 1999);
}

#[tokio::test]
async fn facets_are_counted_and_numbers_summed_up() {
    let node = films().await;
    let answer = node.search("films", json!({"facets": ["genre", "year"], "limit": 0})).await;
    assert_eq!(
        answer["facetDistribution"],
        json!({"genre": {"crime": 2, "drama": 2}, "year": {"1989": 1, "1992": 1, "1999": 1}})
    );
    assert_eq!(answer["facetStats"], json!({"year": {"min": 1989.0, "max": 1999.0}}));
    let faceting = json!({"maxValuesPerFacet": 1, "sortFacetValuesBy": {"genre": "count"}});
    node.succeed("PATCH", "/indexes/films/settings/faceting", faceting).await;
    let answer = node
        .search("films", json!({"filter": "year < 1995", "facets": ["genre"], "limit": 0}))
        .await;
    assert_eq!(answer["facetDistribution"]["genre"], json!({"drama": 2}));
}

#[tokio::test]
async fn distance_is_told_where_the_search_sorts_by_it() {
    let node = films().await;
    let by_distance = json!({"sort": ["_geoPoint(48.8566, 2.3522):asc"]});
    let answer = node.search("films", by_distance).await;
    assert_eq!(ids(&answer), [1, 2, 3]);
    assert_eq!(answer["hits"][0]["_geoDistance"], 0);
    assert_eq!(answer["hits"][1]["_geoDistance"], 343_530);
    assert!(answer["hits"][2].get("_geoDistance").is_none());
    let near = node.search("films", json!({"filter": "_geoRadius(48.8566, 2.3522, 1000)"})).await;
    assert_eq!(ids(&near), [1]);
    let boxed = json!({"filter": "_geoBoundingBox([52, 1], [51, -1])"});
    assert_eq!(ids(&node.search("films", boxed).await), [2]);
}

#[tokio::test]
async fn scores_come_with_their_details_in_order() {
    let node = films().await;
    let answer = node
        .search("films", json!({"q": "badman", "sort": ["year:asc"], "showRankingScore": true, "showRankingScoreDetails": true}))
        .await;
    assert_eq!(ids(&answer), [1, 2, 3]);
    let details = &answer["hits"][1]["_rankingScoreDetails"];
    let rules: Vec<&String> = details.as_object().expect("details").keys().collect();
    assert_eq!(rules, ["words", "typo", "proximity", "attribute", "year:asc", "exactness"]);
    assert_eq!(
        details["typo"],
        json!({"order": 1, "typoCount": 1, "maxTypoCount": 1, "score": 0.5})
    );
    assert_eq!(details["year:asc"], json!({"order": 4, "value": 1989.0}));
    let best = &answer["hits"][0]["_rankingScore"];
    assert!(best.as_f64() > answer["hits"][1]["_rankingScore"].as_f64());

    let threshold = json!({"q": "badman", "rankingScoreThreshold": best});
    assert_eq!(ids(&node.search("films", threshold).await), [1]);
}

#[tokio::test]
async fn values_of_hidden_sort_attributes_are_not_told() {
    let node = films().await;
    let displayed = json!({"displayedAttributes": ["id"]});
    node.succeed("PATCH", "/indexes/films/settings", displayed).await;
    let answer =
        node.search("films", json!({"sort": ["year:asc"], "showRankingScoreDetails": true})).await;
    let details = &answer["hits"][0]["_rankingScoreDetails"];
    assert_eq!(details["<hidden-rule-0>"], json!({"order": 0, "value": "<hidden>"}));
}

#[tokio::test]
async fn windows_and_pages_tell_their_totals() {
    let node = films().await;
    let window = node.search("films", json!({"offset": 1, "limit": 1})).await;
    assert_eq!(
        [&window["offset"], &window["limit"], &window["estimatedTotalHits"]],
        [&json!(1), &json!(1), &json!(3)]
    );
    assert!(window.get("totalHits").is_none());
    let page = node.search("films", json!({"page": 2, "hitsPerPage": 2})).await;
    assert_eq!(page["hits"].as_array().map(Vec::len), Some(1));
    assert_eq!(
        [&page["page"], &page["hitsPerPage"], &page["totalPages"], &page["totalHits"]],
        [&json!(2), &json!(2), &json!(2), &json!(3)]
    );
    let none = node.search("films", json!({"page": 0, "hitsPerPage": 0})).await;
    assert_eq!((&none["hits"], &none["totalPages"]), (&json!([]), &json!(0)));
    node.succeed("PATCH", "/indexes/films/settings", json!({"pagination": {"maxTotalHits": 2}}))
        .await;
    let capped = node.search("films", json!({"offset": 1, "limit": 20})).await;
    assert_eq!((ids(&capped).len(), &capped["estimatedTotalHits"]), (1, &json!(2)));
}

#[tokio::test]
async fn both_search_routes_answer_alike() {
    let node = films().await;
    let by_url = node
        .get("/indexes/films/search?q=returns&filter=year%3E1990&sort=year:asc,title:desc&facets=genre&limit=5&unused-here=")
        .await;
    assert_eq!(by_url.status, 400, "{}", by_url.body);
    let mut by_url = node
        .get("/indexes/films/search?q=returns&filter=year%3E1990&sort=year:asc,title:desc&facets=genre&limit=5")
        .await
        .body;
    let mut by_body = node
        .search("films", json!({"q": "returns", "filter": ["year>1990"], "sort": ["year:asc", "title:desc"], "facets": ["genre"], "limit": 5}))
        .await;
    for answer in [&mut by_url, &mut by_body] {
        answer["processingTimeMs"] = json!(0);
    }
    assert_eq!(by_url, by_body);
    assert_eq!(ids(&by_url), [3]);
}

#[tokio::test]
async fn distinct_matching_strategies_and_searched_attributes_apply() {
    let node = films().await;
    let distinct = node.search("films", json!({"distinct": "genre"})).await;
    assert_eq!(ids(&distinct), [1, 3]);
    let all = json!({"q": "batman night", "matchingStrategy": "all"});
    assert_eq!(ids(&node.search("films", all).await), [2]);
    let last = json!({"q": "batman night", "matchingStrategy": "last"});
    assert_eq!(ids(&node.search("films", last).await), [2, 3, 1]);
    let titles = json!({"q": "back", "attributesToSearchOn": ["title"]});
    assert_eq!(ids(&node.search("films", titles).await), Vec::<i64>::new());
}

#[tokio::test]
async fn several_searches_are_answered_side_by_side() {
    let node = films().await;
    let queries = json!({"queries": [{"indexUid": "films", "q": "back"}, {"indexUid": "films", "q": "night"}]});
    let answer = node.json("POST", "/multi-search", queries).await.body;
    let results = answer["results"].as_array().expect("results");
    assert_eq!(results.iter().map(|result| ids(result)[0]).collect::<Vec<_>>(), [3, 2]);
    assert_eq!(results[0]["indexUid"], "films");
}
