//! Browsers of any origin may ask a node, as with Meilisearch: the key is what protects it.

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD,
    HeaderValue, ORIGIN,
};
use http::request::Parts;
use http::{Method, StatusCode};

use super::answer::{Answer, empty};

/// How long a browser may remember a preflight, seconds (24 h, as in Meilisearch).
const PREFLIGHT_SECONDS: HeaderValue = HeaderValue::from_static("86400");

/// Whether the request comes from a page of some origin.
pub(super) fn is_cross_origin(parts: &Parts) -> bool {
    parts.headers.contains_key(ORIGIN)
}

/// The answer to a preflight request; `None` for any other request.
pub(super) fn preflight(parts: &Parts) -> Option<Answer> {
    let method = parts.headers.get(ACCESS_CONTROL_REQUEST_METHOD)?;
    if parts.method != Method::OPTIONS || !is_cross_origin(parts) {
        return None;
    }
    let mut answer = empty(StatusCode::OK);
    let headers = answer.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, method.clone());
    if let Some(wanted) = parts.headers.get(ACCESS_CONTROL_REQUEST_HEADERS) {
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, wanted.clone());
    }
    headers.insert(ACCESS_CONTROL_MAX_AGE, PREFLIGHT_SECONDS);
    open(&mut answer);
    Some(answer)
}

/// Lets a page of any origin read the answer.
pub(super) fn open(answer: &mut Answer) {
    answer.headers_mut().insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
}
