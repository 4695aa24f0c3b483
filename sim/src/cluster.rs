//! The world of one run: nodes, pods, networks, and what is known of them.
//!
//! What must hold at every moment is checked against the pod that has applied most: a pod that is
//! behind shows an earlier moment.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use miroir_actors::pod::PodContext;
use miroir_seams::Tasks;
use miroir_storage::commands::Command;
use miroir_storage::ids::{IndexUid, NodeId};
use miroir_storage::routing::Routing;
use miroir_storage::tables::tasks::TaskRecord;

use crate::dice::Dice;
use crate::disk::PodDisk;
use crate::entrance::Entrances;
use crate::expected::Expected;
use crate::faults::{Fault, Recovery};
use crate::history::{History, Sent};
use crate::invariants::payloads_are_twice::PayloadsAreTwice;
use crate::invariants::settings_hold::Held;
use crate::invariants::statuses_are_final::StatusesAreFinal;
use crate::invariants::{self, Violation, outcomes_are_expected, pods_agree};
use crate::ledger::Ledger;
use crate::model_node::{ModelNode, NodeTraits};
use crate::network::{Link, Network};
use crate::operation::Operation;
use crate::peer_network::{Partition, PeerNetwork};
use crate::plan::{Plan, SEEDS_MOVING};
use crate::pod::{PodWorld, RunningPod};
use crate::pod_faults::{PodFault, PodRecovery, PodsNow};
use crate::reader::{Reading, Reads};
use crate::task_list::TaskList;
use crate::trace::Trace;

/// Between two looks into the nodes under fire, which cost more.
const LOOK_INSIDE_EVERY_MS: u64 = 1000;

/// A pod and its disk.
#[derive(Debug, Default)]
struct Slot {
    disk: PodDisk,
    running: Option<RunningPod>,
    starts: u64,
    /// Clients reach it.
    is_open: bool,
    /// It was told to stop, and no more than that.
    drains: bool,
}

/// A pod that serves.
#[derive(Clone, Debug)]
pub(crate) struct Serving {
    /// Its number.
    pub(crate) number: usize,
    /// Its parts.
    pub(crate) context: Arc<PodContext>,
}

/// Everything in a run.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) plan: Plan,
    pub(crate) trace: Trace,
    pub(crate) nodes: BTreeMap<NodeId, ModelNode>,
    pub(crate) network: Arc<Network>,
    pub(crate) peers: Arc<PeerNetwork>,
    pub(crate) entrances: Entrances,
    pub(crate) history: History,
    pub(crate) violations: Vec<Violation>,
    world: PodWorld,
    pods: Vec<Slot>,
    dice: Dice,
    statuses: StatusesAreFinal,
    twice: PayloadsAreTwice,
    task_list: TaskList,
    seen: Option<Seen>,
    held: Held,
    /// Nodes that lost their disks: what they serve until the pod notices is excused.
    disk_lost: Arc<Mutex<BTreeSet<NodeId>>>,
    /// Documents that somebody else has changed.
    pub(crate) vandalized: BTreeMap<IndexUid, BTreeSet<String>>,
    /// What clients read.
    pub(crate) reads: Reads,
    looked_inside_ms: u64,
    /// The furthest entry that was ever looked at.
    observed: u64,
}

impl Cluster {
    pub(crate) fn new(plan: &Plan, trace: &Trace, world_tasks: &Tasks) -> Self {
        let dice = Dice::new(plan.seed, "cluster");
        let nodes: BTreeMap<NodeId, ModelNode> = plan
            .all_nodes()
            .into_iter()
            .map(|id| {
                // One that joins is of the newest version: what older ones lack is refused there.
                let joins = plan.spares().iter().any(|(spare, _)| *spare == id);
                let keeps_names = joins || dice.chance(600);
                let is_backed_up = plan.seed >= SEEDS_MOVING;
                let batch_ms_max = plan.batch_ms_max;
                let traits = NodeTraits { keeps_names, batch_ms_max, is_backed_up };
                let node =
                    ModelNode::start(id.clone(), traits, plan.seed, trace.clone(), world_tasks);
                (id, node)
            })
            .collect();
        let all: Vec<ModelNode> = nodes.values().cloned().collect();
        let network_dice = (Dice::new(plan.seed, "network"), Dice::new(plan.seed, "reads"));
        let network = Network::new(&all, network_dice, trace.clone(), world_tasks.clone());
        let peers = PeerNetwork::new(Dice::new(plan.seed, "peers"), world_tasks.clone());
        let world = PodWorld {
            plan: plan.clone(),
            network: network.clone(),
            peers: peers.clone(),
            ledger: Ledger::default(),
            trace: trace.clone(),
        };
        Self {
            plan: plan.clone(),
            trace: trace.clone(),
            nodes,
            network,
            peers,
            entrances: Entrances::default(),
            history: History::default(),
            violations: Vec::new(),
            world,
            pods: (0..plan.pods).map(|_| Slot::default()).collect(),
            dice,
            statuses: StatusesAreFinal::default(),
            twice: PayloadsAreTwice::default(),
            task_list: TaskList::default(),
            seen: None,
            held: Held::default(),
            disk_lost: Arc::default(),
            vandalized: BTreeMap::new(),
            reads: Reads::default(),
            looked_inside_ms: 0,
            observed: 0,
        }
    }

    pub(crate) fn violate(&mut self, property: &'static str, evidence: String) {
        self.violations.push(Violation { property, evidence });
    }

    /// Starts a pod, if it doesn't run.
    pub(crate) async fn start_pod(&mut self, number: usize) {
        let Some(slot) = self.pods.get_mut(number) else { return };
        if slot.running.is_some() {
            return;
        }
        slot.starts += 1;
        let starts = slot.starts;
        let seed = self.plan.seed.rotate_left(17) ^ starts ^ ((number as u64) << 40);
        let disk = slot.disk.clone();
        let seeds = self.seeds();
        match RunningPod::start(&self.world, number, seeds, &disk, seed).await {
            Ok(pod) => {
                self.trace.note(format_args!("pod-{number}"), format!("started, life {starts}"));
                if let Some(slot) = self.pods.get_mut(number) {
                    slot.running = Some(pod);
                }
            }
            Err(error) => self.violate("pods_start", error.to_string()),
        }
        self.look_after_pods();
    }

    /// What pods are told of others: all, or those that exist so far where some come late, as the
    /// name of a headless service has it.
    fn seeds(&self) -> Vec<usize> {
        let exists = |pod: &usize| self.pods.get(*pod).is_some_and(|slot| slot.starts > 0);
        let all = 0..self.pods.len();
        if self.plan.late_pods > 0 { all.filter(exists).collect() } else { all.collect() }
    }

    /// Starts every pod that doesn't run.
    pub(crate) async fn start_all(&mut self) {
        for number in 0..self.pods.len() {
            self.start_pod(number).await;
        }
    }

    /// Opens the entrances of pods that came to serve.
    pub(crate) fn look_after_pods(&mut self) {
        let mut failed = Vec::new();
        for (number, slot) in self.pods.iter_mut().enumerate() {
            let Some(pod) = &slot.running else { continue };
            if let Some(why) = pod.failure() {
                failed.push(format!("pod-{number}: {why}"));
            }
            if let (false, Some(entrance)) = (slot.is_open, pod.entrance()) {
                slot.is_open = true;
                self.entrances.set(number, Some(entrance));
                self.trace.note(format_args!("pod-{number}"), "serves");
            }
        }
        for evidence in failed {
            self.violate("pods_go_on", evidence);
        }
    }

    fn take_pod(&mut self, number: usize) -> Option<(RunningPod, PodDisk)> {
        let slot = self.pods.get_mut(number)?;
        let pod = slot.running.take()?;
        (slot.is_open, slot.drains) = (false, false);
        // It may have shown more since the last look, and the others are not to be taken for the newest.
        let shown = pod.context().map_or(0, |context| context.log.applied_index());
        self.observed = self.observed.max(shown);
        self.entrances.set(number, None);
        Some((pod, slot.disk.clone()))
    }

    async fn crash_pod(&mut self, number: usize) {
        if let Some((pod, disk)) = self.take_pod(number) {
            pod.crash(&self.world, &disk, &self.dice).await;
        }
    }

    /// The pods that serve.
    pub(crate) fn serving(&self) -> Vec<Serving> {
        let pods = (0..).zip(&self.pods);
        pods.filter_map(|(number, slot)| {
            let context = slot.running.as_ref()?.context()?;
            Some(Serving { number, context })
        })
        .collect()
    }

    /// The pod that has applied most, if that is no less than was ever looked at.
    pub(crate) fn most_advanced(&self) -> Option<Serving> {
        let applied = |pod: &Serving| pod.context.log.applied_index();
        let best = self.serving().into_iter().rev().max_by_key(applied)?;
        (applied(&best) >= self.observed).then_some(best)
    }

    /// The newest routing, if a pod serves.
    pub(crate) fn routing(&self) -> Option<Arc<Routing>> {
        Some(self.most_advanced()?.context.log.routing())
    }

    /// Nodes that pods hold for down.
    pub(crate) fn down(&self) -> BTreeSet<NodeId> {
        let running = self.pods.iter().filter_map(|slot| slot.running.as_ref());
        running.flat_map(RunningPod::down).collect()
    }

    pub(crate) async fn suffer(&mut self, fault: Fault) {
        self.trace.note("fault", format!("{fault:?}"));
        match fault {
            Fault::CrashPod => self.crash_pod(0).await,
            Fault::RestartActor(place) => {
                let mut running = self.pods.iter().filter_map(|slot| slot.running.as_ref());
                if let Some(pod) = running.next() {
                    pod.restart_actor(place, &self.trace);
                }
            }
            Fault::CutLink(node, link) => self.network.set_link(&node, link),
            Fault::CrashNode(node) => self.with_node(&node, ModelNode::crash),
            Fault::SlowNode(node, slowness) => {
                self.with_node(&node, |node| node.set_slowness(slowness));
            }
            Fault::FillDisk(node) => self.with_node(&node, |node| node.set_disk_full(true)),
            Fault::ChangeSettings(node) => self.with_node(&node, ModelNode::change_settings),
            Fault::RestoreDisk(node) => {
                self.disk_lost().insert(node.clone());
                self.with_node(&node, ModelNode::restore_backup);
            }
            Fault::LoseDisk(node) => {
                self.disk_lost().insert(node.clone());
                self.with_node(&node, ModelNode::lose_disk);
            }
        }
    }

    pub(crate) async fn recover(&mut self, recovery: Recovery) {
        self.trace.note("fault", format!("over: {recovery:?}"));
        match recovery {
            Recovery::StartPod => self.start_pod(0).await,
            Recovery::OpenLink(node) => self.network.set_link(&node, Link::Open),
            Recovery::RestartNode(node) => self.with_node(&node, ModelNode::restart),
            Recovery::SpeedUp(node) => self.with_node(&node, |node| node.set_slowness(1)),
            Recovery::FreeDisk(node) => self.with_node(&node, |node| node.set_disk_full(false)),
        }
    }

    pub(crate) async fn suffer_pod(&mut self, fault: PodFault) {
        self.trace.note("fault", format!("{fault:?}"));
        match fault {
            PodFault::Crash(pod) => self.crash_pod(pod).await,
            PodFault::Partition(pod, partition) => self.peers.set_partition(pod, Some(partition)),
            PodFault::Stall(pod) => self.peers.set_stalled(pod, true),
            PodFault::CrashAll => {
                for pod in 0..self.pods.len() {
                    self.crash_pod(pod).await;
                }
            }
            PodFault::Drain(pod) => self.begin_drain(pod),
            PodFault::Flap(pod) => self.peers.set_partition(pod, Some(Partition::Full)),
            // Each in its turn, by what follows.
            PodFault::Roll => {}
            PodFault::FillDisk(pod) => self.set_disk_full(pod, true),
            PodFault::Damage(pod) => {
                if let Some(slot) = self.pods.get(pod) {
                    slot.disk.damage(&self.dice);
                }
            }
            PodFault::LoseDisk(pod) => {
                self.crash_pod(pod).await;
                if let Some(slot) = self.pods.get_mut(pod) {
                    slot.disk = PodDisk::default();
                }
            }
        }
    }

    pub(crate) async fn recover_pod(&mut self, recovery: PodRecovery) {
        self.trace.note("fault", format!("over: {recovery:?}"));
        match recovery {
            PodRecovery::Start(pod) => self.start_pod(pod).await,
            PodRecovery::Join(pod) => self.peers.set_partition(pod, None),
            PodRecovery::CutAgain(pod) => {
                self.peers.set_partition(pod, Some(Partition::Full));
            }
            PodRecovery::DrainNext(pod) => self.begin_drain(pod),
            PodRecovery::FreeDisk(pod) => self.set_disk_full(pod, false),
            PodRecovery::GoOn(pod) => self.peers.set_stalled(pod, false),
            PodRecovery::Stop(pod) => {
                // Not when it crashed meanwhile, or has been started again since.
                if self.pods.get(pod).is_some_and(|slot| slot.drains)
                    && let Some((running, disk)) = self.take_pod(pod)
                {
                    running.stop(&self.world, &disk).await;
                }
            }
        }
    }

    /// Gives an order about the topology to a pod, whatever comes of it.
    pub(crate) fn order(&self, command: Command, world_tasks: &Tasks) {
        let Some(pod) = self.dice.pick(&self.serving()).map(|pod| pod.context.clone()) else {
            return;
        };
        let trace = self.trace.clone();
        trace.note("operator", format!("orders {command:?}"));
        world_tasks.spawn("order", async move {
            let answer = pod.log.propose(&command).await;
            trace.note("operator", format!("is told {answer:?}"));
        });
    }

    fn begin_drain(&mut self, pod: usize) {
        if let Some(slot) = self.pods.get_mut(pod)
            && let Some(running) = &slot.running
        {
            slot.drains = true;
            running.begin_drain();
        }
    }

    fn set_disk_full(&mut self, pod: usize, full: bool) {
        if let Some(slot) = self.pods.get(pod) {
            slot.disk.full.store(full, Ordering::Relaxed);
        }
    }

    /// What the choice of the next pod fault depends on.
    pub(crate) fn pods_now(&self) -> PodsNow {
        let running = self.serving().iter().map(|pod| pod.number).collect();
        PodsNow { running, disk_may_go: self.disk_may_go() }
    }

    /// Whether one disk can be lost: every pod serves, three or more vote, all agree, and every
    /// open payload is in two journals.
    fn disk_may_go(&self) -> bool {
        let serving = self.serving();
        let twice = self
            .tasks()
            .iter()
            .filter(|task| !task.ended())
            .all(|task| task.work.payload().is_none_or(|payload| payload.holders.len() > 1));
        twice
            && serving.len() == self.plan.pods
            && serving.iter().all(|pod| {
                pod.context.log.members().voters.len() >= 3 && pod.context.peers.now().copies == 2
            })
            && pods_agree::unsettled(&serving, self.plan.pods).is_none()
    }

    fn disk_lost(&self) -> MutexGuard<'_, BTreeSet<NodeId>> {
        self.disk_lost.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How clients read in this world.
    pub(crate) fn reading(&self) -> Reading {
        Reading {
            entrances: self.entrances.clone(),
            ledger: self.world.ledger.clone(),
            network: self.network.clone(),
            disk_lost: self.disk_lost.clone(),
            reads: self.reads.clone(),
            task_list: self.task_list.clone(),
            trace: self.trace.clone(),
        }
    }

    fn with_node(&self, node: &NodeId, act: impl FnOnce(&ModelNode)) {
        if let Some(node) = self.nodes.get(node) {
            act(node);
        }
    }

    pub(crate) async fn heal(&mut self) {
        self.network.heal();
        self.peers.heal();
        for node in self.nodes.values() {
            node.restart();
            node.set_slowness(1);
            node.set_disk_full(false);
        }
        for slot in &self.pods {
            slot.disk.full.store(false, Ordering::Relaxed);
        }
        self.start_all().await;
    }

    /// Every task, as the pod shows it that has applied most.
    pub(crate) fn tasks(&self) -> Vec<Arc<TaskRecord>> {
        let Some(pod) = self.most_advanced() else { return Vec::new() };
        self.task_list.of(&pod.context)
    }

    /// Why the pods are not yet as they must be at rest, if they aren't.
    pub(crate) fn unsettled(&self) -> Option<String> {
        pods_agree::unsettled(&self.serving(), self.plan.pods)
    }

    /// Checks what must hold at every moment. Not while no pod shows the newest state: its disk
    /// then shows less than it will after recovery.
    pub(crate) fn observe(&mut self) {
        self.look_after_pods();
        self.spare_the_last();
        self.violations.extend(self.world.ledger.found());
        for evidence in self.history.contradictions() {
            self.violate("a_key_has_one_task", evidence);
        }
        let Some(pod) = self.most_advanced() else { return };
        self.observed = pod.context.log.applied_index();
        let serving = self.serving();
        let now_ms = self.trace.now_ms();
        self.twice.follow(&serving, self.plan.pods, now_ms);
        // Most of the time nothing was applied since the last look.
        let mut seen = match self.seen.take() {
            Some(seen) if seen.applied == self.observed => seen,
            _ => self.look_at_tasks(&pod),
        };
        if now_ms >= self.looked_inside_ms + LOOK_INSIDE_EVERY_MS {
            self.looked_inside_ms = now_ms;
            self.violations.extend(pods_agree::check(&serving));
            let mut excused = self.network.served_late();
            excused.extend(self.disk_lost().iter().cloned());
            let made = seen.made.get_or_insert_with(|| {
                let (made, found) = Made::of(&seen.tasks, &self.history.all());
                self.violations.extend(found);
                made
            });
            let (routing, nodes) = (pod.context.log.routing(), &self.nodes);
            let visible = invariants::visible_when_succeeded::check;
            self.violations.extend(visible(&routing, made, nodes, &excused, &self.vandalized));
            let has_others = |(_, node): &(&NodeId, &ModelNode)| node.has_others_settings();
            excused.extend(nodes.iter().filter(has_others).map(|(id, _)| id.clone()));
            let hold = invariants::settings_hold::check;
            self.violations.extend(hold(&mut self.held, &routing, made, nodes, &excused));
        }
        self.seen = Some(seen);
    }

    /// Reads the tasks of this moment, and checks what depends on them alone.
    fn look_at_tasks(&mut self, pod: &Serving) -> Seen {
        let tasks = self.task_list.of(&pod.context);
        self.violations.extend(self.statuses.observe(&tasks));
        self.violations.extend(invariants::tasks_end_in_order::check(&tasks));
        if self.plan.pods > 2 {
            self.violations.extend(self.twice.check(&tasks, &self.history.all()));
        }
        Seen { applied: self.observed, tasks, made: None }
    }
}

/// The tasks once so much is applied.
#[derive(Debug)]
struct Seen {
    applied: u64,
    tasks: Vec<Arc<TaskRecord>>,
    made: Option<Made>,
}

/// What tasks make of the clients' world.
#[derive(Debug)]
pub(crate) struct Made {
    /// What the open ones are to do.
    pub(crate) open: Vec<Arc<Operation>>,
    /// What the ended ones have made.
    pub(crate) expected: Expected,
}

impl Made {
    /// And how they ended that should have ended otherwise.
    fn of(tasks: &[Arc<TaskRecord>], history: &BTreeMap<u64, Sent>) -> (Self, Vec<Violation>) {
        let (expected, found) = outcomes_are_expected::replay(tasks, history);
        let open = tasks.iter().filter(|task| !task.ended());
        let open =
            open.filter_map(|task| Some(invariants::sent_of(history, task)?.operation.clone()));
        (Self { open: open.collect(), expected }, found)
    }
}
