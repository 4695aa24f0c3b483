//! Ends the tasks that no index's writer owns: swaps, cancellations, deletions of tasks, and
//! tasks for an index that does not exist.
//!
//! Owns: nothing that is not in the log. A role: one pod of the cluster runs it. Its predecessor
//! may still be at work when it begins; that does no harm, since a task ends once and both decide
//! from the same state, the log as of the end of the tasks before. Sent to by the log feed. A task waits until the tasks
//! it names as predecessors have ended, so that everything of one name ends in order. A restart
//! loads the open tasks again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use miroir_storage::commands::{Command, Effect, Ending, FinishTask, NameChange, Outcome, Work};
use miroir_storage::engine::Engine;
use miroir_storage::ids::TaskUid;
use miroir_storage::log::ProposeError;
use miroir_storage::routing::to_nanoseconds;
use miroir_storage::tables::ApplyError;
use miroir_storage::tables::tasks::{self, TaskRecord};
use miroir_wire::error::{ApiError, ResponseError};
use miroir_wire::index::{NameSwap, check_names_fit};
use ractor::ActorProcessingErr;
use tokio::time::Instant;

use crate::copies;
use crate::inspect::{Actor, Address};
use crate::pod::PodContext;
use crate::task_details::ended_details;

/// Between tries while the log takes nothing.
const RETRY_WAIT: Duration = Duration::from_secs(1);

/// How long a deletion of tasks waits for those that it matched and that have not ended. Clients
/// delete what they have just sent, which Meilisearch, where nothing else happens meanwhile,
/// nearly always has carried out by then.
const DELETION_PATIENCE: Duration = Duration::from_secs(2);

/// What the registrar is told.
#[derive(Debug)]
pub enum RegistrarMessage {
    /// The log accepted a task that no index owns.
    Accepted(Box<TaskRecord>),
    /// Some tasks ended: ours may be due.
    TasksEnded,
    /// The log answered.
    Answered {
        /// The task.
        uid: TaskUid,
        /// Its answer.
        answer: Result<Outcome, ProposeError>,
    },
}

/// The registrar actor.
#[derive(Debug)]
pub struct Registrar;

/// The registrar's state.
#[derive(Debug)]
pub struct RegistrarState {
    pod: Arc<PodContext>,
    open: BTreeMap<TaskUid, Open>,
    /// The task whose end is being logged: one at a time keeps them in order.
    busy: Option<TaskUid>,
}

/// A task that has not ended.
#[derive(Debug)]
struct Open {
    task: TaskRecord,
    /// When this registrar first saw it.
    since: Instant,
}

#[ractor::async_trait]
impl Actor for Registrar {
    type Msg = RegistrarMessage;
    type State = RegistrarState;
    type Arguments = Arc<PodContext>;

    const KIND: &'static str = "Registrar";

    async fn pre_start(
        &self,
        myself: Address<RegistrarMessage>,
        pod: Arc<PodContext>,
    ) -> Result<RegistrarState, ActorProcessingErr> {
        let since = pod.seams.clock.instant();
        let open = tasks::read_open(pod.log.engine().as_ref())?
            .into_iter()
            .filter(|task| task.index.is_none())
            .map(|task| (task.uid, Open { task, since }))
            .collect();
        myself.cast(RegistrarMessage::TasksEnded)?;
        let state = RegistrarState { pod, open, busy: None };
        look_again(&myself, &state, DELETION_PATIENCE);
        Ok(state)
    }

    async fn handle(
        &self,
        myself: Address<RegistrarMessage>,
        message: RegistrarMessage,
        state: &mut RegistrarState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            RegistrarMessage::Accepted(task) => {
                let since = state.pod.seams.clock.instant();
                if let Work::DeleteTasks { .. } = &task.work {
                    look_again(&myself, state, DELETION_PATIENCE);
                }
                state.open.entry(task.uid).or_insert(Open { task: *task, since });
            }
            RegistrarMessage::TasksEnded => {}
            RegistrarMessage::Answered { uid, answer } => on_answered(&myself, state, uid, answer),
        }
        end_next(&myself, state)
    }
}

fn on_answered(
    myself: &Address<RegistrarMessage>,
    state: &mut RegistrarState,
    uid: TaskUid,
    answer: Result<Outcome, ProposeError>,
) {
    state.busy = None;
    match answer {
        Ok(_) => {
            // Writes of names that were unbound come here with their payloads.
            if let Some(Open { task, .. }) = state.open.remove(&uid)
                && let Some(payload) = task.work.payload()
            {
                copies::release(&state.pod, payload);
            }
        }
        Err(error) => {
            tracing::warn!(task = %uid, %error, "end of task could not be logged, trying again");
            look_again(myself, state, RETRY_WAIT);
        }
    }
}

/// Looks for tasks that are due once more, after a while.
fn look_again(myself: &Address<RegistrarMessage>, state: &RegistrarState, wait: Duration) {
    let (myself, clock) = (myself.clone(), state.pod.seams.clock.clone());
    state.pod.seams.tasks.spawn("registrar wait", async move {
        clock.sleep(wait).await;
        let _stopped = myself.cast(RegistrarMessage::TasksEnded);
    });
}

/// Ends the first open task whose predecessors have ended.
fn end_next(
    myself: &Address<RegistrarMessage>,
    state: &mut RegistrarState,
) -> Result<(), ActorProcessingErr> {
    if state.busy.is_some() {
        return Ok(());
    }
    let engine = state.pod.log.engine().as_ref();
    let mut due = None;
    for Open { task, since } in state.open.values() {
        let has_patience = state.pod.seams.clock.instant() < *since + DELETION_PATIENCE;
        let mut waits = has_patience && deletes_open_tasks(engine, task)?;
        for before in &task.after {
            waits |= tasks::holds_up(engine, task, *before)?;
        }
        if !waits {
            due = Some(task.clone());
            break;
        }
    }
    let Some(task) = due else { return Ok(()) };
    let uid = task.uid;
    state.busy = Some(uid);
    let (pod, myself) = (state.pod.clone(), myself.clone());
    state.pod.seams.tasks.spawn("registrar proposal", async move {
        let answer = end_task(&pod, &task).await;
        let _stopped = myself.cast(RegistrarMessage::Answered { uid, answer });
    });
    Ok(())
}

/// Whether it deletes tasks of which one has not ended.
fn deletes_open_tasks(engine: &dyn Engine, task: &TaskRecord) -> Result<bool, ApplyError> {
    let Work::DeleteTasks { uids, .. } = &task.work else { return Ok(false) };
    // They were matched in the order of their numbers.
    Ok(tasks::read_open(engine)?.iter().any(|open| uids.binary_search(&open.uid).is_ok()))
}

async fn end_task(pod: &PodContext, task: &TaskRecord) -> Result<Outcome, ProposeError> {
    let at = to_nanoseconds(pod.seams.clock.now());
    let finish = |ending, affected, error: Option<ApiError>, effects| {
        let error = error.map(ResponseError::from);
        Command::FinishTasks(vec![FinishTask {
            fence: None,
            uid: task.uid,
            ending,
            details: Some(ended_details(&task.work, ending, affected).to_string()),
            error: error.and_then(|error| serde_json::to_string(&error).ok()),
            effects,
            shows_index: false,
            at,
        }])
    };
    let fail = |error| finish(Ending::Failed, None, Some(error), Vec::new());
    let command = match &task.work {
        Work::SwapIndexes { pairs } => match check_names(pod, &task.work.name_changes()) {
            Ok(()) => {
                let effects = vec![Effect::SwapNames { pairs: pairs.clone() }];
                finish(Ending::Succeeded, None, None, effects)
            }
            Err(refusal) => fail(refusal),
        },
        Work::ChangeNames { changes, .. } => match check_names(pod, changes) {
            Ok(()) => {
                let effects = vec![Effect::ChangeNames { changes: changes.clone() }];
                finish(Ending::Succeeded, None, None, effects)
            }
            Err(refusal) => fail(refusal),
        },
        Work::CancelTasks { uids, .. } => {
            let cancel = Command::CancelTasks { by: task.uid, uids: uids.clone(), at };
            let canceled = matched(pod.log.propose(&cancel).await?);
            finish(Ending::Succeeded, Some(canceled), None, Vec::new())
        }
        Work::DeleteTasks { uids, .. } => {
            let delete = Command::DeleteTasks { by: Some(task.uid), uids: uids.clone(), at };
            let deleted = matched(pod.log.propose(&delete).await?);
            finish(Ending::Succeeded, Some(deleted), None, Vec::new())
        }
        _ => fail(ApiError::index_not_found(task.name.as_deref().unwrap_or_default())),
    };
    pod.log.propose(&command).await
}

fn matched(outcome: Outcome) -> u64 {
    match outcome {
        Outcome::Matched(uids) => uids.len() as u64,
        _ => 0,
    }
}

/// Whether the names of a swap are to readers what it needs; when one is not, nothing was changed
/// for writers either.
fn check_names(pod: &PodContext, changes: &[NameChange]) -> Result<(), ApiError> {
    let routing = pod.log.routing();
    let swap = |change: &NameChange| NameSwap {
        names: (change.a.clone(), change.b.clone()),
        rename: change.renames,
    };
    let swaps: Vec<NameSwap> = changes.iter().map(swap).collect();
    check_names_fit(&swaps, |name| routing.indexes.contains_key(name))
}
