use super::*;

#[test]
fn a_replaced_document_loses_its_old_fields_and_an_updated_one_keeps_them() {
    let node = Node::new();
    let task = node.add("a", json!([{"id": 1, "x": 1, "y": 1}, {"id": 2, "x": 2}]));
    assert_eq!(details(&task), json!({"receivedDocuments": 2, "indexedDocuments": 2}));
    node.add("a", json!([{"id": 1, "x": 5}]));
    node.run(addition_with("a", json!([{"id": "2", "y": 7}]), None, DocumentMethod::Update));
    assert_eq!(node.documents("a"), [json!({"id": "2", "x": 2, "y": 7}), json!({"id": 1, "x": 5})]);
}

#[test]
fn deletions_count_what_was_there() {
    let node = Node::new();
    node.set("a", json!({"filterableAttributes": ["x"]}));
    node.add("a", json!([{"id": 1, "x": 1}, {"id": 2, "x": 2}, {"id": 3, "x": 3}, {"id": 4}]));
    let task = node.run(deletion("a", &["1", "9"]));
    assert_eq!(
        details(&task),
        json!({"providedIds": 2, "deletedDocuments": 1, "originalFilter": null})
    );
    let task = node.run(filter_deletion("a", "x > 2"));
    assert_eq!(
        details(&task),
        json!({"providedIds": 0, "deletedDocuments": 1, "originalFilter": "\"x > 2\""})
    );
    let task = node.run(NewTask::DocumentClear { index: "a".to_owned() });
    assert_eq!(details(&task), json!({"deletedDocuments": 2}));
    assert_eq!(node.count("a"), 0);
}

#[test]
fn a_primary_key_is_guessed_from_exactly_one_candidate() {
    let node = Node::new();
    node.add("a", json!([{"movieId": 1}]));
    let key = |index| node.engine().index_view(index).ok().and_then(|view| view.primary_key);
    assert_eq!(key("a").as_deref(), Some("movieId"));

    let task = node.run(addition("b", json!([{"name": "x"}])));
    assert_eq!(error_of(&task).0, "index_primary_key_no_candidate_found");
    assert_eq!(details(&task), json!({"receivedDocuments": 1, "indexedDocuments": 0}));
    // The index stays, without a key.
    assert!(node.engine().index("b").is_ok());
    assert_eq!(key("b"), None);

    let task = node.run(addition("c", json!([{"aid": 1, "bid": 2}])));
    assert_eq!(error_of(&task).0, "index_primary_key_multiple_candidates_found");
}

#[test]
fn a_task_may_name_the_primary_key_but_not_change_it() {
    let node = Node::new();
    let named =
        |key| addition_with("a", json!([{"k": 1, "l": 1}]), Some(key), DocumentMethod::Replace);
    assert_eq!(node.run(named("k")).error, None);
    let task = node.run(named("l"));
    assert_eq!(
        error_of(&task),
        ("index_primary_key_already_exists", "Index already has a primary key: `k`.")
    );
}

#[test]
fn documents_without_a_valid_id_fail_their_task() {
    let node = Node::new();
    node.add("a", json!([{"id": 1}]));
    let task = node.run(addition("a", json!([{"id": 2}, {"name": "x"}])));
    assert_eq!(error_of(&task).0, "missing_document_id");
    let task = node.run(addition("a", json!([{"id": "a b"}])));
    assert_eq!(error_of(&task).0, "invalid_document_id");
    assert!(error_of(&task).1.starts_with("Document identifier `\"a b\"` is invalid."));
    assert_eq!(node.count("a"), 1);
}

#[test]
fn a_bad_geo_field_fails_the_task_and_names_the_index() {
    let node = Node::new();
    node.set("a", json!({"filterableAttributes": ["_geo"]}));
    let task = node.run(addition("a", json!([{"id": 1, "_geo": {"lat": "x", "lng": 1}}])));
    let (code, message) = error_of(&task);
    assert_eq!(code, "invalid_document_geo_field");
    assert!(message.starts_with("Index `a`: "), "{message}");
}

#[test]
fn vectors_are_stored_and_must_have_the_right_dimensions() {
    let node = Node::new();
    node.set("a", json!({"embedders": {"m": {"source": "userProvided", "dimensions": 2}}}));
    node.add(
        "a",
        json!([{"id": 1, "_vectors": {"m": [0.5, 1.0]}}, {"id": 2, "_vectors": {"m": null}}]),
    );
    let stats = node.engine().index_stats("a").expect("stats");
    assert_eq!(
        (stats.number_of_embeddings, stats.number_of_embedded_documents),
        (Some(1), Some(1))
    );
    let task = node.run(addition("a", json!([{"id": 3, "_vectors": {"m": [1.0]}}])));
    assert_eq!(error_of(&task).0, "invalid_vector_dimensions");
    let task = node.run(addition("a", json!([{"id": 3, "_vectors": {"m": {"regenerate": 3}}}])));
    assert_eq!(error_of(&task).0, "invalid_vectors_type");
}

#[test]
fn a_filter_deletion_with_a_bad_filter_fails() {
    let node = Node::new();
    node.add("a", json!([{"id": 1}]));
    let task = node.run(filter_deletion("a", "x = 1"));
    let (code, message) = error_of(&task);
    assert_eq!(code, "invalid_document_filter");
    assert!(message.starts_with("Index `a`: Attribute `x` is not filterable."), "{message}");
    assert_eq!(details(&task)["deletedDocuments"], json!(0));
}

#[test]
fn an_empty_addition_succeeds() {
    let node = Node::new();
    let task = node.add("a", json!([]));
    assert_eq!(details(&task), json!({"receivedDocuments": 0, "indexedDocuments": 0}));
}

#[test]
fn an_index_grows_beyond_its_first_map() {
    let mut config = config(true);
    config.index_map_bytes_min = 2 << 20;
    let node = Node::with(config);
    let text = |n: usize| {
        (0..60).map(|word| format!("w{}", (n * 61 + word * 7) % 9973)).collect::<Vec<_>>().join(" ")
    };
    let documents: Vec<Value> = (0..3000).map(|n| json!({"id": n, "text": text(n)})).collect();
    node.add("a", Value::Array(documents));
    assert_eq!(node.count("a"), 3000);
    let index = node.engine().index("a").expect("the index");
    assert!(index.map_size() > 2 << 20);
}
