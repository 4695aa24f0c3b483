//! The pods of the cluster as this pod sees them at the moment, and calls to them.
//!
//! Set by whoever listens to the gossip, read by everybody: one pointer. What it says may be
//! stale or wrong; nothing that must be agreed follows from it alone (the log decides).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use miroir_membership::placement::owner;
use miroir_seams::{NoPeers, PeerCall, PeerCallError, PeerTransport};
use miroir_storage::ids::PodId;
use miroir_storage::raft::RaftId;
use tokio::sync::watch;
use tokio::time::Instant;

/// A pod that lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Where its peers reach it, `host:port`.
    pub address: String,
    /// Since when it has been seen without a break.
    pub since: Instant,
    /// It is about to leave: it takes no roles.
    pub leaving: bool,
}

/// What is known of a pod, dead or alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownPod {
    /// Its number in the coordinator log, once it has one.
    pub raft_id: Option<RaftId>,
    /// Where its peers reach it, `host:port`.
    pub peer_address: String,
    /// Where clients reach it, `host:port`.
    pub http_address: String,
    /// Of its program.
    pub version: String,
    /// Whether it is heard of.
    pub alive: bool,
    /// Since when it is what `alive` says.
    pub since: Instant,
    /// Count of its starts.
    pub starts: u64,
    /// Everything that it publishes besides, by name.
    pub values: BTreeMap<String, String>,
}

/// Who lives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peers {
    /// Every pod that gossip knows, this one among them; empty without gossip.
    pub known: BTreeMap<PodId, KnownPod>,
    /// The living pods, this one among them.
    pub live: BTreeMap<PodId, Peer>,
    /// Every pod that was ever seen by this process: one that is missing has died.
    pub seen: BTreeSet<PodId>,
    /// Disks that all that is agreed is on at least: 2 when the log has more than one voter. May be
    /// half a second old; who stores payloads asks the log itself.
    pub copies: usize,
}

impl Peers {
    /// The pods that may be given roles.
    pub fn candidates(&self) -> impl Iterator<Item = &PodId> {
        self.live.iter().filter(|(_, peer)| !peer.leaving).map(|(pod, _)| pod)
    }

    /// The pod that an item of shared work falls to.
    pub fn owner_of(&self, item: &str) -> Option<&PodId> {
        owner(item, self.candidates())
    }

    /// The pods whose journals may hold second copies of `own`'s payloads, best first: the
    /// `preferred` one, then always in the same order, so that copies lie together.
    pub fn second_holders(&self, own: &PodId, preferred: Option<&PodId>) -> Vec<PodId> {
        let mut others: Vec<&PodId> = self.candidates().filter(|pod| *pod != own).collect();
        let mut chosen = Vec::new();
        if let Some(at) = others.iter().position(|pod| Some(*pod) == preferred) {
            chosen.push(others.remove(at).clone());
        }
        while let Some(next) = owner(own.as_str(), others.iter().copied()).cloned() {
            others.retain(|pod| **pod != next);
            chosen.push(next);
        }
        chosen
    }
}

/// The current view, and the way to the pods in it. Clones share it.
#[derive(Clone, Debug)]
pub struct PeersView {
    own: PodId,
    now: Arc<ArcSwap<Peers>>,
    changed: Arc<watch::Sender<()>>,
    /// What this pod tells the others, by key; whoever gossips passes it on.
    published: Arc<ArcSwap<BTreeMap<String, String>>>,
    transport: Arc<dyn PeerTransport>,
}

impl PeersView {
    /// Nobody but this pod, since `since`.
    pub fn alone(own: PodId, since: Instant) -> Self {
        let view = Self::new(own, since, Arc::new(NoPeers));
        view.set(Peers { copies: 1, ..Peers::clone(&view.now()) });
        view
    }

    /// Nobody seen yet but this pod; others are called through `transport`.
    pub fn new(own: PodId, since: Instant, transport: Arc<dyn PeerTransport>) -> Self {
        let peer = Peer { address: String::new(), since, leaving: false };
        let live = BTreeMap::from([(own.clone(), peer)]);
        let seen = BTreeSet::from([own.clone()]);
        let peers = Peers { live, seen, copies: 2, ..Peers::default() };
        let (changed, _) = watch::channel(());
        Self {
            own,
            now: Arc::new(ArcSwap::from_pointee(peers)),
            changed: Arc::new(changed),
            published: Arc::default(),
            transport,
        }
    }

    /// Who lives as far as is known now.
    pub fn now(&self) -> Arc<Peers> {
        self.now.load_full()
    }

    /// See [`Peers::copies`]; for those that ask with every request.
    pub fn copies(&self) -> usize {
        self.now.load().copies
    }

    /// Puts a new view in force. Pods seen before stay in [`Peers::seen`].
    pub fn set(&self, mut peers: Peers) {
        let before = self.now();
        peers.seen.extend(before.seen.iter().cloned());
        peers.seen.extend(peers.live.keys().cloned());
        if *before != peers {
            self.now.store(Arc::new(peers));
            self.changed.send_replace(());
        }
    }

    /// Tells when the view changes.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Tells the other pods a small value.
    pub fn publish(&self, key: &str, value: &str) {
        if self.published.load().get(key).is_some_and(|known| known == value) {
            return;
        }
        self.published.rcu(|known| {
            let mut known = BTreeMap::clone(known);
            known.insert(key.to_owned(), value.to_owned());
            known
        });
    }

    /// All that this pod tells the others.
    pub fn published(&self) -> Arc<BTreeMap<String, String>> {
        self.published.load_full()
    }

    /// This pod.
    pub fn own(&self) -> &PodId {
        &self.own
    }

    /// Calls a pod that lives.
    ///
    /// # Errors
    /// As the transport says; `Unreachable` for a pod that is not seen.
    pub async fn call(
        &self,
        pod: &PodId,
        channel: &'static str,
        body: Vec<Bytes>,
        timeout: Duration,
    ) -> Result<Bytes, PeerCallError> {
        let address = self.now().live.get(pod).map(|peer| peer.address.clone());
        let Some(address) = address else {
            return Err(PeerCallError::Unreachable(format!("pod {pod} is not seen")));
        };
        self.transport.call(PeerCall { address, channel, body, timeout }).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now_in_test() -> Instant {
        miroir_seams::Clock::simulated().instant()
    }

    #[tokio::test(start_paused = true)]
    async fn the_second_copy_goes_to_the_preferred_pod_that_lives_and_stays() {
        let view = PeersView::alone(PodId::from("a"), now_in_test());
        let peer = |leaving| Peer { address: "x:1".into(), since: now_in_test(), leaving };
        let mut peers = Peers::clone(&view.now());
        for (pod, leaving) in [("b", false), ("c", false), ("d", true)] {
            peers.live.insert(PodId::from(pod), peer(leaving));
        }
        let (a, b, c, d) = (PodId::from("a"), PodId::from("b"), PodId::from("c"), PodId::from("d"));
        assert_eq!(peers.second_holders(&a, Some(&c)), vec![c.clone(), b.clone()]);
        assert_eq!(peers.second_holders(&a, Some(&b)), vec![b, c]);
        assert_eq!(peers.second_holders(&a, Some(&d)).len(), 2);
        assert_eq!(peers.second_holders(&a, Some(&a)).len(), 2);
        view.set(peers);
        view.set(Peers::default());
        assert!(view.now().seen.contains(&d));
    }
}
