//! Whether nodes still have the disks they had.
//!
//! A node says nothing of its disk. Two things give a new one away: an index of ours that serves
//! only as a mark ([`MARKER`]) is gone or was created at another time; or a task gets a number
//! below one that the node had given before, or one that was seen is another one by now
//! ([`crate::disk_lives`]), which also shows an old copy of the disk. Either is agreed in the log as
//! a new *life* of the disk, so that every writer, also one that starts later, copies its index there
//! before it is read.

use http::Method;
use miroir_storage::commands::Command;
use miroir_storage::ids::NodeId;
use miroir_storage::log::CoordinatorLog;
use serde_json::{Value, json};

use crate::node_calls::{CONTROL_TIMEOUT, NodeCallError, NodeCalls};

/// The index whose time of creation tells a node's disk from others. Holds nothing; its name is
/// not of the form that indexes of clients have on nodes.
pub const MARKER: &str = "miroir-disk";

/// What a look at a disk found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// It is the one that the log knows.
    Same,
    /// It can't be told yet: the mark is being made.
    Unmarked,
    /// It is another one. The log is told.
    Replaced,
}

/// Looks at a node's disk, and has the log take notice of what is new.
///
/// # Errors
/// When the node does not answer or answers otherwise than a node does: nothing is known then.
pub async fn look(
    calls: &NodeCalls,
    log: &CoordinatorLog,
    node: &NodeId,
) -> Result<Look, NodeCallError> {
    calls.look_at_tasks(node).await?;
    if tell_of_loss(calls, log, node).await {
        return Ok(Look::Replaced);
    }
    let known = log.routing().disk(node);
    let path = format!("/indexes/{MARKER}");
    let found = match calls.json::<Value>(node, Method::GET, path, None).await {
        Ok(index) => match index.get("createdAt").and_then(Value::as_str) {
            Some(created) => created.to_owned(),
            None => return Ok(Look::Unmarked),
        },
        Err(NodeCallError::Refused(error)) if error.code == "index_not_found" => {
            if known.identity.is_some() {
                note(log, node, known.life + 1, None).await;
            }
            let body = json!({ "uid": MARKER }).to_string().into();
            let path = "/indexes".to_owned();
            calls.enqueue(node, Method::POST, path, Some(body), CONTROL_TIMEOUT).await?;
            return Ok(match known.identity {
                Some(_) => Look::Replaced,
                None => Look::Unmarked,
            });
        }
        Err(error) => return Err(error),
    };
    match &known.identity {
        Some(identity) if *identity == found => Ok(Look::Same),
        Some(_) => {
            note(log, node, known.life + 1, Some(found)).await;
            Ok(Look::Replaced)
        }
        None => {
            note(log, node, known.life, Some(found)).await;
            Ok(Look::Same)
        }
    }
}

/// Has the log take notice of a loss that somebody in this pod found out by a node's tasks, whoever
/// checks the node; whether there is one.
pub async fn tell_of_loss(calls: &NodeCalls, log: &CoordinatorLog, node: &NodeId) -> bool {
    let (life, known) = (calls.disk_life(node), log.routing().disk(node));
    let is_lost = life > known.life;
    if is_lost {
        note(log, node, life, None).await;
    }
    is_lost
}

/// Should it fail, the next look finds the same.
async fn note(log: &CoordinatorLog, node: &NodeId, life: u64, identity: Option<String>) {
    if life > log.routing().disk(node).life {
        tracing::error!(%node, life, "node has lost its disk");
    }
    let command = Command::NoteDisk { node: node.clone(), life, identity };
    if let Err(error) = log.propose(&command).await {
        tracing::debug!(%node, %error, "a node's disk could not be noted");
    }
}
