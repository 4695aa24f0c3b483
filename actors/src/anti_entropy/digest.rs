//! What two replicas have, compared without keeping either. Pure.
//!
//! A document's digest is the XXH64 of its canonical form: JSON without insignificant spaces, members in
//! the order of their names at every depth, numbers and strings as the node wrote them, and without
//! what replicas may differ in: the shard field, whose marks each replica sets for itself, and vectors, which
//! nodes may make each for themselves.

use std::collections::BTreeSet;

use miroir_wire::reserved::{SHARD_FIELD, parse_shard_token};
use serde_json::Value;
use serde_json::value::RawValue;
use twox_hash::XxHash64;

/// The digest of a document; `None` when it is no JSON object.
pub fn digest(document: &RawValue) -> Option<u64> {
    let Ok(Value::Object(mut members)) = serde_json::from_str(document.get()) else { return None };
    members.remove(SHARD_FIELD);
    members.remove("_vectors");
    let mut text = String::with_capacity(document.get().len());
    write_canonical(&Value::Object(members), &mut text);
    Some(XxHash64::oneshot(0, text.as_bytes()))
}

fn write_canonical(value: &Value, into: &mut String) {
    match value {
        Value::Object(members) => {
            let mut names: Vec<&String> = members.keys().collect();
            names.sort_unstable();
            into.push('{');
            for (n, name) in names.into_iter().enumerate() {
                if n > 0 {
                    into.push(',');
                }
                into.push_str(&Value::from(name.as_str()).to_string());
                into.push(':');
                if let Some(member) = members.get(name) {
                    write_canonical(member, into);
                }
            }
            into.push('}');
        }
        Value::Array(items) => {
            into.push('[');
            for (n, item) in items.iter().enumerate() {
                if n > 0 {
                    into.push(',');
                }
                write_canonical(item, into);
            }
            into.push(']');
        }
        other => into.push_str(&other.to_string()),
    }
}

/// Whether a document carries the mark of its shard: what Miroir did not write does not.
pub fn is_marked(document: &RawValue, generation: u32, shard: u32) -> bool {
    let Ok(Value::Object(members)) = serde_json::from_str(document.get()) else { return false };
    let is_mark =
        |mark: &Value| mark.as_str().and_then(parse_shard_token) == Some((generation, shard));
    match members.get(SHARD_FIELD) {
        Some(Value::Array(marks)) => marks.iter().any(is_mark),
        Some(mark) => is_mark(mark),
        None => false,
    }
}

/// The documents of one replica, by the hash of their ids: 17 bytes each.
#[derive(Debug, Default)]
pub struct Digests {
    /// Ids' hashes with digests, in order once it is sealed.
    sorted: Vec<(u64, u64)>,
    seen: Vec<bool>,
}

impl Digests {
    /// Adds a document.
    pub fn add(&mut self, id: &str, digest: u64) {
        self.sorted.push((id_hash(id), digest));
    }

    /// All documents are there. A document that was listed twice counts once.
    pub fn seal(&mut self) {
        self.sorted.sort_unstable();
        self.sorted.dedup_by_key(|(id, _)| *id);
        self.begin();
    }

    /// Another replica is compared from now on.
    pub fn begin(&mut self) {
        self.seen = vec![false; self.sorted.len()];
    }

    /// Whether the other replica's document equals this one's.
    pub fn equals(&mut self, id: &str, digest: u64) -> bool {
        let Ok(at) = self.sorted.binary_search_by_key(&id_hash(id), |(id, _)| *id) else {
            return false;
        };
        if let Some(seen) = self.seen.get_mut(at) {
            *seen = true;
        }
        self.sorted.get(at).is_some_and(|(_, known)| *known == digest)
    }

    /// The hashes of the ids that the other replica lacks.
    pub fn unseen(&self) -> BTreeSet<u64> {
        let all = self.sorted.iter().zip(&self.seen);
        all.filter(|(_, seen)| !**seen).map(|((id, _), _)| *id).collect()
    }
}

/// XXH64 of an id.
pub fn id_hash(id: &str) -> u64 {
    XxHash64::oneshot(0, id.as_bytes())
}

/// What one replica has of one document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copy {
    /// Its digest; `None`: it has none.
    pub digest: Option<u64>,
    /// See [`is_marked`]; true where there is none.
    pub is_marked: bool,
    /// The node has carried out writes of the index that are nobody's of this cluster.
    pub has_strangers: bool,
}

/// Which copies of one document are wrong: `None` when they are equal or nothing says.
///
/// In this order: a copy without the mark of its shard was not written by us; a node that strangers
/// write to is wrong where another disagrees; of three or more the most are right.
pub fn wrong_copies(copies: &[Copy]) -> Option<BTreeSet<usize>> {
    let first = copies.first()?.digest;
    if copies.iter().all(|copy| copy.digest == first) {
        return None;
    }
    let suspicious = |is_suspicious: &dyn Fn(&Copy) -> bool| -> Option<BTreeSet<usize>> {
        let (wrong, right): (Vec<usize>, Vec<usize>) =
            (0..copies.len()).partition(|at| copies.get(*at).is_some_and(is_suspicious));
        let mut kept = right.iter().filter_map(|at| copies.get(*at)).map(|copy| copy.digest);
        let of_kept = kept.next()?;
        (!wrong.is_empty() && kept.all(|digest| digest == of_kept))
            .then(|| wrong.into_iter().collect())
    };
    suspicious(&|copy| !copy.is_marked)
        .or_else(|| suspicious(&|copy| copy.has_strangers))
        .or_else(|| outvoted(copies))
}

/// Those that differ from what more than half of all copies are.
fn outvoted(copies: &[Copy]) -> Option<BTreeSet<usize>> {
    let votes = |digest: Option<u64>| copies.iter().filter(|copy| copy.digest == digest).count();
    let right = copies.iter().find(|copy| votes(copy.digest) * 2 > copies.len())?.digest;
    let is_wrong = |at: &usize| copies.get(*at).is_some_and(|copy| copy.digest != right);
    Some((0..copies.len()).filter(is_wrong).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    #[test]
    fn the_order_of_members_and_the_marks_make_no_difference() {
        let of = |text| digest(&raw(text));
        let first = of(r#"{"_miroir_shard":"††","id":1,"a":{"x":1,"y":[1,{"p":0,"q":0}]}}"#);
        let second =
            of(r#"{"a":{"y":[1,{"q":0,"p":0}],"x":1},"id":1,"_miroir_shard":["‡"],"_vectors":{}}"#);
        assert!(first.is_some());
        assert_eq!(first, second);
        assert_ne!(first, of(r#"{"id":1,"a":{"x":1,"y":[1,{"p":0,"q":1}]}}"#));
        assert_ne!(of(r#"{"id":1,"a":[1,2]}"#), of(r#"{"id":1,"a":[2,1]}"#));
        assert_eq!(of("[]"), None);
    }

    #[test]
    fn a_mark_is_of_the_generation_in_force() {
        let document = raw(r#"{"id":1,"_miroir_shard":["‡","‡††††††"]}"#);
        assert!(is_marked(&document, 0, 1) && is_marked(&document, 1, 0));
        assert!(!is_marked(&document, 0, 0) && !is_marked(&raw(r#"{"id":1}"#), 0, 1));
    }

    #[test]
    fn differences_are_what_is_other_or_missing_on_either_side() {
        let mut digests = Digests::default();
        for (id, digest) in [("a", 1), ("b", 2), ("c", 3), ("a", 1)] {
            digests.add(id, digest);
        }
        digests.seal();
        assert!(digests.equals("a", 1) && !digests.equals("b", 9) && !digests.equals("z", 1));
        assert_eq!(digests.unseen(), BTreeSet::from([id_hash("c")]));
        digests.begin();
        assert_eq!(digests.unseen().len(), 3);
    }

    #[test]
    fn evidence_says_which_copy_is_wrong_and_without_any_none_is() {
        let copy = |digest| Copy { digest, is_marked: true, has_strangers: false };
        let (a, b) = (copy(Some(1)), copy(Some(2)));
        let wrong = |copies: &[Copy]| wrong_copies(copies).map(|all| all.into_iter().collect());
        assert_eq!(wrong(&[a, a]), None::<Vec<usize>>);
        assert_eq!(wrong(&[a, b]), None);
        assert_eq!(wrong(&[a, b, a]), Some(vec![1]));
        assert_eq!(wrong(&[a, copy(None), copy(None)]), Some(vec![0]));
        assert_eq!(wrong(&[a, Copy { is_marked: false, ..b }]), Some(vec![1]));
        assert_eq!(wrong(&[Copy { has_strangers: true, ..copy(None) }, b]), Some(vec![0]));
        // Strangers wrote to both.
        let both = [a, b].map(|copy| Copy { has_strangers: true, ..copy });
        assert_eq!(wrong(&both), None);
        // What strangers left alone agrees with nobody.
        assert_eq!(wrong(&[a, b, Copy { has_strangers: true, ..copy(Some(3)) }]), None);
    }
}
