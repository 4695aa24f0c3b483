//! The configuration of a pod: its types, defaults, and how the layers make one.
//!
//! File, then `MIROIR_*` variables, then flags; each later layer wins ([`source`]). Unknown keys
//! are refused ([`keys`]), then kinds, then what does not fit together ([`rules`]); a complaint
//! names the line, variable or flag and says what to do.
//!
//! Secrets (`master_key`, `admin_key`, node keys, [`cluster`]'s) come from the file, a file of their own
//! (`*_file`) or a variable, never from a flag: flags can be read by every process.

mod cluster;
mod keys;
mod rules;
mod source;
mod units;

use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use miroir_actors::task_pruner::TaskRetention;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use cluster::{ClusterConfig, PodIdentity, UnavailableShardPolicy};
pub use cluster::{ClusterSecrets, StalePolicy};
pub use rules::{GROUP_NODES_MIN_HINT, KEY_BYTES_MIN, SHARDS_MAX};
pub use source::Origin;
use source::{Format, Sources};
pub use units::{ByteSize, Secret};

use crate::logs::LogFormat;

/// The default configuration with a comment for each key, as `miroir config print-defaults`
/// prints it. A test holds it against [`Config::default`].
pub const DEFAULTS_YAML: &str = include_str!("config/defaults.yaml");

/// Everything a pod needs to know.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The key of clients' administrators; API keys and tenant tokens derive from it.
    pub master_key: Option<Secret>,
    /// A file that holds `master_key` instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub master_key_file: Option<PathBuf>,
    /// Opens `/_miroir/`. Without it that part of the API is closed.
    pub admin_key: Option<Secret>,
    /// A file that holds `admin_key` instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin_key_file: Option<PathBuf>,
    /// The key of every node that has none of its own.
    pub node_key: Option<Secret>,
    /// A file that holds `node_key` instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_key_file: Option<PathBuf>,
    /// The HTTP front.
    pub server: ServerConfig,
    /// This pod.
    pub pod: PodIdentity,
    /// What all pods of the cluster must agree on.
    pub cluster: ClusterConfig,
    /// The nodes in front of which the pod stands.
    pub nodes: Vec<NodeConfig>,
    /// When a node counts as down, and as back.
    pub health: HealthConfig,
    /// The history of tasks.
    pub tasks: TasksConfig,
    /// Logging.
    pub log: LogConfig,
}

/// The HTTP front.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerConfig {
    /// Where clients connect.
    pub http_addr: SocketAddr,
    /// The largest request body, after decoding.
    pub body_bytes_max: ByteSize,
    /// Room on disk for the bodies over 8 MiB of all requests in flight.
    pub spool_bytes_max: ByteSize,
    /// Requests served at the same time; more get 503 with `Retry-After`.
    pub concurrent_requests_max: usize,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            http_addr: SocketAddr::from(([127, 0, 0, 1], 7700)),
            // Meilisearch's own default.
            body_bytes_max: ByteSize(100_000_000),
            // Some twenty bodies of the largest size.
            spool_bytes_max: ByteSize(2 << 30),
            concurrent_requests_max: 500,
        }
    }
}

/// One node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// Decides which shards the node holds, so it must never change or be reused.
    pub id: String,
    /// `http://host:port`.
    pub url: String,
    /// Its replica group.
    #[serde(default)]
    pub group: u32,
    /// The node's master key, or one that may do everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Secret>,
    /// A file that holds `key` instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
}

/// When a node counts as down, and as back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HealthConfig {
    /// Time between two checks of a node.
    #[serde(with = "units::duration_text")]
    pub interval: Duration,
    /// How long a check may take.
    #[serde(with = "units::duration_text")]
    pub timeout: Duration,
    /// Missed checks in a row after which a node is down.
    pub misses: u32,
    /// Good checks in a row after which it is back.
    pub recoveries: u32,
}

impl Default for HealthConfig {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
            misses: 3,
            recoveries: 2,
        }
    }
}

/// The history of tasks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TasksConfig {
    /// How long tasks are kept after they ended.
    #[serde(with = "units::duration_text")]
    pub retention: Duration,
    /// Tasks kept at most; beyond it the oldest ended ones go.
    pub count_max: u64,
}

impl Default for TasksConfig {
    fn default() -> Self {
        let TaskRetention { time, tasks_max } = TaskRetention::default();
        Self { retention: time, count_max: tasks_max }
    }
}

/// Logging.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// A level (`info`) or a filter (`info,miroir_gateway=debug`).
    pub level: String,
    /// Text for people or JSON for programs.
    pub format: LogFormat,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Text }
    }
}

/// One thing that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// Where it was written; none for what is missing altogether.
    pub origin: Option<Origin>,
    /// Dotted path of the key; empty for the file itself.
    pub key: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// A configuration that was refused, with everything found wrong, in order of the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// The file's name, when there is one.
    pub file: Option<PathBuf>,
    /// Never empty.
    pub complaints: Vec<Complaint>,
}

impl ConfigError {
    fn one(origin: Origin, key: &str, message: &str, hint: Option<String>) -> Self {
        let complaint = Complaint {
            origin: Some(origin),
            key: key.to_owned(),
            message: message.to_owned(),
            hint,
        };
        Self { file: None, complaints: vec![complaint] }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the configuration")?;
        if let Some(file) = &self.file {
            write!(f, " {}", file.display())?;
        }
        write!(f, " is refused")?;
        for complaint in &self.complaints {
            write!(f, "\n  ")?;
            if let Some(origin) = &complaint.origin {
                write!(f, "{origin}: ")?;
            }
            if !complaint.key.is_empty() {
                write!(f, "{}: ", complaint.key)?;
            }
            write!(f, "{}", complaint.message)?;
            if let Some(hint) = &complaint.hint {
                write!(f, "\n    hint: {hint}")?;
            }
        }
        Ok(())
    }
}

/// A value given by a flag: the dotted path, the value as text, the flag's name.
#[derive(Clone, Debug)]
pub struct FlagValue {
    /// Dotted path of the key.
    pub path: String,
    /// As on the command line.
    pub text: String,
    /// For complaints.
    pub flag: String,
}

impl Config {
    /// Reads `file`, lays `variables` and `flags` over it and checks the whole. Key files are
    /// read here: afterwards the `*_file` fields are empty and every node has its key.
    ///
    /// # Errors
    /// Everything that is wrong, at once where possible.
    pub fn load(
        file: Option<&Path>,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
        flags: &[FlagValue],
    ) -> Result<Self, ConfigError> {
        Self::load_layers(file, variables, flags)
            .map_err(|error| ConfigError { file: file.map(Path::to_path_buf), ..error })
    }

    fn load_layers(
        file: Option<&Path>,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
        flags: &[FlagValue],
    ) -> Result<Self, ConfigError> {
        let mut sources = match file {
            Some(file) => read_file(file)?,
            None => Sources::default(),
        };
        let schema = keys::schema();
        let mut complaints = keys::lay_variables(&mut sources, &schema, variables);
        complaints.extend(keys::lay_flags(&mut sources, &schema, flags));
        complaints.extend(keys::unknown_keys(&sources, &schema));
        if !complaints.is_empty() {
            return Err(ConfigError { file: None, complaints });
        }
        let mut config: Self =
            serde_path_to_error::deserialize(sources.value()).map_err(|error| {
                let path = error.path().to_string().replace('[', ".").replace(']', "");
                let complaint = Complaint {
                    origin: sources.origin(&path).cloned(),
                    key: path.trim_matches('.').to_owned(),
                    message: error.into_inner().to_string(),
                    hint: Some("`miroir config print-defaults` shows every key".to_owned()),
                };
                ConfigError { file: None, complaints: vec![complaint] }
            })?;
        let mut complaints = rules::read_key_files(&mut config, &sources, file);
        complaints.extend(rules::check(&config, &sources));
        if complaints.is_empty() { Ok(config) } else { Err(ConfigError { file: None, complaints }) }
    }

    /// The configuration as TOML, secrets included: for a file that only its owner may read.
    ///
    /// # Errors
    /// None that a valid configuration can cause.
    pub fn to_toml(&self) -> anyhow::Result<String> {
        // Through JSON, since TOML has no null: what is not set is left out.
        Ok(toml::to_string(&without_nulls(serde_json::to_value(self)?))?)
    }
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(table) => Value::Object(
            table
                .into_iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(key, value)| (key, without_nulls(value)))
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.into_iter().map(without_nulls).collect()),
        other => other,
    }
}

fn read_file(file: &Path) -> Result<Sources, ConfigError> {
    let complain = |message: String, hint: &str| {
        let hint = Some(hint.to_owned());
        let complaint = Complaint { origin: None, key: String::new(), message, hint };
        ConfigError { file: None, complaints: vec![complaint] }
    };
    let format = match file.extension().and_then(|extension| extension.to_str()) {
        Some("yaml" | "yml") => Format::Yaml,
        Some("toml") => Format::Toml,
        _ => {
            return Err(complain(
                "the file's format can't be told from its name".to_owned(),
                "let the name end in .yaml, .yml or .toml",
            ));
        }
    };
    let text = std::fs::read_to_string(file)
        .map_err(|error| complain(format!("can't be read: {error}"), "check the path given"))?;
    Sources::parse(&text, format)
}

#[cfg(test)]
mod tests;
