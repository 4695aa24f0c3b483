//! The calling side.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use miroir_seams::{Clock, Files, PeerCall, PeerCallError, PeerTransport, Seams, Tasks};
use rustls::pki_types::ServerName;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use super::body::{Parts, Room};
use super::tls::client_config;
use super::{
    CLIENT_IDLE, CONNECT_TIMEOUT, IDLE_PER_ADDRESS_MAX, REFUSAL_BYTES_MAX, WELCOME, body_bytes_max,
};
use crate::secrets::ClusterSecrets;

/// Calls other pods. See the [module](super) for what its errors mean.
pub struct Link {
    secrets: ClusterSecrets,
    connector: TlsConnector,
    clock: Clock,
    tasks: Tasks,
    large: Room,
    /// Connections nobody uses, the newest last. Locked to take one out or put one back only.
    idle: Mutex<BTreeMap<String, Vec<Connection>>>,
}

/// A connection that one call uses, or none. Closed when dropped.
struct Connection {
    sender: SendRequest<Parts>,
    driver: AbortHandle,
    /// Of the secrets that it was made under.
    generation: u64,
    /// When it was last used.
    used: Instant,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("secrets", &self.secrets).finish_non_exhaustive()
    }
}

/// How one attempt ended.
enum Attempt {
    Answered(Result<Bytes, PeerCallError>),
    /// Nothing of the request was written: it may be sent elsewhere.
    NotSent(Box<Request<Parts>>, String),
}

impl Link {
    /// A link without connections. They end with the pod's tasks. Large answers lie in `scratch` files.
    ///
    /// # Errors
    /// When the TLS library refuses its own algorithms: a fault of the build.
    pub fn new(
        secrets: ClusterSecrets,
        scratch: Arc<dyn Files>,
        seams: &Seams,
    ) -> Result<Arc<Self>, rustls::Error> {
        let connector = TlsConnector::from(Arc::new(client_config(&secrets)?));
        Ok(Arc::new(Self {
            secrets,
            connector,
            clock: seams.clock.clone(),
            tasks: seams.tasks.clone(),
            large: Room { files: scratch, tasks: seams.tasks.clone() },
            idle: Mutex::default(),
        }))
    }

    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).values().map(Vec::len).sum()
    }

    #[cfg(test)]
    pub(super) fn secrets(&self) -> &ClusterSecrets {
        &self.secrets
    }

    async fn connect(&self, address: &str) -> Result<Connection, String> {
        let generation = self.secrets.current().generation;
        let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
        // Requests are written whole: waiting for more would only add latency.
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        // Never sent and never looked at: keys prove who is there, not names.
        let name = ServerName::try_from("miroir.invalid").map_err(|error| error.to_string())?;
        let mut stream =
            self.connector.connect(name, stream).await.map_err(|error| error.to_string())?;
        match stream.read_u8().await {
            Ok(WELCOME) => {}
            Ok(other) => return Err(format!("let in with {other}, which this version can't read")),
            Err(error) => return Err(format!("not let in: {error}")),
        }
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        let driver = self.tasks.spawn("peer connection", async move {
            // Whoever uses it hears of the error.
            let _ = connection.await;
        });
        let driver = driver.abort_handle();
        Ok(Connection { sender, driver, generation, used: self.clock.instant() })
    }

    /// A kept connection that looks alive.
    async fn take_idle(&self, address: &str, deadline: Instant) -> Option<Connection> {
        let generation = self.secrets.current().generation;
        loop {
            let mut connection = {
                let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
                idle.get_mut(address)?.pop()?
            };
            let unused = self.clock.instant().saturating_duration_since(connection.used);
            if unused >= CLIENT_IDLE || connection.generation != generation {
                continue;
            }
            if let Ok(Ok(())) = timeout_at(deadline, connection.sender.ready()).await {
                return Some(connection);
            }
        }
    }

    fn put_back(&self, address: &str, mut connection: Connection) {
        let now = self.clock.instant();
        connection.used = now;
        let generation = self.secrets.current().generation;
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if !connection.sender.is_closed() && connection.generation == generation {
            idle.entry(address.to_owned()).or_default().push(connection);
        }
        // Of all addresses, so that a pod that is gone leaves nothing behind.
        idle.retain(|_, connections| {
            connections.retain(|kept| {
                kept.generation == generation
                    && !kept.sender.is_closed()
                    && now.saturating_duration_since(kept.used) < CLIENT_IDLE
            });
            let surplus = connections.len().saturating_sub(IDLE_PER_ADDRESS_MAX);
            connections.drain(..surplus);
            !connections.is_empty()
        });
    }

    async fn attempt(
        &self,
        mut connection: Connection,
        request: Request<Parts>,
        call: &CallLimits<'_>,
    ) -> Attempt {
        let sent = timeout_at(call.deadline, connection.sender.try_send_request(request)).await;
        let response = match sent {
            Ok(Ok(response)) => response,
            Ok(Err(mut error)) => {
                let text = error.error().to_string();
                return match error.take_message() {
                    Some(request) => Attempt::NotSent(Box::new(request), text),
                    None => Attempt::Answered(Err(PeerCallError::Broken(text))),
                };
            }
            Err(_) => return Attempt::Answered(Err(call.timed_out())),
        };
        let answer =
            match timeout_at(call.deadline, read_answer(response, call.bytes_max, &self.large))
                .await
            {
                Ok(answer) => answer,
                Err(_) => return Attempt::Answered(Err(call.timed_out())),
            };
        if !matches!(answer, Err(PeerCallError::Broken(_))) {
            self.put_back(call.address, connection);
        }
        Attempt::Answered(answer)
    }
}

struct CallLimits<'a> {
    address: &'a str,
    deadline: Instant,
    timeout: std::time::Duration,
    bytes_max: usize,
}

impl CallLimits<'_> {
    fn timed_out(&self) -> PeerCallError {
        PeerCallError::TimedOut(self.timeout)
    }
}

#[async_trait]
impl PeerTransport for Link {
    async fn call(&self, call: PeerCall) -> Result<Bytes, PeerCallError> {
        let now = self.clock.instant();
        let limits = CallLimits {
            address: &call.address,
            deadline: now + call.timeout,
            timeout: call.timeout,
            bytes_max: body_bytes_max(call.channel),
        };
        let parts = Parts::new(call.body);
        if parts.len() > limits.bytes_max {
            let text = format!("{} bytes, {} are the limit", parts.len(), limits.bytes_max);
            return Err(PeerCallError::Refused(text));
        }
        let mut request = Request::post(format!("/{}", call.channel))
            .header(http::header::HOST, call.address.as_str())
            .body(parts)
            .map_err(|error| PeerCallError::Unreachable(error.to_string()))?;
        while let Some(connection) = self.take_idle(&call.address, limits.deadline).await {
            match self.attempt(connection, request, &limits).await {
                Attempt::Answered(answer) => return answer,
                Attempt::NotSent(again, _) => request = *again,
            }
        }
        let deadline = limits.deadline.min(self.clock.instant() + CONNECT_TIMEOUT);
        let connection = match timeout_at(deadline, self.connect(&call.address)).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(text)) => return Err(PeerCallError::Unreachable(text)),
            Err(_) => return Err(PeerCallError::Unreachable("connecting took too long".into())),
        };
        match self.attempt(connection, request, &limits).await {
            Attempt::Answered(answer) => answer,
            Attempt::NotSent(_, text) => Err(PeerCallError::Unreachable(text)),
        }
    }
}

async fn read_answer(
    response: Response<Incoming>,
    bytes_max: usize,
    large: &Room,
) -> Result<Bytes, PeerCallError> {
    let status = response.status();
    match status {
        StatusCode::OK => {
            let answer = large.read(response.into_body(), bytes_max).await;
            answer.map_err(|error| PeerCallError::Broken(format!("answer: {error}")))
        }
        StatusCode::NOT_FOUND
        | StatusCode::METHOD_NOT_ALLOWED
        | StatusCode::REQUEST_TIMEOUT
        | StatusCode::CONFLICT
        | StatusCode::LENGTH_REQUIRED
        | StatusCode::PAYLOAD_TOO_LARGE
        | StatusCode::SERVICE_UNAVAILABLE => {
            // A refusal is one even when its text is lost.
            let text = large.read(response.into_body(), REFUSAL_BYTES_MAX).await;
            let text = text.map(|text| String::from_utf8_lossy(&text).into_owned());
            Err(PeerCallError::Refused(text.unwrap_or_else(|_| status.to_string())))
        }
        other => Err(PeerCallError::Broken(format!("answered {other}"))),
    }
}
