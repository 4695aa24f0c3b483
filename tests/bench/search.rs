//! Rounds of searches: every target answers the whole query file in each round.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use miroir_seams::{Clock, Tasks};
use miroir_tests::client::ApiFault;
use miroir_tests::processes::cpu_seconds;

use super::{BenchFault, Target};

/// One target's numbers in one round.
#[derive(Clone, Debug)]
pub struct Round {
    /// The target.
    pub target: String,
    /// Median latency.
    pub p50: Duration,
    /// 99th percentile.
    pub p99: Duration,
    /// Queries a second over all clients.
    pub rate: f64,
    /// CPU seconds that each watched process used per query.
    pub cpu_per_query: Vec<(String, f64)>,
}

/// Runs `rounds` rounds over all targets in turn, after one that warms up and is not counted.
pub async fn rounds(
    targets: &[Target],
    queries: &[Bytes],
    clients: usize,
    rounds: usize,
    pids: &[(String, u32)],
) -> Result<Vec<Round>, BenchFault> {
    let mut measured = Vec::new();
    for round in 0..=rounds {
        for target in targets {
            let result = one_round(target, queries, clients, pids).await?;
            if round > 0 {
                measured.push(result);
            }
        }
    }
    Ok(measured)
}

async fn one_round(
    target: &Target,
    queries: &[Bytes],
    clients: usize,
    pids: &[(String, u32)],
) -> Result<Round, BenchFault> {
    let clock = Clock::real();
    let queries: Arc<[Bytes]> = queries.into();
    let next = Arc::new(AtomicUsize::new(0));
    let cpu_before: Vec<Option<f64>> = pids.iter().map(|(_, pid)| cpu_seconds(*pid)).collect();
    let started = clock.instant();
    let tasks = Tasks::new();
    let workers: Vec<_> = (0..clients)
        .map(|_| {
            // A client of its own has a connection of its own.
            let asking = ask_all(target.clone(), queries.clone(), next.clone());
            tasks.spawn("bench client", asking)
        })
        .collect();
    let mut latencies = Vec::new();
    for worker in workers {
        latencies.extend(worker.await??);
    }
    let took = clock.instant() - started;
    let cpu_per_query = pids
        .iter()
        .zip(cpu_before)
        .filter_map(|((name, pid), before)| {
            let used = cpu_seconds(*pid)? - before?;
            Some((name.clone(), used / queries.len() as f64))
        })
        .collect();
    latencies.sort_unstable();
    let at = |share: f64| {
        let place = (latencies.len() as f64 * share) as usize;
        latencies.get(place.min(latencies.len().saturating_sub(1))).copied().unwrap_or_default()
    };
    Ok(Round {
        target: target.name.clone(),
        p50: at(0.5),
        p99: at(0.99),
        rate: latencies.len() as f64 / took.as_secs_f64(),
        cpu_per_query,
    })
}

/// One client: takes the next query until there is none.
async fn ask_all(
    target: Target,
    queries: Arc<[Bytes]>,
    next: Arc<AtomicUsize>,
) -> Result<Vec<Duration>, ApiFault> {
    let clock = Clock::real();
    let path = format!("/indexes/{}/search", target.index);
    let mut latencies = Vec::new();
    while let Some(query) = queries.get(next.fetch_add(1, Ordering::Relaxed)) {
        let started = clock.instant();
        let kind = Some("application/json");
        let answer = target.api.send(Method::POST, &path, kind, query.clone()).await?;
        latencies.push(clock.instant() - started);
        if answer.status != 200 {
            let body = String::from_utf8_lossy(&answer.bytes).into_owned();
            let (method, status) = (Method::POST, answer.status);
            return Err(ApiFault::Status { method, path, status, body });
        }
    }
    Ok(latencies)
}
