//! What operators see and order of nodes and shards: routes, shapes, and who answers.
//!
//! | route | answer | refusals |
//! |---|---|---|
//! | `GET /_miroir/topology` | [`TopologyAnswer`] | |
//! | `GET /_miroir/shards[?index=…]` | [`ShardsAnswer`] | 404 `index_not_found` |
//! | `POST /_miroir/nodes` with [`NewNode`] | 202 [`OrderAnswer`] | 409 `miroir_node_conflict` (the id is taken, or was), `miroir_node_unfit` (no answer, or too old for the indexes) |
//! | `DELETE /_miroir/nodes/{id}[?force=true[&loseData=true]]` | 202 [`OrderAnswer`] | 404 `miroir_node_not_found`, 409 `miroir_node_conflict` (it holds shards, or is the last), `miroir_copies_lost` |
//! | `POST /_miroir/nodes/{id}/drain[?force=true]` | 202 [`OrderAnswer`] | 404, 409 `miroir_copies_lost` |
//! | `DELETE /_miroir/nodes/{id}/drain` | 202 [`OrderAnswer`] | 404 |
//! | `DELETE /_miroir/groups/{group}` | 202 [`OrderAnswer`]: all its nodes are drained | 404, 409 |
//! | `PUT /_miroir/replication` with `{"factor": 2}` | 202 [`OrderAnswer`] | 409 `miroir_copies_lost` (a group is too small) |
//! | `GET /_miroir/rebalance` | [`MovesView`] | |
//! | `PATCH /_miroir/rebalance` with `{"paused": …, "documentsPerSecond": …}` | [`MovesView`] | |
//!
//! All need the admin key. Any pod answers for the whole cluster. Orders take `dryRun=true`: they are
//! checked, what would move is listed, and nothing is changed. Orders may be repeated. Whatever changes
//! something answers 503 `miroir_no_quorum` without a quorum.
//!
//! The shapes are read by `miroir ctl` and the console: fields may be added, never renamed.

use async_trait::async_trait;
use miroir_wire::error::{ApiError, Code};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::serde::rfc3339;

use crate::admin::AdminError;
use crate::context::RequestParts;
use crate::reply::Reply;

/// Routes about nodes and shards.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the table above says what they are
pub enum TopologyRoute {
    Topology,
    Shards,
    AddNode,
    RemoveNode { node: String },
    Drain { node: String, draining: bool },
    RemoveGroup { group: String },
    Replication,
    Rebalance,
    Steer,
}

/// A node to add.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewNode {
    /// Decides which shards it holds; never used for another node.
    pub id: String,
    /// `http://host:port`.
    pub address: String,
    /// Its replica group.
    #[serde(default)]
    pub replica_group: u32,
    /// Its master key, or one that may do everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// How many copies each group keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replication {
    /// At least 1.
    pub factor: u32,
}

/// How moves are to go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Steering {
    /// Moves are paused: none begins, none goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
    /// Documents copied in a second by each move at most; 0: as fast as it goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub documents_per_second: Option<u32>,
}

/// How an order is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OrderFlags {
    /// Only say what would move.
    pub dry_run: bool,
    /// Although there are fewer copies then.
    pub force: bool,
    /// Although documents are lost.
    pub lose_data: bool,
}

/// An order whose form is right.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the table above says what they are
pub enum TopologyOrder {
    AddNode(NewNode),
    RemoveNode(String),
    Drain { node: String, draining: bool },
    RemoveGroup(u32),
    Replication(u32),
}

/// Nodes and moves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TopologyAnswer {
    /// Copies of each shard in each group; none until a pod has agreed on it.
    pub replication_factor: Option<u32>,
    /// In order of group and id.
    pub nodes: Vec<NodeView>,
    /// What moves.
    pub moves: MovesView,
}

/// What a node's part is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum NodePart {
    /// It holds what rendezvous gives it.
    Active,
    /// Everything is moved away from it.
    Draining,
    /// It is drained and holds nothing: it may be removed.
    Drained,
    /// It has been down so long that its copies are made elsewhere.
    Away,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeView {
    /// Its id.
    pub id: String,
    /// Where it is.
    pub address: String,
    /// Its replica group.
    pub group: u32,
    /// Its part.
    pub part: NodePart,
    /// Whether it answers.
    pub up: bool,
    /// Replicas of shards placed on it, over all indexes.
    pub replicas: u64,
    /// Those of them that are in sync.
    pub in_sync: u64,
    /// Those of them that are on their way.
    pub arriving: u64,
    /// Replicas that are no longer its own and are still to be deleted.
    pub leaving: u64,
}

/// How far the moves are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MovesView {
    /// Moves are paused: none begins, none goes on.
    pub paused: bool,
    /// It is not within `cluster.move_hours` of the pod that answers: moves wait.
    #[serde(default)]
    pub resting: bool,
    /// Documents copied in a second by each move at most; 0: as fast as it goes.
    pub documents_per_second: u32,
    /// Replicas that were to be placed when the moves began; 0: nothing moves.
    pub total: u64,
    /// Those of them that are in place and filled.
    pub done: u64,
    /// Replicas that are placed and not yet filled.
    pub arriving: u64,
    /// Replicas that are to be taken away.
    pub surplus: u64,
    /// Replicas that were taken away and are still to be deleted.
    pub leaving: u64,
    /// When the moves began.
    #[serde(default, with = "rfc3339::option")]
    pub began_at: Option<OffsetDateTime>,
    /// What is left, at the rate so far; none while nothing says.
    pub seconds_left: Option<u64>,
}

/// Where shards are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardsAnswer {
    /// In order of name.
    pub indexes: Vec<IndexShards>,
}

/// The shards of one index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexShards {
    /// What clients call it.
    pub index: String,
    /// What nodes call it.
    pub uid: String,
    /// In order of number.
    pub shards: Vec<ShardView>,
}

/// One shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardView {
    /// Its number.
    pub shard: u32,
    /// Its replicas, by group.
    pub replicas: Vec<ReplicaView>,
}

/// What a replica is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ReplicaState {
    /// It is read.
    InSync,
    /// It misses something and catches up or is copied.
    OutOfSync,
    /// A move brings it.
    Arriving,
    /// It is no longer the node's and is still to be deleted.
    Leaving,
}

/// One replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaView {
    /// The node.
    pub node: String,
    /// Its group.
    pub group: u32,
    /// What it is.
    pub state: ReplicaState,
}

/// What an order makes move.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OrderAnswer {
    /// Nothing was changed.
    pub dry_run: bool,
    /// Replicas to be made.
    pub place: Vec<PlaceView>,
    /// Replicas to be taken away.
    pub take_away: Vec<PlaceView>,
}

/// A replica to be made or taken away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlaceView {
    /// What clients call the index.
    pub index: String,
    /// The shard.
    pub shard: u32,
    /// The group.
    pub group: u32,
    /// The node.
    pub node: String,
}

/// Answers operators about nodes and shards.
#[async_trait]
pub trait TopologySource {
    /// The nodes and what moves.
    ///
    /// # Errors
    /// 501 where nobody answers.
    async fn topology(&self) -> Result<TopologyAnswer, ApiError> {
        Err(AdminError::NotSupported.into())
    }

    /// Where shards are, of one index or all.
    ///
    /// # Errors
    /// `index_not_found`.
    async fn shards(&self, _index: Option<&str>) -> Result<ShardsAnswer, ApiError> {
        Err(AdminError::NotSupported.into())
    }

    /// Carries out an order, or says what it would do.
    ///
    /// # Errors
    /// See the table above.
    async fn order(&self, _: TopologyOrder, _: OrderFlags) -> Result<OrderAnswer, ApiError> {
        Err(AdminError::NotSupported.into())
    }

    /// Steers moves.
    ///
    /// # Errors
    /// 503s.
    async fn steer(&self, _: Steering) -> Result<MovesView, ApiError> {
        Err(AdminError::NotSupported.into())
    }
}

/// Answers one request whose right was checked.
///
/// # Errors
/// The refusals in the table above.
pub async fn answer(
    source: &(impl TopologySource + Sync + ?Sized),
    route: TopologyRoute,
    request: &RequestParts,
) -> Result<Reply, ApiError> {
    let order = match route {
        TopologyRoute::Topology => return Ok(Reply::json(200, &source.topology().await?)),
        TopologyRoute::Rebalance => return Ok(Reply::json(200, &source.topology().await?.moves)),
        TopologyRoute::Shards => {
            let index = chosen_index(&request.query)?;
            return Ok(Reply::json(200, &source.shards(index.as_deref()).await?));
        }
        TopologyRoute::Steer => {
            let steering = body_of(&request.body)?;
            return Ok(Reply::json(200, &source.steer(steering).await?));
        }
        TopologyRoute::AddNode => TopologyOrder::AddNode(checked_node(body_of(&request.body)?)?),
        TopologyRoute::RemoveNode { node } => TopologyOrder::RemoveNode(node),
        TopologyRoute::Drain { node, draining } => TopologyOrder::Drain { node, draining },
        TopologyRoute::RemoveGroup { group } => {
            let wrong = || bad_request(format!("`{group}` is no group: they have numbers."));
            TopologyOrder::RemoveGroup(group.parse().map_err(|_| wrong())?)
        }
        TopologyRoute::Replication => {
            let Replication { factor } = body_of(&request.body)?;
            if factor == 0 {
                return Err(bad_request("`factor` must be at least 1.".to_owned()));
            }
            TopologyOrder::Replication(factor)
        }
    };
    let flags = OrderFlags::from_query_string(&request.query)?;
    Ok(Reply::json(202, &source.order(order, flags).await?))
}

impl OrderFlags {
    /// Reads the query string.
    ///
    /// # Errors
    /// 400 for what is unknown or wrong.
    pub fn from_query_string(query: &str) -> Result<Self, ApiError> {
        let mut flags = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let flag = match name.as_ref() {
                "dryRun" => &mut flags.dry_run,
                "force" => &mut flags.force,
                "loseData" => &mut flags.lose_data,
                other => {
                    let known = "expected one of `dryRun`, `force`, `loseData`";
                    return Err(bad_request(format!("Unknown parameter `{other}`: {known}")));
                }
            };
            *flag = match value.as_ref() {
                "true" => true,
                "false" => false,
                other => {
                    let expected = "expected `true` or `false`";
                    return Err(bad_request(format!(
                        "Invalid value in parameter `{name}`: {expected}, got `{other}`"
                    )));
                }
            };
        }
        Ok(flags)
    }
}

fn bad_request(message: String) -> ApiError {
    ApiError::new(Code::BadRequest, message)
}

fn body_of<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, ApiError> {
    serde_json::from_slice(body)
        .map_err(|error| bad_request(format!("The body is not what this route takes: {error}.")))
}

/// As a configuration would be checked.
fn checked_node(node: NewNode) -> Result<NewNode, ApiError> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if node.id.is_empty() || node.id.len() > 100 || !node.id.chars().all(is_plain) {
        let expected = "1 to 100 letters, digits, hyphens, underscores or dots";
        return Err(bad_request(format!("`{}` is no id of a node: {expected}.", node.id)));
    }
    let address: Option<http::Uri> = node.address.trim_end_matches('/').parse().ok();
    let is_base = |uri: &http::Uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.path() == "/"
            && uri.query().is_none()
    };
    if !address.is_some_and(|uri| is_base(&uri)) {
        let expected = "write it like http://10.0.0.11:7700";
        return Err(bad_request(format!("`{}` is no address: {expected}.", node.address)));
    }
    Ok(NewNode { address: node.address.trim_end_matches('/').to_owned(), ..node })
}

fn chosen_index(query: &str) -> Result<Option<String>, ApiError> {
    let mut index = None;
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match name.as_ref() {
            "index" => index = Some(value.into_owned()).filter(|index| !index.is_empty()),
            other => {
                return Err(bad_request(format!("Unknown parameter `{other}`: expected `index`")));
            }
        }
    }
    Ok(index)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: &str, address: &str) -> NewNode {
        NewNode { id: id.into(), address: address.into(), replica_group: 0, key: None }
    }

    #[test]
    fn nodes_need_an_id_and_an_address() {
        let checked = checked_node(node("n-1", "http://10.0.0.1:7700/"));
        assert_eq!(checked.map(|node| node.address), Ok("http://10.0.0.1:7700".to_owned()));
        for (id, address) in
            [("", "http://a:1"), ("a b", "http://a:1"), ("a", "a:1"), ("a", "http://a:1/x")]
        {
            let refused = checked_node(node(id, address)).map_err(|error| error.code);
            assert_eq!(refused, Err(Code::BadRequest), "{id} {address}");
        }
    }

    #[test]
    fn flags_are_true_or_false() {
        let flags = OrderFlags::from_query_string("dryRun=true&force=false");
        assert_eq!(flags, Ok(OrderFlags { dry_run: true, ..OrderFlags::default() }));
        assert!(OrderFlags::from_query_string("force=yes").is_err());
        assert!(OrderFlags::from_query_string("wait=true").is_err());
    }
}
