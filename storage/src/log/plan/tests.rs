//! The rules by example, and that any course of pods ends where it should.

use proptest::prelude::*;

use super::*;

const GRACE: Duration = Duration::from_secs(300);

fn ids(numbers: impl IntoIterator<Item = u64>) -> BTreeSet<RaftId> {
    numbers.into_iter().map(RaftId).collect()
}

fn address(id: RaftId) -> String {
    format!("pod-{id}")
}

/// Members led by pod 1, all caught up.
fn members(voters: &[u64], learners: &[u64]) -> Members {
    let (voters, learners) = (ids(voters.iter().copied()), ids(learners.iter().copied()));
    let all: BTreeSet<RaftId> = voters.union(&learners).copied().collect();
    Members {
        raft_id: RaftId(1),
        addresses: all.iter().map(|id| (*id, address(*id))).collect(),
        progress: Some(all.iter().map(|id| (*id, 1000)).collect()),
        voters,
        learners,
        settled: true,
        leader: Some(RaftId(1)),
        last_log: Some(1000),
        ..Members::default()
    }
}

struct World {
    pods: PodsSeen,
    now: Instant,
}

/// Pods that are alive, and how long others are gone, in seconds.
fn world(live: &[u64], gone: &[(u64, u64)]) -> World {
    let begun = Instant::now();
    let now = begun + Duration::from_secs(10_000);
    let live = live.iter().map(|id| (RaftId(*id), address(RaftId(*id)))).collect();
    let gone_since =
        gone.iter().map(|(id, since)| (RaftId(*id), now - Duration::from_secs(*since))).collect();
    World { pods: PodsSeen { live, gone_since, leaving: BTreeSet::new() }, now }
}

impl World {
    fn leaving(mut self, leaving: &[u64]) -> Self {
        self.pods.leaving = ids(leaving.iter().copied());
        self
    }

    fn plan(&self, members: &Members) -> Option<Change> {
        plan_membership(&self.pods, members, self.now, GRACE)
    }
}

fn voters(numbers: &[u64]) -> Option<Change> {
    Some(Change::SetVoters(ids(numbers.iter().copied())))
}

#[test]
fn pods_are_added_one_by_one_and_made_voters_in_odd_numbers() {
    let seen = world(&[1, 2, 3], &[]);
    let add = |id| Some(Change::AddLearner { raft_id: RaftId(id), address: address(RaftId(id)) });
    assert_eq!(seen.plan(&members(&[1], &[])), add(2));
    assert_eq!(seen.plan(&members(&[1], &[2])), add(3));
    assert_eq!(seen.plan(&members(&[1], &[2, 3])), voters(&[1, 2, 3]));
    assert_eq!(seen.plan(&members(&[1, 2, 3], &[])), None);
    assert_eq!(world(&[1, 2], &[]).plan(&members(&[1], &[2])), None, "two voters are no better");
    let six = world(&[1, 2, 3, 4, 5, 6], &[]);
    assert_eq!(six.plan(&members(&[1, 2, 3], &[4, 5, 6])), voters(&[1, 2, 3, 4, 5]));
    assert_eq!(six.plan(&members(&[1, 2, 3, 4, 5], &[6])), None);
}

#[test]
fn a_learner_that_is_behind_is_not_promoted() {
    let mut now = members(&[1], &[2, 3]);
    now.progress = Some([(RaftId(1), 1000), (RaftId(2), 1000), (RaftId(3), 700)].into());
    assert_eq!(world(&[1, 2, 3], &[]).plan(&now), None);
    now.progress = Some([(RaftId(1), 1000), (RaftId(2), 1000)].into());
    assert_eq!(world(&[1, 2, 3], &[]).plan(&now), None);
}

#[test]
fn nothing_is_planned_elsewhere_or_while_a_change_is_under_way() {
    let seen = world(&[1, 2, 3], &[]);
    let follower = Members { leader: Some(RaftId(2)), ..members(&[1], &[]) };
    assert_eq!(seen.plan(&follower), None);
    let unsettled = Members { settled: false, ..members(&[1], &[]) };
    assert_eq!(seen.plan(&unsettled), None);
}

#[test]
fn a_change_that_stopped_half_done_is_finished_first() {
    let half = Members { voters_before: Some(ids([1])), ..members(&[1, 2, 3], &[4]) };
    assert_eq!(world(&[1, 2, 3, 4, 5], &[]).plan(&half), voters(&[1, 2, 3]));
    assert_eq!(world(&[1], &[]).plan(&half), None, "it could not be decided");
}

#[test]
fn a_moved_pod_is_noted() {
    let mut seen = world(&[1, 2, 3], &[]);
    seen.pods.live.insert(RaftId(2), "elsewhere".to_owned());
    let noted = Change::AddLearner { raft_id: RaftId(2), address: "elsewhere".to_owned() };
    assert_eq!(seen.plan(&members(&[1, 2, 3], &[])), Some(noted));
}

#[test]
fn a_gone_voter_is_kept_then_replaced_then_removed() {
    let (three, four) = (members(&[1, 2, 3], &[]), members(&[1, 2, 3], &[4]));
    assert_eq!(world(&[1, 2], &[]).plan(&three), None);
    assert_eq!(world(&[1, 2, 4], &[(3, 14)]).plan(&four), None);
    assert_eq!(world(&[1, 2, 4], &[(3, 16)]).plan(&four), voters(&[1, 2, 4]));
    assert_eq!(world(&[1, 2], &[(3, 299)]).plan(&three), None, "nobody can take over");
    assert_eq!(world(&[1, 2], &[(3, 301)]).plan(&three), voters(&[1]));
    let gone = world(&[1, 2], &[(3, 301)]);
    assert_eq!(gone.plan(&members(&[1], &[2, 3])), Some(Change::Remove(RaftId(3))));
    assert_eq!(world(&[1, 2], &[(3, 299)]).plan(&members(&[1], &[2, 3])), None);
}

#[test]
fn without_a_live_majority_nothing_is_changed() {
    assert_eq!(world(&[1, 4], &[(2, 999), (3, 999)]).plan(&members(&[1, 2, 3], &[4])), None);
}

#[test]
fn leaving_pods_go_at_once_and_the_leader_hands_over_first() {
    let seen = world(&[1, 2, 3], &[]).leaving(&[3]);
    assert_eq!(seen.plan(&members(&[1, 2, 3], &[])), voters(&[1]));
    assert_eq!(seen.plan(&members(&[1], &[2, 3])), Some(Change::Remove(RaftId(3))));
    assert_eq!(seen.plan(&members(&[1], &[2])), None, "it isn't added again");
    let seen = world(&[1, 2, 3, 4], &[]).leaving(&[1]);
    let over = Some(Change::HandOver { successor: RaftId(2) });
    assert_eq!(seen.plan(&members(&[1, 2, 3], &[4])), over);
}

/// What carrying out `change` makes of `members`; the new learner is caught up at once.
fn carry_out(members: &mut Members, change: Change) {
    match change {
        Change::AddLearner { raft_id, address } => {
            if !members.voters.contains(&raft_id) {
                members.learners.insert(raft_id);
            }
            members.addresses.insert(raft_id, address);
        }
        Change::SetVoters(voters) => {
            let all: BTreeSet<RaftId> = members.addresses.keys().copied().collect();
            members.learners = all.difference(&voters).copied().collect();
            members.voters = voters;
        }
        Change::Remove(id) => {
            members.learners.remove(&id);
            members.addresses.remove(&id);
        }
        Change::HandOver { successor } => {
            members.raft_id = successor;
            members.leader = Some(successor);
        }
    }
    members.progress = Some(members.addresses.keys().map(|id| (*id, 1000)).collect());
}

proptest! {
    /// From any members and pods: every step keeps the rules, and the steps come to an end.
    #[test]
    fn plans_keep_the_rules_and_end(
        voter_count in 0usize..3,
        learner_count in 0u64..4,
        live in prop::collection::btree_set(2u64..12, 0..9),
        gone in prop::collection::btree_map(2u64..12, 0u64..600, 0..9),
        leaving in prop::collection::btree_set(1u64..12, 0..3),
    ) {
        let voters: Vec<u64> = (1..=2 * voter_count as u64 + 1).collect();
        let next = voters.len() as u64 + 1;
        let learners: Vec<u64> = (next..next + learner_count).collect();
        let mut members = members(&voters, &learners);
        let live: Vec<u64> = std::iter::once(1).chain(live).collect();
        let gone: Vec<(u64, u64)> = gone.into_iter().collect();
        let leaving: Vec<u64> = leaving.into_iter().collect();
        let seen = world(&live, &gone).leaving(&leaving);
        let is_live = |id: &RaftId| seen.pods.live.contains_key(id);
        let decides = |voters: &BTreeSet<RaftId>| {
            2 * voters.iter().filter(|id| is_live(id)).count() > voters.len()
        };
        let could_decide = decides(&members.voters);
        let mut steps = 0;
        while let Some(change) = seen.plan(&members) {
            steps += 1;
            prop_assert!(steps < 40, "{change:?} again and again");
            let before = members.clone();
            match &change {
                Change::SetVoters(voters) => {
                    prop_assert!(voters.contains(&before.raft_id));
                    prop_assert!(voters.len() % 2 == 1 && voters.len() <= VOTERS_MAX);
                    prop_assert!(decides(&before.voters) && decides(voters));
                    prop_assert!(voters.is_subset(&before.addresses.keys().copied().collect()));
                }
                Change::Remove(id) => prop_assert!(!before.voters.contains(id)),
                Change::HandOver { successor } => prop_assert!(is_live(successor)),
                Change::AddLearner { .. } => {}
            }
            carry_out(&mut members, change);
        }
        if could_decide {
            let usable = members.addresses.keys().filter(|id| is_live(id));
            let usable = usable.filter(|id| !seen.pods.leaving.contains(id)).count();
            // The leader keeps its seat when nobody else can take it.
            prop_assert!(members.voters.len() + 1 >= usable.min(VOTERS_MAX));
            prop_assert!(members.learners.iter().all(|id| !seen.pods.leaving.contains(id)));
        }
    }
}
