//! Checks every node's health and says who is down, looks whether it still has its disk
//! ([`crate::node_disks`]), and the features that were switched ([`crate::node_features`]); and, once every
//! node's version is known, says what settings new indexes begin with.
//!
//! In shares: the pod that rendezvous gives a node checks it and publishes what it found (`node/<id>`
//! in gossip), the others take its word, except while they know nothing of the node yet or suspect
//! it themselves. When that pod dies the node is another's. That a node has lost its disk is told the log by
//! whoever finds it out.
//!
//! Owns: the streaks of missed and good answers. Publishes the set of nodes that are down (read
//! by searches without any mailbox) and tells the pod of changes. A node that refuses a
//! connection outright counts like one that hangs: three misses. A restart forgets the streaks, not
//! who was down.
//!
//! A read that waits too long for a node makes it *suspected*: reads prefer others, and the node
//! is checked at once and then every second until it answers a check or is down. Only checks take
//! a node out, never what it answers to a read.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures::future::{Either, join, join_all, select};
use http::Method;
use miroir_membership::health::{HealthChange, HealthLimits, NodeHealth};
use miroir_seams::Seams;
use miroir_storage::commands::Command;
use miroir_storage::ids::NodeId;
use miroir_storage::log::CoordinatorLog;
use miroir_wire::engine_version::EngineVersion;
use ractor::ActorProcessingErr;
use tokio::sync::Notify;

use crate::inspect::{Actor, Address};
use crate::node_calls::NodeCalls;
use crate::node_disks;
use crate::node_features;
use crate::peers::PeersView;
use crate::pod::PodMessage;

/// When and how nodes are checked.
#[derive(Clone, Copy, Debug)]
pub struct HealthConfig {
    /// Between checks.
    pub interval: Duration,
    /// A check without an answer after this is a miss.
    pub timeout: Duration,
    /// Misses and good answers in a row.
    pub limits: HealthLimits,
}

/// What is published of a node.
const UP: &str = "up";
const DOWN: &str = "down";
/// Between a suspicion and the check, so that many at once lead to few checks.
const SUSPICION_PAUSE: Duration = Duration::from_millis(100);
/// Between checks while a node is suspected.
const SUSPICION_INTERVAL: Duration = Duration::from_secs(1);

impl Default for HealthConfig {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
            limits: HealthLimits::default(),
        }
    }
}

/// What this pod's checks say of the nodes. Written by the checker, read by every request and
/// lane without a lock.
#[derive(Debug, Default)]
pub struct NodeHealthView {
    /// Nodes that are down, not to be asked.
    pub unavailable: ArcSwap<BTreeSet<NodeId>>,
    /// The `pkgVersion` of the oldest node; none until one has answered.
    pub oldest_version: ArcSwap<Option<String>>,
    /// Nodes that were late for a read and have answered no check since.
    suspected: ArcSwap<BTreeSet<NodeId>>,
    /// Wakes the checker.
    suspicion: Notify,
}

impl NodeHealthView {
    /// Whether the node is down.
    pub fn is_down(&self, node: &NodeId) -> bool {
        self.unavailable.load().contains(node)
    }

    /// All nodes that are down.
    pub fn down(&self) -> Arc<BTreeSet<NodeId>> {
        self.unavailable.load_full()
    }

    /// Nodes that others are to be preferred to, beside those that are down.
    pub fn suspected(&self) -> Arc<BTreeSet<NodeId>> {
        self.suspected.load_full()
    }

    /// Notes that a read has waited too long for `node`, and has it checked.
    pub fn suspect(&self, node: &NodeId) {
        if self.suspected.load().contains(node) || self.is_down(node) {
            return;
        }
        change(&self.suspected, node, true);
        tracing::debug!(%node, "node is late");
        self.suspicion.notify_one();
    }

    fn set(&self, node: &NodeId, down: bool) {
        change(&self.unavailable, node, down);
    }

    /// A check was answered, or the node is down, which says more.
    fn clear(&self, node: &NodeId) {
        if self.suspected.load().contains(node) {
            change(&self.suspected, node, false);
        }
    }
}

fn change(set: &ArcSwap<BTreeSet<NodeId>>, node: &NodeId, is_in: bool) {
    set.rcu(|known| {
        let mut known = BTreeSet::clone(known);
        if is_in {
            known.insert(node.clone());
        } else {
            known.remove(node);
        }
        known
    });
}

/// What the checker is told.
#[derive(Debug)]
pub enum HealthCheckerMessage {
    /// Time for a round.
    Check,
    /// One node's answer.
    Checked {
        /// The node.
        node: NodeId,
        /// It answered in time.
        answered: bool,
        /// Its version, when it was asked.
        version: Option<String>,
    },
}

/// The checker actor.
#[derive(Debug)]
pub struct HealthChecker;

/// How the checker starts.
#[derive(Clone, Debug)]
pub struct HealthCheckerArguments {
    /// Limits.
    pub config: HealthConfig,
    /// Where the result is published.
    pub view: Arc<NodeHealthView>,
    /// Calls to nodes.
    pub calls: NodeCalls,
    /// The nodes.
    pub log: CoordinatorLog,
    /// Time and tasks.
    pub seams: Seams,
    /// The pods that share the checks.
    pub peers: PeersView,
    /// Whom to tell of changes.
    pub pod: Address<PodMessage>,
}

/// The checker's state.
#[derive(Debug)]
pub struct HealthCheckerState {
    arguments: HealthCheckerArguments,
    nodes: BTreeMap<NodeId, NodeHealth>,
    /// Asked for once a node, and again when it comes back.
    versions: BTreeMap<NodeId, String>,
}

#[ractor::async_trait]
impl Actor for HealthChecker {
    type Msg = HealthCheckerMessage;
    type State = HealthCheckerState;
    type Arguments = HealthCheckerArguments;

    const KIND: &'static str = "HealthChecker";

    async fn pre_start(
        &self,
        myself: Address<HealthCheckerMessage>,
        arguments: HealthCheckerArguments,
    ) -> Result<HealthCheckerState, ActorProcessingErr> {
        myself.cast(HealthCheckerMessage::Check)?;
        Ok(HealthCheckerState { arguments, nodes: BTreeMap::new(), versions: BTreeMap::new() })
    }

    async fn handle(
        &self,
        myself: Address<HealthCheckerMessage>,
        message: HealthCheckerMessage,
        state: &mut HealthCheckerState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            HealthCheckerMessage::Check => on_check(&myself, state),
            HealthCheckerMessage::Checked { node, answered, version } => {
                on_checked(state, node, answered, version);
            }
        }
        Ok(())
    }
}

fn on_check(myself: &Address<HealthCheckerMessage>, state: &mut HealthCheckerState) {
    forget_removed(state);
    agree_on_new_index_settings(state);
    let HealthCheckerArguments { config, calls, log, seams, view, .. } = state.arguments.clone();
    let routing = log.routing();
    let mut nodes: Vec<(NodeId, bool)> = Vec::new();
    for node in routing.nodes.keys() {
        match found_by_another(state, node) {
            Some(down) => take_word(state, node, down),
            None => nodes.push((node.clone(), !state.versions.contains_key(node))),
        }
    }
    // A node that was removed is not checked any more.
    let gone = |node: &&NodeId| !routing.nodes.contains_key(*node);
    view.suspected().iter().filter(gone).for_each(|node| view.clear(node));
    let myself = myself.clone();
    let tasks = seams.tasks.clone();
    tasks.spawn("health round", async move {
        let checks = nodes.into_iter().map(|(node, asks_version)| {
            let (calls, log, myself) = (calls.clone(), log.clone(), myself.clone());
            async move {
                let answer =
                    calls.call(&node, Method::GET, "/health".into(), None, config.timeout).await;
                let answered = answer.is_ok();
                let version = match answered && asks_version {
                    true => ask_version(&calls, &node).await,
                    false => None,
                };
                if answered && let Err(error) = node_disks::look(&calls, &log, &node).await {
                    tracing::debug!(%node, %error, "node's disk could not be looked at");
                }
                if answered && let Err(error) = node_features::look_after(&calls, &log, &node).await
                {
                    tracing::warn!(%node, %error, "experimental features could not be switched");
                }
                let _stopped =
                    myself.cast(HealthCheckerMessage::Checked { node, answered, version });
            }
        });
        // Others cannot know what only this pod has seen.
        let losses = routing.nodes.keys().map(|node| node_disks::tell_of_loss(&calls, &log, node));
        join(join_all(checks), join_all(losses)).await;
        let hurry = !view.suspected.load().is_empty();
        let pause = if hurry { SUSPICION_INTERVAL.min(config.interval) } else { config.interval };
        let (pause, suspicion) = (pin!(seams.clock.sleep(pause)), pin!(view.suspicion.notified()));
        if let Either::Right(_) = select(pause, suspicion).await {
            seams.clock.sleep(SUSPICION_PAUSE).await;
        }
        let _stopped = myself.cast(HealthCheckerMessage::Check);
    });
}

/// Whether a node is down, if that is for another pod to find out, and it has.
fn found_by_another(state: &HealthCheckerState, node: &NodeId) -> Option<bool> {
    let HealthCheckerArguments { peers, view, .. } = &state.arguments;
    let now = peers.now();
    let owner = now.owner_of(&published_key(node))?;
    let is_known = state.versions.contains_key(node) || view.is_down(node);
    if owner == peers.own() || !is_known || view.suspected().contains(node) {
        return None;
    }
    let said = now.known.get(owner)?.values.get(&published_key(node))?;
    Some(said == DOWN)
}

fn take_word(state: &mut HealthCheckerState, node: &NodeId, down: bool) {
    if state.arguments.view.is_down(node) != down {
        // Should the node become this pod's to check, it begins with what was found.
        state.nodes.insert(node.clone(), NodeHealth::found(down));
        note_change(state, node, down);
    }
}

fn published_key(node: &NodeId) -> String {
    format!("node/{node}")
}

async fn ask_version(calls: &NodeCalls, node: &NodeId) -> Option<String> {
    let answer: serde_json::Value =
        calls.json(node, Method::GET, "/version".into(), None).await.ok()?;
    Some(answer.get("pkgVersion")?.as_str()?.to_owned())
}

/// What was known of nodes that are no longer of the cluster: pods that began later never knew it, and all
/// must come to the same.
fn forget_removed(state: &mut HealthCheckerState) {
    let HealthCheckerArguments { log, view, .. } = &state.arguments;
    let routing = log.routing();
    let known = state.versions.len();
    state.versions.retain(|node, _| routing.nodes.contains_key(node));
    state.nodes.retain(|node, _| routing.nodes.contains_key(node));
    if state.versions.len() < known {
        view.oldest_version.store(Arc::new(oldest(state.versions.values())));
    }
}

/// New indexes begin with the defaults of the oldest node, which all others know, too. Nothing is
/// said while a node's version is unknown; a proposal that fails is made again next round.
fn agree_on_new_index_settings(state: &HealthCheckerState) {
    let HealthCheckerArguments { log, seams, .. } = &state.arguments;
    let routing = log.routing();
    if !routing.nodes.keys().all(|node| state.versions.contains_key(node)) {
        return;
    }
    let Some(oldest) = oldest(state.versions.values()) else { return };
    let wanted = EngineVersion::parse(&oldest).new_index_settings();
    if *routing.new_index_settings == wanted {
        return;
    }
    let Ok(settings) = serde_json::to_string(&wanted) else { return };
    tracing::info!(oldest, "new indexes begin with the defaults of the oldest node");
    let log = log.clone();
    seams.tasks.spawn("new index settings", async move {
        if let Err(error) = log.propose(&Command::SetNewIndexSettings { settings }).await {
            tracing::debug!(%error, "settings of new indexes could not be logged");
        }
    });
}

/// The oldest of some versions, compared number by number; what is no number counts as 0.
fn oldest<'a>(versions: impl Iterator<Item = &'a String>) -> Option<String> {
    let numbers = |version: &str| -> Vec<u64> {
        version.split(['.', '-']).map(|part| part.parse().unwrap_or(0)).collect()
    };
    versions.min_by_key(|version| numbers(version)).cloned()
}

fn on_checked(
    state: &mut HealthCheckerState,
    node: NodeId,
    answered: bool,
    version: Option<String>,
) {
    let is_member = state.arguments.log.routing().nodes.contains_key(&node);
    if let Some(version) = version.filter(|_| is_member) {
        state.versions.insert(node.clone(), version);
        state.arguments.view.oldest_version.store(Arc::new(oldest(state.versions.values())));
        agree_on_new_index_settings(state);
    }
    if answered {
        state.arguments.view.clear(&node);
    }
    let health = known_health(&mut state.nodes, &state.arguments.view, &node);
    let change = health.observe(answered, state.arguments.config.limits);
    let is_down = match change {
        Some(change) => change == HealthChange::WentDown,
        None => state.arguments.view.is_down(&node),
    };
    let said = if is_down { DOWN } else { UP };
    state.arguments.peers.publish(&published_key(&node), said);
    let Some(change) = change else { return };
    note_change(state, &node, change == HealthChange::WentDown);
}

/// What is known of a node's checks; at first what was found by this checker's former life.
fn known_health<'a>(
    nodes: &'a mut BTreeMap<NodeId, NodeHealth>,
    view: &NodeHealthView,
    node: &NodeId,
) -> &'a mut NodeHealth {
    nodes.entry(node.clone()).or_insert_with(|| NodeHealth::found(view.is_down(node)))
}

fn note_change(state: &mut HealthCheckerState, node: &NodeId, down: bool) {
    if down {
        // It may come back as another version.
        state.versions.remove(node);
    }
    tracing::info!(%node, down, "node health changed");
    state.arguments.view.set(node, down);
    state.arguments.view.clear(node);
    let node = node.clone();
    let _stopped = state.arguments.pod.cast(PodMessage::NodeHealthChanged { node, down });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_suspicion_wakes_the_checker_once_and_ends_with_a_check() {
        let (view, node) = (NodeHealthView::default(), NodeId::from("a"));
        let wakes = || futures::future::FutureExt::now_or_never(view.suspicion.notified());
        view.suspect(&node);
        view.suspect(&node);
        assert!(wakes().is_some() && wakes().is_none());
        assert!(view.suspected().contains(&node) && !view.is_down(&node));
        view.clear(&node);
        assert!(view.suspected().is_empty());
        view.set(&node, true);
        view.suspect(&node);
        assert!(view.suspected().is_empty(), "down says more");
    }

    #[test]
    fn a_checker_that_is_started_again_finds_that_a_node_came_back() {
        let (view, node) = (NodeHealthView::default(), NodeId::from("a"));
        view.set(&node, true);
        let mut nodes = BTreeMap::new();
        let mut observe = || {
            let limits = HealthLimits { misses_max: 3, recoveries_min: 2 };
            known_health(&mut nodes, &view, &node).observe(true, limits)
        };
        assert_eq!([observe(), observe()], [None, Some(HealthChange::CameBack)]);
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        let versions = ["1.50.0".to_owned(), "1.9.2".to_owned(), "1.15.1".to_owned()];
        assert_eq!(oldest(versions.iter()).as_deref(), Some("1.9.2"));
        assert_eq!(oldest([].iter()), None);
    }
}
