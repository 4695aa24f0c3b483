//! Lane marks: how far each lane has come.
//!
//! Key: index uid, a zero byte, node id. Value: what the node has applied, and the run of tasks
//! that may be under way there. Written by `SetLaneMark` before a run is sent, under the writer's
//! fence, so that a writer that starts again, on whichever pod, knows exactly which requests may
//! still land (spec 01, late and repeated requests), and one that was replaced can send no more.
//! Removed with the index.

use serde::{Deserialize, Serialize};

use super::records::{Record, decode, encode};
use super::{ApplyError, LANE_MARKS, MOVES, REPLICAS, indexes};
use crate::commands::{Fence, Outcome};
use crate::engine::{Direction, Engine, Table, Tx};
use crate::ids::{IndexUid, NodeId, TaskUid};

/// Where earlier versions, of one pod only, kept marks beside the replicated state.
const LOCAL_LANE_MARKS: Table = Table(250);

/// One lane's mark.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    /// The tasks after `audited` that are known to be ours, at most [`EXPLAINED_MAX`]; `None` when
    /// they were more: then nothing is known of what came since.
    pub explained: Option<Vec<u64>>,
    /// `open` is of a former life: its request is to be looked for before anything is sent. Not
    /// stored: so it is with every mark that is loaded.
    #[serde(skip)]
    pub inherited: bool,
}

/// Tasks kept in a mark: some minutes of runs.
pub const EXPLAINED_MAX: usize = 256;

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

impl Default for LaneMark {
    fn default() -> Self {
        Self {
            through: None,
            open: None,
            node_task: None,
            provisioned: false,
            notable: Vec::new(),
            audited: None,
            doubts: false,
            explained: Some(Vec::new()),
            inherited: false,
        }
    }
}

impl Record for LaneMark {
    const VERSION: u8 = 3;
    const NAME: &'static str = "lane mark";

    fn upgrade(version: u8, bytes: &[u8]) -> Option<Self> {
        if version == 2 {
            let old: LaneMarkV2 = postcard::from_bytes(bytes).ok()?;
            let LaneMarkV2 { through, open, node_task, provisioned, notable, audited, doubts } =
                old;
            let mark = Self { through, open, node_task, provisioned, notable, ..Self::default() };
            return Some(Self { audited, doubts, explained: None, ..mark });
        }
        let LaneMarkV1 { through, open, node_task, provisioned, notable } =
            (version == 1).then(|| postcard::from_bytes(bytes).ok()).flatten()?;
        let audited = node_task;
        Some(Self { through, open, node_task, provisioned, notable, audited, ..Self::default() })
    }
}

/// The second version, which did not say what was sent since the last audit.
#[derive(Deserialize)]
struct LaneMarkV2 {
    through: Option<TaskUid>,
    open: Option<OpenRun>,
    node_task: Option<u64>,
    provisioned: bool,
    notable: Vec<(TaskUid, String)>,
    audited: Option<u64>,
    doubts: bool,
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

/// The key of what is known of an index on a node.
pub(super) fn replica_key(index: &IndexUid, node: &NodeId) -> Vec<u8> {
    [index.as_str().as_bytes(), &[0], node.as_str().as_bytes()].concat()
}

/// The mark of one lane; a fresh one when there is none.
///
/// # Errors
/// When the store fails or the record can't be read.
pub fn load(engine: &dyn Engine, index: &IndexUid, node: &NodeId) -> Result<LaneMark, ApplyError> {
    let key = replica_key(index, node);
    let stored = match engine.get(LANE_MARKS, &key)? {
        Some(bytes) => Some(bytes),
        None => engine.get(LOCAL_LANE_MARKS, &key)?,
    };
    let mark = stored.map(|bytes| decode::<LaneMark>(&bytes)).transpose()?.unwrap_or_default();
    Ok(LaneMark { inherited: mark.open.is_some(), ..mark })
}

pub(crate) fn set(
    tx: &mut Tx<'_>,
    fence: &Fence,
    node: &NodeId,
    mark: &LaneMark,
) -> Result<Outcome, ApplyError> {
    match indexes::fenced(tx, fence)? {
        Ok(_) => {
            tx.put(LANE_MARKS, &replica_key(&fence.index, node), encode(mark)?);
            Ok(Outcome::Done)
        }
        Err(refusal) => Ok(refusal),
    }
}

/// Removes the marks of an index, and what is known of its replicas and their moves.
pub(crate) fn forget(tx: &mut Tx<'_>, index: &IndexUid) -> Result<(), ApplyError> {
    use std::ops::Bound::Included;
    let first = [index.as_str().as_bytes(), &[0]].concat();
    let last = [index.as_str().as_bytes(), &[1]].concat();
    for table in [LANE_MARKS, REPLICAS, MOVES] {
        let range = (Included(first.clone()), Included(last.clone()));
        for (key, _) in tx.scan(table, range, Direction::Forward, usize::MAX)? {
            tx.delete(table, &key);
        }
    }
    Ok(())
}
