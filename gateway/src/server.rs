//! HTTP/1.1 and HTTP/2 (with prior knowledge, in clear text) over TCP: connections in, answers
//! out, and an orderly end.
//!
//! | a client that | is left after |
//! |---|---|
//! | connects and sends no whole head | `header_timeout` |
//! | stays silent between two requests of HTTP/1.1 | the same |
//! | no longer answers on HTTP/2 | `PING_INTERVAL` and `PING_PATIENCE` |
//! | sends a body too slowly | see [`crate::intake`] |
//! | does not read its answer | `stall_guard` |
//!
//! A connection is served by one thread, the one that has the fewest, which also calls the nodes
//! over connections of its own: a search wakes no other thread.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::{Either, select};
use hyper::rt::Executor;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use miroir_seams::{Reactor, Tasks};
use tokio::net::{TcpListener, TcpStream};

use crate::context::GatewayContext;
use crate::handle::handle;
use crate::stall_guard::StallGuard;

/// How long requests under way may take to finish once the server is to stop.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause after a failed accept (out of file descriptors, usually), so that it can get better.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Streams of one HTTP/2 connection at the same time: as many as browsers expect.
const STREAMS_MAX: u32 = 128;
/// Largest head of a request on HTTP/2, bytes.
const HEAD_BYTES_MAX: u32 = 64 << 10;
/// How often an HTTP/2 client is asked whether it is still there.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// How long it may take to answer that.
const PING_PATIENCE: Duration = Duration::from_secs(20);

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
    let reactor = server.reactor.clone();
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
        let patience = context.config.header_timeout;
        let mut http = auto::Builder::new(Streams { tasks: context.seams.tasks.clone(), reactor });
        http.http1().timer(TokioTimer::new()).header_read_timeout(patience).pipeline_flush(true);
        http.http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(HEAD_BYTES_MAX)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_PATIENCE);
        let clock = context.seams.clock.clone();
        let has_asked = Arc::new(AtomicBool::new(false));
        let asked = has_asked.clone();
        let service = service_fn(move |request| {
            asked.store(true, Ordering::Relaxed);
            let context = context.clone();
            async move { Ok::<_, Infallible>(handle(&context, request).await) }
        });
        let stream = TokioIo::new(StallGuard::new(stream));
        let served = std::pin::pin!(watcher.watch(http.serve_connection(stream, service)));
        // Which version it is takes its first bytes, for which nothing else sets a time.
        let first = std::pin::pin!(clock.sleep(patience));
        if let Either::Right(((), served)) = select(served, first).await
            && has_asked.load(Ordering::Relaxed)
        {
            // A connection that breaks is the client's affair.
            let _ = served.await;
        }
    });
}

/// Where requests of one HTTP/2 connection are answered: on the thread of the connection.
#[derive(Clone, Debug)]
struct Streams {
    tasks: Tasks,
    reactor: Reactor,
}

impl<F> Executor<F> for Streams
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, stream: F) {
        self.tasks.spawn_on(&self.reactor, "gateway stream", stream);
    }
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
