//! What a log entry carries: several encoded commands.
//!
//! openraft 0.9 writes and syncs each proposal alone, so concurrent commands are joined to one
//! entry before they get there. They are encoded by themselves, so that a pod of an older
//! version can store and pass on an entry that it can't apply.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::commands::{Command, Outcome};
use crate::tables::records::{Record, RecordError, decode, encode};

/// Commands to apply together, in order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Proposal {
    /// Each a version byte and a postcard [`Command`].
    pub(crate) commands: Vec<Bytes>,
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
    /// All commands, or why one of them can't be read: it is of a newer version.
    pub(crate) fn decode(&self) -> Result<Vec<Command>, RecordError> {
        self.commands.iter().map(|bytes| decode(bytes)).collect()
    }
}
