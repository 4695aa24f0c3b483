//! Resharding: other numbers of shards for an index that goes on living.
//!
//! `PARTITIONS`: key index uid; value [`PartitionRecord`]. No row: the index was never resharded.
//!
//! Documents stay where they are. The number of shards changes by a factor at a time, so that each shard
//! of one partition lies in one shard of the other:
//!
//! 1. [`TopologyCommand::Reshard`](crate::topology_commands::TopologyCommand::Reshard) says what the
//!    *next* partition is. From there on the index's writer marks every document that it sends with its
//!    shards of both partitions, and has each lane mark the documents that its node has. Shards
//!    that are to become one are moved to the same nodes meanwhile, like any others.
//! 2. *Switch*: the next partition is in force. New shards are where the shards were that they came
//!    from. The *former* partition is kept as long as somebody may read by it: documents go on
//!    carrying both marks.
//! 3. *Settle*: it is forgotten. Another step may begin, when the number that was ordered is no
//!    multiple and no divisor of the one in force.

use std::collections::{BTreeMap, BTreeSet};

use miroir_wire::reserved::{Partition, SHARDS_MAX};
use serde::{Deserialize, Serialize};

use super::indexes::{self, GroupPlacement, ShardPlacement};
use super::lane_marks::replica_key;
use super::records::{Record, decode, encode};
use super::topology::NodeMoves;
use super::{ApplyError, MOVES, PARTITIONS, topology};
use crate::commands::{Fence, Outcome};
use crate::engine::{Engine, Tx};
use crate::ids::{IndexUid, NodeId, ShardId};
use crate::topology_commands::TopologyRefusal;

/// How an index is divided, and is to be divided.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionRecord {
    /// The generation in force; the number of its shards is the index's.
    pub generation: u32,
    /// The last generation that was ever begun. Documents may carry marks of any up to it.
    pub last_generation: u32,
    /// The partition that documents are being marked for.
    pub next: Option<Partition>,
    /// The one before, while it may be read by.
    pub former: Option<Partition>,
    /// What was ordered, until it is reached.
    pub order: Option<ReshardOrder>,
}

/// A resharding that was ordered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReshardOrder {
    /// Shards before it.
    pub from: u32,
    /// Shards that there are to be.
    pub to: u32,
    /// It was given up: `to` is what there was before.
    pub abandoned: bool,
    /// Unix nanoseconds, for people.
    pub began_at: i64,
}

impl Record for PartitionRecord {
    const VERSION: u8 = 1;
    const NAME: &'static str = "partition of an index";
}

/// The number of shards of the next step from `from` to `to`: `to` itself when one is a multiple of
/// the other, else their least common multiple. `None` when that is beyond [`SHARDS_MAX`].
pub fn next_step(from: u32, to: u32) -> Option<u32> {
    let (few, many) = (from.min(to), from.max(to));
    if few == 0 || many > SHARDS_MAX {
        return None;
    }
    if many.is_multiple_of(few) {
        return Some(to);
    }
    let divisor = greatest_common_divisor(from, to);
    let multiple = u64::from(from / divisor) * u64::from(to);
    u32::try_from(multiple).ok().filter(|multiple| *multiple <= SHARDS_MAX)
}

/// Euclid's.
fn greatest_common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

pub(crate) fn load(engine: &dyn Engine, uid: &IndexUid) -> Result<PartitionRecord, ApplyError> {
    let stored = engine.get(PARTITIONS, uid.as_str().as_bytes())?;
    Ok(stored.map(|bytes| decode(&bytes)).transpose()?.unwrap_or_default())
}

pub(crate) fn get(tx: &Tx<'_>, uid: &IndexUid) -> Result<PartitionRecord, ApplyError> {
    let stored = tx.get(PARTITIONS, uid.as_str().as_bytes())?;
    Ok(stored.map(|bytes| decode(&bytes)).transpose()?.unwrap_or_default())
}

fn put(tx: &mut Tx<'_>, uid: &IndexUid, record: &PartitionRecord) -> Result<Outcome, ApplyError> {
    tx.put(PARTITIONS, uid.as_str().as_bytes(), encode(record)?);
    Ok(Outcome::Done)
}

pub(crate) fn remove(tx: &mut Tx<'_>, uid: &IndexUid) {
    tx.delete(PARTITIONS, uid.as_str().as_bytes());
}

/// Begins the next step of what was ordered, if there is one.
fn begin_step(record: &mut PartitionRecord, shards: u32) {
    let Some(order) = &record.order else { return };
    match next_step(shards, order.to).filter(|step| *step != shards) {
        Some(step) => {
            record.last_generation += 1;
            record.next = Some(Partition { shards: step, generation: record.last_generation });
        }
        None => record.order = None,
    }
}

pub(crate) fn reshard(
    tx: &mut Tx<'_>,
    uid: &IndexUid,
    to: u32,
    at: i64,
) -> Result<Outcome, ApplyError> {
    let refuse = |refusal| Ok(Outcome::Topology(refusal));
    let Some(index) = indexes::get(tx, uid)? else {
        return refuse(TopologyRefusal::UnknownIndex);
    };
    let mut record = get(tx, uid)?;
    match &record.order {
        Some(order) if order.to == to => return Ok(Outcome::Unchanged),
        Some(order) => return refuse(TopologyRefusal::ReshardUnderWay { to: order.to }),
        // What is still to be settled counts for nothing that was ordered.
        None if record.former.is_some() => {
            return refuse(TopologyRefusal::ReshardUnderWay { to: index.shards });
        }
        None if index.shards == to => return Ok(Outcome::Unchanged),
        None => {}
    }
    if next_step(index.shards, to).is_none() {
        return refuse(TopologyRefusal::TooManyShards { from: index.shards, to });
    }
    record.order = Some(ReshardOrder { from: index.shards, to, abandoned: false, began_at: at });
    begin_step(&mut record, index.shards);
    put(tx, uid, &record)
}

/// Gives a resharding up. What was only marked stays as it is; between two steps it goes back.
pub(crate) fn abandon(tx: &mut Tx<'_>, uid: &IndexUid) -> Result<Outcome, ApplyError> {
    let Some(index) = indexes::get(tx, uid)? else {
        return Ok(Outcome::Topology(TopologyRefusal::UnknownIndex));
    };
    let mut record = get(tx, uid)?;
    match &mut record.order {
        None => return Ok(Outcome::Topology(TopologyRefusal::NoReshard)),
        Some(order) if order.abandoned => return Ok(Outcome::Unchanged),
        Some(order) => {
            order.abandoned = true;
            order.to = order.from;
        }
    }
    record.next = None;
    if record.former.is_none() {
        begin_step(&mut record, index.shards);
    }
    put(tx, uid, &record)
}

/// Where replicas are after a change of partition, and what is on the move then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Switched {
    /// By group.
    pub groups: Vec<GroupPlacement>,
    /// By node.
    pub moves: BTreeMap<NodeId, NodeMoves>,
}

/// What becomes of a placement when the index is divided into `to` shards; `None` while shards that
/// are to become one are not on the same nodes, in sync on at least one, with nothing on the move.
pub fn switched(
    groups: &[GroupPlacement],
    moves: &BTreeMap<NodeId, NodeMoves>,
    from: u32,
    to: u32,
) -> Option<Switched> {
    if from > 0 && to.is_multiple_of(from) {
        let split = |group: &GroupPlacement| GroupPlacement {
            group: group.group,
            shards: (0..to)
                .map(|shard| group.shards.get((shard % from) as usize).cloned().unwrap_or_default())
                .collect(),
        };
        let parts = |shards: &BTreeSet<ShardId>| {
            (0..to).map(ShardId).filter(|s| shards.contains(&ShardId(s.0 % from))).collect()
        };
        let moves = moves.iter().map(|(node, moves)| {
            let split =
                NodeMoves { arriving: parts(&moves.arriving), leaving: parts(&moves.leaving) };
            (node.clone(), split)
        });
        let (groups, moves) = (groups.iter().map(split).collect(), moves.collect());
        return Some(Switched { groups, moves });
    }
    if to == 0 || !from.is_multiple_of(to) || !moves.is_empty() {
        return None;
    }
    let mut joined = Vec::new();
    for group in groups {
        let mut shards = Vec::new();
        for shard in 0..to {
            let mut parts = group.shards.iter().skip(shard as usize).step_by(to as usize);
            let mut whole: ShardPlacement = parts.next()?.clone();
            for part in parts {
                let same = part.replicas.len() == whole.replicas.len()
                    && part.replicas.iter().all(|node| whole.replicas.contains(node));
                if !same {
                    return None;
                }
                whole.in_sync.retain(|node| part.in_sync.contains(node));
            }
            shards.push(whole);
        }
        joined.push(GroupPlacement { group: group.group, shards });
    }
    let is_somewhere = |shard: u32| {
        joined
            .iter()
            .any(|group| !group.shards.get(shard as usize).is_none_or(|s| s.in_sync.is_empty()))
    };
    (0..to).all(is_somewhere).then_some(Switched { groups: joined, moves: BTreeMap::new() })
}

/// Puts the next partition in force; the writer's, when every document is marked for it.
pub(crate) fn switch(tx: &mut Tx<'_>, fence: &Fence, to: Partition) -> Result<Outcome, ApplyError> {
    let uid = &fence.index;
    let mut index = match indexes::fenced(tx, fence)? {
        Ok(index) => index,
        Err(refusal) => return Ok(refusal),
    };
    let mut record = get(tx, uid)?;
    if record.next != Some(to) {
        return Ok(Outcome::Unchanged);
    }
    let moves = topology::moves_of(tx, uid)?;
    let Some(switched) = switched(&index.groups, &moves, index.shards, to.shards) else {
        return Ok(Outcome::Unchanged);
    };
    for (node, moves) in &switched.moves {
        tx.put(MOVES, &replica_key(uid, node), encode(moves)?);
    }
    record.former = Some(Partition { shards: index.shards, generation: record.generation });
    record.generation = to.generation;
    record.next = None;
    if record.order.as_ref().is_some_and(|order| order.to == to.shards) {
        record.order = None;
    }
    index.shards = to.shards;
    index.groups = switched.groups;
    indexes::put(tx, uid, &index)?;
    put(tx, uid, &record)
}

/// Forgets the former partition; the writer's, when nobody reads by it any more.
pub(crate) fn settle(tx: &mut Tx<'_>, fence: &Fence) -> Result<Outcome, ApplyError> {
    let index = match indexes::fenced(tx, fence)? {
        Ok(index) => index,
        Err(refusal) => return Ok(refusal),
    };
    let mut record = get(tx, &fence.index)?;
    if record.former.take().is_none() {
        return Ok(Outcome::Unchanged);
    }
    begin_step(&mut record, index.shards);
    put(tx, &fence.index, &record)
}

#[cfg(test)]
mod tests;
