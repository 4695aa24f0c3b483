//! Deterministic simulation: whole pods, with their real log, journal and actors, on model
//! nodes, in one process on virtual time. One seed makes the world; the same seed gives the
//! same trace, byte for byte.
//!
//! | module | is |
//! |---|---|
//! | [`plan`] | what a seed makes of the world |
//! | [`model_node`] | a Meilisearch server as a pod meets it |
//! | [`network`] | the way to the nodes, and what goes wrong on it |
//! | [`peer_network`] | the way between pods, and what goes wrong on it |
//! | [`disk`], [`pod`], [`cluster`] | disks that forget, pods that crash, all of them together |
//! | [`entrance`] | the way of clients into pods: the real gateway, without sockets |
//! | [`client`], [`reader`] | who writes, who reads |
//! | [`ledger`] | what the pods applied |
//! | [`operation`], [`workload`], [`history`] | what clients write, and what they know of it |
//! | [`expected`], [`invariants`] | what must hold |
//! | [`faults`], [`pod_faults`] | what goes wrong with nodes and pods |
//! | [`topology_orders`] | what operators make of the topology meanwhile |
//! | [`without`] | what is left out of a world to see a failure better |
//! | [`run`] | one run: faults, healing, checks |
//! | [`conformance`] | the model node held against a real one |
//! | [`scale`] | gossip of very many pods, apart from all that |
//! | [`trace`], [`dice`] | the record, and the choices |
//!
//! The binary `sim` runs, replays and searches; it also makes `getrandom` follow the seed.

pub mod asked;
pub mod client;
pub mod cluster;
pub mod conformance;
pub mod dice;
pub mod disk;
pub mod entrance;
pub mod expected;
pub mod faults;
pub mod history;
pub mod invariants;
pub mod ledger;
pub mod model_node;
pub mod network;
pub mod operation;
pub mod peer_network;
pub mod plan;
pub mod pod;
pub mod pod_faults;
pub mod reader;
pub mod run;
pub mod scale;
pub(crate) mod task_list;
pub mod topology_orders;
pub mod trace;
pub mod vandals;
pub mod without;
pub mod workload;
