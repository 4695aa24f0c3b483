//! Putting single documents of a replica right that was found to differ from the others
//! ([`crate::anti_entropy`]).
//!
//! A repair is a copy of its own kind: one pass, the last one, over the named documents, while every lane stands at
//! one place ([`super::copying`]). The replica stays in the in-sync sets: it is right but for these. One
//! that differs in more than can be named is taken out and copied as a whole.

use std::collections::{BTreeMap, BTreeSet};

use miroir_storage::ids::{NodeId, ShardId};
use miroir_storage::routing::IndexRouting;
use miroir_storage::tables::indexes::in_sync_of;

use super::lanes::Standing;
use super::{WriterMessage, WriterState, audits};
use crate::anti_entropy::Repair;
use crate::inspect::Address;

/// Repairs that wait; the next round finds again what is dropped.
const WAITING_MAX: usize = 256;

pub(super) fn on_replica_differs(
    myself: &Address<WriterMessage>,
    state: &mut WriterState,
    repair: Repair,
) {
    if !repair.whole {
        state.repairs.retain(|known| (known.shard, &known.node) != (repair.shard, &repair.node));
        if state.repairs.len() < WAITING_MAX {
            state.repairs.push_back(repair);
        }
        return;
    }
    if repair.ids.is_empty() {
        // An operation may be deleting it everywhere.
        let is_free = state.operation.is_none();
        if let Some(lane) = state.lanes.get_mut(&repair.node).filter(|lane| lane.provisioned) {
            lane.found_gone |= is_free;
        }
        return;
    }
    let is_current = |lane: &super::LaneView| lane.standing == Standing::Current;
    if let Some(lane) = state.lanes.get_mut(&repair.node).filter(|lane| is_current(lane)) {
        lane.suspect = true;
        audits::take_out(myself, state);
    }
}

/// The next repair that can be made, and where its documents are read. Those that have become
/// pointless are dropped.
pub(super) fn next(
    state: &mut WriterState,
    index: &IndexRouting,
) -> Option<(Repair, BTreeMap<NodeId, BTreeSet<ShardId>>)> {
    while let Some(repair) = state.repairs.pop_front() {
        let in_sync = in_sync_of(&index.groups, repair.shard);
        let is_fit = |node: &NodeId| {
            in_sync.contains(node)
                && !state.pod.health.is_down(node)
                && state.lanes.get(node).is_some_and(|lane| {
                    lane.standing == Standing::Current
                        && lane.provisioned
                        && lane.disk_life == state.pod.calls.disk_life(node)
                })
        };
        if is_fit(&repair.node) && is_fit(&repair.source) {
            let shards = BTreeSet::from([repair.shard]);
            let sources = BTreeMap::from([(repair.source.clone(), shards)]);
            return Some((repair, sources));
        }
    }
    None
}
