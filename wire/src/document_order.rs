//! The order of a listing of documents: `sort` of `GET documents` and `POST documents/fetch`, which
//! Meilisearch has since 1.16.
//!
//! Documents are compared by what a search would sort them by: the engine's facet values. Numbers
//! come before strings, both in the wanted direction; of several values of one document the first in
//! that direction counts; documents without any come last, whatever the direction.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeSet;

use serde_json::{Map, Value};
use unicode_normalization::UnicodeNormalization;

use crate::error::{ApiError, Code};

/// Longest normalised string value the engine keeps, bytes; longer ones are cut.
const VALUE_BYTES_MAX: usize = 468;
/// The field of places.
const GEO: &str = "_geo";
/// Mean radius of the Earth as the engine has it, metres.
const EARTH_RADIUS: f64 = 6_371_000.0;

/// The form under which the engine counts and sorts a string value: trimmed, compatibility
/// decomposed, lower case, cut to what fits its keys.
pub fn normalize_string(original: &str) -> Cow<'_, str> {
    let trimmed = original.trim();
    let plain = |byte: u8| byte.is_ascii() && !byte.is_ascii_uppercase();
    if trimmed.len() <= VALUE_BYTES_MAX && trimmed.bytes().all(plain) {
        return Cow::Borrowed(trimmed);
    }
    let mut normal = if trimmed.is_ascii() {
        trimmed.to_ascii_lowercase()
    } else {
        trimmed.nfkd().collect::<String>().to_lowercase()
    };
    let end = (0..=VALUE_BYTES_MAX).rev().find(|&at| normal.is_char_boundary(at)).unwrap_or(0);
    normal.truncate(end);
    Cow::Owned(normal)
}

/// By what documents are sorted, most important first.
#[derive(Clone, Debug, PartialEq)]
pub struct DocumentOrder(Vec<SortBy>);

#[derive(Clone, Debug, PartialEq)]
struct SortBy {
    by: By,
    ascending: bool,
}

#[derive(Clone, Debug, PartialEq)]
enum By {
    Field(String),
    /// Latitude and longitude, degrees.
    Distance([f64; 2]),
}

/// Where a document stands in an order.
#[derive(Clone, Debug, PartialEq)]
pub struct DocumentPlace(Vec<SortKey>);

#[derive(Clone, Debug, PartialEq)]
enum SortKey {
    Number(f64),
    Text(String),
    Missing,
}

impl DocumentOrder {
    /// Reads `sort`.
    ///
    /// # Errors
    /// `invalid_document_sort`.
    pub fn read(sort: &[String]) -> Result<Self, ApiError> {
        let rules = sort.iter().map(|rule| SortBy::read(rule)).collect::<Result<_, _>>();
        rules.map(Self).map_err(refusal)
    }

    /// Whether the index sorts by these: `sortable` are its `sortableAttributes`, of which each stands
    /// for the fields inside it, too.
    ///
    /// # Errors
    /// `invalid_document_sort`.
    pub fn check_sortable(&self, sortable: &BTreeSet<String>) -> Result<(), ApiError> {
        let is_within = |field: &str, known: &str| {
            field.strip_prefix(known).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        for name in self.fields() {
            if sortable.iter().any(|known| is_within(name, known)) {
                continue;
            }
            let listed: Vec<&str> = sortable.iter().map(String::as_str).collect();
            let hint = match listed.is_empty() {
                true => "This index does not have configured sortable attributes.".to_owned(),
                false => format!("Available sortable attributes are: `{}`.", listed.join(", ")),
            };
            return Err(refusal(format!("Attribute `{name}` is not sortable. {hint}")));
        }
        Ok(())
    }

    /// The fields that must be known of a document to place it.
    pub fn fields(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|rule| match &rule.by {
            By::Field(name) => name.as_str(),
            By::Distance(_) => GEO,
        })
    }

    /// Where a document stands.
    pub fn place(&self, document: &Map<String, Value>) -> DocumentPlace {
        DocumentPlace(self.0.iter().map(|rule| rule.key(document)).collect())
    }

    /// `Less` when `left` comes first.
    pub fn compare(&self, left: &DocumentPlace, right: &DocumentPlace) -> Ordering {
        let keys = left.0.iter().zip(&right.0);
        let orders = self.0.iter().zip(keys).map(|(rule, (a, b))| a.compare(b, rule.ascending));
        orders.fold(Ordering::Equal, Ordering::then)
    }
}

fn refusal(message: String) -> ApiError {
    ApiError::new(Code::InvalidDocumentSort, message)
}

impl SortBy {
    /// As the engine reads it; the error is its text.
    fn read(rule: &str) -> Result<Self, String> {
        let (name, ascending) = match rule.rsplit_once(':') {
            Some((name, "asc")) => (name, true),
            Some((name, "desc")) => (name, false),
            _ => {
                return Err(format!(
                    "Invalid syntax for the sort parameter: expected expression ending by `:asc` or `:desc`, found `{rule}`."
                ));
            }
        };
        if let Some(point) = name.strip_prefix("_geoPoint(").and_then(|rest| rest.strip_suffix(')'))
        {
            let by = By::Distance(read_point(name, point)?);
            return Ok(Self { by, ascending });
        }
        let begins = |prefix: &str| name.starts_with(prefix);
        let reserved = "is a reserved keyword and thus can't be used as a sort expression.";
        let hint = "Use the _geoPoint(latitude, longitude) built-in rule to sort on _geo field coordinates.";
        match name {
            _ if begins("_geoPoint") => Err(bad_point(name)),
            _ if name == GEO || begins("_geo(") => Err(format!("`{name}` {reserved} {hint}")),
            _ if begins("_geoRadius") || begins("_geoBoundingBox") => {
                Err(format!("`{name}` {reserved} {hint}"))
            }
            _ if begins("_geoDistance") => Err(format!("`{name}` {reserved}")),
            _ => Ok(Self { by: By::Field(name.to_owned()), ascending }),
        }
    }

    fn key(&self, document: &Map<String, Value>) -> SortKey {
        let field = match &self.by {
            By::Field(field) => field,
            By::Distance(from) => {
                let place = document.get(GEO).and_then(place_of);
                return place.map_or(SortKey::Missing, |to| SortKey::Number(distance(*from, to)));
            }
        };
        let mut best = SortKey::Missing;
        let mut note = |key: SortKey| {
            if key.compare(&best, self.ascending).is_lt() {
                best = key;
            }
        };
        visit(document, field, &mut note);
        best
    }
}

fn bad_point(name: &str) -> String {
    format!(
        "Invalid syntax for the geo parameter: expected expression formated like `_geoPoint(latitude, longitude)` and ending by `:asc` or `:desc`, found `{name}`."
    )
}

fn read_point(name: &str, point: &str) -> Result<[f64; 2], String> {
    let read = |text: &str| text.trim().parse::<f64>().ok();
    let both = point.split_once(',').and_then(|(lat, lng)| Some([read(lat)?, read(lng)?]));
    let [lat, lng] = both.ok_or_else(|| bad_point(name))?;
    if !(-90.0..=90.0).contains(&lat) {
        return Err(format!(
            "Bad latitude `{lat}`. Latitude must be contained between -90 and 90 degrees. "
        ));
    }
    if !(-180.0..=180.0).contains(&lng) {
        return Err(format!(
            "Bad longitude `{lng}`. Longitude must be contained between -180 and 180 degrees. "
        ));
    }
    Ok([lat, lng])
}

impl SortKey {
    fn compare(&self, other: &Self, ascending: bool) -> Ordering {
        let directed = |order: Ordering| if ascending { order } else { order.reverse() };
        match (self, other) {
            (Self::Missing, Self::Missing) => Ordering::Equal,
            (Self::Missing, _) => Ordering::Greater,
            (_, Self::Missing) => Ordering::Less,
            (Self::Number(_), Self::Text(_)) => Ordering::Less,
            (Self::Text(_), Self::Number(_)) => Ordering::Greater,
            (Self::Number(left), Self::Number(right)) => directed(left.total_cmp(right)),
            (Self::Text(left), Self::Text(right)) => directed(left.cmp(right)),
        }
    }
}

/// Every value at a dotted path, through objects and lists; a key may have dots itself.
fn visit(object: &Map<String, Value>, path: &str, note: &mut impl FnMut(SortKey)) {
    for (key, value) in object {
        match path.strip_prefix(key.as_str()) {
            Some("") => visit_leaves(value, note),
            Some(rest) => {
                if let Some(rest) = rest.strip_prefix('.') {
                    visit_inside(value, rest, note);
                }
            }
            None => {}
        }
    }
}

fn visit_inside(value: &Value, path: &str, note: &mut impl FnMut(SortKey)) {
    match value {
        Value::Object(object) => visit(object, path, note),
        Value::Array(all) => all.iter().for_each(|value| visit_inside(value, path, note)),
        _ => {}
    }
}

fn visit_leaves(value: &Value, note: &mut impl FnMut(SortKey)) {
    match value {
        Value::Number(number) => {
            number.as_f64().into_iter().for_each(|number| note(SortKey::Number(number)));
        }
        Value::Bool(value) => note(SortKey::Text(value.to_string())),
        Value::String(text) => note(SortKey::Text(normalize_string(text).into_owned())),
        Value::Array(all) => all.iter().for_each(|value| visit_leaves(value, note)),
        Value::Null | Value::Object(_) => {}
    }
}

/// The point in a document's `_geo`; numbers may be written as strings.
fn place_of(geo: &Value) -> Option<[f64; 2]> {
    let number = |name: &str| match geo.get(name)? {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    };
    Some([number("lat")?, number("lng")?])
}

/// Metres between two points on a sphere, by the haversine formula.
fn distance(from: [f64; 2], to: [f64; 2]) -> f64 {
    let [lat_a, lng_a, lat_b, lng_b] = [from[0], from[1], to[0], to[1]].map(f64::to_radians);
    let (lat, lng) = (lat_b - lat_a, lng_b - lng_a);
    let a = (lat / 2.0).sin().powi(2) + lat_a.cos() * lat_b.cos() * (lng / 2.0).sin().powi(2);
    2.0 * EARTH_RADIUS * a.sqrt().min(1.0).asin()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn order(sort: &[&str]) -> Result<DocumentOrder, String> {
        let sort: Vec<String> = sort.iter().map(|rule| (*rule).to_owned()).collect();
        DocumentOrder::read(&sort).map_err(|error| error.message)
    }

    fn sorted(sort: &[&str], documents: &[Value]) -> Vec<u64> {
        let Ok(order) = order(sort) else { panic!("{sort:?}") };
        let place = |value: &Value| (order.place(value.as_object().unwrap()), value["id"].as_u64());
        let mut all: Vec<_> = documents.iter().map(place).collect();
        all.sort_by(|(a, _), (b, _)| order.compare(a, b));
        all.into_iter().filter_map(|(_, id)| id).collect()
    }

    #[test]
    fn values_that_differ_in_case_width_or_space_are_one() {
        assert_eq!(normalize_string(" Science Fiction "), "science fiction");
        assert_eq!(normalize_string("ÉTÉ"), normalize_string("e\u{301}te\u{301}"));
        assert_eq!(normalize_string("ﬁn"), "fin");
        assert_eq!(normalize_string(&"x".repeat(600)).len(), VALUE_BYTES_MAX);
        assert_eq!(normalize_string(&"é".repeat(600)).len() % 3, 0);
    }

    #[test]
    fn numbers_come_before_strings_and_what_is_missing_last() {
        let documents = [
            json!({"id": 1, "v": "b"}),
            json!({"id": 2, "v": 10}),
            json!({"id": 3}),
            json!({"id": 4, "v": "A"}),
            json!({"id": 5, "v": 9.5}),
            json!({"id": 6, "v": null}),
            json!({"id": 7, "v": [12, 1]}),
        ];
        assert_eq!(sorted(&["v:asc"], &documents), [7, 5, 2, 4, 1, 3, 6]);
        assert_eq!(sorted(&["v:desc"], &documents), [7, 2, 5, 1, 4, 3, 6]);
    }

    #[test]
    fn fields_inside_others_and_ties_are_followed() {
        let documents = [
            json!({"id": 1, "a": {"b": 2}, "c": "x"}),
            json!({"id": 2, "a": [{"b": 3}, {"b": 1}], "c": "y"}),
            json!({"id": 3, "a.b": 2, "c": "a"}),
        ];
        assert_eq!(sorted(&["a.b:asc", "c:asc"], &documents), [2, 3, 1]);
        assert_eq!(sorted(&["a.b:desc", "c:desc"], &documents), [2, 1, 3]);
    }

    #[test]
    fn places_are_sorted_by_their_distance() {
        let place = |id: u64, lat: f64| json!({"id": id, "_geo": {"lat": lat, "lng": "3"}});
        let documents = [place(1, 40.0), place(2, 48.0), json!({"id": 3}), place(4, 52.0)];
        assert_eq!(sorted(&["_geoPoint(49, 3):asc"], &documents), [2, 4, 1, 3]);
        // Paris to Berlin.
        let metres = distance([48.8566, 2.3522], [52.52, 13.405]);
        assert!((metres - 877_500.0).abs() < 1_000.0, "{metres}");
    }

    #[test]
    fn wrong_rules_are_refused_in_meilisearchs_words() {
        for (rule, message) in [
            (
                "price",
                "Invalid syntax for the sort parameter: expected expression ending by `:asc` or `:desc`, found `price`.",
            ),
            (
                "_geoPoint(1):asc",
                "Invalid syntax for the geo parameter: expected expression formated like `_geoPoint(latitude, longitude)` and ending by `:asc` or `:desc`, found `_geoPoint(1)`.",
            ),
            (
                "_geoPoint(91, 1):asc",
                "Bad latitude `91`. Latitude must be contained between -90 and 90 degrees. ",
            ),
            (
                "_geoDistance:asc",
                "`_geoDistance` is a reserved keyword and thus can't be used as a sort expression.",
            ),
        ] {
            assert_eq!(order(&[rule]), Err(message.to_owned()));
        }
        let Ok(order) = order(&["a.b:asc", "c:desc"]) else { panic!("sorts") };
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        assert!(order.check_sortable(&names(&["a", "c"])).is_ok());
        let refused = order.check_sortable(&names(&["a", "d"])).map_err(|error| error.message);
        let message = "Attribute `c` is not sortable. Available sortable attributes are: `a, d`.";
        assert_eq!(refused, Err(message.to_owned()));
    }
}
