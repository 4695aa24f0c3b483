//! What a pod must know to be one of several: addresses, secrets, seeds, patience.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::rules::reread_cluster_secrets;
use super::units::{self, Secret};
use super::{Config, ConfigError};

/// This pod.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PodIdentity {
    /// Unique in the cluster, the same after every restart.
    pub id: String,
    /// The log, the journal and the spool of large request bodies are kept here.
    pub data: PathBuf,
    /// Where the pod listens for other pods, TCP and UDP. Opened only if there is a secret.
    pub peer_addr: SocketAddr,
    /// What other pods are told instead, `host:port`: behind a translation of addresses, or when
    /// `peer_addr` is unspecified.
    pub peer_advertise: Option<String>,
}

impl Default for PodIdentity {
    fn default() -> Self {
        Self {
            id: "pod-1".to_owned(),
            data: PathBuf::from("./miroir-pod"),
            peer_addr: SocketAddr::from(([127, 0, 0, 1], 7790)),
            peer_advertise: None,
        }
    }
}

impl PodIdentity {
    /// Where other pods reach this one, `host:port`; the host may be a name.
    pub fn advertised_peer(&self) -> String {
        self.peer_advertise.clone().unwrap_or_else(|| self.peer_addr.to_string())
    }
}

/// What to answer when no replica of a shard can be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UnavailableShardPolicy {
    /// What there is, with `X-Miroir-Degraded`.
    #[default]
    Partial,
    /// 503 `miroir_shard_unavailable`.
    Error,
}

/// What a pod does with reads when the log's leader has not confirmed it for too long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StalePolicy {
    /// Answers, with `X-Miroir-Degraded: stale=…`.
    #[default]
    Mark,
    /// Answers 503.
    Refuse,
}

/// What all pods of the cluster must agree on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClusterConfig {
    /// Shards of an index made from now on. Existing indexes keep theirs.
    pub shards: u32,
    /// Replicas of a shard in each group.
    pub replication_factor: u32,
    /// What to answer when a shard can't be read.
    pub unavailable_shard_policy: UnavailableShardPolicy,
    /// What pods know each other by: presented to others, and accepted from them.
    pub secret: Option<Secret>,
    /// A file that holds `secret` instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_file: Option<PathBuf>,
    /// Further secrets that are accepted, while they are being replaced.
    pub old_secrets: Vec<Secret>,
    /// A file that holds `old_secrets` instead, one a line; it may be empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old_secrets_file: Option<PathBuf>,
    /// Peer addresses of other pods, `host:port`; a name may stand for several addresses.
    pub seeds: Vec<String>,
    /// Pods that begin a new cluster together; ignored by a pod that belongs to one. With 1, a pod
    /// that has seeds other than itself only joins.
    pub pods_expected: u32,
    /// A pod that is gone this long is no longer a member of the log.
    #[serde(with = "units::duration_text")]
    pub pod_grace: Duration,
    /// A node that is down this long has its copies made on the other nodes of its group.
    #[serde(with = "units::duration_text")]
    pub node_grace: Duration,
    /// When planned moves and reshardings go on, as `22:00-06:00`, UTC; none: at any time.
    pub move_hours: Option<String>,
    /// How often the replicas of each shard are compared; 0s: only by order.
    #[serde(with = "units::duration_text")]
    pub anti_entropy_interval: Duration,
    /// Whether documents that are found to differ are put right, or only reported.
    pub anti_entropy_repairs: bool,
    /// How long a pod may go unconfirmed by the log's leader before its reads count as stale.
    #[serde(with = "units::duration_text")]
    pub max_staleness: Duration,
    /// What happens to reads then.
    pub stale_policy: StalePolicy,
    /// Where the secrets were read from, so that they can be read again.
    #[serde(skip)]
    pub secret_files: SecretFiles,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self {
            shards: 64,
            replication_factor: 1,
            unavailable_shard_policy: UnavailableShardPolicy::Partial,
            secret: None,
            secret_file: None,
            old_secrets: Vec::new(),
            old_secrets_file: None,
            seeds: Vec::new(),
            pods_expected: 1,
            pod_grace: Duration::from_secs(600),
            node_grace: Duration::from_secs(1800),
            move_hours: None,
            anti_entropy_interval: Duration::from_secs(6 * 3600),
            anti_entropy_repairs: true,
            max_staleness: Duration::from_secs(5),
            stale_policy: StalePolicy::Mark,
            secret_files: SecretFiles::default(),
        }
    }
}

/// Paths as they can be opened from here, those of the configuration being relative to its file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecretFiles {
    /// Of `secret_file`.
    pub(super) secret: Option<PathBuf>,
    /// Of `old_secrets_file`.
    pub(super) old_secrets: Option<PathBuf>,
}

/// The secrets of a cluster, each of at least 32 characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterSecrets {
    /// Presented, and accepted.
    pub current: Secret,
    /// Accepted only; none equals another or `current`.
    pub old: Vec<Secret>,
}

impl ClusterConfig {
    /// The secrets; none if the pod is alone.
    pub fn secrets(&self) -> Option<ClusterSecrets> {
        let current = self.secret.clone()?;
        let mut old: Vec<Secret> = Vec::new();
        for secret in &self.old_secrets {
            if *secret != current && !old.contains(secret) {
                old.push(secret.clone());
            }
        }
        Some(ClusterSecrets { current, old })
    }
}

impl Config {
    /// Whether the pod stays alone and opens no peer port: it has no secret.
    pub fn is_alone(&self) -> bool {
        self.cluster.secret.is_none()
    }

    /// Where other pods' operators and clients reach this pod, `host:port`.
    pub fn advertised_http(&self) -> String {
        let address = self.server.http_addr;
        let peer = self.pod.advertised_peer();
        match peer.rsplit_once(':') {
            Some((host, _)) if address.ip().is_unspecified() => {
                format!("{host}:{}", address.port())
            }
            _ => address.to_string(),
        }
    }

    /// The secrets as their files hold them now, for SIGHUP; those that came from the
    /// configuration itself or from variables are as before. None if the pod is alone.
    ///
    /// # Errors
    /// A file that can't be read, or holds what would have been refused at the start. The pod
    /// should then go on with the secrets it has.
    pub fn reload_secrets(&self) -> Result<Option<ClusterSecrets>, ConfigError> {
        let mut cluster = self.cluster.clone();
        let complaints = reread_cluster_secrets(&mut cluster);
        if complaints.is_empty() {
            Ok(cluster.secrets())
        } else {
            Err(ConfigError { file: None, complaints })
        }
    }
}
