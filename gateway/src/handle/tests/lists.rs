//! Lists of hits and of facet values that nodes give in part first.

use super::*;

/// A list of 30 hits with scores from `best` down, of which as many as asked for are given.
fn top_of_list(call: &NodeCall, first: u32, best: f64) -> Result<(u16, String), TransportError> {
    let query: Value = serde_json::from_slice(&call.body).unwrap_or_default();
    let limit = query["limit"].as_u64().unwrap_or(20).min(30) as u32;
    let list: Vec<(u32, f64)> =
        (0..limit).map(|place| (first + place, best - f64::from(place) / 1000.0)).collect();
    Ok((200, hits(&list)))
}

#[tokio::test(start_paused = true)]
async fn a_list_that_runs_out_is_asked_for_in_full() {
    let world = world(
        routing(&[&["a", "b", "c"]], &json!({})),
        &[
            ("a", |call| top_of_list(call, 0, 0.5)),
            ("b", |call| top_of_list(call, 100, 0.9)),
            ("c", |call| top_of_list(call, 200, 0.1)),
        ],
        GatewayConfig::default(),
    );
    let (_, answer, _) = world.search(json!({"q": "word", "offset": 5, "limit": 31})).await;
    // The 30 of one node, and then the best of the next.
    let expected: Vec<u64> = (105..130).chain(0..6).collect();
    assert_eq!(ids(&answer), expected);
    let calls: Vec<(String, Value)> = world
        .calls()
        .into_iter()
        .map(|(node, _, body)| (node, serde_json::from_str::<Value>(&body).unwrap_or_default()))
        .map(|(node, body)| (node, body["limit"].clone()))
        .collect();
    let asked = |node: &str, limit: u32| (node.to_owned(), json!(limit));
    assert_eq!(calls, [asked("a", 21), asked("b", 21), asked("c", 21), asked("b", 36)]);
}

#[tokio::test(start_paused = true)]
async fn totals_stop_at_the_limit_only_where_the_oldest_node_stops_them() {
    let limited = json!({"pagination": {"maxTotalHits": 2}});
    let scripts: [(&str, Script); 2] = [("a", node_a), ("b", node_b)];
    let world = world(routing(&[&["a", "b"]], &limited), &scripts, GatewayConfig::default());
    let query = json!({"q": "word", "offset": 5});
    for (version, total, offset) in [("1.46.1", 2, 2), ("1.47.0", 3, 5)] {
        world.context.health.oldest_version.store(Arc::new(Some(version.to_owned())));
        let (_, answer, _) = world.search(query.clone()).await;
        let told = (&answer["estimatedTotalHits"], &answer["offset"], &answer["hits"]);
        assert_eq!(told, (&json!(total), &json!(offset), &json!([])), "{version}");
    }
}

/// Lists the counts of `genre` up to its limit of 3001, or those that are asked for.
fn counted(call: &NodeCall, popular: &[(&str, u64)]) -> Result<(u16, String), TransportError> {
    let body: Value = serde_json::from_slice(&call.body).unwrap_or_default();
    let filter = body["filter"].to_string();
    let mut counts: Vec<(String, u64)> =
        popular.iter().map(|(value, count)| ((*value).to_owned(), *count)).collect();
    if filter.contains("IN [") {
        counts.retain(|(value, _)| filter.contains(&format!("\\\"{value}\\\"")));
    } else {
        counts.truncate(2);
        counts.extend((2..3001).map(|n| (format!("rare {n}"), 3)));
    }
    let counts: Vec<String> = counts.iter().map(|(v, n)| format!("{v:?}:{n}")).collect();
    let counts = counts.join(",");
    let body = format!(
        r#"{{"hits":[],"estimatedTotalHits":9000,"facetDistribution":{{"genre":{{{counts}}}}},"facetStats":{{}}}}"#
    );
    Ok((200, body))
}

#[tokio::test(start_paused = true)]
async fn facets_by_count_that_one_list_lacks_are_asked_for_again() {
    let settings = json!({"filterableAttributes": ["genre"],
        "faceting": {"maxValuesPerFacet": 3, "sortFacetValuesBy": {"*": "count"}}});
    let world = world(
        routing(&[&["a", "b"]], &settings),
        &[
            ("a", |call| counted(call, &[("drama", 90), ("war", 80), ("noir", 2)])),
            ("b", |call| counted(call, &[("drama", 70), ("noir", 60), ("war", 1)])),
        ],
        GatewayConfig::default(),
    );
    let (_, answer, _) =
        world.search(json!({"q": "x", "facets": ["genre"], "filter": "a = 1"})).await;
    assert_eq!(
        answer["facetDistribution"]["genre"].to_string(),
        r#"{"drama":160,"war":81,"noir":62}"#
    );
    let again: Vec<_> = world.calls().into_iter().filter(|call| call.2.contains("IN [")).collect();
    assert_eq!(again.len(), 2);
    assert!(again[0].2.contains(r#""filter":["a = 1","\"genre\" IN [\"noir\"]"]"#), "{again:?}");
    assert!(again[0].2.contains(r#""limit":0"#) && again[0].2.contains(r#""facets":["genre"]"#));
}
