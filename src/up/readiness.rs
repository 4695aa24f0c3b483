//! Asks pods and nodes over HTTP whether they serve.

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use miroir_gateway::admin::PeersAnswer;
use miroir_seams::{HttpTransport, NodeCall, NodeTransport};
use miroir_storage::log::VOTERS_MAX;

/// Between two questions; the whole start should take less than 3 s.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// For one answer.
const POLL_TIMEOUT: Duration = Duration::from_secs(2);

/// A `GET` of `path` with a small answer.
pub fn get(base: &str, path: &str, key: Option<&str>) -> NodeCall {
    NodeCall {
        base: base.to_owned(),
        key: key.map(str::to_owned),
        method: Method::GET,
        path: path.to_owned(),
        content_type: None,
        body: Bytes::new(),
        timeout: POLL_TIMEOUT,
        answer_bytes_max: 1 << 20,
    }
}

/// Waits until every node is healthy and every pod ready for searches. Never gives up.
pub async fn wait(transport: &HttpTransport, pods: &[String], nodes: &[String]) {
    let nodes = nodes.iter().map(|node| (node, "/health"));
    let pods = pods.iter().flat_map(|pod| [(pod, "/health"), (pod, "/_miroir/ready")]);
    for (base, path) in nodes.chain(pods) {
        while !answers_well(transport, base, path).await {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}

/// Waits until as many pods vote in the coordinator log as it should have, as each of them sees
/// it: then any one of several may be lost. Never gives up.
pub async fn wait_for_voters(transport: &HttpTransport, pods: &[String], admin_key: &str) {
    for pod in pods {
        while living_voters(transport, pod, admin_key).await < votes_of(pods.len()) {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}

/// The most voters that so many pods may have: an odd number, so that none is there in vain.
fn votes_of(pods: usize) -> usize {
    let odd = if pods.is_multiple_of(2) { pods.saturating_sub(1) } else { pods };
    odd.min(VOTERS_MAX)
}

async fn living_voters(transport: &HttpTransport, pod: &str, admin_key: &str) -> usize {
    let Ok(answer) = transport.send(get(pod, "/_miroir/peers", Some(admin_key))).await else {
        return 0;
    };
    serde_json::from_slice::<PeersAnswer>(answer.body())
        .map_or(0, |peers| peers.pods.iter().filter(|pod| pod.alive && pod.voter).count())
}

async fn answers_well(transport: &HttpTransport, base: &str, path: &str) -> bool {
    let answer = transport.send(get(base, path, None)).await;
    answer.is_ok_and(|answer| answer.status().is_success())
}
