//! Pods that a test kills and starts itself, so that it says when: `up --no-respawn` keeps the
//! nodes, and each pod goes on as `miroir serve` with the configuration that `up` wrote.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use tokio::process::Command;
use tokio::time::Instant;

use crate::client::Api;
use crate::processes::{Cluster, Member, ProcessFault, Running, is_running, miroir_binary, signal};

/// Pause between two looks.
const POLL: Duration = Duration::from_millis(10);
/// How long a pod may take to stop or to be ready.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long one question about readiness may take.
const QUESTION: Duration = Duration::from_secs(2);

/// One pod: what it is, and its process, if it runs.
#[derive(Debug)]
pub struct Pod {
    /// Its id and addresses.
    pub member: Member,
    config: PathBuf,
    log: PathBuf,
    /// What stands before the program's name, for example `ip netns exec NAME`.
    prefix: Vec<String>,
    process: Option<Running>,
}

impl Pod {
    /// A pod that does not run yet. Its stderr goes to `log`.
    pub fn new(member: Member, config: PathBuf, log: PathBuf) -> Self {
        Self { member, config, log, prefix: Vec::new(), process: None }
    }

    /// The same, its program started by another one.
    pub fn started_by(self, prefix: Vec<String>) -> Self {
        Self { prefix, ..self }
    }

    /// All pods of a cluster that was started with `--no-respawn`, as they run.
    pub fn all_of(cluster: &Cluster) -> Vec<Self> {
        let data = cluster.data();
        let pods = cluster.ready.pods.iter().cloned();
        pods.map(|member| {
            let config = data.join("pods").join(&member.id).join("miroir.toml");
            let log = data.join("logs").join(format!("{}.log", member.id));
            Self::new(member, config, log)
        })
        .collect()
    }

    /// Starts it. Returns at once.
    ///
    /// # Errors
    /// When there is no binary, or the process can't be started.
    pub fn start(&mut self) -> Result<(), ProcessFault> {
        let program = miroir_binary()?;
        let mut command = match self.prefix.split_first() {
            None => Command::new(program),
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
        };
        command.arg("serve").arg("--config").arg(&self.config);
        let running = Running::start(command, self.log.clone())?;
        self.member.pid = running.pid();
        self.process = Some(running);
        Ok(())
    }

    /// Sends `what` to its process.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn signal(&self, what: Signal) -> Result<(), ProcessFault> {
        signal(self.member.pid, what)
    }

    /// Waits until its process is gone.
    ///
    /// # Errors
    /// When it is still there after a minute.
    pub async fn wait_until_gone(&self) -> Result<(), ProcessFault> {
        let deadline = Instant::now() + PATIENCE;
        while is_running(self.member.pid) {
            if Instant::now() > deadline {
                return Err(self.not_ready("does not stop"));
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Whether its process runs.
    pub fn is_running(&self) -> bool {
        is_running(self.member.pid)
    }

    /// Waits until it is ready for requests.
    ///
    /// # Errors
    /// When it is not after a minute, or ended before.
    pub async fn wait_until_ready(&self) -> Result<(), ProcessFault> {
        let api = Api::new(&self.member.url, None).with_patience(QUESTION);
        let deadline = Instant::now() + PATIENCE;
        while api.get("/_miroir/ready").await.is_err() {
            if Instant::now() > deadline || !self.is_running() {
                return Err(self.not_ready(format!("{} is not ready", self.member.id)));
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Waits until it is gone, starts it again and waits until it is ready.
    ///
    /// # Errors
    /// As the three of them.
    pub async fn start_again(&mut self) -> Result<(), ProcessFault> {
        self.wait_until_gone().await?;
        self.start()?;
        self.wait_until_ready().await
    }

    /// What it logged.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Its configuration.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// The last of what it logged.
    pub fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().filter(|line| !line.contains("openraft")).collect();
        lines.get(lines.len().saturating_sub(20)..).unwrap_or_default().join("\n")
    }

    fn not_ready(&self, reason: impl Into<String>) -> ProcessFault {
        let tail = self.log_tail();
        ProcessFault::NotReady { reason: reason.into(), log: self.log.clone(), tail }
    }
}
