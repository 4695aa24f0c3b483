//! The root of a pod's supervision tree, and the feed from the log to its actors.
//!
//! ```text
//! Pod ─┬─ NodeTasks/<node>     one per node: follows the node's tasks
//!      ├─ HealthChecker        who is down
//!      ├─ IndexJanitor         removes indexes that the log does not know
//!      ├─ Coordinator          gives roles to pods; works where the log is led
//!      ├─ JournalKeeper        gives back payloads
//!      ├─ TaskPruner           removes old tasks
//!      ├─ DriftChecker         reads back settings
//!      ├─ JobWorker            works on chunks of jobs
//!      ├─ WebhookSender        tells webhooks of ended tasks
//!      ├─ Registrar            tasks that no index owns; on the pod that holds the role
//!      ├─ Rebalancer           moves replicas to where they belong; likewise
//!      └─ Writer/<index> ─┬─ Lane/<node>    one per node that holds a shard
//!                         ├─ Operation      settings, creation, deletion; while it runs
//!                         └─ ReplicaCopy    while it runs
//! ```
//!
//! Owns: the children and the order of log events. Does not own any agreed state. Writers, the
//! registrar and the rebalancer are roles: they run here while the log says so, begin when it gives them to this pod
//! and are stopped when it gives them to another.
//!
//! # What is started again, how often, what escalates
//! Every child that fails, panics or ends unasked is started again, without limit: each rebuilds
//! itself from the log and its marks, and a pod that gave up would stop acknowledged writes for
//! good. The wait before that is 200 ms, doubled with each failure in a row up to 10 s; a run of
//! 60 s ends the row ([`crate::restarts`]). Lanes, operations and copies are started by their
//! writer: one that fails takes the writer with it, since only together do they know what was
//! sent. More than 5 failures in a row raise one `error` event and are shown as `failing`
//! ([`crate::inspect`]); the others are warnings. The root itself fails when the feed of the log closes.
//! If the log took another state everything is loaded again: the program starts the root anew. If
//! the log stopped the process ends; whoever runs it starts it again.
//!
//! An operator may have a child started again ([`PodMessage::RestartByHand`]): it is stopped after
//! the message under way, or killed when that takes longer than 2 s, and started at
//! once. For a part of a writer that is the writer.
//!
//! An event for a child that is down is not
//! lost: the child loads what is open when it starts, and events reach it only after they were
//! committed to the store it loads from.

mod begin;
mod children;
mod hints;
mod restart;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use miroir_seams::planted::{self, Bug};
use miroir_seams::{NodeTransport, Seams};
use miroir_storage::commands::{Command, Outcome};
use miroir_storage::ids::{IndexUid, NodeId, PodId, TaskUid};
use miroir_storage::journal::Journal;
use miroir_storage::log::{CoordinatorLog, ProposeError};
use miroir_storage::raft::AppliedEvent;
use miroir_storage::tables::roles::{self, REBALANCER, REGISTRAR};
use miroir_storage::tables::tasks;
use miroir_storage::topology_commands::TopologyCommand;
use ractor::{ActorProcessingErr, SpawnErr, SupervisionEvent};
use tokio::sync::oneshot;

use self::begin::{on_epoch_taken, start_or_wait};
pub use self::children::Child;
use self::children::{Children, LifeEnd};
use self::restart::{on_restart_by_hand, restart_later};
use crate::anti_entropy::view::AntiEntropyView;
use crate::anti_entropy::{AntiEntropyConfig, AntiEntropyMessage};
use crate::drift_checker::DriftView;
use crate::health_checker::{HealthConfig, NodeHealthView};
use crate::index_janitor::IndexJanitorMessage;
use crate::inspect::{Actor, Address, Inventory, spawn_root};
use crate::job_worker::{self, JobWorkerMessage};
use crate::journal_keeper::{JournalKeeperMessage, held_by};
use crate::move_hours::MoveHours;
use crate::node_calls::NodeCalls;
use crate::node_tasks::NodeTasksMessage;
use crate::peer_service::{Hint, RestartReply};
use crate::peers::PeersView;
use crate::rebalancer::RebalancerMessage;
use crate::registrar::RegistrarMessage;
use crate::task_pruner::TaskRetention;
use crate::webhook_sender::{WebhookOutlet, WebhookSenderMessage};
use crate::writer::WriterMessage;
use crate::writer::resharding::BEGINS_ANEW;

/// The root's name in the inventory.
const ROOT: &str = "pod";

/// Why a role's actor is stopped.
const HANDED_OVER: &str = "handed over";

/// What a pod is configured with.
#[derive(Clone, Copy, Debug)]
pub struct PodConfig {
    /// Shards of new indexes.
    pub shards: u32,
    /// Replicas per group of new indexes.
    pub replication_factor: usize,
    /// Health checks.
    pub health: HealthConfig,
    /// How long ended tasks are kept.
    pub retention: TaskRetention,
    /// A pod that is gone for longer is no longer a member of the log.
    pub pod_grace: Duration,
    /// A node that is down for longer has its copies made elsewhere.
    pub node_grace: Duration,
    /// When planned moves and reshardings go on; none: at any time.
    pub move_hours: Option<MoveHours>,
    /// How replicas are compared.
    pub anti_entropy: AntiEntropyConfig,
    /// How long after a change of the placement reads may still follow the one before: as long as a
    /// pod answers without saying that it is behind, and a read takes.
    pub placement_life: Duration,
}

/// What every actor and the gateway's write path share. Cheap to hold, no locks on reads.
#[derive(Debug)]
pub struct PodContext {
    /// This pod.
    pub id: PodId,
    /// Its configuration.
    pub config: PodConfig,
    /// The coordinator log.
    pub log: CoordinatorLog,
    /// The write journal.
    pub journal: Journal,
    /// Calls to nodes.
    pub calls: NodeCalls,
    /// Who is down.
    pub health: Arc<NodeHealthView>,
    /// What the drift check has done.
    pub drift: DriftView,
    /// What comparing replicas has found.
    pub anti_entropy: AntiEntropyView,
    /// The pods that live.
    pub peers: PeersView,
    /// How webhooks are told of tasks.
    pub outlet: Arc<dyn WebhookOutlet>,
    /// What this pod's actors are at.
    pub inventory: Arc<Inventory>,
    /// Time, randomness, tasks.
    pub seams: Seams,
    followers: arc_swap::ArcSwap<BTreeMap<NodeId, Address<NodeTasksMessage>>>,
    root: ArcSwapOption<Address<PodMessage>>,
}

impl PodContext {
    /// Whether planned moves and reshardings wait: operators have paused them, or it is not their time of
    /// the day. While copies of a node that is away are to be made elsewhere, it is always time.
    pub fn moves_rest(&self) -> bool {
        let routing = self.log.routing();
        let is_time =
            self.config.move_hours.is_none_or(|hours| hours.contain(self.seams.clock.now()));
        routing.topology.paused || (!is_time && routing.topology.away.is_empty())
    }

    /// The context of a pod that is about to start.
    pub fn new(
        config: PodConfig,
        log: CoordinatorLog,
        journal: Journal,
        transport: Arc<dyn NodeTransport>,
        peers: PeersView,
        outlet: Arc<dyn WebhookOutlet>,
        seams: Seams,
    ) -> Arc<Self> {
        Arc::new(Self {
            id: peers.own().clone(),
            config,
            calls: NodeCalls::new(transport, log.clone(), seams.clock.clone()),
            log,
            journal,
            health: Arc::default(),
            inventory: Inventory::new(peers.own().clone(), seams.clock.clone()),
            drift: DriftView::default(),
            anti_entropy: AntiEntropyView::default(),
            peers,
            outlet,
            seams,
            followers: arc_swap::ArcSwap::default(),
            root: ArcSwapOption::empty(),
        })
    }

    /// The follower of a node's tasks, once it has started.
    pub fn follower(&self, node: &NodeId) -> Option<Address<NodeTasksMessage>> {
        self.followers.load().get(node).cloned()
    }

    /// Whether this pod leads the coordinator log, as far as it knows.
    pub fn leads(&self) -> bool {
        let metrics = self.log.metrics();
        metrics.running && metrics.leader == Some(metrics.raft_id)
    }

    /// Whether this pod has applied all that was agreed when it was asked, within `timeout`.
    pub async fn confirm(&self, timeout: Duration) -> bool {
        self.log.read_barrier(timeout).await.is_ok()
    }

    /// Whether this pod holds a role, beside the leader's.
    pub fn holds_roles(&self) -> bool {
        self.holds(REGISTRAR)
            || self.holds(REBALANCER)
            || self.log.routing().by_uid.values().any(|index| index.writer == self.id)
    }

    /// Whether this pod holds a role that is no writer's.
    fn holds(&self, role: &str) -> bool {
        roles::all(self.log.engine().as_ref())
            .is_ok_and(|roles| roles.get(role).is_some_and(|role| role.holder == self.id))
    }

    /// Whether this pod writes the index.
    pub fn writes(&self, index: &IndexUid) -> bool {
        self.log.routing().by_uid.get(index).is_some_and(|index| index.writer == self.id)
    }

    /// Messages that wait for the root.
    pub fn backlog(&self) -> u64 {
        self.root.load().as_ref().map_or(0, |root| root.depth())
    }

    #[cfg(test)]
    pub(crate) fn root_cell(&self) -> Option<ractor::ActorCell> {
        self.root.load().as_ref().map(|root| root.get_cell())
    }

    /// Tells the root, if it runs.
    pub fn tell_root(&self, message: PodMessage) {
        if let Some(root) = self.root.load().as_ref() {
            let _starting_again = root.cast(message);
        }
    }
}

/// What the root is told.
#[derive(Debug)]
pub enum PodMessage {
    /// The log applied an entry.
    Applied(Arc<AppliedEvent>),
    /// The log stopped, or took another state: the pod must start again from its tables.
    FeedClosed,
    /// A node went down or came back.
    NodeHealthChanged {
        /// The node.
        node: NodeId,
        /// Down now.
        down: bool,
    },
    /// Somebody has found something out that an index's writer is to know.
    ForWriter(Hint),
    /// An operator wants replicas compared.
    Compare,
    /// Time to start a child again.
    Restart {
        /// The child.
        child: Child,
        /// The number of its wait.
        wait: u64,
    },
    /// The log answered a pod that wants to begin with a role.
    EpochTaken {
        /// The role's actor.
        child: Child,
        /// The number of its wait.
        wait: u64,
        /// The log's answer.
        answer: Result<Outcome, ProposeError>,
    },
    /// An operator wants an actor started again.
    RestartByHand {
        /// The actor's id in the inventory.
        id: String,
        /// Gets what was done.
        reply: oneshot::Sender<RestartReply>,
    },
}

/// The root actor.
#[derive(Debug)]
pub struct Pod;

/// The root's state.
#[derive(Debug)]
pub struct PodState {
    context: Arc<PodContext>,
    children: Children,
    registrar: Option<Address<RegistrarMessage>>,
    rebalancer: Option<Address<RebalancerMessage>>,
    janitor: Option<Address<IndexJanitorMessage>>,
    keeper: Option<Address<JournalKeeperMessage>>,
    jobs: Option<Address<JobWorkerMessage>>,
    webhooks: Option<Address<WebhookSenderMessage>>,
    anti_entropy: Option<Address<AntiEntropyMessage>>,
    writers: BTreeMap<IndexUid, Address<WriterMessage>>,
}

/// Starts a pod's actors. The log must be open and the nodes written to it.
///
/// # Errors
/// When a child can't start.
pub async fn start_pod(context: Arc<PodContext>) -> Result<Address<PodMessage>, SpawnErr> {
    let root = spawn_root(&context.inventory, ROOT.to_owned(), Pod, context.clone()).await?;
    context.root.store(Some(Arc::new(root.clone())));
    Ok(root)
}

#[ractor::async_trait]
impl Actor for Pod {
    type Msg = PodMessage;
    type State = PodState;
    type Arguments = Arc<PodContext>;

    const KIND: &'static str = "Pod";

    async fn pre_start(
        &self,
        myself: Address<PodMessage>,
        context: Arc<PodContext>,
    ) -> Result<PodState, ActorProcessingErr> {
        // Subscribed before anything is loaded, so that no entry falls in between.
        let mut events = context.log.subscribe();
        let mut state = PodState {
            context: context.clone(),
            children: Children::default(),
            registrar: None,
            rebalancer: None,
            janitor: None,
            keeper: None,
            jobs: None,
            webhooks: None,
            anti_entropy: None,
            writers: BTreeMap::new(),
        };
        let routing = context.log.routing();
        let children = routing
            .nodes
            .keys()
            .cloned()
            .map(Child::Follower)
            .chain([Child::Health, Child::Janitor, Child::Registrar, Child::Pruner])
            .chain([Child::Drift, Child::AntiEntropy])
            .chain([
                Child::Keeper,
                Child::Coordinator,
                Child::Jobs,
                Child::Webhooks,
                Child::Rebalancer,
            ])
            .chain(routing.by_uid.keys().cloned().map(Child::Writer));
        for child in children {
            // What is applied here may be old: roles that are another pod's by now are refused.
            start_or_wait(&myself, &mut state, child).await;
        }
        let feed = myself.clone();
        context.seams.tasks.spawn("log feed", async move {
            while let Some(event) = events.events.recv().await {
                if feed.cast(PodMessage::Applied(event)).is_err() {
                    return;
                }
            }
            let _stopped = feed.cast(PodMessage::FeedClosed);
        });
        Ok(state)
    }

    async fn handle(
        &self,
        myself: Address<PodMessage>,
        message: PodMessage,
        state: &mut PodState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            PodMessage::Applied(event) => on_applied(&myself, state, &event).await,
            PodMessage::NodeHealthChanged { node, down } => {
                if let (Some(janitor), false) = (&state.janitor, down) {
                    let _restarting = janitor.cast(IndexJanitorMessage::Look(node.clone()));
                }
                for writer in state.writers.values() {
                    let change = WriterMessage::NodeHealthChanged { node: node.clone(), down };
                    let _restarting = writer.cast(change);
                }
                Ok(())
            }
            PodMessage::Compare => {
                if let Some(comparer) = &state.anti_entropy {
                    let _restarting = comparer.cast(AntiEntropyMessage::Begin { by_hand: true });
                }
                Ok(())
            }
            PodMessage::ForWriter(hint) => {
                hints::pass_on(state, hint);
                Ok(())
            }
            PodMessage::FeedClosed => Err("the feed of the coordinator log closed".into()),
            PodMessage::Restart { child, wait } => {
                if state.children.end_wait(&child, wait) {
                    start_or_wait(&myself, state, child).await;
                }
                Ok(())
            }
            PodMessage::EpochTaken { child, wait, answer } => {
                if state.children.end_wait(&child, wait) {
                    on_epoch_taken(&myself, state, child, answer).await;
                }
                Ok(())
            }
            PodMessage::RestartByHand { id, reply } => {
                // Whoever has given up was told that nothing was done.
                if !reply.is_closed() {
                    let _gave_up = reply.send(on_restart_by_hand(&myself, state, id)?);
                }
                Ok(())
            }
        }
    }

    async fn handle_supervisor_evt(
        &self,
        myself: Address<PodMessage>,
        event: SupervisionEvent,
        state: &mut PodState,
    ) -> Result<(), ActorProcessingErr> {
        let (cell, failure, reason) = match event {
            SupervisionEvent::ActorFailed(cell, error) => (cell, Some(error.to_string()), None),
            SupervisionEvent::ActorTerminated(cell, _, reason) => (cell, None, reason),
            _ => return Ok(()),
        };
        let life = cell.get_id();
        let inventory = state.context.inventory.clone();
        match (state.children.ended(life), failure) {
            (None, _) => {}
            (Some(LifeEnd::Former(child)), _) => inventory.forget(&child.name(), Some(life)),
            (Some(LifeEnd::ByHand(child)), _) => start_or_wait(&myself, state, child).await,
            (Some(LifeEnd::Current(child @ Child::Writer(_))), None)
                if reason.as_deref() == Some(BEGINS_ANEW) =>
            {
                start_or_wait(&myself, state, child).await;
            }
            // A writer stops by itself when its index is gone, a role when it is another pod's.
            (Some(LifeEnd::Current(Child::Writer(index))), None) => {
                state.writers.remove(&index);
                inventory.forget(&Child::Writer(index).name(), Some(life));
            }
            (Some(LifeEnd::Current(child @ (Child::Registrar | Child::Rebalancer))), None) => {
                inventory.forget(&child.name(), Some(life));
            }
            (Some(LifeEnd::Current(child)), failure) => {
                if failure.is_none() {
                    inventory.failed(life, "it ended without being told to");
                }
                restart_later(&myself, state, child, failure.as_deref());
            }
        }
        Ok(())
    }
}

async fn on_applied(
    myself: &Address<PodMessage>,
    state: &mut PodState,
    event: &AppliedEvent,
) -> Result<(), ActorProcessingErr> {
    match (&event.command, &event.outcome) {
        (
            Command::EnqueueTask(_)
            | Command::AcceptTask { .. }
            | Command::AcceptBoundTask { .. }
            | Command::Job(_),
            Outcome::Enqueued { uid, index },
        ) => on_accepted(myself, state, *uid, index.as_ref()).await?,
        (Command::Job(command), Outcome::Job(_)) => {
            if let Some(jobs) = state.jobs.as_ref().filter(|_| job_worker::concerns(command)) {
                let _restarting = jobs.cast(JobWorkerMessage::Changed);
            }
        }
        (Command::FinishTasks(endings), Outcome::Done) => {
            tell_ended(state, endings.iter().map(|ending| ending.uid).collect());
        }
        (Command::CancelTasks { .. }, Outcome::Matched(uids)) => tell_ended(state, uids.clone()),
        // A node that another pod's configuration brought: writers need its follower.
        (Command::PutNode(node), Outcome::Done) if state.context.follower(&node.id).is_none() => {
            start_or_wait(myself, state, Child::Follower(node.id.clone())).await;
        }
        (Command::Topology(command), Outcome::Done) => {
            if let TopologyCommand::AddNode(node) = command.as_ref()
                && state.context.follower(&node.id).is_none()
            {
                start_or_wait(myself, state, Child::Follower(node.id.clone())).await;
            }
        }
        (Command::AssignRole { role, pod, .. }, Outcome::Epoch(_)) => {
            on_role_given(myself, state, role, *pod == state.context.id).await;
        }
        _ => {}
    }
    Ok(())
}

/// Tells whoever works on it of a task.
async fn on_accepted(
    myself: &Address<PodMessage>,
    state: &mut PodState,
    uid: TaskUid,
    index: Option<&IndexUid>,
) -> Result<(), ActorProcessingErr> {
    let Some(task) = tasks::read(state.context.log.engine().as_ref(), uid)? else {
        return Ok(());
    };
    let sequences = held_by(&state.context.id, &task);
    if let (Some(keeper), false) = (&state.keeper, sequences.is_empty()) {
        let _restarting = keeper.cast(JournalKeeperMessage::Held { uid, sequences });
    }
    let Some(index) = index else {
        if let Some(registrar) = &state.registrar {
            let _restarting = registrar.cast(RegistrarMessage::Accepted(Box::new(task)));
        }
        return Ok(());
    };
    match state.writers.get(index) {
        Some(writer) => {
            let _restarting = writer.cast(WriterMessage::Accepted(Box::new(task)));
        }
        None if !state.context.writes(index) => {}
        // A new index, or one whose writer waits to be started again; it loads the task by
        // itself.
        None => {
            let child = Child::Writer(index.clone());
            if !state.children.waits(&child) {
                start_or_wait(myself, state, child).await;
            }
        }
    }
    Ok(())
}

fn tell_ended(state: &PodState, uids: Vec<TaskUid>) {
    for writer in state.writers.values() {
        let _restarting = writer.cast(WriterMessage::TasksEnded(uids.clone()));
    }
    if let Some(registrar) = &state.registrar {
        let _restarting = registrar.cast(RegistrarMessage::TasksEnded);
    }
    if let Some(webhooks) = &state.webhooks {
        let _restarting = webhooks.cast(WebhookSenderMessage::TasksEnded);
    }
    if let Some(keeper) = &state.keeper {
        let _restarting = keeper.cast(JournalKeeperMessage::Ended(uids));
    }
}

/// A role begins here, or ends here. An event may be old: what starts looks at the log itself, and
/// a role that was given back meanwhile is stopped by the event that says so.
async fn on_role_given(
    myself: &Address<PodMessage>,
    state: &mut PodState,
    role: &str,
    to_this_pod: bool,
) {
    if planted::has(Bug::HolderGoesOn) && !to_this_pod {
        return;
    }
    let child = match roles::index_of(role) {
        Some(index) => Child::Writer(index),
        None if role == REGISTRAR => Child::Registrar,
        None if role == REBALANCER => Child::Rebalancer,
        None => return,
    };
    // Also when it is given to the pod that has it: its epoch is over.
    state.children.release(&child);
    match &child {
        Child::Writer(index) => {
            if let Some(writer) = state.writers.remove(index) {
                writer.stop(Some(HANDED_OVER.to_owned()));
            }
        }
        Child::Rebalancer => {
            if let Some(rebalancer) = state.rebalancer.take() {
                rebalancer.stop(Some(HANDED_OVER.to_owned()));
            }
        }
        _ => {
            if let Some(registrar) = state.registrar.take() {
                registrar.stop(Some(HANDED_OVER.to_owned()));
            }
        }
    }
    if to_this_pod {
        start_or_wait(myself, state, child).await;
    }
}
