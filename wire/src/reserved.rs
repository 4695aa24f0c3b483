//! The fields Miroir owns in documents, and the tokens it writes into the shard field.
//!
//! A token is made of characters that Meilisearch takes for separators only: such a value can be filtered on,
//! yet no query finds it and the word dictionary does not hold it.

use serde::{Deserialize, Serialize};

use crate::json_scan::Members;

/// Which shard a document is in. First key of every document on a node.
pub const SHARD_FIELD: &str = "_miroir_shard";
/// Version stamp of the last write, while anti-entropy is on.
pub const UPDATED_AT_FIELD: &str = "_miroir_updated_at";
/// When the document expires, while TTL is on; the one reserved field that clients set.
pub const EXPIRES_AT_FIELD: &str = "_miroir_expires_at";
/// What every reserved field starts with.
pub const PREFIX: &str = "_miroir_";

/// The eight digits of a token, 0 to 7.
pub const TOKEN_DIGITS: [char; 8] = ['†', '‡', '§', '¶', '※', '⁂', '‖', '¿'];

/// Most shards of an index: far above any use.
pub const SHARDS_MAX: u32 = 4096;

/// Where the generation begins in the number that a token of a resharded index stands for: above
/// six digits, one more than any token of a first generation has.
const GENERATION_SHIFT: u32 = 18;

/// How the documents of an index are divided into shards. Each resharding begins a generation, whose
/// tokens differ from those of all others: a document may carry the tokens of two of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Partition {
    /// Number of shards, 1 to [`SHARDS_MAX`].
    pub shards: u32,
    /// 0 for an index that was never resharded.
    pub generation: u32,
}

impl Partition {
    /// The token of a shard: a number in base 8, most significant digit first. In the first generation
    /// the shard, with as many digits as `shards - 1` needs; later the generation and, in the last six
    /// digits, the shard.
    pub fn token(self, shard: u32) -> String {
        match self.generation {
            0 => digits(u64::from(shard), u64::from(self.shards.saturating_sub(1).max(shard))),
            generation => {
                let number = (u64::from(generation) << GENERATION_SHIFT) | u64::from(shard);
                digits(number, number)
            }
        }
    }

    /// Whether each shard of one of both partitions lies in one shard of the other.
    pub fn nests_with(self, other: Self) -> bool {
        let (few, many) = (self.shards.min(other.shards), self.shards.max(other.shards));
        few > 0 && many.is_multiple_of(few)
    }
}

/// `number` with as many digits as `widest` needs.
fn digits(number: u64, widest: u64) -> String {
    let mut width = 1;
    while width < 21 && (widest >> (3 * width)) != 0 {
        width += 1;
    }
    (0..width).rev().map(|place| TOKEN_DIGITS[((number >> (3 * place)) & 7) as usize]).collect()
}

/// The generation and the shard that a token names; `None` for what is no token.
pub fn parse_shard_token(token: &str) -> Option<(u32, u32)> {
    if token.is_empty() {
        return None;
    }
    let number = token.chars().try_fold(0u64, |number, digit| {
        let value = TOKEN_DIGITS.iter().position(|known| *known == digit)?;
        number.checked_mul(8)?.checked_add(u64::try_from(value).ok()?)
    })?;
    let generation = u32::try_from(number >> GENERATION_SHIFT).ok()?;
    Some((generation, (number & ((1 << GENERATION_SHIFT) - 1)) as u32))
}

/// Whether a field of this name is Miroir's.
pub fn is_reserved(name: &str) -> bool {
    name.starts_with(PREFIX)
}

/// Whether `text` holds a character that tokens are made of. A tokenizer setting with one of them would make
/// tokens searchable.
pub fn holds_token_digit(text: &str) -> bool {
    text.chars().any(|letter| TOKEN_DIGITS.contains(&letter))
}

/// The first top-level key of a document that is Miroir's, if there is one. Escapes in keys are seen through.
pub fn contains_reserved(object: &[u8]) -> Option<String> {
    // The only escape that can hide one of the prefix's characters is `\u`: most documents end here.
    if memchr::memmem::find(object, PREFIX.as_bytes()).is_none()
        && memchr::memmem::find(object, b"\\u").is_none()
    {
        return None;
    }
    Members::of(object)
        .map(|member| member.key())
        .find(|key| is_reserved(key))
        .map(|key| key.into_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn first(shards: u32) -> Partition {
        Partition { shards, generation: 0 }
    }

    #[test]
    fn tokens_have_the_width_of_the_last_shard() {
        for (shard, shards, token) in [
            (0, 1, "†"),
            (7, 8, "¿"),
            (7, 9, "†¿"),
            (8, 9, "‡†"),
            (63, 64, "¿¿"),
            (0, 64, "††"),
            (64, 65, "‡††"),
        ] {
            assert_eq!(first(shards).token(shard), token, "{shard} of {shards}");
        }
        assert_eq!(Partition { shards: 64, generation: 1 }.token(9), "‡††††‡‡");
    }

    #[test]
    fn partitions_nest_when_one_number_of_shards_divides_the_other() {
        let nests = |a, b| first(a).nests_with(first(b));
        assert!(nests(16, 48) && nests(48, 16) && nests(5, 5) && !nests(16, 24) && !nests(0, 8));
    }

    proptest! {
        #[test]
        fn a_token_names_its_generation_and_shard_and_all_of_one_index_have_one_width(
            shards in 1..=SHARDS_MAX, generation in 0u32.., place in 0.0f64..1.0
        ) {
            let shard = (f64::from(shards - 1) * place) as u32;
            let partition = Partition { shards, generation };
            let token = partition.token(shard);
            prop_assert_eq!(parse_shard_token(&token), Some((generation, shard)));
            prop_assert_eq!(token.chars().count(), partition.token(shards - 1).chars().count());
        }

        #[test]
        fn no_two_generations_have_a_token_in_common(
            shard in 0..SHARDS_MAX, other in 0..SHARDS_MAX, generation in 0u32..100, later in 1u32..100
        ) {
            let token = Partition { shards: SHARDS_MAX, generation }.token(shard);
            let other_token =
                Partition { shards: SHARDS_MAX, generation: generation + later }.token(other);
            prop_assert_ne!(token, other_token);
        }

        #[test]
        fn parsing_a_token_never_panics(text in ".*") {
            let _ = parse_shard_token(&text);
        }
    }

    #[test]
    fn what_is_no_token_names_no_shard() {
        for text in ["", "a", "†a", "12", &"¿".repeat(22)] {
            assert_eq!(parse_shard_token(text), None, "{text}");
        }
    }

    #[test]
    fn reserved_keys_are_found_at_the_top_level_only() {
        for (object, found) in [
            (r#"{"id":1}"#, None),
            (r#"{"id":1,"_miroir_shard":"x"}"#, Some("_miroir_shard")),
            (r#"{"id":1,"\u005fmiroir_shard":"x"}"#, Some("_miroir_shard")),
            (r#"{"_miroir_anything":1}"#, Some("_miroir_anything")),
            (r#"{"id":1,"text":"_miroir_shard"}"#, None),
            (r#"{"id":1,"nested":{"_miroir_shard":1}}"#, None),
            (r#"{"id":1,"text":"\u0041"}"#, None),
        ] {
            assert_eq!(contains_reserved(object.as_bytes()).as_deref(), found, "{object}");
        }
    }
}
