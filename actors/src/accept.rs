//! Accepting a write: journal, then log, then 202 (spec 01, Writes 4).
//!
//! Runs in the connection's own task; the log orders what arrives side by side.

use std::collections::BTreeMap;
use std::sync::Arc;

use miroir_membership::placement::{PlacementError, place};
use miroir_storage::commands::{Command, EnqueueTask, NewIndex, Outcome, PayloadRef, Work};
use miroir_storage::ids::{GroupId, JournalSequence, NodeId, TaskUid};
use miroir_storage::journal::{JournalError, Payload};
use miroir_storage::log::ProposeError;
use miroir_storage::routing::to_nanoseconds;

use crate::pod::PodContext;

/// Why a write was not accepted, or is not known to be.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// The journal is full.
    #[error("the write journal is full")]
    Overloaded,
    /// The local disk failed.
    #[error("the write journal failed: {0}")]
    Journal(JournalError),
    /// The log can't take it now; nothing was accepted.
    #[error("the coordinator log has no quorum")]
    NoQuorum,
    /// The log may or may not have taken it.
    #[error("the outcome is unknown")]
    OutcomeUnknown,
    /// A new index can't be placed.
    #[error(transparent)]
    Placement(#[from] PlacementError),
}

/// A write that was checked.
#[derive(Debug)]
pub struct WriteRequest {
    /// The client's name of the index, for tasks of one index.
    pub index: Option<String>,
    /// What to do.
    pub work: RequestedWork,
    /// Whether the index is created when its name is unbound.
    pub creates_index: bool,
    /// Shown as `customMetadata`.
    pub custom_metadata: Option<String>,
}

/// What a write asks for; payloads are not yet in the journal.
#[derive(Debug)]
pub enum RequestedWork {
    /// Documents, in the journal's layout ([`crate::payload`]).
    Documents {
        /// Partial update.
        partial: bool,
        /// The request's `primaryKey`.
        primary_key: Option<String>,
        /// The payload.
        payload: Payload,
        /// Documents in it.
        count: u64,
    },
    /// Ids to delete, a JSON array of strings.
    DeleteIds {
        /// The payload.
        payload: Payload,
        /// Ids in it.
        count: u64,
        /// Named in the path.
        single: bool,
    },
    /// Work without a payload.
    Plain(Work),
}

/// An accepted task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Its number.
    pub uid: TaskUid,
    /// When, Unix nanoseconds.
    pub at: i64,
}

/// Accepts a write: durable and ordered when this returns.
///
/// # Errors
/// See [`AcceptError`]; only `OutcomeUnknown` may have accepted it.
pub async fn accept(pod: &Arc<PodContext>, request: WriteRequest) -> Result<Accepted, AcceptError> {
    let create = match (&request.index, request.creates_index) {
        (Some(name), true) if !pod.log.routing().write_names.contains_key(name) => {
            Some(plan_index(pod)?)
        }
        _ => None,
    };
    let at = to_nanoseconds(pod.seams.clock.now());
    let (work, journalled) = journal(pod, request.work).await?;
    let mut task = EnqueueTask {
        index: request.index,
        work,
        create,
        custom_metadata: request.custom_metadata,
        at,
    };
    let mut answer = pod.log.propose(&Command::EnqueueTask(Box::new(task.clone()))).await;
    if answer == Ok(Outcome::Unplaced) {
        // Its index was deleted in between.
        task.create = Some(plan_index(pod)?);
        answer = pod.log.propose(&Command::EnqueueTask(Box::new(task))).await;
    }
    match answer {
        Ok(Outcome::Enqueued { uid, .. }) => Ok(Accepted { uid, at }),
        Ok(other) => {
            tracing::error!(?other, "log answered an accepted task otherwise");
            Err(AcceptError::OutcomeUnknown)
        }
        Err(ProposeError::NoQuorum | ProposeError::Stopped) => {
            if let Some(sequence) = journalled {
                pod.journal.release(sequence);
            }
            Err(AcceptError::NoQuorum)
        }
        // The payload stays: the entry may yet be committed.
        Err(error) => {
            tracing::warn!(%error, "outcome of a write is unknown");
            Err(AcceptError::OutcomeUnknown)
        }
    }
}

async fn journal(
    pod: &Arc<PodContext>,
    work: RequestedWork,
) -> Result<(Work, Option<JournalSequence>), AcceptError> {
    let (payload, count) = match &work {
        RequestedWork::Plain(work) => return Ok((work.clone(), None)),
        RequestedWork::Documents { payload, count, .. }
        | RequestedWork::DeleteIds { payload, count, .. } => (payload.clone(), *count),
    };
    let bytes = payload.len() as u64;
    let sequence = pod.journal.append(payload).await.map_err(|error| match error {
        JournalError::Full { .. } => AcceptError::Overloaded,
        other => AcceptError::Journal(other),
    })?;
    let payload = PayloadRef { holders: vec![(pod.id.clone(), sequence)], bytes, count };
    let work = match work {
        RequestedWork::Documents { partial, primary_key, .. } => {
            Work::Documents { partial, primary_key, payload }
        }
        RequestedWork::DeleteIds { single, .. } => Work::DeleteIds { payload, single },
        RequestedWork::Plain(work) => work,
    };
    Ok((work, Some(sequence)))
}

fn plan_index(pod: &PodContext) -> Result<NewIndex, PlacementError> {
    let routing = pod.log.routing();
    let mut groups: BTreeMap<GroupId, Vec<NodeId>> = BTreeMap::new();
    for node in routing.nodes.values() {
        groups.entry(node.group).or_default().push(node.id.clone());
    }
    Ok(NewIndex {
        shards: pod.config.shards,
        groups: place(pod.config.shards, &groups, pod.config.replication_factor)?,
        writer: pod.id.clone(),
    })
}
