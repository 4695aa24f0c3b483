//! `GET /tasks/{uid}/documents`: what a task that has not ended was sent, as NDJSON.
//!
//! Behind the experimental feature `getTaskDocumentsRoute`, as in Meilisearch. The documents are in
//! the journals until the task ends ([`miroir_actors::copies`]).

use bytes::Bytes;
use miroir_actors::copies::{self, PayloadError};
use miroir_actors::payload::decode_documents;
use miroir_storage::commands::Work;
use miroir_wire::content::DocumentBatch;
use miroir_wire::error::{ApiError, Code};
use miroir_wire::features::{TASK_DOCUMENTS_ROUTE, feature_not_enabled};

use super::Writes;
use super::tasks::read_seen;
use crate::reply::Reply;

/// `GET /tasks/{uid}/documents`.
///
/// # Errors
/// `feature_not_enabled`, `invalid_task_uids`, `task_not_found`; `task_file_not_found` for tasks without
/// documents and such as have ended; `miroir_shard_unavailable` when no pod that has them answers.
pub async fn get(pod: &Writes<'_>, uid: &str) -> Result<Reply, ApiError> {
    if pod.log.routing().features.get(TASK_DOCUMENTS_ROUTE) != Some(&true) {
        return Err(feature_not_enabled(
            "Getting the documents of an enqueued task",
            "get task documents route",
            "https://github.com/orgs/meilisearch/discussions/808",
        ));
    }
    let task = read_seen(pod, uid)?;
    let without = || {
        let message = format!(
            "Task `{}` does not contain any documents. Only `documentAdditionOrUpdate` tasks with the statuses \
             `enqueued` or `processing` contain documents",
            task.uid
        );
        ApiError::new(Code::TaskFileNotFound, message)
    };
    let Work::Documents { payload, .. } = &task.work else { return Err(without()) };
    if task.ended() {
        return Err(without());
    }
    let bytes = match copies::read(pod, payload).await {
        Ok(bytes) => bytes,
        // It has ended since.
        Err(PayloadError::Lost) => return Err(without()),
        Err(error @ PayloadError::NotNow(_)) => {
            tracing::warn!(%error, task = %task.uid, "documents of a task can't be read");
            let message = "No pod that holds the documents of the task answers.";
            return Err(ApiError::new(Code::MiroirShardUnavailable, message));
        }
    };
    lines(bytes).map_err(|error| {
        tracing::error!(%error, task = %task.uid, "documents of a task are damaged");
        ApiError::new(Code::Internal, "The documents of the task are damaged.")
    })
}

/// The documents, one a line.
fn lines(bytes: Bytes) -> Result<Reply, miroir_actors::payload::DamagedPayload> {
    let DocumentBatch { bytes, ranges } = decode_documents(bytes)?;
    let mut body = Vec::with_capacity(bytes.len() + ranges.len());
    for (start, end) in ranges {
        let document = bytes.get(start as usize..end as usize).unwrap_or_default();
        // In JSON an end of line stands between values only: inside strings it is escaped.
        let in_line = |byte: &u8| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte };
        body.extend(document.iter().map(in_line));
        body.push(b'\n');
    }
    let headers = vec![("content-type", "application/x-ndjson".to_owned())];
    Ok(Reply { status: 200, body, headers })
}

#[cfg(test)]
mod tests {
    use super::*;
    use miroir_actors::payload::encode_documents;
    use miroir_wire::content::{PayloadKind, read_documents};

    #[test]
    fn documents_are_written_one_a_line() {
        let sent = Bytes::from_static(b"[{\"id\":1,\n \"t\":\"a\\nb\"},\r\n{\"id\":2}]");
        let batch = read_documents(PayloadKind::Json, &sent).expect("documents");
        let payload = encode_documents(&batch);
        let kept = [payload.head.as_ref(), payload.body.as_ref()].concat();
        let Ok(reply) = lines(kept.into()) else { panic!("they are whole") };
        let text = String::from_utf8(reply.body).expect("text");
        assert_eq!(text, "{\"id\":1,  \"t\":\"a\\nb\"}\n{\"id\":2}\n");
    }
}
