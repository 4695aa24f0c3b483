//! Each task ends as the client's model says: succeeded, or failed with Meilisearch's code.

use std::collections::BTreeMap;
use std::sync::Arc;

use miroir_storage::tables::tasks::{TaskRecord, TaskState};

use super::{Violation, error_code, sent_of};
use crate::expected::Expected;
use crate::history::Sent;

/// Builds the model from the ended tasks, oldest first, and compares each end with it.
pub fn replay(
    tasks: &[Arc<TaskRecord>],
    history: &BTreeMap<u64, Sent>,
) -> (Expected, Vec<Violation>) {
    let mut expected = Expected::default();
    let mut found = Vec::new();
    for task in tasks {
        let TaskState::Ended(ending) = task.state else { continue };
        let Some(sent) = sent_of(history, task) else { continue };
        let code = error_code(task);
        if let Err(difference) = expected.apply(&sent.operation, ending, code.as_deref()) {
            let operation = sent.operation.describe(1);
            let evidence = format!("task {} ({operation}) {difference}", task.uid);
            found.push(Violation { property: "outcomes_are_expected", evidence });
        }
    }
    (expected, found)
}
