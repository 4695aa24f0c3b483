//! `sim scale`: gossip of many pods, its figures as a table.

use std::time::Duration;

use anyhow::Context;
use clap::Args;
use miroir_membership::gossip::INTERVAL;
use miroir_sim::scale::{Scale, run};

use crate::random;

/// How many pods, and how they gossip.
#[derive(Clone, Debug, Args)]
pub struct ScaleArguments {
    /// Pods; several numbers make several rows.
    #[arg(long, num_args = 1.., default_values_t = [3, 100])]
    pub pods: Vec<usize>,
    /// Between two rounds of a pod, milliseconds, instead of the program's.
    #[arg(long)]
    pub interval_ms: Option<u64>,
    /// Stalls of a second, each of a hundredth of the pods.
    #[arg(long, default_value_t = 20)]
    pub stalls: u32,
    /// The seed.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// Prints the table; false when some pods never knew of all.
pub fn scale(arguments: &ScaleArguments) -> anyhow::Result<bool> {
    random::seed(arguments.seed);
    let interval = arguments.interval_ms.map_or(INTERVAL, Duration::from_millis);
    println!(
        "| pods | round every | all know all after | stalls of 1 s | taken for dead | death known to \
         half, to all | return known to all | roles moved / of the dead / in all | each pod sends |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    let mut all_converged = true;
    for pods in &arguments.pods {
        let scale = Scale { pods: *pods, interval, stalls: arguments.stalls, seed: arguments.seed };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .context("runtime")?;
        let figures = runtime.block_on(run(scale))?;
        runtime.shutdown_background();
        all_converged &= figures.converged_ms.is_some();
        let time = |ms: Option<u64>| match ms {
            Some(ms) => format!("{}.{:02} s", ms / 1000, ms % 1000 / 10),
            None => "never".to_owned(),
        };
        println!(
            "| {pods} | {} ms | {} | {} | {} | {}, {} | {} | {} / {} / {} | {}/s, {} KiB/s |",
            interval.as_millis(),
            time(figures.converged_ms),
            figures.stalled,
            figures.false_deaths,
            time(figures.half_noticed_ms),
            time(figures.all_noticed_ms),
            time(figures.returned_ms),
            figures.moved,
            figures.needed,
            figures.roles,
            figures.datagrams_per_second,
            figures.bytes_per_second / 1024,
        );
    }
    Ok(all_converged)
}
