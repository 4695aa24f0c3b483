//! Values of facets, similar documents, federated hits.

use serde_json::{Value, json};

use crate::client::TestNode;

async fn send(node: &TestNode, path: &str, body: Value) -> (u16, Value) {
    let headers = [("content-type", "application/json")];
    let reply = node.send("POST", path, &headers, body.to_string()).await;
    (reply.status.as_u16(), reply.body)
}

async fn films() -> TestNode {
    let node = TestNode::start().await;
    let settings = json!({
        "filterableAttributes": ["genre", "year"],
        "sortableAttributes": ["year"],
        "embedders": { "given": { "source": "userProvided", "dimensions": 2 } },
    });
    node.succeed("PATCH", "/indexes/films/settings", settings.clone()).await;
    node.succeed("PATCH", "/indexes/books/settings", settings).await;
    let film = |id: u64, title: &str, genre: &[&str], year: u64, vector: Value| json!({"id": id, "title": title, "genre": genre, "year": year, "_vectors": {"given": vector}});
    let documents = json!([
        film(1, "Joker", &["Crime", "Drama"], 1999, json!([1.0, 0.0])),
        film(2, "Batman", &["crime", "Dramedy"], 1989, json!([0.9, 0.1])),
        film(3, "Batman returns", &["Comedy"], 1992, json!([0.0, 1.0])),
        film(4, "Robin", &["Été"], 1992, json!(null)),
    ]);
    node.succeed("POST", "/indexes/films/documents", documents).await;
    let documents = json!([
        film(1, "Batman, a book", &["Drama"], 1950, json!(null)),
        film(2, "Robin, a book", &["Poetry"], 1951, json!(null)),
    ]);
    node.succeed("POST", "/indexes/books/documents", documents).await;
    node
}

#[tokio::test]
async fn values_of_a_facet_are_found_by_their_beginning() {
    let node = films().await;
    for (query, expected) in [
        (json!({}), json!([["Comedy", 1], ["Crime", 2], ["Drama", 1], ["Dramedy", 1], ["Été", 1]])),
        (json!({"facetQuery": "dra"}), json!([["Drama", 1], ["Dramedy", 1]])),
        (json!({"facetQuery": "DRAMA"}), json!([["Drama", 1], ["Dramedy", 1]])),
        (json!({"facetQuery": "drxmed"}), json!([["Dramedy", 1]])),
        (json!({"facetQuery": "ete"}), json!([["Été", 1]])),
        (json!({"facetQuery": "c", "q": "batman"}), json!([["Comedy", 1], ["Crime", 1]])),
        (json!({"facetQuery": "c", "filter": "year > 1995"}), json!([["Crime", 1]])),
        (json!({"facetQuery": "zz"}), json!([])),
    ] {
        let mut body = query.clone();
        body["facetName"] = json!("genre");
        let (status, answer) = send(&node, "/indexes/films/facet-search", body).await;
        assert_eq!(status, 200, "{answer}");
        let hits = answer["facetHits"].as_array().expect("hits");
        let found: Vec<Value> =
            hits.iter().map(|hit| json!([hit["value"], hit["count"]])).collect();
        assert_eq!(json!(found), expected, "{query}");
        assert_eq!(answer["facetQuery"], query["facetQuery"], "{query}");
    }
    let by_count =
        json!({"faceting": {"sortFacetValuesBy": {"genre": "count"}, "maxValuesPerFacet": 1}});
    node.succeed("PATCH", "/indexes/films/settings", by_count).await;
    let (_, answer) =
        send(&node, "/indexes/films/facet-search", json!({"facetName": "genre"})).await;
    assert_eq!(answer["facetHits"], json!([{"value": "Crime", "count": 2}]));
    node.succeed("PATCH", "/indexes/films/settings", json!({"facetSearch": false})).await;
    let (status, answer) =
        send(&node, "/indexes/films/facet-search", json!({"facetName": "genre"})).await;
    assert_eq!((status, &answer["code"]), (400, &json!("facet_search_disabled")));
    assert_eq!(answer["message"], json!("The facet search is disabled for this index"));
}

#[tokio::test]
async fn similar_documents_are_those_with_near_vectors() {
    let node = films().await;
    let query = json!({"id": 1, "embedder": "given", "showRankingScore": true, "attributesToRetrieve": ["id"]});
    let (status, answer) = send(&node, "/indexes/films/similar", query).await;
    assert_eq!(status, 200, "{answer}");
    let ids: Vec<&Value> =
        answer["hits"].as_array().expect("hits").iter().map(|hit| &hit["id"]).collect();
    assert_eq!(ids, [&json!(2), &json!(3)]);
    let known = ["hits", "id", "processingTimeMs", "limit", "offset", "estimatedTotalHits"];
    let keys: Vec<&String> = answer.as_object().expect("object").keys().collect();
    assert_eq!(keys, known);
    assert_eq!(
        (&answer["id"], &answer["limit"], &answer["estimatedTotalHits"]),
        (&json!("1"), &json!(20), &json!(3))
    );
    let path =
        "/indexes/films/similar?id=1&embedder=given&limit=1&offset=1&filter=year%20%3D%201992";
    let reply = node.send("GET", path, &[], "").await;
    assert_eq!(reply.body["hits"], json!([]), "{}", reply.body);
    // A document without a vector is similar to nothing.
    let (status, answer) = send(
        &node,
        "/indexes/films/similar",
        json!({"id": 4, "embedder": "given", "limit": 9_000_000_000_000_000_000_u64}),
    )
    .await;
    assert_eq!((status, &answer["hits"]), (200, &json!([])), "{answer}");
    let (status, answer) =
        send(&node, "/indexes/films/similar", json!({"id": 9, "embedder": "given"})).await;
    assert_eq!((status, &answer["code"]), (400, &json!("not_found_similar_id")));
}

fn federated(answer: &Value) -> Vec<(String, u64, u64)> {
    let hits = answer["hits"].as_array().expect("hits");
    hits.iter()
        .map(|hit| {
            let said = &hit["_federation"];
            let index = said["indexUid"].as_str().expect("an index").to_owned();
            (
                index,
                hit["id"].as_u64().expect("id"),
                said["queriesPosition"].as_u64().expect("position"),
            )
        })
        .collect()
}

#[tokio::test]
async fn hits_of_several_queries_make_one_list() {
    let node = films().await;
    let body = json!({
        "queries": [
            {"indexUid": "films", "q": "batman", "attributesToRetrieve": ["id"]},
            {"indexUid": "books", "q": "robin", "federationOptions": {"weight": 2.0}},
            {"indexUid": "films", "q": "batman returns"},
        ],
        "federation": {"facetsByIndex": {"films": ["genre", "year"], "books": ["genre"]}},
    });
    let (status, answer) = send(&node, "/multi-search", body.clone()).await;
    assert_eq!(status, 200, "{answer}");
    let hit = |index: &str, id, position| (index.to_owned(), id, position);
    // Each film once, where its best hit stands; of equal scores, the earlier query's.
    let found = federated(&answer);
    assert_eq!(found[0], hit("books", 2, 1));
    assert_eq!(found[1..].len(), 2, "{answer}");
    assert!(found[1..].iter().all(|(index, _, _)| index == "films"));
    assert_eq!(answer["estimatedTotalHits"], json!(3));
    let score = answer["hits"][0]["_federation"]["weightedRankingScore"].as_f64().expect("a score");
    assert!(score > 1.0, "{score}");
    assert_eq!(
        answer["facetsByIndex"],
        json!({
            "books": {"distribution": {"genre": {"Poetry": 1}}, "stats": {}},
            "films": {
                "distribution": {"genre": {"Comedy": 1, "crime": 1, "Dramedy": 1}, "year": {"1989": 1, "1992": 1}},
                "stats": {"year": {"min": 1989.0, "max": 1992.0}},
            },
        })
    );
    let keys: Vec<&String> = answer.as_object().expect("object").keys().collect();
    assert_eq!(
        keys,
        ["hits", "processingTimeMs", "limit", "offset", "estimatedTotalHits", "facetsByIndex"]
    );

    let mut merged = body.clone();
    merged["federation"]["mergeFacets"] = json!({"maxValuesPerFacet": 2});
    merged["federation"]["page"] = json!(2);
    merged["federation"]["hitsPerPage"] = json!(1);
    let (_, answer) = send(&node, "/multi-search", merged).await;
    assert_eq!(federated(&answer), found[1..2]);
    assert_eq!(
        answer["facetDistribution"],
        json!({"genre": {"Comedy": 1, "Dramedy": 1}, "year": {"1989": 1, "1992": 1}})
    );
    assert_eq!((&answer["totalHits"], &answer["totalPages"]), (&json!(3), &json!(3)));
    assert_eq!(answer.get("facetsByIndex"), None);
}

#[tokio::test]
async fn sorted_lists_are_merged_by_their_sorts() {
    let node = films().await;
    let query = |index: &str, direction: &str| json!({"indexUid": index, "sort": [format!("year:{direction}")]});
    for (direction, expected) in [("asc", [1950, 1951, 1989]), ("desc", [1999, 1992, 1992])] {
        let body = json!({"queries": [query("films", direction), query("books", direction)], "federation": {"limit": 3}});
        let (_, answer) = send(&node, "/multi-search", body).await;
        let years: Vec<u64> = answer["hits"]
            .as_array()
            .expect("hits")
            .iter()
            .map(|hit| hit["year"].as_u64().expect("year"))
            .collect();
        assert_eq!(years, expected);
    }
    let body =
        json!({"queries": [query("films", "asc"), query("books", "desc")], "federation": {}});
    let (status, answer) = send(&node, "/multi-search", body).await;
    assert_eq!(
        (status, &answer["code"]),
        (400, &json!("invalid_multi_search_query_ranking_rules")),
        "{answer}"
    );
}
