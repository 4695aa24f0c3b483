use http::Method;
use miroir_storage::raft::RaftId;

use super::*;
use crate::topology::{MovesView, NodePart, NodeView};

fn seen() -> Seen {
    let node = NodeView {
        id: "node-1".into(),
        address: "http://node-1:7700".into(),
        group: 0,
        part: NodePart::Active,
        up: true,
        replicas: 8,
        in_sync: 7,
        arriving: 1,
        leaving: 0,
    };
    let moves = MovesView {
        paused: false,
        resting: false,
        documents_per_second: 0,
        total: 4,
        done: 3,
        arriving: 1,
        surplus: 0,
        leaving: 0,
        began_at: None,
        seconds_left: Some(12),
    };
    let role =
        RoleView { role: "rebalancer".into(), holder: Some("pod-1".into()), epoch: 2, alive: true };
    Seen {
        pod: "pod-1".into(),
        topology: TopologyAnswer { replication_factor: Some(1), nodes: vec![node], moves },
        resharding: Vec::new(),
        comparisons: AntiEntropyReport::default(),
        actors: Vec::new(),
        roles: vec![RoleView { holder: Some("pod-2".into()), ..role.clone() }, role],
        peers_alive: 1,
        peers_gone: 0,
        log: LogMetrics {
            raft_id: RaftId(7),
            term: 3,
            leader: Some(RaftId(7)),
            last_log: Some(90),
            applied: Some(89),
            purged: None,
            running: true,
        },
        unconfirmed_seconds: Some(0.25),
        journal_bytes: 1000,
        journal_bytes_max: 2000,
        open_tasks: 5,
    }
}

fn text(numbers: Vec<Metric>, durations: Vec<DurationMetric>) -> String {
    let mut registry = Registry::with_prefix("miroir");
    registry.register_collector(Box::new(Exposition { numbers, durations }));
    let mut text = String::new();
    encode(&mut text, &registry).expect("written");
    text
}

#[test]
fn values_are_said_as_prometheus_reads_them() {
    let text = text(metrics(&seen(), &Routing::default()), Vec::new());
    for line in [
        "miroir_node_replicas_in_sync{node=\"node-1\",group=\"0\"} 7.0",
        "miroir_rebalance_replicas_done 3.0",
        "miroir_rebalance_seconds_left 12.0",
        "miroir_leader{role=\"rebalancer\"} 1.0",
        "miroir_raft_leader 1.0",
        "miroir_unconfirmed_seconds 0.25",
        "miroir_tasks_open 5.0",
        "miroir_anti_entropy_documents_total 0.0",
        "# TYPE miroir_anti_entropy_documents counter",
        "# EOF",
    ] {
        assert!(text.lines().any(|said| said == line), "{line} is not in\n{text}");
    }
    // The other pod's.
    assert_eq!(text.matches("miroir_leader{").count(), 1);
}

#[test]
fn durations_are_said_by_classes_that_contain_those_before() {
    let traffic = Traffic::default();
    for (milliseconds, status) in [(3, 200), (4, 200), (700, 200), (60_000, 503)] {
        let took = Duration::from_millis(milliseconds);
        traffic.note_answered(&Method::POST, "/multi-search", status, took);
    }
    let text = text(of_requests(&traffic), durations(&traffic, &Routing::default()));
    let of = |rest: &str, class: &str, status: u16, value: &str| {
        format!(
            "miroir_http_request_duration_seconds_{rest}{{{class}method=\"POST\",path=\"/multi-search\",status=\"{status}\"}} {value}"
        )
    };
    for line in [
        of("count", "", 200, "3"),
        of("sum", "", 200, "0.707"),
        of("bucket", "le=\"0.0025\",", 200, "0"),
        of("bucket", "le=\"0.005\",", 200, "2"),
        of("bucket", "le=\"1.0\",", 200, "3"),
        of("bucket", "le=\"10.0\",", 503, "0"),
        of("bucket", "le=\"+Inf\",", 503, "1"),
        "miroir_http_requests_in_flight 0.0".to_owned(),
    ] {
        assert!(text.lines().any(|said| said == line), "{line} is not in\n{text}");
    }
}

/// `MIROIR_WRITE_DOCS=1` rewrites the list.
#[test]
fn the_documented_names_are_those_that_are_said() {
    let mut wanted = String::from(
        "# Metrics\n\n\
         `GET /_miroir/metrics` of each pod, in the text form of OpenMetrics; written by a test (`gateway/src/metrics/tests.rs`;\n\
         `MIROIR_WRITE_DOCS=1` rewrites it). It needs the admin key. For Prometheus:\n\n\
         ```yaml\n\
         scrape_configs:\n\
         \u{20} - job_name: miroir\n\
         \u{20}   metrics_path: /_miroir/metrics\n\
         \u{20}   authorization: { credentials_file: /etc/prometheus/miroir-admin-key }\n\
         \u{20}   static_configs: [{ targets: [pod-1:7700, pod-2:7700, pod-3:7700] }]\n\
         ```\n\n\
         Each pod says what it knows: what is agreed in the log is the same on all, the rest is its own.\n\n\
         | name | type | what |\n|---|---|---|\n",
    );
    let (traffic, routing) = (Traffic::default(), Routing::default());
    for DurationMetric { name, help, .. } in durations(&traffic, &routing) {
        wanted.push_str(&format!("| `miroir_{name}` | histogram | {help} |\n"));
    }
    for Metric { name, help, is_counter, .. } in
        of_requests(&traffic).into_iter().chain(metrics(&seen(), &routing))
    {
        let (suffix, kind) = if is_counter { ("_total", "counter") } else { ("", "gauge") };
        wanted.push_str(&format!("| `miroir_{name}{suffix}` | {kind} | {help} |\n"));
    }
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
    if std::env::var_os("MIROIR_WRITE_DOCS").is_some() {
        std::fs::write(file, &wanted).expect("written");
    }
    let there = std::fs::read_to_string(file).unwrap_or_default();
    assert!(there == wanted, "{file} is stale: run this test with MIROIR_WRITE_DOCS=1");
}
