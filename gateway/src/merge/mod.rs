//! The exact merge: answers of several nodes to one answer, over their bytes.
//!
//! | file | rule |
//! |---|---|
//! | [`answer`] | takes a node's answer apart |
//! | [`rank`] | what a hit is worth, and how two compare |
//! | [`hits`] | merges the lists |
//! | [`distinct`] | one hit per value across nodes |
//! | [`facets`] | sums, orders and cuts facets |
//! | [`facet_values`] | the same for the values that a facet search found |
//! | [`count_order`] | what must be asked again for facets in order of count, and when they are exact |
//! | [`normal`] | the engine's normal forms of facet values |
//! | [`hybrid`] | one list of what words found and what vectors found |
//! | [`federate`] | one list of the hits of several queries |
//! | [`render`] | writes hits without what is Miroir's own |

pub mod answer;
pub mod count_order;
pub mod distinct;
pub mod facet_values;
pub mod facets;
pub mod federate;
pub mod hits;
pub mod hybrid;
pub mod normal;
pub mod rank;
pub mod render;

use std::ops::Range;

use crate::json_scan::Malformed;
use answer::NodeAnswer;
use count_order::Recounted;
use distinct::Distinct;
use facets::{CountedOnce, FacetRules, MergedFacets, NodeFacets, merge_facets, write_string};
use hits::{HitList, RanOut};
use rank::HitOrder;
use render::{HitCuts, write_hit};

/// How the answers to one search are merged; follows from the query and the settings.
#[derive(Clone, Debug)]
pub struct MergePlan {
    /// The order of hits.
    pub order: HitOrder,
    /// The attribute of which each value shows once.
    pub distinct: Option<String>,
    /// The distinct attribute was added to the facets, so that kept documents can be counted.
    pub counts_distinct: bool,
    /// Which hits of the merged list the client gets.
    pub window: Range<usize>,
    /// What to cut out of hits.
    pub cuts: HitCuts,
    /// How facets are ordered and cut.
    pub facets: FacetRules,
    /// `pagination.maxTotalHits` of the client's settings.
    pub total_hits_max: u64,
    /// What the answer says about the window.
    pub echo: WindowEcho,
    /// The query's words, echoed.
    pub query: String,
    /// The index's name before `hits`, as in a multi-search.
    pub index_uid: Option<String>,
}

impl MergePlan {
    /// Tells the total and the window as they are, also beyond `pagination.maxTotalHits`: what
    /// nodes do that don't cap totals.
    pub fn tell_beyond_the_limit(&mut self, asked_offset: usize) {
        self.total_hits_max = u64::MAX;
        if let WindowEcho::Offset { offset, .. } = &mut self.echo {
            *offset = asked_offset as u64;
        }
    }
}

/// The window as the client asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowEcho {
    /// `page` and `hitsPerPage`: totals are exhaustive.
    Page {
        /// Counted from 1.
        page: u64,
        /// Hits on a page.
        hits_per_page: u64,
    },
    /// `offset` and `limit`: totals are estimates.
    Offset {
        /// Hits skipped.
        offset: u64,
        /// Hits wanted.
        limit: u64,
    },
}

/// A merged answer.
#[derive(Clone, Debug)]
pub struct Merged {
    /// The JSON to send.
    pub body: Vec<u8>,
    /// Facets that may not be what one node would answer.
    pub inexact_facets: Vec<String>,
}

/// Why answers were not merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    /// A part of an answer can't be read.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The answer at this place was cut ([`NodeAnswer::has_more`]), and the page needs more of it.
    #[error("answer {0} ran out before the page was full")]
    RanOut(usize),
}

/// Merges `answers`, which are in the order that breaks ties. `recounted` has, by place of the
/// answer, what a second round brought; it may be shorter.
///
/// # Errors
/// See [`MergeError`].
pub fn merge_answers(
    answers: &[NodeAnswer],
    recounted: &[Vec<Recounted>],
    plan: &MergePlan,
    elapsed_ms: u128,
) -> Result<Merged, MergeError> {
    let lists: Vec<HitList<'_>> = answers
        .iter()
        .map(|answer| HitList { hits: answer.hits(), has_more: answer.has_more })
        .collect();
    let mut distinct = plan.distinct.as_ref().map(|path| Distinct::new(path.as_str()));
    let hits = hits::merge_hits(&lists, plan.order, distinct.as_mut(), plan.window.clone())
        .map_err(|RanOut(list)| MergeError::RanOut(list))?;
    let candidates: u64 = answers.iter().map(|answer| answer.total_hits).sum();
    let mut nodes: Vec<NodeFacets<'_>> = answers.iter().map(NodeAnswer::facets).collect();
    for (node, recounted) in nodes.iter_mut().zip(recounted) {
        node.recounted = recounted;
    }
    // Like one node, which in pages drops all further documents of a value, and otherwise those
    // that it came across while it filled the window.
    let kept = match &distinct {
        Some(distinct) if plan.counts_distinct => {
            let path = distinct.path();
            facets::count_distinct(&nodes, path, candidates, plan.facets.node_values_max)
        }
        Some(distinct) => candidates.saturating_sub(distinct.dropped()),
        None => candidates,
    };
    let once = distinct.as_ref().map(|distinct| match plan.echo {
        WindowEcho::Page { .. } => CountedOnce::All(distinct.path()),
        WindowEcho::Offset { .. } => CountedOnce::Seen(distinct),
    });
    let facets = merge_facets(&nodes, &plan.facets, kept, once)?;
    let semantic_hits = semantic_hit_count(answers, plan, &hits);
    let found = Found { hits, total: kept, facets, semantic_hits, answers };
    Ok(write_answer(found, plan, elapsed_ms))
}

/// What an answer is written from.
pub(crate) struct Found<'a> {
    /// The hits of the page.
    pub(crate) hits: Vec<&'a [u8]>,
    /// Documents that match, not capped yet.
    pub(crate) total: u64,
    /// The facets, perhaps only added for the merge.
    pub(crate) facets: Option<MergedFacets>,
    /// `semanticHitCount`.
    pub(crate) semantic_hits: Option<u64>,
    /// The answers that this comes from.
    pub(crate) answers: &'a [NodeAnswer],
}

/// Writes the answer to one search.
pub(crate) fn write_answer(found: Found<'_>, plan: &MergePlan, elapsed_ms: u128) -> Merged {
    let Found { hits, total, mut facets, semantic_hits, answers } = found;
    let hit_bytes: usize = hits.iter().map(|hit| hit.len() + 1).sum();
    let mut out = Vec::with_capacity(hit_bytes + 512);
    out.push(b'{');
    if let Some(uid) = &plan.index_uid {
        out.extend_from_slice(b"\"indexUid\":");
        write_string(&mut out, uid);
        out.push(b',');
    }
    out.extend_from_slice(b"\"hits\":[");
    for (place, hit) in hits.iter().enumerate() {
        if place > 0 {
            out.push(b',');
        }
        write_hit(&mut out, hit, &plan.cuts);
    }
    out.extend_from_slice(b"],\"query\":");
    write_string(&mut out, &plan.query);
    write_number(&mut out, "processingTimeMs", u64::try_from(elapsed_ms).unwrap_or(u64::MAX));
    write_window(&mut out, plan.echo, total.min(plan.total_hits_max));
    let inexact_facets = facets.as_mut().map_or_else(Vec::new, |f| std::mem::take(&mut f.inexact));
    if let Some(facets) = facets
        && !plan.facets.only_added
    {
        out.extend_from_slice(b",\"facetDistribution\":");
        out.extend_from_slice(&facets.distribution);
        out.extend_from_slice(b",\"facetStats\":");
        out.extend_from_slice(&facets.stats);
    }
    if let Some(count) = semantic_hits {
        write_number(&mut out, "semanticHitCount", count);
    }
    if let Some(vector) = answers.iter().find_map(NodeAnswer::query_vector) {
        out.extend_from_slice(b",\"queryVector\":");
        out.extend_from_slice(vector);
    }
    // Of the nodes' names for their parts of the search one is as good as another.
    if let Some(uid) = answers.iter().find_map(NodeAnswer::request_uid) {
        out.extend_from_slice(b",\"requestUid\":");
        out.extend_from_slice(uid);
    }
    out.push(b'}');
    Merged { body: out, inexact_facets }
}

/// How many hits of the page came from the vector part. One node's own count is of its own page,
/// which is the client's only when that node alone was asked.
fn semantic_hit_count(answers: &[NodeAnswer], plan: &MergePlan, hits: &[&[u8]]) -> Option<u64> {
    let said = answers.iter().find_map(|answer| answer.semantic_hit_count)?;
    Some(match plan.order {
        HitOrder::Arrival => said,
        HitOrder::Hybrid { .. } => hits.iter().filter(|hit| rank::is_semantic(hit)).count() as u64,
        HitOrder::Score | HitOrder::Rules => hits.len() as u64,
    })
}

pub(crate) fn write_number(out: &mut Vec<u8>, name: &str, number: u64) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

pub(crate) fn write_window(out: &mut Vec<u8>, echo: WindowEcho, total_hits: u64) {
    match echo {
        WindowEcho::Page { page, hits_per_page } => {
            let pages = total_hits.div_ceil(hits_per_page.max(1));
            write_number(out, "hitsPerPage", hits_per_page);
            write_number(out, "page", page);
            write_number(out, "totalPages", if hits_per_page == 0 { 0 } else { pages });
            write_number(out, "totalHits", total_hits);
        }
        WindowEcho::Offset { offset, limit } => {
            write_number(out, "limit", limit);
            write_number(out, "offset", offset);
            write_number(out, "estimatedTotalHits", total_hits);
        }
    }
}

#[cfg(test)]
mod tests;
