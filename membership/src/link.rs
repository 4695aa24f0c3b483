//! Calls between pods: HTTP/1.1 over TLS 1.3, both sides proving that they know a cluster secret.
//!
//! A call is `POST /<channel>` with the request as body; `200` brings the answer, `409` the
//! refusal of the service. Each call has a connection for itself while it lasts; connections are
//! kept for the next call. No call waits for another's lock, queue or stream.
//!
//! Who proves what: each side holds an Ed25519 key derived of the secret and presents it as a raw
//! public key (RFC 7250); nothing else is accepted, there are no names and no certificates. What is
//! proved is to be *some* pod of the cluster, not which one: a request for which that matters must
//! name the pod it is meant for, and the service must refuse one that isn't for it (an address may
//! have passed to another pod, and who sits between two pods can lead a connection to a third).
//! Sessions are never resumed, so a secret that is gone is gone.
//!
//! Once the server has checked the client it says so by one byte. So a client knows before it
//! sends a request that it was let in, and a refusal is [`Unreachable`], a certain error:
//!
//! | what happens | error | carried out? |
//! |---|---|---|
//! | no connection, no handshake, not let in | [`Unreachable`] | certainly not |
//! | a kept connection was closed, nothing written yet | none: sent on a new connection | once |
//! | status 409; too large, too busy | [`Refused`] | certainly not |
//! | broken off, or no answer of ours | [`Broken`] | perhaps |
//! | no answer in time | [`TimedOut`] | perhaps |
//!
//! [`Unreachable`]: miroir_seams::PeerCallError::Unreachable
//! [`Refused`]: miroir_seams::PeerCallError::Refused
//! [`Broken`]: miroir_seams::PeerCallError::Broken
//! [`TimedOut`]: miroir_seams::PeerCallError::TimedOut

use std::time::Duration;

mod body;
mod client;
mod server;
#[cfg(test)]
mod tests;
mod tls;

pub use client::Link;
pub use server::serve;

/// Largest request or answer of a channel `journal/…`: a write's payload, whole, as large as a
/// journal takes one. Large ones are read into files.
pub const JOURNAL_BODY_BYTES_MAX: usize = u32::MAX as usize;
/// Largest request or answer of any other channel.
pub const BODY_BYTES_MAX: usize = 16 << 20;
/// Requests held in memory by a server at once, bytes, over all connections.
pub const BODIES_BYTES_MAX: usize = 512 << 20;
/// Smaller requests don't count: heartbeats must not wait for journal copies. With
/// [`CONNECTIONS_MAX`] they are at most 64 MiB.
const UNCOUNTED_BODY_BYTES_MAX: usize = 64 << 10;
/// How long a request waits for others to be done; less than callers wait for an answer.
const BODIES_WAIT: Duration = Duration::from_secs(3);
/// A request must have arrived whole in this time, and a second more for every
/// [`BODY_BYTES_PER_SECOND`].
const BODY_TIMEOUT: Duration = Duration::from_secs(60);
/// What any network between pods is expected to carry.
const BODY_BYTES_PER_SECOND: u64 = 10 << 20;

/// Connections that a server serves at once.
pub const CONNECTIONS_MAX: usize = 1024;
/// Connections in their handshake at once: strangers may hold as many.
const HANDSHAKES_MAX: usize = 256;
/// A handshake takes a few milliseconds; a stranger may hold a place for this long.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);
/// Connecting, handshake included; then the pod counts as unreachable.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A kept connection is used again within this time, and closed by the server after a longer one:
/// so a request rarely meets a connection that is just being closed.
const CLIENT_IDLE: Duration = Duration::from_secs(30);
/// Unused connections, and heads of requests that don't end, are closed after this time.
const SERVER_IDLE: Duration = Duration::from_secs(60);
/// Connections kept for each address.
const IDLE_PER_ADDRESS_MAX: usize = 16;
/// At the end, and when a secret is gone, calls under way have this long to finish.
const DRAIN: Duration = Duration::from_secs(5);
/// Longest refusal that is read, bytes.
const REFUSAL_BYTES_MAX: usize = 4096;
/// The byte a server sends to a client that it lets in.
const WELCOME: u8 = 1;

/// Largest body of a channel, both ways.
fn body_bytes_max(channel: &str) -> usize {
    if channel.starts_with("journal/") { JOURNAL_BODY_BYTES_MAX } else { BODY_BYTES_MAX }
}
