//! From commands in line to entries: one entry under way at a time, proposed here while this pod
//! leads, sent to the leader while another does.
//!
//! ```text
//!  propose ──┐                                     ┌── leads ───> one entry ──> outcomes
//!            ├──> queue ──> group of commands ─────┤
//!  forwarded ┘    (FIFO)                           └── follows ─> `log/propose` at the leader,
//!  by a pod                                                      then applied here as well
//! ```
//!
//! A forwarded group is never forwarded again: who doesn't lead any more refuses it, at once and
//! also while its own commands are under way to somebody else. Two pods that took each other for
//! the leader would wait for each other otherwise.
//!
//! Commands of one pod take effect in the order in which they were proposed, also when the fate
//! of an earlier one is unknown: the leader refuses a group that arrives after a later one of
//! the same pod, and one that was meant for another term. An entry of an older term can't be
//! committed any more once one of a newer term is.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use miroir_seams::PeerCallError;
use openraft::Raft;
use openraft::error::{ClientWriteError, Fatal, RaftError};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::{Core, PROPOSE_TIMEOUT, ProposeError};
use crate::commands::Outcome;
use crate::raft::messages::{Leader, PROPOSE, ProposeAnswer, ProposeCall};
use crate::raft::{Proposal, TypeConfig};

/// Commands joined to one entry: enough to make the fsync cheap, few enough to apply at once.
pub(super) const COMMANDS_MAX: usize = 512;
/// Bytes joined to one entry; entries travel to peers whole.
pub(super) const ENTRY_BYTES_MAX: usize = 1 << 20;
/// Pause before another look for a leader.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// How much longer a leader that is said to have lost its place may take to answer: one that
/// handed over refuses what it didn't propose at once, one that is dead says nothing.
const LOST_LEADER_GRACE: Duration = Duration::from_millis(1000);
/// A leader that no quorum confirmed for so long is likely deposed: it proposes nothing.
const LEADER_UNCONFIRMED_MAX: Duration = Duration::from_millis(2000);

/// What stands in line: one command of this pod, or a group of another pod.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) commands: Vec<Bytes>,
    pub(super) deadline: Instant,
    pub(super) done: Done,
}

/// Who waits for the outcome.
#[derive(Debug)]
pub(super) enum Done {
    /// A caller in this pod.
    Here(oneshot::Sender<Result<Outcome, ProposeError>>),
    /// Nobody.
    Nobody,
    /// Another pod.
    There(oneshot::Sender<ProposeAnswer>),
}

impl Waiting {
    fn bytes(&self) -> usize {
        self.commands.iter().map(Bytes::len).sum()
    }

    fn is_forwarded(&self) -> bool {
        matches!(self.done, Done::There(_))
    }

    // A proposer that has gone is not told.
    fn answer(self, index: u64, mut outcomes: Vec<Outcome>) {
        match self.done {
            Done::Here(done) => {
                let _ = done.send(outcomes.pop().ok_or(ProposeError::Unknown));
            }
            Done::Nobody => {}
            Done::There(done) => {
                let _ = done.send(ProposeAnswer::Applied { index, outcomes });
            }
        }
    }

    fn fail(self, error: ProposeError) {
        match self.done {
            Done::Here(done) => {
                let _ = done.send(Err(error));
            }
            Done::Nobody => tracing::warn!(%error, "a command that nobody waits for is lost"),
            Done::There(done) => {
                let _ = done.send(match error {
                    ProposeError::Unknown => ProposeAnswer::Unknown,
                    certain => ProposeAnswer::NotProposed(certain.to_string()),
                });
            }
        }
    }

    fn refuse(self, leader: Option<Leader>) {
        if let Done::There(done) = self.done {
            let _ = done.send(ProposeAnswer::NotLeading(leader));
        }
    }
}

/// Why a group has no outcome.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum WriteError {
    /// Certainly not proposed. Perhaps by another pod: who it is said to be.
    NotProposed(Option<Leader>),
    /// It may take effect yet.
    Unknown,
}

/// What stands in line.
#[derive(Debug)]
pub(super) struct Queues {
    /// Commands of this pod.
    pub(super) here: mpsc::Receiver<Waiting>,
    /// Groups of other pods.
    pub(super) there: mpsc::Receiver<Waiting>,
    /// What did not fit in the last entry, of either.
    held_over: VecDeque<Waiting>,
}

impl Queues {
    pub(super) fn new(here: mpsc::Receiver<Waiting>, there: mpsc::Receiver<Waiting>) -> Self {
        Self { here, there, held_over: VecDeque::new() }
    }

    /// Waits for something to do; `None` when nobody can propose any more.
    async fn first(&mut self) -> Option<Waiting> {
        if let Some(waiting) = self.held_over.pop_front() {
            return Some(waiting);
        }
        tokio::select! {
            biased;
            waiting = self.there.recv() => waiting,
            waiting = self.here.recv() => waiting,
        }
    }

    /// What waits already, in turn from both queues.
    fn next(&mut self, turn: usize) -> Option<Waiting> {
        if let Some(waiting) = self.held_over.pop_front() {
            return Some(waiting);
        }
        let (one, other) = match turn % 2 {
            0 => (&mut self.here, &mut self.there),
            _ => (&mut self.there, &mut self.here),
        };
        one.try_recv().or_else(|_| other.try_recv()).ok()
    }

    /// Refuses what other pods have in line.
    fn refuse(&mut self, leader: Option<&Leader>) {
        let held_over = std::mem::take(&mut self.held_over);
        let (there, here) = held_over.into_iter().partition(Waiting::is_forwarded);
        self.held_over = here;
        let there: VecDeque<Waiting> = there;
        for waiting in there {
            waiting.refuse(leader.cloned());
        }
        while let Ok(waiting) = self.there.try_recv() {
            waiting.refuse(leader.cloned());
        }
    }

    /// Refuses what other pods put in line, for ever.
    async fn refuse_all(&mut self, leader: &Leader) {
        self.refuse(Some(leader));
        while let Some(waiting) = self.there.recv().await {
            waiting.refuse(Some(leader.clone()));
        }
        std::future::pending().await
    }
}

/// Proposes what is in line, one entry at a time, until nobody can propose any more.
pub(super) async fn drain(core: Arc<Core>, mut queues: Queues) {
    let mut group = Vec::new();
    while let Some(first) = queues.first().await {
        let (mut bytes, mut count) = (first.bytes(), first.commands.len());
        group.push(first);
        while count < COMMANDS_MAX
            && let Some(waiting) = queues.next(group.len())
        {
            bytes += waiting.bytes();
            count += waiting.commands.len();
            if bytes > ENTRY_BYTES_MAX || count > COMMANDS_MAX {
                queues.held_over.push_front(waiting);
                break;
            }
            group.push(waiting);
        }
        deliver(&core, &mut queues, &mut group).await;
    }
}

/// Where commands go now.
enum Stance {
    /// This pod leads.
    Leads,
    Follows(Leader),
    /// No leader is known, or this pod leads without a quorum.
    NoLeader,
}

fn stance(core: &Core) -> Stance {
    match core.leader() {
        Some(leader) if leader.raft_id != core.raft_id => Stance::Follows(leader),
        Some(_) => {
            let confirmed = core.confirmations.confirmed();
            let age = confirmed.map(|at| core.seams.clock.instant().saturating_duration_since(at));
            if age.is_some_and(|age| age < LEADER_UNCONFIRMED_MAX) {
                Stance::Leads
            } else {
                Stance::NoLeader
            }
        }
        None => Stance::NoLeader,
    }
}

/// Answers everyone in `group`, one way or the other.
async fn deliver(core: &Core, queues: &mut Queues, group: &mut Vec<Waiting>) {
    // Who leads, as another pod says; tried once.
    let mut hint: Option<Leader> = None;
    let mut metrics = core.raft.metrics();
    loop {
        let now = core.seams.clock.instant();
        group.extract_if(.., |waiting| waiting.deadline <= now).for_each(|late| {
            late.fail(ProposeError::NoQuorum);
        });
        if group.is_empty() {
            return;
        }
        if let Some(error) = why_ended(&core.raft) {
            group.drain(..).for_each(|waiting| waiting.fail(error.clone()));
            return;
        }
        metrics.mark_unchanged();
        // Held by a leader that steps aside.
        let turn = core.turn.lock().await;
        let place = match (stance(core), hint.take()) {
            (Stance::Leads, _) => Stance::Leads,
            (Stance::Follows(known), Some(told)) if told.term <= known.term => {
                Stance::Follows(known)
            }
            (_, Some(told)) => Stance::Follows(told),
            (stance, None) => stance,
        };
        let written = match place {
            Stance::Leads => {
                let written = write(&core.raft, commands_of(group)).await;
                drop(turn);
                written
            }
            Stance::Follows(leader) => {
                drop(turn);
                refuse_forwarded(group, Some(&leader));
                tokio::select! {
                    biased;
                    written = forward(core, &leader, group) => written,
                    () = queues.refuse_all(&leader) => Err(WriteError::Unknown),
                }
            }
            Stance::NoLeader => {
                drop(turn);
                refuse_forwarded(group, None);
                queues.refuse(None);
                Err(WriteError::NotProposed(None))
            }
        };
        match written {
            Ok((index, mut outcomes)) => {
                for waiting in group.drain(..) {
                    let count = waiting.commands.len().min(outcomes.len());
                    let own = outcomes.drain(..count).collect();
                    waiting.answer(index, own);
                }
                return;
            }
            Err(WriteError::Unknown) => {
                group.drain(..).for_each(|waiting| waiting.fail(ProposeError::Unknown));
                return;
            }
            Err(WriteError::NotProposed(leader)) => {
                hint = leader.filter(|leader| leader.raft_id != core.raft_id);
                if hint.is_none() {
                    // Ends early when anything about the leader changes.
                    let _ = tokio::time::timeout(RETRY_PAUSE, metrics.changed()).await;
                }
                tokio::task::yield_now().await;
            }
        }
    }
}

fn commands_of(group: &[Waiting]) -> Vec<Bytes> {
    group.iter().flat_map(|waiting| waiting.commands.iter().cloned()).collect()
}

fn refuse_forwarded(group: &mut Vec<Waiting>, leader: Option<&Leader>) {
    group
        .extract_if(.., |waiting| waiting.is_forwarded())
        .for_each(|waiting| waiting.refuse(leader.cloned()));
}

/// Why nothing can be proposed any more.
pub(super) fn why_ended(raft: &Raft<TypeConfig>) -> Option<ProposeError> {
    match &raft.metrics().borrow().running_state {
        Ok(()) => None,
        Err(Fatal::Stopped) => Some(ProposeError::Stopped),
        Err(error) => Some(ProposeError::Fatal(error.to_string())),
    }
}

/// Proposes `commands` as one entry, here; the entry's place and the outcomes.
pub(super) async fn write(
    raft: &Raft<TypeConfig>,
    commands: Vec<Bytes>,
) -> Result<(u64, Vec<Outcome>), WriteError> {
    let proposal = Proposal::new(commands);
    let appended = proposal.appended.clone();
    match tokio::time::timeout(PROPOSE_TIMEOUT, raft.client_write(proposal)).await {
        Ok(Ok(written)) => Ok((written.log_id.index, written.data.0)),
        Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))))
            if !appended.is_set() =>
        {
            Err(WriteError::NotProposed(None))
        }
        Ok(Err(error)) => {
            tracing::warn!(%error, "a proposal was not confirmed");
            Err(WriteError::Unknown)
        }
        Err(_) => Err(WriteError::Unknown),
    }
}

/// Has `leader` propose `group` as one, and waits until that is applied here.
async fn forward(
    core: &Core,
    leader: &Leader,
    group: &[Waiting],
) -> Result<(u64, Vec<Outcome>), WriteError> {
    let Some(deadline) = group.iter().map(|waiting| waiting.deadline).min() else {
        return Err(WriteError::NotProposed(None));
    };
    let wait = deadline.saturating_duration_since(core.seams.clock.instant());
    let call = ProposeCall {
        term: leader.term,
        life: core.confirmations.life(),
        number: core.numbers.fetch_add(1, Ordering::Relaxed),
        wait_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
        commands: commands_of(group),
    };
    let target = (leader.raft_id, leader.address.as_str());
    let answer = tokio::select! {
        biased;
        answer = core.network.call(target, PROPOSE, call, wait + PROPOSE_TIMEOUT) => answer,
        () = lost(core, leader) => return Err(WriteError::Unknown),
    };
    match answer {
        Ok(ProposeAnswer::Applied { index, outcomes }) => {
            let here = tokio::time::timeout(PROPOSE_TIMEOUT, core.applied.reached(index)).await;
            here.map(|()| (index, outcomes)).map_err(|_| WriteError::Unknown)
        }
        Ok(ProposeAnswer::NotLeading(leader)) => Err(WriteError::NotProposed(leader)),
        Ok(ProposeAnswer::NotProposed(reason)) => {
            tracing::debug!(leader = %leader.raft_id, reason, "the leader refused a proposal");
            Err(WriteError::NotProposed(None))
        }
        Ok(ProposeAnswer::Unknown) => Err(WriteError::Unknown),
        Err(error) if error.is_certain() => Err(WriteError::NotProposed(None)),
        Err(error @ (PeerCallError::Broken(_) | PeerCallError::TimedOut(_))) => {
            tracing::warn!(leader = %leader.raft_id, %error, "a proposal was not confirmed");
            Err(WriteError::Unknown)
        }
        Err(_) => Err(WriteError::Unknown),
    }
}

/// Returns some time after another pod than `leader` leads, or a newer term began.
async fn lost(core: &Core, leader: &Leader) {
    let mut metrics = core.raft.metrics();
    let changed = metrics.wait_for(|now| {
        now.running_state.is_err()
            || now.current_term > leader.term
            || (now.current_term == leader.term && now.current_leader != Some(leader.raft_id))
    });
    let _ = changed.await;
    core.seams.clock.sleep(LOST_LEADER_GRACE).await;
}
