//! Chooses ports: the kept one when it is free, else another.

use std::collections::BTreeSet;
use std::net::TcpListener;

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

/// Gives every pod and node a port that is free now, kept ones first. `asked` is `--port`, where
/// 0 means any. Returns what the user should know.
///
/// # Errors
/// When the port asked for is taken, or no port is free.
pub fn settle(state: &mut UpState, asked: Option<u16>) -> anyhow::Result<Vec<String>> {
    let mut notices = Vec::new();
    let any = asked == Some(0);
    for pod in &mut state.pods {
        let wanted = match asked {
            Some(port) if port != 0 => port,
            _ if pod.port != 0 => pod.port,
            _ if any => free_port(None, &BTreeSet::new())?,
            _ => PORT_DEFAULT,
        };
        if is_free(wanted) {
            pod.port = wanted;
            continue;
        }
        if asked == Some(wanted) {
            let message = format!("port {wanted} is taken; choose another with --port");
            return Err(Refused(message).into());
        }
        pod.port = free_port((!any).then_some(wanted), &BTreeSet::new())?;
        notices.push(format!("port {wanted} is taken, using {} instead", pod.port));
    }
    let above = if any { None } else { state.pods.first().map(|pod| pod.port) };
    for at in 0..state.nodes.len() {
        let taken = ports_of(state);
        let Some(node) = state.nodes.get_mut(at) else { break };
        // A node's port that a pod has just been given counts as taken, though it is free.
        let given_away = state.pods.iter().any(|pod| pod.port == node.port);
        if node.port == 0 || given_away || !is_free(node.port) {
            node.port = free_port(above, &taken)?;
        }
    }
    Ok(notices)
}

/// Gives the node at `at` another port, since a stranger has taken its own.
///
/// # Errors
/// When no port is free.
pub fn move_node(state: &mut UpState, at: usize) -> anyhow::Result<u16> {
    let port = free_port(None, &ports_of(state))?;
    if let Some(node) = state.nodes.get_mut(at) {
        node.port = port;
    }
    Ok(port)
}

fn ports_of(state: &UpState) -> BTreeSet<u16> {
    let pods = state.pods.iter().map(|pod| pod.port);
    pods.chain(state.nodes.iter().map(|node| node.port)).collect()
}

/// The first free port above `above`, or any that the operating system offers.
fn free_port(above: Option<u16>, taken: &BTreeSet<u16>) -> anyhow::Result<u16> {
    let Some(above) = above else {
        for _ in 0..SEARCH_WIDTH {
            let listener = TcpListener::bind((HOST, 0)).context("no port is free")?;
            let port = listener.local_addr().context("no port is free")?.port();
            if !taken.contains(&port) {
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
}
