//! Connections: accepting, keeping alive, ending.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinHandle;

use super::Node;

/// How long a client may take to send a request's head.
const HEADER_WAIT_MAX: Duration = Duration::from_secs(30);

/// Connections at once; more wait in the kernel's line. Well under the usual limit of open
/// files, which the indexes share.
const CONNECTIONS_MAX: usize = 4096;

/// How long requests under way may take after a stop was asked for.
const STOP_WAIT_MAX: Duration = Duration::from_secs(10);

/// Pause after a failed accept, which mostly means that no file handle is free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A listening server.
pub(crate) struct Server {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    accepting: JoinHandle<()>,
    slots: Arc<Semaphore>,
}

impl Server {
    /// Binds `address` (port 0 for any free port) and serves `node` in the background.
    ///
    /// # Errors
    /// The address can't be bound.
    pub(crate) async fn start(address: SocketAddr, node: Arc<Node>) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let (stop, stopping) = watch::channel(false);
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let tasks = node.seams.tasks.clone();
        let accepting =
            tasks.spawn("node accept", accept(listener, node, stopping, Arc::clone(&slots)));
        Ok(Self { address, stop, accepting, slots })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops accepting, lets requests under way finish (for 10 s at most) and returns.
    pub(crate) async fn stop(self) {
        let _ = self.stop.send(true);
        let _ = self.accepting.await;
        let all = u32::try_from(CONNECTIONS_MAX).unwrap_or(u32::MAX);
        if tokio::time::timeout(STOP_WAIT_MAX, self.slots.acquire_many(all)).await.is_err() {
            tracing::warn!("stopped with requests under way");
        }
    }
}

async fn accept(
    listener: TcpListener,
    node: Arc<Node>,
    mut stopping: watch::Receiver<bool>,
    slots: Arc<Semaphore>,
) {
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = asked_to_stop(&mut stopping) => return,
        };
        match accepted {
            Ok((stream, _peer)) => {
                let connection =
                    serve_connection(stream, Arc::clone(&node), stopping.clone(), slot);
                node.seams.tasks.spawn("node connection", connection);
            }
            Err(error) => {
                tracing::warn!(%error, "connection not accepted");
                node.seams.clock.sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve_connection(
    stream: TcpStream,
    node: Arc<Node>,
    mut stopping: watch::Receiver<bool>,
    _slot: OwnedSemaphorePermit,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "connection without nodelay");
    }
    let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let node = Arc::clone(&node);
        async move {
            let (parts, body) = request.into_parts();
            Ok::<_, Infallible>(super::serve(&node, parts, body).await)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_WAIT_MAX)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = asked_to_stop(&mut stopping) => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection broke");
    }
}

/// Waits for the stop; a server that is gone counts as one.
async fn asked_to_stop(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stop| *stop).await;
}
