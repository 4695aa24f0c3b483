//! The calls of one read, side by side, and what is done when one of them fails.
//!
//! | a node | what follows |
//! |---|---|
//! | answers 200 with what was asked for | its part is done |
//! | answers 4xx for the client's sake | the client's error, cleaned |
//! | can't be reached, breaks off, is later than the time-out, answers 5xx, garbage, 401/403, doesn't know the index or lacks its settings | its shards are asked of other in-sync replicas, in the group, then in another |
//! | is only late | other replicas are asked beside it, see [`crate::late`] |
//!
//! What no replica can answer is missing, and `unavailable_shard_policy` decides. When all that
//! were asked for a shard answered `internal`, it is the query they can't cope with, and the
//! client gets that error.

use std::collections::{BTreeMap, BTreeSet};

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
use crate::late::ask_or_race;
use crate::node_error::{ErrorContext, clean_error, read_error, refuses_shards};
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

/// What to send to one node: a method, a path, and perhaps a JSON body.
#[derive(Clone, Debug)]
pub struct NodeRequest {
    /// HTTP method.
    pub method: Method,
    /// Path and query, beginning with `/`; behind `/indexes/{uid}` unless `at_root`.
    pub path: String,
    /// The path is no index's.
    pub at_root: bool,
    /// JSON; empty for none.
    pub body: Bytes,
}

impl NodeRequest {
    /// A `POST` with a JSON body.
    pub fn post(path: &str, body: Vec<u8>) -> Self {
        let body = Bytes::from(body);
        Self { method: Method::POST, path: path.to_owned(), at_root: false, body }
    }

    /// A `GET`.
    pub fn get(path: String) -> Self {
        Self { method: Method::GET, path, at_root: false, body: Bytes::new() }
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
pub(crate) enum CallFailure {
    /// The client's fault: every node would say so.
    Client(Failure),
    /// The node's fault: another may answer. With what it said, if it called it `internal`.
    Node(Option<Failure>),
}

/// What a read is planned by.
#[derive(Clone, Debug)]
pub struct ReadKey {
    /// Chooses the group and the nodes; equal for the pages of one query.
    pub hash: u64,
    /// Nodes that already failed this read.
    pub failed: BTreeSet<NodeId>,
    /// What those said that answered `internal`.
    internal: BTreeMap<NodeId, Failure>,
}

impl ReadKey {
    /// A read that nothing has failed yet.
    pub fn new(hash: u64) -> Self {
        Self { hash, failed: BTreeSet::new(), internal: BTreeMap::new() }
    }

    /// Notes that `node` failed, and the `internal` error that it gave as its reason, if any.
    pub(crate) fn fail(&mut self, node: &NodeId, said: Option<Failure>) {
        self.failed.insert(node.clone());
        if let Some(said) = said {
            self.internal.insert(node.clone(), said);
        }
    }

    /// The error that every replica answered that was asked for one of `missing`.
    fn repeated_error(&self, index: &IndexRouting, missing: &[ShardId]) -> Option<&Failure> {
        missing.iter().find_map(|shard| {
            let at = usize::try_from(shard.0).ok()?;
            let placed = index.groups.iter().filter_map(|group| group.shards.get(at));
            let asked = placed.flat_map(|shard| &shard.in_sync);
            let mut asked = asked.filter(|node| self.failed.contains(*node)).peekable();
            let first = self.internal.get(*asked.peek()?)?;
            asked.all(|node| self.internal.contains_key(node)).then_some(first)
        })
    }
}

/// The plan for a whole read as of now.
pub fn plan_now(context: &GatewayContext, scope: ReadScope<'_>, key: &ReadKey) -> Plan {
    let wanted = (0..scope.index.shards).map(ShardId).collect();
    plan_without(context, scope, key, wanted)
}

/// The plan for the `wanted` shards, without the nodes that failed.
pub(crate) fn plan_without(
    context: &GatewayContext,
    scope: ReadScope<'_>,
    key: &ReadKey,
    wanted: Vec<ShardId>,
) -> Plan {
    let ReadKey { hash, failed, .. } = key;
    let (unavailable, suspected) = (context.health.unavailable.load(), context.health.suspected());
    let known = |node: &NodeId| scope.routing.nodes.contains_key(node) && !failed.contains(node);
    let well = |node: &NodeId| !unavailable.contains(node) && !suspected.contains(node);
    let mut plan = plan_shards(scope.index, &|node| known(node) && well(node), *hash, wanted);
    let all_well = unavailable.is_empty() && suspected.is_empty();
    if !plan.missing.is_empty() && !all_well {
        // Health is an opinion and may be old: rather than give shards up, ask who may be away.
        let desperate = plan_shards(scope.index, &known, *hash, std::mem::take(&mut plan.missing));
        plan.missing = desperate.missing;
        plan.calls.extend(desperate.calls);
    }
    // Nodes are filled without regard for who reads by a placement for longer than that.
    if context.routing.unconfirmed_for() > context.config.max_staleness {
        plan.name_shards(scope.index.marks.current);
    }
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
        let asking = Asking { context, scope, key: &key, request: &request, read: &read };
        let lost = run(&asking, &calls, &mut gathered.parts).await?;
        if lost.is_empty() {
            break;
        }
        let mut shards: Vec<ShardId> = Vec::new();
        for (call, said) in lost {
            shards.extend(&call.shards);
            key.fail(&call.node, said);
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
    if let Some(failure) = key.repeated_error(scope.index, &gathered.missing) {
        tracing::warn!(index = %scope.index.uid, error = %failure, "all replicas fail a read alike");
        return Err(failure.clone());
    }
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
        Err(CallFailure::Node(_)) => Ok(None),
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

/// How the calls of one read are made.
pub(crate) struct Asking<'a, Q, R> {
    pub(crate) context: &'a GatewayContext,
    pub(crate) scope: ReadScope<'a>,
    /// The read so far.
    pub(crate) key: &'a ReadKey,
    /// What to send for a call.
    pub(crate) request: &'a Q,
    /// Takes an answer apart.
    pub(crate) read: &'a R,
}

impl<Q, R, T> Asking<'_, Q, R>
where
    Q: Fn(&PlannedCall) -> NodeRequest,
    R: Fn(Bytes) -> Result<T, Malformed>,
{
    /// Makes one call.
    pub(crate) async fn ask(&self, call: &PlannedCall) -> Result<Part<T>, CallFailure> {
        let request = (self.request)(call);
        let body = send(self.context, self.scope, &call.node, request).await?;
        let answer = (self.read)(body).map_err(|_| CallFailure::Node(None))?;
        Ok(Part { call: call.clone(), answer })
    }
}

/// One round: sends `calls` side by side, appends what was answered in the order of `calls`, and
/// returns the calls that failed, with what their nodes said.
async fn run<'c, Q, R, T>(
    asking: &Asking<'_, Q, R>,
    calls: &'c [PlannedCall],
    parts: &mut Vec<Part<T>>,
) -> Result<Vec<(&'c PlannedCall, Option<Failure>)>, Failure>
where
    Q: Fn(&PlannedCall) -> NodeRequest,
    R: Fn(Bytes) -> Result<T, Malformed>,
{
    let mut answers: Vec<(usize, Vec<Part<T>>)> = Vec::with_capacity(calls.len());
    let mut lost = Vec::new();
    let mut running: FuturesUnordered<_> = calls
        .iter()
        .enumerate()
        .map(|(place, call)| async move { (place, call, ask_or_race(asking, call).await) })
        .collect();
    while let Some((place, call, answer)) = running.next().await {
        match answer {
            Ok(parts) => answers.push((place, parts)),
            Err(CallFailure::Node(said)) => lost.push((call, said)),
            // The other calls are dropped, which closes their connections.
            Err(CallFailure::Client(failure)) => return Err(failure),
        }
    }
    answers.sort_by_key(|(place, _)| *place);
    parts.extend(answers.into_iter().flat_map(|(_, parts)| parts));
    Ok(lost)
}

pub(crate) async fn send(
    context: &GatewayContext,
    scope: ReadScope<'_>,
    node: &NodeId,
    request: NodeRequest,
) -> Result<Bytes, CallFailure> {
    let Some(record) = scope.routing.nodes.get(node) else { return Err(CallFailure::Node(None)) };
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
        path: if request.at_root {
            request.path
        } else {
            format!("/indexes/{}{}", index.uid, request.path)
        },
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
    let lost = Err(CallFailure::Node(None));
    let Ok(answer) = answer else { return lost };
    let status = answer.status();
    if status == StatusCode::OK {
        return Ok(answer.into_body());
    }
    if matches!(
        status,
        StatusCode::UNAUTHORIZED
            | StatusCode::FORBIDDEN
            | StatusCode::REQUEST_TIMEOUT
            | StatusCode::TOO_MANY_REQUESTS
    ) {
        return lost;
    }
    let Some(error) = read_error(answer.body()) else { return lost };
    if refuses_shards(&error) {
        return lost;
    }
    let code = error.known_code();
    let displayed = scope.settings.displayed.as_ref();
    let error = clean_error(error, ErrorContext { index: scope.index, displayed });
    let failure = Failure::Node { status: status.as_u16(), error };
    if status.is_server_error() && code == Some(Code::Internal) {
        Err(CallFailure::Node(Some(failure)))
    } else if status.is_client_error() && code != Some(Code::IndexNotFound) {
        Err(CallFailure::Client(failure))
    } else {
        lost
    }
}
