//! The engine over sled 0.34.

use std::ops::Bound;
use std::path::Path;

use super::sync_gate::SyncGate;
use super::{Batch, Change, Direction, Durability, Engine, EngineError, KeyRange, Pair, Table};

/// sled's page cache. Small, so that a pod stays far below 100 MB; hot state is in the routing
/// snapshot anyway.
const CACHE_BYTES: u64 = 16 << 20;

/// Ordered tables in a sled database.
///
/// sled's own flush thread is off: lazy commits reach the disk with the next synced one, and
/// concurrent synced commits share an fsync. sled recovers to a prefix of its log, with
/// batches whole, which is what [`Durability`] promises.
#[derive(Debug)]
pub struct SledEngine {
    db: sled::Db,
    gate: SyncGate,
}

impl SledEngine {
    /// Opens the database in `directory`, creating it when absent. Only one process can have
    /// it open.
    ///
    /// # Errors
    /// When the disk fails, the files are corrupt, or another process holds them.
    pub fn open(directory: impl AsRef<Path>) -> Result<Self, EngineError> {
        let db = sled::Config::new()
            .path(directory)
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(None)
            .open()
            .map_err(translate)?;
        Ok(Self { db, gate: SyncGate::default() })
    }
}

impl Engine for SledEngine {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        let found = self.db.get(table.tree_key(key)).map_err(translate)?;
        Ok(found.map(|value| value.to_vec()))
    }

    fn scan(
        &self,
        table: Table,
        range: KeyRange,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<Pair>, EngineError> {
        let Some(range) = table.tree_range(&range) else { return Ok(Vec::new()) };
        let found = self.db.range::<Vec<u8>, (Bound<Vec<u8>>, Bound<Vec<u8>>)>(range);
        match direction {
            Direction::Forward => found.take(limit).map(strip_table).collect(),
            Direction::Backward => found.rev().take(limit).map(strip_table).collect(),
        }
    }

    fn commit(&self, batch: Batch, durability: Durability) -> Result<(), EngineError> {
        self.gate.check_open()?;
        if !batch.is_empty() {
            let mut changes = sled::Batch::default();
            for (key, change) in batch.changes {
                match change {
                    Change::Put(value) => changes.insert(key, value),
                    Change::Delete => changes.remove(key),
                }
            }
            self.db.apply_batch(changes).map_err(translate)?;
        }
        let number = self.gate.note_write();
        match durability {
            Durability::Lazy => Ok(()),
            Durability::Synced => {
                self.gate.sync_through(number, || self.db.flush().map(drop).map_err(translate))
            }
        }
    }

    fn bytes_on_disk(&self) -> Result<u64, EngineError> {
        self.db.size_on_disk().map_err(translate)
    }
}

fn strip_table(pair: sled::Result<(sled::IVec, sled::IVec)>) -> Result<Pair, EngineError> {
    let (key, value) = pair.map_err(translate)?;
    Ok((key.get(1..).unwrap_or_default().to_vec(), value.to_vec()))
}

/// sled's errors in our words.
fn translate(error: sled::Error) -> EngineError {
    match error {
        sled::Error::Io(error) => EngineError::Io(error),
        other => EngineError::Corrupt(other.to_string()),
    }
}
