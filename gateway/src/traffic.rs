//! What a pod counts: the requests that it answers, and those that it sends to nodes.
//!
//! Owns: a histogram of durations for each kind of either. A request looks up its kind in a map that
//! is replaced when a new kind comes, a few dozen times in a pod's life, and adds to numbers of its own:
//! no lock is taken. [`crate::metrics`] reads them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use http::{Method, Response};
use miroir_seams::{Clock, NodeCall, NodeTransport, TransportError};

use crate::router::{KeyRoute, LogRoute, Route};

/// Upper ends of the classes that durations are counted in, seconds.
pub(crate) const BOUNDS: [f64; 13] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// How long requests of one kind took.
#[derive(Debug, Default)]
pub(crate) struct Durations {
    /// By the first bound that is not below; the last is for what took longer than all.
    classes: [AtomicU64; BOUNDS.len() + 1],
    nanoseconds: AtomicU64,
}

impl Durations {
    fn add(&self, took: Duration) {
        let class = BOUNDS.partition_point(|bound| *bound < took.as_secs_f64());
        if let Some(class) = self.classes.get(class) {
            class.fetch_add(1, Ordering::Relaxed);
        }
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    /// The sum, and how many were in each class.
    pub(crate) fn read(&self) -> (Duration, Vec<u64>) {
        let classes = self.classes.iter().map(|class| class.load(Ordering::Relaxed));
        (Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed)), classes.collect())
    }
}

/// Histograms by kind.
#[derive(Debug)]
struct Kinds<K>(ArcSwap<BTreeMap<K, Arc<Durations>>>);

impl<K> Default for Kinds<K> {
    fn default() -> Self {
        Self(ArcSwap::default())
    }
}

impl<K: Ord + Clone> Kinds<K> {
    fn add(&self, kind: &K, took: Duration) {
        if let Some(durations) = self.0.load().get(kind) {
            return durations.add(took);
        }
        self.0.rcu(|kinds| {
            let mut kinds = BTreeMap::clone(kinds);
            kinds.entry(kind.clone()).or_default();
            kinds
        });
        if let Some(durations) = self.0.load().get(kind) {
            durations.add(took);
        }
    }
}

/// A kind of requests that a pod answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Answered {
    /// `other` for methods that no route has.
    pub(crate) method: &'static str,
    /// With `{names}` for its parts, as the OpenAPI document has it.
    pub(crate) path: &'static str,
    /// HTTP status.
    pub(crate) status: u16,
}

/// A kind of requests that a pod sends.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Called {
    /// The node's address.
    pub(crate) base: String,
    /// The status, or why there is none.
    pub(crate) outcome: &'static str,
}

/// All that is counted. One for each pod.
#[derive(Debug, Default)]
pub struct Traffic {
    answered: Kinds<Answered>,
    called: Kinds<Called>,
    /// Requests being served.
    pub(crate) in_flight: AtomicUsize,
    /// Answers that miss something, or may be too old, and say so.
    degraded: AtomicU64,
    /// Requests that were refused because too many were being served.
    refused: AtomicU64,
}

impl Traffic {
    /// A request has its answer.
    pub(crate) fn note_answered(
        &self,
        method: &Method,
        path: &'static str,
        status: u16,
        took: Duration,
    ) {
        self.answered.add(&Answered { method: name_of(method), path, status }, took);
    }

    pub(crate) fn note_degraded(&self) {
        self.degraded.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn note_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// What was answered, by kind.
    pub(crate) fn answered(&self) -> Vec<(Answered, Arc<Durations>)> {
        self.answered.0.load().iter().map(|(kind, durations)| (*kind, durations.clone())).collect()
    }

    /// What nodes were asked, by kind.
    pub(crate) fn called(&self) -> Vec<(Called, Arc<Durations>)> {
        let called = self.called.0.load();
        called.iter().map(|(kind, durations)| (kind.clone(), durations.clone())).collect()
    }

    /// Answers that said that they miss something or may be too old.
    pub(crate) fn degraded(&self) -> u64 {
        self.degraded.load(Ordering::Relaxed)
    }

    /// Requests that found too many others being served.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

fn name_of(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}

/// Counts what goes through another transport.
#[derive(Clone, Debug)]
pub struct CountedTransport {
    inner: Arc<dyn NodeTransport>,
    traffic: Arc<Traffic>,
    clock: Clock,
}

impl CountedTransport {
    /// Counts in `traffic` what goes through `inner`.
    pub fn new(inner: Arc<dyn NodeTransport>, traffic: Arc<Traffic>, clock: Clock) -> Self {
        Self { inner, traffic, clock }
    }
}

#[async_trait]
impl NodeTransport for CountedTransport {
    async fn send(&self, call: NodeCall) -> Result<Response<Bytes>, TransportError> {
        let (base, began) = (call.base.clone(), self.clock.instant());
        let answer = self.inner.send(call).await;
        let outcome = outcome_of(&answer);
        self.traffic.called.add(&Called { base, outcome }, began.elapsed());
        answer
    }
}

fn outcome_of(answer: &Result<Response<Bytes>, TransportError>) -> &'static str {
    match answer {
        Ok(answer) => match answer.status().as_u16() {
            ..300 => "2xx",
            300..400 => "3xx",
            400..500 => "4xx",
            _ => "5xx",
        },
        Err(TransportError::Unreachable(_) | TransportError::BadAddress(_)) => "unreachable",
        Err(TransportError::TimedOut(_)) => "timed_out",
        Err(TransportError::Broken(_)) => "broken",
        Err(TransportError::TooLarge(_)) => "too_large",
    }
}

/// A route as a label: its path without what clients name themselves. What no route has is one kind.
pub(crate) fn template(route: &Route) -> &'static str {
    match route {
        Route::Running => "/",
        Route::Health => "/health",
        Route::Version => "/version",
        Route::OpenApi => "/openapi.json",
        Route::Ready => "/_miroir/ready",
        Route::Search { .. } => "/indexes/{index_uid}/search",
        Route::FacetSearch { .. } => "/indexes/{index_uid}/facet-search",
        Route::Similar { .. } => "/indexes/{index_uid}/similar",
        Route::MultiSearch => "/multi-search",
        Route::ListDocuments { .. } => "/indexes/{index_uid}/documents",
        Route::FetchDocuments { .. } => "/indexes/{index_uid}/documents/fetch",
        Route::GetDocument { .. } => "/indexes/{index_uid}/documents/{document_id}",
        Route::IndexStats { .. } => "/indexes/{index_uid}/stats",
        Route::Stats => "/stats",
        Route::Log(route) => log_template(route),
        Route::Keys(KeyRoute::List | KeyRoute::Create) => "/keys",
        Route::Keys(_) => "/keys/{key}",
        Route::Admin(_) => "/_miroir/",
        Route::NotSupported(..) => "not supported",
        Route::WrongMethod | Route::Unknown => "unknown",
    }
}

fn log_template(route: &LogRoute) -> &'static str {
    match route {
        LogRoute::AddDocuments { .. } | LogRoute::DeleteAllDocuments { .. } => {
            "/indexes/{index_uid}/documents"
        }
        LogRoute::DeleteDocument { .. } => "/indexes/{index_uid}/documents/{document_id}",
        LogRoute::DeleteDocumentBatch { .. } => "/indexes/{index_uid}/documents/delete-batch",
        LogRoute::DeleteDocumentsByFilter { .. } => "/indexes/{index_uid}/documents/delete",
        LogRoute::EditDocuments { .. } => "/indexes/{index_uid}/documents/edit",
        LogRoute::ListIndexes | LogRoute::CreateIndex => "/indexes",
        LogRoute::GetIndex { .. } | LogRoute::UpdateIndex { .. } | LogRoute::DeleteIndex { .. } => {
            "/indexes/{index_uid}"
        }
        LogRoute::SwapIndexes => "/swap-indexes",
        LogRoute::GetSettings { .. }
        | LogRoute::ChangeSettings { .. }
        | LogRoute::ResetSettings { .. } => "/indexes/{index_uid}/settings",
        LogRoute::GetSetting { .. }
        | LogRoute::ChangeSetting { .. }
        | LogRoute::ResetSetting { .. } => "/indexes/{index_uid}/settings/{setting}",
        LogRoute::ListTasks | LogRoute::DeleteTasks => "/tasks",
        LogRoute::GetTask { .. } => "/tasks/{task_uid}",
        LogRoute::GetTaskDocuments { .. } => "/tasks/{task_uid}/documents",
        LogRoute::CancelTasks => "/tasks/cancel",
        LogRoute::ListBatches => "/batches",
        LogRoute::GetBatch { .. } => "/batches/{batch_uid}",
        LogRoute::GetFeatures | LogRoute::SwitchFeatures => "/experimental-features",
        LogRoute::ListWebhooks | LogRoute::CreateWebhook => "/webhooks",
        LogRoute::GetWebhook { .. }
        | LogRoute::UpdateWebhook { .. }
        | LogRoute::DeleteWebhook { .. } => "/webhooks/{webhook_uuid}",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_counts_in_the_first_class_that_it_does_not_exceed() {
        let durations = Durations::default();
        for milliseconds in [0, 1, 2, 10, 11, 60_000] {
            durations.add(Duration::from_millis(milliseconds));
        }
        let (sum, classes) = durations.read();
        assert_eq!(sum, Duration::from_millis(60_024));
        assert_eq!(classes, [2, 1, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    }

    #[test]
    fn kinds_are_counted_apart_also_when_they_come_at_the_same_time() {
        let traffic = Traffic::default();
        std::thread::scope(|scope| {
            for status in [200, 200, 404, 503] {
                let traffic = &traffic;
                scope.spawn(move || {
                    for _ in 0..1000 {
                        traffic.note_answered(&Method::GET, "/stats", status, Duration::ZERO);
                    }
                });
            }
        });
        let counted: Vec<(u16, u64)> = traffic
            .answered()
            .iter()
            .map(|(kind, durations)| (kind.status, durations.read().1.iter().sum()))
            .collect();
        assert_eq!(counted, [(200, 2000), (404, 1000), (503, 1000)]);
    }
}
