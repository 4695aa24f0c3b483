//! Reading a request's body: decoded, bounded, and off the heap when it is large.
//!
//! | what | bound |
//! |---|---|
//! | a body, after decoding | `body_bytes_max`: 413 `payload_too_large` |
//! | a body in memory | `IN_MEMORY_MAX`; beyond, the whole of it goes to a spool file |
//! | all spool files | `spool_bytes_max`: 503 `miroir_overloaded` |
//! | how long a body takes | 30 s (`BODY_GRACE`), and a second more for each 1 KiB (`BODY_BYTES_PER_S_MIN`) of it: 400 |
//!
//! Pieces go to the disk and through decoders on the blocking pool, some at a time. A request that
//! is given up drops its `Gathered` body, and with it the file and its share of the spool.

mod decode;
mod spool;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use http_body_util::BodyExt;
use hyper::body::Body;
use miroir_seams::Seams;
use miroir_wire::content::payload_too_large;
use miroir_wire::error::{ApiError, Code};

use crate::context::GatewayContext;
use decode::{Decoder, Encoding};
pub use spool::Spool;
use spool::SpoolFile;

/// Larger bodies are spooled to disk, bytes (spec 01, Writes 1).
const IN_MEMORY_MAX: usize = 8 << 20;
/// What is read before it goes to a decoder or to the disk, bytes: fewer hops to another thread,
/// and memory for this much per request.
const BATCH_BYTES: usize = 512 << 10;

/// How long a body may take whatever it brings: a request that is being received is among those
/// that a pod serves at the same time, so clients that send next to nothing must not keep it.
const BODY_GRACE: Duration = Duration::from_secs(30);
/// Beyond [`BODY_GRACE`] a body must have come as fast as this, from its first byte on. The
/// slowest of mobile networks carry several times as much.
const BODY_BYTES_PER_S_MIN: u64 = 1024;

/// Why a body can't be had.
#[derive(Debug, thiserror::Error)]
enum IntakeError {
    #[error("larger than the limit")]
    TooLarge,
    #[error("the spool is full")]
    SpoolFull,
    #[error("the spool's disk failed: {0}")]
    Disk(io::Error),
    /// Not what its `Content-Encoding` says, or cut short.
    #[error("{0}")]
    Undecodable(io::Error),
    #[error("the client sends too slowly")]
    TooSlow,
    #[error("the connection broke off: {0}")]
    BrokenOff(Box<dyn std::error::Error + Send + Sync>),
}

/// How Meilisearch words the refusal of a body that it can't read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wording {
    /// Of the routes that take documents.
    Documents,
    /// Of all others.
    Json,
}

/// Reads a whole body, decoded as its `Content-Encoding` says.
///
/// # Errors
/// 413 `payload_too_large`, 503 `miroir_overloaded`, 400 `bad_request` for one that ends early or
/// can't be decoded, 500 `internal` when the spool's disk fails.
pub(crate) async fn read_body<B>(
    context: &GatewayContext,
    headers: &HeaderMap,
    body: B,
    wording: Wording,
) -> Result<Bytes, ApiError>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let bytes_max = context.config.body_bytes_max;
    let gathered = Gathered::new(context.spool.clone(), bytes_max);
    gather(gathered, &context.seams, headers, body)
        .await
        .map_err(|error| refusal(error, bytes_max, wording))
}

fn refusal(error: IntakeError, bytes_max: usize, wording: Wording) -> ApiError {
    match error {
        IntakeError::TooLarge => payload_too_large(bytes_max as u64),
        IntakeError::SpoolFull => ApiError::new(
            Code::MiroirOverloaded,
            "Too many large requests are being received at the same time. Nothing was accepted, try again later.",
        ),
        IntakeError::Disk(error) => {
            tracing::error!(%error, "spool file failed");
            ApiError::new(
                Code::Internal,
                "The request's body could not be kept on this pod's disk.",
            )
        }
        IntakeError::Undecodable(error) if wording == Wording::Json => ApiError::new(
            Code::BadRequest,
            format!(
                "Error that occur during reading payload: payload reached EOF before completing: {:?}",
                Some(error)
            ),
        ),
        IntakeError::Undecodable(_) | IntakeError::BrokenOff(_) | IntakeError::TooSlow => {
            ApiError::new(
                Code::BadRequest,
                "The provided payload is incomplete and cannot be parsed",
            )
        }
    }
}

async fn gather<B>(
    mut gathered: Gathered,
    seams: &Seams,
    headers: &HeaderMap,
    body: B,
) -> Result<Bytes, IntakeError>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let bytes_max = gathered.bytes_max;
    let announced = headers
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse::<u64>().ok())
        .map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
    if announced.is_some_and(|bytes| bytes > bytes_max) {
        return Err(IntakeError::TooLarge);
    }
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    let encoding = Encoding::of(headers);
    gathered.large =
        encoding == Encoding::Identity && announced.is_some_and(|bytes| bytes > IN_MEMORY_MAX);
    let mut decoder = Decoder::new(encoding, gathered);
    let mut waiting = Batch::default();
    let mut body = std::pin::pin!(body);
    let tasks = &seams.tasks;
    let (began, mut received) = (seams.clock.instant(), 0);
    loop {
        let frame = tokio::time::timeout_at(began + patience(received), body.frame()).await;
        let Some(frame) = frame.map_err(|_| IntakeError::TooSlow)? else { break };
        let frame = frame.map_err(|error| IntakeError::BrokenOff(error.into()))?;
        let Ok(data) = frame.into_data() else { continue };
        received += data.len() as u64;
        if let Decoder::Identity(gathered) = &mut decoder
            && waiting.bytes == 0
        {
            if gathered.is_empty()
                && body.is_end_stream()
                && data.len() <= IN_MEMORY_MAX.min(bytes_max)
            {
                return Ok(data);
            }
            if gathered.stays_in_memory(data.len()) {
                gathered.take(&data)?;
                continue;
            }
        }
        waiting.push(data);
        if waiting.bytes >= BATCH_BYTES {
            let batch = std::mem::take(&mut waiting);
            let pushed =
                tasks.spawn_blocking(move || decoder.push(&batch.pieces).map(|()| decoder));
            decoder = pushed.await.map_err(gone)??;
        }
    }
    if let Decoder::Identity(gathered) = decoder {
        if waiting.bytes == 0 && gathered.file.is_none() {
            return gathered.into_bytes();
        }
        decoder = Decoder::Identity(gathered);
    }
    let finish = move || {
        decoder.push(&waiting.pieces)?;
        decoder.finish()?.into_bytes()
    };
    tasks.spawn_blocking(finish).await.map_err(gone)?
}

/// How long a body of which so much has come may have taken.
fn patience(received_bytes: u64) -> Duration {
    BODY_GRACE + Duration::from_secs(received_bytes / BODY_BYTES_PER_S_MIN)
}

/// The blocking task panicked, or the pod is being stopped.
fn gone(error: impl std::error::Error + Send + Sync + 'static) -> IntakeError {
    IntakeError::Disk(io::Error::other(error))
}

/// Pieces on their way to the blocking pool.
#[derive(Debug, Default)]
struct Batch {
    pieces: Vec<Bytes>,
    bytes: usize,
}

impl Batch {
    fn push(&mut self, piece: Bytes) {
        self.bytes += piece.len();
        self.pieces.push(piece);
    }
}

/// A decoded body as far as it is there: in memory, or in a spool file when it is large.
#[derive(Debug)]
struct Gathered {
    spool: Arc<Spool>,
    bytes_max: usize,
    memory: Vec<u8>,
    /// Once there, it holds everything and `memory` is empty.
    file: Option<SpoolFile>,
    /// Why it takes nothing more; kept for those who write through [`io::Write`].
    refused: Option<IntakeError>,
    /// Goes to the disk from its first byte, since it is known to be large.
    large: bool,
}

impl Gathered {
    fn new(spool: Arc<Spool>, bytes_max: usize) -> Self {
        Self { spool, bytes_max, memory: Vec::new(), file: None, refused: None, large: false }
    }

    fn len(&self) -> usize {
        self.file.as_ref().map_or(self.memory.len(), SpoolFile::len)
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether `more` bytes can be taken without touching the disk.
    fn stays_in_memory(&self, more: usize) -> bool {
        self.file.is_none() && !self.large && self.memory.len() + more <= IN_MEMORY_MAX
    }

    /// Takes `bytes`; blocks when they go to the disk.
    fn take(&mut self, bytes: &[u8]) -> Result<(), IntakeError> {
        if self.len() + bytes.len() > self.bytes_max {
            return Err(IntakeError::TooLarge);
        }
        if self.stays_in_memory(bytes.len()) {
            self.memory.extend_from_slice(bytes);
            return Ok(());
        }
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                let mut file = self.spool.begin()?;
                file.append(&std::mem::take(&mut self.memory))?;
                self.file.insert(file)
            }
        };
        file.append(bytes)
    }

    fn into_bytes(self) -> Result<Bytes, IntakeError> {
        match self.file {
            Some(file) => file.into_bytes(),
            None => Ok(self.memory.into()),
        }
    }
}

impl io::Write for Gathered {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.refused.is_none() {
            match self.take(bytes) {
                Ok(()) => return Ok(bytes.len()),
                Err(error) => self.refused = Some(error),
            }
        }
        Err(io::Error::other("body refused"))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
