//! What to copy to a replica, and from where.

use std::collections::{BTreeMap, BTreeSet};

use miroir_storage::ids::{NodeId, ShardId};
use miroir_storage::routing::IndexRouting;
use miroir_storage::tables::indexes::{in_sync_of, is_in_sync};

use super::WriterState;
use super::lanes::{LaneView, Standing};
use super::replicas::heirs;
use crate::replica_copy::assign_sources;

/// A copy to be made.
pub(super) struct CopyPlan {
    /// Where each shard is read that somebody has.
    pub(super) sources: BTreeMap<NodeId, BTreeSet<ShardId>>,
    /// The shards to be filled.
    pub(super) filling: BTreeSet<ShardId>,
    /// The target is read for its other shards; else its whole index is made anew.
    partly: bool,
}

impl CopyPlan {
    /// The shards that somebody has.
    pub(super) fn covered(&self) -> BTreeSet<ShardId> {
        self.sources.values().flatten().copied().collect()
    }

    /// The shards to empty and fill, where the index is not made anew. What nobody else has is
    /// left as it is found.
    pub(super) fn refill(&self) -> Option<BTreeSet<ShardId>> {
        let covered = self.covered();
        (self.partly || covered.len() < self.filling.len()).then_some(covered)
    }
}

/// What to copy to a node, and from where; `None` while a shard's only sources are down. A
/// target that is itself in the in-sync set of some shards keeps those: it may be their last
/// member.
pub(super) fn plan_copy(
    state: &WriterState,
    index: &IndexRouting,
    target: &NodeId,
    lane: &LaneView,
) -> Option<CopyPlan> {
    let partly = lane.keeps_shards(&index.groups, target);
    let filling: BTreeSet<ShardId> = lane
        .held
        .iter()
        .copied()
        .filter(|shard| !partly || !is_in_sync(&index.groups, *shard, target))
        .collect();
    let sources = assign_sources(
        &filling,
        target,
        |shard| in_sync_of(&index.groups, shard),
        |node| {
            let holds_data = state
                .lanes
                .get(node)
                .is_some_and(|lane| lane.provisioned && lane.standing != Standing::NeedsCopy);
            let partly = state.lanes.get(node).is_some_and(|l| l.keeps_shards(&index.groups, node));
            (holds_data || partly) && !state.pod.health.is_down(node)
        },
    );
    let plan = CopyPlan { sources, filling, partly };
    for shard in plan.filling.difference(&plan.covered()) {
        let in_sync = in_sync_of(&index.groups, *shard);
        if in_sync.iter().any(|node| node != target) {
            return None;
        }
        if heirs(state, *shard).any(|(node, _)| node != target) {
            return None;
        }
        // Its last in-sync replica was this node's, whose disk is gone.
        tracing::error!(index = %state.fence.index, node = %target, shard = shard.0,
            "shard has no replica to copy from, its documents are lost");
    }
    Some(plan)
}

/// The lanes of the nodes that a copy to `target` may be read from.
pub(super) fn sources<'a>(
    state: &'a WriterState,
    required: &'a BTreeSet<NodeId>,
    target: &'a NodeId,
) -> impl Iterator<Item = &'a LaneView> {
    let usable = move |(node, lane): &(&NodeId, &LaneView)| {
        required.contains(*node)
            && *node != target
            && (lane.standing != Standing::NeedsCopy || lane.provisioned)
            && !state.pod.health.is_down(node)
    };
    state.lanes.iter().filter(usable).map(|(_, lane)| lane)
}
