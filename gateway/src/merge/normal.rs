//! The engine's normal forms of facet values, by which values of several nodes are matched.

use std::borrow::Cow;

use unicode_normalization::UnicodeNormalization;

/// Longest normalised string value the engine keeps, bytes; longer ones are cut.
const VALUE_BYTES_MAX: usize = 468;

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

/// The number that `printed` is, when it is written as the engine prints numbers.
pub fn printed_number(printed: &str) -> Option<f64> {
    let number: f64 = printed.parse().ok()?;
    (number.is_finite() && number.to_string() == printed).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_differ_in_case_width_or_space_are_one() {
        assert_eq!(normalize_string(" Science Fiction "), "science fiction");
        assert_eq!(normalize_string("ÉTÉ"), normalize_string("e\u{301}te\u{301}"));
        assert_eq!(normalize_string("ﬁn"), "fin");
        assert_eq!(normalize_string(&"x".repeat(600)).len(), VALUE_BYTES_MAX);
        assert_eq!(normalize_string(&"é".repeat(600)).len() % 3, 0);
    }

    #[test]
    fn only_the_engine_s_own_notation_is_a_number() {
        assert_eq!(printed_number("10"), Some(10.0));
        assert_eq!(printed_number("1.5"), Some(1.5));
        for text in ["010", "1.0", "+1", "1e3", "inf", "NaN", "", "ten"] {
            assert_eq!(printed_number(text), None, "{text}");
        }
    }
}
