//! `_geoDistance`: how far a hit is from the point the search sorts by.

use milli_core as milli;
use serde_json::Value;

/// The point of the first sort criterion that holds a readable `_geoPoint(lat, lng)`.
pub(crate) fn sort_point(sort: &[String]) -> Option<[f64; 2]> {
    sort.iter().find_map(|criterion| point_in(criterion))
}

fn point_in(criterion: &str) -> Option<[f64; 2]> {
    criterion.match_indices("_geoPoint(").find_map(|(start, opening)| {
        let arguments = criterion.get(start + opening.len()..)?;
        let (lat, rest) = coordinate(arguments)?;
        let (lng, rest) = coordinate(rest.strip_prefix(',')?)?;
        rest.starts_with(')').then_some([lat, lng])
    })
}

/// Reads a number between optional white space; returns what follows.
fn coordinate(text: &str) -> Option<(f64, &str)> {
    let text = text.trim_start();
    let end =
        text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '-'))).unwrap_or(text.len());
    let (number, rest) = text.split_at_checked(end)?;
    Some((number.parse().ok()?, rest.trim_start()))
}

/// Metres from `base` to a document's `_geo`, rounded; `None` when that holds no coordinates.
pub(crate) fn distance(base: &[f64; 2], geo: &Value) -> Option<u64> {
    let lat = number(geo.get("lat")?)?;
    let lng = number(geo.get("lng")?)?;
    let metres = milli::distance_between_two_points(base, &[lat, lng]).round();
    // Cut off, never wrapped: a float to integer cast saturates.
    Some(metres as u64)
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_point_is_found_among_the_criteria() {
        let sort = |criteria: &[&str]| {
            let criteria: Vec<String> = criteria.iter().map(|&c| c.to_owned()).collect();
            sort_point(&criteria)
        };
        assert_eq!(sort(&["price:asc", "_geoPoint( 48.8 , -2.5):desc"]), Some([48.8, -2.5]));
        assert_eq!(sort(&["_geoPoint(48.8,2.5):asc"]), Some([48.8, 2.5]));
        assert_eq!(sort(&["_geoPoint(a,2.5):asc", "price:asc"]), None);
    }

    #[test]
    fn coordinates_may_be_strings() {
        let base = [48.8566, 2.3522];
        let near = distance(&base, &json!({"lat": "48.8566", "lng": 2.3522}));
        assert_eq!(near, Some(0));
        assert_eq!(distance(&base, &json!({"lat": 1})), None);
        assert_eq!(distance(&base, &json!(null)), None);
    }
}
