//! The way of clients into pods: the real handling of requests, without sockets.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt, Full};
use miroir_actors::pod::PodContext;
use miroir_gateway::context::{ContextParts, GatewayConfig, GatewayContext};
use miroir_gateway::handle::handle;
use miroir_gateway::intake::Spool;
use miroir_gateway::log_routes::PodRoutes;
use miroir_seams::{MemoryFiles, NodeTransport};
use serde_json::Value;

/// Bytes of large bodies that a pod may spool; no client sends any.
const SPOOL_BYTES_MAX: u64 = 1 << 20;

/// A request of a client.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Method.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// JSON; empty for none.
    pub body: Bytes,
    /// Further headers.
    pub headers: Vec<(&'static str, String)>,
}

/// What a client was answered.
#[derive(Clone, Debug)]
pub struct Answered {
    /// HTTP status.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// The body as it came.
    pub body: Bytes,
}

impl Answered {
    /// The body as JSON; null when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The error's code, if it is one.
    pub fn code(&self) -> Option<String> {
        Some(self.json().get("code")?.as_str()?.to_owned())
    }

    /// A header that is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// A pod as clients reach it.
#[derive(Clone, Debug)]
pub struct Entrance {
    /// The pod's number.
    pub number: usize,
    /// Its parts, for checks that look past the API.
    pub pod: Arc<PodContext>,
    gateway: Arc<GatewayContext>,
}

impl Entrance {
    /// The entrance of a pod whose reads go to the nodes by `transport`.
    ///
    /// # Errors
    /// When the spool can't be opened.
    pub fn new(
        number: usize,
        pod: Arc<PodContext>,
        transport: Arc<dyn NodeTransport>,
    ) -> io::Result<Self> {
        let routes = Arc::new(PodRoutes::new(pod.clone()));
        let parts = ContextParts {
            routing: routes.clone(),
            log: routes,
            transport,
            health: pod.health.clone(),
            spool: Spool::open(Arc::new(MemoryFiles::default()), SPOOL_BYTES_MAX)?,
            seams: pod.seams.clone(),
        };
        let gateway = Arc::new(GatewayContext::new(parts, GatewayConfig::default()));
        Ok(Self { number, pod, gateway })
    }

    /// Sends a request and waits for its answer.
    pub async fn ask(&self, asked: Asked) -> Answered {
        let mut request = Request::builder().method(asked.method).uri(asked.path);
        if !asked.body.is_empty() {
            request = request.header("content-type", "application/json");
        }
        for (name, value) in asked.headers {
            request = request.header(name, value);
        }
        let Ok(request) = request.body(Full::new(asked.body)) else {
            // A mistake of the workload, which shows as an answer that no check expects.
            return Answered { status: 0, headers: HeaderMap::new(), body: Bytes::new() };
        };
        let (head, body) = handle(&self.gateway, request).await.into_parts();
        let body = match body.collect().await {
            Ok(body) => body.to_bytes(),
            Err(never) => match never {},
        };
        Answered { status: head.status.as_u16(), headers: head.headers, body }
    }

    /// The staleness that this pod may have without saying so, milliseconds.
    pub fn max_staleness_ms(&self) -> u64 {
        u64::try_from(self.gateway.config.max_staleness.as_millis()).unwrap_or(u64::MAX)
    }
}

/// The pods that clients reach at the moment, by number. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Entrances {
    open: Arc<Mutex<Vec<Option<Entrance>>>>,
}

impl Entrances {
    /// Opens or closes the entrance of a pod.
    pub fn set(&self, pod: usize, entrance: Option<Entrance>) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() <= pod {
            open.resize(pod + 1, None);
        }
        if let Some(place) = open.get_mut(pod) {
            *place = entrance;
        }
    }

    /// Those that are open, by number.
    pub fn all(&self) -> Vec<Entrance> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.iter().flatten().cloned().collect()
    }

    /// Whether `entrance` still leads to the same life of its pod.
    pub fn leads_to(&self, entrance: &Entrance) -> bool {
        self.all().iter().any(|open| Arc::ptr_eq(&open.pod, &entrance.pod))
    }

    /// The one whose pod has applied most.
    pub fn most_advanced(&self) -> Option<Entrance> {
        self.all().into_iter().max_by_key(|entrance| entrance.pod.log.applied_index())
    }
}
