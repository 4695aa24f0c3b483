//! Dumps in the format of Meilisearch (its version 6, written since 1.0): what is in one, and how a file of them is
//! read and written.
//!
//! A dump is a gzipped tar archive:
//!
//! | file | what |
//! |---|---|
//! | `metadata.json` | [`DumpMetadata`] |
//! | `keys.jsonl` | API keys without their values, which follow from the master key |
//! | `webhooks.json` | webhooks by their uuids; since 1.17 |
//! | `experimental-features.json` | which are on |
//! | `indexes/{uid}/metadata.json` | [`IndexMetadata`] |
//! | `indexes/{uid}/settings.json` | settings as the API takes them |
//! | `indexes/{uid}/documents.jsonl` | a document a line |
//! | `tasks/queue.jsonl`, `tasks/update_files/…`, `batches/…` and others | not imported; an empty queue is exported |

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Component, Path};

use anyhow::Context;
use flate2::read::MultiGzDecoder;
use miroir_wire::reserved::is_reserved;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tar::{Archive, EntryType};

use crate::exit::Refused;

/// The only format that is read and written.
pub const FORMAT: &str = "V6";
/// Settings and metadata are small; more is no dump.
const SMALL_FILE_BYTES_MAX: u64 = 64 << 20;

/// What a dump is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DumpMetadata {
    /// [`FORMAT`].
    pub dump_version: String,
    /// The version of Meilisearch that wrote it.
    pub db_version: String,
    /// When, as RFC 3339.
    pub dump_date: String,
}

/// What an index is beside its settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IndexMetadata {
    /// Its name.
    pub uid: String,
    /// Its primary key.
    pub primary_key: Option<String>,
    /// RFC 3339.
    pub created_at: String,
    /// RFC 3339.
    pub updated_at: String,
}

/// An index of a dump, without its documents.
#[derive(Clone, Debug, Default)]
pub struct DumpedIndex {
    /// What it is.
    pub metadata: Option<IndexMetadata>,
    /// Its settings.
    pub settings: Map<String, Value>,
}

/// All of a dump but documents.
#[derive(Clone, Debug)]
pub struct Dump {
    /// What it is.
    pub metadata: DumpMetadata,
    /// API keys.
    pub keys: Vec<Value>,
    /// Webhooks: `url` and `headers`.
    pub webhooks: Vec<Value>,
    /// Experimental features that are on.
    pub features: Vec<String>,
    /// Indexes by the names of their directories.
    pub indexes: BTreeMap<String, DumpedIndex>,
}

/// A file of a dump that is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// `metadata.json`
    Metadata,
    /// `keys.jsonl`
    Keys,
    /// `webhooks.json`
    Webhooks,
    /// `experimental-features.json`
    Features,
    /// `indexes/{directory}/metadata.json`
    IndexMetadata(String),
    /// `indexes/{directory}/settings.json`
    Settings(String),
    /// `indexes/{directory}/documents.jsonl`
    Documents(String),
}

impl Part {
    /// What a path in the archive is; `None` for what is not looked at.
    pub fn of(path: &Path) -> Option<Self> {
        let names: Option<Vec<&str>> = path
            .components()
            .filter(|component| !matches!(component, Component::CurDir))
            .map(|component| match component {
                Component::Normal(name) => name.to_str(),
                _ => None,
            })
            .collect();
        match names?.as_slice() {
            ["metadata.json"] => Some(Self::Metadata),
            ["keys.jsonl"] => Some(Self::Keys),
            ["webhooks.json"] => Some(Self::Webhooks),
            ["experimental-features.json"] => Some(Self::Features),
            ["indexes", index, "metadata.json"] => Some(Self::IndexMetadata((*index).to_owned())),
            ["indexes", index, "settings.json"] => Some(Self::Settings((*index).to_owned())),
            ["indexes", index, "documents.jsonl"] => Some(Self::Documents((*index).to_owned())),
            _ => None,
        }
    }
}

/// The archive in a file.
///
/// # Errors
/// When it can't be opened.
pub fn open(file: &Path) -> anyhow::Result<Archive<impl Read + use<>>> {
    let opened = File::open(file).with_context(|| format!("can't open {}", file.display()))?;
    Ok(Archive::new(MultiGzDecoder::new(BufReader::new(opened))))
}

/// Reads all of a dump but documents.
///
/// # Errors
/// When the file is no dump, or one of another format.
pub fn read(file: &Path) -> anyhow::Result<Dump> {
    let not_a_dump = || format!("{} is no dump of Meilisearch", file.display());
    let mut metadata = None;
    let (mut keys, mut indexes) = (Vec::new(), BTreeMap::<String, DumpedIndex>::new());
    let (mut webhooks, mut features) = (DumpedWebhooks::default(), BTreeMap::new());
    let mut archive = open(file)?;
    for entry in archive.entries().with_context(not_a_dump)? {
        let mut entry = entry.with_context(not_a_dump)?;
        let part = Part::of(&entry.path().with_context(not_a_dump)?);
        let Some(part) = part.filter(|_| entry.header().entry_type() == EntryType::Regular) else {
            continue;
        };
        if let Part::Documents(index) = part {
            indexes.entry(index).or_default();
            continue;
        }
        let mut text = String::new();
        (&mut entry)
            .take(SMALL_FILE_BYTES_MAX)
            .read_to_string(&mut text)
            .with_context(not_a_dump)?;
        match part {
            Part::Metadata => {
                metadata = Some(parse::<DumpMetadata>(&text).with_context(not_a_dump)?)
            }
            Part::Keys => {
                for line in text.lines().filter(|line| !line.trim().is_empty()) {
                    keys.push(parse(line).with_context(not_a_dump)?);
                }
            }
            Part::Webhooks => webhooks = parse(&text).with_context(not_a_dump)?,
            Part::Features => {
                features = parse::<BTreeMap<String, Value>>(&text).with_context(not_a_dump)?;
            }
            Part::IndexMetadata(index) => {
                let parsed = Some(parse(&text).with_context(not_a_dump)?);
                indexes.entry(index).or_default().metadata = parsed;
            }
            Part::Settings(index) => {
                indexes.entry(index).or_default().settings =
                    parse(&text).with_context(not_a_dump)?;
            }
            Part::Documents(_) => {}
        }
    }
    let metadata = metadata.ok_or_else(|| Refused(not_a_dump()))?;
    if metadata.dump_version != FORMAT {
        return Err(Refused(format!(
            "{} is a dump of format {}, written by Meilisearch {}. Miroir reads {FORMAT}: import it into a Meilisearch of version 1 and make a dump there",
            file.display(), metadata.dump_version, metadata.db_version
        ))
        .into());
    }
    let on = features.into_iter().filter(|(_, is_on)| *is_on == true).map(|(name, _)| name);
    let webhooks = webhooks.webhooks.into_values().collect();
    Ok(Dump { metadata, keys, webhooks, features: on.collect(), indexes })
}

/// What is in `webhooks.json`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct DumpedWebhooks {
    /// By their uuids.
    #[serde(default)]
    pub webhooks: BTreeMap<String, Value>,
}

fn parse<'a, T: Deserialize<'a>>(text: &'a str) -> anyhow::Result<T> {
    Ok(serde_json::from_str(text)?)
}

/// The settings to send: what is at its default anyway, and what Miroir itself has set on a node whose own dump
/// this is, is left out.
pub fn settings_to_send(settings: &Map<String, Value>) -> Map<String, Value> {
    let mut sent = Map::new();
    for (name, value) in settings {
        let mut value = value.clone();
        if let Value::Array(items) = &mut value {
            items.retain(|item| !names_reserved(item));
        }
        let is_empty = value.as_object().is_some_and(Map::is_empty);
        if !value.is_null() && !is_empty {
            sent.insert(name.clone(), value);
        }
    }
    sent
}

/// Whether an item of a list of attributes is about a field of Miroir's.
fn names_reserved(item: &Value) -> bool {
    match item {
        Value::String(name) => is_reserved(name),
        Value::Object(rule) => {
            let patterns = rule.get("attributePatterns").and_then(Value::as_array);
            patterns.is_some_and(|patterns| patterns.iter().any(names_reserved))
        }
        _ => false,
    }
}

/// The lines without Miroir's own fields, which documents of a node's own dump have. A line that is no
/// object stays as it is: it is refused where it is read.
pub fn without_reserved(lines: Vec<u8>) -> Vec<u8> {
    let mentions = |bytes: &[u8]| bytes.windows(8).any(|window| window == b"_miroir_");
    if !mentions(&lines) {
        return lines;
    }
    let mut cleaned = Vec::with_capacity(lines.len());
    for line in lines.split_inclusive(|byte| *byte == b'\n') {
        match serde_json::from_slice::<Map<String, Value>>(line) {
            Ok(mut document) if mentions(line) => {
                document.retain(|name, _| !is_reserved(name));
                cleaned.extend_from_slice(Value::Object(document).to_string().as_bytes());
                cleaned.push(b'\n');
            }
            _ => cleaned.extend_from_slice(line),
        }
    }
    cleaned
}

/// Whether pods show a header of webhooks masked only.
pub fn is_masked(header: &str) -> bool {
    header.eq_ignore_ascii_case("authorization")
}

/// The body that makes a dumped key.
pub fn key_to_send(key: &Value) -> Value {
    let field = |name: &str| key.get(name).cloned().unwrap_or_default();
    let mut body = serde_json::json!({
        "uid": field("uid"), "actions": field("actions"), "indexes": field("indexes"),
        "expiresAt": field("expires_at"),
    });
    for name in ["name", "description"] {
        if let (Some(text), Value::Object(body)) = (key.get(name), &mut body) {
            body.insert(name.to_owned(), text.clone());
        }
    }
    body
}

/// A key as dumps have it, from what the API shows.
pub fn key_to_dump(key: &Value) -> Value {
    let names = [
        ("description", "description"),
        ("name", "name"),
        ("uid", "uid"),
        ("actions", "actions"),
        ("indexes", "indexes"),
        ("expires_at", "expiresAt"),
        ("created_at", "createdAt"),
        ("updated_at", "updatedAt"),
    ];
    let optional = |name: &str| matches!(name, "description" | "name");
    let fields = names.into_iter().filter_map(|(dumped, shown)| {
        let value = key.get(shown).cloned().unwrap_or_default();
        (!(optional(dumped) && value.is_null())).then(|| (dumped.to_owned(), value))
    });
    Value::Object(fields.collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn files_are_told_by_their_paths() {
        let part = |path: &str| Part::of(Path::new(path));
        assert_eq!(part("./metadata.json"), Some(Part::Metadata));
        assert_eq!(part("keys.jsonl"), Some(Part::Keys));
        assert_eq!(part("./webhooks.json"), Some(Part::Webhooks));
        assert_eq!(part("experimental-features.json"), Some(Part::Features));
        assert_eq!(part("indexes/a/documents.jsonl"), Some(Part::Documents("a".into())));
        for other in [
            "indexes/a/._documents.jsonl",
            "tasks/queue.jsonl",
            "../metadata.json",
            "/keys.jsonl",
            ".",
        ] {
            assert_eq!(part(other), None, "{other}");
        }
    }

    #[test]
    fn what_miroir_keeps_on_nodes_stays_behind() {
        let settings = json!({
            "filterableAttributes": [{ "attributePatterns": ["_miroir_shard"] }, "year"],
            "distinctAttribute": null, "synonyms": {}, "stopWords": [], "embedders": {}
        });
        let settings = settings.as_object().cloned().unwrap_or_default();
        let sent = json!({ "filterableAttributes": ["year"], "stopWords": [] });
        assert_eq!(Value::Object(settings_to_send(&settings)), sent);
        let lines =
            b"{\"_miroir_shard\":\"x\",\"id\":1}\n{\"id\":2}\n{\"id\":3,\"t\":\"_miroir_shard\"}";
        let cleaned = String::from_utf8(without_reserved(lines.to_vec())).unwrap();
        assert_eq!(cleaned, "{\"id\":1}\n{\"id\":2}\n{\"id\":3,\"t\":\"_miroir_shard\"}\n");
        assert_eq!(without_reserved(b"{\"id\":2}".to_vec()), b"{\"id\":2}");
    }

    #[test]
    fn keys_are_as_meilisearch_has_them() {
        let shown = json!({
            "name": null, "description": "d", "key": "secret", "uid": "u", "actions": ["search"],
            "indexes": ["*"], "expiresAt": null, "createdAt": "c", "updatedAt": "e"
        });
        let dumped = json!({
            "description": "d", "uid": "u", "actions": ["search"], "indexes": ["*"],
            "expires_at": null, "created_at": "c", "updated_at": "e"
        });
        assert_eq!(key_to_dump(&shown), dumped);
        let sent = json!({
            "uid": "u", "actions": ["search"], "indexes": ["*"], "expiresAt": null, "description": "d"
        });
        assert_eq!(key_to_send(&dumped), sent);
    }
}
