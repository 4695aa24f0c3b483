//! Searches before indexing.
//!
//! Indexing takes every core that it gets, for seconds on end; a search takes milliseconds of one. Threads
//! that index are *nice* to all others, so that a search, or a pod on the same machine, has a core at once, and indexing
//! what is left. Where nobody else wants the cores it is as fast as ever.

/// By how much. Linux gives a thread of the default niceness about nine times the share of one of 10.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 10;

/// Lets this thread, and the threads that it starts from here on, wait for others. Niceness is a matter of
/// single threads only on Linux; elsewhere nothing is done.
pub fn yield_to_searches() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::nice(NICENESS) {
        tracing::debug!(%error, "indexing is not made to wait for searches");
    }
}
