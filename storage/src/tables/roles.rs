//! Roles: key the role's name, value its holder and epoch.
//!
//! Written by `AssignRole`, which names the holder, and by `TakeEpoch`, with which the holder
//! begins: every take-over, also by the same pod, grows the epoch, so that commands of an earlier
//! life are refused.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::records::{Record, decode, encode, text_from};
use super::{ApplyError, ROLES, indexes};
use crate::commands::{Outcome, RoleFence};
use crate::engine::{ALL_KEYS, Direction, Engine, Tx};
use crate::ids::{Epoch, IndexUid, PodId};

/// The role's holder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleRecord {
    /// The pod it was given to.
    pub holder: PodId,
    /// Its fencing token.
    pub epoch: Epoch,
}

impl Record for RoleRecord {
    const VERSION: u8 = 1;
    const NAME: &'static str = "role";
}

/// The role of an index's writer.
pub fn writer_role(index: &IndexUid) -> String {
    format!("writer/{index}")
}

/// The role that changes the log's members and gives roles to pods: the log's leader holds it.
pub const MEMBERSHIP: &str = "membership";

/// The role of the tasks that no index owns.
pub const REGISTRAR: &str = "registrar";

/// The role that moves replicas to where they belong.
pub const REBALANCER: &str = "rebalancer";

/// The index whose writer's role this is.
pub fn index_of(role: &str) -> Option<IndexUid> {
    role.strip_prefix("writer/").map(IndexUid::from)
}

fn get(tx: &Tx<'_>, role: &str) -> Result<Option<RoleRecord>, ApplyError> {
    match tx.get(ROLES, role.as_bytes())? {
        Some(bytes) => Ok(Some(decode(&bytes)?)),
        None => Ok(None),
    }
}

/// The epoch in force.
pub(crate) fn epoch_of(tx: &Tx<'_>, role: &str) -> Result<Epoch, ApplyError> {
    Ok(get(tx, role)?.map_or(Epoch(0), |known| known.epoch))
}

/// A pod begins to work as the holder of a role, under a new epoch; refused when the role is
/// another's. A role that was never given is anybody's, an index's writer is named with it, and the
/// role goes with the index: a pod that has not heard of the deletion would begin it anew.
pub(crate) fn take_epoch(tx: &mut Tx<'_>, role: &str, pod: &PodId) -> Result<Outcome, ApplyError> {
    let known = get(tx, role)?;
    let current = known.as_ref().map_or(Epoch(0), |known| known.epoch);
    let index = match index_of(role) {
        Some(uid) => {
            let Some(index) = indexes::get(tx, &uid)? else {
                return Ok(Outcome::Fenced { current });
            };
            Some(index)
        }
        None => None,
    };
    let writer = index.as_ref().map(|index| &index.writer);
    let holder = writer.or(known.as_ref().map(|role| &role.holder));
    if role != MEMBERSHIP && holder.is_some_and(|holder| holder != pod) {
        return Ok(Outcome::Fenced { current });
    }
    give(tx, role, pod, Epoch(current.0 + 1))
}

/// Names the holder of a role; see [`crate::commands::Command::AssignRole`].
pub(crate) fn assign(
    tx: &mut Tx<'_>,
    fence: &RoleFence,
    role: &str,
    pod: &PodId,
) -> Result<Outcome, ApplyError> {
    let current = epoch_of(tx, &fence.role)?;
    if fence.epoch != current {
        return Ok(Outcome::Fenced { current });
    }
    if let Some(index) = index_of(role)
        && indexes::get(tx, &index)?.is_none()
    {
        return Ok(Outcome::Unchanged);
    }
    let epoch = get(tx, role)?.map_or(Epoch(0), |known| known.epoch);
    give(tx, role, pod, Epoch(epoch.0 + 1))
}

fn give(tx: &mut Tx<'_>, role: &str, pod: &PodId, epoch: Epoch) -> Result<Outcome, ApplyError> {
    tx.put(ROLES, role.as_bytes(), encode(&RoleRecord { holder: pod.clone(), epoch })?);
    if let Some(index) = index_of(role) {
        indexes::set_epoch(tx, &index, pod, epoch)?;
    }
    Ok(Outcome::Epoch(epoch))
}

/// Every role with its holder, but for the writers that have not begun yet.
///
/// # Errors
/// When the store fails or a record can't be read.
pub fn all(engine: &dyn Engine) -> Result<BTreeMap<String, RoleRecord>, ApplyError> {
    let mut roles = BTreeMap::new();
    for (key, bytes) in engine.scan(ROLES, ALL_KEYS, Direction::Forward, usize::MAX)? {
        roles.insert(text_from(key)?, decode(&bytes)?);
    }
    Ok(roles)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Durability, MemoryEngine};

    #[test]
    fn a_role_is_taken_by_its_holder_alone_and_epochs_grow() {
        let engine = MemoryEngine::default();
        let (a, b) = (PodId::from("a"), PodId::from("b"));
        let with = |act: &dyn Fn(&mut Tx<'_>) -> Result<Outcome, ApplyError>| {
            let mut tx = Tx::new(&engine);
            let outcome = act(&mut tx);
            assert!(engine.commit(tx.into_batch(), Durability::Lazy).is_ok());
            outcome.ok()
        };
        let epoch = |n| Some(Outcome::Epoch(Epoch(n)));
        assert_eq!(with(&|tx| take_epoch(tx, MEMBERSHIP, &a)), epoch(1));
        assert_eq!(with(&|tx| take_epoch(tx, "ilm", &a)), epoch(1));
        assert_eq!(
            with(&|tx| take_epoch(tx, "ilm", &b)),
            Some(Outcome::Fenced { current: Epoch(1) })
        );
        let fence = |n| RoleFence { role: MEMBERSHIP.to_owned(), epoch: Epoch(n) };
        assert_eq!(with(&|tx| assign(tx, &fence(1), "ilm", &b)), epoch(2));
        assert_eq!(
            with(&|tx| take_epoch(tx, "ilm", &a)),
            Some(Outcome::Fenced { current: Epoch(2) })
        );
        assert_eq!(with(&|tx| take_epoch(tx, "ilm", &b)), epoch(3));
        assert_eq!(with(&|tx| take_epoch(tx, MEMBERSHIP, &b)), epoch(2));
        assert_eq!(
            with(&|tx| assign(tx, &fence(1), "ilm", &a)),
            Some(Outcome::Fenced { current: Epoch(2) })
        );
        // The writer of an index that is gone.
        let writer = writer_role(&IndexUid::from("0-a"));
        let fenced = Some(Outcome::Fenced { current: Epoch(0) });
        assert_eq!(with(&|tx| take_epoch(tx, &writer, &a)), fenced);
        assert_eq!(with(&|tx| assign(tx, &fence(2), &writer, &a)), Some(Outcome::Unchanged));
        assert!(all(&engine).is_ok_and(|roles| !roles.contains_key(&writer)));
    }
}
