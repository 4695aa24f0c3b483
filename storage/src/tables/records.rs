//! How records are stored: a version byte, then postcard.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A stored record of one table.
pub trait Record: Serialize + DeserializeOwned {
    /// The version this code writes. Older ones must be read by [`Record::upgrade`].
    const VERSION: u8;
    /// The record's name, for error messages.
    const NAME: &'static str;

    /// Reads an older version; `None` when it is unknown.
    fn upgrade(_version: u8, _bytes: &[u8]) -> Option<Self> {
        None
    }
}

/// Why a stored record can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The bytes are not such a record.
    #[error("stored {0} is damaged")]
    Damaged(&'static str),
    /// A newer version of Miroir wrote it.
    #[error("stored {name} has version {version}, which this version can't read")]
    TooNew {
        /// The record's name.
        name: &'static str,
        /// The version found.
        version: u8,
    },
}

/// The stored form of `record`.
pub fn encode<R: Record>(record: &R) -> Result<Vec<u8>, RecordError> {
    postcard::to_extend(record, vec![R::VERSION]).map_err(|_| RecordError::Damaged(R::NAME))
}

/// Reads a stored record of this or an older version.
///
/// # Errors
/// See [`RecordError`].
pub fn decode<R: Record>(bytes: &[u8]) -> Result<R, RecordError> {
    let (version, body) = bytes.split_first().ok_or(RecordError::Damaged(R::NAME))?;
    if *version == R::VERSION {
        return postcard::from_bytes(body).map_err(|_| RecordError::Damaged(R::NAME));
    }
    R::upgrade(*version, body).ok_or(RecordError::TooNew { name: R::NAME, version: *version })
}

/// A counter.
pub(crate) fn u64_from(bytes: &[u8]) -> Result<u64, RecordError> {
    bytes.try_into().map(u64::from_be_bytes).map_err(|_| RecordError::Damaged("counter"))
}

/// Stored text.
pub(crate) fn text_from(bytes: Vec<u8>) -> Result<String, RecordError> {
    String::from_utf8(bytes).map_err(|_| RecordError::Damaged("text"))
}
