//! What a seed makes of the world: its size, its workload, its weather.

use std::time::Duration;

use miroir_actors::task_pruner::TaskRetention;
use miroir_storage::ids::{GroupId, NodeId};

use crate::dice::Dice;
use crate::network::FaultRates;
use crate::peer_network::PeerRates;
use crate::without::Without;

/// Longer than fire, rest and quiet together.
const RETENTION_SHORT: Duration = Duration::from_secs(3600);

/// Worlds of seeds below this are as they were when the corpus began, so that it stays worth its
/// name; later ones have more in them.
pub const SEEDS_KEPT: u64 = 10_000;
/// From here on operators change the topology in most worlds.
pub const SEEDS_MOVING: u64 = 40_000;
/// From here on they also change numbers of shards.
pub const SEEDS_RESHARDING: u64 = 50_000;
/// Of later worlds: with the quiet time that follows, 300 s and more.
const FIRE_MS_MIN: u64 = 155_000;
/// Of later worlds.
const FAULTS_MIN: u64 = 5;

/// Pods at most.
const PODS_MAX: usize = 7;

/// What clients like to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Habit {
    /// Whole documents and partial updates of few ids.
    Documents,
    /// Deletions of every kind between additions.
    Deletions,
    /// Settings between writes that depend on them.
    Settings,
    /// Indexes come, go and change names.
    Indexes,
    /// Everything.
    Everything,
    /// Very few documents, written again and again, half of them partly.
    HotDocuments,
    /// Many names; most operations make, delete and swap indexes.
    ManyIndexes,
    /// Deletions by filter between settings that allow and forbid them.
    FilterDeletions,
}

/// How bad the faults are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    /// None.
    Calm,
    /// Single messages go wrong.
    Messages,
    /// Nodes and links go down.
    Nodes,
    /// The pod crashes.
    Pods,
    /// All of it.
    Storm,
}

/// One world. Everything follows from the seed.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// Pods; of their own dice, so that all else about a seed is as with one.
    pub pods: usize,
    /// How often messages between pods go wrong.
    pub peer_rates: PeerRates,
    /// Replica groups.
    pub groups: u32,
    /// Nodes in each.
    pub nodes_per_group: usize,
    /// Copies in each.
    pub replication_factor: usize,
    /// Shards of every index.
    pub shards: u32,
    /// Client names of indexes.
    pub names: Vec<String>,
    /// Different document ids.
    pub ids: u64,
    /// Clients that write side by side.
    pub clients: u64,
    /// Writes of each.
    pub operations: u64,
    /// Longest pause between two writes of a client, milliseconds.
    pub pause_ms_max: u64,
    /// What they do.
    pub habit: Habit,
    /// What goes wrong.
    pub weather: Weather,
    /// How often messages go wrong.
    pub rates: FaultRates,
    /// Time between larger faults, milliseconds.
    pub fault_pause_ms: u64,
    /// Nodes may lose their disks.
    pub loses_disks: bool,
    /// Somebody else changes nodes' settings.
    pub changes_settings: bool,
    /// Operators have actors started again.
    pub restarts_actors: bool,
    /// Operators add, drain and remove nodes.
    pub moves: bool,
    /// Operators change indexes' numbers of shards.
    pub reshards: bool,
    /// Somebody else changes documents on a node, once all is at rest.
    pub changes_documents: bool,
    /// How long ended tasks are kept; longer than a run takes to come to rest.
    pub retention: TaskRetention,
    /// Requests may arrive here after their senders gave up.
    pub late_node: Option<NodeId>,
    /// Clients that only read; of their own dice.
    pub readers: u64,
    /// Clients write and read in sessions; likewise.
    pub sessions: bool,
    /// Clients send nearly all writes under idempotency keys, and again after clear answers.
    pub insists: bool,
    /// Pods that start when the others have long formed the cluster.
    pub late_pods: usize,
    /// Pods' wall clocks are days apart.
    pub skews_clocks: bool,
    /// Pods also flap, are restarted one after the other, run out of disk, find damage.
    pub more_pod_faults: bool,
    /// Virtual time under fire at least, milliseconds, also when clients are done.
    pub fire_ms_min: u64,
    /// Faults at least, if they come within the time under fire at most.
    pub faults_min: u64,
    /// What is left out of the world.
    pub without: Without,
    /// Longest usual batch of a node, milliseconds.
    pub batch_ms_max: u64,
}

impl Plan {
    /// The plan of `seed`.
    pub fn new(seed: u64) -> Self {
        let plan = Self::base(seed);
        if seed < SEEDS_KEPT { plan } else { plan.grown() }
    }

    /// The same world, longer, with readers, sessions, more generators and more kinds of faults.
    fn grown(self) -> Self {
        let dice = Dice::new(self.seed, "grown");
        let habits = [
            (self.habit, 5),
            (Habit::HotDocuments, 2),
            (Habit::ManyIndexes, 2),
            (Habit::FilterDeletions, 2),
        ];
        let habit = dice.weighted(&habits).unwrap_or(self.habit);
        let weather = match self.weather {
            Weather::Calm => Weather::Nodes,
            other => other,
        };
        let (names, ids) = match habit {
            Habit::HotDocuments => (self.names.len().min(2), dice.between(1, 5)),
            Habit::ManyIndexes => (dice.between(4, 7) as usize, self.ids.min(12)),
            _ => (self.names.len(), self.ids),
        };
        let names = ["a", "b", "c", "d", "e", "f", "g"].into_iter().take(names);
        let clients = dice.between(2, 4);
        // An hour of several pods' gossip takes longer than all the rest.
        let retention = match self.pods > 1 && dice.chance(800) {
            true => TaskRetention::default(),
            false => self.retention,
        };
        let prunes = retention.time == RETENTION_SHORT;
        let late = dice.weighted(&[(0, 3), (1, 2), (2, 1)]).unwrap_or(0) as usize;
        Self {
            habit,
            weather,
            names: names.map(str::to_owned).collect(),
            ids,
            clients,
            operations: dice.between(200, 280).div_ceil(clients),
            pause_ms_max: dice.weighted(&[(300, 2), (1500, 3), (4000, 3)]).unwrap_or(1500),
            fire_ms_min: FIRE_MS_MIN,
            faults_min: FAULTS_MIN,
            readers: dice.weighted(&[(0, 2), (1, 5), (3, 1)]).unwrap_or(0),
            sessions: dice.chance(600),
            insists: dice.chance(200),
            late_pods: late.min(self.pods.saturating_sub(1)),
            // What is a matter of days can't be told within an hour then.
            skews_clocks: dice.chance(400) && !prunes,
            more_pod_faults: true,
            retention,
            ..self
        }
    }

    /// The plan as it was when the corpus began.
    fn base(seed: u64) -> Self {
        let dice = Dice::new(seed, "plan");
        let groups = dice.weighted(&[(1, 6), (2, 3)]).unwrap_or(1);
        let replication_factor = dice.weighted(&[(1, 2), (2, 5), (3, 2)]).unwrap_or(2) as usize;
        let nodes_per_group = replication_factor + dice.between(0, 2) as usize;
        let habits = [
            (Habit::Documents, 3),
            (Habit::Deletions, 3),
            (Habit::Settings, 3),
            (Habit::Indexes, 3),
            (Habit::Everything, 3),
        ];
        let weathers = [
            (Weather::Calm, 1),
            (Weather::Messages, 3),
            (Weather::Nodes, 3),
            (Weather::Pods, 3),
            (Weather::Storm, 4),
        ];
        let weather = dice.weighted(&weathers).unwrap_or(Weather::Storm);
        // With a single copy a late request does harm that nothing can make up for yet.
        let comes_late = dice.chance(400) && groups * replication_factor as u32 > 1;
        let scale = dice.between(1, 4);
        let rates = match weather {
            Weather::Calm | Weather::Nodes | Weather::Pods => FaultRates::default(),
            Weather::Messages | Weather::Storm => FaultRates {
                lost_request: scale * dice.between(0, 12),
                late_request: if comes_late { scale * dice.between(1, 12) } else { 0 },
                lost_answer: scale * dice.between(0, 12),
                broken_answer: scale * dice.between(0, 12),
                error_before: scale * dice.between(0, 8),
                error_after: scale * dice.between(0, 8),
                garbage: scale * dice.between(0, 5),
            },
        };
        let names = dice.between(1, 3);
        let of_pods = Dice::new(seed, "pods");
        let pods = of_pods.weighted(&[(1, 50), (2, 10), (3, 34), (5, 6)]).unwrap_or(1);
        let peer_rates = match weather {
            Weather::Calm | Weather::Nodes | Weather::Pods => PeerRates::default(),
            Weather::Messages | Weather::Storm => PeerRates {
                broken_call: of_pods.between(0, 10),
                broken_answer: of_pods.between(0, 10),
                lost_answer: of_pods.between(0, 10),
                slow: of_pods.between(0, 30),
                lost_datagram: of_pods.between(0, 150),
                doubled_datagram: of_pods.between(0, 50),
            },
        };
        Self {
            seed,
            pods,
            peer_rates,
            groups,
            nodes_per_group,
            replication_factor,
            shards: dice.weighted(&[(1, 1), (4, 3), (8, 3), (16, 1)]).unwrap_or(8),
            names: ["a", "b", "c"].into_iter().take(names as usize).map(str::to_owned).collect(),
            ids: dice.between(4, 40),
            clients: dice.between(1, 3),
            operations: dice.between(10, 40),
            pause_ms_max: dice.weighted(&[(20, 2), (300, 3), (3000, 2)]).unwrap_or(300),
            habit: dice.weighted(&habits).unwrap_or(Habit::Everything),
            weather,
            rates,
            fault_pause_ms: dice.between(500, 12_000),
            loses_disks: dice.chance(400),
            late_node: comes_late.then(|| {
                let node = dice.between(0, nodes_per_group as u64 - 1);
                node_id(dice.between(0, u64::from(groups) - 1) as u32, node as usize)
            }),
            changes_settings: Dice::new(seed, "drift").chance(250),
            restarts_actors: Dice::new(seed, "operators").chance(250),
            reshards: seed >= SEEDS_RESHARDING && Dice::new(seed, "reshards").chance(850),
            changes_documents: seed >= SEEDS_RESHARDING && Dice::new(seed, "vandals").chance(300),
            moves: seed >= SEEDS_MOVING && Dice::new(seed, "moves").chance(800),
            retention: match Dice::new(seed, "retention").chance(150) {
                true => TaskRetention { time: RETENTION_SHORT, ..TaskRetention::default() },
                false => TaskRetention::default(),
            },
            readers: 0,
            sessions: false,
            insists: false,
            late_pods: 0,
            skews_clocks: false,
            more_pod_faults: false,
            fire_ms_min: 0,
            faults_min: 0,
            without: Without::default(),
            batch_ms_max: dice.weighted(&[(5, 2), (60, 3), (2000, 1)]).unwrap_or(60),
        }
    }

    /// The same world with another number of pods.
    #[must_use]
    pub fn with_pods(self, pods: usize) -> Self {
        let pods = pods.clamp(1, PODS_MAX);
        Self { pods, late_pods: self.late_pods.min(pods - 1), ..self }
    }

    /// Every node with its group.
    pub fn nodes(&self) -> Vec<(NodeId, GroupId)> {
        (0..self.groups)
            .flat_map(|group| {
                (0..self.nodes_per_group).map(move |n| (node_id(group, n), GroupId(group)))
            })
            .collect()
    }

    /// Nodes that may join under fire: one more for each group, and a group of its own.
    pub fn spares(&self) -> Vec<(NodeId, GroupId)> {
        if !self.moves {
            return Vec::new();
        }
        let more = (0..self.groups).map(|group| (group, self.nodes_per_group));
        let new_group = (0..self.replication_factor).map(|n| (self.groups, n));
        more.chain(new_group).map(|(group, n)| (node_id(group, n), GroupId(group))).collect()
    }

    /// Every node that there is in the world, in the cluster or not.
    pub fn all_nodes(&self) -> Vec<NodeId> {
        self.nodes().into_iter().chain(self.spares()).map(|(id, _)| id).collect()
    }

    /// Whether old tasks are removed within a run.
    pub fn prunes(&self) -> bool {
        self.retention.time == RETENTION_SHORT
    }

    /// Copies of each document.
    pub fn copies(&self) -> usize {
        self.groups as usize * self.replication_factor
    }

    /// A pause between two writes.
    pub fn pause(&self, dice: &Dice) -> Duration {
        dice.millis(0, self.pause_ms_max)
    }
}

fn node_id(group: u32, n: usize) -> NodeId {
    NodeId(format!("node-{group}{n}"))
}
