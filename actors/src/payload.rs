//! How documents lie in the journal: what a client sent, and where in it the documents are.
//!
//! Layout, little-endian: `u32::MAX`, `count: u32`, then `count` pairs of `u32` (start and end of
//! a document, counted from the end of this head), then the bytes that the pairs point into: the
//! checked body as it came, so that a large one is never copied. Frames are checksummed by the
//! journal below.
//!
//! What a function made of documents is kept alike: in the place of the first document stand the ids of
//! those that it deleted, a JSON array of strings.
//!
//! Journals of earlier versions hold `count: u32` (never `u32::MAX`), `count` lengths of `u32`,
//! then the documents one after the other.

use bytes::{BufMut, Bytes, BytesMut};
use miroir_storage::journal::Payload;
use miroir_wire::content::DocumentBatch;

/// First number of the layout that is written now. No batch of the earlier layout has so many
/// documents: their bytes alone would pass the journal's limit of 4 GiB.
const POINTS_INTO_BODY: u32 = u32::MAX;

/// The journal's bytes are not what [`encode_documents`] wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("journalled payload is damaged")]
pub struct DamagedPayload;

/// The journalled form of a request's documents; the documents are not copied.
pub fn encode_documents(batch: &DocumentBatch) -> Payload {
    let (first, last) = match (batch.ranges.first(), batch.ranges.last()) {
        (Some((first, _)), Some((_, last))) => (*first, *last),
        _ => (0, 0),
    };
    let mut head = BytesMut::with_capacity(8 + 8 * batch.len());
    head.put_u32_le(POINTS_INTO_BODY);
    head.put_u32_le(batch.len() as u32);
    for (start, end) in &batch.ranges {
        head.put_u32_le(start - first);
        head.put_u32_le(end - first);
    }
    Payload { head: head.freeze(), body: batch.bytes.slice(first as usize..last as usize) }
}

/// Reads the journalled form; nothing is copied.
///
/// # Errors
/// [`DamagedPayload`] when the numbers don't add up.
pub fn decode_documents(bytes: Bytes) -> Result<DocumentBatch, DamagedPayload> {
    match number(&bytes, 0)? {
        POINTS_INTO_BODY => decode_ranges(bytes),
        count => decode_lengths(bytes, count as usize),
    }
}

/// The journalled form of what a function made of documents: those that it changed, and the ids of
/// those that it deleted.
pub fn encode_edited(changed: &[Vec<u8>], deleted: &[String]) -> Payload {
    let deleted = serde_json::Value::from(deleted).to_string().into_bytes();
    let (mut bytes, mut ranges) = (BytesMut::new(), Vec::with_capacity(1 + changed.len()));
    for part in std::iter::once(&deleted).chain(changed) {
        let start = bytes.len() as u32;
        bytes.put_slice(part);
        ranges.push((start, bytes.len() as u32));
    }
    encode_documents(&DocumentBatch { bytes: bytes.freeze(), ranges })
}

/// Reads what [`encode_edited`] wrote.
///
/// # Errors
/// [`DamagedPayload`] when it is something else.
pub fn decode_edited(bytes: Bytes) -> Result<(DocumentBatch, Vec<String>), DamagedPayload> {
    let mut batch = decode_documents(bytes)?;
    let deleted = batch.iter().next().ok_or(DamagedPayload)?;
    let deleted = serde_json::from_slice(deleted).map_err(|_| DamagedPayload)?;
    batch.ranges.remove(0);
    Ok((batch, deleted))
}

fn number(bytes: &Bytes, at: usize) -> Result<u32, DamagedPayload> {
    let four = bytes.get(at..at.saturating_add(4)).ok_or(DamagedPayload)?;
    Ok(u32::from_le_bytes(four.try_into().map_err(|_| DamagedPayload)?))
}

fn decode_ranges(mut bytes: Bytes) -> Result<DocumentBatch, DamagedPayload> {
    let count = number(&bytes, 4)? as usize;
    let head = count.checked_mul(8).and_then(|pairs| pairs.checked_add(8));
    let head = head.filter(|head| *head <= bytes.len()).ok_or(DamagedPayload)?;
    let mut ranges = Vec::with_capacity(count);
    let mut last = 0;
    for n in 0..count {
        let (start, end) = (number(&bytes, 8 + 8 * n)?, number(&bytes, 12 + 8 * n)?);
        if start < last || end < start {
            return Err(DamagedPayload);
        }
        ranges.push((start, end));
        last = end;
    }
    let bytes = bytes.split_off(head);
    if last as usize != bytes.len() {
        return Err(DamagedPayload);
    }
    Ok(DocumentBatch { bytes, ranges })
}

fn decode_lengths(bytes: Bytes, count: usize) -> Result<DocumentBatch, DamagedPayload> {
    let mut start =
        count.checked_mul(4).and_then(|lengths| lengths.checked_add(4)).ok_or(DamagedPayload)?;
    if start > bytes.len() {
        return Err(DamagedPayload);
    }
    let mut ranges = Vec::with_capacity(count);
    for n in 0..count {
        let end = start + number(&bytes, 4 + 4 * n)? as usize;
        if end > bytes.len() {
            return Err(DamagedPayload);
        }
        ranges.push((start as u32, end as u32));
        start = end;
    }
    if start != bytes.len() {
        return Err(DamagedPayload);
    }
    Ok(DocumentBatch { bytes, ranges })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] = b"[{\"id\":1}, {\"id\":\"b\"}] ";

    fn stored(payload: Payload) -> Bytes {
        [payload.head, payload.body].concat().into()
    }

    fn documents(stored: Bytes) -> Result<Vec<Vec<u8>>, DamagedPayload> {
        decode_documents(stored).map(|batch| batch.iter().map(<[u8]>::to_vec).collect())
    }

    #[test]
    fn documents_survive_the_journal() {
        let batch =
            DocumentBatch { bytes: Bytes::from_static(BODY), ranges: vec![(1, 9), (11, 21)] };
        let stored = stored(encode_documents(&batch));
        let expected = vec![b"{\"id\":1}".to_vec(), b"{\"id\":\"b\"}".to_vec()];
        assert_eq!(documents(stored.clone()), Ok(expected));
        for cut in 0..stored.len() {
            assert_eq!(documents(stored.slice(..cut)), Err(DamagedPayload), "{cut}");
        }
        let none = encode_documents(&DocumentBatch::default());
        assert_eq!(documents([none.head, none.body].concat().into()), Ok(Vec::new()));
    }

    #[test]
    fn what_a_function_made_survives_the_journal() {
        let (changed, deleted) =
            (vec![b"{\"id\":1}".to_vec()], vec!["a".to_owned(), "b".to_owned()]);
        let kept = stored(encode_edited(&changed, &deleted));
        let (batch, ids) = decode_edited(kept.clone()).unwrap();
        assert_eq!((batch.iter().map(<[u8]>::to_vec).collect(), ids), (changed, deleted));
        let none = decode_edited(stored(encode_edited(&[], &[]))).unwrap();
        assert!(none.0.is_empty() && none.1.is_empty());
        assert!(decode_edited(kept.slice(..kept.len() - 1)).is_err());
        let documents = encode_documents(&DocumentBatch::default());
        assert!(decode_edited(stored(documents)).is_err());
    }

    #[test]
    fn a_body_is_not_copied_into_its_payload() {
        let bytes = Bytes::from_static(BODY);
        let payload = encode_documents(&DocumentBatch { bytes, ranges: vec![(1, 9)] });
        assert_eq!(payload.body.as_ptr(), BODY[1..].as_ptr());
    }

    #[test]
    fn journals_of_earlier_versions_are_read() {
        let old: &[u8] = b"\x02\0\0\0\x08\0\0\0\x0a\0\0\0{\"id\":1}{\"id\":\"b\"}";
        let expected = vec![b"{\"id\":1}".to_vec(), b"{\"id\":\"b\"}".to_vec()];
        assert_eq!(documents(Bytes::from_static(old)), Ok(expected));
        for cut in 0..old.len() {
            assert_eq!(documents(Bytes::from_static(&old[..cut])), Err(DamagedPayload), "{cut}");
        }
    }
}
