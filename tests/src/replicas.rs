//! What a cluster shows, compared with what each of its nodes holds.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use miroir_wire::reserved::parse_shard_token;
use serde_json::Value;
use tokio::time::Instant;

use crate::client::Api;
use crate::oracle::documents::text_of;
use crate::processes::Member;

/// Pause between two looks.
const POLL: Duration = Duration::from_millis(500);

/// All documents of `index`, by id.
///
/// # Panics
/// When a document comes twice, or the server does not answer.
pub async fn all_documents(api: &Api, index: &str) -> BTreeMap<String, Value> {
    let mut documents = BTreeMap::new();
    for page in 0.. {
        let path = format!("/indexes/{index}/documents?limit=1000&offset={}", page * 1000);
        let answer = api.get(&path).await.expect("a page of documents");
        let results = answer["results"].as_array().cloned().unwrap_or_default();
        if results.is_empty() {
            break;
        }
        for document in results {
            let id = text_of(&document["id"]);
            let before = documents.insert(id.clone(), document);
            assert_eq!(before, None, "document {id} comes twice on {}", api.base());
        }
    }
    documents
}

/// Asks the nodes themselves until every document has `copies` copies, all equal to what
/// the cluster shows, each shard whole on each of its replicas, and no node holds more.
///
/// # Panics
/// When that has not come true after `patience`, naming the difference.
pub async fn become_equal(
    nodes: &[Member],
    index: &str,
    documents: &BTreeMap<String, Value>,
    copies: usize,
    patience: Duration,
) {
    let deadline = Instant::now() + patience;
    loop {
        match compare(nodes, index, documents, copies).await {
            Ok(()) => return,
            Err(difference) => assert!(Instant::now() < deadline, "{difference}"),
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn compare(
    nodes: &[Member],
    index: &str,
    documents: &BTreeMap<String, Value>,
    copies: usize,
) -> Result<(), String> {
    // Per shard: its ids on each node that has any of it.
    let mut shards: BTreeMap<(u32, u32), BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut groups: BTreeMap<(String, Option<u32>), usize> = BTreeMap::new();
    for node in nodes {
        for (id, mut copy) in documents_on(node, index).await {
            let shard = copy.as_object_mut().and_then(|copy| copy.remove("_miroir_shard"));
            let shard = shard.ok_or_else(|| format!("{id} on {} has no shard", node.id))?;
            if documents.get(&id) != Some(&copy) {
                return Err(format!("{id} differs on {}: {copy}", node.id));
            }
            *counts.entry(id.clone()).or_default() += 1;
            *groups.entry((id.clone(), node.group)).or_default() += 1;
            let shard = newest_mark(&shard).ok_or_else(|| format!("{id} is marked {shard}"))?;
            let replicas = shards.entry(shard).or_default();
            replicas.entry(node.id.clone()).or_default().insert(id);
        }
    }
    for (shard, replicas) in shards {
        let mut contents = replicas.values();
        let first = contents.next();
        if contents.any(|other| Some(other) != first) {
            return Err(format!("replicas of shard {shard:?} differ: {replicas:?}"));
        }
    }
    let group_count = nodes.iter().map(|node| node.group).collect::<BTreeSet<_>>().len();
    if let Some(((id, group), count)) =
        groups.iter().find(|(_, count)| **count * group_count != copies)
    {
        return Err(format!("{id} has {count} copies in group {group:?}"));
    }
    match documents.keys().find(|id| counts.get(*id) != Some(&copies)) {
        Some(id) => Err(format!("{id} has {:?} copies of {copies}", counts.get(id))),
        None => Ok(()),
    }
}

/// The generation and the shard of a document; in an index that was resharded it may carry an
/// older mark beside that.
fn newest_mark(marks: &Value) -> Option<(u32, u32)> {
    match marks {
        Value::Array(marks) => marks.iter().filter_map(newest_mark).max(),
        other => parse_shard_token(other.as_str()?),
    }
}

/// All documents of the node's own index for `index`; its uid there ends in that name.
async fn documents_on(node: &Member, index: &str) -> BTreeMap<String, Value> {
    let api = Api::new(&node.url, node.key.as_deref());
    let indexes = api.get("/indexes?limit=1000").await.expect("the node's indexes");
    let results = indexes["results"].as_array().cloned().unwrap_or_default();
    let uid = results
        .iter()
        .filter_map(|found| found["uid"].as_str())
        .find(|uid| uid.ends_with(index))
        .unwrap_or_else(|| panic!("{} has no index for {index}: {indexes}", node.id));
    all_documents(&api, uid).await
}
