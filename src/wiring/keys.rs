//! The API keys that a cluster begins with.

use std::time::Duration;

use miroir_seams::Seams;
use miroir_storage::commands::Command;
use miroir_storage::log::{CoordinatorLog, ProposeError};
use miroir_storage::tables::api_keys::ApiKeyRecord;
use miroir_wire::keys::Key;

use crate::config::Config;

/// Before a pod that did not begin the cluster makes them, and between its tries: the pod that did
/// makes them at once.
const LATER: Duration = Duration::from_secs(5);
/// Between the tries of the pod that begins the cluster: gossip has yet to tell it that the other
/// pods know of keys.
const SOON: Duration = Duration::from_millis(250);

/// Makes them, once in the cluster's life, when there is a master key: now, by a pod that begins
/// alone; soon, in the background, by one that begins a cluster of several; later for clusters that
/// are older than keys or had no master key at first.
///
/// # Errors
/// When the log stopped.
pub async fn make_first_keys(
    config: &Config,
    log: &CoordinatorLog,
    begins: bool,
    seams: &Seams,
) -> anyhow::Result<()> {
    if config.master_key.is_none() || log.routing().api_keys.begun {
        return Ok(());
    }
    let init = first_keys(seams);
    if begins && is_agreed(log, &init).await? {
        return Ok(());
    }
    let pause = if begins { SOON } else { LATER };
    let (log, clock) = (log.clone(), seams.clock.clone());
    seams.tasks.spawn("first API keys", async move {
        loop {
            clock.sleep(pause).await;
            if log.routing().api_keys.begun || is_agreed(&log, &init).await.unwrap_or(true) {
                return;
            }
        }
    });
    Ok(())
}

/// Whether the log has taken `init`, which does no harm twice; else it is for another try.
async fn is_agreed(log: &CoordinatorLog, init: &Command) -> Result<bool, ProposeError> {
    match log.propose(init).await {
        Ok(_) => Ok(true),
        Err(error @ (ProposeError::Stopped | ProposeError::Fatal(_))) => Err(error),
        Err(error) => {
            tracing::info!(%error, "the first API keys can't be made yet");
            Ok(false)
        }
    }
}

fn first_keys(seams: &Seams) -> Command {
    let keys = Key::defaults(seams.clock.now(), || seams.entropy.uuid());
    Command::InitApiKeys { keys: keys.iter().map(ApiKeyRecord::from).collect() }
}
