//! `/`, `/health`, `/version`, `/stats`.

use std::sync::Arc;

use miroir_wire::index::{Health, Version};
use serde_json::json;

use super::answer::{self, Answer, Refusal};
use super::{Call, Node};

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
