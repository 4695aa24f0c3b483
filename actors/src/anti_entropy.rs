//! Compares the replicas of each shard, and has wrong documents put right (spec 02, Anti-entropy).
//!
//! Replicas get the same writes in the same order, so they are equal unless somebody writes to a node behind
//! Miroir's back, a disk or an engine errs, or Miroir does. Owns: the pace, what is compared, and
//! what was found. Does not own the repair: documents reach a node only through its index's writer
//! ([`crate::writer`]), which is told what differs, which replica is wrong, and from which one to take it.
//!
//! One item is one shard of one index. Its replicas are read page by page, as fast as costs each node
//! about 2 % of its time, and compared by digests ([`mod@digest`]); what is written meanwhile shows as a difference that
//! goes away. What stays is read again while the log says that every lane of the shard stands at one
//! place and nothing is under way, before and after: a difference then is one. Which copy is wrong follows from
//! evidence ([`digest::wrong_copies`]); without any it is reported, and nothing is touched. Replicas are never
//! merged: a wrong one gets what the right one has, absences included.
//!
//! In shares, by [`ShardItem`]. Nobody sends to it but its own timer and operators. A restart only delays the
//! next look. Not compared: vectors.

pub mod digest;
mod examine;
pub mod view;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use miroir_membership::placement::shard_of;
use miroir_storage::ids::{IndexUid, NodeId, ShardId};
use miroir_storage::routing::IndexRouting;
use miroir_storage::tables::indexes::in_sync_of;
use miroir_wire::document::document_id;
use ractor::ActorProcessingErr;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use self::digest::{Digests, digest, id_hash};
use crate::inspect::{Actor, Address};
use crate::lane::job::{in_shards, unmarked};
use crate::node_calls::NodeCallError;
use crate::peer_service::Hint;
use crate::pod::{PodContext, PodMessage};
use crate::shares::Share;

/// Documents read at a time.
const PAGE_DOCUMENTS: usize = 1000;
/// Documents of one shard that are looked at more closely in one round; more are a replica that is
/// copied as a whole.
const SUSPECTS_MAX: usize = 400;
/// How much longer than a read the pause after it is: 2 % of a node's time.
const REST_FACTOR: u32 = 49;
/// The longest pause between two reads.
const REST_MAX: Duration = Duration::from_secs(5);

/// How replicas are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AntiEntropyConfig {
    /// Between two rounds; zero: only when an operator asks.
    pub interval: Duration,
    /// Whether wrong documents are put right, or only reported.
    pub repairs: bool,
}

impl Default for AntiEntropyConfig {
    fn default() -> Self {
        Self { interval: Duration::from_secs(6 * 3600), repairs: true }
    }
}

/// What pods share: one shard of one index.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ShardItem {
    /// The index.
    pub index: IndexUid,
    /// The shard.
    pub shard: ShardId,
}

/// Documents that one replica has wrong, for the index's writer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repair {
    /// Their shard.
    pub shard: ShardId,
    /// The replica that is wrong.
    pub node: NodeId,
    /// The replica that is right.
    pub source: NodeId,
    /// The documents; those that the right replica lacks are deleted.
    pub ids: BTreeSet<String>,
    /// There are more: the replica is copied as a whole. With no document at all, the index is gone there.
    pub whole: bool,
}

/// What the comparer is told.
#[derive(Debug)]
pub enum AntiEntropyMessage {
    /// Time for a round; by hand, an operator wants one.
    Begin {
        /// An operator asks.
        by_hand: bool,
    },
    /// A round ended (from the comparer's own task).
    Ended,
}

/// The comparing actor.
#[derive(Debug)]
pub struct AntiEntropy;

/// How the comparer starts.
#[derive(Clone, Debug)]
pub struct AntiEntropyArguments {
    /// The pod.
    pub pod: Arc<PodContext>,
    /// What this pod compares.
    pub share: Share<ShardItem>,
    /// Whom to tell of differences.
    pub root: Address<PodMessage>,
}

/// The comparer's state.
#[derive(Debug)]
pub struct AntiEntropyState {
    arguments: AntiEntropyArguments,
    is_running: bool,
    /// An operator asked for another round while one was under way.
    again: bool,
}

#[ractor::async_trait]
impl Actor for AntiEntropy {
    type Msg = AntiEntropyMessage;
    type State = AntiEntropyState;
    type Arguments = AntiEntropyArguments;

    const KIND: &'static str = "AntiEntropy";

    async fn pre_start(
        &self,
        myself: Address<AntiEntropyMessage>,
        arguments: AntiEntropyArguments,
    ) -> Result<AntiEntropyState, ActorProcessingErr> {
        schedule(&myself, &arguments.pod);
        Ok(AntiEntropyState { arguments, is_running: false, again: false })
    }

    async fn handle(
        &self,
        myself: Address<AntiEntropyMessage>,
        message: AntiEntropyMessage,
        state: &mut AntiEntropyState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            AntiEntropyMessage::Begin { by_hand } if state.is_running => state.again |= by_hand,
            AntiEntropyMessage::Begin { .. } => begin(&myself, state),
            AntiEntropyMessage::Ended => {
                state.is_running = false;
                match std::mem::take(&mut state.again) {
                    true => begin(&myself, state),
                    false => schedule(&myself, &state.arguments.pod),
                }
            }
        }
        Ok(())
    }
}

fn begin(myself: &Address<AntiEntropyMessage>, state: &mut AntiEntropyState) {
    state.is_running = true;
    let (arguments, myself) = (state.arguments.clone(), myself.clone());
    state.arguments.pod.seams.tasks.spawn("anti-entropy", async move {
        round(&arguments).await;
        let _stopped = myself.cast(AntiEntropyMessage::Ended);
    });
}

fn schedule(myself: &Address<AntiEntropyMessage>, pod: &PodContext) {
    let interval = pod.config.anti_entropy.interval;
    if interval.is_zero() {
        return;
    }
    let (myself, clock) = (myself.clone(), pod.seams.clock.clone());
    pod.seams.tasks.spawn("anti-entropy pace", async move {
        clock.sleep(interval).await;
        let _stopped = myself.cast(AntiEntropyMessage::Begin { by_hand: false });
    });
}

/// What to compare, in order of indexes.
fn plan_round(pod: &PodContext, share: &Share<ShardItem>) -> Vec<ShardItem> {
    let routing = pod.log.routing();
    let items = routing.by_uid.iter().flat_map(|(uid, index)| {
        (0..index.shards).map(ShardId).map(|shard| ShardItem { index: uid.clone(), shard })
    });
    items.filter(|item| share.includes(item)).collect()
}

async fn round(arguments: &AntiEntropyArguments) {
    let pod = &arguments.pod;
    for item in plan_round(pod, &arguments.share) {
        match look_at(arguments, &item).await {
            Ok(()) => {}
            Err(error) => {
                tracing::debug!(index = %item.index, shard = item.shard.0, %error, "shard could not be compared");
            }
        }
    }
    pod.anti_entropy.note_round(pod.seams.clock.now());
}

/// One shard and the replicas that are compared.
pub(crate) struct Comparison<'a> {
    pod: &'a PodContext,
    item: &'a ShardItem,
    index: Arc<IndexRouting>,
    primary_key: String,
    replicas: Vec<NodeId>,
}

async fn look_at(arguments: &AntiEntropyArguments, item: &ShardItem) -> Result<(), NodeCallError> {
    let AntiEntropyArguments { pod, root, .. } = arguments;
    let routing = pod.log.routing();
    let Some(index) = routing.by_uid.get(&item.index).cloned() else { return Ok(()) };
    let Some(primary_key) = index.primary_key.clone() else { return Ok(()) };
    let in_sync = in_sync_of(&index.groups, item.shard).into_iter();
    let replicas: Vec<NodeId> = in_sync.filter(|node| !pod.health.is_down(node)).collect();
    if replicas.len() < 2 {
        return Ok(());
    }
    let comparison = Comparison { pod, item, index, primary_key, replicas };
    if let Some(repair) = comparison.gone().await {
        tracing::error!(index = %item.index, node = %repair.node, "a replica is gone from its node");
        if pod.config.anti_entropy.repairs {
            let hint = Hint::ReplicaDiffers { index: item.index.clone(), repair };
            let _stopped = root.cast(PodMessage::ForWriter(hint));
        }
        return Ok(());
    }
    let (suspects, documents) = comparison.suspects().await?;
    pod.anti_entropy.note_compared(documents);
    let is_whole = suspects.len() >= SUSPECTS_MAX;
    let found = comparison.examine(suspects).await?;
    pod.anti_entropy.note_found(item, &found, pod.seams.clock.now());
    for repair in found.repairs {
        let (index, node, count) = (&item.index, &repair.node, repair.ids.len());
        tracing::error!(%index, shard = item.shard.0, %node, source = %repair.source, documents = count,
            repairs = pod.config.anti_entropy.repairs, "a replica has documents that differ from the others'");
        if pod.config.anti_entropy.repairs {
            let repair = Repair { whole: is_whole, ..repair };
            let index = item.index.clone();
            let hint = Hint::ReplicaDiffers { index, repair };
            let _stopped = root.cast(PodMessage::ForWriter(hint));
        }
    }
    if !found.undecided.is_empty() {
        tracing::error!(index = %item.index, shard = item.shard.0, documents = found.undecided.len(),
            "replicas have documents that differ, and nothing says which is right");
    }
    Ok(())
}

impl Comparison<'_> {
    /// A replica whose node has no such index, though others have it: its disk is an older one, or
    /// somebody has deleted it there. It has nothing left to be named.
    async fn gone(&self) -> Option<Repair> {
        let path = format!("/indexes/{}", self.item.index);
        let mut found = (None, None);
        for node in &self.replicas {
            let calls = &self.pod.calls;
            match calls.json::<Value>(node, Method::GET, path.clone(), None).await {
                Ok(_) => found.0 = Some(node.clone()),
                Err(NodeCallError::Refused(error)) if error.code == "index_not_found" => {
                    found.1 = Some(node.clone());
                }
                Err(_) => {}
            }
        }
        let (Some(source), Some(node)) = found else { return None };
        let (shard, ids) = (self.item.shard, BTreeSet::new());
        Some(Repair { shard, node, source, ids, whole: true })
    }

    /// Ids of documents that seem to differ, at most [`SUSPECTS_MAX`], and how many documents were read.
    async fn suspects(&self) -> Result<(BTreeSet<String>, u64), NodeCallError> {
        let Some((first, others)) = self.replicas.split_first() else {
            return Ok((BTreeSet::new(), 0));
        };
        let mut digests = Digests::default();
        let mut documents = 0;
        self.each_page(first, self.of_shard(), None, &mut |page| {
            documents += page.len() as u64;
            for document in page {
                if let (Some(id), Some(digest)) = (self.id_of(document), digest(document)) {
                    digests.add(&id, digest);
                }
            }
        })
        .await?;
        digests.seal();
        let mut suspects = BTreeSet::new();
        let mut missing = BTreeSet::new();
        for other in others {
            digests.begin();
            self.each_page(other, self.of_shard(), None, &mut |page| {
                documents += page.len() as u64;
                for document in page {
                    let (Some(id), Some(digest)) = (self.id_of(document), digest(document)) else {
                        continue;
                    };
                    if !digests.equals(&id, digest) && suspects.len() < SUSPECTS_MAX {
                        suspects.insert(id);
                    }
                }
            })
            .await?;
            missing.extend(digests.unseen());
        }
        if !missing.is_empty() {
            self.each_page(first, self.of_shard(), Some(&self.primary_key), &mut |page| {
                let ids = page.iter().filter_map(|document| self.id_of(document));
                for id in ids.filter(|id| missing.contains(&id_hash(id))) {
                    if suspects.len() < SUSPECTS_MAX {
                        suspects.insert(id);
                    }
                }
            })
            .await?;
        }
        // What carries no mark is in no shard, and yet found by searches.
        for node in &self.replicas {
            let strange = unmarked(self.index.marks.current);
            self.each_page(node, strange, Some(&self.primary_key), &mut |page| {
                let ids = page.iter().filter_map(|document| self.id_of(document));
                let is_ours = |id: &String| shard_of(id, self.index.shards) == self.item.shard;
                for id in ids.filter(is_ours) {
                    if suspects.len() < SUSPECTS_MAX {
                        suspects.insert(id);
                    }
                }
            })
            .await?;
        }
        Ok((suspects, documents))
    }

    fn of_shard(&self) -> String {
        in_shards(&BTreeSet::from([self.item.shard]), self.index.marks.current)
    }

    fn id_of(&self, document: &RawValue) -> Option<String> {
        document_id(document.get().as_bytes(), &self.primary_key).ok()
    }

    /// Reads the documents that a filter finds on a node, or one field of them, with pauses.
    async fn each_page(
        &self,
        node: &NodeId,
        filter: String,
        field: Option<&str>,
        take: &mut (dyn FnMut(&[Box<RawValue>]) + Send),
    ) -> Result<(), NodeCallError> {
        for offset in (0..).step_by(PAGE_DOCUMENTS) {
            let mut query =
                json!({ "filter": [filter], "offset": offset, "limit": PAGE_DOCUMENTS });
            if let (Some(field), Value::Object(query)) = (field, &mut query) {
                query.insert("fields".into(), json!([field]));
            }
            let clock = &self.pod.seams.clock;
            let began = clock.instant();
            let page = self.fetch(node, &query, field.is_some()).await?;
            take(&page);
            clock.sleep((began.elapsed() * REST_FACTOR).min(REST_MAX)).await;
            if page.len() < PAGE_DOCUMENTS {
                break;
            }
        }
        Ok(())
    }

    async fn fetch(
        &self,
        node: &NodeId,
        query: &Value,
        closer: bool,
    ) -> Result<Vec<Box<RawValue>>, NodeCallError> {
        let found = self.pod.calls.documents(node, &self.item.index, query).await?;
        let bytes: usize = found.iter().map(|document| document.get().len()).sum();
        self.pod.anti_entropy.note_read(bytes as u64, closer);
        Ok(found)
    }
}
