//! Meilisearch's HTTP API, version 1.15, as types: once, for the embedded node, the gateway and the tests.
//!
//! Everything here is pure: bytes in, values or an [`error::ApiError`] out. Error texts are part of the protocol
//! (SDKs and people match on them), so they are the very texts Meilisearch answers with.
//!
//! | module | what it knows |
//! |---|---|
//! | [`access`] | the master key, API keys and tenant tokens: who may ask what |
//! | [`error`] | codes, their status and type, the error object |
//! | [`content`] | content types, and cutting a payload into documents |
//! | [`document`] | reading one document: a value at a path, its id, which field is its primary key |
//! | [`reserved`] | the fields Miroir owns, and the shard tokens |
//! | [`engine_version`] | what differs between versions of nodes |
//! | [`settings`] | index settings: three-state fields, merge, defaults, sub-routes |
//! | [`search`] | search and multi-search queries |
//! | [`document_order`] | `sort` of a listing of documents |
//! | [`documents_query`] | listing, deleting and adding documents: their parameters |
//! | [`tasks`] | task views and filters |
//! | [`keys`] | API keys: actions, index patterns, requests, views |
//! | [`search_rules`] | what a tenant token allows to be searched |
//! | [`webhooks`] | whom to tell of tasks that have ended |
//! | [`features`] | experimental features |
//! | [`index`] | index uids, index views, statistics, version, health |

pub mod access;
pub mod content;
pub mod document;
pub mod document_order;
pub mod documents_query;
pub mod engine_version;
pub mod error;
pub mod features;
pub mod index;
mod json_scan;
pub mod keys;
mod parse;
pub mod reserved;
pub mod search;
pub mod search_rules;
pub mod settings;
pub mod tasks;
pub mod webhooks;
