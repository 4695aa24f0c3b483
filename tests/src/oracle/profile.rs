//! What a set of documents holds, so that generated queries ask for things that exist.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::Object;
use super::documents::{id_of, text_of};

/// Texts kept to draw words and phrases from.
const TEXTS_MAX: usize = 20_000;
/// A string field with more distinct values than this is text, not a category.
const CATEGORY_VALUES_MAX: usize = 1_500;
/// Values kept of one field.
const VALUES_KEPT_MAX: usize = 4_000;

/// A field of numbers, with values that occur, in order.
#[derive(Clone, Debug)]
pub struct NumberField {
    /// Its dotted path.
    pub name: String,
    /// Distinct values, ascending, not empty.
    pub values: Vec<f64>,
}

/// A field of short strings, with values that occur, in order.
#[derive(Clone, Debug)]
pub struct CategoryField {
    /// Its dotted path.
    pub name: String,
    /// Distinct values, ascending, not empty.
    pub values: Vec<String>,
}

/// What the documents hold.
#[derive(Clone, Debug, Default)]
pub struct Profile {
    /// Ids in text form, in the order of the documents.
    pub ids: Vec<String>,
    /// Whether ids are numbers in the documents.
    pub numeric_ids: bool,
    /// Fields of numbers.
    pub numbers: Vec<NumberField>,
    /// Fields of categories.
    pub categories: Vec<CategoryField>,
    /// Fields with many different strings, to search in.
    pub texts: Vec<String>,
    /// Contents of searched fields.
    pub sentences: Vec<String>,
    /// Points `(lat, lng)` that occur.
    pub points: Vec<(f64, f64)>,
}

#[derive(Default)]
struct Seen {
    numbers: BTreeSet<u64>,
    strings: BTreeSet<String>,
    strings_long: bool,
}

impl Profile {
    /// Looks through `documents`, which must be enriched.
    pub fn of(documents: &[Object]) -> Self {
        let mut profile = Self {
            numeric_ids: documents.iter().all(|doc| doc.get("id").is_some_and(Value::is_number)),
            ..Self::default()
        };
        let mut fields: BTreeMap<String, Seen> = BTreeMap::new();
        for document in documents {
            profile.ids.push(id_of(document));
            for (name, value) in document {
                match name.as_str() {
                    "id" | "_vectors" | "mixed" | "empty" => {}
                    "_geo" => profile.points.extend(point_of(value)),
                    _ => note_value(&mut fields, name, value),
                }
            }
        }
        for (name, seen) in fields {
            profile.add_field(name, seen);
        }
        profile.add_sentences(documents);
        profile
    }

    fn add_field(&mut self, name: String, seen: Seen) {
        if seen.strings.len() > CATEGORY_VALUES_MAX || seen.strings_long {
            self.texts.push(name);
        } else if !seen.strings.is_empty() {
            self.categories
                .push(CategoryField { name, values: seen.strings.into_iter().collect() });
        } else if !seen.numbers.is_empty() {
            let mut values: Vec<f64> = seen.numbers.into_iter().map(f64::from_bits).collect();
            values.sort_by(f64::total_cmp);
            self.numbers.push(NumberField { name, values });
        }
    }

    /// Sentences to draw words from: mostly texts, and some categories, spread evenly.
    fn add_sentences(&mut self, documents: &[Object]) {
        let step = (documents.len() / TEXTS_MAX).max(1);
        for (n, document) in documents.iter().enumerate().step_by(step) {
            for name in &self.texts {
                if let Some(value) = document.get(name) {
                    let text = match value {
                        Value::Array(items) => {
                            items.iter().map(text_of).collect::<Vec<_>>().join(" ")
                        }
                        other => text_of(other),
                    };
                    self.sentences.push(text);
                }
            }
            if !self.categories.is_empty() && n % 3 == 0 {
                let name = &self.categories[n / 3 % self.categories.len()].name;
                self.sentences
                    .extend(document.get(name).and_then(Value::as_str).map(str::to_owned));
            }
        }
        self.sentences.retain(|text| text.chars().any(char::is_alphanumeric));
    }
}

fn point_of(value: &Value) -> Option<(f64, f64)> {
    Some((value.get("lat")?.as_f64()?, value.get("lng")?.as_f64()?))
}

fn note_value(fields: &mut BTreeMap<String, Seen>, name: &str, value: &Value) {
    match value {
        Value::Object(inner) => {
            for (key, value) in inner {
                note_value(fields, &format!("{name}.{key}"), value);
            }
        }
        Value::Array(items) => {
            for item in items {
                note_value(fields, name, item);
            }
        }
        Value::Number(number) => {
            let seen = fields.entry(name.to_owned()).or_default();
            if seen.numbers.len() < VALUES_KEPT_MAX {
                seen.numbers.extend(number.as_f64().map(f64::to_bits));
            }
        }
        Value::String(text) => {
            let seen = fields.entry(name.to_owned()).or_default();
            seen.strings_long |= text.len() > 90;
            if seen.strings.len() < VALUES_KEPT_MAX && !text.is_empty() {
                seen.strings.insert(text.clone());
            }
        }
        Value::Null | Value::Bool(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::documents::{enrich, read_documents, shipped_movies};

    #[test]
    fn movies_have_numbers_categories_texts_and_points() {
        let mut movies = read_documents(&shipped_movies(), usize::MAX).expect("the shipped file");
        movies.iter_mut().for_each(enrich);
        let profile = Profile::of(&movies);
        let numbers: Vec<&str> = profile.numbers.iter().map(|f| f.name.as_str()).collect();
        let categories: Vec<&str> = profile.categories.iter().map(|f| f.name.as_str()).collect();
        assert!(numbers.contains(&"imdb_rating") && numbers.contains(&"nested.score"));
        assert!(categories.contains(&"major_genre") && categories.contains(&"nested.deep.label"));
        assert!(profile.texts.contains(&"title".to_owned()), "{:?}", profile.texts);
        assert!(profile.sentences.len() > 3_000 && profile.points.len() > 2_000);
    }
}
