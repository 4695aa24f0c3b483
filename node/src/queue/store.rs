//! The task database and the content files.
//!
//! ```text
//! <data>/tasks/          one LMDB environment: tasks, counters, names of indexes
//! <data>/content/<uuid>  the documents of one task, newline-delimited JSON
//! ```
//! A content file is written and synced before the task that names it is committed, and removed
//! after the task has ended; a file that no waiting task names is left over from a crash and is
//! removed at start.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use milli_core::heed::byteorder::BE;
use milli_core::heed::types::{Bytes, Str, U32};
use milli_core::heed::{Database, Env, EnvOpenOptions, RoTxn, RwTxn, WithoutTls};
use miroir_seams::Seams;
use miroir_wire::content::DocumentBatch;

use super::record::{RecordError, TaskRecord};
use crate::engine::errors::EngineError;
use crate::engine::index_map::Names;

/// Address space of the task database; the file grows as needed. A million tasks take about
/// half a gigabyte.
const MAP_BYTES: usize = 8 << 30;
/// New tasks are refused when the database is fuller than this, so that there is room left to
/// cancel, finish and forget.
const FULL_PERCENT: u64 = 50;
/// Concurrent readers of the task database.
const READERS_MAX: u32 = 1024;
/// Buffer for writing content files, bytes.
const WRITE_BUFFER_BYTES: usize = 256 << 10;

/// Counter of the next task's uid. Stored, so that uids don't come back when tasks are forgotten.
pub const NEXT_TASK: &str = "next-task";
/// Counter of the next batch's uid.
pub const NEXT_BATCH: &str = "next-batch";

/// The task database and the content files.
pub struct Store {
    env: Env<WithoutTls>,
    tasks: Database<U32<BE>, Bytes>,
    counters: Database<Str, U32<BE>>,
    names: Names,
    content: PathBuf,
}

impl Store {
    /// Opens the stores of a data directory, creating them when absent.
    ///
    /// # Errors
    /// When the directory can't be used.
    pub fn open(data: &Path) -> Result<Self, EngineError> {
        let (tasks, content) = (data.join("tasks"), data.join("content"));
        fs::create_dir_all(&tasks)?;
        fs::create_dir_all(&content)?;
        let mut options = EnvOpenOptions::new().read_txn_without_tls();
        options.map_size(MAP_BYTES).max_dbs(3).max_readers(READERS_MAX);
        // SAFETY: the folder belongs to this process, and LMDB's own lock file guards it against
        // another one of ours.
        #[allow(unsafe_code)]
        let env = unsafe { options.open(&tasks)? };
        let mut wtxn = env.write_txn()?;
        let store = Self {
            tasks: env.create_database(&mut wtxn, Some("tasks"))?,
            counters: env.create_database(&mut wtxn, Some("counters"))?,
            names: env.create_database(&mut wtxn, Some("index-names"))?,
            env: env.clone(),
            content,
        };
        wtxn.commit()?;
        Ok(store)
    }

    /// The table of index names, which lives in the same database.
    pub fn names(&self) -> Names {
        self.names
    }

    /// A consistent view.
    ///
    /// # Errors
    /// When the database refuses.
    pub fn read(&self) -> Result<RoTxn<'_, WithoutTls>, EngineError> {
        Ok(self.env.read_txn()?)
    }

    /// The one writer; durable when committed.
    ///
    /// # Errors
    /// When the database refuses.
    pub fn write(&self) -> Result<RwTxn<'_>, EngineError> {
        Ok(self.env.write_txn()?)
    }

    /// Whether new tasks must be refused.
    ///
    /// # Errors
    /// When the database refuses.
    pub fn is_full(&self) -> Result<bool, EngineError> {
        let used = self.env.non_free_pages_size()?;
        Ok(used.saturating_mul(100) / self.env.info().map_size as u64 > FULL_PERCENT)
    }

    /// Size on disk of the task database, and how much of it is in use, bytes.
    ///
    /// # Errors
    /// When the database refuses.
    pub fn sizes(&self) -> Result<(u64, u64), EngineError> {
        Ok((self.env.real_disk_size()?, self.env.non_free_pages_size()?))
    }

    /// How many tasks are stored.
    ///
    /// # Errors
    /// When the database refuses.
    pub fn count(&self, rtxn: &RoTxn<'_>) -> Result<u64, EngineError> {
        Ok(self.tasks.len(rtxn)?)
    }

    /// One task.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn get(&self, rtxn: &RoTxn<'_>, uid: u32) -> Result<Option<TaskRecord>, EngineError> {
        match self.tasks.get(rtxn, &uid)? {
            None => Ok(None),
            Some(bytes) => Ok(Some(decode(bytes)?)),
        }
    }

    /// Stores a task.
    ///
    /// # Errors
    /// When the database refuses.
    pub fn put(&self, wtxn: &mut RwTxn<'_>, task: &TaskRecord) -> Result<(), EngineError> {
        let bytes = task.encode().map_err(|_| EngineError::Corrupted)?;
        Ok(self.tasks.put(wtxn, &task.uid, &bytes)?)
    }

    /// Forgets a task.
    ///
    /// # Errors
    /// When the database refuses.
    pub fn remove(&self, wtxn: &mut RwTxn<'_>, uid: u32) -> Result<bool, EngineError> {
        Ok(self.tasks.delete(wtxn, &uid)?)
    }

    /// Shows every task to `see`, by uid, oldest first or newest first, until it says `false`.
    ///
    /// # Errors
    /// When a task can't be read.
    pub fn scan(
        &self,
        rtxn: &RoTxn<'_>,
        newest_first: bool,
        mut see: impl FnMut(TaskRecord) -> bool,
    ) -> Result<(), EngineError> {
        if newest_first {
            for entry in self.tasks.rev_iter(rtxn)? {
                if !see(decode(entry?.1)?) {
                    break;
                }
            }
        } else {
            for entry in self.tasks.iter(rtxn)? {
                if !see(decode(entry?.1)?) {
                    break;
                }
            }
        }
        Ok(())
    }

    /// A counter; 0 before it was ever set.
    ///
    /// # Errors
    /// When the database refuses.
    pub fn counter(&self, rtxn: &RoTxn<'_>, name: &str) -> Result<u32, EngineError> {
        Ok(self.counters.get(rtxn, name)?.unwrap_or(0))
    }

    /// Sets a counter.
    ///
    /// # Errors
    /// When the database refuses.
    pub fn set_counter(
        &self,
        wtxn: &mut RwTxn<'_>,
        name: &str,
        value: u32,
    ) -> Result<(), EngineError> {
        Ok(self.counters.put(wtxn, name, &value)?)
    }

    /// Writes the documents of a task and makes them durable. Returns the file's name and size.
    ///
    /// # Errors
    /// When the disk refuses; nothing is left behind then.
    pub fn write_content(
        &self,
        documents: &DocumentBatch,
        seams: &Seams,
    ) -> Result<(String, u64), EngineError> {
        let name = seams.entropy.uuid();
        let path = self.content.join(&name);
        match write_documents(&path, documents) {
            Ok(bytes) => {
                File::open(&self.content)?.sync_all()?;
                Ok((name, bytes))
            }
            Err(error) => {
                let _ = fs::remove_file(&path);
                Err(error.into())
            }
        }
    }

    /// Where a content file is.
    pub fn content_path(&self, name: &str) -> PathBuf {
        self.content.join(name)
    }

    /// Removes a content file; a failure is logged, and made good at the next start.
    pub fn remove_content(&self, name: &str) {
        if let Err(error) = fs::remove_file(self.content.join(name)) {
            tracing::warn!(content = name, %error, "could not remove a content file");
        }
    }

    /// Removes the content files that nobody needs.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn sweep_content(&self, needed: &BTreeSet<String>) -> Result<(), EngineError> {
        for entry in fs::read_dir(&self.content)? {
            let entry = entry?;
            if !entry.file_name().to_str().is_some_and(|name| needed.contains(name)) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

fn decode(bytes: &[u8]) -> Result<TaskRecord, EngineError> {
    TaskRecord::decode(bytes).map_err(|error: RecordError| {
        tracing::error!(%error, "a stored task can't be read");
        EngineError::Corrupted
    })
}

fn write_documents(path: &Path, documents: &DocumentBatch) -> io::Result<u64> {
    let mut file = BufWriter::with_capacity(WRITE_BUFFER_BYTES, File::create_new(path)?);
    let mut bytes = 0;
    for document in documents.iter() {
        file.write_all(document)?;
        file.write_all(b"\n")?;
        bytes += document.len() as u64 + 1;
    }
    file.into_inner().map_err(|error| error.into_error())?.sync_all()?;
    Ok(bytes)
}
