//! Who may ask what: the master key, API keys and tenant tokens, as Meilisearch reads them.
//!
//! 1. The bearer is the master key: everything. It is never read as a token.
//! 2. On routes that search, a bearer with the form of a JWT is a tenant token: it is verified
//!    under the value of the key that it names, and has that key's rights and its own rules.
//! 3. Else it is the value of an API key.
//!
//! Without a master key everything but `/keys` is open. Order, codes and texts are Meilisearch's.

mod grant;
mod key_ring;
mod tenant_token;

pub use grant::{Grant, invalid_key};
pub use key_ring::{KeyRing, RingKey, find_key, value_of};
pub use tenant_token::{TenantToken, TokenError, sign_token};

use std::sync::Arc;

use subtle::ConstantTimeEq;
use time::OffsetDateTime;

use crate::error::{ApiError, Code};
use crate::keys::Action;

/// What a request is to be allowed.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Its `Authorization` header; empty where that is no text.
    pub authorization: Option<&'a str>,
    /// What it wants to do; none for what any key that is alive may.
    pub action: Option<Action>,
    /// The index that its path names.
    pub index: Option<&'a str>,
    /// The time.
    pub now: OffsetDateTime,
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What the client is told.
    pub error: ApiError,
    /// Whether its key has the form of one, but none like it is known.
    pub unknown_key: bool,
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self { error, unknown_key: false }
    }
}

/// Says what the request may do. `ring` is asked for the keys when they are needed.
///
/// # Errors
/// `missing_authorization_header`, `invalid_api_key`, `missing_master_key`.
pub fn check(
    master_key: Option<&str>,
    ring: impl Fn(&str) -> Arc<KeyRing>,
    asked: Asked<'_>,
) -> Result<Grant, Refusal> {
    let Asked { authorization, action, index, now } = asked;
    let given = bearer(authorization)?;
    let Some(master_key) = master_key else {
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
        Some(Ok(token)) => holder_of_token(&ring(master_key), master_key, token, now)?,
        Some(Err(error @ (TokenError::Undecodable(_) | TokenError::Expired { .. }))) => {
            return Err(refused_token(&error));
        }
        Some(Err(TokenError::NotAToken)) | None => {
            let key = ring(master_key).by_value(given).cloned();
            let unknown_key = is_value(given);
            let key = key.ok_or_else(|| Refusal { error: invalid_key(), unknown_key })?;
            Grant::of(key, None)
        }
    };
    grant.check(action, index, now)?;
    Ok(grant)
}

/// The rights of who shows `token`, if it is good.
fn holder_of_token(
    ring: &KeyRing,
    master_key: &str,
    token: TenantToken<'_>,
    now: OffsetDateTime,
) -> Result<Grant, Refusal> {
    let uid = token.key_uid().to_owned();
    let key = ring.by_uid(&uid).cloned();
    // A key that is gone, or not known yet, has a value all the same: only who signs with it
    // learns that it is not there, and only for them is another pod asked.
    let verified = match &key {
        Some(key) => token.verify(&key.value, now),
        None => token.verify(&value_of(master_key, &uid), now),
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

fn bearer(authorization: Option<&str>) -> Result<Option<&str>, ApiError> {
    let Some(header) = authorization else { return Ok(None) };
    match header.split_once(' ') {
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

/// The refusal of `/keys` where there is no master key.
pub fn no_master_key() -> ApiError {
    ApiError::new(
        Code::MissingMasterKey,
        "Meilisearch is running without a master key. To access this API endpoint, you must have set a master key at launch.",
    )
}

/// Compares in a time that depends on lengths alone.
pub fn same(key: &str, given: &str) -> bool {
    key.as_bytes().ct_eq(given.as_bytes()).into()
}
