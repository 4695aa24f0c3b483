//! What one hit is worth, read from its bytes, and how two hits compare.
//!
//! The rule is spec 01, "The comparison rule, exactly": rules one by one in their order,
//! relevance rules by what they count, sort values typed, geo by distance, and whatever was
//! skipped for lack of time lowest. Ranks are never multiplied together: the engine's 32-bit
//! product overflows, and the largest rank of a rule may differ between shards.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::sync::LazyLock;

use memchr::memmem::Finder;
use smallvec::SmallVec;

use crate::json_scan::{integer, member, members, number, text, unescape};

/// By what the hits of a query are ordered; follows from the query and the ranking rules.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum HitOrder {
    /// All hits are equal (no words, no sort): lists follow one another.
    Arrival,
    /// `_rankingScore` decides; only relevance rules are at work and their ranks can't overflow.
    Score,
    /// `_rankingScoreDetails` decide, rule by rule.
    Rules,
    /// Keyword and vector results in one list: `_rankingScore`, weighted, then sort values.
    Hybrid {
        /// The share of the vector results, 0 to 1; keyword results get the rest.
        semantic_ratio: f64,
    },
}

/// The position of one hit in the order; greater is better.
///
/// Few exist at a time (one per list), so the size of the largest variant is no cost, while a box
/// would be one allocation per hit.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Debug, PartialEq)]
pub enum HitRank<'a> {
    /// Equal to every other.
    Equal,
    /// A ranking score.
    Score(f64),
    /// One value per rule, in the rules' order.
    Rules(SmallVec<[RuleValue<'a>; 8]>),
}

/// What one ranking rule said of a hit.
#[derive(Clone, Debug, PartialEq)]
pub enum RuleValue<'a> {
    /// Not judged for lack of time: below everything.
    Skipped,
    /// A relevance rule or a similarity, higher is better.
    Rank(f64),
    /// A sort rule.
    Sort {
        /// The direction; the same for all hits of a query.
        ascending: bool,
        /// The engine's normalised value.
        value: SortValue<'a>,
    },
    /// Distance to a point in metres; `None` for documents without a place.
    Geo {
        /// The direction; the same for all hits of a query.
        ascending: bool,
        /// Metres.
        distance: Option<f64>,
    },
}

/// A value that hits are sorted by.
#[derive(Clone, Debug, PartialEq)]
pub enum SortValue<'a> {
    /// The document lacks it: last in both directions.
    Missing,
    /// Before strings in both directions.
    Number(f64),
    /// Compared by bytes.
    Text(Cow<'a, str>),
}

impl<'a> HitRank<'a> {
    /// Reads the rank of a hit under `order`. A hit that lacks what the order needs ranks last.
    pub fn read(order: HitOrder, hit: &'a [u8]) -> Self {
        match order {
            HitOrder::Arrival => Self::Equal,
            HitOrder::Score => Self::Score(read_score(hit)),
            HitOrder::Rules => Self::Rules(
                read_rules(find_details(hit)).into_iter().map(|rule| rule.value).collect(),
            ),
            HitOrder::Hybrid { semantic_ratio } => Self::Rules(read_hybrid(hit, semantic_ratio)),
        }
    }

    /// `Greater` when `self` comes before `other`.
    pub fn compare(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Score(left), Self::Score(right)) => compare_numbers(*left, *right),
            (Self::Rules(left), Self::Rules(right)) => compare_rules(left, right),
            _ => Ordering::Equal,
        }
    }
}

/// Lexicographic; the list that ends first is the lower one.
pub fn compare_rules(left: &[RuleValue<'_>], right: &[RuleValue<'_>]) -> Ordering {
    for (left, right) in left.iter().zip(right) {
        let order = left.compare(right);
        if order.is_ne() {
            return order;
        }
    }
    left.len().cmp(&right.len())
}

impl RuleValue<'_> {
    /// `Greater` when `self` is the better one.
    pub fn compare(&self, other: &Self) -> Ordering {
        use RuleValue::{Geo, Rank, Skipped, Sort};
        match (self, other) {
            (Skipped, Skipped) => Ordering::Equal,
            (Skipped, _) => Ordering::Less,
            (_, Skipped) => Ordering::Greater,
            (Rank(left), Rank(right)) => compare_numbers(*left, *right),
            (Sort { ascending, value: left }, Sort { value: right, .. }) => {
                left.compare(right, *ascending)
            }
            (Geo { ascending, distance: left }, Geo { distance: right, .. }) => {
                match (left, right) {
                    (None, None) => Ordering::Equal,
                    (None, Some(_)) => Ordering::Less,
                    (Some(_), None) => Ordering::Greater,
                    (Some(left), Some(right)) => {
                        directed(compare_numbers(*left, *right), *ascending)
                    }
                }
            }
            // Rules of two kinds in one place: only between keyword and vector results, where
            // the engine lets any score above nothing win.
            (Rank(score), _) => above_nothing(*score),
            (_, Rank(score)) => above_nothing(*score).reverse(),
            (Sort { .. }, Geo { .. }) | (Geo { .. }, Sort { .. }) => Ordering::Equal,
        }
    }
}

impl SortValue<'_> {
    fn compare(&self, other: &Self, ascending: bool) -> Ordering {
        use SortValue::{Missing, Number, Text};
        match (self, other) {
            (Missing, Missing) => Ordering::Equal,
            (Missing, _) => Ordering::Less,
            (_, Missing) => Ordering::Greater,
            (Number(_), Text(_)) => Ordering::Greater,
            (Text(_), Number(_)) => Ordering::Less,
            // Sort values are compared exactly, as the engine's facet keys are.
            (Number(left), Number(right)) => {
                directed(left.partial_cmp(right).unwrap_or(Ordering::Equal), ascending)
            }
            (Text(left), Text(right)) => directed(left.cmp(right), ascending),
        }
    }
}

/// Ascending means that the smaller one is the better one.
fn directed(order: Ordering, ascending: bool) -> Ordering {
    if ascending { order.reverse() } else { order }
}

fn above_nothing(score: f64) -> Ordering {
    if score == 0.0 { Ordering::Less } else { Ordering::Greater }
}

/// Scores are quotients, printed and read again: equal within the machine's epsilon.
fn compare_numbers(left: f64, right: f64) -> Ordering {
    if (left - right).abs() <= f64::EPSILON {
        Ordering::Equal
    } else {
        left.partial_cmp(&right).unwrap_or(Ordering::Equal)
    }
}

/// The ranking score is the last member of a hit unless details follow it, so the end is looked
/// at first. A match there is at the hit's top level: only one bracket closes after it.
fn read_score(hit: &[u8]) -> f64 {
    const KEY: &[u8] = b"\"_rankingScore\":";
    /// Any number as serde_json prints it fits.
    const NUMBER_BYTES: usize = 32;
    if let Some(body) = hit.strip_suffix(b"}")
        && let Some(digits) = body.iter().rev().take(NUMBER_BYTES).position(|byte| *byte == b':')
        && let Some((head, score)) = body.split_at_checked(body.len() - digits)
        && head.ends_with(KEY)
        && let Some(score) = number(score)
    {
        return score;
    }
    member(hit, "_rankingScore").and_then(number).unwrap_or(f64::NEG_INFINITY)
}

/// The details are the last member of a hit, so the last place where their key stands is looked at
/// first: what follows it must be an object and then the hit's own bracket. Inside strings quotes
/// are escaped, so the key can't stand there.
fn find_details(hit: &[u8]) -> &[u8] {
    static KEY: LazyLock<Finder<'static>> =
        LazyLock::new(|| Finder::new(b"\"_rankingScoreDetails\":"));
    let last = KEY.find_iter(hit).last();
    let tail = last.and_then(|at| hit.get(at + KEY.needle().len()..));
    match tail.and_then(|tail| tail.strip_suffix(b"}")) {
        Some(details @ [b'{', .., b'}']) => details,
        _ => member(hit, "_rankingScoreDetails").unwrap_or_default(),
    }
}

/// A rule's value with its place: `order` in the details, then which of the rule's two parts.
struct PlacedRule<'a> {
    place: (u64, u8),
    is_vector: bool,
    /// Of the whole rule, 0 to 1; none for sorts and what has no score.
    score: Option<f64>,
    value: RuleValue<'a>,
}

fn read_rules(details: &[u8]) -> SmallVec<[PlacedRule<'_>; 8]> {
    let mut rules: SmallVec<[PlacedRule<'_>; 8]> = SmallVec::new();
    for rule in members(details).map_while(Result::ok) {
        read_rule(rule.key, rule.value, &mut rules);
    }
    // Stable, and almost always sorted already.
    rules.sort_by_key(|rule| rule.place);
    rules
}

/// The members of a rule's details that matter, by name.
#[derive(Default)]
struct Facts<'a> {
    order: u64,
    score: Option<f64>,
    matching_words: Option<f64>,
    typo_count: Option<f64>,
    attribute_score: Option<f64>,
    position_score: Option<f64>,
    similarity: Option<f64>,
    distance: Option<f64>,
    match_type: &'a [u8],
    value: &'a [u8],
}

fn read_facts(details: &[u8]) -> Facts<'_> {
    let mut facts = Facts::default();
    for fact in members(details).map_while(Result::ok) {
        match fact.key {
            b"order" => facts.order = integer(fact.value).unwrap_or(u64::MAX),
            b"score" => facts.score = number(fact.value),
            b"matchingWords" => facts.matching_words = number(fact.value),
            b"typoCount" => facts.typo_count = number(fact.value),
            b"attributeRankingOrderScore" => facts.attribute_score = number(fact.value),
            b"queryWordDistanceScore" => facts.position_score = number(fact.value),
            b"similarity" => facts.similarity = number(fact.value),
            b"distance" => facts.distance = number(fact.value),
            b"matchType" => facts.match_type = fact.value,
            b"value" => facts.value = fact.value,
            _ => {}
        }
    }
    facts
}

fn read_rule<'a>(name: &'a [u8], details: &'a [u8], rules: &mut SmallVec<[PlacedRule<'a>; 8]>) {
    let facts = read_facts(details);
    let rank = |value: Option<f64>| RuleValue::Rank(value.unwrap_or(0.0));
    let mut is_vector = false;
    let (first, second) = match name {
        b"skipped" => (RuleValue::Skipped, None),
        b"words" => (rank(facts.matching_words), None),
        // Counted, not scored: the largest possible count may differ between shards.
        b"typo" => (RuleValue::Rank(-facts.typo_count.unwrap_or(f64::MAX)), None),
        b"attribute" => (rank(facts.attribute_score), Some(rank(facts.position_score))),
        b"attributeRank" => (rank(facts.attribute_score.or(facts.score)), None),
        b"wordPosition" => (rank(facts.position_score.or(facts.score)), None),
        b"exactness" => {
            let kind = match facts.match_type {
                b"\"exactMatch\"" => 2.0,
                b"\"matchesStart\"" => 1.0,
                _ => 0.0,
            };
            (RuleValue::Rank(kind), Some(rank(facts.matching_words)))
        }
        b"vectorSort" => {
            is_vector = true;
            (rank(facts.similarity), None)
        }
        _ => match direction(name) {
            Some(ascending) if name.starts_with(b"_geoPoint(") => {
                (RuleValue::Geo { ascending, distance: facts.distance }, None)
            }
            Some(ascending) => {
                (RuleValue::Sort { ascending, value: read_sort_value(facts.value) }, None)
            }
            None => (rank(facts.score), None),
        },
    };
    let score = facts.score;
    rules.push(PlacedRule { place: (facts.order, 0), is_vector, score, value: first });
    if let Some(value) = second {
        rules.push(PlacedRule { place: (facts.order, 1), is_vector, score, value });
    }
}

/// `true` for ascending; `None` when the name is not that of a sort rule.
fn direction(name: &[u8]) -> Option<bool> {
    if name.ends_with(b":asc") {
        Some(true)
    } else if name.ends_with(b":desc") {
        Some(false)
    } else {
        None
    }
}

fn read_sort_value(value: &[u8]) -> SortValue<'_> {
    if let Some(text) = text(value) {
        SortValue::Text(text)
    } else {
        number(value).map_or(SortValue::Missing, SortValue::Number)
    }
}

/// The first run of scored rules counts as the (weighted) ranking score, the rest are sorts.
fn read_hybrid(hit: &[u8], semantic_ratio: f64) -> SmallVec<[RuleValue<'_>; 8]> {
    let rules = read_rules(find_details(hit));
    let weight =
        if rules.iter().any(|rule| rule.is_vector) { semantic_ratio } else { 1.0 - semantic_ratio };
    let score = read_score_anywhere(hit) * weight;
    let mut scored = false;
    let mut values = SmallVec::new();
    for rule in rules {
        match rule.value {
            RuleValue::Rank(_) | RuleValue::Skipped if scored => {}
            RuleValue::Rank(_) | RuleValue::Skipped => {
                scored = true;
                values.push(RuleValue::Rank(score));
            }
            sort => values.push(sort),
        }
    }
    values
}

pub(super) fn read_score_anywhere(hit: &[u8]) -> f64 {
    member(hit, "_rankingScore").and_then(number).unwrap_or(0.0)
}

/// How near a hit of a vector search is; none for a document without a vector.
pub fn similarity(hit: &[u8]) -> Option<f64> {
    let vectors = members(find_details(hit)).map_while(Result::ok);
    let vectors = vectors.filter(|rule| rule.key == b"vectorSort").last()?;
    member(vectors.value, "similarity").and_then(number)
}

/// Whether a hit of a hybrid or vector search came from its vector part.
pub fn is_semantic(hit: &[u8]) -> bool {
    members(find_details(hit)).map_while(Result::ok).any(|rule| rule.key == b"vectorSort")
}

/// What two hits of different queries are compared by, in one place.
#[derive(Clone, Debug, PartialEq)]
pub enum WeightedRule<'a> {
    /// A run of relevance rules: the weighted score of the first run; of a later one, whose score
    /// nodes don't tell, those of its rules.
    Scores(SmallVec<[f64; 4]>),
    /// A weighted similarity.
    Similarity(f64),
    /// A sort, which has no weight.
    Sort(RuleValue<'a>),
}

/// The rules of a hit of a query of this `weight`; its ranking score, weighted, is that of its
/// first run of relevance rules, or its first similarity.
pub fn weighted_rules(
    hit: &[u8],
    weight: f64,
    weighted_score: f64,
) -> SmallVec<[WeightedRule<'_>; 4]> {
    let mut rules: SmallVec<[WeightedRule<'_>; 4]> = SmallVec::new();
    let mut scored = false;
    let mut last_order = None;
    for rule in read_rules(find_details(hit)) {
        let order = Some(rule.place.0);
        let is_second_half = std::mem::replace(&mut last_order, order) == order;
        match rule.value {
            RuleValue::Rank(similarity) if rule.is_vector => {
                let score = if scored { similarity * weight } else { weighted_score };
                rules.push(WeightedRule::Similarity(score));
                scored = true;
            }
            RuleValue::Rank(_) | RuleValue::Skipped => {
                let score = rule.score.unwrap_or_default() * weight;
                match rules.last_mut() {
                    Some(WeightedRule::Scores(_)) if is_second_half => {}
                    Some(WeightedRule::Scores(run)) => run.push(score),
                    _ => rules.push(WeightedRule::Scores(SmallVec::from_slice(&[score]))),
                }
                if let (false, Some(WeightedRule::Scores(run))) = (scored, rules.last_mut()) {
                    *run = SmallVec::from_slice(&[weighted_score]);
                }
            }
            sort => {
                scored |= matches!(rules.last(), Some(WeightedRule::Scores(_)));
                rules.push(WeightedRule::Sort(sort));
            }
        }
    }
    rules
}

/// `Greater` when `left` is larger by more than rounding.
pub fn above_epsilon(left: f64, right: f64) -> Ordering {
    compare_numbers(left, right)
}

/// The text of a rule's name, for rendering.
pub fn rule_name(key: &[u8]) -> Cow<'_, str> {
    unescape(key)
}
