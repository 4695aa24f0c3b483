//! What must hold, one property a file.
//!
//! | property | of the safety rules (spec 00) | checked |
//! |---|---|---|
//! | [`statuses_are_final`] | 6: a terminal status never changes | all the time |
//! | [`tasks_end_in_order`] | spec 01, Tasks: tasks of one name end in `taskUid` order | all the time |
//! | [`visible_when_succeeded`] | 3: a succeeded task is visible in every later read | all the time |
//! | [`reads_are_expected`] | 3, 4, 10: reads show what has ended, once, and nothing internal | at the end, of all the time |
//! | `roles_are_held_once` | 5: each role works on one pod, the one that the log names | at the end |
//! | `pods_agree` | pods that applied the same hold the same; all settle | all the time, at rest |
//! | [`crate::ledger`] | 5: commands of older epochs take no effect, the same everywhere | all the time |
//! | `payloads_are_twice` | 1: open payloads are in the journals of two pods | all the time |
//! | [`acknowledged_is_kept`] | 1, 6: acknowledged writes have their task, refused ones none | at the end |
//! | [`outcomes_are_expected`] | each task ends as the client's model says | at the end |
//! | [`documents_are_expected`] | 1, 2: every in-sync replica holds exactly what it must | at the end |
//! | [`replicas_are_equal`] | 2: the replicas of a shard hold the same, in the right shard | at the end |
//! | [`settings_are_equal`] | spec 01, Settings: every in-sync node has them | at the end |
//! | `settings_hold` | spec 01, Settings: what is agreed holds, what was refused is undone | all the time |
//! | [`everything_is_in_sync`] | 2: after healing nobody stays out | at the end |
//! | [`old_tasks_are_pruned`] | spec 01, Tasks: kept for their time, numbers never go back | after it |
//! | [`no_stray_indexes`] | spec 01: indexes that the log doesn't know are removed | at the end |

pub mod acknowledged_is_kept;
pub mod documents_are_expected;
pub mod everything_is_in_sync;
pub mod no_stray_indexes;
pub mod old_tasks_are_pruned;
pub mod outcomes_are_expected;
pub(crate) mod payloads_are_twice;
pub(crate) mod pods_agree;
pub mod reads_are_expected;
pub mod replicas_are_equal;
pub(crate) mod roles_are_held_once;
pub mod settings_are_equal;
pub(crate) mod settings_hold;
pub mod statuses_are_final;
pub mod tasks_end_in_order;
pub mod visible_when_succeeded;

use std::collections::BTreeMap;
use std::sync::Arc;

use miroir_storage::ids::NodeId;
use miroir_storage::routing::Routing;
use miroir_storage::tables::tasks::TaskRecord;

use crate::expected::Expected;
use crate::history::Sent;
use crate::model_node::ModelNode;
use crate::operation::number_of;

/// A property that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The property.
    pub property: &'static str,
    /// The evidence.
    pub evidence: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.property, self.evidence)
    }
}

/// The world at rest, as the final checks look at it.
#[derive(Debug)]
pub struct World<'a> {
    /// The pod's view.
    pub routing: &'a Routing,
    /// Every task, oldest first.
    pub tasks: &'a [Arc<TaskRecord>],
    /// The clients' writes by number.
    pub history: &'a BTreeMap<u64, Sent>,
    /// Every node.
    pub nodes: &'a BTreeMap<NodeId, ModelNode>,
    /// What the model makes of the tasks.
    pub expected: &'a Expected,
}

/// The client's write behind a task.
pub fn sent_of<'a>(history: &'a BTreeMap<u64, Sent>, task: &TaskRecord) -> Option<&'a Sent> {
    history.get(&number_of(task.custom_metadata.as_deref()?)?)
}

/// The code of a task's error.
pub fn error_code(task: &TaskRecord) -> Option<String> {
    let error: serde_json::Value = serde_json::from_str(task.error.as_deref()?).ok()?;
    Some(error.get("code")?.as_str()?.to_owned())
}

/// Checks everything that must hold once the world is at rest.
pub fn check_at_rest(world: &World<'_>) -> Vec<Violation> {
    let checks: [fn(&World<'_>) -> Vec<Violation>; 6] = [
        acknowledged_is_kept::check,
        everything_is_in_sync::check,
        replicas_are_equal::check,
        documents_are_expected::check,
        settings_are_equal::check,
        no_stray_indexes::check,
    ];
    checks.iter().flat_map(|check| check(world)).collect()
}
