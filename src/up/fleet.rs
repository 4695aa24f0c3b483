//! The children of `miroir up`: started, watched, started again, stopped.
//!
//! ```text
//!            start             exits            pause over
//! (nothing) ───────▶ running ─────────▶ waiting ──────────▶ running …
//!                       │                  │
//!                       └───── stop ───────┴──▶ (nothing)
//! ```
//!
//! When a node moves, pods start again with a configuration that says so, one after the other
//! ([`Roll`]), so that those of several that are not at it go on serving.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, anyhow};
use futures::StreamExt;
use futures::future::join_all;
use futures::stream::FuturesUnordered;
use miroir_seams::{Clock, HttpTransport};
use tokio::time::Instant;

use super::member::{Member, Process, Role};
use super::state::UpState;
use super::{ports, readiness};
use crate::data_lock::DataLock;
use crate::exit::{HANDOVER_PATIENCE, STOP_PATIENCE};

/// Pause before a process that ended is started again; doubled at each end that follows soon.
const PAUSE_MIN: Duration = Duration::from_secs(2);
/// The longest such pause.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// A process that ran this long was fine: the next pause is the shortest again.
const STEADY_AFTER: Duration = Duration::from_secs(60);
/// Ends in a row of one process before the first readiness after which `up` gives up.
const START_ATTEMPTS_MAX: u32 = 3;

/// How long the next pod waits for one that was started again to be ready. After that the new
/// address matters more.
const ROLL_PATIENCE: Duration = Duration::from_secs(60);

/// Why [`Fleet::watch`] came back.
#[derive(Debug)]
pub enum Change {
    /// A node listens elsewhere now; pods were told to restart with the new address.
    AddressChanged,
    /// The cluster can't come up.
    Failed(anyhow::Error),
}

#[derive(Debug)]
struct Slot {
    member: Member,
    process: Option<Process>,
    /// Ends in a row without a steady run between.
    ends: u32,
    /// When to start it again; only while there is no process.
    start_at: Option<Instant>,
}

/// Pods that start again one after the other. Numbers are those of the slots.
#[derive(Debug, Default)]
struct Roll {
    next: VecDeque<usize>,
    now: Option<RollStep>,
}

/// Where the pod at hand is.
#[derive(Clone, Copy, Debug)]
enum RollStep {
    /// Told to stop; it will be started when it has.
    Stopping(usize),
    /// Started again; the next one waits until it is ready, or until `patience_ends`.
    Starting { at: usize, patience_ends: Instant },
}

/// What a started process is, for people and programs.
#[derive(Clone, Debug)]
pub struct Running {
    /// Its id.
    pub id: String,
    /// Its process id; none while it is down.
    pub pid: Option<u32>,
    /// Its address.
    pub url: String,
}

/// All children, with the state they follow from.
#[derive(Debug)]
pub struct Fleet {
    program: PathBuf,
    data: PathBuf,
    /// Kept in step with `up.json`.
    pub state: UpState,
    slots: Vec<Slot>,
    respawn: bool,
    starting: bool,
    roll: Roll,
    transport: HttpTransport,
}

impl Fleet {
    /// Starts every node and pod of `state` in `data`. Processes of an `up` that was killed may
    /// still be stopping: they are waited for.
    ///
    /// # Errors
    /// When a data directory stays in use, the disk fails, or a process can't be started.
    pub async fn start(
        data: PathBuf,
        mut state: UpState,
        port: Option<u16>,
        respawn: bool,
    ) -> anyhow::Result<(Self, Vec<String>)> {
        let program = std::env::current_exe().context("can't find the miroir program itself")?;
        std::fs::create_dir_all(data.join("logs")).context("can't make the log directory")?;
        for member in members(&data, &state)? {
            DataLock::wait_until_free(&member.data, HANDOVER_PATIENCE).await?;
        }
        let notices = ports::settle(&mut state, port)?;
        state.save(&data)?;
        let slots = members(&data, &state)?
            .into_iter()
            .map(|member| Slot { member, process: None, ends: 0, start_at: None })
            .collect();
        let mut fleet = Self {
            program,
            data,
            state,
            slots,
            respawn,
            starting: true,
            roll: Roll::default(),
            transport: HttpTransport::new(),
        };
        for slot in &mut fleet.slots {
            slot.process = Some(slot.member.start(&fleet.program)?);
        }
        Ok((fleet, notices))
    }

    /// Addresses of all pods.
    pub fn pod_urls(&self) -> Vec<String> {
        self.running(true).into_iter().map(|pod| pod.url).collect()
    }

    /// Addresses of all nodes.
    pub fn node_urls(&self) -> Vec<String> {
        self.running(false).into_iter().map(|node| node.url).collect()
    }

    /// All pods, or all nodes, in the order of the state.
    pub fn running(&self, pods: bool) -> Vec<Running> {
        let chosen = self.slots.iter().filter(|slot| slot.member.is_pod() == pods);
        chosen
            .map(|slot| Running {
                id: slot.member.id.clone(),
                pid: slot.process.as_ref().and_then(|process| process.child.id()),
                url: slot.member.url(),
            })
            .collect()
    }

    /// From now on a process that ends again and again is tried for ever.
    pub fn started(&mut self) {
        self.starting = false;
    }

    /// Watches the children and starts again what ends, until there is a [`Change`]. Nothing is
    /// lost when this future is dropped and called for anew.
    pub async fn watch(&mut self) -> Change {
        loop {
            let next_start = self.slots.iter().filter_map(|slot| slot.start_at).min();
            let rolled = rolled(&self.transport, self.roll.now, &self.slots);
            let ended = tokio::select! {
                ended = next_end(&mut self.slots) => Some(ended),
                () = sleep_until(next_start) => None,
                () = rolled => {
                    self.roll_on();
                    continue;
                }
            };
            let change = match ended {
                Some((at, status)) => self.on_ended(at, status),
                None => self.start_due(),
            };
            match change {
                Ok(None) => {}
                Ok(Some(change)) => return change,
                Err(error) => return Change::Failed(error),
            }
        }
    }

    fn on_ended(
        &mut self,
        at: usize,
        status: std::io::Result<ExitStatus>,
    ) -> anyhow::Result<Option<Change>> {
        let Some(slot) = self.slots.get_mut(at) else { return Ok(None) };
        let Some(process) = slot.process.take() else { return Ok(None) };
        if process.lifeline.is_none() {
            // It was told to, so that it starts with its new configuration.
            slot.start_at = Some(Clock::real().instant());
            return Ok(None);
        }
        let how = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        let steady = process.started.elapsed() > STEADY_AFTER;
        slot.ends = if steady { 1 } else { slot.ends.saturating_add(1) };
        if self.starting && slot.ends >= START_ATTEMPTS_MAX {
            let tail = slot.member.log_tail();
            return Err(anyhow!("{} does not start ({how}); {tail}", slot.member.id));
        }
        if !self.respawn {
            tracing::warn!(id = slot.member.id, how, "process ended, not started again");
            return Ok(None);
        }
        let pause = pause_after(slot.ends);
        slot.start_at = Some(Clock::real().instant() + pause);
        tracing::warn!(id = slot.member.id, how, again_in = ?pause, "process ended");
        Ok(None)
    }

    fn start_due(&mut self) -> anyhow::Result<Option<Change>> {
        let now = Clock::real().instant();
        let due = |slot: &Slot| slot.start_at.is_some_and(|at| at <= now);
        let Some(at) = self.slots.iter().position(due) else { return Ok(None) };
        let moved = self.move_if_port_is_taken(at)?;
        let program = &self.program;
        let Some(slot) = self.slots.get_mut(at) else { return Ok(None) };
        slot.start_at = None;
        match slot.member.start(program) {
            Ok(process) => {
                let pid = process.child.id();
                tracing::info!(id = slot.member.id, pid, "process started again");
                slot.process = Some(process);
                if matches!(self.roll.now, Some(RollStep::Stopping(stopping)) if stopping == at) {
                    let patience_ends = now + ROLL_PATIENCE;
                    self.roll.now = Some(RollStep::Starting { at, patience_ends });
                }
            }
            Err(error) => {
                slot.ends = slot.ends.saturating_add(1);
                slot.start_at = Some(now + pause_after(slot.ends));
                tracing::error!(id = slot.member.id, error = format!("{error:#}"), "can't start");
            }
        }
        Ok(moved.then_some(Change::AddressChanged))
    }

    /// A stranger may have taken a node's port while the node was down. The node then moves, and
    /// the pods start again with a configuration that says so. A pod never moves: clients know
    /// its address, so it is tried until the port is free.
    fn move_if_port_is_taken(&mut self, at: usize) -> anyhow::Result<bool> {
        let Some(slot) = self.slots.get_mut(at) else { return Ok(false) };
        let Role::Node(number) = slot.member.role else { return Ok(false) };
        if ports::is_free(slot.member.port) {
            return Ok(false);
        }
        let port = ports::move_node(&mut self.state, number)?;
        tracing::warn!(id = slot.member.id, taken = slot.member.port, port, "node moves");
        self.state.save(&self.data)?;
        for (slot, member) in self.slots.iter_mut().zip(members(&self.data, &self.state)?) {
            slot.member = member;
        }
        self.restart_pods();
        Ok(true)
    }

    /// Every pod that runs starts again: all at once while nobody is served yet.
    fn restart_pods(&mut self) {
        for (at, slot) in self.slots.iter_mut().enumerate() {
            let Some(process) = slot.process.as_mut().filter(|_| slot.member.is_pod()) else {
                // One that does not run will start with the new configuration.
                continue;
            };
            if self.starting {
                process.lifeline = None;
            } else if !self.roll.next.contains(&at) {
                self.roll.next.push_back(at);
            }
        }
        if self.roll.now.is_none() {
            self.roll_on();
        }
    }

    /// Tells the next pod to stop.
    fn roll_on(&mut self) {
        self.roll.now = None;
        while let Some(at) = self.roll.next.pop_front() {
            let slot = self.slots.get_mut(at);
            if let Some(process) = slot.and_then(|slot| slot.process.as_mut()) {
                process.lifeline = None;
                self.roll.now = Some(RollStep::Stopping(at));
                return;
            }
        }
    }

    /// Stops the pods, then the nodes. Each gets [`STOP_PATIENCE`], then SIGKILL.
    pub async fn stop(&mut self) {
        for pods in [true, false] {
            let chosen = self.slots.iter_mut().filter(|slot| slot.member.is_pod() == pods);
            join_all(chosen.map(stop_one)).await;
        }
    }
}

async fn stop_one(slot: &mut Slot) {
    slot.start_at = None;
    let Some(mut process) = slot.process.take() else { return };
    process.lifeline = None;
    if tokio::time::timeout(STOP_PATIENCE, process.child.wait()).await.is_err() {
        tracing::warn!(id = slot.member.id, "process does not stop, killing it");
        if let Err(error) = process.child.kill().await {
            tracing::error!(id = slot.member.id, %error, "process can't be killed");
        }
    }
}

/// All members of `state`, nodes first; writes the pods' configurations.
fn members(data: &std::path::Path, state: &UpState) -> anyhow::Result<Vec<Member>> {
    let nodes = state.nodes.iter().enumerate().map(|(at, node)| Ok(Member::node(data, at, node)));
    let pods = state.pods.iter().enumerate().map(|(at, pod)| Member::pod(data, state, at, pod));
    nodes.chain(pods).collect()
}

/// The next process that ends; pending while none runs.
async fn next_end(slots: &mut [Slot]) -> (usize, std::io::Result<ExitStatus>) {
    let mut ends: FuturesUnordered<_> = slots
        .iter_mut()
        .enumerate()
        .filter_map(|(at, slot)| Some((at, slot.process.as_mut()?)))
        .map(|(at, process)| async move { (at, process.child.wait().await) })
        .collect();
    match ends.next().await {
        Some(end) => end,
        None => std::future::pending().await,
    }
}

/// Completes when the pod at hand is ready, or has had its time; pending while there is none.
fn rolled(
    transport: &HttpTransport,
    now: Option<RollStep>,
    slots: &[Slot],
) -> impl Future<Output = ()> + use<> {
    let transport = transport.clone();
    let step = match now {
        Some(RollStep::Starting { at, patience_ends }) => {
            slots.get(at).map(|slot| (slot.member.id.clone(), slot.member.url(), patience_ends))
        }
        Some(RollStep::Stopping(_)) | None => None,
    };
    async move {
        let Some((id, url, patience_ends)) = step else { return std::future::pending().await };
        let pods = [url];
        let ready = readiness::wait(&transport, &pods, &[]);
        if tokio::time::timeout_at(patience_ends, ready).await.is_err() {
            tracing::warn!(id, "pod is not ready, going on with the next");
        }
    }
}

async fn sleep_until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

/// The pause after the `ends`-th end in a row.
fn pause_after(ends: u32) -> Duration {
    let doublings = ends.saturating_sub(1).min(8);
    PAUSE_MIN.saturating_mul(1 << doublings).min(PAUSE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit() {
        let pauses: Vec<u64> =
            [1, 2, 3, 4, 5, 6, u32::MAX].map(|ends| pause_after(ends).as_secs()).into();
        assert_eq!(pauses, [2, 4, 8, 16, 30, 30, 30]);
    }
}
