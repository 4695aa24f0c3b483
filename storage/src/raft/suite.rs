//! openraft's own tests of a store, against each engine.

// openraft's own error type, as its suite wants it.
#![allow(clippy::result_large_err)]

use std::sync::Arc;

use miroir_seams::Tasks;
use openraft::testing::{StoreBuilder, Suite};

use super::*;
use crate::engine::{Engine, MemoryEngine, SledEngine};

struct InMemory;

struct OnSled;

fn stores(engine: Arc<dyn Engine>) -> Result<(LogStore, StateMachine), StorageError> {
    let store = Store::new(engine, Tasks::new());
    let machine = StateMachine::open(store.clone())
        .map_err(|error| StorageIoError::read_state_machine(&error))?;
    Ok((LogStore::new(store), machine))
}

impl StoreBuilder<TypeConfig, LogStore, StateMachine> for InMemory {
    async fn build(&self) -> Result<((), LogStore, StateMachine), StorageError> {
        let (log, machine) = stores(Arc::new(MemoryEngine::new()))?;
        Ok(((), log, machine))
    }
}

impl StoreBuilder<TypeConfig, LogStore, StateMachine, tempfile::TempDir> for OnSled {
    async fn build(&self) -> Result<(tempfile::TempDir, LogStore, StateMachine), StorageError> {
        let directory = tempfile::tempdir().map_err(|error| StorageIoError::write(&error))?;
        let engine =
            SledEngine::open(directory.path()).map_err(|error| StorageIoError::read(&error))?;
        let (log, machine) = stores(Arc::new(engine))?;
        Ok((directory, log, machine))
    }
}

#[test]
fn the_store_in_memory_keeps_openrafts_contract() -> Result<(), StorageError> {
    Suite::test_all(InMemory)
}

#[test]
fn the_store_on_sled_keeps_openrafts_contract() -> Result<(), StorageError> {
    Suite::test_all(OnSled)
}
