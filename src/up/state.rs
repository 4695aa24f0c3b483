//! What `miroir up` remembers in its data directory, so that the same cluster comes back.
//!
//! ```text
//! <data>/up.json            this state; holds keys, so only its owner may read it
//! <data>/LOCK               held by the running `up`
//! <data>/pods/<id>/         miroir.toml (written at every start) and data/
//! <data>/nodes/<id>/        the node's own
//! <data>/logs/<id>.log      what a pod or node logs
//! ```

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use miroir_seams::Entropy;
use serde::{Deserialize, Serialize};

use super::shape::Shape;
use crate::config::{
    ClusterConfig, Config, NodeConfig, PodIdentity, Secret, ServerConfig, UnavailableShardPolicy,
};

/// The layout this program writes. A later one reads older layouts, never newer ones.
const STATE_VERSION: u32 = 1;
/// Where everything of `up` listens.
pub const HOST: &str = "127.0.0.1";

/// One pod.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodState {
    /// Stays the same for ever.
    pub id: String,
    /// May change from start to start.
    pub port: u16,
}

/// One node.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeState {
    /// Stays the same for ever: it decides which shards the node holds.
    pub id: String,
    /// Its replica group, from 0.
    pub group: u32,
    /// May change from start to start.
    pub port: u16,
    /// The node's master key.
    pub key: Secret,
}

/// The whole of `up.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UpState {
    version: u32,
    /// Decided at the first start.
    pub shape: Shape,
    /// For clients.
    pub master_key: Secret,
    /// Opens `/_miroir/`.
    pub admin_key: Secret,
    /// As many as the shape says.
    pub pods: Vec<PodState>,
    /// As many as the shape says.
    pub nodes: Vec<NodeState>,
    /// Whether `--demo` was carried through.
    pub demo_loaded: bool,
}

/// 128 random bits as hexadecimal digits.
fn random_key(entropy: &Entropy) -> Secret {
    let mut bytes = [0u8; 16];
    entropy.fill(&mut bytes);
    Secret::new(bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

impl UpState {
    /// A new cluster. Ports are 0 until they are settled.
    pub fn new(shape: Shape, master_key: Option<Secret>, entropy: &Entropy) -> Self {
        let pod = |at| PodState { id: format!("pod-{}", at + 1), port: 0 };
        let node = |at| NodeState {
            id: format!("node-{}", at + 1),
            group: shape.group_of(at),
            port: 0,
            key: random_key(entropy),
        };
        Self {
            version: STATE_VERSION,
            shape,
            master_key: master_key.unwrap_or_else(|| random_key(entropy)),
            admin_key: random_key(entropy),
            pods: (0..shape.pods).map(pod).collect(),
            nodes: (0..shape.nodes).map(node).collect(),
            demo_loaded: false,
        }
    }

    /// The state kept in `data`, or none if there is none yet.
    ///
    /// # Errors
    /// When it can't be read or is not of a layout we know.
    pub fn load(data: &Path) -> anyhow::Result<Option<Self>> {
        let path = data.join("up.json");
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("{}", path.display())),
        };
        let state: Self = serde_json::from_slice(&bytes)
            .with_context(|| format!("{} is damaged", path.display()))?;
        if state.version != STATE_VERSION {
            bail!("{} was written by another version of miroir", path.display());
        }
        Ok(Some(state))
    }

    /// Writes the state so that a crash leaves either the old one or the new one.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn save(&self, data: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self).context("can't write up.json")?;
        write_private(&data.join("up.json"), &text)
    }

    /// The address of the first pod, where clients connect.
    pub fn url(&self) -> String {
        self.pods.first().map(|pod| url(pod.port)).unwrap_or_default()
    }

    /// Writes the configuration of `pod` and returns where.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn write_pod_config(&self, data: &Path, pod: &PodState) -> anyhow::Result<PathBuf> {
        let folder = data.join("pods").join(&pod.id);
        let path = folder.join("miroir.toml");
        let text = self.pod_config(&folder, pod).to_toml().context("can't write miroir.toml")?;
        std::fs::create_dir_all(&folder).with_context(|| format!("{}", folder.display()))?;
        let note = "# Written by `miroir up` at every start; changes are lost.\n";
        write_private(&path, &format!("{note}{text}"))?;
        Ok(path)
    }

    fn pod_config(&self, folder: &Path, pod: &PodState) -> Config {
        Config {
            master_key: Some(self.master_key.clone()),
            admin_key: Some(self.admin_key.clone()),
            server: ServerConfig {
                http_addr: ([127, 0, 0, 1], pod.port).into(),
                ..ServerConfig::default()
            },
            pod: PodIdentity { id: pod.id.clone(), data: folder.join("data") },
            cluster: ClusterConfig {
                shards: self.shape.shards,
                replication_factor: self.shape.rf,
                unavailable_shard_policy: UnavailableShardPolicy::Partial,
            },
            nodes: self
                .nodes
                .iter()
                .map(|node| NodeConfig {
                    id: node.id.clone(),
                    url: url(node.port),
                    group: node.group,
                    key: Some(node.key.clone()),
                    key_file: None,
                })
                .collect(),
            ..Config::default()
        }
    }
}

/// The address of what listens on `port`.
pub fn url(port: u16) -> String {
    format!("http://{HOST}:{port}")
}

/// Replaces `path` by a file with `text` that only its owner may read.
fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    let write = || -> std::io::Result<()> {
        let mut options = std::fs::OpenOptions::new();
        options.create(true).truncate(true).write(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&new, path)?;
        // The new name must last as well as the bytes.
        #[cfg(unix)]
        if let Some(folder) = path.parent() {
            std::fs::File::open(folder)?.sync_all()?;
        }
        Ok(())
    };
    write().with_context(|| format!("can't write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::super::shape::Asked;
    use super::*;

    #[test]
    fn state_comes_back_as_it_was_and_only_its_owner_reads_it() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        assert!(UpState::load(folder.path()).expect("none is fine").is_none());
        let shape = Shape::decide(Asked::default()).expect("possible");
        let state = UpState::new(shape, None, &Entropy::seeded(1));
        state.save(folder.path()).expect("saved");
        let kept = UpState::load(folder.path()).expect("valid").expect("there");
        assert_eq!(kept.shape, shape);
        assert_eq!(kept.master_key, state.master_key);
        let ids: Vec<(&str, u32)> =
            kept.nodes.iter().map(|node| (node.id.as_str(), node.group)).collect();
        assert_eq!(ids, [("node-1", 0), ("node-2", 0), ("node-3", 1), ("node-4", 1)]);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let file = std::fs::metadata(folder.path().join("up.json")).expect("there");
            assert_eq!(file.permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn written_pod_configuration_is_accepted() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let shape = Shape::decide(Asked { rf: Some(2), ..Asked::default() }).expect("possible");
        let mut state = UpState::new(shape, None, &Entropy::seeded(1));
        state.pods[0].port = 7700;
        for (node, port) in state.nodes.iter_mut().zip(7701..) {
            node.port = port;
        }
        let path = state.write_pod_config(folder.path(), &state.pods[0]).expect("written");
        let config = Config::load(Some(&path), [], &[]).expect("valid");
        assert_eq!(config.nodes.len(), 4);
        assert_eq!(config.cluster.replication_factor, 2);
    }
}
