//! Measures search and ingest through two URLs side by side: a node asked directly, and the
//! same or more nodes behind Miroir. Rounds are interleaved, so that whatever else the machine
//! does falls on both; the table shows medians over the rounds. `pods` compares with bars instead.
//!
//! Only a release build's numbers mean anything: `cargo run --release -p miroir-tests --bin bench`.

mod differences;
mod ingest;
mod load;
mod moves;
mod pods;
mod search;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use miroir_tests::client::{Api, ApiFault};
use miroir_tests::oracle::Object;
use miroir_tests::oracle::documents::{DocumentsFault, read_documents};
use miroir_tests::processes::ProcessFault;

/// Side-by-side measurements of a node and of Miroir.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Latency, rate and CPU of a query file. Both servers are loaded first.
    Search(SearchArguments),
    /// Documents a second, from the first request to the last task's end.
    Ingest(IngestArguments),
    /// Three pods of its own: small writes, idle CPU, how soon roles move. Against bars.
    Pods(PodsArguments),
    /// A cluster of its own: another number of shards, another node; what searches feel of both.
    Moves(MovesArguments),
    /// A cluster of its own: one document that differs on one of two replicas is found and repaired.
    Differences(DifferencesArguments),
}

/// What `differences` measures with.
#[derive(Debug, Args)]
pub struct DifferencesArguments {
    /// Small documents.
    #[arg(long, default_value_t = 1_000_000)]
    documents: usize,
}

/// What `moves` measures with.
#[derive(Debug, Args)]
pub struct MovesArguments {
    /// Small documents.
    #[arg(long, default_value_t = 1_000_000)]
    documents: usize,
    /// How long searches are measured while nothing else goes on, seconds.
    #[arg(long, default_value_t = 20)]
    quiet_seconds: u64,
    /// The pace of marking and moving, documents a second; 0: as fast as it goes.
    #[arg(long, default_value_t = 0)]
    rate: u32,
}

/// What `pods` measures how often.
#[derive(Debug, Args)]
pub struct PodsArguments {
    /// Single writes, one after the other.
    #[arg(long, default_value_t = 500)]
    writes: usize,
    /// Writers at once.
    #[arg(long, default_value_t = 64)]
    writers: usize,
    /// How long they write, seconds.
    #[arg(long, default_value_t = 10)]
    rate_seconds: u64,
    /// How long idle pods are watched, seconds.
    #[arg(long, default_value_t = 30)]
    idle_seconds: u64,
    /// Pods killed (`kill -9`), in turn.
    #[arg(long, default_value_t = 20)]
    kills: usize,
    /// Pods asked to stop (SIGTERM), in turn.
    #[arg(long, default_value_t = 9)]
    stops: usize,
}

#[derive(Clone, Debug, Args)]
struct Servers {
    /// Base URL of the node asked directly.
    #[arg(long)]
    direct: String,
    /// Its key.
    #[arg(long)]
    direct_key: Option<String>,
    /// Base URL of Miroir.
    #[arg(long)]
    through: String,
    /// Its key.
    #[arg(long)]
    through_key: Option<String>,
    /// Documents, one JSON object a line; `.gz` is unpacked.
    #[arg(long)]
    data: PathBuf,
}

#[derive(Debug, Args)]
struct SearchArguments {
    #[command(flatten)]
    servers: Servers,
    /// Documents taken from the file.
    #[arg(long, default_value_t = 50_000)]
    documents: usize,
    /// One JSON search body or one plain `q` a line.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/bench/queries.txt"))]
    queries: PathBuf,
    /// Numbers of keep-alive clients.
    #[arg(long, value_delimiter = ',', default_value = "1,8")]
    clients: Vec<usize>,
    /// Interleaved rounds.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How often each round asks the whole file: CPU is counted in steps of 10 ms.
    #[arg(long, default_value_t = 4)]
    passes: usize,
    /// Processes to account CPU for, as `name=pid`.
    #[arg(long = "cpu", value_parser = named_pid)]
    pids: Vec<(String, u32)>,
    /// Nodes behind Miroir to ask alone in each round, as `name=url,key`: the floor of a scatter.
    #[arg(long = "alone", value_parser = named_server)]
    alone: Vec<(String, String, String)>,
    /// Take the index `bench` as it is.
    #[arg(long)]
    no_load: bool,
}

#[derive(Debug, Args)]
struct IngestArguments {
    #[command(flatten)]
    servers: Servers,
    /// Documents taken from the file.
    #[arg(long, default_value_t = 100_000)]
    documents: usize,
    /// Documents in one request.
    #[arg(long, default_value_t = 5_000)]
    batch: usize,
    /// Interleaved rounds; each loads an empty index.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

/// Why there are no numbers.
#[derive(Debug, thiserror::Error)]
pub enum BenchFault {
    /// A server did not answer, or refused.
    #[error(transparent)]
    Api(#[from] ApiFault),
    /// The documents can't be read.
    #[error(transparent)]
    Documents(#[from] DocumentsFault),
    /// The query file can't be read.
    #[error("{path}: {source}")]
    Queries {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// There is no place for the data.
    #[error("can't make a directory: {0}")]
    Directory(std::io::Error),
    /// A process that was started does not do what it should.
    #[error(transparent)]
    Process(#[from] ProcessFault),
    /// A measuring task panicked.
    #[error("a client ended early: {0}")]
    Client(#[from] tokio::task::JoinError),
}

fn named_pid(text: &str) -> Result<(String, u32), String> {
    let (name, pid) = text.split_once('=').ok_or("want name=pid")?;
    Ok((name.to_owned(), pid.parse().map_err(|error| format!("{pid}: {error}"))?))
}

fn named_server(text: &str) -> Result<(String, String, String), String> {
    let (name, rest) = text.split_once('=').ok_or("want name=url,key")?;
    let (url, key) = rest.split_once(',').ok_or("want name=url,key")?;
    Ok((name.to_owned(), url.to_owned(), key.to_owned()))
}

/// One server with its name in the table.
#[derive(Clone, Debug)]
pub struct Target {
    /// The row's name.
    pub name: String,
    /// The server.
    pub api: Api,
    /// Its name for the index: a node behind Miroir has its own.
    pub index: String,
}

impl Target {
    fn new(name: &str, url: &str, key: Option<&str>) -> Self {
        Self { name: name.to_owned(), api: Api::new(url, key), index: load::INDEX.to_owned() }
    }

    /// A node behind Miroir, asked on its own: its index is the newest whose name ends like the
    /// measured one's.
    async fn alone(name: &str, url: &str, key: &str) -> Result<Self, BenchFault> {
        let mut target = Self::new(name, url, Some(key));
        let list = target.api.get("/indexes?limit=1000").await?;
        let uids = list["results"].as_array().into_iter().flatten();
        let found = uids
            .filter_map(|index| index["uid"].as_str())
            .filter(|uid| uid.ends_with(&format!("-{}", load::INDEX)))
            .max_by_key(|uid| uid.split('-').next().and_then(|seq| seq.parse::<u64>().ok()));
        target.index = found.unwrap_or(load::INDEX).to_owned();
        Ok(target)
    }
}

fn targets(servers: &Servers) -> Vec<Target> {
    vec![
        Target::new("direct", &servers.direct, servers.direct_key.as_deref()),
        Target::new("miroir", &servers.through, servers.through_key.as_deref()),
    ]
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let outcome = match Arguments::parse().what {
        What::Search(arguments) => measure_search(&arguments).await,
        What::Ingest(arguments) => measure_ingest(&arguments).await,
        What::Moves(arguments) => {
            moves::measure(&arguments).await.map(|measured| moves::table(&measured))
        }
        What::Differences(arguments) => {
            differences::measure(&arguments).await.map(|found| differences::table(&found))
        }
        What::Pods(arguments) => {
            pods::measure(&arguments).await.map(|measured| table::pods_table(&measured))
        }
    };
    match outcome {
        Ok(table) => {
            println!("{table}");
            ExitCode::SUCCESS
        }
        Err(fault) => {
            eprintln!("bench: {fault}");
            ExitCode::FAILURE
        }
    }
}

async fn measure_search(arguments: &SearchArguments) -> Result<String, BenchFault> {
    let mut targets = targets(&arguments.servers);
    if !arguments.no_load {
        let documents = read(&arguments.servers, arguments.documents)?;
        for target in &targets {
            load::load(&target.api, &documents, 5_000).await?;
        }
    }
    for (name, url, key) in &arguments.alone {
        targets.push(Target::alone(name, url, key).await?);
    }
    let queries = load::read_queries(&arguments.queries)?;
    let queries = vec![queries; arguments.passes.max(1)].concat();
    let mut tables = Vec::new();
    for clients in &arguments.clients {
        let rounds =
            search::rounds(&targets, &queries, *clients, arguments.rounds, &arguments.pids).await?;
        tables.push(table::search_table(*clients, &rounds, queries.len()));
    }
    Ok(tables.join("\n"))
}

async fn measure_ingest(arguments: &IngestArguments) -> Result<String, BenchFault> {
    let documents = read(&arguments.servers, arguments.documents)?;
    let targets = targets(&arguments.servers);
    let rounds = ingest::rounds(&targets, &documents, arguments.batch, arguments.rounds).await?;
    Ok(table::ingest_table(&rounds, documents.len()))
}

/// `count` documents spread evenly over the file, which may be sorted by kind.
fn read(servers: &Servers, count: usize) -> Result<Vec<Object>, BenchFault> {
    let all = read_documents(&servers.data, usize::MAX)?;
    let total = all.len().max(1);
    let count = count.min(total);
    let chosen = |n: &usize| n * count / total != (n + 1) * count / total;
    Ok(all.into_iter().enumerate().filter(|(n, _)| chosen(n)).map(|(_, doc)| doc).collect())
}
