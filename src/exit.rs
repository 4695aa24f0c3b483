//! How the program runs and ends: the runtime, exit codes, and what asks it to stop.

use std::future::Future;
use std::io::Read;
use std::pin::Pin;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use miroir_seams::Tasks;
use tokio::sync::oneshot;

use crate::config::ConfigError;

/// Exit code of a refused configuration or of flags that contradict the data directory.
const REFUSED: u8 = 2;
/// Exit code of everything else that went wrong.
const FAILED: u8 = 1;

/// How long a server may take to stop once it is asked to; `miroir up` kills it after that.
pub const STOP_PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait for the previous holder of a data directory: one that is just stopping is
/// gone after [`STOP_PATIENCE`].
pub const HANDOVER_PATIENCE: Duration = Duration::from_secs(12);
/// How long the runtime waits at the end for blocking work, such as a read from stdin.
const RUNTIME_PATIENCE: Duration = Duration::from_millis(200);

/// Completes when the server should stop.
pub type Stop = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What the user asked for can't be done; asking again in the same way won't help.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub String);

/// The exit code for `error`: 2 when what was asked for is refused, else 1.
pub fn code_of(error: &anyhow::Error) -> ExitCode {
    if error.is::<ConfigError>() || error.is::<Refused>() {
        ExitCode::from(REFUSED)
    } else {
        ExitCode::from(FAILED)
    }
}

/// Runs `future` on a new runtime of a quarter as many workers as there are cores. What needs
/// cores has threads of its own: a pod's connections are served on reactors, a node's searches on
/// the blocking pool; workers that wake each other for the rest would only take from them.
///
/// # Errors
/// Those of `future`, and when no runtime can be made.
pub fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores.div_ceil(4))
        .enable_all()
        .build()
        .context("can't start the runtime")?;
    let outcome = runtime.block_on(future);
    runtime.shutdown_timeout(RUNTIME_PATIENCE);
    outcome
}

/// Runs a server, handing it a future that completes on the first signal or, with
/// `stop_with_stdin`, when stdin is closed. A second signal ends the process at once.
///
/// # Errors
/// Those of the server, and when no runtime can be made.
pub fn run_server<F>(stop_with_stdin: bool, server: impl FnOnce(Stop) -> F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>>,
{
    block_on(async {
        let mut signals = StopSignals::listen().context("can't listen for signals")?;
        let tasks = Tasks::new();
        let (ask, asked) = oneshot::channel();
        tasks.spawn("stop signals", async move {
            let parent = parent_gone(stop_with_stdin);
            tokio::select! {
                () = signals.next() => tracing::info!("stopping on signal"),
                () = parent => tracing::info!("stopping with the parent process"),
            }
            // The server may have ended by itself.
            let _ = ask.send(());
            signals.next().await;
            tracing::warn!("stopping at once on a second signal");
            std::process::exit(i32::from(FAILED));
        });
        let stop = Box::pin(async {
            // An error means that the sender's task is gone, with the runtime.
            let _ = asked.await;
        });
        server(stop).await
    })
}

/// Completes when the other end of stdin is closed, which happens whatever way the parent
/// process ends; never if not `enabled`. From then on the process has [`STOP_PATIENCE`] to
/// stop: a thread of its own sees to that even when the runtime hangs.
async fn parent_gone(enabled: bool) {
    if !enabled {
        return std::future::pending().await;
    }
    let (report, gone) = oneshot::channel();
    Tasks::new().spawn_blocking(move || {
        let mut stdin = std::io::stdin().lock();
        let mut ignored = [0u8; 64];
        loop {
            match stdin.read(&mut ignored) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        // The receiver is gone when the process is stopping already.
        let _ = report.send(());
        std::thread::sleep(STOP_PATIENCE);
        std::process::exit(i32::from(FAILED));
    });
    if gone.await.is_err() {
        std::future::pending().await
    }
}

/// Signals that ask the program to stop. Listening starts when this is made, so that none that
/// arrives later is missed.
#[derive(Debug)]
pub struct StopSignals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
}

impl StopSignals {
    /// Starts to listen. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When the operating system refuses a handler.
    pub fn listen() -> std::io::Result<Self> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            Ok(Self {
                terminate: signal(SignalKind::terminate())?,
                interrupt: signal(SignalKind::interrupt())?,
            })
        }
        #[cfg(not(unix))]
        Ok(Self {})
    }

    /// Waits for SIGTERM or SIGINT (Ctrl-C). Can be called again for the next one.
    pub async fn next(&mut self) {
        #[cfg(unix)]
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
        #[cfg(not(unix))]
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
