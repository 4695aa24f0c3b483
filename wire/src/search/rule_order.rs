//! Whether the hits of several queries can stand in one list: their rules must compare the same
//! kinds of things in the same order, as far as both go.
//!
//! Each query's ranking rules are first brought into the form in which the engine applies them (no
//! relevance without words, one rule per field, `sort` as the query says); what that changes is
//! told with a refusal.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::MatchingStrategy;
use crate::error::{ApiError, Code};

/// By what a query finds its documents, which decides which rules are at work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RankedBy {
    /// No words: only sorts order.
    Nothing,
    /// Words, perhaps with vectors beside them.
    Words,
    /// Vectors alone.
    Vectors,
}

/// What two hits are compared by in one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Relevancy,
    Sort { ascending: bool },
    Geo { ascending: bool },
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Relevancy => "relevancy",
            Kind::Sort { ascending: true } => "ascending sort",
            Kind::Sort { ascending: false } => "descending sort",
            Kind::Geo { ascending: true } => "ascending geo sort",
            Kind::Geo { ascending: false } => "descending geo sort",
        }
    }

    /// Why two different ones can't be compared.
    fn against(self, other: Kind) -> &'static str {
        match (self, other) {
            (Kind::Relevancy, Kind::Sort { .. }) | (Kind::Sort { .. }, Kind::Relevancy) => {
                "cannot compare a relevancy rule with a sort rule"
            }
            (Kind::Relevancy, Kind::Geo { .. }) | (Kind::Geo { .. }, Kind::Relevancy) => {
                "cannot compare a relevancy rule with a geosort rule"
            }
            (Kind::Sort { .. }, Kind::Sort { .. }) => {
                "cannot compare two sort rules in opposite directions"
            }
            (Kind::Sort { .. }, Kind::Geo { .. }) | (Kind::Geo { .. }, Kind::Sort { .. }) => {
                "cannot compare a sort rule with a geosort rule"
            }
            (Kind::Geo { .. }, Kind::Geo { .. }) => {
                "cannot compare two geosort rules in opposite directions"
            }
            (Kind::Relevancy, Kind::Relevancy) => "internal error, comparison should be possible",
        }
    }
}

/// Where a rule stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Among the rules as applied, from and up to.
    Rules(usize, usize),
    /// In the query's sort, which is a rule itself.
    Sort { rule: usize, at: usize },
}

/// The rules of one query, as the engine applies them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleOrder {
    /// The applied rules by name.
    names: Vec<String>,
    /// The field of each sort in the query that is applied; `None` for a point.
    sorted: Vec<Option<String>>,
    /// What is compared, neighbouring relevance rules as one.
    compared: Vec<(Kind, Place)>,
    /// What was changed, a line each.
    notes: String,
}

/// One sort of a query.
struct SortRule<'q> {
    /// `None` for a point.
    field: Option<&'q str>,
    ascending: bool,
}

impl<'q> SortRule<'q> {
    fn read(text: &'q str) -> Option<Self> {
        let (name, direction) = text.rsplit_once(':')?;
        let ascending = match direction {
            "asc" => true,
            "desc" => false,
            _ => return None,
        };
        let field = (!name.starts_with("_geoPoint(")).then_some(name);
        Some(Self { field, ascending })
    }

    fn kind(&self) -> Kind {
        match self.field {
            Some(_) => Kind::Sort { ascending: self.ascending },
            None => Kind::Geo { ascending: self.ascending },
        }
    }

    fn name(&self) -> String {
        let direction = if self.ascending { "asc" } else { "desc" };
        format!("{}:{direction}", self.field.unwrap_or("_geo(..)"))
    }
}

impl RuleOrder {
    /// The order of a query with this `sort` under an index's `ranking_rules`. `None` when a sort
    /// can't be read, which is for the search to refuse.
    pub fn of(
        ranking_rules: &[String],
        sort: Option<&[String]>,
        strategy: MatchingStrategy,
        ranked_by: RankedBy,
    ) -> Option<Self> {
        let sort: Option<Vec<SortRule<'_>>> = match sort {
            Some(sort) => {
                Some(sort.iter().map(|text| SortRule::read(text)).collect::<Option<_>>()?)
            }
            None => None,
        };
        let mut draft = Draft::new(ranking_rules, sort.as_deref(), strategy, ranked_by);
        for (at, name) in ranking_rules.iter().enumerate() {
            if !draft.add(at, name) {
                break;
            }
        }
        Some(draft.order)
    }

    fn describe(&self, (kind, place): (Kind, Place), query: usize, index: &str) -> String {
        let (source, names) = match place {
            Place::Rules(from, to) => {
                let range = if from == to { format!("{from}") } else { format!("{from}..={to}") };
                let names = self.names.get(from..=to).unwrap_or_default().join(", ");
                (format!("`queries[{query}]`, `{index}.rankingRules[{range}]`"), names)
            }
            Place::Sort { rule, at } => {
                let field = self.sorted.get(at).cloned().flatten();
                let names = field
                    .map_or_else(|| "default".to_owned(), |field| format!("on field `{field}`"));
                let source =
                    format!("`queries[{query}].sort[{at}]`, `{index}.rankingRules[{rule}]`");
                (source, names)
            }
        };
        format!("{source}: {} rule(s) {names}", kind.name())
    }
}

/// A sort rule as it was said.
#[derive(Clone)]
struct Said {
    name: String,
    position: String,
}

/// An order under construction.
struct Draft<'q> {
    source: &'q [String],
    sort: Option<&'q [SortRule<'q>]>,
    strategy: MatchingStrategy,
    ranked_by: RankedBy,
    order: RuleOrder,
    note_count: usize,
    /// Fields that are sorted by, and where that is said.
    sorted_fields: BTreeMap<String, Said>,
    /// Rules already there, and where; `words` has no place when it was put there.
    seen: BTreeMap<String, Option<usize>>,
}

fn position(at: usize) -> String {
    format!("#{at} in ranking rules")
}

impl<'q> Draft<'q> {
    fn new(
        source: &'q [String],
        sort: Option<&'q [SortRule<'q>]>,
        strategy: MatchingStrategy,
        ranked_by: RankedBy,
    ) -> Self {
        let order = RuleOrder {
            names: Vec::new(),
            sorted: Vec::new(),
            compared: Vec::new(),
            notes: String::new(),
        };
        let (sorted_fields, seen) = (BTreeMap::new(), BTreeMap::new());
        Self { source, sort, strategy, ranked_by, order, note_count: 0, sorted_fields, seen }
    }

    fn note(&mut self, text: &str) {
        self.note_count += 1;
        // Writing to a string can't fail. The shorter indent is Meilisearch's own.
        let indent = if text.ends_with("is empty") { "   " } else { "    " };
        let _ = writeln!(self.order.notes, "{indent}{}. {text}", self.note_count);
    }

    fn note_duplicate(&mut self, name: &str, earlier: &str, removed: &str) {
        self.note(&format!(
            "Removed duplicate rule `{name}` at position {removed} as it already appears at position {earlier}"
        ));
    }

    fn push(&mut self, name: &str, kind: Kind) {
        let at = self.order.names.len();
        self.order.names.push(name.to_owned());
        match (kind, self.order.compared.last_mut()) {
            (Kind::Relevancy, Some((Kind::Relevancy, Place::Rules(_, to)))) => *to = at,
            _ => self.order.compared.push((kind, Place::Rules(at, at))),
        }
    }

    /// Adds the rule `name` that stands at `at`; `false` when nothing behind it is applied.
    fn add(&mut self, at: usize, name: &str) -> bool {
        if name == "sort" {
            self.add_sort(at);
        } else if let Some(rule) = SortRule::read(name) {
            let field = rule.field.unwrap_or_default().to_owned();
            match self.sorted_fields.get(&field).cloned() {
                Some(earlier) => {
                    self.note_duplicate(&earlier.name, &earlier.position, &position(at));
                }
                None => {
                    let kind = match field.as_str() {
                        "_geo" => Kind::Geo { ascending: rule.ascending },
                        _ => rule.kind(),
                    };
                    let said = Said { name: name.to_owned(), position: position(at) };
                    self.sorted_fields.insert(field, said);
                    self.push(name, kind);
                }
            }
        } else {
            match self.ranked_by {
                RankedBy::Nothing => self.note(&format!(
                    "Removed relevancy rule `{name}` at position {} because the query is a placeholder search (`q`: \"\")",
                    position(at)
                )),
                RankedBy::Vectors => return self.add_vector(at, name),
                RankedBy::Words if name == "words" => self.add_words(at),
                RankedBy::Words => self.add_relevance(at, name),
            }
        }
        true
    }

    fn add_vector(&mut self, at: usize, name: &str) -> bool {
        let Some(Some(vector)) = self.seen.get("vector").copied() else {
            self.seen.insert("vector".to_owned(), Some(at));
            self.push(name, Kind::Relevancy);
            return true;
        };
        let (here, there) = (position(at), position(vector));
        if self.sorted_fields.is_empty() {
            self.note(&format!(
                "Removed relevancy rule `{name}` at position {here} because the query is a vector search and `vector` was already inserted at position {there}"
            ));
            return true;
        }
        self.note(&format!(
            "Truncated relevancy rule `{name}` at position {here} and later rules because the query is a vector search and `vector` was inserted at position {there}"
        ));
        false
    }

    fn add_words(&mut self, at: usize) {
        let here = position(at);
        if self.strategy == MatchingStrategy::All {
            self.note(&format!(
                "Removed rule `words` at position {here} because `query.matchingWords` is set to `all`"
            ));
            return;
        }
        match self.seen.get("words").copied() {
            Some(Some(earlier)) => {
                self.note_duplicate("words", &position(earlier), &here);
                return;
            }
            Some(None) => self.note(&format!(
                "Removed rule `words` at position {here} because it was previously prepended"
            )),
            None => {}
        }
        self.seen.insert("words".to_owned(), Some(at));
        self.push("words", Kind::Relevancy);
    }

    fn add_relevance(&mut self, at: usize, name: &str) {
        if self.strategy != MatchingStrategy::All && !self.seen.contains_key("words") {
            self.note(&format!(
                "Prepended rule `words` before first relevancy rule `{name}` at position {}",
                position(at)
            ));
            self.push("words", Kind::Relevancy);
            self.seen.insert("words".to_owned(), None);
        }
        match self.seen.get(name).copied() {
            Some(earlier) => {
                self.note_duplicate(name, &position(earlier.unwrap_or_default()), &position(at));
            }
            None => {
                self.seen.insert(name.to_owned(), Some(at));
                self.push(name, Kind::Relevancy);
            }
        }
    }

    fn add_sort(&mut self, at: usize) {
        if let Some(earlier) = self.seen.get("sort").copied().flatten() {
            let name = self.source.get(earlier).cloned().unwrap_or_default();
            self.note_duplicate(&name, &position(earlier), &position(at));
            return;
        }
        let Some(sort) = self.sort else {
            self.note(&format!(
                "Removed rule `sort` at position {} because `query.sort` is empty",
                position(at)
            ));
            return;
        };
        self.seen.insert("sort".to_owned(), Some(at));
        let rule = self.order.names.len();
        self.order.names.push("sort".to_owned());
        let mut point = None;
        for (number, sorted) in sort.iter().enumerate() {
            let place = format!("#{number} in `query.sort` (as `sort` is #{at} in ranking rules)");
            let earlier = match sorted.field {
                Some(field) => self.sorted_fields.get(field).cloned(),
                None => point.clone(),
            };
            if let Some(earlier) = earlier {
                self.note_duplicate(&earlier.name, &earlier.position, &place);
                continue;
            }
            let said = Said { name: sorted.name(), position: place };
            match sorted.field {
                Some(field) => drop(self.sorted_fields.insert(field.to_owned(), said)),
                None => point = Some(said),
            }
            let at = self.order.sorted.len();
            self.order.sorted.push(sorted.field.map(str::to_owned));
            self.order.compared.push((sorted.kind(), Place::Sort { rule, at }));
        }
    }
}

/// Checks the queries of one request, in the order in which they are run.
#[derive(Debug, Default)]
pub struct OrderCheck {
    /// The query with the most rules so far, its position and its index.
    longest: Option<(RuleOrder, usize, String)>,
}

impl OrderCheck {
    /// Adds the query at position `query`.
    ///
    /// # Errors
    /// `invalid_multi_search_query_ranking_rules`.
    pub fn add(&mut self, order: RuleOrder, query: usize, index: &str) -> Result<(), ApiError> {
        if let Some((longest, earlier, its_index)) = &self.longest {
            let both = longest.compared.iter().zip(&order.compared);
            if let Some((there, here)) = both.into_iter().find(|(there, here)| there.0 != here.0) {
                let mut message = format!(
                    "The results of queries #{earlier} and #{query} are incompatible: \n  1. {}\n  2. {}\n  - {}\n",
                    longest.describe(*there, *earlier, its_index),
                    order.describe(*here, query, index),
                    there.0.against(here.0),
                );
                for (query, notes) in [(*earlier, &longest.notes), (query, &order.notes)] {
                    if !notes.is_empty() {
                        // Writing to a string can't fail.
                        let _ = write!(
                            message,
                            "  - note: The ranking rules of query #{query} were modified during canonicalization:\n{notes}"
                        );
                    }
                }
                return Err(ApiError::new(Code::InvalidMultiSearchQueryRankingRules, message));
            }
            if longest.compared.len() > order.compared.len() {
                return Ok(());
            }
        }
        self.longest = Some((order, query, index.to_owned()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(rules: &[&str], sort: Option<&[&str]>, ranked_by: RankedBy) -> RuleOrder {
        let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        let rules: Vec<String> = owned(rules);
        let sort: Option<Vec<String>> = sort.map(owned);
        RuleOrder::of(&rules, sort.as_deref(), MatchingStrategy::Last, ranked_by).unwrap()
    }

    const DEFAULT: &[&str] = &["words", "typo", "proximity", "attribute", "sort", "exactness"];

    #[test]
    fn lists_that_compare_the_same_kinds_of_things_are_compatible() {
        let mut check = OrderCheck::default();
        for (sort, ranked_by) in [
            (None, RankedBy::Words),
            (None, RankedBy::Vectors),
            // Without words there is nothing that could contradict.
            (None, RankedBy::Nothing),
        ] {
            assert_eq!(check.add(order(DEFAULT, sort, ranked_by), 0, "a"), Ok(()));
        }
        let mut check = OrderCheck::default();
        for sort in [["price:asc"], ["year:asc"]] {
            let order = order(DEFAULT, Some(&sort), RankedBy::Words);
            assert_eq!(check.add(order, 0, "a"), Ok(()));
        }
    }

    #[test]
    fn what_can_not_be_compared_is_refused_in_meilisearchs_words() {
        let mut check = OrderCheck::default();
        let first = order(&["words", "typo", "sort"], Some(&["price:asc"]), RankedBy::Words);
        check.add(first, 0, "a").unwrap();
        let second = order(DEFAULT, Some(&["price:desc"]), RankedBy::Nothing);
        let error = check.add(second, 2, "b").unwrap_err();
        assert_eq!(error.code, Code::InvalidMultiSearchQueryRankingRules);
        let expected = "The results of queries #0 and #2 are incompatible: 
  1. `queries[0]`, `a.rankingRules[0..=1]`: relevancy rule(s) words, typo
  2. `queries[2].sort[0]`, `b.rankingRules[0]`: descending sort rule(s) on field `price`
  - cannot compare a relevancy rule with a sort rule
  - note: The ranking rules of query #2 were modified during canonicalization:
    1. Removed relevancy rule `words` at position #0 in ranking rules because the query is a placeholder search (`q`: \"\")
    2. Removed relevancy rule `typo` at position #1 in ranking rules because the query is a placeholder search (`q`: \"\")
    3. Removed relevancy rule `proximity` at position #2 in ranking rules because the query is a placeholder search (`q`: \"\")
    4. Removed relevancy rule `attribute` at position #3 in ranking rules because the query is a placeholder search (`q`: \"\")
    5. Removed relevancy rule `exactness` at position #5 in ranking rules because the query is a placeholder search (`q`: \"\")
";
        assert_eq!(error.message, expected);
    }

    #[test]
    fn one_field_is_sorted_by_once() {
        let rules = ["typo", "price:asc", "sort", "price:desc", "words"];
        let order = order(
            &rules,
            Some(&["_geoPoint(1, 2):asc", "price:asc", "_geoPoint(3, 4):desc"]),
            RankedBy::Words,
        );
        assert_eq!(order.names, ["words", "typo", "price:asc", "sort", "words"]);
        let kinds: Vec<Kind> = order.compared.iter().map(|(kind, _)| *kind).collect();
        let ascending = true;
        assert_eq!(
            kinds,
            [Kind::Relevancy, Kind::Sort { ascending }, Kind::Geo { ascending }, Kind::Relevancy]
        );
        for note in [
            "1. Prepended rule `words` before first relevancy rule `typo` at position #0 in ranking rules",
            "2. Removed duplicate rule `price:asc` at position #1 in `query.sort` (as `sort` is #2 in ranking rules) as it already appears at position #1 in ranking rules",
            "3. Removed duplicate rule `_geo(..):asc` at position #2 in `query.sort` (as `sort` is #2 in ranking rules) as it already appears at position #0 in `query.sort` (as `sort` is #2 in ranking rules)",
            "4. Removed duplicate rule `price:asc` at position #3 in ranking rules as it already appears at position #1 in ranking rules",
            "5. Removed rule `words` at position #4 in ranking rules because it was previously prepended",
        ] {
            assert!(order.notes.contains(note), "{note}\n{}", order.notes);
        }
        assert!(
            RuleOrder::of(&[], Some(&["price".to_owned()]), MatchingStrategy::All, RankedBy::Words)
                .is_none()
        );
    }
}
