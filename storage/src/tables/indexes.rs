//! Indexes: key the node-side uid, value all that is agreed about the index.
//!
//! Written by the commands of its writer (each carries a [`Fence`]), read into the routing
//! view. One row an index; removed when its deletion ends.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use miroir_seams::planted::{self, Bug};

use super::records::{Record, decode, encode};
use super::{ApplyError, INDEXES, ROLES, TIMES, lane_marks, partitions, roles, topology};
use crate::commands::{Fence, InSyncChange, Outcome};
use crate::engine::Tx;
use crate::ids::{Epoch, GroupId, IndexUid, NodeId, PodId, ShardId};

/// Where one shard is, within one group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardPlacement {
    /// The nodes that hold it, best rendezvous score first.
    pub replicas: Vec<NodeId>,
    /// Those of `replicas` that have applied every succeeded write. Only these are read.
    pub in_sync: Vec<NodeId>,
}

/// One group's shards; `shards[s]` is shard `s`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupPlacement {
    /// The group.
    pub group: GroupId,
    /// As many as the index has shards.
    pub shards: Vec<ShardPlacement>,
}

/// One index.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IndexRecord {
    /// The name it was created under (for messages; [`super::names`] decides).
    pub name: String,
    /// Agreed primary key; set once by documents, may be changed while the index is empty.
    pub primary_key: Option<String>,
    /// Number of shards.
    pub shards: u32,
    /// Placement in force.
    pub groups: Vec<GroupPlacement>,
    /// The client's settings as JSON (only what was set).
    pub settings: String,
    /// Grows with each committed settings task.
    pub settings_version: u64,
    /// A settings broadcast is in flight.
    pub settings_pending: bool,
    /// The pod that writes it.
    pub writer: PodId,
    /// The writer's epoch.
    pub epoch: Epoch,
    /// Unix nanoseconds.
    pub created_at: i64,
}

impl Record for IndexRecord {
    const VERSION: u8 = 1;
    const NAME: &'static str = "index";
}

pub(crate) fn get(tx: &Tx<'_>, uid: &IndexUid) -> Result<Option<IndexRecord>, ApplyError> {
    match tx.get(INDEXES, uid.as_str().as_bytes())? {
        Some(bytes) => Ok(Some(decode(&bytes)?)),
        None => Ok(None),
    }
}

pub(crate) fn put(tx: &mut Tx<'_>, uid: &IndexUid, record: &IndexRecord) -> Result<(), ApplyError> {
    tx.put(INDEXES, uid.as_str().as_bytes(), encode(record)?);
    Ok(())
}

pub(crate) fn remove(tx: &mut Tx<'_>, uid: &IndexUid) -> Result<(), ApplyError> {
    tx.delete(INDEXES, uid.as_str().as_bytes());
    tx.delete(TIMES, uid.as_str().as_bytes());
    tx.delete(ROLES, roles::writer_role(uid).as_bytes());
    partitions::remove(tx, uid);
    lane_marks::forget(tx, uid)
}

pub(crate) fn touch(tx: &mut Tx<'_>, uid: &IndexUid, at: i64) {
    tx.put(TIMES, uid.as_str().as_bytes(), at.to_be_bytes().to_vec());
}

/// The record, if `fence` is of the epoch in force; else the refusal.
pub(crate) fn fenced(
    tx: &Tx<'_>,
    fence: &Fence,
) -> Result<Result<IndexRecord, Outcome>, ApplyError> {
    Ok(match get(tx, &fence.index)? {
        None => Err(Outcome::Unchanged),
        Some(record) if record.epoch != fence.epoch && !planted::has(Bug::SkipFence) => {
            Err(Outcome::Fenced { current: record.epoch })
        }
        Some(record) => Ok(record),
    })
}

pub(crate) fn set_epoch(
    tx: &mut Tx<'_>,
    uid: &IndexUid,
    pod: &PodId,
    epoch: Epoch,
) -> Result<(), ApplyError> {
    if let Some(mut record) = get(tx, uid)? {
        record.writer = pod.clone();
        record.epoch = epoch;
        put(tx, uid, &record)?;
    }
    Ok(())
}

pub(crate) fn agree_primary_key(
    tx: &mut Tx<'_>,
    fence: &Fence,
    primary_key: &str,
) -> Result<Outcome, ApplyError> {
    let mut record = match fenced(tx, fence)? {
        Ok(record) => record,
        Err(refusal) => return Ok(refusal),
    };
    if record.primary_key.as_deref() == Some(primary_key) {
        return Ok(Outcome::Unchanged);
    }
    record.primary_key = Some(primary_key.to_owned());
    put(tx, &fence.index, &record)?;
    Ok(Outcome::Done)
}

pub(crate) fn mark_settings_pending(
    tx: &mut Tx<'_>,
    fence: &Fence,
    pending: bool,
) -> Result<Outcome, ApplyError> {
    let mut record = match fenced(tx, fence)? {
        Ok(record) => record,
        Err(refusal) => return Ok(refusal),
    };
    if record.settings_pending == pending {
        return Ok(Outcome::Unchanged);
    }
    record.settings_pending = pending;
    put(tx, &fence.index, &record)?;
    Ok(Outcome::Done)
}

pub(crate) fn change_in_sync(
    tx: &mut Tx<'_>,
    fence: &Fence,
    changes: &[InSyncChange],
) -> Result<Outcome, ApplyError> {
    let mut record = match fenced(tx, fence)? {
        Ok(record) => record,
        Err(refusal) => return Ok(refusal),
    };
    let changed = apply_in_sync(&mut record.groups, changes);
    if !changed {
        return Ok(Outcome::Unchanged);
    }
    for InSyncChange { shard, node, .. } in changes.iter().filter(|change| change.joins) {
        topology::arrived(tx, &fence.index, node, *shard)?;
    }
    put(tx, &fence.index, &record)?;
    Ok(Outcome::Done)
}

/// Applies in-sync changes; true when anything changed. The in-sync set of a shard over all
/// groups is never emptied: its last member stays, for there is nothing better to read.
fn apply_in_sync(groups: &mut [GroupPlacement], changes: &[InSyncChange]) -> bool {
    let mut changed = false;
    for change in changes {
        let members = in_sync_of(groups, change.shard);
        if !change.joins && members.len() == 1 {
            continue;
        }
        for group in groups.iter_mut() {
            let Some(shard) = group.shards.get_mut(change.shard.0 as usize) else { continue };
            if !shard.replicas.contains(&change.node) {
                continue;
            }
            let present = shard.in_sync.contains(&change.node);
            if change.joins && !present {
                shard.in_sync.push(change.node.clone());
                changed = true;
            } else if !change.joins && present {
                shard.in_sync.retain(|node| *node != change.node);
                changed = true;
            }
        }
    }
    changed
}

/// The in-sync replicas of a shard over all groups.
pub fn in_sync_of(groups: &[GroupPlacement], shard: ShardId) -> BTreeSet<NodeId> {
    groups
        .iter()
        .filter_map(|group| group.shards.get(shard.0 as usize))
        .flat_map(|placement| placement.in_sync.iter().cloned())
        .collect()
}

/// Whether a node is in the in-sync set of a shard, in any group.
pub fn is_in_sync(groups: &[GroupPlacement], shard: ShardId, node: &NodeId) -> bool {
    groups
        .iter()
        .filter_map(|group| group.shards.get(shard.0 as usize))
        .any(|placement| placement.in_sync.contains(node))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(id: u32, replicas: &[&str]) -> GroupPlacement {
        let nodes: Vec<NodeId> = replicas.iter().map(|id| NodeId::from(*id)).collect();
        GroupPlacement {
            group: GroupId(id),
            shards: vec![ShardPlacement { replicas: nodes.clone(), in_sync: nodes }],
        }
    }

    fn change(node: &str, joins: bool) -> InSyncChange {
        InSyncChange { shard: ShardId(0), node: NodeId::from(node), joins }
    }

    #[test]
    fn the_last_in_sync_replica_never_leaves() {
        let mut groups = vec![group(0, &["a"]), group(1, &["b"])];
        assert!(apply_in_sync(&mut groups, &[change("a", false)]));
        assert!(!apply_in_sync(&mut groups, &[change("b", false)]));
        assert_eq!(in_sync_of(&groups, ShardId(0)).len(), 1);
        assert!(apply_in_sync(&mut groups, &[change("a", true), change("b", false)]));
        assert_eq!(in_sync_of(&groups, ShardId(0)), BTreeSet::from([NodeId::from("a")]));
    }

    #[test]
    fn a_node_that_holds_no_replica_cannot_join() {
        let mut groups = vec![group(0, &["a"])];
        assert!(!apply_in_sync(&mut groups, &[change("z", true)]));
    }
}
