//! Carrying out an edition by a function: once, and not for ever.
//!
//! ```text
//! begun (task database) ─► function run ─► prepared (task database) ─► committed (index) ─► ended
//!        │                     │                    │                         │
//!        └─────────────────────┴── run again ───────┘                         └── end stored
//! ```
//! The lower line is what follows after a crash. A function that is run twice may do something
//! else the second time, so the index itself tells whether it was. And a function can take the
//! whole process down, by recursing until the stack is full or by making values that fill the
//! memory: one that was often begun and never got further fails.

use milli_core::Index;
use miroir_wire::error::{ApiError, Code};

use super::outcome::Place;
use super::record::{Counts, Prepared, TaskRecord, Work};
use crate::engine::apply::Edition;
use crate::engine::errors::EngineError;

/// How often an edition is begun: something else may have ended the process, too.
const STARTS_MAX: u32 = 3;

impl Place<'_> {
    /// Carries out the edition that `task` is.
    ///
    /// # Errors
    /// Those of the filter and of the function; then nothing is changed.
    pub(super) fn edit(
        &self,
        task: &TaskRecord,
        name: &str,
        index: &Index,
    ) -> Result<Counts, EngineError> {
        let milli_error = |error| EngineError::milli(error, name);
        let Work::Edit { filter, context, function, .. } = &task.work else {
            return Err(EngineError::Corrupted);
        };
        if let Some(prepared) = &task.prepared {
            let rtxn = index.read_txn()?;
            if index.updated_at(&rtxn).map_err(milli_error)? == prepared.updated_at {
                return Ok(prepared.counts);
            }
        }
        if task.starts >= STARTS_MAX {
            let message = format!(
                "The function was begun {STARTS_MAX} times and the node ended each time. It may \
                 recurse too deeply or take too much memory."
            );
            return Err(ApiError::new(Code::EditDocumentsByFunctionError, message).into());
        }
        self.keep(&TaskRecord { starts: task.starts.saturating_add(1), ..task.clone() })?;

        let mut wtxn = index.write_txn()?;
        let edition = Edition { filter: filter.as_ref(), context: context.as_ref(), function };
        let edited = match self.indexer.apply_edition(&mut wtxn, index, name, edition) {
            Ok(edited) => edited,
            Err(error) => {
                if let EngineError::Aborted = error {
                    // It was told to stop, which says nothing against the function.
                    self.keep(task)?;
                }
                return Err(error);
            }
        };
        let counts = Counts { edited: Some(edited), ..Counts::default() };
        let updated_at = index.updated_at(&wtxn).map_err(milli_error)?;
        self.keep(&TaskRecord { prepared: Some(Prepared { updated_at, counts }), ..task.clone() })?;
        wtxn.commit()?;
        Ok(counts)
    }

    /// Stores what is known of a task that has not ended.
    fn keep(&self, task: &TaskRecord) -> Result<(), EngineError> {
        let store = || -> Result<(), EngineError> {
            let mut wtxn = self.store.write()?;
            self.store.put(&mut wtxn, task)?;
            Ok(wtxn.commit()?)
        };
        store().map_err(|error| match error {
            // No larger index would help.
            EngineError::MapFull => {
                ApiError::new(Code::NoSpaceLeftOnDevice, "The task database is full.").into()
            }
            error => error,
        })
    }
}
