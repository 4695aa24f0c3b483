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
//!      ├─ Registrar            tasks that no index owns; on the pod that holds the role
//!      └─ Writer/<index> ─┬─ Lane/<node>    one per node that holds a shard
//!                         ├─ Operation      settings, creation, deletion; while it runs
//!                         └─ ReplicaCopy    while it runs
//! ```
//!
//! Owns: the children and the order of log events. Does not own any agreed state. Writers and the
//! registrar are roles: they run here while the log says so, begin when it gives them to this pod
//! and are stopped when it gives them to another. Restart policy: every child is started again, after `RESTART_WAIT`, without limit: each rebuilds
//! itself from the log and its marks, and a pod that gave up would stop acknowledged writes for
//! good; repeated failures are logged each time. An event for a child that is down is not
//! lost: the child loads what is open when it starts, and events reach it only after they were
//! committed to the store it loads from.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use miroir_seams::{NodeTransport, Seams};
use miroir_storage::commands::{Command, Outcome};
use miroir_storage::ids::{IndexUid, NodeId, PodId};
use miroir_storage::journal::Journal;
use miroir_storage::log::CoordinatorLog;
use miroir_storage::raft::AppliedEvent;
use miroir_storage::tables::roles::{self, REGISTRAR};
use miroir_storage::tables::tasks;
use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};

use crate::coordinator::Coordinator;
use crate::drift_checker::{DriftChecker, DriftCheckerArguments, DriftItem, DriftView};
use crate::health_checker::{HealthChecker, HealthCheckerArguments, HealthConfig, NodeHealthView};
use crate::index_janitor::{IndexJanitor, IndexJanitorMessage};
use crate::journal_keeper::JournalKeeper;
use crate::node_calls::NodeCalls;
use crate::node_tasks::{NodeTasks, NodeTasksArguments, NodeTasksMessage};
use crate::peer_service::{Hint, send_hint};
use crate::peers::PeersView;
use crate::registrar::{Registrar, RegistrarMessage};
use crate::shares::Share;
use crate::task_pruner::{TaskBlock, TaskPruner, TaskPrunerArguments, TaskRetention};
use crate::writer::{Writer, WriterArguments, WriterMessage};

/// Before a failed child is started again: long enough not to spin, short against time-outs.
const RESTART_WAIT: Duration = Duration::from_millis(200);

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
    /// The pods that live.
    pub peers: PeersView,
    /// Time, randomness, tasks.
    pub seams: Seams,
    followers: arc_swap::ArcSwap<BTreeMap<NodeId, ActorRef<NodeTasksMessage>>>,
    root: ArcSwapOption<ActorRef<PodMessage>>,
}

impl PodContext {
    /// The context of a pod that is about to start.
    pub fn new(
        config: PodConfig,
        log: CoordinatorLog,
        journal: Journal,
        transport: Arc<dyn NodeTransport>,
        peers: PeersView,
        seams: Seams,
    ) -> Arc<Self> {
        Arc::new(Self {
            id: peers.own().clone(),
            config,
            calls: NodeCalls::new(transport, log.clone(), seams.clock.clone()),
            log,
            journal,
            health: Arc::default(),
            drift: DriftView::default(),
            peers,
            seams,
            followers: arc_swap::ArcSwap::default(),
            root: ArcSwapOption::empty(),
        })
    }

    /// The follower of a node's tasks, once it has started.
    pub fn follower(&self, node: &NodeId) -> Option<ActorRef<NodeTasksMessage>> {
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
        let registrar = roles::all(self.log.engine().as_ref())
            .is_ok_and(|roles| roles.get(REGISTRAR).is_some_and(|role| role.holder == self.id));
        registrar || self.log.routing().by_uid.values().any(|index| index.writer == self.id)
    }

    /// Whether this pod writes the index.
    pub fn writes(&self, index: &IndexUid) -> bool {
        self.log.routing().by_uid.get(index).is_some_and(|index| index.writer == self.id)
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
    /// A node was seen to have other settings than the agreed ones.
    SettingsDiffer {
        /// The index.
        index: IndexUid,
        /// The node.
        node: NodeId,
    },
    /// Time to start a child again.
    Restart(Child),
}

/// The children by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Child {
    /// Follows a node's tasks.
    Follower(NodeId),
    /// Health checks.
    Health,
    /// Removes strays.
    Janitor,
    /// Tasks that no index owns.
    Registrar,
    /// Gives roles.
    Coordinator,
    /// Gives back payloads.
    Keeper,
    /// Removes old tasks.
    Pruner,
    /// Reads back settings.
    Drift,
    /// An index's writer.
    Writer(IndexUid),
}

/// The root actor.
#[derive(Debug)]
pub struct Pod;

/// The root's state.
#[derive(Debug)]
pub struct PodState {
    context: Arc<PodContext>,
    names: BTreeMap<ActorId, Child>,
    registrar: Option<ActorRef<RegistrarMessage>>,
    janitor: Option<ActorRef<IndexJanitorMessage>>,
    writers: BTreeMap<IndexUid, ActorRef<WriterMessage>>,
}

/// Starts a pod's actors. The log must be open and the nodes written to it.
///
/// # Errors
/// When a child can't start.
pub async fn start_pod(context: Arc<PodContext>) -> Result<ActorRef<PodMessage>, ractor::SpawnErr> {
    let (root, _) = Actor::spawn(None, Pod, context.clone()).await?;
    context.root.store(Some(Arc::new(root.clone())));
    Ok(root)
}

#[ractor::async_trait]
impl Actor for Pod {
    type Msg = PodMessage;
    type State = PodState;
    type Arguments = Arc<PodContext>;

    async fn pre_start(
        &self,
        myself: ActorRef<PodMessage>,
        context: Arc<PodContext>,
    ) -> Result<PodState, ActorProcessingErr> {
        // Subscribed before anything is loaded, so that no entry falls in between.
        let mut events = context.log.subscribe();
        let mut state = PodState {
            context: context.clone(),
            names: BTreeMap::new(),
            registrar: None,
            janitor: None,
            writers: BTreeMap::new(),
        };
        let routing = context.log.routing();
        let children = routing
            .nodes
            .keys()
            .cloned()
            .map(Child::Follower)
            .chain([Child::Health, Child::Janitor, Child::Registrar, Child::Pruner, Child::Drift])
            .chain([Child::Keeper, Child::Coordinator])
            .chain(routing.by_uid.keys().cloned().map(Child::Writer));
        for child in children {
            // What is applied here may be old: roles that are another pod's by now are refused.
            if let Err(error) = start_child(&myself, &mut state, child.clone()).await {
                tracing::warn!(?child, %error, "actor could not be started, trying again");
                restart_later(&myself, &state, child);
            }
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
        myself: ActorRef<PodMessage>,
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
            PodMessage::SettingsDiffer { index, node } => {
                if let Some(writer) = state.writers.get(&index) {
                    let _restarting = writer.cast(WriterMessage::SettingsDiffer { node });
                    return Ok(());
                }
                let routing = state.context.log.routing();
                let writer = routing.by_uid.get(&index).map(|index| &index.writer);
                if let Some(writer) = writer.filter(|writer| **writer != state.context.id) {
                    send_hint(&state.context, writer, &Hint::SettingsDiffer { index, node });
                }
                Ok(())
            }
            PodMessage::FeedClosed => Err("the feed of the coordinator log closed".into()),
            PodMessage::Restart(child) => {
                if let Err(error) = start_child(&myself, state, child.clone()).await {
                    tracing::error!(?child, %error, "actor could not be started");
                    restart_later(&myself, state, child);
                }
                Ok(())
            }
        }
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<PodMessage>,
        event: SupervisionEvent,
        state: &mut PodState,
    ) -> Result<(), ActorProcessingErr> {
        let (cell, failure): (ActorCell, Option<String>) = match event {
            SupervisionEvent::ActorFailed(cell, error) => (cell, Some(error.to_string())),
            SupervisionEvent::ActorTerminated(cell, ..) => (cell, None),
            _ => return Ok(()),
        };
        let Some(child) = state.names.remove(&cell.get_id()) else { return Ok(()) };
        match (&child, failure) {
            // A writer stops by itself when its index is gone, a role when it is another pod's.
            (Child::Writer(index), None) => {
                let is_current = |actor: &ActorRef<_>| actor.get_id() == cell.get_id();
                if state.writers.get(index).is_some_and(is_current) {
                    state.writers.remove(index);
                }
            }
            (Child::Registrar, None) => {}
            (_, failure) => {
                tracing::error!(?child, error = failure, "actor failed, starting it again");
                restart_later(&myself, state, child);
            }
        }
        Ok(())
    }
}

fn restart_later(myself: &ActorRef<PodMessage>, state: &PodState, child: Child) {
    let (myself, clock) = (myself.clone(), state.context.seams.clock.clone());
    state.context.seams.tasks.spawn("actor restart", async move {
        clock.sleep(RESTART_WAIT).await;
        let _stopped = myself.cast(PodMessage::Restart(child));
    });
}

async fn start_child(
    myself: &ActorRef<PodMessage>,
    state: &mut PodState,
    child: Child,
) -> Result<(), ActorProcessingErr> {
    let context = state.context.clone();
    let supervisor = myself.get_cell();
    let id = match &child {
        Child::Follower(node) => {
            let arguments = NodeTasksArguments {
                node: node.clone(),
                calls: context.calls.clone(),
                seams: context.seams.clone(),
            };
            let (actor, _) = Actor::spawn_linked(None, NodeTasks, arguments, supervisor).await?;
            let id = actor.get_id();
            context.followers.rcu(|followers| {
                let mut followers = BTreeMap::clone(followers);
                followers.insert(node.clone(), actor.clone());
                followers
            });
            id
        }
        Child::Health => {
            let arguments = HealthCheckerArguments {
                config: context.config.health,
                view: context.health.clone(),
                calls: context.calls.clone(),
                log: context.log.clone(),
                seams: context.seams.clone(),
                peers: context.peers.clone(),
                pod: myself.clone(),
            };
            let (actor, _) =
                Actor::spawn_linked(None, HealthChecker, arguments, supervisor).await?;
            actor.get_id()
        }
        Child::Janitor => {
            let (actor, _) = Actor::spawn_linked(None, IndexJanitor, context, supervisor).await?;
            state.janitor = Some(actor.clone());
            actor.get_id()
        }
        Child::Coordinator => {
            let (actor, _) = Actor::spawn_linked(None, Coordinator, context, supervisor).await?;
            actor.get_id()
        }
        Child::Keeper => {
            let (actor, _) = Actor::spawn_linked(None, JournalKeeper, context, supervisor).await?;
            actor.get_id()
        }
        Child::Registrar => {
            let known = roles::all(context.log.engine().as_ref())?;
            if known.get(REGISTRAR).is_none_or(|role| role.holder != context.id) {
                return Ok(());
            }
            let (actor, _) = Actor::spawn_linked(None, Registrar, context, supervisor).await?;
            state.registrar = Some(actor.clone());
            actor.get_id()
        }
        Child::Pruner => {
            let name = |block: &TaskBlock| format!("prune/{}", block.0);
            let share = Share::of_pod(context.peers.clone(), name);
            let arguments = TaskPrunerArguments { pod: context, share };
            let (actor, _) = Actor::spawn_linked(None, TaskPruner, arguments, supervisor).await?;
            actor.get_id()
        }
        Child::Drift => {
            let name = |item: &DriftItem| format!("drift/{}/{}", item.index, item.node);
            let share = Share::of_pod(context.peers.clone(), name);
            let arguments = DriftCheckerArguments { pod: context, share, root: myself.clone() };
            let (actor, _) = Actor::spawn_linked(None, DriftChecker, arguments, supervisor).await?;
            actor.get_id()
        }
        Child::Writer(index) => {
            if !context.writes(index) {
                state.writers.remove(index);
                return Ok(());
            }
            let arguments = WriterArguments { pod: context, index: index.clone() };
            let (actor, _) = Actor::spawn_linked(None, Writer, arguments, supervisor).await?;
            state.writers.insert(index.clone(), actor.clone());
            actor.get_id()
        }
    };
    state.names.insert(id, child);
    Ok(())
}

async fn on_applied(
    myself: &ActorRef<PodMessage>,
    state: &mut PodState,
    event: &AppliedEvent,
) -> Result<(), ActorProcessingErr> {
    match (&event.command, &event.outcome) {
        (
            Command::EnqueueTask(_) | Command::AcceptTask { .. },
            Outcome::Enqueued { uid, index },
        ) => {
            let Some(task) = tasks::read(state.context.log.engine().as_ref(), *uid)? else {
                return Ok(());
            };
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
                // A new index; its writer loads the task by itself.
                None => {
                    let child = Child::Writer(index.clone());
                    if let Err(error) = start_child(myself, state, child.clone()).await {
                        tracing::error!(%index, %error, "writer could not be started");
                        restart_later(myself, state, child);
                    }
                }
            }
        }
        (Command::FinishTasks(endings), Outcome::Done) => {
            tell_ended(state, endings.iter().map(|ending| ending.uid).collect());
        }
        (Command::CancelTasks { .. }, Outcome::Matched(uids)) => tell_ended(state, uids.clone()),
        (Command::AssignRole { role, pod, .. }, Outcome::Epoch(_)) => {
            on_role_given(myself, state, role, *pod == state.context.id).await;
        }
        _ => {}
    }
    Ok(())
}

fn tell_ended(state: &PodState, uids: Vec<miroir_storage::ids::TaskUid>) {
    for writer in state.writers.values() {
        let _restarting = writer.cast(WriterMessage::TasksEnded(uids.clone()));
    }
    if let Some(registrar) = &state.registrar {
        let _restarting = registrar.cast(RegistrarMessage::TasksEnded);
    }
}

/// A role begins here, or ends here. An event may be old: what starts looks at the log itself, and
/// a role that was given back meanwhile is stopped by the event that says so.
async fn on_role_given(
    myself: &ActorRef<PodMessage>,
    state: &mut PodState,
    role: &str,
    to_this_pod: bool,
) {
    let child = match roles::index_of(role) {
        Some(index) => Child::Writer(index),
        None if role == REGISTRAR => Child::Registrar,
        None => return,
    };
    // Also when it is given to the pod that has it: its epoch is over.
    match &child {
        Child::Writer(index) => {
            if let Some(writer) = state.writers.remove(index) {
                writer.stop(Some(HANDED_OVER.to_owned()));
            }
        }
        _ => {
            if let Some(registrar) = state.registrar.take() {
                registrar.stop(Some(HANDED_OVER.to_owned()));
            }
        }
    }
    if to_this_pod && let Err(error) = start_child(myself, state, child.clone()).await {
        tracing::error!(?child, %error, "role could not be started, trying again");
        restart_later(myself, state, child);
    }
}
