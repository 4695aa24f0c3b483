//! Webhooks: key the uuid, value [`WebhookRecord`]; and the mail for them: key a number that only
//! grows, value the ended task.
//!
//! `PutWebhook` and `DeleteWebhook` write the former; whatever ends a task writes a letter, as long
//! as there is a webhook. A webhook's `next` is the letter that it gets next: it only rises, by
//! `WebhookSent`, and what all webhooks have got is removed in the same entry. At most
//! [`MAIL_MAX`] letters wait; of more, the oldest are lost to whoever has not got them.

use serde::{Deserialize, Serialize};

use super::records::{Record, decode, encode, u64_from};
use super::tasks::TaskRecord;
use super::{ApplyError, META, WEBHOOK_MAIL, WEBHOOKS};
use crate::commands::Outcome;
use crate::engine::{ALL_KEYS, Direction, Engine, Tx};

/// Webhooks kept at most, as in Meilisearch.
pub const WEBHOOKS_MAX: usize = 20;
/// Letters kept at most, of a few hundred bytes each.
pub const MAIL_MAX: u64 = 100_000;
/// In [`META`]: the number of the next letter.
const NEXT_LETTER: &[u8] = b"webhook-mail";

/// One webhook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebhookRecord {
    /// A UUID, hyphenated, in lower case.
    pub uuid: String,
    /// Where letters are sent.
    pub url: String,
    /// Headers that are sent along, by name.
    pub headers: Vec<(String, String)>,
    /// The letter that it gets next; whatever a command says, the log sets it.
    pub next: u64,
}

impl Record for WebhookRecord {
    const VERSION: u8 = 1;
    const NAME: &'static str = "webhook";
}

/// Letters for one webhook.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mail {
    /// The tasks, in the order in which they ended.
    pub tasks: Vec<TaskRecord>,
    /// The number after the last of them.
    pub through: u64,
    /// Letters that were lost before the first of them.
    pub lost: u64,
}

/// Adds a webhook, or changes its address and headers.
pub(crate) fn put(tx: &mut Tx<'_>, webhook: &WebhookRecord) -> Result<Outcome, ApplyError> {
    let next = match tx.get(WEBHOOKS, webhook.uuid.as_bytes())? {
        Some(bytes) => decode::<WebhookRecord>(&bytes)?.next,
        None if all_in(tx)?.len() >= WEBHOOKS_MAX => return Ok(Outcome::TooMany),
        None => next_letter(tx)?,
    };
    let webhook = WebhookRecord { next, ..webhook.clone() };
    tx.put(WEBHOOKS, webhook.uuid.as_bytes(), encode(&webhook)?);
    Ok(Outcome::Done)
}

/// Removes a webhook; nothing when there is none.
pub(crate) fn delete(tx: &mut Tx<'_>, uuid: &str) -> Result<Outcome, ApplyError> {
    if tx.get(WEBHOOKS, uuid.as_bytes())?.is_none() {
        return Ok(Outcome::Unchanged);
    }
    tx.delete(WEBHOOKS, uuid.as_bytes());
    sweep(tx)?;
    Ok(Outcome::Done)
}

/// A webhook has got all letters below `through`.
pub(crate) fn sent(tx: &mut Tx<'_>, uuid: &str, through: u64) -> Result<Outcome, ApplyError> {
    let Some(bytes) = tx.get(WEBHOOKS, uuid.as_bytes())? else { return Ok(Outcome::Unchanged) };
    let mut webhook: WebhookRecord = decode(&bytes)?;
    let through = through.min(next_letter(tx)?);
    if through <= webhook.next {
        return Ok(Outcome::Unchanged);
    }
    webhook.next = through;
    tx.put(WEBHOOKS, uuid.as_bytes(), encode(&webhook)?);
    sweep(tx)?;
    Ok(Outcome::Done)
}

/// Writes a letter about a task that has just ended, if there is anybody to get it.
pub(crate) fn post(tx: &mut Tx<'_>, task: &TaskRecord) -> Result<(), ApplyError> {
    if tx.scan(WEBHOOKS, ALL_KEYS, Direction::Forward, 1)?.is_empty() {
        return Ok(());
    }
    let number = super::take_number(tx, NEXT_LETTER)?;
    tx.put(WEBHOOK_MAIL, &number.to_be_bytes(), encode(task)?);
    if let Some(oldest) = number.checked_sub(MAIL_MAX) {
        tx.delete(WEBHOOK_MAIL, &oldest.to_be_bytes());
    }
    Ok(())
}

/// Removes what all webhooks have got.
fn sweep(tx: &mut Tx<'_>) -> Result<(), ApplyError> {
    let next = all_in(tx)?.iter().map(|webhook| webhook.next).min();
    let below = next.unwrap_or(u64::MAX).to_be_bytes();
    for (key, _) in tx.scan(WEBHOOK_MAIL, ALL_KEYS, Direction::Forward, usize::MAX)? {
        if key.as_slice() >= below.as_slice() {
            break;
        }
        tx.delete(WEBHOOK_MAIL, &key);
    }
    Ok(())
}

fn all_in(tx: &Tx<'_>) -> Result<Vec<WebhookRecord>, ApplyError> {
    let rows = tx.scan(WEBHOOKS, ALL_KEYS, Direction::Forward, usize::MAX)?;
    Ok(rows.iter().map(|(_, bytes)| decode(bytes)).collect::<Result<_, _>>()?)
}

fn next_letter(tx: &Tx<'_>) -> Result<u64, ApplyError> {
    match tx.get(META, NEXT_LETTER)? {
        Some(bytes) => Ok(u64_from(&bytes)?),
        None => Ok(0),
    }
}

/// Every webhook, by uuid.
///
/// # Errors
/// When the store fails or a record can't be read.
pub fn all(engine: &dyn Engine) -> Result<Vec<WebhookRecord>, ApplyError> {
    let rows = engine.scan(WEBHOOKS, ALL_KEYS, Direction::Forward, usize::MAX)?;
    Ok(rows.iter().map(|(_, bytes)| decode(bytes)).collect::<Result<_, _>>()?)
}

/// One webhook.
///
/// # Errors
/// When the store fails or the record can't be read.
pub fn read(engine: &dyn Engine, uuid: &str) -> Result<Option<WebhookRecord>, ApplyError> {
    match engine.get(WEBHOOKS, uuid.as_bytes())? {
        Some(bytes) => Ok(Some(decode(&bytes)?)),
        None => Ok(None),
    }
}

/// The next letters for a webhook, at most `letters_max`.
///
/// # Errors
/// When the store fails or a record can't be read.
pub fn mail_for(
    engine: &dyn Engine,
    webhook: &WebhookRecord,
    letters_max: usize,
) -> Result<Mail, ApplyError> {
    let from = std::ops::Bound::Included(webhook.next.to_be_bytes().to_vec());
    let range = (from, std::ops::Bound::Unbounded);
    let rows = engine.scan(WEBHOOK_MAIL, range, Direction::Forward, letters_max)?;
    let mut mail = Mail { through: webhook.next, ..Mail::default() };
    for (key, bytes) in rows {
        let number = u64_from(&key)?;
        if mail.tasks.is_empty() {
            mail.lost = number - webhook.next;
        }
        mail.tasks.push(decode(&bytes)?);
        mail.through = number + 1;
    }
    Ok(mail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::{Command, Ending, EnqueueTask, FinishTask, Work};
    use crate::engine::{Durability, MemoryEngine};
    use crate::ids::TaskUid;
    use crate::tables::apply;

    fn applied(engine: &MemoryEngine, command: &Command) -> Outcome {
        let mut tx = Tx::new(engine);
        let outcome = apply(&mut tx, 1, command).expect("memory does not fail");
        engine.commit(tx.into_batch(), Durability::Lazy).expect("memory does not fail");
        outcome
    }

    fn webhook(uuid: &str) -> WebhookRecord {
        let headers = vec![("a".to_owned(), "b".to_owned())];
        WebhookRecord { uuid: uuid.to_owned(), url: "http://x".to_owned(), headers, next: 7 }
    }

    fn put(engine: &MemoryEngine, uuid: &str) -> Outcome {
        applied(engine, &Command::PutWebhook(Box::new(webhook(uuid))))
    }

    /// Accepts a task and ends it.
    fn end_one(engine: &MemoryEngine) -> TaskUid {
        let task = EnqueueTask {
            index: Some("films".to_owned()),
            work: Work::DeleteIndex,
            create: None,
            custom_metadata: None,
            at: 1,
        };
        let Outcome::Enqueued { uid, .. } = applied(engine, &Command::EnqueueTask(Box::new(task)))
        else {
            panic!("not accepted")
        };
        let end = FinishTask {
            fence: None,
            uid,
            ending: Ending::Failed,
            details: None,
            error: None,
            effects: Vec::new(),
            shows_index: false,
            at: 2,
        };
        applied(engine, &Command::FinishTasks(vec![end.clone()]));
        // A second end changes nothing, and is no second letter.
        applied(engine, &Command::FinishTasks(vec![end]));
        uid
    }

    fn waiting(engine: &MemoryEngine, uuid: &str) -> (Vec<TaskUid>, u64) {
        let webhook = read(engine, uuid).expect("memory does not fail").expect("it is there");
        let mail = mail_for(engine, &webhook, 100).expect("memory does not fail");
        (mail.tasks.iter().map(|task| task.uid).collect(), mail.through)
    }

    fn letters(engine: &MemoryEngine) -> usize {
        let rows = engine.scan(WEBHOOK_MAIL, ALL_KEYS, Direction::Forward, usize::MAX);
        rows.expect("memory does not fail").len()
    }

    #[test]
    fn a_webhook_gets_every_task_that_ends_while_it_is_there() {
        let engine = MemoryEngine::default();
        end_one(&engine);
        assert_eq!(letters(&engine), 0, "nobody gets it");
        assert_eq!(put(&engine, "a"), Outcome::Done);
        let first = end_one(&engine);
        put(&engine, "b");
        let second = end_one(&engine);
        assert_eq!(waiting(&engine, "a"), (vec![first, second], 2));
        assert_eq!(waiting(&engine, "b"), (vec![second], 2));
        let sent = |uuid: &str, through| {
            applied(&engine, &Command::WebhookSent { uuid: uuid.to_owned(), through })
        };
        assert_eq!(sent("a", 9), Outcome::Done, "no further than there are letters");
        assert_eq!(waiting(&engine, "a"), (vec![], 2));
        assert_eq!(sent("a", 1), Outcome::Unchanged, "it only rises");
        assert_eq!(letters(&engine), 1, "what all have got is gone");
        put(&engine, "a");
        assert_eq!(waiting(&engine, "a"), (vec![], 2), "a change keeps its place");
        let delete =
            |uuid: &str| applied(&engine, &Command::DeleteWebhook { uuid: uuid.to_owned() });
        assert_eq!(delete("b"), Outcome::Done);
        assert_eq!((delete("b"), letters(&engine)), (Outcome::Unchanged, 0));
        assert_eq!(sent("b", 5), Outcome::Unchanged);
    }

    #[test]
    fn there_are_only_so_many() {
        let engine = MemoryEngine::default();
        for number in 0..WEBHOOKS_MAX {
            assert_eq!(put(&engine, &number.to_string()), Outcome::Done);
        }
        assert_eq!(put(&engine, "one more"), Outcome::TooMany);
        assert_eq!(put(&engine, "0"), Outcome::Done);
    }

    #[test]
    fn the_oldest_letters_are_lost_when_there_are_too_many() {
        let engine = MemoryEngine::default();
        put(&engine, "a");
        end_one(&engine);
        let mut tx = Tx::new(&engine);
        tx.put(META, NEXT_LETTER, MAIL_MAX.to_be_bytes().to_vec());
        engine.commit(tx.into_batch(), Durability::Lazy).expect("memory does not fail");
        let last = end_one(&engine);
        let webhook = read(&engine, "a").expect("memory does not fail").expect("it is there");
        let mail = mail_for(&engine, &webhook, 100).expect("memory does not fail");
        assert_eq!((mail.tasks[0].uid, mail.lost, mail.through), (last, MAIL_MAX, MAIL_MAX + 1));
    }

    #[test]
    fn golden_bytes_of_version_1() {
        let bytes = [&[1, 1, b'a', 8][..], b"http://x", &[1, 1, b'a', 1, b'b', 7]].concat();
        assert_eq!(encode(&webhook("a")), Ok(bytes.clone()));
        assert_eq!(decode(&bytes), Ok(webhook("a")));
    }
}
