//! The answering side.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use miroir_seams::{Clock, Files, PeerService, Seams, Tasks};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::body::{IN_MEMORY_MAX, Parts, Room};
use super::tls::server_config;
use super::{
    BODIES_BYTES_MAX, BODIES_WAIT, BODY_BYTES_PER_SECOND, BODY_TIMEOUT, CONNECTIONS_MAX, DRAIN,
    HANDSHAKE_TIMEOUT, HANDSHAKES_MAX, SERVER_IDLE, UNCOUNTED_BODY_BYTES_MAX, WELCOME,
    body_bytes_max,
};
use crate::rarely::Rarely;
use crate::secrets::ClusterSecrets;

/// The unit in which bytes are counted: a semaphore holds less than a `usize` where that is small.
const COUNTED_UNIT_BYTES: usize = 1024;
/// After the system had no connection to give.
const ACCEPT_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);
/// Longest name of a channel, bytes.
const CHANNEL_BYTES_MAX: usize = 64;

#[derive(Debug)]
struct Server {
    service: Arc<dyn PeerService>,
    secrets: ClusterSecrets,
    tasks: Tasks,
    clock: Clock,
    handshakes: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    bodies: Arc<Semaphore>,
    large: Room,
    turned_away: Rarely,
    overrun: Rarely,
}

/// Serves `listener` until `stop` is done, then lets calls under way finish for a short while.
///
/// Each request is answered in a task of its own, which goes on when its caller is gone: a
/// service is never cut off half way. A service that panics breaks the call. Large requests lie in
/// `scratch` files.
///
/// # Errors
/// When the TLS library refuses its own algorithms: a fault of the build.
pub async fn serve(
    listener: TcpListener,
    secrets: ClusterSecrets,
    service: Arc<dyn PeerService>,
    scratch: Arc<dyn Files>,
    seams: &Seams,
    stop: impl Future<Output = ()>,
) -> Result<(), rustls::Error> {
    let acceptor = TlsAcceptor::from(Arc::new(server_config(&secrets)?));
    let server = Arc::new(Server {
        service,
        secrets,
        tasks: seams.tasks.clone(),
        clock: seams.clock.clone(),
        handshakes: Arc::new(Semaphore::new(HANDSHAKES_MAX)),
        connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        bodies: Arc::new(Semaphore::new(BODIES_BYTES_MAX / COUNTED_UNIT_BYTES)),
        large: Room { files: scratch, tasks: seams.tasks.clone() },
        turned_away: Rarely::default(),
        overrun: Rarely::default(),
    });
    let (stopping, stopped) = watch::channel(false);
    let mut stop = std::pin::pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => break,
        };
        match accepted {
            Ok((stream, from)) => server.admit(stream, from, &acceptor, &stopped),
            Err(error) => {
                if let Some(times) = server.overrun.count(server.clock.instant()) {
                    tracing::warn!(%error, times, "no connection accepted from peers");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    let _ = stopping.send(true);
    let all = u32::try_from(CONNECTIONS_MAX).unwrap_or(u32::MAX);
    let _ = timeout(DRAIN, server.connections.acquire_many(all)).await;
    Ok(())
}

impl Server {
    /// Begins with one connection, if there is room.
    fn admit(
        self: &Arc<Self>,
        stream: TcpStream,
        from: SocketAddr,
        acceptor: &TlsAcceptor,
        stopped: &watch::Receiver<bool>,
    ) {
        let places = (
            self.handshakes.clone().try_acquire_owned(),
            self.connections.clone().try_acquire_owned(),
        );
        let (Ok(handshake), Ok(place)) = places else {
            if let Some(times) = self.overrun.count(self.clock.instant()) {
                tracing::warn!(%from, times, "too many connections of peers, one more closed");
            }
            return;
        };
        let (server, acceptor, stopped) = (self.clone(), acceptor.clone(), stopped.clone());
        self.tasks.spawn("peer connection", async move {
            let _place = place;
            match timeout(HANDSHAKE_TIMEOUT, let_in(stream, &acceptor)).await {
                Ok(Ok(stream)) => {
                    drop(handshake);
                    server.serve_connection(stream, stopped).await;
                }
                Ok(Err(error)) => server.turned_away(from, &error.to_string()),
                Err(_) => server.turned_away(from, "handshake took too long"),
            }
        });
    }

    fn turned_away(&self, from: SocketAddr, error: &str) {
        if let Some(times) = self.turned_away.count(self.clock.instant()) {
            tracing::warn!(%from, error, times, "connection turned away: no peer of this cluster");
        }
    }

    async fn serve_connection(
        self: Arc<Self>,
        stream: TlsStream<TcpStream>,
        mut stopped: watch::Receiver<bool>,
    ) {
        // Before the key is looked at, so that no replacement is missed in between.
        let mut replaced = self.secrets.replaced();
        let key = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let Some(key) = key.map(|key| key.clone().into_owned()) else { return };
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(SERVER_IDLE);
        let server = self.clone();
        let service = service_fn(move |request| {
            let server = server.clone();
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        let mut connection = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service));
        while self.secrets.current().accepts_client(&key) {
            tokio::select! {
                // A connection that breaks is the caller's affair.
                _ = connection.as_mut() => return,
                changed = replaced.changed() => if changed.is_err() { break },
                _ = stopped.changed() => break,
            }
        }
        connection.as_mut().graceful_shutdown();
        let _ = timeout(DRAIN, connection).await;
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Parts> {
        match self.carry_out(request).await {
            Ok(answer) => Response::new(Parts::new(vec![answer])),
            Err((status, text)) => {
                let mut response = Response::new(Parts::new(vec![Bytes::from(text)]));
                *response.status_mut() = status;
                response
            }
        }
    }

    async fn carry_out(&self, request: Request<Incoming>) -> Result<Bytes, (StatusCode, String)> {
        let refuse = |status, text: &str| Err((status, text.to_owned()));
        if request.method() != Method::POST {
            return refuse(StatusCode::METHOD_NOT_ALLOWED, "only POST");
        }
        let channel = request.uri().path().trim_start_matches('/').to_owned();
        if !is_channel(&channel) {
            return refuse(StatusCode::NOT_FOUND, "no such channel");
        }
        let Some(length) = request.body().size_hint().exact() else {
            return refuse(StatusCode::LENGTH_REQUIRED, "a request says how long it is");
        };
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > body_bytes_max(&channel) {
            return refuse(StatusCode::PAYLOAD_TOO_LARGE, "request too large");
        }
        let Some(room) = self.room_for(length.min(IN_MEMORY_MAX)).await else {
            return refuse(StatusCode::SERVICE_UNAVAILABLE, "too many bytes under way");
        };
        let seconds = length as u64 / BODY_BYTES_PER_SECOND;
        let patience = BODY_TIMEOUT + std::time::Duration::from_secs(seconds);
        let body = match timeout(patience, self.large.read(request.into_body(), length)).await {
            Ok(Ok(body)) => body,
            Ok(Err(error)) => return Err((StatusCode::REQUEST_TIMEOUT, error.to_string())),
            Err(_) => return refuse(StatusCode::REQUEST_TIMEOUT, "request did not arrive in time"),
        };
        let service = self.service.clone();
        let served = self.tasks.spawn("peer request", async move {
            let _room = room;
            service.serve(&channel, body).await
        });
        match served.await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(refusal)) => Err((StatusCode::CONFLICT, refusal.0)),
            // It may be half done.
            Err(_) => refuse(StatusCode::INTERNAL_SERVER_ERROR, "service failed"),
        }
    }

    /// Room for a request, held until it is served. None when there is none in time.
    async fn room_for(&self, length: usize) -> Option<Option<OwnedSemaphorePermit>> {
        if length <= UNCOUNTED_BODY_BYTES_MAX {
            return Some(None);
        }
        let units = u32::try_from(length.div_ceil(COUNTED_UNIT_BYTES)).ok()?;
        let room = timeout(BODIES_WAIT, self.bodies.clone().acquire_many_owned(units)).await;
        room.ok()?.ok().map(Some)
    }
}

/// The handshake, and the byte that says it went well.
async fn let_in(
    stream: TcpStream,
    acceptor: &TlsAcceptor,
) -> std::io::Result<TlsStream<TcpStream>> {
    stream.set_nodelay(true)?;
    let mut stream = acceptor.accept(stream).await?;
    stream.write_u8(WELCOME).await?;
    stream.flush().await?;
    Ok(stream)
}

fn is_channel(channel: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || matches!(byte, b'/' | b'-' | b'_');
    !channel.is_empty() && channel.len() <= CHANNEL_BYTES_MAX && channel.bytes().all(allowed)
}
