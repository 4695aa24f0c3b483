//! The second round of a search: facets in order of count whose first lists were cut too early are
//! counted again for the values that could be among the first (see [`count_order`]).
//!
//! The nodes that answered are asked, for the shards they answered for, since other replicas may
//! have applied other writes by now. A node that fails leaves its facet inexact, which the answer
//! then says: hits are not given up for it.
//!
//! [`count_order`]: crate::merge::count_order

use futures::future::join_all;

use crate::context::GatewayContext;
use crate::merge::answer::NodeAnswer;
use crate::merge::count_order::{AskedValue, Recount, Recounted, plan_recounts};
use crate::node_query::NodeQuery;
use crate::plan::PlannedCall;
use crate::scatter::{NodeRequest, ReadScope, ask_one};

/// Asks what is to be asked again of `answers` to `query`; the result goes by their places.
pub(crate) async fn count_again(
    context: &GatewayContext,
    scope: ReadScope<'_>,
    query: &NodeQuery,
    calls: &[PlannedCall],
    answers: &[NodeAnswer],
) -> Vec<Vec<Recounted>> {
    if !query.can_count_again() {
        return Vec::new();
    }
    let facets: Vec<_> = answers.iter().map(NodeAnswer::facets).collect();
    // Malformed facets are reported by the merge.
    let mut asked = plan_recounts(&facets, &query.merge.facets).unwrap_or_default();
    asked.retain(|asked| scope.settings.allows_equality(&asked.field));
    let asking = asked.into_iter().map(|asked| async move {
        let call = calls.get(asked.place)?;
        let answer = ask(context, scope, query, call, &asked).await?;
        Some(Recounted { asked, answer })
    });
    let mut recounted: Vec<Vec<Recounted>> = vec![Vec::new(); answers.len()];
    for said in join_all(asking).await.into_iter().flatten() {
        if let Some(of_node) = recounted.get_mut(said.asked.place) {
            of_node.push(said);
        }
    }
    recounted
}

async fn ask(
    context: &GatewayContext,
    scope: ReadScope<'_>,
    query: &NodeQuery,
    call: &PlannedCall,
    asked: &Recount,
) -> Option<NodeAnswer> {
    let values = asked.values.iter().map(|AskedValue { text, .. }| text.as_str());
    let body = query.counting_body(&asked.field, values, call.filter.as_deref())?;
    let request = NodeRequest::post("/search", body);
    ask_one(context, scope, &call.node, request, NodeAnswer::parse).await.ok().flatten()
}
