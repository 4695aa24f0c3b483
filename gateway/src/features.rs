//! `/experimental-features`: what is switched on for the whole cluster.
//!
//! | method | right | answers |
//! |---|---|---|
//! | `GET /experimental-features` | `experimental.get` | 200 |
//! | `PATCH /experimental-features` | `experimental.update` | 200; 400; 501 for features that have no meaning here; 503 |
//!
//! What was switched here is agreed in the log and brought to every node, also those that come later
//! ([`miroir_actors::node_features`]), but for what pods do by themselves. What never was is on when all
//! nodes have it on.

use std::collections::BTreeMap;

use http::Method;
use miroir_actors::node_features;
use miroir_storage::commands::Command;
use miroir_storage::ids::NodeId;
use miroir_wire::error::{ApiError, Code};
use miroir_wire::features::{
    CONTAINS_FILTER, EDIT_DOCUMENTS, FeaturesPatch, TASK_DOCUMENTS_ROUTE, shown,
};
use serde_json::{Map, Value};

use crate::reply::Reply;
use crate::writes::{Writes, propose};

/// What can be switched on.
const KNOWN: [&str; 3] = [CONTAINS_FILTER, EDIT_DOCUMENTS, TASK_DOCUMENTS_ROUTE];

/// `GET /experimental-features`.
pub async fn get(pod: &Writes<'_>) -> Reply {
    let found = nodes(pod).into_iter().map(|node| async move {
        let path = node_features::PATH.to_owned();
        pod.calls.json::<Map<String, Value>>(&node, Method::GET, path, None).await.ok()
    });
    let found: Vec<_> = futures::future::join_all(found).await.into_iter().flatten().collect();
    Reply::json(200, &shown(&in_force(&pod.log.routing().features, &found)))
}

/// `PATCH /experimental-features`.
///
/// # Errors
/// `bad_request` and those of any JSON body; `miroir_not_supported`; 503s.
pub async fn switch(pod: &Writes<'_>, body: &[u8]) -> Result<Reply, ApiError> {
    let patch = FeaturesPatch::from_json(body)?;
    let wanted = patch.all().into_iter().filter_map(|(name, on)| Some((name.to_owned(), on?)));
    let features: BTreeMap<String, bool> = wanted.collect();
    let is_wrong = |(name, on): &(&String, &bool)| **on && !KNOWN.contains(&name.as_str());
    if let Some((name, _)) = features.iter().find(is_wrong) {
        let message = format!(
            "Miroir does not support the experimental feature `{name}`. Nothing was switched."
        );
        return Err(ApiError::new(Code::MiroirNotSupported, message));
    }
    propose(pod, &Command::SwitchFeatures { features }).await?;
    let agreed = &pod.log.routing().features.clone();
    let switching = nodes(pod).into_iter().map(|node| async move {
        let switched = node_features::bring(&pod.calls, agreed, &node).await;
        switched.err().map(|error| (node, error))
    });
    let failed = futures::future::join_all(switching).await.into_iter().flatten().next();
    if let Some((node, error)) = failed {
        let message = format!(
            "The change is agreed, but node `{node}` has not made it yet: {error}. It will be made as soon as the node can."
        );
        return Err(ApiError::new(Code::MiroirShardUnavailable, message));
    }
    Ok(get(pod).await)
}

/// The nodes that can be asked.
fn nodes(pod: &Writes<'_>) -> Vec<NodeId> {
    let routing = pod.log.routing();
    routing.nodes.keys().filter(|node| !pod.health.is_down(node)).cloned().collect()
}

/// What is on: as agreed, and otherwise on all of the nodes that were asked.
fn in_force(
    agreed: &BTreeMap<String, bool>,
    found: &[Map<String, Value>],
) -> BTreeMap<String, bool> {
    let names = found.first().into_iter().flat_map(Map::keys);
    let is_on = |name: &String| found.iter().all(|node| node.get(name) == Some(&Value::Bool(true)));
    let mut on: BTreeMap<String, bool> = names.map(|name| (name.clone(), is_on(name))).collect();
    on.extend(agreed.iter().map(|(name, on)| (name.clone(), *on)));
    on
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_was_never_switched_is_on_where_all_nodes_have_it_on() {
        let node = |a: bool, b: bool| json!({ "a": a, "b": b }).as_object().cloned().unwrap();
        let agreed = BTreeMap::from([("c".to_owned(), true), ("b".to_owned(), false)]);
        let on = in_force(&agreed, &[node(true, true), node(true, false)]);
        assert_eq!(json!(on), json!({ "a": true, "b": false, "c": true }));
        let on = in_force(&BTreeMap::new(), &[node(true, true), node(true, false)]);
        assert_eq!(json!(on), json!({ "a": true, "b": false }));
    }
}
