//! Spec 01, Tasks: ended tasks leave the history when their time is over, and the number of the
//! next task is above every earlier one all the same.

use std::sync::Arc;

use miroir_storage::ids::TaskUid;
use miroir_storage::tables::tasks::TaskRecord;

use super::Violation;

const PROPERTY: &str = "old_tasks_are_pruned";

/// Looks at a world in which every task up to `newest` is older than the retention, and `next`
/// was accepted after that.
pub fn check(
    left: &[Arc<TaskRecord>],
    newest: Option<TaskUid>,
    next: Option<TaskUid>,
) -> Vec<Violation> {
    let mut found: Vec<Violation> = left
        .iter()
        .filter(|task| Some(task.uid) <= newest)
        .map(|task| Violation { property: PROPERTY, evidence: format!("{task:?} is still there") })
        .collect();
    if next <= newest {
        let evidence = format!("the task after {newest:?} got number {next:?}");
        found.push(Violation { property: PROPERTY, evidence });
    }
    found
}
