//! The engine without HTTP, on real LMDB in a temporary directory.

mod documents;
mod edition;
mod indexes;
mod kill;
mod queue;
mod settings;

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use miroir_seams::Seams;
use miroir_wire::content::{DocumentBatch, PayloadKind, read_documents};
use miroir_wire::error::ApiError;
use miroir_wire::index::NameSwap;
use miroir_wire::settings::Settings;
use miroir_wire::tasks::{Status, TaskFilter, TaskSelection, TaskView};
use serde_json::{Value, json};

use super::{DocumentMethod, Engine, EngineConfig, NewTask};

/// An engine in a directory of its own, for one test.
struct Node {
    directory: tempfile::TempDir,
    engine: Option<Engine>,
}

impl Node {
    fn new() -> Self {
        Self::with(config(true))
    }

    /// An engine that only enqueues, until [`Node::reopen`].
    fn paused() -> Self {
        Self::with(config(false))
    }

    fn with(config: EngineConfig) -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let engine = open(directory.path(), config);
        Self { directory, engine: Some(engine) }
    }

    /// Opens the same directory anew, as a restart does, with a running worker.
    fn reopen(&mut self) {
        self.engine = None;
        self.engine = Some(open(self.directory.path(), config(true)));
    }

    fn engine(&self) -> &Engine {
        self.engine.as_ref().expect("the engine is open")
    }

    fn enqueue(&self, task: NewTask) -> u32 {
        self.engine().enqueue(task, None).expect("the task is accepted").uid
    }

    /// Enqueues a task and waits for its end.
    fn run(&self, task: NewTask) -> TaskView {
        self.ended(self.enqueue(task))
    }

    fn ended(&self, uid: u32) -> TaskView {
        self.engine().shared.queue.wait_for(uid);
        let task = self.engine().task(uid).expect("the task exists");
        assert!(task.status.is_terminal(), "{task:?}");
        task
    }

    /// Adds documents and expects success.
    fn add(&self, index: &str, documents: Value) -> TaskView {
        let task = self.run(addition(index, documents));
        assert_eq!(task.error, None);
        task
    }

    fn set(&self, index: &str, settings: Value) -> TaskView {
        self.run(settings_update(index, settings))
    }

    /// All documents of an index, by id.
    fn documents(&self, index: &str) -> Vec<Value> {
        let index = self.engine().index(index).expect("the index exists");
        let rtxn = index.read_txn().expect("a transaction");
        let fields = index.fields_ids_map(&rtxn).expect("fields");
        let documents = index.all_documents(&rtxn).expect("documents");
        let mut documents: Vec<Value> = documents
            .map(|document| {
                let (_, document) = document.expect("a document");
                let object = document.iter().map(|(id, value)| {
                    let name = fields.name(id).expect("a field name").to_owned();
                    (name, serde_json::from_slice(value).expect("JSON"))
                });
                Value::Object(object.collect())
            })
            .collect();
        documents.sort_by_key(|document| document["id"].to_string());
        documents
    }

    fn count(&self, index: &str) -> u64 {
        self.engine().index_stats(index).map_or(0, |stats| stats.number_of_documents)
    }
}

fn config(run_tasks: bool) -> EngineConfig {
    EngineConfig {
        indexing_threads: Some(1),
        run_tasks,
        lock_patience: Duration::ZERO,
        ..EngineConfig::default()
    }
}

fn open(directory: &Path, config: EngineConfig) -> Engine {
    Engine::open(directory, config, Seams::real()).expect("the engine opens")
}

fn batch(documents: Value) -> DocumentBatch {
    let body = Bytes::from(documents.to_string());
    read_documents(PayloadKind::Json, &body).expect("documents")
}

fn addition(index: &str, documents: Value) -> NewTask {
    addition_with(index, documents, None, DocumentMethod::Replace)
}

fn addition_with(
    index: &str,
    documents: Value,
    primary_key: Option<&str>,
    method: DocumentMethod,
) -> NewTask {
    NewTask::DocumentAdditionOrUpdate {
        index: index.to_owned(),
        primary_key: primary_key.map(str::to_owned),
        method,
        documents: batch(documents),
        allow_index_creation: true,
    }
}

fn settings_update(index: &str, settings: Value) -> NewTask {
    let settings = Settings::from_json(settings.to_string().as_bytes()).expect("settings");
    NewTask::SettingsUpdate {
        index: index.to_owned(),
        new_settings: Box::new(settings),
        is_deletion: false,
        allow_index_creation: true,
    }
}

fn deletion(index: &str, ids: &[&str]) -> NewTask {
    NewTask::DocumentDeletionByIds {
        index: index.to_owned(),
        ids: ids.iter().map(|&id| id.to_owned()).collect(),
    }
}

fn filter_deletion(index: &str, filter: &str) -> NewTask {
    NewTask::DocumentDeletionByFilter { index: index.to_owned(), filter: json!(filter) }
}

fn selection(query: &str) -> TaskSelection {
    TaskSelection::from_query_string(query, "cancel").expect("a selection")
}

fn list(node: &Node, query: &str) -> Vec<u32> {
    let filter = TaskFilter::from_query_string(query).expect("a filter");
    let tasks = node.engine().tasks(&filter).expect("tasks");
    tasks.results.into_iter().map(|task| task.uid).collect()
}

fn error_of(task: &TaskView) -> (&str, &str) {
    assert_eq!(task.status, Status::Failed, "{task:?}");
    match &task.error {
        Some(error) => (error.code.as_str(), error.message.as_str()),
        None => ("", ""),
    }
}

fn details(task: &TaskView) -> Value {
    serde_json::to_value(task.details.clone().unwrap_or_default()).expect("details")
}

fn refused(result: Result<TaskView, ApiError>) -> &'static str {
    result.expect_err("it is refused").code.name()
}
