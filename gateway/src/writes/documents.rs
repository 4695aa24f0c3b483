//! `/indexes/{uid}/documents`, the routes that write.
//!
//! | method, path | task | answers |
//! |---|---|---|
//! | `POST`, `PUT …/documents` | documentAdditionOrUpdate | 202; 400, 413, 415 for what can't be read |
//! | `DELETE …/documents`, `…/documents/{id}` | documentDeletion | 202 |
//! | `POST …/documents/delete-batch`, `…/delete` | documentDeletion | 202; 400 |
//! | `POST …/documents/edit` | documentEdition | 202; 400 |
//!
//! 503 `miroir_no_quorum` or `miroir_overloaded` when the write can't be made durable.

use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use miroir_actors::accept::{RequestedWork, WriteRequest};
use miroir_actors::edit_function::check_text;
use miroir_actors::node_calls::NodeCallError;
use miroir_actors::payload::encode_documents;
use miroir_actors::pod::PodContext;
use miroir_storage::commands::Work;
use miroir_storage::journal::Payload;
use miroir_wire::content::{payload_kind, read_documents};
use miroir_wire::document::is_id;
use miroir_wire::documents_query::{AddDocuments, DeleteByFilter, EditByFunction, ids_from_json};
use miroir_wire::error::{ApiError, Code};
use miroir_wire::features::{EDIT_DOCUMENTS, feature_not_enabled};
use miroir_wire::index::check_index_uid;
use miroir_wire::reserved::contains_reserved;
use miroir_wire::tasks::Kind;
use serde_json::{Value, json};

use super::{Reply, Writes, accepted, reserved_field};
use crate::disguise::disguise_filter;
use crate::node_error::{ErrorContext, clean_error};

/// Payloads below this are checked in the connection's own task, bytes; larger ones on the
/// blocking pool, so that they don't hold up other connections of the thread.
const CHECKED_INLINE_MAX: usize = 64 << 10;

/// Adds, replaces or updates documents.
///
/// # Errors
/// Meilisearch's own for payloads and parameters; `miroir_reserved_field`; 503s.
pub async fn add(
    pod: &Writes<'_>,
    index: &str,
    partial: bool,
    query: &str,
    content_type: Option<&str>,
    body: Bytes,
) -> Result<Reply, ApiError> {
    let (query, custom_metadata) = take_custom_metadata(query);
    let params = AddDocuments::from_query_string(&query)?;
    check_index_uid(index)?;
    let kind = payload_kind(content_type, params.csv_delimiter.as_deref())?;
    if params.primary_key.as_deref().is_some_and(miroir_wire::reserved::is_reserved) {
        return Err(reserved_field(params.primary_key.as_deref().unwrap_or_default()));
    }
    let bytes = body.len();
    let check = move || -> Result<(Payload, u64), ApiError> {
        let batch = read_documents(kind, &body)?;
        if let Some(name) = batch.iter().find_map(contains_reserved) {
            return Err(reserved_field(&name));
        }
        Ok((encode_documents(&batch), batch.len() as u64))
    };
    let (payload, count) = checked(pod, bytes, check).await?;
    let work =
        RequestedWork::Documents { partial, primary_key: params.primary_key, payload, count };
    let request = WriteRequest {
        index: Some(index.to_owned()),
        work,
        creates_index: pod.grant.may_create_index(index),
        custom_metadata,
    };
    accepted(pod, Kind::DocumentAdditionOrUpdate, request).await
}

async fn checked<R: Send + 'static>(
    pod: &Writes<'_>,
    bytes: usize,
    check: impl FnOnce() -> Result<R, ApiError> + Send + 'static,
) -> Result<R, ApiError> {
    if bytes <= CHECKED_INLINE_MAX {
        return check();
    }
    match pod.seams.tasks.spawn_blocking(check).await {
        Ok(result) => result,
        Err(error) => {
            tracing::error!(%error, "payload could not be checked");
            Err(ApiError::new(Code::Internal, "The payload could not be checked."))
        }
    }
}

/// Deletes every document.
///
/// # Errors
/// `invalid_index_uid`; 503s.
pub async fn clear(pod: &Writes<'_>, index: &str, query: &str) -> Result<Reply, ApiError> {
    check_index_uid(index)?;
    let (_, custom_metadata) = take_custom_metadata(query);
    plain(pod, index, Kind::DocumentDeletion, Work::Clear, custom_metadata).await
}

/// Deletes what a filter matches.
///
/// # Errors
/// `missing_document_filter`, `invalid_document_filter`; 503s.
pub async fn delete_by_filter(
    pod: &Writes<'_>,
    index: &str,
    query: &str,
    body: &[u8],
) -> Result<Reply, ApiError> {
    check_index_uid(index)?;
    let (_, custom_metadata) = take_custom_metadata(query);
    let DeleteByFilter { filter } = DeleteByFilter::from_json(body)?;
    let filter = disguise_filter(filter);
    check_syntax(pod, index, &filter).await?;
    let work = Work::DeleteByFilter { filter: filter.to_string() };
    plain(pod, index, Kind::DocumentDeletion, work, custom_metadata).await
}

/// Edits documents by a function, which runs once for the cluster (`miroir_actors::edit_function`).
/// Behind the experimental feature `editDocumentsByFunction`, as in Meilisearch.
///
/// # Errors
/// `feature_not_enabled`, `missing_document_edition_function`, `invalid_document_edition_*`,
/// `invalid_document_filter`; 503s.
pub async fn edit(
    pod: &Writes<'_>,
    index: &str,
    query: &str,
    body: &[u8],
) -> Result<Reply, ApiError> {
    let (_, custom_metadata) = take_custom_metadata(query);
    let request = EditByFunction::from_json(body)?;
    if pod.log.routing().features.get(EDIT_DOCUMENTS) != Some(&true) {
        return Err(feature_not_enabled(
            "Using the documents edit route",
            "edit documents by function",
            "https://github.com/orgs/meilisearch/discussions/762",
        ));
    }
    check_index_uid(index)?;
    let function = request.function.clone();
    checked(pod, function.len(), move || check_text(&function)).await?;
    request.check_filter()?;
    let filter = request.filter.clone().map(disguise_filter);
    if let Some(filter) = &filter {
        check_syntax(pod, index, filter).await?;
    }
    let context = request.context_object()?.map(|context| json!(context).to_string());
    let filter = filter.map(|filter| filter.to_string());
    let work = Work::EditDocuments { function: request.function, context, filter, edited: None };
    plain(pod, index, Kind::DocumentEdition, work, custom_metadata).await
}

/// Lets a node that holds the index read the filter: one that can't be parsed is refused at once,
/// as Meilisearch does; what a filter may name is the task's affair. No node, no check: the task
/// will tell.
async fn check_syntax(pod: &Arc<PodContext>, index: &str, filter: &Value) -> Result<(), ApiError> {
    let routing = pod.log.routing();
    let Some(index) = routing.indexes.get(index) else { return Ok(()) };
    let shards = index.groups.iter().flat_map(|group| &group.shards);
    let node = shards.flat_map(|shard| &shard.in_sync).find(|node| !pod.health.is_down(node));
    let Some(node) = node else { return Ok(()) };
    let query = json!({ "filter": filter, "limit": 0 });
    let path = format!("/indexes/{}/documents/fetch", index.uid);
    let answer: Result<Value, _> = pod.calls.json(node, Method::POST, path, Some(&query)).await;
    match answer {
        Err(NodeCallError::Refused(error)) => match error.known_code() {
            Some(code @ (Code::InvalidDocumentFilter | Code::FeatureNotEnabled))
                if !error.message.contains("not filterable")
                    && !error.message.contains("configured filterable") =>
            {
                let context = ErrorContext { index, displayed: None };
                Err(ApiError { code, message: clean_error(error, context).message })
            }
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}

/// Deletes one document.
///
/// # Errors
/// `invalid_index_uid`, `invalid_document_id`; 503s.
pub async fn delete_one(
    pod: &Writes<'_>,
    index: &str,
    id: &str,
    query: &str,
) -> Result<Reply, ApiError> {
    check_index_uid(index)?;
    delete_ids(pod, index, vec![id.to_owned()], true, query).await
}

/// Deletes documents by their ids.
///
/// # Errors
/// Those of a JSON body; 503s.
pub async fn delete_batch(
    pod: &Writes<'_>,
    index: &str,
    query: &str,
    body: &[u8],
) -> Result<Reply, ApiError> {
    check_index_uid(index)?;
    delete_ids(pod, index, ids_from_json(body)?, false, query).await
}

async fn delete_ids(
    pod: &Writes<'_>,
    index: &str,
    ids: Vec<String>,
    single: bool,
    query: &str,
) -> Result<Reply, ApiError> {
    let (_, custom_metadata) = take_custom_metadata(query);
    let count = ids.len() as u64;
    // What can't be an id can't be a document; the count shown is of all that were given.
    let possible: Vec<String> = ids.into_iter().filter(|id| is_id(id)).collect();
    let payload = Bytes::from(Value::from(possible).to_string()).into();
    let request = WriteRequest {
        index: Some(index.to_owned()),
        work: RequestedWork::DeleteIds { payload, count, single },
        creates_index: false,
        custom_metadata,
    };
    accepted(pod, Kind::DocumentDeletion, request).await
}

async fn plain(
    pod: &Writes<'_>,
    index: &str,
    kind: Kind,
    work: Work,
    custom_metadata: Option<String>,
) -> Result<Reply, ApiError> {
    let request = WriteRequest {
        index: Some(index.to_owned()),
        work: RequestedWork::Plain(work),
        creates_index: false,
        custom_metadata,
    };
    accepted(pod, kind, request).await
}

/// `customMetadata` (Meilisearch 1.26 and later) is taken out of the query string; the rest is
/// checked as 1.15 does.
pub(crate) fn take_custom_metadata(query: &str) -> (String, Option<String>) {
    let mut metadata = None;
    let rest: Vec<&str> = query
        .split('&')
        .filter(|pair| match pair.strip_prefix("customMetadata=") {
            Some(value) => {
                let spaced = value.replace('+', " ");
                metadata = percent_encoding::percent_decode_str(&spaced)
                    .decode_utf8()
                    .ok()
                    .map(|text| text.into_owned());
                false
            }
            None => !pair.is_empty(),
        })
        .collect();
    (rest.join("&"), metadata)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn custom_metadata_is_taken_out_of_the_query() {
        let (rest, metadata) = take_custom_metadata("primaryKey=id&customMetadata=a%20b+c");
        assert_eq!((rest.as_str(), metadata.as_deref()), ("primaryKey=id", Some("a b c")));
        assert_eq!(take_custom_metadata(""), (String::new(), None));
    }
}
