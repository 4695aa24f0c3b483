//! The task queue of a model node: what was enqueued, how it is batched, what it does.

use std::collections::BTreeMap;

use miroir_wire::settings::Settings;
use serde_json::{Map, Value, json};

use super::filter::Filter;
use super::index::Index;
use super::{Refusal, State};

/// Document additions that a node joins by itself.
const BATCH_MAX: usize = 10;

/// How far a task is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Enqueued,
    Processing,
    Succeeded,
    Failed,
}

impl Status {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Enqueued => "enqueued",
            Self::Processing => "processing",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
        }
    }

    pub(super) fn ended(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }
}

/// What a task does.
#[derive(Clone, Debug)]
pub(super) enum Work {
    Add { partial: bool, primary_key: Option<String>, documents: Vec<Map<String, Value>> },
    DeleteIds(Vec<String>),
    DeleteMatching(Filter),
    Clear,
    Settings(Box<Settings>),
    Create { primary_key: Option<String> },
    Update { primary_key: Option<String> },
    Delete,
}

impl Work {
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Add { .. } => "documentAdditionOrUpdate",
            Self::DeleteIds(_) | Self::DeleteMatching(_) | Self::Clear => "documentDeletion",
            Self::Settings(_) => "settingsUpdate",
            Self::Create { .. } => "indexCreation",
            Self::Update { .. } => "indexUpdate",
            Self::Delete => "indexDeletion",
        }
    }

    fn joins(&self, next: &Self) -> bool {
        match (self, next) {
            (
                Self::Add { partial: a, primary_key: key_a, .. },
                Self::Add { partial: b, primary_key: key_b, .. },
            ) => a == b && key_a == key_b,
            _ => false,
        }
    }
}

/// One task of a node.
#[derive(Clone, Debug)]
pub(super) struct Task {
    pub(super) index: String,
    pub(super) work: Work,
    pub(super) status: Status,
    pub(super) details: Value,
    pub(super) error: Option<Refusal>,
    pub(super) custom_metadata: Option<String>,
    pub(super) enqueued_at: String,
}

impl Task {
    pub(super) fn view(&self, uid: u64) -> Value {
        let mut view = json!({
            "uid": uid,
            "indexUid": self.index,
            "status": self.status.name(),
            "type": self.work.kind(),
            "canceledBy": null,
            "details": self.details,
            "enqueuedAt": self.enqueued_at,
            "error": self.error.as_ref().map(Refusal::to_json),
        });
        if let (Some(name), Value::Object(view)) = (&self.custom_metadata, &mut view) {
            view.insert("customMetadata".into(), json!(name));
        }
        view
    }
}

/// The tasks to run next: the oldest that waits, with those that the node joins to it.
pub(super) fn next_batch(tasks: &BTreeMap<u64, Task>) -> Vec<u64> {
    let mut waiting = tasks.iter().filter(|(_, task)| !task.status.ended());
    let Some((uid, first)) = waiting.next() else { return Vec::new() };
    let mut batch = vec![*uid];
    let same_index = waiting.filter(|(_, task)| task.index == first.index);
    for (uid, task) in same_index {
        if batch.len() == BATCH_MAX || !first.work.joins(&task.work) {
            break;
        }
        batch.push(*uid);
    }
    batch
}

/// Runs a batch: one bad task fails all of it (measured on Meilisearch 1.50).
pub(super) fn run_batch(state: &mut State, batch: &[u64], now: &str) {
    // A batch is of one index.
    let index = batch.first().and_then(|uid| state.tasks.get(uid)).map(|task| task.index.clone());
    let index = index.unwrap_or_default();
    let before = state.indexes.get(&index).cloned();
    let mut refusal = None;
    let mut details = Vec::new();
    for uid in batch {
        let Some(task) = state.tasks.get(uid).cloned() else { continue };
        let result = if state.disk_full {
            Err(Refusal::disk_full())
        } else {
            run(&mut state.indexes, &task, now)
        };
        match result {
            Ok(counted) => details.push(counted),
            Err(error) => {
                refusal = Some(error);
                break;
            }
        }
    }
    if refusal.is_some() {
        // What created the index is committed before the work; everything else is undone.
        let created = state.indexes.get(&index).map(|made| made.created_at.clone());
        let left = before.or_else(|| Some(Index::new(created?, None)));
        state.indexes.extend(left.map(|left| (index, left)));
    }
    for (n, uid) in batch.iter().enumerate() {
        let Some(task) = state.tasks.get_mut(uid) else { continue };
        match &refusal {
            None => {
                task.status = Status::Succeeded;
                task.details = details.get(n).cloned().unwrap_or(Value::Null);
            }
            Some(error) => {
                task.status = Status::Failed;
                task.error = Some(error.clone());
            }
        }
    }
    if let Some(newest) = batch.last() {
        state.back_up(*newest);
    }
}

fn run(indexes: &mut BTreeMap<String, Index>, task: &Task, now: &str) -> Result<Value, Refusal> {
    let uid = &task.index;
    let missing = || Refusal::index_not_found(uid);
    match &task.work {
        Work::Add { partial, primary_key, documents } => {
            let index = indexes.entry(uid.clone()).or_insert_with(|| Index::new(now.into(), None));
            let indexed = index.add(documents, *partial, primary_key.as_deref())?;
            Ok(json!({ "receivedDocuments": documents.len(), "indexedDocuments": indexed }))
        }
        Work::DeleteIds(ids) => {
            let deleted = indexes.get_mut(uid).ok_or_else(missing)?.delete_ids(ids);
            Ok(json!({ "providedIds": ids.len(), "deletedDocuments": deleted }))
        }
        Work::DeleteMatching(filter) => {
            let deleted = indexes.get_mut(uid).ok_or_else(missing)?.delete_matching(filter)?;
            Ok(json!({ "providedIds": 0, "deletedDocuments": deleted }))
        }
        Work::Clear => {
            let deleted = indexes.get_mut(uid).ok_or_else(missing)?.clear();
            Ok(json!({ "deletedDocuments": deleted }))
        }
        Work::Settings(patch) => {
            let index = indexes.entry(uid.clone()).or_insert_with(|| Index::new(now.into(), None));
            index.change_settings(patch, now)?;
            Ok(Value::Null)
        }
        Work::Create { primary_key } => {
            if indexes.contains_key(uid) {
                let message = format!("Index `{uid}` already exists.");
                return Err(Refusal::invalid("index_already_exists", message));
            }
            indexes.insert(uid.clone(), Index::new(now.into(), primary_key.clone()));
            Ok(json!({ "primaryKey": primary_key }))
        }
        Work::Update { primary_key } => {
            let index = indexes.get_mut(uid).ok_or_else(missing)?;
            if !index.documents.is_empty() && *primary_key != index.primary_key {
                let present = index.primary_key.as_deref().unwrap_or_default();
                let message = format!("Index already has a primary key: `{present}`.");
                return Err(Refusal::invalid("index_primary_key_already_exists", message));
            }
            if primary_key.is_some() {
                index.primary_key.clone_from(primary_key);
            }
            Ok(json!({ "primaryKey": primary_key }))
        }
        Work::Delete => {
            let mut index = indexes.remove(uid).ok_or_else(missing)?;
            Ok(json!({ "deletedDocuments": index.clear() }))
        }
    }
}
