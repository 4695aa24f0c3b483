//! Request bytes to answer bytes, over nodes that follow a script.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use http::StatusCode;
use http_body_util::BodyExt;
use miroir_actors::health_checker::NodeHealthView;
use miroir_seams::{MemoryFiles, NodeCall, NodeTransport, Reactors, Seams, TransportError};
use miroir_storage::ids::{Epoch, GroupId, IndexUid, NodeId};
use miroir_storage::routing::{GroupPlacement, IndexRouting, NodeRecord, ShardPlacement};
use miroir_wire::settings::Settings;
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::*;
use crate::context::{
    ContextParts, GatewayConfig, LogRoutes, RoutingSource, UnavailableShardPolicy,
};
use crate::intake::Spool;
use crate::router::LogRoute;
use crate::server::Server;

mod admin;
mod failing_nodes;
mod finding;
mod keys;
mod lists;
mod manners;
mod old_state;

/// What a node does with one call.
type Script = fn(&NodeCall) -> Result<(u16, String), TransportError>;

/// Nodes by host name, and the calls they got.
#[derive(Debug, Default)]
struct ScriptedNodes {
    scripts: BTreeMap<&'static str, Script>,
    calls: Mutex<Vec<(String, String, String)>>,
}

#[async_trait]
impl NodeTransport for ScriptedNodes {
    async fn send(&self, call: NodeCall) -> Result<Response<Bytes>, TransportError> {
        let host = call.base.trim_start_matches("http://").to_owned();
        let body = String::from_utf8_lossy(&call.body).into_owned();
        if let Ok(mut calls) = self.calls.lock() {
            calls.push((host.clone(), call.path.clone(), body));
        }
        let script = self.scripts.get(host.as_str());
        let script = script.ok_or(TransportError::Unreachable(host))?;
        let (status, body) = match script(&call) {
            Err(TransportError::TimedOut(_)) => {
                tokio::time::sleep(call.timeout).await;
                return Err(TransportError::TimedOut(call.timeout));
            }
            other => other?,
        };
        let mut answer = Response::new(Bytes::from(body));
        *answer.status_mut() = StatusCode::from_u16(status).unwrap_or_default();
        Ok(answer)
    }
}

#[derive(Debug)]
struct FixedRouting(Arc<Routing>);

impl RoutingSource for FixedRouting {
    fn routing(&self) -> Arc<Routing> {
        self.0.clone()
    }

    fn unconfirmed_for(&self) -> Duration {
        Duration::ZERO
    }

    fn is_indexing(&self, _: &IndexUid) -> bool {
        true
    }

    fn updated_at(&self, _: &IndexUid) -> Option<OffsetDateTime> {
        None
    }
}

#[derive(Debug)]
struct EchoLog;

#[async_trait]
impl LogRoutes for EchoLog {
    async fn answer(&self, route: LogRoute, request: &RequestParts) -> Result<Reply, ApiError> {
        Ok(Reply::json(202, &format!("{route:?} {} {}", request.query, request.body.len())))
    }

    async fn catch_up(&self) -> bool {
        false
    }

    async fn settle_session(&self, _: &str, _: Option<&str>) -> bool {
        true
    }
}

/// An index `movies` (`3-movies` on nodes) with one shard per entry; `groups[g][s]` lists nodes.
fn routing(groups: &[&[&str]], settings: &Value) -> Routing {
    let mut routing = Routing { cluster_id: "c".into(), ..Default::default() };
    let mut placements = Vec::new();
    for (number, shards) in groups.iter().enumerate() {
        let group = GroupId(number as u32);
        let mut placed = Vec::new();
        for nodes in *shards {
            let ids: Vec<NodeId> = nodes.split(' ').map(NodeId::from).collect();
            for id in &ids {
                let record = NodeRecord {
                    id: id.clone(),
                    address: format!("http://{id}"),
                    group,
                    key: Some("node key".into()),
                };
                routing.nodes.insert(id.clone(), Arc::new(record));
            }
            placed.push(ShardPlacement { replicas: ids.clone(), in_sync: ids });
        }
        placements.push(GroupPlacement { group, shards: placed });
    }
    let settings = Settings::from_json(settings.to_string().as_bytes()).unwrap_or_default();
    let shards = groups.first().map_or(1, |shards| shards.len() as u32);
    let index = Arc::new(IndexRouting {
        marks: miroir_storage::routing::Marks::first(shards),
        reshard: None,
        moves: BTreeMap::new(),
        uid: "3-movies".into(),
        name: "movies".into(),
        primary_key: Some("id".into()),
        created_at: OffsetDateTime::UNIX_EPOCH,
        shards,
        settings: Arc::new(settings),
        settings_version: 5,
        settings_pending: false,
        writer: "pod".into(),
        epoch: Epoch(1),
        groups: placements,
    });
    routing.indexes.insert("movies".into(), index.clone());
    routing.by_uid.insert(index.uid.clone(), index);
    routing
}

struct World {
    context: Arc<GatewayContext>,
    nodes: Arc<ScriptedNodes>,
}

fn world(routing: Routing, scripts: &[(&'static str, Script)], config: GatewayConfig) -> World {
    let nodes = Arc::new(ScriptedNodes {
        scripts: scripts.iter().copied().collect(),
        calls: Mutex::default(),
    });
    let parts = ContextParts {
        routing: Arc::new(FixedRouting(Arc::new(routing))),
        log: Arc::new(EchoLog),
        transport: nodes.clone(),
        health: Arc::new(NodeHealthView::default()),
        spool: Spool::open(Arc::new(MemoryFiles::new()), 1 << 30).unwrap_or_else(|e| panic!("{e}")),
        seams: Seams::seeded(1),
    };
    World { context: Arc::new(GatewayContext::new(parts, config)), nodes }
}

/// What a client sees: status, JSON, `X-Miroir-Degraded`.
type Seen = (u16, Value, Option<String>);

async fn seen(response: Response<Full<Bytes>>) -> Seen {
    let status = response.status().as_u16();
    let degraded = response.headers().get("x-miroir-degraded");
    let degraded = degraded.and_then(|value| value.to_str().ok()).map(str::to_owned);
    let body = response.into_body().collect().await.map(|body| body.to_bytes());
    let mut body = serde_json::from_slice(&body.unwrap_or_default()).unwrap_or(Value::Null);
    if let Some(body) = body.as_object_mut() {
        body.remove("processingTimeMs");
        body.remove("link");
    }
    (status, body, degraded)
}

impl World {
    async fn ask(&self, method: &str, path: &str, body: Option<Value>) -> Seen {
        let mut request = Request::builder().method(method).uri(path);
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        let request = request.body(Full::new(Bytes::from(body)));
        let request = request.unwrap_or_else(|error| panic!("{error}"));
        seen(handle(&self.context, request).await).await
    }

    async fn search(&self, query: Value) -> Seen {
        self.ask("POST", "/indexes/movies/search", Some(query)).await
    }

    fn calls(&self) -> Vec<(String, String, String)> {
        self.nodes.calls.lock().map(|calls| calls.clone()).unwrap_or_default()
    }
}

fn hits(ids: &[(u32, f64)]) -> String {
    let hits: Vec<Value> = ids
        .iter()
        .map(|(id, score)| json!({"_miroir_shard": "†", "id": id, "_rankingScore": score}))
        .collect();
    json!({"hits": hits, "query": "", "processingTimeMs": 1, "limit": 20, "offset": 0,
        "estimatedTotalHits": hits.len()})
    .to_string()
}

fn node_a(_: &NodeCall) -> Result<(u16, String), TransportError> {
    Ok((200, hits(&[(1, 0.9), (3, 0.5)])))
}

fn node_b(_: &NodeCall) -> Result<(u16, String), TransportError> {
    Ok((200, hits(&[(2, 0.7)])))
}

fn hangs(call: &NodeCall) -> Result<(u16, String), TransportError> {
    Err(TransportError::TimedOut(call.timeout))
}

const MERGED: &[u64] = &[1, 2, 3];

fn ids(answer: &Value) -> Vec<u64> {
    let hits = answer["hits"].as_array().cloned().unwrap_or_default();
    hits.iter().filter_map(|hit| hit["id"].as_u64()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_search_is_merged_from_all_nodes_and_shows_nothing_of_ours() {
    let world = world(
        routing(&[&["a", "b"]], &json!({})),
        &[("a", node_a), ("b", node_b)],
        GatewayConfig::default(),
    );
    let (status, answer, degraded) = world.search(json!({"q": "word"})).await;
    assert_eq!((status, degraded), (200, None));
    assert_eq!(
        answer,
        json!({"hits": [{"id": 1}, {"id": 2}, {"id": 3}], "query": "word", "limit": 20,
            "offset": 0, "estimatedTotalHits": 3})
    );
    assert!(world.calls().iter().all(|(_, path, _)| path == "/indexes/3-movies/search"));
    let (status, answer, _) = world.ask("GET", "/indexes/movies/search?q=word&limit=1", None).await;
    assert_eq!((status, ids(&answer)), (200, vec![1]));
}

#[tokio::test(start_paused = true)]
async fn a_shard_out_of_reach_is_named_whatever_its_node_does() {
    let bad: [Script; 8] = [
        |_| Err(TransportError::Unreachable("refused".into())),
        |_| Err(TransportError::Broken("reset".into())),
        hangs,
        |_| Ok((500, "{}".into())),
        |_| Ok((200, "<html>".into())),
        |_| Ok((200, r#"{"hits":[{"id":2}],"estimatedTotalHits":"#.into())),
        |_| {
            Ok((403, r#"{"message":"m","code":"invalid_api_key","type":"auth","link":"l"}"#.into()))
        },
        |_| {
            Ok((404, r#"{"message":"Index `3-movies` not found.","code":"index_not_found","type":"invalid_request","link":"l"}"#.into()))
        },
    ];
    for script in bad {
        let scripts = [("a", node_a as Script), ("b", script)];
        let partial =
            world(routing(&[&["a", "b"]], &json!({})), &scripts, GatewayConfig::default());
        let (status, answer, degraded) = partial.search(json!({"q": "word"})).await;
        assert_eq!((status, ids(&answer)), (200, vec![1, 3]));
        assert_eq!(degraded.as_deref(), Some("shards=1"));
        let refusing = GatewayConfig {
            unavailable_shard_policy: UnavailableShardPolicy::Error,
            ..Default::default()
        };
        let refusing = world(routing(&[&["a", "b"]], &json!({})), &scripts, refusing);
        let (status, answer, _) = refusing.search(json!({"q": "word"})).await;
        assert_eq!((status, answer["code"].as_str()), (503, Some("miroir_shard_unavailable")));
    }
}

#[tokio::test(start_paused = true)]
async fn another_replica_answers_for_a_node_that_fails() {
    for script in [hangs as Script, |_| Ok((502, String::new()))] {
        let world = world(
            routing(&[&["a", "b"], &["c", "d"]], &json!({})),
            &[("a", node_a), ("b", script), ("c", node_a), ("d", node_b)],
            GatewayConfig::default(),
        );
        // Among many queries some begin in each group.
        for query in ["one", "two", "three", "four", "five", "six"] {
            let (status, answer, degraded) = world.search(json!({"q": query})).await;
            assert_eq!((status, degraded), (200, None));
            assert_eq!(ids(&answer), MERGED, "{query}");
        }
        let asked: Vec<String> = world.calls().into_iter().map(|(host, _, _)| host).collect();
        assert!(asked.contains(&"b".to_owned()) && asked.contains(&"c".to_owned()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_known_to_be_away_is_not_waited_for() {
    let world = world(
        routing(&[&["a", "b"], &["c", "d"]], &json!({})),
        &[("a", node_a), ("b", hangs), ("c", node_a), ("d", node_b)],
        GatewayConfig::default(),
    );
    world.context.health.unavailable.store(Arc::new([NodeId::from("b")].into()));
    let start = tokio::time::Instant::now();
    for query in ["one", "two", "three", "four", "five", "six"] {
        assert_eq!(ids(&world.search(json!({"q": query})).await.1), MERGED);
    }
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn one_node_that_fails_is_replaced_by_several() {
    fn by_filter(call: &NodeCall) -> Result<(u16, String), TransportError> {
        match call.base.as_str() {
            "http://b" => node_a(call),
            _ => node_b(call),
        }
    }
    let world = world(
        routing(&[&["a", "a"], &["b", "c"]], &json!({})),
        &[("a", |_| Ok((500, String::new()))), ("b", by_filter), ("c", by_filter)],
        GatewayConfig::default(),
    );
    for query in ["one", "two", "three", "four"] {
        let (status, answer, degraded) = world.search(json!({"q": query})).await;
        assert_eq!((status, ids(&answer), degraded), (200, MERGED.to_vec(), None));
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_of_a_node_is_the_client_s_without_node_side_names() {
    let script: Script = |_| {
        Ok((400, json!({"message": "Index `3-movies`: Attribute `x` is not filterable. Available filterable attribute patterns are: `_miroir_shard`, `genre`.\n1:2 x = 1",
            "code": "invalid_search_filter", "type": "invalid_request", "link": "l"}).to_string()))
    };
    let world = world(
        routing(&[&["a", "b"]], &json!({})),
        &[("a", script), ("b", node_b)],
        GatewayConfig::default(),
    );
    let (status, answer, _) = world.search(json!({"filter": "x = 1"})).await;
    assert_eq!(status, 400);
    assert_eq!(
        answer,
        json!({"message": "Index `movies`: Attribute `x` is not filterable. Available filterable attribute patterns are: `genre`.\n1:2 x = 1",
            "code": "invalid_search_filter", "type": "invalid_request"})
    );
    let queries = json!({"queries": [{"indexUid": "movies", "filter": "x = 1"}]});
    let (status, answer, _) = world.ask("POST", "/multi-search", Some(queries)).await;
    let message = answer["message"].as_str().unwrap_or_default().to_owned();
    assert_eq!(status, 400);
    assert!(message.starts_with("Inside `.queries[0]`: Index `movies`: "), "{message}");
}

#[tokio::test(start_paused = true)]
async fn a_multi_search_answers_in_the_order_of_its_queries() {
    let world = world(
        routing(&[&["a", "b"]], &json!({})),
        &[("a", node_a), ("b", node_b)],
        GatewayConfig::default(),
    );
    let query = |limit: u32| json!({"indexUid": "movies", "q": "word", "limit": limit});
    let queries = json!({"queries": [query(1), query(2)]});
    let (status, answer, _) = world.ask("POST", "/multi-search", Some(queries)).await;
    assert_eq!(status, 200);
    let results = answer["results"].as_array().cloned().unwrap_or_default();
    assert_eq!(results.iter().map(ids).collect::<Vec<_>>(), [vec![1], vec![1, 2]]);
    assert!(results.iter().all(|result| result["indexUid"] == "movies"));
    let unknown = json!({"queries": [query(1), {"indexUid": "nope"}]});
    let (status, answer, _) = world.ask("POST", "/multi-search", Some(unknown)).await;
    assert_eq!((status, answer["code"].as_str()), (400, Some("index_not_found")));
    let federated = json!({"queries": [query(1)], "federation": {}});
    let (status, answer, _) = world.ask("POST", "/multi-search", Some(federated)).await;
    assert_eq!(
        (status, answer["code"].as_str()),
        (400, Some("invalid_multi_search_query_pagination"))
    );
}

/// Lists documents `first..` as the window asks.
fn lister(call: &NodeCall, first: u64, count: u64) -> Result<(u16, String), TransportError> {
    if call.path.ends_with("/stats") {
        let stats = json!({"numberOfDocuments": count, "isIndexing": false,
            "fieldDistribution": {"id": count, "_miroir_shard": count}});
        return Ok((200, stats.to_string()));
    }
    if call.path.contains("/documents/7") {
        return Ok((200, json!({"_miroir_shard": "†", "id": 7}).to_string()));
    }
    let body: Value = serde_json::from_slice(&call.body).unwrap_or_default();
    let window = (body["offset"].as_u64().unwrap_or_default(), body["limit"].as_u64());
    let end = (window.0 + window.1.unwrap_or_default()).min(count);
    let results: Vec<Value> =
        (window.0..end).map(|place| json!({"_miroir_shard": "†", "id": first + place})).collect();
    let page = json!({"results": results, "offset": window.0, "limit": 1, "total": count});
    Ok((200, page.to_string()))
}

#[tokio::test(start_paused = true)]
async fn documents_are_listed_node_by_node_and_counted_once() {
    let world = world(
        routing(&[&["a", "b"]], &json!({})),
        &[("a", |call| lister(call, 0, 3)), ("b", |call| lister(call, 100, 4))],
        GatewayConfig::default(),
    );
    let (status, answer, _) =
        world.ask("GET", "/indexes/movies/documents?offset=2&limit=3", None).await;
    assert_eq!(status, 200);
    assert_eq!(
        answer,
        json!({"results": [{"id": 2}, {"id": 100}, {"id": 101}], "offset": 2, "limit": 3, "total": 7})
    );
    let (_, answer, _) = world.ask("GET", "/indexes/movies/documents/7", None).await;
    assert_eq!(answer, json!({"id": 7}));
    let (_, answer, _) = world.ask("GET", "/indexes/movies/stats", None).await;
    assert_eq!(answer["numberOfDocuments"], 7);
    assert_eq!(answer["fieldDistribution"], json!({"id": 7}));
    assert_eq!(answer["isIndexing"], true);
}

#[tokio::test(start_paused = true)]
async fn requests_that_no_node_need_see_are_answered_here() {
    let config = GatewayConfig { master_key: Some("key".into()), ..Default::default() };
    let world = world(routing(&[&["a"]], &json!({})), &[("a", node_a)], config);
    let (status, answer, _) = world.ask("GET", "/health", None).await;
    assert_eq!((status, answer), (200, json!({"status": "available"})));
    for (method, path, status, code) in [
        ("POST", "/indexes/movies/search", 401, "missing_authorization_header"),
        ("GET", "/version", 401, "missing_authorization_header"),
        ("GET", "/_miroir/shards", 401, "miroir_invalid_auth"),
    ] {
        let (seen, answer, _) = world.ask(method, path, None).await;
        assert_eq!((seen, answer["code"].as_str()), (status, Some(code)), "{path}");
    }
    let (status, answer, _) = world.ask("GET", "/nonsense", None).await;
    assert_eq!((status, answer), (404, Value::Null));
    assert_eq!(world.ask("PUT", "/health", None).await.0, 405);
    assert!(world.calls().is_empty());
}

#[tokio::test(start_paused = true)]
async fn malformed_requests_are_refused_as_meilisearch_refuses_them() {
    let config = GatewayConfig { body_bytes_max: 64, ..Default::default() };
    let world = world(routing(&[&["a"]], &json!({})), &[("a", node_a)], config);
    let post = |path: &str, content_type: Option<&str>, body: &str| {
        let mut request = Request::builder().method("POST").uri(path);
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        let request = request.body(Full::new(Bytes::from(body.to_owned())));
        let context = world.context.clone();
        async move {
            let request = request.unwrap_or_else(|error| panic!("{error}"));
            let (status, answer, _) = seen(handle(&context, request).await).await;
            (status, answer["code"].as_str().unwrap_or_default().to_owned())
        }
    };
    let json = Some("application/json");
    let search = "/indexes/movies/search";
    for (path, content_type, body, expected) in [
        (search, json, "{\"q\":", (400, "malformed_payload")),
        (search, None, "{}", (415, "missing_content_type")),
        (search, Some("text/plain"), "{}", (415, "invalid_content_type")),
        (search, json, &"x".repeat(65), (413, "payload_too_large")),
        (search, json, "{\"limit\":-1}", (400, "invalid_search_limit")),
        ("/indexes/movie%20s/search", json, "{}", (400, "invalid_index_uid")),
        ("/indexes/unknown/search", json, "{}", (404, "index_not_found")),
        ("/indexes/movies/facet-search", json, "{}", (400, "missing_facet_search_facet_name")),
        ("/indexes/movies/similar", json, "{}", (400, "bad_request")),
    ] {
        let (status, code) = post(path, content_type, body).await;
        assert_eq!((status, code.as_str()), expected, "{path} {body}");
    }
}

#[tokio::test(start_paused = true)]
async fn too_many_requests_at_once_are_refused_and_told_when_to_return() {
    let config = GatewayConfig { concurrent_requests_max: 1, ..Default::default() };
    let world = world(routing(&[&["a"]], &json!({})), &[("a", hangs)], config);
    let first = world.search(json!({}));
    let others = async {
        let search = world.search(json!({})).await;
        let version = world.ask("GET", "/version", None).await;
        let health = world.ask("GET", "/health", None).await;
        (search, version, health)
    };
    let (_, (search, version, health)) = futures::future::join(first, others).await;
    assert_eq!((search.0, search.1["code"].as_str()), (503, Some("too_many_search_requests")));
    assert_eq!((version.0, version.1["code"].as_str()), (503, Some("miroir_overloaded")));
    assert_eq!(health.0, 200);
    assert_eq!(world.ask("GET", "/version", None).await.0, 200);
}

#[tokio::test(start_paused = true)]
async fn writes_go_to_the_log_with_their_parts() {
    let world = world(routing(&[&["a"]], &json!({})), &[], GatewayConfig::default());
    let (status, answer, _) =
        world.ask("PUT", "/indexes/movies/documents?primaryKey=id", Some(json!([]))).await;
    let expected = r#"AddDocuments { index: "movies", partial: true } primaryKey=id 2"#;
    assert_eq!((status, answer), (202, json!(expected)));
}

#[tokio::test]
async fn a_connection_is_kept_for_further_requests_and_finished_on_stop() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let world = world(routing(&[&["a"]], &json!({})), &[], GatewayConfig::default());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.unwrap_or_else(|error| panic!("{error}"));
    let address = listener.local_addr().unwrap_or_else(|error| panic!("{error}"));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let reactors = Reactors::start(2).unwrap_or_else(|error| panic!("{error}"));
    let servers: Vec<Server> =
        reactors.iter().map(|reactor| Server::new(world.context.clone(), reactor)).collect();
    let server = crate::server::serve(listener, &servers, async {
        let _ = stopped.await;
    });
    let client = async {
        let mut stream = tokio::net::TcpStream::connect(address).await?;
        let mut answers = String::new();
        for _ in 0..2 {
            stream.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await?;
            let mut buffer = [0; 1024];
            let read = stream.read(&mut buffer).await?;
            answers.push_str(&String::from_utf8_lossy(buffer.get(..read).unwrap_or_default()));
        }
        let _ = stop.send(());
        let rest = stream.read(&mut [0; 16]).await?;
        Ok::<_, std::io::Error>((answers, rest))
    };
    let ((), outcome) = futures::future::join(server, client).await;
    let (answers, rest) = outcome.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 2);
    assert_eq!(answers.matches(r#"{"status":"available"}"#).count(), 2);
    assert_eq!(rest, 0);
}
