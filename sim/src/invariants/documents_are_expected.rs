//! Safety rules 1 and 2: under each name readers find exactly the documents that the clients'
//! model expects, on every in-sync replica; and exactly the names it expects.

use std::collections::{BTreeMap, BTreeSet};

use miroir_membership::placement::shard_of;
use miroir_storage::ids::NodeId;
use miroir_storage::routing::IndexRouting;
use miroir_wire::reserved::SHARD_FIELD;

use super::replicas_are_equal::differences;
use super::{Violation, World};
use crate::expected::ExpectedIndex;
use crate::model_node::ModelNode;
use crate::operation::Document;

const PROPERTY: &str = "documents_are_expected";

/// Looks at the world at rest.
pub fn check(world: &World<'_>) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut report = |evidence: String| found.push(Violation { property: PROPERTY, evidence });
    let seen: BTreeSet<&String> = world.routing.indexes.keys().collect();
    let wanted: BTreeSet<&String> = world.expected.indexes.keys().collect();
    if seen != wanted {
        report(format!("readers see the names {seen:?}, expected {wanted:?}"));
    }
    for (name, expected) in &world.expected.indexes {
        let Some(index) = world.routing.indexes.get(name) else { continue };
        if index.primary_key != expected.primary_key {
            let (is, wanted) = (&index.primary_key, &expected.primary_key);
            report(format!("`{name}` has the primary key {is:?}, expected {wanted:?}"));
        }
        for (node, model) in world.nodes {
            if let Some(difference) = compare(index, expected, node, model, |_| true) {
                report(format!("`{name}` ({}) on {node} (is / expected): {difference}", index.uid));
            }
        }
    }
    found
}

/// What an in-sync node holds of an index that differs from what it must hold, among the ids
/// that `counts` accepts.
pub fn compare(
    index: &IndexRouting,
    expected: &ExpectedIndex,
    node: &NodeId,
    model: &ModelNode,
    counts: impl Fn(&str) -> bool,
) -> Option<String> {
    let in_sync: BTreeSet<u32> = index
        .groups
        .iter()
        .flat_map(|group| (0u32..).zip(&group.shards))
        .filter(|(_, placement)| placement.in_sync.contains(node))
        .map(|(shard, _)| shard)
        .collect();
    let mine = |id: &str| {
        in_sync.contains(&shard_of(id, index.shards).0)
            && !expected.uncertain.contains(id)
            && counts(id)
    };
    let wanted: BTreeMap<&str, &Document> = expected
        .documents
        .iter()
        .filter(|(id, _)| mine(id))
        .map(|(id, document)| (id.as_str(), document))
        .collect();
    model.with_documents_of(index.uid.as_str(), |documents| {
        let is = documents.iter().filter(|(id, _)| mine(id));
        let is: BTreeMap<&str, &Document> =
            is.map(|(id, document)| (id.as_str(), document)).collect();
        let same = |(id, wanted): (&&str, &&Document)| {
            is.get(id).is_some_and(|is| is_the_same(is, wanted))
        };
        let is_expected = is.len() == wanted.len() && wanted.iter().all(same);
        let owned = |(id, document): (&&str, &&Document)| {
            let mut document = Document::clone(document);
            document.shift_remove(SHARD_FIELD);
            ((*id).to_owned(), document)
        };
        (!is_expected).then(|| {
            differences(&is.iter().map(owned).collect(), &wanted.iter().map(owned).collect())
        })
    })
}

/// What clients see of a document is what they wrote, in the order of its fields or another.
fn is_the_same(is: &Document, wanted: &Document) -> bool {
    let fields = is.len() - usize::from(is.contains_key(SHARD_FIELD));
    fields == wanted.len()
        && wanted.iter().all(|(field, value)| is.get(field).is_some_and(|is| is == value))
}
