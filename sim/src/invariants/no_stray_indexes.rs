//! Spec 01, late and repeated requests: an index on a node that the log doesn't know (deleted,
//! or made again by a late write) is removed; and every index is where it must be, under its
//! primary key.

use miroir_actors::node_disks::MARKER;
use miroir_storage::ids::NodeId;
use miroir_storage::routing::IndexRouting;

use super::{Violation, World};

fn is_placed(index: &IndexRouting, node: &NodeId) -> bool {
    let mut shards = index.groups.iter().flat_map(|group| &group.shards);
    shards.any(|shard| shard.replicas.contains(node))
}

/// Looks at the world at rest.
pub fn check(world: &World<'_>) -> Vec<Violation> {
    let mut found = Vec::new();
    // One that was removed keeps what it had.
    let known = world.nodes.iter().filter(|(node, _)| world.routing.nodes.contains_key(*node));
    for (node, model) in known {
        for uid in model.documents().keys().filter(|uid| *uid != MARKER) {
            let evidence = match world.routing.by_uid.get(&uid.as_str().into()) {
                None => format!("{node} holds index {uid}, which the log does not know"),
                Some(index) if !is_placed(index, node) => {
                    format!("{node} holds index {uid}, of which it is to have nothing")
                }
                Some(index) => {
                    let on_node = model.primary_key(uid);
                    if on_node.is_none() || on_node == index.primary_key {
                        continue;
                    }
                    format!("{node} has the primary key {on_node:?} for {uid}")
                }
            };
            found.push(Violation { property: "no_stray_indexes", evidence });
        }
    }
    found
}
