//! The secrets that make pods one cluster, and the keys that come of them.
//!
//! Every pod is given the same list. The first secret of a pod's list is the one it uses: it
//! proves who it is with it and seals with it. All of the list are accepted from others. So a
//! secret is replaced without a break in three steps, each on every pod before the next:
//! `[old]` → `[old, new]` → `[new, old]` → `[new]`.
//!
//! A secret itself never encrypts anything. HKDF-SHA256 (RFC 5869, salt
//! `miroir cluster secret`) gives a key for each purpose, told apart by its label:
//!
//! | label | length, bytes | for |
//! |---|---|---|
//! | `miroir key id v1` | 8 | naming the secret in clear, to find it in a list |
//! | `miroir link client v1` | 32 | seed of the Ed25519 key of who calls ([`link`](crate::link)) |
//! | `miroir link server v1` | 32 | seed of the Ed25519 key of who answers |
//! | `miroir gossip v1` and a session | 32 | sealing that session's datagrams ([`gossip`](crate::gossip)) |

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use ring::aead::{CHACHA20_POLY1305, LessSafeKey, UnboundKey};
use ring::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use rustls::crypto::ring::sign::any_eddsa_type;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use tokio::sync::watch;

/// Shortest secret, bytes. 32 random bytes in hex are 64; anything a person can guess is shorter.
pub const SECRET_BYTES_MIN: usize = 32;
/// Longest secret, bytes: a file that is no secret should be noticed.
pub const SECRET_BYTES_MAX: usize = 1024;
/// Most secrets in a list. Two are needed while one is replaced; each costs handshakes a look.
pub const SECRETS_MAX: usize = 8;

const SALT: &[u8] = b"miroir cluster secret";
const KEY_ID_LABEL: &[u8] = b"miroir key id v1";
const LINK_CLIENT_LABEL: &[u8] = b"miroir link client v1";
const LINK_SERVER_LABEL: &[u8] = b"miroir link server v1";
const GOSSIP_LABEL: &[u8] = b"miroir gossip v1";

/// What an Ed25519 private key looks like in PKCS#8 (RFC 8410, section 7) before its 32 bytes.
const ED25519_PKCS8_PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// Why a list of secrets is refused. The one in force stays so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretsError {
    /// Nothing to prove or seal with.
    #[error("a cluster needs at least one secret")]
    None,
    /// More than [`SECRETS_MAX`].
    #[error("{0} secrets, {SECRETS_MAX} are the limit")]
    TooMany(usize),
    /// Shorter than [`SECRET_BYTES_MIN`].
    #[error("secret {place} has {bytes} bytes, {SECRET_BYTES_MIN} are the least")]
    TooShort {
        /// Which of the list, from 1.
        place: usize,
        /// Its length.
        bytes: usize,
    },
    /// Longer than [`SECRET_BYTES_MAX`].
    #[error("secret {place} has {bytes} bytes, {SECRET_BYTES_MAX} are the limit")]
    TooLong {
        /// Which of the list, from 1.
        place: usize,
        /// Its length.
        bytes: usize,
    },
    /// No keys could be made of it: a fault of ours.
    #[error("no keys can be made of secret {place}")]
    Unusable {
        /// Which of the list, from 1.
        place: usize,
    },
}

/// The secrets of the cluster. Clones share them, and see them replaced.
#[derive(Clone)]
pub struct ClusterSecrets {
    shared: Arc<Shared>,
}

struct Shared {
    current: ArcSwap<SecretSet>,
    /// The generation in force; sent after `current` was swapped.
    replaced: watch::Sender<u64>,
}

impl ClusterSecrets {
    /// Takes a list, byte for byte (no white space is cut off): the first is used, all are
    /// accepted. The same secret twice counts once.
    ///
    /// # Errors
    /// See [`SecretsError`].
    pub fn new<S: AsRef<[u8]>>(list: &[S]) -> Result<Self, SecretsError> {
        let current = ArcSwap::from_pointee(SecretSet::derive(0, list)?);
        Ok(Self { shared: Arc::new(Shared { current, replaced: watch::channel(0).0 }) })
    }

    /// Replaces the list while running. New connections and datagrams use it from now on;
    /// connections that others proved with a secret that is gone are closed.
    ///
    /// # Errors
    /// See [`SecretsError`]; the old list stays in force.
    pub fn replace<S: AsRef<[u8]>>(&self, list: &[S]) -> Result<(), SecretsError> {
        let mut set = SecretSet::derive(0, list)?;
        self.shared.replaced.send_modify(|generation| {
            // Under the channel's lock: two replacements get two generations.
            *generation += 1;
            set.generation = *generation;
            self.shared.current.store(Arc::new(std::mem::take(&mut set)));
        });
        Ok(())
    }

    pub(crate) fn current(&self) -> Arc<SecretSet> {
        self.shared.current.load_full()
    }

    pub(crate) fn replaced(&self) -> watch::Receiver<u64> {
        self.shared.replaced.subscribe()
    }
}

/// Names secrets by their ids, which tell nothing of them.
impl fmt::Debug for ClusterSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.current().fmt(f)
    }
}

/// A list of secrets in force. Never empty but in [`ClusterSecrets::replace`], for a moment,
/// where nobody sees it.
#[derive(Default)]
pub(crate) struct SecretSet {
    /// Grows with every replacement.
    pub(crate) generation: u64,
    secrets: Vec<Arc<SecretKeys>>,
}

impl SecretSet {
    fn derive<S: AsRef<[u8]>>(generation: u64, list: &[S]) -> Result<Self, SecretsError> {
        if list.len() > SECRETS_MAX {
            return Err(SecretsError::TooMany(list.len()));
        }
        let mut secrets: Vec<Arc<SecretKeys>> = Vec::new();
        for (index, secret) in list.iter().enumerate() {
            let (place, bytes) = (index + 1, secret.as_ref().len());
            if bytes < SECRET_BYTES_MIN {
                return Err(SecretsError::TooShort { place, bytes });
            }
            if bytes > SECRET_BYTES_MAX {
                return Err(SecretsError::TooLong { place, bytes });
            }
            let keys =
                SecretKeys::derive(secret.as_ref()).ok_or(SecretsError::Unusable { place })?;
            if !secrets.iter().any(|known| known.id == keys.id) {
                secrets.push(Arc::new(keys));
            }
        }
        if secrets.is_empty() {
            return Err(SecretsError::None);
        }
        Ok(Self { generation, secrets })
    }

    /// The secret to prove and seal with.
    pub(crate) fn first(&self) -> Option<&Arc<SecretKeys>> {
        self.secrets.first()
    }

    pub(crate) fn by_id(&self, id: KeyId) -> Option<&Arc<SecretKeys>> {
        self.secrets.iter().find(|keys| keys.id == id)
    }

    pub(crate) fn accepts_client(&self, public_key: &[u8]) -> bool {
        self.secrets.iter().any(|keys| is_key(&keys.link_client, public_key))
    }

    pub(crate) fn accepts_server(&self, public_key: &[u8]) -> bool {
        self.secrets.iter().any(|keys| is_key(&keys.link_server, public_key))
    }
}

fn is_key(key: &CertifiedKey, public_key: &[u8]) -> bool {
    key.cert.first().is_some_and(|known| known.as_ref() == public_key)
}

impl fmt::Debug for SecretSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: Vec<_> = self.secrets.iter().map(|keys| keys.id).collect();
        f.debug_struct("ClusterSecrets")
            .field("generation", &self.generation)
            .field("ids", &ids)
            .finish()
    }
}

/// Names a secret in clear.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeyId(pub(crate) [u8; 8]);

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

/// What is derived of one secret.
pub(crate) struct SecretKeys {
    pub(crate) id: KeyId,
    pub(crate) link_client: Arc<CertifiedKey>,
    pub(crate) link_server: Arc<CertifiedKey>,
    root: Prk,
}

impl SecretKeys {
    fn derive(secret: &[u8]) -> Option<Self> {
        let root = Salt::new(HKDF_SHA256, SALT).extract(secret);
        let id = KeyId(expand(&root, KEY_ID_LABEL)?);
        let link_client = link_key(&expand(&root, LINK_CLIENT_LABEL)?)?;
        let link_server = link_key(&expand(&root, LINK_SERVER_LABEL)?)?;
        Some(Self { id, link_client, link_server, root })
    }

    /// The key of the datagrams that `session` sends. `None` never happens: the length is right.
    pub(crate) fn gossip_key(&self, session: &[u8]) -> Option<LessSafeKey> {
        let info = [GOSSIP_LABEL, session];
        let okm = self.root.expand(&info, &CHACHA20_POLY1305).ok()?;
        Some(LessSafeKey::new(UnboundKey::from(okm)))
    }
}

struct Bytes(usize);

impl KeyType for Bytes {
    fn len(&self) -> usize {
        self.0
    }
}

fn expand<const LENGTH: usize>(root: &Prk, label: &[u8]) -> Option<[u8; LENGTH]> {
    let mut bytes = [0; LENGTH];
    root.expand(&[label], Bytes(LENGTH)).ok()?.fill(&mut bytes).ok()?;
    Some(bytes)
}

/// The key pair of a seed, its public half as a raw public key (RFC 7250).
fn link_key(seed: &[u8; 32]) -> Option<Arc<CertifiedKey>> {
    let mut pkcs8 = ED25519_PKCS8_PREFIX.to_vec();
    pkcs8.extend_from_slice(seed);
    let key = any_eddsa_type(&PrivatePkcs8KeyDer::from(pkcs8)).ok()?;
    let public_key = CertificateDer::from(key.public_key()?.as_ref().to_vec());
    Some(Arc::new(CertifiedKey::new(vec![public_key], key)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "the old secret of this cluster, long enough";
    const NEW: &str = "the new secret of this cluster, long enough";

    #[test]
    fn weak_lists_are_refused_and_change_nothing() {
        assert_eq!(ClusterSecrets::new::<&str>(&[]).err(), Some(SecretsError::None));
        let short = Some(SecretsError::TooShort { place: 2, bytes: 31 });
        let weak = [OLD, "0123456789012345678901234567890"];
        assert_eq!(ClusterSecrets::new(&weak).err(), short);
        let secrets = ClusterSecrets::new(&[OLD]).expect("a good list");
        let before = format!("{secrets:?}");
        assert_eq!(secrets.replace(&weak).err(), short);
        assert_eq!(format!("{secrets:?}"), before);
    }

    #[test]
    fn printing_shows_no_secret() {
        let secrets = ClusterSecrets::new(&[OLD, NEW]).expect("a good list");
        let printed = format!("{secrets:?} {secrets:#?}");
        assert!(!printed.contains("secret of this cluster"), "{printed}");
    }

    #[test]
    fn clones_see_the_replacement() {
        let secrets = ClusterSecrets::new(&[OLD, OLD]).expect("a good list");
        let clone = secrets.clone();
        let old_key = secrets.current().first().map(|keys| keys.id);
        secrets.replace(&[NEW, OLD]).expect("a good list");
        let now = clone.current();
        assert_eq!((now.generation, now.secrets.len()), (1, 2));
        assert_ne!(now.first().map(|keys| keys.id), old_key);
        assert!(old_key.is_some_and(|id| now.by_id(id).is_some()));
        assert_eq!(*clone.replaced().borrow(), 1);
    }

    /// Keys are agreed between versions of the program: they must never change by accident.
    #[test]
    fn derived_keys_stay_what_they_are() {
        let secrets = ClusterSecrets::new(&[OLD]).expect("a good list");
        assert_eq!(format!("{:?}", secrets.current()), GOLDEN);
    }

    const GOLDEN: &str = "ClusterSecrets { generation: 0, ids: [2aac2bf375804858] }";
}
