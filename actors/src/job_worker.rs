//! Works on the chunks of jobs (spec 02, Jobs).
//!
//! One on every pod. Owns: which chunks this pod claims, and the work on them (`work.rs`), each in a
//! task of its own. Does not own: the jobs, their chunks and how far each is; that is the log's
//! ([`miroir_storage::tables::jobs`]), so whoever claims a chunk next goes on from there. A claim is
//! fenced by its number: what a former holder proposes is refused. A chunk is taken over when its
//! holder is dead by gossip, or not heard of for 30 s (`plan.rs`).
//!
//! Told by the root when chunks came or were given back; looks by itself every second, since it
//! must notice silence. Gives back this pod's copy of a chunk as soon as it is open no more. A
//! restart leaves the former life's work running: its next proposal is refused, since this life
//! claims its chunks anew.

mod cut;
mod plan;
mod work;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use miroir_storage::commands::PayloadRef;
use miroir_storage::ids::JobId;
use miroir_storage::job_commands::JobCommand;
use miroir_storage::tables::jobs;
use ractor::ActorProcessingErr;

use self::plan::{Asking, OpenJob, Place, Watch, plan_claims};
use self::work::{is_leaving, work_on};
use crate::copies;
use crate::inspect::{Actor, Address};
use crate::pod::PodContext;

/// Between looks.
const LOOK: Duration = Duration::from_secs(1);
/// Chunks that a pod works on at the same time: two jobs go on side by side, and little memory.
const SLOTS: usize = 2;

/// What the worker is told.
#[derive(Debug)]
pub enum JobWorkerMessage {
    /// Time for a look.
    LookAround,
    /// A chunk came, or was given back; a job ended.
    Changed,
    /// The work on a chunk ended (from its own task).
    Ended {
        /// Job and chunk.
        place: (JobId, u32),
    },
}

/// Whether the worker is told of a command.
pub fn concerns(command: &JobCommand) -> bool {
    matches!(
        command,
        JobCommand::AddChunk { .. } | JobCommand::Release { .. } | JobCommand::End { .. }
    )
}

/// Whether this pod works on chunks, by the log.
pub fn holds_chunks(pod: &PodContext) -> bool {
    jobs::open_chunks(pod.log.engine().as_ref())
        .is_ok_and(|open| open.values().flatten().any(|c| c.holder.as_ref() == Some(&pod.id)))
}

/// The worker actor.
#[derive(Debug)]
pub struct JobWorker;

/// The worker's state.
#[derive(Debug)]
pub struct JobWorkerState {
    pod: Arc<PodContext>,
    watch: Watch,
    working: BTreeSet<Place>,
    /// What this pod's journal holds of open chunks.
    held: BTreeMap<Place, PayloadRef>,
}

#[ractor::async_trait]
impl Actor for JobWorker {
    type Msg = JobWorkerMessage;
    type State = JobWorkerState;
    type Arguments = Arc<PodContext>;

    const KIND: &'static str = "JobWorker";

    async fn pre_start(
        &self,
        myself: Address<JobWorkerMessage>,
        pod: Arc<PodContext>,
    ) -> Result<JobWorkerState, ActorProcessingErr> {
        schedule(&myself, &pod);
        Ok(JobWorkerState {
            pod,
            watch: Watch::default(),
            working: BTreeSet::new(),
            held: BTreeMap::new(),
        })
    }

    async fn handle(
        &self,
        myself: Address<JobWorkerMessage>,
        message: JobWorkerMessage,
        state: &mut JobWorkerState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            JobWorkerMessage::LookAround => schedule(&myself, &state.pod),
            JobWorkerMessage::Changed => {}
            JobWorkerMessage::Ended { place } => {
                state.working.remove(&place);
            }
        }
        look(&myself, state)
    }
}

fn schedule(myself: &Address<JobWorkerMessage>, pod: &PodContext) {
    let (myself, clock) = (myself.clone(), pod.seams.clock.clone());
    pod.seams.tasks.spawn("job worker pace", async move {
        clock.sleep(LOOK).await;
        let _stopped = myself.cast(JobWorkerMessage::LookAround);
    });
}

fn look(
    myself: &Address<JobWorkerMessage>,
    state: &mut JobWorkerState,
) -> Result<(), ActorProcessingErr> {
    let pod = state.pod.clone();
    let engine = pod.log.engine().as_ref();
    let mut open = Vec::new();
    for (id, chunks) in jobs::open_chunks(engine)? {
        if let Some(job) = jobs::read(engine, id)?.filter(|job| !job.ended()) {
            open.push(OpenJob { job, chunks });
        }
    }
    give_back(state, &open);
    let now = pod.seams.clock.instant();
    state.watch.look(&open, now);
    if is_leaving(&pod) {
        return Ok(());
    }
    let peers = pod.peers.now();
    let asking = Asking { own: &pod.id, peers: &peers, working: &state.working, slots: SLOTS, now };
    for (place, over) in plan_claims(&open, &state.watch, asking) {
        state.working.insert(place);
        let (myself, pod) = (myself.clone(), pod.clone());
        let tasks = pod.seams.tasks.clone();
        let work = tasks.spawn("job's chunk", async move {
            if let Err(error) = work_on(&pod, place, over).await {
                tracing::warn!(%error, job = %place.0, chunk = place.1, "work on a chunk ended early");
            }
        });
        tasks.spawn("end of a job's chunk", async move {
            // Also one that panicked is over.
            let _panicked = work.await;
            let _stopped = myself.cast(JobWorkerMessage::Ended { place });
        });
    }
    Ok(())
}

/// Gives back this pod's copies of chunks that were open and are not any more.
fn give_back(state: &mut JobWorkerState, open: &[OpenJob]) {
    let mut held = BTreeMap::new();
    for OpenJob { job, chunks } in open {
        for chunk in chunks {
            if chunk.payload.holders.iter().any(|(holder, _)| *holder == state.pod.id) {
                held.insert((job.id, chunk.number), chunk.payload.clone());
            }
        }
    }
    for (place, payload) in std::mem::replace(&mut state.held, held) {
        if !state.held.contains_key(&place) {
            copies::release(&state.pod, &payload);
        }
    }
}

#[cfg(test)]
mod tests;
