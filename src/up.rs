//! `miroir up`: a whole cluster on this machine, every pod and node a process of its own.
//!
//! The data directory remembers shape, ids, keys and ports ([`state`]), so that the same cluster
//! comes back. Children are started from this very program and stop when it is gone ([`member`],
//! [`fleet`]).

mod demo;
mod fleet;
mod member;
mod ports;
mod readiness;
mod shape;
mod state;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Args;
use miroir_seams::{Entropy, HttpTransport};
use serde_json::json;

use crate::config::{KEY_BYTES_MIN, Secret};
use crate::data_lock::DataLock;
use crate::exit::{self, Refused, StopSignals};
use crate::logs::{self, LogFormat};
use fleet::{Change, Fleet};
use shape::{Asked, Shape};
use state::UpState;

/// How long a cluster may take until it is ready: loading large indexes from a cold disk takes
/// its time, and after this something is wrong.
const READY_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a cluster that serves may take to find its voters before `up` says that it is ready.
const VOTERS_TIMEOUT: Duration = Duration::from_secs(10);

/// Arguments of `miroir up`.
#[derive(Debug, Args)]
pub struct UpArgs {
    /// Miroir processes, at most 9; a cluster that is there can get more, not fewer [default: 1].
    #[arg(long, value_name = "N")]
    pods: Option<u32>,
    /// Embedded search nodes [default: 4].
    #[arg(long, value_name = "N")]
    nodes: Option<u32>,
    /// Replica groups, each of which holds everything [default: 2].
    #[arg(long, value_name = "N")]
    groups: Option<u32>,
    /// Replicas of each shard within a group [default: 1].
    #[arg(long, value_name = "N")]
    rf: Option<u32>,
    /// Shards of each index [default: 64].
    #[arg(long, value_name = "N")]
    shards: Option<u32>,
    /// Where clients connect; 0 takes any free port [default: 7700, or the next free one].
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Everything is kept here; start again with the same to get the same cluster back.
    #[arg(long, value_name = "DIR", default_value = "./miroir-data")]
    data: PathBuf,
    /// Load 3,201 films into the index `movies`.
    #[arg(long)]
    demo: bool,
    /// Print one line of JSON when the cluster is ready (with --demo: and loaded), for programs.
    #[arg(long)]
    json: bool,
    /// Leave a pod or node that ended alone instead of starting it again.
    #[arg(long)]
    no_respawn: bool,
}

/// Runs `miroir up` until it is asked to stop.
///
/// # Errors
/// Flags that can't be fulfilled or contradict the data directory, a directory or port in use,
/// and a cluster that doesn't come up.
pub fn run(args: UpArgs) -> anyhow::Result<()> {
    logs::start("info", LogFormat::Text)?;
    exit::block_on(run_until_stopped(args))
}

async fn run_until_stopped(args: UpArgs) -> anyhow::Result<()> {
    let mut signals = StopSignals::listen().context("can't listen for signals")?;
    let data = std::path::absolute(&args.data).context("the data directory has no path")?;
    if !data.join("up.json").exists() {
        // Refused before anything is written.
        Shape::decide(args.asked())?;
    }
    let _lock = DataLock::take(&data, Duration::ZERO).await?;
    let state = decide_state(&args, &data)?;
    let start = Fleet::start(data.clone(), state, args.port, !args.no_respawn);
    let (mut fleet, notices) = tokio::select! {
        started = start => started?,
        () = signals.next() => return Ok(()),
    };
    for notice in notices {
        tracing::warn!("{notice}");
    }
    let outcome = tokio::select! {
        outcome = come_up_and_watch(&args, &data, &mut fleet) => outcome,
        () = signals.next() => Ok(()),
    };
    tracing::info!("stopping");
    tokio::select! {
        () = fleet.stop() => {}
        // Dropping the fleet kills what still runs.
        () = signals.next() => tracing::warn!("killing everything on a second signal"),
    }
    outcome
}

impl UpArgs {
    fn asked(&self) -> Asked {
        Asked {
            pods: self.pods,
            nodes: self.nodes,
            groups: self.groups,
            rf: self.rf,
            shards: self.shards,
        }
    }
}

/// The kept state, or a new one; `MIROIR_MASTER_KEY` may choose the key of a new cluster.
fn decide_state(args: &UpArgs, data: &Path) -> anyhow::Result<UpState> {
    let chosen = std::env::var("MIROIR_MASTER_KEY").ok().filter(|key| !key.is_empty());
    let entropy = Entropy::real();
    let Some(mut state) = UpState::load(data, &entropy)? else {
        if chosen.as_ref().is_some_and(|key| key.len() < KEY_BYTES_MIN) {
            let message = format!("MIROIR_MASTER_KEY needs at least {KEY_BYTES_MIN} bytes");
            return Err(Refused(message).into());
        }
        let shape = Shape::decide(args.asked())?;
        return Ok(UpState::new(shape, chosen.map(Secret::new), &entropy));
    };
    let shape = state.shape.decide_again(args.asked(), &data.display().to_string())?;
    state.grow_to(shape);
    if chosen.is_some_and(|key| key != state.master_key.reveal()) {
        let message = format!(
            "MIROIR_MASTER_KEY is not the key that the cluster in {} has; unset it to start the \
             cluster again",
            data.display()
        );
        return Err(Refused(message).into());
    }
    Ok(state)
}

/// Waits for the cluster, says so, loads the demo, then watches over the children. Comes back
/// only with an error.
async fn come_up_and_watch(args: &UpArgs, data: &Path, fleet: &mut Fleet) -> anyhow::Result<()> {
    let transport = HttpTransport::new();
    tokio::time::timeout(READY_TIMEOUT, become_ready(fleet, &transport)).await.map_err(
        |_| {
            let logs = data.join("logs");
            anyhow!("the cluster is not ready after {READY_TIMEOUT:?}; see {}", logs.display())
        },
    )??;
    fleet.started();
    if !args.json {
        print(&greeting(&fleet.state, data))?;
    }
    if args.demo {
        load_demo(args, data, fleet, &transport).await?;
    }
    if args.json {
        print(&format!("{}\n", ready_line(fleet)))?;
    }
    loop {
        watch_until_failure(fleet).await?;
    }
}

async fn become_ready(fleet: &mut Fleet, transport: &HttpTransport) -> anyhow::Result<()> {
    loop {
        let (pods, nodes) = (fleet.pod_urls(), fleet.node_urls());
        tokio::select! {
            () = readiness::wait(transport, &pods, &nodes) => break,
            change = fleet.watch() => match change {
                // Ask again at the new address.
                Change::AddressChanged => {}
                Change::Failed(error) => return Err(error),
            },
        }
    }
    // From now on any pod may be killed. What doesn't settle at once may do so later.
    let (pods, key) = (fleet.pod_urls(), fleet.state.admin_key.clone());
    let settled = readiness::wait_for_voters(transport, &pods, key.reveal());
    tokio::select! {
        settled = tokio::time::timeout(VOTERS_TIMEOUT, settled) => {
            if settled.is_err() {
                tracing::warn!("not every pod has its place in the coordinator log yet");
            }
            Ok(())
        }
        failure = watch_until_failure(fleet) => failure,
    }
}

async fn watch_until_failure(fleet: &mut Fleet) -> anyhow::Result<()> {
    loop {
        if let Change::Failed(error) = fleet.watch().await {
            return Err(error);
        }
    }
}

async fn load_demo(
    args: &UpArgs,
    data: &Path,
    fleet: &mut Fleet,
    transport: &HttpTransport,
) -> anyhow::Result<()> {
    if !fleet.state.demo_loaded {
        if !args.json {
            print("Loading 3,201 films …\n")?;
        }
        let (url, key) = (fleet.state.url(), fleet.state.master_key.clone());
        tokio::select! {
            loaded = demo::load(transport, &url, key.reveal()) => loaded?,
            failure = watch_until_failure(fleet) => return failure,
        }
        fleet.state.demo_loaded = true;
        fleet.state.save(data)?;
    }
    if !args.json {
        print(&demo_invitation(&fleet.state))?;
    }
    Ok(())
}

fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("can't write to stdout")
}

fn greeting(state: &UpState, data: &Path) -> String {
    let (url, key) = (state.url(), state.master_key.reveal());
    let Shape { nodes, groups, rf, shards, .. } = state.shape;
    let pods = match state.pods.as_slice() {
        [_] => "1 pod".to_owned(),
        pods => {
            let urls: Vec<String> = pods.iter().map(|pod| state::url(pod.port)).collect();
            format!("{} pods ({})", pods.len(), urls.join(", "))
        }
    };
    format!(
        "Miroir is ready at {url}\n\
         \x20 {pods}, {nodes} nodes in {groups} groups, {rf} replicas a group, {shards} shards\n\
         \x20 master key  {key}\n\
         \x20 admin key   {admin}   (for {url}/_miroir/)\n\
         \x20 data, logs  {data}\n\
         \n\
         Use it with any Meilisearch SDK, or add a document and search for it:\n\
         \x20 curl -s {url}/indexes/books/documents -H 'Authorization: Bearer {key}' \\\n\
         \x20      -H 'Content-Type: application/json' -d '[{{\"id\": 1, \"title\": \"Dune\"}}]'\n\
         \x20 curl -s '{url}/indexes/books/search?q=dune' -H 'Authorization: Bearer {key}'\n\
         \n\
         Ctrl-C stops everything; the same command brings it back.\n",
        admin = state.admin_key.reveal(),
        data = data.display(),
    )
}

fn demo_invitation(state: &UpState) -> String {
    let (url, key) = (state.url(), state.master_key.reveal());
    format!(
        "\n3,201 films are in the index `{index}`. Try:\n\
         \x20 curl -s {url}/indexes/{index}/search -H 'Authorization: Bearer {key}' \\\n\
         \x20      -H 'Content-Type: application/json' \\\n\
         \x20      -d '{{\"q\": \"batman\", \"sort\": [\"imdb_rating:desc\"], \"facets\": [\"major_genre\"]}}'\n",
        index = demo::INDEX,
    )
}

/// The line that `--json` promises.
fn ready_line(fleet: &Fleet) -> serde_json::Value {
    let state = &fleet.state;
    let pods: Vec<_> = fleet
        .running(true)
        .into_iter()
        .zip(&state.pods)
        .map(|(pod, kept)| {
            let mut line = json!({"id": pod.id, "pid": pod.pid, "url": pod.url});
            if state.has_peers() {
                line["peerAddress"] = json!(kept.peer_address());
            }
            line
        })
        .collect();
    let nodes: Vec<_> = fleet
        .running(false)
        .into_iter()
        .zip(&state.nodes)
        .map(|(node, kept)| {
            json!({
                "id": node.id, "pid": node.pid, "url": node.url,
                "key": kept.key.reveal(), "group": kept.group,
            })
        })
        .collect();
    json!({
        "url": state.url(),
        "masterKey": state.master_key.reveal(),
        "adminKey": state.admin_key.reveal(),
        "pods": pods,
        "nodes": nodes,
    })
}
