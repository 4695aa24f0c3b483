//! Spec 01, Settings: what is agreed holds on every in-sync node that has documents of the index, at
//! every moment; and what a node refused is undone on the others before the task ends.
//!
//! Left out, beside nodes as in [`super::visible_when_succeeded`]: names with an open task that may be
//! changing settings, and nodes whose settings somebody else has changed, which are read back only so often.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use miroir_actors::node_settings::{canonical, node_side};
use miroir_actors::writer::lanes::in_sync_nodes;
use miroir_storage::ids::{IndexUid, NodeId};
use miroir_storage::routing::Routing;
use miroir_wire::settings::Settings;
use serde_json::Value;

use super::Violation;
use super::settings_are_equal::difference;
use super::visible_when_succeeded::touched_by;
use crate::cluster::Made;
use crate::model_node::ModelNode;
use crate::operation::Request;

/// What held when it was last looked at: most of the time nothing has changed since.
#[derive(Debug, Default)]
pub(crate) struct Held(BTreeMap<(IndexUid, NodeId), (Arc<Settings>, Settings)>);

/// Looks at the world at any moment; `excused` nodes are left out.
pub(crate) fn check(
    held: &mut Held,
    routing: &Routing,
    made: &Made,
    nodes: &BTreeMap<NodeId, ModelNode>,
    excused: &BTreeSet<NodeId>,
) -> Vec<Violation> {
    let mut touched = BTreeMap::new();
    let mut found = Vec::new();
    for operation in &made.open {
        touched_by(&mut touched, operation);
        if matches!(operation.request, Request::Settings(_)) {
            touched.entry(operation.name.as_str()).or_default().everything = true;
        }
    }
    for (name, index) in &routing.indexes {
        if touched.get(name.as_str()).is_some_and(|touched| touched.everything) {
            continue;
        }
        let mut wanted = None;
        for node in in_sync_nodes(&index.groups).difference(excused) {
            let uid = index.uid.as_str();
            let Some(model) = nodes.get(node).filter(|model| model.has_documents(uid)) else {
                continue;
            };
            let key = (index.uid.clone(), node.clone());
            let still = |(agreed, set): &(Arc<Settings>, Settings)| {
                *agreed == index.settings && model.still_has(uid, set)
            };
            if held.0.get(&key).is_some_and(still) {
                continue;
            }
            let Some(wanted) = wanted.get_or_insert_with(|| printed(&index.settings)) else {
                continue;
            };
            let is = canonical(model.settings(uid).unwrap_or_default());
            if is != *wanted {
                let difference = difference(&is, wanted);
                let evidence = format!("`{name}` ({uid}) on {node} has (is / agreed) {difference}");
                found.push(Violation { property: "settings_hold", evidence });
            } else if let Some(set) = model.set_settings(uid) {
                held.0.insert(key, (index.settings.clone(), set));
            }
        }
    }
    found
}

/// What a node prints that has them.
fn printed(agreed: &Settings) -> Option<Value> {
    let wanted = node_side(agreed).to_string();
    let wanted = Settings::from_json(wanted.as_bytes()).ok()?;
    Some(canonical(wanted.effective()))
}
