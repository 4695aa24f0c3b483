//! The settings that have an inside: typo tolerance, faceting, pagination, filterable and localized attributes.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::num::NonZeroUsize;

use deserr::{
    DeserializeError, Deserr, ErrorKind, IntoValue, MergeWithError, Value, ValueKind,
    ValuePointerRef, take_cf_content,
};
use serde::Serialize;

use super::Setting;
use crate::error::mark;
use crate::parse::JsonFault;
use crate::search::Locale;

type TypoFault = JsonFault<mark::InvalidSettingsTypoTolerance>;

/// Which typos are forgiven.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserr)]
#[serde(rename_all = "camelCase")]
#[deserr(deny_unknown_fields, rename_all = camelCase, where_predicate = __Deserr_E: MergeWithError<TypoFault>)]
pub struct TypoTolerance {
    /// Whether any is.
    #[serde(skip_serializing_if = "Setting::is_not_set")]
    #[deserr(default)]
    pub enabled: Setting<bool>,
    /// In words of which length.
    #[serde(skip_serializing_if = "Setting::is_not_set")]
    #[deserr(default, error = TypoFault)]
    pub min_word_size_for_typos: Setting<MinWordSize>,
    /// Words in which none is.
    #[serde(skip_serializing_if = "Setting::is_not_set")]
    #[deserr(default)]
    pub disable_on_words: Setting<BTreeSet<String>>,
    /// Attributes in which none is.
    #[serde(skip_serializing_if = "Setting::is_not_set")]
    #[deserr(default)]
    pub disable_on_attributes: Setting<BTreeSet<String>>,
    /// Whether none is in numbers.
    #[serde(skip_serializing_if = "Setting::is_not_set")]
    #[deserr(default)]
    pub disable_on_numbers: Setting<bool>,
}

impl TypoTolerance {
    pub(super) fn merge(&mut self, change: &TypoTolerance) {
        self.enabled.merge(&change.enabled);
        self.min_word_size_for_typos.merge_inside(
            &change.min_word_size_for_typos,
            |present, change| {
                present.one_typo.merge(&change.one_typo);
                present.two_typos.merge(&change.two_typos);
            },
        );
        self.disable_on_words.merge(&change.disable_on_words);
        self.disable_on_attributes.merge(&change.disable_on_attributes);
        self.disable_on_numbers.merge(&change.disable_on_numbers);
    }
}

/// From which length on, in characters, a word may have typos.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserr)]
#[serde(rename_all = "camelCase")]
#[deserr(deny_unknown_fields, rename_all = camelCase, validate = check_word_sizes -> TypoFault)]
pub struct MinWordSize {
    /// One typo.
    #[serde(skip_serializing_if = "Setting::is_not_set")]
    #[deserr(default)]
    pub one_typo: Setting<u8>,
    /// Two typos; not below `one_typo`.
    #[serde(skip_serializing_if = "Setting::is_not_set")]
    #[deserr(default)]
    pub two_typos: Setting<u8>,
}

fn check_word_sizes<E: DeserializeError>(
    sizes: MinWordSize,
    location: ValuePointerRef,
) -> Result<MinWordSize, E> {
    match (sizes.one_typo, sizes.two_typos) {
        (Setting::Set(one), Setting::Set(two)) if one > two => {
            let msg = format!(
                "`minWordSizeForTypos` setting is invalid. `oneTypo` and `twoTypos` fields should be between `0` and \
                 `255`, and `twoTypos` should be greater or equals to `oneTypo` but found `oneTypo: {one}` and \
                 twoTypos: {two}`."
            );
            Err(take_cf_content(E::error::<Infallible>(
                None,
                ErrorKind::Unexpected { msg },
                location,
            )))
        }
        _ => Ok(sizes),
    }
}

/// How many facet values are shown, in which order.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserr)]
#[serde(rename_all = "camelCase")]
#[deserr(rename_all = camelCase, deny_unknown_fields)]
pub struct Faceting {
    /// Values per facet.
    #[serde(skip_serializing_if = "Setting::is_not_set")]
    #[deserr(default)]
    pub max_values_per_facet: Setting<usize>,
    /// The order, by attribute; `*` stands for the others.
    #[serde(skip_serializing_if = "Setting::is_not_set")]
    #[deserr(default)]
    pub sort_facet_values_by: Setting<BTreeMap<String, FacetOrder>>,
}

impl Faceting {
    pub(super) fn merge(&mut self, change: &Faceting) {
        self.max_values_per_facet.merge(&change.max_values_per_facet);
        self.sort_facet_values_by.merge(&change.sort_facet_values_by);
    }
}

/// The order of facet values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserr)]
#[serde(rename_all = "camelCase")]
#[deserr(rename_all = camelCase)]
pub enum FacetOrder {
    /// By value.
    #[default]
    Alpha,
    /// By count, the greatest first.
    Count,
}

/// How many hits can be reached.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserr)]
#[serde(rename_all = "camelCase")]
#[deserr(rename_all = camelCase, deny_unknown_fields)]
pub struct Pagination {
    /// Hits in all windows of one search together.
    #[serde(skip_serializing_if = "Setting::is_not_set")]
    #[deserr(default)]
    pub max_total_hits: Setting<NonZeroUsize>,
}

impl Pagination {
    pub(super) fn merge(&mut self, change: &Pagination) {
        self.max_total_hits.merge(&change.max_total_hits);
    }
}

/// How finely nearness of words is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserr)]
#[serde(rename_all = "camelCase")]
#[deserr(error = JsonFault<mark::InvalidSettingsProximityPrecision>, rename_all = camelCase, deny_unknown_fields)]
pub enum ProximityPrecision {
    /// In words.
    #[default]
    ByWord,
    /// In attributes.
    ByAttribute,
}

/// Whether the beginnings of words are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserr)]
#[serde(rename_all = "camelCase")]
#[deserr(error = JsonFault<mark::InvalidSettingsPrefixSearch>, rename_all = camelCase, deny_unknown_fields)]
pub enum PrefixSearch {
    /// They are indexed.
    #[default]
    IndexingTime,
    /// Whole words only.
    Disabled,
}

/// One entry of `filterableAttributes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum FilterableRule {
    /// An attribute (and what is below it), with every feature.
    Field(String),
    /// Attributes by pattern, with chosen features.
    Pattern(PatternRule),
}

impl<E: DeserializeError> Deserr<E> for FilterableRule {
    fn deserialize_from_value<V: IntoValue>(
        value: Value<V>,
        location: ValuePointerRef,
    ) -> Result<Self, E> {
        if value.kind() == ValueKind::Map {
            PatternRule::deserialize_from_value(value, location).map(FilterableRule::Pattern)
        } else {
            String::deserialize_from_value(value, location).map(FilterableRule::Field)
        }
    }
}

/// Attributes by pattern, with chosen features.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserr)]
#[serde(rename_all = "camelCase")]
#[deserr(rename_all = camelCase, deny_unknown_fields)]
pub struct PatternRule {
    /// Names, in which `*` may stand at either end.
    pub attribute_patterns: Vec<String>,
    /// What can be done with them.
    #[deserr(default)]
    pub features: PatternFeatures,
}

/// What can be done with attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserr)]
#[serde(rename_all = "camelCase")]
#[deserr(rename_all = camelCase, deny_unknown_fields)]
pub struct PatternFeatures {
    /// Searching their values.
    #[deserr(default)]
    pub facet_search: bool,
    /// Filtering by them.
    #[deserr(default)]
    pub filter: FilterFeatures,
}

/// Which filters can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserr)]
#[deserr(rename_all = camelCase, deny_unknown_fields)]
pub struct FilterFeatures {
    /// `=`, `!=`, `IN`.
    #[deserr(default = true)]
    pub equality: bool,
    /// `<`, `>`, `TO` and their like.
    #[deserr(default)]
    pub comparison: bool,
}

impl Default for FilterFeatures {
    fn default() -> Self {
        FilterFeatures { equality: true, comparison: false }
    }
}

/// In which languages attributes are written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserr)]
#[serde(rename_all = "camelCase")]
#[deserr(rename_all = camelCase)]
pub struct LocalizedRule {
    /// Names, in which `*` may stand at either end.
    pub attribute_patterns: Vec<String>,
    /// The languages; none is any.
    pub locales: Vec<Locale>,
}
