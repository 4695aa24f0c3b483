//! The index settings that are tried. Each variant is an index of its own, with the same
//! documents (the one with vectors holds a few), loaded through a different series of writes.
//!
//! Where a variant hides what ties are judged by (hidden attributes, an index-level distinct),
//! the reference also gets a *twin* without that setting, which only the judge asks.

use serde_json::{Value, json};

use super::documents::EMBEDDER;
use super::profile::Profile;

/// One index with its settings, and what its queries may ask.
#[derive(Clone, Debug)]
pub struct Variant {
    /// The index's uid.
    pub index: &'static str,
    /// The settings as sent.
    pub settings: Value,
    /// Settings of the twin, when there is one.
    pub twin_settings: Option<Value>,
    /// Whether settings are sent before the documents, or after.
    pub settings_first: bool,
    /// The field of an index-level distinct.
    pub distinct: Option<&'static str>,
    /// Whether the documents carry vectors.
    pub vectors: bool,
    /// `maxTotalHits`.
    pub total_hits_max: u64,
    /// `searchableAttributes`, when not all.
    pub searchable: Option<Vec<String>>,
}

impl Variant {
    /// The index that the judge asks about ties, on the reference.
    pub fn twin_index(&self) -> String {
        match self.twin_settings {
            Some(_) => format!("{}-twin", self.index),
            None => self.index.to_owned(),
        }
    }
}

/// All variants for documents of this profile.
pub fn variants(profile: &Profile) -> Vec<Variant> {
    let shape = Shape::of(profile);
    vec![
        shape.plain(),
        shape.sort_between(),
        shape.custom_rules(),
        shape.hidden(),
        shape.distinct(),
        shape.language(),
        shape.granular(),
        shape.vectors(),
    ]
}

/// Names by duty, drawn from the profile.
struct Shape {
    filterable: Vec<String>,
    sortable: Vec<String>,
    /// A number field with many values, for custom rules.
    number: String,
    /// Another one.
    other_number: String,
    category: String,
    texts: Vec<String>,
}

impl Shape {
    fn of(profile: &Profile) -> Self {
        let numbers = profile.numbers.iter().map(|field| field.name.clone());
        let categories = profile.categories.iter().map(|field| field.name.clone());
        let mut filterable: Vec<String> = numbers.clone().chain(categories.clone()).collect();
        filterable.extend(["id", "mixed", "flag", "empty", "_geo"].map(str::to_owned));
        let mut sortable: Vec<String> = numbers.chain(categories).collect();
        sortable.extend(["id", "mixed", "_geo"].map(str::to_owned));
        let mut by_size: Vec<_> = profile.numbers.iter().collect();
        by_size.sort_by_key(|field| std::cmp::Reverse(field.values.len()));
        let number = |n: usize| {
            by_size.get(n).map_or_else(|| "nested.score".to_owned(), |field| field.name.clone())
        };
        let category = profile.categories.iter().find(|field| field.values.len() > 12);
        Self {
            filterable,
            sortable,
            number: number(0),
            other_number: number(1),
            category: category.map_or_else(|| "bucket".to_owned(), |field| field.name.clone()),
            texts: profile.texts.clone(),
        }
    }

    fn base(&self, index: &'static str, settings: Value) -> Variant {
        let mut whole = json!({
            "filterableAttributes": self.filterable,
            "sortableAttributes": self.sortable,
        });
        merge(&mut whole, &settings);
        Variant {
            index,
            settings: whole,
            twin_settings: None,
            settings_first: true,
            distinct: None,
            vectors: false,
            total_hits_max: 1000,
            searchable: None,
        }
    }

    fn with_twin(variant: Variant, changes: Value) -> Variant {
        let mut twin = variant.settings.clone();
        merge(&mut twin, &changes);
        Variant { twin_settings: Some(twin), ..variant }
    }

    /// Default rules.
    fn plain(&self) -> Variant {
        self.base("plain", json!({}))
    }

    /// Sort between relevance rules; few facet values, by count.
    fn sort_between(&self) -> Variant {
        let settings = json!({
            "rankingRules": ["words", "sort", "typo", "proximity", "attribute", "exactness"],
            "faceting": { "maxValuesPerFacet": 5, "sortFacetValuesBy": { "*": "count" } },
            "pagination": { "maxTotalHits": 150 },
        });
        let base = self.base("sort-between", settings);
        Variant { settings_first: false, total_hits_max: 150, ..base }
    }

    /// Custom rules at several places; facet order differs by field.
    fn custom_rules(&self) -> Variant {
        let settings = json!({
            "rankingRules": [
                "words", "typo", format!("{}:desc", self.number), "proximity", "sort",
                "mixed:asc", "attribute", "exactness", format!("{}:asc", self.other_number),
            ],
            "faceting": {
                "maxValuesPerFacet": 8,
                "sortFacetValuesBy": { "*": "alpha", self.category.clone(): "count" },
            },
        });
        self.base("custom-rules", settings)
    }

    /// The sort comes first and most attributes are hidden.
    fn hidden(&self) -> Variant {
        let mut displayed = vec!["id".to_owned(), "tags".to_owned(), self.category.clone()];
        displayed.extend(self.texts.first().cloned());
        let settings = json!({
            "rankingRules": [
                "sort", format!("{}:asc", self.number), "words", "typo", "proximity",
                "attribute", "exactness", "mixed:desc",
            ],
            "displayedAttributes": displayed,
        });
        let base = self.base("hidden", settings);
        let base = Variant { settings_first: false, ..base };
        Self::with_twin(base, json!({ "displayedAttributes": ["*"] }))
    }

    /// An index-level distinct attribute.
    fn distinct(&self) -> Variant {
        let settings = json!({
            "distinctAttribute": "bucket",
            "faceting": { "maxValuesPerFacet": 20 },
        });
        let base = Variant { distinct: Some("bucket"), ..self.base("distinct", settings) };
        Self::with_twin(base, json!({ "distinctAttribute": null }))
    }

    /// Everything about words: searchable order, synonyms, stop words, separators, typos.
    fn language(&self) -> Variant {
        let mut searchable = vec!["tags".to_owned()];
        searchable.extend(self.texts.iter().cloned());
        searchable.push(self.category.clone());
        let settings = json!({
            "searchableAttributes": searchable,
            "stopWords": ["the", "of", "a", "and"],
            "synonyms": { "dead": ["living", "night"], "love": ["heart"], "state": ["condition"] },
            "nonSeparatorTokens": ["#"],
            "separatorTokens": ["|"],
            "dictionary": ["J. R. R."],
            "proximityPrecision": "byAttribute",
            "prefixSearch": "indexingTime",
            "typoTolerance": {
                "minWordSizeForTypos": { "oneTypo": 4, "twoTypos": 8 },
                "disableOnWords": ["house"],
                "disableOnAttributes": [self.category.clone()],
            },
            "rankingRules": ["words", "typo", "attribute", "proximity", "exactness", "sort"],
        });
        let base = self.base("language", settings);
        Variant { searchable: Some(searchable), ..base }
    }

    /// Granular filterable attributes with patterns, no typos, no prefixes, numbers by count.
    fn granular(&self) -> Variant {
        let filterable = json!([
            { "attributePatterns": ["nested.*", "bucket"],
              "features": { "facetSearch": true, "filter": { "equality": true, "comparison": true } } },
            { "attributePatterns": ["*"],
              "features": { "facetSearch": false, "filter": { "equality": true, "comparison": true } } },
        ]);
        let settings = json!({
            "filterableAttributes": filterable,
            "typoTolerance": { "enabled": false },
            "prefixSearch": "disabled",
            "faceting": { "maxValuesPerFacet": 30, "sortFacetValuesBy": { "*": "count" } },
            "rankingRules": ["typo", "words", "exactness", "proximity", "attribute", "sort"],
        });
        let base = self.base("granular", settings);
        Variant { settings_first: false, ..base }
    }

    /// Given vectors.
    fn vectors(&self) -> Variant {
        let dimensions = super::documents::VECTOR_DIMENSIONS;
        let embedder = json!({ "source": "userProvided", "dimensions": dimensions });
        let settings = json!({ "embedders": { EMBEDDER: embedder } });
        Variant { vectors: true, ..self.base("vectors", settings) }
    }
}

/// Puts the keys of `changes` into `whole`, replacing values.
fn merge(whole: &mut Value, changes: &Value) {
    if let (Some(whole), Some(changes)) = (whole.as_object_mut(), changes.as_object()) {
        for (key, value) in changes {
            whole.insert(key.clone(), value.clone());
        }
    }
}
