//! Safety rule 6: a task's terminal status never changes, nor what it says beside it.

use std::collections::BTreeMap;
use std::sync::Arc;

use miroir_storage::ids::TaskUid;
use miroir_storage::tables::tasks::TaskRecord;

use super::Violation;

/// Remembers the ended tasks it has seen.
#[derive(Clone, Debug, Default)]
pub struct StatusesAreFinal {
    ended: BTreeMap<TaskUid, Arc<TaskRecord>>,
}

impl StatusesAreFinal {
    /// Looks at the tasks of this moment.
    pub fn observe(&mut self, tasks: &[Arc<TaskRecord>]) -> Vec<Violation> {
        let mut found = Vec::new();
        let now: BTreeMap<TaskUid, &Arc<TaskRecord>> =
            tasks.iter().map(|task| (task.uid, task)).collect();
        for (uid, before) in &self.ended {
            // What was not decoded again is the same.
            let is_same = |task: &&Arc<TaskRecord>| Arc::ptr_eq(task, before) || *task == before;
            if now.get(uid).is_none_or(|task| !is_same(task)) {
                let evidence = format!("task {uid} was {before:?} and is {:?}", now.get(uid));
                found.push(Violation { property: "statuses_are_final", evidence });
            }
        }
        let ended = tasks.iter().filter(|task| task.ended());
        self.ended.extend(ended.map(|task| (task.uid, task.clone())));
        found
    }
}
