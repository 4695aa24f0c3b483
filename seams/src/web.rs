//! Calls to addresses that clients name: webhooks.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, header};
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};

use crate::transport::TransportError;

/// How long connecting may take: the other side may be anywhere.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections that stay open for the next letter, per address.
const IDLE_CONNECTIONS_MAX: usize = 2;
/// Unused connections are closed after this.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// One `POST`.
#[derive(Clone, Debug)]
pub struct WebCall {
    /// The whole URL, `http` or `https`.
    pub url: String,
    /// Headers by name.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
    /// How long the whole call may take.
    pub timeout: Duration,
}

/// Sends to addresses outside of the cluster. Implemented over HTTP, and by tests.
#[async_trait]
pub trait WebTransport: Send + Sync + std::fmt::Debug + 'static {
    /// Sends `call`; the answer is its status alone.
    ///
    /// # Errors
    /// See [`TransportError`]; any HTTP status is an `Ok`.
    async fn post(&self, call: WebCall) -> Result<u16, TransportError>;
}

/// Reaches nobody: for pods in tests and in the simulation.
#[derive(Clone, Copy, Debug)]
pub struct NoWeb;

#[async_trait]
impl WebTransport for NoWeb {
    async fn post(&self, call: WebCall) -> Result<u16, TransportError> {
        Err(TransportError::Unreachable(call.url))
    }
}

/// The real transport: HTTP/1.1, over TLS for `https`, trusting the authorities that browsers
/// trust. Redirects are not followed: a `3xx` is an answer.
#[derive(Clone, Debug)]
pub struct Web {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl Web {
    /// A transport with an empty pool. Must be called inside a tokio runtime.
    pub fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let connector = HttpsConnectorBuilder::new()
            .with_webpki_roots()
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
        let client = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .pool_idle_timeout(IDLE_MAX)
            .pool_timer(TokioTimer::new())
            .build(connector);
        Self { client }
    }
}

impl Default for Web {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl WebTransport for Web {
    async fn post(&self, call: WebCall) -> Result<u16, TransportError> {
        let WebCall { url, headers, body, timeout } = call;
        let mut request = Request::post(&url).header(header::USER_AGENT, "miroir");
        for (name, value) in &headers {
            request = request.header(name, value);
        }
        let request = request
            .body(Full::new(body))
            .map_err(|error| TransportError::BadAddress(format!("{url}: {error}")))?;
        // What the other side says beside its status means nothing, and is not read.
        match tokio::time::timeout(timeout, self.client.request(request)).await {
            Ok(Ok(answer)) => Ok(answer.status().as_u16()),
            Ok(Err(error)) if error.is_connect() => {
                Err(TransportError::Unreachable(crate::transport::error_chain(&error)))
            }
            Ok(Err(error)) => Err(TransportError::Broken(crate::transport::error_chain(&error))),
            Err(_) => Err(TransportError::TimedOut(timeout)),
        }
    }
}
