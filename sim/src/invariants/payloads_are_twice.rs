//! Safety rule 1: the payload of an acknowledged write is in the journals of two pods until its
//! task has ended, in a cluster where a pod alone is not all there is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use miroir_storage::tables::tasks::TaskRecord;

use super::{Violation, sent_of};
use crate::cluster::Serving;
use crate::history::Sent;

/// Since when every pod has made second copies.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PayloadsAreTwice {
    since_ms: Option<u64>,
}

impl PayloadsAreTwice {
    /// Looks at the pods of this moment. `count` pods are all there are; of two one is the only
    /// voter, which has the only journal.
    pub(crate) fn follow(&mut self, pods: &[Serving], count: usize, now_ms: u64) {
        let copy = |pod: &Serving| pod.context.peers.now().copies >= 2;
        if count < 3 || !pods.iter().all(copy) {
            self.since_ms = None;
        } else if self.since_ms.is_none() && pods.len() == count {
            self.since_ms = Some(now_ms);
        }
    }

    /// Looks at the tasks of this moment.
    pub(crate) fn check(
        &self,
        tasks: &[Arc<TaskRecord>],
        history: &BTreeMap<u64, Sent>,
    ) -> Vec<Violation> {
        let Some(since_ms) = self.since_ms else { return Vec::new() };
        let open = tasks.iter().filter(|task| !task.ended());
        let once = open.filter_map(|task| {
            let payload = task.work.payload()?;
            let holders: BTreeSet<_> = payload.holders.iter().map(|(pod, _)| pod).collect();
            let is_later = sent_of(history, task).is_some_and(|sent| sent.sent_ms >= since_ms);
            (is_later && holders.len() < 2).then(|| Violation {
                property: "payloads_are_twice",
                evidence: format!("task {} is in the journals of {holders:?} alone", task.uid),
            })
        });
        once.collect()
    }
}
