//! Sets up logging.

use std::io::IsTerminal;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Libraries that say at `info` what only their makers need. A filter given by the user that is
/// more than a level is taken as it is.
const QUIET: &str = "milli_core=warn,openraft=warn,sled=warn";

/// The filter for `level`: a bare level gets the libraries' own chatter taken out.
fn directives(level: &str) -> String {
    let is_level = level.chars().all(|c| c.is_ascii_alphabetic());
    let loud = ["debug", "trace"].contains(&level.to_ascii_lowercase().as_str());
    if is_level && !loud { format!("{level},{QUIET}") } else { level.to_owned() }
}

/// Sends log events to stderr. `level` is a level (`info`) or a filter (`info,miroir_node=debug`).
///
/// # Errors
/// When `level` is neither, or logging was already set up.
pub fn start(level: &str, format: LogFormat) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(directives(level))
        .with_context(|| format!("{level:?} is not a log level or filter"))?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let started = match format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("can't start logging: {error}"))
}
