//! Differences that are not the subject's to avoid, each shown to be one before it is excused.
//!
//! What the engine says of a document depends on the other documents beside it, even on one
//! node: the same query over fewer documents (by a filter) gives other scores.
//!
//! | what | why | shown by |
//! |---|---|---|
//! | a relevance rule's value | typo costs, proximity and exactness are judged over the words that the node's documents have and the paths that lead to documents of the bucket: a word that a shard lacks is not asked of its documents for exactness (`aug 199` where no `199` is), a bucket without a far pair has its near one cheaper, and so on | the ranking details of a document that stands elsewhere: a relevance rule differs, every sort value agrees |
//! | what a threshold keeps | the score's scale is the product of the rules' largest ranks, which follow from the same paths (`maxTypoCount` 3 on the whole, 2 on a shard) | as above, or its score |
//! | marks in fields that are not searched | tokens are marked by words of the dictionary, which is filled from the searched fields: for `co`, all of `Contemporary` Fiction's likes are marked where some searched field has the word `co`, and else only those that searched fields have, too | both sides show the same text, and mark all that is searched as in the next row |
//! | marks on words found by a typo | a shard derives from the query the words that *its* dictionary has; a derived word that is the beginning of a token marks that much of it (`2002` marks `200`0 only where the word `200` occurs) | both sides mark whatever begins with a word of the query alike, and show the same text |

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::compare::{Fault, Question, hit_ids};
use super::documents::text_of;
use super::judge::{Answers, Side};
use super::order::{OrderFault, Standing, nearly_equal};
use super::{Object, Route};
use crate::client::ApiFault;

/// The keys that find and order hits.
const ORDERING: &[&str] = &[
    "q",
    "filter",
    "sort",
    "matchingStrategy",
    "attributesToSearchOn",
    "vector",
    "hybrid",
    "locales",
    "distinct",
];

/// The keys that say which of the hits are answered.
const WINDOW: &[&str] = &["page", "hitsPerPage", "offset", "limit", "rankingScoreThreshold"];

/// Splits `faults` of one search into those that stand and those that are excused.
///
/// # Errors
/// When a side does not answer.
pub async fn excuse<A: Answers>(
    answers: &A,
    question: &Question<'_>,
    reference: &Value,
    subject: &Value,
    faults: Vec<Fault>,
) -> Result<(Vec<Fault>, Vec<Fault>), ApiFault> {
    if faults.is_empty() {
        return Ok((faults, Vec::new()));
    }
    let by_threshold = question.body.contains_key("rankingScoreThreshold");
    let of_standing = |fault: &Fault| match fault {
        Fault::Order(fault) => {
            matches!(fault, OrderFault::Place { .. } | OrderFault::Length { .. })
                && (by_threshold || matches!(fault, OrderFault::Place { .. }))
        }
        // What a threshold cuts is neither counted.
        Fault::Key { key, .. } => {
            by_threshold
                && ["totalHits", "totalPages", "estimatedTotalHits", "facetStats"]
                    .contains(&key.as_str())
        }
        Fault::Facet { .. } => by_threshold,
        _ => false,
    };
    let mut standings_differ = false;
    if faults.iter().any(|fault| matches!(fault, Fault::Order(_)) && of_standing(fault)) {
        standings_differ = disputed_stand_apart(answers, question, reference, subject).await?;
    }
    let is_marked = |fault: &Fault| matches!(fault, Fault::Document { key, .. } if key == "_formatted" || key == "_matchesPosition");
    let mut marked = BTreeMap::new();
    if faults.iter().any(is_marked) {
        marked = documents_with_other_marks(answers, question).await?;
    }
    Ok(faults.into_iter().partition(|fault| {
        let excused = match fault {
            Fault::Document { id, key, reference, subject } if is_marked(fault) => {
                marked.get(id).is_some_and(|free| {
                    let is_cropped =
                        key == "_matchesPosition" || question.body.contains_key("attributesToCrop");
                    differ_only_in(free, reference, subject, |a, b| {
                        is_cropped || same_text(a, b, question.tags())
                    })
                })
            }
            fault => standings_differ && of_standing(fault),
        };
        !excused
    }))
}

fn part(body: &Object, keys: &[&[&str]]) -> Object {
    let kept = |key: &&String| keys.iter().any(|keys| keys.contains(&key.as_str()));
    body.iter().filter(|(key, _)| kept(key)).map(|(k, v)| (k.clone(), v.clone())).collect()
}

/// Asks both sides, without any cut, whether a document that they have at different places is
/// judged differently by a relevance rule.
async fn disputed_stand_apart<A: Answers>(
    answers: &A,
    question: &Question<'_>,
    reference: &Value,
    subject: &Value,
) -> Result<bool, ApiFault> {
    let (left, right) = (hit_ids(reference), hit_ids(subject));
    let longer = left.len().max(right.len());
    let disputed: BTreeSet<&String> = (0..longer)
        .filter(|place| left.get(*place) != right.get(*place))
        .flat_map(|place| left.get(place).into_iter().chain(right.get(place)))
        .collect();
    let mut body = part(question.body, &[ORDERING]);
    body.insert("limit".into(), json!(question.variant.total_hits_max));
    body.insert("showRankingScore".into(), json!(true));
    body.insert("showRankingScoreDetails".into(), json!(true));
    body.insert("attributesToRetrieve".into(), json!(["id"]));
    let mut sides = Vec::new();
    for side in [Side::Reference, Side::Subject] {
        let reply = answers.ask(side, Route::Search, question.variant.index, &body).await?;
        let hits = reply.body["hits"].as_array().cloned().unwrap_or_default();
        sides.push(hits.into_iter().map(|hit| (text_of(&hit["id"]), hit)).collect());
    }
    let [reference, subject]: [BTreeMap<String, Value>; 2] = match sides.try_into() {
        Ok(sides) => sides,
        Err(_) => return Ok(false),
    };
    let mut apart = false;
    for id in disputed {
        let (Some(a), Some(b)) = (reference.get(id), subject.get(id)) else { continue };
        let standing = |hit: &Value| hit["_rankingScoreDetails"].as_object().map(Standing::of);
        let (Some(left), Some(right)) = (standing(a), standing(b)) else { continue };
        if !left.sorts_like(&right) {
            // Not for the words' sake: that is a fault.
            return Ok(false);
        }
        apart |= !left.ties_with(&right)
            || !nearly_equal(&a["_rankingScore"], &b["_rankingScore"], 1e-9);
    }
    Ok(apart)
}

/// Whether two objects differ only under keys that are, or lie below, the `free` fields, and there
/// only as `may` allows. What is cropped or where matches lie follows from the marks of the same
/// field, so that other fields must agree.
fn differ_only_in(
    free: &BTreeSet<String>,
    a: &Value,
    b: &Value,
    may: impl Fn(&Value, &Value) -> bool,
) -> bool {
    let empty = Object::new();
    let (a, b) = (a.as_object().unwrap_or(&empty), b.as_object().unwrap_or(&empty));
    let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    keys.into_iter().all(|key| {
        let root = key.split('.').next().unwrap_or_default();
        let (a, b) = (a.get(key).unwrap_or(&Value::Null), b.get(key).unwrap_or(&Value::Null));
        a == b || (free.contains(root) && may(a, b))
    })
}

/// Marks that occur in no document, so that they can be told from text.
const TAGS: (&str, &str) = ("\u{2}", "\u{3}");

/// Asks both sides for all marks, uncropped. Names the fields of each document whose marks differ;
/// none when one differs that may not.
async fn documents_with_other_marks<A: Answers>(
    answers: &A,
    question: &Question<'_>,
) -> Result<BTreeMap<String, BTreeSet<String>>, ApiFault> {
    let mut body = part(question.body, &[ORDERING, WINDOW]);
    body.insert("attributesToHighlight".into(), json!(["*"]));
    body.insert("highlightPreTag".into(), json!(TAGS.0));
    body.insert("highlightPostTag".into(), json!(TAGS.1));
    body.insert("attributesToRetrieve".into(), json!(["id"]));
    let index = question.variant.index;
    let reference = answers.ask(Side::Reference, Route::Search, index, &body).await?.body;
    let subject = answers.ask(Side::Subject, Route::Search, index, &body).await?.body;
    let formatted = |answer: &Value| -> BTreeMap<String, Object> {
        let hits = answer["hits"].as_array().cloned().unwrap_or_default();
        let fields = |hit: &Value| hit["_formatted"].as_object().cloned().unwrap_or_default();
        hits.iter().map(|hit| (text_of(&hit["id"]), fields(hit))).collect()
    };
    let rule = MarkRule::of(question);
    let (left, right) = (formatted(&reference), formatted(&subject));
    let both = left.iter().filter_map(|(id, a)| Some((id, a, right.get(id)?)));
    Ok(both
        .filter(|(_, a, b)| a != b)
        .map(|(id, a, b)| {
            let differing = a.iter().filter(|(field, a)| b.get(*field) != Some(a));
            let fields = differing.map(|(field, _)| field.clone());
            let may_differ = rule.lets_documents_differ(a, b);
            (id.clone(), if may_differ { fields.collect() } else { BTreeSet::new() })
        })
        .collect())
}

/// Which marks follow from the dictionary.
struct MarkRule {
    /// The words of the query.
    words: Vec<String>,
    typos: bool,
    /// `searchableAttributes`, when not all.
    searchable: Option<Vec<String>>,
}

impl MarkRule {
    fn of(question: &Question<'_>) -> Self {
        let q = question.body.get("q").and_then(Value::as_str).unwrap_or_default();
        let words = q.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
        Self {
            words: words.map(str::to_lowercase).collect(),
            typos: question.typos_are_tolerated(),
            searchable: question.variant.searchable.clone(),
        }
    }

    fn is_searched(&self, field: &str) -> bool {
        self.searchable
            .as_ref()
            .is_none_or(|names| names.iter().any(|name| name.split('.').next() == Some(field)))
    }

    /// Whether two documents have the same text, and marks that differ only where they may.
    fn lets_documents_differ(&self, a: &Object, b: &Object) -> bool {
        a.len() == b.len()
            && a.iter().all(|(field, a)| {
                b.get(field).is_some_and(|b| {
                    if self.is_searched(field) {
                        self.lets_values_differ(a, b)
                    } else {
                        same_text(a, b, TAGS)
                    }
                })
            })
    }

    fn lets_values_differ(&self, a: &Value, b: &Value) -> bool {
        match (a, b) {
            (Value::String(a), Value::String(b)) => {
                let ((text, left), (other, right)) = (unmark(a, TAGS), unmark(b, TAGS));
                text == other
                    && left
                        .symmetric_difference(&right)
                        .all(|(start, _)| self.typos && self.is_typo(text.get(*start..)))
            }
            (Value::Array(a), Value::Array(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| self.lets_values_differ(a, b))
            }
            (Value::Object(a), Value::Object(b)) => {
                a.len() == b.len()
                    && a.iter()
                        .all(|(key, a)| b.get(key).is_some_and(|b| self.lets_values_differ(a, b)))
            }
            _ => a == b,
        }
    }

    /// Whether the token at the beginning of `rest` does not begin with a word of the query.
    fn is_typo(&self, rest: Option<&str>) -> bool {
        let rest = rest.unwrap_or_default();
        let end = rest.find(|c: char| !c.is_alphanumeric()).unwrap_or(rest.len());
        let token = rest.get(..end).unwrap_or_default().to_lowercase();
        !self.words.iter().any(|word| token.starts_with(word))
    }
}

/// Whether two documents are the same but for their marks.
fn same_text(a: &Value, b: &Value, tags: (&str, &str)) -> bool {
    match (a, b) {
        (Value::String(a), Value::String(b)) => unmark(a, tags).0 == unmark(b, tags).0,
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same_text(a, b, tags))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len()
                && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same_text(a, b, tags)))
        }
        _ => a == b,
    }
}

/// The text without tags, and where in it marks begin and end, in bytes.
fn unmark(marked: &str, (before, after): (&str, &str)) -> (String, BTreeSet<(usize, usize)>) {
    let mut text = String::with_capacity(marked.len());
    let mut marks = BTreeSet::new();
    let mut parts = marked.split(before);
    text.push_str(parts.next().unwrap_or_default());
    for part in parts {
        let (inside, rest) = part.split_once(after).unwrap_or((part, ""));
        marks.insert((text.len(), text.len() + inside.len()));
        text.push_str(inside);
        text.push_str(rest);
    }
    (text, marks)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn differ(a: &str, b: &str, words: &[&str], searchable: Option<&str>) -> bool {
        let marked = |text: &str| {
            let text = text.replace('[', TAGS.0).replace(']', TAGS.1);
            Object::from_iter([("t".to_owned(), json!([text]))])
        };
        let rule = MarkRule {
            words: words.iter().map(|word| (*word).to_owned()).collect(),
            typos: true,
            searchable: searchable.map(|name| vec![name.to_owned()]),
        };
        rule.lets_documents_differ(&marked(a), &marked(b))
    }

    #[test]
    fn only_marks_on_tokens_reached_by_a_typo_may_differ() {
        assert!(differ("[200]0 Jul [2002]", "[2000] Jul [2002]", &["2002"], None));
        assert!(differ("Sony [Clas]sics", "Sony Classics", &["clau"], Some("t.en")));
        assert!(!differ("[Moon]raker", "[Moonr]aker", &["moon"], None), "a word of the query");
        assert!(!differ("[Moon]", "Moon", &["full", "moon"], None));
        assert!(!differ("[200]0", "[200]1", &["2002"], None), "another text");
    }

    #[test]
    fn marks_may_differ_where_nothing_is_searched() {
        assert!(differ("[Co]wboy Pictures", "Cowboy Pictures", &["co"], Some("title")));
        assert!(!differ("[Co]wboy", "Cowgirl", &["co"], Some("title")), "another text");
    }

    #[test]
    fn only_fields_whose_marks_differ_may_be_cropped_differently() {
        let (a, b) = (json!({"t": "…a", "u": "x"}), json!({"t": "a…", "u": "x"}));
        let free = |field: &str| BTreeSet::from([field.to_owned()]);
        assert!(differ_only_in(&free("t"), &a, &b, |_, _| true));
        assert!(!differ_only_in(&free("t"), &a, &b, |_, _| false));
        assert!(!differ_only_in(&free("u"), &a, &b, |_, _| true));
        let (a, b) = (json!({"t.en": [1]}), json!({}));
        assert!(differ_only_in(&free("t"), &a, &b, |_, _| true));
    }

    #[test]
    fn text_is_the_same_when_only_tags_differ() {
        let tags = ("<em>", "</em>");
        let a = json!({ "t": "a <em>b</em>c" });
        assert!(same_text(&a, &json!({ "t": "a <em>bc</em>" }), tags));
        assert!(!same_text(&a, &json!({ "t": "a b" }), tags));
        assert!(!same_text(&a, &json!({ "t": "a bc", "u": null }), tags));
    }
}
