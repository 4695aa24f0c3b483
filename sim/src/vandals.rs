//! Somebody who writes to nodes behind the pods' backs. What becomes of it only comparing replicas finds
//! out ([`miroir_actors::anti_entropy`]).

use miroir_membership::placement::shard_of;
use miroir_storage::tables::indexes::in_sync_of;

use crate::cluster::Cluster;
use crate::dice::Dice;
use crate::invariants::replicas_are_equal;
use crate::model_node::ModelNode;

/// Documents of one index at most.
const CHANGED_MAX: u64 = 3;

impl Cluster {
    /// Somebody else changes documents on one node, which keeps the names of requests, of shards that another
    /// has too.
    pub(crate) fn change_documents(&mut self) {
        let Some(routing) = self.routing() else { return };
        let dice = Dice::new(self.plan.seed, "vandal");
        let is_fit = |node: &&ModelNode| node.keeps_names() && routing.nodes.contains_key(&node.id);
        let nodes: Vec<ModelNode> = self.nodes.values().filter(is_fit).cloned().collect();
        let Some(node) = dice.pick(&nodes) else { return };
        self.network.excuse(&node.id);
        for (uid, index) in &routing.by_uid {
            let is_twice = |id: &String| {
                let in_sync = in_sync_of(&index.groups, shard_of(id, index.shards));
                in_sync.len() > 1 && in_sync.contains(&node.id)
            };
            let ids = node.documents_of(uid.as_str()).into_keys().filter(is_twice);
            let changed: Vec<String> = ids.take(dice.between(0, CHANGED_MAX) as usize).collect();
            node.change_documents(uid.as_str(), &changed);
            self.vandalized.entry(uid.clone()).or_default().extend(changed);
        }
    }

    /// Whether replicas differ.
    pub(crate) fn is_vandalized(&self) -> bool {
        let routing = self.routing();
        let differs = routing.is_some_and(|routing| {
            !replicas_are_equal::check_replicas(&routing, &self.nodes).is_empty()
        });
        self.plan.changes_documents && differs
    }
}
