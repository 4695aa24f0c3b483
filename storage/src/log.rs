//! The coordinator log: commands go in, are agreed on, applied, and shown.
//!
//! [`CoordinatorLog::propose`] returns when the command is durable at a quorum of voters,
//! applied here, and visible in [`CoordinatorLog::routing`] and to subscribers. Concurrent
//! proposals share an entry and its fsync: one entry is under way at a time, and what arrives
//! meanwhile waits for the next.
//!
//! Upholds, of the safety rules: nothing is told that a crash could take back; `taskUid`s are
//! given in one order. A restart loses nothing but events: subscribers read the tables first.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use miroir_seams::Seams;
use openraft::error::{ClientWriteError, RaftError};
use openraft::{BasicNode, Config, Raft, RaftMetrics, SnapshotPolicy};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::commands::{Command, Outcome};
use crate::engine::Engine;
use crate::raft::{
    Applied, LogStore, PeerNetwork, PeerTransport, Proposal, RaftId, StateMachine, Store,
    Subscription, TypeConfig, encode_command, in_seams,
};
use crate::routing::Routing;
use crate::tables::ApplyError;

/// How long a proposal may wait for its turn, and then for its quorum.
const PROPOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a pod that is the only voter may take to lead. It needs two fsyncs.
const LEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Commands joined to one entry: enough to make the fsync cheap, few enough to apply at once.
const COMMANDS_MAX: usize = 512;
/// Bytes joined to one entry; entries travel to peers whole.
const ENTRY_BYTES_MAX: usize = 1 << 20;
/// Proposals waiting for their turn; more wait in [`CoordinatorLog::propose`].
const QUEUE_MAX: usize = 4096;
/// Raft's heartbeat and election time-outs, milliseconds. Busy small machines stall for
/// hundreds of milliseconds; a pod alone doesn't wait for them.
const HEARTBEAT_MS: u64 = 250;
const ELECTION_MS: (u64, u64) = (1000, 2000);
/// Entries between compactions, and entries kept for peers that are a little behind.
const COMPACT_ENTRIES: u64 = 5000;
const KEEP_ENTRIES: u64 = 500;
/// Entries purged at a time: each purge is a commit.
const PURGE_ENTRIES: u64 = 256;

/// What a log is opened with.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// Holds the log and the state. Opened by nobody else.
    pub engine: Arc<dyn Engine>,
    /// This pod's identity; must be the one the engine was first opened with.
    pub raft_id: RaftId,
    /// Where peers reach this pod's Raft.
    pub address: String,
    /// How this pod reaches its peers.
    pub peers: Arc<dyn PeerTransport>,
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
    /// There was no leader here, or no turn in time: the command was certainly not proposed.
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

/// One command in line.
#[derive(Debug)]
struct Waiting {
    command: Bytes,
    deadline: Instant,
    done: oneshot::Sender<Result<Outcome, ProposeError>>,
}

/// The coordinator log of one pod. Clones share it.
#[derive(Clone)]
pub struct CoordinatorLog {
    raft: Raft<TypeConfig>,
    engine: Arc<dyn Engine>,
    applied: Arc<Applied>,
    proposals: mpsc::Sender<Waiting>,
    seams: Seams,
    raft_id: RaftId,
}

impl std::fmt::Debug for CoordinatorLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CoordinatorLog").field("raft_id", &self.raft_id).finish_non_exhaustive()
    }
}

impl CoordinatorLog {
    /// Opens the log on its engine. On an empty one, starts a cluster whose only voter is this
    /// pod. A pod that is the only voter leads and has applied all of its log on return.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(config: LogConfig, seams: Seams) -> Result<Self, OpenError> {
        let store = Store::new(config.engine.clone(), seams.tasks.clone());
        let log_store = LogStore::new(store.clone());
        let asked = config.raft_id;
        let stored = log_store.claim_identity(asked).await.map_err(ApplyError::from)?;
        if stored != asked {
            return Err(OpenError::OtherIdentity { stored, asked });
        }
        let machine = StateMachine::open(store)?;
        let applied = machine.applied();
        let network = PeerNetwork::new(config.peers.clone());
        let options = Arc::new(raft_options().validate().map_err(raft_refused)?);
        applied.serve_snapshots(false);
        let starting = Raft::new(asked, options, network, log_store, machine);
        let raft = in_seams(seams.clone(), starting).await.map_err(raft_refused)?;
        applied.serve_snapshots(true);
        let (proposals, queue) = mpsc::channel(QUEUE_MAX);
        seams.tasks.spawn("coordinator log", drain(raft.clone(), queue, seams.clone()));
        seams.tasks.spawn("coordinator log end", close_at_end(raft.metrics(), applied.clone()));
        let log = Self {
            raft,
            engine: config.engine,
            applied,
            proposals,
            seams,
            raft_id: config.raft_id,
        };
        let campaigns = log.start_if_new(&config.address).await?;
        log.lead_if_alone(campaigns).await?;
        Ok(log)
    }

    /// Says whether this started a cluster: openraft then campaigns by itself.
    async fn start_if_new(&self, address: &str) -> Result<bool, OpenError> {
        if self.raft.is_initialized().await.map_err(raft_refused)? {
            return Ok(false);
        }
        let members = std::collections::BTreeMap::from([(self.raft_id, BasicNode::new(address))]);
        // openraft checks again that log and vote are empty: state is never written over.
        self.raft.initialize(members).await.map_err(raft_refused)?;
        Ok(true)
    }

    /// Nobody else can lead, so there is no use in waiting for an election time-out; and what a
    /// crash took from the applied state comes back with the first entry of the new leader.
    /// `campaigns` when an election is under way: a second one would end the first one's
    /// leadership after it was seen.
    async fn lead_if_alone(&self, campaigns: bool) -> Result<(), OpenError> {
        // Asked of Raft itself: its metrics may still be those from before it was initialized.
        let me = self.raft_id;
        let asked = self
            .raft
            .with_raft_state(move |state| state.membership_state.effective().voter_ids().eq([me]));
        if !asked.await.map_err(raft_refused)? {
            return Ok(());
        }
        let mut metrics = self.raft.metrics();
        if !campaigns && metrics.borrow().current_leader != Some(self.raft_id) {
            self.raft.trigger().elect().await.map_err(raft_refused)?;
        }
        let leads = metrics.wait_for(|now| now.current_leader == Some(self.raft_id) || failed(now));
        match tokio::time::timeout(LEAD_TIMEOUT, leads).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(raft_refused(error)),
            Err(_) => return Err(OpenError::NotLeading(LEAD_TIMEOUT)),
        }
        // An entry without commands: when it is applied, so is everything before it.
        let written = self.raft.client_write(Proposal::default()).await;
        written.map(drop).map_err(raft_refused)
    }

    /// Proposes `command` and waits until it is applied.
    ///
    /// # Errors
    /// See [`ProposeError`]: only `Unknown` leaves open whether the command takes effect. When
    /// the future is dropped, the command may still be proposed.
    pub async fn propose(&self, command: &Command) -> Result<Outcome, ProposeError> {
        let command =
            encode_command(command).map_err(|error| ProposeError::Fatal(error.to_string()))?;
        let deadline = self.seams.clock.instant() + PROPOSE_TIMEOUT;
        let (done, outcome) = oneshot::channel();
        let waiting = Waiting { command, deadline, done };
        match tokio::time::timeout_at(deadline, self.proposals.send(waiting)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(ProposeError::Stopped),
            Err(_) => return Err(ProposeError::NoQuorum),
        }
        // Dropped without an answer only when the pod ends under way.
        outcome.await.unwrap_or(Err(ProposeError::Unknown))
    }

    /// The routing view as of the last applied entry that touched it.
    pub fn routing(&self) -> Arc<Routing> {
        self.applied.routing()
    }

    /// The tables, for reading.
    pub fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
    }

    /// Follows what is applied from now on. An event comes after its effects can be seen in the
    /// tables and the routing.
    pub fn subscribe(&self) -> Subscription {
        self.applied.subscribe()
    }

    /// The state of this pod's Raft.
    pub fn metrics(&self) -> LogMetrics {
        let metrics = self.raft.metrics();
        let now = metrics.borrow();
        LogMetrics {
            raft_id: self.raft_id,
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
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "raft ended badly");
        }
        self.applied.close();
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
        ..Config::default()
    }
}

fn raft_refused(error: impl std::fmt::Display) -> OpenError {
    OpenError::Raft(error.to_string())
}

fn failed(metrics: &RaftMetrics<RaftId, BasicNode>) -> bool {
    metrics.running_state.is_err()
}

/// Ends the subscriptions when Raft ends, so that subscribers notice.
async fn close_at_end(
    mut metrics: watch::Receiver<RaftMetrics<RaftId, BasicNode>>,
    applied: Arc<Applied>,
) {
    // An error says that Raft is gone altogether.
    let _ = metrics.wait_for(failed).await;
    applied.close();
}

/// Proposes what is in line, one entry at a time, until nobody can propose any more.
async fn drain(raft: Raft<TypeConfig>, mut queue: mpsc::Receiver<Waiting>, seams: Seams) {
    let mut group = Vec::new();
    let mut held_over = None;
    loop {
        let first = match held_over.take() {
            Some(waiting) => waiting,
            None => match queue.recv().await {
                Some(waiting) => waiting,
                None => return,
            },
        };
        let mut bytes = first.command.len();
        group.push(first);
        while group.len() < COMMANDS_MAX {
            let Ok(waiting) = queue.try_recv() else { break };
            bytes += waiting.command.len();
            if bytes > ENTRY_BYTES_MAX {
                held_over = Some(waiting);
                break;
            }
            group.push(waiting);
        }
        let now = seams.clock.instant();
        for late in group.extract_if(.., |waiting| waiting.deadline <= now) {
            let _ = late.done.send(Err(ProposeError::NoQuorum));
        }
        if !group.is_empty() {
            propose_group(&raft, &mut group).await;
        }
    }
}

/// Proposes `group` as one entry and answers everyone in it.
async fn propose_group(raft: &Raft<TypeConfig>, group: &mut Vec<Waiting>) {
    let commands = group.iter().map(|waiting| waiting.command.clone()).collect();
    let result = match why_ended(raft) {
        Some(error) => Err(error),
        None => write(raft, Proposal { commands }).await,
    };
    // A proposer that has gone is not told.
    match result {
        Ok(outcomes) => {
            for (waiting, outcome) in group.drain(..).zip(outcomes) {
                let _ = waiting.done.send(Ok(outcome));
            }
        }
        Err(error) => {
            for waiting in group.drain(..) {
                let _ = waiting.done.send(Err(error.clone()));
            }
        }
    }
}

/// Why nothing can be proposed any more.
fn why_ended(raft: &Raft<TypeConfig>) -> Option<ProposeError> {
    use openraft::error::Fatal;
    match &raft.metrics().borrow().running_state {
        Ok(()) => None,
        Err(Fatal::Stopped) => Some(ProposeError::Stopped),
        Err(error) => Some(ProposeError::Fatal(error.to_string())),
    }
}

async fn write(raft: &Raft<TypeConfig>, proposal: Proposal) -> Result<Vec<Outcome>, ProposeError> {
    match tokio::time::timeout(PROPOSE_TIMEOUT, raft.client_write(proposal)).await {
        Ok(Ok(written)) => Ok(written.data.0),
        // This pod does not lead; nothing was written. (With peers: forward to the leader.)
        Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_)))) => {
            Err(ProposeError::NoQuorum)
        }
        Ok(Err(error)) => {
            tracing::warn!(%error, "a proposal was not confirmed");
            Err(ProposeError::Unknown)
        }
        Err(_) => Err(ProposeError::Unknown),
    }
}

#[cfg(test)]
mod tests;
