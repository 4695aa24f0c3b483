//! Idempotency keys and sessions: what outlives a request on whichever pod its next one arrives.
//!
//! | table | key | value |
//! |---|---|---|
//! | `KEYS` | the client's `Idempotency-Key` | [`KeyRecord`] |
//! | `SESSIONS` | session, a zero byte, index uid | [`SessionRecord`] |
//! | `KEY_ORDER` | task uid, big-endian, then `k` or `s` and the key above | empty |
//!
//! Written by `AcceptTask`. Tasks are numbered in order, so the oldest rows are the first of
//! `KEY_ORDER`; `PruneKeys` removes them from there, and what is over the limits goes too.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use miroir_seams::planted::{self, Bug};

use super::records::{Record, decode, encode, text_from, u64_from};
use super::{ApplyError, KEY_ORDER, KEYS, META, SESSIONS};
use crate::commands::{IdempotencyKey, Outcome};
use crate::engine::{ALL_KEYS, Direction, Engine, Table, Tx};
use crate::ids::{IndexUid, TaskUid};

/// Idempotency keys kept at most.
pub const KEYS_MAX: u64 = 1_000_000;
/// Rows of sessions kept at most: one for each index that a session wrote to.
pub const SESSIONS_MAX: u64 = 100_000;
/// Rows removed by one command.
const PRUNED_MAX: usize = 1000;

/// The task of an idempotency key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRecord {
    /// The task.
    pub uid: TaskUid,
    /// SHA-256 over what the first request asked for.
    pub request: [u8; 32],
    /// When it was accepted, Unix nanoseconds.
    pub at: i64,
}

impl Record for KeyRecord {
    const VERSION: u8 = 1;
    const NAME: &'static str = "idempotency key";
}

/// A session's last write to an index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRecord {
    /// The task.
    pub uid: TaskUid,
    /// When it was accepted, Unix nanoseconds.
    pub at: i64,
}

impl Record for SessionRecord {
    const VERSION: u8 = 1;
    const NAME: &'static str = "session";
}

/// The answer to a request whose key was seen before.
pub(crate) fn answer(tx: &Tx<'_>, key: &IdempotencyKey) -> Result<Option<Outcome>, ApplyError> {
    let Some(bytes) = tx.get(KEYS, key.key.as_bytes())? else { return Ok(None) };
    if planted::has(Bug::ForgetKey) {
        return Ok(None);
    }
    let known: KeyRecord = decode(&bytes)?;
    Ok(Some(match known.request == key.request {
        true => Outcome::Repeated { uid: known.uid },
        false => Outcome::KeyReused,
    }))
}

/// Remembers a key that was not seen before.
pub(crate) fn remember(
    tx: &mut Tx<'_>,
    key: &IdempotencyKey,
    uid: TaskUid,
    at: i64,
) -> Result<(), ApplyError> {
    let record = KeyRecord { uid, request: key.request, at };
    tx.put(KEYS, key.key.as_bytes(), encode(&record)?);
    tx.put(KEY_ORDER, &order_key(uid, b'k', key.key.as_bytes()), Vec::new());
    count(tx, KEYS, 1)
}

/// Remembers the last write of a session to an index.
pub(crate) fn note_write(
    tx: &mut Tx<'_>,
    session: &str,
    index: &IndexUid,
    uid: TaskUid,
    at: i64,
) -> Result<(), ApplyError> {
    let key = session_key(session, index);
    match tx.get(SESSIONS, &key)? {
        Some(bytes) => {
            let before: SessionRecord = decode(&bytes)?;
            tx.delete(KEY_ORDER, &order_key(before.uid, b's', &key));
        }
        None => count(tx, SESSIONS, 1)?,
    }
    tx.put(SESSIONS, &key, encode(&SessionRecord { uid, at })?);
    tx.put(KEY_ORDER, &order_key(uid, b's', &key), Vec::new());
    Ok(())
}

/// Removes what is too old or too much, oldest first.
pub(crate) fn prune(
    tx: &mut Tx<'_>,
    keys_before: i64,
    sessions_before: i64,
) -> Result<Outcome, ApplyError> {
    let mut removed = Vec::new();
    for (order, _) in tx.scan(KEY_ORDER, ALL_KEYS, Direction::Forward, PRUNED_MAX)? {
        let (Some(uid), Some(kind), Some(key)) = (order.get(..4), order.get(4), order.get(5..))
        else {
            continue;
        };
        let is_key = *kind == b'k';
        let (table, before, max) = match is_key {
            true => (KEYS, keys_before, KEYS_MAX),
            false => (SESSIONS, sessions_before, SESSIONS_MAX),
        };
        let at = match tx.get(table, key)? {
            Some(bytes) if is_key => decode::<KeyRecord>(&bytes)?.at,
            Some(bytes) => decode::<SessionRecord>(&bytes)?.at,
            None => i64::MIN,
        };
        if at >= before && counted(tx, table)? <= max {
            continue;
        }
        if at != i64::MIN {
            tx.delete(table, key);
            count(tx, table, -1)?;
        }
        tx.delete(KEY_ORDER, &order);
        let uid = uid.try_into().map_or(0, u32::from_be_bytes);
        removed.push(TaskUid(uid));
    }
    Ok(if removed.is_empty() { Outcome::Unchanged } else { Outcome::Matched(removed) })
}

/// The task of an idempotency key, as far as this pod has applied the log.
///
/// # Errors
/// When the store fails or the record can't be read.
pub fn read(engine: &dyn Engine, key: &str) -> Result<Option<KeyRecord>, ApplyError> {
    match engine.get(KEYS, key.as_bytes())? {
        Some(bytes) => Ok(Some(decode(&bytes)?)),
        None => Ok(None),
    }
}

/// A session's last write to each index, as far as this pod has applied the log.
///
/// # Errors
/// When the store fails or a record can't be read.
pub fn last_writes(
    engine: &dyn Engine,
    session: &str,
) -> Result<BTreeMap<IndexUid, SessionRecord>, ApplyError> {
    use std::ops::Bound::{Excluded, Included};
    let first = [session.as_bytes(), &[0]].concat();
    let end = [session.as_bytes(), &[1]].concat();
    let mut writes = BTreeMap::new();
    let range = (Included(first.clone()), Excluded(end));
    for (key, bytes) in engine.scan(SESSIONS, range, Direction::Forward, usize::MAX)? {
        let index = text_from(key.get(first.len()..).unwrap_or_default().to_vec())?;
        writes.insert(IndexUid(index), decode(&bytes)?);
    }
    Ok(writes)
}

/// Whether `PruneKeys` would find something.
///
/// # Errors
/// When the store fails or a record can't be read.
pub fn any_before(
    engine: &dyn Engine,
    keys_before: i64,
    sessions_before: i64,
) -> Result<bool, ApplyError> {
    let tx = Tx::new(engine);
    if counted(&tx, KEYS)? > KEYS_MAX || counted(&tx, SESSIONS)? > SESSIONS_MAX {
        return Ok(true);
    }
    for (order, _) in engine.scan(KEY_ORDER, ALL_KEYS, Direction::Forward, PRUNED_MAX)? {
        let (Some(kind), Some(key)) = (order.get(4), order.get(5..)) else { continue };
        let old = match *kind {
            b'k' => match engine.get(KEYS, key)? {
                Some(bytes) => decode::<KeyRecord>(&bytes)?.at < keys_before,
                None => true,
            },
            _ => match engine.get(SESSIONS, key)? {
                Some(bytes) => decode::<SessionRecord>(&bytes)?.at < sessions_before,
                None => true,
            },
        };
        if old {
            return Ok(true);
        }
    }
    Ok(false)
}

fn session_key(session: &str, index: &IndexUid) -> Vec<u8> {
    [session.as_bytes(), &[0], index.as_str().as_bytes()].concat()
}

fn order_key(uid: TaskUid, kind: u8, key: &[u8]) -> Vec<u8> {
    [uid.to_key().as_slice(), &[kind], key].concat()
}

/// The counter of a table's rows, in `META`.
fn counter(table: Table) -> &'static [u8] {
    if table == KEYS { b"keys" } else { b"sessions" }
}

fn counted(tx: &Tx<'_>, table: Table) -> Result<u64, ApplyError> {
    Ok(match tx.get(META, counter(table))? {
        Some(bytes) => u64_from(&bytes)?,
        None => 0,
    })
}

fn count(tx: &mut Tx<'_>, table: Table, more: i64) -> Result<(), ApplyError> {
    let now = counted(tx, table)?.saturating_add_signed(more);
    tx.put(META, counter(table), now.to_be_bytes().to_vec());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Durability, MemoryEngine};

    fn with<T>(engine: &MemoryEngine, act: impl FnOnce(&mut Tx<'_>) -> Result<T, ApplyError>) -> T {
        let mut tx = Tx::new(engine);
        let outcome = act(&mut tx).expect("memory does not fail");
        engine.commit(tx.into_batch(), Durability::Lazy).expect("memory does not fail");
        outcome
    }

    fn key(key: &str, request: u8) -> IdempotencyKey {
        IdempotencyKey { key: key.to_owned(), request: [request; 32] }
    }

    #[test]
    fn a_key_has_one_task_until_it_is_old() {
        let engine = MemoryEngine::default();
        with(&engine, |tx| remember(tx, &key("a", 1), TaskUid(7), 100));
        assert_eq!(
            with(&engine, |tx| answer(tx, &key("a", 1))),
            Some(Outcome::Repeated { uid: TaskUid(7) })
        );
        assert_eq!(with(&engine, |tx| answer(tx, &key("a", 2))), Some(Outcome::KeyReused));
        assert_eq!(with(&engine, |tx| prune(tx, 100, i64::MAX)), Outcome::Unchanged);
        assert!(any_before(&engine, 101, 0).is_ok_and(|any| any));
        assert_eq!(with(&engine, |tx| prune(tx, 101, 0)), Outcome::Matched(vec![TaskUid(7)]));
        assert_eq!(with(&engine, |tx| answer(tx, &key("a", 1))), None);
        assert!(
            engine.scan(KEY_ORDER, ALL_KEYS, Direction::Forward, 9).is_ok_and(|r| r.is_empty())
        );
    }

    #[test]
    fn a_session_is_as_old_as_its_last_write() {
        let engine = MemoryEngine::default();
        let index = IndexUid::from("0-a");
        with(&engine, |tx| note_write(tx, "s", &index, TaskUid(1), 10));
        with(&engine, |tx| note_write(tx, "s", &index, TaskUid(5), 50));
        assert_eq!(with(&engine, |tx| prune(tx, 0, 50)), Outcome::Unchanged);
        let last = last_writes(&engine, "s").map(|all| all.get(&index).map(|last| last.uid));
        assert!(last.is_ok_and(|last| last == Some(TaskUid(5))));
        assert_eq!(with(&engine, |tx| prune(tx, 0, 51)), Outcome::Matched(vec![TaskUid(5)]));
        assert!(last_writes(&engine, "s").is_ok_and(|all| all.is_empty()));
    }
}
