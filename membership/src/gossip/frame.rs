//! One sealed datagram.
//!
//! | at | bytes | what |
//! |---|---|---|
//! | 0 | 1 | version of this layout |
//! | 1 | 8 | id of the secret it is sealed with |
//! | 9 | 16 | session of the sender: a random number of its process |
//! | 25 | 8 | counter, big endian, from 1, never twice in a session |
//! | 33 | 16 | sealed: session of the receiver as the sender knows it, zeros if it doesn't |
//! | 49 | 1 | sealed: kind |
//! | 50 | | sealed: payload |
//! | end | 16 | tag |
//!
//! ChaCha20-Poly1305 (RFC 8439) with a key of its own for each secret and session, so the counter
//! is nonce enough. The bytes in clear are authenticated too.

use ring::aead::{Aad, LessSafeKey, NONCE_LEN, Nonce};

use crate::secrets::KeyId;

const VERSION: u8 = 1;
const CLEAR_BYTES: usize = 33;
const TAG_BYTES: usize = 16;
const INNER_BYTES: usize = 17;
/// Largest payload of a datagram that UDP over IPv4 can carry.
pub(super) const PAYLOAD_BYTES_MAX: usize = 65_507 - CLEAR_BYTES - INNER_BYTES - TAG_BYTES;

/// A random number of a process, or zeros for one that isn't known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Session(pub(super) [u8; 16]);

/// The part in clear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) key: KeyId,
    pub(super) sender: Session,
    pub(super) counter: u64,
}

/// What a payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A message.
    Whole,
    /// The first half of a message that one datagram can't carry.
    FirstHalf,
    /// The second, whose counter is the first's plus one.
    SecondHalf,
    /// "This is my session": the answer to a datagram that named another. The payload is that
    /// datagram's counter.
    Hello,
}

impl Kind {
    fn code(self) -> u8 {
        match self {
            Self::Whole => 0,
            Self::FirstHalf => 1,
            Self::SecondHalf => 2,
            Self::Hello => 3,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        [Self::Whole, Self::FirstHalf, Self::SecondHalf, Self::Hello]
            .into_iter()
            .find(|kind| kind.code() == code)
    }
}

/// The sealed part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Inner {
    pub(super) receiver: Session,
    pub(super) kind: Kind,
    pub(super) payload: Vec<u8>,
}

/// Why bytes are no datagram of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FrameError {
    #[error("too short")]
    TooShort,
    #[error("layout {0} is not known")]
    UnknownVersion(u8),
    #[error("not sealed with that key")]
    NotAuthentic,
    #[error("kind {0} is not known")]
    UnknownKind(u8),
}

/// Reads the part in clear. Nothing of it may be believed before [`open`].
pub(super) fn parse_header(datagram: &[u8]) -> Result<Header, FrameError> {
    let (version, rest) = datagram.split_first().ok_or(FrameError::TooShort)?;
    if *version != VERSION {
        return Err(FrameError::UnknownVersion(*version));
    }
    let (key, rest) = rest.split_first_chunk().ok_or(FrameError::TooShort)?;
    let (sender, rest) = rest.split_first_chunk().ok_or(FrameError::TooShort)?;
    let (counter, sealed) = rest.split_first_chunk().ok_or(FrameError::TooShort)?;
    if sealed.len() < INNER_BYTES + TAG_BYTES {
        return Err(FrameError::TooShort);
    }
    let counter = u64::from_be_bytes(*counter);
    Ok(Header { key: KeyId(*key), sender: Session(*sender), counter })
}

fn clear(header: &Header) -> [u8; CLEAR_BYTES] {
    let mut clear = [VERSION; CLEAR_BYTES];
    let (key, rest) = clear[1..].split_at_mut(8);
    let (sender, counter) = rest.split_at_mut(16);
    key.copy_from_slice(&header.key.0);
    sender.copy_from_slice(&header.sender.0);
    counter.copy_from_slice(&header.counter.to_be_bytes());
    clear
}

fn nonce(counter: u64) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce[NONCE_LEN - 8..].copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}

/// Seals a datagram with the key of `header.sender`, which must not have used `header.counter`.
/// `None` when the payload is longer than the cipher can seal, which nothing is.
pub(super) fn seal(
    key: &LessSafeKey,
    header: &Header,
    receiver: Session,
    kind: Kind,
    payload: &[u8],
) -> Option<Vec<u8>> {
    let clear = clear(header);
    let mut datagram = Vec::with_capacity(CLEAR_BYTES + INNER_BYTES + payload.len() + TAG_BYTES);
    datagram.extend_from_slice(&clear);
    datagram.extend_from_slice(&receiver.0);
    datagram.push(kind.code());
    datagram.extend_from_slice(payload);
    let sealed = datagram.get_mut(CLEAR_BYTES..)?;
    let tag =
        key.seal_in_place_separate_tag(nonce(header.counter), Aad::from(clear), sealed).ok()?;
    datagram.extend_from_slice(tag.as_ref());
    Some(datagram)
}

/// Opens a datagram with the key of `header.sender`.
pub(super) fn open(
    key: &LessSafeKey,
    header: &Header,
    mut datagram: Vec<u8>,
) -> Result<Inner, FrameError> {
    let sealed = datagram.get_mut(CLEAR_BYTES..).ok_or(FrameError::TooShort)?;
    let inner = key
        .open_in_place(nonce(header.counter), Aad::from(clear(header)), sealed)
        .map_err(|_| FrameError::NotAuthentic)?;
    let (receiver, rest) = inner.split_first_chunk().ok_or(FrameError::TooShort)?;
    let (kind, payload) = rest.split_first().ok_or(FrameError::TooShort)?;
    let kind = Kind::from_code(*kind).ok_or(FrameError::UnknownKind(*kind))?;
    Ok(Inner { receiver: Session(*receiver), kind, payload: payload.to_vec() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::secrets::ClusterSecrets;

    fn key(session: Session) -> LessSafeKey {
        let secrets = ClusterSecrets::new(&["a secret for the tests of frames, long enough"]);
        let secrets = secrets.expect("a good list").current();
        let keys = secrets.first().expect("one secret").clone();
        keys.gossip_key(&session.0).expect("a key")
    }

    proptest! {
        #[test]
        fn what_is_sealed_opens_and_one_changed_bit_does_not(
            sender: [u8; 16], counter: u64, receiver: [u8; 16],
            payload in proptest::collection::vec(any::<u8>(), 0..300),
            place: prop::sample::Index, bit in 0..8u32,
        ) {
            let header = Header { key: KeyId([7; 8]), sender: Session(sender), counter };
            let key = key(header.sender);
            let sealed = seal(&key, &header, Session(receiver), Kind::Whole, &payload);
            let sealed = sealed.expect("sealed");
            prop_assert_eq!(parse_header(&sealed), Ok(header));
            let inner = Inner { receiver: Session(receiver), kind: Kind::Whole, payload };
            prop_assert_eq!(open(&key, &header, sealed.clone()), Ok(inner));
            let mut changed = sealed;
            let place = place.index(changed.len());
            changed[place] ^= 1 << bit;
            if let Ok(header) = parse_header(&changed) {
                prop_assert!(open(&key, &header, changed).is_err());
            }
        }

        #[test]
        fn no_bytes_make_the_parser_stumble(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let mut bytes = bytes;
            let _ = parse_header(&bytes);
            if let Some(first) = bytes.first_mut() {
                *first = VERSION;
            }
            if let Ok(header) = parse_header(&bytes) {
                prop_assert!(open(&key(header.sender), &header, bytes).is_err());
            }
        }
    }
}
