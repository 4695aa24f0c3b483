//! A lane's check of its node's settings, in the lane's own turn: nothing else is under way on
//! the node for the index, and what is agreed is what its place in the queue asks for.

use std::sync::Arc;

use http::Method;
use miroir_storage::ids::TaskUid;
use miroir_storage::tables::lane_marks::{LaneMark, OpenRun};
use miroir_wire::settings::Settings;
use serde_json::Value;

use super::deliver::{Delivery, RequestEnd, is_gone};
use super::job::settings_request;
use super::look_up::{former, return_to};
use crate::fencing::NotAgreed;
use crate::node_calls::NodeCallError;
use crate::node_settings::{canonical, differs, node_side_whole};

/// What the node must have.
#[derive(Clone, Debug)]
pub struct ExpectedSettings {
    /// The client's settings, whole.
    pub settings: Arc<Settings>,
    /// How this node was seen to print just these settings, where that is not as we would.
    pub spelling: Option<Value>,
}

/// What a check found and did.
#[derive(Clone, Debug, PartialEq)]
pub enum SettingsCheck {
    /// The node has them.
    InForce,
    /// It had others; they were sent again.
    Repaired,
    /// They were sent again and read back no better: the node has them and prints them so.
    Spelt(Value),
    /// The node did not answer, or somebody changed them meanwhile: to be done again soon.
    NotYet,
    /// The node refused them, or does not say what it has; the next round looks again.
    Refused,
    /// The node is not the one we knew: its disk is gone.
    NodeReplaced,
    /// The lane's mark could not be agreed: nothing was sent.
    NotAgreed(NotAgreed),
}

impl Delivery {
    /// Reads the settings back and, where they differ, sends them whole, in one request.
    pub(super) async fn check_settings(
        &self,
        expected: &ExpectedSettings,
        mark: &mut LaneMark,
    ) -> SettingsCheck {
        let (node, index) = (&self.node, &self.target.index);
        let read = match self.read_settings().await {
            Ok(read) => read,
            Err(NodeCallError::Refused(error)) if is_gone(mark, &error) => {
                return SettingsCheck::NodeReplaced;
            }
            // Its runs must not wait for what it never says.
            Err(NodeCallError::Refused(_)) => return SettingsCheck::Refused,
            Err(_) => return SettingsCheck::NotYet,
        };
        let printed = as_printed(&read);
        if !differs(&expected.settings, &read) || expected.spelling.as_ref() == Some(&printed) {
            return SettingsCheck::InForce;
        }
        tracing::warn!(%node, %index, "node has other settings than agreed, sending them again");
        let body = node_side_whole(&expected.settings, &read);
        let place = mark.through.unwrap_or(TaskUid(0));
        let name = format!("miroir:{index}:settings:{place}");
        let open = OpenRun { name, first: place, last: place };
        let former = former(mark);
        let end = self.request(&settings_request(index, &body), open, false, mark).await;
        return_to(former, mark);
        self.note(mark);
        match end {
            RequestEnd::Applied(_) | RequestEnd::AlreadyThere => {}
            RequestEnd::Refused(error) => {
                tracing::error!(%node, %index, code = error.code, message = error.message,
                    "node refuses the settings that are agreed");
                return SettingsCheck::Refused;
            }
            RequestEnd::NodeReplaced => return SettingsCheck::NodeReplaced,
            RequestEnd::NotAgreed(why) => return SettingsCheck::NotAgreed(why),
        }
        match self.read_settings().await {
            Ok(again) if differs(&expected.settings, &again) && as_printed(&again) == printed => {
                match self.is_newest(mark.node_task).await {
                    true => SettingsCheck::Spelt(printed),
                    // Somebody has changed them once more, to the same.
                    false => SettingsCheck::NotYet,
                }
            }
            _ => SettingsCheck::Repaired,
        }
    }

    /// Whether the index had no other task on the node since this one. The lane has its turn: of its own
    /// there is none.
    async fn is_newest(&self, task: Option<u64>) -> bool {
        let query = format!("indexUids={}&limit=1", self.target.index);
        let newest = self.calls.tasks(&self.node, &query).await;
        newest.is_ok_and(|newest| newest.first().map(|newest| newest.uid) == task)
    }

    async fn read_settings(&self) -> Result<Value, NodeCallError> {
        let path = format!("/indexes/{}/settings", self.target.index);
        let read = self.calls.json(&self.node, Method::GET, path, None).await;
        read.inspect_err(|error| {
            tracing::debug!(node = %self.node, %error, "settings could not be read back");
        })
    }
}

/// What a node prints, embedders as they come.
fn as_printed(read: &Value) -> Value {
    let embedders = read.get("embedders").cloned().unwrap_or_default();
    Value::Array(vec![canonical(read.clone()), embedders])
}
