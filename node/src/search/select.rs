//! Picking parts of a document by dotted paths, and walking its leaves.
//!
//! A path `a.b` reaches `b` in the object `a`, in each object of the array `a`, and the key
//! spelled `a.b`. Objects of an array that keep nothing are dropped; arrays and objects that
//! a path leads into stay, if only empty.

use serde_json::{Map, Value};

/// What the paths of an answer leave of one field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Keep<'p> {
    /// A path names the field itself.
    whole: bool,
    /// The paths below the field. Where there are any and the value is an object or an
    /// array, they win over `whole`.
    parts: Vec<&'p str>,
}

impl<'p> Keep<'p> {
    /// The whole field.
    pub(crate) fn everything() -> Self {
        Self { whole: true, parts: Vec::new() }
    }

    /// What `paths` leave of the field `key`.
    pub(crate) fn of(paths: &[&'p str], key: &str) -> Self {
        let whole = paths.contains(&key);
        if whole && !key.contains('.') {
            return Self { whole, parts: Vec::new() };
        }
        let parts =
            paths.iter().filter_map(|path| path.strip_prefix(key)?.strip_prefix('.')).collect();
        Self { whole, parts }
    }

    /// Whether nothing of the field is left, whatever its value.
    pub(crate) fn is_nothing(&self) -> bool {
        !self.whole && self.parts.is_empty()
    }

    /// Whether all of the field is left, whatever its value.
    pub(crate) fn is_whole(&self) -> bool {
        self.whole && self.parts.is_empty()
    }

    /// What is left of `value`; `None` when the field goes away.
    pub(crate) fn apply(&self, value: Value) -> Option<Value> {
        match value {
            Value::Array(values) if !self.parts.is_empty() => {
                Some(Value::Array(select_in_array(values, &self.parts)))
            }
            Value::Object(object) if !self.parts.is_empty() => {
                Some(Value::Object(select(object, &self.parts)))
            }
            value => self.whole.then_some(value),
        }
    }
}

/// The part of `object` that `paths` name.
pub(crate) fn select(object: Map<String, Value>, paths: &[&str]) -> Map<String, Value> {
    object
        .into_iter()
        .filter_map(|(key, value)| {
            let left = Keep::of(paths, &key).apply(value)?;
            Some((key, left))
        })
        .collect()
}

fn select_in_array(values: Vec<Value>, paths: &[&str]) -> Vec<Value> {
    values
        .into_iter()
        .filter_map(|value| match value {
            Value::Array(values) => Some(Value::Array(select_in_array(values, paths))),
            Value::Object(object) => {
                let left = select(object, paths);
                (!left.is_empty()).then_some(Value::Object(left))
            }
            _ => None,
        })
        .collect()
}

/// Whether `path` is `ancestor` or lies below it.
pub(crate) fn is_at_or_below(path: &str, ancestor: &str) -> bool {
    path.strip_prefix(ancestor).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Calls `visit` with the path, the positions in the arrays on the way, and the value of each
/// leaf of `object` that lies at, above or below one of `paths`.
pub(crate) fn visit_leaves<F>(object: &mut Map<String, Value>, paths: &[&str], visit: &mut F)
where
    F: FnMut(&str, &[usize], &mut Value),
{
    visit_object(object, paths, "", &mut Vec::new(), visit);
}

fn visit_object<F>(
    object: &mut Map<String, Value>,
    paths: &[&str],
    base: &str,
    indices: &mut Vec<usize>,
    visit: &mut F,
) where
    F: FnMut(&str, &[usize], &mut Value),
{
    for (key, value) in object.iter_mut() {
        let path = if base.is_empty() { key.clone() } else { format!("{base}.{key}") };
        if paths.iter().any(|named| is_at_or_below(named, &path) || is_at_or_below(&path, named)) {
            visit_value(value, paths, &path, indices, visit);
        }
    }
}

fn visit_value<F>(
    value: &mut Value,
    paths: &[&str],
    path: &str,
    indices: &mut Vec<usize>,
    visit: &mut F,
) where
    F: FnMut(&str, &[usize], &mut Value),
{
    match value {
        Value::Object(object) => visit_object(object, paths, path, indices, visit),
        Value::Array(values) => {
            for (index, value) in values.iter_mut().enumerate() {
                indices.push(index);
                visit_value(value, paths, path, indices, visit);
                indices.pop();
            }
        }
        leaf => visit(path, indices, leaf),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn selected(document: Value, paths: &[&str]) -> Value {
        match document {
            Value::Object(object) => Value::Object(select(object, paths)),
            other => other,
        }
    }

    #[test]
    fn paths_reach_into_objects_and_arrays() {
        let document = json!({
            "id": 1,
            "maker": {"name": "x", "town": "y"},
            "parts": [{"name": "a", "price": 1}, {"price": 2}, 3, [{"name": "b"}]],
        });
        assert_eq!(
            selected(document.clone(), &["id", "maker.name"]),
            json!({"id": 1, "maker": {"name": "x"}})
        );
        assert_eq!(
            selected(document.clone(), &["parts.name"]),
            json!({"parts": [{"name": "a"}, [{"name": "b"}]]})
        );
        assert_eq!(selected(document.clone(), &["maker.nothing"]), json!({"maker": {}}));
        assert_eq!(selected(document, &["id.nothing"]), json!({}));
    }

    #[test]
    fn a_key_spelled_with_a_dot_is_found() {
        assert_eq!(selected(json!({"a.b": 1, "a": 2}), &["a.b"]), json!({"a.b": 1}));
    }

    #[test]
    fn leaves_come_with_path_and_positions() {
        let mut document = json!({"a": [{"b": "x"}, {"b": ["y", "z"]}], "c": "no"});
        let mut seen = Vec::new();
        visit_leaves(document.as_object_mut().unwrap(), &["a"], &mut |path, indices, value| {
            seen.push((path.to_owned(), indices.to_vec(), value.clone()));
        });
        assert_eq!(
            seen,
            vec![
                ("a.b".to_owned(), vec![0], json!("x")),
                ("a.b".to_owned(), vec![1, 0], json!("y")),
                ("a.b".to_owned(), vec![1, 1], json!("z")),
            ]
        );
    }
}
