//! Values with a unit, and secrets.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A number of bytes, written as a number or with a unit: `100MiB`, `1GB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// Larger units first, so that the shortest exact text is found.
const BYTE_UNITS: [(&str, u64); 6] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
];

impl ByteSize {
    /// Reads a flag.
    ///
    /// # Errors
    /// When `text` is no size.
    pub fn from_text(text: &str) -> Result<Self, String> {
        Self::parse(text).ok_or_else(|| "this is not a size; write it like 16MiB".to_owned())
    }

    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        for (unit, bytes) in BYTE_UNITS {
            if let Some(count) = text.strip_suffix(unit) {
                return count.trim().parse::<u64>().ok()?.checked_mul(bytes).map(Self);
            }
        }
        text.strip_suffix('B').unwrap_or(text).trim().parse().ok().map(Self)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match BYTE_UNITS.iter().find(|(_, bytes)| self.0 >= *bytes && self.0.is_multiple_of(*bytes))
        {
            Some((unit, bytes)) => write!(f, "{}{unit}", self.0 / bytes),
            None => write!(f, "{}B", self.0),
        }
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = number_or_text(deserializer)?;
        Self::parse(&text).ok_or_else(|| {
            de::Error::custom(format!("{text:?} is not a size; write it like 100MiB or 500kB"))
        })
    }
}

/// Durations as text: `5s`, `500ms`, `2m`; a bare number is refused, since its unit is a guess.
pub mod duration_text {
    use std::time::Duration;

    use serde::{Deserializer, Serializer, de};

    use super::number_or_text;

    const UNITS: [(&str, u64); 5] =
        [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

    /// In the largest unit of which it is a whole number.
    pub fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        let millis = value.as_millis();
        let whole = |(_, unit): &&(&str, u64)| {
            let unit = u128::from(*unit);
            millis >= unit && millis.is_multiple_of(unit)
        };
        match UNITS.iter().rev().find(whole) {
            Some((name, unit)) => {
                serializer.collect_str(&format_args!("{}{name}", millis / u128::from(*unit)))
            }
            None => serializer.collect_str("0s"),
        }
    }

    /// From text with one of the units `ms`, `s`, `m`, `h`, `d`.
    ///
    /// # Errors
    /// When the unit is missing or unknown, or the number is not whole.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = number_or_text(deserializer)?;
        parse(&text).ok_or_else(|| {
            de::Error::custom(format!("{text:?} is not a duration; write it like 5s or 500ms"))
        })
    }

    fn parse(text: &str) -> Option<Duration> {
        let text = text.trim();
        // "ms" comes before "s" and "m": the longer unit ends in the shorter.
        for (unit, millis) in UNITS {
            if let Some(count) = text.strip_suffix(unit) {
                let count: u64 = count.trim().parse().ok()?;
                return count.checked_mul(millis).map(Duration::from_millis);
            }
        }
        None
    }
}

/// Both `100` and `"100MiB"` come as text.
fn number_or_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a number or text with a unit is expected")]
    enum NumberOrText {
        Number(u64),
        Text(String),
    }
    Ok(match NumberOrText::deserialize(deserializer)? {
        NumberOrText::Number(number) => number.to_string(),
        NumberOrText::Text(text) => text,
    })
}

/// A key. It is not shown by `{:?}`; serialising does write it out.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Keeps `text` from being shown by accident.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The key itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_back_as_written() {
        for (text, bytes) in
            [("100MiB", 100 << 20), ("1GB", 1_000_000_000), ("1500B", 1500), ("2KiB", 2048)]
        {
            let size = ByteSize::parse(text).expect("valid");
            assert_eq!(size, ByteSize(bytes));
            assert_eq!(size.to_string(), text);
        }
        assert_eq!(ByteSize::parse("100 MiB"), Some(ByteSize(100 << 20)));
        assert_eq!(ByteSize::parse("99999999999GiB"), None);
        assert_eq!(ByteSize::parse("lots"), None);
    }

    #[test]
    fn secrets_are_not_shown() {
        assert!(!format!("{:?}", Secret::new("s3cret")).contains("s3cret"));
    }
}
