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

/// Which lines somebody wants to see; all of them when there are no words. Lines name documents
/// with their shards (`17@s3`); what may concern any of an index says `@all`.
#[derive(Clone, Debug, Default)]
pub struct Interests {
    words: Vec<String>,
}

impl Interests {
    /// Lines that have any of these: `actor=pod-1`, `doc=17`, `shard=3`, or any text.
    pub fn new(words: Vec<String>) -> Self {
        Self { words }
    }

    /// Whether the line is wanted. Faults and violations always are.
    pub fn accept(&self, line: &str) -> bool {
        let mut parts = line.split_whitespace();
        let who = parts.nth(1).unwrap_or_default();
        if self.words.is_empty() || matches!(who, "fault" | "world" | "VIOLATED" | "plan") {
            return true;
        }
        let concerns = |wanted: &dyn Fn(&str, &str) -> bool| {
            parts.clone().any(|part| match part.split_once('@') {
                Some((_, "all")) => true,
                Some((id, shard)) => wanted(id, shard.strip_prefix('s').unwrap_or_default()),
                None => false,
            })
        };
        self.words.iter().any(|word| match word.split_once('=') {
            Some(("actor", name)) => who == name || who.split('/').any(|part| part == name),
            Some(("doc", wanted)) => concerns(&|id, _| id == wanted),
            Some(("shard", wanted)) => concerns(&|_, shard| shard == wanted),
            _ => line.contains(word.as_str()),
        })
    }
}

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
    prints: Option<Interests>,
    recent: std::collections::VecDeque<String>,
}

impl Trace {
    /// An empty trace that begins now; lines that `prints` accepts are written to standard output.
    /// Must be called inside the run's runtime.
    pub fn new(prints: Option<Interests>) -> Self {
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
        if inner.prints.as_ref().is_some_and(|interests| interests.accept(&line)) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_chosen_by_actor_shard_document_or_text() {
        let wants = |word: &str, line: &str| Interests::new(vec![word.to_owned()]).accept(line);
        let line = "     120 node-00  POST /indexes/0-a/documents -> 202 task 3 17@s3 4@s0";
        assert!(wants("doc=17", line) && !wants("doc=7", line) && !wants("doc=3", line));
        assert!(wants("shard=0", line) && !wants("shard=1", line));
        assert!(wants("actor=node-00", line) && !wants("actor=node-0", line));
        assert!(wants("task 3", line) && !wants("task 4", line));
        assert!(wants("doc=1", "     120 client-0 op-3 a clear a@all"));
        assert!(wants("doc=1", "     120 fault    CrashPod"));
        assert!(Interests::default().accept(line));
    }
}
