//! The query string of `GET search`.

use deserr::Deserr;

use super::{
    CROP_LENGTH_DEFAULT, CROP_MARKER_DEFAULT, HybridQuery, LIMIT_DEFAULT, Locale, MatchingStrategy,
    POST_TAG_DEFAULT, PRE_TAG_DEFAULT, RankingScoreThreshold, SearchQuery, SemanticRatio,
};
use crate::documents_query::filter_from_text;
use crate::error::{ApiError, Code, mark};
use crate::parse::{Commas, FromParam, Param, QueryFault, Unfit, from_query};

#[derive(Debug, Deserr)]
#[deserr(error = QueryFault, rename_all = camelCase, deny_unknown_fields)]
struct SearchParams {
    #[deserr(default, error = QueryFault<mark::InvalidSearchQ>)]
    q: Option<String>,
    #[deserr(default, error = QueryFault<mark::InvalidSearchVector>)]
    vector: Option<Commas<f32>>,
    #[deserr(default, error = QueryFault<mark::InvalidSearchOffset>)]
    offset: Param<usize>,
    #[deserr(default = Param(LIMIT_DEFAULT), error = QueryFault<mark::InvalidSearchLimit>)]
    limit: Param<usize>,
    #[deserr(default, error = QueryFault<mark::InvalidSearchPage>)]
    page: Option<Param<usize>>,
    #[deserr(default, error = QueryFault<mark::InvalidSearchHitsPerPage>)]
    hits_per_page: Option<Param<usize>>,
    #[deserr(default, error = QueryFault<mark::InvalidSearchAttributesToRetrieve>)]
    attributes_to_retrieve: Option<Commas<String>>,
    #[deserr(default, error = QueryFault<mark::InvalidSearchRetrieveVectors>)]
    retrieve_vectors: Param<bool>,
    #[deserr(default, error = QueryFault<mark::InvalidSearchAttributesToCrop>)]
    attributes_to_crop: Option<Commas<String>>,
    #[deserr(default = Param(CROP_LENGTH_DEFAULT), error = QueryFault<mark::InvalidSearchCropLength>)]
    crop_length: Param<usize>,
    #[deserr(default, error = QueryFault<mark::InvalidSearchAttributesToHighlight>)]
    attributes_to_highlight: Option<Commas<String>>,
    #[deserr(default, error = QueryFault<mark::InvalidSearchFilter>)]
    filter: Option<String>,
    #[deserr(default, error = QueryFault<mark::InvalidSearchSort>)]
    sort: Option<String>,
    #[deserr(default, error = QueryFault<mark::InvalidSearchDistinct>)]
    distinct: Option<String>,
    #[deserr(default, error = QueryFault<mark::InvalidSearchShowMatchesPosition>)]
    show_matches_position: Param<bool>,
    #[deserr(default, error = QueryFault<mark::InvalidSearchShowRankingScore>)]
    show_ranking_score: Param<bool>,
    #[deserr(default, error = QueryFault<mark::InvalidSearchShowRankingScoreDetails>)]
    show_ranking_score_details: Param<bool>,
    #[deserr(default, error = QueryFault<mark::InvalidSearchFacets>)]
    facets: Option<Commas<String>>,
    #[deserr(default = PRE_TAG_DEFAULT.to_owned(), error = QueryFault<mark::InvalidSearchHighlightPreTag>)]
    highlight_pre_tag: String,
    #[deserr(default = POST_TAG_DEFAULT.to_owned(), error = QueryFault<mark::InvalidSearchHighlightPostTag>)]
    highlight_post_tag: String,
    #[deserr(default = CROP_MARKER_DEFAULT.to_owned(), error = QueryFault<mark::InvalidSearchCropMarker>)]
    crop_marker: String,
    #[deserr(default, error = QueryFault<mark::InvalidSearchMatchingStrategy>)]
    matching_strategy: MatchingStrategy,
    #[deserr(default, error = QueryFault<mark::InvalidSearchAttributesToSearchOn>)]
    attributes_to_search_on: Option<Commas<String>>,
    #[deserr(default, error = QueryFault<mark::InvalidSearchEmbedder>)]
    hybrid_embedder: Option<String>,
    #[deserr(default, error = QueryFault<mark::InvalidSearchSemanticRatio>)]
    hybrid_semantic_ratio: Option<Param<SemanticRatio>>,
    #[deserr(default, error = QueryFault<mark::InvalidSearchRankingScoreThreshold>)]
    ranking_score_threshold: Option<Param<RankingScoreThreshold>>,
    #[deserr(default, error = QueryFault<mark::InvalidSearchLocales>)]
    locales: Option<Commas<Locale>>,
}

impl FromParam for SemanticRatio {
    fn from_param(text: &str) -> Result<Self, Unfit> {
        text.parse().map_err(|_| SemanticRatio::unfit()).and_then(SemanticRatio::checked)
    }
}

impl FromParam for RankingScoreThreshold {
    fn from_param(text: &str) -> Result<Self, Unfit> {
        text.parse()
            .map_err(|_| RankingScoreThreshold::unfit())
            .and_then(RankingScoreThreshold::checked)
    }
}

pub(super) fn read(query: &str) -> Result<SearchQuery, ApiError> {
    let params: SearchParams = from_query(query)?;
    let hybrid = match (params.hybrid_embedder, params.hybrid_semantic_ratio) {
        (None, None) => None,
        (None, Some(_)) => {
            return Err(ApiError::new(
                Code::InvalidSearchHybridQuery,
                "`hybridEmbedder` is mandatory when `hybridSemanticRatio` is present",
            ));
        }
        (Some(embedder), ratio) => Some(HybridQuery {
            semantic_ratio: ratio.map_or_else(SemanticRatio::default, |ratio| ratio.0),
            embedder,
        }),
    };
    if params.vector.is_some() && hybrid.is_none() {
        return Err(ApiError::new(
            Code::MissingSearchHybrid,
            "`hybridEmbedder` is mandatory when `vector` is present",
        ));
    }
    Ok(SearchQuery {
        q: params.q,
        vector: params.vector.map(|vector| vector.0),
        hybrid,
        offset: params.offset.0,
        limit: params.limit.0,
        page: params.page.map(|page| page.0),
        hits_per_page: params.hits_per_page.map(|hits| hits.0),
        attributes_to_retrieve: params
            .attributes_to_retrieve
            .map(|names| names.0.into_iter().collect()),
        retrieve_vectors: params.retrieve_vectors.0,
        attributes_to_crop: params.attributes_to_crop.map(|names| names.0),
        crop_length: params.crop_length.0,
        attributes_to_highlight: params
            .attributes_to_highlight
            .map(|names| names.0.into_iter().collect()),
        show_matches_position: params.show_matches_position.0,
        show_ranking_score: params.show_ranking_score.0,
        show_ranking_score_details: params.show_ranking_score_details.0,
        filter: params.filter.map(filter_from_text),
        sort: params.sort.map(|sort| split_sort(&sort)),
        distinct: params.distinct,
        facets: params.facets.map(|names| names.0),
        highlight_pre_tag: params.highlight_pre_tag,
        highlight_post_tag: params.highlight_post_tag,
        crop_marker: params.crop_marker,
        matching_strategy: params.matching_strategy,
        attributes_to_search_on: params.attributes_to_search_on.map(|names| names.0),
        ranking_score_threshold: params.ranking_score_threshold.map(|score| score.0),
        locales: params.locales.map(|locales| locales.0),
    })
}

/// Splits at commas, but not at those inside `_geoPoint(…)`.
pub(crate) fn split_sort(text: &str) -> Vec<String> {
    let mut rules: Vec<String> = Vec::new();
    let mut in_point = false;
    for part in text.trim_matches('"').split(',').map(str::trim) {
        match rules.last_mut() {
            Some(rule) if in_point && !part.starts_with("_geoPoint(") => {
                rule.push(',');
                rule.push_str(part);
                in_point = !(part.ends_with("):asc") || part.ends_with("):desc"));
            }
            _ => {
                in_point = part.starts_with("_geoPoint(");
                rules.push(part.to_owned());
            }
        }
    }
    rules
}
