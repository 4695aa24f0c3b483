//! What nodes say when they refuse, made fit for clients.
//!
//! Nodes know indexes under other names, know our reserved fields, and display everything, so
//! their texts name what a client must not see. The rest of a text stays as it is.

use std::borrow::Cow;
use std::collections::BTreeSet;

use miroir_storage::routing::IndexRouting;
use miroir_wire::error::ResponseError;
use miroir_wire::reserved::{SHARD_FIELD, is_reserved};

use crate::disguise::undisguise;

/// Whose error is cleaned.
#[derive(Clone, Copy, Debug)]
pub struct ErrorContext<'a> {
    /// The index as the client named it, and as nodes name it.
    pub index: &'a IndexRouting,
    /// The client's displayed attributes; `None` for all.
    pub displayed: Option<&'a BTreeSet<String>>,
}

/// The error object in a node's answer; `None` when the body is something else.
pub fn read_error(body: &[u8]) -> Option<ResponseError> {
    serde_json::from_slice(body).ok()
}

/// Whether a node refused the shards' filter, which every read has, instead of what the client asked
/// for: the node lacks its settings, and another may have them. What a client says of that field
/// reaches nodes in disguise.
pub fn refuses_shards(error: &ResponseError) -> bool {
    error.message.contains(&format!("Attribute `{SHARD_FIELD}` is not filterable"))
}

/// `error` without node-side names.
pub fn clean_error(mut error: ResponseError, context: ErrorContext<'_>) -> ResponseError {
    let node_side = format!("`{}`", context.index.uid);
    let message = error.message.replace(&node_side, &format!("`{}`", context.index.name));
    let message = without_shards(&message);
    let message = undisguise(&message);
    let message = clean_lists(&message, context.displayed);
    error.message = renumber_rules(&message);
    error
}

/// The error of a task (its index already under the client's name) without reserved names.
pub fn clean_task_error(mut error: ResponseError) -> ResponseError {
    let message = undisguise(&error.message);
    error.message = renumber_rules(&clean_lists(&message, None));
    error
}

/// The message without the shards' filter. Since Meilisearch 1.47 the line that shows where a filter
/// is wrong (`{from}:{to} {filter}`) shows the filter as the engine would write it, ours beside the
/// client's: `(client's) AND (ours)`, or `(one) AND (other) AND (ours)` for an array.
fn without_shards(message: &str) -> Cow<'_, str> {
    without_shards_in_last_line(message).map_or(Cow::Borrowed(message), Cow::Owned)
}

fn without_shards_in_last_line(message: &str) -> Option<String> {
    let ours = [" AND (\"", " AND (NOT (\""].map(|before| format!("{before}{SHARD_FIELD}\""));
    let (before, line) = message.rsplit_once('\n')?;
    let (place, filter) = line.split_once(' ')?;
    let start = ours.iter().filter_map(|ours| filter.rfind(ours.as_str())).max()?;
    let filter = filter.get(..start)?;
    let Some(alone) = in_one_pair_of_brackets(filter) else {
        return Some(format!("{before}\n{place} {filter}"));
    };
    // The engine puts brackets only around what is joined to something.
    let (from, to) = place.split_once(':')?;
    let (from, to): (usize, usize) = (from.parse().ok()?, to.parse().ok()?);
    Some(format!("{before}\n{}:{} {alone}", from.saturating_sub(1), to.saturating_sub(1)))
}

/// What stands in the brackets that begin and end `filter`, if they are one pair.
fn in_one_pair_of_brackets(filter: &str) -> Option<&str> {
    let inside = filter.strip_prefix('(')?.strip_suffix(')')?;
    let (mut open, mut quoted, mut escaped) = (0_usize, false, false);
    for byte in inside.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'(' if !quoted => open += 1,
            b')' if !quoted => open = open.checked_sub(1)?,
            _ => {}
        }
    }
    (open == 0).then_some(inside)
}

/// Takes reserved names, and where Meilisearch does so names that are not displayed, out of the
/// lists in `Available … are: …`.
fn clean_lists(message: &str, displayed: Option<&BTreeSet<String>>) -> String {
    let mut out = String::with_capacity(message.len());
    let mut rest = message;
    while let Some(start) = rest.find("Available ") {
        let (before, from) = rest.split_at(start);
        out.push_str(before);
        let Some((head, list, tail)) = split_list(from) else {
            out.push_str(from);
            return out;
        };
        let hides = head.contains("sortable")
            || head.contains("searchable")
            || before.contains("cannot be used as distinct attribute");
        out.push_str(&clean_list(head, list, displayed.filter(|_| hides)));
        rest = tail;
    }
    out.push_str(rest);
    out
}

/// Splits ``Available x are: `a, b`. Tail`` into what stands before the list, the list with its
/// back-quotes, and what follows it (with the full stop).
fn split_list(text: &str) -> Option<(&str, &str, &str)> {
    let list_start = text.find(" are: `")? + " are: ".len();
    let (head, from) = text.split_at(list_start);
    let list_end = from.find("`.")? + 1;
    let (list, tail) = from.split_at(list_end);
    Some((head, list, tail))
}

fn clean_list(head: &str, list: &str, displayed: Option<&BTreeSet<String>>) -> String {
    const HIDDEN: &str = "<..hidden-attributes>";
    let each_quoted = list.contains("`, `");
    let separator = if each_quoted { "`, `" } else { ", " };
    let names = list.trim_matches('`').split(separator);
    let mut hidden = false;
    let mut kept: Vec<&str> = names
        .filter(|name| *name != HIDDEN && !is_reserved(name))
        .filter(|name| {
            let shown = displayed.is_none_or(|displayed| displayed.contains(*name));
            hidden |= !shown;
            shown
        })
        .collect();
    if kept.is_empty() {
        // The full stop follows.
        let kind = head.trim_start_matches("Available ").split(' ').next().unwrap_or_default();
        return format!("This index does not have configured {kind} attributes");
    }
    if hidden {
        kept.push(HIDDEN);
    }
    format!("{head}`{}`", kept.join(separator))
}

/// On nodes our own rule is the first of `filterableAttributes`; clients count from theirs.
fn renumber_rules(message: &str) -> String {
    const RULE: &str = "rule #";
    if !message.contains("ilterableAttributes") {
        return message.to_owned();
    }
    let mut parts = message.split(RULE);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out.push_str(RULE);
        let digits = part.bytes().take_while(u8::is_ascii_digit).count();
        let (number, rest) = part.split_at(digits);
        match number.parse::<usize>() {
            Ok(number) => out.push_str(&number.saturating_sub(1).to_string()),
            Err(_) => out.push_str(number),
        }
        out.push_str(rest);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_names_are_taken_out_of_lists() {
        for (said, cleaned) in [
            (
                "Attribute `x` is not filterable. Available filterable attribute patterns are: `_miroir_shard`, `genre`, `year`.\n1:2 x = 1",
                "Attribute `x` is not filterable. Available filterable attribute patterns are: `genre`, `year`.\n1:2 x = 1",
            ),
            (
                "Attribute `_mirOir_shard` is not filterable. Available filterable attribute patterns are: `_miroir_shard`.",
                "Attribute `_miroir_shard` is not filterable. This index does not have configured filterable attributes.",
            ),
            (
                "Invalid facet distribution: Attribute `x` is not filterable. Available filterable attributes patterns are: `_miroir_shard, genre`.",
                "Invalid facet distribution: Attribute `x` is not filterable. Available filterable attributes patterns are: `genre`.",
            ),
            (
                "Attribute `x` is not searchable. Available searchable attributes are: `_miroir_shard, id, title`.",
                "Attribute `x` is not searchable. Available searchable attributes are: `id, title`.",
            ),
        ] {
            assert_eq!(clean_lists(&undisguise(said), None), cleaned);
        }
    }

    #[test]
    fn names_that_are_not_displayed_are_hidden_where_meilisearch_hides_them() {
        let displayed = BTreeSet::from(["title".to_owned()]);
        assert_eq!(
            clean_lists(
                "Attribute `x` is not sortable. Available sortable attributes are: `price, title`.",
                Some(&displayed)
            ),
            "Attribute `x` is not sortable. Available sortable attributes are: `title, <..hidden-attributes>`."
        );
        let filterable = "Attribute `x` is not filterable. Available filterable attribute patterns are: `price`.";
        assert_eq!(clean_lists(filterable, Some(&displayed)), filterable);
    }

    #[test]
    fn the_shards_filter_is_not_shown() {
        let ours = r#"(NOT ("_miroir_shard" IN ["††", "†‡"]))"#;
        let also_ours = r#"("_miroir_shard" IN ["††"])"#;
        for (said, cleaned) in [
            (format!("3:8 (\"title\" = \"1\") AND {ours}"), "2:7 \"title\" = \"1\""),
            (format!("3:8 (\"title\" = \"1\") AND {also_ours}"), "2:7 \"title\" = \"1\""),
            (
                format!("18:19 ((\"a\" = \"(\\\"\") AND (\"b\" = \"2\")) AND {ours}"),
                "17:18 (\"a\" = \"(\\\"\") AND (\"b\" = \"2\")",
            ),
            (
                format!("3:4 (\"a\" = \"1\") AND (\"b\" = \"2\") AND {ours}"),
                "3:4 (\"a\" = \"1\") AND (\"b\" = \"2\")",
            ),
            ("1:2 x = _miroir_shard".to_owned(), "1:2 x = _miroir_shard"),
        ] {
            let head = "Attribute `x` is not filterable.\n";
            assert_eq!(without_shards(&format!("{head}{said}")), format!("{head}{cleaned}"));
        }
        assert_eq!(without_shards("no line of its own"), "no line of its own");
    }

    #[test]
    fn rules_are_counted_without_ours() {
        assert_eq!(
            renumber_rules("field `a` matched rule #2 in `filterableAttributes`, in rule #2"),
            "field `a` matched rule #1 in `filterableAttributes`, in rule #1"
        );
        assert_eq!(renumber_rules("rule #2"), "rule #2");
    }
}
