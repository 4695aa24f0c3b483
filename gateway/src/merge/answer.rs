//! A node's answer to a search, taken apart but not decoded.

use bytes::Bytes;

use super::facets::NodeFacets;
use crate::json_scan::{Malformed, elements, integer, member, members};

/// Where a part lies in the body.
type Span = (usize, usize);

/// The parts of one node's answer; the body is kept and the parts point into it.
#[derive(Clone, Debug)]
pub struct NodeAnswer {
    body: Bytes,
    hits: Vec<Span>,
    distribution: Option<Span>,
    stats: Option<Span>,
    query_vector: Option<Span>,
    request_uid: Option<Span>,
    /// `totalHits` or `estimatedTotalHits`.
    pub total_hits: u64,
    /// `semanticHitCount`, for vector and hybrid searches.
    pub semantic_hit_count: Option<u64>,
    /// The node may have further hits for the page: it was asked for fewer than the page could
    /// need, and gave as many.
    pub has_more: bool,
}

impl NodeAnswer {
    /// Takes `body` apart.
    ///
    /// # Errors
    /// When it is not the answer to a search: not UTF-8, not JSON, no hits or no total.
    pub fn parse(body: Bytes) -> Result<Self, Malformed> {
        if let Err(error) = std::str::from_utf8(&body) {
            return Err(Malformed { at: error.valid_up_to() });
        }
        let mut hits = None;
        let mut total_hits = None;
        let mut parts = (None, None, None, None);
        let mut semantic_hit_count = None;
        for part in members(&body) {
            let part = part?;
            let span = || Some(span_in(&body, part.value));
            match part.key {
                b"hits" => hits = Some(hit_spans(&body, part.value)?),
                b"totalHits" | b"estimatedTotalHits" => total_hits = integer(part.value),
                b"semanticHitCount" => semantic_hit_count = integer(part.value),
                b"facetDistribution" if part.value != b"null" => parts.0 = span(),
                b"facetStats" if part.value != b"null" => parts.1 = span(),
                // A federated answer; one index is asked for at a time.
                b"facetsByIndex" => {
                    for index in members(part.value).take(1) {
                        let facets = index?.value;
                        let of = |name| member(facets, name).map(|part| span_in(&body, part));
                        (parts.0, parts.1) = (of("distribution"), of("stats"));
                    }
                }
                b"queryVector" => parts.2 = span(),
                b"requestUid" => parts.3 = span(),
                _ => {}
            }
        }
        let (Some(hits), Some(total_hits)) = (hits, total_hits) else {
            return Err(Malformed { at: body.len() });
        };
        let (distribution, stats, query_vector, request_uid) = parts;
        Ok(Self {
            hits,
            distribution,
            stats,
            query_vector,
            request_uid,
            total_hits,
            semantic_hit_count,
            has_more: false,
            body,
        })
    }

    /// The hits, in the node's order.
    pub fn hits(&self) -> Vec<&[u8]> {
        self.hits.iter().map(|span| self.slice(*span)).collect()
    }

    /// How many hits there are.
    pub fn hit_count(&self) -> usize {
        self.hits.len()
    }

    /// The facets, as the node said them.
    pub fn facets(&self) -> NodeFacets<'_> {
        NodeFacets {
            distribution: self.distribution.map(|span| self.slice(span)),
            stats: self.stats.map(|span| self.slice(span)),
            candidates: self.total_hits,
            recounted: &[],
        }
    }

    /// The vector the node searched with, when it says so.
    pub fn query_vector(&self) -> Option<&[u8]> {
        self.query_vector.map(|span| self.slice(span))
    }

    /// What the node calls the request, as text in quotes; nodes say so since 1.23.
    pub fn request_uid(&self) -> Option<&[u8]> {
        self.request_uid.map(|span| self.slice(span))
    }

    fn slice(&self, (start, end): Span) -> &[u8] {
        self.body.get(start..end).unwrap_or_default()
    }
}

fn hit_spans(body: &[u8], list: &[u8]) -> Result<Vec<Span>, Malformed> {
    // Most answers have a page of hits.
    let mut spans = Vec::with_capacity(32);
    for hit in elements(list) {
        let span = span_in(body, hit?);
        if body.get(span.0) != Some(&b'{') {
            return Err(Malformed { at: span.0 });
        }
        spans.push(span);
    }
    Ok(spans)
}

/// Where `part`, a slice of `body`, lies in it.
fn span_in(body: &[u8], part: &[u8]) -> Span {
    let start = (part.as_ptr() as usize).saturating_sub(body.as_ptr() as usize);
    (start, start + part.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_found_where_they_lie() {
        let body = Bytes::from_static(
            br#"{"hits":[{"a":1},{"b":[2]}],"query":"q","limit":20,"estimatedTotalHits":7,
            "facetDistribution":{"g":{"x":1}},"facetStats":{},"semanticHitCount":2,"requestUid":"01a2"}"#,
        );
        let answer = NodeAnswer::parse(body);
        let Ok(answer) = answer else { panic!("{answer:?}") };
        assert_eq!(answer.hits(), [&br#"{"a":1}"#[..], br#"{"b":[2]}"#]);
        assert_eq!((answer.total_hits, answer.semantic_hit_count), (7, Some(2)));
        assert_eq!(answer.facets().distribution, Some(&br#"{"g":{"x":1}}"#[..]));
        assert_eq!(answer.facets().stats, Some(&b"{}"[..]));
        assert_eq!(answer.query_vector(), None);
        assert_eq!(answer.request_uid(), Some(&br#""01a2""#[..]));
    }

    #[test]
    fn garbage_is_not_an_answer() {
        for bad in [
            &b"<html>"[..],
            b"{}",
            b"{\"hits\":[]}",
            b"{\"hits\":[1],\"totalHits\":1}",
            b"{\"hits\":{},\"totalHits\":1}",
            b"{\"hits\":[{\"a\":1}],\"totalHits\":1",
            b"{\"hits\":[{\"a\":\"\xff\"}],\"totalHits\":1}",
            b"null",
        ] {
            assert!(NodeAnswer::parse(Bytes::from_static(bad)).is_err());
        }
    }
}
