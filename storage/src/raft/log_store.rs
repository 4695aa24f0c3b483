//! Raft's log, vote and marks, over the engine.
//!
//! | table | key | value |
//! |---|---|---|
//! | `RAFT` | `vote`, `committed`, `purged` | the vote, the two log positions |
//! | `RAFT` | `raft_id` | this pod's identity |
//! | `LOG` | index, big-endian | entry |
//!
//! Votes and entries are synced before they count. Purging and truncating are lazy: the engine
//! forgets a suffix of its commits at most, so a crash that brings purged entries back also
//! brings back the state from before they were applied.

use std::fmt::Debug;
use std::ops::{Bound, RangeBounds};

use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{EntryPayload, LogState, OptionalSend, RaftLogReader, Vote};

use miroir_seams::planted::{self, Bug};

use super::store::{Store, StoreError};
use super::{Entry, LOG, LogId, RAFT, RaftId, StorageError, StorageIoError, TypeConfig};
use crate::engine::{Batch, Direction, Durability, Engine, KeyRange, last};
use crate::tables::records::{Record, RecordError, decode, encode};

const VOTE: &[u8] = b"vote";
const COMMITTED: &[u8] = b"committed";
const PURGED: &[u8] = b"purged";
const RAFT_ID: &[u8] = b"raft_id";

impl Record for Entry {
    const VERSION: u8 = 1;
    const NAME: &'static str = "raft entry";
}

impl Record for Vote<RaftId> {
    const VERSION: u8 = 1;
    const NAME: &'static str = "raft vote";
}

impl Record for LogId {
    const VERSION: u8 = 1;
    const NAME: &'static str = "raft log position";
}

impl Record for RaftId {
    const VERSION: u8 = 1;
    const NAME: &'static str = "raft id";
}

/// Byte order is numeric order.
fn log_key(index: u64) -> [u8; 8] {
    index.to_be_bytes()
}

fn log_range(range: &impl RangeBounds<u64>) -> KeyRange {
    let key = |bound: Bound<&u64>| bound.map(|index| log_key(*index).to_vec());
    (key(range.start_bound()), key(range.end_bound()))
}

fn read<R: Record>(engine: &dyn Engine, key: &[u8]) -> Result<Option<R>, StoreError> {
    match engine.get(RAFT, key)? {
        Some(bytes) => Ok(Some(decode(&bytes)?)),
        None => Ok(None),
    }
}

/// The log store of one pod. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct LogStore {
    store: Store,
}

impl LogStore {
    pub(crate) fn new(store: Store) -> Self {
        Self { store }
    }

    /// The identity that this disk belongs to; `new` makes one when it had none yet.
    pub(crate) async fn claim_identity(
        &self,
        new: impl FnOnce() -> RaftId + Send + 'static,
    ) -> Result<RaftId, StoreError> {
        self.store
            .run(move |engine| {
                if let Some(stored) = read(engine, RAFT_ID)? {
                    return Ok(stored);
                }
                let id = new();
                let mut batch = Batch::new();
                batch.put(RAFT, RAFT_ID, encode(&id)?);
                engine.commit(batch, Durability::Synced)?;
                Ok(id)
            })
            .await
    }

    async fn put<R: Record>(
        &self,
        key: &'static [u8],
        record: &R,
        durability: Durability,
    ) -> Result<(), StoreError> {
        let mut batch = Batch::new();
        batch.put(RAFT, key, encode(record)?);
        match durability {
            Durability::Synced => {
                self.store.run(move |engine| Ok(engine.commit(batch, durability)?)).await
            }
            // A lazy commit doesn't wait for the disk.
            Durability::Lazy => Ok(self.store.engine.commit(batch, durability)?),
        }
    }

    /// Removes the entries in `range`, together with the changes already in `batch`.
    async fn remove(
        &self,
        range: impl RangeBounds<u64>,
        mut batch: Batch,
    ) -> Result<(), StoreError> {
        let range = log_range(&range);
        self.store
            .run(move |engine| {
                for (key, _) in engine.scan(LOG, range, Direction::Forward, usize::MAX)? {
                    batch.delete(LOG, &key);
                }
                Ok(engine.commit(batch, Durability::Lazy)?)
            })
            .await
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> Result<Vec<Entry>, StorageError>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let range = log_range(&range);
        let read = move |engine: &dyn Engine| -> Result<Vec<Entry>, StoreError> {
            let found = engine.scan(LOG, range, Direction::Forward, usize::MAX)?;
            let entries: Result<Vec<Entry>, RecordError> =
                found.iter().map(|(_, bytes)| decode(bytes)).collect();
            Ok(entries?)
        };
        self.store.run(read).await.map_err(|error| StorageIoError::read_logs(&error).into())
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError> {
        let read = |engine: &dyn Engine| -> Result<LogState<TypeConfig>, StoreError> {
            let last_purged_log_id: Option<LogId> = read(engine, PURGED)?;
            let last_log_id = match last(engine, LOG)? {
                Some((_, bytes)) => Some(decode::<Entry>(&bytes)?.log_id),
                None => last_purged_log_id,
            };
            Ok(LogState { last_purged_log_id, last_log_id })
        };
        self.store.run(read).await.map_err(|error| StorageIoError::read_logs(&error).into())
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<RaftId>) -> Result<(), StorageError> {
        let saved = self.put(VOTE, vote, Durability::Synced).await;
        saved.map_err(|error| StorageIoError::write_vote(&error).into())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote<RaftId>>, StorageError> {
        read(self.store.engine.as_ref(), VOTE)
            .map_err(|error| StorageIoError::read_vote(&error).into())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        let saved = match committed {
            Some(position) => self.put(COMMITTED, &position, Durability::Lazy).await,
            None => Ok(()),
        };
        saved.map_err(|error| StorageIoError::write_logs(&error).into())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        read(self.store.engine.as_ref(), COMMITTED)
            .map_err(|error| StorageIoError::read_logs(&error).into())
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: LogFlushed<TypeConfig>,
    ) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut batch = Batch::new();
        for entry in entries {
            if let EntryPayload::Normal(proposal) = &entry.payload {
                proposal.appended.set();
            }
            let bytes = encode(&entry)
                .map_err(|error| StorageIoError::write_log_entry(entry.log_id, &error))?;
            batch.put(LOG, &log_key(entry.log_id.index), bytes);
        }
        let durability = match planted::has(Bug::LogUnsynced) {
            true => Durability::Lazy,
            false => Durability::Synced,
        };
        let written: Result<(), StoreError> =
            self.store.run(move |engine| Ok(engine.commit(batch, durability)?)).await;
        match written {
            Ok(()) => {
                callback.log_io_completed(Ok(()));
                Ok(())
            }
            Err(error) => {
                callback.log_io_completed(Err(std::io::Error::other(error.to_string())));
                Err(StorageIoError::write_logs(&error).into())
            }
        }
    }

    async fn truncate(&mut self, from: LogId) -> Result<(), StorageError> {
        let removed = self.remove(from.index.., Batch::new()).await;
        removed.map_err(|error| StorageIoError::write_logs(&error).into())
    }

    async fn purge(&mut self, through: LogId) -> Result<(), StorageError> {
        let mut batch = Batch::new();
        let mark = encode(&through).map_err(|error| StorageIoError::write_logs(&error))?;
        batch.put(RAFT, PURGED, mark);
        let removed = self.remove(..=through.index, batch).await;
        removed.map_err(|error| StorageIoError::write_logs(&error).into())
    }
}
