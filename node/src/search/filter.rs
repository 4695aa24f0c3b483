//! Reading filters: a string, or an array of strings and arrays of strings.

use either::Either;
use milli_core as milli;
use milli_core::Filter;
use miroir_wire::error::{ApiError, Code};
use serde_json::Value;

/// Shown with a filter that uses `CONTAINS` or `STARTS WITH`.
#[derive(Debug, thiserror::Error)]
#[error(
    "Using `CONTAINS` or `STARTS WITH` in a filter requires enabling the `contains filter` \
     experimental feature. See https://github.com/orgs/meilisearch/discussions/763"
)]
struct ContainsNotEnabled;

/// Reads `filter`; `None` for one that holds no condition. `contains` allows the operators that are
/// experimental.
///
/// # Errors
/// `code` for a filter that cannot be read, `feature_not_enabled` for operators that are
/// experimental in Meilisearch 1.15.
pub(crate) fn read_filter(
    filter: &Value,
    code: Code,
    contains: bool,
) -> Result<Option<Filter<'_>>, ApiError> {
    let filter = match filter {
        Value::String(expression) => Filter::from_str(expression),
        Value::Array(conditions) => {
            let ands = conditions
                .iter()
                .map(read_condition)
                .collect::<Result<Vec<_>, _>>()
                .map_err(|message| ApiError::new(code, message))?;
            Filter::from_array(ands)
        }
        other => return Err(ApiError::new(code, unexpected(&["String", "Array"], other))),
    };
    let filter = filter.map_err(|error: milli::Error| ApiError::new(code, error.to_string()))?;
    if !contains && let Some(token) = filter.as_ref().and_then(Filter::use_contains_operator) {
        let message = token.as_external_error(ContainsNotEnabled).to_string();
        return Err(ApiError::new(Code::FeatureNotEnabled, message));
    }
    Ok(filter)
}

fn read_condition(condition: &Value) -> Result<Either<Vec<&str>, &str>, String> {
    match condition {
        Value::String(expression) => Ok(Either::Right(expression)),
        Value::Array(alternatives) => alternatives
            .iter()
            .map(|alternative| {
                alternative.as_str().ok_or_else(|| unexpected(&["String"], alternative))
            })
            .collect::<Result<Vec<_>, _>>()
            .map(Either::Left),
        other => Err(unexpected(&["String", "[String]"], other)),
    }
}

fn unexpected(expected: &[&str], found: &Value) -> String {
    format!(
        "Invalid syntax for the filter parameter: `expected {}, found: {found}`.",
        expected.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_no_filter_is_refused_with_the_place() {
        let cases = [
            (
                json!(1),
                "Invalid syntax for the filter parameter: `expected String, Array, found: 1`.",
            ),
            (
                json!(["a = 1", 2]),
                "Invalid syntax for the filter parameter: `expected String, [String], found: 2`.",
            ),
            (
                json!([["a = 1", [1]]]),
                "Invalid syntax for the filter parameter: `expected String, found: [1]`.",
            ),
        ];
        for (filter, message) in cases {
            let error = read_filter(&filter, Code::InvalidSearchFilter, false).unwrap_err();
            assert_eq!((error.code, error.message.as_str()), (Code::InvalidSearchFilter, message));
        }
        let error =
            read_filter(&json!("a CONTAINS b"), Code::InvalidSearchFilter, false).unwrap_err();
        assert_eq!(error.code, Code::FeatureNotEnabled);
        assert!(error.message.ends_with("3:11 a CONTAINS b"), "{}", error.message);
        let filter = json!("a CONTAINS b");
        assert!(read_filter(&filter, Code::InvalidSearchFilter, true).unwrap().is_some());
    }

    #[test]
    fn empty_filters_hold_no_condition() {
        for filter in [json!(""), json!([]), json!([[], ""])] {
            assert!(read_filter(&filter, Code::InvalidSearchFilter, false).unwrap().is_none());
        }
    }
}
