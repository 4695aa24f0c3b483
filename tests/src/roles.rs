//! Who holds which role, as every pod says while they come and go.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use miroir_seams::Tasks;
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::client::Api;

/// Between two rounds of questions.
const PACE: Duration = Duration::from_millis(100);
/// A pod that doesn't answer is asked again in the next round.
const PATIENCE: Duration = Duration::from_secs(2);

/// By role and epoch: the pods that were said to hold it.
type Holders = BTreeMap<(String, u64), BTreeSet<String>>;

/// Asks all pods for the roles until it is ended.
#[derive(Debug)]
pub struct RoleWatch {
    seen: Arc<Mutex<(Holders, Vec<String>)>>,
    rounds: Vec<JoinHandle<()>>,
}

impl RoleWatch {
    /// Begins to ask the pods at `urls`.
    pub fn start<'a>(urls: impl IntoIterator<Item = &'a str>, admin_key: Option<&str>) -> Self {
        let seen = Arc::new(Mutex::default());
        let tasks = Tasks::new();
        let rounds = urls
            .into_iter()
            .map(|url| {
                let api = Api::new(url, admin_key).with_patience(PATIENCE);
                tasks.spawn("role watch", watch(api, Arc::clone(&seen)))
            })
            .collect();
        Self { seen, rounds }
    }

    /// Stops asking. Every epoch of every role had one holder, and no pod saw an epoch fall.
    ///
    /// # Panics
    /// When that did not hold, or no role was ever handed over.
    pub fn end(self) {
        self.rounds.iter().for_each(JoinHandle::abort);
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let (holders, falls) = &*seen;
        assert_eq!(*falls, Vec::<String>::new());
        for ((role, epoch), pods) in holders {
            assert_eq!(pods.len(), 1, "{role} has several holders in epoch {epoch}: {pods:?}");
        }
        let roles: BTreeSet<&String> = holders.keys().map(|(role, _)| role).collect();
        println!("{} roles, {} terms of office", roles.len(), holders.len());
        assert!(holders.len() > roles.len(), "no role was handed over");
    }
}

async fn watch(api: Api, seen: Arc<Mutex<(Holders, Vec<String>)>>) {
    let mut last: BTreeMap<String, u64> = BTreeMap::new();
    loop {
        if let Ok(Value::Array(roles)) = api.get("/_miroir/roles").await {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            for view in &roles {
                let (Some(role), Some(holder), Some(epoch)) =
                    (view["role"].as_str(), view["holder"].as_str(), view["epoch"].as_u64())
                else {
                    continue;
                };
                let before = last.insert(role.to_owned(), epoch).unwrap_or_default();
                if before > epoch {
                    seen.1.push(format!("{}: {role} fell from {before} to {epoch}", api.base()));
                }
                seen.0.entry((role.to_owned(), epoch)).or_default().insert(holder.to_owned());
            }
        }
        tokio::time::sleep(PACE).await;
    }
}
