//! Changes on top of an engine, not yet committed.

use std::collections::BTreeMap;
use std::collections::btree_map::Range;

use super::{ALL_KEYS, Batch, Change, Direction, Engine, EngineError, KeyRange, Pair, Table};

/// Reads an engine as if the changes made here were in it already, and becomes the
/// [`Batch`] that puts them there. State-machine commands run against this.
///
/// Isolation is the caller's: the engine must not change underneath (there is one writer of
/// the replicated state, the Raft state machine).
#[derive(Debug)]
pub struct Tx<'engine> {
    engine: &'engine dyn Engine,
    changes: BTreeMap<Vec<u8>, Change>,
}

impl<'engine> Tx<'engine> {
    /// No changes yet.
    pub fn new(engine: &'engine dyn Engine) -> Self {
        Self { engine, changes: BTreeMap::new() }
    }

    /// The value of `key` in `table`, own changes included.
    ///
    /// # Errors
    /// See [`EngineError`].
    pub fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        match self.changes.get(&table.tree_key(key)) {
            Some(Change::Put(value)) => Ok(Some(value.clone())),
            Some(Change::Delete) => Ok(None),
            None => self.engine.get(table, key),
        }
    }

    /// Sets `key` of `table`.
    pub fn put(&mut self, table: Table, key: &[u8], value: impl Into<Vec<u8>>) {
        self.changes.insert(table.tree_key(key), Change::Put(value.into()));
    }

    /// Removes `key` of `table`; absent is fine.
    pub fn delete(&mut self, table: Table, key: &[u8]) {
        self.changes.insert(table.tree_key(key), Change::Delete);
    }

    /// As [`Engine::scan`], own changes included.
    ///
    /// # Errors
    /// See [`EngineError`].
    pub fn scan(
        &self,
        table: Table,
        range: KeyRange,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<Pair>, EngineError> {
        let Some(tree_range) = table.tree_range(&range) else { return Ok(Vec::new()) };
        let changes = self.changes.range(tree_range);
        let deleted = changes.clone().filter(|(_, change)| **change == Change::Delete).count();
        // Each deletion here can hide one stored pair, so ask for that many more.
        let stored = self.engine.scan(table, range, direction, limit.saturating_add(deleted))?;
        Ok(merge(stored, changes, direction, limit))
    }

    /// The pair of `table` with the largest key.
    ///
    /// # Errors
    /// See [`EngineError`].
    pub fn last(&self, table: Table) -> Result<Option<Pair>, EngineError> {
        Ok(self.scan(table, ALL_KEYS, Direction::Backward, 1)?.pop())
    }

    /// The changes as one batch, in key order.
    pub fn into_batch(self) -> Batch {
        Batch { changes: self.changes.into_iter().collect() }
    }
}

/// Both lists in `direction`; a change stands for the stored pair of the same key.
fn merge(
    stored: Vec<Pair>,
    changes: Range<'_, Vec<u8>, Change>,
    direction: Direction,
    limit: usize,
) -> Vec<Pair> {
    let changes: Vec<(&[u8], &Change)> = match direction {
        Direction::Forward => changes.map(own_key).collect(),
        Direction::Backward => changes.rev().map(own_key).collect(),
    };
    let precedes = |a: &[u8], b: &[u8]| match direction {
        Direction::Forward => a < b,
        Direction::Backward => a > b,
    };
    let mut merged = Vec::with_capacity(limit.min(stored.len() + changes.len()));
    let mut stored = stored.into_iter().peekable();
    let mut changes = changes.into_iter().peekable();
    while merged.len() < limit {
        let stored_first = match (stored.peek(), changes.peek()) {
            (None, None) => break,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some((key, _)), Some((changed, _))) => precedes(key, changed),
        };
        if stored_first {
            merged.extend(stored.next());
        } else if let Some((key, change)) = changes.next() {
            stored.next_if(|(stored_key, _)| stored_key == key);
            if let Change::Put(value) = change {
                merged.push((key.to_vec(), value.clone()));
            }
        }
    }
    merged
}

fn own_key<'change>(
    (key, change): (&'change Vec<u8>, &'change Change),
) -> (&'change [u8], &'change Change) {
    (key.get(1..).unwrap_or_default(), change)
}
