//! What a request may do, once its key was checked: all, or what its key and its token allow.

use std::sync::Arc;

use serde_json::Value;
use time::OffsetDateTime;

use super::key_ring::RingKey;
use crate::error::{ApiError, Code};
use crate::keys::{Action, IndexPattern, Scope};
use crate::search_rules::{SearchRules, demand};

/// The rights of a request.
#[derive(Clone, Debug)]
pub struct Grant {
    /// The API key; none for the master key, and where none is needed.
    key: Option<Arc<RingKey>>,
    /// The rules of the tenant token that was signed with it.
    rules: Option<Arc<SearchRules>>,
}

impl Grant {
    /// All rights.
    pub fn everything() -> Self {
        Self { key: None, rules: None }
    }

    /// The rights of `key`, or of a tenant token that was signed with it.
    pub fn of(key: Arc<RingKey>, rules: Option<SearchRules>) -> Self {
        Self { key: Some(key), rules: rules.map(Arc::new) }
    }

    /// Whether `index` may be worked with at all.
    pub fn allows_index(&self, index: &str) -> bool {
        self.key_allows(index) && self.rules_allow(index)
    }

    /// Whether all indexes may be worked with, also those that don't exist yet.
    pub fn allows_all_indexes(&self) -> bool {
        self.key.as_ref().is_none_or(|key| key.all_indexes)
            && self.rules.as_ref().is_none_or(|rules| rules.patterns().contains(&"*"))
    }

    /// The indexes that the key is good for; none when that is all of them.
    pub fn index_patterns(&self) -> Option<Vec<IndexPattern>> {
        let key = self.key.as_ref().filter(|key| !key.all_indexes)?;
        Some(key.key.indexes.clone())
    }

    /// Whether a write to `index` may create it.
    pub fn may_create_index(&self, index: &str) -> bool {
        self.key.as_ref().is_none_or(|key| key.actions.holds(Action::IndexesCreate))
            && self.allows_index(index)
    }

    /// Makes a search of `index` demand what the tenant token demands.
    pub fn demand_rules(&self, index: &str, filter: &mut Option<Value>) {
        let rules = self.rules.as_ref();
        if let Some(rule) = rules.and_then(|rules| rules.filter(index)) {
            demand(filter, rule);
        }
    }

    /// Refuses an index in a request's body that may not be worked with.
    ///
    /// # Errors
    /// `invalid_api_key`.
    pub fn check_index(&self, index: &str) -> Result<(), ApiError> {
        if self.allows_index(index) { Ok(()) } else { Err(invalid_key()) }
    }

    /// Whether the key may do `action` at `now`: to `index`, or by a route that names none.
    ///
    /// # Errors
    /// `invalid_api_key`, which names the indexes that may be worked with, except that who has a
    /// tenant token is not told what its key allows.
    pub fn check(
        &self,
        action: Option<Action>,
        index: Option<&str>,
        now: OffsetDateTime,
    ) -> Result<(), ApiError> {
        let Some(key) = &self.key else { return Ok(()) };
        let refused = |message| Err(ApiError::new(Code::InvalidApiKey, message));
        if let Some(index) = index {
            if !self.rules_allow(index) {
                let allowed = self.rules.as_ref().map(|rules| rules.patterns()).unwrap_or_default();
                return refused(format!(
                    "The provided tenant token cannot acces the index `{index}`, allowed indexes are {allowed:?}."
                ));
            }
            if !self.key_allows(index) && self.rules.is_some() {
                return refused(format!(
                    "The API key used to generate this tenant token cannot acces the index `{index}`."
                ));
            }
            if !self.key_allows(index) {
                let mut allowed: Vec<&str> =
                    key.key.indexes.iter().map(IndexPattern::as_str).collect();
                allowed.sort_unstable();
                return refused(format!(
                    "The API key cannot acces the index `{index}`, authorized indexes are {allowed:?}."
                ));
            }
        }
        let may = |action: Action| {
            let reaches = index.is_some()
                || key.all_indexes
                || (action.scope() == Scope::Route && !key.key.indexes.is_empty());
            key.actions.holds(action) && reaches
        };
        if key.key.is_expired(now) || !action.is_none_or(may) {
            return Err(invalid_key());
        }
        Ok(())
    }

    fn key_allows(&self, index: &str) -> bool {
        let Some(key) = &self.key else { return true };
        key.all_indexes || key.key.indexes.iter().any(|pattern| pattern.matches(index))
    }

    fn rules_allow(&self, index: &str) -> bool {
        self.rules.as_ref().is_none_or(|rules| rules.allows(index))
    }
}

/// The refusal that says no more than it must.
pub fn invalid_key() -> ApiError {
    ApiError::new(Code::InvalidApiKey, "The provided API key is invalid.")
}
