//! Facets of a federated search: kept apart by index, or merged into one.

use std::collections::BTreeMap;

use miroir_storage::routing::Routing;
use miroir_wire::error::{ApiError, Code};
use miroir_wire::search::{Federation, MultiSearchQuery, SearchQuery};
use serde_json::{Map, Value, json};

use super::{IndexPart, in_facets};
use crate::context::GatewayContext;
use crate::failure::Failure;
use crate::merge::facets::{MergedFacets, write_string};
use crate::read_settings::ReadSettings;
use crate::search::{resolve, search_index};

/// The order of each facet that is merged, and the index that first said so.
#[derive(Debug, Default)]
pub(super) struct FacetOrders {
    by_facet: BTreeMap<String, (String, bool)>,
}

impl FacetOrders {
    pub(super) fn add(
        &mut self,
        name: &str,
        facets: &[String],
        settings: &ReadSettings,
    ) -> Result<(), ApiError> {
        let said = |by_count: bool| if by_count { "by count" } else { "alphabetically" };
        for facet in facets {
            let here = settings.orders_by_count(facet);
            let known = self.by_facet.entry(facet.clone());
            let (earlier, there) = known.or_insert_with(|| (name.to_owned(), here));
            if *there != here {
                return Err(ApiError::new(
                    Code::InvalidMultiSearchFacetOrder,
                    format!(
                        "Inconsistent order for values in facet `{facet}`: index `{earlier}` orders {}, but index `{name}` orders {}.\n - Hint: Remove `federation.mergeFacets` or change `faceting.sortFacetValuesBy` to be consistent in settings.",
                        said(*there),
                        said(here)
                    ),
                ));
            }
        }
        Ok(())
    }
}

/// Facets of indexes that no query is about are refused like the others, and not answered.
pub(super) async fn check_unused_facets(
    context: &GatewayContext,
    routing: &Routing,
    request: &MultiSearchQuery,
    federation: &Federation,
) -> Result<(), Failure> {
    let mut orders = FacetOrders::default();
    let is_used = |name: &str| request.queries.iter().any(|(index, _)| index == name);
    let by_index = || federation.facets_by_index.iter();
    let merges = federation.merge_facets.is_some();
    for (name, facets) in by_index().filter(|(name, _)| is_used(name)) {
        let settings = context.settings.get(resolve(routing, name)?);
        // What is wrong with these has been said already.
        let _ = orders.add(name, facets.as_deref().unwrap_or_default(), &settings);
    }
    for (name, facets) in by_index().filter(|(name, _)| !is_used(name)) {
        let not_here = |failure: Failure| in_facets(failure.not_of_the_url(), name, None);
        let index = resolve(routing, name).map_err(not_here)?;
        let Some(facets) = facets else { continue };
        let added = orders.add(name, facets, &context.settings.get(index));
        if merges {
            added.map_err(|error| in_facets(error.into(), name, None))?;
        }
        let query =
            SearchQuery { limit: 0, facets: Some(facets.clone()), ..SearchQuery::default() };
        search_index(context, routing, name, &query, false).await.map_err(|failure| {
            in_facets(with_code(failure, Code::InvalidMultiSearchFacets), name, None)
        })?;
    }
    Ok(())
}

/// What is wrong with facets has another code here than in a search.
fn with_code(failure: Failure, code: Code) -> Failure {
    match failure {
        Failure::Node { error, .. } if error.code == Code::InvalidSearchFacets.name() => {
            ApiError::new(code, error.message).into()
        }
        other => other,
    }
}

pub(super) fn write_facets(
    out: &mut Vec<u8>,
    federation: &Federation,
    parts: &[IndexPart<'_>],
    facets: &[(&str, MergedFacets)],
) {
    if facets.is_empty() {
        return;
    }
    let Some(merge) = federation.merge_facets else {
        out.extend_from_slice(b",\"facetsByIndex\":{");
        for (place, (name, facets)) in facets.iter().enumerate() {
            if place > 0 {
                out.push(b',');
            }
            write_string(out, name);
            out.extend_from_slice(b":{\"distribution\":");
            out.extend_from_slice(&facets.distribution);
            out.extend_from_slice(b",\"stats\":");
            out.extend_from_slice(&facets.stats);
            out.push(b'}');
        }
        out.push(b'}');
        return;
    };
    let by_count = |facet: &str| {
        let of = parts
            .iter()
            .find(|part| part.facets.is_some_and(|names| names.iter().any(|name| name == facet)));
        of.is_some_and(|part| part.settings.orders_by_count(facet))
    };
    let (distribution, stats) = sum_facets(facets, &by_count, merge.max_values_per_facet);
    out.extend_from_slice(b",\"facetDistribution\":");
    out.extend_from_slice(Value::Object(distribution).to_string().as_bytes());
    out.extend_from_slice(b",\"facetStats\":");
    out.extend_from_slice(Value::Object(stats).to_string().as_bytes());
}

/// Facets of several indexes as one, as Meilisearch does it: values that are printed alike are
/// summed, and sorted as printed.
fn sum_facets(
    facets: &[(&str, MergedFacets)],
    by_count: &dyn Fn(&str) -> bool,
    values_max: Option<usize>,
) -> (Map<String, Value>, Map<String, Value>) {
    let read =
        |bytes: &[u8]| serde_json::from_slice::<Map<String, Value>>(bytes).unwrap_or_default();
    let mut sums: BTreeMap<String, Vec<(String, u64)>> = BTreeMap::new();
    let mut stats: BTreeMap<String, Value> = BTreeMap::new();
    for (_, facets) in facets {
        for (facet, values) in read(&facets.distribution) {
            let known = sums.entry(facet).or_default();
            for (value, count) in values.as_object().into_iter().flatten() {
                let count = count.as_u64().unwrap_or_default();
                match known.iter_mut().find(|(text, _)| text == value) {
                    Some((_, sum)) => *sum += count,
                    None => known.push((value.clone(), count)),
                }
            }
        }
        for (facet, range) in read(&facets.stats) {
            let known = stats.entry(facet).or_insert_with(|| range.clone());
            for (bound, is_beyond) in [("min", f64::lt as fn(&f64, &f64) -> bool), ("max", f64::gt)]
            {
                let (Some(here), Some(there)) = (
                    range.get(bound).and_then(Value::as_f64),
                    known.get(bound).and_then(Value::as_f64),
                ) else {
                    continue;
                };
                if is_beyond(&here, &there)
                    && let (Some(known), Some(here)) = (known.get_mut(bound), range.get(bound))
                {
                    *known = here.clone();
                }
            }
        }
    }
    let distribution = sums.into_iter().map(|(facet, mut values)| {
        if by_count(&facet) {
            values.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        } else {
            values.sort();
        }
        values.truncate(values_max.unwrap_or(usize::MAX));
        let values: Map<String, Value> =
            values.into_iter().map(|(value, count)| (value, json!(count))).collect();
        (facet, Value::Object(values))
    });
    (distribution.collect(), stats.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facets_of_several_indexes_are_summed_as_they_are_printed() {
        let facets = |distribution: &str, stats: &str| MergedFacets {
            distribution: distribution.as_bytes().to_vec(),
            stats: stats.as_bytes().to_vec(),
            inexact: Vec::new(),
        };
        let both = [
            ("a", facets(r#"{"g":{"x":1,"z":5},"n":{"2":1}}"#, r#"{"n":{"min":2.0,"max":2.0}}"#)),
            ("b", facets(r#"{"g":{"y":4,"x":2}}"#, r#"{"n":{"min":1.0,"max":1.5}}"#)),
        ];
        let (distribution, stats) = sum_facets(&both, &|_| false, None);
        let text = |map: Map<String, Value>| Value::Object(map).to_string();
        assert_eq!(text(distribution), r#"{"g":{"x":3,"y":4,"z":5},"n":{"2":1}}"#);
        assert_eq!(text(stats), r#"{"n":{"min":1.0,"max":2.0}}"#);
        let (distribution, _) = sum_facets(&both, &|_| true, Some(2));
        assert_eq!(text(distribution), r#"{"g":{"z":5,"y":4},"n":{"2":1}}"#);
    }
}
