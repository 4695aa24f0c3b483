//! The worker: plans a batch, carries it out, ends its tasks.
//!
//! One thread per node. It owns the right to write indexes and to end tasks; everybody else only
//! adds to what waits. A batch that panics fails its tasks and nothing more.

use std::any::Any;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use miroir_seams::Seams;
use miroir_wire::error::ApiError;
use miroir_wire::index::NameSwap;
use miroir_wire::tasks::Status;
use time::OffsetDateTime;

use super::batch::{BatchKind, Shape, plan_batch};
use super::outcome::{Change, Done, Place, Target};
use super::record::{TaskRecord, Work};
use super::store::NEXT_BATCH;
use super::{Processing, Queue, Role, State};
use crate::engine::apply::Indexer;
use crate::engine::errors::EngineError;
use crate::engine::index_map::IndexMap;
use crate::engine::priority::yield_to_searches;

/// How many tasks a batch may have.
const BATCH_TASKS_MAX: usize = 10_000;
/// How many bytes of documents a batch may have, its first task aside: all of it is mapped, and
/// the outcome of all of it waits for the end.
const BATCH_CONTENT_BYTES_MAX: u64 = 1 << 30;
/// How often an index may be enlarged for one batch: from 2 GiB that is far beyond any disk.
const GROWTHS_MAX: u32 = 20;
/// What `std::thread::scope` panics with when a thread of the engine's has panicked.
const ENGINE_THREAD_PANICKED: &str = "a scoped thread panicked";
/// How often a batch is tried again in a larger map after that.
const PANICS_REPEATED: u32 = 1;
/// Pause after the outcome of a batch could not be stored (disk full, say).
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// From this many tasks on, the oldest that have ended are forgotten unasked.
const STORED_TASKS_MAX: u64 = 1_000_000;
/// How many are forgotten then.
const STORED_TASKS_FORGOTTEN: usize = 100_000;

/// What the worker needs, shared with those who read.
pub struct Shared {
    /// Tasks.
    pub queue: Queue,
    /// Indexes.
    pub indexes: IndexMap,
    /// Threads and limits of indexing.
    pub indexer: Indexer,
    /// Time and randomness.
    pub seams: Seams,
}

/// The running worker; ends, and waits for the end, when dropped.
pub struct Worker {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// A planned batch whose tasks are marked as processing.
struct Batch {
    kind: Kind,
    uids: Vec<u32>,
    uid: u32,
    started_at: OffsetDateTime,
}

enum Kind {
    Cancel,
    Forget,
    Swap,
    OnIndex { name: String, kind: BatchKind, creates_index: bool },
}

enum Tick {
    Worked,
    Idle,
}

impl Worker {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn start(shared: Arc<Shared>) -> std::io::Result<Self> {
        let runs = Arc::clone(&shared);
        // The node is a real server and never part of a simulation; indexing blocks for minutes.
        #[allow(clippy::disallowed_methods)]
        let thread =
            std::thread::Builder::new().name("task-worker".to_owned()).spawn(move || {
                yield_to_searches();
                runs.run();
            })?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    /// Gives up the batch under way at its next safe point and waits for the thread.
    pub fn end(&self) {
        self.shared.queue.end(|| self.shared.indexer.stop());
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = thread.take() {
            // A worker that panicked has been reported by the panic hook.
            let _ = thread.join();
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn run(&self) {
        while !self.queue.lock().ending {
            match self.tick() {
                Ok(Tick::Worked) => {}
                Ok(Tick::Idle) => self.wait(None),
                Err(error) => {
                    tracing::error!(%error, "could not carry out or end a batch, trying again");
                    self.queue.lock().processing = None;
                    self.wait(Some(RETRY_PAUSE));
                }
            }
        }
    }

    fn wait(&self, pause: Option<Duration>) {
        let state = self.queue.lock();
        match pause {
            Some(pause) => drop(self.queue.wake.wait_timeout(state, pause)),
            None => {
                let idle = |state: &mut State| state.waiting.is_empty() && !state.ending;
                drop(
                    self.queue.wake.wait_while(state, idle).unwrap_or_else(PoisonError::into_inner),
                );
            }
        }
    }

    fn tick(&self) -> Result<Tick, EngineError> {
        self.forget_overflow()?;
        let Some(batch) = self.plan()? else { return Ok(Tick::Idle) };
        let rtxn = self.queue.store().read()?;
        let mut tasks = Vec::with_capacity(batch.uids.len());
        for uid in &batch.uids {
            tasks.push(self.queue.store().get(&rtxn, *uid)?.ok_or(EngineError::Corrupted)?);
        }
        drop(rtxn);
        match self.carry_out(&batch, &tasks) {
            Some(done) => self.end(&batch, tasks, done)?,
            None => {
                tracing::info!(tasks = batch.uids.len(), "a batch was told to stop");
                self.queue.lock().processing = None;
            }
        }
        Ok(Tick::Worked)
    }

    /// Chooses the next batch: the last cancelation, else all deletions of tasks, else what
    /// the oldest waiting task begins.
    fn plan(&self) -> Result<Option<Batch>, EngineError> {
        loop {
            let planned = {
                let state = self.queue.lock();
                let by_role = |wanted: fn(&Role) -> bool| {
                    state.waiting.iter().filter(move |(_, task)| wanted(&task.role))
                };
                let cancel =
                    by_role(|role| matches!(role, Role::Cancel)).next_back().map(|(uid, _)| *uid);
                if let Some(uid) = cancel {
                    return Ok(Some(self.begin(state, Kind::Cancel, vec![uid], Vec::new())));
                }
                let forget: Vec<u32> =
                    by_role(|role| matches!(role, Role::Forget)).map(|(uid, _)| *uid).collect();
                if !forget.is_empty() {
                    return Ok(Some(self.begin(state, Kind::Forget, forget, Vec::new())));
                }
                let Some((&first, task)) = state.waiting.first_key_value() else {
                    return Ok(None);
                };
                match task.names.as_slice() {
                    [name] => waiting_for(&state, name),
                    // Only swaps have no index of their own, or several.
                    names => {
                        let names = names.to_vec();
                        return Ok(Some(self.begin(state, Kind::Swap, vec![first], names)));
                    }
                }
            };
            if let Some(batch) = self.plan_on_index(planned)? {
                return Ok(Some(batch));
            }
        }
    }

    /// `None` when a cancelation came in meanwhile, which goes first.
    fn plan_on_index(&self, waiting: WaitingForIndex) -> Result<Option<Batch>, EngineError> {
        let WaitingForIndex { name, uids, shapes } = waiting;
        let rtxn = self.queue.store().read()?;
        let index = match self.indexes.folder_of(&rtxn, &name)? {
            Some(folder) => Some(self.indexes.open(&folder, &name)?),
            None => None,
        };
        let primary_key = match &index {
            Some(index) => {
                let rtxn = index.read_txn()?;
                index.primary_key(&rtxn)?.map(str::to_owned)
            }
            None => None,
        };
        let plan = plan_batch(&shapes, index.is_some(), primary_key.as_deref());
        let plan = plan.ok_or(EngineError::Corrupted)?;
        let uids = uids.into_iter().take(plan.length).collect();
        let names = vec![name.clone()];
        let kind = Kind::OnIndex { name, kind: plan.kind, creates_index: plan.creates_index };
        let state = self.queue.lock();
        if state.waiting.values().any(|task| matches!(task.role, Role::Cancel)) {
            return Ok(None);
        }
        Ok(Some(self.begin(state, kind, uids, names)))
    }

    /// Marks the tasks as processing. A stop that was meant for an earlier batch is forgotten,
    /// one that ends the node is not.
    fn begin(
        &self,
        mut state: MutexGuard<'_, State>,
        kind: Kind,
        uids: Vec<u32>,
        names: Vec<String>,
    ) -> Batch {
        if !state.ending {
            self.indexer.resume();
        }
        let started_at = self.seams.clock.now();
        let uid = state.next_batch;
        state.processing = Some(Processing {
            batch_uid: uid,
            uids: uids.iter().copied().collect(),
            started_at,
            names,
        });
        Batch { kind, uids, uid, started_at }
    }

    /// Carries a batch out, as often as its index has to grow. `None` when it was told to stop.
    fn carry_out(&self, batch: &Batch, tasks: &[TaskRecord]) -> Option<Done> {
        let mut target = None;
        let mut growths = 0;
        let mut panics = 0;
        let result = loop {
            let attempt =
                catch_unwind(AssertUnwindSafe(|| self.attempt(batch, tasks, &mut target)));
            let result =
                attempt.unwrap_or_else(|panic| Err(EngineError::Panicked(reason(&*panic))));
            let may_be_full = match &result {
                Err(EngineError::MapFull) => true,
                // The engine's threads panic when the one that writes has found the map full first.
                Err(EngineError::Panicked(reason)) if reason == ENGINE_THREAD_PANICKED => {
                    panics += 1;
                    panics <= PANICS_REPEATED
                }
                _ => false,
            };
            match (result, &target) {
                (Err(_), Some(Target { name, folder: Some(folder), .. }))
                    if may_be_full && growths < GROWTHS_MAX =>
                {
                    growths += 1;
                    if let Err(error) = self.indexes.grow(folder, name) {
                        break Err(error);
                    }
                }
                (result, _) => break result,
            }
        };
        let new_folder = target.and_then(|target| match target {
            Target { name, folder: Some(folder), is_new: true } => Some((name, folder)),
            _ => None,
        });
        let mut done = match result {
            Ok(done) => done,
            Err(EngineError::Aborted) => {
                if let Some((_, folder)) = &new_folder {
                    self.remove_folder(folder);
                }
                return None;
            }
            Err(error) => {
                tracing::warn!(%error, tasks = tasks.len(), "a batch failed");
                let error = error.to_response();
                let ends = tasks.iter().map(|_| Err(error.clone())).collect();
                Done { ends, changes: Vec::new() }
            }
        };
        // An index stays even when the batch that made it failed, as in Meilisearch.
        if let Some((index, folder)) = new_folder {
            done.changes.insert(0, Change::Name { index, folder });
        }
        Some(done)
    }

    fn attempt(
        &self,
        batch: &Batch,
        tasks: &[TaskRecord],
        target: &mut Option<Target>,
    ) -> Result<Done, EngineError> {
        let waiting: BTreeSet<u32> = match batch.kind {
            Kind::Cancel | Kind::Forget => self.queue.unfinished().into_iter().collect(),
            _ => BTreeSet::new(),
        };
        let place = Place {
            store: self.queue.store(),
            indexes: &self.indexes,
            indexer: &self.indexer,
            waiting: &waiting,
        };
        match (&batch.kind, tasks) {
            (Kind::Cancel, [TaskRecord { uid, work: Work::Cancel { tasks, .. }, .. }]) => {
                Ok(place.plan_cancelation(*uid, tasks))
            }
            (Kind::Forget, tasks) => place.plan_forgetting(tasks),
            (Kind::Swap, [TaskRecord { work, .. }]) => match work {
                Work::UpdateIndex { index, primary_key, new_name: Some(name) } => {
                    place.plan_renaming(index, name, primary_key.as_deref())
                }
                work => place.plan_swap(&work.name_swaps()),
            },
            (Kind::OnIndex { name, kind, creates_index }, tasks) => {
                if target.is_none() {
                    *target = Some(self.target(name, kind, *creates_index, tasks)?);
                }
                let Some(target) = target.as_ref() else { return Err(EngineError::Corrupted) };
                self.attempt_on_index(&place, kind, *creates_index, tasks, target)
            }
            _ => Err(EngineError::Corrupted),
        }
    }

    fn attempt_on_index(
        &self,
        place: &Place<'_>,
        kind: &BatchKind,
        creates_index: bool,
        tasks: &[TaskRecord],
        target: &Target,
    ) -> Result<Done, EngineError> {
        let deletes = *kind == BatchKind::DeleteIndex;
        if deletes && target.folder.is_none() && !creates_index {
            return Err(ApiError::index_not_found(&target.name).into());
        }
        let ends = place.execute(kind, tasks, target)?;
        let changes = match (&target.folder, deletes) {
            (Some(folder), true) => {
                vec![Change::Unname { index: target.name.clone(), folder: folder.clone() }]
            }
            _ => Vec::new(),
        };
        Ok(Done { ends, changes })
    }

    /// Finds the index of a batch, or makes it.
    fn target(
        &self,
        name: &str,
        kind: &BatchKind,
        creates_index: bool,
        tasks: &[TaskRecord],
    ) -> Result<Target, EngineError> {
        let rtxn = self.queue.store().read()?;
        let folder = self.indexes.folder_of(&rtxn, name)?;
        let creation = matches!(tasks, [TaskRecord { work: Work::CreateIndex { .. }, .. }]);
        if creation && folder.is_some() {
            return Err(ApiError::index_already_exists(name).into());
        }
        let wanted = creation || (creates_index && *kind != BatchKind::DeleteIndex);
        let name = name.to_owned();
        if folder.is_none() && wanted {
            let (folder, _) = self.indexes.create_folder(&name)?;
            return Ok(Target { name, folder: Some(folder), is_new: true });
        }
        Ok(Target { name, folder, is_new: false })
    }

    /// Commits how the tasks ended, with the changes that belong to it, in one transaction.
    fn end(&self, batch: &Batch, tasks: Vec<TaskRecord>, done: Done) -> Result<(), EngineError> {
        let store = self.queue.store();
        let finished_at = self.seams.clock.now();
        let mut ended = Vec::with_capacity(tasks.len());
        let mut failed = 0;
        for (mut task, end) in tasks.into_iter().zip(done.ends) {
            match end {
                Ok(counts) => task.succeed(counts),
                Err(error) => {
                    failed += 1;
                    task.fail(error);
                }
            }
            ended.push(task);
        }
        let mut wtxn = store.write()?;
        for change in &done.changes {
            match change {
                Change::Name { index, folder } => self.indexes.name(&mut wtxn, index, folder)?,
                Change::Unname { index, .. } => self.indexes.unname(&mut wtxn, index)?,
                Change::Swap(NameSwap { names: (a, b), rename }) => {
                    match rename {
                        true => self.indexes.rename(&mut wtxn, a, b)?,
                        false => self.indexes.swap(&mut wtxn, a, b)?,
                    }
                    self.rename_tasks(&mut wtxn, batch, a, b)?;
                }
                Change::Cancel { uids, by } => {
                    for uid in uids {
                        let mut task = store.get(&wtxn, *uid)?.ok_or(EngineError::Corrupted)?;
                        task.cancel(*by);
                        ended.push(task);
                    }
                }
                Change::Forget { uids } => {
                    for uid in uids {
                        store.remove(&mut wtxn, *uid)?;
                    }
                }
            }
        }
        for task in &mut ended {
            task.batch_uid = Some(batch.uid);
            task.started_at = Some(batch.started_at);
            task.finished_at = Some(finished_at);
            store.put(&mut wtxn, task)?;
        }
        store.set_counter(&mut wtxn, NEXT_BATCH, batch.uid.wrapping_add(1))?;
        wtxn.commit()?;
        tracing::info!(batch = batch.uid, tasks = ended.len(), failed, "batch ended");

        {
            let mut state = self.queue.lock();
            for task in &ended {
                state.waiting.remove(&task.uid);
            }
            state.next_batch = batch.uid.wrapping_add(1);
            state.processing = None;
            self.queue.wake.notify_all();
        }
        for content in ended.iter().filter_map(|task| task.work.content()) {
            store.remove_content(content);
        }
        for change in &done.changes {
            if let Change::Unname { folder, .. } = change {
                self.remove_folder(folder);
            }
        }
        Ok(())
    }

    /// The earlier tasks of two indexes follow them when they exchange their names.
    fn rename_tasks(
        &self,
        wtxn: &mut milli_core::heed::RwTxn<'_>,
        batch: &Batch,
        a: &str,
        b: &str,
    ) -> Result<(), EngineError> {
        let store = self.queue.store();
        let mut renamed = Vec::new();
        store.scan(wtxn, false, |mut task| {
            let earlier = batch.uids.first().is_none_or(|swap| task.uid < *swap);
            if earlier && (task.work.concerns(a) || task.work.concerns(b)) {
                task.work.rename(a, b);
                renamed.push(task);
            }
            earlier
        })?;
        for task in renamed {
            store.put(wtxn, &task)?;
        }
        Ok(())
    }

    fn remove_folder(&self, folder: &str) {
        if let Err(error) = self.indexes.remove_folder(folder) {
            tracing::warn!(folder, %error, "could not remove the folder of an index");
        }
    }

    /// Keeps the number of stored tasks bounded.
    fn forget_overflow(&self) -> Result<(), EngineError> {
        let store = self.queue.store();
        let rtxn = store.read()?;
        if store.count(&rtxn)? < STORED_TASKS_MAX {
            return Ok(());
        }
        let mut oldest = Vec::new();
        store.scan(&rtxn, false, |task| {
            if task.status != Status::Enqueued {
                oldest.push(task.uid);
            }
            oldest.len() < STORED_TASKS_FORGOTTEN
        })?;
        drop(rtxn);
        tracing::info!(tasks = oldest.len(), "forgetting the oldest tasks that have ended");
        let mut wtxn = store.write()?;
        for uid in oldest {
            store.remove(&mut wtxn, uid)?;
        }
        wtxn.commit()?;
        Ok(())
    }
}

struct WaitingForIndex {
    name: String,
    uids: Vec<u32>,
    shapes: Vec<Shape>,
}

/// What waits for one index, up to the limits of a batch.
fn waiting_for(state: &State, name: &str) -> WaitingForIndex {
    let mut found = WaitingForIndex { name: name.to_owned(), uids: Vec::new(), shapes: Vec::new() };
    let mut content_bytes: u64 = 0;
    for (uid, task) in &state.waiting {
        let Role::Write(shape) = &task.role else { continue };
        if !task.names.iter().any(|other| other == name) {
            continue;
        }
        content_bytes = content_bytes.saturating_add(task.content_bytes);
        let full = content_bytes > BATCH_CONTENT_BYTES_MAX || found.uids.len() >= BATCH_TASKS_MAX;
        if full && !found.uids.is_empty() {
            break;
        }
        found.uids.push(*uid);
        found.shapes.push(shape.clone());
    }
    found
}

fn reason(panic: &(dyn Any + Send)) -> String {
    if let Some(text) = panic.downcast_ref::<&'static str>() {
        (*text).to_owned()
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text.clone()
    } else {
        "unknown reason".to_owned()
    }
}
