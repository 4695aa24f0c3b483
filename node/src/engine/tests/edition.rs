//! Editing by a function.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;
use crate::engine::errors::EngineError;
use crate::queue::batch::BatchKind;
use crate::queue::outcome::{Place, Target};
use crate::queue::record::TaskRecord;

fn edition(index: &str, function: &str) -> NewTask {
    edition_of(index, None, json!(null), function)
}

fn edition_of(index: &str, filter: Option<Value>, context: Value, function: &str) -> NewTask {
    NewTask::DocumentEdition {
        index: index.to_owned(),
        filter,
        context: context.as_object().cloned(),
        function: function.to_owned(),
    }
}

fn with_sizes() -> Node {
    let node = Node::new();
    node.set("a", json!({"filterableAttributes": ["size"]}));
    node.add("a", json!([1, 2, 3, 4].map(|n| json!({"id": n, "size": n}))));
    node
}

#[test]
fn a_function_changes_and_deletes_what_the_filter_matches() {
    let node = with_sizes();
    let function = "if doc.size > context.most { doc = () } else { doc.size += 10; doc.remark = [context.text]; }";
    let context = json!({"most": 3, "text": "more"});
    let task = node.run(edition_of("a", Some(json!(["size > 1"])), context.clone(), function));
    assert_eq!(task.error, None);
    assert_eq!(
        node.documents("a"),
        [
            json!({"id": 1, "size": 1}),
            json!({"id": 2, "size": 12, "remark": ["more"]}),
            json!({"id": 3, "size": 13, "remark": ["more"]}),
        ]
    );
    // Both numbers are how many documents the filter matched, as in Meilisearch.
    assert_eq!(
        details(&task),
        json!({
            "editedDocuments": 3,
            "deletedDocuments": 3,
            "originalFilter": "[\"size > 1\"]",
            "context": context,
            "function": function,
        })
    );
    // What is found follows.
    let rest = node.run(edition_of("a", Some(json!("size > 10")), json!(null), "doc = ()"));
    assert_eq!(details(&rest)["deletedDocuments"], 2);
    assert_eq!(node.count("a"), 1);
}

#[test]
fn a_function_that_changes_nothing_is_counted_all_the_same() {
    let node = with_sizes();
    let before = node.documents("a");
    let counts = |task: TaskView| {
        assert_eq!(task.error, None);
        (details(&task)["editedDocuments"].clone(), details(&task)["deletedDocuments"].clone())
    };
    assert_eq!(counts(node.run(edition("a", "doc.size"))), (json!(4), json!(4)));
    let nobody = edition_of("a", Some(json!("size > 9")), json!(null), "throw 1");
    assert_eq!(counts(node.run(nobody)), (json!(0), json!(0)));
    assert_eq!(node.documents("a"), before);
}

#[test]
fn an_error_on_one_document_leaves_all_unchanged() {
    let node = with_sizes();
    let before = node.documents("a");
    let wrong = "edit_documents_by_function_error";
    let running =
        "Index `a`: Document edition runtime error encountered while running the function: ";
    let compiling =
        "Index `a`: Document edition runtime error encountered while compiling the function: ";
    let cases = [
        ("doc.size = 0; if doc.id == 3 { throw `three` }", wrong, running),
        (
            "if doc.id == 3 { doc.id = 7 }",
            wrong,
            "Index `a`: Document editions cannot modify a document's primary key",
        ),
        ("doc.remove(`id`)", "missing_document_id", "Index `a`: "),
        (
            "doc = if doc.id < 4 { () } else { 3 }",
            wrong,
            "Index `a`: Document editions must keep documents as objects",
        ),
        ("doc.size = context.nothing", wrong, running),
        ("doc = (", wrong, compiling),
        ("loop { }", wrong, running),
    ];
    for (function, code, message) in cases {
        let task = node.run(edition("a", function));
        let found = error_of(&task);
        assert_eq!(found.0, code, "{function}: {}", found.1);
        assert!(found.1.starts_with(message), "{function}: {}", found.1);
        assert_eq!(
            details(&task),
            json!({
                "editedDocuments": 0,
                "deletedDocuments": null,
                "originalFilter": null,
                "context": null,
                "function": function,
            })
        );
        assert_eq!(node.documents("a"), before, "{function}");
    }
    let by_name = node.run(edition_of("a", Some(json!("name = x")), json!(null), "doc = ()"));
    assert_eq!(error_of(&by_name).0, "invalid_document_filter");
    assert_eq!(node.documents("a"), before);
}

#[test]
fn an_unknown_index_is_not_made() {
    let node = Node::new();
    let task = node.run(edition("none", "doc.size = 1"));
    assert_eq!(error_of(&task), ("index_not_found", "Index `none` not found."));
    assert_eq!(details(&task)["deletedDocuments"], json!(null));
    assert_eq!(node.engine().index_names(), Ok(Vec::new()));
}

#[test]
fn editions_wait_for_a_restart_and_share_no_batch() {
    let mut node = Node::paused();
    let tasks = [
        addition("a", json!([{"id": 1, "n": 0}])),
        edition("a", "doc.n += 1"),
        edition("a", "doc.n += 1"),
        addition("a", json!([{"id": 2, "n": 0}])),
    ];
    let uids = tasks.map(|task| node.enqueue(task));
    let waits = node.engine().task(uids[1]).expect("the task");
    assert_eq!(waits.kind, miroir_wire::tasks::Kind::DocumentEdition);
    assert_eq!(details(&waits)["editedDocuments"], json!(null));
    node.reopen();
    assert_eq!(uids.map(|uid| node.ended(uid).batch_uid), [0, 1, 2, 3].map(Some));
    assert_eq!(node.documents("a"), [json!({"id": 1, "n": 2}), json!({"id": 2, "n": 0})]);
}

/// What the worker does with an edition in the index `a`, up to but not including its end.
fn carry_out_without_end(node: &Node, uid: u32) -> Result<Option<u64>, EngineError> {
    let shared = &node.engine().shared;
    let rtxn = shared.queue.store().read().expect("a transaction");
    let folder = shared.indexes.folder_of(&rtxn, "a").expect("readable");
    drop(rtxn);
    let place = Place {
        store: shared.queue.store(),
        indexes: &shared.indexes,
        indexer: &shared.indexer,
        waiting: &BTreeSet::new(),
    };
    let target = Target { name: "a".to_owned(), folder, is_new: false };
    let ends = place.execute(&BatchKind::Alone, &[stored(node, uid)], &target)?;
    Ok(ends[0].as_ref().expect("it did not fail").edited)
}

fn stored(node: &Node, uid: u32) -> TaskRecord {
    let store = node.engine().shared.queue.store();
    let rtxn = store.read().expect("a transaction");
    store.get(&rtxn, uid).expect("readable").expect("the task")
}

/// A node that carries out nothing, with one document.
fn paused_with_a_document() -> Node {
    let mut node = Node::new();
    node.add("a", json!([{"id": 1, "n": 0}]));
    node.engine = None;
    node.engine = Some(open(node.directory.path(), config(false)));
    node
}

#[test]
fn an_edition_whose_end_was_lost_is_not_carried_out_twice() {
    let mut node = paused_with_a_document();
    let first = node.enqueue(edition("a", "doc.n += 1"));
    let second = node.enqueue(edition("a", "doc.n += 1"));
    assert_eq!(carry_out_without_end(&node, first).expect("carried out"), Some(1));
    assert_eq!(node.documents("a"), [json!({"id": 1, "n": 1})]);
    node.reopen();
    assert_eq!(details(&node.ended(first))["editedDocuments"], 1);
    assert_eq!(node.ended(second).error, None);
    assert_eq!(node.documents("a"), [json!({"id": 1, "n": 2})]);
}

#[test]
fn an_edition_that_takes_the_node_down_fails_in_the_end() {
    let mut node = paused_with_a_document();
    let deadly = node.enqueue(edition("a", "doc.n += 1"));
    let harmless = node.enqueue(edition("a", "doc.n += 10"));
    for life in 1..=3 {
        let shared = &node.engine().shared;
        shared.indexer.stop();
        let stopped = carry_out_without_end(&node, deadly);
        assert!(matches!(stopped, Err(EngineError::Aborted)), "{stopped:?}");
        assert_eq!(stored(&node, deadly).starts, life - 1);
        shared.indexer.resume();
        *shared.indexer.before_documents.lock().expect("unlocked") = Some(Box::new(|| panic!()));
        let attempt = AssertUnwindSafe(|| carry_out_without_end(&node, deadly));
        assert!(catch_unwind(attempt).is_err());
        assert_eq!(stored(&node, deadly).starts, life);
    }
    node.reopen();
    let task = node.ended(deadly);
    assert_eq!(error_of(&task).0, "edit_documents_by_function_error");
    assert_eq!(node.ended(harmless).error, None);
    assert_eq!(node.documents("a"), [json!({"id": 1, "n": 10})]);
}
