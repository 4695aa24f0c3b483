//! Copying shards of an index to one node from in-sync replicas of them, while writes go on.
//!
//! Owns: one copy, pass by pass as the writer orders them ([`crate::writer::copying`]). The first
//! pass lists the ids of each shard in one request, which is one moment of the source, and copies
//! the documents of these ids as they are by then. Whatever was written since is in what the writer
//! notes and orders copied again: documents that are there are sent whole, others are deleted. The
//! last pass runs while every lane of the index stands at one place; after it the target equals its
//! sources. The target's lane sends it nothing of these shards meanwhile, so no partial
//! update can meet a missing document, and no page a newer write.
//!
//! A restart begins the copy again. The target's index is made anew, so that nothing stale survives;
//! or, when the target is itself read for some of its shards, the others are emptied and filled.

mod checks;
mod pages;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use miroir_membership::placement::shard_of;
use miroir_seams::TransportError;
use miroir_seams::planted::{self, Bug};
use miroir_storage::commands::{Command, Fence, Outcome};
use miroir_storage::ids::{NodeId, ShardId};
use miroir_storage::log::ProposeError;
use miroir_storage::routing::IndexRouting;
use miroir_storage::tables::disks::{Content, ReplicaRecord};
use ractor::ActorProcessingErr;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use self::pages::{arrays_of, id_of, json_body};
use crate::inspect::{Actor, Address};
use crate::lane::audit::unexplained_since;
use crate::lane::job::{in_shards, percent_encode};
use crate::lane::turn::Turn;
use crate::node_calls::{NodeCallError, PAYLOAD_TIMEOUT};
use crate::node_settings::{node_side, node_side_whole};
use crate::node_tasks::NodeTasksMessage;
use crate::pod::PodContext;
use crate::writer::WriterMessage;

/// Documents read and written at a time.
const PAGE_DOCUMENTS: usize = 1000;
/// Ids listed at a time: all of a shard, so that they are of one moment.
const LISTED_MAX: u32 = u32::MAX;
/// While a task of the target runs, how often the target's health is looked at.
const TARGET_LOOK: Duration = Duration::from_secs(1);
/// Reads of one page before the copy is given up.
const READS_MAX: u32 = 5;
/// Between two of them, and between two looks at whether this pod still writes the index.
const PAUSE: Duration = Duration::from_millis(200);

/// Why a copy did not come to its end. It is tried again.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// A node failed or refused.
    #[error(transparent)]
    Call(#[from] NodeCallError),
    /// The target's task failed.
    #[error("target refused a page: {0}")]
    TargetRefused(String),
    /// The target went down, or was removed from the cluster.
    #[error("target is down or removed")]
    TargetDown,
    /// The target did not say how its task ended.
    #[error("target lost a task")]
    TaskLost,
    /// The target carried out a task that nobody sent by now.
    #[error("target carried out task {0}, which nobody sent by now")]
    Stray(u64),
    /// Fewer or more documents arrived than were sent.
    #[error("the sources hold {expected} documents, but the target {held}")]
    CountDiffers {
        /// Counted by the sources.
        expected: u64,
        /// Counted by the target.
        held: u64,
    },
    /// A source lost its disk, or the index.
    #[error("{0} no longer has the index")]
    SourceLost(NodeId),
    /// A source sent a document without an id.
    #[error("a source sent a document without an id")]
    NoId,
    /// The log could not be told.
    #[error(transparent)]
    Log(#[from] ProposeError),
    /// The index is gone.
    #[error("index is gone")]
    IndexGone,
    /// Another pod writes the index.
    #[error("a newer writer of the index exists")]
    Fenced,
    /// The writer needs the copy no more, or must begin it again.
    #[error("copy was given up")]
    GivenUp,
}

/// What changed on the sources since they were read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Documents that were written or deleted by id.
    pub ids: BTreeSet<String>,
    /// Documents were deleted whose ids nobody knows.
    pub by_filter: bool,
}

/// What a copy is told, one after the other.
#[derive(Clone, Debug)]
pub enum CopyPass {
    /// Prepare the target and copy every document.
    Everything,
    /// Copy again what was touched.
    Again(Touched),
    /// The same, after everything if that was not copied yet, with every lane at one place.
    Last(Touched),
}

/// How a pass ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PassEnd {
    /// Done; another must follow.
    Done,
    /// The target equals its sources.
    Finished {
        /// The newest task of the target.
        newest_task: u64,
    },
    /// A source no longer has the index. The copy must begin again, without it.
    SourceLost(NodeId),
    /// The copy must begin again.
    Failed,
}

/// How a copy starts.
#[derive(Clone, Debug)]
pub struct ReplicaCopyArguments {
    /// The pod.
    pub pod: Arc<PodContext>,
    /// Whom to report to.
    pub writer: Address<WriterMessage>,
    /// The writer's.
    pub fence: Fence,
    /// Tells the copies of one writer apart.
    pub number: u64,
    /// The node to fill.
    pub target: NodeId,
    /// Where each of the target's shards is read; shards without a source are left empty.
    pub sources: BTreeMap<NodeId, BTreeSet<ShardId>>,
    /// The shards to empty and fill, when the target is read for its others or may hold what nobody
    /// else does; `None`: the target's index is made anew.
    pub missing: Option<BTreeSet<ShardId>>,
    /// The life of the target's disk.
    pub disk_life: u64,
    /// Shared with the target's lane: one of both has a task open there.
    pub turn: Turn,
    /// It only brings shards to where they belong: it keeps to the pace that operators set.
    pub is_move: bool,
    /// Only the documents of its one pass are copied: the target has the others.
    pub is_repair: bool,
    /// Requests that were sent; a part of their names.
    pub requests: Arc<AtomicU64>,
    /// Set when the copy is to end without result.
    pub given_up: Arc<AtomicBool>,
}

/// The copying actor.
#[derive(Debug)]
pub struct ReplicaCopy;

/// A copy under way.
#[derive(Debug)]
pub struct ReplicaCopyState {
    arguments: ReplicaCopyArguments,
    /// The target's newest task before the first of the copy; the first pass has begun.
    first_task: Option<Option<u64>>,
}

#[ractor::async_trait]
impl Actor for ReplicaCopy {
    type Msg = CopyPass;
    type State = ReplicaCopyState;
    type Arguments = ReplicaCopyArguments;

    const KIND: &'static str = "ReplicaCopy";
    const TRANSIENT: bool = true;

    async fn pre_start(
        &self,
        _myself: Address<CopyPass>,
        arguments: ReplicaCopyArguments,
    ) -> Result<ReplicaCopyState, ActorProcessingErr> {
        Ok(ReplicaCopyState { arguments, first_task: None })
    }

    async fn handle(
        &self,
        myself: Address<CopyPass>,
        pass: CopyPass,
        state: &mut ReplicaCopyState,
    ) -> Result<(), ActorProcessingErr> {
        let end = match state.run(pass).await {
            Ok(end) => end,
            Err(CopyError::SourceLost(source)) => PassEnd::SourceLost(source),
            Err(error) => {
                let ReplicaCopyArguments { fence, target, .. } = &state.arguments;
                tracing::warn!(index = %fence.index, %target, %error, "copy failed");
                PassEnd::Failed
            }
        };
        if end != PassEnd::Done {
            myself.stop(None);
        }
        let number = state.arguments.number;
        let _writer_gone = state.arguments.writer.cast(WriterMessage::CopyPassed { number, end });
        Ok(())
    }
}

/// How long so many documents are to take at `rate` documents a second; 0: as fast as it goes.
fn pause_after(documents: usize, rate: u32) -> Duration {
    match rate {
        0 => Duration::ZERO,
        rate => Duration::from_secs_f64(documents as f64 / f64::from(rate)),
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

impl ReplicaCopyState {
    async fn run(&mut self, pass: CopyPass) -> Result<PassEnd, CopyError> {
        if self.first_task.is_none() {
            let target = &self.arguments.target;
            self.first_task = Some(self.arguments.pod.calls.newest_task(target).await?);
            self.arguments.look_at_sources().await?;
            if !self.arguments.is_repair {
                self.arguments.note(Content::Filling).await?;
                self.arguments.everything().await?;
            }
        }
        match pass {
            CopyPass::Everything => Ok(PassEnd::Done),
            CopyPass::Again(touched) => {
                self.arguments.again(&touched, false).await?;
                Ok(PassEnd::Done)
            }
            CopyPass::Last(touched) => {
                self.arguments.again(&touched, true).await?;
                self.finish().await
            }
        }
    }

    /// Nothing of the index is under way anywhere: what the target has must be what was sent.
    async fn finish(&self) -> Result<PassEnd, CopyError> {
        let ReplicaCopyArguments { pod, fence, target, .. } = &self.arguments;
        let documents = self.arguments.compare_counts().await?;
        let since = self.first_task.flatten();
        if let Some(stray) = unexplained_since(&pod.calls, target, &fence.index, since).await? {
            return Err(CopyError::Stray(stray));
        }
        let newest_task = pod.calls.newest_task(target).await?.unwrap_or(0);
        self.arguments.note(Content::Whole).await?;
        tracing::info!(index = %fence.index, %target, documents, "replica copied");
        Ok(PassEnd::Finished { newest_task })
    }
}

impl ReplicaCopyArguments {
    fn index(&self) -> Result<Arc<IndexRouting>, CopyError> {
        let routing = self.pod.log.routing();
        routing.by_uid.get(&self.fence.index).cloned().ok_or(CopyError::IndexGone)
    }

    /// Has the log say what of the target is there.
    async fn note(&self, content: Content) -> Result<(), CopyError> {
        let replica = ReplicaRecord { life: self.disk_life, content };
        let (fence, node) = (self.fence.clone(), self.target.clone());
        match self.pod.log.propose(&Command::SetReplica { fence, node, replica }).await {
            Ok(Outcome::Fenced { .. }) => Err(CopyError::Fenced),
            // Pods of an older version don't look at it.
            Ok(_) | Err(ProposeError::TooNew { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The first pass.
    async fn everything(&self) -> Result<(), CopyError> {
        let index = self.index()?;
        match &self.missing {
            None => self.make_anew().await?,
            Some(missing) => {
                self.put_settings_right(&index).await?;
                if !missing.is_empty() {
                    let path = format!("/indexes/{}/documents/delete", index.uid);
                    let body = json!({ "filter": in_shards(missing, index.marks.current) });
                    self.task(Method::POST, path, Some(json_body(&body))).await?;
                }
            }
        }
        for (source, shards) in &self.sources {
            let mut waiting = Vec::new();
            for shard in shards {
                waiting.extend(self.list(source, *shard).await?);
                while waiting.len() >= PAGE_DOCUMENTS {
                    let rest = waiting.split_off(PAGE_DOCUMENTS);
                    self.copy_paced(source, &waiting).await?;
                    waiting = rest;
                }
            }
            self.copy_paced(source, &waiting).await?;
        }
        Ok(())
    }

    /// Copies documents, no faster than operators let moves be.
    async fn copy_paced(
        &self,
        source: &NodeId,
        ids: &[String],
    ) -> Result<BTreeSet<String>, CopyError> {
        let began = self.pod.seams.clock.instant();
        let found = self.copy_documents(source, ids).await?;
        if self.is_move {
            let topology = self.pod.log.routing().topology.clone();
            if self.pod.moves_rest() {
                return Err(CopyError::GivenUp);
            }
            let rest = pause_after(ids.len(), topology.documents_per_second)
                .saturating_sub(began.elapsed());
            self.pod.seams.clock.sleep(rest).await;
        }
        Ok(found)
    }

    /// Makes the target equal for what was touched; at once when writes wait for it.
    async fn again(&self, touched: &Touched, writes_wait: bool) -> Result<(), CopyError> {
        if touched.by_filter {
            for (source, shards) in &self.sources {
                for shard in shards {
                    let kept: BTreeSet<String> =
                        self.list(source, *shard).await?.into_iter().collect();
                    let held = self.list(&self.target, *shard).await?;
                    let gone: Vec<&String> = held.iter().filter(|id| !kept.contains(*id)).collect();
                    for page in gone.chunks(PAGE_DOCUMENTS) {
                        self.delete(page).await?;
                    }
                }
            }
        }
        if touched.ids.is_empty() {
            return Ok(());
        }
        let shards = self.index()?.shards;
        for (source, held) in &self.sources {
            let ids: Vec<String> = touched
                .ids
                .iter()
                .filter(|id| held.contains(&shard_of(id, shards)))
                .cloned()
                .collect();
            for page in ids.chunks(PAGE_DOCUMENTS) {
                let found = match writes_wait {
                    true => self.copy_documents(source, page).await?,
                    false => self.copy_paced(source, page).await?,
                };
                let gone: Vec<&String> = page.iter().filter(|id| !found.contains(*id)).collect();
                self.delete(&gone).await?;
            }
        }
        Ok(())
    }

    /// Removes the target's index, and creates it with its settings.
    async fn make_anew(&self) -> Result<(), CopyError> {
        let uid = &self.fence.index;
        match self.task(Method::DELETE, format!("/indexes/{uid}"), None).await {
            Err(CopyError::TargetRefused(code)) if code == "index_not_found" => {}
            other => other?,
        }
        let index = self.index()?;
        let create = json!({ "uid": uid.as_str(), "primaryKey": index.primary_key });
        self.task(Method::POST, "/indexes".into(), Some(json_body(&create))).await?;
        let settings = node_side(&index.settings);
        let path = format!("/indexes/{uid}/settings");
        self.task(Method::PATCH, path, Some(json_body(&settings))).await
    }

    /// Gives the target the settings whole: what isn't set goes back to its default.
    async fn put_settings_right(&self, index: &IndexRouting) -> Result<(), CopyError> {
        let path = format!("/indexes/{}/settings", index.uid);
        let read = match self.pod.calls.json(&self.target, Method::GET, path.clone(), None).await {
            // Settings create it.
            Err(NodeCallError::Refused(error)) if error.code == "index_not_found" => Value::Null,
            answer => answer?,
        };
        let settings = node_side_whole(&index.settings, &read);
        self.task(Method::PATCH, path, Some(json_body(&settings))).await
    }

    /// The ids of a shard's documents on a node, of one moment.
    async fn list(&self, node: &NodeId, shard: ShardId) -> Result<Vec<String>, CopyError> {
        let index = self.index()?;
        // No document was accepted yet.
        let Some(key) = &index.primary_key else { return Ok(Vec::new()) };
        let filter = in_shards(&BTreeSet::from([shard]), index.marks.current);
        let query = json!({ "filter": [filter], "fields": [key], "limit": LISTED_MAX });
        let page = self.fetch(node, &query).await?;
        page.iter().map(|document| id_of(document, key)).collect()
    }

    /// Copies documents by id as the source has them now; the ids that it has.
    async fn copy_documents(
        &self,
        source: &NodeId,
        ids: &[String],
    ) -> Result<BTreeSet<String>, CopyError> {
        let index = self.index()?;
        let (Some(key), false) = (&index.primary_key, ids.is_empty()) else {
            return Ok(BTreeSet::new());
        };
        // Vectors travel with their documents; nodes without embedders refuse the flag on some
        // versions, and then have none to send.
        let with_vectors = index
            .settings
            .effective()
            .get("embedders")
            .is_some_and(|e| e.as_object().is_some_and(|embedders| !embedders.is_empty()));
        let mut query = json!({ "ids": ids, "limit": ids.len() });
        if with_vectors && let Value::Object(query) = &mut query {
            query.insert("retrieveVectors".into(), json!(true));
        }
        let mut page = match self.fetch(source, &query).await {
            // Documents are large here: half as many at a time.
            Err(CopyError::Call(NodeCallError::Transport(TransportError::TooLarge(_))))
                if ids.len() > 1 =>
            {
                let (first, second) = ids.split_at(ids.len() / 2);
                let mut found = Box::pin(self.copy_documents(source, first)).await?;
                found.extend(Box::pin(self.copy_documents(source, second)).await?);
                return Ok(found);
            }
            page => page?,
        };
        if planted::has(Bug::CopyShort) && page.len() > 1 {
            page.pop();
        }
        let path = format!("/indexes/{}/documents?primaryKey={}", index.uid, percent_encode(key));
        for body in arrays_of(&page) {
            self.task(Method::POST, path.clone(), Some(body)).await?;
        }
        page.iter().map(|document| id_of(document, key)).collect()
    }

    async fn delete(&self, ids: &[&String]) -> Result<(), CopyError> {
        if ids.is_empty() {
            return Ok(());
        }
        let path = format!("/indexes/{}/documents/delete-batch", self.fence.index);
        self.task(Method::POST, path, Some(json_body(&json!(ids)))).await
    }

    /// Reads documents; a read that failed is repeated.
    async fn fetch(&self, node: &NodeId, query: &Value) -> Result<Vec<Box<RawValue>>, CopyError> {
        let mut reads = 0;
        loop {
            reads += 1;
            let page = self.pod.calls.documents(node, &self.fence.index, query).await;
            match page {
                Ok(page) => return Ok(page),
                Err(
                    error @ (NodeCallError::Refused(_)
                    | NodeCallError::Transport(TransportError::TooLarge(_))),
                ) => return Err(error.into()),
                Err(error) if reads == READS_MAX => return Err(error.into()),
                Err(_) => {
                    self.check_wanted()?;
                    self.pod.seams.clock.sleep(PAUSE).await;
                }
            }
        }
    }

    /// Sends a request to the target; those about documents under a name that no other has, so that
    /// nobody takes them for a stranger's.
    async fn send(
        &self,
        method: Method,
        path: String,
        body: Option<Bytes>,
    ) -> Result<u64, NodeCallError> {
        let (Fence { index, epoch }, number) = (&self.fence, self.number);
        let request = self.requests.fetch_add(1, Ordering::Relaxed);
        let name = format!("miroir:{index}:copy:{epoch}-{number}:{request}");
        let (calls, target) = (&self.pod.calls, &self.target);
        calls.enqueue_named(target, method, &path, body, PAYLOAD_TIMEOUT, &name).await
    }

    /// Has the target carry out one task, to its end, in turns with its lane.
    async fn task(
        &self,
        method: Method,
        path: String,
        body: Option<Bytes>,
    ) -> Result<(), CopyError> {
        let _turn = loop {
            match tokio::time::timeout(TARGET_LOOK, self.turn.take()).await {
                Ok(turn) => break turn,
                // The lane may wait for a dead node for ever.
                Err(_) if self.target_is_lost() => {
                    return Err(CopyError::TargetDown);
                }
                Err(_) => self.check_wanted()?,
            }
        };
        let uid = loop {
            self.still_holds().await?;
            match self.send(method.clone(), path.clone(), body.clone()).await {
                Ok(uid) => break uid,
                Err(NodeCallError::Nameless) => {}
                Err(NodeCallError::Refused(error)) => {
                    return Err(CopyError::TargetRefused(error.code));
                }
                Err(error) => return Err(error.into()),
            }
        };
        let (pod, target) = (&self.pod, &self.target);
        let follower = pod.follower(target).ok_or(CopyError::TaskLost)?;
        let (reply, mut ended) = oneshot::channel();
        follower.cast(NodeTasksMessage::Follow { uid, reply }).map_err(|_| CopyError::TaskLost)?;
        let ended = loop {
            match tokio::time::timeout(TARGET_LOOK, &mut ended).await {
                Ok(end) => break end.ok().flatten().ok_or(CopyError::TaskLost)?,
                // Writes of the index may wait for the copy; they must not wait for a dead node,
                // nor for one that was removed, of which nobody would hear that it is dead.
                Err(_) if self.target_is_lost() => return Err(CopyError::TargetDown),
                Err(_) => {}
            }
        };
        match ended.error {
            Some(error) => Err(CopyError::TargetRefused(error.code)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
