//! What is done about a node that does not answer yet: others are asked beside it.
//!
//! A node that hangs takes connections and says nothing, so a read would wait for the whole
//! time-out. A call without an answer after `late_after` makes its node *suspected*: further
//! reads pass it by, and the health checker looks at it at once, which either clears it or, in
//! the end, takes it out. The read itself is sent to other replicas as well, and whoever answers
//! first wins. A slow query is not a slow node: the node answers the check and is asked again.
//!
//! Only so many reads are asked twice at a time; the others wait for their turn or their answer.
//! So nodes that are slow because too much is asked of them don't get twice as much.

use std::pin::pin;

use bytes::Bytes;
use futures::future::{Either, select, try_join_all};

use crate::context::GatewayContext;
use crate::failure::Failure;
use crate::json_scan::Malformed;
use crate::plan::PlannedCall;
use crate::scatter::{
    Asking, CallFailure, NodeRequest, Part, ReadKey, ReadScope, plan_without, send,
};

/// Makes `call`; when its node is late, other replicas race it, if they have all of its shards.
///
/// # Errors
/// When neither the node nor the others answer.
pub(crate) async fn ask_or_race<Q, R, T>(
    asking: &Asking<'_, Q, R>,
    call: &PlannedCall,
) -> Result<Vec<Part<T>>, CallFailure>
where
    Q: Fn(&PlannedCall) -> NodeRequest,
    R: Fn(Bytes) -> Result<T, Malformed>,
{
    let Asking { context, scope, key, .. } = *asking;
    let one = |part: Part<T>| vec![part];
    let mut first = pin!(asking.ask(call));
    if let Ok(answer) = tokio::time::timeout(context.config.late_after, first.as_mut()).await {
        return answer.map(one);
    }
    context.health.suspect(&call.node);
    let turn = pin!(context.races.acquire());
    let _turn = match select(first.as_mut(), turn).await {
        Either::Left((answer, _)) => return answer.map(one),
        Either::Right((turn, _)) => turn,
    };
    let mut key = key.clone();
    key.fail(&call.node, None);
    let plan = plan_without(context, scope, &key, call.shards.clone());
    if !plan.missing.is_empty() {
        return first.await.map(one);
    }
    let others = pin!(try_join_all(plan.calls.iter().map(|call| asking.ask(call))));
    match select(first, others).await {
        Either::Left((Err(CallFailure::Node(said)), others)) => {
            others.await.map_err(|_| CallFailure::Node(said))
        }
        Either::Left((answer, _)) => answer.map(one),
        Either::Right((Err(CallFailure::Node(_)), first)) => first.await.map(one),
        Either::Right((parts, _)) => parts,
    }
}

/// Makes the only call of a plan. `None` when the node failed, or is late while others have all of
/// its shards; `key` then knows, and the others are to be asked.
///
/// # Errors
/// The client's error as the node said it.
pub async fn ask_alone<T>(
    context: &GatewayContext,
    scope: ReadScope<'_>,
    key: &mut ReadKey,
    call: &PlannedCall,
    request: NodeRequest,
    read: impl Fn(Bytes) -> Result<T, Malformed>,
) -> Result<Option<T>, Failure> {
    let mut sending = pin!(send(context, scope, &call.node, request));
    let in_time = tokio::time::timeout(context.config.late_after, sending.as_mut()).await;
    let answer = match in_time {
        Ok(answer) => answer,
        Err(_) => {
            context.health.suspect(&call.node);
            let mut others = key.clone();
            others.fail(&call.node, None);
            let plan = plan_without(context, scope, &others, call.shards.clone());
            if plan.missing.is_empty() && context.races.try_acquire().is_ok() {
                Err(CallFailure::Node(None))
            } else {
                sending.await
            }
        }
    };
    match answer.and_then(|body| read(body).map_err(|_| CallFailure::Node(None))) {
        Ok(answer) => Ok(Some(answer)),
        Err(CallFailure::Client(failure)) => Err(failure),
        Err(CallFailure::Node(said)) => {
            key.fail(&call.node, said);
            Ok(None)
        }
    }
}
