//! `/indexes/{uid}/settings` and `/indexes/{uid}/settings/{name}`.
//!
//! Writes answer `202` with a task, also for an index that doesn't exist: `PATCH` and `PUT`
//! create it, `DELETE` fails as a task.

use std::sync::Arc;

use miroir_wire::engine_version::EngineVersion;
use miroir_wire::error::ApiError;
use miroir_wire::index::{API_VERSION, check_index_uid};
use miroir_wire::settings::{Settings, patch_from_sub_route};

use super::answer::{self, Answer, Refusal};
use super::{Call, Node};
use crate::engine::NewTask;

/// `GET …/settings`
pub(super) async fn get_all(node: &Arc<Node>, uid: String) -> Result<Answer, Refusal> {
    let settings = read(node, uid).await?;
    answer::ok(&settings.effective())
}

/// `PATCH …/settings`
pub(super) async fn update_all(
    node: &Arc<Node>,
    call: &mut Call,
    uid: String,
) -> Result<Answer, Refusal> {
    let settings = Settings::from_json(&call.json().await?)?;
    EngineVersion::parse(API_VERSION).check_settings(&settings, ".rankingRules")?;
    enqueue(node, call, uid, settings, false).await
}

/// `DELETE …/settings`
pub(super) async fn reset_all(
    node: &Arc<Node>,
    call: &Call,
    uid: String,
) -> Result<Answer, Refusal> {
    enqueue(node, call, uid, Settings::reset_all(), true).await
}

/// `GET …/settings/{name}`
pub(super) async fn get_one(node: &Arc<Node>, uid: String, name: &str) -> Result<Answer, Refusal> {
    let settings = read(node, uid).await?;
    answer::ok(&settings.effective_sub_route(name))
}

/// `PUT` or `PATCH …/settings/{name}`
pub(super) async fn update_one(
    node: &Arc<Node>,
    call: &mut Call,
    uid: String,
    name: &str,
) -> Result<Answer, Refusal> {
    let settings = patch_from_sub_route(name, Some(&call.json().await?))?;
    EngineVersion::parse(API_VERSION).check_settings(&settings, "")?;
    enqueue(node, call, uid, settings, false).await
}

/// `DELETE …/settings/{name}`
pub(super) async fn reset_one(
    node: &Arc<Node>,
    call: &Call,
    uid: String,
    name: &str,
) -> Result<Answer, Refusal> {
    let settings = patch_from_sub_route(name, None)?;
    enqueue(node, call, uid, settings, true).await
}

async fn read(node: &Arc<Node>, uid: String) -> Result<Settings, Refusal> {
    check_index_uid(&uid)?;
    node.blocking(move |node| -> Result<_, ApiError> { node.engine.settings(&uid) }).await
}

async fn enqueue(
    node: &Arc<Node>,
    call: &Call,
    uid: String,
    settings: Settings,
    is_deletion: bool,
) -> Result<Answer, Refusal> {
    check_index_uid(&uid)?;
    let allow_index_creation = call.grant.may_create_index(&uid);
    let task = NewTask::SettingsUpdate {
        index: uid,
        new_settings: Box::new(settings),
        is_deletion,
        allow_index_creation,
    };
    node.enqueue(call, task).await
}
