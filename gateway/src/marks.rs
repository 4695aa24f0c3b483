//! What a request carries beside its body: its idempotency key and its session.

use http::request::Parts;
use miroir_actors::accept::WriteMarks;
use miroir_storage::commands::IdempotencyKey;
use miroir_wire::error::{ApiError, Code};
use sha2::{Digest, Sha256};

/// Names a write: its retries are the same write.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// Names a session: its reads see its writes.
pub const SESSION: &str = "x-miroir-session";
/// Longest key or session, bytes.
const TEXT_BYTES_MAX: usize = 255;

/// The marks of a request.
///
/// # Errors
/// When a key or session is empty, too long or not visible ASCII.
pub fn read(head: &Parts, body: &[u8]) -> Result<WriteMarks, ApiError> {
    let key = text(head, IDEMPOTENCY_KEY)?;
    Ok(WriteMarks {
        key: key.map(|key| IdempotencyKey { key, request: fingerprint(head, body) }),
        session: text(head, SESSION)?,
    })
}

/// The session that a read belongs to.
///
/// # Errors
/// As [`read`].
pub fn session(head: &Parts) -> Result<Option<String>, ApiError> {
    text(head, SESSION)
}

fn text(head: &Parts, name: &'static str) -> Result<Option<String>, ApiError> {
    let Some(value) = head.headers.get(name) else { return Ok(None) };
    match value.to_str() {
        Ok(text) if (1..=TEXT_BYTES_MAX).contains(&text.len()) => Ok(Some(text.to_owned())),
        _ => Err(ApiError::new(
            Code::BadRequest,
            format!(
                "The header `{name}` must hold 1 to {TEXT_BYTES_MAX} visible ASCII characters."
            ),
        )),
    }
}

/// What the request asks for, as SHA-256: two requests of one key must agree in it.
fn fingerprint(head: &Parts, body: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    let target = [head.uri.path(), head.uri.query().unwrap_or_default()];
    for part in [head.method.as_str()].into_iter().chain(target) {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.update(body);
    hash.finalize().into()
}
