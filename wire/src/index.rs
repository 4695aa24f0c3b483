//! Indexes: uids, views and requests; statistics, version, health.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use deserr::{
    DeserializeError, Deserr, ErrorKind, IntoValue, MergeWithError, Value, ValuePointerRef,
    take_cf_content,
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::error::{ApiError, Code, mark};
use crate::parse::{
    FromParam, JsonFault, Param, QueryFault, Unfit, from_json, from_query, immutable, missing,
};

/// Longest index uid, in bytes. (The message says 512; so does Meilisearch's.)
pub const INDEX_UID_BYTES_MAX: usize = 400;

fn index_uid_refusal(uid: &str) -> Option<String> {
    let plain =
        uid.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    if plain && !uid.is_empty() && uid.len() <= INDEX_UID_BYTES_MAX {
        return None;
    }
    Some(format!(
        "`{uid}` is not a valid index uid. Index uid can be an integer or a string containing only alphanumeric \
         characters, hyphens (-) and underscores (_), and can not be more than 512 bytes."
    ))
}

/// Checks an index uid from a path.
///
/// # Errors
/// `invalid_index_uid`.
pub fn check_index_uid(uid: &str) -> Result<(), ApiError> {
    match index_uid_refusal(uid) {
        None => Ok(()),
        Some(message) => Err(ApiError::new(Code::InvalidIndexUid, message)),
    }
}

/// An index uid inside a body or a parameter.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct CheckedUid(pub(crate) String);

impl FromParam for CheckedUid {
    fn from_param(text: &str) -> Result<Self, Unfit> {
        match index_uid_refusal(text) {
            None => Ok(CheckedUid(text.to_owned())),
            Some(message) => Err(Unfit(message)),
        }
    }
}

impl std::str::FromStr for CheckedUid {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        CheckedUid::from_param(text)
    }
}

impl<E: DeserializeError + MergeWithError<Unfit>> Deserr<E> for CheckedUid {
    fn deserialize_from_value<V: IntoValue>(
        value: Value<V>,
        location: ValuePointerRef,
    ) -> Result<Self, E> {
        let text = String::deserialize_from_value(value, location)?;
        CheckedUid::from_param(&text)
            .map_err(|unfit| take_cf_content(E::merge(None, unfit, location)))
    }
}

/// An index, as `GET /indexes/{uid}` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IndexView {
    /// The index's name.
    pub uid: String,
    /// When it was created.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When documents or settings last changed.
    #[serde(with = "time::serde::rfc3339")]
    pub updated_at: OffsetDateTime,
    /// Its primary key, once known.
    pub primary_key: Option<String>,
}

/// One page of a listing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageView<T> {
    /// The members of the page.
    pub results: Vec<T>,
    /// How many members were left out first.
    pub offset: usize,
    /// How many members were asked for.
    pub limit: usize,
    /// How many members there are in all.
    pub total: usize,
}

/// The window of a listing (`GET /indexes`, `GET /keys`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// How many members to leave out first.
    pub offset: usize,
    /// How many members to show.
    pub limit: usize,
}

#[derive(Debug, Deserr)]
#[deserr(error = QueryFault, rename_all = camelCase, deny_unknown_fields)]
struct IndexPageParams {
    #[deserr(default, error = QueryFault<mark::InvalidIndexOffset>)]
    offset: Param<usize>,
    #[deserr(default = Param(20), error = QueryFault<mark::InvalidIndexLimit>)]
    limit: Param<usize>,
}

impl Page {
    /// The query string of `GET /indexes`; 20 members by default.
    ///
    /// # Errors
    /// `invalid_index_offset`, `invalid_index_limit`.
    pub fn from_query_string(query: &str) -> Result<Page, ApiError> {
        let params: IndexPageParams = from_query(query)?;
        Ok(Page { offset: params.offset.0, limit: params.limit.0 })
    }

    /// The page of a listing whose members come one by one; `total` is counted.
    pub fn of<T>(self, members: impl ExactSizeIterator<Item = T>) -> PageView<T> {
        let total = members.len();
        let results = members.skip(self.offset).take(self.limit).collect();
        PageView { results, offset: self.offset, limit: self.limit, total }
    }
}

/// The body of `POST /indexes`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateIndex {
    /// The name, checked.
    pub uid: String,
    /// The primary key, if named.
    pub primary_key: Option<String>,
}

#[derive(Debug, Deserr)]
#[deserr(error = JsonFault, rename_all = camelCase, deny_unknown_fields)]
struct CreateIndexBody {
    #[deserr(error = JsonFault<mark::InvalidIndexUid>, missing_field_error = missing::<mark::InvalidIndexUid, mark::MissingIndexUid>)]
    uid: CheckedUid,
    #[deserr(default, error = JsonFault<mark::InvalidIndexPrimaryKey>)]
    primary_key: Option<String>,
}

impl CreateIndex {
    /// Reads the body.
    ///
    /// # Errors
    /// `missing_index_uid`, `invalid_index_uid`, `invalid_index_primary_key`, and those of any JSON body.
    pub fn from_json(body: &[u8]) -> Result<CreateIndex, ApiError> {
        let body: CreateIndexBody = from_json::<_, mark::BadRequest>(body)?;
        Ok(CreateIndex { uid: body.uid.0, primary_key: body.primary_key })
    }
}

/// The body of `PATCH /indexes/{uid}`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UpdateIndex {
    /// The new primary key.
    pub primary_key: Option<String>,
    /// The new name, checked.
    pub uid: Option<String>,
}

#[derive(Debug, Deserr)]
#[deserr(error = JsonFault, rename_all = camelCase, deny_unknown_fields = refuse_immutable)]
struct UpdateIndexBody {
    #[deserr(default, error = JsonFault<mark::InvalidIndexPrimaryKey>)]
    primary_key: Option<String>,
    #[deserr(default, error = JsonFault<mark::InvalidIndexUid>)]
    uid: Option<String>,
}

fn refuse_immutable(field: &str, accepted: &[&str], location: ValuePointerRef) -> JsonFault {
    let code = match field {
        "createdAt" => Code::ImmutableIndexCreatedAt,
        "updatedAt" => Code::ImmutableIndexUpdatedAt,
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

impl UpdateIndex {
    /// Reads the body.
    ///
    /// # Errors
    /// `immutable_index_*`, `invalid_index_primary_key`, `invalid_index_uid`, and those of any JSON body.
    pub fn from_json(body: &[u8]) -> Result<UpdateIndex, ApiError> {
        let UpdateIndexBody { primary_key, uid } = from_json::<_, mark::BadRequest>(body)?;
        uid.as_deref().map_or(Ok(()), check_index_uid)?;
        Ok(UpdateIndex { primary_key, uid })
    }
}

#[derive(Debug, Deserr)]
#[deserr(error = JsonFault, rename_all = camelCase, deny_unknown_fields)]
struct SwapBody {
    #[deserr(error = JsonFault<mark::InvalidSwapIndexes>, missing_field_error = missing::<mark::InvalidSwapIndexes, mark::MissingSwapIndexes>)]
    indexes: Vec<CheckedUid>,
    #[deserr(default, error = JsonFault<mark::InvalidSwapRename>)]
    rename: bool,
}

/// One pair in the body of `POST /swap-indexes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameSwap {
    /// The two names, checked.
    pub names: (String, String),
    /// The first index takes the second name, which nothing may have, in place of a swap.
    pub rename: bool,
}

/// The pairs in the body of `POST /swap-indexes`.
///
/// # Errors
/// `missing_swap_indexes`, `invalid_swap_indexes`, `invalid_swap_rename`,
/// `invalid_swap_duplicate_index_found`, and those of any JSON body.
pub fn swaps_from_json(body: &[u8]) -> Result<Vec<NameSwap>, ApiError> {
    let swaps: Vec<SwapBody> = from_json::<_, mark::BadRequest>(body)?;
    let named = |swap: SwapBody| {
        let rename = swap.rename;
        pair(swap.indexes).map(|names| NameSwap { names, rename })
    };
    swaps.into_iter().map(named).collect()
}

/// Whether each name is in one pair only.
///
/// # Errors
/// `invalid_swap_duplicate_index_found`, naming all that are not.
pub fn check_each_name_once(swaps: &[NameSwap]) -> Result<(), ApiError> {
    let mut seen = BTreeSet::new();
    let mut twice = BTreeSet::new();
    for name in swaps.iter().flat_map(|swap| [&swap.names.0, &swap.names.1]) {
        if !seen.insert(name) {
            twice.insert(format!("`{name}`"));
        }
    }
    let message = match twice.len() {
        0 => return Ok(()),
        1 => "was specified several times.",
        _ => "were specified several times.",
    };
    let names: Vec<String> = twice.into_iter().collect();
    Err(ApiError::new(
        Code::InvalidSwapDuplicateIndexFound,
        format!("Indexes must be declared only once during a swap. {} {message}", names.join(", ")),
    ))
}

/// Why the names of a swap don't fit: the first of each pair must be there, the second of a rename
/// must not, that of a swap must.
///
/// # Errors
/// `index_not_found`, `index_already_exists`, naming all that do not fit.
pub fn check_names_fit(
    swaps: &[NameSwap],
    is_there: impl Fn(&str) -> bool,
) -> Result<(), ApiError> {
    let mut missing = BTreeSet::new();
    let mut taken = BTreeSet::new();
    for NameSwap { names: (a, b), rename } in swaps {
        if !is_there(a) {
            missing.insert(a.as_str());
        }
        match (is_there(b), rename) {
            (true, true) => {
                taken.insert((a.as_str(), b.as_str()));
            }
            (false, false) => {
                missing.insert(b.as_str());
            }
            (true, false) | (false, true) => {}
        }
    }
    let listed = |names: Vec<&str>| {
        names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
    };
    let missing: Vec<&str> = missing.into_iter().collect();
    match missing.as_slice() {
        [] => {}
        [name] => return Err(ApiError::index_not_found(name)),
        _ => {
            let message = format!("Indexes {} not found.", listed(missing));
            return Err(ApiError::new(Code::IndexNotFound, message));
        }
    }
    let taken: Vec<(&str, &str)> = taken.into_iter().collect();
    let message = match taken.as_slice() {
        [] => return Ok(()),
        [(a, b)] => format!(
            "Cannot rename `{a}` to `{b}` as the index already exists. Hint: You can remove `{b}` first and then do your remove."
        ),
        _ => format!(
            "The following indexes are being renamed but cannot because their new name conflicts with an already \
             existing index: {}. Renaming doesn't overwrite the other index name.",
            listed(taken.into_iter().map(|(_, b)| b).collect())
        ),
    };
    Err(ApiError::new(Code::IndexAlreadyExists, message))
}

fn pair(indexes: Vec<CheckedUid>) -> Result<(String, String), ApiError> {
    match <[CheckedUid; 2]>::try_from(indexes) {
        Ok([one, other]) => Ok((one.0, other.0)),
        Err(indexes) => {
            let names: Vec<String> = indexes.iter().map(|uid| format!("\"{}\"", uid.0)).collect();
            Err(ApiError::new(
                Code::InvalidSwapIndexes,
                format!(
                    "Two indexes must be given for each swap. The list `[{}]` contains {} indexes.",
                    names.join(", "),
                    names.len()
                ),
            ))
        }
    }
}

/// Statistics of one index, as `GET /indexes/{uid}/stats` shows them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IndexStats {
    /// Documents, each counted once.
    pub number_of_documents: u64,
    /// Bytes of the documents as stored.
    #[serde(default)]
    pub raw_document_db_size: u64,
    /// Mean bytes of a document as stored.
    #[serde(default)]
    pub avg_document_size: u64,
    /// Whether a task of the index is being processed.
    pub is_indexing: bool,
    /// Vectors stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number_of_embeddings: Option<u64>,
    /// Documents with at least one vector.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number_of_embedded_documents: Option<u64>,
    /// In how many documents each field is.
    pub field_distribution: BTreeMap<String, u64>,
}

/// Statistics of everything, as `GET /stats` shows them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stats {
    /// Bytes on disk.
    pub database_size: u64,
    /// Bytes of them in use.
    #[serde(default)]
    pub used_database_size: u64,
    /// When anything last changed.
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub last_update: Option<OffsetDateTime>,
    /// By index.
    pub indexes: BTreeMap<String, IndexStats>,
}

/// The version of Meilisearch whose API this is.
pub const API_VERSION: &str = "1.15.1";

/// The answer of `GET /version`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Version {
    /// The commit of the build.
    pub commit_sha: String,
    /// The date of that commit.
    pub commit_date: String,
    /// The version.
    pub pkg_version: String,
}

impl Default for Version {
    fn default() -> Self {
        Version {
            commit_sha: "unknown".to_owned(),
            commit_date: "unknown".to_owned(),
            pkg_version: API_VERSION.to_owned(),
        }
    }
}

/// The answer of `GET /health`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Always `available`.
    pub status: String,
}

impl Default for Health {
    fn default() -> Self {
        Health { status: "available".to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOT_A_UID: &str = "is not a valid index uid. Index uid can be an integer or a string containing only \
         alphanumeric characters, hyphens (-) and underscores (_), and can not be more than 512 bytes.";

    #[test]
    fn index_uids_are_plain_and_at_most_400_bytes() {
        for uid in ["movies", "0", "a-b_C", &"a".repeat(400)] {
            assert!(check_index_uid(uid).is_ok(), "{uid}");
        }
        for uid in ["", "mo vies", "é", "a/b", "*", &"a".repeat(401)] {
            let error = check_index_uid(uid).unwrap_err();
            assert_eq!(
                (error.code, error.message),
                (Code::InvalidIndexUid, format!("`{uid}` {NOT_A_UID}"))
            );
        }
    }

    #[test]
    fn index_requests_are_refused_in_meilisearchs_words() {
        for (body, code, message) in [
            ("{}", "missing_index_uid", "Missing field `uid`".to_owned()),
            (r#"{"uid":"a b"}"#, "invalid_index_uid", format!("Invalid value at `.uid`: `a b` {NOT_A_UID}")),
            (
                r#"{"uid":1}"#,
                "invalid_index_uid",
                "Invalid value type at `.uid`: expected a string, but found a positive integer: `1`".to_owned(),
            ),
            (
                r#"{"uid":"a","primaryKey":[]}"#,
                "invalid_index_primary_key",
                "Invalid value type at `.primaryKey`: expected a string, but found an array: `[]`".to_owned(),
            ),
            (
                r#"{"uid":"a","primaryKei":"id"}"#,
                "bad_request",
                "Unknown field `primaryKei`: did you mean `primaryKey`? expected one of `uid`, `primaryKey`".to_owned(),
            ),
        ] {
            let error = CreateIndex::from_json(body.as_bytes()).unwrap_err();
            assert_eq!((error.code.name(), error.message), (code, message));
        }
        for (body, code, message) in [
            (
                r#"{"uid":1}"#,
                "invalid_index_uid",
                "Invalid value type at `.uid`: expected a string, but found a positive integer: `1`",
            ),
            (
                r#"{"createdAt":"x"}"#,
                "immutable_index_created_at",
                "Immutable field `createdAt`: expected one of `primaryKey`, `uid`",
            ),
            (
                r#"{"doggo":"x"}"#,
                "bad_request",
                "Unknown field `doggo`: expected one of `primaryKey`, `uid`",
            ),
        ] {
            let error = UpdateIndex::from_json(body.as_bytes()).unwrap_err();
            assert_eq!((error.code.name(), error.message.as_str()), (code, message));
        }
        let error = UpdateIndex::from_json(br#"{"uid":"a b"}"#).unwrap_err();
        assert_eq!(
            (error.code.name(), error.message),
            ("invalid_index_uid", format!("`a b` {NOT_A_UID}"))
        );
        let error = Page::from_query_string("limit=-1").unwrap_err();
        assert_eq!(error.code, Code::InvalidIndexLimit);
        assert_eq!(
            error.message,
            "Invalid value in parameter `limit`: could not parse `-1` as a positive integer"
        );
    }

    #[test]
    fn swaps_are_pairs() {
        let swaps = swaps_from_json(br#"[{"indexes":["a","b"]}]"#).unwrap();
        let named = |rename| NameSwap { names: ("a".to_owned(), "b".to_owned()), rename };
        assert_eq!(swaps, [named(false)]);
        let swaps = swaps_from_json(br#"[{"indexes":["a","b"],"rename":true}]"#).unwrap();
        assert_eq!(swaps, [named(true)]);
        for (body, code, message) in [
            (
                r#"[{"indexes":["a","b"],"rename":1}]"#,
                "invalid_swap_rename",
                "Invalid value type at `[0].rename`: expected a boolean, but found a positive integer: `1`",
            ),
            (r#"[{}]"#, "missing_swap_indexes", "Missing field `indexes` inside `[0]`"),
            (
                r#"[{"indexes":["a","b","c"]}]"#,
                "invalid_swap_indexes",
                "Two indexes must be given for each swap. The list `[\"a\", \"b\", \"c\"]` contains 3 indexes.",
            ),
            (
                r#""doggo""#,
                "bad_request",
                "Invalid value type: expected an array, but found a string: `\"doggo\"`",
            ),
        ] {
            let error = swaps_from_json(body.as_bytes()).unwrap_err();
            assert_eq!((error.code.name(), error.message.as_str()), (code, message));
        }
    }

    #[test]
    fn names_must_fit_swaps_and_renames() {
        let named = |a: &str, b: &str, rename| NameSwap { names: (a.into(), b.into()), rename };
        let is_there = |name: &str| ["a", "b", "c"].contains(&name);
        let fit = |swaps: &[NameSwap]| check_names_fit(swaps, is_there).map_err(|e| e.message);
        assert_eq!(fit(&[named("a", "b", false), named("c", "x", true)]), Ok(()));
        let message = "Cannot rename `a` to `b` as the index already exists. Hint: You can remove `b` first and then do your remove.";
        assert_eq!(fit(&[named("a", "b", true)]), Err(message.to_owned()));
        assert_eq!(fit(&[named("x", "b", true)]), Err("Index `x` not found.".to_owned()));
        let both = [named("a", "x", false), named("y", "b", false)];
        assert_eq!(fit(&both), Err("Indexes `x`, `y` not found.".to_owned()));
        let twice = check_each_name_once(&[named("a", "b", false), named("c", "a", true)]);
        assert_eq!(twice.unwrap_err().code.name(), "invalid_swap_duplicate_index_found");
    }

    #[test]
    fn index_view_is_printed_as_meilisearch_prints_it() {
        let view = IndexView {
            uid: "movies".to_owned(),
            created_at: OffsetDateTime::UNIX_EPOCH,
            updated_at: OffsetDateTime::UNIX_EPOCH + time::Duration::milliseconds(1500),
            primary_key: None,
        };
        assert_eq!(
            serde_json::to_string(&view).unwrap(),
            r#"{"uid":"movies","createdAt":"1970-01-01T00:00:00Z","updatedAt":"1970-01-01T00:00:01.5Z","primaryKey":null}"#
        );
        assert_eq!(serde_json::to_string(&Health::default()).unwrap(), r#"{"status":"available"}"#);
    }
}
