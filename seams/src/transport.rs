//! Calls to nodes over HTTP.

use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http::{Method, Request, Response, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};

/// One request to one node.
#[derive(Clone, Debug)]
pub struct NodeCall {
    /// The node's base address, `http://host:port`, without a trailing slash.
    pub base: String,
    /// The bearer key, if the node has one.
    pub key: Option<String>,
    /// HTTP method.
    pub method: Method,
    /// Path and query, beginning with `/`.
    pub path: String,
    /// The body's media type, when there is a body.
    pub content_type: Option<&'static str>,
    /// The body; empty for none.
    pub body: Bytes,
    /// How long the whole call may take.
    pub timeout: Duration,
    /// The largest answer accepted, bytes; a longer one is an error (a node that sends
    /// garbage must not fill the pod's memory).
    pub answer_bytes_max: usize,
}

impl NodeCall {
    /// The default limit of an answer: 256 MiB, above any page of documents we ask for.
    pub const ANSWER_BYTES_MAX: usize = 256 << 20;
}

/// Why a node gave no answer. An answer with an error status is not an error here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// No connection could be made: the request was certainly not carried out.
    #[error("node could not be reached: {0}")]
    Unreachable(String),
    /// The time ran out: the request may have been or may yet be carried out.
    #[error("node did not answer in {0:?}")]
    TimedOut(Duration),
    /// The connection broke, or the answer was not HTTP: the outcome is unknown.
    #[error("connection to node broke: {0}")]
    Broken(String),
    /// The answer was larger than the caller allows.
    #[error("node answered more than {0} bytes")]
    TooLarge(usize),
    /// The address is not a URL.
    #[error("node address is not valid: {0}")]
    BadAddress(String),
}

impl TransportError {
    /// Whether the request certainly never reached the node.
    pub fn not_sent(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::BadAddress(_))
    }
}

/// Sends requests to nodes. Implemented over HTTP and by the simulation's model nodes.
#[async_trait]
pub trait NodeTransport: Send + Sync + std::fmt::Debug + 'static {
    /// Sends `call` and reads the whole answer.
    ///
    /// # Errors
    /// See [`TransportError`]; any HTTP status is an `Ok`.
    async fn send(&self, call: NodeCall) -> Result<Response<Bytes>, TransportError>;
}

/// Connections kept open per node while idle; about the number of concurrent searches.
const IDLE_CONNECTIONS_MAX: usize = 64;
/// Unused connections are closed after this. Meilisearch closes them after 5 s; a request that is
/// sent at that moment is lost, and of a write nobody then knows whether it was carried out.
const IDLE_MAX: Duration = Duration::from_secs(3);
/// How long connecting may take; nodes are near, and another replica may be waiting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The real transport: pooled HTTP/1.1 connections, no proxy.
#[derive(Clone, Debug)]
pub struct HttpTransport {
    client: Client<HttpConnector, Full<Bytes>>,
}

impl HttpTransport {
    /// A transport with an empty pool. Must be called inside a tokio runtime.
    pub fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let client = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .pool_idle_timeout(IDLE_MAX)
            .pool_timer(TokioTimer::new())
            .build(connector);
        Self { client }
    }

    async fn exchange(&self, call: NodeCall) -> Result<Response<Bytes>, TransportError> {
        let limit = call.answer_bytes_max;
        let request = build_request(call)?;
        let answer = self.client.request(request).await.map_err(|error| {
            if error.is_connect() {
                TransportError::Unreachable(error_chain(&error))
            } else {
                TransportError::Broken(error_chain(&error))
            }
        })?;
        let (parts, mut body) = answer.into_parts();
        let mut first: Option<Bytes> = None;
        let mut rest = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| TransportError::Broken(error_chain(&error)))?;
            let Ok(data) = frame.into_data() else { continue };
            let length = first.as_ref().map_or(0, Bytes::len) + rest.len() + data.len();
            if length > limit {
                return Err(TransportError::TooLarge(limit));
            }
            match first.take() {
                // One frame is the usual case and is not copied.
                None if rest.is_empty() => first = Some(data),
                Some(head) => {
                    rest.extend_from_slice(&head);
                    rest.extend_from_slice(&data);
                }
                None => rest.extend_from_slice(&data),
            }
        }
        Ok(Response::from_parts(parts, first.unwrap_or_else(|| rest.freeze())))
    }
}

impl Default for HttpTransport {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl NodeTransport for HttpTransport {
    async fn send(&self, call: NodeCall) -> Result<Response<Bytes>, TransportError> {
        let limit = call.timeout;
        match tokio::time::timeout(limit, self.exchange(call)).await {
            Ok(result) => result,
            Err(_) => Err(TransportError::TimedOut(limit)),
        }
    }
}

fn build_request(call: NodeCall) -> Result<Request<Full<Bytes>>, TransportError> {
    let uri: Uri = format!("{}{}", call.base, call.path).parse().map_err(|error| {
        TransportError::BadAddress(format!("{}{}: {error}", call.base, call.path))
    })?;
    let mut request = Request::builder().method(call.method).uri(uri);
    if let Some(key) = &call.key {
        request = request.header(header::AUTHORIZATION, format!("Bearer {key}"));
    }
    if let Some(content_type) = call.content_type {
        request = request.header(header::CONTENT_TYPE, content_type);
    }
    request
        .body(Full::new(call.body))
        .map_err(|error| TransportError::BadAddress(error.to_string()))
}

pub(crate) fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
