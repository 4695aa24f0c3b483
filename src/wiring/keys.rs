//! The API keys that a cluster begins with.

use std::time::Duration;

use miroir_seams::Seams;
use miroir_storage::commands::Command;
use miroir_storage::log::{CoordinatorLog, ProposeError};
use miroir_storage::tables::api_keys::ApiKeyRecord;
use miroir_wire::keys::Key;

use super::propose;
use crate::config::Config;

/// Before a pod that did not begin the cluster makes them, and between its tries: the pod that did
/// makes them at once, and by then gossip has told whether all pods know of keys.
const LATER: Duration = Duration::from_secs(5);

/// Makes them, once in the cluster's life, when there is a master key: now, by the pod that begins
/// the cluster or is alone; else in the background, for clusters that are older than keys or had
/// no master key at first.
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
    if begins {
        return propose(log, &init, seams).await;
    }
    let (log, clock) = (log.clone(), seams.clock.clone());
    seams.tasks.spawn("first API keys", async move {
        loop {
            clock.sleep(LATER).await;
            if log.routing().api_keys.begun {
                return;
            }
            match log.propose(&init).await {
                Ok(_) | Err(ProposeError::Stopped | ProposeError::Fatal(_)) => return,
                Err(error) => tracing::info!(%error, "the first API keys can't be made yet"),
            }
        }
    });
    Ok(())
}

fn first_keys(seams: &Seams) -> Command {
    let keys = Key::defaults(seams.clock.now(), || seams.entropy.uuid());
    Command::InitApiKeys { keys: keys.iter().map(ApiKeyRecord::from).collect() }
}
