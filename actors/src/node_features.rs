//! Experimental features that operators switched, on every node: also on those that were away, or came
//! later.
//!
//! The log says what was switched ([`miroir_storage::tables::features`]); whoever checks a node's health
//! ([`crate::health_checker`]) sees to it at each check, as long as anything was. A node that does not know
//! a feature is asked for the others.

use std::collections::BTreeMap;

use http::Method;
use miroir_storage::ids::NodeId;
use miroir_storage::log::CoordinatorLog;
use miroir_wire::features::{EDIT_DOCUMENTS, TASK_DOCUMENTS_ROUTE};
use serde_json::{Map, Value};

use crate::fencing::CONFIRMED_MAX;
use crate::node_calls::{NodeCallError, NodeCalls};

/// Features of pods: nodes have no part in them.
const OF_PODS: [&str; 2] = [EDIT_DOCUMENTS, TASK_DOCUMENTS_ROUTE];

/// Where nodes show and switch them.
pub const PATH: &str = "/experimental-features";

/// Looks after a node, unless nothing was ever switched, or this pod may have missed a change.
///
/// # Errors
/// See [`bring`].
pub(crate) async fn look_after(
    calls: &NodeCalls,
    log: &CoordinatorLog,
    node: &NodeId,
) -> Result<(), NodeCallError> {
    let agreed = log.routing().features.clone();
    match agreed.is_empty() || log.confirmed().age > CONFIRMED_MAX {
        true => Ok(()),
        false => bring(calls, &agreed, node).await,
    }
}

/// Switches what is not on the node as it was agreed.
///
/// # Errors
/// When the node does not answer, or refuses.
pub async fn bring(
    calls: &NodeCalls,
    agreed: &BTreeMap<String, bool>,
    node: &NodeId,
) -> Result<(), NodeCallError> {
    let found: Map<String, Value> = calls.json(node, Method::GET, PATH.into(), None).await?;
    let wanted = differing(agreed, &found);
    if wanted.is_empty() {
        return Ok(());
    }
    tracing::info!(%node, ?wanted, "switching experimental features");
    let _now: Value =
        calls.json(node, Method::PATCH, PATH.into(), Some(&Value::Object(wanted))).await?;
    Ok(())
}

/// The features that a node knows and has otherwise than agreed, as they should be.
fn differing(agreed: &BTreeMap<String, bool>, found: &Map<String, Value>) -> Map<String, Value> {
    let differs = |(name, on): &(&String, &bool)| {
        !OF_PODS.contains(&name.as_str())
            && found.get(*name).is_some_and(|found| *found != Value::Bool(**on))
    };
    let wanted = agreed.iter().filter(differs);
    wanted.map(|(name, on)| (name.clone(), Value::Bool(*on))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_differs_and_is_known_there_is_switched() {
        let agreed = BTreeMap::from([
            ("containsFilter".to_owned(), true),
            ("metrics".to_owned(), false),
            ("newer".to_owned(), true),
            ("getTaskDocumentsRoute".to_owned(), true),
        ]);
        let found = json!({ "metrics": false, "containsFilter": false, "network": true,
            "getTaskDocumentsRoute": false });
        let found = found.as_object().cloned().unwrap_or_default();
        assert_eq!(Value::Object(differing(&agreed, &found)), json!({ "containsFilter": true }));
    }
}
