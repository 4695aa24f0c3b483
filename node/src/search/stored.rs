//! Writing stored documents into an answer.
//!
//! Of a document only the wanted fields are touched, and those that are stored in normal form
//! are copied without being parsed.

use std::collections::BTreeMap;

use milli_core as milli;
use milli_core::constants::RESERVED_VECTORS_FIELD_NAME;
use milli_core::heed::RoTxn;
use milli_core::index::IndexEmbeddingConfig;
use milli_core::vector::parsed_vectors::ExplicitVectors;
use milli_core::{DocumentId, FieldId, FieldsIdsMap, Index, InternalError};
use serde_json::{Map, Value};

use super::raw_json::{append, append_normalised};
use super::select::Keep;

/// Reads one stored value.
///
/// # Errors
/// It is not JSON, so the database is damaged.
pub(crate) fn parse(raw: &[u8]) -> milli::Result<Value> {
    serde_json::from_slice(raw).map_err(|error| InternalError::SerdeJson(error).into())
}

/// What an answer shows as `_vectors`.
pub(crate) enum Vectors {
    /// Nothing, whatever the document holds.
    Hidden,
    /// The vectors the index holds for the document.
    Stored(Vec<IndexEmbeddingConfig>),
}

impl Vectors {
    /// Stored vectors, where `shown`.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) fn of(index: &Index, rtxn: &RoTxn<'_>, shown: bool) -> milli::Result<Self> {
        if shown { index.embedding_configs(rtxn).map(Self::Stored) } else { Ok(Self::Hidden) }
    }
}

/// Writes the fields of documents.
pub(crate) struct DocumentWriter<'a> {
    index: &'a Index,
    rtxn: &'a RoTxn<'a>,
    names: &'a FieldsIdsMap,
    /// What is kept of each document; `None` for everything.
    paths: Option<Vec<&'a str>>,
    vectors: Vectors,
    /// The fields met so far: what a field's paths keep is found out once. `None` for fields
    /// of which nothing is kept.
    met: BTreeMap<FieldId, Option<Field<'a>>>,
}

/// One field of the index, as an answer shows it.
struct Field<'a> {
    /// The name as JSON, with its colon.
    key: Vec<u8>,
    keep: Keep<'a>,
    is_vectors: bool,
    is_geo: bool,
}

impl<'a> DocumentWriter<'a> {
    /// A writer that keeps `paths` of each document, or all.
    pub(crate) fn new(
        index: &'a Index,
        rtxn: &'a RoTxn<'a>,
        names: &'a FieldsIdsMap,
        paths: Option<Vec<&'a str>>,
        vectors: Vectors,
    ) -> Self {
        Self { index, rtxn, names, paths, vectors, met: BTreeMap::new() }
    }

    /// Writes the kept fields of a document in the order of their ids, then its vectors.
    /// Returns what is kept of `_geo` if `want_geo`.
    ///
    /// # Errors
    /// The database fails, or a stored value is not JSON.
    pub(crate) fn append_fields(
        &mut self,
        id: DocumentId,
        want_geo: bool,
        object: &mut ObjectWriter<'_>,
    ) -> milli::Result<Option<Value>> {
        let mut geo = None;
        let mut explicit = Map::new();
        for (field_id, raw) in self.index.document(self.rtxn, id)?.iter() {
            let Some(field) = Self::field(self.names, &self.paths, &mut self.met, field_id) else {
                continue;
            };
            if field.is_vectors {
                if matches!(self.vectors, Vectors::Stored(_))
                    && let Some(Value::Object(given)) = field.keep.apply(parse(raw)?)
                {
                    explicit = given;
                }
                continue;
            }
            if field.is_geo && want_geo {
                geo = field.keep.apply(parse(raw)?);
            }
            object.field(field, raw)?;
        }
        if let Vectors::Stored(configs) = &self.vectors {
            add_stored_vectors(self.index, self.rtxn, configs, id, &mut explicit)?;
            object.value(RESERVED_VECTORS_FIELD_NAME, &explicit);
        }
        Ok(geo)
    }

    /// A document with all of its fields.
    ///
    /// # Errors
    /// The database fails, or a stored value is not JSON.
    pub(crate) fn parse_all(&self, id: DocumentId) -> milli::Result<Map<String, Value>> {
        let mut document = Map::new();
        for (field_id, raw) in self.index.document(self.rtxn, id)?.iter() {
            if let Some(name) = self.names.name(field_id) {
                document.insert(name.to_owned(), parse(raw)?);
            }
        }
        Ok(document)
    }

    /// The field with this id, when any of it is kept.
    fn field<'m>(
        names: &'a FieldsIdsMap,
        paths: &Option<Vec<&'a str>>,
        met: &'m mut BTreeMap<FieldId, Option<Field<'a>>>,
        id: FieldId,
    ) -> Option<&'m Field<'a>> {
        met.entry(id)
            .or_insert_with(|| {
                let name = names.name(id)?;
                let keep = match paths {
                    Some(paths) => Keep::of(paths, name),
                    None => Keep::everything(),
                };
                if keep.is_nothing() {
                    return None;
                }
                let mut key = Vec::with_capacity(name.len() + 3);
                append(name, &mut key);
                key.push(b':');
                let is_vectors = name == RESERVED_VECTORS_FIELD_NAME;
                Some(Field { key, keep, is_vectors, is_geo: name == "_geo" })
            })
            .as_ref()
    }
}

/// Adds the vectors the index holds for a document, by embedder.
fn add_stored_vectors(
    index: &Index,
    rtxn: &RoTxn<'_>,
    configs: &[IndexEmbeddingConfig],
    id: DocumentId,
    vectors: &mut Map<String, Value>,
) -> milli::Result<()> {
    for (name, embeddings) in index.embeddings(rtxn, id)? {
        let user_provided = configs
            .iter()
            .find(|config| config.name == name)
            .is_some_and(|config| config.user_provided.contains(id));
        let explicit =
            ExplicitVectors { embeddings: Some(embeddings.into()), regenerate: !user_provided };
        vectors.insert(name, serde_json::to_value(explicit).map_err(InternalError::SerdeJson)?);
    }
    Ok(())
}

/// Writes the members of one JSON object.
pub(crate) struct ObjectWriter<'o> {
    out: &'o mut Vec<u8>,
    empty: bool,
}

impl<'o> ObjectWriter<'o> {
    /// Opens an object.
    pub(crate) fn begin(out: &'o mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, empty: true }
    }

    /// Writes one member.
    pub(crate) fn value<T: serde::Serialize + ?Sized>(&mut self, name: &str, value: &T) {
        append(value, self.member(name));
    }

    /// Writes the name of a member, whose value the caller appends.
    pub(crate) fn member(&mut self, name: &str) -> &mut Vec<u8> {
        self.comma();
        append(name, self.out);
        self.out.push(b':');
        self.out
    }

    /// Closes the object.
    pub(crate) fn end(self) {
        self.out.push(b'}');
    }

    fn comma(&mut self) {
        if !std::mem::take(&mut self.empty) {
            self.out.push(b',');
        }
    }

    fn field(&mut self, field: &Field<'_>, raw: &[u8]) -> milli::Result<()> {
        if field.keep.is_whole() {
            self.comma();
            self.out.extend_from_slice(&field.key);
            append_normalised(raw, self.out).map_err(InternalError::SerdeJson)?;
        } else if let Some(left) = field.keep.apply(parse(raw)?) {
            self.comma();
            self.out.extend_from_slice(&field.key);
            append(&left, self.out);
        }
        Ok(())
    }
}
