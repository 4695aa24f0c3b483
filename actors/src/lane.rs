//! One lane: the ordered stream of writes from an index's writer to one node.
//!
//! Owns: the run under way on its node (at most one, with at most one open node task) and the
//! lane's mark in the log. Does not own: which run comes next, and what an outcome means; that is
//! the writer's. Only the writer sends to it. Upholds safety rules 1, 2 and 9: a run is carried
//! to its end, in order, over any number of failures.
//!
//! A restart loses nothing: the mark says what the node has applied and what may be under way.
//!
//! ```text
//!  idle --Run--> running --(run ended: report to writer)--> idle
//!  idle --Audit, CheckSettings, Mark--> looking --(report to writer)--> idle
//!                   `-----Stop (index deleted, writer gone)--> stopped, run aborted
//! ```

pub mod audit;
pub mod deliver;
pub mod job;
mod look_up;
pub mod marking;
pub mod settings_check;
pub mod turn;

use miroir_storage::ids::NodeId;
use miroir_storage::tables::lane_marks::{self, LaneMark};
use ractor::ActorProcessingErr;
use tokio::task::AbortHandle;

use self::audit::Audit;
use self::deliver::{Delivery, RunEnd};
use self::job::Job;
use self::marking::{MarkEnd, MarkPage};
use self::settings_check::{ExpectedSettings, SettingsCheck};
use crate::inspect::{Actor, Address};
use crate::writer::WriterMessage;

/// What a lane is told.
#[derive(Debug)]
pub enum LaneMessage {
    /// Carry this run to the node. The lane must be idle.
    Run(Box<Job>),
    /// The run ended (from the lane's own task).
    Ended {
        /// The run.
        job: Box<Job>,
        /// How.
        end: RunEnd,
        /// The mark after it.
        mark: LaneMark,
    },
    /// Look through the node's tasks for strays. The lane must be idle.
    Audit,
    /// The audit ended (from the lane's own task).
    Audited {
        /// What it found.
        audit: Audit,
        /// The mark after it.
        mark: LaneMark,
    },
    /// Read back the node's settings, and put them right. The lane must be idle.
    CheckSettings(Box<ExpectedSettings>),
    /// The check ended (from the lane's own task).
    Checked {
        /// What it found.
        check: SettingsCheck,
        /// The mark after it.
        mark: LaneMark,
    },
    /// Mark some of the node's documents for the newest partition. The lane must be idle.
    Mark(Box<MarkPage>),
    /// They are marked, or not (from the lane's own task).
    Marked {
        /// What came of it.
        end: MarkEnd,
        /// The mark of the lane after it.
        mark: LaneMark,
    },
    /// An operation or a copy has brought the node to where this mark says. The lane must be idle.
    Reset(LaneMark),
    /// The node no longer has what it had. The lane must be idle.
    BeginAnew,
}

/// The lane actor.
#[derive(Debug)]
pub struct Lane;

/// How a lane starts.
#[derive(Debug)]
pub struct LaneArguments {
    /// Whom to report to.
    pub writer: Address<WriterMessage>,
    /// How to reach the node.
    pub delivery: Delivery,
    /// The life of the node's disk that the lane's mark is of.
    pub disk_life: u64,
}

/// A lane's state.
#[derive(Debug)]
pub struct LaneState {
    writer: Address<WriterMessage>,
    delivery: Delivery,
    mark: LaneMark,
    /// The task that carries the run under way.
    running: Option<AbortHandle>,
}

#[ractor::async_trait]
impl Actor for Lane {
    type Msg = LaneMessage;
    type State = LaneState;
    type Arguments = LaneArguments;

    const KIND: &'static str = "Lane";

    async fn pre_start(
        &self,
        _myself: Address<LaneMessage>,
        arguments: LaneArguments,
    ) -> Result<LaneState, ActorProcessingErr> {
        let LaneArguments { writer, delivery, disk_life } = arguments;
        let mark = lane_marks::load(
            delivery.log.engine().as_ref(),
            &delivery.target.index,
            &delivery.node,
        )?;
        let mut mark = mark;
        delivery.resume_doubts(&mut mark, disk_life);
        Ok(LaneState { writer, delivery, mark, running: None })
    }

    async fn handle(
        &self,
        myself: Address<LaneMessage>,
        message: LaneMessage,
        state: &mut LaneState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            LaneMessage::Run(job) => on_run(myself, state, job),
            LaneMessage::Ended { job, end, mark } => on_ended(state, *job, end, mark),
            LaneMessage::Audit => on_audit(myself, state),
            LaneMessage::Audited { audit, mark } => on_audited(state, audit, mark),
            LaneMessage::CheckSettings(expected) => on_check_settings(myself, state, expected),
            LaneMessage::Checked { check, mark } => on_checked(state, check, mark),
            LaneMessage::Mark(page) => on_mark(myself, state, *page),
            LaneMessage::Marked { end, mark } => on_marked(state, end, mark),
            LaneMessage::Reset(mark) => on_reset(state, mark),
            LaneMessage::BeginAnew => {
                state.mark = LaneMark::default();
                state.delivery.note(&state.mark);
            }
        }
        Ok(())
    }
}

/// The run must end with its lane, also when that is killed with its writer: the next lane takes
/// the run over.
impl Drop for LaneState {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.abort();
        }
    }
}

fn on_reset(state: &mut LaneState, mark: LaneMark) {
    let audited = mark.audited.max(state.mark.audited);
    // A node that was away when it was asked for its newest task has not fewer than before: with none
    // known, an old one would pass for a request that got no answer.
    let node_task = mark.node_task.max(state.mark.node_task);
    state.mark = LaneMark { audited, node_task, ..mark };
    // What was sent since the last audit must be known to the next life, too: it would else take its own
    // requests for strays, and copy the replica.
    state.delivery.note_sent(&mut state.mark);
    state.delivery.note(&state.mark);
}

fn on_run(myself: Address<LaneMessage>, state: &mut LaneState, job: Box<Job>) {
    let delivery = state.delivery.clone();
    let mut mark = state.mark.clone();
    let carrying = state.delivery.seams.tasks.clone().spawn("lane run", async move {
        let turn = delivery.turn.clone();
        let _turn = turn.take().await;
        let end = delivery.run(&job, &mut mark).await;
        // The lane may have been stopped meanwhile; then nobody needs the end.
        let _stopped = myself.cast(LaneMessage::Ended { job, end, mark });
    });
    state.running = Some(carrying.abort_handle());
}

fn on_ended(state: &mut LaneState, job: Job, end: RunEnd, mark: LaneMark) {
    state.running = None;
    state.mark = mark;
    let node: NodeId = state.delivery.node.clone();
    let _writer_gone = state.writer.cast(WriterMessage::LaneEnded { node, job, end });
}

fn on_audit(myself: Address<LaneMessage>, state: &mut LaneState) {
    let delivery = state.delivery.clone();
    let mut mark = state.mark.clone();
    let looking = state.delivery.seams.tasks.clone().spawn("lane audit", async move {
        let turn = delivery.turn.clone();
        let _turn = turn.take().await;
        let audit = delivery.audit(&mut mark).await;
        let _stopped = myself.cast(LaneMessage::Audited { audit, mark });
    });
    state.running = Some(looking.abort_handle());
}

fn on_audited(state: &mut LaneState, audit: Audit, mark: LaneMark) {
    state.running = None;
    state.mark = mark;
    let node = state.delivery.node.clone();
    let _writer_gone = state.writer.cast(WriterMessage::LaneAudited { node, audit });
}

fn on_check_settings(
    myself: Address<LaneMessage>,
    state: &mut LaneState,
    expected: Box<ExpectedSettings>,
) {
    let delivery = state.delivery.clone();
    let mut mark = state.mark.clone();
    let looking = state.delivery.seams.tasks.clone().spawn("lane settings check", async move {
        let turn = delivery.turn.clone();
        let _turn = turn.take().await;
        let check = delivery.check_settings(&expected, &mut mark).await;
        let _stopped = myself.cast(LaneMessage::Checked { check, mark });
    });
    state.running = Some(looking.abort_handle());
}

fn on_checked(state: &mut LaneState, check: SettingsCheck, mark: LaneMark) {
    state.running = None;
    state.mark = mark;
    let node = state.delivery.node.clone();
    let _writer_gone = state.writer.cast(WriterMessage::SettingsChecked { node, check });
}

fn on_mark(myself: Address<LaneMessage>, state: &mut LaneState, page: MarkPage) {
    let delivery = state.delivery.clone();
    let mut mark = state.mark.clone();
    let marking = state.delivery.seams.tasks.clone().spawn("lane marking", async move {
        let turn = delivery.turn.clone();
        let _turn = turn.take().await;
        let end = delivery.mark_documents(&page, &mut mark).await;
        let _stopped = myself.cast(LaneMessage::Marked { end, mark });
    });
    state.running = Some(marking.abort_handle());
}

fn on_marked(state: &mut LaneState, end: MarkEnd, mark: LaneMark) {
    state.running = None;
    state.mark = mark;
    let node = state.delivery.node.clone();
    let _writer_gone = state.writer.cast(WriterMessage::LaneMarked { node, end });
}
