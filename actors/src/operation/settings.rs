//! Two-phase settings (spec 01, Settings): propose on every node, verify by reading back,
//! commit with the task's end. A node task that fails is the client's error: everything is put
//! back first. Only a read-back that differs after success is a mismatch: sent again, three
//! times, and then the index stays closed to writes until the nodes agree.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use http::Method;
use miroir_seams::planted::{self, Bug};
use miroir_storage::commands::{Command, Effect, Ending};
use miroir_storage::ids::NodeId;
use miroir_wire::error::ResponseError;
use miroir_wire::settings::{Setting, Settings};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{OperationArguments, OperationEnd};
use crate::node_calls::NodeCallError;
use crate::node_settings::{canonical, node_side, node_side_whole, shows};
use crate::writer::entries::Decision;

/// Times settings are sent again when the read-back differs.
const REISSUES_MAX: u32 = 3;
/// Between rounds once writes are frozen; an alert is logged each time.
const FROZEN_WAIT: Duration = Duration::from_secs(30);

pub(super) async fn run(arguments: &OperationArguments, patch: &str) -> OperationEnd {
    let routing = arguments.pod.log.routing();
    let previous = match routing.by_uid.get(arguments.index()) {
        Some(index) => (*index.settings).clone(),
        None => Settings::default(),
    };
    // The patch was checked when it was accepted.
    let change = Settings::from_json(patch.as_bytes()).unwrap_or_default();
    let details = Some(Value::Object(change.to_details()));
    let mut merged = previous.clone();
    merged.merge(&change);
    if merged.ranking_rules == Setting::Reset {
        // Back to what a new index would have.
        merged.ranking_rules = routing.new_index_settings.ranking_rules.clone();
    }
    let wanted = node_side(&merged);

    mark_pending(arguments, true).await;
    let mut round = 0;
    let took_part: BTreeSet<NodeId> = loop {
        let proposed = match round {
            0 => propose(arguments, &wanted).await,
            // What differs may be what nobody asked to change: somebody else changed it there.
            _ => propose_whole(arguments, &merged).await,
        };
        let did = match proposed {
            Ok(did) => did,
            Err(refusal) => {
                return refused(arguments, &previous, details, refusal).await;
            }
        };
        let (verification, read) = verify(arguments, &wanted).await;
        let settled = match verification {
            Verification::Agreed => true,
            // Every node reads back the same, only spelt otherwise than it was sent.
            Verification::SameButDifferent if round >= REISSUES_MAX => {
                tracing::warn!(index = %arguments.index(), "nodes agree on settings that read back differently");
                true
            }
            Verification::SameButDifferent | Verification::Mismatch => false,
        };
        if settled {
            break did.intersection(&read).cloned().collect();
        }
        round += 1;
        let wait = if round > REISSUES_MAX {
            tracing::error!(index = %arguments.index(), "nodes disagree on settings, writes of the index are frozen");
            FROZEN_WAIT
        } else {
            Duration::from_millis(200 << round)
        };
        arguments.pod.seams.clock.sleep(wait).await;
    };
    let settings = serde_json::to_string(&merged).unwrap_or_else(|_| "{}".to_owned());
    let effects = vec![Effect::CommitSettings { settings }];
    let decision = Decision { ending: Ending::Succeeded, details, error: None, effects };
    end(arguments, decision, vec![wanted], &took_part).await
}

/// A node refused: the others get back what they had. Those that are away keep what they were sent until
/// their lanes have looked.
async fn refused(
    arguments: &OperationArguments,
    previous: &Settings,
    details: Option<Value>,
    refusal: ResponseError,
) -> OperationEnd {
    tracing::info!(index = %arguments.index(), code = refusal.code, "settings refused by a node, putting the previous ones back");
    let have_it_back = put_back(arguments, previous).await;
    mark_pending(arguments, false).await;
    let decision =
        Decision { ending: Ending::Failed, details, error: Some(refusal), effects: Vec::new() };
    end(arguments, decision, Vec::new(), &have_it_back).await
}

async fn end(
    arguments: &OperationArguments,
    decision: Decision,
    for_latecomers: Vec<Value>,
    took_part: &BTreeSet<NodeId>,
) -> OperationEnd {
    let participants = arguments.participants(took_part).await;
    OperationEnd { decision, for_latecomers, participants }
}

async fn mark_pending(arguments: &OperationArguments, pending: bool) {
    let command = Command::MarkSettingsPending { fence: arguments.fence.clone(), pending };
    if let Err(error) = arguments.pod.log.propose(&command).await {
        // Only a header depends on it.
        tracing::warn!(%error, "settings phase could not be logged");
    }
}

/// Sends the patch to every node side by side. The first refusal wins; else the nodes that took it.
async fn propose(
    arguments: &OperationArguments,
    patch: &Value,
) -> Result<BTreeSet<NodeId>, ResponseError> {
    let path = format!("/indexes/{}/settings", arguments.index());
    let on_each = arguments
        .nodes
        .iter()
        .map(|node| arguments.on_node(node, Method::PATCH, &path, Some(patch)));
    arguments.those_that_did(futures::future::join_all(on_each).await)
}

/// Sends each node the settings whole, defaults included; those that took them.
async fn propose_whole(
    arguments: &OperationArguments,
    settings: &Settings,
) -> Result<BTreeSet<NodeId>, ResponseError> {
    let path = &format!("/indexes/{}/settings", arguments.index());
    let on_each = arguments.nodes.iter().map(|node| async move {
        let Some(read) = read_back(arguments, node, path).await else { return Ok(None) };
        let whole = node_side_whole(settings, &read);
        arguments.on_node(node, Method::PATCH, path, Some(&whole)).await
    });
    arguments.those_that_did(futures::future::join_all(on_each).await)
}

/// What the node has; waits for its answer as long as the node is needed.
async fn read_back(arguments: &OperationArguments, node: &NodeId, path: &str) -> Option<Value> {
    loop {
        let answer: Result<Value, NodeCallError> =
            arguments.pod.calls.json(node, Method::GET, path.to_owned(), None).await;
        match answer {
            Ok(settings) => return Some(settings),
            Err(NodeCallError::Refused(error)) if arguments.finds_gone(node, &error) => {
                return None;
            }
            Err(_) if !arguments.is_needed(node) => return None,
            Err(_) => arguments.pod.seams.clock.sleep(super::RETRY_WAIT).await,
        }
    }
}

/// In one request to each node: searches go on meanwhile, and need the shard field to be filterable.
/// The nodes that have them again.
async fn put_back(arguments: &OperationArguments, previous: &Settings) -> BTreeSet<NodeId> {
    if planted::has(Bug::NoSettingsUndo) {
        return arguments.nodes.iter().cloned().collect();
    }
    loop {
        // What was in force before was accepted before; a refusal now can only be a broken node.
        match propose_whole(arguments, previous).await {
            Ok(nodes) => return nodes,
            Err(error) => {
                tracing::error!(index = %arguments.index(), code = error.code, message = error.message,
                    "previous settings could not be put back, trying again");
                arguments.pod.seams.clock.sleep(FROZEN_WAIT).await;
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Verification {
    Agreed,
    SameButDifferent,
    Mismatch,
}

/// What the nodes that answer make of the settings, and who they are.
async fn verify(
    arguments: &OperationArguments,
    wanted: &Value,
) -> (Verification, BTreeSet<NodeId>) {
    let path = format!("/indexes/{}/settings", arguments.index());
    let mut read = BTreeMap::new();
    for node in &arguments.nodes {
        if let Some(settings) = read_back(arguments, node, &path).await {
            read.insert(node.clone(), canonical(settings));
        }
    }
    let verification = judge(&canonical(wanted.clone()), &read);
    (verification, read.into_keys().collect())
}

fn judge(wanted: &Value, read: &BTreeMap<NodeId, Value>) -> Verification {
    let mut digests: Vec<_> =
        read.values().map(|settings| Sha256::digest(settings.to_string().as_bytes())).collect();
    digests.dedup();
    if digests.len() > 1 {
        return Verification::Mismatch;
    }
    match read.values().all(|settings| shows(wanted, settings)) {
        true => Verification::Agreed,
        false => Verification::SameButDifferent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nodes_that_read_back_differently_are_a_mismatch() {
        let wanted = json!({"distinctAttribute": "a"});
        let same = json!({"distinctAttribute": "a", "dictionary": []});
        let other = json!({"distinctAttribute": "b", "dictionary": []});
        let read = |a: &Value, b: &Value| {
            BTreeMap::from([(NodeId::from("a"), a.clone()), (NodeId::from("b"), b.clone())])
        };
        assert_eq!(judge(&wanted, &read(&same, &same)), Verification::Agreed);
        assert_eq!(judge(&wanted, &read(&same, &other)), Verification::Mismatch);
        assert_eq!(judge(&wanted, &read(&other, &other)), Verification::SameButDifferent);
    }
}
