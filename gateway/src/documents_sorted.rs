//! Listings in a wanted order over several nodes: `sort` of `GET documents` and `POST documents/fetch`.
//!
//! Every node is asked for what its first `offset + limit` documents are sorted by, and nothing
//! else of them. Merged, these tell which part of each node's own order falls into the window:
//! one stretch a node, which is then read as the client wants it.
//!
//! Documents that stand in one place follow each other by node, then as the node has them. A write
//! between the two requests may shift a document across the window's ends, as with any two pages.

use futures::future::join_all;
use miroir_wire::document_order::DocumentOrder;
use miroir_wire::documents_query::BrowseQuery;
use serde_json::{Map, Value};

use crate::context::GatewayContext;
use crate::documents_read::{Attempt, DocumentPage, page_request, render_documents};
use crate::failure::Failure;
use crate::plan::{Plan, PlannedCall};
use crate::scatter::{Part, ReadKey, ReadScope, ask_one, gather};
use crate::search::ReadAnswer;

/// The part of one node's order that falls into the window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Stretch {
    offset: usize,
    limit: usize,
}

/// Reads a window of a sorted listing that lies on several nodes.
///
/// # Errors
/// What nodes say of the query, `miroir_shard_unavailable`.
pub(crate) async fn read_sorted(
    context: &GatewayContext,
    scope: ReadScope<'_>,
    query: &BrowseQuery,
    order: &DocumentOrder,
    key: ReadKey,
    plan: Plan,
) -> Result<Attempt, Failure> {
    let through = query.offset.saturating_add(query.limit);
    let placing = BrowseQuery {
        fields: Some(order.fields().map(str::to_owned).collect()),
        retrieve_vectors: false,
        ..query.clone()
    };
    let request = |call: &PlannedCall| page_request(&placing, call, 0, through);
    let placed = gather(context, scope, key, plan, request, DocumentPage::parse).await?;
    let total: u64 = placed.parts.iter().map(|part| part.answer.total()).sum();
    let pages: Vec<&DocumentPage> = placed.parts.iter().map(|part| &part.answer).collect();
    let window = window_of(order, &pages, query.offset, query.limit);
    let stretches = stretches_of(&window, pages.len());

    let calls: Vec<&PlannedCall> = placed.parts.iter().map(|Part { call, .. }| call).collect();
    let read = calls.iter().zip(&stretches).map(|(call, stretch)| async move {
        if stretch.limit == 0 {
            return Ok(Some(DocumentPage::empty()));
        }
        let request = page_request(query, call, stretch.offset, stretch.limit);
        ask_one(context, scope, &call.node, request, DocumentPage::parse).await
    });
    let mut pages = Vec::with_capacity(calls.len());
    let mut failed = Vec::new();
    for (page, call) in join_all(read).await.into_iter().zip(&calls) {
        match page? {
            Some(page) => pages.push(page),
            None => failed.push((*call).clone()),
        }
    }
    if !failed.is_empty() {
        return Ok(Attempt::Failed(failed));
    }
    let mut lists: Vec<_> = pages.iter().map(DocumentPage::documents).collect();
    let documents = window.iter().filter_map(|(page, _)| lists.get_mut(*page)?.next());
    let body = render_documents(query, documents, total);
    Ok(Attempt::Read(ReadAnswer { body, missing: placed.missing, ..Default::default() }))
}

/// Whose documents stand in the window, in order: each by its page and its place there.
fn window_of(
    order: &DocumentOrder,
    pages: &[&DocumentPage],
    offset: usize,
    limit: usize,
) -> Vec<(usize, usize)> {
    let mut all = Vec::new();
    for (page, documents) in pages.iter().enumerate() {
        for (at, document) in documents.documents().enumerate() {
            // That it is an object was seen when it came.
            let document: Map<String, Value> = serde_json::from_slice(document).unwrap_or_default();
            all.push((order.place(&document), page, at));
        }
    }
    all.sort_by(|(left, page, at), (right, other, there)| {
        order.compare(left, right).then((page, at).cmp(&(other, there)))
    });
    all.into_iter().skip(offset).take(limit).map(|(_, page, at)| (page, at)).collect()
}

/// What each of so many nodes has of the window.
fn stretches_of(window: &[(usize, usize)], nodes: usize) -> Vec<Stretch> {
    let mut stretches = vec![Stretch::default(); nodes];
    for (page, at) in window {
        if let Some(stretch) = stretches.get_mut(*page) {
            if stretch.limit == 0 {
                stretch.offset = *at;
            }
            stretch.limit += 1;
        }
    }
    stretches
}

/// The order that a listing wants, if it wants one.
///
/// # Errors
/// `invalid_document_sort`.
pub(crate) fn order_of(query: &BrowseQuery) -> Result<Option<DocumentOrder>, Failure> {
    let sort = query.sort.as_deref().filter(|sort| !sort.is_empty());
    Ok(sort.map(DocumentOrder::read).transpose()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn a_window_is_one_stretch_of_each_node() {
        let Ok(order) = DocumentOrder::read(&["n:asc".to_owned()]) else { panic!("an order") };
        let page = |numbers: &[u32]| {
            let documents: Vec<String> = numbers.iter().map(|n| format!("{{\"n\":{n}}}")).collect();
            let body = format!("{{\"results\":[{}],\"total\":9}}", documents.join(","));
            let Ok(page) = DocumentPage::parse(Bytes::from(body)) else { panic!("a page") };
            page
        };
        let (a, b) = (page(&[1, 3, 5, 7]), page(&[2, 3, 4]));
        let window = window_of(&order, &[&a, &b], 2, 3);
        assert_eq!(window, [(0, 1), (1, 1), (1, 2)]);
        let both = [Stretch { offset: 1, limit: 1 }, Stretch { offset: 1, limit: 2 }];
        assert_eq!(stretches_of(&window, 2), both);
        assert!(window_of(&order, &[&a, &b], 7, 3).is_empty());
    }
}
