//! `/keys`: the API keys, answered by every pod from agreed state.
//!
//! | method, path | right | answers |
//! |---|---|---|
//! | `GET /keys` | `keys.get` | 200, the newest first; 400 |
//! | `POST /keys` | `keys.create` | 201; 400; 409 `api_key_already_exists`; 503 |
//! | `GET /keys/{key}` | `keys.get` | 200; 404 `api_key_not_found` |
//! | `PATCH /keys/{key}` | `keys.update` | 200; 400; 404; 503 |
//! | `DELETE /keys/{key}` | `keys.delete` | 204; 404; 503 |
//!
//! `{key}` is a uid or a value. Without a master key all of them answer 401 `missing_master_key`.

use miroir_storage::commands::{Command, Outcome};
use miroir_storage::routing::to_nanoseconds;
use miroir_storage::tables::api_keys::{API_KEYS_MAX, ApiKeyPatch, ApiKeyRecord};
use miroir_wire::access::{RingKey, find_key, no_master_key, value_of};
use miroir_wire::error::{ApiError, Code};
use miroir_wire::keys::{
    CreateKey, KeyView, PatchKey, key_already_exists, key_not_found, page_from_query_string,
};
use miroir_wire::settings::Setting;

use crate::context::{GatewayContext, RequestParts};
use crate::reply::Reply;
use crate::router::KeyRoute;

/// Answers one request.
///
/// # Errors
/// See the table above.
pub async fn answer(
    context: &GatewayContext,
    route: &KeyRoute,
    request: &RequestParts,
) -> Result<Reply, ApiError> {
    let Some(master_key) = &context.config.master_key else {
        // No right to `/keys` was given without one.
        return Err(no_master_key());
    };
    let ring = || context.rings.of(master_key, &context.routing.routing().api_keys);
    match route {
        KeyRoute::List => {
            let page = page_from_query_string(&request.query)?;
            // Asked rarely, and often by who has just made a key on another pod.
            context.log.catch_up().await;
            let ring = ring();
            let keys = ring.newest_first();
            Ok(Reply::json(200, &page.of(keys.into_iter().map(view))))
        }
        KeyRoute::Get { key } => Ok(Reply::json(200, &view(find_key(&ring(), key)?.as_ref()))),
        KeyRoute::Create => {
            let now = context.seams.clock.now();
            let asked = CreateKey::from_json(&request.body, now)?;
            let key = asked.into_key(|| context.seams.entropy.uuid(), now);
            let put = Command::PutApiKey(Box::new(ApiKeyRecord::from(&key)));
            match context.log.change_keys(put).await? {
                Outcome::Unchanged => Err(key_already_exists(&key.uid)),
                Outcome::TooMany => Err(ApiError::new(
                    Code::BadRequest,
                    format!(
                        "There are {API_KEYS_MAX} API keys, the most there may be. Delete some first, or sign tenant tokens."
                    ),
                )),
                _ => {
                    let value = value_of(master_key, &key.uid);
                    Ok(Reply::json(201, &KeyView::new(&key, &value)))
                }
            }
        }
        KeyRoute::Patch { key } => {
            let PatchKey { name, description } = PatchKey::from_json(&request.body)?;
            let uid = find_key(&ring(), key)?.key.uid.clone();
            let at = to_nanoseconds(context.seams.clock.now());
            let (name, description) = (changed(name), changed(description));
            let patch = ApiKeyPatch { uid: uid.clone(), name, description, at };
            context.log.change_keys(Command::PatchApiKey(patch)).await?;
            // As it is now; gone if it was deleted meanwhile.
            Ok(Reply::json(200, &view(find_key(&ring(), &uid)?.as_ref())))
        }
        KeyRoute::Delete { key } => {
            let uid = find_key(&ring(), key)?.key.uid.clone();
            match context.log.change_keys(Command::DeleteApiKey { uid }).await? {
                Outcome::Unchanged => Err(key_not_found(key)),
                _ => Ok(Reply::empty(204)),
            }
        }
    }
}

fn view(key: &RingKey) -> KeyView<'_> {
    KeyView::new(&key.key, &key.value)
}

fn changed(setting: Setting<String>) -> Option<Option<String>> {
    match setting {
        Setting::NotSet => None,
        Setting::Reset => Some(None),
        Setting::Set(text) => Some(Some(text)),
    }
}
