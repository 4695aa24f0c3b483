//! What may be written to the coordinator log about nodes and where replicas go.
//!
//! As with [`crate::commands`]: variants may be added at the end, never changed. What operators
//! order is checked when it is applied, against the state of that moment, and refused with a
//! reason ([`TopologyRefusal`]).

use miroir_wire::reserved::Partition;
use serde::{Deserialize, Serialize};

use crate::commands::{Fence, RoleFence};
use crate::ids::{GroupId, IndexUid, NodeId, ShardId};
use crate::tables::nodes::NodeRecord;
use crate::tables::topology::MovesNote;

/// One command about the topology.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum TopologyCommand {
    /// Adds a node that no configuration names. Refused for a known id, and for one that was
    /// removed.
    AddNode(NodeRecord),
    /// Moves everything away from a node, or (`draining: false`) makes it take its part again.
    Drain {
        /// The node.
        node: NodeId,
        /// Whether it is to be emptied.
        draining: bool,
        /// Although its group keeps fewer copies then.
        forced: bool,
    },
    /// Forgets a node. Its id is never used again.
    RemoveNode {
        /// The node.
        node: NodeId,
        /// Although it holds replicas: it is gone for good. Others are made elsewhere.
        forced: bool,
        /// Although it holds the last copies of documents.
        loses_data: bool,
    },
    /// How many copies each group keeps of each shard.
    SetReplication {
        /// At least 1.
        factor: u32,
        /// Only if nothing was said before: what a configuration says.
        if_unset: bool,
    },
    /// Steers the moves.
    Steer {
        /// Begin no move and go on with none, or go on.
        paused: Option<bool>,
        /// Documents copied in a second by each move; 0: as fast as it goes.
        documents_per_second: Option<u32>,
    },
    /// A node has been down so long that its copies are to be made elsewhere, or is back.
    SetAway {
        /// The rebalancer's.
        fence: RoleFence,
        /// The node.
        node: NodeId,
        /// Away or back.
        away: bool,
    },
    /// Says how much there is to move, so that anybody can tell how far it is.
    NoteMoves {
        /// The rebalancer's.
        fence: RoleFence,
        /// `None`: nothing is to be moved.
        note: Option<MovesNote>,
    },
    /// Places replicas on further nodes. They are not read before they are filled.
    Widen {
        /// The rebalancer's.
        fence: RoleFence,
        /// The index.
        index: IndexUid,
        /// Where.
        replicas: Vec<ReplicaPlace>,
    },
    /// Takes replicas away. One that is the last of its shard in sync stays.
    Narrow {
        /// The rebalancer's.
        fence: RoleFence,
        /// The index.
        index: IndexUid,
        /// Which.
        replicas: Vec<ReplicaPlace>,
    },
    /// What was left on a node of shards that it no longer holds is deleted there.
    Emptied {
        /// The writer's.
        fence: Fence,
        /// The node.
        node: NodeId,
        /// The shards.
        shards: Vec<ShardId>,
    },
    /// Divides an index into another number of shards ([`crate::tables::partitions`]).
    Reshard {
        /// The index.
        index: IndexUid,
        /// How many there are to be.
        shards: u32,
        /// Unix nanoseconds, for people.
        at: i64,
    },
    /// Gives a resharding up: the index goes back to where it was.
    AbandonReshard {
        /// The index.
        index: IndexUid,
    },
    /// Every document is marked for the next partition: it is in force.
    SwitchPartition {
        /// The writer's.
        fence: Fence,
        /// The next partition.
        to: Partition,
    },
    /// Nobody reads by the former partition any more.
    SettlePartition {
        /// The writer's.
        fence: Fence,
    },
}

impl TopologyCommand {
    /// The oldest [`crate::commands::FORMAT`] whose pods read it.
    pub fn format(&self) -> u32 {
        match self {
            Self::Reshard { .. }
            | Self::AbandonReshard { .. }
            | Self::SwitchPartition { .. }
            | Self::SettlePartition { .. } => 5,
            _ => 4,
        }
    }
}

/// One replica of one shard.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ReplicaPlace {
    /// The node's group.
    pub group: GroupId,
    /// The node.
    pub node: NodeId,
    /// The shard.
    pub shard: ShardId,
}

/// Why an operator's order is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TopologyRefusal {
    /// No such node.
    UnknownNode,
    /// The id is another node's.
    NodeExists,
    /// A node of that id was removed.
    NodeRemoved,
    /// The group would have too few nodes for its copies.
    TooFewNodes {
        /// The group.
        group: GroupId,
        /// The nodes it would have.
        nodes: u32,
        /// The copies it is to keep.
        factor: u32,
    },
    /// No node at all would be left.
    LastNode,
    /// The node still holds shards of this many indexes.
    HoldsShards {
        /// Indexes.
        indexes: u32,
    },
    /// The node holds the last copies of shards of this many indexes.
    LastCopies {
        /// Indexes.
        indexes: u32,
    },
    /// No such index.
    UnknownIndex,
    /// The index is being resharded.
    ReshardUnderWay {
        /// Into so many shards.
        to: u32,
    },
    /// The index is not being resharded.
    NoReshard,
    /// The way from one number of shards to the other leads through too many.
    TooManyShards {
        /// Shards now.
        from: u32,
        /// Shards that were ordered.
        to: u32,
    },
}
