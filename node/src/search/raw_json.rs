//! Copying stored JSON into an answer.
//!
//! Documents are stored as the client wrote them. Meilisearch answers them as its JSON
//! library writes them: without white space, numbers and escapes normalised. Most values are
//! in that form already and are copied; only the others are parsed and written anew.

use serde_json::Value;

/// Integers up to this many bytes fit an `i64` for sure, so they are written as they are read.
const INTEGER_BYTES_MAX: usize = 18;

/// Appends `raw`, one JSON value, in normal form.
///
/// # Errors
/// `raw` is not JSON; `out` is unchanged then.
pub(crate) fn append_normalised(raw: &[u8], out: &mut Vec<u8>) -> serde_json::Result<()> {
    if is_normal(raw) {
        out.extend_from_slice(raw);
        return Ok(());
    }
    let value: Value = serde_json::from_slice(raw)?;
    append(&value, out);
    Ok(())
}

/// Appends `value` as JSON.
pub(crate) fn append<T: serde::Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) {
    let start = out.len();
    if let Err(error) = serde_json::to_writer(&mut *out, value) {
        // Writing to memory fails for no value used here; keep the answer well-formed anyway.
        tracing::error!(%error, "value could not be written as json");
        out.truncate(start);
        out.extend_from_slice(b"null");
    }
}

/// Whether `raw` (valid JSON) reads back byte for byte after parsing: scalars and arrays of
/// them. Objects count as not normal, since a doubled key would be folded.
fn is_normal(raw: &[u8]) -> bool {
    let mut rest = raw;
    while let Some((&first, tail)) = rest.split_first() {
        rest = match first {
            b'"' => match tail.iter().position(|byte| matches!(byte, b'"' | b'\\')) {
                Some(end) if tail.get(end) == Some(&b'"') => tail.get(end + 1..).unwrap_or(&[]),
                _ => return false,
            },
            b'-' | b'0'..=b'9' => {
                let digits = tail.iter().take_while(|byte| byte.is_ascii_digit()).count();
                let negative_zero = first == b'-' && tail.first() == Some(&b'0');
                let fraction = matches!(tail.get(digits), Some(b'.' | b'e' | b'E'));
                if digits >= INTEGER_BYTES_MAX || negative_zero || fraction {
                    return false;
                }
                tail.get(digits..).unwrap_or(&[])
            }
            b'[' | b']' | b',' | b'a'..=b'z' => tail,
            _ => return false,
        };
    }
    !raw.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normalised(raw: &str) -> String {
        let mut out = Vec::new();
        append_normalised(raw.as_bytes(), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_answer_reads_as_if_parsed_and_written_anew() {
        let cases = [
            r#""plain text é""#,
            r#""esc\u0061ped \/""#,
            "12",
            "-7",
            "-0",
            "0",
            "1.0",
            "1e3",
            "1.50",
            "123456789012345678901234567890",
            "18446744073709551615",
            "-9223372036854775808",
            "[1,2,\"a\"]",
            "[ 1 , 2 ]",
            "[]",
            "{}",
            r#"{"a": 1, "a": 2}"#,
            r#"[{"b": [true,null]}]"#,
            "true",
            "null",
            "[1.5,[\"x\",[false]]]",
            "\"\"",
        ];
        for raw in cases {
            let parsed: Value = serde_json::from_str(raw).unwrap();
            assert_eq!(normalised(raw), parsed.to_string(), "{raw}");
        }
    }

    #[test]
    fn a_broken_value_leaves_the_answer_alone() {
        let mut out = b"x".to_vec();
        assert!(append_normalised(b"{\"a\"", &mut out).is_err());
        assert_eq!(out, b"x");
    }
}
