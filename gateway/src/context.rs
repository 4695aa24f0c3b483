//! What every request needs, shared by all of them.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use miroir_actors::accept::WriteMarks;
use miroir_actors::health_checker::NodeHealthView;
use miroir_seams::{NodeTransport, Seams};
use miroir_storage::commands::{Command, Outcome};
use miroir_storage::ids::IndexUid;
use miroir_storage::routing::Routing;
use miroir_wire::error::{ApiError, Code};
use time::OffsetDateTime;
use tokio::sync::Semaphore;

use crate::admin::{AdminSource, NoAdmin};
use crate::intake::Spool;
use crate::key_news::KeyNews;
use crate::key_ring::KeyRings;
use crate::read_settings::SettingsCache;
use crate::reply::Reply;
use crate::router::LogRoute;
use crate::traffic::Traffic;
use miroir_wire::access::Grant;

/// Where requests take their routing from; one view is taken per request.
pub trait RoutingSource: Send + Sync + std::fmt::Debug {
    /// The view as of now. Must be cheap: a pointer load.
    fn routing(&self) -> Arc<Routing>;

    /// For how long nobody has confirmed that the view is the newest. Must be cheap.
    fn unconfirmed_for(&self) -> Duration;

    /// Whether the pod has left the cluster: it serves what it knew until it is stopped.
    fn has_left(&self) -> bool {
        false
    }

    /// Whether tasks of the index are enqueued or processing, for `isIndexing`.
    fn is_indexing(&self, uid: &IndexUid) -> bool;

    /// When the index last changed.
    fn updated_at(&self, uid: &IndexUid) -> Option<OffsetDateTime>;
}

/// Answers everything that lives in the coordinator log: writes, settings, indexes, tasks.
#[async_trait]
pub trait LogRoutes: Send + Sync + std::fmt::Debug {
    /// Answers one request.
    ///
    /// # Errors
    /// The refusals of the route.
    async fn answer(&self, route: LogRoute, request: &RequestParts) -> Result<Reply, ApiError>;

    /// Brings this pod up to what was agreed when it was asked; false when it is alone, or when
    /// that can't be had soon.
    async fn catch_up(&self) -> bool;

    /// Waits until what the session wrote can be read: to the index of this name, or to any.
    /// False when it can't be read yet after as long as a client should wait.
    async fn settle_session(&self, session: &str, index: Option<&str>) -> bool;

    /// Agrees on a change of the API keys; the routing shows it when this returns.
    ///
    /// # Errors
    /// 503s when it can't be agreed on, or is not known to be.
    async fn change_keys(&self, _change: Command) -> Result<Outcome, ApiError> {
        Err(ApiError::new(Code::MiroirNotSupported, "API keys can't be changed here."))
    }
}

/// A request whose body has been read.
#[derive(Clone, Debug)]
pub struct RequestParts {
    /// The query string without its question mark.
    pub query: String,
    /// The `Content-Type`, if it was given and is text.
    pub content_type: Option<String>,
    /// The body.
    pub body: Bytes,
    /// Its idempotency key and session.
    pub marks: WriteMarks,
    /// What it may do.
    pub grant: Grant,
}

/// What to do when a shard can't be had from any replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum UnavailableShardPolicy {
    /// Answer with what there is, and say what is missing.
    #[default]
    Partial,
    /// Answer 503 `miroir_shard_unavailable`.
    Error,
}

/// What to do with reads when this pod's state may be too old.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum StalePolicy {
    /// Answer, and say how old it is.
    #[default]
    Mark,
    /// Answer 503.
    Refuse,
}

/// Settings of the gateway. Defaults are those of the specification.
#[derive(Clone, Debug)]
pub struct GatewayConfig {
    /// The master key of the public API; none leaves it open, as Meilisearch does.
    pub master_key: Option<String>,
    /// The key for `/_miroir/`; none keeps it closed.
    pub admin_key: Option<String>,
    /// Largest request body, bytes, after decoding.
    pub body_bytes_max: usize,
    /// Requests served at the same time; more are refused.
    pub concurrent_requests_max: usize,
    /// How long one call to a node may take on the read path.
    pub node_timeout: Duration,
    /// After this other replicas are asked as well (see [`crate::late`]). Longer than nearly all
    /// searches, far shorter than `node_timeout`.
    pub late_after: Duration,
    /// How long a client may take to send its headers.
    pub header_timeout: Duration,
    /// See [`UnavailableShardPolicy`].
    pub unavailable_shard_policy: UnavailableShardPolicy,
    /// A pod's state counts as stale when nobody has confirmed it for longer.
    pub max_staleness: Duration,
    /// See [`StalePolicy`].
    pub stale_policy: StalePolicy,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            master_key: None,
            admin_key: None,
            body_bytes_max: 100_000_000,
            concurrent_requests_max: 500,
            node_timeout: Duration::from_secs(10),
            late_after: Duration::from_secs(1),
            header_timeout: Duration::from_secs(30),
            unavailable_shard_policy: UnavailableShardPolicy::default(),
            max_staleness: Duration::from_secs(5),
            stale_policy: StalePolicy::default(),
        }
    }
}

/// Everything a request is handled with.
#[derive(Clone, Debug)]
pub struct GatewayContext {
    /// Names, placement, nodes.
    pub routing: Arc<dyn RoutingSource>,
    /// The write path.
    pub log: Arc<dyn LogRoutes>,
    /// Calls to nodes.
    pub transport: Arc<dyn NodeTransport>,
    /// Which nodes are away.
    pub health: Arc<NodeHealthView>,
    /// Where large bodies wait.
    pub spool: Arc<Spool>,
    /// Who answers operators.
    pub admin: Arc<dyn AdminSource>,
    /// Time, randomness, tasks.
    pub seams: Seams,
    /// Limits and keys.
    pub config: GatewayConfig,
    /// Read settings by index.
    pub settings: Arc<SettingsCache>,
    /// API keys, ready to be looked up.
    pub rings: Arc<KeyRings>,
    /// Asks for news of keys that are not known here.
    pub key_news: Arc<KeyNews>,
    /// What is counted of requests.
    pub traffic: Arc<Traffic>,
    /// Reads that may be asked of a second set of replicas at the same time.
    pub races: Arc<Semaphore>,
    /// Imports that may be streamed at the same time.
    pub streams: Arc<Semaphore>,
}

/// See [`GatewayContext::races`]: with a search of a few milliseconds, thousands a second.
const RACES_MAX: usize = 16;

/// See [`GatewayContext::streams`]: each takes memory for a chunk and what comes meanwhile.
const STREAMS_MAX: usize = 4;

impl GatewayContext {
    /// A context with nothing in flight, whose admin API answers 501.
    pub fn new(parts: ContextParts, config: GatewayConfig) -> Self {
        let ContextParts { routing, log, transport, health, spool, seams } = parts;
        Self {
            routing,
            log,
            transport,
            health,
            spool,
            admin: Arc::new(NoAdmin),
            seams,
            config,
            settings: Arc::default(),
            rings: Arc::default(),
            key_news: Arc::default(),
            traffic: Arc::default(),
            races: Arc::new(Semaphore::new(RACES_MAX)),
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
        }
    }

    /// The same, with an admin API that `admin` answers.
    pub fn with_admin(self, admin: Arc<dyn AdminSource>) -> Self {
        Self { admin, ..self }
    }

    /// The same, counting requests in `traffic`.
    pub fn with_traffic(self, traffic: Arc<Traffic>) -> Self {
        Self { traffic, ..self }
    }

    /// The same, but calling nodes in another way: over connections of its own.
    pub fn with_transport(&self, transport: Arc<dyn NodeTransport>) -> Self {
        Self { transport, ..self.clone() }
    }
}

/// What a context is made of.
#[derive(Clone, Debug)]
pub struct ContextParts {
    /// Names, placement, nodes.
    pub routing: Arc<dyn RoutingSource>,
    /// The write path.
    pub log: Arc<dyn LogRoutes>,
    /// Calls to nodes.
    pub transport: Arc<dyn NodeTransport>,
    /// Which nodes are away.
    pub health: Arc<NodeHealthView>,
    /// Where large bodies wait.
    pub spool: Arc<Spool>,
    /// Time, randomness, tasks.
    pub seams: Seams,
}
