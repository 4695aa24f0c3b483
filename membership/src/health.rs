//! Whether a node may be used, from its checks: down after a number of misses in a row, up
//! again after a number of good answers in a row.

/// When a node changes its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthLimits {
    /// Missed checks in a row until a node counts as down.
    pub misses_max: u32,
    /// Good checks in a row until it counts as up again.
    pub recoveries_min: u32,
}

impl Default for HealthLimits {
    fn default() -> Self {
        Self { misses_max: 3, recoveries_min: 2 }
    }
}

/// One node's checks so far. A node starts as up: a pod that has just started must not refuse
/// searches before its first round of checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeHealth {
    down: bool,
    /// Misses in a row while up, good answers in a row while down.
    streak: u32,
}

/// What a check changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthChange {
    /// The node is down from now on.
    WentDown,
    /// The node is up again.
    CameBack,
}

impl NodeHealth {
    /// A node that somebody else has found up or down.
    pub fn found(down: bool) -> Self {
        Self { down, streak: 0 }
    }

    /// Whether it counts as down.
    pub fn is_down(&self) -> bool {
        self.down
    }

    /// Takes one check into account.
    pub fn observe(&mut self, answered: bool, limits: HealthLimits) -> Option<HealthChange> {
        if answered != self.down {
            self.streak = 0;
            return None;
        }
        self.streak += 1;
        let needed = if self.down { limits.recoveries_min } else { limits.misses_max };
        if self.streak < needed {
            return None;
        }
        self.streak = 0;
        self.down = !self.down;
        Some(if self.down { HealthChange::WentDown } else { HealthChange::CameBack })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_misses_in_a_row_and_two_good_answers() {
        let limits = HealthLimits::default();
        let mut node = NodeHealth::default();
        let mut observe = |answered| node.observe(answered, limits);
        assert_eq!([false, false, true, false, false].map(&mut observe), [None; 5]);
        assert_eq!(observe(false), Some(HealthChange::WentDown));
        assert_eq!([true, false, true].map(&mut observe), [None; 3]);
        assert_eq!(observe(true), Some(HealthChange::CameBack));
        assert!(!node.is_down());
    }
}
