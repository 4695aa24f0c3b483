//! The bytes of a segment file.
//!
//! | part | bytes (little-endian) |
//! |---|---|
//! | segment header | magic 4, version 1, zero 3, base sequence 8, salt 8, crc 4 |
//! | frame header | magic 3, kind 1, length 4, sequence 8, crc of payload 4, crc of header 4 |
//! | payload | `length` |
//!
//! A frame header's own crc also covers the segment's random salt: a payload can't contain
//! what would pass for a frame of this file (a client may well send a copy of a journal), so
//! the search for frames behind a damaged place finds real ones only.

/// First bytes of a segment.
const SEGMENT_MAGIC: [u8; 4] = *b"MIRJ";
/// The layout described above.
const SEGMENT_VERSION: u8 = 1;
/// Length of a segment header.
pub(super) const SEGMENT_HEADER_BYTES: usize = 28;

/// First bytes of a frame.
pub(super) const FRAME_MAGIC: [u8; 3] = *b"mjr";
/// The only kind so far: an acknowledged payload of this pod's own.
const KIND_PAYLOAD: u8 = 1;
/// Length of a frame header.
pub(super) const FRAME_HEADER_BYTES: usize = 24;

/// The head of a segment file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    /// The sequence of its first frame; also the file's name.
    pub(super) base: u64,
    /// Random, mixed into every frame header's crc.
    pub(super) salt: u64,
}

/// Why a segment header is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadSegment {
    /// Torn or corrupt.
    Damaged,
    /// Whole, but of a version this code can't read.
    TooNew(u8),
}

impl SegmentHeader {
    pub(super) fn encode(self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        bytes[0..4].copy_from_slice(&SEGMENT_MAGIC);
        bytes[4] = SEGMENT_VERSION;
        bytes[8..16].copy_from_slice(&self.base.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.salt.to_le_bytes());
        let crc = crc32fast::hash(&bytes[0..24]);
        bytes[24..28].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8; SEGMENT_HEADER_BYTES]) -> Result<Self, BadSegment> {
        let whole = crc32fast::hash(&bytes[0..24]) == u32_at(bytes, 24);
        if !whole || bytes[0..4] != SEGMENT_MAGIC {
            return Err(BadSegment::Damaged);
        }
        if bytes[4] != SEGMENT_VERSION {
            return Err(BadSegment::TooNew(bytes[4]));
        }
        Ok(Self { base: u64_at(bytes, 8), salt: u64_at(bytes, 16) })
    }
}

/// The head of one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameHeader {
    pub(super) sequence: u64,
    /// Payload bytes.
    pub(super) length: u32,
    /// crc32 of the payload.
    pub(super) crc: u32,
}

impl FrameHeader {
    pub(super) fn encode(self, salt: u64) -> [u8; FRAME_HEADER_BYTES] {
        let mut bytes = [0; FRAME_HEADER_BYTES];
        bytes[0..3].copy_from_slice(&FRAME_MAGIC);
        bytes[3] = KIND_PAYLOAD;
        bytes[4..8].copy_from_slice(&self.length.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.crc.to_le_bytes());
        let crc = header_crc(&bytes, salt);
        bytes[20..24].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// `None` when the bytes are no frame header of the segment with this salt.
    pub(super) fn decode(bytes: &[u8; FRAME_HEADER_BYTES], salt: u64) -> Option<Self> {
        let valid = bytes[0..3] == FRAME_MAGIC
            && bytes[3] == KIND_PAYLOAD
            && header_crc(bytes, salt) == u32_at(bytes, 20);
        valid.then(|| Self {
            sequence: u64_at(bytes, 8),
            length: u32_at(bytes, 4),
            crc: u32_at(bytes, 16),
        })
    }

    /// Bytes of header and payload.
    pub(super) fn frame_bytes(self) -> u64 {
        FRAME_HEADER_BYTES as u64 + u64::from(self.length)
    }
}

fn header_crc(bytes: &[u8; FRAME_HEADER_BYTES], salt: u64) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&salt.to_le_bytes());
    hasher.update(&bytes[0..20]);
    hasher.finalize()
}

/// The number at a fixed place of a header of fixed length.
fn u32_at<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}

fn u64_at<const N: usize>(bytes: &[u8; N], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What version 1 looks like, for ever.
    #[test]
    fn golden_bytes_of_version_1() {
        let header = SegmentHeader { base: 7, salt: 0x0102_0304_0506_0708 };
        let bytes = header.encode();
        assert_eq!(
            &bytes[0..24],
            b"MIRJ\x01\0\0\0\x07\0\0\0\0\0\0\0\x08\x07\x06\x05\x04\x03\x02\x01"
        );
        assert_eq!(SegmentHeader::decode(&bytes), Ok(header));
        let frame = FrameHeader { sequence: 9, length: 5, crc: 0x0a0b_0c0d };
        let bytes = frame.encode(header.salt);
        assert_eq!(&bytes[0..20], b"mjr\x01\x05\0\0\0\x09\0\0\0\0\0\0\0\x0d\x0c\x0b\x0a");
        assert_eq!(FrameHeader::decode(&bytes, header.salt), Some(frame));
    }

    #[test]
    fn a_frame_of_another_segment_is_none() {
        let bytes = FrameHeader { sequence: 9, length: 5, crc: 1 }.encode(1);
        assert_eq!(FrameHeader::decode(&bytes, 2), None);
    }

    #[test]
    fn a_newer_version_is_told_from_damage() {
        let mut bytes = SegmentHeader { base: 7, salt: 1 }.encode();
        bytes[4] = 2;
        assert_eq!(SegmentHeader::decode(&bytes), Err(BadSegment::Damaged));
        let crc = crc32fast::hash(&bytes[0..24]);
        bytes[24..28].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(SegmentHeader::decode(&bytes), Err(BadSegment::TooNew(2)));
    }
}
