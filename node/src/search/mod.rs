//! Searching an index, and reading documents out of it.
//!
//! [`search`] runs one query on the engine and writes the answer as Meilisearch does:
//!
//! | file | what |
//! |---|---|
//! | [`permits`] | how many searches run and wait |
//! | [`execute`] | query to engine, result to answer |
//! | [`kind`] | by words, by vectors, or both |
//! | [`filter`] | reading filters |
//! | [`hits`], [`stored`], [`raw_json`], [`select`] | document ids to hits |
//! | [`format`] | `_formatted`, `_matchesPosition` |
//! | [`facets`], [`geo`] | facet counts, `_geoDistance` |
//! | [`federate`], [`weighted`] | the hits of several queries as one list |
//! | [`facet_values`] | the values of a facet |
//! | [`mod@similar`] | documents similar to another |
//! | [`documents`] | documents without a search |
//!
//! Everything but the permits is synchronous and belongs on the blocking pool.

mod documents;
mod execute;
mod facet_values;
mod facets;
mod federate;
mod filter;
mod format;
mod geo;
mod hits;
mod kind;
mod permits;
mod raw_json;
mod select;
mod similar;
mod stored;
mod weighted;

pub(crate) use documents::{browse, document};
pub(crate) use execute::search;
pub(crate) use facet_values::facet_search;
pub(crate) use federate::federated_search;
pub(crate) use filter::read_filter;
pub(crate) use permits::SearchPermits;
pub(crate) use similar::similar;
