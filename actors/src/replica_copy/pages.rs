//! Pages of documents, as they are asked for and sent. Pure.

use bytes::Bytes;
use miroir_wire::document::document_id;
use serde_json::Value;
use serde_json::value::RawValue;

use super::CopyError;
use crate::lane::job::BODY_BYTES_MAX;

pub(super) fn id_of(document: &RawValue, primary_key: &str) -> Result<String, CopyError> {
    document_id(document.get().as_bytes(), primary_key).map_err(|_| CopyError::NoId)
}

pub(super) fn json_body(value: &Value) -> Bytes {
    Bytes::from(value.to_string())
}

/// JSON arrays of the documents, each below what nodes take as a body unless one document alone
/// is above it.
pub(super) fn arrays_of(documents: &[Box<RawValue>]) -> Vec<Bytes> {
    let mut bodies = Vec::new();
    let mut body = Vec::new();
    for document in documents {
        let document = document.get().as_bytes();
        if !body.is_empty() && body.len() + document.len() + 2 > BODY_BYTES_MAX {
            body.push(b']');
            bodies.push(Bytes::from(std::mem::take(&mut body)));
        }
        body.push(if body.is_empty() { b'[' } else { b',' });
        body.extend_from_slice(document);
    }
    if !body.is_empty() {
        body.push(b']');
        bodies.push(Bytes::from(body));
    }
    bodies
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_becomes_arrays_of_whole_documents() {
        let page: Vec<Box<RawValue>> =
            (0..3).map(|id| serde_json::from_str(&format!("{{\"id\":{id}}}")).unwrap()).collect();
        let expected = Bytes::from_static(b"[{\"id\":0},{\"id\":1},{\"id\":2}]");
        assert_eq!(arrays_of(&page), vec![expected]);
        assert!(arrays_of(&[]).is_empty());
    }
}
