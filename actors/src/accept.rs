//! Accepting a write: journal, then log, then 202 (spec 01, Writes 4).
//!
//! Runs in the connection's own task; the log orders what arrives side by side.

use std::collections::BTreeMap;
use std::sync::Arc;

use miroir_membership::placement::{PlacementError, place, place_on_what_is_left};
use miroir_storage::commands::{
    Command, EnqueueTask, IdempotencyKey, NewIndex, Outcome, PayloadRef, Work,
};
use miroir_storage::ids::{GroupId, NodeId, PodId, TaskUid};
use miroir_storage::job_commands::{ChunkClaim, JobCommand, JobOutcome, JobRefusal, Step};
use miroir_storage::journal::{JournalError, Payload};
use miroir_storage::log::ProposeError;
use miroir_storage::routing::to_nanoseconds;
use miroir_storage::tables::ApplyError;
use miroir_storage::tables::keys;
use miroir_storage::tables::roles::REGISTRAR;

use crate::copies;
use crate::inspect::BACKLOG_MAX;
use crate::leave::has_left;
use crate::pod::PodContext;

/// Why a write was not accepted, or is not known to be.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// The journal is full, or the pod's actors are far behind the log.
    #[error("the pod can't take more writes now")]
    Overloaded,
    /// The local disk failed.
    #[error("the write journal failed: {0}")]
    Journal(JournalError),
    /// No other pod takes the second copy; nothing was accepted.
    #[error("no other pod takes a copy of the write")]
    NoSecondCopy,
    /// The pod has left the cluster; nothing was accepted.
    #[error("the pod has left the cluster")]
    Left,
    /// The local store failed; nothing was accepted.
    #[error("the coordinator state can't be read: {0}")]
    State(#[from] ApplyError),
    /// The idempotency key was used for another request.
    #[error("the idempotency key was used for another request")]
    KeyReused,
    /// The log can't take it now; nothing was accepted.
    #[error("the coordinator log has no quorum")]
    NoQuorum,
    /// Some pod runs a version that can't read it; nothing was accepted.
    #[error("some pod can't read the write")]
    TooNew,
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
    /// Whether the index is created when its name is unbound; otherwise such a write is accepted
    /// and fails.
    pub creates_index: bool,
    /// Shown as `customMetadata`.
    pub custom_metadata: Option<String>,
}

/// What is agreed beside a write.
#[derive(Clone, Debug, Default)]
pub struct WriteMarks {
    /// Retries under the same key are the same write.
    pub key: Option<IdempotencyKey>,
    /// The session whose reads must see the write.
    pub session: Option<String>,
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

/// Accepts a write: durable and ordered when this returns. A write whose idempotency key has a
/// task is not accepted again: the answer is that task.
///
/// # Errors
/// See [`AcceptError`]; only `OutcomeUnknown` may have accepted it.
pub async fn accept(
    pod: &Arc<PodContext>,
    request: WriteRequest,
    marks: WriteMarks,
) -> Result<Accepted, AcceptError> {
    if let Some(accepted) = accepted_before(pod, marks.key.as_ref())? {
        return Ok(accepted);
    }
    let proposed = propose(pod, request, |task, bound| match bound {
        true => accept_bound_command(task, &marks),
        false => accept_command(task, &marks),
    })
    .await?;
    let at = proposed.at;
    match proposed.outcome {
        Outcome::Enqueued { uid, .. } => Ok(Accepted { uid, at }),
        Outcome::Repeated { uid } => {
            proposed.give_back(pod);
            Ok(accepted_before(pod, marks.key.as_ref())?.unwrap_or(Accepted { uid, at }))
        }
        Outcome::KeyReused => {
            proposed.give_back(pod);
            Err(AcceptError::KeyReused)
        }
        other => {
            tracing::error!(?other, "log answered an accepted task otherwise");
            Err(AcceptError::OutcomeUnknown)
        }
    }
}

/// Accepts a task of a job's chunk and moves the chunk's cursor, both or neither. The inner error
/// says that the claim is not in force any more, or that the stretch was accepted before.
///
/// # Errors
/// As [`accept`].
pub async fn accept_batch(
    pod: &Arc<PodContext>,
    request: WriteRequest,
    claim: ChunkClaim,
    step: Step,
    documents: u64,
) -> Result<Result<Accepted, JobRefusal>, AcceptError> {
    let command = |task: &EnqueueTask, _| {
        let (step, task) = (step.clone(), Box::new(task.clone()));
        Command::Job(Box::new(JobCommand::AcceptBatch { claim, step, documents, task }))
    };
    let proposed = propose(pod, request, command).await?;
    match proposed.outcome {
        Outcome::Enqueued { uid, .. } => Ok(Ok(Accepted { uid, at: proposed.at })),
        Outcome::Job(JobOutcome::Refused(refusal)) => {
            proposed.give_back(pod);
            Ok(Err(refusal))
        }
        other => {
            tracing::error!(?other, "log answered a job's task otherwise");
            Err(AcceptError::OutcomeUnknown)
        }
    }
}

/// What the log said of a journalled write.
struct Proposed {
    outcome: Outcome,
    at: i64,
    payload: Option<PayloadRef>,
}

impl Proposed {
    /// The task was not accepted: its payload is not needed.
    fn give_back(&self, pod: &PodContext) {
        self.payload.iter().for_each(|payload| copies::release(pod, payload));
    }
}

/// Journals a write and proposes it. The command is told whether the task must be accepted without
/// an index, to fail: its client may not create one.
async fn propose(
    pod: &Arc<PodContext>,
    request: WriteRequest,
    command: impl Fn(&EnqueueTask, bool) -> Command,
) -> Result<Proposed, AcceptError> {
    if has_left(pod) {
        return Err(AcceptError::Left);
    }
    if pod.backlog() > BACKLOG_MAX {
        return Err(AcceptError::Overloaded);
    }
    let routing = pod.log.routing();
    let bound = request.index.as_ref().and_then(|name| routing.write_names.get(name));
    let create = match (&request.index, bound) {
        (Some(name), None) if request.creates_index => Some(plan_index(pod, name)?),
        _ => None,
    };
    // Where the task will be worked on, as far as can be said now.
    let worker = match (bound.and_then(|uid| routing.by_uid.get(uid)), &create) {
        (Some(index), _) => Some(index.writer.clone()),
        (None, Some(plan)) => Some(plan.writer.clone()),
        (None, None) => pod.peers.now().owner_of(REGISTRAR).cloned(),
    };
    let at = to_nanoseconds(pod.seams.clock.now());
    let work = journal(pod, request.work, worker.as_ref()).await?;
    let payload = work.payload().cloned();
    let mut task = EnqueueTask {
        index: request.index,
        work,
        create,
        custom_metadata: request.custom_metadata,
        at,
    };
    // Work that would create its index, of a client that may not.
    let must_be_bound = task.work.creates_index() && !request.creates_index;
    let mut answer = pod.log.propose(&command(&task, must_be_bound && bound.is_none())).await;
    if let (Ok(Outcome::Unplaced), Some(name)) = (&answer, &task.index) {
        // Its index was deleted in between.
        if !must_be_bound {
            task.create = Some(plan_index(pod, name)?);
        }
        answer = pod.log.propose(&command(&task, must_be_bound)).await;
    }
    let give_back = || payload.iter().for_each(|payload| copies::release(pod, payload));
    match answer {
        Ok(outcome) => Ok(Proposed { outcome, at, payload }),
        Err(ProposeError::TooNew { .. }) => {
            give_back();
            Err(AcceptError::TooNew)
        }
        Err(ProposeError::NoQuorum | ProposeError::Stopped) => {
            give_back();
            Err(AcceptError::NoQuorum)
        }
        // The payload stays: the entry may yet be committed.
        Err(error) => {
            tracing::warn!(%error, "outcome of a write is unknown");
            Err(AcceptError::OutcomeUnknown)
        }
    }
}

/// The task of a key, as far as this pod knows; the log decides.
fn accepted_before(
    pod: &PodContext,
    key: Option<&IdempotencyKey>,
) -> Result<Option<Accepted>, AcceptError> {
    let Some(key) = key else { return Ok(None) };
    match keys::read(pod.log.engine().as_ref(), &key.key)? {
        None => Ok(None),
        Some(known) if known.request == key.request => {
            Ok(Some(Accepted { uid: known.uid, at: known.at }))
        }
        Some(_) => Err(AcceptError::KeyReused),
    }
}

/// Writes without marks keep the older form, which older pods can apply.
fn accept_command(task: &EnqueueTask, marks: &WriteMarks) -> Command {
    let task = Box::new(task.clone());
    match marks {
        WriteMarks { key: None, session: None } => Command::EnqueueTask(task),
        WriteMarks { key, session } => {
            Command::AcceptTask { task, key: key.clone(), session: session.clone() }
        }
    }
}

/// For work whose index must exist: unlike [`accept_command`]'s, it is never refused for want of
/// a plan.
fn accept_bound_command(task: &EnqueueTask, marks: &WriteMarks) -> Command {
    let WriteMarks { key, session } = marks.clone();
    Command::AcceptBoundTask { task: Box::new(task.clone()), key, session }
}

async fn journal(
    pod: &Arc<PodContext>,
    work: RequestedWork,
    worker: Option<&PodId>,
) -> Result<Work, AcceptError> {
    let (payload, count) = match &work {
        RequestedWork::Plain(work) => return Ok(work.clone()),
        RequestedWork::Documents { payload, count, .. }
        | RequestedWork::DeleteIds { payload, count, .. } => (payload.clone(), *count),
    };
    let bytes = payload.len() as u64;
    let holders = copies::append(pod, payload, worker).await?;
    let payload = PayloadRef { holders, bytes, count };
    Ok(match work {
        RequestedWork::Documents { partial, primary_key, .. } => {
            Work::Documents { partial, primary_key, payload }
        }
        RequestedWork::DeleteIds { single, .. } => Work::DeleteIds { payload, single },
        RequestedWork::Plain(work) => work,
    })
}

/// The plan of an index of this name. Its uid, which names the writer's role, is not known yet:
/// the pod that is chosen by the name may differ from the one that rendezvous will want.
fn plan_index(pod: &PodContext, name: &str) -> Result<NewIndex, PlacementError> {
    let routing = pod.log.routing();
    let mut groups: BTreeMap<GroupId, Vec<NodeId>> = BTreeMap::new();
    let topology = &routing.topology;
    for node in routing.nodes.values().filter(|node| !topology.draining.contains(&node.id)) {
        groups.entry(node.group).or_default().push(node.id.clone());
    }
    let agreed = topology.replication_factor.map(|factor| factor as usize);
    let replication_factor = agreed.unwrap_or(pod.config.replication_factor);
    let place = match topology.draining.is_empty() && topology.removed.is_empty() {
        true => place,
        false => place_on_what_is_left,
    };
    Ok(NewIndex {
        shards: pod.config.shards,
        groups: place(pod.config.shards, &groups, replication_factor)?,
        writer: pod.peers.now().owner_of(name).unwrap_or(&pod.id).clone(),
    })
}
