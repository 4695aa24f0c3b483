//! Connections: kept alive, opened to browsers, ended in order.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::{KEY, TestNode};

async fn read_answer(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let read = stream.read(&mut buffer).await.expect("answer");
        answer.extend_from_slice(&buffer[..read]);
        let text = String::from_utf8_lossy(&answer);
        if read == 0 || text.ends_with('}') {
            return text.into_owned();
        }
    }
}

#[tokio::test]
async fn one_connection_serves_many_requests_also_after_a_refusal() {
    let node = TestNode::start().await;
    let mut stream = TcpStream::connect(node.node.address()).await.expect("connection");
    let body = "x".repeat(200_000);
    let refused = format!(
        "POST /indexes/films/documents HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(refused.as_bytes()).await.expect("request");
    assert!(read_answer(&mut stream).await.starts_with("HTTP/1.1 401 Unauthorized\r\n"));
    for _ in 0..3 {
        let request =
            format!("GET /version HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("request");
        assert!(read_answer(&mut stream).await.starts_with("HTTP/1.1 200 OK\r\n"));
    }
}

#[tokio::test]
async fn browsers_of_any_origin_may_ask() {
    let node = TestNode::start().await;
    let preflight = [
        ("origin", "https://example.com"),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization,content-type"),
    ];
    let reply = node.send_bare("OPTIONS", "/indexes/films/search", &preflight, "").await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.headers["access-control-allow-origin"], "*");
    assert_eq!(reply.headers["access-control-allow-headers"], "authorization,content-type");
    let origin = [("origin", "https://example.com")];
    let reply = node.send_bare("GET", "/health", &origin, "").await;
    assert_eq!(reply.headers["access-control-allow-origin"], "*");
}

#[tokio::test]
async fn a_stop_frees_the_directory_and_a_start_finds_everything_again() {
    let node = TestNode::start().await;
    node.succeed("POST", "/indexes/kept/documents", json!([{"id": 1}])).await;
    let mut idle = TcpStream::connect(node.node.address()).await.expect("connection");
    idle.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("request");
    read_answer(&mut idle).await;
    let TestNode { node, directory, .. } = node;
    tokio::time::timeout(Duration::from_secs(5), node.shutdown()).await.expect("stops soon");
    assert_eq!(idle.read(&mut [0; 1]).await.ok(), Some(0), "idle connections are closed");

    let node = TestNode::start_in(directory).await;
    assert_eq!(node.get("/indexes/kept/documents/1").await.body, json!({"id": 1}));
    assert_eq!(node.get("/tasks/0").await.body["status"], "succeeded");
}
