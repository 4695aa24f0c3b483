//! Carrying out a planned batch, up to but not including the end of its tasks.

use std::collections::BTreeSet;
use std::path::PathBuf;

use milli_core::Index;
use milli_core::heed::RwTxn;
use miroir_wire::error::{ApiError, ResponseError};
use miroir_wire::index::{NameSwap, check_names_fit};

use super::batch::BatchKind;
use super::record::{Counts, TaskRecord, Work};
use super::store::Store;
use crate::engine::apply::{Deletion, Indexer, Operation, Outcome};
use crate::engine::errors::EngineError;
use crate::engine::index_map::IndexMap;

/// How one task ends.
pub type End = Result<Counts, ResponseError>;

/// What a batch comes to. Nothing of it is durable before [`Change`]s and ends are committed
/// together, except for what was written in the index itself.
pub struct Done {
    /// The end of each task, in the batch's order.
    pub ends: Vec<End>,
    /// What else has to be committed.
    pub changes: Vec<Change>,
}

/// A change to names or tasks that is committed together with the end of the batch.
#[derive(Clone, Debug)]
pub enum Change {
    /// A new index gets its name.
    Name {
        /// The name.
        index: String,
        /// Its folder.
        folder: String,
    },
    /// An index loses its name; its folder is removed after the commit.
    Unname {
        /// The name.
        index: String,
        /// Its folder.
        folder: String,
    },
    /// Two indexes exchange their names, or one is renamed, and the earlier tasks of both follow.
    Swap(NameSwap),
    /// Waiting tasks are cancelled.
    Cancel {
        /// The tasks.
        uids: Vec<u32>,
        /// On behalf of this one.
        by: u32,
    },
    /// Ended tasks are forgotten.
    Forget {
        /// The tasks.
        uids: Vec<u32>,
    },
}

/// The index a batch works on, if it works on one.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its name.
    pub name: String,
    /// Its folder; `None` when there is no such index.
    pub folder: Option<String>,
    /// Whether this batch made it.
    pub is_new: bool,
}

/// Where a batch is carried out.
pub struct Place<'a> {
    /// Tasks and content files.
    pub store: &'a Store,
    /// Indexes.
    pub indexes: &'a IndexMap,
    /// Threads and limits.
    pub indexer: &'a Indexer,
    /// Tasks that have not ended, the batch's own included.
    pub waiting: &'a BTreeSet<u32>,
}

impl Place<'_> {
    /// Carries out a batch on one index.
    ///
    /// # Errors
    /// An error fails every task of the batch, except for `Aborted` and `MapFull`, after which
    /// the batch can be tried again.
    pub fn execute(
        &self,
        kind: &BatchKind,
        tasks: &[TaskRecord],
        target: &Target,
    ) -> Result<Vec<End>, EngineError> {
        if let BatchKind::DeleteIndex = kind {
            return Ok(end_with_deletion(tasks, self.count_documents(target)));
        }
        let index = match &target.folder {
            Some(folder) => self.indexes.open(folder, &target.name)?,
            None => return Err(ApiError::index_not_found(&target.name).into()),
        };
        if let [task @ TaskRecord { work: Work::Edit { .. }, .. }] = tasks {
            return Ok(vec![Ok(self.edit(task, &target.name, &index)?)]);
        }
        let mut wtxn = index.write_txn()?;
        let ends = self.write(kind, tasks, target, &index, &mut wtxn)?;
        wtxn.commit()?;
        Ok(ends)
    }

    fn write<'i>(
        &self,
        kind: &BatchKind,
        tasks: &[TaskRecord],
        target: &Target,
        index: &'i Index,
        wtxn: &mut RwTxn<'i>,
    ) -> Result<Vec<End>, EngineError> {
        let name = &target.name;
        match kind {
            BatchKind::Documents { primary_key } => {
                let paths: Vec<PathBuf> = tasks
                    .iter()
                    .map(|task| self.store.content_path(task.work.content().unwrap_or_default()))
                    .collect();
                let operations = tasks.iter().zip(&paths).map(|(task, path)| match &task.work {
                    Work::Documents { merge, .. } => {
                        Ok(Operation::Write { content: path, merge: *merge })
                    }
                    Work::DeleteIds { ids, .. } => Ok(Operation::Delete(ids)),
                    _ => Err(EngineError::Corrupted),
                });
                let operations = operations.collect::<Result<Vec<_>, _>>()?;
                let primary_key = primary_key.as_deref();
                let outcomes =
                    self.indexer.apply_documents(wtxn, index, name, &operations, primary_key)?;
                Ok(ends_of(tasks, outcomes))
            }
            BatchKind::Deletions { .. } => {
                let deletions = tasks.iter().map(|task| match &task.work {
                    Work::DeleteIds { ids, .. } => Ok(Deletion::Ids(ids)),
                    Work::DeleteFilter { filter, .. } => Ok(Deletion::Filter(filter)),
                    _ => Err(EngineError::Corrupted),
                });
                let deletions = deletions.collect::<Result<Vec<_>, _>>()?;
                let outcomes = self.indexer.apply_deletions(wtxn, index, name, &deletions)?;
                Ok(ends_of(tasks, outcomes))
            }
            BatchKind::Clear => {
                let deleted = self.indexer.apply_clear(wtxn, index, name)?;
                Ok(end_with_clear(tasks, deleted))
            }
            BatchKind::Settings => {
                self.indexer.apply_settings(wtxn, index, name, &patches(tasks))?;
                Ok(tasks.iter().map(|_| Ok(Counts::default())).collect())
            }
            BatchKind::ClearAndSettings => {
                let deleted = self.indexer.apply_clear(wtxn, index, name)?;
                self.indexer.apply_settings(wtxn, index, name, &patches(tasks))?;
                Ok(end_with_clear(tasks, deleted))
            }
            BatchKind::Alone => {
                for task in tasks {
                    if let Work::CreateIndex { primary_key: Some(key), .. }
                    | Work::UpdateIndex { primary_key: Some(key), .. } = &task.work
                    {
                        self.indexer.apply_primary_key(wtxn, index, name, key)?;
                    }
                }
                Ok(tasks.iter().map(|_| Ok(Counts::default())).collect())
            }
            BatchKind::DeleteIndex => Err(EngineError::Corrupted),
        }
    }

    /// How many documents there were; 0 for an index that can't be read.
    fn count_documents(&self, target: &Target) -> u64 {
        let count = || {
            let folder = target.folder.as_ref()?;
            let index = self.indexes.open(folder, &target.name).ok()?;
            let rtxn = index.read_txn().ok()?;
            index.number_of_documents(&rtxn).ok()
        };
        count().unwrap_or(0)
    }

    /// Checks a swap; its pairs are committed with the task.
    ///
    /// # Errors
    /// `index_not_found`, `index_already_exists`, naming all that don't fit.
    pub fn plan_swap(&self, swaps: &[NameSwap]) -> Result<Done, EngineError> {
        let rtxn = self.store.read()?;
        let mut known = BTreeSet::new();
        for name in swaps.iter().flat_map(|swap| [&swap.names.0, &swap.names.1]) {
            if self.indexes.folder_of(&rtxn, name)?.is_some() {
                known.insert(name.as_str());
            }
        }
        check_names_fit(swaps, |name| known.contains(name))?;
        let changes = swaps.iter().cloned().map(Change::Swap).collect();
        Ok(Done { ends: vec![Ok(Counts::default())], changes })
    }

    /// Renames an index, and sets its primary key, if that is asked for too. One that is refused fails
    /// the task, but leaves the new name, as in Meilisearch.
    ///
    /// # Errors
    /// `index_not_found`, `index_already_exists`; then nothing is changed.
    pub fn plan_renaming(
        &self,
        index: &str,
        new_name: &str,
        primary_key: Option<&str>,
    ) -> Result<Done, EngineError> {
        let rtxn = self.store.read()?;
        let Some(folder) = self.indexes.folder_of(&rtxn, index)? else {
            return Err(ApiError::index_not_found(index).into());
        };
        if self.indexes.folder_of(&rtxn, new_name)?.is_some() {
            return Err(ApiError::index_already_exists(new_name).into());
        }
        drop(rtxn);
        let end = match primary_key {
            None => Ok(()),
            Some(key) => self.set_primary_key(&folder, new_name, key),
        };
        let end = match end {
            Ok(()) => Ok(Counts::default()),
            // Tried again.
            Err(error @ (EngineError::Aborted | EngineError::MapFull)) => return Err(error),
            Err(error) => Err(ResponseError::from(error.to_api())),
        };
        let names = (index.to_owned(), new_name.to_owned());
        let change = Change::Swap(NameSwap { names, rename: true });
        Ok(Done { ends: vec![end], changes: vec![change] })
    }

    fn set_primary_key(&self, folder: &str, name: &str, key: &str) -> Result<(), EngineError> {
        let index = self.indexes.open(folder, name)?;
        let mut wtxn = index.write_txn()?;
        self.indexer.apply_primary_key(&mut wtxn, &index, name, key)?;
        Ok(wtxn.commit()?)
    }

    /// Cancels what still waits of the tasks that matched.
    pub fn plan_cancelation(&self, by: u32, matched: &[u32]) -> Done {
        let waits = |uid: &u32| *uid < by && self.waiting.contains(uid);
        let uids: Vec<u32> = matched.iter().copied().filter(waits).collect();
        let counts = Counts { tasks: Some(uids.len() as u64), ..Counts::default() };
        Done { ends: vec![Ok(counts)], changes: vec![Change::Cancel { uids, by }] }
    }

    /// Forgets what has ended of the tasks that matched; a task counts for the first that took it.
    ///
    /// # Errors
    /// When the store can't be read.
    pub fn plan_forgetting(&self, tasks: &[TaskRecord]) -> Result<Done, EngineError> {
        let rtxn = self.store.read()?;
        let mut taken = BTreeSet::new();
        let mut ends = Vec::with_capacity(tasks.len());
        for task in tasks {
            let Work::Forget { tasks: matched, .. } = &task.work else {
                return Err(EngineError::Corrupted);
            };
            let before = taken.len();
            for uid in matched {
                let ended = !self.waiting.contains(uid);
                if ended && !taken.contains(uid) && self.store.get(&rtxn, *uid)?.is_some() {
                    taken.insert(*uid);
                }
            }
            let forgotten = (taken.len() - before) as u64;
            ends.push(Ok(Counts { tasks: Some(forgotten), ..Counts::default() }));
        }
        let uids = taken.into_iter().collect();
        Ok(Done { ends, changes: vec![Change::Forget { uids }] })
    }
}

fn patches(tasks: &[TaskRecord]) -> Vec<&serde_json::Value> {
    tasks
        .iter()
        .filter_map(|task| match &task.work {
            Work::Settings { patch, .. } => Some(patch),
            _ => None,
        })
        .collect()
}

fn ends_of(tasks: &[TaskRecord], outcomes: Vec<Outcome>) -> Vec<End> {
    let ends = tasks.iter().zip(outcomes).map(|(task, outcome)| {
        outcome.map(|count| match &task.work {
            Work::Documents { .. } => Counts { indexed: Some(count), ..Counts::default() },
            _ => Counts { deleted: Some(count), ..Counts::default() },
        })
    });
    ends.collect()
}

fn end_with_deletion(tasks: &[TaskRecord], documents: u64) -> Vec<End> {
    let ends = tasks.iter().map(|task| {
        Ok(match &task.work {
            Work::DeleteIndex { .. } => Counts { deleted: Some(documents), ..Counts::default() },
            Work::Clear { .. } => Counts::default(),
            _ => Counts::NOTHING,
        })
    });
    ends.collect()
}

/// The first clear did it; the later ones found nothing, and for what came before nobody counted.
fn end_with_clear(tasks: &[TaskRecord], deleted: u64) -> Vec<End> {
    let mut left = deleted;
    let ends = tasks.iter().map(|task| {
        Ok(match &task.work {
            Work::Clear { .. } => {
                Counts { deleted: Some(std::mem::take(&mut left)), ..Counts::default() }
            }
            _ => Counts::default(),
        })
    });
    ends.collect()
}
