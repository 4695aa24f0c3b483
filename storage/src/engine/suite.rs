//! One suite for every engine.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const A: Table = Table(20);
const B: Table = Table(21);

type TestResult = Result<(), EngineError>;

fn put(engine: &dyn Engine, table: Table, key: &[u8], value: &[u8]) -> TestResult {
    let mut batch = Batch::new();
    batch.put(table, key, value);
    engine.commit(batch, Durability::Lazy)
}

fn keys(pairs: Vec<Pair>) -> Vec<Vec<u8>> {
    pairs.into_iter().map(|(key, _)| key).collect()
}

fn tables_do_not_see_each_other(engine: &dyn Engine) -> TestResult {
    put(engine, A, b"", b"empty key")?;
    put(engine, A, &[255, 255], b"last")?;
    put(engine, B, b"", b"other")?;
    assert_eq!(engine.scan(A, ALL_KEYS, Direction::Forward, 9)?.len(), 2);
    assert_eq!(engine.get(B, b"")?, Some(b"other".to_vec()));
    assert_eq!(engine.get(B, &[255, 255])?, None);
    assert_eq!(last(engine, A)?.map(|pair| pair.1), Some(b"last".to_vec()));
    Ok(())
}

fn scans_keep_bounds_direction_and_limit(engine: &dyn Engine) -> TestResult {
    for key in [b"a", b"b", b"c", b"d"] {
        put(engine, A, key, key)?;
    }
    let range = (Bound::Excluded(b"a".to_vec()), Bound::Included(b"d".to_vec()));
    let up = engine.scan(A, range.clone(), Direction::Forward, 2)?;
    assert_eq!(keys(up), [b"b", b"c"]);
    let down = engine.scan(A, range, Direction::Backward, 2)?;
    assert_eq!(keys(down), [b"d", b"c"]);
    let inverted = (Bound::Included(b"c".to_vec()), Bound::Excluded(b"b".to_vec()));
    assert!(engine.scan(A, inverted, Direction::Forward, 9)?.is_empty());
    let nothing = (Bound::Excluded(b"c".to_vec()), Bound::Excluded(b"c".to_vec()));
    assert!(engine.scan(A, nothing, Direction::Backward, 9)?.is_empty());
    Ok(())
}

fn later_changes_of_a_batch_win(engine: &dyn Engine) -> TestResult {
    let mut batch = Batch::new();
    batch.put(A, b"k", b"1".as_slice());
    batch.delete(A, b"k");
    batch.put(A, b"k", b"2".as_slice());
    batch.put(B, b"gone", b"1".as_slice());
    batch.delete(B, b"gone");
    engine.commit(batch, Durability::Synced)?;
    assert_eq!(engine.get(A, b"k")?, Some(b"2".to_vec()));
    assert_eq!(engine.get(B, b"gone")?, None);
    Ok(())
}

fn every_engine(test: impl Fn(&dyn Engine) -> TestResult) -> TestResult {
    test(&MemoryEngine::new())?;
    let directory = tempfile::tempdir()?;
    test(&SledEngine::open(directory.path())?)
}

#[test]
fn every_engine_keeps_tables_apart() -> TestResult {
    every_engine(tables_do_not_see_each_other)
}

#[test]
fn every_engine_scans_as_asked() -> TestResult {
    every_engine(scans_keep_bounds_direction_and_limit)
}

#[test]
fn every_engine_applies_batches_in_order() -> TestResult {
    every_engine(later_changes_of_a_batch_win)
}

#[test]
fn sled_keeps_its_content_when_opened_again() -> TestResult {
    let directory = tempfile::tempdir()?;
    let engine = SledEngine::open(directory.path())?;
    put(&engine, A, b"k", b"v")?;
    engine.commit(Batch::new(), Durability::Synced)?;
    assert!(engine.bytes_on_disk()? > 0);
    drop(engine);
    let engine = SledEngine::open(directory.path())?;
    assert_eq!(engine.get(A, b"k")?, Some(b"v".to_vec()));
    Ok(())
}

#[test]
fn a_crash_forgets_a_suffix_of_lazy_commits() -> TestResult {
    let engine = MemoryEngine::new();
    put(&engine, A, b"1", b"")?;
    engine.commit(Batch::new(), Durability::Synced)?;
    put(&engine, A, b"2", b"")?;
    put(&engine, A, b"3", b"")?;
    engine.crash(1);
    assert_eq!(keys(engine.scan(A, ALL_KEYS, Direction::Forward, 9)?), [b"1", b"2"]);
    Ok(())
}

#[test]
fn a_failed_sync_seals_the_engine() -> TestResult {
    let engine = MemoryEngine::new();
    engine.fail_syncs();
    assert!(engine.commit(Batch::new(), Durability::Synced).is_err());
    assert!(matches!(put(&engine, A, b"1", b""), Err(EngineError::Sealed)));
    Ok(())
}

#[test]
fn prefix_ranges_end_where_the_prefix_does() {
    assert_eq!(prefix_range(b"ab").1, Bound::Excluded(b"ac".to_vec()));
    assert_eq!(prefix_range(&[1, 255]).1, Bound::Excluded(vec![2]));
    assert_eq!(prefix_range(&[255]).1, Bound::Unbounded);
}

proptest! {
    /// A transaction reads as a map would, and its batch makes the engine read the same.
    #[test]
    fn a_transaction_reads_its_own_changes(
        stored in prop::collection::btree_map(0u8..12, any::<u8>(), 0..12),
        changes in prop::collection::vec((0u8..12, prop::option::of(any::<u8>())), 0..12),
        low in 0u8..12, high in 0u8..12, limit in 0usize..6, descending: bool,
    ) {
        let engine = MemoryEngine::new();
        let mut model = BTreeMap::new();
        for (key, value) in stored {
            put(&engine, A, &[key], &[value])?;
            model.insert(key, value);
        }
        put(&engine, B, &[3], &[3])?;
        let mut tx = Tx::new(&engine);
        for (key, value) in changes {
            match value {
                Some(value) => { tx.put(A, &[key], [value]); model.insert(key, value); }
                None => { tx.delete(A, &[key]); model.remove(&key); }
            }
        }
        let range = (Bound::Included(vec![low]), Bound::Excluded(vec![high]));
        let within = model.iter().filter(|(key, _)| (low..high).contains(*key));
        let pair = |(key, value): (&u8, &u8)| (vec![*key], vec![*value]);
        let (direction, expected): (_, Vec<Pair>) = if descending {
            (Direction::Backward, within.rev().take(limit).map(pair).collect())
        } else {
            (Direction::Forward, within.take(limit).map(pair).collect())
        };
        prop_assert_eq!(tx.scan(A, range.clone(), direction, limit)?, expected.clone());
        prop_assert_eq!(tx.last(A)?, model.last_key_value().map(pair));
        for key in 0u8..12 {
            prop_assert_eq!(tx.get(A, &[key])?, model.get(&key).map(|value| vec![*value]));
        }
        engine.commit(tx.into_batch(), Durability::Synced)?;
        prop_assert_eq!(engine.scan(A, range, direction, limit)?, expected);
    }
}
