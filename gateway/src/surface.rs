//! The surface of the public API: every route with its parameters, as the OpenAPI document
//! (`GET /openapi.json`) and the table of `docs/compatibility.md` show it.
//!
//! Names of parameters are not written down here: the parsers are asked what they take, by what
//! they answer to a name that nobody has. What a route needs and whether it is there at all is
//! asked of the router.

use std::sync::LazyLock;

use http::Method;
use miroir_wire::documents_query::{
    AddDocuments, BrowseQuery, DeleteByFilter, EditByFunction, GetDocument,
};
use miroir_wire::error::ApiError;
use miroir_wire::features::FeaturesPatch;
use miroir_wire::index::{CreateIndex, Page, UpdateIndex, swaps_from_json};
use miroir_wire::keys::{CreateKey, PatchKey, page_from_query_string};
use miroir_wire::search::{MultiSearchQuery, SearchQuery, SimilarQuery};
use miroir_wire::settings::{SUB_ROUTES, Settings};
use miroir_wire::tasks::{TaskFilter, TaskSelection};
use miroir_wire::webhooks::WebhookPatch;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use crate::auth::Right;
use crate::router::{Route, route};

/// What a parser answers to a query string or a body.
type Parse = fn(&str) -> Option<ApiError>;

/// One method of one path.
#[derive(Clone, Copy, Debug)]
pub struct Operation {
    /// HTTP method.
    pub method: &'static str,
    /// Path, with `{names}`.
    pub path: &'static str,
    /// What it does.
    pub does: &'static str,
    /// Who reads its query string.
    query: Option<Parse>,
    /// Who reads its JSON body.
    body: Option<Parse>,
    /// Which tests exercise it; see `docs/compatibility.md` for where they are.
    pub tests: &'static str,
}

/// Shorthand for the table below.
const fn op(
    method: &'static str,
    path: &'static str,
    does: &'static str,
    query: Option<Parse>,
    body: Option<Parse>,
    tests: &'static str,
) -> Operation {
    Operation { method, path, does, query, body, tests }
}

const SEARCH: Parse = |text| SearchQuery::from_json(text.as_bytes()).err();
const SEARCH_URL: Parse = |text| SearchQuery::from_query_string(text).err();
const SIMILAR: Parse = |text| SimilarQuery::from_json(text.as_bytes()).err();
const SIMILAR_URL: Parse = |text| SimilarQuery::from_query_string(text).err();
const MULTI_SEARCH: Parse = |text| MultiSearchQuery::from_json(text.as_bytes()).err();
const BROWSE: Parse = |text| BrowseQuery::from_json(text.as_bytes()).err();
const BROWSE_URL: Parse = |text| BrowseQuery::from_query_string(text).err();
const GET_DOCUMENT: Parse = |text| GetDocument::from_query_string(text).err();
const ADD_DOCUMENTS: Parse = |text| AddDocuments::from_query_string(text).err();
const DELETE_BY_FILTER: Parse = |text| DeleteByFilter::from_json(text.as_bytes()).err();
const EDIT: Parse = |text| EditByFunction::from_json(text.as_bytes()).err();
const INDEX_PAGE: Parse = |text| Page::from_query_string(text).err();
const CREATE_INDEX: Parse = |text| CreateIndex::from_json(text.as_bytes()).err();
const UPDATE_INDEX: Parse = |text| UpdateIndex::from_json(text.as_bytes()).err();
const SWAP: Parse = |text| swaps_from_json(format!("[{text}]").as_bytes()).err();
const SETTINGS: Parse = |text| Settings::from_json(text.as_bytes()).err();
const TASKS: Parse = |text| TaskFilter::from_query_string(text).err();
const CANCEL: Parse = |text| TaskSelection::from_query_string(text, "cancel").err();
const DELETE_TASKS: Parse = |text| TaskSelection::from_query_string(text, "delete").err();
const KEY_PAGE: Parse = |text| page_from_query_string(text).err();
const CREATE_KEY: Parse =
    |text| CreateKey::from_json(text.as_bytes(), OffsetDateTime::UNIX_EPOCH).err();
const PATCH_KEY: Parse = |text| PatchKey::from_json(text.as_bytes()).err();
const FEATURES: Parse = |text| FeaturesPatch::from_json(text.as_bytes()).err();
const WEBHOOK: Parse = |text| WebhookPatch::from_json(text.as_bytes()).err();

/// Every operation but those below `settings/{name}`, in the order in which people read them.
#[rustfmt::skip] // one line each: it is a table
const OPERATIONS: &[Operation] = &[
    op("GET", "/", "says that something is here", None, None, "paths_lead_to_their_routes"),
    op("GET", "/health", "whether the pod serves", None, None, "sdk suites"),
    op("GET", "/version", "version of the oldest node", None, None, "errors, sdk suites"),
    op("GET", "/stats", "counts and sizes of all indexes", None, None, "statistics_are_of_the_indexes_that_may_be_seen"),
    op("GET", "/openapi.json", "this document", None, None, "the_document_is_what_the_router_says"),
    op("GET", "/indexes", "lists indexes", Some(INDEX_PAGE), None, "errors, sdk suites"),
    op("POST", "/indexes", "creates an index", None, Some(CREATE_INDEX), "errors, oracle"),
    op("GET", "/indexes/{index_uid}", "one index", None, None, "errors, sdk suites"),
    op("PATCH", "/indexes/{index_uid}", "changes the primary key or the name", None, Some(UPDATE_INDEX), "errors, names, simulation"),
    op("DELETE", "/indexes/{index_uid}", "deletes an index", None, None, "errors, sdk suites"),
    op("POST", "/swap-indexes", "swaps names or renames, all or none", None, Some(SWAP), "errors, names, simulation"),
    op("GET", "/indexes/{index_uid}/stats", "counts of one index", None, None, "sdk suites"),
    op("POST", "/indexes/{index_uid}/search", "searches", None, Some(SEARCH), "oracle, errors"),
    op("GET", "/indexes/{index_uid}/search", "searches", Some(SEARCH_URL), None, "oracle, errors"),
    op("POST", "/indexes/{index_uid}/facet-search", "searches for values of a facet", None, None, "oracle, errors"),
    op("POST", "/indexes/{index_uid}/similar", "documents like one document", None, Some(SIMILAR), "oracle, errors"),
    op("GET", "/indexes/{index_uid}/similar", "documents like one document", Some(SIMILAR_URL), None, "oracle, errors"),
    op("POST", "/multi-search", "several searches, side by side or federated", None, Some(MULTI_SEARCH), "oracle, errors"),
    op("GET", "/indexes/{index_uid}/documents", "lists documents", Some(BROWSE_URL), None, "oracle, errors, names"),
    op("POST", "/indexes/{index_uid}/documents/fetch", "lists documents", None, Some(BROWSE), "oracle, errors, names"),
    op("GET", "/indexes/{index_uid}/documents/{document_id}", "one document", Some(GET_DOCUMENT), None, "oracle, errors"),
    op("POST", "/indexes/{index_uid}/documents", "adds or replaces documents", Some(ADD_DOCUMENTS), None, "errors, kills, simulation"),
    op("PUT", "/indexes/{index_uid}/documents", "adds or updates documents", Some(ADD_DOCUMENTS), None, "errors, kills, simulation"),
    op("DELETE", "/indexes/{index_uid}/documents", "deletes all documents", None, None, "simulation, sdk suites"),
    op("DELETE", "/indexes/{index_uid}/documents/{document_id}", "deletes one document", None, None, "simulation, sdk suites"),
    op("POST", "/indexes/{index_uid}/documents/delete", "deletes what a filter matches", None, Some(DELETE_BY_FILTER), "errors, simulation"),
    op("POST", "/indexes/{index_uid}/documents/delete-batch", "deletes documents by id", None, None, "errors, simulation"),
    op("POST", "/indexes/{index_uid}/documents/edit", "edits documents by a function", None, Some(EDIT), "edits, errors, simulation"),
    op("GET", "/indexes/{index_uid}/settings", "all settings", None, None, "errors, sdk suites"),
    op("PATCH", "/indexes/{index_uid}/settings", "changes settings", None, Some(SETTINGS), "errors, simulation"),
    op("DELETE", "/indexes/{index_uid}/settings", "resets settings", None, None, "simulation, sdk suites"),
    op("GET", "/tasks", "lists tasks", Some(TASKS), None, "errors, sdk suites"),
    op("GET", "/tasks/{task_uid}", "one task", None, None, "errors, sdk suites"),
    op("GET", "/tasks/{task_uid}/documents", "documents of a task that has not ended", None, None, "features"),
    op("POST", "/tasks/cancel", "cancels tasks", Some(CANCEL), None, "errors, simulation"),
    op("DELETE", "/tasks", "deletes ended tasks", Some(DELETE_TASKS), None, "errors, sdk suites"),
    op("GET", "/batches", "lists batches", Some(TASKS), None, "errors, sdk suites"),
    op("GET", "/batches/{batch_uid}", "one batch", None, None, "errors, sdk suites"),
    op("GET", "/keys", "lists API keys", Some(KEY_PAGE), None, "errors, keys"),
    op("POST", "/keys", "makes an API key", None, Some(CREATE_KEY), "errors, keys"),
    op("GET", "/keys/{key}", "one API key", None, None, "errors, keys"),
    op("PATCH", "/keys/{key}", "changes an API key's name or description", None, Some(PATCH_KEY), "errors, keys"),
    op("DELETE", "/keys/{key}", "deletes an API key", None, None, "errors, keys"),
    op("GET", "/webhooks", "lists webhooks", None, None, "webhooks"),
    op("POST", "/webhooks", "makes a webhook", None, Some(WEBHOOK), "webhooks"),
    op("GET", "/webhooks/{webhook_uuid}", "one webhook", None, None, "webhooks"),
    op("PATCH", "/webhooks/{webhook_uuid}", "changes a webhook", None, Some(WEBHOOK), "webhooks"),
    op("DELETE", "/webhooks/{webhook_uuid}", "deletes a webhook", None, None, "webhooks"),
    op("GET", "/experimental-features", "what is switched on", None, None, "features"),
    op("PATCH", "/experimental-features", "switches features", None, Some(FEATURES), "features"),
    op("POST", "/dumps", "makes a dump", None, None, "the_document_is_what_the_router_says"),
    op("POST", "/snapshots", "makes a snapshot", None, None, "the_document_is_what_the_router_says"),
    op("POST", "/export", "sends indexes to another server", None, None, "the_document_is_what_the_router_says"),
    op("GET", "/network", "other servers to search", None, None, "the_document_is_what_the_router_says"),
    op("PATCH", "/network", "other servers to search", None, None, "the_document_is_what_the_router_says"),
    op("GET", "/chats", "chat workspaces", None, None, "the_document_is_what_the_router_says"),
    op("GET", "/metrics", "metrics of one server", None, None, "the_document_is_what_the_router_says"),
    op("POST", "/logs/stream", "log lines of one server", None, None, "the_document_is_what_the_router_says"),
    op("POST", "/logs/stderr", "what one server logs", None, None, "the_document_is_what_the_router_says"),
    op("POST", "/tasks/compact", "compacts the task queue", None, None, "the_document_is_what_the_router_says"),
    op("POST", "/indexes/{index_uid}/compact", "compacts an index", None, None, "the_document_is_what_the_router_says"),
    op("POST", "/indexes/{index_uid}/fields", "lists fields", None, None, "the_document_is_what_the_router_says"),
    op("POST", "/render-template", "renders a document template", None, None, "the_document_is_what_the_router_says"),
    op("GET", "/dynamic-search-rules", "rules that pin hits", None, None, "the_document_is_what_the_router_says"),
];

/// What a facet search takes: it passes over what it does not know, since clients send their whole
/// search, so it can't be asked.
const FACET_SEARCH_FIELDS: [&str; 11] = [
    "facetQuery",
    "facetName",
    "q",
    "vector",
    "hybrid",
    "filter",
    "matchingStrategy",
    "attributesToSearchOn",
    "rankingScoreThreshold",
    "locales",
    "exhaustiveFacetCount",
];

/// What routes that write documents take beside their own parameters.
const CUSTOM_METADATA: &str = "customMetadata";

/// Every operation: those of the settings' sub-routes too.
pub fn operations() -> impl Iterator<Item = (String, Operation)> {
    let settings = SUB_ROUTES.iter().flat_map(|sub| {
        let path = format!("/indexes/{{index_uid}}/settings/{}", sub.name);
        let change = match sub.method {
            miroir_wire::settings::Method::Put => "PUT",
            miroir_wire::settings::Method::Patch => "PATCH",
        };
        ["GET", change, "DELETE"].map(|method| {
            let does = match method {
                "GET" => "one setting",
                "DELETE" => "resets one setting",
                _ => "changes one setting",
            };
            (path.clone(), op(method, "", does, None, None, "errors, sdk suites"))
        })
    });
    OPERATIONS.iter().map(|operation| (operation.path.to_owned(), *operation)).chain(settings)
}

/// What a parser takes, by what it says to a name that nobody has.
fn names_of(parse: Parse, unknown: &str) -> Vec<String> {
    let message = parse(unknown).map(|error| error.message).unwrap_or_default();
    let listed = message.rsplit_once("expected one of ").map_or("", |(_, listed)| listed);
    listed
        .split(", ")
        .filter_map(|name| name.trim().strip_prefix('`')?.split('`').next())
        .map(str::to_owned)
        .collect()
}

impl Operation {
    /// Its parameters in the query string.
    pub fn query_names(&self) -> Vec<String> {
        let mut names =
            self.query.map(|parse| names_of(parse, "%25unknown%25=1")).unwrap_or_default();
        if self.writes_documents() {
            names.push(CUSTOM_METADATA.to_owned());
        }
        names
    }

    /// The fields of its JSON body.
    pub fn body_names(&self) -> Vec<String> {
        if self.path.ends_with("/facet-search") {
            return FACET_SEARCH_FIELDS.map(str::to_owned).into();
        }
        self.body.map(|parse| names_of(parse, r#"{"%unknown%": 1}"#)).unwrap_or_default()
    }

    fn writes_documents(&self) -> bool {
        self.method != "GET"
            && self.path.starts_with("/indexes/{index_uid}/documents")
            && !self.path.ends_with("/fetch")
    }

    /// Its route, with something in place of the names.
    pub fn route(&self, path: &str) -> Route {
        let path: String = path
            .split('/')
            .map(|part| if part.starts_with('{') { "7" } else { part })
            .collect::<Vec<_>>()
            .join("/");
        let method = Method::from_bytes(self.method.as_bytes()).unwrap_or_default();
        route(&method, &path)
    }
}

/// The OpenAPI document, as it is served.
pub fn document() -> &'static [u8] {
    static DOCUMENT: LazyLock<Vec<u8>> =
        LazyLock::new(|| serde_json::to_vec(&openapi()).unwrap_or_default());
    &DOCUMENT
}

fn openapi() -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for (path, operation) in operations() {
        let described = describe(&path, &operation);
        let methods = paths.entry(path).or_insert_with(|| json!({}));
        if let Some(methods) = methods.as_object_mut() {
            methods.insert(operation.method.to_ascii_lowercase(), described);
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Miroir",
            "description": "Meilisearch's API over many nodes.",
            "version": env!("CARGO_PKG_VERSION"),
        },
        "security": [{ "bearer": [] }],
        "components": {
            "securitySchemes": { "bearer": { "type": "http", "scheme": "bearer" } },
            "schemas": { "Error": {
                "type": "object",
                "required": ["message", "code", "type", "link"],
                "properties": {
                    "message": { "type": "string" },
                    "code": { "type": "string" },
                    "type": { "type": "string", "enum": ["invalid_request", "internal", "auth", "system"] },
                    "link": { "type": "string", "format": "uri" },
                },
            } },
        },
        "paths": paths,
    })
}

fn describe(path: &str, operation: &Operation) -> Value {
    let route = operation.route(path);
    let in_path = path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let mut parameters: Vec<Value> = in_path
        .map(|name| {
            json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } })
        })
        .collect();
    let in_query = operation.query_names().into_iter();
    parameters.extend(
        in_query.map(|name| json!({ "name": name, "in": "query", "schema": { "type": "string" } })),
    );
    let error = json!({
        "description": "refused",
        "content": { "application/json": { "schema": { "$ref": "#/components/schemas/Error" } } },
    });
    let is_there = !matches!(route, Route::NotSupported(..));
    let success = if is_there { "2XX" } else { "501" };
    let mut described = json!({
        "summary": operation.does,
        "parameters": parameters,
        "responses": {
            success: if is_there { json!({ "description": "done, or accepted as a task" }) } else { error.clone() },
            "default": error,
        },
    });
    let fields = operation.body_names();
    if !fields.is_empty() {
        let properties: Map<String, Value> =
            fields.into_iter().map(|name| (name, json!({}))).collect();
        described["requestBody"] = json!({ "content": { "application/json": { "schema": {
            "type": "object", "properties": properties, "additionalProperties": false,
        } } } });
    }
    match route.right() {
        Right::Exempt => described["security"] = json!([]),
        Right::Key(action, _) => described["x-action"] = json!(action.name()),
        Right::Operator => {}
    }
    if let Route::NotSupported(instead, _) = route {
        described["deprecated"] = json!(true);
        described["description"] = json!(format!("Not supported: answers 501. {instead}"));
    }
    described
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::traffic::template;

    /// The first word of how a route prints itself.
    fn head(route: &Route) -> String {
        let printed = format!("{route:?}");
        printed.split([' ', ')']).next().unwrap_or_default().to_owned()
    }

    #[test]
    fn the_document_is_what_the_router_says() {
        let mut covered = BTreeSet::new();
        for (path, operation) in operations() {
            let route = operation.route(&path);
            assert!(
                !matches!(route, Route::Unknown | Route::WrongMethod | Route::Admin(_)),
                "{} {path}: {route:?}",
                operation.method
            );
            if !matches!(route, Route::NotSupported(..)) {
                covered.insert(head(&route));
                let is_setting = path.starts_with("/indexes/{index_uid}/settings/");
                let counted_as = if is_setting { SETTING } else { &path };
                assert_eq!(template(&route), counted_as, "what metrics call it");
            }
            for (parse, names) in [
                (operation.query, operation.query_names()),
                (operation.body, operation.body_names()),
            ] {
                assert!(parse.is_none() || !names.is_empty(), "{} {path}", operation.method);
            }
        }
        // What a test of the router finds must be here: as many routes as there are kinds of them.
        assert_eq!(covered.len(), KINDS, "{covered:#?}");
    }

    /// Kinds of routes of the public API that are answered: those of `Route` that carry no others,
    /// and all of `LogRoute` and `KeyRoute`. Grows with them.
    const KINDS: usize = 50;

    #[test]
    fn parameters_are_those_of_the_parsers() {
        let of = |method: &str, path: &str| {
            let found = OPERATIONS.iter().find(|op| op.method == method && op.path == path);
            let found = found.copied().unwrap_or_else(|| panic!("{method} {path}"));
            (found.query_names(), found.body_names())
        };
        assert_eq!(of("GET", "/indexes").0, ["offset", "limit"]);
        assert_eq!(of("POST", "/swap-indexes").1, ["indexes", "rename"]);
        let search = of("POST", "/indexes/{index_uid}/search").1;
        assert!(search.contains(&"q".to_owned()) && search.contains(&"hybrid".to_owned()));
        let added = of("POST", "/indexes/{index_uid}/documents").0;
        assert_eq!(added, ["primaryKey", "csvDelimiter", "customMetadata"]);
        let document: Value = serde_json::from_slice(document()).unwrap_or_default();
        assert_eq!(document["paths"]["/keys"]["post"]["x-action"], "keys.create");
        assert_eq!(document["paths"]["/health"]["get"]["security"], json!([]));
    }

    /// `MIROIR_WRITE_DOCS=1` rewrites the table.
    #[test]
    fn the_table_of_compatibility_is_up_to_date() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/compatibility.md");
        let text = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{file}: {error}"));
        let (before, rest) = text.split_once(BEGIN).expect("the table begins");
        let (_, after) = rest.split_once(END).expect("the table ends");
        let wanted = format!("{before}{BEGIN}\n{}{END}{after}", table());
        if std::env::var_os("MIROIR_WRITE_DOCS").is_some() {
            std::fs::write(file, wanted).unwrap_or_else(|error| panic!("{file}: {error}"));
            return;
        }
        assert!(text == wanted, "{file} is stale: run this test with MIROIR_WRITE_DOCS=1");
    }

    const SETTING: &str = "/indexes/{index_uid}/settings/{setting}";
    const BEGIN: &str = "<!-- routes -->";
    const END: &str = "<!-- end of routes -->";

    fn table() -> String {
        let mut table =
            String::from("\n| route | parameters | supported | tested by |\n|---|---|---|---|\n");
        for (path, operation) in operations() {
            let mut names = operation.query_names();
            names.extend(operation.body_names());
            let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
            let supported = match operation.route(&path) {
                Route::NotSupported(instead, _) => format!("501. {instead}"),
                _ => "yes".to_owned(),
            };
            table.push_str(&format!(
                "| `{} {path}` | {} | {supported} | {} |\n",
                operation.method,
                names.join(", "),
                operation.tests
            ));
        }
        table.push('\n');
        table
    }
}
