//! A network in memory: calls take a millisecond each way, and can be cut off.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use miroir_seams::{PeerCall, PeerCallError, PeerService, PeerTransport};

use crate::log::CoordinatorLog;

const LATENCY: Duration = Duration::from_millis(1);

#[derive(Clone, Debug, Default)]
pub(super) struct Net(Arc<Mutex<Inside>>);

#[derive(Debug, Default)]
struct Inside {
    pods: BTreeMap<String, CoordinatorLog>,
    /// Pods that hear nothing and are not heard, whatever side they are on.
    groups: Vec<BTreeSet<String>>,
    calls: u64,
    /// Calls on these channels are answered, but the answer gets lost.
    deaf: BTreeSet<&'static str>,
}

/// The network as one pod sees it.
#[derive(Clone, Debug)]
pub(super) struct From {
    net: Net,
    from: String,
}

impl Net {
    pub(super) fn of(&self, from: &str) -> From {
        From { net: self.clone(), from: from.to_owned() }
    }

    pub(super) fn put(&self, address: &str, log: CoordinatorLog) {
        self.lock().pods.insert(address.to_owned(), log);
    }

    pub(super) fn take(&self, address: &str) {
        self.lock().pods.remove(address);
    }

    /// Pods of different groups don't reach each other; those in none reach all in none.
    pub(super) fn partition(&self, groups: &[&[usize]]) {
        let named =
            groups.iter().map(|group| group.iter().map(|pod| format!("pod-{pod}")).collect());
        self.lock().groups = named.collect();
    }

    pub(super) fn heal(&self) {
        self.lock().groups.clear();
    }

    pub(super) fn lose_answers(&self, channels: &[&'static str]) {
        self.lock().deaf = channels.iter().copied().collect();
    }

    pub(super) fn calls(&self) -> u64 {
        self.lock().calls
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connected(&self, a: &str, b: &str) -> bool {
        let inside = self.lock();
        let group = |pod: &str| inside.groups.iter().position(|group| group.contains(pod));
        group(a) == group(b)
    }
}

#[async_trait]
impl PeerTransport for From {
    async fn call(&self, call: PeerCall) -> Result<Bytes, PeerCallError> {
        self.net.lock().calls += 1;
        let late = PeerCallError::TimedOut(call.timeout);
        let body: Vec<u8> = call.body.concat();
        let calling = async {
            tokio::time::sleep(LATENCY).await;
            // Packets into a partition vanish.
            if !self.net.connected(&self.from, &call.address) {
                std::future::pending::<()>().await;
            }
            let Some(pod) = self.net.lock().pods.get(&call.address).cloned() else {
                return Err(PeerCallError::Unreachable("nobody listens".to_owned()));
            };
            let answer = pod.serve(call.channel, Bytes::from(body)).await;
            tokio::time::sleep(LATENCY).await;
            if !self.net.lock().pods.contains_key(&call.address) {
                return Err(PeerCallError::Broken("the pod is gone".to_owned()));
            }
            let lost = self.net.lock().deaf.contains(call.channel);
            if lost || !self.net.connected(&self.from, &call.address) {
                std::future::pending::<()>().await;
            }
            answer.map_err(|refusal| PeerCallError::Refused(refusal.0))
        };
        tokio::time::timeout(call.timeout, calling).await.unwrap_or(Err(late))
    }
}
