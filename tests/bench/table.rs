//! Markdown tables of medians and ratios.

use std::fmt::Write as _;

use std::time::Duration;

use super::{ingest, pods, search};

/// The median; 0 of nothing.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// Names in the order of their first appearance.
fn names(all: impl Iterator<Item = String>) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for name in all {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// Medians over rounds and ratios to the first target.
pub fn search_table(clients: usize, rounds: &[search::Round], queries: usize) -> String {
    let targets = names(rounds.iter().map(|round| round.target.clone()));
    let watched =
        names(rounds.iter().flat_map(|round| &round.cpu_per_query).map(|(name, _)| name.clone()));
    let mut text = format!(
        "{clients} client(s), {queries} queries, median of {} rounds\n\n",
        rounds.len() / targets.len().max(1)
    );
    let cpu_heads: String =
        watched.iter().map(|name| format!(" CPU ms/query of {name} |")).collect();
    let cpu_rules = "---:|".repeat(watched.len());
    let _never_fails = writeln!(
        text,
        "| target | p50 ms | x | p99 ms | x | queries/s | x |{cpu_heads}\n\
         |---|---:|---:|---:|---:|---:|---:|{cpu_rules}"
    );
    let of = |target: &str, value: &dyn Fn(&search::Round) -> f64| {
        median(rounds.iter().filter(|round| round.target == target).map(value).collect())
    };
    let first = targets.first().cloned().unwrap_or_default();
    for target in &targets {
        let mut row = format!("| {target} |");
        let columns: [&dyn Fn(&search::Round) -> f64; 3] = [
            &|round| round.p50.as_secs_f64() * 1e3,
            &|round| round.p99.as_secs_f64() * 1e3,
            &|round| round.rate,
        ];
        for column in columns {
            let value = of(target, column);
            let _never_fails = write!(row, " {value:.3} | {:.2} |", value / of(&first, column));
        }
        for name in &watched {
            let value = of(target, &|round| {
                let found = round.cpu_per_query.iter().find(|(known, _)| known == name);
                found.map_or(0.0, |(_, seconds)| seconds * 1e3)
            });
            let _never_fails = write!(row, " {value:.3} |");
        }
        let _never_fails = writeln!(text, "{row}");
    }
    text
}

/// Medians over rounds and the rate's ratio to the first target.
pub fn ingest_table(rounds: &[ingest::Round], documents: usize) -> String {
    let targets = names(rounds.iter().map(|round| round.target.clone()));
    let mut text = format!(
        "{documents} documents, median of {} rounds\n\n| target | seconds | documents/s | x |\n|---|---:|---:|---:|\n",
        rounds.len() / targets.len().max(1)
    );
    let seconds = |target: &str| {
        let of = rounds.iter().filter(|round| round.target == target);
        median(of.map(|round| round.took.as_secs_f64()).collect())
    };
    let first = targets.first().map_or(0.0, |target| seconds(target));
    for target in &targets {
        let took = seconds(target);
        let _never_fails = writeln!(
            text,
            "| {target} | {took:.2} | {:.0} | {:.2} |",
            documents as f64 / took,
            first / took
        );
    }
    text
}

/// The value below which the share `share` of `times` lies, milliseconds; 0 of nothing.
fn percentile(times: &[Duration], share: f64) -> f64 {
    let mut times = times.to_vec();
    times.sort_unstable();
    let place = ((times.len() as f64 * share).ceil() as usize).saturating_sub(1);
    times.get(place).map_or(0.0, |time| time.as_secs_f64() * 1e3)
}

/// Figures of three pods with their bars; above 1.00, the ratio misses the bar.
pub fn pods_table(measured: &pods::Measured) -> String {
    let most = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
    let (single, killed, stopped) = (&measured.single, &measured.killed, &measured.handed_over);
    let rows: [(String, f64, Option<f64>); 10] = [
        (
            format!("one small write, ms, p50 of {}", single.len()),
            percentile(single, 0.5),
            Some(10.0),
        ),
        ("the same, p99".to_owned(), percentile(single, 0.99), None),
        // A rate is better when it is higher: the time for one is what is compared.
        (
            format!("time a write with {} writers, ms", measured.writers),
            1e3 / measured.rate.max(f64::MIN_POSITIVE),
            Some(1.0),
        ),
        (
            "idle CPU of a pod, % of a core, most".to_owned(),
            most(&measured.idle) * 100.0,
            Some(2.0),
        ),
        (
            format!("roles of a killed pod, ms, p50 of {}", killed.len()),
            percentile(killed, 0.5),
            None,
        ),
        ("the same, p99".to_owned(), percentile(killed, 0.99), Some(5_000.0)),
        ("the same, longest".to_owned(), percentile(killed, 1.0), None),
        (
            format!("roles of a stopping pod, ms, p50 of {}", stopped.len()),
            percentile(stopped, 0.5),
            None,
        ),
        ("the same, p99".to_owned(), percentile(stopped, 0.99), Some(1_000.0)),
        ("the same, longest".to_owned(), percentile(stopped, 1.0), None),
    ];
    let mut text = format!(
        "three pods, one node; {:.0} writes/s with {} writers; idle CPU of the pods {:.1?} %\n\n\
         | what | measured | bar | x |\n|---|---:|---:|---:|\n",
        measured.rate,
        measured.writers,
        measured.idle.iter().map(|share| share * 100.0).collect::<Vec<_>>(),
    );
    for (what, value, bar) in rows {
        let _never_fails = match bar {
            Some(bar) => writeln!(text, "| {what} | {value:.2} | {bar} | {:.2} |", value / bar),
            None => writeln!(text, "| {what} | {value:.2} | | |"),
        };
    }
    text
}
