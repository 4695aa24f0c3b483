//! Who is there, what belongs where, and how pods talk to each other.
//!
//! [`placement`] maps documents to shards and shards to nodes; [`health`] decides from missed
//! and answered checks which nodes may be used. Both are pure; the actors above perform.
//!
//! Pods that know one of the [`secrets`] of the cluster call each other over a [`link`] and learn
//! of each other by [`gossip`]; whoever knows none learns nothing and changes nothing.

pub mod gossip;
pub mod health;
pub mod link;
pub mod placement;
mod rarely;
pub mod secrets;
