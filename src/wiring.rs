//! Builds a pod from its parts, lowest first: disk, log, journal, actors, gateway.

use std::sync::Arc;

use anyhow::Context;
use miroir_actors::health_checker::HealthConfig;
use miroir_actors::peers::PeersView;
use miroir_actors::pod::{PodConfig, PodContext, start_pod};
use miroir_actors::task_pruner::TaskRetention;
use miroir_gateway::admin_pod::PodAdmin;
use miroir_gateway::context::{
    ContextParts, GatewayConfig, GatewayContext, UnavailableShardPolicy,
};
use miroir_gateway::intake::Spool;
use miroir_gateway::log_routes::PodRoutes;
use miroir_gateway::server::Server;
use miroir_membership::health::HealthLimits;
use miroir_seams::{HttpTransport, NodeTransport, Reactors, RealFiles, Seams};
use miroir_storage::commands::Command;
use miroir_storage::engine::SledEngine;
use miroir_storage::ids::{GroupId, NodeId, PodId};
use miroir_storage::journal::{Journal, JournalConfig};
use miroir_storage::log::{CoordinatorLog, LogConfig};
use miroir_storage::raft::{NoPeers, RaftId};
use miroir_storage::tables::nodes::NodeRecord;

use crate::config::{self, Config, Secret};
use crate::exit::Stop;

/// The only voter of a one-pod cluster.
const RAFT_ID: RaftId = RaftId(1);

/// Runs a pod until `stop` completes, then drains it.
///
/// # Errors
/// Whatever keeps the pod from starting or stops it against its will.
pub async fn run_pod(config: Config, seams: Seams, stop: Stop) -> anyhow::Result<()> {
    let address = config.server.http_addr;
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .with_context(|| format!("can't listen on {address}"))?;
    let log = open_log(&config, &seams).await?;
    register_nodes(&config, &log, &seams).await?;
    let files =
        RealFiles::new(config.pod.data.join("journal")).context("can't open the journal")?;
    let journal = Journal::open(Arc::new(files), JournalConfig::default(), &seams)
        .context("can't open the journal")?;
    let transport: Arc<dyn NodeTransport> = Arc::new(HttpTransport::new());
    let peers = PeersView::alone(PodId(config.pod.id.clone()), seams.clock.instant());
    let pod = PodContext::new(
        pod_config(&config),
        log.clone(),
        journal,
        transport.clone(),
        peers,
        seams.clone(),
    );
    let root = start_pod(pod.clone()).await.context("can't start the pod's actors")?;
    let routes = Arc::new(PodRoutes::new(pod.clone()));
    let parts = ContextParts {
        routing: routes.clone(),
        log: routes,
        transport,
        health: pod.health.clone(),
        spool: open_spool(&config)?,
        seams: seams.clone(),
    };
    let gateway = GatewayContext::new(parts, gateway_config(&config))
        .with_admin(Arc::new(PodAdmin::new(pod.clone())));
    let reactors = Reactors::start(std::thread::available_parallelism().map_or(1, usize::from))
        .context("can't start the threads that serve")?;
    let servers: Vec<Server> = reactors
        .iter()
        .map(|reactor| {
            let context = gateway.with_transport(Arc::new(HttpTransport::new()));
            Server::new(Arc::new(context), reactor)
        })
        .collect();
    tracing::info!(%address, "pod is ready");
    let root_gone = async {
        // The root ends only when the log failed or took another state.
        let _end = root.wait().await;
    };
    let outcome = tokio::select! {
        () = miroir_gateway::server::serve(listener, &servers, stop) => Ok(()),
        () = root_gone => Err(anyhow::anyhow!("the pod's root actor ended")),
    };
    root.stop(None);
    log.shutdown().await;
    outcome
}

fn open_spool(config: &Config) -> anyhow::Result<Arc<Spool>> {
    let files = RealFiles::new(config.pod.data.join("spool"));
    files
        .and_then(|files| Spool::open(Arc::new(files), config.server.spool_bytes_max.0))
        .context("can't open the spool of large request bodies")
}

async fn open_log(config: &Config, seams: &Seams) -> anyhow::Result<CoordinatorLog> {
    let engine = SledEngine::open(config.pod.data.join("log"))
        .context("can't open the coordinator log's store")?;
    let log_config = LogConfig {
        engine: Arc::new(engine),
        raft_id: RAFT_ID,
        address: config.server.http_addr.to_string(),
        peers: Arc::new(NoPeers),
    };
    CoordinatorLog::open(log_config, seams.clone()).await.context("can't open the coordinator log")
}

/// Writes the configured nodes to the log: new ones, and new addresses or keys of known ones.
async fn register_nodes(
    config: &Config,
    log: &CoordinatorLog,
    seams: &Seams,
) -> anyhow::Result<()> {
    let cluster_id = seams.entropy.uuid();
    log.propose(&Command::InitCluster { cluster_id }).await?;
    for node in &config.nodes {
        let record = NodeRecord {
            id: NodeId(node.id.clone()),
            address: node.url.trim_end_matches('/').to_owned(),
            group: GroupId(node.group),
            key: key_of(node, config),
        };
        log.propose(&Command::PutNode(record.clone())).await?;
        let routing = log.routing();
        let kept = routing.nodes.get(&record.id);
        anyhow::ensure!(
            kept.is_some_and(|kept| kept.group == record.group),
            "node {} is in another replica group already; a node never changes its group",
            record.id
        );
    }
    let routing = log.routing();
    let forgotten = routing
        .nodes
        .keys()
        .find(|known| !config.nodes.iter().any(|node| node.id == known.as_str()));
    anyhow::ensure!(
        forgotten.is_none(),
        "node {} holds shards but is not in the configuration; nodes can't be removed yet",
        forgotten.map(NodeId::as_str).unwrap_or_default()
    );
    Ok(())
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
        ..GatewayConfig::default()
    }
}
