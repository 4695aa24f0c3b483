//! A model of one Meilisearch server, as a pod meets it.
//!
//! Keeps to what was measured: tasks are durable when they are answered and run later, in
//! order; waiting document additions are joined and one bad task fails its whole batch; a late
//! write creates its index again; settings and primary keys are refused where Meilisearch
//! refuses them; newer nodes have other defaults and print more settings. Leaves out: words and ranking by them, embedders, keys.
//!
//! ```text
//! up --crash--> down --restart--> up     tasks and data stay, the batch under way is redone
//!  `--lose_disk--> up                    empty, task uids from 0
//! ```

mod filter;
mod index;
mod queue;
mod routes;
mod search;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::Method;
use miroir_seams::{Clock, Tasks};
use miroir_storage::ids::NodeId;
use miroir_wire::settings::Settings;
use serde_json::{Map, Value, json};
use time::format_description::well_known::Rfc3339;
use tokio::sync::Notify;

use self::index::Index;
pub(crate) use self::index::id_text;
pub use self::index::{FICKLE_DISTINCT, POISON_FIELD, REFUSED_DISTINCT};
use self::queue::{Status, Task, Work, next_batch, run_batch};
use crate::dice::Dice;
use crate::trace::Trace;

/// Why a request or a task was refused.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    status: u16,
    code: &'static str,
    kind: &'static str,
    message: String,
}

impl Refusal {
    fn invalid(code: &'static str, message: String) -> Self {
        Self { status: 400, code, kind: "invalid_request", message }
    }

    fn index_not_found(uid: &str) -> Self {
        Self::invalid("index_not_found", format!("Index `{uid}` not found."))
    }

    fn disk_full() -> Self {
        let message = "There is no more space left on the device.".to_owned();
        Self { status: 422, code: "no_space_left_on_device", kind: "system", message }
    }

    fn to_json(&self) -> Value {
        json!({ "message": self.message, "code": self.code, "type": self.kind, "link": "" })
    }
}

/// What a node is told before it starts.
#[derive(Clone, Copy, Debug)]
pub struct NodeTraits {
    /// Takes `customMetadata` (1.26 and later).
    pub keeps_names: bool,
    /// Longest time of a usual batch, milliseconds.
    pub batch_ms_max: u64,
    /// Somebody copies its disk now and then.
    pub is_backed_up: bool,
}

/// One model node. Clones share it.
#[derive(Clone, Debug)]
pub struct ModelNode {
    /// Its id.
    pub id: NodeId,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    wake: Notify,
    traits: NodeTraits,
    dice: Dice,
    trace: Trace,
    clock: Clock,
}

impl Shared {
    fn now(&self) -> String {
        self.clock.now().format(&Rfc3339).unwrap_or_default()
    }
}

#[derive(Debug)]
struct State {
    up: bool,
    /// Somebody else has changed settings.
    others_settings: bool,
    /// When the request came that is being answered.
    now: String,
    tasks: BTreeMap<u64, Task>,
    next_uid: u64,
    indexes: BTreeMap<String, Index>,
    keeps_names: bool,
    version: &'static str,
    disk_full: bool,
    /// Batches take this many times longer.
    slowness: u64,
    /// Grows with each crash: what an earlier life had under way is void.
    life: u64,
    /// The last copy of the disk, if anybody makes some.
    backup: Option<Disk>,
    is_backed_up: bool,
}

/// What is on a node's disk.
#[derive(Clone, Debug)]
struct Disk {
    tasks: BTreeMap<u64, Task>,
    next_uid: u64,
    indexes: BTreeMap<String, Index>,
}

/// Tasks between two copies of a disk.
const BACKUP_EVERY: u64 = 24;

impl State {
    /// After a batch that ended with this task.
    fn back_up(&mut self, newest: u64) {
        if self.is_backed_up && newest.is_multiple_of(BACKUP_EVERY) {
            let (tasks, indexes) = (self.tasks.clone(), self.indexes.clone());
            self.backup = Some(Disk { tasks, next_uid: self.next_uid, indexes });
        }
    }
}

impl ModelNode {
    /// An empty node whose worker runs on `tasks`.
    pub fn start(id: NodeId, traits: NodeTraits, seed: u64, trace: Trace, tasks: &Tasks) -> Self {
        let state = State {
            now: String::new(),
            up: true,
            others_settings: false,
            tasks: BTreeMap::new(),
            next_uid: 0,
            indexes: BTreeMap::new(),
            keeps_names: traits.keeps_names,
            version: if traits.keeps_names { "1.50.0" } else { "1.15.1" },
            disk_full: false,
            slowness: 1,
            life: 0,
            backup: None,
            is_backed_up: traits.is_backed_up,
        };
        let shared = Shared {
            state: Mutex::new(state),
            wake: Notify::new(),
            traits,
            dice: Dice::new(seed, id.as_str()),
            trace,
            clock: Clock::simulated(),
        };
        let node = Self { id, shared: Arc::new(shared) };
        let worker = node.clone();
        tasks.spawn("model node", async move { worker.work().await });
        node
    }

    /// Answers a request; `None` when the node is down.
    pub fn answer(&self, method: &Method, path: &str, body: &[u8]) -> Option<(u16, Value)> {
        let mut state = self.lock();
        if !state.up {
            return None;
        }
        state.now = self.shared.now();
        let answer = routes::answer(&mut state, method, path, body);
        drop(state);
        self.shared.wake.notify_one();
        Some(answer)
    }

    /// Whether the last request with a name that it has taken is this one, and has not failed. Those
    /// before were followed to their ends: a writer begins a run anew, or repeats it after a copy.
    pub fn has_taken_last(&self, index: &str, name: &str) -> bool {
        let state = self.lock();
        let of_index = state.tasks.values().rev().filter(|task| task.index == index);
        let mut since = of_index.take_while(|task| !matches!(task.work, Work::Delete));
        let last = since.find(|task| task.custom_metadata.is_some());
        last.is_some_and(|task| {
            let holds =
                matches!(task.status, Status::Enqueued | Status::Processing | Status::Succeeded);
            holds && task.custom_metadata.as_deref() == Some(name)
        })
    }

    /// Whether it runs.
    pub fn is_up(&self) -> bool {
        self.lock().up
    }

    /// Stops at once; the batch under way is lost and begins again after a restart.
    pub fn crash(&self) {
        let mut state = self.lock();
        state.up = false;
        state.life += 1;
        for task in state.tasks.values_mut() {
            if task.status == Status::Processing {
                task.status = Status::Enqueued;
            }
        }
    }

    /// Starts again after a crash.
    pub fn restart(&self) {
        self.lock().up = true;
        self.shared.wake.notify_one();
    }

    /// Loses everything and starts anew, task uids from 0.
    pub fn lose_disk(&self) {
        let mut state = self.lock();
        state.life += 1;
        state.tasks.clear();
        state.indexes.clear();
        state.next_uid = 0;
        state.up = true;
    }

    /// Starts anew from an earlier copy of its disk; without one, from nothing.
    pub fn restore_backup(&self) {
        let backup = self.lock().backup.clone();
        self.lose_disk();
        if let Some(Disk { tasks, next_uid, indexes }) = backup {
            let mut state = self.lock();
            (state.tasks, state.next_uid, state.indexes) = (tasks, next_uid, indexes);
        }
        self.shared.wake.notify_one();
    }

    /// A request of somebody else: settings of one of the node's indexes. Nothing that decides
    /// how tasks end, which the clients' model could not know.
    pub fn change_settings(&self) {
        let uid = {
            let state = self.lock();
            let uids: Vec<String> = state.indexes.keys().cloned().collect();
            self.shared.dice.pick(&uids).cloned()
        };
        let Some(uid) = uid else { return };
        let patches = [
            json!({ "distinctAttribute": "theirs" }),
            json!({ "stopWords": ["theirs"], "sortableAttributes": ["theirs"] }),
            json!({ "synonyms": { "theirs": ["ours"] }, "typoTolerance": { "enabled": false } }),
            json!({ "pagination": { "maxTotalHits": 7 }, "displayedAttributes": ["theirs"] }),
        ];
        let patch = self.shared.dice.pick(&patches).cloned().unwrap_or_default();
        self.shared.trace.note(&self.id, format!("somebody changes {uid}: {patch}"));
        let path = format!("/indexes/{uid}/settings");
        self.lock().others_settings = true;
        self.answer(&Method::PATCH, &path, patch.to_string().as_bytes());
    }

    /// Whether somebody else has ever changed settings of it.
    pub fn has_others_settings(&self) -> bool {
        self.lock().others_settings
    }

    /// Whether it keeps the names of requests.
    pub fn keeps_names(&self) -> bool {
        self.shared.traits.keeps_names
    }

    /// Somebody else writes one of these documents anew, changes another, and deletes a third.
    pub fn change_documents(&self, uid: &str, ids: &[String]) {
        let id_of = |id: &String| id.parse::<u64>().map_or_else(|_| json!(id), |id| json!(id));
        let documents = format!("/indexes/{uid}/documents");
        for (n, id) in ids.iter().enumerate() {
            self.shared.trace.note(&self.id, format!("somebody changes {id} of {uid}"));
            let (method, path, body) = match n % 3 {
                0 => (Method::POST, documents.clone(), json!([{ "id": id_of(id), "v": "theirs" }])),
                1 => {
                    (Method::PUT, documents.clone(), json!([{ "id": id_of(id), "tag": "theirs" }]))
                }
                _ => (Method::POST, format!("{documents}/delete-batch"), json!([id])),
            };
            self.answer(&method, &path, body.to_string().as_bytes());
        }
    }

    /// Whether tasks fail for lack of space.
    pub fn set_disk_full(&self, full: bool) {
        self.lock().disk_full = full;
    }

    /// How many times longer than usual batches take.
    pub fn set_slowness(&self, slowness: u64) {
        self.lock().slowness = slowness.max(1);
    }

    /// Every index with its documents, for the checks: they look past the API.
    pub fn documents(&self) -> BTreeMap<String, BTreeMap<String, Map<String, Value>>> {
        let state = self.lock();
        state.indexes.iter().map(|(uid, index)| (uid.clone(), index.documents.clone())).collect()
    }

    /// Looks at the documents of one index, for the checks.
    pub fn with_documents_of<T>(
        &self,
        index: &str,
        look: impl FnOnce(&BTreeMap<String, Map<String, Value>>) -> T,
    ) -> T {
        match self.lock().indexes.get(index) {
            Some(index) => look(&index.documents),
            None => look(&BTreeMap::new()),
        }
    }

    /// The documents of one index, for the checks.
    pub fn documents_of(&self, index: &str) -> BTreeMap<String, Map<String, Value>> {
        self.lock().indexes.get(index).map(|index| index.documents.clone()).unwrap_or_default()
    }

    /// Whether an index has any.
    pub fn has_documents(&self, index: &str) -> bool {
        self.lock().indexes.get(index).is_some_and(|index| !index.documents.is_empty())
    }

    /// The settings of an index as `GET settings` prints them, for the checks.
    pub fn settings(&self, index: &str) -> Option<Value> {
        let state = self.lock();
        state.indexes.get(index).map(|index| index.shown_settings(state.version))
    }

    /// Whether an index still has what [`Self::set_settings`] gave, for the checks.
    pub(crate) fn still_has(&self, index: &str, set: &Settings) -> bool {
        self.lock().indexes.get(index).is_some_and(|index| index.settings == *set)
    }

    /// What was set of the settings of an index, for the checks.
    pub(crate) fn set_settings(&self, index: &str) -> Option<Settings> {
        self.lock().indexes.get(index).map(|index| index.settings.clone())
    }

    /// The primary key of an index, for the checks.
    pub fn primary_key(&self, index: &str) -> Option<String> {
        self.lock().indexes.get(index).and_then(|index| index.primary_key.clone())
    }

    /// Whether nothing waits or runs.
    pub fn is_idle(&self) -> bool {
        self.lock().tasks.values().all(|task| task.status.ended())
    }

    async fn work(&self) {
        loop {
            let Some((batch, life, pause)) = self.begin_batch() else {
                self.shared.wake.notified().await;
                continue;
            };
            self.shared.clock.sleep(pause).await;
            self.end_batch(&batch, life);
        }
    }

    fn begin_batch(&self) -> Option<(Vec<u64>, u64, std::time::Duration)> {
        let mut state = self.lock();
        if !state.up {
            return None;
        }
        let batch = next_batch(&state.tasks);
        if batch.is_empty() {
            return None;
        }
        for uid in &batch {
            if let Some(task) = state.tasks.get_mut(uid) {
                task.status = Status::Processing;
            }
        }
        let slowness = state.slowness;
        let pause = self.shared.dice.millis(1, self.shared.traits.batch_ms_max) * slowness as u32;
        Some((batch, state.life, pause))
    }

    fn end_batch(&self, batch: &[u64], life: u64) {
        let now = self.shared.now();
        let mut state = self.lock();
        if state.life != life || !state.up {
            return;
        }
        run_batch(&mut state, batch, &now);
        for uid in batch {
            if let Some(task) = state.tasks.get(uid) {
                let error = task.error.as_ref().map_or("", |error| error.code);
                let (kind, status) = (task.work.kind(), task.status.name());
                self.shared
                    .trace
                    .note(&self.id, format!("task {uid} {kind} {} {status} {error}", task.index));
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
