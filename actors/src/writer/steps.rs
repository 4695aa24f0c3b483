//! What a writer does: each step asks a rule and performs its answer.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use miroir_seams::planted::{self, Bug};
use miroir_storage::commands::{Command, Ending, FinishTask, Outcome, Work};
use miroir_storage::ids::{NodeId, ShardId, TaskUid};
use miroir_storage::log::ProposeError;
use miroir_storage::routing::{IndexRouting, to_nanoseconds};
use miroir_storage::tables::tasks;
use miroir_wire::error::{ApiError, Code, ResponseError};
use ractor::ActorProcessingErr;

use super::copying::Copying;
use super::editing;
use super::entries::{
    Decision, Entry, PREPARED_BYTES_MAX, Sendable, Stage, next_run, preparable, startable, trim,
};
use super::lanes::{Standing, in_sync_nodes};
use super::presence::{check_presence, earlier_documents};
use super::{
    WriterMessage, WriterState, audits, copying, placement, replicas, reports, resharding,
    settings_checks,
};
use crate::copies::{self, PayloadError};
use crate::inspect::Address;
use crate::lane::LaneMessage;
use crate::lane::job::{Job, JobWork};
use crate::operation::{Operation, OperationArguments, OperationWork};
use crate::payload::decode_documents;
use crate::pod::PodContext;
use crate::prepare::{PrepareContext, Prepared, VectorRules, prepare};
use crate::task_details::ended_details;

/// Before a payload that could not be read is tried again.
const PREPARE_RETRY_WAIT: std::time::Duration = std::time::Duration::from_secs(1);

/// Does everything that has become possible.
pub(super) async fn advance(
    myself: &Address<WriterMessage>,
    state: &mut WriterState,
) -> Result<(), ActorProcessingErr> {
    audits::notice_lost_disks(myself, state);
    replicas::promote(myself, state);
    start_tasks(myself, state);
    prepare_next(myself, state);
    start_operation(myself, state).await?;
    audits::take_out(myself, state);
    copying::advance(myself, state).await?;
    audits::start(state)?;
    settings_checks::start(state)?;
    placement::empty_departed(myself, state)?;
    resharding::mark(state, true)?;
    dispatch(state)?;
    resharding::mark(state, false)?;
    reports::decide(myself, state);
    finish(myself, state);
    replicas::join_caught_up(myself, state);
    resharding::advance(myself, state);
    release(state);
    Ok(())
}

/// The nodes whose report a task needs: those in an in-sync set, and those about to be.
pub(super) fn required(state: &WriterState) -> BTreeSet<NodeId> {
    let mut required = match routing(state) {
        Some(index) => in_sync_nodes(&index.groups),
        None => BTreeSet::new(),
    };
    let joining = state.lanes.iter().filter(|(_, lane)| lane.standing == Standing::Joining);
    required.extend(joining.map(|(node, _)| node.clone()));
    required
}

pub(super) fn routing(state: &WriterState) -> Option<Arc<IndexRouting>> {
    state.pod.log.routing().by_uid.get(&state.fence.index).cloned()
}

pub(super) fn propose<F>(
    myself: &Address<WriterMessage>,
    state: &WriterState,
    command: Command,
    report: F,
) where
    F: FnOnce(Result<Outcome, ProposeError>) -> WriterMessage + Send + 'static,
{
    let (log, myself) = (state.pod.log.clone(), myself.clone());
    state.pod.seams.tasks.spawn("writer proposal", async move {
        let answer = log.propose(&command).await;
        let _stopped = myself.cast(report(answer));
    });
}

fn now(state: &WriterState) -> i64 {
    to_nanoseconds(state.pod.seams.clock.now())
}

fn start_tasks(myself: &Address<WriterMessage>, state: &mut WriterState) {
    if state.entries.iter().any(|entry| matches!(entry.stage, Stage::Starting)) {
        return;
    }
    let engine = state.pod.log.engine().as_ref();
    let uids = startable(
        &state.entries,
        // When the store can't say, it is looked at again with the next message.
        |task, uid| tasks::holds_up(engine, task, uid).unwrap_or(true),
    );
    if uids.is_empty() {
        return;
    }
    for entry in state.entries.iter_mut().filter(|entry| uids.contains(&entry.task.uid)) {
        entry.stage = Stage::Starting;
    }
    let command = Command::StartTasks {
        fence: Some(state.fence.clone()),
        uids: uids.clone(),
        at: now(state),
    };
    propose(myself, state, command, |answer| WriterMessage::Started { uids, answer });
}

pub(super) fn on_started(
    state: &mut WriterState,
    uids: &[TaskUid],
    answer: Result<Outcome, ProposeError>,
) -> Result<(), ActorProcessingErr> {
    let started = match answer {
        Ok(Outcome::Fenced { current }) => return Err(fenced(state, current.0)),
        Ok(Outcome::Matched(started)) => Some(started),
        Ok(_) => Some(Vec::new()),
        Err(error) => {
            tracing::warn!(%error, "start of tasks could not be logged, trying again");
            None
        }
    };
    for entry in state.entries.iter_mut() {
        if !uids.contains(&entry.task.uid) || !matches!(entry.stage, Stage::Starting) {
            continue;
        }
        match &started {
            None => entry.stage = Stage::Waiting,
            Some(started) if started.contains(&entry.task.uid) => entry.stage = Stage::Started,
            // Cancelled before it began.
            Some(_) => {
                entry.stage = Stage::Ended;
                entry.sendable = Some(Sendable::Nothing);
            }
        }
    }
    Ok(())
}

pub(super) fn fenced(state: &WriterState, current: u64) -> ActorProcessingErr {
    format!("writer of {} was replaced: epoch {current} is in force", state.fence.index).into()
}

/// Reads and checks the next payload, off the actor.
fn prepare_next(myself: &Address<WriterMessage>, state: &mut WriterState) {
    while let Some(n) = preparable(&state.entries) {
        let Some(index) = routing(state) else { return };
        // One that fails before a key is agreed must be judged so again, should the writer be
        // another before its end is in the log: a later one agrees on none before that.
        let is = |what: fn(&Work) -> bool| state.entries.get(n).is_some_and(|e| what(&e.task.work));
        let decides_key = index.primary_key.is_none() && is(is_addition);
        if (decides_key || is(is_edition)) && !state.entries.iter().take(n).all(Entry::ended) {
            return;
        }
        let Some(entry) = state.entries.get_mut(n) else { return };
        let uid = entry.task.uid;
        let immediately = match &entry.task.work {
            Work::Documents { .. } | Work::DeleteIds { .. } | Work::EditDocuments { .. } => None,
            Work::DeleteByFilter { filter } => {
                Some(Sendable::Filter(serde_json::from_str(filter).unwrap_or_default()))
            }
            Work::Clear => Some(Sendable::Clear),
            _ => Some(Sendable::Barrier),
        };
        if let Some(sendable) = immediately {
            entry.stage = Stage::Ready(sendable.clone());
            entry.sendable = Some(sendable);
            continue;
        }
        entry.stage = Stage::Preparing;
        let work = entry.task.work.clone();
        let name = entry.task.name.clone().unwrap_or_default();
        let earlier = earlier_documents(&state.entries, n);
        let (pod, fence, myself) = (state.pod.clone(), state.fence.clone(), myself.clone());
        state.pod.seams.tasks.clone().spawn("prepare", async move {
            let result = match is_edition(&work) {
                true => editing::prepare_edition(&pod, &fence, &index, uid, &name).await,
                false => prepare_payload(&pod, &fence, &index, work, name, earlier).await,
            };
            if result.is_none() {
                pod.seams.clock.sleep(PREPARE_RETRY_WAIT).await;
            }
            let _stopped = myself.cast(WriterMessage::Prepared { uid, result });
        });
        return;
    }
}

fn is_addition(work: &Work) -> bool {
    matches!(work, Work::Documents { .. })
}

fn is_edition(work: &Work) -> bool {
    matches!(work, Work::EditDocuments { .. })
}

/// The end of a task that is refused before anything of it was sent.
pub(super) fn fails(error: ResponseError, work: &Work) -> Box<Decision> {
    Box::new(Decision {
        ending: Ending::Failed,
        details: Some(ended_details(work, Ending::Failed, None)),
        error: Some(error),
        effects: Vec::new(),
    })
}

/// `None`: the journal or the log failed; it is tried again.
async fn prepare_payload(
    pod: &Arc<PodContext>,
    fence: &miroir_storage::commands::Fence,
    index: &IndexRouting,
    work: Work,
    name: String,
    earlier: Option<Vec<Arc<Prepared>>>,
) -> Option<Result<Sendable, Box<Decision>>> {
    let fail = |error: ResponseError, work: &Work| Some(Err(fails(error, work)));
    let bytes = match copies::read(pod, work.payload()?).await {
        Ok(bytes) => bytes,
        Err(error @ PayloadError::Lost) => {
            tracing::error!(%error, "payload of an acknowledged task is lost");
            return fail(lost_payload(), &work);
        }
        Err(error @ PayloadError::NotNow(_)) => {
            tracing::warn!(%error, "journalled payload can't be read, trying again");
            return None;
        }
    };
    let shards = index.shards;
    match &work {
        Work::Documents { primary_key, partial, .. } => {
            let context = PrepareContext {
                name: name.clone(),
                index_primary_key: index.primary_key.clone(),
                request_primary_key: primary_key.clone(),
                marks: index.marks,
                checks_geo: PrepareContext::looks_at_geo(&index.settings),
                vectors: VectorRules::of(&index.settings),
                partial: *partial,
            };
            let checked = pod
                .seams
                .tasks
                .spawn_blocking(move || {
                    decode_documents(bytes).map(|batch| prepare(batch, &context))
                })
                .await
                .ok()?;
            match checked {
                Err(damaged) => {
                    tracing::error!(error = %damaged, "payload of an acknowledged task is lost");
                    fail(lost_payload(), &work)
                }
                Ok(Err(refusal)) => fail(refusal.into(), &work),
                Ok(Ok((prepared, lacking))) => {
                    let prepared = Arc::new(prepared);
                    if let Some(earlier) = earlier
                        && let Err(refusal) =
                            check_presence(pod, index, &prepared, &lacking, &earlier, &name).await
                    {
                        return fail(refusal.into(), &work);
                    }
                    if index.primary_key.is_none() {
                        let agree = Command::AgreePrimaryKey {
                            fence: fence.clone(),
                            primary_key: prepared.primary_key.clone(),
                        };
                        pod.log.propose(&agree).await.ok()?;
                    }
                    Some(Ok(Sendable::Documents(prepared)))
                }
            }
        }
        Work::DeleteIds { .. } => {
            let ids: Vec<String> = serde_json::from_slice(&bytes).ok()?;
            let placed = ids
                .into_iter()
                .map(|id| (miroir_membership::placement::shard_of(&id, shards), id))
                .collect::<Vec<(ShardId, String)>>();
            Some(Ok(Sendable::Ids(Arc::new(placed))))
        }
        _ => None,
    }
}

fn lost_payload() -> ResponseError {
    ApiError::new(Code::Internal, "The payload of this task was lost on disk.").into()
}

pub(super) fn on_prepared(
    state: &mut WriterState,
    uid: TaskUid,
    result: Option<Result<Sendable, Box<Decision>>>,
) {
    let Some(entry) = state.entries.iter_mut().find(|entry| entry.task.uid == uid) else { return };
    if planted::has(Bug::ReleaseEarly)
        && let (Some(Ok(_)), Some(payload)) = (&result, entry.task.work.payload())
    {
        copies::release(&state.pod, payload);
    }
    // What came of an edition was put down while it was prepared: its payload is given back by that.
    if is_edition(&entry.task.work)
        && let Ok(Some(task)) = tasks::read(state.pod.log.engine().as_ref(), uid)
    {
        entry.task.work = task.work;
    }
    match result {
        // Looked at again with the next message, at the latest the next tick.
        None => entry.stage = Stage::Started,
        Some(Ok(sendable)) => {
            entry.sendable = Some(sendable.clone());
            entry.stage = Stage::Ready(sendable);
        }
        Some(Err(decision)) => {
            entry.sendable = Some(Sendable::Nothing);
            entry.stage = Stage::Decided(decision);
        }
    }
}

/// Starts the operation of a barrier when every earlier task has ended and the lanes it covers
/// are idle right before it.
async fn start_operation(
    myself: &Address<WriterMessage>,
    state: &mut WriterState,
) -> Result<(), ActorProcessingErr> {
    if state.operation.is_some() || state.copying.is_some() || state.resharding.is_switching() {
        return Ok(());
    }
    let Some(n) = state.entries.iter().position(|entry| !entry.ended()) else { return Ok(()) };
    let Some(entry) = state.entries.get(n) else { return Ok(()) };
    if !matches!(entry.stage, Stage::Ready(Sendable::Barrier)) {
        return Ok(());
    }
    let before = n.checked_sub(1).and_then(|n| state.entries.get(n)).map(|entry| entry.task.uid);
    let required = required(state);
    let mut nodes = Vec::new();
    for (node, lane) in &state.lanes {
        if required.contains(node) {
            let at_barrier = lane.passed >= before || before.is_none();
            let by_itself = matches!(entry.task.work, Work::CreateIndex { .. } | Work::DeleteIndex);
            if lane.busy || !at_barrier || !(lane.provisioned || by_itself) {
                return Ok(());
            }
            nodes.push(node.clone());
        }
    }
    if nodes.is_empty() && !matches!(entry.task.work, Work::DeleteIndex) {
        return Ok(());
    }
    let work = match &entry.task.work {
        Work::Settings { patch, .. } => OperationWork::Settings { patch: patch.clone() },
        Work::CreateIndex { primary_key } => OperationWork::Create {
            creates: entry.task.creates_index,
            primary_key: primary_key.clone(),
        },
        Work::UpdateIndex { primary_key } => {
            OperationWork::Update { primary_key: primary_key.clone() }
        }
        Work::RenameIndex { to, primary_key, .. } => {
            OperationWork::Rename { to: to.clone(), primary_key: primary_key.clone() }
        }
        _ => OperationWork::Delete,
    };
    let life_of = |node: &NodeId| (node.clone(), state.pod.calls.disk_life(node));
    let arguments = OperationArguments {
        disk_lives: nodes.iter().map(life_of).collect(),
        pod: state.pod.clone(),
        writer: myself.clone(),
        fence: state.fence.clone(),
        task: entry.task.uid,
        name: entry.task.name.clone().unwrap_or_default(),
        work,
        nodes,
        started: state.pod.seams.clock.instant(),
    };
    state.operation = Some(entry.task.uid);
    let name = format!("operation/{}", arguments.fence.index);
    myself.spawn(name, Operation, arguments).await?;
    Ok(())
}

/// Gives every idle lane its next run.
fn dispatch(state: &mut WriterState) -> Result<(), ActorProcessingErr> {
    if state.operation.is_some() || state.resharding.is_proposed() {
        return Ok(());
    }
    if state.copying.as_ref().is_some_and(Copying::is_at_last) {
        return Ok(());
    }
    let hold = state.copying.as_ref().and_then(|copying| copying.hold);
    // One at a time: lanes don't gather while a copy is under way.
    let hold = hold.map(|hold| hold.limit).or(state.resharding.limit());
    let index = routing(state);
    let filled = state.copying.as_ref().map(|copying| copying.target.clone());
    let is_switching = state.resharding.is_switching();
    for (node, lane) in &mut state.lanes {
        let is_filled = filled.as_ref() == Some(node);
        let keeps_shards = index.as_ref().is_some_and(|index| {
            lane.keeps_shards(&index.groups, node) || lane.awaits_index(&index.groups, node)
        });
        let is_empty = lane.standing == Standing::NeedsCopy && !keeps_shards;
        if lane.busy
            || lane.noting
            || is_empty
            || lane.held.is_empty()
            || hold.is_some_and(|limit| lane.passed >= limit)
            || settings_checks::comes_first(&state.entries, lane, is_filled, is_switching)
        {
            continue;
        }
        let limit = hold.flatten();
        let job = if lane.provisioned {
            let carried = index.as_ref().map(|index| lane.carried(&index.groups, node));
            next_run(&state.entries, lane.passed, limit, carried.as_ref().unwrap_or(&lane.held))
        } else {
            provision(&state.entries, lane.passed, index.as_deref())
        };
        let Some(job) = job else { continue };
        lane.busy = true;
        lane.actor.cast(LaneMessage::Run(Box::new(job)))?;
    }
    Ok(())
}

/// What creates the index on a node before the first task that needs it there, or though none is
/// left: every task failed before it was sent, and the writer that was at it is gone.
fn provision(
    entries: &VecDeque<Entry>,
    passed: Option<TaskUid>,
    index: Option<&IndexRouting>,
) -> Option<Job> {
    let index = index?;
    let mut pending = entries.iter();
    let first = pending.find(|entry| passed.is_none_or(|passed| entry.task.uid > passed));
    if let Some(first) = first {
        // An operation creates or deletes the index by itself.
        let by_itself = matches!(first.task.work, Work::CreateIndex { .. } | Work::DeleteIndex);
        // An edition reads from the nodes before it can be sent.
        if !is_edition(&first.task.work) {
            first.sendable.as_ref().filter(|_| !by_itself || first.ended())?;
        }
    }
    let uid = first.map(|first| first.task.uid).or(passed).unwrap_or(TaskUid(0));
    Some(Job {
        first: uid,
        last: uid,
        work: JobWork::Provision {
            primary_key: index.primary_key.clone(),
            settings: crate::node_settings::node_side(&index.settings),
        },
        held: BTreeSet::new(),
    })
}

/// Writes the ends that are due to the log, in task order.
fn finish(myself: &Address<WriterMessage>, state: &mut WriterState) {
    // A replica that lacks what is being ended must be out of the sets first.
    if state.finishing || state.lanes.values().any(|lane| lane.leaving) {
        return;
    }
    let at = now(state);
    let mut endings = Vec::new();
    for entry in &mut state.entries {
        match std::mem::replace(&mut entry.stage, Stage::Ended) {
            Stage::Ended => {}
            Stage::Decided(decision) => {
                endings.push(ending_of(entry, &decision, &state.fence, at));
                entry.stage = Stage::Finishing(decision);
            }
            other => {
                entry.stage = other;
                break;
            }
        }
    }
    if endings.is_empty() {
        return;
    }
    state.finishing = true;
    let uids = endings.iter().map(|ending| ending.uid).collect();
    propose(myself, state, Command::FinishTasks(endings), |answer| WriterMessage::Finished {
        uids,
        answer,
    });
}

fn ending_of(
    entry: &Entry,
    decision: &Decision,
    fence: &miroir_storage::commands::Fence,
    at: i64,
) -> FinishTask {
    let error = decision.error.as_ref().map(|error| {
        let name = entry.task.name.as_deref().unwrap_or_default();
        let message = error.message.replace(fence.index.as_str(), name);
        ResponseError { message, ..error.clone() }
    });
    FinishTask {
        fence: Some(fence.clone()),
        uid: entry.task.uid,
        ending: decision.ending,
        details: decision.details.as_ref().map(ToString::to_string),
        error: error.and_then(|error| serde_json::to_string(&error).ok()),
        effects: decision.effects.clone(),
        shows_index: entry.task.creates_index,
        at,
    }
}

pub(super) fn on_finished(
    state: &mut WriterState,
    uids: &[TaskUid],
    answer: Result<Outcome, ProposeError>,
) -> Result<(), ActorProcessingErr> {
    state.finishing = false;
    if let Ok(Outcome::Fenced { current }) = &answer {
        return Err(fenced(state, current.0));
    }
    let logged = match &answer {
        Ok(_) => true,
        Err(error) => {
            tracing::warn!(%error, "end of tasks could not be logged, trying again");
            false
        }
    };
    for entry in state.entries.iter_mut().filter(|entry| uids.contains(&entry.task.uid)) {
        match std::mem::replace(&mut entry.stage, Stage::Ended) {
            Stage::Finishing(decision) if !logged => entry.stage = Stage::Decided(decision),
            _ if matches!(entry.task.work, Work::DeleteIndex) && logged => state.done = true,
            _ => {}
        }
    }
    Ok(())
}

/// Forgets what no lane needs, and gives its payloads back. Lanes that catch up keep entries
/// alive as long as memory allows; then they are copied instead.
fn release(state: &mut WriterState) {
    let kept: usize = state.entries.iter().filter(|entry| entry.ended()).map(Entry::bytes).sum();
    if kept > PREPARED_BYTES_MAX {
        for lane in state.lanes.values_mut() {
            if lane.standing == Standing::CatchingUp && !lane.busy {
                lane.standing = Standing::NeedsCopy;
            }
        }
    }
    let needed_after = state
        .lanes
        .values()
        .filter(|lane| lane.standing != Standing::NeedsCopy)
        .map(|lane| lane.passed)
        .min()
        .flatten();
    let all_gone = state.lanes.values().all(|lane| lane.standing == Standing::NeedsCopy);
    if all_gone {
        return;
    }
    let dropped = trim(&mut state.entries, needed_after);
    if let Some(copying) = &mut state.copying {
        dropped.iter().for_each(|entry| copying.note(entry));
    }
    release_payloads(state, dropped);
}

/// Gives back every payload: the index is gone.
pub(super) fn release_all(state: &mut WriterState) {
    let dropped = state.entries.drain(..).collect();
    release_payloads(state, dropped);
}

fn release_payloads(state: &WriterState, dropped: Vec<Entry>) {
    for entry in dropped {
        if let Some(payload) = entry.task.work.payload() {
            copies::release(&state.pod, payload);
        }
    }
}
