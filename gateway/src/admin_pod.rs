//! The admin API of a pod: what it knows of the others, and what they say when they are asked.
//!
//! | answer | from |
//! |---|---|
//! | pods | gossip's view, and the members of the coordinator log; this pod, too, when it is alone |
//! | roles | the log as this pod has applied it |
//! | actors | each pod's own inventory, asked for side by side, 2 s at most |
//!
//! Works without a quorum: only a restart of a writer needs the log afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use miroir_actors::inspect::{ActorReport, ActorState};
use miroir_actors::leave::LeaveRefusal;
use miroir_actors::peer_service::{RestartReply, actors_of, leave_of, restart_on};
use miroir_actors::peers::KnownPod;
use miroir_actors::pod::PodContext;
use miroir_storage::ids::PodId;
use miroir_storage::log::Members;
use miroir_storage::raft::RaftId;
use miroir_storage::routing::from_nanoseconds;
use miroir_storage::tables::roles::{self, writer_role};

use crate::admin::{
    ActorView, ActorsAnswer, AdminError, AdminSource, LeaveAnswer, PeerView, PeersAnswer,
    PodActors, RestartAnswer, RoleView,
};
use crate::traffic::Traffic;

/// Answers operators for a pod and, through it, for the cluster.
#[derive(Clone, Debug)]
pub struct PodAdmin {
    pub(crate) pod: Arc<PodContext>,
    /// What its gateway counts.
    pub(crate) traffic: Arc<Traffic>,
}

impl PodAdmin {
    /// The admin API of `pod`, whose gateway counts in `traffic`.
    pub fn new(pod: Arc<PodContext>, traffic: Arc<Traffic>) -> Self {
        Self { pod, traffic }
    }

    /// Every pod that can be asked for, this one among them.
    pub(crate) fn pods(&self) -> BTreeSet<PodId> {
        let peers = self.pod.peers.now();
        let others = peers.known.keys().chain(peers.live.keys());
        others.chain([&self.pod.id]).cloned().collect()
    }
}

/// Who belongs to the coordinator log, as far as this pod knows.
fn members(pod: &PodContext) -> Members {
    pod.log.members()
}

#[async_trait]
impl AdminSource for PodAdmin {
    async fn peers(&self) -> Result<PeersAnswer, AdminError> {
        let (pod, peers, members) = (&self.pod, self.pod.peers.now(), members(&self.pod));
        let now = pod.seams.clock.instant();
        let own_raft_id = members.raft_id;
        let mut known = peers.known.clone();
        // Without gossip, and until it has begun.
        let own = known.entry(pod.id.clone()).or_insert_with(|| KnownPod {
            raft_id: Some(own_raft_id),
            peer_address: String::new(),
            http_address: String::new(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            alive: true,
            since: peers.live.get(&pod.id).map_or(now, |own| own.since),
            starts: 0,
            values: BTreeMap::new(),
        });
        own.raft_id.get_or_insert(own_raft_id);
        let named: BTreeMap<RaftId, &PodId> =
            known.iter().filter_map(|(id, pod)| Some((pod.raft_id?, id))).collect();
        let leader = members.leader.map(|leader| match named.get(&leader) {
            Some(id) => id.to_string(),
            None => nameless(leader),
        });
        let mut pods: Vec<PeerView> = known
            .iter()
            .map(|(id, known)| {
                let has =
                    |ids: &BTreeSet<RaftId>| known.raft_id.is_some_and(|id| ids.contains(&id));
                PeerView {
                    id: id.to_string(),
                    raft_id: known.raft_id.map(|id| id.0.to_string()),
                    peer_address: known.peer_address.clone(),
                    http_address: known.http_address.clone(),
                    version: known.version.clone(),
                    alive: known.alive,
                    since: now.saturating_duration_since(known.since).as_secs(),
                    generation: known.starts,
                    voter: has(&members.voters),
                    learner: has(&members.learners),
                    is_self: *id == pod.id,
                    facts: known.values.clone(),
                }
            })
            .collect();
        // Members that gossip has never heard of, since this pod started.
        let unheard = members.voters.union(&members.learners).filter(|id| !named.contains_key(id));
        pods.extend(unheard.map(|id| PeerView {
            id: nameless(*id),
            raft_id: Some(id.0.to_string()),
            peer_address: members.addresses.get(id).cloned().unwrap_or_default(),
            http_address: String::new(),
            version: String::new(),
            alive: false,
            since: 0,
            generation: 0,
            voter: members.voters.contains(id),
            learner: members.learners.contains(id),
            is_self: false,
            facts: BTreeMap::new(),
        }));
        pods.sort_by(|a, b| a.id.cmp(&b.id));
        let cluster_id = Some(pod.log.routing().cluster_id.clone()).filter(|id| !id.is_empty());
        Ok(PeersAnswer { self_pod: pod.id.to_string(), cluster_id, leader, pods })
    }

    async fn roles(&self) -> Result<Vec<RoleView>, AdminError> {
        let pod = &self.pod;
        let peers = pod.peers.now();
        let given = roles::all(pod.log.engine().as_ref())
            .map_err(|error| AdminError::StateUnreadable(error.to_string()))?;
        let given = given.into_iter().map(|(role, given)| (role, (given.holder, given.epoch)));
        let routing = pod.log.routing();
        // Those that have not begun yet are named with their index.
        let mut all: BTreeMap<String, (PodId, _)> = routing
            .by_uid
            .iter()
            .map(|(uid, index)| (writer_role(uid), (index.writer.clone(), index.epoch)))
            .collect();
        all.extend(given);
        let is_alive = |holder: &PodId| *holder == pod.id || peers.live.contains_key(holder);
        let views = all.into_iter().map(|(role, (holder, epoch))| RoleView {
            role,
            alive: is_alive(&holder),
            holder: Some(holder.0),
            epoch: epoch.0,
        });
        Ok(views.collect())
    }

    async fn actors(&self, pod: Option<&str>) -> Result<ActorsAnswer, AdminError> {
        let mut pods = self.pods();
        if let Some(wanted) = pod {
            pods.retain(|pod| pod.as_str() == wanted);
            if pods.is_empty() {
                return Err(AdminError::PodNotFound(wanted.to_owned()));
            }
        }
        let asked = pods.into_iter().map(|id| async move {
            let pod = id.to_string();
            match actors_of(&self.pod, &id).await {
                Ok(reports) => {
                    let actors = reports.into_iter().map(view_of).collect();
                    PodActors { pod, reachable: true, error: None, actors }
                }
                Err(error) => {
                    let error = Some(error.to_string());
                    PodActors { pod, reachable: false, error, actors: Vec::new() }
                }
            }
        });
        Ok(ActorsAnswer { pods: futures::future::join_all(asked).await })
    }

    async fn restart_actor(&self, id: &str) -> Result<RestartAnswer, AdminError> {
        let not_found = || AdminError::ActorNotFound(id.to_owned());
        let lives_on =
            |pod: &&PodId| id.strip_prefix(pod.as_str()).is_some_and(|name| name.starts_with('/'));
        let pods = self.pods();
        // The longest: one pod's id may begin with another's.
        let on = pods.iter().filter(lives_on).max_by_key(|pod| pod.as_str().len());
        let on = on.ok_or_else(not_found)?;
        let pod = on.to_string();
        match restart_on(&self.pod, on, id).await {
            Ok(RestartReply::Restarting { id }) => Ok(RestartAnswer { id, pod }),
            Ok(RestartReply::NotFound) => Err(not_found()),
            Ok(RestartReply::NotRestartable { why }) => {
                Err(AdminError::ActorNotRestartable { id: id.to_owned(), why })
            }
            Err(error) => Err(AdminError::PodUnreachable { pod, why: error.to_string() }),
        }
    }

    async fn leave(&self, id: &str, begin: bool) -> Result<LeaveAnswer, AdminError> {
        let pod = PodId::from(id);
        if !self.pods().contains(&pod) {
            return Err(AdminError::PodNotFound(id.to_owned()));
        }
        let unreachable = |why: String| AdminError::PodUnreachable { pod: id.to_owned(), why };
        let progress = match leave_of(&self.pod, &pod, begin).await {
            Ok(Ok(progress)) => progress,
            Ok(Err(LeaveRefusal::LastPod)) => return Err(AdminError::LastPod(id.to_owned())),
            Err(error) => return Err(unreachable(error.to_string())),
        };
        // A pod that was removed from the log may not have heard of it: others know.
        let (peers, members) = (self.pod.peers.now(), members(&self.pod));
        let raft_id = match pod == self.pod.id {
            true => Some(members.raft_id),
            false => peers.known.get(&pod).and_then(|known| known.raft_id),
        };
        let is_member = |id: &RaftId| members.voters.contains(id) || members.learners.contains(id);
        let member = raft_id.as_ref().is_none_or(is_member);
        Ok(LeaveAnswer {
            pod: id.to_owned(),
            leaving: progress.leaving,
            holds_roles: progress.holds_roles,
            journalled: progress.journalled,
            member,
            left: progress.retiring && !member,
        })
    }
}

/// What a member of the log is called whose pod is not known.
fn nameless(id: RaftId) -> String {
    format!("raft-{}", id.0)
}

fn view_of(report: ActorReport) -> ActorView {
    let micros = |nanoseconds: u64| nanoseconds / 1_000;
    ActorView {
        id: report.id,
        name: report.name,
        kind: report.kind,
        parent: report.parent,
        state: word(report.state).to_owned(),
        mailbox: report.mailbox,
        handled: report.handled,
        busy_micros: micros(report.busy_nanoseconds),
        mean_micros: micros(report.busy_nanoseconds.checked_div(report.handled).unwrap_or(0)),
        restarts: report.restarts,
        last_error: report.last_error,
        last_error_at: report.last_error_at.map(from_nanoseconds),
        started_at: from_nanoseconds(report.started_at),
    }
}

fn word(state: ActorState) -> &'static str {
    match state {
        ActorState::Starting => "starting",
        ActorState::Running => "running",
        ActorState::Waiting => "waiting",
        ActorState::Stopped => "stopped",
        ActorState::Failing => "failing",
    }
}

#[cfg(test)]
mod tests;
