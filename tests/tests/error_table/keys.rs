//! Bad requests about API keys and batches.

use http::Method;

use super::{JSON, Refused, request};

/// A key that can't be there.
const NO_KEY: &str = "/keys/550e8400-e29b-41d4-a716-446655440000";

/// Everything that both must refuse.
pub fn refused() -> Vec<Refused> {
    let mut table: Vec<Refused> = [
        "{}",
        r#"{"actions": ["search"]}"#,
        r#"{"actions": ["search"], "indexes": ["*"]}"#,
        r#"{"indexes": ["*"], "expiresAt": null}"#,
        r#"{"actions": ["search"], "expiresAt": null}"#,
        r#"{"actions": "search", "indexes": ["*"], "expiresAt": null}"#,
        r#"{"actions": ["fly"], "indexes": ["*"], "expiresAt": null}"#,
        r#"{"actions": ["search"], "indexes": ["a b"], "expiresAt": null}"#,
        r#"{"actions": ["search"], "indexes": "*", "expiresAt": null}"#,
        r#"{"actions": ["search"], "indexes": ["*"], "expiresAt": "yesterday"}"#,
        r#"{"actions": ["search"], "indexes": ["*"], "expiresAt": "2010-11-12"}"#,
        r#"{"actions": ["search"], "indexes": ["*"], "expiresAt": 3}"#,
        r#"{"actions": ["search"], "indexes": ["*"], "expiresAt": null, "uid": "x"}"#,
        r#"{"actions": ["search"], "indexes": ["*"], "expiresAt": null, "name": 3}"#,
        r#"{"actions": ["search"], "indexes": ["*"], "expiresAt": null, "description": 3}"#,
        r#"{"actions": ["search"], "indexes": ["*"], "expiresAt": null, "nonsense": 3}"#,
        r#"{"actions": ["keys.get"], "indexes": ["films"], "expiresAt": null}"#,
        r#"{"actions": "#,
        "",
    ]
    .into_iter()
    .map(|body| request(Method::POST, "/keys", JSON, body))
    .collect();
    table.push(request(Method::POST, "/keys", None, "{}"));
    for field in ["uid", "actions", "indexes", "expiresAt", "createdAt", "updatedAt", "key", "x"] {
        table.push(request(Method::PATCH, NO_KEY, JSON, format!("{{\"{field}\": 1}}")));
    }
    for body in [r#"{"name": 3}"#, r#"{"description": {}}"#, "{}"] {
        table.push(request(Method::PATCH, NO_KEY, JSON, body));
    }
    for path in [NO_KEY, "/keys/nonsense"] {
        table.push(request(Method::GET, path, None, ""));
        table.push(request(Method::DELETE, path, None, ""));
    }
    for path in [
        "/keys?limit=a",
        "/keys?offset=-1",
        "/keys?nonsense=1",
        "/batches/999999",
        "/batches/abc",
        "/batches?limit=a",
        "/batches?from=a",
        "/batches?batchUids=a",
        "/batches?statuses=nonsense",
        "/batches?nonsense=1",
        "/tasks?batchUids=x",
        "/tasks?from=x",
        "/tasks?beforeEnqueuedAt=x",
        "/tasks?afterStartedAt=x",
        "/tasks?beforeStartedAt=x",
        "/tasks?afterFinishedAt=x",
        "/tasks?beforeFinishedAt=x",
    ] {
        table.push(request(Method::GET, path, None, ""));
    }
    table
}
