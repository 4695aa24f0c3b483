//! Document to shard to nodes.
//!
//! `shard = XXH64(seed 0, utf8(document id)) mod S`. Within a group a shard's replicas are the
//! `RF` nodes with the highest score (rendezvous hashing: Thaler and Ravishankar, "Using
//! name-based mappings to increase hit rates", 1998). A node's score for a shard is the XXH64 of
//! the shard (four little-endian bytes) followed by the node id, seed 0; equal scores go by node
//! id. Groups are placed independently of each other, so that each covers every shard, and a
//! node that joins a group of `n` takes about `1/(n+1)` of that group's shards and nothing else.

use std::collections::BTreeMap;

use miroir_storage::ids::{GroupId, NodeId, PodId, ShardId};
use miroir_storage::tables::indexes::{GroupPlacement, ShardPlacement};
use twox_hash::XxHash64;

/// The shard of a document id (its text form: `1` and `"1"` are one document).
///
/// `shards` must be at least 1; 0 is treated as 1.
pub fn shard_of(document_id: &str, shards: u32) -> ShardId {
    let hash = XxHash64::oneshot(0, document_id.as_bytes());
    // The remainder is below a u32.
    ShardId((hash % u64::from(shards.max(1))) as u32)
}

fn score(shard: ShardId, node: &NodeId) -> u64 {
    let mut key = Vec::with_capacity(4 + node.as_str().len());
    key.extend_from_slice(&shard.0.to_le_bytes());
    key.extend_from_slice(node.as_str().as_bytes());
    XxHash64::oneshot(0, &key)
}

/// The `replication_factor` best nodes for a shard, best first; fewer when there are fewer.
pub fn rank(shard: ShardId, nodes: &[NodeId], replication_factor: usize) -> Vec<NodeId> {
    let mut scored: Vec<(u64, &NodeId)> =
        nodes.iter().map(|node| (score(shard, node), node)).collect();
    scored.sort_by(|(score_a, a), (score_b, b)| score_b.cmp(score_a).then_with(|| a.cmp(b)));
    scored.into_iter().take(replication_factor).map(|(_, node)| node.clone()).collect()
}

/// The pod that rendezvous gives an item of shared work or a role to: the one with the highest
/// XXH64 (seed 0) of the item, a zero byte and the pod's id; equal scores go by pod id. `None`
/// when there is no pod.
pub fn owner<'pods>(
    item: &str,
    pods: impl IntoIterator<Item = &'pods PodId>,
) -> Option<&'pods PodId> {
    let score = |pod: &PodId| {
        XxHash64::oneshot(0, &[item.as_bytes(), &[0], pod.as_str().as_bytes()].concat())
    };
    pods.into_iter().max_by_key(|pod| (score(pod), std::cmp::Reverse((*pod).clone())))
}

/// Where the replicas of every shard belong: by group, `[shard]` its nodes, best first.
pub type Goal = BTreeMap<GroupId, Vec<Vec<NodeId>>>;

/// Where an index of so many shards belongs, on those nodes of each group that take their part. A
/// group with fewer nodes than copies keeps one on each.
pub fn goal(
    shards: u32,
    groups: &BTreeMap<GroupId, Vec<NodeId>>,
    replication_factor: usize,
) -> Goal {
    goal_as(shards, shards, groups, replication_factor)
}

/// As [`goal`], where `shards` are to become `placed_as` (a divisor of it, at least 1): those that
/// become one belong to the same nodes.
pub fn goal_as(
    shards: u32,
    placed_as: u32,
    groups: &BTreeMap<GroupId, Vec<NodeId>>,
    replication_factor: usize,
) -> Goal {
    let of_group = |nodes: &Vec<NodeId>| {
        let placed = |shard| ShardId(shard % placed_as.max(1));
        (0..shards).map(|shard| rank(placed(shard), nodes, replication_factor)).collect()
    };
    let filled = groups.iter().filter(|(_, nodes)| !nodes.is_empty());
    filled.map(|(group, nodes)| (*group, of_group(nodes))).collect()
}

/// Why an index can't be placed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlacementError {
    /// There is no node at all.
    #[error("there are no nodes to place an index on")]
    NoNodes,
    /// A group has fewer nodes than replicas are wanted.
    #[error("replica group {group} has {nodes} nodes, fewer than the replication factor")]
    TooFewNodes {
        /// The group.
        group: GroupId,
        /// Its nodes.
        nodes: usize,
    },
}

/// Places a new index: every replica of every shard, all in sync since all are empty.
///
/// # Errors
/// When there are no nodes, or a group can't hold `replication_factor` replicas.
pub fn place(
    shards: u32,
    groups: &BTreeMap<GroupId, Vec<NodeId>>,
    replication_factor: usize,
) -> Result<Vec<GroupPlacement>, PlacementError> {
    if let Some((group, nodes)) = groups.iter().find(|(_, n)| n.len() < replication_factor)
        && groups.values().any(|nodes| !nodes.is_empty())
    {
        return Err(PlacementError::TooFewNodes { group: *group, nodes: nodes.len() });
    }
    place_on_what_is_left(shards, groups, replication_factor)
}

/// As [`place`], where nodes were taken out on purpose: a group that is too small keeps one replica
/// on each of its nodes.
///
/// # Errors
/// When there are no nodes.
pub fn place_on_what_is_left(
    shards: u32,
    groups: &BTreeMap<GroupId, Vec<NodeId>>,
    replication_factor: usize,
) -> Result<Vec<GroupPlacement>, PlacementError> {
    let in_sync = |replicas: Vec<NodeId>| ShardPlacement { in_sync: replicas.clone(), replicas };
    let placed: Vec<GroupPlacement> = goal(shards, groups, replication_factor)
        .into_iter()
        .map(|(group, shards)| GroupPlacement {
            group,
            shards: shards.into_iter().map(in_sync).collect(),
        })
        .collect();
    if placed.is_empty() { Err(PlacementError::NoNodes) } else { Ok(placed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(count: usize) -> Vec<NodeId> {
        (0..count).map(|n| NodeId(format!("node-{n}"))).collect()
    }

    /// Published XXH64 test values (seed 0), so that another implementation can agree with ours.
    #[test]
    fn shards_follow_the_published_hash() {
        assert_eq!(XxHash64::oneshot(0, b""), 0xEF46_DB37_51D8_E999);
        assert_eq!(XxHash64::oneshot(0, b"a"), 0xD24E_C4F1_A98C_6E5B);
        assert_eq!(shard_of("a", 64), ShardId((0xD24E_C4F1_A98C_6E5B_u64 % 64) as u32));
    }

    #[test]
    fn a_joining_node_moves_only_what_it_takes() {
        let (before, after) = (nodes(4), nodes(5));
        let joined = NodeId("node-4".into());
        let mut moved = 0;
        for shard in (0..1024).map(ShardId) {
            let (old, new) = (rank(shard, &before, 2), rank(shard, &after, 2));
            if new.contains(&joined) {
                moved += 1;
                assert_eq!(new.iter().filter(|node| old.contains(node)).count(), 1);
            } else {
                assert_eq!(old, new);
            }
        }
        // Two replicas of 1024 shards over five nodes: about 410 each.
        assert!((350..470).contains(&moved), "{moved}");
    }

    #[test]
    fn a_group_too_small_for_its_replicas_is_refused() {
        let groups = BTreeMap::from([(GroupId(0), nodes(1))]);
        assert_eq!(
            place(8, &groups, 2),
            Err(PlacementError::TooFewNodes { group: GroupId(0), nodes: 1 })
        );
        assert_eq!(place(8, &BTreeMap::new(), 1), Err(PlacementError::NoNodes));
    }

    proptest::proptest! {
        #[test]
        fn every_shard_has_distinct_replicas(count in 1usize..8, rf in 1usize..4, shards in 1u32..70) {
            let groups = BTreeMap::from([(GroupId(0), nodes(count)), (GroupId(1), nodes(count))]);
            match place(shards, &groups, rf) {
                Err(_) => assert!(rf > count),
                Ok(placement) => for group in placement {
                    assert_eq!(group.shards.len(), shards as usize);
                    for shard in group.shards {
                        let mut distinct = shard.replicas.clone();
                        distinct.sort();
                        distinct.dedup();
                        assert_eq!(distinct.len(), rf);
                    }
                },
            }
        }
    }
}
