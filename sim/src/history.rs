//! What the clients did and what they know of it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use miroir_storage::ids::TaskUid;

use crate::operation::Operation;

/// What a client knows of one of its writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Sent; no answer yet.
    Open,
    /// Acknowledged with this task.
    Acknowledged(TaskUid),
    /// Certainly not accepted.
    Refused,
    /// May or may not have been accepted.
    Unknown,
}

/// One write with its answer, in virtual milliseconds.
#[derive(Clone, Debug)]
pub struct Sent {
    /// What was asked.
    pub operation: Arc<Operation>,
    /// When it was sent.
    pub sent_ms: u64,
    /// When the answer came.
    pub answered_ms: u64,
    /// The answer.
    pub answer: Answer,
}

/// Every write of a run by its number. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct History {
    sent: Arc<Mutex<BTreeMap<u64, Sent>>>,
    contradictions: Arc<Mutex<Vec<String>>>,
}

impl History {
    /// The number of the next operation.
    pub fn next_number(&self) -> u64 {
        self.lock().len() as u64
    }

    /// Notes that an operation is being sent.
    pub fn send(&self, operation: Operation, now_ms: u64) {
        let number = operation.number;
        let operation = Arc::new(operation);
        let sent = Sent { operation, sent_ms: now_ms, answered_ms: now_ms, answer: Answer::Open };
        self.lock().insert(number, sent);
    }

    /// Notes the answer.
    pub fn answer(&self, number: u64, answer: Answer, now_ms: u64) {
        if let Some(sent) = self.lock().get_mut(&number) {
            sent.answer = answer;
            sent.answered_ms = now_ms;
        }
    }

    /// Notes that two answers don't agree.
    pub fn contradict(&self, text: String) {
        self.contradictions.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    }

    /// Answers that don't agree, since the last call.
    pub fn contradictions(&self) -> Vec<String> {
        std::mem::take(&mut self.contradictions.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Tasks that were acknowledged, oldest operation first.
    pub fn acknowledged(&self) -> Vec<TaskUid> {
        let sent = self.lock();
        sent.values()
            .filter_map(|sent| match sent.answer {
                Answer::Acknowledged(uid) => Some(uid),
                _ => None,
            })
            .collect()
    }

    /// All of it.
    pub fn all(&self) -> BTreeMap<u64, Sent> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Sent>> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
