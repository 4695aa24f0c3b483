//! Whose turn it is on one (index, node): the lane's or a copy's.
//!
//! A copy to a node that is read for other shards goes on beside its lane. At most one task of
//! both may be open there, so that a request without an answer is only ever looked for among the
//! tasks of who sent it.

use std::sync::Arc;

use tokio::sync::{Mutex, MutexGuard};

/// The turn of one lane. Clones share it; it goes round in the order of asking.
#[derive(Clone, Debug, Default)]
pub struct Turn(Arc<Mutex<()>>);

impl Turn {
    /// Waits for the turn and keeps it until the guard is dropped.
    pub async fn take(&self) -> MutexGuard<'_, ()> {
        self.0.lock().await
    }
}
