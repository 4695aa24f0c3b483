//! The refusal of documents that come without vectors, and what may have been meant instead.

use std::collections::BTreeMap;
use std::fmt;

use miroir_wire::document::value_at;
use miroir_wire::error::{ApiError, Code};
use serde::de::{Deserializer as _, IgnoredAny, MapAccess, Visitor};

use super::Prepared;

/// Meilisearch counts no further, documents: as many as one thread of it gathers.
const COUNTED_MAX: usize = 100;
/// Misspellings named of each kind.
const HINTS_MAX: usize = 2;
/// How many letters a misspelling may be away.
const EDITS_MAX: usize = 2;

/// What a task fails with when the documents `ids` (not empty) are new and have no vectors for a
/// `userProvided` embedder. Misspellings are looked for in the task's own documents.
pub fn missing_vectors(embedder: &str, ids: &[String], prepared: &Prepared) -> ApiError {
    let first = ids.first().map(String::as_str).unwrap_or_default();
    let others = match ids.len().min(COUNTED_MAX) {
        0 | 1 => String::new(),
        count => format!(" and at least {} other document(s)", count - 1),
    };
    let mut message = format!(
        "While embedding documents for embedder `{embedder}`: no vectors provided for document `{first}`{others}\n- Note: `{embedder}` has `source: userProvided`, so documents must provide embeddings as an array in `_vectors.{embedder}`."
    );
    let hints = hints(embedder, prepared);
    if hints.is_empty() {
        message.push_str(&format!(
            "\n- Hint: opt-out for a document with `_vectors.{embedder}: null`"
        ));
    }
    for hint in hints {
        message.push_str("\n- Hint: try replacing ");
        message.push_str(&hint);
    }
    ApiError::new(Code::VectorEmbeddingError, message)
}

fn hints(embedder: &str, prepared: &Prepared) -> Vec<String> {
    let (mut fields, mut embedders) = (BTreeMap::new(), BTreeMap::new());
    for (_, start, end) in &prepared.documents {
        let document = prepared.bytes.get(*start as usize..*end as usize).unwrap_or_default();
        for name in names_in(document) {
            if name != "_vectors" && !name.contains('.') && is_near(&name, "_vectors") {
                *fields.entry(name).or_insert(0) += 1;
            }
        }
        let vectors = value_at(document, "_vectors").map(|raw| names_in(raw.get().as_bytes()));
        for name in vectors.unwrap_or_default() {
            if name != embedder && is_near(&name, embedder) {
                *embedders.entry(name).or_insert(0) += 1;
            }
        }
    }
    let fields = fields.iter().take(HINTS_MAX).map(|(name, count): (&String, &usize)| {
        format!("`{name}` by `_vectors` in {count} document(s).")
    });
    let embedders = embedders.iter().take(HINTS_MAX).map(|(name, count): (&String, &usize)| {
        format!("`_vectors.{name}` by `_vectors.{embedder}` in {count} document(s).")
    });
    fields.chain(embedders).collect()
}

/// The keys of an object; none of anything else.
fn names_in(object: &[u8]) -> Vec<String> {
    struct Names;
    impl<'de> Visitor<'de> for Names {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a map")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut names = Vec::new();
            while let Some((name, IgnoredAny)) = map.next_entry()? {
                names.push(name);
            }
            Ok(names)
        }
    }
    serde_json::Deserializer::from_slice(object).deserialize_map(Names).unwrap_or_default()
}

/// Whether at most [`EDITS_MAX`] insertions, deletions, changes and swaps of neighbours lie
/// between two names.
fn is_near(a: &str, b: &str) -> bool {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    if a.len().abs_diff(b.len()) > EDITS_MAX {
        return false;
    }
    // Optimal string alignment, three rows of the table at a time.
    let mut rows = [Vec::new(), Vec::new(), (0..=b.len()).collect::<Vec<usize>>()];
    for (i, letter) in a.iter().enumerate() {
        rows.rotate_left(1);
        let [before, above, row] = &mut rows;
        row.clear();
        row.push(i + 1);
        for (j, other) in b.iter().enumerate() {
            let mut edits =
                (above[j] + usize::from(letter != other)).min(above[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && a[i - 1] == *other && *letter == b[j - 1] {
                edits = edits.min(before[j - 1] + 1);
            }
            row.push(edits);
        }
    }
    rows[2].last().is_some_and(|edits| *edits <= EDITS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use miroir_storage::ids::ShardId;

    #[test]
    fn near_names_are_two_edits_away_at_most() {
        for (name, near) in [
            ("_vectors", true),
            ("vectors", true),
            ("_vector", true),
            ("_evctors", true),
            ("vector", true),
            ("vec", false),
            ("_embeddings", false),
            ("", false),
        ] {
            assert_eq!(is_near(name, "_vectors"), near, "{name}");
        }
    }

    #[test]
    fn the_refusal_says_what_may_have_been_meant() {
        let document = br#"{"id":1,"vectors":{"given":[1]},"_vectors":{"givne":[1]}}"#;
        let prepared = Prepared {
            primary_key: "id".into(),
            bytes: Bytes::from_static(document),
            documents: vec![(ShardId(0), 0, document.len() as u32)],
            beside: Vec::new(),
        };
        let start =
            "While embedding documents for embedder `given`: no vectors provided for document `1`";
        let note = "\n- Note: `given` has `source: userProvided`, so documents must provide embeddings as an array in `_vectors.given`.";
        let hints = "\n- Hint: try replacing `vectors` by `_vectors` in 1 document(s).\n- Hint: try replacing `_vectors.givne` by `_vectors.given` in 1 document(s).";
        let ids = ["1", "2", "3"].map(String::from);
        let error = missing_vectors("given", &ids[..1], &prepared);
        assert_eq!(error.message, format!("{start}{note}{hints}"));
        let plain = Prepared { documents: Vec::new(), ..prepared };
        let error = missing_vectors("given", &ids, &plain);
        let others = " and at least 2 other document(s)";
        let out = "\n- Hint: opt-out for a document with `_vectors.given: null`";
        assert_eq!(error.message, format!("{start}{others}{note}{out}"));
        assert_eq!(error.code, Code::VectorEmbeddingError);
    }
}
