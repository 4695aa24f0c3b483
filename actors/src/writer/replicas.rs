//! Replicas that leave the in-sync sets and come back.

use miroir_storage::commands::{Command, Outcome};
use miroir_storage::ids::NodeId;
use miroir_storage::log::ProposeError;
use ractor::ActorProcessingErr;

use super::entries::Stage;
use super::lanes::{self, Standing, changes_for};
use super::steps::{fenced, propose, required, routing};
use super::{WriterMessage, WriterState, copying};
use crate::inspect::Address;

/// Takes a node out of every in-sync set that has another member.
pub(super) fn leave(
    myself: &Address<WriterMessage>,
    state: &mut WriterState,
    node: &NodeId,
    reason: &'static str,
) {
    copying::on_left(state, node);
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
pub(super) fn join_caught_up(myself: &Address<WriterMessage>, state: &mut WriterState) {
    // Cancelled tasks may have ended far ahead.
    let last_ended = state
        .entries
        .iter()
        .take_while(|entry| {
            matches!(entry.stage, Stage::Ended | Stage::Finishing(_) | Stage::Decided(_))
        })
        .map(|entry| entry.task.uid)
        .last();
    let required = required(state);
    let lagging = lanes::lagging(&state.lanes, &required, state.pod.seams.clock.instant());
    let mut joining = Vec::new();
    for (node, lane) in &mut state.lanes {
        let caught_up = last_ended.is_none_or(|last| lane.passed.is_some_and(|p| p >= last));
        if lane.standing == Standing::CatchingUp
            && !lane.leaving
            && lane.provisioned
            && caught_up
            && !lagging.contains(node)
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
    let members = routing(state).map(|index| lanes::in_sync_nodes(&index.groups));
    let Some(lane) = state.lanes.get_mut(node) else { return Ok(()) };
    if !joined {
        lane.leaving = false;
    }
    match (joined, answer) {
        (true, Ok(_)) if lane.standing == Standing::Joining => {
            tracing::info!(%node, index = %state.fence.index, "replica is in sync");
            lane.standing = Standing::Current;
            // Last members that were kept for want of another one can leave now.
            for (node, lane) in &mut state.lanes {
                let stays = members.as_ref().is_none_or(|members| members.contains(node));
                lane.suspect |= lane.standing == Standing::NeedsCopy && !lane.leaving && stays;
            }
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
        (false, Err(error)) if lane.standing == Standing::NeedsCopy => {
            tracing::warn!(%error, "in-sync change could not be logged, trying again");
            lane.suspect = true;
        }
        _ => {}
    }
    Ok(())
}
