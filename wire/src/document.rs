//! Reading one document where it lies: a value at a path, its id, the field that is its primary key.
//!
//! Of repeated keys in an object the last one counts, as in Meilisearch when it reads a JSON array.

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::error::{ApiError, Code};
use crate::json_scan::Members;

/// How many objects deep a path is followed: the engine itself refuses documents nested deeper than 128, and a path
/// comes from outside and must not cost stack.
const DEPTH_MAX: usize = 128;

/// Longest document id, in bytes.
pub const ID_BYTES_MAX: usize = 511;

/// Why a document has no usable id. Each becomes the error of the *task*, not of the request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The primary key is absent.
    #[error("Document doesn't have a `{primary_key}` attribute: `{document}`.")]
    Missing {
        /// The index's primary key.
        primary_key: String,
        /// The document, as compact JSON.
        document: String,
    },
    /// The value under the primary key is no id.
    #[error(
        "Document identifier `{value}` is invalid. A document identifier can be of type integer or string, \
         only composed of alphanumeric characters (a-z A-Z 0-9), hyphens (-) and underscores (_), \
         and can not be more than 511 bytes."
    )]
    Invalid {
        /// The value, as compact JSON.
        value: String,
    },
    /// A dotted primary key names more than one value (`a.b` and `a: {b}`).
    #[error("Document have too many matching `{primary_key}` attribute: `{document}`.")]
    TooMany {
        /// The index's primary key.
        primary_key: String,
        /// The document, as compact JSON.
        document: String,
    },
}

impl IdError {
    /// The code the task fails with.
    pub fn code(&self) -> Code {
        match self {
            IdError::Missing { .. } => Code::MissingDocumentId,
            IdError::Invalid { .. } | IdError::TooMany { .. } => Code::InvalidDocumentId,
        }
    }
}

impl From<IdError> for ApiError {
    fn from(error: IdError) -> ApiError {
        ApiError::new(error.code(), error.to_string())
    }
}

/// The value at `path` in a document: the key that is literally `path`, else what the dots lead to through nested
/// objects (keys may themselves hold dots). One pass over the object, and over each nested object on the way.
pub fn value_at<'a>(object: &'a [u8], path: &str) -> Option<&'a RawValue> {
    serde_json::from_slice(bytes_at(object, path, 0)?).ok()
}

fn bytes_at<'a>(object: &'a [u8], path: &str, depth: usize) -> Option<&'a [u8]> {
    if depth > DEPTH_MAX {
        return None;
    }
    let mut literal = None;
    let mut nested = None;
    for member in Members::of(object) {
        match rest_of_path(path, &member.key()) {
            Some("") => literal = Some(member.value),
            Some(rest) => nested = bytes_at(member.value, rest, depth + 1).or(nested),
            None => {}
        }
    }
    literal.or(nested)
}

/// What is left of `path` after the step `key`; `Some("")` when nothing is. An empty key is no step.
fn rest_of_path<'p>(path: &'p str, key: &str) -> Option<&'p str> {
    if key.is_empty() {
        return None;
    }
    let rest = path.strip_prefix(key)?;
    if rest.is_empty() { Some("") } else { rest.strip_prefix('.').filter(|rest| !rest.is_empty()) }
}

/// The id of a document in text form: `1` and `"1"` are the same document.
///
/// # Errors
/// [`IdError`], with Meilisearch's texts.
pub fn document_id(object: &[u8], primary_key: &str) -> Result<String, IdError> {
    let mut found = Vec::new();
    values_at(object, primary_key, 0, &mut found);
    match found.as_slice() {
        [] => {
            Err(IdError::Missing { primary_key: primary_key.to_owned(), document: compact(object) })
        }
        [value] => check_id(value),
        [first, ..] => {
            check_id(first)?;
            Err(IdError::TooMany { primary_key: primary_key.to_owned(), document: compact(object) })
        }
    }
}

/// Every value that `path` can mean, in document order; a repeated key counts once, with its last value.
fn values_at<'a>(object: &'a [u8], path: &str, depth: usize, found: &mut Vec<&'a [u8]>) {
    if depth > DEPTH_MAX {
        return;
    }
    let mut steps: Vec<(Cow<'a, str>, &'a [u8])> = Vec::new();
    for member in Members::of(object) {
        let key = member.key();
        if rest_of_path(path, &key).is_none() {
            continue;
        }
        match steps.iter_mut().find(|(known, _)| *known == key) {
            Some((_, value)) => *value = member.value,
            None => steps.push((key, member.value)),
        }
    }
    for (key, value) in steps {
        match rest_of_path(path, &key) {
            Some("") => found.push(value),
            Some(rest) => values_at(value, rest, depth + 1, found),
            None => {}
        }
    }
}

fn check_id(value: &[u8]) -> Result<String, IdError> {
    let parsed: serde_json::Value = match serde_json::from_slice(value) {
        Ok(parsed) => parsed,
        Err(_) => {
            return Err(IdError::Invalid { value: String::from_utf8_lossy(value).into_owned() });
        }
    };
    match parsed {
        serde_json::Value::String(text) if is_id(&text) => Ok(text),
        serde_json::Value::Number(number) if number.is_u64() || number.is_i64() => {
            Ok(number.to_string())
        }
        other => Err(IdError::Invalid { value: other.to_string() }),
    }
}

/// Checks an id given as a JSON value (`ids` of a request) and returns its text form.
///
/// # Errors
/// [`IdError::Invalid`].
pub fn id_from_value(value: &serde_json::Value) -> Result<String, IdError> {
    match value {
        serde_json::Value::String(text) if is_id(text) => Ok(text.clone()),
        serde_json::Value::Number(number) if number.is_u64() || number.is_i64() => {
            Ok(number.to_string())
        }
        other => Err(IdError::Invalid { value: other.to_string() }),
    }
}

/// Whether a text is a document id: 1 to 511 bytes of `[A-Za-z0-9_-]`.
pub fn is_id(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= ID_BYTES_MAX
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

/// A document as Meilisearch prints it in a message.
fn compact(object: &[u8]) -> String {
    match serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(object) {
        Ok(map) => serde_json::Value::Object(map).to_string(),
        Err(_) => String::from_utf8_lossy(object).into_owned(),
    }
}

/// The one top-level attribute whose name ends in `id` (any case).
///
/// # Errors
/// `index_primary_key_no_candidate_found`, `index_primary_key_multiple_candidates_found`.
pub fn infer_primary_key(object: &[u8]) -> Result<String, ApiError> {
    let mut candidates: Vec<Cow<'_, str>> = Members::of(object)
        .map(|member| member.key())
        .filter(|key| key.to_lowercase().ends_with("id"))
        .collect();
    candidates.sort_unstable();
    candidates.dedup();
    match candidates.as_slice() {
        [] => Err(no_primary_key_candidate()),
        [only] => Ok(only.to_string()),
        [first, second, ..] => Err(ApiError::new(
            Code::IndexPrimaryKeyMultipleCandidatesFound,
            format!(
                "The primary key inference failed as the engine found {} fields ending with `id` in their names: \
                 '{first}' and '{second}'. Please specify the primary key manually using the `primaryKey` query parameter.",
                candidates.len()
            ),
        )),
    }
}

/// What inference fails with when nothing qualifies, an empty payload included.
pub fn no_primary_key_candidate() -> ApiError {
    ApiError::new(
        Code::IndexPrimaryKeyNoCandidateFound,
        "The primary key inference failed as the engine did not find any field ending with `id` in its name. \
         Please specify the primary key manually using the `primaryKey` query parameter.",
    )
}

/// What a task fails with that names another primary key than the index has.
pub fn primary_key_cannot_change(present: &str) -> ApiError {
    ApiError::new(
        Code::IndexPrimaryKeyAlreadyExists,
        format!("Index already has a primary key: `{present}`."),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const INVALID: &str = "is invalid. A document identifier can be of type integer or string, only composed of \
         alphanumeric characters (a-z A-Z 0-9), hyphens (-) and underscores (_), and can not be more than 511 bytes.";

    #[test]
    fn ids_are_integers_or_plain_strings() {
        for (object, id) in [
            (r#"{"id":1}"#, "1"),
            (r#"{"id":"1"}"#, "1"),
            (r#"{"id":-7}"#, "-7"),
            (r#"{"a":[{"id":3}],"id" : 18446744073709551615 }"#, "18446744073709551615"),
            (r#"{"id":"a-B_9"}"#, "a-B_9"),
            (r#"{"id":"\u0041"}"#, "A"),
            (r#"{"\u0069d":5}"#, "5"),
            (r#"{"id":1,"id":2}"#, "2"),
        ] {
            assert_eq!(document_id(object.as_bytes(), "id").as_deref(), Ok(id), "{object}");
        }
        let longest = "a".repeat(511);
        assert_eq!(document_id(format!("{{\"id\":\"{longest}\"}}").as_bytes(), "id"), Ok(longest));
    }

    #[test]
    fn other_values_are_no_ids_and_the_message_shows_them() {
        for (value, shown) in [
            ("1.5", "1.5"),
            ("-0", "-0.0"),
            ("1e2", "100.0"),
            ("null", "null"),
            ("true", "true"),
            ("\"\"", "\"\""),
            ("\"a b\"", "\"a b\""),
            ("\"é\"", "\"é\""),
            ("[ 1 ]", "[1]"),
            ("{ \"a\": 1 }", "{\"a\":1}"),
        ] {
            let error = document_id(format!("{{\"id\":{value}}}").as_bytes(), "id").unwrap_err();
            assert_eq!(error.code(), Code::InvalidDocumentId);
            assert_eq!(error.to_string(), format!("Document identifier `{shown}` {INVALID}"));
        }
        assert!(
            document_id(format!("{{\"id\":\"{}\"}}", "a".repeat(512)).as_bytes(), "id").is_err()
        );
    }

    #[test]
    fn a_missing_id_is_named_with_the_document() {
        let error = document_id(br#"{ "title" : "x",  "ID": 1 }"#, "id").unwrap_err();
        assert_eq!(error.code(), Code::MissingDocumentId);
        assert_eq!(
            error.to_string(),
            r#"Document doesn't have a `id` attribute: `{"title":"x","ID":1}`."#
        );
    }

    #[test]
    fn dotted_primary_keys_lead_through_objects() {
        assert_eq!(document_id(br#"{"a":{"b":{"c":1}}}"#, "a.b.c").as_deref(), Ok("1"));
        assert_eq!(document_id(br#"{"a.b":{"c":1}}"#, "a.b.c").as_deref(), Ok("1"));
        assert_eq!(document_id(br#"{"a.b.c":1}"#, "a.b.c").as_deref(), Ok("1"));
        assert!(matches!(document_id(br#"{"a":1}"#, "a.b"), Err(IdError::Missing { .. })));
        assert!(matches!(document_id(br#"{"a":[{"b":1}]}"#, "a.b"), Err(IdError::Missing { .. })));
        let error = document_id(br#"{"a":{"b":1},"a.b":2}"#, "a.b").unwrap_err();
        assert_eq!(
            error.to_string(),
            r#"Document have too many matching `a.b` attribute: `{"a":{"b":1},"a.b":2}`."#
        );
        assert_eq!(error.code(), Code::InvalidDocumentId);
    }

    #[test]
    fn values_are_found_literally_first_then_by_dots() {
        let object = br#"{"a":{"b":1,"b":2},"a.b":3,"x":{"y.z":{"w":[4]}},"n":null}"#;
        for (path, value) in [
            ("a.b", Some("3")),
            ("a", Some(r#"{"b":1,"b":2}"#)),
            ("x.y.z.w", Some("[4]")),
            ("n", Some("null")),
            ("x.y", None),
            ("", None),
            ("a.", None),
            ("b", None),
        ] {
            assert_eq!(value_at(object, path).map(RawValue::get), value, "{path}");
        }
        assert_eq!(value_at(br#"{"a":{"b":1,"b":2}}"#, "a.b").map(RawValue::get), Some("2"));
    }

    #[test]
    fn primary_keys_are_inferred_from_one_candidate_only() {
        assert_eq!(infer_primary_key(br#"{"title":1,"movieID":2}"#).as_deref(), Ok("movieID"));
        assert_eq!(infer_primary_key(br#"{"id":1,"id":2}"#).as_deref(), Ok("id"));
        let none = infer_primary_key(br#"{"title":1,"nested":{"id":1}}"#).unwrap_err();
        assert_eq!(none.code, Code::IndexPrimaryKeyNoCandidateFound);
        assert_eq!(
            none.message,
            "The primary key inference failed as the engine did not find any field ending with `id` in its name. \
             Please specify the primary key manually using the `primaryKey` query parameter."
        );
        let many = infer_primary_key(br#"{"uid":1,"zid":1,"id":2}"#).unwrap_err();
        assert_eq!(many.code, Code::IndexPrimaryKeyMultipleCandidatesFound);
        assert_eq!(
            many.message,
            "The primary key inference failed as the engine found 3 fields ending with `id` in their names: \
             'id' and 'uid'. Please specify the primary key manually using the `primaryKey` query parameter."
        );
    }
}
