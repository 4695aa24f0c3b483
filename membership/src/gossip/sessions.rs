//! Which authentic datagrams are new and meant for this process: protection against replays that
//! needs no clock.
//!
//! Each process has a session, a random number. A datagram names its sender's session and what the
//! sender knows as the receiver's. One that names another receiver is as old as that process, or
//! of somebody who doesn't know yet: it is answered by a hello, and not passed on. One that names
//! this session was sealed for this very process, and its counter goes through a window: each is
//! passed on once. So nothing that was ever recorded is passed on again, before or after a restart.
//!
//! Who records and sends again what this process has not received yet only does what a network may
//! do: late, from another address, or not at all.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::frame::{Inner, Kind, Session};

/// Sessions of others that are remembered: each is a start of a pod in the life of this process.
const PEERS_MAX: usize = 1024;
/// Addresses whose session is remembered.
const ADDRESSES_MAX: usize = 4096;
/// Datagrams sent lately, whose hello tells whose session their address has.
const SENT_MAX: usize = 256;
/// An address gets a hello no more often: one is enough for a pod that gossips every 150 ms.
const HELLO_GAP: Duration = Duration::from_millis(50);
/// Hellos in [`HELLO_WINDOW`] to all addresses together: replays can cause no more traffic.
const HELLOS_MAX: u32 = 200;
const HELLO_WINDOW: Duration = Duration::from_secs(1);

/// What becomes of an authentic datagram.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is new: here is its message.
    Deliver(Vec<u8>),
    /// Its sender must be told our session.
    AnswerHello,
    /// Nothing is to be done.
    Drop,
}

#[derive(Debug)]
pub(super) struct Sessions {
    own: Session,
    /// Of the last datagram sent.
    counter: u64,
    /// Whom a datagram to this address reaches, as far as we know.
    by_address: BTreeMap<SocketAddr, Session>,
    peers: BTreeMap<Session, Peer>,
    sent: VecDeque<(u64, SocketAddr)>,
    hellos: BTreeMap<SocketAddr, Instant>,
    hello_window: Option<(Instant, u32)>,
}

#[derive(Debug, Default)]
struct Peer {
    window: Window,
    /// A first half and its counter.
    first_half: Option<(u64, Vec<u8>)>,
}

impl Sessions {
    pub(super) fn new(own: Session) -> Self {
        Self {
            own,
            counter: 0,
            by_address: BTreeMap::new(),
            peers: BTreeMap::new(),
            sent: VecDeque::new(),
            hellos: BTreeMap::new(),
            hello_window: None,
        }
    }

    /// Our session, the counter of the next datagram to `to`, and the receiver's session.
    pub(super) fn address(&mut self, to: SocketAddr) -> (Session, u64, Session) {
        self.counter += 1;
        if self.sent.len() >= SENT_MAX {
            self.sent.pop_front();
        }
        self.sent.push_back((self.counter, to));
        (self.own, self.counter, self.by_address.get(&to).copied().unwrap_or_default())
    }

    /// As [`Sessions::address`] for a hello to `sender`, whatever session its address had.
    pub(super) fn address_hello(&mut self, sender: Session) -> (Session, u64, Session) {
        self.counter += 1;
        (self.own, self.counter, sender)
    }

    /// Judges what was opened with the sender's key. `fresh` is taken as our session when too many
    /// others are known: forgetting some would let their datagrams be replayed.
    pub(super) fn judge(
        &mut self,
        (sender, counter): (Session, u64),
        inner: Inner,
        from: SocketAddr,
        now: Instant,
        fresh: impl FnOnce() -> Session,
    ) -> Verdict {
        if sender == self.own {
            // Thrown back at us.
            return Verdict::Drop;
        }
        if inner.receiver != self.own {
            let hello = inner.kind != Kind::Hello && self.may_say_hello(from, now);
            return if hello { Verdict::AnswerHello } else { Verdict::Drop };
        }
        if self.peers.len() >= PEERS_MAX && !self.peers.contains_key(&sender) {
            self.own = fresh();
            self.counter = 0;
            self.peers.clear();
            self.sent.clear();
            return Verdict::AnswerHello;
        }
        let peer = self.peers.entry(sender).or_default();
        if !peer.window.accept(counter) {
            return Verdict::Drop;
        }
        let verdict = match inner.kind {
            Kind::Whole => Verdict::Deliver(inner.payload),
            Kind::FirstHalf => {
                peer.first_half = Some((counter, inner.payload));
                Verdict::Drop
            }
            Kind::SecondHalf => match peer.first_half.take() {
                Some((first, mut message)) if first.checked_add(1) == Some(counter) => {
                    message.extend_from_slice(&inner.payload);
                    Verdict::Deliver(message)
                }
                _ => Verdict::Drop,
            },
            Kind::Hello => {
                self.learn_sent(&inner.payload, sender);
                Verdict::Drop
            }
        };
        self.learn(from, sender);
        verdict
    }

    /// The address we sent to may be another than the one that answers.
    fn learn_sent(&mut self, payload: &[u8], session: Session) {
        let Ok(counter) = payload.try_into().map(u64::from_be_bytes) else { return };
        let sent = self.sent.iter().find(|(sent, _)| *sent == counter).map(|(_, to)| *to);
        if let Some(to) = sent {
            self.learn(to, session);
        }
    }

    fn learn(&mut self, address: SocketAddr, session: Session) {
        if self.by_address.len() >= ADDRESSES_MAX && !self.by_address.contains_key(&address) {
            // Each is learnt again by one hello.
            self.by_address.clear();
        }
        self.by_address.insert(address, session);
    }

    fn may_say_hello(&mut self, to: SocketAddr, now: Instant) -> bool {
        let elapsed = |since: Instant| now.saturating_duration_since(since);
        let (since, said) = match self.hello_window {
            Some((since, said)) if elapsed(since) < HELLO_WINDOW => (since, said),
            _ => (now, 0),
        };
        if said >= HELLOS_MAX || self.hellos.get(&to).is_some_and(|last| elapsed(*last) < HELLO_GAP)
        {
            return false;
        }
        self.hello_window = Some((since, said + 1));
        if self.hellos.len() >= ADDRESSES_MAX {
            self.hellos.clear();
        }
        self.hellos.insert(to, now);
        true
    }
}

/// Which counters of a session have been seen (RFC 4303, section 3.4.3).
#[derive(Debug, Default)]
struct Window {
    highest: u64,
    /// Bit `n` is set when `highest - n` was seen.
    seen: u128,
}

impl Window {
    /// Whether `counter` is new and not too old; it is seen from now on.
    fn accept(&mut self, counter: u64) -> bool {
        if counter > self.highest {
            let ahead = u32::try_from(counter - self.highest).unwrap_or(u32::MAX);
            self.seen = self.seen.checked_shl(ahead).unwrap_or(0) | 1;
            self.highest = counter;
            return true;
        }
        let behind = u32::try_from(self.highest - counter).unwrap_or(u32::MAX);
        match 1u128.checked_shl(behind) {
            Some(bit) if self.seen & bit == 0 => {
                self.seen |= bit;
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use miroir_seams::Clock;
    use proptest::prelude::*;

    use super::*;

    const OWN: Session = Session([1; 16]);
    const PEER: Session = Session([2; 16]);

    fn address(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    fn judge(
        sessions: &mut Sessions,
        sender: Session,
        counter: u64,
        receiver: Session,
        kind: Kind,
        payload: &[u8],
    ) -> Verdict {
        let inner = Inner { receiver, kind, payload: payload.to_vec() };
        let now = Clock::real().instant();
        sessions.judge((sender, counter), inner, address(2), now, || Session([9; 16]))
    }

    #[test]
    fn a_datagram_is_delivered_once_and_only_to_whom_it_names() {
        let mut sessions = Sessions::new(OWN);
        let whole = |sessions: &mut Sessions, sender, counter, receiver| {
            judge(sessions, sender, counter, receiver, Kind::Whole, b"m")
        };
        let first = whole(&mut sessions, PEER, 1, Session::default());
        assert_eq!(first, Verdict::AnswerHello);
        // Again at once: that address has just had its hello.
        assert_eq!(whole(&mut sessions, PEER, 2, Session([3; 16])), Verdict::Drop);
        assert_eq!(whole(&mut sessions, PEER, 3, OWN), Verdict::Deliver(b"m".to_vec()));
        assert_eq!(whole(&mut sessions, PEER, 3, OWN), Verdict::Drop);
        assert_eq!(whole(&mut sessions, OWN, 4, OWN), Verdict::Drop);
        assert_eq!(sessions.address(address(2)).2, PEER);
        // A hello that names another is never answered.
        let mut restarted = Sessions::new(Session([4; 16]));
        assert_eq!(judge(&mut restarted, PEER, 5, OWN, Kind::Hello, &[]), Verdict::Drop);
        assert_eq!(whole(&mut restarted, PEER, 3, OWN), Verdict::AnswerHello);
    }

    #[test]
    fn a_hello_tells_the_session_of_the_address_that_was_asked() {
        let mut sessions = Sessions::new(OWN);
        let (_, counter, unknown) = sessions.address(address(77));
        assert_eq!(unknown, Session::default());
        let asked = counter.to_be_bytes();
        assert_eq!(judge(&mut sessions, PEER, 1, OWN, Kind::Hello, &asked), Verdict::Drop);
        assert_eq!(sessions.address(address(77)).2, PEER);
    }

    #[test]
    fn halves_are_joined_only_when_they_follow_one_another() {
        let mut sessions = Sessions::new(OWN);
        let mut half =
            |counter, kind, payload| judge(&mut sessions, PEER, counter, OWN, kind, payload);
        assert_eq!(half(1, Kind::FirstHalf, b"ab"), Verdict::Drop);
        assert_eq!(half(2, Kind::SecondHalf, b"cd"), Verdict::Deliver(b"abcd".to_vec()));
        assert_eq!(half(3, Kind::FirstHalf, b"ab"), Verdict::Drop);
        assert_eq!(half(5, Kind::SecondHalf, b"cd"), Verdict::Drop);
    }

    #[test]
    fn too_many_peers_make_a_new_session_instead_of_a_gap() {
        let mut sessions = Sessions::new(OWN);
        let mut last = Verdict::Drop;
        for number in 0..=PEERS_MAX as u128 {
            let peer = Session((number + 1000).to_be_bytes());
            last = judge(&mut sessions, peer, 1, OWN, Kind::Whole, b"m");
        }
        assert_eq!(last, Verdict::AnswerHello);
        let old = judge(&mut sessions, Session(1000u128.to_be_bytes()), 1, OWN, Kind::Whole, b"m");
        assert_ne!(old, Verdict::Deliver(b"m".to_vec()));
    }

    proptest! {
        #[test]
        fn no_counter_is_accepted_twice(counters in proptest::collection::vec(0u64..400, 0..200)) {
            let (mut window, mut accepted) = (Window::default(), BTreeSet::new());
            for counter in counters {
                if window.accept(counter) {
                    prop_assert!(accepted.insert(counter));
                }
            }
        }
    }
}
