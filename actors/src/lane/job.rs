//! What a lane is asked to do, and the requests that makes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::Method;
use miroir_storage::ids::{IndexUid, ShardId, TaskUid};
use miroir_storage::routing::Marks;
use miroir_wire::error::ResponseError;
use miroir_wire::reserved::{Partition, SHARD_FIELD};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::node_calls::{CONTROL_TIMEOUT, PAYLOAD_TIMEOUT};
use crate::prepare::Prepared;

/// Bodies sent to a node stay below this, bytes: nodes accept 100 MB, and some at a time must fit
/// into [`crate::node_calls::BODIES_BYTES_MAX`].
pub const BODY_BYTES_MAX: usize = 24 << 20;

/// Document ids with their shards.
pub type PlacedIds = Arc<Vec<(ShardId, String)>>;

/// A run of tasks for one node.
#[derive(Clone, Debug)]
pub struct Job {
    /// First and last task of the run.
    pub first: TaskUid,
    /// See `first`.
    pub last: TaskUid,
    /// What to do.
    pub work: JobWork,
    /// The shards that the node gets documents of; a copy fills the others of the node.
    pub held: BTreeSet<ShardId>,
}

/// What a run does on the node.
#[derive(Clone, Debug)]
pub enum JobWork {
    /// Creates the index if it isn't there and gives it its settings.
    Provision {
        /// Agreed primary key.
        primary_key: Option<String>,
        /// Node-side settings.
        settings: Value,
    },
    /// Adds or updates documents; each part is one task.
    Documents {
        /// `PUT` instead of `POST`.
        partial: bool,
        /// The batches, in order.
        parts: Vec<(TaskUid, Arc<Prepared>)>,
    },
    /// Deletes documents by id; each part is one task.
    DeleteIds {
        /// The ids of each task, with their shards.
        parts: Vec<(TaskUid, PlacedIds)>,
    },
    /// Carries what a function made of documents: those that it changed, then the deletion of others.
    Edit {
        /// The changed ones, whole.
        changed: Arc<Prepared>,
        /// Those that it deleted.
        deleted: PlacedIds,
    },
    /// Deletes what a filter matches.
    DeleteByFilter {
        /// The client's filter.
        filter: Value,
    },
    /// Deletes every document.
    Clear,
    /// Sends settings that the other nodes already have (a node that catches up).
    Settings {
        /// Node-side settings, one request each, in order.
        requests: Vec<Value>,
    },
    /// Nothing for this node; the lane only moves on.
    Pass,
    /// Deletes what is left of shards that the node no longer holds.
    Empty {
        /// The shards.
        shards: BTreeSet<ShardId>,
        /// The node holds none any more: the whole index is deleted there.
        whole: bool,
        /// Of the index, if it has one.
        primary_key: Option<String>,
    },
}

/// How one task of a run ended on one node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum PartOutcome {
    /// Applied; the documents that the node says it deleted, if it counts them.
    Applied {
        /// `details.deletedDocuments`.
        deleted: Option<u64>,
    },
    /// Refused for what the client sent (or the node's disk). What the task holds of other
    /// shards than these was applied.
    Refused {
        /// The node's error.
        error: ResponseError,
        /// The shards it was refused for.
        shards: BTreeSet<ShardId>,
    },
}

impl PartOutcome {
    /// Whether it says more than "applied".
    pub fn is_notable(&self) -> bool {
        *self != Self::Applied { deleted: None }
    }
}

/// One HTTP request of a job.
#[derive(Clone, Debug)]
pub struct JobRequest {
    /// Method.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// JSON body.
    pub body: JobBody,
    /// Time-out of sending.
    pub timeout: Duration,
    /// A refusal with this code counts as done (`index_already_exists` when provisioning).
    pub accepts: Option<&'static str>,
    /// Whether sending it twice is harmless while nothing newer is in between.
    pub repeatable: bool,
}

/// The body of a request.
#[derive(Clone, Debug)]
pub enum JobBody {
    /// None.
    None,
    /// This.
    Bytes(Bytes),
    /// Some of a run's documents. Made when it is sent, so that a large run is not in memory as
    /// a whole.
    Documents(DocumentsBody),
}

impl JobBody {
    /// Its length, bytes.
    pub fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Bytes(bytes) => bytes.len(),
            Self::Documents(documents) => documents.len,
        }
    }

    /// Whether it has not one byte.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The body; that of documents is made anew each time.
    pub fn bytes(&self) -> Option<Bytes> {
        match self {
            Self::None => None,
            Self::Bytes(bytes) => Some(bytes.clone()),
            Self::Documents(documents) => Some(documents.bytes()),
        }
    }
}

impl JobRequest {
    /// Meilisearch's name of the task that it makes.
    pub fn task_kind(&self) -> &'static str {
        let path = self.path.split('?').next().unwrap_or_default();
        if self.method == Method::DELETE && path.matches('/').count() == 2 {
            return "indexDeletion";
        }
        match (path.rsplit('/').next().unwrap_or_default(), &self.method) {
            ("settings", _) => "settingsUpdate",
            ("indexes", _) => "indexCreation",
            ("documents", method) if *method != Method::DELETE => "documentAdditionOrUpdate",
            _ => "documentDeletion",
        }
    }
}

/// What the requests of one index on one node have in common.
#[derive(Clone, Debug)]
pub struct JobTarget {
    /// The index.
    pub index: IndexUid,
    /// How documents are marked.
    pub marks: Marks,
    /// The shards the node gets.
    pub held: BTreeSet<ShardId>,
}

impl JobWork {
    /// Requests for a whole run (every part joined). Empty when the node holds nothing of it.
    pub fn requests(&self, target: &JobTarget) -> Vec<JobRequest> {
        match self {
            Self::Pass => Vec::new(),
            Self::Empty { whole: true, .. } => {
                let path = format!("/indexes/{}", target.index);
                let accepts = Some("index_not_found");
                vec![JobRequest { accepts, ..control(Method::DELETE, path, None) }]
            }
            Self::Empty { shards, whole: false, .. } => {
                let path = format!("/indexes/{}/documents/delete", target.index);
                let body = json!({ "filter": in_shards(shards, target.marks.current) });
                vec![control(Method::POST, path, Some(&body))]
            }
            Self::Provision { primary_key, settings } => {
                let create = json!({ "uid": target.index.as_str(), "primaryKey": primary_key });
                vec![
                    JobRequest {
                        accepts: Some("index_already_exists"),
                        ..control(Method::POST, "/indexes".into(), Some(&create))
                    },
                    control(Method::PATCH, settings_path(&target.index), Some(settings)),
                ]
            }
            Self::Settings { requests } => requests
                .iter()
                .map(|body| control(Method::PATCH, settings_path(&target.index), Some(body)))
                .collect(),
            Self::Documents { partial, parts } => {
                let batches = parts.iter().map(|(_, batch)| batch.clone()).collect();
                documents_requests(*partial, batches, target)
            }
            Self::DeleteIds { parts } => {
                let ids = parts.iter().flat_map(|(_, ids)| ids.iter());
                deletion_request(ids, target).into_iter().collect()
            }
            Self::Edit { changed, deleted } => {
                let mut requests = documents_requests(false, vec![changed.clone()], target);
                requests.extend(deletion_request(deleted.iter(), target));
                requests
            }
            Self::DeleteByFilter { filter } => {
                let path = format!("/indexes/{}/documents/delete", target.index);
                let body = json!({ "filter": filter });
                vec![JobRequest { repeatable: false, ..control(Method::POST, path, Some(&body)) }]
            }
            Self::Clear => {
                let path = format!("/indexes/{}/documents", target.index);
                vec![control(Method::DELETE, path, None)]
            }
        }
    }

    /// Whether it is about the index on the node rather than about tasks: the lane stays where it is.
    pub fn is_aside(&self) -> bool {
        matches!(self, Self::Provision { .. } | Self::Empty { .. })
    }

    /// The run cut into single tasks, for when a joined request was refused.
    pub fn singly(&self) -> Option<Vec<(TaskUid, JobWork)>> {
        match self {
            Self::Documents { partial, parts } if parts.len() > 1 => Some(
                parts
                    .iter()
                    .map(|part| {
                        let work = Self::Documents { partial: *partial, parts: vec![part.clone()] };
                        (part.0, work)
                    })
                    .collect(),
            ),
            Self::DeleteIds { parts } if parts.len() > 1 => Some(
                parts
                    .iter()
                    .map(|part| (part.0, Self::DeleteIds { parts: vec![part.clone()] }))
                    .collect(),
            ),
            _ => None,
        }
    }

    /// The shards that a single task's documents touch on this node. A refused request is sent
    /// again shard by shard: every replica of a shard gets the same request then, so that they
    /// stay equal whatever their nodes hold besides.
    pub fn shards(&self, target: &JobTarget) -> BTreeSet<ShardId> {
        match self {
            Self::Documents { parts, .. } => parts
                .iter()
                .flat_map(|(_, batch)| &batch.documents)
                .map(|(shard, ..)| *shard)
                .filter(|shard| target.held.contains(shard))
                .collect(),
            _ => target.held.clone(),
        }
    }

    /// The tasks whose outcome this run decides.
    pub fn tasks(&self, last: TaskUid) -> Vec<TaskUid> {
        match self {
            Self::Documents { parts, .. } => parts.iter().map(|(uid, _)| *uid).collect(),
            Self::DeleteIds { parts } => parts.iter().map(|(uid, _)| *uid).collect(),
            _ => vec![last],
        }
    }
}

/// Deletes those of the documents that the node holds.
fn deletion_request<'a>(
    ids: impl Iterator<Item = &'a (ShardId, String)>,
    target: &JobTarget,
) -> Option<JobRequest> {
    let held = ids.filter(|(shard, _)| target.held.contains(shard));
    deletion_of(held.map(|(_, id)| id.as_str()).collect(), &target.index)
}

/// Deletes documents by id, if there are any.
pub(super) fn deletion_of(ids: Vec<&str>, index: &IndexUid) -> Option<JobRequest> {
    let path = format!("/indexes/{index}/documents/delete-batch");
    (!ids.is_empty()).then(|| control(Method::POST, path, Some(&json!(ids))))
}

/// Sends settings; the lane may repeat it.
pub(super) fn settings_request(index: &IndexUid, settings: &Value) -> JobRequest {
    control(Method::PATCH, settings_path(index), Some(settings))
}

fn settings_path(index: &IndexUid) -> String {
    format!("/indexes/{index}/settings")
}

fn control(method: Method, path: String, body: Option<&Value>) -> JobRequest {
    JobRequest {
        method,
        path,
        body: match body {
            Some(value) => JobBody::Bytes(Bytes::from(value.to_string())),
            None => JobBody::None,
        },
        timeout: CONTROL_TIMEOUT,
        accepts: None,
        repeatable: true,
    }
}

/// A JSON array of documents of one node, the shard field first in each.
#[derive(Clone, Debug)]
pub struct DocumentsBody {
    batches: Arc<Vec<Arc<Prepared>>>,
    target: Arc<JobTarget>,
    /// The first document, and the one after the last: batch, and place in it.
    from: (usize, usize),
    to: (usize, usize),
    len: usize,
}

impl DocumentsBody {
    fn bytes(&self) -> Bytes {
        let mut body = BytesMut::with_capacity(self.len);
        let mut tokens = Tokens::default();
        for (at, n, shard, rest) in documents_of(&self.batches, &self.target) {
            if (at, n) >= self.from && (at, n) < self.to {
                body.put_u8(if body.is_empty() { b'[' } else { b',' });
                let beside = self.batches.get(at).and_then(|batch| batch.beside.get(n)).copied();
                body.put_slice(tokens.get(self.target.marks, shard, beside));
                body.put_slice(rest);
            }
        }
        body.put_u8(b']');
        body.freeze()
    }
}

/// What documents begin with, by their shards.
#[derive(Default)]
struct Tokens(BTreeMap<(ShardId, Option<ShardId>), Bytes>);

impl Tokens {
    fn get(&mut self, marks: Marks, shard: ShardId, beside: Option<ShardId>) -> &[u8] {
        self.0.entry((shard, beside)).or_insert_with(|| {
            Bytes::from(format!("{{\"{SHARD_FIELD}\":{},", mark(marks, shard, beside)))
        })
    }
}

/// The node's documents: batch, place in it, shard, and what follows the opening brace.
fn documents_of<'a>(
    batches: &'a [Arc<Prepared>],
    target: &'a JobTarget,
) -> impl Iterator<Item = (usize, usize, ShardId, &'a [u8])> {
    batches.iter().enumerate().flat_map(move |(at, batch)| {
        let held = move |(n, (shard, start, end)): (usize, &(ShardId, u32, u32))| {
            let document = batch.bytes.get(*start as usize..*end as usize)?;
            // It begins with `{` and holds at least its id.
            let rest = document.get(1..).unwrap_or_default();
            target.held.contains(shard).then_some((at, n, *shard, rest))
        };
        batch.documents.iter().enumerate().filter_map(held)
    })
}

/// The node's documents, cut at [`BODY_BYTES_MAX`]. Their order is kept: the last of two with one
/// id wins.
fn documents_requests(
    partial: bool,
    batches: Vec<Arc<Prepared>>,
    target: &JobTarget,
) -> Vec<JobRequest> {
    let Some(primary_key) = batches.first().map(|batch| percent_encode(&batch.primary_key)) else {
        return Vec::new();
    };
    let (batches, target) = (Arc::new(batches), Arc::new(target.clone()));
    let mut tokens = Tokens::default();
    let mut bodies: Vec<DocumentsBody> = Vec::new();
    for (at, n, shard, rest) in documents_of(&batches, &target) {
        let beside = batches.get(at).and_then(|batch| batch.beside.get(n)).copied();
        // With what is put before it.
        let len = tokens.get(target.marks, shard, beside).len() + rest.len() + 1;
        match bodies.last_mut() {
            Some(body) if body.len + len <= BODY_BYTES_MAX => {
                (body.to, body.len) = ((at, n + 1), body.len + len);
            }
            _ => bodies.push(DocumentsBody {
                batches: batches.clone(),
                target: target.clone(),
                from: (at, n),
                to: (at, n + 1),
                len: len + 1,
            }),
        }
    }
    let method = if partial { Method::PUT } else { Method::POST };
    bodies
        .into_iter()
        .map(|body| JobRequest {
            method: method.clone(),
            path: format!("/indexes/{}/documents?primaryKey={primary_key}", target.index),
            body: JobBody::Documents(body),
            timeout: PAYLOAD_TIMEOUT,
            accepts: None,
            repeatable: true,
        })
        .collect()
}

/// What the shard field of a document holds, as JSON: its token, or both while there are two
/// partitions that it is marked for.
pub(super) fn mark(marks: Marks, shard: ShardId, beside: Option<ShardId>) -> String {
    let token = marks.current.token(shard.0);
    match marks.beside().zip(beside) {
        None => format!("\"{token}\""),
        Some((partition, beside)) => format!("[\"{token}\",\"{}\"]", partition.token(beside.0)),
    }
}

/// The filter that matches the documents of these shards.
pub(crate) fn in_shards(shards: &BTreeSet<ShardId>, of: Partition) -> String {
    format!("{SHARD_FIELD} IN [{}]", tokens(shards.iter().copied(), of))
}

/// The filter that matches the documents that are not marked for a partition.
pub fn unmarked(partition: Partition) -> String {
    let shards = (0..partition.shards).map(ShardId);
    format!("{SHARD_FIELD} NOT IN [{}]", tokens(shards, partition))
}

fn tokens(shards: impl Iterator<Item = ShardId>, of: Partition) -> String {
    let quoted: Vec<String> = shards.map(|shard| format!("\"{}\"", of.token(shard.0))).collect();
    quoted.join(", ")
}

/// Percent-encodes everything but RFC 3986's unreserved characters.
pub(crate) fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte));
            }
            other => encoded.push_str(&format!("%{other:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(held: &[u32]) -> JobTarget {
        JobTarget {
            index: IndexUid::from("3-movies"),
            marks: Marks::first(64),
            held: held.iter().map(|shard| ShardId(*shard)).collect(),
        }
    }

    #[test]
    fn a_node_gets_its_shards_only_with_the_shard_first() {
        let batch = Prepared {
            primary_key: "id".into(),
            bytes: Bytes::from_static(b"{\"id\":1}{ \"id\":2}{\"id\":3}"),
            documents: vec![(ShardId(0), 0, 8), (ShardId(9), 8, 17), (ShardId(1), 17, 25)],
            beside: Vec::new(),
        };
        let work =
            JobWork::Documents { partial: false, parts: vec![(TaskUid(7), Arc::new(batch))] };
        let requests = work.requests(&target(&[0, 9]));
        assert_eq!(requests.len(), 1);
        let body: Value = serde_json::from_slice(&requests[0].body.bytes().unwrap_or_default())
            .unwrap_or_default();
        assert_eq!(
            body,
            json!([{"_miroir_shard": "††", "id": 1}, {"_miroir_shard": "‡‡", "id": 2}])
        );
        assert!(work.requests(&target(&[5])).is_empty());
    }

    #[test]
    fn a_large_run_is_cut_into_bodies_that_are_made_one_at_a_time() {
        let text = "x".repeat(BODY_BYTES_MAX / 5);
        let mut bytes = Vec::new();
        let mut documents = Vec::new();
        for id in 0..13 {
            let start = bytes.len() as u32;
            bytes.extend_from_slice(format!("{{\"id\":{id},\"text\":\"{text}\"}}").as_bytes());
            documents.push((ShardId(id % 2), start, bytes.len() as u32));
        }
        let batch = Arc::new(Prepared {
            primary_key: "id".into(),
            bytes: bytes.into(),
            documents,
            beside: Vec::new(),
        });
        // Twice the same: cut across tasks, too.
        let parts = vec![(TaskUid(7), batch.clone()), (TaskUid(8), batch)];
        let work = JobWork::Documents { partial: false, parts };
        let mut sent: Vec<u64> = Vec::new();
        for request in work.requests(&target(&[0])) {
            let body = request.body.bytes().unwrap_or_default();
            assert_eq!(body.len(), request.body.len());
            assert!(body.len() <= BODY_BYTES_MAX);
            let documents: Vec<Value> = serde_json::from_slice(&body).unwrap_or_default();
            sent.extend(documents.iter().filter_map(|document| document["id"].as_u64()));
        }
        let once = [0, 2, 4, 6, 8, 10, 12];
        assert_eq!(sent, [once, once].concat());
    }

    #[test]
    fn documents_carry_both_marks_while_there_are_two_partitions() {
        let next = Partition { shards: 128, generation: 1 };
        let marks = Marks { next: Some(next), ..Marks::first(64) };
        let batch = Prepared {
            primary_key: "id".into(),
            bytes: Bytes::from_static(b"{\"id\":1}{\"id\":2}"),
            documents: vec![(ShardId(0), 0, 8), (ShardId(0), 8, 16)],
            beside: vec![ShardId(64), ShardId(0)],
        };
        let work =
            JobWork::Documents { partial: false, parts: vec![(TaskUid(7), Arc::new(batch))] };
        let requests = work.requests(&JobTarget { marks, ..target(&[0]) });
        let body: Value = serde_json::from_slice(&requests[0].body.bytes().unwrap_or_default())
            .unwrap_or_default();
        assert_eq!(
            body,
            json!([
                {"_miroir_shard": ["††", next.token(64)], "id": 1},
                {"_miroir_shard": ["††", next.token(0)], "id": 2},
            ])
        );
    }
}
