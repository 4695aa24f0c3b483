use super::*;

#[test]
fn enqueued_tasks_run_after_a_restart() {
    let mut node = Node::paused();
    let first = node.enqueue(addition("a", json!([{"id": 1}])));
    let last = node.enqueue(addition("b", json!([{"id": 1}])));
    assert_eq!((first, last), (0, 1));
    assert_eq!(node.engine().task(0).map(|task| task.status), Ok(Status::Enqueued));
    node.reopen();
    assert_eq!(node.ended(first).error, None);
    assert_eq!(node.ended(last).error, None);
    assert_eq!((node.count("a"), node.count("b")), (1, 1));
    node.reopen();
    assert_eq!(node.enqueue(deletion("a", &["1"])), 2);
    let contents =
        std::fs::read_dir(node.directory.path().join("content")).expect("folder").count();
    assert_eq!(contents, 0);
}

#[test]
fn neighbours_of_one_index_share_a_batch_and_keep_their_order() {
    let mut node = Node::paused();
    let tasks = [
        addition("a", json!([{"id": 1, "v": 1}, {"id": 2}])),
        addition("b", json!([{"id": 1}])),
        deletion("a", &["1"]),
        addition_with("a", json!([{"id": 1, "w": 2}]), None, DocumentMethod::Update),
        settings_update("a", json!({"stopWords": ["x"]})),
        addition("a", json!([{"id": 3}])),
    ];
    let uids = tasks.map(|task| node.enqueue(task));
    node.reopen();
    let batches = uids.map(|uid| node.ended(uid).batch_uid);
    assert_eq!(batches, [Some(0), Some(1), Some(0), Some(0), Some(2), Some(3)]);
    assert_eq!(node.documents("a")[0], json!({"id": 1, "w": 2}));
    assert_eq!(list(&node, "batchUids=0"), [3, 2, 0]);
}

#[test]
fn one_bad_payload_in_a_batch_fails_alone() {
    let mut node = Node::paused();
    node.enqueue(addition("a", json!([{"id": 1}])));
    node.enqueue(addition("a", json!([{"id": 2}, {"id": "no good"}])));
    node.enqueue(addition("a", json!([{"id": 3}])));
    node.reopen();
    let statuses = [0, 1, 2].map(|uid| node.ended(uid).status);
    assert_eq!(statuses, [Status::Succeeded, Status::Failed, Status::Succeeded]);
    assert_eq!(node.ended(1).batch_uid, node.ended(0).batch_uid);
    assert_eq!(node.count("a"), 2);
}

#[test]
fn a_bad_geo_field_fails_the_whole_batch() {
    let mut node = Node::new();
    node.set("a", json!({"sortableAttributes": ["_geo"]}));
    node.engine = None;
    node.engine = Some(open(node.directory.path(), config(false)));
    node.enqueue(addition("a", json!([{"id": 1}])));
    node.enqueue(addition("a", json!([{"id": 2, "_geo": 3}])));
    node.reopen();
    assert_eq!(error_of(&node.ended(1)).0, "invalid_document_geo_field");
    assert_eq!(error_of(&node.ended(2)).0, "invalid_document_geo_field");
    assert_eq!(node.count("a"), 0);
}

#[test]
fn an_index_deletion_swallows_what_waits_before_it() {
    let mut node = Node::paused();
    node.enqueue(addition("a", json!([{"id": 1}])));
    node.enqueue(NewTask::IndexDeletion { index: "a".to_owned() });
    node.enqueue(addition("a", json!([{"id": 2}])));
    node.reopen();
    assert_eq!(details(&node.ended(0)), json!({"receivedDocuments": 1, "indexedDocuments": 0}));
    assert_eq!(node.ended(1).status, Status::Succeeded);
    assert_eq!(node.ended(2).error, None);
    assert_eq!(node.documents("a"), [json!({"id": 2})]);
}

#[test]
fn a_cancelation_goes_first_and_frees_the_content() {
    let mut node = Node::paused();
    node.enqueue(addition("a", json!([{"id": 1}])));
    node.enqueue(addition("b", json!([{"id": 1}])));
    let cancel = node.enqueue(NewTask::TaskCancelation {
        filter: selection("indexUids=a"),
        original_filter: "?indexUids=a".to_owned(),
    });
    node.reopen();
    let task = node.ended(cancel);
    let expected = json!({"matchedTasks": 1, "canceledTasks": 1, "originalFilter": "?indexUids=a"});
    assert_eq!(details(&task), expected);
    let canceled = node.ended(0);
    assert_eq!((canceled.status, canceled.canceled_by), (Status::Canceled, Some(cancel)));
    assert_eq!(details(&canceled), json!({"receivedDocuments": 1, "indexedDocuments": 0}));
    assert_eq!(node.ended(1).error, None);
    assert!(node.engine().index("a").is_err());
    assert_eq!(list(&node, "canceledBy=2"), [0]);
}

#[test]
fn only_ended_tasks_are_forgotten_and_uids_do_not_come_back() {
    let mut node = Node::new();
    node.add("a", json!([{"id": 1}]));
    node.add("a", json!([{"id": 2}]));
    let forget = NewTask::TaskDeletion {
        filter: selection("uids=0,1,2,7"),
        original_filter: "?uids=0,1,2,7".to_owned(),
    };
    let task = node.run(forget);
    assert_eq!(details(&task)["deletedTasks"], json!(2));
    assert_eq!(list(&node, ""), [2]);
    assert_eq!(node.engine().task(0).map_err(|error| error.code.name()), Err("task_not_found"));
    node.reopen();
    assert_eq!(node.enqueue(deletion("a", &["1"])), 3);
}

#[test]
fn lists_are_filtered_and_paged() {
    let node = Node::new();
    node.add("a", json!([{"id": 1}]));
    node.run(deletion("a", &["1"]));
    node.run(deletion("nowhere", &["1"]));
    let last = node.run(settings_update("b", json!({"stopWords": ["x"]})));
    assert_eq!(list(&node, ""), [3, 2, 1, 0]);
    assert_eq!(list(&node, "reverse=true&limit=2"), [0, 1]);
    assert_eq!(list(&node, "from=2&limit=2"), [2, 1]);
    assert_eq!(list(&node, "statuses=failed"), [2]);
    assert_eq!(list(&node, "statuses=enqueued,processing"), [0; 0]);
    assert_eq!(list(&node, "types=documentDeletion&indexUids=a,b"), [1]);
    assert_eq!(list(&node, "uids=3,1"), [3, 1]);
    let day = last.enqueued_at.date();
    assert_eq!(list(&node, &format!("beforeEnqueuedAt={day}")), [0; 0]);
    assert_eq!(list(&node, "afterEnqueuedAt=2020-01-01&limit=1"), [3]);

    let filter = TaskFilter::from_query_string("limit=2").expect("a filter");
    let page = node.engine().tasks(&filter).expect("tasks");
    assert_eq!((page.total, page.from, page.next), (4, Some(3), Some(1)));
}

#[test]
fn a_client_note_is_shown_back() {
    let node = Node::new();
    let task = node.engine().enqueue(addition("a", json!([{"id": 1}])), Some("note".to_owned()));
    let task = node.ended(task.expect("accepted").uid);
    assert_eq!(task.custom_metadata.as_deref(), Some("note"));
    assert!(task.duration.is_some() && task.started_at >= Some(task.enqueued_at));
}

fn before_documents(node: &Node, hook: impl FnOnce() + Send + 'static) {
    let mut slot = node.engine().shared.indexer.before_documents.lock().expect("the hook");
    *slot = Some(Box::new(hook));
}

#[test]
fn a_panic_fails_its_batch_and_nothing_more() {
    let node = Node::new();
    before_documents(&node, || panic!("planned"));
    let task = node.run(addition("a", json!([{"id": 1}])));
    let text = "An unexpected crash occurred when processing the task: planned";
    assert_eq!(error_of(&task), ("internal", text));
    node.add("a", json!([{"id": 2}]));
    assert_eq!(node.count("a"), 1);
}

#[test]
fn a_processing_task_is_cancelled_at_its_next_safe_point() {
    let node = Node::new();
    let (started, is_started) = std::sync::mpsc::channel();
    let (go_on, may_go_on) = std::sync::mpsc::channel::<()>();
    before_documents(&node, move || {
        started.send(()).expect("somebody waits");
        let _ = may_go_on.recv();
    });
    let doomed = node.enqueue(addition("a", json!([{"id": 1}])));
    is_started.recv().expect("it starts");
    assert_eq!(list(&node, "statuses=processing"), [doomed]);
    assert!(node.engine().task(doomed).is_ok_and(|task| task.batch_uid.is_some()));
    let cancel = node.enqueue(NewTask::TaskCancelation {
        filter: selection("statuses=enqueued,processing"),
        original_filter: "?statuses=enqueued,processing".to_owned(),
    });
    drop(go_on);
    assert_eq!(node.ended(doomed).canceled_by, Some(cancel));
    assert_eq!(details(&node.ended(cancel))["canceledTasks"], json!(1));
    // The index that the cancelled batch was to create is gone with it.
    assert!(node.engine().index("a").is_err());
    let folders = std::fs::read_dir(node.directory.path().join("indexes")).expect("folder").count();
    assert_eq!(folders, 0);
}

#[test]
fn a_batch_given_up_at_the_end_of_the_process_runs_at_the_next_start() {
    let mut node = Node::new();
    let (started, is_started) = std::sync::mpsc::channel();
    let (go_on, may_go_on) = std::sync::mpsc::channel::<()>();
    before_documents(&node, move || {
        started.send(()).expect("somebody waits");
        let _ = may_go_on.recv();
    });
    let task = node.enqueue(addition("a", json!([{"id": 1}])));
    is_started.recv().expect("it starts");
    let shared = std::sync::Arc::clone(&node.engine().shared);
    shared.queue.end(|| shared.indexer.stop());
    drop(go_on);
    drop(shared);
    node.reopen();
    assert_eq!(node.ended(task).error, None);
    assert_eq!(node.count("a"), 1);
}

#[test]
fn two_processes_cannot_share_a_directory() {
    let node = Node::new();
    let second = Engine::open(node.directory.path(), config(true), Seams::real());
    assert!(matches!(second, Err(crate::engine::OpenError::InUse(_))));
}
