//! Follows the tasks of one node: one listing for all that anyone waits for.
//!
//! Owns: the set of node tasks under way and who waits for each. Lanes and broadcasts send to
//! it. The pace adapts: quick after a new task, slower while nothing ends. A restart drops the
//! waiting replies; lanes then ask the node themselves.

use std::collections::BTreeMap;
use std::time::Duration;

use miroir_seams::Seams;
use miroir_storage::ids::NodeId;
use ractor::ActorProcessingErr;
use tokio::sync::oneshot;

use crate::inspect::{Actor, Address};
use crate::node_calls::{NodeCallError, NodeCalls, NodeTask};

/// The first look after a task was sent: most small batches take a few milliseconds.
const POLL_MIN: Duration = Duration::from_millis(4);
/// The slowest pace while something is awaited.
const POLL_MAX: Duration = Duration::from_millis(250);
/// Tasks asked for in one listing; keeps the query string short.
const LISTED_MAX: usize = 100;

/// What the follower is told.
#[derive(Debug)]
pub enum NodeTasksMessage {
    /// Wait for a task's end. The reply is `None` when the node doesn't know the task.
    Follow {
        /// The node's number.
        uid: u64,
        /// Gets the ended task.
        reply: oneshot::Sender<Option<NodeTask>>,
    },
    /// Time to look.
    Look,
    /// The node's answer (from the follower's own call).
    Looked {
        /// What was asked for.
        asked: Vec<u64>,
        /// What it said.
        answer: Result<Vec<NodeTask>, NodeCallError>,
    },
}

/// The follower actor.
#[derive(Debug)]
pub struct NodeTasks;

/// How a follower starts.
#[derive(Clone, Debug)]
pub struct NodeTasksArguments {
    /// The node.
    pub node: NodeId,
    /// Calls to nodes.
    pub calls: NodeCalls,
    /// Time and tasks.
    pub seams: Seams,
}

/// The follower's state.
#[derive(Debug)]
pub struct NodeTasksState {
    arguments: NodeTasksArguments,
    awaited: BTreeMap<u64, Vec<oneshot::Sender<Option<NodeTask>>>>,
    pace: Duration,
    /// A look is scheduled or under way.
    looking: bool,
}

#[ractor::async_trait]
impl Actor for NodeTasks {
    type Msg = NodeTasksMessage;
    type State = NodeTasksState;
    type Arguments = NodeTasksArguments;

    const KIND: &'static str = "NodeTasks";

    async fn pre_start(
        &self,
        _myself: Address<NodeTasksMessage>,
        arguments: NodeTasksArguments,
    ) -> Result<NodeTasksState, ActorProcessingErr> {
        Ok(NodeTasksState { arguments, awaited: BTreeMap::new(), pace: POLL_MIN, looking: false })
    }

    async fn handle(
        &self,
        myself: Address<NodeTasksMessage>,
        message: NodeTasksMessage,
        state: &mut NodeTasksState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            NodeTasksMessage::Follow { uid, reply } => {
                state.awaited.entry(uid).or_default().push(reply);
                state.pace = POLL_MIN;
                schedule(&myself, state);
            }
            NodeTasksMessage::Look => on_look(&myself, state),
            NodeTasksMessage::Looked { asked, answer } => on_looked(&myself, state, asked, answer),
        }
        Ok(())
    }
}

fn schedule(myself: &Address<NodeTasksMessage>, state: &mut NodeTasksState) {
    if state.looking || state.awaited.is_empty() {
        return;
    }
    state.looking = true;
    let (myself, clock, pace) = (myself.clone(), state.arguments.seams.clock.clone(), state.pace);
    state.arguments.seams.tasks.spawn("task follower pace", async move {
        clock.sleep(pace).await;
        let _stopped = myself.cast(NodeTasksMessage::Look);
    });
}

fn on_look(myself: &Address<NodeTasksMessage>, state: &mut NodeTasksState) {
    state.awaited.retain(|_, replies| {
        replies.retain(|reply| !reply.is_closed());
        !replies.is_empty()
    });
    let asked: Vec<u64> = state.awaited.keys().copied().take(LISTED_MAX).collect();
    if asked.is_empty() {
        state.looking = false;
        return;
    }
    let (myself, calls, node) =
        (myself.clone(), state.arguments.calls.clone(), state.arguments.node.clone());
    state.arguments.seams.tasks.spawn("task follower look", async move {
        let uids: Vec<String> = asked.iter().map(u64::to_string).collect();
        let query = format!("limit={LISTED_MAX}&uids={}", uids.join(","));
        let answer = calls.tasks(&node, &query).await;
        let _stopped = myself.cast(NodeTasksMessage::Looked { asked, answer });
    });
}

fn on_looked(
    myself: &Address<NodeTasksMessage>,
    state: &mut NodeTasksState,
    asked: Vec<u64>,
    answer: Result<Vec<NodeTask>, NodeCallError>,
) {
    state.looking = false;
    let mut progress = false;
    match answer {
        Ok(tasks) => {
            let mut listed: BTreeMap<u64, NodeTask> =
                tasks.into_iter().map(|task| (task.uid, task)).collect();
            for uid in asked {
                let end = match listed.remove(&uid) {
                    Some(task) if !task.ended() => continue,
                    end => end,
                };
                progress = true;
                for reply in state.awaited.remove(&uid).unwrap_or_default() {
                    let _gone = reply.send(end.clone());
                }
            }
        }
        Err(error) => {
            tracing::debug!(node = %state.arguments.node, %error, "tasks could not be listed");
        }
    }
    state.pace = if progress { POLL_MIN } else { (state.pace * 2).min(POLL_MAX) };
    schedule(myself, state);
}
