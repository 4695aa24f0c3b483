//! The fields Miroir owns in documents, and the tokens it writes into the shard field.
//!
//! A token is made of characters that Meilisearch takes for separators only: such a value can be filtered on,
//! yet no query finds it and the word dictionary does not hold it.

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

/// The token of `shard` in an index of `shards` shards: base 8, most significant digit first, as many digits as
/// `shards - 1` needs (at least one).
pub fn shard_token(shard: u32, shards: u32) -> String {
    let last = shards.saturating_sub(1).max(shard);
    let mut width = 1;
    while width < 11 && (last >> (3 * width)) != 0 {
        width += 1;
    }
    (0..width).rev().map(|place| TOKEN_DIGITS[((shard >> (3 * place)) & 7) as usize]).collect()
}

/// The shard a token names; `None` for what is no token.
pub fn parse_shard_token(token: &str) -> Option<u32> {
    if token.is_empty() {
        return None;
    }
    token.chars().try_fold(0u32, |shard, digit| {
        let value = TOKEN_DIGITS.iter().position(|known| *known == digit)?;
        shard.checked_mul(8)?.checked_add(u32::try_from(value).ok()?)
    })
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
            (0, u32::MAX, "†††††††††††"),
        ] {
            assert_eq!(shard_token(shard, shards), token, "{shard} of {shards}");
        }
    }

    proptest! {
        #[test]
        fn a_token_names_its_shard_and_all_of_one_index_have_one_width(shards in 1u32.., place in 0.0f64..1.0) {
            let shard = (f64::from(shards - 1) * place) as u32;
            let token = shard_token(shard, shards);
            prop_assert_eq!(parse_shard_token(&token), Some(shard));
            prop_assert_eq!(token.chars().count(), shard_token(shards - 1, shards).chars().count());
        }

        #[test]
        fn parsing_a_token_never_panics(text in ".*") {
            let _ = parse_shard_token(&text);
        }
    }

    #[test]
    fn what_is_no_token_names_no_shard() {
        for text in ["", "a", "†a", "12", "¿¿¿¿¿¿¿¿¿¿¿¿"] {
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
