//! Tasks as clients see and select them.

use std::collections::BTreeSet;

use milli_core::heed::RoTxn;
use miroir_wire::index::NameSwap;
use miroir_wire::keys::IndexPattern;
use miroir_wire::tasks::{
    BatchList, BatchPage, BatchView, Details, IndexSwap, Status, TaskFilter, TaskList,
    TaskSelection, TaskView,
};

use super::record::{TaskRecord, Work};
use super::{Processing, Queue};
use crate::engine::errors::EngineError;
use crate::engine::settings::hide_secrets;

/// Shown as `batchStrategy`.
const BATCH_STRATEGY: &str = "batched what was enqueued and can be carried out together";

impl Queue {
    /// One task.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn task(&self, uid: u32) -> Result<Option<TaskView>, EngineError> {
        // Before the transaction: a batch that ends in between shows as ended, not as enqueued.
        let processing = self.processing();
        let rtxn = self.store().read()?;
        let task = self.store().get(&rtxn, uid)?;
        Ok(task.map(|task| view(&task, processing.as_ref())))
    }

    /// One page of the tasks that match.
    ///
    /// # Errors
    /// When they can't be read.
    pub fn tasks(&self, filter: &TaskFilter) -> Result<TaskList, EngineError> {
        let TaskFilter { limit, from, reverse, selection } = filter;
        let limit_rows = usize::try_from(*limit).unwrap_or(usize::MAX);
        let mut page = Vec::new();
        let mut next = None;
        let mut total = 0;
        self.select(selection, !reverse, |task| {
            total += 1;
            let reached =
                from.is_none_or(|from| if *reverse { task.uid >= from } else { task.uid <= from });
            if reached && page.len() < limit_rows {
                page.push(task);
            } else if reached && next.is_none() {
                next = Some(task.uid);
            }
        })?;
        let from = page.first().map(|task| task.uid);
        Ok(TaskList { results: page, total, limit: *limit, from, next })
    }

    /// One page of the batches of which a task matches.
    ///
    /// # Errors
    /// When they can't be read.
    pub fn batches(&self, filter: &TaskFilter) -> Result<BatchList, EngineError> {
        let mut matching = BTreeSet::new();
        self.select(&filter.selection, false, |task| matching.extend(task.batch_uid))?;
        let page = BatchPage::of(filter, &matching);
        let tasks = self.tasks_of(page.uids.clone(), filter.selection.visible.clone())?;
        Ok(page.list(&tasks, BATCH_STRATEGY))
    }

    /// One batch, of the tasks that may be seen.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn batch(
        &self,
        uid: u32,
        visible: Option<Vec<IndexPattern>>,
    ) -> Result<Option<BatchView>, EngineError> {
        let tasks = self.tasks_of(vec![uid], visible)?;
        let tasks: Vec<&TaskView> = tasks.iter().collect();
        Ok((!tasks.is_empty()).then(|| BatchView::of(uid, &tasks, BATCH_STRATEGY)))
    }

    fn tasks_of(
        &self,
        batches: Vec<u32>,
        visible: Option<Vec<IndexPattern>>,
    ) -> Result<Vec<TaskView>, EngineError> {
        let mut tasks = Vec::new();
        let of = TaskSelection { batch_uids: Some(batches), visible, ..TaskSelection::default() };
        self.select(&of, false, |task| tasks.push(task))?;
        Ok(tasks)
    }

    /// Uids of all tasks that match, in order.
    ///
    /// # Errors
    /// When they can't be read.
    pub fn matching(&self, selection: &TaskSelection) -> Result<Vec<u32>, EngineError> {
        let mut uids = Vec::new();
        self.select(selection, false, |task| uids.push(task.uid))?;
        Ok(uids)
    }

    fn select(
        &self,
        selection: &TaskSelection,
        newest_first: bool,
        mut take: impl FnMut(TaskView),
    ) -> Result<(), EngineError> {
        let processing = self.processing();
        let mut consider = |task: TaskRecord| {
            // A swap belongs to no index, and is not listed under those it swaps.
            let view = view(&task, processing.as_ref());
            if selection.keeps(&view) {
                take(view);
            }
        };
        let rtxn = self.store().read()?;
        match self.narrow(selection) {
            Some(mut uids) => {
                uids.sort_unstable();
                uids.dedup();
                if newest_first {
                    uids.reverse();
                }
                self.visit(&rtxn, &uids, consider)
            }
            None => self.store().scan(&rtxn, newest_first, |task| {
                consider(task);
                true
            }),
        }
    }

    fn visit(
        &self,
        rtxn: &RoTxn<'_>,
        uids: &[u32],
        mut see: impl FnMut(TaskRecord),
    ) -> Result<(), EngineError> {
        for uid in uids {
            if let Some(task) = self.store().get(rtxn, *uid)? {
                see(task);
            }
        }
        Ok(())
    }

    /// A small superset of the uids that can match, where the selection allows one: followers
    /// ask for uids, and for what has not ended, far more often than for everything.
    fn narrow(&self, selection: &TaskSelection) -> Option<Vec<u32>> {
        if let Some(uids) = &selection.uids {
            return Some(uids.clone());
        }
        let statuses = selection.statuses.as_ref()?;
        statuses.iter().all(|status| !status.is_terminal()).then(|| self.unfinished())
    }
}

/// A stored task as clients see it, processing or not.
pub fn view(task: &TaskRecord, processing: Option<&Processing>) -> TaskView {
    let under_way = processing
        .filter(|batch| task.status == Status::Enqueued && batch.uids.contains(&task.uid));
    TaskView {
        uid: task.uid,
        batch_uid: under_way.map(|batch| batch.batch_uid).or(task.batch_uid),
        index_uid: task.work.index().map(str::to_owned),
        status: if under_way.is_some() { Status::Processing } else { task.status },
        kind: task.work.kind(),
        canceled_by: task.canceled_by,
        details: Some(details(task)),
        error: task.error.clone(),
        duration: task.started_at.zip(task.finished_at).map(|(start, end)| end - start),
        enqueued_at: task.enqueued_at,
        started_at: under_way.map(|batch| batch.started_at).or(task.started_at),
        finished_at: task.finished_at,
        custom_metadata: task.custom_metadata.clone(),
    }
}

fn details(task: &TaskRecord) -> Details {
    let counts = &task.counts;
    let none = Details::default();
    match &task.work {
        Work::Documents { received, .. } => Details {
            received_documents: Some(*received),
            indexed_documents: Some(counts.indexed),
            ..none
        },
        Work::DeleteIds { provided, .. } => Details {
            provided_ids: Some(*provided),
            deleted_documents: Some(counts.deleted),
            original_filter: Some(None),
            ..none
        },
        Work::DeleteFilter { filter, .. } => Details {
            provided_ids: Some(0),
            deleted_documents: Some(counts.deleted),
            original_filter: Some(Some(filter.to_string())),
            ..none
        },
        Work::Edit { filter, context, function, .. } => Details {
            edited_documents: Some(counts.edited),
            // Meilisearch says the same number twice where it succeeded, and nothing elsewhere.
            deleted_documents: Some(counts.edited.filter(|_| task.status == Status::Succeeded)),
            original_filter: Some(filter.as_ref().map(ToString::to_string)),
            context: Some(context.clone()),
            function: Some(function.clone()),
            ..none
        },
        Work::Clear { .. } | Work::DeleteIndex { .. } => {
            Details { deleted_documents: Some(counts.deleted), ..none }
        }
        Work::Settings { patch, .. } => {
            let mut patch = patch.clone();
            hide_secrets(&mut patch);
            Details { settings: patch.as_object().cloned().unwrap_or_default(), ..none }
        }
        Work::CreateIndex { primary_key, .. } => {
            Details { primary_key: Some(primary_key.clone()), ..none }
        }
        Work::UpdateIndex { index, primary_key, new_name } => Details {
            primary_key: Some(primary_key.clone()),
            old_index_uid: new_name.as_ref().map(|_| index.clone()),
            new_index_uid: new_name.clone(),
            ..none
        },
        work @ Work::Swap { .. } => {
            let shown = |swap: NameSwap| IndexSwap { indexes: swap.names, rename: swap.rename };
            Details { swaps: Some(work.name_swaps().into_iter().map(shown).collect()), ..none }
        }
        Work::Cancel { matched, original_filter, .. } => Details {
            matched_tasks: Some(*matched),
            canceled_tasks: Some(counts.tasks),
            original_filter: Some(Some(original_filter.clone())),
            ..none
        },
        Work::Forget { matched, original_filter, .. } => Details {
            matched_tasks: Some(*matched),
            deleted_tasks: Some(counts.tasks),
            original_filter: Some(Some(original_filter.clone())),
            ..none
        },
    }
}
