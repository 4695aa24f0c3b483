//! Holds the model node against a real one: both get the same requests and must answer alike, as
//! far as a client can observe tasks, documents, settings and indexes. What the model leaves out
//! (words, vectors, keys) is not asked.
//!
//! Runs on real time, against whatever answers Meilisearch's API: `sim conform --url`, and
//! `tests/tests/conformance.rs` for the embedded node.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use miroir_seams::{NodeCall, NodeTransport, Tasks, TransportError};
use serde_json::{Map, Value, json};

use crate::dice::Dice;
use crate::model_node::{ModelNode, NodeTraits, id_text};
use crate::trace::Trace;

/// How long one exchange with the real node may take.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a task is looked at, and how many times.
const LOOK: Duration = Duration::from_millis(10);
const LOOKS_MAX: u32 = 6_000;
/// Ids of documents.
const IDS: u64 = 12;
/// Settings that both know, as far as the simulation changes them.
const COMPARED_SETTINGS: [&str; 8] = [
    "filterableAttributes",
    "sortableAttributes",
    "displayedAttributes",
    "distinctAttribute",
    "rankingRules",
    "stopWords",
    "synonyms",
    "pagination",
];

/// Where the real node is.
#[derive(Clone, Debug)]
pub struct RealNode {
    /// The way to it.
    pub transport: Arc<dyn NodeTransport>,
    /// Its base address.
    pub base: String,
    /// Its key.
    pub key: Option<String>,
}

/// Why nothing could be compared.
#[derive(Debug, thiserror::Error)]
pub enum ConformanceError {
    /// The real node does not answer.
    #[error(transparent)]
    NoAnswer(#[from] TransportError),
    /// A task does not end.
    #[error("task {0} does not end")]
    TaskPending(u64),
    /// The model is down.
    #[error("the model node is down")]
    ModelDown,
}

/// Sends `steps` changes that follow from `seed` to a fresh model and to `real`, whose indexes
/// `conform-a` and `conform-b` are deleted first. Says in words what differs, and stops there; none
/// when nothing does.
///
/// # Errors
/// When there is nothing to compare.
pub async fn compare(
    real: RealNode,
    seed: u64,
    steps: u64,
) -> Result<Option<String>, ConformanceError> {
    let tasks = Tasks::new();
    // An old node's kind: what newer ones print beside is not compared.
    let traits = NodeTraits { keeps_names: false, batch_ms_max: 1, is_backed_up: false };
    let model = ModelNode::start("model".into(), traits, seed, Trace::new(None), &tasks);
    let pair = Pair { real, model };
    for index in ["conform-a", "conform-b"] {
        let _was_there = pair.real(&Ask::new(Method::DELETE, format!("/indexes/{index}"))).await?;
        let delete = Ask::new(Method::DELETE, format!("/indexes/{index}"));
        if let Some(uid) = task_uid(&pair.real(&delete).await?.1) {
            pair.real_task(uid).await?;
        }
    }
    let dice = Dice::new(seed, "conformance");
    for step in 0..steps {
        let index = if dice.chance(700) { "conform-a" } else { "conform-b" };
        let change = next(&dice, index, step);
        let difference = match pair.change(&change).await? {
            None => pair.look(index).await?,
            found => found,
        };
        if let Some(difference) = difference {
            return Ok(Some(format!("seed {seed} step {step}, {change:?}: {difference}")));
        }
    }
    tasks.end_all();
    Ok(None)
}

/// A request.
#[derive(Clone, Debug)]
struct Ask {
    method: Method,
    path: String,
    body: Option<Value>,
}

impl Ask {
    fn new(method: Method, path: String) -> Self {
        Self { method, path, body: None }
    }

    fn with(method: Method, path: String, body: Value) -> Self {
        Self { method, path, body: Some(body) }
    }

    fn get(path: String) -> Self {
        Self::new(Method::GET, path)
    }
}

/// Status and body.
type Answer = (u16, Value);

fn task_uid(body: &Value) -> Option<u64> {
    body.get("taskUid")?.as_u64()
}

fn part<'a>(body: &'a Value, pointer: &str) -> &'a Value {
    body.pointer(pointer).unwrap_or(&Value::Null)
}

/// A difference in words, if the two differ.
fn differ<T: PartialEq + std::fmt::Debug>(what: &str, real: T, model: T) -> Option<String> {
    (real != model).then(|| format!("{what}: the node {real:?}, the model {model:?}"))
}

struct Pair {
    real: RealNode,
    model: ModelNode,
}

impl Pair {
    async fn real(&self, ask: &Ask) -> Result<Answer, ConformanceError> {
        let body = ask.body.as_ref().map(|body| Bytes::from(body.to_string()));
        let call = NodeCall {
            base: self.real.base.clone(),
            key: self.real.key.clone(),
            method: ask.method.clone(),
            path: ask.path.clone(),
            content_type: body.is_some().then_some("application/json"),
            body: body.unwrap_or_default(),
            timeout: EXCHANGE_TIMEOUT,
            answer_bytes_max: NodeCall::ANSWER_BYTES_MAX,
        };
        let answer = self.real.transport.send(call).await?;
        let status = answer.status().as_u16();
        Ok((status, serde_json::from_slice(answer.body()).unwrap_or_default()))
    }

    fn model(&self, ask: &Ask) -> Result<Answer, ConformanceError> {
        let body = ask.body.as_ref().map(Value::to_string).unwrap_or_default();
        let answer = self.model.answer(&ask.method, &ask.path, body.as_bytes());
        answer.ok_or(ConformanceError::ModelDown)
    }

    async fn real_task(&self, uid: u64) -> Result<Value, ConformanceError> {
        for _ in 0..LOOKS_MAX {
            let task = self.real(&Ask::get(format!("/tasks/{uid}"))).await?.1;
            if ended(&task) {
                return Ok(task);
            }
            tokio::time::sleep(LOOK).await;
        }
        Err(ConformanceError::TaskPending(uid))
    }

    async fn model_task(&self, uid: u64) -> Result<Value, ConformanceError> {
        for _ in 0..LOOKS_MAX {
            let tasks = self.model(&Ask::get(format!("/tasks?uids={uid}")))?.1;
            let task = part(&tasks, "/results/0");
            if ended(task) {
                return Ok(task.clone());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Err(ConformanceError::TaskPending(uid))
    }

    /// Sends a change to both and compares what becomes of it.
    async fn change(&self, ask: &Ask) -> Result<Option<String>, ConformanceError> {
        let (real, model) = (self.real(ask).await?, self.model(ask)?);
        if real.0 != model.0 {
            return Ok(differ("answers", real, model));
        }
        let (Some(of_real), Some(of_model)) = (task_uid(&real.1), task_uid(&model.1)) else {
            return Ok(differ("code", part(&real.1, "/code"), part(&model.1, "/code")));
        };
        let (real, model) = (self.real_task(of_real).await?, self.model_task(of_model).await?);
        for pointer in ["/status", "/type", "/error/code"] {
            let found = differ(pointer, part(&real, pointer), part(&model, pointer));
            if found.is_some() {
                return Ok(found);
            }
        }
        let is_counted = part(&real, "/status") == "succeeded";
        for pointer in ["/details/deletedDocuments", "/details/indexedDocuments"] {
            let said = part(&model, pointer);
            if is_counted && !said.is_null() && said != part(&real, pointer) {
                return Ok(differ(pointer, part(&real, pointer), said));
            }
        }
        Ok(None)
    }

    /// Compares what both show of an index.
    async fn look(&self, index: &str) -> Result<Option<String>, ConformanceError> {
        let of_index = ["code", "primaryKey", "numberOfDocuments"];
        let mut questions = vec![
            (Ask::get(format!("/indexes/{index}")), of_index.to_vec(), None),
            (Ask::get(format!("/indexes/{index}/stats")), of_index.to_vec(), None),
            (Ask::get(format!("/indexes/{index}/settings")), COMPARED_SETTINGS.to_vec(), None),
            (
                Ask::get(format!("/indexes/{index}/documents?limit=1000")),
                vec!["code", "total"],
                Some("/results"),
            ),
        ];
        for filter in [Value::Null, json!("tag = t1"), json!(["n IN [1, 2]", "NOT tag = t0"])] {
            for (path, list) in [("search", "/hits"), ("documents/fetch", "/results")] {
                let path = format!("/indexes/{index}/{path}");
                let body = json!({ "filter": filter, "limit": 1000 });
                questions.push((Ask::with(Method::POST, path, body), vec!["code"], Some(list)));
            }
        }
        let settings = self.model(&Ask::get(format!("/indexes/{index}/settings")))?.1;
        // Which document stands for a distinct value is the node's own choice.
        let picks = part(&settings, "/distinctAttribute").is_string();
        // And so is which hits are cut off.
        let hits_max = part(&settings, "/pagination/maxTotalHits").as_u64().unwrap_or(1000);
        for (ask, parts, list) in questions {
            let (real, model) = (self.real(&ask).await?, self.model(&ask)?);
            let what = format!("{ask:?}");
            let mut found = differ(&what, real.0, model.0);
            for name in parts {
                let pointer = format!("/{name}");
                let (real, model) = (part(&real.1, &pointer), part(&model.1, &pointer));
                found = found.or_else(|| differ(&format!("{what} {name}"), real, model));
            }
            if let Some(list) = list {
                let (real, model) = (sorted(part(&real.1, list)), sorted(part(&model.1, list)));
                let is_free = list == "/hits" && (picks || model.len() as u64 >= hits_max);
                found = found.or_else(|| match is_free {
                    true => differ(&format!("{what} count"), real.len(), model.len()),
                    false => differ(&what, real, model),
                });
            }
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }
}

fn ended(task: &Value) -> bool {
    matches!(part(task, "/status").as_str(), Some("succeeded" | "failed"))
}

/// Documents by the text of their id: `1` and `"1"` are one.
fn sorted(documents: &Value) -> Vec<(String, Value)> {
    let id = |document: &Value| document.get("id").map(id_text).unwrap_or_default();
    let mut all: Vec<(String, Value)> =
        documents.as_array().into_iter().flatten().map(|d| (id(d), d.clone())).collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

fn document(dice: &Dice, step: u64) -> Value {
    let mut document = Map::new();
    let id = dice.between(0, IDS - 1);
    document.insert("id".into(), if dice.chance(300) { json!(id.to_string()) } else { json!(id) });
    document.insert("v".into(), json!(step));
    if dice.chance(700) {
        document.insert("tag".into(), json!(format!("t{}", dice.between(0, 3))));
    }
    if dice.chance(500) {
        document.insert("n".into(), json!(dice.between(0, 3)));
    }
    if dice.chance(20) {
        document.insert("id".into(), json!("not an id"));
    }
    if dice.chance(20) {
        document.shift_remove("id");
    }
    Value::Object(document)
}

fn settings(dice: &Dice) -> Value {
    match dice.between(0, 6) {
        0 => json!({ "filterableAttributes": ["tag"] }),
        1 | 2 => json!({ "filterableAttributes": ["tag", "n"] }),
        3 => json!({ "filterableAttributes": null, "sortableAttributes": ["n"] }),
        4 => json!({
            "distinctAttribute": "tag", "rankingRules": ["words", "attribute", "n:asc"],
            "stopWords": ["the", "a"],
        }),
        5 => json!({ "distinctAttribute": null, "rankingRules": null, "stopWords": null }),
        _ => json!({
            "synonyms": { "x": ["y"] },
            "pagination": { "maxTotalHits": 3 + dice.between(0, 20) },
        }),
    }
}

/// The next change.
fn next(dice: &Dice, index: &str, step: u64) -> Ask {
    let documents = format!("/indexes/{index}/documents");
    let add = |method: Method, key: &str| {
        let all: Vec<Value> = (0..dice.between(1, 5)).map(|_| document(dice, step)).collect();
        Ask::with(method, format!("{documents}{key}"), Value::Array(all))
    };
    match dice.between(0, 99) {
        0..=29 => add(Method::POST, ""),
        30..=49 => add(Method::PUT, ""),
        50 => add(Method::POST, "?primaryKey=sku"),
        51..=54 => add(Method::POST, "?primaryKey=id"),
        55..=62 => {
            let count = dice.between(1, 4);
            let ids: Vec<String> =
                (0..count).map(|_| dice.between(0, IDS - 1).to_string()).collect();
            Ask::with(Method::POST, format!("{documents}/delete-batch"), json!(ids))
        }
        63..=73 => {
            let filter = match dice.between(0, 2) {
                0 => json!(format!("tag = t{}", dice.between(0, 3))),
                1 => json!(format!("n IN [{}, {}]", dice.between(0, 3), dice.between(0, 3))),
                _ => json!(["tag IN [t1, t2]", "n = 1"]),
            };
            let body = json!({ "filter": filter });
            Ask::with(Method::POST, format!("{documents}/delete"), body)
        }
        74 | 75 => Ask::new(Method::DELETE, documents),
        76..=88 => Ask::with(Method::PATCH, format!("/indexes/{index}/settings"), settings(dice)),
        89..=91 => {
            let body = json!({ "uid": index, "primaryKey": "id" });
            Ask::with(Method::POST, "/indexes".into(), body)
        }
        92 | 93 => {
            let key = if dice.chance(500) { "id" } else { "sku" };
            Ask::with(Method::PATCH, format!("/indexes/{index}"), json!({ "primaryKey": key }))
        }
        94..=96 => Ask::new(Method::DELETE, format!("/indexes/{index}")),
        _ => Ask::new(Method::DELETE, format!("{documents}/{}", dice.between(0, IDS - 1))),
    }
}
