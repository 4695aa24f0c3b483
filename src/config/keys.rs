//! Which keys exist, which variable names each, and what to say about one that doesn't.

use std::collections::BTreeMap;
use std::ffi::OsString;

use serde_json::Value;

use super::source::{Origin, Sources};
use super::{ClusterConfig, Complaint, Config, FlagValue, NodeConfig, PodIdentity, Secret};

/// Every variable of ours begins so.
const PREFIX: &str = "MIROIR_";
/// Variables with these beginnings belong to others: the project's own tests, `miroir node`,
/// `miroir ctl`.
const FOREIGN_PREFIXES: [&str; 4] =
    ["MIROIR_TEST_", "MIROIR_BIN", "MIROIR_NODE_MASTER_KEY", "MIROIR_URL"];
/// Endings of the variables that Kubernetes sets for a service that is called `miroir`.
const SERVICE_LINKS: [&str; 7] =
    ["_SERVICE_HOST", "_SERVICE_PORT", "_PORT", "_ADDR", "_PROTO", "_TCP", "_UDP"];
/// Most differing letters for which a known key is still suggested.
const TYPO_DISTANCE_MAX: usize = 3;
/// Other names of a variable.
const ALIASES: [(&str, &str); 1] = [("MIROIR_ADMIN_API_KEY", "admin_key")];

/// An example with every key that exists.
#[derive(Debug)]
pub struct Schema(Value);

/// The schema, taken from the types themselves.
pub fn schema() -> Schema {
    let some = || Some(Secret::new(""));
    let path = || Some(std::path::PathBuf::new());
    let node = NodeConfig {
        id: String::new(),
        url: String::new(),
        group: 0,
        key: some(),
        key_file: path(),
    };
    let example = Config {
        master_key: some(),
        master_key_file: path(),
        admin_key: some(),
        admin_key_file: path(),
        node_key: some(),
        node_key_file: path(),
        nodes: vec![node],
        pod: PodIdentity { peer_advertise: Some(String::new()), ..PodIdentity::default() },
        cluster: ClusterConfig {
            secret: some(),
            secret_file: path(),
            old_secrets: vec![Secret::new("")],
            old_secrets_file: path(),
            seeds: vec![String::new()],
            ..ClusterConfig::default()
        },
        ..Config::default()
    };
    // Plain structs of text and numbers always serialise.
    Schema(serde_json::to_value(example).unwrap_or_default())
}

impl Schema {
    /// Paths of all keys that hold no table, those within lists left out.
    fn leaves(&self) -> BTreeMap<String, &Value> {
        let mut leaves = BTreeMap::new();
        let mut open = vec![(String::new(), &self.0)];
        while let Some((path, value)) = open.pop() {
            match value {
                Value::Object(table) => open.extend(table.iter().map(|(key, value)| {
                    let below = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    (below, value)
                })),
                leaf => {
                    leaves.insert(path, leaf);
                }
            }
        }
        leaves
    }
}

/// The variable that sets `path`.
fn variable_of(path: &str) -> String {
    format!("{PREFIX}{}", path.replace('.', "_").to_ascii_uppercase())
}

/// Lays the `MIROIR_*` variables over the file. Empty ones count as not set.
pub fn lay_variables(
    sources: &mut Sources,
    schema: &Schema,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Vec<Complaint> {
    let leaves = schema.leaves();
    let mut names: BTreeMap<String, &str> =
        leaves.keys().map(|path| (variable_of(path), path.as_str())).collect();
    names.extend(ALIASES.map(|(name, path)| (name.to_owned(), path)));
    // In order, so that the same environment always gives the same complaints.
    let given: BTreeMap<OsString, OsString> = variables.into_iter().collect();
    let mut complaints = Vec::new();
    for (name, text) in given {
        let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX)) else { continue };
        if text.is_empty() || belongs_to_others(name) {
            continue;
        }
        let origin = Origin::Variable(name.to_owned());
        let Some(text) = text.to_str() else {
            complaints.push(complaint(origin, "", "its value is not UTF-8", None));
            continue;
        };
        match names.get(name) {
            Some(path) => match leaves.get(*path).map(|example| as_kind_of(example, text)) {
                Some(Ok(value)) => sources.set(path, value, origin),
                Some(Err(message)) => complaints.push(complaint(origin, path, &message, None)),
                None => {}
            },
            None if service_link(name) => {}
            None => {
                let hint = closest(name, names.keys().map(String::as_str))
                    .map(|known| format!("did you mean {known}?"));
                complaints.push(complaint(origin, "", "no setting has this name", hint));
            }
        }
    }
    complaints
}

/// Lays flags over file and variables.
pub fn lay_flags(sources: &mut Sources, schema: &Schema, flags: &[FlagValue]) -> Vec<Complaint> {
    let leaves = schema.leaves();
    let mut complaints = Vec::new();
    for FlagValue { path, text, flag } in flags {
        let origin = Origin::Flag(flag.clone());
        if is_secret(path) {
            let hint = format!("set the variable {} instead", variable_of(path));
            let message = "keys are not taken from flags, which every process can read";
            complaints.push(complaint(origin, path, message, Some(hint)));
            continue;
        }
        match leaves.get(path) {
            Some(example) => match as_kind_of(example, text) {
                Ok(value) => sources.set(path, value, origin),
                Err(message) => complaints.push(complaint(origin, path, &message, None)),
            },
            None => {
                let hint = closest(path, leaves.keys().map(String::as_str))
                    .map(|known| format!("did you mean {known}?"));
                complaints.push(complaint(origin, path, "no such key", hint));
            }
        }
    }
    complaints
}

/// Complains about each key of the file that the types don't have.
pub fn unknown_keys(sources: &Sources, schema: &Schema) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    walk(&sources.value(), &schema.0, "", sources, &mut complaints);
    complaints.sort_by_key(|complaint| match complaint.origin {
        Some(Origin::Line(line)) => line,
        _ => usize::MAX,
    });
    complaints
}

fn walk(value: &Value, schema: &Value, path: &str, sources: &Sources, found: &mut Vec<Complaint>) {
    match (value, schema) {
        (Value::Object(table), Value::Object(known)) => {
            for (key, value) in table {
                let below = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                if let Some(schema) = known.get(key) {
                    walk(value, schema, &below, sources, found);
                    continue;
                }
                let hint = match closest(key, known.keys().map(String::as_str)) {
                    Some(like) => format!("did you mean {like}?"),
                    None => format!(
                        "known here: {}",
                        known.keys().cloned().collect::<Vec<_>>().join(", ")
                    ),
                };
                found.push(Complaint {
                    origin: sources.origin(&below).cloned(),
                    key: below,
                    message: "no such key".to_owned(),
                    hint: Some(hint),
                });
            }
        }
        (Value::Array(items), Value::Array(examples)) => {
            let Some(example) = examples.first() else { return };
            for (at, item) in items.iter().enumerate() {
                walk(item, example, &format!("{path}.{at}"), sources, found);
            }
        }
        // A value of the wrong kind: deserialising says so, with its place.
        _ => {}
    }
}

/// Text from a variable or flag, as the kind of value that `example` is.
fn as_kind_of(example: &Value, text: &str) -> Result<Value, String> {
    match example {
        Value::Number(_) => text
            .trim()
            .parse::<u64>()
            .map(Value::from)
            .map_err(|_| format!("{text:?} is not a whole number")),
        Value::Bool(_) => text
            .trim()
            .parse::<bool>()
            .map(Value::from)
            .map_err(|_| format!("{text:?} is neither true nor false")),
        Value::Array(examples)
            if examples.first().is_some_and(Value::is_string) && !text.starts_with('[') =>
        {
            Ok(text.split(',').map(str::trim).filter(|item| !item.is_empty()).collect())
        }
        Value::Array(_) => {
            serde_json::from_str::<Value>(text).ok().filter(Value::is_array).ok_or_else(|| {
                "a JSON list is expected, like [{\"id\":\"node-1\",\"url\":\"…\"}]".to_owned()
            })
        }
        _ => Ok(Value::from(text)),
    }
}

/// Whether `path` holds a key itself (not the name of a file that does).
fn is_secret(path: &str) -> bool {
    let last = path.rsplit(['.', '_']).next();
    path == "nodes" || matches!(last, Some("key" | "secret" | "secrets"))
}

fn belongs_to_others(name: &str) -> bool {
    FOREIGN_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// `MIROIR_SERVICE_HOST`, `MIROIR_PORT_7700_TCP_ADDR`, `MIROIR_SERVICE_PORT_HTTP` …: set by
/// Kubernetes in every pod of a namespace that has a service called `miroir` or `miroir-…`.
fn service_link(name: &str) -> bool {
    name.contains("_SERVICE_PORT_") || SERVICE_LINKS.iter().any(|ending| name.ends_with(ending))
}

/// The known name nearest to `name`, when it is near enough to be a slip.
fn closest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let limit = TYPO_DISTANCE_MAX.min(name.chars().count() / 2);
    known
        .map(|candidate| (distance(name, candidate), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance: letters to insert, delete or replace.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (above, letter) in left.chars().enumerate() {
        let mut diagonal = above;
        let mut before = above + 1;
        let mut next = vec![before];
        for (other, up) in right.iter().zip(row.iter().skip(1)) {
            let replaced = diagonal + usize::from(*other != letter);
            diagonal = *up;
            before = replaced.min(up + 1).min(before + 1);
            next.push(before);
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

fn complaint(origin: Origin, key: &str, message: &str, hint: Option<String>) -> Complaint {
    Complaint { origin: Some(origin), key: key.to_owned(), message: message.to_owned(), hint }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_near_and_another_word_is_not() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(closest("shard", ["shards", "nodes"].into_iter()), Some("shards"));
        assert_eq!(closest("banana", ["shards", "nodes"].into_iter()), None);
    }

    #[test]
    fn each_key_has_a_variable() {
        let schema = schema();
        let names: Vec<String> = schema.leaves().keys().map(|path| variable_of(path)).collect();
        for name in [
            "MIROIR_SERVER_HTTP_ADDR",
            "MIROIR_MASTER_KEY_FILE",
            "MIROIR_NODES",
            "MIROIR_CLUSTER_SECRET",
            "MIROIR_CLUSTER_OLD_SECRETS_FILE",
            "MIROIR_POD_PEER_ADVERTISE",
        ] {
            assert!(names.iter().any(|known| known == name), "{name} not in {names:?}");
        }
    }
}
