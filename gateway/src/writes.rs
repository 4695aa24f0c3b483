//! The write path of the gateway: check everything, then journal and log, then 202.
//!
//! Handlers are free functions over a request's parts, so that the router stays without logic:
//! parse, resolve, accept, render. Nodes are never spoken to here.

pub mod batches;
pub mod documents;
pub mod indexes;
pub mod settings;
pub mod task_documents;
pub mod tasks;
pub mod webhooks;

use std::sync::Arc;

use miroir_actors::accept::{AcceptError, WriteMarks, WriteRequest, accept};
use miroir_actors::leave::has_left;
use miroir_actors::pod::PodContext;
use miroir_storage::commands::{Command, Outcome};
use miroir_storage::ids::ShardId;
use miroir_storage::log::ProposeError;
use miroir_storage::routing::{Routing, from_nanoseconds};
use miroir_wire::error::{ApiError, Code};
use miroir_wire::tasks::{Kind, Status, SummarizedTask};

pub use crate::reply::Reply;
use miroir_wire::access::Grant;

/// A pod that is asked to write, what is agreed beside the write, and what the client may do.
#[derive(Debug)]
pub struct Writes<'request> {
    /// The pod.
    pub pod: &'request Arc<PodContext>,
    /// Its idempotency key and session.
    pub marks: WriteMarks,
    /// The client's rights.
    pub grant: &'request Grant,
}

impl std::ops::Deref for Writes<'_> {
    type Target = Arc<PodContext>;

    fn deref(&self) -> &Arc<PodContext> {
        self.pod
    }
}

/// Agrees on what makes no task.
///
/// # Errors
/// 503s when it can't be agreed on, or is not known to be.
pub(crate) async fn propose(pod: &PodContext, change: &Command) -> Result<Outcome, ApiError> {
    let refused = |message| ApiError::new(Code::MiroirNoQuorum, message);
    if has_left(pod) {
        return Err(refused("This pod has left the cluster. Ask another pod."));
    }
    pod.log.propose(change).await.map_err(|error| match error {
        ProposeError::TooNew { .. } => refused(
            "Some pods run a version that can't read this change yet. Try again when all are replaced.",
        ),
        ProposeError::NoQuorum | ProposeError::Stopped => {
            refused("The coordinator log has no quorum. Nothing was changed, try again later.")
        }
        error => {
            tracing::warn!(%error, "outcome of a change is unknown");
            refused(
                "The coordinator log did not confirm the change in time: outcome unknown. It may have been made.",
            )
        }
    })
}

/// Accepts a write and answers as Meilisearch does: 202 with the summarised task.
pub(crate) async fn accepted(
    pod: &Writes<'_>,
    kind: Kind,
    request: WriteRequest,
) -> Result<Reply, ApiError> {
    let index = request.index.clone();
    let custom_metadata = request.custom_metadata.clone();
    let task = accept(pod, request, pod.marks.clone()).await.map_err(refusal)?;
    let summary = SummarizedTask {
        task_uid: task.uid.0,
        index_uid: index.clone(),
        status: Status::Enqueued,
        kind,
        enqueued_at: from_nanoseconds(task.at),
        custom_metadata,
    };
    let mut reply = Reply::json(202, &summary);
    if let Some(degraded) = index.and_then(|name| degraded(&pod.log.routing(), &name)) {
        reply.headers.push(("x-miroir-degraded", degraded));
    }
    Ok(reply)
}

/// The only place where a refusal of the write path becomes a status and a code.
pub(crate) fn refusal(error: AcceptError) -> ApiError {
    match error {
        AcceptError::Overloaded => ApiError::new(
            Code::MiroirOverloaded,
            "The write journal is full: nodes apply writes more slowly than they arrive. Nothing was accepted, try again later.",
        ),
        AcceptError::Journal(error) => {
            tracing::error!(%error, "write journal failed");
            ApiError::new(
                Code::MiroirNoQuorum,
                "The write could not be made durable on this pod. Nothing was accepted.",
            )
        }
        AcceptError::State(error) => {
            tracing::error!(%error, "coordinator state can't be read");
            ApiError::new(
                Code::MiroirNoQuorum,
                "This pod can't read its state. Nothing was accepted.",
            )
        }
        AcceptError::NoSecondCopy => ApiError::new(
            Code::MiroirNoQuorum,
            "No other pod could take a copy of the write. Nothing was accepted, try again later.",
        ),
        AcceptError::Left => ApiError::new(
            Code::MiroirNoQuorum,
            "This pod has left the cluster. Nothing was accepted, ask another pod.",
        ),
        AcceptError::KeyReused => ApiError::new(
            Code::MiroirIdempotencyKeyReused,
            "The Idempotency-Key was used for another request. Use a new key, or repeat the first request unchanged.",
        ),
        AcceptError::NoQuorum => ApiError::new(
            Code::MiroirNoQuorum,
            "The coordinator log has no quorum. Nothing was accepted, try again later.",
        ),
        AcceptError::TooNew => ApiError::new(
            Code::MiroirNoQuorum,
            "Some pods run a version that can't read this write yet. Nothing was accepted, try again when all are replaced.",
        ),
        AcceptError::OutcomeUnknown => ApiError::new(
            Code::MiroirNoQuorum,
            "The coordinator log did not confirm the write in time: outcome unknown. The write may have been accepted.",
        ),
        AcceptError::Placement(error) => ApiError::new(
            Code::MiroirShardUnavailable,
            format!("The index can't be placed: {error}."),
        ),
    }
}

/// `groups=…; shards=…` when a group has no in-sync replica for some shard of the index, other than one
/// that is on its way there.
fn degraded(routing: &Routing, name: &str) -> Option<String> {
    let index = routing.by_uid.get(routing.write_names.get(name)?)?;
    let mut groups = Vec::new();
    let mut shards = std::collections::BTreeSet::new();
    for group in &index.groups {
        let missing: Vec<ShardId> = group
            .shards
            .iter()
            .enumerate()
            .filter(|(_, shard)| shard.in_sync.is_empty())
            .map(|(n, shard)| (ShardId(n as u32), &shard.replicas))
            .filter(|(shard, replicas)| {
                let arrives =
                    |node| index.moves.get(node).is_some_and(|m| m.arriving.contains(shard));
                !replicas.iter().all(arrives)
            })
            .map(|(shard, _)| shard)
            .collect();
        if !missing.is_empty() {
            groups.push(group.group.to_string());
            shards.extend(missing);
        }
    }
    let shards: Vec<String> = shards.iter().map(ToString::to_string).collect();
    (!groups.is_empty())
        .then(|| format!("groups={}; shards={}", groups.join(","), shards.join(",")))
}

/// The refusal of a document or setting that uses a name of Miroir's own.
pub(crate) fn reserved_field(name: &str) -> ApiError {
    ApiError::new(
        Code::MiroirReservedField,
        format!("The field `{name}` is reserved: names that start with `_miroir_` can't be used."),
    )
}
