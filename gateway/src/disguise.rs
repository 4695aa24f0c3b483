//! Reserved names in what a client asks.
//!
//! A client that filters or sorts by a reserved field must be told what Meilisearch says of an
//! unknown attribute, while the nodes do know the field. So such a name is sent to the nodes under
//! a disguise of the same length (positions in error texts stay right) that no document has, and
//! taken out of it again in error texts.

use std::borrow::Cow;

use miroir_wire::reserved::PREFIX;
use serde_json::Value;

/// What stands in for [`PREFIX`]; of the same length.
const DISGUISED: &str = "_mirOir_";

/// `name` under its disguise when it begins like a reserved one (also `name:asc` and the like).
pub fn disguise(name: &str) -> Cow<'_, str> {
    match name.strip_prefix(PREFIX) {
        Some(rest) => Cow::Owned(format!("{DISGUISED}{rest}")),
        None => Cow::Borrowed(name),
    }
}

/// A text of a node without disguises.
pub fn undisguise(text: &str) -> Cow<'_, str> {
    if text.contains(DISGUISED) {
        Cow::Owned(text.replace(DISGUISED, PREFIX))
    } else {
        Cow::Borrowed(text)
    }
}

/// A filter with its reserved attribute names disguised; values stay as they are.
pub fn disguise_filter(filter: Value) -> Value {
    match filter {
        Value::String(text) if text.contains(PREFIX) => Value::String(disguise_expression(&text)),
        Value::Array(items) => Value::Array(items.into_iter().map(disguise_filter).collect()),
        other => other,
    }
}

fn disguise_expression(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(PREFIX) {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let is_name = starts_a_word(&out) && !follows_an_operator(&out);
        out.push_str(if is_name { DISGUISED } else { PREFIX });
        rest = from.get(PREFIX.len()..).unwrap_or_default();
    }
    out.push_str(rest);
    out
}

fn starts_a_word(before: &str) -> bool {
    before.chars().next_back().is_none_or(|c| !(c.is_alphanumeric() || "_-.".contains(c)))
}

/// Whether a value is expected after `before`.
fn follows_an_operator(before: &str) -> bool {
    let before = before.trim_end().trim_end_matches(['"', '\'']).trim_end();
    before.ends_with(['=', '<', '>', ',', '[']) || {
        let word = before.rsplit(' ').next().unwrap_or_default();
        ["TO", "CONTAINS", "WITH"].contains(&word)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_are_disguised_and_values_are_not() {
        for (filter, sent) in [
            ("_miroir_shard = 1", "_mirOir_shard = 1"),
            ("a = 1 AND NOT \"_miroir_shard\" EXISTS", "a = 1 AND NOT \"_mirOir_shard\" EXISTS"),
            ("a = _miroir_shard", "a = _miroir_shard"),
            ("a IN [ '_miroir_x', _miroir_y]", "a IN [ '_miroir_x', _miroir_y]"),
            ("x_miroir_shard = 1", "x_miroir_shard = 1"),
            ("(_miroir_shard IN [a])", "(_mirOir_shard IN [a])"),
        ] {
            assert_eq!(disguise_filter(json!([[filter]])), json!([[sent]]));
            assert_eq!(filter.len(), sent.len());
        }
    }

    #[test]
    fn disguises_come_off_again() {
        assert_eq!(undisguise(&disguise("_miroir_shard:asc")), "_miroir_shard:asc");
        assert_eq!(disguise("price:asc"), "price:asc");
    }
}
