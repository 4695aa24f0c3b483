//! Which nodes a read asks, and for which shards. Pure: values in, a plan out.
//!
//! One group answers a query, chosen by the query's hash among those that cover every shard with
//! healthy in-sync replicas, so that the pages of one query are cut from one list. Inside it the
//! fewest nodes with a shard filter win: a node asked for *all* it holds needs none. "Holds"
//! means every copy in the placement, in sync or not, and what is left of those that moved away: a copy
//! that was not chosen must not answer. A pod whose placement is old doesn't know what nodes hold by
//! now, and names the shards that it wants.

use std::collections::BTreeMap;

use miroir_seams::planted::{self, Bug};
use miroir_storage::ids::{GroupId, NodeId, ShardId};
use miroir_storage::routing::IndexRouting;
use miroir_wire::reserved::{Partition, SHARD_FIELD};
use twox_hash::XxHash64;

/// Starting points tried for a cover; more would rarely find a better one.
const STARTS_MAX: usize = 8;

/// What to ask of whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// In order of node id, which is the order that breaks ties between hits.
    pub calls: Vec<PlannedCall>,
    /// Shards that no healthy in-sync replica holds, in ascending order.
    pub missing: Vec<ShardId>,
}

/// One node's part of a read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedCall {
    /// The node.
    pub node: NodeId,
    /// The shards it answers for, in ascending order; never empty.
    pub shards: Vec<ShardId>,
    /// What keeps its other copies out; `None` when there are none.
    pub filter: Option<String>,
}

impl Plan {
    /// Has every node answer for just its shards, whatever else it may hold by now.
    pub fn name_shards(&mut self, of: Partition) {
        for call in &mut self.calls {
            call.filter = Some(list_filter("IN", &call.shards, of));
        }
    }
}

/// The hash that a query's group and nodes are chosen by. `words` is the query without its
/// window.
pub fn query_hash(words: &[u8]) -> u64 {
    XxHash64::oneshot(0, words)
}

/// The shard that holds a document.
pub fn shard_of(document_id: &str, shards: u32) -> ShardId {
    let hash = XxHash64::oneshot(0, document_id.as_bytes());
    ShardId(u32::try_from(hash % u64::from(shards.max(1))).unwrap_or_default())
}

/// Plans a read of all shards. `usable` says whether a node is healthy and known.
pub fn plan_read(index: &IndexRouting, usable: &dyn Fn(&NodeId) -> bool, hash: u64) -> Plan {
    plan_shards(index, usable, hash, (0..index.shards).map(ShardId).collect())
}

/// Plans a read of some shards, for instance of those that a failed node was asked for.
pub fn plan_shards(
    index: &IndexRouting,
    usable: &dyn Fn(&NodeId) -> bool,
    hash: u64,
    wanted: Vec<ShardId>,
) -> Plan {
    let groups: Vec<GroupView<'_>> =
        index.groups.iter().map(|placement| view_group(index, placement.group, usable)).collect();
    let mut order: Vec<&GroupView<'_>> = groups.iter().collect();
    // The fewest missing shards first (none, usually), then by hash: a group that comes or goes
    // moves only the queries it takes or gives.
    order.sort_by_key(|group| {
        let missing = wanted.iter().filter(|shard| !group.reachable(**shard)).count();
        (missing, std::cmp::Reverse(mixed_hash(hash, &group.group.0.to_le_bytes())))
    });
    let mut chosen: BTreeMap<&NodeId, (Vec<ShardId>, usize)> = BTreeMap::new();
    let mut left = wanted;
    for (place, group) in order.iter().enumerate() {
        if left.is_empty() {
            break;
        }
        let (here, elsewhere): (Vec<ShardId>, Vec<ShardId>) =
            left.iter().partition(|shard| group.reachable(**shard));
        for (node, shards) in group.cover(&here, hash) {
            chosen.insert(node, (shards, place));
        }
        left = elsewhere;
    }
    let calls = chosen
        .into_iter()
        .map(|(node, (shards, place))| {
            let held = order.get(place).and_then(|group| group.nodes.get(node));
            let held = held.map(|node| node.held.as_slice()).unwrap_or_default();
            let filter = shard_filter(&shards, held, index.marks.current);
            PlannedCall { node: node.clone(), shards, filter }
        })
        .collect();
    Plan { calls, missing: left }
}

/// The filter that limits a node to `wanted` of the shards it `held`s; the shorter of both forms.
fn shard_filter(wanted: &[ShardId], held: &[ShardId], of: Partition) -> Option<String> {
    let unwanted: Vec<ShardId> =
        held.iter().filter(|shard| wanted.binary_search(shard).is_err()).copied().collect();
    if unwanted.is_empty() {
        return None;
    }
    Some(if unwanted.len() < wanted.len() {
        list_filter("NOT IN", &unwanted, of)
    } else {
        list_filter("IN", wanted, of)
    })
}

fn list_filter(operator: &str, list: &[ShardId], of: Partition) -> String {
    let mut filter = format!("{SHARD_FIELD} {operator} [");
    for (place, shard) in list.iter().enumerate() {
        if place > 0 {
            filter.push(',');
        }
        filter.push('"');
        filter.push_str(&of.token(shard.0));
        filter.push('"');
    }
    filter.push(']');
    filter
}

fn mixed_hash(hash: u64, bytes: &[u8]) -> u64 {
    XxHash64::oneshot(hash, bytes)
}

/// One group's placement turned around: what each node holds.
struct GroupView<'a> {
    group: GroupId,
    /// Every node with a copy of any shard.
    nodes: BTreeMap<&'a NodeId, NodeView>,
    /// By shard: whether a usable in-sync replica exists.
    reachable: Vec<bool>,
}

#[derive(Default)]
struct NodeView {
    /// Every copy, in ascending order.
    held: Vec<ShardId>,
    /// The copies that may be read, in ascending order.
    readable: Vec<ShardId>,
}

fn view_group<'a>(
    index: &'a IndexRouting,
    group: GroupId,
    usable: &dyn Fn(&NodeId) -> bool,
) -> GroupView<'a> {
    let mut view = GroupView { group, nodes: BTreeMap::new(), reachable: Vec::new() };
    let mut usable_known: BTreeMap<&NodeId, bool> = BTreeMap::new();
    let placement = index.groups.iter().find(|placement| placement.group == group);
    for (shard, replicas) in
        placement.map(|p| p.shards.as_slice()).unwrap_or_default().iter().enumerate()
    {
        let shard = ShardId(u32::try_from(shard).unwrap_or(u32::MAX));
        // A node in sync is a replica; taking both keeps a wrong record from doubling hits.
        for node in replicas.replicas.iter().chain(&replicas.in_sync) {
            let held = &mut view.nodes.entry(node).or_default().held;
            if held.last() != Some(&shard) {
                held.push(shard);
            }
        }
        let mut reachable = false;
        let readable = match planted::has(Bug::ReadOutOfSync) {
            true => &replicas.replicas,
            false => &replicas.in_sync,
        };
        for node in readable {
            if *usable_known.entry(node).or_insert_with(|| usable(node)) {
                view.nodes.entry(node).or_default().readable.push(shard);
                reachable = true;
            }
        }
        view.reachable.push(reachable);
    }
    for (node, moves) in &index.moves {
        if planted::has(Bug::LeavingUnfiltered) {
            break;
        }
        if let Some(view) = view.nodes.get_mut(node) {
            view.held.extend(&moves.leaving);
            view.held.sort_unstable();
            view.held.dedup();
        }
    }
    view
}

impl<'a> GroupView<'a> {
    fn reachable(&self, shard: ShardId) -> bool {
        self.reachable.get(shard.0 as usize).copied().unwrap_or(false)
    }

    /// Divides `wanted` (all reachable here) among nodes: the fewest filtered nodes, then the
    /// fewest nodes, then the first found in the hash's order.
    fn cover(&self, wanted: &[ShardId], hash: u64) -> Division<'a> {
        let mut order: Vec<(&'a NodeId, &NodeView)> = self
            .nodes
            .iter()
            .filter(|(_, node)| !node.readable.is_empty())
            .map(|(id, node)| (*id, node))
            .collect();
        order.sort_by_cached_key(|(id, _)| {
            std::cmp::Reverse(mixed_hash(hash, id.as_str().as_bytes()))
        });
        let mut best: Option<((usize, usize), Division<'a>)> = None;
        for start in 0..order.len().min(STARTS_MAX) {
            order.rotate_left(usize::from(start > 0));
            let cover = cover_from(&order, wanted, self.reachable.len());
            let cost = (cover.filtered, cover.shards.len());
            if best.as_ref().is_none_or(|(known, _)| cost < *known) {
                // With nothing filtered and no overlap possible there is nothing to improve.
                let perfect = cover.filtered == 0;
                best = Some((cost, cover.shards));
                if perfect {
                    break;
                }
            }
        }
        best.map(|(_, cover)| cover).unwrap_or_default()
    }
}

/// Which node answers for which shards.
type Division<'a> = BTreeMap<&'a NodeId, Vec<ShardId>>;

struct Cover<'a> {
    shards: Division<'a>,
    filtered: usize,
}

/// Takes whole nodes in `order` while they don't overlap, then covers the rest greedily and evens
/// out the load among the nodes that need a filter anyway.
fn cover_from<'a>(
    order: &[(&'a NodeId, &NodeView)],
    wanted: &[ShardId],
    shards: usize,
) -> Cover<'a> {
    let mut open = vec![false; shards];
    for shard in wanted {
        if let Some(open) = open.get_mut(shard.0 as usize) {
            *open = true;
        }
    }
    let is_open =
        |open: &[bool], shard: &ShardId| open.get(shard.0 as usize).copied().unwrap_or(false);
    let mut cover = Cover { shards: BTreeMap::new(), filtered: 0 };
    let mut rest: Vec<(&'a NodeId, &NodeView)> = Vec::new();
    for &(id, node) in order {
        let whole = node.held.len() == node.readable.len()
            && node.held.iter().all(|shard| is_open(&open, shard));
        if whole {
            for shard in &node.held {
                if let Some(open) = open.get_mut(shard.0 as usize) {
                    *open = false;
                }
            }
            cover.shards.insert(id, node.held.clone());
        } else {
            rest.push((id, node));
        }
    }
    let mut left: Vec<ShardId> =
        wanted.iter().filter(|shard| is_open(&open, shard)).copied().collect();
    let mut helpers: Vec<(&'a NodeId, &NodeView)> = Vec::new();
    let mut uncovered = left.clone();
    while !uncovered.is_empty() {
        let gain = |node: &NodeView| {
            uncovered.iter().filter(|shard| node.readable.binary_search(shard).is_ok()).count()
        };
        // The first of equals in the hash's order.
        let best = rest
            .iter()
            .enumerate()
            .map(|(place, (_, node))| (gain(node), std::cmp::Reverse(place)))
            .max();
        let Some((1.., std::cmp::Reverse(place))) = best else { break };
        let (id, node) = rest.remove(place);
        uncovered.retain(|shard| node.readable.binary_search(shard).is_err());
        helpers.push((id, node));
    }
    // Shards that only one helper can answer first, so that the others fill up the gaps.
    let choices = |shard: &ShardId| {
        helpers.iter().filter(|(_, node)| node.readable.binary_search(shard).is_ok()).count()
    };
    left.sort_by_cached_key(|shard| (choices(shard), *shard));
    let mut loads: Vec<Vec<ShardId>> = vec![Vec::new(); helpers.len()];
    for shard in left {
        let candidate = helpers
            .iter()
            .zip(loads.iter_mut())
            .filter(|((_, node), _)| node.readable.binary_search(&shard).is_ok())
            .min_by_key(|(_, load)| load.len());
        if let Some((_, load)) = candidate {
            load.push(shard);
        }
    }
    for ((id, node), mut load) in helpers.into_iter().zip(loads) {
        if load.is_empty() {
            continue;
        }
        load.sort_unstable();
        cover.filtered += usize::from(load.len() != node.held.len());
        cover.shards.insert(id, load);
    }
    cover
}

#[cfg(test)]
mod tests;
