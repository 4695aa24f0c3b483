//! Replicas that leave the in-sync sets, are copied, and come back.

use std::collections::BTreeSet;

use miroir_storage::commands::{Command, Outcome};
use miroir_storage::ids::NodeId;
use miroir_storage::log::ProposeError;
use miroir_storage::tables::indexes::in_sync_of;
use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::entries::Stage;
use super::lanes::{LaneView, Standing, changes_for};
use super::steps::{fenced, propose, required, routing};
use super::{Hold, WriterMessage, WriterState};
use crate::replica_copy::{ReplicaCopy, ReplicaCopyArguments, assign_sources};

/// Fills a replica that misses more than the queue holds: first a hold, then the copy.
pub(super) async fn start_copy(
    myself: &ActorRef<WriterMessage>,
    state: &mut WriterState,
) -> Result<(), ActorProcessingErr> {
    let required = required(state);
    if state.hold.is_none() && state.operation.is_none() {
        if state.pod.seams.clock.instant() < state.copy_after {
            return Ok(());
        }
        let empty = state.lanes.iter().find(|(node, lane)| {
            lane.standing == Standing::NeedsCopy && !lane.busy && !state.pod.health.is_down(node)
        });
        let Some((target, _)) = empty else { return Ok(()) };
        // A new index reaches its nodes with its first task, which a hold would keep back.
        if sources(state, &required, target).any(|lane| !lane.provisioned) {
            return Ok(());
        }
        state.hold = Some(Hold { target: target.clone(), limit: None, copying: false });
    }
    let Some(hold) = state.hold.clone().filter(|hold| !hold.copying) else { return Ok(()) };
    // Lanes that were busy when the hold began may have come further since.
    let furthest = sources(state, &required, &hold.target).map(|lane| lane.passed).max().flatten();
    let limit = hold.limit.max(furthest);
    if let Some(hold) = &mut state.hold {
        hold.limit = limit;
    }
    let is_ready = |lane: &LaneView| !lane.busy && lane.provisioned && lane.passed == limit;
    if !sources(state, &required, &hold.target).all(is_ready) {
        return Ok(());
    }
    let (Some(index), Some(lane)) = (routing(state), state.lanes.get(&hold.target)) else {
        return Ok(());
    };
    let sources = assign_sources(
        &lane.held,
        &hold.target,
        |shard| in_sync_of(&index.groups, shard),
        |node| !state.pod.health.is_down(node),
    );
    let covered: usize = sources.values().map(BTreeSet::len).sum();
    if covered < lane.held.len() {
        tracing::error!(index = %state.fence.index, node = %hold.target,
            shards = lane.held.len() - covered, "shards have no replica to copy from");
    }
    let arguments = ReplicaCopyArguments {
        pod: state.pod.clone(),
        writer: myself.clone(),
        index: state.fence.index.clone(),
        target: hold.target.clone(),
        sources,
    };
    if let Some(hold) = &mut state.hold {
        hold.copying = true;
    }
    Actor::spawn_linked(None, ReplicaCopy, arguments, myself.get_cell()).await?;
    Ok(())
}

/// The lanes of the nodes that a copy to `target` may be read from.
fn sources<'a>(
    state: &'a WriterState,
    required: &'a BTreeSet<NodeId>,
    target: &'a NodeId,
) -> impl Iterator<Item = &'a LaneView> {
    let usable = move |(node, lane): &(&NodeId, &LaneView)| {
        required.contains(*node)
            && *node != target
            && lane.standing != Standing::NeedsCopy
            && !state.pod.health.is_down(node)
    };
    state.lanes.iter().filter(usable).map(|(_, lane)| lane)
}

/// Takes a node out of every in-sync set that has another member.
pub(super) fn leave(
    myself: &ActorRef<WriterMessage>,
    state: &mut WriterState,
    node: &NodeId,
    reason: &'static str,
) {
    let Some(lane) = state.lanes.get_mut(node) else { return };
    if matches!(lane.standing, Standing::Current | Standing::Joining) {
        lane.standing = Standing::CatchingUp;
    }
    lane.leaving = true;
    tracing::warn!(%node, index = %state.fence.index, reason, "replica leaves the in-sync set");
    let changes = changes_for(node, &lane.held, false);
    let command = Command::ChangeInSync { fence: state.fence.clone(), changes };
    let node = node.clone();
    propose(myself, state, command, |answer| WriterMessage::InSyncChanged {
        node,
        joined: false,
        answer,
    });
}

/// Puts lanes that have applied every ended task back into the in-sync sets.
pub(super) fn join_caught_up(myself: &ActorRef<WriterMessage>, state: &mut WriterState) {
    let last_ended = state
        .entries
        .iter()
        .filter(|entry| {
            matches!(entry.stage, Stage::Ended | Stage::Finishing(_) | Stage::Decided(_))
        })
        .map(|entry| entry.task.uid)
        .max();
    let mut joining = Vec::new();
    for (node, lane) in &mut state.lanes {
        let caught_up = last_ended.is_none_or(|last| lane.passed.is_some_and(|p| p >= last));
        if lane.standing == Standing::CatchingUp
            && !lane.leaving
            && lane.provisioned
            && caught_up
            && !state.pod.health.is_down(node)
        {
            lane.standing = Standing::Joining;
            joining.push((node.clone(), changes_for(node, &lane.held, true)));
        }
    }
    for (node, changes) in joining {
        let command = Command::ChangeInSync { fence: state.fence.clone(), changes };
        propose(myself, state, command, |answer| WriterMessage::InSyncChanged {
            node,
            joined: true,
            answer,
        });
    }
}

pub(super) fn on_in_sync_changed(
    state: &mut WriterState,
    node: &NodeId,
    joined: bool,
    answer: Result<Outcome, ProposeError>,
) -> Result<(), ActorProcessingErr> {
    if let Ok(Outcome::Fenced { current }) = &answer {
        return Err(fenced(state, current.0));
    }
    let Some(lane) = state.lanes.get_mut(node) else { return Ok(()) };
    if !joined {
        lane.leaving = false;
    }
    match (joined, answer) {
        (true, Ok(_)) if lane.standing == Standing::Joining => {
            tracing::info!(%node, index = %state.fence.index, "replica is in sync");
            lane.standing = Standing::Current;
        }
        (true, Err(error)) => {
            tracing::warn!(%error, "in-sync change could not be logged, trying again");
            lane.standing = Standing::CatchingUp;
        }
        // Tried again by the tick.
        (false, Err(error)) if lane.standing == Standing::CatchingUp => {
            tracing::warn!(%error, "in-sync change could not be logged, trying again");
            lane.standing = Standing::Current;
        }
        _ => {}
    }
    Ok(())
}
