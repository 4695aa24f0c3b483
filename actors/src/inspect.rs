//! Every actor can be looked at: what runs, how much waits, what failed.
//!
//! ractor shows neither the depth of a mailbox nor counts. So actors of a pod implement [`Actor`]
//! and are sent to through an [`Address`]; both are thin layers over ractor's that count, and the
//! only way to spawn or send (`scripts/tidy` checks it). Owns: the [`Inventory`] of a pod's actors. Does
//! not own: what is done about a failure; that is [`crate::pod`]'s and [`crate::restarts`]'. No state
//! is global to the process. A message costs some atomic additions and two looks at the clock; the
//! inventory's lock is taken when an actor starts, ends, fails or is looked at.
//!
//! ```text
//!               ,---------------- start -----------------------.
//!               v                                              |
//!  start -> starting --started--> running --failed--> waiting -'
//!               `------failed---------|------------------^
//!                                     `--ended, by order or with its parent--> stopped | forgotten
//! ```
//! An actor that failed too often in a row is shown as `failing` instead, while it waits or has
//! not run steadily since.
//!
//! # What bounds each mailbox
//! ractor's mailboxes have no bound of their own. What may be in them is bounded by whoever sends:
//!
//! | actor | who sends | bound |
//! |---|---|---|
//! | `Pod` | log feed | what all pods had agreed and this one has not told its actors; beyond [`BACKLOG_MAX`] this pod accepts no writes |
//! | | health checker | two changes a node and health round |
//! | | drift checker, anti-entropy | one at a time, each after a call to a node |
//! | | peers (hints), operators | refused beyond [`OUTSIDE_DEPTH_MAX`] |
//! | | its own timers | one for each child that waits |
//! | `NodeTasks` | lanes, operations, copies | one task each that is open on the node |
//! | | its own look | one |
//! | `HealthChecker` | its own round | one answer a node, and the next round |
//! | `IndexJanitor` | itself, the root | one for each node that came back, and one timer |
//! | `Coordinator`, `JournalKeeper`, `TaskPruner`, `DriftChecker` | their own timer | one |
//! | `JobWorker` | the root | one for each chunk that came, was given back or was done (they are bounded), and for each job's begin and end |
//! | | its timer, its chunks | one; one each |
//! | `Rebalancer` | the root | one: the next round, or the end of this one |
//! | `Registrar` | the root | one for each open task without an index, one for each batch of ended tasks |
//! | `WebhookSender` | the root | one for each batch of ended tasks |
//! | `Writer` | the root | one for each open task of its index (admission by the gateway and the journal's bytes), one for each batch of ended tasks (handled at once), changes of nodes |
//! | | its lanes, operation, copy, proposals | one each: a lane has one run, a writer one proposal of a kind |
//! | | its own timer | one |
//! | `Lane` | its writer | one: the lane is idle when it is told; and the end of its own run |
//! | `Operation` | itself | one |
//! | `ReplicaCopy` | its writer | one: the next pass after the one before |

mod inventory;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ractor::{
    ActorCell, ActorId, ActorProcessingErr, ActorRef, Message, MessagingErr, SpawnErr,
    SupervisionEvent,
};

use self::inventory::Place;
pub use self::inventory::{ActorReport, ActorState, Inventory};

/// With more in the root's mailbox new writes are refused: its actors are further behind than
/// they could be in order.
pub const BACKLOG_MAX: u64 = 10_000;
/// With more in the root's mailbox peers and operators are refused.
pub const OUTSIDE_DEPTH_MAX: u64 = 1_000;

/// An actor of a pod: ractor's, but for its address and the events of its children.
#[ractor::async_trait]
pub trait Actor: Sized + Send + Sync + 'static {
    /// What it is told.
    type Msg: Message;
    /// What it keeps.
    type State: Send + 'static;
    /// How it starts.
    type Arguments: Send + 'static;

    /// What it is, for people.
    const KIND: &'static str;
    /// It ends by itself when its work is done, and nobody asks for it afterwards.
    const TRANSIENT: bool = false;

    /// Makes the state. An error or panic is the starter's.
    async fn pre_start(
        &self,
        myself: Address<Self::Msg>,
        arguments: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr>;

    /// Handles one message. An error or panic ends the actor and is its supervisor's.
    async fn handle(
        &self,
        myself: Address<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr>;

    /// A child started, ended or failed.
    async fn handle_supervisor_evt(
        &self,
        _myself: Address<Self::Msg>,
        _event: SupervisionEvent,
        _state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    /// The actor was stopped in order; not called when it fails or is killed.
    async fn post_stop(
        &self,
        _myself: Address<Self::Msg>,
        _state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        Ok(())
    }
}

/// Where one life of an actor is sent to. Clones share it; it outlives the actor.
pub struct Address<M> {
    actor: ActorRef<M>,
    place: Place,
}

impl<M> Clone for Address<M> {
    fn clone(&self) -> Self {
        Self { actor: self.actor.clone(), place: self.place.clone() }
    }
}

impl<M> fmt::Debug for Address<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Address").field(&self.place.tally.id).finish()
    }
}

impl<M: Message> Address<M> {
    /// Puts a message into the mailbox.
    ///
    /// # Errors
    /// When the actor has ended.
    pub fn cast(&self, message: M) -> Result<(), MessagingErr<M>> {
        let tally = &self.place.tally;
        // Before it is there, so that it is never taken before it was counted.
        tally.sent.fetch_add(1, Ordering::Relaxed);
        let sent = self.actor.send_message(message);
        if sent.is_err() {
            tally.sent.fetch_sub(1, Ordering::Relaxed);
        }
        sent
    }

    /// Starts a child. `name` is unique in the pod.
    ///
    /// # Errors
    /// When `pre_start` fails.
    pub async fn spawn<A: Actor>(
        &self,
        name: String,
        actor: A,
        arguments: A::Arguments,
    ) -> Result<Address<A::Msg>, SpawnErr> {
        let Place { tally, inventory } = &self.place;
        let place = inventory.register(name, A::KIND, Some(&tally.id));
        let inspected = Inspected { actor, place: place.clone() };
        let supervisor = self.actor.get_cell();
        let spawned = ractor::Actor::spawn_linked(None, inspected, arguments, supervisor).await;
        place.inventory.started(&place.tally, spawned.as_ref().err());
        spawned.map(|(actor, _)| Address { actor, place })
    }
}

/// Starts the actor that has no parent.
///
/// # Errors
/// When its `pre_start` fails.
pub async fn spawn_root<A: Actor>(
    inventory: &Arc<Inventory>,
    name: String,
    actor: A,
    arguments: A::Arguments,
) -> Result<Address<A::Msg>, SpawnErr> {
    let place = inventory.register(name, A::KIND, None);
    let inspected = Inspected { actor, place: place.clone() };
    let spawned = ractor::Actor::spawn(None, inspected, arguments).await;
    inventory.started(&place.tally, spawned.as_ref().err());
    spawned.map(|(actor, _)| Address { actor, place })
}

impl<M> Address<M> {
    /// Stops the actor after the message under way.
    pub fn stop(&self, reason: Option<String>) {
        self.actor.stop(reason);
    }

    /// Waits for the actor's end.
    pub async fn wait(&self) {
        let _end = self.actor.wait(None).await;
    }

    /// Messages that wait.
    pub fn depth(&self) -> u64 {
        self.place.tally.depth()
    }

    /// Its number in this process: never shown, since no two runs have the same.
    pub fn get_id(&self) -> ActorId {
        self.actor.get_id()
    }

    /// For stopping and killing only: what is sent this way is not counted.
    pub fn get_cell(&self) -> ActorCell {
        self.actor.get_cell()
    }
}

/// The actor that ractor runs: one of ours, counted. Its end, of whatever kind, drops it.
struct Inspected<A: Actor> {
    actor: A,
    place: Place,
}

impl<A: Actor> Inspected<A> {
    /// The root has no supervisor that could note it.
    fn note_failure_of_root(&self, error: &ActorProcessingErr) {
        let Place { tally, inventory } = &self.place;
        if let (None, Some(actor)) = (&tally.parent, tally.actor.get()) {
            inventory.failed(*actor, &error.to_string());
        }
    }

    fn address(&self, actor: ActorRef<A::Msg>) -> Address<A::Msg> {
        Address { actor, place: self.place.clone() }
    }
}

impl<A: Actor> Drop for Inspected<A> {
    fn drop(&mut self) {
        self.place.inventory.ended(&self.place.tally, A::TRANSIENT);
    }
}

#[ractor::async_trait]
impl<A: Actor> ractor::Actor for Inspected<A> {
    type Msg = A::Msg;
    type State = A::State;
    type Arguments = A::Arguments;

    async fn pre_start(
        &self,
        myself: ActorRef<A::Msg>,
        arguments: A::Arguments,
    ) -> Result<A::State, ActorProcessingErr> {
        let _first = self.place.tally.actor.set(myself.get_id());
        self.actor.pre_start(self.address(myself), arguments).await
    }

    async fn handle(
        &self,
        myself: ActorRef<A::Msg>,
        message: A::Msg,
        state: &mut A::State,
    ) -> Result<(), ActorProcessingErr> {
        let Place { tally, inventory } = &self.place;
        let before = inventory.age_nanoseconds();
        tally.taken.fetch_add(1, Ordering::Relaxed);
        tally.busy_since.store(before.saturating_add(1), Ordering::Relaxed);
        let handled = self.actor.handle(self.address(myself), message, state).await;
        let spent = inventory.age_nanoseconds().saturating_sub(before);
        tally.busy.fetch_add(spent, Ordering::Relaxed);
        tally.busy_since.store(0, Ordering::Relaxed);
        tally.handled.fetch_add(1, Ordering::Relaxed);
        handled.inspect_err(|error| self.note_failure_of_root(error))
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<A::Msg>,
        event: SupervisionEvent,
        state: &mut A::State,
    ) -> Result<(), ActorProcessingErr> {
        // Here and not where the error is made: panics come this way, too.
        if let SupervisionEvent::ActorFailed(cell, error) = &event {
            self.place.inventory.failed(cell.get_id(), &error.to_string());
        }
        self.actor.handle_supervisor_evt(self.address(myself), event, state).await
    }

    async fn post_stop(
        &self,
        myself: ActorRef<A::Msg>,
        state: &mut A::State,
    ) -> Result<(), ActorProcessingErr> {
        self.actor.post_stop(self.address(myself), state).await
    }
}

#[cfg(test)]
mod tests;
