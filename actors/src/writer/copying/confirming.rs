//! Whether what a copy read can be trusted: its sources are audited before it counts.
//!
//! A request that came late to a source after its last audit may have been copied to the target.
//! The source would be found out and filled anew, from the target, say: then what it did would be
//! everywhere. So each source that is in doubt is audited when the last pass is over, while lanes
//! still stand; what comes later than that was not copied.

use std::collections::BTreeSet;

use miroir_storage::ids::NodeId;
use ractor::ActorProcessingErr;

use super::WriterState;
use crate::lane::LaneMessage;
use crate::lane::audit::Audit;

/// Sources are audited.
#[derive(Debug)]
pub(super) struct Confirming {
    newest_task: u64,
    /// Their lanes are to be told, when they are idle.
    left: BTreeSet<NodeId>,
    /// Audits under way.
    ordered: BTreeSet<NodeId>,
}

impl Confirming {
    /// After the last pass, when the target's newest task was `newest_task`. These sources are in
    /// doubt.
    pub(super) fn new(newest_task: u64, left: BTreeSet<NodeId>) -> Self {
        Self { newest_task, left, ordered: BTreeSet::new() }
    }

    /// The target's newest task.
    pub(super) fn newest_task(&self) -> u64 {
        self.newest_task
    }
}

/// Orders the audits that can be made; whether none is left, or the copy counts for nothing anyway.
pub(super) fn is_over(state: &mut WriterState) -> Result<bool, ActorProcessingErr> {
    let Some(copying) = &mut state.copying else { return Ok(false) };
    let Some(confirming) = &mut copying.confirming else { return Ok(false) };
    let mut is_lost = false;
    for node in std::mem::take(&mut confirming.left) {
        match state.lanes.get_mut(&node) {
            Some(lane) if !lane.busy => {
                lane.busy = true;
                lane.actor.cast(LaneMessage::Audit)?;
                confirming.ordered.insert(node);
            }
            Some(_) => {
                confirming.left.insert(node);
            }
            None => is_lost = true,
        }
    }
    let has_lane = |node: &NodeId| state.lanes.contains_key(node);
    let is_left = !confirming.left.is_empty() || !confirming.ordered.is_empty();
    if is_lost || !confirming.ordered.iter().all(has_lane) {
        copying.give_up();
    }
    let is_over = !is_left || copying.is_given_up();
    copying.is_running = !is_over;
    Ok(is_over)
}

/// A lane was audited. What was copied from one that has a stray, or does not answer, counts for
/// nothing.
pub(in crate::writer) fn on_lane_audited(state: &mut WriterState, node: &NodeId, audit: Audit) {
    let Some(copying) = &mut state.copying else { return };
    let Some(confirming) = &mut copying.confirming else { return };
    if confirming.ordered.remove(node) && matches!(audit, Audit::Stray | Audit::NoAnswer) {
        tracing::warn!(index = %state.fence.index, source = %node, target = %copying.target, "copy is made again");
        copying.give_up();
    }
}
