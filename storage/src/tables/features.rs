//! Experimental features of nodes, as operators switched them: one record in `META`.
//!
//! Written by `SwitchFeatures`, whose features are laid over those before. What was never switched is as
//! each node has it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::records::{Record, decode, encode};
use super::{ApplyError, META};
use crate::commands::Outcome;
use crate::engine::{Engine, Tx};

const FEATURES: &[u8] = b"features";

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct FeaturesRecord {
    /// By Meilisearch's name.
    switched: BTreeMap<String, bool>,
}

impl Record for FeaturesRecord {
    const VERSION: u8 = 1;
    const NAME: &'static str = "features";
}

/// Lays `features` over those that were switched before.
pub(crate) fn switch(
    tx: &mut Tx<'_>,
    features: &BTreeMap<String, bool>,
) -> Result<Outcome, ApplyError> {
    let before = match tx.get(META, FEATURES)? {
        Some(bytes) => decode(&bytes)?,
        None => FeaturesRecord::default(),
    };
    let mut after = before.clone();
    after.switched.extend(features.iter().map(|(name, on)| (name.clone(), *on)));
    if after == before {
        return Ok(Outcome::Unchanged);
    }
    tx.put(META, FEATURES, encode(&after)?);
    Ok(Outcome::Done)
}

/// What was switched, on or off.
///
/// # Errors
/// When the store fails or the record can't be read.
pub fn load(engine: &dyn Engine) -> Result<BTreeMap<String, bool>, ApplyError> {
    match engine.get(META, FEATURES)? {
        Some(bytes) => Ok(decode::<FeaturesRecord>(&bytes)?.switched),
        None => Ok(BTreeMap::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::Command;
    use crate::engine::{Durability, MemoryEngine};
    use crate::tables::{apply, touches_routing};

    #[test]
    fn switches_are_laid_over_those_before() {
        let engine = MemoryEngine::default();
        let switch = |features: &[(&str, bool)]| {
            let features = features.iter().map(|(name, on)| ((*name).to_owned(), *on)).collect();
            let command = Command::SwitchFeatures { features };
            let mut tx = Tx::new(&engine);
            let outcome = apply(&mut tx, 1, &command).expect("memory does not fail");
            engine.commit(tx.into_batch(), Durability::Lazy).expect("memory does not fail");
            (touches_routing(&command, &outcome), load(&engine).expect("readable"))
        };
        let on = |features: &[(&str, bool)]| {
            features.iter().map(|(name, on)| ((*name).to_owned(), *on)).collect::<BTreeMap<_, _>>()
        };
        assert_eq!(switch(&[("a", true), ("b", true)]), (true, on(&[("a", true), ("b", true)])));
        assert_eq!(switch(&[("b", false)]), (true, on(&[("a", true), ("b", false)])));
        assert!(!switch(&[("b", false)]).0, "nothing changes");
    }
}
