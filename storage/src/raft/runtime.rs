//! openraft's asynchronous runtime, over the seams.

use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use miroir_seams::{Entropy, Seams};
use openraft::{AsyncRuntime, OptionalSend, TokioInstant, TokioRuntime};

tokio::task_local! {
    /// The seams of the pod whose Raft runs here. openraft asks for tasks and randomness by
    /// static functions; this tells them which pod of the process is asking.
    static SEAMS: Seams;
}

/// Runs `future` so that whatever openraft starts in it belongs to the pod of `seams`.
pub(crate) async fn in_seams<F: Future>(seams: Seams, future: F) -> F::Output {
    SEAMS.scope(seams, future).await
}

/// Tokio, with tasks that end with their pod and random numbers from the pod's source.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct SeamRuntime;

/// Random numbers of the pod.
#[derive(Debug)]
pub struct SeamRng(Entropy);

impl rand08::RngCore for SeamRng {
    fn next_u32(&mut self) -> u32 {
        self.0.next_u64() as u32
    }

    fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        self.0.fill(bytes);
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), rand08::Error> {
        self.0.fill(bytes);
        Ok(())
    }
}

impl AsyncRuntime for SeamRuntime {
    type JoinError = <TokioRuntime as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <TokioRuntime as AsyncRuntime>::Sleep;
    type Instant = TokioInstant;
    type TimeoutError = <TokioRuntime as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> =
        <TokioRuntime as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = SeamRng;
    type OneshotSender<T: OptionalSend> = <TokioRuntime as AsyncRuntime>::OneshotSender<T>;
    type OneshotReceiverError = <TokioRuntime as AsyncRuntime>::OneshotReceiverError;
    type OneshotReceiver<T: OptionalSend> = <TokioRuntime as AsyncRuntime>::OneshotReceiver<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        match SEAMS.try_with(Seams::clone) {
            Ok(seams) => {
                let tasks = seams.tasks.clone();
                tasks.spawn("raft", SEAMS.scope(seams, future))
            }
            // Outside a pod, in openraft's own store tests only.
            Err(_) => TokioRuntime::spawn(future),
        }
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        TokioRuntime::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        TokioRuntime::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        TokioRuntime::is_panic(join_error)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        SeamRng(SEAMS.try_with(|seams| seams.entropy.clone()).unwrap_or_else(|_| Entropy::real()))
    }

    fn oneshot<T>() -> (Self::OneshotSender<T>, Self::OneshotReceiver<T>)
    where
        T: OptionalSend,
    {
        TokioRuntime::oneshot()
    }
}
