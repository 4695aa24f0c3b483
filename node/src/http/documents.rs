//! `/indexes/{uid}/documents…`
//!
//! | method, path | answers |
//! |---|---|
//! | `POST`, `PUT …/documents` | 202; 400, 413, 415 for payloads that can't be read |
//! | `DELETE …/documents`, `…/documents/{id}` | 202 |
//! | `POST …/documents/delete-batch`, `…/documents/delete` | 202; 400 |
//! | `GET …/documents`, `POST …/documents/fetch` | 200; 400; 404 `index_not_found` |
//! | `GET …/documents/{id}` | 200; 404 `index_not_found`, `document_not_found` |
//!
//! Payloads are read to the last document before they are accepted.

use std::sync::Arc;

use http::StatusCode;
use miroir_wire::content::{payload_kind, read_documents};
use miroir_wire::documents_query::{
    AddDocuments, BrowseQuery, DeleteByFilter, GetDocument, ids_from_json,
};
use miroir_wire::error::{ApiError, Code};
use miroir_wire::index::check_index_uid;

use super::answer::{self, Answer, Refusal};
use super::routes::DocumentRoute;
use super::{Call, Node};
use crate::engine::{DocumentMethod, NewTask};
use crate::search::{self, read_filter};

/// Answers a request below `/indexes/{uid}/documents`.
pub(super) async fn serve(
    node: &Arc<Node>,
    call: &mut Call,
    index: String,
    route: DocumentRoute,
) -> Result<Answer, Refusal> {
    match route {
        DocumentRoute::Replace => add(node, call, index, DocumentMethod::Replace).await,
        DocumentRoute::Update => add(node, call, index, DocumentMethod::Update).await,
        DocumentRoute::List => {
            let query = BrowseQuery::from_query_string(call.query())?;
            browse(node, index, query).await
        }
        DocumentRoute::Fetch => {
            let query = BrowseQuery::from_json(&call.json().await?)?;
            browse(node, index, query).await
        }
        DocumentRoute::Get(id) => get(node, call, index, id).await,
        DocumentRoute::Clear => {
            check_index_uid(&index)?;
            node.enqueue(call, NewTask::DocumentClear { index }).await
        }
        DocumentRoute::Delete(id) => {
            check_index_uid(&index)?;
            node.enqueue(call, NewTask::DocumentDeletionByIds { index, ids: vec![id] }).await
        }
        DocumentRoute::DeleteBatch => {
            let ids = ids_from_json(&call.json().await?)?;
            check_index_uid(&index)?;
            node.enqueue(call, NewTask::DocumentDeletionByIds { index, ids }).await
        }
        DocumentRoute::DeleteByFilter => {
            let DeleteByFilter { filter } = DeleteByFilter::from_json(&call.json().await?)?;
            check_index_uid(&index)?;
            let contains = node.engine.features().contains_filter();
            if read_filter(&filter, Code::InvalidDocumentFilter, contains)?.is_none() {
                let message = "Sending an empty filter is forbidden.";
                return Err(ApiError::new(Code::InvalidDocumentFilter, message).into());
            }
            node.enqueue(call, NewTask::DocumentDeletionByFilter { index, filter }).await
        }
    }
}

async fn add(
    node: &Arc<Node>,
    call: &mut Call,
    index: String,
    method: DocumentMethod,
) -> Result<Answer, Refusal> {
    let params = AddDocuments::from_query_string(&call.query_without_metadata())?;
    check_index_uid(&index)?;
    let kind = payload_kind(call.content_type(), params.csv_delimiter.as_deref())?;
    let body = call.bytes().await?;
    let metadata = call.custom_metadata();
    let allow_index_creation = call.grant.may_create_index(&index);
    let task = node
        .blocking(move |node| {
            let task = NewTask::DocumentAdditionOrUpdate {
                index,
                primary_key: params.primary_key,
                method,
                documents: read_documents(kind, &body)?,
                allow_index_creation,
            };
            node.engine.enqueue(task, metadata)
        })
        .await?;
    answer::accepted(&answer::summary(task))
}

async fn browse(node: &Arc<Node>, index: String, query: BrowseQuery) -> Result<Answer, Refusal> {
    check_index_uid(&index)?;
    let page = node
        .blocking(move |node| {
            let contains = node.engine.features().contains_filter();
            search::browse(&node.engine.index(&index)?, &query, contains)
        })
        .await?;
    Ok(answer::raw_json(StatusCode::OK, page))
}

async fn get(node: &Arc<Node>, call: &Call, index: String, id: String) -> Result<Answer, Refusal> {
    let query = GetDocument::from_query_string(call.query())?;
    check_index_uid(&index)?;
    let document = node
        .blocking(move |node| search::document(&node.engine.index(&index)?, &id, &query))
        .await?;
    Ok(answer::raw_json(StatusCode::OK, document))
}
