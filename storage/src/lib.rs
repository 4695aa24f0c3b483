//! What this pod keeps on disk, and what all pods agree on.
//!
//! | module | holds |
//! |---|---|
//! | [`engine`] | ordered tables with atomic batches: sled, or memory in the simulation |
//! | [`formation`] | who begins the cluster that this pod is to join |
//! | [`journal`] | the durable, bounded store of acknowledged payloads |
//! | [`log`] | the coordinator log: propose commands, follow what was applied, route |
//! | [`raft`] | openraft's log store and state machine over an engine |
//! | [`ids`], [`commands`], [`job_commands`], [`topology_commands`] | the words of the coordinator log |
//! | [`tables`] | its state, and the one function that changes it |
//! | [`routing`] | what a search needs of that state, immutable |

pub mod commands;
pub mod engine;
pub mod formation;
pub mod ids;
pub mod job_commands;
pub mod journal;
pub mod log;
pub mod raft;
pub mod routing;
pub mod tables;
pub mod topology_commands;
