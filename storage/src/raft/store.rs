//! The engine, called from async code.

use std::io;
use std::sync::Arc;

use miroir_seams::Tasks;

use crate::engine::{Engine, EngineError};
use crate::tables::ApplyError;
use crate::tables::records::RecordError;

/// Why Raft's own records could not be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// An engine and the tasks to call it on.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    pub(crate) engine: Arc<dyn Engine>,
    tasks: Tasks,
}

impl Store {
    pub(crate) fn new(engine: Arc<dyn Engine>, tasks: Tasks) -> Self {
        Self { engine, tasks }
    }

    /// Runs `work` on the blocking pool, or in place when the engine doesn't block.
    pub(crate) async fn run<T, E>(
        &self,
        work: impl FnOnce(&dyn Engine) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<EngineError> + Send + 'static,
    {
        if !self.engine.blocks() {
            return work(self.engine.as_ref());
        }
        let engine = self.engine.clone();
        match self.tasks.spawn_blocking(move || work(engine.as_ref())).await {
            Ok(result) => result,
            // The work panicked, or the process is ending.
            Err(error) => Err(EngineError::Io(io::Error::other(error)).into()),
        }
    }
}

impl From<StoreError> for ApplyError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Engine(error) => error.into(),
            StoreError::Record(error) => error.into(),
        }
    }
}
