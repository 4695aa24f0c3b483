//! `miroir ctl`: asks a running cluster, over the admin API of any of its pods.
//!
//! Tables for people ([`views`]), the pod's own JSON for programs. Exit code 0: done; 1: the pod
//! can't be reached, failed, or answered only in part; 2: what was asked is refused.

mod client;
mod dump;
mod export_dump;
mod import;
mod import_dump;
mod leave;
mod reshard;
mod table;
mod topology;
mod views;

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use http::Method;
use miroir_gateway::admin::{ActorsAnswer, PeersAnswer, RestartAnswer, RoleView};
use miroir_gateway::comparisons::ComparisonsAnswer;
use miroir_gateway::jobs::{JobView, JobsAnswer};
use miroir_seams::HttpTransport;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::config::Secret;
use crate::exit::{self, Refused};
use client::AdminClient;

/// The other name that the variable of the admin key has.
const KEY_VARIABLE_LONG: &str = "MIROIR_ADMIN_API_KEY";

/// Arguments of `miroir ctl`.
#[derive(Debug, Args)]
pub struct CtlArgs {
    /// A pod of the cluster, any of them.
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "MIROIR_URL",
        default_value = "http://127.0.0.1:7700"
    )]
    url: String,
    /// The admin key. Prefer the variable: flags can be read by every process.
    #[arg(
        long,
        global = true,
        value_name = "KEY",
        env = "MIROIR_ADMIN_KEY",
        hide_env_values = true
    )]
    admin_key: Option<String>,
    /// The master key, for dumps. Prefer the variable.
    #[arg(
        long,
        global = true,
        value_name = "KEY",
        env = "MIROIR_MASTER_KEY",
        hide_env_values = true
    )]
    master_key: Option<String>,
    /// Print the pod's answer as JSON instead of a table.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: CtlCommand,
}

#[derive(Debug, Subcommand)]
enum CtlCommand {
    /// The pods of the cluster: addresses, state, part in the coordinator log.
    Peers,
    /// The roles and the pods that hold them.
    Roles,
    /// The actors of every pod: what each does, how busy it is, why it failed last.
    Actors {
        /// Only those of this pod.
        #[arg(long, value_name = "ID")]
        pod: Option<String>,
    },
    /// Take a pod out of the cluster for good; waits until nothing is lost when it is stopped.
    Leave {
        /// As `peers` prints it.
        #[arg(value_name = "POD")]
        pod: String,
        /// Give up waiting after so many seconds; the pod goes on leaving.
        #[arg(long, value_name = "SECONDS", default_value_t = 600)]
        timeout: u64,
    },
    #[command(flatten)]
    Topology(topology::TopologyCtl),
    /// Divide an index into another number of shards, while everything runs.
    Reshard(reshard::ReshardArgs),
    /// What comparing replicas has found: documents that differ, and which replica has them wrong.
    AntiEntropy {
        /// Compare all replicas now; it goes on in the background.
        #[arg(long)]
        now: bool,
    },
    /// The jobs: how far each is, why it failed.
    Jobs,
    /// Import an NDJSON file; an upload that was broken off goes on.
    Import(import::ImportArgs),
    /// Import a dump of Meilisearch: indexes, settings, documents and API keys. Needs the master key, too.
    ImportDump(import_dump::ImportDumpArgs),
    /// Write the whole cluster into a dump, which Meilisearch and import-dump read. Needs the master key.
    ExportDump(export_dump::ExportDumpArgs),
    /// End a job. What is in tasks already is carried out.
    CancelJob {
        /// As `jobs` prints it.
        #[arg(value_name = "ID")]
        id: u64,
    },
    /// Start one actor again.
    RestartActor {
        /// As `actors` prints it.
        #[arg(value_name = "ID")]
        id: String,
    },
}

/// Runs `miroir ctl`.
///
/// # Errors
/// A pod that can't be reached, refuses or fails, and pods that it could not ask.
pub fn run(args: CtlArgs) -> anyhow::Result<()> {
    let key = args.admin_key.or_else(|| std::env::var(KEY_VARIABLE_LONG).ok());
    let key = key.filter(|key| !key.is_empty());
    let key = match (key, &args.command) {
        (Some(key), _) => key,
        // It is all about what clients see.
        (None, CtlCommand::ExportDump(_)) => String::new(),
        (None, _) => {
            let needed = "the admin key is needed: set MIROIR_ADMIN_KEY, or give --admin-key";
            return Err(Refused(needed.to_owned()).into());
        }
    };
    let master_key = args.master_key.filter(|key| !key.is_empty());
    let outcome = exit::block_on(async {
        let client = |key| AdminClient::new(HttpTransport::new(), &args.url, Secret::new(key));
        let master = master_key.map(client).transpose()?;
        execute(&client(key)?, master.as_ref(), args.command, args.json).await
    })?;
    let mut out = std::io::stdout().lock();
    out.write_all(outcome.text.as_bytes())
        .and_then(|()| out.flush())
        .context("can't write to stdout")?;
    match outcome.missing {
        None => Ok(()),
        Some(missing) => bail!("{missing}"),
    }
}

/// What is printed, and what the answer lacks.
#[derive(Debug)]
struct Outcome {
    text: String,
    missing: Option<String>,
}

async fn execute(
    client: &AdminClient,
    master: Option<&AdminClient>,
    command: CtlCommand,
    json: bool,
) -> anyhow::Result<Outcome> {
    let master = || {
        let needed = "the master key is needed: set MIROIR_MASTER_KEY, or give --master-key";
        master.ok_or_else(|| Refused(needed.to_owned()))
    };
    let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let (answer, table, missing) = match command {
        CtlCommand::Peers => {
            let (body, peers) = client.ask::<PeersAnswer>(Method::GET, "/_miroir/peers").await?;
            (body, views::peers(&peers), None)
        }
        CtlCommand::Roles => {
            let (body, roles) = client.ask::<Vec<RoleView>>(Method::GET, "/_miroir/roles").await?;
            (body, views::roles(&roles), None)
        }
        CtlCommand::Actors { pod } => {
            let query = pod.map(|pod| format!("?pod={}", encode(&pod))).unwrap_or_default();
            let path = format!("/_miroir/actors{query}");
            let (body, actors) = client.ask::<ActorsAnswer>(Method::GET, &path).await?;
            (body, views::actors(&actors), views::unreachable(&actors))
        }
        CtlCommand::Leave { pod, timeout } => {
            let path = format!("/_miroir/pods/{}/leave", encode(&pod));
            let patience = Duration::from_secs(timeout);
            let (body, answer) = leave::leave(client, &path, patience).await?;
            (body, format!("{} {}\n", answer.pod, leave::keeps(&answer)), None)
        }
        CtlCommand::Topology(command) => {
            let (body, table) = topology::execute(client, command).await?;
            (body, table, None)
        }
        CtlCommand::Reshard(args) => {
            let (body, table) = reshard::reshard(client, args).await?;
            (body, table, None)
        }
        CtlCommand::AntiEntropy { now } => {
            let method = if now { Method::POST } else { Method::GET };
            let path = "/_miroir/anti-entropy";
            let (body, found) = client.ask::<ComparisonsAnswer>(method, path).await?;
            (body, views::comparisons(&found), views::uncompared(&found))
        }
        CtlCommand::Jobs => {
            let (body, jobs) = client.ask::<JobsAnswer>(Method::GET, "/_miroir/jobs").await?;
            (body, views::jobs(&jobs.jobs), None)
        }
        CtlCommand::Import(args) => {
            let (body, job) = import::import(client, &args).await?;
            (body, views::jobs(&[job]), None)
        }
        CtlCommand::ImportDump(args) => {
            let jobs = import_dump::import_dump(client, master()?, &args).await?;
            (serde_json::to_string(&jobs)?, views::jobs(&jobs), None)
        }
        CtlCommand::ExportDump(args) => {
            let exported = export_dump::export_dump(master()?, &args).await?;
            let table = format!(
                "{}: {} documents of {} indexes, {} keys\n",
                exported.file.display(),
                exported.documents,
                exported.indexes,
                exported.keys
            );
            (serde_json::to_string(&exported)?, table, None)
        }
        CtlCommand::CancelJob { id } => {
            let path = format!("/_miroir/jobs/{id}");
            let (body, job) = client.ask::<JobView>(Method::DELETE, &path).await?;
            (body, views::jobs(&[job]), None)
        }
        CtlCommand::RestartActor { id } => {
            let path = format!("/_miroir/actors/{}/restart", encode(&id));
            let (body, restart) = client.ask::<RestartAnswer>(Method::POST, &path).await?;
            (body, format!("{} starts again on {}\n", restart.id, restart.pod), None)
        }
    };
    let text = if json { format!("{}\n", answer.trim_end()) } else { table };
    Ok(Outcome { text, missing })
}

#[cfg(test)]
mod tests;
