//! What a handler answers, and how that becomes HTTP.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::Full;
use miroir_seams::planted::{self, Bug};
use miroir_wire::error::Code;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::failure::{Failure, list_shards};
use crate::search::{InexactHits, ReadAnswer};

/// Seconds after which a client may try again when too much is going on.
const RETRY_AFTER_S: &str = "10";

/// Says what an answer lacks.
pub const DEGRADED: &str = "x-miroir-degraded";

/// An answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// JSON body; empty for none.
    pub body: Vec<u8>,
    /// Further headers, names in lower case.
    pub headers: Vec<(&'static str, String)>,
}

impl Reply {
    /// A JSON answer.
    pub fn json(status: u16, value: &impl serde::Serialize) -> Self {
        // Views are plain structs: serialising them can't fail.
        let body = serde_json::to_vec(value).unwrap_or_default();
        Self { status, body, headers: Vec::new() }
    }

    /// An answer without a body.
    pub fn empty(status: u16) -> Self {
        Self { status, ..Default::default() }
    }

    /// The answer as HTTP.
    pub fn into_http(self) -> Response<Full<Bytes>> {
        let has_body = !self.body.is_empty();
        let mut response = Response::new(Full::new(Bytes::from(self.body)));
        *response.status_mut() =
            StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if has_body {
            let json = HeaderValue::from_static("application/json");
            response.headers_mut().insert(CONTENT_TYPE, json);
        }
        for (name, value) in self.headers {
            // Our own values: numbers and lists of them.
            if let Ok(value) = HeaderValue::from_str(&value) {
                response.headers_mut().insert(HeaderName::from_static(name), value);
            }
        }
        response
    }
}

impl From<ReadAnswer> for Reply {
    fn from(answer: ReadAnswer) -> Self {
        let mut headers = Vec::new();
        if !answer.missing.is_empty() && !planted::has(Bug::MissingUnsaid) {
            let shards = format!("shards={}", list_shards(&answer.missing));
            headers.push((DEGRADED, shards));
        }
        let mut inexact = Vec::new();
        if !answer.inexact_facets.is_empty() {
            let names: Vec<String> = answer
                .inexact_facets
                .iter()
                .map(|name| utf8_percent_encode(name, NON_ALPHANUMERIC).to_string())
                .collect();
            inexact.push(format!("facets={}", names.join(",")));
        }
        if !answer.inexact_hits.is_empty() {
            let reasons: Vec<&str> = answer.inexact_hits.iter().map(InexactHits::name).collect();
            inexact.push(format!("hits={}", reasons.join(",")));
        }
        if !inexact.is_empty() {
            headers.push(("x-miroir-inexact", inexact.join("; ")));
        }
        if let Some(version) = answer.settings_version {
            headers.push(("x-miroir-settings-version", version.to_string()));
        }
        if answer.settings_pending {
            headers.push(("x-miroir-settings-inconsistent", "true".to_owned()));
        }
        Self { status: 200, body: answer.body, headers }
    }
}

impl From<Failure> for Reply {
    fn from(failure: Failure) -> Self {
        let mut headers = Vec::new();
        if let Failure::Api(error) = &failure
            && matches!(error.code, Code::TooManySearchRequests | Code::MiroirOverloaded)
        {
            headers.push((RETRY_AFTER_NAME, RETRY_AFTER_S.to_owned()));
        }
        Self { status: failure.status(), body: failure.to_json(), headers }
    }
}

const RETRY_AFTER_NAME: &str = "retry-after";
