//! `POST /indexes/{uid}/facet-search`: the values of one facet, found by their beginning.

use deserr::Deserr;
use serde::Serialize;
use serde_json::Value;

use super::{HybridQuery, Locale, MatchingStrategy, RankingScoreThreshold, SearchQuery};
use crate::error::{ApiError, mark};
use crate::parse::{JsonFault, from_json, missing};

/// A search for values of a facet. Serialises to the body of the request, without what equals its
/// default.
///
/// Unknown fields are ignored, as in Meilisearch: clients send their whole search.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserr)]
#[serde(rename_all = "camelCase")]
#[deserr(error = JsonFault, rename_all = camelCase)]
pub struct FacetSearchQuery {
    /// What the values begin with, typos allowed; none finds all values.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[deserr(default, error = JsonFault<mark::InvalidFacetSearchQuery>)]
    pub facet_query: Option<String>,
    /// The facet.
    #[deserr(error = JsonFault<mark::InvalidFacetSearchFacetName>, missing_field_error = missing::<mark::InvalidFacetSearchFacetName, mark::MissingFacetSearchFacetName>)]
    pub facet_name: String,
    /// The words of the documents that are counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[deserr(default, error = JsonFault<mark::InvalidSearchQ>)]
    pub q: Option<String>,
    /// A vector; what is counted then are all documents that the filter lets through.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[deserr(default, error = JsonFault<mark::InvalidSearchVector>)]
    pub vector: Option<Vec<f32>>,
    /// How vectors take part.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[deserr(default, error = JsonFault<mark::InvalidSearchHybridQuery>)]
    pub hybrid: Option<HybridQuery>,
    /// Which documents are counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[deserr(default, error = JsonFault<mark::InvalidSearchFilter>)]
    pub filter: Option<Value>,
    /// Which words may go unmatched.
    #[serde(skip_serializing_if = "super::is_strategy_default")]
    #[deserr(default, error = JsonFault<mark::InvalidSearchMatchingStrategy>)]
    pub matching_strategy: MatchingStrategy,
    /// The attributes searched in.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[deserr(default, error = JsonFault<mark::InvalidSearchAttributesToSearchOn>)]
    pub attributes_to_search_on: Option<Vec<String>>,
    /// The score a document needs to be counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[deserr(default, error = JsonFault<mark::InvalidSearchRankingScoreThreshold>)]
    pub ranking_score_threshold: Option<RankingScoreThreshold>,
    /// The languages the words and the facet's values may be in.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[deserr(default, error = JsonFault<mark::InvalidSearchLocales>)]
    pub locales: Option<Vec<Locale>>,
    /// Whether counts are exact, as with pages.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[deserr(default, error = JsonFault<mark::InvalidFacetSearchExhaustiveFacetCount>)]
    pub exhaustive_facet_count: Option<bool>,
}

impl FacetSearchQuery {
    /// The body of the request.
    ///
    /// # Errors
    /// `missing_facet_search_facet_name`, `invalid_facet_search_*`, `invalid_search_*`, and those of
    /// any JSON body.
    pub fn from_json(body: &[u8]) -> Result<FacetSearchQuery, ApiError> {
        from_json::<_, mark::BadRequest>(body)
    }

    /// The search whose documents are counted. An exhaustive count is a page without hits.
    pub fn counted(&self) -> SearchQuery {
        SearchQuery {
            q: self.q.clone(),
            vector: self.vector.clone(),
            hybrid: self.hybrid.clone(),
            page: (self.exhaustive_facet_count == Some(true)).then_some(0),
            filter: self.filter.clone(),
            matching_strategy: self.matching_strategy,
            attributes_to_search_on: self.attributes_to_search_on.clone(),
            ranking_score_threshold: self.ranking_score_threshold,
            locales: self.locales.clone(),
            ..SearchQuery::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_full_query_survives_serialisation_and_unknown_fields_are_ignored() {
        let body = json!({
            "facetQuery": "dra", "facetName": "genre", "q": "a", "filter": "year > 3",
            "hybrid": {"semanticRatio": 0.25, "embedder": "e"}, "vector": [0.5],
            "matchingStrategy": "all", "attributesToSearchOn": ["title"],
            "rankingScoreThreshold": 0.5, "locales": ["en"], "exhaustiveFacetCount": true,
        });
        let query = FacetSearchQuery::from_json(body.to_string().as_bytes()).unwrap();
        assert_eq!(serde_json::to_value(&query).unwrap(), body);
        assert_eq!(query.counted().page, Some(0));
        let query = FacetSearchQuery::from_json(br#"{"facetName": "genre", "limit": "many"}"#);
        assert_eq!(serde_json::to_value(query.unwrap()).unwrap(), json!({"facetName": "genre"}));
    }

    #[test]
    fn wrong_bodies_are_refused_in_meilisearchs_words() {
        for (body, code, message) in [
            (json!({}), "missing_facet_search_facet_name", "Missing field `facetName`"),
            (
                json!({"facetName": 1}),
                "invalid_facet_search_facet_name",
                "Invalid value type at `.facetName`: expected a string, but found a positive integer: `1`",
            ),
            (
                json!({"facetName": "a", "facetQuery": ["b"]}),
                "invalid_facet_search_query",
                "Invalid value type at `.facetQuery`: expected a string, but found an array: `[\"b\"]`",
            ),
            (
                json!({"facetName": "a", "exhaustiveFacetCount": 1}),
                "invalid_facet_search_exhaustive_facet_count",
                "Invalid value type at `.exhaustiveFacetCount`: expected a boolean, but found a positive integer: `1`",
            ),
        ] {
            let error = FacetSearchQuery::from_json(body.to_string().as_bytes()).unwrap_err();
            assert_eq!((error.code.name(), error.message.as_str()), (code, message), "{body}");
        }
    }
}
