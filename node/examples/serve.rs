//! Serves one node until it is interrupted: `serve HOST:PORT DIR [KEY]`.
//!
//! For trying things by hand and for measuring; `miroir node` is the real command.

use std::error::Error;

use miroir_node::NodeConfig;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let mut arguments = std::env::args().skip(1);
    let (Some(address), Some(directory)) = (arguments.next(), arguments.next()) else {
        return Err("usage: serve HOST:PORT DIR [KEY]".into());
    };
    let mut config = NodeConfig::new(address.parse()?, directory);
    if let Some(key) = arguments.next() {
        config = config.with_master_key(key);
    }
    miroir_node::run(config, async {
        if let Err(error) = tokio::signal::ctrl_c().await {
            tracing::error!(%error, "not waiting for an interrupt");
        }
    })
    .await?;
    Ok(())
}
