//! Ranking rules: the built-in names, and custom rules `attribute:asc`, `attribute:desc`.

use std::fmt;

use deserr::{
    DeserializeError, Deserr, IntoValue, MergeWithError, Value, ValuePointerRef, take_cf_content,
};
use serde::{Serialize, Serializer};

use crate::parse::Unfit;

/// The rules of a new index, in order, before Meilisearch 1.36; and of any index without its own.
pub const DEFAULT_RANKING_RULES: [RankingRule; 6] = [
    RankingRule::Words,
    RankingRule::Typo,
    RankingRule::Proximity,
    RankingRule::Attribute,
    RankingRule::Sort,
    RankingRule::Exactness,
];

/// The rules of a new index, in order, since Meilisearch 1.36.
pub const SPLIT_RANKING_RULES: [RankingRule; 7] = [
    RankingRule::Words,
    RankingRule::Typo,
    RankingRule::Proximity,
    RankingRule::AttributeRank,
    RankingRule::Sort,
    RankingRule::WordPosition,
    RankingRule::Exactness,
];

/// One ranking rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RankingRule {
    /// More of the query's words.
    Words,
    /// Fewer typos.
    Typo,
    /// Words nearer to each other.
    Proximity,
    /// Weightier attributes, nearer to their beginning.
    Attribute,
    /// Weightier attributes; one half of `Attribute`. Since Meilisearch 1.36.
    AttributeRank,
    /// Nearer to the beginning of an attribute; the other half. Since Meilisearch 1.36.
    WordPosition,
    /// What the query's `sort` says.
    Sort,
    /// Words as they were typed.
    Exactness,
    /// Smaller values of this attribute.
    Asc(String),
    /// Greater values of this attribute.
    Desc(String),
}

impl fmt::Display for RankingRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RankingRule::Words => f.write_str("words"),
            RankingRule::Typo => f.write_str("typo"),
            RankingRule::Proximity => f.write_str("proximity"),
            RankingRule::Attribute => f.write_str("attribute"),
            RankingRule::AttributeRank => f.write_str("attributeRank"),
            RankingRule::WordPosition => f.write_str("wordPosition"),
            RankingRule::Sort => f.write_str("sort"),
            RankingRule::Exactness => f.write_str("exactness"),
            RankingRule::Asc(attribute) => write!(f, "{attribute}:asc"),
            RankingRule::Desc(attribute) => write!(f, "{attribute}:desc"),
        }
    }
}

impl Serialize for RankingRule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl RankingRule {
    pub(super) fn parse(text: &str) -> Result<RankingRule, String> {
        match text {
            "words" => return Ok(RankingRule::Words),
            "typo" => return Ok(RankingRule::Typo),
            "proximity" => return Ok(RankingRule::Proximity),
            "attribute" => return Ok(RankingRule::Attribute),
            "attributeRank" => return Ok(RankingRule::AttributeRank),
            "wordPosition" => return Ok(RankingRule::WordPosition),
            "sort" => return Ok(RankingRule::Sort),
            "exactness" => return Ok(RankingRule::Exactness),
            _ => {}
        }
        match text.rsplit_once(':') {
            Some((attribute, "asc")) => {
                check_attribute(attribute).map(|()| RankingRule::Asc(attribute.to_owned()))
            }
            Some((attribute, "desc")) => {
                check_attribute(attribute).map(|()| RankingRule::Desc(attribute.to_owned()))
            }
            _ => Err(RankingRule::unknown(text)),
        }
    }

    /// What is said of a rule that does not exist.
    pub fn unknown(text: &str) -> String {
        format!(
            "`{text}` ranking rule is invalid. Valid ranking rules are words, typo, sort, proximity, attribute, \
             exactness and custom ranking rules."
        )
    }

    /// Whether it is one half of `attribute`, which nodes know since Meilisearch 1.36.
    pub const fn is_half_of_attribute(&self) -> bool {
        matches!(self, RankingRule::AttributeRank | RankingRule::WordPosition)
    }
}

/// Names of geo functions and fields cannot be custom rules, whatever is between their parentheses.
fn check_attribute(attribute: &str) -> Result<(), String> {
    let point = attribute.starts_with("_geoPoint(") && attribute.ends_with(')');
    let is_function =
        |name: &str| attribute.strip_prefix(name).is_some_and(|rest| rest.starts_with('('));
    let reserved = ["_geo", "_geoDistance", "_geoPoint", "_geoRadius", "_geoBoundingBox"]
        .contains(&attribute)
        || ["_geoRadius", "_geoBoundingBox", "_geo", "_geoDistance"].into_iter().any(is_function);
    if !point && !reserved {
        return Ok(());
    }
    let (shown, hint) = if attribute.starts_with("_geoPoint") {
        ("_geoPoint", Some("sorting"))
    } else if attribute.starts_with("_geoRadius") {
        ("_geoRadius", Some("filtering"))
    } else if attribute.starts_with("_geoBoundingBox") {
        ("_geoBoundingBox", Some("filtering"))
    } else {
        (attribute, None)
    };
    let mut message =
        format!("`{shown}` is a reserved keyword and thus can't be used as a ranking rule");
    if let Some(purpose) = hint {
        message.push_str(&format!(". `{shown}` can only be used for {purpose} at search time"));
    }
    Err(message)
}

impl<E: DeserializeError + MergeWithError<Unfit>> Deserr<E> for RankingRule {
    fn deserialize_from_value<V: IntoValue>(
        value: Value<V>,
        location: ValuePointerRef,
    ) -> Result<Self, E> {
        let text = String::deserialize_from_value(value, location)?;
        RankingRule::parse(&text)
            .map_err(|message| take_cf_content(E::merge(None, Unfit(message), location)))
    }
}
