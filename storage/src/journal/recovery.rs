//! Reading a segment file back after a start.
//!
//! The records of a file are the frames that still make sense. Frames behind a damaged place
//! are found again; what lay in the damaged place is reported as damaged, record by record.
//! Bytes behind the last good frame of the *last* segment are a torn tail: a write that was
//! never acknowledged.

use std::io;

use miroir_seams::LogFile;

use super::frame::{
    BadSegment, FRAME_HEADER_BYTES, FRAME_MAGIC, FrameHeader, SEGMENT_HEADER_BYTES, SegmentHeader,
};
use super::payload::crc_at;

/// How much of a file is searched at a time for the next good frame.
const SEARCH_BYTES: u64 = 1 << 20;

/// What a segment file holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Recovered {
    /// `None` when the file's head is damaged; its frames can't be told then.
    pub(super) header: Option<SegmentHeader>,
    /// Good frames with the position of their payload, in order of sequence.
    pub(super) frames: Vec<(FrameHeader, u64)>,
    /// Sequences that lay in damaged places before the last good frame.
    pub(super) damaged: Vec<u64>,
    /// Where the last good frame (or the header) ends.
    pub(super) good_bytes: u64,
}

/// Why a segment can't be read at all.
#[derive(Debug, thiserror::Error)]
pub(super) enum RecoverError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("segment has version {0}")]
    TooNew(u8),
}

/// Reads the segment `base`. Payloads are checked only when `check_payloads` (the last segment,
/// where a crash may have left a good header before a torn payload); elsewhere each is checked
/// when it is read.
pub(super) fn recover(
    file: &dyn LogFile,
    base: u64,
    check_payloads: bool,
) -> Result<Recovered, RecoverError> {
    let size = file.size()?;
    let mut found = Recovered::default();
    let Some(head) = read_array::<SEGMENT_HEADER_BYTES>(file, 0, size)? else { return Ok(found) };
    let header = match SegmentHeader::decode(&head) {
        Ok(header) if header.base == base => header,
        Ok(_) | Err(BadSegment::Damaged) => return Ok(found),
        Err(BadSegment::TooNew(version)) => return Err(RecoverError::TooNew(version)),
    };
    let scan = Scan { file, size, salt: header.salt, check_payloads };
    found.header = Some(header);
    found.good_bytes = SEGMENT_HEADER_BYTES as u64;
    let mut next_sequence = base;
    loop {
        let (position, frame) = match scan.frame_at(found.good_bytes)? {
            Some(frame) => (found.good_bytes, frame),
            None => match scan.next_frame(found.good_bytes + 1)? {
                Some((position, frame)) => {
                    found.damaged.extend(next_sequence..frame.sequence);
                    (position, frame)
                }
                None => return Ok(found),
            },
        };
        next_sequence = frame.sequence + 1;
        found.good_bytes = position + frame.frame_bytes();
        found.frames.push((frame, position + FRAME_HEADER_BYTES as u64));
    }
}

struct Scan<'file> {
    file: &'file dyn LogFile,
    size: u64,
    salt: u64,
    check_payloads: bool,
}

impl Scan<'_> {
    /// The good frame that begins at `position`, if one does.
    fn frame_at(&self, position: u64) -> io::Result<Option<FrameHeader>> {
        let Some(bytes) = read_array(self.file, position, self.size)? else { return Ok(None) };
        self.check(position, &bytes)
    }

    fn check(
        &self,
        position: u64,
        bytes: &[u8; FRAME_HEADER_BYTES],
    ) -> io::Result<Option<FrameHeader>> {
        let Some(frame) = FrameHeader::decode(bytes, self.salt) else { return Ok(None) };
        if position + frame.frame_bytes() > self.size {
            return Ok(None);
        }
        if self.check_payloads {
            let payload_at = position + FRAME_HEADER_BYTES as u64;
            if crc_at(self.file, payload_at, frame.length as usize)? != frame.crc {
                return Ok(None);
            }
        }
        Ok(Some(frame))
    }

    /// The first good frame that begins at `from` or later.
    fn next_frame(&self, from: u64) -> io::Result<Option<(u64, FrameHeader)>> {
        let mut start = from;
        while start + FRAME_HEADER_BYTES as u64 <= self.size {
            let length = (self.size - start).min(SEARCH_BYTES);
            let window = self.file.read_at(start, length as usize)?;
            for (offset, bytes) in window.array_windows::<FRAME_HEADER_BYTES>().enumerate() {
                if bytes[0..3] == FRAME_MAGIC {
                    let position = start + offset as u64;
                    if let Some(frame) = self.check(position, bytes)? {
                        return Ok(Some((position, frame)));
                    }
                }
            }
            // A header may lie across the end of the window.
            start += length - FRAME_HEADER_BYTES as u64 + 1;
        }
        Ok(None)
    }
}

/// `N` bytes at `position`, if the file has them.
fn read_array<const N: usize>(
    file: &dyn LogFile,
    position: u64,
    size: u64,
) -> io::Result<Option<[u8; N]>> {
    if position + N as u64 > size {
        return Ok(None);
    }
    Ok(file.read_at(position, N)?.try_into().ok())
}
