//! Clients: they write to whatever pod they reach, and remember what they were told. Some of
//! their writes carry an idempotency key and are tried again, on another pod, when no clear
//! answer came; some even after one.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use miroir_actors::accept::{AcceptError, WriteMarks, accept};
use miroir_actors::pod::PodContext;
use miroir_storage::commands::IdempotencyKey;

use crate::dice::Dice;
use crate::history::{Answer, History};
use crate::operation::{Operation, label};
use crate::plan::Plan;
use crate::trace::Trace;
use crate::workload::Workload;

/// How long a client waits for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// How long an impatient one does, which may send the same write to another pod meanwhile.
const IMPATIENT_TIMEOUT: Duration = Duration::from_secs(2);
/// Before a client looks again for a pod that serves.
const CLOSED_PAUSE: Duration = Duration::from_millis(500);
/// Times that a write with a key is sent.
const ATTEMPTS_MAX: u32 = 4;

/// The pods that clients reach at the moment, by number. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Entrances {
    open: Arc<Mutex<Vec<Option<Arc<PodContext>>>>>,
}

impl Entrances {
    /// Opens or closes the entrance of a pod.
    pub fn set(&self, pod: usize, context: Option<Arc<PodContext>>) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() <= pod {
            open.resize(pod + 1, None);
        }
        if let Some(entrance) = open.get_mut(pod) {
            *entrance = context;
        }
    }

    fn all(&self) -> Vec<(usize, Arc<PodContext>)> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        (0..).zip(open.iter()).filter_map(|(pod, context)| Some((pod, context.clone()?))).collect()
    }

    fn leads_to(&self, pod: usize, context: &Arc<PodContext>) -> bool {
        self.all().iter().any(|(open, now)| *open == pod && Arc::ptr_eq(now, context))
    }
}

/// One client.
#[derive(Debug)]
pub struct Client {
    plan: Plan,
    who: String,
    workload: Workload,
    /// Choices that only exist where there are several pods.
    dice: Dice,
    entrances: Entrances,
    history: History,
    trace: Trace,
}

impl Client {
    /// Client `number` of a world.
    pub fn new(
        plan: &Plan,
        number: u64,
        entrances: Entrances,
        history: History,
        trace: Trace,
    ) -> Self {
        Self {
            plan: plan.clone(),
            who: format!("client-{number}"),
            workload: Workload::new(plan.clone(), number),
            dice: Dice::new(plan.seed, &format!("entrance-{number}")),
            entrances,
            history,
            trace,
        }
    }

    /// Writes all it has to write.
    pub async fn run(self) {
        let mut left = self.plan.operations;
        while left > 0 {
            tokio::time::sleep(self.plan.pause(self.workload.dice())).await;
            let Some(entrance) = self.choose_entrance() else {
                tokio::time::sleep(CLOSED_PAUSE).await;
                continue;
            };
            left -= 1;
            let acknowledged = self.history.acknowledged();
            let operation = self.workload.next(self.history.next_number(), &acknowledged);
            let number = operation.number;
            self.trace.note(&self.who, operation.describe());
            self.history.send(operation.clone(), self.trace.now_ms());
            let several = self.plan.pods > 1;
            let answer = if several && self.dice.chance(400) {
                self.insist(&operation, entrance).await
            } else {
                let marks = WriteMarks::default();
                self.attempt(&operation, entrance, marks, ANSWER_TIMEOUT).await
            };
            self.trace.note(&self.who, format!("op-{number} {answer:?}"));
            self.history.answer(number, answer, self.trace.now_ms());
        }
    }

    fn choose_entrance(&self) -> Option<(usize, Arc<PodContext>)> {
        let open = self.entrances.all();
        if self.plan.pods == 1 { open.first().cloned() } else { self.dice.pick(&open).cloned() }
    }

    /// Sends a write under a key until its answer is clear, or it has been sent too often.
    async fn insist(&self, operation: &Operation, first: (usize, Arc<PodContext>)) -> Answer {
        let number = operation.number;
        let mut request = [0; 32];
        request[..8].copy_from_slice(&number.to_le_bytes());
        let key = IdempotencyKey { key: label(number), request };
        let marks = WriteMarks { key: Some(key), session: None };
        let patience = if self.dice.chance(300) { IMPATIENT_TIMEOUT } else { ANSWER_TIMEOUT };
        let mut entrance = Some(first);
        let mut known = Answer::Refused;
        for _ in 0..ATTEMPTS_MAX {
            if let Some(entrance) = entrance.take() {
                let pod = entrance.0;
                let answer = self.attempt(operation, entrance, marks.clone(), patience).await;
                self.trace.note(&self.who, format!("op-{number} on pod-{pod} {answer:?}"));
                known = match (known, answer) {
                    (Answer::Acknowledged(before), Answer::Acknowledged(again)) => {
                        if before != again {
                            let text = format!("op-{number} is task {before} and task {again}");
                            self.history.contradict(text);
                        }
                        known
                    }
                    (Answer::Acknowledged(_), _) => known,
                    (_, Answer::Acknowledged(_)) => answer,
                    (Answer::Unknown, _) => known,
                    _ => answer,
                };
            }
            let once_more = match known {
                Answer::Acknowledged(_) => 150,
                Answer::Refused => 500,
                Answer::Unknown | Answer::Open => 850,
            };
            if !self.dice.chance(once_more) {
                break;
            }
            tokio::time::sleep(self.dice.millis(0, 3_000)).await;
            entrance = self.choose_entrance();
        }
        known
    }

    async fn attempt(
        &self,
        operation: &Operation,
        (number, pod): (usize, Arc<PodContext>),
        marks: WriteMarks,
        patience: Duration,
    ) -> Answer {
        let request = match operation.to_write() {
            Ok(request) => request,
            Err(error) => {
                let what = format!("op-{} is no request: {}", operation.number, error.message);
                self.trace.note(&self.who, what);
                return Answer::Refused;
            }
        };
        let answer = match tokio::time::timeout(patience, accept(&pod, request, marks)).await {
            Ok(Ok(accepted)) => Answer::Acknowledged(accepted.uid),
            Ok(Err(AcceptError::OutcomeUnknown)) | Err(_) => Answer::Unknown,
            Ok(Err(_)) => Answer::Refused,
        };
        // A pod that died meanwhile answers nobody.
        if self.entrances.leads_to(number, &pod) { answer } else { Answer::Unknown }
    }
}
