//! `ctl` against the gateway's own server, whose admin API knows two pods, one of them away.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use miroir_gateway::admin::{
    ActorView, AdminError, AdminSource, LeaveAnswer, NoAdmin, PeerView, PodActors, RestartAnswer,
};
use miroir_gateway::context::{
    ContextParts, GatewayConfig, GatewayContext, LogRoutes, RequestParts, RoutingSource,
};
use miroir_gateway::intake::Spool;
use miroir_gateway::jobs::JobsSource;
use miroir_gateway::reply::Reply;
use miroir_gateway::router::LogRoute;
use miroir_gateway::server::{Server, serve};
use miroir_gateway::topology::TopologySource;
use miroir_seams::{MemoryFiles, Reactors, Seams};
use miroir_storage::ids::IndexUid;
use miroir_storage::routing::Routing;
use miroir_wire::error::ApiError;
use serde_json::Value;
use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use super::*;

const KEY: &str = "fedcba9876543210";
const ACTOR: &str = "pod-1/writer/movies";

#[derive(Debug)]
struct NoIndexes;

impl RoutingSource for NoIndexes {
    fn routing(&self) -> Arc<Routing> {
        Arc::default()
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
impl LogRoutes for NoIndexes {
    async fn answer(&self, _: LogRoute, _: &RequestParts) -> Result<Reply, ApiError> {
        Ok(Reply::empty(404))
    }

    async fn catch_up(&self) -> bool {
        false
    }

    async fn settle_session(&self, _: &str, _: Option<&str>) -> bool {
        true
    }
}

#[derive(Debug)]
struct TwoPods;

fn peer(id: &str, alive: bool) -> PeerView {
    PeerView {
        id: id.into(),
        raft_id: None,
        peer_address: "10.0.0.1:7790".into(),
        http_address: "10.0.0.1:7700".into(),
        version: "0.1.0".into(),
        alive,
        since: 61,
        generation: 2,
        voter: alive,
        learner: !alive,
        is_self: alive,
        facts: BTreeMap::new(),
    }
}

fn actor(id: &str, name: &str, parent: Option<&str>, error: Option<&str>) -> ActorView {
    ActorView {
        id: id.into(),
        name: name.into(),
        kind: "Actor".into(),
        parent: parent.map(str::to_owned),
        state: "running".into(),
        mailbox: 0,
        handled: 12,
        busy_micros: 120,
        mean_micros: 10,
        restarts: 1,
        last_error: error.map(str::to_owned),
        last_error_at: error.map(|_| OffsetDateTime::UNIX_EPOCH),
        started_at: OffsetDateTime::UNIX_EPOCH,
    }
}

impl JobsSource for TwoPods {}

impl TopologySource for TwoPods {}

impl miroir_gateway::reshard::ReshardSource for TwoPods {}

impl miroir_gateway::comparisons::ComparisonsSource for TwoPods {}

impl miroir_gateway::metrics::MetricsSource for TwoPods {}

#[async_trait]
impl AdminSource for TwoPods {
    async fn peers(&self) -> Result<PeersAnswer, AdminError> {
        Ok(PeersAnswer {
            self_pod: "pod-1".into(),
            cluster_id: Some("c1".into()),
            leader: Some("pod-1".into()),
            pods: vec![peer("pod-1", true), peer("pod-2", false)],
        })
    }

    async fn roles(&self) -> Result<Vec<RoleView>, AdminError> {
        let role = |role: &str, holder: Option<&str>| RoleView {
            role: role.into(),
            holder: holder.map(str::to_owned),
            epoch: 4,
            alive: holder.is_some(),
        };
        Ok(vec![role("membership", Some("pod-1")), role("writer/movies", None)])
    }

    async fn actors(&self, pod: Option<&str>) -> Result<ActorsAnswer, AdminError> {
        let actors =
            vec![actor("r", "pod", None, None), actor(ACTOR, "writer", Some("r"), Some("lost"))];
        let here = PodActors { pod: "pod-1".into(), reachable: true, error: None, actors };
        let away = PodActors {
            pod: "pod-2".into(),
            reachable: false,
            error: Some("time ran out".into()),
            actors: Vec::new(),
        };
        match pod {
            None => Ok(ActorsAnswer { pods: vec![here, away] }),
            Some("pod-1") => Ok(ActorsAnswer { pods: vec![here] }),
            Some(other) => Err(AdminError::PodNotFound(other.to_owned())),
        }
    }

    async fn restart_actor(&self, id: &str) -> Result<RestartAnswer, AdminError> {
        match id {
            ACTOR => Ok(RestartAnswer { id: id.to_owned(), pod: "pod-1".into() }),
            "pod-2/root" => {
                Err(AdminError::PodUnreachable { pod: "pod-2".into(), why: "time ran out".into() })
            }
            _ => Err(AdminError::ActorNotFound(id.to_owned())),
        }
    }

    async fn leave(&self, id: &str, begin: bool) -> Result<LeaveAnswer, AdminError> {
        if id == "pod-1" {
            return Err(AdminError::LastPod(id.to_owned()));
        }
        Ok(LeaveAnswer {
            pod: id.to_owned(),
            leaving: true,
            holds_roles: false,
            journalled: u64::from(begin),
            member: begin,
            left: !begin,
        })
    }
}

/// Runs `command` with `key` against a pod with that admin API.
async fn ask(
    source: Arc<dyn AdminSource>,
    key: &str,
    command: CtlCommand,
    json: bool,
) -> anyhow::Result<Outcome> {
    let parts = ContextParts {
        routing: Arc::new(NoIndexes),
        log: Arc::new(NoIndexes),
        transport: Arc::new(HttpTransport::new()),
        health: Arc::default(),
        spool: Spool::open(Arc::new(MemoryFiles::new()), 1 << 20).expect("in memory"),
        seams: Seams::real(),
    };
    let config = GatewayConfig { admin_key: Some(KEY.to_owned()), ..GatewayConfig::default() };
    let context = Arc::new(GatewayContext::new(parts, config).with_admin(source));
    let reactors = Reactors::start(1).expect("a thread");
    let servers: Vec<Server> =
        reactors.iter().map(|reactor| Server::new(context.clone(), reactor)).collect();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}/", listener.local_addr().expect("bound"));
    let (stop, stopped) = oneshot::channel::<()>();
    let server = serve(listener, &servers, async {
        let _ = stopped.await;
    });
    let client = async {
        let client = AdminClient::new(HttpTransport::new(), &url, Secret::new(key))?;
        let outcome = execute(&client, None, command, json).await;
        drop(client);
        let _ = stop.send(());
        outcome
    };
    tokio::join!(server, client).1
}

async fn printed(command: CtlCommand) -> String {
    ask(Arc::new(TwoPods), KEY, command, false).await.expect("answered").text
}

#[tokio::test]
async fn pods_and_roles_are_tables() {
    assert_eq!(
        printed(CtlCommand::Peers).await,
        "cluster c1, leader pod-1, asked pod-1\n\n\
         POD    STATE    FOR  LOG      PEERS          CLIENTS        VERSION  STARTS\n\
         pod-1  alive  1m 1s  voter    10.0.0.1:7790  10.0.0.1:7700  0.1.0         2\n\
         pod-2  gone   1m 1s  learner  10.0.0.1:7790  10.0.0.1:7700  0.1.0         2\n"
    );
    assert_eq!(
        printed(CtlCommand::Roles).await,
        "ROLE           HOLDER  EPOCH  STATE\n\
         membership     pod-1       4  alive\n\
         writer/movies  -           4  gone\n"
    );
}

#[tokio::test]
async fn actors_are_a_tree_and_pods_that_are_away_make_it_a_failure() {
    let all = ask(Arc::new(TwoPods), KEY, CtlCommand::Actors { pod: None }, false).await;
    let all = all.expect("answered");
    assert!(all.text.contains("\npod       Actor"), "{}", all.text);
    assert!(all.text.contains("\n  writer  Actor"), "{}", all.text);
    assert!(all.text.contains("1970-01-01T00:00:00Z lost\n"), "{}", all.text);
    assert!(all.text.contains("\npod-2: can't be reached: time ran out\n"), "{}", all.text);
    assert_eq!(all.missing.as_deref(), Some("1 of 2 pods did not answer: pod-2"));
    let command = CtlCommand::Actors { pod: Some("pod-1".to_owned()) };
    let one = ask(Arc::new(TwoPods), KEY, command, false).await.expect("answered");
    assert_eq!(one.missing, None);
}

#[tokio::test]
async fn json_is_the_pod_s_own_answer() {
    let outcome = ask(Arc::new(TwoPods), KEY, CtlCommand::Peers, true).await.expect("answered");
    let answer: Value = serde_json::from_str(&outcome.text).expect("JSON");
    assert_eq!(answer["pods"][0]["peerAddress"], "10.0.0.1:7790");
    assert!(outcome.text.ends_with("}\n"));
}

#[tokio::test]
async fn an_actor_is_named_as_it_was_printed() {
    let text = printed(CtlCommand::RestartActor { id: ACTOR.to_owned() }).await;
    assert_eq!(text, "pod-1/writer/movies starts again on pod-1\n");
}

#[tokio::test]
async fn a_pod_is_waited_for_until_it_has_left() {
    let leave = |pod: &str, timeout| CtlCommand::Leave { pod: pod.to_owned(), timeout };
    let text = printed(leave("pod-2", 60)).await;
    assert_eq!(text, "pod-2 has left: it may be stopped, and its disk thrown away\n");
    let error = ask(Arc::new(TwoPods), KEY, leave("pod-2", 0), false).await;
    let error = error.expect_err("not yet");
    assert!(error.to_string().contains("it goes on leaving"), "{error:#}");
    assert!(!error.is::<Refused>());
}

#[tokio::test]
async fn what_is_refused_differs_from_what_may_be_tried_again() {
    let restart = |id: &str| CtlCommand::RestartActor { id: id.to_owned() };
    let two = || Arc::new(TwoPods) as Arc<dyn AdminSource>;
    for (source, key, command, refused, part) in [
        (two(), "wrong", CtlCommand::Peers, true, "miroir_invalid_auth"),
        (two(), KEY, restart("nobody"), true, "Actor `nobody` not found"),
        (two(), KEY, CtlCommand::Actors { pod: Some("x y".into()) }, true, "Pod `x y` not found"),
        (
            two(),
            KEY,
            CtlCommand::Leave { pod: "pod-1".into(), timeout: 1 },
            true,
            "no other pod is there that stays",
        ),
        (two(), KEY, restart("pod-2/root"), false, "Pod `pod-2` can't be reached"),
        (Arc::new(NoAdmin), KEY, CtlCommand::Roles, true, "miroir_not_supported"),
    ] {
        let error = ask(source, key, command, false).await.expect_err("refused");
        assert_eq!(error.is::<Refused>(), refused, "{error:#}");
        assert!(error.to_string().contains(part), "{error:#}");
    }
}

#[tokio::test]
async fn a_pod_that_is_not_there_is_named_with_the_way_out() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    drop(listener);
    let client = AdminClient::new(HttpTransport::new(), &url, Secret::new(KEY)).expect("a URL");
    let error = execute(&client, None, CtlCommand::Peers, false).await.expect_err("nobody listens");
    assert!(error.to_string().contains("--url chooses another"), "{error:#}");
    assert!(!error.is::<Refused>());
}

#[tokio::test]
async fn a_url_that_no_pod_can_have_is_refused() {
    for url in ["https://a:1", "a:1", "http://a:1/path", "http://a:1?b", "ftp://a"] {
        let refused = AdminClient::new(HttpTransport::new(), url, Secret::new(KEY));
        assert!(refused.is_err_and(|error| error.0.contains(url)), "{url}");
    }
}
