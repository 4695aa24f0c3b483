//! CSV rows to JSON objects.
//!
//! A header `name:type` with the type `string`, `number` or `boolean` (after the last colon) gives its column that
//! type; any other header is the whole name of a string column. An empty field is `null`.

use std::num::ParseFloatError;
use std::str::ParseBoolError;

use bytes::Bytes;
use indexmap::IndexMap;
use serde_json::Value;

use super::{DocumentBatch, PayloadKind, payload_too_large};
use crate::error::{ApiError, Code};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ColumnType {
    String,
    Number,
    Boolean,
}

#[derive(Debug, thiserror::Error)]
enum CellError {
    #[error("Error parsing number {value:?} at line {line}: {error}")]
    Number { error: ParseFloatError, line: usize, value: String },
    #[error("Error parsing boolean {value:?} at line {line}: {error}")]
    Boolean { error: ParseBoolError, line: usize, value: String },
}

fn column(header: &str) -> (&str, ColumnType) {
    match header.rsplit_once(':') {
        Some((name, "string")) => (name, ColumnType::String),
        Some((name, "number")) => (name, ColumnType::Number),
        Some((name, "boolean")) => (name, ColumnType::Boolean),
        _ => (header, ColumnType::String),
    }
}

/// The value of one field; `line` counts data rows from one.
fn cell(text: &str, kind: ColumnType, line: usize) -> Result<Value, CellError> {
    let trimmed = text.trim();
    match kind {
        ColumnType::String if text.is_empty() => Ok(Value::Null),
        ColumnType::String => Ok(Value::from(text)),
        ColumnType::Number | ColumnType::Boolean if trimmed.is_empty() => Ok(Value::Null),
        ColumnType::Number => match trimmed.parse::<i64>() {
            Ok(integer) => Ok(Value::from(integer)),
            Err(_) => trimmed.parse::<f64>().map(Value::from).map_err(|error| CellError::Number {
                error,
                line,
                value: text.to_owned(),
            }),
        },
        ColumnType::Boolean => trimmed
            .parse::<bool>()
            .map(Value::from)
            .map_err(|error| CellError::Boolean { error, line, value: text.to_owned() }),
    }
}

/// Converts every row. Of columns with one name the last one counts.
pub(super) fn read(body: &Bytes, delimiter: u8) -> Result<DocumentBatch, ApiError> {
    let malformed = |cause: &dyn std::fmt::Display| {
        let kind = PayloadKind::Csv { delimiter };
        ApiError::new(
            Code::MalformedPayload,
            format!("The `{kind}` payload provided is malformed: `{cause}`."),
        )
    };
    let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).from_reader(body.as_ref());
    let headers = reader.headers().map_err(|error| malformed(&error))?.clone();
    let columns: Vec<(&str, ColumnType)> = headers.iter().map(column).collect();
    let mut object: IndexMap<&str, Value> =
        columns.iter().map(|(name, _)| (*name, Value::Null)).collect();

    let mut bytes = Vec::with_capacity(body.len());
    let mut ranges = Vec::new();
    let mut record = csv::StringRecord::new();
    let mut line = 0;
    while reader.read_record(&mut record).map_err(|error| malformed(&error))? {
        line += 1;
        for ((name, kind), text) in columns.iter().zip(record.iter()) {
            object.insert(name, cell(text, *kind, line).map_err(|error| malformed(&error))?);
        }
        let start = bytes.len();
        serde_json::to_writer(&mut bytes, &object)
            .map_err(|error| ApiError::new(Code::Internal, error.to_string()))?;
        // The names are repeated in every object: the conversion can outgrow what positions can tell.
        match (u32::try_from(start), u32::try_from(bytes.len())) {
            (Ok(start), Ok(end)) => ranges.push((start, end)),
            _ => return Err(payload_too_large(u64::from(u32::MAX))),
        }
    }
    Ok(DocumentBatch { bytes: bytes.into(), ranges })
}
