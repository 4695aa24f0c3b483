//! The tasks that a pod holds, decoded once however often they are looked at.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use miroir_actors::pod::PodContext;
use miroir_storage::engine::{ALL_KEYS, Direction};
use miroir_storage::tables::tasks::TaskRecord;
use miroir_storage::tables::{TASKS, records};

/// By key: the bytes, and what they say.
type Decoded = BTreeMap<Vec<u8>, (Vec<u8>, Arc<TaskRecord>)>;

/// One for all pods of a world: most of the time they hold the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct TaskList {
    decoded: Arc<Mutex<Decoded>>,
}

impl TaskList {
    /// Every task that a pod shows, oldest first.
    pub(crate) fn of(&self, pod: &PodContext) -> Vec<Arc<TaskRecord>> {
        let found = pod.log.engine().scan(TASKS, ALL_KEYS, Direction::Forward, usize::MAX);
        let mut decoded = self.decoded.lock().unwrap_or_else(PoisonError::into_inner);
        let decode = |(key, bytes): (Vec<u8>, Vec<u8>)| {
            if let Some((_, task)) = decoded.get(&key).filter(|(known, _)| *known == bytes) {
                return Some(task.clone());
            }
            let task: Arc<TaskRecord> = Arc::new(records::decode(&bytes).ok()?);
            decoded.insert(key, (bytes, task.clone()));
            Some(task)
        };
        found.unwrap_or_default().into_iter().filter_map(decode).collect()
    }
}
