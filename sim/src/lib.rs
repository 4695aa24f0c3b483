//! Deterministic simulation: whole pods, with their real log, journal and actors, on model
//! nodes, in one process on virtual time. One seed makes the world; the same seed gives the
//! same trace, byte for byte.
//!
//! | module | is |
//! |---|---|
//! | [`plan`] | what a seed makes of the world |
//! | [`model_node`] | a Meilisearch server as a pod meets it |
//! | [`network`] | the way to the nodes, and what goes wrong on it |
//! | [`disk`], [`pod`] | disks that forget, pods that crash |
//! | [`operation`], [`workload`], [`history`] | what clients write, and what they know of it |
//! | [`expected`], [`invariants`] | what must hold |
//! | [`faults`] | what goes wrong with nodes and pods |
//! | [`run`] | one run: faults, healing, checks |
//! | [`trace`], [`dice`] | the record, and the choices |
//!
//! The binary `sim` runs, replays and searches; it also makes `getrandom` follow the seed.

pub mod dice;
pub mod disk;
pub mod expected;
pub mod faults;
pub mod history;
pub mod invariants;
pub mod model_node;
pub mod network;
pub mod operation;
pub mod plan;
pub mod pod;
pub mod run;
pub mod trace;
pub mod workload;
