//! What `miroir up` remembers in its data directory, so that the same cluster comes back.
//!
//! ```text
//! <data>/up.json            this state; holds keys and the cluster secret, so only its owner may read it
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
use serde_json::{Value, json};

use super::shape::Shape;
use crate::config::{ClusterConfig, Config, NodeConfig, PodIdentity, Secret, ServerConfig};

/// The layout this program writes. A later one reads older layouts, never newer ones.
/// 1: one pod, without `peerPort` and `clusterSecret`.
const STATE_VERSION: u32 = 2;
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
    /// Where other pods reach it; 0 while there is none. May change from start to start.
    pub peer_port: u16,
}

impl PodState {
    /// Where other pods reach it.
    pub fn peer_address(&self) -> String {
        format!("{HOST}:{}", self.peer_port)
    }
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
    /// Decided at the first start; pods may be added later.
    pub shape: Shape,
    /// For clients.
    pub master_key: Secret,
    /// Opens `/_miroir/`.
    pub admin_key: Secret,
    /// What the pods know each other by, once there are several.
    pub cluster_secret: Secret,
    /// As many as the shape says.
    pub pods: Vec<PodState>,
    /// As many as the shape says.
    pub nodes: Vec<NodeState>,
    /// Whether `--demo` was carried through.
    pub demo_loaded: bool,
}

/// Random bytes of a key, which appear as twice as many hexadecimal digits.
const KEY_BYTES: usize = 16;
/// The same of the cluster secret, from which keys of 256 bits are derived.
const SECRET_BYTES: usize = 32;

fn random_key<const BYTES: usize>(entropy: &Entropy) -> Secret {
    let mut bytes = [0u8; BYTES];
    entropy.fill(&mut bytes);
    Secret::new(bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

impl UpState {
    /// A new cluster. Ports are 0 until they are settled.
    pub fn new(shape: Shape, master_key: Option<Secret>, entropy: &Entropy) -> Self {
        let node = |at| NodeState {
            id: format!("node-{}", at + 1),
            group: shape.group_of(at),
            port: 0,
            key: random_key::<KEY_BYTES>(entropy),
        };
        Self {
            version: STATE_VERSION,
            shape,
            master_key: master_key.unwrap_or_else(|| random_key::<KEY_BYTES>(entropy)),
            admin_key: random_key::<KEY_BYTES>(entropy),
            cluster_secret: random_key::<SECRET_BYTES>(entropy),
            pods: (1..=shape.pods).map(new_pod).collect(),
            nodes: (0..shape.nodes).map(node).collect(),
            demo_loaded: false,
        }
    }

    /// Adds pods until there are as many as `shape` says; those that are there stay as they are.
    pub fn grow_to(&mut self, shape: Shape) {
        let known = u32::try_from(self.pods.len()).unwrap_or(u32::MAX);
        self.pods.extend((known.saturating_add(1)..=shape.pods).map(new_pod));
        self.shape = shape;
    }

    /// Whether the pods must find each other. One pod stays alone and opens no peer port.
    pub fn has_peers(&self) -> bool {
        self.pods.len() > 1
    }

    /// The state kept in `data`, or none if there is none yet.
    ///
    /// # Errors
    /// When it can't be read or is not of a layout we know.
    pub fn load(data: &Path, entropy: &Entropy) -> anyhow::Result<Option<Self>> {
        let path = data.join("up.json");
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("{}", path.display())),
        };
        let damaged = || format!("{} is damaged", path.display());
        let mut kept: Value = serde_json::from_slice(&bytes).with_context(damaged)?;
        if kept["version"] == 1 {
            upgrade_from_1(&mut kept, entropy);
        }
        if kept["version"] != STATE_VERSION {
            bail!("{} was written by another version of miroir", path.display());
        }
        Ok(Some(serde_json::from_value(kept).with_context(damaged)?))
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

    /// How `pod` finds the others. `pods_expected` counts all pods even when some join a cluster
    /// that is there already: those that belong to it ignore the number, those that are new see
    /// it and join.
    fn cluster_of(&self, pod: &PodState) -> ClusterConfig {
        if !self.has_peers() {
            return ClusterConfig::default();
        }
        let others = self.pods.iter().filter(|other| other.id != pod.id);
        ClusterConfig {
            secret: Some(self.cluster_secret.clone()),
            seeds: others.map(PodState::peer_address).collect(),
            pods_expected: self.shape.pods,
            ..ClusterConfig::default()
        }
    }

    fn pod_config(&self, folder: &Path, pod: &PodState) -> Config {
        Config {
            master_key: Some(self.master_key.clone()),
            admin_key: Some(self.admin_key.clone()),
            server: ServerConfig {
                http_addr: ([127, 0, 0, 1], pod.port).into(),
                ..ServerConfig::default()
            },
            pod: PodIdentity {
                id: pod.id.clone(),
                data: folder.join("data"),
                peer_addr: if self.has_peers() {
                    ([127, 0, 0, 1], pod.peer_port).into()
                } else {
                    PodIdentity::default().peer_addr
                },
                peer_advertise: None,
            },
            cluster: ClusterConfig {
                shards: self.shape.shards,
                replication_factor: self.shape.rf,
                ..self.cluster_of(pod)
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

/// The `number`th pod, from 1, its ports not settled.
fn new_pod(number: u32) -> PodState {
    PodState { id: format!("pod-{number}"), port: 0, peer_port: 0 }
}

/// Adds what version 2 has and version 1 had not.
fn upgrade_from_1(kept: &mut Value, entropy: &Entropy) {
    kept["version"] = json!(2);
    kept["clusterSecret"] = json!(random_key::<SECRET_BYTES>(entropy));
    for pod in kept["pods"].as_array_mut().into_iter().flatten() {
        pod["peerPort"] = json!(0);
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
        let load = || UpState::load(folder.path(), &Entropy::seeded(2));
        assert!(load().expect("none is fine").is_none());
        let shape = Shape::decide(Asked::default()).expect("possible");
        let state = UpState::new(shape, None, &Entropy::seeded(1));
        state.save(folder.path()).expect("saved");
        let kept = load().expect("valid").expect("there");
        assert_eq!(kept.shape, shape);
        assert_eq!(kept.cluster_secret, state.cluster_secret);
        assert_eq!(kept.cluster_secret.reveal().len(), 64);
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
        assert!(config.is_alone());
    }

    /// As version 1 wrote it.
    const VERSION_1: &str = r#"{
        "version": 1,
        "shape": {"pods": 1, "nodes": 1, "groups": 1, "rf": 1, "shards": 64},
        "masterKey": "0123456789abcdef", "adminKey": "fedcba9876543210",
        "pods": [{"id": "pod-1", "port": 7700}],
        "nodes": [{"id": "node-1", "group": 0, "port": 7701, "key": "k"}],
        "demoLoaded": true}"#;

    #[test]
    fn a_cluster_of_version_1_goes_on_and_grows() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(folder.path().join("up.json"), VERSION_1).expect("written");
        let load = || UpState::load(folder.path(), &Entropy::seeded(1));
        let mut state = load().expect("valid").expect("there");
        let asked = Asked { pods: Some(3), ..Asked::default() };
        state.grow_to(state.shape.decide_again(asked, "d").expect("possible"));
        state.save(folder.path()).expect("saved");
        let kept = load().expect("valid").expect("there");
        assert_eq!(kept.cluster_secret, state.cluster_secret);
        let pods: Vec<(&str, u16)> =
            kept.pods.iter().map(|pod| (pod.id.as_str(), pod.port)).collect();
        assert_eq!(pods, [("pod-1", 7700), ("pod-2", 0), ("pod-3", 0)]);
        assert!(kept.demo_loaded);
    }

    #[test]
    fn a_later_version_is_refused() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let later = VERSION_1.replace("\"version\": 1", "\"version\": 3");
        std::fs::write(folder.path().join("up.json"), later).expect("written");
        let error = UpState::load(folder.path(), &Entropy::seeded(1)).expect_err("refused");
        assert!(error.to_string().contains("another version"), "{error}");
    }

    #[test]
    fn several_pods_know_each_other_and_the_secret() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let asked = Asked { pods: Some(3), nodes: Some(1), ..Asked::default() };
        let shape = Shape::decide(asked).expect("possible");
        let mut state = UpState::new(shape, None, &Entropy::seeded(1));
        for (pod, port) in state.pods.iter_mut().zip(7701..) {
            (pod.port, pod.peer_port) = (port, port + 10);
        }
        state.nodes[0].port = 7700;
        for (at, seeds) in [
            (0, ["127.0.0.1:7712", "127.0.0.1:7713"]),
            (1, ["127.0.0.1:7711", "127.0.0.1:7713"]),
            (2, ["127.0.0.1:7711", "127.0.0.1:7712"]),
        ] {
            let path = state.write_pod_config(folder.path(), &state.pods[at]).expect("written");
            let config = Config::load(Some(&path), [], &[]).expect("valid");
            assert_eq!(config.cluster.seeds, seeds);
            assert_eq!(config.cluster.pods_expected, 3);
            assert_eq!(config.cluster.secret, Some(state.cluster_secret.clone()));
            assert_eq!(config.pod.advertised_peer(), state.pods[at].peer_address());
        }
    }
}
