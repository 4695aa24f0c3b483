//! Applies committed entries to the state tables, then tells this pod about it.
//!
//! Order, for each run of entries: commit (one batch per entry, with its position), swap the
//! routing view if any command touched it, send the events, answer the proposers. So whoever
//! hears of a command sees its effect, in the tables and in the routing.

use std::io::Cursor;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use openraft::storage::RaftStateMachine;
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder, Snapshot, SnapshotMeta};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};

use super::snapshot::{self, ReplaceError};
use super::store::{Store, StoreError};
use super::{
    APPLIED, Entry, LogId, Membership, Outcomes, Proposal, RaftId, StorageError, StorageIoError,
    TypeConfig,
};
use crate::commands::{Command, Outcome};
use crate::engine::{Batch, Durability, Engine, EngineError, Tx};
use crate::routing::Routing;
use crate::tables::records::{Record, RecordError, decode, encode};
use crate::tables::{self, ApplyError};

/// One command that was applied.
#[derive(Clone, Debug)]
pub struct AppliedEvent {
    /// The log entry it stood in.
    pub log_index: u64,
    /// Its place among the commands of that entry.
    pub position: u32,
    /// The command.
    pub command: Command,
    /// What the state machine answered.
    pub outcome: Outcome,
}

/// The events of one subscriber.
#[derive(Debug)]
pub struct Subscription {
    /// Every event of a later entry comes through `events`. Tables read after subscribing may
    /// already hold some of them: events are to be taken as news that can be old.
    pub after: u64,
    /// In log order. Unbounded, since the state machine must not wait for a subscriber and
    /// clients are admitted by the gateway's limits. Closed when a snapshot was installed or
    /// the log stopped: read the tables and subscribe again.
    pub events: mpsc::UnboundedReceiver<Arc<AppliedEvent>>,
}

/// How far the state tables are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Position {
    log_id: Option<LogId>,
    membership: Membership,
}

impl Record for Position {
    const VERSION: u8 = 1;
    const NAME: &'static str = "applied position";
}

/// Why an entry could not be applied. The pod stops applying, rather than guess.
#[derive(Debug, thiserror::Error)]
enum EntryError {
    #[error("log entry {index} holds a command this version can't apply: {source}")]
    UnknownCommand { index: u64, source: RecordError },
    #[error(transparent)]
    Apply(#[from] ApplyError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Record(#[from] RecordError),
}

fn position(engine: &dyn Engine) -> Result<Position, StoreError> {
    match engine.get(APPLIED, b"")? {
        Some(bytes) => Ok(decode(&bytes)?),
        None => Ok(Position::default()),
    }
}

#[derive(Debug, Default)]
struct Feed {
    /// The entry up to which events were sent.
    sent: u64,
    subscribers: Vec<mpsc::UnboundedSender<Arc<AppliedEvent>>>,
}

/// What the applied state shows to the rest of the pod.
#[derive(Debug)]
pub(crate) struct Applied {
    routing: ArcSwap<Routing>,
    feed: Mutex<Feed>,
    /// The entry up to which everything is applied and shown.
    index: watch::Sender<u64>,
    /// Whether a peer may ask for the bytes of a snapshot; not while openraft starts, which
    /// asks too but looks only at the position.
    serves_snapshots: AtomicBool,
}

impl Applied {
    /// The routing view as of now.
    pub(crate) fn routing(&self) -> Arc<Routing> {
        self.routing.load_full()
    }

    /// The entry up to which everything is applied and shown.
    pub(crate) fn index(&self) -> u64 {
        *self.index.borrow()
    }

    /// Waits until everything up to `index` is applied and shown.
    pub(crate) async fn reached(&self, index: u64) {
        // The sender lives as long as `self`.
        let _ = self.index.subscribe().wait_for(|applied| *applied >= index).await;
    }

    pub(crate) fn subscribe(&self) -> Subscription {
        let (sender, events) = mpsc::unbounded_channel();
        let mut feed = self.feed();
        feed.subscribers.push(sender);
        Subscription { after: feed.sent, events }
    }

    pub(crate) fn serve_snapshots(&self, serve: bool) {
        self.serves_snapshots.store(serve, Ordering::Release);
    }

    /// Ends every subscription.
    pub(crate) fn close(&self) {
        self.feed().subscribers.clear();
    }

    fn feed(&self) -> MutexGuard<'_, Feed> {
        self.feed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, through: u64, events: Vec<AppliedEvent>) {
        let mut feed = self.feed();
        feed.sent = through;
        for event in events {
            let event = Arc::new(event);
            feed.subscribers.retain(|subscriber| subscriber.send(event.clone()).is_ok());
        }
        drop(feed);
        self.index.send_replace(through);
    }

    fn reload_routing(&self, engine: &dyn Engine) -> Result<(), ApplyError> {
        let routing = self.routing.load().reload(engine)?;
        self.routing.store(Arc::new(routing));
        Ok(())
    }

    /// Applies `entries` until the first that can't be; what was applied before it stands.
    fn apply(&self, engine: &dyn Engine, entries: Vec<Entry>) -> Result<Vec<Outcomes>, EntryError> {
        let mut position = position(engine).map_err(ApplyError::from)?;
        let mut run = Run::default();
        let applied = entries.into_iter().try_for_each(|entry| {
            let outcomes = apply_entry(engine, &mut position, entry, &mut run)?;
            run.outcomes.push(outcomes);
            Ok(())
        });
        if run.touches_routing {
            self.reload_routing(engine)?;
        }
        self.publish(position.log_id.map_or(0, |id| id.index), run.events);
        applied.map(|()| run.outcomes)
    }

    fn install(
        &self,
        engine: &dyn Engine,
        position: &Position,
        bytes: &[u8],
    ) -> Result<(), InstallError> {
        let mut batch = snapshot::replacement(engine, bytes)?;
        batch.put(APPLIED, b"", encode(position)?);
        engine.commit(batch, Durability::Synced)?;
        self.reload_routing(engine)?;
        let mut feed = self.feed();
        feed.sent = position.log_id.map_or(0, |id| id.index);
        feed.subscribers.clear();
        let sent = feed.sent;
        drop(feed);
        self.index.send_replace(sent);
        Ok(())
    }
}

#[derive(Debug, thiserror::Error)]
enum InstallError {
    #[error(transparent)]
    Replace(#[from] ReplaceError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error(transparent)]
    Apply(#[from] ApplyError),
}

/// What a run of entries did.
#[derive(Debug, Default)]
struct Run {
    outcomes: Vec<Outcomes>,
    events: Vec<AppliedEvent>,
    touches_routing: bool,
}

/// Applies one entry: all of it with its position, or nothing.
fn apply_entry(
    engine: &dyn Engine,
    position: &mut Position,
    entry: Entry,
    run: &mut Run,
) -> Result<Outcomes, EntryError> {
    let index = entry.log_id.index;
    let mut next = Position { log_id: Some(entry.log_id), membership: position.membership.clone() };
    let mut tx = Tx::new(engine);
    let applied = match entry.payload {
        EntryPayload::Blank => Vec::new(),
        EntryPayload::Membership(membership) => {
            next.membership = Membership::new(Some(entry.log_id), membership);
            Vec::new()
        }
        EntryPayload::Normal(proposal) => apply_proposal(&mut tx, index, &proposal)?,
    };
    tx.put(APPLIED, b"", encode(&next)?);
    engine.commit(tx.into_batch(), Durability::Lazy)?;
    *position = next;
    let outcomes = applied.iter().map(|event| event.outcome.clone()).collect();
    run.touches_routing |=
        applied.iter().any(|event| tables::touches_routing(&event.command, &event.outcome));
    run.events.extend(applied);
    Ok(Outcomes(outcomes))
}

fn apply_proposal(
    tx: &mut Tx<'_>,
    log_index: u64,
    proposal: &Proposal,
) -> Result<Vec<AppliedEvent>, EntryError> {
    let commands = proposal
        .decode()
        .map_err(|source| EntryError::UnknownCommand { index: log_index, source })?;
    let mut applied = Vec::with_capacity(commands.len());
    for (position, command) in (0u32..).zip(commands) {
        let outcome = tables::apply(tx, log_index, &command)?;
        applied.push(AppliedEvent { log_index, position, command, outcome });
    }
    Ok(applied)
}

/// The state machine of one pod.
#[derive(Debug)]
pub(crate) struct StateMachine {
    store: Store,
    applied: Arc<Applied>,
}

impl StateMachine {
    /// The state as it is on disk.
    pub(crate) fn open(store: Store) -> Result<Self, ApplyError> {
        let engine = store.engine.as_ref();
        let sent = position(engine)?.log_id.map_or(0, |id| id.index);
        let applied = Arc::new(Applied {
            routing: ArcSwap::from_pointee(Routing::load(engine)?),
            feed: Mutex::new(Feed { sent, subscribers: Vec::new() }),
            index: watch::Sender::new(sent),
            serves_snapshots: AtomicBool::new(true),
        });
        Ok(Self { store, applied })
    }

    pub(crate) fn applied(&self) -> Arc<Applied> {
        self.applied.clone()
    }

    // openraft's own error type; the path that makes one ends the pod.
    #[allow(clippy::result_large_err)]
    fn position(&self) -> Result<Position, StorageError> {
        position(self.store.engine.as_ref())
            .map_err(|error| StorageIoError::read_state_machine(&error).into())
    }
}

fn snapshot_meta(position: Position) -> SnapshotMeta<RaftId, openraft::BasicNode> {
    let snapshot_id = match position.log_id {
        Some(id) => format!("{}-{}", id.leader_id.term, id.index),
        None => "none".to_owned(),
    };
    SnapshotMeta { last_log_id: position.log_id, last_membership: position.membership, snapshot_id }
}

/// Builds no bytes: openraft wants to know only up to where the log can be forgotten.
#[derive(Debug)]
pub(crate) struct PositionMark {
    store: Store,
    position: Result<Position, StorageError>,
}

impl RaftSnapshotBuilder<TypeConfig> for PositionMark {
    async fn build_snapshot(&mut self) -> Result<Snapshot<TypeConfig>, StorageError> {
        let position = self.position.clone()?;
        // What the log forgets must be durable in the tables first.
        let synced: Result<(), EngineError> =
            self.store.run(|engine| engine.commit(Batch::new(), Durability::Synced)).await;
        synced.map_err(|error| StorageIoError::write_state_machine(&error))?;
        Ok(Snapshot { meta: snapshot_meta(position), snapshot: Box::default() })
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotBuilder = PositionMark;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, Membership), StorageError> {
        let position = self.position()?;
        Ok((position.log_id, position.membership))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Outcomes>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let applied = self.applied.clone();
        let done = self.store.run(move |engine| applied.apply(engine, entries)).await;
        done.map_err(|error| {
            tracing::error!(%error, "the coordinator log can't be applied any further");
            StorageIoError::write_state_machine(&error).into()
        })
    }

    async fn get_snapshot_builder(&mut self) -> PositionMark {
        PositionMark { store: self.store.clone(), position: self.position() }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta<RaftId, openraft::BasicNode>,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError> {
        let position =
            Position { log_id: meta.last_log_id, membership: meta.last_membership.clone() };
        let applied = self.applied.clone();
        let install =
            move |engine: &dyn Engine| applied.install(engine, &position, snapshot.get_ref());
        self.store.run(install).await.map_err(|error: InstallError| {
            StorageIoError::write_snapshot(Some(meta.signature()), &error).into()
        })
    }

    /// Called in turn with `apply`, so the bytes belong to the position.
    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<TypeConfig>>, StorageError> {
        let position = self.position()?;
        if position.log_id.is_none() || !self.applied.serves_snapshots.load(Ordering::Acquire) {
            return Ok(None);
        }
        let bytes = self.store.run(snapshot::dump).await;
        let bytes = bytes.map_err(|error| StorageIoError::read_snapshot(None, &error))?;
        let snapshot = Box::new(Cursor::new(bytes));
        Ok(Some(Snapshot { meta: snapshot_meta(position), snapshot }))
    }
}
