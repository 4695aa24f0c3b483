//! Replicas that can't be trusted: when lanes look for tasks that came late, which nodes have
//! lost their disks, and what follows.

use std::time::Duration;

use miroir_seams::planted::{self, Bug};
use miroir_storage::ids::NodeId;
use ractor::ActorProcessingErr;

use super::lanes::Standing;
use super::{WriterMessage, WriterState, replicas, reports};
use crate::inspect::Address;
use crate::lane::LaneMessage;
use crate::lane::audit::Audit;

/// Between audits of a lane while a request of it may come late: a replica serves what a late
/// request did to it for about this long.
const AUDIT_INTERVAL: Duration = Duration::from_secs(5);

/// Starts the audits that are due; an audit takes the turn of the lane's next run.
pub(super) fn start(state: &mut WriterState) -> Result<(), ActorProcessingErr> {
    if state.operation.is_some() || planted::has(Bug::SkipAudit) {
        return Ok(());
    }
    let filled = state.copying.as_ref().map(|copying| copying.target.clone());
    let now = state.pod.seams.clock.instant();
    let sent = state.pod.calls.sent();
    for (node, lane) in &mut state.lanes {
        let due = now.saturating_duration_since(lane.audited_at) >= AUDIT_INTERVAL
            && sent.in_doubt(node, state.fence.index.as_str());
        let can = !lane.busy && lane.provisioned && !state.pod.health.is_down(node);
        // A copy looks through its target's tasks by itself.
        if due && can && filled.as_ref() != Some(node) {
            lane.busy = true;
            lane.actor.cast(LaneMessage::Audit)?;
        }
    }
    Ok(())
}

pub(super) fn on_lane_audited(
    myself: &Address<WriterMessage>,
    state: &mut WriterState,
    node: &NodeId,
    audit: Audit,
) {
    let Some(lane) = state.lanes.get_mut(node) else { return };
    lane.busy = false;
    lane.audited_at = state.pod.seams.clock.instant();
    if audit == Audit::Stray {
        lane.suspect = true;
        take_out(myself, state);
    }
}

/// Takes suspects out of the in-sync sets, to be copied. The last replica of a shard stays, so the
/// most advanced goes last.
pub(super) fn take_out(myself: &Address<WriterMessage>, state: &mut WriterState) {
    let mut suspects = Vec::new();
    for (node, lane) in &mut state.lanes {
        if std::mem::take(&mut lane.suspect) {
            lane.standing = Standing::NeedsCopy;
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
    let disks = state.pod.calls.disks().clone();
    let lost: Vec<NodeId> = state
        .lanes
        .iter()
        .filter(|(node, lane)| !lane.busy && lane.disk_life != disks.number(node))
        .map(|(node, _)| node.clone())
        .collect();
    for node in lost {
        on_disk_lost(myself, state, &node);
    }
}

pub(super) fn on_disk_lost(
    myself: &Address<WriterMessage>,
    state: &mut WriterState,
    node: &NodeId,
) {
    let Some(lane) = state.lanes.get_mut(node) else { return };
    tracing::error!(%node, index = %state.fence.index, "node has lost its disk");
    lane.disk_life = state.pod.calls.disks().number(node);
    lane.passed = None;
    lane.provisioned = false;
    lane.lost_disk = true;
    lane.standing = match planted::has(Bug::KeepEmptyReplica) {
        true => Standing::CatchingUp,
        false => Standing::NeedsCopy,
    };
    reports::forget_results(state, node);
    replicas::leave(myself, state, node, "node has lost its disk");
}
