//! Leaving the cluster for good: nothing that only this pod holds may go with it.
//!
//! ```text
//! order ──> leaving: no role and no copy is given to the pod; its own payloads go to others
//!      ──> roles are elsewhere, another pod leads the log
//!      ──> its journal holds nothing that an open task needs, and takes nothing more
//!      ──> retiring: the membership role removes it from the log's members; it accepts no write
//! ```
//! Until it is removed the pod serves as before, and afterwards searches that say how old they may
//! be. The order is kept in memory and gossip alone: a pod that is started again belongs to the
//! cluster again. So an order that was interrupted has done no harm, and is given anew.

use std::sync::Arc;
use std::time::Duration;

use miroir_storage::ids::PodId;
use serde::{Deserialize, Serialize};

use crate::job_worker;
use crate::peer_watcher::LEAVING;
use crate::peers::Peers;
use crate::pod::PodContext;

/// The key under which a pod says that nothing is lost with it: it may be removed.
pub const RETIRING: &str = "retiring";
/// Between looks at what still keeps the pod.
const LOOK: Duration = Duration::from_millis(200);

/// What keeps a pod that is to leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LeaveProgress {
    /// It was ordered to leave.
    pub leaving: bool,
    /// It holds roles, leads the log, or works on chunks of jobs.
    pub holds_roles: bool,
    /// Payloads in its journal.
    pub journalled: u64,
    /// Nothing keeps it any more.
    pub retiring: bool,
}

/// Why a pod doesn't leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "camelCase")]
pub enum LeaveRefusal {
    /// All that is agreed would be lost with it.
    #[error("no other pod is there that stays")]
    LastPod,
}

/// How far this pod is.
pub fn progress(pod: &PodContext) -> LeaveProgress {
    let published = pod.peers.published();
    LeaveProgress {
        leaving: is_ordered(pod),
        holds_roles: pod.holds_roles() || pod.leads() || job_worker::holds_chunks(pod),
        journalled: pod.journal.usage().records as u64,
        retiring: published.contains_key(RETIRING),
    }
}

/// Whether this pod was ordered to leave for good: one that is only about to be started again tells
/// gossip alone.
pub fn is_ordered(pod: &PodContext) -> bool {
    pod.peers.published().contains_key(LEAVING)
}

/// Whether this pod belongs to the cluster only until it is stopped: what it would accept might
/// never be confirmed to it.
pub fn has_left(pod: &PodContext) -> bool {
    pod.peers.published().contains_key(RETIRING)
}

/// Begins to leave; nothing to do for a pod that has begun.
///
/// # Errors
/// See [`LeaveRefusal`].
pub fn begin(pod: &Arc<PodContext>) -> Result<LeaveProgress, LeaveRefusal> {
    if progress(pod).leaving {
        return Ok(progress(pod));
    }
    if !somebody_stays(&pod.peers.now(), &pod.id) {
        return Err(LeaveRefusal::LastPod);
    }
    tracing::info!("leaving the cluster");
    pod.peers.publish(LEAVING, "1");
    let leaving = pod.clone();
    pod.seams.tasks.spawn("leave", async move {
        let pod = leaving;
        loop {
            let now = progress(&pod);
            if pod.leads()
                && !pod.holds_roles()
                && let Err(error) = pod.log.hand_over_leadership(None).await
            {
                tracing::warn!(%error, "leadership of the log was not handed over, trying again");
            }
            // A pod that has not heard of the order may send a copy at any moment: it is told no
            // from the moment on in which nothing is left.
            if !now.holds_roles && pod.journal.close_if_empty() {
                break;
            }
            pod.seams.clock.sleep(LOOK).await;
        }
        pod.peers.publish(RETIRING, "1");
        tracing::info!("nothing is lost with this pod any more");
    });
    Ok(progress(pod))
}

fn somebody_stays(peers: &Peers, own: &PodId) -> bool {
    peers.candidates().any(|pod| pod != own)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::Peer;

    #[tokio::test(start_paused = true)]
    async fn the_last_pod_stays() {
        let since = miroir_seams::Clock::simulated().instant();
        let mut peers = Peers::default();
        for (pod, leaving) in [("a", false), ("b", true)] {
            let peer = Peer { address: String::new(), since, leaving };
            peers.live.insert(PodId::from(pod), peer);
        }
        assert!(!somebody_stays(&peers, &PodId::from("a")));
        assert!(somebody_stays(&peers, &PodId::from("b")));
    }
}
