//! What a pod answers its peers: the log's own calls, copies of payloads, hints, and questions of
//! operators.
//!
//! A peer may send anything: what can't be read is refused, and nothing is trusted to be whole,
//! in order or new.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use miroir_seams::{PeerCallError, PeerRefusal, PeerService};
use miroir_storage::ids::{IndexUid, NodeId, PodId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::anti_entropy::Repair;
use crate::anti_entropy::view::AntiEntropyReport;
use crate::copies;
use crate::inspect::{ActorReport, OUTSIDE_DEPTH_MAX};
use crate::leave::{self, LeaveProgress, LeaveRefusal};
use crate::pod::{PodContext, PodMessage};

/// Carries a [`Hint`].
pub const HINT: &str = "pod/hint";
/// A hint is worth no more.
const HINT_TIMEOUT: Duration = Duration::from_secs(2);

/// Asks for [`ActorReport`]s.
pub const ACTORS: &str = "pod/actors";
/// Carries an order to start an actor again.
pub const RESTART: &str = "pod/restart";
/// Asks how far a pod is with leaving, or orders it to begin.
pub const LEAVE: &str = "pod/leave";
/// Asks what comparing replicas has found, or orders it.
pub const ANTI_ENTROPY: &str = "pod/anti-entropy";
/// How long an operator waits for a pod.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

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
    /// A replica has documents that differ from the others'.
    ReplicaDiffers {
        /// The index.
        index: IndexUid,
        /// Which, and what is right.
        repair: Repair,
    },
}

impl Hint {
    /// The index whose writer it is for.
    pub fn index(&self) -> &IndexUid {
        match self {
            Self::SettingsDiffer { index, .. } | Self::ReplicaDiffers { index, .. } => index,
        }
    }
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

/// An order to start an actor again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RestartOrder {
    id: String,
}

/// What became of an order to start an actor again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RestartReply {
    /// This actor is being started again: the one that was meant, or the one that it is a part of.
    Restarting {
        /// Its id.
        id: String,
    },
    /// There is none (any more).
    NotFound,
    /// It can't be started again by itself.
    NotRestartable {
        /// In words.
        why: String,
    },
}

/// Why a pod did not say what was asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// It can't be reached, or refused.
    #[error(transparent)]
    Call(#[from] PeerCallError),
    /// It answered something else.
    #[error("its answer can't be read: {0}")]
    Answer(#[from] serde_json::Error),
    /// This pod did not do it (in time).
    #[error("{0}")]
    Refused(#[from] PeerRefusal),
}

/// The actors of any pod, parents before their children.
///
/// # Errors
/// See [`AskError`]; after at most 2 s.
pub async fn actors_of(pod: &PodContext, of: &PodId) -> Result<Vec<ActorReport>, AskError> {
    if *of == pod.id {
        return Ok(pod.inventory.report());
    }
    let answer = pod.peers.call(of, ACTORS, Vec::new(), ASK_TIMEOUT).await?;
    Ok(serde_json::from_slice(&answer)?)
}

/// Orders any pod to start one of its actors again.
///
/// # Errors
/// See [`AskError`]; after at most 2 s. The order may have arrived all the same.
pub async fn restart_on(pod: &PodContext, on: &PodId, id: &str) -> Result<RestartReply, AskError> {
    if *on == pod.id {
        return Ok(restart_here(pod, id.to_owned()).await?);
    }
    let order = serde_json::to_vec(&RestartOrder { id: id.to_owned() })?;
    let answer = pod.peers.call(on, RESTART, vec![order.into()], ASK_TIMEOUT).await?;
    Ok(serde_json::from_slice(&answer)?)
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct LeaveOrder {
    begin: bool,
}

/// How far any pod is with leaving; orders it to if `begin`.
///
/// # Errors
/// See [`AskError`]; after at most 2 s. The order may have arrived all the same.
pub async fn leave_of(
    pod: &Arc<PodContext>,
    of: &PodId,
    begin: bool,
) -> Result<Result<LeaveProgress, LeaveRefusal>, AskError> {
    if *of == pod.id {
        return Ok(leave_here(pod, begin));
    }
    let order = serde_json::to_vec(&LeaveOrder { begin })?;
    let answer = pod.peers.call(of, LEAVE, vec![order.into()], ASK_TIMEOUT).await?;
    Ok(serde_json::from_slice(&answer)?)
}

/// What any pod has found by comparing replicas; has it compare now if `begin`.
///
/// # Errors
/// See [`AskError`]; after at most 2 s. The order may have arrived all the same.
pub async fn anti_entropy_of(
    pod: &PodContext,
    of: &PodId,
    begin: bool,
) -> Result<AntiEntropyReport, AskError> {
    if *of == pod.id {
        return Ok(compared_here(pod, begin)?);
    }
    let order = serde_json::to_vec(&CompareOrder { begin })?;
    let answer = pod.peers.call(of, ANTI_ENTROPY, vec![order.into()], ASK_TIMEOUT).await?;
    Ok(serde_json::from_slice(&answer)?)
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct CompareOrder {
    begin: bool,
}

fn compared_here(pod: &PodContext, begin: bool) -> Result<AntiEntropyReport, PeerRefusal> {
    if begin {
        check_backlog(pod)?;
        pod.tell_root(PodMessage::Compare);
    }
    Ok(pod.anti_entropy.report())
}

fn leave_here(pod: &Arc<PodContext>, begin: bool) -> Result<LeaveProgress, LeaveRefusal> {
    if begin { leave::begin(pod) } else { Ok(leave::progress(pod)) }
}

async fn restart_here(pod: &PodContext, id: String) -> Result<RestartReply, PeerRefusal> {
    check_backlog(pod)?;
    let (reply, done) = oneshot::channel();
    pod.tell_root(PodMessage::RestartByHand { id, reply });
    match tokio::time::timeout(ASK_TIMEOUT, done).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(_)) => Err(PeerRefusal("the pod's root does not run".to_owned())),
        Err(_) => Err(PeerRefusal("the pod's root is busy".to_owned())),
    }
}

/// What comes from outside must not pile up in the root's mailbox.
fn check_backlog(pod: &PodContext) -> Result<(), PeerRefusal> {
    if pod.backlog() > OUTSIDE_DEPTH_MAX {
        return Err(PeerRefusal("the pod's root is far behind".to_owned()));
    }
    Ok(())
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
            ACTORS => in_json(&self.pod.inventory.report()),
            RESTART => {
                let order: RestartOrder = from_json(&body)?;
                in_json(&restart_here(&self.pod, order.id).await?)
            }
            ANTI_ENTROPY => {
                let order: CompareOrder = from_json(&body)?;
                in_json(&compared_here(&self.pod, order.begin)?)
            }
            LEAVE => {
                let order: LeaveOrder = from_json(&body)?;
                in_json(&leave_here(&self.pod, order.begin))
            }
            unknown => Err(PeerRefusal(format!("this pod has no service {unknown:?}"))),
        }
    }
}

fn from_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, PeerRefusal> {
    serde_json::from_slice(body)
        .map_err(|error| PeerRefusal(format!("the message can't be read: {error}")))
}

fn in_json<T: Serialize>(answer: &T) -> Result<Bytes, PeerRefusal> {
    let answer = serde_json::to_vec(answer);
    answer.map(Bytes::from).map_err(|error| PeerRefusal(error.to_string()))
}

fn take_hint(pod: &PodContext, body: &[u8]) -> Result<Bytes, PeerRefusal> {
    check_backlog(pod)?;
    pod.tell_root(PodMessage::ForWriter(from_json(body)?));
    Ok(Bytes::new())
}
