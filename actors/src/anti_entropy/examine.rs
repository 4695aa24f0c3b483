//! A closer look at documents that seem to differ: whether they do, and which copy is wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use miroir_storage::ids::NodeId;
use miroir_storage::tables::lane_marks::{self, LaneMark};
use serde_json::json;

use super::digest::{Copy, digest, is_marked, wrong_copies};
use super::{Comparison, Repair};
use crate::node_calls::{NodeCallError, NodeTask};

/// Looks before a difference is left to the next round: writes went on all the time.
const LOOKS_MAX: u32 = 8;
/// Between two looks; grows with each.
const LOOK_WAIT: Duration = Duration::from_millis(500);
/// How long the log may take to confirm where the lanes are.
const BARRIER_TIMEOUT: Duration = Duration::from_secs(5);
/// Tasks of a node that are looked through for strangers' ones.
const TASKS_MAX: usize = 1000;
/// What the names of our requests begin with.
const OUR_NAMES: &str = "miroir:";

/// What differs for certain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// Documents of which one replica has a wrong copy.
    pub repairs: Vec<Repair>,
    /// Documents of which nothing says who is right.
    pub undecided: BTreeSet<String>,
    /// The replicas that were compared.
    pub replicas: Vec<NodeId>,
}

/// What each replica has of each document, by place of the replica.
type Copies = BTreeMap<String, Vec<Copy>>;

impl Comparison<'_> {
    /// Reads the documents again until they are equal, or differ while nothing is under way.
    pub(super) async fn examine(
        &self,
        mut suspects: BTreeSet<String>,
    ) -> Result<Found, NodeCallError> {
        let mut found = Found { replicas: self.replicas.clone(), ..Found::default() };
        for look in 1..=LOOKS_MAX {
            if suspects.is_empty() {
                return Ok(found);
            }
            let before = self.places().await;
            let copies = self.copies_of(&suspects).await?;
            let is_still = before.is_some() && before == self.places().await;
            let differs =
                |copies: &[Copy]| copies.windows(2).any(|two| two[0].digest != two[1].digest);
            suspects.retain(|id| copies.get(id).is_some_and(|copies| differs(copies)));
            if is_still && !suspects.is_empty() {
                self.decide(&suspects, copies, &mut found).await;
                return Ok(found);
            }
            self.pod.seams.clock.sleep(LOOK_WAIT * look).await;
        }
        tracing::info!(index = %self.item.index, shard = self.item.shard.0, documents = suspects.len(),
            "documents seem to differ, but writes never paused: the next round looks again");
        Ok(found)
    }

    /// Where the lanes of the replicas stand, if it is at one place with nothing under way, as the log
    /// says by now: nothing is sent that the log does not know before.
    async fn places(&self) -> Option<Vec<LaneMark>> {
        self.pod.log.read_barrier(BARRIER_TIMEOUT).await.ok()?;
        let engine = self.pod.log.engine().as_ref();
        let load = |node| lane_marks::load(engine, &self.item.index, node).ok();
        let marks: Vec<LaneMark> = self.replicas.iter().map(load).collect::<Option<_>>()?;
        let first = marks.first()?.through;
        let is_at_rest = |mark: &LaneMark| mark.open.is_none() && mark.through == first;
        // Shards or replicas may be others by now.
        let routing = self.pod.log.routing();
        let index = routing.by_uid.get(&self.item.index)?;
        let is_same = index.marks == self.index.marks && index.epoch == self.index.epoch;
        (is_same && marks.iter().all(is_at_rest)).then_some(marks)
    }

    async fn copies_of(&self, ids: &BTreeSet<String>) -> Result<Copies, NodeCallError> {
        let absent = Copy { digest: None, is_marked: true, has_strangers: false };
        let mut copies: Copies =
            ids.iter().map(|id| (id.clone(), vec![absent; self.replicas.len()])).collect();
        let (generation, shard) = (self.index.marks.current.generation, self.item.shard.0);
        for (place, node) in self.replicas.iter().enumerate() {
            let query = json!({ "ids": ids, "limit": ids.len() });
            for document in self.fetch(node, &query, true).await? {
                let copy = self.id_of(&document).and_then(|id| copies.get_mut(&id)?.get_mut(place));
                if let Some(copy) = copy {
                    copy.digest = digest(&document);
                    copy.is_marked = is_marked(&document, generation, shard);
                }
            }
        }
        Ok(copies)
    }

    async fn decide(&self, ids: &BTreeSet<String>, copies: Copies, found: &mut Found) {
        let mut strangers = Vec::new();
        for node in &self.replicas {
            strangers.push(self.has_strangers(node).await);
        }
        let mut repairs: BTreeMap<(NodeId, NodeId), BTreeSet<String>> = BTreeMap::new();
        for id in ids {
            let Some(copies) = copies.get(id) else { continue };
            let copies: Vec<Copy> = copies
                .iter()
                .zip(&strangers)
                .map(|(copy, has_strangers)| Copy { has_strangers: *has_strangers, ..*copy })
                .collect();
            let Some(wrong) = wrong_copies(&copies) else {
                found.undecided.insert(id.clone());
                continue;
            };
            let right = (0..copies.len()).find(|place| !wrong.contains(place));
            let Some(source) = right.and_then(|place| self.replicas.get(place)) else { continue };
            let wrong = wrong.iter().filter_map(|place| self.replicas.get(*place));
            // Those that are wrong without evidence of their own are equal to the right one.
            for node in wrong.filter(|node| *node != source) {
                repairs.entry((node.clone(), source.clone())).or_default().insert(id.clone());
            }
        }
        let shard = self.item.shard;
        found.repairs = repairs
            .into_iter()
            .map(|((node, source), ids)| Repair { shard, node, source, ids, whole: false })
            .collect();
    }

    /// Whether somebody else has changed documents of the index on the node. What a node no longer
    /// lists is not known.
    async fn has_strangers(&self, node: &NodeId) -> bool {
        let kinds = "documentAdditionOrUpdate,documentDeletion,documentEdition";
        let index = &self.item.index;
        let query = format!("indexUids={index}&types={kinds}&statuses=succeeded&limit={TASKS_MAX}");
        let Ok(tasks) = self.pod.calls.tasks(node, &query).await else { return false };
        are_strange(&tasks)
    }
}

/// Whether a node's list of tasks has writes that are not ours: ones without a name of ours, beside
/// others that have one. A node with none of those keeps no names.
fn are_strange(tasks: &[NodeTask]) -> bool {
    let is_write =
        |task: &&NodeTask| task.kind.starts_with("document") && task.status == "succeeded";
    let is_ours = |task: &NodeTask| {
        task.custom_metadata.as_deref().is_some_and(|name| name.starts_with(OUR_NAMES))
    };
    let writes: Vec<&NodeTask> = tasks.iter().filter(is_write).collect();
    writes.iter().any(|task| is_ours(task)) && !writes.iter().all(|task| is_ours(task))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_are_told_by_the_names_that_they_do_not_give() {
        let task = |kind: &str, name: Option<&str>| NodeTask {
            uid: 1,
            status: "succeeded".into(),
            kind: kind.into(),
            index_uid: None,
            details: None,
            error: None,
            custom_metadata: name.map(str::to_owned),
            enqueued_at: String::new(),
        };
        let (add, ours) = ("documentAdditionOrUpdate", Some("miroir:0-a:1-1:0"));
        assert!(!are_strange(&[]));
        assert!(!are_strange(&[task(add, ours), task("settingsUpdate", None)]));
        assert!(are_strange(&[task(add, ours), task("documentDeletion", None)]));
        assert!(are_strange(&[task(add, ours), task(add, Some("theirs"))]));
        assert!(!are_strange(&[task(add, None), task(add, None)]), "it keeps no names");
    }
}
