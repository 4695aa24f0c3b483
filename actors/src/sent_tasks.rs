//! Which tasks of each node this pod knows to be its own, and which of its requests were given
//! up without an answer: those may be carried out yet, after newer ones.
//!
//! Lost with the process; what must outlive it is in the lane marks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use miroir_seams::Clock;
use miroir_storage::ids::NodeId;
use tokio::time::Instant;

/// A request that was given up may be carried out within this time: longer than a proxy or a
/// kernel keeps a connection that nobody reads.
pub const LATE_MAX: Duration = Duration::from_secs(600);

/// The tasks of every (node, index). Clones share them.
#[derive(Clone, Debug)]
pub struct SentTasks {
    clock: Clock,
    all: Arc<Mutex<BTreeMap<(NodeId, String), Sent>>>,
}

#[derive(Debug, Default)]
struct Sent {
    known: BTreeSet<u64>,
    /// Requests without an answer whose task was not found.
    lost: u32,
    lost_at: Option<Instant>,
}

impl SentTasks {
    /// Nothing sent yet.
    pub fn new(clock: Clock) -> Self {
        Self { clock, all: Arc::default() }
    }

    /// The node answered with this task, or the task was found to be ours.
    pub fn note_known(&self, node: &NodeId, index: &str, task: u64) {
        self.with(node, index, |sent| {
            sent.known.insert(task);
        });
    }

    /// A request that was lost has been found as this task.
    pub fn note_found(&self, node: &NodeId, index: &str, task: u64) {
        self.with(node, index, |sent| {
            sent.known.insert(task);
            sent.lost = sent.lost.saturating_sub(1);
        });
    }

    /// A request was given up.
    pub fn note_lost(&self, node: &NodeId, index: &str) {
        let now = self.clock.instant();
        self.with(node, index, |sent| {
            sent.lost += 1;
            sent.lost_at = Some(now);
        });
    }

    /// How many requests were given up and not found.
    pub fn lost(&self, node: &NodeId, index: &str) -> u32 {
        self.with(node, index, |sent| sent.lost)
    }

    /// Whether a request that was given up may still be carried out.
    pub fn in_doubt(&self, node: &NodeId, index: &str) -> bool {
        let now = self.clock.instant();
        let recent = |at| now.saturating_duration_since(at) < LATE_MAX;
        self.with(node, index, |sent| sent.lost_at.is_some_and(recent))
    }

    /// Whether the task is known to be ours.
    pub fn knows(&self, node: &NodeId, index: &str, task: u64) -> bool {
        self.with(node, index, |sent| sent.known.contains(&task))
    }

    /// The tasks known to be ours after `audited`, at most `max`; `None` when they are more.
    pub fn known_after(
        &self,
        node: &NodeId,
        index: &str,
        audited: Option<u64>,
        max: usize,
    ) -> Option<Vec<u64>> {
        let first = audited.map_or(0, |audited| audited + 1);
        self.with(node, index, |sent| {
            let known: Vec<u64> = sent.known.range(first..).take(max + 1).copied().collect();
            (known.len() <= max).then_some(known)
        })
    }

    /// Forgets tasks up to `through`: they were audited.
    pub fn forget_through(&self, node: &NodeId, index: &str, through: u64) {
        self.with(node, index, |sent| sent.known = sent.known.split_off(&(through + 1)));
    }

    /// Forgets an index.
    pub fn forget(&self, node: &NodeId, index: &str) {
        self.lock().remove(&(node.clone(), index.to_owned()));
    }

    fn with<R>(&self, node: &NodeId, index: &str, act: impl FnOnce(&mut Sent) -> R) -> R {
        act(self.lock().entry((node.clone(), index.to_owned())).or_default())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(NodeId, String), Sent>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The index that a request's path names.
pub fn index_of(path: &str) -> Option<&str> {
    let rest = path.strip_prefix("/indexes/")?;
    rest.split(['/', '?']).next()
}

/// Counts a request as lost unless its outcome becomes known: also when its sender is stopped.
#[derive(Debug)]
pub(crate) struct Attempt<'a> {
    pub(crate) sent: &'a SentTasks,
    pub(crate) node: &'a NodeId,
    pub(crate) index: Option<&'a str>,
}

impl Attempt<'_> {
    /// The node answered: with a task of this number, or with a refusal.
    pub(crate) fn settle(mut self, task: Option<u64>) {
        if let (Some(index), Some(task)) = (self.index.take(), task) {
            self.sent.note_known(self.node, index, task);
        }
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if let Some(index) = self.index {
            self.sent.note_lost(self.node, index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_request_without_an_answer_is_in_doubt_for_a_while() {
        let (sent, node) = (SentTasks::new(Clock::simulated()), NodeId::from("a"));
        let attempt = |index| Attempt { sent: &sent, node: &node, index: Some(index) };
        attempt("1-x").settle(Some(7));
        assert!(sent.knows(&node, "1-x", 7) && !sent.in_doubt(&node, "1-x"));
        drop(attempt("1-x"));
        assert!(sent.in_doubt(&node, "1-x") && sent.lost(&node, "1-x") == 1);
        tokio::time::sleep(LATE_MAX).await;
        assert!(!sent.in_doubt(&node, "1-x"));
    }

    #[test]
    fn paths_name_their_index() {
        assert_eq!(index_of("/indexes/3-a/documents?primaryKey=id"), Some("3-a"));
        assert_eq!(index_of("/indexes/3-a"), Some("3-a"));
        assert_eq!(index_of("/indexes"), None);
    }
}
