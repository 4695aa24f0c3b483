use super::*;
use crate::commands::{Command, EnqueueTask, NewIndex, Work};
use crate::engine::{Durability, MemoryEngine};
use crate::ids::{Epoch, GroupId, PodId};
use crate::routing::{IndexRouting, Marks, Routing};
use crate::tables::roles::writer_role;
use crate::topology_commands::TopologyCommand;

fn shard(replicas: &[&str], in_sync: &[&str]) -> ShardPlacement {
    let nodes = |ids: &[&str]| ids.iter().map(|id| NodeId::from(*id)).collect();
    ShardPlacement { replicas: nodes(replicas), in_sync: nodes(in_sync) }
}

fn group(shards: Vec<ShardPlacement>) -> Vec<GroupPlacement> {
    vec![GroupPlacement { group: GroupId(0), shards }]
}

#[test]
fn steps_go_by_factors_and_never_through_more_shards_than_there_may_be() {
    for (from, to, step) in [
        (16, 48, Some(48)),
        (48, 16, Some(16)),
        (16, 24, Some(48)),
        (64, 100, Some(1600)),
        (64, 65, None),
        (64, 0, None),
        (64, SHARDS_MAX, Some(SHARDS_MAX)),
        (64, SHARDS_MAX * 2, None),
    ] {
        assert_eq!(next_step(from, to), step, "{from} to {to}");
    }
}

#[test]
fn parts_are_where_their_shard_was() {
    let groups = group(vec![shard(&["a", "b"], &["a"]), shard(&["c"], &["c"])]);
    let of = |arriving: &[u32], leaving: &[u32]| NodeMoves {
        arriving: arriving.iter().copied().map(ShardId).collect(),
        leaving: leaving.iter().copied().map(ShardId).collect(),
    };
    let moves = BTreeMap::from([(NodeId::from("b"), of(&[0], &[1]))]);
    let after = switched(&groups, &moves, 2, 6).unwrap();
    let shards = &after.groups[0].shards;
    assert_eq!(shards.len(), 6);
    assert!((0..6).all(|new| shards[new] == groups[0].shards[new % 2]));
    assert_eq!(after.moves[&NodeId::from("b")], of(&[0, 2, 4], &[1, 3, 5]));
}

#[test]
fn shards_become_one_where_they_are_on_the_same_nodes() {
    let none = BTreeMap::new();
    let apart = group(vec![shard(&["a"], &["a"]), shard(&["b"], &["b"])]);
    assert_eq!(switched(&apart, &none, 2, 1), None);
    let together = group(vec![shard(&["a", "b"], &["a", "b"]), shard(&["b", "a"], &["a"])]);
    let whole = switched(&together, &none, 2, 1).unwrap().groups;
    assert_eq!(whole, group(vec![shard(&["a", "b"], &["a"])]));
    // On no node are all of them in sync.
    let crossed = group(vec![shard(&["a", "b"], &["b"]), shard(&["b", "a"], &["a"])]);
    assert_eq!(switched(&crossed, &none, 2, 1), None);
    let moves = BTreeMap::from([(NodeId::from("a"), NodeMoves::default())]);
    assert_eq!(switched(&together, &moves, 2, 1), None, "something is on the move");
}

/// One index of two shards on node `a`, written by pod `p`.
struct Cluster {
    engine: MemoryEngine,
}

impl Cluster {
    fn new() -> Self {
        let cluster = Self { engine: MemoryEngine::default() };
        let create = NewIndex {
            shards: 2,
            groups: group(vec![shard(&["a"], &["a"]); 2]),
            writer: PodId::from("p"),
        };
        cluster.apply(&Command::EnqueueTask(Box::new(EnqueueTask {
            index: Some("i".into()),
            work: Work::CreateIndex { primary_key: None },
            create: Some(create),
            custom_metadata: None,
            at: 0,
        })));
        let role = writer_role(&cluster.index().uid);
        cluster.apply(&Command::TakeEpoch { role, pod: PodId::from("p") });
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

    fn index(&self) -> IndexRouting {
        Routing::load(&self.engine).unwrap().by_uid.values().next().unwrap().as_ref().clone()
    }

    fn reshard(&self, shards: u32) -> Outcome {
        self.order(TopologyCommand::Reshard { index: self.index().uid, shards, at: 7 })
    }

    fn abandon(&self) -> Outcome {
        self.order(TopologyCommand::AbandonReshard { index: self.index().uid })
    }

    fn fence(&self) -> Fence {
        let index = self.index();
        Fence { index: index.uid, epoch: index.epoch }
    }

    /// Carries out the step under way.
    fn switch(&self) -> Outcome {
        let to = self.index().marks.next.unwrap();
        self.order(TopologyCommand::SwitchPartition { fence: self.fence(), to })
    }

    fn settle(&self) -> Outcome {
        self.order(TopologyCommand::SettlePartition { fence: self.fence() })
    }
}

fn partition(shards: u32, generation: u32) -> Partition {
    Partition { shards, generation }
}

#[test]
fn a_resharding_marks_switches_and_settles() {
    let cluster = Cluster::new();
    assert_eq!(cluster.reshard(2), Outcome::Unchanged);
    assert_eq!(cluster.reshard(6), Outcome::Done);
    assert_eq!(cluster.reshard(6), Outcome::Unchanged, "ordered again");
    let refusal = TopologyRefusal::ReshardUnderWay { to: 6 };
    assert_eq!(cluster.reshard(4), Outcome::Topology(refusal));
    let marks = cluster.index().marks;
    assert_eq!((marks.current, marks.next), (partition(2, 0), Some(partition(6, 1))));
    let stale = Fence { epoch: Epoch(0), ..cluster.fence() };
    let switch = TopologyCommand::SwitchPartition { fence: stale, to: partition(6, 1) };
    assert_eq!(cluster.order(switch), Outcome::Fenced { current: Epoch(1) });
    assert_eq!(cluster.switch(), Outcome::Done);
    let index = cluster.index();
    assert_eq!((index.shards, index.groups[0].shards.len(), index.reshard), (6, 6, None));
    assert_eq!(index.marks.former, Some(partition(2, 0)));
    let refusal = TopologyRefusal::ReshardUnderWay { to: 6 };
    assert_eq!(cluster.reshard(12), Outcome::Topology(refusal), "not settled");
    assert_eq!(cluster.settle(), Outcome::Done);
    assert_eq!(cluster.settle(), Outcome::Unchanged);
    let marks = cluster.index().marks;
    assert_eq!((marks.current, marks.beside()), (partition(6, 1), None));
    assert_eq!(marks.newest(), Some(partition(6, 1)));
}

#[test]
fn numbers_that_do_not_divide_each_other_take_two_steps() {
    let cluster = Cluster::new();
    cluster.reshard(3);
    assert_eq!(cluster.index().marks.next, Some(partition(6, 1)));
    cluster.switch();
    let index = cluster.index();
    assert_eq!((index.marks.next, index.placed_as()), (None, 3));
    cluster.settle();
    assert_eq!(cluster.index().marks.next, Some(partition(3, 2)));
    assert_eq!(cluster.switch(), Outcome::Done);
    cluster.settle();
    let index = cluster.index();
    assert_eq!((index.shards, index.reshard), (3, None));
}

#[test]
fn a_resharding_that_is_given_up_goes_back() {
    let cluster = Cluster::new();
    assert_eq!(cluster.abandon(), Outcome::Topology(TopologyRefusal::NoReshard));
    cluster.reshard(3);
    assert_eq!(cluster.abandon(), Outcome::Done);
    let index = cluster.index();
    assert_eq!((index.marks, index.reshard), (Marks::first(2), None));
    // Marks of the first try may be left: the second one's are others.
    cluster.reshard(3);
    assert_eq!(cluster.index().marks.next, Some(partition(6, 2)));
    cluster.switch();
    assert_eq!(cluster.abandon(), Outcome::Done);
    assert_eq!(cluster.abandon(), Outcome::Unchanged);
    cluster.settle();
    assert_eq!(cluster.index().marks.next, Some(partition(2, 3)));
    cluster.switch();
    cluster.settle();
    let index = cluster.index();
    assert_eq!((index.shards, index.reshard), (2, None));
}

#[test]
fn an_index_takes_its_partition_with_it() {
    let cluster = Cluster::new();
    cluster.reshard(4);
    let uid = cluster.index().uid;
    let mut tx = Tx::new(&cluster.engine);
    indexes::remove(&mut tx, &uid).unwrap();
    assert_eq!(get(&tx, &uid).unwrap(), PartitionRecord::default());
}
