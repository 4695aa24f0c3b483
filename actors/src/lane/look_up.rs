//! Looking for a request in a node's list of tasks: whoever does not know whether the node has taken it
//! asks before it is sent again (third step of [`super::deliver`]).

use miroir_storage::tables::lane_marks::{LaneMark, OpenRun};

use super::deliver::{Delivery, RETRY_WAIT_MIN};
use super::job::JobRequest;
use crate::node_calls::NodeTask;

/// What a node's list says of a request.
#[derive(Debug)]
pub(super) enum LookUp {
    /// It is this task.
    Listed(u64),
    /// It may be lost, or may come late.
    NotListed,
    /// The node doesn't say.
    NoAnswer,
    /// The node is not the one we knew.
    Replaced,
}

/// The node is not the one we knew.
#[derive(Debug)]
pub(super) struct DiskGone;

/// A request that is looked for.
#[derive(Debug)]
pub(super) struct Sought<'a> {
    name: &'a str,
    /// The node keeps the name of this request: what has none is another.
    is_named: bool,
    /// What a task of it is called (`settingsUpdate` …), where that is known.
    kind: Option<&'static str>,
    /// Tasks without a name through this one are others.
    not_before: Option<u64>,
}

/// The run that a former life was about to send, if nobody has looked for it yet.
pub(super) fn former(mark: &LaneMark) -> Option<OpenRun> {
    mark.open.clone().filter(|_| mark.inherited)
}

/// After a request that is part of no run the former life's run is still to be looked for: it is what
/// the lane carries next, and would else be sent again unasked.
pub(super) fn return_to(former: Option<OpenRun>, mark: &mut LaneMark) {
    mark.inherited = former.is_some();
    mark.open = former;
}

impl Delivery {
    /// The request that is being sent, which a former life may have sent (`resumed`) or none has.
    pub(super) fn sought<'a>(
        &self,
        request: &JobRequest,
        name: &'a str,
        resumed: bool,
        mark: &LaneMark,
    ) -> Sought<'a> {
        let is_named = self.calls.takes_name(&self.node, &request.path);
        // What was audited before a request was first sent is not that request.
        let not_before = if resumed { None } else { mark.audited };
        Sought { name, is_named, kind: Some(request.task_kind()), not_before }
    }

    /// Looks for the request that a former life of the lane was about to send: what the node has
    /// accepted by now stands before everything that this life sends, so it is no stray. What comes
    /// later is. Its task, if there is one. Waits for the node.
    ///
    /// # Errors
    /// When the node's disk is gone.
    pub(super) async fn settle_former(
        &self,
        former: &OpenRun,
        mark: &mut LaneMark,
    ) -> Result<Option<u64>, DiskGone> {
        // Only its name is known.
        let former = Sought { name: &former.name, is_named: false, kind: None, not_before: None };
        let mut wait = RETRY_WAIT_MIN;
        loop {
            match self.look_up(&former, mark).await {
                LookUp::Listed(task) => {
                    mark.node_task = mark.node_task.max(Some(task));
                    return Ok(Some(task));
                }
                LookUp::NotListed => return Ok(None),
                LookUp::Replaced => return Err(DiskGone),
                LookUp::NoAnswer => self.pause(&mut wait).await,
            }
        }
    }

    /// Asks the node for a request.
    pub(super) async fn look_up(&self, sought: &Sought<'_>, mark: &LaneMark) -> LookUp {
        let query = format!("indexUids={}&limit=20", self.target.index);
        let Ok(newest) = self.calls.newest_task(&self.node).await else { return LookUp::NoAnswer };
        if is_older(newest, mark.node_task) {
            return LookUp::Replaced;
        }
        let Ok(tasks) = self.calls.tasks(&self.node, &query).await else { return LookUp::NoAnswer };
        let (sent, index) = (self.calls.sent(), self.target.index.as_str());
        let known = |task: u64| sent.knows(&self.node, index, task);
        match find(sought, &tasks, mark.node_task, known, sent.lost(&self.node, index)) {
            Some(task) => {
                sent.note_found(&self.node, index, task);
                LookUp::Listed(task)
            }
            None => LookUp::NotListed,
        }
    }

    pub(super) async fn is_replaced(&self, mark: &LaneMark) -> bool {
        match self.calls.newest_task(&self.node).await {
            Ok(newest) => is_older(newest, mark.node_task),
            Err(_) => false,
        }
    }
}

/// The task of a request among `tasks` after `node_task`, the last one that the lane followed. A name
/// says it, whoever knows of the task. A task without one is the request's only if no other request can
/// have made it: `known` tells tasks of this process's requests, `lost` counts those without an answer.
fn find(
    sought: &Sought<'_>,
    tasks: &[NodeTask],
    node_task: Option<u64>,
    known: impl Fn(u64) -> bool,
    lost: u32,
) -> Option<u64> {
    let after = |task: &NodeTask, limit: Option<u64>| limit.is_none_or(|limit| task.uid > limit);
    let only_doubt = !sought.is_named && lost <= 1;
    let is_it = |task: &&NodeTask| match &task.custom_metadata {
        Some(kept) => kept == sought.name,
        None => {
            only_doubt
                && sought.kind.is_none_or(|kind| kind == task.kind)
                && after(task, sought.not_before)
                && !known(task.uid)
        }
    };
    tasks.iter().filter(|task| after(task, node_task)).find(is_it).map(|task| task.uid)
}

/// Whether the node's newest task is older than one we know of.
fn is_older(newest: Option<u64>, known: Option<u64>) -> bool {
    match (newest, known) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(newest), Some(known)) => newest < known,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(uid: u64, kind: &str, name: Option<&str>) -> NodeTask {
        let task = serde_json::json!({
            "uid": uid, "status": "enqueued", "type": kind, "customMetadata": name
        });
        serde_json::from_value(task).unwrap()
    }

    const DOCUMENTS: Sought<'_> = Sought {
        name: "miroir:0-a:4-4:0",
        is_named: true,
        kind: Some("documentAdditionOrUpdate"),
        not_before: None,
    };
    const SETTINGS: Sought<'_> = Sought {
        name: "miroir:0-a:settings:4",
        is_named: false,
        kind: Some("settingsUpdate"),
        not_before: None,
    };

    #[test]
    fn a_name_says_it_though_the_task_is_known_already() {
        let tasks = [
            task(8, "documentAdditionOrUpdate", Some("miroir:0-a:5-5:0")),
            task(7, "documentAdditionOrUpdate", Some("miroir:0-a:4-4:0")),
        ];
        assert_eq!(find(&DOCUMENTS, &tasks, Some(6), |_| true, 1), Some(7));
        assert_eq!(find(&DOCUMENTS, &tasks, Some(7), |_| true, 1), None, "followed to its end");
    }

    #[test]
    fn a_task_without_a_name_is_taken_only_if_nobody_else_can_have_made_it() {
        let tasks = [task(7, "settingsUpdate", None), task(6, "indexCreation", None)];
        let nobody = |_| false;
        assert_eq!(find(&SETTINGS, &tasks, Some(5), nobody, 1), Some(7));
        assert_eq!(find(&SETTINGS, &tasks, Some(5), nobody, 2), None, "two may have made it");
        assert_eq!(find(&SETTINGS, &tasks, Some(5), |uid| uid == 7, 1), None, "made by another");
        assert_eq!(find(&DOCUMENTS, &tasks, Some(5), nobody, 1), None, "it would have a name");
    }

    #[test]
    fn what_was_audited_before_it_was_sent_is_somebody_elses() {
        let tasks = [task(7, "settingsUpdate", None)];
        let sought = Sought { not_before: Some(7), ..SETTINGS };
        assert_eq!(find(&sought, &tasks, Some(5), |_| false, 1), None);
    }

    #[test]
    fn a_node_that_counts_less_is_another() {
        assert!(is_older(None, Some(0)) && is_older(Some(3), Some(4)));
        assert!(!is_older(Some(4), Some(4)) && !is_older(None, None));
    }
}
