//! One run: a world under fire, then healed, then checked.
//!
//! 1. Clients write while faults come and go; what must hold at every moment is watched.
//! 2. Everything heals. Within `REST_MS_MAX` of virtual time all tasks must have ended and
//!    all replicas be in sync (liveness).
//! 3. After `QUIET_MS` of quiet, for audits to do their work (`DRIFT_QUIET_MS` where somebody
//!    changes settings), the same again; then everything that must hold at rest is checked.
//! 4. Where the plan says so, the retention of tasks passes, and they must be gone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use miroir_actors::accept::{AcceptError, RequestedWork, WriteMarks, WriteRequest, accept};
use miroir_actors::pod::PodContext;
use miroir_actors::{drift_checker, task_pruner};
use miroir_seams::Tasks;
use miroir_storage::commands::Work;
use miroir_storage::engine::{ALL_KEYS, Direction, Engine};
use miroir_storage::ids::NodeId;
use miroir_storage::tables::tasks::TaskRecord;
use miroir_storage::tables::{TASKS, records, tasks};

use crate::dice::Dice;
use crate::disk::PodDisk;
use crate::faults::{Fault, Faults, Recovery};
use crate::history::{Answer, History};
use crate::invariants::statuses_are_final::StatusesAreFinal;
use crate::invariants::{self, Violation, World, everything_is_in_sync, outcomes_are_expected};
use crate::model_node::{ModelNode, NodeTraits};
use crate::network::{Link, Network};
use crate::plan::Plan;
use crate::pod::RunningPod;
use crate::trace::Trace;
use crate::workload::Workload;

/// Virtual time under fire at most; clients that are not done by then stop.
const FIRE_MS_MAX: u64 = 400_000;
/// Virtual time in which a healed world must come to rest.
const REST_MS_MAX: u64 = 1_800_000;
/// Quiet time before the final checks.
const QUIET_MS: u64 = 150_000;
/// Quiet time within which settings that somebody changed must be repaired.
const DRIFT_QUIET_MS: u64 = drift_checker::INTERVAL.as_millis() as u64 + 30_000;
/// Within this a task whose time is over must be gone.
const PRUNED_WITHIN: Duration = task_pruner::INTERVAL.saturating_add(Duration::from_secs(60));
/// How long a client waits for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Between two observations under fire.
const OBSERVE_EVERY_MS: u64 = 200;
/// Between two looks into the nodes under fire, which cost more.
const LOOK_INSIDE_EVERY_MS: u64 = 1000;

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Report {
    /// What did not hold; empty when all did.
    pub violations: Vec<Violation>,
    /// Tasks in the log.
    pub tasks: usize,
    /// Virtual milliseconds.
    pub virtual_ms: u64,
}

/// The pod that clients reach at the moment.
type Entrance = Arc<Mutex<Option<Arc<PodContext>>>>;

struct Cluster {
    plan: Plan,
    trace: Trace,
    nodes: BTreeMap<NodeId, ModelNode>,
    network: Arc<Network>,
    disk: PodDisk,
    pod: Option<RunningPod>,
    entrance: Entrance,
    history: History,
    starts: u64,
    dice: Dice,
    statuses: StatusesAreFinal,
    violations: Vec<Violation>,
    /// Nodes that lost their disks: what they serve until the pod notices is excused.
    disk_lost: BTreeSet<NodeId>,
    looked_inside_ms: u64,
}

/// Runs the world of `plan`. Must be called on a current-thread runtime with a paused clock.
pub async fn run(plan: &Plan, trace: &Trace) -> Report {
    let world_tasks = Tasks::on_one_thread();
    let mut cluster = Cluster::new(plan, trace, &world_tasks);
    cluster.start_pod().await;
    let clients: Vec<_> = (0..plan.clients)
        .map(|client| {
            let (entrance, history) = (cluster.entrance.clone(), cluster.history.clone());
            let (plan, trace) = (plan.clone(), trace.clone());
            world_tasks.spawn("client", async move {
                write(&plan, client, &entrance, &history, &trace).await;
            })
        })
        .collect();
    let clients_done = || clients.iter().all(tokio::task::JoinHandle::is_finished);

    cluster.network.set_rates(plan.rates);
    if let Some(node) = &plan.late_node {
        cluster.network.set_late_node(node.clone());
    }
    let mut faults = Faults::new(plan);
    let mut observed_ms = 0;
    while !clients_done() && trace.now_ms() < FIRE_MS_MAX && cluster.violations.is_empty() {
        tokio::time::sleep(Faults::LOOK).await;
        let now_ms = trace.now_ms();
        for recovery in faults.due_recoveries(now_ms) {
            cluster.recover(recovery).await;
        }
        if let Some(fault) = faults.due_stranger(now_ms) {
            cluster.suffer(fault).await;
        }
        if let Some(fault) = faults.due_operator(now_ms) {
            cluster.suffer(fault).await;
        }
        let routing = cluster.pod.as_ref().map(|pod| pod.context.log.routing());
        if let Some(fault) = faults.due_fault(now_ms, routing.as_deref()) {
            cluster.suffer(fault).await;
        }
        if now_ms >= observed_ms + OBSERVE_EVERY_MS {
            observed_ms = now_ms;
            cluster.observe();
        }
    }

    trace.note("world", "heals");
    for recovery in faults.all_recoveries() {
        cluster.recover(recovery).await;
    }
    cluster.heal().await;
    if cluster.come_to_rest(&clients_done).await {
        if plan.changes_settings {
            // What only the drift check can find: nothing else happens any more.
            cluster.nodes.values().for_each(ModelNode::change_settings);
        }
        let quiet_ms = if plan.changes_settings { DRIFT_QUIET_MS } else { QUIET_MS };
        let quiet_until = trace.now_ms() + quiet_ms;
        while trace.now_ms() < quiet_until && cluster.violations.is_empty() {
            tokio::time::sleep(Duration::from_secs(1)).await;
            cluster.observe();
        }
        if cluster.come_to_rest(&clients_done).await {
            cluster.check_at_rest();
        }
    }
    let tasks = cluster.tasks().len();
    if plan.prunes() && cluster.violations.is_empty() {
        cluster.grow_old().await;
    }
    let report = Report {
        tasks,
        virtual_ms: trace.now_ms(),
        violations: std::mem::take(&mut cluster.violations),
    };
    for violation in &report.violations {
        trace.note("VIOLATED", violation);
    }
    world_tasks.end_all();
    report
}

/// One client: writes, remembers what it was told.
async fn write(plan: &Plan, client: u64, entrance: &Entrance, history: &History, trace: &Trace) {
    let workload = Workload::new(plan.clone(), client);
    let who = format!("client-{client}");
    let mut left = plan.operations;
    while left > 0 {
        tokio::time::sleep(plan.pause(workload.dice())).await;
        let open_to = || entrance.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(pod) = open_to() else {
            tokio::time::sleep(Duration::from_millis(500)).await;
            continue;
        };
        left -= 1;
        let operation = workload.next(history.next_number(), &history.acknowledged());
        let number = operation.number;
        trace.note(&who, operation.describe());
        let request = operation.to_write();
        history.send(operation, trace.now_ms());
        let answer = match request {
            Err(error) => {
                trace.note(&who, format!("op-{number} is no request: {}", error.message));
                Answer::Refused
            }
            Ok(request) => {
                match tokio::time::timeout(
                    ANSWER_TIMEOUT,
                    accept(&pod, request, WriteMarks::default()),
                )
                .await
                {
                    Ok(Ok(accepted)) => Answer::Acknowledged(accepted.uid),
                    Ok(Err(AcceptError::OutcomeUnknown)) | Err(_) => Answer::Unknown,
                    Ok(Err(_)) => Answer::Refused,
                }
            }
        };
        // A pod that died meanwhile answers nobody.
        let alive = open_to().is_some_and(|now| Arc::ptr_eq(&now, &pod));
        let answer = if alive { answer } else { Answer::Unknown };
        trace.note(&who, format!("op-{number} {answer:?}"));
        history.answer(number, answer, trace.now_ms());
    }
}

impl Cluster {
    fn new(plan: &Plan, trace: &Trace, world_tasks: &Tasks) -> Self {
        let dice = Dice::new(plan.seed, "cluster");
        let nodes: BTreeMap<NodeId, ModelNode> = plan
            .nodes()
            .into_iter()
            .map(|(id, _)| {
                let traits =
                    NodeTraits { keeps_names: dice.chance(600), batch_ms_max: plan.batch_ms_max };
                let node =
                    ModelNode::start(id.clone(), traits, plan.seed, trace.clone(), world_tasks);
                (id, node)
            })
            .collect();
        let all: Vec<ModelNode> = nodes.values().cloned().collect();
        let network_dice = Dice::new(plan.seed, "network");
        Self {
            plan: plan.clone(),
            trace: trace.clone(),
            network: Network::new(&all, network_dice, trace.clone(), world_tasks.clone()),
            nodes,
            disk: PodDisk::default(),
            pod: None,
            entrance: Entrance::default(),
            history: History::default(),
            starts: 0,
            dice,
            statuses: StatusesAreFinal::default(),
            violations: Vec::new(),
            disk_lost: BTreeSet::new(),
            looked_inside_ms: 0,
        }
    }

    fn set_entrance(&self, pod: Option<Arc<PodContext>>) {
        *self.entrance.lock().unwrap_or_else(PoisonError::into_inner) = pod;
    }

    fn violate(&mut self, property: &'static str, evidence: String) {
        self.violations.push(Violation { property, evidence });
    }

    async fn start_pod(&mut self) {
        if self.pod.is_some() {
            return;
        }
        self.starts += 1;
        let seed = self.plan.seed.rotate_left(17) ^ self.starts;
        match RunningPod::start(&self.plan, &self.disk, &self.network, seed, &self.trace).await {
            Ok(pod) => {
                self.trace.note("pod", format!("started, life {}", self.starts));
                self.set_entrance(Some(pod.context.clone()));
                self.pod = Some(pod);
            }
            Err(error) => self.violate("pods_start", error.to_string()),
        }
    }

    async fn suffer(&mut self, fault: Fault) {
        self.trace.note("fault", format!("{fault:?}"));
        match fault {
            Fault::CrashPod => {
                self.set_entrance(None);
                if let Some(pod) = self.pod.take() {
                    pod.crash(&self.disk, &self.dice).await;
                }
            }
            Fault::RestartActor(place) => {
                if let Some(pod) = &self.pod {
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
            Fault::LoseDisk(node) => {
                self.disk_lost.insert(node.clone());
                self.with_node(&node, ModelNode::lose_disk);
            }
        }
    }

    async fn recover(&mut self, recovery: Recovery) {
        self.trace.note("fault", format!("over: {recovery:?}"));
        match recovery {
            Recovery::StartPod => self.start_pod().await,
            Recovery::OpenLink(node) => self.network.set_link(&node, Link::Open),
            Recovery::RestartNode(node) => self.with_node(&node, ModelNode::restart),
            Recovery::SpeedUp(node) => self.with_node(&node, |node| node.set_slowness(1)),
            Recovery::FreeDisk(node) => self.with_node(&node, |node| node.set_disk_full(false)),
        }
    }

    fn with_node(&self, node: &NodeId, act: impl FnOnce(&ModelNode)) {
        if let Some(node) = self.nodes.get(node) {
            act(node);
        }
    }

    async fn heal(&mut self) {
        self.network.heal();
        for node in self.nodes.values() {
            node.restart();
            node.set_slowness(1);
            node.set_disk_full(false);
        }
        self.start_pod().await;
    }

    fn tasks(&self) -> Vec<TaskRecord> {
        let found = self.disk.engine.scan(TASKS, ALL_KEYS, Direction::Forward, usize::MAX);
        let found = found.unwrap_or_default();
        found.iter().filter_map(|(_, bytes)| records::decode(bytes).ok()).collect()
    }

    /// Checks what must hold at every moment. Not while the pod is down: its disk then shows
    /// less than it will after recovery.
    fn observe(&mut self) {
        let Some(pod) = &self.pod else { return };
        let tasks = self.tasks();
        self.violations.extend(self.statuses.observe(&tasks));
        self.violations.extend(invariants::tasks_end_in_order::check(&tasks));
        let now_ms = self.trace.now_ms();
        if now_ms < self.looked_inside_ms + LOOK_INSIDE_EVERY_MS {
            return;
        }
        self.looked_inside_ms = now_ms;
        let mut excused = self.network.served_late();
        excused.extend(self.disk_lost.iter().cloned());
        self.violations.extend(invariants::visible_when_succeeded::check(
            &pod.context.log.routing(),
            &tasks,
            &self.history.all(),
            &self.nodes,
            &excused,
        ));
    }

    /// Waits until nothing is open, out of sync or under way; false when that takes too long.
    async fn come_to_rest(&mut self, clients_done: &impl Fn() -> bool) -> bool {
        let until = self.trace.now_ms() + REST_MS_MAX;
        loop {
            if !self.violations.is_empty() {
                return false;
            }
            let Some(pod) = &self.pod else { return false };
            let open = tasks::read_open(&self.disk.engine).map_or(usize::MAX, |open| open.len());
            let out_of_sync = everything_is_in_sync::out_of_sync(&pod.context.log.routing());
            let busy = self.nodes.values().filter(|node| !node.is_idle()).count();
            let under_way = self.network.under_way();
            let calm = open == 0 && out_of_sync.is_empty() && busy == 0 && under_way == 0;
            if calm && clients_done() {
                self.trace.note("world", "is at rest");
                return true;
            }
            if self.trace.now_ms() >= until {
                let evidence = format!(
                    "{open} tasks are open, {busy} nodes busy, {under_way} requests under way, down {:?}, out of sync: {}",
                    pod.down(),
                    out_of_sync.into_iter().take(4).collect::<Vec<_>>().join(", "),
                );
                self.violate("everything_comes_to_rest", evidence);
                return false;
            }
            tokio::time::sleep(Duration::from_millis(333)).await;
            self.observe();
        }
    }

    /// Lets the retention of tasks pass, and one more be written.
    async fn grow_old(&mut self) {
        let newest = self.tasks().last().map(|task| task.uid);
        self.trace.note("world", "grows old");
        tokio::time::sleep(self.plan.retention.time + PRUNED_WITHIN).await;
        let Some(pod) = &self.pod else { return };
        let work = RequestedWork::Plain(Work::CancelTasks {
            original_filter: String::new(),
            uids: Vec::new(),
        });
        let request =
            WriteRequest { index: None, work, creates_index: false, custom_metadata: None };
        let next =
            accept(&pod.context, request, WriteMarks::default()).await.map(|accepted| accepted.uid);
        let left = self.tasks();
        self.violations.extend(invariants::old_tasks_are_pruned::check(&left, newest, next.ok()));
    }

    fn check_at_rest(&mut self) {
        let Some(pod) = &self.pod else { return };
        let routing = pod.context.log.routing();
        let (tasks, history) = (self.tasks(), self.history.all());
        let (expected, mut found) = outcomes_are_expected::replay(&tasks, &history);
        found.extend(invariants::check_at_rest(&World {
            routing: &routing,
            tasks: &tasks,
            history: &history,
            nodes: &self.nodes,
            expected: &expected,
        }));
        self.violations.extend(found);
    }
}
