//! Searching for documents that are similar to another one.

use milli_core as milli;
use milli_core::{SearchResult, Similar};
use miroir_seams::Clock;
use miroir_wire::error::{ApiError, Code};
use miroir_wire::search::{CROP_LENGTH_DEFAULT, CROP_MARKER_DEFAULT, SimilarQuery};

use super::execute::{refusal, total_hits_max};
use super::filter::read_filter;
use super::format::FormatRequest;
use super::hits::{Found, HitRequest, append_hits};
use super::kind::similar_embedder;
use super::stored::ObjectWriter;
use crate::engine::{Engine, errors};

/// Finds documents by the vector of another one and returns the answer as JSON.
///
/// # Errors
/// `index_not_found`, `invalid_similar_*`, `not_found_similar_id`; what the database fails with.
pub(crate) fn similar(
    engine: &Engine,
    uid: &str,
    query: &SimilarQuery,
    clock: &Clock,
) -> Result<Vec<u8>, ApiError> {
    let index = engine.index(uid)?;
    let started = clock.instant();
    let rtxn = index.read_txn().map_err(|error| refusal(error.into()))?;
    let named = similar_embedder(&engine.embedders(&index, &rtxn)?, &query.embedder)?;
    let id = query.document_id()?;
    let found = index.external_documents_ids().get(&rtxn, &id);
    let internal = found.map_err(|error| refusal(error.into()))?.ok_or_else(|| {
        ApiError::new(Code::NotFoundSimilarId, format!("Document `{id}` not found."))
    })?;

    // The engine makes room for the whole window at once.
    let documents = index.number_of_documents(&rtxn).map_err(refusal)?;
    let documents = usize::try_from(documents).unwrap_or(usize::MAX);
    let mut similar = Similar::new(
        internal,
        query.offset.min(documents),
        query.limit.min(documents),
        &index,
        &rtxn,
        named.name,
        named.embedder,
        named.quantized,
    );
    if let Some(filter) = &query.filter
        && let Some(filter) =
            read_filter(filter, Code::InvalidSimilarFilter, engine.features().contains_filter())?
    {
        similar.filter(filter);
    }
    if let Some(threshold) = query.ranking_score_threshold {
        similar.ranking_score_threshold(threshold.get());
    }
    let SearchResult { matching_words, candidates, documents_ids, document_scores, .. } =
        similar.execute().map_err(filter_error)?;

    let mut out = Vec::with_capacity(16 * 1024);
    let mut answer = ObjectWriter::begin(&mut out);
    let found = Found { ids: &documents_ids, scores: &document_scores, words: matching_words };
    append_hits(&index, &rtxn, &hit_request(query), found, answer.member("hits"))
        .map_err(refusal)?;
    answer.value("id", &id);
    let spent = clock.instant().saturating_duration_since(started);
    answer.value("processingTimeMs", &spent.as_millis());
    answer.value("limit", &query.limit);
    answer.value("offset", &query.offset);
    let total = usize::try_from(candidates.len()).unwrap_or(usize::MAX);
    answer.value("estimatedTotalHits", &total.min(total_hits_max(&index, &rtxn)?));
    answer.end();
    Ok(out)
}

fn hit_request(query: &SimilarQuery) -> HitRequest<'_> {
    HitRequest {
        retrieve: query.attributes_to_retrieve.as_ref(),
        vectors: query.retrieve_vectors,
        format: FormatRequest { highlight: None, crop: &[], crop_length: CROP_LENGTH_DEFAULT },
        crop_marker: CROP_MARKER_DEFAULT,
        highlight_pre_tag: "",
        highlight_post_tag: "",
        matches_position: false,
        ranking_score: query.show_ranking_score,
        ranking_score_details: query.show_ranking_score_details,
        sort_point: None,
        locales: None,
    }
}

/// A filter that the index can't evaluate is this route's filter's fault.
fn filter_error(error: milli::Error) -> ApiError {
    let code = match &error {
        milli::Error::UserError(milli::UserError::InvalidFilter(_)) => Code::InvalidSimilarFilter,
        error => errors::code(error),
    };
    ApiError::new(code, error.to_string())
}
