//! The embedded node's core: indexes, settings and the task queue, without HTTP.
//!
//! [`Engine`] is what the HTTP side holds. Writes go through [`Engine::enqueue`], which returns
//! once the task is durable; one worker thread then carries tasks out in order (see
//! [`crate::queue`]). Reads take a [`milli::Index`] and run beside the worker: LMDB readers
//! never wait for the writer.
//!
//! Every method here may block on the disk (an `enqueue` syncs twice): call them from the
//! blocking pool.

use std::path::Path;

use milli_core as milli;
use miroir_seams::Seams;
use miroir_wire::content::DocumentBatch;
use miroir_wire::error::ApiError;
use miroir_wire::index::{IndexStats, IndexView, Stats};
use miroir_wire::settings::Settings;
use miroir_wire::tasks::{TaskFilter, TaskList, TaskView};

/// What a node may use of its machine.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Threads that index; `None` means one per core.
    pub indexing_threads: Option<usize>,
    /// Memory that one indexing run may use, bytes; `None` means a third of the machine's.
    pub indexing_memory_bytes_max: Option<usize>,
    /// How much a new index may grow before its map is enlarged, bytes. Address space, not disk.
    pub index_map_bytes: usize,
    /// Whether tasks are carried out. `false` only enqueues them (used by tests and repairs).
    pub run_tasks: bool,
}

/// How documents with a known id are treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DocumentMethod {
    /// The new document takes the place of the old one (`POST`).
    Replace,
    /// The new fields are merged into the old document (`PUT`).
    Update,
}

/// A write, as a client asks for it.
#[derive(Clone, Debug)]
pub enum NewTask {
    /// Adds, replaces or updates documents.
    DocumentAdditionOrUpdate {
        /// The index.
        index: String,
        /// The primary key named by the request, if any.
        primary_key: Option<String>,
        /// Replace or merge.
        method: DocumentMethod,
        /// The documents, checked to be JSON objects.
        documents: DocumentBatch,
        /// Whether an unknown index is created.
        allow_index_creation: bool,
    },
    /// Deletes the documents with these ids.
    DocumentDeletionByIds {
        /// The index.
        index: String,
        /// Document ids in their text form.
        ids: Vec<String>,
    },
    /// Deletes the documents that a filter matches.
    DocumentDeletionByFilter {
        /// The index.
        index: String,
        /// The filter, a string or nested arrays of strings.
        filter: serde_json::Value,
    },
    /// Deletes all documents of an index.
    DocumentClear {
        /// The index.
        index: String,
    },
    /// Changes settings.
    SettingsUpdate {
        /// The index.
        index: String,
        /// The fields that change.
        new_settings: Box<Settings>,
        /// Whether this came from a `DELETE`, which never creates an index.
        is_deletion: bool,
        /// Whether an unknown index is created.
        allow_index_creation: bool,
    },
    /// Creates an index.
    IndexCreation {
        /// The index.
        index: String,
        /// Its primary key, if known already.
        primary_key: Option<String>,
    },
    /// Changes the primary key of an index that has no documents.
    IndexUpdate {
        /// The index.
        index: String,
        /// The new primary key.
        primary_key: Option<String>,
    },
    /// Deletes an index with its documents and settings.
    IndexDeletion {
        /// The index.
        index: String,
    },
    /// Exchanges the names of pairs of indexes, all or none.
    IndexSwap {
        /// The pairs.
        swaps: Vec<(String, String)>,
    },
    /// Cancels the enqueued and processing tasks that `filter` matches now.
    TaskCancelation {
        /// Which tasks.
        filter: TaskFilter,
        /// The request's query string with its `?`, shown in the details.
        original_filter: String,
    },
    /// Forgets the finished tasks that `filter` matches now.
    TaskDeletion {
        /// Which tasks.
        filter: TaskFilter,
        /// The request's query string with its `?`, shown in the details.
        original_filter: String,
    },
}

/// Why an engine could not start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The data directory could not be used.
    #[error("data directory {path}: {source}")]
    Directory {
        /// The directory.
        path: String,
        /// What the disk said.
        source: std::io::Error,
    },
    /// A database could not be opened or read.
    #[error("database: {0}")]
    Database(#[from] milli::heed::Error),
    /// The data directory was written by another version, or is damaged.
    #[error("data directory does not fit: {0}")]
    Mismatch(String),
}

/// The indexes and the task queue of one node. Clones share them.
#[derive(Clone)]
pub struct Engine {}

impl Engine {
    /// Opens (or creates) the data directory and starts the worker thread. Tasks that an
    /// earlier process left enqueued or unfinished are carried out again.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(data_dir: &Path, config: EngineConfig, seams: Seams) -> Result<Self, OpenError>;

    /// Makes a task durable and gives it the next uid. `custom_metadata` is shown back as
    /// `customMetadata`.
    ///
    /// # Errors
    /// `invalid_swap_duplicate_index_found`, `no_space_left_on_device`, `io_error`, `internal`.
    /// Everything else is an error of the task, not of this call.
    pub fn enqueue(&self, task: NewTask, custom_metadata: Option<String>) -> Result<TaskView, ApiError>;

    /// One task; `task_not_found` otherwise.
    pub fn task(&self, uid: u32) -> Result<TaskView, ApiError>;

    /// The tasks that match, newest first unless reversed, with the total of all pages.
    pub fn tasks(&self, filter: &TaskFilter) -> Result<TaskList, ApiError>;

    /// An open index to read from; `index_not_found` otherwise.
    /// Don't keep it longer than one request: growing or deleting the index waits for it.
    pub fn index(&self, name: &str) -> Result<milli::Index, ApiError>;

    /// The embedders of an index, as searches with vectors need them.
    pub fn embedders(&self, index: &milli::Index, rtxn: &milli::heed::RoTxn<'_>) -> Result<milli::vector::EmbeddingConfigs, ApiError>;

    /// All indexes, by name.
    pub fn indexes(&self) -> Result<Vec<IndexView>, ApiError>;

    /// One index's name, dates and primary key.
    pub fn index_view(&self, name: &str) -> Result<IndexView, ApiError>;

    /// One index's counts and sizes.
    pub fn index_stats(&self, name: &str) -> Result<IndexStats, ApiError>;

    /// Counts and sizes of the whole node.
    pub fn stats(&self) -> Result<Stats, ApiError>;

    /// The settings of an index; fields that were never set are `NotSet` or `Reset`, so
    /// that `Settings::effective` fills in the defaults.
    pub fn settings(&self, name: &str) -> Result<Settings, ApiError>;
}
