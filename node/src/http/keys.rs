//! `/keys`: the API keys of this node.
//!
//! | method, path | right | answers |
//! |---|---|---|
//! | `GET /keys` | `keys.get` | 200, the newest first; 400 |
//! | `POST /keys` | `keys.create` | 201; 400; 409 `api_key_already_exists` |
//! | `GET /keys/{key}` | `keys.get` | 200; 404 `api_key_not_found` |
//! | `PATCH /keys/{key}` | `keys.update` | 200; 400; 404 |
//! | `DELETE /keys/{key}` | `keys.delete` | 204; 404 |
//!
//! `{key}` is a uid or a value.

use std::sync::Arc;

use http::StatusCode;
use miroir_wire::access::{RingKey, find_key, no_master_key, value_of};
use miroir_wire::error::ApiError;
use miroir_wire::keys::{
    CreateKey, KeyView, PatchKey, key_already_exists, key_not_found, page_from_query_string,
};
use miroir_wire::settings::Setting;

use super::answer::{self, Answer, Refusal};
use super::routes::KeyRoute;
use super::{Call, Node};
use crate::keys::NodeKeys;

/// Answers a request below `/keys`.
pub(super) async fn serve(
    node: &Arc<Node>,
    call: &mut Call,
    route: KeyRoute,
) -> Result<Answer, Refusal> {
    let keys = keys(node)?;
    match route {
        KeyRoute::List => {
            let page = page_from_query_string(call.query())?;
            let ring = keys.ring();
            answer::ok(&page.of(ring.newest_first().into_iter().map(view)))
        }
        KeyRoute::Get(asked) => answer::ok(&view(&*find_key(&keys.ring(), &asked)?)),
        KeyRoute::Create => {
            let now = node.seams.clock.now();
            let asked = CreateKey::from_json(&call.json().await?, now)?;
            let key = asked.into_key(|| node.seams.entropy.uuid(), now);
            let value = value_of(keys.master_key(), &key.uid);
            let created = key.clone();
            change(node, move |keys| {
                keys.change(|keys| match keys.contains_key(&key.uid) {
                    true => Err(key_already_exists(&key.uid)),
                    false => Ok(keys.insert(key.uid.clone(), key)),
                })
            })
            .await?;
            answer::json(StatusCode::CREATED, &KeyView::new(&created, &value))
        }
        KeyRoute::Patch(asked) => {
            let PatchKey { name, description } = PatchKey::from_json(&call.json().await?)?;
            let uid = find_key(&keys.ring(), &asked)?.key.uid.clone();
            let (patched, now) = (uid.clone(), node.seams.clock.now());
            change(node, move |keys| {
                keys.change(|keys| {
                    let key = keys.get_mut(&patched).ok_or_else(|| key_not_found(&patched))?;
                    lay_over(&mut key.name, name);
                    lay_over(&mut key.description, description);
                    key.updated_at = now;
                    Ok(())
                })
            })
            .await?;
            answer::ok(&view(&*find_key(&keys.ring(), &uid)?))
        }
        KeyRoute::Delete(asked) => {
            let uid = find_key(&keys.ring(), &asked)?.key.uid.clone();
            change(node, move |keys| {
                keys.change(|keys| keys.remove(&uid).ok_or_else(|| key_not_found(&asked)))
            })
            .await?;
            Ok(answer::empty(StatusCode::NO_CONTENT))
        }
    }
}

/// The node's keys. Without a master key nobody gets here: no right to `/keys` is given then.
fn keys(node: &Node) -> Result<&NodeKeys, ApiError> {
    node.keys.as_ref().ok_or_else(no_master_key)
}

/// Makes a change where it may block.
async fn change<T: Send + 'static>(
    node: &Arc<Node>,
    change: impl FnOnce(&NodeKeys) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, Refusal> {
    node.blocking(move |node| change(keys(node)?)).await
}

fn view(key: &RingKey) -> KeyView<'_> {
    KeyView::new(&key.key, &key.value)
}

fn lay_over(text: &mut Option<String>, change: Setting<String>) {
    match change {
        Setting::NotSet => {}
        Setting::Reset => *text = None,
        Setting::Set(new) => *text = Some(new),
    }
}
