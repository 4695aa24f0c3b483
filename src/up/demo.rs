//! `--demo`: loads 3,201 films through the gateway, as any client would.

use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::Method;
use miroir_seams::{HttpTransport, NodeCall, NodeTransport};
use serde_json::{Value, json};

use super::readiness::get;

/// The index that the demo makes.
pub const INDEX: &str = "movies";
/// See ops/demo for where they come from and their licence.
const MOVIES: &[u8] = include_bytes!("../../ops/demo/movies.ndjson");
/// For one request; the films are about 1.4 MB.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// For both tasks together; a second or two is usual.
const TASKS_TIMEOUT: Duration = Duration::from_secs(120);
/// Between two looks at a task.
const TASK_POLL_INTERVAL: Duration = Duration::from_millis(50);

/// What is searched, filtered and sorted by. `imdb_votes` last among the ranking rules puts the
/// better known film first among equals.
fn settings() -> Value {
    json!({
        "searchableAttributes": ["title", "director", "distributor", "major_genre", "source"],
        "filterableAttributes": [
            "major_genre", "mpaa_rating", "director", "distributor", "creative_type", "source",
            "imdb_rating", "imdb_votes", "rotten_tomatoes_rating", "running_time_min",
            "worldwide_gross"
        ],
        "sortableAttributes": [
            "title", "imdb_rating", "imdb_votes", "rotten_tomatoes_rating", "running_time_min",
            "production_budget", "worldwide_gross"
        ],
        "rankingRules": [
            "words", "typo", "proximity", "attribute", "sort", "exactness", "imdb_votes:desc"
        ]
    })
}

/// Loads the films and waits until they can be searched. Doing it again changes nothing.
///
/// # Errors
/// When the gateway refuses something, a task fails, or it takes longer than two minutes.
pub async fn load(transport: &HttpTransport, base: &str, master_key: &str) -> anyhow::Result<()> {
    let client = Client { transport, base, master_key };
    let path = format!("/indexes/{INDEX}/settings");
    let body = Bytes::from(settings().to_string());
    let first = client.enqueue(Method::PATCH, path, "application/json", body).await?;
    let path = format!("/indexes/{INDEX}/documents?primaryKey=id");
    let body = Bytes::from_static(MOVIES);
    let second = client.enqueue(Method::POST, path, "application/x-ndjson", body).await?;
    let both = async {
        client.wait_for(first).await?;
        client.wait_for(second).await
    };
    tokio::time::timeout(TASKS_TIMEOUT, both)
        .await
        .with_context(|| format!("the films were not indexed within {TASKS_TIMEOUT:?}"))?
}

struct Client<'a> {
    transport: &'a HttpTransport,
    base: &'a str,
    master_key: &'a str,
}

impl Client<'_> {
    async fn enqueue(
        &self,
        method: Method,
        path: String,
        content_type: &'static str,
        body: Bytes,
    ) -> anyhow::Result<u64> {
        let call = NodeCall {
            method,
            path,
            content_type: Some(content_type),
            body,
            timeout: REQUEST_TIMEOUT,
            ..get(self.base, "", Some(self.master_key))
        };
        let answer = self.send(call).await?;
        answer["taskUid"].as_u64().context("the gateway answered without a taskUid")
    }

    async fn wait_for(&self, task: u64) -> anyhow::Result<()> {
        loop {
            let call = get(self.base, &format!("/tasks/{task}"), Some(self.master_key));
            let answer = self.send(call).await?;
            match answer["status"].as_str() {
                Some("succeeded") => return Ok(()),
                Some("failed" | "canceled") => {
                    bail!("loading the films failed: {}", answer["error"]["message"])
                }
                _ => tokio::time::sleep(TASK_POLL_INTERVAL).await,
            }
        }
    }

    async fn send(&self, call: NodeCall) -> anyhow::Result<Value> {
        let what = format!("{} {}", call.method, call.path);
        let answer = self.transport.send(call).await.with_context(|| what.clone())?;
        let (status, body) = (answer.status(), answer.into_body());
        if !status.is_success() {
            bail!("{what}: {status}: {}", String::from_utf8_lossy(&body));
        }
        serde_json::from_slice(&body).with_context(|| format!("{what}: the answer is not JSON"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn films_are_one_object_a_line_with_distinct_ids() {
        let mut ids = std::collections::BTreeSet::new();
        for line in MOVIES.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let film: Value = serde_json::from_slice(line).expect("a JSON object");
            assert!(ids.insert(film["id"].as_u64().expect("an integer id")));
        }
        assert_eq!(ids.len(), 3201);
    }

    #[test]
    fn settings_name_fields_that_the_films_have() {
        let line = MOVIES.split(|byte| *byte == b'\n').next().expect("a line");
        let film: Value = serde_json::from_slice(line).expect("a JSON object");
        let settings = settings();
        for list in ["searchableAttributes", "filterableAttributes", "sortableAttributes"] {
            for field in settings[list].as_array().expect("a list") {
                let field = field.as_str().expect("text");
                assert!(film.get(field).is_some(), "{list}: {field}");
            }
        }
    }
}
