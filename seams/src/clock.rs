//! Wall-clock and monotonic time.

use std::time::Duration;

use time::OffsetDateTime;

/// The start of simulated wall-clock time, 2026-01-01T00:00:00Z, in Unix seconds.
const SIMULATED_EPOCH_S: i64 = 1_767_225_600;

/// Tells the time. Monotonic time comes from tokio, which the simulation pauses; wall-clock
/// time is the system's, or in the simulation a fixed date plus the monotonic time passed.
///
/// Wall-clock time is for people (`enqueuedAt` …): nothing is ever ordered by it.
#[derive(Clone, Debug)]
pub struct Clock {
    simulated_since: Option<tokio::time::Instant>,
    /// How far its wall-clock time is ahead of the date it should show.
    ahead: time::Duration,
}

impl Clock {
    /// The operating system's clock.
    pub fn real() -> Self {
        Self { simulated_since: None, ahead: time::Duration::ZERO }
    }

    /// A clock that starts at a fixed date and advances with tokio's (paused) time.
    pub fn simulated() -> Self {
        Self { simulated_since: Some(Self::monotonic()), ahead: time::Duration::ZERO }
    }

    /// A simulated clock whose wall-clock time is this far ahead, or behind.
    pub fn simulated_ahead(ahead: time::Duration) -> Self {
        Self { ahead, ..Self::simulated() }
    }

    /// Wall-clock time, UTC.
    #[allow(clippy::disallowed_methods)]
    pub fn now(&self) -> OffsetDateTime {
        match self.simulated_since {
            None => OffsetDateTime::now_utc(),
            Some(start) => {
                let passed = Self::monotonic().saturating_duration_since(start);
                OffsetDateTime::from_unix_timestamp(SIMULATED_EPOCH_S)
                    .unwrap_or(OffsetDateTime::UNIX_EPOCH)
                    + passed
                    + self.ahead
            }
        }
    }

    /// Monotonic time, for durations and deadlines.
    pub fn instant(&self) -> tokio::time::Instant {
        Self::monotonic()
    }

    /// Waits for `duration`.
    pub async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    fn monotonic() -> tokio::time::Instant {
        tokio::time::Instant::now()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn simulated_wall_clock_follows_virtual_time() {
        let clock = Clock::simulated();
        let before = clock.now();
        clock.sleep(Duration::from_secs(3600)).await;
        assert_eq!((clock.now() - before).whole_seconds(), 3600);
    }
}
