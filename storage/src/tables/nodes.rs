//! Nodes: key the node id, value where it is and which group it belongs to.
//!
//! Written by `PutNode` (from the configuration at start) and by orders of operators, read into the
//! routing view. A node's group is fixed: `PutNode` with another group changes nothing, and nor
//! does one of a node that was removed.

use serde::{Deserialize, Serialize};

use super::records::{Record, decode, encode};
use super::{ApplyError, NODES, topology};
use crate::commands::Outcome;
use crate::engine::Tx;
use crate::ids::{GroupId, NodeId};

/// One node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Its id, never reused.
    pub id: NodeId,
    /// Its base address, `http://host:port`.
    pub address: String,
    /// The replica group it belongs to.
    pub group: GroupId,
    /// Its master key, if it has one.
    pub key: Option<String>,
}

impl Record for NodeRecord {
    const VERSION: u8 = 1;
    const NAME: &'static str = "node";
}

pub(crate) fn put(tx: &mut Tx<'_>, node: &NodeRecord) -> Result<Outcome, ApplyError> {
    let key = node.id.as_str().as_bytes();
    if topology::get(tx)?.removed.contains(&node.id) {
        return Ok(Outcome::Unchanged);
    }
    if let Some(bytes) = tx.get(NODES, key)? {
        let known: NodeRecord = decode(&bytes)?;
        if known == *node || known.group != node.group {
            return Ok(Outcome::Unchanged);
        }
    }
    tx.put(NODES, key, encode(node)?);
    Ok(Outcome::Done)
}
