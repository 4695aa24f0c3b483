//! What a pod that starts tells the log of its configuration: the cluster's name, if it begins it,
//! and the nodes. Before its actors start; it waits as long as the log takes nothing.

use std::time::Duration;

use miroir_seams::Seams;
use miroir_storage::commands::Command;
use miroir_storage::ids::{GroupId, NodeId};
use miroir_storage::log::{CoordinatorLog, ProposeError};
use miroir_storage::tables::nodes::NodeRecord;

/// Between tries to tell the log what the configuration says, while it takes nothing.
const PAUSE: Duration = Duration::from_millis(200);

/// Why a pod can't go on with its configuration.
#[derive(Debug, thiserror::Error)]
pub enum RegistrationError {
    /// The log has failed or stopped.
    #[error(transparent)]
    Log(ProposeError),
    /// A node is known in another group.
    #[error("node {node} is in replica group {group} already; a node never changes its group")]
    OtherGroup {
        /// The node.
        node: NodeId,
        /// The group it is in.
        group: GroupId,
    },
}

/// Names the cluster `begins`, if this pod begins one, else waits until it belongs to one; then
/// writes `nodes` to the log: new ones, and new addresses or keys of known ones. The log decides which
/// nodes there are: one that was removed stays so, one that is not configured stays until it is removed.
///
/// # Errors
/// See [`RegistrationError`].
pub async fn register(
    log: &CoordinatorLog,
    begins: Option<String>,
    nodes: Vec<NodeRecord>,
    seams: &Seams,
) -> Result<(), RegistrationError> {
    while log.routing().cluster_id.is_empty() {
        match &begins {
            Some(cluster_id) => {
                let cluster_id = cluster_id.clone();
                propose(log, &Command::InitCluster { cluster_id }, seams).await?;
            }
            None => seams.clock.sleep(PAUSE).await,
        }
    }
    for record in &nodes {
        if log.routing().topology.removed.contains(&record.id) {
            tracing::warn!(node = %record.id, "node is configured, but was removed from the cluster; its id is not used again");
            continue;
        }
        if log.routing().nodes.get(&record.id).is_none_or(|known| **known != *record) {
            propose(log, &Command::PutNode(record.clone()), seams).await?;
        }
        let routing = log.routing();
        let kept = routing.nodes.get(&record.id).map(|kept| kept.group);
        if let Some(group) = kept.filter(|group| *group != record.group) {
            return Err(RegistrationError::OtherGroup { node: record.id.clone(), group });
        }
    }
    let routing = log.routing();
    let is_named = |known: &NodeId| nodes.iter().any(|record| record.id == *known);
    for known in routing.nodes.keys().filter(|known| !is_named(known)) {
        tracing::info!(node = %known, "node is not configured here; it belongs to the cluster until it is removed");
    }
    Ok(())
}

/// Proposes what does no harm twice until it is agreed.
async fn propose(
    log: &CoordinatorLog,
    command: &Command,
    seams: &Seams,
) -> Result<(), RegistrationError> {
    loop {
        match log.propose(command).await {
            Ok(_) => return Ok(()),
            Err(error @ (ProposeError::NoQuorum | ProposeError::Unknown)) => {
                tracing::warn!(%error, "the log does not take the configuration yet, trying again");
                seams.clock.sleep(PAUSE).await;
            }
            Err(error) => return Err(RegistrationError::Log(error)),
        }
    }
}
