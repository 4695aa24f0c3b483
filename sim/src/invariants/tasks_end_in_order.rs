//! Spec 01, Tasks: tasks of one name end in `taskUid` order, so that who has waited for the
//! last has waited for all. Cancelled tasks end early by nature.

use std::collections::BTreeMap;
use std::sync::Arc;

use miroir_storage::commands::{Ending, Work};
use miroir_storage::tables::tasks::{TaskRecord, TaskState};

use super::Violation;

/// Looks at the tasks of one moment, oldest first.
pub fn check(tasks: &[Arc<TaskRecord>]) -> Vec<Violation> {
    let mut open: BTreeMap<&str, &TaskRecord> = BTreeMap::new();
    let mut found = Vec::new();
    for task in tasks {
        if task.state == TaskState::Ended(Ending::Canceled) {
            continue;
        }
        for name in names_of(task) {
            if !task.ended() {
                open.entry(name).or_insert(task);
            } else if let Some(earlier) = open.get(name) {
                found.push(Violation {
                    property: "tasks_end_in_order",
                    evidence: format!(
                        "task {} of `{name}` has ended before task {}",
                        task.uid, earlier.uid
                    ),
                });
            }
        }
    }
    found
}

/// The client names that a task is about.
pub(super) fn names_of(task: &TaskRecord) -> Vec<&str> {
    let mut names: Vec<&str> = task.name.as_deref().into_iter().collect();
    match &task.work {
        Work::SwapIndexes { pairs } => {
            names.extend(pairs.iter().flat_map(|(a, b)| [a.as_str(), b.as_str()]));
        }
        Work::ChangeNames { changes, .. } => {
            let both = changes.iter().flat_map(|change| [change.a.as_str(), change.b.as_str()]);
            names.extend(both);
        }
        Work::RenameIndex { from, to, .. } if from != to => names.push(to),
        _ => {}
    }
    names
}
