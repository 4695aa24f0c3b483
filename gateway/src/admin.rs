//! What operators see of pods, roles and actors: routes, shapes, and who answers.
//!
//! | route | answer | refusals |
//! |---|---|---|
//! | `GET /_miroir/peers` | [`PeersAnswer`] | |
//! | `GET /_miroir/roles` | list of [`RoleView`] | |
//! | `GET /_miroir/actors[?pod=ID]` | [`ActorsAnswer`] | 404 `miroir_pod_not_found` |
//! | `POST /_miroir/pods/{id}/leave` | 202 [`LeaveAnswer`] | 404 `miroir_pod_not_found`, 409 `miroir_last_pod`, 503 `miroir_pod_unreachable` |
//! | `GET /_miroir/pods/{id}/leave` | [`LeaveAnswer`] | 404 `miroir_pod_not_found`, 503 `miroir_pod_unreachable` |
//! | `/_miroir/jobs…` | see [`crate::jobs`] | |
//! | `/_miroir/topology`, `shards`, `nodes…`, `groups…`, `replication`, `rebalance` | see [`crate::topology`] | |
//! | `/_miroir/anti-entropy` | see [`crate::comparisons`] | |
//! | `GET /_miroir/metrics` | see [`crate::metrics`] | |
//! | `/_miroir/indexes/{index}/reshard` | see [`crate::reshard`] | |
//! | `POST /_miroir/actors/{id}/restart` | 202 [`RestartAnswer`] | 404 `miroir_actor_not_found`, 409 `miroir_actor_not_restartable`, 503 `miroir_pod_unreachable` |
//!
//! All need the admin key. Any pod answers for the whole cluster: a pod that can't be reached is
//! an entry that says so, never an error of the whole. Until a pod says otherwise
//! ([`crate::context::GatewayContext::with_admin`]) every route answers 501.
//!
//! The shapes are read by `miroir ctl` and the console: fields may be added, never renamed.

use std::collections::BTreeMap;
use std::fmt::Debug;

use async_trait::async_trait;
use miroir_wire::error::{ApiError, Code};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::serde::rfc3339;

use crate::comparisons::ComparisonsSource;
use crate::context::RequestParts;
use crate::failure::Failure;
use crate::jobs::{self, JobsRoute, JobsSource};
use crate::metrics::{self, MetricsSource};
use crate::reply::Reply;
use crate::reshard::{self, ReshardRoute, ReshardSource};
use crate::topology::{self, TopologyRoute, TopologySource};

/// Routes under `/_miroir/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminRoute {
    /// `GET /_miroir/peers`
    Peers,
    /// `GET /_miroir/roles`
    Roles,
    /// `GET /_miroir/actors`
    Actors,
    /// `POST /_miroir/actors/{id}/restart`
    RestartActor {
        /// As [`ActorView::id`] has it.
        id: String,
    },
    /// `POST` or `GET /_miroir/pods/{id}/leave`
    Leave {
        /// The pod.
        id: String,
        /// Ordered (`POST`), not only asked for.
        begin: bool,
    },
    /// See [`crate::jobs`].
    Jobs(JobsRoute),
    /// See [`crate::topology`].
    Topology(TopologyRoute),
    /// See [`crate::reshard`].
    Reshard(ReshardRoute),
    /// `GET` or `POST /_miroir/anti-entropy`
    Comparisons {
        /// Ordered (`POST`), not only asked for.
        begin: bool,
    },
    /// `GET /_miroir/metrics`
    Metrics,
    /// None that is there yet.
    Other,
}

/// The pods of the cluster, as one of them sees them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeersAnswer {
    /// The id of the pod that answers.
    #[serde(rename = "self")]
    pub self_pod: String,
    /// None until the pod belongs to a cluster.
    pub cluster_id: Option<String>,
    /// The pod that leads the coordinator log; none while nobody does.
    pub leader: Option<String>,
    /// Those that gossip or the log know, in order of id, the one that answers included.
    pub pods: Vec<PeerView>,
}

/// One pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerView {
    /// Unique in the cluster.
    pub id: String,
    /// Its number in the coordinator log, in decimal: text, since JavaScript's numbers don't hold
    /// 64 bits. None until it is known.
    pub raft_id: Option<String>,
    /// Where other pods reach it, `host:port`.
    pub peer_address: String,
    /// Where clients reach it, `host:port`.
    pub http_address: String,
    /// Of the program.
    pub version: String,
    /// Whether it is heard of.
    pub alive: bool,
    /// How long it has been alive, or gone, seconds.
    pub since: u64,
    /// Count of its starts.
    pub generation: u64,
    /// Votes in the log.
    pub voter: bool,
    /// Follows the log without a vote. Neither: it is not a member of the log (yet).
    pub learner: bool,
    /// Whether it is the one that answers.
    #[serde(rename = "self")]
    pub is_self: bool,
    /// Everything that it publishes, by name.
    pub facts: BTreeMap<String, String>,
}

/// One role and who holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RoleView {
    /// `membership`, `writer/movies` …
    pub role: String,
    /// The pod that holds it; none when nobody does.
    pub holder: Option<String>,
    /// Grows with every hand-over.
    pub epoch: u64,
    /// Whether the holder is heard of.
    pub alive: bool,
}

/// The actors of all pods, or of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ActorsAnswer {
    /// In order of id.
    pub pods: Vec<PodActors>,
}

/// The actors of one pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodActors {
    /// Its id.
    pub pod: String,
    /// Whether it answered. If not, `error` says why and `actors` is empty.
    pub reachable: bool,
    /// Why it did not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Parents before their children.
    pub actors: Vec<ActorView>,
}

/// One actor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ActorView {
    /// Unique in the cluster; opaque.
    pub id: String,
    /// For people: `writer/movies`.
    pub name: String,
    /// What it is: `Writer`.
    pub kind: String,
    /// The id of its supervisor; none for a pod's root.
    pub parent: Option<String>,
    /// `running`, or in a word what else.
    pub state: String,
    /// Messages that wait.
    pub mailbox: u64,
    /// Messages handled since the pod started.
    pub handled: u64,
    /// Time spent with them, microseconds.
    pub busy_micros: u64,
    /// The mean for a message, microseconds.
    pub mean_micros: u64,
    /// How often it was started again.
    pub restarts: u64,
    /// Why it failed last.
    pub last_error: Option<String>,
    /// When it failed last.
    #[serde(default, with = "rfc3339::option")]
    pub last_error_at: Option<OffsetDateTime>,
    /// When it was started last.
    #[serde(with = "rfc3339")]
    pub started_at: OffsetDateTime,
}

/// An actor is being started again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RestartAnswer {
    /// The actor.
    pub id: String,
    /// The pod it lives on.
    pub pod: String,
}

/// How far a pod is with leaving the cluster for good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LeaveAnswer {
    /// The pod.
    pub pod: String,
    /// It was ordered to leave.
    pub leaving: bool,
    /// It holds roles, or leads the coordinator log.
    pub holds_roles: bool,
    /// Payloads of writes in its journal.
    pub journalled: u64,
    /// It is a member of the coordinator log.
    pub member: bool,
    /// It has left: it may be stopped, and its disk thrown away.
    pub left: bool,
}

/// Why an operator's request is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdminError {
    /// Nobody answers such requests here.
    #[error("Miroir does not support this route. This part of the admin API is not there yet.")]
    NotSupported,
    /// The query string holds something else than the route takes.
    #[error("Unknown parameter `{0}`: expected `pod`")]
    UnknownParameter(String),
    /// The cluster has no such pod.
    #[error("Pod `{0}` not found.")]
    PodNotFound(String),
    /// The pod has no such actor (any more).
    #[error("Actor `{0}` not found.")]
    ActorNotFound(String),
    /// This actor can't be started again by itself.
    #[error("Actor `{id}` can't be restarted: {why}.")]
    ActorNotRestartable {
        /// The actor.
        id: String,
        /// In words, without a full stop.
        why: String,
    },
    /// No other pod is there that stays.
    #[error("Pod `{0}` can't leave: no other pod is there that stays.")]
    LastPod(String),
    /// The pod's own store failed.
    #[error("The coordinator state can't be read: {0}.")]
    StateUnreadable(String),
    /// The pod that would have to do it does not answer.
    #[error("Pod `{pod}` can't be reached: {why}.")]
    PodUnreachable {
        /// The pod.
        pod: String,
        /// In words, without a full stop.
        why: String,
    },
}

impl From<AdminError> for ApiError {
    fn from(error: AdminError) -> Self {
        let code = match &error {
            AdminError::NotSupported => Code::MiroirNotSupported,
            AdminError::UnknownParameter(_) => Code::BadRequest,
            AdminError::PodNotFound(_) => Code::MiroirPodNotFound,
            AdminError::ActorNotFound(_) => Code::MiroirActorNotFound,
            AdminError::ActorNotRestartable { .. } => Code::MiroirActorNotRestartable,
            AdminError::LastPod(_) => Code::MiroirLastPod,
            AdminError::StateUnreadable(_) => Code::Internal,
            AdminError::PodUnreachable { .. } => Code::MiroirPodUnreachable,
        };
        Self::new(code, error.to_string())
    }
}

/// Answers operators. Every call must end within a few seconds, whatever pods are away.
#[async_trait]
pub trait AdminSource:
    JobsSource
    + TopologySource
    + ReshardSource
    + ComparisonsSource
    + MetricsSource
    + Debug
    + Send
    + Sync
{
    /// The pods.
    ///
    /// # Errors
    /// See [`AdminError`].
    async fn peers(&self) -> Result<PeersAnswer, AdminError>;

    /// The roles, in order of name.
    ///
    /// # Errors
    /// See [`AdminError`].
    async fn roles(&self) -> Result<Vec<RoleView>, AdminError>;

    /// The actors of `pod`, or of all pods.
    ///
    /// # Errors
    /// [`AdminError::PodNotFound`].
    async fn actors(&self, pod: Option<&str>) -> Result<ActorsAnswer, AdminError>;

    /// Starts an actor again, wherever it lives. Comes back once the order is given.
    ///
    /// # Errors
    /// [`AdminError::ActorNotFound`], [`AdminError::ActorNotRestartable`],
    /// [`AdminError::PodUnreachable`].
    async fn restart_actor(&self, id: &str) -> Result<RestartAnswer, AdminError>;

    /// How far a pod is with leaving for good; orders it to if `begin`.
    ///
    /// # Errors
    /// [`AdminError::PodNotFound`], [`AdminError::LastPod`], [`AdminError::PodUnreachable`].
    async fn leave(&self, id: &str, begin: bool) -> Result<LeaveAnswer, AdminError>;
}

/// Answers nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoAdmin;

impl JobsSource for NoAdmin {}

impl TopologySource for NoAdmin {}

impl ReshardSource for NoAdmin {}

impl ComparisonsSource for NoAdmin {}

impl MetricsSource for NoAdmin {}

#[async_trait]
impl AdminSource for NoAdmin {
    async fn peers(&self) -> Result<PeersAnswer, AdminError> {
        Err(AdminError::NotSupported)
    }

    async fn roles(&self) -> Result<Vec<RoleView>, AdminError> {
        Err(AdminError::NotSupported)
    }

    async fn actors(&self, _: Option<&str>) -> Result<ActorsAnswer, AdminError> {
        Err(AdminError::NotSupported)
    }

    async fn restart_actor(&self, _: &str) -> Result<RestartAnswer, AdminError> {
        Err(AdminError::NotSupported)
    }

    async fn leave(&self, _: &str, _: bool) -> Result<LeaveAnswer, AdminError> {
        Err(AdminError::NotSupported)
    }
}

/// Answers one request whose right was checked.
///
/// # Errors
/// The refusals in the table above.
pub async fn answer(
    source: &dyn AdminSource,
    route: AdminRoute,
    request: &RequestParts,
) -> Result<Reply, Failure> {
    let reply = match route {
        AdminRoute::Peers => source.peers().await.map(|peers| Reply::json(200, &peers)),
        AdminRoute::Roles => source.roles().await.map(|roles| Reply::json(200, &roles)),
        AdminRoute::Actors => match chosen_pod(&request.query) {
            Ok(pod) => source.actors(pod.as_deref()).await.map(|actors| Reply::json(200, &actors)),
            Err(error) => Err(error),
        },
        AdminRoute::RestartActor { id } => {
            source.restart_actor(&id).await.map(|restart| Reply::json(202, &restart))
        }
        AdminRoute::Leave { id, begin } => {
            let status = if begin { 202 } else { 200 };
            source.leave(&id, begin).await.map(|leave| Reply::json(status, &leave))
        }
        AdminRoute::Jobs(route) => return Ok(jobs::answer(source, route, request).await?),
        AdminRoute::Topology(route) => return Ok(topology::answer(source, route, request).await?),
        AdminRoute::Comparisons { begin } => {
            let status = if begin { 202 } else { 200 };
            source.comparisons(begin).await.map(|found| Reply::json(status, &found))
        }
        AdminRoute::Metrics => return Ok(metrics::reply(source.metrics().await?)),
        AdminRoute::Reshard(route) => return Ok(reshard::answer(source, route, request).await?),
        AdminRoute::Other => Err(AdminError::NotSupported),
    };
    Ok(reply.map_err(ApiError::from)?)
}

/// The `pod` of a query string; an empty one counts as not given.
fn chosen_pod(query: &str) -> Result<Option<String>, AdminError> {
    let mut pod = None;
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match name.as_ref() {
            "pod" => pod = Some(value.into_owned()).filter(|pod| !pod.is_empty()),
            other => return Err(AdminError::UnknownParameter(other.to_owned())),
        }
    }
    Ok(pod)
}
