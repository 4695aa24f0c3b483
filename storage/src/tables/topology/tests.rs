use super::*;
use crate::commands::{Command, EnqueueTask, InSyncChange, NewIndex, Work};
use crate::engine::{Durability, MemoryEngine};
use crate::ids::{Epoch, PodId};
use crate::routing::Routing;
use crate::tables::roles::{REBALANCER, writer_role};

/// Nodes `a` and `b` in group 0, `c` in group 1.
struct Cluster {
    engine: MemoryEngine,
}

impl Cluster {
    fn new() -> Self {
        let cluster = Self { engine: MemoryEngine::default() };
        for (id, group) in [("a", 0), ("b", 0), ("c", 1)] {
            cluster.apply(&Command::PutNode(node(id, group)));
        }
        let take = |role: String| Command::TakeEpoch { role, pod: PodId::from("p") };
        cluster.apply(&take(REBALANCER.to_owned()));
        cluster
    }

    fn apply(&self, command: &Command) -> Outcome {
        let mut tx = Tx::new(&self.engine);
        let outcome = crate::tables::apply(&mut tx, 1, command).unwrap();
        self.engine.commit(tx.into_batch(), Durability::Lazy).unwrap();
        outcome
    }

    fn order(&self, command: TopologyCommand) -> Outcome {
        self.apply(&Command::Topology(Box::new(command)))
    }

    /// Creates an index of two shards, both on these nodes.
    fn create(&self, groups: &[(u32, &[&str])]) -> Outcome {
        let placement = |(group, nodes): &(u32, &[&str])| {
            let replicas: Vec<NodeId> = nodes.iter().map(|id| NodeId::from(*id)).collect();
            let shard = ShardPlacement { in_sync: replicas.clone(), replicas };
            GroupPlacement { group: GroupId(*group), shards: vec![shard; 2] }
        };
        let create = NewIndex {
            shards: 2,
            groups: groups.iter().map(placement).collect(),
            writer: PodId::from("p"),
        };
        self.apply(&Command::EnqueueTask(Box::new(EnqueueTask {
            index: Some("i".into()),
            work: Work::CreateIndex { primary_key: None },
            create: Some(create),
            custom_metadata: None,
            at: 0,
        })))
    }

    fn routing(&self) -> Routing {
        Routing::load(&self.engine).unwrap()
    }

    fn index(&self) -> crate::routing::IndexRouting {
        self.routing().by_uid.values().next().unwrap().as_ref().clone()
    }
}

fn node(id: &str, group: u32) -> NodeRecord {
    let address = format!("http://{id}");
    NodeRecord { id: NodeId::from(id), address, group: GroupId(group), key: None }
}

fn place(group: u32, node: &str, shard: u32) -> ReplicaPlace {
    ReplicaPlace { group: GroupId(group), node: NodeId::from(node), shard: ShardId(shard) }
}

fn role() -> RoleFence {
    RoleFence { role: REBALANCER.to_owned(), epoch: Epoch(1) }
}

fn drain(node: &str, forced: bool) -> TopologyCommand {
    TopologyCommand::Drain { node: NodeId::from(node), draining: true, forced }
}

fn remove(node: &str, forced: bool, loses_data: bool) -> TopologyCommand {
    TopologyCommand::RemoveNode { node: NodeId::from(node), forced, loses_data }
}

#[test]
fn a_replica_moves_in_four_steps() {
    let cluster = Cluster::new();
    cluster.create(&[(0, &["a"])]);
    let uid = cluster.index().uid;
    let widen =
        |place| TopologyCommand::Widen { fence: role(), index: uid.clone(), replicas: vec![place] };
    let narrow = |place| TopologyCommand::Narrow {
        fence: role(),
        index: uid.clone(),
        replicas: vec![place],
    };
    assert_eq!(cluster.order(widen(place(1, "b", 0))), Outcome::Unchanged, "another group");
    assert_eq!(cluster.order(widen(place(0, "b", 0))), Outcome::Done);
    let (b, shards) = (NodeId::from("b"), BTreeSet::from([ShardId(0)]));
    assert_eq!(cluster.index().moves[&b].arriving, shards);
    // Nothing is taken away while it would be the last.
    assert_eq!(cluster.order(narrow(place(0, "a", 0))), Outcome::Unchanged);

    let epoch = match cluster
        .apply(&Command::TakeEpoch { role: writer_role(&uid), pod: PodId::from("p") })
    {
        Outcome::Epoch(epoch) => epoch,
        other => panic!("{other:?}"),
    };
    let fence = Fence { index: uid.clone(), epoch };
    let joins = InSyncChange { shard: ShardId(0), node: b.clone(), joins: true };
    let join = Command::ChangeInSync { fence: fence.clone(), changes: vec![joins] };
    assert_eq!(cluster.apply(&join), Outcome::Done);
    assert!(cluster.index().moves.is_empty());

    assert_eq!(cluster.order(narrow(place(0, "a", 0))), Outcome::Done);
    let index = cluster.index();
    assert_eq!(index.groups[0].shards[0].replicas, [b]);
    let a = NodeId::from("a");
    assert_eq!(index.moves[&a].leaving, shards);
    let emptied = TopologyCommand::Emptied { fence, node: a, shards: vec![ShardId(0)] };
    assert_eq!(cluster.order(emptied), Outcome::Done);
    assert!(cluster.index().moves.is_empty());
}

#[test]
fn a_rebalancer_that_was_replaced_moves_nothing() {
    let cluster = Cluster::new();
    cluster.create(&[(0, &["a"])]);
    cluster.apply(&Command::TakeEpoch { role: REBALANCER.into(), pod: PodId::from("p") });
    let index = cluster.index().uid;
    let widen = TopologyCommand::Widen { fence: role(), index, replicas: vec![place(0, "b", 0)] };
    assert_eq!(cluster.order(widen), Outcome::Fenced { current: Epoch(2) });
}

#[test]
fn a_node_is_not_drained_below_the_copies_unless_forced_but_a_group_may_go() {
    let cluster = Cluster::new();
    let set = TopologyCommand::SetReplication { factor: 2, if_unset: true };
    assert_eq!(cluster.order(set), Outcome::Done);
    let too_few = TopologyRefusal::TooFewNodes { group: GroupId(0), nodes: 1, factor: 2 };
    assert_eq!(cluster.order(drain("a", false)), Outcome::Topology(too_few));
    assert_eq!(cluster.order(drain("a", true)), Outcome::Done);
    // The whole group, since another is there.
    assert_eq!(cluster.order(drain("b", false)), Outcome::Done);
    assert_eq!(cluster.order(drain("c", false)), Outcome::Topology(TopologyRefusal::LastNode));
    let unknown = Outcome::Topology(TopologyRefusal::UnknownNode);
    assert_eq!(cluster.order(drain("z", true)), unknown);
}

#[test]
fn more_copies_than_a_group_has_nodes_are_refused() {
    let cluster = Cluster::new();
    let set = |factor, if_unset| TopologyCommand::SetReplication { factor, if_unset };
    let too_few = TopologyRefusal::TooFewNodes { group: GroupId(1), nodes: 1, factor: 2 };
    assert_eq!(cluster.order(set(2, false)), Outcome::Topology(too_few));
    assert_eq!(cluster.order(set(1, false)), Outcome::Done);
    // What is configured only counts until somebody has said otherwise.
    assert_eq!(cluster.order(set(2, true)), Outcome::Unchanged);
}

#[test]
fn a_node_is_removed_when_it_is_empty_or_when_somebody_insists() {
    let cluster = Cluster::new();
    cluster.create(&[(0, &["a"]), (1, &["c"])]);
    assert_eq!(
        cluster.order(remove("a", false, false)),
        Outcome::Topology(TopologyRefusal::HoldsShards { indexes: 1 })
    );
    assert_eq!(cluster.order(remove("b", false, false)), Outcome::Done);
    assert_eq!(cluster.order(remove("a", true, false)), Outcome::Done, "c has everything");
    let routing = cluster.routing();
    assert_eq!(routing.nodes.keys().map(NodeId::as_str).collect::<Vec<_>>(), ["c"]);
    assert_eq!(cluster.index().groups.len(), 1);
    // The last one never goes; and an id is never used again, nor by a plan made before.
    assert_eq!(
        cluster.order(remove("c", true, true)),
        Outcome::Topology(TopologyRefusal::LastNode)
    );
    assert_eq!(cluster.apply(&Command::PutNode(node("a", 0))), Outcome::Unchanged);
    let add = TopologyCommand::AddNode(node("a", 0));
    assert_eq!(cluster.order(add), Outcome::Topology(TopologyRefusal::NodeRemoved));
    let cluster = Cluster::new();
    assert_eq!(cluster.order(remove("b", false, false)), Outcome::Done);
    assert_eq!(cluster.create(&[(0, &["b"])]), Outcome::Unplaced);
}

#[test]
fn last_copies_are_given_up_only_by_name() {
    let cluster = Cluster::new();
    cluster.create(&[(0, &["a"])]);
    let last = Outcome::Topology(TopologyRefusal::LastCopies { indexes: 1 });
    assert_eq!(cluster.order(remove("a", true, false)), last);
    assert_eq!(cluster.order(remove("a", true, true)), Outcome::Done);
    // The shards are still there, without a replica.
    assert_eq!(cluster.index().groups[0].shards, vec![ShardPlacement::default(); 2]);
}
