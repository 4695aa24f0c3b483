//! Work that may recurse deeper than the stacks of a runtime's threads: what strangers' programs build.

use std::io;
use std::panic::resume_unwind;
use std::thread;

/// Runs `work` on a stack of its own of so many bytes, of which only what is used takes memory, and waits
/// for it. Blocks; in the simulation as well, where it takes no virtual time. A panic goes on here.
///
/// # Errors
/// When there is no room for the stack.
pub fn on_stack_of<R: Send>(bytes: usize, work: impl FnOnce() -> R + Send) -> io::Result<R> {
    thread::scope(|scope| {
        let running = thread::Builder::new().stack_size(bytes).spawn_scoped(scope, work)?;
        running.join().map_err(|panic| resume_unwind(panic))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recursion_goes_as_deep_as_the_stack() {
        fn depth(left: u64) -> u64 {
            if left == 0 { 0 } else { std::hint::black_box(1 + depth(left - 1)) }
        }
        assert_eq!(on_stack_of(1 << 28, || depth(1_000_000)).ok(), Some(1_000_000));
    }
}
