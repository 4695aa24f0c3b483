//! What the task routes answer.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};
use time::{Duration, OffsetDateTime};

use super::{Kind, Status};
use crate::error::ResponseError;

/// A task, as `GET /tasks/{uid}` shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskView {
    /// The task's number.
    pub uid: u32,
    /// The batch it was processed in.
    #[serde(default)]
    pub batch_uid: Option<u32>,
    /// The index it is about, if it is about one.
    #[serde(default)]
    pub index_uid: Option<String>,
    /// Where it stands.
    pub status: Status,
    /// What it does.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// The task that canceled it.
    #[serde(default)]
    pub canceled_by: Option<u32>,
    /// Counts and parameters; which ones depends on the kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Details>,
    /// Why it failed.
    #[serde(default)]
    pub error: Option<ResponseError>,
    /// How long it was processed.
    #[serde(default, with = "iso8601_duration")]
    pub duration: Option<Duration>,
    /// When it was accepted.
    #[serde(with = "time::serde::rfc3339")]
    pub enqueued_at: OffsetDateTime,
    /// When processing began.
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub started_at: Option<OffsetDateTime>,
    /// When it became terminal.
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub finished_at: Option<OffsetDateTime>,
    /// The client's own note on a write (Meilisearch 1.50 and the embedded node).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom_metadata: Option<String>,
}

/// What a write is answered with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SummarizedTask {
    /// The task's number.
    pub task_uid: u32,
    /// The index it is about, if it is about one.
    pub index_uid: Option<String>,
    /// Where it stands: `enqueued`.
    pub status: Status,
    /// What it will do.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// When it was accepted.
    #[serde(with = "time::serde::rfc3339")]
    pub enqueued_at: OffsetDateTime,
    /// The client's own note on the write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom_metadata: Option<String>,
}

/// A page of tasks, as `GET /tasks` shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskList {
    /// The tasks, newest first unless `reverse` was asked for.
    pub results: Vec<TaskView>,
    /// How many tasks the filter keeps in all.
    pub total: u64,
    /// How many were asked for.
    pub limit: u32,
    /// The first uid of this page.
    pub from: Option<u32>,
    /// What to give as `from` for the next page.
    pub next: Option<u32>,
}

/// Two indexes that change places, or one that is renamed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexSwap {
    /// Their names.
    pub indexes: (String, String),
    /// The first took the name of the second. Versions before 1.18 don't say it, and nor do we where
    /// they could be asked.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rename: bool,
}

/// The `details` of a task. Absent members are not printed; `Some(None)` is printed as `null`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Details {
    /// Documents received, of an addition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub received_documents: Option<u64>,
    /// Documents indexed, of an addition.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "nullable")]
    pub indexed_documents: Option<Option<u64>>,
    /// Documents edited by a function.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "nullable")]
    pub edited_documents: Option<Option<u64>>,
    /// The primary key of a created or updated index.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "nullable")]
    pub primary_key: Option<Option<String>>,
    /// The name that a renamed index had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old_index_uid: Option<String>,
    /// The name that a renamed index is to have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_index_uid: Option<String>,
    /// Ids given, of a deletion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provided_ids: Option<u64>,
    /// Documents deleted.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "nullable")]
    pub deleted_documents: Option<Option<u64>>,
    /// Tasks that a cancelation or deletion of tasks matched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matched_tasks: Option<u64>,
    /// Tasks canceled.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "nullable")]
    pub canceled_tasks: Option<Option<u64>>,
    /// Tasks deleted.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "nullable")]
    pub deleted_tasks: Option<Option<u64>>,
    /// The filter of a deletion, or the query string of a cancelation.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "nullable")]
    pub original_filter: Option<Option<String>>,
    /// The dump made.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "nullable")]
    pub dump_uid: Option<Option<String>>,
    /// What an edition's function could read.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "nullable")]
    pub context: Option<Option<Map<String, Value>>>,
    /// An edition's function.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function: Option<String>,
    /// Swaps made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub swaps: Option<Vec<IndexSwap>>,
    /// Version before an upgrade.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgrade_from: Option<String>,
    /// Version after an upgrade.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgrade_to: Option<String>,
    /// The settings of a settings task: they stand beside the other members, not below one. See
    /// [`crate::settings::Settings::to_details`].
    #[serde(flatten)]
    pub settings: Map<String, Value>,
}

/// A member that may be absent or `null`, and these are two things.
mod nullable {
    use super::*;

    pub(super) fn serialize<T: Serialize, S: Serializer>(
        value: &Option<Option<T>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        value.serialize(serializer)
    }

    pub(super) fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Option<T>>, D::Error> {
        Option::<T>::deserialize(deserializer).map(Some)
    }
}

/// Durations as Meilisearch prints them: ISO 8601 with days and seconds, `PT0.009330S`.
pub mod iso8601_duration {
    use serde::de::Error;

    use super::*;

    const DAY_SECONDS: i64 = 86_400;

    /// The text of a duration; `None` for a negative one.
    pub fn format(duration: Duration) -> Option<String> {
        if duration.is_negative() {
            return None;
        }
        let (days, seconds) =
            (duration.whole_seconds() / DAY_SECONDS, duration.whole_seconds() % DAY_SECONDS);
        let nanos = duration.subsec_nanoseconds();
        let mut text = "P".to_owned();
        if days != 0 {
            text.push_str(&format!("{days}D"));
        }
        if days == 0 || seconds != 0 || nanos != 0 {
            text.push_str(&match nanos {
                0 => format!("T{seconds}S"),
                nanos if nanos % 1_000_000 == 0 => format!("T{seconds}.{:03}S", nanos / 1_000_000),
                nanos if nanos % 1_000 == 0 => format!("T{seconds}.{:06}S", nanos / 1_000),
                nanos => format!("T{seconds}.{nanos:09}S"),
            });
        }
        Some(text)
    }

    /// The duration a text of [`format()`] tells.
    pub fn parse(text: &str) -> Option<Duration> {
        let rest = text.strip_prefix('P')?;
        let (date, clock) = rest.split_once('T').unwrap_or((rest, ""));
        let days: i64 = match date.strip_suffix('D') {
            Some(days) => days.parse().ok()?,
            None if date.is_empty() => 0,
            None => return None,
        };
        let (seconds, fraction) = match clock.strip_suffix('S') {
            Some(clock) => clock.split_once('.').unwrap_or((clock, "0")),
            None if clock.is_empty() => ("0", "0"),
            None => return None,
        };
        let digits =
            u32::try_from(fraction.len()).ok().filter(|digits| (1..=9).contains(digits))?;
        let nanos = fraction.parse::<u32>().ok()? * 10u32.pow(9 - digits);
        let seconds = seconds.parse::<i64>().ok()?.checked_add(days.checked_mul(DAY_SECONDS)?)?;
        (seconds >= 0).then(|| Duration::new(seconds, nanos as i32))
    }

    /// For `serde(with)`.
    pub fn serialize<S: Serializer>(
        duration: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        duration.and_then(format).serialize(serializer)
    }

    /// For `serde(with)`.
    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        match Option::<String>::deserialize(deserializer)? {
            None => Ok(None),
            Some(text) => {
                parse(&text).map(Some).ok_or_else(|| D::Error::custom("not an ISO 8601 duration"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn view() -> TaskView {
        TaskView {
            uid: 1,
            batch_uid: Some(1),
            index_uid: Some("movies".to_owned()),
            status: Status::Succeeded,
            kind: Kind::DocumentAdditionOrUpdate,
            canceled_by: None,
            details: Some(Details {
                received_documents: Some(2),
                indexed_documents: Some(Some(2)),
                ..Details::default()
            }),
            error: None,
            duration: Some(Duration::microseconds(9330)),
            enqueued_at: OffsetDateTime::UNIX_EPOCH,
            started_at: Some(OffsetDateTime::UNIX_EPOCH),
            finished_at: None,
            custom_metadata: None,
        }
    }

    #[test]
    fn task_is_printed_as_meilisearch_prints_it() {
        let text = serde_json::to_string(&view()).unwrap();
        assert_eq!(
            text,
            r#"{"uid":1,"batchUid":1,"indexUid":"movies","status":"succeeded","type":"documentAdditionOrUpdate","canceledBy":null,"details":{"receivedDocuments":2,"indexedDocuments":2},"error":null,"duration":"PT0.009330S","enqueuedAt":"1970-01-01T00:00:00Z","startedAt":"1970-01-01T00:00:00Z","finishedAt":null}"#
        );
        assert_eq!(serde_json::from_str::<TaskView>(&text).unwrap(), view());
    }

    #[test]
    fn null_and_absent_details_are_two_things() {
        let details: Details = serde_json::from_str(
            r#"{"indexedDocuments":null,"rankingRules":["words"],"synonyms":null}"#,
        )
        .unwrap();
        assert_eq!(details.indexed_documents, Some(None));
        assert_eq!(details.deleted_documents, None);
        assert_eq!(details.settings.len(), 2);
        assert_eq!(
            serde_json::to_string(&details).unwrap(),
            r#"{"indexedDocuments":null,"rankingRules":["words"],"synonyms":null}"#
        );
    }

    #[test]
    fn durations_are_iso_8601() {
        for (duration, text) in [
            (Duration::ZERO, "PT0S"),
            (Duration::seconds(61), "PT61S"),
            (Duration::milliseconds(1500), "PT1.500S"),
            (Duration::microseconds(9330), "PT0.009330S"),
            (Duration::nanoseconds(1), "PT0.000000001S"),
            (Duration::days(2), "P2D"),
            (Duration::days(1) + Duration::seconds(1), "P1DT1S"),
        ] {
            assert_eq!(iso8601_duration::format(duration).as_deref(), Some(text));
            assert_eq!(iso8601_duration::parse(text), Some(duration), "{text}");
        }
        assert_eq!(iso8601_duration::format(Duration::seconds(-1)), None);
        for text in ["", "P", "PT", "T1S", "PT1", "PT1.S", "PxD", "PT-1S", "PT1.0000000001S"] {
            assert!(iso8601_duration::parse(text).is_none_or(Duration::is_zero), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_duration_is_read_back(seconds in 0i64..=i64::from(u32::MAX), nanos in 0i32..1_000_000_000) {
            let duration = Duration::new(seconds, nanos);
            let text = iso8601_duration::format(duration).unwrap();
            prop_assert_eq!(iso8601_duration::parse(&text), Some(duration));
        }

        #[test]
        fn reading_a_duration_never_panics(text in "P?[0-9D]{0,22}T?[0-9.S-]{0,24}") {
            let _ = iso8601_duration::parse(&text);
        }
    }
}
