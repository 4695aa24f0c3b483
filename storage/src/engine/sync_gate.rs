//! Groups the fsyncs of concurrent commits.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::EngineError;

/// Lets one caller sync for all whose writes came before.
///
/// Whoever gets the lock syncs everything written until then; those who waited for the lock
/// meanwhile find their own write covered, or the first of them syncs for the rest. After a
/// failed sync the gate is sealed for good: the kernel may have dropped the dirty pages, so a
/// second sync that succeeds would prove nothing.
#[derive(Debug, Default)]
pub(super) struct SyncGate {
    /// Writes handed to the engine so far.
    written: AtomicU64,
    /// `synced <= written`: all writes up to this number are durable.
    synced: Mutex<u64>,
    sealed: AtomicBool,
}

impl SyncGate {
    /// Refuses when an earlier sync failed.
    pub(super) fn check_open(&self) -> Result<(), EngineError> {
        if self.sealed.load(Ordering::Acquire) { Err(EngineError::Sealed) } else { Ok(()) }
    }

    /// Notes a write that was made, and returns its number.
    pub(super) fn note_write(&self) -> u64 {
        self.written.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Returns when write `number` is durable; `sync` makes all earlier writes so.
    pub(super) fn sync_through(
        &self,
        number: u64,
        sync: impl FnOnce() -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        let mut synced = self.synced.lock().unwrap_or_else(PoisonError::into_inner);
        if *synced >= number {
            return Ok(());
        }
        self.check_open()?;
        let covered = self.written.load(Ordering::Acquire);
        if let Err(error) = sync() {
            self.sealed.store(true, Ordering::Release);
            tracing::error!(%error, "sync failed, the store accepts no more writes");
            return Err(error);
        }
        *synced = covered;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn one_sync_covers_every_write_before_it() {
        let gate = SyncGate::default();
        let syncs = AtomicUsize::new(0);
        let sync = || {
            syncs.fetch_add(1, Ordering::Relaxed);
            Ok(())
        };
        let (first, second) = (gate.note_write(), gate.note_write());
        assert!(gate.sync_through(first, sync).is_ok());
        assert!(gate.sync_through(second, sync).is_ok());
        assert_eq!(syncs.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_failed_sync_seals_for_good() {
        let gate = SyncGate::default();
        let number = gate.note_write();
        let failed = gate.sync_through(number, || Err(std::io::Error::other("no disk").into()));
        assert!(failed.is_err());
        assert!(matches!(gate.sync_through(number, || Ok(())), Err(EngineError::Sealed)));
    }
}
