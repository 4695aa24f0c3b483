//! The actors of one pod: what they are at, over all their lives.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use miroir_seams::Clock;
use miroir_storage::ids::PodId;
use miroir_storage::routing::to_nanoseconds;
use ractor::{ActorId, SpawnErr};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::restarts::FailureRow;

/// One life of an actor in its pod's inventory.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) tally: Arc<Tally>,
    pub(super) inventory: Arc<Inventory>,
}

/// What one life of an actor has done. `handled <= taken <= sent`.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// In the inventory.
    pub(super) id: String,
    pub(super) parent: Option<String>,
    pub(super) actor: OnceLock<ActorId>,
    /// Messages put into the mailbox.
    pub(super) sent: AtomicU64,
    /// Messages taken out of it.
    pub(super) taken: AtomicU64,
    /// Messages handled to the end.
    pub(super) handled: AtomicU64,
    /// Time spent with those, nanoseconds.
    pub(super) busy: AtomicU64,
    /// When the message under way was taken, nanoseconds after the inventory was made, and 1; 0
    /// between messages.
    pub(super) busy_since: AtomicU64,
}

impl Tally {
    pub(super) fn depth(&self) -> u64 {
        let taken = self.taken.load(Ordering::Relaxed);
        self.sent.load(Ordering::Relaxed).saturating_sub(taken)
    }
}

/// What an actor is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ActorState {
    /// Makes its state.
    Starting,
    /// Handles messages.
    Running,
    /// Failed, and will be started again.
    Waiting,
    /// Ended, and its parent has not said what becomes of it.
    Stopped,
    /// Failed too often in a row; goes on being started again.
    Failing,
}

/// One actor, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ActorReport {
    /// Unique in the cluster: the pod's id, `/`, the name.
    pub id: String,
    /// Unique in the pod: `writer/3-movies`.
    pub name: String,
    /// See [`super::Actor::KIND`].
    pub kind: String,
    /// The id of its supervisor; none for the root.
    pub parent: Option<String>,
    /// What it is at.
    pub state: ActorState,
    /// Messages that wait, without the one under way.
    pub mailbox: u64,
    /// Messages handled since the pod started, over all restarts.
    pub handled: u64,
    /// Time spent with them and with the one under way, nanoseconds.
    pub busy_nanoseconds: u64,
    /// How often it was started again.
    pub restarts: u64,
    /// Why it failed last.
    pub last_error: Option<String>,
    /// When that was, Unix nanoseconds.
    pub last_error_at: Option<i64>,
    /// When it was started last, Unix nanoseconds.
    pub started_at: i64,
}

/// The actors of one pod. Made anew with the pod.
pub struct Inventory {
    pod: PodId,
    clock: Clock,
    made: Instant,
    records: Mutex<BTreeMap<String, Record>>,
}

/// One actor over all its lives.
#[derive(Debug)]
struct Record {
    name: String,
    kind: &'static str,
    parent: Option<String>,
    state: ActorState,
    /// Of the current life, or of the last.
    tally: Arc<Tally>,
    started: Instant,
    started_at: i64,
    /// Lives before this one.
    restarts: u64,
    /// What those handled, and their time, nanoseconds.
    handled_before: u64,
    busy_before: u64,
    failures: FailureRow,
    last_error: Option<(String, i64)>,
}

impl fmt::Debug for Inventory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inventory").field("pod", &self.pod).finish_non_exhaustive()
    }
}

impl Inventory {
    /// Nobody yet.
    pub fn new(pod: PodId, clock: Clock) -> Arc<Self> {
        let made = clock.instant();
        Arc::new(Self { pod, clock, made, records: Mutex::default() })
    }

    /// The id of the actor of that name.
    pub fn id_of(&self, name: &str) -> String {
        format!("{}/{name}", self.pod)
    }

    /// All actors in order of id, parents before their children.
    pub fn report(&self) -> Vec<ActorReport> {
        let records = self.records();
        let mut children: BTreeMap<Option<&String>, Vec<&String>> = BTreeMap::new();
        for (id, record) in records.iter() {
            // Who has lost its parent stands at the top.
            let parent = record.parent.as_ref().filter(|parent| records.contains_key(*parent));
            children.entry(parent).or_default().push(id);
        }
        let mut reports = Vec::with_capacity(records.len());
        let mut next: Vec<&String> = children.remove(&None).unwrap_or_default();
        next.reverse();
        while let Some(id) = next.pop() {
            if let Some(record) = records.get(id) {
                reports.push(self.report_of(id, record));
            }
            next.extend(children.remove(&Some(id)).unwrap_or_default().into_iter().rev());
        }
        reports
    }

    /// The parent of an actor; `None` when there is no such actor, `Some(None)` for the root.
    pub fn parent_of(&self, id: &str) -> Option<Option<String>> {
        self.records().get(id).map(|record| record.parent.clone())
    }

    /// The name of an actor.
    pub fn name_of(&self, id: &str) -> Option<String> {
        self.records().get(id).map(|record| record.name.clone())
    }

    /// The failures in a row of the actor of that name.
    pub fn failures_of(&self, name: &str) -> FailureRow {
        let id = self.id_of(name);
        self.records().get(&id).map(|record| record.failures).unwrap_or_default()
    }

    /// Notes that a life failed; nothing if another has begun since.
    pub fn failed(&self, actor: ActorId, error: &str) {
        let mut records = self.records();
        let is_life = |record: &&mut Record| record.tally.actor.get() == Some(&actor);
        if let Some(record) = records.values_mut().find(is_life) {
            self.note_failure(record, error);
        }
    }

    /// Notes that the actor of that name will be started again.
    pub fn waits(&self, name: &str) {
        if let Some(record) = self.records().get_mut(&self.id_of(name)) {
            record.state = ActorState::Waiting;
        }
    }

    /// Forgets the actor of that name and its children: it is not this pod's any more. With `life`
    /// only if no other life has begun since.
    pub fn forget(&self, name: &str, life: Option<ActorId>) {
        let id = self.id_of(name);
        let mut records = self.records();
        let current = records.get(&id).and_then(|record| record.tally.actor.get());
        if life.is_none() || current == life.as_ref() {
            records.retain(|other, record| *other != id && record.parent.as_ref() != Some(&id));
        }
    }

    fn records(&self) -> MutexGuard<'_, BTreeMap<String, Record>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Since the inventory was made.
    pub(super) fn age_nanoseconds(&self) -> u64 {
        let age = self.clock.instant().saturating_duration_since(self.made);
        u64::try_from(age.as_nanos()).unwrap_or(u64::MAX)
    }

    /// A life of the actor of that name begins.
    pub(super) fn register(
        self: &Arc<Self>,
        name: String,
        kind: &'static str,
        parent: Option<&String>,
    ) -> Place {
        let id = self.id_of(&name);
        let tally = Arc::new(Tally { id: id.clone(), parent: parent.cloned(), ..Tally::default() });
        let mut records = self.records();
        let before = records.remove(&id);
        let mut record = Record {
            name,
            kind,
            parent: parent.cloned(),
            state: ActorState::Starting,
            tally: tally.clone(),
            started: self.clock.instant(),
            started_at: to_nanoseconds(self.clock.now()),
            restarts: 0,
            handled_before: 0,
            busy_before: 0,
            failures: FailureRow::default(),
            last_error: None,
        };
        if let Some(before) = before {
            let handled = before.tally.handled.load(Ordering::Relaxed);
            record.restarts = before.restarts + 1;
            record.handled_before = before.handled_before.saturating_add(handled);
            let busy = before.tally.busy.load(Ordering::Relaxed);
            record.busy_before = before.busy_before.saturating_add(busy);
            record.failures = before.failures;
            record.last_error = before.last_error;
        }
        records.insert(id, record);
        Place { tally, inventory: self.clone() }
    }

    /// Notes how the start of a life went.
    pub(super) fn started(&self, tally: &Arc<Tally>, error: Option<&SpawnErr>) {
        let mut records = self.records();
        if let Some(record) = records.get_mut(&tally.id).filter(|record| is_of(record, tally)) {
            match error {
                Some(error) => self.note_failure(record, &error.to_string()),
                None if record.state == ActorState::Starting => record.state = ActorState::Running,
                // It has ended already.
                None => {}
            }
        }
        let is_restart = records.get(&tally.id).is_some_and(|record| record.restarts > 0);
        if error.is_none() && is_restart {
            // Children that an earlier life had and this one has not.
            records.retain(|_, record| {
                record.parent.as_ref() != Some(&tally.id) || record.state != ActorState::Stopped
            });
        }
    }

    fn note_failure(&self, record: &mut Record, error: &str) {
        let ran = match record.state {
            // What it did before it ran is no steady running.
            ActorState::Starting => Duration::ZERO,
            _ => self.clock.instant().saturating_duration_since(record.started),
        };
        record.state = ActorState::Stopped;
        record.failures = record.failures.after_failure(ran);
        record.last_error = Some((error.to_owned(), to_nanoseconds(self.clock.now())));
    }

    /// A life ended, of whatever kind its end was.
    pub(super) fn ended(&self, tally: &Arc<Tally>, forget: bool) {
        let mut records = self.records();
        let Some(record) = records.get_mut(&tally.id).filter(|record| is_of(record, tally)) else {
            return;
        };
        if forget {
            records.remove(&tally.id);
        } else if record.state == ActorState::Running {
            record.state = ActorState::Stopped;
        }
    }

    fn report_of(&self, id: &str, record: &Record) -> ActorReport {
        let Record { tally, .. } = record;
        let runs_for = (record.state == ActorState::Running)
            .then(|| self.clock.instant().saturating_duration_since(record.started));
        let under_way = match tally.busy_since.load(Ordering::Relaxed) {
            0 => 0,
            since => self.age_nanoseconds().saturating_sub(since - 1),
        };
        let gone = matches!(record.state, ActorState::Waiting | ActorState::Stopped);
        let busy = tally.busy.load(Ordering::Relaxed).saturating_add(record.busy_before);
        ActorReport {
            id: id.to_owned(),
            name: record.name.clone(),
            kind: record.kind.to_owned(),
            parent: record.parent.clone(),
            state: match record.failures.is_failing(runs_for) {
                true => ActorState::Failing,
                false => record.state,
            },
            // What was in the mailbox of one that ended is lost.
            mailbox: if gone { 0 } else { tally.depth() },
            handled: tally.handled.load(Ordering::Relaxed).saturating_add(record.handled_before),
            busy_nanoseconds: busy.saturating_add(if gone { 0 } else { under_way }),
            restarts: record.restarts,
            last_error: record.last_error.as_ref().map(|(error, _)| error.clone()),
            last_error_at: record.last_error.as_ref().map(|(_, at)| *at),
            started_at: record.started_at,
        }
    }
}

/// Whether the record's life is the one that `tally` counts.
fn is_of(record: &Record, tally: &Arc<Tally>) -> bool {
    Arc::ptr_eq(&record.tally, tally)
}
