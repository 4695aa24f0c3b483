//! `GET` and `POST /indexes/{uid}/similar`: documents whose vectors lie near another document's.

use std::collections::BTreeSet;

use deserr::Deserr;
use serde::Serialize;
use serde_json::Value;

use super::{LIMIT_DEFAULT, RankingScoreThreshold, is_limit_default, is_zero};
use crate::document::id_from_value;
use crate::documents_query::filter_from_text;
use crate::error::{ApiError, Code, mark};
use crate::parse::{Commas, JsonFault, Param, QueryFault, from_json, from_query};

/// A search for similar documents. Serialises to the body of `POST similar`, without what equals
/// its default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserr)]
#[serde(rename_all = "camelCase")]
#[deserr(error = JsonFault, rename_all = camelCase, deny_unknown_fields)]
pub struct SimilarQuery {
    /// The id of the document that the others are compared with, not checked yet: see
    /// [`document_id`](Self::document_id).
    #[deserr(error = JsonFault<mark::InvalidSimilarId>)]
    pub id: Value,
    /// Hits to leave out first.
    #[serde(skip_serializing_if = "is_zero")]
    #[deserr(default, error = JsonFault<mark::InvalidSimilarOffset>)]
    pub offset: usize,
    /// Hits to answer with.
    #[serde(skip_serializing_if = "is_limit_default")]
    #[deserr(default = LIMIT_DEFAULT, error = JsonFault<mark::InvalidSimilarLimit>)]
    pub limit: usize,
    /// Which documents may be hits.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[deserr(default, error = JsonFault<mark::InvalidSimilarFilter>)]
    pub filter: Option<Value>,
    /// Whose vectors.
    #[deserr(error = JsonFault<mark::InvalidSimilarEmbedder>)]
    pub embedder: String,
    /// The attributes hits are shown with.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[deserr(default, error = JsonFault<mark::InvalidSimilarAttributesToRetrieve>)]
    pub attributes_to_retrieve: Option<BTreeSet<String>>,
    /// Whether `_vectors` is wanted.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[deserr(default, error = JsonFault<mark::InvalidSimilarRetrieveVectors>)]
    pub retrieve_vectors: bool,
    /// Whether `_rankingScore` is wanted.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[deserr(default, error = JsonFault<mark::InvalidSimilarShowRankingScore>)]
    pub show_ranking_score: bool,
    /// Whether `_rankingScoreDetails` is wanted.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[deserr(default, error = JsonFault<mark::InvalidSimilarShowRankingScoreDetails>)]
    pub show_ranking_score_details: bool,
    /// The score a hit needs.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[deserr(default, error = JsonFault<mark::InvalidSimilarRankingScoreThreshold>)]
    pub ranking_score_threshold: Option<RankingScoreThreshold>,
}

#[derive(Debug, Deserr)]
#[deserr(error = QueryFault, rename_all = camelCase, deny_unknown_fields)]
struct SimilarParams {
    #[deserr(error = QueryFault<mark::InvalidSimilarId>)]
    id: Param<String>,
    #[deserr(default, error = QueryFault<mark::InvalidSimilarOffset>)]
    offset: Param<usize>,
    #[deserr(default = Param(LIMIT_DEFAULT), error = QueryFault<mark::InvalidSimilarLimit>)]
    limit: Param<usize>,
    #[deserr(default, error = QueryFault<mark::InvalidSimilarAttributesToRetrieve>)]
    attributes_to_retrieve: Option<Commas<String>>,
    #[deserr(default, error = QueryFault<mark::InvalidSimilarRetrieveVectors>)]
    retrieve_vectors: Param<bool>,
    #[deserr(default, error = QueryFault<mark::InvalidSimilarFilter>)]
    filter: Option<String>,
    #[deserr(default, error = QueryFault<mark::InvalidSimilarShowRankingScore>)]
    show_ranking_score: Param<bool>,
    #[deserr(default, error = QueryFault<mark::InvalidSimilarShowRankingScoreDetails>)]
    show_ranking_score_details: Param<bool>,
    #[deserr(default, error = QueryFault<mark::InvalidSimilarRankingScoreThreshold>)]
    ranking_score_threshold: Option<Param<RankingScoreThreshold>>,
    #[deserr(error = QueryFault<mark::InvalidSimilarEmbedder>)]
    embedder: String,
}

impl SimilarQuery {
    /// The body of `POST similar`.
    ///
    /// # Errors
    /// `invalid_similar_*`, and those of any JSON body.
    pub fn from_json(body: &[u8]) -> Result<SimilarQuery, ApiError> {
        from_json::<_, mark::BadRequest>(body)
    }

    /// The query string of `GET similar`.
    ///
    /// # Errors
    /// `invalid_similar_*`.
    pub fn from_query_string(query: &str) -> Result<SimilarQuery, ApiError> {
        let params: SimilarParams = from_query(query)?;
        Ok(SimilarQuery {
            id: Value::String(params.id.0),
            offset: params.offset.0,
            limit: params.limit.0,
            filter: params.filter.map(filter_from_text),
            embedder: params.embedder,
            attributes_to_retrieve: params
                .attributes_to_retrieve
                .map(|names| names.0.into_iter().collect()),
            retrieve_vectors: params.retrieve_vectors.0,
            show_ranking_score: params.show_ranking_score.0,
            show_ranking_score_details: params.show_ranking_score_details.0,
            ranking_score_threshold: params.ranking_score_threshold.map(|score| score.0),
        })
    }

    /// The id in text form.
    ///
    /// # Errors
    /// `invalid_similar_id` when it can't be one.
    pub fn document_id(&self) -> Result<String, ApiError> {
        id_from_value(&self.id).map_err(|error| {
            ApiError::new(Code::InvalidSimilarId, format!("Invalid value at `.id`: {error}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_query_string_says_the_same_as_a_body() {
        let body = json!({
            "id": "7", "offset": 1, "limit": 2, "filter": "a = 1", "embedder": "e",
            "attributesToRetrieve": ["a", "b"], "retrieveVectors": true, "showRankingScore": true,
            "showRankingScoreDetails": true, "rankingScoreThreshold": 0.5,
        });
        let from_body = SimilarQuery::from_json(body.to_string().as_bytes()).unwrap();
        assert_eq!(serde_json::to_value(&from_body).unwrap(), body);
        let string = "id=7&offset=1&limit=2&filter=a%20%3D%201&embedder=e&attributesToRetrieve=a,b\
            &retrieveVectors=true&showRankingScore=true&showRankingScoreDetails=true&rankingScoreThreshold=0.5";
        assert_eq!(SimilarQuery::from_query_string(string).unwrap(), from_body);
    }

    #[test]
    fn wrong_queries_are_refused_in_meilisearchs_words() {
        for (body, code, message) in [
            (json!({"embedder": "e"}), "bad_request", "Missing field `id`"),
            (json!({"id": 1}), "bad_request", "Missing field `embedder`"),
            (
                json!({"id": 1, "embedder": 2}),
                "invalid_similar_embedder",
                "Invalid value type at `.embedder`: expected a string, but found a positive integer: `2`",
            ),
            (
                json!({"id": 1, "embedder": "e", "rankingScoreThreshold": 2}),
                "invalid_similar_ranking_score_threshold",
                "Invalid value at `.rankingScoreThreshold`: the value of `rankingScoreThreshold` is invalid, expected a float between `0.0` and `1.0`.",
            ),
        ] {
            let error = SimilarQuery::from_json(body.to_string().as_bytes()).unwrap_err();
            assert_eq!((error.code.name(), error.message.as_str()), (code, message), "{body}");
        }
        let query = SimilarQuery::from_json(br#"{"id": "a b", "embedder": "e"}"#).unwrap();
        let error = query.document_id().unwrap_err();
        assert_eq!(error.code, Code::InvalidSimilarId);
        assert!(
            error
                .message
                .starts_with("Invalid value at `.id`: Document identifier `\"a b\"` is invalid."),
            "{}",
            error.message
        );
        let error = SimilarQuery::from_query_string("id=1&embedder=e&limit=x").unwrap_err();
        assert_eq!(error.code, Code::InvalidSimilarLimit);
    }
}
