//! Safety rules 1 and 6: an acknowledged write has the task it was told of, a refused one has
//! none, and tasks are numbered in the order in which they were acknowledged.

use std::collections::BTreeMap;

use miroir_storage::ids::TaskUid;

use super::{Violation, World};
use crate::history::Answer;
use crate::operation::number_of;

const PROPERTY: &str = "acknowledged_is_kept";

/// Looks at the whole history.
pub fn check(world: &World<'_>) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut accepted: BTreeMap<u64, TaskUid> = BTreeMap::new();
    for task in world.tasks {
        let number = task.custom_metadata.as_deref().and_then(number_of);
        let Some(number) = number else {
            let evidence = format!("task {} belongs to nobody", task.uid);
            found.push(Violation { property: PROPERTY, evidence });
            continue;
        };
        if let Some(first) = accepted.insert(number, task.uid) {
            let evidence = format!("op-{number} has tasks {first} and {}", task.uid);
            found.push(Violation { property: PROPERTY, evidence });
        }
    }
    // A write that was sent after another was acknowledged has the higher number.
    let mut acknowledged: Vec<(u64, u64, TaskUid)> = Vec::new();
    for (number, sent) in world.history {
        let task = accepted.get(number);
        let holds = match sent.answer {
            Answer::Acknowledged(uid) => {
                acknowledged.push((sent.sent_ms, sent.answered_ms, uid));
                task == Some(&uid)
            }
            Answer::Refused => task.is_none(),
            Answer::Open | Answer::Unknown => true,
        };
        if !holds {
            let evidence =
                format!("op-{number} was answered {:?}, its task is {task:?}", sent.answer);
            found.push(Violation { property: PROPERTY, evidence });
        }
    }
    for (_, answered, earlier) in &acknowledged {
        for (sent, _, later) in &acknowledged {
            if answered < sent && earlier >= later {
                let evidence =
                    format!("task {later} was sent after task {earlier} was acknowledged");
                found.push(Violation { property: PROPERTY, evidence });
            }
        }
    }
    found
}
