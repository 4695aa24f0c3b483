//! All pods that have applied the same entries hold the same tables; and once the world is at
//! rest one pod leads, all are members, second copies are made again and no journal holds
//! anything.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher;

use miroir_storage::engine::{ALL_KEYS, Direction, Engine};
use miroir_storage::log::VOTERS_MAX;
use miroir_storage::tables::STATE_TABLES;
use twox_hash::XxHash64;

use super::Violation;
use crate::cluster::Serving;

/// A digest of every row of the state tables.
fn digest(engine: &dyn Engine) -> u64 {
    let mut digest = XxHash64::with_seed(0);
    for table in STATE_TABLES {
        let rows = engine.scan(*table, ALL_KEYS, Direction::Forward, usize::MAX);
        for (key, value) in rows.unwrap_or_default() {
            digest.write(&[table.0]);
            digest.write(&key);
            digest.write(&value);
        }
    }
    digest.finish()
}

/// Compares pods that have applied the same entries.
pub(crate) fn check(pods: &[Serving]) -> Vec<Violation> {
    let mut first: BTreeMap<u64, (usize, u64)> = BTreeMap::new();
    let mut found = Vec::new();
    if pods.len() < 2 {
        return found;
    }
    for pod in pods {
        let (index, digest) =
            (pod.context.log.applied_index(), digest(pod.context.log.engine().as_ref()));
        let (other, theirs) = *first.entry(index).or_insert((pod.number, digest));
        if theirs != digest {
            let number = pod.number;
            let evidence =
                format!("pod-{other} and pod-{number} hold different tables at entry {index}");
            found.push(Violation { property: "pods_agree", evidence });
        }
    }
    found
}

/// Why `pods` are not yet as they must be at rest, if they aren't.
pub(crate) fn unsettled(pods: &[Serving], count: usize) -> Option<String> {
    if pods.len() != count {
        let serving: Vec<usize> = pods.iter().map(|pod| pod.number).collect();
        return Some(format!("only {serving:?} serve"));
    }
    if count == 1 {
        return None;
    }
    let votes = count.min(VOTERS_MAX);
    let votes = if votes.is_multiple_of(2) { votes - 1 } else { votes };
    let ids: BTreeSet<_> = pods.iter().map(|pod| pod.context.log.metrics().raft_id).collect();
    let leader = pods.first().and_then(|pod| pod.context.log.metrics().leader);
    let applied = pods.first().map(|pod| pod.context.log.applied_index());
    for pod in pods {
        let (number, log) = (pod.number, &pod.context.log);
        let (metrics, members) = (log.metrics(), log.members());
        if metrics.leader.is_none_or(|leader| !ids.contains(&leader)) || metrics.leader != leader {
            return Some(format!("pod-{number} follows {:?}", metrics.leader));
        }
        if Some(log.applied_index()) != applied {
            return Some(format!("pod-{number} has applied {}", log.applied_index()));
        }
        let all: BTreeSet<_> = members.voters.union(&members.learners).copied().collect();
        if !ids.is_subset(&all) || members.voters.len() != votes || !members.settled {
            return Some(format!(
                "pod-{number} sees voters {:?}, learners {:?}",
                members.voters, members.learners
            ));
        }
        let peers = pod.context.peers.now();
        // The only voter's disk is all there is; whoever isn't it has that disk for a second one.
        let copies = if members.voters == BTreeSet::from([metrics.raft_id]) { 1 } else { 2 };
        if peers.copies != copies || peers.live.len() != count {
            return Some(format!(
                "pod-{number} sees {} pods, {} copies",
                peers.live.len(),
                peers.copies
            ));
        }
    }
    None
}

/// Journals that still hold something, as text.
pub(crate) fn full_journals(pods: &[Serving]) -> Option<String> {
    let full: Vec<String> = pods
        .iter()
        .map(|pod| (pod.number, pod.context.journal.usage().records))
        .filter(|(_, records)| *records > 0)
        .map(|(number, records)| format!("pod-{number} has {records} records in its journal"))
        .collect();
    (!full.is_empty()).then(|| full.join(", "))
}
