//! A pod that leaves for good: its disk may be thrown away, and nothing is lost.

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use miroir_tests::client::Api;
use miroir_tests::pods::Pod;
use miroir_tests::processes::Cluster;
use miroir_tests::traffic::{Expect, Traffic};
use rustix::process::Signal;
use serde_json::Value;

use super::story::{INDEXES, look};

/// How long leaving may take under traffic: the payloads of running tasks keep a pod.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between looks.
const LOOK: Duration = Duration::from_millis(100);

async fn order(api: &Api, pod: &str) -> Value {
    let path = format!("/_miroir/pods/{pod}/leave");
    let answer = api.send(Method::POST, &path, None, Bytes::new()).await.expect("an answer");
    let body = answer.json();
    assert_eq!(answer.status, 202, "{body}");
    body
}

async fn wait_until_left(api: &Api, pod: &str) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let answer = api.get(&format!("/_miroir/pods/{pod}/leave")).await;
        if answer.as_ref().is_ok_and(|answer| answer["left"] == true) {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{pod} has not left: {answer:?}");
        tokio::time::sleep(LOOK).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_leave_for_good_until_one_is_left() {
    let directory = tempfile::tempdir().expect("a directory");
    let shape = ["--pods", "3", "--nodes", "2", "--groups", "2", "--rf", "1", "--no-respawn"];
    let cluster = Cluster::start(directory.path(), &shape).await.expect("a cluster");
    let urls = cluster.ready.pods.iter().map(|pod| pod.url.as_str());
    let traffic = Traffic::new(urls.clone(), &cluster.ready.master_key);
    let operators: Vec<Api> =
        urls.map(|url| Api::new(url, cluster.ready.admin_key.as_deref())).collect();
    for index in INDEXES {
        traffic.probe(index, 0).await;
    }
    let started = traffic.start(&INDEXES);
    traffic.acknowledged_more(25).await;

    // Ordered through another pod, and by itself.
    let mut pods = Pod::all_of(&cluster);
    for (at, asked) in [(2, 0), (1, 1)] {
        let id = pods[at].member.id.clone();
        let begun = order(&operators[asked], &id).await;
        assert_eq!((&begun["pod"], &begun["leaving"]), (&Value::from(id.as_str()), &true.into()));
        // It may refuse writes and answer searches from old state once it has left.
        wait_until_left(&operators[0], &id).await;
        let ready = Api::new(&pods[at].member.url, None);
        assert!(ready.get("/_miroir/ready").await.is_err(), "{id} is ready for more");
        traffic.expect(at, Expect::Nothing);
        pods[at].signal(Signal::KILL).expect("kill -9");
        pods[at].wait_until_gone().await.expect("gone");
        let disk = cluster.data().join("pods").join(&id);
        std::fs::remove_dir_all(disk).expect("thrown away");
        traffic.acknowledged_more(25).await;
    }
    let peers = operators[0].get("/_miroir/peers").await.expect("peers");
    let members: Vec<&Value> = peers["pods"]
        .as_array()
        .expect("pods")
        .iter()
        .filter(|pod| pod["voter"] == true || pod["learner"] == true)
        .map(|pod| &pod["id"])
        .collect();
    assert_eq!(members, [pods[0].member.id.as_str()], "{peers}");
    let path = format!("/_miroir/pods/{}/leave", pods[0].member.id);
    let last = operators[0].send(Method::POST, &path, None, Bytes::new()).await;
    let last = last.expect("an answer");
    assert_eq!((last.status, &last.json()["code"]), (409, &"miroir_last_pod".into()));

    // A pod that was alone in the end goes on alone.
    traffic.expect(0, Expect::MayBreak);
    pods[0].signal(Signal::KILL).expect("kill -9");
    pods[0].start_again().await.expect("ready again");
    traffic.acknowledged_more(10).await;
    traffic.stop(started).await;
    println!("{}", traffic.summary());
    assert_eq!(traffic.ledger().faults, Vec::<String>::new());
    let traffic = traffic.only(&[0]);
    look(&traffic, &cluster.ready.nodes, &INDEXES, 2).await;
}
