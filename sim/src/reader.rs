//! Clients that read, and what they were told: kept with what was known at the time, and judged
//! once the end of every task is known ([`crate::invariants::reads_are_expected`]).

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use miroir_membership::placement::shard_of;
use miroir_storage::ids::{NodeId, TaskUid};
use miroir_storage::routing::{GroupPlacement, Routing, ShardPlacement};
use miroir_wire::reserved::Partition;
use serde_json::json;

use crate::dice::Dice;
use crate::entrance::{Answered, Asked, Entrance, Entrances};
use crate::ledger::Ledger;
use crate::network::Network;
use crate::plan::Plan;
use crate::task_list::TaskList;
use crate::trace::Trace;

/// How long a reader waits for an answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// Before a reader looks again for a pod that serves.
const CLOSED_PAUSE: Duration = Duration::from_millis(500);
/// Longest pause between two reads, milliseconds.
const PAUSE_MS_MAX: u64 = 2_500;
/// A page that holds everything.
pub const WHOLE: u64 = 1000;

/// What was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// A search for everything, this many hits at most.
    Search {
        /// `limit`.
        limit: u64,
    },
    /// All documents.
    List,
    /// One document.
    Get {
        /// Its id.
        id: String,
    },
}

/// One read with its answer.
#[derive(Clone, Debug)]
pub struct Read {
    /// Who asked which pod, for the evidence.
    pub who: String,
    /// When, virtual milliseconds.
    pub asked_ms: u64,
    /// The index as the client names it.
    pub name: String,
    /// What.
    pub question: Question,
    /// The answer.
    pub answer: Answered,
    /// Tasks that had ended, as far as the pod must have known.
    pub ended: BTreeSet<TaskUid>,
    /// The session's newest write to the name, if the answer must show it.
    pub session: Option<TaskUid>,
    /// The newest task that anybody knew of when the answer came.
    pub newest: Option<TaskUid>,
    /// Shards whose replicas may show what no task did, by the spec's leave.
    pub excused: Excused,
}

/// All reads of a run. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Reads {
    all: Arc<Mutex<Vec<Read>>>,
}

impl Reads {
    fn push(&self, read: Read) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).push(read);
    }

    /// All of them, oldest first.
    pub fn all(&self) -> Vec<Read> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Asks and writes down.
#[derive(Clone, Debug)]
pub struct Reading {
    /// The pods.
    pub entrances: Entrances,
    /// What was applied.
    pub ledger: Ledger,
    /// The nodes that may show what no task did.
    pub network: Arc<Network>,
    /// Nodes that lost their disks.
    pub disk_lost: Arc<Mutex<BTreeSet<NodeId>>>,
    /// The record.
    pub reads: Reads,
    /// The tasks of pods.
    pub(crate) task_list: TaskList,
    /// The trace.
    pub trace: Trace,
}

impl Reading {
    /// Reads once. `session` names the session and its newest acknowledged write to `name`.
    pub async fn read(
        &self,
        who: &str,
        entrance: &Entrance,
        name: &str,
        question: Question,
        session: Option<(String, TaskUid)>,
    ) {
        let asked_ms = self.trace.now_ms();
        let mut ended: BTreeSet<TaskUid> =
            self.task_list.of(&entrance.pod).iter().filter(|t| t.ended()).map(|t| t.uid).collect();
        let known_for = self.ledger.ended_by(asked_ms.saturating_sub(entrance.max_staleness_ms()));
        let before = entrance.pod.log.routing();
        let mut asked = question.asked(name);
        if let Some((session, _)) = &session {
            asked.headers.push(("x-miroir-session", session.clone()));
        }
        let Ok(answer) = tokio::time::timeout(PATIENCE, entrance.ask(asked)).await else { return };
        // A pod that died meanwhile answers nobody.
        if !self.entrances.leads_to(entrance) {
            return;
        }
        let degraded = answer.header("x-miroir-degraded").unwrap_or_default();
        if !degraded.contains("stale") {
            ended.extend(known_for);
        }
        let is_behind = answer.header("x-miroir-session").is_some();
        let read = Read {
            who: format!("{who} on pod-{}", entrance.number),
            asked_ms,
            name: name.to_owned(),
            ended,
            session: session.map(|(_, uid)| uid).filter(|_| !is_behind),
            newest: self.ledger.newest(),
            excused: self.excused(name, &before),
            question,
            answer,
        };
        self.trace.note(who, read.describe());
        self.reads.push(read);
    }

    /// Shards of which the read may have asked a replica that has lost its disk, carried out a
    /// late request, or left the in-sync set meanwhile, which the pod could not know yet.
    fn excused(&self, name: &str, before: &Routing) -> Excused {
        let mut nodes = self.network.served_late();
        nodes.extend(self.disk_lost.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned());
        let now = self.entrances.most_advanced().map(|entrance| entrance.pod.log.routing());
        let Some(index) = before.indexes.get(name) else { return Excused::default() };
        let later = now.as_ref().and_then(|now| now.by_uid.get(&index.uid));
        // Shards may be others meanwhile: what they have in common goes by the fewer.
        let of = later.map_or(index.shards, |later| later.shards);
        if !index.marks.current.nests_with(Partition { shards: of, generation: 0 }) {
            return Excused { of: index.shards, shards: (0..index.shards).collect() };
        }
        let few = of.min(index.shards).max(1);
        let mut excused = BTreeSet::new();
        for group in &index.groups {
            let later = later.map(|index| index.groups.iter().find(|g| g.group == group.group));
            for (n, shard) in group.shards.iter().enumerate() {
                let parts = |group: &GroupPlacement| -> Vec<ShardPlacement> {
                    let of_shard = group.shards.iter().skip(n % few as usize).step_by(few as usize);
                    of_shard.cloned().collect()
                };
                let later = later.map(|g| g.map(parts).unwrap_or_default());
                let stays = |node: &NodeId| {
                    later.as_ref().is_none_or(|parts| {
                        !parts.is_empty() && parts.iter().all(|part| part.in_sync.contains(node))
                    })
                };
                let is_sure = |node: &NodeId| !nodes.contains(node) && stays(node);
                if !shard.in_sync.iter().all(is_sure) {
                    excused.insert(n as u32);
                }
            }
        }
        Excused { of: index.shards, shards: excused }
    }
}

/// Shards whose answers are no evidence.
#[derive(Clone, Debug, Default)]
pub struct Excused {
    /// Of so many.
    of: u32,
    shards: BTreeSet<u32>,
}

impl Excused {
    /// Whether the document is in one of them.
    pub fn covers(&self, id: &str) -> bool {
        self.shards.contains(&shard_of(id, self.of).0)
    }
}

impl Question {
    fn asked(&self, name: &str) -> Asked {
        let (method, path, body) = match self {
            Self::Search { limit } => {
                let body = Bytes::from(json!({ "limit": limit }).to_string());
                (Method::POST, format!("/indexes/{name}/search"), body)
            }
            Self::List => {
                let path = format!("/indexes/{name}/documents?limit={WHOLE}");
                (Method::GET, path, Bytes::new())
            }
            Self::Get { id } => {
                (Method::GET, format!("/indexes/{name}/documents/{id}"), Bytes::new())
            }
        };
        Asked { method, path, body, headers: Vec::new() }
    }
}

impl Read {
    fn describe(&self) -> String {
        let what = match &self.question {
            Question::Search { limit } => format!("searches {limit} in"),
            Question::List => "lists".to_owned(),
            Question::Get { id } => format!("gets {id} of"),
        };
        let said = |name| self.answer.header(name).map_or(String::new(), |text| format!(" {text}"));
        format!(
            "{what} {} -> {} {} bytes{}{}",
            self.name,
            self.answer.status,
            self.answer.body.len(),
            said("x-miroir-degraded"),
            self.session.map_or(String::new(), |uid| format!(" after task {uid}")),
        )
    }
}

/// A client that only reads.
#[derive(Debug)]
pub struct Reader {
    who: String,
    plan: Plan,
    dice: Dice,
    reading: Reading,
}

impl Reader {
    /// Reader `number` of a world.
    pub fn new(plan: &Plan, number: u64, reading: Reading) -> Self {
        let who = format!("reader-{number}");
        Self { dice: Dice::new(plan.seed, &who), who, plan: plan.clone(), reading }
    }

    /// Reads until it is stopped.
    pub async fn run(self) {
        loop {
            tokio::time::sleep(self.dice.millis(1, PAUSE_MS_MAX)).await;
            let Some(entrance) = self.dice.pick(&self.reading.entrances.all()).cloned() else {
                tokio::time::sleep(CLOSED_PAUSE).await;
                continue;
            };
            let name = self.dice.pick(&self.plan.names).cloned().unwrap_or_default();
            let question = choose(&self.dice, self.plan.ids);
            self.reading.read(&self.who, &entrance, &name, question, None).await;
        }
    }
}

/// One of the questions.
pub fn choose(dice: &Dice, ids: u64) -> Question {
    match dice.between(0, 9) {
        0..=3 => Question::Search { limit: WHOLE },
        4 | 5 => Question::Search { limit: dice.between(1, 12) },
        6 | 7 => Question::List,
        _ => Question::Get { id: dice.between(0, ids.saturating_sub(1)).to_string() },
    }
}
