//! Writes with `_vectors`, for the index `films` with its `userProvided` embedder `given` of three
//! dimensions: those that fail, and those that don't.

use http::Method;
use serde_json::{Value, json};

use super::Failing;

fn write(method: Method, name: &'static str, body: Value) -> Failing {
    Failing { name, method, path: "/indexes/films/documents".to_owned(), body: Some(body) }
}

/// Writes whose tasks fail. The good documents among them have ids from 900.
pub fn failing_vectors() -> Vec<Failing> {
    let add = |name, body| write(Method::POST, name, body);
    let vectors = |name, vectors: Value| add(name, json!([{ "id": 40, "_vectors": vectors }]));
    let given = |name, value: Value| vectors(name, json!({ "given": value }));
    vec![
        vectors("vectors null", json!(null)),
        vectors("vectors an array", json!([1, 2, 3])),
        vectors("vectors without the embedder", json!({})),
        given("a vector with text", json!([1, 2, "3"])),
        given("a vector of text", json!(["1"])),
        given("a vector that is text", json!("1,2,3")),
        given("a vector that is a number", json!(3)),
        given("a vector that is negative", json!(-3)),
        given("a vector that is true", json!(true)),
        given("an empty vector in a list", json!([[]])),
        given("the second vector too long", json!([[1, 2, 3], [1, 2, 3, 4]])),
        given("a list of vectors and a number", json!([[1, 2, 3], 4])),
        given("a vector with null", json!([[1, null, 3]])),
        given("no regenerate", json!({ "embeddings": [1, 2, 3] })),
        given("regenerate null", json!({ "regenerate": null })),
        given("an unknown field", json!({ "regenerate": false, "vector": [1, 2, 3] })),
        given("embeddings too short", json!({ "regenerate": true, "embeddings": [[1, 2]] })),
        given("embeddings that are text", json!({ "regenerate": true, "embeddings": "x" })),
        given("nothing to regenerate from", json!({ "regenerate": true })),
        vectors("text for no embedder", json!({ "given": [1, 2, 3], "none": "x" })),
        vectors("a misspelt embedder", json!({ "givne": [1, 2, 3] })),
        add("a misspelt field", json!([{ "id": 41, "_vector": { "given": [1, 2, 3] } }])),
        add(
            "one of several lacks its vector",
            json!([
                { "id": 900, "_vectors": { "given": [1, 2, 3] } },
                { "id": 42 },
                { "id": 901, "_vectors": { "given": [1, 2, 3] } },
            ]),
        ),
        add(
            "one of several has a short vector",
            json!([
                { "id": 902, "_vectors": { "given": [1, 2, 3] } },
                { "id": 903, "_vectors": { "given": [1, 2] } },
                { "id": 904, "_vectors": { "given": [1, 2, 3] } },
                { "id": 905, "_vectors": { "given": [1, 2, 3] } },
            ]),
        ),
        write(
            Method::PUT,
            "an update of an unknown document without its vector",
            json!([{ "id": 1, "year": 1926 }, { "id": 43, "year": 1926 }]),
        ),
    ]
}

/// Writes that succeed, one after the other.
pub fn good_vectors() -> Vec<Failing> {
    let add = |name, body| write(Method::POST, name, body);
    let update = |name, body| write(Method::PUT, name, body);
    let settings = |name, embedders: Value| Failing {
        name,
        method: Method::PATCH,
        path: "/indexes/films/settings".to_owned(),
        body: Some(json!({ "embedders": embedders })),
    };
    let given =
        |name, value: Value| add(name, json!([{ "id": 50, "_vectors": { "given": value } }]));
    vec![
        update("an update that leaves the vector", json!([{ "id": 1, "year": 1926 }])),
        add("a new version that leaves the vector", json!([{ "id": 1, "title": "Metropolis" }])),
        update("an update of what was opted out", json!([{ "id": 2, "year": 1930 }])),
        given("no vector on purpose", json!(null)),
        given("an empty list", json!([])),
        given("two vectors", json!([[1, 2, 3], [4, 5, 6]])),
        given("given, to be kept", json!({ "regenerate": false, "embeddings": [1, 2, 3] })),
        given("given, to be made anew", json!({ "regenerate": true, "embeddings": [1, 2, 3] })),
        given("kept as it is", json!({ "regenerate": false })),
        given("null to be made anew", json!({ "regenerate": true, "embeddings": null })),
        add(
            "a bad version before a good one",
            json!([
                { "id": 51, "_vectors": { "given": [1] } },
                { "id": 51, "_vectors": { "given": [1, 2, 3] } },
            ]),
        ),
        update(
            "a vector, then more of the document",
            json!([{ "id": 52, "_vectors": { "given": [1, 2, 3] } }, { "id": 52, "year": 1 }]),
        ),
        add(
            "a vector of no embedder",
            json!([{ "id": 53, "_vectors": { "given": null, "none": [1] } }]),
        ),
        add("a document for the next", json!([{ "id": 54, "_vectors": { "given": [1, 2, 3] } }])),
        update("an update of the document before", json!([{ "id": 54, "year": 1 }])),
        settings(
            "quantized",
            json!({ "given": { "source": "userProvided", "dimensions": 3, "binaryQuantized": true } }),
        ),
        given("a vector to be quantized", json!([0.5, -0.5, 0.1])),
        settings("the embedder goes", json!({ "given": null })),
        add("no vector once the embedder is gone", json!([{ "id": 55 }])),
        add(
            "a short vector once the embedder is gone",
            json!([{ "id": 56, "_vectors": { "given": [1] } }]),
        ),
    ]
}
