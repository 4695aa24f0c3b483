//! What the numbers of nodes' tasks say of their disks: a node that lost its own counts anew.
//!
//! A task that a node numbers lower than one it had given before a request was sent shows that.
//! What this pod finds runs ahead of the log ([`crate::node_disks`] has it take notice).

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
    /// `logged` is the life that the log knows of.
    pub fn before(&self, node: &NodeId, logged: u64) -> (u64, Option<u64>) {
        let mut lives = self.lock();
        let life = lives.entry(node.clone()).or_default();
        if life.number < logged {
            *life = Life { number: logged, newest: None };
        }
        (life.number, life.newest)
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
        let before = || lives.before(&node, 0);
        let (early, late) = (before(), before());
        lives.note_made(&node, late, 9);
        // Its answer was overtaken.
        lives.note_made(&node, early, 8);
        assert_eq!(before(), (0, Some(9)));
        lives.note_newest(&node, before(), Some(9));
        assert_eq!(before().0, 0);
        lives.note_made(&node, before(), 9);
        assert_eq!(before(), (1, Some(9)));
        lives.note_newest(&node, before(), None);
        assert_eq!(before(), (2, None));
        // Another pod has found out, and counts as many.
        lives.note_made(&node, before(), 3);
        assert_eq!(lives.before(&node, 2), (2, Some(3)));
        assert_eq!(lives.before(&node, 3), (3, None));
    }
}
