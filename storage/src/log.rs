//! The coordinator log: commands go in, are agreed on, applied, and shown.
//!
//! [`CoordinatorLog::propose`] returns when the command is durable at a quorum of voters,
//! applied here, and visible in [`CoordinatorLog::routing`] and to subscribers, on whichever pod
//! it was called. Concurrent proposals share an entry and its fsync: one entry is under way at a
//! time, and what arrives meanwhile waits for the next.
//!
//! | file | holds |
//! |---|---|
//! | `propose` | the queue of commands, entries, forwarding to the leader |
//! | `serve` | the answers to other pods |
//! | `members` | who belongs to the cluster, changes of that, hand-over of the leadership |
//! | `plan` | which change is due: a pure rule |
//!
//! Upholds, of the safety rules: nothing is told that a crash could take back; `taskUid`s are
//! given in one order. A restart loses nothing but events: subscribers read the tables first.

mod members;
mod plan;
mod propose;
mod serve;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use miroir_seams::{PeerCallError, Seams};
use openraft::{BasicNode, Config, Raft, RaftMetrics, SnapshotPolicy};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

pub use members::{ChangeError, HandOverError, Leadership, Members};
pub use plan::{Change, PodsSeen, VOTERS_MAX, plan_membership};

use crate::commands::{Command, FORMAT, Outcome};
use crate::engine::Engine;
use crate::raft::messages::{INDEX, Leader, Nothing, ReadIndex};
use crate::raft::{
    Applied, Confirmations, LogStore, PeerAddresses, PeerNetwork, PeerTransport, Proposal, RaftId,
    StateMachine, Store, Subscription, TypeConfig, encode_command, in_seams,
};
use crate::routing::Routing;
use crate::tables::ApplyError;
use propose::{Done, Queues, Waiting, drain};

/// How long a proposal may wait for its turn, and then for its quorum.
const PROPOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a pod that is the only voter may take to lead. It needs two fsyncs.
const LEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Proposals waiting for their turn; more wait in [`CoordinatorLog::propose`].
const QUEUE_MAX: usize = 4096;
/// Raft's heartbeat and election time-outs, milliseconds. A follower stands for election when it
/// has heard nothing for the larger time-out (the leader's lease, during which voters refuse all
/// others) plus a random one between the two: 1.9 to 2.4 s. So a leader that stalls for 1 s, with
/// its last heartbeat 250 ms before, stays; a killed one is replaced within 3 s. After a split
/// vote the next attempt follows within 0.7 to 1.2 s. A pod alone doesn't wait at all.
const HEARTBEAT_MS: u64 = 250;
const ELECTION_MS: (u64, u64) = (700, 1200);
/// Entries between compactions, and entries kept for peers that are a little behind.
const COMPACT_ENTRIES: u64 = 5000;
const KEEP_ENTRIES: u64 = 500;
/// Entries purged at a time: each purge is a commit.
const PURGE_ENTRIES: u64 = 256;
/// Bytes of a snapshot in one message.
const SNAPSHOT_PART_BYTES: u64 = 1 << 20;
/// How long one part of a snapshot may take; the last one includes its installation.
const SNAPSHOT_PART_TIMEOUT_MS: u64 = 30_000;
/// How long the leader may take to say how far a read must see, before it is asked again.
const READ_INDEX_TIMEOUT: Duration = Duration::from_millis(700);
/// Pause before the leader is asked again how far a read must see.
const BARRIER_PAUSE: Duration = Duration::from_millis(50);

/// What an empty disk is to become. A pod that has state goes on with it in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// A cluster whose only voter is this pod.
    #[default]
    Alone,
    /// A member of a cluster that exists: waits to be added by its leader.
    Join,
}

/// What a log is opened with.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// Holds the log and the state. Opened by nobody else.
    pub engine: Arc<dyn Engine>,
    /// The identity that the disk must have, or get when it is empty; `None` for the one it has,
    /// or a random one: a pod that lost its disk must come back under another.
    pub raft_id: Option<RaftId>,
    /// What an empty disk is to become.
    pub start: Start,
    /// Where peers reach this pod.
    pub address: String,
    /// How this pod reaches its peers.
    pub peers: Arc<dyn PeerTransport>,
    /// Where peers are, if that is known better than by the log.
    pub addresses: PeerAddresses,
}

/// Why the log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The disk belongs to another pod.
    #[error("this disk belongs to raft id {stored}, not {asked}")]
    OtherIdentity {
        /// Whose it is.
        stored: RaftId,
        /// Who asked.
        asked: RaftId,
    },
    /// What is stored can't be read.
    #[error("coordinator state can't be read: {0}")]
    State(#[from] ApplyError),
    /// The only voter did not come to lead.
    #[error("the only voter did not lead within {0:?}")]
    NotLeading(Duration),
    /// Raft refused to start.
    #[error("raft did not start: {0}")]
    Raft(String),
}

/// Why a proposal has no outcome.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// No leader that could be reached, or no turn in time: the command was certainly not
    /// proposed.
    #[error("no quorum of the coordinator log's voters")]
    NoQuorum,
    /// The command was proposed but not confirmed: it may take effect yet.
    #[error("outcome unknown: the command was proposed but not confirmed")]
    Unknown,
    /// The log was shut down before the command was proposed.
    #[error("the coordinator log is shut down")]
    Stopped,
    /// The log failed for good (disk, or an entry of a newer version) before the command was
    /// proposed. The pod must be restarted.
    #[error("the coordinator log failed: {0}")]
    Fatal(String),
    /// Some pod of the cluster could not read the command: nothing was proposed.
    #[error("not every pod knows this kind of command yet (format {format}, {known} is known)")]
    TooNew {
        /// Of the command; see [`Command::format`].
        format: u32,
        /// What every pod knows.
        known: u32,
    },
}

/// The state of this pod's Raft.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogMetrics {
    /// This pod.
    pub raft_id: RaftId,
    /// Raft's term.
    pub term: u64,
    /// The leader, as far as known.
    pub leader: Option<RaftId>,
    /// The last entry in the log.
    pub last_log: Option<u64>,
    /// The last entry applied.
    pub applied: Option<u64>,
    /// Entries up to this one are forgotten.
    pub purged: Option<u64>,
    /// Whether the log still works.
    pub running: bool,
}

/// How fresh this pod's state is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confirmation {
    /// When the state here was last known to be the newest that was agreed on: confirmed by a
    /// leader that itself was confirmed by a quorum of voters. `None` when it never was.
    pub at: Option<Instant>,
    /// How long ago that was; [`Duration::MAX`] when it never was.
    pub age: Duration,
}

/// No leader said in time how far a read must see, or this pod did not get there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the coordinator log was not confirmed within {0:?}")]
pub struct BarrierError(pub Duration);

/// What the parts of a log share.
struct Core {
    raft: Raft<TypeConfig>,
    raft_id: RaftId,
    engine: Arc<dyn Engine>,
    applied: Arc<Applied>,
    seams: Seams,
    /// The newest format that every pod reads, as far as this pod knows.
    format: AtomicU32,
    network: PeerNetwork,
    confirmations: Arc<Confirmations>,
    /// Held while an entry is under way, and by a leader that steps aside.
    turn: tokio::sync::Mutex<()>,
    /// The number of the next group that is forwarded.
    numbers: AtomicU64,
    /// The last group taken from each pod: (its life, the number in it). Members only.
    seen: Mutex<BTreeMap<RaftId, (u64, u64)>>,
}

impl Core {
    /// The leader, as far as known; this pod, perhaps.
    fn leader(&self) -> Option<Leader> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let raft_id = metrics.current_leader?;
        let node = metrics.membership_config.membership().get_node(&raft_id);
        let address = self.network.address(raft_id, node.map_or("", |node| node.addr.as_str()));
        Some(Leader { raft_id, address, term: metrics.current_term })
    }
}

/// The coordinator log of one pod. Clones share it. Serves the channels that begin with `log/`
/// as a `PeerService`.
#[derive(Clone)]
pub struct CoordinatorLog {
    core: Arc<Core>,
    proposals: mpsc::Sender<Waiting>,
    forwarded: mpsc::Sender<Waiting>,
    leadership: watch::Receiver<Leadership>,
}

impl std::fmt::Debug for CoordinatorLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CoordinatorLog")
            .field("raft_id", &self.core.raft_id)
            .finish_non_exhaustive()
    }
}

impl CoordinatorLog {
    /// Opens the log on its engine; an empty one becomes what [`LogConfig::start`] says. A pod
    /// that is the only voter leads and has applied all of its log on return. Others return at
    /// once: what they show is as old as their disk until [`CoordinatorLog::confirmed`] says
    /// otherwise.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(config: LogConfig, seams: Seams) -> Result<Self, OpenError> {
        let store = Store::new(config.engine.clone(), seams.tasks.clone());
        let log_store = LogStore::new(store.clone());
        let (asked, entropy) = (config.raft_id, seams.entropy.clone());
        // Of 63 bits: some encodings of numbers know no more. 0 is openraft's "nobody".
        let new = move || asked.unwrap_or_else(|| RaftId((entropy.next_u64() >> 1).max(1)));
        let raft_id = log_store.claim_identity(new).await.map_err(ApplyError::from)?;
        if let Some(asked) = asked.filter(|asked| *asked != raft_id) {
            return Err(OpenError::OtherIdentity { stored: raft_id, asked });
        }
        let machine = StateMachine::open(store)?;
        let applied = machine.applied();
        let confirmations = Arc::new(Confirmations::new(raft_id, seams.clone(), applied.clone()));
        let network = PeerNetwork {
            raft_id,
            transport: config.peers.clone(),
            addresses: config.addresses,
            applied: applied.clone(),
            confirmations: confirmations.clone(),
        };
        let options = Arc::new(raft_options().validate().map_err(raft_refused)?);
        applied.serve_snapshots(false);
        let starting = Raft::new(raft_id, options, network.clone(), log_store, machine);
        let raft = in_seams(seams.clone(), starting).await.map_err(raft_refused)?;
        applied.serve_snapshots(true);
        confirmations.attach(raft.metrics());
        let core = Arc::new(Core {
            raft,
            raft_id,
            engine: config.engine,
            applied,
            seams: seams.clone(),
            format: AtomicU32::new(FORMAT),
            network,
            confirmations,
            turn: tokio::sync::Mutex::default(),
            numbers: AtomicU64::new(0),
            seen: Mutex::default(),
        });
        let (proposals, here) = mpsc::channel(QUEUE_MAX);
        let (forwarded, there) = mpsc::channel(QUEUE_MAX);
        let (leader, leadership) = watch::channel(Leadership::default());
        seams.tasks.spawn("coordinator log", drain(core.clone(), Queues::new(here, there)));
        seams.tasks.spawn("coordinator log end", follow_metrics(core.clone(), leader));
        let log = Self { core, proposals, forwarded, leadership };
        let campaigns = config.start == Start::Alone && log.start_if_new(&config.address).await?;
        log.lead_if_alone(campaigns).await?;
        Ok(log)
    }

    /// Says whether this started a cluster: openraft then campaigns by itself.
    async fn start_if_new(&self, address: &str) -> Result<bool, OpenError> {
        let core = &self.core;
        if core.raft.is_initialized().await.map_err(raft_refused)? {
            return Ok(false);
        }
        let members = BTreeMap::from([(core.raft_id, BasicNode::new(address))]);
        // openraft checks again that log and vote are empty: state is never written over.
        core.raft.initialize(members).await.map_err(raft_refused)?;
        Ok(true)
    }

    /// Nobody else can lead, so there is no use in waiting for an election time-out; and what a
    /// crash took from the applied state comes back with the first entry of the new leader.
    /// `campaigns` when an election is under way: a second one would end the first one's
    /// leadership after it was seen.
    async fn lead_if_alone(&self, campaigns: bool) -> Result<(), OpenError> {
        // Asked of Raft itself: its metrics may still be those from before it was initialized.
        let (raft, me) = (&self.core.raft, self.core.raft_id);
        let asked = raft
            .with_raft_state(move |state| state.membership_state.effective().voter_ids().eq([me]));
        if !asked.await.map_err(raft_refused)? {
            return Ok(());
        }
        let mut metrics = raft.metrics();
        if !campaigns && metrics.borrow().current_leader != Some(me) {
            raft.trigger().elect().await.map_err(raft_refused)?;
        }
        let leads = metrics.wait_for(|now| now.current_leader == Some(me) || failed(now));
        match tokio::time::timeout(LEAD_TIMEOUT, leads).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(raft_refused(error)),
            Err(_) => return Err(OpenError::NotLeading(LEAD_TIMEOUT)),
        }
        // An entry without commands: when it is applied, so is everything before it.
        let written = raft.client_write(Proposal::default()).await;
        written.map(drop).map_err(raft_refused)
    }

    /// Proposes `command` and waits until it is applied here. Another pod may lead: it is asked.
    /// While nobody leads, waits for that a while. Commands of one pod take effect in the order
    /// in which they were proposed.
    ///
    /// # Errors
    /// See [`ProposeError`]: only `Unknown` leaves open whether the command takes effect. When
    /// the future is dropped, the command may still be proposed.
    pub async fn propose(&self, command: &Command) -> Result<Outcome, ProposeError> {
        self.propose_encoded(self.encoded(command)?).await
    }

    /// Says which format every pod of the cluster reads: newer commands are refused from now on.
    /// A log that was just opened takes all pods for its equals.
    pub fn limit_format(&self, known: u32) {
        self.core.format.store(known, Ordering::Relaxed);
    }

    fn encoded(&self, command: &Command) -> Result<Bytes, ProposeError> {
        let (format, known) = (command.format(), self.core.format.load(Ordering::Relaxed));
        if format > known {
            return Err(ProposeError::TooNew { format, known });
        }
        encode_command(command).map_err(|error| ProposeError::Fatal(error.to_string()))
    }

    async fn propose_encoded(&self, command: Bytes) -> Result<Outcome, ProposeError> {
        let deadline = self.core.seams.clock.instant() + PROPOSE_TIMEOUT;
        let (done, outcome) = oneshot::channel();
        let waiting = Waiting { commands: vec![command], deadline, done: Done::Here(done) };
        match tokio::time::timeout_at(deadline, self.proposals.send(waiting)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(ProposeError::Stopped),
            Err(_) => return Err(ProposeError::NoQuorum),
        }
        // Dropped without an answer only when the pod ends under way.
        outcome.await.unwrap_or(Err(ProposeError::Unknown))
    }

    /// Puts `command` in line and returns, in order with later proposals. It is lost when the
    /// queue is full, when nobody leads for a while, or when the pod ends.
    pub fn propose_detached(&self, command: &Command) {
        let command = match self.encoded(command) {
            Ok(command) => command,
            Err(error) => return tracing::warn!(%error, "a command can't be proposed"),
        };
        let deadline = self.core.seams.clock.instant() + PROPOSE_TIMEOUT;
        let waiting = Waiting { commands: vec![command], deadline, done: Done::Nobody };
        if let Err(error) = self.proposals.try_send(waiting) {
            tracing::warn!(%error, "a command that nobody waits for is lost");
        }
    }

    /// How fresh the state here is. Cheap: asks nobody.
    pub fn confirmed(&self) -> Confirmation {
        let at = self.core.confirmations.confirmed();
        let now = self.core.seams.clock.instant();
        let age = at.map_or(Duration::MAX, |at| now.saturating_duration_since(at));
        Confirmation { at, age }
    }

    /// Waits until everything that was agreed on before this call is applied here.
    ///
    /// # Errors
    /// When that takes longer than `timeout`.
    pub async fn read_barrier(&self, timeout: Duration) -> Result<(), BarrierError> {
        let passing = async {
            let index = loop {
                // A round among the voters may get stuck while they change: another is begun.
                let asking = self.read_index(READ_INDEX_TIMEOUT);
                match tokio::time::timeout(READ_INDEX_TIMEOUT, asking).await {
                    Ok(Some(index)) => break index,
                    _ => self.core.seams.clock.sleep(BARRIER_PAUSE).await,
                }
            };
            self.core.applied.reached(index).await;
        };
        tokio::time::timeout(timeout, passing).await.map_err(|_| BarrierError(timeout))
    }

    /// The last entry that was agreed on, as the leader knows it after it asked its voters.
    async fn read_index(&self, timeout: Duration) -> Option<u64> {
        let core = &self.core;
        let leader = core.leader()?;
        if leader.raft_id == core.raft_id {
            let (index, _) = core.raft.get_read_log_id().await.ok()?;
            return Some(index.map_or(0, |id| id.index));
        }
        let target = (leader.raft_id, leader.address.as_str());
        let asked: Result<ReadIndex, PeerCallError> =
            core.network.call(target, INDEX, Nothing, timeout).await;
        asked.ok().map(|index| index.0)
    }

    /// The routing view as of the last applied entry that touched it.
    pub fn routing(&self) -> Arc<Routing> {
        self.core.applied.routing()
    }

    /// The tables, for reading.
    pub fn engine(&self) -> &Arc<dyn Engine> {
        &self.core.engine
    }

    /// Follows what is applied from now on. An event comes after its effects can be seen in the
    /// tables and the routing.
    pub fn subscribe(&self) -> Subscription {
        self.core.applied.subscribe()
    }

    /// The entry up to which everything is applied and can be seen here.
    pub fn applied_index(&self) -> u64 {
        self.core.applied.index()
    }

    /// The state of this pod's Raft.
    pub fn metrics(&self) -> LogMetrics {
        let metrics = self.core.raft.metrics();
        let now = metrics.borrow();
        LogMetrics {
            raft_id: self.core.raft_id,
            term: now.current_term,
            leader: now.current_leader,
            last_log: now.last_log_index,
            applied: now.last_applied.map(|id| id.index),
            purged: now.purged.map(|id| id.index),
            running: !failed(&now),
        }
    }

    /// Stops Raft. What was acknowledged is durable with or without this.
    pub async fn shutdown(&self) {
        if let Err(error) = self.core.raft.shutdown().await {
            tracing::warn!(%error, "raft ended badly");
        }
        self.core.applied.close();
    }
}

fn raft_options() -> Config {
    Config {
        cluster_name: "miroir".to_owned(),
        heartbeat_interval: HEARTBEAT_MS,
        election_timeout_min: ELECTION_MS.0,
        election_timeout_max: ELECTION_MS.1,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(COMPACT_ENTRIES),
        max_in_snapshot_log_to_keep: KEEP_ENTRIES,
        purge_batch_size: PURGE_ENTRIES,
        snapshot_max_chunk_size: SNAPSHOT_PART_BYTES,
        install_snapshot_timeout: SNAPSHOT_PART_TIMEOUT_MS,
        ..Config::default()
    }
}

fn raft_refused(error: impl std::fmt::Display) -> OpenError {
    OpenError::Raft(error.to_string())
}

fn failed(metrics: &RaftMetrics<RaftId, BasicNode>) -> bool {
    metrics.running_state.is_err()
}

/// Tells who leads, and ends the subscriptions when Raft ends, so that subscribers notice.
async fn follow_metrics(core: Arc<Core>, leader: watch::Sender<Leadership>) {
    let mut metrics = core.raft.metrics();
    loop {
        let now = {
            let now = metrics.borrow_and_update();
            if failed(&now) {
                break;
            }
            Leadership {
                leader: now.current_leader,
                term: now.current_term,
                here: now.current_leader == Some(core.raft_id),
            }
        };
        leader.send_if_modified(|known| std::mem::replace(known, now) != now);
        // An error says that Raft is gone altogether.
        if metrics.changed().await.is_err() {
            break;
        }
    }
    leader.send_replace(Leadership::default());
    core.applied.close();
}

#[cfg(test)]
mod cluster;
#[cfg(test)]
mod tests;
