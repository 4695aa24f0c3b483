//! Log lines that strangers can cause are written rarely.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// At most one line in this time: enough to be seen, too little to fill a disk.
const EVERY: Duration = Duration::from_secs(30);

/// Counts events and says when they are to be told.
#[derive(Debug, Default)]
pub(crate) struct Rarely {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    told: Option<Instant>,
    /// Events since then.
    untold: u64,
}

impl Rarely {
    /// Counts an event; the number of events to tell of, if it is time to.
    pub(crate) fn count(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.untold += 1;
        if state.told.is_some_and(|told| now.saturating_duration_since(told) < EVERY) {
            return None;
        }
        state.told = Some(now);
        Some(std::mem::take(&mut state.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_in_between_are_counted_not_told() {
        let rarely = Rarely::default();
        let start = miroir_seams::Clock::real().instant();
        assert_eq!(rarely.count(start), Some(1));
        assert_eq!(rarely.count(start + EVERY / 2), None);
        assert_eq!(rarely.count(start + EVERY), Some(2));
    }
}
