//! Content types, and cutting a payload into documents.
//!
//! A payload is read once: JSON and NDJSON documents stay where they are and are only delimited, CSV rows become
//! JSON objects as Meilisearch makes them. What is refused, and with which words, is what Meilisearch refuses.

mod csv_rows;

use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;
use serde_json::value::RawValue;

use crate::documents_query::csv_delimiter_from;
use crate::error::{ApiError, Code};

/// The format of a payload of documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PayloadKind {
    /// One object, or an array of them.
    Json,
    /// Objects one after the other.
    Ndjson,
    /// Rows under a header line.
    Csv {
        /// What separates fields; ASCII.
        delimiter: u8,
    },
}

impl fmt::Display for PayloadKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PayloadKind::Json => "json",
            PayloadKind::Ndjson => "ndjson",
            PayloadKind::Csv { .. } => "csv",
        })
    }
}

const DOCUMENT_TYPES: &str = "`application/json`, `application/x-ndjson`, `text/csv`";

fn missing_type(accepted: &str) -> ApiError {
    ApiError::new(
        Code::MissingContentType,
        format!(
            "A Content-Type header is missing. Accepted values for the Content-Type header are: {accepted}"
        ),
    )
}

fn wrong_type(given: &str, accepted: &str) -> ApiError {
    ApiError::new(
        Code::InvalidContentType,
        format!(
            "The Content-Type `{given}` is invalid. Accepted values for the Content-Type header are: {accepted}"
        ),
    )
}

/// The format a `Content-Type` header and a `csvDelimiter` parameter ask for.
///
/// # Errors
/// `missing_content_type`, `invalid_content_type`, `invalid_document_csv_delimiter`.
pub fn payload_kind(
    content_type: Option<&str>,
    csv_delimiter: Option<&str>,
) -> Result<PayloadKind, ApiError> {
    let delimiter = csv_delimiter.map(csv_delimiter_from).transpose()?;
    let given = content_type.ok_or_else(|| missing_type(DOCUMENT_TYPES))?;
    let mime: mime::Mime = given.parse().map_err(|_| wrong_type(given, DOCUMENT_TYPES))?;
    let kind = match (mime.type_().as_str(), mime.subtype().as_str()) {
        ("text", "csv") => return Ok(PayloadKind::Csv { delimiter: delimiter.unwrap_or(b',') }),
        ("application", "json") => PayloadKind::Json,
        ("application", "x-ndjson") => PayloadKind::Ndjson,
        (kind, subtype) => return Err(wrong_type(&format!("{kind}/{subtype}"), DOCUMENT_TYPES)),
    };
    match delimiter {
        None => Ok(kind),
        Some(_) => Err(ApiError::new(
            Code::InvalidContentType,
            format!(
                "The Content-Type `{}/{}` does not support the use of a csv delimiter. The csv delimiter can only be \
                 used with the Content-Type `text/csv`.",
                mime.type_(),
                mime.subtype()
            ),
        )),
    }
}

/// Checks the `Content-Type` of a request whose body is one JSON value (everything but documents).
///
/// # Errors
/// `missing_content_type`, `invalid_content_type`.
pub fn check_json_content_type(content_type: Option<&str>) -> Result<(), ApiError> {
    let given = content_type.ok_or_else(|| missing_type("`application/json`"))?;
    let json = given
        .parse::<mime::Mime>()
        .is_ok_and(|mime| mime.subtype() == mime::JSON || mime.suffix() == Some(mime::JSON));
    if json { Ok(()) } else { Err(wrong_type(given, "`application/json`")) }
}

/// The documents of one payload, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DocumentBatch {
    /// What the ranges point into: the payload itself, or what CSV was converted to.
    pub bytes: Bytes,
    /// Start and end of each document. Each range is one JSON object, without white space around it; ranges rise
    /// and do not overlap.
    pub ranges: Vec<(u32, u32)>,
}

impl DocumentBatch {
    /// The documents as bytes.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.ranges
            .iter()
            .map(|(start, end)| self.bytes.get(*start as usize..*end as usize).unwrap_or_default())
    }

    /// How many documents there are.
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }
}

/// Delimits and checks every document of a payload.
///
/// # Errors
/// `missing_payload` when there is not one byte, `malformed_payload` for what cannot be read, `internal` for a list
/// with a member that is no object (Meilisearch's own answer), `payload_too_large` from 4 GiB on.
pub fn read_documents(kind: PayloadKind, body: &Bytes) -> Result<DocumentBatch, ApiError> {
    if body.is_empty() {
        return Err(ApiError::new(Code::MissingPayload, format!("A {kind} payload is missing.")));
    }
    if u32::try_from(body.len()).is_err() {
        return Err(payload_too_large(u64::from(u32::MAX)));
    }
    match kind {
        PayloadKind::Json => read_json(body),
        PayloadKind::Ndjson => read_ndjson(body),
        PayloadKind::Csv { delimiter } => csv_rows::read(body, delimiter),
    }
}

/// What a payload over the limit (in bytes) is answered with.
pub fn payload_too_large(limit_bytes: u64) -> ApiError {
    ApiError::new(
        Code::PayloadTooLarge,
        format!(
            "The provided payload reached the size limit. The maximum accepted payload size is {}.",
            binary_size(limit_bytes)
        ),
    )
}

/// A size in the largest binary unit that leaves at least one: `100 MiB`, `9.5367431640625 MiB`.
fn binary_size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let step = (u64::BITS - 1 - bytes.max(1).leading_zeros()) / 10;
    match UNITS.get((step as usize).wrapping_sub(1)) {
        None => format!("{bytes} B"),
        Some(unit) => format!("{} {unit}", bytes as f64 / (1u64 << (10 * step)) as f64),
    }
}

/// Where `raw` lies in `body`, of which it is a part.
fn range_in(body: &[u8], raw: &RawValue) -> (u32, u32) {
    let start = raw.get().as_ptr() as usize - body.as_ptr() as usize;
    // `read_documents` has checked that every position fits.
    (start as u32, (start + raw.get().len()) as u32)
}

fn read_json(body: &Bytes) -> Result<DocumentBatch, ApiError> {
    let mut ranges = Vec::new();
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    // What follows the array is not looked at; Meilisearch does not either.
    let outcome = each_element(&mut deserializer, |raw: &RawValue| {
        check_object(raw)?;
        ranges.push(range_in(body, raw));
        Ok(())
    });
    match outcome {
        Ok(Ok(())) => Ok(DocumentBatch { bytes: body.clone(), ranges }),
        Ok(Err(error)) => Err(unreadable_document(PayloadKind::Json, &error)),
        Err(error) if error.classify() != Category::Data => {
            Err(malformed(PayloadKind::Json, &error))
        }
        Err(_) => {
            let raw: &RawValue = serde_json::from_slice(body)
                .map_err(|error| malformed(PayloadKind::Json, &error))?;
            check_object(raw).map_err(|error| malformed(PayloadKind::Json, &error))?;
            Ok(DocumentBatch { bytes: body.clone(), ranges: vec![range_in(body, raw)] })
        }
    }
}

fn read_ndjson(body: &Bytes) -> Result<DocumentBatch, ApiError> {
    let mut ranges = Vec::new();
    for raw in serde_json::Deserializer::from_slice(body).into_iter::<&RawValue>() {
        let raw = raw.map_err(|error| unreadable_document(PayloadKind::Ndjson, &error))?;
        check_object(raw).map_err(|error| unreadable_document(PayloadKind::Ndjson, &error))?;
        ranges.push(range_in(body, raw));
    }
    Ok(DocumentBatch { bytes: body.clone(), ranges })
}

/// Refuses what is no object, or has a key that is no text. The syntax has been checked already, and only an
/// escape can make a key unreadable, so most documents cost one search for `\u`.
fn check_object(raw: &RawValue) -> serde_json::Result<()> {
    let bytes = raw.get().as_bytes();
    if bytes.first() == Some(&b'{') && memchr::memmem::find(bytes, b"\\u").is_none() {
        return Ok(());
    }
    serde_json::from_str::<ReadableObject>(raw.get()).map(|ReadableObject| ())
}

/// An object all of whose keys are text.
struct ReadableObject;

impl<'de> Deserialize<'de> for ReadableObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = ReadableObject;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ReadableObject, A::Error> {
                while map.next_entry::<String, IgnoredAny>()?.is_some() {}
                Ok(ReadableObject)
            }
        }
        deserializer.deserialize_map(Keys)
    }
}

/// Hands over the elements of an array one by one. The outer error is the array's, the inner one the callback's.
fn each_element<'de, D, F>(deserializer: D, each: F) -> Result<serde_json::Result<()>, D::Error>
where
    D: Deserializer<'de>,
    F: FnMut(&'de RawValue) -> serde_json::Result<()>,
{
    struct Elements<'de, F>(F, PhantomData<&'de ()>);
    impl<'de, F: FnMut(&'de RawValue) -> serde_json::Result<()>> Visitor<'de> for Elements<'de, F> {
        type Value = serde_json::Result<()>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a nonempty sequence")
        }

        fn visit_seq<A: SeqAccess<'de>>(
            mut self,
            mut elements: A,
        ) -> Result<Self::Value, A::Error> {
            while let Some(raw) = elements.next_element::<&'de RawValue>()? {
                if let Err(error) = (self.0)(raw) {
                    return Ok(Err(error));
                }
            }
            Ok(Ok(()))
        }
    }
    deserializer.deserialize_seq(Elements(each, PhantomData))
}

/// A document that is JSON but no object is, to Meilisearch, an internal error; anything else is malformed.
fn unreadable_document(kind: PayloadKind, error: &serde_json::Error) -> ApiError {
    match error.classify() {
        Category::Data => ApiError::new(Code::Internal, error.to_string()),
        _ => malformed(kind, error),
    }
}

fn malformed(kind: PayloadKind, error: &serde_json::Error) -> ApiError {
    let cause = match error.classify() {
        Category::Data => "data are neither an object nor a list of objects".to_owned(),
        _ => error.to_string(),
    };
    ApiError::new(
        Code::MalformedPayload,
        format!(
            "The `{kind}` payload provided is malformed. `Couldn't serialize document value: {}`.",
            middle_cut(cause)
        ),
    )
}

/// The client's own text can be in a cause, at any length: the middle gives way.
fn middle_cut(mut text: String) -> String {
    const HEAD_BYTES: usize = 50;
    const TAIL_BYTES: usize = 85;
    const MARK: &str = "...";
    if text.len() > HEAD_BYTES + TAIL_BYTES + MARK.len() {
        let head = text.floor_char_boundary(HEAD_BYTES);
        let tail = text.ceil_char_boundary(text.len() - TAIL_BYTES);
        text.replace_range(head..tail, MARK);
    }
    text
}

#[cfg(test)]
mod tests;
