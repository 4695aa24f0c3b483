//! Values of facets, similar documents, hits by words and vectors, federated hits.

use super::*;

fn two_nodes(settings: &Value, script: Script) -> World {
    let scripts = [("a", script), ("b", script)];
    world(routing(&[&["a", "b"]], settings), &scripts, GatewayConfig::default())
}

/// Whether the call is node `a`'s.
fn is_a(call: &NodeCall) -> bool {
    call.base == "http://a"
}

fn body_of(call: &NodeCall) -> Value {
    serde_json::from_slice(&call.body).unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn values_of_a_facet_are_summed() {
    let world = two_nodes(&json!({"faceting": {"maxValuesPerFacet": 2}}), |call| {
        let values = if is_a(call) {
            json!([{"value": "Drama", "count": 2}, {"value": "War", "count": 1}])
        } else {
            json!([{"value": "Comedy", "count": 4}, {"value": "drama", "count": 1}])
        };
        let answer = json!({"facetHits": values, "facetQuery": "x", "processingTimeMs": 7});
        Ok((200, answer.to_string()))
    });
    let query =
        json!({"facetName": "genre", "facetQuery": "x", "filter": "year = 1", "limit": "any"});
    let (status, answer, _) = world.ask("POST", "/indexes/movies/facet-search", Some(query)).await;
    assert_eq!(status, 200, "{answer}");
    let values = json!([{"value": "Comedy", "count": 4}, {"value": "Drama", "count": 3}]);
    assert_eq!(answer, json!({"facetHits": values, "facetQuery": "x"}));
    for (_, path, body) in world.calls() {
        assert_eq!(path, "/indexes/3-movies/facet-search");
        assert_eq!(body, r#"{"facetQuery":"x","facetName":"genre","filter":"year = 1"}"#);
    }
    let (status, answer, _) =
        world.ask("POST", "/indexes/nope/facet-search", Some(json!({"facetName": "genre"}))).await;
    assert_eq!((status, answer["code"].as_str()), (404, Some("index_not_found")));
}

fn near(id: u32, similarity: Option<f64>) -> Value {
    json!({"id": id, "_rankingScore": similarity.unwrap_or(0.0),
        "_rankingScoreDetails": {"vectorSort": {"order": 0, "similarity": similarity}}})
}

fn worded(id: u32, score: f64) -> Value {
    json!({"id": id, "_rankingScore": score,
        "_rankingScoreDetails": {"words": {"order": 0, "matchingWords": 1, "maxMatchingWords": 1, "score": score}}})
}

fn found(hits: &[Value], total: u64) -> (u16, String) {
    (
        200,
        json!({"hits": hits, "estimatedTotalHits": total, "semanticHitCount": hits.len()})
            .to_string(),
    )
}

#[tokio::test(start_paused = true)]
async fn similar_documents_are_looked_for_by_the_vector_of_the_document() {
    let settings = json!({"embedders": {"e": {"source": "userProvided", "dimensions": 2}}});
    let world = two_nodes(&settings, |call| {
        let path = call.path.as_str();
        if path.contains("/documents/") {
            Ok((
                200,
                json!({"_vectors": {"e": {"embeddings": [[0.5, 1.0]], "regenerate": false}}})
                    .to_string(),
            ))
        } else if path.ends_with("/similar") {
            let hits = [near(10, Some(0.9)), near(11, Some(0.5))];
            let answer =
                json!({"hits": hits, "id": "1", "limit": 3, "offset": 0, "estimatedTotalHits": 5});
            Ok((200, answer.to_string()))
        } else {
            assert_eq!(body_of(call)["vector"], json!([0.5, 1.0]));
            Ok(found(&[near(20, Some(0.7)), near(21, None)], 4))
        }
    });
    let query = json!({"id": 1, "embedder": "e", "limit": 3});
    let (status, answer, _) = world.ask("POST", "/indexes/movies/similar", Some(query)).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(ids(&answer), [10, 20, 11]);
    assert_eq!(answer["hits"][0], json!({"id": 10, "_rankingScore": 0.9}));
    assert_eq!((&answer["id"], &answer["estimatedTotalHits"]), (&json!("1"), &json!(9)));
    let asked: Vec<String> = world.calls().into_iter().map(|(_, path, _)| path).collect();
    let count = |end: &str| asked.iter().filter(|path| path.ends_with(end)).count();
    assert_eq!((count("/similar"), count("/search"), asked.len()), (1, 1, 3), "{asked:?}");
    let (status, answer, _) =
        world.ask("GET", "/indexes/movies/similar?id=1&embedder=nope", None).await;
    assert_eq!((status, answer["code"].as_str()), (400, Some("invalid_similar_embedder")));
}

#[tokio::test(start_paused = true)]
async fn vectors_are_left_out_when_the_words_of_all_nodes_are_good_enough() {
    let world = two_nodes(&json!({}), |call| {
        let by_vectors = body_of(call)["hybrid"].is_object();
        Ok(match (by_vectors, is_a(call)) {
            (false, true) => found(&[worded(1, 1.0)], 1),
            (false, false) => found(&[worded(2, 0.95)], 1),
            (true, true) => found(&[near(3, Some(0.99)), near(1, Some(0.2))], 9),
            (true, false) => found(&[near(4, Some(0.98)), worded(2, 0.95)], 9),
        })
    });
    let query = |limit: u32| json!({"q": "word", "vector": [1.0], "hybrid": {"embedder": "e"}, "limit": limit});
    // No node fills the window by itself.
    let (status, answer, _) = world.search(query(2)).await;
    assert_eq!((status, ids(&answer)), (200, vec![1, 2]), "{answer}");
    assert_eq!(
        (&answer["semanticHitCount"], &answer["estimatedTotalHits"]),
        (&json!(0), &json!(2))
    );
    assert_eq!(answer["hits"][0], json!({"id": 1}));
    let (_, answer, _) = world.search(query(3)).await;
    assert_eq!(ids(&answer), [1, 3, 4]);
    assert_eq!(
        (&answer["semanticHitCount"], &answer["estimatedTotalHits"]),
        (&json!(2), &json!(18))
    );
}

/// A federated answer of one node: hits with the place of their query and their scores.
fn federated(hits: &[(u32, u32, f64)], total: u64) -> (u16, String) {
    let hits: Vec<Value> = hits
        .iter()
        .map(|(id, query, weighted)| {
            json!({"_miroir_shard": "†", "id": id,
                "_federation": {"indexUid": "3-movies", "queriesPosition": query, "weightedRankingScore": weighted},
                "_rankingScore": 1.0,
                "_rankingScoreDetails": {"proximity": {"order": 0, "score": weighted}}})
        })
        .collect();
    let facets = json!({"3-movies": {"distribution": {"g": {"x": total}}, "stats": {}}});
    let answer = json!({"hits": hits, "processingTimeMs": 1, "limit": 20, "offset": 0,
        "estimatedTotalHits": total, "facetsByIndex": facets});
    (200, answer.to_string())
}

#[tokio::test(start_paused = true)]
async fn queries_about_one_index_are_one_request_to_each_node() {
    let world = two_nodes(&json!({}), |call| {
        Ok(if is_a(call) {
            federated(&[(1, 1, 0.9), (2, 0, 0.3)], 3)
        } else {
            federated(&[(3, 0, 0.5)], 4)
        })
    });
    let request = json!({
        "queries": [
            {"indexUid": "movies", "q": "a", "filter": "year = 1"},
            {"indexUid": "movies", "q": "b", "federationOptions": {"weight": 2.0}},
        ],
        "federation": {"limit": 2, "facetsByIndex": {"movies": ["g"]}},
    });
    let (status, answer, _) = world.ask("POST", "/multi-search", Some(request.clone())).await;
    assert_eq!(status, 200, "{answer}");
    let hit = |id: u32, position: u32, weighted: f64| json!({"id": id, "_federation": {"indexUid": "movies", "queriesPosition": position, "weightedRankingScore": weighted}});
    assert_eq!(
        answer,
        json!({"hits": [hit(1, 1, 0.9), hit(3, 0, 0.5)], "limit": 2, "offset": 0, "estimatedTotalHits": 7,
            "facetsByIndex": {"movies": {"distribution": {"g": {"x": 7}}, "stats": {}}}})
    );
    let calls = world.calls();
    assert_eq!(calls.len(), 2);
    for (_, path, body) in calls {
        let body: Value = serde_json::from_str(&body).unwrap_or_default();
        assert_eq!(path, "/multi-search");
        assert_eq!(body["federation"], json!({"limit": 2, "facetsByIndex": {"3-movies": ["g"]}}));
        assert_eq!(body["queries"][0]["indexUid"], json!("3-movies"));
        assert_eq!(body["queries"][0]["filter"], json!("year = 1"));
        assert_eq!(body["queries"][1]["federationOptions"], json!({"weight": 2.0}));
    }
    let mut merged = request;
    merged["federation"] =
        json!({"page": 1, "hitsPerPage": 1, "facetsByIndex": {"movies": ["g"]}, "mergeFacets": {}});
    let (_, answer, _) = world.ask("POST", "/multi-search", Some(merged)).await;
    assert_eq!(
        answer,
        json!({"hits": [hit(1, 1, 0.9)], "hitsPerPage": 1, "page": 1, "totalPages": 7, "totalHits": 7,
            "facetDistribution": {"g": {"x": 7}}, "facetStats": {}})
    );
}

#[tokio::test(start_paused = true)]
async fn what_a_node_refuses_is_told_of_the_client_s_query() {
    let world = two_nodes(&json!({}), |_| {
        let error = json!({"message": "Inside `.queries[0]`: Index `3-movies`: no.",
            "code": "invalid_search_sort", "type": "invalid_request", "link": "l"});
        Ok((400, error.to_string()))
    });
    let body = json!({"queries": [{"indexUid": "zoo"}, {"indexUid": "movies"}], "federation": {}});
    let (status, answer, _) = world.ask("POST", "/multi-search", Some(body)).await;
    // The index that comes first by name is refused first.
    assert_eq!((status, answer["code"].as_str()), (400, Some("invalid_search_sort")));
    assert_eq!(answer["message"], json!("Inside `.queries[1]`: Index `movies`: no."));
    let body = json!({"queries": [{"indexUid": "movies", "sort": ["a:asc"]}, {"indexUid": "movies", "sort": ["a:desc"]}], "federation": {}});
    let (status, answer, _) = world.ask("POST", "/multi-search", Some(body)).await;
    assert_eq!((status, answer["code"].as_str()), (400, Some("invalid_search_sort")));
}
