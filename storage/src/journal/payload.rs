//! What is appended: one payload in two parts, so that nobody must join them on the heap.

use std::io;

use bytes::Bytes;
use miroir_seams::LogFile;

/// How much of a payload is read at a time to check it, bytes.
const READ_BYTES: usize = 1 << 20;

/// The bytes of one record. They are read back as one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Payload {
    /// What comes first; small.
    pub head: Bytes,
    /// The rest, of any size: perhaps a memory map.
    pub body: Bytes,
}

impl Payload {
    /// Length in bytes, both parts together.
    pub fn len(&self) -> usize {
        self.head.len() + self.body.len()
    }

    /// Whether there is not one byte.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// crc32 over both parts.
    pub(super) fn crc(&self) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&self.head);
        hasher.update(&self.body);
        hasher.finalize()
    }
}

impl From<Bytes> for Payload {
    fn from(body: Bytes) -> Self {
        Self { head: Bytes::new(), body }
    }
}

/// crc32 of a payload in a file, which need not fit into memory.
pub(super) fn crc_at(file: &dyn LogFile, position: u64, length: usize) -> io::Result<u32> {
    let mut hasher = crc32fast::Hasher::new();
    let mut done = 0;
    while done < length {
        let piece = READ_BYTES.min(length - done);
        hasher.update(&file.read_at(position + done as u64, piece)?);
        done += piece;
    }
    Ok(hasher.finalize())
}
