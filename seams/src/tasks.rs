//! Background tasks that end with their pod.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::task::{AbortHandle, JoinHandle};

use crate::reactors::Reactor;

/// Spawns the tasks of one pod and can end them all, as a crash would.
///
/// Actors are spawned by ractor; this is for the tasks beside them (connections, node calls,
/// the Raft core's own). A task that panics is logged with its name.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    running: Arc<Mutex<Running>>,
    /// Blocking work runs in place, not on other threads.
    blocking_in_place: bool,
}

#[derive(Debug, Default)]
struct Running {
    handles: Vec<AbortHandle>,
    ended: bool,
}

impl Tasks {
    /// An empty set of tasks.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty set whose blocking work runs in place, at once: the simulation has one thread.
    pub fn on_one_thread() -> Self {
        Self { blocking_in_place: true, ..Self::default() }
    }

    /// Runs `future` in the background. After [`Tasks::end_all`] the task is aborted at once.
    #[allow(clippy::disallowed_methods)]
    pub fn spawn<F>(&self, name: &'static str, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.keep(tokio::spawn(announced(name, future)))
    }

    /// As [`Tasks::spawn`], on one thread.
    pub fn spawn_on<F>(
        &self,
        reactor: &Reactor,
        name: &'static str,
        future: F,
    ) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.keep(reactor.handle().spawn(announced(name, future)))
    }

    fn keep<T>(&self, handle: JoinHandle<T>) -> JoinHandle<T> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if running.ended {
            handle.abort();
        } else {
            if running.handles.len() >= 64 && running.handles.len().is_power_of_two() {
                running.handles.retain(|task| !task.is_finished());
            }
            running.handles.push(handle.abort_handle());
        }
        handle
    }

    /// Runs a blocking closure on the blocking pool, or in place in the simulation.
    #[allow(clippy::disallowed_methods)]
    pub fn spawn_blocking<F, R>(&self, work: F) -> JoinHandle<R>
    where
        F: FnOnce() -> R + Send + 'static,
        R: Send + 'static,
    {
        if self.blocking_in_place {
            let result = work();
            return tokio::spawn(std::future::ready(result));
        }
        tokio::task::spawn_blocking(work)
    }

    /// Aborts every task of this pod, and any spawned later.
    pub fn end_all(&self) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.ended = true;
        for task in running.handles.drain(..) {
            task.abort();
        }
    }
}

async fn announced<F: Future>(name: &'static str, future: F) -> F::Output {
    let _announce = PanicNote { name };
    future.await
}

/// Says which task panicked; the panic itself is reported by the process's hook.
struct PanicNote {
    name: &'static str,
}

impl Drop for PanicNote {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(task = self.name, "background task panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ending_a_pod_ends_its_tasks() {
        let tasks = Tasks::new();
        let waiting = tasks.spawn("waits", std::future::pending::<()>());
        tasks.end_all();
        assert!(waiting.await.is_err_and(|error| error.is_cancelled()));
        let late = tasks.spawn("late", std::future::pending::<()>());
        assert!(late.await.is_err_and(|error| error.is_cancelled()));
    }
}
