//! From gossip to the view of the peers, and this pod's own facts back to gossip.
//!
//! Owns: nothing that it could lose. One task beside the actors: it puts a new [`Peers`] in force
//! whenever gossip or the log's members changed, and publishes what others must know of this pod.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use miroir_membership::gossip::{Gossip, PeerView, PodFacts};
use miroir_storage::commands::FORMAT;
use miroir_storage::engine::{Engine, EngineError};
use miroir_storage::formation::{beginner as remembered_beginner, remember_beginner};
use miroir_storage::ids::PodId;
use miroir_storage::log::Start;
use miroir_storage::raft::RaftId;
use tokio::time::Instant;

use crate::peers::{KnownPod, Peer, Peers};
use crate::pod::PodContext;

/// The key under which a pod says that it is about to stop: it is given no roles.
pub const LEAVING: &str = "leaving";
/// The key under which a pod says which commands it reads; a pod that says nothing reads the first.
const FORMAT_KEY: &str = "format";
/// Between looks at what changes without gossip: the log's members, the cluster's id.
const INTERVAL: Duration = Duration::from_millis(500);
/// Between looks for pods to begin a cluster with.
const FORMATION_LOOK: Duration = Duration::from_millis(100);
/// How often a pod says what it is waiting for.
const FORMATION_NOTE: Duration = Duration::from_secs(10);

/// Follows gossip for as long as the pod lives.
pub fn start(pod: &Arc<PodContext>, gossip: Gossip, facts: PodFacts) {
    let pod = pod.clone();
    pod.peers.publish(FORMAT_KEY, &FORMAT.to_string());
    pod.seams.tasks.clone().spawn("peer watcher", async move {
        let mut changes = gossip.changes();
        loop {
            let cluster_id = pod.log.routing().cluster_id.clone();
            let cluster_id = (!cluster_id.is_empty()).then_some(cluster_id);
            // One journal is enough only where the log says so: not while it is not known yet.
            let members = pod.log.members();
            let copies = if members.voters == BTreeSet::from([members.raft_id]) { 1 } else { 2 };
            let peers = peers_from(&gossip.view(), cluster_id.as_deref(), copies);
            pod.log.limit_format(known_format(&peers, &pod.id));
            pod.peers.set(peers);
            let facts = PodFacts { cluster_id, ..facts.clone() };
            if let Err(error) = gossip.set_facts(&facts) {
                tracing::error!(%error, "facts of this pod can't be published");
            }
            for (key, value) in pod.peers.published().iter() {
                if let Err(error) = gossip.publish(key, value) {
                    tracing::warn!(key, %error, "value can't be published");
                }
            }
            tokio::select! {
                biased;
                _ = changes.changed() => {}
                () = pod.seams.clock.sleep(INTERVAL) => {}
            }
        }
    });
}

/// The peers of a pod of cluster `own_cluster`. Pods of no cluster are about to join one: they are
/// known but not yet counted on; pods of another one are strangers.
fn peers_from(view: &PeerView, own_cluster: Option<&str>, copies: usize) -> Peers {
    let mut peers = Peers { copies, ..Peers::default() };
    for (id, pod) in &view.pods {
        let Some(facts) = &pod.facts else { continue };
        let is_own = *id == view.own;
        let cluster = facts.cluster_id.as_deref();
        if !is_own && cluster.is_some() && own_cluster.is_some() && cluster != own_cluster {
            tracing::error!(pod = %id, cluster, "pod of another cluster has the same secret");
            continue;
        }
        let known = KnownPod {
            raft_id: (facts.raft_id != 0).then_some(RaftId(facts.raft_id)),
            peer_address: facts.peer_address.clone(),
            http_address: facts.http_address.clone(),
            version: facts.version.clone(),
            alive: pod.alive,
            since: pod.since,
            starts: pod.starts(),
            values: pod.values.clone(),
        };
        if is_own || (pod.alive && cluster.is_some() && cluster == own_cluster) {
            let peer = Peer {
                address: facts.peer_address.clone(),
                since: pod.since,
                leaving: pod.values.contains_key(LEAVING),
            };
            peers.live.insert(id.clone(), peer);
        }
        peers.known.insert(id.clone(), known);
    }
    peers
}

/// The newest format that all living pods read. A pod that is away reads what the others agreed on
/// meanwhile, or stops and says so.
fn known_format(peers: &Peers, own: &PodId) -> u32 {
    let others = peers.known.iter().filter(|(id, pod)| *id != own && pod.alive);
    let formats = others.map(|(_, pod)| {
        pod.values.get(FORMAT_KEY).and_then(|format| format.parse().ok()).unwrap_or(1)
    });
    formats.min().unwrap_or(FORMAT).min(FORMAT)
}

/// What a pod without state is to do about the cluster that it sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Formation {
    /// Begin the cluster.
    Begin,
    /// Join the cluster that this pod belongs to.
    Join(PodId),
    /// Wait; in words, what for.
    Wait(String),
    /// Wait for this pod, which is to begin the cluster, and may do so unheard.
    Defer(PodId),
}

/// A pod that finds a cluster never begins one, nor does one that `only_joins`. Else the pod with
/// the smallest id begins when it sees `expected` pods, all of which it has heard out; the others
/// wait for its cluster.
pub fn formation(view: &PeerView, expected: usize, only_joins: bool) -> Formation {
    let others: Vec<_> = view.others_alive().collect();
    let belongs = |facts: &PodFacts| facts.cluster_id.is_some();
    let mut members = others.iter().filter(|(_, pod)| pod.facts.as_ref().is_some_and(belongs));
    if let Some((member, _)) = members.next() {
        return Formation::Join((*member).clone());
    }
    if only_joins {
        return Formation::Wait(
            "a cluster to join, since the seeds are other pods and this one is to begin alone"
                .to_owned(),
        );
    }
    if others.iter().any(|(_, pod)| pod.facts.is_none()) {
        return Formation::Wait("a pod that has not told of itself yet".to_owned());
    }
    let seen = others.len() + 1;
    if seen < expected {
        return Formation::Wait(format!("{expected} pods or a cluster, seeing {seen}"));
    }
    match others.iter().map(|(id, _)| *id).min() {
        Some(smallest) if *smallest < view.own => Formation::Defer((*smallest).clone()),
        _ => Formation::Begin,
    }
}

/// Waits until it is clear how a pod without state begins. One that would begin alone can't know
/// whether its seeds are only silent for a moment, or cut off: with seeds other than itself it joins.
/// So does one that has once seen a cluster, or another pod whose turn it was to begin: that may have
/// begun it and fallen silent, and whoever comes later must not make a second one possible. Its disk
/// remembers that, since it may be stopped before it holds anything of the cluster.
///
/// # Errors
/// When the disk fails.
pub async fn form(
    gossip: &Gossip,
    expected: usize,
    engine: &dyn Engine,
    clock: &miroir_seams::Clock,
) -> Result<Start, EngineError> {
    let mut noted: Option<Instant> = None;
    let mut beginner = remembered_beginner(engine)?;
    loop {
        let names_others = gossip.seeds().is_none_or(|seeds| !seeds.is_empty());
        let what = match formation(&gossip.view(), expected, expected < 2 && names_others) {
            Formation::Join(pod) => {
                remember(engine, &mut beginner, pod)?;
                return Ok(Start::Join);
            }
            Formation::Begin => match &beginner {
                None => return Ok(Start::Alone),
                Some(pod) => format!(
                    "pod {pod}, which may have begun the cluster; if it is gone for good, empty this pod's data directory and start again"
                ),
            },
            Formation::Wait(what) => what,
            Formation::Defer(pod) => {
                let what = format!("pod {pod} to begin the cluster");
                remember(engine, &mut beginner, pod)?;
                what
            }
        };
        let now = clock.instant();
        let is_due = |at: Instant| now.saturating_duration_since(at) >= FORMATION_NOTE;
        if noted.is_none_or(is_due) {
            noted = Some(now);
            tracing::info!(what, "waiting");
        }
        clock.sleep(FORMATION_LOOK).await;
    }
}

fn remember(
    engine: &dyn Engine,
    beginner: &mut Option<PodId>,
    pod: PodId,
) -> Result<(), EngineError> {
    if beginner.as_ref() != Some(&pod) {
        remember_beginner(engine, &pod)?;
        *beginner = Some(pod);
    }
    Ok(())
}

/// Where the pods' Raft is reached, as gossip says.
pub fn addresses(gossip: &Gossip) -> impl Fn(RaftId) -> Option<String> + Send + Sync + 'static {
    let gossip = gossip.clone();
    move |raft_id| {
        let view = gossip.view();
        let facts = view.pods.values().filter_map(|pod| pod.facts.as_ref());
        let mut found = facts.filter(|facts| facts.raft_id == raft_id.0);
        found.next().map(|facts| facts.peer_address.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use miroir_membership::gossip::PodView;

    fn now_in_test() -> Instant {
        miroir_seams::Clock::simulated().instant()
    }

    fn view(own: &str, pods: &[(&str, Option<&str>)]) -> PeerView {
        let pod = |cluster: Option<&str>| PodView {
            facts: Some(PodFacts {
                raft_id: 1,
                peer_address: "x:1".into(),
                cluster_id: cluster.map(str::to_owned),
                ..PodFacts::default()
            }),
            values: BTreeMap::new(),
            alive: true,
            since: now_in_test(),
            address: ([127, 0, 0, 1], 1).into(),
            generation: 1,
        };
        let pods = pods.iter().map(|(id, cluster)| (PodId::from(*id), pod(*cluster))).collect();
        PeerView { own: PodId::from(own), pods }
    }

    #[tokio::test(start_paused = true)]
    async fn one_of_the_expected_pods_begins_and_none_beside_a_cluster() {
        let all = [("a", None), ("b", None), ("c", None)];
        let formation = |view: &PeerView, expected| formation(view, expected, false);
        assert_eq!(formation(&view("a", &all), 3), Formation::Begin);
        assert_eq!(formation(&view("b", &all), 3), Formation::Defer("a".into()));
        assert!(matches!(formation(&view("a", &all[..2]), 3), Formation::Wait(_)));
        let joined = [("a", None), ("b", Some("x"))];
        assert_eq!(formation(&view("a", &joined), 3), Formation::Join("b".into()));
        assert_eq!(formation(&view("a", &[("a", None)]), 1), Formation::Begin);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_has_seeds_and_expects_nobody_only_joins() {
        let alone = formation(&view("a", &[("a", None)]), 1, true);
        assert!(matches!(alone, Formation::Wait(_)), "its seeds have not answered yet");
        let both = formation(&view("a", &[("a", None), ("b", None)]), 1, true);
        assert!(matches!(both, Formation::Wait(_)), "both have yet to find the cluster");
        let found = formation(&view("a", &[("a", None), ("b", Some("x"))]), 1, true);
        assert_eq!(found, Formation::Join("b".into()));
    }

    #[tokio::test(start_paused = true)]
    async fn new_commands_wait_for_the_oldest_living_pod() {
        let all = view("a", &[("a", Some("x")), ("b", Some("x")), ("c", Some("x"))]);
        let mut peers = peers_from(&all, Some("x"), 2);
        let own = PodId::from("a");
        assert_eq!(known_format(&peers, &own), 1, "pods that say nothing are of the first version");
        for pod in peers.known.values_mut() {
            pod.values.insert(FORMAT_KEY.to_owned(), "4000".to_owned());
        }
        assert_eq!(known_format(&peers, &own), FORMAT);
        for old in peers.known.values_mut().skip(2) {
            old.values.insert(FORMAT_KEY.to_owned(), "0".to_owned());
        }
        assert_eq!(known_format(&peers, &own), 0);
        peers.known.values_mut().skip(2).for_each(|old| old.alive = false);
        assert_eq!(known_format(&peers, &own), FORMAT);
    }

    #[tokio::test(start_paused = true)]
    async fn pods_of_another_cluster_are_strangers() {
        let view = view("a", &[("a", Some("x")), ("b", Some("x")), ("c", Some("y")), ("d", None)]);
        let peers = peers_from(&view, Some("x"), 2);
        let live: Vec<&str> = peers.live.keys().map(PodId::as_str).collect();
        assert_eq!(live, ["a", "b"]);
        assert!(peers.known.contains_key(&PodId::from("d")));
        assert!(!peers.known.contains_key(&PodId::from("c")));
    }
}
