//! A small part of Meilisearch's filter language, enough for what the pod and the workload send:
//! `attribute = value`, `!=`, `IN [..]`, `NOT`, `AND`, `OR`, parentheses, and the array form.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

/// A filter that was read.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Filter {
    All(Vec<Filter>),
    Any(Vec<Filter>),
    Not(Box<Filter>),
    In { attribute: String, values: Vec<String> },
}

impl Filter {
    /// Reads the string or array form; `None` when it is none of ours.
    pub(super) fn parse(filter: &Value) -> Option<Self> {
        match filter {
            Value::String(text) => parse_text(text),
            Value::Array(all) => {
                let all = all.iter().map(|item| match item {
                    Value::Array(any) => {
                        any.iter().map(Self::parse).collect::<Option<Vec<_>>>().map(Self::Any)
                    }
                    other => Self::parse(other),
                });
                Some(Self::All(all.collect::<Option<Vec<_>>>()?))
            }
            _ => None,
        }
    }

    pub(super) fn attributes(&self, into: &mut BTreeSet<String>) {
        match self {
            Self::All(items) | Self::Any(items) => {
                items.iter().for_each(|item| item.attributes(into));
            }
            Self::Not(item) => item.attributes(into),
            Self::In { attribute, .. } => {
                into.insert(attribute.clone());
            }
        }
    }

    pub(super) fn matches(&self, document: &Map<String, Value>) -> bool {
        match self {
            Self::All(items) => items.iter().all(|item| item.matches(document)),
            Self::Any(items) => items.iter().any(|item| item.matches(document)),
            Self::Not(item) => !item.matches(document),
            Self::In { attribute, values } => match document.get(attribute) {
                Some(Value::Array(items)) => items.iter().any(|item| equals_any(item, values)),
                Some(value) => equals_any(value, values),
                None => false,
            },
        }
    }
}

fn equals_any(value: &Value, wanted: &[String]) -> bool {
    let text = match value {
        Value::String(text) => text.to_lowercase(),
        other => other.to_string(),
    };
    wanted.iter().any(|wanted| wanted.to_lowercase() == text)
}

fn parse_text(text: &str) -> Option<Filter> {
    let tokens = tokens(text)?;
    let mut rest = tokens.as_slice();
    let filter = any(&mut rest)?;
    rest.is_empty().then_some(filter)
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Word(String),
    Mark(&'static str),
}

fn tokens(text: &str) -> Option<Vec<Token>> {
    const MARKS: [&str; 7] = ["!=", "=", "[", "]", "(", ")", ","];
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        if let Some(mark) = MARKS.iter().find(|mark| rest.starts_with(**mark)) {
            found.push(Token::Mark(mark));
            rest = rest.get(mark.len()..)?;
        } else if first == '"' || first == '\'' {
            let body = rest.get(1..)?;
            let end = body.find(first)?;
            found.push(Token::Word(body.get(..end)?.to_owned()));
            rest = body.get(end + 1..)?;
        } else {
            let end = rest.find(|c: char| c.is_whitespace() || "!=[](),".contains(c));
            let end = end.unwrap_or(rest.len());
            found.push(Token::Word(rest.get(..end)?.to_owned()));
            rest = rest.get(end..)?;
        }
        rest = rest.trim_start();
    }
    Some(found)
}

fn take_word(rest: &mut &[Token]) -> Option<String> {
    match rest.split_first()? {
        (Token::Word(word), tail) => {
            *rest = tail;
            Some(word.clone())
        }
        _ => None,
    }
}

fn take(rest: &mut &[Token], wanted: &Token) -> bool {
    match rest.split_first() {
        Some((found, tail)) if found == wanted => {
            *rest = tail;
            true
        }
        _ => false,
    }
}

fn keyword(word: &str) -> Token {
    Token::Word(word.to_owned())
}

fn any(rest: &mut &[Token]) -> Option<Filter> {
    let mut items = vec![all(rest)?];
    while take(rest, &keyword("OR")) {
        items.push(all(rest)?);
    }
    Some(if items.len() == 1 { items.remove(0) } else { Filter::Any(items) })
}

fn all(rest: &mut &[Token]) -> Option<Filter> {
    let mut items = vec![single(rest)?];
    while take(rest, &keyword("AND")) {
        items.push(single(rest)?);
    }
    Some(if items.len() == 1 { items.remove(0) } else { Filter::All(items) })
}

fn single(rest: &mut &[Token]) -> Option<Filter> {
    if take(rest, &keyword("NOT")) {
        return Some(Filter::Not(Box::new(single(rest)?)));
    }
    if take(rest, &Token::Mark("(")) {
        let inner = any(rest)?;
        return take(rest, &Token::Mark(")")).then_some(inner);
    }
    let attribute = take_word(rest)?;
    let negated = take(rest, &keyword("NOT"));
    if take(rest, &Token::Mark("=")) {
        return Some(Filter::In { attribute, values: vec![take_word(rest)?] });
    }
    if take(rest, &Token::Mark("!=")) {
        let equal = Filter::In { attribute, values: vec![take_word(rest)?] };
        return Some(Filter::Not(Box::new(equal)));
    }
    if !take(rest, &keyword("IN")) || !take(rest, &Token::Mark("[")) {
        return None;
    }
    let mut values = Vec::new();
    while !take(rest, &Token::Mark("]")) {
        values.push(take_word(rest)?);
        let _comma = take(rest, &Token::Mark(","));
    }
    let within = Filter::In { attribute, values };
    Some(if negated { Filter::Not(Box::new(within)) } else { within })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn filters_match_as_meilisearch_would() {
        let document = json!({"a": "X", "n": 2, "_miroir_shard": "†‡"});
        let document = document.as_object().cloned().unwrap_or_default();
        let matches = |filter: Value| Filter::parse(&filter).map(|f| f.matches(&document));
        assert_eq!(matches(json!("a = x")), Some(true));
        assert_eq!(matches(json!("n IN [1, 2] AND a != y")), Some(true));
        assert_eq!(matches(json!(["a = x", ["n = 1", "n = 3"]])), Some(false));
        assert_eq!(matches(json!("_miroir_shard NOT IN [\"††\"]")), Some(true));
        assert_eq!(matches(json!("NOT (a = x OR n = 2)")), Some(false));
        assert_eq!(matches(json!("a >< b")), None);
    }
}
