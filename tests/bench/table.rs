//! Markdown tables of medians and ratios.

use std::fmt::Write as _;

use super::{ingest, search};

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
