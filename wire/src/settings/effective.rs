//! What settings come to: every field with its default filled in, as `GET settings` prints it.

use serde_json::{Map, Value, json};

use super::embedder::{OPEN_AI_MODEL_DEFAULT, effective_source};
use super::{
    DEFAULT_RANKING_RULES, Embedder, EmbedderSource, FacetOrder, LocalizedRule, Setting, Settings,
};

/// Facet values shown when `faceting.maxValuesPerFacet` is not set.
pub const MAX_VALUES_PER_FACET_DEFAULT: usize = 100;
/// Hits that can be reached when `pagination.maxTotalHits` is not set.
pub const MAX_TOTAL_HITS_DEFAULT: usize = 1000;

const ONE_TYPO_DEFAULT: u8 = 5;
const TWO_TYPOS_DEFAULT: u8 = 9;
const TEMPLATE_DEFAULT: &str = "{% for field in fields %}{% if field.is_searchable and field.value != nil %}\
    {{ field.name }}: {{ field.value }}\n{% endif %}{% endfor %}";
const TEMPLATE_BYTES_DEFAULT: usize = 400;
const HUGGING_FACE_MODEL_DEFAULT: &str = "BAAI/bge-base-en-v1.5";
const HUGGING_FACE_REVISION_DEFAULT: &str = "617ca489d9e86b49b8167676d8220688b99db36e";

/// The value that is set, else the default.
fn or<T: serde::Serialize>(setting: &Setting<T>, default: impl FnOnce() -> Value) -> Value {
    match setting {
        Setting::Set(value) => serde_json::to_value(value).unwrap_or(Value::Null),
        Setting::Reset | Setting::NotSet => default(),
    }
}

/// `["*"]` in any company means all attributes.
fn attributes(setting: &Setting<Vec<String>>) -> Value {
    match setting {
        Setting::Set(names) if !names.iter().any(|name| name == "*") => json!(names),
        _ => json!(["*"]),
    }
}

impl Settings {
    /// Every field, as `GET settings` prints it (secrets hidden).
    pub fn effective(&self) -> Value {
        let none = || json!([]);
        json!({
            "displayedAttributes": attributes(&self.displayed_attributes),
            "searchableAttributes": attributes(&self.searchable_attributes),
            "filterableAttributes": or(&self.filterable_attributes, none),
            "sortableAttributes": or(&self.sortable_attributes, none),
            "rankingRules": or(&self.ranking_rules, || json!(DEFAULT_RANKING_RULES)),
            "stopWords": or(&self.stop_words, none),
            "nonSeparatorTokens": or(&self.non_separator_tokens, none),
            "separatorTokens": or(&self.separator_tokens, none),
            "dictionary": or(&self.dictionary, none),
            "synonyms": or(&self.synonyms, || json!({})),
            "distinctAttribute": or(&self.distinct_attribute, || Value::Null),
            "proximityPrecision": or(&self.proximity_precision, || json!("byWord")),
            "typoTolerance": self.effective_typo_tolerance(),
            "faceting": self.effective_faceting(),
            "pagination": { "maxTotalHits": self.max_total_hits() },
            "embedders": self.effective_embedders(),
            "searchCutoffMs": or(&self.search_cutoff_ms, || Value::Null),
            "localizedAttributes": or(&self.localized_in_long_form(), || Value::Null),
            "facetSearch": or(&self.facet_search, || json!(true)),
            "prefixSearch": or(&self.prefix_search, || json!("indexingTime")),
        })
    }

    fn localized_in_long_form(&self) -> Setting<Vec<LocalizedRule>> {
        let mut localized = self.localized_attributes.clone();
        if let Setting::Set(rules) = &mut localized {
            for locale in rules.iter_mut().flat_map(|rule| &mut rule.locales) {
                *locale = locale.in_long_form();
            }
        }
        localized
    }

    /// `pagination.maxTotalHits`, default filled in.
    pub fn max_total_hits(&self) -> usize {
        match &self.pagination {
            Setting::Set(pagination) => {
                pagination.max_total_hits.set().map_or(MAX_TOTAL_HITS_DEFAULT, Into::into)
            }
            Setting::Reset | Setting::NotSet => MAX_TOTAL_HITS_DEFAULT,
        }
    }

    /// `faceting.maxValuesPerFacet`, default filled in.
    pub fn max_values_per_facet(&self) -> usize {
        match &self.faceting {
            Setting::Set(faceting) => {
                faceting.max_values_per_facet.set().unwrap_or(MAX_VALUES_PER_FACET_DEFAULT)
            }
            Setting::Reset | Setting::NotSet => MAX_VALUES_PER_FACET_DEFAULT,
        }
    }

    /// The order of an attribute's facet values.
    pub fn facet_order(&self, attribute: &str) -> FacetOrder {
        let Setting::Set(faceting) = &self.faceting else { return FacetOrder::Alpha };
        let Setting::Set(orders) = &faceting.sort_facet_values_by else { return FacetOrder::Alpha };
        orders.get(attribute).or_else(|| orders.get("*")).copied().unwrap_or_default()
    }

    /// The ranking rules, defaults filled in.
    pub fn ranking_rules(&self) -> &[super::RankingRule] {
        match &self.ranking_rules {
            Setting::Set(rules) => rules,
            Setting::Reset | Setting::NotSet => &DEFAULT_RANKING_RULES,
        }
    }

    /// The displayed attributes, unless all are.
    pub fn displayed(&self) -> Option<&[String]> {
        match &self.displayed_attributes {
            Setting::Set(names) if !names.iter().any(|name| name == "*") => Some(names),
            _ => None,
        }
    }

    fn effective_typo_tolerance(&self) -> Value {
        let typo = self.typo_tolerance.clone().set().unwrap_or_default();
        let sizes = typo.min_word_size_for_typos.set().unwrap_or_default();
        json!({
            "enabled": or(&typo.enabled, || json!(true)),
            "minWordSizeForTypos": {
                "oneTypo": or(&sizes.one_typo, || json!(ONE_TYPO_DEFAULT)),
                "twoTypos": or(&sizes.two_typos, || json!(TWO_TYPOS_DEFAULT)),
            },
            "disableOnWords": or(&typo.disable_on_words, || json!([])),
            "disableOnAttributes": or(&typo.disable_on_attributes, || json!([])),
            "disableOnNumbers": or(&typo.disable_on_numbers, || json!(false)),
        })
    }

    fn effective_faceting(&self) -> Value {
        let faceting = self.faceting.clone().set().unwrap_or_default();
        let mut orders = faceting.sort_facet_values_by.clone().set().unwrap_or_default();
        orders.entry("*".to_owned()).or_insert(FacetOrder::Alpha);
        json!({ "maxValuesPerFacet": self.max_values_per_facet(), "sortFacetValuesBy": orders })
    }

    fn effective_embedders(&self) -> Value {
        let mut shown = Map::new();
        if let Setting::Set(embedders) = &self.embedders {
            for (name, embedder) in embedders {
                if let Setting::Set(embedder) = embedder {
                    shown.insert(name.clone(), effective_embedder(embedder.clone()));
                }
            }
        }
        Value::Object(shown)
    }
}

/// What a source fills in by itself; fields that stay without value are not printed.
fn effective_embedder(mut embedder: Embedder) -> Value {
    fn fill<T>(setting: &mut Setting<T>, default: T) {
        if !setting.is_set() {
            *setting = Setting::Set(default);
        }
    }
    let source = effective_source(&embedder.source);
    embedder.hide_secrets();
    embedder.source = Setting::Set(source);
    match source {
        EmbedderSource::OpenAi => fill(&mut embedder.model, OPEN_AI_MODEL_DEFAULT.to_owned()),
        EmbedderSource::HuggingFace => {
            if !embedder.model.is_set() {
                embedder.model = Setting::Set(HUGGING_FACE_MODEL_DEFAULT.to_owned());
                fill(&mut embedder.revision, HUGGING_FACE_REVISION_DEFAULT.to_owned());
            }
            fill(&mut embedder.pooling, super::Pooling::UseModel);
        }
        EmbedderSource::Rest => fill(&mut embedder.headers, Default::default()),
        EmbedderSource::Ollama | EmbedderSource::UserProvided | EmbedderSource::Composite => {}
    }
    if source.has_template() {
        fill(&mut embedder.document_template, TEMPLATE_DEFAULT.to_owned());
        fill(&mut embedder.document_template_max_bytes, TEMPLATE_BYTES_DEFAULT);
    }
    let mut value = serde_json::to_value(&embedder).unwrap_or(Value::Null);
    if let Value::Object(map) = &mut value {
        map.retain(|_, value| !value.is_null());
    }
    value
}
