//! Browsers may call from anywhere, as with Meilisearch: keys, not origins, give rights.

use http::header::{
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD,
    ORIGIN,
};
use http::{HeaderMap, HeaderValue, Method};

use crate::reply::Reply;

/// Seconds for which a browser may keep the answer to its preflight.
const MAX_AGE_S: &str = "86400";

/// Whether a browser asks on behalf of a page.
pub fn is_cross_origin(headers: &HeaderMap) -> bool {
    headers.contains_key(ORIGIN)
}

/// Lets the page read the answer.
pub fn allow(headers: &mut HeaderMap) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
}

/// The answer when the request is a browser's question before the real one.
pub fn preflight(method: &Method, headers: &HeaderMap) -> Option<Reply> {
    if method != Method::OPTIONS
        || !is_cross_origin(headers)
        || !headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
    {
        return None;
    }
    let mut reply = Reply::empty(200);
    reply.headers.push(("access-control-allow-origin", "*".to_owned()));
    reply.headers.push((
        "access-control-allow-methods",
        "GET, POST, PUT, PATCH, DELETE, OPTIONS, HEAD".to_owned(),
    ));
    let wanted = headers.get(ACCESS_CONTROL_REQUEST_HEADERS).and_then(|value| value.to_str().ok());
    reply.headers.push(("access-control-allow-headers", wanted.unwrap_or("*").to_owned()));
    reply.headers.push(("access-control-max-age", MAX_AGE_S.to_owned()));
    Some(reply)
}
