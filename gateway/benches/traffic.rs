//! What counting costs a request: a call to a node with and without it, nothing being sent.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use futures::executor::block_on;
use http::{Method, Response};
use miroir_gateway::traffic::CountedTransport;
use miroir_seams::{Clock, NodeCall, NodeTransport, TransportError};

/// Answers at once.
#[derive(Debug)]
struct Echo;

#[async_trait]
impl NodeTransport for Echo {
    async fn send(&self, call: NodeCall) -> Result<Response<Bytes>, TransportError> {
        Ok(Response::new(call.body))
    }
}

fn count(criterion: &mut Criterion) {
    let call = NodeCall {
        base: "http://10.0.0.1:7700".to_owned(),
        key: None,
        method: Method::POST,
        path: "/indexes/0-films/search".to_owned(),
        content_type: None,
        body: Bytes::new(),
        timeout: Duration::from_secs(1),
        answer_bytes_max: 1,
    };
    let counted = CountedTransport::new(Arc::new(Echo), Arc::default(), Clock::real());
    criterion.bench_function("a call", |bencher| {
        bencher.iter(|| block_on(Echo.send(call.clone())));
    });
    criterion.bench_function("a call that is counted", |bencher| {
        bencher.iter(|| block_on(counted.send(call.clone())));
    });
}

criterion_group!(benches, count);
criterion_main!(benches);
