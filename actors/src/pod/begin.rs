//! How children begin: at once, or, as holders of a role, once the log has given them an epoch.
//!
//! Epochs are taken beside the root and side by side: a pod that is given hundreds of roles in one
//! moment needs a few entries of the log for that, and hears of everything else meanwhile.

use std::collections::BTreeMap;

use miroir_storage::commands::{Command, Outcome};
use miroir_storage::ids::Epoch;
use miroir_storage::log::ProposeError;
use miroir_storage::tables::roles::{REBALANCER, REGISTRAR};
use ractor::ActorProcessingErr;

use super::restart::restart_later;
use super::{Child, PodMessage, PodState};
use crate::anti_entropy::{AntiEntropy, AntiEntropyArguments, ShardItem};
use crate::coordinator::Coordinator;
use crate::drift_checker::{DriftChecker, DriftCheckerArguments, DriftItem};
use crate::health_checker::{HealthChecker, HealthCheckerArguments};
use crate::index_janitor::IndexJanitor;
use crate::inspect::Address;
use crate::job_worker::JobWorker;
use crate::journal_keeper::JournalKeeper;
use crate::node_tasks::{NodeTasks, NodeTasksArguments};
use crate::rebalancer::{Rebalancer, RebalancerArguments};
use crate::registrar::Registrar;
use crate::shares::Share;
use crate::task_pruner::{TaskBlock, TaskPruner, TaskPrunerArguments};
use crate::webhook_sender::{WebhookSender, WebhookSenderArguments};
use crate::writer::{Writer, WriterArguments};

/// Of children that hold no role.
const NO_EPOCH: Epoch = Epoch(0);

/// Starts a child, or takes the epoch that it needs; if that fails, it waits as one that failed.
pub(super) async fn start_or_wait(
    myself: &Address<PodMessage>,
    state: &mut PodState,
    child: Child,
) {
    let context = &state.context;
    let held = match &child {
        Child::Writer(index) => context.writes(index),
        Child::Registrar => context.holds(REGISTRAR),
        Child::Rebalancer => context.holds(REBALANCER),
        _ => return start(myself, state, child, NO_EPOCH).await,
    };
    if !held {
        return forget(state, &child);
    }
    let take = Command::TakeEpoch { role: child.name(), pod: context.id.clone() };
    let wait = state.children.wait(child.clone());
    let (myself, pod) = (myself.clone(), context.clone());
    context.seams.tasks.spawn("epoch", async move {
        let answer = pod.log.propose(&take).await;
        let _stopped = myself.cast(PodMessage::EpochTaken { child, wait, answer });
    });
}

/// Starts the actor of a role that this pod holds, unless it is another's by now.
pub(super) async fn on_epoch_taken(
    myself: &Address<PodMessage>,
    state: &mut PodState,
    child: Child,
    answer: Result<Outcome, ProposeError>,
) {
    match answer {
        Ok(Outcome::Epoch(epoch)) => start(myself, state, child, epoch).await,
        // What was applied here when it began was old.
        Ok(_) => forget(state, &child),
        Err(error) => restart_later(myself, state, child, Some(&error.to_string())),
    }
}

async fn start(myself: &Address<PodMessage>, state: &mut PodState, child: Child, epoch: Epoch) {
    if let Err(error) = start_child(myself, state, child.clone(), epoch).await {
        restart_later(myself, state, child, Some(&error.to_string()));
    }
}

fn forget(state: &mut PodState, child: &Child) {
    if let Child::Writer(index) = child {
        state.writers.remove(index);
    }
    state.context.inventory.forget(&child.name(), None);
}

/// Starts a child; a role's actor under the epoch that was taken for it.
async fn start_child(
    myself: &Address<PodMessage>,
    state: &mut PodState,
    child: Child,
    epoch: Epoch,
) -> Result<(), ActorProcessingErr> {
    let context = state.context.clone();
    let name = child.name();
    let cell = match &child {
        Child::Follower(node) => {
            let arguments = NodeTasksArguments {
                node: node.clone(),
                calls: context.calls.clone(),
                seams: context.seams.clone(),
            };
            let actor = myself.spawn(name, NodeTasks, arguments).await?;
            let cell = actor.get_cell();
            context.followers.rcu(|followers| {
                let mut followers = BTreeMap::clone(followers);
                followers.insert(node.clone(), actor.clone());
                followers
            });
            cell
        }
        Child::Health => {
            let arguments = HealthCheckerArguments {
                config: context.config.health,
                view: context.health.clone(),
                calls: context.calls.clone(),
                log: context.log.clone(),
                seams: context.seams.clone(),
                peers: context.peers.clone(),
                pod: myself.clone(),
            };
            let actor = myself.spawn(name, HealthChecker, arguments).await?;
            actor.get_cell()
        }
        Child::Janitor => {
            let actor = myself.spawn(name, IndexJanitor, context).await?;
            state.janitor = Some(actor.clone());
            actor.get_cell()
        }
        Child::Jobs => {
            let actor = myself.spawn(name, JobWorker, context).await?;
            state.jobs = Some(actor.clone());
            actor.get_cell()
        }
        Child::Webhooks => {
            let share =
                Share::of_pod(context.peers.clone(), |uuid: &str| format!("webhook/{uuid}"));
            let arguments = WebhookSenderArguments { pod: context, share };
            let actor = myself.spawn(name, WebhookSender, arguments).await?;
            state.webhooks = Some(actor.clone());
            actor.get_cell()
        }
        Child::Coordinator => {
            let actor = myself.spawn(name, Coordinator, context).await?;
            actor.get_cell()
        }
        Child::Keeper => {
            let actor = myself.spawn(name, JournalKeeper, context).await?;
            state.keeper = Some(actor.clone());
            actor.get_cell()
        }
        Child::Registrar => {
            let actor = myself.spawn(name, Registrar, context).await?;
            state.registrar = Some(actor.clone());
            actor.get_cell()
        }
        Child::Rebalancer => {
            let arguments = RebalancerArguments { pod: context, epoch };
            let actor = myself.spawn(name, Rebalancer, arguments).await?;
            state.rebalancer = Some(actor.clone());
            actor.get_cell()
        }
        Child::Pruner => {
            let share = Share::of_pod(context.peers.clone(), |block: &TaskBlock| {
                format!("prune/{}", block.0)
            });
            let arguments = TaskPrunerArguments { pod: context, share };
            let actor = myself.spawn(name, TaskPruner, arguments).await?;
            actor.get_cell()
        }
        Child::Drift => {
            let share = Share::of_pod(context.peers.clone(), |item: &DriftItem| {
                format!("drift/{}/{}", item.index, item.node)
            });
            let arguments = DriftCheckerArguments { pod: context, share, root: myself.clone() };
            let actor = myself.spawn(name, DriftChecker, arguments).await?;
            actor.get_cell()
        }
        Child::AntiEntropy => {
            let share = Share::of_pod(context.peers.clone(), |item: &ShardItem| {
                format!("compare/{}/{}", item.index, item.shard)
            });
            let arguments = AntiEntropyArguments { pod: context, share, root: myself.clone() };
            let actor = myself.spawn(name, AntiEntropy, arguments).await?;
            state.anti_entropy = Some(actor.clone());
            actor.get_cell()
        }
        Child::Writer(index) => {
            let arguments = WriterArguments { pod: context, index: index.clone(), epoch };
            let actor = myself.spawn(name, Writer, arguments).await?;
            state.writers.insert(index.clone(), actor.clone());
            actor.get_cell()
        }
    };
    state.children.started(child, cell);
    Ok(())
}
