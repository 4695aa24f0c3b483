//! Which change of members is due: a pure rule, asked again after every change.
//!
//! - At most [`VOTERS_MAX`] voters, always an odd number; all others are learners.
//! - Only a learner that has caught up is promoted.
//! - Nothing is planned while a change is under way, except to finish one that stopped half done.
//! - A change is planned only if the pods that are alive are a majority of the voters before and
//!   after it.
//! - A voter that is gone keeps its place for [`REPLACE_AFTER`]; then a learner may take it. If
//!   there is none, it stays until the grace time has passed.
//! - A pod gone for longer than the grace time is removed, a leaving one at once: voters are
//!   replaced or, when nobody can take over, become fewer, and are removed as learners.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::Members;
use crate::raft::RaftId;

/// The most voters: more make every entry slower, and five survive two losses.
pub const VOTERS_MAX: usize = 5;
/// A learner that lacks at most so many entries is caught up: it gets them in one message.
const CAUGHT_UP_ENTRIES: u64 = 256;
/// How long a gone voter's place is kept for it: longer than a restart.
const REPLACE_AFTER: Duration = Duration::from_secs(15);

/// The pods as gossip shows them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodsSeen {
    /// Pods that are alive, with the addresses where peers reach them.
    pub live: BTreeMap<RaftId, String>,
    /// Since when pods are gone. A member that is neither here nor alive counts as just gone.
    pub gone_since: BTreeMap<RaftId, Instant>,
    /// Pods that are to leave the cluster, alive or not.
    pub leaving: BTreeSet<RaftId>,
}

/// One change of members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Add a pod as a learner, or note its new address.
    AddLearner {
        /// Who.
        raft_id: RaftId,
        /// Where peers reach it.
        address: String,
    },
    /// Make these the voters.
    SetVoters(BTreeSet<RaftId>),
    /// Remove a learner.
    Remove(RaftId),
    /// This pod is to leave: another voter must lead first.
    HandOver {
        /// A voter that has caught up.
        successor: RaftId,
    },
}

/// The change that is due, in the eyes of the leader; `None` when there is none, or this pod
/// doesn't lead.
pub fn plan_membership(
    pods: &PodsSeen,
    members: &Members,
    now: Instant,
    grace: Duration,
) -> Option<Change> {
    if members.leader != Some(members.raft_id) || !members.settled {
        return None;
    }
    let view = View { pods, members, now, grace };
    if members.voters_before.is_some() {
        // Stopped half done by a leader that was lost.
        let mut voters = members.voters.clone();
        voters.insert(members.raft_id);
        return view.can_vote(&voters).then_some(Change::SetVoters(voters));
    }
    view.next_addition()
        .or_else(|| view.next_voters())
        .or_else(|| view.hand_over())
        .or_else(|| view.next_removal())
}

struct View<'a> {
    pods: &'a PodsSeen,
    members: &'a Members,
    now: Instant,
    grace: Duration,
}

impl View<'_> {
    /// Alive: this pod always is.
    fn is_live(&self, id: RaftId) -> bool {
        id == self.members.raft_id || self.pods.live.contains_key(&id)
    }

    fn gone_for(&self, id: RaftId) -> Duration {
        match self.pods.gone_since.get(&id) {
            Some(since) if !self.is_live(id) => self.now.saturating_duration_since(*since),
            _ => Duration::ZERO,
        }
    }

    fn leaves(&self, id: RaftId) -> bool {
        self.pods.leaving.contains(&id)
    }

    fn is_caught_up(&self, id: RaftId) -> bool {
        let last = self.members.last_log.unwrap_or(0);
        let matching = self.members.progress.as_ref().and_then(|progress| progress.get(&id));
        matching.is_some_and(|matching| matching + CAUGHT_UP_ENTRIES >= last)
    }

    fn majority_is_live(&self, voters: &BTreeSet<RaftId>) -> bool {
        2 * voters.iter().filter(|id| self.is_live(**id)).count() > voters.len()
    }

    /// Whether the cluster can decide with `voters`, and can decide on them.
    fn can_vote(&self, voters: &BTreeSet<RaftId>) -> bool {
        let before = self.members.voters_before.as_ref().unwrap_or(&self.members.voters);
        self.majority_is_live(before)
            && self.majority_is_live(&self.members.voters)
            && self.majority_is_live(voters)
    }

    fn next_addition(&self) -> Option<Change> {
        let moved = self.pods.live.iter().find(|(id, address)| {
            !self.leaves(**id) && self.members.addresses.get(id) != Some(*address)
        });
        let (raft_id, address) = moved?;
        Some(Change::AddLearner { raft_id: *raft_id, address: address.clone() })
    }

    /// How much a member deserves to vote; smaller is better. `None`: not at all.
    fn rank(&self, id: RaftId) -> Option<u8> {
        let (votes, live) = (self.members.voters.contains(&id), self.is_live(id));
        if id == self.members.raft_id {
            // A leader can't leave before it has handed over.
            return Some(0);
        }
        if self.leaves(id) || self.gone_for(id) > self.grace {
            return None;
        }
        match (votes, live) {
            (true, true) => Some(1),
            (true, false) if self.gone_for(id) < REPLACE_AFTER => Some(2),
            (false, true) => self.is_caught_up(id).then_some(3),
            (true, false) => Some(4),
            (false, false) => None,
        }
    }

    fn next_voters(&self) -> Option<Change> {
        let known = self.members.voters.union(&self.members.learners);
        let mut ranked: Vec<(u8, RaftId)> =
            known.filter_map(|id| Some((self.rank(*id)?, *id))).collect();
        ranked.sort_unstable();
        let count = ranked.len().min(VOTERS_MAX);
        // The largest odd number that isn't more.
        let count = if count.is_multiple_of(2) { count.saturating_sub(1) } else { count };
        let voters: BTreeSet<RaftId> = ranked.into_iter().take(count).map(|(_, id)| id).collect();
        (voters != self.members.voters && self.can_vote(&voters))
            .then_some(Change::SetVoters(voters))
    }

    fn hand_over(&self) -> Option<Change> {
        if !self.leaves(self.members.raft_id) {
            return None;
        }
        let fit = |id: &RaftId| {
            *id != self.members.raft_id
                && !self.leaves(*id)
                && self.is_live(*id)
                && self.is_caught_up(*id)
        };
        let successor = self.members.voters.iter().copied().find(fit)?;
        Some(Change::HandOver { successor })
    }

    fn next_removal(&self) -> Option<Change> {
        let due = |id: &RaftId| self.leaves(*id) || self.gone_for(*id) > self.grace;
        let learner = self.members.learners.iter().copied().find(due)?;
        Some(Change::Remove(learner))
    }
}

#[cfg(test)]
mod tests;
