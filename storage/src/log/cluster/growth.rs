//! Pods that come, go, lose their disks, or stay away for long.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_to_join_waits_and_is_no_cluster_of_its_own() -> TestResult {
    let mut cluster = Cluster::new(70);
    cluster.start(0, Start::Join).await?;
    let log = cluster.log(0);
    assert_eq!(log.propose(&work(0, 0)).await, Err(ProposeError::NoQuorum));
    assert_eq!(log.confirmed().at, None);
    assert!(log.members().voters.is_empty());
    assert!(log.routing().cluster_id.is_empty());
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn grows_and_shrinks_under_load_without_a_failed_proposal() -> TestResult {
    for seed in 80..83 {
        let mut cluster = Cluster::of(1, seed).await?;
        let first = cluster.log(0);
        let (stop, stopped) = watch::channel(false);
        let tasks = miroir_seams::Tasks::new();
        let proposer = tasks.spawn("proposer", propose_until(first, 0, stopped.clone()));
        for size in [3, 5, 7] {
            for pod in size - 2..size {
                cluster.start(pod, Start::Join).await?;
            }
            cluster.settle().await?;
            assert_eq!(cluster.log(0).members().voters.len(), size.min(5));
        }
        let others = (1..3).map(|pod| {
            let proposing = propose_until(cluster.log(pod), pod, stopped.clone());
            (pod, tasks.spawn("proposer", proposing))
        });
        let others: Vec<_> = others.collect();
        // Leave, the leader among them, down to three.
        let leader = cluster.leader().ok_or("no leader")?;
        assert_eq!(leader, 0);
        let leaving: Vec<RaftId> = [0, 3, 4, 5].iter().map(|pod| cluster.id(*pod)).collect();
        cluster.settle_without(&leaving).await?;
        assert_ne!(cluster.leader(), Some(0), "it handed over");
        stop.send_replace(true);
        let mut known = vec![(0, proposer.await?)];
        for (pod, proposer) in others {
            known.push((pod, proposer.await?));
        }
        let left = cluster.leader().ok_or("no leader")?;
        assert_eq!(cluster.log(left).members().addresses.len(), 3);
        for (pod, known) in &known {
            check_history(&cluster.tasks(left), *pod, known);
            assert!(known.unknown.is_empty(), "{pod}: {:?}", known.unknown);
            // Pod 0 is no member any more in the end: it is refused, and that is known.
            assert!(*pod == 0 || known.refused.is_empty(), "{pod}: {:?}", known.refused);
        }
        // Back to one.
        let leaving: Vec<RaftId> =
            (0..7).filter(|pod| *pod != left).map(|pod| cluster.id(pod)).collect();
        cluster.settle_without(&leaving).await?;
        for pod in 0..7 {
            if pod != left {
                cluster.kill(pod);
            }
        }
        cluster.log(left).propose(&work(left, 1_000_000)).await?;
        assert_eq!(cluster.log(left).members().voters.len(), 1);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(cluster.log(left).confirmed().age, Duration::ZERO, "alone: always");
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_restarted_pod_catches_up_and_a_lost_disk_joins_anew() -> TestResult {
    let mut cluster = Cluster::of(3, 90).await?;
    let leader = cluster.leader().ok_or("no leader")?;
    let (a, b) = ((leader + 1) % 3, (leader + 2) % 3);
    cluster.kill(a);
    for number in 0..50 {
        cluster.log(b).propose(&work(b, number)).await?;
    }
    cluster.start(a, Start::Join).await?;
    cluster.log(a).read_barrier(Duration::from_secs(3)).await?;
    assert_eq!(cluster.tasks(a).len(), 50);

    let old = cluster.id(a);
    cluster.kill(a);
    cluster.pods.remove(&a);
    cluster.start(a, Start::Join).await?;
    assert_ne!(cluster.id(a), old);
    cluster.settle().await?;
    let members = cluster.log(leader).members();
    assert!(!members.addresses.contains_key(&old), "the lost identity is removed");
    assert!(members.voters.contains(&cluster.id(a)));
    cluster.agree().await
}

#[tokio::test(start_paused = true)]
async fn a_pod_far_behind_gets_a_snapshot_and_its_subscribers_start_again() -> TestResult {
    let mut cluster = Cluster::of(3, 91).await?;
    let leader = cluster.leader().ok_or("no leader")?;
    let (a, b) = ((leader + 1) % 3, (leader + 2) % 3);
    cluster.net.partition(&[&[a]]);
    let mut events = cluster.log(a).subscribe().events;
    let entries = COMPACT_ENTRIES + KEEP_ENTRIES + PURGE_ENTRIES;
    for number in 0..entries {
        cluster.log(leader).propose(&work(leader, number)).await?;
    }
    let purged = |now: &Cluster| now.log(leader).metrics().purged.is_some();
    cluster.until(Duration::from_secs(5), purged).await.ok_or("the log was not compacted")?;
    cluster.net.heal();
    cluster.log(b).propose(&work(b, 0)).await?;
    cluster.agree().await?;
    assert!(events.recv().await.is_none(), "subscribers are to read the tables again");
    // A new pod too.
    cluster.start(3, Start::Join).await?;
    cluster.settle().await?;
    cluster.agree().await?;
    assert_eq!(cluster.log(3).routing().cluster_id, "test");
    cluster.log(3).propose(&work(3, 0)).await?;
    // And it keeps it.
    cluster.kill(3);
    cluster.start(3, Start::Join).await?;
    cluster.agree().await
}

#[tokio::test(start_paused = true)]
async fn a_change_left_half_done_by_a_lost_leader_is_finished() -> TestResult {
    let mut cluster = Cluster::of(3, 92).await?;
    let leader = cluster.leader().ok_or("no leader")?;
    cluster.start(3, Start::Join).await?;
    cluster.start(4, Start::Join).await?;
    let log = cluster.log(leader);
    for pod in [3, 4] {
        log.add_learner(cluster.id(pod), &format!("pod-{pod}")).await?;
    }
    let all: std::collections::BTreeSet<RaftId> = (0..5).map(|pod| cluster.id(pod)).collect();
    let changing = log.clone();
    let voters = all.clone();
    let change =
        log.core.seams.tasks.spawn("test", async move { changing.set_voters(voters).await });
    // Killed as soon as a follower holds the joint configuration.
    let follower = (leader + 1) % 3;
    while cluster.log(follower).members().voters_before.is_none() {
        tokio::task::yield_now().await;
        tokio::time::sleep(Duration::from_micros(100)).await;
    }
    cluster.kill(leader);
    drop(change);
    let elected = |now: &Cluster| now.leader().is_some();
    cluster.until(Duration::from_secs(6), elected).await.ok_or("nobody was elected")?;
    cluster.start(leader, Start::Join).await?;
    cluster.settle().await?;
    let next = cluster.leader().ok_or("no leader")?;
    let members = cluster.log(next).members();
    assert_eq!((members.voters_before, members.voters), (None, all));
    cluster.log(next).propose(&work(next, 0)).await?;
    cluster.agree().await
}

#[tokio::test(start_paused = true)]
async fn changes_are_refused_where_they_would_do_harm() -> TestResult {
    let cluster = Cluster::of(3, 93).await?;
    let leader = cluster.leader().ok_or("no leader")?;
    let (log, follower) = (cluster.log(leader), cluster.log((leader + 1) % 3));
    let only = |id| std::collections::BTreeSet::from([id]);
    let other = follower.metrics().raft_id;
    assert_eq!(follower.set_voters(only(other)).await, Err(ChangeError::NotLeading));
    assert_eq!(follower.remove(other).await, Err(ChangeError::NotLeading));
    assert_eq!(log.set_voters(only(other)).await, Err(ChangeError::LeaderStays));
    assert_eq!(log.remove(other).await, Err(ChangeError::IsVoter(other)));
    let stranger = [log.metrics().raft_id, RaftId(7)].into();
    assert_eq!(log.set_voters(stranger).await, Err(ChangeError::NoMember(RaftId(7))));
    assert!(log.leadership().borrow().here && !follower.leadership().borrow().here);
    assert_eq!(follower.leadership().borrow().leader, Some(log.metrics().raft_id));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn large_entries_travel_a_few_at_a_time() -> TestResult {
    let cluster = Cluster::of(3, 94).await?;
    let leader = cluster.leader().ok_or("no leader")?;
    let behind = (leader + 1) % 3;
    cluster.net.partition(&[&[behind]]);
    let large = |number: u64| {
        Command::EnqueueTask(Box::new(EnqueueTask {
            index: None,
            work: Work::CancelTasks { original_filter: "x".repeat(300_000), uids: Vec::new() },
            create: None,
            custom_metadata: Some(format!("{leader} {number}")),
            at: 0,
        }))
    };
    for number in 0..20 {
        cluster.log(leader).propose(&large(number)).await?;
    }
    // One that is larger than an entry may become by joining.
    let huge = Command::InitCluster { cluster_id: "y".repeat(3 * propose::ENTRY_BYTES_MAX) };
    cluster.log((leader + 2) % 3).propose(&huge).await?;
    cluster.net.heal();
    cluster.agree().await?;
    cluster.log(behind).propose(&work(behind, 0)).await?;
    assert_eq!(cluster.tasks(behind).len(), 21);
    Ok(())
}
