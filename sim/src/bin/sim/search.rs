//! `sim search`: explores seeds until the time is up.
//!
//! Says how many of the worlds were worth the name: long enough, with enough writes and faults.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::Context;
use clap::Args;

use crate::world::World;

/// What a world must have to be counted as whole: virtual seconds, writes of clients, faults.
const SECONDS_MIN: u64 = 300;
const OPERATIONS_MIN: u64 = 200;
const FAULTS_MIN: u64 = 5;

/// Where to look, and for how long.
#[derive(Clone, Debug, Args)]
pub struct SearchArguments {
    /// No world is begun after so many minutes.
    #[arg(long)]
    pub minutes: f64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    pub from: u64,
    /// The number of pods, instead of the seeds' own.
    #[arg(long)]
    pub pods: Option<usize>,
    /// Worlds run side by side.
    #[arg(long, default_value_t = 2)]
    pub jobs: usize,
    /// Go on after failures.
    #[arg(long)]
    pub keep_going: bool,
}

/// Runs worlds and prints what failed, with how to replay it; false when any did.
#[allow(clippy::disallowed_methods)] // Real time: it limits a search, nothing inside a run.
pub fn search(arguments: &SearchArguments) -> anyhow::Result<bool> {
    let SearchArguments { minutes, from, pods, jobs, keep_going } = *arguments;
    let time = Duration::from_secs_f64(minutes.max(0.0) * 60.0);
    let started = std::time::Instant::now();
    let mut running = VecDeque::new();
    let (mut next, mut done, mut failed, mut whole) = (from, 0u64, 0u64, 0u64);
    loop {
        let more = started.elapsed() < time && (failed == 0 || keep_going);
        while more && running.len() < jobs.max(1) {
            let child = World::of(next, pods).child(false)?.spawn().context("run")?;
            running.push_back((next, child));
            next += 1;
        }
        let Some((seed, process)) = running.pop_front() else { break };
        let output = process.wait_with_output().context("run")?;
        let text = String::from_utf8_lossy(&output.stdout);
        done += 1;
        whole += u64::from(is_whole(&text));
        if output.status.success() {
            continue;
        }
        failed += 1;
        if !keep_going {
            println!("{text}");
            continue;
        }
        for line in text.lines().filter(|line| line.starts_with("VIOLATED")).take(2) {
            println!("seed {seed}: {line}");
        }
        if !text.contains("VIOLATED") {
            println!("seed {seed}: ended with {}", output.status);
        }
    }
    println!(
        "{done} seeds from {from}, {failed} failed; {whole} with {SECONDS_MIN} virtual seconds, \
         {OPERATIONS_MIN} writes and {FAULTS_MIN} faults or more"
    );
    Ok(failed == 0)
}

/// Whether a run's last lines say that its world was whole.
fn is_whole(text: &str) -> bool {
    let number_after = |name: &str| -> u64 {
        let mut words = text.lines().rev().take(2).flat_map(str::split_whitespace);
        words.find(|word| *word == name);
        words.next().and_then(|number| number.parse().ok()).unwrap_or(0)
    };
    let faults = number_after("faults") + number_after("podfaults") + number_after("messages");
    number_after("virtual") >= SECONDS_MIN
        && number_after("ops") >= OPERATIONS_MIN
        && faults >= FAULTS_MIN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_world_is_whole_by_what_its_run_says() {
        let said = |seconds: u64, faults: u64| {
            format!(
                "counts ops 210 faults {faults} podfaults 3 messages 0 reads 4\n\
                 seed 1 pods 3 ok tasks 9 virtual {seconds} s lines 7 digest 0"
            )
        };
        assert!(is_whole(&said(300, 2)));
        assert!(!is_whole(&said(300, 1)));
        assert!(!is_whole(&said(299, 2)));
    }
}
