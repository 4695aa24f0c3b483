//! What clients ask for: one write each, and the way it enters the pod.

use bytes::Bytes;
use http::Method;
use miroir_actors::accept::{RequestedWork, WriteMarks, WriteRequest};
use miroir_actors::payload::encode_documents;
use miroir_membership::placement::shard_of;
use miroir_storage::commands::{NameChange, Work};
use miroir_storage::ids::TaskUid;
use miroir_wire::content::{PayloadKind, read_documents};
use miroir_wire::error::ApiError;
use serde_json::{Map, Value};

use crate::entrance::Asked;
use crate::model_node::id_text;

/// A JSON object.
pub type Document = Map<String, Value>;

/// One condition: the attribute has one of the values.
#[derive(Clone, Debug, PartialEq)]
pub struct Term {
    /// The attribute.
    pub attribute: String,
    /// The values.
    pub values: Vec<Value>,
}

impl Term {
    /// The filter expression.
    pub fn expression(&self) -> String {
        let values: Vec<String> = self.values.iter().map(Value::to_string).collect();
        match values.as_slice() {
            [only] => format!("{} = {only}", self.attribute),
            _ => format!("{} IN [{}]", self.attribute, values.join(", ")),
        }
    }

    /// Whether a document meets it.
    pub fn holds(&self, document: &Document) -> bool {
        document.get(&self.attribute).is_some_and(|value| self.values.contains(value))
    }
}

/// What a write asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// Adds, replaces or partly updates documents.
    Documents {
        /// Partial update.
        partial: bool,
        /// The request's `primaryKey`.
        primary_key: Option<String>,
        /// The documents.
        documents: Vec<Document>,
    },
    /// Deletes by id.
    DeleteIds(Vec<String>),
    /// Deletes what meets all conditions.
    DeleteMatching(Vec<Term>),
    /// Edits what meets all conditions, everything where there are none.
    Edit {
        /// The conditions.
        terms: Vec<Term>,
        /// The function.
        function: EditFunction,
    },
    /// Deletes everything.
    Clear,
    /// Changes settings.
    Settings(Value),
    /// Creates the index.
    Create {
        /// Its primary key.
        primary_key: Option<String>,
    },
    /// Changes the primary key.
    Update {
        /// The new one.
        primary_key: Option<String>,
    },
    /// Deletes the index.
    DeleteIndex,
    /// Swaps the operation's name with this one.
    Swap(String),
    /// Gives the operation's index this name.
    Rename {
        /// The new name.
        to: String,
        /// Asked as a swap with `rename`.
        by_swap: bool,
    },
    /// Cancels tasks that may still be waiting.
    Cancel(Vec<TaskUid>),
}

/// A function over documents, as the pods run it and as the model of what is expected does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EditFunction {
    /// Counts `n` up, or gives the document one.
    Count,
    /// Deletes documents with an even `v`, and gives the others a tag from the context.
    Sift,
    /// Makes documents of their ids only.
    Strip,
    /// Fails on documents whose `n` is 2, and counts up that of the others.
    Fail,
}

impl EditFunction {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Count, Self::Sift, Self::Strip, Self::Fail];

    /// Its text.
    pub fn text(self) -> &'static str {
        match self {
            Self::Count => "if \"n\" in doc { doc.n += 1 } else { doc.n = 1 }",
            Self::Sift => "if doc.v % 2 == 0 { doc = () } else { doc.tag = context.tag }",
            Self::Strip => "doc = #{ id: doc.id, v: doc.v }",
            Self::Fail => "if \"n\" in doc { if doc.n == 2 { throw \"two\" } doc.n += 1 }",
        }
    }

    /// Its context.
    pub fn context(self) -> Option<Value> {
        (self == Self::Sift).then(|| serde_json::json!({ "tag": "t1" }))
    }

    /// What it makes of a document.
    ///
    /// # Errors
    /// When it fails.
    pub fn run(self, mut document: Document) -> Result<Option<Document>, &'static str> {
        let number = |name: &str| document.get(name).and_then(Value::as_u64);
        let (n, v) = (number("n"), number("v"));
        match self {
            Self::Count => {
                document.insert("n".into(), n.map_or(1, |n| n + 1).into());
            }
            Self::Sift if v.is_some_and(|v| v % 2 == 0) => return Ok(None),
            Self::Sift => {
                document.insert("tag".into(), "t1".into());
            }
            Self::Strip => document.retain(|name, _| name == "id" || name == "v"),
            Self::Fail => match n {
                Some(2) => return Err("edit_documents_by_function_error"),
                Some(n) => {
                    document.insert("n".into(), (n + 1).into());
                }
                None => {}
            },
        }
        Ok(Some(document))
    }
}

/// One write of one client.
#[derive(Clone, Debug, PartialEq)]
pub struct Operation {
    /// Unique in the run; travels as `customMetadata`.
    pub number: u64,
    /// The index as the client names it.
    pub name: String,
    /// What is asked.
    pub request: Request,
}

/// The filter that holds when all terms do, as JSON.
fn filter_of(terms: &[Term]) -> String {
    let all: Vec<Value> = terms.iter().map(|term| Value::String(term.expression())).collect();
    match all.as_slice() {
        [only] => only.to_string(),
        _ => Value::Array(all).to_string(),
    }
}

/// The `customMetadata` of an operation.
pub fn label(number: u64) -> String {
    format!("op-{number}")
}

/// The operation of a `customMetadata`.
pub fn number_of(label: &str) -> Option<u64> {
    label.strip_prefix("op-")?.parse().ok()
}

impl Operation {
    /// Whether no index of its name is written to.
    pub fn is_of_no_index(&self) -> bool {
        match &self.request {
            Request::Swap(_) | Request::Cancel(_) => true,
            Request::Rename { by_swap, .. } => *by_swap,
            _ => false,
        }
    }

    /// The request as a client sends it, for what carries `customMetadata`.
    pub fn asked(&self, marks: &WriteMarks) -> Option<Asked> {
        let documents = format!("/indexes/{}/documents", self.name);
        let metadata = format!("customMetadata={}", label(self.number));
        let (method, path, body) = match &self.request {
            Request::Documents { partial, primary_key, documents: all } => {
                let method = if *partial { Method::PUT } else { Method::POST };
                let key =
                    primary_key.as_ref().map_or(String::new(), |key| format!("primaryKey={key}&"));
                let body = serde_json::to_vec(all).unwrap_or_default();
                (method, format!("{documents}?{key}{metadata}"), body)
            }
            Request::DeleteIds(ids) => {
                let body = serde_json::to_vec(ids).unwrap_or_default();
                (Method::POST, format!("{documents}/delete-batch?{metadata}"), body)
            }
            Request::DeleteMatching(terms) => {
                let body = format!("{{\"filter\":{}}}", filter_of(terms));
                (Method::POST, format!("{documents}/delete?{metadata}"), body.into_bytes())
            }
            Request::Clear => (Method::DELETE, format!("{documents}?{metadata}"), Vec::new()),
            _ => return None,
        };
        let key = marks.key.iter().map(|key| ("idempotency-key", key.key.clone()));
        let session = marks.session.iter().map(|session| ("x-miroir-session", session.clone()));
        Some(Asked { method, path, body: body.into(), headers: key.chain(session).collect() })
    }

    /// The request as the gateway hands it to the write path.
    ///
    /// # Errors
    /// When the gateway would refuse the documents: a mistake of the workload.
    pub fn to_write(&self) -> Result<WriteRequest, ApiError> {
        let work = match &self.request {
            Request::Documents { partial, primary_key, documents } => {
                let body = Bytes::from(serde_json::to_vec(documents).unwrap_or_default());
                let batch = read_documents(PayloadKind::Json, &body)?;
                RequestedWork::Documents {
                    partial: *partial,
                    primary_key: primary_key.clone(),
                    count: batch.len() as u64,
                    payload: encode_documents(&batch),
                }
            }
            Request::DeleteIds(ids) => RequestedWork::DeleteIds {
                payload: Bytes::from(serde_json::to_vec(ids).unwrap_or_default()).into(),
                count: ids.len() as u64,
                single: false,
            },
            Request::DeleteMatching(terms) => {
                RequestedWork::Plain(Work::DeleteByFilter { filter: filter_of(terms) })
            }
            Request::Edit { terms, function } => RequestedWork::Plain(Work::EditDocuments {
                function: function.text().to_owned(),
                context: function.context().map(|context| context.to_string()),
                filter: (!terms.is_empty()).then(|| filter_of(terms)),
                edited: None,
            }),
            Request::Clear => RequestedWork::Plain(Work::Clear),
            Request::Settings(patch) => RequestedWork::Plain(Work::Settings {
                patch: patch.to_string(),
                is_deletion: false,
            }),
            Request::Create { primary_key } => {
                RequestedWork::Plain(Work::CreateIndex { primary_key: primary_key.clone() })
            }
            Request::Update { primary_key } => {
                RequestedWork::Plain(Work::UpdateIndex { primary_key: primary_key.clone() })
            }
            Request::DeleteIndex => RequestedWork::Plain(Work::DeleteIndex),
            Request::Swap(other) => RequestedWork::Plain(Work::SwapIndexes {
                pairs: vec![(self.name.clone(), other.clone())],
            }),
            Request::Rename { to, by_swap: false } => RequestedWork::Plain(Work::RenameIndex {
                from: self.name.clone(),
                to: to.clone(),
                primary_key: None,
                took: false,
            }),
            Request::Rename { to, by_swap: true } => {
                let change = NameChange { a: self.name.clone(), b: to.clone(), renames: true };
                RequestedWork::Plain(Work::ChangeNames { changes: vec![change], took: false })
            }
            Request::Cancel(uids) => RequestedWork::Plain(Work::CancelTasks {
                original_filter: "?statuses=enqueued".to_owned(),
                uids: uids.clone(),
            }),
        };
        let of_no_index = self.is_of_no_index();
        let creates_index = matches!(
            self.request,
            Request::Documents { .. } | Request::Settings(_) | Request::Create { .. }
        );
        Ok(WriteRequest {
            index: (!of_no_index).then(|| self.name.clone()),
            work,
            creates_index,
            custom_metadata: Some(label(self.number)),
        })
    }

    /// One line for the trace; each document with its shard of so many.
    pub fn describe(&self, shards: u32) -> String {
        let placed = |id: &str| format!("{id}@s{}", shard_of(id, shards));
        let what = match &self.request {
            Request::Documents { partial, primary_key, documents } => {
                let ids: Vec<String> = documents
                    .iter()
                    .map(|d| d.get("id").map_or("?".to_owned(), |id| placed(&id_text(id))))
                    .collect();
                let verb = if *partial { "update" } else { "add" };
                let key = primary_key.as_ref().map_or(String::new(), |key| format!(" key {key}"));
                format!("{verb} {}{key}", ids.join(" "))
            }
            Request::DeleteIds(ids) => {
                let ids: Vec<String> = ids.iter().map(|id| placed(id)).collect();
                format!("delete {}", ids.join(" "))
            }
            Request::DeleteMatching(terms) => {
                let all: Vec<String> = terms.iter().map(Term::expression).collect();
                format!("delete where {} @all", all.join(" AND "))
            }
            Request::Edit { terms, function } => {
                let all: Vec<String> = terms.iter().map(Term::expression).collect();
                format!("edit by {function:?} where {} @all", all.join(" AND "))
            }
            Request::Clear => "clear @all".to_owned(),
            Request::Settings(patch) => format!("settings {patch}"),
            Request::Create { primary_key } => format!("create {primary_key:?}"),
            Request::Update { primary_key } => format!("change key {primary_key:?}"),
            Request::DeleteIndex => "delete index @all".to_owned(),
            Request::Swap(other) => format!("swap with {other} @all"),
            Request::Rename { to, .. } => format!("rename to {to} @all"),
            Request::Cancel(uids) => {
                let uids: Vec<String> = uids.iter().map(ToString::to_string).collect();
                format!("cancel {}", uids.join(" "))
            }
        };
        format!("op-{} {} {what}", self.number, self.name)
    }
}
