//! The embedded search node: Meilisearch's own engine behind Meilisearch's HTTP API.
//!
//! A node is a complete server that one can use alone. It keeps its indexes and tasks under
//! one directory, answers as Meilisearch 1.15.1 does, and says with `501 miroir_not_supported`
//! what it does not do.
//!
//! | module | what |
//! |---|---|
//! | [`engine`] | indexes, settings, documents; no HTTP |
//! | `queue` | the tasks, on disk, and the thread that carries them out |
//! | `search` | queries and the shape of answers |
//! | `keys` | the API keys, in memory and on disk |
//! | `whole_file` | small files that are replaced as a whole |
//! | `http` | routes, rights, bodies, connections |

pub mod engine;
mod http;
mod keys;
pub mod queue;
mod search;
mod whole_file;

use std::future::Future;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use miroir_seams::Seams;

use crate::engine::{Engine, EngineConfig, OpenError};
use crate::http::{Node, Server};
use crate::keys::NodeKeys;
use crate::search::SearchPermits;

pub use crate::keys::KeysError;

/// What a node is started with.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Where to listen; port 0 takes any free port.
    pub http_addr: SocketAddr,
    /// The key that every request must carry; without one the node is open to everybody.
    pub master_key: Option<String>,
    /// Where indexes and tasks are kept. One node at a time may use it.
    pub data: PathBuf,
    /// What the engine may use of the machine.
    pub engine: EngineConfig,
    /// Searches at once; `None` means one per core.
    pub search_threads: Option<NonZeroUsize>,
}

impl NodeConfig {
    /// A node with this address and directory, open to everybody.
    pub fn new(http_addr: SocketAddr, data: impl Into<PathBuf>) -> Self {
        Self {
            http_addr,
            master_key: None,
            data: data.into(),
            engine: EngineConfig::default(),
            search_threads: None,
        }
    }

    /// The same with a master key.
    pub fn with_master_key(self, key: impl Into<String>) -> Self {
        Self { master_key: Some(key.into()), ..self }
    }
}

/// Why a node could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The engine could not open its directory.
    #[error(transparent)]
    Engine(#[from] OpenError),
    /// The API keys could not be read.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The address could not be bound.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The thread that opened the directory ended before it was done.
    #[error("the engine did not open")]
    Interrupted,
}

/// A node that serves. Dropping it does not stop it: see [`RunningNode::shutdown`].
pub struct RunningNode {
    server: Server,
    engine: Engine,
}

impl RunningNode {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// The base URL, `http://host:port`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// Stops: no new connections, requests under way finish (for 10 s at most), the running
    /// batch of tasks is left for the next start. The directory can be opened again afterwards.
    pub async fn shutdown(self) {
        self.server.stop().await;
        self.engine.close().await;
    }
}

/// Starts a node on the current tokio runtime.
///
/// # Errors
/// See [`StartError`].
pub async fn start(config: NodeConfig) -> Result<RunningNode, StartError> {
    let NodeConfig { http_addr, master_key, data, engine, search_threads } = config;
    let seams = Seams::real();
    let parallelism = search_threads
        .or_else(|| std::thread::available_parallelism().ok())
        .map_or(1, NonZeroUsize::get);

    let opening = seams.clone();
    let opened = seams.tasks.spawn_blocking(move || {
        let engine = Engine::open(&data, engine, opening.clone())?;
        let open_keys = |key: String| NodeKeys::open(&data, &key, &opening);
        Ok::<_, StartError>((engine, master_key.map(open_keys).transpose()?))
    });
    let (engine, keys) = opened.await.map_err(|_| StartError::Interrupted)??;
    if keys.is_none() {
        tracing::warn!("no master key, every request is accepted");
    }
    let permits = SearchPermits::new(parallelism);
    let node = Arc::new(Node { engine: engine.clone(), permits, keys, seams });
    let server = Server::start(http_addr, node)
        .await
        .map_err(|source| StartError::Listen { address: http_addr, source })?;
    tracing::info!(address = %server.address(), "node is listening");
    Ok(RunningNode { server, engine })
}

/// Runs a node until `stop` is ready, then ends it in order.
///
/// # Errors
/// See [`StartError`].
pub async fn run(config: NodeConfig, stop: impl Future<Output = ()>) -> Result<(), StartError> {
    let node = start(config).await?;
    stop.await;
    tracing::info!("node is stopping");
    node.shutdown().await;
    Ok(())
}
