//! Where bodies too large for memory wait while they are checked and journalled.
//!
//! Spool files have no names ([`Files::scratch`]): whatever way a request or the process ends,
//! the system takes their room back. What is bounded is their bytes over all requests in flight; a
//! body keeps its share until its last [`Bytes`] is dropped.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use miroir_seams::{Files, LogFile};

use super::IntakeError;

/// Small pieces (a decoder's output) are joined to writes of this size, bytes.
const WRITE_BYTES: usize = 256 << 10;

/// The spool of one pod.
#[derive(Debug)]
pub struct Spool {
    files: Arc<dyn Files>,
    bytes_max: u64,
    /// `<= bytes_max`.
    bytes_used: AtomicU64,
}

impl Spool {
    /// A spool in `files`, a directory of its own, for at most `bytes_max` bytes at a time. What
    /// an earlier run may have left there is removed.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub fn open(files: Arc<dyn Files>, bytes_max: u64) -> io::Result<Arc<Self>> {
        for name in files.list()? {
            tracing::info!(name, "removing a spool file of an earlier run");
            files.remove(&name)?;
        }
        Ok(Arc::new(Self { files, bytes_max, bytes_used: AtomicU64::new(0) }))
    }

    /// Bytes of the bodies that are spooled now.
    pub fn bytes_used(&self) -> u64 {
        self.bytes_used.load(Ordering::Relaxed)
    }

    /// Begins a file.
    pub(super) fn begin(self: &Arc<Self>) -> Result<SpoolFile, IntakeError> {
        let file = self.files.scratch().map_err(disk_error)?;
        let share = Share { spool: self.clone(), bytes: 0 };
        Ok(SpoolFile { file, share, joined: Vec::new() })
    }
}

/// A full disk is told from a broken one: the first heals when other requests end.
fn disk_error(error: io::Error) -> IntakeError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => IntakeError::SpoolFull,
        _ => IntakeError::Disk(error),
    }
}

/// A part of the spool's room, given back when dropped.
#[derive(Debug)]
struct Share {
    spool: Arc<Spool>,
    bytes: u64,
}

impl Share {
    fn grow(&mut self, bytes: u64) -> Result<(), IntakeError> {
        let max = self.spool.bytes_max;
        self.spool
            .bytes_used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(bytes).filter(|used| *used <= max)
            })
            .map_err(|_| IntakeError::SpoolFull)?;
        self.bytes += bytes;
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.spool.bytes_used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A body on disk, being written.
#[derive(Debug)]
pub(super) struct SpoolFile {
    file: Box<dyn LogFile>,
    share: Share,
    /// Not yet written.
    joined: Vec<u8>,
}

impl SpoolFile {
    pub(super) fn len(&self) -> usize {
        usize::try_from(self.share.bytes).unwrap_or(usize::MAX)
    }

    /// Appends `bytes`; blocks.
    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<(), IntakeError> {
        self.share.grow(bytes.len() as u64)?;
        if self.joined.len() + bytes.len() <= WRITE_BYTES {
            self.joined.extend_from_slice(bytes);
            return Ok(());
        }
        self.write_joined()?;
        self.file.append(bytes).map_err(disk_error)
    }

    fn write_joined(&mut self) -> Result<(), IntakeError> {
        self.file.append(&self.joined).map_err(disk_error)?;
        self.joined.clear();
        Ok(())
    }

    /// The body, as a memory map; blocks.
    pub(super) fn into_bytes(mut self) -> Result<Bytes, IntakeError> {
        self.write_joined()?;
        let bytes = self.file.map_at(0, self.len()).map_err(IntakeError::Disk)?;
        Ok(Bytes::from_owner(Spooled { bytes, _share: self.share }))
    }
}

/// A body on disk, being read.
struct Spooled {
    bytes: Bytes,
    _share: Share,
}

impl AsRef<[u8]> for Spooled {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}
