//! What several pods cost and how soon they take over: latency and rate of small writes, CPU of
//! idle pods, roles of killed and of stopping pods.
//!
//! The cluster is started here, on free ports: three pods before one node, so that the node is not
//! what is measured. It takes about three minutes with the defaults.

use std::time::Duration;

use futures::future::join_all;
use miroir_seams::Tasks;
use miroir_tests::pods::Pod;
use miroir_tests::processes::{Cluster, cpu_seconds};
use miroir_tests::traffic::Traffic;
use rustix::process::Signal;
use tokio::time::Instant;

use super::{BenchFault, PodsArguments};

/// Indexes, whose writers are spread over the pods.
const INDEXES: [&str; 6] = ["amber", "basalt", "cobalt", "dune", "ember", "fjord"];
/// Before anything is measured, and between two moves of roles: so that all is at rest.
const REST: Duration = Duration::from_secs(2);
/// Before idleness is measured: the node finishes its tasks.
const SETTLE: Duration = Duration::from_secs(10);

/// What was measured.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// Of single writes, one at a time, from the request to the 202.
    pub single: Vec<Duration>,
    /// Writes acknowledged a second with many writers.
    pub rate: f64,
    /// How many writers those were.
    pub writers: usize,
    /// CPU of each idle pod, as a share of a core.
    pub idle: Vec<f64>,
    /// From the kill of a pod until every index carried out a write sent after it.
    pub killed: Vec<Duration>,
    /// The same from SIGTERM.
    pub handed_over: Vec<Duration>,
}

/// Starts the cluster and measures all of it.
///
/// # Errors
/// When the cluster does not start or a process can't be signalled.
pub async fn measure(arguments: &PodsArguments) -> Result<Measured, BenchFault> {
    let directory = tempfile::tempdir().map_err(BenchFault::Directory)?;
    let shape = ["--pods", "3", "--nodes", "1", "--groups", "1", "--rf", "1", "--no-respawn"];
    let cluster = Cluster::start(directory.path(), &shape).await?;
    let mut pods = Pod::all_of(&cluster);
    let urls = cluster.ready.pods.iter().map(|pod| pod.url.as_str());
    let traffic = Traffic::new(urls, &cluster.ready.master_key);
    probe_all(&traffic, 0).await;
    tokio::time::sleep(REST).await;

    let mut measured = Measured { writers: arguments.writers, ..Measured::default() };
    for n in 0..arguments.writes {
        measured.single.push(traffic.write_one(INDEXES[n % INDEXES.len()], n).await);
    }
    measured.rate = many_writers(&traffic, arguments).await?;
    // The queue is worked off before anything else is looked at.
    probe_all(&traffic, 0).await;

    tokio::time::sleep(SETTLE).await;
    let used = |pods: &[Pod]| -> Vec<Option<f64>> {
        pods.iter().map(|pod| cpu_seconds(pod.member.pid)).collect()
    };
    let before = used(&pods);
    tokio::time::sleep(Duration::from_secs(arguments.idle_seconds)).await;
    for (before, after) in before.into_iter().zip(used(&pods)) {
        let seconds = after.unwrap_or_default() - before.unwrap_or_default();
        measured.idle.push(seconds / arguments.idle_seconds as f64);
    }

    measured.killed = move_roles(&mut pods, &traffic, Signal::KILL, arguments.kills).await?;
    measured.handed_over = move_roles(&mut pods, &traffic, Signal::TERM, arguments.stops).await?;
    Ok(measured)
}

/// How long every index took to carry out a write sent now, first to pod `first`.
async fn probe_all(traffic: &Traffic, first: usize) -> Duration {
    let begun = Instant::now();
    join_all(INDEXES.map(|index| traffic.probe(index, first))).await;
    begun.elapsed()
}

async fn many_writers(traffic: &Traffic, arguments: &PodsArguments) -> Result<f64, BenchFault> {
    let tasks = Tasks::new();
    let begun = Instant::now();
    let until = begun + Duration::from_secs(arguments.rate_seconds);
    let writers: Vec<_> = (0..arguments.writers)
        .map(|writer| {
            let traffic = traffic.clone();
            tasks.spawn("bench writer", async move {
                let mut count = 0u64;
                while Instant::now() < until {
                    traffic.write_one(INDEXES[writer % INDEXES.len()], writer).await;
                    count += 1;
                }
                count
            })
        })
        .collect();
    let mut count = 0;
    for writer in writers {
        count += writer.await?;
    }
    Ok(count as f64 / begun.elapsed().as_secs_f64())
}

async fn move_roles(
    pods: &mut [Pod],
    traffic: &Traffic,
    signal: Signal,
    times: usize,
) -> Result<Vec<Duration>, BenchFault> {
    let mut took = Vec::new();
    for n in 0..times {
        let at = n % pods.len();
        pods[at].signal(signal)?;
        took.push(probe_all(traffic, at + 1).await);
        pods[at].start_again().await?;
        tokio::time::sleep(REST).await;
    }
    Ok(took)
}
