//! `miroir ctl`'s commands about nodes and shards: orders, what they would move, and how far it is.

use std::time::Duration;

use anyhow::bail;
use clap::{Args, Subcommand};
use http::Method;
use miroir_gateway::topology::{
    MovesView, NewNode, NodePart, NodeView, OrderAnswer, PlaceView, ReplicaState, Replication,
    ShardsAnswer, Steering, TopologyAnswer,
};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;

use super::client::AdminClient;
use super::table::{Align, render};
use super::views::duration;

/// Between looks at how far moves are.
const LOOK: Duration = Duration::from_secs(1);
/// Questions in a row that may fail: while leadership is handed over, say.
const FAILURES_MAX: u32 = 10;
/// Characters of a progress bar.
const BAR_WIDTH: u64 = 30;

/// About nodes and shards.
#[derive(Debug, Subcommand)]
pub enum TopologyCtl {
    /// The nodes, what each holds, and how far moves are.
    Topology,
    /// Where each shard is.
    Shards {
        /// Only those of this index.
        #[arg(value_name = "INDEX")]
        index: Option<String>,
    },
    /// Add a node; it gets its part of the shards while everything runs.
    AddNode {
        /// Decides which shards it holds; never use one again.
        #[arg(value_name = "ID")]
        id: String,
        /// Where pods reach it: http://host:port.
        #[arg(value_name = "URL")]
        address: String,
        /// Its replica group; a new number makes a new group.
        #[arg(long, value_name = "N", default_value_t = 0)]
        group: u32,
        /// The node's key. Prefer the variable: flags can be read by every process.
        #[arg(long, value_name = "KEY", env = "MIROIR_NODE_KEY", hide_env_values = true)]
        node_key: Option<String>,
        #[command(flatten)]
        how: How,
    },
    /// Move everything away from a node.
    DrainNode {
        /// As `topology` prints it.
        #[arg(value_name = "ID")]
        id: String,
        /// Give it its part again instead.
        #[arg(long)]
        undo: bool,
        #[command(flatten)]
        how: How,
    },
    /// Drain a node, wait, and forget it. With --force, at once: it is gone for good.
    RemoveNode {
        /// As `topology` prints it.
        #[arg(value_name = "ID")]
        id: String,
        /// Although it has the last copies of documents, which are lost then.
        #[arg(long, requires = "force")]
        lose_data: bool,
        #[command(flatten)]
        how: How,
    },
    /// Drain every node of a group. Its nodes can be removed then.
    RemoveGroup {
        /// Its number.
        #[arg(value_name = "N")]
        group: u32,
        #[command(flatten)]
        how: How,
    },
    /// Set how many copies of each shard every group keeps.
    Replication {
        /// Copies.
        #[arg(value_name = "N")]
        factor: u32,
        #[command(flatten)]
        how: How,
    },
    /// How far moves are; pause them, go on, set their pace.
    Rebalance {
        /// Begin no move, and go on with none.
        #[arg(long, conflicts_with = "resume")]
        pause: bool,
        /// Go on.
        #[arg(long)]
        resume: bool,
        /// Documents that each move copies in a second at most; 0: as fast as it goes.
        #[arg(long, value_name = "DOCUMENTS")]
        rate: Option<u32>,
        /// Wait until everything is in its place.
        #[arg(long)]
        watch: bool,
    },
}

/// How an order is meant.
#[derive(Clone, Copy, Debug, Args)]
pub struct How {
    /// Only print what would move.
    #[arg(long, conflicts_with = "watch")]
    dry_run: bool,
    /// Although there are fewer copies than wanted, or the node does not answer.
    #[arg(long)]
    force: bool,
    /// Wait until everything is in its place.
    #[arg(long)]
    watch: bool,
}

impl How {
    fn query(self) -> String {
        format!("?dryRun={}&force={}", self.dry_run, self.force)
    }
}

/// The pod's answer as JSON, and for people.
type Answered = (String, String);

/// Carries out one command.
///
/// # Errors
/// When a pod refuses or can't be asked.
pub async fn execute(client: &AdminClient, command: TopologyCtl) -> anyhow::Result<Answered> {
    let path_of =
        |id: &str| format!("/_miroir/nodes/{}", utf8_percent_encode(id, NON_ALPHANUMERIC));
    match command {
        TopologyCtl::Topology => {
            let path = "/_miroir/topology";
            let (body, answer) = client.ask::<TopologyAnswer>(Method::GET, path).await?;
            Ok((body, topology(&answer)))
        }
        TopologyCtl::Shards { index } => {
            let query = index
                .map(|index| format!("?index={}", utf8_percent_encode(&index, NON_ALPHANUMERIC)));
            let path = format!("/_miroir/shards{}", query.unwrap_or_default());
            let (body, answer) = client.ask::<ShardsAnswer>(Method::GET, &path).await?;
            Ok((body, shards(&answer)))
        }
        TopologyCtl::AddNode { id, address, group, node_key, how } => {
            let node = NewNode { id, address, replica_group: group, key: node_key };
            order(client, Method::POST, "/_miroir/nodes", Some(&node), how).await
        }
        TopologyCtl::DrainNode { id, undo, how } => {
            let method = if undo { Method::DELETE } else { Method::POST };
            order::<()>(client, method, &format!("{}/drain", path_of(&id)), None, how).await
        }
        TopologyCtl::RemoveNode { id, lose_data, how } => {
            let path = path_of(&id);
            if !how.force && !how.dry_run {
                let watch = How { watch: true, ..how };
                order::<()>(client, Method::POST, &format!("{path}/drain"), None, watch).await?;
            }
            if how.dry_run && !how.force {
                let path = format!("{path}/drain");
                return order::<()>(client, Method::POST, &path, None, how).await;
            }
            let query = format!("{}&loseData={lose_data}", how.query());
            let (body, answer) =
                client.ask::<OrderAnswer>(Method::DELETE, &format!("{path}{query}")).await?;
            finish(client, body, &answer, how).await
        }
        TopologyCtl::RemoveGroup { group, how } => {
            let path = format!("/_miroir/groups/{group}");
            order::<()>(client, Method::DELETE, &path, None, how).await
        }
        TopologyCtl::Replication { factor, how } => {
            let body = Replication { factor };
            order(client, Method::PUT, "/_miroir/replication", Some(&body), how).await
        }
        TopologyCtl::Rebalance { pause, resume, rate, watch } => {
            let path = "/_miroir/rebalance";
            let steering =
                Steering { paused: (pause || resume).then_some(pause), documents_per_second: rate };
            let (mut body, mut view) = match steering == Steering::default() {
                true => client.ask::<MovesView>(Method::GET, path).await?,
                false => client.send_json(Method::PATCH, path, &steering).await?,
            };
            if watch {
                (body, view) = wait(client).await?;
            }
            Ok((body, format!("{}\n", moves(&view))))
        }
    }
}

async fn order<T: Serialize>(
    client: &AdminClient,
    method: Method,
    path: &str,
    body: Option<&T>,
    how: How,
) -> anyhow::Result<Answered> {
    let path = format!("{path}{}", how.query());
    let (text, answer) = match body {
        Some(body) => client.send_json::<OrderAnswer>(method, &path, body).await?,
        None => client.ask::<OrderAnswer>(method, &path).await?,
    };
    finish(client, text, &answer, how).await
}

async fn finish(
    client: &AdminClient,
    body: String,
    answer: &OrderAnswer,
    how: How,
) -> anyhow::Result<Answered> {
    let table = order_table(answer);
    if how.watch {
        let (_, view) = wait(client).await?;
        return Ok((body, format!("{table}{}\n", moves(&view))));
    }
    Ok((body, table))
}

/// Waits until nothing moves; says on standard error how far it is.
async fn wait(client: &AdminClient) -> anyhow::Result<(String, MovesView)> {
    let (mut failures, mut said) = (0, String::new());
    // The rebalancer looks every second: what was ordered a moment ago may not have begun.
    tokio::time::sleep(LOOK * 2).await;
    loop {
        match client.ask::<MovesView>(Method::GET, "/_miroir/rebalance").await {
            Ok((body, view)) => {
                failures = 0;
                let now = moves(&view);
                if now != said {
                    eprintln!("{now}");
                    said = now;
                }
                if view.paused {
                    bail!("moves are paused: miroir ctl rebalance --resume");
                }
                if view.done == view.total && view.surplus == 0 && view.leaving == 0 {
                    return Ok((body, view));
                }
            }
            Err(error) if failures >= FAILURES_MAX => return Err(error),
            Err(_) => failures += 1,
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The nodes.
fn topology(answer: &TopologyAnswer) -> String {
    let columns = [
        ("GROUP", Align::Right),
        ("NODE", Align::Left),
        ("PART", Align::Left),
        ("STATE", Align::Left),
        ("REPLICAS", Align::Right),
        ("IN SYNC", Align::Right),
        ("ARRIVING", Align::Right),
        ("LEAVING", Align::Right),
        ("ADDRESS", Align::Left),
    ];
    let copies = answer.replication_factor.map_or_else(|| "?".to_owned(), |n| n.to_string());
    let rows: Vec<_> = answer.nodes.iter().map(node_row).collect();
    let moves = moves(&answer.moves);
    format!("copies in each group: {copies}\n{moves}\n\n{}", render(columns, &rows))
}

fn node_row(node: &NodeView) -> [String; 9] {
    let part = match node.part {
        NodePart::Active => "active",
        NodePart::Draining => "draining",
        NodePart::Drained => "drained",
        NodePart::Away => "away",
    };
    [
        node.group.to_string(),
        node.id.clone(),
        part.to_owned(),
        if node.up { "up" } else { "down" }.to_owned(),
        node.replicas.to_string(),
        node.in_sync.to_string(),
        node.arriving.to_string(),
        node.leaving.to_string(),
        node.address.clone(),
    ]
}

/// A bar of what is done, at most all of it.
pub(super) fn bar(done: u64, of: u64) -> String {
    let filled = (done.min(of) * BAR_WIDTH).checked_div(of).unwrap_or(BAR_WIDTH) as usize;
    format!("[{}{}]", "#".repeat(filled), ".".repeat(BAR_WIDTH as usize - filled))
}

/// How far moves are, in a line.
fn moves(view: &MovesView) -> String {
    let pace = match view.documents_per_second {
        0 => String::new(),
        rate => format!(", at most {rate} documents a second each"),
    };
    let paused = match (view.paused, view.resting) {
        (true, _) => ", paused",
        (false, true) => ", waiting for their time of the day",
        (false, false) => "",
    };
    if view.total == 0 && view.surplus == 0 && view.leaving == 0 {
        return format!("every shard is in its place{pace}{paused}");
    }
    let bar = bar(view.done, view.total);
    let left =
        view.seconds_left.map_or_else(String::new, |left| format!(", {} left", duration(left)));
    format!(
        "{bar} {} of {} replicas in place, {} under way, {} to take away, {} to delete{left}{pace}{paused}",
        view.done, view.total, view.arriving, view.surplus, view.leaving
    )
}

/// Where shards are.
fn shards(answer: &ShardsAnswer) -> String {
    let columns = [("INDEX", Align::Left), ("SHARD", Align::Right), ("REPLICAS", Align::Left)];
    let rows: Vec<[String; 3]> = answer
        .indexes
        .iter()
        .flat_map(|index| {
            index.shards.iter().map(|shard| {
                let replicas = shard.replicas.iter().map(|replica| {
                    let state = match replica.state {
                        ReplicaState::InSync => "",
                        ReplicaState::OutOfSync => " (out of sync)",
                        ReplicaState::Arriving => " (arriving)",
                        ReplicaState::Leaving => " (leaving)",
                    };
                    format!("{}:{}{state}", replica.group, replica.node)
                });
                let replicas = replicas.collect::<Vec<_>>().join(", ");
                [index.index.clone(), shard.shard.to_string(), replicas]
            })
        })
        .collect();
    render(columns, &rows)
}

/// What an order moves, by index and node.
fn order_table(answer: &OrderAnswer) -> String {
    let columns = [
        ("INDEX", Align::Left),
        ("NODE", Align::Left),
        ("GROUP", Align::Right),
        ("SHARDS TO PLACE", Align::Left),
        ("SHARDS TO TAKE AWAY", Align::Left),
    ];
    let mut keys: Vec<(&str, u32, &str)> = answer
        .place
        .iter()
        .chain(&answer.take_away)
        .map(|place| (place.index.as_str(), place.group, place.node.as_str()))
        .collect();
    keys.sort_unstable();
    keys.dedup();
    let of = |places: &[PlaceView], (index, _, node): (&str, u32, &str)| {
        let mine = places.iter().filter(|place| place.index == index && place.node == node);
        mine.map(|place| place.shard.to_string()).collect::<Vec<_>>().join(",")
    };
    let rows: Vec<[String; 5]> = keys
        .into_iter()
        .map(|key| {
            let (index, group, node) = key;
            [
                index.to_owned(),
                node.to_owned(),
                group.to_string(),
                of(&answer.place, key),
                of(&answer.take_away, key),
            ]
        })
        .collect();
    let verb = if answer.dry_run { "would move" } else { "moves" };
    match rows.is_empty() {
        true => format!("nothing {verb}\n"),
        false => format!("{verb}:\n\n{}", render(columns, &rows)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(total: u64, done: u64) -> MovesView {
        MovesView {
            paused: false,
            resting: false,
            documents_per_second: 0,
            total,
            done,
            arriving: total - done,
            surplus: 0,
            leaving: 0,
            began_at: None,
            seconds_left: (total > done).then_some(61),
        }
    }

    #[test]
    fn moves_are_shown_in_a_line() {
        assert_eq!(moves(&view(0, 0)), "every shard is in its place");
        let half = moves(&view(10, 5));
        assert!(half.starts_with("[###############...............] 5 of 10"), "{half}");
        assert!(half.ends_with("1m 1s left"), "{half}");
        let paused = MovesView { paused: true, documents_per_second: 50, ..view(0, 0) };
        assert!(moves(&paused).ends_with("50 documents a second each, paused"));
        let resting = MovesView { resting: true, ..view(0, 0) };
        assert!(moves(&resting).ends_with(", waiting for their time of the day"));
    }

    #[test]
    fn an_order_is_listed_by_index_and_node() {
        let place = |shard| PlaceView { index: "a".into(), shard, group: 1, node: "n".into() };
        let answer = OrderAnswer {
            dry_run: true,
            place: vec![place(3), place(4)],
            take_away: vec![PlaceView { node: "m".into(), ..place(3) }],
        };
        let table = order_table(&answer);
        assert!(table.starts_with("would move:\n"), "{table}");
        assert!(table.lines().any(|line| line.contains("3,4")), "{table}");
        assert_eq!(order_table(&OrderAnswer::default()), "nothing moves\n");
    }
}
