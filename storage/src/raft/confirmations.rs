//! How fresh this pod's state is, by monotonic clocks alone.
//!
//! ```text
//!  leader                                   follower
//!    |  append ─────────────────────────────>  |
//!    |  <───────────────── answer, stamp s     |  s: this pod's clock
//!    |  append, echo of s, age a ───────────>  |
//! ```
//!
//! The second append was sent after `s`, and the leader had been confirmed by a quorum at most
//! `a` before it was sent. So once this pod has applied what the leader had committed, its state
//! is no older than `s - a`, however long the message lay in a buffer of a pod that was stopped.
//! A leader that lost its quorum can't keep its followers fresh, since `a` grows.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use openraft::{BasicNode, RaftMetrics};
use tokio::sync::watch;
use tokio::time::Instant;

use miroir_seams::Seams;

use super::messages::Stamp;
use super::{Applied, RaftId};

/// Appends whose commit position isn't applied yet; the oldest are kept, so that a pod that is
/// always a little behind is confirmed nevertheless.
const PENDING_MAX: usize = 16;

/// Proof of freshness, of this pod and, while it leads, of its followers.
#[derive(Debug)]
pub(crate) struct Confirmations {
    raft_id: RaftId,
    seams: Seams,
    begun: Instant,
    life: OnceLock<u64>,
    applied: Arc<Applied>,
    metrics: OnceLock<watch::Receiver<RaftMetrics<RaftId, BasicNode>>>,
    peers: Mutex<BTreeMap<RaftId, Peer>>,
    following: Mutex<Following>,
}

#[derive(Debug, Default)]
struct Peer {
    /// The stamp of its last answer.
    stamp: Option<Stamp>,
    /// When the last append that it obeyed was sent.
    obeyed: Option<Instant>,
}

#[derive(Debug, Default)]
struct Following {
    confirmed: Option<Instant>,
    /// (position to be applied, what this pod is then as fresh as); both only rise.
    pending: VecDeque<(u64, Instant)>,
}

impl Following {
    fn settle(&mut self, applied: u64) {
        while let Some((position, at)) = self.pending.front().copied()
            && position <= applied
        {
            self.confirmed = self.confirmed.max(Some(at));
            self.pending.pop_front();
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Confirmations {
    pub(crate) fn new(raft_id: RaftId, seams: Seams, applied: Arc<Applied>) -> Self {
        let begun = seams.clock.instant();
        Self {
            raft_id,
            seams,
            begun,
            life: OnceLock::new(),
            applied,
            metrics: OnceLock::new(),
            peers: Mutex::default(),
            following: Mutex::default(),
        }
    }

    /// To be called once Raft runs.
    pub(crate) fn attach(&self, metrics: watch::Receiver<RaftMetrics<RaftId, BasicNode>>) {
        let _ = self.metrics.set(metrics);
    }

    pub(crate) fn now(&self) -> Instant {
        self.seams.clock.instant()
    }

    /// A random number of this life of the pod. Drawn when a peer is first spoken to.
    pub(crate) fn life(&self) -> u64 {
        *self.life.get_or_init(|| self.seams.entropy.next_u64())
    }

    /// What an append to `target` carries: its last stamp, and how old the leader's own
    /// confirmation is, in milliseconds.
    pub(crate) fn before_append(&self, target: RaftId) -> (Option<Stamp>, Option<u64>) {
        let echo = locked(&self.peers).get(&target).and_then(|peer| peer.stamp);
        let confirmed = self.as_leader().flatten();
        self.remember(confirmed);
        let age = confirmed.map(|at| self.now().saturating_duration_since(at));
        (echo, age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX).saturating_add(1)))
    }

    /// `obeyed` is when the append was sent, if the peer took this pod for the leader.
    pub(crate) fn after_append(&self, target: RaftId, stamp: Stamp, obeyed: Option<Instant>) {
        let mut peers = locked(&self.peers);
        let peer = peers.entry(target).or_default();
        peer.stamp = Some(stamp);
        peer.obeyed = peer.obeyed.max(obeyed);
    }

    /// This pod took an append of the leader, whose log was committed up to `committed`.
    pub(crate) fn appended(&self, committed: u64, echo: Option<Stamp>, confirmed_ms: Option<u64>) {
        let (Some(echo), Some(age)) = (echo, confirmed_ms) else { return };
        if echo.life != self.life() {
            return;
        }
        let sent = self.begun.checked_add(Duration::from_micros(echo.micros));
        let at = sent.and_then(|sent| sent.checked_sub(Duration::from_millis(age)));
        let Some(at) = at.filter(|at| *at <= self.now()) else { return };
        let mut following = locked(&self.following);
        following.settle(self.applied.index());
        if following.pending.len() < PENDING_MAX {
            following.pending.push_back((committed, at));
            following.settle(self.applied.index());
        }
    }

    /// The stamp for an answer.
    pub(crate) fn stamp(&self) -> Stamp {
        let since = self.now().saturating_duration_since(self.begun);
        Stamp { life: self.life(), micros: u64::try_from(since.as_micros()).unwrap_or(u64::MAX) }
    }

    /// When this pod's state was last known to be the newest; `None` when it never was.
    pub(crate) fn confirmed(&self) -> Option<Instant> {
        self.remember(self.as_leader().flatten());
        let mut following = locked(&self.following);
        following.settle(self.applied.index());
        following.confirmed
    }

    /// A leader that steps down is as fresh as it was, and so is a follower that begins to lead.
    fn remember(&self, as_leader: Option<Instant>) {
        let mut following = locked(&self.following);
        following.confirmed = following.confirmed.max(as_leader);
    }

    /// `None` when this pod doesn't lead; else when a quorum of voters last obeyed.
    fn as_leader(&self) -> Option<Option<Instant>> {
        let metrics = self.metrics.get()?.borrow();
        if metrics.current_leader != Some(self.raft_id) {
            return None;
        }
        let peers = locked(&self.peers);
        let configurations = metrics.membership_config.membership().get_joint_config().iter();
        let quorums = configurations.map(|voters| {
            let mut obeyed: Vec<Option<Instant>> = voters
                .iter()
                .map(|voter| {
                    if *voter == self.raft_id {
                        Some(self.now())
                    } else {
                        peers.get(voter).and_then(|peer| peer.obeyed)
                    }
                })
                .collect();
            obeyed.sort_unstable();
            // The newest time at or after which a majority obeyed.
            obeyed.get(obeyed.len().saturating_sub(1) / 2).copied().flatten()
        });
        Some(quorums.min().flatten())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use openraft::{Membership, StoredMembership};

    use super::*;
    use crate::engine::MemoryEngine;
    use crate::raft::{StateMachine, Store};
    use crate::tables::ApplyError;

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_steps_down_is_as_fresh_as_it_was() -> Result<(), ApplyError> {
        let seams = Seams::seeded(1);
        let store = Store::new(Arc::new(MemoryEngine::new()), seams.tasks.clone());
        let applied = StateMachine::open(store)?.applied();
        let pod = Confirmations::new(RaftId(2), seams.clone(), applied);
        let voters = BTreeSet::from([RaftId(1), RaftId(2), RaftId(3)]);
        let mut metrics = RaftMetrics::new_initial(RaftId(2));
        metrics.current_leader = Some(RaftId(2));
        metrics.membership_config =
            Arc::new(StoredMembership::new(None, Membership::new(vec![voters], ())));
        let (tell, told) = watch::channel(metrics);
        pod.attach(told);
        let obeyed = pod.now();
        pod.after_append(RaftId(1), pod.stamp(), Some(obeyed));
        assert_eq!(pod.confirmed(), Some(obeyed));
        tell.send_modify(|metrics| metrics.current_leader = None);
        assert_eq!(pod.confirmed(), Some(obeyed), "what it knew it knows still");
        Ok(())
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_was_late_confirms_only_what_it_saw() -> Result<(), ApplyError> {
        let seams = Seams::seeded(1);
        let store = Store::new(Arc::new(MemoryEngine::new()), seams.tasks.clone());
        let applied = StateMachine::open(store)?.applied();
        let follower = Confirmations::new(RaftId(2), seams.clone(), applied);
        follower.appended(0, None, Some(1));
        assert_eq!(follower.confirmed(), None, "nothing says when that was sent");
        let stamp = follower.stamp();
        let stamped = follower.now();
        // The leader's next append waits for this long before this pod reads it.
        seams.clock.sleep(Duration::from_secs(10)).await;
        follower.appended(0, Some(stamp), Some(5));
        assert_eq!(follower.confirmed(), stamped.checked_sub(Duration::from_millis(5)));
        // Of an earlier life; of a leader without a quorum; of more than is applied here.
        let fresh = follower.stamp();
        follower.appended(0, Some(Stamp { life: fresh.life ^ 1, ..fresh }), Some(1));
        follower.appended(0, Some(fresh), None);
        follower.appended(1, Some(fresh), Some(1));
        assert_eq!(follower.confirmed(), stamped.checked_sub(Duration::from_millis(5)));
        Ok(())
    }
}
