//! What a pod answers its peers: the log's own calls, copies of payloads, and hints.
//!
//! A peer may send anything: what can't be read is refused, and nothing is trusted to be whole,
//! in order or new.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use miroir_seams::{PeerRefusal, PeerService};
use miroir_storage::ids::{IndexUid, NodeId, PodId};
use serde::{Deserialize, Serialize};

use crate::copies;
use crate::pod::{PodContext, PodMessage};

/// Carries a [`Hint`].
pub const HINT: &str = "pod/hint";
/// A hint is worth no more.
const HINT_TIMEOUT: Duration = Duration::from_secs(2);

/// News for a writer on another pod. Losing one does no harm: whoever sends it looks again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Hint {
    /// A node was seen to have other settings than the agreed ones.
    SettingsDiffer {
        /// The index.
        index: IndexUid,
        /// The node.
        node: NodeId,
    },
}

/// Sends a hint in the background.
pub fn send_hint(pod: &Arc<PodContext>, to: &PodId, hint: &Hint) {
    let Ok(body) = serde_json::to_vec(hint) else { return };
    let (pod, to) = (pod.clone(), to.clone());
    pod.seams.tasks.clone().spawn("hint", async move {
        if let Err(error) = pod.peers.call(&to, HINT, vec![body.into()], HINT_TIMEOUT).await {
            tracing::debug!(pod = %to, %error, "hint did not arrive");
        }
    });
}

/// Answers the calls of other pods.
#[derive(Clone, Debug)]
pub struct PodService {
    pod: Arc<PodContext>,
}

impl PodService {
    /// The service of a pod.
    pub fn new(pod: Arc<PodContext>) -> Self {
        Self { pod }
    }
}

#[async_trait]
impl PeerService for PodService {
    async fn serve(&self, channel: &str, body: Bytes) -> Result<Bytes, PeerRefusal> {
        match channel {
            copies::APPEND => copies::serve_append(&self.pod.id, &self.pod.journal, body).await,
            copies::READ => copies::serve_read(&self.pod.id, &self.pod.journal, body).await,
            log if log.starts_with("log/") => self.pod.log.serve(log, body).await,
            HINT => take_hint(&self.pod, &body),
            unknown => Err(PeerRefusal(format!("this pod has no service {unknown:?}"))),
        }
    }
}

fn take_hint(pod: &PodContext, body: &[u8]) -> Result<Bytes, PeerRefusal> {
    let hint = serde_json::from_slice(body)
        .map_err(|error| PeerRefusal(format!("hint can't be read: {error}")))?;
    match hint {
        Hint::SettingsDiffer { index, node } => {
            pod.tell_root(PodMessage::SettingsDiffer { index, node });
        }
    }
    Ok(Bytes::new())
}
