//! What clients see of nodes that fail all alike, and of nodes that hang.

use super::*;

fn panics(_: &NodeCall) -> Result<(u16, String), TransportError> {
    let message = "task 7 panicked with message \"in index `3-movies`\"";
    let error = json!({"message": message, "code": "internal", "type": "internal", "link": "l"});
    Ok((500, error.to_string()))
}

#[tokio::test(start_paused = true)]
async fn an_error_that_every_replica_repeats_is_the_client_s() {
    for groups in [&[&["a", "b"][..]][..], &[&["a", "b"], &["a", "c"]], &[&["b", "b"], &["c", "c"]]]
    {
        let world = world(
            routing(groups, &json!({})),
            &[("a", node_a), ("b", panics), ("c", panics)],
            GatewayConfig::default(),
        );
        let (status, answer, degraded) = world.search(json!({"q": "word"})).await;
        assert_eq!((status, answer["code"].as_str(), degraded), (500, Some("internal"), None));
        let message = "task 7 panicked with message \"in index `movies`\"";
        assert_eq!(answer["message"], message);
        // Health is for checks to judge.
        assert!(world.context.health.down().is_empty());
        assert!(world.context.health.suspected().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_that_not_every_replica_repeats_leaves_the_answer_degraded() {
    let dies: Script = |_| Err(TransportError::Broken("reset".into()));
    let full: Script = |_| {
        Ok((
            500,
            r#"{"message":"m","code":"no_space_left_on_device","type":"system","link":"l"}"#.into(),
        ))
    };
    for other in [dies, hangs, full] {
        let world = world(
            routing(&[&["a", "b"], &["a", "c"]], &json!({})),
            &[("a", node_a), ("b", panics), ("c", other)],
            GatewayConfig::default(),
        );
        for query in ["one", "two", "three"] {
            let (status, answer, degraded) = world.search(json!({"q": query})).await;
            assert_eq!(
                (status, ids(&answer), degraded.as_deref()),
                (200, vec![1, 3], Some("shards=1"))
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_lacks_an_index_s_settings_is_not_the_client_s_fault() {
    let bare: Script = |_| {
        let message = "Attribute `_miroir_shard` is not filterable. This index does not have \
                       configured filterable attributes.\n1:2 \"_miroir_shard\" IN [\"†\"]";
        let error = json!({
            "message": message, "code": "invalid_search_filter",
            "type": "invalid_request", "link": "l",
        });
        Ok((400, error.to_string()))
    };
    let nodes: [(&str, Script); 3] = [("a", node_a), ("b", bare), ("c", node_b)];
    let groups: [&[&str]; 2] = [&["a", "b"], &["a", "c"]];
    let whole = world(routing(&groups, &json!({})), &nodes, GatewayConfig::default());
    let part = world(routing(&groups[..1], &json!({})), &nodes, GatewayConfig::default());
    for query in ["one", "two", "three"] {
        assert_eq!(ids(&whole.search(json!({"q": query})).await.1), MERGED);
        let (status, answer, degraded) = part.search(json!({"q": query})).await;
        assert_eq!(
            (status, ids(&answer), degraded.as_deref()),
            (200, vec![1, 3], Some("shards=1"))
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_hangs_costs_a_second_and_then_nothing() {
    let world = world(
        routing(&[&["a", "b"], &["c", "d"]], &json!({})),
        &[("a", node_a), ("b", hangs), ("c", node_a), ("d", node_b)],
        GatewayConfig::default(),
    );
    let late_after = world.context.config.late_after;
    let start = tokio::time::Instant::now();
    for query in ["one", "two", "three", "four", "five", "six"] {
        assert_eq!(ids(&world.search(json!({"q": query})).await.1), MERGED);
    }
    assert_eq!(start.elapsed(), late_after);
    assert_eq!(*world.context.health.suspected(), [NodeId::from("b")].into());
    assert!(world.context.health.down().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_node_that_hangs_alone_is_not_waited_for_either() {
    let world = world(
        routing(&[&["a"], &["b"]], &json!({})),
        &[("a", hangs), ("b", node_b)],
        GatewayConfig::default(),
    );
    let start = tokio::time::Instant::now();
    for query in ["one", "two", "three", "four", "five", "six"] {
        assert_eq!(ids(&world.search(json!({"q": query})).await.1), [2]);
    }
    assert_eq!(start.elapsed(), world.context.config.late_after);
}

#[tokio::test(start_paused = true)]
async fn a_late_answer_is_taken_where_nobody_else_has_the_shard() {
    let world = world(
        routing(&[&["a", "b"]], &json!({})),
        &[("a", node_a), ("b", hangs)],
        GatewayConfig::default(),
    );
    let start = tokio::time::Instant::now();
    let (_, answer, degraded) = world.search(json!({"q": "one"})).await;
    assert_eq!((ids(&answer), degraded.as_deref()), (vec![1, 3], Some("shards=1")));
    assert_eq!(start.elapsed(), world.context.config.node_timeout);
}
