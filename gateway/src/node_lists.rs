//! The lists of hits that nodes give for one search: first their tops, then more of those that
//! ran out. See [`crate::window`].

use miroir_storage::ids::ShardId;

use crate::context::GatewayContext;
use crate::failure::Failure;
use crate::merge::answer::NodeAnswer;
use crate::node_query::NodeQuery;
use crate::plan::{Plan, PlannedCall};
use crate::scatter::{Gathered, NodeRequest, Part, ReadKey, ReadScope, gather};
use crate::window::{AskedWindow, hits_to_ask};

/// What the nodes gave so far, in order of node.
#[derive(Debug, Default)]
pub struct NodeLists {
    /// Who was asked for what.
    pub calls: Vec<PlannedCall>,
    /// The answers, one per call.
    pub answers: Vec<NodeAnswer>,
    /// Shards that nobody answered for, ascending.
    pub missing: Vec<ShardId>,
    /// A list ran out before.
    ran_out: bool,
}

impl NodeLists {
    /// Whether a list is as long as it was asked to be, and so may not be all there is.
    pub fn any_is_full(&self, asked: usize) -> bool {
        asked > 0 && self.answers.iter().any(|answer| answer.hit_count() >= asked)
    }

    /// Adds what was gathered; `asked` says how many hits a call was asked for, of the `end` that
    /// the page could need.
    fn add(
        &mut self,
        gathered: Gathered<NodeAnswer>,
        end: usize,
        asked: impl Fn(&PlannedCall) -> usize,
    ) {
        let kept = std::mem::take(&mut self.calls).into_iter().zip(self.answers.drain(..));
        let more = gathered.parts.into_iter().map(|Part { call, mut answer }| {
            let asked = asked(&call);
            answer.has_more = asked < end && answer.hit_count() >= asked;
            (call, answer)
        });
        let mut all: Vec<(PlannedCall, NodeAnswer)> = kept.chain(more).collect();
        all.sort_by(|(left, _), (right, _)| left.node.cmp(&right.node));
        (self.calls, self.answers) = all.into_iter().unzip();
        self.missing.extend(gathered.missing);
        self.missing.sort_unstable();
    }
}

/// Asks every node of `plan` for as much of its list as the page is likely to take.
pub async fn ask_for_tops(
    context: &GatewayContext,
    scope: ReadScope<'_>,
    key: &ReadKey,
    plan: Plan,
    prepared: &NodeQuery,
) -> Result<NodeLists, Failure> {
    let end = prepared.window.hits;
    let (count, shards) = (plan.calls.len(), scope.index.shards as usize);
    let asked = |call: &PlannedCall| {
        if prepared.may_narrow { hits_to_ask(end, call.shards.len(), shards, count) } else { end }
    };
    let request =
        |call: &PlannedCall| request_for(prepared, call, prepared.window.top(asked(call)));
    let gathered = gather(context, scope, key.clone(), plan, request, NodeAnswer::parse).await?;
    let mut lists = NodeLists::default();
    lists.add(gathered, end, asked);
    Ok(lists)
}

/// Asks for the whole of the list at `place`, which ran out; when it is not the first that did,
/// for the whole of all lists that were cut.
pub async fn ask_for_more(
    context: &GatewayContext,
    scope: ReadScope<'_>,
    key: &ReadKey,
    lists: NodeLists,
    place: usize,
    prepared: &NodeQuery,
) -> Result<NodeLists, Failure> {
    let mut kept = NodeLists { missing: lists.missing, ran_out: true, ..NodeLists::default() };
    let mut plan = Plan { calls: Vec::new(), missing: Vec::new() };
    for (at, (call, answer)) in lists.calls.into_iter().zip(lists.answers).enumerate() {
        if at == place || (lists.ran_out && answer.has_more) {
            plan.calls.push(call);
        } else {
            kept.calls.push(call);
            kept.answers.push(answer);
        }
    }
    let end = prepared.window.hits;
    let request = |call: &PlannedCall| request_for(prepared, call, prepared.window);
    let gathered = gather(context, scope, key.clone(), plan, request, NodeAnswer::parse).await?;
    kept.add(gathered, end, |_| end);
    Ok(kept)
}

/// What `call` is sent for `window`.
pub fn request_for(prepared: &NodeQuery, call: &PlannedCall, window: AskedWindow) -> NodeRequest {
    NodeRequest::post("/search", prepared.body(call.filter.as_deref(), window))
}
