//! How many searches run and wait at once.
//!
//! More searches than cores only slow each other down, so the others wait in line; beyond a
//! bound they are refused, so that a flood costs no memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use miroir_wire::error::{ApiError, Code};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Searches that may wait, as in Meilisearch.
const WAITING_MAX: usize = 1000;

/// After this time in line nobody is likely to read the answer any more, as in Meilisearch.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Hands out the right to run one search.
#[derive(Debug)]
pub(crate) struct SearchPermits {
    running: Arc<Semaphore>,
    /// At most `waiting_max`.
    waiting: AtomicUsize,
    waiting_max: usize,
}

impl SearchPermits {
    /// Permits for `parallelism` searches at once (at least one).
    pub(crate) fn new(parallelism: usize) -> Self {
        Self::with_waiting_max(parallelism, WAITING_MAX)
    }

    fn with_waiting_max(parallelism: usize, waiting_max: usize) -> Self {
        Self {
            running: Arc::new(Semaphore::new(parallelism.max(1))),
            waiting: AtomicUsize::new(0),
            waiting_max,
        }
    }

    /// Waits for a turn, first come first served.
    ///
    /// # Errors
    /// `too_many_search_requests` when the line is full or the wait was too long.
    pub(crate) async fn take(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        if let Ok(permit) = Arc::clone(&self.running).try_acquire_owned() {
            return Ok(permit);
        }
        let _place = self.place_in_line().ok_or_else(|| self.refusal())?;
        match tokio::time::timeout(WAIT_MAX, Arc::clone(&self.running).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_closed)) => {
                Err(ApiError::new(Code::Internal, "Internal error: Search limiter is down."))
            }
            Err(_elapsed) => Err(self.refusal()),
        }
    }

    fn place_in_line(&self) -> Option<Place<'_>> {
        let place = self.waiting.fetch_update(Ordering::AcqRel, Ordering::Acquire, |waiting| {
            (waiting < self.waiting_max).then_some(waiting + 1)
        });
        // Only a place that was taken may be given back.
        place.is_ok().then(|| Place { waiting: &self.waiting })
    }

    fn refusal(&self) -> ApiError {
        ApiError::new(
            Code::TooManySearchRequests,
            format!(
                "Too many search requests running at the same time: {}. Retry after 10s.",
                self.waiting_max
            ),
        )
    }
}

/// A place in the line, given back on drop, also when the client goes away.
struct Place<'a> {
    waiting: &'a AtomicUsize,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_full_line_refuses_and_a_gone_client_frees_its_place() {
        let permits = SearchPermits::with_waiting_max(1, 1);
        let running = permits.take().await.unwrap();
        {
            let mut waiting = Box::pin(permits.take());
            assert!(futures::poll!(waiting.as_mut()).is_pending());
            let refused = permits.take().await.unwrap_err();
            assert_eq!(refused.code, Code::TooManySearchRequests);
        }
        let mut waiting = Box::pin(permits.take());
        assert!(futures::poll!(waiting.as_mut()).is_pending());
        drop(running);
        assert!(waiting.await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_more_than_a_minute() {
        let permits = SearchPermits::new(1);
        let _running = permits.take().await.unwrap();
        assert_eq!(permits.take().await.unwrap_err().code, Code::TooManySearchRequests);
    }
}
