//! Numbers of shards as a pod knows them: the log says what is ordered, nodes say how much is marked.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::join_all;
use http::Method;
use miroir_actors::lane::job::unmarked;
use miroir_actors::writer::lanes::held_shards;
use miroir_storage::commands::Command;
use miroir_storage::engine::Tx;
use miroir_storage::ids::NodeId;
use miroir_storage::routing::{IndexRouting, from_nanoseconds, to_nanoseconds};
use miroir_storage::tables::{self, partitions};
use miroir_storage::topology_commands::TopologyCommand;
use miroir_wire::error::ApiError;
use miroir_wire::reserved::Partition;
use serde_json::{Value, json};

use crate::admin_pod::PodAdmin;
use crate::reshard::{NewShards, ReshardSource, ReshardState, ReshardView};
use crate::topology_pod::{check, unreadable};
use crate::writes::propose;

/// How long a node may take to count.
const COUNT_TIMEOUT: Duration = Duration::from_secs(3);

#[async_trait]
impl ReshardSource for PodAdmin {
    async fn resharding(&self, index: &str) -> Result<ReshardView, ApiError> {
        let routing = self.pod.log.routing();
        let known = routing.indexes.get(index).ok_or_else(|| ApiError::index_not_found(index))?;
        Ok(self.view(index, known).await)
    }

    async fn reshard(
        &self,
        index: &str,
        NewShards { shards }: NewShards,
        dry_run: bool,
    ) -> Result<ReshardView, ApiError> {
        let uid = self.uid_of(index)?;
        let at = to_nanoseconds(self.pod.seams.clock.now());
        let order = TopologyCommand::Reshard { index: uid, shards, at };
        if !dry_run {
            self.give(order).await?;
            return self.resharding(index).await;
        }
        let mut tx = Tx::new(self.pod.log.engine().as_ref());
        let command = Command::Topology(Box::new(order));
        check(tables::apply(&mut tx, 0, &command).map_err(unreadable)?, None)?;
        let view = self.resharding(index).await?;
        let target = (view.shards != shards).then_some(shards);
        let step = target.and_then(|to| partitions::next_step(view.shards, to));
        Ok(ReshardView { target, step, dry_run, documents_left: view.documents, ..view })
    }

    async fn abandon_reshard(&self, index: &str) -> Result<ReshardView, ApiError> {
        let uid = self.uid_of(index)?;
        self.give(TopologyCommand::AbandonReshard { index: uid }).await?;
        self.resharding(index).await
    }
}

/// What one node has of an index.
struct Counted {
    node: NodeId,
    /// Documents, and those that are not marked; `None`: it did not say.
    counts: Option<(u64, u64)>,
}

impl PodAdmin {
    fn uid_of(&self, index: &str) -> Result<miroir_storage::ids::IndexUid, ApiError> {
        let routing = self.pod.log.routing();
        let known = routing.indexes.get(index).ok_or_else(|| ApiError::index_not_found(index))?;
        Ok(known.uid.clone())
    }

    async fn give(&self, order: TopologyCommand) -> Result<(), ApiError> {
        check(propose(&self.pod, &Command::Topology(Box::new(order))).await?, None)
    }

    async fn view(&self, name: &str, index: &IndexRouting) -> ReshardView {
        let nodes = held_shards(&index.groups).into_keys();
        let newest = index.marks.newest();
        let counted = join_all(nodes.map(|node| self.count(index, node, newest))).await;
        let known = || counted.iter().filter_map(|node| node.counts);
        let is_known = known().next().is_some();
        let (all, left) =
            known().fold((0, 0), |(all, left), (some, more)| (all + some, left + more));
        let silent = counted.iter().filter(|node| node.counts.is_none());
        let order = index.reshard.as_ref();
        let state = state_of(index, left);
        let now = to_nanoseconds(self.pod.seams.clock.now());
        // By clocks of several pods, and so for people only.
        let took = order.map(|o| now.saturating_sub(o.began_at).max(0) as u64 / 1_000_000_000);
        let seconds_left = took
            .filter(|_| state == ReshardState::Marking)
            .and_then(|took| (took * left).checked_div(all.saturating_sub(left)));
        ReshardView {
            index: name.to_owned(),
            shards: index.shards,
            target: order.map(|order| order.to),
            step: index.marks.next.map(|next| next.shards),
            abandoned: order.is_some_and(|order| order.abandoned),
            state,
            documents: is_known.then_some(all),
            documents_left: is_known.then_some(left),
            silent_nodes: silent.map(|node| node.node.to_string()).collect(),
            began_at: order.map(|order| from_nanoseconds(order.began_at)),
            seconds_left,
            dry_run: false,
        }
    }

    async fn count(
        &self,
        index: &IndexRouting,
        node: NodeId,
        newest: Option<Partition>,
    ) -> Counted {
        let all = self.total(index, &node, json!({ "limit": 0 }));
        let left = async {
            match newest {
                None => Some(0),
                Some(newest) => {
                    let query = json!({ "filter": [unmarked(newest)], "limit": 0 });
                    self.total(index, &node, query).await
                }
            }
        };
        let (all, left) = futures::join!(all, left);
        Counted { node, counts: all.zip(left) }
    }

    async fn total(&self, index: &IndexRouting, node: &NodeId, query: Value) -> Option<u64> {
        let path = format!("/indexes/{}/documents/fetch", index.uid);
        let body = Some(Bytes::from(query.to_string()));
        let calls = &self.pod.calls;
        let answer = calls.call(node, Method::POST, path, body, COUNT_TIMEOUT).await.ok()?;
        serde_json::from_slice::<Value>(&answer).ok()?.get("total")?.as_u64()
    }
}

fn state_of(index: &IndexRouting, left: u64) -> ReshardState {
    let Some(next) = index.marks.next else {
        return match index.marks.former {
            Some(_) => ReshardState::Settling,
            None => ReshardState::Idle,
        };
    };
    let is_placed =
        partitions::switched(&index.groups, &index.moves, index.shards, next.shards).is_some();
    match (left, is_placed) {
        (1.., _) => ReshardState::Marking,
        (0, false) => ReshardState::Gathering,
        (0, true) => ReshardState::Switching,
    }
}
