//! Documents as they are stored: listing, and one by its id.
//!
//! | route | how |
//! |---|---|
//! | `GET documents`, `POST documents/fetch` | node by node in each node's own order, on replicas pinned by the index alone, so that pages neither repeat nor miss; with `sort` see `documents_sorted` |
//! | `GET documents/{id}` | a replica of the shard that owns the id |

use bytes::Bytes;
use futures::future::join_all;
use miroir_storage::ids::IndexUid;
use miroir_storage::routing::Routing;
use miroir_wire::documents_query::{BrowseQuery, GetDocument};
use miroir_wire::error::Code;
use miroir_wire::reserved::is_reserved;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use crate::context::GatewayContext;
use crate::disguise::disguise;
use crate::documents_sorted::{order_of, read_sorted};
use crate::failure::Failure;
use crate::json_scan::{Malformed, elements, integer, members};
use crate::merge::render::{HitCuts, write_fields};
use crate::node_query::{client_filter, join_filters};
use crate::plan::{PlannedCall, plan_shards, query_hash, shard_of};
use crate::scatter::{Gathered, NodeRequest, Part, ReadKey, ReadScope, ask_one, gather, plan_now};
use crate::search::{ReadAnswer, resolve};

/// Times a listing starts over when a node fails between counting and reading.
const ATTEMPTS_MAX: usize = 3;

/// One node's page of documents.
#[derive(Clone, Debug)]
pub(crate) struct DocumentPage {
    body: Bytes,
    total: u64,
}

impl DocumentPage {
    /// Reads a node's answer.
    pub(crate) fn parse(body: Bytes) -> Result<Self, Malformed> {
        if let Err(error) = std::str::from_utf8(&body) {
            return Err(Malformed { at: error.valid_up_to() });
        }
        let mut total = None;
        let mut has_results = false;
        for part in members(&body) {
            let part = part?;
            match part.key {
                b"total" => total = integer(part.value),
                b"results" => {
                    has_results = true;
                    for document in elements(part.value) {
                        if document?.first() != Some(&b'{') {
                            return Err(Malformed { at: 0 });
                        }
                    }
                }
                _ => {}
            }
        }
        match total {
            Some(total) if has_results => Ok(Self { total, body }),
            _ => Err(Malformed { at: body.len() }),
        }
    }

    /// A page without documents.
    pub(crate) fn empty() -> Self {
        Self { body: Bytes::from_static(b"{\"results\":[]}"), total: 0 }
    }

    /// How many documents there are on the node.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// The documents, as the node wrote them.
    pub(crate) fn documents(&self) -> impl Iterator<Item = &[u8]> {
        let results = crate::json_scan::member(&self.body, "results").unwrap_or(b"[]");
        elements(results).map_while(Result::ok)
    }
}

/// Lists documents.
///
/// # Errors
/// `index_not_found`, what nodes say of the query, `miroir_shard_unavailable`.
pub async fn list_documents(
    context: &GatewayContext,
    routing: &Routing,
    name: &str,
    mut query: BrowseQuery,
) -> Result<ReadAnswer, Failure> {
    let index = resolve(routing, name)?;
    let settings = context.settings.get(index);
    let scope = ReadScope { routing, index, settings: &settings };
    query.filter = client_filter(query.filter.take(), Code::InvalidDocumentFilter)?;
    if let Some(fields) = &mut query.fields {
        fields.retain(|field| !is_reserved(field));
    }
    let order = order_of(&query)?;
    let mut key = ReadKey::new(pinned_hash(&index.uid));
    for _ in 0..ATTEMPTS_MAX {
        let plan = plan_now(context, scope, &key);
        let attempt = match (plan.calls.as_slice(), plan.missing.is_empty(), &order) {
            ([call], true, _) => read_alone(context, scope, &query, call).await?,
            (.., Some(order)) => {
                read_sorted(context, scope, &query, order, key.clone(), plan).await?
            }
            (.., None) => {
                let count = |call: &PlannedCall| page_request(&query, call, 0, 0);
                let counted =
                    gather(context, scope, key.clone(), plan, count, DocumentPage::parse).await?;
                read_slices(context, scope, &query, counted).await?
            }
        };
        match attempt {
            Attempt::Read(mut answer) => {
                answer.settings_version = Some(index.settings_version);
                answer.settings_pending = index.settings_pending;
                return Ok(answer);
            }
            Attempt::Failed(calls) => key.failed.extend(calls.into_iter().map(|call| call.node)),
        }
    }
    let plan = plan_now(context, scope, &key);
    Err(Failure::shards_unavailable(&plan.missing))
}

/// What came of reading a window.
pub(crate) enum Attempt {
    Read(ReadAnswer),
    /// These nodes did not answer: others are to be asked.
    Failed(Vec<PlannedCall>),
}

/// The hash that pins listings of an index to one set of replicas.
fn pinned_hash(uid: &IndexUid) -> u64 {
    query_hash(uid.as_str().as_bytes())
}

pub(crate) fn page_request(
    query: &BrowseQuery,
    call: &PlannedCall,
    offset: usize,
    limit: usize,
) -> NodeRequest {
    let mut sent = query.clone();
    sent.offset = offset;
    sent.limit = limit;
    sent.filter = join_filters(query.filter.as_ref(), call.filter.as_deref());
    NodeRequest::post("/documents/fetch", serde_json::to_vec(&sent).unwrap_or_default())
}

async fn read_alone(
    context: &GatewayContext,
    scope: ReadScope<'_>,
    query: &BrowseQuery,
    call: &PlannedCall,
) -> Result<Attempt, Failure> {
    let request = page_request(query, call, query.offset, query.limit);
    let page = ask_one(context, scope, &call.node, request, DocumentPage::parse).await?;
    Ok(match page {
        Some(page) => {
            let total = page.total;
            let body = render(query, &[page], total);
            Attempt::Read(ReadAnswer { body, ..Default::default() })
        }
        None => Attempt::Failed(vec![call.clone()]),
    })
}

/// Reads the part of the window that lies on each node, knowing how many documents each has.
async fn read_slices(
    context: &GatewayContext,
    scope: ReadScope<'_>,
    query: &BrowseQuery,
    counted: Gathered<DocumentPage>,
) -> Result<Attempt, Failure> {
    let total: u64 = counted.parts.iter().map(|part| part.answer.total).sum();
    let mut before = 0_usize;
    let mut slices = Vec::with_capacity(counted.parts.len());
    for Part { call, answer } in &counted.parts {
        let length = usize::try_from(answer.total).unwrap_or(usize::MAX);
        let (offset, limit) = slice(query.offset, query.limit, before, length);
        before = before.saturating_add(length);
        if limit > 0 {
            slices.push((call, offset, limit));
        }
    }
    let calls = slices.iter().map(|(call, offset, limit)| {
        let request = page_request(query, call, *offset, *limit);
        ask_one(context, scope, &call.node, request, DocumentPage::parse)
    });
    let mut pages = Vec::with_capacity(slices.len());
    let mut failed = Vec::new();
    for (page, (call, _, _)) in join_all(calls).await.into_iter().zip(&slices) {
        match page? {
            Some(page) => pages.push(page),
            None => failed.push((*call).clone()),
        }
    }
    if !failed.is_empty() {
        return Ok(Attempt::Failed(failed));
    }
    let body = render(query, &pages, total);
    Ok(Attempt::Read(ReadAnswer { body, missing: counted.missing, ..Default::default() }))
}

/// The part of the window `offset..offset + limit` that falls on the `length` documents after the
/// first `before`, as offset and limit among these.
fn slice(offset: usize, limit: usize, before: usize, length: usize) -> (usize, usize) {
    let end = before.saturating_add(length).min(offset.saturating_add(limit));
    let start = offset.max(before);
    (start - before, end.saturating_sub(start))
}

fn render(query: &BrowseQuery, pages: &[DocumentPage], total: u64) -> Vec<u8> {
    render_documents(query, pages.iter().flat_map(DocumentPage::documents), total)
}

/// The answer to a listing of these documents.
pub(crate) fn render_documents<'a>(
    query: &BrowseQuery,
    documents: impl Iterator<Item = &'a [u8]>,
    total: u64,
) -> Vec<u8> {
    let cuts = HitCuts { reserved: true, ..Default::default() };
    let mut out = b"{\"results\":[".to_vec();
    for document in documents {
        if out.last() != Some(&b'[') {
            out.push(b',');
        }
        write_fields(&mut out, document, &cuts);
    }
    let tail =
        format!("],\"offset\":{},\"limit\":{},\"total\":{total}}}", query.offset, query.limit);
    out.extend_from_slice(tail.as_bytes());
    out
}

/// One document as a replica of its shard has it, with the fields that are Miroir's own.
///
/// # Errors
/// `document_not_found`, `miroir_shard_unavailable`.
pub(crate) async fn read_stored(
    context: &GatewayContext,
    scope: ReadScope<'_>,
    id: &str,
    query: &GetDocument,
) -> Result<Bytes, Failure> {
    let ReadScope { routing, index, .. } = scope;
    let shard = shard_of(id, index.shards);
    let key = ReadKey::new(query_hash(id.as_bytes()));
    let unavailable = context.health.unavailable.load();
    let usable = |node: &miroir_storage::ids::NodeId| {
        routing.nodes.contains_key(node) && !unavailable.contains(node)
    };
    let mut plan = plan_shards(index, &usable, key.hash, vec![shard]);
    if !plan.missing.is_empty() {
        plan = plan_shards(index, &|_| true, key.hash, vec![shard]);
    }
    let path = document_path(id, query);
    let request = |_: &PlannedCall| NodeRequest::get(path.clone());
    let gathered = gather(context, scope, key, plan, request, check_document).await?;
    match gathered.parts.into_iter().next() {
        Some(part) => Ok(part.answer),
        None => Err(Failure::shards_unavailable(&gathered.missing)),
    }
}

/// Reads one document from a replica of its shard.
///
/// # Errors
/// `index_not_found`, `document_not_found`, `miroir_shard_unavailable`.
pub async fn get_document(
    context: &GatewayContext,
    routing: &Routing,
    name: &str,
    id: &str,
    query: &GetDocument,
) -> Result<ReadAnswer, Failure> {
    let index = resolve(routing, name)?;
    let settings = context.settings.get(index);
    let scope = ReadScope { routing, index, settings: &settings };
    let document = read_stored(context, scope, id, query).await?;
    let mut body = Vec::with_capacity(document.len());
    write_fields(&mut body, &document, &HitCuts { reserved: true, ..Default::default() });
    Ok(ReadAnswer {
        body,
        missing: Vec::new(),
        settings_version: Some(index.settings_version),
        settings_pending: index.settings_pending,
        ..Default::default()
    })
}

fn document_path(id: &str, query: &GetDocument) -> String {
    let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let mut path = format!("/documents/{}", encoded(id));
    let mut separator = '?';
    if let Some(fields) = &query.fields {
        let fields: Vec<String> = fields.iter().map(|field| encoded(&disguise(field))).collect();
        path.push_str(&format!("{separator}fields={}", fields.join(",")));
        separator = '&';
    }
    if query.retrieve_vectors {
        path.push_str(&format!("{separator}retrieveVectors=true"));
    }
    path
}

fn check_document(body: Bytes) -> Result<Bytes, Malformed> {
    if serde_json::from_slice::<serde_json::Map<String, Value>>(&body).is_err() {
        return Err(Malformed { at: 0 });
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_cut_into_what_each_node_has() {
        // Three nodes with 3, 0 and 4 documents; the window is 2..6.
        let cut = |before, length| slice(2, 4, before, length);
        assert_eq!([cut(0, 3), cut(3, 0), cut(3, 4)], [(2, 1), (0, 0), (0, 3)]);
        assert_eq!(slice(10, 5, 0, 7).1, 0);
        assert_eq!(slice(0, usize::MAX, 3, 4), (0, 4));
    }

    #[test]
    fn a_page_needs_results_and_a_total() {
        let parse = |text: &'static str| DocumentPage::parse(Bytes::from_static(text.as_bytes()));
        let page =
            parse(r#"{"results":[{"_miroir_shard":"†","id":1}],"offset":0,"limit":1,"total":5}"#);
        let Ok(page) = page else { panic!("{page:?}") };
        assert_eq!((page.total, page.documents().count()), (5, 1));
        let query = BrowseQuery { limit: 1, ..Default::default() };
        assert_eq!(
            String::from_utf8_lossy(&render(&query, &[page], 5)),
            r#"{"results":[{"id":1}],"offset":0,"limit":1,"total":5}"#
        );
        for bad in ["{}", r#"{"results":[]}"#, r#"{"total":1}"#, r#"{"results":[1],"total":1}"#] {
            assert!(parse(bad).is_err());
        }
    }
}
