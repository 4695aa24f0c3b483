//! The languages a query or an attribute can be tokenised as.

use std::fmt;
use std::str::FromStr;

use deserr::{
    DeserializeError, Deserr, ErrorKind, IntoValue, Value, ValueKind, ValuePointerRef,
    take_cf_content,
};
use serde::{Serialize, Serializer};

/// Codes of two letters (ISO 639-1), then of three (ISO 639-3), in the same order, which is the order in which messages list them;
/// last, one that has no short form.
const CODES: &[&str] = &[
    "af", "ak", "am", "ar", "az", "be", "bn", "bg", "ca", "cs", "da", "de", "el", "en", "eo", "et",
    "fi", "fr", "gu", "he", "hi", "hr", "hu", "hy", "id", "it", "jv", "ja", "kn", "ka", "km", "ko",
    "la", "lv", "lt", "ml", "mr", "mk", "my", "ne", "nl", "nb", "or", "pa", "fa", "pl", "pt", "ro",
    "ru", "si", "sk", "sl", "sn", "es", "sr", "sv", "ta", "te", "tl", "th", "tk", "tr", "uk", "ur",
    "uz", "vi", "yi", "zh", "zu", "afr", "aka", "amh", "ara", "aze", "bel", "ben", "bul", "cat",
    "ces", "dan", "deu", "ell", "eng", "epo", "est", "fin", "fra", "guj", "heb", "hin", "hrv",
    "hun", "hye", "ind", "ita", "jav", "jpn", "kan", "kat", "khm", "kor", "lat", "lav", "lit",
    "mal", "mar", "mkd", "mya", "nep", "nld", "nob", "ori", "pan", "pes", "pol", "por", "ron",
    "rus", "sin", "slk", "slv", "sna", "spa", "srp", "swe", "tam", "tel", "tgl", "tha", "tuk",
    "tur", "ukr", "urd", "uzb", "vie", "yid", "zho", "zul", "cmn",
];

/// A language code that Meilisearch knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Locale(&'static str);

impl Locale {
    /// The code: `en`, `eng`.
    pub const fn code(self) -> &'static str {
        self.0
    }

    /// The three-letter code of the same language, which is what the engine keeps.
    pub fn in_long_form(self) -> Locale {
        let short = CODES.iter().take_while(|code| code.len() == 2).count();
        match CODES.iter().position(|code| *code == self.0) {
            Some(place) if place < short => {
                Locale(CODES.get(place + short).copied().unwrap_or(self.0))
            }
            _ => self,
        }
    }

    fn known(text: &str) -> Option<Locale> {
        CODES.iter().find(|code| **code == text).map(|code| Locale(code))
    }
}

impl fmt::Display for Locale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl Serialize for Locale {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0)
    }
}

/// A code nobody knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Unsupported locale `{given}`, expected one of {}", sorted_codes())]
pub struct UnknownLocale {
    given: String,
}

fn sorted_codes() -> String {
    let mut codes = CODES.to_vec();
    codes.sort_by_key(|code| (code.len(), *code));
    codes.join(", ")
}

impl FromStr for Locale {
    type Err = UnknownLocale;

    fn from_str(text: &str) -> Result<Locale, UnknownLocale> {
        Locale::known(text).ok_or_else(|| UnknownLocale { given: text.to_owned() })
    }
}

impl<E: DeserializeError> Deserr<E> for Locale {
    fn deserialize_from_value<V: IntoValue>(
        value: Value<V>,
        location: ValuePointerRef,
    ) -> Result<Self, E> {
        match value {
            Value::String(text) => Locale::known(&text).ok_or_else(|| {
                take_cf_content(E::error::<V>(
                    None,
                    ErrorKind::UnknownValue { value: &text, accepted: CODES },
                    location,
                ))
            }),
            actual => Err(take_cf_content(E::error::<V>(
                None,
                ErrorKind::IncorrectValueKind { actual, accepted: &[ValueKind::String] },
                location,
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_short_code_has_its_long_one() {
        for (short, long) in [
            ("af", "afr"),
            ("fa", "pes"),
            ("zh", "zho"),
            ("zu", "zul"),
            ("jpn", "jpn"),
            ("cmn", "cmn"),
        ] {
            assert_eq!(short.parse::<Locale>().unwrap().in_long_form().code(), long);
        }
        let short = CODES.iter().filter(|code| code.len() == 2).count();
        assert_eq!(CODES.len(), 2 * short + 1);
    }
}
