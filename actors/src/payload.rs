//! How documents lie in the journal: the checked documents of one request, each a JSON object.
//!
//! Layout, little-endian: `count: u32`, then `count` lengths of `u32`, then the documents one
//! after the other. Frames are checksummed by the journal below.

use bytes::{BufMut, Bytes, BytesMut};
use miroir_wire::content::DocumentBatch;

/// The journal's bytes are not what [`encode_documents`] wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("journalled payload is damaged")]
pub struct DamagedPayload;

/// The journalled form of a request's documents.
pub fn encode_documents(batch: &DocumentBatch) -> Bytes {
    let body: usize = batch.iter().map(<[u8]>::len).sum();
    let mut bytes = BytesMut::with_capacity(4 + 4 * batch.len() + body);
    bytes.put_u32_le(batch.len() as u32);
    for document in batch.iter() {
        bytes.put_u32_le(document.len() as u32);
    }
    for document in batch.iter() {
        bytes.put_slice(document);
    }
    bytes.freeze()
}

/// Reads the journalled form; nothing is copied.
///
/// # Errors
/// [`DamagedPayload`] when the lengths don't add up.
pub fn decode_documents(bytes: Bytes) -> Result<DocumentBatch, DamagedPayload> {
    let number = |at: usize| -> Result<u32, DamagedPayload> {
        let four = bytes.get(at..at + 4).ok_or(DamagedPayload)?;
        Ok(u32::from_le_bytes(four.try_into().map_err(|_| DamagedPayload)?))
    };
    let count = number(0)? as usize;
    let mut start =
        count.checked_mul(4).and_then(|lengths| lengths.checked_add(4)).ok_or(DamagedPayload)?;
    if start > bytes.len() {
        return Err(DamagedPayload);
    }
    let mut ranges = Vec::with_capacity(count);
    for n in 0..count {
        let end = start + number(4 + 4 * n)? as usize;
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

    #[test]
    fn documents_survive_the_journal() {
        let bytes = Bytes::from_static(b"[{\"id\":1},{\"id\":\"b\"}]");
        let batch = DocumentBatch { bytes, ranges: vec![(1, 9), (10, 20)] };
        let stored = encode_documents(&batch);
        let again = decode_documents(stored.clone())
            .map(|batch| batch.iter().map(<[u8]>::to_vec).collect::<Vec<_>>());
        assert_eq!(again, Ok(vec![b"{\"id\":1}".to_vec(), b"{\"id\":\"b\"}".to_vec()]));
        for cut in 0..stored.len() {
            assert_eq!(decode_documents(stored.slice(..cut)), Err(DamagedPayload));
        }
    }
}
