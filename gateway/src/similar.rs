//! `GET` and `POST /indexes/{uid}/similar`: documents whose vectors lie near another document's.
//!
//! Only the nodes with the document can be asked for what is similar to it. So its vector is read
//! first; then the node that answers for its shard is asked by the route itself, which leaves the
//! document out, and the others are asked for what lies near the vector. Lists are merged by
//! similarity, as Meilisearch's own.
//!
//! | not as one node | why |
//! |---|---|
//! | neighbours, when a node has more documents than it is asked for | each node has its own approximate index |
//! | order, when a custom ranking rule stands before all relevance rules | a search by vectors obeys it, this route does not |
//! | a `distinctAttribute` | the same |
//! | documents with several vectors | a search looks at all of them |
//!
//! The first three are told in `X-Miroir-Inexact: hits=…`, and the last when the document itself
//! has several.

use bytes::Bytes;
use miroir_storage::routing::Routing;
use miroir_wire::documents_query::GetDocument;
use miroir_wire::error::{ApiError, Code};
use miroir_wire::search::{HybridQuery, SearchQuery, SemanticRatio, SimilarQuery};
use serde_json::{Map, Value};

use crate::context::GatewayContext;
use crate::documents_read::read_stored;
use crate::failure::Failure;
use crate::json_scan::{Malformed, member, members};
use crate::late::ask_alone;
use crate::merge::answer::NodeAnswer;
use crate::merge::facets::write_string;
use crate::merge::hits::{HitList, merge_hits};
use crate::merge::rank::{HitOrder, similarity};
use crate::merge::render::write_hit;
use crate::merge::write_number;
use crate::node_query::{Lists, NodeQuery, client_filter, join_filters, prepare};
use crate::plan::{PlannedCall, query_hash, shard_of};
use crate::read_settings::ReadSettings;
use crate::scatter::{NodeRequest, ReadKey, ReadScope, gather, plan_now};
use crate::search::{InexactHits, ReadAnswer, resolve, unreadable};
use crate::window::AskedWindow;

/// Finds documents that are similar to another.
///
/// # Errors
/// `index_not_found`, `invalid_similar_*`, `not_found_similar_id`, `miroir_shard_unavailable`.
pub async fn similar(
    context: &GatewayContext,
    routing: &Routing,
    name: &str,
    query: &SimilarQuery,
) -> Result<ReadAnswer, Failure> {
    let started = context.seams.clock.instant();
    let index = resolve(routing, name)?;
    let settings = context.settings.get(index);
    let scope = ReadScope { routing, index, settings: &settings };
    if !settings.embedders.contains(&query.embedder) {
        let message = format!("Cannot find embedder with name `{}`.", query.embedder);
        return Err(ApiError::new(Code::InvalidSimilarEmbedder, message).into());
    }
    let id = query.document_id()?;
    let shard = shard_of(&id, index.shards);
    let mut key =
        ReadKey::new(query_hash(format!("{}/{id}/{}", index.uid, query.embedder).as_bytes()));
    let mut plan = plan_now(context, scope, &key);
    let mut found = None;
    if let ([call], true) = (plan.calls.as_slice(), plan.missing.is_empty()) {
        let sent = Sent::of(query, &settings, &id, Vectors::default(), Lists::One)?;
        let request = sent.by_document(call, query.offset, query.limit);
        let answer = ask_alone(context, scope, &mut key, call, request, SimilarPart::own).await?;
        if let Some(part) = answer {
            found = Some((sent, vec![part], Vec::new()));
        } else {
            plan = plan_now(context, scope, &key);
        }
    }
    let (sent, parts, missing) = match found {
        Some(found) => found,
        None => {
            let vectors = read_vectors(context, scope, &id, &query.embedder).await?;
            let sent = Sent::of(query, &settings, &id, vectors, Lists::Many)?;
            let end = query.offset.saturating_add(query.limit);
            let request = |call: &PlannedCall| {
                if call.shards.contains(&shard) {
                    sent.by_document(call, 0, end)
                } else {
                    sent.by_vector(call, end)
                }
            };
            let gathered = gather(context, scope, key, plan, request, SimilarPart::any).await;
            let gathered = gathered.map_err(|failure| as_of_this_route(failure, name))?;
            let parts = gathered.parts.into_iter().map(|part| part.answer).collect();
            (sent, parts, gathered.missing)
        }
    };
    sent.answer(
        query,
        &parts,
        context.seams.clock.instant().saturating_duration_since(started).as_millis(),
    )
    .map(|mut answer| {
        answer.missing = missing;
        answer.settings_version = Some(index.settings_version);
        answer.settings_pending = index.settings_pending;
        answer
    })
}

/// The vectors that a document has for the embedder.
#[derive(Clone, Debug, Default, PartialEq)]
struct Vectors {
    /// The first; none when there are none.
    first: Option<Vec<f32>>,
    /// There are more.
    are_several: bool,
}

async fn read_vectors(
    context: &GatewayContext,
    scope: ReadScope<'_>,
    id: &str,
    embedder: &str,
) -> Result<Vectors, Failure> {
    let query = GetDocument { fields: Some(vec!["_vectors".to_owned()]), retrieve_vectors: true };
    let document =
        read_stored(context, scope, id, &query).await.map_err(|failure| match failure {
            Failure::Node { error, .. } if error.code == Code::DocumentNotFound.name() => {
                ApiError::new(Code::NotFoundSimilarId, error.message).into()
            }
            other => other,
        })?;
    Ok(vectors_of(&document, embedder))
}

/// The vectors in a document's `_vectors`, in any form that nodes print.
fn vectors_of(document: &[u8], embedder: &str) -> Vectors {
    let stored: Option<Map<String, Value>> =
        member(document, "_vectors").and_then(|vectors| serde_json::from_slice(vectors).ok());
    let Some(said) = stored.as_ref().and_then(|stored| stored.get(embedder)) else {
        return Vectors::default();
    };
    let said = said.get("embeddings").unwrap_or(said);
    let read = |list: &Value| -> Option<Vec<f32>> {
        // As the engine keeps them.
        #[allow(clippy::cast_possible_truncation)]
        list.as_array()?.iter().map(|number| Some(number.as_f64()? as f32)).collect()
    };
    match said.as_array().map(Vec::as_slice) {
        Some([Value::Array(_), rest @ ..]) => {
            Vectors { first: said.get(0).and_then(read), are_several: !rest.is_empty() }
        }
        Some([_, ..]) => Vectors { first: read(said), are_several: false },
        _ => Vectors::default(),
    }
}

/// What a node said of a search, said as of this route: of the filter, that is, the rest of the
/// search is ours.
fn as_of_this_route(failure: Failure, name: &str) -> Failure {
    match failure {
        Failure::Node { error, .. } if error.code == Code::InvalidSearchFilter.name() => {
            let in_index = format!("Index `{name}`: ");
            let message = error.message.strip_prefix(&in_index).unwrap_or(&error.message);
            ApiError::new(Code::InvalidSimilarFilter, message).into()
        }
        other => other,
    }
}

/// One node's part, and whether the node was asked by the route itself.
struct SimilarPart {
    answer: NodeAnswer,
    /// It says whose neighbours it has.
    is_own: bool,
}

impl SimilarPart {
    fn own(body: Bytes) -> Result<Self, Malformed> {
        Ok(Self { answer: NodeAnswer::parse(body)?, is_own: true })
    }

    fn any(body: Bytes) -> Result<Self, Malformed> {
        let is_own = members(&body).map_while(Result::ok).any(|part| part.key == b"id");
        Ok(Self { answer: NodeAnswer::parse(body)?, is_own })
    }
}

/// What nodes are sent.
struct Sent {
    id: String,
    /// By the route itself, without its filter and window.
    own: SimilarQuery,
    filter: Option<Value>,
    /// By the vector.
    others: NodeQuery,
    vectors: Vectors,
    inexact: Vec<InexactHits>,
    total_hits_max: usize,
}

impl Sent {
    fn of(
        query: &SimilarQuery,
        settings: &ReadSettings,
        id: &str,
        vectors: Vectors,
        lists: Lists,
    ) -> Result<Self, Failure> {
        let filter = client_filter(query.filter.clone(), Code::InvalidSimilarFilter)?;
        let hybrid =
            HybridQuery { semantic_ratio: SemanticRatio::ONE, embedder: query.embedder.clone() };
        let search = SearchQuery {
            hybrid: vectors.first.is_some().then_some(hybrid),
            vector: vectors.first.clone(),
            filter: query.filter.clone(),
            attributes_to_retrieve: query.attributes_to_retrieve.clone(),
            retrieve_vectors: query.retrieve_vectors,
            show_ranking_score: query.show_ranking_score,
            show_ranking_score_details: true,
            ranking_score_threshold: query.ranking_score_threshold,
            ..SearchQuery::default()
        };
        let mut others = prepare(&search, settings, Lists::One)?;
        others.merge.cuts.details = !query.show_ranking_score_details;
        let own = SimilarQuery {
            id: Value::String(id.to_owned()),
            offset: 0,
            filter: None,
            attributes_to_retrieve: others.retrieved.clone(),
            show_ranking_score_details: true,
            ..query.clone()
        };
        let mut inexact = Vec::new();
        if lists == Lists::Many {
            if settings.distinct.is_some() || settings.sorts_before_relevance() {
                inexact.push(InexactHits::Rules);
            }
            if vectors.are_several {
                inexact.push(InexactHits::Vectors);
            }
            if query.offset.saturating_add(query.limit) > settings.total_hits_max {
                inexact.push(InexactHits::Window);
            }
        }
        let total_hits_max = settings.total_hits_max;
        Ok(Self { id: id.to_owned(), own, filter, others, vectors, inexact, total_hits_max })
    }

    fn by_document(&self, call: &PlannedCall, offset: usize, limit: usize) -> NodeRequest {
        let mut query = self.own.clone();
        query.filter = join_filters(self.filter.as_ref(), call.filter.as_deref());
        (query.offset, query.limit) = (offset, limit);
        // A plain struct: serialising it can't fail.
        NodeRequest::post("/similar", serde_json::to_vec(&query).unwrap_or_default())
    }

    /// Without a vector there are no neighbours, but documents that are counted.
    fn by_vector(&self, call: &PlannedCall, end: usize) -> NodeRequest {
        let hits = if self.vectors.first.is_some() { end } else { 0 };
        let window = AskedWindow { in_pages: false, before: 0, hits };
        NodeRequest::post("/search", self.others.body(call.filter.as_deref(), window))
    }

    fn answer(
        &self,
        query: &SimilarQuery,
        parts: &[SimilarPart],
        elapsed_ms: u128,
    ) -> Result<ReadAnswer, Failure> {
        let end = query.offset.saturating_add(query.limit);
        let is_alone = parts.len() == 1 && parts.iter().all(|part| part.is_own);
        let lists: Vec<HitList<'_>> = parts
            .iter()
            .map(|part| {
                let hits = part.answer.hits().into_iter();
                // A search goes on with documents that have no vector.
                let hits = hits.take_while(|hit| part.is_own || similarity(hit).is_some());
                HitList { hits: hits.collect(), has_more: false }
            })
            .collect();
        let is_full = parts.iter().any(|part| part.answer.hit_count() >= end);
        let window = if is_alone && self.vectors.first.is_none() {
            0..query.limit
        } else {
            query.offset..end
        };
        let order = if is_alone { HitOrder::Arrival } else { HitOrder::Rules };
        let hits =
            merge_hits(&lists, order, None, window).map_err(|_| unreadable(Malformed { at: 0 }))?;
        let mut out = b"{\"hits\":[".to_vec();
        for (place, hit) in hits.iter().enumerate() {
            if place > 0 {
                out.push(b',');
            }
            write_hit(&mut out, hit, &self.others.merge.cuts);
        }
        out.extend_from_slice(b"],\"id\":");
        write_string(&mut out, &self.id);
        let total: u64 = parts.iter().map(|part| part.answer.total_hits).sum();
        write_number(&mut out, "processingTimeMs", u64::try_from(elapsed_ms).unwrap_or(u64::MAX));
        write_number(&mut out, "limit", query.limit as u64);
        write_number(&mut out, "offset", query.offset as u64);
        write_number(&mut out, "estimatedTotalHits", total.min(self.total_hits_max as u64));
        out.push(b'}');
        let mut inexact_hits = self.inexact.clone();
        if !is_alone && is_full && self.vectors.first.is_some() {
            inexact_hits.push(InexactHits::Vectors);
        }
        inexact_hits.sort_unstable();
        inexact_hits.dedup();
        Ok(ReadAnswer { body: out, inexact_hits, ..ReadAnswer::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_read_in_every_form() {
        let first = Some(vec![0.5, 1.0]);
        for (stored, expected) in [
            (r#"{"e":[0.5,1]}"#, Vectors { first: first.clone(), are_several: false }),
            (r#"{"e":[[0.5,1]]}"#, Vectors { first: first.clone(), are_several: false }),
            (
                r#"{"e":{"embeddings":[[0.5,1],[2,3]],"regenerate":false}}"#,
                Vectors { first, are_several: true },
            ),
            (r#"{"e":{"embeddings":[],"regenerate":false}}"#, Vectors::default()),
            (r#"{"e":null}"#, Vectors::default()),
            (r#"{"other":[1]}"#, Vectors::default()),
        ] {
            let document = format!(r#"{{"_miroir_shard":"†","_vectors":{stored}}}"#);
            assert_eq!(vectors_of(document.as_bytes(), "e"), expected, "{stored}");
        }
        assert_eq!(vectors_of(b"{}", "e"), Vectors::default());
    }
}
