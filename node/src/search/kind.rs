//! Whether a search goes by words, by vectors, or by both.

use std::sync::Arc;

use milli_core as milli;
use milli_core::UserError;
use milli_core::vector::{Embedder, EmbeddingConfigs};
use miroir_wire::error::{ApiError, Code};
use miroir_wire::search::SearchQuery;

use crate::engine::errors;

/// How a search finds its candidates.
pub(crate) enum SearchKind {
    /// By words.
    Keyword,
    /// By vectors.
    Semantic(NamedEmbedder),
    /// By both; the number is the share of the vectors.
    Hybrid(NamedEmbedder, f32),
}

/// An embedder of the index.
pub(crate) struct NamedEmbedder {
    /// Its name in the settings.
    pub(crate) name: String,
    /// The embedder itself.
    pub(crate) embedder: Arc<Embedder>,
    /// Whether its vectors are binary quantized.
    pub(crate) quantized: bool,
}

/// What a query's words, vector and ratio ask for.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Wish<'q> {
    Keyword,
    Semantic {
        embedder: &'q str,
    },
    Hybrid {
        embedder: &'q str,
        ratio: f32,
    },
    /// A vector came without an embedder.
    Unclear,
}

fn wish<'q>(q: Option<&str>, hybrid: Option<(&'q str, f32)>, vector: bool) -> Wish<'q> {
    let has_words = q.is_some_and(|q| !q.trim().is_empty());
    match hybrid {
        // Without words and vector there is nothing to compare by.
        _ if !vector && !has_words => Wish::Keyword,
        None if vector => Wish::Unclear,
        None => Wish::Keyword,
        Some((embedder, 1.0)) => Wish::Semantic { embedder },
        Some((_, 0.0)) => Wish::Keyword,
        Some((embedder, _)) if q.is_none() => Wish::Semantic { embedder },
        Some((embedder, ratio)) => Wish::Hybrid { embedder, ratio },
    }
}

/// Decides the kind of a search; `embedders` is asked only where vectors take part.
///
/// # Errors
/// `missing_search_hybrid`, `invalid_search_embedder`, `invalid_vector_dimensions`.
pub(crate) fn decide_kind(
    query: &SearchQuery,
    embedders: impl FnOnce() -> Result<EmbeddingConfigs, ApiError>,
) -> Result<SearchKind, ApiError> {
    let hybrid =
        query.hybrid.as_ref().map(|hybrid| (hybrid.embedder.as_str(), hybrid.semantic_ratio.get()));
    let dimensions = query.vector.as_ref().map(Vec::len);
    match wish(query.q.as_deref(), hybrid, dimensions.is_some()) {
        Wish::Keyword => Ok(SearchKind::Keyword),
        Wish::Semantic { embedder } => {
            named(&embedders()?, embedder, dimensions, UserError::InvalidSearchEmbedder)
                .map(SearchKind::Semantic)
        }
        Wish::Hybrid { embedder, ratio } => {
            named(&embedders()?, embedder, dimensions, UserError::InvalidSearchEmbedder)
                .map(|embedder| SearchKind::Hybrid(embedder, ratio))
        }
        Wish::Unclear => Err(ApiError::new(
            Code::MissingSearchHybrid,
            "Invalid request: missing `hybrid` parameter when `vector` is present.",
        )),
    }
}

/// The embedder that similar documents are looked for with.
///
/// # Errors
/// `invalid_similar_embedder`.
pub(crate) fn similar_embedder(
    embedders: &EmbeddingConfigs,
    name: &str,
) -> Result<NamedEmbedder, ApiError> {
    named(embedders, name, None, UserError::InvalidSimilarEmbedder)
}

fn named(
    embedders: &EmbeddingConfigs,
    name: &str,
    dimensions: Option<usize>,
    unknown: fn(String) -> UserError,
) -> Result<NamedEmbedder, ApiError> {
    let refuse = |error: UserError| {
        let error = milli::Error::from(error);
        ApiError::new(errors::code(&error), error.to_string())
    };
    let (embedder, _, quantized) =
        embedders.get(name).ok_or_else(|| refuse(unknown(name.to_owned())))?;
    let expected = embedder.dimensions();
    if let Some(found) = dimensions.filter(|found| *found != expected) {
        return Err(refuse(UserError::InvalidVectorDimensions { expected, found }));
    }
    Ok(NamedEmbedder { name: name.to_owned(), embedder, quantized })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_vector_and_ratio_decide() {
        let half = Some(("e", 0.5));
        let hybrid = Wish::Hybrid { embedder: "e", ratio: 0.5 };
        let semantic = Wish::Semantic { embedder: "e" };
        let cases = [
            (None, None, false, Wish::Keyword),
            (Some("x"), None, false, Wish::Keyword),
            (Some("x"), None, true, Wish::Unclear),
            (None, half, false, Wish::Keyword),
            (Some("  "), half, false, Wish::Keyword),
            (Some("x"), half, false, hybrid),
            (Some("x"), half, true, hybrid),
            (Some(""), half, true, hybrid),
            (None, half, true, semantic),
            (Some("x"), Some(("e", 1.0)), false, semantic),
            (Some("x"), Some(("e", 0.0)), true, Wish::Keyword),
        ];
        for (q, given, vector, expected) in cases {
            assert_eq!(wish(q, given, vector), expected, "{q:?} {given:?} {vector}");
        }
    }
}
