//! Replaces libc's `getrandom` in this binary, so that whatever asks the operating system for
//! randomness gets it from the seed: the standard library's hash maps, tokio's scheduler and
//! third-party crates.

use std::sync::atomic::{AtomicU64, Ordering};

static STATE: AtomicU64 = AtomicU64::new(0);

/// What comes from now on follows from `seed`.
pub fn seed(seed: u64) {
    STATE.store(seed, Ordering::Relaxed);
}

/// SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014).
fn next() -> u64 {
    const STEP: u64 = 0x9E37_79B9_7F4A_7C15;
    let mut z = STATE.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The libc function, by its symbol.
///
/// # Safety
/// `buffer` must be valid for writes of `length` bytes, as for libc's.
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buffer: *mut u8, length: usize, _flags: u32) -> isize {
    let mut written = 0;
    while written < length {
        let bytes = next().to_le_bytes();
        let count = bytes.len().min(length - written);
        // SAFETY: `written + count <= length`, and the caller vouches for the buffer.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), buffer.add(written), count) };
        written += count;
    }
    isize::try_from(length).unwrap_or(isize::MAX)
}
