//! Whether a lane asks a node before it sends again what the node may have taken.
//!
//! Upholds the third step of the protocol in `miroir_actors::lane::deliver`: a request that got no
//! answer, or that a former life may have sent, is looked for in the node's list of tasks first.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use miroir_storage::ids::{IndexUid, NodeId};

use crate::model_node::ModelNode;

/// Of each node and index that was asked about: what was sent since.
type SentSince = BTreeMap<(NodeId, IndexUid), BTreeSet<String>>;

/// What one life of a pod has asked and sent.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    sent_since: Arc<Mutex<SentSince>>,
}

impl Asked {
    /// A node has listed its tasks of an index.
    pub fn note_answered(&self, node: &ModelNode, index: &IndexUid) {
        let key = (node.id.clone(), index.clone());
        self.lock().insert(key, BTreeSet::new());
    }

    /// A request is sent. Whether the node has taken it already, as its last, and this life has not asked
    /// the node since it last sent it. What is emptied may be emptied again, of other shards, under the
    /// same name.
    pub fn is_sent_blindly(&self, node: &ModelNode, index: &IndexUid, name: &str) -> bool {
        let mut sent_since = self.lock();
        let known = sent_since.get_mut(&(node.id.clone(), index.clone()));
        let is_unasked = known.is_none_or(|sent| !sent.insert(name.to_owned()));
        is_unasked && !name.contains(":empty") && node.has_taken_last(index.as_str(), name)
    }

    fn lock(&self) -> MutexGuard<'_, SentSince> {
        self.sent_since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
