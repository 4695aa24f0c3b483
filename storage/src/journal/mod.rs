//! The journal: acknowledged payloads, durable until every in-sync replica has applied them.
//!
//! A payload is appended to the newest of a row of segment files and acknowledged when it is
//! fsynced; appends that arrive while an fsync is under way share the next one. A released
//! record's bytes go when every record of its segment is released. Which records are still
//! wanted is in the coordinator log: releases are not durable, and after a restart the owner
//! releases again what [`Journal::recovered`] lists and the log no longer names.
//!
//! Upholds safety rule 1 on one pod: an acknowledged payload is read back whole or reported
//! corrupt, whatever crashed. Sequences are never given twice.

mod frame;
mod payload;
mod recovery;
mod state;
mod writer;

#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use miroir_seams::{Files, LogFile, Seams};
use tokio::sync::oneshot;

use crate::ids::JournalSequence;
pub use payload::Payload;
use payload::crc_at;
use state::{Place, State};
use writer::Shared;

/// Payloads from here on are read through a memory map, bytes: those that the gateway keeps off
/// the heap too.
const MAPPED_BYTES_MIN: usize = 8 << 20;

/// Limits of a journal.
#[derive(Clone, Copy, Debug)]
pub struct JournalConfig {
    /// All segment files together; a payload that would pass it is refused as full.
    pub bytes_max: u64,
    /// A segment is closed rather than grown past this; a larger payload gets its own.
    pub segment_bytes: u64,
}

impl JournalConfig {
    /// Small enough that released space comes back soon, large enough that files stay few.
    pub const SEGMENT_BYTES: u64 = 64 << 20;
    /// Some minutes of full-speed writes while nodes are slow.
    pub const BYTES_MAX: u64 = 8 << 30;
}

impl Default for JournalConfig {
    fn default() -> Self {
        Self { bytes_max: Self::BYTES_MAX, segment_bytes: Self::SEGMENT_BYTES }
    }
}

/// Why the journal refused or could not answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum JournalError {
    /// No room, by the configured limit or on the disk. Nothing was acknowledged; later
    /// appends may succeed when records are released.
    #[error("journal is full: {needed} bytes asked, {used} of {max} used")]
    Full {
        /// Bytes of the refused frame.
        needed: u64,
        /// Bytes of all segments and of what waits to be written.
        used: u64,
        /// The limit.
        max: u64,
    },
    /// The record is there but not as it was written.
    #[error("journal record {0} is corrupt")]
    Corrupt(JournalSequence),
    /// The record was released, or never acknowledged.
    #[error("journal has no record {0}")]
    Missing(JournalSequence),
    /// A segment was written by a newer version of Miroir.
    #[error("journal segment {name} has version {version}, which this version can't read")]
    TooNew {
        /// The file.
        name: String,
        /// Its version.
        version: u8,
    },
    /// It was closed for good; see [`Journal::close_if_empty`].
    #[error("journal takes nothing more")]
    Closed,
    /// The disk failed. An append that ends so is not acknowledged, though its bytes may be
    /// found after a restart.
    #[error("journal disk failed: {0}")]
    Io(Arc<io::Error>),
}

impl From<io::Error> for JournalError {
    fn from(error: io::Error) -> Self {
        Self::Io(Arc::new(error))
    }
}

/// How full the journal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalUsage {
    /// Bytes of all segments and of what waits to be written.
    pub bytes: u64,
    /// The limit of `bytes`.
    pub bytes_max: u64,
    /// Records not yet released.
    pub records: usize,
    /// Segment files.
    pub segments: usize,
}

/// The journal of one pod. Clones share it.
#[derive(Clone, Debug)]
pub struct Journal {
    shared: Arc<Shared>,
}

impl Journal {
    /// Opens the journal in `files`, finding the records of earlier runs.
    ///
    /// Reads the heads of all records and the payloads of the last segment, blocking.
    ///
    /// # Errors
    /// When the disk fails or a newer version wrote a segment. Damage is no error: it shows in
    /// [`Journal::read`].
    pub fn open(
        files: Arc<dyn Files>,
        config: JournalConfig,
        seams: &Seams,
    ) -> Result<Self, JournalError> {
        let (state, active) = State::open(files.as_ref(), &seams.entropy)?;
        let shared = Shared::new(files, config, seams.clone(), state, active);
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Stores `payload` and returns when it is durable.
    ///
    /// If the returned future is dropped before its end, the record is released.
    ///
    /// # Errors
    /// `Full`, `Closed` or `Io`; nothing is acknowledged then.
    pub async fn append(
        &self,
        payload: impl Into<Payload>,
    ) -> Result<JournalSequence, JournalError> {
        let (sequence, durable) = self.shared.enqueue(payload.into())?;
        let mut claim = Claim { shared: &self.shared, sequence, settled: false };
        if self.shared.files.blocks() {
            let shared = self.shared.clone();
            self.shared.seams.tasks.spawn_blocking(move || shared.write_until_idle());
        } else {
            self.shared.write_until_idle();
        }
        let result = durable.await;
        claim.settled = true;
        match result {
            Ok(Ok(())) => Ok(JournalSequence(sequence)),
            Ok(Err(error)) => Err(error),
            Err(oneshot::error::RecvError { .. }) => {
                Err(io::Error::other("journal writer ended").into())
            }
        }
    }

    /// The payload of an acknowledged record; a large one is a memory map of the journal's file
    /// and takes no room on the heap.
    ///
    /// # Errors
    /// `Missing`, `Corrupt` or `Io`.
    pub async fn read(&self, sequence: JournalSequence) -> Result<Bytes, JournalError> {
        let (place, file) = self.shared.locate(sequence.0)?;
        if !self.shared.files.blocks() {
            return read_checked(sequence, place, file.as_ref());
        }
        let read = move || read_checked(sequence, place, file.as_ref());
        match self.shared.seams.tasks.spawn_blocking(read).await {
            Ok(result) => result,
            Err(error) => Err(io::Error::other(error).into()),
        }
    }

    /// Gives up a record; its space comes back with its segment's. Unknown ones are ignored.
    pub fn release(&self, sequence: JournalSequence) {
        let emptied = self.shared.lock().release(sequence.0);
        self.shared.remove_files(emptied);
    }

    /// Every record not yet released, damaged ones included, in order.
    pub fn sequences(&self) -> Vec<JournalSequence> {
        self.shared.lock().records.keys().copied().map(JournalSequence).collect()
    }

    /// The records of earlier runs not yet released, damaged ones included, in order. These may
    /// be more than were acknowledged: release what nothing refers to. Records of this run are
    /// left out, since an append may be between its journal and its log entry.
    pub fn recovered(&self) -> Vec<JournalSequence> {
        let earlier = ..self.shared.first_of_run;
        self.shared.lock().records.range(earlier).map(|(key, _)| JournalSequence(*key)).collect()
    }

    /// Refuses appends from now on if the journal holds nothing, not even what is being written.
    /// It stays so until it is opened anew.
    pub fn close_if_empty(&self) -> bool {
        let mut state = self.shared.lock();
        state.closed |= state.records.is_empty() && state.queue.is_empty() && !state.writing;
        state.closed
    }

    /// How full the journal is.
    pub fn usage(&self) -> JournalUsage {
        let state = self.shared.lock();
        JournalUsage {
            bytes: state.bytes_used(),
            bytes_max: self.shared.config.bytes_max,
            records: state.records.len(),
            segments: state.segments.len(),
        }
    }
}

fn read_checked(
    sequence: JournalSequence,
    place: Place,
    file: &dyn LogFile,
) -> Result<Bytes, JournalError> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::UnexpectedEof => JournalError::Corrupt(sequence),
        _ => error.into(),
    };
    let length = place.length as usize;
    if length < MAPPED_BYTES_MIN {
        let payload = file.read_at(place.position, length).map_err(failed)?;
        return match crc32fast::hash(&payload) == place.crc {
            true => Ok(payload.into()),
            false => Err(JournalError::Corrupt(sequence)),
        };
    }
    // Read first, piece by piece: a disk that fails shows here as an error, not in the map.
    if crc_at(file, place.position, length).map_err(failed)? != place.crc {
        return Err(JournalError::Corrupt(sequence));
    }
    file.map_at(place.position, length).map_err(failed)
}

/// Gives the record back when an append is dropped before its end: nobody would know of it.
struct Claim<'journal> {
    shared: &'journal Arc<Shared>,
    sequence: u64,
    settled: bool,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if !self.settled {
            let emptied = self.shared.lock().abandon(self.sequence);
            self.shared.remove_files(emptied);
        }
    }
}
