//! What happened, when, and to whom: the line-by-line record of a run.
//!
//! Two runs of one seed must give the same bytes. So nothing that differs between processes may
//! get in: no actor ids, addresses in memory, or wall-clock times.

use std::fmt::Display;
use std::hash::Hasher;
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;
use twox_hash::XxHash64;

/// Lines kept for the report of a failure, when the trace is not printed whole.
const LINES_KEPT: usize = 4000;

/// The trace of one run. Clones share it.
#[derive(Clone, Debug)]
pub struct Trace {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    started: Instant,
    digest: XxHash64,
    count: u64,
    prints: bool,
    recent: std::collections::VecDeque<String>,
}

impl Trace {
    /// An empty trace that begins now; `prints` writes each line to standard output. Must be
    /// called inside the run's runtime.
    pub fn new(prints: bool) -> Self {
        let inner = Inner {
            started: Instant::now(),
            digest: XxHash64::with_seed(0),
            count: 0,
            prints,
            recent: std::collections::VecDeque::new(),
        };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }

    /// Adds a line: when (virtual milliseconds), who, what.
    pub fn note(&self, who: impl Display, what: impl Display) {
        let mut inner = self.lock();
        let line = format!("{:>8} {who:<8} {what}", inner.started.elapsed().as_millis());
        inner.digest.write(line.as_bytes());
        inner.digest.write(b"\n");
        inner.count += 1;
        if inner.prints {
            // Who has read enough closes the pipe.
            let _closed = writeln!(std::io::stdout().lock(), "{line}");
        }
        if inner.recent.len() == LINES_KEPT {
            inner.recent.pop_front();
        }
        inner.recent.push_back(line);
    }

    /// Virtual milliseconds since the run began.
    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.lock().started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The number of lines, and the digest over all of them.
    pub fn digest(&self) -> (u64, u64) {
        let inner = self.lock();
        (inner.count, inner.digest.finish())
    }

    /// The newest `count` lines that `interests` accepts.
    pub fn recent(&self, count: usize, interests: impl Fn(&str) -> bool) -> Vec<String> {
        let inner = self.lock();
        let found: Vec<String> =
            inner.recent.iter().rev().filter(|line| interests(line)).take(count).cloned().collect();
        found.into_iter().rev().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
