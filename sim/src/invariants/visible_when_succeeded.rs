//! Safety rule 3: a task that has succeeded is visible in every later read. Reads are served by
//! in-sync replicas, so each of them must hold the effect of every ended task, at every moment;
//! what open tasks may be changing is left out of the comparison.
//!
//! Two windows are allowed by the spec and left out: a node that has lost its disk until the
//! pod has noticed, and one that carried out a late request until the audit has found it. So are
//! documents that somebody else has changed on a node: a copy made before that is found has them too.

use std::collections::{BTreeMap, BTreeSet};

use miroir_storage::ids::{IndexUid, NodeId};
use miroir_storage::routing::Routing;

use super::Violation;
use super::documents_are_expected::compare;
use crate::cluster::Made;
use crate::model_node::{ModelNode, id_text};
use crate::operation::{Operation, Request};

/// What open tasks of one name may be changing.
#[derive(Debug, Default)]
pub(super) struct Touched {
    /// Whatever is there.
    pub(super) everything: bool,
    /// Documents by id.
    pub(super) ids: BTreeSet<String>,
}

/// Looks at the world at any moment; `excused` nodes are left out.
pub(crate) fn check(
    routing: &Routing,
    made: &Made,
    nodes: &BTreeMap<NodeId, ModelNode>,
    excused: &BTreeSet<NodeId>,
    vandalized: &BTreeMap<IndexUid, BTreeSet<String>>,
) -> Vec<Violation> {
    let Made { expected, open } = made;
    let mut found = Vec::new();
    let mut touched: BTreeMap<&str, Touched> = BTreeMap::new();
    for operation in open {
        touched_by(&mut touched, operation);
    }
    for (name, index) in &routing.indexes {
        let Some(wanted) = expected.indexes.get(name) else { continue };
        let changing = touched.get(name.as_str());
        if changing.is_some_and(|touched| touched.everything) {
            continue;
        }
        let others = vandalized.get(&index.uid);
        let counts = |id: &str| {
            let is_touched = changing.is_some_and(|touched| touched.ids.contains(id));
            !is_touched && !others.is_some_and(|others| others.contains(id))
        };
        for (node, model) in nodes.iter().filter(|(node, _)| !excused.contains(*node)) {
            if let Some(difference) = compare(index, wanted, node, model, counts) {
                let evidence =
                    format!("`{name}` ({}) on {node} (is / expected): {difference}", index.uid);
                found.push(Violation { property: "visible_when_succeeded", evidence });
            }
        }
    }
    found
}

/// Adds what an operation may be changing.
pub(super) fn touched_by<'a>(touched: &mut BTreeMap<&'a str, Touched>, operation: &'a Operation) {
    let of_name = touched.entry(operation.name.as_str()).or_default();
    match &operation.request {
        Request::Documents { documents, .. } => {
            let ids =
                documents.iter().flat_map(|document| [document.get("id"), document.get("sku")]);
            of_name.ids.extend(ids.flatten().map(id_text));
        }
        Request::DeleteIds(ids) => of_name.ids.extend(ids.iter().cloned()),
        Request::Settings(_) | Request::Cancel(_) => {}
        Request::Swap(other) | Request::Rename { to: other, .. } => {
            of_name.everything = true;
            touched.entry(other.as_str()).or_default().everything = true;
        }
        Request::DeleteMatching(_)
        | Request::Edit { .. }
        | Request::Clear
        | Request::Create { .. }
        | Request::Update { .. }
        | Request::DeleteIndex => of_name.everything = true,
    }
}
