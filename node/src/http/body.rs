//! Reading request bodies, within limits of size and patience.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use miroir_wire::content;
use miroir_wire::error::{ApiError, Code};

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

/// Reads a whole body.
///
/// # Errors
/// `unsupported_media_type` for a compressed one, `payload_too_large`, `bad_request` for one
/// that ends early or stalls.
pub(crate) async fn read(headers: &HeaderMap, body: &mut Incoming) -> Result<Bytes, ApiError> {
    if let Some(encoding) = headers.get(CONTENT_ENCODING)
        && encoding != "identity"
    {
        return Err(ApiError::new(
            Code::UnsupportedMediaType,
            format!(
                "The Content-Encoding `{}` is not supported by this node. Send the payload uncompressed.",
                encoding.to_str().unwrap_or("unknown")
            ),
        ));
    }
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
                return Err(ApiError::new(
                    Code::BadRequest,
                    "The provided payload is incomplete and cannot be parsed",
                ));
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

fn too_large() -> ApiError {
    content::payload_too_large(BODY_BYTES_MAX as u64)
}
