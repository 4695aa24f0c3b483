//! Builds a pod from its parts, lowest first: disk, peers, log, journal, actors, gateway.

mod cluster;
mod keys;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use miroir_actors::anti_entropy::AntiEntropyConfig;
use miroir_actors::health_checker::HealthConfig;
use miroir_actors::pod::{PodConfig, PodContext, start_pod};
use miroir_actors::registration::register;
use miroir_actors::task_pruner::TaskRetention;
use miroir_gateway::admin_pod::PodAdmin;
use miroir_gateway::context::{
    ContextParts, GatewayConfig, GatewayContext, StalePolicy, UnavailableShardPolicy,
};
use miroir_gateway::intake::Spool;
use miroir_gateway::log_routes::PodRoutes;
use miroir_gateway::server::Server;
use miroir_gateway::traffic::{CountedTransport, Traffic};
use miroir_gateway::webhook_outlet::WebOutlet;
use miroir_membership::health::HealthLimits;
use miroir_seams::{HttpTransport, NodeTransport, Reactors, RealFiles, Seams, Web};
use miroir_storage::engine::{Engine, SledEngine};
use miroir_storage::ids::{GroupId, NodeId};
use miroir_storage::journal::{Journal, JournalConfig};
use miroir_storage::log::{CoordinatorLog, LogConfig, Start};
use miroir_storage::tables::nodes::NodeRecord;

use self::cluster::Peering;
use crate::config::{self, Config, Secret};
use crate::exit::Stop;

/// How long a pod that starts waits for the news before it serves.
const CATCH_UP_PATIENCE: Duration = Duration::from_secs(3);

/// Runs a pod until `stop` completes, then drains it.
///
/// # Errors
/// Whatever keeps the pod from starting or stops it against its will.
pub async fn run_pod(config: Config, seams: Seams, mut stop: Stop) -> anyhow::Result<()> {
    let address = config.server.http_addr;
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .with_context(|| format!("can't listen on {address}"))?;
    let engine = SledEngine::open(config.pod.data.join("log"))
        .context("can't open the coordinator log's store")?;
    let engine: Arc<dyn Engine> = Arc::new(engine);
    let peering = tokio::select! {
        peering = Peering::open(&config, engine.as_ref(), &seams) => peering?,
        () = &mut stop => return Ok(()),
    };
    let begins = (peering.start == Start::Alone).then(|| seams.entropy.uuid());
    let log = open_log(&config, engine, &peering, &seams).await?;
    let files =
        RealFiles::new(config.pod.data.join("journal")).context("can't open the journal")?;
    let journal = Journal::open(Arc::new(files), JournalConfig::default(), &seams)
        .context("can't open the journal")?;
    let traffic = Arc::<Traffic>::default();
    let transport = || -> Arc<dyn NodeTransport> {
        let (traffic, clock) = (traffic.clone(), seams.clock.clone());
        Arc::new(CountedTransport::new(Arc::new(HttpTransport::new()), traffic, clock))
    };
    let of_pod = transport();
    let pod = PodContext::new(
        pod_config(&config),
        log.clone(),
        journal,
        of_pod.clone(),
        peering.view(&config, &seams),
        Arc::new(WebOutlet::new(Arc::new(Web::new().context("no TLS for webhooks")?))),
        seams.clone(),
    );
    let drain = peering.serve(&pod, &seams);
    tokio::select! {
        registered = register_cluster(&config, &log, begins, &seams) => registered?,
        () = &mut stop => {
            log.shutdown().await;
            return Ok(());
        }
    }
    let routes = Arc::new(PodRoutes::new(pod.clone()));
    let parts = ContextParts {
        routing: routes.clone(),
        log: routes,
        transport: of_pod,
        health: pod.health.clone(),
        spool: open_spool(&config)?,
        seams: seams.clone(),
    };
    let gateway = GatewayContext::new(parts, gateway_config(&config))
        .with_traffic(traffic.clone())
        .with_admin(Arc::new(PodAdmin::new(pod.clone(), traffic.clone())));
    let reactors = Reactors::start(std::thread::available_parallelism().map_or(1, usize::from))
        .context("can't start the threads that serve")?;
    let servers: Vec<Server> = reactors
        .iter()
        .map(|reactor| {
            let context = gateway.with_transport(transport());
            Server::new(Arc::new(context), reactor)
        })
        .collect();
    if !config.is_alone() && log.read_barrier(CATCH_UP_PATIENCE).await.is_err() {
        // It may be cut off; what it knows is still good for searches, which say how old it is.
        tracing::warn!("serving without word from the coordinator log's leader");
    }
    let actors = keep_actors(pod);
    tracing::info!(%address, "pod is ready");
    let stop = async {
        stop.await;
        drain.run().await;
    };
    let outcome = tokio::select! {
        () = miroir_gateway::server::serve(listener, &servers, stop) => Ok(()),
        ended = actors => ended,
    };
    log.shutdown().await;
    outcome
}

/// Runs the pod's actors for as long as the log works. The root ends when the log took another
/// state, as a pod does that was far behind: it begins anew from there.
async fn keep_actors(pod: Arc<PodContext>) -> anyhow::Result<()> {
    loop {
        let root = start_pod(pod.clone()).await.context("can't start the pod's actors")?;
        let _end = root.wait().await;
        anyhow::ensure!(pod.log.metrics().running, "the coordinator log stopped");
        tracing::warn!("the pod's actors begin anew");
    }
}

/// Nameless files of large messages lie here, in the data directory.
const SPOOL: &str = "spool";

fn open_spool(config: &Config) -> anyhow::Result<Arc<Spool>> {
    let files = RealFiles::new(config.pod.data.join(SPOOL));
    files
        .and_then(|files| Spool::open(Arc::new(files), config.server.spool_bytes_max.0))
        .context("can't open the spool of large request bodies")
}

async fn open_log(
    config: &Config,
    engine: Arc<dyn Engine>,
    peering: &Peering,
    seams: &Seams,
) -> anyhow::Result<CoordinatorLog> {
    let log_config = LogConfig {
        engine,
        raft_id: None,
        start: peering.start,
        address: config.pod.advertised_peer(),
        peers: peering.transport.clone(),
        addresses: peering.addresses.clone(),
    };
    CoordinatorLog::open(log_config, seams.clone()).await.context("can't open the coordinator log")
}

/// Writes what the configuration says of the cluster to the log, and the first API keys.
async fn register_cluster(
    config: &Config,
    log: &CoordinatorLog,
    begins: Option<String>,
    seams: &Seams,
) -> anyhow::Result<()> {
    let begun_here = begins.is_some();
    register(log, begins, node_records(config), seams).await?;
    keys::make_first_keys(config, log, begun_here, seams).await
}

/// The configured nodes, as the log keeps them.
fn node_records(config: &Config) -> Vec<NodeRecord> {
    let record = |node: &config::NodeConfig| NodeRecord {
        id: NodeId(node.id.clone()),
        address: node.url.trim_end_matches('/').to_owned(),
        group: GroupId(node.group),
        key: key_of(node, config),
    };
    config.nodes.iter().map(record).collect()
}

fn key_of(node: &config::NodeConfig, config: &Config) -> Option<String> {
    let key = node.key.as_ref().or(config.node_key.as_ref());
    key.map(|key| key.reveal().to_owned())
}

fn pod_config(config: &Config) -> PodConfig {
    PodConfig {
        shards: config.cluster.shards,
        replication_factor: config.cluster.replication_factor as usize,
        health: HealthConfig {
            interval: config.health.interval,
            timeout: config.health.timeout,
            limits: HealthLimits {
                misses_max: config.health.misses,
                recoveries_min: config.health.recoveries,
            },
        },
        retention: TaskRetention {
            time: config.tasks.retention,
            tasks_max: config.tasks.count_max,
        },
        pod_grace: config.cluster.pod_grace,
        node_grace: config.cluster.node_grace,
        // Read once before, when the configuration was checked.
        move_hours: config.cluster.move_hours.as_ref().and_then(|hours| hours.parse().ok()),
        anti_entropy: AntiEntropyConfig {
            interval: config.cluster.anti_entropy_interval,
            repairs: config.cluster.anti_entropy_repairs,
        },
        placement_life: config.cluster.max_staleness + GatewayConfig::default().node_timeout,
    }
}

fn gateway_config(config: &Config) -> GatewayConfig {
    let reveal = |secret: &Option<Secret>| secret.as_ref().map(|key| key.reveal().to_owned());
    GatewayConfig {
        master_key: reveal(&config.master_key),
        admin_key: reveal(&config.admin_key),
        body_bytes_max: usize::try_from(config.server.body_bytes_max.0).unwrap_or(usize::MAX),
        concurrent_requests_max: config.server.concurrent_requests_max,
        unavailable_shard_policy: match config.cluster.unavailable_shard_policy {
            config::UnavailableShardPolicy::Partial => UnavailableShardPolicy::Partial,
            config::UnavailableShardPolicy::Error => UnavailableShardPolicy::Error,
        },
        max_staleness: config.cluster.max_staleness,
        stale_policy: match config.cluster.stale_policy {
            config::StalePolicy::Mark => StalePolicy::Mark,
            config::StalePolicy::Refuse => StalePolicy::Refuse,
        },
        ..GatewayConfig::default()
    }
}
