//! Random choices, all from the seed.

use std::time::Duration;

use miroir_seams::Entropy;
use twox_hash::XxHash64;

/// A stream of choices. Each part of the world has its own, so that a change in one part does
/// not shift the choices of all others.
#[derive(Clone, Debug)]
pub struct Dice {
    entropy: Entropy,
}

impl Dice {
    /// The stream of `part` in the world of `seed`.
    pub fn new(seed: u64, part: &str) -> Self {
        Self { entropy: Entropy::seeded(seed ^ XxHash64::oneshot(0, part.as_bytes())) }
    }

    /// 64 random bits.
    pub fn next(&self) -> u64 {
        self.entropy.next_u64()
    }

    /// A number in `low..=high`; `low` when the range is empty.
    pub fn between(&self, low: u64, high: u64) -> u64 {
        low + self.entropy.below(high.saturating_sub(low) + 1)
    }

    /// True `permille` times in a thousand.
    pub fn chance(&self, permille: u64) -> bool {
        self.entropy.below(1000) < permille
    }

    /// A whole number of milliseconds in `low_ms..=high_ms`.
    pub fn millis(&self, low_ms: u64, high_ms: u64) -> Duration {
        Duration::from_millis(self.between(low_ms, high_ms))
    }

    /// One of `items`, if there are any.
    pub fn pick<'a, T>(&self, items: &'a [T]) -> Option<&'a T> {
        items.get(usize::try_from(self.entropy.below(items.len() as u64)).unwrap_or(0))
    }

    /// One of the items, each as likely as its weight says.
    pub fn weighted<T: Copy>(&self, items: &[(T, u64)]) -> Option<T> {
        let total: u64 = items.iter().map(|(_, weight)| weight).sum();
        let mut left = self.entropy.below(total);
        for (item, weight) in items {
            if left < *weight {
                return Some(*item);
            }
            left -= weight;
        }
        None
    }
}
