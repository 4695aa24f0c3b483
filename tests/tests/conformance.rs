//! The model node of the simulation and the embedded node get the same requests and must answer
//! alike: what a client can observe of tasks, documents, settings and indexes. What the model
//! leaves out (words, vectors, keys) is not asked.

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use miroir_seams::Tasks;
use miroir_sim::dice::Dice;
use miroir_sim::model_node::{ModelNode, NodeTraits};
use miroir_sim::trace::Trace;
use miroir_tests::client::Api;
use miroir_tests::processes::NodeProcess;
use serde_json::{Map, Value, json};

/// Requests that change something, for each seed.
const STEPS: u64 = 150;
/// How long a task may take.
const PATIENCE: Duration = Duration::from_secs(60);
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

/// Both nodes.
struct Pair {
    real: Api,
    model: ModelNode,
}

/// What a request changes, if the nodes take it.
struct Request {
    method: Method,
    path: String,
    body: Option<Value>,
}

impl Pair {
    async fn real(&self, request: &Request) -> (u16, Value) {
        let Request { method, path, body } = request;
        let kind = body.as_ref().map(|_| "application/json");
        let bytes = body.as_ref().map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        let answer = self.real.send(method.clone(), path, kind, bytes).await.expect("an answer");
        (answer.status, answer.json())
    }

    fn model(&self, request: &Request) -> (u16, Value) {
        let body = request.body.as_ref().map(Value::to_string).unwrap_or_default();
        self.model
            .answer(&request.method, &request.path, body.as_bytes())
            .expect("a model that runs")
    }

    async fn real_task(&self, uid: u64) -> Value {
        self.real.wait_for_task(uid, PATIENCE).await.expect("a task that ends")
    }

    async fn model_task(&self, uid: u64) -> Value {
        loop {
            let request = get(format!("/tasks?uids={uid}"));
            let task = self.model(&request).1["results"][0].clone();
            if matches!(task["status"].as_str(), Some("succeeded" | "failed")) {
                return task;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Sends a change to both and compares what becomes of it.
    async fn change(&self, request: &Request) {
        let what = format!("{} {} {:?}", request.method, request.path, request.body);
        let (real, model) = (self.real(request).await, self.model(request));
        assert_eq!(real.0, model.0, "{what}: {} / {}", real.1, model.1);
        let uid = |answer: &Value| answer["taskUid"].as_u64();
        let (Some(of_real), Some(of_model)) = (uid(&real.1), uid(&model.1)) else {
            assert_eq!(real.1["code"], model.1["code"], "{what}");
            return;
        };
        assert_eq!(real.1["type"], model.1["type"], "{what}");
        let (real, model) = (self.real_task(of_real).await, self.model_task(of_model).await);
        assert_eq!(real["status"], model["status"], "{what}: {real} / {model}");
        assert_eq!(real["error"]["code"], model["error"]["code"], "{what}");
        if real["status"] == "succeeded" {
            for count in ["deletedDocuments", "indexedDocuments"] {
                let said = model["details"].get(count);
                assert!(said.is_none_or(|said| *said == real["details"][count]), "{what}: {real}");
            }
        }
    }

    /// Compares what both show of an index.
    async fn compare(&self, index: &str, after: &str) {
        for path in [format!("/indexes/{index}"), format!("/indexes/{index}/stats")] {
            let (real, model) = self.both(&get(path)).await;
            assert_eq!(real.0, model.0, "{after}: {} / {}", real.1, model.1);
            for part in ["code", "primaryKey", "numberOfDocuments"] {
                assert_eq!(real.1[part], model.1[part], "{after}: {part}");
            }
        }
        let (real, model) = self.both(&get(format!("/indexes/{index}/settings"))).await;
        assert_eq!(real.0, model.0, "{after}");
        for setting in COMPARED_SETTINGS {
            assert_eq!(real.1[setting], model.1[setting], "{after}: {setting}");
        }
        let documents = get(format!("/indexes/{index}/documents?limit=1000"));
        let (real, model) = self.both(&documents).await;
        assert_eq!(sorted(&real.1["results"]), sorted(&model.1["results"]), "{after}: documents");
        assert_eq!(real.1["total"], model.1["total"], "{after}");
        for filter in [Value::Null, json!("tag = t1"), json!(["n IN [1, 2]", "NOT tag = t0"])] {
            for (path, list) in [("search", "hits"), ("documents/fetch", "results")] {
                let request = Request {
                    method: Method::POST,
                    path: format!("/indexes/{index}/{path}"),
                    body: Some(json!({ "filter": filter, "limit": 1000 })),
                };
                let (real, model) = self.both(&request).await;
                assert_eq!(real.0, model.0, "{after}: {path} {filter}: {} / {}", real.1, model.1);
                assert_eq!(real.1["code"], model.1["code"], "{after}: {path} {filter}");
                let (real, model) = (&real.1[list], &model.1[list]);
                // Which document stands for a distinct value is the node's own choice.
                let is_free = path == "search" && self.has_distinct(index);
                if is_free {
                    let count = |hits: &Value| hits.as_array().map(Vec::len);
                    assert_eq!(count(real), count(model), "{after}: {path} {filter}");
                } else {
                    assert_eq!(sorted(real), sorted(model), "{after}: {path} {filter}");
                }
            }
        }
    }

    fn has_distinct(&self, index: &str) -> bool {
        let settings = self.model(&get(format!("/indexes/{index}/settings"))).1;
        settings["distinctAttribute"].is_string()
    }

    async fn both(&self, request: &Request) -> ((u16, Value), (u16, Value)) {
        (self.real(request).await, self.model(request))
    }
}

fn get(path: String) -> Request {
    Request { method: Method::GET, path, body: None }
}

/// Documents by the text of their id: `1` and `"1"` are one.
fn sorted(documents: &Value) -> Vec<(String, Value)> {
    let id = |document: &Value| match &document["id"] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let mut all: Vec<(String, Value)> =
        documents.as_array().into_iter().flatten().map(|d| (id(d), d.clone())).collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

fn document(dice: &Dice, step: u64) -> Value {
    let mut document = Map::new();
    let id = dice.between(0, 11);
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
        document.remove("id");
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

fn next(dice: &Dice, index: &str, step: u64) -> Request {
    let documents = format!("/indexes/{index}/documents");
    let add = |method: Method, key: &str| {
        let all: Vec<Value> = (0..dice.between(1, 5)).map(|_| document(dice, step)).collect();
        let body = Some(Value::Array(all));
        Request { method, path: format!("{documents}{key}"), body }
    };
    let post = |path: String, body: Value| Request { method: Method::POST, path, body: Some(body) };
    match dice.between(0, 99) {
        0..=29 => add(Method::POST, ""),
        30..=49 => add(Method::PUT, ""),
        50 => add(Method::POST, "?primaryKey=sku"),
        51..=54 => add(Method::POST, "?primaryKey=id"),
        55..=62 => {
            let ids: Vec<String> =
                (0..dice.between(1, 4)).map(|_| dice.between(0, 11).to_string()).collect();
            post(format!("{documents}/delete-batch"), json!(ids))
        }
        63..=73 => {
            let filter = match dice.between(0, 2) {
                0 => json!(format!("tag = t{}", dice.between(0, 3))),
                1 => json!(format!("n IN [{}, {}]", dice.between(0, 3), dice.between(0, 3))),
                _ => json!(["tag IN [t1, t2]", "n = 1"]),
            };
            post(format!("{documents}/delete"), json!({ "filter": filter }))
        }
        74 | 75 => Request { method: Method::DELETE, path: documents.clone(), body: None },
        76..=88 => Request {
            method: Method::PATCH,
            path: format!("/indexes/{index}/settings"),
            body: Some(settings(dice)),
        },
        89..=91 => post("/indexes".into(), json!({ "uid": index, "primaryKey": "id" })),
        92 | 93 => Request {
            method: Method::PATCH,
            path: format!("/indexes/{index}"),
            body: Some(json!({ "primaryKey": if dice.chance(500) { "id" } else { "sku" } })),
        },
        94..=96 => {
            Request { method: Method::DELETE, path: format!("/indexes/{index}"), body: None }
        }
        _ => Request {
            method: Method::DELETE,
            path: format!("{documents}/{}", dice.between(0, 11)),
            body: None,
        },
    }
}

async fn answer_alike(seed: u64) {
    let directory = tempfile::tempdir().expect("a directory");
    let node = NodeProcess::start(directory.path()).await.expect("a node");
    // An old node's kind: the embedded one says that it is 1.15.
    let traits = NodeTraits { keeps_names: false, batch_ms_max: 1 };
    let tasks = Tasks::new();
    let model = ModelNode::start("model".into(), traits, seed, Trace::new(None), &tasks);
    let pair = Pair { real: node.api(), model };
    let dice = Dice::new(seed, "conformance");
    for step in 0..STEPS {
        let index = if dice.chance(700) { "a" } else { "b" };
        let request = next(&dice, index, step);
        pair.change(&request).await;
        let after = format!(
            "seed {seed} step {step} {} {} {:?}",
            request.method, request.path, request.body
        );
        pair.compare(index, &after).await;
    }
    tasks.end_all();
}

#[tokio::test]
async fn the_model_node_answers_as_the_embedded_one() {
    for seed in 1..=3 {
        answer_alike(seed).await;
    }
}
