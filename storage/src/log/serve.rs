//! Answers the calls of other pods: the channels that begin with `log/`.
//!
//! A request names who is meant and in which cluster; what is meant for somebody else, for
//! instance for the pod that had this address before, is refused and changes nothing.

use async_trait::async_trait;
use bytes::Bytes;
use miroir_seams::{PeerRefusal, PeerService};
use openraft::error::{InstallSnapshotError, RaftError};
use openraft::raft::{AppendEntriesResponse, InstallSnapshotRequest, VoteRequest};
use openraft::{Snapshot, SnapshotMeta, Vote};
use std::time::Duration;
use tokio::sync::oneshot;

use super::propose::{COMMANDS_MAX, Done, ENTRY_BYTES_MAX, Waiting, why_ended};
use super::{CoordinatorLog, PROPOSE_TIMEOUT};
use crate::raft::messages::{
    APPEND, AppendAnswer, AppendCall, ELECT, ElectCall, Envelope, INDEX, Nothing, PROPOSE,
    ProposeAnswer, ProposeCall, ReadIndex, SNAPSHOT, SnapshotAnswer, VOTE, YIELD, YieldCall,
};
use crate::raft::{Proposal, RaftId, TypeConfig};
use crate::tables::records::{Record, decode, encode};

/// The largest snapshot that is taken: it is built in memory.
const SNAPSHOT_BYTES_MAX: u64 = 4 << 30;

fn refusal(error: impl std::fmt::Display) -> PeerRefusal {
    PeerRefusal(error.to_string())
}

fn answer<R: Record>(record: &R) -> Result<Bytes, PeerRefusal> {
    encode(record).map(Bytes::from).map_err(refusal)
}

#[async_trait]
impl PeerService for CoordinatorLog {
    async fn serve(&self, channel: &str, body: Bytes) -> Result<Bytes, PeerRefusal> {
        if let Some(ended) = why_ended(&self.core.raft) {
            return Err(refusal(ended));
        }
        match channel {
            APPEND => answer(&self.on_append(self.open_call(&body)?).await?),
            VOTE => {
                let (_, request): (_, VoteRequest<RaftId>) = self.open_call(&body)?;
                answer(&self.core.raft.vote(request).await.map_err(refusal)?)
            }
            SNAPSHOT => answer(&self.on_snapshot(self.open_call(&body)?).await?),
            PROPOSE => answer(&self.on_propose(self.open_call(&body)?).await?),
            INDEX => {
                let (_, Nothing) = self.open_call(&body)?;
                let (index, _) = self.core.raft.get_read_log_id().await.map_err(refusal)?;
                answer(&ReadIndex(index.map_or(0, |id| id.index)))
            }
            YIELD => {
                self.on_yield(self.open_call(&body)?).await?;
                answer(&Nothing)
            }
            ELECT => {
                self.on_elect(self.open_call(&body)?).await?;
                answer(&Nothing)
            }
            unknown => Err(refusal(format_args!("the log has no channel {unknown:?}"))),
        }
    }
}

impl CoordinatorLog {
    /// Reads a request and checks that it is meant for this pod; who sent it, and what.
    fn open_call<T>(&self, body: &[u8]) -> Result<(RaftId, T), PeerRefusal>
    where
        Envelope<T>: Record,
    {
        let envelope: Envelope<T> = decode(body).map_err(refusal)?;
        let core = &self.core;
        if envelope.target != core.raft_id {
            return Err(refusal(format_args!(
                "raft id {} lives here, not {}",
                core.raft_id, envelope.target
            )));
        }
        let known = core.applied.routing().cluster_id.clone();
        if !known.is_empty() && !envelope.cluster.is_empty() && known != envelope.cluster {
            return Err(refusal(format_args!("this pod belongs to cluster {known}")));
        }
        // A cluster that has no name yet is told by its members.
        let metrics = core.raft.metrics();
        let metrics = metrics.borrow();
        let membership = metrics.membership_config.membership();
        let founded = membership.voter_ids().next().is_some();
        if known.is_empty() && founded && membership.get_node(&envelope.from).is_none() {
            return Err(refusal(format_args!("raft id {} is no member here", envelope.from)));
        }
        Ok((envelope.from, envelope.body))
    }

    async fn on_append(
        &self,
        (_, call): (RaftId, AppendCall),
    ) -> Result<AppendAnswer, PeerRefusal> {
        let AppendCall { request, echo, confirmed_ms } = call;
        let committed = request.leader_commit.map_or(0, |id| id.index);
        let core = &self.core;
        let response = core.raft.append_entries(request).await.map_err(refusal)?;
        if !matches!(response, AppendEntriesResponse::HigherVote(_)) {
            core.confirmations.appended(committed, echo, confirmed_ms);
        }
        Ok(AppendAnswer { response, stamp: core.confirmations.stamp() })
    }

    async fn on_snapshot(
        &self,
        (_, request): (RaftId, InstallSnapshotRequest<TypeConfig>),
    ) -> Result<SnapshotAnswer, PeerRefusal> {
        let end = request.offset.checked_add(request.data.len() as u64);
        if end.is_none_or(|end| end > SNAPSHOT_BYTES_MAX) {
            return Err(refusal("the snapshot is too large"));
        }
        match self.core.raft.install_snapshot(request).await {
            Ok(response) => Ok(SnapshotAnswer::Taken(response)),
            Err(RaftError::APIError(InstallSnapshotError::SnapshotMismatch(_))) => {
                Ok(SnapshotAnswer::Mismatch)
            }
            Err(error) => Err(refusal(error)),
        }
    }

    async fn on_propose(
        &self,
        (from, call): (RaftId, ProposeCall),
    ) -> Result<ProposeAnswer, PeerRefusal> {
        let core = &self.core;
        let bytes: usize = call.commands.iter().map(Bytes::len).sum();
        // One command alone may be larger: it is alone in its entry.
        let fits = bytes <= ENTRY_BYTES_MAX || call.commands.len() == 1;
        if call.commands.is_empty() || call.commands.len() > COMMANDS_MAX || !fits {
            return Err(refusal("a group of commands of another size"));
        }
        let leader = core.leader();
        match leader {
            Some(leader) if leader.raft_id == core.raft_id && leader.term == call.term => {}
            other => {
                return Ok(ProposeAnswer::NotLeading(
                    other.filter(|other| other.term >= call.term),
                ));
            }
        }
        if !core.members().addresses.contains_key(&from) {
            return Err(refusal(format_args!("raft id {from} is no member")));
        }
        // Of a newer version: in the log it would end this pod, and all that can't read it.
        if let Err(error) = Proposal::new(call.commands.clone()).decode() {
            return Ok(ProposeAnswer::NotProposed(error.to_string()));
        }
        core.check_number(from, call.life, call.number).map_err(refusal)?;
        let wait = Duration::from_millis(call.wait_ms).min(PROPOSE_TIMEOUT);
        let deadline = core.seams.clock.instant() + wait;
        let (done, outcome) = oneshot::channel();
        let waiting = Waiting { commands: call.commands, deadline, done: Done::There(done) };
        // A full queue is no reason to wait here: the proposer has a queue of its own.
        self.forwarded.try_send(waiting).map_err(|_| refusal("the leader's queue is full"))?;
        Ok(outcome.await.unwrap_or(ProposeAnswer::Unknown))
    }

    /// Takes the successor's vote for granted, before it asks for it: a voter that was in touch
    /// with its leader would refuse any other for a while. The vote itself is given later, and
    /// only if the successor's log is as long as this pod's.
    async fn on_yield(&self, (from, call): (RaftId, YieldCall)) -> Result<(), PeerRefusal> {
        match self.core.leader() {
            Some(leader) if leader.raft_id == from && leader.term == call.term => {
                self.core.forget_leader(call.term, call.successor).await.map_err(refusal)
            }
            _ => Err(refusal("only the leader can step aside")),
        }
    }

    async fn on_elect(&self, (_, call): (RaftId, ElectCall)) -> Result<(), PeerRefusal> {
        if self.core.raft.metrics().borrow().current_term != call.term {
            return Err(refusal("another term has begun"));
        }
        self.core.raft.trigger().elect().await.map_err(refusal)
    }
}

impl super::Core {
    /// Notes that `successor` is to be elected in the term after `term`. This is what openraft
    /// does with a vote for somebody else; an empty snapshot is the call that carries only that.
    pub(super) async fn forget_leader(
        &self,
        term: u64,
        successor: RaftId,
    ) -> Result<(), openraft::error::Fatal<RaftId>> {
        let vote = Vote::new(term.saturating_add(1), successor);
        let nothing = Snapshot { meta: SnapshotMeta::default(), snapshot: Box::default() };
        self.raft.install_full_snapshot(vote, nothing).await.map(drop)
    }

    /// Refuses what comes after something later of the same life of the same pod.
    fn check_number(&self, from: RaftId, life: u64, number: u64) -> Result<(), &'static str> {
        let mut seen = self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match seen.insert(from, (life, number)) {
            Some((last_life, last)) if last_life == life && last >= number => {
                seen.insert(from, (life, last));
                Err("a later proposal of this pod has been seen")
            }
            _ => Ok(()),
        }
    }
}
