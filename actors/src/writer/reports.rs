//! What lanes report, and what their reports make of tasks and replicas.

use std::collections::{BTreeMap, BTreeSet};

use miroir_seams::planted::{self, Bug};
use miroir_storage::commands::Ending;
use miroir_storage::ids::{NodeId, ShardId};
use miroir_storage::tables::indexes::{GroupPlacement, in_sync_of, is_in_sync};
use ractor::ActorProcessingErr;

use super::entries::{Decision, Entry, Stage, judge};
use super::lanes::{LaneView, Standing, count_deleted};
use super::steps::{required, routing};
use super::{WriterMessage, WriterState, audits, placement, replicas};
use crate::inspect::Address;
use crate::lane::deliver::{Misled, RunEnd};
use crate::lane::job::{Job, JobWork, PartOutcome};
use crate::task_details::ended_details;

pub(super) fn on_lane_ended(
    myself: &Address<WriterMessage>,
    state: &mut WriterState,
    node: &NodeId,
    job: &Job,
    end: RunEnd,
) -> Result<(), ActorProcessingErr> {
    let Some(lane) = state.lanes.get_mut(node) else { return Ok(()) };
    lane.busy = false;
    lane.ran_since_mark = true;
    lane.moved_at = state.pod.seams.clock.instant();
    match end {
        RunEnd::Done(outcomes) => {
            if matches!(job.work, JobWork::Provision { .. }) {
                let refused = outcomes.iter().find_map(|(_, outcome)| match outcome {
                    PartOutcome::Refused { error, .. } => Some(error.clone()),
                    PartOutcome::Applied { .. } => None,
                });
                match refused {
                    None => lane.provisioned = true,
                    Some(error) => {
                        tracing::error!(%node, code = error.code, message = error.message, "node refuses the index");
                        if lane.standing != Standing::NeedsCopy {
                            lane.standing = Standing::NeedsCopy;
                            replicas::leave(myself, state, node, "node refuses the index");
                        }
                    }
                }
                return Ok(());
            }
            if let JobWork::Empty { shards, whole, .. } = &job.work {
                placement::on_lane_emptied(myself, state, node, shards, *whole, &outcomes);
                return Ok(());
            }
            lane.passed = Some(job.last);
            for (uid, outcome) in outcomes {
                if let Some(entry) = state.entries.iter_mut().find(|entry| entry.task.uid == uid) {
                    lane.suspect |= !agrees(entry, &job.held, &outcome);
                    entry.results.insert(node.clone(), outcome);
                }
            }
        }
        RunEnd::Misled(misled) => {
            lane.check_settings = true;
            if misled == Misled::Documents {
                lane.suspect = true;
                lane.sweeps = true;
                lane.marked = false;
            }
        }
        RunEnd::NodeReplaced => audits::on_disk_lost(myself, state, node),
        RunEnd::NotAgreed(why) => return Err(why.into()),
    }
    Ok(())
}

/// Whether a lane that reports on a task after its end did with it what the others had done: one
/// that catches up may apply what they had no space for, or the other way round.
fn agrees(entry: &Entry, held: &BTreeSet<ShardId>, outcome: &PartOutcome) -> bool {
    if !matches!(entry.stage, Stage::Decided(_) | Stage::Finishing(_) | Stage::Ended) {
        return true;
    }
    let refused: BTreeSet<ShardId> = match outcome {
        PartOutcome::Refused { shards, .. } => shards.intersection(held).copied().collect(),
        PartOutcome::Applied { .. } => BTreeSet::new(),
    };
    let refused_by_all: BTreeSet<ShardId> = entry.refused.intersection(held).copied().collect();
    refused == refused_by_all
}

/// Whether a lane had passed a task before it was decided without it, for the shards in whose in-sync
/// sets it is not, and had done other with it than was decided: it applied, say, what those that were
/// left had no space for. Without a report it has applied it, as in [`votes`].
fn parted(entry: &Entry, node: &NodeId, lane: &LaneView, groups: &[GroupPlacement]) -> bool {
    lane.standing != Standing::NeedsCopy && lane.passed >= Some(entry.task.uid) && {
        let applied = PartOutcome::Applied { deleted: None };
        let outcome = entry.results.get(node).unwrap_or(&applied);
        let mut unasked = lane.carried(groups, node);
        unasked.retain(|shard| !is_in_sync(groups, *shard, node));
        !agrees(entry, &unasked, outcome)
    }
}

/// What a replica reported before it was emptied counts no more.
pub(super) fn forget_results(state: &mut WriterState, node: &NodeId) {
    for entry in &mut state.entries {
        entry.results.remove(node);
    }
}

/// How `required` lanes stand to a task. A lane that has passed it without a report has applied it:
/// after a restart what is worth knowing beyond that is in its mark, and a copy brings its target
/// what its sources had reported.
pub(super) fn votes(
    entry: &Entry,
    lanes: &BTreeMap<NodeId, LaneView>,
    required: &BTreeSet<NodeId>,
) -> BTreeMap<NodeId, PartOutcome> {
    let mut results = entry.results.clone();
    let passed =
        |node: &NodeId| lanes.get(node).is_some_and(|lane| lane.passed >= Some(entry.task.uid));
    for node in required.iter().filter(|node| passed(node)) {
        results.entry(node.clone()).or_insert(PartOutcome::Applied { deleted: None });
    }
    results
}

/// Judges the tasks that every required replica has reported on.
pub(super) fn decide(myself: &Address<WriterMessage>, state: &mut WriterState) {
    let required = required(state);
    let Some(index) = routing(state) else { return };
    let mut alone = BTreeSet::new();
    let mut on_their_way = BTreeSet::new();
    for entry in &mut state.entries {
        if !matches!(entry.stage, Stage::Ready(_)) || entry.is_barrier() {
            continue;
        }
        let results = votes(entry, &state.lanes, &required);
        let reported = |node: &&NodeId| results.contains_key(*node);
        let voters = match planted::has(Bug::JudgeByOne) {
            true => required.iter().filter(reported).take(1).cloned().collect(),
            false => required.clone(),
        };
        // Tasks end in order: what is behind an open one waits.
        let in_sync = |shard| in_sync_of(&index.groups, shard);
        let Some(verdict) = judge(&results, &voters, in_sync) else { break };
        alone.extend(verdict.failed_alone);
        entry.refused = verdict.refused;
        let ending = match verdict.refusal {
            None => Ending::Succeeded,
            Some(_) => Ending::Failed,
        };
        let affected = count_deleted(&index.groups, &results);
        let decision = Decision {
            ending,
            details: Some(ended_details(&entry.task.work, ending, affected)),
            error: verdict.refusal,
            effects: Vec::new(),
        };
        entry.stage = Stage::Decided(Box::new(decision));
        for (node, lane) in &mut state.lanes {
            if parted(entry, node, lane, &index.groups) {
                tracing::warn!(%node, index = %state.fence.index, task = entry.task.uid.0,
                    "a replica that catches up had done otherwise than those that judge");
                // The log may be putting it into the sets just now.
                if lane.standing == Standing::Joining {
                    on_their_way.insert(node.clone());
                    lane.tainted.clone_from(&lane.held);
                }
                lane.standing = Standing::NeedsCopy;
            }
        }
    }
    for node in on_their_way {
        replicas::leave(myself, state, &node, "replica had done otherwise than those that judge");
    }
    for node in alone {
        if let Some(lane) = state.lanes.get_mut(&node) {
            lane.standing = Standing::NeedsCopy;
            lane.tainted.clone_from(&lane.held);
        }
        replicas::leave(myself, state, &node, "replica refused what others applied");
    }
}
