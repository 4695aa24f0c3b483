//! `/webhooks`: whom to tell of tasks that have ended.
//!
//! | method, path | right | answers |
//! |---|---|---|
//! | `GET /webhooks` | `webhooks.get` | 200 |
//! | `POST /webhooks` | `webhooks.create` | 201; 400; 503 |
//! | `GET /webhooks/{uuid}` | `webhooks.get` | 200; 400 `invalid_webhook_uuid`; 404 `webhook_not_found` |
//! | `PATCH /webhooks/{uuid}` | `webhooks.update` | 200; 400; 404; 503 |
//! | `DELETE /webhooks/{uuid}` | `webhooks.delete` | 204; 400; 404; 503 |
//!
//! They are sent by [`miroir_actors::webhook_sender`].

use miroir_storage::commands::{Command, Outcome};
use miroir_storage::tables::webhooks::{WEBHOOKS_MAX, WebhookRecord, all, read};
use miroir_wire::error::ApiError;
use miroir_wire::webhooks::{
    Webhook, WebhookPatch, WebhookView, read_webhook_uuid, too_many_webhooks, webhook_not_found,
};
use serde_json::json;

use super::tasks::store_failed;
use super::{Reply, Writes, propose};

/// `GET /webhooks`.
///
/// # Errors
/// `internal` when the store can't be read.
pub fn list(pod: &Writes<'_>) -> Result<Reply, ApiError> {
    let webhooks = all(pod.log.engine().as_ref()).map_err(store_failed)?;
    let views: Vec<WebhookView> = webhooks.into_iter().map(|record| shown(&record)).collect();
    Ok(Reply::json(200, &json!({ "results": views })))
}

/// `GET /webhooks/{uuid}`.
///
/// # Errors
/// `invalid_webhook_uuid`, `webhook_not_found`.
pub fn get(pod: &Writes<'_>, uuid: &str) -> Result<Reply, ApiError> {
    Ok(Reply::json(200, &shown(&find(pod, uuid)?)))
}

/// `POST /webhooks`.
///
/// # Errors
/// `invalid_webhook*`, and those of any JSON body; 503s.
pub async fn create(pod: &Writes<'_>, body: &[u8]) -> Result<Reply, ApiError> {
    let uuid = pod.seams.entropy.uuid();
    let webhook = WebhookPatch::from_json(body)?.lay_over(&uuid, Webhook::default())?;
    keep(pod, 201, uuid, webhook).await
}

/// `PATCH /webhooks/{uuid}`.
///
/// # Errors
/// `invalid_webhook*`, `immutable_webhook_*`, `webhook_not_found`; 503s.
pub async fn update(pod: &Writes<'_>, uuid: &str, body: &[u8]) -> Result<Reply, ApiError> {
    let patch = WebhookPatch::from_json(body)?;
    let before = find(pod, uuid)?;
    let webhook = patch.lay_over(&before.uuid, webhook(&before))?;
    keep(pod, 200, before.uuid, webhook).await
}

/// `DELETE /webhooks/{uuid}`.
///
/// # Errors
/// `invalid_webhook_uuid`, `webhook_not_found`; 503s.
pub async fn delete(pod: &Writes<'_>, uuid: &str) -> Result<Reply, ApiError> {
    let uuid = find(pod, uuid)?.uuid;
    match propose(pod, &Command::DeleteWebhook { uuid: uuid.clone() }).await? {
        Outcome::Unchanged => Err(webhook_not_found(&uuid)),
        _ => Ok(Reply::empty(204)),
    }
}

async fn keep(
    pod: &Writes<'_>,
    status: u16,
    uuid: String,
    webhook: Webhook,
) -> Result<Reply, ApiError> {
    let Webhook { url, headers } = webhook;
    let headers = headers.into_iter().collect();
    let record = WebhookRecord { uuid, url, headers, next: 0 };
    match propose(pod, &Command::PutWebhook(Box::new(record.clone()))).await? {
        Outcome::TooMany => Err(too_many_webhooks(WEBHOOKS_MAX)),
        _ => Ok(Reply::json(status, &shown(&record))),
    }
}

fn find(pod: &Writes<'_>, uuid: &str) -> Result<WebhookRecord, ApiError> {
    let uuid = read_webhook_uuid(uuid)?;
    let found = read(pod.log.engine().as_ref(), &uuid).map_err(store_failed)?;
    found.ok_or_else(|| webhook_not_found(&uuid))
}

fn webhook(record: &WebhookRecord) -> Webhook {
    Webhook { url: record.url.clone(), headers: record.headers.iter().cloned().collect() }
}

fn shown(record: &WebhookRecord) -> WebhookView {
    WebhookView::new(&record.uuid, &webhook(record))
}
