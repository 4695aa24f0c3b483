//! `sim planted`: plants one bug after the other and counts the seeds until a check catches it.
//!
//! A seed counts as catching when it fails with the bug and not without it. The table is what this
//! command prints, nothing else.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, bail};
use clap::Args;
use miroir_seams::planted::{Bug, POSSIBLE};
use miroir_sim::plan::{SEEDS_KEPT, SEEDS_MOVING, SEEDS_RESHARDING};

use crate::world::World;

/// Those that show only where shards move.
const OF_MOVES: [Bug; 3] = [Bug::TakeAwayEarly, Bug::LeavingUnfiltered, Bug::LeaveBehind];
/// Those that show only where numbers of shards change.
const OF_RESHARDING: [Bug; 1] = [Bug::SwitchUnmarked];
/// The first seeds of two counts are this far apart.
const APART: u64 = 10_000;
/// Seeds that a bug may need on average (spec 04).
const NEEDED_MAX: u64 = 200;

/// What to plant, and how to count.
#[derive(Clone, Debug, Args)]
pub struct PlantedArguments {
    /// Only names the bugs.
    #[arg(long)]
    pub list: bool,
    /// Only these bugs.
    #[arg(long)]
    pub only: Vec<Bug>,
    /// Seeds to try for each count, at most.
    #[arg(long, default_value_t = 400)]
    pub seeds: u64,
    /// Counts for each bug, each from another first seed.
    #[arg(long, default_value_t = 5)]
    pub starts: u64,
    /// Worlds run side by side.
    #[arg(long, default_value_t = 2)]
    pub jobs: usize,
    /// Where to write the table; it is printed in any case.
    #[arg(long)]
    pub write: Option<PathBuf>,
}

/// One count: how many seeds until the catch, and the properties that failed.
#[derive(Clone, Debug)]
struct Count {
    seeds: u64,
    caught_by: Option<(u64, Vec<String>)>,
}

/// Runs all counts and prints the table; false when a bug is not caught in time.
pub fn planted(arguments: &PlantedArguments) -> anyhow::Result<bool> {
    if arguments.list {
        for bug in Bug::ALL {
            println!("{:<22} {}", bug.name(), bug.says());
        }
        return Ok(true);
    }
    if !POSSIBLE {
        bail!("bugs can be planted only in a build with debug assertions");
    }
    let bugs: Vec<Bug> = match arguments.only.is_empty() {
        true => Bug::ALL.to_vec(),
        false => arguments.only.clone(),
    };
    let work: Vec<(Bug, u64)> =
        bugs.iter().flat_map(|bug| (0..arguments.starts).map(|start| (*bug, start))).collect();
    let next = AtomicUsize::new(0);
    let counts = Mutex::new(BTreeMap::new());
    let worker = || -> anyhow::Result<()> {
        while let Some((bug, start)) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
            let base = match bug {
                bug if OF_MOVES.contains(bug) => SEEDS_MOVING,
                bug if OF_RESHARDING.contains(bug) => SEEDS_RESHARDING,
                _ => SEEDS_KEPT,
            };
            let first = base + 1 + start * APART;
            let count = count(*bug, first, arguments.seeds)?;
            eprintln!("{} from {first}: {count:?}", bug.name());
            let mut counts = counts.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            counts.insert((bug.name(), *start), count);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..arguments.jobs.max(1)).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|worker| match worker.join() {
            Ok(outcome) => outcome,
            Err(_) => bail!("a count panicked"),
        })
    })?;
    let counts = counts.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let (table, all_caught) = table(&bugs, &counts, arguments);
    print!("{table}");
    if let Some(path) = &arguments.write {
        std::fs::write(path, table).with_context(|| format!("can't write {}", path.display()))?;
    }
    Ok(all_caught)
}

fn count(bug: Bug, first: u64, seeds: u64) -> anyhow::Result<Count> {
    for seed in first..first + seeds {
        let world = World::of(seed, None);
        let with = World { plant: Some(bug), ..world.clone() }.outcome()?;
        if !with.held && world.outcome()?.held {
            let caught_by = Some((seed, with.violated()));
            return Ok(Count { seeds: seed - first + 1, caught_by });
        }
    }
    Ok(Count { seeds, caught_by: None })
}

fn table(
    bugs: &[Bug],
    counts: &BTreeMap<(&'static str, u64), Count>,
    arguments: &PlantedArguments,
) -> (String, bool) {
    let mut out = format!(
        "# Planted bugs\n\nMade by `sim planted --seeds {} --starts {}`; not written by hand. Each bug is planted \
         alone, and seeds are run from {} first seeds on until a check fails that holds without the bug.\n\n\
         | bug | what it does | caught by | seeds needed | mean | median |\n|---|---|---|---|---|---|\n",
        arguments.seeds, arguments.starts, arguments.starts
    );
    let mut all_caught = true;
    for bug in bugs {
        let of_bug: Vec<&Count> =
            counts.iter().filter(|((name, _), _)| *name == bug.name()).map(|(_, c)| c).collect();
        let mut needed: Vec<u64> = of_bug.iter().map(|count| count.seeds).collect();
        let shown: Vec<String> = of_bug
            .iter()
            .map(|count| match count.caught_by {
                Some(_) => count.seeds.to_string(),
                None => format!("over {}", count.seeds),
            })
            .collect();
        let mut checks: BTreeMap<&String, u64> = BTreeMap::new();
        for (_, found) in of_bug.iter().filter_map(|count| count.caught_by.as_ref()) {
            for check in found {
                *checks.entry(check).or_default() += 1;
            }
        }
        let checks: Vec<String> = checks.keys().map(|check| format!("`{check}`")).collect();
        needed.sort_unstable();
        let mean = needed.iter().sum::<u64>().div_ceil(needed.len().max(1) as u64);
        let median = needed.get(needed.len() / 2).copied().unwrap_or(0);
        let caught = of_bug.iter().all(|count| count.caught_by.is_some()) && mean <= NEEDED_MAX;
        all_caught &= caught;
        let _written = writeln!(
            out,
            "| `{}` | {} | {} | {} | {mean} | {median} |",
            bug.name(),
            bug.says(),
            checks.join(", "),
            shown.join(", "),
        );
    }
    (out, all_caught)
}
