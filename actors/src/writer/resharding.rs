//! Another number of shards, while writes and reads go on ([`miroir_storage::tables::partitions`]).
//!
//! ```text
//! next partition in the log -> lanes mark what their nodes have, page by page, between runs
//!   -> all marked: lanes gather at one place, and look once more -> switch (log) -> begins anew
//!   -> nobody reads by the former partition any more: settle (log) -> begins anew
//! ```
//! A life of the writer is of one set of partitions: when the log says others it begins anew, from the
//! log and the marks of its lanes, and so do its lanes and all that was prepared. Why every document
//! is marked at the switch: a lane of this life sends documents with both marks only; what its node had
//! before, it has marked, or copied from a node that has; and what a lane of an earlier life sent may
//! come late, but then the replica is copied, and looks again.
//!
//! Replicas that are in no in-sync set need not be marked: this writer's next life makes them anew.

use std::time::Duration;

use miroir_seams::planted::{self, Bug};
use miroir_storage::commands::{Command, Outcome};
use miroir_storage::ids::{NodeId, TaskUid};
use miroir_storage::log::ProposeError;
use miroir_storage::routing::{IndexRouting, Marks};
use miroir_storage::tables::partitions;
use miroir_storage::topology_commands::TopologyCommand;
use ractor::ActorProcessingErr;
use tokio::time::Instant;

use super::copying::Copying;
use super::entries::Entry;
use super::lanes::{LaneView, Standing, in_sync_nodes};
use super::steps::{fenced, propose, required, routing};
use super::{WriterMessage, WriterState, audits};
use crate::inspect::Address;
use crate::lane::LaneMessage;
use crate::lane::marking::{MarkEnd, MarkPage};

/// Why a writer stops that is to begin anew.
pub const BEGINS_ANEW: &str = "begins anew";

/// Documents marked at a time: at first, at least, at most. A page should take about as long as
/// [`PAGE_TIME`], which is how long writes wait for it.
const PAGE_DOCUMENTS: (usize, usize, usize) = (1000, 250, 20_000);
/// See [`PAGE_DOCUMENTS`].
const PAGE_TIME: Duration = Duration::from_secs(1);
/// After a page that could not be marked.
const RETRY_WAIT: Duration = Duration::from_secs(1);
/// How long lanes are held for one that does not come to their place.
const GATHER_MAX: Duration = Duration::from_secs(30);
/// After a switch that came to nothing.
const SWITCH_RETRY_WAIT: Duration = Duration::from_secs(10);

/// How many documents a lane marks at a time.
#[derive(Clone, Copy, Debug)]
pub struct MarkPages {
    limit: usize,
    began: Option<Instant>,
}

impl Default for MarkPages {
    fn default() -> Self {
        Self { limit: PAGE_DOCUMENTS.0, began: None }
    }
}

impl MarkPages {
    /// The limit after a page that took so long.
    fn adapt(&mut self, took: Duration) {
        let (_, least, most) = PAGE_DOCUMENTS;
        if took > PAGE_TIME * 2 {
            self.limit = (self.limit / 2).max(least);
        } else if took < PAGE_TIME / 2 {
            self.limit = (self.limit * 2).min(most);
        }
    }
}

/// What this life of a writer knows of the index's partitions.
#[derive(Debug)]
pub struct Resharding {
    /// Those that it is of.
    pub marks: Marks,
    /// When it began: whoever reads by the former partition has read the log before that.
    began: Instant,
    switching: Option<Switching>,
    /// No switch before this.
    switch_after: Instant,
    /// The log is not told again before this that the former partition is over.
    settle_after: Instant,
}

#[derive(Clone, Copy, Debug)]
enum Switching {
    /// Lanes stop at one place.
    Gathering { limit: Option<TaskUid>, began: Instant },
    /// The log is being told: nothing else is, and nothing is sent.
    Proposed,
}

impl Resharding {
    /// Of a life that begins now.
    pub fn new(marks: Marks, now: Instant) -> Self {
        Self { marks, began: now, switching: None, switch_after: now, settle_after: now }
    }

    /// Whether lanes gather for the switch, or it is under way.
    pub fn is_switching(&self) -> bool {
        self.switching.is_some()
    }

    /// Whether the log is being told of the switch.
    pub fn is_proposed(&self) -> bool {
        matches!(self.switching, Some(Switching::Proposed))
    }

    /// The last task that lanes may pass, while they gather.
    pub fn limit(&self) -> Option<Option<TaskUid>> {
        match self.switching {
            Some(Switching::Gathering { limit, .. }) => Some(limit),
            _ => None,
        }
    }

    /// Whether all that the lane's node has is marked.
    pub fn is_marked(&self, lane: &LaneView) -> bool {
        self.marks.newest().is_none() || lane.marked || planted::has(Bug::SwitchUnmarked)
    }
}

/// Whether the log says other partitions than this life is of.
pub(super) fn has_changed(state: &WriterState) -> bool {
    routing(state).is_some_and(|index| index.marks != state.resharding.marks)
}

/// Has idle lanes mark documents. `in_turn`: only those whose last turn was a run.
pub(super) fn mark(state: &mut WriterState, in_turn: bool) -> Result<(), ActorProcessingErr> {
    let Some(newest) = state.resharding.marks.newest() else { return Ok(()) };
    let is_held = state.copying.as_ref().is_some_and(|copying| copying.hold.is_some());
    if state.operation.is_some() || is_held || state.resharding.is_proposed() {
        return Ok(());
    }
    let Some(index) = routing(state) else { return Ok(()) };
    let is_paused = state.resharding.marks.next.is_some() && state.pod.moves_rest();
    let now = state.pod.seams.clock.instant();
    let filled = state.copying.as_ref().map(|copying: &Copying| copying.target.clone());
    for (node, lane) in &mut state.lanes {
        let can = !lane.busy
            && !lane.noting
            && lane.provisioned
            && filled.as_ref() != Some(node)
            && lane.disk_life == state.pod.calls.disk_life(node)
            && !state.pod.health.is_down(node);
        let is_due = !lane.marked && now >= lane.mark_after && (lane.ran_since_mark || !in_turn);
        if !can || !is_due || is_paused {
            continue;
        }
        let page = MarkPage {
            primary_key: index.primary_key.clone(),
            newest,
            limit: lane.page.limit,
            known: lane.held.union(&lane.departed).copied().collect(),
        };
        lane.busy = true;
        lane.page.began = Some(now);
        lane.actor.cast(LaneMessage::Mark(Box::new(page)))?;
    }
    Ok(())
}

pub(super) fn on_lane_marked(
    myself: &Address<WriterMessage>,
    state: &mut WriterState,
    node: &NodeId,
    end: MarkEnd,
) -> Result<(), ActorProcessingErr> {
    let now = state.pod.seams.clock.instant();
    let rate = state.pod.log.routing().topology.documents_per_second;
    let Some(lane) = state.lanes.get_mut(node) else { return Ok(()) };
    lane.busy = false;
    lane.moved_at = now;
    lane.ran_since_mark = false;
    let began = lane.page.began.take().unwrap_or(now);
    match end {
        MarkEnd::Marked { count, strays } => {
            lane.sweeps |= strays;
            lane.page.adapt(now.saturating_duration_since(began));
            if rate > 0 {
                lane.mark_after = began + Duration::from_secs_f64(count as f64 / f64::from(rate));
                let (after, clock) = (lane.mark_after, state.pod.seams.clock.clone());
                let myself = myself.clone();
                state.pod.seams.tasks.spawn("marking pause", async move {
                    clock.sleep(after.saturating_duration_since(clock.instant())).await;
                    let _stopped = myself.cast(WriterMessage::TasksEnded(Vec::new()));
                });
            }
        }
        MarkEnd::Whole => lane.marked = true,
        MarkEnd::NotDone => lane.mark_after = now + RETRY_WAIT,
        MarkEnd::NodeReplaced => audits::on_disk_lost(myself, state, node),
        MarkEnd::NotAgreed(why) => return Err(why.into()),
    }
    Ok(())
}

/// Does what is due of a switch, and of what follows one.
pub(super) fn advance(myself: &Address<WriterMessage>, state: &mut WriterState) {
    settle(myself, state);
    let Some(next) = state.resharding.marks.next else { return };
    let Some(index) = routing(state) else { return };
    if state.resharding.is_proposed() {
        return;
    }
    let now = state.pod.seams.clock.instant();
    if !may_switch(state, &index) || now < state.resharding.switch_after {
        state.resharding.switching = None;
        return;
    }
    let in_sync = in_sync_nodes(&index.groups);
    let is_marked =
        |node: &NodeId| state.lanes.get(node).is_some_and(|lane| state.resharding.is_marked(lane));
    let all_marked = in_sync.iter().all(is_marked);
    let of_required = |state: &WriterState| {
        let required = required(state);
        let lanes = state.lanes.iter().filter(|(node, _)| required.contains(*node));
        lanes.map(|(_, lane)| lane.passed).max().flatten()
    };
    match state.resharding.switching {
        None if all_marked => {
            // Each looks once more, at the place where it is held.
            for (node, lane) in &mut state.lanes {
                lane.marked &= !in_sync.contains(node);
            }
            let limit = of_required(state);
            state.resharding.switching = Some(Switching::Gathering { limit, began: now });
        }
        None | Some(Switching::Proposed) => {}
        Some(Switching::Gathering { limit, began }) => {
            // Lanes that were busy when it began may have come further since.
            let limit = of_required(state).max(limit);
            if all_marked && is_gathered(state, limit) {
                tell_switch(myself, state, next);
            } else if now.saturating_duration_since(began) >= GATHER_MAX {
                state.resharding.switching = None;
                state.resharding.switch_after = now + SWITCH_RETRY_WAIT;
            } else {
                state.resharding.switching = Some(Switching::Gathering { limit, began });
            }
        }
    }
}

/// Whether nothing is on its way that shards' numbers are a part of, and the state machine would
/// take the switch.
fn may_switch(state: &WriterState, index: &IndexRouting) -> bool {
    let is_calm = |lane: &LaneView| {
        !lane.leaving && !lane.suspect && !lane.noting && lane.standing != Standing::Joining
    };
    let is_free = state.copying.is_none() && state.operation.is_none();
    let is_paused = state.pod.moves_rest();
    let to = index.marks.next.map_or(index.shards, |next| next.shards);
    is_free
        && !is_paused
        && state.lanes.values().all(is_calm)
        && partitions::switched(&index.groups, &index.moves, index.shards, to).is_some()
}

/// Whether every lane stands still, and those that count at one place, with all before it ended.
fn is_gathered(state: &WriterState, limit: Option<TaskUid>) -> bool {
    let required = required(state);
    let is_at_limit = |lane: &LaneView| {
        let is_left = |entry: &Entry| {
            let uid = Some(entry.task.uid);
            uid > lane.passed && uid <= limit
        };
        !state.entries.iter().any(is_left)
    };
    let mut counting = state.lanes.iter().filter(|(node, _)| required.contains(*node));
    let before = |entry: &&Entry| Some(entry.task.uid) <= limit;
    !state.finishing
        && state.lanes.values().all(|lane| !lane.busy)
        && counting.all(|(_, lane)| is_at_limit(lane))
        && state.entries.iter().filter(before).all(Entry::ended)
}

fn tell_switch(
    myself: &Address<WriterMessage>,
    state: &mut WriterState,
    to: miroir_wire::reserved::Partition,
) {
    tracing::info!(index = %state.fence.index, shards = to.shards, "every document is marked, shards are switched");
    state.resharding.switching = Some(Switching::Proposed);
    let command = TopologyCommand::SwitchPartition { fence: state.fence.clone(), to };
    let command = Command::Topology(Box::new(command));
    let (log, clock) = (state.pod.log.clone(), state.pod.seams.clock.clone());
    let myself = myself.clone();
    state.pod.seams.tasks.spawn("switch of partitions", async move {
        let answer = loop {
            match log.propose(&command).await {
                // It may come into force at any time: nothing goes on before that is known.
                Err(ProposeError::Unknown) => clock.sleep(RETRY_WAIT).await,
                answer => break answer,
            }
        };
        let _stopped = myself.cast(WriterMessage::PartitionSwitched { answer });
    });
}

/// The log has answered. Where it has switched, this life is over (`has_changed`).
pub(super) fn on_switched(
    state: &mut WriterState,
    answer: Result<Outcome, ProposeError>,
) -> Result<(), ActorProcessingErr> {
    match answer {
        Ok(Outcome::Fenced { current }) => return Err(fenced(state, current.0)),
        Ok(_) => {}
        Err(error) => {
            tracing::warn!(%error, "switch of partitions could not be logged, trying again");
        }
    }
    state.resharding.switching = None;
    state.resharding.switch_after = state.pod.seams.clock.instant() + SWITCH_RETRY_WAIT;
    Ok(())
}

/// Tells the log that nobody reads by the former partition any more.
fn settle(myself: &Address<WriterMessage>, state: &mut WriterState) {
    let now = state.pod.seams.clock.instant();
    let Resharding { marks, began, settle_after, .. } = &mut state.resharding;
    let life = state.pod.config.placement_life;
    let is_over = now.saturating_duration_since(*began) >= life;
    if marks.former.is_none() || !is_over || now < *settle_after {
        return;
    }
    *settle_after = now + RETRY_WAIT;
    let command = TopologyCommand::SettlePartition { fence: state.fence.clone() };
    // What it changes is noticed by itself; a refusal comes again with the next tick.
    propose(myself, state, Command::Topology(Box::new(command)), |_| {
        WriterMessage::TasksEnded(Vec::new())
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_take_about_as_long_as_they_should() {
        let mut pages = MarkPages::default();
        let limits = |pages: &mut MarkPages, took: u64, times: usize| {
            (0..times).for_each(|_| pages.adapt(Duration::from_millis(took)));
            pages.limit
        };
        assert_eq!(limits(&mut pages, 100, 1), 2000);
        assert_eq!(limits(&mut pages, 100, 9), PAGE_DOCUMENTS.2);
        assert_eq!(limits(&mut pages, 1200, 9), PAGE_DOCUMENTS.2);
        assert_eq!(limits(&mut pages, 2100, 1), PAGE_DOCUMENTS.2 / 2);
        assert_eq!(limits(&mut pages, 9000, 9), PAGE_DOCUMENTS.1);
    }
}
