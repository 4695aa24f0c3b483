//! Chooses ports: the kept one when it is free, else another.

use std::collections::BTreeSet;
use std::net::{TcpListener, UdpSocket};

use anyhow::{Context, bail};

use super::state::{HOST, UpState};
use crate::exit::Refused;

/// Meilisearch's port, so that clients with default settings find us.
const PORT_DEFAULT: u16 = 7700;
/// How far above the wanted port to look for a free one.
const SEARCH_WIDTH: u16 = 200;

/// Whether `port` can be listened on now.
pub fn is_free(port: u16) -> bool {
    TcpListener::bind((HOST, port)).is_ok()
}

/// The same for a peer port, which takes datagrams as well.
fn is_free_for_peers(port: u16) -> bool {
    is_free(port) && UdpSocket::bind((HOST, port)).is_ok()
}

/// Gives every pod and node a port that is free now, kept ones first, and every pod of several a
/// peer port. `asked` is `--port`, the first pod's, where 0 means any. Returns what the user
/// should know.
///
/// # Errors
/// When the port asked for is taken, or no port is free.
pub fn settle(state: &mut UpState, asked: Option<u16>) -> anyhow::Result<Vec<String>> {
    let mut notices = Vec::new();
    let any = asked == Some(0);
    let mut given = BTreeSet::new();
    if let Some(first) = state.pods.first_mut() {
        first.port = settle_first(first.port, asked, &mut notices)?;
        given.insert(first.port);
    }
    let above = if any { None } else { state.pods.first().map(|pod| pod.port) };
    let mut settle_one = |state: &mut UpState, place: Place, is_free: fn(u16) -> bool| {
        let Some(kept) = place.port(state).copied() else { return Ok(()) };
        let mut settled = kept;
        if kept == 0 || given.contains(&kept) || !is_free(kept) {
            // Ports that others keep are left to them.
            let mut taken = ports_of(state);
            taken.extend(&given);
            settled = free_port(above, &taken, is_free)?;
        }
        given.insert(settled);
        if let Some(port) = place.port(state) {
            *port = settled;
        }
        anyhow::Ok(())
    };
    for at in 1..state.pods.len() {
        settle_one(state, Place::Pod(at), is_free)?;
    }
    if state.has_peers() {
        for at in 0..state.pods.len() {
            settle_one(state, Place::Peer(at), is_free_for_peers)?;
        }
    }
    for at in 0..state.nodes.len() {
        settle_one(state, Place::Node(at), is_free)?;
    }
    Ok(notices)
}

/// Where clients connect.
fn settle_first(kept: u16, asked: Option<u16>, notices: &mut Vec<String>) -> anyhow::Result<u16> {
    let any = asked == Some(0);
    let wanted = match asked {
        Some(port) if port != 0 => port,
        _ if kept != 0 => kept,
        _ if any => return free_port(None, &BTreeSet::new(), is_free),
        _ => PORT_DEFAULT,
    };
    if is_free(wanted) {
        return Ok(wanted);
    }
    if asked == Some(wanted) {
        let message = format!("port {wanted} is taken; choose another with --port");
        return Err(Refused(message).into());
    }
    let port = free_port((!any).then_some(wanted), &BTreeSet::new(), is_free)?;
    notices.push(format!("port {wanted} is taken, using {port} instead"));
    Ok(port)
}

/// What a port belongs to, by its number in the state.
#[derive(Clone, Copy, Debug)]
enum Place {
    Pod(usize),
    Peer(usize),
    Node(usize),
}

impl Place {
    fn port(self, state: &mut UpState) -> Option<&mut u16> {
        match self {
            Self::Pod(at) => state.pods.get_mut(at).map(|pod| &mut pod.port),
            Self::Peer(at) => state.pods.get_mut(at).map(|pod| &mut pod.peer_port),
            Self::Node(at) => state.nodes.get_mut(at).map(|node| &mut node.port),
        }
    }
}

/// Gives the node at `at` another port, since a stranger has taken its own.
///
/// # Errors
/// When no port is free.
pub fn move_node(state: &mut UpState, at: usize) -> anyhow::Result<u16> {
    let port = free_port(None, &ports_of(state), is_free)?;
    if let Some(node) = state.nodes.get_mut(at) {
        node.port = port;
    }
    Ok(port)
}

/// Those that are settled.
fn ports_of(state: &UpState) -> BTreeSet<u16> {
    let pods = state.pods.iter().flat_map(|pod| [pod.port, pod.peer_port]);
    let all = pods.chain(state.nodes.iter().map(|node| node.port));
    all.filter(|port| *port != 0).collect()
}

/// The first free port above `above`, or any that the operating system offers.
fn free_port(
    above: Option<u16>,
    taken: &BTreeSet<u16>,
    is_free: fn(u16) -> bool,
) -> anyhow::Result<u16> {
    let Some(above) = above else {
        for _ in 0..SEARCH_WIDTH {
            let listener = TcpListener::bind((HOST, 0)).context("no port is free")?;
            let port = listener.local_addr().context("no port is free")?.port();
            drop(listener);
            if !taken.contains(&port) && is_free(port) {
                return Ok(port);
            }
        }
        bail!("no port is free");
    };
    (above.saturating_add(1)..=above.saturating_add(SEARCH_WIDTH))
        .find(|port| !taken.contains(port) && is_free(*port))
        .with_context(|| format!("no port is free above {above}"))
}

#[cfg(test)]
mod tests {
    use miroir_seams::Entropy;

    use super::super::shape::{Asked, Shape};
    use super::*;

    fn state() -> UpState {
        let shape = Shape::decide(Asked::default()).expect("possible");
        UpState::new(shape, None, &Entropy::seeded(1))
    }

    #[test]
    fn free_ports_are_kept_and_taken_ones_replaced() {
        let mut state = state();
        settle(&mut state, Some(0)).expect("ports are free");
        let before = ports_of(&state);
        assert_eq!(before.len(), 5, "all differ");
        settle(&mut state, None).expect("ports are free");
        assert_eq!(ports_of(&state), before);

        let stranger = TcpListener::bind((HOST, state.nodes[1].port)).expect("free");
        let stranger_port = stranger.local_addr().expect("bound").port();
        settle(&mut state, None).expect("others are free");
        assert!(!ports_of(&state).contains(&stranger_port));
        assert_eq!(ports_of(&state).intersection(&before).count(), 4, "only one moved");
    }

    #[test]
    fn a_taken_port_is_refused_when_asked_for_and_replaced_aloud_when_not() {
        let stranger = TcpListener::bind((HOST, 0)).expect("free");
        let port = stranger.local_addr().expect("bound").port();
        let mut state = state();
        assert!(settle(&mut state, Some(port)).is_err());
        state.pods[0].port = port;
        let notices = settle(&mut state, None).expect("others are free");
        assert!(notices[0].contains(&format!("port {port} is taken")), "{notices:?}");
    }

    #[test]
    fn pods_that_are_added_leave_every_kept_port_alone() {
        let mut state = state();
        settle(&mut state, Some(0)).expect("ports are free");
        let before = ports_of(&state);
        assert_eq!(before.len(), 5, "a pod alone has no peer port");
        state.grow_to(Shape { pods: 3, ..state.shape });
        settle(&mut state, None).expect("ports are free");
        let grown = ports_of(&state);
        assert_eq!(grown.len(), 10, "two pods more, three peer ports: all differ");
        assert!(grown.is_superset(&before));
        settle(&mut state, None).expect("ports are free");
        assert_eq!(ports_of(&state), grown);
    }

    #[test]
    fn a_peer_port_whose_datagrams_go_elsewhere_is_replaced() {
        let mut state = state();
        state.grow_to(Shape { pods: 2, ..state.shape });
        settle(&mut state, Some(0)).expect("ports are free");
        let port = state.pods[1].peer_port;
        let _stranger = UdpSocket::bind((HOST, port)).expect("free");
        settle(&mut state, None).expect("others are free");
        assert!(!ports_of(&state).contains(&port));
    }
}
