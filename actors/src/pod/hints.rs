//! News for writers, which live on any pod.

use super::PodState;
use crate::peer_service::{Hint, send_hint};
use crate::writer::WriterMessage;

/// Passes a hint on to the writer that it is for, or to the pod where that lives. Whoever has sent it looks
/// again, so that it may be lost.
pub(super) fn pass_on(state: &PodState, hint: Hint) {
    let index = hint.index().clone();
    if let Some(writer) = state.writers.get(&index) {
        let _restarting = writer.cast(message(hint));
        return;
    }
    let routing = state.context.log.routing();
    let writer = routing.by_uid.get(&index).map(|index| &index.writer);
    if let Some(writer) = writer.filter(|writer| **writer != state.context.id) {
        send_hint(&state.context, writer, &hint);
    }
}

fn message(hint: Hint) -> WriterMessage {
    match hint {
        Hint::SettingsDiffer { node, .. } => WriterMessage::SettingsDiffer { node },
        Hint::ReplicaDiffers { repair, .. } => WriterMessage::ReplicaDiffers(Box::new(repair)),
    }
}
