use std::collections::{BTreeMap, BTreeSet};

use miroir_storage::ids::Epoch;
use miroir_storage::routing::{GroupPlacement, Marks, ShardPlacement};
use proptest::prelude::*;
use time::OffsetDateTime;

use super::*;

/// `groups[g][s]` lists the replicas of shard `s`; a leading `-` marks one that is not in sync.
fn index(groups: &[Vec<Vec<String>>]) -> IndexRouting {
    let placements = groups.iter().enumerate().map(|(group, shards)| GroupPlacement {
        group: GroupId(group as u32),
        shards: shards
            .iter()
            .map(|nodes| {
                let bare = |name: &String| NodeId(name.trim_start_matches('-').to_owned());
                ShardPlacement {
                    replicas: nodes.iter().map(bare).collect(),
                    in_sync: nodes.iter().filter(|n| !n.starts_with('-')).map(bare).collect(),
                }
            })
            .collect(),
    });
    let shards = groups.first().map_or(0, Vec::len) as u32;
    IndexRouting {
        marks: Marks::first(shards),
        reshard: None,
        moves: BTreeMap::new(),
        uid: "1-movies".into(),
        name: "movies".into(),
        primary_key: None,
        created_at: OffsetDateTime::UNIX_EPOCH,
        shards,
        settings: Default::default(),
        settings_version: 0,
        settings_pending: false,
        writer: "pod".into(),
        epoch: Epoch(1),
        groups: placements.collect(),
    }
}

fn group(shards: &[&str]) -> Vec<Vec<String>> {
    shards.iter().map(|nodes| nodes.split(' ').map(str::to_owned).collect()).collect()
}

/// `node: shards filter` per call, then the missing shards.
fn told(plan: &Plan) -> String {
    let numbers =
        |shards: &[ShardId]| shards.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let mut lines: Vec<String> =
        plan.calls
            .iter()
            .map(|call| {
                let filter = call.filter.as_deref().map_or("whole", |filter| {
                    if filter.contains("NOT IN") { "not in" } else { "in" }
                });
                format!("{}: {} {filter}", call.node, numbers(&call.shards))
            })
            .collect();
    if !plan.missing.is_empty() {
        lines.push(format!("missing {}", numbers(&plan.missing)));
    }
    lines.join("; ")
}

fn all(_: &NodeId) -> bool {
    true
}

#[test]
fn a_pod_with_an_old_placement_names_the_shards() {
    let index = index(&[group(&["a b", "a b", "a b", "c"])]);
    let mut plan = plan_read(&index, &|node| node.as_str() != "b", 7);
    assert_eq!(told(&plan), "a: 0,1,2 whole; c: 3 whole");
    plan.name_shards(index.marks.current);
    assert_eq!(told(&plan), "a: 0,1,2 in; c: 3 in");
}

#[test]
fn with_one_replica_every_node_is_asked_whole() {
    let index = index(&[group(&["a", "b", "a", "c"])]);
    assert_eq!(told(&plan_read(&index, &all, 7)), "a: 0,2 whole; b: 1 whole; c: 3 whole");
}

#[test]
fn a_node_that_holds_everything_is_asked_alone() {
    let index = index(&[group(&["a c", "a b", "a b c"])]);
    for hash in 0..20 {
        assert_eq!(told(&plan_read(&index, &all, hash)), "a: 0,1,2 whole");
    }
}

#[test]
fn copies_that_were_not_chosen_are_filtered_out_even_when_not_in_sync() {
    let routing = index(&[group(&["a", "a", "a", "b -a"])]);
    let plan = plan_read(&routing, &all, 0);
    assert_eq!(told(&plan), "a: 0,1,2 not in; b: 3 whole");
    let filter = plan.calls.first().and_then(|call| call.filter.clone());
    assert_eq!(filter.as_deref(), Some("_miroir_shard NOT IN [\"¶\"]"));
    let routing = index(&[group(&["a", "b -a", "b -a"])]);
    assert_eq!(told(&plan_read(&routing, &all, 0)), "a: 0 in; b: 1,2 whole");
}

#[test]
fn a_query_stays_in_one_group_and_other_queries_use_the_others() {
    let index = index(&[group(&["a", "b"]), group(&["c", "d"])]);
    let plans: BTreeSet<String> =
        (0..50).map(|hash| told(&plan_read(&index, &all, hash))).collect();
    assert_eq!(
        plans.into_iter().collect::<Vec<_>>(),
        ["a: 0 whole; b: 1 whole", "c: 0 whole; d: 1 whole"]
    );
}

#[test]
fn a_group_with_a_hole_is_avoided_then_helped_out_and_at_last_the_hole_is_named() {
    let index = index(&[group(&["a", "b"]), group(&["c", "d"])]);
    let without =
        |gone: &'static [&'static str]| move |node: &NodeId| !gone.contains(&node.as_str());
    for hash in 0..20 {
        let told = |gone| told(&plan_read(&index, &without(gone), hash));
        assert_eq!(told(&["b"]), "c: 0 whole; d: 1 whole");
        assert_eq!(told(&["b", "c"]), "a: 0 whole; d: 1 whole");
        assert!(told(&["b", "d"]).ends_with("missing 1"));
        assert_eq!(told(&["a", "b", "c", "d"]), "missing 0,1");
    }
}

#[test]
fn the_shard_of_a_document_follows_its_text() {
    assert_eq!(shard_of("1", 64), shard_of("1", 64));
    assert_eq!(shard_of("any", 1), ShardId(0));
    let used: BTreeSet<ShardId> = (0..1000).map(|id| shard_of(&id.to_string(), 64)).collect();
    assert_eq!(used.len(), 64);
}

proptest! {
    #[test]
    fn every_shard_is_asked_of_exactly_one_copy(
        placement in proptest::collection::vec(
            proptest::sample::subsequence(vec!["a", "b", "c", "d", "e"], 1..=3), 1..20),
        lagging in proptest::collection::vec(any::<bool>(), 60),
        gone in proptest::sample::subsequence(vec!["a", "b", "c", "d", "e"], 0..=2),
        hash in any::<u64>(),
    ) {
        let mut lagging = lagging.into_iter();
        let shards: Vec<Vec<String>> = placement
            .iter()
            .map(|nodes| {
                nodes
                    .iter()
                    .map(|n| if lagging.next() == Some(true) { format!("-{n}") } else { (*n).to_owned() })
                    .collect()
            })
            .collect();
        let index = index(std::slice::from_ref(&shards));
        let plan = plan_read(&index, &|node| !gone.contains(&node.as_str()), hash);
        let mut owners: BTreeMap<ShardId, Vec<&NodeId>> = BTreeMap::new();
        for call in &plan.calls {
            prop_assert!(!gone.contains(&call.node.as_str()));
            let held = shards.iter().enumerate().filter(|(_, nodes)| {
                nodes.iter().any(|n| n.trim_start_matches('-') == call.node.as_str())
            });
            let held: Vec<ShardId> = held.map(|(shard, _)| ShardId(shard as u32)).collect();
            // What passes the filter is what was chosen.
            let listed = |shard: &ShardId| call.filter.as_deref().is_some_and(|filter| {
                filter.contains(&format!("\"{}\"", index.marks.current.token(shard.0)))
            });
            let negated = call.filter.as_deref().is_some_and(|filter| filter.contains("NOT IN"));
            let seen: Vec<ShardId> = held
                .into_iter()
                .filter(|shard| call.filter.is_none() || listed(shard) != negated)
                .collect();
            prop_assert_eq!(&seen, &call.shards);
            for shard in seen {
                owners.entry(shard).or_default().push(&call.node);
            }
        }
        for (shard, nodes) in shards.iter().enumerate() {
            let shard = ShardId(shard as u32);
            let readable = nodes.iter().any(|n| !n.starts_with('-') && !gone.contains(&n.as_str()));
            prop_assert_eq!(owners.get(&shard).map_or(0, Vec::len), usize::from(readable));
            prop_assert_eq!(plan.missing.contains(&shard), !readable);
            if let Some(owner) = owners.get(&shard).and_then(|o| o.first()) {
                prop_assert!(nodes.iter().any(|n| n == owner.as_str()));
            }
        }
    }
}
