//! Walks JSON bytes without decoding them.
//!
//! Answers of nodes are large and most of their bytes only pass through, so this looks at
//! structure alone: where a value ends, which members an object has. Checked are brackets
//! (each closes its own kind, all close), commas and colons at the levels that are walked, and
//! that strings end; not checked are number syntax, escapes, and commas inside values that are
//! skipped as a whole. UTF-8 is the caller's to check, once for the whole body.

use std::borrow::Cow;

/// Deeper nesting than this is refused: no document a node accepts is deeper than serde_json's
/// own limit of 128.
const DEPTH_MAX: u32 = 128;

/// Bytes of a string that are looked at one by one before a vectorised search begins.
const NEAR_BYTES: usize = 16;

/// The bytes are not the JSON that was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed JSON near byte {at}")]
pub struct Malformed {
    /// Offset in the walked bytes.
    pub at: usize,
}

/// One member of an object. All parts are slices of the walked bytes.
#[derive(Clone, Copy, Debug)]
pub struct Member<'a> {
    /// The key as written, escapes and all, without its quotes.
    pub key: &'a [u8],
    /// The value as written.
    pub value: &'a [u8],
    /// Key, colon and value as written.
    pub whole: &'a [u8],
}

/// Iterates over the members of an object; ends early with one `Err` when malformed.
#[derive(Debug)]
pub struct Members<'a> {
    scanner: Scanner<'a>,
    state: State,
}

/// Iterates over the elements of an array; ends early with one `Err` when malformed.
#[derive(Debug)]
pub struct Elements<'a> {
    scanner: Scanner<'a>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Start,
    Middle,
    End,
}

/// The members of the object that `bytes` holds.
pub fn members(bytes: &[u8]) -> Members<'_> {
    Members { scanner: Scanner { bytes, at: 0 }, state: State::Start }
}

/// The elements of the array that `bytes` holds.
pub fn elements(bytes: &[u8]) -> Elements<'_> {
    Elements { scanner: Scanner { bytes, at: 0 }, state: State::Start }
}

/// The value of the first member of `object` whose key is written as `key`.
pub fn member<'a>(object: &'a [u8], key: &str) -> Option<&'a [u8]> {
    members(object).map_while(Result::ok).find(|m| m.key == key.as_bytes()).map(|m| m.value)
}

/// A string value or key as text. `raw` comes without quotes.
pub fn unescape(raw: &[u8]) -> Cow<'_, str> {
    if memchr::memchr(b'\\', raw).is_none() {
        return String::from_utf8_lossy(raw);
    }
    let mut quoted = Vec::with_capacity(raw.len() + 2);
    quoted.push(b'"');
    quoted.extend_from_slice(raw);
    quoted.push(b'"');
    match serde_json::from_slice::<String>(&quoted) {
        Ok(text) => Cow::Owned(text),
        Err(_) => String::from_utf8_lossy(raw),
    }
}

/// The text of a value that is a string.
pub fn text(value: &[u8]) -> Option<Cow<'_, str>> {
    match value {
        [b'"', inner @ .., b'"'] => Some(unescape(inner)),
        _ => None,
    }
}

/// The number that `value` is.
pub fn number(value: &[u8]) -> Option<f64> {
    match value.first() {
        Some(b'-' | b'0'..=b'9') => std::str::from_utf8(value).ok()?.parse().ok(),
        _ => None,
    }
}

/// The whole number that `value` is.
pub fn integer(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

impl<'a> Iterator for Members<'a> {
    type Item = Result<Member<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let scanner = &mut self.scanner;
        match step(scanner, &mut self.state, b'{', b'}') {
            Ok(false) => None,
            Ok(true) => {
                let member = scanner.member();
                if member.is_err() {
                    self.state = State::End;
                }
                Some(member)
            }
            Err(error) => Some(Err(error)),
        }
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = Result<&'a [u8], Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let scanner = &mut self.scanner;
        match step(scanner, &mut self.state, b'[', b']') {
            Ok(false) => None,
            Ok(true) => {
                let element = scanner.value();
                if element.is_err() {
                    self.state = State::End;
                }
                Some(element)
            }
            Err(error) => Some(Err(error)),
        }
    }
}

/// Moves to the next item of a container; `false` at its (well-formed) end.
fn step(
    scanner: &mut Scanner<'_>,
    state: &mut State,
    open: u8,
    close: u8,
) -> Result<bool, Malformed> {
    let was = std::mem::replace(state, State::End);
    scanner.skip_space();
    match was {
        State::End => return Ok(false),
        State::Start => {
            scanner.expect(open)?;
            scanner.skip_space();
            if scanner.peek() == Some(close) {
                return scanner.end_of_input().map(|()| false);
            }
        }
        State::Middle => {
            if scanner.peek() == Some(close) {
                return scanner.end_of_input().map(|()| false);
            }
            scanner.expect(b',')?;
            scanner.skip_space();
        }
    }
    *state = State::Middle;
    Ok(true)
}

#[derive(Debug)]
struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Scanner<'a> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn malformed(&self) -> Malformed {
        Malformed { at: self.at }
    }

    fn since(&self, start: usize) -> &'a [u8] {
        self.bytes.get(start..self.at).unwrap_or_default()
    }

    fn skip_space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    fn expect(&mut self, byte: u8) -> Result<(), Malformed> {
        if self.peek() == Some(byte) {
            self.at += 1;
            Ok(())
        } else {
            Err(self.malformed())
        }
    }

    /// Takes the closing bracket and demands that nothing but space follows.
    fn end_of_input(&mut self) -> Result<(), Malformed> {
        self.at += 1;
        self.skip_space();
        if self.at >= self.bytes.len() { Ok(()) } else { Err(self.malformed()) }
    }

    fn member(&mut self) -> Result<Member<'a>, Malformed> {
        let start = self.at;
        let key = self.string()?;
        self.skip_space();
        self.expect(b':')?;
        self.skip_space();
        let value = self.value()?;
        Ok(Member { key, value, whole: self.since(start) })
    }

    /// Takes a string and returns what is between its quotes.
    fn string(&mut self) -> Result<&'a [u8], Malformed> {
        self.expect(b'"')?;
        let start = self.at;
        loop {
            let rest = self.bytes.get(self.at..).unwrap_or_default();
            // Keys are short, and a call costs more than looking at a few bytes.
            let near = rest.iter().take(NEAR_BYTES).position(|byte| matches!(byte, b'"' | b'\\'));
            let Some(found) = near.or_else(|| memchr::memchr2(b'"', b'\\', rest)) else {
                return Err(self.malformed());
            };
            self.at += found;
            if self.peek() == Some(b'"') {
                let inner = self.since(start);
                self.at += 1;
                return Ok(inner);
            }
            self.at += 2;
        }
    }

    fn value(&mut self) -> Result<&'a [u8], Malformed> {
        let start = self.at;
        match self.peek() {
            Some(b'"') => {
                self.string()?;
            }
            Some(b'{' | b'[') => self.container()?,
            Some(b'-' | b'0'..=b'9' | b't' | b'f' | b'n') => self.scalar(start)?,
            _ => return Err(self.malformed()),
        }
        Ok(self.since(start))
    }

    fn scalar(&mut self, start: usize) -> Result<(), Malformed> {
        while let Some(b'0'..=b'9' | b'a'..=b'z' | b'E' | b'+' | b'-' | b'.') = self.peek() {
            self.at += 1;
        }
        match self.since(start) {
            b"true" | b"false" | b"null" => Ok(()),
            [b'-' | b'0'..=b'9', ..] => Ok(()),
            _ => Err(self.malformed()),
        }
    }

    /// Skips a container; bit `n` of `kinds` says whether level `n` is an object.
    fn container(&mut self) -> Result<(), Malformed> {
        let mut kinds: u128 = 0;
        let mut depth: u32 = 0;
        loop {
            let rest = self.bytes.get(self.at..).unwrap_or_default();
            let Some((skipped, byte)) = rest
                .iter()
                .enumerate()
                .find(|(_, byte)| matches!(byte, b'"' | b'{' | b'[' | b'}' | b']'))
            else {
                return Err(self.malformed());
            };
            let byte = *byte;
            self.at += skipped;
            match byte {
                b'"' => {
                    self.string()?;
                    continue;
                }
                b'{' | b'[' => {
                    if depth == DEPTH_MAX {
                        return Err(self.malformed());
                    }
                    kinds = (kinds << 1) | u128::from(byte == b'{');
                    depth += 1;
                }
                b'}' | b']' => {
                    if (kinds & 1 == 1) != (byte == b'}') {
                        return Err(self.malformed());
                    }
                    kinds >>= 1;
                    depth -= 1;
                    if depth == 0 {
                        self.at += 1;
                        return Ok(());
                    }
                }
                _ => {}
            }
            self.at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(bytes: &[u8]) -> Result<Vec<String>, Malformed> {
        members(bytes).map(|m| m.map(|m| unescape(m.key).into_owned())).collect()
    }

    #[test]
    fn members_are_found_whatever_their_values_contain() {
        let object = br#" {"a": "x\"}{", "b\n":[{"c":"]"},1.5e-3], "d" : null , "":true} "#;
        assert_eq!(keys(object), Ok(vec!["a".into(), "b\n".into(), "d".into(), String::new()]));
        assert_eq!(member(object, "d"), Some(&b"null"[..]));
        assert_eq!(member(object, "c"), None);
        assert_eq!(keys(b"{}"), Ok(vec![]));
    }

    #[test]
    fn elements_are_cut_at_their_own_ends() {
        let list: Result<Vec<_>, _> = elements(br#"[1, {"a":[2]} ,"],"]"#).collect();
        assert_eq!(list, Ok(vec![&b"1"[..], br#"{"a":[2]}"#, br#""],""#]));
        assert_eq!(elements(b"[]").count(), 0);
    }

    #[test]
    fn what_is_not_json_is_refused() {
        for bad in [
            &b""[..],
            b"<html>",
            b"{",
            b"{\"a\"",
            b"{\"a\":",
            b"{\"a\":1",
            b"{\"a\":1}x",
            b"{\"a\":[1}",
            b"{\"a\":{\"b\":1]}",
            b"{\"a\":1 \"b\":2}",
            b"{\"a\":nul}",
            b"{\"a\":\"x",
            b"{\"a\":\"x\\",
            b"{,}",
        ] {
            assert!(keys(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
        let deep = [b"{\"a\":".as_slice(), &[b'['; 200], &[b']'; 200], b"}"].concat();
        assert!(keys(&deep).is_err());
    }
}
