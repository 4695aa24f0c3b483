//! Safety rule 2: once faults have healed, every replica is back in its in-sync set and where it
//! belongs, and no task is left open.

use miroir_actors::rebalancer::plan::distance_of;
use miroir_storage::routing::Routing;

use super::{Violation, World};

/// Replicas that are out of sync, as text; empty when all is well.
pub fn out_of_sync(routing: &Routing) -> Vec<String> {
    let mut found = Vec::new();
    for (uid, index) in &routing.by_uid {
        for group in &index.groups {
            for (shard, placement) in group.shards.iter().enumerate() {
                for node in &placement.replicas {
                    if !placement.in_sync.contains(node) {
                        found.push(format!("{node} shard {shard} of {uid}"));
                    }
                }
            }
        }
    }
    found
}

/// Replicas that are not where they belong, or not yet gone from where they were, as text.
pub fn out_of_place(routing: &Routing) -> Vec<String> {
    let mut found = Vec::new();
    for (uid, index) in &routing.by_uid {
        let (distance, ..) = distance_of(routing, index);
        if !distance.is_none() {
            found.push(format!("{uid} lacks {distance:?}"));
        }
        if index.reshard.is_some() || index.marks.beside().is_some() {
            found.push(format!("{uid} is divided into {} shards: {:?}", index.shards, index.marks));
        }
    }
    found
}

/// Looks at the world at rest.
pub fn check(world: &World<'_>) -> Vec<Violation> {
    let open: Vec<String> = world
        .tasks
        .iter()
        .filter(|task| !task.ended())
        .map(|task| format!("task {} is {:?}", task.uid, task.state))
        .collect();
    let mut evidence = out_of_sync(world.routing);
    evidence.extend(out_of_place(world.routing));
    evidence.truncate(4);
    evidence.extend(open.into_iter().take(4));
    if evidence.is_empty() {
        return Vec::new();
    }
    vec![Violation { property: "everything_is_in_sync", evidence: evidence.join("; ") }]
}
