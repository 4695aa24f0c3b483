//! The routing view: what a search needs of the coordinator state, immutable.
//!
//! Each pod loads it again when an applied command touches it and swaps it whole; a request
//! takes one view and completes against it (safety rules 4 and 7).

use std::collections::BTreeMap;
use std::ops::Bound::Unbounded;
use std::sync::Arc;

use miroir_wire::reserved::Partition;
use miroir_wire::settings::Settings;
use time::OffsetDateTime;

use crate::engine::{Direction, Engine};
use crate::ids::{Epoch, IndexUid, NodeId, PodId};
use crate::tables::api_keys::ApiKeys;
use crate::tables::disks::DiskRecord;
use crate::tables::features;
use crate::tables::indexes::IndexRecord;
use crate::tables::partitions::{self, PartitionRecord};
use crate::tables::records::{decode, text_from};
use crate::tables::topology;
use crate::tables::{ApplyError, DISKS, INDEXES, META, NAMES, NEW_INDEX_SETTINGS, NODES, TIMES};

pub use crate::tables::indexes::{GroupPlacement, ShardPlacement};
pub use crate::tables::nodes::NodeRecord;
pub use crate::tables::partitions::ReshardOrder;
pub use crate::tables::topology::{NodeMoves, Topology};

/// All that requests are routed by.
#[derive(Clone, Debug, Default)]
pub struct Routing {
    /// The cluster's id; empty before the first start.
    pub cluster_id: String,
    /// What new indexes begin with, and reset settings go back to, where it is not the default.
    pub new_index_settings: Arc<Settings>,
    /// Experimental features of nodes that were switched, on or off.
    pub features: Arc<BTreeMap<String, bool>>,
    /// Every node.
    pub nodes: BTreeMap<NodeId, Arc<NodeRecord>>,
    /// The disks of nodes, where something is known of them.
    pub disks: BTreeMap<NodeId, DiskRecord>,
    /// How nodes take part.
    pub topology: Arc<Topology>,
    /// What readers see under each client name.
    pub indexes: BTreeMap<String, Arc<IndexRouting>>,
    /// What a write accepted now would go to.
    pub write_names: BTreeMap<String, IndexUid>,
    /// Every index, by node-side uid.
    pub by_uid: BTreeMap<IndexUid, Arc<IndexRouting>>,
    /// Every API key. The same pointer as long as no key changed.
    pub api_keys: Arc<ApiKeys>,
}

/// One index.
#[derive(Clone, Debug)]
pub struct IndexRouting {
    /// What nodes call it.
    pub uid: IndexUid,
    /// What readers call it now; the name of its creation while nobody sees it.
    pub name: String,
    /// Agreed primary key.
    pub primary_key: Option<String>,
    /// When it was created.
    pub created_at: OffsetDateTime,
    /// Number of shards.
    pub shards: u32,
    /// How documents are marked, beside the partition in force for the one after or before it.
    pub marks: Marks,
    /// A resharding that was ordered and is not at its end.
    pub reshard: Option<ReshardOrder>,
    /// The client's settings.
    pub settings: Arc<Settings>,
    /// Grows with each committed settings task.
    pub settings_version: u64,
    /// A settings broadcast is in flight.
    pub settings_pending: bool,
    /// The pod that writes it.
    pub writer: PodId,
    /// The writer's epoch.
    pub epoch: Epoch,
    /// Placement in force, by group.
    pub groups: Vec<GroupPlacement>,
    /// Shards on the move, by node.
    pub moves: BTreeMap<NodeId, NodeMoves>,
}

/// The partitions that documents of an index are marked for: the tokens in their shard fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks {
    /// In force: what reads, copies and deletions of shards go by.
    pub current: Partition,
    /// The one that is prepared.
    pub next: Option<Partition>,
    /// The one before, which some may still read by.
    pub former: Option<Partition>,
}

impl Marks {
    /// Those of an index that was never resharded.
    pub fn first(shards: u32) -> Self {
        Self { current: Partition { shards, generation: 0 }, next: None, former: None }
    }

    /// The second partition that documents are marked for, if there are two.
    pub fn beside(&self) -> Option<Partition> {
        self.next.or(self.former)
    }

    /// The last partition that documents are to be marked for. `None` where all are by birth.
    pub fn newest(&self) -> Option<Partition> {
        self.next.or((self.current.generation > 0).then_some(self.current))
    }
}

impl IndexRouting {
    /// The number of shards that placement goes by: that of the resharding under way where it makes
    /// several shards one.
    pub fn placed_as(&self) -> u32 {
        let to = self.reshard.as_ref().map_or(self.shards, |order| order.to);
        let joins = to > 0 && self.shards.is_multiple_of(to);
        if joins { to } else { self.shards }
    }
}

impl Routing {
    /// Loads the view from the applied state.
    ///
    /// # Errors
    /// When the store fails or a record can't be read.
    pub fn load(engine: &dyn Engine) -> Result<Self, ApplyError> {
        let everything =
            |table| engine.scan(table, (Unbounded, Unbounded), Direction::Forward, usize::MAX);
        let mut routing = Self::default();
        if let Some(id) = engine.get(META, b"cluster")? {
            routing.cluster_id = text_from(id)?;
        }
        routing.features = Arc::new(features::load(engine)?);
        if let Some(bytes) = engine.get(META, NEW_INDEX_SETTINGS)? {
            routing.new_index_settings = Arc::new(read_settings("new indexes", &text_from(bytes)?));
        }
        for (_, bytes) in everything(NODES)? {
            let node: NodeRecord = decode(&bytes)?;
            routing.nodes.insert(node.id.clone(), Arc::new(node));
        }
        for (key, bytes) in everything(DISKS)? {
            routing.disks.insert(NodeId(text_from(key)?), decode(&bytes)?);
        }
        routing.topology = Arc::new(topology::load(engine)?);
        let mut moves = topology::all_moves(engine)?;
        let mut read_names = BTreeMap::new();
        for (key, uid) in everything(NAMES)? {
            let uid = IndexUid(text_from(uid)?);
            let (side, name) = key.split_at(key.len().min(1));
            let name = text_from(name.to_vec())?;
            if side == b"r" {
                read_names.insert(uid, name);
            } else {
                routing.write_names.insert(name, uid);
            }
        }
        for (key, bytes) in everything(INDEXES)? {
            let uid = IndexUid(text_from(key)?);
            let record: IndexRecord = decode(&bytes)?;
            let seen_as = read_names.get(&uid).cloned();
            let moves = moves.remove(&uid).unwrap_or_default();
            let partition = partitions::load(engine, &uid)?;
            let seen = seen_as.as_deref();
            let index = Arc::new(index_routing(uid.clone(), seen, record, partition, moves));
            if let Some(name) = seen_as {
                routing.indexes.insert(name, index.clone());
            }
            routing.by_uid.insert(uid, index);
        }
        routing.api_keys = Arc::new(ApiKeys::load(engine)?);
        Ok(routing)
    }

    /// What is known of the node's disk.
    pub fn disk(&self, node: &NodeId) -> DiskRecord {
        self.disks.get(node).cloned().unwrap_or_default()
    }

    /// Loads the view again, keeping of `self` what is the same.
    ///
    /// # Errors
    /// As [`Routing::load`].
    pub fn reload(&self, engine: &dyn Engine) -> Result<Self, ApplyError> {
        let mut routing = Self::load(engine)?;
        if routing.api_keys == self.api_keys {
            routing.api_keys = self.api_keys.clone();
        }
        Ok(routing)
    }
}

/// Settings are checked before they are agreed; a stored text that no longer parses can only come
/// from a newer version, and reads then fall back to defaults rather than stop.
fn read_settings(of: &str, stored: &str) -> Settings {
    Settings::from_json(stored.as_bytes()).unwrap_or_else(|error| {
        tracing::error!(index = of, message = error.message, "stored settings can't be read");
        Settings::default()
    })
}

fn index_routing(
    uid: IndexUid,
    seen_as: Option<&str>,
    record: IndexRecord,
    partition: PartitionRecord,
    moves: BTreeMap<NodeId, NodeMoves>,
) -> IndexRouting {
    let settings = read_settings(uid.as_str(), &record.settings);
    IndexRouting {
        name: seen_as.unwrap_or(&record.name).to_owned(),
        primary_key: record.primary_key,
        created_at: from_nanoseconds(record.created_at),
        shards: record.shards,
        marks: Marks {
            current: Partition { shards: record.shards, generation: partition.generation },
            next: partition.next,
            former: partition.former,
        },
        reshard: partition.order,
        settings: Arc::new(settings),
        settings_version: record.settings_version,
        settings_pending: record.settings_pending,
        writer: record.writer,
        epoch: record.epoch,
        groups: record.groups,
        moves,
        uid,
    }
}

/// When the index last changed, as the last ended task says; kept apart from the view since it
/// changes with every task.
///
/// # Errors
/// When the store fails or the record can't be read.
pub fn updated_at(
    engine: &dyn Engine,
    uid: &IndexUid,
) -> Result<Option<OffsetDateTime>, ApplyError> {
    let Some(bytes) = engine.get(TIMES, uid.as_str().as_bytes())? else { return Ok(None) };
    let at = crate::tables::records::u64_from(&bytes)?;
    Ok(Some(from_nanoseconds(at as i64)))
}

/// A stored time.
pub fn from_nanoseconds(at: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(at)).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// A time as it is stored. Years beyond 2262 don't fit and are clamped.
pub fn to_nanoseconds(at: OffsetDateTime) -> i64 {
    i64::try_from(at.unix_timestamp_nanos()).unwrap_or(i64::MAX)
}
