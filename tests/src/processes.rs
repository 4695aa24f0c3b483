//! Real processes of the `miroir` binary: started, waited for, killed, and ended at drop.
//!
//! Everything started here is ended by process id: first the starter (so that it starts
//! nothing anew), then whatever it had started, found by parent in `/proc` before it died.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::client::{Api, ApiFault};

/// How long a cluster or node may take to be ready; a debug build on two busy cores is slow.
const READY_TIMEOUT: Duration = Duration::from_secs(90);

/// Why a process is not there.
#[derive(Debug, thiserror::Error)]
pub enum ProcessFault {
    /// No binary: neither `MIROIR_BIN` nor the target directory has one.
    #[error("no miroir binary at {0}: build it, or set MIROIR_BIN")]
    NoBinary(PathBuf),
    /// Starting, reading or killing failed.
    #[error("{action} failed: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Not ready in time, or ended before. The log says why.
    #[error("not ready ({reason}); last lines of {log}:\n{tail}")]
    NotReady {
        /// What went wrong.
        reason: String,
        /// Where stderr went.
        log: PathBuf,
        /// Its last lines.
        tail: String,
    },
    /// The process runs but does not answer.
    #[error(transparent)]
    Api(#[from] ApiFault),
}

fn io_fault(action: &'static str) -> impl Fn(io::Error) -> ProcessFault {
    move |source| ProcessFault::Io { action, source }
}

/// The `miroir` binary: `MIROIR_BIN`, or the one in the target directory of this executable.
///
/// # Errors
/// [`ProcessFault::NoBinary`] when there is none.
pub fn miroir_binary() -> Result<PathBuf, ProcessFault> {
    if let Some(path) = std::env::var_os("MIROIR_BIN") {
        let path = PathBuf::from(path);
        return if path.is_file() { Ok(path) } else { Err(ProcessFault::NoBinary(path)) };
    }
    let executable = std::env::current_exe().map_err(io_fault("finding this executable"))?;
    // Tests run in <target>/<profile>/deps, binaries in <target>/<profile>.
    let places = executable.ancestors().skip(1).take(2).map(|folder| folder.join("miroir"));
    let mut last = PathBuf::from("miroir");
    for place in places {
        if place.is_file() {
            return Ok(place);
        }
        last = place;
    }
    Err(ProcessFault::NoBinary(last))
}

/// A port that was free a moment ago.
///
/// # Errors
/// When the system has none.
pub fn free_port() -> Result<u16, ProcessFault> {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(io_fault("finding a free port"))
}

/// Sends SIGKILL to `pid`; a process that is gone already is fine.
///
/// # Errors
/// When the system refuses.
pub fn kill_9(pid: u32) -> Result<(), ProcessFault> {
    signal(pid, Signal::KILL)
}

/// Sends any signal to `pid`; a process that is gone already is fine.
///
/// # Errors
/// When the system refuses.
pub fn signal(pid: u32, signal: Signal) -> Result<(), ProcessFault> {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(()) };
    match kill_process(pid, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(errno) => Err(ProcessFault::Io { action: "sending a signal", source: errno.into() }),
    }
}

/// Whether `pid` runs: it is there and no zombie that nobody has reaped yet.
pub fn is_running(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

/// All processes whose chain of parents leads to `root`, children before grandchildren.
pub fn descendants(root: u32) -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if let Some(parent) = parent_of(pid) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut next = vec![root];
    while let Some(pid) = next.pop() {
        for child in children.get(&pid).into_iter().flatten() {
            found.push(*child);
            next.push(*child);
        }
    }
    found
}

/// Field 4 of `/proc/PID/stat`, counted after the command's closing parenthesis (proc(5)).
fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// User plus system CPU seconds that `pid` has used so far (fields 14 and 15 of proc(5)).
pub fn cpu_seconds(pid: u32) -> Option<f64> {
    /// `USER_HZ`, fixed at 100 in Linux's interface to user space.
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

/// The memory of a process that is not backed by files, bytes: what the system can't take back.
pub fn own_memory(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().ok()?;
    Some(kib << 10)
}

/// The process below `root` that listens on `port`: who serves a URL now, after a respawn.
pub fn listener_below(root: u32, port: u16) -> Option<u32> {
    let inodes = listening_inodes(port);
    descendants(root).into_iter().chain([root]).find(|pid| {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        descriptors.filter_map(|entry| fs::read_link(entry.path()).ok()).any(|link| {
            let link = link.to_string_lossy();
            link.strip_prefix("socket:[")
                .and_then(|rest| rest.strip_suffix(']'))
                .is_some_and(|inode| inodes.iter().any(|known| known == inode))
        })
    })
}

/// Inodes of sockets in state LISTEN (0A) on `port`, from `/proc/net/tcp` (proc(5)).
fn listening_inodes(port: u16) -> Vec<String> {
    let suffix = format!(":{port:04X}");
    let mut inodes = Vec::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let text = fs::read_to_string(table).unwrap_or_default();
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            if let [_, local, _, "0A", ..] = fields.as_slice()
                && local.ends_with(&suffix)
                && let Some(inode) = fields.get(9)
            {
                inodes.push((*inode).to_owned());
            }
        }
    }
    inodes
}

/// The port of `http://host:port`.
pub fn port_of(url: &str) -> Option<u16> {
    url.trim_end_matches('/').rsplit_once(':')?.1.parse().ok()
}

/// One process that was started, and all that it starts.
#[derive(Debug)]
pub struct Running {
    child: Child,
    pid: u32,
    log: PathBuf,
}

impl Running {
    /// Starts `command`, its stderr added to `log`, its stdout to be read.
    ///
    /// # Errors
    /// When the log can't be opened or the process not be started.
    pub fn start(mut command: Command, log: PathBuf) -> Result<Self, ProcessFault> {
        let stderr = File::options().create(true).append(true).open(&log);
        let stderr = stderr.map_err(io_fault("creating the log file"))?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr).process_group(0);
        let child = command.spawn().map_err(io_fault("starting miroir"))?;
        let pid = child.id().unwrap_or_default();
        Ok(Self { child, pid, log })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// What it is said of it when it does not come up.
    pub fn not_ready(&self, reason: impl Into<String>) -> ProcessFault {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines.get(lines.len().saturating_sub(20)..).unwrap_or_default().join("\n");
        ProcessFault::NotReady { reason: reason.into(), log: self.log.clone(), tail }
    }

    /// Ends everything at once. Twice, since a child may have been started in between.
    fn kill_all(&mut self) {
        let below = descendants(self.pid);
        let _gone = kill_9(self.pid);
        for pid in below {
            let _gone = kill_9(pid);
        }
        let _reaped = self.child.start_kill();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill_all();
    }
}

/// One embedded search node of its own: `miroir node`.
#[derive(Debug)]
pub struct NodeProcess {
    running: Running,
    /// `http://127.0.0.1:port`.
    pub url: String,
    /// Its master key.
    pub key: String,
}

impl NodeProcess {
    /// Starts a node with its data in `directory` and waits until it is healthy.
    ///
    /// # Errors
    /// When there is no binary or the node is not healthy in time.
    pub async fn start(directory: &Path) -> Result<Self, ProcessFault> {
        Self::start_at(directory, &format!("127.0.0.1:{}", free_port()?)).await
    }

    /// The same, listening on `address` (`host:port`).
    ///
    /// # Errors
    /// As [`NodeProcess::start`].
    pub async fn start_at(directory: &Path, address: &str) -> Result<Self, ProcessFault> {
        fs::create_dir_all(directory).map_err(io_fault("creating the data directory"))?;
        let key = "reference-master-key-0123456789".to_owned();
        let mut command = Command::new(miroir_binary()?);
        command.args(["node", "--http-addr", address, "--master-key", &key, "--data"]);
        command.arg(directory.join("node"));
        let running = Running::start(command, directory.join("node.log"))?;
        let node = Self { running, url: format!("http://{address}"), key };
        match node.api().wait_until_healthy(READY_TIMEOUT).await {
            Ok(()) => Ok(node),
            Err(fault) => Err(node.running.not_ready(fault.to_string())),
        }
    }

    /// A client with the master key.
    pub fn api(&self) -> Api {
        Api::new(&self.url, Some(&self.key))
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.running.pid
    }
}

/// One process of a cluster, as `up --json` names it.
#[derive(Clone, Debug, Deserialize)]
pub struct Member {
    /// The pod's or node's id.
    pub id: String,
    /// Its process id when the cluster became ready.
    pub pid: u32,
    /// Its base URL.
    pub url: String,
    /// Pods only: where other pods reach it, `host:port`; none when it is alone.
    #[serde(default, rename = "peerAddress")]
    pub peer_address: Option<String>,
    /// Nodes only: the node's master key.
    #[serde(default)]
    pub key: Option<String>,
    /// Nodes only: the replica group.
    #[serde(default)]
    pub group: Option<u32>,
}

/// The line that `up --json` prints on stdout when the cluster is ready.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ready {
    /// Where clients go.
    pub url: String,
    /// The clients' master key.
    pub master_key: String,
    /// The operators' key.
    #[serde(default)]
    pub admin_key: Option<String>,
    /// All pods.
    pub pods: Vec<Member>,
    /// All nodes.
    pub nodes: Vec<Member>,
}

/// A whole cluster: `miroir up --json`.
#[derive(Debug)]
pub struct Cluster {
    running: Running,
    /// What it said when it was ready.
    pub ready: Ready,
    data: PathBuf,
}

impl Cluster {
    /// Starts `miroir up --json` with `arguments` and its data in `directory`, on free ports.
    ///
    /// # Errors
    /// When there is no binary or the cluster is not ready in time.
    pub async fn start(directory: &Path, arguments: &[&str]) -> Result<Self, ProcessFault> {
        fs::create_dir_all(directory).map_err(io_fault("creating the data directory"))?;
        let mut command = Command::new(miroir_binary()?);
        command.args(["up", "--json", "--port", &free_port()?.to_string(), "--data"]);
        command.arg(directory.join("cluster")).args(arguments);
        let mut running = Running::start(command, directory.join("up.log"))?;
        let Some(stdout) = running.child.stdout.take() else {
            return Err(running.not_ready("no stdout"));
        };
        let mut lines = BufReader::new(stdout).lines();
        let ready = async {
            while let Ok(Some(line)) = lines.next_line().await {
                if let Ok(ready) = serde_json::from_str::<Ready>(&line) {
                    return Some(ready);
                }
            }
            None
        };
        let ready = match tokio::time::timeout(READY_TIMEOUT, ready).await {
            Ok(Some(ready)) => ready,
            Ok(None) => return Err(running.not_ready("ended before it was ready")),
            Err(_) => return Err(running.not_ready("no ready line in time")),
        };
        let cluster = Self { running, ready, data: directory.join("cluster") };
        match cluster.api().wait_until_healthy(READY_TIMEOUT).await {
            Ok(()) => Ok(cluster),
            Err(fault) => Err(cluster.running.not_ready(fault.to_string())),
        }
    }

    /// A client of the whole, with the master key.
    pub fn api(&self) -> Api {
        Api::new(&self.ready.url, Some(&self.ready.master_key))
    }

    /// A client of one node, past Miroir.
    pub fn node_api(&self, node: &Member) -> Api {
        Api::new(&node.url, node.key.as_deref())
    }

    /// Kills whichever process serves `member` now. `up` starts it again after some seconds.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill(&self, member: &Member) -> Result<(), ProcessFault> {
        let serving = port_of(&member.url).and_then(|port| listener_below(self.running.pid, port));
        kill_9(serving.unwrap_or(member.pid))
    }

    /// The process id of `up` itself.
    pub fn pid(&self) -> u32 {
        self.running.pid
    }

    /// Where `up` keeps everything.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Stops everything in order, as Ctrl-C does.
    ///
    /// # Errors
    /// When the system refuses, or `up` doesn't end in time.
    pub async fn stop(mut self) -> Result<(), ProcessFault> {
        signal(self.running.pid, Signal::TERM)?;
        match tokio::time::timeout(READY_TIMEOUT, self.running.child.wait()).await {
            Ok(ended) => ended.map(drop).map_err(io_fault("waiting for up")),
            Err(_) => Err(self.running.not_ready("up does not stop")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ready_line_is_read_as_specified() {
        let line = r#"{"url":"http://127.0.0.1:7700","masterKey":"m","adminKey":"a",
            "pods":[{"id":"pod-0","pid":10,"url":"http://127.0.0.1:7700"}],
            "nodes":[{"id":"node-0","pid":11,"url":"http://127.0.0.1:7701","key":"k","group":1}]}"#;
        let ready: Ready = serde_json::from_str(line).expect("a ready line");
        assert_eq!(ready.pods.len(), 1);
        assert_eq!(ready.nodes[0].group, Some(1));
        assert_eq!(port_of(&ready.nodes[0].url), Some(7701));
    }

    #[test]
    fn a_listening_port_leads_to_its_process() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        assert_eq!(listener_below(std::process::id(), port), Some(std::process::id()));
        assert_eq!(listener_below(std::process::id(), 1), None);
    }

    #[tokio::test]
    async fn what_a_process_started_ends_with_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 60 & wait"]);
        let running = Running::start(command, directory.path().join("log")).expect("sh");
        let mut below = descendants(running.pid);
        while below.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
            below = descendants(running.pid);
        }
        drop(running);
        for pid in below {
            while fs::read_to_string(format!("/proc/{pid}/stat"))
                .is_ok_and(|stat| !stat.contains(") Z "))
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
}
