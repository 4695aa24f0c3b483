//! Which tasks (or batches) a listing, a cancelation or a deletion is about.

use deserr::{
    DeserializeError, Deserr, IntoValue, MergeWithError, Value, ValuePointerRef, take_cf_content,
};
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use time::{Date, Duration, OffsetDateTime, Time};

use super::{Kind, Status, TaskView};
use crate::error::{ApiError, Code, mark};
use crate::index::CheckedUid;
use crate::keys::IndexPattern;
use crate::parse::{Param, QueryFault, StarOrList, Unfit, from_query, not_a_string};

/// The query string of `GET /tasks`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskFilter {
    /// How many tasks to show.
    pub limit: u32,
    /// The uid to start from, inclusive.
    pub from: Option<u32>,
    /// Oldest first.
    pub reverse: bool,
    /// Which tasks count.
    pub selection: TaskSelection,
}

/// Which tasks count: those that pass every condition given. `None` passes all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[allow(missing_docs)] // named as the parameters are
pub struct TaskSelection {
    pub uids: Option<Vec<u32>>,
    pub batch_uids: Option<Vec<u32>>,
    pub canceled_by: Option<Vec<u32>>,
    pub types: Option<Vec<Kind>>,
    pub statuses: Option<Vec<Status>>,
    pub index_uids: Option<Vec<String>>,
    pub after_enqueued_at: Option<OffsetDateTime>,
    pub before_enqueued_at: Option<OffsetDateTime>,
    pub after_started_at: Option<OffsetDateTime>,
    pub before_started_at: Option<OffsetDateTime>,
    pub after_finished_at: Option<OffsetDateTime>,
    pub before_finished_at: Option<OffsetDateTime>,
    /// The indexes whose tasks the client may see; no parameter.
    pub visible: Option<Vec<IndexPattern>>,
}

/// Both filter forms share all but the first three parameters; deserr has no flattening, and the order of fields is
/// the order in which messages list them, hence a macro.
macro_rules! selection_params {
    ($(#[$note:meta])* $name:ident { $($paging:tt)* } first $first:ident: $first_mark:ident, second $second:ident: $second_mark:ident) => {
        $(#[$note])*
        #[derive(Debug, Deserr)]
        #[deserr(error = QueryFault, rename_all = camelCase, deny_unknown_fields)]
        struct $name {
            $($paging)*
            #[deserr(default, error = QueryFault<mark::$first_mark>)]
            $first: StarOrList<u32>,
            #[deserr(default, error = QueryFault<mark::$second_mark>)]
            $second: StarOrList<u32>,
            #[deserr(default, error = QueryFault<mark::InvalidTaskCanceledBy>)]
            canceled_by: StarOrList<u32>,
            #[deserr(default, error = QueryFault<mark::InvalidTaskTypes>)]
            types: StarOrList<Kind>,
            #[deserr(default, error = QueryFault<mark::InvalidTaskStatuses>)]
            statuses: StarOrList<Status>,
            #[deserr(default, error = QueryFault<mark::InvalidIndexUid>)]
            index_uids: StarOrList<CheckedUid>,
            #[deserr(default, error = QueryFault<mark::InvalidTaskAfterEnqueuedAt>)]
            after_enqueued_at: Moment<true>,
            #[deserr(default, error = QueryFault<mark::InvalidTaskBeforeEnqueuedAt>)]
            before_enqueued_at: Moment<false>,
            #[deserr(default, error = QueryFault<mark::InvalidTaskAfterStartedAt>)]
            after_started_at: Moment<true>,
            #[deserr(default, error = QueryFault<mark::InvalidTaskBeforeStartedAt>)]
            before_started_at: Moment<false>,
            #[deserr(default, error = QueryFault<mark::InvalidTaskAfterFinishedAt>)]
            after_finished_at: Moment<true>,
            #[deserr(default, error = QueryFault<mark::InvalidTaskBeforeFinishedAt>)]
            before_finished_at: Moment<false>,
        }

        impl $name {
            fn into_selection(self) -> TaskSelection {
                TaskSelection {
                    uids: self.uids.narrowing(),
                    batch_uids: self.batch_uids.narrowing(),
                    canceled_by: self.canceled_by.narrowing(),
                    types: self.types.narrowing(),
                    statuses: self.statuses.narrowing(),
                    index_uids: self.index_uids.narrowing().map(|uids| uids.into_iter().map(|uid| uid.0).collect()),
                    after_enqueued_at: self.after_enqueued_at.at,
                    before_enqueued_at: self.before_enqueued_at.at,
                    after_started_at: self.after_started_at.at,
                    before_started_at: self.before_started_at.at,
                    after_finished_at: self.after_finished_at.at,
                    before_finished_at: self.before_finished_at.at,
                    visible: None,
                }
            }
        }
    };
}

selection_params! {
    /// `GET /tasks`, `GET /batches`.
    ListParams {
        #[deserr(default = Param(20), error = QueryFault<mark::InvalidTaskLimit>)]
        limit: Param<u32>,
        #[deserr(default, error = QueryFault<mark::InvalidTaskFrom>)]
        from: Option<Param<u32>>,
        #[deserr(default, error = QueryFault<mark::InvalidTaskReverse>)]
        reverse: Option<Param<bool>>,
    }
    first batch_uids: InvalidBatchUids, second uids: InvalidTaskUids
}

selection_params! {
    /// `POST /tasks/cancel`, `DELETE /tasks`.
    ChoiceParams {}
    first uids: InvalidTaskUids, second batch_uids: InvalidBatchUids
}

impl ChoiceParams {
    /// Whether any condition was given, be it `*`.
    fn is_given(&self) -> bool {
        self.uids.is_given()
            || self.batch_uids.is_given()
            || self.canceled_by.is_given()
            || self.types.is_given()
            || self.statuses.is_given()
            || self.index_uids.is_given()
            || self.after_enqueued_at.is_given
            || self.before_enqueued_at.is_given
            || self.after_started_at.is_given
            || self.before_started_at.is_given
            || self.after_finished_at.is_given
            || self.before_finished_at.is_given
    }
}

impl TaskFilter {
    /// Reads the query string; 20 tasks by default.
    ///
    /// # Errors
    /// `invalid_task_*`, `invalid_batch_uids`, `invalid_index_uid`.
    pub fn from_query_string(query: &str) -> Result<TaskFilter, ApiError> {
        let params: ListParams = from_query(query)?;
        Ok(TaskFilter {
            limit: params.limit.0,
            from: params.from.map(|from| from.0),
            reverse: params.reverse.is_some_and(|reverse| reverse.0),
            selection: params.into_selection(),
        })
    }
}

impl TaskSelection {
    /// The query string of a cancelation (`verb` is `cancel`) or deletion (`delete`): at least one condition.
    ///
    /// # Errors
    /// `missing_task_filters`, `invalid_task_*`, `invalid_batch_uids`, `invalid_index_uid`.
    pub fn from_query_string(query: &str, verb: &str) -> Result<TaskSelection, ApiError> {
        let params: ChoiceParams = from_query(query)?;
        if params.is_given() {
            return Ok(params.into_selection());
        }
        Err(ApiError::new(
            Code::MissingTaskFilters,
            format!(
                "Query parameters to filter the tasks to {verb} are missing. Available query parameters are: `uids`, \
                 `indexUids`, `statuses`, `types`, `canceledBy`, `beforeEnqueuedAt`, `afterEnqueuedAt`, \
                 `beforeStartedAt`, `afterStartedAt`, `beforeFinishedAt`, `afterFinishedAt`."
            ),
        ))
    }

    /// Whether a task passes. Times are exclusive on both sides.
    pub fn keeps(&self, task: &TaskView) -> bool {
        fn among<T: PartialEq>(wanted: &Option<Vec<T>>, found: Option<&T>) -> bool {
            wanted.as_ref().is_none_or(|wanted| found.is_some_and(|found| wanted.contains(found)))
        }
        fn within(
            after: Option<OffsetDateTime>,
            before: Option<OffsetDateTime>,
            found: Option<OffsetDateTime>,
        ) -> bool {
            after.is_none_or(|after| found.is_some_and(|found| found > after))
                && before.is_none_or(|before| found.is_some_and(|found| found < before))
        }
        let is_visible = self.visible.as_ref().is_none_or(|visible| {
            let index = task.index_uid.as_deref();
            index.is_some_and(|index| visible.iter().any(|pattern| pattern.matches(index)))
        });
        is_visible
            && among(&self.uids, Some(&task.uid))
            && among(&self.batch_uids, task.batch_uid.as_ref())
            && among(&self.canceled_by, task.canceled_by.as_ref())
            && among(&self.types, Some(&task.kind))
            && among(&self.statuses, Some(&task.status))
            && among(&self.index_uids, task.index_uid.as_ref())
            && within(self.after_enqueued_at, self.before_enqueued_at, Some(task.enqueued_at))
            && within(self.after_started_at, self.before_started_at, task.started_at)
            && within(self.after_finished_at, self.before_finished_at, task.finished_at)
    }
}

/// A date-time, a date, or `*`. A bare date means its first moment; `AFTER` it means the first moment of the next
/// day, so that the whole day is left out.
#[derive(Debug, Default)]
struct Moment<const AFTER: bool> {
    is_given: bool,
    at: Option<OffsetDateTime>,
}

impl<const AFTER: bool, E: DeserializeError + MergeWithError<Unfit>> Deserr<E> for Moment<AFTER> {
    fn deserialize_from_value<V: IntoValue>(
        value: Value<V>,
        location: ValuePointerRef,
    ) -> Result<Self, E> {
        let text = match value {
            Value::String(text) => text,
            other => return Err(not_a_string(other, location)),
        };
        if text == "*" {
            return Ok(Moment { is_given: true, at: None });
        }
        match moment(&text, AFTER) {
            Some(at) => Ok(Moment { is_given: true, at: Some(at) }),
            None => Err(take_cf_content(E::merge(
                None,
                Unfit(format!(
                    "`{text}` is an invalid date-time. It should follow the YYYY-MM-DD or RFC 3339 date-time format."
                )),
                location,
            ))),
        }
    }
}

fn moment(text: &str, after: bool) -> Option<OffsetDateTime> {
    if let Ok(moment) = OffsetDateTime::parse(text, &Rfc3339) {
        return Some(moment);
    }
    let format = format_description!("[year repr:full base:calendar]-[month repr:numerical]-[day]");
    let midnight = Date::parse(text, format).ok()?.with_time(Time::MIDNIGHT).assume_utc();
    Some(if after { midnight.checked_add(Duration::DAY).unwrap_or(midnight) } else { midnight })
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn a_filter_is_read_in_full() {
        let filter = TaskFilter::from_query_string(
            "from=12&limit=15&reverse=true&indexUids=toto,tata-78&statuses=SUCCEEDED,enqueued&types=*&uids=1,2&afterEnqueuedAt=2012-04-23&beforeEnqueuedAt=2012-04-23&afterStartedAt=1997-11-12T09:55:06-06:20",
        )
        .unwrap();
        assert_eq!((filter.limit, filter.from, filter.reverse), (15, Some(12), true));
        let selection = filter.selection;
        assert_eq!(selection.index_uids, Some(vec!["toto".to_owned(), "tata-78".to_owned()]));
        assert_eq!(selection.statuses, Some(vec![Status::Succeeded, Status::Enqueued]));
        assert_eq!(selection.types, None);
        assert_eq!(selection.uids, Some(vec![1, 2]));
        assert_eq!(selection.after_enqueued_at, Some(datetime!(2012-04-24 00:00 UTC)));
        assert_eq!(selection.before_enqueued_at, Some(datetime!(2012-04-23 00:00 UTC)));
        assert_eq!(selection.after_started_at, Some(datetime!(1997-11-12 09:55:06 -06:20)));
        assert_eq!(TaskFilter::from_query_string("").unwrap().limit, 20);
    }

    #[test]
    fn wrong_filters_are_refused_in_meilisearchs_words() {
        for (query, code, message) in [
            (
                "uids=78,hello,world",
                "invalid_task_uids",
                "Invalid value in parameter `uids[1]`: could not parse `hello` as a positive integer",
            ),
            (
                "uids=cat",
                "invalid_task_uids",
                "Invalid value in parameter `uids`: could not parse `cat` as a positive integer",
            ),
            (
                "from=*",
                "invalid_task_from",
                "Invalid value in parameter `from`: could not parse `*` as a positive integer",
            ),
            (
                "statuses=finished",
                "invalid_task_statuses",
                "Invalid value in parameter `statuses`: `finished` is not a valid task status. Available statuses are `enqueued`, `processing`, `succeeded`, `failed`, `canceled`.",
            ),
            (
                "types=createIndex",
                "invalid_task_types",
                "Invalid value in parameter `types`: `createIndex` is not a valid task type. Available types are `documentAdditionOrUpdate`, `documentEdition`, `documentDeletion`, `settingsUpdate`, `indexCreation`, `indexDeletion`, `indexUpdate`, `indexSwap`, `taskCancelation`, `taskDeletion`, `dumpCreation`, `snapshotCreation`, `upgradeDatabase`.",
            ),
            (
                "indexUids=1,h%C3%A9",
                "invalid_index_uid",
                "Invalid value in parameter `indexUids[1]`: `hé` is not a valid index uid. Index uid can be an integer or a string containing only alphanumeric characters, hyphens (-) and underscores (_), and can not be more than 512 bytes.",
            ),
            (
                "afterFinishedAt=2021",
                "invalid_task_after_finished_at",
                "Invalid value in parameter `afterFinishedAt`: `2021` is an invalid date-time. It should follow the YYYY-MM-DD or RFC 3339 date-time format.",
            ),
            (
                "froom=12",
                "bad_request",
                "Unknown parameter `froom`: did you mean `from`? expected one of `limit`, `from`, `reverse`, `batchUids`, `uids`, `canceledBy`, `types`, `statuses`, `indexUids`, `afterEnqueuedAt`, `beforeEnqueuedAt`, `afterStartedAt`, `beforeStartedAt`, `afterFinishedAt`, `beforeFinishedAt`",
            ),
        ] {
            let error = TaskFilter::from_query_string(query).unwrap_err();
            assert_eq!((error.code.name(), error.message.as_str()), (code, message));
        }
    }

    #[test]
    fn cancelations_need_a_condition_and_take_no_window() {
        let error = TaskSelection::from_query_string("", "cancel").unwrap_err();
        assert_eq!(error.code, Code::MissingTaskFilters);
        assert!(
            error.message.starts_with(
                "Query parameters to filter the tasks to cancel are missing. Available"
            )
        );
        assert_eq!(
            TaskSelection::from_query_string("statuses=*", "delete").unwrap(),
            TaskSelection::default()
        );
        let error = TaskSelection::from_query_string("from=12", "delete").unwrap_err();
        assert_eq!(
            error.message,
            "Unknown parameter `from`: expected one of `uids`, `batchUids`, `canceledBy`, `types`, `statuses`, `indexUids`, `afterEnqueuedAt`, `beforeEnqueuedAt`, `afterStartedAt`, `beforeStartedAt`, `afterFinishedAt`, `beforeFinishedAt`"
        );
    }

    #[test]
    fn a_selection_keeps_what_passes_every_condition() {
        let task: TaskView = serde_json::from_str(
            r#"{"uid":4,"indexUid":"a","status":"failed","type":"documentDeletion","enqueuedAt":"2024-01-02T00:00:00Z","startedAt":null}"#,
        )
        .unwrap();
        for (query, kept) in [
            ("uids=4,5", true),
            ("uids=5", false),
            ("indexUids=a&statuses=failed,canceled", true),
            ("indexUids=b", false),
            ("canceledBy=1", false),
            ("batchUids=1", false),
            ("afterEnqueuedAt=2024-01-01", false),
            ("afterEnqueuedAt=2024-01-01T23:59:59Z&beforeEnqueuedAt=2024-01-03", true),
            ("afterStartedAt=2024-01-01", false),
            ("types=*", true),
        ] {
            assert_eq!(
                TaskSelection::from_query_string(query, "delete").unwrap().keeps(&task),
                kept,
                "{query}"
            );
        }
    }
}
