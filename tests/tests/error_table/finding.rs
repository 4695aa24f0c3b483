//! Bad requests to the routes that find something beside plain searches: values of facets,
//! similar documents, federated hits.

use http::Method;
use serde_json::{Value, json};

use super::{JSON, Refused, request};

/// Everything that both must refuse.
pub fn refused() -> Vec<Refused> {
    let mut table = facet_searches();
    table.extend(similar());
    table.extend(federation());
    table
}

fn posts(path: &str, bodies: &[Value]) -> Vec<Refused> {
    bodies.iter().map(|body| request(Method::POST, path, JSON, body.to_string())).collect()
}

fn facet_searches() -> Vec<Refused> {
    let path = "/indexes/films/facet-search";
    let mut table = posts(
        path,
        &[
            json!({}),
            json!({ "facetName": 1 }),
            json!({ "facetName": "title" }),
            json!({ "facetName": "nope" }),
            json!({ "facetName": "" }),
            json!({ "facetName": "genre", "facetQuery": 1 }),
            json!({ "facetName": "genre", "q": 5 }),
            json!({ "facetName": "genre", "filter": "year = " }),
            json!({ "facetName": "genre", "filter": "title = 1" }),
            json!({ "facetName": "genre", "filter": 12 }),
            json!({ "facetName": "genre", "filter": ["genre = drama", 7] }),
            json!({ "facetName": "genre", "vector": [1.0, 2.0, 3.0] }),
            json!({ "facetName": "genre", "vector": ["a"] }),
            json!({ "facetName": "genre", "vector": [1.0], "hybrid": { "embedder": "given" } }),
            json!({ "facetName": "genre", "q": "a", "hybrid": { "embedder": "nope" } }),
            json!({ "facetName": "genre", "hybrid": {} }),
            json!({ "facetName": "genre", "matchingStrategy": "some" }),
            json!({ "facetName": "genre", "attributesToSearchOn": "title" }),
            json!({ "facetName": "genre", "rankingScoreThreshold": 2.0 }),
            json!({ "facetName": "genre", "locales": ["xyz"] }),
            json!({ "facetName": "genre", "exhaustiveFacetCount": 1 }),
            json!([]),
        ],
    );
    table.push(request(Method::POST, path, JSON, "{\"facetName\": "));
    table.push(request(Method::POST, path, JSON, ""));
    table.push(request(Method::POST, path, None, "{}"));
    table.push(request(Method::GET, path, None, ""));
    let good = json!({ "facetName": "genre" }).to_string();
    table.push(request(Method::POST, "/indexes/nope/facet-search", JSON, good.clone()));
    table.push(request(Method::POST, "/indexes/b%20ad/facet-search", JSON, good));
    table
}

fn similar() -> Vec<Refused> {
    let path = "/indexes/films/similar";
    let mut table = posts(
        path,
        &[
            json!({}),
            json!({ "id": 1 }),
            json!({ "embedder": "given" }),
            json!({ "id": "a b", "embedder": "given" }),
            json!({ "id": 1.5, "embedder": "given" }),
            json!({ "id": ["1"], "embedder": "given" }),
            json!({ "id": 99, "embedder": "given" }),
            json!({ "id": 1, "embedder": "nope" }),
            json!({ "id": 1, "embedder": 3 }),
            json!({ "id": 1, "embedder": "given", "offset": -1 }),
            json!({ "id": 1, "embedder": "given", "limit": "many" }),
            json!({ "id": 1, "embedder": "given", "filter": "year = " }),
            json!({ "id": 1, "embedder": "given", "filter": "title = 1" }),
            json!({ "id": 1, "embedder": "given", "filter": 12 }),
            json!({ "id": 1, "embedder": "given", "attributesToRetrieve": "title" }),
            json!({ "id": 1, "embedder": "given", "retrieveVectors": 1 }),
            json!({ "id": 1, "embedder": "given", "showRankingScore": "yes" }),
            json!({ "id": 1, "embedder": "given", "showRankingScoreDetails": "yes" }),
            json!({ "id": 1, "embedder": "given", "rankingScoreThreshold": 2 }),
            json!({ "id": 1, "embedder": "given", "nonsense": true }),
            json!([]),
        ],
    );
    for query in [
        "",
        "?id=1",
        "?embedder=given",
        "?id=99&embedder=given",
        "?id=a%20b&embedder=given",
        "?id=1&embedder=nope",
        "?id=1&embedder=given&limit=a",
        "?id=1&embedder=given&offset=-1",
        "?id=1&embedder=given&filter=year%20%3D",
        "?id=1&embedder=given&rankingScoreThreshold=3",
        "?id=1&embedder=given&nonsense=1",
    ] {
        table.push(request(Method::GET, &format!("{path}{query}"), None, ""));
    }
    let good = json!({ "id": 1, "embedder": "given" }).to_string();
    table.push(request(Method::POST, path, None, good.clone()));
    table.push(request(Method::PUT, path, JSON, good.clone()));
    table.push(request(Method::POST, "/indexes/nope/similar", JSON, good.clone()));
    table.push(request(Method::POST, "/indexes/b%20ad/similar", JSON, good));
    table
}

fn federation() -> Vec<Refused> {
    let film = || json!({ "indexUid": "films" });
    let with = |more: Value| {
        let mut query = film();
        for (key, value) in more.as_object().into_iter().flatten() {
            query[key] = value.clone();
        }
        query
    };
    let of = |queries: Vec<Value>, federation: Value| json!({ "queries": queries, "federation": federation });
    let both = |one: Value, two: Value| of(vec![with(one), with(two)], json!({}));
    let given = |vector: Value| json!({ "vector": vector, "hybrid": { "embedder": "given" } });
    posts(
        "/multi-search",
        &[
            of(vec![with(json!({ "limit": 1 }))], json!({})),
            of(vec![film(), with(json!({ "page": 1 }))], json!({})),
            of(vec![with(json!({ "facets": ["genre"] }))], json!({})),
            of(vec![with(json!({ "federationOptions": { "remote": "a" } }))], json!({})),
            of(vec![with(json!({ "federationOptions": { "queryPosition": 3 } }))], json!({})),
            of(vec![with(json!({ "federationOptions": { "weight": -1 } }))], json!({})),
            of(vec![with(json!({ "federationOptions": { "weight": "a" } }))], json!({})),
            of(vec![with(json!({ "federationOptions": { "nonsense": 1 } }))], json!({})),
            json!({ "queries": [with(json!({ "federationOptions": {} }))] }),
            of(vec![film(), json!({ "indexUid": "nope" })], json!({})),
            of(vec![json!({ "indexUid": "nope" }), film()], json!({})),
            // The index that comes first by name is looked at first.
            of(
                vec![json!({ "indexUid": "nope" }), with(json!({ "filter": "title = 1" }))],
                json!({}),
            ),
            of(vec![film(), with(json!({ "filter": "title = 1" }))], json!({})),
            of(vec![film(), with(json!({ "filter": "year = " }))], json!({})),
            of(vec![film(), with(json!({ "filter": 12 }))], json!({})),
            of(vec![film(), with(json!({ "sort": ["title:asc"] }))], json!({})),
            of(vec![film(), with(json!({ "sort": ["year"] }))], json!({})),
            of(vec![with(json!({ "distinct": "title" }))], json!({})),
            of(vec![with(given(json!([1.0])))], json!({})),
            of(vec![with(json!({ "vector": [1.0, 2.0, 3.0] }))], json!({})),
            of(vec![with(json!({ "q": "a", "hybrid": { "embedder": "nope" } }))], json!({})),
            both(json!({ "sort": ["year:asc"] }), json!({ "sort": ["year:desc"] })),
            both(json!({ "sort": ["year:asc"] }), json!({ "sort": ["_geoPoint(1, 2):asc"] })),
            both(
                json!({ "sort": ["_geoPoint(1, 2):desc"] }),
                json!({ "sort": ["_geoPoint(1, 2):asc"] }),
            ),
            both(json!({ "sort": ["year:asc"] }), json!({ "q": "m" })),
            both(
                json!({ "q": "m", "sort": ["year:asc"] }),
                json!({ "q": "m", "sort": ["year:desc"] }),
            ),
            both(json!({ "sort": ["year:asc"] }), given(json!([1.0, 2.0, 3.0]))),
            of(vec![film()], json!({ "facetsByIndex": { "films": ["title"] } })),
            of(vec![film()], json!({ "facetsByIndex": { "films": ["genre", "title", "nope"] } })),
            of(vec![film()], json!({ "facetsByIndex": { "films": "genre" } })),
            of(vec![film()], json!({ "facetsByIndex": { "b ad": ["genre"] } })),
            of(vec![film()], json!({ "facetsByIndex": { "nope": ["genre"] } })),
            of(vec![], json!({ "facetsByIndex": { "films": ["title"] } })),
            of(vec![film()], json!({ "facetsByIndex": [] })),
            of(vec![film()], json!({ "mergeFacets": 1 })),
            of(vec![film()], json!({ "mergeFacets": { "maxValuesPerFacet": "a" } })),
            of(vec![film()], json!({ "mergeFacets": { "nonsense": 1 } })),
            of(vec![film()], json!({ "limit": -1 })),
            of(vec![film()], json!({ "offset": "a" })),
            of(vec![film()], json!({ "page": -1 })),
            of(vec![film()], json!({ "hitsPerPage": "a" })),
            of(vec![film()], json!({ "nonsense": 1 })),
            of(vec![film()], json!(3)),
        ],
    )
}
