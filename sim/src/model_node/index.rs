//! One index of a model node: documents, settings, and what tasks do to them.

use std::collections::{BTreeMap, BTreeSet};

use miroir_wire::engine_version::EngineVersion;
use miroir_wire::settings::Settings;
use serde_json::{Map, Value, json};

use super::Refusal;
use super::filter::Filter;

/// A document that any node refuses while it indexes, after the pod has accepted it: stands for
/// the refusals that depend on the data and that the pod can't foresee.
pub const POISON_FIELD: &str = "_poison";

/// The value of `distinctAttribute` that nodes refuse when the settings task runs.
pub const REFUSED_DISTINCT: &str = "refused";
/// A distinct attribute that a model node takes or refuses by the moment, as real ones do with an
/// embedder whose service they can't reach.
pub const FICKLE_DISTINCT: &str = "fickle";
/// Of so many moments, one is bad.
const FICKLE_EVERY: u64 = 4;

/// One index.
#[derive(Clone, Debug)]
pub(super) struct Index {
    pub(super) primary_key: Option<String>,
    /// RFC 3339; tells two lives of one uid apart.
    pub(super) created_at: String,
    pub(super) settings: Settings,
    pub(super) documents: BTreeMap<String, Map<String, Value>>,
    /// What was once taken is not refused later.
    took_fickle: bool,
}

impl Index {
    pub(super) fn new(created_at: String, primary_key: Option<String>) -> Self {
        Self {
            primary_key,
            created_at,
            settings: Settings::default(),
            documents: BTreeMap::new(),
            took_fickle: false,
        }
    }

    /// All or nothing, as one indexing run is. Tells how many documents it made or changed.
    pub(super) fn add(
        &mut self,
        documents: &[Map<String, Value>],
        partial: bool,
        wanted_key: Option<&str>,
    ) -> Result<usize, Refusal> {
        let key = match (&self.primary_key, wanted_key) {
            (Some(present), Some(wanted)) if present != wanted => {
                return Err(Refusal::invalid(
                    "index_primary_key_already_exists",
                    format!("Index already has a primary key: `{present}`."),
                ));
            }
            (Some(present), _) => present.clone(),
            (None, Some(wanted)) => wanted.to_owned(),
            (None, None) => infer_key(documents)?,
        };
        let mut changed = self.documents.clone();
        let mut ids = BTreeSet::new();
        for document in documents {
            let id = document.get(&key).map(id_text).ok_or_else(|| {
                let message = format!("Document doesn't have a `{key}` attribute.");
                Refusal::invalid("missing_document_id", message)
            })?;
            if !is_id(&id) {
                let message = format!("Document identifier `{id}` is invalid.");
                return Err(Refusal::invalid("invalid_document_id", message));
            }
            if document.contains_key(POISON_FIELD) {
                let message = format!("The document with the id: `{id}` is poisoned.");
                return Err(Refusal::invalid("invalid_document_geo_field", message));
            }
            ids.insert(id.clone());
            match changed.get_mut(&id) {
                Some(present) if partial => {
                    for (field, value) in document {
                        present.insert(field.clone(), value.clone());
                    }
                }
                _ => {
                    changed.insert(id, document.clone());
                }
            }
        }
        self.documents = changed;
        if !documents.is_empty() {
            self.primary_key = Some(key);
        }
        Ok(ids.len())
    }

    pub(super) fn delete_ids(&mut self, ids: &[String]) -> u64 {
        ids.iter().filter(|id| self.documents.remove(*id).is_some()).count() as u64
    }

    pub(super) fn delete_matching(&mut self, filter: &Filter) -> Result<u64, Refusal> {
        self.check_filterable(filter, "invalid_document_filter")?;
        let before = self.documents.len();
        self.documents.retain(|_, document| !filter.matches(document));
        Ok((before - self.documents.len()) as u64)
    }

    pub(super) fn clear(&mut self) -> u64 {
        std::mem::take(&mut self.documents).len() as u64
    }

    pub(super) fn change_settings(&mut self, patch: &Settings, now: &str) -> Result<(), Refusal> {
        let mut merged = self.settings.clone();
        merged.merge(patch);
        let distinct_of = |all: &Settings| all.effective().get("distinctAttribute").cloned();
        let (had, distinct) = (distinct_of(&self.settings), distinct_of(&merged));
        let distinct = distinct.as_ref().filter(|_| had != distinct).and_then(Value::as_str);
        let moment =
            now.bytes().fold(0, |sum: u64, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        let is_bad = moment.is_multiple_of(FICKLE_EVERY) && !self.took_fickle;
        let is_fickle = distinct == Some(FICKLE_DISTINCT);
        if distinct == Some(REFUSED_DISTINCT) || (is_bad && is_fickle) {
            let message = "This model refuses the attribute.".to_owned();
            return Err(Refusal::invalid("invalid_settings_distinct_attribute", message));
        }
        self.settings = merged;
        self.took_fickle |= is_fickle;
        Ok(())
    }

    /// As `GET settings` prints them on a node of this version.
    pub(super) fn shown_settings(&self, version: &str) -> Value {
        let defaults = EngineVersion::parse(version).new_index_settings();
        let mut shown = self.settings.clone();
        if !shown.ranking_rules.is_set() {
            shown.ranking_rules = defaults.ranking_rules.clone();
        }
        let mut shown = shown.effective();
        if defaults != Settings::default()
            && let Value::Object(all) = &mut shown
        {
            all.insert("foreignKeys".into(), json!([]));
            all.insert("chat".into(), json!({ "description": "" }));
        }
        shown
    }

    pub(super) fn check_filterable(
        &self,
        filter: &Filter,
        code: &'static str,
    ) -> Result<(), Refusal> {
        let mut asked = BTreeSet::new();
        filter.attributes(&mut asked);
        let known = filterable(&self.settings);
        match asked.into_iter().find(|attribute| !known.contains(attribute)) {
            None => Ok(()),
            Some(attribute) => {
                Err(Refusal::invalid(code, format!("Attribute `{attribute}` is not filterable.")))
            }
        }
    }
}

fn infer_key(documents: &[Map<String, Value>]) -> Result<String, Refusal> {
    let keys: Vec<&String> = documents
        .first()
        .map(|first| first.keys().filter(|key| key.to_lowercase().ends_with("id")).collect())
        .unwrap_or_default();
    match keys.as_slice() {
        [only] => Ok((*only).clone()),
        _ => Err(Refusal::invalid(
            "index_primary_key_no_candidate_found",
            "The primary key inference failed.".to_owned(),
        )),
    }
}

/// The text form of an id: `1` and `"1"` are one document.
pub(crate) fn id_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Whether a document may have this id.
fn is_id(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=511).contains(&text.len()) && text.bytes().all(is_allowed)
}

/// Attributes that filters may name.
fn filterable(settings: &Settings) -> BTreeSet<String> {
    let effective = settings.effective();
    let rules = effective.get("filterableAttributes").and_then(Value::as_array);
    let mut known = BTreeSet::new();
    for rule in rules.into_iter().flatten() {
        match rule {
            Value::String(name) => {
                known.insert(name.clone());
            }
            pattern => {
                let names = pattern.get("attributePatterns").and_then(Value::as_array);
                known.extend(
                    names.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned),
                );
            }
        }
    }
    known
}
