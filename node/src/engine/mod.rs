//! The embedded node's core: indexes, settings and the task queue, without HTTP.
//!
//! [`Engine`] is what the HTTP side holds. Writes go through [`Engine::enqueue`], which returns
//! once the task is durable; one worker thread then carries tasks out in order (see
//! [`crate::queue`]). Reads take a [`milli::Index`] and run beside the worker: LMDB readers
//! never wait for the writer.
//!
//! Every method here may block on the disk (an `enqueue` syncs twice): call them from the
//! blocking pool.

pub mod apply;
pub mod embedders;
pub mod errors;
mod features;
pub mod index_map;
pub mod locales;
pub mod priority;
pub mod settings;
mod stats;
#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use milli_core as milli;
use miroir_seams::Seams;
use miroir_wire::content::DocumentBatch;
use miroir_wire::error::{ApiError, Code};
use miroir_wire::index::{IndexView, NameSwap, check_each_name_once};
use miroir_wire::keys::IndexPattern;
use miroir_wire::settings::Settings;
use miroir_wire::tasks::{
    BatchList, BatchView, TaskFilter, TaskList, TaskSelection, TaskView, batch_not_found,
};

use self::apply::Indexer;
use self::errors::{EngineError, Refusal};
pub(crate) use self::features::Features;
use self::index_map::IndexMap;
use crate::queue::Queue;
use crate::queue::query::view;
use crate::queue::record::Work;
use crate::queue::store::Store;
use crate::queue::worker::{Shared, Worker};

/// What the file `format` of a data directory says. A later layout gets another number and a
/// step from this one.
const FORMAT: &str = "miroir-node 1\n";

/// How often a directory that is in use is tried again.
const LOCK_INTERVAL: Duration = Duration::from_millis(50);

/// What a node may use of its machine.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Threads that index; `None` means one per core.
    pub indexing_threads: Option<usize>,
    /// Memory that one indexing run may use, bytes; `None` means a third of the machine's.
    pub indexing_memory_bytes_max: Option<usize>,
    /// How large an index may grow before its map is enlarged, bytes. Address space, not disk.
    pub index_map_bytes_min: usize,
    /// How long to wait for another process to let the data directory go. A killed one holds it
    /// until the system has taken its memory apart.
    pub lock_patience: Duration,
    /// Whether tasks are carried out. `false` only enqueues them (used by tests and repairs).
    pub run_tasks: bool,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            indexing_threads: None,
            indexing_memory_bytes_max: None,
            index_map_bytes_min: 2 << 30,
            lock_patience: Duration::from_secs(10),
            run_tasks: true,
        }
    }
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
    /// Runs a function over documents, which changes or deletes them.
    DocumentEdition {
        /// The index.
        index: String,
        /// Which documents; all without it.
        filter: Option<serde_json::Value>,
        /// What the function may read as `context`.
        context: Option<serde_json::Map<String, serde_json::Value>>,
        /// The function, in the language Rhai; the document is its variable `doc`.
        function: String,
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
    /// Changes the primary key of an index that has no documents, or its name.
    IndexUpdate {
        /// The index.
        index: String,
        /// The new primary key.
        primary_key: Option<String>,
        /// The new name.
        new_name: Option<String>,
    },
    /// Deletes an index with its documents and settings.
    IndexDeletion {
        /// The index.
        index: String,
    },
    /// Exchanges the names of pairs of indexes, or renames the first of a pair, all or none.
    IndexSwap {
        /// The pairs.
        swaps: Vec<NameSwap>,
    },
    /// Cancels the enqueued and processing tasks that `filter` matches now.
    TaskCancelation {
        /// Which tasks.
        filter: TaskSelection,
        /// The request's query string with its `?`, shown in the details.
        original_filter: String,
    },
    /// Forgets the finished tasks that `filter` matches now.
    TaskDeletion {
        /// Which tasks.
        filter: TaskSelection,
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
        path: PathBuf,
        /// What the disk said.
        source: std::io::Error,
    },
    /// Another process has the data directory open.
    #[error("data directory {0} is in use by another process")]
    InUse(PathBuf),
    /// The data directory was written by another version, or is no node's.
    #[error("data directory {path} has format {found:?}, expected {FORMAT:?}")]
    Format {
        /// The directory.
        path: PathBuf,
        /// What its `format` file says.
        found: String,
    },
    /// A database could not be opened or read.
    #[error("database: {0}")]
    Database(#[from] EngineError),
}

/// The indexes and the task queue of one node. Clones share them; when the last one is dropped,
/// the worker gives up the batch under way, whose tasks stay enqueued.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
    features: Arc<Features>,
    /// Its drop ends the thread. `None` when tasks are not run.
    worker: Option<Arc<Worker>>,
    /// Held, never read: its lock keeps other processes away.
    _lock: Arc<File>,
}

impl Engine {
    /// Opens (or creates) the data directory and starts the worker thread. Tasks that an
    /// earlier process left enqueued or unfinished are carried out again.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(data: &Path, config: EngineConfig, seams: Seams) -> Result<Self, OpenError> {
        let lock = claim_directory(data, config.lock_patience)?;
        let disk = |source| OpenError::Directory { path: data.to_owned(), source };
        let features = Arc::new(Features::open(data).map_err(disk)?);
        let store = Store::open(data)?;
        let indexes = {
            let rtxn = store.read()?;
            let folder = data.join("indexes");
            let room = config.index_map_bytes_min;
            IndexMap::load(folder, store.names(), &rtxn, room, seams.clone())?
        };
        let queue = Queue::open(store, seams.clone())?;
        let indexer = Indexer::new(&config).map_err(disk)?;
        let shared = Arc::new(Shared { queue, indexes, indexer, seams });
        let worker = match config.run_tasks {
            true => Some(Arc::new(Worker::start(Arc::clone(&shared)).map_err(disk)?)),
            false => None,
        };
        Ok(Self { shared, features, worker, _lock: Arc::new(lock) })
    }

    /// Ends the worker and waits for it: the batch under way is given up at its next safe point,
    /// and its tasks stay enqueued. The directory is free once all clones are dropped, too.
    pub async fn close(&self) {
        if let Some(worker) = self.worker.clone() {
            let ended = self.shared.seams.tasks.spawn_blocking(move || worker.end());
            if ended.await.is_err() {
                tracing::error!("waiting for the task worker panicked");
            }
        }
    }

    /// Experimental features.
    pub(crate) fn features(&self) -> &Features {
        &self.features
    }

    /// Makes a task durable and gives it the next uid. `custom_metadata` is shown back as
    /// `customMetadata`.
    ///
    /// # Errors
    /// `invalid_swap_duplicate_index_found`, `invalid_settings_embedders`,
    /// `miroir_not_supported`, `no_space_left_on_device`, `io_error`, `internal`. Everything else
    /// is an error of the task, not of this call.
    pub fn enqueue(
        &self,
        task: NewTask,
        custom_metadata: Option<String>,
    ) -> Result<TaskView, ApiError> {
        let queue = &self.shared.queue;
        let work = self.work(task)?;
        let task = queue.enqueue(work, custom_metadata, || self.shared.indexer.stop())?;
        Ok(view(&task, None))
    }

    /// One task.
    ///
    /// # Errors
    /// `task_not_found`.
    pub fn task(&self, uid: u32) -> Result<TaskView, ApiError> {
        self.shared.queue.task(uid)?.ok_or_else(|| ApiError::task_not_found(uid))
    }

    /// The tasks that match, newest first unless reversed, with the total of all pages.
    ///
    /// # Errors
    /// `internal` when the task database can't be read.
    pub fn tasks(&self, filter: &TaskFilter) -> Result<TaskList, ApiError> {
        Ok(self.shared.queue.tasks(filter)?)
    }

    /// The batches of which a task matches, newest first unless reversed.
    ///
    /// # Errors
    /// `internal` when the task database can't be read.
    pub fn batches(&self, filter: &TaskFilter) -> Result<BatchList, ApiError> {
        Ok(self.shared.queue.batches(filter)?)
    }

    /// One batch, of the tasks that may be seen.
    ///
    /// # Errors
    /// `batch_not_found`.
    pub fn batch(
        &self,
        uid: u32,
        visible: Option<Vec<IndexPattern>>,
    ) -> Result<BatchView, ApiError> {
        self.shared.queue.batch(uid, visible)?.ok_or_else(|| batch_not_found(uid))
    }

    /// An open index to read from. Don't keep it longer than one request, nor ask for the same
    /// index again while holding it: enlarging and deleting the index wait until it is dropped,
    /// and keep others from opening it meanwhile.
    ///
    /// # Errors
    /// `index_not_found`.
    pub fn index(&self, name: &str) -> Result<milli::Index, ApiError> {
        Ok(self.open_index(name)?)
    }

    fn open_index(&self, name: &str) -> Result<milli::Index, EngineError> {
        let rtxn = self.shared.queue.store().read()?;
        self.shared.indexes.index(&rtxn, name)
    }

    /// The embedders of an index, as searches with vectors need them.
    ///
    /// # Errors
    /// When the index can't be read.
    pub fn embedders(
        &self,
        index: &milli::Index,
        rtxn: &milli::heed::RoTxn<'_>,
    ) -> Result<milli::vector::EmbeddingConfigs, ApiError> {
        embedders::runtime(index, rtxn).map_err(Refusal::into_api)
    }

    /// All indexes, by name.
    ///
    /// # Errors
    /// When one can't be read.
    pub fn indexes(&self) -> Result<Vec<IndexView>, ApiError> {
        let names = self.index_names()?;
        names.iter().map(|name| self.index_view(name)).collect()
    }

    /// The names of all indexes, sorted.
    ///
    /// # Errors
    /// When the task database can't be read.
    pub fn index_names(&self) -> Result<Vec<String>, ApiError> {
        let rtxn = self.shared.queue.store().read()?;
        Ok(self.shared.indexes.names(&rtxn)?.into_keys().collect())
    }

    /// The settings of an index, every field set, or reset where it was never restricted.
    ///
    /// # Errors
    /// `index_not_found`.
    pub fn settings(&self, name: &str) -> Result<Settings, ApiError> {
        let index = self.open_index(name)?;
        let rtxn = index.read_txn().map_err(EngineError::from)?;
        let mut settings = settings::read_settings(&index, &rtxn)
            .map_err(|error| EngineError::milli(error, name))?;
        settings::hide_secrets(&mut settings);
        Settings::from_json(settings.to_string().as_bytes())
    }

    fn work(&self, task: NewTask) -> Result<Work, ApiError> {
        let queue = &self.shared.queue;
        Ok(match task {
            NewTask::DocumentAdditionOrUpdate {
                index,
                primary_key,
                method,
                documents,
                allow_index_creation,
            } => {
                let (content, content_bytes) =
                    queue.store().write_content(&documents, &self.shared.seams)?;
                Work::Documents {
                    index,
                    primary_key,
                    merge: method == DocumentMethod::Update,
                    content,
                    content_bytes,
                    received: documents.len() as u64,
                    allow_index_creation,
                }
            }
            NewTask::DocumentDeletionByIds { index, ids } => {
                Work::DeleteIds { index, provided: ids.len() as u64, ids }
            }
            NewTask::DocumentDeletionByFilter { index, filter } => {
                Work::DeleteFilter { index, filter }
            }
            NewTask::DocumentEdition { index, filter, context, function } => {
                Work::Edit { index, filter, context, function }
            }
            NewTask::DocumentClear { index } => Work::Clear { index },
            NewTask::SettingsUpdate { index, new_settings, is_deletion, allow_index_creation } => {
                let patch = serde_json::to_value(&*new_settings)
                    .map_err(|error| ApiError::new(Code::Internal, error.to_string()))?;
                settings::check_embedders(&patch)?;
                Work::Settings { index, patch, is_deletion, allow_index_creation }
            }
            NewTask::IndexCreation { index, primary_key } => {
                Work::CreateIndex { index, primary_key }
            }
            NewTask::IndexUpdate { index, primary_key, new_name } => {
                Work::UpdateIndex { index, primary_key, new_name }
            }
            NewTask::IndexDeletion { index } => Work::DeleteIndex { index },
            NewTask::IndexSwap { swaps } => {
                check_each_name_once(&swaps)?;
                Work::swap(swaps)
            }
            NewTask::TaskCancelation { filter, original_filter } => {
                let tasks = queue.matching(&filter)?;
                Work::Cancel { matched: tasks.len() as u64, tasks, original_filter }
            }
            NewTask::TaskDeletion { filter, original_filter } => {
                let tasks = queue.matching(&filter)?;
                Work::Forget { matched: tasks.len() as u64, tasks, original_filter }
            }
        })
    }
}

/// Takes the directory for this process, and checks that it is a node's.
fn claim_directory(data: &Path, patience: Duration) -> Result<File, OpenError> {
    let disk = |source| OpenError::Directory { path: data.to_owned(), source };
    fs::create_dir_all(data).map_err(disk)?;
    let lock = File::create(data.join("lock")).map_err(disk)?;
    let mut waited = Duration::ZERO;
    loop {
        match lock.try_lock() {
            Ok(()) => break,
            Err(fs::TryLockError::WouldBlock) if waited < patience => {
                std::thread::sleep(LOCK_INTERVAL);
                waited += LOCK_INTERVAL;
            }
            Err(fs::TryLockError::WouldBlock) => return Err(OpenError::InUse(data.to_owned())),
            Err(fs::TryLockError::Error(error)) => return Err(disk(error)),
        }
    }
    let format = data.join("format");
    match fs::read_to_string(&format) {
        Ok(found) if found == FORMAT => {}
        Ok(found) => return Err(OpenError::Format { path: data.to_owned(), found }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            fs::write(&format, FORMAT).map_err(disk)?;
        }
        Err(error) => return Err(disk(error)),
    }
    Ok(lock)
}
