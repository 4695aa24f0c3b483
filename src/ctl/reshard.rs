//! `miroir ctl reshard`: another number of shards for an index, and how far that is.

use std::time::Duration;

use anyhow::bail;
use clap::Args;
use http::Method;
use miroir_gateway::reshard::{NewShards, ReshardState, ReshardView};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::client::AdminClient;
use super::topology::bar;
use super::views::duration;

/// Between looks at how far it is.
const LOOK: Duration = Duration::from_secs(1);
/// Questions in a row that may fail: while leadership is handed over, say.
const FAILURES_MAX: u32 = 10;

/// Arguments of `miroir ctl reshard`.
#[derive(Debug, Args)]
pub struct ReshardArgs {
    /// The index.
    #[arg(value_name = "INDEX")]
    index: String,
    /// How many shards it is to have. Without it, how far a resharding is.
    #[arg(value_name = "SHARDS", conflicts_with = "abandon")]
    shards: Option<u32>,
    /// Give the resharding under way up: the index goes back to the shards it had.
    #[arg(long)]
    abandon: bool,
    /// Only print what would be done.
    #[arg(long, requires = "shards", conflicts_with = "watch")]
    dry_run: bool,
    /// Wait until it is done.
    #[arg(long)]
    watch: bool,
}

/// Carries out the command; the pod's answer as JSON, and for people.
///
/// # Errors
/// When a pod refuses or can't be asked.
pub async fn reshard(client: &AdminClient, args: ReshardArgs) -> anyhow::Result<(String, String)> {
    let index = utf8_percent_encode(&args.index, NON_ALPHANUMERIC);
    let path = format!("/_miroir/indexes/{index}/reshard");
    let (mut body, mut view) = match args.shards {
        Some(shards) => {
            let order = format!("{path}?dryRun={}", args.dry_run);
            client.send_json(Method::POST, &order, &NewShards { shards }).await?
        }
        None if args.abandon => client.ask::<ReshardView>(Method::DELETE, &path).await?,
        None => client.ask::<ReshardView>(Method::GET, &path).await?,
    };
    if args.watch {
        (body, view) = wait(client, &path).await?;
    }
    Ok((body, format!("{}\n", line(&view))))
}

/// Waits until nothing is under way; says on standard error how far it is.
async fn wait(client: &AdminClient, path: &str) -> anyhow::Result<(String, ReshardView)> {
    let (mut failures, mut said) = (0, String::new());
    loop {
        match client.ask::<ReshardView>(Method::GET, path).await {
            Ok((body, view)) => {
                failures = 0;
                let now = line(&view);
                if now != said {
                    eprintln!("{now}");
                    said = now;
                }
                if view.state == ReshardState::Idle && view.target.is_none() {
                    return Ok((body, view));
                }
            }
            Err(error) if failures >= FAILURES_MAX => bail!(error),
            Err(_) => failures += 1,
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// How far it is, in a line.
fn line(view: &ReshardView) -> String {
    let shards = format!("{} has {} shards", view.index, view.shards);
    let Some(target) = view.target else {
        return match view.state {
            ReshardState::Settling => format!("{shards}, the former ones are being forgotten"),
            _ => shards,
        };
    };
    if view.dry_run {
        let documents = view.documents.map_or_else(|| "all".to_owned(), |n| n.to_string());
        let step = view.step.filter(|step| *step != target);
        let through = step.map_or_else(String::new, |step| format!(" through {step}"));
        return format!(
            "{shards}; would divide it into {target}{through}, marking {documents} documents, copies included"
        );
    }
    let what = if view.abandoned { ", given up: back to" } else { ", on the way to" };
    let step = match view.step {
        Some(step) if step != target => format!(" through {step}"),
        _ => String::new(),
    };
    let left = view.seconds_left.map_or_else(String::new, |s| format!(", {} left", duration(s)));
    let silent = match view.silent_nodes.len() {
        0 => String::new(),
        _ => format!(", no answer from {}", view.silent_nodes.join(", ")),
    };
    let state = match view.state {
        ReshardState::Marking => {
            let (all, rest) = (view.documents.unwrap_or(0), view.documents_left.unwrap_or(0));
            let done = all.saturating_sub(rest);
            format!("{} {done} of {all} documents marked{left}", bar(done, all))
        }
        ReshardState::Gathering => "every document is marked, shards move together".to_owned(),
        ReshardState::Switching => "every document is marked, about to switch".to_owned(),
        ReshardState::Settling | ReshardState::Idle => "about to go on".to_owned(),
    };
    format!("{shards}{what} {target}{step}: {state}{silent}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view() -> ReshardView {
        ReshardView {
            index: "films".into(),
            shards: 16,
            target: Some(24),
            step: Some(48),
            abandoned: false,
            state: ReshardState::Marking,
            documents: Some(200),
            documents_left: Some(150),
            silent_nodes: vec!["n-2".into()],
            began_at: None,
            seconds_left: Some(61),
            dry_run: false,
        }
    }

    #[test]
    fn a_resharding_is_shown_in_a_line() {
        let said = line(&view());
        assert!(
            said.starts_with("films has 16 shards, on the way to 24 through 48: [#######"),
            "{said}"
        );
        assert!(
            said.ends_with("50 of 200 documents marked, 1m 1s left, no answer from n-2"),
            "{said}"
        );
        let done = ReshardView { target: None, step: None, state: ReshardState::Idle, ..view() };
        assert_eq!(line(&done), "films has 16 shards");
        let dry = ReshardView { dry_run: true, ..view() };
        assert!(line(&dry).ends_with("into 24 through 48, marking 200 documents, copies included"));
    }
}
