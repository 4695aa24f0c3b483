//! Walking the top level of a JSON object without building anything.
//!
//! The bytes are expected to be valid JSON (a payload is checked when it is received). On other bytes the walk
//! ends early or yields nonsense, but never panics.

use std::borrow::Cow;

/// The members of one JSON object, in order, duplicates included.
pub(crate) struct Members<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// One member: the key between its quotes, still escaped, and the value's bytes.
pub(crate) struct Member<'a> {
    /// Raw key.
    key: &'a [u8],
    /// The value, without surrounding white space.
    pub(crate) value: &'a [u8],
}

impl<'a> Members<'a> {
    /// Walks `object`; anything but an object has no members.
    pub(crate) fn of(object: &'a [u8]) -> Members<'a> {
        let start = skip_space(object, 0);
        match object.get(start) {
            Some(b'{') => Members { bytes: object, at: start + 1 },
            _ => Members { bytes: object, at: object.len() },
        }
    }
}

impl<'a> Iterator for Members<'a> {
    type Item = Member<'a>;

    fn next(&mut self) -> Option<Member<'a>> {
        let mut at = skip_space(self.bytes, self.at);
        if self.bytes.get(at) == Some(&b',') {
            at = skip_space(self.bytes, at + 1);
        }
        let key_end = match self.bytes.get(at) {
            Some(b'"') => string_end(self.bytes, at)?,
            _ => return None,
        };
        let key = self.bytes.get(at + 1..key_end - 1)?;
        at = skip_space(self.bytes, key_end);
        if self.bytes.get(at) != Some(&b':') {
            return None;
        }
        let start = skip_space(self.bytes, at + 1);
        let end = value_end(self.bytes, start)?;
        self.at = end;
        Some(Member { key, value: self.bytes.get(start..end)? })
    }
}

impl<'a> Member<'a> {
    /// The key, escapes decoded. A key that is no valid string is given as it stands.
    pub(crate) fn key(&self) -> Cow<'a, str> {
        if !self.key.contains(&b'\\') {
            return String::from_utf8_lossy(self.key);
        }
        let mut quoted = Vec::with_capacity(self.key.len() + 2);
        quoted.push(b'"');
        quoted.extend_from_slice(self.key);
        quoted.push(b'"');
        match serde_json::from_slice::<String>(&quoted) {
            Ok(key) => Cow::Owned(key),
            Err(_) => String::from_utf8_lossy(self.key),
        }
    }
}

fn skip_space(bytes: &[u8], mut at: usize) -> usize {
    while matches!(bytes.get(at), Some(b' ' | b'\n' | b'\t' | b'\r')) {
        at += 1;
    }
    at
}

/// The position after the closing quote of the string that opens at `start`.
fn string_end(bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start + 1;
    loop {
        at += memchr::memchr2(b'"', b'\\', bytes.get(at..)?)?;
        match bytes.get(at)? {
            b'"' => return Some(at + 1),
            _ => at += 2,
        }
    }
}

/// The position after the value that starts at `start`.
fn value_end(bytes: &[u8], start: usize) -> Option<usize> {
    match bytes.get(start)? {
        b'"' => string_end(bytes, start),
        b'{' | b'[' => nest_end(bytes, start),
        _ => {
            let rest = bytes.get(start..)?;
            let length = rest
                .iter()
                .position(|byte| matches!(byte, b',' | b'}' | b']' | b' ' | b'\n' | b'\t' | b'\r'))
                .unwrap_or(rest.len());
            (length > 0).then_some(start + length)
        }
    }
}

/// The position after the object or array that opens at `start`. Depth is a number, so deep nests cost no stack.
fn nest_end(bytes: &[u8], start: usize) -> Option<usize> {
    let mut depth = 0usize;
    let mut at = start;
    loop {
        match bytes.get(at)? {
            b'"' => {
                at = string_end(bytes, at)?;
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            _ => {}
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(object: &str) -> Vec<(String, String)> {
        Members::of(object.as_bytes())
            .map(|member| {
                (member.key().into_owned(), String::from_utf8(member.value.to_vec()).unwrap())
            })
            .collect()
    }

    #[test]
    fn members_come_in_order_with_their_bytes() {
        let object =
            r#" { "a" : 1.5e3 ,"b":"x\"}",  "c":{"d":["}",{}]} , "a":null,"\u0065\n":true } "#;
        let expected = [
            ("a", "1.5e3"),
            ("b", r#""x\"}""#),
            ("c", r#"{"d":["}",{}]}"#),
            ("a", "null"),
            ("e\n", "true"),
        ];
        assert_eq!(
            members(object),
            expected.map(|(key, value)| (key.to_owned(), value.to_owned()))
        );
    }

    #[test]
    fn what_is_no_object_has_no_members() {
        for bytes in ["", "[1]", "1", "\"a\"", "{", "{}", "{\"", "{\"a\"", "{\"a\":", "{\"a\\"] {
            assert!(members(bytes).is_empty(), "{bytes}");
        }
    }
}
