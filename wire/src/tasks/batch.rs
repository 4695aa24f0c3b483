//! Batches: tasks that were carried out together, as `GET /batches` shows them.
//!
//! A batch is known by its tasks alone: it is what they say of it, put together. It shows in a
//! listing when one of its tasks passes the filter.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration as Elapsed;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use time::{Duration, OffsetDateTime};

use super::{Details, TaskFilter, TaskView, iso8601_duration};
use crate::error::{ApiError, Code};

/// The one step that a batch is known to have.
const STEP: &str = "processing tasks";

/// A batch, as `GET /batches/{uid}` shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BatchView {
    /// The batch's number.
    pub uid: u32,
    /// How far it is, while it is under way.
    pub progress: Option<Value>,
    /// Those of its tasks, added up.
    pub details: Details,
    /// What tasks it has.
    pub stats: BatchStats,
    /// How long it was processed.
    #[serde(default, with = "iso8601_duration")]
    pub duration: Option<Duration>,
    /// When processing began.
    #[serde(with = "time::serde::rfc3339::option")]
    pub started_at: Option<OffsetDateTime>,
    /// When it ended.
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub finished_at: Option<OffsetDateTime>,
    /// Why it has these tasks and no others, for people.
    pub batch_strategy: String,
}

/// What tasks a batch has.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BatchStats {
    /// How many.
    pub total_nb_tasks: u32,
    /// How many by status.
    pub status: BTreeMap<String, u32>,
    /// How many by type.
    pub types: BTreeMap<String, u32>,
    /// How many by index.
    pub index_uids: BTreeMap<String, u32>,
    /// How long each step took; the whole is the only one.
    pub progress_trace: Map<String, Value>,
}

/// Which batches a page of a listing shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchPage {
    /// In the order of the page.
    pub uids: Vec<u32>,
    /// How many batches the filter keeps in all.
    pub total: u64,
    /// How many were asked for.
    pub limit: u32,
    /// What to give as `from` for the next page.
    pub next: Option<u32>,
}

/// A page of batches, as `GET /batches` shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BatchList {
    /// The batches, newest first unless `reverse` was asked for.
    pub results: Vec<BatchView>,
    /// How many batches the filter keeps in all.
    pub total: u64,
    /// How many were asked for.
    pub limit: u32,
    /// The first uid of this page.
    pub from: Option<u32>,
    /// What to give as `from` for the next page.
    pub next: Option<u32>,
}

impl BatchPage {
    /// The page that `filter` asks for of the batches in `matching`.
    pub fn of(filter: &TaskFilter, matching: &BTreeSet<u32>) -> Self {
        let limit = filter.limit as usize;
        let (uids, next) = match filter.reverse {
            true => cut(matching.range(filter.from.unwrap_or(0)..), limit),
            false => cut(matching.range(..=filter.from.unwrap_or(u32::MAX)).rev(), limit),
        };
        Self { uids, total: matching.len() as u64, limit: filter.limit, next }
    }

    /// The listing, of all tasks of this page's batches and perhaps others.
    pub fn list(self, tasks: &[TaskView], strategy: &str) -> BatchList {
        let of = |uid: &u32| {
            let tasks: Vec<&TaskView> =
                tasks.iter().filter(|task| task.batch_uid == Some(*uid)).collect();
            BatchView::of(*uid, &tasks, strategy)
        };
        BatchList {
            results: self.uids.iter().map(of).collect(),
            total: self.total,
            limit: self.limit,
            from: self.uids.first().copied(),
            next: self.next,
        }
    }
}

fn cut<'a>(mut uids: impl Iterator<Item = &'a u32>, limit: usize) -> (Vec<u32>, Option<u32>) {
    let page = uids.by_ref().take(limit).copied().collect();
    (page, uids.next().copied())
}

impl BatchView {
    /// The batch of these tasks; `strategy` says why they are together.
    pub fn of(uid: u32, tasks: &[&TaskView], strategy: &str) -> Self {
        let mut stats = BatchStats::default();
        let mut details = Details::default();
        for task in tasks {
            stats.total_nb_tasks += 1;
            *stats.status.entry(task.status.name().to_owned()).or_default() += 1;
            *stats.types.entry(task.kind.name().to_owned()).or_default() += 1;
            if let Some(index) = &task.index_uid {
                *stats.index_uids.entry(index.clone()).or_default() += 1;
            }
            if let Some(of_task) = &task.details {
                add(&mut details, of_task);
            }
        }
        // A cancelled task may have begun in a batch that was given up.
        let own = |task: &&&TaskView| task.canceled_by.is_none() || tasks.len() == 1;
        let started_at = tasks.iter().filter(own).filter_map(|task| task.started_at).min();
        let is_over = tasks.iter().all(|task| task.status.is_terminal());
        let finished_at = tasks.iter().filter_map(|task| task.finished_at).max();
        let finished_at = finished_at.filter(|_| is_over);
        let duration = started_at.zip(finished_at).map(|(start, end)| end - start);
        if let Some(duration) = duration.and_then(|duration| Elapsed::try_from(duration).ok()) {
            stats.progress_trace.insert(STEP.to_owned(), format!("{duration:.2?}").into());
        }
        let progress = (!is_over).then(|| {
            json!({
                "steps": [{"currentStep": STEP, "finished": 0, "total": 1}],
                "percentage": 0.0,
            })
        });
        let batch_strategy = strategy.to_owned();
        Self { uid, progress, details, stats, duration, started_at, finished_at, batch_strategy }
    }
}

/// Adds the details of one more task.
fn add(sum: &mut Details, task: &Details) {
    fn plain(sum: &mut Option<u64>, more: Option<u64>) {
        if let Some(more) = more {
            *sum = Some(sum.unwrap_or(0) + more);
        }
    }
    // `null` is what is not known yet.
    fn nullable(sum: &mut Option<Option<u64>>, more: Option<Option<u64>>) {
        *sum = match (*sum, more) {
            (Some(Some(sum)), Some(Some(more))) => Some(Some(sum + more)),
            (sum, None | Some(None)) => sum.or(more),
            (_, more) => more,
        };
    }
    fn either<T: Clone>(sum: &mut Option<Option<T>>, more: &Option<Option<T>>) {
        if !matches!(sum, Some(Some(_))) && more.is_some() {
            sum.clone_from(more);
        }
    }
    plain(&mut sum.received_documents, task.received_documents);
    nullable(&mut sum.indexed_documents, task.indexed_documents);
    nullable(&mut sum.edited_documents, task.edited_documents);
    plain(&mut sum.provided_ids, task.provided_ids);
    nullable(&mut sum.deleted_documents, task.deleted_documents);
    plain(&mut sum.matched_tasks, task.matched_tasks);
    nullable(&mut sum.canceled_tasks, task.canceled_tasks);
    nullable(&mut sum.deleted_tasks, task.deleted_tasks);
    either(&mut sum.primary_key, &task.primary_key);
    either(&mut sum.dump_uid, &task.dump_uid);
    either(&mut sum.context, &task.context);
    sum.original_filter = match (sum.original_filter.take(), &task.original_filter) {
        (Some(Some(sum)), Some(Some(more))) => Some(Some(format!("{sum}&{more}"))),
        (sum, None | Some(None)) => sum.or_else(|| task.original_filter.clone()),
        (_, more) => more.clone(),
    };
    sum.function = sum.function.take().or_else(|| task.function.clone());
    if let Some(swaps) = &task.swaps {
        sum.swaps.get_or_insert_default().extend(swaps.iter().cloned());
    }
    sum.upgrade_from = sum.upgrade_from.take().or_else(|| task.upgrade_from.clone());
    sum.upgrade_to = task.upgrade_to.clone().or_else(|| sum.upgrade_to.take());
    sum.settings.extend(task.settings.clone());
}

/// The uid in the path of `GET /batches/{uid}`.
///
/// # Errors
/// `invalid_batch_uids`.
pub fn read_batch_uid(text: &str) -> Result<u32, ApiError> {
    text.parse().map_err(|_| {
        ApiError::new(
            Code::InvalidBatchUids,
            format!("Batch uid `{text}` is invalid. It should only contain numeric characters."),
        )
    })
}

/// `Batch `uid` not found.`
pub fn batch_not_found(uid: u32) -> ApiError {
    ApiError::new(Code::BatchNotFound, format!("Batch `{uid}` not found."))
}

#[cfg(test)]
mod tests {
    use super::super::{Kind, Status};
    use super::*;

    fn task(uid: u32, batch: u32, status: Status, kind: Kind, details: Value) -> TaskView {
        let at = |seconds: u32| OffsetDateTime::UNIX_EPOCH + Duration::seconds(seconds.into());
        TaskView {
            uid,
            batch_uid: Some(batch),
            index_uid: Some("movies".to_owned()),
            status,
            kind,
            canceled_by: (status == Status::Canceled).then_some(batch),
            details: serde_json::from_value(details).unwrap(),
            error: None,
            duration: None,
            enqueued_at: at(0),
            started_at: (status != Status::Canceled).then(|| at(uid)),
            finished_at: status.is_terminal().then(|| at(uid + 1)),
            custom_metadata: None,
        }
    }

    #[test]
    fn a_batch_adds_its_tasks_up() {
        let added = |uid, received| {
            let details = json!({"receivedDocuments": received, "indexedDocuments": received});
            task(uid, 7, Status::Succeeded, Kind::DocumentAdditionOrUpdate, details)
        };
        let list = BatchPage { uids: vec![7], total: 3, limit: 1, next: Some(5) }
            .list(&[added(3, 2), added(4, 5), added(4, 1)], "because");
        assert_eq!(
            serde_json::to_value(&list).unwrap(),
            json!({
                "results": [{
                    "uid": 7,
                    "progress": null,
                    "details": {"receivedDocuments": 8, "indexedDocuments": 8},
                    "stats": {
                        "totalNbTasks": 3,
                        "status": {"succeeded": 3},
                        "types": {"documentAdditionOrUpdate": 3},
                        "indexUids": {"movies": 3},
                        "progressTrace": {"processing tasks": "2.00s"},
                    },
                    "duration": "PT2S",
                    "startedAt": "1970-01-01T00:00:03Z",
                    "finishedAt": "1970-01-01T00:00:05Z",
                    "batchStrategy": "because",
                }],
                "total": 3, "limit": 1, "from": 7, "next": 5,
            })
        );
    }

    #[test]
    fn what_is_cancelled_belongs_to_what_cancels_it() {
        let details = json!({"matchedTasks": 1, "canceledTasks": 1, "originalFilter": "?uids=1"});
        let by = task(9, 9, Status::Succeeded, Kind::TaskCancelation, details);
        let gone = task(1, 9, Status::Canceled, Kind::IndexCreation, json!({"primaryKey": null}));
        let batch = BatchView::of(9, &[&gone, &by], "");
        assert_eq!(batch.stats.status["canceled"], 1);
        assert_eq!(batch.started_at, by.started_at);
        assert_eq!(batch.details.primary_key, Some(None));
        assert_eq!(batch.details.canceled_tasks, Some(Some(1)));
    }

    #[test]
    fn a_batch_under_way_shows_progress_and_no_end() {
        let done = task(1, 1, Status::Succeeded, Kind::SettingsUpdate, json!({"stopWords": []}));
        let open = task(2, 1, Status::Processing, Kind::SettingsUpdate, json!({"synonyms": null}));
        let batch = BatchView::of(1, &[&done, &open], "");
        assert!(batch.progress.is_some());
        assert_eq!((batch.duration, batch.finished_at), (None, None));
        assert_eq!(batch.details.settings.len(), 2);
        assert!(batch.stats.progress_trace.is_empty());
    }

    #[test]
    fn pages_go_both_ways() {
        let matching = BTreeSet::from([1, 3, 4, 8]);
        let page = |query: &str| {
            let filter = TaskFilter::from_query_string(query).unwrap();
            let page = BatchPage::of(&filter, &matching);
            (page.uids, page.next)
        };
        assert_eq!(page("limit=2"), (vec![8, 4], Some(3)));
        assert_eq!(page("limit=2&from=3"), (vec![3, 1], None));
        assert_eq!(page("limit=3&reverse=true"), (vec![1, 3, 4], Some(8)));
        assert_eq!(page("limit=0"), (vec![], Some(8)));
    }

    #[test]
    fn sums_of_what_is_not_known_yet_stay_unknown() {
        let mut sum = Details::default();
        for (indexed, expected) in
            [(None, Some(None)), (Some(2), Some(Some(2))), (None, Some(Some(2)))]
        {
            add(&mut sum, &Details { indexed_documents: Some(indexed), ..Details::default() });
            assert_eq!(sum.indexed_documents, expected);
        }
        let with = |filter: &str| Details {
            original_filter: Some(Some(filter.to_owned())),
            ..Details::default()
        };
        add(&mut sum, &with("?a"));
        add(&mut sum, &with("?b"));
        assert_eq!(sum.original_filter, Some(Some("?a&?b".to_owned())));
    }
}
