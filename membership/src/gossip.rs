//! Who is there: pods tell each other what they know by gossip (chitchat over sealed UDP).
//!
//! Each pod publishes its [`PodFacts`] and small values (node health, say); every pod has all of it
//! as a [`PeerView`], immutable and swapped, with who is alive. Nothing here is agreed: two pods may
//! see different things. What must be agreed goes through the log.
//!
//! **Alive.** Every [`INTERVAL`] a pod gossips with three others, and its heartbeat travels in what
//! they tell others. A pod whose heartbeat has not moved for 1.7 to 2.2 s counts as dead. chitchat's
//! detector would follow the mean of the last thousand intervals, which shrinks to a few
//! milliseconds' worth of time-out where pods hear of each other from many sides; so its window is
//! one interval long, outweighed five to one by a fixed second: `2 × (last + 5 s) / 6`, with
//! intervals over 1.5 s left out. Measured, three pods: a killed one is noticed by
//! both others after 1.75 s of virtual time and 2.0 s over UDP on two busy cores, and one that
//! stalls for 1 s never (`gossip::tests`, which print the figures). Three idle pods take less than
//! 1 % of one core together.
//!
//! A pod that stood still itself for longer takes nobody for dead before it has listened for a second.
//!
//! **Sealed.** Every datagram is encrypted and authenticated with a key of a cluster secret, and
//! passed on once by the very process that it was meant for (layout in `frame.rs`, replays in
//! `sessions.rs`). Whoever has no secret sees sizes, times and addresses, and can only lose, delay
//! and repeat datagrams, which changes nothing that a network couldn't.
//!
//! **Generations.** A pod that starts again must have a higher generation, or others go on
//! believing what they knew of it: it counts its starts. One that lost its disk, and the count with
//! it, may come to a count that it had before while others still know what it was then; so each
//! generation ends with drawn bits.
//!
//! chitchat ends its loop for good when it panics or its socket breaks. Ours never reports a break;
//! should the loop end all the same, it is started anew, as a restart within the generation.
//!
//! chitchat draws from the thread's own random numbers and iterates over hash maps: the simulation
//! is deterministic as far as those are seeded.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use chitchat::{ChitchatConfig, ChitchatHandle, ChitchatId, FailureDetectorConfig, spawn_chitchat};
use miroir_seams::{Clock, Datagrams, Seams};
use miroir_storage::ids::PodId;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use crate::secrets::ClusterSecrets;

mod frame;
mod sealed;
mod seeds;
mod sessions;
#[cfg(test)]
mod tests;
mod view;

use sealed::SealedTransport;
pub use seeds::{ResolveSeed, SeedSource, SystemResolver};
pub use view::{PeerView, PodFacts, PodView, STARTS_MAX};

/// How often a pod gossips, unless told otherwise: 15 rounds in the 2.2 s after which a silent pod
/// is dead, so some may be lost; each costs three small datagrams and their answers.
pub const INTERVAL: Duration = Duration::from_millis(150);
/// What chitchat takes the mean interval for before it knows any, and for five sixths afterwards.
const PRIOR_INTERVAL: Duration = Duration::from_secs(1);
/// Mean intervals until a silent pod is dead.
const PHI_MAX: f64 = 2.0;
/// Longer intervals are no sample: the pod was away.
const SAMPLE_MAX: Duration = Duration::from_millis(1500);
/// A round that comes later than this says that this pod itself stood still …
const OWN_STALL: Duration = Duration::from_millis(500);
/// … and then it takes nobody for dead for this long: it has to listen first.
const AFTER_STALL: Duration = Duration::from_secs(1);
/// Dead pods are forgotten after this time, and removed values no longer remembered as removed.
pub const FORGET_AFTER: Duration = Duration::from_secs(15 * 60);
/// Names are looked up this often while nobody else is there …
const LOOKUP_ALONE: Duration = Duration::from_secs(5);
/// … and this often otherwise.
const LOOKUP: Duration = Duration::from_secs(60);
/// Seeds are gossiped with every so many rounds when others are there: two halves of a cluster find
/// each other again.
const SEED_ROUNDS: u64 = 16;
/// Seeds gossiped with in a round.
const SEEDS_PER_ROUND: usize = 3;
/// Between attempts to start chitchat again.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// Longest published key, bytes.
pub const KEY_BYTES_MAX: usize = 128;
/// Longest published value, bytes.
pub const VALUE_BYTES_MAX: usize = 512;
/// Keys and values of one pod, bytes: a new pod is told all pods' in a few datagrams.
pub const VALUES_BYTES_MAX: usize = 16 << 10;

/// How a pod takes part in gossip.
#[derive(Clone, Debug)]
pub struct GossipConfig {
    /// This pod.
    pub pod: PodId,
    /// Counts the starts of this pod; higher at each, at most [`STARTS_MAX`]. Persisted by the
    /// caller.
    pub starts: u64,
    /// Where its socket listens.
    pub listen: SocketAddr,
    /// Where others reach it: an address that is theirs to use, with a port.
    pub advertise: SocketAddr,
    /// Where to look for others.
    pub seeds: SeedSource,
    /// Pods with another name are strangers, even if they have the secret.
    pub cluster_name: String,
    /// Between two rounds, [`INTERVAL`]. The time after which a pod is dead does not depend on it,
    /// but at least five rounds must fit in.
    pub interval: Duration,
}

/// Why gossip can't begin.
#[derive(Debug, thiserror::Error)]
pub enum GossipError {
    /// The starts can't be counted any further.
    #[error("{0} starts are more than {STARTS_MAX}")]
    Starts(u64),
    /// The facts are larger than what a pod may publish.
    #[error(transparent)]
    Facts(#[from] PublishError),
    /// The socket can't be had.
    #[error("gossip can't listen at {listen}: {reason}")]
    Listen {
        /// Where.
        listen: SocketAddr,
        /// What the system says.
        reason: String,
    },
}

/// Why a value is not published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// Empty, or longer than [`KEY_BYTES_MAX`].
    #[error("a key has 1 to {KEY_BYTES_MAX} bytes, not {0}")]
    Key(usize),
    /// Longer than [`VALUE_BYTES_MAX`].
    #[error("a value has at most {VALUE_BYTES_MAX} bytes, not {0}")]
    Value(usize),
    /// All together would be more than [`VALUES_BYTES_MAX`].
    #[error("a pod publishes at most {VALUES_BYTES_MAX} bytes, not {0}")]
    All(usize),
}

/// Gossip of one pod. Clones are the same; it ends with the pod's tasks.
#[derive(Clone)]
pub struct Gossip {
    shared: Arc<Shared>,
}

struct Shared {
    config: GossipConfig,
    generation: u64,
    clock: Clock,
    /// What this pod tells, by chitchat's key.
    published: Mutex<BTreeMap<String, String>>,
    /// Grows with every change of `published`.
    publications: AtomicU64,
    /// None before they have been looked up for the first time.
    seeds: ArcSwapOption<Vec<SocketAddr>>,
    view: ArcSwap<PeerView>,
    changes: watch::Sender<Arc<PeerView>>,
}

impl fmt::Debug for Gossip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gossip").field("config", &self.shared.config).finish_non_exhaustive()
    }
}

impl Gossip {
    /// Begins to gossip.
    ///
    /// # Errors
    /// See [`GossipError`].
    pub async fn start(
        config: GossipConfig,
        facts: &PodFacts,
        secrets: ClusterSecrets,
        datagrams: Arc<dyn Datagrams>,
        seams: &Seams,
    ) -> Result<Self, GossipError> {
        if config.starts > STARTS_MAX {
            return Err(GossipError::Starts(config.starts));
        }
        let generation = view::generation(config.starts, &seams.entropy);
        let now = seams.clock.instant();
        let alone = PodView {
            facts: Some(facts.clone()),
            values: BTreeMap::new(),
            alive: true,
            since: now,
            address: config.advertise,
            generation,
        };
        let pods = BTreeMap::from([(config.pod.clone(), alone)]);
        let view = Arc::new(PeerView { own: config.pod.clone(), pods });
        let shared = Arc::new(Shared {
            config,
            generation,
            clock: seams.clock.clone(),
            published: Mutex::default(),
            publications: AtomicU64::new(0),
            seeds: ArcSwapOption::empty(),
            view: ArcSwap::new(view.clone()),
            changes: watch::channel(view).0,
        });
        shared.publish_all(facts.entries())?;
        let transport = SealedTransport {
            datagrams,
            secrets,
            clock: seams.clock.clone(),
            entropy: seams.entropy.clone(),
        };
        let life = shared.begin_life(&transport, 0).await.map_err(|error| GossipError::Listen {
            listen: shared.config.listen,
            reason: format!("{error:#}"),
        })?;
        seams.tasks.spawn("gossip seeds", look_up_seeds(shared.clone()));
        seams.tasks.spawn("gossip", live(shared.clone(), transport, life));
        Ok(Self { shared })
    }

    /// Tells all pods a small value, in place of an older one of that key. Others see it within a
    /// few rounds.
    ///
    /// # Errors
    /// See [`PublishError`].
    pub fn publish(&self, key: &str, value: &str) -> Result<(), PublishError> {
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            return Err(PublishError::Key(key.len()));
        }
        self.shared.publish_all(vec![(view::value_key(key), value.to_owned())])
    }

    /// Takes a value back.
    pub fn withdraw(&self, key: &str) {
        let mut published = self.shared.published();
        if published.remove(&view::value_key(key)).is_some() {
            self.shared.publications.fetch_add(1, Ordering::Release);
        }
    }

    /// Tells all pods new facts of this one.
    ///
    /// # Errors
    /// See [`PublishError`].
    pub fn set_facts(&self, facts: &PodFacts) -> Result<(), PublishError> {
        self.shared.publish_all(facts.entries())
    }

    /// What this pod knows now. Costs no lock.
    pub fn view(&self) -> Arc<PeerView> {
        self.shared.view.load_full()
    }

    /// The seeds' addresses without this pod's own, once they have been looked up.
    pub fn seeds(&self) -> Option<Arc<Vec<SocketAddr>>> {
        self.shared.seeds.load_full()
    }

    /// Every view from now on; those between two looks are skipped.
    pub fn changes(&self) -> watch::Receiver<Arc<PeerView>> {
        self.shared.changes.subscribe()
    }
}

/// chitchat, from a start to its end. Ends it when dropped.
struct Life {
    chitchat: ChitchatHandle,
    /// What it was told of `published`.
    told: u64,
}

impl Drop for Life {
    fn drop(&mut self) {
        self.chitchat.abort();
    }
}

/// Keeps chitchat alive.
async fn live(shared: Arc<Shared>, transport: SealedTransport, mut life: Life) {
    let mut restarts = 0u16;
    loop {
        let end = shared.live_once(&mut life).await;
        tracing::error!(error = end, "gossip ended, it is started again");
        drop(life);
        life = loop {
            restarts = restarts.saturating_add(1);
            match shared.begin_life(&transport, restarts).await {
                Ok(life) => break life,
                Err(error) => tracing::error!(%error, "gossip can't be started again"),
            }
            tokio::time::sleep(RESTART_PAUSE).await;
        };
    }
}

/// Looks the seeds' names up again and again: what a name means changes while pods come and go.
async fn look_up_seeds(shared: Arc<Shared>) {
    loop {
        let before = shared.seeds.load_full();
        let known = before.as_deref().map_or(&[][..], Vec::as_slice);
        let found = shared.config.seeds.resolve(shared.config.advertise, known).await;
        if before.as_deref() != Some(&found) {
            tracing::debug!(addresses = ?found, "seeds found");
            shared.seeds.store(Some(Arc::new(found)));
        }
        let alone = shared.view.load().others_alive().next().is_none();
        tokio::time::sleep(if alone { LOOKUP_ALONE } else { LOOKUP }).await;
    }
}

impl Shared {
    fn published(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, String>> {
        self.published.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish_all(&self, entries: Vec<(String, String)>) -> Result<(), PublishError> {
        let mut published = self.published();
        let mut after = published.clone();
        for (key, value) in entries {
            if value.len() > VALUE_BYTES_MAX {
                return Err(PublishError::Value(value.len()));
            }
            after.insert(key, value);
        }
        let bytes = after.iter().map(|(key, value)| key.len() + value.len()).sum();
        if bytes > VALUES_BYTES_MAX {
            return Err(PublishError::All(bytes));
        }
        if after != *published {
            *published = after;
            self.publications.fetch_add(1, Ordering::Release);
        }
        Ok(())
    }

    async fn begin_life(&self, transport: &SealedTransport, restarts: u16) -> anyhow::Result<Life> {
        let told = self.publications.load(Ordering::Acquire);
        let entries: Vec<_> = self.published().clone().into_iter().collect();
        let config = &self.config;
        let generation = view::chitchat_generation(self.generation, restarts);
        let chitchat_config = ChitchatConfig {
            chitchat_id: ChitchatId::new(config.pod.0.clone(), generation, config.advertise),
            cluster_id: config.cluster_name.clone(),
            gossip_interval: config.interval,
            listen_addr: config.listen,
            // We look names up ourselves, in `look_up_seeds`.
            seed_nodes: Vec::new(),
            failure_detector_config: FailureDetectorConfig {
                phi_threshold: PHI_MAX,
                sampling_window_size: 1,
                max_interval: SAMPLE_MAX,
                initial_interval: PRIOR_INTERVAL,
                dead_node_grace_period: FORGET_AFTER,
            },
            marked_for_deletion_grace_period: FORGET_AFTER,
            catchup_callback: None,
            extra_liveness_predicate: None,
        };
        let chitchat = spawn_chitchat(chitchat_config, entries, transport).await?;
        Ok(Life { chitchat, told })
    }

    /// Serves chitchat until it ends; says why it did.
    async fn live_once(&self, life: &mut Life) -> String {
        let mut ended = std::pin::pin!(life.chitchat.termination_watcher());
        let mut ticks = tokio::time::interval(self.config.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut last = self.clock.instant();
        let mut listens_until = None;
        for round in 0u64.. {
            tokio::select! {
                end = &mut ended => {
                    return end.err().map_or_else(|| "told to".into(), |error| format!("{error:#}"));
                }
                _ = ticks.tick() => {}
            }
            let now = self.clock.instant();
            if now.saturating_duration_since(last) > self.config.interval + OWN_STALL {
                listens_until = Some(now + AFTER_STALL);
            }
            last = now;
            self.exchange(life, now, listens_until.is_some_and(|until| now < until)).await;
            self.ask_seeds(life, round);
        }
        "rounds can't be counted".into()
    }

    /// Gives chitchat what was published and takes what it knows. While this pod `listens`, who was
    /// alive stays so.
    async fn exchange(&self, life: &mut Life, now: Instant, listens: bool) {
        let chitchat = life.chitchat.chitchat();
        let mut chitchat = chitchat.lock().await;
        let publications = self.publications.load(Ordering::Acquire);
        if publications != life.told {
            life.told = publications;
            let published = self.published().clone();
            let state = chitchat.self_node_state();
            let gone: Vec<String> = state
                .key_values()
                .filter(|(key, _)| !published.contains_key(*key))
                .map(|(key, _)| key.to_owned())
                .collect();
            for key in gone {
                state.delete(&key);
            }
            for (key, value) in published {
                state.set(key, value);
            }
        }
        let before = self.view.load_full();
        let view = view::read_view(&chitchat, &before, now, listens);
        drop(chitchat);
        if view != *before {
            log_changes(&before, &view);
            let view = Arc::new(view);
            self.view.store(view.clone());
            self.changes.send_replace(view);
        }
    }

    fn ask_seeds(&self, life: &Life, round: u64) {
        let view = self.view.load();
        let alone = view.others_alive().next().is_none();
        if !alone && !round.is_multiple_of(SEED_ROUNDS) {
            return;
        }
        let seeds = self.seeds.load();
        let known = |seed: &SocketAddr| view.alive().any(|(_, pod)| pod.address == *seed);
        let seeds = seeds.as_deref().map_or(&[][..], Vec::as_slice);
        let strangers: Vec<&SocketAddr> = seeds.iter().filter(|seed| !known(seed)).collect();
        let turn = if alone { round } else { round / SEED_ROUNDS };
        let first = usize::try_from(turn).unwrap_or(0).wrapping_mul(SEEDS_PER_ROUND);
        for place in 0..SEEDS_PER_ROUND.min(strangers.len()) {
            if let Some(seed) = strangers.get(first.wrapping_add(place) % strangers.len()) {
                // Fails only when chitchat has ended, which is noticed elsewhere.
                let _ = life.chitchat.gossip(**seed);
            }
        }
    }
}

fn log_changes(before: &PeerView, after: &PeerView) {
    for (id, pod) in &after.pods {
        let was = before.pods.get(id);
        let starts = pod.starts();
        match (was.is_some_and(|was| was.alive), pod.alive) {
            (false, true) => {
                tracing::info!(pod = %id, address = %pod.address, starts, "pod is there");
            }
            (true, false) => tracing::warn!(pod = %id, starts, "pod is gone"),
            _ => {}
        }
    }
}
