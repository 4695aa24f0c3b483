//! Copying an index's shards to one node from in-sync replicas of them.
//!
//! Owns: one copy. The writer starts it under a hold: every lane of the index is idle at one
//! place, and stays so until [`WriterMessage::CopyEnded`]; so a page can neither miss a write
//! nor overtake one. Writes go on being accepted into the journal meanwhile. A restart begins
//! the copy again. The target's index is made anew, so that nothing stale survives; or, when the
//! target is itself read for some of its shards, the others are emptied and filled.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use miroir_seams::planted::{self, Bug};
use miroir_storage::ids::{IndexUid, NodeId, ShardId};
use miroir_storage::routing::IndexRouting;
use miroir_wire::reserved::{SHARD_FIELD, shard_token};
use ractor::ActorProcessingErr;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::inspect::{Actor, Address};
use crate::node_calls::{NodeCallError, PAYLOAD_TIMEOUT};
use crate::node_settings::{node_side, node_side_whole};
use crate::node_tasks::NodeTasksMessage;
use crate::pod::PodContext;
use crate::writer::WriterMessage;

/// Documents read and written at a time.
const PAGE_DOCUMENTS: usize = 1000;

/// While a task of the target runs, how often the target's health is looked at.
const TARGET_LOOK: Duration = Duration::from_secs(1);

/// Why a copy did not come to its end. It is tried again.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// A node failed or refused.
    #[error(transparent)]
    Call(#[from] NodeCallError),
    /// The target's task failed.
    #[error("target refused a page: {0}")]
    TargetRefused(String),
    /// The target went down.
    #[error("target is down")]
    TargetDown,
    /// The target did not say how its task ended.
    #[error("target lost a task")]
    TaskLost,
    /// Fewer or more documents arrived than were sent.
    #[error("{copied} documents were copied, but the target holds {held}")]
    CountDiffers {
        /// Sent.
        copied: u64,
        /// Counted by the target.
        held: u64,
    },
    /// The index is gone.
    #[error("index is gone")]
    IndexGone,
}

/// How a copy starts.
#[derive(Clone, Debug)]
pub struct ReplicaCopyArguments {
    /// The pod.
    pub pod: Arc<PodContext>,
    /// Whom to report to.
    pub writer: Address<WriterMessage>,
    /// The index.
    pub index: IndexUid,
    /// The node to fill.
    pub target: NodeId,
    /// Where each of the target's shards is read; shards without a source are left empty.
    pub sources: BTreeMap<NodeId, BTreeSet<ShardId>>,
    /// The shards to fill, when the target is read for its others; `None`: the target's index
    /// is made anew.
    pub missing: Option<BTreeSet<ShardId>>,
}

/// The copying actor: one message, one copy.
#[derive(Debug)]
pub struct ReplicaCopy;

#[ractor::async_trait]
impl Actor for ReplicaCopy {
    type Msg = ();
    type State = ReplicaCopyArguments;
    type Arguments = ReplicaCopyArguments;

    const KIND: &'static str = "ReplicaCopy";
    const TRANSIENT: bool = true;

    async fn pre_start(
        &self,
        myself: Address<()>,
        arguments: ReplicaCopyArguments,
    ) -> Result<ReplicaCopyArguments, ActorProcessingErr> {
        myself.cast(())?;
        Ok(arguments)
    }

    async fn handle(
        &self,
        myself: Address<()>,
        _run: (),
        arguments: &mut ReplicaCopyArguments,
    ) -> Result<(), ActorProcessingErr> {
        let newest_task = match copy(arguments).await {
            Ok(newest) => Some(newest),
            Err(error) => {
                tracing::warn!(index = %arguments.index, target = %arguments.target, %error, "copy failed");
                None
            }
        };
        let target = arguments.target.clone();
        let _writer_gone = arguments.writer.cast(WriterMessage::CopyEnded { target, newest_task });
        myself.stop(None);
        Ok(())
    }
}

/// The shards of a target, each assigned to the first of its sources.
pub fn assign_sources(
    held: &BTreeSet<ShardId>,
    target: &NodeId,
    in_sync: impl Fn(ShardId) -> BTreeSet<NodeId>,
    usable: impl Fn(&NodeId) -> bool,
) -> BTreeMap<NodeId, BTreeSet<ShardId>> {
    let mut sources: BTreeMap<NodeId, BTreeSet<ShardId>> = BTreeMap::new();
    for shard in held {
        let source = in_sync(*shard).into_iter().find(|node| node != target && usable(node));
        if let Some(source) = source {
            sources.entry(source).or_default().insert(*shard);
        }
    }
    sources
}

async fn copy(arguments: &ReplicaCopyArguments) -> Result<u64, CopyError> {
    let routing = arguments.pod.log.routing();
    let index = routing.by_uid.get(&arguments.index).ok_or(CopyError::IndexGone)?;
    let uid = &arguments.index;
    let target = &arguments.target;
    match &arguments.missing {
        None => make_anew(arguments, index).await?,
        Some(missing) => {
            put_settings_right(arguments, index).await?;
            let path = format!("/indexes/{uid}/documents/delete");
            let body = json!({ "filter": in_shards(missing, index.shards) });
            task(arguments, Method::POST, path, Some(json_body(&body))).await?;
        }
    }

    let mut copied = 0;
    for (source, shards) in &arguments.sources {
        let filter = in_shards(shards, index.shards);
        let mut offset = 0;
        loop {
            let mut page = read_page(arguments, source, &filter, offset).await?;
            let count = page.len();
            if planted::has(Bug::CopyShort) && count > 1 {
                page.pop();
            }
            if count > 0 {
                let key = index.primary_key.as_deref().unwrap_or("id");
                let key = crate::lane::job::percent_encode(key);
                let path = format!("/indexes/{uid}/documents?primaryKey={key}");
                task(arguments, Method::POST, path, Some(array_of(&page))).await?;
                copied += page.len() as u64;
            }
            offset += count;
            if count < PAGE_DOCUMENTS {
                break;
            }
        }
    }
    let held = count(arguments, index).await?;
    if held != copied {
        return Err(CopyError::CountDiffers { copied, held });
    }
    tracing::info!(index = %uid, %target, documents = copied, "replica copied");
    Ok(arguments.pod.calls.newest_task(target).await?.unwrap_or(0))
}

/// Removes the target's index, and creates it with its settings.
async fn make_anew(
    arguments: &ReplicaCopyArguments,
    index: &IndexRouting,
) -> Result<(), CopyError> {
    let uid = &arguments.index;
    match task(arguments, Method::DELETE, format!("/indexes/{uid}"), None).await {
        Err(CopyError::TargetRefused(code)) if code == "index_not_found" => {}
        other => {
            other?;
        }
    }
    let create = json!({ "uid": uid.as_str(), "primaryKey": index.primary_key });
    task(arguments, Method::POST, "/indexes".into(), Some(json_body(&create))).await?;
    let settings = node_side(&index.settings);
    let path = format!("/indexes/{uid}/settings");
    task(arguments, Method::PATCH, path, Some(json_body(&settings))).await
}

/// Gives the target the settings whole: what isn't set goes back to its default.
async fn put_settings_right(
    arguments: &ReplicaCopyArguments,
    index: &IndexRouting,
) -> Result<(), CopyError> {
    let path = format!("/indexes/{}/settings", arguments.index);
    let calls = &arguments.pod.calls;
    let read = match calls.json(&arguments.target, Method::GET, path.clone(), None).await {
        // Settings create it.
        Err(NodeCallError::Refused(error)) if error.code == "index_not_found" => Value::Null,
        answer => answer?,
    };
    let settings = node_side_whole(&index.settings, &read);
    task(arguments, Method::PATCH, path, Some(json_body(&settings))).await
}

fn in_shards(shards: &BTreeSet<ShardId>, of: u32) -> String {
    let tokens: Vec<String> =
        shards.iter().map(|shard| format!("\"{}\"", shard_token(shard.0, of))).collect();
    format!("{SHARD_FIELD} IN [{}]", tokens.join(", "))
}

/// Documents that the target holds of the shards that were to be filled.
async fn count(arguments: &ReplicaCopyArguments, index: &IndexRouting) -> Result<u64, CopyError> {
    let uid = &arguments.index;
    let calls = &arguments.pod.calls;
    let target = &arguments.target;
    let (answer, field): (Value, _) = match &arguments.missing {
        None => {
            let path = format!("/indexes/{uid}/stats");
            (calls.json(target, Method::GET, path, None).await?, "numberOfDocuments")
        }
        Some(missing) => {
            let path = format!("/indexes/{uid}/documents/fetch");
            let query = json!({ "filter": [in_shards(missing, index.shards)], "limit": 0 });
            (calls.json(target, Method::POST, path, Some(&query)).await?, "total")
        }
    };
    Ok(answer.get(field).and_then(Value::as_u64).unwrap_or(0))
}

#[derive(Deserialize)]
struct DocumentsPage {
    results: Vec<Box<RawValue>>,
}

async fn read_page(
    arguments: &ReplicaCopyArguments,
    source: &NodeId,
    filter: &str,
    offset: usize,
) -> Result<Vec<Box<RawValue>>, CopyError> {
    let routing = arguments.pod.log.routing();
    // Vectors travel with their documents; nodes without embedders refuse the flag on some
    // versions, and then have none to send.
    let with_vectors = routing.by_uid.get(&arguments.index).is_some_and(|index| {
        index
            .settings
            .effective()
            .get("embedders")
            .is_some_and(|e| e.as_object().is_some_and(|embedders| !embedders.is_empty()))
    });
    let mut query = json!({ "filter": [filter], "offset": offset, "limit": PAGE_DOCUMENTS });
    if with_vectors && let Value::Object(query) = &mut query {
        query.insert("retrieveVectors".into(), json!(true));
    }
    let path = format!("/indexes/{}/documents/fetch", arguments.index);
    let page: DocumentsPage =
        arguments.pod.calls.json(source, Method::POST, path, Some(&query)).await?;
    Ok(page.results)
}

async fn task(
    arguments: &ReplicaCopyArguments,
    method: Method,
    path: String,
    body: Option<Bytes>,
) -> Result<(), CopyError> {
    let pod = &arguments.pod;
    let target = &arguments.target;
    let sent = pod.calls.enqueue(target, method, path, body, PAYLOAD_TIMEOUT).await;
    let uid = match sent {
        Ok(uid) => uid,
        Err(NodeCallError::Refused(error)) => return Err(CopyError::TargetRefused(error.code)),
        Err(error) => return Err(error.into()),
    };
    let follower = pod.follower(target).ok_or(CopyError::TaskLost)?;
    let (reply, ended) = oneshot::channel();
    follower.cast(NodeTasksMessage::Follow { uid, reply }).map_err(|_| CopyError::TaskLost)?;
    let mut ended = ended;
    let ended = loop {
        match tokio::time::timeout(TARGET_LOOK, &mut ended).await {
            Ok(end) => break end.ok().flatten().ok_or(CopyError::TaskLost)?,
            // Writes of the index wait for the copy; they must not wait for a dead node.
            Err(_) if pod.health.is_down(target) => return Err(CopyError::TargetDown),
            Err(_) => {}
        }
    };
    match ended.error {
        Some(error) => Err(CopyError::TargetRefused(error.code)),
        None => Ok(()),
    }
}

fn json_body(value: &Value) -> Bytes {
    Bytes::from(value.to_string())
}

fn array_of(documents: &[Box<RawValue>]) -> Bytes {
    let mut body =
        Vec::with_capacity(documents.iter().map(|d| d.get().len() + 1).sum::<usize>() + 2);
    for (n, document) in documents.iter().enumerate() {
        body.push(if n == 0 { b'[' } else { b',' });
        body.extend_from_slice(document.get().as_bytes());
    }
    body.push(b']');
    Bytes::from(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_shard_is_read_from_one_usable_in_sync_replica_that_is_not_the_target() {
        let target = NodeId::from("a");
        let held = BTreeSet::from([ShardId(0), ShardId(1), ShardId(2)]);
        let in_sync = |shard: ShardId| match shard.0 {
            0 => BTreeSet::from([NodeId::from("a"), NodeId::from("b")]),
            1 => BTreeSet::from([NodeId::from("c")]),
            _ => BTreeSet::from([NodeId::from("a")]),
        };
        let sources = assign_sources(&held, &target, in_sync, |node| node.as_str() != "c");
        assert_eq!(sources, BTreeMap::from([(NodeId::from("b"), BTreeSet::from([ShardId(0)]))]));
    }
}
