//! The window of a search: what the client asked for, and how much of each node's list it takes.
//!
//! A page of `n` hits from `k` nodes needs all `n` of one node only when the others have nothing
//! as good. Documents are spread by a hash, so a node that holds the share `p` of them has about
//! `n p` hits on the page, with the deviation `sqrt(n p (1 - p))` of the binomial distribution.
//! Nodes are asked for that and `DEVIATIONS` more; a list that runs out all the same is asked
//! for again in full, so the merged page is the same. Deep pages gain most.

use std::ops::Range;

use miroir_wire::search::{LIMIT_DEFAULT, SearchQuery};

use crate::merge::WindowEcho;

/// How many standard deviations are asked for above the expected share: one list in about 150
/// then has to be asked for again.
const DEVIATIONS: f64 = 2.5;

/// The window as one node is asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AskedWindow {
    /// In pages, so that totals are exhaustive.
    pub in_pages: bool,
    /// Hits left out before the window; pages before it, when counted in pages.
    pub before: usize,
    /// Hits wanted.
    pub hits: usize,
}

impl AskedWindow {
    /// The same kind of window, from the top of the list.
    pub fn top(self, hits: usize) -> Self {
        Self { before: 0, hits, ..self }
    }

    /// Appends its members to a JSON object under way, each followed by a comma. Defaults are
    /// left out.
    pub fn write(self, out: &mut Vec<u8>) {
        let mut member = |name: &str, value: usize| {
            out.push(b'"');
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b"\":");
            out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
            out.push(b',');
        };
        if self.in_pages {
            member("page", self.before.saturating_add(1));
            member("hitsPerPage", self.hits);
            return;
        }
        if self.before > 0 {
            member("offset", self.before);
        }
        if self.hits != LIMIT_DEFAULT {
            member("limit", self.hits);
        }
    }
}

/// A client's window, clamped as Meilisearch does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientWindow {
    /// Positions in the merged list.
    pub positions: Range<usize>,
    /// What the answer says of it.
    pub echo: WindowEcho,
    /// For a node that answers alone: its list is cut by itself, and then by `alone_cut`.
    pub alone: AskedWindow,
    /// What is left to cut from such a list; everything stays, usually.
    pub alone_cut: Range<usize>,
}

impl ClientWindow {
    /// The window of `query` under `pagination.maxTotalHits`.
    pub fn of(query: &SearchQuery, total_hits_max: usize) -> Self {
        let in_pages = query.is_finite_pagination();
        let hits_per_page = query.hits_per_page.unwrap_or(LIMIT_DEFAULT);
        let page = query.page.unwrap_or(1);
        let (offset, limit) = if in_pages {
            // Page 0 is a page without hits.
            page.checked_sub(1)
                .map_or((0, 0), |before| (hits_per_page.saturating_mul(before), hits_per_page))
        } else {
            (query.offset, query.limit)
        };
        let start = offset.min(total_hits_max);
        let length = limit.min(total_hits_max - start);
        let positions = start..start.saturating_add(length);
        let echo = if in_pages {
            WindowEcho::Page { page: page as u64, hits_per_page: hits_per_page as u64 }
        } else {
            WindowEcho::Offset { offset: start as u64, limit: query.limit as u64 }
        };
        let whole = 0..usize::MAX;
        let (alone, alone_cut) = if !in_pages {
            (AskedWindow { in_pages, before: start, hits: length }, whole)
        } else if (start, length) == (offset, limit) && page > 0 {
            (AskedWindow { in_pages, before: page - 1, hits: hits_per_page }, whole)
        } else {
            // The limit on hits cuts the page.
            (AskedWindow { in_pages, before: 0, hits: positions.end }, positions.clone())
        };
        Self { positions, echo, alone, alone_cut }
    }

    /// All that one of several nodes could have to give.
    pub fn top(&self) -> AskedWindow {
        self.alone.top(self.positions.end)
    }
}

/// How many hits to ask of one of `lists` nodes that holds `held` of `shards` shards, for the
/// first `end` hits of the merged list. Ties take from all lists alike, whatever they hold.
pub fn hits_to_ask(end: usize, held: usize, shards: usize, lists: usize) -> usize {
    let hits = end as f64;
    let share = (held as f64 / shards.max(1) as f64).min(1.0);
    let expected = hits * share.max(1.0 / lists.max(1) as f64);
    let deviation = (hits * share * (1.0 - share)).sqrt();
    // Saturates, and is cut to the window.
    ((expected + DEVIATIONS * deviation).ceil() as usize).saturating_add(1).min(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_the_page_and_some_more_is_asked_for() {
        assert_eq!(hits_to_ask(20, 64, 64, 1), 20);
        assert_eq!(hits_to_ask(20, 21, 64, 3), 13);
        assert_eq!(hits_to_ask(1020, 21, 64, 3), 379);
        assert_eq!(hits_to_ask(20, 8, 64, 8), 8);
        // A node with few shards is taken from like the others when all hits are alike.
        assert_eq!(hits_to_ask(20, 1, 64, 2), 13);
        assert_eq!(hits_to_ask(0, 21, 64, 3), 0);
        assert_eq!(hits_to_ask(2, 21, 64, 3), 2);
        assert!(hits_to_ask(usize::MAX, 32, 64, 2) > 1 << 60);
    }

    #[test]
    fn defaults_are_not_written() {
        let written = |window: AskedWindow| {
            let mut out = Vec::new();
            window.write(&mut out);
            String::from_utf8_lossy(&out).into_owned()
        };
        let plain = AskedWindow { in_pages: false, before: 0, hits: LIMIT_DEFAULT };
        assert_eq!(written(plain), "");
        assert_eq!(
            written(AskedWindow { before: 3, hits: 5, ..plain }),
            r#""offset":3,"limit":5,"#
        );
        let pages = AskedWindow { in_pages: true, before: 1, hits: 7 };
        assert_eq!(written(pages), r#""page":2,"hitsPerPage":7,"#);
    }
}
