//! API keys: key the uid, value [`ApiKeyRecord`].
//!
//! Written by `PutApiKey`, `PatchApiKey`, `DeleteApiKey` and, once in a cluster's life,
//! `InitApiKeys`; read into the routing view. No row holds a secret: a key's value follows from
//! its uid and the master key, which the log never sees.

use std::collections::BTreeMap;

use miroir_wire::keys::{Action, IndexPattern, Key};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::records::{Record, decode, encode};
use super::{API_KEYS, ApplyError, META};
use crate::commands::Outcome;
use crate::engine::{ALL_KEYS, Direction, Engine, Tx};
use crate::routing::{from_nanoseconds, to_nanoseconds};

/// Keys kept at most: each pod works out the value of every key when one changes.
pub const API_KEYS_MAX: usize = 10_000;
/// In [`META`]: the keys that a cluster begins with were made, whether or not they are still there.
const BEGUN: &[u8] = b"api-keys";

/// One API key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKeyRecord {
    /// A UUID, hyphenated, in lower case.
    pub uid: String,
    /// For people.
    pub name: Option<String>,
    /// For people.
    pub description: Option<String>,
    /// Names of actions.
    pub actions: Vec<String>,
    /// Patterns of indexes.
    pub indexes: Vec<String>,
    /// Unix nanoseconds; beyond the year 2262 as well.
    pub expires_at: Option<i128>,
    /// Unix nanoseconds.
    pub created_at: i64,
    /// Unix nanoseconds.
    pub updated_at: i64,
}

impl Record for ApiKeyRecord {
    const VERSION: u8 = 1;
    const NAME: &'static str = "API key";
}

impl From<&Key> for ApiKeyRecord {
    fn from(key: &Key) -> Self {
        Self {
            uid: key.uid.clone(),
            name: key.name.clone(),
            description: key.description.clone(),
            actions: key.actions.iter().map(|action| action.name().to_owned()).collect(),
            indexes: key.indexes.iter().map(|pattern| pattern.as_str().to_owned()).collect(),
            expires_at: key.expires_at.map(OffsetDateTime::unix_timestamp_nanos),
            created_at: to_nanoseconds(key.created_at),
            updated_at: to_nanoseconds(key.updated_at),
        }
    }
}

impl ApiKeyRecord {
    /// The key. Actions that only a newer version knows allow nothing; a time that can't be
    /// is long past.
    fn into_key(self) -> Key {
        let time = OffsetDateTime::from_unix_timestamp_nanos;
        Key {
            uid: self.uid,
            name: self.name,
            description: self.description,
            actions: self.actions.iter().filter_map(|name| Action::from_name(name)).collect(),
            indexes: self
                .indexes
                .into_iter()
                .filter_map(|pattern| IndexPattern::try_from(pattern).ok())
                .collect(),
            expires_at: self.expires_at.map(|at| time(at).unwrap_or(OffsetDateTime::UNIX_EPOCH)),
            created_at: from_nanoseconds(self.created_at),
            updated_at: from_nanoseconds(self.updated_at),
        }
    }
}

/// What changes of a key; `None` leaves a field alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKeyPatch {
    /// The key's uid.
    pub uid: String,
    /// The new name, or none.
    pub name: Option<Option<String>>,
    /// The new description, or none.
    pub description: Option<Option<String>>,
    /// Unix nanoseconds.
    pub at: i64,
}

/// All keys, as the routing view carries them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApiKeys {
    /// Whether the keys that a cluster begins with were made.
    pub begun: bool,
    /// By uid.
    pub by_uid: BTreeMap<String, Key>,
}

impl ApiKeys {
    /// Reads them from the applied state.
    pub(crate) fn load(engine: &dyn Engine) -> Result<Self, ApplyError> {
        let mut keys = Self { begun: engine.get(META, BEGUN)?.is_some(), by_uid: BTreeMap::new() };
        for (_, bytes) in engine.scan(API_KEYS, ALL_KEYS, Direction::Forward, usize::MAX)? {
            let record: ApiKeyRecord = decode(&bytes)?;
            keys.by_uid.insert(record.uid.clone(), record.into_key());
        }
        Ok(keys)
    }
}

/// Adds a key; nothing when its uid has one.
pub(crate) fn put(tx: &mut Tx<'_>, key: &ApiKeyRecord) -> Result<Outcome, ApplyError> {
    if tx.get(API_KEYS, key.uid.as_bytes())?.is_some() {
        return Ok(Outcome::Unchanged);
    }
    if tx.scan(API_KEYS, ALL_KEYS, Direction::Forward, API_KEYS_MAX)?.len() == API_KEYS_MAX {
        return Ok(Outcome::TooMany);
    }
    tx.put(API_KEYS, key.uid.as_bytes(), encode(key)?);
    Ok(Outcome::Done)
}

/// Changes a key; nothing when there is none.
pub(crate) fn patch(tx: &mut Tx<'_>, patch: &ApiKeyPatch) -> Result<Outcome, ApplyError> {
    let Some(bytes) = tx.get(API_KEYS, patch.uid.as_bytes())? else {
        return Ok(Outcome::Unchanged);
    };
    let mut key: ApiKeyRecord = decode(&bytes)?;
    if let Some(name) = &patch.name {
        key.name.clone_from(name);
    }
    if let Some(description) = &patch.description {
        key.description.clone_from(description);
    }
    key.updated_at = patch.at;
    tx.put(API_KEYS, patch.uid.as_bytes(), encode(&key)?);
    Ok(Outcome::Done)
}

/// Removes a key; nothing when there is none.
pub(crate) fn delete(tx: &mut Tx<'_>, uid: &str) -> Result<Outcome, ApplyError> {
    if tx.get(API_KEYS, uid.as_bytes())?.is_none() {
        return Ok(Outcome::Unchanged);
    }
    tx.delete(API_KEYS, uid.as_bytes());
    Ok(Outcome::Done)
}

/// Makes the keys that a cluster begins with, once.
pub(crate) fn init(tx: &mut Tx<'_>, keys: &[ApiKeyRecord]) -> Result<Outcome, ApplyError> {
    if tx.get(META, BEGUN)?.is_some() {
        return Ok(Outcome::Unchanged);
    }
    tx.put(META, BEGUN, vec![1]);
    for key in keys {
        tx.put(API_KEYS, key.uid.as_bytes(), encode(key)?);
    }
    Ok(Outcome::Done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::Command;
    use crate::engine::{Durability, MemoryEngine};
    use crate::tables::{apply, touches_routing};

    fn applied(engine: &MemoryEngine, command: Command) -> (Outcome, bool) {
        let mut tx = Tx::new(engine);
        let outcome = apply(&mut tx, 1, &command).expect("memory does not fail");
        engine.commit(tx.into_batch(), Durability::Lazy).expect("memory does not fail");
        let touches = touches_routing(&command, &outcome);
        (outcome, touches)
    }

    fn record(uid: &str) -> ApiKeyRecord {
        ApiKeyRecord {
            uid: uid.to_owned(),
            name: Some("n".to_owned()),
            description: None,
            actions: vec!["search".to_owned(), "of.tomorrow".to_owned()],
            indexes: vec!["mov*".to_owned()],
            expires_at: Some(10_000_000_000_000_000_000),
            created_at: 1,
            updated_at: 1,
        }
    }

    fn uids(engine: &MemoryEngine) -> Vec<String> {
        let keys = ApiKeys::load(engine).expect("memory does not fail");
        keys.by_uid.into_keys().collect()
    }

    #[test]
    fn a_key_is_made_changed_and_removed_once() {
        let engine = MemoryEngine::default();
        let put = || Command::PutApiKey(Box::new(record("a")));
        assert_eq!(applied(&engine, put()), (Outcome::Done, true));
        assert_eq!(applied(&engine, put()), (Outcome::Unchanged, false));
        let patch = |uid: &str| {
            let uid = uid.to_owned();
            Command::PatchApiKey(ApiKeyPatch { uid, name: Some(None), description: None, at: 9 })
        };
        assert_eq!(applied(&engine, patch("a")), (Outcome::Done, true));
        assert_eq!(applied(&engine, patch("b")), (Outcome::Unchanged, false));
        let keys = ApiKeys::load(&engine).expect("memory does not fail");
        let key = keys.by_uid.get("a").expect("it was put");
        assert_eq!((&key.name, to_nanoseconds(key.updated_at), keys.begun), (&None, 9, false));
        assert_eq!(key.actions, [Action::Search]);
        assert_eq!(key.expires_at.map(OffsetDateTime::year), Some(2286));
        let delete = || Command::DeleteApiKey { uid: "a".to_owned() };
        assert_eq!(applied(&engine, delete()), (Outcome::Done, true));
        assert_eq!(applied(&engine, delete()), (Outcome::Unchanged, false));
        assert_eq!(uids(&engine), [""; 0]);
    }

    #[test]
    fn the_first_keys_are_made_once_in_a_clusters_life() {
        let engine = MemoryEngine::default();
        let init = |uid: &str| Command::InitApiKeys { keys: vec![record(uid)] };
        assert_eq!(applied(&engine, init("a")), (Outcome::Done, true));
        assert_eq!(applied(&engine, init("b")), (Outcome::Unchanged, false));
        assert_eq!(uids(&engine), ["a"]);
        applied(&engine, Command::DeleteApiKey { uid: "a".to_owned() });
        assert_eq!(applied(&engine, init("c")), (Outcome::Unchanged, false));
        assert!(ApiKeys::load(&engine).is_ok_and(|keys| keys.begun && keys.by_uid.is_empty()));
    }

    #[test]
    fn golden_bytes_of_version_1() {
        let key = ApiKeyRecord { expires_at: Some(3), ..record("a") };
        let bytes = [
            &[1, 1, b'a', 1, 1, b'n', 0, 2, 6][..],
            b"search",
            &[11],
            b"of.tomorrow",
            &[1, 4],
            b"mov*",
            &[1, 6, 2, 2],
        ]
        .concat();
        assert_eq!(encode(&key), Ok(bytes.clone()));
        assert_eq!(decode(&bytes), Ok(key));
    }
}
