//! Payloads in the journals of two pods.
//!
//! The pod that accepts a write keeps its payload, and so does one more pod: the index's writer,
//! if that is another. A pod that is to leave the cluster for good keeps none as long as two others
//! can. Both fsync before the write gets its place in the log (safety rule 1). Where one pod's disk
//! is all of the log, nothing can be kept safer than that disk; the second copy is taken there if it
//! is to be had at once, for what the cluster becomes: a pod that began it alone may be gone before
//! its first tasks have ended.
//! Who holds what is in the task's record; copies that no open task names are given back by
//! their pod's [`crate::journal_keeper`], so nobody has to be told.
//!
//! | channel | request | answer |
//! |---|---|---|
//! | `journal/append` | the payload | its sequence, 8 bytes, little-endian |
//! | `journal/read` | a sequence, as above | the payload; refused as `missing` |
//!
//! Each request begins with the pod that it is for (the length of its id, 1 byte, and the id): an
//! address may have become another pod's, and a copy there would not be where the log says.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use miroir_seams::planted::{self, Bug};
use miroir_seams::{Clock, PeerCallError, PeerRefusal};
use miroir_storage::commands::PayloadRef;
use miroir_storage::ids::{JournalSequence, PodId};
use miroir_storage::journal::{Journal, JournalError, Payload};
use miroir_storage::log::Members;

use crate::accept::AcceptError;
use crate::leave;
use crate::peers::PeersView;
use crate::pod::PodContext;

/// Stores a payload in another pod's journal.
pub const APPEND: &str = "journal/append";
/// Reads a payload from another pod's journal.
pub const READ: &str = "journal/read";

/// The refusal of a pod that doesn't hold the record, or only damaged.
const MISSING: &str = "missing";
/// The refusal of a pod whose journal is full.
const FULL: &str = "full";
/// Pods asked to hold the second copy in one round.
const HOLDERS_TRIED_MAX: usize = 2;
/// How long a write goes on looking for a pod that takes the second copy. While pods are restarted
/// one after the other, the last one may be gone before the one before it is seen again.
const HOLDER_PATIENCE: Duration = Duration::from_secs(4);
/// Between two rounds of asking, unless other pods are seen before.
const HOLDER_PAUSE: Duration = Duration::from_millis(100);
/// How long a copy may take that is good to have, beside a second for every [`BYTES_PER_SECOND`].
const WISHED_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a copy may take, beside a second for every [`BYTES_PER_SECOND`].
const COPY_TIMEOUT: Duration = Duration::from_secs(3);
/// What any network between pods is expected to carry.
const BYTES_PER_SECOND: u64 = 10 << 20;

/// A payload's place: a pod and its sequence in that pod's journal.
pub type Holder = (PodId, JournalSequence);

/// Stores a payload in as many journals as must hold it. What was stored before an error is
/// given back.
///
/// # Errors
/// When this pod's journal refuses it, or no other pod takes the second copy.
pub async fn append(
    pod: &PodContext,
    payload: Payload,
    preferred: Option<&PodId>,
) -> Result<Vec<Holder>, AcceptError> {
    let peers = pod.peers.now();
    if planted::has(Bug::OneJournal) {
        let sequence = pod.journal.append(payload).await.map_err(refused)?;
        return Ok(vec![(pod.id.clone(), sequence)]);
    }
    let others = peers.candidates().filter(|other| **other != pod.id).count();
    let members = pod.log.members();
    let need = Need::of(&members);
    let leaves = need == Need::Must && leave::is_ordered(pod);
    match plan_places(leaves, others, members.addresses.len()) {
        Places::HereAndThere => {}
        Places::BothAway => return append_away(pod, payload, preferred, 2).await,
        Places::OneAway => return append_away(pod, payload, preferred, 1).await,
    }
    let here = pod.journal.append(payload.clone());
    let there = append_elsewhere(&pod.peers, &pod.seams.clock, payload, preferred, None, need);
    let (here, there) = futures::join!(here, there);
    match (here, there) {
        (Ok(own), Some(other)) => Ok(vec![(pod.id.clone(), own), other]),
        // Others may vote since it was asked for.
        (Ok(own), None) if Need::of(&pod.log.members()) == Need::Wish => {
            Ok(vec![(pod.id.clone(), own)])
        }
        (Ok(own), None) => {
            pod.journal.release(own);
            Err(AcceptError::NoSecondCopy)
        }
        // The other pod finds out by itself.
        (Err(error), _) => Err(refused(error)),
    }
}

/// Which journals are to hold a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Places {
    /// This pod's and another's.
    HereAndThere,
    /// Those of two others.
    BothAway,
    /// The only other pod's.
    OneAway,
}

/// Where payloads go on a pod that sees so many `others` in service, in a log of so many `members`.
/// One that is about to be started again comes back with its disk, and keeps them as ever.
fn plan_places(leaves_for_good: bool, others: usize, members: usize) -> Places {
    match (leaves_for_good, others) {
        (false, _) => Places::HereAndThere,
        (true, 2..) => Places::BothAway,
        // The other pod will be alone.
        (true, _) if members <= 2 => Places::OneAway,
        // The rest is only away for the moment. What this pod holds keeps it until its task has
        // ended.
        (true, _) => Places::HereAndThere,
    }
}

/// Stores a payload in that many other journals, one or two.
async fn append_away(
    pod: &PodContext,
    payload: Payload,
    preferred: Option<&PodId>,
    count: usize,
) -> Result<Vec<Holder>, AcceptError> {
    let clock = &pod.seams.clock;
    let first = payload.clone();
    let first = append_elsewhere(&pod.peers, clock, first, preferred, None, Need::Must).await;
    let first = first.ok_or(AcceptError::NoSecondCopy)?;
    if count < 2 {
        return Ok(vec![first]);
    }
    // What is stored already is found spare by its pod if the second fails.
    let has = Some(&first.0);
    let second = append_elsewhere(&pod.peers, clock, payload, preferred, has, Need::Must).await;
    Ok(vec![first, second.ok_or(AcceptError::NoSecondCopy)?])
}

fn refused(error: JournalError) -> AcceptError {
    match error {
        JournalError::Full { .. } => AcceptError::Overloaded,
        JournalError::Closed => AcceptError::Left,
        other => AcceptError::Journal(other),
    }
}

/// How much a second copy matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// Without it the write is refused.
    Must,
    /// It is good to have.
    Wish,
}

impl Need {
    /// By the log itself: what the peers' view says of it may be half a second old.
    fn of(members: &Members) -> Self {
        let is_only_voter =
            members.voters_before.is_none() && members.voters == BTreeSet::from([members.raft_id]);
        if is_only_voter { Self::Wish } else { Self::Must }
    }

    /// How long one pod may take.
    fn timeout(self, bytes: u64) -> Duration {
        let shortest = match self {
            Self::Must => COPY_TIMEOUT,
            Self::Wish => WISHED_TIMEOUT,
        };
        shortest + Duration::from_secs(bytes / BYTES_PER_SECOND)
    }

    /// How long to go on asking.
    fn patience(self) -> Duration {
        match self {
            Self::Must => HOLDER_PATIENCE,
            Self::Wish => Duration::ZERO,
        }
    }

    /// How many pods to ask in one round.
    fn pods_max(self) -> usize {
        match self {
            Self::Must => HOLDERS_TRIED_MAX,
            Self::Wish => 1,
        }
    }
}

/// Asks the pods that may hold the second copy until one has it, those that are seen meanwhile
/// too; not the one that `has` one already. Pods that are only full are not asked again: the client
/// is to slow down.
async fn append_elsewhere(
    peers: &PeersView,
    clock: &Clock,
    payload: Payload,
    preferred: Option<&PodId>,
    has: Option<&PodId>,
    need: Need,
) -> Option<Holder> {
    let timeout = need.timeout(payload.len() as u64);
    let deadline = clock.instant() + need.patience();
    let mut changes = peers.changes();
    loop {
        let mut others = peers.now().second_holders(peers.own(), preferred);
        others.retain(|other| Some(other) != has);
        let mut full = !others.is_empty();
        for other in others.into_iter().take(need.pods_max()) {
            let body = vec![addressed_to(&other), payload.head.clone(), payload.body.clone()];
            match peers.call(&other, APPEND, body, timeout).await {
                Ok(answer) => match sequence_from(&answer) {
                    Some(sequence) => return Some((other, sequence)),
                    None => {
                        tracing::warn!(pod = %other, "pod answered a copy with nonsense");
                        full = false;
                    }
                },
                Err(error) => {
                    tracing::warn!(pod = %other, %error, "pod does not take a copy");
                    full &= matches!(&error, PeerCallError::Refused(why) if why == FULL);
                }
            }
        }
        if full || clock.instant() >= deadline {
            return None;
        }
        tokio::select! {
            biased;
            _ = changes.changed() => {}
            () = clock.sleep(HOLDER_PAUSE) => {}
        }
    }
}

/// Why a payload could not be read.
#[derive(Debug, thiserror::Error)]
pub enum PayloadError {
    /// No journal that should hold it does.
    #[error("no journal holds the payload")]
    Lost,
    /// A pod that may hold it does not answer, or a disk fails: try again.
    #[error("the payload can't be read now: {0}")]
    NotNow(String),
}

/// The payload of an accepted task, from this pod's journal or another's.
///
/// # Errors
/// See [`PayloadError`].
pub async fn read(pod: &PodContext, payload: &PayloadRef) -> Result<Bytes, PayloadError> {
    let mut trouble = None;
    let (own, others): (Vec<&Holder>, Vec<&Holder>) =
        payload.holders.iter().partition(|(holder, _)| *holder == pod.id);
    for (_, sequence) in own {
        match pod.journal.read(*sequence).await {
            Ok(bytes) => return Ok(bytes),
            Err(error @ (JournalError::Corrupt(_) | JournalError::Missing(_))) => {
                tracing::error!(%error, "payload of an accepted task is not in the journal");
            }
            Err(error) => trouble = Some(error.to_string()),
        }
    }
    for (holder, sequence) in others {
        let body = vec![addressed_to(holder), Bytes::copy_from_slice(&sequence.0.to_le_bytes())];
        match pod.peers.call(holder, READ, body, Need::Must.timeout(payload.bytes)).await {
            Ok(bytes) => return Ok(bytes),
            Err(PeerCallError::Refused(why)) if why == MISSING => {
                tracing::error!(pod = %holder, %sequence, "payload of an accepted task is not in the pod's journal");
            }
            Err(error) => trouble = Some(format!("pod {holder}: {error}")),
        }
    }
    Err(trouble.map_or(PayloadError::Lost, PayloadError::NotNow))
}

/// Gives back what this pod holds of a payload.
pub fn release(pod: &PodContext, payload: &PayloadRef) {
    for (_, sequence) in payload.holders.iter().filter(|(holder, _)| *holder == pod.id) {
        pod.journal.release(*sequence);
    }
}

/// Answers [`APPEND`].
///
/// # Errors
/// When this pod's journal is full or fails.
pub async fn serve_append(
    own: &PodId,
    journal: &Journal,
    body: Bytes,
) -> Result<Bytes, PeerRefusal> {
    let payload = opened(own, body)?;
    let sequence = journal.append(payload).await.map_err(|error| match error {
        JournalError::Full { .. } => PeerRefusal(FULL.to_owned()),
        other => PeerRefusal(other.to_string()),
    })?;
    Ok(Bytes::copy_from_slice(&sequence.0.to_le_bytes()))
}

/// Answers [`READ`].
///
/// # Errors
/// When this pod doesn't hold the record, or its disk fails.
pub async fn serve_read(own: &PodId, journal: &Journal, body: Bytes) -> Result<Bytes, PeerRefusal> {
    let body = opened(own, body)?;
    let sequence =
        sequence_from(&body).ok_or_else(|| PeerRefusal("not a journal sequence".to_owned()))?;
    journal.read(sequence).await.map_err(|error| match error {
        JournalError::Missing(_) | JournalError::Corrupt(_) => PeerRefusal(MISSING.to_owned()),
        other => PeerRefusal(other.to_string()),
    })
}

/// Ids of pods are short: the configuration limits them.
fn addressed_to(pod: &PodId) -> Bytes {
    let id = pod.as_str().as_bytes();
    let id = id.get(..usize::from(u8::MAX)).unwrap_or(id);
    [&[id.len() as u8], id].concat().into()
}

/// What follows the address, which must be this pod's.
fn opened(own: &PodId, mut body: Bytes) -> Result<Bytes, PeerRefusal> {
    let address = addressed_to(own);
    if !body.starts_with(&address) {
        return Err(PeerRefusal("meant for another pod".to_owned()));
    }
    Ok(body.split_off(address.len()))
}

fn sequence_from(bytes: &[u8]) -> Option<JournalSequence> {
    bytes.try_into().ok().map(u64::from_le_bytes).map(JournalSequence)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use async_trait::async_trait;
    use miroir_seams::{PeerCall, PeerTransport};
    use miroir_storage::raft::RaftId;

    use super::*;
    use crate::peers::{Peer, Peers};

    /// Only the pod at `takes` has a journal.
    #[derive(Debug)]
    struct OneJournal {
        takes: &'static str,
        refusal: PeerCallError,
        calls: AtomicUsize,
    }

    #[async_trait]
    impl PeerTransport for OneJournal {
        async fn call(&self, call: PeerCall) -> Result<Bytes, PeerCallError> {
            self.calls.fetch_add(1, Ordering::Relaxed);
            match call.address == self.takes {
                true => Ok(Bytes::copy_from_slice(&7u64.to_le_bytes())),
                false => Err(self.refusal.clone()),
            }
        }
    }

    /// Pod `a`, which sees `b`.
    fn beside_b(journal: &Arc<OneJournal>, clock: &Clock) -> PeersView {
        let view = PeersView::new(PodId::from("a"), clock.instant(), journal.clone());
        see(&view, "b", clock);
        view
    }

    fn see(view: &PeersView, pod: &str, clock: &Clock) {
        let peer = Peer { address: pod.to_owned(), since: clock.instant(), leaving: false };
        let mut peers = Peers::clone(&view.now());
        peers.live.insert(PodId::from(pod), peer);
        view.set(peers);
    }

    fn payload() -> Payload {
        Payload { head: Bytes::new(), body: Bytes::from_static(b"{}") }
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_is_seen_meanwhile_takes_the_copy_that_the_last_one_could_not() {
        let clock = Clock::simulated();
        let refusal = PeerCallError::Unreachable("gone".into());
        let journal = Arc::new(OneJournal { takes: "c", refusal, calls: AtomicUsize::new(0) });
        let view = beside_b(&journal, &clock);
        let later = async {
            clock.sleep(Duration::from_secs(2)).await;
            see(&view, "c", &clock);
        };
        let append = append_elsewhere(&view, &clock, payload(), None, None, Need::Must);
        let (holder, ()) = futures::join!(append, later);
        assert_eq!(holder, Some((PodId::from("c"), JournalSequence(7))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_copy_that_nobody_takes_is_given_up_and_full_pods_are_asked_once() {
        let clock = Clock::simulated();
        for (refusal, asked_once) in [
            (PeerCallError::Unreachable("gone".into()), false),
            (PeerCallError::Refused(FULL.into()), true),
        ] {
            let journal = Arc::new(OneJournal { takes: "", refusal, calls: AtomicUsize::new(0) });
            let view = beside_b(&journal, &clock);
            let append = append_elsewhere(&view, &clock, payload(), None, None, Need::Must);
            assert_eq!(append.await, None);
            assert_eq!(journal.calls.load(Ordering::Relaxed) == 1, asked_once);
        }
    }

    #[test]
    fn one_journal_is_enough_only_while_nobody_else_votes() {
        let (a, b) = (RaftId(1), RaftId(2));
        let alone = Members { raft_id: a, voters: BTreeSet::from([a]), ..Members::default() };
        assert_eq!(Need::of(&alone), Need::Wish);
        let both = BTreeSet::from([a, b]);
        let shrinking = Members { voters_before: Some(both.clone()), ..alone.clone() };
        assert_eq!(Need::of(&shrinking), Need::Must);
        assert_eq!(Need::of(&Members { voters: both, ..alone.clone() }), Need::Must);
        let learner = Members { raft_id: b, ..alone };
        assert_eq!(Need::of(&learner), Need::Must);
    }

    #[tokio::test(start_paused = true)]
    async fn a_copy_that_is_only_wished_for_is_asked_for_once() {
        let clock = Clock::simulated();
        let refusal = PeerCallError::Unreachable("gone".into());
        let journal = Arc::new(OneJournal { takes: "", refusal, calls: AtomicUsize::new(0) });
        let view = beside_b(&journal, &clock);
        assert_eq!(append_elsewhere(&view, &clock, payload(), None, None, Need::Wish).await, None);
        assert_eq!(journal.calls.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn one_journal_is_enough_only_where_one_pod_will_be_left() {
        assert_eq!(plan_places(false, 1, 3), Places::HereAndThere, "it is only started again");
        assert_eq!(plan_places(true, 2, 3), Places::BothAway);
        assert_eq!(plan_places(true, 1, 3), Places::HereAndThere, "the third comes back");
        assert_eq!(plan_places(true, 1, 2), Places::OneAway);
    }

    #[test]
    fn what_is_meant_for_another_pod_is_refused() {
        let (a, ab) = (PodId::from("a"), PodId::from("ab"));
        let request = |to| Bytes::from([addressed_to(to).as_ref(), b"payload"].concat());
        assert_eq!(opened(&a, request(&a)), Ok(Bytes::from_static(b"payload")));
        assert!(opened(&a, request(&ab)).is_err() && opened(&ab, request(&a)).is_err());
        assert!(opened(&a, Bytes::new()).is_err());
    }
}
