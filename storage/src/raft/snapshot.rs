//! The state tables as bytes, for a peer that is too far behind the log.
//!
//! Layout, version 1: the version byte; then rows of table number 1, key length 4, value
//! length 4 (little-endian), key, value, in order; then the crc32 of all before, 4.
//!
//! A pod's own snapshot is its state tables, which are durable by themselves: no bytes are
//! kept, they are made when a peer asks. They are built in memory, both here and there.

use crate::engine::{ALL_KEYS, Batch, Direction, Engine, EngineError, KeyRange, Table};
use crate::tables::STATE_TABLES;

const VERSION: u8 = 1;
const CRC_BYTES: usize = 4;
/// Rows read at a time.
const PAGE_ROWS: usize = 1024;

/// Why snapshot bytes were refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SnapshotError {
    #[error("snapshot is damaged")]
    Damaged,
    #[error("snapshot has version {0}, which this version can't read")]
    TooNew(u8),
    #[error("snapshot holds table {0}, which this version doesn't know")]
    UnknownTable(u8),
}

/// Every row of the state tables. The caller sees to it that nothing is applied meanwhile.
pub(super) fn dump(engine: &dyn Engine) -> Result<Vec<u8>, EngineError> {
    let mut bytes = vec![VERSION];
    for table in STATE_TABLES {
        each_row(engine, *table, |key, value| {
            bytes.push(table.0);
            bytes.extend_from_slice(&(key.len() as u32).to_le_bytes());
            bytes.extend_from_slice(&(value.len() as u32).to_le_bytes());
            bytes.extend_from_slice(key);
            bytes.extend_from_slice(value);
        })?;
    }
    let crc = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    Ok(bytes)
}

/// The changes that put the rows of `bytes` in the place of those in `engine`.
pub(super) fn replacement(engine: &dyn Engine, bytes: &[u8]) -> Result<Batch, ReplaceError> {
    let rows = parse(bytes)?;
    let mut batch = Batch::new();
    for table in STATE_TABLES {
        each_row(engine, *table, |key, _| batch.delete(*table, key))?;
    }
    for (table, key, value) in rows {
        batch.put(table, key, value);
    }
    Ok(batch)
}

/// Why a snapshot could not be installed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReplaceError {
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error(transparent)]
    Engine(#[from] EngineError),
}

fn each_row(
    engine: &dyn Engine,
    table: Table,
    mut visit: impl FnMut(&[u8], &[u8]),
) -> Result<(), EngineError> {
    let mut range: KeyRange = ALL_KEYS;
    loop {
        let page = engine.scan(table, range, Direction::Forward, PAGE_ROWS)?;
        for (key, value) in &page {
            visit(key, value);
        }
        if page.len() < PAGE_ROWS {
            return Ok(());
        }
        let Some((last, _)) = page.into_iter().next_back() else { return Ok(()) };
        range = (std::ops::Bound::Excluded(last), std::ops::Bound::Unbounded);
    }
}

type Row<'bytes> = (Table, &'bytes [u8], &'bytes [u8]);

fn parse(bytes: &[u8]) -> Result<Vec<Row<'_>>, SnapshotError> {
    let (body, crc) = bytes.split_last_chunk::<CRC_BYTES>().ok_or(SnapshotError::Damaged)?;
    if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
        return Err(SnapshotError::Damaged);
    }
    let (version, mut rest) = body.split_first().ok_or(SnapshotError::Damaged)?;
    if *version != VERSION {
        return Err(SnapshotError::TooNew(*version));
    }
    let mut rows = Vec::new();
    while let Some((table, after)) = rest.split_first() {
        let table = Table(*table);
        if !STATE_TABLES.contains(&table) {
            return Err(SnapshotError::UnknownTable(table.0));
        }
        let (key_bytes, after) = after.split_first_chunk().ok_or(SnapshotError::Damaged)?;
        let (value_bytes, after) = after.split_first_chunk().ok_or(SnapshotError::Damaged)?;
        let (key, after) = take(after, *key_bytes)?;
        let (value, after) = take(after, *value_bytes)?;
        rows.push((table, key, value));
        rest = after;
    }
    Ok(rows)
}

fn take(bytes: &[u8], length: [u8; 4]) -> Result<(&[u8], &[u8]), SnapshotError> {
    let length = u32::from_le_bytes(length) as usize;
    bytes.split_at_checked(length).ok_or(SnapshotError::Damaged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Durability, MemoryEngine};
    use crate::tables::{META, TASKS};

    fn filled(rows: usize) -> Result<MemoryEngine, EngineError> {
        let engine = MemoryEngine::new();
        let mut batch = Batch::new();
        for row in 0..rows {
            batch.put(TASKS, &row.to_be_bytes(), vec![row as u8; row % 7]);
        }
        batch.put(META, b"", b"empty key".as_slice());
        engine.commit(batch, Durability::Synced)?;
        Ok(engine)
    }

    #[test]
    fn an_installed_snapshot_replaces_everything() -> Result<(), ReplaceError> {
        let bytes = dump(&filled(3000)?)?;
        let target = filled(5000)?;
        target.commit(replacement(&target, &bytes)?, Durability::Synced)?;
        assert_eq!(dump(&target)?, bytes);
        assert_eq!(target.scan(TASKS, ALL_KEYS, Direction::Forward, usize::MAX)?.len(), 3000);
        Ok(())
    }

    #[test]
    fn damaged_or_unknown_snapshots_are_refused() -> Result<(), ReplaceError> {
        let bytes = dump(&filled(3)?)?;
        for position in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[position] ^= 1;
            assert_eq!(parse(&bytes), Err(SnapshotError::Damaged));
            assert_eq!(parse(&bytes[..position]), Err(SnapshotError::Damaged));
        }
        let sealed = |mut body: Vec<u8>| {
            body.extend_from_slice(&crc32fast::hash(&body).to_le_bytes());
            body
        };
        assert_eq!(parse(&sealed(vec![2])), Err(SnapshotError::TooNew(2)));
        assert_eq!(parse(&sealed(vec![1, 200])), Err(SnapshotError::UnknownTable(200)));
        assert_eq!(parse(&sealed(vec![1, META.0, 9])), Err(SnapshotError::Damaged));
        Ok(())
    }
}
