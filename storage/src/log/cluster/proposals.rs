//! Proposals from every pod: forwarded, classified, in order.

use bytes::Bytes;
use futures::future::join_all;
use miroir_seams::PeerService;
use openraft::Vote;
use proptest::prelude::*;

use super::*;
use crate::raft::messages::{APPEND, ELECT, PROPOSE, SNAPSHOT, VOTE, YIELD};

#[tokio::test(start_paused = true)]
async fn every_pod_proposes_and_sees_what_it_proposed() -> TestResult {
    let cluster = Cluster::of(6, 1).await?;
    assert_eq!(cluster.log(0).members().learners.len(), 1, "one of six is a learner");
    for pod in cluster.running() {
        let log = cluster.log(pod);
        let mut events = log.subscribe().events;
        log.propose(&work(pod, 0)).await?;
        assert!(cluster.tasks(pod).contains(&(pod, 0)), "visible here on return");
        assert!(events.try_recv().is_ok());
    }
    cluster.agree().await
}

#[tokio::test(start_paused = true)]
async fn concurrent_proposals_of_a_follower_share_an_entry() -> TestResult {
    let cluster = Cluster::of(3, 2).await?;
    let follower = (cluster.leader().ok_or("no leader")? + 1) % 3;
    let log = cluster.log(follower);
    let before = log.metrics().last_log.unwrap_or(0);
    let commands: Vec<Command> = (0..64).map(|number| work(follower, number)).collect();
    for outcome in join_all(commands.iter().map(|command| log.propose(command))).await {
        outcome?;
    }
    assert!(log.metrics().last_log.unwrap_or(0) - before <= 2);
    let order: Vec<u64> = cluster.tasks(follower).iter().map(|(_, number)| *number).collect();
    assert!(order.is_sorted());
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn detached_proposals_take_effect_before_later_ones() -> TestResult {
    let cluster = Cluster::of(3, 3).await?;
    for pod in cluster.running() {
        let log = cluster.log(pod);
        log.propose_detached(&work(pod, 0));
        log.propose(&work(pod, 1)).await?;
        let of_it: Vec<_> = cluster.tasks(pod).into_iter().filter(|(by, _)| *by == pod).collect();
        assert_eq!(of_it, [(pod, 0), (pod, 1)]);
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_unknown_and_later_proposals_stay_behind_it() -> TestResult {
    let cluster = Cluster::of(3, 4).await?;
    let follower = (cluster.leader().ok_or("no leader")? + 1) % 3;
    let log = cluster.log(follower);
    cluster.net.lose_answers(&[PROPOSE]);
    assert_eq!(log.propose(&work(follower, 0)).await, Err(ProposeError::Unknown));
    cluster.net.lose_answers(&[]);
    log.propose(&work(follower, 1)).await?;
    assert_eq!(cluster.tasks(follower), [(follower, 0), (follower, 1)], "it took effect");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn an_entry_cut_off_in_favour_of_a_new_leader_is_unknown_not_refused() -> TestResult {
    let cluster = Cluster::of(3, 5).await?;
    let leader = cluster.leader().ok_or("no leader")?;
    let (a, b) = ((leader + 1) % 3, (leader + 2) % 3);
    cluster.net.partition(&[&[leader], &[a, b]]);
    let old = cluster.log(leader);
    let lost = old.seams_spawn(old.clone(), work(leader, 0));
    let elected = |cluster: &Cluster| cluster.leader().is_some_and(|pod| pod != leader);
    cluster.until(Duration::from_secs(4), elected).await.ok_or("nobody was elected")?;
    cluster.log(a).propose(&work(a, 0)).await?;
    cluster.net.heal();
    assert_eq!(lost.await?, Err(ProposeError::Unknown));
    old.propose(&work(leader, 1)).await?;
    cluster.agree().await?;
    assert_eq!(cluster.tasks(a), [(a, 0), (leader, 1)]);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_minority_refuses_and_recovers() -> TestResult {
    let cluster = Cluster::of(5, 6).await?;
    let leader = cluster.leader().ok_or("no leader")?;
    let others: Vec<usize> = (0..5).filter(|pod| *pod != leader).collect();
    let (mate, majority) = (others[0], &others[1..]);
    cluster.net.partition(&[&[leader, mate], majority]);
    tokio::time::sleep(Duration::from_secs(4)).await;
    for pod in [leader, mate] {
        let refused = cluster.log(pod).propose(&work(pod, 0)).await;
        assert_eq!(refused, Err(ProposeError::NoQuorum), "pod {pod}");
        assert!(cluster.log(pod).confirmed().age > Duration::from_secs(4));
        let barrier = cluster.log(pod).read_barrier(Duration::from_secs(1)).await;
        assert!(barrier.is_err(), "pod {pod} can't know");
    }
    for pod in majority {
        cluster.log(*pod).propose(&work(*pod, 0)).await?;
        assert!(cluster.log(*pod).confirmed().age < Duration::from_secs(1));
    }
    cluster.net.heal();
    for pod in [leader, mate] {
        cluster.log(pod).propose(&work(pod, 1)).await?;
        cluster.log(pod).read_barrier(Duration::from_secs(1)).await?;
        assert!(cluster.tasks(pod).len() >= 4);
        let fresh = |cluster: &Cluster| cluster.log(pod).confirmed().age < Duration::from_secs(1);
        assert!(cluster.until(Duration::from_secs(2), fresh).await.is_some());
    }
    cluster.agree().await
}

#[tokio::test(start_paused = true)]
async fn garbage_and_requests_for_others_change_nothing() -> TestResult {
    let cluster = Cluster::of(3, 7).await?;
    let log = cluster.log(0);
    let before = log.metrics();
    for channel in [APPEND, VOTE, SNAPSHOT, PROPOSE, INDEX, YIELD, ELECT, "log/none", ""] {
        for body in [&b""[..], &[1], &[2, 0, 0], &[1; 40], &[255; 300]] {
            assert!(log.serve(channel, Bytes::copy_from_slice(body)).await.is_err());
        }
    }
    // A raft id that doesn't live here any more; another cluster.
    let call = |cluster: &str, target: RaftId| crate::raft::messages::Envelope {
        cluster: cluster.to_owned(),
        from: RaftId(9),
        target,
        body: openraft::raft::VoteRequest { vote: Vote::new(99, RaftId(9)), last_log_id: None },
    };
    for (name, target) in [("test", RaftId(8)), ("other", before.raft_id)] {
        let body = crate::tables::records::encode(&call(name, target))?;
        assert!(log.serve(VOTE, Bytes::from(body)).await.is_err());
    }
    assert_eq!(log.metrics(), before);
    Ok(())
}

/// What a pod of a later version proposes.
const UNKNOWN: &[u8] = &[1, 0xff, 0x7f];

#[tokio::test(start_paused = true)]
async fn a_leader_keeps_out_what_it_can_not_read() -> TestResult {
    let cluster = Cluster::of(3, 9).await?;
    let leader = cluster.leader().ok_or("no leader")?;
    let newer = cluster.log((leader + 1) % 3);
    let answer = newer.propose_encoded(Bytes::from_static(UNKNOWN)).await;
    assert_eq!(answer, Err(ProposeError::NoQuorum), "certainly not proposed");
    newer.propose(&work(0, 0)).await?;
    cluster.agree().await
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_bytes_make_a_log_panic(channel in 0usize..7, body in prop::collection::vec(any::<u8>(), 0..200)) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()?;
        runtime.block_on(async {
            let mut cluster = Cluster::new(8);
            cluster.start(0, Start::Join).await.map_err(|error| error.to_string())?;
            let channels = [APPEND, VOTE, SNAPSHOT, PROPOSE, INDEX, YIELD, ELECT];
            let mut body = body;
            if let Some(version) = body.first_mut() {
                *version = 1;
            }
            let _ = cluster.log(0).serve(channels[channel], Bytes::from(body)).await;
            if cluster.log(0).metrics().running { Ok(()) } else { Err("ended".to_owned()) }
        })
        .map_err(TestCaseError::fail)?;
    }
}

impl CoordinatorLog {
    /// Proposes in the background.
    pub(super) fn seams_spawn(
        &self,
        log: CoordinatorLog,
        command: Command,
    ) -> tokio::task::JoinHandle<Result<Outcome, ProposeError>> {
        self.core.seams.tasks.spawn("test", async move { log.propose(&command).await })
    }
}
