//! Names: what a client's name means, to readers (`r`) and to writers (`w`).

use super::records::text_from;
use super::{ApplyError, NAMES};
use crate::commands::NameChange;
use crate::engine::Tx;
use crate::ids::IndexUid;

/// Which meaning of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// What a reader sees now.
    Read,
    /// What a write accepted now goes to.
    Write,
}

/// The stored key: the side, then the name.
pub fn key(side: Side, name: &str) -> Vec<u8> {
    let mut key = vec![match side {
        Side::Read => b'r',
        Side::Write => b'w',
    }];
    key.extend_from_slice(name.as_bytes());
    key
}

pub(crate) fn get(tx: &Tx<'_>, side: Side, name: &str) -> Result<Option<IndexUid>, ApplyError> {
    match tx.get(NAMES, &key(side, name))? {
        Some(bytes) => Ok(Some(IndexUid(text_from(bytes)?))),
        None => Ok(None),
    }
}

pub(crate) fn set(tx: &mut Tx<'_>, side: Side, name: &str, uid: Option<&IndexUid>) {
    match uid {
        Some(uid) => tx.put(NAMES, &key(side, name), uid.as_str().as_bytes().to_vec()),
        None => tx.delete(NAMES, &key(side, name)),
    }
}

/// Whether the names mean to writers what the changes need.
pub(crate) fn fit(tx: &Tx<'_>, changes: &[NameChange]) -> Result<bool, ApplyError> {
    for NameChange { a, b, renames } in changes {
        let is_bound = |name: &str| Ok::<_, ApplyError>(get(tx, Side::Write, name)?.is_some());
        if !is_bound(a)? || is_bound(b)? == *renames {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Changes names on one side. A rename is a swap with a name that means nothing, and so each is
/// taken back by itself.
pub(crate) fn change(
    tx: &mut Tx<'_>,
    side: Side,
    changes: &[NameChange],
) -> Result<(), ApplyError> {
    for NameChange { a, b, .. } in changes {
        let (of_a, of_b) = (get(tx, side, a)?, get(tx, side, b)?);
        set(tx, side, a, of_b.as_ref());
        set(tx, side, b, of_a.as_ref());
    }
    Ok(())
}
