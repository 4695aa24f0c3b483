//! Filter expressions. Every operand of `AND`, `OR` and `NOT` stands in parentheses, so that
//! the shrinker can take an expression apart without knowing the grammar.

use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha12Rng;
use serde_json::{Value, json};

use super::profile::Profile;

/// How deep `AND`, `OR` and `NOT` nest.
const DEPTH_MAX: u32 = 3;

/// A filter in string or array form.
pub fn draw_filter(rng: &mut ChaCha12Rng, profile: &Profile) -> Value {
    match rng.random_range(0..10) {
        0..7 => json!(expression(rng, profile, DEPTH_MAX)),
        7 | 8 => {
            let count = rng.random_range(1..=3);
            json!((0..count).map(|_| expression(rng, profile, 1)).collect::<Vec<_>>())
        }
        _ => json!([
            expression(rng, profile, 0),
            [expression(rng, profile, 0), expression(rng, profile, 1)]
        ]),
    }
}

fn expression(rng: &mut ChaCha12Rng, profile: &Profile, depth: u32) -> String {
    let kind = if depth == 0 { 0 } else { rng.random_range(0..10) };
    match kind {
        0..5 => condition(rng, profile),
        5 | 6 => format!(
            "({}) AND ({})",
            expression(rng, profile, depth - 1),
            expression(rng, profile, depth - 1)
        ),
        7 | 8 => format!(
            "({}) OR ({})",
            expression(rng, profile, depth - 1),
            expression(rng, profile, depth - 1)
        ),
        _ => format!("NOT ({})", expression(rng, profile, depth - 1)),
    }
}

fn condition(rng: &mut ChaCha12Rng, profile: &Profile) -> String {
    match rng.random_range(0..100) {
        0..30 => number_condition(rng, profile),
        30..55 => category_condition(rng, profile),
        55..65 => presence_condition(rng, profile),
        65..73 => mixed_condition(rng),
        73..85 => id_condition(rng, profile),
        85..95 => geo_condition(rng, profile),
        _ => ["flag = true", "flag = false", "flag != true", "flag EXISTS"]
            .choose(rng)
            .copied()
            .unwrap_or("flag = true")
            .to_owned(),
    }
}

fn number_condition(rng: &mut ChaCha12Rng, profile: &Profile) -> String {
    let Some(field) = profile.numbers.choose(rng) else { return "nested.score > 50".to_owned() };
    let name = &field.name;
    let mut value = || field.values.choose(rng).copied().unwrap_or(0.0);
    let (a, b, c) = (value(), value(), value());
    match rng.random_range(0..9) {
        0 => format!("{name} = {a}"),
        1 => format!("{name} != {a}"),
        2 => format!("{name} > {a}"),
        3 => format!("{name} >= {a}"),
        4 => format!("{name} < {a}"),
        5 => format!("{name} <= {a}"),
        6 => format!("{name} {} TO {}", a.min(b), a.max(b)),
        7 => format!("{name} IN [{a}, {b}, {c}]"),
        _ => format!("{name} NOT IN [{a}, {b}]"),
    }
}

fn category_condition(rng: &mut ChaCha12Rng, profile: &Profile) -> String {
    let Some(field) = profile.categories.choose(rng) else { return "bucket EXISTS".to_owned() };
    let name = &field.name;
    let mut value = || field.values.choose(rng).map_or_else(|| "\"\"".to_owned(), |v| quote(v));
    let (a, b, c) = (value(), value(), value());
    match rng.random_range(0..7) {
        0 | 1 => format!("{name} = {a}"),
        2 => format!("{name} != {a}"),
        3 | 4 => format!("{name} IN [{a}, {b}, {c}]"),
        5 => format!("{name} NOT IN [{a}, {b}]"),
        // Equality does not care about case.
        _ => format!("{name} = {}", a.to_lowercase()),
    }
}

fn presence_condition(rng: &mut ChaCha12Rng, profile: &Profile) -> String {
    let category = profile.categories.choose(rng).map(|field| field.name.as_str());
    let number = profile.numbers.choose(rng).map(|field| field.name.as_str());
    let fields = ["empty", "mixed", category.unwrap_or("bucket"), number.unwrap_or("flag")];
    let field = fields.choose(rng).copied().unwrap_or("empty");
    let operator = ["EXISTS", "NOT EXISTS", "IS NULL", "IS NOT NULL", "IS EMPTY", "IS NOT EMPTY"]
        .choose(rng)
        .copied()
        .unwrap_or("EXISTS");
    format!("{field} {operator}")
}

fn mixed_condition(rng: &mut ChaCha12Rng) -> String {
    let number = rng.random_range(0..60);
    match rng.random_range(0..4) {
        0 => format!("mixed = {number}"),
        1 => format!("mixed > {number}"),
        2 => format!("mixed = word{}", number % 25),
        _ => format!("mixed IN [{number}, \"Word{}\"]", number % 25),
    }
}

/// Ids: what a planner may narrow the shards by.
fn id_condition(rng: &mut ChaCha12Rng, profile: &Profile) -> String {
    let count = match rng.random_range(0..4) {
        0 => 1,
        1 => rng.random_range(2..6),
        2 => rng.random_range(6..60),
        _ => 150,
    };
    let ids: Vec<String> = (0..count)
        .filter_map(|_| profile.ids.choose(rng))
        .map(|id| if profile.numeric_ids { id.clone() } else { quote(id) })
        .collect();
    match (ids.as_slice(), rng.random_range(0..4)) {
        ([id], 0) => format!("id != {id}"),
        ([id], _) => format!("id = {id}"),
        (_, 0) => format!("id NOT IN [{}]", ids.join(", ")),
        _ => format!("id IN [{}]", ids.join(", ")),
    }
}

fn geo_condition(rng: &mut ChaCha12Rng, profile: &Profile) -> String {
    let Some((lat, lng)) = profile.points.choose(rng).copied() else {
        return "_geo EXISTS".to_owned();
    };
    if rng.random_bool(0.5) {
        let metres = [20_000, 500_000, 3_000_000, 9_000_000].choose(rng).copied().unwrap_or(1);
        format!("_geoRadius({lat}, {lng}, {metres})")
    } else {
        let (height, width) = (rng.random_range(1.0..60.0), rng.random_range(1.0..120.0));
        let (top, bottom) = ((lat + height).min(89.0), (lat - height).max(-89.0));
        let (right, left) = ((lng + width).min(179.9), (lng - width).max(-179.9));
        format!("_geoBoundingBox([{top:.4}, {right:.4}], [{bottom:.4}, {left:.4}])")
    }
}

/// `text` as a quoted filter value.
pub fn quote(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Simpler filters that could still show the same fault: parts of arrays, operands of `AND`,
/// `OR` and `NOT`, shorter `IN` lists.
pub fn simpler_filters(filter: &Value) -> Vec<Value> {
    match filter {
        Value::Array(items) => {
            let mut simpler = Vec::new();
            for (n, item) in items.iter().enumerate() {
                simpler.push(item.clone());
                let mut rest = items.clone();
                rest.remove(n);
                if !rest.is_empty() {
                    simpler.push(json!(rest));
                }
                for part in simpler_filters(item) {
                    let mut changed = items.clone();
                    changed[n] = part;
                    simpler.push(json!(changed));
                }
            }
            simpler
        }
        Value::String(text) => simpler_expressions(text).into_iter().map(Value::String).collect(),
        _ => Vec::new(),
    }
}

/// Simpler forms of one expression, the simplest first.
fn simpler_expressions(text: &str) -> Vec<String> {
    let groups = outer_groups(text);
    if groups.is_empty() {
        return shorter_lists(text);
    }
    let mut simpler: Vec<String> =
        groups.iter().map(|(from, to)| text[*from..*to].to_owned()).collect();
    for (from, to) in &groups {
        for inner in simpler_expressions(&text[*from..*to]) {
            simpler.push(format!("{}{inner}{}", &text[..*from], &text[*to..]));
        }
    }
    simpler
}

/// Byte ranges inside the outermost parentheses that hold whole expressions.
fn outer_groups(text: &str) -> Vec<(usize, usize)> {
    let operand = text.starts_with('(') || text.starts_with("NOT (");
    if !operand {
        return Vec::new();
    }
    let (mut groups, mut depth, mut start) = (Vec::new(), 0, 0);
    let (mut quoted, mut escaped) = (false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '(' if !quoted => {
                depth += 1;
                if depth == 1 {
                    start = at + 1;
                }
            }
            ')' if !quoted => {
                depth -= 1;
                if depth == 0 {
                    groups.push((start, at));
                }
            }
            _ => {}
        }
    }
    groups
}

/// `x IN [a, b, c, d]` with the first or the second half of the list.
fn shorter_lists(text: &str) -> Vec<String> {
    let Some((head, list)) = text.split_once("IN [") else { return Vec::new() };
    let Some(list) = list.strip_suffix(']') else { return Vec::new() };
    let items: Vec<&str> = list.split(", ").collect();
    if items.len() < 2 {
        return Vec::new();
    }
    let (left, right) = items.split_at(items.len() / 2);
    [left, right].map(|half| format!("{head}IN [{}]", half.join(", "))).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_comes_apart_at_its_operands() {
        let text = "(a = \"(x\") AND (NOT (b > 3))";
        let simpler = simpler_expressions(text);
        assert_eq!(simpler[..2], ["a = \"(x\"".to_owned(), "NOT (b > 3)".to_owned()]);
        assert!(simpler.contains(&"(a = \"(x\") AND (b > 3)".to_owned()));
        assert!(simpler_expressions("_geoRadius(1, 2, 3)").is_empty());
        assert_eq!(simpler_expressions("id IN [1, 2, 3]"), ["id IN [1]", "id IN [2, 3]"]);
    }

    #[test]
    fn an_array_loses_its_items_one_by_one() {
        let simpler = simpler_filters(&json!(["a = 1", ["b = 2", "c = 3"]]));
        assert!(simpler.contains(&json!("a = 1")));
        assert!(simpler.contains(&json!(["a = 1", ["c = 3"]])));
    }
}
