//! A node on a free port, and a small client for it.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use miroir_node::{NodeConfig, RunningNode};
use serde_json::Value;
use tempfile::TempDir;

/// The key of every node here.
pub const KEY: &str = "a key of sixteen or more bytes";

/// A node with a directory of its own.
pub struct TestNode {
    pub node: RunningNode,
    pub directory: TempDir,
    client: Client<HttpConnector, Full<Bytes>>,
}

/// What came back.
pub struct Reply {
    pub status: StatusCode,
    pub headers: http::HeaderMap,
    /// `null` for an empty body.
    pub body: Value,
}

impl TestNode {
    /// Starts a node in an empty directory.
    pub async fn start() -> Self {
        Self::start_in(tempfile::tempdir().expect("temporary directory")).await
    }

    /// Starts a node in a directory that an earlier one may have used.
    pub async fn start_in(directory: TempDir) -> Self {
        let address = "127.0.0.1:0".parse().expect("address");
        let mut config = NodeConfig::new(address, directory.path()).with_master_key(KEY);
        config.engine.indexing_threads = Some(1);
        let node = miroir_node::start(config).await.expect("node starts");
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self { node, directory, client }
    }

    /// Sends a request with the key and these headers and body.
    pub async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Reply {
        let bearer = format!("Bearer {KEY}");
        let headers = [&[("authorization", bearer.as_str())], headers].concat();
        self.send_bare(method, path, &headers, body).await
    }

    /// Sends a request without the key.
    pub async fn send_bare(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Reply {
        let mut request = Request::builder()
            .method(Method::from_bytes(method.as_bytes()).expect("method"))
            .uri(format!("{}{path}", self.node.url()));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).expect("request");
        let reply = self.client.request(request).await.expect("reply");
        let (parts, body) = reply.into_parts();
        let body = body.collect().await.expect("whole body").to_bytes();
        let body = if body.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&body).expect("body is JSON")
        };
        Reply { status: parts.status, headers: parts.headers, body }
    }

    /// `GET`.
    pub async fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[], Bytes::new()).await
    }

    /// A request with a JSON body.
    pub async fn json(&self, method: &str, path: &str, body: Value) -> Reply {
        let headers = [("content-type", "application/json")];
        self.send(method, path, &headers, body.to_string()).await
    }

    /// A write that must be accepted; returns its task once that ended.
    pub async fn write(&self, method: &str, path: &str, body: Value) -> Value {
        let reply = self.json(method, path, body).await;
        assert_eq!(reply.status, StatusCode::ACCEPTED, "{}", reply.body);
        self.ended(&reply.body["taskUid"]).await
    }

    /// A write whose task must succeed.
    pub async fn succeed(&self, method: &str, path: &str, body: Value) {
        let task = self.write(method, path, body).await;
        assert_eq!(task["status"], "succeeded", "{task}");
    }

    /// The task with this uid, once it ended.
    pub async fn ended(&self, uid: &Value) -> Value {
        let path = format!("/tasks/{uid}");
        for _ in 0..6000 {
            let task = self.get(&path).await.body;
            if ["succeeded", "failed", "canceled"].contains(&task["status"].as_str().unwrap_or(""))
            {
                return task;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("task {uid} did not end");
    }

    /// A search that must be answered.
    pub async fn search(&self, index: &str, query: Value) -> Value {
        let reply = self.json("POST", &format!("/indexes/{index}/search"), query).await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.body);
        reply.body
    }
}
