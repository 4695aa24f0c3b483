//! `sim`: runs, replays, searches and shrinks simulated worlds. Each world runs in a fresh process,
//! so that process-wide state (actor ids, hash seeds, a planted bug) begins alike.

#[path = "sim/conform.rs"]
mod conform;
#[path = "sim/planted.rs"]
mod planted;
#[path = "sim/random.rs"]
mod random;
#[path = "sim/scale.rs"]
mod scale;
#[path = "sim/search.rs"]
mod search;
#[path = "sim/shrink.rs"]
mod shrink;
#[path = "sim/world.rs"]
mod world;

use std::io::Write;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};
use conform::ConformArguments;
use miroir_sim::run;
use miroir_sim::trace::{Interests, Trace};
use planted::PlantedArguments;
use scale::ScaleArguments;
use search::SearchArguments;
use world::World;

/// Runs allocate much, for checks above all.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Trace lines shown with a failure.
const LINES_SHOWN: usize = 60;
/// Seeds that CI tries beside the corpus.
const BUDGET_SEEDS: u64 = 40;
/// Seeds that failed once.
const CORPUS: &str = include_str!("../../corpus.txt");

#[derive(Parser)]
#[command(about = "Deterministic simulation of Miroir")]
struct Arguments {
    #[command(subcommand)]
    command: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Runs one world; the last line is the digest of its trace.
    Run {
        #[command(flatten)]
        world: World,
        /// Print every line of the trace.
        #[arg(long)]
        trace: bool,
        /// With `--trace`: only lines that have one of these, and faults. `actor=pod-1`, `doc=17`,
        /// `shard=3`, or any text.
        #[arg(long, requires = "trace", num_args = 1..)]
        only: Vec<String>,
        /// Print the pod's own logs to standard error, filtered as RUST_LOG is.
        #[arg(long)]
        log: Option<String>,
    },
    /// Runs one world twice, each in a process of its own, and compares the traces.
    Twice {
        #[command(flatten)]
        world: World,
    },
    /// Explores seeds until the time is up; prints how to replay each failure.
    Search(SearchArguments),
    /// Leaves out of a failing world what its failure does not need.
    Shrink {
        #[command(flatten)]
        world: World,
    },
    /// Plants bugs and counts the seeds until a check catches each; prints the table.
    Planted(PlantedArguments),
    /// Gossip of many pods: how soon they know of each other, and of deaths.
    Scale(ScaleArguments),
    /// Sends the same requests to the model node and to a running server, and compares.
    Conform(ConformArguments),
    /// What CI runs: the corpus and some fixed seeds, each twice.
    Budget,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Action::Run { world, trace, only, log } => {
            run_world(&world, trace.then(|| Interests::new(only)), log)
        }
        Action::Twice { world } => twice(&world),
        Action::Search(arguments) => search::search(&arguments),
        Action::Shrink { world } => shrink::shrink(world),
        Action::Planted(arguments) => planted::planted(&arguments),
        Action::Scale(arguments) => scale::scale(&arguments),
        Action::Conform(arguments) => conform::conform(&arguments),
        Action::Budget => budget(),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::from(2)
        }
    }
}

static PANICS: AtomicUsize = AtomicUsize::new(0);

fn run_world(
    world: &World,
    prints: Option<Interests>,
    log: Option<String>,
) -> anyhow::Result<bool> {
    let seed = world.seed;
    random::seed(seed);
    if let Some(bug) = world.plant
        && !miroir_seams::planted::plant(bug)
    {
        bail!("bugs can be planted only in a build with debug assertions");
    }
    let report_panic = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        PANICS.fetch_add(1, Ordering::Relaxed);
        report_panic(panic);
    }));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .context("runtime")?;
    let held = runtime.block_on(async {
        let shows_end = prints.is_none();
        let trace = Trace::new(prints);
        // In any case: the world must be the same one whether somebody listens or not.
        print_logs(log.as_deref().unwrap_or("off"), trace.clone());
        let plan = world.plan();
        trace.note("plan", format!("{plan:?}"));
        let report = run::run(&plan, &trace).await;
        let (lines, digest) = trace.digest();
        let panics = PANICS.load(Ordering::Relaxed);
        let held = report.violations.is_empty() && panics == 0;
        if !held && shows_end {
            for line in trace.recent(LINES_SHOWN, |_| true) {
                println!("{line}");
            }
        }
        for violation in &report.violations {
            println!("VIOLATED {violation}");
        }
        if panics > 0 {
            println!("VIOLATED nothing_panics: {panics} panics");
        }
        if !held {
            println!("replay: sim run {} --trace", world.arguments().join(" "));
        }
        println!(
            "counts ops {} faults {} podfaults {} messages {} reads {}",
            report.operations, report.faults, report.pod_faults, report.messages, report.reads
        );
        println!(
            "seed {seed} pods {} {} tasks {} virtual {} s lines {lines} digest {digest:016x}",
            plan.pods,
            if held { "ok" } else { "FAILED" },
            report.tasks,
            report.virtual_ms / 1000,
        );
        held
    });
    std::io::stdout().flush().context("standard output")?;
    // Nothing is left to be saved, and ending every task in order takes time.
    runtime.shutdown_background();
    Ok(held)
}

fn print_logs(filter: &str, trace: Trace) {
    struct VirtualTime(Trace);
    impl tracing_subscriber::fmt::time::FormatTime for VirtualTime {
        fn format_time(
            &self,
            w: &mut tracing_subscriber::fmt::format::Writer<'_>,
        ) -> std::fmt::Result {
            write!(w, "{:>8}", self.0.now_ms())
        }
    }
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(filter))
        .with_writer(std::io::stderr)
        .with_timer(VirtualTime(trace))
        .with_ansi(false)
        .init();
}

fn twice(world: &World) -> anyhow::Result<bool> {
    let first = world.child(true)?.spawn().context("first run")?;
    let second = world.child(true)?.output().context("second run")?;
    let first = first.wait_with_output().context("first run")?;
    if first.stdout != second.stdout {
        let (a, b) =
            (String::from_utf8_lossy(&first.stdout), String::from_utf8_lossy(&second.stdout));
        let different = a.lines().zip(b.lines()).find(|(a, b)| a != b);
        println!("seed {} is not deterministic; first difference:\n{different:#?}", world.seed);
        return Ok(false);
    }
    let text = String::from_utf8_lossy(&first.stdout);
    for line in text.lines().filter(|line| line.starts_with("VIOLATED")) {
        println!("{line}");
    }
    println!("{}", text.lines().last().unwrap_or("no output"));
    Ok(first.status.success())
}

/// The world of a line of the corpus: `seed/pods`, or `seed` alone.
fn corpus_world(line: &str) -> Option<World> {
    let first = line.split_whitespace().next()?;
    match first.split_once('/') {
        Some((seed, pods)) => Some(World::of(seed.parse().ok()?, Some(pods.parse().ok()?))),
        None => Some(World::of(first.parse().ok()?, None)),
    }
}

fn budget() -> anyhow::Result<bool> {
    let corpus: Vec<World> = CORPUS.lines().filter_map(corpus_world).collect();
    if corpus.is_empty() {
        bail!("the corpus is empty");
    }
    let fixed = 1_000_000..1_000_000 + BUDGET_SEEDS;
    let fixed = fixed.map(|seed| World::of(seed, None));
    let mut all_held = true;
    for world in corpus.into_iter().chain(fixed) {
        all_held &= twice(&world)?;
    }
    Ok(all_held)
}
