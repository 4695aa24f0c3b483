//! Every concern of a pod as a supervised actor. Start reading at [`pod`].
//!
//! | module | owns |
//! |---|---|
//! | [`pod`] | the supervision tree and the feed from the log |
//! | [`accept`] | journal, then log: what makes a write acknowledged |
//! | [`writer`] | one index's order of writes |
//! | [`lane`] | the stream of writes to one (index, node) |
//! | [`operation`] | settings in two phases; creation, change, deletion of an index |
//! | [`replica_copy`] | filling a replica from others |
//! | [`node_tasks`] | following one node's tasks |
//! | [`sent_tasks`] | which tasks of the nodes are ours, which requests may come late |
//! | [`disk_lives`] | which nodes have lost their disks |
//! | [`health_checker`] | which nodes are down |
//! | [`index_janitor`] | removing what the log does not know |
//! | [`registrar`] | tasks that no index owns |
//! | [`task_pruner`] | the pace at which old tasks are removed |
//! | [`anti_entropy`] | when replicas are compared, and what differs |
//! | [`drift_checker`] | when nodes' settings are read back |
//! | [`shares`] | which items of a background pass this pod does |
//! | [`peers`] | the pods that live, and calls to them |
//! | [`copies`] | payloads in the journals of two pods |
//! | [`journal_keeper`] | giving back payloads that no open task needs |
//! | [`jobs`] | taking in jobs and their chunks |
//! | [`job_worker`] | which chunks of jobs this pod works on, and the work on them |
//! | [`coordinator`] | which pod holds which role |
//! | [`peer_watcher`] | from gossip to the view of the peers |
//! | [`inspect`] | what every actor is at; the only way to start one and to send to it |
//! | [`restarts`] | how long an actor that failed waits |
//! | [`registration`] | telling the log what the configuration says |
//! | [`drain`] | handing over before a pod stops |
//! | [`leave`] | leaving the cluster for good |
//! | [`peer_service`] | what other pods may ask of this one |
//!
//! Pure rules live beside the actor that uses them: [`prepare`], [`node_settings`],
//! [`payload`], [`task_details`], [`move_hours`], `writer::entries`, `writer::lanes`, `lane::job`.

pub mod accept;
pub mod anti_entropy;
pub mod coordinator;
pub mod copies;
pub mod disk_lives;
pub mod drain;
pub mod drift_checker;
pub mod edit_function;
pub mod fencing;
pub mod health_checker;
pub mod index_janitor;
pub mod inspect;
pub mod job_worker;
pub mod jobs;
pub mod journal_keeper;
pub mod lane;
pub mod leave;
pub mod move_hours;
pub mod node_calls;
pub mod node_disks;
pub mod node_features;
pub mod node_settings;
pub mod node_tasks;
pub mod operation;
pub mod payload;
pub mod peer_service;
pub mod peer_watcher;
pub mod peers;
pub mod pod;
pub mod prepare;
pub mod rebalancer;
pub mod registrar;
pub mod registration;
pub mod replica_copy;
pub mod restarts;
pub mod sent_tasks;
pub mod shares;
pub mod task_details;
pub mod task_pruner;
pub mod webhook_sender;
pub mod writer;
