//! Reading request bodies, within limits of size and patience.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use miroir_seams::Tasks;
use miroir_wire::content;
use miroir_wire::error::{ApiError, Code};

use super::decode::{DecodeError, Encoding};

/// Largest body, bytes: Meilisearch's default of 100 MB.
pub(crate) const BODY_BYTES_MAX: usize = 100_000_000;

/// A body that pauses longer than this is given up.
const FRAME_WAIT_MAX: Duration = Duration::from_secs(30);

/// Room made at once for a body of announced length; a longer one grows as it arrives, so
/// that an announcement alone takes no memory.
const ROOM_AT_ONCE_BYTES: usize = 1 << 20;

/// What is read of a refused body so that the client, still sending, gets to the answer.
const DRAIN_BYTES_MAX: usize = 8 << 20;

/// How long a refused body is read.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(2);

/// Reads a whole body, decoded as its `Content-Encoding` says.
///
/// # Errors
/// `payload_too_large`, `bad_request` for one that ends early, stalls or can't be decoded.
pub(crate) async fn read(
    headers: &HeaderMap,
    body: &mut Incoming,
    tasks: &Tasks,
) -> Result<Bytes, ApiError> {
    let encoded = read_encoded(headers, body).await?;
    let Some(encoding) = Encoding::of(headers).filter(|_| !encoded.is_empty()) else {
        return Ok(encoded);
    };
    match tasks.spawn_blocking(move || encoding.decode(&encoded, BODY_BYTES_MAX)).await {
        Ok(Ok(decoded)) => Ok(decoded),
        Ok(Err(DecodeError::TooLarge)) => Err(too_large()),
        Ok(Err(DecodeError::Broken(error))) => {
            tracing::debug!(%error, "body not decoded");
            Err(incomplete())
        }
        Err(error) => Err(ApiError::new(Code::Internal, error.to_string())),
    }
}

async fn read_encoded(headers: &HeaderMap, body: &mut Incoming) -> Result<Bytes, ApiError> {
    let announced = headers
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<usize>().ok())
        .unwrap_or(0);
    if announced > BODY_BYTES_MAX {
        return Err(too_large());
    }
    let mut whole = BytesMut::new();
    loop {
        let frame = tokio::time::timeout(FRAME_WAIT_MAX, body.frame()).await;
        let frame = match frame {
            Ok(Some(Ok(frame))) => frame,
            Ok(None) => return Ok(whole.freeze()),
            Ok(Some(Err(_))) | Err(_) => {
                return Err(incomplete());
            }
        };
        let Ok(data) = frame.into_data() else { continue };
        if whole.len() + data.len() > BODY_BYTES_MAX {
            return Err(too_large());
        }
        if whole.is_empty() {
            if data.len() >= announced && body.is_end_stream() {
                return Ok(data);
            }
            whole.reserve(announced.min(ROOM_AT_ONCE_BYTES));
        }
        whole.extend_from_slice(&data);
    }
}

/// Reads on for a while where a request was refused before its body was read.
pub(crate) async fn drain(body: &mut Incoming) {
    let reading = async {
        let mut left = DRAIN_BYTES_MAX;
        while let Some(Ok(frame)) = body.frame().await {
            let read = frame.data_ref().map_or(0, Bytes::len);
            match left.checked_sub(read) {
                Some(rest) => left = rest,
                None => return,
            }
        }
    };
    // What is not read by then makes hyper close the connection.
    let _ = tokio::time::timeout(DRAIN_TIME_MAX, reading).await;
}

fn incomplete() -> ApiError {
    ApiError::new(Code::BadRequest, "The provided payload is incomplete and cannot be parsed")
}

fn too_large() -> ApiError {
    content::payload_too_large(BODY_BYTES_MAX as u64)
}
