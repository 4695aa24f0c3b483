//! Reading documents without searching: one by id, or a page of those a filter matches.

use milli_core as milli;
use milli_core::constants::RESERVED_VECTORS_FIELD_NAME;
use milli_core::{DocumentId, Index};
use miroir_wire::document_order::DocumentOrder;
use miroir_wire::documents_query::{BrowseQuery, GetDocument};
use miroir_wire::error::{ApiError, Code};
use roaring::RoaringBitmap;
use serde_json::Map;

use super::filter::read_filter;
use super::stored::{DocumentWriter, ObjectWriter, Vectors, parse};
use crate::engine::errors;

/// The document with an id, as JSON.
///
/// # Errors
/// `document_not_found`; what the database fails with.
pub(crate) fn document(index: &Index, id: &str, query: &GetDocument) -> Result<Vec<u8>, ApiError> {
    let rtxn = index.read_txn().map_err(database_error)?;
    let found = index.external_documents_ids().get(&rtxn, id).map_err(database_error)?;
    let internal = found.ok_or_else(|| ApiError::document_not_found(id))?;
    let mut out = Vec::new();
    let shown = Shown { fields: query.fields.as_deref(), vectors: query.retrieve_vectors };
    shown.append(index, &rtxn, std::iter::once(internal), &mut out).map_err(engine_error)?;
    Ok(out)
}

/// A page of documents with the number of all that match, as JSON. `contains`: see [`read_filter`].
///
/// # Errors
/// `invalid_document_filter`, `invalid_document_sort`; what the database fails with.
pub(crate) fn browse(
    index: &Index,
    query: &BrowseQuery,
    contains: bool,
) -> Result<Vec<u8>, ApiError> {
    let rtxn = index.read_txn().map_err(database_error)?;
    let filter = match &query.filter {
        Some(filter) => read_filter(filter, Code::InvalidDocumentFilter, contains)?,
        None => None,
    };
    let mut candidates = match &query.ids {
        None => index.documents_ids(&rtxn).map_err(database_error)?,
        Some(ids) => {
            let known = index.external_documents_ids();
            let mut candidates = RoaringBitmap::new();
            for id in ids {
                if let Some(internal) = known.get(&rtxn, id).map_err(database_error)? {
                    candidates.insert(internal);
                }
            }
            candidates
        }
    };
    if let Some(filter) = filter {
        candidates &= filter.evaluate(&rtxn, index).map_err(filter_error)?;
    }
    let total = candidates.len();
    let order = match query.sort.as_deref() {
        None | Some([]) => None,
        Some(sort) => {
            let order = DocumentOrder::read(sort)?;
            let sortable = index.sortable_fields(&rtxn).map_err(database_error)?;
            order.check_sortable(&sortable.into_iter().collect())?;
            Some(order)
        }
    };
    let sorted = match &order {
        None => either::Left(candidates.into_iter()),
        Some(order) => either::Right(
            sorted(index, &rtxn, candidates, order).map_err(engine_error)?.into_iter(),
        ),
    };
    let page = sorted.skip(query.offset).take(query.limit);

    let mut out = Vec::new();
    let mut answer = ObjectWriter::begin(&mut out);
    let results = answer.member("results");
    results.push(b'[');
    let shown = Shown { fields: query.fields.as_deref(), vectors: query.retrieve_vectors };
    shown.append(index, &rtxn, page, results).map_err(engine_error)?;
    results.push(b']');
    answer.value("offset", &query.offset);
    answer.value("limit", &query.limit);
    answer.value("total", &total);
    answer.end();
    Ok(out)
}

/// The documents in the wanted order; those in one place as they are stored.
fn sorted(
    index: &Index,
    rtxn: &milli::heed::RoTxn<'_>,
    candidates: RoaringBitmap,
    order: &DocumentOrder,
) -> milli::Result<Vec<DocumentId>> {
    let names = index.fields_ids_map(rtxn)?;
    let holds = |name: &str, path: &str| {
        path.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    let wanted: Vec<_> =
        names.iter().filter(|(_, name)| order.fields().any(|path| holds(name, path))).collect();
    let mut placed = Vec::new();
    for id in candidates {
        let stored = index.document(rtxn, id)?;
        let mut document = Map::new();
        for (field, name) in &wanted {
            if let Some(value) = stored.get(*field) {
                document.insert((*name).to_owned(), parse(value)?);
            }
        }
        placed.push((order.place(&document), id));
    }
    placed.sort_by(|(left, a), (right, b)| order.compare(left, right).then(a.cmp(b)));
    Ok(placed.into_iter().map(|(_, id)| id).collect())
}

/// What is shown of each document.
struct Shown<'q> {
    /// `None` for all. Not limited by `displayedAttributes`.
    fields: Option<&'q [String]>,
    vectors: bool,
}

impl Shown<'_> {
    fn append(
        &self,
        index: &Index,
        rtxn: &milli::heed::RoTxn<'_>,
        ids: impl Iterator<Item = DocumentId>,
        out: &mut Vec<u8>,
    ) -> milli::Result<()> {
        let names = index.fields_ids_map(rtxn)?;
        let paths = self.fields.map(|fields| {
            let vectors = self.vectors.then_some(RESERVED_VECTORS_FIELD_NAME);
            fields.iter().map(String::as_str).chain(vectors).collect()
        });
        let vectors = Vectors::of(index, rtxn, self.vectors)?;
        let mut documents = DocumentWriter::new(index, rtxn, &names, paths, vectors);
        for (position, id) in ids.enumerate() {
            if position > 0 {
                out.push(b',');
            }
            let mut document = ObjectWriter::begin(out);
            documents.append_fields(id, false, &mut document)?;
            document.end();
        }
        Ok(())
    }
}

/// A filter that the index can't evaluate is the document filter's fault here.
fn filter_error(error: milli::Error) -> ApiError {
    let code = match &error {
        milli::Error::UserError(milli::UserError::InvalidFilter(_)) => Code::InvalidDocumentFilter,
        error => errors::code(error),
    };
    ApiError::new(code, error.to_string())
}

fn engine_error(error: milli::Error) -> ApiError {
    ApiError::new(errors::code(&error), error.to_string())
}

fn database_error(error: milli::heed::Error) -> ApiError {
    engine_error(error.into())
}
