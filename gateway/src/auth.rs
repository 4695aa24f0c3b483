//! Who may ask what. Order and codes are spec 03's; API keys and tenant tokens come later.

use http::HeaderMap;
use http::header::AUTHORIZATION;
use miroir_wire::error::{ApiError, Code};
use subtle::ConstantTimeEq;

use crate::context::GatewayConfig;

/// The right a route needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// Nobody is asked.
    Exempt,
    /// The master key.
    Client,
    /// The admin key.
    Operator,
}

/// Checks that the request has the right.
///
/// # Errors
/// `missing_authorization_header`, `invalid_api_key`; `miroir_invalid_auth` for operators.
pub fn check_right(
    config: &GatewayConfig,
    headers: &HeaderMap,
    right: Right,
) -> Result<(), ApiError> {
    match right {
        Right::Exempt => Ok(()),
        Right::Client => match &config.master_key {
            None => Ok(()),
            Some(key) => check_client(key, headers),
        },
        Right::Operator => check_operator(config.admin_key.as_deref(), headers),
    }
}

fn check_client(key: &str, headers: &HeaderMap) -> Result<(), ApiError> {
    let missing = || {
        ApiError::new(
            Code::MissingAuthorizationHeader,
            "The Authorization header is missing. It must use the bearer authorization method.",
        )
    };
    let invalid = || ApiError::new(Code::InvalidApiKey, "The provided API key is invalid.");
    let header = headers.get(AUTHORIZATION).ok_or_else(missing)?;
    let mut parts = header.to_str().unwrap_or_default().splitn(2, ' ');
    if parts.next() != Some("Bearer") {
        return Err(missing());
    }
    let given = parts.next().ok_or_else(invalid)?;
    if same(key, given) { Ok(()) } else { Err(invalid()) }
}

fn check_operator(key: Option<&str>, headers: &HeaderMap) -> Result<(), ApiError> {
    let bearer = headers
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "));
    let own = headers.get("x-admin-key").and_then(|value| value.to_str().ok());
    match (key, own.or(bearer)) {
        (Some(key), Some(given)) if same(key, given) => Ok(()),
        (None, _) => Err(ApiError::new(
            Code::MiroirInvalidAuth,
            "No admin key is configured, so the admin API is closed.",
        )),
        _ => Err(ApiError::new(
            Code::MiroirInvalidAuth,
            "The admin API needs the admin key, as bearer or in `X-Admin-Key`.",
        )),
    }
}

/// Compares in a time that depends on lengths alone.
fn same(key: &str, given: &str) -> bool {
    key.as_bytes().ct_eq(given.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn code(right: Right, name: &'static str, value: &'static str) -> Option<&'static str> {
        let config = GatewayConfig {
            master_key: Some("master".into()),
            admin_key: Some("admin".into()),
            ..Default::default()
        };
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_static(value));
        check_right(&config, &headers, right).err().map(|error| error.code.name())
    }

    #[test]
    fn the_master_key_opens_the_public_api() {
        let client = |value| code(Right::Client, "authorization", value);
        assert_eq!(client("Bearer master"), None);
        assert_eq!(client("Bearer wrong"), Some("invalid_api_key"));
        assert_eq!(client("Bearer"), Some("invalid_api_key"));
        assert_eq!(client("Basic master"), Some("missing_authorization_header"));
        assert_eq!(code(Right::Client, "x", "y"), Some("missing_authorization_header"));
        assert_eq!(code(Right::Exempt, "x", "y"), None);
        let open = check_right(&GatewayConfig::default(), &HeaderMap::new(), Right::Client);
        assert_eq!(open, Ok(()));
    }

    #[test]
    fn the_admin_key_opens_the_admin_api_and_nothing_else_does() {
        assert_eq!(code(Right::Operator, "authorization", "Bearer admin"), None);
        assert_eq!(code(Right::Operator, "x-admin-key", "admin"), None);
        for (name, value) in
            [("x-admin-key", "master"), ("authorization", "Bearer master"), ("x", "y")]
        {
            assert_eq!(code(Right::Operator, name, value), Some("miroir_invalid_auth"));
        }
        let closed = check_right(&GatewayConfig::default(), &HeaderMap::new(), Right::Operator);
        assert!(closed.is_err());
    }
}
