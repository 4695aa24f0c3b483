//! Facet distribution and statistics.

use std::collections::BTreeMap;

use indexmap::IndexMap;
use milli_core as milli;
use milli_core::heed::RoTxn;
use milli_core::{DEFAULT_VALUES_PER_FACET, Index, OrderBy};
use roaring::RoaringBitmap;
use serde::Serialize;

/// Smallest and largest number found in a facet.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct FacetStats {
    min: f64,
    max: f64,
}

/// The facets of one search.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Facets {
    /// Documents by value, by facet.
    pub(crate) distribution: BTreeMap<String, IndexMap<String, u64>>,
    /// For the facets that hold numbers.
    pub(crate) stats: BTreeMap<String, FacetStats>,
}

impl Facets {
    /// Adds what was counted in another index: counts of values that are printed alike are summed.
    pub(crate) fn add(&mut self, other: Facets) {
        for (name, values) in other.distribution {
            let known = self.distribution.entry(name).or_default();
            for (value, count) in values {
                *known.entry(value).or_default() += count;
            }
        }
        for (name, stats) in other.stats {
            self.stats
                .entry(name)
                .and_modify(|known| {
                    known.min = known.min.min(stats.min);
                    known.max = known.max.max(stats.max);
                })
                .or_insert(stats);
        }
    }

    /// Sorts summed values, and keeps the first `values_max` of each facet.
    pub(crate) fn sort(&mut self, order: impl Fn(&str) -> OrderBy, values_max: Option<usize>) {
        for (name, values) in &mut self.distribution {
            match order(name) {
                OrderBy::Lexicographic => values.sort_keys(),
                OrderBy::Count => values.sort_by(|_, left, _, right| right.cmp(left)),
            }
            values.truncate(values_max.unwrap_or(usize::MAX));
        }
    }
}

/// Counts the values of `names` (`*` for all) over `candidates`.
///
/// # Errors
/// `names` holds an attribute that is not filterable, or the database fails.
pub(crate) fn count_facets(
    names: &[String],
    index: &Index,
    rtxn: &RoTxn<'_>,
    candidates: RoaringBitmap,
) -> milli::Result<Facets> {
    let values_max = index
        .max_values_per_facet(rtxn)?
        .and_then(|max| usize::try_from(max).ok())
        .unwrap_or(DEFAULT_VALUES_PER_FACET);
    let order = index.sort_facet_values_by(rtxn)?;

    let mut counting = index.facets_distribution(rtxn);
    counting.max_values_per_facet(values_max);
    if names.iter().all(|name| name != "*") {
        counting.facets(names.iter().map(|name| (name, order.get(name))));
    }
    let distribution =
        counting.candidates(candidates).default_order_by(order.get("*")).execute()?;
    let stats = counting
        .compute_stats()?
        .into_iter()
        .map(|(name, (min, max))| (name, FacetStats { min, max }))
        .collect();
    Ok(Facets { distribution, stats })
}
