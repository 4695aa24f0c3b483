//! Which replicas to place and which to take away next. Pure: the routing view in, steps out.
//!
//! The goal is what rendezvous makes of the nodes that take their part: all but those that are
//! drained or away. It depends on nothing else, so a move that was begun by another pod, or for
//! another reason, is simply on the way or not; and what has not changed its place is never moved.

use std::collections::{BTreeMap, BTreeSet};

use miroir_membership::placement::{Goal, goal_as};
use miroir_seams::planted::{self, Bug};
use miroir_storage::ids::{GroupId, IndexUid, NodeId, ShardId};
use miroir_storage::routing::{IndexRouting, Routing};
use miroir_storage::topology_commands::ReplicaPlace;

/// Indexes whose shards move at the same time.
pub const MOVING_INDEXES_MAX: usize = 4;
/// Replicas of one index on the move at the same time. A copy that fails begins again with all
/// that it was to bring.
pub const ARRIVING_MAX: usize = 16;

/// What is to be done about one index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexSteps {
    /// The index.
    pub index: IndexUid,
    /// Replicas to place.
    pub widen: Vec<ReplicaPlace>,
    /// Replicas to take away.
    pub narrow: Vec<ReplicaPlace>,
}

/// How far replicas are from where they belong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Distance {
    /// Replicas that are to be placed, or placed and not yet filled.
    pub missing: usize,
    /// Replicas that are to be taken away.
    pub surplus: usize,
    /// Replicas that were taken away and are not yet deleted.
    pub leaving: usize,
}

impl Distance {
    /// Whether everything is where it belongs.
    pub fn is_none(self) -> bool {
        self == Self::default()
    }
}

/// The nodes that take their part, by group. A group whose nodes are all away keeps them: there is
/// nowhere else to go.
pub fn active_nodes(routing: &Routing) -> BTreeMap<GroupId, Vec<NodeId>> {
    let mut staying: BTreeMap<GroupId, Vec<NodeId>> = BTreeMap::new();
    for node in routing.nodes.values() {
        if !routing.topology.draining.contains(&node.id) {
            staying.entry(node.group).or_default().push(node.id.clone());
        }
    }
    for nodes in staying.values_mut() {
        let here = |node: &&NodeId| !routing.topology.away.contains(*node);
        let present: Vec<NodeId> = nodes.iter().filter(here).cloned().collect();
        if !present.is_empty() {
            *nodes = present;
        }
    }
    staying
}

/// Where the index belongs.
pub fn goal_of(routing: &Routing, index: &IndexRouting) -> Goal {
    let factor = routing.topology.replication_factor.unwrap_or(1) as usize;
    goal_as(index.shards, index.placed_as(), &active_nodes(routing), factor)
}

/// All that an index lacks, and all that it has too much, step or no step.
fn differences(index: &IndexRouting, goal: &Goal) -> (Vec<ReplicaPlace>, Vec<ReplicaPlace>) {
    let mut placed: BTreeMap<(GroupId, ShardId), BTreeSet<&NodeId>> = BTreeMap::new();
    for group in &index.groups {
        for (shard, placement) in group.shards.iter().enumerate() {
            let key = (group.group, ShardId(shard as u32));
            placed.insert(key, placement.replicas.iter().collect());
        }
    }
    let mut wanted: BTreeMap<(GroupId, ShardId), BTreeSet<&NodeId>> = BTreeMap::new();
    for (group, shards) in goal {
        for (shard, nodes) in shards.iter().enumerate() {
            wanted.insert((*group, ShardId(shard as u32)), nodes.iter().collect());
        }
    }
    let none = BTreeSet::new();
    let only_in = |these: &BTreeMap<(GroupId, ShardId), BTreeSet<&NodeId>>,
                   others: &BTreeMap<(GroupId, ShardId), BTreeSet<&NodeId>>| {
        let mut places: Vec<ReplicaPlace> = Vec::new();
        for ((group, shard), nodes) in these {
            let others = others.get(&(*group, *shard)).unwrap_or(&none);
            for node in nodes.difference(others) {
                let node = NodeId::clone(node);
                places.push(ReplicaPlace { group: *group, node, shard: *shard });
            }
        }
        // Node by node, so that few copies bring much.
        places.sort();
        places
    };
    (only_in(&wanted, &placed), only_in(&placed, &wanted))
}

/// Whether a surplus replica may go: all that the goal has of the shard are in sync. One that was
/// never filled may go as soon as another is in sync at all.
fn may_go(index: &IndexRouting, goal: &Goal, place: &ReplicaPlace) -> bool {
    let in_sync_of = |group: &GroupId| {
        let of_group = index.groups.iter().find(|placed| placed.group == *group);
        of_group.and_then(|placed| placed.shards.get(place.shard.0 as usize)).map(|s| &s.in_sync)
    };
    let is_in_sync = |group: &GroupId, node: &NodeId| {
        in_sync_of(group).is_some_and(|in_sync| in_sync.contains(node))
    };
    if planted::has(Bug::TakeAwayEarly) {
        return true;
    }
    if !is_in_sync(&place.group, &place.node) {
        let mut all = index.groups.iter().filter_map(|g| g.shards.get(place.shard.0 as usize));
        return all.any(|shard| !shard.in_sync.is_empty());
    }
    let is_filled = |group: &GroupId| {
        let nodes = goal.get(group).and_then(|shards| shards.get(place.shard.0 as usize));
        nodes.is_some_and(|nodes| nodes.iter().all(|node| is_in_sync(group, node)))
    };
    match goal.contains_key(&place.group) {
        true => is_filled(&place.group),
        // The whole group goes.
        false => goal.keys().all(is_filled),
    }
}

/// The next steps. Nothing is placed on a node that is down.
pub fn plan_steps(routing: &Routing, is_down: &dyn Fn(&NodeId) -> bool) -> Vec<IndexSteps> {
    let arriving = |index: &IndexRouting| -> usize {
        index.moves.values().map(|moves| moves.arriving.len()).sum()
    };
    let mut moving = routing.by_uid.values().filter(|index| arriving(index) > 0).count();
    let mut steps = Vec::new();
    for index in routing.by_uid.values() {
        let goal = goal_of(routing, index);
        let (missing, surplus) = differences(index, &goal);
        let under_way = arriving(index);
        let may_begin = under_way > 0 || moving < MOVING_INDEXES_MAX;
        // Parts of shards are placed when there are parts; copies of nodes that are away don't wait.
        let is_split = index.marks.next.is_some_and(|next| next.shards > index.shards);
        let may_begin = may_begin && (!is_split || !routing.topology.away.is_empty());
        let room = if may_begin { ARRIVING_MAX.saturating_sub(under_way) } else { 0 };
        let widen: Vec<ReplicaPlace> =
            missing.into_iter().filter(|place| !is_down(&place.node)).take(room).collect();
        let narrow: Vec<ReplicaPlace> =
            surplus.into_iter().filter(|place| may_go(index, &goal, place)).collect();
        if under_way == 0 && !widen.is_empty() {
            moving += 1;
        }
        if !widen.is_empty() || !narrow.is_empty() {
            steps.push(IndexSteps { index: index.uid.clone(), widen, narrow });
        }
    }
    steps
}

/// How far an index is from where it belongs, and what it lacks and has too much.
pub fn distance_of(
    routing: &Routing,
    index: &IndexRouting,
) -> (Distance, Vec<ReplicaPlace>, Vec<ReplicaPlace>) {
    let (missing, surplus) = differences(index, &goal_of(routing, index));
    let moves = || index.moves.values();
    let distance = Distance {
        missing: missing.len() + moves().map(|moves| moves.arriving.len()).sum::<usize>(),
        surplus: surplus.len(),
        leaving: moves().map(|moves| moves.leaving.len()).sum(),
    };
    (distance, missing, surplus)
}

/// How far all replicas are from where they belong.
pub fn distance(routing: &Routing) -> Distance {
    routing.by_uid.values().fold(Distance::default(), |sum, index| {
        let (of_index, ..) = distance_of(routing, index);
        Distance {
            missing: sum.missing + of_index.missing,
            surplus: sum.surplus + of_index.surplus,
            leaving: sum.leaving + of_index.leaving,
        }
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use miroir_membership::placement::place;
    use miroir_storage::routing::{NodeMoves, NodeRecord, Topology};

    use super::*;

    const SHARDS: u32 = 64;

    fn nodes(group: u32, count: usize) -> Vec<NodeId> {
        (0..count).map(|n| NodeId(format!("node-{group}{n}"))).collect()
    }

    /// Groups of so many nodes, and one index that was placed on the first `placed` of each.
    fn world(groups: &[usize], placed: &[usize], factor: usize) -> Routing {
        let mut routing = Routing::default();
        let mut on = BTreeMap::new();
        for (group, (count, placed)) in groups.iter().zip(placed).enumerate() {
            let group = GroupId(group as u32);
            for id in nodes(group.0, *count) {
                let record =
                    NodeRecord { id: id.clone(), address: String::new(), group, key: None };
                routing.nodes.insert(id, Arc::new(record));
            }
            if *placed > 0 {
                on.insert(group, nodes(group.0, *placed));
            }
        }
        let topology = Topology { replication_factor: Some(factor as u32), ..Topology::default() };
        routing.topology = Arc::new(topology);
        let index = IndexRouting {
            uid: IndexUid::from("0-i"),
            name: "i".into(),
            primary_key: None,
            created_at: miroir_storage::routing::from_nanoseconds(0),
            shards: SHARDS,
            marks: miroir_storage::routing::Marks::first(SHARDS),
            reshard: None,
            settings: Arc::default(),
            settings_version: 0,
            settings_pending: false,
            writer: miroir_storage::ids::PodId::from("p"),
            epoch: miroir_storage::ids::Epoch(1),
            groups: place(SHARDS, &on, factor).unwrap(),
            moves: BTreeMap::new(),
        };
        routing.by_uid.insert(index.uid.clone(), Arc::new(index));
        routing
    }

    /// Carries out steps until there are none; how many replicas were placed.
    fn carry_out(routing: &mut Routing) -> usize {
        let mut placed = 0;
        for _ in 0..100 {
            let steps = plan_steps(routing, &|_| false);
            let Some(step) = steps.into_iter().next() else { return placed };
            let mut index = IndexRouting::clone(&routing.by_uid[&step.index]);
            for place in &step.widen {
                placed += 1;
                let at = index.groups.partition_point(|known| known.group < place.group);
                if index.groups.get(at).is_none_or(|known| known.group != place.group) {
                    let shards = vec![Default::default(); SHARDS as usize];
                    let group = place.group;
                    let placement = miroir_storage::routing::GroupPlacement { group, shards };
                    index.groups.insert(at, placement);
                }
                let shard = &mut index.groups[at].shards[place.shard.0 as usize];
                shard.replicas.push(place.node.clone());
                shard.in_sync.push(place.node.clone());
            }
            for place in &step.narrow {
                let group = index.groups.iter_mut().find(|g| g.group == place.group).unwrap();
                let shard = &mut group.shards[place.shard.0 as usize];
                shard.replicas.retain(|node| *node != place.node);
                shard.in_sync.retain(|node| *node != place.node);
                assert!(
                    index
                        .groups
                        .iter()
                        .any(|g| !g.shards[place.shard.0 as usize].in_sync.is_empty())
                );
            }
            index.groups.retain(|group| group.shards.iter().any(|s| !s.replicas.is_empty()));
            routing.by_uid.insert(index.uid.clone(), Arc::new(index));
        }
        panic!("it does not come to an end");
    }

    #[test]
    fn a_node_that_joins_gets_its_part_and_nothing_else_moves() {
        for factor in [1, 2] {
            let mut routing = world(&[4], &[3], factor);
            let moved = carry_out(&mut routing);
            // A quarter of all replicas, give or take what a hash does.
            let fair = SHARDS as usize * factor / 4;
            assert!((fair / 2..fair * 2).contains(&moved), "{moved} of {fair}");
            let index = &routing.by_uid[&IndexUid::from("0-i")];
            for (shard, placed) in index.groups[0].shards.iter().enumerate() {
                let before = place(SHARDS, &BTreeMap::from([(GroupId(0), nodes(0, 3))]), factor);
                let before = &before.unwrap()[0].shards[shard].replicas;
                let new = placed.replicas.iter().filter(|node| !before.contains(node)).count();
                assert!(new <= 1 && placed.replicas.len() == factor);
            }
        }
    }

    #[test]
    fn a_drained_node_is_emptied_and_a_removed_group_ends() {
        let mut routing = world(&[3, 2], &[3, 2], 1);
        let drain = |routing: &mut Routing, nodes: Vec<NodeId>| {
            let mut topology = Topology::clone(&routing.topology);
            topology.draining.extend(nodes);
            routing.topology = Arc::new(topology);
        };
        drain(&mut routing, vec![NodeId::from("node-01")]);
        assert!(carry_out(&mut routing) > 0);
        let held = |routing: &Routing, node: &str| {
            let index = &routing.by_uid[&IndexUid::from("0-i")];
            let mut shards = index.groups.iter().flat_map(|group| &group.shards);
            shards.any(|shard| shard.replicas.contains(&NodeId::from(node)))
        };
        assert!(!held(&routing, "node-01") && held(&routing, "node-00"));
        drain(&mut routing, nodes(1, 2));
        assert_eq!(carry_out(&mut routing), 0);
        assert_eq!(routing.by_uid[&IndexUid::from("0-i")].groups.len(), 1);
        assert!(distance(&routing).is_none());
    }

    #[test]
    fn a_group_is_added_and_the_number_of_copies_changed() {
        let mut routing = world(&[3, 2], &[3, 0], 1);
        assert_eq!(carry_out(&mut routing), SHARDS as usize);
        let factor = |routing: &mut Routing, factor| {
            let topology = Topology::clone(&routing.topology);
            routing.topology = Arc::new(Topology { replication_factor: Some(factor), ..topology });
        };
        factor(&mut routing, 2);
        assert_eq!(carry_out(&mut routing), 2 * SHARDS as usize);
        factor(&mut routing, 1);
        assert_eq!(carry_out(&mut routing), 0);
        assert!(distance(&routing).is_none());
    }

    #[test]
    fn nothing_is_taken_away_before_its_successor_is_filled() {
        let mut routing = world(&[3], &[2], 1);
        let steps = plan_steps(&routing, &|_| false);
        assert_eq!(steps[0].widen.len(), ARRIVING_MAX.min(steps[0].widen.len()));
        assert!(steps[0].narrow.is_empty());
        // Placed, not filled; the node is down then.
        let mut index = IndexRouting::clone(&routing.by_uid[&IndexUid::from("0-i")]);
        let moved = NodeMoves {
            arriving: steps[0].widen.iter().map(|place| place.shard).collect(),
            ..NodeMoves::default()
        };
        for place in &steps[0].widen {
            index.groups[0].shards[place.shard.0 as usize].replicas.push(place.node.clone());
        }
        index.moves.insert(NodeId::from("node-02"), moved);
        routing.by_uid.insert(index.uid.clone(), Arc::new(index));
        assert!(plan_steps(&routing, &|node| node.as_str() == "node-02").is_empty());
        // It is away for good: what was placed there is given up.
        let topology = Topology::clone(&routing.topology);
        let away = BTreeSet::from([NodeId::from("node-02")]);
        routing.topology = Arc::new(Topology { away, ..topology });
        let steps = plan_steps(&routing, &|_| false);
        assert!(steps[0].widen.is_empty() && !steps[0].narrow.is_empty());
        assert!(steps[0].narrow.iter().all(|place| place.node.as_str() == "node-02"));
    }

    #[test]
    fn a_group_that_is_down_as_a_whole_keeps_its_shards() {
        let mut routing = world(&[2, 2], &[2, 2], 1);
        let topology = Topology::clone(&routing.topology);
        let away = nodes(1, 2).into_iter().collect();
        routing.topology = Arc::new(Topology { away, ..topology });
        assert!(plan_steps(&routing, &|_| false).is_empty());
    }
}
