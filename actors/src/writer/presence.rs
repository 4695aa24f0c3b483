//! Are documents without vectors new? Only then a node refuses them (spec 01, last table).
//!
//! Asked of an in-sync replica of each document's shard, which has applied every ended task. A
//! document of an open earlier task counts as there, whatever becomes of it; so does one that
//! nobody can say anything of, and one behind [`LOOKED_UP_MAX`]. What is found to be new is new:
//! nothing is refused that a node would accept. The rest a node may still refuse, for its part of
//! the documents.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use http::Method;
use miroir_membership::placement::shard_of;
use miroir_storage::ids::NodeId;
use miroir_storage::routing::IndexRouting;
use miroir_wire::document::document_id;
use miroir_wire::error::ApiError;
use serde_json::{Value, json};

use super::entries::{Entry, Sendable};
use crate::pod::PodContext;
use crate::prepare::{Lacking, Prepared, missing_vectors};

/// Documents looked up for one task at most: a task must not hold up its index for long.
const LOOKED_UP_MAX: usize = 10_000;
/// Ids in one request to a node.
const LOOKUP_IDS_MAX: usize = 1000;

/// The documents of the open tasks before the `n`th. `None` when the `n`th may be applied on some
/// nodes already, by an earlier writer: what they hold then says nothing of its place in the
/// order, and to refuse it would part them from the others.
pub(super) fn earlier_documents(entries: &VecDeque<Entry>, n: usize) -> Option<Vec<Arc<Prepared>>> {
    if entries.get(n).is_none_or(|entry| entry.resumed) {
        return None;
    }
    let open = entries.iter().take(n).filter(|entry| !entry.ended());
    let documents = open.filter_map(|entry| match &entry.sendable {
        Some(Sendable::Documents(prepared)) => Some(prepared.clone()),
        _ => None,
    });
    Some(documents.collect())
}

/// The refusal of the task, if one of the documents that lack vectors is new.
pub(super) async fn check_presence(
    pod: &PodContext,
    index: &IndexRouting,
    prepared: &Arc<Prepared>,
    lacking: &[Lacking],
    earlier: &[Arc<Prepared>],
    name: &str,
) -> Result<(), ApiError> {
    for Lacking { embedder, ids } in lacking {
        for ids in ids[..ids.len().min(LOOKED_UP_MAX)].chunks(LOOKUP_IDS_MAX) {
            let absent = absent_of(pod, index, &prepared.primary_key, ids).await;
            if absent.is_empty() {
                continue;
            }
            let announced = announced_of(pod, index, earlier, absent.clone()).await;
            let new: Vec<String> = ids
                .iter()
                .filter(|id| absent.contains(*id) && !announced.contains(*id))
                .cloned()
                .collect();
            if !new.is_empty() {
                return Err(missing_vectors(embedder, &new, prepared).in_index(name));
            }
        }
    }
    Ok(())
}

/// Those of `ids` that an in-sync replica does not hold.
async fn absent_of(
    pod: &PodContext,
    index: &IndexRouting,
    primary_key: &str,
    ids: &[String],
) -> BTreeSet<String> {
    let mut by_node: BTreeMap<&NodeId, Vec<&String>> = BTreeMap::new();
    for id in ids {
        let shard = shard_of(id, index.shards).0 as usize;
        let replicas = index.groups.iter().filter_map(|group| group.shards.get(shard));
        let mut in_sync = replicas.flat_map(|shard| &shard.in_sync);
        if let Some(node) = in_sync.find(|node| !pod.health.is_down(node)) {
            by_node.entry(node).or_default().push(id);
        }
    }
    let path = format!("/indexes/{}/documents/fetch", index.uid);
    let mut absent = BTreeSet::new();
    for (node, ids) in by_node {
        let query = json!({ "ids": ids, "fields": [primary_key], "limit": ids.len() });
        let answer: Result<Value, _> =
            pod.calls.json(node, Method::POST, path.clone(), Some(&query)).await;
        let found = match &answer {
            Ok(answer) => answer.get("results").and_then(Value::as_array),
            Err(error) => {
                tracing::debug!(%node, %error, "documents without vectors could not be looked up");
                None
            }
        };
        let Some(found) = found else { continue };
        let found: BTreeSet<String> = found
            .iter()
            .filter_map(|document| document_id(document.to_string().as_bytes(), primary_key).ok())
            .collect();
        absent.extend(ids.into_iter().filter(|id| !found.contains(*id)).cloned());
    }
    absent
}

/// Those of `ids` that open earlier tasks bring.
async fn announced_of(
    pod: &PodContext,
    index: &IndexRouting,
    earlier: &[Arc<Prepared>],
    ids: BTreeSet<String>,
) -> BTreeSet<String> {
    if earlier.is_empty() {
        return BTreeSet::new();
    }
    let shards: BTreeSet<_> = ids.iter().map(|id| shard_of(id, index.shards)).collect();
    let (earlier, all) = (earlier.to_vec(), ids.clone());
    let search = move || {
        let mut announced = BTreeSet::new();
        for prepared in earlier {
            for (shard, start, end) in &prepared.documents {
                let range = *start as usize..*end as usize;
                let document = prepared.bytes.get(range).unwrap_or_default();
                if shards.contains(shard)
                    && let Ok(id) = document_id(document, &prepared.primary_key)
                    && ids.contains(&id)
                {
                    announced.insert(id);
                }
            }
        }
        announced
    };
    // What can't be searched counts as announced.
    pod.seams.tasks.spawn_blocking(search).await.unwrap_or(all)
}
