//! What comparing replicas has found, for whoever shows it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::serde::rfc3339;

use super::ShardItem;
use super::examine::Found;

/// Ids listed of one difference.
const IDS_LISTED_MAX: usize = 20;
/// Shards with differences that are remembered.
const DIFFERENCES_MAX: usize = 200;

/// What this pod has compared since it started.
#[derive(Debug, Default)]
pub struct AntiEntropyView {
    documents: AtomicU64,
    bytes: AtomicU64,
    closer_bytes: AtomicU64,
    shards: AtomicU64,
    repaired: AtomicU64,
    found: Mutex<BTreeMap<ShardItem, Difference>>,
    last_round: Mutex<Option<OffsetDateTime>>,
}

/// Documents of one shard that differed when it was compared last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Difference {
    /// What nodes call the index.
    pub index: String,
    /// The shard.
    pub shard: u32,
    /// The replicas that were compared.
    pub replicas: Vec<String>,
    /// Those that have wrong copies.
    pub wrong: Vec<String>,
    /// Documents with a wrong copy.
    pub documents: u64,
    /// Documents of which nothing says who is right.
    pub undecided: u64,
    /// The first few ids of both.
    pub ids: Vec<String>,
    /// When they were compared.
    #[serde(with = "rfc3339")]
    pub at: OffsetDateTime,
}

/// A pod's account.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AntiEntropyReport {
    /// Shards compared since the pod started.
    pub shards: u64,
    /// Documents read for it.
    pub documents: u64,
    /// Bytes of those.
    #[serde(default)]
    pub bytes: u64,
    /// Bytes of what was read again after that: documents that seemed to differ, and ids.
    #[serde(default)]
    pub closer_bytes: u64,
    /// Documents put right by writers of this pod.
    pub repaired: u64,
    /// When the last round ended.
    #[serde(default, with = "rfc3339::option")]
    pub last_round_at: Option<OffsetDateTime>,
    /// Shards that differed when they were compared last.
    pub differences: Vec<Difference>,
}

impl AntiEntropyView {
    pub(super) fn note_compared(&self, documents: u64) {
        self.documents.fetch_add(documents, Ordering::Relaxed);
        self.shards.fetch_add(1, Ordering::Relaxed);
    }

    /// Bytes of documents were read: to compare them, or for a closer look.
    pub(super) fn note_read(&self, bytes: u64, closer: bool) {
        let total = if closer { &self.closer_bytes } else { &self.bytes };
        total.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn note_repaired(&self, documents: u64) {
        self.repaired.fetch_add(documents, Ordering::Relaxed);
    }

    pub(super) fn note_round(&self, at: OffsetDateTime) {
        *self.last_round.lock().unwrap_or_else(PoisonError::into_inner) = Some(at);
    }

    pub(super) fn note_found(&self, item: &ShardItem, found: &Found, at: OffsetDateTime) {
        let mut known = self.known();
        if found.repairs.is_empty() && found.undecided.is_empty() {
            known.remove(item);
            return;
        }
        if known.len() >= DIFFERENCES_MAX && !known.contains_key(item) {
            return;
        }
        let of_repairs: BTreeSet<&String> =
            found.repairs.iter().flat_map(|repair| &repair.ids).collect();
        let ids = of_repairs.iter().copied().chain(&found.undecided);
        let wrong: BTreeSet<String> =
            found.repairs.iter().map(|repair| repair.node.to_string()).collect();
        let difference = Difference {
            index: item.index.to_string(),
            shard: item.shard.0,
            replicas: found.replicas.iter().map(ToString::to_string).collect(),
            wrong: wrong.into_iter().collect(),
            documents: of_repairs.len() as u64,
            undecided: found.undecided.len() as u64,
            ids: ids.take(IDS_LISTED_MAX).cloned().collect(),
            at,
        };
        known.insert(item.clone(), difference);
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<ShardItem, Difference>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All of it.
    pub fn report(&self) -> AntiEntropyReport {
        AntiEntropyReport {
            shards: self.shards.load(Ordering::Relaxed),
            documents: self.documents.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            closer_bytes: self.closer_bytes.load(Ordering::Relaxed),
            repaired: self.repaired.load(Ordering::Relaxed),
            last_round_at: *self.last_round.lock().unwrap_or_else(PoisonError::into_inner),
            differences: self.known().values().cloned().collect(),
        }
    }
}
