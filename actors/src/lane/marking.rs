//! Marking the documents that a node has for another partition, in the lane's own turn.
//!
//! Each replica marks its own documents: no document travels, only ids and marks do. Nothing else is under
//! way on the node for the index meanwhile, what a former life of the lane has sent included, so a
//! document that was listed is still there when its mark arrives, and an update of its shard field alone
//! changes it and creates none. A request that is carried out late, after the document was deleted, does:
//! it is a stray like any other ([`super::audit`]), and the replica is copied.

use std::collections::BTreeSet;

use bytes::Bytes;
use http::Method;
use miroir_membership::placement::shard_of;
use miroir_storage::ids::{ShardId, TaskUid};
use miroir_storage::tables::lane_marks::{LaneMark, OpenRun};
use miroir_wire::document::document_id;
use miroir_wire::reserved::{Partition, SHARD_FIELD};
use serde_json::json;
use serde_json::value::RawValue;

use super::deliver::{Delivery, RequestEnd, is_gone};
use super::job::{JobBody, JobRequest, mark, percent_encode, unmarked};
use super::look_up::{DiskGone, former, return_to};
use crate::fencing::NotAgreed;
use crate::node_calls::{NodeCallError, PAYLOAD_TIMEOUT};

/// What to mark.
#[derive(Clone, Debug)]
pub struct MarkPage {
    /// The attribute that holds the ids; without one there is no document yet.
    pub primary_key: Option<String>,
    /// The partition that documents may lack a mark for.
    pub newest: Partition,
    /// Documents at most.
    pub limit: usize,
    /// The shards that the node has, or that are known to be left on it.
    pub known: BTreeSet<ShardId>,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MarkEnd {
    /// So many documents were marked.
    Marked {
        /// Documents.
        count: usize,
        /// Some are of shards that the node has nothing of: somebody else put them there. They
        /// are to be swept out.
        strays: bool,
    },
    /// Every document that the node has is marked.
    Whole,
    /// The node did not answer, or refused; it is tried again.
    NotDone,
    /// The node is not the one we knew: its disk is gone.
    NodeReplaced,
    /// The lane's mark could not be agreed: nothing was sent.
    NotAgreed(NotAgreed),
}

impl Delivery {
    /// Marks some of the documents that lack a mark of the newest partition.
    pub(super) async fn mark_documents(&self, page: &MarkPage, lane: &mut LaneMark) -> MarkEnd {
        let Some(primary_key) = &page.primary_key else { return MarkEnd::Whole };
        let (node, index) = (&self.node, &self.target.index);
        // What a former life has sent may still wait in the node's queue: a document that it deletes
        // must not be listed before.
        let former = former(lane);
        if let Some(former) = &former {
            let is_over = match self.settle_former(former, lane).await {
                Ok(Some(task)) => self.follow(task).await.is_some(),
                Ok(None) => true,
                Err(DiskGone) => false,
            };
            if !is_over {
                return MarkEnd::NodeReplaced;
            }
        }
        let found = match self.list_unmarked(page, primary_key).await {
            Ok(found) => found,
            Err(NodeCallError::Refused(error)) if is_gone(lane, &error) => {
                return MarkEnd::NodeReplaced;
            }
            Err(error) => {
                tracing::debug!(%node, %index, %error, "documents to mark could not be listed");
                return MarkEnd::NotDone;
            }
        };
        if found.is_empty() {
            return MarkEnd::Whole;
        }
        let Some((body, shards)) = self.marked_body(&found, primary_key) else {
            tracing::error!(%node, %index, "node lists documents without ids");
            return MarkEnd::NotDone;
        };
        let key = percent_encode(primary_key);
        let request = JobRequest {
            method: Method::PUT,
            path: format!("/indexes/{index}/documents?primaryKey={key}"),
            body: JobBody::Bytes(body),
            timeout: PAYLOAD_TIMEOUT,
            accepts: None,
            repeatable: true,
        };
        let place = lane.through.unwrap_or(TaskUid(0));
        // No other request has the name: the node's newest task grows with each.
        let after = lane.node_task.unwrap_or(0);
        let name = format!("miroir:{index}:mark{}:{after}", page.newest.generation);
        let open = OpenRun { name, first: place, last: place };
        let end = self.request(&request, open, false, lane).await;
        return_to(former, lane);
        self.note_sent(lane);
        self.note(lane);
        match end {
            RequestEnd::Applied(_) | RequestEnd::AlreadyThere => {
                let strays = !shards.is_subset(&page.known);
                MarkEnd::Marked { count: found.len(), strays }
            }
            RequestEnd::Refused(error) => {
                tracing::error!(%node, %index, code = error.code, message = error.message,
                    "node refuses marks of documents");
                MarkEnd::NotDone
            }
            RequestEnd::NodeReplaced => MarkEnd::NodeReplaced,
            RequestEnd::NotAgreed(why) => MarkEnd::NotAgreed(why),
        }
    }

    async fn list_unmarked(
        &self,
        page: &MarkPage,
        primary_key: &str,
    ) -> Result<Vec<Box<RawValue>>, NodeCallError> {
        let query = json!({
            "filter": [unmarked(page.newest)], "fields": [primary_key], "limit": page.limit,
        });
        self.calls.documents(&self.node, &self.target.index, &query).await
    }

    /// An update of each document's shard field, and nothing else, and the shards that they are of; `None`
    /// when one has no id.
    fn marked_body(
        &self,
        found: &[Box<RawValue>],
        primary_key: &str,
    ) -> Option<(Bytes, BTreeSet<ShardId>)> {
        let marks = self.target.marks;
        let mut shards = BTreeSet::new();
        let mut body = Vec::new();
        for document in found {
            let document = document.get().trim_start();
            let id = document_id(document.as_bytes(), primary_key).ok()?;
            let shard = shard_of(&id, marks.current.shards);
            shards.insert(shard);
            let beside = marks.beside().map(|beside| shard_of(&id, beside.shards));
            body.push(if body.is_empty() { b'[' } else { b',' });
            let field = format!("{{\"{SHARD_FIELD}\":{},", mark(marks, shard, beside));
            body.extend_from_slice(field.as_bytes());
            body.extend_from_slice(document.get(1..)?.as_bytes());
        }
        body.push(b']');
        Some((Bytes::from(body), shards))
    }
}
