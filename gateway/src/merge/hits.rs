//! The k-way merge of the nodes' hit lists.
//!
//! Each list comes in its node's order, which the comparison rule of `rank` refines to the order
//! over all shards. Hits that compare equal are taken from all lists alike: by their position in
//! their own list, then in the order of the lists (sorted by node by the caller). That is the
//! fixed rule that keeps pages stable, and it lets every list be cut short (see
//! [`crate::window`]).

use std::cmp::Ordering;
use std::ops::Range;

use miroir_seams::planted::{self, Bug};

use super::distinct::Distinct;
use super::rank::{HitOrder, HitRank, RuleValue};

/// The engine treats distances within this many metres as equal: rules after a geo rule decide
/// between such hits.
const GEO_BUCKET_METRES: f64 = 1.0;

/// One node's hits, best first.
#[derive(Clone, Debug, Default)]
pub struct HitList<'a> {
    /// The hits.
    pub hits: Vec<&'a [u8]>,
    /// The node may have further ones.
    pub has_more: bool,
}

/// The list at this place ended before the window was full, and the node may have more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RanOut(pub usize);

/// The hits of `lists` at positions `window` of the merged order.
///
/// # Errors
/// When a list that was cut short has to give more.
pub fn merge_hits<'a>(
    lists: &[HitList<'a>],
    order: HitOrder,
    mut distinct: Option<&mut Distinct>,
    window: Range<usize>,
) -> Result<Vec<&'a [u8]>, RanOut> {
    let total = lists.iter().map(|list| list.hits.len()).sum();
    let mut kept = Vec::with_capacity(window.len().min(total));
    let mut position = 0;
    let take = |hit: &'a [u8]| {
        if distinct.as_deref_mut().is_some_and(|distinct| !distinct.admit(hit)) {
            return true;
        }
        if window.contains(&position) {
            kept.push(hit);
        }
        position += 1;
        position < window.end
    };
    if window.is_empty() {
        return Ok(kept);
    }
    if has_rule_after_geo(lists, order) {
        let _ = sort_by_geo_buckets(lists, order).into_iter().all(take);
    } else {
        merge_sorted(lists, order, take)?;
    }
    Ok(kept)
}

/// The first hit not yet taken of one list.
struct Head<'a> {
    rank: HitRank<'a>,
    hit: &'a [u8],
    list: usize,
    position: usize,
}

impl Head<'_> {
    /// `Greater` when `self` is to be taken before `other`.
    fn compare(&self, other: &Self) -> Ordering {
        let place = (self.position, self.list);
        self.rank.compare(&other.rank).then_with(|| (other.position, other.list).cmp(&place))
    }
}

/// Keeps the heads sorted, the best one last: few lists, and a list's next hit is usually near
/// its last one.
fn merge_sorted<'a>(
    lists: &[HitList<'a>],
    order: HitOrder,
    mut take: impl FnMut(&'a [u8]) -> bool,
) -> Result<(), RanOut> {
    let head = |list: usize, position: usize| {
        let hit = *lists.get(list)?.hits.get(position)?;
        Some(Head { rank: HitRank::read(order, hit), hit, list, position })
    };
    let mut heads: Vec<Head<'a>> = (0..lists.len()).filter_map(|list| head(list, 0)).collect();
    heads.sort_by(Head::compare);
    let mut before: Option<(HitRank<'a>, usize)> = None;
    while let Some(best) = heads.pop() {
        let ties = |(rank, list): (HitRank<'a>, usize)| {
            list != best.list && rank.compare(&best.rank).is_eq()
        };
        let drops = planted::has(Bug::MergeDropsTies) && before.take().is_some_and(ties);
        if planted::has(Bug::MergeDropsTies) {
            before = Some((best.rank.clone(), best.list));
        }
        if !drops && !take(best.hit) {
            break;
        }
        if let Some(next) = head(best.list, best.position + 1) {
            let place = heads.partition_point(|other| other.compare(&next).is_lt());
            heads.insert(place, next);
        } else if lists.get(best.list).is_some_and(|list| list.has_more) {
            return Err(RanOut(best.list));
        }
    }
    Ok(())
}

fn has_rule_after_geo(lists: &[HitList<'_>], order: HitOrder) -> bool {
    let Some(first) = lists.iter().find_map(|list| list.hits.first()) else { return false };
    match HitRank::read(order, first) {
        HitRank::Rules(rules) => geo_place(&rules).is_some_and(|place| place + 1 < rules.len()),
        _ => false,
    }
}

fn geo_place(rules: &[RuleValue<'_>]) -> Option<usize> {
    rules.iter().position(|rule| matches!(rule, RuleValue::Geo { .. }))
}

/// All hits, sorted exactly, then regrouped: what lies within a metre of the first of its group
/// is one group, inside which the later rules decide. That is how the engine cuts its buckets, and
/// no comparison of two hits alone can say it.
fn sort_by_geo_buckets<'a>(lists: &[HitList<'a>], order: HitOrder) -> Vec<&'a [u8]> {
    let mut ranked: Vec<(Vec<RuleValue<'a>>, &'a [u8])> = lists
        .iter()
        .flat_map(|list| &list.hits)
        .map(|hit| match HitRank::read(order, hit) {
            HitRank::Rules(rules) => (rules.into_vec(), *hit),
            _ => (Vec::new(), *hit),
        })
        .collect();
    let by_rules =
        |left: &[RuleValue<'a>], right: &[RuleValue<'a>]| super::rank::compare_rules(right, left);
    ranked.sort_by(|left, right| by_rules(&left.0, &right.0));
    let mut start = 0;
    while let Some((first, _)) = ranked.get(start) {
        let first = first.clone();
        let length = ranked
            .get(start..)
            .unwrap_or_default()
            .iter()
            .take_while(|(rules, _)| in_same_bucket(&first, rules))
            .count()
            .max(1);
        if let Some(place) = geo_place(&first)
            && let Some(bucket) = ranked.get_mut(start..start + length)
        {
            let later = |rules: &[RuleValue<'a>]| rules.get(place + 1..).map(<[_]>::to_vec);
            bucket.sort_by(|left, right| {
                by_rules(&later(&left.0).unwrap_or_default(), &later(&right.0).unwrap_or_default())
            });
        }
        start += length;
    }
    ranked.into_iter().map(|(_, hit)| hit).collect()
}

/// Equal before the geo rule, and near enough in it.
fn in_same_bucket(first: &[RuleValue<'_>], other: &[RuleValue<'_>]) -> bool {
    let Some(place) = geo_place(first) else { return false };
    let (Some(RuleValue::Geo { distance: a, .. }), Some(RuleValue::Geo { distance: b, .. })) =
        (first.get(place), other.get(place))
    else {
        return false;
    };
    let near = match (a, b) {
        (Some(a), Some(b)) => (a - b).abs() <= GEO_BUCKET_METRES,
        (None, None) => true,
        _ => false,
    };
    near && first.iter().take(place).zip(other).all(|(a, b)| a.compare(b).is_eq())
}
