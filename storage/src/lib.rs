//! What this pod keeps on disk, and what all pods agree on.
//!
//! | module | holds |
//! |---|---|
//! | [`engine`] | ordered tables with atomic batches: sled, or memory in the simulation |
//! | [`journal`] | the durable, bounded store of acknowledged payloads |
//! | [`ids`], [`commands`] | the words of the coordinator log |
//! | [`tables`] | its state, and the one function that changes it |
//! | [`routing`] | what a search needs of that state, immutable |

pub mod commands;
pub mod engine;
pub mod ids;
pub mod journal;
pub mod routing;
pub mod tables;
