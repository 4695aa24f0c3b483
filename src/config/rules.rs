//! What a configuration must fulfil beyond its types, and the reading of key files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use http::Uri;

use super::source::Sources;
use super::{Complaint, Config, Secret};
pub use cluster::reread_cluster_secrets;

mod cluster;

pub use miroir_wire::reserved::SHARDS_MAX;
/// Fewest bytes of a master or admin key, as Meilisearch demands in production.
pub const KEY_BYTES_MIN: usize = 16;
/// Smallest useful limit of a request body, bytes.
const BODY_BYTES_MIN: u64 = 1 << 10;
/// What to do when a group is too small; `miroir up` says the same.
pub const GROUP_NODES_MIN_HINT: &str =
    "each group needs at least replication_factor nodes, since a node holds a shard once";

/// Replaces the `*_file` settings by the keys those files hold, and gives every node its key.
/// Relative paths are relative to the configuration file.
pub fn read_key_files(
    config: &mut Config,
    sources: &Sources,
    config_file: Option<&Path>,
) -> Vec<Complaint> {
    let folder = config_file.and_then(Path::parent).unwrap_or(Path::new(""));
    let mut reader = KeyFiles { folder, sources, complaints: Vec::new() };
    reader.take("master_key", &mut config.master_key, &mut config.master_key_file);
    reader.take("admin_key", &mut config.admin_key, &mut config.admin_key_file);
    reader.take("node_key", &mut config.node_key, &mut config.node_key_file);
    for (at, node) in config.nodes.iter_mut().enumerate() {
        reader.take(&format!("nodes.{at}.key"), &mut node.key, &mut node.key_file);
        if node.key.is_none() {
            node.key = config.node_key.clone();
        }
    }
    cluster::read_secret_files(&mut config.cluster, &mut reader);
    reader.complaints
}

struct KeyFiles<'a> {
    folder: &'a Path,
    sources: &'a Sources,
    complaints: Vec<Complaint>,
}

impl KeyFiles<'_> {
    fn take(&mut self, key: &str, value: &mut Option<Secret>, file: &mut Option<PathBuf>) {
        let Some(path) = file.take() else { return };
        let file_key = format!("{key}_file");
        if value.is_some() {
            self.complain(&file_key, format!("{key} is set too"), "keep one of the two");
            return;
        }
        let path = self.folder.join(path);
        // An editor's line end is not part of the key.
        let key = |text: String| Secret::new(text.trim_end_matches(['\r', '\n']));
        *value = self.read(&file_key, &path).map(key);
    }

    fn read(&mut self, file_key: &str, path: &Path) -> Option<String> {
        match std::fs::read_to_string(path) {
            Ok(text) => Some(text),
            Err(error) => {
                self.complain(
                    file_key,
                    format!("{} can't be read: {error}", path.display()),
                    "a relative path starts at the configuration file",
                );
                None
            }
        }
    }

    fn complain(&mut self, key: &str, message: String, hint: &str) {
        self.complaints.push(Complaint {
            origin: self.sources.origin(key).cloned(),
            key: key.to_owned(),
            message,
            hint: Some(hint.to_owned()),
        });
    }
}

/// Everything in `config` that can't work.
pub fn check(config: &Config, sources: &Sources) -> Vec<Complaint> {
    let mut found = Findings { sources, complaints: Vec::new() };
    check_keys(config, &mut found);
    check_limits(config, &mut found);
    check_nodes(config, &mut found);
    cluster::check(config, &mut found);
    found.complaints
}

struct Findings<'a> {
    sources: &'a Sources,
    complaints: Vec<Complaint>,
}

impl Findings<'_> {
    fn refuse_if(&mut self, wrong: bool, key: &str, message: impl Into<String>, hint: &str) {
        if wrong {
            self.complaints.push(Complaint {
                origin: self.sources.origin(key).cloned(),
                key: key.to_owned(),
                message: message.into(),
                hint: Some(hint.to_owned()),
            });
        }
    }
}

fn check_keys(config: &Config, found: &mut Findings<'_>) {
    found.refuse_if(
        config.master_key.is_none(),
        "master_key",
        "it must be set",
        "set MIROIR_MASTER_KEY, or master_key or master_key_file here",
    );
    for (key, value) in [("master_key", &config.master_key), ("admin_key", &config.admin_key)] {
        let length = value.as_ref().map_or(KEY_BYTES_MIN, |value| value.reveal().len());
        found.refuse_if(
            length < KEY_BYTES_MIN,
            key,
            format!("{length} bytes are too few, {KEY_BYTES_MIN} are needed"),
            "take a random one: openssl rand -hex 16",
        );
    }
    found.refuse_if(
        config.admin_key.is_some() && config.admin_key == config.master_key,
        "admin_key",
        "it is the same as master_key",
        "clients with the master key would administer the cluster: take another",
    );
}

fn check_limits(config: &Config, found: &mut Findings<'_>) {
    let (server, cluster, health) = (&config.server, &config.cluster, &config.health);
    found.refuse_if(
        server.concurrent_requests_max == 0,
        "server.concurrent_requests_max",
        "with 0 no request is served",
        "the default is 500",
    );
    found.refuse_if(
        server.body_bytes_max.0 < BODY_BYTES_MIN,
        "server.body_bytes_max",
        format!("{} is too small for any use", server.body_bytes_max),
        "the default is 100MB",
    );
    found.refuse_if(
        server.spool_bytes_max < server.body_bytes_max,
        "server.spool_bytes_max",
        format!("a body may have {}, which would find no room", server.body_bytes_max),
        "choose at least server.body_bytes_max; the default is 2GiB",
    );
    found.refuse_if(
        cluster.shards == 0 || cluster.shards > SHARDS_MAX,
        "cluster.shards",
        format!("{} is not between 1 and {SHARDS_MAX}", cluster.shards),
        "rule of thumb: the largest group ever, times 8; the default is 64",
    );
    found.refuse_if(
        cluster.replication_factor == 0,
        "cluster.replication_factor",
        "with 0 copies nothing is kept",
        "1 is the least",
    );
    found.refuse_if(
        health.timeout.is_zero() || health.timeout > health.interval,
        "health.timeout",
        "a check must end before the next begins, and take some time",
        "choose more than 0 and at most health.interval",
    );
    found.refuse_if(health.misses == 0, "health.misses", "0 would never do", "1 is the least");
    found.refuse_if(
        health.recoveries == 0,
        "health.recoveries",
        "0 would never do",
        "1 is the least",
    );
    found.refuse_if(
        config.tasks.retention.is_zero(),
        "tasks.retention",
        "clients could not see how their tasks ended",
        "the default is 7d",
    );
    found.refuse_if(
        config.tasks.count_max == 0,
        "tasks.count_max",
        "clients could not see how their tasks ended",
        "the default is 1000000",
    );
    found.refuse_if(
        !is_id(&config.pod.id),
        "pod.id",
        format!("{:?} is not an id", config.pod.id),
        ID_HINT,
    );
}

/// What ids may look like.
const ID_HINT: &str = "1 to 64 of A-Z a-z 0-9 - _ . are allowed";

fn is_id(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

fn check_nodes(config: &Config, found: &mut Findings<'_>) {
    found.refuse_if(
        config.nodes.is_empty(),
        "nodes",
        "there is none",
        "list the Meilisearch servers to stand in front of: {id, url, group, key}",
    );
    let mut ids: BTreeMap<&str, usize> = BTreeMap::new();
    let mut urls: BTreeMap<&str, usize> = BTreeMap::new();
    let mut groups: BTreeMap<u32, u32> = BTreeMap::new();
    for (at, node) in config.nodes.iter().enumerate() {
        let (id_key, url_key) = (format!("nodes.{at}.id"), format!("nodes.{at}.url"));
        found.refuse_if(!is_id(&node.id), &id_key, format!("{:?} is not an id", node.id), ID_HINT);
        if let Some(first) = ids.insert(&node.id, at) {
            let message = format!("{:?} is also the id of nodes.{first}", node.id);
            found.refuse_if(true, &id_key, message, "an id names one node");
        }
        if let Err(message) = check_url(&node.url) {
            found.refuse_if(true, &url_key, message, "write it like http://10.0.0.11:7700");
        }
        if let Some(first) = urls.insert(&node.url, at) {
            let message = format!("{} is also the address of nodes.{first}", node.url);
            found.refuse_if(true, &url_key, message, "two copies on one node would be one copy");
        }
        *groups.entry(node.group).or_default() += 1;
    }
    for (group, nodes) in groups {
        found.refuse_if(
            nodes < config.cluster.replication_factor,
            "cluster.replication_factor",
            format!(
                "{} copies don't fit in group {group}, which has {nodes} node{}",
                config.cluster.replication_factor,
                if nodes == 1 { "" } else { "s" }
            ),
            GROUP_NODES_MIN_HINT,
        );
    }
}

fn check_url(text: &str) -> Result<(), String> {
    let uri: Uri = text.parse().map_err(|error| format!("{text:?} is not a URL: {error}"))?;
    match uri.scheme_str() {
        Some("http") => {}
        Some("https") => return Err("https to nodes is not supported yet".to_owned()),
        _ => return Err(format!("{text:?} does not begin with http://")),
    }
    if uri.host().is_none_or(str::is_empty) {
        return Err(format!("{text:?} has no host"));
    }
    if uri.path() != "/" || uri.query().is_some() || text.ends_with('/') {
        return Err(format!("{text:?} must end after the port"));
    }
    Ok(())
}
