//! The HTTP front: routes, auth, query planning, scatter and the exact merge.
//!
//! A read goes one way: [`router`] → [`auth`] → [`search`] or [`documents_read`] (parse, resolve
//! the index against one routing view) → [`plan`] (which nodes, which shards) → [`scatter`] (the
//! calls, and what to do when one fails) → [`merge`]. It takes no lock, waits for no actor and
//! writes no log. Rules are pure and apart from I/O: [`plan`], [`node_query`], [`node_error`],
//! [`merge`].

pub mod context;
pub mod disguise;
pub mod failure;
pub mod json_scan;
pub mod merge;
pub mod node_error;
pub mod node_query;
pub mod plan;
pub mod read_settings;
pub mod scatter;
pub mod documents_read;
pub mod search;
pub mod stats;
