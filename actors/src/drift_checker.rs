//! Reads back the settings of every index from every node that serves it (spec 01, Settings).
//!
//! Somebody with a node's key may change its settings behind Miroir's back; searches would then
//! differ from replica to replica, or fail where the shard filter is gone. Owns: the pace, and
//! which (index, node) is looked at. Does not own the repair: settings reach a node in its
//! lane's order only, so the writer is told, and its lane looks again in its own turn, with
//! nothing else under way, and sends the settings whole. A difference that a settings task under
//! way explains therefore repairs nothing.
//!
//! Nobody sends to it but its own timer. In shares, by [`DriftItem`]. A restart only delays the
//! next look. A change is noticed within [`INTERVAL`] and the time of a round.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::Method;
use miroir_seams::planted::{self, Bug};
use miroir_storage::ids::{IndexUid, NodeId};
use ractor::ActorProcessingErr;
use serde_json::Value;

use crate::inspect::{Actor, Address};
use crate::node_settings::differs;
use crate::peer_service::Hint;
use crate::pod::{PodContext, PodMessage};
use crate::shares::Share;
use crate::writer::lanes::in_sync_nodes;

/// Between rounds (spec 01).
pub const INTERVAL: Duration = Duration::from_secs(300);

/// What pods share: one index on one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriftItem {
    /// The index.
    pub index: IndexUid,
    /// The node.
    pub node: NodeId,
}

/// What the drift check has done since the pod started. Counted by checker and lanes, read by
/// whoever shows it.
#[derive(Debug, Default)]
pub struct DriftView {
    read_back: AtomicU64,
    repaired: AtomicU64,
}

impl DriftView {
    /// Settings read back from nodes.
    pub fn read_back(&self) -> u64 {
        self.read_back.load(Ordering::Relaxed)
    }

    /// Settings that were not the agreed ones and were sent again.
    pub fn repaired(&self) -> u64 {
        self.repaired.load(Ordering::Relaxed)
    }

    pub(crate) fn note_repaired(&self) {
        self.repaired.fetch_add(1, Ordering::Relaxed);
    }
}

/// What the checker is told.
#[derive(Debug)]
pub enum DriftCheckerMessage {
    /// Time for a round.
    LookAround,
    /// A round ended (from the checker's own task).
    Looked,
}

/// The checker actor.
#[derive(Debug)]
pub struct DriftChecker;

/// How the checker starts.
#[derive(Clone, Debug)]
pub struct DriftCheckerArguments {
    /// The pod.
    pub pod: Arc<PodContext>,
    /// What this pod looks at.
    pub share: Share<DriftItem>,
    /// Whom to tell of differences.
    pub root: Address<PodMessage>,
}

#[ractor::async_trait]
impl Actor for DriftChecker {
    type Msg = DriftCheckerMessage;
    type State = DriftCheckerArguments;
    type Arguments = DriftCheckerArguments;

    const KIND: &'static str = "DriftChecker";

    async fn pre_start(
        &self,
        myself: Address<DriftCheckerMessage>,
        arguments: DriftCheckerArguments,
    ) -> Result<DriftCheckerArguments, ActorProcessingErr> {
        schedule(&myself, &arguments.pod);
        Ok(arguments)
    }

    async fn handle(
        &self,
        myself: Address<DriftCheckerMessage>,
        message: DriftCheckerMessage,
        arguments: &mut DriftCheckerArguments,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            DriftCheckerMessage::LookAround => {
                let arguments = arguments.clone();
                arguments.pod.seams.tasks.clone().spawn("drift check", async move {
                    look_around(&arguments).await;
                    let _stopped = myself.cast(DriftCheckerMessage::Looked);
                });
            }
            DriftCheckerMessage::Looked => schedule(&myself, &arguments.pod),
        }
        Ok(())
    }
}

fn schedule(myself: &Address<DriftCheckerMessage>, pod: &PodContext) {
    let (myself, clock) = (myself.clone(), pod.seams.clock.clone());
    pod.seams.tasks.spawn("drift checker pace", async move {
        clock.sleep(INTERVAL).await;
        let _stopped = myself.cast(DriftCheckerMessage::LookAround);
    });
}

/// What to look at: nodes that are read, in order of indexes.
fn plan_round(pod: &PodContext, share: &Share<DriftItem>) -> Vec<DriftItem> {
    let routing = pod.log.routing();
    let items = routing.by_uid.iter().flat_map(|(uid, index)| {
        let on_node = |node| DriftItem { index: uid.clone(), node };
        in_sync_nodes(&index.groups).into_iter().map(on_node)
    });
    items.filter(|item| share.includes(item)).collect()
}

/// One request at a time: the check must cost nodes next to nothing. A node that doesn't answer
/// is left out for the rest of the round.
async fn look_around(arguments: &DriftCheckerArguments) {
    let DriftCheckerArguments { pod, share, root } = arguments;
    let mut silent = BTreeSet::new();
    for item in plan_round(pod, share) {
        if planted::has(Bug::NoDriftCheck) {
            return;
        }
        let DriftItem { index, node } = item;
        if silent.contains(&node) || pod.health.is_down(&node) {
            continue;
        }
        let path = format!("/indexes/{index}/settings");
        let read: Value = match pod.calls.json(&node, Method::GET, path, None).await {
            Ok(read) => read,
            Err(error) => {
                tracing::debug!(%node, %index, %error, "settings could not be read back");
                silent.insert(node);
                continue;
            }
        };
        pod.drift.read_back.fetch_add(1, Ordering::Relaxed);
        // What is agreed now: the answer may be older than a commit, then the lane finds nothing.
        let routing = pod.log.routing();
        let Some(agreed) = routing.by_uid.get(&index).filter(|index| !index.settings_pending)
        else {
            continue;
        };
        if differs(&agreed.settings, &read) {
            let _stopped = root.cast(PodMessage::ForWriter(Hint::SettingsDiffer { index, node }));
        }
    }
}
