//! Whether nodes still have the disks they had: a node that lost its own counts its tasks anew.
//!
//! A task that a node numbers lower than one it had given before a request was sent shows that.
//! Every writer must then copy its index to that node, also one that has sent it nothing since.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use miroir_storage::ids::NodeId;

/// The lives of every node's disk. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct DiskLives {
    all: Arc<Mutex<BTreeMap<NodeId, Life>>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Life {
    /// Grows when a loss is noticed.
    number: u64,
    /// The newest task known; only rises within a life.
    newest: Option<u64>,
}

impl DiskLives {
    /// The life of the node's disk, and the newest task known of it, before a request is sent.
    pub fn before(&self, node: &NodeId) -> (u64, Option<u64>) {
        let life = self.lock().get(node).copied().unwrap_or_default();
        (life.number, life.newest)
    }

    /// The number of the disk's life.
    pub fn number(&self, node: &NodeId) -> u64 {
        self.before(node).0
    }

    /// A task of an earlier run of this pod.
    pub fn note_known(&self, node: &NodeId, task: u64) {
        let mut lives = self.lock();
        let life = lives.entry(node.clone()).or_default();
        life.newest = life.newest.max(Some(task));
    }

    /// A request that was sent after `before` made this task.
    pub fn note_made(&self, node: &NodeId, before: (u64, Option<u64>), task: u64) {
        self.note(node, before, Some(task), |newest| newest.is_none_or(|newest| task > newest));
    }

    /// A listing that was asked for after `before` showed this as the newest task.
    pub fn note_newest(&self, node: &NodeId, before: (u64, Option<u64>), task: Option<u64>) {
        self.note(node, before, task, |newest| task >= newest);
    }

    fn note(
        &self,
        node: &NodeId,
        (number, newest): (u64, Option<u64>),
        task: Option<u64>,
        follows: impl Fn(Option<u64>) -> bool,
    ) {
        let mut lives = self.lock();
        let life = lives.entry(node.clone()).or_default();
        if life.number != number {
            return;
        }
        if follows(newest) {
            life.newest = life.newest.max(task);
        } else {
            tracing::error!(%node, ?task, ?newest, "node has lost its disk");
            *life = Life { number: number + 1, newest: task };
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Life>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_numbered_below_an_earlier_one_is_of_another_disk() {
        let (lives, node) = (DiskLives::default(), NodeId::from("a"));
        lives.note_known(&node, 7);
        let (early, late) = (lives.before(&node), lives.before(&node));
        lives.note_made(&node, late, 9);
        // Its answer was overtaken.
        lives.note_made(&node, early, 8);
        assert_eq!(lives.before(&node), (0, Some(9)));
        lives.note_newest(&node, lives.before(&node), Some(9));
        assert_eq!(lives.number(&node), 0);
        lives.note_made(&node, lives.before(&node), 9);
        assert_eq!(lives.before(&node), (1, Some(9)));
        lives.note_newest(&node, lives.before(&node), None);
        assert_eq!(lives.before(&node), (2, None));
    }
}
