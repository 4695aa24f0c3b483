//! `POST /multi-search` with `federation`: the hits of several queries as one list.
//!
//! Per index, every chosen node gets *one* request: a federated multi-search of all the queries
//! about that index, limited to the node's shards. So a document that several of them find is
//! counted and shown once, since it lies on one node only; and totals and facets are those of all
//! the queries together. What comes back is merged by query, then by index
//! ([`crate::merge::federate`]).
//!
//! Checks that concern several indexes are made here, in the order in which one node would come to
//! them: index by index in order of name, query by query.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::join_all;
use miroir_storage::ids::ShardId;
use miroir_storage::routing::{IndexRouting, Routing};
use miroir_wire::error::{ApiError, Code};
use miroir_wire::search::{
    Federation, LIMIT_DEFAULT, MultiSearchQuery, OrderCheck, RankedBy, RuleOrder, SearchQuery,
};
use serde_json::{Map, Value, json};

use self::facets::{FacetOrders, check_unused_facets, write_facets};
use crate::context::GatewayContext;
use crate::failure::Failure;
use crate::late::ask_alone;
use crate::merge::answer::NodeAnswer;
use crate::merge::facets::{FacetRules, MergedFacets, merge_facets};
use crate::merge::federate::{FederatedHit, QueryRule, merge_index, merge_lists};
use crate::merge::rank::HitOrder;
use crate::merge::render::{Federated, HitCuts, write_hit};
use crate::merge::{WindowEcho, write_number, write_window};
use crate::node_query::{Lists, NodeQuery, federated_facets, prepare};
use crate::plan::{PlannedCall, query_hash};
use crate::read_settings::ReadSettings;
use crate::scatter::{NodeRequest, ReadKey, ReadScope, gather, plan_now};
use crate::search::{InexactHits, ReadAnswer, drops_by_frequency, hash_of, resolve, unreadable};

mod facets;

/// Runs the queries and merges their hits.
///
/// # Errors
/// The first query's that is refused, said to be inside of it; `invalid_multi_search_*`;
/// `miroir_shard_unavailable`.
pub async fn federated_search(
    context: &GatewayContext,
    routing: &Routing,
    request: &MultiSearchQuery,
    federation: &Federation,
) -> Result<ReadAnswer, Failure> {
    let started = context.seams.clock.instant();
    let (offset, limit) = federation.window();
    let end = offset.saturating_add(limit);
    let (parts, refused) = plan_parts(context, routing, request, federation);
    let searches = parts.iter().map(|part| part.ask(context, routing, request, end));
    let mut gathered = Vec::with_capacity(parts.len());
    for (part, asked) in parts.iter().zip(join_all(searches).await) {
        gathered.push(asked.map_err(|failure| part.reword(failure))?);
    }
    if let Some(failure) = refused {
        return Err(failure);
    }
    check_unused_facets(context, routing, request, federation).await?;

    let mut answer = ReadAnswer::default();
    let (mut lists, mut total) = (Vec::new(), 0);
    let mut facets: Vec<(&str, MergedFacets)> = Vec::new();
    for (part, asked) in parts.iter().zip(&gathered) {
        let (hits, dropped) = asked.merge(part, request, end)?;
        lists.push(hits);
        total += asked.total().saturating_sub(dropped);
        let merged = asked.merge_facets(part)?;
        answer.add_marks(&asked.marks(part, request, merged.as_ref(), end));
        facets.extend(merged.map(|merged| (part.name, merged)));
    }
    let page: Vec<FederatedHit<'_>> =
        merge_lists(lists).into_iter().skip(offset).take(limit).collect();
    let cuts = Cuts::of(&parts, &gathered);
    let mut out = b"{\"hits\":[".to_vec();
    for (place, hit) in page.iter().enumerate() {
        if place > 0 {
            out.push(b',');
        }
        write_hit(&mut out, hit.hit, cuts.of_query(hit.position));
    }
    out.push(b']');
    let elapsed = context.seams.clock.instant().saturating_duration_since(started);
    write_number(
        &mut out,
        "processingTimeMs",
        u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
    );
    write_window(&mut out, echo_of(federation), total);
    if gathered.iter().any(Gathered::takes_vectors) {
        let semantic = page.iter().filter(|hit| hit.is_semantic()).count();
        write_number(&mut out, "semanticHitCount", semantic as u64);
    }
    write_facets(&mut out, federation, &parts, &facets);
    out.push(b'}');
    answer.body = out;
    Ok(answer)
}

fn echo_of(federation: &Federation) -> WindowEcho {
    if federation.is_finite_pagination() {
        WindowEcho::Page {
            page: federation.page.unwrap_or(1) as u64,
            hits_per_page: federation.hits_per_page.unwrap_or(LIMIT_DEFAULT) as u64,
        }
    } else {
        WindowEcho::Offset { offset: federation.offset as u64, limit: federation.limit as u64 }
    }
}

/// The queries about one index.
struct IndexPart<'r> {
    /// The client's name of the index.
    name: &'r str,
    index: &'r Arc<IndexRouting>,
    settings: Arc<ReadSettings>,
    /// The queries' positions in the request.
    positions: Vec<usize>,
    /// The facets asked for.
    facets: Option<&'r [String]>,
}

/// The parts, and what refuses the request before all of it could be asked; the parts before that
/// are asked all the same, since one node would refuse them first.
fn plan_parts<'r>(
    context: &GatewayContext,
    routing: &'r Routing,
    request: &'r MultiSearchQuery,
    federation: &'r Federation,
) -> (Vec<IndexPart<'r>>, Option<Failure>) {
    let mut orders = OrderCheck::default();
    let mut facet_orders = FacetOrders::default();
    let mut parts = Vec::new();
    for (name, positions) in request.queries_by_index() {
        let first = positions.first().copied().unwrap_or_default();
        let index = match resolve(routing, name) {
            Ok(index) => index,
            Err(failure) => return (parts, Some(in_query(failure.not_of_the_url(), first))),
        };
        let settings = context.settings.get(index);
        let facets = federation.facets_by_index.get(name).and_then(Option::as_deref);
        if federation.merge_facets.is_some()
            && let Err(error) = facet_orders.add(name, facets.unwrap_or_default(), &settings)
        {
            return (parts, Some(in_facets(error.into(), name, Some(first))));
        }
        let mut part = IndexPart { name, index, settings, positions, facets };
        let checked = part.check_orders(request, &mut orders);
        if let Err((place, failure)) = checked {
            part.positions.truncate(place);
            if !part.positions.is_empty() {
                parts.push(part);
            }
            return (parts, Some(failure));
        }
        parts.push(part);
    }
    (parts, None)
}

impl IndexPart<'_> {
    /// Whether the queries' rankings go together with those before; else the place of the first
    /// that doesn't.
    fn check_orders(
        &self,
        request: &MultiSearchQuery,
        orders: &mut OrderCheck,
    ) -> Result<(), (usize, Failure)> {
        for (place, position) in self.positions.iter().enumerate() {
            let Some((_, query)) = request.queries.get(*position) else { continue };
            let order = RuleOrder::of(
                &self.settings.ranking_rules,
                query.sort.as_deref(),
                query.matching_strategy,
                ranked_by(query),
            );
            if let Some(order) = order {
                orders
                    .add(order, *position, self.name)
                    .map_err(|error| (place, in_query(error.into(), *position)))?;
            }
        }
        Ok(())
    }

    /// Asks the nodes.
    async fn ask(
        &self,
        context: &GatewayContext,
        routing: &Routing,
        request: &MultiSearchQuery,
        end: usize,
    ) -> Result<Gathered, Failure> {
        let scope = ReadScope { routing, index: self.index, settings: &self.settings };
        let queries: Vec<&SearchQuery> = self
            .positions
            .iter()
            .filter_map(|position| request.queries.get(*position))
            .map(|(_, query)| query)
            .collect();
        let hashes: Vec<u8> = queries
            .iter()
            .flat_map(|query| hash_of(&self.index.uid, query).to_le_bytes())
            .collect();
        let mut key = ReadKey::new(query_hash(&hashes));
        let mut plan = plan_now(context, scope, &key);
        if let ([call], true) = (plan.calls.as_slice(), plan.missing.is_empty()) {
            let prepared = self.prepare(&queries, Lists::One)?;
            let sent = self.request(request, &prepared, call, end);
            let answer = ask_alone(context, scope, &mut key, call, sent, NodeAnswer::parse).await?;
            if let Some(answer) = answer {
                return Ok(Gathered { prepared, answers: vec![answer], missing: Vec::new() });
            }
            plan = plan_now(context, scope, &key);
        }
        let prepared = self.prepare(&queries, Lists::Many)?;
        let sent = |call: &PlannedCall| self.request(request, &prepared, call, end);
        let gathered = gather(context, scope, key, plan, sent, NodeAnswer::parse).await?;
        let answers = gathered.parts.into_iter().map(|part| part.answer).collect();
        Ok(Gathered { prepared, answers, missing: gathered.missing })
    }

    fn prepare(&self, queries: &[&SearchQuery], lists: Lists) -> Result<Vec<NodeQuery>, Failure> {
        queries
            .iter()
            .zip(&self.positions)
            .map(|(query, position)| {
                let mut sent = SearchQuery::clone(query);
                sent.show_ranking_score = true;
                sent.show_ranking_score_details = true;
                let mut prepared = prepare(&sent, &self.settings, lists)
                    .map_err(|error| in_query(error.into(), *position))?;
                prepared.merge.cuts.score = !query.show_ranking_score;
                prepared.merge.cuts.details = !query.show_ranking_score_details;
                if lists == Lists::Many && prepared.merge.order == HitOrder::Score {
                    prepared.merge.order = HitOrder::Rules;
                }
                Ok(prepared)
            })
            .collect()
    }

    fn request(
        &self,
        request: &MultiSearchQuery,
        prepared: &[NodeQuery],
        call: &PlannedCall,
        end: usize,
    ) -> NodeRequest {
        let uid = self.index.uid.as_str();
        let mut body = b"{\"queries\":[".to_vec();
        for (place, (query, position)) in prepared.iter().zip(&self.positions).enumerate() {
            if place > 0 {
                body.push(b',');
            }
            let weight = request.weight(*position).get();
            body.extend(query.federated_body(uid, weight, call.filter.as_deref()));
        }
        let facets = self.facets.map(|names| federated_facets(names, &self.settings).1);
        let facets: Map<String, Value> =
            facets.map(|names| (uid.to_owned(), json!(names))).into_iter().collect();
        let federation = json!({"limit": end, "facetsByIndex": facets});
        body.extend_from_slice(b"],\"federation\":");
        body.extend_from_slice(federation.to_string().as_bytes());
        body.push(b'}');
        NodeRequest { at_root: true, ..NodeRequest::post("/multi-search", body) }
    }

    /// What a node said of its queries, said of the client's.
    fn reword(&self, failure: Failure) -> Failure {
        let Failure::Node { status, mut error } = failure else { return failure };
        error.message = reword(&error.message, self.index.uid.as_str(), self.name, &self.positions);
        Failure::Node { status, error }
    }
}

/// `message` with the client's positions of queries, where nodes count those about one index, and
/// with the client's name of the index where it is not between back-quotes.
fn reword(message: &str, uid: &str, name: &str, positions: &[usize]) -> String {
    const QUERY: &str = "`.queries[";
    let message = message.replace(
        &format!("`.federation.facetsByIndex.{uid}`"),
        &format!("`.federation.facetsByIndex.{name}`"),
    );
    let mut parts = message.split(QUERY);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out.push_str(QUERY);
        let digits = part.bytes().take_while(u8::is_ascii_digit).count();
        let (number, rest) = part.split_at(digits);
        let place = number.parse::<usize>().ok().and_then(|place| positions.get(place));
        match place {
            Some(position) => out.push_str(&position.to_string()),
            None => out.push_str(number),
        }
        out.push_str(rest);
    }
    out
}

fn ranked_by(query: &SearchQuery) -> RankedBy {
    let share = query.hybrid.as_ref().map_or(0.0, |hybrid| hybrid.semantic_ratio.get());
    let has_words = query.q.as_deref().is_some_and(|q| !q.trim().is_empty());
    let finds_by_vectors = share > 0.0 && (has_words || query.vector.is_some());
    if finds_by_vectors && (share >= 1.0 || query.q.is_none()) {
        RankedBy::Vectors
    } else if query.q.as_deref().is_some_and(|q| !q.is_empty()) {
        RankedBy::Words
    } else {
        RankedBy::Nothing
    }
}

/// What came for one index.
struct Gathered {
    prepared: Vec<NodeQuery>,
    answers: Vec<NodeAnswer>,
    missing: Vec<ShardId>,
}

impl Gathered {
    fn merge(
        &self,
        part: &IndexPart<'_>,
        request: &MultiSearchQuery,
        end: usize,
    ) -> Result<(Vec<FederatedHit<'_>>, u64), Failure> {
        let lists: Vec<Vec<&[u8]>> = self.answers.iter().map(NodeAnswer::hits).collect();
        let rules: Vec<QueryRule<'_>> = self
            .prepared
            .iter()
            .zip(&part.positions)
            .map(|(query, position)| QueryRule {
                position: *position,
                order: query.merge.order,
                distinct: query.merge.distinct.as_deref(),
                weight: request.weight(*position).get(),
            })
            .collect();
        merge_index(&lists, &rules, end)
            .map_err(|_| ApiError::new(Code::Internal, "A node's answer could not be read.").into())
    }

    /// Documents that any of the queries finds.
    fn total(&self) -> u64 {
        self.answers.iter().map(|answer| answer.total_hits).sum()
    }

    fn takes_vectors(&self) -> bool {
        self.answers.iter().any(|answer| answer.semantic_hit_count.is_some())
    }

    fn merge_facets(&self, part: &IndexPart<'_>) -> Result<Option<MergedFacets>, Failure> {
        let Some(names) = part.facets else { return Ok(None) };
        let (rules, _): (FacetRules, _) = federated_facets(names, &part.settings);
        let nodes: Vec<_> = self.answers.iter().map(NodeAnswer::facets).collect();
        merge_facets(&nodes, &rules, self.total(), None).map_err(unreadable)
    }

    /// What is to be said of this part.
    fn marks(
        &self,
        part: &IndexPart<'_>,
        request: &MultiSearchQuery,
        facets: Option<&MergedFacets>,
        end: usize,
    ) -> ReadAnswer {
        let mut marks = ReadAnswer {
            missing: self.missing.clone(),
            inexact_facets: facets.map(|facets| facets.inexact.clone()).unwrap_or_default(),
            settings_pending: part.index.settings_pending,
            ..ReadAnswer::default()
        };
        if self.answers.len() < 2 {
            return marks;
        }
        let is_full = |answer: &NodeAnswer| answer.hit_count() >= end;
        if self.takes_vectors() && self.answers.iter().any(is_full) {
            marks.inexact_hits.push(InexactHits::Vectors);
        }
        // A node drops a document from one query's hits for a value, and may have dropped it from
        // the others' for having shown it already. And it counts what it looked at.
        let has_distinct = self.prepared.iter().any(|query| query.merge.distinct.is_some());
        let queries =
            || part.positions.iter().filter_map(|position| request.queries.get(*position));
        let has_threshold = queries().any(|(_, query)| query.ranking_score_threshold.is_some());
        if queries().any(|(_, query)| drops_by_frequency(query)) {
            marks.inexact_hits.push(InexactHits::Frequency);
        }
        if has_distinct && part.positions.len() > 1 {
            marks.inexact_hits.push(InexactHits::Rules);
        }
        if has_distinct || has_threshold {
            marks.inexact_facets.extend(part.facets.unwrap_or_default().iter().cloned());
        }
        marks
    }
}

/// What is cut out of the hits of each query.
struct Cuts {
    by_position: BTreeMap<usize, HitCuts>,
    none: HitCuts,
}

impl Cuts {
    fn of(parts: &[IndexPart<'_>], gathered: &[Gathered]) -> Self {
        let mut by_position = BTreeMap::new();
        for (part, gathered) in parts.iter().zip(gathered) {
            for (query, position) in gathered.prepared.iter().zip(&part.positions) {
                let federation = Federated { index: part.name.to_owned(), position: *position };
                let cuts = HitCuts { federation: Some(federation), ..query.merge.cuts.clone() };
                by_position.insert(*position, cuts);
            }
        }
        Self { by_position, none: HitCuts { reserved: true, ..HitCuts::default() } }
    }

    fn of_query(&self, position: usize) -> &HitCuts {
        self.by_position.get(&position).unwrap_or(&self.none)
    }
}

fn in_query(failure: Failure, position: usize) -> Failure {
    failure.inside(&format!("Inside `.queries[{position}]`: "))
}

/// Says that the facets of an index were refused.
fn in_facets(failure: Failure, name: &str, used_in: Option<usize>) -> Failure {
    let note = match used_in {
        Some(position) => format!("index `{name}` used in `.queries[{position}]`"),
        None => format!("index `{name}` is not used in queries"),
    };
    failure
        .inside(&format!("Inside `.federation.facetsByIndex.{name}`: "))
        .noted(&format!("\n - Note: {note}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_node_says_of_its_queries_is_said_of_the_client_s() {
        for (said, expected) in [
            (
                "Inside `.queries[1]`: Index `movies`: Attribute `x` is not sortable.",
                "Inside `.queries[5]`: Index `movies`: Attribute `x` is not sortable.",
            ),
            (
                "Inside `.federation.facetsByIndex.3-movies`: no.\n - Note: index `movies` used in `.queries[0]`",
                "Inside `.federation.facetsByIndex.movies`: no.\n - Note: index `movies` used in `.queries[2]`",
            ),
            ("nothing of the kind", "nothing of the kind"),
        ] {
            assert_eq!(reword(said, "3-movies", "movies", &[2, 5]), expected);
        }
    }
}
