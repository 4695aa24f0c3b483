//! The way between pods, with everything that goes wrong on it: calls and datagrams.
//!
//! A call is carried by the network's own task and carried out by the called pod's: when the
//! caller dies or gives up, what is under way still arrives. Calls are delayed, lost with a
//! partition, cut off before or after they were carried out; datagrams may also be lost, doubled
//! and overtake each other anywhere. A pod is cut off from all others wholly or in one direction;
//! a stalled pod's messages wait until it goes on. Nodes are reached by another way
//! ([`crate::network`]).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use miroir_seams::{
    DatagramSocket, Datagrams, PeerCall, PeerCallError, PeerService, PeerTransport, Tasks,
};
use tokio::sync::{Mutex as AsyncMutex, mpsc, oneshot};

use crate::dice::Dice;
use crate::disk::Life;

/// How often a stalled pod is looked at by what waits for it.
const STALL_LOOK: Duration = Duration::from_millis(20);
/// A connection that nobody answers is given up after this.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// The port of both ways.
const PORT: u16 = 7800;

/// How a pod is cut off from the other pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Partition {
    /// Neither hears nor is heard.
    Full,
    /// Hears, but is not heard.
    Mute,
    /// Is heard, but does not hear.
    Deaf,
}

/// How often single messages go wrong, in a thousand.
#[derive(Clone, Copy, Debug, Default)]
pub struct PeerRates {
    /// The call's connection breaks before it arrives.
    pub broken_call: u64,
    /// The call is carried out, its connection breaks before the answer.
    pub broken_answer: u64,
    /// Nothing of the call's answer arrives.
    pub lost_answer: u64,
    /// A message takes up to a second.
    pub slow: u64,
    /// A datagram is lost.
    pub lost_datagram: u64,
    /// A datagram arrives twice.
    pub doubled_datagram: u64,
}

type Letter = (Vec<u8>, SocketAddr);

#[derive(Clone, Debug)]
struct Served {
    service: Arc<dyn PeerService>,
    tasks: Tasks,
    life: Life,
}

#[derive(Debug, Default)]
struct Weather {
    pods: BTreeMap<usize, Served>,
    sockets: BTreeMap<SocketAddr, mpsc::UnboundedSender<Letter>>,
    partitions: BTreeMap<usize, Partition>,
    stalled: BTreeSet<usize>,
    rates: PeerRates,
}

/// The network between all pods.
#[derive(Debug)]
pub struct PeerNetwork {
    weather: Mutex<Weather>,
    dice: Dice,
    tasks: Tasks,
    datagrams: AtomicU64,
    bytes: AtomicU64,
}

/// Where peers call a pod.
pub fn peer_address(pod: usize) -> String {
    format!("pod-{pod}:{PORT}")
}

/// Where a pod gossips.
pub fn gossip_address(pod: usize) -> SocketAddr {
    let [.., a, b, c] = (pod as u64).to_be_bytes();
    ([10, a, b, c], PORT).into()
}

fn pod_called(address: &str) -> Option<usize> {
    address.strip_prefix("pod-")?.strip_suffix(&format!(":{PORT}"))?.parse().ok()
}

fn pod_gossiping(address: SocketAddr) -> usize {
    match address {
        SocketAddr::V4(address) => {
            let [_, a, b, c] = address.ip().octets();
            [a, b, c].into_iter().fold(0, |number, byte| number << 8 | usize::from(byte))
        }
        SocketAddr::V6(_) => usize::MAX,
    }
}

impl PeerNetwork {
    /// A network without pods; what is under way is carried by `tasks`.
    pub fn new(dice: Dice, tasks: Tasks) -> Arc<Self> {
        let weather = Mutex::default();
        let (datagrams, bytes) = Default::default();
        Arc::new(Self { weather, dice, tasks, datagrams, bytes })
    }

    /// A pod answers calls from now on, by tasks of its own.
    pub fn serve(&self, pod: usize, service: Arc<dyn PeerService>, tasks: Tasks, life: Life) {
        self.weather().pods.insert(pod, Served { service, tasks, life });
    }

    /// A pod is gone, and whatever it listened to.
    pub fn remove(&self, pod: usize) {
        let mut weather = self.weather();
        weather.pods.remove(&pod);
        weather.sockets.remove(&gossip_address(pod));
        weather.stalled.remove(&pod);
    }

    /// Cuts a pod off from all others, or lets it join them again.
    pub fn set_partition(&self, pod: usize, partition: Option<Partition>) {
        let mut weather = self.weather();
        match partition {
            Some(partition) => weather.partitions.insert(pod, partition),
            None => weather.partitions.remove(&pod),
        };
    }

    /// Lets all messages from and to a pod wait, or go on.
    pub fn set_stalled(&self, pod: usize, stalled: bool) {
        let mut weather = self.weather();
        if stalled {
            weather.stalled.insert(pod);
        } else {
            weather.stalled.remove(&pod);
        }
    }

    /// Whether a pod's messages wait.
    pub fn is_stalled(&self, pod: usize) -> bool {
        self.weather().stalled.contains(&pod)
    }

    /// Waits while a pod is stalled.
    pub async fn while_stalled(&self, pod: usize) {
        while self.is_stalled(pod) {
            tokio::time::sleep(STALL_LOOK).await;
        }
    }

    /// Changes how often messages go wrong.
    pub fn set_rates(&self, rates: PeerRates) {
        self.weather().rates = rates;
    }

    /// No partition, no stall, no message goes wrong.
    pub fn heal(&self) {
        let mut weather = self.weather();
        weather.partitions.clear();
        weather.stalled.clear();
        weather.rates = PeerRates::default();
    }

    fn weather(&self) -> MutexGuard<'_, Weather> {
        self.weather.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_cut(&self, from: usize, to: usize) -> bool {
        let weather = self.weather();
        let of = |pod| weather.partitions.get(&pod).copied();
        from != to
            && (matches!(of(from), Some(Partition::Full | Partition::Mute))
                || matches!(of(to), Some(Partition::Full | Partition::Deaf)))
    }

    fn served(&self, pod: usize) -> Option<Served> {
        self.weather().pods.get(&pod).filter(|served| !served.life.is_over()).cloned()
    }

    /// The way of one message; false when it gets lost.
    async fn travel(&self, from: usize, to: usize) -> bool {
        let slow = self.weather().rates.slow;
        let way = match slow > 0 && self.dice.chance(slow) {
            true => self.dice.millis(10, 1000),
            false => self.dice.millis(1, 4),
        };
        tokio::time::sleep(way).await;
        self.while_stalled(from).await;
        self.while_stalled(to).await;
        !self.is_cut(from, to)
    }

    /// Carries one call; `None` when its caller waits in vain.
    async fn carry(
        &self,
        from: usize,
        to: usize,
        call: PeerCall,
    ) -> Option<Result<Bytes, PeerCallError>> {
        let rates = self.weather().rates;
        let broken = || Some(Err(PeerCallError::Broken("connection reset".into())));
        if !self.travel(from, to).await {
            // Without a connection nothing is sent; over an old one nobody knows.
            if self.dice.chance(400) {
                tokio::time::sleep(CONNECT_TIMEOUT).await;
                return Some(Err(PeerCallError::Unreachable("no connection in time".into())));
            }
            return None;
        }
        if self.dice.chance(rates.broken_call) {
            return broken();
        }
        let Some(served) = self.served(to) else {
            return Some(Err(PeerCallError::Unreachable("connection refused".into())));
        };
        let (service, channel) = (served.service, call.channel);
        let body = Bytes::from(call.body.concat());
        let answering =
            served.tasks.spawn("peer call", async move { service.serve(channel, body).await });
        let Ok(answer) = answering.await else {
            return broken();
        };
        if served.life.is_over() || self.dice.chance(rates.broken_answer) {
            return broken();
        }
        if !self.travel(to, from).await || self.dice.chance(rates.lost_answer) {
            return None;
        }
        Some(answer.map_err(|refusal| PeerCallError::Refused(refusal.0)))
    }

    async fn exchange(
        self: &Arc<Self>,
        from: usize,
        call: PeerCall,
    ) -> Result<Bytes, PeerCallError> {
        let Some(to) = pod_called(&call.address) else {
            return Err(PeerCallError::Unreachable(format!("nobody is {}", call.address)));
        };
        let limit = call.timeout;
        let (reply, answered) = oneshot::channel();
        let network = self.clone();
        self.tasks.spawn("peer network", async move {
            if let Some(outcome) = network.carry(from, to, call).await {
                let _gave_up = reply.send(outcome);
            } else {
                tokio::time::sleep(limit).await;
                drop(reply);
            }
        });
        match tokio::time::timeout(limit, answered).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) | Err(_) => Err(PeerCallError::TimedOut(limit)),
        }
    }

    /// Datagrams sent so far, and their bytes.
    pub fn sent(&self) -> (u64, u64) {
        (self.datagrams.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }

    fn send(self: &Arc<Self>, datagram: &[u8], from: SocketAddr, to: SocketAddr) {
        self.datagrams.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(datagram.len() as u64, Ordering::Relaxed);
        let rates = self.weather().rates;
        if self.dice.chance(rates.lost_datagram) {
            return;
        }
        let copies = if self.dice.chance(rates.doubled_datagram) { 2 } else { 1 };
        for _ in 0..copies {
            let (network, datagram) = (self.clone(), datagram.to_vec());
            self.tasks.spawn("datagram", async move {
                if !network.travel(pod_gossiping(from), pod_gossiping(to)).await {
                    return;
                }
                let socket = network.weather().sockets.get(&to).cloned();
                if let Some(socket) = socket {
                    let _closed = socket.send((datagram, from));
                }
            });
        }
    }
}

/// The network as one life of a pod sees it: once it is over, nothing is sent or heard any more.
#[derive(Clone, Debug)]
pub struct LifePeers {
    /// The network.
    pub network: Arc<PeerNetwork>,
    /// The pod.
    pub pod: usize,
    /// Its life.
    pub life: Life,
}

#[async_trait]
impl PeerTransport for LifePeers {
    async fn call(&self, call: PeerCall) -> Result<Bytes, PeerCallError> {
        if self.life.is_over() {
            return std::future::pending().await;
        }
        let outcome = self.network.exchange(self.pod, call).await;
        if self.life.is_over() {
            return std::future::pending().await;
        }
        outcome
    }
}

#[async_trait]
impl Datagrams for LifePeers {
    async fn open(&self, listen: SocketAddr) -> io::Result<Box<dyn DatagramSocket>> {
        let (sender, receiver) = mpsc::unbounded_channel();
        if !self.life.is_over() {
            self.network.weather().sockets.insert(listen, sender);
        }
        let receiver = AsyncMutex::new(receiver);
        Ok(Box::new(LifeSocket { peers: self.clone(), own: listen, receiver }))
    }
}

#[derive(Debug)]
struct LifeSocket {
    peers: LifePeers,
    own: SocketAddr,
    receiver: AsyncMutex<mpsc::UnboundedReceiver<Letter>>,
}

#[async_trait]
impl DatagramSocket for LifeSocket {
    async fn send_to(&self, datagram: &[u8], to: SocketAddr) -> io::Result<()> {
        if !self.peers.life.is_over() {
            self.peers.network.send(datagram, self.own, to);
        }
        Ok(())
    }

    async fn receive(&self) -> io::Result<Letter> {
        let letter = self.receiver.lock().await.recv().await;
        match letter {
            Some(letter) if !self.peers.life.is_over() => Ok(letter),
            _ => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Echo;

    #[async_trait]
    impl PeerService for Echo {
        async fn serve(&self, _: &str, body: Bytes) -> Result<Bytes, miroir_seams::PeerRefusal> {
            Ok(body)
        }
    }

    fn call() -> PeerCall {
        PeerCall {
            address: peer_address(1),
            channel: "echo",
            body: vec![Bytes::from_static(b"x")],
            timeout: Duration::from_secs(5),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_pod_is_not_reached_and_a_deaf_one_only_heard() {
        let network = PeerNetwork::new(Dice::new(1, "peers"), Tasks::on_one_thread());
        let peers = LifePeers { network: network.clone(), pod: 0, life: Life::default() };
        assert!(matches!(peers.call(call()).await, Err(PeerCallError::Unreachable(_))));
        let life = Life::default();
        network.serve(1, Arc::new(Echo), Tasks::on_one_thread(), life.clone());
        assert_eq!(peers.call(call()).await, Ok(Bytes::from_static(b"x")));
        network.set_partition(1, Some(Partition::Deaf));
        assert!(peers.call(call()).await.is_err());
        network.set_partition(1, None);
        assert!(peers.call(call()).await.is_ok());
        life.end();
        assert!(peers.call(call()).await.is_err());
    }
}
