//! Gives back the journalled payloads that no open task and no open chunk of a job needs.
//!
//! A task's payload is given back once the log says that the task has ended: nobody reads it then.
//! The keeper finds the rest, too: writes that were refused after they were journalled, copies
//! that nobody heard of, chunks of jobs, and what ended while the pod was away. Owns: which open
//! task each record belongs to, and how long each of the others has had none. What is said of
//! tasks here holds of the chunks of jobs, too.
//!
//! A payload is in the journal before its task is in the log, and an entry may be committed long
//! after it was proposed. So a record goes only when no open task named it in two looks in a row,
//! `SPARE_TIME` apart, each of which began with the log's leader confirming that this pod had
//! applied all that was agreed. Sent to by its own timer and the log feed. A restart loads the open
//! tasks and begins the waiting anew.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use miroir_storage::commands::PayloadRef;
use miroir_storage::ids::{JournalSequence, PodId, TaskUid};
use miroir_storage::tables::jobs;
use miroir_storage::tables::tasks::{self, TaskRecord};
use ractor::ActorProcessingErr;
use tokio::time::Instant;

use crate::inspect::{Actor, Address};
use crate::pod::PodContext;

/// Between looks.
const INTERVAL: Duration = Duration::from_secs(5);
/// How long a record must have had no task: longer than a write is between journal and log.
const SPARE_TIME: Duration = Duration::from_secs(60);
/// How long the leader may take to confirm.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(2);

/// What the keeper is told.
#[derive(Debug)]
pub enum JournalKeeperMessage {
    /// The log accepted a task whose payload is in this pod's journal.
    Held {
        /// The task.
        uid: TaskUid,
        /// Its records.
        sequences: Vec<JournalSequence>,
    },
    /// Tasks ended.
    Ended(Vec<TaskUid>),
    /// Time for a look.
    Look,
    /// The log was confirmed (from the keeper's own task), or not.
    Confirmed(bool),
}

/// The keeper actor.
#[derive(Debug)]
pub struct JournalKeeper;

/// The keeper's state.
#[derive(Debug)]
pub struct JournalKeeperState {
    pod: Arc<PodContext>,
    /// The records of open tasks.
    held: BTreeMap<TaskUid, Vec<JournalSequence>>,
    spare: Spare,
}

#[ractor::async_trait]
impl Actor for JournalKeeper {
    type Msg = JournalKeeperMessage;
    type State = JournalKeeperState;
    type Arguments = Arc<PodContext>;

    const KIND: &'static str = "JournalKeeper";

    async fn pre_start(
        &self,
        myself: Address<JournalKeeperMessage>,
        pod: Arc<PodContext>,
    ) -> Result<JournalKeeperState, ActorProcessingErr> {
        schedule(&myself, &pod);
        let open = tasks::read_open(pod.log.engine().as_ref())?;
        let held = open.iter().map(|task| (task.uid, held_by(&pod.id, task))).collect();
        Ok(JournalKeeperState { pod, held, spare: Spare::default() })
    }

    async fn handle(
        &self,
        myself: Address<JournalKeeperMessage>,
        message: JournalKeeperMessage,
        state: &mut JournalKeeperState,
    ) -> Result<(), ActorProcessingErr> {
        let pod = state.pod.clone();
        match message {
            JournalKeeperMessage::Held { uid, sequences } => {
                state.held.insert(uid, sequences);
            }
            JournalKeeperMessage::Ended(uids) => {
                let records = uids.iter().filter_map(|uid| state.held.remove(uid)).flatten();
                records.for_each(|sequence| pod.journal.release(sequence));
            }
            JournalKeeperMessage::Look if pod.journal.usage().records == 0 => {
                state.spare = Spare::default();
                schedule(&myself, &pod);
            }
            JournalKeeperMessage::Look => {
                pod.seams.tasks.clone().spawn("journal keeper", async move {
                    let confirmed = pod.confirm(CONFIRM_TIMEOUT).await;
                    let _stopped = myself.cast(JournalKeeperMessage::Confirmed(confirmed));
                });
            }
            JournalKeeperMessage::Confirmed(confirmed) => {
                if confirmed {
                    look(state)?;
                }
                schedule(&myself, &pod);
            }
        }
        Ok(())
    }
}

fn schedule(myself: &Address<JournalKeeperMessage>, pod: &PodContext) {
    let (myself, clock) = (myself.clone(), pod.seams.clock.clone());
    pod.seams.tasks.spawn("journal keeper pace", async move {
        clock.sleep(INTERVAL).await;
        let _stopped = myself.cast(JournalKeeperMessage::Look);
    });
}

/// The task's records in the journal of pod `own`.
pub fn held_by(own: &PodId, task: &TaskRecord) -> Vec<JournalSequence> {
    task.work.payload().into_iter().flat_map(|payload| records_of(own, payload)).collect()
}

/// The payload's records in the journal of pod `own`.
fn records_of(own: &PodId, payload: &PayloadRef) -> Vec<JournalSequence> {
    let holders = payload.holders.iter().filter(|(holder, _)| holder == own);
    holders.map(|(_, sequence)| *sequence).collect()
}

fn look(state: &mut JournalKeeperState) -> Result<(), ActorProcessingErr> {
    let pod = &state.pod;
    // Listed before the tasks are read: what is journalled meanwhile is not looked at.
    let held = pod.journal.sequences();
    let open = tasks::read_open(pod.log.engine().as_ref())?;
    let chunks = jobs::open_chunks(pod.log.engine().as_ref())?;
    let of_chunks = chunks.values().flatten().flat_map(|chunk| records_of(&pod.id, &chunk.payload));
    let of_tasks = open.iter().flat_map(|task| held_by(&pod.id, task));
    let needed: BTreeSet<JournalSequence> = of_tasks.chain(of_chunks).collect();
    for sequence in state.spare.look(&held, &needed, pod.seams.clock.instant()) {
        pod.journal.release(sequence);
    }
    Ok(())
}

/// Records that had no task at the last look, and since when.
#[derive(Debug, Default)]
struct Spare {
    since: BTreeMap<JournalSequence, Instant>,
}

impl Spare {
    /// The records to give back.
    fn look(
        &mut self,
        held: &[JournalSequence],
        needed: &BTreeSet<JournalSequence>,
        now: Instant,
    ) -> Vec<JournalSequence> {
        let mut since = BTreeMap::new();
        let mut over = Vec::new();
        for sequence in held.iter().filter(|sequence| !needed.contains(sequence)) {
            let first = self.since.get(sequence).copied().unwrap_or(now);
            if now.saturating_duration_since(first) >= SPARE_TIME {
                over.push(*sequence);
            } else {
                since.insert(*sequence, first);
            }
        }
        self.since = since;
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now_in_test() -> Instant {
        miroir_seams::Clock::simulated().instant()
    }

    #[tokio::test(start_paused = true)]
    async fn a_record_goes_only_after_it_had_no_task_for_long() {
        let mut spare = Spare::default();
        let (a, b) = (JournalSequence(1), JournalSequence(2));
        let start = now_in_test();
        let none = BTreeSet::new();
        assert!(spare.look(&[a, b], &none, start).is_empty());
        let late = start + SPARE_TIME;
        // An entry that was committed late names it after all.
        assert_eq!(spare.look(&[a, b], &BTreeSet::from([b]), late), vec![a]);
        assert!(spare.look(&[b], &none, late + INTERVAL).is_empty());
        assert_eq!(spare.look(&[b], &none, late + INTERVAL + SPARE_TIME), vec![b]);
    }
}
