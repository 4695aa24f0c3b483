//! The table of bad requests, and of bad writes that are accepted.

mod finding;
mod keys;
mod vectors;

use http::Method;
use serde_json::{Value, json};

pub use vectors::{failing_vectors, good_vectors};

/// Which key a request carries.
#[derive(Clone, Copy, Debug)]
pub enum Key {
    /// The master key.
    Right,
    /// None.
    Missing,
    /// Some other.
    Wrong,
}

/// A request that is refused at once.
#[derive(Clone, Debug)]
pub struct Refused {
    /// For the report.
    pub name: String,
    /// Method.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// `Content-Type`, if any.
    pub content_type: Option<&'static str>,
    /// Body.
    pub body: Vec<u8>,
    /// Key.
    pub key: Key,
}

/// A write that is accepted and whose task fails.
#[derive(Clone, Debug)]
pub struct Failing {
    /// For the report.
    pub name: &'static str,
    /// Method.
    pub method: Method,
    /// Path.
    pub path: String,
    /// Body.
    pub body: Option<Value>,
}

const JSON: Option<&str> = Some("application/json");
const NDJSON: Option<&str> = Some("application/x-ndjson");
const CSV: Option<&str> = Some("text/csv");

fn request(
    method: Method,
    path: &str,
    content_type: Option<&'static str>,
    body: impl Into<Vec<u8>>,
) -> Refused {
    let body = body.into();
    let shown: String = String::from_utf8_lossy(&body).chars().take(70).collect();
    Refused {
        name: format!("{method} {path} {content_type:?} {shown}"),
        method,
        path: path.to_owned(),
        content_type,
        body,
        key: Key::Right,
    }
}

/// Everything that both must refuse.
pub fn refused() -> Vec<Refused> {
    let mut table = payloads();
    table.extend(searches());
    table.extend(finding::refused());
    table.extend(settings());
    table.extend(indexes_and_documents());
    table.extend(tasks_and_keys());
    table.extend(keys::refused());
    table
}

fn payloads() -> Vec<Refused> {
    let documents = "/indexes/films/documents";
    let mut table: Vec<Refused> = [
        (JSON, "[{\"id\": 1,}]"),
        (JSON, "[{\"id\": 1}"),
        (JSON, "{\"id\": 1"),
        (JSON, "[1, 2]"),
        (JSON, "\"text\""),
        (JSON, ""),
        (NDJSON, "{\"id\": 1}\n{\"id\": "),
        (NDJSON, "{\"id\": 1}\n[2]\n"),
        (NDJSON, ""),
        (CSV, "id,title\n1,a,b\n"),
        (CSV, "id:number,title\nx,a\n"),
        (CSV, ""),
        (None, "[{\"id\": 1}]"),
        (Some("text/plain"), "[{\"id\": 1}]"),
        (Some("application/xml"), "<id>1</id>"),
        (Some("application/json; charset=latin1; x"), "[{\"id\": }]"),
    ]
    .into_iter()
    .map(|(kind, body)| request(Method::POST, documents, kind, body))
    .collect();
    table.push(request(Method::POST, documents, JSON, vec![b'[', b'"', 0xff, 0xfe, b'"', b']']));
    for query in ["csvDelimiter=ab", "csvDelimiter=", "csvDelimiter=%C3%A9", "nonsense=1"] {
        table.push(request(Method::POST, &format!("{documents}?{query}"), CSV, "id\n1\n"));
    }
    let delimited = format!("{documents}?csvDelimiter=;");
    table.push(request(Method::POST, &delimited, JSON, "[{\"id\": 1}]"));
    table.push(request(Method::PUT, documents, JSON, "[{\"id\": 1}, nul]"));
    table
}

fn searches() -> Vec<Refused> {
    let search = "/indexes/films/search";
    let bodies = [
        json!({ "filter": "year = " }),
        json!({ "filter": "year == 3" }),
        json!({ "filter": "title = M" }),
        json!({ "filter": "(genre = drama" }),
        json!({ "filter": "genre = drama AND" }),
        json!({ "filter": "genre = 'drama" }),
        json!({ "filter": "year > drama AND nope = 1" }),
        json!({ "filter": "_geo = 1" }),
        json!({ "filter": "_geoRadius(1, 2)" }),
        json!({ "filter": "_geoRadius(100, 2, 3)" }),
        json!({ "filter": "_geoBoundingBox([1, 2], [3])" }),
        json!({ "filter": "_geoBoundingBox([1, 2], [3, 4])" }),
        json!({ "filter": "_geoPoint(1, 2)" }),
        json!({ "filter": ["genre = drama", ["year = ", "year = 3"]] }),
        json!({ "filter": ["genre = drama", 7] }),
        json!({ "filter": { "genre": "drama" } }),
        json!({ "filter": 12 }),
        json!({ "filter": [[["too deep"]]] }),
        json!({ "sort": ["title:asc"] }),
        json!({ "sort": ["year"] }),
        json!({ "sort": ["year:up"] }),
        json!({ "sort": "year:asc" }),
        json!({ "sort": ["_geoPoint(1):asc"] }),
        json!({ "sort": ["_geoPoint(200, 2):asc"] }),
        json!({ "sort": ["_geoRadius(1, 2, 3):asc"] }),
        json!({ "sort": ["_geo:asc"] }),
        json!({ "facets": ["title"] }),
        json!({ "facets": ["title", "nope"] }),
        json!({ "facets": "genre" }),
        json!({ "distinct": "title" }),
        json!({ "distinct": 4 }),
        json!({ "q": 5 }),
        json!({ "q": ["a"] }),
        json!({ "offset": -1 }),
        json!({ "limit": "many" }),
        json!({ "limit": 1.5 }),
        json!({ "page": -1 }),
        json!({ "hitsPerPage": "a" }),
        json!({ "attributesToRetrieve": "title" }),
        json!({ "attributesToSearchOn": "title" }),
        json!({ "attributesToHighlight": "title" }),
        json!({ "attributesToCrop": 3 }),
        json!({ "cropLength": "long" }),
        json!({ "cropMarker": 1 }),
        json!({ "highlightPreTag": 1 }),
        json!({ "matchingStrategy": "some" }),
        json!({ "rankingScoreThreshold": 2.0 }),
        json!({ "rankingScoreThreshold": "high" }),
        json!({ "showRankingScore": "yes" }),
        json!({ "showMatchesPosition": 1 }),
        json!({ "vector": [1.0, 2.0, 3.0] }),
        json!({ "vector": ["a"], "hybrid": { "embedder": "given" } }),
        json!({ "vector": [1.0], "hybrid": { "embedder": "given" } }),
        json!({ "vector": [1.0, 2.0, 3.0], "hybrid": { "embedder": "nope" } }),
        json!({ "vector": [1.0, 2.0, 3.0], "hybrid": { "embedder": "given", "semanticRatio": 2 } }),
        json!({ "q": "a", "hybrid": { "embedder": "given", "semanticRatio": 1.0 } }),
        json!({ "hybrid": {} }),
        json!({ "hybrid": 1 }),
        json!({ "locales": ["xyz"] }),
        json!({ "nonsense": true }),
        json!({ "atributesToRetrieve": ["title"] }),
        json!([]),
        json!("q"),
    ];
    let mut table: Vec<Refused> =
        bodies.iter().map(|body| request(Method::POST, search, JSON, body.to_string())).collect();
    table.push(request(Method::POST, search, JSON, "{\"q\": "));
    table.push(request(Method::POST, search, JSON, ""));
    table.push(request(Method::POST, search, Some("text/plain"), "{}"));
    table.push(request(Method::POST, search, None, "{}"));
    table.push(request(Method::POST, "/indexes/nope/search", JSON, "{}"));
    table.push(request(Method::POST, "/indexes/b%20ad/search", JSON, "{}"));
    for query in [
        "limit=a",
        "offset=-1",
        "page=x",
        "filter=year%20%3D",
        "sort=title:asc",
        "facets=title",
        "matchingStrategy=some",
        "showRankingScore=yes",
        "nonsense=1",
        "vector=a",
        "rankingScoreThreshold=3",
    ] {
        table.push(request(Method::GET, &format!("{search}?{query}"), None, ""));
    }
    let batches = [
        json!({ "queries": [{ "q": "a" }] }),
        json!({ "queries": [{ "indexUid": "films" }, { "indexUid": "nope" }] }),
        json!({ "queries": [{ "indexUid": "films", "filter": "title = 1" }] }),
        json!({ "queries": [{ "indexUid": "films" }, { "indexUid": "films", "limit": -1 }] }),
        json!({ "queries": [{ "indexUid": "b ad" }] }),
        json!({ "queries": {} }),
        json!({}),
        json!({ "queries": [], "nonsense": 1 }),
    ];
    table.extend(
        batches.iter().map(|body| request(Method::POST, "/multi-search", JSON, body.to_string())),
    );
    table
}

fn settings() -> Vec<Refused> {
    let wrong = [
        ("rankingRules", json!(["nonsense"])),
        ("rankingRules", json!("words")),
        ("rankingRules", json!(["year:up"])),
        ("rankingRules", json!(["_geoPoint(1, 2):asc"])),
        ("distinctAttribute", json!(["id"])),
        ("searchableAttributes", json!("title")),
        ("displayedAttributes", json!({ "a": 1 })),
        ("filterableAttributes", json!("genre")),
        ("filterableAttributes", json!([{ "attributePatterns": "genre" }])),
        ("filterableAttributes", json!([{ "features": {} }])),
        ("sortableAttributes", json!([1])),
        ("stopWords", json!("the")),
        ("synonyms", json!(["a"])),
        ("synonyms", json!({ "a": "b" })),
        ("typoTolerance", json!({ "enabled": "yes" })),
        ("typoTolerance", json!({ "minWordSizeForTypos": { "oneTypo": 300 } })),
        ("typoTolerance", json!({ "minWordSizeForTypos": { "oneTypo": 9, "twoTypos": 4 } })),
        ("typoTolerance", json!({ "nonsense": 1 })),
        ("pagination", json!({ "maxTotalHits": -1 })),
        ("pagination", json!({ "nonsense": 1 })),
        ("faceting", json!({ "maxValuesPerFacet": "many" })),
        ("faceting", json!({ "sortFacetValuesBy": { "*": "size" } })),
        ("separatorTokens", json!("|")),
        ("nonSeparatorTokens", json!(3)),
        ("dictionary", json!({ "a": 1 })),
        ("proximityPrecision", json!("byLetter")),
        ("searchCutoffMs", json!("soon")),
        ("prefixSearch", json!("sometimes")),
        ("facetSearch", json!("yes")),
        ("localizedAttributes", json!([{ "attributePatterns": ["a"], "locales": ["xyz"] }])),
        ("embedders", json!({ "a": { "source": "nonsense" } })),
        ("embedders", json!({ "a": { "source": "userProvided" } })),
        ("embedders", json!({ "a": { "source": "userProvided", "dimensions": 0 } })),
        ("embedders", json!({ "a": { "source": "userProvided", "dimensions": 2, "model": "x" } })),
        ("embedders", json!(["a"])),
    ];
    let mut table = Vec::new();
    for (name, value) in &wrong {
        let whole = json!({ *name: value }).to_string();
        table.push(request(Method::PATCH, "/indexes/films/settings", JSON, whole));
    }
    for (route, method, body) in [
        ("ranking-rules", Method::PUT, "[\"nonsense\"]"),
        ("ranking-rules", Method::PUT, "3"),
        ("distinct-attribute", Method::PUT, "[]"),
        ("searchable-attributes", Method::PUT, "\"a\""),
        ("displayed-attributes", Method::PUT, "{}"),
        ("filterable-attributes", Method::PUT, "\"a\""),
        ("sortable-attributes", Method::PUT, "[3]"),
        ("stop-words", Method::PUT, "\"a\""),
        ("synonyms", Method::PUT, "[]"),
        ("typo-tolerance", Method::PATCH, "{\"enabled\": 1}"),
        ("pagination", Method::PATCH, "{\"maxTotalHits\": \"a\"}"),
        ("faceting", Method::PATCH, "{\"a\": 1}"),
        ("proximity-precision", Method::PUT, "\"a\""),
        ("search-cutoff-ms", Method::PUT, "-4"),
        ("embedders", Method::PATCH, "{\"a\": 1}"),
        ("prefix-search", Method::PUT, "\"a\""),
        ("facet-search", Method::PUT, "\"a\""),
        ("localized-attributes", Method::PUT, "{}"),
        ("dictionary", Method::PUT, "{}"),
        ("separator-tokens", Method::PUT, "{}"),
        ("non-separator-tokens", Method::PUT, "{}"),
        ("ranking-rules", Method::PUT, "[\"wo"),
        ("nonsense", Method::PUT, "[]"),
    ] {
        table.push(request(method, &format!("/indexes/films/settings/{route}"), JSON, body));
    }
    table.push(request(Method::PATCH, "/indexes/films/settings", JSON, "{\"nonsense\": 1}"));
    table.push(request(Method::PATCH, "/indexes/films/settings", JSON, "{\"a\": "));
    table.push(request(Method::PATCH, "/indexes/films/settings", Some("text/plain"), "{}"));
    table.push(request(Method::PATCH, "/indexes/b%20ad/settings", JSON, "{}"));
    table.push(request(Method::GET, "/indexes/nope/settings", None, ""));
    table.push(request(Method::GET, "/indexes/nope/settings/ranking-rules", None, ""));
    table
}

fn indexes_and_documents() -> Vec<Refused> {
    let mut table = vec![
        request(Method::GET, "/indexes/nope", None, ""),
        request(Method::GET, "/indexes/b%20ad", None, ""),
        request(Method::GET, "/indexes?limit=a", None, ""),
        request(Method::GET, "/indexes/nope/stats", None, ""),
        request(Method::POST, "/indexes/b%20ad/documents", JSON, "[{\"id\": 1}]"),
        request(Method::GET, "/indexes/nope/documents", None, ""),
        request(Method::GET, "/indexes/films/documents/99", None, ""),
        request(Method::GET, "/indexes/nope/documents/1", None, ""),
        request(Method::GET, "/indexes/films/documents?limit=a", None, ""),
        request(Method::GET, "/indexes/films/documents?nonsense=1", None, ""),
        request(Method::GET, "/indexes/films/documents?filter=title%20%3D%201", None, ""),
        request(Method::GET, "/indexes/films/documents/1?retrieveVectors=maybe", None, ""),
        request(Method::DELETE, "/indexes/b%20ad", None, ""),
        request(Method::DELETE, "/indexes/b%20ad/documents/1", None, ""),
        request(Method::GET, "/nonsense", None, ""),
        request(Method::POST, "/nonsense", JSON, "{}"),
    ];
    for body in [
        json!({}),
        json!({ "uid": "b ad" }),
        json!({ "uid": 3 }),
        json!({ "uid": "a", "nonsense": 1 }),
        json!({ "uid": "a", "primaryKey": 3 }),
        json!({ "uid": "é" }),
        json!({ "uid": "a".repeat(600) }),
        json!([]),
    ] {
        table.push(request(Method::POST, "/indexes", JSON, body.to_string()));
    }
    for body in [
        json!({ "uid": "b ad" }),
        json!({ "uid": 3 }),
        json!({ "primaryKey": 2 }),
        json!({ "createdAt": "x" }),
        json!({ "updatedAt": "x" }),
    ] {
        table.push(request(Method::PATCH, "/indexes/films", JSON, body.to_string()));
    }
    for body in [
        json!({ "filter": "title = 1" }),
        json!({ "filter": "year = " }),
        json!({ "limit": -1 }),
        json!({ "fields": 3 }),
        json!({ "nonsense": 1 }),
        json!({ "ids": 3 }),
        json!({ "sort": 3 }),
        json!({ "sort": ["title"] }),
        json!({ "sort": ["nope:asc"] }),
        json!({ "sort": ["_geo:asc"] }),
        json!({ "sort": ["_geoPoint(91, 1):asc"] }),
        json!({ "sort": ["_geoPoint(1, 181):asc"] }),
    ] {
        let fetch = "/indexes/films/documents/fetch";
        table.push(request(Method::POST, fetch, JSON, body.to_string()));
    }
    for body in [json!({}), json!({ "filter": 3 }), json!({ "filter": "year = " }), json!([])] {
        let delete = "/indexes/films/documents/delete";
        table.push(request(Method::POST, delete, JSON, body.to_string()));
    }
    for body in
        ["{}", "[1", r#"{"function":3}"#, r#"{"functions":"1"}"#, r#"{"function":"doc.n = 1"}"#]
    {
        table.push(request(Method::POST, "/indexes/films/documents/edit", JSON, body));
    }
    for body in ["{}", "[1", "3"] {
        table.push(request(Method::POST, "/indexes/films/documents/delete-batch", JSON, body));
    }
    for body in [
        json!([{ "indexes": ["films"] }]),
        json!([{ "indexes": ["films", "films"] }]),
        json!([{ "indexes": ["films", "b ad"] }]),
        json!([{ "indexes": ["a", "b", "c"] }]),
        json!([{ "indexes": ["a", "b"] }, { "indexes": ["b", "c"] }]),
        json!([{ "indexes": ["a", "b"], "rename": 1 }]),
        json!([{ "nonsense": 1 }]),
        json!({}),
    ] {
        table.push(request(Method::POST, "/swap-indexes", JSON, body.to_string()));
    }
    table
}

fn tasks_and_keys() -> Vec<Refused> {
    let mut table: Vec<Refused> = [
        "/tasks/999999",
        "/tasks/abc",
        "/tasks?limit=a",
        "/tasks?statuses=nonsense",
        "/tasks?types=nonsense",
        "/tasks?uids=a",
        "/tasks?indexUids=b%20ad",
        "/tasks?nonsense=1",
        "/tasks?afterEnqueuedAt=yesterday",
        "/tasks?canceledBy=x",
        "/tasks?reverse=maybe",
    ]
    .into_iter()
    .map(|path| request(Method::GET, path, None, ""))
    .collect();
    table.push(request(Method::POST, "/tasks/cancel", None, ""));
    table.push(request(Method::POST, "/tasks/cancel?nonsense=1", None, ""));
    table.push(request(Method::POST, "/tasks/cancel?statuses=x", None, ""));
    table.push(request(Method::DELETE, "/tasks", None, ""));
    table.push(request(Method::DELETE, "/tasks?uids=x", None, ""));
    for key in [Key::Missing, Key::Wrong] {
        for (method, path) in [
            (Method::GET, "/indexes"),
            (Method::GET, "/tasks"),
            (Method::GET, "/version"),
            (Method::GET, "/stats"),
            (Method::GET, "/keys"),
            (Method::POST, "/indexes/films/search"),
            (Method::POST, "/indexes/nope/search"),
            (Method::POST, "/indexes/films/documents"),
            (Method::PATCH, "/indexes/films/settings"),
            (Method::POST, "/multi-search"),
            (Method::POST, "/swap-indexes"),
            (Method::DELETE, "/indexes/films"),
        ] {
            let body = if method == Method::GET { "" } else { "{}" };
            let mut bad = request(method, path, JSON, body);
            bad.name = format!("{} with key {key:?}", bad.name);
            bad.key = key;
            table.push(bad);
        }
    }
    table
}

/// Writes whose tasks fail, each on an index of its own or on `films`.
pub fn failing_tasks() -> Vec<Failing> {
    let add = |name, index: &str, body: Value| Failing {
        name,
        method: Method::POST,
        path: format!("/indexes/{index}/documents"),
        body: Some(body),
    };
    let films = "films";
    let mut table = vec![
        add("no candidate for the primary key", "none", json!([{ "title": "a" }])),
        add("two candidates", "two", json!([{ "uid": 1, "film_id": 2 }])),
        add("missing id", films, json!([{ "id": 10 }, { "title": "a" }])),
        add("id with a space", films, json!([{ "id": "a b" }])),
        add("id of another type", films, json!([{ "id": [1] }])),
        add("id null", films, json!([{ "id": null }])),
        add("id a float", films, json!([{ "id": 1.5 }])),
        add("id too long", films, json!([{ "id": "a".repeat(600) }])),
        add("geo not an object", films, json!([{ "id": 20, "_geo": "here" }])),
        add("geo without lng", films, json!([{ "id": 21, "_geo": { "lat": 1 } }])),
        add("geo with text", films, json!([{ "id": 22, "_geo": { "lat": "x", "lng": "y" } }])),
        add("vector too short", films, json!([{ "id": 23, "_vectors": { "given": [1.0] } }])),
        add("vector missing", films, json!([{ "id": 24, "title": "no vector" }])),
        add("vectors not an object", films, json!([{ "id": 25, "_vectors": 3 }])),
    ];
    let mut other_key = add("another primary key", films, json!([{ "isbn": 1, "id": 30 }]));
    other_key.path = "/indexes/films/documents?primaryKey=isbn".to_owned();
    table.push(other_key);
    for (name, method, path, body) in [
        ("index exists", Method::POST, "/indexes", Some(json!({ "uid": "films" }))),
        ("deleting an unknown index", Method::DELETE, "/indexes/nope", None),
        (
            "updating an unknown index",
            Method::PATCH,
            "/indexes/nope",
            Some(json!({ "primaryKey": "a" })),
        ),
        (
            "changing the primary key",
            Method::PATCH,
            "/indexes/films",
            Some(json!({ "primaryKey": "title" })),
        ),
        ("deleting from an unknown index", Method::DELETE, "/indexes/nope/documents/1", None),
        ("clearing an unknown index", Method::DELETE, "/indexes/nope/documents", None),
        (
            "deleting by a bad filter",
            Method::POST,
            "/indexes/films/documents/delete",
            Some(json!({ "filter": "title = 1" })),
        ),
        (
            "swapping unknown indexes",
            Method::POST,
            "/swap-indexes",
            Some(json!([{ "indexes": ["films", "nope"] }])),
        ),
        (
            "swapping two unknown indexes",
            Method::POST,
            "/swap-indexes",
            Some(json!([{ "indexes": ["nope", "neither"] }])),
        ),
        (
            "renaming an unknown index",
            Method::PATCH,
            "/indexes/nope",
            Some(json!({ "uid": "neither" })),
        ),
        (
            "renaming an unknown index by a swap",
            Method::POST,
            "/swap-indexes",
            Some(json!([{ "indexes": ["nope", "neither"], "rename": true }])),
        ),
    ] {
        table.push(Failing { name, method, path: path.to_owned(), body });
    }
    table
}
