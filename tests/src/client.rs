//! A small HTTP client of the Meilisearch API: one base URL, one key, whole answers.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, header};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde_json::{Value, json};

/// How long one exchange may take. Generous: a node may be indexing on the same two cores.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(60);
/// Unused connections are closed after this; Meilisearch closes them after 5 s.
const IDLE_MAX: Duration = Duration::from_secs(3);
/// Pause between two looks at a task.
const TASK_POLL: Duration = Duration::from_millis(25);

/// Why there is no answer, or not the expected one.
#[derive(Debug, thiserror::Error)]
pub enum ApiFault {
    /// No answer: the outcome of a write is unknown.
    #[error("no answer to {method} {path}: {cause}")]
    NoAnswer {
        /// The method sent.
        method: Method,
        /// The path sent.
        path: String,
        /// What broke.
        cause: String,
    },
    /// An answer with a status that the caller did not expect.
    #[error("{method} {path} answered {status}: {body}")]
    Status {
        /// The method sent.
        method: Method,
        /// The path sent.
        path: String,
        /// The HTTP status.
        status: u16,
        /// The body as text.
        body: String,
    },
    /// A task that did not succeed.
    #[error("task {uid} is {task}")]
    Task {
        /// The task's uid.
        uid: u64,
        /// The task as answered.
        task: Value,
    },
    /// A task that did not end in time.
    #[error("task {uid} has not ended after {waited:?}")]
    TaskPending {
        /// The task's uid.
        uid: u64,
        /// How long it was waited for.
        waited: Duration,
    },
    /// An answer that lacks what it must hold.
    #[error("answer without {missing}: {body}")]
    Shape {
        /// The key that was looked for.
        missing: &'static str,
        /// The body as answered.
        body: Value,
    },
}

/// An answer with its body read whole.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// HTTP headers.
    pub headers: HeaderMap,
    /// The body.
    pub bytes: Bytes,
}

impl Answer {
    /// The body as JSON; text that is not JSON becomes a JSON string.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&self.bytes).into_owned()))
    }
}

/// One server to talk to.
#[derive(Clone, Debug)]
pub struct Api {
    base: String,
    key: Option<String>,
    patience: Duration,
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Api {
    /// A client of the server at `base` (`http://host:port`). Must be made inside a runtime.
    pub fn new(base: &str, key: Option<&str>) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE_MAX)
            .pool_timer(TokioTimer::new())
            .build(connector);
        Self {
            base: base.trim_end_matches('/').to_owned(),
            key: key.map(str::to_owned),
            patience: EXCHANGE_TIMEOUT,
            client,
        }
    }

    /// The base address.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// The same server with another key.
    pub fn with_key(&self, key: Option<&str>) -> Self {
        Self { key: key.map(str::to_owned), ..self.clone() }
    }

    /// The same server, each exchange given up after `patience` instead of a minute.
    pub fn with_patience(&self, patience: Duration) -> Self {
        Self { patience, ..self.clone() }
    }

    /// Sends `body` as `content_type` (no such header when `None`); any status is an `Ok`.
    ///
    /// # Errors
    /// [`ApiFault::NoAnswer`] when the exchange breaks or takes over a minute.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        content_type: Option<&str>,
        body: Bytes,
    ) -> Result<Answer, ApiFault> {
        let headers: Vec<(&str, &str)> =
            content_type.map(|kind| ("content-type", kind)).into_iter().collect();
        self.send_with(method, path, &headers, body).await
    }

    /// As [`Api::send`], with any headers.
    ///
    /// # Errors
    /// [`ApiFault::NoAnswer`] when the exchange breaks or takes too long.
    pub async fn send_with(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Answer, ApiFault> {
        let no_answer = |cause: String| ApiFault::NoAnswer {
            method: method.clone(),
            path: path.to_owned(),
            cause,
        };
        let mut request =
            Request::builder().method(method.clone()).uri(format!("{}{path}", self.base));
        if let Some(key) = &self.key {
            request = request.header(header::AUTHORIZATION, format!("Bearer {key}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request =
            request.body(Full::new(body)).map_err(|error| no_answer(error.to_string()))?;
        let exchange = async {
            let answer = self.client.request(request).await.map_err(|error| chain(&error))?;
            let (parts, body) = answer.into_parts();
            let bytes = body.collect().await.map_err(|error| chain(&error))?.to_bytes();
            Ok::<_, String>(Answer { status: parts.status.as_u16(), headers: parts.headers, bytes })
        };
        match tokio::time::timeout(self.patience, exchange).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(cause)) => Err(no_answer(cause)),
            Err(_) => Err(no_answer(format!("nothing for {:?}", self.patience))),
        }
    }

    /// Sends JSON and wants a status below 300.
    ///
    /// # Errors
    /// [`ApiFault::NoAnswer`] or [`ApiFault::Status`].
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, ApiFault> {
        let bytes = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        let kind = body.map(|_| "application/json");
        let answer = self.send(method.clone(), path, kind, bytes).await?;
        if answer.status >= 300 {
            return Err(ApiFault::Status {
                method,
                path: path.to_owned(),
                status: answer.status,
                body: String::from_utf8_lossy(&answer.bytes).into_owned(),
            });
        }
        Ok(answer.json())
    }

    /// `GET` of JSON.
    ///
    /// # Errors
    /// As [`Api::call`].
    pub async fn get(&self, path: &str) -> Result<Value, ApiFault> {
        self.call(Method::GET, path, None).await
    }

    /// `POST` of JSON.
    ///
    /// # Errors
    /// As [`Api::call`].
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value, ApiFault> {
        self.call(Method::POST, path, Some(body)).await
    }

    /// Sends a write and returns the uid of the task it became.
    ///
    /// # Errors
    /// As [`Api::call`], and [`ApiFault::Shape`] without a `taskUid`.
    pub async fn enqueue(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<u64, ApiFault> {
        let answer = self.call(method, path, body).await?;
        answer["taskUid"].as_u64().ok_or(ApiFault::Shape { missing: "taskUid", body: answer })
    }

    /// Waits until task `uid` is terminal and returns it, succeeded or not.
    ///
    /// # Errors
    /// As [`Api::call`], and [`ApiFault::TaskPending`] after `patience`.
    pub async fn wait_for_task(&self, uid: u64, patience: Duration) -> Result<Value, ApiFault> {
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            let task = self.get(&format!("/tasks/{uid}")).await?;
            if matches!(task["status"].as_str(), Some("succeeded" | "failed" | "canceled")) {
                return Ok(task);
            }
            if tokio::time::Instant::now() >= deadline {
                return Err(ApiFault::TaskPending { uid, waited: patience });
            }
            tokio::time::sleep(TASK_POLL).await;
        }
    }

    /// Sends a write and waits for its success.
    ///
    /// # Errors
    /// As [`Api::enqueue`] and [`Api::wait_for_task`], and [`ApiFault::Task`] when it failed.
    pub async fn apply(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        patience: Duration,
    ) -> Result<Value, ApiFault> {
        let uid = self.enqueue(method, path, body).await?;
        let task = self.wait_for_task(uid, patience).await?;
        if task["status"] == json!("succeeded") {
            Ok(task)
        } else {
            Err(ApiFault::Task { uid, task })
        }
    }

    /// Waits until `GET /health` says available.
    ///
    /// # Errors
    /// The last fault after `patience`.
    pub async fn wait_until_healthy(&self, patience: Duration) -> Result<(), ApiFault> {
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            match self.get("/health").await {
                Ok(_) => return Ok(()),
                Err(fault) if tokio::time::Instant::now() >= deadline => return Err(fault),
                Err(_) => tokio::time::sleep(TASK_POLL).await,
            }
        }
    }
}

/// An error with its causes, since hyper's own text hides them.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}
