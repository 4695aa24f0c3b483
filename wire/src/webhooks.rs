//! Webhooks: whom to tell of tasks that have ended. Names, codes and texts are those of
//! Meilisearch 1.50.

use std::collections::BTreeMap;
use std::convert::Infallible;

use deserr::{DeserializeError, Deserr, ErrorKind, ValuePointerRef, take_cf_content};
use serde::Serialize;
use url::Url;
use uuid::Uuid;

use crate::error::{ApiError, Code, mark};
use crate::parse::{JsonFault, from_json, immutable};
use crate::settings::{Setting, hidden};

/// Headers of one webhook at most.
pub const HEADERS_MAX: usize = 200;

/// A webhook.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Webhook {
    /// Where ended tasks are sent.
    pub url: String,
    /// Headers that are sent along, by name.
    pub headers: BTreeMap<String, String>,
}

/// A webhook as clients see it: without what its `Authorization` is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WebhookView {
    uuid: String,
    is_editable: bool,
    url: String,
    headers: BTreeMap<String, String>,
}

impl WebhookView {
    /// The view of a webhook.
    pub fn new(uuid: &str, webhook: &Webhook) -> Self {
        let shown = |(name, value): (&String, &String)| {
            let is_secret = name.eq_ignore_ascii_case("authorization");
            (name.clone(), if is_secret { hidden_bearer(value) } else { value.clone() })
        };
        Self {
            uuid: uuid.to_owned(),
            is_editable: true,
            url: webhook.url.clone(),
            headers: webhook.headers.iter().map(shown).collect(),
        }
    }
}

fn hidden_bearer(value: &str) -> String {
    match value.split_once(' ') {
        Some(("Bearer", secret)) => format!("Bearer {}", hidden(secret)),
        _ => hidden(value),
    }
}

/// The body of `POST /webhooks` and `PATCH /webhooks/{uuid}`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserr)]
#[deserr(error = JsonFault, rename_all = camelCase, deny_unknown_fields = refuse_immutable)]
pub struct WebhookPatch {
    /// The new address.
    #[deserr(default, error = JsonFault<mark::InvalidWebhookUrl>)]
    pub url: Setting<String>,
    /// Headers that are set, or removed by `null`; all of them are by `null` for the whole.
    #[deserr(default, error = JsonFault<mark::InvalidWebhookHeaders>)]
    pub headers: Setting<BTreeMap<String, Setting<String>>>,
}

fn refuse_immutable(field: &str, accepted: &[&str], location: ValuePointerRef) -> JsonFault {
    match field {
        "uuid" => immutable(field, accepted, Code::ImmutableWebhookUuid),
        "isEditable" => immutable(field, accepted, Code::ImmutableWebhookIsEditable),
        key => take_cf_content(JsonFault::error::<Infallible>(
            None,
            ErrorKind::UnknownKey { key, accepted },
            location,
        )),
    }
}

impl WebhookPatch {
    /// Reads the body.
    ///
    /// # Errors
    /// `invalid_webhook_*`, `immutable_webhook_*`, and those of any JSON body.
    pub fn from_json(body: &[u8]) -> Result<Self, ApiError> {
        from_json::<_, mark::BadRequest>(body)
    }

    /// The webhook `uuid` once this is laid over `before`; over nothing for a new one.
    ///
    /// # Errors
    /// `invalid_webhook_url`, `invalid_webhook_headers`.
    pub fn lay_over(self, uuid: &str, before: Webhook) -> Result<Webhook, ApiError> {
        let Webhook { url, mut headers } = before;
        let url = match self.url {
            Setting::Set(url) => url,
            Setting::NotSet => url,
            Setting::Reset => String::new(),
        };
        match self.headers {
            Setting::NotSet => {}
            Setting::Reset => headers.clear(),
            Setting::Set(changed) => {
                for (name, value) in changed {
                    match value {
                        Setting::Set(value) => {
                            headers.insert(name, value);
                        }
                        Setting::Reset => {
                            headers.remove(&name);
                        }
                        Setting::NotSet => {}
                    }
                }
            }
        }
        let webhook = Webhook { url, headers };
        webhook.check(uuid)?;
        Ok(webhook)
    }
}

impl Webhook {
    fn check(&self, uuid: &str) -> Result<(), ApiError> {
        let invalid_url = |message| Err(ApiError::new(Code::InvalidWebhookUrl, message));
        let invalid_headers = |message| Err(ApiError::new(Code::InvalidWebhookHeaders, message));
        if self.url.is_empty() {
            return invalid_url(format!("The URL for the webhook `{uuid}` is missing."));
        }
        if self.headers.len() > HEADERS_MAX {
            return invalid_headers(format!(
                "Too many headers for the webhook `{uuid}`. Please limit the number of headers to {HEADERS_MAX}. Hint: To remove an already defined header set its value to `null`"
            ));
        }
        for (name, value) in &self.headers {
            if !is_header_name(name) {
                return invalid_headers(format!(
                    "Invalid header name `{name}`: invalid HTTP header name"
                ));
            }
            if !is_header_value(value) {
                return invalid_headers(format!(
                    "Invalid header value `{name}`: failed to parse header value"
                ));
            }
        }
        match Url::parse(&self.url) {
            Err(error) => invalid_url(format!("Invalid URL `{}`: {error}", self.url)),
            Ok(url) if !matches!(url.scheme(), "http" | "https") => {
                invalid_url(format!("Invalid URL `{}`: neither http nor https", self.url))
            }
            Ok(_) => Ok(()),
        }
    }
}

/// A token (RFC 9110, 5.6.2).
fn is_header_name(name: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.bytes().all(is_letter)
}

/// Visible text, spaces and tabs.
fn is_header_value(value: &str) -> bool {
    value.bytes().all(|byte| byte == b'\t' || (b' '..0x7f).contains(&byte))
}

/// The uuid in the path of `/webhooks/{uuid}`, in the form it is kept in.
///
/// # Errors
/// `invalid_webhook_uuid`.
pub fn read_webhook_uuid(text: &str) -> Result<String, ApiError> {
    match Uuid::parse_str(text) {
        Ok(uuid) => Ok(uuid.hyphenated().to_string()),
        Err(error) => {
            Err(ApiError::new(Code::InvalidWebhookUuid, format!("Invalid UUID: {error}")))
        }
    }
}

/// `Webhook `uuid` not found.`
pub fn webhook_not_found(uuid: &str) -> ApiError {
    ApiError::new(Code::WebhookNotFound, format!("Webhook `{uuid}` not found."))
}

/// The refusal of one more webhook than there may be.
pub fn too_many_webhooks(limit: usize) -> ApiError {
    ApiError::new(
        Code::InvalidWebhooks,
        format!(
            "Defining too many webhooks would crush the server. Please limit the number of webhooks to {limit}. You may use a third-party proxy server to dispatch events to more than {limit} endpoints."
        ),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn laid_over(body: &serde_json::Value, before: Webhook) -> Result<Webhook, ApiError> {
        WebhookPatch::from_json(body.to_string().as_bytes())?.lay_over("u", before)
    }

    fn headers(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn changes_are_laid_over_what_is_there() {
        let new = json!({"url": "https://a.example/x", "headers": {"a": "1", "b": "2"}});
        let webhook = laid_over(&new, Webhook::default()).unwrap();
        assert_eq!(webhook.headers, headers(&[("a", "1"), ("b", "2")]));
        let changed = json!({"headers": {"a": null, "c": "3"}});
        let webhook = laid_over(&changed, webhook).unwrap();
        assert_eq!(webhook.url, "https://a.example/x");
        assert_eq!(webhook.headers, headers(&[("b", "2"), ("c", "3")]));
        assert!(laid_over(&json!({"headers": null}), webhook).unwrap().headers.is_empty());
    }

    #[test]
    fn secrets_are_not_shown() {
        let shown = |value: &str| {
            let headers = headers(&[("Authorization", value), ("other", "TOKEN")]);
            let view = WebhookView::new("u", &Webhook { url: "http://a".to_owned(), headers });
            assert_eq!(view.headers["other"], "TOKEN");
            view.headers["Authorization"].clone()
        };
        assert_eq!(shown("TOKEN"), "XXX...");
        assert_eq!(shown("UPDATED TOKEN"), "UPXXXX...");
        assert_eq!(shown("Bearer a-secret-token"), "Bearer a-XXXX...");
    }

    #[test]
    fn wrong_webhooks_are_refused() {
        for (body, code, message) in [
            (json!({}), "invalid_webhook_url", "The URL for the webhook `u` is missing."),
            (
                json!({"url": null}),
                "invalid_webhook_url",
                "The URL for the webhook `u` is missing.",
            ),
            (
                json!({"url": "example"}),
                "invalid_webhook_url",
                "Invalid URL `example`: relative URL without a base",
            ),
            (
                json!({"url": "ftp://a"}),
                "invalid_webhook_url",
                "Invalid URL `ftp://a`: neither http nor https",
            ),
            (
                json!({"url": 3}),
                "invalid_webhook_url",
                "Invalid value type at `.url`: expected a string, but found a positive integer: `3`",
            ),
            (
                json!({"url": "http://a", "headers": {"a b": "c"}}),
                "invalid_webhook_headers",
                "Invalid header name `a b`: invalid HTTP header name",
            ),
            (
                json!({"url": "http://a", "headers": {"a": "b\n"}}),
                "invalid_webhook_headers",
                "Invalid header value `a`: failed to parse header value",
            ),
            (
                json!({"uuid": "x"}),
                "immutable_webhook_uuid",
                "Immutable field `uuid`: expected one of `url`, `headers`",
            ),
            (
                json!({"isEditable": false}),
                "immutable_webhook_is_editable",
                "Immutable field `isEditable`: expected one of `url`, `headers`",
            ),
        ] {
            let error = laid_over(&body, Webhook::default()).unwrap_err();
            assert_eq!((error.code.name(), error.message.as_str()), (code, message), "{body}");
        }
        assert_eq!(read_webhook_uuid("x").unwrap_err().code, Code::InvalidWebhookUuid);
    }
}
