//! The writer of one index: it alone orders and sends the index's writes.
//!
//! Owns: the queue of the index's open tasks, where each lane stands, and the copy that fills a
//! replica. Does not own: what is agreed (the log is asked and told), the payloads
//! (journal), the sending (lanes). Sent to by the log feed (accepted and ended tasks), its
//! lanes, its operations and copies, and the health checker. Upholds safety rules 1, 2, 5, 6, 9.
//!
//! A restart loses nothing: open tasks come from the log, lanes from their marks. A replica that
//! was out of sync before the restart is copied anew, since what it missed may be gone.
//!
//! Each message ends in `advance`, which does all that has become possible:
//! ```text
//! task: Waiting -> Starting -> Started -> Preparing -> Ready -> Decided -> Finishing -> Ended
//!           (log)                 (off-actor)      (lanes or operation)   (log)
//! ```

mod audits;
mod copy_plan;
pub mod copying;
mod editing;
pub mod entries;
pub mod lanes;
mod placement;
mod presence;
mod repairs;
mod replicas;
mod reports;
pub mod resharding;
mod settings_checks;
mod steps;
mod tainted;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use miroir_storage::commands::{Ending, Fence, Outcome, Work};
use miroir_storage::ids::{Epoch, IndexUid, NodeId, ShardId, TaskUid};
use miroir_storage::log::ProposeError;
use miroir_storage::tables::lane_marks::LaneMark;
use miroir_storage::tables::tasks::{self, TaskRecord};
use ractor::{ActorProcessingErr, SupervisionEvent};
use tokio::time::Instant;

use self::copying::Copying;
use self::entries::{Decision, Entry, Sendable};
use self::lanes::{LaneView, Standing};
use self::resharding::Resharding;
use crate::anti_entropy::Repair;
use crate::fencing::NotAgreed;
use crate::inspect::{Actor, Address};
use crate::lane::audit::Audit;
use crate::lane::deliver::RunEnd;
use crate::lane::job::Job;
use crate::lane::marking::MarkEnd;
use crate::lane::settings_check::SettingsCheck;
use crate::operation::OperationEnd;
use crate::pod::PodContext;
use crate::replica_copy::PassEnd;

/// How often lag, retries and standstill are looked at.
const TICK: Duration = Duration::from_secs(1);

/// What a writer is told.
#[derive(Debug)]
pub enum WriterMessage {
    /// The log accepted a task of this index.
    Accepted(Box<TaskRecord>),
    /// Some tasks ended, here or elsewhere; one of ours may wait for them or be cancelled.
    TasksEnded(Vec<TaskUid>),
    /// The log answered `StartTasks`.
    Started {
        /// The tasks.
        uids: Vec<TaskUid>,
        /// Its answer.
        answer: Result<Outcome, ProposeError>,
    },
    /// A payload was read and checked.
    Prepared {
        /// Its task.
        uid: TaskUid,
        /// What lanes send, or how the task ends at once; `None` when the store failed.
        result: Option<Result<Sendable, Box<Decision>>>,
    },
    /// A lane's run ended.
    LaneEnded {
        /// The lane's node.
        node: NodeId,
        /// The run.
        job: Job,
        /// How.
        end: RunEnd,
    },
    /// A lane's audit ended.
    LaneAudited {
        /// The lane's node.
        node: NodeId,
        /// What it found.
        audit: Audit,
    },
    /// A node was seen to have other settings than the agreed ones.
    SettingsDiffer {
        /// The node.
        node: NodeId,
    },
    /// A replica has documents that differ from the others'.
    ReplicaDiffers(Box<Repair>),
    /// A lane's check of its node's settings ended.
    SettingsChecked {
        /// The lane's node.
        node: NodeId,
        /// What it found and did.
        check: SettingsCheck,
    },
    /// An operation ended.
    OperationEnded {
        /// Its task.
        uid: TaskUid,
        /// How.
        end: Box<OperationEnd>,
    },
    /// A node that an operation changes has no such index.
    ReplicaGone(NodeId),
    /// An operation may send nothing more.
    OperationNotAgreed(NotAgreed),
    /// A pass of a copy ended.
    CopyPassed {
        /// The copy.
        number: u64,
        /// How.
        end: PassEnd,
    },
    /// The log answered `SetReplica` of an empty lane.
    ReplicaNoted {
        /// The lane's node.
        node: NodeId,
        /// The life of the node's disk.
        life: u64,
        /// Its answer.
        answer: Result<Outcome, ProposeError>,
    },
    /// A lane has marked documents.
    LaneMarked {
        /// The lane's node.
        node: NodeId,
        /// What came of it.
        end: MarkEnd,
    },
    /// The log answered `SwitchPartition`.
    PartitionSwitched {
        /// Its answer.
        answer: Result<Outcome, ProposeError>,
    },
    /// The log answered `FinishTasks`.
    Finished {
        /// The tasks.
        uids: Vec<TaskUid>,
        /// Its answer.
        answer: Result<Outcome, ProposeError>,
    },
    /// The log answered a change of in-sync sets.
    InSyncChanged {
        /// The node.
        node: NodeId,
        /// It joined, else left.
        joined: bool,
        /// Its answer.
        answer: Result<Outcome, ProposeError>,
    },
    /// A node went down or came back.
    NodeHealthChanged {
        /// The node.
        node: NodeId,
        /// Down now.
        down: bool,
    },
    /// The log answered that what was left on a node is deleted.
    Emptied {
        /// The node.
        node: NodeId,
        /// The shards.
        shards: BTreeSet<ShardId>,
        /// Its answer.
        answer: Result<Outcome, ProposeError>,
    },
    /// Time to look for lag, retries and changes of the placement.
    Tick,
}

/// The writer actor.
#[derive(Debug)]
pub struct Writer;

/// How a writer starts.
#[derive(Clone, Debug)]
pub struct WriterArguments {
    /// The pod.
    pub pod: Arc<PodContext>,
    /// The index.
    pub index: IndexUid,
    /// The epoch that was taken for this life.
    pub epoch: Epoch,
}

/// A writer's state.
#[derive(Debug)]
pub struct WriterState {
    pod: Arc<PodContext>,
    fence: Fence,
    /// In task order; ended ones stay while a lane that catches up needs them.
    entries: VecDeque<Entry>,
    /// One per node that holds a shard of the index, or something of one.
    lanes: BTreeMap<NodeId, LaneView>,
    /// The barrier whose operation is under way.
    operation: Option<TaskUid>,
    /// A replica is being filled.
    copying: Option<Copying>,
    /// Documents of replicas that are to be put right.
    repairs: VecDeque<Repair>,
    /// Copies that were begun.
    copies: u64,
    /// Not before this is a failed copy tried again.
    copy_after: Instant,
    /// A `FinishTasks` is in flight: the next waits, so that tasks end in order.
    finishing: bool,
    /// The partitions that this life is of, and the switch to the next one.
    resharding: Resharding,
    /// The index was deleted; the writer stops.
    done: bool,
}

#[ractor::async_trait]
impl Actor for Writer {
    type Msg = WriterMessage;
    type State = WriterState;
    type Arguments = WriterArguments;

    const KIND: &'static str = "Writer";

    /// Loads what is open, starts the lanes where their marks stand.
    async fn pre_start(
        &self,
        myself: Address<WriterMessage>,
        arguments: WriterArguments,
    ) -> Result<WriterState, ActorProcessingErr> {
        let WriterArguments { pod, index, epoch } = arguments;
        let routing = pod.log.routing();
        let placed = routing.by_uid.get(&index).cloned().ok_or("the index is gone")?;
        let open = tasks::read_open(pod.log.engine().as_ref())?;
        let mut entries: VecDeque<Entry> = open
            .into_iter()
            .filter(|task| task.index.as_ref() == Some(&index))
            .map(Entry::new)
            .collect();
        // An operation was under way, by another life or on another pod: its requests may still
        // arrive.
        let interrupted = entries.iter().any(|entry| entry.resumed && entry.is_barrier());
        let fence = Fence { index, epoch };
        let mut lanes = BTreeMap::new();
        for node in placement::nodes_of(&placed) {
            let begins = placement::LaneBegins { pod: &pod, fence: &fence, index: &placed, node };
            let (node, view, notable) = begins.begin(&myself, interrupted).await?;
            for (uid, outcome) in notable {
                if let Some(entry) = entries.iter_mut().find(|entry| entry.task.uid == uid) {
                    entry.results.insert(node.clone(), outcome);
                }
            }
            lanes.insert(node, view);
        }
        schedule_tick(&myself, &pod);
        let copy_after = pod.seams.clock.instant();
        myself.cast(WriterMessage::TasksEnded(Vec::new()))?;
        Ok(WriterState {
            pod,
            fence,
            entries,
            lanes,
            operation: None,
            copying: None,
            repairs: VecDeque::new(),
            copies: 0,
            copy_after,
            finishing: false,
            resharding: Resharding::new(placed.marks, copy_after),
            done: false,
        })
    }

    async fn handle(
        &self,
        myself: Address<WriterMessage>,
        message: WriterMessage,
        state: &mut WriterState,
    ) -> Result<(), ActorProcessingErr> {
        if resharding::has_changed(state) {
            tracing::info!(index = %state.fence.index, "documents are marked for other partitions");
            myself.stop(Some(resharding::BEGINS_ANEW.to_owned()));
            return Ok(());
        }
        match message {
            WriterMessage::Accepted(task) => on_accepted(state, *task),
            WriterMessage::TasksEnded(uids) => on_tasks_ended(state, &uids)?,
            WriterMessage::Started { uids, answer } => steps::on_started(state, &uids, answer)?,
            WriterMessage::Prepared { uid, result } => steps::on_prepared(state, uid, result),
            WriterMessage::LaneEnded { node, job, end } => {
                reports::on_lane_ended(&myself, state, &node, &job, end)?;
            }
            WriterMessage::LaneAudited { node, audit } => {
                audits::on_lane_audited(&myself, state, &node, audit);
            }
            WriterMessage::SettingsDiffer { node } => {
                if let Some(lane) = state.lanes.get_mut(&node) {
                    lane.check_settings = true;
                }
            }
            WriterMessage::ReplicaDiffers(repair) => {
                repairs::on_replica_differs(&myself, state, *repair);
            }
            WriterMessage::SettingsChecked { node, check } => {
                settings_checks::on_settings_checked(&myself, state, &node, check)?;
            }
            WriterMessage::OperationEnded { uid, end } => {
                on_operation_ended(state, uid, *end)?;
            }
            WriterMessage::ReplicaGone(node) => {
                if let Some(lane) = state.lanes.get_mut(&node) {
                    lane.found_gone |= lane.provisioned;
                }
            }
            WriterMessage::OperationNotAgreed(why) => return Err(why.into()),
            WriterMessage::CopyPassed { number, end } => {
                copying::on_copy_passed(state, number, &end)?;
            }
            WriterMessage::ReplicaNoted { node, life, answer } => {
                audits::on_replica_noted(state, &node, life, &answer)?;
            }
            WriterMessage::Finished { uids, answer } => steps::on_finished(state, &uids, answer)?,
            WriterMessage::InSyncChanged { node, joined, answer } => {
                replicas::on_in_sync_changed(state, &node, joined, answer)?;
            }
            WriterMessage::NodeHealthChanged { node, down } => {
                if down && !audits::look_first(state, &node) {
                    replicas::leave(&myself, state, &node, "node is down");
                }
            }
            WriterMessage::Tick => {
                if !state.resharding.is_proposed() {
                    placement::follow(&myself, state).await?;
                }
                on_tick(&myself, state);
            }
            WriterMessage::LaneMarked { node, end } => {
                resharding::on_lane_marked(&myself, state, &node, end)?;
            }
            WriterMessage::PartitionSwitched { answer } => {
                resharding::on_switched(state, answer)?;
            }
            WriterMessage::Emptied { node, shards, answer } => {
                placement::on_emptied(state, &node, &shards, &answer)?;
            }
        }
        steps::advance(&myself, state).await?;
        if state.done || is_orphaned(state) {
            for node in state.lanes.keys() {
                state.pod.calls.sent().forget(node, state.fence.index.as_str());
            }
            steps::release_all(state);
            myself.stop(None);
        }
        Ok(())
    }

    /// A lane, operation or copy that fails stops the writer with an error; the pod starts the
    /// writer again, from the log and the marks. Orderly ends of operations and copies are expected.
    async fn handle_supervisor_evt(
        &self,
        _myself: Address<WriterMessage>,
        event: SupervisionEvent,
        state: &mut WriterState,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorFailed(_, error) => {
                tracing::error!(index = %state.fence.index, %error, "part of a writer failed");
                Err(error)
            }
            _ => Ok(()),
        }
    }
}

/// Whether the task that was to create the index was cancelled, and the index is gone with it.
fn is_orphaned(state: &WriterState) -> bool {
    steps::routing(state).is_none() && state.entries.iter().all(Entry::ended)
}

fn schedule_tick(myself: &Address<WriterMessage>, pod: &PodContext) {
    let (myself, clock) = (myself.clone(), pod.seams.clock.clone());
    pod.seams.tasks.spawn("writer tick", async move {
        clock.sleep(TICK).await;
        let _stopped = myself.cast(WriterMessage::Tick);
    });
}

fn on_accepted(state: &mut WriterState, task: TaskRecord) {
    // Loaded at start, or told twice.
    let known = state.entries.back().is_some_and(|last| last.task.uid >= task.uid);
    if !known && !task.ended() {
        let now = state.pod.seams.clock.instant();
        for lane in state.lanes.values_mut().filter(|lane| !lane.busy) {
            lane.moved_at = now;
        }
        state.entries.push_back(Entry::new(task));
    }
}

fn on_tasks_ended(state: &mut WriterState, uids: &[TaskUid]) -> Result<(), ActorProcessingErr> {
    // Ours end through `Finished`, except for those that a cancellation ended.
    for uid in uids {
        let Some(entry) = state.entries.iter_mut().find(|entry| entry.task.uid == *uid) else {
            continue;
        };
        if matches!(entry.stage, entries::Stage::Waiting | entries::Stage::Starting) {
            entry.stage = entries::Stage::Ended;
            entry.sendable = Some(Sendable::Nothing);
        }
    }
    Ok(())
}

fn on_operation_ended(
    state: &mut WriterState,
    uid: TaskUid,
    end: OperationEnd,
) -> Result<(), ActorProcessingErr> {
    state.operation = None;
    let required = steps::required(state);
    let is_creation = |entry: &Entry| {
        entry.task.uid == uid && matches!(entry.task.work, Work::CreateIndex { .. })
    };
    // One that was refused for a bound name has asked no node for anything.
    let has_created =
        end.decision.ending == Ending::Succeeded && state.entries.iter().any(is_creation);
    for (node, newest) in &end.participants {
        let was_there = state.lanes.get(node).is_some_and(|lane| lane.provisioned);
        let mark = LaneMark {
            through: Some(uid),
            open: None,
            node_task: *newest,
            provisioned: was_there || has_created,
            ..LaneMark::default()
        };
        pass_lane(state, node, mark)?;
    }
    if end.decision.ending == Ending::Failed {
        let took_part: BTreeSet<&NodeId> = end.participants.iter().map(|(node, _)| node).collect();
        for (_, lane) in state.lanes.iter_mut().filter(|(node, _)| !took_part.contains(node)) {
            // Settings that were put back elsewhere may be in force there.
            lane.check_settings = true;
        }
    }
    if let Some(entry) = state.entries.iter_mut().find(|entry| entry.task.uid == uid) {
        // Others are in the in-sync sets by now, which know nothing of it.
        let took_part = |node: &NodeId| end.participants.iter().any(|(one, _)| one == node);
        let is_undone = end.decision.ending == Ending::Succeeded
            && (end.participants.is_empty() || !required.iter().all(took_part))
            && !matches!(entry.task.work, Work::DeleteIndex);
        if is_undone {
            tracing::warn!(index = %state.fence.index, task = uid.0, "not all that count took part, once more");
            return Ok(());
        }
        entry.sendable = Some(if end.for_latecomers.is_empty() {
            Sendable::Nothing
        } else {
            Sendable::Settings(end.for_latecomers)
        });
        entry.stage = entries::Stage::Decided(Box::new(end.decision));
    }
    Ok(())
}

/// Moves a lane to where an operation or a copy has brought its node. Only forward.
fn pass_lane(
    state: &mut WriterState,
    node: &NodeId,
    mark: LaneMark,
) -> Result<(), ActorProcessingErr> {
    let Some(lane) = state.lanes.get_mut(node) else { return Ok(()) };
    lane.passed = mark.through;
    lane.provisioned = mark.provisioned;
    lane.moved_at = state.pod.seams.clock.instant();
    lane.actor.cast(crate::lane::LaneMessage::Reset(mark))?;
    Ok(())
}

fn on_tick(myself: &Address<WriterMessage>, state: &mut WriterState) {
    schedule_tick(myself, &state.pod);
    let now = state.pod.seams.clock.instant();
    let required = steps::required(state);
    let lagging = lanes::lagging(&state.lanes, &required, now);
    // A node that was down when its change could not be logged is tried again.
    let down = state.pod.health.down();
    for (node, lane) in &mut state.lanes {
        if !lagging.contains(node) && !down.contains(node) {
            lane.leaves_since = None;
        }
    }
    let lagging = lagging.iter().map(|node| (node, "lane lags behind"));
    for (node, reason) in lagging.chain(down.iter().map(|node| (node, "node is down"))) {
        let is_current =
            state.lanes.get(node).is_some_and(|lane| lane.standing == Standing::Current);
        if is_current && !audits::look_first(state, node) {
            replicas::leave(myself, state, node, reason);
        }
    }
}
