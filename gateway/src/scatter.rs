//! The calls of one read, side by side, and what is done when one of them fails.
//!
//! | a node | what follows |
//! |---|---|
//! | answers 200 with what was asked for | its part is done |
//! | answers 4xx for the client's sake | the client's error, cleaned |
//! | can't be reached, is late, breaks off, answers 5xx, garbage, 401/403 or doesn't know the index | its shards are asked of other in-sync replicas, in the group, then in another |
//!
//! What no replica can answer is missing, and `unavailable_shard_policy` decides.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt};
use http::{Method, Response, StatusCode};
use miroir_seams::{NodeCall, TransportError};
use miroir_storage::ids::{NodeId, ShardId};
use miroir_storage::routing::{IndexRouting, NodeRecord, Routing};
use miroir_wire::error::Code;

use crate::context::{GatewayContext, UnavailableShardPolicy};
use crate::failure::Failure;
use crate::json_scan::Malformed;
use crate::node_error::{ErrorContext, clean_error, read_error};
use crate::plan::{Plan, PlannedCall, plan_shards};
use crate::read_settings::ReadSettings;

/// Times that failed shards are asked of other replicas: one more than the usual number of
/// copies, so that a read ends.
const ROUNDS_MAX: usize = 3;

/// One index as one request sees it.
#[derive(Clone, Copy, Debug)]
pub struct ReadScope<'a> {
    /// The view of this request.
    pub routing: &'a Routing,
    /// The index, resolved once.
    pub index: &'a IndexRouting,
    /// Its settings.
    pub settings: &'a ReadSettings,
}

/// What to send to one node: a method, the path under `/indexes/{uid}`, and perhaps a JSON body.
#[derive(Clone, Debug)]
pub struct NodeRequest {
    /// HTTP method.
    pub method: Method,
    /// Path and query behind `/indexes/{uid}`, beginning with `/`.
    pub path: String,
    /// JSON; empty for none.
    pub body: Bytes,
}

impl NodeRequest {
    /// A `POST` with a JSON body.
    pub fn post(path: &str, body: Vec<u8>) -> Self {
        Self { method: Method::POST, path: path.to_owned(), body: Bytes::from(body) }
    }
}

/// One node's part of a read, read.
#[derive(Clone, Debug)]
pub struct Part<T> {
    /// Who was asked for what.
    pub call: PlannedCall,
    /// The answer.
    pub answer: T,
}

/// What came back: the parts in order of node (and round), and what is missing.
#[derive(Clone, Debug)]
pub struct Gathered<T> {
    /// One per answered call.
    pub parts: Vec<Part<T>>,
    /// Shards nobody answered for, ascending.
    pub missing: Vec<ShardId>,
}

/// Why one call brought nothing.
#[derive(Debug)]
enum CallFailure {
    /// The client's fault: every node would say so.
    Client(Failure),
    /// The node's fault: another may answer.
    Node,
}

/// What a read is planned by.
#[derive(Clone, Debug)]
pub struct ReadKey {
    /// Chooses the group and the nodes; equal for the pages of one query.
    pub hash: u64,
    /// Nodes that already failed this read.
    pub failed: BTreeSet<NodeId>,
}

impl ReadKey {
    /// A read that nothing has failed yet.
    pub fn new(hash: u64) -> Self {
        Self { hash, failed: BTreeSet::new() }
    }
}

/// The plan for a whole read as of now.
pub fn plan_now(context: &GatewayContext, scope: ReadScope<'_>, key: &ReadKey) -> Plan {
    let wanted = (0..scope.index.shards).map(ShardId).collect();
    plan_without(context, scope, key, wanted)
}

fn plan_without(
    context: &GatewayContext,
    scope: ReadScope<'_>,
    key: &ReadKey,
    wanted: Vec<ShardId>,
) -> Plan {
    let ReadKey { hash, failed } = key;
    let unavailable = context.health.unavailable.load();
    let known = |node: &NodeId| scope.routing.nodes.contains_key(node) && !failed.contains(node);
    let plan =
        plan_shards(scope.index, &|node| known(node) && !unavailable.contains(node), *hash, wanted);
    if plan.missing.is_empty() || unavailable.is_empty() {
        return plan;
    }
    // Health is an opinion and may be old: rather than give shards up, ask who may be away.
    let mut plan = plan;
    let desperate = plan_shards(scope.index, &known, *hash, std::mem::take(&mut plan.missing));
    plan.missing = desperate.missing;
    plan.calls.extend(desperate.calls);
    plan
}

/// Sends `plan`'s calls and reads the answers; failed ones go to other replicas. `request` says
/// what to send for a call, `read` takes an answer's body apart.
///
/// # Errors
/// The client's error as a node said it; `miroir_shard_unavailable` by policy, or when nothing
/// answered at all.
pub async fn gather<T>(
    context: &GatewayContext,
    scope: ReadScope<'_>,
    mut key: ReadKey,
    plan: Plan,
    request: impl Fn(&PlannedCall) -> NodeRequest,
    read: impl Fn(Bytes) -> Result<T, Malformed>,
) -> Result<Gathered<T>, Failure> {
    let mut gathered =
        Gathered { parts: Vec::with_capacity(plan.calls.len()), missing: plan.missing };
    let mut calls = plan.calls;
    for round in 1..=ROUNDS_MAX {
        let lost = run(context, scope, &calls, &request, &read, &mut gathered.parts).await?;
        if lost.is_empty() {
            break;
        }
        let mut shards: Vec<ShardId> = Vec::new();
        for call in lost {
            shards.extend(&call.shards);
            key.failed.insert(call.node.clone());
        }
        shards.sort_unstable();
        if round == ROUNDS_MAX {
            gathered.missing.extend(shards);
            break;
        }
        let again = plan_without(context, scope, &key, shards);
        gathered.missing.extend(again.missing);
        calls = again.calls;
        if calls.is_empty() {
            break;
        }
    }
    gathered.missing.sort_unstable();
    check_missing(context, &gathered)?;
    Ok(gathered)
}

/// Sends the only call of a plan; `None` when the node failed.
///
/// # Errors
/// The client's error as the node said it.
pub async fn ask_one<T>(
    context: &GatewayContext,
    scope: ReadScope<'_>,
    node: &NodeId,
    request: NodeRequest,
    read: impl Fn(Bytes) -> Result<T, Malformed>,
) -> Result<Option<T>, Failure> {
    match send(context, scope, node, request).await {
        Ok(body) => Ok(read(body).ok()),
        Err(CallFailure::Node) => Ok(None),
        Err(CallFailure::Client(failure)) => Err(failure),
    }
}

fn check_missing<T>(context: &GatewayContext, gathered: &Gathered<T>) -> Result<(), Failure> {
    let refuse = context.config.unavailable_shard_policy == UnavailableShardPolicy::Error;
    if !gathered.missing.is_empty() && (refuse || gathered.parts.is_empty()) {
        return Err(Failure::shards_unavailable(&gathered.missing));
    }
    Ok(())
}

/// One round: sends `calls` side by side, appends what was answered in the order of `calls`, and
/// returns the calls that failed.
async fn run<'c, T>(
    context: &GatewayContext,
    scope: ReadScope<'_>,
    calls: &'c [PlannedCall],
    request: impl Fn(&PlannedCall) -> NodeRequest,
    read: impl Fn(Bytes) -> Result<T, Malformed>,
    parts: &mut Vec<Part<T>>,
) -> Result<Vec<&'c PlannedCall>, Failure> {
    let mut answers: Vec<(usize, Part<T>)> = Vec::with_capacity(calls.len());
    let mut lost = Vec::new();
    let mut running: FuturesUnordered<_> = calls
        .iter()
        .enumerate()
        .map(|(place, call)| {
            let sending = send(context, scope, &call.node, request(call));
            async move { (place, call, sending.await) }
        })
        .collect();
    while let Some((place, call, answer)) = running.next().await {
        let answer = answer.and_then(|body| read(body).map_err(|_| CallFailure::Node));
        match answer {
            Ok(answer) => {
                answers.push((place, Part { call: call.clone(), answer }));
            }
            Err(CallFailure::Node) => lost.push(call),
            // The other calls are dropped, which closes their connections.
            Err(CallFailure::Client(failure)) => return Err(failure),
        }
    }
    answers.sort_by_key(|(place, _)| *place);
    parts.extend(answers.into_iter().map(|(_, part)| part));
    Ok(lost)
}

async fn send(
    context: &GatewayContext,
    scope: ReadScope<'_>,
    node: &NodeId,
    request: NodeRequest,
) -> Result<Bytes, CallFailure> {
    let Some(record) = scope.routing.nodes.get(node) else { return Err(CallFailure::Node) };
    let answer = send_to(context, record, scope.index, request).await;
    judge(answer, scope)
}

/// Sends one request about `index` to one node.
///
/// # Errors
/// When no answer came.
pub async fn send_to(
    context: &GatewayContext,
    node: &NodeRecord,
    index: &IndexRouting,
    request: NodeRequest,
) -> Result<Response<Bytes>, TransportError> {
    let call = NodeCall {
        base: node.address.clone(),
        key: node.key.clone(),
        method: request.method,
        path: format!("/indexes/{}{}", index.uid, request.path),
        content_type: (!request.body.is_empty()).then_some("application/json"),
        body: request.body,
        timeout: context.config.node_timeout,
        answer_bytes_max: NodeCall::ANSWER_BYTES_MAX,
    };
    context.transport.send(call).await
}

/// Sorts answers by whose fault they are; see the table above.
fn judge(
    answer: Result<Response<Bytes>, TransportError>,
    scope: ReadScope<'_>,
) -> Result<Bytes, CallFailure> {
    let Ok(answer) = answer else { return Err(CallFailure::Node) };
    let status = answer.status();
    if status == StatusCode::OK {
        return Ok(answer.into_body());
    }
    if !status.is_client_error()
        || matches!(
            status,
            StatusCode::UNAUTHORIZED
                | StatusCode::FORBIDDEN
                | StatusCode::REQUEST_TIMEOUT
                | StatusCode::TOO_MANY_REQUESTS
        )
    {
        return Err(CallFailure::Node);
    }
    let Some(error) = read_error(answer.body()) else { return Err(CallFailure::Node) };
    if error.known_code() == Some(Code::IndexNotFound) {
        return Err(CallFailure::Node);
    }
    let displayed = scope.settings.displayed.as_ref();
    let error = clean_error(error, ErrorContext { index: scope.index, displayed });
    Err(CallFailure::Client(Failure::Node { status: status.as_u16(), error }))
}
