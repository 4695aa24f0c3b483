//! Replicas that can't be trusted: when lanes look for tasks that came late, which nodes have
//! lost their disks, and what follows.

use std::collections::BTreeSet;
use std::time::Duration;

use miroir_seams::planted::{self, Bug};
use miroir_storage::commands::{Command, Outcome};
use miroir_storage::ids::NodeId;
use miroir_storage::log::ProposeError;
use miroir_storage::tables::disks::{Content, ReplicaRecord};
use miroir_storage::tables::indexes::in_sync_of;
use ractor::ActorProcessingErr;

use super::copying::confirming;
use super::lanes::Standing;
use super::steps::{fenced, propose, routing};
use super::{WriterMessage, WriterState, replicas, reports, tainted};
use crate::inspect::Address;
use crate::lane::LaneMessage;
use crate::lane::audit::Audit;

/// Between audits of a lane while a request of it may come late: a replica serves what a late
/// request did to it for about this long.
const AUDIT_INTERVAL: Duration = Duration::from_secs(5);

/// How long a node stays in the in-sync sets for others to be looked at first.
const LOOK_MAX: Duration = Duration::from_secs(10);

/// Starts the audits that are due; an audit takes the turn of the lane's next run.
pub(super) fn start(state: &mut WriterState) -> Result<(), ActorProcessingErr> {
    let is_proposed = state.resharding.is_proposed();
    if state.operation.is_some() || is_proposed || planted::has(Bug::SkipAudit) {
        return Ok(());
    }
    let filled = state.copying.as_ref().map(|copying| copying.target.clone());
    let now = state.pod.seams.clock.instant();
    let sent = state.pod.calls.sent();
    for (node, lane) in &mut state.lanes {
        let is_time = now.saturating_duration_since(lane.audited_at) >= AUDIT_INTERVAL;
        let due = (is_time || lane.audit_first) && sent.in_doubt(node, state.fence.index.as_str());
        let can = !lane.busy && lane.provisioned && !state.pod.health.is_down(node);
        // A copy looks through its target's tasks by itself.
        if due && can && filled.as_ref() != Some(node) {
            lane.busy = true;
            lane.audit_first = false;
            lane.actor.cast(LaneMessage::Audit)?;
        }
    }
    Ok(())
}

/// Whether a node must not leave the in-sync sets yet: it would leave shards to nodes alone that late
/// requests may have reached since they were last looked at, and what those had changed would be all
/// there is. They are looked at first.
pub(super) fn look_first(state: &mut WriterState, node: &NodeId) -> bool {
    let now = state.pod.seams.clock.instant();
    let Some(index) = routing(state).filter(|_| !planted::has(Bug::SkipAudit)) else {
        return false;
    };
    let Some(lane) = state.lanes.get_mut(node) else { return false };
    let since = *lane.leaves_since.get_or_insert(now);
    if now.saturating_duration_since(since) >= LOOK_MAX {
        return false;
    }
    let (lanes, sent) = (&state.lanes, state.pod.calls.sent());
    let is_unseen = |node: &NodeId| {
        sent.in_doubt(node, state.fence.index.as_str())
            && !state.pod.health.is_down(node)
            && lanes.get(node).is_some_and(|lane| lane.provisioned && lane.audited_at < since)
    };
    let mut unseen = BTreeSet::new();
    let held = lanes.get(node).map(|lane| lane.held.clone()).unwrap_or_default();
    for shard in held {
        let mut others = in_sync_of(&index.groups, shard);
        if others.remove(node) && !others.is_empty() && others.iter().all(is_unseen) {
            unseen.extend(others);
        }
    }
    for node in &unseen {
        if let Some(lane) = state.lanes.get_mut(node) {
            lane.audit_first = true;
        }
    }
    !unseen.is_empty()
}

pub(super) fn on_lane_audited(
    myself: &Address<WriterMessage>,
    state: &mut WriterState,
    node: &NodeId,
    audit: Audit,
) {
    confirming::on_lane_audited(state, node, audit);
    let Some(lane) = state.lanes.get_mut(node) else { return };
    lane.busy = false;
    lane.audited_at = state.pod.seams.clock.instant();
    match audit {
        Audit::Stray => {
            lane.suspect = true;
            lane.sweeps = true;
            lane.marked = false;
            take_out(myself, state);
        }
        Audit::StraySettings => lane.check_settings = true,
        Audit::Clean | Audit::NoAnswer => {}
    }
}

/// Takes suspects out of the in-sync sets, to be copied. The last replica of a shard stays, tainted,
/// so the most advanced goes last.
pub(super) fn take_out(myself: &Address<WriterMessage>, state: &mut WriterState) {
    let mut suspects = Vec::new();
    let replaceable = tainted::replaceable(state);
    for (node, lane) in &mut state.lanes {
        if std::mem::take(&mut lane.suspect) || replaceable.contains(node) {
            lane.standing = Standing::NeedsCopy;
            lane.tainted.clone_from(&lane.held);
            suspects.push((lane.passed, node.clone()));
        }
    }
    suspects.sort();
    for (_, node) in suspects {
        replicas::leave(myself, state, &node, "a late request may have changed the replica");
    }
}

/// Takes notice of nodes that lost their disks, whoever found out.
pub(super) fn notice_lost_disks(myself: &Address<WriterMessage>, state: &mut WriterState) {
    let calls = state.pod.calls.clone();
    let lost: Vec<NodeId> = state
        .lanes
        .iter()
        .filter(|(node, lane)| {
            let is_other = lane.found_gone || lane.disk_life != calls.disk_life(node);
            is_other && !lane.busy && !lane.noting
        })
        .map(|(node, _)| node.clone())
        .collect();
    for node in lost {
        on_disk_lost(myself, state, &node);
    }
}

/// The node lost its disk, or the index. What lane and replica had counts no more.
pub(super) fn on_disk_lost(
    myself: &Address<WriterMessage>,
    state: &mut WriterState,
    node: &NodeId,
) {
    let life = state.pod.calls.disk_life(node);
    let Some(lane) = state.lanes.get_mut(node) else { return };
    let had_any = lane.provisioned || lane.passed.is_some() || lane.lost_disk;
    let content = if had_any { Content::Gone } else { Content::Whole };
    lane.passed = None;
    lane.provisioned = false;
    lane.found_gone = false;
    lane.filling = false;
    lane.tainted.clear();
    lane.marked = false;
    if lane.actor.cast(LaneMessage::BeginAnew).is_err() {
        // It failed, and the writer with it.
        return;
    }
    let command = Command::SetReplica {
        fence: state.fence.clone(),
        node: node.clone(),
        replica: ReplicaRecord { life, content },
    };
    if !had_any {
        // Nothing is sent to the new disk before the log knows that what comes is on it.
        lane.noting = true;
        let node = node.clone();
        propose(myself, state, command, move |answer| WriterMessage::ReplicaNoted {
            node,
            life,
            answer,
        });
        return;
    }
    tracing::error!(%node, index = %state.fence.index, "node has lost its replica");
    lane.disk_life = life;
    lane.lost_disk = true;
    lane.standing = match planted::has(Bug::KeepEmptyReplica) {
        true => Standing::CatchingUp,
        false => Standing::NeedsCopy,
    };
    state.pod.log.propose_detached(&command);
    reports::forget_results(state, node);
    replicas::leave(myself, state, node, "node has lost its replica");
}

/// The log knows that an empty lane begins on another disk.
pub(super) fn on_replica_noted(
    state: &mut WriterState,
    node: &NodeId,
    life: u64,
    answer: &Result<Outcome, ProposeError>,
) -> Result<(), ActorProcessingErr> {
    if let Ok(Outcome::Fenced { current }) = answer {
        return Err(fenced(state, current.0));
    }
    let Some(lane) = state.lanes.get_mut(node) else { return Ok(()) };
    lane.noting = false;
    match answer {
        // Pods of an older version don't look at it.
        Ok(_) | Err(ProposeError::TooNew { .. }) => lane.disk_life = life,
        Err(error) => {
            tracing::warn!(%node, %error, "a new disk could not be logged, trying again");
        }
    }
    Ok(())
}
