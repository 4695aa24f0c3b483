//! What pods say to each other about the log: a version byte, then postcard.
//!
//! | channel | request | answer |
//! |---|---|---|
//! | `log/append` | [`AppendCall`] | [`AppendAnswer`] |
//! | `log/vote` | openraft's vote request | its vote response |
//! | `log/snapshot` | a part of a snapshot | [`SnapshotAnswer`] |
//! | `log/propose` | [`ProposeCall`] | [`ProposeAnswer`] |
//! | `log/index` | nothing | the leader's read index |
//! | `log/yield` | [`YieldCall`] | nothing |
//! | `log/elect` | [`ElectCall`] | nothing |
//!
//! Every request travels in an [`Envelope`]. A change of a request or answer takes a new
//! version byte; an older pod refuses it, which counts as "not carried out".

use bytes::Bytes;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use serde::{Deserialize, Serialize};

use super::{RaftId, TypeConfig};
use crate::commands::Outcome;
use crate::tables::records::Record;

/// Raft's entries and heartbeats.
pub(crate) const APPEND: &str = "log/append";
/// Raft's elections.
pub(crate) const VOTE: &str = "log/vote";
/// Parts of a snapshot.
pub(crate) const SNAPSHOT: &str = "log/snapshot";
/// Commands for the leader.
pub(crate) const PROPOSE: &str = "log/propose";
/// Asks the leader how far a read must see.
pub(crate) const INDEX: &str = "log/index";
/// Makes a voter forget the leader, in favour of a named successor.
pub(crate) const YIELD: &str = "log/yield";
/// Makes the successor stand for election.
pub(crate) const ELECT: &str = "log/elect";

/// Who asks whom. Addresses are reused and clusters can be confused: the pod at an address
/// obeys only what is meant for it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Envelope<T> {
    /// The sender's cluster; empty while it knows none.
    pub(crate) cluster: String,
    pub(crate) from: RaftId,
    pub(crate) target: RaftId,
    pub(crate) body: T,
}

/// A moment by the clock of one life of one pod. Others only hand it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamp {
    /// Random, drawn once in each life.
    pub(crate) life: u64,
    /// Microseconds since that life began.
    pub(crate) micros: u64,
}

/// Entries or a heartbeat, with what the follower needs to know how fresh it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct AppendCall {
    pub(crate) request: AppendEntriesRequest<TypeConfig>,
    /// The follower's stamp in its last answer: this call was sent after it.
    pub(crate) echo: Option<Stamp>,
    /// Milliseconds since a quorum of voters last confirmed the leader, when this was sent;
    /// `None` when none did yet.
    pub(crate) confirmed_ms: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct AppendAnswer {
    pub(crate) response: AppendEntriesResponse<RaftId>,
    pub(crate) stamp: Stamp,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum SnapshotAnswer {
    Taken(InstallSnapshotResponse<RaftId>),
    /// The part doesn't follow the ones before: begin again.
    Mismatch,
}

/// Commands of one pod for one entry.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ProposeCall {
    /// The term in which the target leads, as the sender believes. In another term the call
    /// is refused: it may have been overtaken by later ones.
    pub(crate) term: u64,
    /// The sender's life, and the call's number in it. A lower number than one seen is refused.
    pub(crate) life: u64,
    pub(crate) number: u64,
    /// Milliseconds that the commands may wait for their turn.
    pub(crate) wait_ms: u64,
    pub(crate) commands: Vec<Bytes>,
}

/// A pod that is said to lead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Leader {
    pub(crate) raft_id: RaftId,
    pub(crate) address: String,
    pub(crate) term: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum ProposeAnswer {
    /// Applied by the leader, in the entry at `index`.
    Applied { index: u64, outcomes: Vec<Outcome> },
    /// Not proposed: the pod doesn't lead.
    NotLeading(Option<Leader>),
    /// Not proposed, for another reason.
    NotProposed(String),
    /// Proposed, but not confirmed.
    Unknown,
}

/// "Forget the leader of `term` in favour of `successor`."
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct YieldCall {
    pub(crate) term: u64,
    pub(crate) successor: RaftId,
}

/// "Stand for election: the leader of `term` has stepped aside."
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ElectCall {
    pub(crate) term: u64,
}

/// A request or answer without content.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Nothing;

/// The leader's read index.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct ReadIndex(pub(crate) u64);

macro_rules! message {
    ($($type:ty => $name:literal;)*) => {$(
        impl Record for $type {
            const VERSION: u8 = 1;
            const NAME: &'static str = $name;
        }
    )*};
}

message! {
    Envelope<AppendCall> => "append request";
    AppendAnswer => "append answer";
    Envelope<VoteRequest<RaftId>> => "vote request";
    VoteResponse<RaftId> => "vote answer";
    Envelope<InstallSnapshotRequest<TypeConfig>> => "snapshot part";
    SnapshotAnswer => "snapshot answer";
    Envelope<ProposeCall> => "proposal";
    ProposeAnswer => "answer to a proposal";
    Envelope<Nothing> => "read index request";
    ReadIndex => "read index";
    Envelope<YieldCall> => "yield request";
    Envelope<ElectCall> => "elect request";
    Nothing => "empty answer";
}
