//! One request to a pod's admin API, and what to say when it brings nothing.

use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http::{Method, StatusCode, Uri};
use miroir_seams::{HttpTransport, NodeCall, NodeTransport, TransportError};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::config::Secret;
use crate::exit::Refused;

/// A pod asks the others before it answers, and gives them a few seconds.
const TIMEOUT: Duration = Duration::from_secs(15);
/// The actors of the largest cluster are a few megabytes.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Asks one pod.
#[derive(Debug)]
pub struct AdminClient {
    transport: HttpTransport,
    base: String,
    key: Secret,
}

/// Nothing was brought about, or nobody knows; asking again may help.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct TryAgain {
    message: String,
    code: Option<String>,
}

impl TryAgain {
    /// The pod has too much to do.
    pub fn is_overloaded(&self) -> bool {
        self.code.as_deref() == Some("miroir_overloaded")
    }
}

/// An answer is larger than this program takes: less must be asked for at a time.
#[derive(Debug, thiserror::Error)]
#[error("{base} answers more than {limit} bytes")]
pub struct TooLarge {
    base: String,
    limit: usize,
}

/// What a pod says when it refuses.
#[derive(Debug, Deserialize)]
struct Refusal {
    message: String,
    code: String,
}

impl AdminClient {
    /// A client of the pod at `url`.
    ///
    /// # Errors
    /// When `url` is not `http://host:port`.
    pub fn new(transport: HttpTransport, url: &str, key: Secret) -> Result<Self, Refused> {
        let base = url.trim_end_matches('/');
        let refuse = |why: &str| Refused(format!("--url {url}: {why}"));
        let uri: Uri = base.parse().map_err(|_| refuse("this is not a URL"))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => return Err(refuse("https is not supported yet")),
            _ => return Err(refuse("write it like http://127.0.0.1:7700")),
        }
        if uri.path() != "/" || uri.query().is_some() {
            return Err(refuse("it must end after the port"));
        }
        Ok(Self { transport, base: base.to_owned(), key })
    }

    /// The answer, as it came and as what it is.
    ///
    /// # Errors
    /// [`Refused`] when asking again in the same way won't help; [`TryAgain`] when it may.
    pub async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
    ) -> anyhow::Result<(String, T)> {
        self.send(method, path, Bytes::new(), TIMEOUT).await
    }

    /// The same, with a body of JSON.
    ///
    /// # Errors
    /// As [`AdminClient::ask`].
    pub async fn send_json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> anyhow::Result<(String, T)> {
        let body = serde_json::to_vec(body).context("can't write the request")?;
        self.send_as(method, path, body.into(), "application/json", TIMEOUT).await
    }

    /// The same, with a body of NDJSON.
    ///
    /// # Errors
    /// As [`AdminClient::ask`].
    pub async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        timeout: Duration,
    ) -> anyhow::Result<(String, T)> {
        self.send_as(method, path, body, "application/x-ndjson", timeout).await
    }

    async fn send_as<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        content_type: &'static str,
        timeout: Duration,
    ) -> anyhow::Result<(String, T)> {
        let call = NodeCall {
            base: self.base.clone(),
            key: Some(self.key.reveal().to_owned()),
            method,
            path: path.to_owned(),
            content_type: (!body.is_empty()).then_some(content_type),
            body,
            timeout,
            answer_bytes_max: ANSWER_BYTES_MAX,
        };
        let answer = self.transport.send(call).await.map_err(|error| self.not_answered(error))?;
        let (status, body) = (answer.status(), answer.into_body());
        if !status.is_success() {
            return Err(self.refused(status, &body));
        }
        let strange = || format!("{} does not answer like a pod of this version", self.base);
        let text = String::from_utf8(body.into()).with_context(strange)?;
        let value = serde_json::from_str(&text).with_context(strange)?;
        Ok((text, value))
    }

    fn not_answered(&self, error: TransportError) -> anyhow::Error {
        let base = &self.base;
        let message = match error {
            TransportError::Unreachable(why) => {
                format!("no pod can be reached at {base} (--url chooses another): {why}")
            }
            TransportError::TimedOut(limit) => {
                format!("the pod at {base} did not answer in {limit:?}")
            }
            TransportError::Broken(why) => format!("the connection to {base} broke: {why}"),
            TransportError::TooLarge(limit) => {
                return TooLarge { base: base.clone(), limit }.into();
            }
            TransportError::BadAddress(why) => {
                return Refused(format!("--url {base}: {why}")).into();
            }
        };
        TryAgain { message, code: None }.into()
    }

    fn refused(&self, status: StatusCode, body: &[u8]) -> anyhow::Error {
        let base = &self.base;
        let (message, code) = match serde_json::from_slice::<Refusal>(body) {
            Ok(Refusal { message, code }) => (format!("{base}: {message} ({code})"), Some(code)),
            Err(_) => (format!("{base} does not answer like a pod: {status}"), None),
        };
        let again_may_help = status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED;
        if again_may_help { TryAgain { message, code }.into() } else { Refused(message).into() }
    }
}
