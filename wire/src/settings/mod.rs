//! Index settings: what a request may say about them, how a change is laid over what was, what they come to.
//!
//! Every field has three states ([`Setting`]): a change leaves it alone, puts it back to its default, or sets it.
//! [`Settings`] is both one change and the sum of all changes so far: laying one over the other is
//! [`Settings::merge`], and [`Settings::effective`] is what `GET settings` prints for the sum.

mod effective;
mod embedder;
mod parts;
mod ranking_rule;
mod routes;

pub use embedder::{Distribution, Embedder, EmbedderSource, Pooling, hidden};
pub use parts::{
    FacetOrder, Faceting, FilterFeatures, FilterableRule, LocalizedRule, MinWordSize, Pagination,
    PatternFeatures, PatternRule, PrefixSearch, ProximityPrecision, TypoTolerance,
};
pub use ranking_rule::{DEFAULT_RANKING_RULES, RankingRule, SPLIT_RANKING_RULES};
pub use routes::{
    Method, SUB_ROUTES, SubRoute, effective_sub_route, patch_from_sub_route, sub_route,
};

use std::collections::{BTreeMap, BTreeSet};

use deserr::{DeserializeError, Deserr, IntoValue, ValuePointerRef};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::error::{ApiError, Code, mark};
use crate::parse::{JsonFault, json_value};

/// A field of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Setting<T> {
    /// Left alone. Not printed.
    #[default]
    NotSet,
    /// Put back to the default. Printed as `null`.
    Reset,
    /// Set to this.
    Set(T),
}

impl<T> Setting<T> {
    /// The value, when set.
    pub fn set(self) -> Option<T> {
        match self {
            Setting::Set(value) => Some(value),
            Setting::NotSet | Setting::Reset => None,
        }
    }

    /// Borrows the value.
    pub const fn as_ref(&self) -> Setting<&T> {
        match self {
            Setting::Set(value) => Setting::Set(value),
            Setting::Reset => Setting::Reset,
            Setting::NotSet => Setting::NotSet,
        }
    }

    /// Whether the field is left alone.
    pub const fn is_not_set(&self) -> bool {
        matches!(self, Setting::NotSet)
    }

    /// Whether the field is set.
    pub const fn is_set(&self) -> bool {
        matches!(self, Setting::Set(_))
    }

    /// Lays `change` over this.
    pub fn merge(&mut self, change: &Setting<T>)
    where
        T: Clone,
    {
        if !change.is_not_set() {
            *self = change.clone();
        }
    }

    /// Lays `change` over this where both are set to something with fields of its own.
    fn merge_inside(&mut self, change: &Setting<T>, inside: impl FnOnce(&mut T, &T))
    where
        T: Clone,
    {
        match (&mut *self, change) {
            (Setting::Set(present), Setting::Set(change)) => inside(present, change),
            _ => self.merge(change),
        }
    }
}

impl<T: Serialize> Serialize for Setting<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.as_ref().set().serialize(serializer)
    }
}

impl<T: Deserr<E>, E: DeserializeError> Deserr<E> for Setting<T> {
    fn deserialize_from_value<V: IntoValue>(
        value: deserr::Value<V>,
        location: ValuePointerRef,
    ) -> Result<Self, E> {
        match value {
            deserr::Value::Null => Ok(Setting::Reset),
            value => T::deserialize_from_value(value, location).map(Setting::Set),
        }
    }
}

/// The settings of an index, as a change or as the sum of changes. Serialises to what was set or reset.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserr)]
#[serde(rename_all = "camelCase")]
#[deserr(error = JsonFault, rename_all = camelCase, deny_unknown_fields)]
pub struct Settings {
    /// The attributes hits are shown with.
    #[serde(skip_serializing_if = "Setting::is_not_set")]
    #[deserr(default, error = JsonFault<mark::InvalidSettingsDisplayedAttributes>)]
    pub displayed_attributes: Setting<Vec<String>>,
    /// The attributes searched in, the weightiest first.
    #[serde(skip_serializing_if = "Setting::is_not_set")]
    #[deserr(default, error = JsonFault<mark::InvalidSettingsSearchableAttributes>)]
    pub searchable_attributes: Setting<Vec<String>>,
    /// What can be filtered by; the first rule that matches an attribute counts.
    #[serde(skip_serializing_if = "Setting::is_not_set")]
    #[deserr(default, error = JsonFault<mark::InvalidSettingsFilterableAttributes>)]
    pub filterable_attributes: Setting<Vec<FilterableRule>>,
    /// The attributes that can be sorted by.
    #[serde(skip_serializing_if = "Setting::is_not_set")]
    #[deserr(default, error = JsonFault<mark::InvalidSettingsSortableAttributes>)]
    pub sortable_attributes: Setting<BTreeSet<String>>,
    /// The order in which rules rank hits.
    #[serde(skip_serializing_if = "Setting::is_not_set")]
    #[deserr(default, error = JsonFault<mark::InvalidSettingsRankingRules>)]
    pub ranking_rules: Setting<Vec<RankingRule>>,
    /// Words that queries do without.
    #[serde(skip_serializing_if = "Setting::is_not_set")]
    #[deserr(default, error = JsonFault<mark::InvalidSettingsStopWords>)]
    pub stop_words: Setting<BTreeSet<String>>,
    /// Characters that do not separate words although they would.
    #[serde(skip_serializing_if = "Setting::is_not_set")]
    #[deserr(default, error = JsonFault<mark::InvalidSettingsNonSeparatorTokens>)]
    pub non_separator_tokens: Setting<BTreeSet<String>>,
    /// Characters that separate words although they would not.
    #[serde(skip_serializing_if = "Setting::is_not_set")]
    #[deserr(default, error = JsonFault<mark::InvalidSettingsSeparatorTokens>)]
    pub separator_tokens: Setting<BTreeSet<String>>,
    /// Texts that are one word.
    #[serde(skip_serializing_if = "Setting::is_not_set")]
    #[deserr(default, error = JsonFault<mark::InvalidSettingsDictionary>)]
    pub dictionary: Setting<BTreeSet<String>>,
    /// Words with the words that may stand for them.
    #[serde(skip_serializing_if = "Setting::is_not_set")]
    #[deserr(default, error = JsonFault<mark::InvalidSettingsSynonyms>)]
    pub synonyms: Setting<BTreeMap<String, Vec<String>>>,
    /// The attribute whose values appear once each.
    #[serde(skip_serializing_if = "Setting::is_not_set")]
    #[deserr(default, error = JsonFault<mark::InvalidSettingsDistinctAttribute>)]
    pub distinct_attribute: Setting<String>,
    /// How finely nearness of words is measured.
    #[serde(skip_serializing_if = "Setting::is_not_set")]
    #[deserr(default, error = JsonFault<mark::InvalidSettingsProximityPrecision>)]
    pub proximity_precision: Setting<ProximityPrecision>,
    /// Which typos are forgiven.
    #[serde(skip_serializing_if = "Setting::is_not_set")]
    #[deserr(default, error = JsonFault<mark::InvalidSettingsTypoTolerance>)]
    pub typo_tolerance: Setting<TypoTolerance>,
    /// How many facet values are shown, in which order.
    #[serde(skip_serializing_if = "Setting::is_not_set")]
    #[deserr(default, error = JsonFault<mark::InvalidSettingsFaceting>)]
    pub faceting: Setting<Faceting>,
    /// How many hits can be reached.
    #[serde(skip_serializing_if = "Setting::is_not_set")]
    #[deserr(default, error = JsonFault<mark::InvalidSettingsPagination>)]
    pub pagination: Setting<Pagination>,
    /// Where vectors come from, by name. A name that is `Reset` is removed.
    #[serde(skip_serializing_if = "Setting::is_not_set")]
    #[deserr(default, error = JsonFault<mark::InvalidSettingsEmbedders>)]
    pub embedders: Setting<BTreeMap<String, Setting<Embedder>>>,
    /// After how many milliseconds a search answers with what it has.
    #[serde(skip_serializing_if = "Setting::is_not_set")]
    #[deserr(default, error = JsonFault<mark::InvalidSettingsSearchCutoffMs>)]
    pub search_cutoff_ms: Setting<u64>,
    /// In which languages attributes are written.
    #[serde(skip_serializing_if = "Setting::is_not_set")]
    #[deserr(default, error = JsonFault<mark::InvalidSettingsLocalizedAttributes>)]
    pub localized_attributes: Setting<Vec<LocalizedRule>>,
    /// Whether facet values can be searched.
    #[serde(skip_serializing_if = "Setting::is_not_set")]
    #[deserr(default, error = JsonFault<mark::InvalidSettingsFacetSearch>)]
    pub facet_search: Setting<bool>,
    /// Whether the beginnings of words are found.
    #[serde(skip_serializing_if = "Setting::is_not_set")]
    #[deserr(default, error = JsonFault<mark::InvalidSettingsPrefixSearch>)]
    pub prefix_search: Setting<PrefixSearch>,
    /// Chat prompting: experimental in 1.15, and refused when set, as with the feature off.
    #[serde(skip_serializing_if = "Setting::is_not_set")]
    #[deserr(default, error = JsonFault<mark::InvalidSettingsIndexChat>)]
    pub chat: Setting<Value>,
}

impl Settings {
    /// The body of `PATCH settings`.
    ///
    /// # Errors
    /// `invalid_settings_*`, `feature_not_enabled`, and those of any JSON body.
    pub fn from_json(body: &[u8]) -> Result<Settings, ApiError> {
        Settings::from_value(json_value(body)?)
    }

    fn from_value(value: Value) -> Result<Settings, ApiError> {
        let settings: Settings =
            deserr::deserialize::<_, _, JsonFault>(value).map_err(ApiError::from)?;
        settings.check()?;
        Ok(settings)
    }

    /// The change that puts everything back: `DELETE settings`.
    pub fn reset_all() -> Settings {
        Settings {
            displayed_attributes: Setting::Reset,
            searchable_attributes: Setting::Reset,
            filterable_attributes: Setting::Reset,
            sortable_attributes: Setting::Reset,
            ranking_rules: Setting::Reset,
            stop_words: Setting::Reset,
            non_separator_tokens: Setting::Reset,
            separator_tokens: Setting::Reset,
            dictionary: Setting::Reset,
            synonyms: Setting::Reset,
            distinct_attribute: Setting::Reset,
            proximity_precision: Setting::Reset,
            typo_tolerance: Setting::Reset,
            faceting: Setting::Reset,
            pagination: Setting::Reset,
            embedders: Setting::Reset,
            search_cutoff_ms: Setting::Reset,
            localized_attributes: Setting::Reset,
            facet_search: Setting::Reset,
            prefix_search: Setting::Reset,
            chat: Setting::Reset,
        }
    }

    /// Lays `patch` over this, field by field, as an index applies a change: typo tolerance, faceting, pagination and
    /// each embedder are merged inside, all else is replaced.
    pub fn merge(&mut self, patch: &Settings) {
        // Taken apart, so that a new field cannot be forgotten.
        let Settings {
            displayed_attributes,
            searchable_attributes,
            filterable_attributes,
            sortable_attributes,
            ranking_rules,
            stop_words,
            non_separator_tokens,
            separator_tokens,
            dictionary,
            synonyms,
            distinct_attribute,
            proximity_precision,
            typo_tolerance,
            faceting,
            pagination,
            embedders,
            search_cutoff_ms,
            localized_attributes,
            facet_search,
            prefix_search,
            chat,
        } = patch;
        self.displayed_attributes.merge(displayed_attributes);
        self.searchable_attributes.merge(searchable_attributes);
        self.filterable_attributes.merge(filterable_attributes);
        self.sortable_attributes.merge(sortable_attributes);
        self.ranking_rules.merge(ranking_rules);
        self.stop_words.merge(stop_words);
        self.non_separator_tokens.merge(non_separator_tokens);
        self.separator_tokens.merge(separator_tokens);
        self.dictionary.merge(dictionary);
        self.synonyms.merge(synonyms);
        self.distinct_attribute.merge(distinct_attribute);
        self.proximity_precision.merge(proximity_precision);
        self.typo_tolerance.merge_inside(typo_tolerance, TypoTolerance::merge);
        self.faceting.merge_inside(faceting, Faceting::merge);
        self.pagination.merge_inside(pagination, Pagination::merge);
        self.embedders.merge_inside(embedders, |present, change| {
            for (name, embedder) in change {
                present.entry(name.clone()).or_default().merge_inside(embedder, Embedder::merge);
            }
        });
        self.search_cutoff_ms.merge(search_cutoff_ms);
        self.localized_attributes.merge(localized_attributes);
        self.facet_search.merge(facet_search);
        self.prefix_search.merge(prefix_search);
        self.chat.merge(chat);
    }

    /// As the `details` of a task show a change: `*` where all attributes are meant, secrets hidden.
    pub fn to_details(&self) -> Map<String, Value> {
        let mut shown = self.clone();
        for list in [&mut shown.displayed_attributes, &mut shown.searchable_attributes] {
            if *list == Setting::Reset {
                *list = Setting::Set(vec!["*".to_owned()]);
            }
        }
        shown.hide_secrets();
        match serde_json::to_value(&shown) {
            Ok(Value::Object(map)) => map,
            _ => Map::new(),
        }
    }

    /// Replaces what of API keys must not be shown.
    pub fn hide_secrets(&mut self) {
        if let Setting::Set(embedders) = &mut self.embedders {
            for embedder in embedders.values_mut() {
                if let Setting::Set(embedder) = embedder {
                    embedder.hide_secrets();
                }
            }
        }
    }

    /// What can only be said of settings as a whole.
    fn check(&self) -> Result<(), ApiError> {
        self.check_features()?;
        self.check_ranking_rules()?;
        self.check_embedders()
    }

    fn check_ranking_rules(&self) -> Result<(), ApiError> {
        let Setting::Set(rules) = &self.ranking_rules else { return Ok(()) };
        if rules.contains(&RankingRule::Attribute)
            && rules.iter().any(RankingRule::is_half_of_attribute)
        {
            return Err(ApiError::new(
                Code::InvalidSettingsRankingRules,
                "Mixed usage of the attribute, attributeRank, and wordPosition ranking rules. You must either use \
                 the attribute ranking rule alone or the attributeRank and wordPosition ranking rules.",
            ));
        }
        Ok(())
    }

    fn check_features(&self) -> Result<(), ApiError> {
        let disabled = |action: &str, feature: &str, discussion: u32| {
            Err(ApiError::new(
                Code::FeatureNotEnabled,
                format!(
                    "{action} requires enabling the `{feature}` experimental feature. See \
                     https://github.com/orgs/meilisearch/discussions/{discussion}"
                ),
            ))
        };
        if let Setting::Set(embedders) = &self.embedders {
            for embedder in embedders.values().filter_map(|embedder| embedder.as_ref().set()) {
                if embedder.source == Setting::Set(EmbedderSource::Composite) {
                    return disabled("using `\"composite\"` as source", "composite embedders", 816);
                }
                if embedder.search_embedder.is_set() {
                    return disabled("setting `searchEmbedder`", "composite embedders", 816);
                }
                if embedder.indexing_embedder.is_set() {
                    return disabled("setting `indexingEmbedder`", "composite embedders", 816);
                }
            }
        }
        if self.chat.is_set() {
            return disabled("setting `chat` in the index settings", "chat completions", 835);
        }
        Ok(())
    }

    fn check_embedders(&self) -> Result<(), ApiError> {
        let Setting::Set(embedders) = &self.embedders else { return Ok(()) };
        for (name, embedder) in embedders {
            if let Setting::Set(embedder) = embedder {
                embedder
                    .check(name)
                    .map_err(|message| ApiError::new(Code::InvalidSettingsEmbedders, message))?;
            }
        }
        Ok(())
    }
}

/// Reads back what [`Serialize`] wrote. Needs a self-describing format (JSON).
impl<'de> Deserialize<'de> for Settings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Settings, D::Error> {
        let value = Value::deserialize(deserializer)?;
        deserr::deserialize::<_, _, JsonFault>(value)
            .map_err(|fault| serde::de::Error::custom(ApiError::from(fault)))
    }
}

#[cfg(test)]
mod tests;
