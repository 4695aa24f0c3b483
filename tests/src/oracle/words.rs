//! Words, prefixes, typos, phrases and negative words for `q`.

use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha12Rng;

use super::profile::Profile;

/// A `q` and what it exercises; `None` leaves the key out.
pub fn draw_words(rng: &mut ChaCha12Rng, profile: &Profile) -> (Option<String>, &'static str) {
    match rng.random_range(0..100) {
        0..10 => (None, "no q"),
        10..13 => (Some(String::new()), "empty q"),
        13..30 => (Some(neighbours(rng, profile, 1)), "one word"),
        30..45 => (Some(neighbours(rng, profile, 2)), "two words"),
        45..53 => {
            let count = rng.random_range(3..=5);
            (Some(neighbours(rng, profile, count)), "many words")
        }
        53..59 => {
            let (a, b) = (neighbours(rng, profile, 1), neighbours(rng, profile, 1));
            (Some(format!("{a} {b}")), "unrelated words")
        }
        59..72 => (Some(prefix(rng, profile)), "prefix"),
        72..84 => (Some(typo(rng, profile)), "typo"),
        84..91 => (Some(phrase(rng, profile)), "phrase"),
        91..97 => (Some(negative(rng, profile)), "negative"),
        _ => (Some(odd(rng, profile)), "odd q"),
    }
}

/// The words of a sentence as a person would type them.
fn words_of(sentence: &str) -> Vec<&str> {
    sentence.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect()
}

/// `count` words that stand side by side in some document, or fewer.
fn neighbours(rng: &mut ChaCha12Rng, profile: &Profile, count: usize) -> String {
    let Some(sentence) = profile.sentences.choose(rng) else { return "a".to_owned() };
    let words = words_of(sentence);
    let start = rng.random_range(0..=words.len().saturating_sub(count));
    let taken: Vec<&str> = words.into_iter().skip(start).take(count).collect();
    let text = taken.join(" ");
    if rng.random_bool(0.3) { text } else { text.to_lowercase() }
}

/// The beginning of a word, two letters or more, perhaps after a whole word.
fn prefix(rng: &mut ChaCha12Rng, profile: &Profile) -> String {
    let word = neighbours(rng, profile, 1);
    let letters = word.chars().count();
    let kept = if letters > 2 { rng.random_range(2..letters) } else { letters };
    let begun: String = word.chars().take(kept).collect();
    if rng.random_bool(0.3) { format!("{} {begun}", neighbours(rng, profile, 1)) } else { begun }
}

/// One or two words, one of them with a slip of the finger.
fn typo(rng: &mut ChaCha12Rng, profile: &Profile) -> String {
    let mut word = neighbours(rng, profile, 1);
    for _ in 0..8 {
        if word.chars().count() >= 5 {
            break;
        }
        word = neighbours(rng, profile, 1);
    }
    let slips = if word.chars().count() >= 9 && rng.random_bool(0.4) { 2 } else { 1 };
    for _ in 0..slips {
        word = slip(rng, &word);
    }
    if rng.random_bool(0.4) { format!("{word} {}", neighbours(rng, profile, 1)) } else { word }
}

/// `word` with a letter dropped, doubled, replaced or swapped with the next.
pub(super) fn slip(rng: &mut ChaCha12Rng, word: &str) -> String {
    let mut letters: Vec<char> = word.chars().collect();
    if letters.len() < 2 {
        return word.to_owned();
    }
    let at = rng.random_range(0..letters.len() - 1);
    match rng.random_range(0..4) {
        0 => drop(letters.remove(at)),
        1 => letters.insert(at, letters[at]),
        2 => letters[at] = rng.random_range(b'a'..=b'z').into(),
        _ => letters.swap(at, at + 1),
    }
    letters.into_iter().collect()
}

/// A quoted phrase, perhaps with a word beside it.
fn phrase(rng: &mut ChaCha12Rng, profile: &Profile) -> String {
    let count = rng.random_range(1..=3);
    let quoted = format!("\"{}\"", neighbours(rng, profile, count));
    match rng.random_range(0..3) {
        0 => format!("{quoted} {}", neighbours(rng, profile, 1)),
        1 => format!("{} {quoted}", neighbours(rng, profile, 1)),
        _ => quoted,
    }
}

/// A word or phrase that must not occur, beside one that should, or alone.
fn negative(rng: &mut ChaCha12Rng, profile: &Profile) -> String {
    let refused = if rng.random_bool(0.3) {
        format!("-\"{}\"", neighbours(rng, profile, 2))
    } else {
        format!("-{}", neighbours(rng, profile, 1))
    };
    if rng.random_bool(0.2) {
        refused
    } else {
        format!("{} {refused}", neighbours(rng, profile, 1))
    }
}

/// What people also send: numbers, joined words, punctuation, very long queries.
fn odd(rng: &mut ChaCha12Rng, profile: &Profile) -> String {
    match rng.random_range(0..5) {
        0 => rng.random_range(0..64u32).to_string(),
        1 => neighbours(rng, profile, 2).replace(' ', ""),
        2 => "† ‡ § ¶".to_owned(),
        3 => (0..12).map(|_| neighbours(rng, profile, 1)).collect::<Vec<_>>().join(" "),
        _ => format!("{}!? ({})", neighbours(rng, profile, 1), neighbours(rng, profile, 1)),
    }
}
