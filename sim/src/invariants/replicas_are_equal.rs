//! Safety rule 2: all in-sync replicas of a shard hold the same documents, each document lies
//! in its shard, and no node holds a document of a shard that is not its own.

use std::collections::BTreeMap;

use miroir_membership::placement::shard_of;
use miroir_storage::ids::{NodeId, ShardId};
use miroir_storage::routing::Routing;
use miroir_wire::reserved::SHARD_FIELD;
use serde_json::Value;

use super::{Violation, World};
use crate::model_node::ModelNode;
use crate::operation::Document;

const PROPERTY: &str = "replicas_are_equal";

/// Looks at the world at rest.
pub fn check(world: &World<'_>) -> Vec<Violation> {
    check_replicas(world.routing, world.nodes)
}

/// The same, of nodes under a placement.
pub fn check_replicas(routing: &Routing, nodes: &BTreeMap<NodeId, ModelNode>) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut report = |evidence: String| found.push(Violation { property: PROPERTY, evidence });
    for (uid, index) in &routing.by_uid {
        let mut first: BTreeMap<ShardId, (NodeId, BTreeMap<String, Document>)> = BTreeMap::new();
        // One that was removed keeps what it had.
        let known = nodes.iter().filter(|(node, _)| routing.nodes.contains_key(*node));
        for (node, model) in known {
            let mut by_shard: BTreeMap<ShardId, BTreeMap<String, Document>> = BTreeMap::new();
            for (id, document) in model.documents_of(uid.as_str()) {
                let shard = shard_of(&id, index.shards);
                let marks = document.get(SHARD_FIELD);
                let expected = index.marks.current.token(shard.0);
                if !tokens(marks).contains(&expected.as_str()) {
                    report(format!("{uid} on {node}: {id} of shard {shard} is marked {marks:?}"));
                }
                by_shard.entry(shard).or_default().insert(id, unmarked(document));
            }
            for (shard, placement) in
                index.groups.iter().flat_map(|group| (0..).map(ShardId).zip(&group.shards))
            {
                if !placement.in_sync.contains(node) {
                    continue;
                }
                let documents = by_shard.remove(&shard).unwrap_or_default();
                match first.get(&shard) {
                    None => {
                        first.insert(shard, (node.clone(), documents));
                    }
                    Some((other, theirs)) if *theirs != documents => {
                        let differences = differences(theirs, &documents);
                        report(format!("{uid} shard {shard}: {other} and {node}: {differences}"));
                    }
                    Some(_) => {}
                }
            }
            for (shard, documents) in by_shard {
                let replica = index.groups.iter().any(|group| {
                    group
                        .shards
                        .get(shard.0 as usize)
                        .is_some_and(|placement| placement.replicas.contains(node))
                });
                if !replica {
                    let ids: Vec<&String> = documents.keys().collect();
                    report(format!("{node} holds {ids:?} of shard {shard} of {uid}, not its own"));
                }
            }
        }
    }
    found
}

/// What the shard field holds: one token, or one for each of two partitions.
fn tokens(marks: Option<&Value>) -> Vec<&str> {
    match marks {
        Some(Value::String(token)) => vec![token],
        Some(Value::Array(tokens)) => tokens.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

/// What one replica has and another has not, but for marks: replicas mark their documents each for
/// itself, and those of a partition that is over are left.
fn unmarked(mut document: Document) -> Document {
    document.shift_remove(SHARD_FIELD);
    document
}

/// The first few differences of two sets of documents, as text.
pub fn differences(a: &BTreeMap<String, Document>, b: &BTreeMap<String, Document>) -> String {
    let text = |document: Option<&Document>| match document {
        Some(document) => Value::Object(document.clone()).to_string(),
        None => "nothing".to_owned(),
    };
    let ids: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    let different: Vec<String> = ids
        .into_iter()
        .filter(|id| a.get(*id) != b.get(*id))
        .map(|id| format!("{id}: {} / {}", text(a.get(id)), text(b.get(id))))
        .collect();
    let mut shown = different.iter().take(3).cloned().collect::<Vec<_>>().join("; ");
    if different.len() > 3 {
        shown.push_str(&format!("; {} more", different.len() - 3));
    }
    shown
}
