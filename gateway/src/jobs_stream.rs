//! A whole file as the body of one request: cut into chunks as it comes.
//!
//! `POST /_miroir/jobs/imports?index=…&stream=true`. Work on the first chunk begins while the rest
//! is under way; memory for one chunk and what arrives meanwhile is all that it takes. When too much
//! waits to be worked on, nothing is read until there is room: the client feels it as a slow
//! connection. The answer, 202 with the job, comes when everything is durable; it does not wait for
//! the work.
//!
//! A stream can't be taken up again: one that breaks off ends its job as failed, and what is in
//! tasks by then stays imported. For files that are worth resuming there are chunks, and `miroir
//! ctl import`. Refused: 415 for a body with a `Content-Encoding`, 413 for a line longer than a
//! body may be, 409 `miroir_job_conflict` when the job ends while its file still comes.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::CONTENT_ENCODING;
use http_body_util::BodyExt;
use hyper::body::Body;
use miroir_wire::content::payload_too_large;
use miroir_wire::error::{ApiError, Code};

use crate::context::GatewayContext;
use crate::jobs::{JobView, NewImport};
use crate::reply::Reply;

/// A chunk is cut at the last end of a line once so much is there, bytes.
const CHUNK_BYTES: usize = 8 << 20;
/// Between two tries to find room for a chunk, or a quorum.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// How long a quorum is waited for.
const QUORUM_PATIENCE: Duration = Duration::from_secs(30);

/// Whether the query asks for it.
pub(crate) fn is_asked(query: &str) -> bool {
    // Also of a query that is refused for something else: its body must not be read whole.
    form_urlencoded::parse(query.as_bytes())
        .any(|(name, value)| name == "stream" && value == "true")
}

/// Imports a body.
///
/// # Errors
/// As above; 503 `miroir_overloaded` when too many are imported at the same time.
pub(crate) async fn import<B>(
    context: &GatewayContext,
    head: &http::request::Parts,
    body: B,
) -> Result<Reply, ApiError>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let import = NewImport::from_query_string(head.uri.query().unwrap_or_default())?;
    let encoding = head.headers.get(CONTENT_ENCODING).and_then(|value| value.to_str().ok());
    if encoding.is_some_and(|encoding| !encoding.eq_ignore_ascii_case("identity")) {
        return Err(ApiError::new(
            Code::UnsupportedMediaType,
            "A streamed import is not decoded. Send it without a Content-Encoding.",
        ));
    }
    let _one_of_few = context.streams.try_acquire().map_err(|_| {
        ApiError::new(
            Code::MiroirOverloaded,
            "Too many imports are streamed to this pod at the same time. Try again later.",
        )
    })?;
    let job = context.admin.create_import(import).await?.id;
    match take_in(context, job, body).await {
        Ok(sealed) => Ok(Reply::json(202, &sealed)),
        Err(error) => {
            let failure = format!("The upload ended early: {}", error.message);
            // The job may have ended, or end when nobody has gone on with it for a day.
            if let Err(error) = context.admin.end_job(job, Some(failure)).await {
                tracing::info!(job, error = error.message, "job of a broken stream stays");
            }
            Err(error)
        }
    }
}

async fn take_in<B>(context: &GatewayContext, job: u64, body: B) -> Result<JobView, ApiError>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut cutter = Cutter::new(CHUNK_BYTES, context.config.body_bytes_max);
    let mut chunks = 0;
    let mut body = std::pin::pin!(body);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            let error: Box<dyn std::error::Error + Send + Sync> = error.into();
            tracing::info!(job, %error, "streamed import broke off");
            ApiError::new(Code::BadRequest, "The file broke off before its end.")
        })?;
        let Ok(data) = frame.into_data() else { continue };
        if let Some(chunk) = cutter.push(&data)? {
            put(context, job, chunks, chunk).await?;
            chunks += 1;
        }
    }
    if let Some(rest) = cutter.finish() {
        put(context, job, chunks, rest).await?;
        chunks += 1;
    }
    patiently(context, || context.admin.seal(job, chunks)).await
}

async fn put(
    context: &GatewayContext,
    job: u64,
    number: u32,
    chunk: Bytes,
) -> Result<(), ApiError> {
    patiently(context, || context.admin.put_chunk(job, number, chunk.clone())).await.map(drop)
}

/// Tries again while there is no room, and for a while when there is no quorum. What is tried may
/// be done twice.
async fn patiently<T, F>(context: &GatewayContext, attempt: impl Fn() -> F) -> Result<T, ApiError>
where
    F: Future<Output = Result<T, ApiError>>,
{
    let clock = &context.seams.clock;
    let mut since = clock.instant();
    loop {
        match attempt().await {
            Err(error) if error.code == Code::MiroirOverloaded => since = clock.instant(),
            Err(error)
                if error.code == Code::MiroirNoQuorum
                    && clock.instant().saturating_duration_since(since) < QUORUM_PATIENCE => {}
            other => return other,
        }
        clock.sleep(RETRY_PAUSE).await;
    }
}

/// Cuts a stream at the ends of lines.
#[derive(Debug)]
struct Cutter {
    waiting: BytesMut,
    chunk_bytes: usize,
    line_bytes_max: usize,
}

impl Cutter {
    fn new(chunk_bytes: usize, line_bytes_max: usize) -> Self {
        Self { waiting: BytesMut::new(), chunk_bytes, line_bytes_max }
    }

    fn push(&mut self, data: &[u8]) -> Result<Option<Bytes>, ApiError> {
        self.waiting.extend_from_slice(data);
        if self.waiting.len() < self.chunk_bytes {
            return Ok(None);
        }
        // Of a line that spans frames only the new part is searched.
        let searched = self.waiting.len() - data.len().min(self.waiting.len());
        let searched = if searched < self.chunk_bytes { 0 } else { searched };
        match memchr::memrchr(b'\n', self.waiting.get(searched..).unwrap_or_default()) {
            Some(end) => Ok(Some(self.waiting.split_to(searched + end + 1).freeze())),
            None if self.waiting.len() > self.line_bytes_max => {
                Err(payload_too_large(self.line_bytes_max as u64))
            }
            None => Ok(None),
        }
    }

    fn finish(self) -> Option<Bytes> {
        (!self.waiting.is_empty()).then(|| self.waiting.freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_whole_lines_and_nothing_is_lost() {
        let text = "{\"a\":1}\n\n{\"a\":22}\r\n{\"a\":\"a longer one, by far\"}\n{\"a\":4}";
        for piece in 1..text.len() {
            let mut cutter = Cutter::new(10, 1000);
            let mut chunks: Vec<Bytes> = Vec::new();
            for data in text.as_bytes().chunks(piece) {
                chunks.extend(cutter.push(data).expect("no line is too long"));
            }
            assert!(chunks.iter().all(|chunk| chunk.ends_with(b"\n")), "{piece}: {chunks:?}");
            chunks.extend(cutter.finish());
            assert_eq!(chunks.concat(), text.as_bytes(), "{piece}");
        }
    }

    #[test]
    fn a_line_has_a_bound() {
        let mut cutter = Cutter::new(10, 20);
        assert_eq!(cutter.push(&[b'x'; 20]), Ok(None));
        assert_eq!(cutter.push(b"x").err().map(|error| error.status()), Some(413));
    }
}
