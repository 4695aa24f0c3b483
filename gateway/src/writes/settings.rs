//! `/indexes/{uid}/settings` and each sub-route.
//!
//! Reads answer from agreed state, in Meilisearch's full form. Writes are checked here and
//! then broadcast in two phases by the index's writer.

use miroir_actors::accept::{RequestedWork, WriteRequest};
use miroir_actors::pod::PodContext;
use miroir_storage::commands::Work;
use miroir_wire::engine_version::EngineVersion;
use miroir_wire::error::{ApiError, Code};
use miroir_wire::index::check_index_uid;
use miroir_wire::reserved::{holds_token_digit, is_reserved};
use miroir_wire::settings::Settings;
use miroir_wire::tasks::Kind;
use serde_json::Value;

use super::{Reply, Writes, accepted, reserved_field};

/// `GET …/settings`.
///
/// # Errors
/// `index_not_found`.
pub fn get(pod: &PodContext, name: &str) -> Result<Reply, ApiError> {
    let settings = shown(pod, name)?;
    Ok(Reply::json(200, &settings.effective()))
}

/// `GET …/settings/{sub-route}`.
///
/// # Errors
/// `index_not_found`.
pub fn get_one(pod: &PodContext, name: &str, route: &str) -> Result<Reply, ApiError> {
    let settings = shown(pod, name)?;
    Ok(Reply::json(200, &settings.effective_sub_route(route)))
}

fn shown(pod: &PodContext, name: &str) -> Result<Settings, ApiError> {
    check_index_uid(name)?;
    let routing = pod.log.routing();
    let index = routing.indexes.get(name).ok_or_else(|| ApiError::index_not_found(name))?;
    let mut settings = (*index.settings).clone();
    settings.hide_secrets();
    Ok(settings)
}

/// `PATCH …/settings`; without a body `DELETE`.
///
/// # Errors
/// Meilisearch's own for each setting; `miroir_reserved_field`; 503s.
pub async fn change(pod: &Writes<'_>, name: &str, body: Option<&[u8]>) -> Result<Reply, ApiError> {
    check_index_uid(name)?;
    let patch = match body {
        Some(body) => Settings::from_json(body)?,
        None => Settings::reset_all(),
    };
    check_known(pod, &patch, ".rankingRules")?;
    accept_patch(pod, name, &patch, body.is_none()).await
}

/// `PUT` or `PATCH …/settings/{sub-route}`; without a body `DELETE`.
///
/// # Errors
/// As [`change`].
pub async fn change_one(
    pod: &Writes<'_>,
    name: &str,
    route: &str,
    body: Option<&[u8]>,
) -> Result<Reply, ApiError> {
    check_index_uid(name)?;
    let patch = Settings::patch_from_sub_route(route, body)?;
    check_known(pod, &patch, "")?;
    accept_patch(pod, name, &patch, body.is_none()).await
}

/// Refuses what the oldest node does not know, as it would.
fn check_known(pod: &PodContext, patch: &Settings, rules_at: &str) -> Result<(), ApiError> {
    match pod.health.oldest_version.load().as_ref() {
        Some(oldest) => EngineVersion::parse(oldest).check_settings(patch, rules_at),
        None => Ok(()),
    }
}

async fn accept_patch(
    pod: &Writes<'_>,
    name: &str,
    patch: &Settings,
    is_deletion: bool,
) -> Result<Reply, ApiError> {
    let json = serde_json::to_value(patch).unwrap_or_default();
    check_reserved(&json)?;
    let request = WriteRequest {
        index: Some(name.to_owned()),
        work: RequestedWork::Plain(Work::Settings { patch: json.to_string(), is_deletion }),
        // A deletion of settings creates no index, as in Meilisearch.
        creates_index: !is_deletion && pod.grant.may_create_index(name),
        custom_metadata: None,
    };
    accepted(pod, Kind::SettingsUpdate, request).await
}

/// Refuses settings that name a reserved field, and tokens that would make its values
/// searchable.
fn check_reserved(patch: &Value) -> Result<(), ApiError> {
    for list in ["nonSeparatorTokens", "dictionary"] {
        let tokens = patch.get(list).and_then(Value::as_array);
        let code = match list {
            "dictionary" => Code::InvalidSettingsDictionary,
            _ => Code::InvalidSettingsNonSeparatorTokens,
        };
        for token in tokens.into_iter().flatten().filter_map(Value::as_str) {
            if holds_token_digit(token) {
                let message = format!(
                    "Invalid value at `.{list}`: `{token}` holds one of the characters `†`, `‡`, `§`, `¶`, `※`, `⁂`, `‖`, `¿`, which must stay separators."
                );
                return Err(ApiError::new(code, message));
            }
        }
    }
    for list in ["searchableAttributes", "filterableAttributes", "sortableAttributes"] {
        let names = patch.get(list).and_then(Value::as_array);
        if let Some(name) =
            names.into_iter().flatten().filter_map(Value::as_str).find(|name| is_reserved(name))
        {
            return Err(reserved_field(name));
        }
    }
    match patch.get("distinctAttribute").and_then(Value::as_str) {
        Some(name) if is_reserved(name) => Err(reserved_field(name)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn tokens_that_would_make_shards_searchable_are_refused() {
        assert!(check_reserved(&json!({"dictionary": ["a‡b"]})).is_err());
        assert!(check_reserved(&json!({"nonSeparatorTokens": ["¿"]})).is_err());
        assert!(check_reserved(&json!({"separatorTokens": ["¿"]})).is_ok());
        assert!(check_reserved(&json!({"filterableAttributes": ["_miroir_shard"]})).is_err());
    }
}
