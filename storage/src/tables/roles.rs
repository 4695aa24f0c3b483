//! Roles: key the role's name, value its holder and epoch.
//!
//! Written by `TakeEpoch`: every take-over, also by the same pod, grows the epoch, so that
//! commands of an earlier life are refused.

use serde::{Deserialize, Serialize};

use super::records::{Record, decode, encode};
use super::{ApplyError, ROLES, indexes};
use crate::commands::Outcome;
use crate::engine::Tx;
use crate::ids::{Epoch, IndexUid, PodId};

/// The role's holder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleRecord {
    /// The pod that took it last.
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

pub(crate) fn take_epoch(tx: &mut Tx<'_>, role: &str, pod: &PodId) -> Result<Outcome, ApplyError> {
    let epoch = match tx.get(ROLES, role.as_bytes())? {
        Some(bytes) => Epoch(decode::<RoleRecord>(&bytes)?.epoch.0 + 1),
        None => Epoch(1),
    };
    tx.put(ROLES, role.as_bytes(), encode(&RoleRecord { holder: pod.clone(), epoch })?);
    if let Some(index) = role.strip_prefix("writer/") {
        indexes::set_epoch(tx, &IndexUid::from(index), pod, epoch)?;
    }
    Ok(Outcome::Epoch(epoch))
}
