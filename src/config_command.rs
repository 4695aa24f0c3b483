//! `miroir config`: look at a configuration without starting anything.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::config::{Config, DEFAULTS_YAML};
use crate::serve::Overrides;

/// Arguments of `miroir config`.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Read a configuration as `miroir serve` would, and say what is wrong with it.
    Check {
        /// The YAML or TOML file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        #[command(flatten)]
        overrides: Overrides,
    },
    /// Print every key with its default, as YAML.
    PrintDefaults,
}

/// Runs `miroir config`.
///
/// # Errors
/// The complaints about a refused configuration.
pub fn run(args: ConfigArgs) -> anyhow::Result<()> {
    match args.command {
        ConfigCommand::Check { config: file, overrides } => {
            let config = Config::load(Some(&file), std::env::vars_os(), &overrides.as_flags()?)?;
            let groups: std::collections::BTreeSet<u32> =
                config.nodes.iter().map(|node| node.group).collect();
            println!(
                "{} is valid: {} nodes in {} groups, {} shards, replication factor {}",
                file.display(),
                config.nodes.len(),
                groups.len(),
                config.cluster.shards,
                config.cluster.replication_factor
            );
            match config.cluster.secrets() {
                None => println!("the pod is alone: it has no cluster.secret"),
                Some(secrets) => println!(
                    "pod {} tells others to reach it at {} and clients at {}; {} seeds, {} pods \
                     begin a new cluster, {} old secrets are accepted",
                    config.pod.id,
                    config.pod.advertised_peer(),
                    config.advertised_http(),
                    config.cluster.seeds.len(),
                    config.cluster.pods_expected,
                    secrets.old.len()
                ),
            }
        }
        ConfigCommand::PrintDefaults => print!("{DEFAULTS_YAML}"),
    }
    Ok(())
}
