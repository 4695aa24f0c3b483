//! What the pods applied, entry by entry: written down by whoever is first, compared by all.
//!
//! Upholds, of the safety rules: 5 (a command of an older epoch takes no effect), that all pods make
//! the same of the same log, that a pod which no longer writes an index soon sends nothing more, and that
//! nodes are asked before something is sent again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use miroir_storage::commands::{Command, Fence, Outcome};
use miroir_storage::ids::{Epoch, IndexUid, NodeId, PodId, TaskUid};
use miroir_storage::raft::AppliedEvent;
use miroir_storage::tables::roles::writer_role;
use twox_hash::XxHash64;

use crate::invariants::Violation;

/// How long after another pod became the writer of an index one may still send documents of it:
/// a pod believes for 2 s what it heard from the leader, and hears of its own reservation a message
/// later.
const OLD_WRITER_MS_MAX: u64 = 4_000;

/// The place of a command: its entry, and its position there.
type Place = (u64, u32);

/// The applied commands of all pods. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    applied: BTreeMap<Place, (usize, u64)>,
    /// When each task was first known to have ended, virtual milliseconds.
    ended: BTreeMap<TaskUid, u64>,
    newest: Option<TaskUid>,
    /// The newest epoch of each role, as far as the outcomes told.
    epochs: BTreeMap<String, Epoch>,
    /// Who holds each role, and since when, virtual milliseconds.
    holders: BTreeMap<String, (PodId, u64)>,
    found: Vec<Violation>,
}

impl Ledger {
    /// A pod applied a command, at this virtual time; true when it is the first to say so.
    pub fn note(&self, pod: usize, event: &AppliedEvent, now_ms: u64) -> bool {
        let place = (event.log_index, event.position);
        let text = format!("{:?} {:?}", event.command, event.outcome);
        let digest = XxHash64::oneshot(0, text.as_bytes());
        let mut inner = self.lock();
        if let Some((first, theirs)) = inner.applied.get(&place).copied() {
            if theirs != digest {
                let evidence =
                    format!("entry {place:?}: pod-{first} applied something else than {text}");
                inner.found.push(Violation { property: "pods_apply_the_same", evidence });
            }
            return false;
        }
        let is_newest = inner.applied.last_key_value().is_none_or(|(last, _)| *last < place);
        inner.applied.insert(place, (pod, digest));
        inner.follow_tasks(event, now_ms);
        if is_newest {
            inner.follow_epochs(event, now_ms);
        }
        true
    }

    /// Tasks that were known to have ended at that time, virtual milliseconds.
    pub fn ended_by(&self, time_ms: u64) -> Vec<TaskUid> {
        let inner = self.lock();
        inner.ended.iter().filter(|(_, at)| **at <= time_ms).map(|(uid, _)| *uid).collect()
    }

    /// The newest task that any pod has applied.
    pub fn newest(&self) -> Option<TaskUid> {
        self.lock().newest
    }

    /// A pod sends documents of an index to a node, at this virtual time.
    pub fn note_sent(&self, pod: &PodId, index: &IndexUid, now_ms: u64, what: &str) {
        let mut inner = self.lock();
        let Some((holder, since)) = inner.holders.get(&writer_role(index)) else { return };
        if holder != pod && now_ms > since + OLD_WRITER_MS_MAX {
            let evidence = format!("{pod} sent {what} though {holder} has written since {since}");
            inner.found.push(Violation { property: "old_writers_stop", evidence });
        }
    }

    /// A pod sends a node a request that it has taken already, without having asked. What a former writer
    /// sends in the moment of its replacement, its successor has asked for and sent, too.
    pub fn note_unasked(&self, pod: &PodId, node: &NodeId, index: &IndexUid, name: &str) {
        let mut inner = self.lock();
        if inner.holders.get(&writer_role(index)).is_some_and(|(holder, _)| holder != pod) {
            return;
        }
        let evidence = format!("{pod} sent {name} though {node} had taken it, and did not ask");
        inner.found.push(Violation { property: "nodes_are_asked_first", evidence });
    }

    /// What did not hold since the last call.
    pub fn found(&self) -> Vec<Violation> {
        std::mem::take(&mut self.lock().found)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn follow_tasks(&mut self, event: &AppliedEvent, now_ms: u64) {
        match (&event.command, &event.outcome) {
            (_, Outcome::Enqueued { uid, .. }) => self.newest = self.newest.max(Some(*uid)),
            (Command::FinishTasks(endings), Outcome::Done) => {
                for ending in endings {
                    self.ended.entry(ending.uid).or_insert(now_ms);
                }
            }
            (Command::CancelTasks { .. }, Outcome::Matched(uids)) => {
                for uid in uids {
                    self.ended.entry(*uid).or_insert(now_ms);
                }
            }
            _ => {}
        }
    }

    fn follow_epochs(&mut self, event: &AppliedEvent, now_ms: u64) {
        match (&event.command, &event.outcome) {
            (
                Command::TakeEpoch { role, pod } | Command::AssignRole { role, pod, .. },
                Outcome::Epoch(epoch),
            ) => {
                let since = match self.holders.get(role) {
                    Some((holder, since)) if holder == pod => *since,
                    _ => now_ms,
                };
                self.holders.insert(role.clone(), (pod.clone(), since));
                let before = self.epochs.insert(role.clone(), *epoch);
                if before >= Some(*epoch) {
                    let evidence = format!("{role} went from epoch {before:?} to {epoch:?}");
                    self.found.push(Violation { property: "epochs_grow", evidence });
                }
            }
            (
                Command::StartTasks { fence: Some(fence), .. }
                | Command::AgreePrimaryKey { fence, .. }
                | Command::MarkSettingsPending { fence, .. }
                | Command::ChangeInSync { fence, .. }
                | Command::SetLaneMark { fence, .. }
                | Command::SetReplica { fence, .. },
                Outcome::Done,
            ) => self.check_fence(fence, event),
            _ => {}
        }
    }

    fn check_fence(&mut self, fence: &Fence, event: &AppliedEvent) {
        let newest = self.epochs.get(&writer_role(&fence.index)).copied();
        if newest.is_some_and(|newest| fence.epoch < newest) {
            let evidence = format!("{:?} took effect under {newest:?}", event.command);
            self.found.push(Violation { property: "old_holders_are_refused", evidence });
        }
    }
}
