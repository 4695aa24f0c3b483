//! The seams: time, randomness, tasks, disk and calls to nodes.
//!
//! Everything that would make two runs differ goes through this crate, so that the
//! simulation can run the same actors on virtual time with seeded randomness, a disk that
//! forgets what was not synced, and model nodes. `clippy.toml` refuses the ways around it.
//!
//! | seam | real | simulated |
//! |---|---|---|
//! | [`Clock`] | operating system | paused tokio time plus a fixed epoch |
//! | [`Entropy`] | operating system | ChaCha from the seed |
//! | [`Tasks`] | tokio, ended with the pod | the same |
//! | [`Reactors`] | threads for connections | none |
//! | [`NodeTransport`] | [`HttpTransport`] | model nodes |
//! | [`WebTransport`] | [`Web`] | [`NoWeb`] |
//! | [`PeerTransport`], [`Datagrams`] | sealed connections and UDP | a network in memory |
//! | [`Files`] | [`RealFiles`] | [`MemoryFiles`] |

mod clock;
mod entropy;
mod files;
mod memory_files;
mod peers;
pub mod planted;
mod reactors;
mod stack;
mod tasks;
mod transport;
mod web;

pub use clock::Clock;
pub use entropy::Entropy;
pub use files::{Files, LogFile, RealFiles};
pub use memory_files::MemoryFiles;
pub use peers::{
    DatagramSocket, Datagrams, NoPeers, PeerCall, PeerCallError, PeerRefusal, PeerService,
    PeerTransport, Udp,
};
pub use reactors::{Reactor, Reactors};
pub use stack::on_stack_of;
pub use tasks::Tasks;
pub use transport::{HttpTransport, NodeCall, NodeTransport, TransportError};
pub use web::{NoWeb, Web, WebCall, WebTransport};

/// The seams that nearly every part needs, cloned freely.
#[derive(Clone, Debug)]
pub struct Seams {
    /// Wall and monotonic time.
    pub clock: Clock,
    /// Randomness.
    pub entropy: Entropy,
    /// Background tasks of this pod.
    pub tasks: Tasks,
}

impl Seams {
    /// The seams of a real process.
    pub fn real() -> Self {
        Self { clock: Clock::real(), entropy: Entropy::real(), tasks: Tasks::new() }
    }

    /// The seams of one pod in a simulation. Must be called inside a runtime whose clock is paused.
    pub fn seeded(seed: u64) -> Self {
        Self {
            clock: Clock::simulated(),
            entropy: Entropy::seeded(seed),
            tasks: Tasks::on_one_thread(),
        }
    }
}
