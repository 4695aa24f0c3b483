//! The membership role: gives roles to pods, and changes who belongs to the coordinator log.
//!
//! Runs on every pod and works on the one that leads the coordinator log, under an epoch of its
//! own: a leader that was replaced without knowing it is refused. Owns: nothing that is not in
//! the log; what it knows of the pods is the gossip's. Nobody sends to it but its timer and the
//! view of the peers. A restart takes a new epoch.
//!
//! Rules (`plan_roles`): a role whose pod is dead, or about to leave, goes to the pod that
//! rendezvous names among the living; when the living have been the same for a while, roles
//! move one by one to where rendezvous wants them. Members of the log are changed one at a time, as
//! [`plan_membership`] says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use miroir_storage::commands::{Command, Outcome, RoleFence};
use miroir_storage::ids::{Epoch, PodId};
use miroir_storage::log::{Change, Members, PodsSeen, ProposeError, plan_membership};
use miroir_storage::raft::RaftId;
use miroir_storage::tables::ApplyError;
use miroir_storage::tables::roles::{self, MEMBERSHIP, REBALANCER, REGISTRAR, writer_role};
use ractor::ActorProcessingErr;
use tokio::time::Instant;

use crate::inspect::{Actor, Address};
use crate::leave::RETIRING;
use crate::peers::Peers;
use crate::pod::PodContext;

/// Between rounds; a change of the peers begins one at once.
const INTERVAL: Duration = Duration::from_millis(500);
/// After this a pod that was never seen counts as dead: after a restart of everybody, gossip
/// needs a moment to find them.
const UNSEEN_MAX: Duration = Duration::from_secs(10);
/// Pods must have lived this long before roles move to where rendezvous wants them.
const SETTLED_AFTER: Duration = Duration::from_secs(10);
/// Roles moved in one round for the sake of balance: each costs its index a moment.
const MOVED_MAX: usize = 2;

/// What the coordinator is told.
#[derive(Debug)]
pub enum CoordinatorMessage {
    /// Time for a round.
    Round,
    /// A round ended (from the coordinator's own task).
    Ended(Box<Term>),
}

/// What the coordinator keeps while it leads.
#[derive(Clone, Debug, Default)]
pub struct Term {
    /// The epoch it works under, while this pod leads.
    epoch: Option<Epoch>,
    /// Since when members of the log have not been alive.
    gone_since: BTreeMap<RaftId, Instant>,
}

/// The coordinator actor.
#[derive(Debug)]
pub struct Coordinator;

/// The coordinator's state.
#[derive(Debug)]
pub struct CoordinatorState {
    pod: Arc<PodContext>,
    term: Term,
    started: Instant,
}

#[ractor::async_trait]
impl Actor for Coordinator {
    type Msg = CoordinatorMessage;
    type State = CoordinatorState;
    type Arguments = Arc<PodContext>;

    const KIND: &'static str = "Coordinator";

    async fn pre_start(
        &self,
        myself: Address<CoordinatorMessage>,
        pod: Arc<PodContext>,
    ) -> Result<CoordinatorState, ActorProcessingErr> {
        myself.cast(CoordinatorMessage::Round)?;
        let started = pod.seams.clock.instant();
        Ok(CoordinatorState { pod, term: Term::default(), started })
    }

    async fn handle(
        &self,
        myself: Address<CoordinatorMessage>,
        message: CoordinatorMessage,
        state: &mut CoordinatorState,
    ) -> Result<(), ActorProcessingErr> {
        let pod = state.pod.clone();
        match message {
            CoordinatorMessage::Round => {
                let (mut term, started) = (std::mem::take(&mut state.term), state.started);
                pod.seams.tasks.clone().spawn("coordinator round", async move {
                    if let Err(error) = round(&pod, &mut term, started).await {
                        tracing::warn!(%error, "roles could not be looked after, trying again");
                        term.epoch = None;
                    }
                    let _stopped = myself.cast(CoordinatorMessage::Ended(Box::new(term)));
                });
            }
            CoordinatorMessage::Ended(term) => {
                state.term = *term;
                let mut changes = pod.peers.changes();
                pod.seams.tasks.clone().spawn("coordinator pace", async move {
                    tokio::select! {
                        biased;
                        _ = changes.changed() => {}
                        () = pod.seams.clock.sleep(INTERVAL) => {}
                    }
                    let _stopped = myself.cast(CoordinatorMessage::Round);
                });
            }
        }
        Ok(())
    }
}

/// Why a round ended early; the next one begins anew.
#[derive(Debug, thiserror::Error)]
enum RoundError {
    #[error(transparent)]
    Log(#[from] ProposeError),
    #[error(transparent)]
    State(#[from] ApplyError),
}

/// One round, if this pod leads.
async fn round(pod: &PodContext, term: &mut Term, started: Instant) -> Result<(), RoundError> {
    if !pod.leads() {
        *term = Term::default();
        return Ok(());
    }
    let epoch = match term.epoch {
        Some(epoch) => epoch,
        None => {
            let take = Command::TakeEpoch { role: MEMBERSHIP.to_owned(), pod: pod.id.clone() };
            match pod.log.propose(&take).await? {
                Outcome::Epoch(epoch) => epoch,
                _ => return Ok(()),
            }
        }
    };
    term.epoch = Some(epoch);
    let fence = RoleFence { role: MEMBERSHIP.to_owned(), epoch };
    let holders = holders(pod)?;
    let now = pod.seams.clock.instant();
    // Side by side, so that they share entries of the log.
    let given =
        plan_roles(&holders, &pod.peers.now(), started, now).into_iter().map(|(role, to)| {
            let before = holders.get(&role).cloned().flatten().map(|pod| pod.0);
            tracing::info!(role, pod = %to, before, "giving a role to a pod");
            let assign = Command::AssignRole { fence: fence.clone(), role, pod: to };
            async move { pod.log.propose(&assign).await }
        });
    for answer in futures::future::join_all(given).await {
        if let Outcome::Fenced { .. } = answer? {
            term.epoch = None;
            return Ok(());
        }
    }
    look_after_members(pod, term, now).await;
    Ok(())
}

/// Makes the change of the log's members that is due, if any.
async fn look_after_members(pod: &PodContext, term: &mut Term, now: Instant) {
    let members = pod.log.members();
    let seen = pods_seen(&pod.peers.now(), &members, &mut term.gone_since, now);
    let Some(change) = plan_membership(&seen, &members, now, pod.config.pod_grace) else { return };
    tracing::info!(?change, "changing the members of the coordinator log");
    let made = match change {
        Change::AddLearner { raft_id, address } => pod.log.add_learner(raft_id, &address).await,
        Change::SetVoters(voters) => pod.log.set_voters(voters).await,
        Change::Remove(raft_id) => pod.log.remove(raft_id).await,
        // A pod that is to leave gives up the leadership first, and says so later.
        Change::HandOver { successor } => {
            if let Err(error) = pod.log.hand_over_leadership(Some(successor)).await {
                tracing::warn!(%error, "leadership of the log was not handed over, trying again");
            }
            Ok(())
        }
    };
    if let Err(error) = made {
        tracing::warn!(%error, "members of the coordinator log could not be changed, trying again");
    }
}

/// The pods as the log's members are to be judged by.
fn pods_seen(
    peers: &Peers,
    members: &Members,
    gone_since: &mut BTreeMap<RaftId, Instant>,
    now: Instant,
) -> PodsSeen {
    let alive = peers.known.values().filter(|pod| pod.alive);
    let live: BTreeMap<RaftId, String> =
        alive.filter_map(|pod| Some((pod.raft_id?, pod.peer_address.clone()))).collect();
    let all = members.voters.iter().chain(&members.learners);
    let gone: BTreeSet<RaftId> =
        all.filter(|id| **id != members.raft_id && !live.contains_key(*id)).copied().collect();
    gone_since.retain(|id, _| gone.contains(id));
    for id in gone {
        gone_since.entry(id).or_insert(now);
    }
    let retiring = peers.known.values().filter(|pod| pod.values.contains_key(RETIRING));
    let leaving = retiring.filter_map(|pod| pod.raft_id).collect();
    PodsSeen { live, gone_since: gone_since.clone(), leaving }
}

/// Every role that this actor gives, with its holder.
fn holders(pod: &PodContext) -> Result<BTreeMap<String, Option<PodId>>, ApplyError> {
    let routing = pod.log.routing();
    let known = roles::all(pod.log.engine().as_ref())?;
    let single = [REGISTRAR, REBALANCER].map(|role| {
        let holder = known.get(role).map(|role| role.holder.clone());
        (role.to_owned(), holder)
    });
    let writers =
        routing.by_uid.iter().map(|(uid, index)| (writer_role(uid), Some(index.writer.clone())));
    Ok(writers.chain(single).collect())
}

/// The roles to give, and to whom. `started`: since when the peers have been listened to.
fn plan_roles(
    holders: &BTreeMap<String, Option<PodId>>,
    peers: &Peers,
    started: Instant,
    now: Instant,
) -> Vec<(String, PodId)> {
    let is_settled =
        peers.live.values().all(|peer| now.saturating_duration_since(peer.since) >= SETTLED_AFTER);
    let heard_all = now.saturating_duration_since(started) >= UNSEEN_MAX;
    let candidates: BTreeSet<&PodId> = peers.candidates().collect();
    let mut moved = 0;
    let mut given = Vec::new();
    for (role, holder) in holders {
        let Some(best) = peers.owner_of(role) else { continue };
        let give = match holder {
            None => true,
            Some(holder) if holder == best => false,
            Some(holder) if candidates.contains(holder) => {
                moved += 1;
                is_settled && moved <= MOVED_MAX
            }
            Some(holder) => peers.seen.contains(holder) || heard_all,
        };
        if give {
            given.push((role.clone(), best.clone()));
        }
    }
    given
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::Peer;

    fn now_in_test() -> Instant {
        miroir_seams::Clock::simulated().instant()
    }

    fn peers(pods: &[&str], since: Instant) -> Peers {
        let peer = Peer { address: String::new(), since, leaving: false };
        let live: BTreeMap<PodId, Peer> =
            pods.iter().map(|pod| (PodId::from(*pod), peer.clone())).collect();
        Peers { seen: live.keys().cloned().collect(), live, copies: 2, ..Peers::default() }
    }

    fn roles(count: usize, holder: &str) -> BTreeMap<String, Option<PodId>> {
        (0..count).map(|n| (format!("writer/{n}"), Some(PodId::from(holder)))).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn roles_of_the_dead_go_to_the_living_at_once() {
        let now = now_in_test();
        let mut seen = peers(&["a", "b"], now);
        seen.seen.insert(PodId::from("dead"));
        let given = plan_roles(&roles(30, "dead"), &seen, now, now);
        assert_eq!(given.len(), 30);
        assert!(given.iter().all(|(_, pod)| seen.live.contains_key(pod)));
        // One that may only not have been heard of yet keeps its roles for a while.
        let unseen = roles(30, "late");
        assert!(plan_roles(&unseen, &seen, now, now).is_empty());
        assert_eq!(plan_roles(&unseen, &seen, now, now + UNSEEN_MAX).len(), 30);
    }

    #[tokio::test(start_paused = true)]
    async fn balance_waits_until_the_pods_have_settled() {
        let now = now_in_test();
        let pods = peers(&["a", "b", "c"], now);
        let holders = roles(30, "a");
        assert!(plan_roles(&holders, &pods, now, now).is_empty());
        let moved = plan_roles(&holders, &pods, now, now + SETTLED_AFTER);
        assert_eq!(moved.len(), MOVED_MAX);
        let mut leaving = pods.clone();
        for peer in leaving.live.iter_mut().filter(|(pod, _)| pod.as_str() == "a") {
            peer.1.leaving = true;
        }
        assert_eq!(plan_roles(&holders, &leaving, now, now).len(), 30);
    }
}
