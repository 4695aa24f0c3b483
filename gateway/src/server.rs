//! HTTP/1.1 over TCP: connections in, answers out, and an orderly end.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;

use crate::context::GatewayContext;
use crate::handle::handle;

/// How long requests under way may take to finish once the server is to stop.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause after a failed accept (out of file descriptors, usually), so that it can get better.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves `listener` until `stop` is done, then finishes what is under way.
pub async fn serve(
    listener: TcpListener,
    context: Arc<GatewayContext>,
    stop: impl Future<Output = ()>,
) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(context.config.header_timeout)
        .pipeline_flush(true);
    let graceful = GracefulShutdown::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                pause_after(&error, &context).await;
                continue;
            }
        };
        // Answers are small and written whole: waiting for more would only add latency.
        let _ = stream.set_nodelay(true);
        let shared = context.clone();
        let service = service_fn(move |request| {
            let context = shared.clone();
            async move { Ok::<_, Infallible>(handle(&context, request).await) }
        });
        let connection = graceful.watch(http.serve_connection(TokioIo::new(stream), service));
        context.seams.tasks.spawn("gateway connection", async move {
            // A connection that breaks is the client's affair.
            let _ = connection.await;
        });
    }
    drop(listener);
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, graceful.shutdown()).await;
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
