//! Over loopback, in real time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use miroir_seams::{
    Files, PeerCall, PeerCallError, PeerRefusal, PeerService, PeerTransport, RealFiles, Seams,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use super::*;
use crate::secrets::ClusterSecrets;

const SECRET: &str = "the secret of the cluster under test, long enough";
const NEXT: &str = "the next secret of the cluster under test, long";

/// Answers `echo` with the request; refuses `refuse`; never answers `wait`; panics at `panic`.
#[derive(Debug, Default)]
struct Service {
    served: AtomicUsize,
}

#[async_trait]
impl PeerService for Service {
    async fn serve(&self, channel: &str, body: Bytes) -> Result<Bytes, PeerRefusal> {
        self.served.fetch_add(1, Ordering::SeqCst);
        match channel {
            "echo" | "journal/echo" => Ok(body),
            "wait" => std::future::pending().await,
            "panic" => panic!("as the test asks"),
            other => Err(PeerRefusal(format!("{other} is not for me"))),
        }
    }
}

struct Server {
    address: SocketAddr,
    service: Arc<Service>,
    secrets: ClusterSecrets,
    stop: Option<oneshot::Sender<()>>,
    served: tokio::task::JoinHandle<Result<(), rustls::Error>>,
}

fn secrets(list: &[&str]) -> ClusterSecrets {
    ClusterSecrets::new(list).expect("a good list")
}

async fn server(list: &[&str]) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address");
    let (service, secrets, seams) = (Arc::new(Service::default()), secrets(list), Seams::real());
    let (stop, stopped) = oneshot::channel::<()>();
    let (its_service, its_secrets) = (service.clone(), secrets.clone());
    let served = seams.tasks.clone().spawn("server", async move {
        let stopped = async {
            let _ = stopped.await;
        };
        serve(listener, its_secrets, its_service, scratch(), &seams, stopped).await
    });
    Server { address, service, secrets, stop: Some(stop), served }
}

fn scratch() -> Arc<dyn Files> {
    Arc::new(RealFiles::new(std::env::temp_dir()).expect("a directory"))
}

fn link(list: &[&str]) -> Arc<Link> {
    Link::new(secrets(list), scratch(), &Seams::real()).expect("a link")
}

async fn call(
    link: &Link,
    address: SocketAddr,
    channel: &'static str,
    body: Vec<Bytes>,
) -> Result<Bytes, PeerCallError> {
    let timeout = Duration::from_secs(5);
    link.call(PeerCall { address: address.to_string(), channel, body, timeout }).await
}

fn hello() -> Vec<Bytes> {
    vec![Bytes::from_static(b"hel"), Bytes::new(), Bytes::from_static(b"lo")]
}

#[tokio::test]
async fn a_call_is_answered_and_its_connection_used_again() {
    let (server, link) = (server(&[SECRET]).await, link(&[SECRET]));
    for _ in 0..3 {
        assert_eq!(call(&link, server.address, "echo", hello()).await, Ok(Bytes::from("hello")));
        assert_eq!(call(&link, server.address, "echo", vec![]).await, Ok(Bytes::new()));
    }
    assert_eq!(link.kept(), 1);
    let calls = (0..20).map(|_| call(&link, server.address, "echo", hello()));
    let answers = join_all(calls).await;
    assert!(answers.iter().all(|answer| *answer == Ok(Bytes::from("hello"))));
    assert!(link.kept() > 1 && link.kept() <= IDLE_PER_ADDRESS_MAX);
    let refused = call(&link, server.address, "other", hello()).await;
    assert_eq!(refused, Err(PeerCallError::Refused("other is not for me".into())));
}

async fn join_all<T>(futures: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut pending: Vec<_> = futures.map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        let mut all = true;
        for (future, done) in &mut pending {
            if done.is_none() {
                match future.as_mut().poll(context) {
                    std::task::Poll::Ready(value) => *done = Some(value),
                    std::task::Poll::Pending => all = false,
                }
            }
        }
        if all { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    pending.into_iter().filter_map(|(_, done)| done).collect()
}

#[tokio::test]
async fn whoever_has_another_secret_is_certainly_not_served() {
    let server = server(&[SECRET]).await;
    let outcome = call(&link(&[NEXT]), server.address, "echo", hello()).await;
    assert!(matches!(outcome, Err(PeerCallError::Unreachable(_))), "{outcome:?}");
    // The client accepts the server, only the server refuses: still before the request is sent.
    let outcome = call(&link(&[NEXT, SECRET]), server.address, "echo", hello()).await;
    assert!(matches!(outcome, Err(PeerCallError::Unreachable(_))), "{outcome:?}");
    assert_eq!(server.service.served.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn nobody_there_is_unreachable_and_silence_is_not() {
    let gone = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = gone.local_addr().expect("its address");
    let link = link(&[SECRET]);
    // Accepts, and says nothing.
    let outcome = call(&link, address, "echo", hello()).await;
    assert!(matches!(outcome, Err(PeerCallError::Unreachable(_))), "{outcome:?}");
    drop(gone);
    let outcome = call(&link, address, "echo", hello()).await;
    assert!(matches!(outcome, Err(PeerCallError::Unreachable(_))), "{outcome:?}");
    let server = server(&[SECRET]).await;
    let timeout = Duration::from_millis(200);
    let address = server.address.to_string();
    let wait = PeerCall { address, channel: "wait", body: hello(), timeout };
    assert_eq!(link.call(wait).await, Err(PeerCallError::TimedOut(timeout)));
    assert_eq!(link.kept(), 0);
    let outcome = call(&link, server.address, "panic", hello()).await;
    assert!(matches!(outcome, Err(PeerCallError::Broken(_))), "{outcome:?}");
    assert_eq!(call(&link, server.address, "echo", hello()).await, Ok(Bytes::from("hello")));
}

#[tokio::test]
async fn garbage_on_the_port_gets_nothing_and_harms_nobody() {
    let (server, link) = (server(&[SECRET]).await, link(&[SECRET]));
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 5000], &[0x16, 3, 1, 0xff, 0xff, 1, 2]] {
        let mut stream = TcpStream::connect(server.address).await.expect("a connection");
        stream.write_all(garbage).await.expect("written");
        stream.shutdown().await.expect("shut down");
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        // At most a TLS alert.
        assert!(answer.is_empty() || answer[0] == 0x15, "{answer:?}");
    }
    assert_eq!(call(&link, server.address, "echo", hello()).await, Ok(Bytes::from("hello")));
    assert_eq!(server.service.served.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn large_bodies_pass_where_they_may() {
    let (server, link) = (server(&[SECRET]).await, link(&[SECRET]));
    let part = Bytes::from(vec![7; BODY_BYTES_MAX / 2]);
    let full = vec![part.clone(), part.clone()];
    let answer = call(&link, server.address, "echo", full).await.expect("an answer");
    assert_eq!(answer.len(), BODY_BYTES_MAX);
    let over = vec![part.clone(), part.clone(), Bytes::from_static(b"!")];
    let outcome = call(&link, server.address, "echo", over.clone()).await;
    assert!(matches!(outcome, Err(PeerCallError::Refused(_))), "{outcome:?}");
    let answer = call(&link, server.address, "journal/echo", over).await.expect("an answer");
    assert_eq!(answer.len(), BODY_BYTES_MAX + 1);
}

#[tokio::test]
async fn large_bodies_arrive_as_they_were_sent() {
    let (server, link) = (server(&[SECRET]).await, link(&[SECRET]));
    let part: Bytes = (0..3_000_017u32).map(|n| (n % 251) as u8).collect();
    for parts in [2, 3, 5, 9] {
        let body = vec![part.clone(); parts];
        let answer = call(&link, server.address, "journal/echo", body.clone()).await;
        assert!(answer.expect("an answer") == body.concat(), "{parts} parts");
    }
}

#[tokio::test]
async fn the_secret_is_replaced_without_a_lost_call() {
    let (server, link) = (server(&[SECRET]).await, link(&[SECRET]));
    for list in [&[SECRET, NEXT][..], &[NEXT, SECRET], &[NEXT]] {
        for side in [&server.secrets, link.secrets()] {
            side.replace(list).expect("a good list");
            let answer = call(&link, server.address, "echo", hello()).await;
            assert_eq!(answer, Ok(Bytes::from("hello")));
        }
    }
    // A connection that was proved with a secret that is gone is closed.
    assert_eq!(link.kept(), 1);
    server.secrets.replace(&[SECRET]).expect("a good list");
    let outcome = call(&link, server.address, "echo", hello()).await;
    assert!(!matches!(outcome, Ok(_) | Err(PeerCallError::TimedOut(_))), "{outcome:?}");
    let outcome = call(&link, server.address, "echo", hello()).await;
    assert!(matches!(outcome, Err(PeerCallError::Unreachable(_))), "{outcome:?}");
}

#[tokio::test]
async fn a_restarted_server_is_called_again_without_an_error() {
    let (mut first, link) = (server(&[SECRET]).await, link(&[SECRET]));
    assert_eq!(call(&link, first.address, "echo", hello()).await, Ok(Bytes::from("hello")));
    assert_eq!(link.kept(), 1);
    drop(first.stop.take());
    assert_eq!(first.served.await.expect("ended"), Ok(()));
    let outcome = call(&link, first.address, "echo", hello()).await;
    assert!(matches!(outcome, Err(PeerCallError::Unreachable(_))), "{outcome:?}");
}
