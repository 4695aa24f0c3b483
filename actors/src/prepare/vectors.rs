//! `_vectors` against the settings in force: shape, dimensions, presence.
//!
//! A node refuses a task for one bad `_vectors`; here each node sees only a part of the documents,
//! so they are checked before any is sent, with Meilisearch's own words. What counts is each
//! document as the task leaves it: of several versions of one id the last one, and in a partial
//! update the last `_vectors` among them.
//!
//! Not decided here: dimensions that only a model knows (an embedder without `dimensions` in its
//! settings), and whether a document without vectors is new. A node refuses the new ones for a
//! `userProvided` embedder and keeps the vectors of the others: [`Lacking`] names the documents
//! that must be looked up.

use std::collections::BTreeMap;
use std::fmt;

use deserr::ValuePointerRef;
use indexmap::IndexMap;
use miroir_wire::error::{ApiError, Code};
use miroir_wire::settings::{EmbedderSource, Setting, Settings};
use serde::de::{Deserializer as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::embeddings::lengths_of;

/// What the settings say of vectors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VectorRules {
    embedders: BTreeMap<String, EmbedderRule>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct EmbedderRule {
    /// `None` when only the model knows.
    dimensions: Option<usize>,
    /// Vectors come from the client alone.
    user_provided: bool,
}

/// Documents without vectors for an embedder that can't make them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lacking {
    /// The embedder.
    pub embedder: String,
    /// Their ids, in order, each once.
    pub ids: Vec<String>,
}

impl VectorRules {
    /// The rules of these settings.
    pub fn of(settings: &Settings) -> Self {
        let Setting::Set(embedders) = &settings.embedders else { return Self::default() };
        let embedders = embedders.iter().filter_map(|(name, embedder)| match embedder {
            Setting::Set(embedder) => {
                let rule = EmbedderRule {
                    dimensions: embedder.dimensions.set(),
                    user_provided: embedder.source.set() == Some(EmbedderSource::UserProvided),
                };
                Some((name.clone(), rule))
            }
            Setting::Reset | Setting::NotSet => None,
        });
        Self { embedders: embedders.collect() }
    }

    fn needs_vectors(&self) -> bool {
        self.embedders.values().any(|rule| rule.user_provided)
    }
}

/// The `_vectors` of a task's documents, by id, as the task leaves them.
#[derive(Debug)]
pub(super) struct GatheredVectors<'a> {
    rules: &'a VectorRules,
    partial: bool,
    /// Only documents about which something may have to be said.
    by_id: IndexMap<String, Option<&'a RawValue>>,
}

impl<'a> GatheredVectors<'a> {
    pub(super) fn new(rules: &'a VectorRules, partial: bool) -> Self {
        Self { rules, partial, by_id: IndexMap::new() }
    }

    /// Adds the next version of a document.
    pub(super) fn add(&mut self, id: String, vectors: Option<&'a RawValue>) {
        match vectors {
            Some(_) => {
                self.by_id.insert(id, vectors);
            }
            None if self.rules.needs_vectors() => {
                let known = self.by_id.entry(id).or_insert(None);
                if !self.partial {
                    *known = None;
                }
            }
            None if self.partial || self.by_id.is_empty() => {}
            None => {
                self.by_id.shift_remove(&id);
            }
        }
    }

    /// Checks them all.
    ///
    /// # Errors
    /// `invalid_vectors_type`, `invalid_vector_dimensions`, `internal` for a `_vectors` that is no
    /// object (Meilisearch's own answer); none of them says yet which index is meant.
    pub(super) fn check(self) -> Result<Vec<Lacking>, ApiError> {
        let needing = self.rules.embedders.iter().filter(|(_, rule)| rule.user_provided);
        let mut lacking: Vec<Lacking> =
            needing.map(|(name, _)| Lacking { embedder: name.clone(), ids: Vec::new() }).collect();
        // Nodes look at the shape of all documents before they read a single vector.
        let mut refused = None;
        for (id, raw) in self.by_id {
            let given = raw.map_or(Ok(IndexMap::new()), |raw| given_in(&id, raw))?;
            for (name, rule) in &self.rules.embedders {
                let Some(given) = given.get(name.as_str()) else { continue };
                if refused.is_none() {
                    refused = check_embeddings(&id, name, rule, given).err();
                }
            }
            for lacking in &mut lacking {
                if given.get(lacking.embedder.as_str()).is_none_or(Given::is_to_be_made) {
                    lacking.ids.push(id.clone());
                }
            }
        }
        lacking.retain(|lacking| !lacking.ids.is_empty());
        refused.map_or(Ok(lacking), Err)
    }
}

/// What a document gives for one embedder.
#[derive(Clone, Copy, Debug)]
enum Given<'a> {
    /// `null`: no vectors, on purpose.
    OptOut,
    /// An array.
    Implicit(&'a RawValue),
    /// An object with `regenerate`, perhaps with `embeddings`.
    Explicit { regenerate: bool, embeddings: Option<&'a RawValue> },
}

impl Given<'_> {
    /// Whether the embedder has to make the vectors.
    fn is_to_be_made(&self) -> bool {
        matches!(self, Self::Explicit { regenerate: true, embeddings: None })
    }
}

fn embedder_conf(id: &str, error: impl fmt::Display) -> ApiError {
    let message = format!("Bad embedder configuration in the document with id: `{id}`. {error}");
    ApiError::new(Code::InvalidVectorsType, message)
}

/// Reads one document's `_vectors`. Every embedder's shape is checked, known or not.
fn given_in<'a>(id: &str, raw: &'a RawValue) -> Result<IndexMap<String, Given<'a>>, ApiError> {
    struct Embedders;
    impl<'de> Visitor<'de> for Embedders {
        type Value = IndexMap<String, &'de RawValue>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a map")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut embedders = IndexMap::new();
            while let Some((name, value)) = map.next_entry::<String, &'de RawValue>()? {
                embedders.insert(name, value);
            }
            Ok(embedders)
        }
    }
    let embedders = raw
        .deserialize_map(Embedders)
        .map_err(|error| ApiError::new(Code::Internal, error.to_string()))?;
    let given = embedders.into_iter().map(|(name, raw)| match shape_of(&name, raw) {
        Ok(given) => Ok((name, given)),
        Err(message) => Err(embedder_conf(id, message)),
    });
    given.collect()
}

fn shape_of<'a>(name: &str, raw: &'a RawValue) -> Result<Given<'a>, String> {
    let place = format!("._vectors.{name}");
    let shape = raw.deserialize_any(Shape { place: &place });
    match shape.map_err(|error| format!("Could not parse `{place}`: {error}"))?? {
        // The visitor can't see the whole array as text.
        Given::Implicit(_) => Ok(Given::Implicit(raw)),
        other => Ok(other),
    }
}

/// Reads the shape alone; the inner error is a message. What is left unread when it returns early
/// makes the parser's own complaint win, as it does in Meilisearch.
struct Shape<'a> {
    place: &'a str,
}

impl Shape<'_> {
    fn wrong_kind<'de>(&self, kind: &str, value: impl fmt::Display) -> Result<Given<'de>, String> {
        let place = self.place;
        Err(format!(
            "Expected `{place}` to be an array of floats, an array of arrays of floats, or an object with at least the field `regenerate`, but got the {kind} `{value}`"
        ))
    }
}

impl<'de> Visitor<'de> for Shape<'_> {
    type Value = Result<Given<'de>, String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map containing at least `regenerate`, or an array of floats`")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Ok(Given::OptOut))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Self::Value, A::Error> {
        let mut index = 0;
        loop {
            match elements.next_element::<IgnoredAny>() {
                Ok(Some(_)) => index += 1,
                Ok(None) => return Ok(Ok(Given::Implicit(RawValue::NULL))),
                Err(error) => {
                    return Ok(Err(format!("Could not parse `{}[{index}]`: {error}", self.place)));
                }
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let place = self.place;
        let (mut regenerate, mut embeddings) = (None, None);
        loop {
            let failed = match map.next_key::<&str>() {
                Ok(Some("regenerate")) => match map.next_value::<bool>() {
                    Ok(value) => {
                        regenerate = Some(value);
                        continue;
                    }
                    Err(error) => format!("Could not parse `{place}.regenerate`: {error}"),
                },
                Ok(Some("embeddings")) => match map.next_value::<&'de RawValue>() {
                    Ok(value) => {
                        embeddings = Some(value);
                        continue;
                    }
                    Err(error) => format!("Could not parse `{place}.embeddings`: {error}"),
                },
                Ok(Some(other)) => format!(
                    "Unexpected field `{place}.{other}`\n  - note: the allowed fields are `regenerate` and `embeddings`"
                ),
                Ok(None) => break,
                Err(error) => format!("Could not parse a field at `{place}`: {error}"),
            };
            return Ok(Err(failed));
        }
        Ok(match regenerate {
            Some(regenerate) => Ok(Given::Explicit { regenerate, embeddings }),
            None => Err(format!(
                "Missing field `{place}.regenerate`\n  - note: `{place}` must be an array of floats, an array of arrays of floats, or an object with field `regenerate`"
            )),
        })
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(self.wrong_kind("boolean", value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(self.wrong_kind("integer", value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(self.wrong_kind("integer", value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
        Ok(self.wrong_kind("number", value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
        Ok(self.wrong_kind("string", value))
    }
}

/// Reads the vectors of a known embedder and compares their dimensions.
fn check_embeddings(
    id: &str,
    name: &str,
    rule: &EmbedderRule,
    given: &Given<'_>,
) -> Result<(), ApiError> {
    let origin = ValuePointerRef::Origin;
    let vectors = ValuePointerRef::Key { key: "_vectors", prev: &origin };
    let embedder = ValuePointerRef::Key { key: name, prev: &vectors };
    let embeddings = ValuePointerRef::Key { key: "embeddings", prev: &embedder };
    let (raw, location) = match given {
        Given::OptOut | Given::Explicit { embeddings: None, .. } => return Ok(()),
        Given::Implicit(raw) => (raw, embedder),
        Given::Explicit { embeddings: Some(raw), .. } => (raw, embeddings),
    };
    let lengths = lengths_of(raw, location).map_err(|error| embedder_conf(id, error))?;
    // What only a node can read, or only a model knows, a node judges.
    let (Some(lengths), Some(expected)) = (lengths, rule.dimensions) else { return Ok(()) };
    match lengths.iter().enumerate().find(|(_, length)| **length != expected) {
        None => Ok(()),
        Some((index, found)) => Err(ApiError::new(
            Code::InvalidVectorDimensions,
            format!(
                "Invalid vector dimensions in document with id `{id}` in `._vectors.{name}`.\n  - note: embedding #{index} has dimensions {found}\n  - note: embedder `{name}` requires {expected}"
            ),
        )),
    }
}
