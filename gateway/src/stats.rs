//! Statistics: every document counted once, whatever the number of its copies.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use futures::future::join_all;
use http::{Method, StatusCode};
use miroir_seams::NodeCall;
use miroir_storage::ids::{NodeId, ShardId};
use miroir_storage::routing::{IndexRouting, Routing};
use miroir_wire::documents_query::BrowseQuery;
use miroir_wire::index::{IndexStats, Stats};
use miroir_wire::reserved::is_reserved;
use serde_json::Value;

use crate::context::GatewayContext;
use crate::failure::Failure;
use crate::json_scan::{Malformed, integer, member};
use crate::node_query::join_filters;
use crate::plan::{PlannedCall, query_hash};
use crate::scatter::{NodeRequest, ReadKey, ReadScope, ask_one, gather, plan_now};
use crate::search::{ReadAnswer, resolve};
use miroir_wire::access::Grant;

/// Statistics of one index.
///
/// # Errors
/// `index_not_found`, `miroir_shard_unavailable`.
pub async fn index_stats(
    context: &GatewayContext,
    routing: &Routing,
    name: &str,
) -> Result<ReadAnswer, Failure> {
    let index = resolve(routing, name)?;
    let (stats, missing) = read_index(context, routing, index).await?;
    let body = serde_json::to_vec(&stats).unwrap_or_default();
    Ok(ReadAnswer { body, missing, ..Default::default() })
}

/// Statistics of everything that may be seen. Sizes are those of all, as in Meilisearch.
///
/// # Errors
/// `miroir_shard_unavailable`.
pub async fn all_stats(
    context: &GatewayContext,
    routing: &Routing,
    grant: &Grant,
) -> Result<ReadAnswer, Failure> {
    let seen = move || routing.indexes.iter().filter(move |(name, _)| grant.allows_index(name));
    let sizes = join_all(routing.nodes.keys().map(|node| node_sizes(context, routing, node)));
    let indexes = join_all(seen().map(|(_, index)| read_index(context, routing, index)));
    let (sizes, indexes) = futures::future::join(sizes, indexes).await;
    let mut stats = Stats::default();
    let mut missing = BTreeSet::new();
    for (size, used) in sizes.into_iter().flatten() {
        stats.database_size += size;
        stats.used_database_size += used;
    }
    for ((name, index), read) in seen().zip(indexes) {
        let (index_stats, lost) = read?;
        missing.extend(lost);
        stats.last_update = stats.last_update.max(context.routing.updated_at(&index.uid));
        stats.indexes.insert(name.clone(), index_stats);
    }
    let body = serde_json::to_vec(&stats).unwrap_or_default();
    Ok(ReadAnswer { body, missing: missing.into_iter().collect(), ..Default::default() })
}

/// Bytes on disk of one node, all and used; none when it does not say.
async fn node_sizes(
    context: &GatewayContext,
    routing: &Routing,
    node: &NodeId,
) -> Option<(u64, u64)> {
    let record = routing.nodes.get(node)?;
    let call = NodeCall {
        base: record.address.clone(),
        key: record.key.clone(),
        method: Method::GET,
        path: "/stats".to_owned(),
        content_type: None,
        body: Bytes::new(),
        timeout: context.config.node_timeout,
        answer_bytes_max: NodeCall::ANSWER_BYTES_MAX,
    };
    let answer = context.transport.send(call).await.ok()?;
    let stats: Value = (answer.status() == StatusCode::OK)
        .then(|| serde_json::from_slice(answer.body()).ok())
        .flatten()?;
    let bytes = |name| stats.get(name).and_then(Value::as_u64).unwrap_or_default();
    Some((bytes("databaseSize"), bytes("usedDatabaseSize")))
}

/// Counts documents by a read of every shard once; fields and sizes are the sums over all copies
/// in reach, scaled down to that count, which is exact while every shard has as many copies as
/// the others.
async fn read_index(
    context: &GatewayContext,
    routing: &Routing,
    index: &IndexRouting,
) -> Result<(IndexStats, Vec<ShardId>), Failure> {
    let settings = context.settings.get(index);
    let scope = ReadScope { routing, index, settings: &settings };
    let key = ReadKey::new(query_hash(index.uid.as_str().as_bytes()));
    let plan = plan_now(context, scope, &key);
    let group: BTreeSet<&NodeId> =
        plan.calls.first().into_iter().flat_map(|call| nodes_of_group(index, &call.node)).collect();
    let counting = gather(context, scope, key, plan.clone(), count_request, read_total);
    let asking = join_all(group.iter().map(|node| {
        let request = NodeRequest::get("/stats".to_owned());
        ask_one(context, scope, node, request, read_stats)
    }));
    let (counted, asked) = futures::future::join(counting, asking).await;
    let counted = counted?;
    let documents = counted.parts.iter().map(|part| part.answer).sum();
    let copies: Vec<IndexStats> =
        asked.into_iter().filter_map(|said| said.ok().flatten()).collect();
    let mut stats = scale(&copies, documents);
    stats.is_indexing = context.routing.is_indexing(&index.uid);
    Ok((stats, counted.missing))
}

/// All nodes with a copy of a shard in the group that `node` belongs to.
fn nodes_of_group<'a>(index: &'a IndexRouting, node: &NodeId) -> impl Iterator<Item = &'a NodeId> {
    let holds = |placement: &&miroir_storage::routing::GroupPlacement| {
        placement.shards.iter().any(|shard| shard.replicas.contains(node))
    };
    index
        .groups
        .iter()
        .filter(holds)
        .flat_map(|placement| placement.shards.iter().flat_map(|shard| &shard.replicas))
}

fn count_request(call: &PlannedCall) -> NodeRequest {
    let query = BrowseQuery {
        limit: 0,
        filter: join_filters(None, call.filter.as_deref()),
        ..Default::default()
    };
    NodeRequest::post("/documents/fetch", serde_json::to_vec(&query).unwrap_or_default())
}

fn read_total(body: Bytes) -> Result<u64, Malformed> {
    member(&body, "total").and_then(integer).ok_or(Malformed { at: 0 })
}

fn read_stats(body: Bytes) -> Result<IndexStats, Malformed> {
    serde_json::from_slice(&body).map_err(|error| Malformed { at: error.column() })
}

fn scale(copies: &[IndexStats], documents: u64) -> IndexStats {
    let stored: u64 = copies.iter().map(|copy| copy.number_of_documents).sum();
    let once = |copies: u64| match stored {
        0 => 0,
        // Rounded; u128 since bytes times documents may be large.
        _ => {
            let scaled = (u128::from(copies) * u128::from(documents) + u128::from(stored) / 2)
                / u128::from(stored);
            u64::try_from(scaled).unwrap_or(u64::MAX)
        }
    };
    let sum = |part: fn(&IndexStats) -> u64| copies.iter().map(part).sum::<u64>();
    let optional = |part: fn(&IndexStats) -> Option<u64>| {
        copies.iter().filter_map(part).reduce(|left, right| left + right).map(once)
    };
    let mut fields: BTreeMap<String, u64> = BTreeMap::new();
    for (field, count) in copies.iter().flat_map(|copy| &copy.field_distribution) {
        if !is_reserved(field) {
            *fields.entry(field.clone()).or_default() += count;
        }
    }
    let raw = sum(|copy| copy.raw_document_db_size);
    let average_sum = sum(|copy| copy.avg_document_size * copy.number_of_documents);
    IndexStats {
        number_of_documents: documents,
        raw_document_db_size: once(raw),
        avg_document_size: average_sum.checked_div(stored).unwrap_or_default(),
        is_indexing: false,
        number_of_embeddings: optional(|copy| copy.number_of_embeddings),
        number_of_embedded_documents: optional(|copy| copy.number_of_embedded_documents),
        field_distribution: fields.into_iter().map(|(field, count)| (field, once(count))).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_counted_once() {
        let node = |documents: u64, title: u64| IndexStats {
            number_of_documents: documents,
            avg_document_size: 100,
            raw_document_db_size: documents * 100,
            number_of_embeddings: Some(documents),
            field_distribution: BTreeMap::from([
                ("title".to_owned(), title),
                ("_miroir_shard".to_owned(), documents),
            ]),
            ..Default::default()
        };
        // Two copies of six documents, unevenly spread.
        let stats = scale(&[node(5, 4), node(4, 3), node(3, 3)], 6);
        assert_eq!(stats.number_of_documents, 6);
        assert_eq!(stats.raw_document_db_size, 600);
        assert_eq!(stats.avg_document_size, 100);
        assert_eq!(stats.number_of_embeddings, Some(6));
        assert_eq!(stats.field_distribution, BTreeMap::from([("title".to_owned(), 5)]));
        assert_eq!(scale(&[], 0), IndexStats::default());
    }
}
