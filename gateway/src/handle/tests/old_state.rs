//! What a pod says of answers made from a state that may be old, refusals included.

use super::*;

/// A view that was confirmed last this long before each look, in order; the last one stays.
#[derive(Debug)]
struct Aging(FixedRouting, Mutex<Vec<Duration>>);

impl RoutingSource for Aging {
    fn routing(&self) -> Arc<Routing> {
        self.0.routing()
    }

    fn unconfirmed_for(&self) -> Duration {
        let Ok(mut ages) = self.1.lock() else { return Duration::MAX };
        if ages.len() > 1 { ages.remove(0) } else { ages.first().copied().unwrap_or_default() }
    }

    fn is_indexing(&self, _: &IndexUid) -> bool {
        false
    }

    fn updated_at(&self, _: &IndexUid) -> Option<OffsetDateTime> {
        None
    }
}

/// No session's writes are here yet.
#[derive(Debug)]
struct Behind;

#[async_trait]
impl LogRoutes for Behind {
    async fn answer(&self, _: LogRoute, _: &RequestParts) -> Result<Reply, ApiError> {
        Ok(Reply::empty(202))
    }

    async fn catch_up(&self) -> bool {
        false
    }

    async fn settle_session(&self, _: &str, _: Option<&str>) -> bool {
        false
    }
}

/// Status, `X-Miroir-Degraded` and `X-Miroir-Session` of a search of `name` in a session.
async fn said(name: &str, ages: &[u64], log: Arc<dyn LogRoutes>) -> (u16, String, String) {
    let scripts = [("a", node_a as Script), ("b", node_b)];
    let view = || routing(&[&["a", "b"]], &json!({}));
    let world = world(view(), &scripts, GatewayConfig::default());
    let ages = ages.iter().map(|age| Duration::from_secs(*age)).collect();
    let aging = Arc::new(Aging(FixedRouting(Arc::new(view())), Mutex::new(ages)));
    let context =
        Arc::new(GatewayContext { routing: aging, log, ..GatewayContext::clone(&world.context) });
    let request = Request::builder().uri(format!("/indexes/{name}/search?q=word"));
    let request = request.header("x-miroir-session", "s").body(Full::new(Bytes::new()));
    let response = handle(&context, request.unwrap_or_else(|error| panic!("{error}"))).await;
    let header = |name| match response.headers().get(name) {
        Some(value) => value.to_str().unwrap_or_default().to_owned(),
        None => String::new(),
    };
    (response.status().as_u16(), header("x-miroir-degraded"), header("x-miroir-session"))
}

#[tokio::test(start_paused = true)]
async fn answers_and_refusals_of_an_old_state_say_so() {
    let (old, young) = (&[60][..], &[1][..]);
    let none = String::new;
    assert_eq!(said("movies", young, Arc::new(EchoLog)).await, (200, none(), none()));
    assert_eq!(said("movies", old, Arc::new(EchoLog)).await, (200, "stale=60".into(), none()));
    // It may exist by now.
    assert_eq!(said("nothing", old, Arc::new(EchoLog)).await, (404, "stale=60".into(), none()));
    // The state that the answer was made from was old, whatever came in while nodes were asked.
    assert_eq!(said("movies", &[60, 1], Arc::new(EchoLog)).await.1, "stale=60");
}

#[tokio::test(start_paused = true)]
async fn answers_and_refusals_that_lack_writes_of_their_session_say_so() {
    for (name, status) in [("movies", 200), ("nothing", 404)] {
        let seen = said(name, &[1], Arc::new(Behind)).await;
        assert_eq!((seen.0, seen.2.as_str()), (status, "behind"));
    }
}
