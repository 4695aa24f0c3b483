//! What is stored of a task.
//!
//! | | |
//! |---|---|
//! | key | task uid, big-endian, so that the scan order is the uid order |
//! | value | one version byte, then JSON |
//! | written by | `enqueue` (new tasks) and the worker (outcomes) |
//! | removed by | `taskDeletion` tasks |
//!
//! A stored task is `enqueued` until it has ended: *processing* is known in memory only, so a
//! process that dies in the middle of a batch leaves its tasks enqueued.

use miroir_wire::error::ResponseError;
use miroir_wire::index::NameSwap;
use miroir_wire::tasks::{Kind, Status};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// The version byte in front of each stored task.
const RECORD_VERSION: u8 = 1;

/// A task as stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TaskRecord {
    /// Its number, never reused.
    pub uid: u32,
    /// The batch that carried it out.
    pub batch_uid: Option<u32>,
    /// `Enqueued` or a final one; never `Processing`.
    pub status: Status,
    /// What it does.
    pub work: Work,
    /// What it did, for the details.
    #[serde(default)]
    pub counts: Counts,
    /// How often it was begun, if that is counted: as long as it neither ended nor was told to stop.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub starts: u32,
    /// How to tell that it was carried out before its end could be stored, if it must not be
    /// carried out twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prepared: Option<Prepared>,
    /// Why it failed.
    pub error: Option<ResponseError>,
    /// The task that cancelled it.
    pub canceled_by: Option<u32>,
    /// The client's own note.
    pub custom_metadata: Option<String>,
    /// When it was accepted.
    #[serde(with = "time::serde::rfc3339")]
    pub enqueued_at: OffsetDateTime,
    /// When its batch started.
    #[serde(with = "time::serde::rfc3339::option")]
    pub started_at: Option<OffsetDateTime>,
    /// When its batch ended.
    #[serde(with = "time::serde::rfc3339::option")]
    pub finished_at: Option<OffsetDateTime>,
}

/// What a task is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Work {
    /// Adds, replaces or merges documents.
    Documents {
        /// The index.
        index: String,
        /// The primary key named by the request.
        primary_key: Option<String>,
        /// Whether new fields are merged into known documents.
        merge: bool,
        /// Name of the content file, which exists until the task has ended.
        content: String,
        /// Size of the content file, bytes.
        content_bytes: u64,
        /// Number of documents in it.
        received: u64,
        /// Whether an unknown index is created.
        allow_index_creation: bool,
    },
    /// Deletes documents by id.
    DeleteIds {
        /// The index.
        index: String,
        /// The ids; emptied once the task has ended.
        ids: Vec<String>,
        /// How many ids there were.
        provided: u64,
    },
    /// Deletes documents by filter.
    DeleteFilter {
        /// The index.
        index: String,
        /// The filter.
        filter: serde_json::Value,
    },
    /// Runs a function over documents.
    Edit {
        /// The index.
        index: String,
        /// Which documents; all without it.
        filter: Option<serde_json::Value>,
        /// What the function may read.
        context: Option<serde_json::Map<String, serde_json::Value>>,
        /// The function.
        function: String,
    },
    /// Deletes all documents.
    Clear {
        /// The index.
        index: String,
    },
    /// Changes settings.
    Settings {
        /// The index.
        index: String,
        /// The changed settings in their JSON form; `null` resets.
        patch: serde_json::Value,
        /// Whether this came from a `DELETE`.
        is_deletion: bool,
        /// Whether an unknown index is created.
        allow_index_creation: bool,
    },
    /// Creates an index.
    CreateIndex {
        /// The index.
        index: String,
        /// Its primary key.
        primary_key: Option<String>,
    },
    /// Changes the primary key, or the name.
    UpdateIndex {
        /// The index.
        index: String,
        /// The new primary key.
        primary_key: Option<String>,
        /// The new name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        new_name: Option<String>,
    },
    /// Deletes an index.
    DeleteIndex {
        /// The index.
        index: String,
    },
    /// Exchanges names, or renames indexes.
    Swap {
        /// The pairs.
        swaps: Vec<(String, String)>,
        /// Which of them are renames; those beyond the end are not.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        renames: Vec<bool>,
    },
    /// Cancels tasks.
    Cancel {
        /// The tasks that matched when this one was enqueued; emptied once it has ended.
        tasks: Vec<u32>,
        /// How many matched.
        matched: u64,
        /// The request's query string.
        original_filter: String,
    },
    /// Forgets tasks.
    Forget {
        /// The tasks that matched when this one was enqueued; emptied once it has ended.
        tasks: Vec<u32>,
        /// How many matched.
        matched: u64,
        /// The request's query string.
        original_filter: String,
    },
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// What a task did. `None` is shown as `null`: not known, or not known yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Documents indexed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub indexed: Option<u64>,
    /// Documents deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted: Option<u64>,
    /// Documents that a function was run on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edited: Option<u64>,
    /// Tasks cancelled or forgotten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tasks: Option<u64>,
}

impl Counts {
    /// The counts of a task that did nothing: failed or cancelled.
    pub const NOTHING: Self =
        Self { indexed: Some(0), deleted: Some(0), edited: Some(0), tasks: Some(0) };
}

/// What is stored of a task just before its writes are committed in the index. Whoever finds the
/// task enqueued after a crash sees in the index whether they were.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepared {
    /// When the index says it was last changed, once the writes are committed. Every write
    /// changes that, and only the worker writes.
    #[serde(with = "time::serde::rfc3339")]
    pub updated_at: OffsetDateTime,
    /// What the task did then.
    pub counts: Counts,
}

impl Work {
    /// A swap of these names.
    pub fn swap(swaps: Vec<NameSwap>) -> Self {
        let (swaps, renames) = swaps.into_iter().map(|swap| (swap.names, swap.rename)).unzip();
        Self::Swap { swaps, renames }
    }

    /// The pairs of names that it changes: one when it renames an index.
    pub fn name_swaps(&self) -> Vec<NameSwap> {
        match self {
            Self::Swap { swaps, renames } => {
                let renames = renames.iter().copied().chain(std::iter::repeat(false));
                let pair = |(names, rename): (&(String, String), bool)| NameSwap {
                    names: names.clone(),
                    rename,
                };
                swaps.iter().zip(renames).map(pair).collect()
            }
            Self::UpdateIndex { index, new_name: Some(name), .. } if index != name => {
                vec![NameSwap { names: (index.clone(), name.clone()), rename: true }]
            }
            _ => Vec::new(),
        }
    }

    /// The type of the task, as clients see it.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Documents { .. } => Kind::DocumentAdditionOrUpdate,
            Self::DeleteIds { .. } | Self::DeleteFilter { .. } | Self::Clear { .. } => {
                Kind::DocumentDeletion
            }
            Self::Edit { .. } => Kind::DocumentEdition,
            Self::Settings { .. } => Kind::SettingsUpdate,
            Self::CreateIndex { .. } => Kind::IndexCreation,
            Self::UpdateIndex { .. } => Kind::IndexUpdate,
            Self::DeleteIndex { .. } => Kind::IndexDeletion,
            Self::Swap { .. } => Kind::IndexSwap,
            Self::Cancel { .. } => Kind::TaskCancelation,
            Self::Forget { .. } => Kind::TaskDeletion,
        }
    }

    /// The one index it belongs to, if it belongs to one.
    pub fn index(&self) -> Option<&str> {
        match self {
            Self::Documents { index, .. }
            | Self::DeleteIds { index, .. }
            | Self::DeleteFilter { index, .. }
            | Self::Edit { index, .. }
            | Self::Clear { index }
            | Self::Settings { index, .. }
            | Self::CreateIndex { index, .. }
            | Self::UpdateIndex { index, .. }
            | Self::DeleteIndex { index } => Some(index),
            Self::Swap { .. } | Self::Cancel { .. } | Self::Forget { .. } => None,
        }
    }

    /// Whether the task has to do with `name`: its index, or one of those it swaps.
    pub fn concerns(&self, name: &str) -> bool {
        match self {
            Self::Swap { swaps, .. } => swaps.iter().any(|(a, b)| a == name || b == name),
            other => other.index() == Some(name),
        }
    }

    /// The content file that belongs to the task.
    pub fn content(&self) -> Option<&str> {
        match self {
            Self::Documents { content, .. } => Some(content),
            _ => None,
        }
    }

    /// Follows an exchange of two names, as the tasks of swapped indexes do.
    pub fn rename(&mut self, a: &str, b: &str) {
        let swap = |name: &mut String| {
            if name == a {
                b.clone_into(name);
            } else if name == b {
                a.clone_into(name);
            }
        };
        match self {
            Self::Documents { index, .. }
            | Self::DeleteIds { index, .. }
            | Self::DeleteFilter { index, .. }
            | Self::Edit { index, .. }
            | Self::Clear { index }
            | Self::Settings { index, .. }
            | Self::CreateIndex { index, .. }
            | Self::UpdateIndex { index, .. }
            | Self::DeleteIndex { index } => swap(index),
            Self::Swap { swaps, .. } => {
                for (left, right) in swaps {
                    swap(left);
                    swap(right);
                }
            }
            Self::Cancel { .. } | Self::Forget { .. } => {}
        }
    }

    /// Drops what only the execution needed.
    fn shrink(&mut self) {
        match self {
            Self::DeleteIds { ids, .. } => *ids = Vec::new(),
            Self::Cancel { tasks, .. } | Self::Forget { tasks, .. } => *tasks = Vec::new(),
            _ => {}
        }
    }
}

impl TaskRecord {
    /// Ends the task well.
    pub fn succeed(&mut self, counts: Counts) {
        self.end(Status::Succeeded, counts);
    }

    /// Ends the task with an error.
    pub fn fail(&mut self, error: ResponseError) {
        self.end(Status::Failed, Counts::NOTHING);
        self.error = Some(error);
    }

    /// Ends the task on behalf of another.
    pub fn cancel(&mut self, by: u32) {
        self.end(Status::Canceled, Counts::NOTHING);
        self.canceled_by = Some(by);
    }

    fn end(&mut self, status: Status, counts: Counts) {
        self.status = status;
        self.counts = counts;
        self.starts = 0;
        self.prepared = None;
        self.work.shrink();
    }

    /// The stored form.
    ///
    /// # Errors
    /// Never in practice: every field has a JSON form.
    pub fn encode(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut bytes = vec![RECORD_VERSION];
        serde_json::to_writer(&mut bytes, self)?;
        Ok(bytes)
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// When the bytes were damaged, or written by a later version.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        match bytes.split_first() {
            Some((&RECORD_VERSION, json)) => Ok(serde_json::from_slice(json)?),
            Some((&version, _)) => Err(RecordError::Version(version)),
            None => Err(RecordError::Empty),
        }
    }
}

/// Why a stored task could not be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// It has a version that this program doesn't know.
    #[error("stored task has version {0}, known is {RECORD_VERSION}")]
    Version(u8),
    /// It is empty.
    #[error("stored task is empty")]
    Empty,
    /// It is not what a task looks like.
    #[error("stored task is damaged: {0}")]
    Damaged(#[from] serde_json::Error),
}
