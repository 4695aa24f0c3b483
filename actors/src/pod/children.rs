//! The children of the root: their names, which life of each is the current one, who waits.
//!
//! A child may have two lives for a moment: one that was told to stop, since its role was given
//! anew, and the next. Only the end of the current one means anything.

use std::collections::{BTreeMap, BTreeSet};

use miroir_storage::ids::{IndexUid, NodeId};
use miroir_storage::tables::roles::{REBALANCER, REGISTRAR, writer_role};
use ractor::{ActorCell, ActorId};

/// The children by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Child {
    /// Follows a node's tasks.
    Follower(NodeId),
    /// Health checks.
    Health,
    /// Removes strays.
    Janitor,
    /// Tasks that no index owns.
    Registrar,
    /// Moves replicas.
    Rebalancer,
    /// Gives roles.
    Coordinator,
    /// Gives back payloads.
    Keeper,
    /// Removes old tasks.
    Pruner,
    /// Reads back settings.
    Drift,
    /// Compares replicas.
    AntiEntropy,
    /// Works on chunks of jobs.
    Jobs,
    /// Tells webhooks of ended tasks.
    Webhooks,
    /// An index's writer.
    Writer(IndexUid),
}

impl Child {
    /// Its name in the pod's inventory.
    pub fn name(&self) -> String {
        match self {
            Self::Follower(node) => format!("node-tasks/{node}"),
            Self::Health => "health-checker".to_owned(),
            Self::Janitor => "index-janitor".to_owned(),
            Self::Registrar => REGISTRAR.to_owned(),
            Self::Rebalancer => REBALANCER.to_owned(),
            Self::Coordinator => "coordinator".to_owned(),
            Self::Keeper => "journal-keeper".to_owned(),
            Self::Pruner => "task-pruner".to_owned(),
            Self::Drift => "drift-checker".to_owned(),
            Self::AntiEntropy => "anti-entropy".to_owned(),
            Self::Jobs => "job-worker".to_owned(),
            Self::Webhooks => "webhook-sender".to_owned(),
            Self::Writer(index) => writer_role(index),
        }
    }
}

/// How a life ended, for the root.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum LifeEnd {
    /// The current one ended by itself.
    Current(Child),
    /// The current one ended since an operator wants it started again.
    ByHand(Child),
    /// Another one is current, or none is wanted.
    Former(Child),
}

/// Who lives and who waits.
#[derive(Debug, Default)]
pub(super) struct Children {
    lives: BTreeMap<ActorId, Child>,
    current: BTreeMap<Child, ActorCell>,
    /// Who is to be started again, and the number of the wait: what another start has overtaken
    /// doesn't count.
    waiting: BTreeMap<Child, u64>,
    waits: u64,
    by_hand: BTreeSet<ActorId>,
}

impl Children {
    /// A life began.
    pub fn started(&mut self, child: Child, cell: ActorCell) {
        self.waiting.remove(&child);
        self.lives.insert(cell.get_id(), child.clone());
        self.current.insert(child, cell);
    }

    /// The child is not wanted any more: neither its life nor its wait counts.
    pub fn release(&mut self, child: &Child) {
        self.waiting.remove(child);
        self.current.remove(child);
    }

    /// A life ended; `None` when it is not known.
    pub fn ended(&mut self, life: ActorId) -> Option<LifeEnd> {
        let child = self.lives.remove(&life)?;
        let by_hand = self.by_hand.remove(&life);
        if self.current.get(&child).is_none_or(|cell| cell.get_id() != life) {
            return Some(LifeEnd::Former(child));
        }
        self.current.remove(&child);
        Some(if by_hand { LifeEnd::ByHand(child) } else { LifeEnd::Current(child) })
    }

    /// The child begins to wait; the number of the wait.
    pub fn wait(&mut self, child: Child) -> u64 {
        self.waits += 1;
        self.waiting.insert(child, self.waits);
        self.waits
    }

    /// Whether the child waits to be started again.
    pub fn waits(&self, child: &Child) -> bool {
        self.waiting.contains_key(child)
    }

    /// Ends the wait of that number; false if it was overtaken.
    pub fn end_wait(&mut self, child: &Child, wait: u64) -> bool {
        let is_due = self.waiting.get(child) == Some(&wait);
        if is_due {
            self.waiting.remove(child);
        }
        is_due
    }

    /// The child that lives or waits under that name.
    pub fn named(&self, name: &str) -> Option<Child> {
        let mut all = self.current.keys().chain(self.waiting.keys());
        all.find(|child| child.name() == name).cloned()
    }

    /// The current life, which is from now on ended by hand.
    pub fn end_by_hand(&mut self, child: &Child) -> Option<ActorCell> {
        let cell = self.current.get(child)?;
        self.by_hand.insert(cell.get_id());
        Some(cell.clone())
    }

    /// The wait that the child is in.
    pub fn wait_of(&self, child: &Child) -> Option<u64> {
        self.waiting.get(child).copied()
    }
}
