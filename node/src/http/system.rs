//! `/`, `/health`, `/version`, `/stats`, `/experimental-features`.

use std::sync::Arc;

use miroir_wire::error::{ApiError, Code};
use miroir_wire::features::{FeaturesPatch, shown};
use miroir_wire::index::{Health, Version};
use serde_json::json;

use super::answer::{self, Answer, Refusal};
use super::{Call, Node};
use crate::engine::Features;

/// `GET /`: says that something is here.
pub(super) fn running() -> Result<Answer, Refusal> {
    answer::ok(&json!({ "status": "Meilisearch is running" }))
}

/// `GET /health`
pub(super) fn health() -> Result<Answer, Refusal> {
    answer::ok(&Health::default())
}

/// `GET /version`: the Meilisearch release whose engine and behaviour this node has.
pub(super) fn version() -> Result<Answer, Refusal> {
    answer::ok(&Version::default())
}

/// `GET /stats`: of the indexes that may be seen. Sizes are those of all, as in Meilisearch.
pub(super) async fn stats(node: &Arc<Node>, call: &Call) -> Result<Answer, Refusal> {
    let mut stats = node.blocking(|node| node.engine.stats()).await?;
    stats.indexes.retain(|index, _| call.grant.allows_index(index));
    answer::ok(&stats)
}

/// `GET /experimental-features`
pub(super) fn features(node: &Arc<Node>) -> Result<Answer, Refusal> {
    answer::ok(&shown(&node.engine.features().all()))
}

/// `PATCH /experimental-features`: what this node has nothing of can't be switched on.
pub(super) async fn switch_features(node: &Arc<Node>, call: &mut Call) -> Result<Answer, Refusal> {
    let patch = FeaturesPatch::from_json(&call.json().await?)?;
    let is_wrong = |(name, on): &(&str, Option<bool>)| *on == Some(true) && !Features::knows(name);
    if let Some((name, _)) = patch.all().into_iter().find(is_wrong) {
        return Err(answer::not_supported(&format!("the experimental feature `{name}`")));
    }
    if patch.all().iter().any(|(name, on)| on.is_some() && Features::knows(name)) {
        node.blocking(move |node| {
            let kept = node.engine.features().switch(&patch);
            kept.map_err(|error| ApiError::new(Code::IoError, error.to_string()))
        })
        .await?;
    }
    features(node)
}
