//! The master key.
//!
//! A node knows one key. Without one it is in development mode: every route is open.

use http::HeaderMap;
use http::header::AUTHORIZATION;
use miroir_wire::error::{ApiError, Code};
use subtle::ConstantTimeEq;

/// Checks the bearer of a request against the node's key.
///
/// # Errors
/// `missing_authorization_header` without a bearer, `invalid_api_key` with another one.
pub(crate) fn check_key(master_key: Option<&str>, headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(master_key) = master_key else { return Ok(()) };
    let bearer = bearer(headers)?;
    if bool::from(bearer.as_bytes().ct_eq(master_key.as_bytes())) {
        Ok(())
    } else {
        Err(invalid_key())
    }
}

fn bearer(headers: &HeaderMap) -> Result<&str, ApiError> {
    let header = headers.get(AUTHORIZATION).ok_or_else(missing_header)?;
    match header.to_str().unwrap_or_default().split_once(' ') {
        Some(("Bearer", token)) => Ok(token),
        None if header == "Bearer" => Err(invalid_key()),
        _ => Err(missing_header()),
    }
}

fn missing_header() -> ApiError {
    ApiError::new(
        Code::MissingAuthorizationHeader,
        "The Authorization header is missing. It must use the bearer authorization method.",
    )
}

fn invalid_key() -> ApiError {
    ApiError::new(Code::InvalidApiKey, "The provided API key is invalid.")
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn only_the_key_as_bearer_opens() {
        let cases = [
            (Some("Bearer right"), None),
            (Some("Bearer wrong"), Some(Code::InvalidApiKey)),
            (Some("Bearer "), Some(Code::InvalidApiKey)),
            (Some("Bearer"), Some(Code::InvalidApiKey)),
            (Some("Basic right"), Some(Code::MissingAuthorizationHeader)),
            (Some("right"), Some(Code::MissingAuthorizationHeader)),
            (None, Some(Code::MissingAuthorizationHeader)),
        ];
        for (header, code) in cases {
            let mut headers = HeaderMap::new();
            if let Some(header) = header {
                headers.insert(AUTHORIZATION, HeaderValue::from_static(header));
            }
            let refused = check_key(Some("right"), &headers).err().map(|error| error.code);
            assert_eq!(refused, code, "{header:?}");
            assert!(check_key(None, &headers).is_ok());
        }
    }
}
