//! Tasks: kinds, statuses, the views of the task routes, and their filters.

mod batch;
mod filter;
mod view;

pub use batch::{BatchList, BatchPage, BatchStats, BatchView, batch_not_found, read_batch_uid};
pub use filter::{TaskFilter, TaskSelection};
pub use view::{Details, IndexSwap, SummarizedTask, TaskList, TaskView, iso8601_duration};

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::parse::{FromParam, Unfit};

/// What a task does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)] // the names say it
pub enum Kind {
    DocumentAdditionOrUpdate,
    DocumentEdition,
    DocumentDeletion,
    SettingsUpdate,
    IndexCreation,
    IndexDeletion,
    IndexUpdate,
    IndexSwap,
    TaskCancelation,
    TaskDeletion,
    DumpCreation,
    SnapshotCreation,
    UpgradeDatabase,
}

impl Kind {
    /// Every kind, in the order in which messages list them.
    pub const ALL: &[Kind] = &[
        Kind::DocumentAdditionOrUpdate,
        Kind::DocumentEdition,
        Kind::DocumentDeletion,
        Kind::SettingsUpdate,
        Kind::IndexCreation,
        Kind::IndexDeletion,
        Kind::IndexUpdate,
        Kind::IndexSwap,
        Kind::TaskCancelation,
        Kind::TaskDeletion,
        Kind::DumpCreation,
        Kind::SnapshotCreation,
        Kind::UpgradeDatabase,
    ];

    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::DocumentAdditionOrUpdate => "documentAdditionOrUpdate",
            Kind::DocumentEdition => "documentEdition",
            Kind::DocumentDeletion => "documentDeletion",
            Kind::SettingsUpdate => "settingsUpdate",
            Kind::IndexCreation => "indexCreation",
            Kind::IndexDeletion => "indexDeletion",
            Kind::IndexUpdate => "indexUpdate",
            Kind::IndexSwap => "indexSwap",
            Kind::TaskCancelation => "taskCancelation",
            Kind::TaskDeletion => "taskDeletion",
            Kind::DumpCreation => "dumpCreation",
            Kind::SnapshotCreation => "snapshotCreation",
            Kind::UpgradeDatabase => "upgradeDatabase",
        }
    }
}

/// Where a task stands.
///
/// ```text
/// enqueued --> processing --> succeeded
///    |             |  `-----> failed
///    `-------------`--------> canceled
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)] // the names say it
pub enum Status {
    Enqueued,
    Processing,
    Succeeded,
    Failed,
    Canceled,
}

impl Status {
    /// Every status, in the order in which messages list them.
    pub const ALL: &[Status] = &[
        Status::Enqueued,
        Status::Processing,
        Status::Succeeded,
        Status::Failed,
        Status::Canceled,
    ];

    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Status::Enqueued => "enqueued",
            Status::Processing => "processing",
            Status::Succeeded => "succeeded",
            Status::Failed => "failed",
            Status::Canceled => "canceled",
        }
    }

    /// Whether a task with this status never changes again.
    pub const fn is_terminal(self) -> bool {
        matches!(self, Status::Succeeded | Status::Failed | Status::Canceled)
    }
}

/// `Display`, `FromStr` (any case) and reading as a parameter, for a closed set of names.
macro_rules! named {
    ($type:ty, $what:literal, $plural:literal) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }

        impl FromParam for $type {
            fn from_param(text: &str) -> Result<Self, Unfit> {
                <$type>::ALL
                    .iter()
                    .copied()
                    .find(|known| known.name().eq_ignore_ascii_case(text))
                    .ok_or_else(|| {
                        let names: Vec<String> =
                            <$type>::ALL.iter().map(|known| format!("`{known}`")).collect();
                        Unfit(format!(
                            concat!(
                                "`{}` is not a valid task ",
                                $what,
                                ". Available ",
                                $plural,
                                " are {}."
                            ),
                            text,
                            names.join(", ")
                        ))
                    })
            }
        }

        impl FromStr for $type {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                <$type>::from_param(text).map_err(|unfit| unfit.0)
            }
        }
    };
}

named!(Kind, "type", "types");
named!(Status, "status", "statuses");
