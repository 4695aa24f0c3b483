//! Documents: read from newline-delimited JSON, with fields derived from a hash of the id.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use twox_hash::XxHash64;

use super::Object;

/// Dimensions of the derived vectors.
pub const VECTOR_DIMENSIONS: usize = 8;
/// The embedder that the derived vectors are for.
pub const EMBEDDER: &str = "given";
/// Documents of the index with vectors. Small, so that a window over all of them makes the
/// approximate index look at every vector, and its answers exact.
pub const VECTOR_DOCUMENTS: usize = 240;

/// Words of the derived `tags` field.
pub const TAGS: [&str; 8] =
    ["amber", "Basalt", "cobalt blue", "dune", "ember", "fjord", "Glacier", "harbour light"];

/// Why documents can't be read.
#[derive(Debug, thiserror::Error)]
pub enum DocumentsFault {
    /// The file can't be read.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A line is not a JSON object.
    #[error("{path}, line {line}: {source}")]
    Json {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What the parser said.
        source: serde_json::Error,
    },
}

/// The data set that ships with the project.
pub fn shipped_movies() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../ops/demo/movies.ndjson")
}

/// Reads at most `count_max` documents, one a line, from `path`; `.gz` is unpacked.
///
/// # Errors
/// See [`DocumentsFault`].
pub fn read_documents(path: &Path, count_max: usize) -> Result<Vec<Object>, DocumentsFault> {
    let io_fault = |source| DocumentsFault::Io { path: path.to_owned(), source };
    let file = File::open(path).map_err(io_fault)?;
    let source: Box<dyn Read> = if path.extension().is_some_and(|end| end == "gz") {
        Box::new(flate2::read::GzDecoder::new(file))
    } else {
        Box::new(file)
    };
    let mut documents = Vec::new();
    for (line, text) in BufReader::new(source).lines().take(count_max).enumerate() {
        let text = text.map_err(io_fault)?;
        documents.push(serde_json::from_str(&text).map_err(|source| DocumentsFault::Json {
            path: path.to_owned(),
            line: line + 1,
            source,
        })?);
    }
    Ok(documents)
}

/// The text form of a document's id.
pub fn id_of(document: &Object) -> String {
    text_of(document.get("id").unwrap_or(&Value::Null))
}

/// A string as it is, anything else as JSON.
pub fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Adds the derived fields, which depend on the id alone.
pub fn enrich(document: &mut Object) {
    let id = id_of(document);
    let draw = |salt: &str, bound: u64| hash(&id, salt) % bound;
    if draw("bucket-there", 10) > 0 {
        document.insert("bucket".into(), json!(format!("b{:02}", draw("bucket", 40))));
    }
    if let Some(mixed) = mixed_value(&id) {
        document.insert("mixed".into(), mixed);
    }
    let tags: Vec<&str> = (0..draw("tag-count", 4))
        .map(|n| TAGS[draw(&format!("tag-{n}"), TAGS.len() as u64) as usize])
        .collect();
    document.insert("tags".into(), json!(tags));
    document.insert("flag".into(), json!(draw("flag", 2) == 0));
    match draw("empty", 6) {
        0 => document.insert("empty".into(), json!("")),
        1 => document.insert("empty".into(), json!([])),
        2 => document.insert("empty".into(), json!({})),
        3 => document.insert("empty".into(), Value::Null),
        4 => document.insert("empty".into(), json!("full")),
        _ => None,
    };
    document.insert(
        "nested".into(),
        json!({
            "score": draw("score", 100),
            "deep": { "label": format!("label {}", draw("label", 12)) },
        }),
    );
    if !document.contains_key("_geo") && draw("geo-there", 7) > 0 {
        // Six decimals keep points apart by more than the engine's one-metre margin.
        let lat = draw("lat", 160_000_000) as f64 / 1e6 - 80.0;
        let lng = draw("lng", 359_000_000) as f64 / 1e6 - 179.5;
        document.insert("_geo".into(), json!({ "lat": lat, "lng": lng }));
    }
}

/// The derived vector of document `id`; one in ten documents has none.
pub fn vector_of(id: &str) -> Option<Vec<f64>> {
    (!hash(id, "vector-there").is_multiple_of(10)).then(|| {
        (0..VECTOR_DIMENSIONS)
            .map(|n| (hash(id, &format!("vector-{n}")) % 2001) as f64 / 1000.0 - 1.0)
            .collect()
    })
}

/// A value of varying type: numbers, strings, numbers in strings, lists, null, or nothing.
fn mixed_value(id: &str) -> Option<Value> {
    let number = hash(id, "mixed-number") % 60;
    match hash(id, "mixed-kind") % 10 {
        0..=2 => Some(json!(number)),
        3 => Some(json!(number as f64 / 4.0 - 5.0)),
        4 | 5 => Some(json!(format!("Word{}", number % 25))),
        6 => Some(json!(number.to_string())),
        7 => Some(json!([number, format!("word{}", number % 7)])),
        8 => Some(Value::Null),
        _ => None,
    }
}

fn hash(id: &str, salt: &str) -> u64 {
    XxHash64::oneshot(0x5eed, format!("{salt}/{id}").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_fields_depend_on_the_id_alone() {
        let mut a: Object = serde_json::from_value(json!({"id": 7, "title": "x"})).expect("object");
        let mut b: Object = serde_json::from_value(json!({"id": "7"})).expect("object");
        enrich(&mut a);
        enrich(&mut b);
        assert_eq!(a.get("nested"), b.get("nested"));
        assert_eq!(a.get("_geo"), b.get("_geo"));
        assert_eq!(vector_of("7"), vector_of("7"));
    }

    #[test]
    fn the_shipped_movies_are_read_whole() {
        let movies = read_documents(&shipped_movies(), usize::MAX).expect("the shipped file");
        assert_eq!(movies.len(), 3201);
    }
}
