//! An operation over all nodes of an index at once, at one place in every lane: settings,
//! and creation, change and deletion of the index itself.
//!
//! Owns: one run of one operation. The writer starts it when every earlier task has ended and
//! every lane it covers is idle, and gets [`WriterMessage::OperationEnded`]. Each operation is
//! idempotent: after a crash it runs again from its start (safety rule 9).

pub mod index;
pub mod settings;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use miroir_storage::commands::Fence;
use miroir_storage::ids::{IndexUid, NodeId, TaskUid};
use miroir_wire::error::ResponseError;
use ractor::ActorProcessingErr;
use serde_json::Value;
use tokio::sync::oneshot;

use crate::fencing;
use crate::inspect::{Actor, Address};
use crate::node_calls::{CONTROL_TIMEOUT, NodeCallError, NodeTask, is_about_the_node};
use crate::node_tasks::NodeTasksMessage;
use crate::pod::PodContext;
use crate::writer::WriterMessage;
use crate::writer::entries::Decision;

/// How long after an operation began a node that it covers may not yet be in the in-sync sets:
/// the log was being told that it joins. (Else it is sent the outcome as a latecomer.)
const JOINING_MAX: Duration = Duration::from_secs(10);
/// Between tries while a node doesn't answer.
const RETRY_WAIT: Duration = Duration::from_millis(500);

/// What an operation does.
#[derive(Clone, Debug)]
pub enum OperationWork {
    /// Merges this patch (JSON) into the index's settings, in two phases.
    Settings {
        /// The client's patch.
        patch: String,
    },
    /// Creates the index on its nodes; refused when the task did not create it.
    Create {
        /// Whether this task bound the name.
        creates: bool,
        /// The requested primary key.
        primary_key: Option<String>,
    },
    /// Changes the primary key.
    Update {
        /// The requested primary key.
        primary_key: Option<String>,
    },
    /// Gives the index another name.
    Rename {
        /// The new name.
        to: String,
        /// The requested primary key.
        primary_key: Option<String>,
    },
    /// Deletes the index from its nodes.
    Delete,
}

/// How an operation ended.
#[derive(Clone, Debug)]
pub struct OperationEnd {
    /// The task's end.
    pub decision: Decision,
    /// What a node that catches up is sent at this place.
    pub for_latecomers: Vec<Value>,
    /// Nodes that took part to the end, with their newest task.
    pub participants: Vec<(NodeId, Option<u64>)>,
}

/// How an operation starts.
#[derive(Clone, Debug)]
pub struct OperationArguments {
    /// The pod.
    pub pod: Arc<PodContext>,
    /// Whom to report to.
    pub writer: Address<WriterMessage>,
    /// The writer's fence.
    pub fence: Fence,
    /// The task.
    pub task: TaskUid,
    /// The client's name of the index, for messages.
    pub name: String,
    /// What to do.
    pub work: OperationWork,
    /// The nodes it covers.
    pub nodes: Vec<NodeId>,
    /// The lives of their disks when it began.
    pub disk_lives: BTreeMap<NodeId, u64>,
    /// When it began.
    pub started: tokio::time::Instant,
}

impl OperationArguments {
    /// The index.
    pub fn index(&self) -> &IndexUid {
        &self.fence.index
    }

    /// Runs one request that makes a task on one node, to the task's end. `Ok(None)`: the node
    /// is down and no longer needed, since it left every in-sync set; or it has lost the index, which
    /// the writer is told.
    pub async fn on_node(
        &self,
        node: &NodeId,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Option<NodeTask>, ResponseError> {
        let body = body.map(|value| Bytes::from(value.to_string()));
        loop {
            self.while_held().await;
            let sent = self
                .pod
                .calls
                .enqueue(node, method.clone(), path.to_owned(), body.clone(), CONTROL_TIMEOUT)
                .await;
            match sent {
                Ok(uid) => match self.follow(node, uid).await {
                    Some(task) if task.status == "succeeded" => return Ok(Some(task)),
                    Some(NodeTask { error: Some(error), .. }) if self.finds_gone(node, &error) => {
                        return Ok(None);
                    }
                    Some(NodeTask { error: Some(error), .. }) if !is_about_the_node(&error) => {
                        return Err(error);
                    }
                    Some(NodeTask { error: Some(error), .. }) => {
                        tracing::warn!(%node, code = error.code, message = error.message,
                            "node task failed on the node's own account, trying again");
                    }
                    Some(_) | None => {}
                },
                Err(NodeCallError::Refused(error)) if self.finds_gone(node, &error) => {
                    return Ok(None);
                }
                Err(NodeCallError::Refused(error)) => return Err(error),
                Err(error) => {
                    tracing::debug!(%node, %error, "operation waits for node");
                }
            }
            if !self.is_needed(node) {
                return Ok(None);
            }
            self.pod.seams.clock.sleep(RETRY_WAIT).await;
        }
    }

    /// Whether a node answers that it has no such index, though it had. The replica is filled anew when
    /// the operation is over, with what that has changed.
    fn finds_gone(&self, node: &NodeId, error: &ResponseError) -> bool {
        let changes_it = match self.work {
            OperationWork::Settings { .. }
            | OperationWork::Update { .. }
            | OperationWork::Rename { .. } => true,
            OperationWork::Create { .. } | OperationWork::Delete => false,
        };
        let is_gone = changes_it && error.code == "index_not_found";
        if is_gone {
            let _writer_gone = self.writer.cast(WriterMessage::ReplicaGone(node.clone()));
        }
        is_gone
    }

    /// Waits until it is fresh knowledge that no newer writer exists, as lanes do: an operation may have
    /// stood still for long, and the next writer may have done it since. Where a newer one does
    /// exist, nothing more is sent, and this ends with its writer.
    async fn while_held(&self) {
        let (log, seams) = (&self.pod.log, &self.pod.seams);
        if let Err(why) = fencing::still_holds(log, &self.fence, seams).await {
            let _writer_gone = self.writer.cast(WriterMessage::OperationNotAgreed(why));
            std::future::pending::<()>().await;
        }
    }

    /// Whether the node still counts: it is in an in-sync set (the last member of one never
    /// leaves), or about to be. A node that lost its disk is up and counts no more.
    pub fn is_needed(&self, node: &NodeId) -> bool {
        let routing = self.pod.log.routing();
        let is_in_sync = routing
            .by_uid
            .get(self.index())
            .is_some_and(|index| crate::writer::lanes::in_sync_nodes(&index.groups).contains(node));
        let may_be_joining = self.started.elapsed() < JOINING_MAX;
        is_in_sync || (may_be_joining && !self.pod.health.is_down(node))
    }

    /// The nodes that did what each was asked for, or the first refusal; `ends` are those of
    /// [`Self::on_node`], node by node.
    fn those_that_did(
        &self,
        ends: Vec<Result<Option<NodeTask>, ResponseError>>,
    ) -> Result<BTreeSet<NodeId>, ResponseError> {
        let mut nodes = BTreeSet::new();
        for (node, end) in self.nodes.iter().zip(ends) {
            nodes.extend(end?.map(|_| node.clone()));
        }
        Ok(nodes)
    }

    /// Those that took part and still count, with their newest tasks. A node that left the sets before it
    /// was done, and is back since, has nothing of it.
    pub async fn participants(&self, took_part: &BTreeSet<NodeId>) -> Vec<(NodeId, Option<u64>)> {
        let nodes = self.nodes.iter().filter(|node| took_part.contains(node));
        self.newest_tasks(nodes.filter(|node| self.is_needed(node)).cloned().collect()).await
    }

    async fn follow(&self, node: &NodeId, uid: u64) -> Option<NodeTask> {
        let follower = self.pod.follower(node)?;
        let (reply, ended) = oneshot::channel();
        follower.cast(NodeTasksMessage::Follow { uid, reply }).ok()?;
        let mut ended = ended;
        loop {
            match tokio::time::timeout(Duration::from_secs(1), &mut ended).await {
                Ok(end) => return end.ok().flatten(),
                Err(_) if !self.is_needed(node) => return None,
                Err(_) => {}
            }
        }
    }

    /// The newest task of each node that took part, for the lanes' marks. One that has another disk by
    /// now has nothing of what was done, and is brought to this place by its lane.
    async fn newest_tasks(&self, nodes: Vec<NodeId>) -> Vec<(NodeId, Option<u64>)> {
        let mut newest = Vec::with_capacity(nodes.len());
        for node in nodes {
            let uid = self.pod.calls.newest_task(&node).await.ok().flatten();
            if self.disk_lives.get(&node) == Some(&self.pod.calls.disk_life(&node)) {
                newest.push((node, uid));
            }
        }
        newest
    }
}

/// The operation actor: one message, one run.
#[derive(Debug)]
pub struct Operation;

#[ractor::async_trait]
impl Actor for Operation {
    type Msg = ();
    type State = OperationArguments;
    type Arguments = OperationArguments;

    const KIND: &'static str = "Operation";
    const TRANSIENT: bool = true;

    async fn pre_start(
        &self,
        myself: Address<()>,
        arguments: OperationArguments,
    ) -> Result<OperationArguments, ActorProcessingErr> {
        myself.cast(())?;
        Ok(arguments)
    }

    async fn handle(
        &self,
        myself: Address<()>,
        _run: (),
        arguments: &mut OperationArguments,
    ) -> Result<(), ActorProcessingErr> {
        let end = match &arguments.work {
            OperationWork::Settings { patch } => settings::run(arguments, patch).await,
            OperationWork::Create { creates, primary_key } => {
                index::create(arguments, *creates, primary_key.as_deref()).await
            }
            OperationWork::Update { primary_key } => {
                index::update(arguments, &arguments.name, primary_key.as_deref()).await
            }
            OperationWork::Rename { to, primary_key } => {
                index::rename(arguments, to, primary_key.as_deref()).await
            }
            OperationWork::Delete => index::delete(arguments).await,
        };
        let _writer_gone = arguments
            .writer
            .cast(WriterMessage::OperationEnded { uid: arguments.task, end: Box::new(end) });
        myself.stop(None);
        Ok(())
    }
}
