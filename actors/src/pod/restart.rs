//! Starting children again: after a failure, and by hand. [`super`] says when.

use std::time::Duration;

use ractor::ActorProcessingErr;

use super::{Child, PodMessage, PodState, ROOT};
use crate::inspect::Address;
use crate::peer_service::RestartReply;

/// How long a child that is to be started again by hand may take to end in order.
const STOP_PATIENCE: Duration = Duration::from_secs(2);

/// Why an actor is stopped.
const BY_HAND: &str = "started again by hand";

/// Starts a child again after the wait that its failures in a row ask for.
pub(super) fn restart_later(
    myself: &Address<PodMessage>,
    state: &mut PodState,
    child: Child,
    error: Option<&str>,
) {
    let name = child.name();
    let failures = state.context.inventory.failures_of(&name);
    state.context.inventory.waits(&name);
    if failures.escalates() {
        tracing::error!(actor = name, error, "actor keeps failing, it is still started again");
    } else {
        tracing::warn!(actor = name, error, "actor failed, starting it again");
    }
    let wait = state.children.wait(child.clone());
    let (myself, clock) = (myself.clone(), state.context.seams.clock.clone());
    state.context.seams.tasks.spawn("actor restart", async move {
        clock.sleep(failures.wait()).await;
        let _stopped = myself.cast(PodMessage::Restart { child, wait });
    });
}

/// Orders the actor, or the child of the root that it is a part of, to be started again.
pub(super) fn on_restart_by_hand(
    myself: &Address<PodMessage>,
    state: &mut PodState,
    mut id: String,
) -> Result<RestartReply, ActorProcessingErr> {
    let inventory = &state.context.inventory;
    let root = inventory.id_of(ROOT);
    if id == root {
        let why = "a pod's root is started with its process".to_owned();
        return Ok(RestartReply::NotRestartable { why });
    }
    loop {
        match inventory.parent_of(&id).flatten() {
            None => return Ok(RestartReply::NotFound),
            Some(parent) if parent == root => break,
            Some(parent) => id = parent,
        }
    }
    let Some(child) = inventory.name_of(&id).and_then(|name| state.children.named(&name)) else {
        return Ok(RestartReply::NotFound);
    };
    tracing::info!(actor = id, "actor is started again by hand");
    if let Some(cell) = state.children.end_by_hand(&child) {
        cell.stop(Some(BY_HAND.to_owned()));
        let clock = state.context.seams.clock.clone();
        state.context.seams.tasks.spawn("end of an actor", async move {
            clock.sleep(STOP_PATIENCE).await;
            // Does nothing to one that has ended.
            cell.kill();
        });
    } else if let Some(wait) = state.children.wait_of(&child) {
        myself.cast(PodMessage::Restart { child, wait })?;
    }
    Ok(RestartReply::Restarting { id })
}
