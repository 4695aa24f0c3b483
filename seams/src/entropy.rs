//! Randomness.

use std::sync::{Arc, Mutex, PoisonError};

use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha12Rng;

/// A source of random numbers: seeded from the operating system, or from a number in the
/// simulation, where the same seed gives the same sequence.
#[derive(Clone, Debug)]
pub struct Entropy {
    rng: Arc<Mutex<ChaCha12Rng>>,
}

impl Entropy {
    /// Seeded by the operating system.
    #[allow(clippy::disallowed_methods)]
    pub fn real() -> Self {
        Self::from_rng(ChaCha12Rng::from_os_rng())
    }

    /// The sequence that belongs to `seed`.
    pub fn seeded(seed: u64) -> Self {
        Self::from_rng(ChaCha12Rng::seed_from_u64(seed))
    }

    fn from_rng(rng: ChaCha12Rng) -> Self {
        Self { rng: Arc::new(Mutex::new(rng)) }
    }

    /// The next 64 random bits.
    pub fn next_u64(&self) -> u64 {
        // A poisoned lock only means another thread panicked between two draws.
        self.rng.lock().unwrap_or_else(PoisonError::into_inner).next_u64()
    }

    /// A number in `0..bound`; 0 when `bound` is 0. The modulo bias is below 2^-32 for the
    /// small bounds this is used with (jitter, choices among nodes).
    pub fn below(&self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.next_u64() % bound }
    }

    /// Fills `bytes` with random bits, fit for keys when the source is the operating system.
    pub fn fill(&self, bytes: &mut [u8]) {
        self.rng.lock().unwrap_or_else(PoisonError::into_inner).fill_bytes(bytes);
    }

    /// A version 4 (random) UUID in its hyphenated text form, RFC 9562.
    pub fn uuid(&self) -> String {
        let mut b = [0u8; 16];
        self.fill(&mut b);
        b[6] = (b[6] & 0x0f) | 0x40;
        b[8] = (b[8] & 0x3f) | 0x80;
        let hex: String = b.iter().map(|byte| format!("{byte:02x}")).collect();
        [&hex[0..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..32]].join("-")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_seed_gives_the_same_sequence() {
        let (a, b) = (Entropy::seeded(7), Entropy::seeded(7));
        assert_eq!(
            (0..8).map(|_| a.next_u64()).collect::<Vec<_>>(),
            (0..8).map(|_| b.next_u64()).collect::<Vec<_>>()
        );
        assert_eq!(a.uuid(), b.uuid());
        assert_eq!(a.uuid().len(), 36);
    }
}
