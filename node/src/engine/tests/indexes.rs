use super::*;

fn creation(index: &str, primary_key: Option<&str>) -> NewTask {
    let primary_key = primary_key.map(str::to_owned);
    NewTask::IndexCreation { index: index.to_owned(), primary_key }
}

fn update(index: &str, primary_key: &str) -> NewTask {
    let primary_key = Some(primary_key.to_owned());
    NewTask::IndexUpdate { index: index.to_owned(), primary_key, new_name: None }
}

fn index_deletion(index: &str) -> NewTask {
    NewTask::IndexDeletion { index: index.to_owned() }
}

fn swap(pairs: &[(&str, &str)]) -> NewTask {
    let pair = |(a, b): &(&str, &str)| NameSwap {
        names: ((*a).to_owned(), (*b).to_owned()),
        rename: false,
    };
    NewTask::IndexSwap { swaps: pairs.iter().map(pair).collect() }
}

fn rename(index: &str, new_name: &str, primary_key: Option<&str>) -> NewTask {
    let (primary_key, new_name) = (primary_key.map(str::to_owned), Some(new_name.to_owned()));
    NewTask::IndexUpdate { index: index.to_owned(), primary_key, new_name }
}

#[test]
fn an_index_is_renamed_with_its_tasks() {
    let mut node = Node::new();
    node.add("a", json!([{"id": 1}]));
    node.run(creation("b", None));
    let names: Vec<_> = [rename("a", "b", None), rename("x", "y", None), rename("a", "a", None)]
        .map(|task| node.run(task).error.map(|error| error.message))
        .into();
    let (taken, unknown) = ("Index `b` already exists.", "Index `x` not found.");
    assert_eq!(names, [Some(taken.to_owned()), Some(unknown.to_owned()), None]);
    let task = node.run(rename("a", "c", Some("id")));
    assert_eq!(details(&task), json!({"primaryKey": "id", "oldIndexUid": "a", "newIndexUid": "c"}));
    let by_swap = NameSwap { names: ("c".into(), "d".into()), rename: true };
    let task = node.run(NewTask::IndexSwap { swaps: vec![by_swap] });
    assert_eq!(details(&task), json!({"swaps": [{"indexes": ["c", "d"], "rename": true}]}));
    node.reopen();
    assert!(node.engine().index_view("a").is_err() && node.engine().index_view("c").is_err());
    assert_eq!(node.engine().index_stats("d").expect("stats").number_of_documents, 1);
    let first = node.engine().task(0).expect("the first task");
    assert_eq!(first.index_uid.as_deref(), Some("d"));
}

#[test]
fn an_index_is_created_once() {
    let node = Node::new();
    let task = node.run(creation("a", Some("k")));
    assert_eq!(details(&task), json!({"primaryKey": "k"}));
    let view = node.engine().index_view("a").expect("the index");
    assert_eq!((view.uid.as_str(), view.primary_key.as_deref()), ("a", Some("k")));
    let task = node.run(creation("a", None));
    assert_eq!(error_of(&task), ("index_already_exists", "Index `a` already exists."));
}

#[test]
fn unknown_indexes_fail_what_does_not_create_them() {
    let node = Node::new();
    let clear = NewTask::DocumentClear { index: "a".to_owned() };
    for task in [
        deletion("a", &["1"]),
        filter_deletion("a", "x = 1"),
        clear,
        index_deletion("a"),
        update("a", "k"),
    ] {
        let task = node.run(task);
        assert_eq!(error_of(&task), ("index_not_found", "Index `a` not found."));
    }
    let forbidden = NewTask::DocumentAdditionOrUpdate {
        index: "a".to_owned(),
        primary_key: None,
        method: DocumentMethod::Replace,
        documents: batch(json!([{"id": 1}])),
        allow_index_creation: false,
    };
    assert_eq!(error_of(&node.run(forbidden)).0, "index_not_found");
    assert_eq!(
        node.engine().index("a").err().map(|error| error.code.name()),
        Some("index_not_found")
    );
}

#[test]
fn the_primary_key_changes_only_without_documents() {
    let node = Node::new();
    node.run(creation("a", Some("k")));
    assert_eq!(node.run(update("a", "id")).error, None);
    node.add("a", json!([{"id": 1}]));
    let task = node.run(update("a", "l"));
    assert_eq!(
        error_of(&task),
        ("index_primary_key_already_exists", "Index `a`: Index already has a primary key: `id`.")
    );
}

#[test]
fn a_deleted_index_leaves_nothing_behind() {
    let mut node = Node::new();
    node.add("a", json!([{"id": 1}, {"id": 2}]));
    let task = node.run(index_deletion("a"));
    assert_eq!(details(&task), json!({"deletedDocuments": 2}));
    node.reopen();
    assert!(node.engine().indexes().expect("indexes").is_empty());
    let folders = std::fs::read_dir(node.directory.path().join("indexes")).expect("folder").count();
    assert_eq!(folders, 0);
    node.add("a", json!([{"key_id": 1}]));
    assert_eq!(node.count("a"), 1);
}

#[test]
fn a_swap_exchanges_names_and_earlier_tasks() {
    let node = Node::new();
    let a = node.add("a", json!([{"id": 1}])).uid;
    let b = node.add("b", json!([{"id": 2}, {"id": 3}])).uid;
    let task = node.run(swap(&[("a", "b")]));
    assert_eq!(task.error, None);
    assert_eq!(details(&task), json!({"swaps": [{"indexes": ["a", "b"]}]}));
    assert_eq!((node.count("a"), node.count("b")), (2, 1));
    assert_eq!(list(&node, "indexUids=a"), [b]);
    assert_eq!(list(&node, "indexUids=b"), [a]);
}

#[test]
fn a_swap_is_all_or_nothing() {
    let node = Node::new();
    node.add("a", json!([{"id": 1}]));
    node.add("b", json!([{"id": 2}, {"id": 3}]));
    let task = node.run(swap(&[("a", "b"), ("c", "d")]));
    assert_eq!(error_of(&task), ("index_not_found", "Indexes `c`, `d` not found."));
    assert_eq!(node.count("a"), 1);
    let twice = node.engine().enqueue(swap(&[("a", "b"), ("a", "c")]), None);
    assert_eq!(refused(twice), "invalid_swap_duplicate_index_found");
}

#[test]
fn statistics_tell_what_is_stored() {
    let node = Node::new();
    node.add("a", json!([{"id": 1, "x": 1}, {"id": 2}]));
    let stats = node.engine().stats().expect("stats");
    assert!(stats.database_size > 0 && stats.used_database_size > 0);
    assert_eq!(stats.last_update, Some(node.engine().index_view("a").expect("view").updated_at));
    let index = &stats.indexes["a"];
    assert_eq!(index.number_of_documents, 2);
    assert!(index.raw_document_db_size > 0 && index.avg_document_size > 0);
    assert_eq!(index.field_distribution, [("id".to_owned(), 2), ("x".to_owned(), 1)].into());
}
