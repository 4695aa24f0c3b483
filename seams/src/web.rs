//! Calls to addresses that clients name: webhooks.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, header};
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::{ClientConfig, RootCertStore};

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
/// trust and those that the machine does (`SSL_CERT_FILE` and `SSL_CERT_DIR`, else the system's own
/// store), so that webhooks inside a company work. Redirects are not followed: a `3xx` is an answer.
#[derive(Clone, Debug)]
pub struct Web {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl Web {
    /// A transport with an empty pool. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When there is no cryptography for TLS.
    pub fn new() -> Result<Self, rustls::Error> {
        let found = rustls_native_certs::load_native_certs();
        for error in found.errors {
            tracing::debug!(%error, "an authority of the machine can't be read");
        }
        Self::trusting(found.certs)
    }

    /// One that trusts these authorities, too.
    fn trusting(
        authorities: Vec<rustls::pki_types::CertificateDer<'static>>,
    ) -> Result<Self, rustls::Error> {
        let mut roots: RootCertStore = webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect();
        let (_trusted, unfit) = roots.add_parsable_certificates(authorities);
        if unfit > 0 {
            tracing::debug!(unfit, "some authorities of the machine are not understood");
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
        let client = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .pool_idle_timeout(IDLE_MAX)
            .pool_timer(TokioTimer::new())
            .build(connector);
        Ok(Self { client })
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

#[cfg(test)]
mod tests {
    use rustls::ServerConfig;
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    const AUTHORITY: &[u8] = include_bytes!("../testdata/authority.pem");
    const CERTIFICATE: &[u8] = include_bytes!("../testdata/localhost.pem");
    const KEY: &[u8] = include_bytes!("../testdata/localhost.key");

    fn acceptor() -> Result<TlsAcceptor, Box<dyn std::error::Error>> {
        let chain = vec![CertificateDer::from_pem_slice(CERTIFICATE)?];
        let key = PrivateKeyDer::from_pem_slice(KEY)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    /// Answers one request over TLS with 204, and tells it.
    async fn answer_one(listener: &TcpListener, tls: &TlsAcceptor) -> std::io::Result<String> {
        let (stream, _) = listener.accept().await?;
        let mut stream = tls.accept(stream).await?;
        let mut request = Vec::new();
        while !request.ends_with(b"letter") {
            if stream.read_buf(&mut request).await? == 0 {
                break;
            }
        }
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await?;
        stream.shutdown().await?;
        Ok(String::from_utf8_lossy(&request).into_owned())
    }

    #[tokio::test]
    async fn a_webhook_over_tls_is_reached_when_its_authority_is_trusted()
    -> Result<(), Box<dyn std::error::Error>> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let call = WebCall {
            url: format!("https://localhost:{}/hook", listener.local_addr()?.port()),
            headers: vec![("x-from".to_owned(), "miroir".to_owned())],
            body: Bytes::from_static(b"letter"),
            timeout: Duration::from_secs(30),
        };
        let tls = acceptor()?;
        let knows = Web::trusting(vec![CertificateDer::from_pem_slice(AUTHORITY)?])?;
        let (request, status) = tokio::join!(answer_one(&listener, &tls), knows.post(call.clone()));
        assert_eq!(status?, 204);
        let request = request?;
        assert!(request.starts_with("POST /hook HTTP/1.1") && request.contains("x-from: miroir"));

        let stranger = Web::trusting(Vec::new())?;
        let (request, refused) = tokio::join!(answer_one(&listener, &tls), stranger.post(call));
        assert!(request.is_err(), "nothing was said to whom nobody vouches for");
        assert!(matches!(refused, Err(TransportError::Unreachable(_))), "{refused:?}");
        Ok(())
    }
}
