//! One child process: what it is and how it is started.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::Context;
use miroir_seams::Clock;
use tokio::process::{Child, ChildStdin, Command};

use super::state::{HOST, NodeState, PodState, UpState, url};

/// A log longer than this is put aside (as `.old`) when its process is started again, bytes.
const LOG_BYTES_MAX: u64 = 16 << 20;
/// How much of a log is shown when its process won't start, bytes.
const TAIL_BYTES: u64 = 1500;
/// Variables of ours that children keep; their other settings come from `up` alone.
const VARIABLES_KEPT: [&str; 2] = ["MIROIR_LOG_LEVEL", "MIROIR_LOG_FORMAT"];

/// The two kinds of children. Pods stop first, so that no request meets a stopped node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Number within the state's pods.
    Pod(usize),
    /// Number within the state's nodes.
    Node(usize),
}

/// A child process with the pipe that keeps it alive.
#[derive(Debug)]
pub struct Process {
    /// Killed when dropped.
    pub child: Child,
    /// The child stops when this is closed: by us, or by the operating system when we are
    /// gone, even by SIGKILL.
    pub lifeline: Option<ChildStdin>,
    /// When it was started.
    pub started: tokio::time::Instant,
}

/// What can be started in one role, now and again.
#[derive(Clone, Debug)]
pub struct Member {
    /// Pod or node.
    pub role: Role,
    /// Its id in the state.
    pub id: String,
    /// Where it listens.
    pub port: u16,
    /// The directory that it locks.
    pub data: PathBuf,
    log: PathBuf,
    arguments: Vec<String>,
    key: Option<String>,
}

impl Member {
    /// The pod at `at`, with its configuration written anew.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn pod(data: &Path, state: &UpState, at: usize, pod: &PodState) -> anyhow::Result<Self> {
        let config = state.write_pod_config(data, pod)?;
        Ok(Self {
            role: Role::Pod(at),
            id: pod.id.clone(),
            port: pod.port,
            data: data.join("pods").join(&pod.id).join("data"),
            log: log_path(data, &pod.id),
            arguments: vec!["serve".into(), "--config".into(), config.display().to_string()],
            key: None,
        })
    }

    /// The node at `at`.
    pub fn node(data: &Path, at: usize, node: &NodeState) -> Self {
        let directory = data.join("nodes").join(&node.id);
        Self {
            role: Role::Node(at),
            id: node.id.clone(),
            port: node.port,
            log: log_path(data, &node.id),
            arguments: vec![
                "node".into(),
                "--http-addr".into(),
                format!("{HOST}:{}", node.port),
                "--data".into(),
                directory.display().to_string(),
            ],
            data: directory,
            // By variable: the flag could be read by every process on the machine.
            key: Some(node.key.reveal().to_owned()),
        }
    }

    /// Whether this is a pod.
    pub fn is_pod(&self) -> bool {
        matches!(self.role, Role::Pod(_))
    }

    /// Its base address.
    pub fn url(&self) -> String {
        url(self.port)
    }

    /// Starts the process. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When the log can't be opened or the process not be started.
    pub fn start(&self, program: &Path) -> anyhow::Result<Process> {
        let log = self.open_log()?;
        let mut command = Command::new(program);
        command.args(&self.arguments).arg("--stop-with-stdin");
        for (name, _) in std::env::vars_os() {
            let ours = name
                .to_str()
                .is_some_and(|name| name.starts_with("MIROIR_") && !VARIABLES_KEPT.contains(&name));
            if ours {
                command.env_remove(name);
            }
        }
        if let Some(key) = &self.key {
            command.env("MIROIR_NODE_MASTER_KEY", key);
        }
        command
            .stdin(Stdio::piped())
            .stdout(log.try_clone().context("can't share the log")?)
            .stderr(log)
            .kill_on_drop(true);
        // A group of its own: Ctrl-C reaches only `up`, which then stops things in order.
        #[cfg(unix)]
        command.process_group(0);
        let mut child =
            command.spawn().with_context(|| format!("can't start {}", program.display()))?;
        let lifeline = child.stdin.take();
        Ok(Process { child, lifeline, started: Clock::real().instant() })
    }

    fn open_log(&self) -> anyhow::Result<File> {
        let long = std::fs::metadata(&self.log).is_ok_and(|log| log.len() > LOG_BYTES_MAX);
        if long {
            std::fs::rename(&self.log, self.log.with_extension("log.old"))
                .with_context(|| format!("can't put {} aside", self.log.display()))?;
        }
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .with_context(|| format!("can't open {}", self.log.display()))
    }

    /// The last lines it logged, for a message about why it won't start.
    pub fn log_tail(&self) -> String {
        let read = || -> std::io::Result<String> {
            let mut file = File::open(&self.log)?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
            let mut bytes = Vec::new();
            file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        match read() {
            Ok(text) => format!("the end of {}:\n{}", self.log.display(), text.trim_end()),
            Err(error) => format!("{} can't be read: {error}", self.log.display()),
        }
    }
}

fn log_path(data: &Path, id: &str) -> PathBuf {
    data.join("logs").join(format!("{id}.log"))
}
