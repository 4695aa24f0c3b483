//! Handing over what a pod holds before it stops.

use std::sync::Arc;
use std::time::Duration;

use miroir_membership::gossip::Gossip;

use crate::job_worker;
use crate::peer_watcher::LEAVING;
use crate::pod::PodContext;

/// How long a pod that is to stop waits for others to take its roles.
const DRAIN_MAX: Duration = Duration::from_secs(5);
/// Between looks at whether they have.
const DRAIN_LOOK: Duration = Duration::from_millis(50);

/// Tells the others that this pod is leaving, waits until its roles are elsewhere and the chunks
/// of jobs that it works on are given back, and hands over
/// the log's leadership; at most 5 s. The pod serves on meanwhile. Does nothing when
/// nobody else is there.
pub async fn drain(pod: &Arc<PodContext>, gossip: &Gossip) {
    if pod.peers.now().live.len() < 2 {
        return;
    }
    let clock = &pod.seams.clock;
    let begun = clock.instant();
    if let Err(error) = gossip.publish(LEAVING, "1") {
        tracing::warn!(%error, "pod can't say that it is leaving");
        return;
    }
    let draining = async {
        while pod.holds_roles() || job_worker::holds_chunks(pod) {
            clock.sleep(DRAIN_LOOK).await;
        }
        if pod.leads()
            && let Err(error) = pod.log.hand_over_leadership(None).await
        {
            tracing::warn!(%error, "leadership of the log was not handed over");
        }
    };
    match tokio::time::timeout(DRAIN_MAX, draining).await {
        Ok(()) => tracing::info!(took = ?begun.elapsed(), "roles are handed over"),
        Err(_) => tracing::warn!("stopping with roles that nobody took"),
    }
}
