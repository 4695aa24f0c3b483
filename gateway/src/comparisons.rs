//! What comparing replicas has found, and the order to compare them now: routes, shapes, and who answers.
//!
//! | route | answer |
//! |---|---|
//! | `GET /_miroir/anti-entropy` | [`ComparisonsAnswer`] |
//! | `POST /_miroir/anti-entropy` | 202 [`ComparisonsAnswer`]: every pod begins a round of its share, or another after the one under way |
//!
//! Both need the admin key. Any pod answers for the whole cluster: a pod that can't be reached is an entry that
//! says so.
//!
//! The shapes are read by `miroir ctl` and the console: fields may be added, never renamed.

use async_trait::async_trait;
use futures::future::join_all;
use miroir_actors::anti_entropy::view::{AntiEntropyReport, Difference};
use miroir_actors::peer_service::anti_entropy_of;
use serde::{Deserialize, Serialize};

use crate::admin::AdminError;
use crate::admin_pod::PodAdmin;

/// What all pods have found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComparisonsAnswer {
    /// In order of id.
    pub pods: Vec<PodComparisons>,
}

/// What one pod has compared since it started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodComparisons {
    /// Its id.
    pub pod: String,
    /// Whether it answered. If not, `error` says why and all else is empty.
    pub reachable: bool,
    /// Why it did not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What it has found. Indexes go by their names.
    #[serde(flatten)]
    pub report: AntiEntropyReport,
}

/// Answers operators about differences of replicas.
#[async_trait]
pub trait ComparisonsSource {
    /// What was found; orders a round of comparing if `begin`.
    ///
    /// # Errors
    /// 501 where nobody answers.
    async fn comparisons(&self, _begin: bool) -> Result<ComparisonsAnswer, AdminError> {
        Err(AdminError::NotSupported)
    }
}

#[async_trait]
impl ComparisonsSource for PodAdmin {
    async fn comparisons(&self, begin: bool) -> Result<ComparisonsAnswer, AdminError> {
        let routing = self.pod.log.routing();
        let named = |difference: Difference| {
            let known = routing.by_uid.get(&difference.index.as_str().into());
            let index = known.map_or(difference.index, |index| index.name.clone());
            Difference { index, ..difference }
        };
        let asked = self.pods().into_iter().map(|id| async move {
            let pod = id.to_string();
            match anti_entropy_of(&self.pod, &id, begin).await {
                Ok(report) => PodComparisons { pod, reachable: true, error: None, report },
                Err(error) => {
                    let (error, report) = (Some(error.to_string()), AntiEntropyReport::default());
                    PodComparisons { pod, reachable: false, error, report }
                }
            }
        });
        let mut pods = join_all(asked).await;
        for pod in &mut pods {
            let found = std::mem::take(&mut pod.report.differences);
            pod.report.differences = found.into_iter().map(named).collect();
        }
        Ok(ComparisonsAnswer { pods })
    }
}
