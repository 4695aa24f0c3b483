//! Threads that each drive the connections given to them.
//!
//! A request that is read, sent on to nodes, answered and written on one thread wakes no other:
//! on a small machine waking threads costs a proxy more than its own work. So the gateway serves
//! each connection, and its calls to nodes, on one of these; everything else of a pod stays on the
//! runtime it was started in.

use std::io;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;

/// A runtime that is armed with a timer earlier than all others wakes itself at once, with two
/// system calls, to sleep less long. The time-outs of a request are such timers, each time, unless
/// there is always an earlier one: this, below any of theirs.
const TICK: Duration = Duration::from_millis(500);

/// A thread with a runtime of its own. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Reactor {
    handle: Handle,
}

impl Reactor {
    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }
}

/// Several reactors, which end when this is dropped.
#[derive(Debug)]
pub struct Reactors {
    reactors: Vec<Reactor>,
    threads: Vec<Thread>,
}

#[derive(Debug)]
struct Thread {
    /// Dropped to end it.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Reactors {
    /// Starts `count` threads, at least one.
    ///
    /// # Errors
    /// What the system says when it has no thread or no event queue to give.
    pub fn start(count: usize) -> io::Result<Self> {
        let mut all = Self { reactors: Vec::new(), threads: Vec::new() };
        for number in 0..count.max(1) {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            all.reactors.push(Reactor { handle: runtime.handle().clone() });
            let (stop, stopped) = oneshot::channel();
            let thread = std::thread::Builder::new()
                .name(format!("reactor-{number}"))
                .spawn(move || drive(runtime, stopped))?;
            all.threads.push(Thread { stop: Some(stop), thread: Some(thread) });
        }
        Ok(all)
    }

    /// The reactors.
    pub fn iter(&self) -> impl Iterator<Item = &Reactor> {
        self.reactors.iter()
    }
}

fn drive(runtime: Runtime, mut stopped: oneshot::Receiver<()>) {
    runtime.block_on(async {
        let mut tick = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                // Never sent to: it ends when the other half is dropped.
                _ = &mut stopped => break,
                _ = tick.tick() => {}
            }
        }
    });
    // Without waiting for blocking work that a connection may have left.
    runtime.shutdown_background();
}

impl Drop for Reactors {
    fn drop(&mut self) {
        for thread in &mut self.threads {
            thread.stop = None;
        }
        for thread in &mut self.threads {
            if let Some(thread) = thread.thread.take()
                && thread.join().is_err()
            {
                tracing::error!("a reactor panicked");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tasks;

    #[tokio::test]
    async fn a_task_runs_on_its_reactor_and_ends_with_it() -> io::Result<()> {
        let reactors = Reactors::start(2)?;
        let tasks = Tasks::new();
        for (number, reactor) in reactors.iter().enumerate() {
            let name = async { std::thread::current().name().map(str::to_owned) };
            let name = tasks.spawn_on(reactor, "says its thread", name).await;
            assert_eq!(name.ok().flatten(), Some(format!("reactor-{number}")));
        }
        let first = reactors.iter().next().cloned();
        let waits =
            first.map(|first| tasks.spawn_on(&first, "waits", std::future::pending::<()>()));
        drop(reactors);
        let end = match waits {
            Some(waits) => waits.await,
            None => Ok(()),
        };
        assert!(end.is_err_and(|end| end.is_cancelled()));
        Ok(())
    }
}
