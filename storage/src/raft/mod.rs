//! The coordinator log under openraft 0.9: its types, log store and state machine.
//!
//! openraft's words end in this folder: its *node id* is our [`RaftId`], its *node* a peer.
//!
//! ```text
//! CoordinatorLog ── Proposal ──> openraft ──> LogStore      (RAFT, LOG: synced)
//!                                   │
//!                                   └──────> StateMachine  (APPLIED and state tables: lazy)
//!                                                │
//!                              Routing swapped <─┴─> events to subscribers
//! ```
//!
//! The log is synced before anything is acknowledged; what is applied is only ordered behind
//! it (see [`crate::engine`]) and is applied again from the log after a crash.
//!
//! Between pods: `messages` over `miroir_seams::PeerTransport`, sent by `network` and answered
//! by [`crate::log`]; `confirmations` tells from them how fresh this pod is.

mod confirmations;
mod log_store;
pub(crate) mod messages;
mod network;
mod proposal;
mod runtime;
mod snapshot;
mod state_machine;
mod store;

#[cfg(test)]
mod suite;

use std::io::Cursor;

use serde::{Deserialize, Serialize};

use crate::engine::Table;

pub(crate) use confirmations::Confirmations;
pub(crate) use log_store::LogStore;
pub use miroir_seams::{NoPeers, PeerTransport};
pub use network::PeerAddresses;
pub(crate) use network::PeerNetwork;
pub(crate) use proposal::{Outcomes, Proposal, encode_command};
pub(crate) use runtime::in_seams;
pub(crate) use state_machine::{Applied, StateMachine};
pub use state_machine::{AppliedEvent, Subscription};
pub(crate) use store::Store;

/// Raft's own records of this pod: vote, committed and purged positions, identity.
const RAFT: Table = Table(240);
/// Log entries by index, big-endian.
const LOG: Table = Table(241);
/// The position up to which the state tables have applied the log, and the membership there.
const APPLIED: Table = Table(242);

/// A pod's identity in the Raft log. A pod that lost its disk comes back under a new one: a
/// voter that forgot its vote could elect two leaders of one term.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct RaftId(pub u64);

impl std::fmt::Display for RaftId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl From<u64> for RaftId {
    fn from(number: u64) -> Self {
        Self(number)
    }
}

openraft::declare_raft_types!(
    /// The types that openraft is used with.
    pub TypeConfig:
        D = Proposal,
        R = Outcomes,
        NodeId = RaftId,
        Node = openraft::BasicNode,
        Entry = openraft::Entry<TypeConfig>,
        SnapshotData = Cursor<Vec<u8>>,
        AsyncRuntime = runtime::SeamRuntime,
);

pub(crate) type Entry = openraft::Entry<TypeConfig>;
pub(crate) type LogId = openraft::LogId<RaftId>;
pub(crate) type Membership = openraft::StoredMembership<RaftId, openraft::BasicNode>;
pub(crate) type StorageError = openraft::StorageError<RaftId>;
pub(crate) type StorageIoError = openraft::StorageIOError<RaftId>;
