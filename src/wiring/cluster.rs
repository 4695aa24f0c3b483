//! What makes a pod one of several: the sealed link, gossip, and how it begins or joins a cluster.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use miroir_actors::drain::drain;
use miroir_actors::peer_service::PodService;
use miroir_actors::peer_watcher;
use miroir_actors::peers::PeersView;
use miroir_actors::pod::PodContext;
use miroir_membership::gossip::{Gossip, GossipConfig, INTERVAL, PodFacts, SeedSource};
use miroir_membership::link::{self, Link};
use miroir_membership::secrets::ClusterSecrets;
use miroir_seams::{Files, NoPeers, PeerTransport, RealFiles, Seams, Udp};
use miroir_storage::engine::Engine;
use miroir_storage::ids::PodId;
use miroir_storage::log::Start;
use miroir_storage::raft::PeerAddresses;
use miroir_storage::routing::Routing;
use tokio::net::TcpListener;

use super::SPOOL;
use crate::config::{self, Config};

/// Pods with another name in their gossip are strangers: the format of what pods say.
const CLUSTER_NAME: &str = "miroir-1";
/// The pod's way to its peers.
#[derive(Debug)]
pub struct Peering {
    /// Calls them.
    pub transport: Arc<dyn PeerTransport>,
    /// Where the log finds them.
    pub addresses: PeerAddresses,
    /// What an empty disk is to become.
    pub start: Start,
    several: Option<Several>,
}

#[derive(Debug)]
struct Several {
    gossip: Gossip,
    secrets: ClusterSecrets,
    listener: TcpListener,
    /// For messages too large for memory.
    scratch: Arc<dyn Files>,
    facts: PodFacts,
}

impl Peering {
    /// Opens the pod's peer ports, if it is one of several, and finds out how it begins: a pod
    /// without state waits until it sees a cluster, or the pods to begin one with.
    ///
    /// # Errors
    /// When an address can't be had, or the disk fails.
    pub async fn open(config: &Config, engine: &dyn Engine, seams: &Seams) -> anyhow::Result<Self> {
        let Some(secrets) = config.cluster.secrets() else {
            return Ok(Self {
                transport: Arc::new(NoPeers),
                addresses: PeerAddresses::default(),
                start: Start::Alone,
                several: None,
            });
        };
        let secrets = ClusterSecrets::new(&secret_list(&secrets))?;
        reload_on_hangup(config, &secrets, seams)?;
        let listen = config.pod.peer_addr;
        let listener = TcpListener::bind(listen)
            .await
            .with_context(|| format!("can't listen for peers on {listen}"))?;
        let known = Routing::load(engine).context("can't read the coordinator state")?.cluster_id;
        let facts = PodFacts {
            raft_id: 0,
            peer_address: config.pod.advertised_peer(),
            http_address: config.advertised_http(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cluster_id: (!known.is_empty()).then_some(known.clone()),
            load_permille: 0,
        };
        let gossip_config = GossipConfig {
            pod: PodId(config.pod.id.clone()),
            starts: count_start(&config.pod.data)?,
            listen,
            advertise: resolve(&facts.peer_address).await?,
            seeds: SeedSource::new(config.cluster.seeds.clone()),
            cluster_name: CLUSTER_NAME.to_owned(),
            interval: INTERVAL,
        };
        let gossip =
            Gossip::start(gossip_config, &facts, secrets.clone(), Arc::new(Udp), seams).await?;
        // Where those of clients lie: what a crash may leave there is removed with the next start.
        let scratch = RealFiles::new(config.pod.data.join(SPOOL));
        let scratch: Arc<dyn Files> =
            Arc::new(scratch.context("can't make the directory of large peer messages")?);
        let start = match known.is_empty() {
            // State goes on whatever is said here.
            false => Start::Join,
            true => {
                let expected = config.cluster.pods_expected as usize;
                peer_watcher::form(&gossip, expected, engine, &seams.clock)
                    .await
                    .context("can't remember who begins the cluster")?
            }
        };
        Ok(Self {
            transport: Link::new(secrets.clone(), scratch.clone(), seams)?,
            addresses: PeerAddresses::new(peer_watcher::addresses(&gossip)),
            start,
            several: Some(Several { gossip, secrets, listener, scratch, facts }),
        })
    }

    /// The view of the peers; empty until [`Peering::serve`].
    pub fn view(&self, config: &Config, seams: &Seams) -> PeersView {
        let own = PodId(config.pod.id.clone());
        match self.several {
            // Nobody would ever be seen who could hold a second copy.
            None => PeersView::alone(own, seams.clock.instant()),
            Some(_) => PeersView::new(own, seams.clock.instant(), self.transport.clone()),
        }
    }

    /// Answers peers and follows gossip from now on.
    pub fn serve(self, pod: &Arc<PodContext>, seams: &Seams) -> Drain {
        let Some(Several { gossip, secrets, listener, scratch, facts }) = self.several else {
            return Drain { pod: pod.clone(), gossip: None };
        };
        let facts = PodFacts { raft_id: pod.log.metrics().raft_id.0, ..facts };
        peer_watcher::start(pod, gossip.clone(), facts);
        let service = Arc::new(PodService::new(pod.clone()));
        let seams = seams.clone();
        seams.tasks.clone().spawn("peer link", async move {
            let never = std::future::pending();
            let served = link::serve(listener, secrets, service, scratch, &seams, never);
            if let Err(error) = served.await {
                tracing::error!(%error, "peers can't be served");
            }
        });
        Drain { pod: pod.clone(), gossip: Some(gossip) }
    }
}

/// Hands over what the pod holds before it stops.
#[derive(Debug)]
pub struct Drain {
    pod: Arc<PodContext>,
    gossip: Option<Gossip>,
}

impl Drain {
    /// See [`drain`]; nothing for a pod that is alone.
    pub async fn run(&self) {
        if let Some(gossip) = &self.gossip {
            drain(&self.pod, gossip).await;
        }
    }
}

fn secret_list(secrets: &config::ClusterSecrets) -> Vec<String> {
    let all = std::iter::once(&secrets.current).chain(&secrets.old);
    all.map(|secret| secret.reveal().to_owned()).collect()
}

/// Secrets are read again when the process gets a SIGHUP.
fn reload_on_hangup(
    config: &Config,
    secrets: &ClusterSecrets,
    seams: &Seams,
) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut hangups = signal(SignalKind::hangup()).context("can't listen for SIGHUP")?;
    let (config, secrets) = (config.clone(), secrets.clone());
    seams.tasks.spawn("secrets", async move {
        while hangups.recv().await.is_some() {
            let replaced = match config.reload_secrets() {
                Ok(Some(list)) => secrets.replace(&secret_list(&list)).map_err(anyhow::Error::from),
                Ok(None) => Ok(()),
                Err(error) => Err(error.into()),
            };
            match replaced {
                Ok(()) => tracing::info!("cluster secrets are read again"),
                Err(error) => {
                    tracing::error!(
                        error = format!("{error:#}"),
                        "cluster secrets stay as they were"
                    );
                }
            }
        }
    });
    Ok(())
}

async fn resolve(address: &str) -> anyhow::Result<SocketAddr> {
    let found = tokio::net::lookup_host(address)
        .await
        .with_context(|| format!("can't find the address {address} of this pod"))?
        .next();
    found.with_context(|| format!("the name {address} of this pod has no address"))
}

/// Counts the pod's starts: others believe the newest.
fn count_start(data: &Path) -> anyhow::Result<u64> {
    let path = data.join("generation");
    let next = match std::fs::read_to_string(&path) {
        Ok(text) => text.trim().parse::<u64>().context("the count of starts is damaged")? + 1,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => 1,
        Err(error) => return Err(error).context("can't read the count of starts"),
    };
    std::fs::create_dir_all(data).context("can't make the data directory")?;
    let written = data.join("generation.new");
    std::fs::write(&written, next.to_string())
        .and_then(|()| std::fs::File::open(&written)?.sync_all())
        .and_then(|()| std::fs::rename(&written, &path))
        .and_then(|()| std::fs::File::open(data)?.sync_all())
        .context("can't write the count of starts")?;
    Ok(next)
}
