//! The task queue: durable, ordered, carried out by one worker thread.
//!
//! ```text
//!  enqueue ─► content file synced ─► record committed ─► waiting (memory)
//!                                                          │ worker plans a batch
//!                                                          ▼
//!   enqueued (disk) ───────────────────────────────► processing (memory only)
//!       ▲                                                  │
//!       └── crash, or told to stop ────────────────────────┤
//!                                                          ▼
//!                          succeeded / failed / canceled (disk, with names of indexes)
//! ```
//! A task is acknowledged only after its record is committed. A crash during a batch loses the
//! batch's *outcome*, never its tasks: they are found enqueued and carried out again, which is
//! harmless since writes of whole documents, merges, deletions and settings are idempotent and
//! changes of names are committed together with the end of their task. Editions by a function are
//! not: see `edition`.

pub mod batch;
mod edition;
pub(crate) mod outcome;
pub mod query;
pub mod record;
pub mod store;
pub mod worker;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use miroir_seams::Seams;
use miroir_wire::error::{ApiError, Code};
use miroir_wire::tasks::Status;
use time::OffsetDateTime;

use self::batch::Shape;
use self::record::{Counts, TaskRecord, Work};
use self::store::{NEXT_BATCH, NEXT_TASK, Store};
use crate::engine::errors::EngineError;

/// The queue of one node.
pub struct Queue {
    store: Store,
    seams: Seams,
    /// Held from taking a uid until the task is waiting: the worker sees tasks in uid order.
    enqueueing: Mutex<()>,
    state: Mutex<State>,
    /// Something is waiting, a batch has ended, or the node is ending.
    wake: Condvar,
}

/// What is known in memory.
#[derive(Default)]
struct State {
    /// Tasks that have not ended, processing ones included, by uid.
    waiting: BTreeMap<u32, Waiting>,
    processing: Option<Processing>,
    next_batch: u32,
    ending: bool,
}

/// A task that has not ended, as far as planning needs it.
#[derive(Clone, Debug)]
struct Waiting {
    role: Role,
    /// The index it belongs to, or those it swaps.
    names: Vec<String>,
    /// Size of its content file, bytes.
    content_bytes: u64,
}

#[derive(Clone, Debug)]
enum Role {
    Cancel,
    Forget,
    Write(Shape),
}

/// The batch under way.
#[derive(Clone, Debug)]
pub struct Processing {
    /// Its uid.
    pub batch_uid: u32,
    /// Its tasks.
    pub uids: BTreeSet<u32>,
    /// When it started.
    pub started_at: OffsetDateTime,
    /// Names of the indexes it works on.
    pub names: Vec<String>,
}

impl Queue {
    /// Finds the tasks that have not ended and removes content files that nobody needs.
    ///
    /// # Errors
    /// When the store can't be read.
    pub fn open(store: Store, seams: Seams) -> Result<Self, EngineError> {
        let rtxn = store.read()?;
        let mut state = State { next_batch: store.counter(&rtxn, NEXT_BATCH)?, ..State::default() };
        let mut needed = BTreeSet::new();
        store.scan(&rtxn, false, |task| {
            if task.status == Status::Enqueued {
                needed.extend(task.work.content().map(str::to_owned));
                state.waiting.insert(task.uid, Waiting::new(&task.work));
            }
            true
        })?;
        drop(rtxn);
        store.sweep_content(&needed)?;
        if !state.waiting.is_empty() {
            tracing::info!(tasks = state.waiting.len(), "found tasks that have not ended");
        }
        Ok(Self {
            store,
            seams,
            enqueueing: Mutex::new(()),
            state: Mutex::new(state),
            wake: Condvar::new(),
        })
    }

    /// The stores.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Makes a task durable and hands it to the worker. `interrupt` is called when the batch
    /// under way holds tasks that this one cancels.
    ///
    /// # Errors
    /// `no_space_left_on_device` when the task database is too full, or what the disk says; the
    /// content file, if any, is removed then.
    pub fn enqueue(
        &self,
        work: Work,
        custom_metadata: Option<String>,
        interrupt: impl FnOnce(),
    ) -> Result<TaskRecord, EngineError> {
        let content = work.content().map(str::to_owned);
        let enqueued = self.commit_new(work, custom_metadata, interrupt);
        if let (Err(_), Some(content)) = (&enqueued, content) {
            self.store.remove_content(&content);
        }
        enqueued
    }

    fn commit_new(
        &self,
        work: Work,
        custom_metadata: Option<String>,
        interrupt: impl FnOnce(),
    ) -> Result<TaskRecord, EngineError> {
        let makes_room = matches!(
            &work,
            Work::Cancel { tasks, .. } | Work::Forget { tasks, .. } if !tasks.is_empty()
        );
        if !makes_room && self.store.is_full()? {
            let message = "The task database has reached its limit and takes no more writes. \
                           Please delete tasks to continue.";
            return Err(ApiError::new(Code::NoSpaceLeftOnDevice, message).into());
        }
        let _order = self.enqueueing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut wtxn = self.store.write()?;
        let uid = self.store.counter(&wtxn, NEXT_TASK)?;
        let task = TaskRecord {
            uid,
            batch_uid: None,
            status: Status::Enqueued,
            work,
            counts: Counts::default(),
            starts: 0,
            prepared: None,
            error: None,
            canceled_by: None,
            custom_metadata,
            enqueued_at: self.seams.clock.now(),
            started_at: None,
            finished_at: None,
        };
        self.store.put(&mut wtxn, &task)?;
        let next = uid.checked_add(1).ok_or(EngineError::Corrupted)?;
        self.store.set_counter(&mut wtxn, NEXT_TASK, next)?;
        wtxn.commit()?;

        let mut state = self.lock();
        state.waiting.insert(uid, Waiting::new(&task.work));
        if let (Work::Cancel { tasks, .. }, Some(processing)) = (&task.work, &state.processing)
            && tasks.iter().any(|uid| processing.uids.contains(uid))
        {
            interrupt();
        }
        self.wake.notify_all();
        Ok(task)
    }

    /// The batch under way.
    pub fn processing(&self) -> Option<Processing> {
        self.lock().processing.clone()
    }

    /// Whether the batch under way works on this index.
    pub fn is_processing(&self, index: &str) -> bool {
        let state = self.lock();
        state.processing.as_ref().is_some_and(|batch| batch.names.iter().any(|name| name == index))
    }

    /// Uids of the tasks that have not ended.
    pub fn unfinished(&self) -> Vec<u32> {
        self.lock().waiting.keys().copied().collect()
    }

    /// Tells the worker to end after the batch under way; `interrupt` makes that soon.
    pub fn end(&self, interrupt: impl FnOnce()) {
        self.lock().ending = true;
        interrupt();
        self.wake.notify_all();
    }

    /// Waits until a task has ended.
    #[cfg(test)]
    pub fn wait_for(&self, uid: u32) {
        let state = self.lock();
        drop(self.wake.wait_while(state, |state| state.waiting.contains_key(&uid)));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change under the lock is a single insert, remove or assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn new(work: &Work) -> Self {
        let role = match work {
            Work::Documents { primary_key, allow_index_creation, .. } => {
                Role::Write(Shape::Documents {
                    primary_key: primary_key.clone(),
                    allow_index_creation: *allow_index_creation,
                })
            }
            Work::DeleteIds { .. } => Role::Write(Shape::DeleteIds),
            Work::DeleteFilter { .. } => Role::Write(Shape::DeleteFilter),
            Work::Clear { .. } => Role::Write(Shape::Clear),
            Work::Settings { is_deletion, allow_index_creation, .. } => {
                Role::Write(Shape::Settings {
                    allow_index_creation: *allow_index_creation && !is_deletion,
                })
            }
            Work::DeleteIndex { .. } => Role::Write(Shape::DeleteIndex),
            Work::Edit { .. }
            | Work::CreateIndex { .. }
            | Work::UpdateIndex { .. }
            | Work::Swap { .. } => Role::Write(Shape::Alone),
            Work::Cancel { .. } => Role::Cancel,
            Work::Forget { .. } => Role::Forget,
        };
        let swapped: Vec<String> =
            work.name_swaps().into_iter().flat_map(|swap| [swap.names.0, swap.names.1]).collect();
        let names = match swapped.is_empty() {
            true => work.index().map(str::to_owned).into_iter().collect(),
            false => swapped,
        };
        let content_bytes = match work {
            Work::Documents { content_bytes, .. } => *content_bytes,
            _ => 0,
        };
        Self { role, names, content_bytes }
    }
}
