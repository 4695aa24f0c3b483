//! Experimental features: what may be switched on and off. Names and texts are those of Meilisearch
//! 1.15.

use std::collections::BTreeMap;

use deserr::Deserr;

use crate::error::{ApiError, Code, mark};
use crate::parse::{JsonFault, from_json};

/// The body of `PATCH /experimental-features`: what is switched, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserr)]
#[deserr(error = JsonFault, rename_all = camelCase, deny_unknown_fields)]
#[allow(missing_docs)] // Meilisearch's names
pub struct FeaturesPatch {
    #[deserr(default)]
    pub metrics: Option<bool>,
    #[deserr(default)]
    pub logs_route: Option<bool>,
    #[deserr(default)]
    pub edit_documents_by_function: Option<bool>,
    #[deserr(default)]
    pub contains_filter: Option<bool>,
    #[deserr(default)]
    pub network: Option<bool>,
    #[deserr(default)]
    pub get_task_documents_route: Option<bool>,
    #[deserr(default)]
    pub composite_embedders: Option<bool>,
    #[deserr(default)]
    pub chat_completions: Option<bool>,
}

impl FeaturesPatch {
    /// Reads the body.
    ///
    /// # Errors
    /// `bad_request` for names that are not known and values that are no booleans; those of any JSON body.
    pub fn from_json(body: &[u8]) -> Result<Self, ApiError> {
        from_json::<_, mark::BadRequest>(body)
    }

    /// Every feature with what this says of it, in Meilisearch's order.
    pub fn all(&self) -> [(&'static str, Option<bool>); 8] {
        [
            ("metrics", self.metrics),
            ("logsRoute", self.logs_route),
            (EDIT_DOCUMENTS, self.edit_documents_by_function),
            (CONTAINS_FILTER, self.contains_filter),
            ("network", self.network),
            (TASK_DOCUMENTS_ROUTE, self.get_task_documents_route),
            ("compositeEmbedders", self.composite_embedders),
            ("chatCompletions", self.chat_completions),
        ]
    }
}

/// The operators `CONTAINS` and `STARTS WITH` in filters.
pub const CONTAINS_FILTER: &str = "containsFilter";

/// The route `POST documents/edit`.
pub const EDIT_DOCUMENTS: &str = "editDocumentsByFunction";

/// The route `GET /tasks/{uid}/documents`.
pub const TASK_DOCUMENTS_ROUTE: &str = "getTaskDocumentsRoute";

/// The refusal of what is done only with a feature switched on.
pub fn feature_not_enabled(action: &str, feature: &str, link: &str) -> ApiError {
    let message =
        format!("{action} requires enabling the `{feature}` experimental feature. See {link}");
    ApiError::new(Code::FeatureNotEnabled, message)
}

/// All features as `GET /experimental-features` shows them; those that `on` doesn't know are off.
pub fn shown(on: &BTreeMap<String, bool>) -> serde_json::Value {
    let all = FeaturesPatch::default().all();
    let shown = all.map(|(name, _)| {
        (name.to_owned(), serde_json::Value::Bool(on.get(name).copied().unwrap_or_default()))
    });
    serde_json::Value::Object(shown.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_switched_is_not_said() {
        let patch = FeaturesPatch::from_json(br#"{"containsFilter":true,"metrics":null}"#).unwrap();
        let said: Vec<_> = patch.all().into_iter().filter(|(_, on)| on.is_some()).collect();
        assert_eq!(said, [("containsFilter", Some(true))]);
        let on = BTreeMap::from([("containsFilter".to_owned(), true)]);
        assert_eq!(
            shown(&on).to_string(),
            r#"{"metrics":false,"logsRoute":false,"editDocumentsByFunction":false,"containsFilter":true,"network":false,"getTaskDocumentsRoute":false,"compositeEmbedders":false,"chatCompletions":false}"#
        );
    }

    #[test]
    fn mistakes_are_named() {
        let refused = |body: &str| FeaturesPatch::from_json(body.as_bytes()).unwrap_err();
        let unknown = refused(r#"{"containFilter":true}"#);
        assert!(unknown.message.starts_with(
            "Unknown field `containFilter`: did you mean `containsFilter`? expected one of `metrics`, `logsRoute`"
        ), "{}", unknown.message);
        let wrong = refused(r#"{"metrics":"yes"}"#);
        assert_eq!(
            wrong.message,
            "Invalid value type at `.metrics`: expected a boolean, but found a string: `\"yes\"`"
        );
        assert_eq!((unknown.code.name(), wrong.code.name()), ("bad_request", "bad_request"));
    }
}
