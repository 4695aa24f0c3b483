//! The audit of a node's tasks of one index (spec 01, late and repeated requests, c).
//!
//! A request that was given up for lost may be carried out later, after newer ones. Such a task
//! is one that this pod can't explain; the replica then no longer equals the others. While a
//! request of a lane may come late, the lane looks through the node's tasks between its runs.

use miroir_storage::ids::{IndexUid, NodeId};
use miroir_storage::tables::lane_marks::LaneMark;

use super::deliver::Delivery;
use crate::node_calls::{NodeCallError, NodeCalls, NodeTask};

/// Tasks listed at a time: few at first, for most of the time few are new.
const PAGES: (usize, usize) = (20, 500);

/// What an audit found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audit {
    /// Every task is ours, and in its place.
    Clean,
    /// A task that nobody can explain.
    Stray,
    /// None but of settings: documents are as they must be.
    StraySettings,
    /// The node did not answer.
    NoAnswer,
}

impl Delivery {
    /// Looks through the tasks since the last audit. Nothing of the lane, an operation or a
    /// copy may be under way on the node for the index.
    pub(super) async fn audit(&self, mark: &mut LaneMark) -> Audit {
        let index = &self.target.index;
        let tasks = match tasks_since(&self.calls, &self.node, index, mark.audited).await {
            Ok(tasks) => tasks,
            Err(error) => {
                tracing::debug!(node = %self.node, %error, "node could not be audited");
                return Audit::NoAnswer;
            }
        };
        let index = index.as_str();
        let sent = self.calls.sent();
        let stray = first_stray(&tasks, |task| sent.knows(&self.node, index, task));
        if let Some(stray) = stray {
            tracing::warn!(node = %self.node, index, task = stray.uid, kind = stray.kind,
                name = stray.custom_metadata, "node has carried out a task that nobody sent by now");
        }
        if let Some(newest) = tasks.last() {
            mark.audited = Some(newest.uid);
            sent.forget_through(&self.node, index, newest.uid);
            mark.doubts = sent.in_doubt(&self.node, index);
            mark.explained = Some(Vec::new());
            // Should this life end before the log hears that the replica leaves, the next one looks again.
            if stray.is_none() {
                self.note(mark);
            }
        }
        match stray {
            None => Audit::Clean,
            Some(stray) if is_of_settings(stray) => Audit::StraySettings,
            Some(_) => Audit::Stray,
        }
    }

    /// Takes up the doubts of an earlier life, whose memory of what it sent is gone: without any,
    /// every task up to the last known one was explained. The mark is of the life
    /// `disk_life` of the node's disk.
    pub(super) fn resume_doubts(&self, mark: &mut LaneMark, disk_life: u64) {
        let (sent, index) = (self.calls.sent(), self.target.index.as_str());
        if mark.open.is_some() {
            sent.note_lost(&self.node, index);
        }
        for task in mark.explained.iter().flatten() {
            sent.note_known(&self.node, index, *task);
        }
        if mark.doubts {
            // Two: what is found later can't be told from what came late.
            sent.note_lost(&self.node, index);
            sent.note_lost(&self.node, index);
        }
        if !mark.doubts || mark.explained.is_none() {
            mark.audited = mark.audited.max(mark.node_task);
        }
        if let Some(known) = mark.node_task {
            self.calls.note_known(&self.node, disk_life, known);
        }
    }
}

/// A task of the index on the node after `since` that this pod can't explain and that is no
/// harmless repetition, nor only of settings, which are read back.
pub(crate) async fn unexplained_since(
    calls: &NodeCalls,
    node: &NodeId,
    index: &IndexUid,
    since: Option<u64>,
) -> Result<Option<u64>, NodeCallError> {
    let tasks = tasks_since(calls, node, index, since).await?;
    let sent = calls.sent();
    let stray = first_stray(&tasks, |task| sent.knows(node, index.as_str(), task));
    Ok(stray.filter(|stray| !is_of_settings(stray)).map(|stray| stray.uid))
}

/// The node's tasks of the index after `since`, oldest first.
async fn tasks_since(
    calls: &NodeCalls,
    node: &NodeId,
    index: &IndexUid,
    since: Option<u64>,
) -> Result<Vec<NodeTask>, NodeCallError> {
    let mut found = Vec::new();
    let mut from = String::new();
    let mut limit = PAGES.0;
    loop {
        let query = format!("indexUids={index}&limit={limit}{from}");
        let page = calls.tasks(node, &query).await?;
        let full = page.len() == limit;
        let count = found.len();
        let newer = |task: &NodeTask| since.is_none_or(|since| task.uid > since);
        found.extend(page.into_iter().filter(newer));
        match found.last() {
            Some(oldest) if full && found.len() == count + limit && oldest.uid > 0 => {
                from = format!("&from={}", oldest.uid - 1);
                limit = PAGES.1;
            }
            _ => break,
        }
    }
    found.reverse();
    Ok(found)
}

/// The first task that changed the index out of its turn, one of settings only if there is no
/// other; `tasks` are in the node's order.
///
/// An unknown task is harmless when it says the same as the known one next to it: a request
/// that was repeated because its answer was lost. Settings are sent whole, so that the next
/// ones make up for whatever came between; so are primary keys. Creating what exists changes nothing.
fn first_stray(tasks: &[NodeTask], knows: impl Fn(u64) -> bool) -> Option<&NodeTask> {
    let is_known = |task: &&NodeTask| knows(task.uid);
    let mut strays = tasks.iter().enumerate().filter_map(|(n, task)| {
        if knows(task.uid) || task.kind == "indexCreation" {
            return None;
        }
        let before = tasks.iter().take(n).rfind(is_known);
        let after = tasks.iter().skip(n + 1).find(is_known);
        let same_name = |other: Option<&NodeTask>| {
            task.custom_metadata.is_some()
                && other.is_some_and(|other| other.custom_metadata == task.custom_metadata)
        };
        let overtaken = matches!(task.kind.as_str(), "settingsUpdate" | "indexUpdate")
            && after.is_some_and(|after| after.kind == task.kind);
        let harmless = same_name(before) || same_name(after) || overtaken;
        (!harmless).then_some(task)
    });
    let first = strays.next()?;
    match is_of_settings(first) {
        true => Some(strays.find(|stray| !is_of_settings(stray)).unwrap_or(first)),
        false => Some(first),
    }
}

/// A stranger's change of settings, or a late one of ours, is made good by sending them again.
fn is_of_settings(task: &NodeTask) -> bool {
    task.kind == "settingsUpdate"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(uid: u64, kind: &str, name: Option<&str>) -> NodeTask {
        NodeTask {
            uid,
            status: "succeeded".into(),
            kind: kind.into(),
            index_uid: None,
            details: None,
            error: None,
            custom_metadata: name.map(str::to_owned),
            enqueued_at: String::new(),
        }
    }

    #[test]
    fn only_a_task_out_of_its_turn_is_a_stray() {
        let add = "documentAdditionOrUpdate";
        let stray = |tasks: &[NodeTask], known: &[u64]| {
            first_stray(tasks, |uid| known.contains(&uid)).map(|task| task.uid)
        };
        let repeated = [task(1, add, Some("x")), task(2, add, Some("x")), task(3, add, Some("y"))];
        assert_eq!(stray(&repeated, &[2, 3]), None);
        let late = [task(1, add, Some("x")), task(2, add, Some("y")), task(3, add, Some("x"))];
        assert_eq!(stray(&late, &[1, 2]), Some(3));
        let nameless = [task(1, add, None), task(2, add, None)];
        assert_eq!(stray(&nameless, &[2]), Some(1));
        let settings = [task(1, "settingsUpdate", None), task(2, "settingsUpdate", None)];
        assert_eq!(stray(&settings, &[2]), None);
        assert_eq!(stray(&settings, &[1]), Some(2));
        let both = [task(1, "settingsUpdate", None), task(2, add, Some("x"))];
        assert_eq!(stray(&both, &[]), Some(2), "documents matter more");
    }
}
