//! Removes from nodes the indexes that the log does not know, or knows elsewhere alone.
//!
//! A node that was away when an index was deleted, or that carried out a late request, holds an
//! index that nothing will ever read: uids are never reused. So does one that carried out a late
//! request after its last shard of the index had moved away; should a shard come back just then, the copy
//! finds a task that it has not sent, and begins again. Owns nothing; looks at every node
//! that is up, every `INTERVAL` and when a node comes back. Only names of our own form whose
//! sequence the log has given out are touched. A restart only delays the next look.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use miroir_storage::ids::{IndexUid, NodeId};
use miroir_storage::routing::Routing;
use miroir_storage::tables::{ApplyError, indexes_created};
use ractor::ActorProcessingErr;
use serde_json::Value;

use crate::fencing::CONFIRMED_MAX;
use crate::inspect::{Actor, Address};
use crate::node_calls::{CONTROL_TIMEOUT, NodeCallError};
use crate::pod::PodContext;

/// Between looks at all nodes; nothing waits for them.
const INTERVAL: Duration = Duration::from_secs(60);
/// Indexes listed at a time.
const PAGE: usize = 1000;

/// What the janitor is told.
#[derive(Debug)]
pub enum IndexJanitorMessage {
    /// Time to look at every node.
    LookAround,
    /// A node came back.
    Look(NodeId),
}

/// The janitor actor.
#[derive(Debug)]
pub struct IndexJanitor;

/// Why a node could not be cleaned; it is tried again at the next look.
#[derive(Debug, thiserror::Error)]
enum CleanError {
    #[error(transparent)]
    Call(#[from] NodeCallError),
    #[error(transparent)]
    State(#[from] ApplyError),
}

#[ractor::async_trait]
impl Actor for IndexJanitor {
    type Msg = IndexJanitorMessage;
    type State = Arc<PodContext>;
    type Arguments = Arc<PodContext>;

    const KIND: &'static str = "IndexJanitor";

    async fn pre_start(
        &self,
        myself: Address<IndexJanitorMessage>,
        pod: Arc<PodContext>,
    ) -> Result<Arc<PodContext>, ActorProcessingErr> {
        schedule(&myself, &pod);
        Ok(pod)
    }

    async fn handle(
        &self,
        myself: Address<IndexJanitorMessage>,
        message: IndexJanitorMessage,
        pod: &mut Arc<PodContext>,
    ) -> Result<(), ActorProcessingErr> {
        let nodes = match message {
            IndexJanitorMessage::Look(node) => vec![node],
            IndexJanitorMessage::LookAround => {
                schedule(&myself, pod);
                pod.log.routing().nodes.keys().cloned().collect()
            }
        };
        let pod = pod.clone();
        pod.seams.tasks.clone().spawn("index janitor", async move {
            for node in nodes.iter().filter(|node| !pod.health.is_down(node)) {
                if let Err(error) = clean(&pod, node).await {
                    tracing::debug!(%node, %error, "node could not be cleaned");
                }
            }
        });
        Ok(())
    }
}

fn schedule(myself: &Address<IndexJanitorMessage>, pod: &PodContext) {
    let (myself, clock) = (myself.clone(), pod.seams.clock.clone());
    pod.seams.tasks.spawn("index janitor pace", async move {
        clock.sleep(INTERVAL).await;
        let _stopped = myself.cast(IndexJanitorMessage::LookAround);
    });
}

async fn clean(pod: &PodContext, node: &NodeId) -> Result<(), CleanError> {
    // Also shows whether the node still has its disk, when nothing is sent to it.
    pod.calls.newest_task(node).await?;
    let path = format!("/indexes?limit={PAGE}");
    let listed: Value = pod.calls.json(node, Method::GET, path, None).await?;
    let uids = listed.get("results").and_then(Value::as_array).into_iter().flatten();
    let uids: Vec<&str> = uids
        .filter_map(|index| index.get("uid")?.as_str())
        .filter(|uid| is_ours(uid, u64::MAX) && !belongs(&pod.log.routing(), uid, node))
        .collect();
    if uids.is_empty() {
        return Ok(());
    }
    // What was on the node when it was asked was in the log before; this pod may be behind.
    if !pod.confirm(CONTROL_TIMEOUT).await {
        return Ok(());
    }
    let created = indexes_created(pod.log.engine().as_ref())?;
    for uid in uids {
        let is_fresh = pod.log.confirmed().age <= CONFIRMED_MAX;
        if is_fresh && is_ours(uid, created) && !belongs(&pod.log.routing(), uid, node) {
            tracing::info!(%node, index = uid, "removing an index that does not belong there");
            let path = format!("/indexes/{uid}");
            pod.calls.enqueue(node, Method::DELETE, path, None, CONTROL_TIMEOUT).await?;
        }
    }
    Ok(())
}

/// Whether the node is to have, or may still have, something of the index.
fn belongs(routing: &Routing, uid: &str, node: &NodeId) -> bool {
    routing.by_uid.get(&IndexUid::from(uid)).is_some_and(|index| {
        let mut shards = index.groups.iter().flat_map(|group| &group.shards);
        index.moves.contains_key(node) || shards.any(|shard| shard.replicas.contains(node))
    })
}

/// Whether a node-side uid is of our form, `{sequence}-{name}`, and the log has given the
/// sequence out.
fn is_ours(uid: &str, created: u64) -> bool {
    uid.split_once('-')
        .and_then(|(sequence, _)| sequence.parse::<u64>().ok())
        .is_some_and(|sequence| sequence < created)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_uids_that_the_log_gave_out_are_ours() {
        assert!(is_ours("3-movies", 4));
        assert!(!is_ours("4-movies", 4));
        assert!(!is_ours("movies", 4));
        assert!(!is_ours("x3-movies", 4));
    }
}
