//! A client's search as the nodes are to see it, and how their answers are then merged.

use std::collections::{BTreeMap, BTreeSet};

use miroir_actors::node_settings::node_facet_values_max;
use miroir_wire::error::{ApiError, Code};
use miroir_wire::reserved::is_reserved;
use miroir_wire::search::{LIMIT_DEFAULT, SearchQuery};
use serde_json::Value;

use crate::disguise::{disguise, disguise_filter};
use crate::merge::MergePlan;
use crate::merge::facets::{FacetRules, write_string};
use crate::merge::rank::HitOrder;
use crate::merge::render::{AddedField, HitCuts};
use crate::read_settings::ReadSettings;
use crate::window::{AskedWindow, ClientWindow};

/// How many lists there will be to merge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lists {
    /// One node answers for everything: its order stands, its window is the client's.
    One,
    /// Several do.
    Many,
}

/// A search, ready to be sent and merged.
#[derive(Clone, Debug)]
pub struct NodeQuery {
    /// The body without its filter and window, as JSON.
    body: Vec<u8>,
    filter: Option<Value>,
    /// The window of a node that has to give all that it could have to give.
    pub window: AskedWindow,
    /// Nodes may be asked for the top of that window: what is merged from tops tells whether
    /// they were enough.
    pub may_narrow: bool,
    /// What finds the same documents and shows none of them, for counting facets again. None when
    /// a further filter would change more than which documents are counted.
    counting: Option<SearchQuery>,
    /// The attributes that nodes are asked for; `None` for all.
    pub retrieved: Option<BTreeSet<String>>,
    /// How the answers are merged.
    pub merge: MergePlan,
}

impl NodeQuery {
    /// The body for a node that is asked for `window` and whose shards are limited by
    /// `shard_filter`. The client's filter goes beside it in an array, so that positions in error
    /// texts are those of the client's text.
    pub fn body(&self, shard_filter: Option<&str>, window: AskedWindow) -> Vec<u8> {
        let rest = self.body.strip_prefix(b"{").unwrap_or_default();
        let mut body = Vec::with_capacity(self.body.len() + 256);
        body.push(b'{');
        if let Some(filter) = join_filters(self.filter.as_ref(), shard_filter) {
            body.extend_from_slice(b"\"filter\":");
            // Writing into memory can't fail.
            let _ = serde_json::to_writer(&mut body, &filter);
            body.push(b',');
        }
        window.write(&mut body);
        if rest == b"}" && body.last() == Some(&b',') {
            body.pop();
        }
        body.extend_from_slice(rest);
        body
    }
}

impl NodeQuery {
    /// The query as one of several that a node is to federate, about the index it calls `uid`.
    pub fn federated_body(&self, uid: &str, weight: f64, shard_filter: Option<&str>) -> Vec<u8> {
        let mut body = b"{\"indexUid\":".to_vec();
        write_string(&mut body, uid);
        body.extend_from_slice(b",\"federationOptions\":{\"weight\":");
        // Writing into memory can't fail.
        let _ = serde_json::to_writer(&mut body, &weight);
        body.push(b'}');
        if let Some(filter) = join_filters(self.filter.as_ref(), shard_filter) {
            body.extend_from_slice(b",\"filter\":");
            let _ = serde_json::to_writer(&mut body, &filter);
        }
        let rest = self.body.strip_prefix(b"{").unwrap_or_default();
        if rest != b"}" {
            body.push(b',');
        }
        body.extend_from_slice(rest);
        body
    }

    /// Whether there is a [`counting_body`](Self::counting_body).
    pub fn can_count_again(&self) -> bool {
        self.counting.is_some()
    }

    /// The body of a search over the documents of this one that have one of `values` in `field`,
    /// with that facet and no hits. None when that can't be asked.
    pub fn counting_body<'v>(
        &self,
        field: &str,
        values: impl Iterator<Item = &'v str>,
        shard_filter: Option<&str>,
    ) -> Option<Vec<u8>> {
        let mut query = self.counting.clone()?;
        let values: Vec<String> = values.filter_map(quote).collect();
        let filter = format!("{} IN [{}]", quote(field)?, values.join(", "));
        query.filter =
            join_filters(join_filters(self.filter.as_ref(), Some(&filter)).as_ref(), shard_filter);
        query.facets = Some(vec![field.to_owned()]);
        serde_json::to_vec(&query).ok()
    }
}

/// `text` as a value in a filter. None for backslashes, which filters can't escape.
fn quote(text: &str) -> Option<String> {
    (!text.contains('\\')).then(|| format!("\"{}\"", text.replace('"', "\\\"")))
}

/// The part of a query that decides which documents match.
fn counting(query: &SearchQuery, settings: &ReadSettings) -> Option<SearchQuery> {
    let is_plain = query.distinct.is_none()
        && settings.distinct.is_none()
        && query.ranking_score_threshold.is_none()
        && query.hybrid.is_none()
        && query.vector.is_none();
    is_plain.then(|| SearchQuery {
        q: query.q.clone(),
        matching_strategy: query.matching_strategy,
        attributes_to_search_on: query.attributes_to_search_on.clone(),
        locales: query.locales.clone(),
        limit: 0,
        ..SearchQuery::default()
    })
}

/// Both filters as one, the shards' last.
pub fn join_filters(client: Option<&Value>, shards: Option<&str>) -> Option<Value> {
    match (client, shards) {
        (client, None) => client.cloned(),
        (None, Some(shards)) => Some(Value::from(vec![shards])),
        (Some(Value::Array(items)), Some(shards)) => {
            let mut items = items.clone();
            items.push(Value::from(shards));
            Some(Value::Array(items))
        }
        (Some(client), Some(shards)) => {
            Some(Value::from(vec![client.clone(), Value::from(shards)]))
        }
    }
}

/// Prepares `query` for the nodes.
///
/// # Errors
/// `invalid_search_filter` when the filter is of a type that could not stand beside another.
pub fn prepare(
    query: &SearchQuery,
    settings: &ReadSettings,
    lists: Lists,
) -> Result<NodeQuery, ApiError> {
    prepare_with(query, settings, lists, None)
}

/// The same; hits come with the field `key` in any case, by which documents are told apart.
///
/// # Errors
/// As [`prepare`].
pub fn prepare_with(
    query: &SearchQuery,
    settings: &ReadSettings,
    lists: Lists,
    key: Option<&str>,
) -> Result<NodeQuery, ApiError> {
    let mut sent = query.clone();
    let filter = client_filter(sent.filter.take(), Code::InvalidSearchFilter)?;
    let in_pages = sent.is_finite_pagination();
    let window = ClientWindow::of(query, settings.total_hits_max);
    // Written beside the body, for each node its own.
    (sent.offset, sent.limit, sent.page, sent.hits_per_page) = (0, LIMIT_DEFAULT, None, None);
    let order = hit_order(query, settings, lists);
    let (score, details) = match order {
        HitOrder::Arrival => (false, false),
        HitOrder::Score => (true, false),
        HitOrder::Rules => (false, true),
        HitOrder::Hybrid { .. } => (true, true),
    };
    sent.show_ranking_score |= score;
    sent.show_ranking_score_details |= details;
    let distinct = match lists {
        Lists::One => None,
        Lists::Many => query.distinct.clone().or_else(|| settings.distinct.clone()),
    };
    set_attributes(&mut sent, settings.displayed.as_ref());
    let (mut fields, mut formatted_fields) = (Vec::new(), Vec::new());
    for path in distinct.as_deref().into_iter().chain(key) {
        if let Some((field, formatted)) = add_field(&mut sent, path) {
            fields.push(field);
            formatted_fields.extend(formatted);
        }
    }
    let (facets, counts_distinct) = set_facets(&mut sent, settings, distinct.as_deref(), in_pages);
    for name in sent.sort.iter_mut().flatten().chain(sent.distinct.as_mut()) {
        *name = disguise(name).into_owned();
    }
    for name in sent.attributes_to_search_on.iter_mut().flatten() {
        *name = disguise(name).into_owned();
    }
    let formatted = sent.attributes_to_highlight.as_ref().is_some_and(|list| !list.is_empty())
        || sent.attributes_to_crop.as_ref().is_some_and(|list| !list.is_empty());
    let cuts = HitCuts {
        reserved: formatted || sent.attributes_to_retrieve.is_none(),
        formatted,
        score: score && !query.show_ranking_score,
        details: details && !query.show_ranking_score_details,
        fields,
        formatted_fields,
        federation: None,
        displayed: (query.show_ranking_score_details || query.show_matches_position)
            .then(|| settings.displayed.clone())
            .flatten(),
    };
    let body = serde_json::to_vec(&sent).map_err(|error| {
        ApiError::new(Code::Internal, format!("the query can't be written: {error}"))
    })?;
    let counting = (lists == Lists::Many && sent.facets.is_some())
        .then(|| counting(&sent, settings))
        .flatten();
    // What a vector search finds depends on how much is asked of it; which hits `distinct` drops
    // and how near places are grouped, on all lists together.
    let is_prefix_stable = query.vector.is_none()
        && query.hybrid.is_none()
        && distinct.is_none()
        && !query.sort.iter().flatten().any(|rule| rule.starts_with("_geo"));
    let (positions, asked) = match lists {
        Lists::One => (window.alone_cut.clone(), window.alone),
        Lists::Many => (window.positions.clone(), window.top()),
    };
    Ok(NodeQuery {
        body,
        filter,
        window: asked,
        may_narrow: lists == Lists::Many && is_prefix_stable,
        counting,
        retrieved: sent.attributes_to_retrieve.take(),
        merge: MergePlan {
            order,
            distinct,
            counts_distinct,
            window: positions,
            cuts,
            facets,
            total_hits_max: settings.total_hits_max as u64,
            echo: window.echo,
            query: query.q.clone().unwrap_or_default(),
            index_uid: None,
        },
    })
}

/// A client's filter, disguised; blank ones are none.
///
/// # Errors
/// `code` when it is neither text nor an array, in Meilisearch's words.
pub fn client_filter(filter: Option<Value>, code: Code) -> Result<Option<Value>, ApiError> {
    match filter {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.trim().is_empty() => Ok(None),
        Some(filter @ (Value::String(_) | Value::Array(_))) => Ok(Some(disguise_filter(filter))),
        Some(other) => Err(ApiError::new(
            code,
            format!(
                "Invalid syntax for the filter parameter: `expected String, Array, found: {other}`."
            ),
        )),
    }
}

/// By what the lists are merged.
fn hit_order(query: &SearchQuery, settings: &ReadSettings, lists: Lists) -> HitOrder {
    if lists == Lists::One {
        return HitOrder::Arrival;
    }
    let words = query.q.as_deref().unwrap_or_default().trim();
    let sorted =
        settings.has_sort_rules || query.sort.as_ref().is_some_and(|sort| !sort.is_empty());
    if let Some(hybrid) = &query.hybrid
        && !(words.is_empty() && query.vector.is_none())
    {
        let ratio = f64::from(hybrid.semantic_ratio.get());
        return if query.q.is_some() && ratio > 0.0 && ratio < 1.0 {
            HitOrder::Hybrid { semantic_ratio: ratio }
        } else {
            HitOrder::Rules
        };
    }
    if sorted {
        HitOrder::Rules
    } else if words.is_empty() {
        HitOrder::Arrival
    } else if settings.default_relevance && is_plain_word(words) {
        HitOrder::Score
    } else {
        HitOrder::Rules
    }
}

/// One word for sure, whatever the tokenizer: then the largest rank of every rule is the same on
/// all shards, their product is small, and scores compare like the rules one by one.
fn is_plain_word(words: &str) -> bool {
    let tail = words.strip_prefix(|c: char| c.is_ascii_uppercase()).unwrap_or(words);
    !words.is_empty() && tail.bytes().all(|byte| byte.is_ascii_lowercase())
}

/// Applies the client's displayed attributes, which nodes don't know, and drops reserved names.
fn set_attributes(sent: &mut SearchQuery, displayed: Option<&BTreeSet<String>>) {
    let visible = |name: &String| {
        !is_reserved(name) && displayed.is_none_or(|displayed| displayed.contains(name))
    };
    let everything = |name: &String| name == "*";
    sent.attributes_to_retrieve = match (sent.attributes_to_retrieve.take(), displayed) {
        (Some(list), _) if !list.iter().any(everything) => {
            Some(list.into_iter().filter(|name| visible(name)).collect())
        }
        (_, displayed) => displayed.cloned(),
    };
    if let Some(list) = sent.attributes_to_highlight.take() {
        let list = match displayed {
            Some(displayed) if list.iter().any(everything) => displayed.clone(),
            _ => list.into_iter().filter(|name| everything(name) || visible(name)).collect(),
        };
        sent.attributes_to_highlight = Some(list);
    }
    if let Some(list) = sent.attributes_to_crop.take() {
        let mut kept = Vec::with_capacity(list.len());
        for entry in list {
            let (name, length) = match entry.rsplit_once(':') {
                Some((name, length)) => (name.to_owned(), Some(length)),
                None => (entry.clone(), None),
            };
            match displayed {
                Some(displayed) if everything(&name) => kept.extend(displayed.iter().map(|name| {
                    length.map_or_else(|| name.clone(), |length| format!("{name}:{length}"))
                })),
                _ if everything(&name) || visible(&name) => kept.push(entry),
                _ => {}
            }
        }
        sent.attributes_to_crop = Some(kept);
    }
}

/// Adds `path` to the attributes to retrieve unless it comes anyway. Returns what is to be cut out
/// of hits, and out of `_formatted`.
fn add_field(sent: &mut SearchQuery, path: &str) -> Option<(AddedField, Option<AddedField>)> {
    let root = |name: &str| name.split('.').next().unwrap_or_default().to_owned();
    let covers = |name: &str| {
        name == "*"
            || path.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    let list = sent.attributes_to_retrieve.as_mut()?;
    if is_reserved(path) || list.iter().any(|name| covers(name)) {
        return None;
    }
    let shares_its_root = list.iter().any(|name| root(name) == root(path));
    list.insert(path.to_owned());
    let field = AddedField { path: path.to_owned(), shares_its_root };
    let highlighted = sent.attributes_to_highlight.iter().flatten().map(String::as_str);
    let cropped = sent.attributes_to_crop.iter().flatten();
    let cropped =
        cropped.map(|entry| entry.rsplit_once(':').map_or(entry.as_str(), |(name, _)| name));
    let formatted: Vec<&str> = highlighted.chain(cropped).collect();
    if formatted.iter().any(|name| covers(name)) {
        return Some((field, None));
    }
    let shares_its_root = shares_its_root || formatted.iter().any(|name| root(name) == root(path));
    let formatted = AddedField { path: path.to_owned(), shares_its_root };
    Some((field, Some(formatted)))
}

/// How far nodes list the values of a facet.
fn node_values_max(settings: &ReadSettings) -> usize {
    let max =
        node_facet_values_max(settings.facet_values_max as u64, settings.total_hits_max as u64);
    usize::try_from(max).unwrap_or(usize::MAX)
}

/// How the facets `names` of a federated search are merged, and what nodes are to be asked for.
pub fn federated_facets(names: &[String], settings: &ReadSettings) -> (FacetRules, Vec<String>) {
    let mut sent = SearchQuery { facets: Some(names.to_vec()), ..SearchQuery::default() };
    let (rules, _) = set_facets(&mut sent, settings, None, false);
    (rules, sent.facets.unwrap_or_default())
}

/// Sets the facets to ask for; the second part says whether the distinct attribute is among them
/// so that kept documents can be counted.
fn set_facets(
    sent: &mut SearchQuery,
    settings: &ReadSettings,
    distinct: Option<&str>,
    in_pages: bool,
) -> (FacetRules, bool) {
    let by_count = |field: &str| settings.facets_by_count.get(field).copied();
    let by_count_default = by_count("*").unwrap_or(false);
    let asked = sent.facets.clone().unwrap_or_default();
    let all = asked.iter().any(|name| name == "*");
    let mut rules = FacetRules {
        values_max: settings.facet_values_max,
        node_values_max: node_values_max(settings),
        // One node forgets orders set by name when it is asked for all facets.
        by_count: if all {
            BTreeMap::new()
        } else {
            asked.iter().filter_map(|name| Some((name.clone(), by_count(name)?))).collect()
        },
        by_count_default,
        hidden: BTreeSet::new(),
        only_added: sent.facets.is_none(),
    };
    let mut counts_distinct = false;
    if let Some(path) = distinct
        && in_pages
        && settings.is_filterable(path)
        && !is_reserved(path)
    {
        counts_distinct = true;
        if !all && !asked.iter().any(|name| name == path) {
            rules.hidden.insert(path.to_owned());
            sent.facets.get_or_insert_default().push(path.to_owned());
        }
    }
    for name in sent.facets.iter_mut().flatten() {
        *name = disguise(name).into_owned();
    }
    (rules, counts_distinct)
}

#[cfg(test)]
mod tests;
