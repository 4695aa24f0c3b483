//! What a copy makes sure of: its sources before it begins, its right to go on, the counts at its
//! end.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use http::Method;
use miroir_storage::ids::{NodeId, ShardId};
use miroir_wire::reserved::Partition;
use serde_json::{Value, json};

use super::{CopyError, PAUSE, ReplicaCopyArguments};
use crate::fencing::CONFIRMED_MAX;
use crate::lane::job::in_shards;
use crate::node_calls::NodeCallError;
use crate::node_disks::{self, Look};

impl ReplicaCopyArguments {
    /// Nothing is removed from the target before it is certain that its sources have what they
    /// should: they may have lost their disks unnoticed.
    pub(super) async fn look_at_sources(&self) -> Result<(), CopyError> {
        let calls = &self.pod.calls;
        for source in self.sources.keys() {
            if node_disks::look(calls, &self.pod.log, source).await? == Look::Replaced {
                return Err(CopyError::SourceLost(source.clone()));
            }
            let path = format!("/indexes/{}", self.fence.index);
            match calls.json::<Value>(source, Method::GET, path, None).await {
                Err(NodeCallError::Refused(error)) if error.code == "index_not_found" => {
                    return Err(CopyError::SourceLost(source.clone()));
                }
                answer => answer?,
            };
        }
        Ok(())
    }

    /// Documents of the filled shards, by both sides, which must agree.
    pub(super) async fn compare_counts(&self) -> Result<u64, CopyError> {
        let index = self.index()?;
        let mut expected = 0;
        for (source, shards) in &self.sources {
            expected += self.count(source, shards, index.marks.current).await?;
        }
        let held = match &self.missing {
            Some(missing) => self.count(&self.target, missing, index.marks.current).await?,
            None => {
                let path = format!("/indexes/{}/stats", index.uid);
                let answer: Value =
                    self.pod.calls.json(&self.target, Method::GET, path, None).await?;
                answer.get("numberOfDocuments").and_then(Value::as_u64).unwrap_or(0)
            }
        };
        if held != expected {
            return Err(CopyError::CountDiffers { expected, held });
        }
        Ok(held)
    }

    async fn count(
        &self,
        node: &NodeId,
        shards: &BTreeSet<ShardId>,
        of: Partition,
    ) -> Result<u64, CopyError> {
        if shards.is_empty() {
            return Ok(0);
        }
        let path = format!("/indexes/{}/documents/fetch", self.fence.index);
        let query = json!({ "filter": [in_shards(shards, of)], "limit": 0 });
        let answer: Value = self.pod.calls.json(node, Method::POST, path, Some(&query)).await?;
        Ok(answer.get("total").and_then(Value::as_u64).unwrap_or(0))
    }

    pub(super) fn check_wanted(&self) -> Result<(), CopyError> {
        match self.given_up.load(Ordering::Relaxed) {
            true => Err(CopyError::GivenUp),
            false => Ok(()),
        }
    }

    /// Nothing is to be expected of the target any more: it is down, or not of the cluster.
    pub(super) fn target_is_lost(&self) -> bool {
        let is_removed = !self.pod.log.routing().nodes.contains_key(&self.target);
        is_removed || self.pod.health.is_down(&self.target)
    }

    /// Waits until it is fresh knowledge that no newer writer exists, as lanes do.
    pub(super) async fn still_holds(&self) -> Result<(), CopyError> {
        loop {
            self.check_wanted()?;
            if self.index()?.epoch > self.fence.epoch {
                return Err(CopyError::Fenced);
            }
            if self.pod.log.confirmed().age <= CONFIRMED_MAX {
                return Ok(());
            }
            if self.target_is_lost() {
                return Err(CopyError::TargetDown);
            }
            self.pod.seams.clock.sleep(PAUSE).await;
        }
    }
}
