//! Federated search: the hits of several queries, over one index or more, as one list.
//!
//! Queries are run index by index, those of one index in one view of it. A document that several
//! queries find shows once, where its best hit stands.

use std::collections::BTreeMap;
use std::str::FromStr;

use milli_core as milli;
use milli_core::heed::RoTxn;
use milli_core::score_details::ScoringStrategy;
use milli_core::{AscDesc, Index, OrderBy, SearchResult, SortError};
use miroir_seams::Clock;
use miroir_wire::error::{ApiError, Code};
use miroir_wire::search::{
    Federation, LIMIT_DEFAULT, MultiSearchQuery, OrderCheck, RankedBy, RuleOrder, SearchQuery,
};
use roaring::RoaringBitmap;

use super::execute::{
    Window, hit_request, languages, prepare, refusal, run, take_aim, total_hits_max,
};
use super::facets::{Facets, count_facets};
use super::hits::{Found, write_hits};
use super::kind::{SearchKind, decide_kind};
use super::stored::ObjectWriter;
use super::weighted::{Ranked, merge_lists};
use crate::engine::{Engine, errors};

/// Runs the queries and returns one answer as JSON.
///
/// # Errors
/// The first query's that is refused, said to be inside of it; `index_not_found` is 400 here;
/// `invalid_multi_search_*`.
pub(crate) fn federated_search(
    engine: &Engine,
    request: &MultiSearchQuery,
    federation: &Federation,
    clock: &Clock,
) -> Result<Vec<u8>, ApiError> {
    let started = clock.instant();
    request.check_federation()?;
    let (offset, limit) = federation.window();
    let mut run = Run {
        engine,
        request,
        federation,
        hits_max: offset.saturating_add(limit),
        orders: OrderCheck::default(),
        facet_orders: BTreeMap::new(),
        takes_vectors: false,
    };
    let mut results = Vec::new();
    for (uid, positions) in request.queries_by_index() {
        results.push((uid, run.search_index(uid, &positions)?));
    }
    run.check_unused_facets()?;

    let mut total = 0;
    let mut facets = Vec::new();
    let mut lists = Vec::new();
    for (uid, result) in results {
        total += result.total;
        facets.extend(result.facets.map(|facets| (uid, facets)));
        lists.push(result.hits);
    }
    let page: Vec<Hit> = merge_lists(lists, |left, right| left.ranked.is_before(&right.ranked))
        .skip(offset)
        .take(limit)
        .collect();

    let mut out = Vec::with_capacity(16 * 1024);
    let mut answer = ObjectWriter::begin(&mut out);
    let hits = answer.member("hits");
    hits.push(b'[');
    for (position, hit) in page.iter().enumerate() {
        if position > 0 {
            hits.push(b',');
        }
        hits.extend_from_slice(&hit.json);
    }
    hits.push(b']');
    let spent = clock.instant().saturating_duration_since(started);
    answer.value("processingTimeMs", &spent.as_millis());
    append_window(federation, total, &mut answer);
    if run.takes_vectors {
        let semantic = page.iter().filter(|hit| hit.ranked.is_semantic()).count();
        answer.value("semanticHitCount", &semantic);
    }
    run.append_facets(facets, &mut answer);
    answer.end();
    Ok(out)
}

fn append_window(federation: &Federation, total: usize, answer: &mut ObjectWriter<'_>) {
    if federation.is_finite_pagination() {
        let hits_per_page = federation.hits_per_page.unwrap_or(LIMIT_DEFAULT);
        let pages = if hits_per_page == 0 { 0 } else { total.div_ceil(hits_per_page) };
        answer.value("hitsPerPage", &hits_per_page);
        answer.value("page", &federation.page.unwrap_or(1));
        answer.value("totalPages", &pages);
        answer.value("totalHits", &total);
    } else {
        answer.value("limit", &federation.limit);
        answer.value("offset", &federation.offset);
        answer.value("estimatedTotalHits", &total);
    }
}

/// A hit, written.
struct Hit {
    ranked: Ranked,
    json: Vec<u8>,
}

/// What the queries of one index brought.
struct IndexResult {
    hits: Vec<Hit>,
    /// Documents that any of the queries finds.
    total: usize,
    facets: Option<Facets>,
}

/// One query's part.
struct QueryResult {
    ranked: Vec<Ranked>,
    words: milli::MatchingWords,
}

/// One federated search under way.
struct Run<'r> {
    engine: &'r Engine,
    request: &'r MultiSearchQuery,
    federation: &'r Federation,
    /// Hits that each list may have to give.
    hits_max: usize,
    orders: OrderCheck,
    /// The order of each facet, and the index that first said so; kept where facets are merged.
    facet_orders: BTreeMap<String, (String, OrderBy)>,
    /// A query goes by vectors.
    takes_vectors: bool,
}

impl Run<'_> {
    fn search_index(&mut self, uid: &str, positions: &[usize]) -> Result<IndexResult, ApiError> {
        let first = positions.first().copied().unwrap_or_default();
        let index = self.engine.index(uid).map_err(|error| in_query(error, first))?;
        let rtxn = index.read_txn().map_err(|error| refusal(error.into()))?;
        let facet_names = self.federation.facets_by_index.get(uid).and_then(Option::as_deref);
        let in_facets = |error: ApiError| in_facets(error, uid, Some(first));
        if let Some(names) = facet_names {
            self.check_facet_order(uid, names, &index, &rtxn).map_err(in_facets)?;
        }
        let rules: Vec<String> = index
            .criteria(&rtxn)
            .map_err(|error| refusal(error.into()))?
            .iter()
            .map(ToString::to_string)
            .collect();
        let mut candidates = RoaringBitmap::new();
        let mut results = Vec::with_capacity(positions.len());
        for &position in positions {
            let (result, found) = self
                .search_query(uid, position, &index, &rtxn, &rules)
                .map_err(|error| in_query(error, position))?;
            candidates |= found;
            results.push((position, result));
        }
        let hits = self.write_index(uid, &index, &rtxn, results)?;
        let total = usize::try_from(candidates.len()).unwrap_or(usize::MAX);
        let facets = match facet_names {
            Some(names) => Some(facets_of(names, &index, &rtxn, candidates).map_err(in_facets)?),
            None => None,
        };
        Ok(IndexResult { hits, total, facets })
    }

    fn search_query(
        &mut self,
        uid: &str,
        position: usize,
        index: &Index,
        rtxn: &RoTxn<'_>,
        rules: &[String],
    ) -> Result<(QueryResult, RoaringBitmap), ApiError> {
        let Some((_, query)) = self.request.queries.get(position) else {
            return Err(ApiError::new(Code::Internal, "a query is missing"));
        };
        let kind = decide_kind(query, || self.engine.embedders(index, rtxn))?;
        for text in query.sort.iter().flatten() {
            AscDesc::from_str(text).map_err(|error| refusal(SortError::from(error).into()))?;
        }
        let ranked_by = ranked_by(query, &kind);
        let order = RuleOrder::of(rules, query.sort.as_deref(), query.matching_strategy, ranked_by);
        if let Some(order) = order {
            self.orders.add(order, position, uid)?;
        }
        self.takes_vectors |= !matches!(kind, SearchKind::Keyword);

        let mut search = index.search(rtxn);
        let window = Window::of(query, total_hits_max(index, rtxn)?);
        let contains = self.engine.features().contains_filter();
        prepare(&mut search, index, rtxn, query, &window, contains)?;
        if let Some(languages) = languages(query) {
            search.locales(languages);
        }
        search.scoring_strategy(ScoringStrategy::Detailed);
        search.exhaustive_number_hits(self.federation.is_finite_pagination());
        search.offset(0);
        search.limit(self.hits_max);
        let aim = take_aim(&mut search, query, kind)?;
        let (result, _) = run(&search, uid, aim)?;
        let SearchResult { matching_words, candidates, documents_ids, document_scores, .. } =
            result;
        let weight = self.request.weight(position).get();
        let ranked = documents_ids
            .into_iter()
            .zip(document_scores)
            .map(|(id, score)| Ranked { id, score, weight, query: position })
            .collect();
        Ok((QueryResult { ranked, words: matching_words }, candidates))
    }

    /// Merges the lists of an index's queries and writes the hits that may be needed.
    fn write_index(
        &self,
        uid: &str,
        index: &Index,
        rtxn: &RoTxn<'_>,
        results: Vec<(usize, QueryResult)>,
    ) -> Result<Vec<Hit>, ApiError> {
        let (mut words, mut lists) = (Vec::new(), Vec::new());
        for (position, QueryResult { ranked, words: its_words }) in results {
            words.push((position, its_words));
            lists.push(ranked);
        }
        let mut seen = RoaringBitmap::new();
        let mut hits: Vec<Hit> = merge_lists(lists, Ranked::is_before)
            .filter(|ranked| seen.insert(ranked.id))
            .take(self.hits_max)
            .map(|ranked| Hit { ranked, json: Vec::new() })
            .collect();
        for (position, words) in words {
            let Some((_, query)) = self.request.queries.get(position) else { continue };
            let mut of_query: Vec<&mut Hit> =
                hits.iter_mut().filter(|hit| hit.ranked.query == position).collect();
            let ids: Vec<_> = of_query.iter().map(|hit| hit.ranked.id).collect();
            let scores: Vec<_> = of_query.iter().map(|hit| hit.ranked.score.clone()).collect();
            let weighted: Vec<f64> =
                of_query.iter().map(|hit| hit.ranked.weighted_score()).collect();
            let languages = languages(query);
            let found = Found { ids: &ids, scores: &scores, words };
            let add = |at: usize, hit: &mut ObjectWriter<'_>| {
                let mut federation = ObjectWriter::begin(hit.member("_federation"));
                federation.value("indexUid", uid);
                federation.value("queriesPosition", &position);
                federation.value("weightedRankingScore", &weighted.get(at));
                federation.end();
            };
            let mut written = of_query.iter_mut();
            let take = |json: &[u8]| {
                if let Some(hit) = written.next() {
                    hit.json = json.to_vec();
                }
            };
            let request = hit_request(query, languages.as_deref());
            write_hits(index, rtxn, &request, found, add, take).map_err(|error| {
                let message = format!("Index `{uid}`: {error}");
                in_query(ApiError::new(errors::code(&error), message), position)
            })?;
        }
        Ok(hits)
    }

    /// Facets that are merged must have one order in all indexes.
    fn check_facet_order(
        &mut self,
        uid: &str,
        names: &[String],
        index: &Index,
        rtxn: &RoTxn<'_>,
    ) -> Result<(), ApiError> {
        if self.federation.merge_facets.is_none() {
            return Ok(());
        }
        let orders = index.sort_facet_values_by(rtxn).map_err(|error| refusal(error.into()))?;
        for name in names {
            let here = orders.get(name);
            let known = self.facet_orders.entry(name.clone());
            let (earlier, there) = known.or_insert_with(|| (uid.to_owned(), here));
            if *there != here {
                return Err(ApiError::new(
                    Code::InvalidMultiSearchFacetOrder,
                    format!(
                        "Inconsistent order for values in facet `{name}`: index `{earlier}` orders {there}, but index `{uid}` orders {here}.\n - Hint: Remove `federation.mergeFacets` or change `faceting.sortFacetValuesBy` to be consistent in settings."
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Facets of indexes that no query is about are refused like the others.
    fn check_unused_facets(&mut self) -> Result<(), ApiError> {
        let federation = self.federation;
        for (uid, names) in &federation.facets_by_index {
            if self.request.queries.iter().any(|(index, _)| index == uid) {
                continue;
            }
            let in_facets = |error: ApiError| in_facets(error, uid, None);
            let index = self.engine.index(uid).map_err(in_facets)?;
            let rtxn = index.read_txn().map_err(|error| refusal(error.into()))?;
            if let Some(names) = names {
                self.check_facet_order(uid, names, &index, &rtxn).map_err(in_facets)?;
                facets_of(names, &index, &rtxn, RoaringBitmap::new()).map_err(in_facets)?;
            }
        }
        Ok(())
    }

    fn append_facets(&self, by_index: Vec<(&str, Facets)>, answer: &mut ObjectWriter<'_>) {
        if by_index.is_empty() {
            return;
        }
        let Some(merge) = self.federation.merge_facets else {
            let mut indexes = ObjectWriter::begin(answer.member("facetsByIndex"));
            for (uid, facets) in &by_index {
                indexes.value(uid, facets);
            }
            indexes.end();
            return;
        };
        let mut merged = Facets::default();
        for (_, facets) in by_index {
            merged.add(facets);
        }
        let order = |name: &str| {
            self.facet_orders.get(name).map_or_else(OrderBy::default, |(_, order)| *order)
        };
        merged.sort(order, merge.max_values_per_facet);
        answer.value("facetDistribution", &merged.distribution);
        answer.value("facetStats", &merged.stats);
    }
}

fn ranked_by(query: &SearchQuery, kind: &SearchKind) -> RankedBy {
    match kind {
        SearchKind::Semantic(_) => RankedBy::Vectors,
        _ if query.q.as_ref().is_some_and(|q| !q.is_empty()) => RankedBy::Words,
        _ => RankedBy::Nothing,
    }
}

fn facets_of(
    names: &[String],
    index: &Index,
    rtxn: &RoTxn<'_>,
    candidates: RoaringBitmap,
) -> Result<Facets, ApiError> {
    count_facets(names, index, rtxn, candidates).map_err(|error| {
        let code = match &error {
            milli::Error::UserError(milli::UserError::InvalidFacetsDistribution { .. }) => {
                Code::InvalidMultiSearchFacets
            }
            error => errors::code(error),
        };
        ApiError::new(code, error.to_string())
    })
}

/// Says which query of the request was refused.
fn in_query(mut error: ApiError, position: usize) -> ApiError {
    error.message.insert_str(0, &format!("Inside `.queries[{position}]`: "));
    error
}

/// Says that the facets of an index were refused.
fn in_facets(error: ApiError, uid: &str, used_in: Option<usize>) -> ApiError {
    let note = match used_in {
        Some(position) => format!("index `{uid}` used in `.queries[{position}]`"),
        None => format!("index `{uid}` is not used in queries"),
    };
    let message =
        format!("Inside `.federation.facetsByIndex.{uid}`: {}\n - Note: {note}", error.message);
    ApiError { message, ..error }
}
