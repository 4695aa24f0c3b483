//! What the numbers of nodes' tasks say of their disks: a node that lost its own counts anew.
//!
//! A task that a node numbers lower than one it had given before a request was sent shows that. A
//! node with an old copy of its disk may have counted past those numbers before anybody looks; then
//! the [`Witness`], a task that was seen on the disk, is another one, enqueued at another time. What
//! this pod finds runs ahead of the log ([`crate::node_disks`] has it take notice).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use miroir_storage::ids::NodeId;

/// The lives of every node's disk. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct DiskLives {
    all: Arc<Mutex<BTreeMap<NodeId, Life>>>,
}

#[derive(Clone, Debug, Default)]
struct Life {
    /// Grows when a loss is noticed.
    number: u64,
    /// The newest task known; only rises within a life.
    newest: Option<u64>,
    /// Seen on the disk.
    witness: Option<Witness>,
}

/// A task as a node's disk has it: no other disk has one with this number of this time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Witness {
    /// The node's number.
    pub task: u64,
    /// `enqueuedAt`, as the node says it.
    pub enqueued_at: String,
}

impl DiskLives {
    /// The life of the node's disk, and the newest task known of it, before a request is sent.
    /// `logged` is the life that the log knows of.
    pub fn before(&self, node: &NodeId, logged: u64) -> (u64, Option<u64>) {
        let mut lives = self.lock();
        let life = lives.entry(node.clone()).or_default();
        if life.number < logged {
            *life = Life { number: logged, ..Life::default() };
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

    /// A task that was on the node's disk when this pod last looked, in this life.
    pub fn witness(&self, node: &NodeId) -> Option<Witness> {
        self.lock().get(node)?.witness.clone()
    }

    /// A look at the disk, asked for after `before`, has found the witness before this one there:
    /// this one, which was listed earlier, is to be found there from now on.
    pub fn renew_witness(&self, node: &NodeId, before: (u64, Option<u64>), witness: Witness) {
        let mut lives = self.lock();
        if let Some(life) = lives.get_mut(node).filter(|life| life.number == before.0) {
            life.witness = Some(witness);
        }
    }

    /// The witness, as it was before a look, is not the task that the node lists under its number.
    pub fn note_contradicted(&self, node: &NodeId, before: (u64, Option<u64>)) {
        self.note(node, before, None, |_| false);
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
            *life = Life { number: number + 1, newest: task, witness: None };
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

    #[test]
    fn a_contradicted_witness_ends_the_life_that_it_was_of() {
        let (lives, node) = (DiskLives::default(), NodeId::from("a"));
        let witness = Witness { task: 4, enqueued_at: "noon".to_owned() };
        let before = lives.before(&node, 0);
        lives.renew_witness(&node, before, witness.clone());
        lives.note_known(&node, 9);
        assert_eq!(lives.witness(&node), Some(witness.clone()));
        lives.note_contradicted(&node, before);
        assert_eq!((lives.before(&node, 0), lives.witness(&node)), ((1, None), None));
        // Of the life before.
        lives.renew_witness(&node, before, witness);
        lives.note_contradicted(&node, before);
        assert_eq!((lives.before(&node, 0), lives.witness(&node)), ((1, None), None));
    }
}
