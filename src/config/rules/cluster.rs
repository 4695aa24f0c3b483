//! What must hold for a pod to be one of several.

use std::net::IpAddr;
use std::time::Duration;

use miroir_actors::move_hours::MoveHours;

use super::super::cluster::ClusterConfig;
use super::super::source::Sources;
use super::super::{Complaint, Config, Secret};
use super::{Findings, KeyFiles};

/// Fewest characters of a cluster secret: as many as 128 random bits in hexadecimal digits.
const SECRET_CHARS_MIN: usize = 32;
/// Most secrets accepted beside the current one: each is a key to try on every datagram.
const OLD_SECRETS_MAX: usize = 8;
/// Most pods that begin a cluster together.
const PODS_EXPECTED_MAX: u32 = 64;
/// Below this a leader that is merely busy would make answers stale.
const STALENESS_MIN: Duration = Duration::from_secs(1);
/// A restart takes some seconds, and three missed checks find it.
const NODE_GRACE_MIN: Duration = Duration::from_secs(60);
/// Rounds of comparing replicas are at least this far apart.
const ANTI_ENTROPY_INTERVAL_MIN: Duration = Duration::from_secs(60);

const SECRET_HINT: &str = "set MIROIR_CLUSTER_SECRET, or cluster.secret_file, to the same random \
                           text for all pods: openssl rand -hex 32";
const ADDRESS_HINT: &str = "write it like 10.0.0.12:7790 or pod-2.internal:7790";

/// Replaces `secret_file` and `old_secrets_file` by what they hold, and keeps where they are.
pub fn read_secret_files(cluster: &mut ClusterConfig, reader: &mut KeyFiles<'_>) {
    let folder = reader.folder;
    let found = &mut cluster.secret_files;
    found.secret = cluster.secret_file.as_ref().map(|path| folder.join(path));
    found.old_secrets = cluster.old_secrets_file.as_ref().map(|path| folder.join(path));
    reader.take("cluster.secret", &mut cluster.secret, &mut cluster.secret_file);
    if cluster.old_secrets_file.take().is_some() {
        let key = "cluster.old_secrets_file";
        if !cluster.old_secrets.is_empty() {
            let message = "cluster.old_secrets is set too".to_owned();
            reader.complain(key, message, "keep one of the two");
        } else if let Some(path) = cluster.secret_files.old_secrets.clone() {
            cluster.old_secrets = reader.read(key, &path).map(lines).unwrap_or_default();
        }
    }
}

/// Reads the files again that [`read_secret_files`] had found, and checks what they hold.
pub fn reread_cluster_secrets(cluster: &mut ClusterConfig) -> Vec<Complaint> {
    let sources = Sources::default();
    // The paths are whole already.
    let folder = std::path::Path::new("");
    let mut reader = KeyFiles { folder, sources: &sources, complaints: Vec::new() };
    if let Some(path) = cluster.secret_files.secret.clone() {
        cluster.secret = None;
        reader.take("cluster.secret", &mut cluster.secret, &mut Some(path));
    }
    if let Some(path) = cluster.secret_files.old_secrets.clone() {
        let text = reader.read("cluster.old_secrets_file", &path);
        cluster.old_secrets = text.map(lines).unwrap_or_default();
    }
    let mut found = Findings { sources: &sources, complaints: reader.complaints };
    if found.complaints.is_empty() {
        check_secrets(cluster, &mut found);
    }
    found.complaints
}

fn lines(text: String) -> Vec<Secret> {
    text.lines().filter(|line| !line.trim().is_empty()).map(Secret::new).collect()
}

/// Everything about pods in `config` that can't work.
pub fn check(config: &Config, found: &mut Findings<'_>) {
    check_secrets(&config.cluster, found);
    check_need_of_secret(config, found);
    check_id(config, found);
    check_addresses(config, found);
    check_seeds(config, found);
    let cluster = &config.cluster;
    found.refuse_if(
        cluster.pods_expected == 0 || cluster.pods_expected > PODS_EXPECTED_MAX,
        "cluster.pods_expected",
        format!("{} is not between 1 and {PODS_EXPECTED_MAX}", cluster.pods_expected),
        "count the pods that a new cluster starts with; others join it later",
    );
    found.refuse_if(
        cluster.max_staleness < STALENESS_MIN,
        "cluster.max_staleness",
        "a leader that is merely busy would make answers stale",
        "1s is the least; the default is 5s",
    );
    found.refuse_if(
        cluster.pod_grace <= cluster.max_staleness,
        "cluster.pod_grace",
        "a pod would be removed while it may still answer",
        "choose more than cluster.max_staleness; the default is 10m",
    );
    found.refuse_if(
        cluster.node_grace < NODE_GRACE_MIN,
        "cluster.node_grace",
        "a node that is only started again would have all its copies made elsewhere",
        "1m is the least; the default is 30m",
    );
    if let Some(error) =
        cluster.move_hours.as_ref().and_then(|hours| hours.parse::<MoveHours>().err())
    {
        found.refuse_if(
            true,
            "cluster.move_hours",
            error.to_string(),
            "two times of the day, UTC; null for moves at any time",
        );
    }
    found.refuse_if(
        !cluster.anti_entropy_interval.is_zero()
            && cluster.anti_entropy_interval < ANTI_ENTROPY_INTERVAL_MIN,
        "cluster.anti_entropy_interval",
        "replicas would be compared without end",
        "1m is the least, 0s is never; the default is 6h",
    );
}

fn check_secrets(cluster: &ClusterConfig, found: &mut Findings<'_>) {
    let mut check_length = |key: &str, secret: &Secret| {
        let length = secret.reveal().chars().count();
        found.refuse_if(
            length < SECRET_CHARS_MIN,
            key,
            format!("{length} characters are too few, {SECRET_CHARS_MIN} are needed"),
            "take random ones: openssl rand -hex 32",
        );
    };
    if let Some(secret) = &cluster.secret {
        check_length("cluster.secret", secret);
    }
    for (at, secret) in cluster.old_secrets.iter().enumerate() {
        check_length(&format!("cluster.old_secrets.{at}"), secret);
    }
    found.refuse_if(
        cluster.old_secrets.len() > OLD_SECRETS_MAX,
        "cluster.old_secrets",
        format!("{} are too many, {OLD_SECRETS_MAX} are the most", cluster.old_secrets.len()),
        "leave out those that no pod presents any more",
    );
}

/// The complaint stands where the configuration first speaks of other pods.
fn check_need_of_secret(config: &Config, found: &mut Findings<'_>) {
    let cluster = &config.cluster;
    if cluster.secret.is_some() {
        return;
    }
    let needs = [
        (!cluster.seeds.is_empty(), "cluster.seeds", "other pods are named"),
        (cluster.pods_expected > 1, "cluster.pods_expected", "other pods are expected"),
        (!config.pod.peer_addr.ip().is_loopback(), "pod.peer_addr", "other machines reach it"),
        (!cluster.old_secrets.is_empty(), "cluster.old_secrets", "old secrets are accepted"),
    ];
    let need = needs.into_iter().find(|(needed, ..)| *needed);
    if let Some((_, key, why)) = need {
        let message = format!("{why}, but cluster.secret is not set");
        found.refuse_if(true, key, message, SECRET_HINT);
    }
}

fn check_id(config: &Config, found: &mut Findings<'_>) {
    found.refuse_if(
        !config.is_alone() && !found.sources.is_given("pod.id"),
        "pod.id",
        format!("it must be set: every pod of the cluster would be {:?}", config.pod.id),
        "an id names one pod for ever, like the host name of a stateful set's pod",
    );
}

fn check_addresses(config: &Config, found: &mut Findings<'_>) {
    let (listen, http) = (config.pod.peer_addr, config.server.http_addr);
    found.refuse_if(
        listen.port() == 0,
        "pod.peer_addr",
        "other pods must know the port",
        "the default is 7790",
    );
    let same_host =
        listen.ip() == http.ip() || listen.ip().is_unspecified() || http.ip().is_unspecified();
    found.refuse_if(
        !config.is_alone() && same_host && listen.port() == http.port(),
        "pod.peer_addr",
        format!("clients connect to {http} (server.http_addr)"),
        "take another port",
    );
    match &config.pod.peer_advertise {
        None => found.refuse_if(
            listen.ip().is_unspecified(),
            "pod.peer_addr",
            format!("other pods can't be told to connect to {listen}"),
            "set pod.peer_advertise to an address or name of this pod, like 10.0.0.11:7790",
        ),
        Some(text) => match PeerAddress::parse(text) {
            Err(message) => {
                found.refuse_if(true, "pod.peer_advertise", message, ADDRESS_HINT);
            }
            Ok(address) => found.refuse_if(
                address.ip().is_some_and(|ip| ip.is_unspecified()),
                "pod.peer_advertise",
                format!("other pods can't connect to {text}"),
                "give an address or name of this pod",
            ),
        },
    }
}

fn check_seeds(config: &Config, found: &mut Findings<'_>) {
    let only_here = config.pod.peer_addr.ip().is_loopback() && config.pod.peer_advertise.is_none();
    let mut elsewhere = None;
    for (at, seed) in config.cluster.seeds.iter().enumerate() {
        let key = format!("cluster.seeds.{at}");
        match PeerAddress::parse(seed) {
            Err(message) => found.refuse_if(true, &key, message, ADDRESS_HINT),
            Ok(address) if !address.is_loopback() => elsewhere = elsewhere.or(Some(seed)),
            Ok(_) => {}
        }
    }
    if let Some(seed) = elsewhere.filter(|_| only_here) {
        found.refuse_if(
            true,
            "pod.peer_addr",
            format!("{seed} can't reach this pod at {}", config.pod.peer_addr),
            "set pod.peer_addr (0.0.0.0:7790, say) and pod.peer_advertise",
        );
    }
}

/// `host:port`, the host being a name, an IPv4 address or an IPv6 address in brackets.
struct PeerAddress<'a> {
    host: &'a str,
}

impl<'a> PeerAddress<'a> {
    fn parse(text: &'a str) -> Result<Self, String> {
        let refuse = || format!("{text:?} is not host:port");
        let (host, port) = text.rsplit_once(':').ok_or_else(refuse)?;
        match port.parse::<u16>() {
            Ok(0) | Err(_) => return Err(format!("{text:?} has no port that can be used")),
            Ok(_) => {}
        }
        let address = Self { host };
        let is_name = !host.is_empty()
            && host.len() <= 253
            && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        if is_name || address.ip().is_some_and(|ip| ip.is_ipv6()) {
            Ok(address)
        } else {
            Err(refuse())
        }
    }

    fn ip(&self) -> Option<IpAddr> {
        let bracketed = self.host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        match bracketed {
            Some(host) => host.parse().ok().map(IpAddr::V6),
            None => self.host.parse().ok().map(IpAddr::V4),
        }
    }

    fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.ip().is_some_and(|ip| ip.is_loopback())
    }
}
