//! `_formatted` and `_matchesPosition`: highlighting and cropping.

use std::collections::{BTreeMap, BTreeSet};

use milli_core as milli;
use milli_core::tokenizer::Language;
use milli_core::{
    FieldId, FieldsIdsMap, FormatOptions, LocalizedAttributesRule, MatchBounds, MatcherBuilder,
    PatternMatch,
};
use serde_json::{Map, Value};

use super::select::{Keep, is_at_or_below, select, visit_leaves};

/// A token that is no word, whatever the language.
const SEPARATOR: &str = " ";

/// Where the words of the query are found, by path.
pub(crate) type MatchesPosition = BTreeMap<String, Vec<MatchBounds>>;

/// What the request wants formatted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FormatRequest<'q> {
    /// `attributesToHighlight`.
    pub(crate) highlight: Option<&'q BTreeSet<String>>,
    /// `attributesToCrop`, each with its own length or not.
    pub(crate) crop: &'q [String],
    /// `cropLength`, words.
    pub(crate) crop_length: usize,
}

/// Options by field, ordered by field id.
pub(crate) type FieldFormats = BTreeMap<FieldId, FormatOptions>;

/// Which fields `_formatted` holds, and how each is treated. Empty when nothing is to be
/// highlighted or cropped; else every retrieved field is in it.
pub(crate) fn plan_formats(
    request: FormatRequest<'_>,
    fields: &FieldsIdsMap,
    displayed: &BTreeSet<FieldId>,
    retrieved: &BTreeSet<FieldId>,
) -> FieldFormats {
    let mut formats = FieldFormats::new();
    for name in request.highlight.into_iter().flatten() {
        for id in named(name, fields, displayed) {
            formats.entry(id).or_default().highlight = true;
        }
    }
    for attribute in request.crop {
        let (name, length) = crop_of(attribute, request.crop_length);
        for id in named(name, fields, displayed) {
            formats.entry(id).or_default().crop = Some(length);
        }
    }
    if !formats.is_empty() {
        for id in retrieved {
            formats.entry(*id).or_default();
        }
    }
    formats
}

/// The displayed fields that `name` means: all for `*`.
fn named(name: &str, fields: &FieldsIdsMap, displayed: &BTreeSet<FieldId>) -> Vec<FieldId> {
    if name == "*" {
        return displayed.iter().copied().collect();
    }
    fields.id(name).filter(|id| displayed.contains(id)).into_iter().collect()
}

/// Splits `overview:20` into the name and its length; without a readable one, `default`.
fn crop_of(attribute: &str, default: usize) -> (&str, usize) {
    match attribute.rsplit_once(':') {
        Some((name, length)) => (name, length.parse().unwrap_or(default)),
        None => (attribute, default),
    }
}

/// Formats the documents of one answer.
pub(crate) struct Formatter<'a> {
    builder: MatcherBuilder<'a>,
    /// The fields that change, with how.
    changing: Vec<(&'a str, FormatOptions)>,
    /// The fields `_formatted` keeps.
    kept: Vec<&'a str>,
    /// The fields that may be shown at all.
    displayed: &'a [&'a str],
    show_matches: bool,
    locales: Option<&'a [Language]>,
    rules: Vec<LocalizedAttributesRule>,
}

impl<'a> Formatter<'a> {
    /// Formats by `formats`. `builder` knows the query's words and the tags; `displayed` are
    /// the fields that may be shown at all.
    pub(crate) fn new(
        builder: MatcherBuilder<'a>,
        formats: &FieldFormats,
        fields: &'a FieldsIdsMap,
        displayed: &'a [&'a str],
    ) -> Self {
        let name = |id: &FieldId| fields.name(*id);
        let changing = formats
            .iter()
            .filter(|(_, options)| options.should_format())
            .filter_map(|(id, options)| Some((name(id)?, *options)))
            .collect();
        let kept = formats.keys().filter_map(name).collect();
        let (locales, rules) = (None, Vec::new());
        Self { builder, changing, kept, displayed, show_matches: false, locales, rules }
    }

    /// Also tells where the words are found, if `show`.
    pub(crate) fn with_matches(self, show: bool) -> Self {
        Self { show_matches: show, ..self }
    }

    /// Splits text as in these languages: the request's, else those of the settings.
    pub(crate) fn with_languages(
        self,
        locales: Option<&'a [Language]>,
        rules: Vec<LocalizedAttributesRule>,
    ) -> Self {
        Self { locales, rules, ..self }
    }

    /// `_formatted` (empty when not wanted) and `_matchesPosition` of a document, given all
    /// of its fields.
    pub(crate) fn format(
        &self,
        document: Map<String, Value>,
    ) -> (Map<String, Value>, Option<MatchesPosition>) {
        let mut document = select(document, self.displayed);
        let mut matches = self.show_matches.then(MatchesPosition::new);
        visit_leaves(&mut document, self.displayed, &mut |path, indices, value| {
            let bounds = self.format_leaf(path, indices, value);
            if let Some(matches) = matches.as_mut()
                && !bounds.is_empty()
            {
                matches.insert(path.to_owned(), bounds);
            }
        });
        let formatted = document
            .into_iter()
            .filter_map(|(key, value)| {
                let left = Keep::of(&self.kept, &key).apply(value)?;
                Some((key, left))
            })
            .collect();
        (formatted, matches)
    }

    /// Formats one leaf in place and returns where it matches. Numbers become strings, also
    /// where nothing is highlighted, as Meilisearch has it.
    fn format_leaf(&self, path: &str, indices: &[usize], value: &mut Value) -> Vec<MatchBounds> {
        let text = match value {
            Value::String(text) => std::mem::take(text),
            Value::Number(number) => number.to_string(),
            _ => return Vec::new(),
        };
        // A leaf is under every option given for it, for what holds it, and for what it holds.
        let options = self
            .changing
            .iter()
            .filter(|(name, _)| is_at_or_below(name, path) || is_at_or_below(path, name))
            .map(|(_, options)| *options)
            .reduce(FormatOptions::merge);
        if options.is_none() && !self.show_matches {
            *value = Value::String(text);
            return Vec::new();
        }
        let locales = self.locales_of(path);
        let mut matcher = self.builder.build(&text, locales);
        let bounds = if self.show_matches { matcher.matches(indices) } else { Vec::new() };
        let formatted = options.map(|options| {
            if let Some(length @ 1..) = options.crop
                && self.ends_in_long_phrase(&text, &matcher.matches(&[]), length, locales)
            {
                let longer = text.clone() + SEPARATOR;
                self.builder.build(&longer, locales).format(options).into_owned()
            } else {
                matcher.format(options).into_owned()
            }
        });
        drop(matcher);
        *value = Value::String(formatted.unwrap_or(text));
        bounds
    }

    /// Whether `text` ends with a phrase of the query that is longer than a crop of `length` words.
    ///
    /// The engine (1.15 and 1.50, `crop_bounds`) takes words away from the end of such a phrase,
    /// beginning with the token that follows it, and panics where none does. One more separator
    /// gives it that token, and is always among what is cropped.
    fn ends_in_long_phrase(
        &self,
        text: &str,
        matches: &[MatchBounds],
        length: usize,
        locales: Option<&[Language]>,
    ) -> bool {
        let Some(last) = matches.last() else { return false };
        let Some(phrase) = text.get(last.start..) else { return false };
        if phrase.len() > last.length {
            return false;
        }
        // Cropped on its own, with room behind it, a phrase that is not too long stays whole.
        let alone = phrase.to_owned() + SEPARATOR;
        let crop = FormatOptions { highlight: false, crop: Some(length) };
        !self.builder.build(&alone, locales).format(crop).starts_with(phrase)
    }

    /// The request's locales, else those the settings give to the attribute.
    fn locales_of(&self, path: &str) -> Option<&[Language]> {
        self.locales.or_else(|| {
            self.rules
                .iter()
                .find(|rule| rule.match_str(path) == PatternMatch::Match)
                .map(milli::LocalizedAttributesRule::locales)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crop_length_may_follow_the_name() {
        assert_eq!(crop_of("title", 10), ("title", 10));
        assert_eq!(crop_of("title:3", 10), ("title", 3));
        assert_eq!(crop_of("a:b:3", 10), ("a:b", 3));
        assert_eq!(crop_of("title:long", 10), ("title", 10));
    }
}
