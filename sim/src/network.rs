//! The way from a pod to the nodes, with everything that goes wrong on it.
//!
//! A request is carried by the network's own task: when the pod dies or gives up, what is under
//! way still arrives. Links are open, refuse connections, or hang (what is sent waits until
//! they open, or is lost); on open links each message may meet one of [`FaultRates`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Method, Response, StatusCode};
use miroir_seams::{NodeCall, NodeTransport, Tasks, TransportError};
use miroir_storage::ids::{IndexUid, NodeId};
use miroir_wire::reserved::{SHARD_FIELD, parse_shard_token};
use serde_json::Value;
use tokio::sync::oneshot;

use crate::asked::Asked;
use crate::dice::Dice;
use crate::disk::Life;
use crate::ledger::Ledger;
use crate::model_node::{ModelNode, id_text};
use crate::peer_network::PeerNetwork;
use crate::pod::pod_id;
use crate::trace::Trace;

/// How often a hanging link is looked at by what waits behind it.
const HANGING_LOOK: Duration = Duration::from_millis(500);
/// A request that its sender gave up arrives at most this much after that.
const LATE_MS_MAX: u64 = 40_000;

/// Documents of one request that the trace names.
const NAMED_MAX: usize = 12;

/// What a link does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Carries messages.
    Open,
    /// Refuses connections.
    Refusing,
    /// Takes messages and brings no answer.
    Hanging,
}

/// How often single messages go wrong on open links, in a thousand.
#[derive(Clone, Copy, Debug, Default)]
pub struct FaultRates {
    /// The request is lost; the sender waits in vain.
    pub lost_request: u64,
    /// The request arrives after the sender has given up.
    pub late_request: u64,
    /// The request is carried out, the answer is lost.
    pub lost_answer: u64,
    /// The request is carried out, the connection breaks before the answer.
    pub broken_answer: u64,
    /// The node answers 500 and does nothing.
    pub error_before: u64,
    /// The node does it and answers 500.
    pub error_after: u64,
    /// The node does it and answers garbage.
    pub garbage: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Fine,
    LostRequest,
    Late,
    LostAnswer,
    BrokenAnswer,
    ErrorBefore,
    ErrorAfter,
    Garbage,
}

/// The network between the pods and all nodes.
#[derive(Debug)]
pub struct Network {
    nodes: BTreeMap<String, ModelNode>,
    weather: Mutex<Weather>,
    under_way: AtomicUsize,
    gone_wrong: AtomicU64,
    dice: Dice,
    /// Of their own, so that reads leave the fates of all else as they are.
    read_dice: Dice,
    trace: Trace,
    tasks: Tasks,
}

#[derive(Debug, Default)]
struct Weather {
    links: BTreeMap<NodeId, Link>,
    rates: FaultRates,
    /// The only node that requests may reach after their senders gave up. When both replicas of
    /// a shard are changed by late requests before the first is copied, only payloads kept in
    /// the journal could put them right, which no pod does yet.
    late_node: Option<NodeId>,
    /// Nodes that carried out a request after its sender had given up.
    served_late: BTreeSet<NodeId>,
    /// A write that takes this long may find that another pod writes by now.
    old_after: Option<Duration>,
}

/// The address under which the pod knows a node.
pub fn address_of(node: &NodeId) -> String {
    format!("http://{node}:7700")
}

impl Network {
    /// Open links to `nodes`; what is under way is carried by `tasks`.
    pub fn new(
        nodes: &[ModelNode],
        (dice, read_dice): (Dice, Dice),
        trace: Trace,
        tasks: Tasks,
    ) -> Arc<Self> {
        let nodes = nodes.iter().map(|node| (address_of(&node.id), node.clone())).collect();
        let under_way = AtomicUsize::new(0);
        let (weather, gone_wrong) = Default::default();
        Arc::new(Self { nodes, weather, under_way, gone_wrong, dice, read_dice, trace, tasks })
    }

    fn dice(&self, is_read: bool) -> &Dice {
        if is_read { &self.read_dice } else { &self.dice }
    }

    /// Changes a link.
    pub fn set_link(&self, node: &NodeId, link: Link) {
        self.weather().links.insert(node.clone(), link);
    }

    /// Changes how often messages go wrong.
    pub fn set_rates(&self, rates: FaultRates) {
        self.weather().rates = rates;
    }

    /// Lets requests reach this node after their senders gave up.
    pub fn set_late_node(&self, node: Option<NodeId>) {
        self.weather().late_node = node;
    }

    /// What the node serves is no evidence from here on.
    pub fn excuse(&self, node: &NodeId) {
        self.weather().served_late.insert(node.clone());
    }

    /// Writes that arrive this much after they were sent count as late: their pod may have been
    /// replaced meanwhile.
    pub fn set_old_after(&self, age: Duration) {
        self.weather().old_after = Some(age);
    }

    fn may_come_late(&self, node: &NodeId) -> bool {
        self.weather().late_node.as_ref() == Some(node)
    }

    /// Every link open, no message goes wrong. What is under way still comes late.
    pub fn heal(&self) {
        let mut weather = self.weather();
        weather.links.clear();
        weather.rates = FaultRates::default();
    }

    /// Nodes that have carried out a write after its sender had given it up.
    pub fn served_late(&self) -> BTreeSet<NodeId> {
        self.weather().served_late.clone()
    }

    /// Messages that met a fault of their own.
    pub fn gone_wrong(&self) -> u64 {
        self.gone_wrong.load(Ordering::Relaxed)
    }

    /// Requests that have not come to their end.
    pub fn under_way(&self) -> usize {
        self.under_way.load(Ordering::Relaxed)
    }

    fn weather(&self) -> MutexGuard<'_, Weather> {
        self.weather.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn link(&self, node: &NodeId) -> Link {
        self.weather().links.get(node).copied().unwrap_or(Link::Open)
    }

    fn fate(&self, dice: &Dice) -> Fate {
        let rates = self.weather().rates;
        let FaultRates {
            lost_request,
            late_request,
            lost_answer,
            broken_answer,
            error_before,
            error_after,
            garbage,
        } = rates;
        let faults = [
            (Fate::LostRequest, lost_request),
            (Fate::Late, late_request),
            (Fate::LostAnswer, lost_answer),
            (Fate::BrokenAnswer, broken_answer),
            (Fate::ErrorBefore, error_before),
            (Fate::ErrorAfter, error_after),
            (Fate::Garbage, garbage),
        ];
        let faulty: u64 = faults.iter().map(|(_, rate)| rate).sum();
        let with_fine: Vec<(Fate, u64)> =
            faults.into_iter().chain([(Fate::Fine, 1000_u64.saturating_sub(faulty))]).collect();
        dice.weighted(&with_fine).unwrap_or(Fate::Fine)
    }

    /// Carries one request to its node and its answer back.
    async fn carry(
        &self,
        node: &ModelNode,
        call: &NodeCall,
        (fate, is_read): (Fate, bool),
        was_given_up: impl Fn() -> bool,
    ) -> Option<Result<Response<Bytes>, TransportError>> {
        let sent = tokio::time::Instant::now();
        let dice = self.dice(is_read);
        tokio::time::sleep(dice.millis(1, 8)).await;
        if fate == Fate::Late {
            tokio::time::sleep(call.timeout + dice.millis(1, LATE_MS_MAX)).await;
        }
        while self.link(&node.id) == Link::Hanging {
            tokio::time::sleep(HANGING_LOOK).await;
        }
        // Its sender may have been restarted, too.
        let is_late = sent.elapsed() >= call.timeout || was_given_up();
        if fate == Fate::LostRequest || (is_late && !self.may_come_late(&node.id)) {
            return None;
        }
        if fate == Fate::ErrorBefore {
            return Some(Ok(answer(
                StatusCode::INTERNAL_SERVER_ERROR,
                Bytes::from_static(b"oops"),
            )));
        }
        let (method, path) = (&call.method, &call.path);
        let Some((status, body)) = node.answer(method, path, &call.body) else {
            return Some(Err(TransportError::Unreachable("connection refused".into())));
        };
        if method != Method::GET && !is_read {
            let task = body.get("taskUid").and_then(serde_json::Value::as_u64);
            let old_after = self.weather().old_after;
            let is_old = is_late || old_after.is_some_and(|age| sent.elapsed() >= age);
            // What made no task changed nothing: a page of documents, a refusal.
            if is_old && task.is_some() {
                self.weather().served_late.insert(node.id.clone());
            }
            let task = task.map_or(String::new(), |task| format!(" task {task}"));
            let fate = if fate == Fate::Fine { String::new() } else { format!(" {fate:?}") };
            self.trace.note(
                &node.id,
                format!(
                    "{method} {path} -> {status}{task}{fate}{}{}",
                    if is_late { " LATE" } else { "" },
                    documents_in(method, path, &call.body),
                ),
            );
        }
        tokio::time::sleep(dice.millis(1, 8)).await;
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        match fate {
            Fate::LostAnswer | Fate::Late => None,
            _ if self.link(&node.id) == Link::Hanging => None,
            _ if !node.is_up() => Some(Err(TransportError::Broken("connection reset".into()))),
            Fate::BrokenAnswer => Some(Err(TransportError::Broken("connection reset".into()))),
            Fate::ErrorAfter => {
                Some(Ok(answer(StatusCode::BAD_GATEWAY, Bytes::from_static(b"<html>"))))
            }
            Fate::Garbage => Some(Ok(answer(StatusCode::OK, Bytes::from_static(b"\x00{garb")))),
            _ => Some(Ok(answer(status, Bytes::from(body.to_string())))),
        }
    }

    async fn exchange(
        self: &Arc<Self>,
        call: NodeCall,
        is_read: bool,
    ) -> Result<Response<Bytes>, TransportError> {
        let dice = self.dice(is_read);
        let Some(node) = self.nodes.get(&call.base).cloned() else {
            return Err(TransportError::BadAddress(call.base));
        };
        let link = self.link(&node.id);
        if link == Link::Refusing || (link == Link::Open && !node.is_up()) {
            tokio::time::sleep(dice.millis(1, 3)).await;
            return Err(TransportError::Unreachable("connection refused".into()));
        }
        let fate = match (link, self.fate(dice)) {
            // What a hanging link took is lost, or arrives when the link opens.
            (Link::Hanging, _) if dice.chance(500) => Fate::LostRequest,
            (_, fate) => fate,
        };
        if fate != Fate::Fine {
            self.gone_wrong.fetch_add(1, Ordering::Relaxed);
        }
        let limit = call.timeout;
        let (reply, answered) = oneshot::channel();
        self.under_way.fetch_add(1, Ordering::Relaxed);
        let network = self.clone();
        self.tasks.spawn("network", async move {
            let was_given_up = || reply.is_closed();
            let carried = network.carry(&node, &call, (fate, is_read), was_given_up).await;
            if let Some(outcome) = carried {
                let _gave_up = reply.send(outcome);
                network.under_way.fetch_sub(1, Ordering::Relaxed);
            } else {
                network.under_way.fetch_sub(1, Ordering::Relaxed);
                // The sender waits until its time is up.
                tokio::time::sleep(call.timeout).await;
                drop(reply);
            }
        });
        match tokio::time::timeout(limit, answered).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) | Err(_) => Err(TransportError::TimedOut(limit)),
        }
    }
}

/// The index whose documents a request changes.
fn written_index(call: &NodeCall) -> Option<IndexUid> {
    let path = call.path.split('?').next()?;
    let (index, rest) = path.strip_prefix("/indexes/")?.split_once('/')?;
    let writes = matches!(rest, "documents" | "documents/delete" | "documents/delete-batch");
    (writes && call.method != Method::GET).then(|| index.into())
}

/// The name that a request goes by.
fn request_name(path: &str) -> Option<String> {
    let (_, query) = path.split_once('?')?;
    let mut query = form_urlencoded::parse(query.as_bytes());
    query.find(|(key, _)| key == "customMetadata").map(|(_, name)| name.into_owned())
}

/// The index whose tasks a request lists.
fn listed_index(call: &NodeCall) -> Option<IndexUid> {
    let query = call.path.strip_prefix("/tasks?")?;
    let mut query = form_urlencoded::parse(query.as_bytes());
    query.find(|(key, _)| key == "indexUids").map(|(_, index)| index.as_ref().into())
}

/// The documents that a request names, each with its shard where it says so, for the trace.
fn documents_in(method: &Method, path: &str, body: &[u8]) -> String {
    let path = path.split('?').next().unwrap_or_default();
    let whole = method == Method::DELETE || path.ends_with("/documents/delete");
    if whole {
        return " @all".to_owned();
    }
    let list: Vec<Value> = serde_json::from_slice(body).unwrap_or_default();
    let named = list.iter().take(NAMED_MAX).map(|item| {
        let marks = item.get(SHARD_FIELD);
        let mark = marks.and_then(|marks| marks.get(0)).or(marks).and_then(Value::as_str);
        let shard = mark.and_then(parse_shard_token).map(|(_, shard)| shard);
        let id = item.get("id").unwrap_or(item);
        match shard {
            Some(shard) => format!(" {}@s{shard}", id_text(id)),
            None => format!(" {}@", id_text(id)),
        }
    });
    named.collect()
}

fn answer(status: StatusCode, body: Bytes) -> Response<Bytes> {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer
}

/// The network as one life of a pod sees it: once it is over, nothing is sent any more.
#[derive(Clone, Debug)]
pub struct LifeTransport {
    /// The network.
    pub network: Arc<Network>,
    /// Says whether the pod is stalled.
    pub peers: Arc<PeerNetwork>,
    /// The pod.
    pub pod: usize,
    /// Its life.
    pub life: Life,
    /// It carries nothing but reads.
    pub reads: bool,
    /// Is told what is written.
    pub ledger: Ledger,
    /// What this life asked before it wrote.
    pub asked: Asked,
}

impl LifeTransport {
    /// What a stalled pod sends waits until it goes on. A write that would arrive after another
    /// pod was told to write is a late request, and only one node gets those.
    async fn wait_out_stall(&self, call: &NodeCall) -> Result<(), TransportError> {
        if !self.peers.is_stalled(self.pod) {
            return Ok(());
        }
        self.peers.while_stalled(self.pod).await;
        if call.method == Method::GET || self.reads {
            return Ok(());
        }
        let node = self.network.nodes.get(&call.base).map(|node| node.id.clone());
        match node.filter(|node| self.network.may_come_late(node)) {
            Some(node) => {
                self.network.weather().served_late.insert(node);
                Ok(())
            }
            None => Err(TransportError::TimedOut(call.timeout)),
        }
    }
}

#[async_trait]
impl NodeTransport for LifeTransport {
    async fn send(&self, call: NodeCall) -> Result<Response<Bytes>, TransportError> {
        if self.life.is_over() {
            return std::future::pending().await;
        }
        if let Some(index) = written_index(&call) {
            let now_ms = self.network.trace.now_ms();
            self.ledger.note_sent(&pod_id(self.pod), &index, now_ms, &call.path);
            let node = self.network.nodes.get(&call.base).filter(|node| node.is_up());
            if let Some((node, name)) = node.zip(request_name(&call.path))
                && self.asked.is_sent_blindly(node, &index, &name)
            {
                self.ledger.note_unasked(&pod_id(self.pod), &node.id, &index, &name);
            }
        }
        let question = listed_index(&call);
        let base = call.base.clone();
        let outcome = match self.wait_out_stall(&call).await {
            Ok(()) => self.network.exchange(call, self.reads).await,
            Err(error) => Err(error),
        };
        if let (Some(index), Ok(answer), Some(node)) =
            (question, &outcome, self.network.nodes.get(&base))
            && answer.status().is_success()
        {
            self.asked.note_answered(node, &index);
        }
        self.peers.while_stalled(self.pod).await;
        if self.life.is_over() {
            return std::future::pending().await;
        }
        outcome
    }
}
