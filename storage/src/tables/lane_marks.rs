//! Lane marks: how far each lane of this pod has come. Local, not replicated.
//!
//! Key: index uid, a zero byte, node id. Value: what the node has applied, and the run of tasks
//! that may be under way there. A mark is synced before a run is sent, so that a writer that
//! starts again knows exactly which requests may still land (spec 01, late and repeated
//! requests). Removed with the index.

use serde::{Deserialize, Serialize};

use super::ApplyError;
use super::records::{Record, decode, encode};
use crate::engine::{Batch, Durability, Engine, Table};
use crate::ids::{IndexUid, NodeId, TaskUid};

/// The table; outside the replicated state.
pub const LANE_MARKS: Table = Table(250);

/// One lane's mark.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneMark {
    /// Every task of the index up to this one is applied on the node.
    pub through: Option<TaskUid>,
    /// The run that was about to be sent when the mark was written, if it has not ended.
    pub open: Option<OpenRun>,
    /// The newest task of the node that this lane knows of. A node whose newest task is older
    /// has lost its disk.
    pub node_task: Option<u64>,
    /// The index exists on the node, with its settings.
    pub provisioned: bool,
    /// Outcomes worth knowing after a restart (refusals, counts of deletions), as JSON; the
    /// newest [`NOTABLE_MAX`].
    pub notable: Vec<(TaskUid, String)>,
    /// Every task of the index on the node up to this one is one that this pod sent.
    pub audited: Option<u64>,
    /// A request was given up and may be carried out yet: the node's tasks are to be audited.
    pub doubts: bool,
}

/// Outcomes kept in a mark.
pub const NOTABLE_MAX: usize = 256;

/// A request that may be under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenRun {
    /// Its name, as the node was asked to remember it (`customMetadata`).
    pub name: String,
    /// First and last task of the run.
    pub first: TaskUid,
    /// See `first`.
    pub last: TaskUid,
}

impl Record for LaneMark {
    const VERSION: u8 = 2;
    const NAME: &'static str = "lane mark";

    fn upgrade(version: u8, bytes: &[u8]) -> Option<Self> {
        let LaneMarkV1 { through, open, node_task, provisioned, notable } =
            (version == 1).then(|| postcard::from_bytes(bytes).ok()).flatten()?;
        let audited = node_task;
        Some(Self { through, open, node_task, provisioned, notable, audited, doubts: false })
    }
}

/// The first version, without audits.
#[derive(Deserialize)]
struct LaneMarkV1 {
    through: Option<TaskUid>,
    open: Option<OpenRun>,
    node_task: Option<u64>,
    provisioned: bool,
    notable: Vec<(TaskUid, String)>,
}

fn key(index: &IndexUid, node: &NodeId) -> Vec<u8> {
    [index.as_str().as_bytes(), &[0], node.as_str().as_bytes()].concat()
}

/// The mark of one lane; a fresh one when there is none.
///
/// # Errors
/// When the store fails or the record can't be read.
pub fn load(engine: &dyn Engine, index: &IndexUid, node: &NodeId) -> Result<LaneMark, ApplyError> {
    match engine.get(LANE_MARKS, &key(index, node))? {
        Some(bytes) => Ok(decode(&bytes)?),
        None => Ok(LaneMark::default()),
    }
}

/// Stores a mark; `Synced` before sending, `Lazy` after the end (a lost end is found again by
/// asking the node).
///
/// # Errors
/// When the store fails.
pub fn save(
    engine: &dyn Engine,
    index: &IndexUid,
    node: &NodeId,
    mark: &LaneMark,
    durability: Durability,
) -> Result<(), ApplyError> {
    let mut batch = Batch::default();
    batch.put(LANE_MARKS, &key(index, node), encode(mark)?);
    engine.commit(batch, durability)?;
    Ok(())
}

/// Removes a mark.
///
/// # Errors
/// When the store fails.
pub fn forget(engine: &dyn Engine, index: &IndexUid, node: &NodeId) -> Result<(), ApplyError> {
    let mut batch = Batch::default();
    batch.delete(LANE_MARKS, &key(index, node));
    engine.commit(batch, Durability::Lazy)?;
    Ok(())
}
