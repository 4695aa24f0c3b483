//! The `miroir` program: reads the command line and wires the crates together.
//!
//! One file per subcommand: [`up`], [`serve`], [`node`], [`config_command`], [`ctl`].

mod config;
mod config_command;
mod ctl;
mod data_lock;
mod exit;
mod logs;
mod node;
mod serve;
mod up;
mod wiring;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Searching allocates a great deal, in nodes above all.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// One Meilisearch endpoint over a fleet of ordinary Meilisearch servers.
#[derive(Debug, Parser)]
#[command(name = "miroir", version, about, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a whole cluster on this machine: pods and embedded search nodes.
    Up(up::UpArgs),
    /// Start one pod in front of nodes that are already running.
    Serve(serve::ServeArgs),
    /// Start one embedded search node.
    Node(node::NodeArgs),
    /// Check a configuration file, or print the defaults.
    Config(config_command::ConfigArgs),
    /// Look at a running cluster: its pods, roles and actors.
    Ctl(ctl::CtlArgs),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Up(args) => up::run(args),
        Command::Serve(args) => serve::run(args),
        Command::Node(args) => node::run(args),
        Command::Config(args) => config_command::run(args),
        Command::Ctl(args) => ctl::run(args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            exit::code_of(&error)
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Cli;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
