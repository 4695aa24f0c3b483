//! Preparing a batch: primary key, ids, shards. All or nothing: one bad document fails the
//! task before anything is sent.
//!
//! Pure, and run off the actors: a batch may hold 100 MB.

mod embeddings;
mod missing;
mod vectors;

use bytes::Bytes;
use miroir_membership::placement::shard_of;
use miroir_storage::ids::ShardId;
use miroir_storage::routing::Marks;
use miroir_wire::content::DocumentBatch;
use miroir_wire::document::{
    document_id, infer_primary_key, no_primary_key_candidate, primary_key_cannot_change, value_at,
};
use miroir_wire::error::{ApiError, Code};
use miroir_wire::settings::Settings;
use serde_json::Value;

pub use missing::missing_vectors;
use vectors::GatheredVectors;
pub use vectors::{Lacking, VectorRules};

/// A batch whose every document has a shard.
#[derive(Debug)]
pub struct Prepared {
    /// The attribute that holds the ids.
    pub primary_key: String,
    /// Where the documents lie.
    pub bytes: Bytes,
    /// Each document: its shard and its range in `bytes`.
    pub documents: Vec<(ShardId, u32, u32)>,
    /// Each document's shard of the second partition that it is marked for; empty where there is
    /// only one.
    pub beside: Vec<ShardId>,
}

/// What preparation needs to know of the index, as of the batch's place in the order.
#[derive(Clone, Debug)]
pub struct PrepareContext {
    /// The index as the client named it, for messages.
    pub name: String,
    /// Agreed primary key.
    pub index_primary_key: Option<String>,
    /// The request's `primaryKey`.
    pub request_primary_key: Option<String>,
    /// How documents are marked.
    pub marks: Marks,
    /// Whether `_geo` is looked at (filterable or sortable).
    pub checks_geo: bool,
    /// What the embedders ask of `_vectors`.
    pub vectors: VectorRules,
    /// Whether the documents are laid over those that are there.
    pub partial: bool,
}

impl PrepareContext {
    /// Whether these settings make Meilisearch look at `_geo`.
    pub fn looks_at_geo(settings: &Settings) -> bool {
        let effective = settings.effective();
        let holds_geo = |list: &str| {
            effective.get(list).and_then(Value::as_array).is_some_and(|items| {
                items.iter().any(|item| match item {
                    Value::String(name) => name == "_geo",
                    rule => rule
                        .get("attributePatterns")
                        .and_then(Value::as_array)
                        .is_some_and(|patterns| patterns.iter().any(|p| p == "_geo")),
                })
            })
        };
        holds_geo("filterableAttributes") || holds_geo("sortableAttributes")
    }
}

/// Gives every document its shard. Of the documents without vectors for an embedder that can't
/// make them, the new ones still have to be refused ([`missing_vectors`]).
///
/// # Errors
/// Meilisearch's own task errors: no or several primary key candidates, a primary key that
/// can't change, a missing or invalid id, an invalid `_geo`, invalid `_vectors`.
pub fn prepare(
    batch: DocumentBatch,
    context: &PrepareContext,
) -> Result<(Prepared, Vec<Lacking>), ApiError> {
    let primary_key = choose_primary_key(&batch, context)?;
    let mut documents = Vec::with_capacity(batch.len());
    let mut beside = Vec::new();
    let (current, second) = (context.marks.current, context.marks.beside());
    let mut vectors = GatheredVectors::new(&context.vectors, context.partial);
    for (range, document) in batch.ranges.iter().zip(batch.iter()) {
        let id = document_id(document, &primary_key)
            .map_err(|error| ApiError::new(error.code(), error.to_string()))?;
        if context.checks_geo {
            check_geo(&id, document).map_err(|message| {
                ApiError::new(Code::InvalidDocumentGeoField, message).in_index(&context.name)
            })?;
        }
        documents.push((shard_of(&id, current.shards), range.0, range.1));
        beside.extend(second.map(|second| shard_of(&id, second.shards)));
        vectors.add(id, value_at(document, "_vectors"));
    }
    let lacking = vectors.check().map_err(|error| error.in_index(&context.name))?;
    Ok((Prepared { primary_key, bytes: batch.bytes, documents, beside }, lacking))
}

fn choose_primary_key(batch: &DocumentBatch, context: &PrepareContext) -> Result<String, ApiError> {
    match (&context.index_primary_key, &context.request_primary_key) {
        (Some(present), Some(wanted)) if present != wanted => {
            Err(primary_key_cannot_change(present))
        }
        (Some(present), _) => Ok(present.clone()),
        (None, Some(wanted)) => Ok(wanted.clone()),
        (None, None) => match batch.iter().next() {
            Some(first) => infer_primary_key(first),
            None => Err(no_primary_key_candidate()),
        },
    }
}

/// Meilisearch takes `_geo` as null or as an object of exactly `lat` and `lng`, each a finite
/// number or a text that is one.
fn check_geo(id: &str, document: &[u8]) -> Result<(), String> {
    let Some(raw) = value_at(document, "_geo") else { return Ok(()) };
    let here = format!("in the document with the id: `\"{id}\"`");
    let value: Value = serde_json::from_str(raw.get()).unwrap_or(Value::Null);
    let mut point = match value {
        Value::Null => return Ok(()),
        Value::Object(point) => point,
        other => {
            return Err(format!(
                "The `_geo` field {here} is not an object. Was expecting an object with the `_geo.lat` and `_geo.lng` fields but instead got `{other}`."
            ));
        }
    };
    let (lat, lng) = match (point.remove("lat"), point.remove("lng")) {
        (Some(lat), Some(lng)) => (lat, lng),
        (Some(_), None) => {
            return Err(format!(
                "Could not find longitude {here}. Was expecting a `_geo.lng` field."
            ));
        }
        (None, Some(_)) => {
            return Err(format!(
                "Could not find latitude {here}. Was expecting a `_geo.lat` field."
            ));
        }
        (None, None) => {
            return Err(format!(
                "Could not find latitude nor longitude {here}. Was expecting `_geo.lat` and `_geo.lng` fields."
            ));
        }
    };
    if !point.is_empty() {
        let extra = Value::Object(point);
        return Err(format!(
            "The `_geo` field {here} contains the following unexpected fields: `{extra}`."
        ));
    }
    match (is_finite(&lat), is_finite(&lng)) {
        (true, true) => Ok(()),
        (false, false) => Err(format!(
            "Could not parse latitude nor longitude {here}. Was expecting finite numbers but instead got `{lat}` and `{lng}`."
        )),
        (false, true) => Err(format!(
            "Could not parse latitude {here}. Was expecting a finite number but instead got `{lat}`."
        )),
        (true, false) => Err(format!(
            "Could not parse longitude {here}. Was expecting a finite number but instead got `{lng}`."
        )),
    }
}

fn is_finite(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.as_f64().is_some_and(f64::is_finite),
        Value::String(text) => text.parse::<f64>().is_ok_and(f64::is_finite),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use miroir_wire::content::{PayloadKind, read_documents};

    fn context() -> PrepareContext {
        PrepareContext {
            name: "films".into(),
            index_primary_key: None,
            request_primary_key: None,
            marks: Marks::first(64),
            checks_geo: true,
            vectors: VectorRules::default(),
            partial: false,
        }
    }

    fn batch(json: &'static str) -> DocumentBatch {
        match read_documents(PayloadKind::Json, &Bytes::from_static(json.as_bytes())) {
            Ok(batch) => batch,
            Err(error) => panic!("{}", error.message),
        }
    }

    #[test]
    fn one_bad_document_fails_the_batch() {
        let bad = prepare(batch(r#"[{"id":1},{"id":"a b"}]"#), &context());
        assert_eq!(bad.map(|_| ()).map_err(|error| error.code), Err(Code::InvalidDocumentId));
        let missing = prepare(batch(r#"[{"id":1},{"title":"x"}]"#), &context());
        assert_eq!(missing.map(|_| ()).map_err(|error| error.code), Err(Code::MissingDocumentId));
        let geo = prepare(batch(r#"[{"id":1,"_geo":{"lat":"x","lng":1}}]"#), &context());
        assert_eq!(geo.map(|_| ()).map_err(|error| error.code), Err(Code::InvalidDocumentGeoField));
    }

    #[test]
    fn numbers_and_their_text_are_one_document() {
        let prepared = prepare(batch(r#"[{"id":1},{"id":"1"}]"#), &context());
        assert!(prepared.is_ok_and(|(p, _)| p.documents[0].0 == p.documents[1].0));
    }

    /// The task's error, or the ids that lack vectors.
    fn vectors(json: &'static str, partial: bool) -> Result<Vec<String>, (Code, String)> {
        let settings = br#"{"embedders":{
            "given": {"source": "userProvided", "dimensions": 2, "binaryQuantized": true},
            "made": {"source": "rest", "url": "http://x", "dimensions": 3, "request": "{{text}}",
                     "response": "{{embedding}}"},
            "model": {"source": "huggingFace"}
        }}"#;
        let settings = Settings::from_json(settings).expect("settings");
        let context = PrepareContext { vectors: VectorRules::of(&settings), partial, ..context() };
        match prepare(batch(json), &context) {
            Ok((_, lacking)) => {
                assert!(lacking.iter().all(|lacking| lacking.embedder == "given"));
                Ok(lacking.into_iter().flat_map(|lacking| lacking.ids).collect())
            }
            Err(error) => Err((error.code, error.message)),
        }
    }

    #[test]
    fn vectors_fit_their_embedders_or_are_left_out_on_purpose() {
        for json in [
            r#"[{"id":1,"_vectors":{"given":[1,2.5]}}]"#,
            r#"[{"id":1,"_vectors":{"given":[[1,2],[3,4]],"made":[1,2,3]}}]"#,
            r#"[{"id":1,"_vectors":{"given":null}},{"id":2,"_vectors":{"given":[]}}]"#,
            r#"[{"id":1,"_vectors":{"given":{"regenerate":false}}}]"#,
            r#"[{"id":1,"_vectors":{"given":{"regenerate":true,"embeddings":[1,2]}}}]"#,
            r#"[{"id":1,"_vectors":{"given":{"embeddings":null,"regenerate":true}}}]"#,
            r#"[{"id":1,"_vectors":{"given":null,"made":{"regenerate":true},"model":[1]}}]"#,
            r#"[{"id":1,"_vectors":{"given":null,"no embedder":[1,"not looked at"]}}]"#,
        ] {
            assert_eq!(vectors(json, false), Ok(vec![]), "{json}");
        }
        for (json, code, message) in [
            (
                r#"[{"id":1,"_vectors":{"given":[1,2,3]}}]"#,
                Code::InvalidVectorDimensions,
                "Index `films`: Invalid vector dimensions in document with id `1` in `._vectors.given`.\n  - note: embedding #0 has dimensions 3\n  - note: embedder `given` requires 2",
            ),
            (
                r#"[{"id":1,"_vectors":{"given":null,"made":{"regenerate":true,"embeddings":[[1,2,3],[1]]}}}]"#,
                Code::InvalidVectorDimensions,
                "Index `films`: Invalid vector dimensions in document with id `1` in `._vectors.made`.\n  - note: embedding #1 has dimensions 1\n  - note: embedder `made` requires 3",
            ),
            (
                r#"[{"id":1,"_vectors":{"given":[1,"a"]}}]"#,
                Code::InvalidVectorsType,
                "Index `films`: Bad embedder configuration in the document with id: `1`. Invalid value type at `._vectors.given[1]`: expected a number, but found a string: `\"a\"`",
            ),
            (
                r#"[{"id":1,"_vectors":{"no embedder":"x"}}]"#,
                Code::InvalidVectorsType,
                "Index `films`: Bad embedder configuration in the document with id: `1`. Expected `._vectors.no embedder` to be an array of floats, an array of arrays of floats, or an object with at least the field `regenerate`, but got the string `x`",
            ),
            (
                r#"[{"id":1,"_vectors":{"given":{"embeddings":[1,2]}}}]"#,
                Code::InvalidVectorsType,
                "Index `films`: Bad embedder configuration in the document with id: `1`. Missing field `._vectors.given.regenerate`\n  - note: `._vectors.given` must be an array of floats, an array of arrays of floats, or an object with field `regenerate`",
            ),
        ] {
            assert_eq!(vectors(json, false), Err((code, message.to_owned())), "{json}");
        }
        assert!(vectors(r#"[{"id":1,"_vectors":3}]"#, false).is_err_and(|e| e.0 == Code::Internal));
    }

    #[test]
    fn what_counts_is_the_document_as_the_task_leaves_it() {
        let bad_then_good =
            r#"[{"id":1,"_vectors":{"given":[1]}},{"id":"1","_vectors":{"given":[1,2]}}]"#;
        let good_then_none = r#"[{"id":1,"_vectors":{"given":[1,2]}},{"id":1}]"#;
        assert_eq!(vectors(bad_then_good, false), Ok(vec![]));
        assert_eq!(vectors(good_then_none, true), Ok(vec![]));
        assert_eq!(vectors(good_then_none, false), Ok(vec!["1".into()]));
        let lacking = r#"[{"id":1},{"id":2,"_vectors":{}},{"id":3,"_vectors":{"given":{"regenerate":true}}},{"id":1}]"#;
        for partial in [false, true] {
            assert_eq!(vectors(lacking, partial), Ok(["1", "2", "3"].map(String::from).into()));
        }
    }

    #[test]
    fn the_agreed_key_wins_and_another_is_refused() {
        let agreed = PrepareContext { index_primary_key: Some("isbn".into()), ..context() };
        assert!(
            prepare(batch(r#"[{"id":1,"isbn":2}]"#), &agreed)
                .is_ok_and(|(p, _)| p.primary_key == "isbn")
        );
        let other = PrepareContext { request_primary_key: Some("id".into()), ..agreed };
        let refused = prepare(batch(r#"[{"id":1,"isbn":2}]"#), &other);
        assert_eq!(
            refused.map(|_| ()).map_err(|error| error.code),
            Err(Code::IndexPrimaryKeyAlreadyExists)
        );
    }
}
