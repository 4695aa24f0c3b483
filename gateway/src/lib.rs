//! The HTTP front: routes, auth, query planning, scatter and the exact merge.
//!
//! A read goes one way: [`handle`] ([`router`], [`rights`], [`auth`]) → [`search`], [`facet_search`],
//! [`mod@similar`], [`federated`], [`documents_read`] or [`stats`] (resolve the index against one routing view) → [`plan`] (which nodes, which shards)
//! → [`scatter`] (the calls, and what to do when one fails or is [`late`]) → [`merge`]. It takes no lock, waits
//! for no actor and writes no log. Rules are pure and apart from I/O: [`plan`], [`node_query`],
//! [`node_error`], [`disguise`], [`merge`].
//!
//! A write goes through [`log_routes`] to [`writes`], which hands it to the index's writer.
//! Operators' questions go to [`admin`], their jobs to [`jobs`].

pub mod admin;
pub mod admin_pod;
pub mod auth;
pub mod comparisons;
mod compress;
pub mod context;
pub mod cors;
pub mod disguise;
pub mod documents_read;
mod documents_sorted;
pub mod facet_search;
pub mod failure;
pub mod features;
pub mod federated;
pub mod handle;
mod hybrid_search;
pub mod intake;
pub mod jobs;
mod jobs_pod;
mod jobs_stream;
pub mod json_scan;
pub mod key_news;
pub mod key_ring;
pub mod keys;
pub mod late;
pub mod log_routes;
pub mod marks;
pub mod merge;
pub mod metrics;
pub mod multi_search;
pub mod node_error;
pub mod node_lists;
pub mod node_query;
pub mod plan;
pub mod read_settings;
pub mod reply;
pub mod reshard;
mod reshard_pod;
pub mod rights;
pub mod router;
pub mod scatter;
pub mod search;
mod second_round;
pub mod server;
pub mod similar;
mod stall_guard;
pub mod stats;
pub mod surface;
pub mod topology;
mod topology_pod;
pub mod traffic;
pub mod webhook_outlet;
pub mod window;
pub mod writes;
