//! Replicas that leave the in-sync sets and come back.

use std::collections::BTreeMap;

use miroir_storage::commands::{Command, InSyncChange, Outcome};
use miroir_storage::ids::{NodeId, ShardId};
use miroir_storage::log::ProposeError;
use miroir_storage::tables::indexes::in_sync_of;
use ractor::ActorProcessingErr;

use super::entries::Stage;
use super::lanes::{self, LaneView, Standing, changes_for};
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
    if state.resharding.is_proposed() {
        // Numbers of shards are about to change: the next life finds it out again.
        return;
    }
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

/// The replicas that have all there was of a shard, or some earlier state of it, though they are
/// not in sync: who is to be read when the last one that was is gone with its disk.
pub(super) fn heirs(
    state: &WriterState,
    shard: ShardId,
) -> impl Iterator<Item = (&NodeId, &LaneView)> {
    let holds = move |(node, lane): &(&NodeId, &LaneView)| {
        let knows_disk = lane.disk_life == state.pod.calls.disk_life(node);
        lane.settled().contains(&shard) && lane.is_whole() && knows_disk
    };
    state.lanes.iter().filter(holds)
}

/// Where the last in-sync replica of a shard is gone with its disk, takes the most advanced of the
/// others in its place: what that lacks was nowhere else. One that is down is waited for, and one
/// that catches up comes in by itself.
pub(super) fn promote(myself: &Address<WriterMessage>, state: &mut WriterState) {
    let is_lost = |lane: &LaneView| lane.lost_disk && !lane.leaving;
    if !state.lanes.values().any(is_lost) || state.resharding.is_proposed() {
        return;
    }
    let Some(index) = routing(state) else { return };
    let mut changes: BTreeMap<NodeId, Vec<InSyncChange>> = BTreeMap::new();
    for shard in (0..index.shards).map(ShardId) {
        let mut members = in_sync_of(&index.groups, shard).into_iter();
        let (Some(last), None) = (members.next(), members.next()) else { continue };
        if !state.lanes.get(&last).is_some_and(|lane| lane.lost_disk && !lane.leaving) {
            continue;
        }
        let Some((heir, lane)) = heirs(state, shard).max_by_key(|(_, lane)| lane.passed) else {
            continue;
        };
        if lane.standing != Standing::NeedsCopy || state.pod.health.is_down(heir) {
            continue;
        }
        tracing::error!(index = %index.uid, shard = shard.0, lost = %last, %heir, passed = ?lane.passed,
            "the last in-sync replica of a shard is gone, another takes its place");
        let change = |node: &NodeId, joins| InSyncChange { shard, node: node.clone(), joins };
        let both = [change(heir, true), change(&last, false)];
        changes.entry(last.clone()).or_default().extend(both);
    }
    for (node, changes) in changes {
        if let Some(lane) = state.lanes.get_mut(&node) {
            lane.leaving = true;
        }
        let command = Command::ChangeInSync { fence: state.fence.clone(), changes };
        propose(myself, state, command, |answer| WriterMessage::InSyncChanged {
            node,
            joined: false,
            answer,
        });
    }
}

/// Puts lanes that have applied every ended task back into the in-sync sets.
pub(super) fn join_caught_up(myself: &Address<WriterMessage>, state: &mut WriterState) {
    if state.resharding.is_switching() {
        return;
    }
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
    let newest = state.entries.back().map(|entry| entry.task.uid);
    let mut joining = Vec::new();
    for (node, lane) in &mut state.lanes {
        let caught_up = last_ended.is_none_or(|last| lane.passed.is_some_and(|p| p >= last));
        if lane.standing == Standing::CatchingUp
            && !lane.held.is_empty()
            && !lane.leaving
            && lane.provisioned
            && !lane.check_settings
            && state.resharding.is_marked(lane)
            && caught_up
            // With nothing ahead of it there is nothing to lag behind in.
            && !(lagging.contains(node) && lane.passed < newest)
            && !state.pod.health.is_down(node)
        {
            lane.standing = Standing::Joining;
            joining.push((node.clone(), changes_for(node, &lane.settled(), true)));
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
        // Found to differ while the log was told that it joins: whether that came or not, it leaves.
        (true, _) if lane.standing == Standing::NeedsCopy => lane.suspect |= !lane.leaving,
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
