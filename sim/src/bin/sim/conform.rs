//! `sim conform`: holds the model node against a running server.

use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use miroir_seams::HttpTransport;
use miroir_sim::conformance::{RealNode, compare};

/// Which server, and how much to ask.
#[derive(Clone, Debug, Args)]
pub struct ConformArguments {
    /// Its base address. Its indexes `conform-a` and `conform-b` are deleted.
    #[arg(long)]
    pub url: String,
    /// Its key.
    #[arg(long)]
    pub key: Option<String>,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    pub from: u64,
    /// Seeds.
    #[arg(long, default_value_t = 3)]
    pub seeds: u64,
    /// Changes for each seed.
    #[arg(long, default_value_t = 150)]
    pub steps: u64,
}

/// Prints what differs; false when something does.
pub fn conform(arguments: &ConformArguments) -> anyhow::Result<bool> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("runtime")?;
    runtime.block_on(async {
        let transport = Arc::new(HttpTransport::new());
        let mut all_alike = true;
        for seed in arguments.from..arguments.from + arguments.seeds {
            let real = RealNode {
                transport: transport.clone(),
                base: arguments.url.trim_end_matches('/').to_owned(),
                key: arguments.key.clone(),
            };
            match compare(real, seed, arguments.steps).await? {
                None => println!("seed {seed}: {} changes, no difference", arguments.steps),
                Some(difference) => {
                    println!("{difference}");
                    all_alike = false;
                }
            }
        }
        Ok(all_alike)
    })
}
