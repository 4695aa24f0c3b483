//! Whether who works for an index may still send: nobody else may have taken over.
//!
//! The log refuses what a replaced writer proposes. Nodes know nothing of epochs, so whoever sends to
//! them for a writer asks here first: lanes, operations, copies.

use std::time::Duration;

use miroir_seams::Seams;
use miroir_seams::planted::{self, Bug};
use miroir_storage::commands::Fence;
use miroir_storage::ids::Epoch;
use miroir_storage::log::CoordinatorLog;

/// A request is sent only by a pod that has heard within this time, from a leader with a quorum,
/// what was agreed: how much later than its successor's first request it may come.
pub const CONFIRMED_MAX: Duration = Duration::from_secs(2);

/// Between looks while the log is silent.
const WAIT: Duration = Duration::from_millis(100);
/// Added at random to each wait, milliseconds.
const JITTER_MS: u64 = 50;

/// Why nothing may be sent for an index, or its mark is not in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAgreed {
    /// Another writer has taken over.
    #[error("a newer writer of the index exists")]
    Fenced {
        /// The epoch in force.
        current: Epoch,
    },
    /// The index is gone.
    #[error("the index is gone")]
    IndexGone,
    /// The log has stopped for good on this pod.
    #[error("the coordinator log has stopped")]
    LogStopped,
}

/// Waits until it is fresh knowledge that no newer writer exists. A run is reserved once but may be sent
/// again much later, when its node is back: by then another pod may be at work, and may have stopped
/// looking out for late requests.
///
/// # Errors
/// When another writer exists, or the index is gone.
pub async fn still_holds(
    log: &CoordinatorLog,
    fence: &Fence,
    seams: &Seams,
) -> Result<(), NotAgreed> {
    if planted::has(Bug::SendUnconfirmed) {
        return Ok(());
    }
    loop {
        let routing = log.routing();
        let index = routing.by_uid.get(&fence.index).ok_or(NotAgreed::IndexGone)?;
        if index.epoch > fence.epoch {
            return Err(NotAgreed::Fenced { current: index.epoch });
        }
        if log.confirmed().age <= CONFIRMED_MAX {
            return Ok(());
        }
        let jitter = Duration::from_millis(seams.entropy.below(JITTER_MS));
        seams.clock.sleep(WAIT + jitter).await;
    }
}
