//! How nodes take part, and which replicas are on the move.
//!
//! In `META`, under `topology`: [`Topology`], what operators and the rebalancer have agreed.
//!
//! `MOVES`: key index uid, a zero byte, node id; value [`NodeMoves`]: the shards of the index that
//! the node is to get and has not got whole (`arriving`), and those of which it still has documents
//! though they are not its own any more (`leaving`). No row: neither. Written by the commands of
//! [`crate::topology_commands`], and by the changes of in-sync sets that end an arrival.
//!
//! A move is: the new replica is placed (`Widen`), filled like any other, joins the in-sync set; then
//! the old one is taken away (`Narrow`), and its documents are deleted (`Emptied`) once nobody reads
//! by the placement before. A node that has documents of shards it does not serve is only read
//! with a filter: [`crate::routing::IndexRouting::moves`] says which.

use std::collections::{BTreeMap, BTreeSet};

use miroir_seams::planted::{self, Bug};
use serde::{Deserialize, Serialize};

use super::indexes::{self, GroupPlacement, IndexRecord, ShardPlacement, in_sync_of};
use super::lane_marks::replica_key;
use super::nodes::{self, NodeRecord};
use super::records::{Record, decode, encode, text_from};
use super::{ApplyError, INDEXES, LANE_MARKS, META, MOVES, NODES, REPLICAS, partitions, roles};
use crate::commands::{Fence, Outcome, RoleFence};
use crate::engine::{ALL_KEYS, Direction, Engine, Tx};
use crate::ids::{GroupId, IndexUid, NodeId, ShardId};
use crate::topology_commands::{ReplicaPlace, TopologyCommand, TopologyRefusal};

/// In [`META`].
const TOPOLOGY: &[u8] = b"topology";

/// What is agreed about nodes beside their addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    /// Copies of each shard in each group; `None` until a pod has said what is configured.
    pub replication_factor: Option<u32>,
    /// Nodes that everything is moved away from.
    pub draining: BTreeSet<NodeId>,
    /// Nodes that are down for so long that their copies are made elsewhere.
    pub away: BTreeSet<NodeId>,
    /// Ids that are never used again.
    pub removed: BTreeSet<NodeId>,
    /// Moves are paused: none begins, none goes on.
    pub paused: bool,
    /// Documents that each move copies in a second at most; 0: as fast as it goes.
    pub documents_per_second: u32,
    /// How much there is to move.
    pub moves: Option<MovesNote>,
}

impl Record for Topology {
    const VERSION: u8 = 1;
    const NAME: &'static str = "topology";
}

/// How much there was to move when it began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MovesNote {
    /// Unix nanoseconds, for people.
    pub began_at: i64,
    /// Replicas of single shards that are to be placed, the ones that have been included.
    pub total: u64,
}

/// One index's shards on the move to and from one node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeMoves {
    /// Placed there, and not yet filled.
    pub arriving: BTreeSet<ShardId>,
    /// No longer placed there, and not yet deleted.
    pub leaving: BTreeSet<ShardId>,
}

impl NodeMoves {
    fn is_over(&self) -> bool {
        self.arriving.is_empty() && self.leaving.is_empty()
    }
}

impl Record for NodeMoves {
    const VERSION: u8 = 1;
    const NAME: &'static str = "moves of a node";
}

/// What is agreed.
///
/// # Errors
/// When the store fails or the record can't be read.
pub fn load(engine: &dyn Engine) -> Result<Topology, ApplyError> {
    let stored = engine.get(META, TOPOLOGY)?;
    Ok(stored.map(|bytes| decode(&bytes)).transpose()?.unwrap_or_default())
}

/// What of one index is on the move, by node.
pub(crate) fn moves_of(
    tx: &Tx<'_>,
    index: &IndexUid,
) -> Result<BTreeMap<NodeId, NodeMoves>, ApplyError> {
    let prefix = replica_key(index, &NodeId(String::new()));
    let mut moves = BTreeMap::new();
    for (key, bytes) in tx.scan(MOVES, ALL_KEYS, Direction::Forward, usize::MAX)? {
        if let Some(node) = key.strip_prefix(prefix.as_slice()) {
            moves.insert(NodeId(text_from(node.to_vec())?), decode(&bytes)?);
        }
    }
    Ok(moves)
}

/// Everything on the move, by index and node.
///
/// # Errors
/// When the store fails or a record can't be read.
pub fn all_moves(
    engine: &dyn Engine,
) -> Result<BTreeMap<IndexUid, BTreeMap<NodeId, NodeMoves>>, ApplyError> {
    let mut all: BTreeMap<IndexUid, BTreeMap<NodeId, NodeMoves>> = BTreeMap::new();
    for (key, bytes) in engine.scan(MOVES, ALL_KEYS, Direction::Forward, usize::MAX)? {
        let mut parts = key.splitn(2, |byte| *byte == 0);
        let index = IndexUid(text_from(parts.next().unwrap_or_default().to_vec())?);
        let node = NodeId(text_from(parts.next().unwrap_or_default().to_vec())?);
        all.entry(index).or_default().insert(node, decode(&bytes)?);
    }
    Ok(all)
}

pub(crate) fn get(tx: &Tx<'_>) -> Result<Topology, ApplyError> {
    let stored = tx.get(META, TOPOLOGY)?;
    Ok(stored.map(|bytes| decode(&bytes)).transpose()?.unwrap_or_default())
}

fn put(tx: &mut Tx<'_>, before: &Topology, topology: &Topology) -> Result<Outcome, ApplyError> {
    if before == topology {
        return Ok(Outcome::Unchanged);
    }
    tx.put(META, TOPOLOGY, encode(topology)?);
    Ok(Outcome::Done)
}

/// Whether a plan of an index names a node that is gone since.
pub(crate) fn names_removed(tx: &Tx<'_>, groups: &[GroupPlacement]) -> Result<bool, ApplyError> {
    let removed = get(tx)?.removed;
    let mut named = groups.iter().flat_map(|group| &group.shards).flat_map(|s| &s.replicas);
    Ok(!removed.is_empty() && named.any(|node| removed.contains(node)))
}

/// A replica has been filled: its arrival is over.
pub(crate) fn arrived(
    tx: &mut Tx<'_>,
    index: &IndexUid,
    node: &NodeId,
    shard: ShardId,
) -> Result<(), ApplyError> {
    change_moves(tx, index, node, |moves| {
        moves.arriving.remove(&shard);
    })
}

fn change_moves(
    tx: &mut Tx<'_>,
    index: &IndexUid,
    node: &NodeId,
    change: impl FnOnce(&mut NodeMoves),
) -> Result<(), ApplyError> {
    let key = replica_key(index, node);
    let stored = tx.get(MOVES, &key)?;
    let before: NodeMoves = stored.map(|bytes| decode(&bytes)).transpose()?.unwrap_or_default();
    let mut moves = before.clone();
    change(&mut moves);
    match moves.is_over() {
        _ if moves == before => {}
        true => tx.delete(MOVES, &key),
        false => tx.put(MOVES, &key, encode(&moves)?),
    }
    Ok(())
}

pub(crate) fn apply(tx: &mut Tx<'_>, command: &TopologyCommand) -> Result<Outcome, ApplyError> {
    let before = get(tx)?;
    let mut topology = before.clone();
    match command {
        TopologyCommand::AddNode(node) => return add_node(tx, &before, node),
        TopologyCommand::Drain { node, draining, forced } => {
            if let Some(refusal) = refuses_drain(tx, &before, node, *draining, *forced)? {
                return Ok(Outcome::Topology(refusal));
            }
            match draining {
                true => topology.draining.insert(node.clone()),
                false => topology.draining.remove(node),
            };
        }
        TopologyCommand::RemoveNode { node, forced, loses_data } => {
            return remove_node(tx, before, node, *forced, *loses_data);
        }
        TopologyCommand::SetReplication { factor, if_unset } => {
            if !(*if_unset && before.replication_factor.is_some()) {
                let factor = (*factor).max(1);
                if let (false, Some(refusal)) = (if_unset, refuses_factor(tx, &before, factor)?) {
                    return Ok(Outcome::Topology(refusal));
                }
                topology.replication_factor = Some(factor);
            }
        }
        TopologyCommand::Steer { paused, documents_per_second } => {
            topology.paused = paused.unwrap_or(before.paused);
            topology.documents_per_second =
                documents_per_second.unwrap_or(before.documents_per_second);
        }
        TopologyCommand::SetAway { fence, node, away } => {
            if let Some(refusal) = refuses_role(tx, fence)? {
                return Ok(refusal);
            }
            if record(tx, node)?.is_some() {
                match away {
                    true => topology.away.insert(node.clone()),
                    false => topology.away.remove(node),
                };
            }
        }
        TopologyCommand::NoteMoves { fence, note } => {
            if let Some(refusal) = refuses_role(tx, fence)? {
                return Ok(refusal);
            }
            topology.moves.clone_from(note);
        }
        TopologyCommand::Widen { fence, index, replicas } => {
            return match refuses_role(tx, fence)? {
                Some(refusal) => Ok(refusal),
                None => widen(tx, &before, index, replicas),
            };
        }
        TopologyCommand::Narrow { fence, index, replicas } => {
            return match refuses_role(tx, fence)? {
                Some(refusal) => Ok(refusal),
                None => narrow(tx, index, replicas),
            };
        }
        TopologyCommand::Emptied { fence, node, shards } => {
            return emptied(tx, fence, node, shards);
        }
        TopologyCommand::Reshard { index, shards, at } => {
            return partitions::reshard(tx, index, *shards, *at);
        }
        TopologyCommand::AbandonReshard { index } => return partitions::abandon(tx, index),
        TopologyCommand::SwitchPartition { fence, to } => {
            return partitions::switch(tx, fence, *to);
        }
        TopologyCommand::SettlePartition { fence } => return partitions::settle(tx, fence),
    }
    put(tx, &before, &topology)
}

fn refuses_role(tx: &Tx<'_>, fence: &RoleFence) -> Result<Option<Outcome>, ApplyError> {
    let current = roles::epoch_of(tx, &fence.role)?;
    Ok((current != fence.epoch).then_some(Outcome::Fenced { current }))
}

fn record(tx: &Tx<'_>, node: &NodeId) -> Result<Option<NodeRecord>, ApplyError> {
    let stored = tx.get(NODES, node.as_str().as_bytes())?;
    Ok(stored.map(|bytes| decode(&bytes)).transpose()?)
}

fn add_node(
    tx: &mut Tx<'_>,
    topology: &Topology,
    node: &NodeRecord,
) -> Result<Outcome, ApplyError> {
    if topology.removed.contains(&node.id) {
        return Ok(Outcome::Topology(TopologyRefusal::NodeRemoved));
    }
    match record(tx, &node.id)? {
        Some(known) if known == *node => Ok(Outcome::Unchanged),
        Some(_) => Ok(Outcome::Topology(TopologyRefusal::NodeExists)),
        None => nodes::put(tx, node),
    }
}

/// The nodes of each group that take their part.
fn active(tx: &Tx<'_>, topology: &Topology) -> Result<BTreeMap<GroupId, u32>, ApplyError> {
    let mut active: BTreeMap<GroupId, u32> = BTreeMap::new();
    for (_, bytes) in tx.scan(NODES, ALL_KEYS, Direction::Forward, usize::MAX)? {
        let node: NodeRecord = decode(&bytes)?;
        if !topology.draining.contains(&node.id) {
            *active.entry(node.group).or_default() += 1;
        }
    }
    Ok(active)
}

/// A group may be drained whole while another stays; else it must keep as many nodes as copies.
fn refuses_drain(
    tx: &Tx<'_>,
    topology: &Topology,
    node: &NodeId,
    draining: bool,
    forced: bool,
) -> Result<Option<TopologyRefusal>, ApplyError> {
    let Some(node) = record(tx, node)? else { return Ok(Some(TopologyRefusal::UnknownNode)) };
    if !draining {
        return Ok(None);
    }
    let mut topology = topology.clone();
    topology.draining.insert(node.id.clone());
    let active = active(tx, &topology)?;
    let factor = topology.replication_factor.unwrap_or(1);
    let left = active.get(&node.group).copied().unwrap_or_default();
    Ok(match left {
        _ if active.is_empty() => Some(TopologyRefusal::LastNode),
        0 => None,
        nodes if !forced && nodes < factor => {
            Some(TopologyRefusal::TooFewNodes { group: node.group, nodes, factor })
        }
        _ => None,
    })
}

fn refuses_factor(
    tx: &Tx<'_>,
    topology: &Topology,
    factor: u32,
) -> Result<Option<TopologyRefusal>, ApplyError> {
    let mut small = active(tx, topology)?.into_iter().filter(|(_, nodes)| *nodes < factor);
    let refusal = |(group, nodes)| TopologyRefusal::TooFewNodes { group, nodes, factor };
    Ok(small.next().map(refusal))
}

fn all_indexes(tx: &Tx<'_>) -> Result<Vec<(IndexUid, IndexRecord)>, ApplyError> {
    let rows = tx.scan(INDEXES, ALL_KEYS, Direction::Forward, usize::MAX)?;
    rows.into_iter()
        .map(|(key, bytes)| Ok((IndexUid(text_from(key)?), decode::<IndexRecord>(&bytes)?)))
        .collect()
}

fn remove_node(
    tx: &mut Tx<'_>,
    before: Topology,
    node: &NodeId,
    forced: bool,
    loses_data: bool,
) -> Result<Outcome, ApplyError> {
    let Some(known) = record(tx, node)? else {
        let refusal = TopologyRefusal::UnknownNode;
        let is_gone = before.removed.contains(node);
        return Ok(if is_gone { Outcome::Unchanged } else { Outcome::Topology(refusal) });
    };
    let mut others = before.clone();
    others.draining.insert(known.id);
    if active(tx, &others)?.is_empty() {
        return Ok(Outcome::Topology(TopologyRefusal::LastNode));
    }
    let (mut holding, mut last) = (0, 0);
    let indexes = all_indexes(tx)?;
    for (uid, index) in &indexes {
        let mut placed = index.groups.iter().flat_map(|group| &group.shards);
        let leaves_some = tx.get(MOVES, &replica_key(uid, node))?.is_some();
        holding += u32::from(leaves_some || placed.any(|shard| shard.replicas.contains(node)));
        let is_alone = |shard| in_sync_of(&index.groups, shard).iter().eq([node]);
        last += u32::from((0..index.shards).map(ShardId).any(is_alone));
    }
    if holding > 0 && !forced {
        return Ok(Outcome::Topology(TopologyRefusal::HoldsShards { indexes: holding }));
    }
    if last > 0 && !loses_data {
        return Ok(Outcome::Topology(TopologyRefusal::LastCopies { indexes: last }));
    }
    for (uid, mut index) in indexes {
        for shard in index.groups.iter_mut().flat_map(|group| &mut group.shards) {
            shard.replicas.retain(|replica| replica != node);
            shard.in_sync.retain(|replica| replica != node);
        }
        drop_empty_groups(&mut index);
        indexes::put(tx, &uid, &index)?;
        forget(tx, &uid, node);
    }
    tx.delete(NODES, node.as_str().as_bytes());
    tx.delete(super::DISKS, node.as_str().as_bytes());
    let mut topology = before.clone();
    topology.draining.remove(node);
    topology.away.remove(node);
    topology.removed.insert(node.clone());
    put(tx, &before, &topology)
}

/// Nothing of the index is on the node any more.
fn forget(tx: &mut Tx<'_>, index: &IndexUid, node: &NodeId) {
    for table in [MOVES, LANE_MARKS, REPLICAS] {
        tx.delete(table, &replica_key(index, node));
    }
}

/// A group without a replica is none; but the last one stays, its shards without any.
fn drop_empty_groups(index: &mut IndexRecord) {
    let holds_any = |group: &GroupPlacement| group.shards.iter().any(|s| !s.replicas.is_empty());
    if index.groups.iter().any(holds_any) {
        index.groups.retain(holds_any);
    }
}

fn keep_placement(
    tx: &mut Tx<'_>,
    uid: &IndexUid,
    mut index: IndexRecord,
    changed: bool,
) -> Result<Outcome, ApplyError> {
    if !changed {
        return Ok(Outcome::Unchanged);
    }
    drop_empty_groups(&mut index);
    indexes::put(tx, uid, &index)?;
    Ok(Outcome::Done)
}

fn widen(
    tx: &mut Tx<'_>,
    topology: &Topology,
    uid: &IndexUid,
    replicas: &[ReplicaPlace],
) -> Result<Outcome, ApplyError> {
    let Some(mut index) = indexes::get(tx, uid)? else { return Ok(Outcome::Unchanged) };
    let mut changed = false;
    for ReplicaPlace { group, node, shard } in replicas {
        let is_there = record(tx, node)?.is_some_and(|known| known.group == *group);
        if !is_there || shard.0 >= index.shards || topology.draining.contains(node) {
            continue;
        }
        let place = index.groups.partition_point(|known| known.group < *group);
        if index.groups.get(place).is_none_or(|known| known.group != *group) {
            let shards = vec![ShardPlacement::default(); index.shards as usize];
            index.groups.insert(place, GroupPlacement { group: *group, shards });
        }
        let placed = index.groups.get_mut(place).and_then(|g| g.shards.get_mut(shard.0 as usize));
        let Some(placed) = placed.filter(|placed| !placed.replicas.contains(node)) else {
            continue;
        };
        placed.replicas.push(node.clone());
        changed = true;
        change_moves(tx, uid, node, |moves| {
            moves.arriving.insert(*shard);
            moves.leaving.remove(shard);
        })?;
    }
    keep_placement(tx, uid, index, changed)
}

fn narrow(
    tx: &mut Tx<'_>,
    uid: &IndexUid,
    replicas: &[ReplicaPlace],
) -> Result<Outcome, ApplyError> {
    let Some(mut index) = indexes::get(tx, uid)? else { return Ok(Outcome::Unchanged) };
    let mut changed = false;
    for ReplicaPlace { group, node, shard } in replicas {
        let is_last = in_sync_of(&index.groups, *shard).iter().all(|other| other == node);
        if is_last && !planted::has(Bug::TakeAwayEarly) {
            continue;
        }
        let of_group = index.groups.iter_mut().find(|known| known.group == *group);
        let placed = of_group.and_then(|known| known.shards.get_mut(shard.0 as usize));
        let Some(placed) = placed.filter(|placed| placed.replicas.contains(node)) else {
            continue;
        };
        placed.replicas.retain(|replica| replica != node);
        placed.in_sync.retain(|replica| replica != node);
        changed = true;
        change_moves(tx, uid, node, |moves| {
            moves.arriving.remove(shard);
            moves.leaving.insert(*shard);
        })?;
    }
    keep_placement(tx, uid, index, changed)
}

fn emptied(
    tx: &mut Tx<'_>,
    fence: &Fence,
    node: &NodeId,
    shards: &[ShardId],
) -> Result<Outcome, ApplyError> {
    let index = match indexes::fenced(tx, fence)? {
        Ok(index) => index,
        Err(refusal) => return Ok(refusal),
    };
    change_moves(tx, &fence.index, node, |moves| {
        moves.leaving.retain(|shard| !shards.contains(shard));
    })?;
    let mut placed = index.groups.iter().flat_map(|group| &group.shards);
    let is_placed = placed.any(|shard| shard.replicas.contains(node));
    if !is_placed && tx.get(MOVES, &replica_key(&fence.index, node))?.is_none() {
        forget(tx, &fence.index, node);
    }
    Ok(Outcome::Done)
}

#[cfg(test)]
mod tests;
