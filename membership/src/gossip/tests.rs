//! Several pods in one process, over a network in memory and virtual time; and over UDP.

use std::collections::BTreeMap;
use std::io;
use std::sync::Weak;

use async_trait::async_trait;
use miroir_seams::{DatagramSocket, Entropy, Udp};
use tokio::sync::{Mutex as AsyncMutex, mpsc};

use super::*;

const SECRET: &str = "the secret of the cluster under test, long enough";
const NEXT: &str = "the next secret of the cluster under test, long";
type Letter = (Vec<u8>, SocketAddr);

/// A network of sockets in memory that remembers all it carried.
#[derive(Clone, Debug, Default)]
struct Network {
    inner: Arc<Mutex<NetworkState>>,
}

#[derive(Debug, Default)]
struct NetworkState {
    sockets: BTreeMap<SocketAddr, Weak<mpsc::UnboundedSender<Letter>>>,
    carried: Vec<(SocketAddr, SocketAddr, Vec<u8>)>,
    /// Sockets that neither send nor receive for now, and what waits for them.
    stalled: BTreeMap<SocketAddr, Vec<(SocketAddr, Letter)>>,
    /// Sockets that fail, and sockets that panic, at the next datagram they receive.
    fails: BTreeMap<SocketAddr, Fault>,
}

#[derive(Debug)]
enum Fault {
    Error,
    Panic,
}

impl Network {
    fn deliver(&self, from: SocketAddr, to: SocketAddr, datagram: Vec<u8>) {
        let mut state = self.inner.lock().expect("lock");
        for stalled in [from, to] {
            if let Some(waiting) = state.stalled.get_mut(&stalled) {
                waiting.push((to, (datagram, from)));
                return;
            }
        }
        state.carried.push((from, to, datagram.clone()));
        if let Some(socket) = state.sockets.get(&to).and_then(Weak::upgrade) {
            let _ = socket.send((datagram, from));
        }
    }

    fn stall(&self, who: SocketAddr) {
        self.inner.lock().expect("lock").stalled.insert(who, Vec::new());
    }

    fn resume(&self, who: SocketAddr) {
        let waiting = self.inner.lock().expect("lock").stalled.remove(&who).unwrap_or_default();
        for (to, (datagram, from)) in waiting {
            self.deliver(from, to, datagram);
        }
    }

    fn carried(&self) -> Vec<(SocketAddr, SocketAddr, Vec<u8>)> {
        self.inner.lock().expect("lock").carried.clone()
    }
}

#[derive(Debug)]
struct MemorySocket {
    network: Network,
    own: SocketAddr,
    _sender: Arc<mpsc::UnboundedSender<Letter>>,
    receiver: AsyncMutex<mpsc::UnboundedReceiver<Letter>>,
}

#[async_trait]
impl Datagrams for Network {
    async fn open(&self, listen: SocketAddr) -> io::Result<Box<dyn DatagramSocket>> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let sender = Arc::new(sender);
        let mut state = self.inner.lock().expect("lock");
        state.sockets.insert(listen, Arc::downgrade(&sender));
        let receiver = AsyncMutex::new(receiver);
        Ok(Box::new(MemorySocket { network: self.clone(), own: listen, _sender: sender, receiver }))
    }
}

#[async_trait]
impl DatagramSocket for MemorySocket {
    async fn send_to(&self, datagram: &[u8], to: SocketAddr) -> io::Result<()> {
        self.network.deliver(self.own, to, datagram.to_vec());
        Ok(())
    }

    async fn receive(&self) -> io::Result<Letter> {
        let letter = self.receiver.lock().await.recv().await;
        let fault = self.network.inner.lock().expect("lock").fails.remove(&self.own);
        match fault {
            Some(Fault::Error) => return Err(io::ErrorKind::ConnectionReset.into()),
            Some(Fault::Panic) => panic!("as the test asks"),
            None => {}
        }
        letter.ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

struct Pod {
    gossip: Gossip,
    seams: Seams,
    secrets: ClusterSecrets,
    address: SocketAddr,
}

impl Pod {
    fn sees(&self, other: &str) -> Option<PodView> {
        self.gossip.view().pods.get(&PodId::from(other)).cloned()
    }

    fn sees_alive(&self, other: &str) -> bool {
        self.sees(other).is_some_and(|pod| pod.alive)
    }

    /// Ends as a killed process does.
    fn kill(&self) {
        self.seams.tasks.end_all();
    }
}

fn port(number: u16) -> SocketAddr {
    ([127, 0, 0, 1], number).into()
}

async fn start(
    datagrams: Arc<dyn Datagrams>,
    name: &str,
    starts: u64,
    address: SocketAddr,
    seed: SocketAddr,
    secret: &str,
) -> Pod {
    let entropy = Seams::seeded(u64::from(address.port()) + starts * 100).entropy;
    start_drawing(entropy, datagrams, name, starts, address, seed, secret).await
}

async fn start_drawing(
    entropy: Entropy,
    datagrams: Arc<dyn Datagrams>,
    name: &str,
    starts: u64,
    address: SocketAddr,
    seed: SocketAddr,
    secret: &str,
) -> Pod {
    let seams = Seams { tasks: miroir_seams::Tasks::new(), entropy, ..Seams::seeded(0) };
    let secrets = ClusterSecrets::new(&[secret]).expect("a good secret");
    let config = GossipConfig {
        pod: PodId::from(name),
        starts,
        listen: address,
        advertise: address,
        seeds: SeedSource::new(vec![seed.to_string()]),
        cluster_name: "test".into(),
        interval: INTERVAL,
    };
    let facts = PodFacts {
        raft_id: u64::from(address.port()),
        peer_address: format!("{name}:1"),
        http_address: format!("{name}:2"),
        version: "1".into(),
        ..PodFacts::default()
    };
    let gossip = Gossip::start(config, &facts, secrets.clone(), datagrams, &seams).await;
    Pod { gossip: gossip.expect("gossip"), seams, secrets, address }
}

async fn three(network: &Network) -> [Pod; 3] {
    let net = || Arc::new(network.clone()) as Arc<dyn Datagrams>;
    let pods = [
        start(net(), "a", 1, port(1), port(1), SECRET).await,
        start(net(), "b", 1, port(2), port(1), SECRET).await,
        start(net(), "c", 1, port(3), port(1), SECRET).await,
    ];
    within(Duration::from_secs(3), || all_see_all(&pods)).await;
    // The first intervals are not typical.
    tokio::time::sleep(Duration::from_secs(5)).await;
    pods
}

fn all_see_all(pods: &[Pod]) -> bool {
    pods.iter().all(|pod| {
        let view = pod.gossip.view();
        view.alive().filter(|(_, pod)| pod.facts.is_some()).count() == pods.len()
    })
}

/// Waits until `holds`, looking every 10 ms; how long it took.
async fn within(limit: Duration, holds: impl Fn() -> bool) -> Duration {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < limit, "not within {limit:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    start.elapsed()
}

/// For `time`, looking every 10 ms.
async fn throughout(time: Duration, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while start.elapsed() < time {
        assert!(holds(), "no longer after {:?}", start.elapsed());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_killed_pod_is_noticed_in_three_seconds_and_forgotten_later() {
    let network = Network::default();
    let pods = three(&network).await;
    pods[2].kill();
    let noticed =
        within(Duration::from_secs(3), || !pods[0].sees_alive("c") && !pods[1].sees_alive("c"));
    eprintln!("killed pod noticed by both after {:?} of virtual time", noticed.await);
    throughout(Duration::from_secs(5), || !pods[0].sees_alive("c")).await;
    tokio::time::sleep(FORGET_AFTER + Duration::from_secs(5)).await;
    assert_eq!(pods[0].sees("c"), None);
    assert!(pods[0].sees_alive("b") && pods[1].sees_alive("a"));
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_stalls_for_a_second_is_not_declared_dead() {
    let network = Network::default();
    let pods = three(&network).await;
    for stalled in [1, 2, 0] {
        network.stall(pods[stalled].address);
        throughout(Duration::from_secs(1), || all_see_all(&pods)).await;
        network.resume(pods[stalled].address);
        throughout(Duration::from_secs(3), || all_see_all(&pods)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn who_stood_still_listens_before_it_judges() {
    let network = Network::default();
    let pods = three(&network).await;
    // All timers are late at once, and nothing has been heard for longer than a pod may be silent.
    tokio::time::advance(Duration::from_millis(2500)).await;
    throughout(Duration::from_secs(5), || all_see_all(&pods)).await;
}

#[tokio::test(start_paused = true)]
async fn published_values_reach_others_and_are_taken_back() {
    let network = Network::default();
    let pods = three(&network).await;
    let seen = |pod: &Pod| pod.sees("a").and_then(|a| a.values.get("node/n1").cloned());
    pods[0].gossip.publish("node/n1", "down").expect("published");
    let mut changes = pods[2].gossip.changes();
    let took = within(Duration::from_secs(1), || seen(&pods[2]).as_deref() == Some("down")).await;
    eprintln!("value seen after {took:?} of virtual time");
    assert!(changes.has_changed().expect("gossip runs"));
    assert_eq!(*changes.borrow_and_update(), pods[2].gossip.view());
    pods[0].gossip.withdraw("node/n1");
    within(Duration::from_secs(1), || seen(&pods[2]).is_none()).await;
    let long = "x".repeat(VALUE_BYTES_MAX + 1);
    assert_eq!(pods[0].gossip.publish("k", &long), Err(PublishError::Value(long.len())));
    assert_eq!(pods[0].gossip.publish("", "v"), Err(PublishError::Key(0)));
    let facts =
        PodFacts { load_permille: 700, ..pods[0].sees("a").and_then(|a| a.facts).expect("facts") };
    pods[0].gossip.set_facts(&facts).expect("published");
    let load = |pod: &Pod| pod.sees("a").and_then(|a| a.facts).map(|facts| facts.load_permille);
    within(Duration::from_secs(1), || load(&pods[1]) == Some(700)).await;
}

#[tokio::test(start_paused = true)]
async fn much_that_is_published_reaches_a_new_pod() {
    let network = Network::default();
    let net = || Arc::new(network.clone()) as Arc<dyn Datagrams>;
    let mut pods = Vec::new();
    for number in 1..=6 {
        let pod = start(net(), &format!("p{number}"), 1, port(number), port(1), SECRET).await;
        // Values that don't compress: together more than a datagram holds.
        for key in 0..29 {
            let entropy = miroir_seams::Entropy::seeded(u64::from(number) * 1000 + key);
            let value: String = (0..14).map(|_| entropy.uuid()).collect();
            pod.gossip.publish(&format!("k{key}"), &value[..500]).expect("published");
        }
        pods.push(pod);
    }
    let complete = |pod: &Pod| {
        let view = pod.gossip.view();
        view.pods.len() == 6 && view.pods.values().all(|pod| pod.values.len() == 29)
    };
    within(Duration::from_secs(5), || pods.iter().all(complete)).await;
    let late = start(net(), "late", 1, port(9), port(1), SECRET).await;
    let complete =
        |view: &PeerView| view.pods.values().filter(|pod| pod.values.len() == 29).count() == 6;
    within(Duration::from_secs(5), || complete(&late.gossip.view())).await;
    assert!(network.carried().iter().any(|(_, _, datagram)| datagram.len() > 30_000));
}

#[tokio::test(start_paused = true)]
async fn a_restarted_pod_is_shown_once_with_its_new_generation() {
    let network = Network::default();
    let pods = three(&network).await;
    pods[1].gossip.publish("old", "yes").expect("published");
    within(Duration::from_secs(1), || pods[0].sees("b").is_some_and(|b| !b.values.is_empty()))
        .await;
    pods[1].kill();
    let net = Arc::new(network.clone());
    let again = start(net, "b", 2, port(2), port(1), SECRET).await;
    let newest = |pod: &Pod| pod.sees("b").is_some_and(|b| b.alive && b.starts() == 2);
    within(Duration::from_secs(2), || newest(&pods[0]) && newest(&pods[2])).await;
    throughout(Duration::from_secs(5), || newest(&pods[0]) && newest(&pods[2])).await;
    assert!(pods[0].sees("b").is_some_and(|b| b.values.is_empty()));
    assert!(again.sees_alive("a") && again.sees_alive("c"));
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_counts_its_starts_anew_is_shown_alive() {
    let network = Network::default();
    let pods = three(&network).await;
    let net = || Arc::new(network.clone()) as Arc<dyn Datagrams>;
    let before = start(net(), "d", 5, port(4), port(1), SECRET).await;
    within(Duration::from_secs(3), || pods[0].sees_alive("d")).await;
    before.kill();
    within(Duration::from_secs(3), || !pods[0].sees_alive("d")).await;
    // Its disk, and with it the count, is gone.
    let _again = start(net(), "d", 1, port(4), port(1), SECRET).await;
    let anew = |pod: &Pod| pod.sees("d").is_some_and(|d| d.alive && d.starts() == 1);
    within(Duration::from_secs(3), || pods.iter().all(anew)).await;
    throughout(Duration::from_secs(5), || pods.iter().all(anew)).await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_counted_as_far_before_is_not_taken_for_what_it_was() {
    let network = Network::default();
    let pods = three(&network).await;
    let net = || Arc::new(network.clone()) as Arc<dyn Datagrams>;
    let before = start(net(), "d", 1, port(4), port(1), SECRET).await;
    for change in 0..50 {
        before.gossip.publish("disk", &format!("first {change}")).expect("published");
        before.gossip.publish("gone", "yes").expect("published");
        tokio::time::sleep(INTERVAL).await;
    }
    let shows = |pod: &Pod, disk: &str| {
        pod.sees("d").is_some_and(|d| d.alive && d.values.get("disk").is_some_and(|is| is == disk))
    };
    within(Duration::from_secs(3), || pods.iter().all(|pod| shows(pod, "first 49"))).await;
    before.kill();
    within(Duration::from_secs(3), || !pods[0].sees_alive("d")).await;
    let entropy = Seams::seeded(4000).entropy;
    let again = start_drawing(entropy, net(), "d", 1, port(4), port(1), SECRET).await;
    again.gossip.publish("disk", "second").expect("published");
    within(Duration::from_secs(3), || pods.iter().all(|pod| shows(pod, "second"))).await;
    let anew =
        |pod: &Pod| shows(pod, "second") && pod.sees("d").is_some_and(|d| d.values.len() == 1);
    throughout(Duration::from_secs(5), || pods.iter().all(anew)).await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_with_another_secret_learns_nothing_and_changes_nothing() {
    let network = Network::default();
    let pods = three(&network).await;
    let before = pods[0].gossip.view();
    let other = "another secret of another cluster, long enough too";
    let stranger = start(Arc::new(network.clone()), "x", 1, port(66), port(1), other).await;
    throughout(Duration::from_secs(10), || {
        stranger.gossip.view().pods.len() == 1 && pods[0].gossip.view() == before
    })
    .await;
    // Not even an answer.
    assert!(network.carried().iter().any(|(from, ..)| *from == port(66)));
    assert!(!network.carried().iter().any(|(_, to, _)| *to == port(66)));
}

#[tokio::test(start_paused = true)]
async fn recorded_datagrams_and_garbage_change_nothing() {
    let network = Network::default();
    let pods = three(&network).await;
    let recorded = network.carried();
    pods[2].kill();
    within(Duration::from_secs(3), || !pods[0].sees_alive("c")).await;
    let (a, b) = (pods[0].gossip.view(), pods[1].gossip.view());
    for (from, to, datagram) in &recorded {
        network.deliver(*from, *to, datagram.clone());
        let mut cut = datagram.clone();
        cut.truncate(datagram.len() / 2);
        network.deliver(*from, *to, cut);
        network.deliver(port(77), *to, datagram.iter().rev().copied().collect());
        network.deliver(port(78), *to, Vec::new());
    }
    throughout(Duration::from_secs(5), || pods[0].gossip.view() == a && pods[1].gossip.view() == b)
        .await;
    // A receiver that has just started knows no windows: everything recorded names its predecessor.
    pods[0].kill();
    let again = start(Arc::new(network.clone()), "a", 2, port(1), port(50), SECRET).await;
    pods[1].kill();
    for (from, to, datagram) in &recorded {
        network.deliver(*from, *to, datagram.clone());
    }
    throughout(Duration::from_secs(5), || again.gossip.view().pods.len() == 1).await;
}

#[tokio::test(start_paused = true)]
async fn the_secret_is_replaced_without_a_false_death() {
    let network = Network::default();
    let pods = three(&network).await;
    for list in [&[SECRET, NEXT][..], &[NEXT, SECRET], &[NEXT]] {
        for pod in &pods {
            pod.secrets.replace(list).expect("a good list");
            throughout(Duration::from_secs(3), || all_see_all(&pods)).await;
        }
    }
    // And it counts: whoever has only the old one is a stranger now.
    pods[2].secrets.replace(&[SECRET]).expect("a good list");
    within(Duration::from_secs(3), || !pods[0].sees_alive("c")).await;
}

#[tokio::test(start_paused = true)]
async fn neither_a_failing_socket_nor_a_panic_ends_gossip() {
    let network = Network::default();
    let pods = three(&network).await;
    let fail = |fault| network.inner.lock().expect("lock").fails.insert(pods[1].address, fault);
    fail(Fault::Error);
    throughout(Duration::from_secs(3), || all_see_all(&pods)).await;
    pods[1].gossip.publish("k", "kept").expect("published");
    fail(Fault::Panic);
    tokio::time::sleep(Duration::from_secs(1)).await;
    within(Duration::from_secs(3), || all_see_all(&pods)).await;
    throughout(Duration::from_secs(5), || all_see_all(&pods)).await;
    let b = pods[0].sees("b").expect("b");
    assert_eq!((b.starts(), b.values.get("k").map(String::as_str)), (1, Some("kept")));
}

#[tokio::test(start_paused = true)]
async fn names_of_seeds_are_looked_up_again() {
    #[derive(Debug, Default)]
    struct Book(Mutex<Vec<SocketAddr>>);
    #[async_trait]
    impl ResolveSeed for Book {
        async fn resolve(&self, seed: &str) -> io::Result<Vec<SocketAddr>> {
            assert_eq!(seed, "pods:7280");
            Ok(self.0.lock().expect("lock").clone())
        }
    }
    let network = Network::default();
    let book = Arc::new(Book::default());
    let mut pods = Vec::new();
    for number in [1, 2] {
        let seams = Seams::seeded(number);
        let address = port(u16::try_from(number).expect("small"));
        let config = GossipConfig {
            pod: PodId(format!("p{number}")),
            starts: 1,
            listen: address,
            advertise: address,
            seeds: SeedSource { seeds: vec!["pods:7280".into()], resolver: book.clone() },
            cluster_name: "test".into(),
            interval: INTERVAL,
        };
        let secrets = ClusterSecrets::new(&[SECRET]).expect("a good secret");
        let net = Arc::new(network.clone());
        let gossip = Gossip::start(config, &PodFacts::default(), secrets, net, &seams).await;
        pods.push(gossip.expect("gossip"));
    }
    let together = || pods.iter().all(|pod| pod.view().others_alive().count() == 1);
    throughout(Duration::from_secs(8), || !together()).await;
    book.0.lock().expect("lock").extend([port(1), port(2)]);
    within(LOOKUP_ALONE + Duration::from_secs(2), together).await;
}

/// Real time, real sockets; prints what `gossip.rs` quotes.
#[tokio::test]
async fn over_udp_a_killed_pod_is_noticed_and_a_stalled_one_is_not() {
    let free = || {
        let socket = std::net::UdpSocket::bind(port(0)).expect("a port");
        socket.local_addr().expect("its address")
    };
    let addresses = [free(), free(), free()];
    // Each on a thread of its own, so that one can be stalled as a whole.
    let runtimes = addresses.map(|_| {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(1).enable_all().build().expect("a runtime")
    });
    let mut pods = Vec::new();
    for ((address, name), runtime) in addresses.into_iter().zip(["a", "b", "c"]).zip(&runtimes) {
        let seed = addresses[0];
        let pod = runtime
            .spawn_pod(async move { start(Arc::new(Udp), name, 1, address, seed, SECRET).await });
        pods.push(pod.await.expect("a pod"));
    }
    within(Duration::from_secs(5), || all_see_all(&pods)).await;
    let cpu = cpu_time();
    let start = Instant::now();
    throughout(Duration::from_secs(4), || all_see_all(&pods)).await;
    let share = (cpu_time() - cpu).as_secs_f64() / start.elapsed().as_secs_f64() * 100.0;
    eprintln!("three idle gossips: {share:.2} % of one core, with 100 looks a second");
    runtimes[2].spawn_pod(async { std::thread::sleep(Duration::from_secs(1)) });
    throughout(Duration::from_secs(4), || all_see_all(&pods)).await;
    pods[2].kill();
    let noticed = || !pods[0].sees_alive("c") && !pods[1].sees_alive("c");
    let took = within(Duration::from_secs(3), noticed).await;
    eprintln!("over UDP: killed pod noticed by both after {took:?}");
    for runtime in runtimes {
        runtime.shutdown_background();
    }
}

trait SpawnPod {
    fn spawn_pod<T: Send + 'static>(
        &self,
        pod: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T>;
}

impl SpawnPod for tokio::runtime::Runtime {
    fn spawn_pod<T: Send + 'static>(
        &self,
        pod: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        self.spawn(pod)
    }
}

/// User and system time of this process.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ');
    let ticks: u64 = fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}
