//! What a pod knows of the others.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use chitchat::{Chitchat, ChitchatId, NodeState};
use miroir_seams::Entropy;
use miroir_storage::ids::PodId;
use tokio::time::Instant;

/// Bits of chitchat's generation that count its restarts within one process.
const RESTART_BITS: u32 = 16;
/// Bits that a start draws, so that a pod that lost its count of starts is not taken for what it
/// was when it had counted as many before.
const DRAWN_BITS: u32 = 24;
/// The most starts of a pod: thirty years of one a minute.
pub const STARTS_MAX: u64 = u64::MAX >> (RESTART_BITS + DRAWN_BITS);

const FACT: &str = "fact/";
const VALUE: &str = "value/";

/// What every pod tells of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodFacts {
    /// Its id in the log's cluster.
    pub raft_id: u64,
    /// Where peers call it, `host:port`.
    pub peer_address: String,
    /// Where clients call it, `host:port`.
    pub http_address: String,
    /// Of the program.
    pub version: String,
    /// Of the log, once the pod has one.
    pub cluster_id: Option<String>,
    /// How busy it is, in thousandths.
    pub load_permille: u32,
}

impl PodFacts {
    /// Each fact is a key of its own: versions that know more or fewer understand each other.
    pub(super) fn entries(&self) -> Vec<(String, String)> {
        let entry = |name: &str, value: &str| (format!("{FACT}{name}"), value.to_owned());
        let mut entries = vec![
            entry("http", &self.http_address),
            entry("load", &self.load_permille.to_string()),
            entry("peer", &self.peer_address),
            entry("raft", &self.raft_id.to_string()),
            entry("version", &self.version),
        ];
        entries.extend(self.cluster_id.as_ref().map(|id| entry("cluster", id)));
        entries
    }

    /// None until those that every version tells have arrived.
    fn read<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Option<Self> {
        Some(Self {
            raft_id: get("raft")?.parse().ok()?,
            peer_address: get("peer")?.to_owned(),
            http_address: get("http")?.to_owned(),
            version: get("version")?.to_owned(),
            cluster_id: get("cluster").map(str::to_owned),
            load_permille: get("load").and_then(|load| load.parse().ok()).unwrap_or(0),
        })
    }
}

pub(super) fn value_key(key: &str) -> String {
    format!("{VALUE}{key}")
}

/// One pod as this one sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodView {
    /// What it tells of itself; none until all of it has arrived.
    pub facts: Option<PodFacts>,
    /// What it publishes besides.
    pub values: BTreeMap<String, String>,
    /// Whether it is heard of. Always so for this pod itself.
    pub alive: bool,
    /// Since when, in this process.
    pub since: Instant,
    /// Where it gossips.
    pub address: SocketAddr,
    /// Higher after each of its starts, as long as it keeps count of them, and never twice the same.
    pub generation: u64,
}

impl PodView {
    /// How often it had started, by its own count.
    pub fn starts(&self) -> u64 {
        self.generation >> DRAWN_BITS
    }
}

/// All pods that this one knows, itself included. Those that died are forgotten 15 minutes later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerView {
    /// This pod.
    pub own: PodId,
    /// Each pod once, with its newest generation; the newest that is heard of, if one is.
    pub pods: BTreeMap<PodId, PodView>,
}

impl PeerView {
    /// The pods that are alive, this one included.
    pub fn alive(&self) -> impl Iterator<Item = (&PodId, &PodView)> {
        self.pods.iter().filter(|(_, pod)| pod.alive)
    }

    /// The other pods that are alive.
    pub fn others_alive(&self) -> impl Iterator<Item = (&PodId, &PodView)> {
        self.alive().filter(|(id, _)| **id != self.own)
    }
}

/// Of a pod that has started so often, at most [`STARTS_MAX`].
pub(super) fn generation(starts: u64, entropy: &Entropy) -> u64 {
    starts << DRAWN_BITS | entropy.below(1 << DRAWN_BITS)
}

pub(super) fn chitchat_generation(generation: u64, restarts: u16) -> u64 {
    generation << RESTART_BITS | u64::from(restarts)
}

/// Reads what chitchat knows. `before` tells since when a pod is what it is. When `deaths_wait`, a
/// pod that was alive stays so.
pub(super) fn read_view(
    chitchat: &Chitchat,
    before: &PeerView,
    now: Instant,
    deaths_wait: bool,
) -> PeerView {
    let alive: std::collections::BTreeSet<&ChitchatId> = chitchat.live_nodes().collect();
    let mut pods = BTreeMap::new();
    // In order of generation, so that the newest stays.
    for (id, state) in chitchat.node_states() {
        let pod = PodId(id.node_id.to_string());
        let generation = id.generation_id >> RESTART_BITS;
        let known = before.pods.get(&pod).filter(|known| known.generation == generation);
        let waits = deaths_wait && known.is_some_and(|known| known.alive);
        let view = read_pod(id, state, waits || alive.contains(id), known, now);
        // A pod that lost its disk counts its starts anew: the one that is heard of is it.
        if view.alive || pods.get(&pod).is_none_or(|kept: &PodView| !kept.alive) {
            pods.insert(pod, view);
        }
    }
    PeerView { own: before.own.clone(), pods }
}

fn read_pod(
    id: &ChitchatId,
    state: &NodeState,
    alive: bool,
    known: Option<&PodView>,
    now: Instant,
) -> PodView {
    let same = known.filter(|known| known.alive == alive);
    let values = state.iter_prefix(VALUE).map(|(key, value)| {
        (key.strip_prefix(VALUE).unwrap_or(key).to_owned(), value.value.clone())
    });
    PodView {
        facts: PodFacts::read(|name| state.get(&format!("{FACT}{name}"))),
        values: values.collect(),
        alive,
        since: same.map_or(now, |known| known.since),
        address: id.gossip_advertise_addr,
        generation: id.generation_id >> RESTART_BITS,
    }
}
