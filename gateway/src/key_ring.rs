//! The API keys of the newest routing view, ready to be looked up.
//!
//! A ring is made from the keys of one routing view and the master key, and serves as long as the
//! view's keys are the same ones: a request loads two pointers and waits for nobody.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use miroir_storage::tables::api_keys::ApiKeys;
use miroir_wire::access::KeyRing;

/// The newest ring.
#[derive(Debug, Default)]
pub struct KeyRings {
    newest: ArcSwapOption<(Arc<ApiKeys>, Arc<KeyRing>)>,
}

impl KeyRings {
    /// The ring of `keys`, made now if it is not the one at hand. Two requests may make it at the
    /// same time; either is right.
    pub fn of(&self, master_key: &str, keys: &Arc<ApiKeys>) -> Arc<KeyRing> {
        if let Some(newest) = self.newest.load_full()
            && Arc::ptr_eq(&newest.0, keys)
        {
            return newest.1.clone();
        }
        let ring = Arc::new(KeyRing::new(master_key, keys.by_uid.values()));
        self.newest.store(Some(Arc::new((keys.clone(), ring.clone()))));
        ring
    }
}

#[cfg(test)]
mod tests {
    use miroir_wire::access::value_of;
    use miroir_wire::keys::Key;
    use time::OffsetDateTime;

    use super::*;

    #[test]
    fn a_ring_serves_until_a_key_changes() {
        let uid = || "550e8400-e29b-41d4-a716-446655440000".to_owned();
        let key = Key::defaults(OffsetDateTime::UNIX_EPOCH, uid).remove(0);
        let by_uid = [(key.uid.clone(), key)].into();
        let keys = Arc::new(ApiKeys { begun: true, by_uid });
        let rings = KeyRings::default();
        let ring = rings.of("master", &keys);
        assert!(Arc::ptr_eq(&ring, &rings.of("master", &keys)));
        let value = value_of("master", &uid());
        assert!(ring.by_value(&value).is_some());
        let fewer = Arc::new(ApiKeys::default());
        assert!(rings.of("master", &fewer).by_value(&value).is_none());
    }
}
