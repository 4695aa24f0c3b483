//! The sub-routes of `settings`: one per field.

use serde_json::{Map, Value};

use super::{Setting, Settings};
use crate::error::{ApiError, Code, Mark, mark};
use crate::parse::{JsonFault, json_value};

/// How a sub-route is written to (`DELETE` resets, `GET` reads, everywhere).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// The value replaces.
    Put,
    /// The value is merged.
    Patch,
}

/// One sub-route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubRoute {
    /// The last part of its path: `stop-words`.
    pub name: &'static str,
    /// How it is written to.
    pub method: Method,
    /// The field of the settings object: `stopWords`.
    pub field: &'static str,
}

macro_rules! sub_routes {
    ($($name:literal, $method:ident, $field:literal, $member:ident, $mark:ident;)*) => {
        /// Every sub-route.
        pub const SUB_ROUTES: &[SubRoute] =
            &[$(SubRoute { name: $name, method: Method::$method, field: $field }),*];

        fn read(name: &str, value: Value) -> Result<Settings, ApiError> {
            let mut settings = Settings::default();
            match name {
                $($name => settings.$member = setting::<_, mark::$mark>(value)?,)*
                _ => return Err(unknown(name)),
            }
            Ok(settings)
        }
    };
}

sub_routes! {
    "filterable-attributes", Put, "filterableAttributes", filterable_attributes, InvalidSettingsFilterableAttributes;
    "sortable-attributes", Put, "sortableAttributes", sortable_attributes, InvalidSettingsSortableAttributes;
    "displayed-attributes", Put, "displayedAttributes", displayed_attributes, InvalidSettingsDisplayedAttributes;
    "typo-tolerance", Patch, "typoTolerance", typo_tolerance, InvalidSettingsTypoTolerance;
    "searchable-attributes", Put, "searchableAttributes", searchable_attributes, InvalidSettingsSearchableAttributes;
    "stop-words", Put, "stopWords", stop_words, InvalidSettingsStopWords;
    "non-separator-tokens", Put, "nonSeparatorTokens", non_separator_tokens, InvalidSettingsNonSeparatorTokens;
    "separator-tokens", Put, "separatorTokens", separator_tokens, InvalidSettingsSeparatorTokens;
    "dictionary", Put, "dictionary", dictionary, InvalidSettingsDictionary;
    "synonyms", Put, "synonyms", synonyms, InvalidSettingsSynonyms;
    "distinct-attribute", Put, "distinctAttribute", distinct_attribute, InvalidSettingsDistinctAttribute;
    "proximity-precision", Put, "proximityPrecision", proximity_precision, InvalidSettingsProximityPrecision;
    "localized-attributes", Put, "localizedAttributes", localized_attributes, InvalidSettingsLocalizedAttributes;
    "ranking-rules", Put, "rankingRules", ranking_rules, InvalidSettingsRankingRules;
    "faceting", Patch, "faceting", faceting, InvalidSettingsFaceting;
    "pagination", Patch, "pagination", pagination, InvalidSettingsPagination;
    "embedders", Patch, "embedders", embedders, InvalidSettingsEmbedders;
    "search-cutoff-ms", Put, "searchCutoffMs", search_cutoff_ms, InvalidSettingsSearchCutoffMs;
    "facet-search", Put, "facetSearch", facet_search, InvalidSettingsFacetSearch;
    "prefix-search", Put, "prefixSearch", prefix_search, InvalidSettingsPrefixSearch;
    "chat", Put, "chat", chat, InvalidSettingsIndexChat;
}

fn setting<T, M: Mark>(value: Value) -> Result<Setting<T>, ApiError>
where
    Setting<T>: deserr::Deserr<JsonFault<M>>,
{
    deserr::deserialize::<_, _, JsonFault<M>>(value).map_err(ApiError::from)
}

fn unknown(name: &str) -> ApiError {
    ApiError::new(Code::BadRequest, format!("`{name}` is not a setting."))
}

/// The sub-route of this name.
pub fn sub_route(name: &str) -> Option<&'static SubRoute> {
    SUB_ROUTES.iter().find(|route| route.name == name)
}

/// The change that a request to the sub-route `name` asks for; without a body it is a `DELETE`.
///
/// # Errors
/// The setting's code, and those of any JSON body; `bad_request` when there is no such sub-route.
pub fn patch_from_sub_route(name: &str, body: Option<&[u8]>) -> Result<Settings, ApiError> {
    let value = body.map_or(Ok(Value::Null), json_value)?;
    let settings = read(name, value)?;
    settings.check()?;
    Ok(settings)
}

/// What `GET` on the sub-route `name` prints; `None` when there is no such sub-route.
pub fn effective_sub_route(settings: &Settings, name: &str) -> Option<Value> {
    let route = sub_route(name)?;
    match settings.effective() {
        // Chat is not in the whole while its feature is off.
        Value::Object(mut whole) => {
            Some(whole.remove(route.field).unwrap_or(Value::Object(Map::new())))
        }
        _ => None,
    }
}

impl Settings {
    /// See [`patch_from_sub_route`].
    ///
    /// # Errors
    /// As there.
    pub fn patch_from_sub_route(name: &str, body: Option<&[u8]>) -> Result<Settings, ApiError> {
        patch_from_sub_route(name, body)
    }

    /// See [`effective_sub_route`].
    pub fn effective_sub_route(&self, name: &str) -> Option<Value> {
        effective_sub_route(self, name)
    }
}
