//! A node lost its disk and is filled again, which takes long: meanwhile writes of every kind end
//! as soon as the other replica has them, but for the moment of the last pass. At the end both
//! replicas hold what the clients wrote.

use std::time::Duration;

use miroir_storage::tables::tasks;
use serde_json::{Value, json};

use super::*;
use crate::faults::Fault;
use crate::history::Answer;
use crate::network::FaultRates;
use crate::operation::{Document, Operation, Request, Term};
use crate::plan::Weather;

/// Documents before the node loses its disk: several pages a copy.
const DOCUMENTS: u64 = 3_000;
/// How many times slower than usual the node is that is filled.
const SLOWNESS: u64 = 60;
/// The longest that a write may take, milliseconds: a batch of the slow node and some of others.
const LONGEST_MS_MAX: u64 = 6_000;

fn world() -> Plan {
    Plan {
        pods: 1,
        groups: 1,
        nodes_per_group: 2,
        replication_factor: 2,
        shards: 4,
        names: vec!["a".to_owned()],
        weather: Weather::Calm,
        rates: FaultRates::default(),
        loses_disks: false,
        changes_settings: false,
        restarts_actors: false,
        late_node: None,
        batch_ms_max: 60,
        ..Plan::new(1)
    }
}

fn document(id: u64, value: u64) -> Document {
    let document = json!({ "id": id, "v": value, "tag": format!("t{}", id % 50) });
    document.as_object().cloned().unwrap_or_default()
}

/// Writes, and waits for the task's end; how long that took, milliseconds.
async fn write(cluster: &mut Cluster, request: Request) -> u64 {
    let number = cluster.history.next_number();
    let operation = Operation { number, name: "a".to_owned(), request };
    let began = cluster.trace.now_ms();
    cluster.history.send(operation.clone(), began);
    let pod = cluster.most_advanced().unwrap();
    let request = operation.to_write().unwrap();
    let uid = accept(&pod.context, request, WriteMarks::default()).await.unwrap().uid;
    cluster.history.answer(number, Answer::Acknowledged(uid), cluster.trace.now_ms());
    loop {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let task = tasks::read(pod.context.log.engine().as_ref(), uid).unwrap();
        if task.is_some_and(|task| task.ended()) {
            return cluster.trace.now_ms() - began;
        }
    }
}

fn is_in_sync(cluster: &Cluster) -> bool {
    everything_is_in_sync::out_of_sync(&cluster.routing().unwrap()).is_empty()
}

fn request(number: u64) -> Request {
    let id = number * 37 % DOCUMENTS;
    match number % 5 {
        0 => Request::DeleteIds(vec![id.to_string(), (id + 1).to_string()]),
        1 => Request::Documents {
            partial: true,
            primary_key: None,
            documents: vec![
                json!({ "id": id, "part": number }).as_object().cloned().unwrap_or_default(),
            ],
        },
        2 if number % 25 == 2 => Request::DeleteMatching(vec![Term {
            attribute: "tag".into(),
            values: vec![Value::from(format!("t{}", number % 50))],
        }]),
        _ => Request::Documents {
            partial: false,
            primary_key: None,
            documents: vec![document(id, number), document(DOCUMENTS + number, number)],
        },
    }
}

#[tokio::test(start_paused = true)]
#[ignore = "takes minutes"]
async fn writes_go_on_while_a_large_copy_runs() {
    let (plan, trace, world_tasks) = (world(), Trace::new(None), Tasks::on_one_thread());
    let mut cluster = Cluster::new(&plan, &trace, &world_tasks);
    start_pods(&mut cluster).await;
    write(&mut cluster, Request::Settings(json!({ "filterableAttributes": ["tag"] }))).await;
    for first in (0..DOCUMENTS).step_by(1000) {
        let documents = (first..first + 1000).map(|id| document(id, 0)).collect();
        let request = Request::Documents { partial: false, primary_key: None, documents };
        write(&mut cluster, request).await;
    }
    assert!(is_in_sync(&cluster));

    let node = cluster.nodes.values().next().unwrap().clone();
    cluster.suffer(Fault::LoseDisk(node.id.clone())).await;
    node.set_slowness(SLOWNESS);
    // This write finds out.
    write(&mut cluster, request(1)).await;
    let (mut written, mut longest) = (0, 0);
    while !is_in_sync(&cluster) {
        longest = longest.max(write(&mut cluster, request(2 + written)).await);
        written += 1;
        assert!(written < 2_000, "the copy does not come to its end");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    node.set_slowness(1);
    assert!(written >= 50, "only {written} writes while the copy ran");
    assert!(longest <= LONGEST_MS_MAX, "a write took {longest} ms");
    assert!(cluster.come_to_rest(&|| true, false).await, "{:?}", cluster.violations);
    cluster.check_at_rest();
    assert_eq!(cluster.violations, Vec::new());
    world_tasks.end_all();
}
