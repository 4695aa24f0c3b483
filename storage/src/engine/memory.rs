//! The engine in memory, with a disk that forgets.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Batch, Change, Direction, Durability, Engine, EngineError, KeyRange, Pair, Table};

/// Ordered tables in memory. Clones share the content, as two handles on one disk would, so
/// that a test can keep one, crash it, and start a pod on it again.
#[derive(Clone, Debug, Default)]
pub struct MemoryEngine {
    content: Arc<Mutex<Content>>,
}

#[derive(Debug, Default)]
struct Content {
    /// What readers see: `durable` with `unsynced` applied in order.
    visible: BTreeMap<Vec<u8>, Vec<u8>>,
    durable: BTreeMap<Vec<u8>, Vec<u8>>,
    unsynced: Vec<Batch>,
    sync_count: u64,
    sync_fails: bool,
    sealed: bool,
}

impl MemoryEngine {
    /// Empty tables.
    pub fn new() -> Self {
        Self::default()
    }

    /// Loses the commits that were not synced, except the first `keep_unsynced` of them: a
    /// real disk may have written some, but always the earliest. Also unseals.
    pub fn crash(&self, keep_unsynced: usize) {
        let mut content = self.lock();
        let content = &mut *content;
        for batch in content.unsynced.drain(..).take(keep_unsynced) {
            apply(&mut content.durable, &batch);
        }
        content.visible = content.durable.clone();
        content.sealed = false;
        content.sync_fails = false;
    }

    /// Makes every later sync fail (a full or broken disk), until [`MemoryEngine::crash`].
    pub fn fail_syncs(&self) {
        self.lock().sync_fails = true;
    }

    /// The number of syncs made.
    pub fn sync_count(&self) -> u64 {
        self.lock().sync_count
    }

    fn lock(&self) -> MutexGuard<'_, Content> {
        // Every critical section leaves the content whole, so a poisoned lock is harmless.
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn apply(map: &mut BTreeMap<Vec<u8>, Vec<u8>>, batch: &Batch) {
    for (key, change) in &batch.changes {
        match change {
            Change::Put(value) => {
                map.insert(key.clone(), value.clone());
            }
            Change::Delete => {
                map.remove(key);
            }
        }
    }
}

impl Engine for MemoryEngine {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        Ok(self.lock().visible.get(&table.tree_key(key)).cloned())
    }

    fn scan(
        &self,
        table: Table,
        range: KeyRange,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<Pair>, EngineError> {
        let Some(range) = table.tree_range(&range) else { return Ok(Vec::new()) };
        let content = self.lock();
        let found = content
            .visible
            .range(range)
            .map(|(key, value)| (key.get(1..).unwrap_or_default().to_vec(), value.clone()));
        Ok(match direction {
            Direction::Forward => found.take(limit).collect(),
            Direction::Backward => found.rev().take(limit).collect(),
        })
    }

    fn commit(&self, batch: Batch, durability: Durability) -> Result<(), EngineError> {
        let mut content = self.lock();
        let content = &mut *content;
        if content.sealed {
            return Err(EngineError::Sealed);
        }
        apply(&mut content.visible, &batch);
        content.unsynced.push(batch);
        if durability == Durability::Lazy {
            return Ok(());
        }
        content.sync_count += 1;
        if content.sync_fails {
            content.sealed = true;
            return Err(io::Error::other("simulated sync failure").into());
        }
        for batch in content.unsynced.drain(..) {
            apply(&mut content.durable, &batch);
        }
        Ok(())
    }

    fn bytes_on_disk(&self) -> Result<u64, EngineError> {
        let content = self.lock();
        Ok(content.durable.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum())
    }

    fn blocks(&self) -> bool {
        false
    }
}
