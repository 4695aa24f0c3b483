//! What goes wrong with the pods of a cluster and between them, and when it is put right again.
//! A pod that is alone is crashed by [`crate::faults`].

use crate::dice::Dice;
use crate::peer_network::Partition;
use crate::plan::{Plan, Weather};
use crate::without::Kind;

/// How long a pod that is to stop has for handing over.
pub const DRAIN_MS: u64 = 6_000;

/// Something that goes wrong with a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodFault {
    /// Its process dies.
    Crash(usize),
    /// It is cut off from the other pods; it still reaches the nodes.
    Partition(usize, Partition),
    /// It stands still: none of its messages moves.
    Stall(usize),
    /// All processes die at once.
    CrashAll,
    /// It is told to stop, and hands over first.
    Drain(usize),
    /// Its process dies and its disk is gone.
    LoseDisk(usize),
    /// It is cut off and joined again, over and over.
    Flap(usize),
    /// All are told to stop and started again, one after the other.
    Roll,
    /// Its journal's disk has no space.
    FillDisk(usize),
    /// A byte of its journal is not what was written.
    Damage(usize),
}

/// What puts it right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodRecovery {
    /// Its process starts.
    Start(usize),
    /// It reaches the other pods again.
    Join(usize),
    /// It goes on.
    GoOn(usize),
    /// A drained pod's process ends.
    Stop(usize),
    /// Its disk has space again.
    FreeDisk(usize),
    /// No recovery, but what follows of the fault: it is cut off again.
    CutAgain(usize),
    /// Likewise: the next one is told to stop.
    DrainNext(usize),
}

/// What the choice depends on.
#[derive(Clone, Debug, Default)]
pub struct PodsNow {
    /// Pods that are in service.
    pub running: Vec<usize>,
    /// Whether any one of them could lose its disk without a loss of what was acknowledged.
    pub disk_may_go: bool,
}

/// The pod faults of one run, from dice of their own.
#[derive(Debug)]
pub struct PodFaults {
    plan: Plan,
    dice: Dice,
    next_at_ms: u64,
    recoveries: Vec<(u64, PodRecovery)>,
    disk_lost: bool,
    /// Faults chosen so far.
    count: u64,
}

impl PodFaults {
    /// The pod faults of `plan`.
    pub fn new(plan: &Plan) -> Self {
        let dice = Dice::new(plan.seed, "pod faults");
        let next_at_ms = dice.between(500, 15_000);
        let recoveries = Vec::new();
        Self { plan: plan.clone(), dice, next_at_ms, recoveries, disk_lost: false, count: 0 }
    }

    /// The recoveries that are due, earliest first.
    pub fn due_recoveries(&mut self, now_ms: u64) -> Vec<PodRecovery> {
        let mut due: Vec<(u64, PodRecovery)> =
            self.recoveries.extract_if(.., |(at, _)| *at <= now_ms).collect();
        due.sort_by_key(|(at, _)| *at);
        due.into_iter().map(|(_, recovery)| recovery).collect()
    }

    /// Every recovery that has not come yet, for healing.
    pub fn all_recoveries(&mut self) -> Vec<PodRecovery> {
        self.due_recoveries(u64::MAX)
    }

    /// Faults that were chosen, left out or not.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The next fault, when it is due.
    pub fn due_fault(&mut self, now_ms: u64, pods: &PodsNow) -> Option<PodFault> {
        let waiting = self.recoveries.len();
        let fault = self.choose(now_ms, pods)?;
        self.count += 1;
        if self.plan.without.leaves_out(Kind::PodFault, self.count - 1) {
            self.recoveries.truncate(waiting);
            return None;
        }
        Some(fault)
    }

    fn choose(&mut self, now_ms: u64, pods: &PodsNow) -> Option<PodFault> {
        let suffers = matches!(self.plan.weather, Weather::Pods | Weather::Storm);
        if self.plan.pods < 2 || !suffers || now_ms < self.next_at_ms {
            return None;
        }
        let pause = self.plan.fault_pause_ms.max(2_000) * 2;
        self.next_at_ms = now_ms + self.dice.between(pause / 4, pause * 2);
        let pod = *self.dice.pick(&pods.running)?;
        if !self.disk_lost && self.plan.loses_disks && pods.disk_may_go && self.dice.chance(400) {
            self.disk_lost = true;
            self.recover_in(now_ms, self.dice.between(500, 20_000), PodRecovery::Start(pod));
            return Some(PodFault::LoseDisk(pod));
        }
        let partition =
            self.dice.weighted(&[(Partition::Full, 3), (Partition::Mute, 1), (Partition::Deaf, 1)]);
        let choices = [
            (PodFault::Crash(pod), 6),
            (PodFault::Partition(pod, partition.unwrap_or(Partition::Full)), 6),
            (PodFault::Stall(pod), 3),
            (PodFault::CrashAll, 1),
            (PodFault::Drain(pod), 3),
        ];
        let fault = match self.plan.more_pod_faults && self.dice.chance(350) {
            true => {
                let damage = if pods.disk_may_go && !self.disk_lost { 3 } else { 0 };
                self.dice.weighted(&[
                    (PodFault::Flap(pod), 3),
                    (PodFault::Roll, 2),
                    (PodFault::FillDisk(pod), 2),
                    (PodFault::Damage(pod), damage),
                ])?
            }
            false => self.dice.weighted(&choices)?,
        };
        match fault {
            PodFault::Flap(pod) => {
                let mut at = 0;
                for _ in 0..self.dice.between(2, 6) {
                    at += self.dice.between(100, 4_000);
                    self.recover_in(now_ms, at, PodRecovery::Join(pod));
                    at += self.dice.between(100, 4_000);
                    self.recover_in(now_ms, at, PodRecovery::CutAgain(pod));
                }
                self.recover_in(now_ms, at + 1_000, PodRecovery::Join(pod));
            }
            PodFault::Roll => {
                let mut at = 0;
                for pod in 0..self.plan.pods {
                    self.recover_in(now_ms, at, PodRecovery::DrainNext(pod));
                    self.recover_in(now_ms, at + DRAIN_MS, PodRecovery::Stop(pod));
                    let away = DRAIN_MS + self.dice.between(50, 2_000);
                    self.recover_in(now_ms, at + away, PodRecovery::Start(pod));
                    at += away + self.dice.between(500, 6_000);
                }
            }
            PodFault::FillDisk(pod) => {
                let length = self.dice.between(500, 30_000);
                self.recover_in(now_ms, length, PodRecovery::FreeDisk(pod));
            }
            // One pod's alone: the other copy is all there is of what it spoils.
            PodFault::Damage(_) => self.disk_lost = true,
            PodFault::Crash(_) | PodFault::LoseDisk(_) => {
                let length = match self.dice.chance(500) {
                    true => self.dice.between(50, 3_000),
                    false => self.dice.between(2_000, 40_000),
                };
                self.recover_in(now_ms, length, PodRecovery::Start(pod));
            }
            PodFault::Partition(..) => {
                let length = self.dice.between(1_000, 60_000);
                self.recover_in(now_ms, length, PodRecovery::Join(pod));
            }
            PodFault::Stall(_) => {
                let length = self.dice.between(300, 15_000);
                self.recover_in(now_ms, length, PodRecovery::GoOn(pod));
            }
            PodFault::CrashAll => {
                for pod in 0..self.plan.pods {
                    let length = self.dice.between(100, 5_000);
                    self.recover_in(now_ms, length, PodRecovery::Start(pod));
                }
            }
            PodFault::Drain(_) => {
                self.recover_in(now_ms, DRAIN_MS, PodRecovery::Stop(pod));
                let length = DRAIN_MS + self.dice.between(50, 10_000);
                self.recover_in(now_ms, length, PodRecovery::Start(pod));
            }
        }
        Some(fault)
    }

    fn recover_in(&mut self, now_ms: u64, length_ms: u64, recovery: PodRecovery) {
        self.recoveries.push((now_ms + length_ms, recovery));
    }
}
