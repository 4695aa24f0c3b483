//! Replicas that leave the in-sync sets, are copied, and come back.

use std::collections::{BTreeMap, BTreeSet};

use miroir_storage::commands::{Command, Outcome};
use miroir_storage::ids::{NodeId, ShardId};
use miroir_storage::log::ProposeError;
use miroir_storage::routing::IndexRouting;
use miroir_storage::tables::indexes::in_sync_of;
use ractor::ActorProcessingErr;

use super::entries::{Entry, Stage, judge};
use super::lanes::{self, LaneView, Standing, changes_for};
use super::steps::{fenced, propose, required, routing};
use super::{Hold, WriterMessage, WriterState, reports};
use crate::inspect::Address;
use crate::replica_copy::{ReplicaCopy, ReplicaCopyArguments, assign_sources};

/// Fills a replica that misses more than the queue holds: first a hold, then the copy.
pub(super) async fn start_copy(
    myself: &Address<WriterMessage>,
    state: &mut WriterState,
) -> Result<(), ActorProcessingErr> {
    let required = required(state);
    let Some(index) = routing(state) else { return Ok(()) };
    if state.hold.is_none() && state.operation.is_none() {
        if state.pod.seams.clock.instant() < state.copy_after {
            return Ok(());
        }
        let target = state.lanes.iter().find(|(node, lane)| {
            // What it keeps is known when the log has taken it out of the sets.
            lane.standing == Standing::NeedsCopy
                && !lane.busy
                && !lane.leaving
                && !lane.awaits_index(&index.groups, node)
                && !state.pod.health.is_down(node)
                && plan_copy(state, &index, node, lane).is_some()
        });
        let Some((target, _)) = target else { return Ok(()) };
        // A new index reaches its nodes with its first task, which a hold would keep back.
        if sources(state, &required, target).any(|lane| !lane.provisioned) {
            return Ok(());
        }
        state.hold = Some(Hold { target: target.clone(), limit: None, copying: false });
    }
    let Some(hold) = state.hold.clone().filter(|hold| !hold.copying) else { return Ok(()) };
    let Some(lane) = state.lanes.get(&hold.target) else { return Ok(()) };
    // A target that is read for some of its shards must come to the same place.
    let target = lane.keeps_shards(&index.groups, &hold.target).then_some(lane);
    let at_one_place = || sources(state, &required, &hold.target).chain(target);
    // Lanes that were busy when the hold began may have come further since.
    let limit = at_one_place().map(|lane| lane.passed).max().flatten().max(hold.limit);
    // Marks may be older than their lanes; what the queue holds no more was applied.
    let is_ready = |lane: &LaneView| {
        let left = |entry: &Entry| {
            let uid = Some(entry.task.uid);
            uid > lane.passed && uid <= limit
        };
        !lane.busy && lane.provisioned && !state.entries.iter().any(left)
    };
    // Until the tasks before it have ended, a source may turn out to have refused one, and
    // settings that an operation has brought are not yet in the log. Only a target that is
    // itself waited for, empty, is not: when all the others have said the same.
    let others = required.iter().filter(|node| **node != hold.target).cloned().collect();
    let waits_for_target = |entry: &Entry| {
        target.is_none() && !entry.is_barrier() && required.contains(&hold.target) && {
            let (results, voters) = reports::votes(entry, &state.lanes, &others);
            judge(&results, &voters, |shard| in_sync_of(&index.groups, shard))
                .is_some_and(|verdict| verdict.failed_alone.is_empty())
        }
    };
    let all_ended = state
        .entries
        .iter()
        .filter(|entry| Some(entry.task.uid) <= limit)
        .all(|entry| entry.ended() || waits_for_target(entry));
    // Who is to be taken out of the sets may still be listed there as a source.
    let settled = state.lanes.values().all(|lane| !lane.leaving && !lane.suspect);
    let all_ready = all_ended && settled && at_one_place().all(is_ready);
    let plan = plan_copy(state, &index, &hold.target, lane);
    if let Some(hold) = &mut state.hold {
        hold.limit = limit;
    }
    if !all_ready {
        return Ok(());
    }
    let Some(plan) = plan else {
        // A source has gone down since: writes must not wait for it.
        state.hold = None;
        return Ok(());
    };
    let arguments = ReplicaCopyArguments {
        pod: state.pod.clone(),
        writer: myself.clone(),
        index: state.fence.index.clone(),
        target: hold.target.clone(),
        sources: plan.sources,
        missing: plan.missing,
    };
    if let Some(hold) = &mut state.hold {
        hold.copying = true;
    }
    let name = format!("copy/{}/{}", arguments.index, arguments.target);
    myself.spawn(name, ReplicaCopy, arguments).await?;
    Ok(())
}

struct CopyPlan {
    sources: BTreeMap<NodeId, BTreeSet<ShardId>>,
    /// `None`: the whole index of the target is made anew.
    missing: Option<BTreeSet<ShardId>>,
}

/// What to copy to a node, and from where; `None` while a shard's only sources are down. A
/// target that is itself in the in-sync set of some shards keeps those: it may be their last
/// member.
fn plan_copy(
    state: &WriterState,
    index: &IndexRouting,
    target: &NodeId,
    lane: &LaneView,
) -> Option<CopyPlan> {
    let keeps = lane.keeps_shards(&index.groups, target);
    let missing: BTreeSet<ShardId> = lane
        .held
        .iter()
        .copied()
        .filter(|shard| !keeps || !in_sync_of(&index.groups, *shard).contains(target))
        .collect();
    let sources = assign_sources(
        &missing,
        target,
        |shard| in_sync_of(&index.groups, shard),
        |node| {
            let holds_data = state
                .lanes
                .get(node)
                .is_some_and(|lane| lane.provisioned && lane.standing != Standing::NeedsCopy);
            let partly = state.lanes.get(node).is_some_and(|l| l.keeps_shards(&index.groups, node));
            (holds_data || partly) && !state.pod.health.is_down(node)
        },
    );
    let covered: BTreeSet<ShardId> = sources.values().flatten().copied().collect();
    for shard in missing.difference(&covered) {
        let in_sync = in_sync_of(&index.groups, *shard);
        if in_sync.iter().any(|node| node != target) {
            return None;
        }
        // Its last in-sync replica was this node's, whose disk is gone.
        tracing::error!(index = %state.fence.index, node = %target, shard = shard.0,
            "shard has no replica to copy from, its documents are lost");
    }
    Some(CopyPlan { sources, missing: keeps.then_some(missing) })
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
            && (lane.standing != Standing::NeedsCopy || lane.provisioned)
            && !state.pod.health.is_down(node)
    };
    state.lanes.iter().filter(usable).map(|(_, lane)| lane)
}

/// Takes a node out of every in-sync set that has another member.
pub(super) fn leave(
    myself: &Address<WriterMessage>,
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
    let Some(lane) = state.lanes.get_mut(node) else { return Ok(()) };
    if !joined {
        lane.leaving = false;
    }
    match (joined, answer) {
        (true, Ok(_)) if lane.standing == Standing::Joining => {
            tracing::info!(%node, index = %state.fence.index, "replica is in sync");
            lane.standing = Standing::Current;
            // Last members that were kept for want of another one can leave now.
            for lane in state.lanes.values_mut() {
                lane.suspect |= lane.standing == Standing::NeedsCopy && !lane.leaving;
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
