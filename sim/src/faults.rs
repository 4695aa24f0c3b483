//! What goes wrong with nodes, links and pods, and when it is put right again.

use std::time::Duration;

use miroir_actors::rebalancer::plan::distance;
use miroir_storage::ids::{NodeId, ShardId};
use miroir_storage::routing::{IndexRouting, Routing};
use miroir_storage::tables::indexes::in_sync_of;

use crate::dice::Dice;
use crate::invariants::everything_is_in_sync::out_of_sync;
use crate::network::Link;
use crate::plan::{Plan, SEEDS_MOVING, Weather};
use crate::without::Kind;

/// After a node has lost its disk no other node is touched for this long: rule 1 holds only
/// while one in-sync replica keeps its disk, and the pod must first notice.
const DISK_LOSS_QUIET_MS: u64 = 90_000;

/// Time between two changes of a node's settings by somebody else, about.
const STRANGER_PAUSE_MS: u64 = 2_000;

/// Time between two restarts of actors by hand, about.
const OPERATOR_PAUSE_MS: u64 = 5_000;

/// Something that goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The node's process dies.
    CrashNode(NodeId),
    /// The link refuses or hangs.
    CutLink(NodeId, Link),
    /// Batches take this many times longer.
    SlowNode(NodeId, u64),
    /// Tasks fail for lack of space.
    FillDisk(NodeId),
    /// The node comes back empty.
    LoseDisk(NodeId),
    /// The node comes back with an earlier copy of its disk.
    RestoreDisk(NodeId),
    /// Somebody with the node's key changes an index's settings there.
    ChangeSettings(NodeId),
    /// An operator has the actor at this place of the pod's inventory, counted around, started again.
    RestartActor(u64),
    /// The pod's process dies.
    CrashPod,
}

/// What puts a fault right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// The node's process starts again.
    RestartNode(NodeId),
    /// The link carries messages again.
    OpenLink(NodeId),
    /// Batches take their usual time.
    SpeedUp(NodeId),
    /// There is space again.
    FreeDisk(NodeId),
    /// The pod's process starts again.
    StartPod,
}

/// The faults of one run, from the seed.
#[derive(Debug)]
pub struct Faults {
    plan: Plan,
    dice: Dice,
    next_at_ms: u64,
    recoveries: Vec<(u64, Recovery)>,
    disk_lost_at_ms: Option<u64>,
    /// Faults chosen so far.
    count: u64,
    /// Of their own, so that they leave a seed's other faults as they are.
    strangers: Dice,
    stranger_at_ms: u64,
    /// Of their own, too.
    operators: Dice,
    operator_at_ms: u64,
}

impl Faults {
    /// The faults of `plan`.
    pub fn new(plan: &Plan) -> Self {
        let dice = Dice::new(plan.seed, "faults");
        let next_at_ms = dice.between(0, plan.fault_pause_ms);
        let recoveries = Vec::new();
        let strangers = Dice::new(plan.seed, "strangers");
        let stranger_at_ms = strangers.between(0, STRANGER_PAUSE_MS);
        let operators = Dice::new(plan.seed, "operators");
        let operator_at_ms = operators.between(0, OPERATOR_PAUSE_MS);
        Self {
            plan: plan.clone(),
            dice,
            next_at_ms,
            recoveries,
            disk_lost_at_ms: None,
            count: 0,
            strangers,
            stranger_at_ms,
            operators,
            operator_at_ms,
        }
    }

    /// The recoveries that are due.
    pub fn due_recoveries(&mut self, now_ms: u64) -> Vec<Recovery> {
        let due = self.recoveries.extract_if(.., |(at, _)| *at <= now_ms);
        due.map(|(_, recovery)| recovery).collect()
    }

    /// Every recovery that has not come yet, for healing.
    pub fn all_recoveries(&mut self) -> Vec<Recovery> {
        self.recoveries.drain(..).map(|(_, recovery)| recovery).collect()
    }

    /// Faults that were chosen, left out or not.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Whether a disk was lost a moment ago.
    pub fn is_quiet(&self, now_ms: u64) -> bool {
        self.disk_lost_at_ms.is_some_and(|at| now_ms < at + DISK_LOSS_QUIET_MS)
    }

    /// What somebody else does to a node, when it is due.
    pub fn due_stranger(&mut self, now_ms: u64) -> Option<Fault> {
        if !self.plan.changes_settings || now_ms < self.stranger_at_ms {
            return None;
        }
        self.stranger_at_ms = now_ms + self.strangers.between(50, STRANGER_PAUSE_MS * 2);
        let nodes: Vec<NodeId> = self.plan.all_nodes();
        self.strangers.pick(&nodes).cloned().map(Fault::ChangeSettings)
    }

    /// What an operator does to the pod, when it is due.
    pub fn due_operator(&mut self, now_ms: u64) -> Option<Fault> {
        if !self.plan.restarts_actors || now_ms < self.operator_at_ms {
            return None;
        }
        self.operator_at_ms = now_ms + self.operators.between(50, OPERATOR_PAUSE_MS * 2);
        Some(Fault::RestartActor(self.operators.between(0, u64::from(u32::MAX))))
    }

    /// The next fault, when it is due. `routing` is the pod's view, if it runs.
    pub fn due_fault(&mut self, now_ms: u64, routing: Option<&Routing>) -> Option<Fault> {
        if now_ms < self.next_at_ms {
            return None;
        }
        let pause = self.plan.fault_pause_ms;
        self.next_at_ms = now_ms + self.dice.between(pause / 4, pause * 2);
        let fault = self.choose(now_ms, routing)?;
        self.count += 1;
        let left_out = self.plan.without.leaves_out(Kind::Fault, self.count - 1);
        let length_ms = match self.dice.between(0, 3) {
            0 => self.dice.between(1, 800),
            1 => self.dice.between(500, 8_000),
            2 => self.dice.between(5_000, 30_000),
            _ => self.dice.between(20_000, 70_000),
        };
        let recovery = match &fault {
            Fault::CrashNode(node) => Some(Recovery::RestartNode(node.clone())),
            Fault::CutLink(node, _) => Some(Recovery::OpenLink(node.clone())),
            Fault::SlowNode(node, _) => Some(Recovery::SpeedUp(node.clone())),
            Fault::FillDisk(node) => Some(Recovery::FreeDisk(node.clone())),
            Fault::LoseDisk(_)
            | Fault::RestoreDisk(_)
            | Fault::ChangeSettings(_)
            | Fault::RestartActor(_) => None,
            Fault::CrashPod => Some(Recovery::StartPod),
        };
        if left_out {
            return None;
        }
        self.recoveries.extend(recovery.map(|recovery| (now_ms + length_ms, recovery)));
        Some(fault)
    }

    fn choose(&mut self, now_ms: u64, routing: Option<&Routing>) -> Option<Fault> {
        let (of_nodes, of_pods) = match self.plan.weather {
            Weather::Calm | Weather::Messages => return None,
            Weather::Nodes => (1, 0),
            Weather::Pods => (0, 1),
            Weather::Storm => (3, 1),
        };
        let nodes: Vec<NodeId> = self.plan.all_nodes();
        let quiet = self.is_quiet(now_ms);
        let node = self.dice.pick(&nodes).cloned()?;
        if self.dice.weighted(&[(true, of_pods), (false, of_nodes)]).unwrap_or(false) {
            // Several pods have faults of their own.
            return (routing.is_some() && self.plan.pods == 1).then_some(Fault::CrashPod);
        }
        if quiet {
            return None;
        }
        if self.plan.loses_disks
            && self.disk_lost_at_ms.is_none()
            && self.recoveries.is_empty()
            && self.plan.copies() > 1
            && routing.is_some_and(all_in_sync_twice)
            && self.dice.chance(300)
        {
            self.disk_lost_at_ms = Some(now_ms);
            let is_old = self.plan.seed >= SEEDS_MOVING && self.dice.chance(500);
            return Some(match is_old {
                true => Fault::RestoreDisk(node),
                false => Fault::LoseDisk(node),
            });
        }
        self.dice
            .pick(&[
                Fault::CrashNode(node.clone()),
                Fault::CrashNode(node.clone()),
                Fault::CutLink(node.clone(), Link::Refusing),
                Fault::CutLink(node.clone(), Link::Hanging),
                Fault::SlowNode(node.clone(), self.dice.between(5, 200)),
                Fault::FillDisk(node),
            ])
            .cloned()
    }

    /// Between two looks at what is due.
    pub const LOOK: Duration = Duration::from_millis(50);
}

/// Whether every replica is in sync, none is the only one, and none moves.
fn all_in_sync_twice(routing: &Routing) -> bool {
    let is_twice = |index: &IndexRouting| {
        (0..index.shards).all(|shard| in_sync_of(&index.groups, ShardId(shard)).len() > 1)
    };
    out_of_sync(routing).is_empty()
        && distance(routing).is_none()
        && routing.by_uid.values().all(|index| is_twice(index))
}
