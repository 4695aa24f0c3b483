//! One search, from query to the answer's bytes.

use std::str::FromStr;
use std::time::Duration;

use milli_core as milli;
use milli_core::heed::RoTxn;
use milli_core::score_details::ScoringStrategy;
use milli_core::tokenizer::Language;
use milli_core::{
    AscDesc, Index, Search, SearchResult, SortError, TermsMatchingStrategy, TimeBudget,
};
use miroir_seams::Clock;
use miroir_wire::error::{ApiError, Code};
use miroir_wire::search::{LIMIT_DEFAULT, MatchingStrategy, SearchQuery};

use super::facets::count_facets;
use super::filter::read_filter;
use super::format::FormatRequest;
use super::geo;
use super::hits::{Found, HitRequest, append_hits};
use super::kind::{SearchKind, decide_kind};
use super::stored::ObjectWriter;
use crate::engine::{Engine, errors, locales};

/// Hits reachable by paging where the settings don't say.
const TOTAL_HITS_MAX: usize = 1000;

/// Searches an index and returns the answer as JSON. It starts with `indexUid` where it is
/// `named`, one answer of several.
///
/// # Errors
/// `index_not_found`, `invalid_search_*` and what else the query is refused with; what the
/// database fails with.
pub(crate) fn search(
    engine: &Engine,
    uid: &str,
    query: &SearchQuery,
    named: bool,
    clock: &Clock,
) -> Result<Vec<u8>, ApiError> {
    let index = engine.index(uid)?;
    let started = clock.instant();
    let rtxn = index.read_txn().map_err(|error| refusal(error.into()))?;
    let kind = decide_kind(query, || engine.embedders(&index, &rtxn))?;
    let languages = languages(query);
    let window = Window::of(query, total_hits_max(&index, &rtxn)?);

    let mut search = index.search(&rtxn);
    let contains = engine.features().contains_filter();
    prepare(&mut search, &index, &rtxn, query, &window, contains)?;
    if let Some(languages) = &languages {
        search.locales(languages.clone());
    }
    let aim = take_aim(&mut search, query, kind)?;
    let (result, semantic_hits) = run(&search, uid, aim)?;
    let SearchResult { matching_words, candidates, documents_ids, document_scores, .. } = result;

    let mut out = Vec::with_capacity(16 * 1024);
    let mut answer = ObjectWriter::begin(&mut out);
    if named {
        answer.value("indexUid", uid);
    }
    let hits = hit_request(query, languages.as_deref());
    let found = Found { ids: &documents_ids, scores: &document_scores, words: matching_words };
    append_hits(&index, &rtxn, &hits, found, answer.member("hits")).map_err(refusal)?;

    let total = usize::try_from(candidates.len()).unwrap_or(usize::MAX).min(window.total_max);
    let facets = match &query.facets {
        Some(names) => Some(count_facets(names, &index, &rtxn, candidates).map_err(refusal)?),
        None => None,
    };
    answer.value("query", query.q.as_deref().unwrap_or_default());
    let spent = clock.instant().saturating_duration_since(started);
    answer.value("processingTimeMs", &spent.as_millis());
    window.append(query, total, &mut answer);
    if let Some(facets) = &facets {
        answer.value("facetDistribution", &facets.distribution);
        answer.value("facetStats", &facets.stats);
    }
    if let Some(count) = semantic_hits {
        answer.value("semanticHitCount", &count);
    }
    answer.end();
    Ok(out)
}

pub(super) fn total_hits_max(index: &Index, rtxn: &RoTxn<'_>) -> Result<usize, ApiError> {
    let set = index.pagination_max_total_hits(rtxn).map_err(|error| refusal(error.into()))?;
    Ok(set.map_or(TOTAL_HITS_MAX, |max| usize::try_from(max).unwrap_or(usize::MAX)))
}

/// Which part of the ranked documents is answered.
pub(super) struct Window {
    /// Whether the request pages (`page`, `hitsPerPage`): then hits are counted exactly.
    paged: bool,
    offset: usize,
    limit: usize,
    /// No hit lies beyond this.
    total_max: usize,
}

impl Window {
    pub(super) fn of(query: &SearchQuery, total_max: usize) -> Self {
        let paged = query.is_finite_pagination();
        let (offset, limit) = if paged {
            let limit = query.hits_per_page.unwrap_or(LIMIT_DEFAULT);
            match query.page.unwrap_or(1).checked_sub(1) {
                Some(before) => (limit.saturating_mul(before), limit),
                None => (0, 0),
            }
        } else {
            (query.offset, query.limit)
        };
        let offset = offset.min(total_max);
        let limit = limit.min(total_max.saturating_sub(offset));
        Self { paged, offset, limit, total_max }
    }

    /// Writes which part it is, of how many hits.
    fn append(&self, query: &SearchQuery, total: usize, answer: &mut ObjectWriter<'_>) {
        if self.paged {
            let hits_per_page = query.hits_per_page.unwrap_or(LIMIT_DEFAULT);
            let pages = if hits_per_page == 0 { 0 } else { total.div_ceil(hits_per_page) };
            answer.value("hitsPerPage", &hits_per_page);
            answer.value("page", &query.page.unwrap_or(1));
            answer.value("totalPages", &pages);
            answer.value("totalHits", &total);
        } else {
            answer.value("limit", &query.limit);
            answer.value("offset", &self.offset);
            answer.value("estimatedTotalHits", &total);
        }
    }
}

/// Hands the query to the engine, all but its words and vectors.
pub(super) fn prepare<'q>(
    search: &mut Search<'q>,
    index: &Index,
    rtxn: &RoTxn<'_>,
    query: &'q SearchQuery,
    window: &Window,
    contains: bool,
) -> Result<(), ApiError> {
    let cutoff = index.search_cutoff(rtxn).map_err(refusal)?;
    search.time_budget(match cutoff {
        Some(cutoff_ms) => TimeBudget::new(Duration::from_millis(cutoff_ms)),
        None => TimeBudget::default(),
    });
    if let Some(threshold) = query.ranking_score_threshold {
        search.ranking_score_threshold(threshold.get());
    }
    if let Some(attribute) = &query.distinct {
        search.distinct(attribute.clone());
    }
    if let Some(attributes) = &query.attributes_to_search_on {
        search.searchable_attributes(attributes);
    }
    search.terms_matching_strategy(match query.matching_strategy {
        MatchingStrategy::Last => TermsMatchingStrategy::Last,
        MatchingStrategy::All => TermsMatchingStrategy::All,
        MatchingStrategy::Frequency => TermsMatchingStrategy::Frequency,
    });
    search.exhaustive_number_hits(window.paged);
    let scored = query.show_ranking_score
        || query.show_ranking_score_details
        || query.ranking_score_threshold.is_some();
    search.scoring_strategy(if scored { ScoringStrategy::Detailed } else { ScoringStrategy::Skip });
    search.offset(window.offset);
    search.limit(window.limit);
    if let Some(filter) = &query.filter
        && let Some(filter) = read_filter(filter, Code::InvalidSearchFilter, contains)?
    {
        search.filter(filter);
    }
    if let Some(criteria) = &query.sort {
        let criteria: Result<Vec<_>, _> =
            criteria.iter().map(|text| AscDesc::from_str(text)).collect();
        search.sort_criteria(criteria.map_err(|error| refusal(SortError::from(error).into()))?);
    }
    Ok(())
}

/// How a search is carried out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Aim {
    /// By words, or by nothing.
    Words,
    /// By vectors.
    Vectors,
    /// By both; the number is the share of the vectors.
    Both(f32),
}

/// Hands the query's words and vectors to the engine.
pub(super) fn take_aim<'q>(
    search: &mut Search<'q>,
    query: &'q SearchQuery,
    kind: SearchKind,
) -> Result<Aim, ApiError> {
    Ok(match kind {
        SearchKind::Keyword => {
            if let Some(q) = &query.q {
                search.query(q);
            }
            Aim::Words
        }
        SearchKind::Semantic(named) => {
            let vector = match &query.vector {
                Some(vector) => vector.clone(),
                None => named
                    .embedder
                    .embed_search(query.q.as_deref().unwrap_or_default(), None)
                    .map_err(|error| refusal(milli::vector::Error::from(error).into()))?,
            };
            search.semantic(named.name, named.embedder, named.quantized, Some(vector));
            Aim::Vectors
        }
        SearchKind::Hybrid(named, ratio) => {
            if let Some(q) = &query.q {
                search.query(q);
            }
            search.semantic(named.name, named.embedder, named.quantized, query.vector.clone());
            Aim::Both(ratio)
        }
    })
}

/// Runs the search; with vectors, also tells how many hits they brought. Only what the engine
/// refuses while searching is told with the index's name, as in Meilisearch.
pub(super) fn run(
    search: &Search<'_>,
    uid: &str,
    aim: Aim,
) -> Result<(SearchResult, Option<u32>), ApiError> {
    let in_index = |error: milli::Error| {
        ApiError::new(errors::code(&error), format!("Index `{uid}`: {error}"))
    };
    match aim {
        Aim::Words => Ok((search.execute().map_err(in_index)?, None)),
        Aim::Vectors => {
            let result = search.execute().map_err(in_index)?;
            let hits = u32::try_from(result.document_scores.len()).unwrap_or(u32::MAX);
            Ok((result, Some(hits)))
        }
        Aim::Both(ratio) => search.execute_hybrid(ratio).map_err(in_index),
    }
}

pub(super) fn hit_request<'q>(
    query: &'q SearchQuery,
    locales: Option<&'q [Language]>,
) -> HitRequest<'q> {
    HitRequest {
        retrieve: query.attributes_to_retrieve.as_ref(),
        vectors: query.retrieve_vectors,
        format: FormatRequest {
            highlight: query.attributes_to_highlight.as_ref(),
            crop: query.attributes_to_crop.as_deref().unwrap_or_default(),
            crop_length: query.crop_length,
        },
        crop_marker: &query.crop_marker,
        highlight_pre_tag: &query.highlight_pre_tag,
        highlight_post_tag: &query.highlight_post_tag,
        matches_position: query.show_matches_position,
        ranking_score: query.show_ranking_score,
        ranking_score_details: query.show_ranking_score_details,
        sort_point: query.sort.as_deref().and_then(geo::sort_point),
        locales,
    }
}

/// The languages of `locales`; codes that the engine doesn't know say nothing to it.
pub(super) fn languages(query: &SearchQuery) -> Option<Vec<Language>> {
    let codes = query.locales.as_ref()?;
    Some(codes.iter().filter_map(|locale| locales::language(locale.code())).collect())
}

pub(super) fn refusal(error: milli::Error) -> ApiError {
    ApiError::new(errors::code(&error), error.to_string())
}
