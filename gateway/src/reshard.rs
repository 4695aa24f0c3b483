//! What operators see and order of an index's number of shards: routes, shapes, and who answers.
//!
//! | route | answer | refusals |
//! |---|---|---|
//! | `GET /_miroir/indexes/{index}/reshard` | [`ReshardView`] | 404 `index_not_found` |
//! | `POST /_miroir/indexes/{index}/reshard[?dryRun=true]` with [`NewShards`] | 202 [`ReshardView`] | 404, 409 `miroir_reshard_conflict` (another is under way, or the way leads through too many shards) |
//! | `DELETE /_miroir/indexes/{index}/reshard` | 202 [`ReshardView`]: it goes back to where it was | 404, 409 `miroir_reshard_conflict` (there is none) |
//!
//! All need the admin key. Any pod answers for the whole cluster. Orders may be repeated; they answer 503
//! `miroir_no_quorum` without a quorum. Pausing moves and their pace
//! ([`crate::topology`]) count here, too.
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
use crate::topology::OrderFlags;

/// A route about an index's number of shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReshardRoute {
    /// What clients call the index.
    pub index: String,
    /// What is asked.
    pub action: ReshardAction,
}

/// What is asked about an index's number of shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the table above says what they are
pub enum ReshardAction {
    Get,
    Begin,
    Abandon,
}

/// How many shards an index is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewShards {
    /// 1 to 4096.
    pub shards: u32,
}

/// How far a resharding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ReshardState {
    /// None is under way.
    Idle,
    /// Nodes mark the documents that they have for the new shards.
    Marking,
    /// Shards that are to become one are moved to the same nodes.
    Gathering,
    /// All is ready: the new shards are put in force.
    Switching,
    /// The new shards are in force; a pod may still read by the former ones.
    Settling,
}

/// An index's number of shards, and the one that it is to have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReshardView {
    /// What clients call it.
    pub index: String,
    /// Shards in force.
    pub shards: u32,
    /// Shards that there are to be, while a resharding is under way.
    pub target: Option<u32>,
    /// Shards of the step under way: on the way from 16 to 24 there are 48.
    pub step: Option<u32>,
    /// It was given up, and goes back.
    pub abandoned: bool,
    /// How far it is.
    pub state: ReshardState,
    /// Documents on all nodes, copies included, and those of them that are still to be marked; none where no
    /// node says.
    pub documents: Option<u64>,
    /// See `documents`.
    pub documents_left: Option<u64>,
    /// Nodes that did not say what they have.
    pub silent_nodes: Vec<String>,
    /// When it was ordered.
    #[serde(default, with = "rfc3339::option")]
    pub began_at: Option<OffsetDateTime>,
    /// Until all documents are marked, at the rate so far; none while nothing says.
    pub seconds_left: Option<u64>,
    /// Nothing was changed: this is what the order would begin with.
    pub dry_run: bool,
}

/// Answers operators about numbers of shards.
#[async_trait]
pub trait ReshardSource {
    /// How far the index is.
    ///
    /// # Errors
    /// `index_not_found`; 501 where nobody answers.
    async fn resharding(&self, _index: &str) -> Result<ReshardView, ApiError> {
        Err(AdminError::NotSupported.into())
    }

    /// Orders another number of shards, or says what would begin.
    ///
    /// # Errors
    /// See the table above.
    async fn reshard(
        &self,
        _index: &str,
        _to: NewShards,
        _dry_run: bool,
    ) -> Result<ReshardView, ApiError> {
        Err(AdminError::NotSupported.into())
    }

    /// Gives a resharding up.
    ///
    /// # Errors
    /// See the table above.
    async fn abandon_reshard(&self, _index: &str) -> Result<ReshardView, ApiError> {
        Err(AdminError::NotSupported.into())
    }
}

/// Answers one request whose right was checked.
///
/// # Errors
/// The refusals in the table above.
pub async fn answer(
    source: &(impl ReshardSource + Sync + ?Sized),
    ReshardRoute { index, action }: ReshardRoute,
    request: &RequestParts,
) -> Result<Reply, ApiError> {
    match action {
        ReshardAction::Get => Ok(Reply::json(200, &source.resharding(&index).await?)),
        ReshardAction::Abandon => Ok(Reply::json(202, &source.abandon_reshard(&index).await?)),
        ReshardAction::Begin => {
            let flags = OrderFlags::from_query_string(&request.query)?;
            let to = serde_json::from_slice(&request.body).map_err(|error| {
                let message = format!("The body is not what this route takes: {error}.");
                ApiError::new(Code::BadRequest, message)
            })?;
            Ok(Reply::json(202, &source.reshard(&index, to, flags.dry_run).await?))
        }
    }
}
