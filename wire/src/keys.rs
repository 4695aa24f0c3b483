//! API keys: what they allow, how they are made, changed and shown.
//!
//! Names of actions, codes and texts are those of Meilisearch 1.50. Whether a key may be used is
//! for the gateway to say; what an action or a pattern means is said here.

mod actions;

pub use actions::{Action, ActionSet, Scope};

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

use deserr::{
    DeserializeError, Deserr, ErrorKind, IntoValue, MergeWithError, Value, ValueKind,
    ValuePointerRef, take_cf_content,
};
use serde::{Deserialize, Serialize};
use time::format_description::well_known::Rfc3339;
use time::macros::{format_description, time};
use time::{Date, Duration, OffsetDateTime, PrimitiveDateTime, UtcOffset};
use uuid::Uuid;

use crate::error::{ApiError, Code, mark};
use crate::index::{Page, check_index_uid};
use crate::parse::{
    JsonFault, Param, QueryFault, Unfit, from_json, from_query, immutable, missing,
};
use crate::settings::Setting;

/// An API key, without its value: that follows from the master key and the uid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// A UUID, hyphenated, in lower case.
    pub uid: String,
    /// For people.
    pub name: Option<String>,
    /// For people.
    pub description: Option<String>,
    /// What it allows.
    pub actions: Vec<Action>,
    /// On which indexes.
    pub indexes: Vec<IndexPattern>,
    /// From when on it allows nothing any more.
    pub expires_at: Option<OffsetDateTime>,
    /// When it was made.
    pub created_at: OffsetDateTime,
    /// When its name or description last changed.
    pub updated_at: OffsetDateTime,
}

impl Key {
    /// The keys that every cluster begins with, in the order in which they are made: a microsecond
    /// apart, since listings are by age. `uid` gives each its uid.
    pub fn defaults(now: OffsetDateTime, mut uid: impl FnMut() -> String) -> Vec<Key> {
        let defaults: [(&str, &str, &[Action]); 4] = [
            (
                "Default Chat API Key",
                "Use it to chat and search from the frontend",
                &[Action::ChatCompletions, Action::Search],
            ),
            (
                "Default Read-Only Admin API Key",
                "Use it to read information across the whole database. Caution! Do not expose this key on a public frontend",
                &[Action::AllGet, Action::KeysGet],
            ),
            (
                "Default Admin API Key",
                "Use it for anything that is not a search operation. Caution! Do not expose it on a public frontend",
                &[Action::All],
            ),
            ("Default Search API Key", "Use it to search from the frontend", &[Action::Search]),
        ];
        defaults
            .into_iter()
            .zip(0..)
            .map(|((name, description, actions), place)| {
                let made_at = now + Duration::microseconds(place);
                Key {
                    uid: uid(),
                    name: Some(name.to_owned()),
                    description: Some(description.to_owned()),
                    actions: actions.to_vec(),
                    indexes: vec![IndexPattern::all()],
                    expires_at: None,
                    created_at: made_at,
                    updated_at: made_at,
                }
            })
            .collect()
    }

    /// Whether it is of no use at `now`.
    pub fn is_expired(&self, now: OffsetDateTime) -> bool {
        self.expires_at.is_some_and(|expires_at| expires_at <= now)
    }
}

/// A key as clients see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyView<'a> {
    name: Option<&'a str>,
    description: Option<&'a str>,
    key: &'a str,
    uid: &'a str,
    actions: &'a [Action],
    indexes: &'a [IndexPattern],
    #[serde(with = "time::serde::rfc3339::option")]
    expires_at: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    updated_at: OffsetDateTime,
}

impl<'a> KeyView<'a> {
    /// `key` with its value.
    pub fn new(key: &'a Key, value: &'a str) -> Self {
        Self {
            name: key.name.as_deref(),
            description: key.description.as_deref(),
            key: value,
            uid: &key.uid,
            actions: &key.actions,
            indexes: &key.indexes,
            expires_at: key.expires_at,
            created_at: key.created_at,
            updated_at: key.updated_at,
        }
    }
}

/// The uid that `text` writes, in the form it is kept in; none when it is no UUID.
pub fn read_uid(text: &str) -> Option<String> {
    Uuid::parse_str(text).ok().map(|uid| uid.hyphenated().to_string())
}

/// `API key `…` not found.`
pub fn key_not_found(asked: &str) -> ApiError {
    ApiError::new(Code::ApiKeyNotFound, format!("API key `{asked}` not found."))
}

/// The refusal of a uid that a key has already.
pub fn key_already_exists(uid: &str) -> ApiError {
    ApiError::new(
        Code::ApiKeyAlreadyExists,
        format!("`uid` field value `{uid}` is already an existing API key."),
    )
}

/// Which indexes a key or token is good for: a uid, or the beginning of one and a star.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct IndexPattern(String);

impl IndexPattern {
    /// The pattern of all indexes.
    pub fn all() -> Self {
        Self("*".to_owned())
    }

    /// The pattern as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is that of all indexes.
    pub fn is_all(&self) -> bool {
        self.0 == "*"
    }

    /// Whether it names one index.
    pub fn is_exact(&self) -> bool {
        !self.0.ends_with('*')
    }

    /// Whether `index` is meant.
    pub fn matches(&self, index: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(beginning) => index.starts_with(beginning),
            None => self.0 == index,
        }
    }
}

impl FromStr for IndexPattern {
    type Err = NotAPattern;

    fn from_str(text: &str) -> Result<Self, NotAPattern> {
        Self::try_from(text.to_owned())
    }
}

impl TryFrom<String> for IndexPattern {
    type Error = NotAPattern;

    fn try_from(text: String) -> Result<Self, NotAPattern> {
        let refused = match text.strip_suffix('*') {
            Some("") => None,
            Some(beginning) => check_index_uid(beginning).err().map(|_| beginning.to_owned()),
            None => check_index_uid(&text).err().map(|_| text.clone()),
        };
        match refused {
            None => Ok(Self(text)),
            Some(refused) => Err(NotAPattern(refused)),
        }
    }
}

impl From<IndexPattern> for String {
    fn from(pattern: IndexPattern) -> Self {
        pattern.0
    }
}

/// What is no pattern of indexes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotAPattern(String);

impl fmt::Display for NotAPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` is not a valid index uid pattern. Index uid patterns can be an integer or a string containing only \
             alphanumeric characters, hyphens (-), underscores (_), and optionally end with a star (*).",
            self.0
        )
    }
}

impl std::error::Error for NotAPattern {}

impl<E: DeserializeError + MergeWithError<Unfit>> Deserr<E> for IndexPattern {
    fn deserialize_from_value<V: IntoValue>(
        value: Value<V>,
        location: ValuePointerRef,
    ) -> Result<Self, E> {
        let text = String::deserialize_from_value(value, location)?;
        Self::try_from(text)
            .map_err(|error| take_cf_content(E::merge(None, Unfit(error.to_string()), location)))
    }
}

/// The body of `POST /keys`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateKey {
    /// Its uid, when the client chose one.
    pub uid: Option<String>,
    /// For people.
    pub name: Option<String>,
    /// For people.
    pub description: Option<String>,
    /// What it allows.
    pub actions: Vec<Action>,
    /// On which indexes.
    pub indexes: Vec<IndexPattern>,
    /// From when on it allows nothing any more.
    pub expires_at: Option<OffsetDateTime>,
}

impl CreateKey {
    /// The key, made `now`; `new_uid` gives it a uid if the client chose none.
    pub fn into_key(self, new_uid: impl FnOnce() -> String, now: OffsetDateTime) -> Key {
        Key {
            uid: self.uid.unwrap_or_else(new_uid),
            name: self.name,
            description: self.description,
            actions: self.actions,
            indexes: self.indexes,
            expires_at: self.expires_at,
            created_at: now,
            updated_at: now,
        }
    }
}

#[derive(Debug, Deserr)]
#[deserr(error = JsonFault, rename_all = camelCase, deny_unknown_fields)]
struct CreateKeyBody {
    #[deserr(default, error = JsonFault<mark::InvalidApiKeyDescription>)]
    description: Option<String>,
    #[deserr(default, error = JsonFault<mark::InvalidApiKeyName>)]
    name: Option<String>,
    #[deserr(default, error = JsonFault<mark::InvalidApiKeyUid>)]
    uid: ChosenUid,
    #[deserr(error = JsonFault<mark::InvalidApiKeyActions>, missing_field_error = missing::<mark::InvalidApiKeyActions, mark::MissingApiKeyActions>)]
    actions: Vec<Action>,
    #[deserr(error = JsonFault<mark::InvalidApiKeyIndexes>, missing_field_error = missing::<mark::InvalidApiKeyIndexes, mark::MissingApiKeyIndexes>)]
    indexes: Vec<IndexPattern>,
    #[deserr(error = JsonFault<mark::InvalidApiKeyExpiresAt>, missing_field_error = missing::<mark::InvalidApiKeyExpiresAt, mark::MissingApiKeyExpiresAt>)]
    expires_at: Expiry,
}

/// A uid, or none because none was given: `null` is refused.
#[derive(Debug, Default)]
struct ChosenUid(Option<Uuid>);

impl<E: DeserializeError + MergeWithError<Unfit>> Deserr<E> for ChosenUid {
    fn deserialize_from_value<V: IntoValue>(
        value: Value<V>,
        location: ValuePointerRef,
    ) -> Result<Self, E> {
        let text = String::deserialize_from_value(value, location)?;
        let uid = Uuid::parse_str(&text).map_err(|error| -> E {
            take_cf_content(E::merge(None, Unfit(error.to_string()), location))
        })?;
        Ok(Self(Some(uid)))
    }
}

/// A time as it was given, and what it means; none for never.
#[derive(Debug)]
struct Expiry(Option<(String, OffsetDateTime)>);

impl<E: DeserializeError + MergeWithError<Unfit>> Deserr<E> for Expiry {
    fn deserialize_from_value<V: IntoValue>(
        value: Value<V>,
        location: ValuePointerRef,
    ) -> Result<Self, E> {
        let Some(text) = Option::<String>::deserialize_from_value(value, location)? else {
            return Ok(Self(None));
        };
        match read_time(&text) {
            Some(at) => Ok(Self(Some((text, at)))),
            None => Err(take_cf_content(E::merge(None, Unfit(not_a_date(&text)), location))),
        }
    }
}

/// The line break at its end is Meilisearch's.
fn not_a_date(text: &str) -> String {
    format!(
        "`{text}` is not a valid date. It should follow the RFC 3339 format to represents a date or datetime in the \
         future or specified as a null value. e.g. 'YYYY-MM-DD' or 'YYYY-MM-DD HH:MM:SS'.\n"
    )
}

/// RFC 3339; or the same without its offset, with `T` or a space; or a day. In UTC.
fn read_time(text: &str) -> Option<OffsetDateTime> {
    let with_t = format_description!(
        "[year repr:full base:calendar]-[month repr:numerical]-[day]T[hour]:[minute]:[second]"
    );
    let with_space = format_description!(
        "[year repr:full base:calendar]-[month repr:numerical]-[day] [hour]:[minute]:[second]"
    );
    let day = format_description!("[year repr:full base:calendar]-[month repr:numerical]-[day]");
    if let Ok(at) = OffsetDateTime::parse(text, &Rfc3339) {
        return Some(at.to_offset(UtcOffset::UTC));
    }
    let at = PrimitiveDateTime::parse(text, &with_t)
        .or_else(|_| PrimitiveDateTime::parse(text, &with_space))
        .or_else(|_| Date::parse(text, &day).map(|day| PrimitiveDateTime::new(day, time!(00:00))));
    at.ok().map(PrimitiveDateTime::assume_utc)
}

impl CreateKey {
    /// Reads the body; `now` is what its expiry must come after.
    ///
    /// # Errors
    /// `missing_api_key_*`, `invalid_api_key_*`, `index_scoped_api_key_with_global_action`, and
    /// those of any JSON body.
    pub fn from_json(body: &[u8], now: OffsetDateTime) -> Result<CreateKey, ApiError> {
        let body: CreateKeyBody = from_json::<_, mark::BadRequest>(body)?;
        let expires_at = match body.expires_at.0 {
            Some((text, at)) if at <= now => {
                return Err(ApiError::new(
                    Code::InvalidApiKeyExpiresAt,
                    format!("Invalid value at `.expiresAt`: {}", not_a_date(&text)),
                ));
            }
            Some((_, at)) => Some(at),
            None => None,
        };
        let is_scoped = !body.indexes.is_empty() && !body.indexes.iter().any(IndexPattern::is_all);
        let global = body.actions.iter().find(|action| action.scope() == Scope::Global);
        if let (true, Some(action)) = (is_scoped, global) {
            let action = action.name();
            return Err(ApiError::new(
                Code::IndexScopedApiKeyWithGlobalAction,
                format!(
                    "cannot create index-scoped API key with global action `\"{action}\"`\n  - Hint: remove action \
                     `\"{action}\"` from the action list, or remove `indexes` to make the key global"
                ),
            ));
        }
        Ok(CreateKey {
            uid: body.uid.0.map(|uid| uid.hyphenated().to_string()),
            name: body.name,
            description: body.description,
            actions: body.actions,
            indexes: body.indexes,
            expires_at,
        })
    }
}

/// The body of `PATCH /keys/{key}`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserr)]
#[deserr(error = JsonFault, rename_all = camelCase, deny_unknown_fields = refuse_immutable)]
pub struct PatchKey {
    /// The new description; reset for none.
    #[deserr(default, error = JsonFault<mark::InvalidApiKeyDescription>)]
    pub description: Setting<String>,
    /// The new name; reset for none.
    #[deserr(default, error = JsonFault<mark::InvalidApiKeyName>)]
    pub name: Setting<String>,
}

fn refuse_immutable(field: &str, accepted: &[&str], location: ValuePointerRef) -> JsonFault {
    let code = match field {
        "uid" => Code::ImmutableApiKeyUid,
        "actions" => Code::ImmutableApiKeyActions,
        "indexes" => Code::ImmutableApiKeyIndexes,
        "expiresAt" => Code::ImmutableApiKeyExpiresAt,
        "createdAt" => Code::ImmutableApiKeyCreatedAt,
        "updatedAt" => Code::ImmutableApiKeyUpdatedAt,
        key => {
            return take_cf_content(JsonFault::error::<Infallible>(
                None,
                ErrorKind::UnknownKey { key, accepted },
                location,
            ));
        }
    };
    immutable(field, accepted, code)
}

impl PatchKey {
    /// Reads the body.
    ///
    /// # Errors
    /// `immutable_api_key_*`, `invalid_api_key_*`, and those of any JSON body.
    pub fn from_json(body: &[u8]) -> Result<PatchKey, ApiError> {
        from_json::<_, mark::BadRequest>(body)
    }
}

#[derive(Debug, Deserr)]
#[deserr(error = QueryFault, rename_all = camelCase, deny_unknown_fields)]
struct KeyPageParams {
    #[deserr(default, error = QueryFault<mark::InvalidApiKeyOffset>)]
    offset: Param<usize>,
    #[deserr(default = Param(20), error = QueryFault<mark::InvalidApiKeyLimit>)]
    limit: Param<usize>,
}

/// The query string of `GET /keys`; 20 members by default.
///
/// # Errors
/// `invalid_api_key_offset`, `invalid_api_key_limit`.
pub fn page_from_query_string(query: &str) -> Result<Page, ApiError> {
    let params: KeyPageParams = from_query(query)?;
    Ok(Page { offset: params.offset.0, limit: params.limit.0 })
}

impl<E: DeserializeError> Deserr<E> for Action {
    fn deserialize_from_value<V: IntoValue>(
        value: Value<V>,
        location: ValuePointerRef,
    ) -> Result<Self, E> {
        let text = match value {
            Value::String(text) => text,
            actual => {
                let accepted = &[ValueKind::String];
                let error = ErrorKind::IncorrectValueKind { actual, accepted };
                return Err(take_cf_content(E::error::<V>(None, error, location)));
            }
        };
        Action::from_name(&text).ok_or_else(|| {
            let error = ErrorKind::UnknownValue { value: &text, accepted: Action::NAMES };
            take_cf_content(E::error::<V>(None, error, location))
        })
    }
}

#[cfg(test)]
mod tests;
