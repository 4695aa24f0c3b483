//! Searching the values of a facet.

use milli_core as milli;
use milli_core::heed::RoTxn;
use milli_core::tokenizer::Language;
use milli_core::{FacetValueHit, Index, PatternMatch, SearchForFacetValues};
use miroir_seams::Clock;
use miroir_wire::error::{ApiError, Code};
use miroir_wire::search::{FacetSearchQuery, SearchQuery};

use super::execute::{Aim, Window, languages, prepare, refusal, take_aim, total_hits_max};
use super::kind::decide_kind;
use super::stored::ObjectWriter;
use crate::engine::Engine;

/// Finds values of a facet and returns the answer as JSON.
///
/// # Errors
/// `index_not_found`, `facet_search_disabled`, `invalid_facet_search_facet_name`,
/// `invalid_search_*`; what the database fails with.
pub(crate) fn facet_search(
    engine: &Engine,
    uid: &str,
    query: &FacetSearchQuery,
    clock: &Clock,
) -> Result<Vec<u8>, ApiError> {
    let index = engine.index(uid)?;
    let started = clock.instant();
    let rtxn = index.read_txn().map_err(|error| refusal(error.into()))?;
    let counted = query.counted();
    let values = find_values(engine, &index, &rtxn, query, &counted)?;

    let mut out = Vec::with_capacity(4096);
    let mut answer = ObjectWriter::begin(&mut out);
    answer.value("facetHits", &values);
    answer.value("facetQuery", &query.facet_query);
    let spent = clock.instant().saturating_duration_since(started);
    answer.value("processingTimeMs", &spent.as_millis());
    answer.end();
    Ok(out)
}

fn find_values(
    engine: &Engine,
    index: &Index,
    rtxn: &RoTxn<'_>,
    query: &FacetSearchQuery,
    counted: &SearchQuery,
) -> Result<Vec<FacetValueHit>, ApiError> {
    let kind = decide_kind(counted, || engine.embedders(index, rtxn))?;
    if !index.facet_search(rtxn).map_err(|error| refusal(error.into()))? {
        return Err(ApiError::new(
            Code::FacetSearchDisabled,
            "The facet search is disabled for this index",
        ));
    }
    let window = Window::of(counted, total_hits_max(index, rtxn)?);
    let mut search = index.search(rtxn);
    let contains = engine.features().contains_filter();
    prepare(&mut search, index, rtxn, counted, &window, contains)?;
    let aim = take_aim(&mut search, counted, kind)?;
    let languages = languages(counted);
    if let Some(languages) = &languages {
        search.locales(languages.clone());
    }
    let mut values =
        SearchForFacetValues::new(query.facet_name.clone(), search, matches!(aim, Aim::Both(_)));
    if let Some(text) = &query.facet_query {
        values.query(text);
    }
    if let Some(max) = index.max_values_per_facet(rtxn).map_err(|error| refusal(error.into()))? {
        values.max_values(usize::try_from(max).unwrap_or(usize::MAX));
    }
    if let Some(languages) = facet_languages(index, rtxn, &query.facet_name, languages)? {
        values.locales(languages);
    }
    values.execute().map_err(refusal)
}

/// The languages of a facet's values: those of the settings that the request doesn't rule out.
/// `None` where the settings say nothing of the facet, whatever the request says.
fn facet_languages(
    index: &Index,
    rtxn: &RoTxn<'_>,
    facet: &str,
    asked: Option<Vec<Language>>,
) -> Result<Option<Vec<Language>>, ApiError> {
    let rules = index
        .localized_attributes_rules(rtxn)
        .map_err(|error: milli::heed::Error| refusal(error.into()))?;
    let rule =
        rules.into_iter().flatten().find(|rule| rule.match_str(facet) == PatternMatch::Match);
    Ok(rule.map(|rule| {
        let is_asked =
            |language: &Language| asked.as_ref().is_none_or(|asked| asked.contains(language));
        rule.locales.into_iter().filter(is_asked).collect()
    }))
}
