//! Cross-crate proof, against real processes and any URL that speaks Meilisearch's API.
//!
//! | part | what it shows |
//! |---|---|
//! | [`oracle`] | one node and a cluster give the same answers to generated queries |
//! | [`processes`] | real processes that can be killed |
//! | [`pods`] | pods that a test kills and starts itself |
//! | [`traffic`] | writers and searchers that know what they were told |
//! | [`replicas`] | what a cluster shows, against what its nodes hold |
//! | [`namespaces`] | a network that can be cut |
//! | [`strangers`] | peers without the secret |
//! | [`alongside`] | one node alone and a cluster, asked the same |
//! | [`client`] | a small HTTP client |
//!
//! The integration tests in `tests/` start the `miroir` binary (see
//! [`processes::miroir_binary`]) and use only its HTTP API.

pub mod alongside;
pub mod client;
pub mod namespaces;
pub mod oracle;
pub mod pods;
pub mod processes;
pub mod replicas;
pub mod roles;
pub mod strangers;
pub mod traffic;
