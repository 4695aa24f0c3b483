//! Reads a configuration file into one tree of values that knows where each value stands.
//!
//! YAML and TOML both end here, so that every later complaint can name a line whatever the
//! format. Environment variables and flags are laid over the same tree.

use std::collections::BTreeMap;
use std::fmt;

use saphyr::{LoadableYamlNode, MarkedYaml, Scalar, YamlData};
use serde_json::{Map, Value};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::ConfigError;

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A line of the file, from 1.
    Line(usize),
    /// An environment variable.
    Variable(String),
    /// A command line flag.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(line) => write!(f, "line {line}"),
            Self::Variable(name) => write!(f, "variable {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// The two file formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `.yaml`, `.yml`.
    Yaml,
    /// `.toml`.
    Toml,
}

/// Values by dotted path (`nodes.0.url`), each with its origin.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    root: Map<String, Value>,
    origins: BTreeMap<String, Origin>,
}

impl Sources {
    /// Parses a file's text.
    ///
    /// # Errors
    /// Syntax errors, with their line; a file whose top level is not a table of keys.
    pub fn parse(text: &str, format: Format) -> Result<Self, ConfigError> {
        let mut sources = Self::default();
        let root = match format {
            Format::Yaml => sources.parse_yaml(text)?,
            Format::Toml => sources.parse_toml(text)?,
        };
        sources.root = match root {
            Value::Object(root) => root,
            Value::Null => Map::new(),
            _ => return Err(ConfigError::one(Origin::Line(1), "", "keys are expected here", None)),
        };
        Ok(sources)
    }

    /// All values as one JSON object.
    pub fn value(&self) -> Value {
        Value::Object(self.root.clone())
    }

    /// Where the value at `path`, or the nearest enclosing one, was written.
    pub fn origin(&self, path: &str) -> Option<&Origin> {
        let mut path = path;
        loop {
            if let Some(origin) = self.origins.get(path) {
                return Some(origin);
            }
            path = path.rsplit_once('.')?.0;
        }
    }

    /// Whether any layer has a value at exactly `path`.
    pub fn is_given(&self, path: &str) -> bool {
        self.origins.contains_key(path)
    }

    /// Puts `value` at `path`, over whatever stands there. Only tables lie on the way: what
    /// else does is replaced, and a later check complains about its kind.
    pub fn set(&mut self, path: &str, value: Value, origin: Origin) {
        let mut table = &mut self.root;
        let mut keys = path.split('.').peekable();
        while let Some(key) = keys.next() {
            if keys.peek().is_none() {
                table.insert(key.to_owned(), value);
                break;
            }
            let child = table.entry(key.to_owned()).or_insert_with(|| Value::Object(Map::new()));
            if !child.is_object() {
                *child = Value::Object(Map::new());
            }
            let Value::Object(next) = child else { return };
            table = next;
        }
        let below = format!("{path}.");
        self.origins.retain(|known, _| !known.starts_with(&below));
        self.origins.insert(path.to_owned(), origin);
    }

    fn parse_yaml(&mut self, text: &str) -> Result<Value, ConfigError> {
        let documents = MarkedYaml::load_from_str(text).map_err(|error| {
            let line = error.marker().line();
            ConfigError::one(Origin::Line(line), "", &format!("not YAML: {}", error.info()), None)
        })?;
        match documents.as_slice() {
            [] => Ok(Value::Null),
            [document] => self.read_yaml(document, String::new()),
            [_, second, ..] => Err(ConfigError::one(
                Origin::Line(second.span.start.line()),
                "",
                "a second YAML document begins here",
                Some("keep everything in one document, without a --- in between".to_owned()),
            )),
        }
    }

    fn read_yaml(&mut self, node: &MarkedYaml<'_>, path: String) -> Result<Value, ConfigError> {
        let origin = Origin::Line(node.span.start.line());
        let value = match &node.data {
            YamlData::Value(scalar) => match scalar {
                Scalar::Null => Value::Null,
                Scalar::Boolean(value) => Value::from(*value),
                Scalar::Integer(value) => Value::from(*value),
                Scalar::FloatingPoint(value) => Value::from(value.into_inner()),
                Scalar::String(value) => Value::from(value.as_ref()),
            },
            YamlData::Sequence(items) => {
                let mut list = Vec::with_capacity(items.len());
                for (at, item) in items.iter().enumerate() {
                    list.push(self.read_yaml(item, join(&path, &at.to_string()))?);
                }
                Value::Array(list)
            }
            YamlData::Mapping(entries) => {
                let mut table = Map::new();
                for (key, item) in entries {
                    let line = Origin::Line(key.span.start.line());
                    let YamlData::Value(Scalar::String(key)) = &key.data else {
                        return Err(ConfigError::one(line, &path, "a key must be text", None));
                    };
                    let below = join(&path, key);
                    let value = self.read_yaml(item, below.clone())?;
                    self.origins.insert(below, line);
                    table.insert(key.to_string(), value);
                }
                Value::Object(table)
            }
            _ => {
                let hint = "tags and aliases are not used here; write the value out".to_owned();
                return Err(ConfigError::one(
                    origin,
                    &path,
                    "this is not a plain value",
                    Some(hint),
                ));
            }
        };
        self.origins.insert(path, origin);
        Ok(value)
    }

    fn parse_toml(&mut self, text: &str) -> Result<Value, ConfigError> {
        let table = DeTable::parse(text).map_err(|error| {
            let line = error.span().map_or(1, |span| line_at(text, span.start));
            ConfigError::one(
                Origin::Line(line),
                "",
                &format!("not TOML: {}", error.message()),
                None,
            )
        })?;
        self.read_toml_table(text, table.get_ref(), "")
    }

    fn read_toml_table(
        &mut self,
        text: &str,
        entries: &DeTable<'_>,
        path: &str,
    ) -> Result<Value, ConfigError> {
        let mut table = Map::new();
        for (key, item) in entries {
            let below = join(path, key.get_ref());
            let value = self.read_toml(text, item, below.clone())?;
            self.origins.insert(below, Origin::Line(line_at(text, key.span().start)));
            table.insert(key.get_ref().to_string(), value);
        }
        Ok(Value::Object(table))
    }

    fn read_toml(
        &mut self,
        text: &str,
        item: &Spanned<DeValue<'_>>,
        path: String,
    ) -> Result<Value, ConfigError> {
        let origin = Origin::Line(line_at(text, item.span().start));
        let refuse = |what: &str| Err(ConfigError::one(origin.clone(), &path, what, None));
        let value = match item.get_ref() {
            DeValue::String(value) => Value::from(value.as_ref()),
            DeValue::Boolean(value) => Value::from(*value),
            DeValue::Integer(value) => match i64::from_str_radix(value.as_str(), value.radix()) {
                Ok(value) => Value::from(value),
                Err(_) => return refuse("this number is too large"),
            },
            DeValue::Float(value) => match value.as_str().parse::<f64>() {
                Ok(value) => Value::from(value),
                Err(_) => return refuse("this is not a number"),
            },
            DeValue::Datetime(_) => return refuse("no setting is a date"),
            DeValue::Array(items) => {
                let mut list = Vec::with_capacity(items.len());
                for (at, item) in items.iter().enumerate() {
                    list.push(self.read_toml(text, item, join(&path, &at.to_string()))?);
                }
                Value::Array(list)
            }
            DeValue::Table(entries) => self.read_toml_table(text, entries, &path)?,
        };
        self.origins.insert(path, origin);
        Ok(value)
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// The line, from 1, of the byte at `offset`.
fn line_at(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    const YAML: &str = "server:\n  http_addr: 127.0.0.1:1\nnodes:\n  - id: a\n    group: 1\n";
    const TOML: &str =
        "[server]\nhttp_addr = \"127.0.0.1:1\"\n\n[[nodes]]\nid = \"a\"\ngroup = 1\n";

    #[test]
    fn both_formats_give_the_same_values() {
        let yaml = Sources::parse(YAML, Format::Yaml).expect("valid");
        let toml = Sources::parse(TOML, Format::Toml).expect("valid");
        assert_eq!(yaml.value(), toml.value());
        assert_eq!(yaml.origin("nodes.0.group"), Some(&Origin::Line(5)));
        assert_eq!(toml.origin("nodes.0.group"), Some(&Origin::Line(6)));
        assert_eq!(yaml.origin("server.http_addr.deeper"), Some(&Origin::Line(2)));
    }

    #[test]
    fn a_later_layer_wins_and_is_named() {
        let mut sources = Sources::parse(YAML, Format::Yaml).expect("valid");
        let origin = Origin::Variable("MIROIR_SERVER_HTTP_ADDR".to_owned());
        sources.set("server.http_addr", Value::from("x"), origin.clone());
        assert_eq!(sources.value().pointer("/server/http_addr"), Some(&Value::from("x")));
        assert_eq!(sources.origin("server.http_addr"), Some(&origin));
    }

    #[test]
    fn syntax_errors_name_their_line() {
        for (text, format, line) in [
            ("server:\n  a: 1\n  a: 2\n", Format::Yaml, "line 3"),
            ("server:\n  a: [1\n", Format::Yaml, "line "),
            ("[server]\na = 1\na = 2\n", Format::Toml, "line 3"),
            ("a: 1\n---\nb: 2\n", Format::Yaml, "line 3"),
        ] {
            let error = Sources::parse(text, format).expect_err("refused").to_string();
            assert!(error.contains(line), "{error}");
        }
    }
}
