//! Calls of the write path to nodes, over the `NodeTransport` seam.
//!
//! Adds the node's address and key from the routing view (an address may change while a lane
//! waits), and sorts answers into what lanes need to tell apart.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Method, StatusCode};
use miroir_seams::{Clock, NodeCall, NodeTransport, TransportError};
use miroir_storage::ids::{IndexUid, NodeId};
use miroir_storage::log::CoordinatorLog;
use miroir_storage::routing::NodeRecord;
use miroir_wire::error::ResponseError;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::disk_lives::{DiskLives, Witness};
use crate::lane::job::percent_encode;
use crate::sent_tasks::{Attempt, SentTasks, index_of};

/// Control calls: short answers, small bodies.
pub const CONTROL_TIMEOUT: Duration = Duration::from_secs(10);
/// Sending documents, or reading a page of them: 24 MiB and more, from or to a busy node.
pub const PAYLOAD_TIMEOUT: Duration = Duration::from_secs(120);

/// Why a call brought no usable answer.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum NodeCallError {
    /// No answer; see whether it was sent.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The log knows no such node.
    #[error("unknown node {0}")]
    UnknownNode(NodeId),
    /// A client-class refusal (4xx) in Meilisearch's shape.
    #[error("node refused: {}", .0.message)]
    Refused(ResponseError),
    /// 5xx, or an answer that is not Meilisearch's: worth another try.
    #[error("node answered {status}: {text}")]
    Faulty {
        /// The HTTP status.
        status: u16,
        /// The beginning of the body.
        text: String,
    },
    /// The node takes no names of requests. That is remembered: the request may be sent again as it is, by whoever
    /// may still send.
    #[error("node takes no names of requests")]
    Nameless,
}

impl NodeCallError {
    /// Whether the node certainly did nothing.
    pub fn not_carried_out(&self) -> bool {
        match self {
            Self::Transport(error) => error.not_sent(),
            Self::UnknownNode(_) | Self::Refused(_) | Self::Nameless => true,
            // A server error may come after the task was stored.
            Self::Faulty { .. } => false,
        }
    }
}

/// A task as a node lists it; only what lanes read.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeTask {
    /// The node's own number.
    pub uid: u64,
    /// `enqueued`, `processing`, `succeeded`, `failed`, `canceled`.
    pub status: String,
    /// Meilisearch's name of what it does (`settingsUpdate` …).
    #[serde(rename = "type", default)]
    pub kind: String,
    /// Node-side index.
    #[serde(default)]
    pub index_uid: Option<String>,
    /// What the task counted.
    #[serde(default)]
    pub details: Option<Value>,
    /// Why it failed.
    #[serde(default)]
    pub error: Option<ResponseError>,
    /// The name we gave it, where nodes keep it.
    #[serde(default)]
    pub custom_metadata: Option<String>,
    /// When it was enqueued, as the node says it.
    #[serde(default)]
    pub enqueued_at: String,
}

impl NodeTask {
    /// Whether it is over.
    pub fn ended(&self) -> bool {
        matches!(self.status.as_str(), "succeeded" | "failed" | "canceled")
    }

    /// `details.deletedDocuments`.
    pub fn deleted_documents(&self) -> Option<u64> {
        self.details.as_ref()?.get("deletedDocuments")?.as_u64()
    }
}

#[derive(Deserialize)]
struct NodeTaskList {
    results: Vec<NodeTask>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    task_uid: u64,
}

/// Bodies of documents that are made and sent at once, over all nodes, bytes.
pub const BODIES_BYTES_MAX: usize = 96 << 20;
/// Smaller bodies don't count.
const UNCOUNTED_BODY_BYTES_MAX: usize = 1 << 20;

/// Sends requests to nodes by id.
#[derive(Clone, Debug)]
pub struct NodeCalls {
    transport: Arc<dyn NodeTransport>,
    log: CoordinatorLog,
    /// Nodes that refuse `customMetadata`; learned, and lost with the process.
    nameless: Arc<ArcSwap<BTreeSet<NodeId>>>,
    sent: SentTasks,
    disks: DiskLives,
    /// KiB of [`BODIES_BYTES_MAX`] that are free.
    bodies: Arc<Semaphore>,
}

impl NodeCalls {
    /// Calls over `transport`, to the nodes that `log` knows.
    pub fn new(transport: Arc<dyn NodeTransport>, log: CoordinatorLog, clock: Clock) -> Self {
        Self {
            transport,
            log,
            nameless: Arc::default(),
            sent: SentTasks::new(clock),
            disks: DiskLives::default(),
            bodies: Arc::new(Semaphore::new(BODIES_BYTES_MAX >> 10)),
        }
    }

    /// Waits until a body of so many bytes may be made and sent; it may as long as this is held.
    pub async fn room_for_body(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        if bytes <= UNCOUNTED_BODY_BYTES_MAX {
            return None;
        }
        let units = u32::try_from(bytes.min(BODIES_BYTES_MAX) >> 10).ok()?;
        self.bodies.clone().acquire_many_owned(units).await.ok()
    }

    /// Which tasks of the nodes are ours.
    pub fn sent(&self) -> &SentTasks {
        &self.sent
    }

    /// A task that the node had in an earlier run of this pod, on the life `life` of its disk.
    pub fn note_known(&self, node: &NodeId, life: u64, task: u64) {
        if self.disk_life(node) == life {
            self.disks.note_known(node, task);
        }
    }

    /// The life of the node's disk, as this pod knows: at least what the log knows.
    pub fn disk_life(&self, node: &NodeId) -> u64 {
        self.disk_before(node).0
    }

    fn disk_before(&self, node: &NodeId) -> (u64, Option<u64>) {
        let logged = self.log.routing().disks.get(node).map_or(0, |disk| disk.life);
        self.disks.before(node, logged)
    }

    /// Whether the node remembers the names of requests (`customMetadata`).
    pub fn keeps_names(&self, node: &NodeId) -> bool {
        !self.nameless.load().contains(node)
    }

    /// Remembers that the node refuses names.
    pub fn note_nameless(&self, node: &NodeId) {
        self.nameless.rcu(|known| {
            let mut known = BTreeSet::clone(known);
            known.insert(node.clone());
            known
        });
    }

    /// One request; a 2xx answer's body.
    ///
    /// # Errors
    /// See [`NodeCallError`].
    pub async fn call(
        &self,
        node: &NodeId,
        method: Method,
        path: String,
        body: Option<Bytes>,
        timeout: Duration,
    ) -> Result<Bytes, NodeCallError> {
        let routing = self.log.routing();
        let record =
            routing.nodes.get(node).ok_or_else(|| NodeCallError::UnknownNode(node.clone()))?;
        self.call_at(record, method, path, body, timeout).await
    }

    /// The version of a node that may not belong to the cluster yet.
    ///
    /// # Errors
    /// See [`NodeCallError`].
    pub async fn version_of(&self, record: &NodeRecord) -> Result<String, NodeCallError> {
        let path = "/version".to_owned();
        let answer = self.call_at(record, Method::GET, path, None, CONTROL_TIMEOUT).await?;
        let version: Value = serde_json::from_slice(&answer).map_err(|_| faulty(200, &answer))?;
        let version = version.get("pkgVersion").and_then(Value::as_str);
        version.map(str::to_owned).ok_or_else(|| faulty(200, &answer))
    }

    async fn call_at(
        &self,
        record: &NodeRecord,
        method: Method,
        path: String,
        body: Option<Bytes>,
        timeout: Duration,
    ) -> Result<Bytes, NodeCallError> {
        let answer = self
            .transport
            .send(NodeCall {
                base: record.address.clone(),
                key: record.key.clone(),
                method,
                path,
                content_type: body.as_ref().map(|_| "application/json"),
                body: body.unwrap_or_default(),
                timeout,
                answer_bytes_max: NodeCall::ANSWER_BYTES_MAX,
            })
            .await?;
        let status = answer.status();
        let body = answer.into_body();
        if status.is_success() {
            return Ok(body);
        }
        let refusal = serde_json::from_slice::<ResponseError>(&body);
        match refusal {
            // Missing rights and "try again" are about the node, not about the client's data. What a
            // node does not support it will not support when asked again.
            Ok(error)
                if (status.is_client_error() || status == StatusCode::NOT_IMPLEMENTED)
                    && !matches!(status.as_u16(), 401 | 403 | 408 | 429) =>
            {
                Err(NodeCallError::Refused(error))
            }
            _ => Err(faulty(status.as_u16(), &body)),
        }
    }

    /// One request whose answer is JSON.
    ///
    /// # Errors
    /// See [`NodeCallError`]; an answer of another shape is `Faulty`.
    pub async fn json<T: serde::de::DeserializeOwned>(
        &self,
        node: &NodeId,
        method: Method,
        path: String,
        body: Option<&Value>,
    ) -> Result<T, NodeCallError> {
        let body = body.map(|value| Bytes::from(value.to_string()));
        let answer = self.call(node, method, path, body, CONTROL_TIMEOUT).await?;
        serde_json::from_slice(&answer).map_err(|_| faulty(200, &answer))
    }

    /// Documents of an index on a node, as `POST documents/fetch` finds them.
    ///
    /// # Errors
    /// See [`NodeCallError`].
    pub async fn documents(
        &self,
        node: &NodeId,
        index: &IndexUid,
        query: &Value,
    ) -> Result<Vec<Box<RawValue>>, NodeCallError> {
        #[derive(Deserialize)]
        struct DocumentsPage {
            results: Vec<Box<RawValue>>,
        }
        let path = format!("/indexes/{index}/documents/fetch");
        let body = Some(Bytes::from(query.to_string()));
        let answer = self.call(node, Method::POST, path, body, PAYLOAD_TIMEOUT).await?;
        let page = serde_json::from_slice::<DocumentsPage>(&answer);
        let page =
            page.map_err(|error| NodeCallError::Faulty { status: 200, text: error.to_string() })?;
        Ok(page.results)
    }

    /// A request that makes a task; the node's number of it.
    ///
    /// # Errors
    /// See [`NodeCallError`].
    pub async fn enqueue(
        &self,
        node: &NodeId,
        method: Method,
        path: String,
        body: Option<Bytes>,
        timeout: Duration,
    ) -> Result<u64, NodeCallError> {
        let index = index_of(&path).map(str::to_owned);
        let before = self.disk_before(node);
        let attempt = Attempt { sent: &self.sent, node, index: index.as_deref() };
        let answer = self.call(node, method, path, body, timeout).await;
        match answer.map(|answer| serde_json::from_slice::<Summary>(&answer).map_err(|_| answer)) {
            Ok(Ok(summary)) => {
                attempt.settle(Some(summary.task_uid));
                self.disks.note_made(node, before, summary.task_uid);
                Ok(summary.task_uid)
            }
            Ok(Err(garbage)) => Err(faulty(202, &garbage)),
            Err(error) => {
                if error.not_carried_out() {
                    attempt.settle(None);
                }
                Err(error)
            }
        }
    }

    /// As [`NodeCalls::enqueue`], under a name that the task shows back, if it is about documents. A node
    /// that refuses the parameter (it came with 1.26) is remembered, and asked without from then on.
    ///
    /// # Errors
    /// See [`NodeCallError`].
    pub async fn enqueue_named(
        &self,
        node: &NodeId,
        method: Method,
        path: &str,
        body: Option<Bytes>,
        timeout: Duration,
        name: &str,
    ) -> Result<u64, NodeCallError> {
        let send = |path| self.enqueue(node, method.clone(), path, body.clone(), timeout);
        if !self.takes_name(node, path) {
            return send(path.to_owned()).await;
        }
        let joint = if path.contains('?') { '&' } else { '?' };
        match send(format!("{path}{joint}customMetadata={}", percent_encode(name))).await {
            Err(NodeCallError::Refused(error)) if error.message.contains("customMetadata") => {
                self.note_nameless(node);
                Err(NodeCallError::Nameless)
            }
            answer => answer,
        }
    }

    /// Whether the node is told, and keeps, the name of a request.
    pub fn takes_name(&self, node: &NodeId, path: &str) -> bool {
        path.contains("/documents") && self.keeps_names(node)
    }

    /// The node's tasks that match `query` (`uids=…`, `indexUids=…`), newest first.
    ///
    /// # Errors
    /// See [`NodeCallError`].
    pub async fn tasks(&self, node: &NodeId, query: &str) -> Result<Vec<NodeTask>, NodeCallError> {
        let list: NodeTaskList =
            self.json(node, Method::GET, format!("/tasks?{query}"), None).await?;
        Ok(list.results)
    }

    /// The number of the node's newest task; `None` when it has none.
    ///
    /// # Errors
    /// See [`NodeCallError`].
    pub async fn newest_task(&self, node: &NodeId) -> Result<Option<u64>, NodeCallError> {
        let before = self.disk_before(node);
        let newest = self.tasks(node, "limit=1").await?.first().map(|task| task.uid);
        self.disks.note_newest(node, before, newest);
        Ok(newest)
    }

    /// Looks whether the node's tasks are those of the disk that it had; what is found shows in
    /// [`NodeCalls::disk_life`]. Tasks that were deleted there tell nothing.
    ///
    /// # Errors
    /// See [`NodeCallError`].
    pub async fn look_at_tasks(&self, node: &NodeId) -> Result<(), NodeCallError> {
        let before = self.disk_before(node);
        let newest = self.tasks(node, "limit=1").await?.pop();
        self.disks.note_newest(node, before, newest.as_ref().map(|task| task.uid));
        // Read again after the newest: if it is still there, the newest is of its disk, too.
        if let Some(witness) = self.disks.witness(node) {
            let found = self.tasks(node, &format!("uids={}", witness.task)).await?.pop();
            if found.is_some_and(|task| task.enqueued_at != witness.enqueued_at) {
                self.disks.note_contradicted(node, before);
                return Ok(());
            }
        }
        if let Some(NodeTask { uid, enqueued_at, .. }) = newest {
            self.disks.renew_witness(node, before, Witness { task: uid, enqueued_at });
        }
        Ok(())
    }
}

/// A failure that says nothing about the client's data.
pub fn is_about_the_node(error: &ResponseError) -> bool {
    matches!(
        error.code.as_str(),
        "internal" | "no_space_left_on_device" | "io_error" | "too_many_open_files"
    )
}

fn faulty(status: u16, body: &[u8]) -> NodeCallError {
    const TEXT_BYTES_MAX: usize = 200;
    let shown = body.get(..body.len().min(TEXT_BYTES_MAX)).unwrap_or_default();
    NodeCallError::Faulty { status, text: String::from_utf8_lossy(shown).into_owned() }
}
