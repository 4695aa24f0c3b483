//! Moves replicas to where they belong: when nodes come, are drained or stay away, and when the number
//! of copies changes.
//!
//! A role. Owns: since when nodes are down; nothing else that is not in the log. Each round compares
//! where replicas are with where rendezvous wants them ([`plan`]) and tells the log the next steps:
//! replicas to place, and ones to take away since their successors are in sync. The indexes'
//! writers do the rest ([`crate::writer`]): they fill what is placed, and delete what is left. So a
//! move has no state of its own, and whoever takes the role over goes on with it. A restart
//! only forgets how long nodes have been down.

pub mod plan;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use miroir_storage::commands::{Command, Outcome, RoleFence};
use miroir_storage::ids::{Epoch, NodeId};
use miroir_storage::log::ProposeError;
use miroir_storage::routing::{Routing, to_nanoseconds};
use miroir_storage::tables::roles::REBALANCER;
use miroir_storage::tables::topology::MovesNote;
use miroir_storage::topology_commands::TopologyCommand;
use ractor::ActorProcessingErr;
use tokio::time::Instant;

use self::plan::{Distance, distance, plan_steps};
use crate::inspect::{Actor, Address};
use crate::pod::PodContext;

/// Between rounds.
const INTERVAL: Duration = Duration::from_secs(1);
/// A pod that has just started holds nobody for down: before this no node counts as back.
const JUDGES_AFTER: Duration = Duration::from_secs(60);

/// What the rebalancer is told.
#[derive(Debug)]
pub enum RebalancerMessage {
    /// Time for a round.
    Round,
    /// A round ended (from the rebalancer's own task).
    Ended(Result<(), RoundError>),
}

/// The rebalancer actor.
#[derive(Debug)]
pub struct Rebalancer;

/// How the rebalancer starts.
#[derive(Clone, Debug)]
pub struct RebalancerArguments {
    /// The pod.
    pub pod: Arc<PodContext>,
    /// The epoch that was taken for this life.
    pub epoch: Epoch,
}

/// The rebalancer's state.
#[derive(Debug)]
pub struct RebalancerState {
    pod: Arc<PodContext>,
    fence: RoleFence,
    down_since: BTreeMap<NodeId, Instant>,
    started: Instant,
}

/// Why a round ended early.
#[derive(Debug, thiserror::Error)]
pub enum RoundError {
    /// The log takes nothing; the next round begins anew.
    #[error(transparent)]
    Log(#[from] ProposeError),
    /// The role is another pod's.
    #[error("the role was taken over: epoch {0} is in force")]
    Fenced(Epoch),
}

#[ractor::async_trait]
impl Actor for Rebalancer {
    type Msg = RebalancerMessage;
    type State = RebalancerState;
    type Arguments = RebalancerArguments;

    const KIND: &'static str = "Rebalancer";

    async fn pre_start(
        &self,
        myself: Address<RebalancerMessage>,
        arguments: RebalancerArguments,
    ) -> Result<RebalancerState, ActorProcessingErr> {
        let RebalancerArguments { pod, epoch } = arguments;
        myself.cast(RebalancerMessage::Round)?;
        let fence = RoleFence { role: REBALANCER.to_owned(), epoch };
        let started = pod.seams.clock.instant();
        Ok(RebalancerState { pod, fence, down_since: BTreeMap::new(), started })
    }

    async fn handle(
        &self,
        myself: Address<RebalancerMessage>,
        message: RebalancerMessage,
        state: &mut RebalancerState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            RebalancerMessage::Round => {
                let commands = state.due();
                let pod = state.pod.clone();
                pod.seams.tasks.clone().spawn("rebalancer round", async move {
                    let ended = carry_out(&pod, commands).await;
                    pod.seams.clock.sleep(INTERVAL).await;
                    let _stopped = myself.cast(RebalancerMessage::Ended(ended));
                });
                return Ok(());
            }
            RebalancerMessage::Ended(Err(error @ RoundError::Fenced(_))) => {
                // The event that gave it away stops this actor, if it is not this pod's again.
                return Err(error.into());
            }
            RebalancerMessage::Ended(Err(error)) => {
                tracing::warn!(%error, "replicas could not be looked after, trying again");
            }
            RebalancerMessage::Ended(Ok(())) => {}
        }
        myself.cast(RebalancerMessage::Round)?;
        Ok(())
    }
}

/// Proposes one after the other, so that each is decided with the one before it in force.
async fn carry_out(pod: &PodContext, commands: Vec<TopologyCommand>) -> Result<(), RoundError> {
    for command in commands {
        match pod.log.propose(&Command::Topology(Box::new(command))).await {
            Ok(Outcome::Fenced { current }) => return Err(RoundError::Fenced(current)),
            // Pods of an older version don't move anything.
            Ok(_) | Err(ProposeError::TooNew { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

impl RebalancerState {
    /// What is to be told to the log now.
    fn due(&mut self) -> Vec<TopologyCommand> {
        let routing = self.pod.log.routing();
        let topology = &routing.topology;
        let mut commands = Vec::new();
        if topology.replication_factor.is_none() {
            let factor = u32::try_from(self.pod.config.replication_factor).unwrap_or(u32::MAX);
            // Everything else depends on it.
            return vec![TopologyCommand::SetReplication { factor, if_unset: true }];
        }
        for (node, away) in self.away(&routing) {
            tracing::info!(%node, away, "node is away for long, or back");
            commands.push(TopologyCommand::SetAway { fence: self.fence.clone(), node, away });
        }
        let distance = distance(&routing);
        let at = to_nanoseconds(self.pod.seams.clock.now());
        if let Some(note) = note_moves(topology.moves.as_ref(), distance, at) {
            commands.push(TopologyCommand::NoteMoves { fence: self.fence.clone(), note });
        }
        if self.pod.moves_rest() {
            return commands;
        }
        for step in plan_steps(&routing, &|node| self.pod.health.is_down(node)) {
            let (index, fence) = (step.index, &self.fence);
            tracing::info!(%index, placed = step.widen.len(), taken_away = step.narrow.len(),
                "moving replicas");
            if !step.widen.is_empty() {
                let (index, replicas) = (index.clone(), step.widen);
                let fence = fence.clone();
                commands.push(TopologyCommand::Widen { fence, index, replicas });
            }
            if !step.narrow.is_empty() {
                let (replicas, fence) = (step.narrow, fence.clone());
                commands.push(TopologyCommand::Narrow { fence, index, replicas });
            }
        }
        commands
    }

    /// The nodes that have been down too long, and those that are back.
    fn away(&mut self, routing: &Routing) -> Vec<(NodeId, bool)> {
        let down = self.pod.health.down();
        let now = self.pod.seams.clock.instant();
        self.down_since.retain(|node, _| down.contains(node));
        for node in down.iter() {
            self.down_since.entry(node.clone()).or_insert(now);
        }
        let known = &routing.topology.away;
        let lasted = |since: Instant, time| now.saturating_duration_since(since) >= time;
        let grace = self.pod.config.node_grace;
        let lost = self.down_since.iter().filter(|(_, since)| lasted(**since, grace));
        let lost = lost
            .map(|(node, _)| node)
            .filter(|node| !known.contains(*node) && routing.nodes.contains_key(*node));
        let may_judge = lasted(self.started, JUDGES_AFTER);
        let back = known.iter().filter(|node| may_judge && !down.contains(*node));
        lost.map(|node| (node.clone(), true))
            .chain(back.map(|node| (node.clone(), false)))
            .collect()
    }
}

/// What is to be noted of moves that begin, become more, or are over; `None`: as it was.
fn note_moves(noted: Option<&MovesNote>, distance: Distance, at: i64) -> Option<Option<MovesNote>> {
    let total = distance.missing as u64;
    match noted {
        None if distance.is_none() => None,
        None => Some(Some(MovesNote { began_at: at, total })),
        Some(_) if distance.is_none() => Some(None),
        Some(note) if note.total < total => {
            Some(Some(MovesNote { began_at: note.began_at, total }))
        }
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moves_are_noted_when_they_begin_grow_and_end() {
        let missing = |missing| Distance { missing, ..Distance::default() };
        let note = |total| MovesNote { began_at: 7, total };
        assert_eq!(note_moves(None, missing(0), 7), None);
        assert_eq!(note_moves(None, missing(3), 7), Some(Some(note(3))));
        assert_eq!(note_moves(Some(&note(3)), missing(2), 9), None);
        assert_eq!(note_moves(Some(&note(3)), missing(5), 9), Some(Some(note(5))));
        let leaving = Distance { leaving: 1, ..Distance::default() };
        assert_eq!(note_moves(Some(&note(3)), leaving, 9), None);
        assert_eq!(note_moves(Some(&note(3)), missing(0), 9), Some(None));
    }
}
