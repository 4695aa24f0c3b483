//! Carrying one run to one node, to its end.
//!
//! The protocol, for each request of the run:
//! 1. the lane mark with the open run is agreed in the log, under the writer's fence: a writer
//!    that was replaced gets no further, and the next one knows what may be under way;
//! 2. the request is sent, named by `customMetadata`, at once or after failures, but only while it is
//!    fresh knowledge that no newer writer exists;
//! 3. no answer: the node's task list is asked for the name (or, on nodes that keep no names,
//!    for a task newer than the last known one: a lane has at most one open). Not listed means
//!    *unknown*; what can be repeated is sent again, with nothing newer in between; a filter
//!    deletion waits `CERTAINTY_WAIT` and asks once more before it is repeated;
//! 4. the node's task is followed to its end.
//!
//! A node whose newest task is older than one we know of has lost its disk, and so, or as good as
//! that, has one that no longer has the index: [`RunEnd::NodeReplaced`].

use std::collections::BTreeSet;
use std::time::Duration;

use miroir_membership::placement::shard_of;
use miroir_seams::Seams;
use miroir_seams::planted::{self, Bug};
use miroir_storage::commands::{Command, Fence, Outcome};
use miroir_storage::ids::{NodeId, ShardId, TaskUid};
use miroir_storage::log::{CoordinatorLog, ProposeError};
use miroir_storage::tables::lane_marks::{self, LaneMark, OpenRun};
use miroir_wire::document::document_id;
use miroir_wire::error::ResponseError;
use serde_json::json;
use tokio::sync::oneshot;

use super::audit::Audit;
use super::job::{Job, JobRequest, JobTarget, JobWork, PartOutcome, deletion_of, unmarked};
use super::look_up::LookUp;
use super::turn::Turn;
use crate::fencing::{self, NotAgreed};
use crate::inspect::Address;
use crate::node_calls::{NodeCallError, NodeCalls, NodeTask, is_about_the_node};
use crate::node_tasks::NodeTasksMessage;

/// Between tries while a node is down or faulty; doubles up to [`RETRY_WAIT_MAX`].
pub(super) const RETRY_WAIT_MIN: Duration = Duration::from_millis(100);
/// Longest wait between tries: a node that returns is noticed within it.
const RETRY_WAIT_MAX: Duration = Duration::from_secs(2);
/// A request without an answer, unlisted after this long, is taken for lost: longer than any
/// body we send takes to be read by a live node.
const CERTAINTY_WAIT: Duration = Duration::from_secs(10);
/// How long a large body that is being sent keeps others from being made.
const ROOM_MAX: Duration = Duration::from_secs(10);

/// Times a node task may fail on the node's own account before its failure is taken as the
/// task's: a payload that crashes the engine would else hold the lane for ever.
const OWN_FAILURES_MAX: u32 = 5;

/// Documents without a mark that are looked at when a node is emptied of shards.
const UNMARKED_MAX: u32 = 10_000;

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub enum RunEnd {
    /// Each task of the run, with its outcome.
    Done(Vec<(TaskUid, PartOutcome)>),
    /// The node is not the one we knew: its disk, or the index, is gone.
    NodeReplaced,
    /// Late requests had changed the node before the run, documents too if so said: what came of it
    /// may differ from the other nodes.
    Misled(Misled),
    /// The mark could not be agreed: nothing was sent.
    NotAgreed(NotAgreed),
}

/// What is wrong after a run that late requests misled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misled {
    /// Nothing but the node's settings: it refused all, and may be asked again.
    Refused,
    /// What it has of documents.
    Documents,
}

/// All that delivering needs; one per lane.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The node.
    pub node: NodeId,
    /// The index and its shards; what of it the node gets is said with each run.
    pub target: JobTarget,
    /// Shared with whoever copies to the node.
    pub turn: Turn,
    /// Calls to nodes.
    pub calls: NodeCalls,
    /// Follows the node's tasks.
    pub follower: Address<NodeTasksMessage>,
    /// Holds the mark.
    pub log: CoordinatorLog,
    /// The writer's.
    pub fence: Fence,
    /// Time and randomness.
    pub seams: Seams,
}

/// How one request ended.
#[derive(Debug)]
pub(super) enum RequestEnd {
    Applied(NodeTask),
    AlreadyThere,
    Refused(ResponseError),
    NodeReplaced,
    NotAgreed(NotAgreed),
}

impl Delivery {
    /// Carries `job` to its end; waits as long as the node is away. `mark` is kept up to date
    /// in memory and in the log.
    pub async fn run(&self, job: &Job, mark: &mut LaneMark) -> RunEnd {
        let mut outcomes = Vec::new();
        let target = &JobTarget { held: job.held.clone(), ..self.target.clone() };
        let end = match self.run_work(&job.work, target, None, (job.first, job.last), mark).await {
            Ok(end) => end,
            Err(end) => return end,
        };
        match (end, job.work.singly()) {
            (Err(_), Some(parts)) => {
                for (uid, work) in parts {
                    match self.run_single(&work, target, uid, mark).await {
                        Ok(outcome) => outcomes.push((uid, outcome)),
                        Err(end) => return end,
                    }
                }
            }
            (Err(error), None) => {
                match self.split(&job.work, target, job.last, error, mark).await {
                    Ok(outcome) => outcomes.push((job.last, outcome)),
                    Err(end) => return end,
                }
            }
            (Ok(deleted), _) => {
                // Only works of one task count deletions.
                let tasks = job.work.tasks(job.last).into_iter();
                outcomes.extend(tasks.map(|uid| (uid, PartOutcome::Applied { deleted })));
            }
        }
        if let Some(misled) = self.misled(&job.work, &outcomes, mark).await {
            return RunEnd::Misled(misled);
        }
        // A run without a request leaves what a former life may have sent to be looked for.
        if !mark.inherited {
            mark.open = None;
        }
        let is_applied = outcomes.iter().all(|(_, end)| matches!(end, PartOutcome::Applied { .. }));
        match &job.work {
            // A node that refused the index doesn't have it.
            JobWork::Provision { .. } => mark.provisioned = is_applied,
            JobWork::Empty { whole, .. } => mark.provisioned &= !(*whole && is_applied),
            _ => {
                mark.through = Some(job.last);
                remember(mark, &outcomes);
            }
        }
        self.note_sent(mark);
        self.note(mark);
        RunEnd::Done(outcomes)
    }

    /// Looks for late requests after a run whose outcome depends on the node's settings, while any
    /// may have come: what a filter deletes, and what is refused, must be what other nodes say.
    /// Waits as long as the node is away.
    async fn misled(
        &self,
        work: &JobWork,
        outcomes: &[(TaskUid, PartOutcome)],
        mark: &mut LaneMark,
    ) -> Option<Misled> {
        let is_refused = |outcome: &PartOutcome| matches!(outcome, PartOutcome::Refused { .. });
        let refused = outcomes.iter().filter(|(_, outcome)| is_refused(outcome)).count();
        let depends = match work {
            JobWork::DeleteByFilter { .. } => true,
            JobWork::Documents { .. } => refused > 0,
            _ => false,
        };
        let depends = depends && !planted::has(Bug::SkipAudit);
        if !depends || !self.calls.sent().in_doubt(&self.node, self.target.index.as_str()) {
            return None;
        }
        let mut wait = RETRY_WAIT_MIN;
        loop {
            match self.audit(mark).await {
                Audit::Clean => return None,
                Audit::StraySettings if refused == outcomes.len() => {
                    // The same request is another one when it is sent again.
                    mark.open = None;
                    return Some(Misled::Refused);
                }
                Audit::StraySettings | Audit::Stray => {
                    // Should this stay the last replica, it is not done twice.
                    mark.inherited = mark.open.is_some();
                    return Some(Misled::Documents);
                }
                Audit::NoAnswer => self.pause(&mut wait).await,
            }
        }
    }

    async fn run_single(
        &self,
        work: &JobWork,
        target: &JobTarget,
        uid: TaskUid,
        mark: &mut LaneMark,
    ) -> Result<PartOutcome, RunEnd> {
        match self.run_work(work, target, None, (uid, uid), mark).await? {
            Ok(deleted) => Ok(PartOutcome::Applied { deleted }),
            Err(error) => self.split(work, target, uid, error, mark).await,
        }
    }

    /// Sends a refused task again shard by shard; see [`JobWork::shards`].
    async fn split(
        &self,
        work: &JobWork,
        target: &JobTarget,
        uid: TaskUid,
        error: ResponseError,
        mark: &mut LaneMark,
    ) -> Result<PartOutcome, RunEnd> {
        let shards = work.shards(target);
        if shards.len() < 2 || !matches!(work, JobWork::Documents { .. }) {
            return Ok(PartOutcome::Refused { error, shards });
        }
        let mut refused = BTreeSet::new();
        let mut last_error = error;
        for shard in shards {
            let only = JobTarget { held: BTreeSet::from([shard]), ..self.target.clone() };
            if let Err(error) = self.run_work(work, &only, Some(shard), (uid, uid), mark).await? {
                refused.insert(shard);
                last_error = error;
            }
        }
        if refused.is_empty() {
            return Ok(PartOutcome::Applied { deleted: None });
        }
        Ok(PartOutcome::Refused { error: last_error, shards: refused })
    }

    /// Sends every request of `work` for what `target` holds; the deletions counted, or the
    /// node's refusal.
    async fn run_work(
        &self,
        work: &JobWork,
        target: &JobTarget,
        only: Option<ShardId>,
        (first, last): (TaskUid, TaskUid),
        mark: &mut LaneMark,
    ) -> Result<Result<Option<u64>, ResponseError>, RunEnd> {
        let mut deleted = None;
        // A part of the node's shards is another request than all of them.
        let part = match (work, only) {
            (JobWork::Empty { .. }, _) => ":empty".to_owned(),
            (_, only) => only.map_or_else(String::new, |shard| format!(":s{shard}")),
        };
        // Nor is one with other marks: the late twin of a request without them would pass for it.
        let newest = target.marks.newest();
        let marks = newest.map_or_else(String::new, |newest| format!(":g{}", newest.generation));
        let mut requests = work.requests(target);
        if let JobWork::Empty { shards, whole: false, primary_key: Some(key) } = work {
            requests.extend(self.deletion_of_unmarked(shards, key).await);
        }
        for (n, request) in requests.iter().enumerate() {
            let name = format!("miroir:{}:{first}-{last}{part}{marks}:{n}", target.index);
            // A request that a former life of this lane may have sent is looked up, not sent.
            let resumed = mark.open.as_ref().is_some_and(|open| open.name == name);
            match self.request(request, OpenRun { name, first, last }, resumed, mark).await {
                RequestEnd::AlreadyThere => {}
                RequestEnd::Applied(task) => {
                    if let Some(count) = task.deleted_documents() {
                        deleted = Some(deleted.unwrap_or(0) + count);
                    }
                }
                RequestEnd::Refused(error) => return Ok(Err(error)),
                RequestEnd::NodeReplaced => return Err(RunEnd::NodeReplaced),
                RequestEnd::NotAgreed(why) => return Err(RunEnd::NotAgreed(why)),
            }
        }
        Ok(Ok(deleted))
    }

    /// Deletes the documents of these shards that carry no mark: somebody else has changed them, and no
    /// filter by shard finds them. Waits as long as the node is away.
    async fn deletion_of_unmarked(
        &self,
        shards: &BTreeSet<ShardId>,
        primary_key: &str,
    ) -> Option<JobRequest> {
        let (index, partition) = (&self.target.index, self.target.marks.current);
        let query = json!({
            "filter": [unmarked(partition)], "fields": [primary_key], "limit": UNMARKED_MAX,
        });
        let mut wait = RETRY_WAIT_MIN;
        let found = loop {
            match self.calls.documents(&self.node, index, &query).await {
                Ok(found) => break found,
                // The next request tells why.
                Err(NodeCallError::Refused(_)) => return None,
                Err(_) => self.pause(&mut wait).await,
            }
        };
        let ids = found.iter().filter_map(|it| document_id(it.get().as_bytes(), primary_key).ok());
        let is_left = |id: &String| shards.contains(&shard_of(id, partition.shards));
        let left: Vec<String> = ids.filter(is_left).collect();
        deletion_of(left.iter().map(String::as_str).collect(), index)
    }

    pub(super) async fn request(
        &self,
        request: &JobRequest,
        open: OpenRun,
        resumed: bool,
        mark: &mut LaneMark,
    ) -> RequestEnd {
        let name = open.name.clone();
        let mut wait = RETRY_WAIT_MIN;
        let mut own_failures = 0;
        let mut doubtful = resumed;
        let mut doubtful_since = self.seams.clock.instant();
        if resumed {
            mark.inherited = false;
        } else {
            if std::mem::take(&mut mark.inherited)
                && let Some(former) = mark.open.take()
                && self.settle_former(&former, mark).await.is_err()
            {
                return RequestEnd::NodeReplaced;
            }
            mark.open = Some(open);
            self.note_sent(mark);
            if let Err(why) = self.agree(mark).await {
                return RequestEnd::NotAgreed(why);
            }
        }
        loop {
            let mut found = None;
            if doubtful && !planted::has(Bug::SendUnasked) {
                match self.look_up(&self.sought(request, &name, resumed, mark), mark).await {
                    LookUp::Listed(task) => found = Some(task),
                    LookUp::Replaced => return RequestEnd::NodeReplaced,
                    LookUp::NotListed
                        if request.repeatable || doubtful_since.elapsed() >= CERTAINTY_WAIT =>
                    {
                        doubtful = false;
                    }
                    LookUp::NotListed | LookUp::NoAnswer => {
                        self.pause(&mut wait).await;
                        continue;
                    }
                }
            }
            if found.is_none()
                && let Err(why) = fencing::still_holds(&self.log, &self.fence, &self.seams).await
            {
                return RequestEnd::NotAgreed(why);
            }
            let node_task = match found {
                Some(uid) => uid,
                None => match self.send(request, &name).await {
                    Ok(uid) => uid,
                    Err(NodeCallError::Refused(error)) => {
                        return match request.accepts {
                            Some(code) if code == error.code => RequestEnd::AlreadyThere,
                            _ if is_gone(mark, &error) => RequestEnd::NodeReplaced,
                            _ => RequestEnd::Refused(error),
                        };
                    }
                    // Its answer may have taken long: another may write by now.
                    Err(NodeCallError::Nameless) => continue,
                    Err(error) => {
                        tracing::debug!(node = %self.node, %error, "node request will be tried again");
                        if !error.not_carried_out() {
                            doubtful = true;
                            doubtful_since = self.seams.clock.instant();
                        } else if self.is_replaced(mark).await {
                            return RequestEnd::NodeReplaced;
                        }
                        self.pause(&mut wait).await;
                        continue;
                    }
                },
            };
            if mark.node_task.is_some_and(|known| node_task < known) {
                return RequestEnd::NodeReplaced;
            }
            mark.node_task = Some(node_task);
            match self.follow(node_task).await {
                Some(task) if task.status == "succeeded" => return RequestEnd::Applied(task),
                Some(task) if task.status == "failed" => {
                    let error = task.error.unwrap_or_else(unexplained);
                    match request.accepts {
                        Some(code) if code == error.code => return RequestEnd::AlreadyThere,
                        _ if is_gone(mark, &error) => return RequestEnd::NodeReplaced,
                        _ if is_about_the_node(&error) && own_failures < OWN_FAILURES_MAX => {
                            own_failures += 1;
                            tracing::warn!(node = %self.node, code = error.code, message = error.message,
                                "node task failed on the node's own account, trying again");
                            self.pause(&mut wait).await;
                        }
                        _ => return RequestEnd::Refused(error),
                    }
                }
                // Cancelled behind our back: send it again.
                Some(_) => self.pause(&mut wait).await,
                // The node no longer knows the task it gave us.
                None => return RequestEnd::NodeReplaced,
            }
        }
    }

    async fn send(&self, request: &JobRequest, name: &str) -> Result<u64, NodeCallError> {
        let JobRequest { method, path, body, timeout, .. } = request;
        let room = self.calls.room_for_body(body.len()).await;
        let (method, body) = (method.clone(), body.bytes());
        let sent = self.calls.enqueue_named(&self.node, method, path, body, *timeout, name);
        let mut sent = std::pin::pin!(sent);
        match tokio::time::timeout(ROOM_MAX, &mut sent).await {
            Ok(answer) => answer,
            Err(_) => {
                // Other nodes must not wait for one that takes nothing.
                drop(room);
                sent.await
            }
        }
    }

    pub(super) async fn follow(&self, uid: u64) -> Option<NodeTask> {
        let (reply, ended) = oneshot::channel();
        if self.follower.cast(NodeTasksMessage::Follow { uid, reply }).is_ok()
            && let Ok(end) = ended.await
        {
            return end;
        }
        // The follower was restarted: ask the new one, through the listing itself.
        loop {
            match self.calls.tasks(&self.node, &format!("uids={uid}")).await {
                Ok(tasks) => match tasks.into_iter().next() {
                    Some(task) if task.ended() => return Some(task),
                    Some(_) => {}
                    None => return None,
                },
                Err(error) => {
                    tracing::debug!(node = %self.node, %error, "task could not be followed");
                }
            }
            self.seams.clock.sleep(RETRY_WAIT_MIN).await;
        }
    }

    pub(super) async fn pause(&self, wait: &mut Duration) {
        let jitter = Duration::from_millis(self.seams.entropy.below(50));
        self.seams.clock.sleep(*wait + jitter).await;
        *wait = (*wait * 2).min(RETRY_WAIT_MAX);
    }

    /// Agrees on the mark before anything it speaks of is sent. Waits as long as the log takes
    /// nothing; the mark is the same however often it is proposed.
    async fn agree(&self, mark: &LaneMark) -> Result<(), NotAgreed> {
        let command = self.mark_command(mark);
        let mut wait = RETRY_WAIT_MIN;
        loop {
            match self.log.propose(&command).await {
                Ok(Outcome::Fenced { current }) => return Err(NotAgreed::Fenced { current }),
                Ok(Outcome::Done) => return Ok(()),
                Ok(_) => return Err(NotAgreed::IndexGone),
                Err(ProposeError::NoQuorum | ProposeError::Unknown) => self.pause(&mut wait).await,
                Err(
                    ProposeError::Stopped | ProposeError::Fatal(_) | ProposeError::TooNew { .. },
                ) => {
                    return Err(NotAgreed::LogStopped);
                }
            }
        }
    }

    /// Tells the log what came of a run. Should that get lost, the next writer finds it out by
    /// asking the node.
    pub(super) fn note(&self, mark: &LaneMark) {
        self.log.propose_detached(&self.mark_command(mark));
    }

    /// What this life knows of its requests, for the next one.
    pub(super) fn note_sent(&self, mark: &mut LaneMark) {
        let (sent, index) = (self.calls.sent(), self.target.index.as_str());
        mark.doubts = sent.in_doubt(&self.node, index);
        mark.explained =
            sent.known_after(&self.node, index, mark.audited, lane_marks::EXPLAINED_MAX);
    }

    fn mark_command(&self, mark: &LaneMark) -> Command {
        Command::SetLaneMark {
            fence: self.fence.clone(),
            node: self.node.clone(),
            mark: Box::new(mark.clone()),
        }
    }
}

/// Keeps what a restarted writer would have to know.
pub(crate) fn remember(mark: &mut LaneMark, outcomes: &[(TaskUid, PartOutcome)]) {
    let notable = outcomes.iter().filter(|(_, outcome)| outcome.is_notable());
    mark.notable.extend(
        notable.filter_map(|(uid, outcome)| Some((*uid, serde_json::to_string(outcome).ok()?))),
    );
    let surplus = mark.notable.len().saturating_sub(lane_marks::NOTABLE_MAX);
    mark.notable.drain(..surplus);
}

/// Whether the node says that it has no such index though it had.
pub(super) fn is_gone(mark: &LaneMark, error: &ResponseError) -> bool {
    mark.provisioned && error.code == "index_not_found"
}

fn unexplained() -> ResponseError {
    ResponseError {
        message: "the node gave no reason".to_owned(),
        code: "internal".to_owned(),
        kind: "internal".to_owned(),
        link: String::new(),
    }
}
