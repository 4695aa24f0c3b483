use super::*;

#[test]
fn moves_keep_to_their_pace() {
    assert_eq!(pause_after(1000, 0), Duration::ZERO);
    assert_eq!(pause_after(500, 1000), Duration::from_millis(500));
}

#[test]
fn each_shard_is_read_from_one_usable_in_sync_replica_that_is_not_the_target() {
    let target = NodeId::from("a");
    let held = BTreeSet::from([ShardId(0), ShardId(1), ShardId(2)]);
    let in_sync = |shard: ShardId| match shard.0 {
        0 => BTreeSet::from([NodeId::from("a"), NodeId::from("b")]),
        1 => BTreeSet::from([NodeId::from("c")]),
        _ => BTreeSet::from([NodeId::from("a")]),
    };
    let sources = assign_sources(&held, &target, in_sync, |node| node.as_str() != "c");
    assert_eq!(sources, BTreeMap::from([(NodeId::from("b"), BTreeSet::from([ShardId(0)]))]));
}
