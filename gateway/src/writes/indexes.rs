//! `/indexes` and `/swap-indexes`: everything that creates, changes or lists indexes.
//!
//! | method, path | answers |
//! |---|---|
//! | `GET /indexes`, `GET /indexes/{uid}` | 200 from agreed state; 404 `index_not_found` |
//! | `POST /indexes`, `PATCH`, `DELETE /indexes/{uid}`, `POST /swap-indexes` | 202; 400; 503 |

use miroir_actors::accept::{RequestedWork, WriteRequest};
use miroir_actors::pod::PodContext;
use miroir_storage::commands::{NameChange, Work};
use miroir_storage::routing::{IndexRouting, updated_at};
use miroir_wire::error::ApiError;
use miroir_wire::index::{
    CreateIndex, IndexView, NameSwap, Page, UpdateIndex, check_each_name_once, check_index_uid,
    swaps_from_json,
};
use miroir_wire::tasks::Kind;

use super::{Reply, Writes, accepted};
use miroir_wire::access::invalid_key;

/// Creates an index.
///
/// # Errors
/// Meilisearch's own for the body; `invalid_api_key` for a name that the client may not use; 503s.
pub async fn create(pod: &Writes<'_>, body: &[u8]) -> Result<Reply, ApiError> {
    let CreateIndex { uid, primary_key } = CreateIndex::from_json(body)?;
    if !pod.grant.may_create_index(&uid) {
        return Err(invalid_key());
    }
    let work = Work::CreateIndex { primary_key };
    write(pod, Kind::IndexCreation, Some(uid), work, true).await
}

/// Changes an index's primary key, or its name.
///
/// # Errors
/// Meilisearch's own for the body; `invalid_api_key` for a name that the client may not use; 503s.
pub async fn update(pod: &Writes<'_>, index: &str, body: &[u8]) -> Result<Reply, ApiError> {
    check_index_uid(index)?;
    let UpdateIndex { primary_key, uid } = UpdateIndex::from_json(body)?;
    let work = match uid {
        None => Work::UpdateIndex { primary_key },
        Some(to) => {
            pod.grant.check_index(&to)?;
            Work::RenameIndex { from: index.to_owned(), to, primary_key, took: false }
        }
    };
    write(pod, Kind::IndexUpdate, Some(index.to_owned()), work, false).await
}

/// Deletes an index.
///
/// # Errors
/// `invalid_index_uid`; 503s.
pub async fn delete(pod: &Writes<'_>, index: &str) -> Result<Reply, ApiError> {
    check_index_uid(index)?;
    write(pod, Kind::IndexDeletion, Some(index.to_owned()), Work::DeleteIndex, false).await
}

/// Swaps names pairwise, or renames.
///
/// # Errors
/// Meilisearch's own for the body, duplicates included; `invalid_api_key` for names that the
/// client may not use; 503s.
pub async fn swap(pod: &Writes<'_>, body: &[u8]) -> Result<Reply, ApiError> {
    let swaps = swaps_from_json(body)?;
    for name in swaps.iter().flat_map(|swap| [&swap.names.0, &swap.names.1]) {
        pod.grant.check_index(name)?;
    }
    check_each_name_once(&swaps)?;
    write(pod, Kind::IndexSwap, None, work_of(swaps), false).await
}

/// Pods of older versions read plain swaps.
fn work_of(swaps: Vec<NameSwap>) -> Work {
    if !swaps.iter().any(|swap| swap.rename) {
        return Work::SwapIndexes { pairs: swaps.into_iter().map(|swap| swap.names).collect() };
    }
    let change = |NameSwap { names: (a, b), rename }| NameChange { a, b, renames: rename };
    Work::ChangeNames { changes: swaps.into_iter().map(change).collect(), took: false }
}

async fn write(
    pod: &Writes<'_>,
    kind: Kind,
    index: Option<String>,
    work: Work,
    creates_index: bool,
) -> Result<Reply, ApiError> {
    let work = RequestedWork::Plain(work);
    let request = WriteRequest { index, work, creates_index, custom_metadata: None };
    accepted(pod, kind, request).await
}

/// Lists the indexes that the client may see, by name.
///
/// # Errors
/// `invalid_index_offset`, `invalid_index_limit`.
pub fn list(pod: &Writes<'_>, query: &str) -> Result<Reply, ApiError> {
    let page = Page::from_query_string(query)?;
    let routing = pod.log.routing();
    let seen: Vec<_> =
        routing.indexes.iter().filter(|(name, _)| pod.grant.allows_index(name)).collect();
    let views = page.of(seen.into_iter().map(|(name, index)| view(pod, name, index)));
    Ok(Reply::json(200, &views))
}

/// One index.
///
/// # Errors
/// `index_not_found`.
pub fn get(pod: &PodContext, name: &str) -> Result<Reply, ApiError> {
    check_index_uid(name)?;
    match pod.log.routing().indexes.get(name) {
        Some(index) => Ok(Reply::json(200, &view(pod, name, index))),
        None => Err(ApiError::index_not_found(name)),
    }
}

fn view(pod: &PodContext, name: &str, index: &IndexRouting) -> IndexView {
    let updated = updated_at(pod.log.engine().as_ref(), &index.uid).unwrap_or_else(|error| {
        tracing::error!(%error, "time of update can't be read");
        None
    });
    IndexView {
        uid: name.to_owned(),
        created_at: index.created_at,
        updated_at: updated.unwrap_or(index.created_at),
        primary_key: index.primary_key.clone(),
    }
}
