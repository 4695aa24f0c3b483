//! Writes hits as the client is to see them: reserved fields and whatever was added for the merge
//! are cut out of the bytes, the rest is copied.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use memchr::memmem::Finder;
use miroir_seams::planted::{self, Bug};
use miroir_wire::reserved::is_reserved;
use serde_json::Value;

use super::facets::write_string;
use super::rank::rule_name;
use crate::json_scan::{Member, integer, member, members, number, unescape};

/// What to cut out of every hit.
#[derive(Clone, Debug, Default)]
pub struct HitCuts {
    /// Documents come with reserved fields (unless the client named the fields it wants).
    pub reserved: bool,
    /// Hits may have `_formatted`.
    pub formatted: bool,
    /// `_rankingScore` was added.
    pub score: bool,
    /// `_rankingScoreDetails` was added.
    pub details: bool,
    /// These fields were added (dotted paths), to tell distinct values or documents apart.
    pub fields: Vec<AddedField>,
    /// Those of them that `_formatted` has only because of that: what is highlighted or cropped
    /// shows there, asked for or not.
    pub formatted_fields: Vec<AddedField>,
    /// What `_federation` says of hits, in the client's words instead of the node's.
    pub federation: Option<Federated>,
    /// The displayed attributes, when not all are: sort rules over others are hidden in details,
    /// and matches in others are cut.
    pub displayed: Option<BTreeSet<String>>,
}

/// Which of a client's queries found a hit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Federated {
    /// The client's name of the index.
    pub index: String,
    /// The query's position in the request.
    pub position: usize,
}

/// A field that was asked for on top of the client's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddedField {
    /// Dotted path.
    pub path: String,
    /// The client asked for something under the same top-level key, which has to stay.
    pub shares_its_root: bool,
}

impl AddedField {
    fn root(&self) -> &str {
        self.path.split('.').next().unwrap_or_default()
    }
}

impl HitCuts {
    fn nothing(&self) -> bool {
        !self.reserved
            && !self.score
            && !self.details
            && self.fields.is_empty()
            && self.displayed.is_none()
            && self.federation.is_none()
    }

    fn drops(&self, key: &[u8]) -> bool {
        match key {
            b"_rankingScore" => self.score,
            b"_rankingScoreDetails" => self.details,
            [b'_', ..] if self.reserved && !planted::has(Bug::LeakReserved) => {
                std::str::from_utf8(key).is_ok_and(is_reserved)
            }
            _ => false,
        }
    }
}

/// Appends `hit` without what `cuts` names.
pub fn write_hit(out: &mut Vec<u8>, hit: &[u8], cuts: &HitCuts) {
    if cuts.nothing() {
        out.extend_from_slice(hit);
        return;
    }
    if let Some(kept) = cut_ends(hit, cuts) {
        out.push(b'{');
        out.extend_from_slice(kept);
        out.push(b'}');
        return;
    }
    out.push(b'{');
    let mut separate = Separator::default();
    for part in members(hit).map_while(Result::ok) {
        if cuts.drops(part.key) {
            continue;
        }
        match part.key {
            b"_formatted" => {
                let mut formatted = Vec::with_capacity(part.value.len());
                write_object(&mut formatted, part.value, cuts, &cuts.formatted_fields);
                // Left out when there is nothing to show.
                if formatted != b"{}" {
                    separate.next(out);
                    out.extend_from_slice(b"\"_formatted\":");
                    out.append(&mut formatted);
                }
            }
            b"_matchesPosition" => {
                separate.next(out);
                out.extend_from_slice(b"\"_matchesPosition\":");
                write_matches(out, part.value, cuts);
            }
            b"_rankingScoreDetails" if cuts.displayed.is_some() => {
                separate.next(out);
                out.extend_from_slice(b"\"_rankingScoreDetails\":");
                write_details(out, part.value, cuts);
            }
            b"_federation" if cuts.federation.is_some() => {
                separate.next(out);
                write_federation(out, part.value, cuts.federation.as_ref());
            }
            _ => write_field(out, part, &cuts.fields, &mut separate),
        }
    }
    out.push(b'}');
}

/// What is left of the usual hit, without its brackets: the shard field stands first and an added
/// score or details last, and nothing else is to be cut. `None` when that is not certain.
fn cut_ends<'a>(hit: &'a [u8], cuts: &HitCuts) -> Option<&'a [u8]> {
    static RESERVED: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"_miroir_"));
    static SCORE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b",\"_rankingScore\":"));
    static DETAILS: LazyLock<Finder<'static>> =
        LazyLock::new(|| Finder::new(b",\"_rankingScoreDetails\":"));
    if cuts.formatted
        || !cuts.fields.is_empty()
        || cuts.displayed.is_some()
        || cuts.federation.is_some()
    {
        return None;
    }
    let mut kept = hit.strip_prefix(b"{")?.strip_suffix(b"}")?;
    if cuts.reserved {
        // Tokens have no characters that JSON escapes.
        let value = kept.strip_prefix(b"\"_miroir_shard\":\"")?;
        let end = memchr::memchr(b'"', value)?;
        kept = value.get(end + 1..)?.strip_prefix(b",")?;
        if RESERVED.find(kept).is_some() {
            return None;
        }
    }
    // A second occurrence lies in a nested object: then which one is ours is not certain.
    let only = |finder: &Finder<'_>| {
        let mut found = finder.find_iter(kept);
        match (found.next(), found.next()) {
            (Some(at), None) => Some(at),
            _ => None,
        }
    };
    match (cuts.score, cuts.details) {
        (false, false) => Some(kept),
        (false, true) => kept.get(..only(&DETAILS)?),
        (true, false) => {
            let at = only(&SCORE)?;
            // A number up to the end: nothing follows it, at this level.
            number(kept.get(at + SCORE.needle().len()..)?)?;
            kept.get(..at)
        }
        (true, true) => {
            let details = only(&DETAILS)?;
            let at = only(&SCORE)?;
            number(kept.get(at + SCORE.needle().len()..details)?)?;
            kept.get(..at)
        }
    }
}

/// Appends a document without reserved and added fields.
pub fn write_fields(out: &mut Vec<u8>, object: &[u8], cuts: &HitCuts) {
    write_object(out, object, cuts, &cuts.fields);
}

fn write_object(out: &mut Vec<u8>, object: &[u8], cuts: &HitCuts, added: &[AddedField]) {
    out.push(b'{');
    let mut separate = Separator::default();
    for part in members(object).map_while(Result::ok) {
        if !cuts.drops(part.key) {
            write_field(out, part, added, &mut separate);
        }
    }
    out.push(b'}');
}

#[derive(Default)]
struct Separator {
    started: bool,
}

impl Separator {
    fn next(&mut self, out: &mut Vec<u8>) {
        if self.started {
            out.push(b',');
        }
        self.started = true;
    }
}

fn write_field(
    out: &mut Vec<u8>,
    part: Member<'_>,
    added: &[AddedField],
    separate: &mut Separator,
) {
    if added.is_empty() {
        separate.next(out);
        out.extend_from_slice(part.whole);
        return;
    }
    let key = unescape(part.key);
    let is_root = |field: &&AddedField| key == field.root();
    let goes = |field: &AddedField| {
        key == field.path.as_str() || (is_root(&field) && !field.shares_its_root)
    };
    if added.iter().any(goes) {
        return;
    }
    let inside = added.iter().filter(is_root);
    let inside: Vec<&str> =
        inside.filter_map(|field| field.path.split_once('.').map(|(_, rest)| rest)).collect();
    let (false, Ok(mut value)) = (inside.is_empty(), serde_json::from_slice::<Value>(part.value))
    else {
        separate.next(out);
        out.extend_from_slice(part.whole);
        return;
    };
    for rest in inside {
        remove_path(&mut value, rest);
    }
    if is_empty(&value) {
        return;
    }
    separate.next(out);
    write_string(out, &key);
    out.push(b':');
    // Writing into memory can't fail.
    let _ = serde_json::to_writer(out, &value);
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(members) => members.is_empty(),
        Value::Array(items) => items.iter().all(is_empty),
        _ => false,
    }
}

fn remove_path(value: &mut Value, path: &str) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| remove_path(item, path)),
        Value::Object(members) => {
            members.shift_remove(path);
            if let Some((head, rest)) = path.split_once('.')
                && let Some(inner) = members.get_mut(head)
            {
                remove_path(inner, rest);
                if is_empty(inner) {
                    members.shift_remove(head);
                }
            }
        }
        _ => {}
    }
}

/// The node's `_federation` with what the client calls the index and the query.
fn write_federation(out: &mut Vec<u8>, federation: &[u8], said: Option<&Federated>) {
    let Some(Federated { index, position }) = said else { return };
    out.extend_from_slice(b"\"_federation\":{\"indexUid\":");
    write_string(out, index);
    out.extend_from_slice(b",\"queriesPosition\":");
    out.extend_from_slice(itoa::Buffer::new().format(*position).as_bytes());
    if let Some(score) = member(federation, "weightedRankingScore") {
        out.extend_from_slice(b",\"weightedRankingScore\":");
        out.extend_from_slice(score);
    }
    out.push(b'}');
}

/// Keeps the matches in fields that are displayed and not reserved.
fn write_matches(out: &mut Vec<u8>, matches: &[u8], cuts: &HitCuts) {
    out.push(b'{');
    let mut separate = Separator::default();
    for part in members(matches).map_while(Result::ok) {
        let shown = |displayed: &BTreeSet<String>| {
            let key = unescape(part.key);
            displayed.iter().any(|name| contains_path(name, &key) || contains_path(&key, name))
        };
        if !cuts.drops(part.key) && cuts.displayed.as_ref().is_none_or(shown) {
            separate.next(out);
            out.extend_from_slice(part.whole);
        }
    }
    out.push(b'}');
}

/// Whether `inner` is `outer` or lies under it.
fn contains_path(outer: &str, inner: &str) -> bool {
    inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Hides the names and values of sort rules over fields that are not displayed, as a node does
/// whose displayed attributes are the client's.
fn write_details(out: &mut Vec<u8>, details: &[u8], cuts: &HitCuts) {
    out.push(b'{');
    let mut separate = Separator::default();
    for part in members(details).map_while(Result::ok) {
        separate.next(out);
        let name = rule_name(part.key);
        let field = name.strip_suffix(":asc").or_else(|| name.strip_suffix(":desc"));
        let hidden = field.is_some_and(|field| {
            !field.starts_with("_geoPoint(")
                && cuts.displayed.as_ref().is_some_and(|displayed| !displayed.contains(field))
        });
        if hidden {
            let order = member(part.value, "order").and_then(integer).unwrap_or_default();
            let text = format!(r#""<hidden-rule-{order}>":{{"order":{order},"value":"<hidden>"}}"#);
            out.extend_from_slice(text.as_bytes());
        } else {
            out.extend_from_slice(part.whole);
        }
    }
    out.push(b'}');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(hit: &str, cuts: &HitCuts) -> String {
        let mut out = Vec::new();
        write_hit(&mut out, hit.as_bytes(), cuts);
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn reserved_and_added_keys_are_cut_at_their_level_only() {
        let cuts = HitCuts { reserved: true, score: true, formatted: true, ..Default::default() };
        let hit = r#"{"_miroir_shard":"†‡","id":1,"n":{"_miroir_shard":2,"_rankingScore":3},"_formatted":{"_miroir_shard":"†‡","id":"1"},"_rankingScore":0.5}"#;
        let seen = r#"{"id":1,"n":{"_miroir_shard":2,"_rankingScore":3},"_formatted":{"id":"1"}}"#;
        assert_eq!(written(hit, &cuts), seen);
        assert_eq!(written(r#"{"_miroir_shard":"†"}"#, &cuts), "{}");
    }

    #[test]
    fn the_short_way_cuts_what_the_long_way_cuts() {
        let hits = [
            r#"{"_miroir_shard":"†","id":1,"a":"x","_rankingScore":0.5}"#,
            r#"{"_miroir_shard":"†","_rankingScore":0.5}"#,
            r#"{"_miroir_shard":"†","id":1,"n":{"a":1,"_rankingScore":3},"_rankingScore":0.5}"#,
            r#"{"id":1,"n":{"a":1,"_rankingScore":3}}"#,
            r#"{"id":1,"_miroir_shard":"†","t":",\"_rankingScore\":1","_rankingScore":1e-5}"#,
            r#"{"_miroir_shard":"†","id":1,"n":{"_miroir_x":1},"_miroir_updated_at":"‡","_rankingScore":1}"#,
            r#"{"_miroir_shard":"†","id":1,"_rankingScore":0.5,"_rankingScoreDetails":{"words":{"order":0}}}"#,
            r#"{"_miroir_shard":"†","id":1,"_rankingScoreDetails":{"words":{"order":0}}}"#,
            r#"{"_miroir_shard":"†","n":[{"b":1,"_rankingScoreDetails":{}}],"_rankingScoreDetails":{}}"#,
        ];
        for hit in hits {
            for choice in 0..8_u8 {
                let mut cuts = HitCuts {
                    reserved: choice & 1 > 0,
                    score: choice & 2 > 0,
                    details: choice & 4 > 0,
                    ..Default::default()
                };
                let short = written(hit, &cuts);
                cuts.formatted = true;
                assert_eq!(short, written(hit, &cuts), "{hit} {choice}");
            }
        }
    }

    #[test]
    fn an_added_field_leaves_no_trace() {
        let field = |path: &str, shares_its_root| HitCuts {
            fields: vec![AddedField { path: path.into(), shares_its_root }],
            ..Default::default()
        };
        assert_eq!(written(r#"{"a":1,"b":2}"#, &field("a", false)), r#"{"b":2}"#);
        assert_eq!(written(r#"{"a":{"x":1},"b":2}"#, &field("a.x", false)), r#"{"b":2}"#);
        assert_eq!(written(r#"{"a":{"x":1,"y":2}}"#, &field("a.x", true)), r#"{"a":{"y":2}}"#);
        assert_eq!(written(r#"{"a":{"x":1},"b":2}"#, &field("a.x", true)), r#"{"b":2}"#);
        assert_eq!(written(r#"{"a.x":1,"b":2}"#, &field("a.x", true)), r#"{"b":2}"#);
    }

    #[test]
    fn two_added_fields_leave_no_trace() {
        let of = |path: &str, shares_its_root| AddedField { path: path.into(), shares_its_root };
        let cuts = HitCuts { fields: vec![of("a.x", true), of("id", false)], ..Default::default() };
        assert_eq!(written(r#"{"id":1,"a":{"x":1,"y":2},"b":2}"#, &cuts), r#"{"a":{"y":2},"b":2}"#);
        let cuts = HitCuts { fields: vec![of("a.x", true), of("a.y", true)], ..Default::default() };
        assert_eq!(written(r#"{"a":{"x":1,"y":2},"b":2}"#, &cuts), r#"{"b":2}"#);
    }

    #[test]
    fn federation_is_told_in_the_client_s_words() {
        let federation = Some(Federated { index: "movies".into(), position: 4 });
        let cuts = HitCuts { reserved: true, federation, ..Default::default() };
        let hit = r#"{"_miroir_shard":"†","id":1,"_federation":{"indexUid":"3-movies","queriesPosition":0,"weightedRankingScore":0.25},"_rankingScore":0.5}"#;
        let seen = r#"{"id":1,"_federation":{"indexUid":"movies","queriesPosition":4,"weightedRankingScore":0.25},"_rankingScore":0.5}"#;
        assert_eq!(written(hit, &cuts), seen);
    }

    #[test]
    fn an_added_field_that_is_highlighted_stays_in_formatted() {
        let added = || vec![AddedField { path: "a".into(), shares_its_root: false }];
        let hit = r#"{"a":1,"b":2,"_formatted":{"a":"1","b":"2"}}"#;
        let mut cuts = HitCuts { formatted: true, fields: added(), ..Default::default() };
        assert_eq!(written(hit, &cuts), r#"{"b":2,"_formatted":{"a":"1","b":"2"}}"#);
        cuts.formatted_fields = added();
        assert_eq!(written(hit, &cuts), r#"{"b":2,"_formatted":{"b":"2"}}"#);
        assert_eq!(written(r#"{"_formatted":{"a":"1"},"b":2}"#, &cuts), r#"{"b":2}"#);
    }

    #[test]
    fn fields_that_are_not_displayed_do_not_show_in_details_or_matches() {
        let cuts =
            HitCuts { displayed: Some(BTreeSet::from(["title".to_owned()])), ..Default::default() };
        let hit = r#"{"title":"x","_matchesPosition":{"title":[1],"title.a":[2],"plot":[3]},"_rankingScoreDetails":{"price:asc":{"order":0,"value":3.0},"title:desc":{"order":1,"value":"x"}}}"#;
        let seen = r#"{"title":"x","_matchesPosition":{"title":[1],"title.a":[2]},"_rankingScoreDetails":{"<hidden-rule-0>":{"order":0,"value":"<hidden>"},"title:desc":{"order":1,"value":"x"}}}"#;
        assert_eq!(written(hit, &cuts), seen);
    }
}
