//! Tenant tokens: JWTs (RFC 7519) that applications sign with the value of an API key.
//!
//! Only HMAC with SHA-2 (RFC 7518, 3.2) is a signature here: what says `none`, or names a public
//! key, is refused before anything of it is believed. Texts are Meilisearch's.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use serde::Deserialize;
use serde::de::{DeserializeOwned, Error, IgnoredAny};
use time::OffsetDateTime;

use crate::keys::read_uid;
use crate::search_rules::SearchRules;

/// Longest token that is looked at, bytes. HTTP headers are limited by the server as well.
const TOKEN_BYTES_MAX: usize = 64 << 10;

/// Why a token is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It has not the form of one; it may be an API key.
    #[error("The provided tenant token is invalid.")]
    NotAToken,
    /// It can't be read, or its signature is not that of its key.
    #[error("Could not decode tenant token, {0}.")]
    Undecodable(String),
    /// It is too old. Both are Unix seconds.
    #[error("Tenant token expired. Was valid up to `{exp}` and we're now `{now}`.")]
    Expired {
        /// Its end.
        exp: i64,
        /// The time.
        now: i64,
    },
}

/// A token that was read but not verified: nothing of it counts yet.
#[derive(Debug)]
pub struct TenantToken<'a> {
    signed: &'a str,
    signature: Vec<u8>,
    algorithm: hmac::Algorithm,
    claims: Claims,
}

#[derive(Debug, Deserialize)]
struct Header {
    alg: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Claims {
    search_rules: SearchRules,
    exp: Option<i64>,
    #[serde(deserialize_with = "uid")]
    api_key_uid: String,
    aud: Option<IgnoredAny>,
}

fn uid<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    read_uid(&text).ok_or_else(|| D::Error::custom("UUID parsing failed"))
}

impl<'a> TenantToken<'a> {
    /// Reads a token.
    ///
    /// # Errors
    /// [`TokenError::NotAToken`], [`TokenError::Undecodable`].
    pub fn read(token: &'a str) -> Result<Self, TokenError> {
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::NotAToken)?;
        let (header, claims) = signed.split_once('.').ok_or(TokenError::NotAToken)?;
        if claims.contains('.') || token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::NotAToken);
        }
        let header: Header = part(header)?;
        let algorithm = match header.alg.as_str() {
            "HS256" => hmac::HMAC_SHA256,
            "HS384" => hmac::HMAC_SHA384,
            "HS512" => hmac::HMAC_SHA512,
            _ => return Err(TokenError::Undecodable("InvalidAlgorithm".to_owned())),
        };
        let signature = bytes(signature)?;
        Ok(Self { signed, signature, algorithm, claims: part(claims)? })
    }

    /// The uid of the key that it says it is signed with.
    pub fn key_uid(&self) -> &str {
        &self.claims.api_key_uid
    }

    /// What it allows, if it is signed with `value`, the value of [`Self::key_uid`], and still
    /// good at `now`.
    ///
    /// # Errors
    /// [`TokenError::Undecodable`], [`TokenError::Expired`].
    pub fn verify(self, value: &str, now: OffsetDateTime) -> Result<SearchRules, TokenError> {
        let key = hmac::Key::new(self.algorithm, value.as_bytes());
        // In constant time.
        if hmac::verify(&key, self.signed.as_bytes(), &self.signature).is_err() {
            return Err(TokenError::Undecodable("InvalidSignature".to_owned()));
        }
        if self.claims.aud.is_some() {
            return Err(TokenError::Undecodable("InvalidAudience".to_owned()));
        }
        let now = now.unix_timestamp();
        match self.claims.exp {
            Some(exp) if now > exp => Err(TokenError::Expired { exp, now }),
            _ => Ok(self.claims.search_rules),
        }
    }
}

fn bytes(part: &str) -> Result<Vec<u8>, TokenError> {
    let decoded = URL_SAFE_NO_PAD.decode(part);
    decoded.map_err(|error| TokenError::Undecodable(format!("Base64 error: {error}")))
}

fn part<T: DeserializeOwned>(part: &str) -> Result<T, TokenError> {
    let json = serde_json::from_slice(&bytes(part)?);
    json.map_err(|error| TokenError::Undecodable(format!("JSON error: {error}")))
}

/// Signs a token, as applications do: `alg` is `HS256`, `HS384` or `HS512`.
pub fn sign_token(alg: &str, claims: &serde_json::Value, value: &str) -> String {
    let algorithm = match alg {
        "HS384" => hmac::HMAC_SHA384,
        "HS512" => hmac::HMAC_SHA512,
        _ => hmac::HMAC_SHA256,
    };
    let header = serde_json::json!({"alg": alg, "typ": "JWT"}).to_string();
    let signed = [header, claims.to_string()].map(|part| URL_SAFE_NO_PAD.encode(part)).join(".");
    let tag = hmac::sign(&hmac::Key::new(algorithm, value.as_bytes()), signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const UID: &str = "6062abda-a5aa-4414-ac91-ecd7944c0f8d";
    const NOW: OffsetDateTime = time::macros::datetime!(2024-05-01 12:00 UTC);

    fn verified(token: &str) -> Result<SearchRules, TokenError> {
        let token = TenantToken::read(token)?;
        assert_eq!(token.key_uid(), UID);
        token.verify("value", NOW)
    }

    fn claims(changed: &[(&str, Value)]) -> Value {
        let mut claims = json!({"searchRules": ["*"], "apiKeyUid": UID});
        for (name, value) in changed {
            claims[*name] = value.clone();
        }
        claims
    }

    #[test]
    fn signed_tokens_say_what_may_be_searched() {
        let exp = |seconds: i64| json!(NOW.unix_timestamp() + seconds);
        for (alg, changed) in [
            ("HS256", vec![]),
            ("HS384", vec![("exp", exp(0))]),
            ("HS512", vec![("exp", exp(60)), ("more", json!({"a": 1}))]),
            ("HS256", vec![("apiKeyUid", json!(UID.to_uppercase())), ("exp", Value::Null)]),
        ] {
            let rules = verified(&sign_token(alg, &claims(&changed), "value"));
            assert!(rules.is_ok_and(|rules| rules.allows("movies")), "{alg} {changed:?}");
        }
        let rules = json!({"mov*": {"filter": "user = 1"}});
        let rules = verified(&sign_token("HS256", &claims(&[("searchRules", rules)]), "value"));
        assert!(rules.is_ok_and(|rules| rules.filter("movies") == Some(&json!("user = 1"))));
    }

    #[test]
    fn what_is_wrong_is_refused() {
        let undecodable = |text: &str| TokenError::Undecodable(text.to_owned());
        let good = sign_token("HS256", &claims(&[]), "value");
        let (signed, signature) = good.rsplit_once('.').unwrap_or_default();
        let unsigned = format!("{}.{signature}", sign_token("none", &claims(&[]), "value"));
        let unsigned = unsigned.rsplit_once('.').map_or("", |(token, _)| token);
        let other = sign_token("HS256", &claims(&[("searchRules", json!(["movies"]))]), "value");
        let swapped = format!("{}.{signature}", other.rsplit_once('.').unwrap_or_default().0);
        for (token, error) in [
            ("abc", TokenError::NotAToken),
            ("a.b", TokenError::NotAToken),
            ("a.b.c.d", TokenError::NotAToken),
            (&swapped, undecodable("InvalidSignature")),
            (&format!("{signed}."), undecodable("InvalidSignature")),
            (&sign_token("HS256", &claims(&[]), "other"), undecodable("InvalidSignature")),
            (unsigned, undecodable("InvalidAlgorithm")),
            (&sign_token("RS256", &claims(&[]), "value"), undecodable("InvalidAlgorithm")),
            (
                &sign_token("HS256", &claims(&[("aud", json!("a"))]), "value"),
                undecodable("InvalidAudience"),
            ),
            (
                &sign_token("HS256", &claims(&[("exp", json!(NOW.unix_timestamp() - 1))]), "value"),
                TokenError::Expired { exp: NOW.unix_timestamp() - 1, now: NOW.unix_timestamp() },
            ),
        ] {
            assert_eq!(verified(token).err(), Some(error), "{token}");
        }
        for broken in [
            sign_token("HS256", &claims(&[("searchRules", json!(3))]), "value"),
            sign_token("HS256", &claims(&[("apiKeyUid", json!("x"))]), "value"),
            sign_token("HS256", &claims(&[("exp", json!("soon"))]), "value"),
            "a.b.c".to_owned(),
            "..".to_owned(),
        ] {
            let refused = TenantToken::read(&broken).err();
            assert!(matches!(refused, Some(TokenError::Undecodable(_))), "{broken} {refused:?}");
        }
    }
}
