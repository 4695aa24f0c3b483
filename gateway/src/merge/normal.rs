//! The engine's normal forms of facet values, by which values of several nodes are matched.

pub use miroir_wire::document_order::normalize_string;

/// The number that `printed` is, when it is written as the engine prints numbers.
pub fn printed_number(printed: &str) -> Option<f64> {
    let number: f64 = printed.parse().ok()?;
    (number.is_finite() && number.to_string() == printed).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_engine_s_own_notation_is_a_number() {
        assert_eq!(printed_number("10"), Some(10.0));
        assert_eq!(printed_number("1.5"), Some(1.5));
        for text in ["010", "1.0", "+1", "1e3", "inf", "NaN", "", "ten"] {
            assert_eq!(printed_number(text), None, "{text}");
        }
    }
}
