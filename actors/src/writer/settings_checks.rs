//! Nodes whose settings were seen to differ from the agreed ones: when their lanes look, and
//! what follows. See [`crate::drift_checker`].

use std::collections::VecDeque;
use std::time::Duration;

use miroir_storage::commands::{Ending, Work};
use miroir_storage::ids::{NodeId, TaskUid};
use miroir_storage::tables::tasks::TaskState;
use ractor::ActorProcessingErr;

use super::copying::Copying;
use super::entries::{Entry, Sendable};
use super::lanes::LaneView;
use super::steps::routing;
use super::{WriterMessage, WriterState, audits};
use crate::inspect::Address;
use crate::lane::LaneMessage;
use crate::lane::settings_check::{ExpectedSettings, SettingsCheck};

/// Before a check that got no answer is tried again.
const RETRY_WAIT: Duration = Duration::from_secs(1);

/// Starts the checks that are due; a check takes the turn of the lane's next run.
pub(super) fn start(state: &mut WriterState) -> Result<(), ActorProcessingErr> {
    let at_last = state.copying.as_ref().is_some_and(Copying::is_at_last);
    if state.operation.is_some() || at_last || state.resharding.is_switching() {
        return Ok(());
    }
    let filled = state.copying.as_ref().map(|copying| copying.target.clone());
    let Some(index) = routing(state) else { return Ok(()) };
    let now = state.pod.seams.clock.instant();
    for (node, lane) in &mut state.lanes {
        let is_filled = filled.as_ref() == Some(node);
        let can = !lane.busy
            && !is_filled
            && lane.provisioned
            && now >= lane.check_after
            && !state.pod.health.is_down(node);
        if !lane.check_settings || !can || !agreed_settings_apply(&state.entries, lane.passed) {
            continue;
        }
        let spelling = lane.spelling.as_ref();
        let spelling = spelling.filter(|(version, _)| *version == index.settings_version);
        let expected = ExpectedSettings {
            settings: index.settings.clone(),
            spelling: spelling.map(|(_, printed)| printed.clone()),
        };
        lane.busy = true;
        lane.checking_version = index.settings_version;
        lane.actor.cast(LaneMessage::CheckSettings(Box::new(expected)))?;
    }
    Ok(())
}

/// Whether the lane's next run waits for a check: what a filter deletes, and what is refused, follows
/// from settings. Only where a check can begin; else the lane would stand for ever.
pub(super) fn comes_first(
    entries: &VecDeque<Entry>,
    lane: &LaneView,
    is_filled: bool,
    is_switching: bool,
) -> bool {
    let can_begin = lane.provisioned && !is_filled && !is_switching;
    lane.check_settings && can_begin && agreed_settings_apply(entries, lane.passed)
}

/// Whether the settings that the log has are those of this place in the queue: every settings
/// task that the lane has passed is in the log, and it has passed every one that is.
fn agreed_settings_apply(entries: &VecDeque<Entry>, passed: Option<TaskUid>) -> bool {
    entries.iter().filter(|entry| changes_settings(entry)).all(|entry| {
        let is_behind = Some(entry.task.uid) <= passed;
        is_behind == entry.ended()
    })
}

/// Not those that ended without effect.
fn changes_settings(entry: &Entry) -> bool {
    let of_kind = matches!(entry.task.work, Work::Settings { .. } | Work::CreateIndex { .. });
    let cancelled = entry.task.state == TaskState::Ended(Ending::Canceled);
    of_kind && !cancelled && !matches!(entry.sendable, Some(Sendable::Nothing))
}

pub(super) fn on_settings_checked(
    myself: &Address<WriterMessage>,
    state: &mut WriterState,
    node: &NodeId,
    check: SettingsCheck,
) -> Result<(), ActorProcessingErr> {
    let Some(lane) = state.lanes.get_mut(node) else { return Ok(()) };
    lane.busy = false;
    lane.check_settings = false;
    match check {
        SettingsCheck::NotYet => {
            lane.check_settings = true;
            lane.check_after = state.pod.seams.clock.instant() + RETRY_WAIT;
        }
        SettingsCheck::InForce | SettingsCheck::Refused => {}
        SettingsCheck::Repaired => state.pod.drift.note_repaired(),
        SettingsCheck::Spelt(printed) => {
            tracing::info!(%node, index = %state.fence.index, "node prints the agreed settings otherwise");
            lane.spelling = Some((lane.checking_version, printed));
        }
        SettingsCheck::NodeReplaced => audits::on_disk_lost(myself, state, node),
        SettingsCheck::NotAgreed(why) => return Err(why.into()),
    }
    Ok(())
}
