//! A pod that loses its peers but keeps its clients and nodes: the old holder of roles that does
//! not know that it is replaced.

use std::path::Path;
use std::time::Duration;

use futures::future::join_all;
use miroir_tests::client::Api;
use miroir_tests::namespaces::Namespace;
use miroir_tests::pods::Pod;
use miroir_tests::processes::{Member, NodeProcess, free_port};
use miroir_tests::traffic::Traffic;
use serde_json::{Value, json};

use super::story::{INDEXES, look};

/// The clients' key.
const KEY: &str = "client-master-key-0123456789";
/// Long enough for the pod to be given up, and for its answers to be marked as old.
const CUT: Duration = Duration::from_secs(12);

/// Indexes without traffic: of so many, some have their writer on the pod that is cut off.
const QUIET: [&str; 6] = ["dune", "ember", "fjord", "garnet", "harbour", "ivory"];

struct Place {
    pod: Pod,
    url: String,
}

/// The configurations of three pods, the last one's for the other side of the cables.
fn write_pods(directory: &Path, space: &Namespace, nodes: &[NodeProcess]) -> Vec<Place> {
    let hosts: Vec<(&str, &str)> = vec![
        (space.ours(0), space.ours(1)),
        (space.ours(0), space.ours(1)),
        (space.theirs(0), space.theirs(1)),
    ];
    let ports: Vec<(u16, u16)> = hosts
        .iter()
        .map(|_| (free_port().expect("a port"), free_port().expect("a port")))
        .collect();
    let seeds: Vec<String> =
        hosts.iter().zip(&ports).map(|((host, _), (port, _))| format!("{host}:{port}")).collect();
    let nodes: Vec<Value> = nodes
        .iter()
        .enumerate()
        .map(|(at, node)| json!({ "id": format!("node-{at}"), "url": node.url, "group": at, "key": node.key }))
        .collect();
    let places = hosts.iter().zip(&ports).enumerate().map(|(at, ((_, http), (_, http_port)))| {
        let id = format!("pod-{at}");
        // JSON is YAML too.
        let config = json!({
            "master_key": KEY,
            "admin_key": "admin-key-0123456789abcdef",
            "server": { "http_addr": format!("{http}:{http_port}") },
            "pod": { "id": id, "data": directory.join(&id), "peer_addr": seeds[at] },
            "cluster": {
                "shards": 16, "secret": "0123456789abcdef0123456789abcdef",
                "seeds": seeds, "pods_expected": 3,
            },
            "nodes": nodes,
        });
        let path = directory.join(format!("{id}.yaml"));
        std::fs::write(&path, config.to_string()).expect("written");
        let url = format!("http://{http}:{http_port}");
        let member = Member {
            id: id.clone(),
            pid: 0,
            url: url.clone(),
            peer_address: None,
            key: None,
            group: None,
        };
        let pod = Pod::new(member, path, directory.join(format!("{id}.log")));
        Place { pod: if at == 2 { pod.started_by(space.prefix()) } else { pod }, url }
    });
    places.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_cut_off_from_its_peers_does_no_harm_and_comes_back() {
    let space = match Namespace::new(std::process::id()) {
        Ok(space) => space,
        Err(reason) => {
            println!("left out: {reason}");
            return;
        }
    };
    let directory = tempfile::tempdir().expect("a directory");
    let mut nodes = Vec::new();
    for at in 0..2 {
        let address = format!("{}:{}", space.ours(1), free_port().expect("a port"));
        let place = directory.path().join(format!("node-{at}"));
        nodes.push(NodeProcess::start_at(&place, &address).await.expect("a node"));
    }
    let mut places = write_pods(directory.path(), &space, &nodes);
    for place in &mut places {
        place.pod.start().expect("started");
    }
    for place in &places {
        place.pod.wait_until_ready().await.expect("ready");
    }
    let began = tokio::time::Instant::now();
    let traffic = Traffic::new(places.iter().map(|place| place.url.as_str()), KEY);
    let all: Vec<&str> = INDEXES.into_iter().chain(QUIET).collect();
    for index in &all {
        traffic.probe(index, 2).await;
    }
    let started = traffic.start(&INDEXES);
    traffic.acknowledged_more(25).await;

    // The others take its roles; it goes on answering searches, and says how old they are.
    space.set_cable(0, false).expect("cut");
    let cut = tokio::time::Instant::now();
    let probes = all.iter().map(|index| traffic.probe(index, 0));
    let times: Vec<Duration> = join_all(probes).await.into_iter().map(|(_, took)| took).collect();
    println!(
        "cut off at {:?}: writers work elsewhere after {:?} ({times:?})",
        cut - began,
        times.iter().max()
    );
    traffic.acknowledged_more(10).await;
    tokio::time::sleep_until(cut + CUT).await;
    let lonely = Api::new(&places[2].url, Some(KEY));
    let path = format!("/indexes/{}/search", INDEXES[0]);
    let query = json!({ "q": "steady" }).to_string();
    let kind = Some("application/json");
    let answer = lonely.send(http::Method::POST, &path, kind, query.into()).await;
    let answer = answer.expect("an answer of the lonely pod");
    let mark = answer.headers.get("x-miroir-degraded").and_then(|mark| mark.to_str().ok());
    assert!(mark.is_some_and(|mark| mark.contains("stale=")), "not marked: {mark:?}");

    space.set_cable(0, true).expect("mended");
    traffic.acknowledged_more(25).await;
    // A write that it takes again is one that the others know.
    traffic.probe(INDEXES[0], 2).await;
    traffic.stop(started).await;
    println!("{}", traffic.summary());
    assert_eq!(traffic.ledger().faults, Vec::<String>::new());
    let members: Vec<Member> = nodes
        .iter()
        .enumerate()
        .map(|(at, node)| Member {
            id: format!("node-{at}"),
            pid: node.pid(),
            url: node.url.clone(),
            peer_address: None,
            key: Some(node.key.clone()),
            group: u32::try_from(at).ok(),
        })
        .collect();
    look(&traffic, &members, &all, 2).await;
    drop(places);
    drop(nodes);
}
