//! The API keys, ready to be looked up by what a client shows of them.
//!
//! The value of a key is looked up by its hash and then compared in constant time, so how long
//! that takes says nothing of how much of a guess is right.

use std::collections::BTreeMap;
use std::fmt;
use std::fmt::Write as _;
use std::sync::Arc;

use ring::hmac;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::error::ApiError;
use crate::keys::{ActionSet, IndexPattern, Key, key_not_found, read_uid};

/// A key and what follows from it.
pub struct RingKey {
    /// The key.
    pub key: Key,
    /// What a client shows.
    pub value: String,
    /// All that its actions stand for.
    pub actions: ActionSet,
    /// Whether it is good for all indexes.
    pub all_indexes: bool,
}

/// Without the value.
impl fmt::Debug for RingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RingKey").field("key", &self.key).finish_non_exhaustive()
    }
}

/// All keys.
#[derive(Debug, Default)]
pub struct KeyRing {
    by_hash: BTreeMap<[u8; 32], Arc<RingKey>>,
    by_uid: BTreeMap<String, Arc<RingKey>>,
}

impl KeyRing {
    /// The ring of `keys` under `master_key`.
    pub fn new<'a>(master_key: &str, keys: impl IntoIterator<Item = &'a Key>) -> Self {
        let mut ring = Self::default();
        for key in keys {
            let value = value_of(master_key, &key.uid);
            let hash = Sha256::digest(&value).into();
            let entry = Arc::new(RingKey {
                actions: ActionSet::of(&key.actions),
                all_indexes: key.indexes.iter().any(IndexPattern::is_all),
                key: key.clone(),
                value,
            });
            ring.by_hash.insert(hash, entry.clone());
            ring.by_uid.insert(key.uid.clone(), entry);
        }
        ring
    }

    /// The key with this value.
    pub fn by_value(&self, value: &str) -> Option<&Arc<RingKey>> {
        let hash: [u8; 32] = Sha256::digest(value).into();
        let found = self.by_hash.get(&hash)?;
        bool::from(found.value.as_bytes().ct_eq(value.as_bytes())).then_some(found)
    }

    /// The key with this uid, hyphenated and in lower case.
    pub fn by_uid(&self, uid: &str) -> Option<&Arc<RingKey>> {
        self.by_uid.get(uid)
    }

    /// Every key, the newest first.
    pub fn newest_first(&self) -> Vec<&RingKey> {
        let mut keys: Vec<&RingKey> = self.by_uid.values().map(Arc::as_ref).collect();
        keys.sort_by_key(|entry| std::cmp::Reverse(entry.key.created_at));
        keys
    }
}

/// The value of the key `uid`: HMAC-SHA-256 of it under the master key, in hexadecimal.
pub fn value_of(master_key: &str, uid: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, master_key.as_bytes());
    let tag = hmac::sign(&key, uid.as_bytes());
    let mut value = String::with_capacity(64);
    for byte in tag.as_ref() {
        // Writing into memory can't fail.
        let _ = write!(value, "{byte:02x}");
    }
    value
}

/// The key that a path names, by its uid or its value.
///
/// # Errors
/// `api_key_not_found`.
pub fn find_key(ring: &KeyRing, asked: &str) -> Result<Arc<RingKey>, ApiError> {
    let uid = read_uid(asked);
    let found = match &uid {
        Some(uid) => ring.by_uid(uid),
        None => ring.by_value(asked),
    };
    found.cloned().ok_or_else(|| key_not_found(uid.as_deref().unwrap_or(asked)))
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;
    use crate::keys::Action;

    #[test]
    fn a_key_is_found_by_its_value_and_its_uid() {
        let mut number = 0;
        let keys = Key::defaults(OffsetDateTime::UNIX_EPOCH, || {
            number += 1;
            format!("550e8400-e29b-41d4-a716-44665544000{number}")
        });
        let ring = KeyRing::new("master", &keys);
        let uid = "550e8400-e29b-41d4-a716-446655440004";
        let value = value_of("master", uid);
        let found = ring.by_value(&value).expect("the key is there");
        assert_eq!(found.key.uid, uid);
        assert!(found.actions.holds(Action::Search) && !found.actions.holds(Action::TasksGet));
        assert!(ring.by_uid(uid).is_some_and(|key| Arc::ptr_eq(key, found)));
        for asked in [uid, &uid.to_uppercase(), &value] {
            assert!(find_key(&ring, asked).is_ok_and(|key| Arc::ptr_eq(&key, found)), "{asked}");
        }
        for wrong in [value_of("other", uid), value.to_uppercase(), String::new()] {
            assert!(ring.by_value(&wrong).is_none(), "{wrong}");
        }
        let newest: Vec<&str> =
            ring.newest_first().iter().map(|key| key.key.uid.as_str()).collect();
        assert_eq!(newest.first(), Some(&uid));
    }

    /// `printf 6062abda-a5aa-4414-ac91-ecd7944c0f8d | openssl dgst -sha256 -hmac MASTER_KEY`
    #[test]
    fn values_are_meilisearchs() {
        assert_eq!(
            value_of("MASTER_KEY", "6062abda-a5aa-4414-ac91-ecd7944c0f8d"),
            "d8c9c91769d197727a05d457c5a472c5e3cbd57e986c176dd8a76dce4db068dd"
        );
    }
}
