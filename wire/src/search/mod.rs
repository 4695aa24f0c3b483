//! Search queries: what `POST` and `GET /indexes/{uid}/search` and `similar`, `POST facet-search`
//! and `POST /multi-search` ask for.

mod facet;
mod locale;
mod multi;
pub(crate) mod params;
mod rule_order;
mod similar;

pub use facet::FacetSearchQuery;
pub use locale::{Locale, UnknownLocale};
pub use multi::{Federation, FederationOptions, MergeFacets, MultiSearchQuery, Weight};
pub use rule_order::{OrderCheck, RankedBy, RuleOrder};
pub use similar::SimilarQuery;

use std::collections::BTreeSet;

use deserr::{
    DeserializeError, Deserr, IntoValue, MergeWithError, ValuePointerRef, take_cf_content,
};
use serde::Serialize;
use serde_json::Value;

use crate::error::{ApiError, Code, mark};
use crate::parse::{JsonFault, Unfit, from_json};

/// Hits answered with when `limit` is not given.
pub const LIMIT_DEFAULT: usize = 20;
/// Words in a cropped value when `cropLength` is not given.
pub const CROP_LENGTH_DEFAULT: usize = 10;
/// What marks a cut when `cropMarker` is not given.
pub const CROP_MARKER_DEFAULT: &str = "…";
/// What stands before a match when `highlightPreTag` is not given.
pub const PRE_TAG_DEFAULT: &str = "<em>";
/// What stands after a match when `highlightPostTag` is not given.
pub const POST_TAG_DEFAULT: &str = "</em>";

/// A search. Serialises to the body of `POST search`, without what equals its default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserr)]
#[serde(rename_all = "camelCase")]
#[deserr(error = JsonFault, rename_all = camelCase, deny_unknown_fields)]
pub struct SearchQuery {
    /// The words; none is a search for everything.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[deserr(default, error = JsonFault<mark::InvalidSearchQ>)]
    pub q: Option<String>,
    /// A vector to compare with.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[deserr(default, error = JsonFault<mark::InvalidSearchVector>)]
    pub vector: Option<Vec<f32>>,
    /// How vectors take part.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[deserr(default, error = JsonFault<mark::InvalidSearchHybridQuery>)]
    pub hybrid: Option<HybridQuery>,
    /// Hits to leave out first.
    #[serde(skip_serializing_if = "is_zero")]
    #[deserr(default, error = JsonFault<mark::InvalidSearchOffset>)]
    pub offset: usize,
    /// Hits to answer with.
    #[serde(skip_serializing_if = "is_limit_default")]
    #[deserr(default = LIMIT_DEFAULT, error = JsonFault<mark::InvalidSearchLimit>)]
    pub limit: usize,
    /// The page, from 1; asks for exact totals.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[deserr(default, error = JsonFault<mark::InvalidSearchPage>)]
    pub page: Option<usize>,
    /// Hits in a page; asks for exact totals.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[deserr(default, error = JsonFault<mark::InvalidSearchHitsPerPage>)]
    pub hits_per_page: Option<usize>,
    /// The attributes hits are shown with.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[deserr(default, error = JsonFault<mark::InvalidSearchAttributesToRetrieve>)]
    pub attributes_to_retrieve: Option<BTreeSet<String>>,
    /// Whether `_vectors` is wanted.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[deserr(default, error = JsonFault<mark::InvalidSearchRetrieveVectors>)]
    pub retrieve_vectors: bool,
    /// The attributes to crop in `_formatted`, each perhaps with its own length (`overview:20`).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[deserr(default, error = JsonFault<mark::InvalidSearchAttributesToCrop>)]
    pub attributes_to_crop: Option<Vec<String>>,
    /// Words in a cropped value.
    #[serde(skip_serializing_if = "is_crop_length_default")]
    #[deserr(default = CROP_LENGTH_DEFAULT, error = JsonFault<mark::InvalidSearchCropLength>)]
    pub crop_length: usize,
    /// The attributes to highlight in `_formatted`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[deserr(default, error = JsonFault<mark::InvalidSearchAttributesToHighlight>)]
    pub attributes_to_highlight: Option<BTreeSet<String>>,
    /// Whether `_matchesPosition` is wanted.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[deserr(default, error = JsonFault<mark::InvalidSearchShowMatchesPosition>)]
    pub show_matches_position: bool,
    /// Whether `_rankingScore` is wanted.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[deserr(default, error = JsonFault<mark::InvalidSearchShowRankingScore>)]
    pub show_ranking_score: bool,
    /// Whether `_rankingScoreDetails` is wanted.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[deserr(default, error = JsonFault<mark::InvalidSearchShowRankingScoreDetails>)]
    pub show_ranking_score_details: bool,
    /// Which documents may be hits: an expression, or arrays of them. What it means is for the engine to say.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[deserr(default, error = JsonFault<mark::InvalidSearchFilter>)]
    pub filter: Option<Value>,
    /// The order wanted: `price:asc`, `_geoPoint(1, 2):desc`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[deserr(default, error = JsonFault<mark::InvalidSearchSort>)]
    pub sort: Option<Vec<String>>,
    /// The attribute whose values appear once each.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[deserr(default, error = JsonFault<mark::InvalidSearchDistinct>)]
    pub distinct: Option<String>,
    /// The attributes whose values are counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[deserr(default, error = JsonFault<mark::InvalidSearchFacets>)]
    pub facets: Option<Vec<String>>,
    /// What stands before a highlighted match.
    #[serde(skip_serializing_if = "is_pre_tag_default")]
    #[deserr(default = PRE_TAG_DEFAULT.to_owned(), error = JsonFault<mark::InvalidSearchHighlightPreTag>)]
    pub highlight_pre_tag: String,
    /// What stands after a highlighted match.
    #[serde(skip_serializing_if = "is_post_tag_default")]
    #[deserr(default = POST_TAG_DEFAULT.to_owned(), error = JsonFault<mark::InvalidSearchHighlightPostTag>)]
    pub highlight_post_tag: String,
    /// What marks a cut in a cropped value.
    #[serde(skip_serializing_if = "is_crop_marker_default")]
    #[deserr(default = CROP_MARKER_DEFAULT.to_owned(), error = JsonFault<mark::InvalidSearchCropMarker>)]
    pub crop_marker: String,
    /// Which words may go unmatched.
    #[serde(skip_serializing_if = "is_strategy_default")]
    #[deserr(default, error = JsonFault<mark::InvalidSearchMatchingStrategy>)]
    pub matching_strategy: MatchingStrategy,
    /// The attributes searched in.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[deserr(default, error = JsonFault<mark::InvalidSearchAttributesToSearchOn>)]
    pub attributes_to_search_on: Option<Vec<String>>,
    /// The score a hit needs.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[deserr(default, error = JsonFault<mark::InvalidSearchRankingScoreThreshold>)]
    pub ranking_score_threshold: Option<RankingScoreThreshold>,
    /// The languages the words may be in.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[deserr(default, error = JsonFault<mark::InvalidSearchLocales>)]
    pub locales: Option<Vec<Locale>>,
}

impl Default for SearchQuery {
    fn default() -> Self {
        SearchQuery {
            q: None,
            vector: None,
            hybrid: None,
            offset: 0,
            limit: LIMIT_DEFAULT,
            page: None,
            hits_per_page: None,
            attributes_to_retrieve: None,
            retrieve_vectors: false,
            attributes_to_crop: None,
            crop_length: CROP_LENGTH_DEFAULT,
            attributes_to_highlight: None,
            show_matches_position: false,
            show_ranking_score: false,
            show_ranking_score_details: false,
            filter: None,
            sort: None,
            distinct: None,
            facets: None,
            highlight_pre_tag: PRE_TAG_DEFAULT.to_owned(),
            highlight_post_tag: POST_TAG_DEFAULT.to_owned(),
            crop_marker: CROP_MARKER_DEFAULT.to_owned(),
            matching_strategy: MatchingStrategy::Last,
            attributes_to_search_on: None,
            ranking_score_threshold: None,
            locales: None,
        }
    }
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}
fn is_limit_default(limit: &usize) -> bool {
    *limit == LIMIT_DEFAULT
}
fn is_crop_length_default(length: &usize) -> bool {
    *length == CROP_LENGTH_DEFAULT
}
fn is_pre_tag_default(tag: &str) -> bool {
    tag == PRE_TAG_DEFAULT
}
fn is_post_tag_default(tag: &str) -> bool {
    tag == POST_TAG_DEFAULT
}
fn is_crop_marker_default(marker: &str) -> bool {
    marker == CROP_MARKER_DEFAULT
}
fn is_strategy_default(strategy: &MatchingStrategy) -> bool {
    *strategy == MatchingStrategy::Last
}

impl SearchQuery {
    /// The body of `POST search`.
    ///
    /// # Errors
    /// `invalid_search_*`, `missing_search_hybrid`, and those of any JSON body.
    pub fn from_json(body: &[u8]) -> Result<SearchQuery, ApiError> {
        let query: SearchQuery = from_json::<_, mark::BadRequest>(body)?;
        query.check_hybrid()?;
        Ok(query)
    }

    /// The query string of `GET search`.
    ///
    /// # Errors
    /// `invalid_search_*`, `missing_search_hybrid`.
    pub fn from_query_string(query: &str) -> Result<SearchQuery, ApiError> {
        params::read(query)
    }

    /// Whether pages with exact totals were asked for, instead of a window with an estimate.
    pub fn is_finite_pagination(&self) -> bool {
        self.page.is_some() || self.hits_per_page.is_some()
    }

    /// A vector is only compared by an embedder's rules.
    ///
    /// # Errors
    /// `missing_search_hybrid`.
    pub fn check_hybrid(&self) -> Result<(), ApiError> {
        if self.vector.is_some() && self.hybrid.is_none() {
            return Err(ApiError::new(
                Code::MissingSearchHybrid,
                "Invalid request: missing `hybrid` parameter when `vector` is present.",
            ));
        }
        Ok(())
    }
}

/// Checks the shape of a filter: a text, or an array of texts and arrays of texts. Whether it says anything at all is
/// answered; what it says is for the engine to judge.
///
/// # Errors
/// `code`, which depends on the route.
pub fn check_filter_shape(filter: &Value, code: Code) -> Result<bool, ApiError> {
    let refused = |expected: &str, found: &Value| {
        let text = format!(
            "Invalid syntax for the filter parameter: `expected {expected}, found: {found}`."
        );
        Err(ApiError::new(code, text))
    };
    let says_something = |text: &str| !text.trim().is_empty();
    let terms = match filter {
        Value::String(text) => return Ok(says_something(text)),
        Value::Array(terms) => terms,
        other => return refused("String, Array", other),
    };
    let mut any = false;
    for term in terms {
        match term {
            Value::String(text) => any |= says_something(text),
            Value::Array(alternatives) => {
                for alternative in alternatives {
                    match alternative {
                        Value::String(text) => any |= says_something(text),
                        other => return refused("String", other),
                    }
                }
            }
            other => return refused("String, [String]", other),
        }
    }
    Ok(any)
}

/// How vectors take part in a search.
#[derive(Debug, Clone, PartialEq, Serialize, Deserr)]
#[serde(rename_all = "camelCase")]
#[deserr(error = JsonFault<mark::InvalidSearchHybridQuery>, rename_all = camelCase, deny_unknown_fields)]
pub struct HybridQuery {
    /// Their weight against words.
    #[deserr(default, error = JsonFault<mark::InvalidSearchSemanticRatio>)]
    pub semantic_ratio: SemanticRatio,
    /// Whose vectors.
    #[deserr(error = JsonFault<mark::InvalidSearchEmbedder>)]
    pub embedder: String,
}

/// A weight from 0 (words only) to 1 (vectors only).
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize)]
pub struct SemanticRatio(f32);

impl SemanticRatio {
    /// Vectors only.
    pub const ONE: SemanticRatio = SemanticRatio(1.0);
    /// Vectors before words, which still take part: the greatest weight below 1.
    pub const NEARLY_ONE: SemanticRatio = SemanticRatio(1.0 - f32::EPSILON / 2.0);

    /// The weight.
    pub fn get(self) -> f32 {
        self.0
    }

    fn checked(ratio: f32) -> Result<SemanticRatio, Unfit> {
        if !(0.0..=1.0).contains(&ratio) {
            return Err(SemanticRatio::unfit());
        }
        Ok(SemanticRatio(ratio))
    }

    fn unfit() -> Unfit {
        Unfit(
            "the value of `semanticRatio` is invalid, expected a float between `0.0` and `1.0`."
                .to_owned(),
        )
    }
}

impl Default for SemanticRatio {
    fn default() -> Self {
        SemanticRatio(0.5)
    }
}

/// A score from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize)]
pub struct RankingScoreThreshold(f64);

impl RankingScoreThreshold {
    /// The score.
    pub fn get(self) -> f64 {
        self.0
    }

    fn checked(score: f64) -> Result<RankingScoreThreshold, Unfit> {
        if !(0.0..=1.0).contains(&score) {
            return Err(RankingScoreThreshold::unfit());
        }
        Ok(RankingScoreThreshold(score))
    }

    fn unfit() -> Unfit {
        Unfit("the value of `rankingScoreThreshold` is invalid, expected a float between `0.0` and `1.0`.".to_owned())
    }
}

macro_rules! checked_float {
    ($type:ty, $float:ty) => {
        impl<E: DeserializeError + MergeWithError<Unfit>> Deserr<E> for $type {
            fn deserialize_from_value<V: IntoValue>(
                value: deserr::Value<V>,
                location: ValuePointerRef,
            ) -> Result<Self, E> {
                let number = <$float>::deserialize_from_value(value, location)?;
                <$type>::checked(number)
                    .map_err(|unfit| take_cf_content(E::merge(None, unfit, location)))
            }
        }
    };
}
checked_float!(SemanticRatio, f32);
checked_float!(RankingScoreThreshold, f64);

/// Which words of a query may go unmatched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserr)]
#[serde(rename_all = "camelCase")]
#[deserr(rename_all = camelCase)]
pub enum MatchingStrategy {
    /// The last ones first.
    #[default]
    Last,
    /// None.
    All,
    /// The most frequent ones first.
    Frequency,
}

#[cfg(test)]
mod tests;
