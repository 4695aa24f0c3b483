//! One hit per value of the distinct attribute, across shards.
//!
//! Each node has done this for its own documents; what is left are hits of different nodes that
//! share a value. Exact for fields with one value; where documents share some of several values,
//! a node may have dropped a hit for one that is dropped here.

use std::borrow::Cow;
use std::collections::HashSet;

use serde_json::Value;

use super::normal::normalize_string;
use crate::json_scan::member;

/// The values seen so far of one attribute.
#[derive(Debug)]
pub struct Distinct {
    path: String,
    seen: HashSet<String>,
    dropped: u64,
}

impl Distinct {
    /// Nothing seen yet of the attribute `path` (dotted for nested fields).
    pub fn new(path: impl Into<String>) -> Self {
        Self { path: path.into(), seen: HashSet::new(), dropped: 0 }
    }

    /// Hits that were not admitted.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// The attribute.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether an admitted hit has this value, given in normal form.
    pub fn has_seen(&self, normal: &str, number: Option<f64>) -> bool {
        self.seen.contains(&number.map_or_else(|| text_key(normal), number_key))
    }

    /// Whether `hit` shares no value with an earlier hit; it counts as seen then. A hit without
    /// any value shares none.
    pub fn admit(&mut self, hit: &[u8]) -> bool {
        let keys = distinct_keys(hit, &self.path);
        if keys.iter().any(|key| self.seen.contains(key)) {
            self.dropped += 1;
            return false;
        }
        self.seen.extend(keys);
        true
    }
}

/// The normal forms of all values that `hit` has at `path`, with their type.
pub(super) fn distinct_keys(hit: &[u8], path: &str) -> Vec<String> {
    let mut keys = Vec::new();
    collect_at(hit, path, &mut keys);
    keys
}

/// A key may itself contain dots, so every split is tried, as the engine's flattening allows.
fn collect_at(object: &[u8], path: &str, keys: &mut Vec<String>) {
    let as_key = |name: &str| match serde_json::to_string(name) {
        Ok(quoted) => Cow::Owned(quoted.trim_matches('"').to_owned()),
        Err(_) => Cow::<str>::Owned(String::new()),
    };
    if let Some(Ok(value)) = member(object, &as_key(path)).map(serde_json::from_slice) {
        collect_values(&value, keys);
    }
    for (at, _) in path.match_indices('.') {
        let (Some(head), Some(rest)) = (path.get(..at), path.get(at + 1..)) else { continue };
        if let Some(Ok(inner)) = member(object, &as_key(head)).map(serde_json::from_slice::<Value>)
        {
            collect_nested(&inner, rest, keys);
        }
    }
}

fn collect_nested(value: &Value, path: &str, keys: &mut Vec<String>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| collect_nested(item, path, keys)),
        Value::Object(members) => {
            if let Some(value) = members.get(path) {
                collect_values(value, keys);
            }
            for (at, _) in path.match_indices('.') {
                let (Some(head), Some(rest)) = (path.get(..at), path.get(at + 1..)) else {
                    continue;
                };
                if let Some(inner) = members.get(head) {
                    collect_nested(inner, rest, keys);
                }
            }
        }
        _ => {}
    }
}

fn collect_values(value: &Value, keys: &mut Vec<String>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| collect_values(item, keys)),
        Value::Number(number) => {
            if let Some(number) = number.as_f64() {
                keys.push(number_key(number));
            }
        }
        Value::String(text) if !text.is_empty() => keys.push(text_key(&normalize_string(text))),
        Value::Bool(bool) => keys.push(text_key(&bool.to_string())),
        Value::String(_) | Value::Null | Value::Object(_) => {}
    }
}

fn number_key(number: f64) -> String {
    // Adding zero makes -0 and 0 one.
    format!("n{}", number + 0.0)
}

fn text_key(normal: &str) -> String {
    format!("s{normal}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_hit_with_the_value_is_not_admitted() {
        let mut brand = Distinct::new("brand");
        assert!(brand.admit(br#"{"brand":"Acme","id":1}"#));
        assert!(!brand.admit(br#"{"brand":" acme ","id":2}"#));
        assert!(brand.admit(br#"{"brand":7}"#));
        assert!(brand.admit(br#"{"brand":"7"}"#));
        assert!(!brand.admit(br#"{"brand":[8,7.0]}"#));
        for without in [r#"{"id":1}"#, r#"{"brand":null}"#, r#"{"brand":""}"#, r#"{"brand":{}}"#] {
            assert!(brand.admit(without.as_bytes()) && brand.admit(without.as_bytes()));
        }
    }

    #[test]
    fn nested_values_are_found_through_arrays_and_dotted_keys() {
        assert_eq!(distinct_keys(br#"{"a":{"b":[1,2]}}"#, "a.b"), ["n1", "n2"]);
        assert_eq!(distinct_keys(br#"{"a":[{"b":"x"},{"b":"y"}]}"#, "a.b"), ["sx", "sy"]);
        assert_eq!(distinct_keys(br#"{"a.b":true,"a":{"b.c":3}}"#, "a.b"), ["strue"]);
        assert_eq!(distinct_keys(br#"{"a":{"b.c":3}}"#, "a.b.c"), ["n3"]);
    }
}
