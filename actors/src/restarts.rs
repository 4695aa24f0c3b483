//! How long an actor waits before it is started again, and when somebody should look at it.
//!
//! A pure rule; [`crate::pod`] says what it is applied to. Failures in a row count: a row ends when
//! the actor has run for [`STEADY_AFTER`] without failing.

use std::time::Duration;

/// Before an actor is started again after its first failure: long enough not to spin, short
/// against time-outs.
pub const WAIT_MIN: Duration = Duration::from_millis(200);
/// The longest wait: what keeps failing waits for something that takes a while, and must not keep
/// others from their work.
pub const WAIT_MAX: Duration = Duration::from_secs(10);
/// An actor that has run for so long is well.
pub const STEADY_AFTER: Duration = Duration::from_secs(60);
/// More failures in a row than these are an error that somebody should look at. With the waits
/// between them they take about 6 seconds.
pub const FAILURES_MAX: u32 = 5;

/// Failures in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FailureRow {
    failures: u32,
}

impl FailureRow {
    /// The row after one more failure of an actor that had run for `ran`.
    #[must_use]
    pub fn after_failure(self, ran: Duration) -> Self {
        let failures = if ran >= STEADY_AFTER { 1 } else { self.failures.saturating_add(1) };
        Self { failures }
    }

    /// Before the next start.
    pub fn wait(self) -> Duration {
        let doublings = self.failures.saturating_sub(1).min(16);
        (WAIT_MIN * 2_u32.pow(doublings)).min(WAIT_MAX)
    }

    /// Whether the last failure is the one to raise an error for: once in a row.
    pub fn escalates(self) -> bool {
        self.failures == FAILURES_MAX + 1
    }

    /// Whether the actor counts as failing, given how long it has been running since.
    pub fn is_failing(self, runs_for: Option<Duration>) -> bool {
        self.failures > FAILURES_MAX && runs_for.is_none_or(|time| time < STEADY_AFTER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(failures: u32) -> FailureRow {
        (0..failures).fold(FailureRow::default(), |row, _| row.after_failure(Duration::ZERO))
    }

    #[test]
    fn waits_double_up_to_the_limit_and_begin_anew_after_a_steady_run() {
        let waits: Vec<u128> = (0..9).map(|n| row(n).wait().as_millis()).collect();
        assert_eq!(waits, [200, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        assert_eq!(row(u32::BITS * 8).wait(), WAIT_MAX);
        assert_eq!(row(8).after_failure(STEADY_AFTER), row(1));
    }

    #[test]
    fn an_error_is_raised_once_in_a_row_and_failing_ends_with_a_steady_run() {
        let raised: Vec<u32> = (0..20).filter(|n| row(*n).escalates()).collect();
        assert_eq!(raised, [FAILURES_MAX + 1]);
        assert!(!row(FAILURES_MAX).is_failing(None));
        assert!(row(FAILURES_MAX + 1).is_failing(None));
        assert!(row(FAILURES_MAX + 9).is_failing(Some(Duration::from_secs(59))));
        assert!(!row(FAILURES_MAX + 9).is_failing(Some(STEADY_AFTER)));
    }
}
