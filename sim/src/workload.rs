//! What clients write: a stream of operations from the seed, by habit.

use miroir_storage::ids::TaskUid;
use serde_json::{Value, json};

use crate::dice::Dice;
use crate::model_node::{FICKLE_DISTINCT, POISON_FIELD, REFUSED_DISTINCT};
use crate::operation::{Document, EditFunction, Operation, Request, Term};
use crate::plan::{Habit, Plan};

/// Documents in one request at most.
const DOCUMENTS_MAX: u64 = 6;

/// Of 1,000 changes of names, how many are renames; the others are swaps.
const RENAMES: u64 = 400;
/// Of 1,000 deletions by a filter, how many are editions by a function instead.
const EDITS: u64 = 300;

#[derive(Clone, Copy, Debug)]
enum Choice {
    Add,
    Update,
    Poison,
    DeleteIds,
    DeleteMatching,
    Clear,
    Settings,
    Create,
    UpdateIndex,
    DeleteIndex,
    Swap,
    Cancel,
}

fn weights(habit: Habit) -> Vec<(Choice, u64)> {
    use Choice::*;
    match habit {
        Habit::Documents => {
            vec![(Add, 60), (Update, 25), (DeleteIds, 8), (Clear, 1), (Settings, 3), (Poison, 1)]
        }
        Habit::Deletions => vec![
            (Add, 40),
            (Update, 10),
            (DeleteIds, 20),
            (DeleteMatching, 20),
            (Clear, 4),
            (Settings, 6),
        ],
        Habit::Settings => {
            vec![(Add, 35), (Update, 15), (Settings, 30), (DeleteMatching, 15), (DeleteIds, 5)]
        }
        Habit::Indexes => vec![
            (Add, 40),
            (Update, 10),
            (Create, 8),
            (DeleteIndex, 10),
            (Swap, 12),
            (UpdateIndex, 3),
            (Settings, 8),
            (DeleteIds, 6),
            (DeleteMatching, 3),
        ],
        Habit::HotDocuments => {
            vec![(Add, 40), (Update, 45), (DeleteIds, 8), (DeleteMatching, 3), (Settings, 4)]
        }
        Habit::ManyIndexes => vec![
            (Add, 35),
            (Update, 5),
            (Create, 14),
            (DeleteIndex, 16),
            (Swap, 18),
            (UpdateIndex, 2),
            (Settings, 4),
            (Cancel, 6),
        ],
        Habit::FilterDeletions => {
            vec![(Add, 45), (Update, 10), (DeleteMatching, 30), (Settings, 12), (Clear, 3)]
        }
        Habit::Everything => vec![
            (Add, 40),
            (Update, 15),
            (Poison, 2),
            (DeleteIds, 8),
            (DeleteMatching, 8),
            (Clear, 2),
            (Settings, 10),
            (Create, 3),
            (DeleteIndex, 3),
            (Swap, 4),
            (UpdateIndex, 1),
            (Cancel, 4),
        ],
    }
}

/// The operations of one client.
#[derive(Debug)]
pub struct Workload {
    plan: Plan,
    dice: Dice,
    /// Of their own, so that a seed's other operations are as without them.
    renames: Dice,
    /// As well.
    edits: Dice,
    /// As well.
    fickle: Dice,
}

impl Workload {
    /// The stream of client `client`.
    pub fn new(plan: Plan, client: u64) -> Self {
        let dice = Dice::new(plan.seed, &format!("client-{client}"));
        let renames = Dice::new(plan.seed, &format!("renames-{client}"));
        let edits = Dice::new(plan.seed, &format!("edits-{client}"));
        let fickle = Dice::new(plan.seed, &format!("fickle-{client}"));
        Self { plan, dice, renames, edits, fickle }
    }

    /// The client's dice, for its pauses.
    pub fn dice(&self) -> &Dice {
        &self.dice
    }

    /// The next operation; `acknowledged` are tasks that a cancellation may name.
    pub fn next(&self, number: u64, acknowledged: &[TaskUid]) -> Operation {
        let choice = self.dice.weighted(&weights(self.plan.habit)).unwrap_or(Choice::Add);
        let name = self.dice.pick(&self.plan.names).cloned().unwrap_or_default();
        let request = match choice {
            Choice::Add => self.documents(number, false),
            Choice::Update => self.documents(number, true),
            Choice::Poison => self.poison(number),
            Choice::DeleteIds => {
                let count = self.dice.between(1, 4);
                Request::DeleteIds((0..count).map(|_| self.id()).collect())
            }
            Choice::DeleteMatching => {
                let terms = self.terms();
                match self.edits() {
                    true => self.edit(terms),
                    false => Request::DeleteMatching(terms),
                }
            }
            Choice::Clear => Request::Clear,
            Choice::Settings => Request::Settings(self.settings()),
            Choice::Create => {
                Request::Create { primary_key: self.dice.chance(500).then(|| "id".to_owned()) }
            }
            Choice::UpdateIndex => Request::Update { primary_key: Some("id".to_owned()) },
            Choice::DeleteIndex => Request::DeleteIndex,
            Choice::Swap => {
                let other: Vec<&String> =
                    self.plan.names.iter().filter(|other| **other != name).collect();
                match self.dice.pick(&other) {
                    Some(to) if self.renames.chance(RENAMES) => {
                        Request::Rename { to: (*to).clone(), by_swap: self.renames.chance(500) }
                    }
                    Some(other) => Request::Swap((*other).clone()),
                    None => self.documents(number, false),
                }
            }
            Choice::Cancel => {
                let newest: Vec<TaskUid> = acknowledged.iter().rev().take(4).copied().collect();
                if newest.is_empty() { Request::Clear } else { Request::Cancel(newest) }
            }
        };
        Operation { number, name, request }
    }

    /// What somebody else changed on one replica would get into all of them, if a function read it there.
    fn edits(&self) -> bool {
        !self.plan.changes_documents && self.edits.chance(EDITS)
    }

    fn edit(&self, terms: Vec<Term>) -> Request {
        let terms = if self.edits.chance(300) { Vec::new() } else { terms };
        let function = self.edits.pick(&EditFunction::ALL).copied();
        Request::Edit { terms, function: function.unwrap_or(EditFunction::Count) }
    }

    fn id(&self) -> String {
        self.dice.between(0, self.plan.ids - 1).to_string()
    }

    fn document(&self, number: u64) -> Document {
        let id = self.id();
        let id = match self.dice.between(0, 3) {
            0 => json!(id),
            _ => json!(id.parse::<u64>().unwrap_or(0)),
        };
        let mut document = Document::new();
        document.insert("id".into(), id);
        document.insert("v".into(), json!(number));
        if self.dice.chance(700) {
            document.insert("tag".into(), json!(format!("t{}", self.dice.between(0, 3))));
        }
        if self.dice.chance(500) {
            document.insert("n".into(), json!(self.dice.between(0, 3)));
        }
        if self.dice.chance(200) {
            document.insert(format!("only{number}"), json!([number, "x"]));
        }
        document
    }

    fn documents(&self, number: u64, partial: bool) -> Request {
        let count = self.dice.between(1, DOCUMENTS_MAX);
        let mut documents: Vec<Document> = (0..count).map(|_| self.document(number)).collect();
        let primary_key = match self.dice.between(0, 99) {
            0 => Some("sku".to_owned()),
            1..=10 => Some("id".to_owned()),
            _ => None,
        };
        if self.dice.chance(30)
            && let Some(last) = documents.last_mut()
        {
            match self.dice.between(0, 1) {
                0 => last.remove("id"),
                _ => last.insert("id".into(), json!("not an id")),
            };
        }
        Request::Documents { partial, primary_key, documents }
    }

    /// Documents under ids of their own, one of which every node refuses.
    fn poison(&self, number: u64) -> Request {
        let count = self.dice.between(1, DOCUMENTS_MAX);
        let mut documents: Vec<Document> = (0..count)
            .map(|n| {
                let mut document = self.document(number);
                document.insert("id".into(), json!(format!("p{number}-{n}")));
                document
            })
            .collect();
        if let Some(last) = documents.last_mut() {
            last.insert(POISON_FIELD.into(), json!(true));
        }
        Request::Documents { partial: false, primary_key: None, documents }
    }

    fn terms(&self) -> Vec<Term> {
        let tag = || json!(format!("t{}", self.dice.between(0, 3)));
        let number = || json!(self.dice.between(0, 3));
        match self.dice.between(0, 3) {
            0 => vec![Term { attribute: "tag".into(), values: vec![tag()] }],
            1 => vec![Term { attribute: "n".into(), values: vec![number(), number()] }],
            2 => vec![
                Term { attribute: "tag".into(), values: vec![tag(), tag()] },
                Term { attribute: "n".into(), values: vec![number()] },
            ],
            _ => vec![Term { attribute: "v".into(), values: vec![number()] }],
        }
    }

    fn settings(&self) -> Value {
        let all = [json!(["tag"]), json!(["tag", "n"]), json!(["tag", "n", "v"]), Value::Null];
        match self.dice.between(0, 9) {
            0..=4 => {
                let filterable = self.dice.pick(&all).cloned().unwrap_or_default();
                json!({ "filterableAttributes": filterable })
            }
            5 => json!({ "sortableAttributes": ["n"], "stopWords": ["the", "a"] }),
            6 => json!({
                "distinctAttribute": "tag", "displayedAttributes": ["id", "tag"],
                "rankingRules": ["words", "attribute", "n:asc"],
            }),
            7 => json!({
                "distinctAttribute": null, "sortableAttributes": null, "rankingRules": null,
            }),
            8 => {
                let is_fickle = self.fickle.chance(500);
                let distinct = if is_fickle { FICKLE_DISTINCT } else { REFUSED_DISTINCT };
                json!({ "distinctAttribute": distinct, "filterableAttributes": ["n"] })
            }
            _ => json!({
                "synonyms": { "x": ["y"] },
                "pagination": { "maxTotalHits": 10 + self.dice.between(0, 90) },
                "typoTolerance": { "disableOnWords": ["w"] },
            }),
        }
    }
}
