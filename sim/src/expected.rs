//! An independent model of what clients may expect: names, indexes, documents, and how each
//! task ends, from the operations alone, taken in `taskUid` order.

use std::collections::{BTreeMap, BTreeSet};

use miroir_storage::commands::Ending;
use miroir_wire::document::is_id;
use miroir_wire::settings::{Setting, Settings};
use serde_json::Value;

use crate::model_node::{FICKLE_DISTINCT, POISON_FIELD, REFUSED_DISTINCT, id_text};
use crate::operation::{Document, EditFunction, Operation, Request, Term};

/// Codes of failures that are a node's own.
const NODES_OWN_CODES: [&str; 1] = ["no_space_left_on_device"];

/// One index as clients may expect it.
#[derive(Clone, Debug, Default)]
pub struct ExpectedIndex {
    /// Its primary key.
    pub primary_key: Option<String>,
    /// The client's settings.
    pub settings: Settings,
    /// Documents by id.
    pub documents: BTreeMap<String, Document>,
    /// Ids of which a failed task may have left something or nothing: a refusal by nodes is not
    /// atomic (spec 01).
    pub uncertain: BTreeSet<String>,
}

/// Everything clients may expect, by name.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    /// The indexes.
    pub indexes: BTreeMap<String, ExpectedIndex>,
}

/// How a task must end.
type Prediction = Result<(), &'static str>;

impl Expected {
    /// Takes one ended task into account.
    ///
    /// # Errors
    /// How it should have ended.
    pub fn apply(
        &mut self,
        operation: &Operation,
        ending: Ending,
        code: Option<&str>,
    ) -> Result<(), String> {
        let creates = matches!(
            operation.request,
            Request::Documents { .. } | Request::Settings(_) | Request::Create { .. }
        );
        if ending == Ending::Canceled {
            return Ok(());
        }
        let existed = self.indexes.contains_key(&operation.name);
        if ending == Ending::Failed && code.is_some_and(|code| NODES_OWN_CODES.contains(&code)) {
            self.note_uncertain(operation);
            return Ok(());
        }
        let is_of_names = matches!(
            operation.request,
            Request::Swap(_) | Request::Rename { .. } | Request::Cancel(_)
        );
        if creates && !existed {
            self.indexes.insert(operation.name.clone(), ExpectedIndex::default());
        }
        let prediction = if is_of_names {
            self.apply_to_names(operation)
        } else if ending == Ending::Failed && self.is_fickle(operation) {
            Err("invalid_settings_distinct_attribute")
        } else if ending == Ending::Failed && self.may_fail_unforeseen(operation) {
            Err("edit_documents_by_function_error")
        } else {
            self.apply_to_index(operation, existed)
        };
        match (prediction, ending, code) {
            (Ok(()), Ending::Succeeded, _) => Ok(()),
            (Err(wanted), Ending::Failed, Some(found)) if wanted == found => Ok(()),
            (prediction, ..) => {
                Err(format!("ended as {ending:?} {code:?}, expected {prediction:?}"))
            }
        }
    }

    /// Whether some node may have refused it: settings are sent whole, also to one that had lost them.
    fn is_fickle(&self, operation: &Operation) -> bool {
        let Request::Settings(patch) = &operation.request else { return false };
        let had = self.indexes.get(&operation.name).map(|index| &index.settings.distinct_attribute);
        match (patch.get("distinctAttribute"), had) {
            (Some(wanted), _) => wanted.as_str() == Some(FICKLE_DISTINCT),
            (None, Some(Setting::Set(had))) => had == FICKLE_DISTINCT,
            (None, _) => false,
        }
    }

    /// Whether a function may have failed on what nobody knows to be there.
    fn may_fail_unforeseen(&self, operation: &Operation) -> bool {
        match (&operation.request, self.indexes.get(&operation.name)) {
            (Request::Edit { terms, .. }, Some(index)) => {
                !index.uncertain.is_empty() && index.check_terms(terms).is_ok()
            }
            _ => false,
        }
    }

    /// Every replica failed for reasons of its own (disk full): as in Meilisearch the task fails;
    /// over several nodes that is not atomic.
    fn note_uncertain(&mut self, operation: &Operation) {
        let creates = matches!(operation.request, Request::Documents { .. } | Request::Settings(_));
        if creates {
            self.indexes.entry(operation.name.clone()).or_default();
        }
        let Some(index) = self.indexes.get_mut(&operation.name) else { return };
        match &operation.request {
            Request::Documents { documents, .. } => {
                let ids = documents.iter().flat_map(|document| document.values().map(id_text));
                index.uncertain.extend(ids);
            }
            Request::DeleteIds(ids) => index.uncertain.extend(ids.iter().cloned()),
            Request::DeleteMatching(_) | Request::Edit { .. } | Request::Clear => {
                index.uncertain.extend(index.documents.keys().cloned());
            }
            _ => {}
        }
    }

    fn apply_to_names(&mut self, operation: &Operation) -> Prediction {
        let (other, renames) = match &operation.request {
            Request::Swap(other) => (other, false),
            Request::Rename { to, .. } => (to, true),
            _ => return Ok(()),
        };
        let is_there = |name: &String| self.indexes.contains_key(name);
        if !is_there(&operation.name) || (!renames && !is_there(other)) {
            return Err("index_not_found");
        }
        if renames && is_there(other) {
            return Err("index_already_exists");
        }
        let (a, b) = (self.indexes.remove(&operation.name), self.indexes.remove(other));
        self.indexes.extend(b.map(|index| (operation.name.clone(), index)));
        self.indexes.extend(a.map(|index| (other.clone(), index)));
        Ok(())
    }

    fn apply_to_index(&mut self, operation: &Operation, existed: bool) -> Prediction {
        let Some(index) = self.indexes.get_mut(&operation.name) else {
            return Err("index_not_found");
        };
        match &operation.request {
            Request::Documents { partial, primary_key, documents } => {
                index.add(*partial, primary_key.as_deref(), documents)
            }
            Request::DeleteIds(ids) => {
                for id in ids {
                    index.documents.remove(id);
                }
                Ok(())
            }
            Request::DeleteMatching(terms) => index.delete_matching(terms),
            Request::Edit { terms, function } => index.edit(terms, *function),
            Request::Clear => {
                index.documents.clear();
                Ok(())
            }
            Request::Settings(patch) => index.change_settings(patch),
            Request::Create { primary_key } => {
                if existed {
                    return Err("index_already_exists");
                }
                index.primary_key.clone_from(primary_key);
                Ok(())
            }
            Request::Update { primary_key } => {
                let changes = primary_key.is_some() && *primary_key != index.primary_key;
                if changes && index.primary_key.is_some() && !index.documents.is_empty() {
                    return Err("index_primary_key_already_exists");
                }
                if changes {
                    index.primary_key.clone_from(primary_key);
                }
                Ok(())
            }
            Request::DeleteIndex => {
                self.indexes.remove(&operation.name);
                Ok(())
            }
            Request::Swap(_) | Request::Rename { .. } | Request::Cancel(_) => Ok(()),
        }
    }
}

impl ExpectedIndex {
    fn add(&mut self, partial: bool, wanted: Option<&str>, documents: &[Document]) -> Prediction {
        let key = match (self.primary_key.as_deref(), wanted) {
            (Some(present), Some(wanted)) if present != wanted => {
                return Err("index_primary_key_already_exists");
            }
            (Some(key), _) | (None, Some(key)) => key.to_owned(),
            (None, None) => infer_key(documents.first())?,
        };
        let mut changed = self.documents.clone();
        for document in documents {
            let id = document.get(&key).ok_or("missing_document_id")?;
            let id = match id {
                Value::String(text) if is_id(text) => text.clone(),
                Value::Number(number) if number.is_i64() || number.is_u64() => number.to_string(),
                _ => return Err("invalid_document_id"),
            };
            let entry = changed.entry(id).or_default();
            if !partial {
                entry.clear();
            }
            entry.extend(document.clone());
        }
        self.primary_key = Some(key.clone());
        if documents.iter().any(|document| document.contains_key(POISON_FIELD)) {
            let ids = documents.iter().filter_map(|document| document.get(&key)).map(id_text);
            self.uncertain.extend(ids);
            return Err("invalid_document_geo_field");
        }
        self.documents = changed;
        Ok(())
    }

    fn delete_matching(&mut self, terms: &[Term]) -> Prediction {
        self.check_terms(terms)?;
        self.documents.retain(|_, document| !terms.iter().all(|term| term.holds(document)));
        Ok(())
    }

    /// All of the documents or, where it fails on one, none. What is uncertain may be edited or not.
    fn edit(&mut self, terms: &[Term], function: EditFunction) -> Prediction {
        self.check_terms(terms)?;
        let mut edited = BTreeMap::new();
        for (id, document) in &self.documents {
            if !terms.iter().all(|term| term.holds(document)) {
                edited.insert(id.clone(), document.clone());
                continue;
            }
            match function.run(document.clone()) {
                Ok(after) => edited.extend(after.map(|after| (id.clone(), after))),
                // The real document is another.
                Err(_) if self.uncertain.contains(id) => {}
                Err(code) => return Err(code),
            }
        }
        self.documents = edited;
        Ok(())
    }

    fn check_terms(&self, terms: &[Term]) -> Prediction {
        let effective = self.settings.effective();
        let filterable = effective.get("filterableAttributes").and_then(Value::as_array);
        let known = |attribute: &str| {
            filterable.is_some_and(|all| all.iter().any(|name| name == attribute))
        };
        if terms.iter().any(|term| !known(&term.attribute)) {
            return Err("invalid_document_filter");
        }
        Ok(())
    }

    fn change_settings(&mut self, patch: &Value) -> Prediction {
        if patch.get("distinctAttribute").and_then(Value::as_str) == Some(REFUSED_DISTINCT) {
            return Err("invalid_settings_distinct_attribute");
        }
        let patch = Settings::from_json(patch.to_string().as_bytes())
            .map_err(|_| "the workload made settings that no gateway accepts")?;
        self.settings.merge(&patch);
        Ok(())
    }
}

fn infer_key(first: Option<&Document>) -> Result<String, &'static str> {
    let keys: Vec<&String> = first
        .map(|first| first.keys().filter(|key| key.to_lowercase().ends_with("id")).collect())
        .unwrap_or_default();
    match keys.as_slice() {
        [only] => Ok((*only).clone()),
        [] => Err("index_primary_key_no_candidate_found"),
        _ => Err("index_primary_key_multiple_candidates_found"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn operation(name: &str, request: Request) -> Operation {
        Operation { number: 0, name: name.to_owned(), request }
    }

    fn add(id: u64, partial: bool, field: &str) -> Request {
        let document = json!({ "id": id, field: 1 });
        let documents = vec![document.as_object().cloned().unwrap_or_default()];
        Request::Documents { partial, primary_key: None, documents }
    }

    #[test]
    fn partial_updates_merge_and_swaps_move_documents() {
        let mut expected = Expected::default();
        let mut succeeds = |name: &str, request: Request| {
            expected.apply(&operation(name, request), Ending::Succeeded, None)
        };
        assert_eq!(succeeds("a", add(1, false, "x")), Ok(()));
        assert_eq!(succeeds("a", add(1, true, "y")), Ok(()));
        assert_eq!(succeeds("b", Request::Create { primary_key: None }), Ok(()));
        assert_eq!(succeeds("a", Request::Swap("b".into())), Ok(()));
        let rename = |to: &str| Request::Rename { to: to.into(), by_swap: false };
        assert!(succeeds("b", rename("a")).is_err());
        assert!(succeeds("c", rename("d")).is_err());
        assert_eq!(succeeds("b", rename("e")), Ok(()));
        assert!(succeeds("c", Request::Clear).is_err());
        let document = expected.indexes.get("e").and_then(|index| index.documents.get("1"));
        assert_eq!(document.map(Document::len), Some(3));
    }
}
