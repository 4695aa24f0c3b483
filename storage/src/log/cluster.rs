//! Logs of several pods on virtual time, over a network in memory that can be cut.

mod elections;
mod growth;
mod network;
mod proposals;

use std::collections::BTreeMap;

use network::Net;

use super::*;
use crate::commands::{EnqueueTask, Work};
use crate::engine::{ALL_KEYS, Direction, MemoryEngine};
use crate::tables::TASKS;
use crate::tables::tasks;

type TestResult = Result<(), Box<dyn std::error::Error>>;

/// A command that tells who proposed it and as which of its proposals.
fn work(by: usize, number: u64) -> Command {
    Command::EnqueueTask(Box::new(EnqueueTask {
        index: None,
        work: Work::CancelTasks { original_filter: String::new(), uids: Vec::new() },
        create: None,
        custom_metadata: Some(format!("{by} {number}")),
        at: 0,
    }))
}

/// One pod's disk, and its log while it runs.
struct Pod {
    disk: MemoryEngine,
    running: Option<(CoordinatorLog, Seams)>,
}

/// Some pods; pod `n` is reached at `pod-n`.
struct Cluster {
    net: Net,
    pods: BTreeMap<usize, Pod>,
    seeds: u64,
}

impl Cluster {
    fn new(seed: u64) -> Self {
        Self { net: Net::default(), pods: BTreeMap::new(), seeds: seed * 1000 }
    }

    /// Pods `0..count`, all voters or as many as the rules allow.
    async fn of(count: usize, seed: u64) -> Result<Self, Box<dyn std::error::Error>> {
        let mut cluster = Self::new(seed);
        cluster.start(0, Start::Alone).await?;
        cluster.log(0).propose(&Command::InitCluster { cluster_id: "test".into() }).await?;
        for pod in 1..count {
            cluster.start(pod, Start::Join).await?;
        }
        cluster.settle().await?;
        Ok(cluster)
    }

    /// Starts a pod on its disk, a new one if it has none.
    async fn start(&mut self, pod: usize, start: Start) -> TestResult {
        self.seeds += 1;
        let seams = Seams::seeded(self.seeds);
        let held = self.pods.entry(pod);
        let held = held.or_insert_with(|| Pod { disk: MemoryEngine::new(), running: None });
        let address = format!("pod-{pod}");
        let config = LogConfig {
            engine: Arc::new(held.disk.clone()),
            raft_id: None,
            start,
            address: address.clone(),
            peers: Arc::new(self.net.of(&address)),
            addresses: PeerAddresses::default(),
        };
        let log = CoordinatorLog::open(config, seams.clone()).await?;
        self.net.put(&address, log.clone());
        held.running = Some((log, seams));
        Ok(())
    }

    /// Ends a pod at this instant; what its disk had not synced is lost.
    fn kill(&mut self, pod: usize) {
        self.net.take(&format!("pod-{pod}"));
        if let Some(held) = self.pods.get_mut(&pod)
            && let Some((_, seams)) = held.running.take()
        {
            seams.tasks.end_all();
            held.disk.crash(0);
        }
    }

    fn log(&self, pod: usize) -> CoordinatorLog {
        let running = self.pods.get(&pod).and_then(|pod| pod.running.clone());
        running.map(|(log, _)| log).unwrap_or_else(|| unreachable!("pod {pod} doesn't run"))
    }

    fn running(&self) -> Vec<usize> {
        self.pods.iter().filter(|(_, pod)| pod.running.is_some()).map(|(pod, _)| *pod).collect()
    }

    /// The pods that take themselves for the leader, with the newest term.
    fn leader(&self) -> Option<usize> {
        let leads = |pod: &usize| {
            let metrics = self.log(*pod).metrics();
            (metrics.leader == Some(metrics.raft_id)).then_some((metrics.term, *pod))
        };
        self.running().iter().filter_map(leads).max().map(|(_, pod)| pod)
    }

    fn id(&self, pod: usize) -> RaftId {
        self.log(pod).metrics().raft_id
    }

    fn seen(&self) -> PodsSeen {
        let live = self.running().into_iter().map(|pod| (self.id(pod), format!("pod-{pod}")));
        PodsSeen { live: live.collect(), ..PodsSeen::default() }
    }

    /// As the membership role does, until nothing is due: with all running pods, without others.
    async fn settle(&self) -> TestResult {
        self.settle_without(&[]).await
    }

    async fn settle_without(&self, leaving: &[RaftId]) -> TestResult {
        let mut quiet = 0;
        for _ in 0..2000 {
            tokio::time::sleep(Duration::from_millis(10)).await;
            let Some(leader) = self.leader().map(|pod| self.log(pod)) else { continue };
            let mut seen = self.seen();
            seen.leaving.extend(leaving);
            let members = leader.members();
            let now = leader.core.seams.clock.instant();
            // Pods that don't run are gone for good.
            let gone = members.addresses.keys().filter(|id| !seen.live.contains_key(id));
            let since = now.checked_sub(Duration::from_secs(1)).ok_or("too early")?;
            seen.gone_since = gone.map(|id| (*id, since)).collect();
            let change = plan_membership(&seen, &members, now, Duration::from_millis(500));
            let changed = match change {
                None => {
                    quiet += 1;
                    if quiet > 20 && members.settled {
                        return Ok(());
                    }
                    continue;
                }
                Some(Change::AddLearner { raft_id, address }) => {
                    leader.add_learner(raft_id, &address).await
                }
                Some(Change::SetVoters(voters)) => leader.set_voters(voters).await,
                Some(Change::Remove(id)) => leader.remove(id).await,
                Some(Change::HandOver { successor }) => {
                    leader.hand_over_leadership(Some(successor)).await?;
                    Ok(())
                }
            };
            quiet = 0;
            changed?;
        }
        Err("members never settled".into())
    }

    /// Waits until `done`, for at most `limit` of virtual time; how long it took.
    async fn until(&self, limit: Duration, done: impl Fn(&Self) -> bool) -> Option<Duration> {
        let clock = miroir_seams::Clock::real();
        let begun = clock.instant();
        while !done(self) {
            if (clock.instant() - begun) > limit {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Some(clock.instant() - begun)
    }

    /// Waits until all running pods have applied the same.
    async fn agree(&self) -> TestResult {
        let all_alike = |cluster: &Self| {
            let running = cluster.running();
            let mut contents = running.iter().map(|pod| cluster.tasks(*pod));
            let first = contents.next();
            contents.all(|content| Some(&content) == first.as_ref())
        };
        self.until(Duration::from_secs(30), all_alike).await.ok_or("pods never agreed")?;
        Ok(())
    }

    /// (who proposed it, the number of the proposal), in the order of the log.
    fn tasks(&self, pod: usize) -> Vec<(usize, u64)> {
        let Some(pod) = self.pods.get(&pod) else { return Vec::new() };
        let rows = pod.disk.scan(TASKS, ALL_KEYS, Direction::Forward, usize::MAX);
        let uids = rows.into_iter().flatten().filter_map(|(key, _)| {
            Some(crate::ids::TaskUid(u32::from_be_bytes(key.try_into().ok()?)))
        });
        let records = uids.filter_map(|uid| tasks::read(&pod.disk, uid).ok().flatten());
        let marks = records.filter_map(|task| {
            let mark = task.custom_metadata?;
            let (by, number) = mark.split_once(' ')?;
            Some((by.parse().ok()?, number.parse().ok()?))
        });
        marks.collect()
    }
}

/// What a proposer knows of its proposals.
#[derive(Debug, Default)]
struct Proposed {
    applied: Vec<u64>,
    refused: Vec<u64>,
    unknown: Vec<u64>,
}

/// Proposes on one pod, one after the other, until told to stop.
async fn propose_until(
    log: CoordinatorLog,
    by: usize,
    mut stop: watch::Receiver<bool>,
) -> Proposed {
    let mut known = Proposed::default();
    for number in 0.. {
        if *stop.borrow_and_update() {
            break;
        }
        match log.propose(&work(by, number)).await {
            Ok(_) => known.applied.push(number),
            Err(ProposeError::Unknown) => known.unknown.push(number),
            Err(_) => known.refused.push(number),
        }
        tokio::time::sleep(Duration::from_millis(7)).await;
    }
    known
}

/// What `by` proposed is in the log as it knows: what was applied once, what was refused never,
/// what is unknown at most once; and in its order.
fn check_history(log: &[(usize, u64)], by: usize, known: &Proposed) {
    let of_it: Vec<u64> =
        log.iter().filter(|(who, _)| *who == by).map(|(_, number)| *number).collect();
    assert!(of_it.is_sorted_by(|a, b| a < b), "{by}: out of order or twice: {of_it:?}");
    for number in &known.applied {
        assert!(of_it.binary_search(number).is_ok(), "{by}: {number} was acknowledged and lost");
    }
    for number in &known.refused {
        assert!(of_it.binary_search(number).is_err(), "{by}: {number} was refused, yet is there");
    }
}
