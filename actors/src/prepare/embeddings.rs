//! The vectors of one document for one embedder: one array of numbers, or an array of such.
//!
//! Only their lengths are wanted. Good ones are counted where they lie; anything else is read
//! again the way Meilisearch reads it, for the words of its refusal.

use std::fmt;

use deserr::errors::JsonError;
use deserr::{
    DeserializeError, Deserr, ErrorKind, IntoValue, Sequence, ValueKind, ValuePointerRef,
    take_cf_content,
};
use serde::de::{Deserialize, Deserializer, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

/// The length of each vector; `None` when only a node can tell (a number that no `f64` holds).
///
/// # Errors
/// What is neither null, nor numbers, nor arrays of numbers.
pub(super) fn lengths_of(
    raw: &RawValue,
    location: ValuePointerRef<'_>,
) -> Result<Option<Vec<usize>>, JsonError> {
    if let Ok(Lengths(lengths)) = serde_json::from_str(raw.get()) {
        return Ok(Some(lengths));
    }
    let Ok(value) = serde_json::from_str::<Value>(raw.get()) else { return Ok(None) };
    let Lengths(lengths) = Lengths::deserialize_from_value(value.into_value(), location)?;
    Ok(Some(lengths))
}

/// Lengths of vectors, counted while they are parsed.
#[derive(Debug, PartialEq)]
struct Lengths(Vec<usize>);

impl<'de> Deserialize<'de> for Lengths {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Element::deserialize(deserializer)? {
            Element::Null => Ok(Self(Vec::new())),
            Element::Number => Err(serde::de::Error::custom("a number alone")),
            Element::Numbers(0) => Ok(Self(Vec::new())),
            Element::Numbers(length) => Ok(Self(vec![length])),
            Element::Arrays(lengths) => Ok(Self(lengths)),
        }
    }
}

/// What an array of vectors is made of.
enum Element {
    Null,
    Number,
    /// An array of so many numbers.
    Numbers(usize),
    /// An array of arrays of numbers.
    Arrays(Vec<usize>),
}

impl<'de> Deserialize<'de> for Element {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Elements;
        impl<'de> Visitor<'de> for Elements {
            type Value = Element;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("vectors")
            }

            fn visit_unit<E>(self) -> Result<Element, E> {
                Ok(Element::Null)
            }

            fn visit_u64<E>(self, _: u64) -> Result<Element, E> {
                Ok(Element::Number)
            }

            fn visit_i64<E>(self, _: i64) -> Result<Element, E> {
                Ok(Element::Number)
            }

            fn visit_f64<E>(self, _: f64) -> Result<Element, E> {
                Ok(Element::Number)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Element, A::Error> {
                let mixed = || serde::de::Error::custom("not all of one kind");
                match elements.next_element()? {
                    None => Ok(Element::Numbers(0)),
                    Some(Element::Number) => {
                        let mut count = 1;
                        while let Some(element) = elements.next_element()? {
                            match element {
                                Element::Number => count += 1,
                                _ => return Err(mixed()),
                            }
                        }
                        Ok(Element::Numbers(count))
                    }
                    Some(Element::Numbers(first)) => {
                        let mut lengths = vec![first];
                        while let Some(element) = elements.next_element()? {
                            match element {
                                Element::Numbers(length) => lengths.push(length),
                                _ => return Err(mixed()),
                            }
                        }
                        Ok(Element::Arrays(lengths))
                    }
                    Some(Element::Null | Element::Arrays(_)) => Err(mixed()),
                }
            }
        }
        deserializer.deserialize_any(Elements)
    }
}

impl<E: DeserializeError> Deserr<E> for Lengths {
    fn deserialize_from_value<V: IntoValue>(
        value: deserr::Value<V>,
        location: ValuePointerRef<'_>,
    ) -> Result<Self, E> {
        let refuse = |actual, accepted, location| {
            let kind = ErrorKind::IncorrectValueKind { actual, accepted };
            Err(take_cf_content(E::error(None, kind, location)))
        };
        let elements = match value {
            deserr::Value::Null => return Ok(Self(Vec::new())),
            deserr::Value::Sequence(elements) => elements,
            other => return refuse(other, &[ValueKind::Sequence, ValueKind::Null], location),
        };
        let mut lengths = Vec::new();
        // The first element says what all must be.
        let mut nested = None;
        for (index, element) in elements.into_iter().enumerate() {
            let (element, here) = (element.into_value(), location.push_index(index));
            if nested.is_none() {
                nested = match &element {
                    deserr::Value::Sequence(_) => Some(true),
                    deserr::Value::Integer(_)
                    | deserr::Value::NegativeInteger(_)
                    | deserr::Value::Float(_) => Some(false),
                    _ => return refuse(element, &[ValueKind::Sequence, ValueKind::Float], here),
                };
            }
            if nested == Some(true) {
                lengths.push(Vec::<f32>::deserialize_from_value(element, here)?.len());
            } else {
                f32::deserialize_from_value(element, here)?;
                match lengths.first_mut() {
                    Some(length) => *length += 1,
                    None => lengths.push(1),
                }
            }
        }
        Ok(Self(lengths))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Option<Vec<usize>>, String> {
        let raw: &RawValue = serde_json::from_str(json).expect("JSON");
        let key = ValuePointerRef::Key { key: "v", prev: &ValuePointerRef::Origin };
        lengths_of(raw, key).map_err(|error| error.to_string())
    }

    #[test]
    fn one_vector_or_many_are_counted() {
        for (json, lengths) in [
            ("null", vec![]),
            ("[]", vec![]),
            ("[0.1, 2, -3]", vec![3]),
            ("[[0.1],[1,2]]", vec![1, 2]),
            ("[[]]", vec![0]),
            ("[[],[1]]", vec![0, 1]),
        ] {
            assert_eq!(read(json), Ok(Some(lengths)), "{json}");
        }
        assert_eq!(read("[1e999]"), Ok(None));
    }

    #[test]
    fn both_ways_of_reading_agree() {
        for json in [
            "null",
            "[]",
            "[1,2.5]",
            "[[1],[2,-3]]",
            "[[]]",
            "[1,[2]]",
            "[[1],2]",
            "[[[1]]]",
            "[null]",
            "3",
            "[true]",
            "{}",
        ] {
            let counted = serde_json::from_str::<Lengths>(json).ok();
            let value: Value = serde_json::from_str(json).expect("JSON");
            let read: Result<Lengths, JsonError> =
                Lengths::deserialize_from_value(value.into_value(), ValuePointerRef::Origin);
            assert_eq!(counted, read.ok(), "{json}");
        }
    }

    #[test]
    fn what_is_no_vector_is_named_with_its_place() {
        for (json, message) in [
            ("[1,\"a\"]", "Invalid value type at `.v[1]`"),
            ("[[1],2]", "Invalid value type at `.v[1]`"),
            ("[[1,null]]", "Invalid value type at `.v[0][1]`"),
            ("[{}]", "Invalid value type at `.v[0]`"),
        ] {
            let error = read(json).expect_err(json);
            assert!(error.starts_with(message), "{json}: {error}");
        }
    }
}
