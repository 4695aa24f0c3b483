//! A pod in the simulation: the real log, journal, gossip and actors, on simulated disks and
//! networks.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use miroir_actors::anti_entropy::AntiEntropyConfig;
use miroir_actors::drain::drain;
use miroir_actors::health_checker::HealthConfig;
use miroir_actors::inspect::Address;
use miroir_actors::peer_service::PodService;
use miroir_actors::peer_watcher;
use miroir_actors::peers::PeersView;
use miroir_actors::pod::{PodConfig, PodContext, PodMessage, start_pod};
use miroir_actors::registration::register;
use miroir_actors::webhook_sender::NoOutlet;
use miroir_membership::gossip::{Gossip, GossipConfig, INTERVAL, PodFacts, SeedSource};
use miroir_membership::secrets::ClusterSecrets;
use miroir_seams::{Clock, Seams};
use miroir_storage::commands::Command;
use miroir_storage::ids::{NodeId, PodId};
use miroir_storage::journal::{Journal, JournalConfig};
use miroir_storage::log::{CoordinatorLog, LogConfig, Start};
use miroir_storage::raft::{NoPeers, PeerAddresses, RaftId};
use miroir_storage::routing::{NodeRecord, Routing};
use ractor::ActorCell;
use tokio::sync::oneshot;

use crate::asked::Asked;
use crate::dice::Dice;
use crate::disk::{Life, LifeEngine, LifeFiles, PodDisk};
use crate::entrance::Entrance;
use crate::ledger::Ledger;
use crate::network::{LifeTransport, Network, address_of};
use crate::peer_network::{LifePeers, PeerNetwork, gossip_address, peer_address};
use crate::plan::Plan;
use crate::trace::Trace;

/// How long the actors of a killed pod may take to be gone.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);
/// Before the log is subscribed to again.
const SUBSCRIBE_PAUSE: Duration = Duration::from_millis(200);
/// Wall clocks are wrong by this much at most, seconds: less than old tasks are kept.
const SKEW_S_MAX: u64 = 2 * 24 * 3600;
/// More than a disk ever holds unsynced.
const KEPT_WHOLE: usize = 1 << 40;
pub(crate) const SECRET: &str = "the secret of the simulated cluster, long enough";

/// What all pods of a world share.
#[derive(Clone, Debug)]
pub struct PodWorld {
    /// The plan.
    pub plan: Plan,
    /// The way to the nodes.
    pub network: Arc<Network>,
    /// The way to each other.
    pub peers: Arc<PeerNetwork>,
    /// What was applied.
    pub ledger: Ledger,
    /// The trace.
    pub trace: Trace,
}

/// The id of a pod.
pub fn pod_id(number: usize) -> PodId {
    PodId(format!("pod-{number}"))
}

/// What there is of a pod that starts.
#[derive(Debug, Default)]
struct Parts {
    context: Option<Arc<PodContext>>,
    entrance: Option<Entrance>,
    gossip: Option<Gossip>,
    root: Option<Address<PodMessage>>,
    /// It serves clients.
    ready: bool,
    /// It gave up.
    failed: Option<String>,
}

/// A pod's process.
#[derive(Debug)]
pub struct RunningPod {
    number: usize,
    life: Life,
    seams: Seams,
    parts: Arc<Mutex<Parts>>,
}

/// Why a pod could not start.
#[derive(Debug, thiserror::Error)]
#[error("pod did not start: {0}")]
pub struct StartError(String);

fn failed(error: impl std::fmt::Display) -> StartError {
    StartError(error.to_string())
}

fn lock(parts: &Mutex<Parts>) -> MutexGuard<'_, Parts> {
    parts.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RunningPod {
    /// Starts a pod on `disk`, as the program does: gossip, log, journal, nodes, actors. A pod
    /// that is alone is ready on return; others go on by themselves. It looks for others at `seeds`.
    ///
    /// # Errors
    /// When any part of a pod that is alone refuses to start.
    pub async fn start(
        world: &PodWorld,
        number: usize,
        seeds: Vec<usize>,
        disk: &PodDisk,
        seed: u64,
    ) -> Result<Self, StartError> {
        let life = Life::default();
        let mut seams = Seams::seeded(seed);
        if world.plan.skews_clocks {
            let dice = Dice::new(seed, "clock");
            let ahead = dice.between(0, SKEW_S_MAX * 2) as i64 - SKEW_S_MAX as i64;
            seams.clock = Clock::simulated_ahead(time::Duration::seconds(ahead));
        }
        let parts = Arc::<Mutex<Parts>>::default();
        let pod = Self { number, life, seams, parts };
        let start = Starting {
            world: world.clone(),
            number,
            seeds,
            disk: disk.clone(),
            life: pod.life.clone(),
            seams: pod.seams.clone(),
            parts: pod.parts.clone(),
        };
        if world.plan.pods == 1 {
            start.run().await?;
        } else {
            let parts = pod.parts.clone();
            pod.seams.tasks.spawn("pod", async move {
                if let Err(error) = start.run().await {
                    lock(&parts).failed = Some(error.to_string());
                }
            });
        }
        Ok(pod)
    }

    /// Its parts, once it serves.
    pub fn context(&self) -> Option<Arc<PodContext>> {
        let parts = lock(&self.parts);
        parts.context.clone().filter(|_| parts.ready)
    }

    /// The way of clients into it, once it serves.
    pub fn entrance(&self) -> Option<Entrance> {
        let parts = lock(&self.parts);
        parts.entrance.clone().filter(|_| parts.ready)
    }

    /// Why it gave up, if it did.
    pub fn failure(&self) -> Option<String> {
        let parts = lock(&self.parts);
        let stopped = parts.context.as_ref().is_some_and(|pod| !pod.log.metrics().running);
        parts.failed.clone().or_else(|| stopped.then(|| "the log stopped".to_owned()))
    }

    /// Hands over what the pod holds, in the background; it serves on meanwhile.
    pub fn begin_drain(&self) {
        let parts = lock(&self.parts);
        let (Some(pod), Some(gossip)) = (parts.context.clone(), parts.gossip.clone()) else {
            return;
        };
        self.seams.tasks.spawn("drain", async move { drain(&pod, &gossip).await });
    }

    /// Ends the pod in order: nothing that it wrote is lost.
    pub async fn stop(self, world: &PodWorld, disk: &PodDisk) {
        let context = lock(&self.parts).context.clone();
        if let Some(context) = context {
            context.log.shutdown().await;
        }
        self.end(world, disk, (KEPT_WHOLE, KEPT_WHOLE)).await;
    }

    /// Ends the pod at this instant; returns when nothing of it runs any more.
    pub async fn crash(self, world: &PodWorld, disk: &PodDisk, dice: &Dice) {
        let kept = (dice.between(0, 6) as usize, dice.between(0, 80) as usize);
        self.end(world, disk, kept).await;
    }

    async fn end(self, world: &PodWorld, disk: &PodDisk, (commits, bytes): (usize, usize)) {
        self.life.end();
        world.peers.remove(self.number);
        disk.crash(commits, bytes);
        self.seams.tasks.end_all();
        let root = lock(&self.parts).root.clone();
        let mut cells: Vec<ActorCell> = root.iter().map(Address::get_cell).collect();
        let mut next = 0;
        while let Some(cell) = cells.get(next).cloned() {
            let mut children: Vec<ActorCell> = cell.get_children();
            children.sort_by_key(ActorCell::get_id);
            cells.extend(children);
            next += 1;
        }
        for cell in cells {
            let _gone = cell.kill_and_wait(Some(KILL_TIMEOUT)).await;
        }
    }

    /// Has an actor started again, as an operator would: the one at `place` of the inventory,
    /// counted around.
    pub fn restart_actor(&self, place: u64, trace: &Trace) {
        let Some(context) = self.context() else { return };
        let actors = context.inventory.report();
        let place = place.checked_rem(actors.len() as u64).unwrap_or(0);
        let Some(actor) = actors.into_iter().nth(place as usize) else { return };
        trace.note("operator", format!("restarts {}", actor.id));
        let (reply, done) = oneshot::channel();
        context.tell_root(PodMessage::RestartByHand { id: actor.id, reply });
        let trace = trace.clone();
        context.seams.tasks.spawn("operator", async move {
            if let Ok(done) = done.await {
                trace.note("operator", format!("{done:?}"));
            }
        });
    }

    /// The nodes that the pod holds for down.
    pub fn down(&self) -> Vec<NodeId> {
        let context = self.context();
        context.map_or_else(Vec::new, |pod| pod.health.down().iter().cloned().collect())
    }
}

/// How a pod goes about its peers.
struct Peering {
    gossip: Gossip,
    facts: PodFacts,
    start: Start,
}

struct Starting {
    world: PodWorld,
    number: usize,
    seeds: Vec<usize>,
    disk: PodDisk,
    life: Life,
    seams: Seams,
    parts: Arc<Mutex<Parts>>,
}

impl Starting {
    async fn run(self) -> Result<(), StartError> {
        let (plan, life, seams) = (&self.world.plan, &self.life, &self.seams);
        let peering = if plan.pods > 1 { Some(self.find_peers().await?) } else { None };
        let transport = Arc::new(LifePeers {
            network: self.world.peers.clone(),
            pod: self.number,
            life: life.clone(),
        });
        let start = peering.as_ref().map_or(Start::Alone, |peering| peering.start);
        let config = LogConfig {
            engine: Arc::new(LifeEngine { engine: self.disk.engine.clone(), life: life.clone() }),
            raft_id: peering.is_none().then_some(RaftId(1)),
            start,
            address: peer_address(self.number),
            peers: match &peering {
                Some(_) => transport.clone(),
                None => Arc::new(NoPeers),
            },
            addresses: match &peering {
                Some(peering) => PeerAddresses::new(peer_watcher::addresses(&peering.gossip)),
                None => PeerAddresses::default(),
            },
        };
        let log = CoordinatorLog::open(config, seams.clone()).await.map_err(failed)?;
        let (files, full) = (self.disk.files.clone(), self.disk.full.clone());
        let files = Arc::new(LifeFiles { files, full, life: life.clone() });
        let journal_config = JournalConfig { bytes_max: 1 << 24, segment_bytes: 4 << 10 };
        let journal = Journal::open(files, journal_config, seams).map_err(failed)?;
        let to_nodes = Arc::new(LifeTransport {
            network: self.world.network.clone(),
            peers: self.world.peers.clone(),
            pod: self.number,
            life: life.clone(),
            reads: false,
            ledger: self.world.ledger.clone(),
            asked: Asked::default(),
        });
        let for_reads = Arc::new(LifeTransport { reads: true, ..LifeTransport::clone(&to_nodes) });
        let (own, now) = (pod_id(self.number), seams.clock.instant());
        let view = match &peering {
            None => PeersView::alone(own, now),
            Some(_) => PeersView::new(own, now, transport),
        };
        let config = pod_config(plan);
        let pod = PodContext::new(
            config,
            log.clone(),
            journal,
            to_nodes,
            view,
            Arc::new(NoOutlet),
            seams.clone(),
        );
        let entrance = Entrance::new(self.number, pod.clone(), for_reads).map_err(failed)?;
        lock(&self.parts).context = Some(pod.clone());
        lock(&self.parts).entrance = Some(entrance);
        follow_log(self.number, &log, seams, &self.world);
        if let Some(Peering { gossip, facts, .. }) = peering {
            let facts = PodFacts { raft_id: log.metrics().raft_id.0, ..facts };
            lock(&self.parts).gossip = Some(gossip.clone());
            peer_watcher::start(&pod, gossip, facts);
            let service = Arc::new(PodService::new(pod.clone()));
            self.world.peers.serve(self.number, service, seams.tasks.clone(), life.clone());
        }
        let begins = (start == Start::Alone).then(|| "simulated".to_owned());
        register(&log, begins, node_records(plan), seams).await.map_err(failed)?;
        let root = start_pod(pod.clone()).await.map_err(failed)?;
        lock(&self.parts).root = Some(root.clone());
        lock(&self.parts).ready = true;
        let (parts, trace, number) = (self.parts, self.world.trace, self.number);
        seams.tasks.clone().spawn("actors", async move {
            let mut root = root;
            loop {
                root.wait().await;
                if !pod.log.metrics().running {
                    return;
                }
                trace.note(format_args!("pod-{number}"), "its actors begin anew");
                match start_pod(pod.clone()).await {
                    Ok(again) => root = again,
                    Err(error) => {
                        lock(&parts).failed = Some(error.to_string());
                        return;
                    }
                }
                lock(&parts).root = Some(root.clone());
            }
        });
        Ok(())
    }

    /// As a pod of several begins: gossip, then a look at whether there is a cluster.
    async fn find_peers(&self) -> Result<Peering, StartError> {
        let plan = &self.world.plan;
        let known = Routing::load(&self.disk.engine).map_err(failed)?.cluster_id;
        let facts = PodFacts {
            raft_id: 0,
            peer_address: peer_address(self.number),
            http_address: format!("pod-{}:7700", self.number),
            version: "simulated".to_owned(),
            cluster_id: (!known.is_empty()).then(|| known.clone()),
            load_permille: 0,
        };
        let own = gossip_address(self.number);
        let seeds = self.seeds.iter().map(|pod| gossip_address(*pod).to_string()).collect();
        let config = GossipConfig {
            pod: pod_id(self.number),
            starts: self.disk.starts.fetch_add(1, Ordering::Relaxed) + 1,
            listen: own,
            advertise: own,
            seeds: SeedSource::new(seeds),
            cluster_name: "simulated".to_owned(),
            interval: INTERVAL,
        };
        let datagrams = Arc::new(LifePeers {
            network: self.world.peers.clone(),
            pod: self.number,
            life: self.life.clone(),
        });
        let secrets = ClusterSecrets::new(&[SECRET]).map_err(failed)?;
        let gossip = Gossip::start(config, &facts, secrets, datagrams, &self.seams);
        let gossip = gossip.await.map_err(failed)?;
        let start = match known.is_empty() {
            false => Start::Join,
            true => {
                let expected = plan.pods - plan.late_pods;
                let engine =
                    LifeEngine { engine: self.disk.engine.clone(), life: self.life.clone() };
                peer_watcher::form(&gossip, expected, &engine, &self.seams.clock)
                    .await
                    .map_err(failed)?
            }
        };
        self.world.trace.note(format_args!("pod-{}", self.number), format!("begins as {start:?}"));
        Ok(Peering { gossip, facts, start })
    }
}

fn pod_config(plan: &Plan) -> PodConfig {
    PodConfig {
        shards: plan.shards,
        replication_factor: plan.replication_factor,
        health: HealthConfig::default(),
        retention: plan.retention,
        pod_grace: Duration::from_secs(600),
        // Where shards move, faults last long enough for copies to be made elsewhere.
        node_grace: Duration::from_secs(if plan.moves { 25 } else { 1800 }),
        move_hours: None,
        anti_entropy: AntiEntropyConfig {
            interval: Duration::from_secs(if plan.changes_documents { 60 } else { 6 * 3600 }),
            repairs: true,
        },
        placement_life: Duration::from_secs(15),
    }
}

/// The nodes of the plan, as the log keeps them.
fn node_records(plan: &Plan) -> Vec<NodeRecord> {
    let record = |(id, group)| NodeRecord { address: address_of(&id), id, group, key: None };
    plan.nodes().into_iter().map(record).collect()
}

/// Writes what is applied to the ledger, and what is applied for the first time to the trace.
fn follow_log(number: usize, log: &CoordinatorLog, seams: &Seams, world: &PodWorld) {
    let (log, world, clock) = (log.clone(), world.clone(), seams.clock.clone());
    let mut events = log.subscribe().events;
    seams.tasks.spawn("trace of the log", async move {
        loop {
            while let Some(event) = events.recv().await {
                if world.ledger.note(number, &event, world.trace.now_ms()) {
                    let what = format!("{} {:?}", describe(&event.command), event.outcome);
                    world.trace.note(format_args!("log/{number}"), what);
                }
            }
            // Another state was installed, or the log has ended.
            clock.sleep(SUBSCRIBE_PAUSE).await;
            events = log.subscribe().events;
        }
    });
}

fn describe(command: &Command) -> String {
    match command {
        Command::EnqueueTask(task)
        | Command::AcceptTask { task, .. }
        | Command::AcceptBoundTask { task, .. } => {
            let name = task.index.as_deref().unwrap_or("-");
            let mut work = format!("{:?}", task.work);
            work.truncate(work.find([' ', '{', '(']).unwrap_or(work.len()));
            let operation = task.custom_metadata.as_deref().unwrap_or("-");
            let held = task.work.payload().map_or(String::new(), |payload| {
                let holders = payload.holders.iter().map(|(pod, at)| format!("{pod}:{at}"));
                format!(" in {}", holders.collect::<Vec<_>>().join(" "))
            });
            format!("enqueue {work} {name} {operation}{held}")
        }
        Command::StartTasks { uids, .. } => {
            format!("start {:?}", uids.iter().map(|uid| uid.0).collect::<Vec<_>>())
        }
        Command::FinishTasks(endings) => {
            let endings: Vec<String> =
                endings.iter().map(|end| format!("{} {:?}", end.uid, end.ending)).collect();
            format!("finish {}", endings.join(", "))
        }
        Command::ChangeInSync { fence, changes } => {
            let node = changes.first().map_or("-", |change| change.node.as_str());
            let verb = if changes.first().is_some_and(|c| c.joins) { "joins" } else { "leaves" };
            format!("{node} {verb} {} ({} shards)", fence.index, changes.len())
        }
        Command::AssignRole { role, pod, .. } => format!("give {role} to {pod}"),
        Command::TakeEpoch { role, pod } => format!("{pod} takes {role}"),
        other => format!("{other:?}"),
    }
}
