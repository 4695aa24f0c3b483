//! `/indexes`, `/indexes/{uid}`, `/indexes/{uid}/stats`, `/swap-indexes`.

use std::sync::Arc;

use miroir_wire::access::invalid_key;
use miroir_wire::index::{CreateIndex, Page, UpdateIndex, check_index_uid, swaps_from_json};

use super::answer::{self, Answer, Refusal};
use super::{Call, Node};
use crate::engine::NewTask;

/// `GET /indexes`
pub(super) async fn list(node: &Arc<Node>, call: &Call) -> Result<Answer, Refusal> {
    let page = Page::from_query_string(call.query())?;
    let all = node.blocking(|node| node.engine.indexes()).await?;
    let seen: Vec<_> =
        all.into_iter().filter(|index| call.grant.allows_index(&index.uid)).collect();
    answer::ok(&page.of(seen.into_iter()))
}

/// `POST /indexes`
pub(super) async fn create(node: &Arc<Node>, call: &mut Call) -> Result<Answer, Refusal> {
    let CreateIndex { uid, primary_key } = CreateIndex::from_json(&call.json().await?)?;
    if !call.grant.may_create_index(&uid) {
        return Err(invalid_key().into());
    }
    node.enqueue(call, NewTask::IndexCreation { index: uid, primary_key }).await
}

/// `GET /indexes/{uid}`
pub(super) async fn get(node: &Arc<Node>, uid: String) -> Result<Answer, Refusal> {
    check_index_uid(&uid)?;
    let view = node.blocking(move |node| node.engine.index_view(&uid)).await?;
    answer::ok(&view)
}

/// `PATCH /indexes/{uid}`
pub(super) async fn update(
    node: &Arc<Node>,
    call: &mut Call,
    uid: String,
) -> Result<Answer, Refusal> {
    let UpdateIndex { primary_key, uid: new_name } = UpdateIndex::from_json(&call.json().await?)?;
    check_index_uid(&uid)?;
    if let Some(name) = &new_name {
        call.grant.check_index(name)?;
    }
    node.enqueue(call, NewTask::IndexUpdate { index: uid, primary_key, new_name }).await
}

/// `DELETE /indexes/{uid}`
pub(super) async fn delete(node: &Arc<Node>, call: &Call, uid: String) -> Result<Answer, Refusal> {
    check_index_uid(&uid)?;
    node.enqueue(call, NewTask::IndexDeletion { index: uid }).await
}

/// `GET /indexes/{uid}/stats`
pub(super) async fn stats(node: &Arc<Node>, uid: String) -> Result<Answer, Refusal> {
    check_index_uid(&uid)?;
    let stats = node.blocking(move |node| node.engine.index_stats(&uid)).await?;
    answer::ok(&stats)
}

/// `POST /swap-indexes`
pub(super) async fn swap(node: &Arc<Node>, call: &mut Call) -> Result<Answer, Refusal> {
    let swaps = swaps_from_json(&call.json().await?)?;
    for index in swaps.iter().flat_map(|swap| [&swap.names.0, &swap.names.1]) {
        call.grant.check_index(index)?;
    }
    node.enqueue(call, NewTask::IndexSwap { swaps }).await
}
