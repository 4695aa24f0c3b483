//! Connections as clients know them: both versions of HTTP, compressed answers, slow clients.

use std::net::SocketAddr;

use http_body_util::BodyExt;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

type TestResult = Result<(), Box<dyn std::error::Error>>;

/// Serves until `client` is done.
async fn served<F>(config: GatewayConfig, client: impl FnOnce(SocketAddr) -> F) -> TestResult
where
    F: Future<Output = TestResult>,
{
    let world = world(routing(&[&["a"]], &json!({})), &[("a", node_a)], config);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let reactors = Reactors::start(1)?;
    let servers: Vec<Server> =
        reactors.iter().map(|reactor| Server::new(world.context.clone(), reactor)).collect();
    let server = crate::server::serve(listener, &servers, async {
        let _ = stopped.await;
    });
    let client = async {
        let outcome = client(address).await;
        let _ = stop.send(());
        outcome
    };
    futures::future::join(server, client).await.1
}

#[tokio::test]
async fn both_versions_of_http_are_spoken() -> TestResult {
    served(GatewayConfig::default(), |address| async move {
        for http2 in [false, true] {
            let client: Client<_, Full<Bytes>> =
                Client::builder(TokioExecutor::new()).http2_only(http2).build_http();
            for _ in 0..2 {
                let answer = client.get(format!("http://{address}/health").parse()?).await?;
                assert_eq!(answer.status(), 200, "{http2}");
                assert_eq!(answer.version() == http::Version::HTTP_2, http2);
                let body = answer.into_body().collect().await?.to_bytes();
                assert_eq!(body, &br#"{"status":"available"}"#[..]);
            }
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn clients_that_send_no_head_are_left() -> TestResult {
    let config =
        GatewayConfig { header_timeout: Duration::from_millis(50), ..GatewayConfig::default() };
    served(config, |address| async move {
        for said in ["", "PRI * HT", "GET /health HTTP/1.1\r\nhost:"] {
            let mut stream = TcpStream::connect(address).await?;
            stream.write_all(said.as_bytes()).await?;
            let mut answer = Vec::new();
            // Over when the other side has closed it.
            let _ = stream.read_to_end(&mut answer).await;
            let answer = String::from_utf8_lossy(&answer).into_owned();
            assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{said:?}: {answer}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn answers_are_compressed_as_the_client_likes() -> TestResult {
    let world = world(routing(&[&["a"]], &json!({})), &[], GatewayConfig::default());
    for (accepted, encoding) in [(Some("gzip, br;q=0.5"), Some("gzip")), (None, None)] {
        let mut request = Request::get("/openapi.json");
        if let Some(accepted) = accepted {
            request = request.header("accept-encoding", accepted);
        }
        let answer = handle(&world.context, request.body(Full::new(Bytes::new()))?).await;
        let said = answer.headers().get("content-encoding").map(|value| value.to_str());
        assert_eq!(said.transpose()?, encoding);
        assert_eq!(answer.headers()["vary"], "accept-encoding");
        assert_eq!(answer.headers()["content-type"], "application/json");
        let body = answer.into_body().collect().await?.to_bytes();
        let is_plain = body.first() == Some(&b'{');
        assert_eq!(is_plain, encoding.is_none());
    }
    // Too small to be worth it.
    let request = Request::get("/health").header("accept-encoding", "gzip");
    let answer = handle(&world.context, request.body(Full::new(Bytes::new()))?).await;
    assert!(answer.headers().get("content-encoding").is_none());
    Ok(())
}
