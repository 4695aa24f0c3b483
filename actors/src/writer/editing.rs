//! Editions by a function (`documents/edit`), in their place in the queue.
//!
//! A function is run once for the cluster, by the writer, and not on each node: what it makes of a
//! document must not depend on how often a request was sent, and either all of its documents change or,
//! where it fails on one, none. So when every earlier task has ended, the documents are read from
//! in-sync replicas and the function is run on each; what comes of it goes into two journals, as any
//! payload, and then into the log. From there on the task is like any other with a payload: each
//! lane carries the changed documents, whole, and the deletions. A writer that is replaced before the
//! log knows leaves nothing behind, and the next one begins anew.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use miroir_membership::placement::shard_of;
use miroir_seams::TransportError;
use miroir_seams::planted::{self, Bug};
use miroir_storage::commands::{Command, Edited, Fence, PayloadRef, Work};
use miroir_storage::ids::{NodeId, ShardId, TaskUid};
use miroir_storage::routing::IndexRouting;
use miroir_storage::tables::tasks;
use miroir_wire::document::document_id;
use miroir_wire::error::{ApiError, Code, ResponseError};
use miroir_wire::reserved::is_reserved;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::entries::{Decision, Sendable};
use super::steps;
use crate::copies::{self, PayloadError};
use crate::edit_function::{Change, EditFunction};
use crate::lane::job::in_shards;
use crate::node_calls::NodeCallError;
use crate::payload::{decode_edited, encode_edited};
use crate::pod::PodContext;
use crate::prepare::{PrepareContext, Prepared, VectorRules, prepare};

/// Bytes of changed documents that one edition may make: they are kept in memory and in journals.
pub const EDITED_BYTES_MAX: usize = 64 << 20;
/// Documents read at a time.
const PAGE_DOCUMENTS: usize = 1000;
/// How long a function may take for them: steps are bounded, but one may copy a large text.
const PAGE_TIME_MAX: Duration = Duration::from_secs(600);
/// Ids that one node lists at most.
const LISTED_MAX: u64 = 1_000_000_000;

/// Why an edition is not prepared.
#[derive(Debug, thiserror::Error)]
pub(super) enum EditError {
    /// The task fails.
    #[error("refused: {}", .0.message)]
    Refused(ResponseError),
    /// Somebody who is needed does not answer: it is tried again, from the beginning.
    #[error("{0}")]
    NotNow(String),
}

impl From<ApiError> for EditError {
    fn from(error: ApiError) -> Self {
        Self::Refused(error.into())
    }
}

/// What a node refuses for what the client sent, or can't answer for its size, fails the task: it would
/// hold up its index for ever. An index that is missing is made, or copied, before long.
fn from_node(error: NodeCallError, name: &str) -> EditError {
    match error {
        NodeCallError::Refused(error)
            if error.kind == "invalid_request" && error.code != "index_not_found" =>
        {
            let message = format!("Index `{name}`: {}", error.message);
            EditError::Refused(ResponseError { message, ..error })
        }
        NodeCallError::Transport(TransportError::TooLarge(_)) => {
            let message = "The documents to edit are too many, or too large, to be read. Edit them in several parts, each with a filter.";
            ApiError::new(Code::EditDocumentsByFunctionError, message).in_index(name).into()
        }
        error => EditError::NotNow(error.to_string()),
    }
}

/// What is to be carried for an edition, or how it ends at once; `None`: somebody who is needed did not
/// answer, and it is tried again.
pub(super) async fn prepare_edition(
    pod: &Arc<PodContext>,
    fence: &Fence,
    index: &IndexRouting,
    uid: TaskUid,
    name: &str,
) -> Option<Result<Sendable, Box<Decision>>> {
    let noted = noted(pod, uid);
    let prepared = match &noted {
        Ok((work, edited)) => prepare_noted(pod, fence, index, uid, name, (work, edited)).await,
        Err(error) => Err(not_now(error)),
    };
    match (prepared, noted) {
        (Ok(sendable), _) => Some(Ok(sendable)),
        (Err(EditError::Refused(error)), Ok((work, _))) => Some(Err(steps::fails(error, &work))),
        (Err(error), _) => {
            tracing::info!(%error, task = uid.0, "documents can't be edited yet, trying again");
            None
        }
    }
}

/// Runs the function unless the log knows what came of it.
async fn prepare_noted(
    pod: &Arc<PodContext>,
    fence: &Fence,
    index: &IndexRouting,
    uid: TaskUid,
    name: &str,
    (work, edited): (&Work, &Option<Edited>),
) -> Result<Sendable, EditError> {
    let edited = match edited {
        Some(edited) if !planted::has(Bug::EditAnew) => edited.clone(),
        _ => {
            let edited = run(pod, fence, index, work, name).await?;
            let note = Command::NoteEdited { fence: fence.clone(), uid, edited: edited.clone() };
            pod.log.propose(&note).await.map_err(not_now)?;
            if planted::has(Bug::EditAnew) {
                edited
            } else {
                // What the log knows counts: an earlier proposal may have come through unheard.
                let (_, noted) = noted(pod, uid)?;
                noted.ok_or_else(|| EditError::NotNow("the log took no note of it".to_owned()))?
            }
        }
    };
    let bytes = match copies::read(pod, &edited.payload).await {
        Ok(bytes) => bytes,
        Err(error @ PayloadError::NotNow(_)) => return Err(not_now(error)),
        Err(error @ PayloadError::Lost) => {
            tracing::error!(%error, "what a function made of documents is lost");
            return Err(lost());
        }
    };
    let (documents, deleted) = decode_edited(bytes).map_err(|error| {
        tracing::error!(%error, "what a function made of documents is damaged");
        lost()
    })?;
    let place = |id: String| (shard_of(&id, index.shards), id);
    let deleted = Arc::new(deleted.into_iter().map(place).collect());
    let Some(primary_key) = index.primary_key.clone() else {
        return Ok(Sendable::Edit { changed: Arc::new(nothing()), deleted });
    };
    let context = PrepareContext {
        name: name.to_owned(),
        index_primary_key: Some(primary_key),
        request_primary_key: None,
        marks: index.marks,
        checks_geo: PrepareContext::looks_at_geo(&index.settings),
        vectors: VectorRules::of(&index.settings),
        // They keep the vectors that they have.
        partial: true,
    };
    let prepared = pod.seams.tasks.spawn_blocking(move || prepare(documents, &context)).await;
    // No document is new: none is refused for want of vectors.
    let (changed, _lacking) = prepared.map_err(not_now)??;
    Ok(Sendable::Edit { changed: Arc::new(changed), deleted })
}

fn not_now(error: impl std::fmt::Display) -> EditError {
    EditError::NotNow(error.to_string())
}

/// A function that takes its interpreter down does so each time. Else the process is ending.
fn unfinished(error: tokio::task::JoinError) -> EditError {
    match error.is_panic() {
        true => {
            let message = "The function brought its interpreter down.";
            ApiError::new(Code::EditDocumentsByFunctionError, message).into()
        }
        false => not_now(error),
    }
}

fn too_slow() -> ApiError {
    let message = format!(
        "The function takes more than {} s for {PAGE_DOCUMENTS} documents.",
        PAGE_TIME_MAX.as_secs()
    );
    ApiError::new(Code::EditDocumentsByFunctionError, message)
}

fn lost() -> EditError {
    ApiError::new(Code::Internal, "The payload of this task was lost on disk.").into()
}

fn nothing() -> Prepared {
    Prepared {
        primary_key: String::new(),
        bytes: bytes::Bytes::new(),
        documents: Vec::new(),
        beside: Vec::new(),
    }
}

/// The task's work as the log has it, and what came of it, if that is known.
fn noted(pod: &PodContext, uid: TaskUid) -> Result<(Work, Option<Edited>), EditError> {
    let task = tasks::read(pod.log.engine().as_ref(), uid).map_err(not_now)?;
    match task.map(|task| task.work) {
        Some(work @ Work::EditDocuments { .. }) => {
            let Work::EditDocuments { edited, .. } = &work else { return Err(lost()) };
            let edited = edited.clone();
            Ok((work, edited))
        }
        _ => Err(EditError::NotNow("the task is gone".to_owned())),
    }
}

/// What a function made of the documents so far.
#[derive(Debug, Default)]
struct Made {
    changed: Vec<Vec<u8>>,
    bytes: usize,
    deleted: Vec<String>,
    matched: u64,
}

/// Reads the documents, runs the function on them and puts what comes of it into journals.
async fn run(
    pod: &Arc<PodContext>,
    fence: &Fence,
    index: &IndexRouting,
    work: &Work,
    name: &str,
) -> Result<Edited, EditError> {
    let Work::EditDocuments { function, context, filter, .. } = work else { return Err(lost()) };
    let in_index = |error: ApiError| EditError::from(error.in_index(name));
    let from_node_of = |error| from_node(error, name);
    let function = EditFunction::compile(function, context.as_deref()).map_err(in_index)?;
    let function = Arc::new(function);
    let _ends_runs = function.ends_runs();
    let filter = filter.as_deref().map(|text| serde_json::from_str(text).unwrap_or_default());
    // Without a key there are no documents, but a filter that is none all the same.
    let primary_key = &index.primary_key.clone().unwrap_or_default();
    let mut made = Made::default();
    if index.primary_key.is_some() || filter.is_some() {
        for (node, shards) in sources(pod, index)? {
            let filter = with_shards(filter.as_ref(), in_shards(&shards, index.marks.current));
            let query = json!({ "filter": filter, "fields": [primary_key], "limit": LISTED_MAX });
            let listed =
                pod.calls.documents(&node, &fence.index, &query).await.map_err(from_node_of)?;
            let ids: BTreeSet<String> = listed
                .iter()
                .filter_map(|document| document_id(document.get().as_bytes(), primary_key).ok())
                .collect();
            let ids: Vec<String> = ids.into_iter().collect();
            made.matched += ids.len() as u64;
            let mut pages: Vec<&[String]> = ids.chunks(PAGE_DOCUMENTS).collect();
            while let Some(page) = pages.pop() {
                let query = json!({ "ids": page, "limit": page.len() });
                let documents = match pod.calls.documents(&node, &fence.index, &query).await {
                    // Documents are large here: half as many at a time.
                    Err(NodeCallError::Transport(TransportError::TooLarge(_)))
                        if page.len() > 1 =>
                    {
                        let (first, second) = page.split_at(page.len() / 2);
                        pages.extend([first, second]);
                        continue;
                    }
                    documents => documents.map_err(from_node_of)?,
                };
                if documents.len() != page.len() {
                    return Err(EditError::NotNow(format!("{node} changes beside the queue")));
                }
                let (function, key) = (function.clone(), primary_key.clone());
                let edit =
                    move || EditFunction::deep(|| edit_page(&function, &key, documents, made));
                let edited = tokio::select! {
                    biased;
                    edited = pod.seams.tasks.spawn_blocking(edit) => edited.map_err(unfinished)?,
                    () = pod.seams.clock.sleep(PAGE_TIME_MAX) => return Err(in_index(too_slow())),
                };
                made = edited.map_err(not_now)?.map_err(in_index)?;
            }
        }
    }
    let payload = encode_edited(&made.changed, &made.deleted);
    let (bytes, count) = (payload.len() as u64, (made.changed.len() + made.deleted.len()) as u64);
    let holders = copies::append(pod, payload, None).await.map_err(not_now)?;
    Ok(Edited { payload: PayloadRef { holders, bytes, count }, matched: made.matched })
}

/// Each shard, by the node that it is read from: an in-sync replica that answers.
fn sources(
    pod: &PodContext,
    index: &IndexRouting,
) -> Result<BTreeMap<NodeId, BTreeSet<ShardId>>, EditError> {
    let mut sources: BTreeMap<NodeId, BTreeSet<ShardId>> = BTreeMap::new();
    for shard in (0..index.shards).map(ShardId) {
        let replicas = index.groups.iter().filter_map(|group| group.shards.get(shard.0 as usize));
        let mut in_sync = replicas.flat_map(|replica| &replica.in_sync);
        let Some(node) = in_sync.find(|node| !pod.health.is_down(node)) else {
            return Err(EditError::NotNow(format!("no replica of shard {shard} answers")));
        };
        sources.entry(node.clone()).or_default().insert(shard);
    }
    Ok(sources)
}

/// The client's filter, for some shards only: a list of conditions of which each must hold.
fn with_shards(filter: Option<&Value>, shards: String) -> Value {
    let mut all = match filter {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(conditions)) => conditions.clone(),
        Some(condition) => vec![condition.clone()],
    };
    all.push(Value::from(shards));
    Value::Array(all)
}

/// Runs the function on some documents.
fn edit_page(
    function: &EditFunction,
    primary_key: &str,
    documents: Vec<Box<RawValue>>,
    mut made: Made,
) -> Result<Made, ApiError> {
    for document in documents {
        let unreadable =
            |error: serde_json::Error| ApiError::new(Code::Internal, error.to_string());
        let mut fields: Map<String, Value> =
            serde_json::from_str(document.get()).map_err(unreadable)?;
        fields.retain(|name, _| !is_reserved(name));
        let document = serde_json::to_vec(&fields).map_err(unreadable)?;
        match function.run(&document, primary_key)? {
            Change::None => {}
            Change::Deletion => made.deleted.extend(document_id(&document, primary_key).ok()),
            Change::Document(changed) => {
                made.bytes += changed.len();
                made.changed.push(changed);
            }
        }
        if made.bytes > EDITED_BYTES_MAX {
            let message = format!(
                "The documents that the function changes have more than {} MiB. Edit them in several parts, each with a filter.",
                EDITED_BYTES_MAX >> 20
            );
            return Err(ApiError::new(Code::EditDocumentsByFunctionError, message));
        }
    }
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clients_filter_holds_within_the_shards() {
        let with = |filter: Value| with_shards(Some(&filter), "s".to_owned());
        assert_eq!(with_shards(None, "s".to_owned()), json!(["s"]));
        assert_eq!(with(json!("a = 1 OR b = 2")), json!(["a = 1 OR b = 2", "s"]));
        assert_eq!(
            with(json!(["a = 1", ["b = 2", "c = 3"]])),
            json!(["a = 1", ["b = 2", "c = 3"], "s"])
        );
    }

    #[test]
    fn what_will_not_be_better_later_fails_the_task() {
        let refused = |code: Code| {
            let error = ApiError::new(code, "no").into();
            matches!(from_node(NodeCallError::Refused(error), "films"), EditError::Refused(_))
        };
        assert!(refused(Code::InvalidDocumentFilter) && refused(Code::FeatureNotEnabled));
        assert!(!refused(Code::IndexNotFound) && !refused(Code::InvalidApiKey));
        let large = NodeCallError::Transport(TransportError::TooLarge(1));
        assert!(matches!(from_node(large, "films"), EditError::Refused(_)));
    }

    #[test]
    fn what_a_page_becomes_is_gathered_until_one_fails() {
        let raw = |text: &str| RawValue::from_string(text.to_owned()).unwrap();
        let page = || {
            vec![
                raw(r#"{"_miroir_shard":"x","id":1,"n":1}"#),
                raw(r#"{"_miroir_shard":"x","id":2,"n":2}"#),
                raw(r#"{"_miroir_shard":"x","id":3,"n":3}"#),
            ]
        };
        let function = |text: &str| EditFunction::compile(text, None).unwrap();
        let edit = function("if doc.n == 1 { doc = () } else if doc.n == 2 { doc.n = 9 }");
        let made = edit_page(&edit, "id", page(), Made::default()).unwrap();
        assert_eq!(made.deleted, ["1"]);
        assert_eq!(made.changed, [br#"{"id":2,"n":9}"#.to_vec()]);
        let failing = function("if doc.n == 3 { throw 1 }");
        assert!(edit_page(&failing, "id", page(), Made::default()).is_err());
    }
}
