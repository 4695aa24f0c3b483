//! Creating, changing and deleting an index on its nodes.

use std::collections::{BTreeMap, BTreeSet};

use http::Method;
use miroir_storage::commands::{Effect, Ending};
use miroir_storage::ids::{NodeId, ShardId};
use miroir_storage::tables::indexes::in_sync_of;
use miroir_wire::document::primary_key_cannot_change;
use miroir_wire::error::{ApiError, ResponseError};
use serde_json::{Value, json};

use super::{OperationArguments, OperationEnd};
use crate::lane::job::in_shards;
use crate::node_settings::node_side;
use crate::task_details::renaming_details;
use crate::writer::entries::Decision;

/// Creates the index with its settings on every node. A task whose name was bound already
/// fails, in its turn, as Meilisearch's would.
pub(super) async fn create(
    arguments: &OperationArguments,
    creates: bool,
    primary_key: Option<&str>,
) -> OperationEnd {
    let details = Some(json!({ "primaryKey": primary_key }));
    if !creates {
        let refusal = ApiError::index_already_exists(&arguments.name);
        return failed(arguments, details, refusal.into()).await;
    }
    let settings = match arguments.pod.log.routing().by_uid.get(arguments.index()) {
        Some(index) => node_side(&index.settings),
        None => json!({}),
    };
    let body = json!({ "uid": arguments.index().as_str(), "primaryKey": primary_key });
    let path = format!("/indexes/{}/settings", arguments.index());
    let (path, body, settings_body) = (&path, &body, &settings);
    let on_each = arguments.nodes.iter().map(|node| async move {
        match arguments.on_node(node, Method::POST, "/indexes", Some(body)).await {
            Err(error) if error.code != "index_already_exists" => return Err(error),
            _ => {}
        }
        arguments.on_node(node, Method::PATCH, path, Some(settings_body)).await
    });
    match arguments.those_that_did(futures::future::join_all(on_each).await) {
        Err(error) => failed(arguments, details, error).await,
        Ok(nodes) => succeeded(arguments, details, Vec::new(), vec![settings], &nodes).await,
    }
}

fn everybody(arguments: &OperationArguments) -> BTreeSet<NodeId> {
    arguments.nodes.iter().cloned().collect()
}

/// Renames the index, and then changes its primary key, if that is asked for too. A primary key that is
/// refused fails the task but leaves the new name, as in Meilisearch: writers have known the index by
/// it since the task was accepted. Nothing is told to nodes of the name: they know the index by its uid.
///
/// What the new name means to readers is final by now: every earlier task of it has ended, and
/// every later one waits for this.
pub(super) async fn rename(
    arguments: &OperationArguments,
    new_name: &str,
    primary_key: Option<&str>,
) -> OperationEnd {
    let details = renaming_details(&arguments.name, new_name, primary_key);
    let is_taken = arguments.pod.log.routing().indexes.contains_key(new_name);
    if is_taken && new_name != arguments.name {
        let refusal = ApiError::index_already_exists(new_name);
        return failed(arguments, Some(details), refusal.into()).await;
    }
    let mut end = update(arguments, new_name, primary_key).await;
    end.decision.details = Some(details);
    end.decision.effects.push(Effect::RenameIndex { to: new_name.to_owned() });
    end
}

/// Changes the primary key, which Meilisearch allows while the index is empty.
pub(super) async fn update(
    arguments: &OperationArguments,
    name: &str,
    primary_key: Option<&str>,
) -> OperationEnd {
    let details = Some(json!({ "primaryKey": primary_key }));
    let present = arguments
        .pod
        .log
        .routing()
        .by_uid
        .get(arguments.index())
        .and_then(|index| index.primary_key.clone());
    let (Some(wanted), true) = (primary_key, primary_key != present.as_deref()) else {
        // Nobody has anything to do.
        let all = everybody(arguments);
        return succeeded(arguments, details, Vec::new(), Vec::new(), &all).await;
    };
    if let Some(present) = present
        && holds_documents(arguments).await
    {
        let refusal = primary_key_cannot_change(&present).in_index(name);
        return failed(arguments, details, refusal.into()).await;
    }
    let path = format!("/indexes/{}", arguments.index());
    let body = json!({ "primaryKey": wanted });
    let on_each = arguments
        .nodes
        .iter()
        .map(|node| arguments.on_node(node, Method::PATCH, &path, Some(&body)));
    match arguments.those_that_did(futures::future::join_all(on_each).await) {
        Err(error) => failed(arguments, details, error).await,
        Ok(nodes) => {
            let effects = vec![Effect::SetPrimaryKey(wanted.to_owned())];
            succeeded(arguments, details, effects, Vec::new(), &nodes).await
        }
    }
}

/// Deletes the index from every node that is up; a node that is away forgets it when it is
/// provisioned or copied again, since the uid is never reused.
pub(super) async fn delete(arguments: &OperationArguments) -> OperationEnd {
    let deleted = count_documents(arguments).await;
    let path = &format!("/indexes/{}", arguments.index());
    let on_each = arguments.nodes.iter().map(|node| async move {
        if arguments.pod.health.is_down(node) {
            return;
        }
        match arguments.on_node(node, Method::DELETE, path, None).await {
            Err(error) if error.code != "index_not_found" => {
                tracing::warn!(%node, code = error.code, "index could not be deleted from node");
            }
            _ => {}
        }
    });
    futures::future::join_all(on_each).await;
    let details = Some(json!({ "deletedDocuments": deleted }));
    let all = everybody(arguments);
    succeeded(arguments, details, vec![Effect::RemoveIndex], Vec::new(), &all).await
}

async fn holds_documents(arguments: &OperationArguments) -> bool {
    count_documents(arguments).await > 0
}

/// Documents, each counted once: every shard on one of its in-sync replicas. Shards that nobody
/// answers for count nothing.
async fn count_documents(arguments: &OperationArguments) -> u64 {
    let pod = &arguments.pod;
    let routing = pod.log.routing();
    let Some(index) = routing.by_uid.get(arguments.index()) else { return 0 };
    let path = format!("/indexes/{}/documents/fetch", arguments.index());
    let mut left: BTreeSet<ShardId> = (0..index.shards).map(ShardId).collect();
    let mut silent: BTreeSet<NodeId> = pod.health.down().as_ref().clone();
    let mut counted = 0;
    loop {
        let mut asked: BTreeMap<NodeId, BTreeSet<ShardId>> = BTreeMap::new();
        for shard in &left {
            let in_sync = in_sync_of(&index.groups, *shard);
            if let Some(node) = in_sync.difference(&silent).next() {
                asked.entry(node.clone()).or_default().insert(*shard);
            }
        }
        if asked.is_empty() {
            return counted;
        }
        for (node, shards) in asked {
            let query = json!({ "filter": [in_shards(&shards, index.marks.current)], "limit": 0 });
            let answer: Result<Value, _> =
                pod.calls.json(&node, Method::POST, path.clone(), Some(&query)).await;
            match answer.ok().and_then(|answer| answer.get("total")?.as_u64()) {
                Some(total) => {
                    counted += total;
                    left.retain(|shard| !shards.contains(shard));
                }
                None => {
                    silent.insert(node);
                }
            }
        }
    }
}

async fn succeeded(
    arguments: &OperationArguments,
    details: Option<Value>,
    effects: Vec<Effect>,
    for_latecomers: Vec<Value>,
    took_part: &BTreeSet<NodeId>,
) -> OperationEnd {
    let decision = Decision { ending: Ending::Succeeded, details, error: None, effects };
    end(arguments, decision, for_latecomers, took_part).await
}

async fn failed(
    arguments: &OperationArguments,
    details: Option<Value>,
    error: ResponseError,
) -> OperationEnd {
    let decision =
        Decision { ending: Ending::Failed, details, error: Some(error), effects: Vec::new() };
    end(arguments, decision, Vec::new(), &everybody(arguments)).await
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
