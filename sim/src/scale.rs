//! Many pods on paper-thin nodes: gossip alone, the real one, over the network in memory. Says how
//! soon all know of all, who is taken for dead while it only stands still, how soon a death is
//! noticed, and how many roles move with it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use miroir_membership::gossip::{Gossip, GossipConfig, GossipError, PodFacts, SeedSource};
use miroir_membership::placement::owner;
use miroir_membership::secrets::{ClusterSecrets, SecretsError};
use miroir_seams::{Seams, Tasks};
use miroir_storage::ids::PodId;

use crate::dice::Dice;
use crate::disk::Life;
use crate::peer_network::{LifePeers, PeerNetwork, gossip_address, peer_address};
use crate::pod::{SECRET, pod_id};

/// Pods start within this time of each other, milliseconds.
const START_MS_MAX: u64 = 2_000;
/// Between two looks at all views.
const LOOK: Duration = Duration::from_millis(50);
/// How long a stall lasts that must not make a pod look dead.
const STALL: Duration = Duration::from_secs(1);
/// Virtual time within which all must know of all, milliseconds.
const CONVERGE_MS_MAX: u64 = 300_000;
/// Virtual time within which a death must be known, milliseconds.
const NOTICE_MS_MAX: u64 = 30_000;
/// Roles for each pod.
const ROLES_PER_POD: usize = 10;
/// Pods that a pod is told of to begin with.
const SEEDS: usize = 3;

/// What to try.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Pods.
    pub pods: usize,
    /// Between two rounds of a pod.
    pub interval: Duration,
    /// Stalls, one after the other; each of a hundredth of the pods, at least one.
    pub stalls: u32,
    /// The seed.
    pub seed: u64,
}

/// What came of it; times in virtual milliseconds.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// From the last start until every pod saw every pod alive; `None` when it never came to that.
    pub converged_ms: Option<u64>,
    /// Pods that stood still, one after the other.
    pub stalled: usize,
    /// Pairs of a pod and one that it took for dead while that stood still.
    pub false_deaths: usize,
    /// From the death of a pod until half of the others knew.
    pub half_noticed_ms: Option<u64>,
    /// Until all did.
    pub all_noticed_ms: Option<u64>,
    /// From its return until all saw it alive.
    pub returned_ms: Option<u64>,
    /// Roles in all.
    pub roles: usize,
    /// Those that went to another pod with the death; all of them were the dead pod's, if nothing
    /// moved that need not.
    pub moved: usize,
    /// Those of them that the dead pod had held.
    pub needed: usize,
    /// Datagrams of each pod in a second, while nothing happened.
    pub datagrams_per_second: u64,
    /// Their bytes.
    pub bytes_per_second: u64,
}

/// Why gossip can't begin.
#[derive(Debug, thiserror::Error)]
pub enum ScaleError {
    /// Gossip refused.
    #[error(transparent)]
    Gossip(#[from] GossipError),
    /// The secret was refused.
    #[error(transparent)]
    Secret(#[from] SecretsError),
}

struct World {
    scale: Scale,
    network: Arc<PeerNetwork>,
    dice: Dice,
    pods: BTreeMap<usize, (Gossip, Seams, Life)>,
}

/// Runs the trial. Must be called on a current-thread runtime with a paused clock.
///
/// # Errors
/// When gossip can't begin.
pub async fn run(scale: Scale) -> Result<Figures, ScaleError> {
    let dice = Dice::new(scale.seed, "scale");
    let network = PeerNetwork::new(Dice::new(scale.seed, "peers"), Tasks::on_one_thread());
    let mut world = World { scale, network, dice, pods: BTreeMap::new() };
    let mut figures = Figures::default();
    let pause = Duration::from_millis(START_MS_MAX) / scale.pods.max(1) as u32;
    for pod in 0..scale.pods {
        world.start(pod, 1).await?;
        tokio::time::sleep(pause).await;
    }
    let all: BTreeSet<usize> = world.pods.keys().copied().collect();
    figures.converged_ms = world.until(CONVERGE_MS_MAX, |world| world.seen(&all)).await;
    if figures.converged_ms.is_none() {
        return Ok(figures);
    }
    let before = world.network.sent();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let after = world.network.sent();
    let per_second = |before: u64, after: u64| (after - before) / 2 / scale.pods.max(1) as u64;
    figures.datagrams_per_second = per_second(before.0, after.0);
    figures.bytes_per_second = per_second(before.1, after.1);
    world.stall(&mut figures).await;
    // Whoever was taken for dead is heard of again.
    let _settled = world.until(CONVERGE_MS_MAX, |world| world.seen(&all)).await;
    world.kill_and_return(&mut figures).await?;
    Ok(figures)
}

impl World {
    async fn start(&mut self, pod: usize, starts: u64) -> Result<(), ScaleError> {
        let seams = Seams::seeded(self.scale.seed ^ ((pod as u64) << 20) ^ starts);
        let life = Life::default();
        let own = gossip_address(pod);
        let first = pod.saturating_sub(1).min(SEEDS - 1);
        let seeds = (0..=first).map(|seed| gossip_address(seed).to_string()).collect();
        let config = GossipConfig {
            pod: pod_id(pod),
            starts,
            listen: own,
            advertise: own,
            seeds: SeedSource::new(seeds),
            cluster_name: "simulated".to_owned(),
            interval: self.scale.interval,
        };
        let facts = PodFacts {
            raft_id: pod as u64 + 1,
            peer_address: peer_address(pod),
            http_address: format!("pod-{pod}:7700"),
            version: "simulated".to_owned(),
            cluster_id: Some("simulated".to_owned()),
            load_permille: 0,
        };
        let datagrams =
            Arc::new(LifePeers { network: self.network.clone(), pod, life: life.clone() });
        let secrets = ClusterSecrets::new(&[SECRET])?;
        let gossip = Gossip::start(config, &facts, secrets, datagrams, &seams).await?;
        self.pods.insert(pod, (gossip, seams, life));
        Ok(())
    }

    /// Virtual milliseconds until `holds`; `None` after `limit_ms`.
    async fn until(&self, limit_ms: u64, holds: impl Fn(&Self) -> bool) -> Option<u64> {
        let begun = tokio::time::Instant::now();
        loop {
            let passed = begun.elapsed().as_millis() as u64;
            if holds(self) {
                return Some(passed);
            }
            if passed >= limit_ms {
                return None;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Whether every pod sees exactly these alive.
    fn seen(&self, alive: &BTreeSet<usize>) -> bool {
        self.pods.values().all(|(gossip, ..)| {
            let view = gossip.view();
            view.alive().count() == alive.len()
                && alive.iter().all(|pod| view.pods.get(&pod_id(*pod)).is_some_and(|p| p.alive))
        })
    }

    /// How many pods see this one dead.
    fn missed_by(&self, pod: usize) -> usize {
        let id = pod_id(pod);
        let sees = |gossip: &Gossip| gossip.view().pods.get(&id).is_some_and(|pod| pod.alive);
        self.pods.iter().filter(|(other, (gossip, ..))| **other != pod && !sees(gossip)).count()
    }

    async fn stall(&self, figures: &mut Figures) {
        let all: Vec<usize> = self.pods.keys().copied().collect();
        for _ in 0..self.scale.stalls {
            let mut stalled = BTreeSet::new();
            while stalled.len() < (all.len() / 100).max(1) {
                stalled.extend(self.dice.pick(&all));
            }
            stalled.iter().for_each(|pod| self.network.set_stalled(*pod, true));
            tokio::time::sleep(STALL).await;
            stalled.iter().for_each(|pod| self.network.set_stalled(*pod, false));
            let mut worst: BTreeMap<usize, usize> = BTreeMap::new();
            for _ in 0..40 {
                for pod in &stalled {
                    let missed = worst.entry(*pod).or_default();
                    *missed = self.missed_by(*pod).max(*missed);
                }
                tokio::time::sleep(LOOK).await;
            }
            figures.stalled += stalled.len();
            figures.false_deaths += worst.values().sum::<usize>();
        }
    }

    async fn kill_and_return(&mut self, figures: &mut Figures) -> Result<(), ScaleError> {
        let roles: Vec<String> =
            (0..self.scale.pods * ROLES_PER_POD).map(|n| format!("writer/{n}-index")).collect();
        let owners = |world: &Self| -> Vec<PodId> {
            let Some((gossip, ..)) = world.pods.values().next() else { return Vec::new() };
            let view = gossip.view();
            let alive: Vec<&PodId> = view.alive().map(|(pod, _)| pod).collect();
            roles.iter().filter_map(|role| owner(role, alive.iter().copied()).cloned()).collect()
        };
        let before = owners(self);
        let dead = self.scale.pods.saturating_sub(1);
        if let Some((_, seams, life)) = self.pods.remove(&dead) {
            life.end();
            self.network.remove(dead);
            seams.tasks.end_all();
        }
        let others = self.pods.len();
        let half = |world: &Self| world.missed_by(dead) * 2 >= others;
        figures.half_noticed_ms = self.until(NOTICE_MS_MAX, half).await;
        let rest = self.until(NOTICE_MS_MAX, |world| world.missed_by(dead) == others).await;
        figures.all_noticed_ms = figures.half_noticed_ms.zip(rest).map(|(half, rest)| half + rest);
        let after = owners(self);
        figures.roles = roles.len();
        figures.moved = before.iter().zip(&after).filter(|(a, b)| a != b).count();
        figures.needed = before.iter().filter(|pod| **pod == pod_id(dead)).count();
        self.start(dead, 2).await?;
        figures.returned_ms = self.until(NOTICE_MS_MAX, |world| world.missed_by(dead) == 0).await;
        Ok(())
    }
}
