//! One run: a world under fire, then healed, then checked.
//!
//! 1. Clients write while faults come and go; what must hold at every moment is watched.
//! 2. Everything heals. Within `REST_MS_MAX` of virtual time all tasks must have ended and
//!    all replicas be in sync (liveness).
//! 3. After `QUIET_MS` of quiet, for audits to do their work (`DRIFT_QUIET_MS` where somebody
//!    changes settings), the same again; then everything that must hold at rest is checked.
//! 4. Where the plan says so, the retention of tasks passes, and they must be gone.

use std::time::Duration;

use miroir_actors::accept::{RequestedWork, WriteMarks, WriteRequest, accept};
use miroir_actors::{drift_checker, task_pruner};
use miroir_seams::Tasks;
use miroir_storage::commands::Work;
use miroir_storage::ids::{NodeId, ShardId};
use miroir_storage::routing::Routing;
use miroir_storage::tables::indexes::in_sync_of;

use crate::client::Client;
use crate::cluster::Cluster;
use crate::dice::Dice;
use crate::faults::Faults;
use crate::invariants::pods_agree;
use crate::invariants::{self, Violation, World, everything_is_in_sync, outcomes_are_expected};
use crate::model_node::ModelNode;
use crate::plan::{Plan, SEEDS_MOVING};
use crate::pod_faults::PodFaults;
use crate::reader::Reader;
use crate::topology_orders::TopologyOrders;
use crate::trace::Trace;

/// Virtual time under fire at most; clients that are not done by then stop.
const FIRE_MS_MAX: u64 = 400_000;
/// Virtual time in which a healed world must come to rest.
const REST_MS_MAX: u64 = 1_800_000;
/// Quiet time before the final checks.
const QUIET_MS: u64 = 150_000;
/// Quiet time within which settings that somebody changed must be repaired.
const DRIFT_QUIET_MS: u64 = drift_checker::INTERVAL.as_millis() as u64 + 30_000;
/// Quiet time at most until documents that somebody has changed are put right.
const REPAIR_MS_MAX: u64 = 1_800_000;
/// Within this a task whose time is over must be gone.
const PRUNED_WITHIN: Duration = task_pruner::INTERVAL.saturating_add(Duration::from_secs(60));
/// Between two observations under fire.
const OBSERVE_EVERY_MS: u64 = 200;
/// A write that takes this long may find that another pod writes by now.
const OLD_AFTER: Duration = Duration::from_millis(1500);
/// Virtual time in which the pods of a healed world must have found their places.
const SETTLE_MS_MAX: u64 = 180_000;
/// When pods start that come late.
const LATE_PODS_MS: u64 = 25_000;
/// Several pods start within this time of each other.
const START_MS_MAX: u64 = 2_000;

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Report {
    /// What did not hold; empty when all did.
    pub violations: Vec<Violation>,
    /// Tasks in the log.
    pub tasks: usize,
    /// Virtual milliseconds.
    pub virtual_ms: u64,
    /// Operations that clients had to do.
    pub operations: u64,
    /// Faults of nodes, links and a pod alone.
    pub faults: u64,
    /// Faults of one of several pods.
    pub pod_faults: u64,
    /// Messages to nodes that went wrong.
    pub messages: u64,
    /// Reads that were answered.
    pub reads: usize,
}

/// Runs the world of `plan`. Must be called on a current-thread runtime with a paused clock.
pub async fn run(plan: &Plan, trace: &Trace) -> Report {
    let world_tasks = Tasks::on_one_thread();
    let mut cluster = Cluster::new(plan, trace, &world_tasks);
    start_pods(&mut cluster).await;
    let clients: Vec<_> = (0..plan.clients)
        .map(|client| {
            let client = Client::new(plan, client, cluster.reading(), cluster.history.clone());
            world_tasks.spawn("client", client.run())
        })
        .collect();
    let readers: Vec<_> = (0..plan.readers)
        .map(|reader| {
            let reader = Reader::new(plan, reader, cluster.reading());
            world_tasks.spawn("reader", reader.run())
        })
        .collect();
    let clients_done = || clients.iter().all(tokio::task::JoinHandle::is_finished);

    cluster.network.set_rates(plan.rates);
    if let Some(node) = &plan.late_node {
        cluster.network.set_late_node(Some(node.clone()));
    }
    cluster.peers.set_rates(plan.peer_rates);
    if plan.pods > 1 {
        cluster.network.set_old_after(OLD_AFTER);
    }
    let mut faults = Faults::new(plan);
    let mut pod_faults = PodFaults::new(plan);
    let mut orders = TopologyOrders::new(plan);
    let mut observed_ms = 0;
    let mut late_pods = plan.late_pods > 0;
    let goes_on = |made: u64, now_ms: u64| {
        !clients_done() || now_ms < plan.fire_ms_min || made < plan.faults_min
    };
    let mut made = 0;
    while trace.now_ms() < FIRE_MS_MAX
        && goes_on(made, trace.now_ms())
        && cluster.violations.is_empty()
    {
        tokio::time::sleep(Faults::LOOK).await;
        let now_ms = trace.now_ms();
        made = faults.count() + pod_faults.count() + cluster.network.gone_wrong();
        if late_pods && now_ms >= LATE_PODS_MS {
            late_pods = false;
            cluster.start_all().await;
        }
        for recovery in faults.due_recoveries(now_ms) {
            cluster.recover(recovery).await;
        }
        if let Some(fault) = faults.due_stranger(now_ms) {
            cluster.suffer(fault).await;
        }
        if let Some(fault) = faults.due_operator(now_ms) {
            cluster.suffer(fault).await;
        }
        for recovery in pod_faults.due_recoveries(now_ms) {
            cluster.recover_pod(recovery).await;
        }
        if plan.pods > 1
            && let Some(fault) = pod_faults.due_fault(now_ms, &cluster.pods_now())
        {
            cluster.suffer_pod(fault).await;
        }
        cluster.spare_the_last();
        let routing = cluster.routing();
        let quiet = faults.is_quiet(now_ms);
        if let Some(order) = orders.due(now_ms, routing.as_deref(), quiet) {
            cluster.order(order, &world_tasks);
        }
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
    for recovery in pod_faults.all_recoveries() {
        cluster.recover_pod(recovery).await;
    }
    cluster.heal().await;
    if plan.moves || plan.reshards {
        cluster.go_on_moving(&world_tasks).await;
    }
    if cluster.come_to_rest(&clients_done, false).await {
        readers.iter().for_each(tokio::task::JoinHandle::abort);
        if plan.changes_settings {
            // What only the drift check can find: nothing else happens any more.
            cluster.nodes.values().for_each(ModelNode::change_settings);
        }
        if plan.changes_documents {
            cluster.change_documents();
        }
        let quiet_ms = if plan.changes_settings { DRIFT_QUIET_MS } else { QUIET_MS };
        let quiet_until = trace.now_ms() + quiet_ms;
        let repaired_until = trace.now_ms() + REPAIR_MS_MAX;
        while (trace.now_ms() < quiet_until
            || (trace.now_ms() < repaired_until && cluster.is_vandalized()))
            && cluster.violations.is_empty()
        {
            tokio::time::sleep(Duration::from_secs(1)).await;
            cluster.observe();
        }
        if cluster.come_to_rest(&clients_done, true).await {
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
        operations: plan.clients * plan.operations,
        faults: faults.count(),
        messages: cluster.network.gone_wrong(),
        pod_faults: pod_faults.count(),
        reads: cluster.reads.all().len(),
        violations: std::mem::take(&mut cluster.violations),
    };
    for violation in &report.violations {
        trace.note("VIOLATED", violation);
    }
    world_tasks.end_all();
    report
}

impl Cluster {
    /// Requests come late to no node that is the only one in sync of a shard: faults and moves make it
    /// that now and then, and nothing makes up for it yet.
    pub(crate) fn spare_the_last(&self) {
        let routing = self.routing();
        let spares = self.plan.seed >= SEEDS_MOVING;
        if let (true, Some(node), Some(routing)) = (spares, &self.plan.late_node, &routing) {
            let spared = is_alone(routing, node);
            self.network.set_late_node((!spared).then(|| node.clone()));
        }
    }
}

/// Whether the node is the only one in sync for some shard.
fn is_alone(routing: &Routing, node: &NodeId) -> bool {
    routing.by_uid.values().any(|index| {
        (0..index.shards).any(|shard| in_sync_of(&index.groups, ShardId(shard)).iter().eq([node]))
    })
}

/// A pod that is alone serves on return; others start one after the other.
async fn start_pods(cluster: &mut Cluster) {
    if cluster.plan.pods == 1 {
        return cluster.start_pod(0).await;
    }
    let dice = Dice::new(cluster.plan.seed, "pod starts");
    let mut order: Vec<usize> = (0..cluster.plan.pods - cluster.plan.late_pods).collect();
    while let Some(pod) = dice.pick(&order).copied() {
        order.retain(|waiting| *waiting != pod);
        cluster.start_pod(pod).await;
        tokio::time::sleep(dice.millis(0, START_MS_MAX)).await;
    }
}

impl Cluster {
    /// Has moves go on that were paused, once a pod takes the order.
    async fn go_on_moving(&mut self, world_tasks: &Tasks) {
        let until = self.trace.now_ms() + REST_MS_MAX;
        while self.routing().is_none_or(|routing| routing.topology.paused)
            && self.trace.now_ms() < until
        {
            self.order(TopologyOrders::go_on(), world_tasks);
            tokio::time::sleep(Duration::from_secs(2)).await;
            self.observe();
        }
    }

    /// Waits until nothing is open, out of sync or under way, and no journal holds anything if
    /// that is asked for too; false when it takes too long.
    async fn come_to_rest(&mut self, clients_done: &impl Fn() -> bool, journals: bool) -> bool {
        let until = self.trace.now_ms() + REST_MS_MAX;
        let mut settled_ms = self.trace.now_ms();
        loop {
            if !self.violations.is_empty() {
                return false;
            }
            let open = self.tasks().iter().filter(|task| !task.ended()).count();
            let routing = self.routing();
            let out_of_sync = || {
                let routing = routing.as_deref()?;
                let mut found = everything_is_in_sync::out_of_sync(routing);
                found.extend(everything_is_in_sync::out_of_place(routing));
                Some(found)
            };
            let busy = self.nodes.values().filter(|node| !node.is_idle()).count();
            let under_way = self.network.under_way();
            let full = if journals { pods_agree::full_journals(&self.serving()) } else { None };
            let unsettled = self.unsettled();
            // While the log goes on, a pod may be an entry behind at any single look.
            if unsettled.is_none() {
                settled_ms = self.trace.now_ms();
            }
            if let Some(why) = &unsettled
                && self.trace.now_ms() >= settled_ms + SETTLE_MS_MAX
            {
                let evidence = why.clone();
                self.violate("pods_settle", evidence);
                return false;
            }
            let unsettled = unsettled.or(full);
            let calm = open == 0 && busy == 0 && under_way == 0 && unsettled.is_none();
            if calm && clients_done() && out_of_sync().is_some_and(|found| found.is_empty()) {
                self.trace.note("world", "is at rest");
                return true;
            }
            if self.trace.now_ms() >= until {
                let evidence = format!(
                    "{open} tasks are open, {busy} nodes busy, {under_way} requests under way, clients done: {}, down {:?}, {}, out of sync: {}",
                    clients_done(),
                    self.down(),
                    unsettled.unwrap_or_default(),
                    out_of_sync()
                        .unwrap_or_default()
                        .into_iter()
                        .take(4)
                        .collect::<Vec<_>>()
                        .join(", "),
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
        let Some(pod) = self.most_advanced() else { return };
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
        let Some(pod) = self.most_advanced() else { return };
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
        found.extend(invariants::roles_are_held_once::check(&self.serving()));
        let reads = self.reads.all();
        found.extend(invariants::reads_are_expected::check(&reads, &tasks, &history, &self.plan));
        self.violations.extend(found);
    }
}

#[cfg(test)]
mod large_copy;
