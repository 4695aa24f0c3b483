//! Replicas that a late request may have changed and that nobody could replace: each was the last
//! one in sync for some shards.
//!
//! Such a replica stays, is read and written to, and those shards of it are *tainted*. What is
//! copied from it is tainted as well, so that replicas go on being equal. One that was out of the
//! sets meanwhile and comes back through the queue has what the queue says: as soon as it is in
//! sync, those that are tainted leave and are copied from it. The log remembers them
//! ([`Content::Doubtful`]).

use std::collections::{BTreeMap, BTreeSet};

use miroir_storage::commands::Command;
use miroir_storage::ids::{NodeId, ShardId};
use miroir_storage::tables::disks::{Content, ReplicaRecord};
use miroir_storage::tables::indexes::in_sync_of;

use super::WriterState;
use super::lanes::{Standing, is_in_sync_for};
use super::steps::routing;

/// The nodes with a tainted shard that another node is in sync for, too, and has from elsewhere.
pub(super) fn replaceable(state: &WriterState) -> BTreeSet<NodeId> {
    let tainted: BTreeSet<ShardId> =
        state.lanes.values().flat_map(|lane| &lane.tainted).copied().collect();
    let index = if tainted.is_empty() { None } else { routing(state) };
    let Some(index) = index else { return BTreeSet::new() };
    let members = |shard: ShardId| {
        let is_current = |node: &NodeId| {
            let lane = state.lanes.get(node).filter(|lane| lane.standing == Standing::Current)?;
            (!lane.leaving).then_some((node.clone(), lane.tainted.contains(&shard)))
        };
        in_sync_of(&index.groups, shard).iter().filter_map(is_current).collect()
    };
    tainted.into_iter().flat_map(|shard| replaceable_among(members(shard))).collect()
}

/// Of a shard's in-sync replicas, each with whether it is tainted, those that can go.
fn replaceable_among(members: BTreeMap<NodeId, bool>) -> Vec<NodeId> {
    let has_clean = members.values().any(|is_tainted| !is_tainted);
    members.into_iter().filter(|(_, is_tainted)| has_clean && *is_tainted).map(|(n, _)| n).collect()
}

/// Lets replicas go on that were to be copied and turned out to be the last ones of all their
/// shards: there is nothing to fill.
pub(super) fn stay(state: &mut WriterState) {
    let Some(index) = routing(state) else { return };
    let mut staying = Vec::new();
    for (node, lane) in &mut state.lanes {
        let is_out = lane.standing == Standing::NeedsCopy && lane.provisioned;
        if is_out
            && !lane.leaving
            && !lane.suspect
            && !lane.held.is_empty()
            && is_in_sync_for(&index.groups, node, &lane.held)
        {
            tracing::warn!(%node, index = %index.uid, "replica stays, nobody else is in sync");
            lane.standing = Standing::CatchingUp;
            // A stranger may have changed them.
            lane.check_settings = true;
            staying.push(node.clone());
        }
    }
    for node in staying {
        remember(state, &node);
    }
}

/// The shards of a node have been filled from these sources.
pub(super) fn filled(
    state: &mut WriterState,
    target: &NodeId,
    filling: &BTreeSet<ShardId>,
    sources: &BTreeMap<NodeId, BTreeSet<ShardId>>,
) {
    let from = |(node, shards): (&NodeId, &BTreeSet<ShardId>)| {
        let tainted = state.lanes.get(node).map(|lane| lane.tainted.intersection(shards));
        tainted.into_iter().flatten().copied().collect::<Vec<_>>()
    };
    let passed_on: BTreeSet<ShardId> = sources.iter().flat_map(from).collect();
    let Some(lane) = state.lanes.get_mut(target) else { return };
    lane.tainted.retain(|shard| !filling.contains(shard));
    lane.tainted.extend(passed_on);
    remember(state, target);
}

/// Has the log remember what of a replica is tainted, for the next writer: all, where any is.
fn remember(state: &WriterState, node: &NodeId) {
    let Some(lane) = state.lanes.get(node).filter(|lane| !lane.tainted.is_empty()) else { return };
    state.pod.log.propose_detached(&Command::SetReplica {
        fence: state.fence.clone(),
        node: node.clone(),
        replica: ReplicaRecord { life: lane.disk_life, content: Content::Doubtful },
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tainted_replicas_go_when_one_is_there_that_is_not() {
        let among = |members: &[(&str, bool)]| {
            let members = members.iter().map(|(node, tainted)| (NodeId::from(*node), *tainted));
            replaceable_among(members.collect())
        };
        assert!(among(&[("a", true)]).is_empty());
        assert!(among(&[("a", true), ("b", true)]).is_empty());
        assert!(among(&[("a", false), ("b", false)]).is_empty());
        let both = vec![NodeId::from("a"), NodeId::from("c")];
        assert_eq!(among(&[("a", true), ("b", false), ("c", true)]), both);
    }
}
