//! Who belongs to the log's cluster, and the changes of that: for the membership role.
//!
//! One change at a time, each refused unless this pod leads. What a change left half done (a
//! joint configuration, when the leader was lost) is finished by the next one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::error::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::{BasicNode, ChangeMembers};

use super::{CoordinatorLog, Core};
use crate::raft::RaftId;
use crate::raft::messages::{ELECT, ElectCall, Nothing, YIELD, YieldCall};

/// How long a change may take: two entries, each confirmed by the voters.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a successor may take to catch up, and to be elected.
const HAND_OVER_TIMEOUT: Duration = Duration::from_millis(1000);
/// One call of a hand-over. A voter that is down must not hold it up.
const HAND_OVER_CALL_TIMEOUT: Duration = Duration::from_millis(200);

/// The members of the log's cluster, as this pod knows them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// This pod.
    pub raft_id: RaftId,
    /// The voters; during a change, those it leads to.
    pub voters: BTreeSet<RaftId>,
    /// During a change (a joint configuration): the voters before it.
    pub voters_before: Option<BTreeSet<RaftId>>,
    /// Members that don't vote.
    pub learners: BTreeSet<RaftId>,
    /// Every member's address in the log.
    pub addresses: BTreeMap<RaftId, String>,
    /// Whether these members are those of an applied entry: else a change is under way.
    pub settled: bool,
    /// The leader, as far as known.
    pub leader: Option<RaftId>,
    /// Raft's term.
    pub term: u64,
    /// The last entry in this pod's log.
    pub last_log: Option<u64>,
    /// The last entry applied here.
    pub applied: Option<u64>,
    /// While this pod leads: up to which entry each member's log is known to be like its own.
    pub progress: Option<BTreeMap<RaftId, u64>>,
}

/// Who leads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The leader, as far as known.
    pub leader: Option<RaftId>,
    /// Raft's term.
    pub term: u64,
    /// Whether it is this pod.
    pub here: bool,
}

/// Why the members did not change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// Only the leader changes members.
    #[error("this pod does not lead the coordinator log")]
    NotLeading,
    /// Another change is not committed yet.
    #[error("another change of members is under way")]
    Busy,
    /// The leader can't leave: it hands over its leadership first.
    #[error("the leader can't be removed from the voters")]
    LeaderStays,
    /// Not a member, so not to be made a voter.
    #[error("raft id {0} is no member")]
    NoMember(RaftId),
    /// A voter is made a learner before it is removed.
    #[error("raft id {0} is a voter")]
    IsVoter(RaftId),
    /// Refused for another reason.
    #[error("members not changed: {0}")]
    Refused(String),
    /// Not confirmed: the change may take effect, or stop half done.
    #[error("change of members not confirmed within {0:?}")]
    Unconfirmed(Duration),
}

/// Why the leadership stayed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandOverError {
    /// This pod doesn't lead.
    #[error("this pod does not lead the coordinator log")]
    NotLeading,
    /// No other voter could take it.
    #[error("no other voter is caught up")]
    NoSuccessor,
    /// Nobody was elected in time; an election may be under way.
    #[error("no successor was elected within {0:?}")]
    NotElected(Duration),
}

impl Core {
    pub(super) fn members(&self) -> Members {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let stored = &metrics.membership_config;
        let membership = stored.membership();
        let configurations = membership.get_joint_config();
        let voters_before = match configurations.as_slice() {
            [before, _, ..] => Some(before.clone()),
            _ => None,
        };
        let nodes = membership.nodes();
        Members {
            raft_id: self.raft_id,
            voters: configurations.last().cloned().unwrap_or_default(),
            voters_before,
            learners: membership.learner_ids().collect(),
            addresses: nodes.map(|(id, node)| (*id, node.addr.clone())).collect(),
            settled: metrics.last_applied.as_ref() >= stored.log_id().as_ref(),
            leader: metrics.current_leader,
            term: metrics.current_term,
            last_log: metrics.last_log_index,
            applied: metrics.last_applied.map(|id| id.index),
            progress: metrics.replication.as_ref().map(|progress| {
                progress.iter().map(|(id, at)| (*id, at.map_or(0, |at| at.index))).collect()
            }),
        }
    }

    async fn change(
        &self,
        change: impl Into<ChangeMembers<RaftId, BasicNode>>,
    ) -> Result<(), ChangeError> {
        let changing = self.raft.change_membership(change, true);
        match tokio::time::timeout(CHANGE_TIMEOUT, changing).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_)))) => {
                Err(ChangeError::NotLeading)
            }
            Ok(Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(error)))) => {
                Err(match error {
                    ChangeMembershipError::InProgress(_) => ChangeError::Busy,
                    ChangeMembershipError::LearnerNotFound(error) => {
                        ChangeError::NoMember(error.node_id)
                    }
                    other => ChangeError::Refused(other.to_string()),
                })
            }
            Ok(Err(error)) => Err(ChangeError::Refused(error.to_string())),
            Err(_) => Err(ChangeError::Unconfirmed(CHANGE_TIMEOUT)),
        }
    }

    fn leading(&self) -> Result<Members, ChangeError> {
        let members = self.members();
        if members.leader == Some(self.raft_id) {
            Ok(members)
        } else {
            Err(ChangeError::NotLeading)
        }
    }

    /// The voter that is furthest, other than this pod.
    fn successor(&self, members: &Members) -> Option<RaftId> {
        let progress = members.progress.as_ref()?;
        let others = members.voters.iter().filter(|voter| **voter != self.raft_id);
        others.max_by_key(|voter| progress.get(voter).copied()).copied()
    }

    /// Waits until `successor` has all of this pod's log, and this pod has applied it.
    async fn caught_up(&self, successor: RaftId) {
        let mut metrics = self.raft.metrics();
        let caught_up = metrics.wait_for(|now| {
            let progress = now.replication.as_ref().and_then(|progress| progress.get(&successor));
            let matching = progress.copied().flatten().map(|at| at.index);
            now.running_state.is_err()
                || now.current_leader != Some(self.raft_id)
                || (matching >= now.last_log_index
                    && now.last_applied.map(|at| at.index) >= now.last_log_index)
        });
        let _ = caught_up.await;
    }
}

impl CoordinatorLog {
    /// The members of the log's cluster, as this pod knows them.
    pub fn members(&self) -> Members {
        self.core.members()
    }

    /// Who leads, now and from now on.
    pub fn leadership(&self) -> tokio::sync::watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    /// Adds a member that doesn't vote, or notes a member's new address. It gets the whole log,
    /// or a snapshot, in the background.
    ///
    /// # Errors
    /// See [`ChangeError`].
    pub async fn add_learner(&self, raft_id: RaftId, address: &str) -> Result<(), ChangeError> {
        let members = self.core.leading()?;
        if members.addresses.get(&raft_id).is_some_and(|known| known == address) {
            return Ok(());
        }
        let node = BTreeMap::from([(raft_id, BasicNode::new(address))]);
        self.core.change(ChangeMembers::SetNodes(node)).await
    }

    /// Makes `voters`, who must be members, the voters. Those who were and aren't any more
    /// become learners. Also finishes what an earlier change left half done.
    ///
    /// # Errors
    /// See [`ChangeError`].
    pub async fn set_voters(&self, voters: BTreeSet<RaftId>) -> Result<(), ChangeError> {
        self.core.leading()?;
        if !voters.contains(&self.core.raft_id) {
            return Err(ChangeError::LeaderStays);
        }
        self.core.change(ChangeMembers::ReplaceAllVoters(voters)).await
    }

    /// Removes a learner. It keeps its state, hears nothing any more, and can be added again.
    ///
    /// # Errors
    /// See [`ChangeError`].
    pub async fn remove(&self, raft_id: RaftId) -> Result<(), ChangeError> {
        let members = self.core.leading()?;
        let before = members.voters_before.unwrap_or_default();
        if members.voters.contains(&raft_id) || before.contains(&raft_id) {
            return Err(ChangeError::IsVoter(raft_id));
        }
        if !members.learners.contains(&raft_id) {
            return Ok(());
        }
        self.core.change(ChangeMembers::RemoveNodes(BTreeSet::from([raft_id]))).await
    }

    /// Hands the leadership to `successor`, or to the voter that is furthest; who leads then.
    /// Proposals wait meanwhile and fail no more than they would have. Takes a few round trips.
    ///
    /// # Errors
    /// See [`HandOverError`].
    pub async fn hand_over_leadership(
        &self,
        successor: Option<RaftId>,
    ) -> Result<RaftId, HandOverError> {
        let core = &self.core;
        let members = core.leading().map_err(|_| HandOverError::NotLeading)?;
        let successor = successor
            .filter(|id| members.voters.contains(id) && *id != core.raft_id)
            .or_else(|| core.successor(&members))
            .ok_or(HandOverError::NoSuccessor)?;
        // No entry of a proposal is under way while this is held, and none begins.
        let turn = core.turn.lock().await;
        let caught_up = tokio::time::timeout(HAND_OVER_TIMEOUT, core.caught_up(successor)).await;
        caught_up.map_err(|_| HandOverError::NoSuccessor)?;
        let members = core.leading().map_err(|_| HandOverError::NotLeading)?;
        let (term, address) =
            (members.term, |id: &RaftId| members.addresses.get(id).cloned().unwrap_or_default());
        let others = members.voters.iter().filter(|id| **id != core.raft_id && **id != successor);
        let yields = others.map(|voter| async {
            let (voter, address) = (*voter, address(voter));
            let call = YieldCall { term, successor };
            let target = (voter, address.as_str());
            core.network.call::<_, Nothing>(target, YIELD, call, HAND_OVER_CALL_TIMEOUT).await
        });
        for refused in futures::future::join_all(yields).await.into_iter().filter_map(Result::err) {
            // A majority of the others is enough; else an election follows.
            tracing::warn!(error = %refused, "a voter did not hear of the hand-over");
        }
        let forgot = core.forget_leader(term, successor).await;
        forgot.map_err(|_| HandOverError::NotLeading)?;
        // What waits here is refused or forwarded from now on.
        drop(turn);
        let home = address(&successor);
        let target = (successor, home.as_str());
        let call = ElectCall { term };
        let asked = core.network.call::<_, Nothing>(target, ELECT, call, HAND_OVER_CALL_TIMEOUT);
        if let Err(error) = asked.await {
            tracing::warn!(%successor, %error, "the successor did not hear of the hand-over");
        }
        let mut metrics = core.raft.metrics();
        let elected = metrics.wait_for(|now| now.current_leader.is_some());
        match tokio::time::timeout(HAND_OVER_TIMEOUT, elected).await {
            Ok(Ok(now)) => now.current_leader,
            Ok(Err(_)) | Err(_) => None,
        }
        .ok_or(HandOverError::NotElected(HAND_OVER_TIMEOUT))
    }
}
