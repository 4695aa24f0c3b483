//! The oracle: the same documents and settings in one node (the reference) and in a cluster
//! (the subject); generated queries must give the same answers, ties aside.
//!
//! | part | does |
//! |---|---|
//! | [`documents`] | reads documents and adds derived fields: geo, mixed types, vectors … |
//! | [`profile`] | what the documents hold, so that queries ask for things that exist |
//! | [`variants`] | the index settings that are tried, each an index of its own |
//! | [`queries`], [`filters`], [`words`] | seeded generation: one number gives one query |
//! | [`routes`] | facet search, similar documents, federation |
//! | [`order`] | when are two lists of hits the same, ties aside |
//! | [`compare`] | when are two answers the same |
//! | [`judge`](mod@judge) | asks both sides, and the reference again about ties |
//! | [`excuse`](mod@excuse) | which differences sharding makes, shown case by case |
//! | [`shrink`] | the smallest query that still differs |
//! | [`run`] | loads both sides, runs a seed, counts and prints |
//!
//! A case is *strict* (no difference is allowed) or *rate*: its mechanism is not independent
//! of sharding (frequencies of words, early exits, caps), so only the share of agreement is
//! reported. A strict case may be *excused*, when both sides show in their ranking details or
//! marks that the engine judges a document by what stands beside it; few may.

pub mod compare;
pub mod documents;
pub mod excuse;
pub mod filters;
pub mod judge;
pub mod order;
pub mod profile;
pub mod queries;
pub mod routes;
pub mod run;
pub mod shrink;
pub mod variants;
pub mod words;

use serde_json::{Map, Value};

/// A JSON object with its keys in order.
pub type Object = Map<String, Value>;

/// Whether a difference is a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Every difference is a failure.
    Strict,
    /// Differences are counted only.
    Rate,
}

/// Which route a case asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// `POST /indexes/{uid}/search`.
    Search,
    /// `POST /multi-search`; every query of the body carries its `indexUid`.
    MultiSearch,
    /// `POST /indexes/{uid}/documents/fetch`; without a sort the order is the server's own.
    Documents,
    /// `POST /indexes/{uid}/facet-search`.
    FacetSearch,
    /// `POST /indexes/{uid}/similar`.
    Similar,
    /// `POST /multi-search` with `federation`.
    Federation,
}

/// One generated question.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// Its number under the run's seed.
    pub number: u64,
    /// The index it asks; unused for [`Route::MultiSearch`] and
    /// [`Route::Federation`].
    pub index: String,
    /// The route.
    pub route: Route,
    /// The body sent.
    pub body: Object,
    /// Whether a difference is a failure.
    pub class: Class,
    /// What the case exercises, for the report.
    pub labels: Vec<&'static str>,
}
