//! The error object `{message, code, type, link}` and the codes in it.

mod codes;

pub use codes::Code;
pub(crate) use codes::mark;

use std::fmt;

use serde::ser::SerializeStruct;
use serde::{Deserialize, Serialize, Serializer};

/// The `type` member of an error object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorType {
    /// The client's request is at fault.
    InvalidRequest,
    /// A bug, or a state that should not be.
    Internal,
    /// Missing or wrong credentials.
    Auth,
    /// The machine or the cluster is at fault: disk, limits, reachability.
    System,
}

impl ErrorType {
    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            ErrorType::InvalidRequest => "invalid_request",
            ErrorType::Internal => "internal",
            ErrorType::Auth => "auth",
            ErrorType::System => "system",
        }
    }
}

impl Code {
    /// Where the code is explained; Meilisearch's address for its own codes, and the same form for ours.
    pub fn link(self) -> String {
        format!("https://docs.meilisearch.com/errors#{}", self.name())
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Names a code in a type; see [`mark`].
pub(crate) trait Mark {
    /// The code.
    const CODE: Code;
}

/// What a request is refused with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// The code, which decides status, type and link.
    pub code: Code,
    /// The text for people.
    pub message: String,
}

impl ApiError {
    /// An error with this code and text.
    pub fn new(code: Code, message: impl Into<String>) -> ApiError {
        let mut message = message.into();
        if code == Code::IoError {
            message.push_str(
                ". This error generally happens when you have no space left on device or when your database doesn't have read or write right.",
            );
        }
        ApiError { code, message }
    }

    /// The HTTP status of the answer.
    pub fn status(&self) -> u16 {
        self.code.status()
    }

    /// The body of the answer.
    pub fn to_json(&self) -> Vec<u8> {
        // Four strings: serialising them cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The error of a task about an index, whose name Meilisearch puts before what its engine says.
    pub fn in_index(self, index: &str) -> ApiError {
        ApiError { code: self.code, message: format!("Index `{index}`: {}", self.message) }
    }

    /// `Index `name` not found.`
    pub fn index_not_found(index: &str) -> ApiError {
        ApiError::new(Code::IndexNotFound, format!("Index `{index}` not found."))
    }

    /// `Index `name` already exists.`
    pub fn index_already_exists(index: &str) -> ApiError {
        ApiError::new(Code::IndexAlreadyExists, format!("Index `{index}` already exists."))
    }

    /// `Document `id` not found.`
    pub fn document_not_found(id: &str) -> ApiError {
        ApiError::new(Code::DocumentNotFound, format!("Document `{id}` not found."))
    }

    /// `Task `uid` not found.`
    pub fn task_not_found(uid: u32) -> ApiError {
        ApiError::new(Code::TaskNotFound, format!("Task `{uid}` not found."))
    }
}

impl Serialize for ApiError {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("ApiError", 4)?;
        object.serialize_field("message", &self.message)?;
        object.serialize_field("code", self.code.name())?;
        object.serialize_field("type", self.code.kind().name())?;
        object.serialize_field("link", &self.code.link())?;
        object.end()
    }
}

/// An error object as text: what a node answered, what a task stores. Its code may be one we don't know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResponseError {
    /// The text for people.
    pub message: String,
    /// The code's name.
    pub code: String,
    /// The type's name.
    #[serde(rename = "type")]
    pub kind: String,
    /// Where the code is explained.
    #[serde(default)]
    pub link: String,
}

impl ResponseError {
    /// The code, when it is one we know.
    pub fn known_code(&self) -> Option<Code> {
        Code::from_name(&self.code)
    }
}

impl From<ApiError> for ResponseError {
    fn from(error: ApiError) -> ResponseError {
        ResponseError {
            message: error.message,
            code: error.code.name().to_owned(),
            kind: error.code.kind().name().to_owned(),
            link: error.code.link(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_object_has_the_four_members_in_order() {
        let error = ApiError::index_not_found("movies");
        assert_eq!(error.status(), 404);
        assert_eq!(
            String::from_utf8(error.to_json()).unwrap(),
            "{\"message\":\"Index `movies` not found.\",\"code\":\"index_not_found\",\"type\":\"invalid_request\",\
             \"link\":\"https://docs.meilisearch.com/errors#index_not_found\"}"
        );
    }

    #[test]
    fn every_code_is_found_by_its_name() {
        for &code in Code::ALL {
            assert_eq!(Code::from_name(code.name()), Some(code));
            assert!((400..=599).contains(&code.status()), "{code}");
        }
        assert_eq!(Code::from_name("no_such_code"), None);
    }

    #[test]
    fn codes_have_the_status_and_type_of_the_spec() {
        for (name, status, kind) in [
            ("index_not_found", 404, "invalid_request"),
            ("index_already_exists", 409, "invalid_request"),
            ("invalid_api_key", 403, "auth"),
            ("missing_authorization_header", 401, "auth"),
            ("missing_content_type", 415, "invalid_request"),
            ("payload_too_large", 413, "invalid_request"),
            ("too_many_search_requests", 503, "system"),
            ("internal", 500, "internal"),
            ("unretrievable_document", 400, "internal"),
            ("no_space_left_on_device", 422, "system"),
            ("miroir_primary_key_required", 400, "invalid_request"),
            ("miroir_reserved_field", 400, "invalid_request"),
            ("miroir_no_quorum", 503, "system"),
            ("miroir_shard_unavailable", 503, "system"),
            ("miroir_settings_version_stale", 503, "system"),
            ("miroir_idempotency_key_reused", 409, "invalid_request"),
            ("miroir_multi_alias_not_writable", 409, "invalid_request"),
            ("miroir_jwt_invalid", 401, "auth"),
            ("miroir_jwt_scope_denied", 403, "auth"),
            ("miroir_not_supported", 501, "invalid_request"),
            ("miroir_overloaded", 503, "system"),
            ("miroir_invalid_auth", 401, "auth"),
        ] {
            let code = Code::from_name(name).expect(name);
            assert_eq!((code.status(), code.kind().name()), (status, kind), "{name}");
        }
    }
}
