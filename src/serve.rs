//! `miroir serve`: one pod in front of nodes that are already running.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use miroir_seams::Seams;

use crate::config::{Config, FlagValue};
use crate::data_lock::DataLock;
use crate::exit::{self, Refused};
use crate::{logs, wiring};

/// Arguments of `miroir serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// The YAML or TOML file; `miroir config print-defaults` shows every key.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    #[command(flatten)]
    overrides: Overrides,
    /// Stop when standard input is closed: how `miroir up` makes sure that nothing outlives it.
    #[arg(long, hide = true)]
    stop_with_stdin: bool,
}

/// Flags that win over file and variables.
#[derive(Debug, Args)]
pub struct Overrides {
    /// Where clients connect (server.http_addr).
    #[arg(long, value_name = "HOST:PORT")]
    http_addr: Option<SocketAddr>,
    /// Where the pod keeps its data (pod.data).
    #[arg(long, value_name = "DIR")]
    data: Option<String>,
    /// Log level or filter (log.level).
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// Any other key, for example `--set cluster.shards=128`. Not for secrets.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl Overrides {
    /// The flags as values by path.
    ///
    /// # Errors
    /// A `--set` without `=`.
    pub fn as_flags(&self) -> Result<Vec<FlagValue>, Refused> {
        let named = [
            ("--http-addr", "server.http_addr", self.http_addr.map(|addr| addr.to_string())),
            ("--data", "pod.data", self.data.clone()),
            ("--log-level", "log.level", self.log_level.clone()),
        ];
        let mut flags = Vec::new();
        for (flag, path, text) in named {
            if let Some(text) = text {
                flags.push(FlagValue { path: path.to_owned(), text, flag: flag.to_owned() });
            }
        }
        for pair in &self.set {
            let (path, text) = pair
                .split_once('=')
                .ok_or_else(|| Refused(format!("--set {pair:?} is not KEY=VALUE")))?;
            flags.push(FlagValue {
                path: path.to_owned(),
                text: text.to_owned(),
                flag: "--set".to_owned(),
            });
        }
        Ok(flags)
    }
}

/// Runs `miroir serve` until it is asked to stop.
///
/// # Errors
/// A refused configuration, a data directory in use, an address in use, and whatever stops the
/// pod against its will.
pub fn run(args: ServeArgs) -> anyhow::Result<()> {
    let config =
        Config::load(Some(&args.config), std::env::vars_os(), &args.overrides.as_flags()?)?;
    logs::start(&config.log.level, config.log.format)?;
    exit::run_server(args.stop_with_stdin, |stop| async move {
        let _lock = DataLock::take(&config.pod.data, exit::HANDOVER_PATIENCE).await?;
        let seams = Seams::real();
        tracing::info!(
            pod = config.pod.id,
            nodes = config.nodes.len(),
            version = env!("CARGO_PKG_VERSION"),
            "starting pod"
        );
        let outcome = wiring::run_pod(config, seams.clone(), stop).await;
        seams.tasks.end_all();
        outcome
    })
}
