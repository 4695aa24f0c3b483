//! News for a request whose API key this pod does not know: another pod may have made it a
//! moment ago.
//!
//! Whoever guesses keys must not get at the log's leader with it. So the pod asks at most once in
//! 100 ms, however many wait for the answer, and no more than 32 do; the others
//! are refused at once.

use std::time::Duration;

use miroir_seams::Clock;
use tokio::sync::{Mutex, Semaphore};
use tokio::time::Instant;

use crate::context::LogRoutes;

/// Between two questions.
const PACE: Duration = Duration::from_millis(100);
/// Requests that wait for news at the same time.
const WAITING_MAX: usize = 32;

/// The question that is asked, or was.
#[derive(Debug)]
pub struct KeyNews {
    waiting: Semaphore,
    last: Mutex<Option<Asked>>,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    at: Instant,
    /// None while it is asked, and for ever when who asked was given up.
    answer: Option<bool>,
}

impl Default for KeyNews {
    fn default() -> Self {
        Self { waiting: Semaphore::new(WAITING_MAX), last: Mutex::new(None) }
    }
}

impl KeyNews {
    /// Brings this pod up to what was agreed when it was called; false when there are no news to
    /// be had, or too many wait for them.
    pub async fn fetch(&self, log: &dyn LogRoutes, clock: &Clock) -> bool {
        let Ok(_waits) = self.waiting.try_acquire() else { return false };
        let called = clock.instant();
        let mut last = self.last.lock().await;
        if let Some(asked) = *last {
            match asked.answer {
                // At the same tick of the clock it may have been asked before.
                Some(answer) if asked.at > called => return answer,
                _ => {}
            }
            let age = clock.instant().saturating_duration_since(asked.at);
            clock.sleep(PACE.saturating_sub(age)).await;
        }
        let at = clock.instant();
        *last = Some(Asked { at, answer: None });
        let answer = log.catch_up().await;
        *last = Some(Asked { at, answer: Some(answer) });
        answer
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use async_trait::async_trait;
    use futures::future::join_all;
    use miroir_seams::Seams;
    use miroir_wire::error::ApiError;

    use super::*;
    use crate::context::RequestParts;
    use crate::reply::Reply;
    use crate::router::LogRoute;

    /// Counts how often it is asked.
    #[derive(Debug)]
    struct Counting(AtomicUsize, Clock);

    #[async_trait]
    impl LogRoutes for Counting {
        async fn answer(&self, _: LogRoute, _: &RequestParts) -> Result<Reply, ApiError> {
            Ok(Reply::empty(404))
        }

        async fn catch_up(&self) -> bool {
            self.0.fetch_add(1, Ordering::Relaxed);
            self.1.sleep(Duration::from_millis(10)).await;
            true
        }

        async fn settle_session(&self, _: &str, _: Option<&str>) -> bool {
            true
        }
    }

    #[tokio::test(start_paused = true)]
    async fn guesses_do_not_reach_the_log() {
        let seams = Seams::seeded(1);
        let log = Counting(AtomicUsize::new(0), seams.clock.clone());
        let news = KeyNews::default();
        let answers = join_all((0..1000).map(|_| news.fetch(&log, &seams.clock))).await;
        assert_eq!(answers.iter().filter(|news| **news).count(), WAITING_MAX);
        // Who called in the moment of the first question can't know that it was asked before.
        assert_eq!(log.0.load(Ordering::Relaxed), 2);
        let started = seams.clock.instant();
        for _ in 0..10 {
            assert!(news.fetch(&log, &seams.clock).await);
        }
        assert!(seams.clock.instant() - started >= PACE * 9);
        // One that is given up keeps the pace for the next.
        let patience = PACE - Duration::from_millis(5);
        let given_up = tokio::time::timeout(patience, news.fetch(&log, &seams.clock)).await;
        let before = seams.clock.instant();
        assert!(given_up.is_err() && news.fetch(&log, &seams.clock).await);
        assert!(seams.clock.instant() - before >= PACE / 2);
    }
}
