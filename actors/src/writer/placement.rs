//! Following the placement: lanes begin and end with it, shards arrive at nodes and leave them.
//!
//! The log says where replicas are; the writer looks every second. A shard that a move brings to a
//! node is *arriving*: its lane carries nothing of it until a copy ([`super::copying`]) has filled it.
//! What is left on a node of shards that it no longer holds is deleted through its lane, in its turn,
//! and then the log is told; the lane of a node that holds none ends after that.
//!
//! Reads may still follow an earlier placement for [`crate::pod::PodConfig::placement_life`]. One that
//! takes the node for holding less than it does sends it no filter, and one that takes it for holding
//! more still asks it: so neither is anything copied to a node that is read, nor anything deleted,
//! before that time is over. Nor, from a node that is read for other shards, while one of its requests
//! may still come late ([`crate::sent_tasks`]): as long as the log lists what is left there, reads filter it out.

use std::collections::BTreeSet;
use std::sync::Arc;

use miroir_seams::planted::{self, Bug};
use miroir_storage::commands::{Command, Fence, Outcome};
use miroir_storage::ids::{Epoch, NodeId, ShardId, TaskUid};
use miroir_storage::log::ProposeError;
use miroir_storage::routing::IndexRouting;
use miroir_storage::tables::disks::{self, Content};
use miroir_storage::tables::lane_marks;
use miroir_storage::topology_commands::TopologyCommand;
use ractor::ActorProcessingErr;

use super::lanes::{LaneView, Standing, held_shards, is_in_sync_for};
use super::resharding::MarkPages;
use super::steps::{fenced, propose, routing};
use super::{WriterMessage, WriterState};
use crate::inspect::Address;
use crate::lane::deliver::Delivery;
use crate::lane::job::{Job, JobTarget, JobWork, PartOutcome};
use crate::lane::turn::Turn;
use crate::lane::{Lane, LaneArguments, LaneMessage};
use crate::pod::PodContext;

/// The nodes that have, or are to have, something of the index.
pub(super) fn nodes_of(index: &IndexRouting) -> BTreeSet<NodeId> {
    held_shards(&index.groups).into_keys().chain(index.moves.keys().cloned()).collect()
}

/// A lane that is to begin.
pub(super) struct LaneBegins<'a> {
    pub(super) pod: &'a Arc<PodContext>,
    pub(super) fence: &'a Fence,
    pub(super) index: &'a IndexRouting,
    pub(super) node: NodeId,
}

impl LaneBegins<'_> {
    /// Starts a lane where its mark stands; what it is known to have reported.
    pub(super) async fn begin(
        self,
        myself: &Address<WriterMessage>,
        interrupted: bool,
    ) -> Result<(NodeId, LaneView, Vec<(TaskUid, PartOutcome)>), ActorProcessingErr> {
        let Self { pod, fence, index: placed, node } = self;
        let index = &fence.index;
        let held = held_shards(&placed.groups).remove(&node).unwrap_or_default();
        let moves = placed.moves.get(&node).cloned().unwrap_or_default();
        let mark = lane_marks::load(pod.log.engine().as_ref(), index, &node)?;
        let notable = mark
            .notable
            .iter()
            .filter_map(|(uid, outcome)| Some((*uid, serde_json::from_str(outcome).ok()?)))
            .collect();
        let target = JobTarget { index: index.clone(), marks: placed.marks, held: held.clone() };
        let turn = Turn::default();
        let settled: BTreeSet<ShardId> = held.difference(&moves.arriving).copied().collect();
        let in_sync = !settled.is_empty() && is_in_sync_for(&placed.groups, &node, &settled);
        let replica = disks::replica(pod.log.engine().as_ref(), index, &node)?;
        // What is not provisioned may be so because a copy, or what came before it, did not end.
        let has_begun = mark.provisioned || replica.content != Content::Whole;
        if fence.epoch > Epoch(1) && has_begun && (interrupted || !in_sync) {
            // So may those of a copy. Two: what is found later can't be told from what came late.
            pod.calls.sent().note_lost(&node, index.as_str());
            pod.calls.sent().note_lost(&node, index.as_str());
        }
        let delivery = Delivery {
            node: node.clone(),
            target,
            turn: turn.clone(),
            calls: pod.calls.clone(),
            follower: pod.follower(&node).ok_or("a node has no follower")?,
            log: pod.log.clone(),
            fence: fence.clone(),
            seams: pod.seams.clone(),
        };
        let is_gone = replica.content == Content::Gone;
        let disk_life = replica.life;
        let arguments = LaneArguments { writer: myself.clone(), delivery, disk_life };
        let actor = myself.spawn(format!("lane/{index}/{node}"), Lane, arguments).await?;
        let now = pod.seams.clock.instant();
        let view = LaneView {
            actor,
            held,
            arriving: moves.arriving,
            filled: BTreeSet::new(),
            departed: moves.leaving,
            sweeps: false,
            moved_shards_at: now,
            turn,
            passed: mark.through.filter(|_| !is_gone),
            busy: false,
            provisioned: mark.provisioned && !is_gone,
            standing: match in_sync && !is_gone {
                true => Standing::Current,
                false => Standing::NeedsCopy,
            },
            leaving: false,
            // What was never provisioned has nothing that a late request could spoil.
            suspect: !is_gone
                && mark.provisioned
                && mark.doubts
                && mark.explained.is_none()
                && mark.audited < mark.node_task,
            tainted: match replica.content {
                Content::Doubtful => settled,
                Content::Whole | Content::Filling | Content::Gone => BTreeSet::new(),
            },
            lost_disk: is_gone,
            disk_life,
            noting: false,
            found_gone: false,
            filling: replica.content == Content::Filling,
            check_settings: false,
            check_after: now,
            checking_version: 0,
            spelling: None,
            audited_at: now,
            audit_first: false,
            leaves_since: None,
            moved_at: now,
            marked: placed.marks.newest().is_none(),
            ran_since_mark: false,
            mark_after: now,
            page: MarkPages::default(),
        };
        Ok((node, view, notable))
    }
}

/// Takes over what has changed of the placement.
pub(super) async fn follow(
    myself: &Address<WriterMessage>,
    state: &mut WriterState,
) -> Result<(), ActorProcessingErr> {
    let Some(index) = routing(state) else { return Ok(()) };
    let pod = state.pod.clone();
    for node in nodes_of(&index) {
        // Its follower begins with the node; until then it is looked at again.
        if state.lanes.contains_key(&node) || pod.follower(&node).is_none() {
            continue;
        }
        let begins = LaneBegins { pod: &pod, fence: &state.fence, index: &index, node };
        let (node, view, _) = begins.begin(myself, false).await?;
        tracing::info!(index = %state.fence.index, %node, shards = view.held.len(), "lane begins");
        state.lanes.insert(node, view);
    }
    let now = pod.seams.clock.instant();
    let mut held = held_shards(&index.groups);
    for (node, lane) in &mut state.lanes {
        let moves = index.moves.get(node).cloned().unwrap_or_default();
        lane.filled.retain(|shard| moves.arriving.contains(shard));
        let arriving: BTreeSet<ShardId> =
            moves.arriving.difference(&lane.filled).copied().collect();
        let grows = !arriving.is_subset(&lane.arriving) || !moves.leaving.is_subset(&lane.departed);
        if grows {
            lane.moved_shards_at = now;
        }
        lane.held = held.remove(node).unwrap_or_default();
        lane.arriving = arriving;
        lane.departed = moves.leaving;
        if lane.settled().is_empty() {
            // What it does not hold it need not catch up with.
            lane.standing = Standing::NeedsCopy;
        }
        if lane.standing == Standing::NeedsCopy {
            lane.filled.clear();
        }
        let is_out = || !is_in_sync_for(&index.groups, node, &lane.settled());
        if lane.standing == Standing::Current && !lane.leaving && is_out() {
            // That it left was logged, though the log's answer did not come.
            lane.standing = Standing::CatchingUp;
        }
    }
    // One that a run keeps busy ends with it, unless its node is gone for good.
    let is_over = |node: &NodeId, lane: &LaneView| {
        let is_removed = !pod.log.routing().nodes.contains_key(node);
        lane.held.is_empty() && lane.departed.is_empty() && (!lane.busy || is_removed)
    };
    for (node, lane) in state.lanes.extract_if(.., |node, lane| is_over(node, lane)) {
        tracing::info!(index = %state.fence.index, %node, "lane ends, the node holds no shard");
        lane.actor.stop(None);
    }
    Ok(())
}

/// Deletes what is left on nodes of shards that they no longer hold.
pub(super) fn empty_departed(
    myself: &Address<WriterMessage>,
    state: &mut WriterState,
) -> Result<(), ActorProcessingErr> {
    if state.operation.is_some() || state.resharding.is_switching() {
        return Ok(());
    }
    let now = state.pod.seams.clock.instant();
    let life = state.pod.config.placement_life;
    let target = state.copying.as_ref().map(|copying| copying.target.clone());
    let index = routing(state);
    let shards = index.as_ref().map_or(0, |index| index.shards);
    let primary_key = index.and_then(|index| index.primary_key.clone());
    let mut nothing_there = Vec::new();
    for (node, lane) in &mut state.lanes {
        let is_due = now.saturating_duration_since(lane.moved_shards_at) >= life;
        let can = !lane.busy
            && !lane.noting
            && lane.disk_life == state.pod.calls.disk_life(node)
            && !state.pod.health.is_down(node)
            && target.as_ref() != Some(node);
        if !can {
            continue;
        }
        let whole = lane.held.is_empty();
        // What is not marked would stay.
        if !whole && !state.resharding.is_marked(lane) {
            continue;
        }
        let mut shards: BTreeSet<ShardId> = match lane.sweeps && !whole {
            true => (0..shards).map(ShardId).filter(|shard| !lane.held.contains(shard)).collect(),
            false => lane.departed.clone(),
        };
        // What a late request brings of these is kept from readers as long as they are listed.
        let in_doubt = state.pod.calls.sent().in_doubt(node, state.fence.index.as_str());
        let may_go = is_due && (whole || !in_doubt);
        shards.retain(|shard| may_go || !lane.departed.contains(shard));
        if shards.is_empty() {
            continue;
        }
        lane.sweeps = false;
        // It may have been begun on: then a copy that was given up has left something there, and the
        // next one makes the index anew.
        if (!lane.provisioned && !whole) || planted::has(Bug::LeaveBehind) {
            nothing_there.push((node.clone(), shards));
            lane.moved_shards_at = now;
            continue;
        }
        let uid = lane.passed.unwrap_or(TaskUid(0));
        let work = JobWork::Empty { shards, whole, primary_key: primary_key.clone() };
        let job = Job { first: uid, last: uid, work, held: BTreeSet::new() };
        lane.busy = true;
        lane.actor.cast(LaneMessage::Run(Box::new(job)))?;
    }
    for (node, shards) in nothing_there {
        tell_emptied(myself, state, &node, shards);
    }
    Ok(())
}

/// A lane has deleted what was left, or could not.
pub(super) fn on_lane_emptied(
    myself: &Address<WriterMessage>,
    state: &mut WriterState,
    node: &NodeId,
    shards: &BTreeSet<ShardId>,
    whole: bool,
    outcomes: &[(TaskUid, PartOutcome)],
) {
    let now = state.pod.seams.clock.instant();
    let Some(lane) = state.lanes.get_mut(node) else { return };
    // Should the log not hear of it, it is done again.
    lane.moved_shards_at = now;
    for (_, outcome) in outcomes {
        if let PartOutcome::Refused { error, .. } = outcome {
            tracing::warn!(%node, code = error.code, message = error.message,
                "node refuses to delete what is left of shards that it no longer holds");
            return;
        }
    }
    if whole {
        lane.provisioned = false;
        lane.passed = None;
    }
    // A sweep also looks for what nobody knows of.
    let known: BTreeSet<ShardId> = lane.departed.intersection(shards).copied().collect();
    if whole || !known.is_empty() {
        tell_emptied(myself, state, node, known);
    }
}

fn tell_emptied(
    myself: &Address<WriterMessage>,
    state: &WriterState,
    node: &NodeId,
    shards: BTreeSet<ShardId>,
) {
    let command = TopologyCommand::Emptied {
        fence: state.fence.clone(),
        node: node.clone(),
        shards: shards.iter().copied().collect(),
    };
    let node = node.clone();
    propose(myself, state, Command::Topology(Box::new(command)), |answer| WriterMessage::Emptied {
        node,
        shards,
        answer,
    });
}

pub(super) fn on_emptied(
    state: &mut WriterState,
    node: &NodeId,
    shards: &BTreeSet<ShardId>,
    answer: &Result<Outcome, ProposeError>,
) -> Result<(), ActorProcessingErr> {
    match answer {
        Ok(Outcome::Fenced { current }) => return Err(fenced(state, current.0)),
        Ok(_) => {
            if let Some(lane) = state.lanes.get_mut(node) {
                lane.departed.retain(|shard| !shards.contains(shard));
            }
        }
        Err(error) => {
            tracing::warn!(%node, %error, "deletion of moved shards could not be logged, trying again");
        }
    }
    Ok(())
}
