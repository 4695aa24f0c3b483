use super::*;
use crate::prepare::Prepared;
use bytes::Bytes;
use miroir_storage::commands::Work;
use miroir_storage::tables::tasks::{TaskRecord, TaskState};
use serde_json::Value;

fn entry(sendable: Sendable) -> Entry {
    let task = TaskRecord {
        uid: TaskUid(7),
        name: None,
        index: None,
        work: Work::Clear,
        creates_index: false,
        after: Vec::new(),
        state: TaskState::Processing,
        details: None,
        error: None,
        canceled_by: None,
        custom_metadata: None,
        enqueued_at: 0,
        started_at: None,
        finished_at: None,
    };
    Entry { sendable: Some(sendable), ..Entry::new(task) }
}

#[test]
fn what_tasks_touch_of_the_filled_shards_is_noted() {
    let filling = BTreeSet::from([ShardId(1)]);
    let mut touched = Touched::default();
    let prepared = Prepared {
        primary_key: "id".into(),
        bytes: Bytes::from_static(b"{\"id\":1}{\"id\":\"b\"}"),
        documents: vec![(ShardId(0), 0, 8), (ShardId(1), 8, 18)],
        beside: Vec::new(),
    };
    note(&mut touched, &entry(Sendable::Documents(Arc::new(prepared))), &filling);
    let ids = vec![(ShardId(1), "c".to_owned()), (ShardId(2), "d".to_owned())];
    note(&mut touched, &entry(Sendable::Ids(Arc::new(ids))), &filling);
    note(&mut touched, &entry(Sendable::Settings(Vec::new())), &filling);
    let ids = BTreeSet::from(["b".to_owned(), "c".to_owned()]);
    assert_eq!(touched, Touched { ids, by_filter: false });
    note(&mut touched, &entry(Sendable::Filter(Value::Null)), &filling);
    assert!(touched.by_filter);
}
