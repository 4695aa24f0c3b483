//! Filling a replica while writes go on: when a copy begins, what its passes copy again, the
//! short hold around the last one, and what follows.
//!
//! ```text
//! begin -> Everything -> Again -> … -> hold: all lanes at one place -> Last -> sources in doubt
//!   ^          |           |                |                            are audited -> target is filled
//!   |          `-----------`----------------`----(a source or the target left, a node failed)--.
//!   `---------------------------------------------------------------------------------------'
//! ```
//! Why the target equals its sources at the end: a document that no task after `since` touched was
//! read as it is, since every source had applied all tasks up to `since` before the pass began.
//! Every other is in what the writer notes, and the last pass, at one place, copies what was noted
//! since the pass before it. The target's own lane, when it is read for other shards, gets nothing
//! of those that are filled but deletions by filter; it counts as a source here, so that what it
//! deletes out of turn is copied again after it. What came late to a source and was copied from it
//! is found before the copy counts: a source that is in doubt is audited once more after the last pass.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use miroir_storage::ids::{NodeId, ShardId, TaskUid};
use miroir_storage::routing::IndexRouting;
use miroir_storage::tables::indexes::{in_sync_of, is_in_sync};
use miroir_storage::tables::lane_marks::LaneMark;
use miroir_wire::document::document_id;
use ractor::ActorProcessingErr;
use tokio::time::Instant;

use self::confirming::Confirming;
use super::copy_plan::{plan_copy, sources as plan_sources};
use super::entries::{Entry, Sendable, Stage, judge};
use super::lanes::{LaneView, Standing};
use super::steps::{required, routing};
use super::{WriterMessage, WriterState, pass_lane, repairs, reports, tainted};
use crate::inspect::Address;
use crate::lane::deliver::remember;
use crate::lane::job::PartOutcome;
use crate::replica_copy::{CopyPass, PassEnd, ReplicaCopy, ReplicaCopyArguments, Touched};

/// After a failed copy, before the next try.
const RETRY_WAIT: Duration = Duration::from_secs(10);
/// After one that was given up: an operation that waits for it comes first.
const GIVEN_UP_WAIT: Duration = Duration::from_secs(1);
/// Documents that the last pass may copy: writes wait for them, under a second.
const LAST_IDS_MAX: usize = 500;
/// After so many passes the last one begins, however much there is left: writes come faster than
/// they are copied.
const PASSES_MAX: u32 = 8;
/// How long lanes are held for one that does not come to their place.
const HOLD_MAX: Duration = Duration::from_secs(60);
/// How long settings wait for a copy; then it begins again after them.
const OPERATION_PATIENCE: Duration = Duration::from_secs(5);

/// A replica is being filled.
#[derive(Debug)]
pub struct Copying {
    /// Tells this copy's passes from those of earlier ones.
    number: u64,
    /// The node to fill.
    pub target: NodeId,
    actor: Address<CopyPass>,
    sources: BTreeMap<NodeId, BTreeSet<ShardId>>,
    /// The shards that are filled.
    filling: BTreeSet<ShardId>,
    /// It puts so many documents right, and copies no others.
    repairs: Option<usize>,
    /// Tells the copy to end.
    given_up: Arc<AtomicBool>,
    /// Passes that were begun.
    passes: u32,
    /// A pass is under way.
    is_running: bool,
    /// Every task up to here was applied by every source before the pass under way, or the last
    /// one, began; what came after it and is not in the queue any more is in `noted`.
    since: Option<TaskUid>,
    noted: Touched,
    /// The target's disk when the copy began.
    disk_life: u64,
    /// Lanes stop at one place for the last pass.
    pub hold: Option<Hold>,
    /// No hold before this: the one before came to nothing.
    hold_after: Instant,
    /// Since when an operation waits for the copy.
    delays_since: Option<Instant>,
    /// The last pass is over, and its sources are audited; lanes still stand.
    confirming: Option<Confirming>,
}

/// Every lane stops at one place.
#[derive(Clone, Copy, Debug)]
pub struct Hold {
    /// The last task that lanes may pass; `None` when nothing was sent yet.
    pub limit: Option<TaskUid>,
    began: Instant,
}

impl Copying {
    /// The copy comes to nothing and is begun again.
    fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
    }

    fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Relaxed)
    }

    /// Whether the last pass runs: lanes send nothing.
    pub fn is_at_last(&self) -> bool {
        self.hold.is_some() && self.is_running
    }

    /// Takes notice of a task that leaves the queue.
    pub fn note(&mut self, entry: &Entry) {
        if Some(entry.task.uid) > self.since {
            note(&mut self.noted, entry, &self.filling);
        }
    }
}

/// Adds what a task touches of the shards that are filled.
fn note(touched: &mut Touched, entry: &Entry, filling: &BTreeSet<ShardId>) {
    if let Some(Sendable::Ids(ids) | Sendable::Edit { deleted: ids, .. }) = &entry.sendable {
        let held = ids.iter().filter(|(shard, _)| filling.contains(shard));
        touched.ids.extend(held.map(|(_, id)| id.clone()));
    }
    match &entry.sendable {
        Some(Sendable::Documents(prepared) | Sendable::Edit { changed: prepared, .. }) => {
            for (shard, start, end) in &prepared.documents {
                let document = prepared.bytes.get(*start as usize..*end as usize);
                if let (true, Some(document)) = (filling.contains(shard), document) {
                    // Their ids were checked when they were prepared.
                    touched.ids.extend(document_id(document, &prepared.primary_key).ok());
                }
            }
        }
        Some(Sendable::Filter(_) | Sendable::Clear) => touched.by_filter = true,
        Some(Sendable::Ids(_) | Sendable::Settings(_) | Sendable::Barrier | Sendable::Nothing)
        | None => {}
    }
}

/// Does what is due of the copy under way, or begins one.
pub(super) async fn advance(
    myself: &Address<WriterMessage>,
    state: &mut WriterState,
) -> Result<(), ActorProcessingErr> {
    if state.copying.is_none() {
        begin(myself, state).await?;
    }
    make_way(state);
    if confirming::is_over(state)? {
        accept(state)?;
    }
    let Some(copying) = &state.copying else { return Ok(()) };
    if copying.is_running {
        return Ok(());
    }
    if copying.is_given_up() {
        end(state, GIVEN_UP_WAIT);
        return Ok(());
    }
    if copying.hold.is_none() {
        next_pass(state)?;
    }
    last_pass(state)
}

/// An operation changes all nodes at once, and what is copied with it: a copy that takes long ends
/// for it and begins again after it.
fn make_way(state: &mut WriterState) {
    let now = state.pod.seams.clock.instant();
    let first = state.entries.iter().find(|entry| !entry.ended());
    let is_next = first.is_some_and(|entry| matches!(entry.stage, Stage::Ready(Sendable::Barrier)));
    // An operation that covers the target waits for it to be filled, if it has nothing yet.
    let needs_target = state.copying.as_ref().is_some_and(|copying| {
        let lane = state.lanes.get(&copying.target);
        required(state).contains(&copying.target) && lane.is_some_and(|lane| !lane.provisioned)
    });
    let waits = is_next && !needs_target;
    let Some(copying) = &mut state.copying else { return };
    match copying.delays_since {
        _ if !waits => copying.delays_since = None,
        None => copying.delays_since = Some(now),
        Some(since) if now.saturating_duration_since(since) >= OPERATION_PATIENCE => {
            copying.give_up();
        }
        Some(_) => {}
    }
}

/// Begins to fill a replica that misses more than the queue holds.
async fn begin(
    myself: &Address<WriterMessage>,
    state: &mut WriterState,
) -> Result<(), ActorProcessingErr> {
    let now = state.pod.seams.clock.instant();
    let Some(index) = routing(state) else { return Ok(()) };
    if state.operation.is_some() || now < state.copy_after || state.resharding.is_switching() {
        return Ok(());
    }
    // Who is to be taken out of the sets may still be listed there as a source.
    if state.lanes.values().any(|lane| lane.leaving || lane.suspect) {
        return Ok(());
    }
    // Settings that an operation has brought to the nodes are not yet in the log.
    let is_told = |entry: &Entry| matches!(entry.stage, Stage::Decided(_) | Stage::Finishing(_));
    if state.entries.iter().any(|entry| entry.is_barrier() && is_told(entry)) {
        return Ok(());
    }
    tainted::stay(state);
    let Some(begins) = choose(state, &index) else { return Ok(()) };
    let Begins { target, sources, filling, missing, is_move, repairs } = begins;
    let required = required(state);
    // A new index reaches its nodes with its first task.
    if plan_sources(state, &required, &target).any(|lane| !lane.provisioned) {
        return Ok(());
    }
    let Some(lane) = state.lanes.get(&target) else { return Ok(()) };
    state.copies += 1;
    let given_up = Arc::new(AtomicBool::new(false));
    let arguments = ReplicaCopyArguments {
        pod: state.pod.clone(),
        writer: myself.clone(),
        fence: state.fence.clone(),
        number: state.copies,
        target: target.clone(),
        sources: sources.clone(),
        missing,
        disk_life: lane.disk_life,
        turn: lane.turn.clone(),
        is_move,
        is_repair: repairs.is_some(),
        requests: Arc::default(),
        given_up: given_up.clone(),
    };
    let name = format!("copy/{}/{target}/{}", state.fence.index, state.copies);
    let actor = myself.spawn(name, ReplicaCopy, arguments).await?;
    let covered: usize = sources.values().map(BTreeSet::len).sum();
    // What waits for a shard that nobody has is all there is of it: it must stay ahead of the
    // target. A repair is a last pass.
    let holds = covered < filling.len() || repairs.is_some();
    let hold = holds.then_some(Hold { limit: None, began: now });
    let mut copying = Copying {
        number: state.copies,
        target,
        actor,
        sources,
        filling,
        repairs: repairs.as_ref().map(BTreeSet::len),
        given_up,
        passes: 0,
        is_running: false,
        since: None,
        noted: Touched { ids: repairs.unwrap_or_default(), by_filter: false },
        disk_life: lane.disk_life,
        hold,
        hold_after: now,
        delays_since: None,
        confirming: None,
    };
    copying.since = applied_by_all(state, &copying);
    if let Some(lane) = state.lanes.get_mut(&copying.target) {
        lane.filling |= copying.repairs.is_none();
    }
    if copying.hold.is_none() {
        copying.passes = 1;
        copying.is_running = true;
        copying.actor.cast(CopyPass::Everything)?;
    }
    state.copying = Some(copying);
    Ok(())
}

/// A copy that may begin.
struct Begins {
    target: NodeId,
    sources: BTreeMap<NodeId, BTreeSet<ShardId>>,
    filling: BTreeSet<ShardId>,
    missing: Option<BTreeSet<ShardId>>,
    is_move: bool,
    /// Only these documents are copied.
    repairs: Option<BTreeSet<String>>,
}

/// Lost copies before those that only move, and both before single documents.
fn choose(state: &mut WriterState, index: &IndexRouting) -> Option<Begins> {
    let mut lanes: Vec<(&NodeId, &LaneView)> = state.lanes.iter().collect();
    lanes.sort_by_key(|(_, lane)| is_move(lane));
    let wanted = lanes.into_iter().find_map(|(node, lane)| {
        let can = needs_copy(state, index, node, lane);
        Some((node.clone(), lane, can.then(|| plan_copy(state, index, node, lane))??))
    });
    if let Some((target, lane, plan)) = wanted {
        let missing = plan.refill();
        if missing.is_some() && !state.resharding.is_marked(lane) {
            // What it has of those shards could not be told from the rest.
            return None;
        }
        let (sources, filling) = (plan.sources, plan.filling);
        let is_move = is_move(lane);
        return Some(Begins { target, sources, filling, missing, is_move, repairs: None });
    }
    let (repair, sources) = repairs::next(state, index)?;
    let filling = BTreeSet::from([repair.shard]);
    let (missing, repairs) = (Some(filling.clone()), Some(repair.ids));
    let target = repair.node;
    Some(Begins { target, sources, filling, missing, is_move: false, repairs })
}

/// Whether all that the lane waits for are shards that a move brings.
fn is_move(lane: &LaneView) -> bool {
    lane.standing == Standing::Current || lane.settled().is_empty()
}

/// Whether a copy to the lane's node may begin. Where the node is read, not before nobody reads it
/// by a placement without the shards that arrive.
fn needs_copy(state: &WriterState, index: &IndexRouting, node: &NodeId, lane: &LaneView) -> bool {
    let now = state.pod.seams.clock.instant();
    let is_known = lane.arriving.is_empty()
        || !lane.keeps_shards(&index.groups, node)
        || now.saturating_duration_since(lane.moved_shards_at) >= state.pod.config.placement_life;
    let misses_some = match lane.standing {
        Standing::NeedsCopy => !lane.held.is_empty(),
        Standing::Current => lane.provisioned && !lane.arriving.is_empty(),
        Standing::CatchingUp | Standing::Joining => false,
    };
    let is_paused = is_move(lane) && state.pod.moves_rest();
    misses_some
        && is_known
        && !is_paused
        && !lane.busy
        && !lane.awaits_index(&index.groups, node)
        && !state.pod.health.is_down(node)
}

/// The last task that every source has applied, and the target where its lane goes on.
fn applied_by_all(state: &WriterState, copying: &Copying) -> Option<TaskUid> {
    let index = routing(state);
    let passed = |node: &NodeId| state.lanes.get(node).and_then(|lane| lane.passed);
    let goes_on = index.as_ref().is_some_and(|index| {
        let lane = state.lanes.get(&copying.target);
        lane.is_some_and(|lane| lane.keeps_shards(&index.groups, &copying.target))
    });
    let target = goes_on.then_some(&copying.target);
    copying.sources.keys().chain(target).map(passed).min().flatten()
}

/// Orders what was touched to be copied again, or begins the hold when that is little.
fn next_pass(state: &mut WriterState) -> Result<(), ActorProcessingErr> {
    let now = state.pod.seams.clock.instant();
    let Some(copying) = &state.copying else { return Ok(()) };
    if now < copying.hold_after {
        return Ok(());
    }
    let applied = applied_by_all(state, copying);
    let Some(copying) = &mut state.copying else { return Ok(()) };
    for entry in &state.entries {
        let uid = Some(entry.task.uid);
        if uid > copying.since && uid <= applied {
            note(&mut copying.noted, entry, &copying.filling);
        }
    }
    copying.since = applied.max(copying.since);
    let is_little = copying.noted.ids.len() <= LAST_IDS_MAX && !copying.noted.by_filter;
    // The target of a repair is written to: nothing is copied to it but while all stand still.
    let is_little = is_little || copying.repairs.is_some();
    if is_little || copying.passes >= PASSES_MAX {
        copying.hold = Some(Hold { limit: None, began: now });
        return Ok(());
    }
    copying.passes += 1;
    copying.is_running = true;
    copying.actor.cast(CopyPass::Again(std::mem::take(&mut copying.noted)))?;
    Ok(())
}

/// Brings every lane to one place, and orders the last pass there.
fn last_pass(state: &mut WriterState) -> Result<(), ActorProcessingErr> {
    let Some(copying) = &state.copying else { return Ok(()) };
    let Some(hold) = copying.hold.filter(|_| !copying.is_running) else { return Ok(()) };
    let Some(index) = routing(state) else { return Ok(()) };
    let required = required(state);
    let target = copying.target.clone();
    let Some(lane) = state.lanes.get(&target) else { return Ok(()) };
    // A target that is read for some of its shards must come to the same place.
    let keeps = lane.keeps_shards(&index.groups, &target).then_some(lane);
    let at_one_place = || plan_sources(state, &required, &target).chain(keeps);
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
    let others = required.iter().filter(|node| **node != target).cloned().collect();
    let waits_for_target = |entry: &Entry| {
        keeps.is_none() && !entry.is_barrier() && required.contains(&target) && {
            let results = reports::votes(entry, &state.lanes, &others);
            judge(&results, &others, |shard| in_sync_of(&index.groups, shard))
                .is_some_and(|verdict| verdict.failed_alone.is_empty())
        }
    };
    let all_ended = state
        .entries
        .iter()
        .filter(|entry| Some(entry.task.uid) <= limit)
        .all(|entry| entry.ended() || waits_for_target(entry));
    let settled = state.lanes.values().all(|lane| !lane.leaving && !lane.suspect);
    let all_ready = all_ended && settled && at_one_place().all(is_ready);
    let reads_in_sync = reads_in_sync(state, copying, &index);
    let now = state.pod.seams.clock.instant();
    let Some(copying) = &mut state.copying else { return Ok(()) };
    if !reads_in_sync {
        // Writes must not wait for a source that is gone.
        copying.give_up();
        return Ok(());
    }
    if !all_ready {
        let is_over = now.saturating_duration_since(hold.began) >= HOLD_MAX;
        copying.hold = (!is_over).then_some(Hold { limit, ..hold });
        copying.hold_after = if is_over { now + RETRY_WAIT } else { copying.hold_after };
        return Ok(());
    }
    copying.hold = Some(Hold { limit, ..hold });
    for entry in &state.entries {
        let uid = Some(entry.task.uid);
        if uid > copying.since && uid <= limit {
            note(&mut copying.noted, entry, &copying.filling);
        }
    }
    copying.is_running = true;
    copying.actor.cast(CopyPass::Last(std::mem::take(&mut copying.noted)))?;
    Ok(())
}

/// Whether every source is up and in sync for what is read from it.
fn reads_in_sync(state: &WriterState, copying: &Copying, index: &IndexRouting) -> bool {
    copying.sources.iter().all(|(node, shards)| {
        !state.pod.health.is_down(node)
            && shards.iter().all(|shard| is_in_sync(&index.groups, *shard, node))
    })
}

pub(super) fn on_copy_passed(
    state: &mut WriterState,
    number: u64,
    pass: &PassEnd,
) -> Result<(), ActorProcessingErr> {
    let Some(copying) = state.copying.as_mut().filter(|copying| copying.number == number) else {
        return Ok(());
    };
    copying.is_running = false;
    match pass {
        PassEnd::Done => {}
        PassEnd::Failed => {
            let wait = if copying.is_given_up() { GIVEN_UP_WAIT } else { RETRY_WAIT };
            end(state, wait);
        }
        PassEnd::SourceLost(source) => {
            end(state, GIVEN_UP_WAIT);
            if let Some(lane) = state.lanes.get_mut(source) {
                lane.found_gone = true;
            }
        }
        PassEnd::Finished { newest_task } => {
            let (sent, index) = (state.pod.calls.sent(), state.fence.index.as_str());
            let sources = copying.sources.keys();
            let doubted = sources.filter(|node| sent.in_doubt(node, index)).cloned().collect();
            copying.confirming = Some(Confirming::new(*newest_task, doubted));
            copying.is_running = true;
        }
    }
    Ok(())
}

/// The copy is over; the target is filled, if it still counts.
fn accept(state: &mut WriterState) -> Result<(), ActorProcessingErr> {
    let copying = state.copying.as_ref();
    let confirming = copying.and_then(|copying| copying.confirming.as_ref());
    let Some(newest) = confirming.map(Confirming::newest_task) else { return Ok(()) };
    let index = routing(state);
    let holds = copying.zip(index).is_some_and(|(copying, index)| {
        !copying.is_given_up()
            && state.pod.calls.disk_life(&copying.target) == copying.disk_life
            && reads_in_sync(state, copying, &index)
    });
    let limit = copying.and_then(|copying| copying.hold).and_then(|hold| hold.limit);
    let wait = if holds { Duration::ZERO } else { GIVEN_UP_WAIT };
    let ended = end(state, wait).filter(|_| holds);
    let Some(Copying { target, filling, sources, repairs, .. }) = ended else {
        return Ok(());
    };
    let outcomes = outcomes_of_sources(state, &target, &filling, limit);
    let held = state.lanes.get(&target).map(|lane| &lane.held);
    let is_all = repairs.is_none() && held.is_some_and(|held| held.is_subset(&filling));
    let mut mark = LaneMark {
        through: limit,
        open: None,
        node_task: Some(newest),
        provisioned: true,
        // What came late before it is still to be found where the rest of the replica is as it was.
        audited: is_all.then_some(newest),
        ..LaneMark::default()
    };
    remember(&mut mark, &outcomes);
    pass_lane(state, &target, mark)?;
    reports::forget_results(state, &target);
    for (uid, outcome) in outcomes {
        if let Some(entry) = state.entries.iter_mut().find(|entry| entry.task.uid == uid) {
            entry.results.insert(target.clone(), outcome);
        }
    }
    if let Some(documents) = repairs {
        tracing::info!(index = %state.fence.index, %target, documents, "documents put right");
        state.pod.anti_entropy.note_repaired(documents as u64);
        return Ok(());
    }
    if let Some(lane) = state.lanes.get_mut(&target) {
        lane.standing = Standing::CatchingUp;
        lane.arriving.retain(|shard| !filling.contains(shard));
        lane.filled.extend(filling.iter().copied());
        lane.lost_disk = false;
        lane.filling = false;
        // A stranger may have changed them meanwhile.
        lane.check_settings = true;
    }
    tainted::filled(state, &target, &filling, &sources);
    Ok(())
}

/// What the sources had reported on the tasks that wait for the target alone: it has done the
/// same, by being copied.
fn outcomes_of_sources(
    state: &WriterState,
    target: &NodeId,
    filling: &BTreeSet<ShardId>,
    limit: Option<TaskUid>,
) -> Vec<(TaskUid, PartOutcome)> {
    let Some(index) = routing(state) else { return Vec::new() };
    let others = required(state).into_iter().filter(|node| node != target).collect();
    let open =
        |entry: &&Entry| Some(entry.task.uid) <= limit && !entry.ended() && !entry.is_barrier();
    let outcome = |entry: &Entry| {
        let results = reports::votes(entry, &state.lanes, &others);
        let verdict = judge(&results, &others, |shard| in_sync_of(&index.groups, shard))?;
        let shards: BTreeSet<ShardId> = verdict.refused.intersection(filling).copied().collect();
        let outcome = match verdict.refusal {
            Some(error) if !shards.is_empty() => PartOutcome::Refused { error, shards },
            _ => PartOutcome::Applied { deleted: None },
        };
        Some((entry.task.uid, outcome))
    };
    state.entries.iter().filter(open).filter_map(outcome).collect()
}

/// Ends the copy, whatever came of it; the next one begins after `wait`.
fn end(state: &mut WriterState, wait: Duration) -> Option<Copying> {
    let copying = state.copying.take()?;
    copying.give_up();
    copying.actor.stop(None);
    if let Some(lane) = state.lanes.get_mut(&copying.target) {
        // What it was copied from may not have been.
        lane.marked = false;
    }
    state.copy_after = state.pod.seams.clock.instant() + wait;
    Some(copying)
}

/// A replica left the in-sync sets: what was read from it, or written to it, no longer counts.
pub(super) fn on_left(state: &WriterState, node: &NodeId) {
    if let Some(copying) = &state.copying
        && (copying.target == *node || copying.sources.contains_key(node))
    {
        copying.give_up();
    }
}

pub(super) mod confirming;
#[cfg(test)]
mod tests;
