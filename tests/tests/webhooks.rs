//! Webhooks over real pods: each task that ends is told, whichever pod dies.

use std::collections::BTreeSet;
use std::io::Read;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use flate2::read::GzDecoder;
use http::Method;
use miroir_seams::Tasks;
use miroir_tests::client::Api;
use miroir_tests::processes::Cluster;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

const PATIENCE: Duration = Duration::from_secs(60);
/// Between looks at what must come true soon.
const LOOK: Duration = Duration::from_millis(50);

/// Whoever is told of tasks.
#[derive(Debug, Default)]
struct Listener {
    told: Mutex<BTreeSet<u64>>,
    is_away: Mutex<bool>,
}

impl Listener {
    fn set_away(&self, away: bool) {
        *self.is_away.lock().expect("nobody panicked") = away;
    }

    async fn serve(self: Arc<Self>, listener: TcpListener, tasks: Tasks) {
        while let Ok((stream, _)) = listener.accept().await {
            let this = self.clone();
            tasks.spawn("hook", async move {
                let _broken = this.answer(stream).await;
            });
        }
    }

    /// One request, then the connection is closed.
    async fn answer(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut request = Vec::new();
        let (head, body) = loop {
            let mut block = [0; 4096];
            let read = stream.read(&mut block).await?;
            request.extend_from_slice(&block[..read]);
            let Some(end) = request.windows(4).position(|four| four == b"\r\n\r\n") else {
                if read == 0 {
                    return Ok(());
                }
                continue;
            };
            let head = String::from_utf8_lossy(&request[..end]).to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
            if request.len() >= end + 4 + length {
                break (head, request[end + 4..].to_vec());
            }
        };
        let is_away = *self.is_away.lock().expect("nobody panicked");
        let status = if is_away { "503 Service Unavailable" } else { "200 OK" };
        if !is_away {
            assert!(head.starts_with("post /hook"), "{head}");
            assert!(head.contains("authorization: bearer s3cret"), "{head}");
            assert!(head.contains("content-type: application/x-ndjson"), "{head}");
            let mut lines = String::new();
            GzDecoder::new(&body[..]).read_to_string(&mut lines)?;
            let mut told = self.told.lock().expect("nobody panicked");
            for line in lines.lines() {
                let task: Value = serde_json::from_str(line)?;
                assert!(task["finishedAt"].is_string(), "{task}");
                told.extend(task["uid"].as_u64());
            }
        }
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        stream.write_all(answer.as_bytes()).await
    }

    async fn wait_for(&self, uids: &[u64]) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let missing: Vec<u64> = {
                let told = self.told.lock().expect("nobody panicked");
                uids.iter().copied().filter(|uid| !told.contains(uid)).collect()
            };
            if missing.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "not told of {missing:?}");
            tokio::time::sleep(LOOK).await;
        }
    }
}

async fn write(api: &Api, documents: usize) -> Vec<u64> {
    let mut uids = Vec::new();
    for id in 0..documents {
        let path = "/indexes/films/documents";
        let document = json!([{ "id": id, "title": "a" }]);
        uids.push(api.enqueue(Method::POST, path, Some(&document)).await.expect("a task"));
    }
    for uid in &uids {
        api.wait_for_task(*uid, PATIENCE).await.expect("a task that ends");
    }
    uids
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_ended_task_is_told_whichever_pod_dies() {
    let directory = tempfile::tempdir().expect("a directory");
    let shape = ["--pods", "3", "--nodes", "3", "--groups", "1", "--rf", "2", "--no-respawn"];
    let cluster = Cluster::start(directory.path(), &shape).await.expect("a cluster");
    let pods: Vec<Api> = cluster
        .ready
        .pods
        .iter()
        .map(|pod| Api::new(&pod.url, Some(&cluster.ready.master_key)))
        .collect();
    let listener = Arc::new(Listener::default());
    let socket = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/hook", socket.local_addr().expect("an address"));
    let tasks = Tasks::new();
    tasks.spawn("hooks", listener.clone().serve(socket, tasks.clone()));

    let body = json!({ "url": url, "headers": { "Authorization": "Bearer s3cret" } });
    let webhook = pods[0].post("/webhooks", &body).await.expect("a webhook");
    assert_eq!(webhook["headers"]["Authorization"], "Bearer XXX...");
    let path = format!("/webhooks/{}", webhook["uuid"].as_str().unwrap_or_default());
    // Another pod knows it at once.
    assert_eq!(pods[1].get(&path).await.expect("the webhook"), webhook);

    let told = write(&pods[1], 5).await;
    listener.wait_for(&told).await;

    // While nobody listens, tasks end and a pod dies; perhaps the one that would have told.
    listener.set_away(true);
    let untold = write(&pods[0], 5).await;
    cluster.kill(&cluster.ready.pods[2]).expect("it is killed");
    listener.set_away(false);
    let more = write(&pods[0], 5).await;
    listener.wait_for(&[untold, more].concat()).await;

    let answer = pods[0].send(Method::DELETE, &path, None, bytes::Bytes::new()).await;
    assert_eq!(answer.expect("an answer").status, 204);
    let list = pods[0].get("/webhooks").await.expect("a list");
    assert_eq!(list, json!({ "results": [] }));
}
