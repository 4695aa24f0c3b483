//! Safety rules 3, 4 and 10, as clients see them: a read shows every write that its pod knew to
//! have ended, and every write of its session; no document twice; whatever is missing is said;
//! nothing internal.
//!
//! What tasks that were open meanwhile may have changed is left out of the comparison, and so is
//! what the spec allows: shards of a node that has lost its disk or carried out a late request,
//! and of one that left the in-sync set while the read was under way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use miroir_storage::commands::Ending;
use miroir_storage::ids::TaskUid;
use miroir_storage::tables::tasks::{TaskRecord, TaskState};
use serde_json::Value;

use super::outcomes_are_expected::replay;
use super::tasks_end_in_order::names_of;
use super::visible_when_succeeded::{Touched, touched_by};
use super::{Violation, sent_of};
use crate::expected::ExpectedIndex;
use crate::history::Sent;
use crate::model_node::id_text;
use crate::operation::{Document, Request};
use crate::plan::Plan;
use crate::reader::{Question, Read, WHOLE};

const PROPERTY: &str = "reads_are_expected";

/// Looks at the reads of a run whose tasks have all ended.
pub fn check(
    reads: &[Read],
    tasks: &[Arc<TaskRecord>],
    history: &BTreeMap<u64, Sent>,
    plan: &Plan,
) -> Vec<Violation> {
    let mut known = Known { tasks, history, replayed: None };
    let judged = reads.iter().filter_map(|read| {
        let why = judge(read, &mut known, plan)?;
        let Read { who, asked_ms, name, question, .. } = read;
        let evidence = format!("{who} at {asked_ms}: {question:?} of `{name}`: {why}");
        Some(Violation { property: PROPERTY, evidence })
    });
    judged.collect()
}

/// What is known of the tasks; the last replay is kept, since reads follow one another.
struct Known<'a> {
    tasks: &'a [Arc<TaskRecord>],
    history: &'a BTreeMap<u64, Sent>,
    replayed: Option<(BTreeSet<TaskUid>, BTreeMap<String, ExpectedIndex>)>,
}

impl Known<'_> {
    /// The indexes as these tasks made them.
    fn after(&mut self, ended: BTreeSet<TaskUid>) -> &BTreeMap<String, ExpectedIndex> {
        let again = match self.replayed.take() {
            Some((of, indexes)) if of == ended => (of, indexes),
            _ => {
                let those: Vec<Arc<TaskRecord>> =
                    self.tasks.iter().filter(|task| ended.contains(&task.uid)).cloned().collect();
                (ended, replay(&those, self.history).0.indexes)
            }
        };
        &self.replayed.insert(again).1
    }
}

/// What is wrong with a read, if anything is.
fn judge(read: &Read, known: &mut Known<'_>, plan: &Plan) -> Option<String> {
    let text = String::from_utf8_lossy(&read.answer.body);
    if text.contains("_miroir_") {
        return Some(format!("shows a reserved name: {text}"));
    }
    // What somebody else did to a node's settings, searches show until the drift check comes.
    if plan.changes_settings && matches!(read.question, Question::Search { .. }) {
        return None;
    }
    let found = documents_of(read);
    let twice = found.iter().flatten().map(shown_id).collect::<Vec<_>>();
    let once: BTreeSet<&String> = twice.iter().collect();
    if once.len() != twice.len() {
        return Some(format!("shows a document twice: {twice:?}"));
    }
    let degraded = read.answer.header("x-miroir-degraded").unwrap_or_default();
    if degraded.contains("stale") {
        return None;
    }
    let mut ended = read.ended.clone();
    // A cancelled write says nothing of those before it. One to a name that meant no index changes
    // nothing that a read could show, so reads don't wait for it.
    let says_nothing = |uid: &TaskUid| {
        let is_void = |task: &TaskRecord| {
            task.state == TaskState::Ended(Ending::Canceled) || task.index.is_none()
        };
        known.tasks.iter().any(|task| task.uid == *uid && is_void(task))
    };
    if let Some(newest) = read.session.filter(|uid| !says_nothing(uid)) {
        // Tasks of one name end in order, and a swap brings its other name with it.
        let mut names = BTreeSet::from([read.name.as_str()]);
        for task in known.tasks.iter().rev().filter(|task| task.uid <= newest) {
            if names_of(task).iter().any(|name| names.contains(name)) {
                names.extend(names_of(task));
                ended.insert(task.uid);
            }
        }
    }
    let mut touched: BTreeMap<&str, Touched> = BTreeMap::new();
    let mut changes_settings = false;
    let open = known.tasks.iter().filter(|task| !ended.contains(&task.uid));
    for task in open.filter(|task| read.newest.is_none_or(|newest| task.uid <= newest)) {
        let Some(sent) = sent_of(known.history, task) else { continue };
        touched_by(&mut touched, &sent.operation);
        changes_settings |= matches!(sent.operation.request, Request::Settings(_));
    }
    let touched = touched.remove(read.name.as_str());
    if touched.as_ref().is_some_and(|touched| touched.everything) {
        return None;
    }
    let indexes = known.after(ended);
    let Some(index) = indexes.get(&read.name) else {
        let may_be_made = touched.is_some() || found.is_none();
        return (!may_be_made).then(|| "finds an index that should not be there".to_owned());
    };
    let ids = touched.as_ref().map(|touched| &touched.ids);
    let is_sure = |id: &str| {
        !index.uncertain.contains(id)
            && !ids.is_some_and(|ids| ids.contains(id))
            && !read.excused.covers(id)
    };
    let view = View { index, changes_settings, is_sure: &is_sure };
    match read.answer.status {
        200 => {
            let misses = degraded.contains("shards=");
            compare(read, &found.unwrap_or_default(), &view, misses, touched.is_some())
        }
        404 if read.answer.code().as_deref() == Some("index_not_found") => {
            Some("does not find the index".to_owned())
        }
        404 => {
            let Question::Get { id } = &read.question else { return None };
            let lost = index.documents.contains_key(id) && is_sure(id);
            lost.then(|| format!("does not find {:?}", index.documents.get(id)))
        }
        // Refusals are allowed while things are away.
        _ => None,
    }
}

struct View<'a> {
    index: &'a ExpectedIndex,
    changes_settings: bool,
    /// Whether the model knows what the document must be.
    is_sure: &'a dyn Fn(&str) -> bool,
}

fn compare(
    read: &Read,
    found: &[Document],
    view: &View<'_>,
    misses: bool,
    is_changing: bool,
) -> Option<String> {
    let View { index, changes_settings, is_sure } = view;
    let settings = index.settings.effective();
    let is_search = matches!(read.question, Question::Search { .. });
    let displayed = displayed(&settings).filter(|_| is_search);
    for document in found {
        let id = shown_id(document);
        if !is_sure(&id) {
            continue;
        }
        let Some(wanted) = index.documents.get(&id) else {
            return Some(format!("shows {document:?}, which should not be there"));
        };
        if *changes_settings && is_search {
            continue;
        }
        let mut wanted = wanted.clone();
        if let Some(displayed) = &displayed {
            wanted.retain(|name, _| displayed.contains(name));
        }
        if *document != wanted {
            return Some(format!("shows {document:?} for {wanted:?}"));
        }
    }
    if misses {
        return None;
    }
    let shown: BTreeSet<String> = found.iter().map(shown_id).collect();
    let missing: Vec<&String> =
        index.documents.keys().filter(|id| is_sure(id) && !shown.contains(*id)).collect();
    let is_distinct = settings.get("distinctAttribute").is_some_and(Value::is_string);
    let limit = match read.question {
        // Pages of a listing are cut from what nodes counted a moment before.
        Question::List if is_changing => return None,
        Question::List => WHOLE,
        Question::Search { .. } if *changes_settings || is_distinct => return None,
        Question::Search { limit } => limit.min(hits_max(&settings)),
        Question::Get { .. } => return None,
    };
    let is_full = found.len() as u64 >= limit;
    (!is_full && !missing.is_empty()).then(|| format!("does not show {missing:?}"))
}

fn displayed(settings: &Value) -> Option<BTreeSet<String>> {
    let names = settings.get("displayedAttributes")?.as_array()?;
    let names: BTreeSet<String> =
        names.iter().filter_map(Value::as_str).map(str::to_owned).collect();
    (!names.contains("*")).then_some(names)
}

fn hits_max(settings: &Value) -> u64 {
    settings.pointer("/pagination/maxTotalHits").and_then(Value::as_u64).unwrap_or(1000)
}

/// Every workload's documents have their id under `id`, or else are refused.
fn shown_id(document: &Document) -> String {
    document.get("id").map(id_text).unwrap_or_default()
}

/// The documents of an answer; none when it is a refusal.
fn documents_of(read: &Read) -> Option<Vec<Document>> {
    if read.answer.status != 200 {
        return None;
    }
    let body = read.answer.json();
    let list = match read.question {
        Question::Search { .. } => body.get("hits")?.as_array()?.clone(),
        Question::List => body.get("results")?.as_array()?.clone(),
        Question::Get { .. } => vec![body],
    };
    Some(list.into_iter().filter_map(|document| document.as_object().cloned()).collect())
}
