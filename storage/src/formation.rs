//! What a pod without state has seen of a cluster that others begin.
//!
//! A pod that is to join a cluster may be stopped before it holds anything of it. Started again while those
//! that began the cluster are away, it must not begin a second one.

use crate::engine::{Batch, Durability, Engine, EngineError, Table};
use crate::ids::PodId;

/// This pod's own, not replicated.
const FORMATION: Table = Table(243);
const BEGINNER: &[u8] = b"beginner";

/// The pod that has begun the cluster, or may have, as this disk remembers it.
///
/// # Errors
/// See [`EngineError`].
pub fn beginner(engine: &dyn Engine) -> Result<Option<PodId>, EngineError> {
    let Some(bytes) = engine.get(FORMATION, BEGINNER)? else { return Ok(None) };
    let id = String::from_utf8(bytes)
        .map_err(|_| EngineError::Corrupt("the name of who began the cluster".to_owned()))?;
    Ok(Some(PodId(id)))
}

/// Remembers it for all later starts; synced when this returns.
///
/// # Errors
/// See [`EngineError`].
pub fn remember_beginner(engine: &dyn Engine, pod: &PodId) -> Result<(), EngineError> {
    let mut batch = Batch::new();
    batch.put(FORMATION, BEGINNER, pod.0.as_bytes());
    engine.commit(batch, Durability::Synced)
}
