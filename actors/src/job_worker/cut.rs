//! From a chunk's bytes to the documents of the next task: a pure rule.
//!
//! One line holds one document; blank lines are passed over. A line is good when Meilisearch would
//! take it as an NDJSON payload and it uses no name of Miroir's own.

use bytes::Bytes;
use miroir_storage::job_commands::{LineError, Step};
use miroir_wire::content::{DocumentBatch, PayloadKind, read_documents};
use miroir_wire::reserved::contains_reserved;

/// Documents of one task at most. Lanes join neighbouring tasks, so small ones cost nodes nothing.
const DOCUMENTS_MAX: usize = 2000;
/// A task takes no further line from here on, bytes.
const BYTES_MAX: usize = 4 << 20;
/// Bytes of an error's text at most: it may quote what a client sent, and goes into the log.
const MESSAGE_BYTES_MAX: usize = 500;
/// Errors told of one stretch at most; all are counted.
const ERRORS_MAX: usize = 20;

/// The next stretch of a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// Documents for a task.
    Documents(DocumentBatch, Step),
    /// Nothing that could be imported: blank lines, and bad ones that are skipped.
    Nothing(Step),
    /// A bad line of a job that skips none.
    Refused(Step),
}

/// Where a stretch begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor {
    /// The chunk's number.
    pub(super) chunk: u32,
    /// Bytes before.
    pub(super) at: u64,
    /// Lines before.
    pub(super) lines: u64,
}

/// The stretch of `payload` that begins at `cursor`, which is not at its end.
pub(super) fn cut(payload: &Bytes, cursor: Cursor, skips_errors: bool) -> Cut {
    let from = usize::try_from(cursor.at).unwrap_or(usize::MAX).min(payload.len());
    let rest = payload.slice(from..);
    let mut ranges = Vec::new();
    let mut step =
        Step { from: cursor.at, to: cursor.at, lines: 0, skipped: 0, errors: Vec::new() };
    let mut end = 0;
    while end < rest.len() && end < BYTES_MAX && ranges.len() < DOCUMENTS_MAX {
        let start = end;
        let length = memchr::memchr(b'\n', rest.get(start..).unwrap_or_default());
        let next = length.map_or(rest.len(), |length| start + length + 1);
        match documents_in(&rest.slice(start..next)) {
            Ok(found) => {
                let shift = start as u32;
                ranges.extend(found.into_iter().map(|(a, b)| (a + shift, b + shift)));
            }
            // Only once everything before is in tasks.
            Err(_) if !skips_errors && !ranges.is_empty() => break,
            Err(message) => {
                let line = cursor.lines + step.lines + 1;
                step.skipped += 1;
                if step.errors.len() < ERRORS_MAX {
                    let chunk = cursor.chunk;
                    let message = shortened(message);
                    step.errors.push(LineError { chunk, line, lines: 1, task: None, message });
                }
            }
        }
        end = next;
        step.lines += 1;
        step.to = cursor.at + end as u64;
        if !skips_errors && step.skipped > 0 {
            return Cut::Refused(step);
        }
    }
    match ranges.is_empty() {
        true => Cut::Nothing(step),
        false => Cut::Documents(DocumentBatch { bytes: rest.slice(..end), ranges }, step),
    }
}

/// An error's text without its end, if it is long.
pub(super) fn shortened(mut message: String) -> String {
    if message.len() > MESSAGE_BYTES_MAX {
        message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
        message.push('…');
    }
    message
}

/// The documents of a line, or what is wrong with it.
fn documents_in(line: &Bytes) -> Result<Vec<(u32, u32)>, String> {
    if line.iter().all(u8::is_ascii_whitespace) {
        return Ok(Vec::new());
    }
    let found = read_documents(PayloadKind::Ndjson, line).map_err(|error| error.message)?;
    let reserved = found.iter().find_map(contains_reserved);
    match reserved {
        None => Ok(found.ranges),
        Some(name) => Err(format!(
            "The field `{name}` is reserved: names that start with `_miroir_` can't be used."
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Cursor = Cursor { chunk: 7, at: 0, lines: 0 };

    fn texts(batch: &DocumentBatch) -> Vec<String> {
        batch.iter().map(|document| String::from_utf8_lossy(document).into_owned()).collect()
    }

    /// Cuts the whole, as a worker does.
    fn all(text: &str, skips: bool) -> (Vec<String>, Vec<(u64, u64)>, u64) {
        let payload = Bytes::from(text.to_owned());
        let (mut cursor, mut documents, mut errors) = (START, Vec::new(), Vec::new());
        while cursor.at < payload.len() as u64 {
            let step = match cut(&payload, cursor, skips) {
                Cut::Documents(batch, step) => {
                    documents.extend(texts(&batch));
                    step
                }
                Cut::Nothing(step) => step,
                Cut::Refused(step) => {
                    errors.extend(step.errors.iter().map(|error| (error.line, step.from)));
                    return (documents, errors, cursor.lines + step.lines);
                }
            };
            assert_eq!(step.from, cursor.at);
            errors.extend(step.errors.iter().map(|error| (error.line, step.from)));
            cursor = Cursor { at: step.to, lines: cursor.lines + step.lines, ..cursor };
        }
        (documents, errors, cursor.lines)
    }

    #[test]
    fn every_line_is_a_document_or_an_error() {
        let text = "{\"id\":1}\r\n\n {\"id\":2} \nnonsense\n{\"_miroir_x\":1}\n[]\n{\"id\":3}";
        let documents = |ids: &[u32]| ids.iter().map(|id| format!("{{\"id\":{id}}}")).collect();
        assert_eq!(all(text, true), (documents(&[1, 2, 3]), vec![(4, 0), (5, 0), (6, 0)], 7));
        // The line that ends the job comes alone, after what is before it.
        assert_eq!(all(text, false), (documents(&[1, 2]), vec![(4, 22)], 4));
        assert_eq!(all("\n\n", false), (Vec::new(), Vec::new(), 2));
    }

    #[test]
    fn tasks_are_bounded() {
        let lines: String = (0..DOCUMENTS_MAX + 5).map(|id| format!("{{\"id\":{id}}}\n")).collect();
        let payload = Bytes::from(lines);
        let Cut::Documents(batch, step) = cut(&payload, START, false) else { panic!("documents") };
        assert_eq!((batch.len(), step.lines), (DOCUMENTS_MAX, DOCUMENTS_MAX as u64));
        let cursor = Cursor { at: step.to, lines: step.lines, ..START };
        let Cut::Documents(batch, step) = cut(&payload, cursor, false) else { panic!("documents") };
        assert_eq!((texts(&batch)[0].as_str(), batch.len()), ("{\"id\":2000}", 5));
        assert_eq!(step.to, payload.len() as u64);
        // One that is larger than a task may be is a task of its own.
        let large = format!("{{\"a\":\"{}\"}}\n", "x".repeat(BYTES_MAX));
        let payload = Bytes::from(large.repeat(2));
        let Cut::Documents(batch, _) = cut(&payload, START, false) else { panic!("documents") };
        assert_eq!(batch.len(), 1);
    }
}
