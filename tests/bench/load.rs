//! The index that is measured, and the query file.

use std::fs;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use miroir_tests::client::{Api, ApiFault};
use miroir_tests::oracle::Object;
use serde_json::{Value, json};

use super::BenchFault;

/// The index measured.
pub const INDEX: &str = "bench";
/// How long one task may take.
const TASK_PATIENCE: Duration = Duration::from_secs(600);

/// Replaces the index by an empty one with settings fit for the query file.
pub async fn reset(api: &Api) -> Result<(), ApiFault> {
    let root = format!("/indexes/{INDEX}");
    let uid = api.enqueue(Method::DELETE, &root, None).await?;
    api.wait_for_task(uid, TASK_PATIENCE).await?;
    let create = json!({ "uid": INDEX, "primaryKey": "id" });
    api.apply(Method::POST, "/indexes", Some(&create), TASK_PATIENCE).await?;
    let settings = json!({
        "searchableAttributes": ["words", "gloss", "examples"],
        "filterableAttributes": ["pos", "lexFile", "senses"],
        "sortableAttributes": ["senses"],
    });
    api.apply(Method::PATCH, &format!("{root}/settings"), Some(&settings), TASK_PATIENCE).await?;
    Ok(())
}

/// The documents as request bodies (newline-delimited JSON), `batch` in each.
pub fn payloads(documents: &[Object], batch: usize) -> Vec<Bytes> {
    documents
        .chunks(batch.max(1))
        .map(|chunk| {
            let lines: Vec<String> =
                chunk.iter().map(|document| Value::Object(document.clone()).to_string()).collect();
            Bytes::from(lines.join("\n"))
        })
        .collect()
}

/// Sends all payloads, then waits for the last task. Earlier tasks have ended by then.
pub async fn send_all(api: &Api, payloads: &[Bytes]) -> Result<(), ApiFault> {
    let path = format!("/indexes/{INDEX}/documents");
    let mut tasks = Vec::new();
    for payload in payloads {
        let kind = Some("application/x-ndjson");
        let answer = api.send(Method::POST, &path, kind, payload.clone()).await?;
        let body = answer.json();
        let Some(uid) = body["taskUid"].as_u64() else {
            return Err(ApiFault::Shape { missing: "taskUid", body });
        };
        tasks.push(uid);
    }
    for uid in tasks.into_iter().rev() {
        let task = api.wait_for_task(uid, TASK_PATIENCE).await?;
        if task["status"] != json!("succeeded") {
            return Err(ApiFault::Task { uid, task });
        }
    }
    Ok(())
}

/// Loads `documents` into a fresh index.
pub async fn load(api: &Api, documents: &[Object], batch: usize) -> Result<(), ApiFault> {
    reset(api).await?;
    send_all(api, &payloads(documents, batch)).await
}

/// Search bodies of a query file: a line that begins with `{` is a body, any other a `q`.
pub fn read_queries(path: &Path) -> Result<Vec<Bytes>, BenchFault> {
    let text = fs::read_to_string(path)
        .map_err(|source| BenchFault::Queries { path: path.to_owned(), source })?;
    let lines = text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    Ok(lines
        .map(|line| {
            if line.starts_with('{') {
                Bytes::from(line.to_owned())
            } else {
                Bytes::from(json!({ "q": line }).to_string())
            }
        })
        .collect())
}
