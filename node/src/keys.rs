//! The API keys of a node: in memory to be checked, and in one file to be kept.
//!
//! ```text
//! <data>/api-keys.json   every key without its value, replaced as a whole
//! ```
//! The keys that a node begins with are made when the file is not there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::{fs, io};

use miroir_seams::Seams;
use miroir_wire::access::KeyRing;
use miroir_wire::error::{ApiError, Code};
use miroir_wire::keys::{Action, IndexPattern, Key};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::whole_file;

/// Keys kept at most: all are written when one changes.
const KEYS_MAX: usize = 10_000;

/// Why the keys can't be had.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The file can't be read or written.
    #[error("API keys in {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the disk said.
        source: io::Error,
    },
    /// The file holds something else.
    #[error("API keys in {path}: {source}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

impl From<KeysError> for ApiError {
    fn from(error: KeysError) -> Self {
        tracing::error!(%error, "API keys can't be kept");
        ApiError::new(Code::IoError, error.to_string())
    }
}

/// A key as it is kept.
#[derive(Debug, Serialize, Deserialize)]
struct StoredKey {
    uid: String,
    name: Option<String>,
    description: Option<String>,
    actions: Vec<String>,
    indexes: Vec<IndexPattern>,
    #[serde(with = "time::serde::rfc3339::option")]
    expires_at: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    updated_at: OffsetDateTime,
}

impl From<&Key> for StoredKey {
    fn from(key: &Key) -> Self {
        Self {
            uid: key.uid.clone(),
            name: key.name.clone(),
            description: key.description.clone(),
            actions: key.actions.iter().map(|action| action.name().to_owned()).collect(),
            indexes: key.indexes.clone(),
            expires_at: key.expires_at,
            created_at: key.created_at,
            updated_at: key.updated_at,
        }
    }
}

impl From<StoredKey> for Key {
    /// Actions that only a later version knows allow nothing.
    fn from(key: StoredKey) -> Self {
        Self {
            uid: key.uid,
            name: key.name,
            description: key.description,
            actions: key.actions.iter().filter_map(|name| Action::from_name(name)).collect(),
            indexes: key.indexes,
            expires_at: key.expires_at,
            created_at: key.created_at,
            updated_at: key.updated_at,
        }
    }
}

/// The keys of one node.
#[derive(Debug)]
pub(crate) struct NodeKeys {
    master_key: String,
    file: PathBuf,
    /// Held while keys change: the file and the ring follow.
    by_uid: Mutex<BTreeMap<String, Key>>,
    ring: RwLock<Arc<KeyRing>>,
}

impl NodeKeys {
    /// Reads the keys of the data directory, or makes the first ones.
    ///
    /// # Errors
    /// See [`KeysError`].
    pub(crate) fn open(data: &Path, master_key: &str, seams: &Seams) -> Result<Self, KeysError> {
        let file = data.join("api-keys.json");
        let (stored, is_new) = match fs::read(&file) {
            Ok(bytes) => {
                let stored: Vec<StoredKey> = serde_json::from_slice(&bytes)
                    .map_err(|source| KeysError::Content { path: file.clone(), source })?;
                (stored.into_iter().map(Key::from).collect(), false)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                (Key::defaults(seams.clock.now(), || seams.entropy.uuid()), true)
            }
            Err(source) => return Err(KeysError::File { path: file, source }),
        };
        let by_uid: BTreeMap<String, Key> =
            stored.into_iter().map(|key| (key.uid.clone(), key)).collect();
        let keys = Self {
            master_key: master_key.to_owned(),
            file,
            ring: RwLock::new(Arc::new(KeyRing::new(master_key, by_uid.values()))),
            by_uid: Mutex::new(by_uid),
        };
        if is_new {
            keys.keep(&keys.lock())?;
        }
        Ok(keys)
    }

    /// The master key.
    pub(crate) fn master_key(&self) -> &str {
        &self.master_key
    }

    /// The keys as they are now.
    pub(crate) fn ring(&self) -> Arc<KeyRing> {
        self.ring.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes the keys; what `change` refuses changes nothing. Blocks.
    ///
    /// # Errors
    /// What `change` says; `bad_request` beyond the limit; `io_error`.
    pub(crate) fn change<T>(
        &self,
        change: impl FnOnce(&mut BTreeMap<String, Key>) -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        let mut by_uid = self.lock();
        let mut changed = by_uid.clone();
        let outcome = change(&mut changed)?;
        if changed.len() > KEYS_MAX {
            let message = format!("There are {KEYS_MAX} API keys, the most there may be.");
            return Err(ApiError::new(Code::BadRequest, message));
        }
        self.keep(&changed)?;
        let ring = Arc::new(KeyRing::new(&self.master_key, changed.values()));
        *self.ring.write().unwrap_or_else(PoisonError::into_inner) = ring;
        *by_uid = changed;
        Ok(outcome)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Key>> {
        // Every change under the lock is a single assignment.
        self.by_uid.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the file: a crash leaves the old one or the new one.
    fn keep(&self, keys: &BTreeMap<String, Key>) -> Result<(), KeysError> {
        let failed = |source| KeysError::File { path: self.file.clone(), source };
        let stored: Vec<StoredKey> = keys.values().map(StoredKey::from).collect();
        let bytes = serde_json::to_vec(&stored)
            .map_err(|source| KeysError::Content { path: self.file.clone(), source })?;
        whole_file::replace(&self.file, &bytes).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_kept_and_the_first_ones_are_made_once() {
        let directory = tempfile::tempdir().unwrap();
        let open = || NodeKeys::open(directory.path(), "master", &Seams::real()).unwrap();
        let keys = open();
        let first: Vec<String> =
            keys.ring().newest_first().iter().map(|key| key.value.clone()).collect();
        assert_eq!(first.len(), 4);
        let uid = keys.ring().newest_first()[0].key.uid.clone();
        keys.change(|keys| Ok(keys.remove(&uid))).unwrap();
        let refused = keys.change(|keys| {
            keys.clear();
            Err::<(), _>(ApiError::task_not_found(1))
        });
        assert!(refused.is_err());
        let again = open();
        let left: Vec<String> =
            again.ring().newest_first().iter().map(|key| key.value.clone()).collect();
        assert_eq!(left, first[1..]);
        assert!(again.ring().by_value(&first[0]).is_none());
    }
}
