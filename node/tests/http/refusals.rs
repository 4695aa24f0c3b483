//! Bad requests: status, code and text of each, as Meilisearch 1.15.1 answers them.

use bytes::Bytes;
use serde_json::json;

use crate::client::TestNode;

const JSON: (&str, &str) = ("content-type", "application/json");

struct Case {
    method: &'static str,
    path: &'static str,
    headers: &'static [(&'static str, &'static str)],
    body: &'static str,
    status: u16,
    code: &'static str,
    message: &'static str,
}

const fn case(
    method: &'static str,
    path: &'static str,
    body: &'static str,
    (status, code): (u16, &'static str),
    message: &'static str,
) -> Case {
    Case { method, path, headers: &[JSON], body, status, code, message }
}

const CASES: &[Case] = &[
    case("GET", "/indexes/none", "", (404, "index_not_found"), "Index `none` not found."),
    case("POST", "/indexes/none/search", "{}", (404, "index_not_found"), "Index `none` not found."),
    case("GET", "/indexes/none/settings", "", (404, "index_not_found"), "Index `none` not found."),
    case(
        "GET",
        "/indexes/films/documents/9",
        "",
        (404, "document_not_found"),
        "Document `9` not found.",
    ),
    case("GET", "/tasks/9999", "", (404, "task_not_found"), "Task `9999` not found."),
    case(
        "GET",
        "/tasks/x",
        "",
        (400, "invalid_task_uids"),
        "Task uid `x` is invalid. It should only contain numeric characters.",
    ),
    case(
        "GET",
        "/indexes/a%20b",
        "",
        (400, "invalid_index_uid"),
        "`a b` is not a valid index uid. Index uid can be an integer or a string containing only alphanumeric characters, hyphens (-) and underscores (_), and can not be more than 512 bytes.",
    ),
    case(
        "POST",
        "/indexes/films/search",
        "",
        (400, "missing_payload"),
        "A json payload is missing.",
    ),
    case(
        "POST",
        "/indexes/films/search",
        "{",
        (400, "malformed_payload"),
        "The json payload provided is malformed. `EOF while parsing an object at line 1 column 1`.",
    ),
    case(
        "POST",
        "/indexes/films/search",
        r#"{"q":1}"#,
        (400, "invalid_search_q"),
        "Invalid value type at `.q`: expected a string, but found a positive integer: `1`",
    ),
    case(
        "GET",
        "/indexes/films/search?limit=x",
        "",
        (400, "invalid_search_limit"),
        "Invalid value in parameter `limit`: could not parse `x` as a positive integer",
    ),
    case(
        "POST",
        "/indexes/films/search",
        r#"{"filter":"year >"}"#,
        (400, "invalid_search_filter"),
        "Was expecting a value but instead got nothing.\n7:7 year >",
    ),
    case(
        "POST",
        "/indexes/films/search",
        r#"{"filter":"title = x"}"#,
        (400, "invalid_search_filter"),
        "Index `films`: Attribute `title` is not filterable. Available filterable attribute patterns are: `year`.\n1:6 title = x",
    ),
    case(
        "POST",
        "/indexes/films/search",
        r#"{"sort":["title:asc"]}"#,
        (400, "invalid_search_sort"),
        "Index `films`: Attribute `title` is not sortable. This index does not have configured sortable attributes.",
    ),
    case(
        "POST",
        "/indexes/films/search",
        r#"{"sort":["title"]}"#,
        (400, "invalid_search_sort"),
        "Invalid syntax for the sort parameter: expected expression ending by `:asc` or `:desc`, found `title`.",
    ),
    case(
        "POST",
        "/indexes/films/search",
        r#"{"facets":["title"]}"#,
        (400, "invalid_search_facets"),
        "Invalid facet distribution: Attribute `title` is not filterable. Available filterable attributes patterns are: `year`.",
    ),
    case(
        "POST",
        "/indexes/films/search",
        r#"{"distinct":"title"}"#,
        (400, "invalid_search_distinct"),
        "Index `films`: Attribute `title` is not filterable and thus, cannot be used as distinct attribute. Available filterable attributes patterns are: `year`.",
    ),
    case(
        "POST",
        "/indexes/films/search",
        r#"{"filter":"year CONTAINS 1"}"#,
        (400, "feature_not_enabled"),
        "Using `CONTAINS` or `STARTS WITH` in a filter requires enabling the `contains filter` experimental feature. See https://github.com/orgs/meilisearch/discussions/763\n6:14 year CONTAINS 1",
    ),
    case(
        "POST",
        "/multi-search",
        r#"{"queries":[{"indexUid":"none"}]}"#,
        (400, "index_not_found"),
        "Inside `.queries[0]`: Index `none` not found.",
    ),
    case(
        "POST",
        "/multi-search",
        r#"{"queries":[{"indexUid":"films","federationOptions":{}}]}"#,
        (400, "invalid_multi_search_federation_options"),
        "Inside `.queries[0]`: Using `federationOptions` is not allowed in a non-federated search.\n - Hint: remove `federationOptions` from query #0 or add `federation` to the request.",
    ),
    case(
        "POST",
        "/multi-search",
        r#"{"federation":{},"queries":[{"indexUid":"films"},{"indexUid":"nothing"}]}"#,
        (400, "index_not_found"),
        "Inside `.queries[1]`: Index `nothing` not found.",
    ),
    case(
        "POST",
        "/indexes/films/facet-search",
        r#"{"facetName":"title"}"#,
        (400, "invalid_facet_search_facet_name"),
        "Attribute `title` is not facet-searchable. Available facet-searchable attributes patterns are: `year`. To make it facet-searchable add it to the `filterableAttributes` index settings.",
    ),
    case(
        "POST",
        "/indexes/films/similar",
        r#"{"id":1,"embedder":"nothing"}"#,
        (400, "invalid_similar_embedder"),
        "Cannot find embedder with name `nothing`.",
    ),
    case(
        "PATCH",
        "/experimental-features",
        r#"{"network":true}"#,
        (501, "miroir_not_supported"),
        "The embedded node does not support the experimental feature `network`. Use a Meilisearch server for it.",
    ),
    case(
        "PATCH",
        "/experimental-features",
        r#"{"containFilter":true}"#,
        (400, "bad_request"),
        "Unknown field `containFilter`: did you mean `containsFilter`? expected one of `metrics`, `logsRoute`, `editDocumentsByFunction`, `containsFilter`, `network`, `getTaskDocumentsRoute`, `compositeEmbedders`, `chatCompletions`",
    ),
    case(
        "POST",
        "/indexes/films/documents/delete",
        r#"{"filter":"year ="}"#,
        (400, "invalid_document_filter"),
        "Was expecting a value but instead got nothing.\n7:7 year =",
    ),
    case(
        "POST",
        "/indexes/films/documents/delete",
        r#"{"filter":[[]]}"#,
        (400, "invalid_document_filter"),
        "Sending an empty filter is forbidden.",
    ),
    case(
        "POST",
        "/indexes/films/documents",
        "",
        (400, "missing_payload"),
        "A json payload is missing.",
    ),
    case(
        "POST",
        "/indexes/films/documents?primarykey=id",
        "[]",
        (400, "bad_request"),
        "Unknown parameter `primarykey`: did you mean `primaryKey`? expected one of `primaryKey`, `csvDelimiter`",
    ),
    case(
        "POST",
        "/tasks/cancel",
        "",
        (400, "missing_task_filters"),
        "Query parameters to filter the tasks to cancel are missing. Available query parameters are: `uids`, `indexUids`, `statuses`, `types`, `canceledBy`, `beforeEnqueuedAt`, `afterEnqueuedAt`, `beforeStartedAt`, `afterStartedAt`, `beforeFinishedAt`, `afterFinishedAt`.",
    ),
    Case {
        method: "POST",
        path: "/indexes/films/documents",
        headers: &[("content-type", "text/plain")],
        body: "[]",
        status: 415,
        code: "invalid_content_type",
        message: "The Content-Type `text/plain` is invalid. Accepted values for the Content-Type header are: `application/json`, `application/x-ndjson`, `text/csv`",
    },
    Case {
        method: "POST",
        path: "/indexes/films/documents",
        headers: &[],
        body: "[]",
        status: 415,
        code: "missing_content_type",
        message: "A Content-Type header is missing. Accepted values for the Content-Type header are: `application/json`, `application/x-ndjson`, `text/csv`",
    },
    Case {
        method: "POST",
        path: "/indexes/films/search",
        headers: &[("content-type", "text/plain")],
        body: "{}",
        status: 415,
        code: "invalid_content_type",
        message: "The Content-Type `text/plain` is invalid. Accepted values for the Content-Type header are: `application/json`",
    },
    Case {
        method: "POST",
        path: "/indexes/films/search",
        headers: &[],
        body: "{}",
        status: 415,
        code: "missing_content_type",
        message: "A Content-Type header is missing. Accepted values for the Content-Type header are: `application/json`",
    },
    Case {
        method: "POST",
        path: "/indexes/films/documents",
        headers: &[JSON, ("content-encoding", "gzip")],
        body: "[]",
        status: 400,
        code: "bad_request",
        message: "The provided payload is incomplete and cannot be parsed",
    },
];

async fn films() -> TestNode {
    let node = TestNode::start().await;
    node.succeed("PATCH", "/indexes/films/settings", json!({"filterableAttributes": ["year"]}))
        .await;
    node.succeed("POST", "/indexes/films/documents", json!([{"id": 1, "title": "a", "year": 1}]))
        .await;
    node
}

#[tokio::test]
async fn bad_requests_are_refused_in_meilisearchs_words() {
    let node = films().await;
    let mut wrong = Vec::new();
    for case in CASES {
        let reply = node.send(case.method, case.path, case.headers, case.body).await;
        let same = reply.status == case.status
            && reply.body["code"] == case.code
            && reply.body["message"] == case.message
            && reply.body["link"] == format!("https://docs.meilisearch.com/errors#{}", case.code);
        if !same {
            let Case { method, path, body, .. } = case;
            wrong.push(format!("{method} {path} {body}: {} {}", reply.status, reply.body));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn without_the_key_only_health_is_open() {
    let node = TestNode::start().await;
    let cases = [
        ("/version", None, 401, "missing_authorization_header"),
        ("/version", Some("Basic x"), 401, "missing_authorization_header"),
        ("/version", Some("Bearer wrong"), 403, "invalid_api_key"),
        ("/keys", None, 401, "missing_authorization_header"),
    ];
    for (path, authorization, status, code) in cases {
        let headers: Vec<_> =
            authorization.map(|value| ("authorization", value)).into_iter().collect();
        let reply = node.send_bare("GET", path, &headers, "").await;
        assert_eq!((reply.status.as_u16(), reply.body["code"].as_str()), (status, Some(code)));
        assert_eq!(reply.body["type"], "auth");
    }
    assert_eq!(
        node.send_bare("GET", "/health", &[], "").await.body,
        json!({"status": "available"})
    );
    assert_eq!(node.get("/version").await.body["pkgVersion"], "1.15.1");
}

#[tokio::test]
async fn unknown_paths_and_wrong_methods_have_empty_answers() {
    let node = TestNode::start().await;
    let cases = [
        ("GET", "/nothing", 404),
        ("GET", "/indexes/films/nothing", 404),
        ("PUT", "/indexes/films/settings", 405),
        ("POST", "/health", 405),
        ("HEAD", "/health", 405),
    ];
    for (method, path, status) in cases {
        let reply = node.send_bare(method, path, &[], "").await;
        assert_eq!((reply.status.as_u16(), reply.body), (status, json!(null)), "{method} {path}");
    }
}

#[tokio::test]
async fn too_large_payloads_are_refused_without_being_read() {
    let node = TestNode::start().await;
    let large = Bytes::from(vec![b' '; 100_000_001]);
    let reply = node.send("POST", "/indexes/films/documents", &[JSON], large).await;
    assert_eq!((reply.status.as_u16(), &reply.body["code"]), (413, &json!("payload_too_large")));
}
