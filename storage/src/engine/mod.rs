//! Ordered tables on disk, behind one narrow trait.
//!
//! All tables live in one ordered tree, told apart by a leading [`Table`] byte, so that a
//! [`Batch`] over several tables is atomic for readers and for crashes.
//!
//! Durability: every commit is ordered after those before it. A crash forgets a *suffix* of
//! the commits, never one out of the middle, and nothing at or before a [`Durability::Synced`]
//! commit that returned. So a lazy commit is enough for whatever can be derived again from
//! earlier synced ones (the applied state from the Raft log).
//!
//! | implementation | for |
//! |---|---|
//! | [`SledEngine`] | production |
//! | [`MemoryEngine`] | tests and simulation: `crash()` forgets what was not synced |

mod memory;
mod sled_engine;
mod sync_gate;
mod tx;

#[cfg(test)]
mod suite;

use std::fmt::Debug;
use std::io;
use std::ops::Bound;

pub use memory::MemoryEngine;
pub use sled_engine::SledEngine;
pub use tx::Tx;

/// A key and its value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// A range of keys within one table.
pub type KeyRange = (Bound<Vec<u8>>, Bound<Vec<u8>>);

/// All keys of a table.
pub const ALL_KEYS: KeyRange = (Bound::Unbounded, Bound::Unbounded);

/// The keys that begin with `prefix`.
pub fn prefix_range(prefix: &[u8]) -> KeyRange {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return (Bound::Included(prefix.to_vec()), Bound::Excluded(end));
        }
    }
    (Bound::Included(prefix.to_vec()), Bound::Unbounded)
}

/// The number of a table; on disk the first byte of each of its keys, so never reused.
///
/// Numbers in `1..240` are replicated state, which snapshots carry whole; those from
/// [`Table::LOCAL_MIN`] to 254 belong to this pod alone (Raft's own records). 0 and 255 stay
/// free, so that every table has an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Table(pub u8);

impl Table {
    /// The first number that is not replicated.
    pub const LOCAL_MIN: u8 = 240;

    /// Whether the table is replicated state.
    pub const fn is_state(self) -> bool {
        self.0 > 0 && self.0 < Self::LOCAL_MIN
    }

    /// The key of the one tree.
    fn tree_key(self, key: &[u8]) -> Vec<u8> {
        let mut full = Vec::with_capacity(1 + key.len());
        full.push(self.0);
        full.extend_from_slice(key);
        full
    }

    /// The range of the one tree that holds `range` of this table; `None` when it is empty.
    fn tree_range(self, range: &KeyRange) -> Option<KeyRange> {
        let low = match &range.0 {
            Bound::Included(key) => Bound::Included(self.tree_key(key)),
            Bound::Excluded(key) => Bound::Excluded(self.tree_key(key)),
            Bound::Unbounded => Bound::Included(vec![self.0]),
        };
        let high = match &range.1 {
            Bound::Included(key) => Bound::Included(self.tree_key(key)),
            Bound::Excluded(key) => Bound::Excluded(self.tree_key(key)),
            Bound::Unbounded => Bound::Excluded(vec![self.0.saturating_add(1)]),
        };
        (!is_empty(&low, &high)).then_some((low, high))
    }
}

/// Whether no key can lie between the bounds (ordered maps panic on such a range).
fn is_empty<K: Ord>(low: &Bound<K>, high: &Bound<K>) -> bool {
    match (low, high) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(low), Bound::Included(high)) => low > high,
        (
            Bound::Included(low) | Bound::Excluded(low),
            Bound::Included(high) | Bound::Excluded(high),
        ) => low >= high,
    }
}

/// The direction of a scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the smallest key up.
    Forward,
    /// From the largest key down.
    Backward,
}

/// When a commit must be on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Before the commit returns, together with every commit before it.
    Synced,
    /// At the next synced commit, or whenever the engine likes.
    Lazy,
}

/// One change of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Change {
    Put(Vec<u8>),
    Delete,
}

/// Changes that become visible and durable together. Later changes of a key win.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// (full key of the tree, change), in order.
    changes: Vec<(Vec<u8>, Change)>,
}

impl Batch {
    /// A batch without changes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets `key` of `table`.
    pub fn put(&mut self, table: Table, key: &[u8], value: impl Into<Vec<u8>>) {
        self.changes.push((table.tree_key(key), Change::Put(value.into())));
    }

    /// Removes `key` of `table`; absent is fine.
    pub fn delete(&mut self, table: Table, key: &[u8]) {
        self.changes.push((table.tree_key(key), Change::Delete));
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// The number of changes.
    pub fn len(&self) -> usize {
        self.changes.len()
    }
}

/// Why an engine could not answer.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The disk failed or is full.
    #[error("disk failed: {0}")]
    Io(#[from] io::Error),
    /// What is on the disk is not what was written.
    #[error("stored data is corrupt: {0}")]
    Corrupt(String),
    /// An earlier sync failed. What the disk holds is unknown, so nothing more is accepted
    /// until the process starts again and reads it back.
    #[error("an earlier sync failed, the store accepts no more writes")]
    Sealed,
}

/// Ordered tables with atomic batches.
///
/// Calls block on the disk when [`Engine::blocks`] says so; async callers then go through
/// `Tasks::spawn_blocking` for commits and long scans. Point reads are served from a cache
/// nearly always and may be made anywhere.
pub trait Engine: Send + Sync + Debug + 'static {
    /// The value of `key` in `table`.
    ///
    /// # Errors
    /// See [`EngineError`].
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError>;

    /// At most `limit` pairs of `range`, beginning at the end that `direction` names.
    ///
    /// # Errors
    /// See [`EngineError`].
    fn scan(
        &self,
        table: Table,
        range: KeyRange,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<Pair>, EngineError>;

    /// Makes `batch` visible at once, and durable as asked. An empty synced batch makes
    /// everything before it durable.
    ///
    /// # Errors
    /// See [`EngineError`]. After an error of a synced commit its batch may be visible, and
    /// whether it is durable is unknown; the engine refuses all later commits.
    fn commit(&self, batch: Batch, durability: Durability) -> Result<(), EngineError>;

    /// Bytes taken on disk.
    ///
    /// # Errors
    /// See [`EngineError`].
    fn bytes_on_disk(&self) -> Result<u64, EngineError>;

    /// Whether calls may wait for a disk. Engines in memory say no, and are then called in
    /// place, which keeps the simulation deterministic.
    fn blocks(&self) -> bool {
        true
    }
}

/// The last pair of `table`.
///
/// # Errors
/// See [`EngineError`].
pub fn last(engine: &dyn Engine, table: Table) -> Result<Option<Pair>, EngineError> {
    Ok(engine.scan(table, ALL_KEYS, Direction::Backward, 1)?.pop())
}
