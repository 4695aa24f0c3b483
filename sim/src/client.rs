//! Clients: they write to whatever pod they reach, and remember what they were told. Some of
//! their writes carry an idempotency key and are tried again, on another pod, when no clear
//! answer came; some even after one. Some belong to a session, whose reads must show them.
//!
//! What carries `customMetadata` through the API goes through the gateway; the rest enters right
//! behind it, since nothing else would tell afterwards which task is whose.

use std::time::Duration;

use miroir_actors::accept::{AcceptError, WriteMarks, accept};
use miroir_storage::commands::IdempotencyKey;

use crate::dice::Dice;
use crate::entrance::{Answered, Entrance};
use crate::history::{Answer, History};
use crate::operation::{Operation, label};
use crate::plan::Plan;
use crate::reader::{Reading, choose};
use crate::without::Kind;
use crate::workload::Workload;

/// How long a client waits for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// How long an impatient one does, which may send the same write to another pod meanwhile.
const IMPATIENT_TIMEOUT: Duration = Duration::from_secs(2);
/// Before a client looks again for a pod that serves.
const CLOSED_PAUSE: Duration = Duration::from_millis(500);
/// Times that a write with a key is sent.
const ATTEMPTS_MAX: u32 = 4;

/// One client.
#[derive(Debug)]
pub struct Client {
    plan: Plan,
    number: u64,
    who: String,
    workload: Workload,
    /// Choices that only exist where there are several pods.
    dice: Dice,
    /// Choices that only exist where there are sessions.
    session_dice: Dice,
    reading: Reading,
    history: History,
}

impl Client {
    /// Client `number` of a world.
    pub fn new(plan: &Plan, number: u64, reading: Reading, history: History) -> Self {
        Self {
            plan: plan.clone(),
            number,
            who: format!("client-{number}"),
            workload: Workload::new(plan.clone(), number),
            dice: Dice::new(plan.seed, &format!("entrance-{number}")),
            session_dice: Dice::new(plan.seed, &format!("session-{number}")),
            reading,
            history,
        }
    }

    fn note(&self, what: impl std::fmt::Display) {
        self.reading.trace.note(&self.who, what);
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
            let place = self.number * self.plan.operations + (self.plan.operations - left - 1);
            let acknowledged = self.history.acknowledged();
            let operation = self.workload.next(self.history.next_number(), &acknowledged);
            if self.plan.without.leaves_out(Kind::Op, place) {
                continue;
            }
            let number = operation.number;
            self.note(operation.describe(self.plan.shards));
            self.history.send(operation.clone(), self.reading.trace.now_ms());
            let session = self.session();
            let several = self.plan.pods > 1;
            let insists = if self.plan.insists { 900 } else { 400 };
            let answer = if several && self.dice.chance(insists) {
                self.insist(&operation, entrance, &session).await
            } else {
                let marks = WriteMarks { key: None, session: session.clone() };
                self.attempt(&operation, &entrance, marks, ANSWER_TIMEOUT).await
            };
            self.note(format!("op-{number} {answer:?}"));
            self.history.answer(number, answer, self.reading.trace.now_ms());
            if let (Some(session), Answer::Acknowledged(uid)) = (session, answer)
                && !operation.is_of_no_index()
                && self.session_dice.chance(600)
                && let Some(entrance) = self.session_dice.pick(&self.reading.entrances.all())
            {
                let question = choose(&self.session_dice, self.plan.ids);
                let name = &operation.name;
                let session = Some((session, uid));
                self.reading.read(&self.who, entrance, name, question, session).await;
            }
        }
    }

    /// The session of the next write, if it belongs to one.
    fn session(&self) -> Option<String> {
        (self.plan.sessions && self.session_dice.chance(500)).then(|| format!("s-{}", self.who))
    }

    fn choose_entrance(&self) -> Option<Entrance> {
        let open = self.reading.entrances.all();
        if self.plan.pods == 1 { open.first().cloned() } else { self.dice.pick(&open).cloned() }
    }

    /// Sends a write under a key until its answer is clear, or it has been sent too often.
    async fn insist(
        &self,
        operation: &Operation,
        first: Entrance,
        session: &Option<String>,
    ) -> Answer {
        let number = operation.number;
        let mut request = [0; 32];
        request[..8].copy_from_slice(&number.to_le_bytes());
        let key = IdempotencyKey { key: label(number), request };
        let marks = WriteMarks { key: Some(key), session: session.clone() };
        let patience = if self.dice.chance(300) { IMPATIENT_TIMEOUT } else { ANSWER_TIMEOUT };
        let mut entrance = Some(first);
        let mut known = Answer::Refused;
        for _ in 0..ATTEMPTS_MAX {
            if let Some(entrance) = entrance.take() {
                let answer = self.attempt(operation, &entrance, marks.clone(), patience).await;
                self.note(format!("op-{number} on pod-{} {answer:?}", entrance.number));
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
                Answer::Acknowledged(_) if self.plan.insists => 400,
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
        entrance: &Entrance,
        marks: WriteMarks,
        patience: Duration,
    ) -> Answer {
        let written = tokio::time::timeout(patience, self.write(operation, entrance, marks));
        let answer = written.await.unwrap_or(Answer::Unknown);
        // A pod that died meanwhile answers nobody.
        if self.reading.entrances.leads_to(entrance) { answer } else { Answer::Unknown }
    }

    async fn write(&self, operation: &Operation, entrance: &Entrance, marks: WriteMarks) -> Answer {
        if let Some(asked) = operation.asked(&marks) {
            let answered = entrance.ask(asked).await;
            let answer = answer_of(&answered);
            if answer == Answer::Refused {
                let text = String::from_utf8_lossy(&answered.body).into_owned();
                self.note(format!("op-{} {} {text}", operation.number, answered.status));
            }
            return answer;
        }
        let request = match operation.to_write() {
            Ok(request) => request,
            Err(error) => {
                let what = format!("op-{} is no request: {}", operation.number, error.message);
                self.note(what);
                return Answer::Refused;
            }
        };
        match accept(&entrance.pod, request, marks).await {
            Ok(accepted) => Answer::Acknowledged(accepted.uid),
            Err(AcceptError::OutcomeUnknown) => Answer::Unknown,
            Err(_) => Answer::Refused,
        }
    }
}

/// What an answer says of the write's fate.
fn answer_of(answered: &Answered) -> Answer {
    let body = answered.json();
    let uid = body.get("taskUid").and_then(serde_json::Value::as_u64);
    match (answered.status, uid.and_then(|uid| u32::try_from(uid).ok())) {
        (202, Some(uid)) => Answer::Acknowledged(miroir_storage::ids::TaskUid(uid)),
        (503, _) if body.to_string().contains("outcome unknown") => Answer::Unknown,
        _ => Answer::Refused,
    }
}
