//! What the writer knows of each lane, and the rules over lanes. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use miroir_storage::commands::InSyncChange;
use miroir_storage::ids::{NodeId, ShardId, TaskUid};
use miroir_storage::tables::indexes::{GroupPlacement, is_in_sync};
use serde_json::Value;
use tokio::time::Instant;

use super::resharding::MarkPages;
use crate::inspect::Address;
use crate::lane::LaneMessage;
use crate::lane::job::PartOutcome;
use crate::lane::turn::Turn;

/// A lane this far behind the most advanced one leaves the in-sync set, so that tasks can end
/// (spec 01, Writes 6).
pub const LAG_MAX: Duration = Duration::from_secs(30);

/// A lane's standing.
///
/// ```text
/// Current --node down, lag, failed alone--> CatchingUp --caught up--> Joining --log--> Current
///    `--node lost its disk, payloads dropped--> NeedsCopy --copied--> CatchingUp
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// In the in-sync sets of its shards.
    Current,
    /// Out of them; has everything it misses ahead of it in the queue.
    CatchingUp,
    /// Caught up; the log is being told. Counts as required already.
    Joining,
    /// What it misses is no longer in the queue.
    NeedsCopy,
}

/// The writer's view of one lane.
#[derive(Debug)]
pub struct LaneView {
    /// The lane.
    pub actor: Address<LaneMessage>,
    /// The shards the node holds, those on their way to it included.
    pub held: BTreeSet<ShardId>,
    /// Those of them that a move brings: it gets nothing of them before a copy has filled them.
    pub arriving: BTreeSet<ShardId>,
    /// Those that a copy has brought, until the log has them in sync.
    pub filled: BTreeSet<ShardId>,
    /// Shards that are no longer its own, of which it still has documents.
    pub departed: BTreeSet<ShardId>,
    /// A task that nobody sent by now may have brought documents of shards that are not its own.
    pub sweeps: bool,
    /// When `arriving` or `departed` last grew: earlier placements may be read by until a while
    /// after it.
    pub moved_shards_at: Instant,
    /// Whose turn it is on the node: the lane's or a copy's.
    pub turn: Turn,
    /// Everything up to here is applied.
    pub passed: Option<TaskUid>,
    /// A run is under way.
    pub busy: bool,
    /// The index exists on the node with its settings.
    pub provisioned: bool,
    /// See [`Standing`].
    pub standing: Standing,
    /// The log is being told that it left the in-sync sets; until then it can't come back.
    pub leaving: bool,
    /// Something may have changed its replica out of turn: it leaves and is copied.
    pub suspect: bool,
    /// A late request may have changed what it has of these shards while nobody else was in sync
    /// for them: it leaves as soon as somebody is who has not got it from there.
    pub tainted: BTreeSet<ShardId>,
    /// What it had went with the node's disk or index: playing what waits would not bring it back.
    pub lost_disk: bool,
    /// The life of the node's disk that the lane knows of.
    pub disk_life: u64,
    /// A copy that was to read from it found that its node has no such index.
    pub found_gone: bool,
    /// The log is being told that the lane begins on a new disk.
    pub noting: bool,
    /// What it has of the shards for which it is not in sync is incomplete: a copy was begun.
    pub filling: bool,
    /// Its node's settings are to be looked at, before it joins.
    pub check_settings: bool,
    /// Not before this: the node did not answer.
    pub check_after: Instant,
    /// The settings version that a check under way compares with.
    pub checking_version: u64,
    /// How the node prints the settings of this version, where that is not as we would.
    pub spelling: Option<(u64, Value)>,
    /// When its node's tasks were last looked through.
    pub audited_at: Instant,
    /// Its node's tasks are looked through before another node leaves the in-sync sets.
    pub audit_first: bool,
    /// Since when it is to leave the in-sync sets, and others are looked at first.
    pub leaves_since: Option<Instant>,
    /// When it last moved, or first had something to do.
    pub moved_at: Instant,
    /// Every document that the node has is marked for the newest partition.
    pub marked: bool,
    /// It has carried a run since it last marked documents.
    pub ran_since_mark: bool,
    /// Not before this does it mark more.
    pub mark_after: Instant,
    /// How many it marks at a time.
    pub page: MarkPages,
}

impl LaneView {
    /// Whether the node is read for some shards though it may miss others: it was the last
    /// in-sync replica of those when it left the other sets, and still has them.
    pub fn keeps_shards(&self, groups: &[GroupPlacement], node: &NodeId) -> bool {
        self.provisioned && is_in_sync_for_any(groups, node)
    }

    /// The shards that the lane carries: all that the node holds, but those that a copy is to
    /// fill.
    pub fn carried(&self, groups: &[GroupPlacement], node: &NodeId) -> BTreeSet<ShardId> {
        let is_filled = |shard: &ShardId| {
            (self.standing == Standing::NeedsCopy || self.arriving.contains(shard))
                && !is_in_sync(groups, *shard, node)
        };
        self.held.iter().copied().filter(|shard| !is_filled(shard)).collect()
    }

    /// The shards that it has, or is about to have, like any other replica.
    pub fn settled(&self) -> BTreeSet<ShardId> {
        self.held.difference(&self.arriving).copied().collect()
    }

    /// Whether it holds what its mark says, of all its shards.
    pub fn is_whole(&self) -> bool {
        self.provisioned && !self.lost_disk && !self.found_gone && !self.filling && !self.noting
    }

    /// Whether the node refused the index from its beginning (no space, say) and is still the
    /// last in-sync replica of some shards: their documents are in what waits and nowhere else.
    pub fn awaits_index(&self, groups: &[GroupPlacement], node: &NodeId) -> bool {
        !self.provisioned
            && !self.lost_disk
            && self.passed.is_none()
            && is_in_sync_for_any(groups, node)
    }
}

/// The nodes of an index, with the shards that each holds.
pub fn held_shards(groups: &[GroupPlacement]) -> BTreeMap<NodeId, BTreeSet<ShardId>> {
    let mut held: BTreeMap<NodeId, BTreeSet<ShardId>> = BTreeMap::new();
    for group in groups {
        for (shard, placement) in group.shards.iter().enumerate() {
            for node in &placement.replicas {
                held.entry(node.clone()).or_default().insert(ShardId(shard as u32));
            }
        }
    }
    held
}

/// The nodes that are in the in-sync set of any shard.
pub fn in_sync_nodes(groups: &[GroupPlacement]) -> BTreeSet<NodeId> {
    groups
        .iter()
        .flat_map(|group| &group.shards)
        .flat_map(|shard| shard.in_sync.iter().cloned())
        .collect()
}

/// Whether a node is in the in-sync set of any shard.
pub fn is_in_sync_for_any(groups: &[GroupPlacement], node: &NodeId) -> bool {
    groups.iter().flat_map(|group| &group.shards).any(|shard| shard.in_sync.contains(node))
}

/// Whether a node is in the in-sync set of each of these shards.
pub fn is_in_sync_for(
    groups: &[GroupPlacement],
    node: &NodeId,
    shards: &BTreeSet<ShardId>,
) -> bool {
    shards.iter().all(|shard| is_in_sync(groups, *shard, node))
}

/// Changes that take a node out of, or put it into, every in-sync set it can be in.
pub fn changes_for(node: &NodeId, held: &BTreeSet<ShardId>, joins: bool) -> Vec<InSyncChange> {
    held.iter().map(|shard| InSyncChange { shard: *shard, node: node.clone(), joins }).collect()
}

/// The lanes that lag, in the in-sync sets or on their way to them: at an earlier place than the
/// most advanced required lane, without a move for [`LAG_MAX`].
pub fn lagging(
    lanes: &BTreeMap<NodeId, LaneView>,
    required: &BTreeSet<NodeId>,
    now: Instant,
) -> Vec<NodeId> {
    let most = lanes
        .iter()
        .filter(|(node, _)| required.contains(*node))
        .map(|(_, lane)| lane.passed)
        .max()
        .flatten();
    lanes
        .iter()
        .filter(|(_, lane)| {
            lane.passed < most && now.saturating_duration_since(lane.moved_at) > LAG_MAX
        })
        .map(|(node, _)| node.clone())
        .collect()
}

/// How many documents a deletion removed, each counted once: the sum over one group whose every
/// node reported, divided by its copies. The group with the most reports is taken.
pub fn count_deleted(
    groups: &[GroupPlacement],
    results: &BTreeMap<NodeId, PartOutcome>,
) -> Option<u64> {
    let mut best: Option<(usize, u64)> = None;
    for group in groups {
        let nodes: BTreeSet<&NodeId> =
            group.shards.iter().flat_map(|shard| &shard.replicas).collect();
        // While replicas move, shards have different numbers of them: then it is an estimate.
        let replicas: usize = group.shards.iter().map(|shard| shard.replicas.len()).sum();
        let mut sum = 0;
        let mut reports = 0;
        for node in &nodes {
            if let Some(PartOutcome::Applied { deleted }) = results.get(*node) {
                reports += 1;
                sum += deleted.unwrap_or(0);
            }
        }
        if reports == 0 {
            continue;
        }
        // With some reports missing, scale by how many of the group's nodes spoke.
        let copies = (reports * replicas).max(1) as u64;
        let counted = (sum * (nodes.len() * group.shards.len()) as u64 + copies / 2) / copies;
        if best.is_none_or(|(most, _)| reports > most) {
            best = Some((reports, counted));
        }
    }
    best.map(|(_, counted)| counted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use miroir_storage::ids::GroupId;
    use miroir_storage::tables::indexes::ShardPlacement;

    #[test]
    fn deleted_documents_are_counted_once_whatever_the_copies() {
        let both: Vec<NodeId> = vec![NodeId::from("a"), NodeId::from("b")];
        let shard = ShardPlacement { replicas: both.clone(), in_sync: both };
        let groups = vec![GroupPlacement { group: GroupId(0), shards: vec![shard; 4] }];
        let applied = |count| PartOutcome::Applied { deleted: Some(count) };
        let results =
            BTreeMap::from([(NodeId::from("a"), applied(10)), (NodeId::from("b"), applied(10))]);
        assert_eq!(count_deleted(&groups, &results), Some(10));
        let one = BTreeMap::from([(NodeId::from("a"), applied(10))]);
        assert_eq!(count_deleted(&groups, &one), Some(10));
        assert_eq!(count_deleted(&groups, &BTreeMap::new()), None);
    }
}
