//! A pod in the simulation: the real log, journal and actors, on simulated disks and network.

use std::sync::Arc;
use std::time::Duration;

use miroir_actors::health_checker::HealthConfig;
use miroir_actors::inspect::Address;
use miroir_actors::peers::PeersView;
use miroir_actors::pod::{PodConfig, PodContext, PodMessage, start_pod};
use miroir_seams::Seams;
use miroir_storage::commands::Command;
use miroir_storage::ids::{NodeId, PodId};
use miroir_storage::journal::{Journal, JournalConfig};
use miroir_storage::log::{CoordinatorLog, LogConfig, Start};
use miroir_storage::raft::{NoPeers, PeerAddresses, RaftId};
use miroir_storage::routing::NodeRecord;
use ractor::ActorCell;
use tokio::sync::oneshot;

use crate::dice::Dice;
use crate::disk::{Life, LifeEngine, LifeFiles, PodDisk};
use crate::network::{LifeTransport, Network, address_of};
use crate::plan::Plan;
use crate::trace::Trace;

/// How long the actors of a killed pod may take to be gone.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// A running pod.
#[derive(Debug)]
pub struct RunningPod {
    /// Its parts.
    pub context: Arc<PodContext>,
    life: Life,
    root: Address<PodMessage>,
}

/// Why a pod could not start.
#[derive(Debug, thiserror::Error)]
#[error("pod did not start: {0}")]
pub struct StartError(String);

impl RunningPod {
    /// Starts a pod on `disk`, as the program does: log, journal, nodes, actors.
    ///
    /// # Errors
    /// When any part refuses to start.
    pub async fn start(
        plan: &Plan,
        disk: &PodDisk,
        network: &Arc<Network>,
        seed: u64,
        trace: &Trace,
    ) -> Result<Self, StartError> {
        let failed = |error: &dyn std::fmt::Display| StartError(error.to_string());
        let life = Life::default();
        let seams = Seams::seeded(seed);
        let config = LogConfig {
            engine: Arc::new(LifeEngine { engine: disk.engine.clone(), life: life.clone() }),
            raft_id: Some(RaftId(1)),
            start: Start::Alone,
            address: "pod-0".to_owned(),
            peers: Arc::new(NoPeers),
            addresses: PeerAddresses::default(),
        };
        let log = CoordinatorLog::open(config, seams.clone()).await.map_err(|e| failed(&e))?;
        let files = Arc::new(LifeFiles { files: disk.files.clone(), life: life.clone() });
        let journal_config = JournalConfig { bytes_max: 1 << 24, segment_bytes: 4 << 10 };
        let journal =
            Journal::open(files, journal_config, &seams).map_err(|error| failed(&error))?;
        let mut commands = vec![Command::InitCluster { cluster_id: "simulated".to_owned() }];
        commands.extend(plan.nodes().into_iter().map(|(id, group)| {
            Command::PutNode(NodeRecord { address: address_of(&id), id, group, key: None })
        }));
        for command in &commands {
            log.propose(command).await.map_err(|error| failed(&error))?;
        }
        follow_log(&log, &seams, trace.clone());
        let config = PodConfig {
            shards: plan.shards,
            replication_factor: plan.replication_factor,
            health: HealthConfig::default(),
            retention: plan.retention,
            pod_grace: Duration::from_secs(600),
        };
        let transport = Arc::new(LifeTransport { network: network.clone(), life: life.clone() });
        let peers = PeersView::alone(PodId::from("pod-0"), seams.clock.instant());
        let context = PodContext::new(config, log, journal, transport, peers, seams);
        let root = start_pod(context.clone()).await.map_err(|error| failed(&error))?;
        Ok(Self { context, life, root })
    }

    /// Ends the pod at this instant; returns when nothing of it runs any more.
    pub async fn crash(self, disk: &PodDisk, dice: &Dice) {
        self.life.end();
        let (commits, bytes) = (dice.between(0, 6) as usize, dice.between(0, 80) as usize);
        disk.crash(commits, bytes);
        self.context.seams.tasks.end_all();
        let mut cells = vec![self.root.get_cell()];
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
        let actors = self.context.inventory.report();
        let place = place.checked_rem(actors.len() as u64).unwrap_or(0);
        let Some(actor) = actors.into_iter().nth(place as usize) else { return };
        trace.note("operator", format!("restarts {}", actor.id));
        let (reply, done) = oneshot::channel();
        self.context.tell_root(PodMessage::RestartByHand { id: actor.id, reply });
        let trace = trace.clone();
        self.context.seams.tasks.spawn("operator", async move {
            if let Ok(done) = done.await {
                trace.note("operator", format!("{done:?}"));
            }
        });
    }

    /// The nodes that the pod holds for down.
    pub fn down(&self) -> Vec<NodeId> {
        self.context.health.down().iter().cloned().collect()
    }
}

/// Writes what is applied to the trace.
fn follow_log(log: &CoordinatorLog, seams: &Seams, trace: Trace) {
    let mut events = log.subscribe().events;
    seams.tasks.spawn("trace of the log", async move {
        while let Some(event) = events.recv().await {
            trace.note("log", format!("{} {:?}", describe(&event.command), event.outcome));
        }
    });
}

fn describe(command: &Command) -> String {
    match command {
        Command::EnqueueTask(task) => {
            let name = task.index.as_deref().unwrap_or("-");
            let mut work = format!("{:?}", task.work);
            work.truncate(work.find([' ', '{', '(']).unwrap_or(work.len()));
            let operation = task.custom_metadata.as_deref().unwrap_or("-");
            format!("enqueue {work} {name} {operation}")
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
        other => format!("{other:?}"),
    }
}
