//! Who may ask what. Which right a route needs is in [`crate::rights`]; what keys and tokens allow
//! is said in [`miroir_wire::access`].
//!
//! All is decided with what the routing view holds: no lock, no log, no other pod.

use std::sync::Arc;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use miroir_storage::tables::api_keys::ApiKeys;
use miroir_wire::access::{Asked, Grant, Refusal, check, same};
use miroir_wire::error::{ApiError, Code};
use miroir_wire::keys::Action;
use time::OffsetDateTime;

use crate::context::GatewayConfig;
use crate::key_ring::KeyRings;

/// The right a route needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right<'a> {
    /// Nobody is asked.
    Exempt,
    /// A key that allows the action, to the index that the path names, if it names one.
    Key(Action, Option<&'a str>),
    /// The admin key.
    Operator,
}

/// What keys are checked against.
#[derive(Clone, Copy, Debug)]
pub struct Door<'a> {
    /// Holds the master key and the admin key.
    pub config: &'a GatewayConfig,
    /// The API keys of the request's routing view.
    pub keys: &'a Arc<ApiKeys>,
    /// Where they are ready to be looked up.
    pub rings: &'a KeyRings,
    /// The time.
    pub now: OffsetDateTime,
}

/// Checks that the request has the right, and says what it may do.
///
/// # Errors
/// `missing_authorization_header`, `invalid_api_key`, `missing_master_key`;
/// `miroir_invalid_auth` for operators.
pub fn check_right(
    door: &Door<'_>,
    headers: &HeaderMap,
    right: Right<'_>,
) -> Result<Grant, Refusal> {
    match right {
        Right::Exempt => Ok(Grant::everything()),
        Right::Key(action, index) => check_client(door, headers, action, index),
        Right::Operator => {
            check_operator(door.config.admin_key.as_deref(), headers)?;
            Ok(Grant::everything())
        }
    }
}

fn check_client(
    door: &Door<'_>,
    headers: &HeaderMap,
    action: Action,
    index: Option<&str>,
) -> Result<Grant, Refusal> {
    let authorization = headers.get(AUTHORIZATION).map(|value| value.to_str().unwrap_or_default());
    let ring = |master_key: &str| door.rings.of(master_key, door.keys);
    let asked = Asked { authorization, action: Some(action), index, now: door.now };
    check(door.config.master_key.as_deref(), ring, asked)
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

#[cfg(test)]
mod tests;
