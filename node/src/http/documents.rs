//! `/indexes/{uid}/documents…`
//!
//! | method, path | answers |
//! |---|---|
//! | `POST`, `PUT …/documents` | 202; 400, 413, 415 for payloads that can't be read |
//! | `DELETE …/documents`, `…/documents/{id}` | 202 |
//! | `POST …/documents/delete-batch`, `…/documents/delete` | 202; 400 |
//! | `POST …/documents/edit` | 202; 400 |
//! | `GET …/documents`, `POST …/documents/fetch` | 200; 400; 404 `index_not_found` |
//! | `GET …/documents/{id}` | 200; 404 `index_not_found`, `document_not_found` |
//!
//! Payloads are read to the last document before they are accepted.

use std::sync::Arc;

use http::StatusCode;
use miroir_wire::content::{payload_kind, read_documents};
use miroir_wire::documents_query::{
    AddDocuments, BrowseQuery, DeleteByFilter, EditByFunction, GetDocument, ids_from_json,
};
use miroir_wire::error::{ApiError, Code};
use miroir_wire::features::feature_not_enabled;
use miroir_wire::index::check_index_uid;
use serde_json::Value;

use super::answer::{self, Answer, Refusal};
use super::routes::DocumentRoute;
use super::{Call, Node};
use crate::engine::apply::check_function;
use crate::engine::{DocumentMethod, Features, NewTask};
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
            check_filter(&filter, node.engine.features())?;
            node.enqueue(call, NewTask::DocumentDeletionByFilter { index, filter }).await
        }
        DocumentRoute::Edit => edit(node, call, index).await,
    }
}

/// Which documents a write is about can't be left open by a filter that says nothing.
fn check_filter(filter: &Value, features: &Features) -> Result<(), ApiError> {
    match read_filter(filter, Code::InvalidDocumentFilter, features.contains_filter())? {
        Some(_) => Ok(()),
        None => {
            let message = "Sending an empty filter is forbidden.";
            Err(ApiError::new(Code::InvalidDocumentFilter, message))
        }
    }
}

async fn edit(node: &Arc<Node>, call: &mut Call, index: String) -> Result<Answer, Refusal> {
    let request = EditByFunction::from_json(&call.json().await?)?;
    if !node.engine.features().edit_documents() {
        let refusal = feature_not_enabled(
            "Using the documents edit route",
            "edit documents by function",
            "https://github.com/orgs/meilisearch/discussions/762",
        );
        return Err(refusal.into());
    }
    check_index_uid(&index)?;
    let metadata = call.custom_metadata();
    let task = node
        .blocking(move |node| {
            check_function(&request.function)?;
            if let Some(filter) = &request.filter {
                check_filter(filter, node.engine.features())?;
            }
            let context = request.context_object()?.cloned();
            let EditByFunction { filter, function, .. } = request;
            let task = NewTask::DocumentEdition { index, filter, context, function };
            node.engine.enqueue(task, metadata)
        })
        .await?;
    answer::accepted(&answer::summary(task))
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
