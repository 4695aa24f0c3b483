//! HTTP/1.1 over TCP: connections in, answers out, and an orderly end.
//!
//! A connection is served by one thread, the one that has the fewest, which also calls the nodes
//! over connections of its own: a search wakes no other thread.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use miroir_seams::Reactor;
use tokio::net::{TcpListener, TcpStream};

use crate::context::GatewayContext;
use crate::handle::handle;

/// How long requests under way may take to finish once the server is to stop.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause after a failed accept (out of file descriptors, usually), so that it can get better.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// One thread that serves.
#[derive(Debug)]
pub struct Server {
    context: Arc<GatewayContext>,
    reactor: Reactor,
    connections: Arc<AtomicUsize>,
}

impl Server {
    /// A server on `reactor`. The transport of `context` should be for this one alone.
    pub fn new(context: Arc<GatewayContext>, reactor: &Reactor) -> Self {
        Self { context, reactor: reactor.clone(), connections: Arc::default() }
    }
}

/// Serves `listener` until `stop` is done, then finishes what is under way.
pub async fn serve(listener: TcpListener, servers: &[Server], stop: impl Future<Output = ()>) {
    let graceful = GracefulShutdown::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => break,
        };
        let fewest = |server: &&Server| server.connections.load(Ordering::Relaxed);
        let Some(server) = servers.iter().min_by_key(fewest) else { break };
        // Between runtimes a connection travels as the system's own.
        match accepted.and_then(|(stream, _)| stream.into_std()) {
            Ok(stream) => connect(server, stream, graceful.watcher()),
            Err(error) => pause_after(&error, &server.context).await,
        }
    }
    drop(listener);
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, graceful.shutdown()).await;
}

/// Serves one connection on the server's thread.
fn connect(server: &Server, stream: std::net::TcpStream, watcher: Watcher) {
    let context = server.context.clone();
    let counted = Counted::one(&server.connections);
    server.context.seams.tasks.spawn_on(&server.reactor, "gateway connection", async move {
        let _counted = counted;
        let stream = match TcpStream::from_std(stream) {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "connection not taken over");
                return;
            }
        };
        // Answers are small and written whole: waiting for more would only add latency.
        let _ = stream.set_nodelay(true);
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(context.config.header_timeout)
            .pipeline_flush(true);
        let service = service_fn(move |request| {
            let context = context.clone();
            async move { Ok::<_, Infallible>(handle(&context, request).await) }
        });
        // A connection that breaks is the client's affair.
        let _ = watcher.watch(http.serve_connection(TokioIo::new(stream), service)).await;
    });
}

/// Counts a connection as long as it lives.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn one(connections: &Arc<AtomicUsize>) -> Self {
        connections.fetch_add(1, Ordering::Relaxed);
        Self(connections.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn pause_after(error: &io::Error, context: &GatewayContext) {
    // A client that left before it was accepted is no reason to wait.
    let of_one_client = matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    );
    if !of_one_client {
        tracing::warn!(%error, "connection not accepted");
        context.seams.clock.sleep(ACCEPT_PAUSE).await;
    }
}
