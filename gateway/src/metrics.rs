//! `GET /_miroir/metrics`: what Prometheus reads of a pod.
//!
//! Each pod says what it knows itself; what the log has agreed on is the same on all. All but requests,
//! which [`crate::traffic`] counts, is looked up when somebody asks. Needs the admin key: names of indexes
//! are in it. `docs/metrics.md` lists the names.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use miroir_actors::anti_entropy::view::AntiEntropyReport;
use miroir_actors::inspect::ActorReport;
use miroir_storage::engine::{ALL_KEYS, Direction};
use miroir_storage::log::LogMetrics;
use miroir_storage::routing::Routing;
use miroir_storage::tables::OPEN_TASKS;
use miroir_wire::error::ApiError;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::admin::{AdminError, AdminSource, RoleView};
use crate::admin_pod::PodAdmin;
use crate::reply::Reply;
use crate::reshard::{ReshardSource, ReshardView};
use crate::topology::{TopologyAnswer, TopologySource};
use crate::traffic::{Answered, BOUNDS, Called, Durations, Traffic};

/// What the text is.
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Answers Prometheus.
#[async_trait]
pub trait MetricsSource {
    /// All metrics, in OpenMetrics' text form.
    ///
    /// # Errors
    /// 501 where nobody answers; when the pod's own store fails.
    async fn metrics(&self) -> Result<String, ApiError> {
        Err(AdminError::NotSupported.into())
    }
}

/// The answer of [`MetricsSource::metrics`].
pub(crate) fn reply(text: String) -> Reply {
    let headers = vec![("content-type", CONTENT_TYPE.to_owned())];
    Reply { status: 200, body: text.into_bytes(), headers }
}

#[async_trait]
impl MetricsSource for PodAdmin {
    async fn metrics(&self) -> Result<String, ApiError> {
        let (pod, routing) = (&self.pod, self.pod.log.routing());
        let resharded = routing.indexes.iter().filter(|(_, index)| index.reshard.is_some());
        let resharding = resharded.map(|(name, _)| self.resharding(name));
        let resharding = futures::future::join_all(resharding).await;
        let open_tasks =
            pod.log.engine().scan(OPEN_TASKS, ALL_KEYS, Direction::Forward, usize::MAX);
        let open_tasks = open_tasks.map_err(|error| AdminError::StateUnreadable(error.to_string()));
        let peers = pod.peers.now();
        let (journal, confirmed) = (pod.journal.usage(), pod.log.confirmed());
        let seen = Seen {
            pod: pod.id.to_string(),
            topology: self.topology().await?,
            // Its index may be gone by now.
            resharding: resharding.into_iter().filter_map(Result::ok).collect(),
            comparisons: pod.anti_entropy.report(),
            actors: pod.inventory.report(),
            roles: self.roles().await?,
            peers_alive: peers.known.values().filter(|peer| peer.alive).count().max(1),
            peers_gone: peers.known.values().filter(|peer| !peer.alive).count(),
            log: pod.log.metrics(),
            unconfirmed_seconds: confirmed.at.map(|_| confirmed.age.as_secs_f64()),
            journal_bytes: journal.bytes,
            journal_bytes_max: journal.bytes_max,
            open_tasks: open_tasks?.len(),
        };
        let mut numbers = metrics(&seen, &routing);
        numbers.extend(of_requests(&self.traffic));
        let durations = durations(&self.traffic, &routing);
        let mut registry = Registry::with_prefix("miroir");
        registry.register_collector(Box::new(Exposition { numbers, durations }));
        let mut text = String::new();
        encode(&mut text, &registry)
            .map_err(|error| AdminError::StateUnreadable(error.to_string()))?;
        Ok(text)
    }
}

/// What is looked up.
#[derive(Debug)]
struct Seen {
    pod: String,
    topology: TopologyAnswer,
    resharding: Vec<ReshardView>,
    comparisons: AntiEntropyReport,
    actors: Vec<ActorReport>,
    roles: Vec<RoleView>,
    peers_alive: usize,
    peers_gone: usize,
    log: LogMetrics,
    unconfirmed_seconds: Option<f64>,
    journal_bytes: u64,
    journal_bytes_max: u64,
    open_tasks: usize,
}

type Labels = Vec<(&'static str, String)>;

/// One metric with its values.
#[derive(Debug)]
struct Metric {
    name: &'static str,
    help: &'static str,
    is_counter: bool,
    values: Vec<(Labels, f64)>,
}

/// Durations by what took them.
#[derive(Debug)]
struct DurationMetric {
    name: &'static str,
    help: &'static str,
    /// The sum, and how many were in each class.
    values: Vec<(Labels, (Duration, Vec<u64>))>,
}

fn gauge(name: &'static str, help: &'static str, values: Vec<(Labels, f64)>) -> Metric {
    Metric { name, help, is_counter: false, values }
}

fn counter(name: &'static str, help: &'static str, values: Vec<(Labels, f64)>) -> Metric {
    Metric { is_counter: true, ..gauge(name, help, values) }
}

#[allow(clippy::cast_precision_loss)] // counts stay far below 2^53
fn number(value: impl TryInto<u64>) -> f64 {
    value.try_into().unwrap_or(u64::MAX) as f64
}

fn one(value: f64) -> Vec<(Labels, f64)> {
    vec![(Labels::new(), value)]
}

fn metrics(seen: &Seen, routing: &Routing) -> Vec<Metric> {
    let mut all = of_pod(seen);
    all.extend(of_nodes(&seen.topology));
    all.extend(of_indexes(routing, &seen.resharding));
    all.extend(of_actors(&seen.actors));
    all
}

fn of_requests(traffic: &Traffic) -> Vec<Metric> {
    vec![
        gauge(
            "http_requests_in_flight",
            "Requests being served",
            one(number(traffic.in_flight.load(Ordering::Relaxed))),
        ),
        counter(
            "http_requests_refused",
            "Requests that were refused because too many were being served",
            one(number(traffic.refused())),
        ),
        counter(
            "degraded_answers",
            "Answers that said that they miss something or may be too old",
            one(number(traffic.degraded())),
        ),
    ]
}

fn durations(traffic: &Traffic, routing: &Routing) -> Vec<DurationMetric> {
    let of_answered = |(kind, durations): (Answered, Arc<Durations>)| {
        let labels = vec![
            ("method", kind.method.to_owned()),
            ("path", kind.path.to_owned()),
            ("status", kind.status.to_string()),
        ];
        (labels, durations.read())
    };
    let of_called = |(Called { base, outcome }, durations): (Called, Arc<Durations>)| {
        let node = routing.nodes.values().find(|node| node.address == base);
        let node = node.map_or(base, |node| node.id.to_string());
        (vec![("node", node), ("outcome", outcome.to_owned())], durations.read())
    };
    vec![
        DurationMetric {
            name: "http_request_duration_seconds",
            help: "Requests that this pod has answered, by how long that took; requests without a route are `unknown`",
            values: traffic.answered().into_iter().map(of_answered).collect(),
        },
        DurationMetric {
            name: "node_request_duration_seconds",
            help: "Requests that this pod has sent to nodes, by how long they took and what came of them: a class of statuses, or why there was no answer",
            values: traffic.called().into_iter().map(of_called).collect(),
        },
    ]
}

fn of_pod(seen: &Seen) -> Vec<Metric> {
    let Seen { log, comparisons, .. } = seen;
    let own = |role: &&RoleView| role.holder.as_ref() == Some(&seen.pod);
    let roles = seen.roles.iter().filter(own);
    let roles = roles.map(|role| (vec![("role", role.role.clone())], 1.0)).collect();
    let state = |state: &str, count| (vec![("state", state.to_owned())], number(count));
    let leads = log.leader == Some(log.raft_id);
    let info = vec![("pod", seen.pod.clone()), ("version", env!("CARGO_PKG_VERSION").to_owned())];
    let differing = comparisons.differences.len();
    vec![
        gauge("info", "The pod and its version; always 1", vec![(info, 1.0)]),
        gauge("leader", "Roles that this pod holds", roles),
        gauge(
            "peers",
            "Pods that this one knows, itself included, by whether it hears of them",
            vec![state("alive", seen.peers_alive), state("gone", seen.peers_gone)],
        ),
        gauge(
            "raft_leader",
            "Whether this pod leads the coordinator log",
            one(f64::from(u8::from(leads))),
        ),
        gauge("raft_term", "Term of the coordinator log", one(number(log.term))),
        gauge(
            "raft_last_log_index",
            "Last entry of this pod's log",
            one(number(log.last_log.unwrap_or(0))),
        ),
        gauge(
            "raft_applied_index",
            "Last entry that this pod has applied",
            one(number(log.applied.unwrap_or(0))),
        ),
        gauge(
            "unconfirmed_seconds",
            "How long ago this pod's state was last known to be the newest; missing while it never was",
            seen.unconfirmed_seconds.map(one).unwrap_or_default(),
        ),
        gauge(
            "journal_bytes",
            "Bytes in this pod's journal of writes",
            one(number(seen.journal_bytes)),
        ),
        gauge(
            "journal_bytes_max",
            "The limit of journal_bytes",
            one(number(seen.journal_bytes_max)),
        ),
        gauge("tasks_open", "Tasks that are enqueued or processing", one(number(seen.open_tasks))),
        counter(
            "anti_entropy_shards",
            "Shards whose replicas this pod has compared",
            one(number(comparisons.shards)),
        ),
        counter(
            "anti_entropy_documents",
            "Documents read to compare replicas",
            one(number(comparisons.documents)),
        ),
        counter("anti_entropy_bytes", "Bytes of those", one(number(comparisons.bytes))),
        counter(
            "anti_entropy_closer_bytes",
            "Bytes read again after that, of what seemed to differ",
            one(number(comparisons.closer_bytes)),
        ),
        counter(
            "anti_entropy_repaired_documents",
            "Documents that writers of this pod have put right",
            one(number(comparisons.repaired)),
        ),
        gauge(
            "anti_entropy_differing_shards",
            "Shards that differed when this pod compared them last",
            one(number(differing)),
        ),
    ]
}

fn of_nodes(topology: &TopologyAnswer) -> Vec<Metric> {
    let of_node = |count: fn(&crate::topology::NodeView) -> u64| {
        let node = |node: &crate::topology::NodeView| {
            (
                vec![("node", node.id.clone()), ("group", node.group.to_string())],
                number(count(node)),
            )
        };
        topology.nodes.iter().map(node).collect::<Vec<_>>()
    };
    let moves = &topology.moves;
    let left = moves.seconds_left.map(|seconds| one(number(seconds))).unwrap_or_default();
    vec![
        gauge("node_healthy", "Whether the node answers", of_node(|node| u64::from(node.up))),
        gauge(
            "node_replicas",
            "Replicas of shards placed on the node",
            of_node(|node| node.replicas),
        ),
        gauge("node_replicas_in_sync", "Those of them that are read", of_node(|node| node.in_sync)),
        gauge(
            "node_replicas_arriving",
            "Those of them that a move is to fill",
            of_node(|node| node.arriving),
        ),
        gauge(
            "node_replicas_leaving",
            "Replicas that are to be deleted from the node",
            of_node(|node| node.leaving),
        ),
        gauge(
            "rebalance_paused",
            "Whether moves are paused",
            one(f64::from(u8::from(moves.paused))),
        ),
        gauge(
            "rebalance_replicas",
            "Replicas that were to be placed when the moves began; 0: nothing moves",
            one(number(moves.total)),
        ),
        gauge(
            "rebalance_replicas_done",
            "Those of them that are in place and filled",
            one(number(moves.done)),
        ),
        gauge(
            "rebalance_replicas_leaving",
            "Replicas that are still to be deleted",
            one(number(moves.leaving)),
        ),
        gauge(
            "rebalance_seconds_left",
            "What is left, at the rate so far; missing while nothing says",
            left,
        ),
    ]
}

fn of_indexes(routing: &Routing, resharding: &[ReshardView]) -> Vec<Metric> {
    let (mut shards, mut replicas, mut in_sync) = (Vec::new(), Vec::new(), Vec::new());
    let (mut degraded, mut unreadable) = (Vec::new(), Vec::new());
    for (name, index) in &routing.indexes {
        let labels = || vec![("index", name.clone())];
        let placed = || index.groups.iter().flat_map(|group| &group.shards);
        let lacks = |shard: &usize| {
            let mut of_shard = index.groups.iter().filter_map(|group| group.shards.get(*shard));
            of_shard.any(|placed| placed.in_sync.len() < placed.replicas.len())
        };
        let is_lost = |shard: &usize| {
            let mut of_shard = index.groups.iter().filter_map(|group| group.shards.get(*shard));
            of_shard.all(|placed| placed.in_sync.is_empty())
        };
        let all = index.shards as usize;
        shards.push((labels(), number(all)));
        replicas
            .push((labels(), number(placed().map(|shard| shard.replicas.len()).sum::<usize>())));
        in_sync.push((labels(), number(placed().map(|shard| shard.in_sync.len()).sum::<usize>())));
        degraded.push((labels(), number((0..all).filter(lacks).count())));
        unreadable.push((labels(), number((0..all).filter(is_lost).count())));
    }
    let of_reshard = |value: fn(&ReshardView) -> Option<u64>| {
        let labelled =
            |view: &ReshardView| Some((vec![("index", view.index.clone())], number(value(view)?)));
        resharding.iter().filter_map(labelled).collect::<Vec<_>>()
    };
    vec![
        gauge("index_shards", "Shards of the index", shards),
        gauge("index_replicas", "Replicas of the index's shards that are placed", replicas),
        gauge("index_replicas_in_sync", "Those of them that are read", in_sync),
        gauge("index_shards_degraded", "Shards with a replica that is not in sync", degraded),
        gauge("index_shards_unreadable", "Shards without any replica in sync", unreadable),
        gauge(
            "reshard_target_shards",
            "Shards that the index is to have, while it is resharded",
            of_reshard(|view| view.target.map(u64::from)),
        ),
        gauge(
            "reshard_documents",
            "Documents on all nodes, copies included, while the index is resharded",
            of_reshard(|view| view.documents),
        ),
        gauge(
            "reshard_documents_left",
            "Those of them that are still to be marked",
            of_reshard(|view| view.documents_left),
        ),
        gauge(
            "reshard_seconds_left",
            "Until they are marked, at the rate so far",
            of_reshard(|view| view.seconds_left),
        ),
    ]
}

fn of_actors(actors: &[ActorReport]) -> Vec<Metric> {
    let mut kinds: Vec<&str> = actors.iter().map(|actor| actor.kind.as_str()).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let of_kind = |value: fn(&ActorReport) -> f64| {
        let sum = |kind: &&str| {
            let sum = actors.iter().filter(|actor| actor.kind == *kind).map(value).sum();
            (vec![("kind", (*kind).to_owned())], sum)
        };
        kinds.iter().map(sum).collect::<Vec<_>>()
    };
    vec![
        gauge("actors", "Actors of this pod", of_kind(|_| 1.0)),
        gauge("actor_mailbox", "Messages that wait", of_kind(|actor| number(actor.mailbox))),
        counter(
            "actor_handled",
            "Messages handled by actors that live",
            of_kind(|actor| number(actor.handled)),
        ),
        counter(
            "actor_busy_seconds",
            "Time spent with them",
            of_kind(|actor| number(actor.busy_nanoseconds) / 1e9),
        ),
        counter(
            "actor_restarts",
            "How often actors that live were started again",
            of_kind(|actor| number(actor.restarts)),
        ),
    ]
}

/// Metrics as a collector: a registry is made for each question.
#[derive(Debug)]
struct Exposition {
    numbers: Vec<Metric>,
    durations: Vec<DurationMetric>,
}

impl Collector for Exposition {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for Metric { name, help, is_counter, values } in &self.numbers {
            let kind = if *is_counter { MetricType::Counter } else { MetricType::Gauge };
            let mut family = encoder.encode_descriptor(name, help, None, kind)?;
            for (labels, value) in values {
                let one = family.encode_family(labels)?;
                match is_counter {
                    true => ConstCounter::new(*value).encode(one)?,
                    false => ConstGauge::new(*value).encode(one)?,
                }
            }
        }
        for DurationMetric { name, help, values } in &self.durations {
            let kind = MetricType::Histogram;
            let mut family = encoder.encode_descriptor(name, help, None, kind)?;
            for (labels, (sum, classes)) in values {
                let bounds = BOUNDS.iter().copied().chain([f64::INFINITY]);
                let buckets: Vec<(f64, u64)> = bounds.zip(classes.iter().copied()).collect();
                let count = classes.iter().sum();
                let mut one = family.encode_family(labels)?;
                one.encode_histogram::<NoLabelSet>(sum.as_secs_f64(), count, &buckets, None)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
