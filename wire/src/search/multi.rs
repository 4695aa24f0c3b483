//! `POST /multi-search`: several searches in one request, their hits side by side or federated into one list.

use std::collections::{BTreeMap, BTreeSet};

use deserr::{
    DeserializeError, Deserr, IntoValue, MergeWithError, ValuePointerRef, take_cf_content,
};
use serde::Serialize;
use serde_json::Value;

use super::{
    CROP_LENGTH_DEFAULT, CROP_MARKER_DEFAULT, HybridQuery, LIMIT_DEFAULT, Locale, MatchingStrategy,
    POST_TAG_DEFAULT, PRE_TAG_DEFAULT, RankingScoreThreshold, SearchQuery,
};
use crate::error::{ApiError, Code, mark};
use crate::index::CheckedUid;
use crate::parse::{JsonFault, Unfit, from_json, missing};

/// The body of `POST /multi-search`.
#[derive(Debug, Clone, PartialEq)]
pub struct MultiSearchQuery {
    /// Each search and the index it is about.
    pub queries: Vec<(String, SearchQuery)>,
    /// How to make one list of the hits; `None` keeps the lists apart.
    pub federation: Option<Federation>,
    /// Per query, what federation is told about it.
    pub federation_options: Vec<Option<FederationOptions>>,
    /// Per query, the first window parameter that was given, whatever its value.
    pub pagination: Vec<Option<&'static str>>,
}

/// What federation is told about one query.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserr)]
#[serde(rename_all = "camelCase")]
#[deserr(error = JsonFault, rename_all = camelCase, deny_unknown_fields)]
pub struct FederationOptions {
    /// What its hits' scores are multiplied with.
    #[deserr(default, error = JsonFault<mark::InvalidMultiSearchWeight>)]
    pub weight: Weight,
    /// The remote to ask (refused by Miroir: its nodes are its own).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[deserr(default, error = JsonFault<mark::InvalidMultiSearchRemote>)]
    pub remote: Option<String>,
    /// The position told in answers instead of the query's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[deserr(default, error = JsonFault<mark::InvalidMultiSearchQueryPosition>)]
    pub query_position: Option<usize>,
}

/// A factor of at least 0; 1 by default.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize)]
pub struct Weight(f64);

impl Weight {
    /// The factor.
    pub fn get(self) -> f64 {
        self.0
    }
}

impl Default for Weight {
    fn default() -> Self {
        Weight(1.0)
    }
}

impl<E: DeserializeError + MergeWithError<Unfit>> Deserr<E> for Weight {
    fn deserialize_from_value<V: IntoValue>(
        value: deserr::Value<V>,
        location: ValuePointerRef,
    ) -> Result<Self, E> {
        let weight = f64::deserialize_from_value(value, location)?;
        if weight < 0.0 {
            let unfit = Unfit(
                "the value of `weight` is invalid, expected a positive float (>= 0.0).".to_owned(),
            );
            return Err(take_cf_content(E::merge(None, unfit, location)));
        }
        Ok(Weight(weight))
    }
}

/// How the hits of several queries make one list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Federation {
    /// Hits to answer with.
    pub limit: usize,
    /// Hits to leave out first.
    pub offset: usize,
    /// The page, from 1. Not known to Meilisearch 1.15.
    pub page: Option<usize>,
    /// Hits in a page. Not known to Meilisearch 1.15.
    pub hits_per_page: Option<usize>,
    /// Per index, the facets that are counted over all hits from it.
    pub facets_by_index: BTreeMap<String, Option<Vec<String>>>,
    /// Facets of all indexes as one; `None` keeps them apart.
    pub merge_facets: Option<MergeFacets>,
}

/// How facets of several indexes are merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserr)]
#[deserr(error = JsonFault<mark::InvalidMultiSearchMergeFacets>, rename_all = camelCase, deny_unknown_fields)]
pub struct MergeFacets {
    /// Values of each facet that are answered; `None` for all there are.
    #[deserr(default, error = JsonFault<mark::InvalidMultiSearchMaxValuesPerFacet>)]
    pub max_values_per_facet: Option<usize>,
}

impl Federation {
    /// Whether pages were asked for instead of a window.
    pub fn is_finite_pagination(&self) -> bool {
        self.page.is_some() || self.hits_per_page.is_some()
    }

    /// The first hit that is answered, from 0, and how many are.
    pub fn window(&self) -> (usize, usize) {
        if !self.is_finite_pagination() {
            return (self.offset, self.limit);
        }
        let hits = self.hits_per_page.unwrap_or(LIMIT_DEFAULT);
        match self.page.unwrap_or(1).checked_sub(1) {
            Some(before) => (hits.saturating_mul(before), hits),
            // Page 0 is a page without hits.
            None => (0, 0),
        }
    }
}

#[derive(Debug, Deserr)]
#[deserr(error = JsonFault, rename_all = camelCase, deny_unknown_fields)]
struct FederationBody {
    #[deserr(default = LIMIT_DEFAULT, error = JsonFault<mark::InvalidSearchLimit>)]
    limit: usize,
    #[deserr(default, error = JsonFault<mark::InvalidSearchOffset>)]
    offset: usize,
    #[deserr(default, error = JsonFault<mark::InvalidSearchPage>)]
    page: Option<usize>,
    #[deserr(default, error = JsonFault<mark::InvalidSearchHitsPerPage>)]
    hits_per_page: Option<usize>,
    #[deserr(default, error = JsonFault<mark::InvalidMultiSearchFacetsByIndex>)]
    facets_by_index: BTreeMap<CheckedUid, Option<Vec<String>>>,
    #[deserr(default, error = JsonFault<mark::InvalidMultiSearchMergeFacets>)]
    merge_facets: Option<MergeFacets>,
}

impl From<FederationBody> for Federation {
    fn from(body: FederationBody) -> Federation {
        let facets = body.facets_by_index.into_iter().map(|(uid, names)| (uid.0, names));
        Federation {
            limit: body.limit,
            offset: body.offset,
            page: body.page,
            hits_per_page: body.hits_per_page,
            facets_by_index: facets.collect(),
            merge_facets: body.merge_facets,
        }
    }
}

#[derive(Debug, Deserr)]
#[deserr(error = JsonFault, rename_all = camelCase, deny_unknown_fields)]
struct MultiSearchBody {
    queries: Vec<QueryBody>,
    #[deserr(default)]
    federation: Option<FederationBody>,
}

/// A search with its index. Not [`SearchQuery`] flattened, since the order of fields is that of messages, and since
/// whether the window was *given* matters here.
#[derive(Debug, Deserr)]
#[deserr(error = JsonFault, rename_all = camelCase, deny_unknown_fields)]
struct QueryBody {
    #[deserr(error = JsonFault<mark::InvalidIndexUid>, missing_field_error = missing::<mark::InvalidIndexUid, mark::MissingIndexUid>)]
    index_uid: CheckedUid,
    #[deserr(default, error = JsonFault<mark::InvalidSearchQ>)]
    q: Option<String>,
    // The code is Meilisearch's, slip included.
    #[deserr(default, error = JsonFault<mark::InvalidSearchQ>)]
    vector: Option<Vec<f32>>,
    #[deserr(default, error = JsonFault<mark::InvalidSearchHybridQuery>)]
    hybrid: Option<HybridQuery>,
    #[deserr(default, error = JsonFault<mark::InvalidSearchOffset>)]
    offset: Option<usize>,
    #[deserr(default, error = JsonFault<mark::InvalidSearchLimit>)]
    limit: Option<usize>,
    #[deserr(default, error = JsonFault<mark::InvalidSearchPage>)]
    page: Option<usize>,
    #[deserr(default, error = JsonFault<mark::InvalidSearchHitsPerPage>)]
    hits_per_page: Option<usize>,
    #[deserr(default, error = JsonFault<mark::InvalidSearchAttributesToRetrieve>)]
    attributes_to_retrieve: Option<BTreeSet<String>>,
    #[deserr(default, error = JsonFault<mark::InvalidSearchRetrieveVectors>)]
    retrieve_vectors: bool,
    #[deserr(default, error = JsonFault<mark::InvalidSearchAttributesToCrop>)]
    attributes_to_crop: Option<Vec<String>>,
    #[deserr(default = CROP_LENGTH_DEFAULT, error = JsonFault<mark::InvalidSearchCropLength>)]
    crop_length: usize,
    #[deserr(default, error = JsonFault<mark::InvalidSearchAttributesToHighlight>)]
    attributes_to_highlight: Option<BTreeSet<String>>,
    #[deserr(default, error = JsonFault<mark::InvalidSearchShowRankingScore>)]
    show_ranking_score: bool,
    #[deserr(default, error = JsonFault<mark::InvalidSearchShowRankingScoreDetails>)]
    show_ranking_score_details: bool,
    #[deserr(default, error = JsonFault<mark::InvalidSearchShowMatchesPosition>)]
    show_matches_position: bool,
    #[deserr(default, error = JsonFault<mark::InvalidSearchFilter>)]
    filter: Option<Value>,
    #[deserr(default, error = JsonFault<mark::InvalidSearchSort>)]
    sort: Option<Vec<String>>,
    #[deserr(default, error = JsonFault<mark::InvalidSearchDistinct>)]
    distinct: Option<String>,
    #[deserr(default, error = JsonFault<mark::InvalidSearchFacets>)]
    facets: Option<Vec<String>>,
    #[deserr(default = PRE_TAG_DEFAULT.to_owned(), error = JsonFault<mark::InvalidSearchHighlightPreTag>)]
    highlight_pre_tag: String,
    #[deserr(default = POST_TAG_DEFAULT.to_owned(), error = JsonFault<mark::InvalidSearchHighlightPostTag>)]
    highlight_post_tag: String,
    #[deserr(default = CROP_MARKER_DEFAULT.to_owned(), error = JsonFault<mark::InvalidSearchCropMarker>)]
    crop_marker: String,
    #[deserr(default, error = JsonFault<mark::InvalidSearchMatchingStrategy>)]
    matching_strategy: MatchingStrategy,
    #[deserr(default, error = JsonFault<mark::InvalidSearchAttributesToSearchOn>)]
    attributes_to_search_on: Option<Vec<String>>,
    #[deserr(default, error = JsonFault<mark::InvalidSearchRankingScoreThreshold>)]
    ranking_score_threshold: Option<RankingScoreThreshold>,
    #[deserr(default, error = JsonFault<mark::InvalidSearchLocales>)]
    locales: Option<Vec<Locale>>,
    #[deserr(default)]
    federation_options: Option<FederationOptions>,
}

impl QueryBody {
    fn pagination(&self) -> Option<&'static str> {
        [
            (self.offset.is_some(), "offset"),
            (self.limit.is_some(), "limit"),
            (self.page.is_some(), "page"),
            (self.hits_per_page.is_some(), "hitsPerPage"),
        ]
        .into_iter()
        .find_map(|(given, name)| given.then_some(name))
    }

    fn into_query(self) -> (String, SearchQuery) {
        let query = SearchQuery {
            q: self.q,
            vector: self.vector,
            hybrid: self.hybrid,
            offset: self.offset.unwrap_or(0),
            limit: self.limit.unwrap_or(LIMIT_DEFAULT),
            page: self.page,
            hits_per_page: self.hits_per_page,
            attributes_to_retrieve: self.attributes_to_retrieve,
            retrieve_vectors: self.retrieve_vectors,
            attributes_to_crop: self.attributes_to_crop,
            crop_length: self.crop_length,
            attributes_to_highlight: self.attributes_to_highlight,
            show_matches_position: self.show_matches_position,
            show_ranking_score: self.show_ranking_score,
            show_ranking_score_details: self.show_ranking_score_details,
            filter: self.filter,
            sort: self.sort,
            distinct: self.distinct,
            facets: self.facets,
            highlight_pre_tag: self.highlight_pre_tag,
            highlight_post_tag: self.highlight_post_tag,
            crop_marker: self.crop_marker,
            matching_strategy: self.matching_strategy,
            attributes_to_search_on: self.attributes_to_search_on,
            ranking_score_threshold: self.ranking_score_threshold,
            locales: self.locales,
        };
        (self.index_uid.0, query)
    }
}

impl MultiSearchQuery {
    /// Reads the body. What depends on federation is checked later, by [`Self::check_federation`], since access is
    /// checked in between.
    ///
    /// # Errors
    /// `missing_index_uid`, `invalid_index_uid`, `invalid_search_*`, `invalid_multi_search_*`, and those of any JSON
    /// body.
    pub fn from_json(body: &[u8]) -> Result<MultiSearchQuery, ApiError> {
        let mut body: MultiSearchBody = from_json::<_, mark::BadRequest>(body)?;
        Ok(MultiSearchQuery {
            federation: body.federation.map(Federation::from),
            federation_options: body
                .queries
                .iter_mut()
                .map(|query| query.federation_options.take())
                .collect(),
            pagination: body.queries.iter().map(QueryBody::pagination).collect(),
            queries: body.queries.into_iter().map(QueryBody::into_query).collect(),
        })
    }

    /// Checks that each query fits the request: none has federation options without federation, and with it none
    /// has a window or facets of its own, or asks another server.
    ///
    /// # Errors
    /// `invalid_multi_search_federation_options`, `invalid_multi_search_query_pagination`,
    /// `invalid_multi_search_query_facets`, `feature_not_enabled`.
    pub fn check_federation(&self) -> Result<(), ApiError> {
        for (position, (index, query)) in self.queries.iter().enumerate() {
            let options = self.federation_options.get(position).and_then(Option::as_ref);
            if self.federation.is_none() {
                if options.is_some() {
                    return Err(ApiError::new(
                        Code::InvalidMultiSearchFederationOptions,
                        format!(
                            "Inside `.queries[{position}]`: Using `federationOptions` is not allowed in a non-federated \
                             search.\n - Hint: remove `federationOptions` from query #{position} or add `federation` to \
                             the request."
                        ),
                    ));
                }
                continue;
            }
            if let Some(parameter) = self.pagination.get(position).copied().flatten() {
                return Err(ApiError::new(
                    Code::InvalidMultiSearchQueryPagination,
                    format!(
                        "Inside `.queries[{position}]`: Using pagination options is not allowed in federated queries.\n \
                         - Hint: remove `{parameter}` from query #{position} or remove `federation` from the request\n \
                         - Hint: pass `federation.limit` and `federation.offset` for pagination in federated search"
                    ),
                ));
            }
            if let Some(facets) = query.facets.as_ref().filter(|facets| !facets.is_empty()) {
                return Err(ApiError::new(
                    Code::InvalidMultiSearchQueryFacets,
                    format!(
                        "Inside `.queries[{position}]`: Using facet options is not allowed in federated queries.\n \
                         - Hint: remove `facets` from query #{position} or remove `federation` from the request\n \
                         - Hint: pass `federation.facetsByIndex.{index}: {facets:?}` for facets in federated search"
                    ),
                ));
            }
            if options.is_some_and(|options| options.remote.is_some()) {
                return Err(network_not_enabled("Performing a remote federated search"));
            }
            if options.is_some_and(|options| options.query_position.is_some()) {
                return Err(network_not_enabled("Using `federationOptions.queryPosition`"));
            }
        }
        Ok(())
    }

    /// The factor of the query at `position`.
    pub fn weight(&self, position: usize) -> Weight {
        let options = self.federation_options.get(position).and_then(Option::as_ref);
        options.map_or_else(Weight::default, |options| options.weight)
    }

    /// The positions of the queries by index, as federation runs them.
    pub fn queries_by_index(&self) -> BTreeMap<&str, Vec<usize>> {
        let mut by_index: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (position, (index, _)) in self.queries.iter().enumerate() {
            by_index.entry(index).or_default().push(position);
        }
        by_index
    }
}

/// Searches on other servers are an experimental feature that is never enabled.
fn network_not_enabled(action: &str) -> ApiError {
    ApiError::new(
        Code::FeatureNotEnabled,
        format!(
            "{action} requires enabling the `network` experimental feature. See https://github.com/orgs/meilisearch/discussions/805"
        ),
    )
}
