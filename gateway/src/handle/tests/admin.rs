//! The admin API, over a source that knows one pod with one actor.

use std::sync::Mutex;

use crate::admin::{
    ActorView, ActorsAnswer, AdminError, AdminSource, LeaveAnswer, PeerView, PeersAnswer,
    PodActors, RestartAnswer, RoleView,
};

use super::*;
use crate::jobs::JobsSource;
use crate::topology::TopologySource;

const ADMIN_KEY: &str = "admin key";
const ACTOR: &str = "pod-1/writer/movies";

#[derive(Debug, Default)]
struct OnePod {
    restarted: Mutex<Vec<String>>,
}

impl JobsSource for OnePod {}

impl TopologySource for OnePod {}

impl crate::reshard::ReshardSource for OnePod {}

impl crate::comparisons::ComparisonsSource for OnePod {}

impl crate::metrics::MetricsSource for OnePod {}

#[async_trait]
impl AdminSource for OnePod {
    async fn peers(&self) -> Result<PeersAnswer, AdminError> {
        let pod = PeerView {
            id: "pod-1".into(),
            raft_id: Some(u64::MAX.to_string()),
            peer_address: "10.0.0.1:7790".into(),
            http_address: "10.0.0.1:7700".into(),
            version: "0.1.0".into(),
            alive: true,
            since: 12,
            generation: 3,
            voter: true,
            learner: false,
            is_self: true,
            facts: BTreeMap::from([("load".to_owned(), "0.5".to_owned())]),
        };
        Ok(PeersAnswer {
            self_pod: "pod-1".into(),
            cluster_id: Some("c".into()),
            leader: None,
            pods: vec![pod],
        })
    }

    async fn roles(&self) -> Result<Vec<RoleView>, AdminError> {
        Ok(vec![RoleView {
            role: "writer/movies".into(),
            holder: Some("pod-1".into()),
            epoch: 7,
            alive: true,
        }])
    }

    async fn actors(&self, pod: Option<&str>) -> Result<ActorsAnswer, AdminError> {
        if let Some(other) = pod.filter(|pod| *pod != "pod-1") {
            return Err(AdminError::PodNotFound(other.to_owned()));
        }
        let actor = ActorView {
            id: ACTOR.into(),
            name: "writer/movies".into(),
            kind: "Writer".into(),
            parent: None,
            state: "running".into(),
            mailbox: 1,
            handled: 2,
            busy_micros: 30,
            mean_micros: 15,
            restarts: 0,
            last_error: None,
            last_error_at: None,
            started_at: OffsetDateTime::UNIX_EPOCH,
        };
        let here =
            PodActors { pod: "pod-1".into(), reachable: true, error: None, actors: vec![actor] };
        Ok(ActorsAnswer { pods: vec![here] })
    }

    async fn restart_actor(&self, id: &str) -> Result<RestartAnswer, AdminError> {
        if id != ACTOR {
            return Err(AdminError::ActorNotFound(id.to_owned()));
        }
        if let Ok(mut restarted) = self.restarted.lock() {
            restarted.push(id.to_owned());
        }
        Ok(RestartAnswer { id: id.to_owned(), pod: "pod-1".into() })
    }

    async fn leave(&self, id: &str, begin: bool) -> Result<LeaveAnswer, AdminError> {
        match (id, begin) {
            ("pod-1", true) => Err(AdminError::LastPod(id.to_owned())),
            ("pod-1", false) => Ok(LeaveAnswer {
                pod: id.to_owned(),
                leaving: false,
                holds_roles: true,
                journalled: 2,
                member: true,
                left: false,
            }),
            _ => Err(AdminError::PodNotFound(id.to_owned())),
        }
    }
}

async fn ask(
    source: Option<Arc<dyn AdminSource>>,
    method: &str,
    path: &str,
    key: Option<&str>,
) -> (u16, Value) {
    let config = GatewayConfig { admin_key: Some(ADMIN_KEY.into()), ..Default::default() };
    let World { context, .. } = world(routing(&[&["a"]], &json!({})), &[], config);
    let context = match source {
        Some(source) => Arc::new(context.as_ref().clone().with_admin(source)),
        None => context,
    };
    let mut request = Request::builder().method(method).uri(path);
    if let Some(key) = key {
        request = request.header("authorization", format!("Bearer {key}"));
    }
    let request = request.body(Full::new(Bytes::new())).unwrap_or_else(|error| panic!("{error}"));
    let (status, body, _) = seen(handle(&context, request).await).await;
    (status, body)
}

#[tokio::test]
async fn pods_roles_and_actors_are_answered_as_documented() {
    let source: Arc<dyn AdminSource> = Arc::new(OnePod::default());
    for (path, expected) in [
        (
            "/_miroir/peers",
            json!({"self": "pod-1", "clusterId": "c", "leader": null, "pods": [{
                "id": "pod-1", "raftId": "18446744073709551615",
                "peerAddress": "10.0.0.1:7790", "httpAddress": "10.0.0.1:7700",
                "version": "0.1.0", "alive": true, "since": 12, "generation": 3, "voter": true,
                "learner": false, "self": true, "facts": {"load": "0.5"}}]}),
        ),
        (
            "/_miroir/roles",
            json!([{"role": "writer/movies", "holder": "pod-1", "epoch": 7, "alive": true}]),
        ),
        (
            "/_miroir/actors?pod=pod%2D1",
            json!({"pods": [{"pod": "pod-1", "reachable": true, "actors": [{
                "id": ACTOR, "name": "writer/movies", "kind": "Writer", "parent": null,
                "state": "running", "mailbox": 1, "handled": 2, "busyMicros": 30,
                "meanMicros": 15, "restarts": 0, "lastError": null, "lastErrorAt": null,
                "startedAt": "1970-01-01T00:00:00Z"}]}]}),
        ),
        (
            "/_miroir/pods/pod-1/leave",
            json!({"pod": "pod-1", "leaving": false, "holdsRoles": true, "journalled": 2,
                "member": true, "left": false}),
        ),
    ] {
        let answer = ask(Some(source.clone()), "GET", path, Some(ADMIN_KEY)).await;
        assert_eq!(answer, (200, expected), "{path}");
    }
}

#[tokio::test]
async fn an_actor_is_restarted_by_its_id_whatever_is_in_it() {
    let source = Arc::new(OnePod::default());
    let path = "/_miroir/actors/pod-1%2Fwriter%2Fmovies/restart";
    let answer = ask(Some(source.clone()), "POST", path, Some(ADMIN_KEY)).await;
    assert_eq!(answer, (202, json!({"id": ACTOR, "pod": "pod-1"})));
    let restarted = source.restarted.lock().map(|restarted| restarted.clone());
    assert_eq!(restarted.unwrap_or_default(), [ACTOR]);
}

#[tokio::test]
async fn operators_are_refused_with_the_code_that_says_why() {
    let source: Arc<dyn AdminSource> = Arc::new(OnePod::default());
    for (method, path, key, status, code) in [
        ("GET", "/_miroir/peers", None, 401, "miroir_invalid_auth"),
        ("GET", "/_miroir/roles", Some("master"), 401, "miroir_invalid_auth"),
        ("POST", "/_miroir/actors/a/restart", None, 401, "miroir_invalid_auth"),
        ("GET", "/_miroir/actors?pod=x", Some(ADMIN_KEY), 404, "miroir_pod_not_found"),
        ("GET", "/_miroir/actors?pods=x", Some(ADMIN_KEY), 400, "bad_request"),
        ("POST", "/_miroir/actors/a/restart", Some(ADMIN_KEY), 404, "miroir_actor_not_found"),
        ("POST", "/_miroir/pods/pod-1/leave", Some(ADMIN_KEY), 409, "miroir_last_pod"),
        ("GET", "/_miroir/pods/x/leave", Some(ADMIN_KEY), 404, "miroir_pod_not_found"),
        ("GET", "/_miroir/jobs", Some("master"), 401, "miroir_invalid_auth"),
        ("PUT", "/_miroir/jobs/1/chunks/0", None, 401, "miroir_invalid_auth"),
        ("POST", "/_miroir/jobs/imports?index=a&stream=true", None, 401, "miroir_invalid_auth"),
        ("POST", "/_miroir/jobs/imports", Some(ADMIN_KEY), 400, "bad_request"),
        ("POST", "/_miroir/jobs/1/seal", Some(ADMIN_KEY), 400, "bad_request"),
        ("GET", "/_miroir/jobs/x", Some(ADMIN_KEY), 404, "miroir_job_not_found"),
        ("PUT", "/_miroir/jobs/1/chunks/x", Some(ADMIN_KEY), 400, "bad_request"),
        ("GET", "/_miroir/shards", Some(ADMIN_KEY), 501, "miroir_not_supported"),
    ] {
        let (seen, body) = ask(Some(source.clone()), method, path, key).await;
        assert_eq!((seen, body["code"].as_str()), (status, Some(code)), "{method} {path}");
    }
    let (status, _) = ask(Some(source), "DELETE", "/_miroir/peers", Some(ADMIN_KEY)).await;
    assert_eq!(status, 405);
}

#[tokio::test]
async fn without_a_source_every_route_says_that_it_is_not_there() {
    for (method, path) in [
        ("GET", "/_miroir/peers"),
        ("GET", "/_miroir/roles"),
        ("GET", "/_miroir/actors"),
        ("POST", "/_miroir/actors/a/restart"),
        ("POST", "/_miroir/pods/a/leave"),
        ("GET", "/_miroir/jobs"),
        ("DELETE", "/_miroir/jobs/1"),
        ("POST", "/_miroir/jobs/imports?index=a&stream=true"),
    ] {
        let (status, body) = ask(None, method, path, Some(ADMIN_KEY)).await;
        assert_eq!((status, body["code"].as_str()), (501, Some("miroir_not_supported")), "{path}");
    }
}
