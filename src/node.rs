//! `miroir node`: one embedded search node.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use crate::config::Secret;
use crate::data_lock::DataLock;
use crate::logs::LogFormat;
use crate::{exit, logs};

/// Arguments of `miroir node`.
#[derive(Debug, Args)]
pub struct NodeArgs {
    /// Where clients (pods, or you) connect.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7701")]
    http_addr: SocketAddr,
    /// The node's master key. Prefer the variable: flags can be read by every process.
    #[arg(long, value_name = "KEY", env = "MIROIR_NODE_MASTER_KEY", hide_env_values = true)]
    master_key: Option<String>,
    /// Where the node keeps its indexes and tasks.
    #[arg(long, value_name = "DIR", default_value = "./miroir-node")]
    data: PathBuf,
    /// Log level or filter.
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log_level: String,
    /// How log lines look.
    #[arg(long, value_enum, default_value_t)]
    log_format: LogFormat,
    /// Stop when standard input is closed: how `miroir up` makes sure that nothing outlives it.
    #[arg(long, hide = true)]
    stop_with_stdin: bool,
}

/// Runs `miroir node` until it is asked to stop.
///
/// # Errors
/// A data directory or an address in use, and whatever stops the node against its will.
pub fn run(args: NodeArgs) -> anyhow::Result<()> {
    logs::start(&args.log_level, args.log_format)?;
    exit::run_server(args.stop_with_stdin, |stop| async move {
        let _lock = DataLock::take(&args.data, exit::HANDOVER_PATIENCE).await?;
        serve(args.http_addr, args.master_key.map(Secret::new), args.data, stop).await
    })
}

#[cfg(feature = "embedded-node")]
async fn serve(
    http_addr: SocketAddr,
    master_key: Option<Secret>,
    data: PathBuf,
    stop: exit::Stop,
) -> anyhow::Result<()> {
    let mut config = miroir_node::NodeConfig::new(http_addr, data);
    config.master_key = master_key.map(|key| key.reveal().to_owned());
    Ok(miroir_node::run(config, stop).await?)
}

#[cfg(not(feature = "embedded-node"))]
async fn serve(
    _http_addr: SocketAddr,
    _master_key: Option<Secret>,
    _data: PathBuf,
    _stop: exit::Stop,
) -> anyhow::Result<()> {
    Err(exit::Refused("this build has no embedded node (feature embedded-node)".to_owned()).into())
}
