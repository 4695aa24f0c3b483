//! What operators order of the topology under fire: nodes that join, are drained and leave, other
//! numbers of copies, pauses. Never what would lose documents by itself.

use std::sync::Arc;

use miroir_storage::commands::Command;
use miroir_storage::ids::NodeId;
use miroir_storage::routing::{IndexRouting, NodeRecord, Routing};
use miroir_storage::topology_commands::TopologyCommand;

use crate::dice::Dice;
use crate::network::address_of;
use crate::plan::Plan;

/// Time between two orders, about.
const PAUSE_MS: u64 = 18_000;
/// Orders of one run: moves take their time.
const ORDERS_MAX: u64 = 8;
/// Copies at most.
const FACTOR_MAX: u64 = 3;

/// Shards at most: a model node is small.
const SHARDS_MOST: u32 = 48;

/// The orders of one run, from the seed.
#[derive(Debug)]
pub struct TopologyOrders {
    plan: Plan,
    dice: Dice,
    next_at_ms: u64,
    count: u64,
}

impl TopologyOrders {
    /// The orders of `plan`.
    pub fn new(plan: &Plan) -> Self {
        let dice = Dice::new(plan.seed, "topology");
        let next_at_ms = dice.between(5_000, PAUSE_MS * 2);
        Self { plan: plan.clone(), dice, next_at_ms, count: 0 }
    }

    /// The next order, when it is due. `quiet`: a disk was lost a moment ago, and whoever takes another
    /// replica away now may take the last one.
    pub fn due(&mut self, now_ms: u64, routing: Option<&Routing>, quiet: bool) -> Option<Command> {
        let orders = self.plan.moves || self.plan.reshards;
        if !orders || now_ms < self.next_at_ms || self.count >= ORDERS_MAX {
            return None;
        }
        self.next_at_ms = now_ms + self.dice.between(PAUSE_MS / 4, PAUSE_MS * 2);
        let order = match self.plan.reshards && (!self.plan.moves || self.dice.chance(450)) {
            // Nothing is taken away by it.
            true => self.reshard(routing?, now_ms)?,
            false => self.choose(routing.filter(|_| !quiet)?)?,
        };
        self.count += 1;
        Some(Command::Topology(Box::new(order)))
    }

    /// What lets everything that was ordered come to its end.
    pub fn go_on() -> Command {
        let steer = TopologyCommand::Steer { paused: Some(false), documents_per_second: Some(0) };
        Command::Topology(Box::new(steer))
    }

    /// Another number of shards for one of the indexes; now and then one is given up.
    fn reshard(&self, routing: &Routing, now_ms: u64) -> Option<TopologyCommand> {
        let indexes: Vec<&Arc<IndexRouting>> = routing.by_uid.values().collect();
        let index = self.dice.pick(&indexes)?;
        let uid = index.uid.clone();
        if index.reshard.is_some() {
            return self.dice.chance(300).then_some(TopologyCommand::AbandonReshard { index: uid });
        }
        let numbers = [
            (index.shards * 2, 4),
            (index.shards * 3, 2),
            (index.shards / 2, if index.shards % 2 == 0 { 4 } else { 0 }),
            (index.shards / 4, if index.shards % 4 == 0 { 2 } else { 0 }),
            (self.dice.between(1, 12) as u32, 3),
        ];
        let shards = self.dice.weighted(&numbers)?.clamp(1, SHARDS_MOST);
        Some(TopologyCommand::Reshard { index: uid, shards, at: now_ms as i64 * 1_000_000 })
    }

    fn choose(&self, routing: &Routing) -> Option<TopologyCommand> {
        let topology = &routing.topology;
        let fresh: Vec<NodeRecord> = self
            .plan
            .spares()
            .into_iter()
            .filter(|(id, _)| !routing.nodes.contains_key(id) && !topology.removed.contains(id))
            .map(|(id, group)| NodeRecord { address: address_of(&id), id, group, key: None })
            .collect();
        let all: Vec<NodeId> = routing.nodes.keys().cloned().collect();
        let draining: Vec<NodeId> = topology.draining.iter().cloned().collect();
        // A late request is made up for by other replicas of the shard.
        let keeps_copies = self.plan.late_node.is_some();
        let kinds = [
            (0, if fresh.is_empty() { 0 } else { 6 }),
            (1, if keeps_copies { 0 } else { 4 }),
            (2, u64::from(!draining.is_empty())),
            (3, if draining.is_empty() { 0 } else { 4 }),
            (4, 2),
            (5, 1),
            (6, 1),
        ];
        Some(match self.dice.weighted(&kinds)? {
            0 => TopologyCommand::AddNode(self.dice.pick(&fresh)?.clone()),
            1 => {
                let node = self.dice.pick(&all)?.clone();
                TopologyCommand::Drain { node, draining: true, forced: self.dice.chance(150) }
            }
            2 => {
                let node = self.dice.pick(&draining)?.clone();
                TopologyCommand::Drain { node, draining: false, forced: false }
            }
            3 => {
                let node = self.dice.pick(&draining)?.clone();
                let forced = !self.plan.loses_disks && !keeps_copies && self.dice.chance(200);
                TopologyCommand::RemoveNode { node, forced, loses_data: false }
            }
            4 => {
                let least = if keeps_copies { self.plan.replication_factor as u64 } else { 1 };
                let factor = self.dice.between(least, FACTOR_MAX.max(least)) as u32;
                TopologyCommand::SetReplication { factor, if_unset: false }
            }
            5 => {
                let paused = Some(!topology.paused);
                TopologyCommand::Steer { paused, documents_per_second: None }
            }
            _ => {
                let rate = self.dice.between(0, 40) as u32;
                TopologyCommand::Steer { paused: Some(false), documents_per_second: Some(rate) }
            }
        })
    }
}
