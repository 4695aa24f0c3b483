//! Bodies, both ways. A large one is never in memory as a whole: it is read into a file without a
//! name that is mapped, and written piece by piece.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use miroir_seams::{Files, LogFile, Tasks};

/// Larger bodies are read into a file, bytes.
pub(super) const IN_MEMORY_MAX: usize = 8 << 20;
/// What is gathered before it is written to the file, bytes.
const WRITE_BYTES: usize = 512 << 10;
/// What is given to hyper at a time, bytes: over TLS it copies what it is given.
const FRAME_BYTES: usize = 256 << 10;

/// Why a body can't be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    /// It broke off.
    #[error(transparent)]
    Broken(#[from] hyper::Error),
    /// Longer than allowed, in bytes.
    #[error("more than {0} bytes")]
    TooLong(usize),
    /// It can't be kept.
    #[error("the disk failed: {0}")]
    Disk(#[from] io::Error),
}

/// Where large bodies lie while they are used.
#[derive(Clone, Debug)]
pub(super) struct Room {
    pub(super) files: Arc<dyn Files>,
    pub(super) tasks: Tasks,
}

impl Room {
    /// Reads a body of at most `bytes_max` bytes, of which its head says how long it is if it is large.
    pub(super) async fn read(
        &self,
        mut body: Incoming,
        bytes_max: usize,
    ) -> Result<Bytes, BodyError> {
        let length = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
        if length <= IN_MEMORY_MAX {
            return read_into_memory(body, length, bytes_max).await;
        }
        let mut file = self.files.scratch()?;
        let (mut gathered, mut written) = (Vec::with_capacity(WRITE_BYTES), 0);
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            if written + gathered.len() + data.len() > bytes_max {
                return Err(BodyError::TooLong(bytes_max));
            }
            gathered.extend_from_slice(&data);
            if gathered.len() >= WRITE_BYTES {
                written += gathered.len();
                (file, gathered) = self.append(file, gathered).await?;
            }
        }
        written += gathered.len();
        let (file, _) = self.append(file, gathered).await?;
        Ok(file.map_at(0, written)?)
    }

    /// Returns the file, and the emptied buffer.
    async fn append(
        &self,
        mut file: Box<dyn LogFile>,
        mut bytes: Vec<u8>,
    ) -> Result<(Box<dyn LogFile>, Vec<u8>), BodyError> {
        let write = move || {
            file.append(&bytes)?;
            bytes.clear();
            Ok((file, bytes))
        };
        let written: io::Result<_> = match self.files.blocks() {
            true => self.tasks.spawn_blocking(write).await.map_err(io::Error::other)?,
            false => write(),
        };
        Ok(written?)
    }
}

async fn read_into_memory(
    mut body: Incoming,
    length: usize,
    bytes_max: usize,
) -> Result<Bytes, BodyError> {
    let (mut first, mut rest) = (Bytes::new(), BytesMut::new());
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        if first.len() + rest.len() + data.len() > bytes_max {
            return Err(BodyError::TooLong(bytes_max));
        }
        if first.is_empty() && rest.is_empty() {
            // The only one, mostly: not copied.
            first = data;
            continue;
        }
        if rest.is_empty() {
            rest.reserve(length);
            rest.extend_from_slice(&std::mem::take(&mut first));
        }
        rest.extend_from_slice(&data);
    }
    Ok(if rest.is_empty() { first } else { rest.freeze() })
}

/// A body that is sent: its parts, one after the other.
pub(super) struct Parts {
    parts: VecDeque<Bytes>,
    /// Bytes not yet taken.
    left: usize,
}

impl Parts {
    pub(super) fn new(parts: Vec<Bytes>) -> Self {
        let left = parts.iter().map(Bytes::len).sum();
        Self { parts: parts.into_iter().filter(|part| !part.is_empty()).collect(), left }
    }

    /// What is left of it, bytes.
    pub(super) fn len(&self) -> usize {
        self.left
    }
}

impl Body for Parts {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(mut part) = self.parts.pop_front() else { return Poll::Ready(None) };
        if part.len() > FRAME_BYTES {
            let rest = part.split_off(FRAME_BYTES);
            self.parts.push_front(rest);
        }
        self.left -= part.len();
        Poll::Ready(Some(Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.parts.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left as u64)
    }
}
