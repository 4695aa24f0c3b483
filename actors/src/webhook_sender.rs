//! Tells webhooks of tasks that have ended.
//!
//! Owns: the sending, and the pace of trying again. Does not own: the letters, which the log keeps
//! ([`miroir_storage::tables::webhooks`]) until their webhook has got them. Each webhook belongs to
//! the pod that rendezvous over the living gives it. A letter is marked as sent after it was
//! taken, so each goes out **at least once**: again, when a pod dies in between, or when two pods
//! think that the webhook is theirs. Letters of one webhook go out in the order in which their
//! tasks ended; one that takes nothing holds up no other.
//!
//! Sent to by the pod's root when tasks end, by its timer, and by its own tasks. A restart begins
//! to try again at once.
//!
//! ```text
//! resting --letters, and it is ours--> sending --taken--> marked in the log --> resting
//!    ^-------- after a while ------------- refused, or nobody there
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use miroir_seams::TransportError;
use miroir_storage::commands::Command;
use miroir_storage::log::ProposeError;
use miroir_storage::tables::ApplyError;
use miroir_storage::tables::tasks::TaskRecord;
use miroir_storage::tables::webhooks::{self, Mail, WebhookRecord};
use ractor::ActorProcessingErr;

use crate::inspect::{Actor, Address};
use crate::pod::PodContext;
use crate::shares::Share;

/// Between looks that nobody asked for: after this a webhook of a pod that died is looked after.
const INTERVAL: Duration = Duration::from_secs(5);
/// Letters in one request: some hundred KB.
const LETTERS_MAX: usize = 1000;
/// After a failure; doubled by each further one up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_secs(1);
/// A webhook that comes back is found within this time.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// Brings letters to webhooks.
#[async_trait]
pub trait WebhookOutlet: Send + Sync + fmt::Debug + 'static {
    /// Tells `webhook` of `tasks`, in one request.
    ///
    /// # Errors
    /// See [`DeliveryError`].
    async fn deliver(
        &self,
        webhook: &WebhookRecord,
        tasks: &[TaskRecord],
    ) -> Result<(), DeliveryError>;
}

/// Why a webhook took nothing; it may have read it all the same.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    /// It could not be reached, or gave no answer.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// It refused.
    #[error("it answered {0}")]
    Refused(u16),
    /// The request could not be written.
    #[error("tasks could not be written: {0}")]
    Unwritten(std::io::Error),
}

/// Reaches no webhook: for pods in tests and in the simulation.
#[derive(Clone, Copy, Debug)]
pub struct NoOutlet;

#[async_trait]
impl WebhookOutlet for NoOutlet {
    async fn deliver(
        &self,
        webhook: &WebhookRecord,
        _: &[TaskRecord],
    ) -> Result<(), DeliveryError> {
        Err(TransportError::Unreachable(webhook.url.clone()).into())
    }
}

/// What the sender is told.
#[derive(Debug)]
pub enum WebhookSenderMessage {
    /// Tasks have ended.
    TasksEnded,
    /// Time for a look.
    LookAround,
    /// The work on a webhook ended (from the sender's own task).
    Done {
        /// The webhook.
        uuid: String,
        /// Whether it took what it was sent, if there was anything.
        taken: bool,
    },
    /// Time to try a webhook again.
    TryAgain {
        /// The webhook.
        uuid: String,
    },
}

/// How the sender starts.
#[derive(Clone, Debug)]
pub struct WebhookSenderArguments {
    /// The pod.
    pub pod: Arc<PodContext>,
    /// The webhooks of this pod, by uuid.
    pub share: Share<str>,
}

/// The sender actor.
#[derive(Debug)]
pub struct WebhookSender;

/// The sender's state.
#[derive(Debug)]
pub struct WebhookSenderState {
    arguments: WebhookSenderArguments,
    /// Webhooks that are sent to, or wait after a failure, by uuid.
    busy: BTreeSet<String>,
    /// Failures in a row, by uuid.
    failures: BTreeMap<String, u32>,
}

/// Why a webhook did not get its letters.
#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error(transparent)]
    State(#[from] ApplyError),
    #[error(transparent)]
    Delivery(#[from] DeliveryError),
    #[error(transparent)]
    Log(#[from] ProposeError),
}

#[ractor::async_trait]
impl Actor for WebhookSender {
    type Msg = WebhookSenderMessage;
    type State = WebhookSenderState;
    type Arguments = WebhookSenderArguments;

    const KIND: &'static str = "WebhookSender";

    async fn pre_start(
        &self,
        myself: Address<WebhookSenderMessage>,
        arguments: WebhookSenderArguments,
    ) -> Result<WebhookSenderState, ActorProcessingErr> {
        myself.cast(WebhookSenderMessage::LookAround)?;
        Ok(WebhookSenderState { arguments, busy: BTreeSet::new(), failures: BTreeMap::new() })
    }

    async fn handle(
        &self,
        myself: Address<WebhookSenderMessage>,
        message: WebhookSenderMessage,
        state: &mut WebhookSenderState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            WebhookSenderMessage::TasksEnded => {}
            WebhookSenderMessage::LookAround => {
                later(&myself, state, INTERVAL, WebhookSenderMessage::LookAround);
            }
            WebhookSenderMessage::Done { uuid, taken: true } => {
                state.busy.remove(&uuid);
                state.failures.remove(&uuid);
            }
            WebhookSenderMessage::Done { uuid, taken: false } => {
                let failures = state.failures.entry(uuid.clone()).or_default();
                *failures += 1;
                let wait = pause(*failures);
                later(&myself, state, wait, WebhookSenderMessage::TryAgain { uuid });
            }
            WebhookSenderMessage::TryAgain { uuid } => {
                state.busy.remove(&uuid);
            }
        }
        send_all(&myself, state)
    }
}

fn later(
    myself: &Address<WebhookSenderMessage>,
    state: &WebhookSenderState,
    wait: Duration,
    message: WebhookSenderMessage,
) {
    let (myself, seams) = (myself.clone(), &state.arguments.pod.seams);
    let clock = seams.clock.clone();
    seams.tasks.spawn("webhook pace", async move {
        clock.sleep(wait).await;
        let _stopped = myself.cast(message);
    });
}

/// How long to wait after so many failures in a row.
fn pause(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    (RETRY_MIN * 2_u32.pow(doublings)).min(RETRY_MAX)
}

/// Sends to every webhook of this pod that has letters and is not sent to already.
fn send_all(
    myself: &Address<WebhookSenderMessage>,
    state: &mut WebhookSenderState,
) -> Result<(), ActorProcessingErr> {
    let WebhookSenderArguments { pod, share } = &state.arguments;
    let engine = pod.log.engine().as_ref();
    let known = webhooks::all(engine)?;
    state.failures.retain(|uuid, _| known.iter().any(|webhook| webhook.uuid == *uuid));
    for webhook in known {
        if state.busy.contains(&webhook.uuid) || !share.includes(&webhook.uuid) {
            continue;
        }
        let mail = webhooks::mail_for(engine, &webhook, LETTERS_MAX)?;
        if mail.tasks.is_empty() {
            continue;
        }
        state.busy.insert(webhook.uuid.clone());
        let (myself, pod) = (myself.clone(), pod.clone());
        pod.seams.tasks.clone().spawn("webhook", async move {
            let uuid = webhook.uuid.clone();
            let taken = match send(&pod, webhook, mail).await {
                Ok(()) => true,
                Err(error) => {
                    tracing::warn!(webhook = uuid, %error, "webhook did not get its tasks, trying again");
                    false
                }
            };
            let _stopped = myself.cast(WebhookSenderMessage::Done { uuid, taken });
        });
    }
    Ok(())
}

async fn send(pod: &PodContext, webhook: WebhookRecord, mail: Mail) -> Result<(), SendError> {
    let uuid = webhook.uuid.clone();
    if mail.lost > 0 {
        tracing::error!(
            webhook = uuid,
            tasks = mail.lost,
            "webhook was away for too long and has lost tasks"
        );
    }
    pod.outlet.deliver(&webhook, &mail.tasks).await?;
    pod.log.propose(&Command::WebhookSent { uuid, through: mail.through }).await?;
    Ok(())
}

#[cfg(test)]
mod tests;
