//! Keys and tokens from a request's bytes to its answer's, over a log of one command at a time.

use http::header::AUTHORIZATION;
use miroir_storage::commands::{Command, Outcome};
use miroir_storage::engine::{Durability, Engine, MemoryEngine, Tx};
use miroir_storage::tables::api_keys::ApiKeyRecord;
use miroir_storage::tables::apply;
use miroir_wire::keys::{Action, IndexPattern, Key};

use super::*;
use miroir_wire::access::sign_token as sign;
use miroir_wire::access::value_of;

const MASTER: &str = "the master key";

/// A pod whose state machine is all there is, beside what other pods have agreed on meanwhile.
#[derive(Debug)]
struct KeyedPod {
    engine: MemoryEngine,
    routing: Mutex<Arc<Routing>>,
    elsewhere: Mutex<Vec<Command>>,
    asked: AtomicUsize,
}

impl KeyedPod {
    fn new(routing: Routing) -> Arc<Self> {
        Arc::new(Self {
            engine: MemoryEngine::new(),
            routing: Mutex::new(Arc::new(routing)),
            elsewhere: Mutex::default(),
            asked: AtomicUsize::new(0),
        })
    }

    fn apply(&self, command: &Command) -> Outcome {
        let mut tx = Tx::new(&self.engine);
        let outcome = apply(&mut tx, 1, command).expect("memory does not fail");
        self.engine.commit(tx.into_batch(), Durability::Lazy).expect("memory does not fail");
        let loaded = Routing::load(&self.engine).expect("memory does not fail");
        let mut routing = self.routing.lock().expect("nobody panicked");
        *routing = Arc::new(Routing { api_keys: loaded.api_keys, ..(**routing).clone() });
        outcome
    }
}

impl RoutingSource for KeyedPod {
    fn routing(&self) -> Arc<Routing> {
        self.routing.lock().expect("nobody panicked").clone()
    }

    fn unconfirmed_for(&self) -> Duration {
        Duration::ZERO
    }

    fn is_indexing(&self, _: &IndexUid) -> bool {
        false
    }

    fn updated_at(&self, _: &IndexUid) -> Option<OffsetDateTime> {
        None
    }
}

#[async_trait]
impl LogRoutes for KeyedPod {
    async fn answer(&self, _: LogRoute, request: &RequestParts) -> Result<Reply, ApiError> {
        Ok(Reply::json(202, &request.grant.may_create_index("movies")))
    }

    async fn catch_up(&self) -> bool {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let elsewhere = std::mem::take(&mut *self.elsewhere.lock().expect("nobody panicked"));
        elsewhere.iter().for_each(|command| drop(self.apply(command)));
        true
    }

    async fn settle_session(&self, _: &str, _: Option<&str>) -> bool {
        true
    }

    async fn change_keys(&self, change: Command) -> Result<Outcome, ApiError> {
        Ok(self.apply(&change))
    }
}

fn put(place: u32, actions: &[Action], indexes: &[&str]) -> Command {
    let key = Key {
        uid: uid(place),
        name: None,
        description: None,
        actions: actions.to_vec(),
        indexes: indexes.iter().filter_map(|text| text.parse::<IndexPattern>().ok()).collect(),
        expires_at: None,
        created_at: OffsetDateTime::UNIX_EPOCH,
        updated_at: OffsetDateTime::UNIX_EPOCH,
    };
    Command::PutApiKey(Box::new(ApiKeyRecord::from(&key)))
}

fn uid(place: u32) -> String {
    format!("550e8400-e29b-41d4-a716-4466554400{place:02}")
}

fn value(place: u32) -> String {
    value_of(MASTER, &uid(place))
}

struct Keyed {
    pod: Arc<KeyedPod>,
    world: World,
}

impl Keyed {
    fn new(master_key: Option<&str>) -> Self {
        let master_key = master_key.map(str::to_owned);
        let config = GatewayConfig { master_key, ..GatewayConfig::default() };
        let routing = routing(&[&["a"]], &json!({}));
        let pod = KeyedPod::new(routing.clone());
        let mut world = world(routing, &[("a", node_a)], config);
        let mut context = (*world.context).clone();
        context.routing = pod.clone();
        context.log = pod.clone();
        world.context = Arc::new(context);
        Self { pod, world }
    }

    async fn ask(&self, bearer: Option<&str>, method: &str, path: &str, body: &Value) -> Seen {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(bearer) = bearer {
            request = request.header(AUTHORIZATION, format!("Bearer {bearer}"));
        }
        if !body.is_null() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = request.body(Full::new(Bytes::from(body))).expect("a request");
        seen(handle(&self.world.context, request).await).await
    }

    async fn code(&self, bearer: &str, method: &str, path: &str, body: Value) -> (u16, String) {
        let (status, answer, _) = self.ask(Some(bearer), method, path, &body).await;
        (status, answer["code"].as_str().unwrap_or_default().to_owned())
    }
}

/// Every route, and the one action that opens it.
const ROUTES: &[(&str, &str, Action)] = &[
    ("GET", "/version", Action::Version),
    ("GET", "/indexes/movies/search", Action::Search),
    ("POST", "/indexes/movies/search", Action::Search),
    ("POST", "/multi-search", Action::Search),
    ("GET", "/indexes/movies/documents", Action::DocumentsGet),
    ("POST", "/indexes/movies/documents/fetch", Action::DocumentsGet),
    ("GET", "/indexes/movies/documents/1", Action::DocumentsGet),
    ("POST", "/indexes/movies/documents", Action::DocumentsAdd),
    ("PUT", "/indexes/movies/documents", Action::DocumentsAdd),
    ("DELETE", "/indexes/movies/documents", Action::DocumentsDelete),
    ("DELETE", "/indexes/movies/documents/1", Action::DocumentsDelete),
    ("POST", "/indexes/movies/documents/delete", Action::DocumentsDelete),
    ("POST", "/indexes/movies/documents/delete-batch", Action::DocumentsDelete),
    ("GET", "/indexes", Action::IndexesGet),
    ("POST", "/indexes", Action::IndexesCreate),
    ("GET", "/indexes/movies", Action::IndexesGet),
    ("PATCH", "/indexes/movies", Action::IndexesUpdate),
    ("DELETE", "/indexes/movies", Action::IndexesDelete),
    ("POST", "/swap-indexes", Action::IndexesSwap),
    ("GET", "/indexes/movies/settings", Action::SettingsGet),
    ("PATCH", "/indexes/movies/settings", Action::SettingsUpdate),
    ("DELETE", "/indexes/movies/settings", Action::SettingsUpdate),
    ("GET", "/indexes/movies/settings/stop-words", Action::SettingsGet),
    ("PUT", "/indexes/movies/settings/stop-words", Action::SettingsUpdate),
    ("DELETE", "/indexes/movies/settings/stop-words", Action::SettingsUpdate),
    ("GET", "/stats", Action::StatsGet),
    ("GET", "/indexes/movies/stats", Action::StatsGet),
    ("GET", "/tasks", Action::TasksGet),
    ("GET", "/tasks/1", Action::TasksGet),
    ("POST", "/tasks/cancel", Action::TasksCancel),
    ("DELETE", "/tasks", Action::TasksDelete),
    ("GET", "/keys", Action::KeysGet),
    ("GET", "/keys/a", Action::KeysGet),
    ("POST", "/keys", Action::KeysCreate),
    ("PATCH", "/keys/a", Action::KeysUpdate),
    ("DELETE", "/keys/a", Action::KeysDelete),
];

#[tokio::test(start_paused = true)]
async fn every_route_asks_for_one_action() {
    let keyed = Keyed::new(Some(MASTER));
    let mut actions: Vec<Action> = ROUTES.iter().map(|(_, _, action)| *action).collect();
    actions.sort_unstable();
    actions.dedup();
    for (place, action) in (0..).zip(&actions) {
        keyed.pod.apply(&put(place, &[*action], &["*"]));
    }
    for (method, path, needed) in ROUTES {
        for (place, action) in (0..).zip(&actions) {
            let (status, code) = keyed.code(&value(place), method, path, json!({})).await;
            let refused = (status, code.as_str()) == (403, "invalid_api_key");
            assert_eq!(refused, action != needed, "{method} {path} {action:?}: {status} {code}");
        }
        let (status, answer, _) = keyed.ask(None, method, path, &json!({})).await;
        assert_eq!((status, &answer["code"]), (401, &json!("missing_authorization_header")));
        let (status, ..) = keyed.ask(Some(MASTER), method, path, &json!({})).await;
        assert!(status != 401 && status != 403, "{method} {path}");
    }
    for path in ["/health", "/", "/_miroir/ready"] {
        let (status, ..) = keyed.ask(None, "GET", path, &Value::Null).await;
        assert_eq!(status, 200, "{path}");
    }
    // What is not there is said to those who could use it.
    assert_eq!(keyed.code(MASTER, "POST", "/dumps", Value::Null).await.0, 501);
    assert_eq!(keyed.code("guess", "POST", "/dumps", Value::Null).await.0, 403);
}

#[tokio::test(start_paused = true)]
async fn keys_are_made_shown_changed_and_deleted() {
    let keyed = Keyed::new(Some(MASTER));
    let body =
        json!({"actions": ["search"], "indexes": ["mov*"], "expiresAt": null, "uid": uid(1)});
    let (status, made, _) = keyed.ask(Some(MASTER), "POST", "/keys", &body).await;
    assert_eq!((status, &made["key"], &made["name"]), (201, &json!(value(1)), &Value::Null));
    let again = keyed.code(MASTER, "POST", "/keys", body.clone()).await;
    assert_eq!(again, (409, "api_key_already_exists".to_owned()));
    let (_, other, _) = keyed
        .ask(
            Some(MASTER),
            "POST",
            "/keys",
            &json!({"actions": ["*"], "indexes": ["*"], "expiresAt": "2990-01-01"}),
        )
        .await;
    assert_eq!(other["expiresAt"], "2990-01-01T00:00:00Z");
    for name in [uid(1), uid(1).to_uppercase(), value(1)] {
        let path = format!("/keys/{name}");
        let (status, shown, _) = keyed.ask(Some(MASTER), "GET", &path, &Value::Null).await;
        assert_eq!((status, &shown), (200, &made));
    }
    let (_, list, _) = keyed.ask(Some(MASTER), "GET", "/keys?limit=1&offset=1", &Value::Null).await;
    assert_eq!(
        (&list["total"], &list["limit"], &list["offset"], list["results"].as_array().map(Vec::len)),
        (&json!(2), &json!(1), &json!(1), Some(1))
    );
    assert_eq!(keyed.code(&value(1), "POST", "/indexes/movies/search", json!({})).await.0, 200);
    assert_eq!(keyed.code(&value(1), "POST", "/indexes/books/search", json!({})).await.0, 403);
    let path = format!("/keys/{}", value(1));
    let (status, changed, _) =
        keyed.ask(Some(MASTER), "PATCH", &path, &json!({"name": "n", "description": null})).await;
    assert_eq!((status, &changed["name"], &changed["uid"]), (200, &json!("n"), &json!(uid(1))));
    assert_eq!(keyed.ask(Some(MASTER), "DELETE", &path, &Value::Null).await.0, 204);
    for (method, path) in
        [("GET", &path), ("DELETE", &path), ("PATCH", &format!("/keys/{}", uid(1)))]
    {
        let gone = keyed.code(MASTER, method, path, json!({})).await;
        assert_eq!(gone, (404, "api_key_not_found".to_owned()), "{method}");
    }
    assert_eq!(keyed.code(&value(1), "POST", "/indexes/movies/search", json!({})).await.0, 403);
    // Another master key, other values.
    let other_value = other["key"].as_str().unwrap_or_default();
    let mut context = (*keyed.world.context).clone();
    context.config.master_key = Some("another".to_owned());
    context.rings = Arc::default();
    let world = World { context: Arc::new(context), nodes: keyed.world.nodes.clone() };
    let keyed = Keyed { world, ..keyed };
    assert_eq!(keyed.code(other_value, "GET", "/version", Value::Null).await.0, 403);
    let fresh = value_of("another", other["uid"].as_str().unwrap_or_default());
    assert_eq!(keyed.code(&fresh, "GET", "/version", Value::Null).await.0, 200);
}

#[tokio::test(start_paused = true)]
async fn without_a_master_key_there_are_no_keys() {
    let keyed = Keyed::new(None);
    for (method, path, _) in ROUTES.iter().filter(|(_, path, _)| path.starts_with("/keys")) {
        let (status, code) = keyed.code("any", method, path, json!({})).await;
        assert_eq!((status, code.as_str()), (401, "missing_master_key"), "{method} {path}");
    }
    assert_eq!(keyed.ask(None, "POST", "/indexes/movies/search", &json!({})).await.0, 200);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_another_pod_made_is_asked_for_and_a_guess_is_not() {
    let keyed = Keyed::new(Some(MASTER));
    keyed.pod.elsewhere.lock().expect("nobody panicked").push(put(1, &[Action::All], &["*"]));
    for guess in ["guess", "a.b.c", &value(1).to_uppercase()] {
        assert_eq!(keyed.code(guess, "POST", "/indexes/movies/search", json!({})).await.0, 403);
    }
    assert_eq!(keyed.pod.asked.load(Ordering::Relaxed), 0);
    assert_eq!(keyed.code(&value(1), "POST", "/indexes/movies/search", json!({})).await.0, 200);
    assert_eq!(keyed.pod.asked.load(Ordering::Relaxed), 1);
    // Known now.
    assert_eq!(keyed.code(&value(1), "POST", "/indexes/movies/search", json!({})).await.0, 200);
    assert_eq!(keyed.code(&value(2), "POST", "/indexes/movies/search", json!({})).await.0, 403);
    assert_eq!(keyed.pod.asked.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn a_tenant_sees_what_its_token_lets_through() {
    let keyed = Keyed::new(Some(MASTER));
    keyed.pod.apply(&put(1, &[Action::Search], &["*"]));
    let rules = json!({"mov*": {"filter": ["tenant = 1", "hidden = false"]}, "books": null});
    let token = sign("HS256", &json!({"searchRules": rules, "apiKeyUid": uid(1)}), &value(1));
    let filters = |keyed: &Keyed| -> Vec<Value> {
        let calls = keyed.world.calls();
        let bodies = calls.iter().map(|(_, _, body)| serde_json::from_str::<Value>(body));
        bodies.map(|body| body.unwrap_or_default()["filter"].clone()).collect()
    };
    let query = json!({"q": "word", "filter": "year > 2000"});
    assert_eq!(keyed.code(&token, "POST", "/indexes/movies/search", query).await.0, 200);
    assert_eq!(
        keyed.code(&token, "GET", "/indexes/movies/search?q=word", Value::Null).await.0,
        200
    );
    let queries = json!({"queries": [{"indexUid": "movies", "filter": [["a = 1", "b = 1"]]}]});
    assert_eq!(keyed.code(&token, "POST", "/multi-search", queries).await.0, 200);
    assert_eq!(
        filters(&keyed),
        [
            json!(["year > 2000", "tenant = 1", "hidden = false"]),
            json!(["tenant = 1", "hidden = false"]),
            json!([["a = 1", "b = 1"], "tenant = 1", "hidden = false"]),
        ]
    );
    let queries = json!({"queries": [{"indexUid": "movies"}, {"indexUid": "music"}]});
    let (status, answer, _) = keyed.ask(Some(&token), "POST", "/multi-search", &queries).await;
    assert_eq!(
        (status, &answer["message"]),
        (403, &json!("Inside `.queries[1]`: The provided API key is invalid."))
    );
    assert_eq!(keyed.code(&token, "GET", "/indexes/movies/documents", Value::Null).await.0, 403);
    assert_eq!(keyed.code(&token, "GET", "/stats", Value::Null).await.0, 403);
    // The key is gone, and its tokens with it.
    keyed.pod.apply(&Command::DeleteApiKey { uid: uid(1) });
    let gone = keyed.code(&token, "POST", "/indexes/movies/search", json!({})).await;
    assert_eq!(gone, (403, "invalid_api_key".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn statistics_are_of_the_indexes_that_may_be_seen() {
    let keyed = Keyed::new(Some(MASTER));
    keyed.pod.apply(&put(1, &[Action::StatsGet, Action::DocumentsAdd], &["books"]));
    keyed.pod.apply(&put(2, &[Action::All], &["mov*"]));
    let (status, stats, _) = keyed.ask(Some(&value(1)), "GET", "/stats", &Value::Null).await;
    assert_eq!((status, &stats["indexes"]), (200, &json!({})));
    let may_create = |seen: Seen| (seen.0, seen.1);
    let path = "/indexes/books/documents";
    let first = keyed.ask(Some(&value(1)), "POST", path, &json!([])).await;
    assert_eq!(may_create(first), (202, json!(false)));
    let path = "/indexes/movies/documents";
    let second = keyed.ask(Some(&value(2)), "POST", path, &json!([])).await;
    assert_eq!(may_create(second), (202, json!(true)));
}
