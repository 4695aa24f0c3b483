//! Who is there, and what belongs where.
//!
//! [`placement`] maps documents to shards and shards to nodes; [`health`] decides from missed
//! and answered checks which nodes may be used. Both are pure; the actors above perform.

pub mod health;
pub mod placement;
