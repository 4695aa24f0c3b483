//! Who may ask what. Which right a route needs is in [`crate::rights`]; order, codes and texts
//! are Meilisearch's.
//!
//! 1. The bearer is the master key: everything. It is never read as a token.
//! 2. On routes that search, a bearer with the form of a JWT is a tenant token: it is verified
//!    under the value of the key that it names, and has that key's rights and its own rules.
//! 3. Else it is the value of an API key.
//!
//! Without a master key everything but `/keys` is open. All is decided with what the routing view
//! holds: no lock, no log, no other pod.

use std::sync::Arc;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use miroir_storage::tables::api_keys::ApiKeys;
use miroir_wire::error::{ApiError, Code};
use miroir_wire::keys::Action;
use subtle::ConstantTimeEq;
use time::OffsetDateTime;

use crate::context::GatewayConfig;
use crate::grant::{Grant, invalid_key};
use crate::key_ring::{KeyRings, value_of};
use crate::tenant_token::{TenantToken, TokenError};

/// The right a route needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right<'a> {
    /// Nobody is asked.
    Exempt,
    /// A key that allows the action, to the index that the path names, if it names one.
    Key(Action, Option<&'a str>),
    /// Any key that is alive.
    AnyKey,
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

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What the client is told.
    pub error: ApiError,
    /// Whether its key has the form of one, but this pod knows none like it.
    pub unknown_key: bool,
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self { error, unknown_key: false }
    }
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
        Right::Key(action, index) => check_client(door, headers, Some(action), index),
        Right::AnyKey => check_client(door, headers, None, None),
        Right::Operator => {
            check_operator(door.config.admin_key.as_deref(), headers)?;
            Ok(Grant::everything())
        }
    }
}

fn check_client(
    door: &Door<'_>,
    headers: &HeaderMap,
    action: Option<Action>,
    index: Option<&str>,
) -> Result<Grant, Refusal> {
    let given = bearer(headers)?;
    let Some(master_key) = &door.config.master_key else {
        let is_about_keys = matches!(
            action,
            Some(Action::KeysGet | Action::KeysCreate | Action::KeysUpdate | Action::KeysDelete)
        );
        return if is_about_keys { Err(no_master_key().into()) } else { Ok(Grant::everything()) };
    };
    let given = given.ok_or_else(missing_header)?;
    if same(master_key, given) {
        return Ok(Grant::everything());
    }
    let searches = matches!(action, Some(Action::Search | Action::ChatCompletions));
    let grant = match searches.then(|| TenantToken::read(given)) {
        Some(Ok(token)) => holder_of_token(door, master_key, token)?,
        Some(Err(error @ (TokenError::Undecodable(_) | TokenError::Expired { .. }))) => {
            return Err(refused_token(&error));
        }
        Some(Err(TokenError::NotAToken)) | None => {
            let key = door.rings.of(master_key, door.keys).by_value(given).cloned();
            let unknown_key = is_value(given);
            let key = key.ok_or_else(|| Refusal { error: invalid_key(), unknown_key })?;
            Grant::of(key, None)
        }
    };
    grant.check(action, index, door.now)?;
    Ok(grant)
}

/// The rights of who shows `token`, if it is good.
fn holder_of_token(
    door: &Door<'_>,
    master_key: &str,
    token: TenantToken<'_>,
) -> Result<Grant, Refusal> {
    let ring = door.rings.of(master_key, door.keys);
    let uid = token.key_uid().to_owned();
    let key = ring.by_uid(&uid).cloned();
    // A key that is gone, or not known yet, has a value all the same: only who signs with it
    // learns that it is not there, and only for them is another pod asked.
    let verified = match &key {
        Some(key) => token.verify(&key.value, door.now),
        None => token.verify(&value_of(master_key, &uid), door.now),
    };
    let rules = verified.map_err(|error| refused_token(&error))?;
    let key = key.ok_or_else(|| Refusal { error: invalid_key(), unknown_key: true })?;
    Ok(Grant::of(key, Some(rules)))
}

fn refused_token(error: &TokenError) -> Refusal {
    ApiError::new(Code::InvalidApiKey, error.to_string()).into()
}

/// Whether `text` could be the value of a key.
fn is_value(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn bearer(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let Some(header) = headers.get(AUTHORIZATION) else { return Ok(None) };
    match header.to_str().unwrap_or_default().split_once(' ') {
        Some(("Bearer", given)) => Ok(Some(given)),
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

fn no_master_key() -> ApiError {
    ApiError::new(
        Code::MissingMasterKey,
        "Meilisearch is running without a master key. To access this API endpoint, you must have set a master key at launch.",
    )
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
mod tests;
