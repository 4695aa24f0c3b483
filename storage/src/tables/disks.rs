//! The disks of nodes, and what of each index is on them.
//!
//! `DISKS`: key the node id, value [`DiskRecord`]. A node that comes back without its data, or
//! with older data, begins another *life* of its disk. Written by `NoteDisk`, by whichever pod
//! finds out; each life is counted once.
//!
//! `REPLICAS`: key index uid, a zero byte, node id; value [`ReplicaRecord`]: on which life of the
//! disk the replica is, and how much of it can be trusted. Written by `SetReplica` under the
//! writer's fence, and with the index when it is created. No row: life 0, whole.
//!
//! Why both: the writer that is told of a loss may be gone before it has filled the replica anew,
//! and the node may count far enough meanwhile that its task numbers no longer give it away.

use serde::{Deserialize, Serialize};

use super::indexes::{self, GroupPlacement};
use super::lane_marks::replica_key;
use super::records::{Record, decode, encode};
use super::{ApplyError, DISKS, NODES, REPLICAS};
use crate::commands::{Fence, Outcome};
use crate::engine::{Engine, Tx};
use crate::ids::{IndexUid, NodeId};

/// A node's disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskRecord {
    /// Grows with each loss; 0 for the disk that the node came with.
    pub life: u64,
    /// What tells this disk from others, once it has been read.
    pub identity: Option<String>,
}

impl Record for DiskRecord {
    const VERSION: u8 = 1;
    const NAME: &'static str = "disk";
}

/// How much of a replica is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    /// Everything that its lane's mark says.
    #[default]
    Whole,
    /// A copy fills the shards for which it is not in sync; only the others can be trusted.
    Filling,
    /// Nothing: its node no longer has the index.
    Gone,
    /// Everything, and a late request may have changed it while no other replica was in sync.
    Doubtful,
}

/// One replica of an index on a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaRecord {
    /// The [`DiskRecord::life`] that it was written to.
    pub life: u64,
    /// What of it is there.
    pub content: Content,
}

impl Record for ReplicaRecord {
    const VERSION: u8 = 1;
    const NAME: &'static str = "replica";
}

fn disk_of(tx: &Tx<'_>, node: &NodeId) -> Result<DiskRecord, ApplyError> {
    let stored = tx.get(DISKS, node.as_str().as_bytes())?;
    Ok(stored.map(|bytes| decode(&bytes)).transpose()?.unwrap_or_default())
}

/// Takes notice of the life `life` of a node's disk. An earlier one changes nothing, nor does
/// another identity of the life in force.
pub(crate) fn note(
    tx: &mut Tx<'_>,
    node: &NodeId,
    life: u64,
    identity: Option<&str>,
) -> Result<Outcome, ApplyError> {
    if tx.get(NODES, node.as_str().as_bytes())?.is_none() {
        return Ok(Outcome::Unchanged);
    }
    let known = disk_of(tx, node)?;
    let identity = identity.map(str::to_owned);
    let is_named = life == known.life && known.identity.is_none() && identity.is_some();
    if life <= known.life && !is_named {
        return Ok(Outcome::Unchanged);
    }
    let record = DiskRecord { life, identity };
    tx.put(DISKS, node.as_str().as_bytes(), encode(&record)?);
    Ok(Outcome::Done)
}

pub(crate) fn set_replica(
    tx: &mut Tx<'_>,
    fence: &Fence,
    node: &NodeId,
    replica: ReplicaRecord,
) -> Result<Outcome, ApplyError> {
    match indexes::fenced(tx, fence)? {
        Ok(_) => {
            tx.put(REPLICAS, &replica_key(&fence.index, node), encode(&replica)?);
            Ok(Outcome::Done)
        }
        Err(refusal) => Ok(refusal),
    }
}

/// Notes on which disks a new index will be.
pub(crate) fn place(
    tx: &mut Tx<'_>,
    index: &IndexUid,
    groups: &[GroupPlacement],
) -> Result<(), ApplyError> {
    for node in groups.iter().flat_map(|group| &group.shards).flat_map(|shard| &shard.replicas) {
        let DiskRecord { life, .. } = disk_of(tx, node)?;
        if life > 0 {
            let replica = ReplicaRecord { life, content: Content::Whole };
            tx.put(REPLICAS, &replica_key(index, node), encode(&replica)?);
        }
    }
    Ok(())
}

/// What the log says of a replica.
///
/// # Errors
/// When the store fails or the record can't be read.
pub fn replica(
    engine: &dyn Engine,
    index: &IndexUid,
    node: &NodeId,
) -> Result<ReplicaRecord, ApplyError> {
    let stored = engine.get(REPLICAS, &replica_key(index, node))?;
    Ok(stored.map(|bytes| decode(&bytes)).transpose()?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::Command;
    use crate::engine::{Durability, MemoryEngine};
    use crate::ids::GroupId;
    use crate::tables::nodes::NodeRecord;

    fn apply(engine: &MemoryEngine, command: &Command) -> Outcome {
        let mut tx = Tx::new(engine);
        let outcome = crate::tables::apply(&mut tx, 1, command).unwrap();
        engine.commit(tx.into_batch(), Durability::Lazy).unwrap();
        outcome
    }

    #[test]
    fn each_life_of_a_disk_is_counted_once_and_named_once() {
        let engine = MemoryEngine::default();
        let node = NodeId::from("a");
        let note = |life, identity: Option<&str>| {
            let identity = identity.map(str::to_owned);
            apply(&engine, &Command::NoteDisk { node: node.clone(), life, identity })
        };
        assert_eq!(note(0, Some("x")), Outcome::Unchanged, "the node is unknown");
        let record = NodeRecord {
            id: node.clone(),
            address: "http://a".into(),
            group: GroupId(0),
            key: None,
        };
        apply(&engine, &Command::PutNode(record));
        assert_eq!(note(0, Some("x")), Outcome::Done);
        assert_eq!(note(0, Some("y")), Outcome::Unchanged);
        // Two pods find out at once; the second has read the new disk already.
        assert_eq!(note(1, None), Outcome::Done);
        assert_eq!(note(1, None), Outcome::Unchanged);
        assert_eq!(note(0, Some("x")), Outcome::Unchanged);
        assert_eq!(note(1, Some("y")), Outcome::Done);
        let routing = crate::routing::Routing::load(&engine).unwrap();
        let expected = DiskRecord { life: 1, identity: Some("y".into()) };
        assert_eq!(routing.disk(&node), expected);
    }
}
