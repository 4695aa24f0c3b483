//! What a model node answers to a request: the part of Meilisearch's API that the pod uses.

use std::collections::BTreeSet;

use http::Method;
use miroir_wire::engine_version::EngineVersion;
use miroir_wire::settings::Settings;
use serde_json::{Map, Value, json};

use super::filter::Filter;
use super::queue::{Status, Task, Work};
use super::{Refusal, State, search};

/// A request's parameters, decoded.
type Query = Vec<(String, String)>;

/// Answers one request at once. Tasks are durable when this returns.
pub(super) fn answer(state: &mut State, method: &Method, path: &str, body: &[u8]) -> (u16, Value) {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let query: Query = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    let segments: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    match route(state, method, &segments, &query, body) {
        Ok(answer) => answer,
        Err(refusal) => (refusal.status, refusal.to_json()),
    }
}

fn route(
    state: &mut State,
    method: &Method,
    segments: &[&str],
    query: &Query,
    body: &[u8],
) -> Result<(u16, Value), Refusal> {
    match (method.as_str(), segments) {
        ("GET", ["health"]) => Ok((200, json!({ "status": "available" }))),
        ("GET", ["version"]) => Ok((200, json!({ "pkgVersion": state.version }))),
        ("GET", ["tasks"]) => list_tasks(state, query),
        ("GET", ["indexes"]) => {
            let results: Vec<Value> =
                state.indexes.keys().map(|uid| index_view(state, uid)).collect();
            let total = results.len();
            Ok((200, json!({ "results": results, "offset": 0, "limit": 20, "total": total })))
        }
        ("POST", ["indexes"]) => {
            let body = object(body)?;
            let uid = text(&body, "uid").unwrap_or_default();
            enqueue(state, &uid, Work::Create { primary_key: text(&body, "primaryKey") }, None)
        }
        ("GET", ["indexes", uid]) => {
            known(state, uid)?;
            Ok((200, index_view(state, uid)))
        }
        ("PATCH", ["indexes", uid]) => {
            let primary_key = text(&object(body)?, "primaryKey");
            enqueue(state, uid, Work::Update { primary_key }, None)
        }
        ("DELETE", ["indexes", uid]) => enqueue(state, uid, Work::Delete, None),
        ("GET", ["indexes", uid, "stats"]) => {
            known(state, uid)?;
            let count = state.indexes.get(*uid).map_or(0, |index| index.documents.len());
            let stats =
                json!({ "numberOfDocuments": count, "isIndexing": false, "fieldDistribution": {} });
            Ok((200, stats))
        }
        ("GET", ["indexes", uid, "settings"]) => {
            known(state, uid)?;
            let settings = state.indexes.get(*uid).map(|index| index.shown_settings(state.version));
            Ok((200, settings.unwrap_or_default()))
        }
        ("PATCH", ["indexes", uid, "settings"]) => {
            let patch = Settings::from_json(body).and_then(|patch| {
                let version = EngineVersion::parse(state.version);
                version.check_settings(&patch, ".rankingRules").map(|()| patch)
            });
            let patch = patch.map_err(|error| Refusal::invalid("bad_request", error.message))?;
            enqueue(state, uid, Work::Settings(Box::new(patch)), None)
        }
        (_, ["indexes", uid, "documents", rest @ ..]) => {
            documents(state, method, uid, rest, query, body)
        }
        ("POST", ["indexes", uid, "search"]) => {
            let asked = object(body)?;
            let index = state.indexes.get(*uid).ok_or_else(|| not_found(uid))?;
            let filter = read_filter(&asked, "invalid_search_filter")?;
            if let Some(filter) = &filter {
                index.check_filterable(filter, "invalid_search_filter")?;
            }
            Ok((200, search::search(index, filter.as_ref(), &asked)?))
        }
        _ => Err(Refusal { status: 404, ..Refusal::invalid("not_found", "No such route.".into()) }),
    }
}

fn documents(
    state: &mut State,
    method: &Method,
    uid: &str,
    rest: &[&str],
    query: &Query,
    body: &[u8],
) -> Result<(u16, Value), Refusal> {
    let name = parameter(query, "customMetadata");
    if name.is_some() && !state.keeps_names {
        let message =
            "Unknown parameter `customMetadata`: expected one of `primaryKey`, `csvDelimiter`";
        return Err(Refusal::invalid("bad_request", message.into()));
    }
    match (method.as_str(), rest) {
        ("POST" | "PUT", []) => {
            let documents: Vec<Map<String, Value>> = serde_json::from_slice(body)
                .map_err(|error| Refusal::invalid("malformed_payload", error.to_string()))?;
            let partial = method == Method::PUT;
            let primary_key = parameter(query, "primaryKey");
            enqueue(state, uid, Work::Add { partial, primary_key, documents }, name)
        }
        ("DELETE", []) => enqueue(state, uid, Work::Clear, name),
        ("DELETE", [id]) => enqueue(state, uid, Work::DeleteIds(vec![(*id).to_owned()]), name),
        ("POST", ["delete-batch"]) => {
            let ids: Vec<Value> = serde_json::from_slice(body)
                .map_err(|error| Refusal::invalid("malformed_payload", error.to_string()))?;
            let ids = ids.iter().map(super::index::id_text).collect();
            enqueue(state, uid, Work::DeleteIds(ids), name)
        }
        ("POST", ["delete"]) => {
            let filter = read_filter(&object(body)?, "invalid_document_filter")?;
            let filter = filter.ok_or_else(|| {
                Refusal::invalid("missing_document_filter", "Missing field `filter`".into())
            })?;
            enqueue(state, uid, Work::DeleteMatching(filter), name)
        }
        ("GET", []) => {
            let number = |name| parameter(query, name).and_then(|text| text.parse::<u64>().ok());
            let mut asked = Map::new();
            for name in ["offset", "limit"] {
                if let Some(number) = number(name) {
                    asked.insert(name.into(), json!(number));
                }
            }
            page_of(state, uid, &asked)
        }
        ("POST", ["fetch"]) => page_of(state, uid, &object(body)?),
        ("GET", [id]) => {
            known(state, uid)?;
            let found = state.indexes.get(uid).and_then(|index| index.documents.get(*id));
            match found {
                Some(document) => Ok((200, Value::Object(document.clone()))),
                None => Err(Refusal {
                    status: 404,
                    ..Refusal::invalid("document_not_found", format!("Document `{id}` not found."))
                }),
            }
        }
        _ => Err(Refusal { status: 404, ..Refusal::invalid("not_found", "No such route.".into()) }),
    }
}

fn page_of(state: &State, uid: &str, asked: &Map<String, Value>) -> Result<(u16, Value), Refusal> {
    let (results, total) = select(state, uid, asked, "invalid_document_filter")?;
    Ok((200, json!({ "results": results, "total": total })))
}

/// Documents that a filter matches, of the ids if some are named, by id, cut to `offset` and
/// `limit`, and to the fields if some are named.
fn select(
    state: &State,
    uid: &str,
    asked: &Map<String, Value>,
    filter_code: &'static str,
) -> Result<(Vec<Value>, usize), Refusal> {
    let index = state.indexes.get(uid).ok_or_else(|| not_found(uid))?;
    let filter = read_filter(asked, filter_code)?;
    if let Some(filter) = &filter {
        index.check_filterable(filter, filter_code)?;
    }
    let number = |name, default| {
        asked.get(name).and_then(Value::as_u64).map_or(default, |n| usize::try_from(n).unwrap_or(0))
    };
    let (offset, limit) = (number("offset", 0), number("limit", 20));
    let named = |name: &str| asked.get(name).and_then(Value::as_array);
    let ids = named("ids").map(|ids| {
        ids.iter().map(super::index::id_text).collect::<std::collections::BTreeSet<_>>()
    });
    let matching: Vec<_> = index
        .documents
        .iter()
        .filter(|(id, _)| ids.as_ref().is_none_or(|ids| ids.contains(*id)))
        .map(|(_, document)| document)
        .filter(|document| filter.as_ref().is_none_or(|filter| filter.matches(document)))
        .collect();
    let fields = named("fields");
    let shown = |document: &&Map<String, Value>| {
        let mut document = (*document).clone();
        if let Some(fields) = fields {
            document.retain(|field, _| fields.iter().any(|wanted| wanted == field));
        }
        Value::Object(document)
    };
    let page = matching.iter().skip(offset).take(limit).map(shown);
    Ok((page.collect(), matching.len()))
}

fn read_filter(body: &Map<String, Value>, code: &'static str) -> Result<Option<Filter>, Refusal> {
    match body.get("filter") {
        None | Some(Value::Null) => Ok(None),
        Some(filter) => Filter::parse(filter)
            .map(Some)
            .ok_or_else(|| Refusal::invalid(code, format!("Filter can't be read: {filter}"))),
    }
}

fn list_tasks(state: &State, query: &Query) -> Result<(u16, Value), Refusal> {
    let listed = |name| {
        parameter(query, name)
            .map(|list| list.split(',').map(str::to_owned).collect::<Vec<String>>())
    };
    let (uids, indexes) = (listed("uids"), listed("indexUids"));
    let uids: Option<BTreeSet<u64>> =
        uids.map(|uids| uids.iter().filter_map(|uid| uid.parse().ok()).collect());
    let limit = parameter(query, "limit").and_then(|text| text.parse().ok()).unwrap_or(20);
    let from = parameter(query, "from").and_then(|text| text.parse::<u64>().ok());
    let matches = |uid: u64, task: &Task| {
        uids.as_ref().is_none_or(|uids| uids.contains(&uid))
            && indexes.as_ref().is_none_or(|indexes| indexes.contains(&task.index))
    };
    let matching: Vec<_> =
        state.tasks.iter().rev().filter(|(uid, task)| matches(**uid, task)).collect();
    let window: Vec<_> = matching
        .iter()
        .filter(|(uid, _)| from.is_none_or(|from| **uid <= from))
        .take(limit + 1)
        .collect();
    let results: Vec<Value> =
        window.iter().take(limit).map(|(uid, task)| task.view(**uid)).collect();
    let answer = json!({
        "results": results,
        "total": matching.len(),
        "limit": limit,
        "from": window.first().map(|(uid, _)| **uid),
        "next": window.get(limit).map(|(uid, _)| **uid),
    });
    Ok((200, answer))
}

fn enqueue(
    state: &mut State,
    index: &str,
    work: Work,
    custom_metadata: Option<String>,
) -> Result<(u16, Value), Refusal> {
    let uid = state.next_uid;
    state.next_uid += 1;
    let summary = json!({
        "taskUid": uid, "indexUid": index, "status": "enqueued", "type": work.kind(),
        "enqueuedAt": state.now,
    });
    let task = Task {
        index: index.to_owned(),
        work,
        status: Status::Enqueued,
        details: Value::Null,
        error: None,
        custom_metadata,
        enqueued_at: state.now.clone(),
    };
    state.tasks.insert(uid, task);
    Ok((202, summary))
}

fn known(state: &State, uid: &str) -> Result<(), Refusal> {
    if state.indexes.contains_key(uid) { Ok(()) } else { Err(not_found(uid)) }
}

fn not_found(uid: &str) -> Refusal {
    Refusal { status: 404, ..Refusal::index_not_found(uid) }
}

fn index_view(state: &State, uid: &str) -> Value {
    match state.indexes.get(uid) {
        None => Value::Null,
        Some(index) => json!({
            "uid": uid,
            "createdAt": index.created_at,
            "updatedAt": index.created_at,
            "primaryKey": index.primary_key,
        }),
    }
}

fn object(body: &[u8]) -> Result<Map<String, Value>, Refusal> {
    serde_json::from_slice(body)
        .map_err(|error| Refusal::invalid("malformed_payload", error.to_string()))
}

fn text(object: &Map<String, Value>, name: &str) -> Option<String> {
    object.get(name).and_then(Value::as_str).map(str::to_owned)
}

fn parameter(query: &Query, name: &str) -> Option<String> {
    query.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone())
}
