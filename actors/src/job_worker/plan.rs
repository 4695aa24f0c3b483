//! Which chunks this pod claims: a pure rule.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use miroir_storage::ids::{JobId, PodId};
use miroir_storage::job_commands::Beat;
use miroir_storage::tables::jobs::{ChunkRecord, JobRecord};
use tokio::time::Instant;

use crate::peers::Peers;

/// A holder that is not heard of for so long has lost its chunk (spec 02). Measured by whoever
/// watches, between two looks at the same beat: no clocks are compared.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(30);
/// How long the pod that rendezvous names for a new chunk is given to take it.
const COURTESY: Duration = Duration::from_millis(1500);

/// A chunk of a job.
pub(super) type Place = (JobId, u32);

/// The open chunks of a job.
#[derive(Clone, Debug)]
pub(super) struct OpenJob {
    pub(super) job: JobRecord,
    pub(super) chunks: Vec<ChunkRecord>,
}

/// The beats of open chunks, and since when each has been the same.
#[derive(Debug, Default)]
pub(super) struct Watch {
    seen: BTreeMap<Place, (Beat, Instant)>,
}

impl Watch {
    /// Takes note of what is there now.
    pub(super) fn look(&mut self, jobs: &[OpenJob], now: Instant) {
        let mut seen = BTreeMap::new();
        for OpenJob { job, chunks } in jobs {
            for chunk in chunks {
                let place = (job.id, chunk.number);
                let since = match self.seen.get(&place) {
                    Some((beat, since)) if *beat == chunk.beat => *since,
                    _ => now,
                };
                seen.insert(place, (chunk.beat, since));
            }
        }
        self.seen = seen;
    }

    fn same_for(&self, place: Place, now: Instant) -> Duration {
        self.seen
            .get(&place)
            .map_or(Duration::ZERO, |(_, since)| now.saturating_duration_since(*since))
    }
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asking<'a> {
    pub(super) own: &'a PodId,
    pub(super) peers: &'a Peers,
    /// What this pod works on, or is about to claim.
    pub(super) working: &'a BTreeSet<Place>,
    /// Chunks that it works on at the same time.
    pub(super) slots: usize,
    pub(super) now: Instant,
}

/// The chunks to claim, each with the beat that the claim is to replace. Each goes to the job
/// with the fewest chunks in work on all pods, so that jobs share the pods fairly.
pub(super) fn plan_claims(
    jobs: &[OpenJob],
    watch: &Watch,
    asking: Asking<'_>,
) -> Vec<(Place, Beat)> {
    let mut free = asking.slots.saturating_sub(asking.working.len());
    let mut candidates: Vec<(usize, JobId, Vec<&ChunkRecord>)> = jobs
        .iter()
        .map(|open| {
            let can_be_taken = |chunk: &&ChunkRecord| can_be_taken(open, chunk, watch, asking);
            let (mut takeable, others): (Vec<&ChunkRecord>, Vec<&ChunkRecord>) =
                open.chunks.iter().partition(can_be_taken);
            let in_work = others.iter().filter(|chunk| {
                chunk.holder.is_some() || asking.working.contains(&(open.job.id, chunk.number))
            });
            let in_work = in_work.count();
            takeable.sort_by_key(|chunk| (!is_named(open.job.id, chunk, asking), chunk.number));
            takeable.reverse();
            (in_work, open.job.id, takeable)
        })
        .collect();
    let mut claims = Vec::new();
    while free > 0 {
        let next = candidates.iter_mut().filter(|(_, _, takeable)| !takeable.is_empty());
        let Some((in_work, job, takeable)) = next.min_by_key(|(in_work, job, _)| (*in_work, *job))
        else {
            break;
        };
        let Some(chunk) = takeable.pop() else { break };
        claims.push(((*job, chunk.number), chunk.beat));
        *in_work += 1;
        free -= 1;
    }
    claims
}

fn can_be_taken(open: &OpenJob, chunk: &ChunkRecord, watch: &Watch, asking: Asking<'_>) -> bool {
    let place = (open.job.id, chunk.number);
    if asking.working.contains(&place)
        || (open.job.request.ordered && chunk.number != open.job.next)
    {
        return false;
    }
    let same_for = watch.same_for(place, asking.now);
    match &chunk.holder {
        None => is_named(open.job.id, chunk, asking) || same_for >= COURTESY,
        // Of a former life of this pod, or of its worker.
        Some(holder) if holder == asking.own => true,
        Some(holder) => {
            let died =
                asking.peers.seen.contains(holder) && !asking.peers.live.contains_key(holder);
            died || same_for >= SILENCE_MAX
        }
    }
}

/// Whether rendezvous names this pod for the chunk.
fn is_named(job: JobId, chunk: &ChunkRecord, asking: Asking<'_>) -> bool {
    let item = format!("job/{job}/{}", chunk.number);
    asking.peers.owner_of(&item).is_none_or(|owner| owner == asking.own)
}

#[cfg(test)]
mod tests {
    use miroir_storage::commands::PayloadRef;
    use miroir_storage::job_commands::{JobKind, NewJob};

    use super::*;
    use crate::peers::Peer;

    fn now_in_test() -> Instant {
        miroir_seams::Clock::simulated().instant()
    }

    fn job(id: u64, ordered: bool, next: u32, chunks: &[(u32, Option<&str>)]) -> OpenJob {
        let request = NewJob {
            kind: JobKind::NdjsonImport,
            index: "films".to_owned(),
            primary_key: None,
            name: None,
            partial: false,
            ordered,
            skips_errors: false,
        };
        let job = JobRecord {
            id: JobId(id),
            request,
            ending: None,
            failure: None,
            sealed: None,
            chunks: 9,
            chunks_done: 0,
            next,
            bytes: 0,
            bytes_done: 0,
            lines_done: 0,
            documents: 0,
            skipped: 0,
            errors: Vec::new(),
            tasks: 0,
            task_range: None,
            created_at: 0,
            started_at: None,
            touched_at: 0,
            ended_at: None,
        };
        let chunks = chunks.iter().map(|(number, holder)| ChunkRecord {
            number: *number,
            payload: PayloadRef { holders: Vec::new(), bytes: 1, count: 1 },
            sha256: [0; 32],
            holder: holder.map(PodId::from),
            beat: Beat { claim: u64::from(holder.is_some()), count: 0 },
            cursor: 0,
            lines: 0,
            open: Vec::new(),
            done: false,
        });
        OpenJob { job, chunks: chunks.collect() }
    }

    fn peers(live: &[&str], dead: &[&str], now: Instant) -> Peers {
        let peer = Peer { address: String::new(), since: now, leaving: false };
        let live: BTreeMap<PodId, Peer> =
            live.iter().map(|pod| (PodId::from(*pod), peer.clone())).collect();
        let seen = live.keys().cloned().chain(dead.iter().map(|pod| PodId::from(*pod))).collect();
        Peers { live, seen, ..Peers::default() }
    }

    fn plan(
        jobs: &[OpenJob],
        watch: &Watch,
        peers: &Peers,
        slots: usize,
        now: Instant,
    ) -> Vec<(u64, u32)> {
        let working = BTreeSet::new();
        let own = PodId::from("a");
        let asking = Asking { own: &own, peers, working: &working, slots, now };
        plan_claims(jobs, watch, asking).iter().map(|((job, chunk), _)| (job.0, *chunk)).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn jobs_share_the_slots_and_ordered_ones_go_step_by_step() {
        let now = now_in_test();
        let alone = peers(&["a"], &[], now);
        let watch = Watch::default();
        let jobs = [
            job(1, false, 0, &[(0, None), (1, None), (2, None)]),
            job(2, true, 4, &[(4, None), (5, None)]),
        ];
        assert_eq!(plan(&jobs, &watch, &alone, 3, now), vec![(1, 0), (2, 4), (1, 1)]);
        // What is in work elsewhere counts.
        let pods = peers(&["a", "b"], &[], now);
        let jobs = [job(1, false, 0, &[(0, Some("b")), (1, None)]), job(2, true, 0, &[(0, None)])];
        let mut watch = Watch::default();
        watch.look(&jobs, now);
        let later = now + COURTESY;
        assert_eq!(plan(&jobs, &watch, &pods, 1, later), vec![(2, 0)]);
        assert_eq!(plan(&jobs, &watch, &pods, 0, later), vec![]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_chunk_is_taken_over_from_the_dead_and_from_the_silent() {
        let now = now_in_test();
        let held = [job(1, true, 0, &[(0, Some("b"))])];
        let mut watch = Watch::default();
        watch.look(&held, now);
        assert_eq!(plan(&held, &watch, &peers(&["a"], &["b"], now), 2, now), vec![(1, 0)]);
        let live = peers(&["a", "b"], &[], now);
        let almost = now + SILENCE_MAX - Duration::from_secs(1);
        assert_eq!(plan(&held, &watch, &live, 2, almost), vec![]);
        assert_eq!(plan(&held, &watch, &live, 2, now + SILENCE_MAX), vec![(1, 0)]);
        // Heard of again.
        let mut beating = held.clone();
        beating[0].chunks[0].beat.count = 1;
        watch.look(&beating, almost);
        assert_eq!(plan(&beating, &watch, &live, 2, now + SILENCE_MAX), vec![]);
        let own = [job(1, true, 0, &[(0, Some("a"))])];
        assert_eq!(plan(&own, &watch, &live, 2, now), vec![(1, 0)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_chunk_goes_to_the_pod_that_rendezvous_names_if_it_takes_it() {
        let now = now_in_test();
        let chunks: Vec<(u32, Option<&str>)> = (0..20).map(|number| (number, None)).collect();
        let jobs = [job(1, false, 0, &chunks)];
        let pods = peers(&["a", "b"], &[], now);
        let mut watch = Watch::default();
        watch.look(&jobs, now);
        let at_once = plan(&jobs, &watch, &pods, 99, now).len();
        assert!((1..20).contains(&at_once), "{at_once}");
        assert_eq!(plan(&jobs, &watch, &pods, 99, now + COURTESY).len(), 20);
    }
}
