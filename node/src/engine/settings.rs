//! Between Meilisearch's settings object and the engine's settings.
//!
//! Settings reach the engine in their JSON form, with `null` for "back to the default": that is
//! what tasks store, and it keeps this file independent of how `wire` models each field. `wire`
//! has checked the form before.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::str::FromStr;

use milli_core as milli;
use milli_core::heed::RoTxn;
use milli_core::index::{IndexEmbeddingConfig, PrefixSearch};
use milli_core::proximity::ProximityPrecision;
use milli_core::update::{Setting, Settings as Builder, validate_embedding_settings};
use milli_core::vector::settings::{EmbedderSource, EmbeddingSettings};
use milli_core::{
    Criterion, DEFAULT_VALUES_PER_FACET, FilterableAttributesRule, Index, LocalizedAttributesRule,
    OrderBy,
};
use miroir_wire::error::{ApiError, Code};
use miroir_wire::settings::hidden;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::embedders::unsupported_source;
use super::errors::{Refusal, code};
use super::locales::language;

/// Meilisearch's default of `pagination.maxTotalHits`.
const MAX_TOTAL_HITS_DEFAULT: u64 = 1000;

/// Checks what Meilisearch checks before it makes a task of settings, beyond their form: the
/// embedders. Sources that need a service are refused with 501.
///
/// # Errors
/// `invalid_settings_embedders` with the engine's text, or `miroir_not_supported`.
pub fn check_embedders(patch: &Value) -> Result<(), ApiError> {
    let Setting::Set(embedders) = embedders(patch)? else { return Ok(()) };
    for (name, settings) in embedders {
        if let Setting::Set(settings) = &settings {
            match settings.source {
                Setting::Set(EmbedderSource::UserProvided) | Setting::NotSet => {}
                Setting::Set(source) => {
                    return Err(unsupported_source(&name, &format!("`{source}`")));
                }
                // The default source is OpenAI's service.
                Setting::Reset => {
                    let source = format!("`{}`", EmbedderSource::default());
                    return Err(unsupported_source(&name, &source));
                }
            }
        }
        validate_embedding_settings(settings, &name)
            .map_err(|error| ApiError::new(code(&error), error.to_string()))?;
    }
    Ok(())
}

/// Checks that every embedder that `known` doesn't have yet names its source, and adds it.
///
/// # Errors
/// `miroir_not_supported`: the source an embedder gets otherwise is a service.
pub fn check_sources_named(patch: &Value, known: &mut BTreeSet<String>) -> Result<(), ApiError> {
    match embedders(patch)? {
        Setting::NotSet => {}
        Setting::Reset => known.clear(),
        Setting::Set(embedders) => {
            for (name, settings) in embedders {
                match settings {
                    Setting::Set(settings) => {
                        if settings.source.is_not_set() && !known.contains(&name) {
                            let source = format!("`{}`", EmbedderSource::default());
                            return Err(unsupported_source(&name, &source));
                        }
                        known.insert(name);
                    }
                    Setting::Reset | Setting::NotSet => {
                        known.remove(&name);
                    }
                }
            }
        }
    }
    Ok(())
}

/// Shortens the keys of embedders, which may be shown to those who read tasks.
pub fn hide_secrets(patch: &mut Value) {
    let Some(Value::Object(embedders)) = patch.get_mut("embedders") else { return };
    for embedder in embedders.values_mut() {
        let Some(Value::String(key)) = embedder.get_mut("apiKey") else { continue };
        *key = hidden(key);
    }
}

/// Puts the changes of one settings object into the engine's builder.
///
/// # Errors
/// See [`Refusal`].
pub fn apply_patch(patch: &Value, builder: &mut Builder<'_, '_, '_>) -> Result<(), Refusal> {
    apply_attributes(patch, builder)?;
    apply_words(patch, builder)?;
    apply_typo_tolerance(patch, builder)?;
    apply_limits(patch, builder)?;
    match embedders(patch)? {
        Setting::Set(value) => builder.set_embedder_settings(value),
        Setting::Reset => builder.reset_embedder_settings(),
        Setting::NotSet => {}
    }
    Ok(())
}

fn apply_attributes(patch: &Value, builder: &mut Builder<'_, '_, '_>) -> Result<(), Refusal> {
    match all_if_star(field(patch, "displayedAttributes")?) {
        Setting::Set(names) => builder.set_displayed_fields(names),
        Setting::Reset => builder.reset_displayed_fields(),
        Setting::NotSet => {}
    }
    match all_if_star(field(patch, "searchableAttributes")?) {
        Setting::Set(names) => builder.set_searchable_fields(names),
        Setting::Reset => builder.reset_searchable_fields(),
        Setting::NotSet => {}
    }
    match field::<Vec<FilterableAttributesRule>>(patch, "filterableAttributes")? {
        Setting::Set(rules) => builder.set_filterable_fields(rules),
        Setting::Reset => builder.reset_filterable_fields(),
        Setting::NotSet => {}
    }
    match field::<HashSet<String>>(patch, "sortableAttributes")? {
        Setting::Set(names) => builder.set_sortable_fields(names),
        Setting::Reset => builder.reset_sortable_fields(),
        Setting::NotSet => {}
    }
    match field(patch, "distinctAttribute")? {
        Setting::Set(name) => builder.set_distinct_field(name),
        Setting::Reset => builder.reset_distinct_field(),
        Setting::NotSet => {}
    }
    match field::<Vec<LocalizedRule>>(patch, "localizedAttributes")? {
        Setting::Set(rules) => {
            let rules: Option<_> = rules.into_iter().map(LocalizedRule::into_engine).collect();
            let rules = rules.ok_or_else(|| malformed("localizedAttributes", "unknown locale"))?;
            builder.set_localized_attributes_rules(rules);
        }
        Setting::Reset => builder.reset_localized_attributes_rules(),
        Setting::NotSet => {}
    }
    match field::<Vec<String>>(patch, "rankingRules")? {
        Setting::Set(rules) => {
            let rules =
                rules.iter().map(|rule| Criterion::from_str(rule)).collect::<Result<_, _>>();
            let rules = rules
                .map_err(|error| Refusal::Engine(milli::UserError::CriterionError(error).into()))?;
            builder.set_criteria(rules);
        }
        Setting::Reset => builder.reset_criteria(),
        Setting::NotSet => {}
    }
    Ok(())
}

fn apply_words(patch: &Value, builder: &mut Builder<'_, '_, '_>) -> Result<(), Refusal> {
    match field(patch, "stopWords")? {
        Setting::Set(words) => builder.set_stop_words(words),
        Setting::Reset => builder.reset_stop_words(),
        Setting::NotSet => {}
    }
    match field(patch, "nonSeparatorTokens")? {
        Setting::Set(tokens) => builder.set_non_separator_tokens(tokens),
        Setting::Reset => builder.reset_non_separator_tokens(),
        Setting::NotSet => {}
    }
    match field(patch, "separatorTokens")? {
        Setting::Set(tokens) => builder.set_separator_tokens(tokens),
        Setting::Reset => builder.reset_separator_tokens(),
        Setting::NotSet => {}
    }
    match field(patch, "dictionary")? {
        Setting::Set(words) => builder.set_dictionary(words),
        Setting::Reset => builder.reset_dictionary(),
        Setting::NotSet => {}
    }
    match field(patch, "synonyms")? {
        Setting::Set(synonyms) => builder.set_synonyms(synonyms),
        Setting::Reset => builder.reset_synonyms(),
        Setting::NotSet => {}
    }
    Ok(())
}

fn apply_typo_tolerance(patch: &Value, builder: &mut Builder<'_, '_, '_>) -> Result<(), Refusal> {
    let value = match field::<Value>(patch, "typoTolerance")? {
        Setting::Set(value) => value,
        // The rule about numbers is kept: 1.15 does the same.
        Setting::Reset => json!({
            "enabled": null, "minWordSizeForTypos": null, "disableOnWords": null,
            "disableOnAttributes": null,
        }),
        Setting::NotSet => return Ok(()),
    };
    match field(&value, "enabled")? {
        Setting::Set(enabled) => builder.set_autorize_typos(enabled),
        Setting::Reset => builder.reset_authorize_typos(),
        Setting::NotSet => {}
    }
    let sizes = match field::<Value>(&value, "minWordSizeForTypos")? {
        Setting::Set(sizes) => sizes,
        Setting::Reset => json!({ "oneTypo": null, "twoTypos": null }),
        Setting::NotSet => json!({}),
    };
    match field(&sizes, "oneTypo")? {
        Setting::Set(length) => builder.set_min_word_len_one_typo(length),
        Setting::Reset => builder.reset_min_word_len_one_typo(),
        Setting::NotSet => {}
    }
    match field(&sizes, "twoTypos")? {
        Setting::Set(length) => builder.set_min_word_len_two_typos(length),
        Setting::Reset => builder.reset_min_word_len_two_typos(),
        Setting::NotSet => {}
    }
    match field(&value, "disableOnWords")? {
        Setting::Set(words) => builder.set_exact_words(words),
        Setting::Reset => builder.reset_exact_words(),
        Setting::NotSet => {}
    }
    match field(&value, "disableOnAttributes")? {
        Setting::Set(names) => builder.set_exact_attributes(names),
        Setting::Reset => builder.reset_exact_attributes(),
        Setting::NotSet => {}
    }
    match field(&value, "disableOnNumbers")? {
        Setting::Set(disabled) => builder.set_disable_on_numbers(disabled),
        Setting::Reset => builder.reset_disable_on_numbers(),
        Setting::NotSet => {}
    }
    Ok(())
}

fn apply_limits(patch: &Value, builder: &mut Builder<'_, '_, '_>) -> Result<(), Refusal> {
    let faceting = match field::<Value>(patch, "faceting")? {
        Setting::Set(value) => value,
        Setting::Reset => json!({ "maxValuesPerFacet": null, "sortFacetValuesBy": null }),
        Setting::NotSet => json!({}),
    };
    match field(&faceting, "maxValuesPerFacet")? {
        Setting::Set(limit) => builder.set_max_values_per_facet(limit),
        Setting::Reset => builder.reset_max_values_per_facet(),
        Setting::NotSet => {}
    }
    match field::<BTreeMap<String, FacetOrder>>(&faceting, "sortFacetValuesBy")? {
        Setting::Set(orders) => builder.set_sort_facet_values_by(
            orders.into_iter().map(|(name, order)| (name, order.into())).collect(),
        ),
        Setting::Reset => builder.reset_sort_facet_values_by(),
        Setting::NotSet => {}
    }
    let pagination = match field::<Value>(patch, "pagination")? {
        Setting::Set(value) => value,
        Setting::Reset => json!({ "maxTotalHits": null }),
        Setting::NotSet => json!({}),
    };
    match field(&pagination, "maxTotalHits")? {
        Setting::Set(limit) => builder.set_pagination_max_total_hits(limit),
        Setting::Reset => builder.reset_pagination_max_total_hits(),
        Setting::NotSet => {}
    }
    match field::<ProximityPrecision>(patch, "proximityPrecision")? {
        Setting::Set(precision) => builder.set_proximity_precision(precision),
        Setting::Reset => builder.reset_proximity_precision(),
        Setting::NotSet => {}
    }
    match field(patch, "searchCutoffMs")? {
        Setting::Set(cutoff_ms) => builder.set_search_cutoff(cutoff_ms),
        Setting::Reset => builder.reset_search_cutoff(),
        Setting::NotSet => {}
    }
    match field::<PrefixSearch>(patch, "prefixSearch")? {
        Setting::Set(mode) => builder.set_prefix_search(mode),
        Setting::Reset => builder.reset_prefix_search(),
        Setting::NotSet => {}
    }
    match field(patch, "facetSearch")? {
        Setting::Set(enabled) => builder.set_facet_search(enabled),
        Setting::Reset => builder.reset_facet_search(),
        Setting::NotSet => {}
    }
    Ok(())
}

type Embedders = BTreeMap<String, Setting<EmbeddingSettings>>;

fn embedders(patch: &Value) -> Result<Setting<Embedders>, ApiError> {
    field(patch, "embedders")
}

fn field<T: DeserializeOwned>(object: &Value, name: &str) -> Result<Setting<T>, ApiError> {
    match object.get(name) {
        None => Ok(Setting::NotSet),
        Some(Value::Null) => Ok(Setting::Reset),
        Some(value) => T::deserialize(value)
            .map(Setting::Set)
            .map_err(|error| malformed(name, &error.to_string())),
    }
}

fn malformed(name: &str, reason: &str) -> ApiError {
    ApiError::new(Code::BadRequest, format!("Invalid value at `.{name}`: {reason}"))
}

/// A `*` among the names means all of them, which is the default.
fn all_if_star(names: Setting<Vec<String>>) -> Setting<Vec<String>> {
    match names {
        Setting::Set(names) if names.iter().any(|name| name == "*") => Setting::Reset,
        other => other,
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LocalizedRule {
    attribute_patterns: Vec<String>,
    locales: Vec<String>,
}

impl LocalizedRule {
    /// `None` when a locale is unknown.
    fn into_engine(self) -> Option<LocalizedAttributesRule> {
        let locales = self.locales.iter().map(|code| language(code)).collect::<Option<_>>()?;
        Some(LocalizedAttributesRule::new(self.attribute_patterns, locales))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
enum FacetOrder {
    Alpha,
    Count,
}

impl From<FacetOrder> for OrderBy {
    fn from(order: FacetOrder) -> Self {
        match order {
            FacetOrder::Alpha => OrderBy::Lexicographic,
            FacetOrder::Count => OrderBy::Count,
        }
    }
}

/// All settings of an index in their JSON form; `null` where a list was never restricted.
///
/// # Errors
/// When the index can't be read.
pub fn read_settings(index: &Index, rtxn: &RoTxn<'_>) -> Result<Value, milli::Error> {
    let mut settings = Map::new();
    let mut put = |name: &str, value: Value| settings.insert(name.to_owned(), value);

    put("displayedAttributes", json!(index.displayed_fields(rtxn)?));
    put("searchableAttributes", json!(index.user_defined_searchable_fields(rtxn)?));
    put("filterableAttributes", json!(index.filterable_attributes_rules(rtxn)?));
    put(
        "sortableAttributes",
        json!(index.sortable_fields(rtxn)?.into_iter().collect::<BTreeSet<_>>()),
    );
    let rules: Vec<_> = index.criteria(rtxn)?.iter().map(ToString::to_string).collect();
    put("rankingRules", json!(rules));
    let stop_words = match index.stop_words(rtxn)? {
        Some(words) => words.stream().into_strs().map_err(milli::InternalError::from)?,
        None => Vec::new(),
    };
    put("stopWords", json!(stop_words));
    put("nonSeparatorTokens", json!(index.non_separator_tokens(rtxn)?.unwrap_or_default()));
    put("separatorTokens", json!(index.separator_tokens(rtxn)?.unwrap_or_default()));
    put("dictionary", json!(index.dictionary(rtxn)?.unwrap_or_default()));
    put("synonyms", json!(index.user_defined_synonyms(rtxn)?));
    put("distinctAttribute", json!(index.distinct_field(rtxn)?));
    put("proximityPrecision", json!(index.proximity_precision(rtxn)?.unwrap_or_default()));
    put("typoTolerance", read_typo_tolerance(index, rtxn)?);
    put("faceting", read_faceting(index, rtxn)?);
    let max_total_hits = index.pagination_max_total_hits(rtxn)?;
    put("pagination", json!({ "maxTotalHits": max_total_hits.unwrap_or(MAX_TOTAL_HITS_DEFAULT) }));
    let embedders: BTreeMap<_, _> = index
        .embedding_configs(rtxn)?
        .into_iter()
        .map(|IndexEmbeddingConfig { name, config, .. }| (name, EmbeddingSettings::from(config)))
        .collect();
    put("embedders", json!(embedders));
    put("searchCutoffMs", json!(index.search_cutoff(rtxn)?));
    put("localizedAttributes", read_localized(index, rtxn)?);
    put("facetSearch", json!(index.facet_search(rtxn)?));
    put("prefixSearch", json!(index.prefix_search(rtxn)?.unwrap_or_default()));
    Ok(Value::Object(settings))
}

fn read_typo_tolerance(index: &Index, rtxn: &RoTxn<'_>) -> Result<Value, milli::Error> {
    let words = match index.exact_words(rtxn)? {
        Some(words) => words.stream().into_strs().map_err(milli::InternalError::from)?,
        None => Vec::new(),
    };
    let attributes: BTreeSet<_> = index.exact_attributes(rtxn)?.into_iter().collect();
    Ok(json!({
        "enabled": index.authorize_typos(rtxn)?,
        "minWordSizeForTypos": {
            "oneTypo": index.min_word_len_one_typo(rtxn)?,
            "twoTypos": index.min_word_len_two_typos(rtxn)?,
        },
        "disableOnWords": words,
        "disableOnAttributes": attributes,
        "disableOnNumbers": index.disabled_typos_terms(rtxn)?.disable_on_numbers,
    }))
}

fn read_faceting(index: &Index, rtxn: &RoTxn<'_>) -> Result<Value, milli::Error> {
    let orders: BTreeMap<String, &str> = index
        .sort_facet_values_by(rtxn)?
        .into_iter()
        .map(|(name, order)| match order {
            OrderBy::Lexicographic => (name, "alpha"),
            OrderBy::Count => (name, "count"),
        })
        .collect();
    let limit = index.max_values_per_facet(rtxn)?.unwrap_or(DEFAULT_VALUES_PER_FACET as u64);
    Ok(json!({ "maxValuesPerFacet": limit, "sortFacetValuesBy": orders }))
}

fn read_localized(index: &Index, rtxn: &RoTxn<'_>) -> Result<Value, milli::Error> {
    let Some(rules) = index.localized_attributes_rules(rtxn)? else { return Ok(Value::Null) };
    let rules = rules.iter().map(|rule| {
        let locales: Vec<_> = rule.locales.iter().map(|language| language.code()).collect();
        json!({ "attributePatterns": rule.attribute_patterns, "locales": locales })
    });
    Ok(rules.collect())
}
