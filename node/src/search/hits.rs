//! From document ids to the hits of an answer, written straight into the answer's bytes.

use std::collections::BTreeSet;

use milli_core as milli;
use milli_core::constants::RESERVED_VECTORS_FIELD_NAME;
use milli_core::heed::RoTxn;
use milli_core::score_details::ScoreDetails;
use milli_core::tokenizer::{Language, TokenizerBuilder};
use milli_core::{DocumentId, FieldId, FieldsIdsMap, Index, MatcherBuilder, MatchingWords};

use super::format::{FormatRequest, Formatter, plan_formats};
use super::geo;
use super::stored::{DocumentWriter, ObjectWriter, Vectors};

/// What the hits of a search show.
pub(crate) struct HitRequest<'q> {
    /// `attributesToRetrieve`; `None` for all.
    pub(crate) retrieve: Option<&'q BTreeSet<String>>,
    /// `retrieveVectors`.
    pub(crate) vectors: bool,
    /// What to highlight and crop.
    pub(crate) format: FormatRequest<'q>,
    /// `cropMarker`.
    pub(crate) crop_marker: &'q str,
    /// `highlightPreTag`.
    pub(crate) highlight_pre_tag: &'q str,
    /// `highlightPostTag`.
    pub(crate) highlight_post_tag: &'q str,
    /// `showMatchesPosition`.
    pub(crate) matches_position: bool,
    /// `showRankingScore`.
    pub(crate) ranking_score: bool,
    /// `showRankingScoreDetails`.
    pub(crate) ranking_score_details: bool,
    /// The point that the search sorts by.
    pub(crate) sort_point: Option<[f64; 2]>,
    /// `locales`.
    pub(crate) locales: Option<&'q [Language]>,
}

/// What a search found.
pub(crate) struct Found<'s> {
    /// The documents, best first.
    pub(crate) ids: &'s [DocumentId],
    /// Their scores, in the same order.
    pub(crate) scores: &'s [Vec<ScoreDetails>],
    /// The words of the query as they were understood.
    pub(crate) words: MatchingWords,
}

/// Appends the hits to `out` as a JSON array.
///
/// # Errors
/// The database fails, or a stored document is not JSON.
pub(crate) fn append_hits(
    index: &Index,
    rtxn: &RoTxn<'_>,
    request: &HitRequest<'_>,
    found: Found<'_>,
    out: &mut Vec<u8>,
) -> milli::Result<()> {
    out.push(b'[');
    let mut position = 0;
    write_hits(
        index,
        rtxn,
        request,
        found,
        |_, _| {},
        |hit| {
            if position > 0 {
                out.push(b',');
            }
            position += 1;
            out.extend_from_slice(hit);
        },
    )?;
    out.push(b']');
    Ok(())
}

/// Writes each hit and gives its bytes to `take`. `add` may write a further member behind the
/// document's own, given the hit's position.
///
/// # Errors
/// The database fails, or a stored document is not JSON.
pub(crate) fn write_hits(
    index: &Index,
    rtxn: &RoTxn<'_>,
    request: &HitRequest<'_>,
    found: Found<'_>,
    add: impl Fn(usize, &mut ObjectWriter<'_>),
    mut take: impl FnMut(&[u8]),
) -> milli::Result<()> {
    let fields = index.fields_ids_map(rtxn)?;
    let visible = Visible::of(index, rtxn, &fields, request)?;
    let displayed: Vec<&str> = visible.displayed.iter().filter_map(|id| fields.name(*id)).collect();
    let formats = plan_formats(request.format, &fields, &visible.displayed, &visible.retrieved);

    // The tokenizer borrows these.
    let (dictionary, separators);
    let (dictionary_words, separator_words): (Vec<&str>, Vec<&str>);
    let formatter = if formats.is_empty() && !request.matches_position {
        None
    } else {
        let mut tokenizer = TokenizerBuilder::default();
        tokenizer.create_char_map(true);
        separators = index.allowed_separators(rtxn)?;
        if let Some(separators) = &separators {
            separator_words = separators.iter().map(String::as_str).collect();
            tokenizer.separators(&separator_words);
        }
        dictionary = index.dictionary(rtxn)?;
        if let Some(dictionary) = &dictionary {
            dictionary_words = dictionary.iter().map(String::as_str).collect();
            tokenizer.words_dict(&dictionary_words);
        }
        let mut builder = MatcherBuilder::new(found.words, tokenizer.into_tokenizer());
        builder.crop_marker(request.crop_marker.to_owned());
        builder.highlight_prefix(request.highlight_pre_tag.to_owned());
        builder.highlight_suffix(request.highlight_post_tag.to_owned());
        let rules = index.localized_attributes_rules(rtxn)?.unwrap_or_default();
        Some(
            Formatter::new(builder, &formats, &fields, &displayed)
                .with_matches(request.matches_position)
                .with_languages(request.locales, rules),
        )
    };

    let vectors = Vectors::of(index, rtxn, visible.vectors)?;
    let paths = visible.retrieved_paths(&fields);
    let mut documents = DocumentWriter::new(index, rtxn, &fields, Some(paths), vectors);
    let mut out = Vec::with_capacity(1024);
    for (position, (id, score)) in found.ids.iter().zip(found.scores).enumerate() {
        out.clear();
        let add = |hit: &mut ObjectWriter<'_>| add(position, hit);
        append_hit(&mut documents, formatter.as_ref(), request, (*id, score), add, &mut out)?;
        take(&out);
    }
    Ok(())
}

fn append_hit(
    documents: &mut DocumentWriter<'_>,
    formatter: Option<&Formatter<'_>>,
    request: &HitRequest<'_>,
    (id, score): (DocumentId, &[ScoreDetails]),
    add: impl Fn(&mut ObjectWriter<'_>),
    out: &mut Vec<u8>,
) -> milli::Result<()> {
    let mut hit = ObjectWriter::begin(out);
    let geo = documents.append_fields(id, request.sort_point.is_some(), &mut hit)?;
    if let (Some(base), Some(geo)) = (&request.sort_point, &geo)
        && let Some(distance) = geo::distance(base, geo)
    {
        hit.value("_geoDistance", &distance);
    }
    add(&mut hit);
    if let Some(formatter) = formatter {
        let (formatted, matches) = formatter.format(documents.parse_all(id)?);
        if !formatted.is_empty() {
            hit.value("_formatted", &formatted);
        }
        if let Some(matches) = matches {
            hit.value("_matchesPosition", &matches);
        }
    }
    if request.ranking_score {
        hit.value("_rankingScore", &ScoreDetails::global_score(score.iter()));
    }
    if request.ranking_score_details {
        hit.value("_rankingScoreDetails", &ScoreDetails::to_json_map(score.iter()));
    }
    hit.end();
    Ok(())
}

/// Which fields an answer may and should show.
struct Visible {
    displayed: BTreeSet<FieldId>,
    /// A subset of `displayed`.
    retrieved: BTreeSet<FieldId>,
    /// `_vectors`, once a document had one.
    vectors_field: Option<FieldId>,
    /// Whether the stored vectors are shown.
    vectors: bool,
}

impl Visible {
    fn of(
        index: &Index,
        rtxn: &RoTxn<'_>,
        fields: &FieldsIdsMap,
        request: &HitRequest<'_>,
    ) -> milli::Result<Self> {
        let vectors_field = fields.id(RESERVED_VECTORS_FIELD_NAME);
        let listed: Option<BTreeSet<FieldId>> =
            index.displayed_fields_ids(rtxn)?.map(|ids| ids.into_iter().collect());
        // That a list which names `_vectors` hides them is Meilisearch 1.15's behaviour.
        let vectors_hidden = match (&listed, vectors_field) {
            (None, _) => false,
            (Some(listed), Some(field)) => listed.contains(&field),
            (Some(_), None) => !index
                .displayed_fields(rtxn)?
                .is_some_and(|names| names.contains(&RESERVED_VECTORS_FIELD_NAME)),
        };
        let displayed = listed.unwrap_or_else(|| fields.iter().map(|(id, _)| id).collect());
        let retrieved = match request.retrieve {
            None => displayed.clone(),
            Some(names) if names.contains("*") => displayed.clone(),
            Some(names) => names
                .iter()
                .filter_map(|name| fields.id(name))
                .filter(|id| displayed.contains(id))
                .collect(),
        };
        Ok(Self {
            displayed,
            retrieved,
            vectors_field,
            vectors: request.vectors && !vectors_hidden,
        })
    }

    /// The paths that hits keep. `_vectors` only where stored vectors are added to it.
    fn retrieved_paths<'f>(&self, fields: &'f FieldsIdsMap) -> Vec<&'f str> {
        let mut ids = self.retrieved.clone();
        if let Some(field) = self.vectors_field {
            ids.remove(&field);
            if self.vectors && self.displayed.contains(&field) {
                ids.insert(field);
            }
        }
        ids.iter().filter_map(|id| fields.name(*id)).collect()
    }
}
