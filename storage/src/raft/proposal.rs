//! What a log entry carries: several encoded commands.
//!
//! openraft 0.9 writes and syncs each proposal alone, so concurrent commands are joined to one
//! entry before they get there. They are encoded by themselves, so that a pod of an older
//! version can store and pass on an entry that it can't apply.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::commands::{Command, Outcome};
use crate::tables::records::{Record, RecordError, decode, encode};

/// Commands to apply together, in order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Proposal {
    /// Each a version byte and a postcard [`Command`].
    pub(crate) commands: Vec<Bytes>,
    /// Not part of what is stored.
    #[serde(skip)]
    pub(crate) appended: AppendedMark,
}

/// Says whether a proposal has reached the log of the pod that proposed it.
///
/// openraft answers "ask the leader" both before it appends a proposal, and after it appended
/// it, lost the leadership, and cut it off in favour of the new leader's entry. In the second
/// case another pod may hold the entry still, lead after the next election, and commit it.
/// The answers are alike; this mark, set by the log store, tells them apart.
#[derive(Clone, Debug, Default)]
pub(crate) struct AppendedMark(Option<Arc<AtomicBool>>);

impl AppendedMark {
    /// A mark that can be set.
    pub(crate) fn new() -> Self {
        Self(Some(Arc::default()))
    }

    pub(crate) fn set(&self) {
        if let Some(mark) = &self.0 {
            mark.store(true, Ordering::Release);
        }
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.as_ref().is_some_and(|mark| mark.load(Ordering::Acquire))
    }
}

/// Marks are no part of what a proposal says.
impl PartialEq for AppendedMark {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// What the state machine answered to each command of an entry, in the same order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcomes(pub(crate) Vec<Outcome>);

impl Record for Command {
    const VERSION: u8 = 1;
    const NAME: &'static str = "command";
}

/// The stored form of a command.
pub(crate) fn encode_command(command: &Command) -> Result<Bytes, RecordError> {
    encode(command).map(Bytes::from)
}

impl Proposal {
    /// A proposal that tells when it has been appended.
    pub(crate) fn new(commands: Vec<Bytes>) -> Self {
        Self { commands, appended: AppendedMark::new() }
    }

    /// Bytes of all commands.
    pub(crate) fn bytes(&self) -> usize {
        self.commands.iter().map(Bytes::len).sum()
    }

    /// All commands, or why one of them can't be read: it is of a newer version.
    pub(crate) fn decode(&self) -> Result<Vec<Command>, RecordError> {
        self.commands.iter().map(|bytes| decode(bytes)).collect()
    }
}
