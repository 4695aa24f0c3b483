//! Leaders that die, stall, or step aside while all pods go on proposing.

use super::*;

/// Proposes on `pods` while `during` runs; what they know, by pod.
async fn while_proposing<F: Future<Output = TestResult>>(
    pods: &[(usize, CoordinatorLog)],
    during: F,
) -> Result<BTreeMap<usize, Proposed>, Box<dyn std::error::Error>> {
    let (stop, stopped) = watch::channel(false);
    let tasks = miroir_seams::Tasks::new();
    let proposers: Vec<_> = pods
        .iter()
        .map(|(pod, log)| {
            let proposing = propose_until(log.clone(), *pod, stopped.clone());
            (*pod, tasks.spawn("proposer", proposing))
        })
        .collect();
    during.await?;
    stop.send_replace(true);
    let mut known = BTreeMap::new();
    for (pod, proposer) in proposers {
        known.insert(pod, proposer.await?);
    }
    Ok(known)
}

async fn killed_leader(count: usize, seed: u64) -> TestResult {
    let mut cluster = Cluster::of(count, seed).await?;
    let leader = cluster.leader().ok_or("no leader")?;
    let survivors: Vec<_> = (0..count).filter(|pod| *pod != leader).collect();
    let logs: Vec<_> = survivors.iter().map(|pod| (*pod, cluster.log(*pod))).collect();
    let known = while_proposing(&logs, async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        cluster.kill(leader);
        let elected = cluster.until(Duration::from_secs(5), |now| now.leader().is_some()).await;
        let took = elected.ok_or("nobody was elected")?;
        assert!(took < Duration::from_millis(2800), "{took:?}");
        tokio::time::sleep(Duration::from_millis(1500)).await;
        Ok(())
    })
    .await?;
    cluster.agree().await?;
    for (pod, known) in &known {
        check_history(&cluster.tasks(survivors[0]), *pod, known);
        assert!(known.refused.is_empty(), "writes wait for the new leader: {known:?}");
        assert!(known.unknown.len() <= 1, "{known:?}");
        assert!(known.applied.last() > known.unknown.last(), "{known:?}");
    }
    // The old leader comes back with its disk.
    cluster.start(leader, Start::Alone).await?;
    cluster.log(leader).propose(&work(leader, 0)).await?;
    cluster.agree().await
}

#[tokio::test(start_paused = true)]
async fn writes_go_on_after_a_killed_leader_of_three() -> TestResult {
    for seed in 10..16 {
        killed_leader(3, seed).await?;
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn writes_go_on_after_a_killed_leader_of_five() -> TestResult {
    for seed in 20..23 {
        killed_leader(5, seed).await?;
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_leader_silent_for_a_second_stays() -> TestResult {
    let cluster = Cluster::of(3, 30).await?;
    let (leader, term) = (cluster.leader().ok_or("no leader")?, cluster.log(0).metrics().term);
    for _ in 0..10 {
        cluster.net.partition(&[&[leader], &[(leader + 1) % 3], &[(leader + 2) % 3]]);
        tokio::time::sleep(Duration::from_secs(1)).await;
        cluster.net.heal();
        tokio::time::sleep(Duration::from_millis(600)).await;
    }
    assert_eq!((cluster.leader(), cluster.log(0).metrics().term), (Some(leader), term));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn partitions_again_and_again_lose_and_double_nothing() -> TestResult {
    for seed in 40..44 {
        let cluster = Cluster::of(5, seed).await?;
        let logs: Vec<_> = (0..5).map(|pod| (pod, cluster.log(pod))).collect();
        let known = while_proposing(&logs, async {
            for round in 0..6 {
                let leader = cluster.leader().unwrap_or(round % 5);
                let mate = (leader + 1 + round) % 5;
                let rest: Vec<usize> =
                    (0..5).filter(|pod| *pod != leader && *pod != mate).collect();
                cluster.net.partition(&[&[leader, mate], &rest]);
                tokio::time::sleep(Duration::from_millis(1500 + 700 * round as u64)).await;
                cluster.net.heal();
                tokio::time::sleep(Duration::from_millis(900)).await;
            }
            tokio::time::sleep(Duration::from_secs(5)).await;
            Ok(())
        })
        .await?;
        cluster.agree().await?;
        for (pod, known) in &known {
            check_history(&cluster.tasks(0), *pod, known);
            assert!(known.applied.len() > 50, "{known:?}");
        }
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn leadership_is_handed_over_without_a_failed_proposal() -> TestResult {
    for (count, seed) in [(3, 50), (5, 51)] {
        let cluster = Cluster::of(count, seed).await?;
        let logs: Vec<_> = (0..count).map(|pod| (pod, cluster.log(pod))).collect();
        let known = while_proposing(&logs, async {
            for _ in 0..4 {
                let leader = cluster.leader().ok_or("no leader")?;
                let clock = miroir_seams::Clock::real();
                let begun = clock.instant();
                let successor = cluster.log(leader).hand_over_leadership(None).await?;
                assert!(
                    (clock.instant() - begun) < Duration::from_millis(200),
                    "{:?}",
                    (clock.instant() - begun)
                );
                assert_ne!(successor, cluster.id(leader));
                assert_eq!(cluster.leader().map(|pod| cluster.id(pod)), Some(successor));
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
            Ok(())
        })
        .await?;
        cluster.agree().await?;
        for (pod, known) in &known {
            check_history(&cluster.tasks(0), *pod, known);
            assert!(known.refused.is_empty() && known.unknown.is_empty(), "{pod}: {known:?}");
        }
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn idle_pods_say_little() -> TestResult {
    let cluster = Cluster::of(3, 60).await?;
    let before = cluster.net.calls();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let per_second = (cluster.net.calls() - before) / 60;
    assert!(per_second <= 2 * 1000 / HEARTBEAT_MS + 1, "{per_second} calls a second");
    Ok(())
}
