//! Answers and refusals.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use http_body_util::Full;
use miroir_wire::error::{ApiError, Code};
use miroir_wire::tasks::{SummarizedTask, TaskView};
use serde::Serialize;

/// What the server sends back.
pub(crate) type Answer = Response<Full<Bytes>>;

/// A refusal, with the status it is sent with.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// Code, text, type and link.
    pub(crate) error: ApiError,
    /// Mostly the code's own; multi-search answers 400 for an index that is not found.
    pub(crate) status: u16,
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        let status = error.status();
        Self { error, status }
    }
}

impl From<Refusal> for Answer {
    fn from(refusal: Refusal) -> Self {
        let mut answer = raw_json(status(refusal.status), refusal.error.to_json());
        if refusal.error.code == Code::TooManySearchRequests {
            answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("10"));
        }
        answer
    }
}

fn status(status: u16) -> StatusCode {
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// An answer whose body is JSON already.
pub(crate) fn raw_json(status: StatusCode, body: Vec<u8>) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

/// `200` with `value` as JSON.
pub(crate) fn ok<T: Serialize + ?Sized>(value: &T) -> Result<Answer, Refusal> {
    json(StatusCode::OK, value)
}

/// `202` with `value` as JSON.
pub(crate) fn accepted<T: Serialize + ?Sized>(value: &T) -> Result<Answer, Refusal> {
    json(StatusCode::ACCEPTED, value)
}

/// `value` as JSON.
pub(crate) fn json<T: Serialize + ?Sized>(
    status: StatusCode,
    value: &T,
) -> Result<Answer, Refusal> {
    let body = serde_json::to_vec(value)
        .map_err(|error| ApiError::new(Code::Internal, error.to_string()))?;
    Ok(raw_json(status, body))
}

/// An answer without a body.
pub(crate) fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = status;
    answer
}

/// `501`: Meilisearch has `what`, this node has not.
pub(crate) fn not_supported(what: &str) -> Refusal {
    ApiError::new(
        Code::MiroirNotSupported,
        format!("The embedded node does not support {what}. Use a Meilisearch server for it."),
    )
    .into()
}

/// What a write is answered with.
pub(crate) fn summary(task: TaskView) -> SummarizedTask {
    SummarizedTask {
        task_uid: task.uid,
        index_uid: task.index_uid,
        status: task.status,
        kind: task.kind,
        enqueued_at: task.enqueued_at,
        custom_metadata: task.custom_metadata,
    }
}
