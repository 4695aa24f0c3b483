//! Cross-crate proof, against real processes and any URL that speaks Meilisearch's API.
//!
//! | part | what it shows |
//! |---|---|
//! | [`oracle`] | one node and a cluster give the same answers to generated queries |
//! | [`processes`] | real processes that can be killed |
//! | [`client`] | a small HTTP client |
//!
//! The integration tests in `tests/` start the `miroir` binary (see
//! [`processes::miroir_binary`]) and use only its HTTP API.

pub mod client;
pub mod oracle;
pub mod processes;
